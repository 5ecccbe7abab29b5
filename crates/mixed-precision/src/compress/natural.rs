//! Natural compression: powers of two, from the bits.

use core_tensor::Tree;
use core_tensor::host::{SliceMut, vectorised};

use super::{Compressor, each, on_host};
use crate::error::Result;
use crate::memory::{self, Wide, with_slice};
use crate::rounding::{Words, derive};

/// Rounds every element at random to one of the two powers of two around it, so that the mean is the element:
///
/// `Q(x) = sign(x)·2^⌈log₂|x|⌉` with probability `|x|/2^⌊log₂|x|⌋ − 1`, else `sign(x)·2^⌊log₂|x|⌋`; 0 stays.
///
/// The probability is the mantissa as it stands in the bits, so that there is no logarithm, no norm and no second pass. What would
/// round to infinity takes the lower power. Infinities and NaN stay.
///
/// Constants: `ω = 1/8`, the worst at `|x| = (4/3)·2^n`; `δ = 7/8`; 9 bits an element. Guarantees by the tests `compress::laws::*`.
///
/// Cost: one pass over host memory ([`Error::UnsupportedDevice`](crate::Error::UnsupportedDevice) elsewhere). S. Horváth et al., "Natural
/// compression for distributed deep learning", 2019, arXiv:1905.10988, definition 1 and theorem 3.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use core_tensor::Tree;
/// use mixed_precision::{Compressor, Natural};
///
/// let tree = Tree::empty().push("w", Tensor::<1>::from_data([3.0, -0.25], &Device::flex()))?;
/// let y: Vec<f64> = Natural::new(7).compress(0, tree)?.get::<1>("w")?.into_data().iter::<f64>().collect();
/// assert!((y[0] == 2.0 || y[0] == 4.0) && y[1] == -0.25);
/// # Ok::<(), mixed_precision::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Natural {
    seed: u64,
}

impl Natural {
    /// With the noise of a seed.
    pub fn new(seed: u64) -> Self {
        Self { seed }
    }
}

impl Compressor for Natural {
    fn name(&self) -> &str {
        "natural"
    }

    fn compress(&self, step: u64, tree: Tree) -> Result<Tree> {
        let seed = derive(self.seed, step);
        each(tree, |i, leaf| {
            on_host(leaf, self.name(), |x| with_slice!(SliceMut, x, x => round(x, derive(seed, i as u64))))
        })
    }

    fn omega(&self, _d: usize) -> Option<f64> {
        Some(0.125)
    }

    fn delta(&self, _d: usize) -> Option<f64> {
        Some(0.875)
    }

    fn bits(&self, d: usize) -> f64 {
        9.0 * d as f64
    }
}

fn round<E: Wide>(x: &mut [E], seed: u64) {
    memory::chunks(x, |first, x| {
        let words = Words::new(seed, (first >> 32) as u32);
        vectorised(|| {
            for (x, i) in x.iter_mut().zip(0u32..) {
                *x = power(*x, words.get((first as u32).wrapping_add(i)));
            }
        });
    });
}

#[inline(always)]
fn power<E: Wide>(x: E, word: u32) -> E {
    const MANTISSA: u64 = (1 << 52) - 1;
    let bits = x.wide().to_bits();
    let mantissa = bits & MANTISSA;
    let up = u64::from(u64::from(word) < mantissa >> 20);
    // A carry out of the mantissa is the next exponent.
    let lower = f64::from_bits(bits - mantissa);
    let power = E::narrow(f64::from_bits(bits - mantissa + (up << 52)));
    let finite = x.wide().abs() < f64::INFINITY;
    match (finite, power.wide().abs() < f64::INFINITY) {
        (true, true) => power,
        (true, false) => E::narrow(lower),
        (false, _) => x,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{bf16, f16};

    #[test]
    fn mantissas_are_probabilities() {
        // 3 = 2·1.5: up for words below 2^31.
        assert_eq!([0, (1 << 31) - 1, 1 << 31, u32::MAX].map(|word| power(-3f32, word)), [-4.0, -4.0, -2.0, -2.0]);
        assert_eq!([0, u32::MAX].map(|word| power(1.25f64, word)), [2.0, 1.0]);
        assert_eq!(power(1.0f32, 0), 1.0, "powers stay");
        assert_eq!((power(-0.0f32, 0).to_bits(), power(0.0f32, 0)), ((-0.0f32).to_bits(), 0.0));
        assert_eq!(power(f32::from_bits(3), 0), f32::from_bits(4), "subnormal numbers too");
        assert_eq!((power(f32::MAX, 0), power(f32::NEG_INFINITY, 0)), (2f32.powi(127), f32::NEG_INFINITY));
        assert!(power(f32::NAN, 0).is_nan());
        assert_eq!(power(f16::MAX, 0), f16::from_f32(32768.0));
        assert_eq!(power(bf16::from_f32(0.75), 0), bf16::ONE);
    }
}
