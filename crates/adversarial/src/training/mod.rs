//! Robust training: gradients that make a classifier hold where an adversary may move its inputs.
//!
//! Every method here takes a batch and gives the gradient of the model's parameters, for any Burn optimizer or
//! [`Chain`](core_tensor::Chain) to follow. It solves, or nearly solves, the inner problem of
//!
//! ```text
//! min_θ (1/m) Σᵢ max_{‖ηᵢ‖ ≤ ε} L(h_θ(ξᵢ + ηᵢ), yᵢ)
//! ```
//!
//! | to | take | gradient evaluations a step |
//! |---|---|---|
//! | train without an adversary, for comparison | [`StandardTraining`] | 1 |
//! | have the reference, robust and plain | [`PgdTraining`] | k + 1 |
//! | trade accuracy for robustness by a number | [`TradesTraining`] | k + 2 |
//! | spend more on examples that are misclassified | [`MartTraining`] | k + 2 |
//! | flatten the loss in the weights too (less robust overfitting) | [`Awp`] round one of these | + 1 (+ 2 if its loss takes 2) |
//! | train at about twice the cost of standard training | [`FastTraining`] | 2 |
//! | train at the cost of standard training, batches repeated | [`FreeTraining`] | 1 |
//! | have many inner steps through the first layer alone | [`YopoTraining`] | m, and (m − 1)·n of the first layer |
//! | have a bound over distributions instead of a ball | [`WrmTraining`] | k + 1 |
//! | solve another min-max problem | [`minimax`] | |
//!
//! ```
//! use adversarial::training::{PgdTraining, RobustProgram, RobustTraining};
//! use adversarial::{Norm, Threat};
//! use burn::nn::LinearConfig;
//! use burn::optim::AdamConfig;
//! use burn::tensor::{Device, Int, Tensor};
//!
//! let device = Device::flex().autodiff();
//! let mut model = LinearConfig::new(2, 3).init(&device);
//! let mut optim = AdamConfig::new().init();
//! let x = Tensor::<2>::from_data([[0.1, 0.9], [0.8, 0.2]], &Device::flex());
//! let y = Tensor::<1, Int>::from_data([0, 2], &Device::flex());
//!
//! let program = RobustProgram::record(&model, &x, |model, x| model.forward(x))?;
//! let mut method = PgdTraining::new(Threat::new(Norm::Linf, 0.1)?)?.steps(7)?;
//! for _ in 0..3 {
//!     let step = method.gradients(&program, &model, x.clone(), y.clone())?;
//!     println!("loss {} after {} gradients", step.loss.value(), step.cost.gradient_evaluations);
//!     model = optim.step(1e-2, model, step.gradient.into_params()?);
//! }
//! # Ok::<(), adversarial::Error>(())
//! ```
//!
//! # What every method keeps
//! - Adversarial points are inside ball and box exactly, after rounding, whatever the gradients (`every_point_is_inside` in the tests).
//! - `ε = 0` is standard training bit for bit, at its cost (`no_radius_is_standard_training`).
//! - Attacks run in evaluation mode unless asked otherwise, and never move running statistics ([`RobustProgram`]).
//! - Gradients that are not finite are an outcome: the adversarial points stay allowed inputs, loss and gradient say what happened,
//!   and a transform of the chain may skip the step.
//! - An error leaves a method as it was. [`state`](RobustTraining::state) is plain data; a resumed run goes on bit for bit.
//! - Batches are checked: empty ones, labels that are no class, inputs outside of the box are errors. On a GPU this reads inputs and
//!   labels (two host synchronisations a step); `L1` and `L2` steps run on the host (two more a step of the ascent).
//!
//! # With burn-train
//! The program and the method are skipped fields of the model behind an `Arc<Mutex<_>>`, and `TrainStep::step` hands the gradient on:
//!
//! ```text
//! fn step(&self, batch: Batch) -> TrainOutput<Output> {
//!     let step = self.robust.lock().unwrap().gradients(&self.net, batch.images, batch.labels).expect("gradients");
//!     let item = …;
//!     TrainOutput { grads: step.gradient.into_params().expect("of this model"), item }
//! }
//! ```

