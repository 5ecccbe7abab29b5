//! Exponential, hyperbolic tangent, logistic and error function of host tensors in `f32` and half precision.
//!
//! Burn's host backends call the C library once an element on one thread. Here they are polynomials without branches, which
//! the compiler turns into vector code, computed in `f64` and rounded once: the results differ from the correctly rounded
//! ones by at most one unit in the last place of `f32`. `f64` tensors are left to the backend.
//!
//! Sources: W. J. Cody and W. Waite, "Software manual for the elementary functions", 1980 (reduction of the argument of
//! the exponential in two parts); C. W. Clenshaw, "A note on the summation of Chebyshev series", 1955. The coefficients of
//! the error function are those of the interpolant of `erf(√t)/√t` at the Chebyshev points of `[0, 16]`.

use burn::backend::{DispatchTensor, TensorMetadata};
use rayon::prelude::*;

use super::host::{self, Slice, SliceMut};
use super::slices::{self, Real};
use super::{cast, rebuild};

/// Elements of one task: a few microseconds' work.
const CHUNK: usize = 1 << 12;

/// `f(x)` element by element; `otherwise` where the tensor is not on the host or is in `f64`.
pub(crate) fn unary(
    x: DispatchTensor,
    f: impl Fn(f64) -> f64 + Copy + Send + Sync,
    otherwise: impl FnOnce(DispatchTensor) -> DispatchTensor,
) -> DispatchTensor {
    if !narrow(&x) {
        return otherwise(x);
    }
    let mut x = host::contiguous(x);
    match host::slice_mut(&mut x) {
        Some(SliceMut::F32(x)) => in_place(x, f),
        Some(SliceMut::F16(x)) => in_place(x, f),
        Some(SliceMut::BF16(x)) => in_place(x, f),
        _ => {
            return match host::slice(&x) {
                Some(Slice::F32(s)) => rebuild(&x, mapped(s, f)),
                Some(Slice::F16(s)) => rebuild(&x, mapped(s, f)),
                Some(Slice::BF16(s)) => rebuild(&x, mapped(s, f)),
                _ => unreachable!("a contiguous narrow tensor of the host has a slice"),
            };
        }
    }
    x
}

/// `f(x, y)` for tensors of one shape; `otherwise` as for [`unary`].
pub(crate) fn binary(
    x: DispatchTensor,
    y: DispatchTensor,
    f: impl Fn(f64, f64) -> f64 + Copy + Send + Sync,
    otherwise: impl FnOnce(DispatchTensor, DispatchTensor) -> DispatchTensor,
) -> DispatchTensor {
    if !narrow(&x) || !narrow(&y) || x.shape() != y.shape() {
        return otherwise(x, y);
    }
    let x = host::contiguous(x);
    let y = host::contiguous(cast(y, x.dtype()));
    match (host::slice(&x), host::slice(&y)) {
        (Some(Slice::F32(s)), Some(Slice::F32(y))) => rebuild(&x, zipped(s, y, f)),
        (Some(Slice::F16(s)), Some(Slice::F16(y))) => rebuild(&x, zipped(s, y, f)),
        (Some(Slice::BF16(s)), Some(Slice::BF16(y))) => rebuild(&x, zipped(s, y, f)),
        _ => unreachable!("contiguous narrow tensors of the host have slices"),
    }
}

fn narrow(x: &DispatchTensor) -> bool {
    host::is_host(x) && x.dtype() != burn::tensor::DType::F64
}

fn in_place<E: Real>(x: &mut [E], f: impl Fn(f64) -> f64 + Copy + Send + Sync) {
    match x.len() <= 2 * CHUNK {
        true => slices::update(x, f),
        false => x.par_chunks_mut(CHUNK).for_each(|x| slices::update(x, f)),
    }
}

fn mapped<E: Real>(x: &[E], f: impl Fn(f64) -> f64 + Copy + Send + Sync) -> Vec<E> {
    let mut out = x.to_vec();
    in_place(&mut out, f);
    out
}

fn zipped<E: Real>(x: &[E], y: &[E], f: impl Fn(f64, f64) -> f64 + Copy + Send + Sync) -> Vec<E> {
    let mut out = x.to_vec();
    match x.len() <= 2 * CHUNK {
        true => slices::update_zip(&mut out, y, f),
        false => {
            out.par_chunks_mut(CHUNK).zip(y.par_chunks(CHUNK)).for_each(|(x, y)| slices::update_zip(x, y, f));
        }
    }
    out
}

