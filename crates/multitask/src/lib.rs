//! Many losses, one model.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod aggregation;
mod aggregator;
mod check;
mod error;
mod gramian;
mod jacobian;
mod per_group;
pub mod solvers;
pub mod weighting;

#[cfg(test)]
mod golden;
#[cfg(test)]
mod laws;

pub use aggregation::*;
pub use aggregator::{Aggregated, Aggregator, GramianAggregator, Method, Report};
pub use error::{Error, Result};
pub use gramian::Gramian;
pub use jacobian::{Jacobian, RepresentationOnly};
pub use per_group::PerGroup;
