//! The memory behind a tensor of a host backend (flex, ndarray), as a slice.

#[cfg(any(feature = "flex", feature = "ndarray"))]
use burn::backend::{BackendTensor, DispatchTensorKind};
use burn::backend::{DispatchDevice, DispatchTensor};
use burn::tensor::{bf16, f16};

/// The elements of a contiguous tensor, in row-major order.
pub enum Slice<'a> {
    /// `f64`
    F64(&'a [f64]),
    /// `f32`
    F32(&'a [f32]),
    /// `f16`
    F16(&'a [f16]),
    /// `bf16`
    BF16(&'a [bf16]),
}

/// The elements of a contiguous tensor that no one else holds, in row-major order.
pub enum SliceMut<'a> {
    /// `f64`
    F64(&'a mut [f64]),
    /// `f32`
    F32(&'a mut [f32]),
    /// `f16`
    F16(&'a mut [f16]),
    /// `bf16`
    BF16(&'a mut [bf16]),
}

/// Whether the tensor is a plain (not differentiated) one of a host backend.
pub fn is_host(tensor: &DispatchTensor) -> bool {
    match &tensor.kind {
        #[cfg(feature = "flex")]
        DispatchTensorKind::Flex(BackendTensor::Float(_)) => true,
        #[cfg(feature = "ndarray")]
        DispatchTensorKind::NdArray(BackendTensor::Float(_)) => true,
        _ => false,
    }
}

/// Whether the device is a host backend.
pub(crate) fn is_host_device(device: &DispatchDevice) -> bool {
    match device {
        #[cfg(feature = "flex")]
        DispatchDevice::Flex(_) => true,
        #[cfg(feature = "ndarray")]
        DispatchDevice::NdArray(_) => true,
        _ => false,
    }
}

/// The elements, if the tensor is on the host and contiguous.
pub(crate) fn slice(tensor: &DispatchTensor) -> Option<Slice<'_>> {
    match &tensor.kind {
        #[cfg(feature = "flex")]
        DispatchTensorKind::Flex(BackendTensor::Float(tensor)) => flex::slice(tensor),
        #[cfg(feature = "ndarray")]
        DispatchTensorKind::NdArray(BackendTensor::Float(tensor)) => ndarray::slice(tensor),
        _ => None,
    }
}

/// The elements of a contiguous integer tensor of the host.
#[cfg_attr(
    not(any(feature = "flex", feature = "ndarray")),
    expect(dead_code, reason = "no backend of the host is compiled in")
)]
pub(crate) enum Indices<'a> {
    I64(&'a [i64]),
    I32(&'a [i32]),
}

/// The elements of an integer tensor, if it is on the host, contiguous and in one of these types.
pub(crate) fn indices(tensor: &DispatchTensor) -> Option<Indices<'_>> {
    match &tensor.kind {
        #[cfg(feature = "flex")]
        DispatchTensorKind::Flex(BackendTensor::Int(tensor)) => {
            tensor.as_slice().map(Indices::I64).or_else(|| tensor.as_slice().map(Indices::I32))
        }
        #[cfg(feature = "ndarray")]
        DispatchTensorKind::NdArray(BackendTensor::Int(tensor)) => ndarray::indices(tensor),
        _ => None,
    }
}

/// The elements for writing, if the tensor is on the host, contiguous and the only handle.
pub(crate) fn slice_mut(tensor: &mut DispatchTensor) -> Option<SliceMut<'_>> {
    match &mut tensor.kind {
        #[cfg(feature = "flex")]
        DispatchTensorKind::Flex(BackendTensor::Float(tensor)) => flex::slice_mut(tensor),
        #[cfg(feature = "ndarray")]
        DispatchTensorKind::NdArray(BackendTensor::Float(tensor)) => ndarray::slice_mut(tensor),
        _ => None,
    }
}

/// A host tensor in row-major order; a copy only if it was not.
pub(crate) fn contiguous(tensor: DispatchTensor) -> DispatchTensor {
    if slice(&tensor).is_some() {
        return tensor;
    }
    let DispatchTensor { kind, autodiff } = tensor;
    let kind = match kind {
        #[cfg(feature = "flex")]
        DispatchTensorKind::Flex(BackendTensor::Float(tensor)) => {
            DispatchTensorKind::Flex(BackendTensor::Float(tensor.to_contiguous()))
        }
        #[cfg(feature = "ndarray")]
        DispatchTensorKind::NdArray(BackendTensor::Float(tensor)) => {
            DispatchTensorKind::NdArray(BackendTensor::Float(ndarray::contiguous(tensor)))
        }
        other => other,
    };
    DispatchTensor { kind, autodiff }
}

#[cfg(feature = "flex")]
mod flex {
    use super::{Slice, SliceMut, bf16, f16};
    use burn::backend::flex::FlexTensor;
    use burn::tensor::DType;

    pub(super) fn slice(tensor: &FlexTensor) -> Option<Slice<'_>> {
        let empty = tensor.layout().num_elements() == 0;
        Some(match tensor.dtype() {
            DType::F64 if empty => Slice::F64(&[]),
            DType::F32 if empty => Slice::F32(&[]),
            DType::F16 if empty => Slice::F16(&[]),
            DType::BF16 if empty => Slice::BF16(&[]),
            DType::F64 => Slice::F64(tensor.as_slice::<f64>()?),
            DType::F32 => Slice::F32(tensor.as_slice::<f32>()?),
            DType::F16 => Slice::F16(tensor.as_slice::<f16>()?),
            DType::BF16 => Slice::BF16(tensor.as_slice::<bf16>()?),
            _ => return None,
        })
    }

    pub(super) fn slice_mut(tensor: &mut FlexTensor) -> Option<SliceMut<'_>> {
        let (start, end) = tensor.layout().contiguous_offsets()?;
        if start == end {
            return None;
        }
        Some(match tensor.dtype() {
            DType::F64 => SliceMut::F64(&mut tensor.try_storage_mut::<f64>()?[start..end]),
            DType::F32 => SliceMut::F32(&mut tensor.try_storage_mut::<f32>()?[start..end]),
            DType::F16 => SliceMut::F16(&mut tensor.try_storage_mut::<f16>()?[start..end]),
            DType::BF16 => SliceMut::BF16(&mut tensor.try_storage_mut::<bf16>()?[start..end]),
            _ => return None,
        })
    }
}

