//! Bilevel optimisation for [Burn](burn): `min_x f(x, z*(x))` with `z*(x) = argmin_z g(x, z)`.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod certificate;
mod diagnose;
pub mod error;
mod implicit;
mod inner;
mod method;
mod problem;
pub mod solver;

#[cfg(test)]
mod laws;
#[cfg(test)]
mod testing;

pub use certificate::{Certificate, Curvature};
pub use diagnose::{Diagnosis, diagnose};
pub use error::{Error, Result};
pub use implicit::Implicit;
pub use inner::NewtonCg;
pub use method::{Hypergradient, Method};
pub use problem::{Absent, Batches, Bilevel, Linearization, Partials, Problem, Product, Products};
pub use solver::{
    ConjugateGradient, Dense, FixedPoint, Gmres, Identity, LinearSolver, NegativeCurvature, Neumann, Nystrom, Operator,
};
