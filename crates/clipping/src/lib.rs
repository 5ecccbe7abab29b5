//! Gradient clipping for [Burn](burn): every rule in use, without host synchronisation.
//!
//! Burn clips tensor by tensor. The norm of all parameters together is one line in a training loop:
//!
//! ```
//! # use burn::{nn::LinearConfig, optim::{AdamWConfig, GradientsParams}, tensor::{Device, Tensor}};
//! # let device = Device::flex().autodiff();
//! # let mut model = LinearConfig::new(3, 1).init(&device);
//! # let mut optim = AdamWConfig::new().init();
//! # let loss = model.forward(Tensor::<2>::ones([4, 3], &device)).powi_scalar(2).mean();
//! let grads = GradientsParams::from_grads(loss.backward(), &model);
//! let (grads, clip) = clipping::clip_grad_norm(grads, &model, 1.0)?; // the line
//! model = optim.step(1e-3, model, grads);
//! # let _ = (model, clip);
//! # Ok::<(), core_tensor::Error>(())
//! ```
//!
//! Behind it any Burn optimizer, with the rule as a transform in a [`Chain`](core_tensor::Chain):
//!
//! ```
//! # use burn::{nn::LinearConfig, optim::AdamWConfig, tensor::{Device, Tensor}};
//! # use clipping::ClipByGlobalNorm;
//! # use core_tensor::Chain;
//! # let device = Device::flex().autodiff();
//! # let mut model = LinearConfig::new(3, 1).init(&device);
//! # let loss = model.forward(Tensor::<2>::ones([4, 3], &device)).powi_scalar(2).mean();
//! let mut train = Chain::new().then(ClipByGlobalNorm::new(1.0)?).before(AdamWConfig::new().init());
//! model = train.step(1e-3, model, loss)?.into_model();
//! # let _ = model;
//! # Ok::<(), core_tensor::Error>(())
//! ```
//!
//! In burn-train the chain is a skipped field of the model, and `TrainStep::optimize` is one line:
//!
//! ```
//! use burn::lr_scheduler::module_lr_scheduler::ModuleLearningRate;
//! use burn::module::Module;
//! use burn::nn::Linear;
//! use burn::optim::{GradientsParams, ModuleOptimizer};
//! use core_tensor::transform::SharedChain;
//!
//! #[derive(Module, Debug)]
//! struct Model {
//!     layer: Linear,
//!     #[module(skip)]
//!     chain: SharedChain, // Chain::new().then(ClipByGlobalNorm::new(1.0)?).shared()
//! }
//!
//! impl Model {
//!     // In `impl TrainStep for Model`:
//!     fn optimize(self, optim: &mut ModuleOptimizer, lr: ModuleLearningRate, grads: GradientsParams) -> Self {
//!         self.chain.clone().optimize(self, optim, lr, grads).expect("step").into_model()
//!     }
//! }
//! ```
//!
//! | what is limited | rule |
//! |---|---|
//! | the norm of everything | [`ClipByGlobalNorm`], [`NormaliseGradient`] |
//! | the norm of a tensor, of a group | [`ClipByTensorNorm`], [`ClipByGroupNorm`], [`ClipByBlockRms`] |
//! | a unit relative to its weights | [`AdaptiveGradientClip`] |
//! | an element | [`ClipByValue`], [`Spam`], [`AcClip`] |
//! | by a history of norms | [`AutoClip`], [`ZClip`], [`AdaGc`], [`QuantileClip`], [`StableSpam`] |
//! | the optimizer's update | [`StableAdamW`], [`ClipByBlockRms`] |
//! | a method of its own | [`ClippedSstm`] |
//! | what is not finite | [`NonFinite`] |
//! | every sample | [`per_sample`], [`DpSgd`] |
//!
//! Noisy clipped gradients spend privacy: [`accountant`], [`PoissonSampler`], [`GaussianNoise`]. Whether a recurrent network
//! needs clipping: [`recurrent`].
//!
//! Limits: 0 makes the gradient zero, infinity changes nothing, negative or NaN is an
//! [`Error::Parameter`](core_tensor::Error::Parameter). A zero gradient stays zero, the empty tree stays empty.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod accountant;
pub mod per_sample;
pub mod recurrent;

mod acclip;
mod adagc;
mod adaptive_gradient;
mod auto_clip;
mod block_rms;
mod clipped_sstm;
mod dp_sgd;
mod elementwise;
mod gaussian_noise;
mod global_norm;
mod limit;
mod non_finite;
mod normalise;
mod poisson;
mod quantile;
mod report;
mod spam;
mod stable_adamw;
mod tensor_norm;
mod unit_norm;
mod value;
mod zclip;

#[cfg(test)]
mod laws;
#[cfg(test)]
mod no_reads;

pub use acclip::AcClip;
pub use adagc::AdaGc;
pub use adaptive_gradient::{AdaptiveGradientClip, UnitAxes};
pub use auto_clip::AutoClip;
pub use block_rms::ClipByBlockRms;
pub use clipped_sstm::ClippedSstm;
pub use dp_sgd::{DpSgd, PrivateStep};
pub use gaussian_noise::GaussianNoise;
pub use global_norm::{ClipByGlobalNorm, clip_by_global_norm, clip_grad_norm};
pub use non_finite::{NonFinite, NonFiniteGradient, NonFinitePolicy, non_finite_leaves};
pub use normalise::NormaliseGradient;
pub use poisson::PoissonSampler;
pub use quantile::QuantileClip;
pub use report::{Clip, Epsilon, Reports, combine_norms};
pub use spam::{Spam, StableSpam};
pub use stable_adamw::StableAdamW;
pub use tensor_norm::{ClipByGroupNorm, ClipByTensorNorm};
pub use value::{ClipByValue, clip_by_value, clip_grad_value};
pub use zclip::ZClip;
