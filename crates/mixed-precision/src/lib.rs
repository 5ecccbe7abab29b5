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
//! | [`LossScale`], [`SharedLossScale`], [`Unscale`] | loss scaling, static and dynamic, alone or in a chain |
//!
//! Quantisation runs over host memory (backends flex and ndarray); [`Quantizer`] on wgpu and CUDA too, bit for bit alike.
//! What does not run on a tensor's device is an [`Error::UnsupportedDevice`]. Loss scaling works on every device.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod bits;
mod blocks;
#[cfg(any(feature = "wgpu", feature = "cuda"))]
mod device;
mod error;
mod fixed_point;
mod format;
mod loss_scale;
mod memory;
mod mx;
mod nvfp4;
mod packed;
mod quantizer;
mod rounding;
mod sqnr;
mod straight_through;
mod uniform;
mod unscale;

#[cfg(test)]
mod laws;

pub use error::{Error, Result};
pub use fixed_point::FixedPoint;
pub use format::{Format, Specials};
pub use loss_scale::{LossScale, ScaleChange, Step, Unscaled};
pub use mx::{Element, Mx, MxTensor, ScaleRule};
pub use nvfp4::{NvFp4, NvFp4Tensor};
pub use packed::Packed;
pub use quantizer::Quantizer;
pub use rounding::{Overflow, Rounding, word};
pub use sqnr::sqnr;
pub use uniform::{Granularity, Uniform, UniformTensor};
pub use unscale::{SharedLossScale, Unscale};