#[cfg(feature = "ndarray")]
#[allow(deprecated)] // Burn deprecates the backend; it is supported here as long as Burn ships it.
mod ndarray {
    use super::{Indices, Slice, SliceMut};
    use burn::backend::ndarray::NdArrayTensor;

    pub(super) fn slice(tensor: &NdArrayTensor) -> Option<Slice<'_>> {
        match tensor {
            NdArrayTensor::F64(storage) => storage.view().to_slice().map(Slice::F64),
            NdArrayTensor::F32(storage) => storage.view().to_slice().map(Slice::F32),
            _ => None,
        }
    }

    pub(super) fn indices(tensor: &NdArrayTensor) -> Option<Indices<'_>> {
        match tensor {
            NdArrayTensor::I64(storage) => storage.view().to_slice().map(Indices::I64),
            NdArrayTensor::I32(storage) => storage.view().to_slice().map(Indices::I32),
            _ => None,
        }
    }

    pub(super) fn slice_mut(tensor: &mut NdArrayTensor) -> Option<SliceMut<'_>> {
        match tensor {
            NdArrayTensor::F64(storage) if storage.is_unique() => {
                storage.ensure_owned().as_slice_mut().map(SliceMut::F64)
            }
            NdArrayTensor::F32(storage) if storage.is_unique() => {
                storage.ensure_owned().as_slice_mut().map(SliceMut::F32)
            }
            _ => None,
        }
    }

    pub(super) fn contiguous(tensor: NdArrayTensor) -> NdArrayTensor {
        match tensor {
            NdArrayTensor::F64(storage) => {
                let array = storage.into_shared();
                array.as_standard_layout().into_owned().into_shared().into()
            }
            NdArrayTensor::F32(storage) => {
                let array = storage.into_shared();
                array.as_standard_layout().into_owned().into_shared().into()
            }
            other => other,
        }
    }
}
