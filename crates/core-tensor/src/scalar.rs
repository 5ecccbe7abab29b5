//! One number, where it was computed.

use std::ops::{Add, Div, Mul, Neg, Sub};

use burn::backend::{DispatchDevice, DispatchTensor, TensorMetadata};
use burn::tensor::{DType, Device, Tensor, TensorData};

use crate::kernels::{self, Reduction};

/// The result of a reduction: a norm, a dot product, a loss.
///
/// On the host backends (flex, ndarray) it is a known `f64`. On a GPU it is a one-element tensor
/// that stays on the device (`f32`, or `f64` if the leaves are), and arithmetic on it is queued
/// there; **[`value`](Scalar::value) is the one call that waits for the device.**
///
/// Arithmetic mixes both kinds freely; a known number adopts the device of the other operand.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use core_tensor::{Scalar, Tree};
///
/// let device = Device::flex();
/// let tree = Tree::empty().push("w", Tensor::<1>::from_data([3.0, 4.0], &device))?;
/// let factor = (Scalar::from(1.0) / tree.norm()).min(&Scalar::from(1.0));
/// assert_eq!(factor.value(), 0.2);
/// # Ok::<(), core_tensor::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Scalar(Repr);

#[derive(Clone, Debug)]
enum Repr {
    Host { value: f64, device: Option<DispatchDevice> },
    Device(Box<Tensor<1>>),
}

impl Scalar {
    /// A known number, to live on `device` once a tensor is asked for.
    pub fn from_value(value: f64, device: &Device) -> Self {
        Self(Repr::Host { value, device: Some(device.as_dispatch().clone()) })
    }

    /// The element of a one-element tensor, detached from autodiff. The value is not read on a GPU.
    ///
    /// # Panics
    /// If the tensor does not have exactly one element.
    pub fn from_tensor<const D: usize>(tensor: Tensor<D>) -> Self {
        assert_eq!(tensor.shape().num_elements(), 1, "a scalar is made of one element, got shape {:?}", tensor.dims());
        Self::adopt(tensor.inner().reshape([1]))
    }

    /// A one-element tensor as it is.
    fn adopt(tensor: Tensor<1>) -> Self {
        let dispatch = tensor.into_dispatch();
        let device = dispatch.device();
        match kernels::host_value(&dispatch) {
            Some(value) => Self(Repr::Host { value, device: Some(device) }),
            None => Self(Repr::device(Tensor::from_dispatch(dispatch))),
        }
    }

    pub(crate) fn reduced(reduction: Reduction, like: Option<&DispatchTensor>) -> Self {
        Self(match reduction {
            Reduction::Host(value) => Repr::Host { value, device: like.map(|x| x.device()) },
            Reduction::Device(tensor) => Repr::device(tensor),
        })
    }

    /// The number. On a GPU this waits for the device: **one host synchronisation**.
    pub fn value(&self) -> f64 {
        match &self.0 {
            Repr::Host { value, .. } => *value,
            Repr::Device(tensor) => tensor.clone().into_data().iter::<f64>().next().unwrap_or(f64::NAN),
        }
    }

    /// The number if no device has to be waited for.
    pub fn known(&self) -> Option<f64> {
        match &self.0 {
            Repr::Host { value, .. } => Some(*value),
            Repr::Device(_) => None,
        }
    }

    /// The number as a tensor of shape `[1]`, without a synchronisation: `f64` on a host backend,
    /// the dtype it was computed in (`f32`, rarely `f64`) on a GPU. A number that came from no
    /// device goes to the default one.
    pub fn tensor(&self) -> Tensor<1> {
        match &self.0 {
            Repr::Device(tensor) => tensor.as_ref().clone(),
            Repr::Host { value, device } => {
                let device = match device {
                    Some(device) => Device::new(device.clone()),
                    None => Device::default(),
                };
                let dtype = match device.supports_dtype(DType::F64) {
                    true => DType::F64,
                    false => DType::F32,
                };
                Tensor::from_data(TensorData::new(vec![*value], [1]), (&device, dtype))
            }
        }
    }

    /// The square root.
    pub fn sqrt(&self) -> Self {
        self.unary(f64::sqrt, Tensor::sqrt)
    }

    /// The absolute value.
    pub fn abs(&self) -> Self {
        self.unary(f64::abs, Tensor::abs)
    }

    /// One over the number.
    pub fn recip(&self) -> Self {
        self.unary(f64::recip, Tensor::recip)
    }

    /// The exponential.
    pub fn exp(&self) -> Self {
        self.unary(f64::exp, Tensor::exp)
    }

    /// The natural logarithm.
    pub fn log(&self) -> Self {
        self.unary(f64::ln, Tensor::log)
    }

    /// The number to a fixed power.
    pub fn powf(&self, exponent: f64) -> Self {
        self.unary(|x| x.powf(exponent), |x| x.powf_scalar(exponent))
    }

    /// The smaller of two numbers. If one is NaN the result is NaN on the host; on a GPU that
    /// is the device's choice.
    pub fn min(&self, other: &Self) -> Self {
        let min = |a: f64, b: f64| if a.is_nan() || a < b { a } else { b };
        self.binary(other, min, Tensor::min_pair)
    }

