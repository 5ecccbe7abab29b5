//! A hypergradient against central differences of what it should be the derivative of.

use core_tensor::{Batch, Random, Tree};

use crate::error::{Result, at_least_one, positive};
use crate::method::{Hypergradient, Method};
use crate::problem::{Batches, Problem};

/// How far a hypergradient is from central differences.
#[derive(Clone, Debug)]
pub struct Diagnosis {
    /// The hypergradient that was checked.
    pub hypergradient: Hypergradient,
    /// For each random direction `⟨dΦ/dx, u⟩` and `(Φ(x + εu) − Φ(x − εu))/2ε`.
    pub slopes: Vec<(f64, f64)>,
    /// The largest difference of such a pair, relative to the largest slope.
    pub error: f64,
}

/// Compares a method's hypergradient with central differences of `Φ(x) = f(x, z(x))` along random directions of unit length.
///
/// `z(x)` is the method's own ([`Method::inner_point`]): the solution of the inner problem, found to high accuracy, or the end of the
/// unrolled steps. With `step` near 1e-5 in f64 (1e-2 in f32) the differences are good to about 1e-9 (1e-3).
///
/// Cost: two inner solves a direction.
///
/// # Errors
/// A parameter error for 0 directions or a step that is not above zero and finite; the method's.
pub fn diagnose<I: Batch, O: Batch>(
    method: &dyn Method<I, O>,
    problem: &Problem<I, O>,
    (x, z): (&Tree, &Tree),
    batches: &Batches<I, O>,
    (directions, step, seed): (usize, f64, u64),
) -> Result<Diagnosis> {
    let (directions, step) = (at_least_one("directions", directions)?, positive("step", step)?);
    let hypergradient = method.hypergradient(problem, x, z, batches)?;
    let mut random = Random::new(seed);
    let mut slopes = Vec::new();
    for _ in 0..directions {
        let u = random.normal_like(x, 1.0);
        let u = u.clone().scale(1.0 / u.norm().value());
        let phi = |step: f64| {
            let x = x.clone().axpy(step, &u)?;
            let z = method.inner_point(problem, &x, z, batches)?;
            problem.outer_value(&x, &z, &batches.outer)
        };
        slopes.push((hypergradient.gradient.dot(&u)?.value(), (phi(step)? - phi(-step)?) / (2.0 * step)));
    }
    let largest = slopes.iter().fold(0.0f64, |max, (a, b)| max.max(a.abs()).max(b.abs()));
    let error = slopes.iter().fold(0.0f64, |max, (a, b)| max.max((a - b).abs()));
    let error = if largest == 0.0 { 0.0 } else { error / largest };
    Ok(Diagnosis { hypergradient, slopes, error })
}
