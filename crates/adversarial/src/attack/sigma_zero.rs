//! σ-zero.

use super::check::{at_least_one, positive, share};
use super::minimum::{check_minimum, cosine};
use super::{Attack, Setting, Walk};
use crate::adam::Adam;
use crate::engine::{Case, Oracle};
use crate::error::Result;
use crate::loss::Objective;
use crate::threat::Norm;

/// σ-zero: gradient descent on a smooth stand-in for the number of changed elements. The strongest attack for `L0`.
///
/// Minimises `max(κ − m(x₀ + δ), 0) + (1/n) Σ δᵢ²/(δᵢ² + σ)` by Adam on the gradient divided by its largest element, in the box; after each step
/// elements with `|δᵢ| < τ` become 0, and `τ` grows by `t·η` while the point is a success and falls by as much while it is none. `η` goes down
/// from [`rate`](Self::rate) to a tenth along half a cosine.
///
/// | parameter | default | range | effect |
/// |---|---|---|---|
/// | [`steps`](Self::steps) | 300 | ≥ 1 | gradients; the paper's 1000 for large images |
/// | [`rate`](Self::rate) | 1 | > 0 | `η₀`, as a share of the box's side |
/// | [`sigma`](Self::sigma) | 0.001 | > 0 | `σ`, of squares of shares of the side |
/// | [`tau`](Self::tau) | 0.3 | 0 to 1 | first `τ`, as a share of the side |
/// | [`t`](Self::t) | 0.01 | > 0 | `t` |
///
/// At the end elements of the sparsest success go back to `x₀` one by one, the smallest change first, where it stays a success: one query an element.
///
/// Guarantees: on linear models the fewest elements are found, or one more (`on_linear_models_the_fewest_elements_are_found`).
///
/// Cost: `steps` gradients and at most 64 queries more.
///
/// Errors: [`Error::Unsupported`](crate::Error::Unsupported) for other norms and for [`Search::Worst`](crate::Search::Worst),
/// [`Error::Parameter`](crate::Error::Parameter).
///
/// A. Cinà, F. Villani, M. Pintor, L. Schönherr, B. Biggio, M. Pelillo, "σ-zero: gradient-based optimization of ℓ0-norm adversarial examples",
/// ICLR 2025, arXiv:2402.01879, algorithm 1. The last pass over single elements is ours.
///
/// ```
/// use adversarial::{Attack, Goals, Norm, Recorded, SigmaZero, Threat};
/// use burn::nn::LinearConfig;
/// use burn::tensor::{Device, Tensor};
///
/// let device = Device::flex();
/// let model = LinearConfig::new(4, 3).init(&device);
/// let classifier = Recorded::new(&model, [4], |model, x: Tensor<2>| model.forward(x))?;
/// let x = Tensor::<2>::full([2, 4], 0.5, &device);
/// let attacked = SigmaZero::new().steps(50).nearest(&classifier, Threat::new(Norm::L0, 1.0)?, x, &Goals::untargeted(&[0, 1]))?;
/// assert!(attacked.gradients() <= 2 * 50);
/// # Ok::<(), adversarial::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SigmaZero {
    steps: usize,
    rate: f64,
    sigma: f64,
    tau: f64,
    t: f64,
}

impl Default for SigmaZero {
    fn default() -> Self {
        Self::new()
    }
}

impl SigmaZero {
    /// 300 steps.
    pub fn new() -> Self {
        Self { steps: 300, rate: 1.0, sigma: 1e-3, tau: 0.3, t: 0.01 }
    }

    /// Sets the number of gradients.
    pub fn steps(self, steps: usize) -> Self {
        Self { steps, ..self }
    }

    /// Sets the first learning rate.
    pub fn rate(self, rate: f64) -> Self {
        Self { rate, ..self }
    }

    /// Sets how sharp the stand-in is.
    pub fn sigma(self, sigma: f64) -> Self {
        Self { sigma, ..self }
    }

    /// Sets the first threshold.
    pub fn tau(self, tau: f64) -> Self {
        Self { tau, ..self }
    }

    /// Sets how fast the threshold changes.
    pub fn t(self, t: f64) -> Self {
        Self { t, ..self }
    }
}

/// Queries of the last pass.
const LAST: usize = 64;

impl Attack for SigmaZero {
    fn name(&self) -> String {
        "σ-zero".into()
    }

    fn check(&self, setting: &Setting) -> Result<()> {
        at_least_one("steps", self.steps)?;
        positive("rate", self.rate)?;
        positive("sigma", self.sigma)?;
        share("tau", self.tau)?;
        positive("t", self.t)?;
        check_minimum(self.name(), setting, &[Norm::L0], "L0, the first or the nearest success")
    }

    fn walk(&self, case: Case, oracle: Oracle) -> Walk<'_> {
        Box::pin(async move {
            let loss = Objective::Margin.loss(&case.goal(), case.run().target);
            let kappa = f64::from(case.goal().margin_needed());
            let side = case.threat().high() - case.threat().low();
            let (n, x0) = (case.x0().len(), case.x0());
            let mut x = x0.to_vec();
            let mut adam = Adam::new(self.rate, n);
            let mut tau = self.tau;
            let mut sparsest: Option<(f64, Vec<f32>)> = None;
            for step in 0..self.steps {
                let answer = oracle.gradient(&x, loss.clone()).await;
                if answer.reached {
                    let size = case.distance(&x);
                    if sparsest.as_ref().is_none_or(|(least, _)| size < *least) {
                        sparsest = Some((size, x.clone()));
                    }
                }
                let behind = answer.loss <= kappa;
                let mut slope: Vec<f64> = (0..n)
                    .map(|i| {
                        let delta = (f64::from(x[i]) - f64::from(x0[i])) / side;
                        let sparse = 2.0 * delta * self.sigma / (delta * delta + self.sigma).powi(2) / n as f64;
                        sparse - if behind { f64::from(answer.gradient[i]) * side } else { 0.0 }
                    })
                    .collect();
                let largest = slope.iter().fold(0f64, |a, g| a.max(g.abs()));
                if largest > 0.0 && largest.is_finite() {
                    slope.iter_mut().for_each(|g| *g /= largest);
                }
                let rate = cosine(self.rate, self.rate / 10.0, step, self.steps);
                adam.set_rate(rate * side);
                adam.descend(&mut x, &slope);
                case.clamp(&mut x);
                tau = (tau + if answer.reached { self.t * rate } else { -self.t * rate }).clamp(0.0, 1.0);
                for (x, x0) in x.iter_mut().zip(x0) {
                    if (f64::from(*x) - f64::from(*x0)).abs() < tau * side {
                        *x = *x0;
                    }
                }
            }
            let Some((_, mut x)) = sparsest else { return };
            let change = |x: &[f32], i: usize| (x[i] - x0[i]).abs();
            let mut changed: Vec<usize> = (0..n).filter(|i| x[*i] != x0[*i]).collect();
            changed.sort_by(|i, j| change(&x, *i).total_cmp(&change(&x, *j)));
            for i in changed.into_iter().take(LAST) {
                let kept = std::mem::replace(&mut x[i], x0[i]);
                if !oracle.logits(&x).await.reached {
                    x[i] = kept;
                }
            }
        })
    }
}
