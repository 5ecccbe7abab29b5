//! Microscaling formats: blocks of narrow elements that share a power of two.

use burn::tensor::{Device, Tensor};
use core_tensor::host::vectorised;

use crate::blocks::{Blocks, amax};
use crate::error::{Error, Result};
use crate::format::{Format, mode, power_of_two, with_mode};
use crate::rounding::{Rounding, WideWords, Words};
use crate::uniform::to_integer;
use crate::{bits, memory, straight_through};

/// What a block is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Element {
    /// Numbers of a format, any but `e8m0`.
    Float(Format),
    /// Multiples of 1/64 in two's complement, `−127/64 ..= 127/64`; the code of −2 is not used.
    Int8,
}

/// How the scale `2^e` follows from the largest magnitude `a` of a block, for elements up to `m` with `emax = ⌊log₂ m⌋`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ScaleRule {
    /// `e = ⌊log₂ a⌋ − emax`: the OCP specification's; the largest elements may saturate.
    #[default]
    Floor,
    /// `e = ⌈log₂ a⌉ − emax`: nothing saturates, up to a bit is lost.
    Ceil,
    /// The smallest `e` with `a ≤ m·2^e` (the quotient `a/m` rounded up to a power of two): nothing saturates. The quotient is exact, where a
    /// multiplication by a rounded `1/m` may go one up at `a = m·2^e`.
    RoundCeil,
    /// `Floor` of `a` rounded to the element's mantissa bits, half up: saturates only what rounds to no more than that.
    Even,
}

/// OCP microscaling (MX): every block of elements along the last axis shares a scale `2^e`, stored as `e8m0`.
///
/// `q = Q(x·2^−e)` in the element's format, saturating, and `x ≈ q·2^e`. `e` is taken from the bits of the largest magnitude, so that
/// it is right just below powers of two, and clamped to `−127..=127`; it is −127 for a block of zeros.
///
/// | setting | default | range | effect |
/// |---|---|---|---|
/// | `element` | – | [`Element`] | MXFP8: `e4m3fn`, `e5m2`; MXFP6: `e2m3fn`, `e3m2fn`; MXFP4: `e2m1fn`; MXINT8 |
/// | [`scale_rule`](Self::scale_rule) | floor | [`ScaleRule`] | saturation against resolution |
/// | [`block`](Self::block) | 32 | 1 or more | elements that share a scale |
/// | [`rounding`](Self::rounding) | nearest even | [`Rounding`] | of the elements |
///
/// Where the last axis is no multiple of the block, the last block of each row counts as padded with zeros, which are not
/// stored. A block with a NaN or an infinity has the scale NaN and becomes NaN.
///
/// Signal to quantisation noise of normal numbers in blocks of 32, in dB (test `mx::tests::the_noise_is_that_of_the_literature`):
/// `e4m3fn` floor 30.63, ceil and rceil 31.53, even 31.19; `e2m1fn` 18.78, 16.83, 18.75, 19.03.
///
/// Cost: two reads and a write of host memory, in place; elsewhere the tensor is read back, and by
/// [`fake_quantize`](Self::fake_quantize) moved there again. Open Compute Project,
/// "OCP microscaling formats (MX) specification", version 1.0, 2023; B. D. Rouhani et al., arXiv:2310.10537.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use mixed_precision::{Format, Mx};
///
/// let x = Tensor::<2>::random([4, 64], burn::tensor::Distribution::Default, &Device::flex());
/// let mx = Mx::new(Format::E2M1FN)?;
/// let stored = mx.quantize(&x)?;
/// assert_eq!((stored.bytes().len(), stored.scales().len()), (128, 8));
/// let y: Tensor<2> = stored.dequantize(&Device::flex())?;
/// # let _ = y;
/// # Ok::<(), mixed_precision::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mx {
    pub(crate) element: Element,
    rule: ScaleRule,
    pub(crate) block: usize,
    rounding: Rounding,
}

/// A tensor in blocks, made by [`Mx::quantize`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MxTensor {
    config: Mx,
    shape: Vec<usize>,
    scales: Vec<u8>,
    bytes: Vec<u8>,
}

