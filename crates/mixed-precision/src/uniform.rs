//! Evenly spaced integers: symmetric and affine, for a tensor, a channel or a group.

use std::ops::Range;

use burn::tensor::{Device, Tensor};
use core_tensor::host::vectorised;
use rayon::prelude::*;

use crate::error::{Error, Result, within};
use crate::format::{mode, with_mode};
use crate::memory::CHUNK;
use crate::rounding::{Rounding, Words};
use crate::{bits, memory, straight_through};

/// What shares one scale.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Granularity {
    /// The whole tensor.
    #[default]
    Tensor,
    /// The elements of one index along an axis.
    Channel(usize),
    /// So many consecutive elements (row-major); the last group may be shorter.
    Group(usize),
}

/// Integers of `b` bits: `q = clamp(round(x/s) + z)`, `x ≈ s·(q − z)`.
///
/// | scheme | integers | scale `s` | zero point `z` |
/// |---|---|---|---|
/// | symmetric | `−(2^(b−1)−1) ..= 2^(b−1)−1` | `max|x| / (2^(b−1)−1)` | 0 |
/// | affine | `0 ..= 2^b−1` | `(max − min) / (2^b−1)`, 0 always within `min..max` | `round(−min/s)` |
///
/// | setting | default | range | effect |
/// |---|---|---|---|
/// | `bits` | – | 2 to 16 | integers of so many bits |
/// | [`granularity`](Self::granularity) | tensor | | what shares a scale |
/// | [`rounding`](Self::rounding) | nearest even | | which neighbour ([`Rounding`]) |
/// | [`range`](Self::range) | the tensor's own | holds 0 if not widened | calibrated ends, as an [observer](crate::observers) gives |
///
/// Zero is always representable. Where the scale would not be a positive normal number (all zero, or next to it) it is 1 and
/// the integers are `z`. A group with a NaN or an infinity has the scale NaN and becomes NaN, so that the damage shows.
/// B. Jacob et al., "Quantization and training of neural networks for efficient integer-arithmetic-only inference", CVPR 2018,
/// arXiv:1712.05877.
///
/// Cost: one pass for the scales, one to round, over host memory; elsewhere [`quantize`](Self::quantize) reads the tensor
/// back, and by [`fake_quantize`](Self::fake_quantize) moved there again.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use mixed_precision::{Granularity, Uniform};
///
/// let x = Tensor::<2>::from_data([[127.0, -3.2], [0.127, 0.05]], &Device::flex());
/// let stored = Uniform::symmetric(8)?.granularity(Granularity::Channel(0)).quantize(&x)?;
/// assert_eq!(stored.integers(), [127, -3, 127, 50]);
/// assert_eq!(stored.bytes().len(), 4);
/// let y: Tensor<2> = stored.dequantize(&Device::flex())?;
/// # let _ = y;
/// # Ok::<(), mixed_precision::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Uniform {
    pub(crate) bits: u32,
    pub(crate) affine: bool,
    pub(crate) granularity: Granularity,
    pub(crate) rounding: Rounding,
    /// Bits of the ends that hold for every group.
    pub(crate) range: Option<[u32; 2]>,
}

/// A tensor as integers and scales, made by [`Uniform::quantize`].
#[derive(Clone, Debug, PartialEq)]
pub struct UniformTensor {
    config: Uniform,
    shape: Vec<usize>,
    scales: Vec<f32>,
    zeros: Vec<u16>,
    bytes: Vec<u8>,
}

/// Which group an element belongs to.
#[derive(Clone, Copy)]
struct Groups {
    count: usize,
    /// Elements of consecutive positions in one group.
    run: usize,
}

/// The integers of a group and what they mean.
#[derive(Clone, Copy)]
struct Grid {
    scale: f64,
    zero: f64,
    low: f64,
    high: f64,
}

/// Keys of the smallest and the largest of some numbers and zero.
#[derive(Clone, Copy, Default)]
struct Bounds {
    low: i32,
    high: i32,
}

impl Groups {
    /// `f(group, positions)` for the runs of one group among `length` positions from `first`.
    #[inline(always)]
    fn runs(self, first: usize, length: usize, mut f: impl FnMut(usize, Range<usize>)) {
        let (mut start, mut run) = (0, first / self.run);
        while start < length {
            let end = length.min((run + 1) * self.run - first);
            f(run % self.count, start..end);
            (start, run) = (end, run + 1);
        }
    }

