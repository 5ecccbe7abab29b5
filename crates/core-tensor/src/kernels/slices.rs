//! One pass over host memory: element-wise updates and reductions of float slices.
//!
//! All arithmetic is in `f64`, so that a product of two `f32` is exact and a sum of squares of
//! `f32`, `f16` or `bf16` can neither overflow nor underflow; for a single addition or
//! multiplication the rounded result is the one the narrow type itself would give. A reduction
//! cuts its input into chunks of a fixed length, sums each in [`LANES`] independent lanes and adds
//! the partial sums pairwise: the result does not depend on the number of threads or the width of
//! the vector unit.

use burn::tensor::{Element, bf16, f16};
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

/// Elements of one partial sum, and of one task.
const CHUNK: usize = 1 << 14;
/// Independent accumulators within a chunk.
const LANES: usize = 16;
/// Below this many elements a second thread costs more than it brings.
const PARALLEL: usize = 1 << 17;

/// A float type of the host.
pub(crate) trait Real: Element + Copy + Send + Sync + 'static {
    /// The unsigned integer of the same width.
    type Magnitude: Copy + Ord + Default + Send;
    /// Zero.
    const ZERO: Self;
    /// To `f64`, exactly.
    fn wide(self) -> f64;
    /// From `f64`, rounded to nearest.
    fn narrow(wide: f64) -> Self;
    /// The bits of the absolute value: ordered as the absolute values are, infinity above every
    /// number and NaN above infinity.
    fn magnitude(self) -> Self::Magnitude;
    /// The value of which `bits` is the magnitude.
    fn from_magnitude(bits: Self::Magnitude) -> f64;
}

macro_rules! real {
    ($float:ty, $bits:ty, $zero:expr, $wide:expr, $narrow:expr) => {
        impl Real for $float {
            type Magnitude = $bits;
            const ZERO: Self = $zero;
            #[inline(always)]
            fn wide(self) -> f64 {
                $wide(self)
            }
            #[inline(always)]
            fn narrow(wide: f64) -> Self {
                $narrow(wide)
            }
            #[inline(always)]
            fn magnitude(self) -> $bits {
                self.to_bits() & (<$bits>::MAX >> 1)
            }
            fn from_magnitude(bits: $bits) -> f64 {
                $wide(<$float>::from_bits(bits))
            }
        }
    };
}

real!(f64, u64, 0.0, |x| x, |x| x);
real!(f32, u32, 0.0, |x| x as f64, |x| x as f32);
real!(f16, u16, f16::ZERO, f16::to_f64, f16::from_f64);
real!(bf16, u16, bf16::ZERO, bf16::to_f64, bf16::from_f64);

/// `x = f(x)`.
pub(crate) fn update<E: Real>(x: &mut [E], f: impl Fn(f64) -> f64 + Copy + Send + Sync) {
    let run = move |x: &mut [E]| vector(Update { x, f });
    match x.len() < PARALLEL {
        true => run(x),
        false => x.par_chunks_mut(CHUNK).for_each(run),
    }
}

/// `x = f(x, y)`; the slices have one length.
pub(crate) fn update_zip<E: Real>(x: &mut [E], y: &[E], f: impl Fn(f64, f64) -> f64 + Copy + Send + Sync) {
    let run = move |x: &mut [E], y: &[E]| vector(UpdateZip { x, y, f });
    match x.len() < PARALLEL {
        true => run(x, y),
        false => x.par_chunks_mut(CHUNK).zip(y.par_chunks(CHUNK)).for_each(|(x, y)| run(x, y)),
    }
}

/// `f(x)` in a new buffer.
pub(crate) fn map<E: Real>(x: &[E], f: impl Fn(f64) -> f64 + Copy + Send + Sync) -> Vec<E> {
    zip(x, x, move |x, _| f(x))
}

/// `f(x, y)` in a new buffer; the slices have one length.
pub(crate) fn zip<E: Real>(x: &[E], y: &[E], f: impl Fn(f64, f64) -> f64 + Copy + Send + Sync) -> Vec<E> {
    let mut out = vec![E::ZERO; x.len()];
    let run = move |out: &mut [E], x: &[E], y: &[E]| vector(Zip { out, x, y, f });
    match x.len() < PARALLEL {
        true => run(&mut out, x, y),
        false => out
            .par_chunks_mut(CHUNK)
            .zip(x.par_chunks(CHUNK).zip(y.par_chunks(CHUNK)))
            .for_each(|(out, (x, y))| run(out, x, y)),
    }
    out
}

