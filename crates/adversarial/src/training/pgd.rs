//! PGD adversarial training.

use burn::module::Module;
use core_tensor::{Gradient, Tree};

use super::inner::{Inner, StepSize, inner_settings, two_stage_training};
use super::{Clock, Cost, Examples, Perturbed, RobustProgram, Start, TwoStage};
use crate::error::Result;
use crate::threat::Threat;

/// Trains at the worst inputs that projected gradient ascent finds: the reference of robust training.
///
/// `x⁰` uniform in the ball, `xʲ⁺¹ = Π(xʲ + α·d(∇ₓL(h(xʲ), y)))` for `j < k`, then the gradient of `L(h(xᵏ), y)` in the parameters,
/// `L` the mean cross-entropy. `d` is the direction of steepest ascent: the sign of the gradient for `Linf`, the gradient over its norm for
/// `L2`, the signs of the largest 1% of its elements over their number for `L1`. `Π` is the exact projection on ball and box.
/// The last iterate is taken, as in the paper; to search for the worst one is the business of an attack, not of training.
///
/// | parameter | default | range | effect |
/// |---|---|---|---|
/// | `threat` | – | any norm but `L0` | what the adversary may do |
/// | [`steps`](Self::steps) | 7 | `≥ 1` | `k`; more is stronger and costs as much more |
/// | [`step_size`](Self::step_size) | `2.5·ε/k` | `(0, ∞)` | `α` |
/// | [`start`](Self::start) | [`Start::Uniform`] | | where the ascent begins |
/// | [`mode`](Self::mode) | evaluation | | how the model behaves while it is attacked |
/// | [`seed`](Self::seed) | 0 | | random starts and dropout |
///
/// Guarantees: inside ball and box (`every_point_is_inside`), `ε = 0` is [`StandardTraining`](super::StandardTraining)
/// (`no_radius_is_standard_training`), the worst points of a linear model are found (`a_linear_model_meets_its_worst_case`).
///
/// Cost: `k + 1` gradient evaluations (1 for `ε = 0`), the `k` in inputs only; two tensors of the inputs' size for the ends of the ball.
///
/// A. Madry, A. Makelov, L. Schmidt, D. Tsipras, A. Vladu, "Towards deep learning models resistant to adversarial attacks", ICLR 2018,
/// arXiv:1706.06083, section 2.1; the `L1` step: F. Tramèr, D. Boneh, "Adversarial training and robustness for multiple
/// perturbations", NeurIPS 2019, arXiv:1904.13000, algorithm 1. Deviation: evaluation mode while attacking, where implementations differ.
///
/// The [module](super) has an example.
#[derive(Clone, Debug)]
pub struct PgdTraining {
    inner: Inner,
    clock: Clock,
}

const WHAT: &str = "PGD training";

impl PgdTraining {
    /// Against a threat, with the settings of the table.
    ///
    /// # Errors
    /// [`UnsupportedNorm`](crate::Error::UnsupportedNorm) for `L0`.
    pub fn new(threat: Threat) -> Result<Self> {
        let inner = Inner::new(threat, 7, StepSize::OfPath(2.5), Start::Uniform, WHAT)?;
        Ok(Self { inner, clock: Clock::new(0) })
    }

    inner_settings!();
}

two_stage_training!(PgdTraining);

impl<M: Module + Sync + 'static, const D: usize> TwoStage<M, D> for PgdTraining {
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
        let gradient = program.loss_gradient(point, perturbed.adversarial.clone(), &batch.labels, perturbed.seed)?;
        Ok((gradient, 1))
    }
}