impl From<Format> for Element {
    fn from(format: Format) -> Self {
        Self::Float(format)
    }
}

impl Element {
    /// Bits of a code.
    pub fn bits(&self) -> u32 {
        match self {
            Self::Float(format) => format.bits(),
            Self::Int8 => 8,
        }
    }

    /// The largest value.
    pub fn max(&self) -> f32 {
        match self {
            Self::Float(format) => format.max(),
            Self::Int8 => 127.0 / 64.0,
        }
    }

    fn mantissa_bits(&self) -> u32 {
        match self {
            Self::Float(format) => format.mantissa_bits(),
            Self::Int8 => 6,
        }
    }

    /// Codes of numbers times `inverse`.
    #[inline(always)]
    fn encode<const MODE: u8>(self, x: &[f32], inverse: f32, bits: impl Fn(u32) -> u32, codes: &mut [u32]) {
        let all = codes.iter_mut().zip(x).zip(0..);
        let bits = |i| if MODE == mode::STOCHASTIC { bits(i) } else { 0 };
        match self {
            Self::Float(format) => {
                let codec = format.codec();
                for ((code, x), i) in all {
                    *code = codec.encode_number::<MODE>(*x * inverse, bits(i), true) as u32;
                }
            }
            Self::Int8 => {
                for ((code, x), i) in all {
                    *code = int8::<MODE>(*x * inverse, bits(i)) as u32 & 0xff;
                }
            }
        }
    }

    /// Values of codes times `scale`.
    #[inline(always)]
    fn decode(self, codes: &[u32], scale: f32, values: &mut [f32]) {
        let all = values.iter_mut().zip(codes);
        match self {
            Self::Float(format) => {
                let codec = format.codec();
                for (value, code) in all {
                    *value = codec.decode_number(*code as i32) * scale;
                }
            }
            Self::Int8 => {
                for (value, code) in all {
                    *value = f32::from(*code as u8 as i8) / 64.0 * scale;
                }
            }
        }
    }

    /// Codes and their values in one.
    #[inline(always)]
    fn round<const MODE: u8>(self, x: &mut [f32], (inverse, scale): (f32, f32), bits: impl Fn(u32) -> u32) {
        let bits = |i| if MODE == mode::STOCHASTIC { bits(i) } else { 0 };
        match self {
            Self::Float(format) => {
                let codec = format.codec();
                for (x, i) in x.iter_mut().zip(0..) {
                    *x = codec.quantize::<MODE>(*x * inverse, bits(i), true) * scale;
                }
            }
            Self::Int8 => {
                for (x, i) in x.iter_mut().zip(0..) {
                    *x = int8::<MODE>(*x * inverse, bits(i)) as f32 / 64.0 * scale;
                }
            }
        }
    }
}

/// Multiples of 1/64.
#[inline(always)]
fn int8<const MODE: u8>(x: f32, bits: u32) -> i32 {
    to_integer::<MODE>(f64::from(x) * 64.0, bits).clamp(-127.0, 127.0) as i32
}

impl Mx {
    /// Blocks of 32 with the specification's scale.
    ///
    /// # Errors
    /// [`Error::Parameter`] for the element `e8m0`, which has no zero.
    pub fn new(element: impl Into<Element>) -> Result<Self> {
        let element = element.into();
        if element == Element::Float(Format::E8M0) {
            return Err(Error::Parameter { parameter: "element", value: f64::NAN, bound: "any format but e8m0" });
        }
        Ok(Self { element, rule: ScaleRule::Floor, block: 32, rounding: Rounding::NearestEven })
    }

    /// The same with another rule for the scale.
    pub fn scale_rule(self, rule: ScaleRule) -> Self {
        Self { rule, ..self }
    }

    /// The same with blocks of another size.
    ///
    /// # Errors
    /// [`Error::Parameter`] for 0.
    pub fn block(self, block: usize) -> Result<Self> {
        Blocks::new(&[], block)?;
        Ok(Self { block, ..self })
    }

