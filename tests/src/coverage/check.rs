//! The checks of one case.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};

use burn::module::Module;
use burn::tensor::Tensor;
use core_tensor::{Autocast, AutocastReport, Batch, Program, Tree};

use super::Case;
use crate::draw::Draw;

/// How far numbers may be apart, relative to the largest of the leaf (or to a ten-thousandth of the largest of the
/// whole tree, where a leaf is all rounding).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Recorded and eager value.
    pub value: f64,
    /// Recorded gradient and Burn's.
    pub gradient: f64,
    /// Recorded gradient and central differences of the value, along a random direction.
    pub slope: f64,
    /// `H·v` and central differences of the gradient.
    pub curvature: f64,
    /// `⟨u, H·v⟩` and `⟨v, H·u⟩`, relative to `‖u‖·‖H·v‖`.
    pub symmetry: f64,
    /// Step of the differences.
    pub step: f64,
}

impl Limits {
    /// For a case that computes in `f64` throughout: with step 10⁻³ the fourth-order difference has a truncation
    /// error near 10⁻¹² and a rounding error near 10⁻¹³ of the gradient.
    pub const DOUBLE: Limits =
        Limits { value: 1e-12, gradient: 1e-10, slope: 1e-9, curvature: 1e-7, symmetry: 1e-9, step: 1e-3 };

    /// For a case that divides by a number: Burn's backward pass rounds the divisor to `f32`, so that its gradient is
    /// that of a function nearby. The program's is the same, and its second derivatives are those of that gradient.
    pub const DIVISOR: Limits = Limits { slope: 2e-7, symmetry: 2e-7, ..Self::DOUBLE };

    /// For a case that rounds to `f32` inside: rounding of 6·10⁻⁸ divided by the step 0.02 dominates the differences.
    pub const SINGLE: Limits =
        Limits { value: 1e-6, gradient: 1e-6, slope: 1e-4, curvature: 1e-4, symmetry: 1e-5, step: 2e-2 };
}

/// The errors found, in the measures of [`Limits`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Measured {
    /// Operations of the recorded value and gradient, and of the pass that also gives `H·v`.
    pub operations: (usize, usize),
    /// See [`Limits::value`].
    pub value: f64,
    /// See [`Limits::gradient`]; 0 for a random case.
    pub gradient: f64,
    /// See [`Limits::slope`].
    pub slope: f64,
    /// See [`Limits::curvature`].
    pub curvature: f64,
    /// See [`Limits::symmetry`].
    pub symmetry: f64,
    /// What is wrong, in words; empty if everything is within the limits.
    pub complaints: Vec<String>,
}

/// A case in mixed precision; errors are relative to the Euclidean norm.
#[derive(Clone, Debug, PartialEq)]
pub struct Mixed {
    /// Error of the value, relative to its size and that of the gradient together.
    pub value: f64,
    /// Error of the gradient.
    pub gradient: f64,
    /// Error of `H·v`.
    pub curvature: f64,
    /// Whether every call gives the same value and gradient.
    pub agrees: bool,
    /// Value and gradient.
    pub numbers: Vec<f64>,
    /// What was cast.
    pub report: AutocastReport,
}

/// What running a case gave.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// It was recorded and run in mixed precision.
    Mixed(Mixed),
    /// It was recorded and run.
    Covered(Measured),
    /// The library refused to record it.
    Uncovered {
        /// The error's message.
        error: String,
    },
    /// Burn's own backward pass panicked.
    NoGradientInBurn {
        /// What it said.
        message: String,
    },
    /// A program was recorded, but running it failed.
    Broken {
        /// The error's or panic's message.
        error: String,
    },
}

/// Numbers by leaf.
type Flat = Vec<(String, Vec<f64>)>;