/// `2^k − 1 + 2^k·(e^r − 1)` in parts: `2^k` and `e^r − 1`, with `x = k·ln 2 + r`, `|r| <= ln(2)/2`.
#[inline(always)]
fn split(x: f64) -> (f64, f64) {
    /// 1.5·2⁵², which pushes the fraction of a smaller number out of the mantissa.
    const ROUND: f64 = 6_755_399_441_055_744.0;
    /// The upper bits of ln 2, so that `k` times them is exact.
    const LN2_HIGH: f64 = 0.693_147_180_369_123_8;
    const LN2_LOW: f64 = 1.908_214_929_270_587_7e-10;
    let shifted = x * std::f64::consts::LOG2_E + ROUND;
    let k = shifted - ROUND;
    let power = f64::from_bits(shifted.to_bits().wrapping_add(1023) << 52);
    let r = (x - k * LN2_HIGH) - k * LN2_LOW;
    // The Taylor polynomial of degree 9; what follows is below 3e-11 of it.
    let mut p = 1.0 / 362_880.0;
    for c in [1.0 / 40_320.0, 1.0 / 5_040.0, 1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0] {
        p = p * r + c;
    }
    (power, p * r)
}

/// `min(max(x, low), high)` that passes NaN on.
#[inline(always)]
fn between(x: f64, low: f64, high: f64) -> f64 {
    let x = if x < low { low } else { x };
    if x > high { high } else { x }
}

/// `eˣ`. Beyond ±200, out of the range of `f32`, it is `e^±200`.
#[inline(always)]
pub(crate) fn exp(x: f64) -> f64 {
    let (power, rest) = split(between(x, -200.0, 200.0));
    power + power * rest
}

/// `tanh x = t/(t + 2)` with `t = e^2x − 1`, which keeps its digits near zero.
#[inline(always)]
pub(crate) fn tanh(x: f64) -> f64 {
    let (power, rest) = split(between(2.0 * x, -60.0, 60.0));
    let t = (power - 1.0) + power * rest;
    t / (t + 2.0)
}

/// `1/(1 + e^−x)`.
#[inline(always)]
pub(crate) fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + exp(-x))
}

/// `erf x`, as `x` times a Chebyshev series in `x²` of degree 20 (relative error 1.3e-11); beyond ±4 that of ±4, which is ±1 in
/// `f32`.
#[inline(always)]
pub(crate) fn erf(x: f64) -> f64 {
    const SERIES: [f64; 21] = [
        0.485_912_956_902_863_07,
        -0.345_407_855_004_949_8,
        0.161_829_101_213_645_84,
        -0.076_482_756_105_508_77,
        0.034_669_936_800_507_21,
        -0.014_811_864_147_814_508,
        0.005_922_937_956_231_541,
        -0.002_211_840_658_809_708_2,
        0.000_771_415_427_839_463_1,
        -0.000_251_596_587_808_951_34,
        7.688_658_220_985_827e-5,
        -2.206_549_593_818_450_4e-5,
        5.961_274_040_581_269_4e-6,
        -1.519_775_071_076_96e-6,
        3.664_930_425_830_425e-7,
        -8.378_998_302_591_266e-8,
        1.820_144_792_132_593e-8,
        -3.764_477_251_661_199e-9,
        7.427_356_326_590_885e-10,
        -1.400_522_717_122_437e-10,
        2.528_103_571_896_661_7e-11,
    ];
    let x = between(x, -4.0, 4.0);
    // The interval [0, 16] of x² as [−1, 1], doubled.
    let twice = x * x * 0.25 - 2.0;
    let (mut b1, mut b2) = (0.0, 0.0);
    for c in SERIES[1..].iter().rev() {
        (b1, b2) = (twice * b1 - b2 + c, b1);
    }
    x * (0.5 * twice * b1 - b2 + SERIES[0])
}

/// `x·Φ(x)` with the normal distribution function.
#[inline(always)]
pub(crate) fn gelu(x: f64) -> f64 {
    0.5 * x * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2))
}