/// `Σ f(x)`.
pub(crate) fn sum<E: Real>(x: &[E], f: impl Fn(f64) -> f64 + Copy + Send + Sync) -> f64 {
    let run = move |x: &[E]| vector(Sum { x, f });
    let partial: Vec<f64> = match x.len() < PARALLEL {
        true => x.chunks(CHUNK).map(run).collect(),
        false => x.par_chunks(CHUNK).map(run).collect(),
    };
    pairwise(&partial)
}

/// `Σ f(x, y)`; the slices have one length.
pub(crate) fn sum_zip<E: Real>(x: &[E], y: &[E], f: impl Fn(f64, f64) -> f64 + Copy + Send + Sync) -> f64 {
    let run = move |(x, y): (&[E], &[E])| vector(SumZip { x, y, f });
    let partial: Vec<f64> = match x.len() < PARALLEL {
        true => x.chunks(CHUNK).zip(y.chunks(CHUNK)).map(run).collect(),
        false => x.par_chunks(CHUNK).zip(y.par_chunks(CHUNK)).map(run).collect(),
    };
    pairwise(&partial)
}

/// `max |x|`: 0 of nothing, NaN if there is one.
pub(crate) fn max_abs<E: Real>(x: &[E]) -> f64 {
    let run = |x: &[E]| vector(MaxAbs { x });
    let bits = match x.len() < PARALLEL {
        true => run(x),
        false => x.par_chunks(CHUNK).map(run).reduce(E::Magnitude::default, Ord::max),
    };
    E::from_magnitude(bits)
}

/// The sum of a slice by halves, so that errors grow with the logarithm of its length.
pub(crate) fn pairwise(x: &[f64]) -> f64 {
    match x {
        [] => 0.0,
        [x] => *x,
        _ => {
            let (left, right) = x.split_at(x.len() / 2);
            pairwise(left) + pairwise(right)
        }
    }
}

/// Run a loop compiled for the widest vector unit this machine has.
fn vector<O: WithSimd>(operation: O) -> O::Output {
    Arch::new().dispatch(operation)
}

struct Update<'a, E, F> {
    x: &'a mut [E],
    f: F,
}

impl<E: Real, F: Fn(f64) -> f64> WithSimd for Update<'_, E, F> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        for x in self.x {
            *x = E::narrow((self.f)(x.wide()));
        }
    }
}

struct UpdateZip<'a, E, F> {
    x: &'a mut [E],
    y: &'a [E],
    f: F,
}

impl<E: Real, F: Fn(f64, f64) -> f64> WithSimd for UpdateZip<'_, E, F> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        for (x, y) in self.x.iter_mut().zip(self.y) {
            *x = E::narrow((self.f)(x.wide(), y.wide()));
        }
    }
}

struct Zip<'a, E, F> {
    out: &'a mut [E],
    x: &'a [E],
    y: &'a [E],
    f: F,
}

impl<E: Real, F: Fn(f64, f64) -> f64> WithSimd for Zip<'_, E, F> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        for ((out, x), y) in self.out.iter_mut().zip(self.x).zip(self.y) {
            *out = E::narrow((self.f)(x.wide(), y.wide()));
        }
    }
}

struct Sum<'a, E, F> {
    x: &'a [E],
    f: F,
}

impl<E: Real, F: Fn(f64) -> f64> WithSimd for Sum<'_, E, F> {
    type Output = f64;
    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) -> f64 {
        let mut lanes = [0.0; LANES];
        let (blocks, rest) = self.x.as_chunks::<LANES>();
        for block in blocks {
            for lane in 0..LANES {
                lanes[lane] += (self.f)(block[lane].wide());
            }
        }
        for (lane, x) in lanes.iter_mut().zip(rest) {
            *lane += (self.f)(x.wide());
        }
        fold(lanes)
    }
}

struct SumZip<'a, E, F> {
    x: &'a [E],
    y: &'a [E],
    f: F,
}

