//! Checks of limits and rates, shared by every rule.

use core_tensor::{Error, Result, Scalar};

/// A limit: zero, positive or infinite.
pub(crate) fn limit(parameter: &'static str, value: f64) -> Result<f64> {
    match value >= 0.0 {
        true => Ok(value),
        false => Err(Error::Parameter { parameter, value, bound: "0 <= limit <= inf" }),
    }
}

/// A finite number above zero.
pub(crate) fn positive(parameter: &'static str, value: f64) -> Result<f64> {
    match value > 0.0 && value < f64::INFINITY {
        true => Ok(value),
        false => Err(Error::Parameter { parameter, value, bound: "0 < value < inf" }),
    }
}

/// A finite number, zero or more.
pub(crate) fn not_negative(parameter: &'static str, value: f64) -> Result<f64> {
    match (0.0..f64::INFINITY).contains(&value) {
        true => Ok(value),
        false => Err(Error::Parameter { parameter, value, bound: "0 <= value < inf" }),
    }
}

/// The decay of a moving average.
pub(crate) fn decay(parameter: &'static str, value: f64) -> Result<f64> {
    match (0.0..1.0).contains(&value) {
        true => Ok(value),
        false => Err(Error::Parameter { parameter, value, bound: "0 <= value < 1" }),
    }
}

/// A share of the whole, ends included.
pub(crate) fn share(parameter: &'static str, value: f64) -> Result<f64> {
    match (0.0..=1.0).contains(&value) {
        true => Ok(value),
        false => Err(Error::Parameter { parameter, value, bound: "0 <= value <= 1" }),
    }
}

/// The numbers, waiting for a device at most once.
pub(crate) fn read(scalars: &[Scalar]) -> Vec<f64> {
    let known: Option<Vec<f64>> = scalars.iter().map(Scalar::known).collect();
    known.unwrap_or_else(|| {
        let tensors = scalars.iter().map(|x| x.tensor().cast(burn::tensor::DType::F32)).collect();
        burn::tensor::Tensor::cat(tensors, 0).into_data().iter::<f64>().collect()
    })
}
