//! Host memory of a tensor as `f32` or `f64`, whatever its dtype.

use burn::backend::ops::FloatTensorOps;
use burn::backend::{Dispatch, DispatchTensor, DispatchTensorKind, TensorMetadata};
use burn::tensor::{DType, Device, Tensor, TensorData, bf16, f16};
use core_tensor::host::{self, Slice, SliceMut};
use core_tensor::{LeafName, Tree};
use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::format::to_odd;

/// Elements of one task.
pub(crate) const CHUNK: usize = 1 << 14;
/// Below this many elements a second thread costs more than it brings.
pub(crate) const PARALLEL: usize = 1 << 16;

/// An element that is computed with as `f32`.
pub(crate) trait Real: Copy + Send + Sync {
    /// As `f32`; from `f64` so that a second rounding does no harm.
    fn get(self) -> f32;
    fn put(value: f32) -> Self;
}

macro_rules! real {
    ($type:ty, $get:expr, $put:expr) => {
        impl Real for $type {
            #[inline(always)]
            fn get(self) -> f32 {
                $get(self)
            }
            #[inline(always)]
            fn put(value: f32) -> Self {
                $put(value)
            }
        }
    };
}

real!(f32, |x: f32| x, |x: f32| x);
real!(f64, to_odd, f64::from);
real!(f16, f16::to_f32, f16::from_f32);
real!(bf16, bf16::to_f32, bf16::from_f32);

/// An element that is computed with in `f64`.
pub(crate) trait Wide: Copy + Send + Sync {
    fn wide(self) -> f64;
    /// Rounded to nearest.
    fn narrow(value: f64) -> Self;
}

macro_rules! wide {
    ($type:ty, $wide:expr, $narrow:expr) => {
        impl Wide for $type {
            #[inline(always)]
            fn wide(self) -> f64 {
                $wide(self)
            }
            #[inline(always)]
            fn narrow(value: f64) -> Self {
                $narrow(value)
            }
        }
    };
}

wide!(f64, |x| x, |x| x);
wide!(f32, f64::from, |x: f64| x as f32);
wide!(f16, f16::to_f64, f16::from_f64);
wide!(bf16, bf16::to_f64, bf16::from_f64);

/// Run a block for a slice of any type.
macro_rules! with_slice {
    ($enum:ident, $slice:expr, $x:ident => $body:expr) => {
        match $slice {
            $enum::F64($x) => $body,
            $enum::F32($x) => $body,
            $enum::F16($x) => $body,
            $enum::BF16($x) => $body,
        }
    };
}
pub(crate) use with_slice;

/// `f(first position, chunk)` over all elements.
pub(crate) fn chunks<E: Send>(x: &mut [E], f: impl Fn(usize, &mut [E]) + Sync) {
    match x.len() < PARALLEL {
        true => x.chunks_mut(CHUNK).enumerate().for_each(|(i, x)| f(i * CHUNK, x)),
        false => x.par_chunks_mut(CHUNK).enumerate().for_each(|(i, x)| f(i * CHUNK, x)),
    }
}

/// The tensor off the tape; one of a recording, which has no value, as it is.
pub(crate) fn plain<const D: usize>(tensor: &Tensor<D>) -> DispatchTensor {
    let leaf = tensor.clone().into_dispatch();
    match host::is_recording(&leaf) {
        true => leaf,
        false => tensor.clone().inner().into_dispatch(),
    }
}

/// Looks at all elements as one slice of `f32`, in row-major order: without a copy where they are `f32` on the host. From
/// another device they are read back; in a recording there are none.
pub(crate) fn read<const D: usize, R>(
    tensor: &Tensor<D>,
    what: impl ToString,
    f: impl FnOnce(&[f32]) -> R,
) -> Result<R> {
    let device = tensor.device();
    let leaf = plain(tensor);
    if host::is_host(&leaf) {
        let run = |x: Slice<'_>| match x {
            Slice::F32(x) => f(x),
            other => f(&with_slice!(Slice, other, x => x.iter().map(|x| x.get()).collect::<Vec<f32>>())),
        };
        return host::read(&leaf, run).ok_or_else(|| Error::device(&device, what));
    }
    match host::is_recording(&leaf) {
        true => Err(Error::device(&device, what)),
        false => {
            let data = Tensor::<D>::from_dispatch(leaf).into_data();
            Ok(f(&data.iter::<f64>().map(to_odd).collect::<Vec<f32>>()))
        }
    }
}

/// Changes all elements as one slice of `f32`: in place where they are `f32` and no one else holds them; off the host as
/// [`through_host`] does.
pub(crate) fn update<R>(
    tensor: DispatchTensor,
    what: impl ToString,
    f: impl FnOnce(&mut [f32]) -> R,
) -> Result<(DispatchTensor, R)> {
    fn copied<E: Real, R>(x: &mut [E], f: impl FnOnce(&mut [f32]) -> R) -> R {
        let mut values: Vec<f32> = x.iter().map(|x| x.get()).collect();
        let result = f(&mut values);
        for (x, value) in x.iter_mut().zip(values) {
            *x = E::put(value);
        }
        result
    }
    let run = |x: SliceMut<'_>| match x {
        SliceMut::F32(x) => f(x),
        SliceMut::F64(x) => copied(x, f),
        SliceMut::F16(x) => copied(x, f),
        SliceMut::BF16(x) => copied(x, f),
    };
    let done = match host::is_host(&tensor) {
        true => host::update(tensor, run),
        false => through_host(tensor, run),
    };
    done.map_err(|tensor| Error::device(&Device::new(tensor.device()), what))
}

/// What a device without a kernel of its own does: the tensor is read back, changed by `f`, and moved there again. Two host
/// synchronisations and two transfers; the numbers are the host's.
///
/// # Errors
/// The tensor as it was if it is on a tape or in a recording.
#[expect(clippy::result_large_err, reason = "the tensor is handed back")]
pub(crate) fn through_host<R>(
    tensor: DispatchTensor,
    f: impl FnOnce(SliceMut<'_>) -> R,
) -> Result<(DispatchTensor, R), DispatchTensor> {
    if host::is_recording(&tensor) || matches!(tensor.kind, DispatchTensorKind::Autodiff(_)) {
        return Err(tensor);
    }
    let device = tensor.device();
    let Ok(tree) = Tree::from_leaves([(LeafName::new("x"), tensor.clone())]) else { return Err(tensor) };
    let Some((_, mut data)) = tree.to_data().pop() else { return Err(tensor) };
    let result = match data.dtype() {
        DType::F64 => data.as_mut_slice().ok().map(|x| f(SliceMut::F64(x))),
        DType::F32 => data.as_mut_slice().ok().map(|x| f(SliceMut::F32(x))),
        DType::F16 => data.as_mut_slice().ok().map(|x| f(SliceMut::F16(x))),
        DType::BF16 => data.as_mut_slice().ok().map(|x| f(SliceMut::BF16(x))),
        _ => None,
    };
    match result {
        Some(result) => Ok((Dispatch::float_from_data(data, &device), result)),
        None => Err(tensor),
    }
}

/// An `f32` tensor of rank `D`.
pub(crate) fn tensor<const D: usize>(values: Vec<f32>, shape: &[usize], device: &Device) -> Result<Tensor<D>> {
    match <[usize; D]>::try_from(shape) {
        Ok(shape) => Ok(Tensor::from_data(TensorData::new(values, shape), device)),
        Err(_) => Err(Error::Parameter { parameter: "D", value: D as f64, bound: "the rank of the stored tensor" }),
    }
}
