//! The error type of this crate.

use burn::tensor::Device;

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
    /// What was to be computed does not run on the device of the tensor.
    #[error("{format} does not run on {device}; move the tensor to a host backend (flex, ndarray) first")]
    UnsupportedDevice {
        /// The device of the tensor.
        device: String,
        /// The number format, or what else was to be computed.
        format: String,
    },
    /// Bytes that do not hold what they should.
    #[error("{what} has {actual} bytes, expected {expected}")]
    Bytes {
        /// What was measured.
        what: &'static str,
        /// Bytes expected.
        expected: usize,
        /// Bytes found.
        actual: usize,
    },
    /// Text that is no precision policy.
    #[error("`{text}` is no precision policy: {reason}")]
    Policy {
        /// The text.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A call that the loss scale's protocol does not allow now.
    #[error("optimizer `{optimizer}`: {call} is not allowed {state}")]
    Protocol {
        /// Name of the optimizer.
        optimizer: String,
        /// The call.
        call: &'static str,
        /// What went before.
        state: &'static str,
    },
    /// An update of the scale without any gradient checked since the last one.
    #[error("no gradient was unscaled since the last update of the loss scale")]
    NothingChecked,
    /// A range was asked for before any value was observed.
    #[error("no value was observed")]
    NothingObserved,
    /// An observed element is NaN or infinite.
    #[error("element {index} is {value}, an observer needs finite values")]
    NotFinite {
        /// Its position (row-major).
        index: usize,
        /// Its value.
        value: f32,
    },
    /// The configuration of an optimizer that says nothing usable.
    #[error("the configuration of {name} cannot be read: {problem}")]
    Optimizer {
        /// Name of the optimizer.
        name: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// An error of the core.
    #[error(transparent)]
    Core(#[from] core_tensor::Error),
}

impl Error {
    pub(crate) fn device(device: &Device, format: impl ToString) -> Self {
        Self::UnsupportedDevice { device: format!("{device:?}"), format: format.to_string() }
    }
}

impl From<Error> for core_tensor::Error {
    /// As the error of a transform of a chain.
    fn from(error: Error) -> Self {
        match error {
            Error::Core(error) => error,
            other => Self::transform("mixed-precision", other),
        }
    }
}

/// A finite number above zero.
pub(crate) fn positive(parameter: &'static str, value: f64) -> Result<f64> {
    match value > 0.0 && value < f64::INFINITY {
        true => Ok(value),
        false => Err(Error::Parameter { parameter, value, bound: "0 < value < inf" }),
    }
}

/// A whole number within bounds.
pub(crate) fn within(
    parameter: &'static str,
    value: usize,
    range: std::ops::RangeInclusive<usize>,
    bound: &'static str,
) -> Result<usize> {
    match range.contains(&value) {
        true => Ok(value),
        false => Err(Error::Parameter { parameter, value: value as f64, bound }),
    }
}