    /// Of every group.
    fn bounds(self, x: &[f32]) -> Vec<Bounds> {
        let join = |mut all: Vec<Bounds>, part: Vec<(usize, Bounds)>| {
            part.into_iter().for_each(|(group, bounds)| all[group] = all[group].join(bounds));
            all
        };
        // Whole turns through the groups where they are short, so that a task sums up its own.
        let turn = self.run * self.count;
        let length = if turn < CHUNK { turn * (CHUNK / turn) } else { CHUNK };
        let parts: Vec<_> = x
            .par_chunks(length)
            .enumerate()
            .map(|(i, x)| {
                vectorised(
                    #[inline(always)]
                    || {
                        let mut found: Vec<(usize, Bounds)> = vec![];
                        self.runs(
                            i * length,
                            x.len(),
                            #[inline(always)]
                            |group, run| match found.get_mut(group) {
                                Some((_, bounds)) if turn < CHUNK => *bounds = bounds.join(Bounds::of(&x[run])),
                                _ => found.push((group, Bounds::of(&x[run]))),
                            },
                        );
                        found
                    },
                )
            })
            .collect();
        parts.into_iter().fold(vec![Bounds::default(); self.count], join)
    }
}

impl Uniform {
    /// Symmetric around zero.
    ///
    /// # Errors
    /// [`Error::Parameter`] unless `bits` is 2 to 16.
    pub fn symmetric(bits: usize) -> Result<Self> {
        Self::new(bits, false)
    }

    /// From the smallest to the largest value.
    ///
    /// # Errors
    /// [`Error::Parameter`] unless `bits` is 2 to 16.
    pub fn affine(bits: usize) -> Result<Self> {
        Self::new(bits, true)
    }

    fn new(bits: usize, affine: bool) -> Result<Self> {
        let bits = within("bits", bits, 2..=16, "2 <= bits <= 16")? as u32;
        Ok(Self { bits, affine, granularity: Granularity::Tensor, rounding: Rounding::NearestEven, range: None })
    }

    /// The same with scales for other parts.
    pub fn granularity(self, granularity: Granularity) -> Self {
        Self { granularity, ..self }
    }

    /// The same with another rounding.
    pub fn rounding(self, rounding: Rounding) -> Self {
        Self { rounding, ..self }
    }

    /// The same with the ends `low` and `high` for every group instead of its own: what is beyond is clamped (infinities too),
    /// and has no gradient; a NaN makes its group NaN. Widened to hold 0.
    ///
    /// # Errors
    /// [`Error::Parameter`] unless both are finite as `f32` and `low <= high`.
    pub fn range(self, low: f64, high: f64) -> Result<Self> {
        let (small, large) = (low as f32, high as f32);
        if !(small.is_finite() && small <= large && large.is_finite()) {
            let (parameter, value) = if small.is_finite() { ("high", high) } else { ("low", low) };
            return Err(Error::Parameter { parameter, value, bound: "-inf < low <= high < inf" });
        }
        Ok(Self { range: Some([small.min(0.0).to_bits(), large.max(0.0).to_bits()]), ..self })
    }

    /// Scale and zero point for the ends `low` and `high`, which are widened to hold 0.
    ///
    /// # Errors
    /// As [`range`](Self::range).
    pub fn parameters(&self, low: f64, high: f64) -> Result<(f32, u16)> {
        let [low, high] = self.range(low, high)?.ends().expect("set just now");
        Ok(self.scale(low.into(), high.into()))
    }

    /// The quantiser of a step, as [`Quantizer::at`](crate::Quantizer::at).
    pub fn at(self, step: u64) -> Self {
        self.rounding(self.rounding.at(step))
    }

    /// Integers, scales and zero points.
    ///
    /// # Errors
    /// [`Error::Parameter`] for an axis that the tensor lacks or a group of 0; [`Error::UnsupportedDevice`] if the tensor
    /// is being recorded and has no elements yet.
    pub fn quantize<const D: usize>(&self, x: &Tensor<D>) -> Result<UniformTensor> {
        let shape = x.dims().to_vec();
        let groups = self.groups(&shape)?;
        let (scales, zeros, bytes) = memory::read(x, self.name(), |x| {
            let (scales, zeros) = self.scales(x, groups);
            let bytes = self.codes(x, groups, &scales, &zeros);
            (scales, zeros, bytes)
        })?;
        Ok(UniformTensor { config: *self, shape, scales, zeros, bytes })
    }

