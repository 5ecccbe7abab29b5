//! Fast minimum-norm attacks.

use super::check::{at_least_one, positive, share};
use super::geometry::length;
use super::minimum::{Nearest, check_minimum, cosine, narrow, project_to, wide, widest};
use super::{Attack, Setting, Walk};
use crate::engine::{Case, Oracle};
use crate::error::{Error, Result};
use crate::loss::Objective;
use crate::threat::Norm;

/// FMN: projected ascent of a loss in a ball whose radius homes in on the boundary. The first choice for small
/// perturbations in any norm.
///
/// `δ^{k+1} = P_{ε_{k+1}}(δ^k + α_k ∇L/‖∇L‖₂)`, where `P` is the projection onto ball and box, and with `m` the margin of the goal
/// less its confidence the radius
///
/// | at step `k` | next radius for `Linf`, `L2`, `L1` | for `L0` |
/// |---|---|---|
/// | a success | `min((1 − γ_k)·ε, ‖δ*‖)` | `min(ε − 1, ⌊(1 − γ_k)·ε⌋, ‖δ*‖)` |
/// | none here, one before | `(1 + γ_k)·ε` | `max(ε + 1, ⌊(1 + γ_k)·ε⌋)` |
/// | none so far | `(1 + γ_k)(‖δ^k‖ + |m|/‖∇L‖_q)` | `max(ε + 1, ⌊(1 + γ_k)·ε⌋)` |
///
/// with `δ*` the smallest success so far and `q` the dual exponent; `α` and `γ` fall along half a cosine.
///
/// | parameter | default | range | effect |
/// |---|---|---|---|
/// | [`steps`](Self::steps) | 100 | ≥ 1 | gradients |
/// | [`step_size`](Self::step_size) | side of the box, for `Linf` ten times that | > 0 | `α_0`; it ends at a hundredth |
/// | [`gamma`](Self::gamma) | 0.05, 0.001 | 0 to 1 | first and last `γ` |
/// | [`objective`](Self::objective) | cross-entropy | [`Objective`] | `L`; the paper's is the margin, which keeps to the class it first meets: on digits its median distance is 4 % larger |
/// | [`bisections`](Self::bisections) | 12 | ≥ 0 | queries at the end on the segment from `x₀` to the nearest success; none for `L0`; 0 is the paper's |
///
/// Guarantees: on a linear model, where the box is not reached, the distance is the smallest there is to a thousandth
/// (`on_linear_models_the_distance_is_the_smallest`).
///
/// Cost: `steps` gradients and `bisections + 1` more queries; a sort of the elements a step for `L1` and `L0`.
///
/// Errors: [`Error::Unsupported`] for [`Search::Worst`](crate::Search::Worst), [`Error::Parameter`].
///
/// M. Pintor, F. Roli, W. Brendel, B. Biggio, "Fast minimum-norm adversarial attacks through adaptive norm constraints",
/// NeurIPS 2021, arXiv:2102.12827, algorithm 1. Differences: the projection is onto ball and box together, where the paper
/// clips to the box after projecting onto the ball; runs begin at `x₀` only; the
/// first radii are a little beyond the boundary of the linearised model, where the paper's are on it and may stay there.
///
/// ```
/// use adversarial::{Attack, Fmn, Goals, Norm, Recorded, Threat};
/// use burn::nn::LinearConfig;
/// use burn::tensor::{Device, Tensor};
///
/// let device = Device::flex();
/// let model = LinearConfig::new(4, 3).init(&device);
/// let classifier = Recorded::new(&model, [4], |model, x: Tensor<2>| model.forward(x))?;
/// let x = Tensor::<2>::full([2, 4], 0.5, &device);
/// let attacked = Fmn::new().nearest(&classifier, Threat::new(Norm::L1, 1.0)?, x, &Goals::untargeted(&[0, 1]))?;
/// assert!(attacked.gradients() <= 200);
/// # Ok::<(), adversarial::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fmn {
    steps: usize,
    step_size: Option<f64>,
    gamma: (f64, f64),
    bisections: usize,
    objective: Objective,
}

impl Default for Fmn {
    fn default() -> Self {
        Self::new()
    }
}