mod awp;
mod ball;
mod distributional;
mod fast;
mod free;
mod inner;
#[cfg(test)]
mod laws;
mod mart;
pub mod minimax;
mod pgd;
mod program;
mod standard;
mod trades;
mod yopo;

use std::ops::AddAssign;

use burn::module::Module;
use burn::tensor::{Int, Tensor};
use core_tensor::transform::State;
use core_tensor::{Gradient, Random, Scalar, Tree};

use crate::error::Result;
use program::Labels;

pub use awp::Awp;
pub use distributional::{Transport, WrmTraining};
pub use fast::{FastTraining, Overfitting, OverfittingWatch};
pub use free::FreeTraining;
pub use inner::Start;
pub use mart::MartTraining;
pub use pgd::PgdTraining;
pub use program::RobustProgram;
pub use standard::StandardTraining;
pub use trades::TradesTraining;
pub use yopo::{YopoProgram, YopoTraining};

/// How the model behaves while it is attacked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Mode {
    /// As at inference: no dropout, running statistics.
    #[default]
    Evaluation,
    /// As each layer's flag says: dropout with the same mask as the gradient of the parameters, statistics of the batch.
    Training,
}

/// What a step has computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Cost {
    /// Forward and backward passes of the batch through the whole network, in inputs, parameters or both.
    pub gradient_evaluations: u64,
    /// Forward passes without a backward pass: TRADES's clean logits, running statistics.
    pub forward_passes: u64,
    /// Forward and backward passes through the first layer alone (YOPO).
    pub first_layer_evaluations: u64,
}

/// The gradient of a step, and its numbers.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RobustGradients<const D: usize> {
    /// Gradient of the loss in the model's parameters, without the leaves in `absent`.
    pub gradient: Tree,
    /// Paths of the parameters that the loss does not depend on.
    pub absent: Vec<String>,
    /// The loss that was differentiated.
    pub loss: Scalar,
    /// The inputs it was differentiated at.
    pub adversarial: Tensor<D>,
    /// What it took.
    pub cost: Cost,
    /// What [`FastTraining`] saw, if this was a step to look.
    pub overfitting: Option<Overfitting>,
    /// What [`WrmTraining`] moved.
    pub transport: Option<Transport>,
}

/// A training method: a batch in, the gradient of the parameters out.
pub trait RobustTraining<M, const D: usize> {
    /// The gradient of the method's loss on a batch. `inputs` have the examples along their first axis, `labels` are classes.
    ///
    /// # Errors
    /// [`EmptyBatch`](crate::Error::EmptyBatch), [`Label`](crate::Error::Label), [`Shape`](crate::Error::Shape) and
    /// [`OutOfBounds`](crate::Error::OutOfBounds) for a batch that is none, [`Core`](crate::Error::Core) where the model cannot be recorded or is
    /// another than the recorded one. Then the method is as it was.
    fn gradients(
        &mut self,
        program: &RobustProgram<M, D>,
        model: &M,
        inputs: Tensor<D>,
        labels: Tensor<1, Int>,
    ) -> Result<RobustGradients<D>>;

    /// What later steps depend on besides the configuration.
    fn state(&self) -> State;

    /// Go on from a state.
    ///
    /// # Errors
    /// [`Core`](crate::Error::Core) for the state of something else. Then nothing has changed.
    fn load_state(&mut self, state: State) -> Result<()>;
}

/// A method that first finds adversarial points and then differentiates a loss there; what [`Awp`] can be put round.
pub trait TwoStage<M, const D: usize>: RobustTraining<M, D> {
    /// The adversarial points of a batch.
    ///
    /// # Errors
    /// As [`RobustTraining::gradients`].
    fn perturb(&mut self, program: &RobustProgram<M, D>, model: &M, batch: &Examples<D>) -> Result<Perturbed<D>>;

    /// The outer loss at a point in parameter space and its gradient, and the gradient evaluations this takes.
    ///
    /// # Errors
    /// As [`RobustTraining::gradients`].
    fn outer(
        &self,
        program: &RobustProgram<M, D>,
        point: &Tree,
        batch: &Examples<D>,
        perturbed: &Perturbed<D>,
    ) -> Result<(Gradient, u64)>;
}

