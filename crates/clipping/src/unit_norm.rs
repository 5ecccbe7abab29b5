//! Norms of units and factors for them, in one pass each over host memory.
//!
//! A leaf is seen as `[outer, units, inner]`. Sums are in `f64`, so that squares of `f32` and half precision stay in range, and cut
//! in the same places whatever the number of threads.

use burn::backend::DispatchTensor;
use burn::tensor::{bf16, f16};
use core_tensor::host::{self, Slice, SliceMut, vectorised};
use rayon::prelude::*;

/// Elements of one task.
const CHUNK: usize = 1 << 14;
/// Independent accumulators of a sum.
const LANES: usize = 8;

/// The norm of each unit; `None` for leaves that are not on the host, or in `f64`, whose squares need scaling.
pub(crate) fn unit_norms(leaf: &DispatchTensor, unit: [usize; 3]) -> Option<Vec<f64>> {
    let squares = host::read(leaf, |x| match x {
        Slice::F32(x) => Some(squares(x, unit)),
        Slice::F16(x) => Some(squares(x, unit)),
        Slice::BF16(x) => Some(squares(x, unit)),
        Slice::F64(_) => None,
    });
    Some(squares??.into_iter().map(f64::sqrt).collect())
}

/// Each unit times its factor, in place where nobody else holds the buffer.
///
/// # Errors
/// The leaf, if it is not on the host or in `f64`.
#[expect(clippy::result_large_err, reason = "the leaf is handed back")]
pub(crate) fn scale_units(
    leaf: DispatchTensor,
    unit: [usize; 3],
    factors: &[f64],
) -> Result<DispatchTensor, DispatchTensor> {
    let (leaf, done) = host::update(leaf, |x| {
        match x {
            SliceMut::F32(x) => scale(x, unit, factors),
            SliceMut::F16(x) => scale(x, unit, factors),
            SliceMut::BF16(x) => scale(x, unit, factors),
            SliceMut::F64(_) => return false,
        }
        true
    })?;
    if done { Ok(leaf) } else { Err(leaf) }
}

trait Real: Copy + Send + Sync {
    fn wide(self) -> f64;
    fn narrow(wide: f64) -> Self;
}

macro_rules! real {
    ($float:ty, $wide:expr, $narrow:expr) => {
        impl Real for $float {
            #[inline(always)]
            fn wide(self) -> f64 {
                $wide(self)
            }
            #[inline(always)]
            fn narrow(wide: f64) -> Self {
                $narrow(wide)
            }
        }
    };
}

real!(f32, f64::from, |x| x as f32);
real!(f16, f16::to_f64, f16::from_f64);
real!(bf16, bf16::to_f64, bf16::from_f64);

fn squares<E: Real>(x: &[E], [outer, units, inner]: [usize; 3]) -> Vec<f64> {
    if x.is_empty() {
        return vec![0.0; units];
    }
    if outer == 1 {
        let blocks = (CHUNK / inner).max(1) * inner;
        let sums = |part: &[E]| vectorised(|| part.chunks(inner).map(|unit| sum(unit)).collect::<Vec<f64>>());
        return x.par_chunks(blocks).flat_map_iter(sums).collect();
    }
    let row = units * inner;
    let parts: Vec<Vec<f64>> = x
        .par_chunks((CHUNK / row).max(1) * row)
        .map(|part| {
            let mut sums = vec![0.0; units];
            vectorised(|| {
                for row in part.chunks(row) {
                    if inner == 1 {
                        for (sum, x) in sums.iter_mut().zip(row) {
                            let x = x.wide();
                            *sum += x * x;
                        }
                    } else {
                        sums.iter_mut().zip(row.chunks(inner)).for_each(|(total, unit)| *total += sum(unit));
                    }
                }
            });
            sums
        })
        .collect();
    let mut total = vec![0.0; units];
    for part in parts {
        total.iter_mut().zip(part).for_each(|(total, part)| *total += part);
    }
    total
}

