//! Reductions of host leaves: one pass each, accumulated in `f64`.
//!
//! Sums of squares and products of `f64` leaves that left the range of `f64` are taken again with
//! the elements scaled by a power of two, so a result is right wherever it is representable.

use burn::backend::{DispatchTensor, TensorMetadata};
use burn::tensor::DType;

use super::generic::cast;
use super::host::{self, Slice};
use super::slices;

/// A sum times a power of two, so that it can lie outside the range of `f64`.
#[derive(Clone, Copy)]
struct Scaled {
    sum: f64,
    exponent: i32,
}

/// `Σ x·y` over pairs of leaves of one shape.
pub(crate) fn dot(pairs: &[(&DispatchTensor, &DispatchTensor)]) -> f64 {
    let sums: Vec<Scaled> = pairs.iter().map(|(x, y)| leaf_dot(x, y)).collect();
    let total = Scaled::total(&sums);
    ldexp(total.sum, total.exponent)
}

/// `√Σ x²`.
pub(crate) fn norm(leaves: &[&DispatchTensor]) -> f64 {
    let sums: Vec<Scaled> = leaves.iter().map(|x| leaf_square(x)).collect();
    let total = Scaled::total(&sums);
    // Exponents of sums of squares are even.
    ldexp(total.sum.sqrt(), total.exponent / 2)
}

/// `(Σ |x|^p)^(1/p)` for `1 <= p < ∞`.
pub(crate) fn norm_p(leaves: &[&DispatchTensor], p: f64) -> f64 {
    let unit = max_abs(leaves);
    if unit == 0.0 || !unit.is_finite() {
        return unit;
    }
    let power = move |x: f64| (x.abs() / unit).powf(p);
    let sums: Vec<f64> = leaves.iter().map(|x| leaf_sum(x, power)).collect();
    slices::pairwise(&sums).powf(1.0 / p) * unit
}

/// `max |x|`.
pub(crate) fn max_abs(leaves: &[&DispatchTensor]) -> f64 {
    let max = |a: f64, b: f64| match a.is_nan() || b.is_nan() {
        true => f64::NAN,
        false => a.max(b),
    };
    leaves.iter().map(|x| leaf_max(x)).fold(0.0, max)
}

/// `Σ |x|`, or `Σ x`.
pub(crate) fn sum(leaves: &[&DispatchTensor], absolute: bool) -> f64 {
    let sums = leaves.iter().map(|x| match absolute {
        true => leaf_sum(x, f64::abs),
        false => leaf_sum(x, |x| x),
    });
    slices::pairwise(&sums.collect::<Vec<f64>>())
}

/// 1 if every element is finite, else 0.
pub(crate) fn is_finite(leaves: &[&DispatchTensor]) -> f64 {
    f64::from(leaves.iter().all(|x| leaf_max(x).is_finite()))
}

impl Scaled {
    fn plain(sum: f64) -> Self {
        Self { sum, exponent: 0 }
    }

    fn total(sums: &[Scaled]) -> Scaled {
        let exponent = sums.iter().filter(|s| s.sum != 0.0).map(|s| s.exponent).max().unwrap_or(0);
        let sums: Vec<f64> = sums.iter().map(|s| ldexp(s.sum, s.exponent - exponent)).collect();
        Scaled { sum: slices::pairwise(&sums), exponent }
    }
}

/// Below this a sum of products may have lost digits to underflow.
const SMALL: f64 = 1e-270;

fn leaf_square(x: &DispatchTensor) -> Scaled {
    let plain = leaf_sum(x, |x| x * x);
    let narrow = !matches!(host::slice(x), Some(Slice::F64(_)));
    if narrow || (plain.is_finite() && plain >= SMALL) {
        return Scaled::plain(plain);
    }
    let Some(exponent) = exponent(leaf_max(x)) else {
        return Scaled::plain(plain);
    };
    // Two factors, for 2^1074 is not representable.
    let (a, b) = halves(-exponent);
    Scaled {
        sum: leaf_sum(x, move |x| {
            let x = x * a * b;
            x * x
        }),
        exponent: 2 * exponent,
    }
}

