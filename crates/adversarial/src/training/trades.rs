//! TRADES.

use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::activation::softmax;
use core_tensor::{Gradient, Tree};

use super::inner::{Inner, StepSize, inner_settings, not_negative, two_stage_training};
use super::program::{Labels, PairLoss, cross_entropies, divergences};
use super::{Clock, Cost, Examples, Perturbed, RobustProgram, Start, TwoStage};
use crate::error::Result;
use crate::threat::Threat;

/// Trades accuracy for robustness by one number: the clean loss, plus a penalty for predictions that an adversary can move.
///
/// `(1/m) Σᵢ [CE(h(xᵢ), yᵢ) + β·max_{x′ ∈ B(xᵢ)} KL(p(xᵢ) ‖ p(x′))]` with `p = softmax h`. The maximum is sought by projected gradient ascent
/// on the divergence from a start with a little noise, since its gradient is zero at `xᵢ` itself, with the clean `p(xᵢ)` computed
/// once; the gradient of the parameters goes through both arguments of the divergence.
///
/// | parameter | default | range | effect |
/// |---|---|---|---|
/// | `threat` | – | any norm but `L0` | what the adversary may do |
/// | `beta` | – (the paper: 1 to 6) | `[0, ∞)` | `β`; more is more robust and less accurate |
/// | [`steps`](Self::steps) | 10 | `≥ 1` | `k` |
/// | [`step_size`](Self::step_size) | `ε/4` | `(0, ∞)` | length of a step |
/// | [`start`](Self::start) | [`Start::Normal`]`(0.001)` | | where the ascent begins |
/// | [`mode`](Self::mode) | evaluation | | how the model behaves while it is attacked |
/// | [`seed`](Self::seed) | 0 | | random starts and dropout |
///
/// Guarantees: inside ball and box (`every_point_is_inside`); `β = 0` has the gradient of the clean cross-entropy
/// (`no_weight_is_the_clean_loss`).
///
/// Cost: `k + 2` gradient evaluations (the last two are clean and adversarial inputs through one program) and one forward pass.
///
/// H. Zhang, Y. Yu, J. Jiao, E. P. Xing, L. El Ghaoui, M. I. Jordan, "Theoretically principled trade-off between robustness and
/// accuracy", ICML 2019, arXiv:1901.08573, algorithm 1. Their `1/λ` is `β`.
///
/// ```
/// use adversarial::training::{RobustProgram, RobustTraining, TradesTraining};
/// use adversarial::{Norm, Threat};
/// use burn::nn::LinearConfig;
/// use burn::tensor::{Device, Int, Tensor};
///
/// let device = Device::default();
/// let model = LinearConfig::new(2, 3).init(&device);
/// let x = Tensor::<2>::from_data([[0.1, 0.9], [0.8, 0.2]], &device);
/// let y = Tensor::<1, Int>::from_data([0, 2], &device);
/// let program = RobustProgram::record(&model, &x, |model, x| model.forward(x))?;
/// let mut trades = TradesTraining::new(Threat::new(Norm::Linf, 0.1)?, 6.0)?;
/// let step = trades.gradients(&program, &model, x, y)?;
/// assert_eq!((step.cost.gradient_evaluations, step.cost.forward_passes), (12, 1));
/// # Ok::<(), adversarial::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct TradesTraining {
    inner: Inner,
    beta: f64,
    clock: Clock,
}

const WHAT: &str = "TRADES";

impl TradesTraining {
    /// Against a threat, with weight `beta`.
    ///
    /// # Errors
    /// [`UnsupportedNorm`](crate::Error::UnsupportedNorm) for `L0`; [`Parameter`](crate::Error::Parameter) for a weight that is
    /// negative or not finite.
    pub fn new(threat: Threat, beta: f64) -> Result<Self> {
        let inner = Inner::new(threat, 10, StepSize::OfRadius(0.25), Start::Normal(1e-3), WHAT)?;
        Ok(Self { inner, beta: not_negative("beta", beta)?, clock: Clock::new(0) })
    }

    inner_settings!();
}

two_stage_training!(TradesTraining);

impl<M: Module + Sync + 'static, const D: usize> TwoStage<M, D> for TradesTraining {
    fn perturb(&mut self, program: &RobustProgram<M, D>, model: &M, batch: &Examples<D>) -> Result<Perturbed<D>> {
        let seed = self.clock.tick();
        let (inner, mode) = (&self.inner, self.inner.mode);
        let mut cost = Cost::default();
        let attacked = match inner.threat.epsilon() > 0.0 {
            true => {
                cost.forward_passes += 1;
                Some((program.frozen(model, mode), softmax(program.logits(model, batch.inputs.clone()), 1)))
            }
            false => None,
        };
        let gradient = |x| match &attacked {
            Some(attacked) => program.divergence_gradient(attacked, mode, x, seed),
            None => unreachable!("no step is made without a radius"),
        };
        let (adversarial, evaluations) = inner.maximise(&batch.inputs, &mut self.clock, WHAT, gradient)?;
        cost.gradient_evaluations += evaluations;
        Ok(Perturbed { adversarial, cost, seed, transport: None })
    }

    fn outer(
        &self,
        program: &RobustProgram<M, D>,
        point: &Tree,
        batch: &Examples<D>,
        perturbed: &Perturbed<D>,
    ) -> Result<(Gradient, u64)> {
        // Without a radius the divergence is zero, and so is its gradient.
        if self.inner.threat.epsilon() == 0.0 {
            let gradient =
                program.loss_gradient(point, perturbed.adversarial.clone(), &batch.labels, perturbed.seed)?;
            return Ok((gradient, 1));
        }
        let inputs = [batch.inputs.clone(), perturbed.adversarial.clone()];
        let gradient =
            program.pair_gradient(PairLoss::Trades, point, inputs, &batch.labels, self.beta, perturbed.seed)?;
        Ok((gradient, 2))
    }
}

/// Mean clean cross-entropy and mean divergence.
pub(super) fn parts(clean: Tensor<2>, adversarial: Tensor<2>, labels: &Labels) -> (Tensor<1>, Tensor<1>) {
    (cross_entropies(clean.clone(), labels).mean(), divergences(clean, adversarial).mean())
}