impl Fmn {
    /// FMN-100.
    pub fn new() -> Self {
        Self { steps: 100, step_size: None, gamma: (0.05, 0.001), bisections: 12, objective: Objective::CrossEntropy }
    }

    /// Sets the number of gradients.
    pub fn steps(self, steps: usize) -> Self {
        Self { steps, ..self }
    }

    /// Sets the first step's length.
    pub fn step_size(self, step_size: f64) -> Self {
        Self { step_size: Some(step_size), ..self }
    }

    /// Sets by which share the radius changes, at the first and at the last step.
    pub fn gamma(self, first: f64, last: f64) -> Self {
        Self { gamma: (first, last), ..self }
    }

    /// Sets the number of queries of the bisection at the end.
    pub fn bisections(self, bisections: usize) -> Self {
        Self { bisections, ..self }
    }
}

impl Fmn {
    /// Sets the loss that is climbed.
    pub fn objective(self, objective: Objective) -> Self {
        Self { objective, ..self }
    }
}

impl Attack for Fmn {
    fn name(&self) -> String {
        format!("FMN-{}", self.steps)
    }

    fn check(&self, setting: &Setting) -> Result<()> {
        at_least_one("steps", self.steps)?;
        positive("step_size", self.step_size.unwrap_or(1.0))?;
        self.objective.check(setting.classes, setting.targeted)?;
        share("gamma", self.gamma.0)?;
        if !(self.gamma.1 > 0.0 && self.gamma.1 <= self.gamma.0) {
            let bound = "a number above 0, at most the first";
            return Err(Error::Parameter { parameter: "last gamma", value: self.gamma.1, bound });
        }
        let norms = [Norm::Linf, Norm::L2, Norm::L1, Norm::L0];
        check_minimum(self.name(), setting, &norms, "the first or the nearest success")
    }

    fn walk(&self, case: Case, oracle: Oracle) -> Walk<'_> {
        Box::pin(async move {
            let loss = self.objective.loss(&case.goal(), case.run().target);
            let confidence = f64::from(case.goal().margin_needed());
            let norm = case.threat().norm();
            let side = case.threat().high() - case.threat().low();
            let first = self.step_size.unwrap_or(if norm == Norm::Linf { 10.0 * side } else { side });
            let largest = widest(&case);
            let mut radius = if norm == Norm::L0 { 1.0 } else { f64::INFINITY };
            let mut x = case.x0().to_vec();
            let mut nearest = Nearest::default();
            for step in 0..self.steps {
                let gamma = cosine(self.gamma.0, self.gamma.1, step, self.steps);
                let answer = oracle.gradient(&x, loss.clone()).await;
                let found = nearest.distance().is_finite();
                let margin = f64::from(case.goal().margin(&answer.logits)) - confidence;
                if answer.reached {
                    nearest.offer(&case, &x);
                }
                radius = match (norm.dual(), answer.reached) {
                    (None, true) => {
                        (radius - 1.0).min((radius * (1.0 - gamma)).floor()).min(nearest.distance()).max(0.0)
                    }
                    (None, false) => (radius + 1.0).max((radius * (1.0 + gamma)).floor()),
                    (Some(_), true) => (radius * (1.0 - gamma)).min(nearest.distance()),
                    (Some(_), false) if found => radius * (1.0 + gamma),
                    (Some(dual), false) => {
                        let slope = dual.of(wide(&answer.gradient));
                        (case.distance(&x) + margin.abs() / slope.max(1e-12)) * (1.0 + gamma)
                    }
                };
                radius = radius.min(largest);
                let rate = cosine(first, first / 100.0, step, self.steps) / length(&answer.gradient);
                let mut moved = wide(&x);
                if rate.is_finite() {
                    moved.iter_mut().zip(&answer.gradient).for_each(|(x, g)| *x += rate * f64::from(*g));
                }
                project_to(&case, &mut moved, radius);
                x = narrow(&moved);
            }
            if oracle.logits(&x).await.reached {
                nearest.offer(&case, &x);
            }
            if norm != Norm::L0 {
                nearest.bisect(&case, &oracle, self.bisections).await;
            }
        })
    }
}