    /// The larger of two numbers, with NaN as for [`min`](Self::min).
    pub fn max(&self, other: &Self) -> Self {
        let max = |a: f64, b: f64| if a.is_nan() || a > b { a } else { b };
        self.binary(other, max, Tensor::max_pair)
    }

    fn unary(&self, host: impl Fn(f64) -> f64, device: impl Fn(Tensor<1>) -> Tensor<1>) -> Self {
        Self(match &self.0 {
            Repr::Host { value, device } => Repr::Host { value: host(*value), device: device.clone() },
            Repr::Device(tensor) => Repr::device(device(tensor.as_ref().clone())),
        })
    }

    fn binary(
        &self,
        other: &Self,
        host: impl Fn(f64, f64) -> f64,
        device: impl Fn(Tensor<1>, Tensor<1>) -> Tensor<1>,
    ) -> Self {
        let known = |value: f64, like: &Tensor<1>| {
            Tensor::from_data(TensorData::new(vec![value], [1]), (&like.device(), like.dtype()))
        };
        Self(match (&self.0, &other.0) {
            (Repr::Host { value, device }, Repr::Host { value: second, device: second_device }) => {
                Repr::Host { value: host(*value, *second), device: device.as_ref().or(second_device.as_ref()).cloned() }
            }
            (Repr::Device(x), Repr::Host { value, .. }) => Repr::device(device(x.as_ref().clone(), known(*value, x))),
            (Repr::Host { value, .. }, Repr::Device(y)) => Repr::device(device(known(*value, y), y.as_ref().clone())),
            (Repr::Device(x), Repr::Device(y)) => {
                let y = match x.device() == y.device() {
                    true => y.as_ref().clone(),
                    false => y.as_ref().clone().to_device(&x.device()),
                };
                let (x, y) = kernels::common(x.as_ref().clone(), y);
                Repr::device(device(x, y))
            }
        })
    }
}

impl Repr {
    fn device(tensor: Tensor<1>) -> Self {
        Self::Device(Box::new(tensor))
    }
}

impl From<f64> for Scalar {
    fn from(value: f64) -> Self {
        Self(Repr::Host { value, device: None })
    }
}

macro_rules! operator {
    ($trait:ident, $method:ident) => {
        impl $trait<&Scalar> for &Scalar {
            type Output = Scalar;
            fn $method(self, other: &Scalar) -> Scalar {
                self.binary(other, f64::$method, Tensor::$method)
            }
        }
        impl $trait for Scalar {
            type Output = Scalar;
            fn $method(self, other: Scalar) -> Scalar {
                $trait::$method(&self, &other)
            }
        }
        impl $trait<f64> for Scalar {
            type Output = Scalar;
            fn $method(self, other: f64) -> Scalar {
                $trait::$method(&self, &Scalar::from(other))
            }
        }
    };
}

operator!(Add, add);
operator!(Sub, sub);
operator!(Mul, mul);
operator!(Div, div);

impl Neg for Scalar {
    type Output = Scalar;
    fn neg(self) -> Scalar {
        self.unary(|x| -x, Tensor::neg)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_numbers_keep_f64() {
        let third = Scalar::from(1.0) / Scalar::from(3.0);
        assert_eq!(third.value(), 1.0 / 3.0);
        assert_eq!((third.clone() * 3.0 - 1.0).value(), 0.0);
        assert_eq!((-third.clone()).abs().value(), 1.0 / 3.0);
        assert_eq!(Scalar::from(9.0).sqrt().recip().value(), 1.0 / 3.0);
        assert_eq!(third.known(), Some(1.0 / 3.0));
    }

    #[test]
    fn min_and_max_pass_nan_on() {
        let (one, nan) = (Scalar::from(1.0), Scalar::from(f64::NAN));
        assert!(one.min(&nan).value().is_nan() && nan.min(&one).value().is_nan());
        assert!(one.max(&nan).value().is_nan() && nan.max(&one).value().is_nan());
        assert_eq!(one.min(&Scalar::from(2.0)).value(), 1.0);
        assert_eq!(one.max(&Scalar::from(2.0)).value(), 2.0);
    }

    #[test]
    fn tensors_go_both_ways() {
        for device in crate::testing::host_devices() {
            let tensor = Tensor::<2>::from_data([[0.5]], &device);
            let scalar = Scalar::from_tensor(tensor);
            assert_eq!(scalar.value(), 0.5);
            let back = scalar.tensor();
            assert_eq!((back.dims(), back.dtype()), ([1], DType::F64));
            assert_eq!(back.device(), device);
        }
    }

    #[test]
    fn device_numbers_are_computed_as_tensors() {
        let device = Device::flex();
        let of = |x: f32| Scalar(Repr::device(Tensor::from_data([x], &device)));
        let two = of(2.0);
        assert_eq!(two.known(), None);
        assert_eq!((two.clone() + of(3.0)).value(), 5.0);
        assert_eq!((two.clone() / 4.0).value(), 0.5);
        assert_eq!((Scalar::from(1.0) - two.clone()).value(), -1.0);
        assert_eq!(two.min(&of(1.0)).value(), 1.0);
        assert_eq!(two.powf(3.0).value(), 8.0);
    }
}
