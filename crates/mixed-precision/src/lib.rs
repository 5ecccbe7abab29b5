//! Low precision for [Burn](burn): number formats, quantisation with every rounding, bytes to store, and loss scaling.
//!
//! ```
//! use burn::tensor::{Device, Tensor};
//! use mixed_precision::{Format, Quantizer, Rounding};
//!
//! let x = Tensor::<1>::from_data([0.3, -1.7, 42.0], &Device::flex());
//! let y = Quantizer::new(Format::E4M3FN).rounding(Rounding::Stochastic(7)).fake_quantize(x)?;
//! # let _ = y;
//! # Ok::<(), mixed_precision::Error>(())
//! ```
//!
//! | | |
//! |---|---|
//! | [`Format`], [`Rounding`], [`Overflow`] | floating-point formats from 4 to 16 bits, scalar encode and decode |
//! | [`Quantizer`], [`Packed`] | Q(x) on tensors and trees, straight-through gradients, real bytes |
//! | [`Uniform`], [`FixedPoint`] | evenly spaced integers of 2 to 16 bits, fixed point |
//! | [`Mx`], [`NvFp4`], [`sqnr`] | blocks that share a scale, and how loud their error is |
//! | [`Lsq`], [`observers`] | step sizes that are learned, ranges that are observed |
//! | [`fp8`] | FP8 recipes, and linear and convolution layers by them |
//! | [`optim`] | optimizer state of 8 and 4 bits, weights of `bf16` that learn from small updates |
//! | [`LossScale`], [`SharedLossScale`], [`Unscale`] | loss scaling, static and dynamic, alone or in a chain |
//! | [`autocast`], [`Policy`], [`Amp`] | mixed precision operation by operation, or by module, and a training step in it |
//! | [`Compressor`], [`Compress`] | compressed gradients (QSGD, signSGD, top-k, rand-k, natural) with their constants |
//! | [`ErrorFeedback`], [`Ef21`], [`Workers`] | biased compressors made to converge, one or many workers |
//! | [`Swalp`] | weights in low precision, averaged in high |
//! | [`measure`] | variance and bias of any Q |
//!
//! Quantisation runs over host memory (backends flex and ndarray); [`Quantizer`] on wgpu and CUDA too, bit for bit alike.
//! Elsewhere, and where a technique has no kernel, tensors are read back, rounded on the host and moved there again. What is being
//! recorded has no numbers: an [`Error::UnsupportedDevice`]. Loss scaling works on every device.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod amp;
pub mod autocast;
mod bits;
mod blocks;
mod compress;
#[cfg(any(feature = "wgpu", feature = "cuda"))]
mod device;
mod ef21;
mod error;
mod error_feedback;
mod fixed_point;
mod format;
pub mod fp8;
mod loss_scale;
mod lsq;
mod measure;
mod memory;
mod mx;
mod nvfp4;
pub mod observers;
pub mod optim;
mod packed;
mod policy;
mod quantizer;
mod rounding;
mod sqnr;
mod straight_through;
mod swalp;
mod uniform;
mod unscale;
mod workers;

#[cfg(test)]
mod laws;

pub use amp::Amp;
pub use compress::{Compress, Compressor, Flat, Keep, Natural, Qsgd, QsgdNorm, RandK, SignSgd, TopK};
pub use ef21::Ef21;
pub use error::{Error, Result};
pub use error_feedback::ErrorFeedback;
pub use fixed_point::FixedPoint;
pub use format::{Format, Specials};
pub use loss_scale::{LossScale, ScaleChange, Step, Unscaled};
pub use lsq::{Lsq, LsqConfig};
pub use measure::{Measured, measure};
pub use mx::{Element, Mx, MxTensor, ScaleRule};
pub use nvfp4::{NvFp4, NvFp4Tensor};
pub use packed::Packed;
pub use policy::Policy;
pub use quantizer::Quantizer;
pub use rounding::{Overflow, Rounding, word};
pub use sqnr::sqnr;
pub use swalp::Swalp;
pub use uniform::{Granularity, Uniform, UniformTensor};
pub use unscale::{SharedLossScale, Unscale};
pub use workers::Workers;
