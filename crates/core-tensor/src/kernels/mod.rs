//! What a tree computes leaf by leaf: on the host in one fused pass over memory, in place where the
//! buffer has no other holder; elsewhere as tensor operations.

pub(crate) mod conv;
pub(crate) mod elementary;
pub(crate) mod fused;
pub(crate) mod host;
pub(crate) mod narrow;
pub(crate) mod pool;
pub(crate) mod slices;

mod device_reduce;
mod generic;
mod host_reduce;

pub(crate) use device_reduce::common;
pub(crate) use generic::{axpy_by, cast, flat, lerp_by, scale_by};

use burn::backend::ops::FloatTensorOps;
use burn::backend::{Dispatch, DispatchTensor, TensorMetadata};
use burn::tensor::{Tensor, TensorData};
use host::{Slice, SliceMut};
use slices::Real;

/// `a·x`.
pub(crate) fn scale(x: DispatchTensor, a: f64) -> DispatchTensor {
    match host::is_host(&x) {
        true => update(x, move |x| a * x),
        false => generic::scale(x, a),
    }
}

/// `x + a·y`, in the dtype of `x`.
pub(crate) fn axpy(x: DispatchTensor, a: f64, y: &DispatchTensor) -> DispatchTensor {
    match host::is_host(&x) && host::is_host(y) {
        true => update_zip(x, y, move |x, y| x + a * y),
        false => generic::axpy(x, a, y),
    }
}

/// `x·y` element by element, in the dtype of `x`.
pub(crate) fn mul(x: DispatchTensor, y: &DispatchTensor) -> DispatchTensor {
    match host::is_host(&x) && host::is_host(y) {
        true => update_zip(x, y, |x, y| x * y),
        false => generic::mul(x, y),
    }
}

/// `(1 - t)·x + t·y`, in the dtype of `x`; exactly `x` at 0 and `y` at 1 for finite values.
pub(crate) fn lerp(x: DispatchTensor, y: &DispatchTensor, t: f64) -> DispatchTensor {
    match host::is_host(&x) && host::is_host(y) {
        true => update_zip(x, y, move |x, y| (1.0 - t) * x + t * y),
        false => generic::lerp(x, y, t),
    }
}

/// `min(max(x, low), high)`; NaN stays.
pub(crate) fn clamp(x: DispatchTensor, low: f64, high: f64) -> DispatchTensor {
    match host::is_host(&x) {
        // Comparisons that NaN fails, so that it passes through; two selects, which vectorise.
        true => update(x, move |x| {
            let x = if x < low { low } else { x };
            if x > high { high } else { x }
        }),
        false => generic::clamp(x, low, high),
    }
}

/// `x` where it is finite, else 0.
pub(crate) fn finite_or_zero(x: DispatchTensor) -> DispatchTensor {
    match host::is_host(&x) {
        true => update(x, |x| if x.abs() < f64::INFINITY { x } else { 0.0 }),
        false => generic::finite_or_zero(x),
    }
}

/// The result of a reduction: known on the host, or a one-element tensor of the leaves' device.
#[expect(clippy::large_enum_variant, reason = "taken apart at once")]
pub(crate) enum Reduction {
    Host(f64),
    Device(Tensor<1>),
}

/// `Σ x·y` over pairs of leaves of one shape.
pub(crate) fn dot(pairs: &[(&DispatchTensor, &DispatchTensor)]) -> Reduction {
    match pairs.iter().all(|(x, y)| host::is_host(x) && host::is_host(y)) {
        true => Reduction::Host(host_reduce::dot(pairs)),
        false => Reduction::Device(device_reduce::dot(pairs)),
    }
}

