//! What Crucible's cross-crate tests share: the table that walks burn-nn ([`coverage`]), conformance vectors
//! ([`conform`]), the small models and problems that are measured ([`models`], [`tasks`], [`hypergradients`]) and numbers drawn the same way everywhere ([`draw`]).

#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod conform;
pub mod coverage;
pub mod draw;
pub mod hypergradients;
pub mod models;
pub mod tasks;
