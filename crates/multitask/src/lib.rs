//! Multi-task learning for [Burn](burn): one network, several tasks, and what to do with their gradients.
//!
//! $$\min_{u, v_1 … v_m} \frac1m \sum_i f_i(u, v_i)$$ with parameters `u` that tasks share and `vᵢ` of their own. Burn's tape is gone
//! after one `backward`; here one forward pass gives every task's gradient, exactly:
//!
//! ```
//! use burn::{nn::{LinearConfig, Relu}, optim::AdamConfig, tensor::{Device, Tensor}};
//! use core_tensor::{Chain, Tree};
//! use multitask::{MultiTask, TaskProgram, TaskTrainer, UpGrad};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let device = Device::flex();
//! # let linear = |from, to| LinearConfig::new(from, to).init(&device.clone().autodiff());
//! # let (body, left, right) = ((linear(3, 8), Relu::new()), linear(8, 1), linear(8, 1));
//! # let loss = |out: Tensor<2>, y: &Tensor<2>| (out - y.clone()).square().mean();
//! # let batch = (Tensor::<2>::ones([4, 3], &device), Tensor::<2>::ones([4, 1], &device));
//! let net = MultiTask::new(body).head("left", left, loss).head("right", right, loss);
//!
//! let program = TaskProgram::record(&net, &batch)?;
//! let gradients = program.gradients(&Tree::from_module(&net), &batch)?; // .rows, .own, .losses, .absent
//!
//! let mut train = TaskTrainer::new(Chain::new().before(AdamConfig::new().init()));
//! let step = train.step_by(1e-3, net, &program, &batch, &mut UpGrad::new())?;
//! println!("cosine {}", step.report.conflict.cosine(0, 1));
//! # let _ = gradients; Ok(()) }
//! ```
//!
//! | to | take |
//! |---|---|
//! | say what a model and its tasks are | [`MultiTask`], or [`MultiTaskModel`] for a module of your own |
//! | leave out missing labels | [`Masked`], [`TaskMask`] |
//! | get the tasks' gradients, or their Gramian without storing them | [`TaskProgram`] |
//! | get them where inputs are not shared | [`SeparateTasks`] |
//! | get cheap ones at the representation, or exact ones without a pass through every head | [`RepresentationProgram`] |
//! | get them in factored form, from activations and output gradients | [`layerwise::LayerwiseProgram`] |
//! | make one gradient of many | [`Aggregator`], [`GramianAggregator`]: a table below |
//! | train | [`TaskTrainer`] |
//! | choose the next task and batch | [`TaskBatches`] |
//! | see conflicts | [`Conflict`] |
//! | share more or less than one body | [`architecture`] |
//! | choose a trade-off, or learn all of them | [`pareto`] |
//! | measure | [`metrics`] |
//!
//! # Which method
//!
//! | you want | take | it costs |
//! |---|---|---|
//! | to know whether anything is needed | [`Mean`] with tuned loss weights, and [`Report`] of any other | one backward pass |
//! | no task made worse by a step | [`UpGrad`]; [`DualProj`] is cheaper, [`Mgda`] stricter | a backward pass a task |
//! | the mean's progress, the worst task looked after | [`CaGrad`] | the same |
//! | losses of unknown scales | [`NashMtl`], [`ImtlG`], [`ConFig`]; fairness tuned: [`FairGrad`] | the same |
//! | no dominance and no conflict among many tasks | [`AlignedMtl`] | the same |
//! | what others compare with | [`PcGrad`], [`GradVac`], [`GradDrop`], [`RandomWeights`], [`Sum`], [`Constant`] | the same |
//! | guarantees with noisy gradients | [`SdmGrad`], [`MoDo`], [`MoCo`], or [`CrMogm`] round any method | up to three samples |
//! | a few gradients broken or hostile | [`Krum`], [`TrimmedMean`] | the same |
//! | one backward pass for all tasks | [`weighting`]: [`Famo`](weighting::Famo), [`Uncertainty`](weighting::Uncertainty) and their kin | one |
//! | other weights in every layer | [`PerGroup`] | nothing more |
//! | cheap gradients at the shared representation | [`RepresentationOnly`] | small gradients, one more pass |
//!
//! # Two kinds
//!
//! A [`GramianAggregator`] needs the inner products of the gradients only ([`Gramian`]): its result is `Jᵀw`, and a source of
//! gradients ([`Jacobian`]) need not keep the rows. Every one of them is an [`Aggregator`] of rows too. [`GradDrop`], [`TrimmedMean`], [`MoCo`]
//! and [`ExcessMtl`](weighting::ExcessMtl) need the rows.
//!
//! # What all keep
//!
//! - Weights are computed in `f64` from exact solvers ([`solvers`]), whatever the scale of the gradients. Where a method has no answer the result is
//!   [`Error::NoWeights`] with the Gramian's condition, never another method's weights.
//! - A gradient that is not finite is left out and named in [`Report::dropped`]; the others are aggregated as if it were not there. If
//!   none is left the result is zero.
//! - States save and resume bit for bit ([`Method::state`]); randomness is seeded per instance.
//! - Which laws a method keeps (no conflict, linear under scaling, zero where stationary…) is in its documentation, and tested for each.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod architecture;
pub mod layerwise;
pub mod metrics;
pub mod model;
pub mod pareto;
pub mod solvers;
pub mod weighting;

mod aggregation;
mod aggregator;
mod check;
mod diagnostics;
#[cfg(test)]
mod digits;
mod error;
#[cfg(test)]
mod golden;
mod gramian;
mod jacobian;
#[cfg(test)]
mod laws;
mod per_group;
mod representation;
mod sampling;
mod separate;
mod step;
mod task_gradients;

pub use diagnostics::Conflict;
pub use model::{
    Forward, Heads, ManyHeads, Masked, ModelError, MultiTask, MultiTaskModel, NoHeads, Part, Result as ModelResult,
    TaskLoss, TaskMask,
};
pub use representation::{RepresentationPass, RepresentationProgram};
pub use sampling::{Schedule, TaskBatches, TaskDraw};
pub use separate::SeparateTasks;
pub use step::{TaskReport, TaskStep, TaskStepError, TaskTrainer};
pub use task_gradients::{ForwardPass, GramianBy, HeadGradient, PassJacobian, TaskGradients, TaskGramian, TaskProgram};

pub use aggregation::*;
pub use aggregator::{Aggregated, Aggregator, GramianAggregator, Method, Report};
pub use error::{Error, Result};
pub use gramian::Gramian;
pub use jacobian::{Jacobian, RepresentationOnly};
pub use per_group::PerGroup;
