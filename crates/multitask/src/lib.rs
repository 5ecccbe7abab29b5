//! Many losses, one model.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod aggregation;
mod aggregator;
mod check;
mod error;
mod gramian;
mod jacobian;
pub mod solvers;

#[cfg(test)]
mod golden;
#[cfg(test)]
mod laws;

pub use aggregation::*;
pub use aggregator::{Aggregated, Aggregator, GramianAggregator, Method, Report};
pub use error::{Error, Result};
pub use gramian::Gramian;
pub use jacobian::{Jacobian, RepresentationOnly};
