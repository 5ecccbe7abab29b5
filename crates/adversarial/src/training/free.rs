//! Free adversarial training.

use burn::module::Module;
use burn::tensor::{Int, Tensor};
use core_tensor::transform::State;
use core_tensor::{Scalar, Tree};

use super::ball::Ball;
use super::inner::{above_zero, at_least_one};
use super::{Clock, Cost, RobustGradients, RobustProgram, RobustTraining};
use crate::error::{Error, Result};
use crate::threat::{Norm, Threat};

/// Replays every batch, and lets one backward pass move both the perturbation and the parameters: robust training for the cost of
/// standard training.
///
/// A call is one replay: from one forward and backward pass at `x′ = Π(x + δ)` come the gradient of the parameters and
/// `δ ← Π_ε(δ + α·d(∇ₓL(h(x′), y)))`, which is kept for the next replay and for the next batch. The caller steps the optimizer after
/// each of the `m` replays, and makes `1/m` as many epochs.
///
/// | parameter | default | range | effect |
/// |---|---|---|---|
/// | `threat` | – | any norm but `L0` | what the adversary may do |
/// | [`replays`](Self::replays) | 8 | `≥ 1` | `m`, how often the caller should replay; 1 is FGSM training from the carried perturbation |
/// | [`step_size`](Self::step_size) | `ε` | `(0, ∞)` | `α` |
/// | [`seed`](Self::seed) | 0 | | dropout |
///
/// Guarantees: inside ball and box (`every_point_is_inside`), `ε = 0` is standard training (`no_radius_is_standard_training`), the
/// perturbation resumes bit for bit (`a_resumed_run_goes_on_bit_for_bit`).
///
/// Cost: 1 gradient evaluation, in inputs and parameters at once; one tensor of the inputs' size is kept. Model and layers are in
/// their own mode throughout, since both gradients are of the same function.
///
/// A. Shafahi, M. Najibi, A. Ghiasi, Z. Xu, J. Dickerson, C. Studer, L. S. Davis, G. Taylor, T. Goldstein, "Adversarial training for
/// free!", NeurIPS 2019, arXiv:1904.12843, algorithm 1. Deviation: the gradient is taken at the projected input, so that `δ` also moves
/// where the box holds `x + δ` back. A smaller last batch uses and moves the first rows of `δ`, as the authors' code does.
///
/// ```
/// use adversarial::training::{FreeTraining, RobustProgram, RobustTraining};
/// use adversarial::{Norm, Threat};
/// use burn::nn::LinearConfig;
/// use burn::optim::SgdConfig;
/// use burn::tensor::{Device, Int, Tensor};
///
/// let device = Device::flex().autodiff();
/// let mut model = LinearConfig::new(2, 3).init(&device);
/// let mut optim = SgdConfig::new().init();
/// let x = Tensor::<2>::from_data([[0.1, 0.9], [0.8, 0.2]], &Device::flex());
/// let y = Tensor::<1, Int>::from_data([0, 2], &Device::flex());
/// let program = RobustProgram::record(&model, &x, |model, x| model.forward(x))?;
/// let mut free = FreeTraining::new(Threat::new(Norm::Linf, 0.1)?)?.replays(4)?;
/// for _ in 0..free.replays_per_batch() {
///     let step = free.gradients(&program, &model, x.clone(), y.clone())?;
///     model = optim.step(0.1, model, step.gradient.into_params()?);
/// }
/// # Ok::<(), adversarial::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct FreeTraining<const D: usize> {
    threat: Threat,
    replays: usize,
    step_size: Option<f64>,
    clock: Clock,
    /// The perturbation, as many rows as the largest batch had.
    delta: Option<Tensor<D>>,
}

const WHAT: &str = "Free training";

impl<const D: usize> FreeTraining<D> {
    /// Against a threat, with the settings of the table and no perturbation yet.
    ///
    /// # Errors
    /// [`UnsupportedNorm`](Error::UnsupportedNorm) for `L0`.
    pub fn new(threat: Threat) -> Result<Self> {
        match threat.norm() {
            norm @ Norm::L0 => Err(Error::UnsupportedNorm { what: WHAT, norm }),
            _ => Ok(Self { threat, replays: 8, step_size: None, clock: Clock::new(0), delta: None }),
        }
    }

    /// How often the caller should replay a batch, `m`.
    ///
    /// # Errors
    /// [`Error::Parameter`] for 0.
    pub fn replays(self, replays: usize) -> Result<Self> {
        Ok(Self { replays: at_least_one("replays", replays)?, ..self })
    }