    /// Every element rounded, in the tensor's shape and dtype; the gradient passes straight through, for no finite
    /// number is outside the range.
    ///
    /// # Errors
    /// As [`quantize`](Self::quantize).
    pub fn fake_quantize<const D: usize>(&self, x: Tensor<D>) -> Result<Tensor<D>> {
        let groups = self.groups(&x.dims())?;
        let [low, high] = match self.ends() {
            None => [-f64::from(f32::MAX), f64::from(f32::MAX)],
            Some([low, high]) => self.reach(low, high),
        };
        straight_through::apply_within(x, low, high, |x| {
            let (x, ()) = memory::update(x.into_dispatch(), self.name(), |x| self.round(x, groups))?;
            Ok(Tensor::from_dispatch(x))
        })
    }

    fn codes(&self, x: &[f32], groups: Groups, scales: &[f32], zeros: &[u16]) -> Vec<u8> {
        let (seed, mask) = (self.rounding.seed(), (1 << self.bits) - 1);
        bits::pack(x.len(), self.bits, |first, codes| {
            let x = &x[first..first + codes.len()];
            let words = Words::new(seed, (first >> 32) as u32);
            with_mode!(self.rounding, MODE => vectorised(#[inline(always)] || {
                groups.runs(first, x.len(), #[inline(always)] |group, run| {
                    let grid = self.grid(scales[group], zeros[group]);
                    for ((code, x), i) in codes[run.clone()].iter_mut().zip(&x[run.clone()]).zip(run.start as u32..) {
                        let bits = if MODE == mode::STOCHASTIC { words.get(first as u32 + i) } else { 0 };
                        *code = grid.integer::<MODE>(*x, bits) as i32 as u32 & mask;
                    }
                });
            }));
        })
    }

    fn round(&self, x: &mut [f32], groups: Groups) {
        let (scales, zeros) = self.scales(x, groups);
        let seed = self.rounding.seed();
        memory::chunks(x, |first, x| {
            let words = Words::new(seed, (first >> 32) as u32);
            with_mode!(self.rounding, MODE => vectorised(#[inline(always)] || {
                groups.runs(first, x.len(), #[inline(always)] |group, run| {
                    let grid = self.grid(scales[group], zeros[group]);
                    for (x, i) in x[run.clone()].iter_mut().zip(run.start as u32..) {
                        let bits = if MODE == mode::STOCHASTIC { words.get(first as u32 + i) } else { 0 };
                        *x = grid.value(grid.integer::<MODE>(*x, bits));
                    }
                });
            }));
        });
    }

    /// The grid of a group.
    #[inline(always)]
    fn grid(&self, scale: f32, zero: u16) -> Grid {
        let (steps, zero) = (f64::from(self.steps()), f64::from(zero));
        Grid { scale: f64::from(scale), zero, low: if self.affine { 0.0 } else { -steps }, high: steps }
    }

    fn name(&self) -> String {
        format!("uniform {}-bit", self.bits)
    }

    fn groups(&self, shape: &[usize]) -> Result<Groups> {
        let elements: usize = shape.iter().product();
        Ok(match self.granularity {
            Granularity::Tensor => Groups { count: 1, run: elements.max(1) },
            Granularity::Channel(axis) => {
                let Some(count) = shape.get(axis) else {
                    return Err(Error::Parameter { parameter: "axis", value: axis as f64, bound: "axis < rank" });
                };
                let run: usize = shape[axis + 1..].iter().product();
                Groups { count: (*count).max(1), run: run.max(1) }
            }
            Granularity::Group(size) => {
                let run = within("group", size, 1..=usize::MAX, "1 <= group")?;
                Groups { count: elements.div_ceil(run).max(1), run }
            }
        })
    }

    /// The largest integer of the symmetric scheme, the number of steps of the affine.
    fn steps(&self) -> u32 {
        (1 << (self.bits - u32::from(!self.affine))) - 1
    }

    /// The calibrated ends.
    fn ends(&self) -> Option<[f32; 2]> {
        self.range.map(|range| range.map(f32::from_bits))
    }

    /// Beyond these numbers values are clamped: the outermost integers, and half a step for rounding to nearest.
    fn reach(&self, low: f32, high: f32) -> [f64; 2] {
        let (scale, zero) = self.scale(low.into(), high.into());
        let (scale, zero, steps) = (f64::from(scale), f64::from(zero), f64::from(self.steps()));
        match self.affine {
            true => [-(zero + 0.5) * scale, (steps - zero + 0.5) * scale],
            false => [-(steps + 0.5) * scale, (steps + 0.5) * scale],
        }
    }

    /// Scale and zero point of every group.
    fn scales(&self, x: &[f32], groups: Groups) -> (Vec<f32>, Vec<u16>) {
        // With calibrated ends only a NaN matters.
        let Some([low, high]) = self.ends() else {
            let scale = |bounds: Bounds| match bounds.finite() {
                Some((low, high)) => self.scale(low, high),
                None => (f32::NAN, 0),
            };
            return groups.bounds(x).into_iter().map(scale).unzip();
        };
        let mut nan = vec![false; groups.count];
        for (i, run) in x.chunks(groups.run).enumerate() {
            nan[i % groups.count] |= run.iter().any(|x| x.is_nan());
        }
        let (low, high) = (f64::from(low), f64::from(high));
        nan.into_iter().map(|nan| if nan { (f32::NAN, 0) } else { self.scale(low, high) }).unzip()
    }

    /// Scale and zero point for ends that hold zero.
    pub(crate) fn scale(&self, low: f64, high: f64) -> (f32, u16) {
        let steps = f64::from(self.steps());
        let scale = match self.affine {
            true => (high - low) / steps,
            false => high.max(-low) / steps,
        } as f32;
        let scale = if scale >= f32::MIN_POSITIVE { scale } else { 1.0 };
        let zero = match self.affine {
            true => (-low / f64::from(scale)).round_ties_even().clamp(0.0, steps) as u16,
            false => 0,
        };
        (scale, zero)
    }

    /// A number as one of the integers times the scale, without random bits.
    pub(crate) fn nearest(&self, x: f32, scale: f32, zero: u16) -> f32 {
        let grid = self.grid(scale, zero);
        with_mode!(self.rounding, MODE => grid.value(grid.integer::<MODE>(x, 0)))
    }

    fn integer(&self, code: u32) -> i32 {
        match self.affine {
            true => code as i32,
            false => (code << (32 - self.bits)) as i32 >> (32 - self.bits),
        }
    }
}

