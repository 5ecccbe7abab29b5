//! Floating-point formats of at most 16 bits, as data.

use std::fmt;

use crate::rounding::{Overflow, Rounding, Words};

/// What the codes beyond the numbers mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Specials {
    /// The topmost exponent holds infinities and NaN, as in IEEE 754.
    Ieee,
    /// No infinities; NaN has all bits set but the sign's (`fn` of the 8-bit formats).
    AllOnesNan,
    /// No infinities and no negative zero, whose code is the one NaN (`fnuz`).
    NegativeZeroNan,
    /// Numbers only (`fn` of the 6- and 4-bit formats).
    None,
    /// Powers of two without sign or zero; NaN has all bits set (`e8m0`).
    PowersOfTwo,
}

/// A floating-point format: exponent bits, mantissa bits, bias and [`Specials`], from which all else follows.
///
/// | format | bias | largest | smallest normal, subnormal | infinities |
/// |---|---|---|---|---|
/// | [`F16`](Self::F16) | 15 | 65504 | 2⁻¹⁴, 2⁻²⁴ | yes |
/// | [`BF16`](Self::BF16) | 127 | 3.39·10³⁸ | 2⁻¹²⁶, 2⁻¹³³ | yes |
/// | [`E4M3FN`](Self::E4M3FN) | 7 | 448 | 2⁻⁶, 2⁻⁹ | no |
/// | [`E4M3`](Self::E4M3) | 7 | 240 | 2⁻⁶, 2⁻⁹ | yes |
/// | [`E3M4`](Self::E3M4) | 3 | 15.5 | 2⁻², 2⁻⁶ | yes |
/// | [`E5M2`](Self::E5M2) | 15 | 57344 | 2⁻¹⁴, 2⁻¹⁶ | yes |
/// | [`E4M3FNUZ`](Self::E4M3FNUZ) | 8 | 240 | 2⁻⁷, 2⁻¹⁰ | no |
/// | [`E4M3B11FNUZ`](Self::E4M3B11FNUZ) | 11 | 30 | 2⁻¹⁰, 2⁻¹³ | no |
/// | [`E5M2FNUZ`](Self::E5M2FNUZ) | 16 | 57344 | 2⁻¹⁵, 2⁻¹⁷ | no |
/// | [`E2M3FN`](Self::E2M3FN) | 1 | 7.5 | 1, 2⁻³ | no |
/// | [`E3M2FN`](Self::E3M2FN) | 3 | 28 | 2⁻², 2⁻⁴ | no |
/// | [`E2M1FN`](Self::E2M1FN) | 1 | 6 | 1, 2⁻¹ | no |
/// | [`E8M0`](Self::E8M0) | 127 | 2¹²⁷ | 2⁻¹²⁷, none | no |
///
/// Encoding is exact integer arithmetic on the bits of an `f32`, one algorithm for all formats: shift the significand so
/// that its last bit is the last one of the format (farther for subnormals), round, and add the exponent, so that a carry
/// runs into it by itself.
///
/// Codes and values are those of the Python package ml_dtypes, rounding to nearest even too. So NaN becomes zero of the
/// other sign in a format without NaN, ties of `e8m0` go up, and what is positive but below its smallest number becomes
/// that number. One deviation: ml_dtypes takes all between 2⁻¹²⁷ and 2⁻¹²⁶ up in `e8m0`, here it goes to the nearer. Numbers of [`E2M1FN`](Self::E2M1FN) and its kin beyond the largest become the largest.
///
/// ```
/// use mixed_precision::{Format, Overflow, Rounding};
///
/// let code = Format::E4M3FN.encode(0.3, Rounding::NearestEven, Overflow::Ieee);
/// assert_eq!((code, Format::E4M3FN.decode(code)), (0x2a, 0.3125));
/// assert_eq!(Format::E4M3FN.max(), 448.0);
/// assert!(Format::E4M3FN.quantize(1000.0, Rounding::NearestEven, Overflow::Ieee).is_nan());
/// assert_eq!(Format::E4M3FN.quantize(1000.0, Rounding::NearestEven, Overflow::Saturate), 448.0);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Format {
    name: &'static str,
    exponent_bits: u32,
    mantissa_bits: u32,
    bias: i32,
    specials: Specials,
}

