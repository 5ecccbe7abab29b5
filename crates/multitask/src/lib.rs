//! Multi-task learning for [Burn](burn).
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
