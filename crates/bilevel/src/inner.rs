//! Solving the inner problem to high accuracy.

use core_tensor::{Batch, Tree};

use crate::error::{Error, Result, at_least_one, positive};
use crate::problem::Problem;
use crate::solver::{ConjugateGradient, LinearSolver, NegativeCurvature, Operator};

/// Newton's method with conjugate gradients and backtracking, for inner problems that have to be solved to the last digits: to check
/// hypergradients, and for small problems.
///
/// `z ← z − t·(H + δ)⁻¹∇z g` with `t` halved until `g` falls by a ten-thousandth of what the slope promises. Damping comes in only where
/// `H` is not positive definite. Stops at `‖∇z g‖ ≤ tolerance`, or where rounding ends progress within a thousand times that.
///
/// | parameter | default | range | effect |
/// |---|---|---|---|
/// | `iterations` | 50 | ≥ 1 | Newton steps at most |
/// | `tolerance` | 1e-10 | > 0 | `‖∇z g‖` |
///
/// J. Nocedal, S. J. Wright, "Numerical optimization", 2006, algorithm 7.1.
#[derive(Clone, Debug)]
pub struct NewtonCg {
    iterations: usize,
    tolerance: f64,
}

impl Default for NewtonCg {
    fn default() -> Self {
        Self { iterations: 50, tolerance: 1e-10 }
    }
}

impl NewtonCg {
    /// Steps at most, and the gradient norm to reach.
    ///
    /// # Errors
    /// A parameter error for 0 steps or a tolerance that is not above zero and finite.
    pub fn new(iterations: usize, tolerance: f64) -> Result<Self> {
        Ok(Self { iterations: at_least_one("iterations", iterations)?, tolerance: positive("tolerance", tolerance)? })
    }

    /// The inner solution found from `z`.
    ///
    /// # Errors
    /// [`Error::InnerNotConverged`].
    pub fn solve<I: Batch, O: Batch>(
        &self,
        problem: &Problem<I, O>,
        x: &Tree,
        z: &Tree,
        batches: &[I],
    ) -> Result<Tree> {
        let solver =
            ConjugateGradient::new(z.num_elements().max(1) * 2)?.on_negative_curvature(NegativeCurvature::Damp);
        let mut z = z.clone();
        let mut residual = f64::INFINITY;
        for _ in 0..self.iterations {
            let linear = problem.linearize(x, &z, batches)?;
            let gradient = &linear.gradient.z;
            residual = gradient.norm().value();
            if residual <= self.tolerance {
                return Ok(z);
            }
            let mut product = |v: &Tree| Ok(linear.along_z(v)?.hessian);
            let step = solver.solve(&mut Operator::new(&mut product, 0.0), gradient)?;
            let (value, slope) = (linear.gradient.value.value(), gradient.dot(&step)?.value());
            let mut length = 1.0;
            let next = loop {
                let next = z.clone().axpy(-length, &step)?;
                if problem.inner_value(x, &next, batches)? <= value - 1e-4 * length * slope {
                    break Some(next);
                }
                length *= 0.5;
                if length < 1e-12 {
                    break None;
                }
            };
            match next {
                Some(next) => z = next,
                // The value can no longer tell; the gradient may.
                None => {
                    let next = z.clone().axpy(-1.0, &step)?;
                    if problem.inner_gradient(x, &next, batches)?.z.norm().value() < residual {
                        z = next;
                        continue;
                    }
                    break;
                }
            }
        }
        match residual <= 1e3 * self.tolerance {
            true => Ok(z),
            false => Err(Error::InnerNotConverged { residual, tolerance: self.tolerance }),
        }
    }
}