#[inline(always)]
fn sum<E: Real>(x: &[E]) -> f64 {
    let mut lanes = [0.0; LANES];
    let (blocks, rest) = x.as_chunks::<LANES>();
    for block in blocks {
        for lane in 0..LANES {
            let x = block[lane].wide();
            lanes[lane] += x * x;
        }
    }
    for (lane, x) in lanes.iter_mut().zip(rest) {
        let x = x.wide();
        *lane += x * x;
    }
    lanes.iter().sum()
}

fn scale<E: Real>(x: &mut [E], [_, units, inner]: [usize; 3], factors: &[f64]) {
    let row = units * inner;
    if row == 0 {
        return;
    }
    if inner == 1 {
        x.par_chunks_mut((CHUNK / row).max(1) * row).for_each(|part| {
            vectorised(|| {
                for row in part.chunks_mut(row) {
                    row.iter_mut().zip(factors).for_each(|(x, factor)| *x = E::narrow(x.wide() * factor));
                }
            })
        });
        return;
    }
    let blocks = (CHUNK / inner).max(1);
    x.par_chunks_mut(blocks * inner).enumerate().for_each(|(task, part)| {
        vectorised(|| {
            for (i, unit) in part.chunks_mut(inner).enumerate() {
                let factor = factors[(task * blocks + i) % units];
                unit.iter_mut().for_each(|x| *x = E::narrow(x.wide() * factor));
            }
        })
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{DType, Device, FloatDType, Tensor};
    use core_tensor::Random;
    use core_tensor::testing::property;

    #[test]
    fn norms_and_products_are_those_of_tensor_operations() {
        let sizes = (1..40usize, 1..40usize, 1..40usize, 0..3usize, 0..1000u64);
        property(96, sizes, |(outer, units, inner, dtype, seed)| {
            let device = Device::flex();
            let dtype = [FloatDType::F32, FloatDType::F16, FloatDType::BF16][dtype];
            let x = Random::new(seed).normal::<3>([outer, units, inner], 0.0, 1.0, &device).cast(dtype);
            let unit = [outer, units, inner];
            let wide = x.clone().cast(FloatDType::F64);
            let numbers = |x: Tensor<3>| x.into_data().iter::<f64>().collect::<Vec<_>>();
            let expected = numbers(wide.clone().square().sum_dim(0).sum_dim(2).sqrt());
            let norms = unit_norms(&x.clone().into_dispatch(), unit).unwrap();
            assert_eq!(norms.len(), units);
            for (norm, expected) in norms.iter().zip(&expected) {
                assert!((norm - expected).abs() <= 1e-12 * expected, "{norm} {expected}");
            }
            let factors: Vec<f64> = (0..units).map(|i| 0.5 + i as f64).collect();
            let scaled = scale_units(x.into_dispatch(), unit, &factors).unwrap();
            let factors = Tensor::<1>::from_data(factors.as_slice(), (&device, DType::F64));
            let expected = wide.mul(factors.reshape([1, units, 1])).cast(dtype);
            assert_eq!(numbers(Tensor::from_dispatch(scaled)), numbers(expected));
        });
    }

    #[test]
    fn long_leaves_do_not_depend_on_the_number_of_threads() {
        let x = Random::new(1).normal::<2>([700, 300], 0.0, 1.0, &Device::flex()).into_dispatch();
        let compute = || [[700, 300, 1], [1, 700, 300], [7, 100, 300]].map(|unit| unit_norms(&x, unit).unwrap());
        let pool = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        assert_eq!(pool(1).install(compute), pool(4).install(compute));
        let double = Tensor::<1>::ones([2], (&Device::flex(), DType::F64)).into_dispatch();
        assert!(unit_norms(&double, [1, 2, 1]).is_none() && scale_units(double, [1, 2, 1], &[1.0; 2]).is_err());
    }
}
