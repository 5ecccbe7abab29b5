//! Adversarial examples for [Burn](burn).

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod error;
mod projection;
mod threat;

pub use error::{Error, Result};
pub use threat::{Norm, Threat};