impl<E: Real, F: Fn(f64, f64) -> f64> WithSimd for SumZip<'_, E, F> {
    type Output = f64;
    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) -> f64 {
        let mut lanes = [0.0; LANES];
        let (xs, x_rest) = self.x.as_chunks::<LANES>();
        let (ys, y_rest) = self.y.as_chunks::<LANES>();
        for (x, y) in xs.iter().zip(ys) {
            for lane in 0..LANES {
                lanes[lane] += (self.f)(x[lane].wide(), y[lane].wide());
            }
        }
        for (lane, (x, y)) in lanes.iter_mut().zip(x_rest.iter().zip(y_rest)) {
            *lane += (self.f)(x.wide(), y.wide());
        }
        fold(lanes)
    }
}

struct MaxAbs<'a, E> {
    x: &'a [E],
}

impl<E: Real> WithSimd for MaxAbs<'_, E> {
    type Output = E::Magnitude;
    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) -> E::Magnitude {
        let mut lanes = [E::Magnitude::default(); 2 * LANES];
        let (blocks, rest) = self.x.as_chunks::<{ 2 * LANES }>();
        for block in blocks {
            for lane in 0..2 * LANES {
                lanes[lane] = lanes[lane].max(block[lane].magnitude());
            }
        }
        for (lane, x) in lanes.iter_mut().zip(rest) {
            *lane = (*lane).max(x.magnitude());
        }
        lanes.into_iter().fold(E::Magnitude::default(), Ord::max)
    }
}

#[inline(always)]
fn fold(mut lanes: [f64; LANES]) -> f64 {
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
        width /= 2;
    }
    lanes[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn magnitudes_order_numbers_infinity_and_nan() {
        assert_eq!(max_abs::<f32>(&[]), 0.0);
        assert_eq!(max_abs(&[1.0f32, -3.0, 2.0]), 3.0);
        assert_eq!(max_abs(&[1.0f32, f32::NEG_INFINITY]), f64::INFINITY);
        assert!(max_abs(&[f64::INFINITY, f64::NAN, 1.0]).is_nan());
        assert!(max_abs(&[f16::NAN, f16::ONE]).is_nan());
        assert_eq!(max_abs(&[bf16::from_f32(-0.5)]), 0.5);
    }

    #[test]
    fn sums_do_not_depend_on_the_number_of_threads() {
        let x: Vec<f32> = (0..300_001).map(|i| (i as f32 * 0.37).sin() * 1e3).collect();
        let y: Vec<f32> = (0..300_001).map(|i| (i as f32 * 0.11).cos()).collect();
        let compute = || (sum(&x, |x| x * x), sum_zip(&x, &y, |x, y| x * y));
        let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        let four = rayon::ThreadPoolBuilder::new().num_threads(4).build().unwrap();
        assert_eq!(one.install(compute), four.install(compute));
    }

    #[test]
    fn long_slices_are_computed_as_short_ones() {
        let x: Vec<f32> = (0..PARALLEL + 77).map(|i| (i as f32 * 0.37).sin()).collect();
        let y: Vec<f32> = x.iter().rev().copied().collect();
        let expected: Vec<f32> = x.iter().zip(&y).map(|(x, y)| x + y).collect();
        assert_eq!(zip(&x, &y, |x, y| x + y), expected);
        let mut z = x.clone();
        update_zip(&mut z, &y, |x, y| x + y);
        assert_eq!(z, expected);
        update(&mut z, |x| 2.0 * x);
        assert_eq!(z, map(&expected, |x| x + x));
        z[PARALLEL + 70] = -9.0;
        assert_eq!(max_abs(&z), 9.0);
    }

    #[test]
    fn a_single_operation_rounds_as_the_narrow_type() {
        let x: Vec<f32> = (0..1000).map(|i| (i as f32 * 1.7).sin() * 1e-3).collect();
        let y: Vec<f32> = (0..1000).map(|i| (i as f32 * 0.3).cos() * 1e5).collect();
        let sums = zip(&x, &y, |x, y| x + y);
        let products = zip(&x, &y, |x, y| x * y);
        for i in 0..1000 {
            assert_eq!(sums[i], x[i] + y[i]);
            assert_eq!(products[i], x[i] * y[i]);
        }
    }
}