pub(super) fn check<M, B, F>(model: &M, batch: &B, function: F, case: &Case, draw: &mut Draw) -> Outcome
where
    M: Module + Sync + 'static,
    B: Batch + 'static,
    F: Fn(&M, &B) -> Tensor<1> + Clone + Send + Sync + 'static,
{
    let eager = catch_unwind(AssertUnwindSafe(|| {
        let value = function(model, batch);
        (number(value.clone()), flat(&Tree::from_grads(value.backward(), model)))
    }));
    let (eager_value, eager_gradient) = match eager {
        Ok(eager) => eager,
        Err(panic) => return Outcome::NoGradientInBurn { message: words(panic.as_ref()) },
    };
    let program = match Program::record(model, batch, function) {
        Ok(program) => program,
        Err(error) => return Outcome::Uncovered { error: error.to_string() },
    };
    let point = Tree::from_module(model);
    if let Some(by) = &case.mixed {
        return match catch_unwind(AssertUnwindSafe(|| mixed(&point, batch, &program, by, draw))) {
            Ok(Ok(mixed)) => Outcome::Mixed(mixed),
            Ok(Err(error)) => Outcome::Broken { error: error.to_string() },
            Err(panic) => Outcome::Broken { error: format!("panicked: {}", words(panic.as_ref())) },
        };
    }
    let eager = (!case.random).then_some((eager_value, eager_gradient));
    run(point, batch, &program, eager, &case.limits, draw)
}

/// Value, gradient and curvature in mixed precision beside those of the program as it is.
fn mixed<B: Batch>(
    point: &Tree,
    batch: &B,
    program: &Program<B>,
    by: &Autocast,
    draw: &mut Draw,
) -> core_tensor::Result<Mixed> {
    let v = draw.direction(point);
    let full = program.jvp(point, batch, &v)?;
    let low = program.autocast(by);
    let got = low.jvp(point, batch, &v)?;
    let (gradient, curvature) = (flat(&got.gradient), flat(&got.hessian_vector));
    let first = low.value_and_grad(point, batch)?;
    let value = number(got.value);
    let report = low.autocast_report(point, batch)?.expect("an autocast program");
    let relative = |got: &Flat, want: &Flat| {
        let difference = got
            .iter()
            .zip(want)
            .map(|((name, a), (_, b))| (name.clone(), a.iter().zip(b).map(|(a, b)| a - b).collect::<Vec<f64>>()));
        norm(&difference.collect()) / norm(want).max(1e-300)
    };
    let expected = number(full.value);
    Ok(Mixed {
        value: (value - expected).abs() / (expected.abs() + norm(&flat(&full.gradient))),
        gradient: relative(&gradient, &flat(&full.gradient)),
        curvature: relative(&curvature, &flat(&full.hessian_vector)),
        agrees: number(first.value).to_bits() == value.to_bits() && flat(&first.gradient) == gradient,
        numbers: std::iter::once(value).chain(gradient.into_iter().flat_map(|(_, leaf)| leaf)).collect(),
        report,
    })
}

/// The part that does not depend on the module's type, so that it is compiled once a kind of batch.
fn run<B: Batch>(
    point: Tree,
    batch: &B,
    program: &Program<B>,
    eager: Option<(f64, Flat)>,
    limits: &Limits,
    draw: &mut Draw,
) -> Outcome {
    match catch_unwind(AssertUnwindSafe(|| measure(point, batch, program, eager, limits, draw))) {
        Ok(Ok(measured)) => Outcome::Covered(measured),
        Ok(Err(error)) => Outcome::Broken { error: error.to_string() },
        Err(panic) => Outcome::Broken { error: format!("panicked: {}", words(panic.as_ref())) },
    }
}

