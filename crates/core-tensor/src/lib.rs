//! The core of Crucible: what every training technique for [Burn](burn) computes with.
//!
//! | | is | page |
//! |---|---|---|
//! | [`Tree`] | a point, gradient or tangent in parameter space: named leaves of any rank, a vector space | [`tree`] |
//! | [`Program`] | a recorded function of trees and batches, with exact second derivatives | [`program`] |
//! | [`GradientTransform`] | state plus `gradient -> gradient`, chained before a Burn optimizer | [`transform`] |
//!
//! Beside them: [`Scalar`], a number on the device whose reading is the only host synchronisation; [`Random`], seeded per
//! instance and equal on every backend; [`backward`], operations with a backward pass of their own; [`Error`], the one error type.
//!
//! # Features
//! `ndarray` and `flex` (default), `wgpu` and `cuda` only forward to Burn's backends. `testing` adds proptest strategies, laws
//! as assertions, and the conformance macro for transforms.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod backward;
pub mod error;
pub mod host;
mod kernels;
pub mod program;
pub mod random;
pub mod scalar;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod transform;
pub mod tree;

pub use error::{Error, Result};
pub use program::{
    Autocast, AutocastReport, Batch, BatchMapper, Frozen, Gradient, Jvp, Linearized, Origin, PerSample, Precision,
    Program, ProgramError, Pullback, Pushforward, Trace, TraceInput, Variable, batch_tensors, central_difference,
};
pub use random::Random;
pub use scalar::Scalar;
pub use transform::{Chain, Context, GradientTransform, Outcome, Trainer, Update};
pub use tree::{LeafName, Tree};
