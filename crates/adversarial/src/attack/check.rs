//! Ranges of attacks' parameters.

use crate::error::{Error, Result};

/// Refuses 0.
pub(crate) fn at_least_one(parameter: &'static str, value: usize) -> Result<()> {
    match value {
        0 => Err(Error::Parameter { parameter, value: 0.0, bound: "at least 1" }),
        _ => Ok(()),
    }
}

/// Refuses numbers that are not above 0 and finite.
pub(crate) fn positive(parameter: &'static str, value: f64) -> Result<()> {
    match value > 0.0 && value.is_finite() {
        true => Ok(()),
        false => Err(Error::Parameter { parameter, value, bound: "a finite number above 0" }),
    }
}

/// Refuses numbers that are below 0 or not finite.
pub(crate) fn not_negative(parameter: &'static str, value: f64) -> Result<()> {
    match value >= 0.0 && value.is_finite() {
        true => Ok(()),
        false => Err(Error::Parameter { parameter, value, bound: "a finite number, at least 0" }),
    }
}

/// Refuses numbers that are not strictly between 0 and 1.
pub(crate) fn share(parameter: &'static str, value: f64) -> Result<()> {
    match value > 0.0 && value < 1.0 {
        true => Ok(()),
        false => Err(Error::Parameter { parameter, value, bound: "a number between 0 and 1, both excluded" }),
    }
}
