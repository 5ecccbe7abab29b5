//! The `lab` program: trains models with Crucible's techniques and writes run folders with reports.
//!
//! `lab study` runs the experiments of a technique's questions and reports on them ([`study`]). `lab attack` attacks an example of
//! one's own ([`attack`]).
//!
//! `lab train` goes the way of every technique here: loss → gradients → [`Tree`](core_tensor::Tree) → chain of transforms → Burn
//! optimizer; and measures curvature with exact Hessian-vector products. The modules are public for its tests.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod attack;
pub mod cli;
pub mod data;
pub mod error;
pub mod lanczos;
pub mod metrics;
pub mod model;
pub mod png;
pub mod recipe;
pub mod report;
pub mod run_dir;
pub mod scene;
pub mod scene_captions;
pub mod sentences;
pub mod study;
pub mod summary;
pub mod train;
