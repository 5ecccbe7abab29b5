//! Decoupled direction and norm.

use burn::tensor::Distribution;

use super::check::{at_least_one, positive, share};
use super::geometry::{draw, length};
use super::minimum::{Nearest, check_minimum, cosine, narrow, wide, widest};
use super::{Attack, Setting, Walk};
use crate::engine::{Case, Oracle};
use crate::error::Result;
use crate::loss::Objective;
use crate::threat::Norm;

/// DDN: follows the loss on a sphere whose radius shrinks after a success and grows after a failure. Small `L2` perturbations
/// for a fixed number of gradients, without a constant to look for.
///
/// `δ^{k+1} = ρ_{k+1} · u/‖u‖₂` in the box, with `u = δ^k + α_k g/‖g‖₂`, `g = ∇L(x₀ + δ^k)`, and `ρ_{k+1} = (1 − γ)ρ_k` if
/// `x₀ + δ^k` is a success, else `(1 + γ)ρ_k`. `L` is the cross-entropy. The step `α_k` falls along half a cosine to a hundredth.
///
/// | parameter | default | range | effect |
/// |---|---|---|---|
/// | [`steps`](Self::steps) | 100 | ≥ 1 | gradients; from some 100 to 1000 |
/// | [`gamma`](Self::gamma) | 0.05 | 0 to 1 | `γ` |
/// | [`step_size`](Self::step_size) | side of the box | > 0 | `α_0` |
/// | [`radius`](Self::radius) | side of the box | > 0 | `ρ_0` |
/// | [`bisections`](Self::bisections) | 12 | ≥ 0 | queries at the end on the segment from `x₀` to the nearest success, which take back what `γ` left; 0 is the paper's |
///
/// Guarantees: on a linear model, where the box is not reached, the distance is the smallest there is to a thousandth
/// (`on_linear_models_the_distance_is_the_smallest`).
///
/// Cost: `steps` gradients and `bisections` more queries.
///
/// Errors: [`Error::Unsupported`](crate::Error::Unsupported) for norms other than `L2` and for
/// [`Search::Worst`](crate::Search::Worst), [`Error::Parameter`](crate::Error::Parameter).
///
/// J. Rony, L. Hafemann, L. Oliveira, I. Ben Ayed, R. Sabourin, E. Granger, "Decoupling direction and norm for efficient
/// gradient-based L2 adversarial attacks and defenses", CVPR 2019, arXiv:1811.09600, algorithm 1. Not here: the rounding of
/// points to 256 levels. A zero gradient is replaced by a random direction, as in the authors' code.
///
/// ```
/// use adversarial::{Attack, Ddn, Goals, Norm, Recorded, Threat};
/// use burn::nn::LinearConfig;
/// use burn::tensor::{Device, Tensor};
///
/// let device = Device::flex();
/// let model = LinearConfig::new(4, 3).init(&device);
/// let classifier = Recorded::new(&model, [4], |model, x: Tensor<2>| model.forward(x))?;
/// let x = Tensor::<2>::full([2, 4], 0.5, &device);
/// let attacked = Ddn::new().nearest(&classifier, Threat::new(Norm::L2, 1.0)?, x, &Goals::untargeted(&[0, 1]))?;
/// assert!(attacked.gradients() <= 200);
/// # Ok::<(), adversarial::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ddn {
    steps: usize,
    gamma: f64,
    step_size: Option<f64>,
    radius: Option<f64>,
    bisections: usize,
}

impl Default for Ddn {
    fn default() -> Self {
        Self::new()
    }
}

impl Ddn {
    /// DDN-100.
    pub fn new() -> Self {
        Self { steps: 100, gamma: 0.05, step_size: None, radius: None, bisections: 12 }
    }

    /// Sets the number of gradients.
    pub fn steps(self, steps: usize) -> Self {
        Self { steps, ..self }
    }

    /// Sets by which share the radius changes at a step.
    pub fn gamma(self, gamma: f64) -> Self {
        Self { gamma, ..self }
    }

    /// Sets the first step's length.
    pub fn step_size(self, step_size: f64) -> Self {
        Self { step_size: Some(step_size), ..self }
    }

    /// Sets the first radius.
    pub fn radius(self, radius: f64) -> Self {
        Self { radius: Some(radius), ..self }
    }

    /// Sets the number of queries of the bisection at the end.
    pub fn bisections(self, bisections: usize) -> Self {
        Self { bisections, ..self }
    }
}

impl Attack for Ddn {
    fn name(&self) -> String {
        format!("DDN-{}", self.steps)
    }

    fn check(&self, setting: &Setting) -> Result<()> {
        at_least_one("steps", self.steps)?;
        share("gamma", self.gamma)?;
        positive("step_size", self.step_size.unwrap_or(1.0))?;
        positive("radius", self.radius.unwrap_or(1.0))?;
        check_minimum(self.name(), setting, &[Norm::L2], "L2, the first or the nearest success")
    }

    fn walk(&self, case: Case, oracle: Oracle) -> Walk<'_> {
        Box::pin(async move {
            let loss = Objective::CrossEntropy.loss(&case.goal(), case.run().target);
            let mut random = case.random();
            let x0 = wide(case.x0());
            let side = case.threat().high() - case.threat().low();
            let largest = widest(&case);
            let first = self.step_size.unwrap_or(side);
            let mut radius = self.radius.unwrap_or(side).min(largest);
            let mut x = case.x0().to_vec();
            let mut nearest = Nearest::default();
            for step in 0..self.steps {
                let answer = oracle.gradient(&x, loss.clone()).await;
                if answer.reached {
                    nearest.offer(&case, &x);
                }
                let mut direction = wide(&answer.gradient);
                let mut size = length(&answer.gradient);
                if !(size > 0.0 && size.is_finite()) {
                    direction = draw(&mut random, Distribution::Normal(0.0, 1.0), x0.len());
                    size = Norm::L2.of(direction.iter().copied());
                }
                let rate = cosine(first, first / 100.0, step, self.steps) / size;
                let moved = |((x, x0), g): ((&f32, &f64), &f64)| f64::from(*x) - x0 + rate * g;
                let delta: Vec<f64> = x.iter().zip(&x0).zip(&direction).map(moved).collect();
                let growth = if answer.reached { 1.0 - self.gamma } else { 1.0 + self.gamma };
                radius = (radius * growth).min(largest);
                let scale = radius / Norm::L2.of(delta.iter().copied()).max(f64::MIN_POSITIVE);
                x = narrow(&x0.iter().zip(&delta).map(|(x0, d)| x0 + scale * d).collect::<Vec<_>>());
                case.clamp(&mut x);
            }
            if oracle.logits(&x).await.reached {
                nearest.offer(&case, &x);
            }
            nearest.bisect(&case, &oracle, self.bisections).await;
        })
    }
}
