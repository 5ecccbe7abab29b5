//! The error type of this crate.

/// A result whose error is [`Error`] unless said otherwise.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong in this crate. A hypergradient that would be wrong is one of these, never a zero.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A leaf of the outer variable does not reach the inner objective (nor the update): its hypergradient would be zero.
    #[error(
        "leaf `{leaf}` of the outer variable does not reach {place}; it is unused or detached there, and its hypergradient \
         would be zero"
    )]
    Detached {
        /// Path of the leaf.
        leaf: String,
        /// Where it was expected.
        place: &'static str,
    },
    /// The inner objective does not depend on a leaf of the inner variable, so that no minimiser is defined.
    #[error(
        "the inner objective does not depend on leaf `{leaf}` of the inner variable; it is unused or detached there"
    )]
    InnerIndependent {
        /// Path of the leaf.
        leaf: String,
    },
    /// Second derivatives of the inner objective depend on their order: its gradient is cut short by a stop-gradient (`detach`), and products with
    /// it would not be those that implicit and reverse differentiation need.
    #[error(
        "{block} of the inner objective is {one:e} taken one way and {other:e} the other, so its gradient is cut short by a stop-gradient \
         (`detach`), and implicit or reverse hypergradients would be wrong: hand such values in with the batch, differentiate forwards \
         (`Forward`), or say `Problem::allow_stop_gradients`"
    )]
    StopGradient {
        /// Which second derivatives.
        block: &'static str,
        /// Their value along two random directions.
        one: f64,
        /// The same with the directions exchanged.
        other: f64,
    },
    /// The linear solver met a direction along which the inner objective does not curve upwards.
    #[error(
        "the inner objective has curvature {quotient:e} along a direction of iteration {iteration}; the inner problem is not at \
         a strict minimum: solve it further, or set a damping above {:e}", -.quotient
    )]
    IndefiniteCurvature {
        /// The solver's iteration, from 0.
        iteration: usize,
        /// `pᵀHp/pᵀp`, the damping included.
        quotient: f64,
    },
    /// The gradient of the inner objective is above the tolerance asked for.
    #[error("the inner problem is not solved: ‖∇g‖ = {residual:e}, tolerance {tolerance:e}")]
    InnerNotConverged {
        /// `‖∇z g(x, z)‖`.
        residual: f64,
        /// The tolerance.
        tolerance: f64,
    },
    /// The linear system is solved less well than asked for.
    #[error("the linear system is not solved: relative residual {residual:e}, tolerance {tolerance:e}")]
    LinearNotConverged {
        /// `‖b − Hv‖/‖b‖`.
        residual: f64,
        /// The tolerance.
        tolerance: f64,
    },
    /// Something became NaN or infinite.
    #[error("{what} is not finite")]
    NotFinite {
        /// What.
        what: &'static str,
    },
    /// A problem too large for a method that stores a matrix.
    #[error("{what} needs {found} columns, at most {limit}; choose another solver or raise its limit")]
    TooLarge {
        /// The method.
        what: &'static str,
        /// Columns needed.
        found: usize,
        /// Columns allowed.
        limit: usize,
    },
    /// A matrix that has no inverse.
    #[error("{what} is singular; a damping above zero makes it regular")]
    Singular {
        /// Which matrix.
        what: &'static str,
    },
    /// A data set that is not where it should be, or not what it should be.
    #[error("{}: {problem}", .path.display())]
    Data {
        /// The file.
        path: std::path::PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// An error of trees or programs, such as an operation without a tangent rule.
    #[error(transparent)]
    Core(#[from] core_tensor::Error),
}

impl From<core_tensor::ProgramError> for Error {
    fn from(error: core_tensor::ProgramError) -> Self {
        Self::Core(error.into())
    }
}

pub(crate) fn refuse<T>(parameter: &'static str, value: f64, bound: &'static str) -> Result<T> {
    Err(Error::Core(core_tensor::Error::Parameter { parameter, value, bound }))
}

/// A finite number above zero.
pub(crate) fn positive(parameter: &'static str, value: f64) -> Result<f64> {
    match value > 0.0 && value < f64::INFINITY {
        true => Ok(value),
        false => refuse(parameter, value, "0 < value < inf"),
    }
}

/// A finite number, zero or more.
pub(crate) fn not_negative(parameter: &'static str, value: f64) -> Result<f64> {
    match (0.0..f64::INFINITY).contains(&value) {
        true => Ok(value),
        false => refuse(parameter, value, "0 <= value < inf"),
    }
}

/// A number of `[0, 1)`.
pub(crate) fn decay(parameter: &'static str, value: f64) -> Result<f64> {
    match (0.0..1.0).contains(&value) {
        true => Ok(value),
        false => refuse(parameter, value, "0 <= value < 1"),
    }
}

/// A count above zero.
pub(crate) fn at_least_one(parameter: &'static str, value: usize) -> Result<usize> {
    match value > 0 {
        true => Ok(value),
        false => refuse(parameter, 0.0, "value >= 1"),
    }
}

/// The number, refused if it is not finite.
pub(crate) fn finite(what: &'static str, value: f64) -> Result<f64> {
    match value.is_finite() {
        true => Ok(value),
        false => Err(Error::NotFinite { what }),
    }
}