macro_rules! reductions {
    ($($(#[$doc:meta])* $name:ident($($argument:ident: $type:ty)?);)*) => {$(
        $(#[$doc])*
        pub(crate) fn $name(leaves: &[&DispatchTensor] $(, $argument: $type)?) -> Reduction {
            match leaves.iter().all(|x| host::is_host(x)) {
                true => Reduction::Host(host_reduce::$name(leaves $(, $argument)?)),
                false => Reduction::Device(device_reduce::$name(leaves $(, $argument)?)),
            }
        }
    )*};
}

reductions! {
    /// `√Σ x²`.
    norm();
    /// `(Σ |x|^p)^(1/p)` for `1 <= p < ∞`.
    norm_p(p: f64);
    /// `max |x|`.
    max_abs();
    /// `Σ |x|`, or `Σ x`.
    sum(absolute: bool);
    /// 1 if every element is finite, else 0.
    is_finite();
}

/// The element of a one-element tensor of the host.
pub(crate) fn host_value(x: &DispatchTensor) -> Option<f64> {
    match host::slice(x)? {
        Slice::F64([x]) => Some(*x),
        Slice::F32([x]) => Some(x.wide()),
        Slice::F16([x]) => Some(x.wide()),
        Slice::BF16([x]) => Some(x.wide()),
        _ => None,
    }
}

fn update(x: DispatchTensor, f: impl Fn(f64) -> f64 + Copy + Send + Sync) -> DispatchTensor {
    let mut x = host::contiguous(x);
    match host::slice_mut(&mut x) {
        Some(SliceMut::F64(x)) => slices::update(x, f),
        Some(SliceMut::F32(x)) => slices::update(x, f),
        Some(SliceMut::F16(x)) => slices::update(x, f),
        Some(SliceMut::BF16(x)) => slices::update(x, f),
        None => {
            return match host::slice(&x) {
                Some(Slice::F64(s)) => rebuild(&x, slices::map(s, f)),
                Some(Slice::F32(s)) => rebuild(&x, slices::map(s, f)),
                Some(Slice::F16(s)) => rebuild(&x, slices::map(s, f)),
                Some(Slice::BF16(s)) => rebuild(&x, slices::map(s, f)),
                None => unreachable!("a contiguous host tensor has a slice"),
            };
        }
    }
    x
}

fn update_zip(
    x: DispatchTensor,
    y: &DispatchTensor,
    f: impl Fn(f64, f64) -> f64 + Copy + Send + Sync,
) -> DispatchTensor {
    let mut x = host::contiguous(x);
    let y = host::contiguous(cast(y.clone(), x.dtype()));
    match (host::slice_mut(&mut x), host::slice(&y)) {
        (Some(SliceMut::F64(x)), Some(Slice::F64(y))) => slices::update_zip(x, y, f),
        (Some(SliceMut::F32(x)), Some(Slice::F32(y))) => slices::update_zip(x, y, f),
        (Some(SliceMut::F16(x)), Some(Slice::F16(y))) => slices::update_zip(x, y, f),
        (Some(SliceMut::BF16(x)), Some(Slice::BF16(y))) => slices::update_zip(x, y, f),
        (_, y) => {
            return match (host::slice(&x), y) {
                (Some(Slice::F64(s)), Some(Slice::F64(y))) => rebuild(&x, slices::zip(s, y, f)),
                (Some(Slice::F32(s)), Some(Slice::F32(y))) => rebuild(&x, slices::zip(s, y, f)),
                (Some(Slice::F16(s)), Some(Slice::F16(y))) => rebuild(&x, slices::zip(s, y, f)),
                (Some(Slice::BF16(s)), Some(Slice::BF16(y))) => rebuild(&x, slices::zip(s, y, f)),
                _ => unreachable!("contiguous host tensors of one dtype have slices of one type"),
            };
        }
    }
    x
}

/// A tensor of `values` with the shape and the backend of `like`.
fn rebuild<E: Real>(like: &DispatchTensor, values: Vec<E>) -> DispatchTensor {
    Dispatch::float_from_data(TensorData::new(values, like.shape()), &like.device())
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{DType, Device, Shape};

    #[test]
    fn tensor_operations_agree_with_host_loops() {
        let device = Device::flex();
        for dtype in [DType::F64, DType::F32, DType::F16, DType::BF16] {
            let leaf = |values: [f64; 2]| {
                let data = TensorData::new(values.to_vec(), [1, 2]);
                Tensor::<2>::from_data(data, (&device, dtype)).into_dispatch()
            };
            let (x, y) = (leaf([1.0, -2.0]), leaf([10.0, 20.0]));
            let s = Tensor::<1>::from_data([0.25], &device);
            let check = |leaf: DispatchTensor, expected: [f64; 2]| {
                assert_eq!((leaf.shape(), leaf.dtype()), (Shape::new([1, 2]), dtype));
                let data = Tensor::<2>::from_dispatch(leaf).into_data();
                assert_eq!(data.iter::<f64>().collect::<Vec<_>>(), expected);
            };
            check(generic::scale(x.clone(), 3.0), [3.0, -6.0]);
            check(generic::axpy(x.clone(), 0.5, &y), [6.0, 8.0]);
            check(generic::mul(x.clone(), &y), [10.0, -40.0]);
            check(generic::lerp(x.clone(), &y, 0.25), [3.25, 3.5]);
            check(generic::clamp(x.clone(), -0.5, 0.75), [0.75, -0.5]);
            check(super::clamp(x.clone(), -0.5, 0.75), [0.75, -0.5]);
            let broken = leaf([f64::NAN, -2.0]);
            check(generic::finite_or_zero(broken.clone()), [0.0, -2.0]);
            check(super::finite_or_zero(broken), [0.0, -2.0]);
            let infinite = leaf([f64::INFINITY, f64::NEG_INFINITY]);
            check(generic::finite_or_zero(infinite.clone()), [0.0, 0.0]);
            check(super::finite_or_zero(infinite.clone()), [0.0, 0.0]);
            check(super::clamp(infinite, -1.0, 1.0), [1.0, -1.0]);
            check(super::scale_by(x.clone(), &s), [0.25, -0.5]);
            check(super::axpy_by(x.clone(), &s, &y), [3.5, 3.0]);
            check(super::lerp_by(x.clone(), &y, &s), [3.25, 3.5]);
        }
    }

    #[test]
    fn a_buffer_without_other_holders_is_reused() {
        for device in crate::testing::host_devices() {
            let address = |leaf: &DispatchTensor| match host::slice(leaf) {
                Some(Slice::F32(x)) => x.as_ptr(),
                _ => panic!("not a contiguous f32 tensor of the host"),
            };
            let x = Tensor::<1>::from_data([1.0, 2.0, 3.0], &device).into_dispatch();
            let y = Tensor::<1>::ones([3], &device).into_dispatch();
            let before = address(&x);
            let x = scale(axpy(x, 2.0, &y), 0.5);
            assert_eq!(address(&x), before);
            let shared = x.clone();
            assert_ne!(address(&mul(x, &y)), before);
            assert_eq!(address(&lerp(shared, &y, 0.5)), before);
        }
    }
}
