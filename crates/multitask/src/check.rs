//! Checks of parameters, shared by every method.

use crate::{Error, Result};

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

/// A whole number of at least `least`.
pub(crate) fn at_least(parameter: &'static str, value: usize, least: usize, bound: &'static str) -> Result<usize> {
    match value >= least {
        true => Ok(value),
        false => Err(Error::Parameter { parameter, value: value as f64, bound }),
    }
}

/// A list of finite numbers, zero or more, not all of them zero.
pub(crate) fn preference(parameter: &'static str, values: &[f64]) -> Result<Vec<f64>> {
    for value in values {
        not_negative(parameter, *value)?;
    }
    match values.iter().any(|x| *x > 0.0) {
        true => Ok(values.to_vec()),
        false => Err(Error::Parameter { parameter, value: 0.0, bound: "at least one number above 0" }),
    }
}