/// A batch that has been checked.
#[derive(Clone, Debug)]
pub struct Examples<const D: usize> {
    inputs: Tensor<D>,
    labels: Labels,
}

/// Adversarial points between the two stages of a method.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Perturbed<const D: usize> {
    /// The points.
    pub adversarial: Tensor<D>,
    /// What they took.
    pub cost: Cost,
    /// Seed of dropout in this step.
    pub seed: u64,
    /// What [`WrmTraining`] moved.
    pub transport: Option<Transport>,
}

impl Cost {
    fn gradients(gradient_evaluations: u64) -> Self {
        Self { gradient_evaluations, ..Self::default() }
    }
}

impl AddAssign for Cost {
    fn add_assign(&mut self, other: Self) {
        self.gradient_evaluations += other.gradient_evaluations;
        self.forward_passes += other.forward_passes;
        self.first_layer_evaluations += other.first_layer_evaluations;
    }
}

impl<const D: usize> Examples<D> {
    /// The unperturbed inputs.
    pub fn inputs(&self) -> &Tensor<D> {
        &self.inputs
    }

    /// The labels.
    pub fn labels(&self) -> &Tensor<1, Int> {
        &self.labels
    }
}

impl<M: Module + Sync + 'static, const D: usize> RobustProgram<M, D> {
    /// Checks a batch: at least one example, a label for each, every label a class.
    ///
    /// # Errors
    /// [`EmptyBatch`](crate::Error::EmptyBatch), [`Shape`](crate::Error::Shape), [`Label`](crate::Error::Label).
    pub fn examples(&self, inputs: Tensor<D>, labels: Tensor<1, Int>) -> Result<Examples<D>> {
        self.check(&inputs, &labels, "a training step")?;
        Ok(Examples { inputs: inputs.inner(), labels: labels.inner() })
    }
}

/// Seed and steps: where random starts and dropout come from.
#[derive(Clone, Debug)]
struct Clock {
    seed: u64,
    step: u64,
    random: Random,
}

impl Clock {
    fn new(seed: u64) -> Self {
        Self { seed, step: 0, random: Random::new(seed).fork("robust-training") }
    }

    /// The seed of this step's dropout.
    fn tick(&mut self) -> u64 {
        self.step += 1;
        self.seed.wrapping_add(self.step - 1)
    }

    fn state(&self) -> State {
        State::new().with("step", self.step).with_nested("start", self.random.state())
    }

    fn load_state(&mut self, mut state: State) -> Result<()> {
        let step = state.take("step")?;
        let mut random = self.random.clone();
        random.load_state(state.take_nested("start"))?;
        state.finish()?;
        (self.step, self.random) = (step, random);
        Ok(())
    }
}

/// Both stages, then the running statistics at the adversarial points.
fn two_stages<M: Module + Sync + 'static, T: TwoStage<M, D>, const D: usize>(
    method: &mut T,
    program: &RobustProgram<M, D>,
    model: &M,
    inputs: Tensor<D>,
    labels: Labels,
) -> Result<RobustGradients<D>> {
    let batch = program.examples(inputs, labels)?;
    let saved = method.state();
    let mut run = || {
        let perturbed = method.perturb(program, model, &batch)?;
        let (gradient, evaluations) = method.outer(program, &Tree::from_module(model), &batch, &perturbed)?;
        finish(program, model, gradient, perturbed, evaluations)
    };
    run().or_else(|error| {
        method.load_state(saved)?;
        Err(error)
    })
}

fn finish<M: Module + Sync + 'static, const D: usize>(
    program: &RobustProgram<M, D>,
    model: &M,
    gradient: Gradient,
    perturbed: Perturbed<D>,
    evaluations: u64,
) -> Result<RobustGradients<D>> {
    let Perturbed { adversarial, mut cost, transport, .. } = perturbed;
    cost.gradient_evaluations += evaluations;
    cost.forward_passes += program.observe(model, &adversarial)?;
    Ok(RobustGradients {
        loss: Scalar::from_tensor(gradient.value),
        gradient: gradient.gradient,
        absent: gradient.absent,
        adversarial,
        cost,
        overfitting: None,
        transport,
    })
}