    /// Length of a step, `α`.
    ///
    /// # Errors
    /// [`Error::Parameter`] unless it is above zero and finite.
    pub fn step_size(self, step_size: f64) -> Result<Self> {
        Ok(Self { step_size: Some(above_zero("step_size", step_size)?), ..self })
    }

    /// Seed of dropout.
    pub fn seed(self, seed: u64) -> Self {
        Self { clock: Clock::new(seed), ..self }
    }

    /// `m`
    pub fn replays_per_batch(&self) -> usize {
        self.replays
    }

    /// The perturbation that the next call begins with.
    pub fn delta(&self) -> Option<&Tensor<D>> {
        self.delta.as_ref()
    }

    /// The perturbation's first rows, zero where there are none yet, and the rows after those.
    fn carried(&self, like: &Tensor<D>) -> Result<(Tensor<D>, Option<Tensor<D>>)> {
        let Some(delta) = &self.delta else {
            return Ok((like.zeros_like(), None));
        };
        if delta.dims()[1..] != like.dims()[1..] {
            let expected = format!("{:?} after the first axis, as the perturbation carried on", &delta.dims()[1..]);
            return Err(Error::Shape { what: "the input", actual: like.dims().to_vec(), expected });
        }
        let delta = delta.clone().to_device(&like.device()).cast(like.dtype());
        let (rows, wanted) = (delta.dims()[0], like.dims()[0]);
        Ok(match rows.cmp(&wanted) {
            std::cmp::Ordering::Equal => (delta, None),
            std::cmp::Ordering::Greater => {
                (delta.clone().slice_dim(0, 0..wanted), Some(delta.slice_dim(0, wanted..rows)))
            }
            std::cmp::Ordering::Less => {
                let fresh = like.clone().slice_dim(0, rows..wanted).zeros_like();
                (Tensor::cat(vec![delta, fresh], 0), None)
            }
        })
    }
}

impl<M: Module + Sync + 'static, const D: usize> RobustTraining<M, D> for FreeTraining<D> {
    fn gradients(
        &mut self,
        program: &RobustProgram<M, D>,
        model: &M,
        inputs: Tensor<D>,
        labels: Tensor<1, Int>,
    ) -> Result<RobustGradients<D>> {
        let batch = program.examples(inputs, labels)?;
        let mut clock = self.clock.clone();
        let (seed, point, epsilon) = (clock.tick(), Tree::from_module(model), self.threat.epsilon());
        let (delta, others) = self.carried(&batch.inputs)?;
        let ball = Ball::new(self.threat, batch.inputs.clone(), WHAT)?;
        let (adversarial, gradient, moved) = match epsilon > 0.0 {
            false => {
                let gradient = program.loss_gradient(&point, batch.inputs.clone(), &batch.labels, seed)?;
                (batch.inputs.clone(), gradient, delta)
            }
            true => {
                let adversarial = ball.project(batch.inputs.clone() + delta.clone())?;
                let joint = program.joint_gradient(&point, adversarial.clone(), &batch.labels, seed)?;
                // The ball alone: the box belongs to x + δ.
                let room = 2.0 * epsilon.max(f64::MIN_POSITIVE);
                let alone = Ball::new(self.threat.bounds(-room, room)?, delta.zeros_like(), WHAT)?;
                let moved = alone.ascend(delta, joint.inputs, self.step_size.unwrap_or(epsilon))?;
                (adversarial, joint.gradient, moved)
            }
        };
        let forward_passes = program.observe(model, &adversarial)?;
        self.clock = clock;
        self.delta = Some(match others {
            Some(others) => Tensor::cat(vec![moved, others], 0),
            None => moved,
        });
        Ok(RobustGradients {
            loss: Scalar::from_tensor(gradient.value),
            gradient: gradient.gradient,
            absent: gradient.absent,
            adversarial,
            cost: Cost { forward_passes, ..Cost::gradients(1) },
            overfitting: None,
            transport: None,
        })
    }

    fn state(&self) -> State {
        let delta = self.delta.clone().and_then(|delta| Tree::empty().push("delta", delta).ok());
        State::new().with_nested("clock", self.clock.state()).with("delta", delta)
    }

    fn load_state(&mut self, mut state: State) -> Result<()> {
        let delta: Option<Tree> = state.take_optional("delta")?;
        let delta = delta.map(|tree| tree.get("delta")).transpose()?;
        let mut clock = self.clock.clone();
        clock.load_state(state.take_nested("clock"))?;
        state.finish()?;
        (self.clock, self.delta) = (clock, delta);
        Ok(())
    }
}
