//! The quantisers of this crate as compressors.
//!
//! Where a constant is given, `t = 2^−m` is the gap of a format with `m` mantissa bits, relative to the power of two below.

use burn::backend::{DispatchTensor, TensorMetadata};
use burn::tensor::Tensor;
use core_tensor::Tree;

use super::{Compressor, each};
use crate::error::Result;
use crate::rounding::Rounding;
use crate::{FixedPoint, Granularity, Mx, NvFp4, Quantizer, Uniform};

/// Run a block for the leaf as a tensor of its rank.
macro_rules! with_tensor {
    ($leaf:ident as $x:ident => $body:expr) => {
        with_tensor!(@ $leaf, $x => $body; 2 3 4 5 6 7 8)
    };
    (@ $leaf:ident, $x:ident => $body:expr; $($rank:literal)*) => {
        match $leaf.shape().num_dims() {
            $($rank => {
                let $x = Tensor::<$rank>::from_dispatch($leaf);
                $body.map(|y| y.into_dispatch())
            })*
            // A leaf of more dimensions than modules have comes back to its shape.
            _ => {
                let shape = $leaf.shape();
                let $x = Tensor::<1>::from_dispatch(flat($leaf));
                $body.map(|y| reshaped(y.into_dispatch(), shape))
            }
        }
    };
}

fn flat(leaf: DispatchTensor) -> DispatchTensor {
    let elements = leaf.shape().num_elements();
    reshaped(leaf, burn::tensor::Shape::new([elements]))
}

fn reshaped(leaf: DispatchTensor, shape: burn::tensor::Shape) -> DispatchTensor {
    use burn::backend::ops::FloatTensorOps;
    burn::backend::Dispatch::float_reshape(leaf, shape)
}

/// To a format: `ω` and `δ` hold for tensors whose elements are zeros and numbers between the smallest normal and the largest one.
///
/// `ω = t²/(4(1 + t))` if stochastic, the worst just above powers of two. `δ = 1 − r²` with the largest relative error `r`: `t/(2 + t)` to
/// nearest, `t/(1 + t)` toward zero, `t` otherwise.
impl Compressor for Quantizer {
    fn name(&self) -> &str {
        self.format().name()
    }

    fn compress(&self, step: u64, tree: Tree) -> Result<Tree> {
        self.at(step).fake_quantize_tree(tree)
    }

    fn omega(&self, _d: usize) -> Option<f64> {
        let t = gap(self);
        matches!(self.mode(), Rounding::Stochastic(_)).then(|| t * t / (4.0 * (1.0 + t)))
    }

    fn delta(&self, d: usize) -> Option<f64> {
        let t = gap(self);
        let error = match self.mode() {
            Rounding::NearestEven | Rounding::NearestAway => t / (2.0 + t),
            Rounding::TowardZero => t / (1.0 + t),
            Rounding::TowardPositive | Rounding::TowardNegative => t,
            Rounding::Stochastic(_) => return self.omega(d).map(|omega| 1.0 - omega),
        };
        Some(1.0 - error * error).filter(|delta| *delta > 0.0)
    }

    fn bits(&self, d: usize) -> f64 {
        f64::from(self.format().bits()) * d as f64
    }
}

fn gap(quantizer: &Quantizer) -> f64 {
    (-f64::from(quantizer.format().mantissa_bits())).exp2()
}

/// Evenly spaced integers. With `L` steps from zero to the largest magnitude (symmetric) and groups of `g` elements, stochastic
/// `ω = min((g − 1)/(4L²), (1 + √g)/(2L))`, to nearest `δ = 4L²/(4L² + g − 1)`; affine to nearest, with `L` steps in all, `δ = (L² − 1)/(L² + g − 1)`.
/// A channel is counted as the whole tensor. Affine stochastic rounding is biased at the ends, where the zero point was rounded.
impl Compressor for Uniform {
    fn name(&self) -> &str {
        "uniform"
    }

    fn compress(&self, step: u64, tree: Tree) -> Result<Tree> {
        each(tree, |i, leaf| {
            let q = self.at(step).at(i as u64);
            with_tensor!(leaf as x => q.fake_quantize(x))
        })
    }

    fn omega(&self, d: usize) -> Option<f64> {
        let (g, l) = (self.shared(d), self.levels());
        let stochastic = matches!(self.rounding, Rounding::Stochastic(_)) && !self.affine && self.range.is_none();
        stochastic.then(|| ((g - 1.0) / (4.0 * l * l)).min((1.0 + g.sqrt()) / (2.0 * l)))
    }

    fn delta(&self, d: usize) -> Option<f64> {
        let (g, l) = (self.shared(d), self.levels());
        match self.rounding {
            // A range that is given may cut the largest elements off.
            _ if self.range.is_some() => None,
            Rounding::NearestEven | Rounding::NearestAway if self.affine => Some((l * l - 1.0) / (l * l + g - 1.0)),
            Rounding::NearestEven | Rounding::NearestAway => Some(4.0 * l * l / (4.0 * l * l + g - 1.0)),
            Rounding::Stochastic(_) => self.omega(d).map(|omega| 1.0 - omega).filter(|delta| *delta > 0.0),
            _ => None,
        }
    }

    /// 32 for the scale of a group, 16 more for its zero point if affine; a channel counts as one group.
    fn bits(&self, d: usize) -> f64 {
        let groups = match self.granularity {
            Granularity::Group(size) => d.div_ceil(size.max(1)),
            _ => 1,
        };
        f64::from(self.bits) * d as f64 + groups as f64 * if self.affine { 48.0 } else { 32.0 }
    }
}

impl Uniform {
    /// Elements that share a scale, at most.
    fn shared(&self, d: usize) -> f64 {
        match self.granularity {
            Granularity::Group(size) => size.min(d).max(1) as f64,
            _ => d.max(1) as f64,
        }
    }

    /// Steps from zero to the largest magnitude, or in all if affine.
    fn levels(&self) -> f64 {
        f64::from((1u32 << (self.bits - u32::from(!self.affine))) - 1)
    }
}

/// Implements [`Compressor`] for a quantiser without relative constants.
macro_rules! without_constants {
    ($(#[$doc:meta])* $type:ty, $name:literal, |$q:ident, $d:ident| $bits:expr) => {
        $(#[$doc])*
        impl Compressor for $type {
            fn name(&self) -> &str {
                $name
            }

            fn compress(&self, step: u64, tree: Tree) -> Result<Tree> {
                each(tree, |i, leaf| {
                    let q = self.at(step).at(i as u64);
                    with_tensor!(leaf as x => q.fake_quantize(x))
                })
            }

            fn omega(&self, _d: usize) -> Option<f64> {
                None
            }

            fn delta(&self, _d: usize) -> Option<f64> {
                None
            }

            fn bits(&self, $d: usize) -> f64 {
                let $q = self;
                $bits
            }
        }
    };
}

without_constants!(
    /// Blocks that share a power of two. No constants are claimed: they depend on the rule of the scale. [`measure`](crate::measure) has the
    /// numbers.
    Mx, "mx", |q, d| f64::from(q.element.bits()) * d as f64 + 8.0 * d.div_ceil(q.block) as f64
);
without_constants!(
    /// Two levels of scales. No constants are claimed: the rounded scale may saturate the largest element.
    NvFp4, "nvfp4", |_q, d| 4.0 * d as f64 + 8.0 * d.div_ceil(16) as f64 + 32.0
);
without_constants!(
    /// A fixed grid has no error relative to the tensor: what is below half a step is lost whole.
    FixedPoint, "fixed_point", |q, d| f64::from(q.word) * d as f64
);