/// What the bit algorithms need of a format, computed once a slice.
#[derive(Clone, Copy)]
pub(crate) struct Codec {
    pub(crate) mantissa_bits: i32,
    /// Bits without the sign.
    width: i32,
    /// The exponent field that the smallest normal number has as an `f32`.
    pub(crate) low: i32,
    max: i32,
    infinity: i32,
    nan: i32,
    /// What a finite number beyond the largest one becomes without saturation.
    beyond: i32,
    /// The unit of subnormal numbers, where their exponent is not that of `f32`.
    pub(crate) unit: f32,
    pub(crate) signed_zero: bool,
    pub(crate) nan_is_zero: bool,
    powers: bool,
    /// Bits of the values of `max`, `beyond` and `nan`.
    pub(crate) max_value: i32,
    pub(crate) beyond_value: i32,
    pub(crate) nan_value: i32,
}

/// [`Rounding`] as constants, for loops without branches.
pub(crate) mod mode {
    pub(crate) const EVEN: u8 = 0;
    pub(crate) const AWAY: u8 = 1;
    pub(crate) const ZERO: u8 = 2;
    pub(crate) const POSITIVE: u8 = 3;
    pub(crate) const NEGATIVE: u8 = 4;
    pub(crate) const STOCHASTIC: u8 = 5;
}

/// Run a block with the constant `$MODE` for a rounding.
macro_rules! with_mode {
    ($rounding:expr, $MODE:ident => $body:expr) => {{
        use $crate::format::mode;
        use $crate::rounding::Rounding;
        match $rounding {
            Rounding::NearestEven => {
                const $MODE: u8 = mode::EVEN;
                $body
            }
            Rounding::NearestAway => {
                const $MODE: u8 = mode::AWAY;
                $body
            }
            Rounding::TowardZero => {
                const $MODE: u8 = mode::ZERO;
                $body
            }
            Rounding::TowardPositive => {
                const $MODE: u8 = mode::POSITIVE;
                $body
            }
            Rounding::TowardNegative => {
                const $MODE: u8 = mode::NEGATIVE;
                $body
            }
            Rounding::Stochastic(_) => {
                const $MODE: u8 = mode::STOCHASTIC;
                $body
            }
        }
    }};
}
pub(crate) use with_mode;

/// Bits of an infinity as an `f32`.
const INFINITY: i32 = 0x7f80_0000;