fn measure<B: Batch>(
    point: Tree,
    batch: &B,
    program: &Program<B>,
    eager: Option<(f64, Flat)>,
    limits: &Limits,
    draw: &mut Draw,
) -> core_tensor::Result<Measured> {
    let (u, v) = (draw.direction(&point), draw.direction(&point));
    let first = program.value_and_grad(&point, batch)?;
    let value = number(first.value);
    let gradient = flat(&first.gradient);
    let mut measured = Measured { operations: program.operations(&point, batch)?, ..Measured::default() };
    let mut complain = |complaint: String| measured.complaints.push(complaint);

    // Present and absent leaves are all the leaves.
    let mut names: BTreeSet<String> = gradient.iter().map(|(name, _)| name.clone()).collect();
    names.extend(first.absent.iter().cloned());
    let all: BTreeSet<String> = point.names().iter().map(|name| name.path.clone()).collect();
    if names != all || gradient.len() + first.absent.len() != point.len() {
        complain(format!("leaves {names:?}, expected {all:?}"));
    }

    // Value and gradient.
    match &eager {
        Some((eager_value, eager_gradient)) => {
            measured.value = (value - eager_value).abs() / eager_value.abs().max(1e-300);
            let burn: Vec<&String> = eager_gradient.iter().map(|(name, _)| name).collect();
            let ours: Vec<&String> = gradient.iter().map(|(name, _)| name).collect();
            if burn != ours {
                complain(format!("gradient of {ours:?}, Burn's of {burn:?}"));
            }
            measured.gradient = gap(&gradient, eager_gradient);
        }
        None => {
            let again = number(program.value(&point, batch)?);
            if again.to_bits() != value.to_bits() {
                complain(format!("value {value:e}, then {again:e} from the same draw"));
            }
        }
    }

    let slope = fourth_order(limits.step, |offset| {
        let value = number(program.value(&point.clone().axpy(offset, &v)?, batch)?);
        Ok(vec![(String::new(), vec![value])])
    })?;
    let v_flat = flat(&v);
    let along = dot(&gradient, &v_flat);
    measured.slope = (along - slope[0].1[0]).abs() / (norm(&gradient) * norm(&v_flat));

    // One pass for everything agrees with the parts.
    let jvp = program.jvp(&point, batch, &v)?;
    if number(jvp.value.clone()).to_bits() != value.to_bits() || gap(&flat(&jvp.gradient), &gradient) > 1e-12 {
        complain("jvp's value or gradient is not that of value_and_grad".to_string());
    }
    if jvp.absent != first.absent {
        complain(format!("jvp lacks {:?}, value_and_grad {:?}", jvp.absent, first.absent));
    }
    let directional = jvp.directional().value();
    if (along - directional).abs() > 1e-12 * norm(&gradient) * norm(&v_flat) {
        complain(format!("directional derivative {directional:e}, gradient times direction {along:e}"));
    }

    // Second derivatives.
    let hv = flat(&jvp.hessian_vector);
    let hu = flat(&program.hvp(&point, batch, &u)?);
    let differences = fourth_order(limits.step, |offset| {
        Ok(flat(&program.value_and_grad(&point.clone().axpy(offset, &v)?, batch)?.gradient))
    })?;
    measured.curvature = gap(&hv, &differences);
    if norm(&differences) < 1e-8 {
        complain("the case has no second derivatives, so that it tests nothing".to_string());
    }
    let u_flat = flat(&u);
    let scale = (norm(&u_flat) * norm(&hv)).max(norm(&v_flat) * norm(&hu)).max(1e-300);
    measured.symmetry = (dot(&hv, &u_flat) - dot(&hu, &v_flat)).abs() / scale;

    for (what, error, limit) in [
        ("value", measured.value, limits.value),
        ("gradient", measured.gradient, limits.gradient),
        ("slope", measured.slope, limits.slope),
        ("H·v", measured.curvature, limits.curvature),
        ("symmetry", measured.symmetry, limits.symmetry),
    ] {
        // Also refuses NaN.
        if !(error <= limit) {
            measured.complaints.push(format!("{what} is off by {error:.1e}, allowed {limit:.0e}"));
        }
    }
    Ok(measured)
}

