//! Elastic-net attacks.

use super::check::{at_least_one, not_negative, positive};
use super::minimum::{Constant, Nearest, Patience, check_minimum};
use super::{Attack, Setting, Walk};
use crate::engine::{Case, Oracle};
use crate::error::Result;
use crate::loss::Objective;
use crate::threat::Norm;

/// EAD: C&W's objective with an `L1` term, by accelerated shrinkage. Sparse perturbations of small `L1` size.
///
/// Minimises `c·max(κ − m(x₀ + δ), 0) + ‖δ‖₂² + β‖δ‖₁` in the box: with `y⁰ = x⁰ = x₀`,
///
/// ```text
/// x^{k+1} = S_β(y^k − α_k ∇g(y^k)),  y^{k+1} = x^{k+1} + k/(k + 3)·(x^{k+1} − x^k),  α_k = α·√(1 − k/steps)
/// ```
///
/// where `g` is the objective without the last term, and `S_β` takes elements within `α_k·β` of `x₀` back to it, moves the others by as
/// much towards it, and keeps the box. The constant `c` is looked for by bisection.
///
/// | parameter | default | range | effect |
/// |---|---|---|---|
/// | [`steps`](Self::steps) | 300 | ≥ 1 | gradients of a minimisation |
/// | [`searches`](Self::searches) | 9 | ≥ 1 | constants tried |
/// | [`rate`](Self::rate) | 0.05 | > 0 | `α` |
/// | [`beta`](Self::beta) | 0.01 | ≥ 0 | `β`; larger is sparser |
/// | [`constant`](Self::constant) | 1 | > 0 | first `c` |
///
/// The success handed back is the nearest in `L1`, the paper's rule "L1".
///
/// Guarantees: on linear models the `L1` size is within 5 % of that of the elastic net's own solution or below it
/// (`ead_finds_no_more_than_the_elastic_net_allows`).
///
/// Cost: at most `steps · searches` gradients, and 12 queries of a bisection.
///
/// Errors: [`Error::Unsupported`](crate::Error::Unsupported) for norms other than `L1` and for
/// [`Search::Worst`](crate::Search::Worst), [`Error::Parameter`](crate::Error::Parameter).
///
/// P.-Y. Chen, Y. Sharma, H. Zhang, J. Yi, C.-J. Hsieh, "EAD: elastic-net attacks to deep neural networks via adversarial examples",
/// AAAI 2018, arXiv:1709.04114, algorithm 1. The threshold is `α_k·β`, the proximal step's, where the paper's is `β`.
///
/// ```
/// use adversarial::{Attack, Ead, Goals, Norm, Recorded, Threat};
/// use burn::nn::LinearConfig;
/// use burn::tensor::{Device, Tensor};
///
/// let device = Device::flex();
/// let model = LinearConfig::new(4, 3).init(&device);
/// let classifier = Recorded::new(&model, [4], |model, x: Tensor<2>| model.forward(x))?;
/// let x = Tensor::<2>::full([2, 4], 0.5, &device);
/// let attack = Ead::new().steps(50).searches(3);
/// let attacked = attack.nearest(&classifier, Threat::new(Norm::L1, 1.0)?, x, &Goals::untargeted(&[0, 1]))?;
/// assert!(attacked.gradients() <= 2 * 3 * 50);
/// # Ok::<(), adversarial::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ead {
    steps: usize,
    searches: usize,
    rate: f64,
    beta: f64,
    constant: f64,
}

impl Default for Ead {
    fn default() -> Self {
        Self::new()
    }
}

impl Ead {
    /// Nine searches of 300 steps.
    pub fn new() -> Self {
        Self { steps: 300, searches: 9, rate: 0.05, beta: 0.01, constant: 1.0 }
    }

    /// Sets the steps of a minimisation.
    pub fn steps(self, steps: usize) -> Self {
        Self { steps, ..self }
    }

    /// Sets the number of constants tried.
    pub fn searches(self, searches: usize) -> Self {
        Self { searches, ..self }
    }

    /// Sets the first step's length.
    pub fn rate(self, rate: f64) -> Self {
        Self { rate, ..self }
    }

    /// Sets the weight of the `L1` term.
    pub fn beta(self, beta: f64) -> Self {
        Self { beta, ..self }
    }

    /// Sets the first constant.
    pub fn constant(self, constant: f64) -> Self {
        Self { constant, ..self }
    }

    /// Whether a minimisation met a success.
    async fn minimise(&self, case: &Case, oracle: &Oracle, constant: f64, nearest: &mut Nearest) -> bool {
        let loss = Objective::Margin.loss(&case.goal(), case.run().target);
        let kappa = f64::from(case.goal().margin_needed());
        let (low, high) = (case.threat().low(), case.threat().high());
        let (mut x, mut y) = (case.x0().to_vec(), case.x0().to_vec());
        let (mut patience, mut succeeded) = (Patience::new(self.steps), false);
        for step in 0..self.steps {
            let answer = oracle.gradient(&y, loss.clone()).await;
            if answer.reached {
                nearest.offer(case, &y);
                succeeded = true;
            }
            let hinge = (kappa - answer.loss).max(0.0);
            let rate = self.rate * (1.0 - step as f64 / self.steps as f64).sqrt();
            let momentum = step as f64 / (step as f64 + 3.0);
            let mut size = 0.0;
            for i in 0..x.len() {
                let x0 = f64::from(case.x0()[i]);
                let delta = f64::from(y[i]) - x0;
                size += delta * delta + self.beta * delta.abs();
                let pull =
                    if hinge > 0.0 || answer.loss == kappa { constant * f64::from(answer.gradient[i]) } else { 0.0 };
                let moved = delta - rate * (2.0 * delta - pull);
                let shrunk = moved.signum() * (moved.abs() - rate * self.beta).max(0.0);
                let next = (x0 + shrunk).clamp(low, high);
                y[i] = (next + momentum * (next - f64::from(x[i]))).clamp(low, high) as f32;
                x[i] = next as f32;
            }
            if patience.is_over(step, size + constant * hinge) {
                break;
            }
        }
        // The accelerated point is what was asked about; the last proximal point has not been.
        if oracle.logits(&x).await.reached {
            nearest.offer(case, &x);
            succeeded = true;
        }
        succeeded
    }
}

impl Attack for Ead {
    fn name(&self) -> String {
        "EAD".into()
    }

    fn check(&self, setting: &Setting) -> Result<()> {
        at_least_one("steps", self.steps)?;
        at_least_one("searches", self.searches)?;
        positive("rate", self.rate)?;
        not_negative("beta", self.beta)?;
        positive("constant", self.constant)?;
        check_minimum(self.name(), setting, &[Norm::L1], "L1, the first or the nearest success")
    }

    fn walk(&self, case: Case, oracle: Oracle) -> Walk<'_> {
        Box::pin(async move {
            let (mut nearest, mut constant) = (Nearest::default(), Constant::new(self.constant));
            for _ in 0..self.searches {
                let succeeded = self.minimise(&case, &oracle, constant.value, &mut nearest).await;
                constant.update(succeeded);
            }
            nearest.bisect(&case, &oracle, 12).await;
        })
    }
}
