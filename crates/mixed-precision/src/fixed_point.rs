//! Fixed-point numbers: words of two's complement with a fixed number of fractional bits.

use burn::tensor::Tensor;
use core_tensor::host::vectorised;

use crate::error::{Result, within};
use crate::format::with_mode;
use crate::rounding::{Rounding, Words};
use crate::uniform::to_integer;
use crate::{memory, straight_through};

/// Multiples of `2^−f` that fit a word of `w` bits: `−2^(w−1)·2^−f ..= (2^(w−1)−1)·2^−f`.
///
/// | setting | default | range | effect |
/// |---|---|---|---|
/// | `word` | – | 2 to 24 | bits of the word, the sign included |
/// | `fraction` | – | 0 to 31 | bits after the point; more than the word has means numbers below 1 only |
/// | [`rounding`](Self::rounding) | nearest even | | which neighbour ([`Rounding`]) |
///
/// What is beyond the ends becomes the end, infinities too; NaN stays. Words of up to 24 bits are exact in `f32`.
///
/// Cost: one pass over host memory; elsewhere the tensor is read back and moved there again. S. Gupta et al.,
/// "Deep learning with limited numerical precision", ICML 2015, arXiv:1502.02551.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use mixed_precision::FixedPoint;
///
/// let q = FixedPoint::new(8, 6)?;
/// let y = q.fake_quantize(Tensor::<1>::from_data([0.3, 5.0, -5.0], &Device::flex()))?;
/// assert_eq!(y.into_data().iter::<f64>().collect::<Vec<_>>(), [19.0 / 64.0, 127.0 / 64.0, -2.0]);
/// # Ok::<(), mixed_precision::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FixedPoint {
    pub(crate) word: u32,
    fraction: u32,
    rounding: Rounding,
}

impl FixedPoint {
    /// Words of `word` bits, `fraction` of them after the point.
    ///
    /// # Errors
    /// [`Error::Parameter`](crate::Error::Parameter) unless `2 <= word <= 24` and `fraction <= 31`.
    pub fn new(word: usize, fraction: usize) -> Result<Self> {
        let word = within("word", word, 2..=24, "2 <= word <= 24")? as u32;
        let fraction = within("fraction", fraction, 0..=31, "fraction <= 31")? as u32;
        Ok(Self { word, fraction, rounding: Rounding::NearestEven })
    }

    /// The same with another rounding.
    pub fn rounding(self, rounding: Rounding) -> Self {
        Self { rounding, ..self }
    }

    /// The quantiser of a step, as [`Quantizer::at`](crate::Quantizer::at).
    pub fn at(self, step: u64) -> Self {
        self.rounding(self.rounding.at(step))
    }

    /// The gap between numbers, `2^−fraction`.
    pub fn step(&self) -> f64 {
        1.0 / f64::from(1u32 << self.fraction)
    }

    /// The smallest and the largest number.
    pub fn range(&self) -> (f64, f64) {
        let half = f64::from(1u32 << (self.word - 1));
        (-half * self.step(), (half - 1.0) * self.step())
    }

    /// One number rounded with the random bits given, which only the stochastic rounding looks at.
    pub fn quantize(&self, x: f32, bits: u32) -> f32 {
        with_mode!(self.rounding, MODE => self.round::<MODE>(x, bits))
    }

    #[inline(always)]
    fn round<const MODE: u8>(&self, x: f32, bits: u32) -> f32 {
        let ((low, high), step) = (self.range(), self.step());
        (to_integer::<MODE>(f64::from(x) / step, bits) * step).clamp(low, high) as f32
    }

    /// Every element rounded, in the tensor's shape and dtype. Under autodiff the gradient passes straight through where
    /// `|x|` is at most `2^(word−1−fraction)`, and is zero beyond.
    ///
    /// # Errors
    /// [`Error::UnsupportedDevice`](crate::Error::UnsupportedDevice) if the tensor is being recorded and has no elements yet.
    pub fn fake_quantize<const D: usize>(&self, x: Tensor<D>) -> Result<Tensor<D>> {
        let seed = self.rounding.seed();
        straight_through::apply(x, -self.range().0, |x| {
            let what = format!("fixed point ({}, {})", self.word, self.fraction);
            let (x, ()) = memory::update(x.into_dispatch(), what, |x| {
                memory::chunks(x, |first, x| {
                    let words = Words::new(seed, (first >> 32) as u32);
                    with_mode!(self.rounding, MODE => vectorised(#[inline(always)] || {
                        for (x, i) in x.iter_mut().zip(0..) {
                            let bits = if MODE == mode::STOCHASTIC { words.get(first as u32 + i) } else { 0 };
                            *x = self.round::<MODE>(*x, bits);
                        }
                    }));
                });
            })?;
            Ok(Tensor::from_dispatch(x))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;
    use core_tensor::testing::property;
    use proptest::prelude::*;

    #[test]
    fn numbers_by_hand() {
        let q = FixedPoint::new(4, 1).unwrap();
        assert_eq!((q.step(), q.range()), (0.5, (-4.0, 3.5)));
        let at = |rounding, x| q.rounding(rounding).quantize(x, 0);
        assert_eq!([0.25, 0.75, -0.25, 9.0, -9.0].map(|x| at(Rounding::NearestEven, x)), [0.0, 1.0, -0.0, 3.5, -4.0]);
        assert_eq!([0.25, -0.25].map(|x| at(Rounding::NearestAway, x)), [0.5, -0.5]);
        assert_eq!([0.1, -0.1].map(|x| at(Rounding::TowardPositive, x)), [0.5, 0.0]);
        assert_eq!(at(Rounding::NearestEven, f32::NEG_INFINITY), -4.0);
        assert!(at(Rounding::NearestEven, f32::NAN).is_nan());
        for (word, fraction) in [(1, 0), (25, 0), (8, 32)] {
            assert!(matches!(FixedPoint::new(word, fraction), Err(Error::Parameter { .. })));
        }
    }

    #[test]
    fn results_are_multiples_within_the_range_and_near() {
        let roundings = [Rounding::NearestEven, Rounding::TowardZero, Rounding::Stochastic(4)];
        property(300, (2usize..=24, 0usize..=31, -2f32..2.0, any::<u32>()), |(word, fraction, x, bits)| {
            for rounding in roundings {
                let q = FixedPoint::new(word, fraction).unwrap().rounding(rounding);
                let y = f64::from(q.quantize(x, bits));
                let (low, high) = q.range();
                assert!(y >= low && y <= high && (y / q.step()).fract() == 0.0);
                let inside = f64::from(x).clamp(low, high);
                let allowed = if rounding == Rounding::NearestEven { 0.5 } else { 1.0 };
                assert!((y - inside).abs() <= allowed * q.step(), "{word} {fraction} {x} {y}");
            }
        });
    }

    #[test]
    fn the_gradient_ends_with_the_range() {
        let device = burn::tensor::Device::flex().autodiff();
        let x = Tensor::<1>::from_data([0.3, 2.5, -3.0], &device).require_grad();
        let y = FixedPoint::new(3, 1).unwrap().fake_quantize(x.clone()).unwrap();
        let grads = y.sum().backward();
        assert_eq!(x.grad(&grads).unwrap().into_data().iter::<f64>().collect::<Vec<_>>(), [1.0, 0.0, 0.0]);
    }
}