fn leaf_dot(x: &DispatchTensor, y: &DispatchTensor) -> Scaled {
    let (mut x, mut y) = (x.clone(), y.clone());
    if x.dtype() != y.dtype() {
        x = cast(x, DType::F64);
        y = cast(y, DType::F64);
    }
    let (x, y) = (host::contiguous(x), host::contiguous(y));
    let products = |a: f64, b: f64, c: f64, d: f64| match (host::slice(&x), host::slice(&y)) {
        (Some(Slice::F64(x)), Some(Slice::F64(y))) => match (a, b, c, d) {
            (1.0, 1.0, 1.0, 1.0) => slices::sum_zip(x, y, |x, y| x * y),
            _ => slices::sum_zip(x, y, move |x, y| (x * a * b) * (y * c * d)),
        },
        (Some(Slice::F32(x)), Some(Slice::F32(y))) => slices::sum_zip(x, y, |x, y| x * y),
        (Some(Slice::F16(x)), Some(Slice::F16(y))) => slices::sum_zip(x, y, |x, y| x * y),
        (Some(Slice::BF16(x)), Some(Slice::BF16(y))) => slices::sum_zip(x, y, |x, y| x * y),
        _ => unreachable!("contiguous host tensors of one dtype have slices of one type"),
    };
    let plain = products(1.0, 1.0, 1.0, 1.0);
    let narrow = !matches!(host::slice(&x), Some(Slice::F64(_)));
    if narrow || (plain.is_finite() && plain.abs() >= SMALL) {
        return Scaled::plain(plain);
    }
    let (Some(m), Some(n)) = (exponent(leaf_max(&x)), exponent(leaf_max(&y))) else {
        return Scaled::plain(plain);
    };
    let ((a, b), (c, d)) = (halves(-m), halves(-n));
    Scaled { sum: products(a, b, c, d), exponent: m + n }
}

fn leaf_sum(x: &DispatchTensor, f: impl Fn(f64) -> f64 + Copy + Send + Sync) -> f64 {
    with_slice(x, |slice| match slice {
        Slice::F64(x) => slices::sum(x, f),
        Slice::F32(x) => slices::sum(x, f),
        Slice::F16(x) => slices::sum(x, f),
        Slice::BF16(x) => slices::sum(x, f),
    })
}

fn leaf_max(x: &DispatchTensor) -> f64 {
    with_slice(x, |slice| match slice {
        Slice::F64(x) => slices::max_abs(x),
        Slice::F32(x) => slices::max_abs(x),
        Slice::F16(x) => slices::max_abs(x),
        Slice::BF16(x) => slices::max_abs(x),
    })
}

fn with_slice(x: &DispatchTensor, f: impl FnOnce(Slice<'_>) -> f64) -> f64 {
    match host::slice(x) {
        Some(slice) => f(slice),
        None => match host::slice(&host::contiguous(x.clone())) {
            Some(slice) => f(slice),
            None => unreachable!("a contiguous host tensor has a slice"),
        },
    }
}

/// The exponent of the power of two nearest to a positive finite number.
fn exponent(x: f64) -> Option<i32> {
    (x > 0.0 && x.is_finite()).then(|| x.log2().round() as i32)
}

/// Two powers of two whose product is `2^exponent`, for `|exponent| <= 2044`.
fn halves(exponent: i32) -> (f64, f64) {
    let half = exponent / 2;
    (pow2(half), pow2(exponent - half))
}

/// `2^exponent` for `-1074 <= exponent <= 1023`.
fn pow2(exponent: i32) -> f64 {
    f64::from_bits(match exponent {
        -1022.. => ((exponent + 1023) as u64) << 52,
        _ => 1 << (exponent + 1074),
    })
}

/// `x · 2^exponent`, rounded once.
fn ldexp(mut x: f64, mut exponent: i32) -> f64 {
    while exponent > 1023 {
        x *= pow2(1000);
        exponent -= 1000;
    }
    // Only a number of magnitude 1 or more can survive this without becoming subnormal on the way.
    while exponent < -1000 && x.abs() >= 1.0 {
        x *= pow2(-1000);
        exponent += 1000;
    }
    match exponent < -1074 {
        true => x * 0.0,
        false => x * pow2(exponent),
    }
}
