//! Bilevel optimisation for [Burn](burn): `min_x f(x, z*(x))` with `z*(x) = argmin_z g(x, z)`.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod certificate;
mod diagnose;
pub mod error;
mod forward;
mod implicit;
mod inner;
mod method;
mod penalty;
mod problem;
pub mod single_loop;
pub mod solver;
mod unroll;
pub mod update;

#[cfg(test)]
mod laws;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod unrolled_laws;

pub use certificate::{Certificate, Curvature};
pub use diagnose::{Diagnosis, diagnose};
pub use error::{Error, Result};
pub use forward::Forward;
pub use implicit::Implicit;
pub use inner::NewtonCg;
pub use method::{Hypergradient, Method};
pub use penalty::Penalty;
pub use problem::{Absent, Batches, Bilevel, Linearization, Partials, Problem, Product, Products};
pub use single_loop::{Loop, LoopState};
pub use solver::{
    ConjugateGradient, Dense, FixedPoint, Gmres, Identity, LinearSolver, NegativeCurvature, Neumann, Nystrom, Operator,
};
pub use unroll::{Checkpoint, Unroll, Unrolled};
pub use update::Update;