impl Grid {
    /// The integer of a number, as a number: NaN where the scale is.
    #[inline(always)]
    fn integer<const MODE: u8>(self, x: f32, bits: u32) -> f64 {
        (to_integer::<MODE>(f64::from(x) / self.scale, bits) + self.zero).clamp(self.low, self.high)
    }

    /// The number of an integer. Zero has no sign among integers.
    #[inline(always)]
    fn value(self, integer: f64) -> f32 {
        ((integer - self.zero + 0.0) * self.scale) as f32
    }
}

impl Bounds {
    #[inline(always)]
    fn of(x: &[f32]) -> Self {
        // Keys are ordered as the numbers are, infinities and NaN outside all finite ones.
        let key = |x: &f32| x.to_bits() as i32 ^ (x.to_bits() as i32 >> 31) & i32::MAX;
        let (mut low, mut high) = (0, 0);
        for x in x {
            low = low.min(key(x));
            high = high.max(key(x));
        }
        Self { low, high }
    }

    #[inline(always)]
    fn join(self, other: Self) -> Self {
        Self { low: self.low.min(other.low), high: self.high.max(other.high) }
    }

    /// Smallest and largest number, if all are finite.
    fn finite(self) -> Option<(f64, f64)> {
        let number = |key: i32| f32::from_bits((key ^ (key >> 31) & i32::MAX) as u32);
        let (low, high) = (number(self.low), number(self.high));
        (low.is_finite() && high.is_finite()).then(|| (f64::from(low), f64::from(high)))
    }
}

/// A number as a whole one. Random bits are used by the stochastic rounding only.
#[inline(always)]
pub(crate) fn to_integer<const MODE: u8>(x: f64, bits: u32) -> f64 {
    match MODE {
        mode::EVEN => x.round_ties_even(),
        mode::AWAY => x.round(),
        mode::ZERO => x.trunc(),
        mode::POSITIVE => x.ceil(),
        mode::NEGATIVE => x.floor(),
        _ => {
            let whole = x.trunc();
            let away = f64::from(bits) < (x - whole).abs() * 4_294_967_296.0;
            whole + if away { 1f64.copysign(x) } else { 0.0 }
        }
    }
}

impl UniformTensor {
    /// The shape of the tensor.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The scale of each group.
    pub fn scales(&self) -> &[f32] {
        &self.scales
    }

    /// The zero point of each group; zeros if symmetric.
    pub fn zero_points(&self) -> &[u16] {
        &self.zeros
    }

