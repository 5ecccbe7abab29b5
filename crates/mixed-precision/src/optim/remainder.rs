//! What rounding a weight takes away, kept beside it: a weight of `bf16` and a remainder are an `f32`.
//!
//! With 16 bits nothing is lost. The bits of an `f32` are those of the `bf16`, times 2¹⁶, plus a signed remainder:
//!
//! ```text
//! weight = (bits + 2¹⁵) >> 16,   remainder = bits − weight·2¹⁶ ∈ [−2¹⁵, 2¹⁵),   bits = weight·2¹⁶ + remainder
//! ```
//!
//! The weight is the nearest `bf16`, ties away from zero: with ties to even, one weight would have 2¹⁶ + 1 remainders. With 8
//! bits the remainder is the error as a fraction of half the weight's unit in the last place, in steps of 1/127.
//!
//! Reference: the split of weights in FlashOptim (Databricks), with `bf16` + `int8`; deviations: 16 bits are exact here.

use crate::format::{Format, power_of_two};

/// The nearest `bf16` of an `f32`, and what is missing: [`join16`] gives back the bits of every number that is not NaN.
///
/// ```
/// use mixed_precision::optim::{join16, split16};
///
/// let (weight, remainder) = split16(0.1);
/// assert_eq!((weight, join16(weight, remainder)), (0x3dcd, 0.1));
/// ```
#[inline(always)]
pub fn split16(x: f32) -> (u16, i16) {
    let bits = x.to_bits();
    if x.is_nan() {
        return ((bits >> 16) as u16 | 0x40, 0);
    }
    let weight = ((bits + 0x8000) >> 16) as u16;
    (weight, bits as i16)
}

/// The number of [`split16`].
#[inline(always)]
pub fn join16(weight: u16, remainder: i16) -> f32 {
    f32::from_bits((u32::from(weight) << 16).wrapping_add_signed(remainder.into()))
}

/// Half the distance from a number of the format to the next one away from zero.
#[inline(always)]
fn half_gap(format: Format, weight: f32) -> f32 {
    let exponent = ((weight.to_bits() >> 23) & 0xff) as i32 - 127;
    let exponent = exponent.max(1 - format.bias());
    power_of_two((exponent - format.mantissa_bits() as i32 - 1).max(-149))
}

/// The error of `weight`, the number nearest to `x` in `format`, in 1/`steps` of half its unit in the last place.
///
/// Half a step is what is lost: with 127 steps 1/254 of half a unit.
#[inline(always)]
pub(crate) fn remainder(format: Format, x: f32, weight: f32, steps: f32) -> f32 {
    let error = (x - weight) / half_gap(format, weight);
    // An infinite weight has no remainder, and none is beyond half a unit.
    if error.is_finite() { (error * steps).round().clamp(-steps, steps) } else { 0.0 }
}

/// The number of a weight and its [`remainder`].
#[inline(always)]
pub(crate) fn restore(format: Format, weight: f32, remainder: f32, steps: f32) -> f32 {
    if remainder == 0.0 { weight } else { weight + remainder / steps * half_gap(format, weight) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Overflow, Rounding};
    use core_tensor::testing::property;
    use proptest::prelude::*;

    #[test]
    fn sixteen_bits_lose_nothing() {
        let check = |bits: u32| {
            let x = f32::from_bits(bits);
            let (weight, remainder) = split16(x);
            let back = join16(weight, remainder);
            if x.is_nan() {
                assert!(back.is_nan() && Format::BF16.decode(weight).is_nan());
            } else {
                assert_eq!(back.to_bits(), bits, "{x}");
                assert_eq!(weight, Format::BF16.encode(x, Rounding::NearestAway, Overflow::Ieee), "{x}");
            }
        };
        property(5000, any::<u32>(), check);
        // Every lower half with some upper ones: zeros, subnormals, ties, the largest numbers, infinities, NaN.
        for upper in
            [0, 1, 0x7f, 0x80, 0x3f80, 0x3f81, 0x7f7e, 0x7f7f, 0x7f80, 0x7fff, 0x8000, 0xbf80, 0xff7f, 0xff80, 0xffff]
        {
            (0..=0xffff).for_each(|lower| check(upper << 16 | lower));
        }
    }

    #[test]
    fn the_error_of_eight_bits_is_bounded() {
        property(5000, (-60.0f32..60.0, any::<bool>()), |(e, negative)| {
            let x = if negative { -e.exp2() } else { e.exp2() };
            for format in [Format::BF16, Format::F16, Format::E4M3FN] {
                if x.abs() > format.max() {
                    continue;
                }
                let weight = format.quantize(x, Rounding::NearestEven, Overflow::Ieee);
                let kept = remainder(format, x, weight, 127.0);
                assert!(kept.abs() <= 127.0 && kept.fract() == 0.0);
                let error = (restore(format, weight, kept, 127.0) - x).abs();
                let bound = half_gap(format, weight) / 254.0;
                // The sum of weight and remainder is rounded to an f32.
                assert!(error <= bound * 1.001 + x.abs() * f32::EPSILON, "{x} {weight} {kept} {error} {bound}");
            }
            // f16 has 13 bits fewer than f32: where it has normal numbers, 15 bits and a sign are exact.
            if (Format::F16.min_normal()..60000.0).contains(&x.abs()) {
                let weight = Format::F16.quantize(x, Rounding::NearestEven, Overflow::Ieee);
                let kept = remainder(Format::F16, x, weight, 32767.0);
                assert_eq!(restore(Format::F16, weight, kept, 32767.0), x);
            }
        });
    }

    #[test]
    fn infinite_weights_stay() {
        for x in [f32::INFINITY, f32::NEG_INFINITY, f32::MAX] {
            let weight = Format::BF16.quantize(x, Rounding::NearestEven, Overflow::Ieee);
            assert_eq!(restore(Format::BF16, weight, remainder(Format::BF16, x, weight, 127.0), 127.0), weight);
        }
        assert!(restore(Format::BF16, f32::NAN, remainder(Format::BF16, f32::NAN, f32::NAN, 127.0), 127.0).is_nan());
    }
}
