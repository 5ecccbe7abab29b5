//! The same operations as tensor operations, for devices whose memory the host cannot reach and for
//! tensors that are being recorded or differentiated. Half-precision leaves compute in `f32`.

use burn::backend::ops::{BoolTensorOps, FloatTensorOps};
use burn::backend::{Dispatch, DispatchTensor, DispatchTensorKind, TensorMetadata};
use burn::tensor::{DType, Device, Shape, Tensor};

/// `a·x`.
pub(crate) fn scale(x: DispatchTensor, a: f64) -> DispatchTensor {
    let dtype = x.dtype();
    cast(Dispatch::float_mul_scalar(widen(x), a.into()), dtype)
}

/// `s·x` for a one-element tensor `s`.
pub(crate) fn scale_by(x: DispatchTensor, s: &Tensor<1>) -> DispatchTensor {
    let dtype = x.dtype();
    let x = widen(x);
    let s = factor(s, &x);
    cast(Dispatch::float_mul(x, s), dtype)
}

/// `x + a·y`.
pub(crate) fn axpy(x: DispatchTensor, a: f64, y: &DispatchTensor) -> DispatchTensor {
    let dtype = x.dtype();
    let x = widen(x);
    let y = beside(y.clone(), &x);
    let step = match a {
        1.0 => y,
        a => Dispatch::float_mul_scalar(y, a.into()),
    };
    cast(Dispatch::float_add(x, step), dtype)
}

/// `x + s·y` for a one-element tensor `s`.
pub(crate) fn axpy_by(x: DispatchTensor, s: &Tensor<1>, y: &DispatchTensor) -> DispatchTensor {
    let dtype = x.dtype();
    let x = widen(x);
    let y = beside(y.clone(), &x);
    let step = Dispatch::float_mul(y, factor(s, &x));
    cast(Dispatch::float_add(x, step), dtype)
}

/// `min(max(x, low), high)`; NaN stays.
pub(crate) fn clamp(x: DispatchTensor, low: f64, high: f64) -> DispatchTensor {
    // Some devices' clamp gives NaN a bound, comparisons do not.
    let flag = Device::new(x.device()).settings().bool_dtype;
    let below = Dispatch::float_lower_elem(x.clone(), low.into(), flag);
    let above = Dispatch::float_greater_elem(x.clone(), high.into(), flag);
    let x = Dispatch::float_mask_fill(x, below, low.into());
    Dispatch::float_mask_fill(x, above, high.into())
}

/// `x` where it is finite, else 0.
pub(crate) fn finite_or_zero(x: DispatchTensor) -> DispatchTensor {
    let flag = Device::new(x.device()).settings().bool_dtype;
    let broken = Dispatch::bool_or(Dispatch::float_is_nan(x.clone(), flag), Dispatch::float_is_inf(x.clone(), flag));
    Dispatch::float_mask_fill(x, broken, 0.0.into())
}

/// `x·y`, element by element.
pub(crate) fn mul(x: DispatchTensor, y: &DispatchTensor) -> DispatchTensor {
    let dtype = x.dtype();
    let x = widen(x);
    let y = beside(y.clone(), &x);
    cast(Dispatch::float_mul(x, y), dtype)
}

/// `(1 - t)·x + t·y`.
pub(crate) fn lerp(x: DispatchTensor, y: &DispatchTensor, t: f64) -> DispatchTensor {
    axpy(scale(x, 1.0 - t), t, y)
}

/// `(1 - s)·x + s·y` for a one-element tensor `s`.
pub(crate) fn lerp_by(x: DispatchTensor, y: &DispatchTensor, s: &Tensor<1>) -> DispatchTensor {
    let rest = s.clone().neg().add_scalar(1.0);
    axpy_by(scale_by(x, &rest), s, y)
}

/// The tensor in another float dtype; itself if it has that one.
pub(crate) fn cast(x: DispatchTensor, dtype: DType) -> DispatchTensor {
    match x.dtype() == dtype {
        true => x,
        false => Dispatch::float_cast(x, dtype.into()),
    }
}

/// The tensor as a vector, in `f32` or the wider dtype it has.
pub(crate) fn flat(x: DispatchTensor) -> Tensor<1> {
    let length = x.shape().num_elements();
    Tensor::from_dispatch(Dispatch::float_reshape(x, Shape::new([length])))
}

/// `f16`, `bf16` and `flex32` as `f32`.
pub(crate) fn widen(x: DispatchTensor) -> DispatchTensor {
    match x.dtype() {
        DType::F16 | DType::BF16 | DType::Flex32 => cast(x, DType::F32),
        _ => x,
    }
}

/// Whether operations on the tensor are recorded, by autodiff or by a program.
pub(crate) fn is_recorded(x: &DispatchTensor) -> bool {
    matches!(x.kind, DispatchTensorKind::Autodiff(_) | DispatchTensorKind::Capture(_))
}

/// The tensor with the dtype and on the device of another.
fn beside(y: DispatchTensor, x: &DispatchTensor) -> DispatchTensor {
    let (y, device) = (cast(y, x.dtype()), x.device());
    match y.device() == device {
        true => y,
        false => Dispatch::float_to_device(y, &device),
    }
}

/// A one-element tensor made to broadcast over `x`.
fn factor(s: &Tensor<1>, x: &DispatchTensor) -> DispatchTensor {
    let s = beside(s.clone().into_dispatch(), x);
    let ones = vec![1; x.shape().num_dims()];
    Dispatch::float_reshape(s, Shape::from(ones))
}
