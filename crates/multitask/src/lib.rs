//! Multi-task learning for [Burn](burn): one network, several tasks, and what to do with their gradients.
//!
//! $$\min_{u, v_1 … v_m} \frac1m \sum_i f_i(u, v_i)$$ with parameters `u` that tasks share and `vᵢ` of their own. Burn's tape is gone
//! after one `backward`; here one forward pass gives every task's gradient, exactly:
//!
//! ```
//! use burn::{nn::{LinearConfig, Relu}, optim::AdamConfig, tensor::{Device, Tensor}};
//! use core_tensor::{Chain, Tree};
//! use multitask::{MultiTask, TaskProgram, TaskTrainer};
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
//! let step = train.step(1e-3, net, &program, &batch, |rows: &[Tree]| rows[0].clone().add(&rows[1]))?;
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
//! | get cheap ones at the representation | [`RepresentationProgram`] |
//! | get a layer's share of the Gramian from activations | [`layerwise`] |
//! | train | [`TaskTrainer`] |
//! | choose the next task and batch | [`TaskBatches`] |
//! | see conflicts | [`Conflict`] |
//! | share more or less than one body | [`architecture`] |
//! | choose a trade-off, or learn all of them | [`pareto`] |
//! | measure | [`metrics`] |

#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod architecture;
pub mod layerwise;
pub mod metrics;
pub mod model;
pub mod pareto;

mod diagnostics;
#[cfg(test)]
mod digits;
mod representation;
mod sampling;
mod separate;
mod step;
mod task_gradients;

pub use diagnostics::Conflict;
pub use model::{
    Forward, Heads, Masked, ModelError, MultiTask, MultiTaskModel, NoHeads, Part, Result as ModelResult, TaskLoss,
    TaskMask,
};
pub use representation::{RepresentationPass, RepresentationProgram};
pub use sampling::{Schedule, TaskBatches, TaskDraw};
pub use separate::SeparateTasks;
pub use step::{TaskReport, TaskStep, TaskStepError, TaskTrainer};
pub use task_gradients::{ForwardPass, GramianBy, HeadGradient, TaskGradients, TaskGramian, TaskProgram};