    /// The same with another rounding of the elements.
    pub fn rounding(self, rounding: Rounding) -> Self {
        Self { rounding, ..self }
    }

    /// The quantiser of a step, as [`Quantizer::at`](crate::Quantizer::at).
    pub fn at(self, step: u64) -> Self {
        self.rounding(self.rounding.at(step))
    }

    /// Codes and scales.
    ///
    /// # Errors
    /// [`Error::UnsupportedDevice`] if the tensor is being recorded and has no elements yet.
    pub fn quantize<const D: usize>(&self, x: &Tensor<D>) -> Result<MxTensor> {
        let shape = x.dims().to_vec();
        let blocks = Blocks::new(&shape, self.block)?;
        let seed = self.rounding.seed();
        let (scales, bytes) = memory::read(x, self.name(), |x| {
            let scales = blocks.map(
                x,
                #[inline(always)]
                |block| self.scale(amax(block)),
            );
            let bytes = bits::pack(x.len(), self.element.bits(), |first, codes| {
                let x = &x[first..first + codes.len()];
                let words = Words::new(seed, (first >> 32) as u32);
                with_mode!(self.rounding, MODE => vectorised(#[inline(always)] || {
                    blocks.runs(first, x.len(), #[inline(always)] |block, run| {
                        let Some((inverse, _)) = factors(scales[block]) else {
                            return codes[run].fill(0);
                        };
                        let (first, x, codes) = ((first + run.start) as u32, &x[run.clone()], &mut codes[run]);
                        self.element.encode::<MODE>(x, inverse, #[inline(always)] |i| words.get(first + i), codes);
                    });
                }));
            });
            (scales, bytes)
        })?;
        Ok(MxTensor { config: *self, shape, scales, bytes })
    }

    /// Every element rounded, in the tensor's shape and dtype; gradients pass straight through.
    ///
    /// # Errors
    /// [`Error::UnsupportedDevice`] if the tensor is being recorded and has no elements yet.
    pub fn fake_quantize<const D: usize>(&self, x: Tensor<D>) -> Result<Tensor<D>> {
        let blocks = Blocks::new(&x.dims(), self.block)?;
        straight_through::apply(x, f64::from(f32::MAX), |x| {
            let (x, ()) = memory::update(x.into_dispatch(), self.name(), |x| self.round(x, blocks))?;
            Ok(Tensor::from_dispatch(x))
        })
    }

    fn round(&self, x: &mut [f32], blocks: Blocks) {
        let (seed, element) = (self.rounding.seed(), self.element);
        with_mode!(self.rounding, MODE => blocks.update(x, #[inline(always)] |first, x| {
            match factors(self.scale(amax(x))) {
                Some(factors) => {
                    let words = WideWords::new(seed, first as u64);
                    element.round::<MODE>(x, factors, #[inline(always)] |i| words.get(i));
                }
                None => x.fill(f32::NAN),
            }
        }));
    }

    fn name(&self) -> String {
        match self.element {
            Element::Float(format) => format!("mx {format}"),
            Element::Int8 => "mx int8".to_string(),
        }
    }

    /// The code of the scale for a largest magnitude.
    #[inline(always)]
    fn scale(&self, amax: f32) -> u8 {
        if amax.is_nan() {
            return 0xff;
        }
        if amax == 0.0 {
            return 0;
        }
        let ((exponent, rest), (emax, largest)) = (split(amax), split(self.element.max()));
        let half = 1 << (22 - self.element.mantissa_bits());
        let exponent = match self.rule {
            ScaleRule::Floor => exponent,
            ScaleRule::Ceil => exponent + i32::from(rest > 0),
            ScaleRule::RoundCeil => exponent + i32::from(rest > largest),
            ScaleRule::Even => exponent + i32::from(rest + half >= 1 << 23),
        };
        ((exponent - emax).clamp(-127, 127) + 127) as u8
    }
}

/// `⌊log₂ x⌋` and the 23 bits after the leading one, of a positive finite number.
#[inline(always)]
fn split(x: f32) -> (i32, u32) {
    let bits = x.to_bits();
    match bits >> 23 {
        0 => {
            let leading = 31 - bits.leading_zeros();
            (leading as i32 - 149, (bits << (23 - leading)) & 0x7f_ffff)
        }
        exponent => (exponent as i32 - 127, bits & 0x7f_ffff),
    }
}