    /// The integers without gaps, in two's complement if symmetric, the first in the lowest bits.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The integers.
    pub fn integers(&self) -> Vec<i32> {
        let count = self.shape.iter().product();
        bits::unpack(&self.bytes, count, self.config.bits, |_, codes, integers| {
            integers.iter_mut().zip(codes).for_each(|(integer, code)| *integer = self.config.integer(*code));
        })
    }

    /// The values as an `f32` tensor: the one that [`Uniform::fake_quantize`] gives.
    ///
    /// # Errors
    /// [`Error::Parameter`] if the tensor has another rank than `D`.
    pub fn dequantize<const D: usize>(&self, device: &Device) -> Result<Tensor<D>> {
        let (groups, count) = (self.config.groups(&self.shape)?, self.shape.iter().product());
        let config = self.config;
        let values = bits::unpack(&self.bytes, count, config.bits, |first, codes, values: &mut [f32]| {
            vectorised(
                #[inline(always)]
                || {
                    groups.runs(
                        first,
                        codes.len(),
                        #[inline(always)]
                        |group, run| {
                            let grid = config.grid(self.scales[group], self.zeros[group]);
                            let pairs = values[run.clone()].iter_mut().zip(&codes[run]);
                            pairs.for_each(|(value, code)| *value = grid.value(f64::from(config.integer(*code))));
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
    use burn::tensor::TensorData;
    use core_tensor::testing::{host_devices, property};
    use proptest::prelude::*;

    fn values<const D: usize>(x: Tensor<D>) -> Vec<f32> {
        x.into_data().iter::<f32>().collect()
    }

    #[test]
    fn schemes_by_hand() {
        let device = Device::flex();
        let x = Tensor::<1>::from_data([-1.0, 0.0, 0.25, 3.0], &device);
        let symmetric = Uniform::symmetric(4).unwrap().quantize(&x).unwrap();
        // Scale 3/7: −2.33, 0, 0.58, 7.
        assert_eq!((symmetric.integers(), symmetric.zero_points()), (vec![-2, 0, 1, 7], &[0][..]));
        assert_eq!(symmetric.bytes(), [0x0e, 0x71]);
        let affine = Uniform::affine(2).unwrap().quantize(&x).unwrap();
        // Scale 4/3, zero point round(0.75): 0.25, 1, 1.19, 3.25.
        assert_eq!((affine.integers(), affine.zero_points()), (vec![0, 1, 1, 3], &[1][..]));
        let up = Uniform::affine(2).unwrap().rounding(Rounding::TowardPositive).quantize(&x).unwrap();
        assert_eq!(up.integers(), [1, 1, 2, 3], "-0.75 goes up to 0, 0.19 to 1");
    }

    #[test]
    fn groups_are_independent() {
        let device = Device::flex();
        let x = Tensor::<2>::from_data([[1.0, 20.0, 3.0], [-2.0, 4.0, -60.0]], &device);
        let scales = |granularity| {
            let scheme = Uniform::symmetric(2).unwrap().granularity(granularity);
            let stored = scheme.quantize(&x).unwrap();
            assert_eq!(
                values(stored.dequantize::<2>(&device).unwrap()),
                values(scheme.fake_quantize(x.clone()).unwrap())
            );
            stored.scales().to_vec()
        };
        assert_eq!(scales(Granularity::Tensor), [60.0]);
        assert_eq!(scales(Granularity::Channel(0)), [20.0, 60.0]);
        assert_eq!(scales(Granularity::Channel(1)), [2.0, 20.0, 60.0]);
        assert_eq!(scales(Granularity::Group(4)), [20.0, 60.0]);
        assert_eq!(scales(Granularity::Group(5)), [20.0, 60.0]);
        let wrong =
            |granularity| Uniform::affine(8).unwrap().granularity(granularity).quantize(&x).unwrap_err().to_string();
        assert_eq!(wrong(Granularity::Channel(2)), "axis = 2 is out of range, expected axis < rank");
        assert_eq!(wrong(Granularity::Group(0)), "group = 0 is out of range, expected 1 <= group");
        for bits in [1, 17] {
            assert!(Uniform::symmetric(bits).is_err());
        }
    }

    #[test]
    fn calibrated_ends_clamp() {
        for device in host_devices() {
            let data = [-9.0, -1.0, 0.26, 3.0, 3.4, f32::INFINITY];
            let scheme = Uniform::affine(3).unwrap().range(-0.5, 3.0).unwrap();
            // Steps of a half, zero at 1.
            assert_eq!(scheme.parameters(-0.5, 3.0).unwrap(), (0.5, 1));
            let x = Tensor::<1>::from_data(data, &device);
            let stored = scheme.quantize(&x).unwrap();
            assert_eq!(stored.integers(), [0, 0, 2, 7, 7, 7]);
            assert_eq!(values(stored.dequantize::<1>(&device).unwrap()), [-0.5, -0.5, 0.5, 3.0, 3.0, 3.0]);
            let leaf = Tensor::<1>::from_data(data, &device.clone().autodiff()).require_grad();
            let y = scheme.fake_quantize(leaf.clone()).unwrap();
            assert_eq!(values(y.clone()), [-0.5, -0.5, 0.5, 3.0, 3.0, 3.0]);
            let grads = y.sum().backward();
            // Up to half a step beyond −0.5 and 3.
            assert_eq!(values(leaf.grad(&grads).unwrap()), [0.0, 0.0, 1.0, 1.0, 0.0, 0.0]);
            let symmetric = Uniform::symmetric(2).unwrap().range(0.5, 2.0).unwrap();
            assert_eq!(values(symmetric.fake_quantize(x).unwrap()), [-2.0, 0.0, 0.0, 2.0, 2.0, 2.0]);
            let bad = Tensor::<1>::from_data([1.0, f32::NAN, 2.0, 2.0], &device);
            let y = values(symmetric.granularity(Granularity::Group(2)).fake_quantize(bad).unwrap());
            assert!(y[0].is_nan() && y[1].is_nan() && y[2] == 2.0);
        }
        let message = |low, high| Uniform::affine(8).unwrap().range(low, high).unwrap_err().to_string();
        assert_eq!(message(2.0, 1.0), "high = 1 is out of range, expected -inf < low <= high < inf");
        assert_eq!(message(f64::NAN, 1.0), "low = NaN is out of range, expected -inf < low <= high < inf");
        assert!(Uniform::affine(8).unwrap().range(0.0, 1e39).is_err());
    }

    #[test]
    fn what_is_not_finite_shows_in_its_group() {
        let device = Device::flex();
        let x = Tensor::<1>::from_data([1.0, f32::INFINITY, 0.0, 0.0, -2.0, 2.0], &device);
        let y = values(Uniform::affine(8).unwrap().granularity(Granularity::Group(2)).fake_quantize(x).unwrap());
        assert!(y[0].is_nan() && y[1].is_nan());
        assert_eq!(y[2..4], [0.0, 0.0]);
        assert!((y[4] + 2.0).abs() <= 2.0 / 255.0 && (y[5] - 2.0).abs() <= 2.0 / 255.0);
    }

    #[test]
    fn errors_are_within_half_a_step_and_storage_agrees() {
        for device in host_devices() {
            let strategy = (2usize..=16, any::<bool>(), proptest::collection::vec(-1e3f32..1e3, 1..50));
            property(60, strategy, |(bits, affine, data)| {
                let x = Tensor::<1>::from_data(TensorData::new(data.clone(), [data.len()]), &device);
                let scheme = if affine { Uniform::affine(bits) } else { Uniform::symmetric(bits) }.unwrap();
                let stored = scheme.quantize(&x).unwrap();
                let y = values(stored.dequantize::<1>(&device).unwrap());
                assert_eq!(y, values(scheme.fake_quantize(x.clone()).unwrap()));
                // The zero point of the affine scheme is rounded itself.
                let steps = if affine { 1.0 } else { 0.5 };
                let allowed = f64::from(stored.scales()[0]) * steps * (1.0 + 1e-5);
                for (x, y) in data.iter().zip(&y) {
                    assert!((f64::from(*x) - f64::from(*y)).abs() <= allowed, "{bits} {affine}: {x} became {y}");
                }
                let noisy = values(scheme.rounding(Rounding::Stochastic(1)).fake_quantize(x).unwrap());
                for (x, y) in data.iter().zip(&noisy) {
                    assert!((f64::from(*x) - f64::from(*y)).abs() <= allowed * 2.0, "{x} became {y}");
                }
            });
        }
    }

    #[test]
    fn stochastic_integers_have_the_right_mean() {
        let n = 10_000;
        for x in [0.25, -0.75, 3.1, -0.0] {
            let draws = (0..n).map(|i| to_integer::<{ mode::STOCHASTIC }>(x, crate::rounding::word(2, i)));
            let mean = draws.sum::<f64>() / n as f64;
            assert!(
                (mean - x).abs() <= 4.0 * (x.fract().abs() * (1.0 - x.fract().abs()) / n as f64).sqrt(),
                "{x}: {mean}"
            );
        }
    }
}
