//! Multi-task learning for [Burn](burn).
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod model;
mod task_gradients;

pub use model::{
    Forward, Heads, Masked, ModelError, MultiTask, MultiTaskModel, NoHeads, Part, Result as ModelResult, TaskLoss, TaskMask,
};
pub use task_gradients::{ForwardPass, GramianBy, HeadGradient, TaskGradients, TaskGramian, TaskProgram};
