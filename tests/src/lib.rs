//! What Crucible's cross-crate tests share: the table that walks burn-nn ([`coverage`]), conformance vectors
//! ([`conform`]), the small models that are measured ([`models`], [`tasks`]) and numbers drawn the same way everywhere ([`draw`]).

#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod conform;
pub mod coverage;
pub mod draw;
pub mod models;
pub mod tasks;