/// `g·(Φ(x) + x·φ(x))`.
#[inline(always)]
pub(crate) fn gelu_backward(x: f64, g: f64) -> f64 {
    const DENSITY: f64 = 0.398_942_280_401_432_7;
    let below = 0.5 * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2));
    g * (below + x * DENSITY * exp(-0.5 * x * x))
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{DType, Tensor, TensorData};

    /// Every magnitude that f32 has, both signs.
    fn points() -> Vec<f64> {
        let magnitudes = (-140..=127).flat_map(|e| [1.0, 1.37, 1.81].map(|m| m * 2f64.powi(e)));
        magnitudes.flat_map(|x| [x, -x]).chain((-4000..=4000).map(|i| f64::from(i) * 2.5e-3)).collect()
    }

    /// Within one unit in the last place of `f32`, its subnormal range included.
    fn agrees(name: &str, f: fn(f64) -> f64, truth: fn(f64) -> f64) {
        for x in points() {
            let (got, want) = (f(x) as f32, truth(x) as f32);
            let close =
                got == want || (f64::from(got) - f64::from(want)).abs() <= 1.2e-7 * f64::from(want).abs() + 1e-44;
            assert!(close, "{name}({x:e}) = {got:e}, expected {want:e}");
        }
        assert!(f(f64::NAN).is_nan(), "{name}(NaN)");
    }

    #[test]
    fn functions_agree_with_the_library() {
        agrees("exp", exp, f64::exp);
        agrees("tanh", tanh, f64::tanh);
        agrees("sigmoid", sigmoid, |x| 1.0 / (1.0 + (-x).exp()));
        agrees("erf", erf, libm::erf);
    }

    #[test]
    fn gelu_and_its_slope_agree_with_the_definition() {
        let cdf = |x: f64| 0.5 * libm::erfc(-x * std::f64::consts::FRAC_1_SQRT_2);
        let density = |x: f64| (-0.5 * x * x).exp() * 0.398_942_280_401_432_7;
        for x in points().into_iter().filter(|x| x.abs() < 1e3) {
            assert!((gelu(x) - x * cdf(x)).abs() <= 2e-7 * x.abs().max(1e-30), "gelu({x:e})");
            let slope = cdf(x) + x * density(x);
            assert!((gelu_backward(x, 2.0) - 2.0 * slope).abs() <= 4e-7, "gelu'({x:e})");
        }
    }

    #[test]
    fn tensors_keep_shape_and_dtype() {
        let backend = |_: DispatchTensor| unreachable!("narrow tensors of the host have a kernel");
        for device in crate::testing::host_devices() {
            let dtypes = [DType::F32, DType::F16, DType::BF16].into_iter();
            for dtype in dtypes.filter(|dtype| device.supports_dtype(*dtype)) {
                let values: Vec<f64> = (0..20_000).map(|i| f64::from(i % 17) * 0.25 - 2.0).collect();
                let data = TensorData::new(values.clone(), [100, 200]);
                let x = Tensor::<2>::from_data(data, (&device, dtype));
                let shared = x.clone();
                let check = |out: DispatchTensor, f: fn(f64) -> f64| {
                    let out = Tensor::<2>::from_dispatch(out);
                    assert_eq!((out.dims(), out.dtype()), ([100, 200], dtype));
                    let tolerance = if dtype == DType::F32 { 1e-6 } else { 1e-2 };
                    for (y, x) in out.into_data().iter::<f64>().zip(&values) {
                        assert!((y - f(*x)).abs() <= tolerance * f(*x).abs().max(0.1), "{x}: {y}");
                    }
                };
                // A buffer with another holder, a buffer without, a view, two operands.
                check(unary(x.into_dispatch(), tanh, backend), f64::tanh);
                let view = shared.clone().transpose().transpose();
                check(unary(view.into_dispatch(), exp, backend), f64::exp);
                let operand = || shared.clone().into_dispatch();
                check(binary(operand(), operand(), |x, y| x * y, |_, _| unreachable!("narrow")), |x| x * x);
                check(unary(shared.into_dispatch(), sigmoid, backend), |x| 1.0 / (1.0 + (-x).exp()));
            }
            let wide = Tensor::<1>::from_data(TensorData::new(vec![1.0f64], [1]), (&device, DType::F64));
            let left = std::cell::Cell::new(false);
            unary(wide.into_dispatch(), exp, |x| {
                left.set(true);
                x
            });
            assert!(left.get(), "f64 is left to the backend");
        }
    }
}
