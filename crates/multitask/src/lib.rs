//! Many losses, one [Burn](burn) model: gradients of many tasks are aggregated into one step, or losses are weighted
//! before it.
//!
//! Instead of one backward pass of the summed losses, take the gradient of every task ([`Tree`](core_tensor::Tree))
//! and let an
//! [`Aggregator`] decide:
//!
//! ```
//! # use burn::{nn::LinearConfig, optim::{GradientsParams, SgdConfig}, tensor::{Device, Tensor}};
//! # use core_tensor::Tree;
//! use multitask::{Aggregator, UpGrad};
//!
//! # let device = Device::flex().autodiff();
//! # let mut model = LinearConfig::new(3, 2).init(&device);
//! # let mut optim = SgdConfig::new().init();
//! # let x = Tensor::<2>::ones([4, 3], &device);
//! let mut aggregator = UpGrad::new();
//! # let loss = |model: &burn::nn::Linear, task: usize| model.forward(x.clone()).slice_dim(1, task..task + 1).powi_scalar(2).mean();
//! let rows: Vec<Tree> = (0..2)
//!     .map(|task| {
//!         let grads = GradientsParams::from_grads(loss(&model, task).backward(), &model);
//!         Tree::from_gradients_params(grads, &model)
//!     })
//!     .collect();
//! let out = aggregator.aggregate(&rows)?;
//! println!("{} of the tasks' pairs conflict, weights {:?}", out.report.conflicts(), out.report.weights);
//! model = optim.step(1e-2, model, out.gradient.into_params()?);
//! # let _ = model;
//! # Ok::<(), multitask::Error>(())
//! ```
//!
//! # Which method
//!
//! | you want | take | it costs |
//! |---|---|---|
//! | to know whether anything is needed | [`Mean`] with tuned loss weights, and [`Report`] of any other | one backward pass |
//! | no task made worse by a step | [`UpGrad`]; [`DualProj`] is cheaper, [`Mgda`] stricter | a backward pass a task |
//! | the mean's progress, the worst task looked after | [`CaGrad`] | the same |
//! | losses of unknown scales | [`NashMtl`], [`ImtlG`], [`ConFig`]; fairness tuned: [`FairGrad`] | the same |
//! | no dominance and no conflict among many tasks | [`AlignedMtl`] | the same |
//! | what others compare with | [`PcGrad`], [`GradVac`], [`GradDrop`], [`RandomWeights`], [`Sum`], [`Constant`] | the same |
//! | guarantees with noisy gradients | [`SdmGrad`], [`MoDo`], [`MoCo`], or [`CrMogm`] round any method | up to three samples |
//! | a few gradients broken or hostile | [`Krum`], [`TrimmedMean`] | the same |
//! | one backward pass for all tasks | [`weighting`]: [`Famo`](weighting::Famo), [`Uncertainty`](weighting::Uncertainty) and their kin | one |
//! | other weights in every layer | [`PerGroup`] | nothing more |
//! | cheap gradients at the shared representation | [`RepresentationOnly`] | small gradients, one more pass |
//!
//! # Two kinds
//!
//! A [`GramianAggregator`] needs the inner products of the gradients only ([`Gramian`]): its result is `Jᵀw`, and a
//! source of
//! gradients ([`Jacobian`]) need not keep the rows. Every one of them is an [`Aggregator`] of rows too. [`GradDrop`],
//! [`TrimmedMean`], [`MoCo`]
//! and [`ExcessMtl`](weighting::ExcessMtl) need the rows.
//!
//! # What all keep
//!
//! - Weights are computed in `f64` from exact solvers ([`solvers`]), whatever the scale of the gradients. Where a
//! method has no answer the result is
//!   [`Error::NoWeights`] with the Gramian's condition, never another method's weights.
//! - A gradient that is not finite is left out and named in [`Report::dropped`]; the others are aggregated as if it
//! were not there. If
//!   none is left the result is zero.
//! - States save and resume bit for bit ([`Method::state`]); randomness is seeded per instance.
//! - Which laws a method keeps (no conflict, linear under scaling, zero where stationary…) is in its documentation,
//! and tested for each.

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
