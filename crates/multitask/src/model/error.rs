//! What can go wrong with a multi-task model, its gradients and its training step.

/// Why a multi-task model could not be recorded, differentiated or trained.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// An error of trees, programs or optimizers.
    #[error(transparent)]
    Core(#[from] core_tensor::Error),
    /// The vector of losses has another length than the list of tasks.
    #[error("the model names {expected} tasks, but `losses` gives {found} losses")]
    Losses {
        /// Number of tasks.
        expected: usize,
        /// Number of losses.
        found: usize,
    },
    /// A task's name cannot be used.
    #[error("task {task} is named `{name}`: {reason}")]
    TaskName {
        /// Position of the task.
        task: usize,
        /// Its name.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A parameter was said to belong to a task that does not exist.
    #[error("parameter `{path}` belongs to task {task}, but there are {tasks} tasks")]
    UnknownTask {
        /// Path of the parameter.
        path: String,
        /// The task named.
        task: usize,
        /// Number of tasks.
        tasks: usize,
    },
    /// A parameter said to belong to one task moves the loss of another.
    #[error("parameter `{path}` is said to belong to task {owner}, but the loss of task {task} depends on it")]
    NotOwn {
        /// Path of the parameter.
        path: String,
        /// The task it was said to belong to.
        owner: usize,
        /// Another task whose loss depends on it.
        task: usize,
    },
    /// A list has not one entry a task.
    #[error("{what} has {found} entries, expected one for each of {expected} tasks")]
    PerTask {
        /// What was given.
        what: &'static str,
        /// Number of tasks.
        expected: usize,
        /// Number of entries.
        found: usize,
    },
    /// No task has a label in the batch, so there is nothing to train on.
    #[error("no task has a label in this batch")]
    NothingLabelled,
    /// A task was asked for that has no label in the batch.
    #[error("task {task} has no label in this batch, so it has no gradient")]
    Absent {
        /// The task.
        task: usize,
    },
    /// A parameter of a method is outside its range.
    #[error("{parameter} = {value} is out of range, expected {bound}")]
    Parameter {
        /// Name of the parameter.
        parameter: &'static str,
        /// The value given.
        value: f64,
        /// The range, in words.
        bound: &'static str,
    },
    /// Rounding kept a quadratic program from being solved. Nothing was substituted for its solution.
    #[error("{what} was not found: residual {residual:.1e} after {iterations} changes of the active set")]
    Unsolved {
        /// What was looked for.
        what: &'static str,
        /// What was left of the optimality conditions.
        residual: f64,
        /// Changes of the active set.
        iterations: usize,
    },
    /// What the caller used to join the tasks' gradients failed.
    #[error("joining the tasks' gradients failed: {0}")]
    Join(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl From<crate::Error> for ModelError {
    fn from(error: crate::Error) -> Self {
        match error {
            crate::Error::Core(error) => Self::Core(error),
            crate::Error::Model(error) => *error,
            error => Self::join(error),
        }
    }
}

impl ModelError {
    /// Wraps the error of an aggregator or weighting.
    pub fn join(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Join(source.into())
    }

    pub(crate) fn parameter(parameter: &'static str, value: f64, bound: &'static str) -> Self {
        Self::Parameter { parameter, value, bound }
    }
}

/// A result whose error is [`ModelError`] unless said otherwise.
pub type Result<T, E = ModelError> = std::result::Result<T, E>;