/// `(f(−2h) − 8f(−h) + 8f(h) − f(2h)) / 12h`, whose error is `h⁴·f⁗/30` (Fornberg, 1988).
fn fourth_order(step: f64, mut f: impl FnMut(f64) -> core_tensor::Result<Flat>) -> core_tensor::Result<Flat> {
    let mut sum: Option<Flat> = None;
    for (place, weight) in [(-2.0, 1.0), (-1.0, -8.0), (1.0, 8.0), (2.0, -1.0)] {
        let mut term = f(place * step)?;
        term.iter_mut().flat_map(|(_, leaf)| leaf).for_each(|x| *x *= weight / (12.0 * step));
        match &mut sum {
            None => sum = Some(term),
            Some(sum) => sum.iter_mut().zip(term).for_each(|((_, a), (_, b))| {
                a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
            }),
        }
    }
    Ok(sum.unwrap_or_default())
}

/// The largest difference of a leaf, relative to its largest number or a ten-thousandth of the tree's; infinite for NaN.
fn gap(got: &Flat, want: &Flat) -> f64 {
    let largest =
        |leaf: &[f64]| leaf.iter().fold(0.0f64, |m, x| if x.is_nan() { f64::INFINITY } else { m.max(x.abs()) });
    let tree = want.iter().map(|(_, leaf)| largest(leaf)).fold(0.0, f64::max);
    let mut worst = 0.0f64;
    for (name, want) in want {
        let Some((_, got)) = got.iter().find(|(other, _)| other == name) else { return f64::INFINITY };
        if got.len() != want.len() || !tree.is_finite() {
            return f64::INFINITY;
        }
        let difference: Vec<f64> = got.iter().zip(want).map(|(a, b)| a - b).collect();
        worst = worst.max(largest(&difference) / largest(want).max(1e-4 * tree).max(1e-300));
    }
    worst
}

/// `Σ a·b` over the leaves of `a`.
fn dot(a: &Flat, b: &Flat) -> f64 {
    a.iter()
        .map(|(name, a)| match b.iter().find(|(other, _)| other == name) {
            Some((_, b)) => a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>(),
            None => 0.0,
        })
        .sum()
}

fn norm(a: &Flat) -> f64 {
    dot(a, a).sqrt()
}

fn flat(tree: &Tree) -> Flat {
    tree.to_data().into_iter().map(|(path, data)| (path, data.iter::<f64>().collect())).collect()
}

fn number(scalar: Tensor<1>) -> f64 {
    scalar.into_data().iter::<f64>().next().unwrap_or(f64::NAN)
}

fn words(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
    text.unwrap_or("no message").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(name: &str, numbers: &[f64]) -> (String, Vec<f64>) {
        (name.to_string(), numbers.to_vec())
    }

    #[test]
    fn gaps_are_relative_to_their_leaf() {
        let want = vec![leaf("a", &[2.0, -4.0]), leaf("b", &[1e-3])];
        assert_eq!(gap(&want, &want), 0.0);
        assert_eq!(gap(&vec![leaf("a", &[2.0, -3.0]), leaf("b", &[1e-3])], &want), 0.25);
        assert!((gap(&vec![leaf("a", &[2.0, -4.0]), leaf("b", &[2e-3])], &want) - 1.0).abs() < 1e-12);
        // A leaf of rounding errors is measured against the tree.
        let tiny = vec![leaf("a", &[4.0]), leaf("b", &[1e-17])];
        assert!(gap(&vec![leaf("a", &[4.0]), leaf("b", &[3e-17])], &tiny) < 1e-12);
        assert_eq!(gap(&vec![leaf("a", &[f64::NAN, -4.0]), leaf("b", &[1e-3])], &want), f64::INFINITY);
        assert_eq!(gap(&want, &vec![leaf("a", &[2.0, f64::NAN]), leaf("b", &[1e-3])]), f64::INFINITY);
        assert_eq!(gap(&vec![leaf("a", &[2.0, -4.0])], &want), f64::INFINITY);
    }

    #[test]
    fn differences_are_exact_for_cubics() {
        let cubic = |x: f64| Ok(vec![leaf("", &[2.0 + x - 3.0 * x * x + 0.5 * x * x * x])]);
        let slope = fourth_order(0.1, cubic).unwrap();
        assert!((slope[0].1[0] - 1.0).abs() < 1e-12);
    }
}
