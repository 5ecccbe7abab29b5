//! Bilevel optimisation for [Burn](burn): `min_x f(x, z*(x))` with `z*(x) = argmin_z g(x, z)`.
//!
//! A [`Problem`] is two recorded functions of the outer variable `x` and the inner variable `z`, given as ordinary Burn code on trees or
//! modules. A [`Method`] makes hypergradients of it, each with a [`Certificate`]; a [`Loop`] moves both variables.
//!
//! | you have | take |
//! |---|---|
//! | a solved inner problem | [`Implicit`] with a solver: [`ConjugateGradient`], [`Neumann`], [`FixedPoint`], [`Gmres`], [`Nystrom`], [`Dense`], [`Identity`] |
//! | steps of an optimizer | [`Unroll`], through [`Sgd`](update::Sgd), [`Momentum`](update::Momentum), [`Adam`](update::Adam) or an [`Update`] of yours |
//! | few numbers in `x`, many steps | [`Forward`] |
//! | operations without second derivatives | [`Penalty`], or [`Products::CentralDifference`] |
//! | no time to solve the inner problem | a [`single_loop`]: SOBA, SABA, stocBiO, AmIGO, MRBO, SUSTAIN, TTSA; F²SA, V-PBGD, BOME |
//! | three levels | [`Trilevel`] |
//! | many tasks | [`meta`]: MAML, FOMAML, ANIL, Meta-SGD, Reptile, iMAML |
//! | a model to train, and hyper-parameters to learn | [`Tune`] |
//! | wrong labels, or too many examples | [`data`]: hyper-cleaning, meta-weight-net, distillation |
//! | operations to choose from | [`darts`] |
//! | only a learning rate | [`HypergradientDescent`] |
//! | a rate or weight decay of any optimizer, in a loop of one's own | [`OneStep`] |
//!
//! What would be wrong is a named [`Error`], never a zero: a leaf of `x` that is detached, a stop-gradient in the inner objective, an operation without
//! a rule, negative curvature, a problem or a system that is not solved. [`diagnose`] compares any method with central differences.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod certificate;
pub mod darts;
pub mod data;
mod diagnose;
pub mod error;
mod forward;
mod implicit;
mod inner;
pub mod meta;
mod method;
mod multilevel;
mod one_step;
mod online;
pub mod parameterise;
mod penalty;
mod problem;
pub mod single_loop;
pub mod solver;
mod symmetry;
pub mod tune;
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
pub use multilevel::{Trilevel, TrilevelGradient};
pub use one_step::OneStep;
pub use online::HypergradientDescent;
pub use parameterise::Domain;
pub use penalty::Penalty;
pub use problem::{Absent, Batches, Bilevel, Linearization, Partials, Problem, Product, Products};
pub use single_loop::{Loop, LoopState};
pub use solver::{
    ConjugateGradient, Dense, FixedPoint, Gmres, Identity, LinearSolver, NegativeCurvature, Neumann, Nystrom, Operator,
};
pub use tune::{Tune, Tuned};
pub use unroll::{Checkpoint, Unroll, Unrolled};
pub use update::Update;
