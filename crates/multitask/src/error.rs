//! The error type of this crate.

/// A result whose error is [`Error`] unless said otherwise.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong in this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A parameter is outside its range.
    #[error("{parameter} = {value} is out of range, expected {bound}")]
    Parameter {
        /// Name of the parameter.
        parameter: &'static str,
        /// The value given.
        value: f64,
        /// The range, in words.
        bound: &'static str,
    },
    /// There is no task to aggregate.
    #[error("there is no gradient to aggregate: the Jacobian has no rows")]
    NoTasks,
    /// A method was set up for another number of tasks.
    #[error("{what} of {method} is for {expected} tasks, there are {actual}")]
    Tasks {
        /// The method.
        method: &'static str,
        /// Which of its settings, or its state.
        what: &'static str,
        /// Tasks it is for.
        expected: usize,
        /// Tasks found.
        actual: usize,
    },
    /// A robust rule has too few rows left to do without the suspicious ones.
    #[error("{method} needs at least {least} finite rows, there are {actual}")]
    TooFewRows {
        /// The method.
        method: &'static str,
        /// Rows needed.
        least: usize,
        /// Finite rows found.
        actual: usize,
    },
    /// The method's equations have no solution for these gradients, or it was not found. Nothing was substituted for
    /// it.
    #[error(
        "{method} has no weights for these {tasks} gradients: {reason} (condition of the Gramian {condition:.1e}, \
         residual {residual:.1e} after {iterations} iterations)"
    )]
    NoWeights {
        /// The method.
        method: &'static str,
        /// What went wrong.
        reason: &'static str,
        /// Finite rows that took part.
        tasks: usize,
        /// Largest over smallest eigenvalue of the Gramian; infinite if it is singular.
        condition: f64,
        /// What was left of the equations.
        residual: f64,
        /// Iterations made.
        iterations: usize,
    },
    /// A loss for which the weighting is not defined.
    #[error("{method}: the loss of task {task} is {value}, expected {bound}")]
    Loss {
        /// The method.
        method: &'static str,
        /// Position of the task.
        task: usize,
        /// Its loss.
        value: f64,
        /// What it has to be.
        bound: &'static str,
    },
    /// A method that needs more than the losses was given the losses only.
    #[error("{method} needs {what}; {hint}")]
    Missing {
        /// The method.
        method: &'static str,
        /// What is missing.
        what: &'static str,
        /// How to give it.
        hint: &'static str,
    },
    /// An error of the model that the gradients come from.
    #[error(transparent)]
    Model(Box<crate::ModelError>),
    /// An error of the core.
    #[error(transparent)]
    Core(#[from] core_tensor::Error),
}

impl From<crate::ModelError> for Error {
    fn from(error: crate::ModelError) -> Self {
        Self::Model(Box::new(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_name_method_values_and_bounds() {
        let error = Error::NoWeights {
            method: "nash_mtl",
            reason: "the gradients are Pareto stationary",
            tasks: 2,
            condition: f64::INFINITY,
            residual: 0.5,
            iterations: 7,
        };
        assert_eq!(
            error.to_string(),
            "nash_mtl has no weights for these 2 gradients: the gradients are Pareto stationary (condition of the \
             Gramian inf, residual 5.0e-1 after 7 iterations)"
        );
        let error = Error::Tasks { method: "constant", what: "the list of weights", expected: 2, actual: 3 };
        assert_eq!(error.to_string(), "the list of weights of constant is for 2 tasks, there are 3");
    }

    #[test]
    fn errors_cross_threads() {
        fn check<T: Send + Sync + 'static>() {}
        check::<Error>();
    }
}
