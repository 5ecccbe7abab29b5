//! MART.

use burn::module::Module;
use burn::tensor::activation::softmax;
use burn::tensor::{Int, Tensor};
use core_tensor::{Gradient, Tree};

use super::inner::{Inner, StepSize, inner_settings, not_negative, two_stage_training};
use super::program::{Labels, PairLoss, cross_entropies, divergences};
use super::{Clock, Cost, Examples, Perturbed, RobustProgram, Start, TwoStage};
use crate::error::Result;
use crate::threat::Threat;

/// What keeps the logarithm of the margin finite, as in the authors' code.
const FLOOR: f64 = 1e-4;

/// PGD training that asks more of examples the model gets wrong: a margin at the adversarial point, and stability where the clean
/// prediction is doubtful.
///
/// `(1/m) Σᵢ [BCE(p(x′ᵢ), yᵢ) + λ·KL(p(xᵢ) ‖ p(x′ᵢ))·(1 − p_y(xᵢ))]` with `BCE(p, y) = −log p_y − log(1 − max_{j≠y} p_j)`, `p = softmax h`, and
/// `x′ᵢ` found by projected gradient ascent on the cross-entropy.
///
/// | parameter | default | range | effect |
/// |---|---|---|---|
/// | `threat` | – | any norm but `L0` | what the adversary may do |
/// | `lambda` | – (the paper: 5) | `[0, ∞)` | `λ`; more is more robust and less accurate |
/// | [`steps`](Self::steps) | 10 | `≥ 1` | `k` |
/// | [`step_size`](Self::step_size) | `ε/4` | `(0, ∞)` | length of a step |
/// | [`start`](Self::start) | [`Start::Normal`]`(0.001)` | | where the ascent begins |
/// | [`mode`](Self::mode) | evaluation | | how the model behaves while it is attacked |
/// | [`seed`](Self::seed) | 0 | | random starts and dropout |
///
/// Guarantees: inside ball and box (`every_point_is_inside`); the loss is the formula's (`the_losses_by_hand`).
///
/// Cost: `k + 2` gradient evaluations; the last two are clean and adversarial inputs through one program.
///
/// Y. Wang, D. Zou, J. Yi, J. Bailey, X. Ma, Q. Gu, "Improving adversarial robustness requires revisiting misclassified examples",
/// ICLR 2020, equation 11. Deviation: `1 − p` has a floor of 10⁻⁴ inside the logarithm, as the authors' code has. `ε = 0` leaves their
/// margin loss, which is not the cross-entropy.
///
/// ```
/// use adversarial::training::{MartTraining, RobustProgram, RobustTraining};
/// use adversarial::{Norm, Threat};
/// use burn::nn::LinearConfig;
/// use burn::tensor::{Device, Int, Tensor};
///
/// let device = Device::default();
/// let model = LinearConfig::new(2, 3).init(&device);
/// let x = Tensor::<2>::from_data([[0.1, 0.9], [0.8, 0.2]], &device);
/// let y = Tensor::<1, Int>::from_data([0, 2], &device);
/// let program = RobustProgram::record(&model, &x, |model, x| model.forward(x))?;
/// let mut mart = MartTraining::new(Threat::new(Norm::Linf, 0.1)?, 5.0)?;
/// let step = mart.gradients(&program, &model, x, y)?;
/// assert_eq!(step.cost.gradient_evaluations, 12);
/// # Ok::<(), adversarial::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct MartTraining {
    inner: Inner,
    lambda: f64,
    clock: Clock,
}

const WHAT: &str = "MART";

impl MartTraining {
    /// Against a threat, with weight `lambda`.
    ///
    /// # Errors
    /// [`UnsupportedNorm`](crate::Error::UnsupportedNorm) for `L0`; [`Parameter`](crate::Error::Parameter) for a weight that is
    /// negative or not finite.
    pub fn new(threat: Threat, lambda: f64) -> Result<Self> {
        let inner = Inner::new(threat, 10, StepSize::OfRadius(0.25), Start::Normal(1e-3), WHAT)?;
        Ok(Self { inner, lambda: not_negative("lambda", lambda)?, clock: Clock::new(0) })
    }

    inner_settings!();
}

two_stage_training!(MartTraining);

impl<M: Module + Sync + 'static, const D: usize> TwoStage<M, D> for MartTraining {
    fn perturb(&mut self, program: &RobustProgram<M, D>, model: &M, batch: &Examples<D>) -> Result<Perturbed<D>> {
        let seed = self.clock.tick();
        let (inner, mode) = (&self.inner, self.inner.mode);
        let attacked = (program.frozen(model, mode), batch.labels.clone());
        let gradient = |x| program.attack_gradient(&attacked, mode, x, seed);
        let (adversarial, evaluations) = inner.maximise(&batch.inputs, &mut self.clock, WHAT, gradient)?;
        Ok(Perturbed { adversarial, cost: Cost::gradients(evaluations), seed, transport: None })
    }

    fn outer(
        &self,
        program: &RobustProgram<M, D>,
        point: &Tree,
        batch: &Examples<D>,
        perturbed: &Perturbed<D>,
    ) -> Result<(Gradient, u64)> {
        let inputs = [batch.inputs.clone(), perturbed.adversarial.clone()];
        let gradient =
            program.pair_gradient(PairLoss::Mart, point, inputs, &batch.labels, self.lambda, perturbed.seed)?;
        Ok((gradient, 2))
    }
}

/// Mean margin loss at the adversarial points, and mean divergence weighted by doubt.
pub(super) fn parts(clean: Tensor<2>, adversarial: Tensor<2>, labels: &Labels) -> (Tensor<1>, Tensor<1>) {
    let [examples, classes] = clean.dims();
    let at = labels.clone().unsqueeze_dim::<2>(1);
    let every = Tensor::<1, Int>::arange(0..classes as i64, &labels.device()).unsqueeze_dim::<2>(0);
    let own = every.expand([examples, classes]).equal(at.clone().expand([examples, classes]));
    let rival = softmax(adversarial.clone(), 1).mask_fill(own, 0.0).max_dim(1).squeeze_dim::<1>(1);
    let margin = cross_entropies(adversarial.clone(), labels) - (rival.neg() + (1.0 + FLOOR)).log();
    let doubt = softmax(clean.clone(), 1).gather(1, at).squeeze_dim::<1>(1).neg() + 1.0;
    (margin.mean(), (divergences(clean, adversarial) * doubt).mean())
}