macro_rules! formats {
    ($($(#[$doc:meta])* $constant:ident = $name:literal, $exponent:literal, $mantissa:literal, $bias:literal, $specials:ident;)*) => {
        impl Format {
            $($(#[$doc])* pub const $constant: Self = Self {
                name: $name,
                exponent_bits: $exponent,
                mantissa_bits: $mantissa,
                bias: $bias,
                specials: Specials::$specials,
            };)*

            /// All formats.
            pub const ALL: &'static [Self] = &[$(Self::$constant),*];
        }
    };
}

formats! {
    /// IEEE 754 binary16.
    F16 = "f16", 5, 10, 15, Ieee;
    /// The upper half of an `f32`.
    BF16 = "bf16", 8, 7, 127, Ieee;
    /// OCP 8-bit floating point E4M3.
    E4M3FN = "e4m3fn", 4, 3, 7, AllOnesNan;
    /// E4M3 with infinities.
    E4M3 = "e4m3", 4, 3, 7, Ieee;
    /// E3M4 with infinities.
    E3M4 = "e3m4", 3, 4, 3, Ieee;
    /// OCP 8-bit floating point E5M2.
    E5M2 = "e5m2", 5, 2, 15, Ieee;
    /// E4M3 without infinities and negative zero.
    E4M3FNUZ = "e4m3fnuz", 4, 3, 8, NegativeZeroNan;
    /// The same with bias 11.
    E4M3B11FNUZ = "e4m3b11fnuz", 4, 3, 11, NegativeZeroNan;
    /// E5M2 without infinities and negative zero.
    E5M2FNUZ = "e5m2fnuz", 5, 2, 16, NegativeZeroNan;
    /// OCP MX 6-bit element E2M3.
    E2M3FN = "e2m3fn", 2, 3, 1, None;
    /// OCP MX 6-bit element E3M2.
    E3M2FN = "e3m2fn", 3, 2, 3, None;
    /// OCP MX 4-bit element E2M1.
    E2M1FN = "e2m1fn", 2, 1, 1, None;
    /// OCP MX scale.
    E8M0 = "e8m0", 8, 0, 127, PowersOfTwo;
}

impl Format {
    /// The format of a name as in the table.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|format| format.name == name)
    }

    /// The name as in the table.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// Bits of a code, the sign included.
    pub const fn bits(&self) -> u32 {
        self.exponent_bits + self.mantissa_bits + self.is_signed() as u32
    }

    /// Bits of the exponent field.
    pub const fn exponent_bits(&self) -> u32 {
        self.exponent_bits
    }

    /// Bits of the mantissa field, without the leading one.
    pub const fn mantissa_bits(&self) -> u32 {
        self.mantissa_bits
    }

    /// What is subtracted from the exponent field.
    pub const fn bias(&self) -> i32 {
        self.bias
    }

    /// What the codes beyond the numbers mean.
    pub const fn specials(&self) -> Specials {
        self.specials
    }

    /// Whether there are negative numbers.
    pub const fn is_signed(&self) -> bool {
        !matches!(self.specials, Specials::PowersOfTwo)
    }

    /// Whether there are infinities.
    pub const fn has_infinities(&self) -> bool {
        matches!(self.specials, Specials::Ieee)
    }

    /// Whether there is a NaN.
    pub const fn has_nan(&self) -> bool {
        !matches!(self.specials, Specials::None)
    }

    /// Whether zero has a sign.
    pub const fn has_negative_zero(&self) -> bool {
        !matches!(self.specials, Specials::NegativeZeroNan | Specials::PowersOfTwo)
    }

    /// The largest number.
    pub fn max(&self) -> f32 {
        self.decode(self.codec().max as u16)
    }

    /// The exponent of the largest number, `⌊log₂ max⌋`: `emax` of the OCP MX specification.
    pub fn max_exponent(&self) -> i32 {
        (self.max().to_bits() >> 23) as i32 - 127
    }

    /// The smallest normal number.
    pub fn min_normal(&self) -> f32 {
        match self.specials {
            Specials::PowersOfTwo => self.decode(0),
            _ => self.decode(1 << self.mantissa_bits),
        }
    }

    /// The smallest positive number: subnormal where there are such.
    pub fn min_positive(&self) -> f32 {
        match self.specials {
            Specials::PowersOfTwo => self.decode(0),
            _ => self.decode(1),
        }
    }

    /// The value of a code. Bits above [`bits`](Self::bits) are ignored.
    #[inline]
    pub fn decode(&self, code: u16) -> f32 {
        self.codec().decode(u32::from(code))
    }

    /// The code of a number. `Stochastic` takes the bits of position 0.
    #[inline]
    pub fn encode(&self, x: f32, rounding: Rounding, overflow: Overflow) -> u16 {
        let codec = self.codec();
        let saturate = overflow == Overflow::Saturate;
        let bits = match rounding {
            Rounding::Stochastic(seed) => Words::new(seed, 0).get(0),
            _ => 0,
        };
        with_mode!(rounding, MODE => codec.encode::<MODE>(x, bits, saturate)) as u16
    }

    /// The code of a number rounded at random with the random bits given: away from zero where the topmost of them,
    /// as many as are discarded of the significand, are below the discarded ones.
    ///
    /// Over all `bits` the mean of the codes' values is `x`, exactly where at most 32 bits are discarded, else to 2⁻³² of
    /// the gap. With [`Overflow::Ieee`] a number between the largest one and the end of its gap may become infinite.
    #[inline]
    pub fn encode_with_bits(&self, x: f32, bits: u32, overflow: Overflow) -> u16 {
        self.codec().encode::<{ mode::STOCHASTIC }>(x, bits, overflow == Overflow::Saturate) as u16
    }

    /// The nearest representable number in the sense of `rounding`: [`encode`](Self::encode), then
    /// [`decode`](Self::decode).
    #[inline]
    pub fn quantize(&self, x: f32, rounding: Rounding, overflow: Overflow) -> f32 {
        self.decode(self.encode(x, rounding, overflow))
    }

    pub(crate) const fn codec(&self) -> Codec {
        let (width, mantissa_bits) = ((self.exponent_bits + self.mantissa_bits) as i32, self.mantissa_bits as i32);
        let top = (1 << width) - 1;
        let infinity = ((1 << self.exponent_bits) - 1) << mantissa_bits;
        let (max, beyond, nan) = match self.specials {
            Specials::Ieee => (infinity - 1, infinity, infinity | 1 << (mantissa_bits - 1)),
            Specials::AllOnesNan => (top - 1, top, top),
            Specials::NegativeZeroNan => (top, top + 1, top + 1),
            Specials::None => (top, top, 0),
            Specials::PowersOfTwo => (top - 1, top, top),
        };
        let unit = 1 - self.bias - mantissa_bits;
        let codec = Codec {
            mantissa_bits,
            width,
            low: 128 - self.bias,
            max,
            infinity: if self.has_infinities() { infinity } else { i32::MAX },
            nan,
            beyond,
            // With the exponents of f32 subnormals need no unit, and one of 2^-133 would be slow to multiply by.
            unit: if self.bias == 127 { 0.0 } else { power_of_two(unit) },
            signed_zero: self.has_negative_zero(),
            nan_is_zero: !self.has_nan(),
            powers: !self.is_signed(),
            max_value: 0,
            beyond_value: 0,
            nan_value: 0,
        };
        Codec {
            max_value: codec.decode_number(max).to_bits() as i32,
            beyond_value: codec.decode_number(beyond).to_bits() as i32,
            nan_value: codec.decode_number(nan).to_bits() as i32,
            ..codec
        }
    }
}

/// `2^exponent` for `-149 <= exponent <= 127`.
pub(crate) const fn power_of_two(exponent: i32) -> f32 {
    f32::from_bits(match exponent {
        -126.. => ((exponent + 127) as u32) << 23,
        _ => 1 << (exponent + 149),
    })
}

/// Signed integers throughout, which vector units compare; variable shifts and selects, no branches but `powers`.
impl Codec {
    /// Whether the format is that of powers of two: the branch to take out of loops.
    #[inline(always)]
    pub(crate) fn is_powers(self) -> bool {
        self.powers
    }

    /// For all formats but that of powers of two: what decoding gives after encoding, rounded where it stands.
    #[inline(always)]
    pub(crate) fn quantize<const MODE: u8>(self, x: f32, bits: u32, saturate: bool) -> f32 {
        let (sign, magnitude) = ((x.to_bits() >> 31) as i32, x.to_bits() as i32 & i32::MAX);
        // Adding less than the last bit kept lets it carry; the rest is cut off.
        let discarded = 23 - self.mantissa_bits;
        let rest = (1 << discarded) - 1;
        let add = match MODE {
            mode::EVEN => (rest >> 1) + ((magnitude >> discarded) & 1),
            mode::AWAY => (rest >> 1) + 1,
            mode::ZERO => 0,
            mode::POSITIVE => rest & (sign - 1),
            mode::NEGATIVE => rest & -sign,
            _ => (!bits >> (32 - discarded)) as i32,
        };
        let value = magnitude.wrapping_add(add) & !rest;
        let value = match self.low > 1 {
            true => {
                let small = self.encode_magnitude::<MODE>(sign, magnitude, bits) as f32 * self.unit;
                if magnitude < self.low << 23 { small.to_bits() as i32 } else { value }
            }
            false => value,
        };
        let value = match value > self.max_value {
            true if self.ends_at_max::<MODE>(sign, magnitude, saturate) => self.max_value,
            true => self.beyond_value,
            false => value,
        };
        let is_nan = magnitude > INFINITY;
        let value = if is_nan { self.nan_value } else { value };
        let sign = if self.nan_is_zero & is_nan { sign ^ 1 } else { sign };
        let sign = if (value != 0) | self.signed_zero { sign } else { 0 };
        f32::from_bits((value | (sign << 31)) as u32)
    }

    #[inline(always)]
    pub(crate) fn encode<const MODE: u8>(self, x: f32, bits: u32, saturate: bool) -> u32 {
        match self.powers {
            true => self.encode_power::<MODE>(x, bits, saturate) as u32,
            false => self.encode_number::<MODE>(x, bits, saturate) as u32,
        }
    }

    #[inline(always)]
    pub(crate) fn decode(self, code: u32) -> f32 {
        match self.powers {
            true => Self::decode_power(code),
            false => self.decode_number(code as i32),
        }
    }

    /// For all formats but that of powers of two.
    #[inline(always)]
    pub(crate) fn encode_number<const MODE: u8>(self, x: f32, bits: u32, saturate: bool) -> i32 {
        let (sign, magnitude) = ((x.to_bits() >> 31) as i32, x.to_bits() as i32 & i32::MAX);
        let code = self.encode_magnitude::<MODE>(sign, magnitude, bits);
        let end = self.end::<MODE>(sign, magnitude, saturate);
        let code = if code > self.max { end } else { code };
        let is_nan = magnitude > INFINITY;
        let code = if is_nan { self.nan } else { code };
        let sign = if self.nan_is_zero & is_nan { sign ^ 1 } else { sign };
        let sign = if (code != 0) | self.signed_zero { sign } else { 0 };
        code | (sign << self.width)
    }

    /// The code of a magnitude as if there were no largest one.
    #[inline(always)]
    fn encode_magnitude<const MODE: u8>(self, sign: i32, magnitude: i32, bits: u32) -> i32 {
        let exponent = (magnitude >> 23).max(1);
        let leading = if magnitude > 0x7f_ffff { 0x80_0000 } else { 0 };
        let significand = (magnitude & 0x7f_ffff) | leading;
        // Where the exponent is below that of the smallest normal number the last bit stays where it is.
        let discarded = 23 - self.mantissa_bits + (self.low - exponent).max(0);
        let shift = discarded.min(31);
        let quotient = significand >> shift;
        let rest = significand - (quotient << shift);
        let half = 1 << (shift - 1);
        let up = match MODE {
            mode::EVEN => rest + (quotient & 1) > half,
            mode::AWAY => rest >= half,
            mode::ZERO => false,
            mode::POSITIVE => rest > 0 && sign == 0,
            mode::NEGATIVE => rest > 0 && sign == 1,
            _ => {
                let drawn = discarded.min(32);
                // Past bit 31 the rest is the whole significand.
                (bits >> (32 - drawn)) < (rest >> (discarded - drawn).min(31)) as u32
            }
        };
        quotient + i32::from(up) + ((exponent - self.low).max(0) << self.mantissa_bits)
    }

    /// The code instead of one past the largest.
    #[inline(always)]
    fn end<const MODE: u8>(self, sign: i32, magnitude: i32, saturate: bool) -> i32 {
        if self.ends_at_max::<MODE>(sign, magnitude, saturate) { self.max } else { self.beyond }
    }

    /// Whether what is past the largest number becomes the largest.
    #[inline(always)]
    fn ends_at_max<const MODE: u8>(self, sign: i32, magnitude: i32, saturate: bool) -> bool {
        let inward = match MODE {
            mode::ZERO => true,
            mode::POSITIVE => sign == 1,
            mode::NEGATIVE => sign == 0,
            _ => false,
        };
        saturate | (inward & (magnitude < INFINITY))
    }

    /// For all formats but that of powers of two.
    #[inline(always)]
    pub(crate) const fn decode_number(self, code: i32) -> f32 {
        let magnitude = code & ((1 << self.width) - 1);
        let sign = (code >> self.width) << 31;
        let small = (magnitude as f32 * self.unit).to_bits() as i32;
        let large = (magnitude << (23 - self.mantissa_bits)).wrapping_add((self.low - 1) << 23);
        let is_small = (magnitude >> self.mantissa_bits == 0) & (self.low > 1);
        let bits = if is_small { small } else { large };
        let bits = if magnitude == self.infinity { INFINITY } else { bits };
        // Above the largest number is infinity or NaN; NaN of `fnuz` is the negative zero.
        let above = (magnitude > self.max) & (magnitude != self.infinity);
        let is_nan = above | (!self.signed_zero & (magnitude == 0) & (sign != 0));
        let bits = if is_nan { 0x7fc0_0000 } else { bits };
        f32::from_bits((bits | sign) as u32)
    }

    fn encode_power<const MODE: u8>(self, x: f32, bits: u32, saturate: bool) -> i32 {
        let (sign, magnitude) = ((x.to_bits() >> 31) as i32, x.to_bits() as i32 & 0x7fff_ffff);
        if magnitude == 0 || magnitude > INFINITY || sign == 1 {
            return self.nan;
        }
        // Exponent field and the 23 bits between that power of two and the next.
        let (floor, rest) = match magnitude {
            0x80_0000.. => (magnitude >> 23, magnitude & 0x7f_ffff),
            0x40_0000.. => (0, (magnitude - 0x40_0000) << 1),
            _ => (0, 0),
        };
        let up = match MODE {
            mode::EVEN | mode::AWAY => rest >= 0x40_0000,
            mode::POSITIVE => rest > 0,
            mode::STOCHASTIC => (bits >> 9) < rest as u32,
            _ => false,
        };
        match floor + i32::from(up) {
            code if code > self.max => self.end::<MODE>(0, magnitude, saturate),
            code => code,
        }
    }

    fn decode_power(code: u32) -> f32 {
        f32::from_bits(match code & 0xff {
            0xff => f32::NAN.to_bits(),
            0 => 0x40_0000,
            code => code << 23,
        })
    }
}

impl fmt::Debug for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// The nearest `f32` toward zero, with the last bit set if that is not exact: rounded to a format of at most 22
/// significant bits it gives what the `f64` itself would.
#[inline(always)]
pub(crate) fn to_odd(x: f64) -> f32 {
    let y = x as f32;
    if f64::from(y) == x || x.is_nan() {
        return y;
    }
    let y = if f64::from(y).abs() > x.abs() { f32::from_bits(y.to_bits() - 1) } else { y };
    f32::from_bits(y.to_bits() | 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_holds() {
        let p = |e: i32| 2f32.powi(e);
        for (format, max, normal, smallest, infinities) in [
            (Format::F16, 65504.0, p(-14), p(-24), true),
            (Format::BF16, f32::from_bits(0x7f7f_0000), p(-126), f32::from_bits(1 << 16), true),
            (Format::E4M3FN, 448.0, p(-6), p(-9), false),
            (Format::E4M3, 240.0, p(-6), p(-9), true),
            (Format::E3M4, 15.5, p(-2), p(-6), true),
            (Format::E5M2, 57344.0, p(-14), p(-16), true),
            (Format::E4M3FNUZ, 240.0, p(-7), p(-10), false),
            (Format::E4M3B11FNUZ, 30.0, p(-10), p(-13), false),
            (Format::E5M2FNUZ, 57344.0, p(-15), p(-17), false),
            (Format::E2M3FN, 7.5, 1.0, 0.125, false),
            (Format::E3M2FN, 28.0, 0.25, p(-4), false),
            (Format::E2M1FN, 6.0, 1.0, 0.5, false),
            (Format::E8M0, p(127), f32::from_bits(0x40_0000), f32::from_bits(0x40_0000), false),
        ] {
            assert_eq!((format.max(), format.min_normal(), format.min_positive()), (max, normal, smallest), "{format}");
            assert_eq!(format.has_infinities(), infinities);
            assert_eq!(Format::by_name(format.name()), Some(format));
        }
        assert_eq!(Format::ALL.len(), 13);
        let emax = |format: Format| format.max_exponent();
        let element = [Format::E4M3FN, Format::E5M2, Format::E2M3FN, Format::E3M2FN, Format::E2M1FN].map(emax);
        assert_eq!(element, [8, 15, 2, 4, 2]);
    }

    #[test]
    fn specials_are_those_of_ml_dtypes() {
        let code = |format: Format, x: f32| format.encode(x, Rounding::NearestEven, Overflow::Ieee);
        let specials = [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e38, -1e38, 0.0, -0.0, 1e-30, -1e-30];
        for (format, codes) in [
            (Format::F16, [0x7e00, 0xfe00, 0x7c00, 0xfc00, 0x7c00, 0xfc00, 0, 0x8000, 0, 0x8000]),
            (Format::E4M3FN, [0x7f, 0xff, 0x7f, 0xff, 0x7f, 0xff, 0, 0x80, 0, 0x80]),
            (Format::E4M3, [0x7c, 0xfc, 0x78, 0xf8, 0x78, 0xf8, 0, 0x80, 0, 0x80]),
            (Format::E3M4, [0x78, 0xf8, 0x70, 0xf0, 0x70, 0xf0, 0, 0x80, 0, 0x80]),
            (Format::E5M2, [0x7e, 0xfe, 0x7c, 0xfc, 0x7c, 0xfc, 0, 0x80, 0, 0x80]),
            (Format::E4M3FNUZ, [0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0, 0, 0, 0]),
            (Format::E2M3FN, [0x20, 0, 0x1f, 0x3f, 0x1f, 0x3f, 0, 0x20, 0, 0x20]),
            (Format::E2M1FN, [0x8, 0, 0x7, 0xf, 0x7, 0xf, 0, 0x8, 0, 0x8]),
        ] {
            assert_eq!(specials.map(|x| code(format, x)), codes, "{format}");
        }
        let powers = [0.0, -1.0, f32::NAN, f32::INFINITY, 1.5, 3.0, 0.75, 3e38, 1e-45].map(|x| code(Format::E8M0, x));
        assert_eq!(powers, [0xff, 0xff, 0xff, 0xff, 128, 129, 127, 0xff, 0]);
        assert_eq!(Format::E8M0.quantize(3e38, Rounding::NearestEven, Overflow::Saturate), Format::E8M0.max());
    }

    #[test]
    fn rounding_at_the_end_of_the_range() {
        let code = |x: f32, rounding, overflow| Format::E4M3FN.quantize(x, rounding, overflow);
        use Rounding::*;
        assert_eq!(code(464.0, NearestEven, Overflow::Ieee), 448.0);
        assert!(code(464.0, NearestAway, Overflow::Ieee).is_nan());
        assert_eq!(code(464.0, NearestAway, Overflow::Saturate), 448.0);
        assert_eq!(code(1e9, TowardZero, Overflow::Ieee), 448.0);
        assert_eq!(code(1e9, TowardNegative, Overflow::Ieee), 448.0);
        assert_eq!(code(-1e9, TowardPositive, Overflow::Ieee), -448.0);
        assert!(code(449.0, TowardPositive, Overflow::Ieee).is_nan());
        assert!(code(f32::INFINITY, TowardZero, Overflow::Ieee).is_nan());
        assert_eq!(code(f32::NEG_INFINITY, TowardZero, Overflow::Saturate), -448.0);
        assert!(code(f32::NAN, TowardZero, Overflow::Saturate).is_nan());
        let half = |x: f32, rounding| Format::F16.quantize(x, rounding, Overflow::Ieee);
        assert_eq!(half(65520.0, NearestEven), f32::INFINITY);
        assert_eq!(half(65519.996, NearestEven), 65504.0);
    }

    #[test]
    fn stochastic_bf16_compares_sixteen_bits() {
        let x = f32::from_bits(0x3f80_1234);
        let up = |bits: u32| Format::BF16.encode_with_bits(x, bits, Overflow::Ieee) == 0x3f81;
        assert!(up(0x1233_ffff) && !up(0x1234_0000) && up(0));
        assert!(!up(0xffff_ffff));
        let last = f32::from_bits(0x7f7f_8000);
        assert_eq!(Format::BF16.encode_with_bits(last, 0, Overflow::Ieee), 0x7f80);
        assert_eq!(Format::BF16.encode_with_bits(last, 0, Overflow::Saturate), 0x7f7f);
        assert_eq!(Format::BF16.encode_with_bits(last, 0x8000_0000, Overflow::Ieee), 0x7f7f);
        // NaN stays one whatever is drawn.
        assert!(
            Format::BF16.decode(Format::BF16.encode_with_bits(f32::from_bits(0x7fff_ffff), 0, Overflow::Ieee)).is_nan()
        );
        // Below 2^-32 of the gap nothing rounds away, above it does for the least draw.
        let away = |x: f32| Format::E4M3FN.encode_with_bits(x, 0, Overflow::Ieee);
        assert_eq!((away(2f32.powi(-42)), away(2f32.powi(-41)), away(f32::from_bits(1))), (0, 1, 0));
    }

    #[test]
    fn f64_rounds_once() {
        // Just above the tie of f16 between 1 and 1 + 2^-10; as an f32 it would be the tie.
        let x = 1.0 + 2f64.powi(-11) + 2f64.powi(-40);
        let one = |x: f32| Format::F16.quantize(x, Rounding::NearestEven, Overflow::Ieee);
        assert_eq!(one(x as f32), 1.0);
        assert_eq!(one(to_odd(x)), 1.0 + 2f32.powi(-10));
        assert_eq!(one(to_odd(-x)), -1.0 - 2f32.powi(-10));
        assert_eq!(to_odd(1e300), f32::MAX);
        assert_eq!(to_odd(1e-300).to_bits(), 1);
        assert_eq!(to_odd(f64::NEG_INFINITY), f32::NEG_INFINITY);
        assert!(to_odd(f64::NAN).is_nan());
        assert_eq!(to_odd(-0.0).to_bits(), 1 << 31);
    }
}