/// `2^−e` and `2^e`; `None` for the scale NaN.
#[inline(always)]
fn factors(scale: u8) -> Option<(f32, f32)> {
    let exponent = i32::from(scale) - 127;
    (scale != 0xff).then(|| (power_of_two(-exponent), power_of_two(exponent)))
}

impl MxTensor {
    /// The shape of the tensor.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The scale of each block as `e8m0` codes, block by block along the rows.
    pub fn scales(&self) -> &[u8] {
        &self.scales
    }

    /// The exponent of each block's scale; 128 for NaN.
    pub fn scale_exponents(&self) -> Vec<i32> {
        self.scales.iter().map(|scale| i32::from(*scale) - 127).collect()
    }

    /// The elements' codes without gaps, the first in the lowest bits.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The values as an `f32` tensor: the one that [`Mx::fake_quantize`] gives.
    ///
    /// # Errors
    /// [`Error::Parameter`] if the tensor has another rank than `D`.
    pub fn dequantize<const D: usize>(&self, device: &Device) -> Result<Tensor<D>> {
        let (blocks, element) = (Blocks::new(&self.shape, self.config.block)?, self.config.element);
        let count = self.shape.iter().product();
        let values = bits::unpack(&self.bytes, count, element.bits(), |first, codes, values: &mut [f32]| {
            vectorised(
                #[inline(always)]
                || {
                    blocks.runs(
                        first,
                        codes.len(),
                        #[inline(always)]
                        |block, run| {
                            let scale = factors(self.scales[block]).map_or(f32::NAN, |(_, scale)| scale);
                            element.decode(&codes[run.clone()], scale, &mut values[run]);
                        },
                    );
                },
            );
        });
        memory::tensor(values, &self.shape, device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sqnr;
    use burn::tensor::TensorData;
    use core_tensor::Random;
    use core_tensor::testing::{host_devices, property};
    use proptest::prelude::*;

    const RULES: [ScaleRule; 4] = [ScaleRule::Floor, ScaleRule::Ceil, ScaleRule::RoundCeil, ScaleRule::Even];

    #[test]
    fn scales_by_hand() {
        let exponents = |element: Element, amax: f32| {
            RULES.map(|rule| i32::from(Mx::new(element).unwrap().scale_rule(rule).scale(amax)) - 127)
        };
        let e2m1 = Element::Float(Format::E2M1FN);
        assert_eq!(exponents(e2m1, 6.0), [0, 1, 0, 0]);
        assert_eq!(exponents(e2m1, 6.5), [0, 1, 1, 0]);
        assert_eq!(exponents(e2m1, 7.0), [0, 1, 1, 1]);
        assert_eq!(exponents(e2m1, 8.0), [1, 1, 1, 1]);
        assert_eq!(exponents(e2m1, 8f32.next_down()), [0, 1, 1, 1], "the exponent is from the bits");
        assert_eq!(exponents(e2m1, 1e-45), [-127; 4]);
        assert_eq!(exponents(e2m1, 0.0), [-127; 4]);
        assert_eq!(exponents(e2m1, f32::NAN), [128; 4]);
        assert_eq!(exponents(Element::Float(Format::E4M3FN), 448.0 * 64.0), [6, 7, 6, 6]);
        assert_eq!(exponents(Element::Int8, 1.99), [0, 1, 1, 0]);
        assert_eq!(exponents(Element::Int8, f32::MAX), [127; 4]);
        assert_eq!(split(2f32.powi(-149)), (-149, 0));
        assert_eq!(split(3.0 * 2f32.powi(-140)), (-139, 1 << 22));
        assert!(Mx::new(Format::E8M0).is_err() && Mx::new(Element::Int8).unwrap().block(0).is_err());
    }

    #[test]
    fn blocks_by_hand() {
        let device = Device::flex();
        // Rows of three in blocks of two: the third stands alone.
        let x = Tensor::<2>::from_data([[1.0, 7.9, 0.3], [0.0, -0.0, f32::INFINITY]], &device);
        let mx = Mx::new(Format::E2M1FN).unwrap().block(2).unwrap();
        let stored = mx.quantize(&x).unwrap();
        assert_eq!(stored.scale_exponents(), [0, -4, -127, 128]);
        let y: Vec<f32> = stored.dequantize::<2>(&device).unwrap().into_data().iter::<f32>().collect();
        assert_eq!(y[..5], [1.0, 6.0, 0.25, 0.0, -0.0]);
        assert!(y[4].is_sign_negative() && y[5].is_nan());
        let whole = Mx::new(Element::Int8).unwrap().fake_quantize(Tensor::<1>::from_data([1.0, -1.999, 0.01], &device));
        assert_eq!(whole.unwrap().into_data().iter::<f64>().collect::<Vec<_>>(), [1.0, -127.0 / 64.0, 0.015625]);
    }

    #[test]
    fn storage_agrees_and_scales_do_what_they_say() {
        let element = prop_oneof![
            Just(Element::Int8),
            proptest::sample::select(vec![Format::E4M3FN, Format::E5M2, Format::E2M1FN, Format::E3M2FN, Format::F16])
                .prop_map(Element::Float)
        ];
        let values = proptest::collection::vec((-1f32..1.0, -40i32..40), 1..80);
        let device = host_devices().swap_remove(0);
        property(100, (element, values, 1usize..40), |(element, values, block)| {
            let values: Vec<f32> = values.into_iter().map(|(x, e)| x * 2f32.powi(e)).collect();
            let x = Tensor::<1>::from_data(TensorData::new(values.clone(), [values.len()]), &device);
            for rule in RULES {
                for rounding in [Rounding::NearestEven, Rounding::Stochastic(2)] {
                    let mx = Mx::new(element).unwrap().scale_rule(rule).block(block).unwrap().rounding(rounding);
                    let stored = mx.quantize(&x).unwrap();
                    let y = mx.fake_quantize(x.clone()).unwrap();
                    let back: Tensor<1> = stored.dequantize(&device).unwrap();
                    assert_eq!(y.clone().into_data(), back.into_data());
                    let y: Vec<f32> = y.into_data().iter::<f32>().collect();
                    let exponents = stored.scale_exponents();
                    for ((x, y), e) in values.chunks(block).zip(y.chunks(block)).zip(exponents) {
                        let largest = f64::from(element.max()) * 2f64.powi(e);
                        assert!(y.iter().all(|y| f64::from(y.abs()) <= largest));
                        if matches!(rule, ScaleRule::Ceil | ScaleRule::RoundCeil) {
                            assert!(f64::from(amax(x)) <= largest || e == -127, "nothing saturates");
                        }
                    }
                }
            }
        });
    }

    #[test]
    fn the_noise_is_that_of_the_literature() {
        let device = Device::flex();
        let x: Tensor<1> = Random::new(1).normal([1 << 20], 0.0, 1.0, &device);
        for (format, expected) in
            [(Format::E4M3FN, [30.63, 31.53, 31.53, 31.19]), (Format::E2M1FN, [18.78, 16.83, 18.75, 19.03])]
        {
            for (rule, expected) in RULES.into_iter().zip(expected) {
                let y = Mx::new(format).unwrap().scale_rule(rule).fake_quantize(x.clone()).unwrap();
                let got = sqnr(&x, &y).unwrap();
                assert!((got - expected).abs() < 0.05, "{format} {rule:?}: {got} dB, expected {expected}");
            }
        }
    }

    #[test]
    fn gradients_pass() {
        let device = Device::flex().autodiff();
        let x = Tensor::<1>::from_data([0.3, 2.5, -3.0], &device).require_grad();
        let grads = Mx::new(Format::E2M1FN).unwrap().fake_quantize(x.clone()).unwrap().sum().backward();
        assert_eq!(x.grad(&grads).unwrap().into_data().iter::<f64>().collect::<Vec<_>>(), [1.0; 3]);
    }
}
