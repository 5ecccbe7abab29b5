//! The memory of tensors on the host backends (flex, ndarray), for techniques that fuse a pass of their own.
//!
//! ```
//! use burn::tensor::{Device, Tensor};
//! use core_tensor::host::{self, SliceMut};
//!
//! let x = Tensor::<1>::from_data([1.0, -2.0], &Device::flex()).into_dispatch();
//! let (x, negative) = host::update(x, |x| match x {
//!     SliceMut::F32(x) => {
//!         x.iter_mut().for_each(|x| *x += 1.0);
//!         x.iter().filter(|x| **x < 0.0).count()
//!     }
//!     _ => 0,
//! })
//! .expect("flex is a host backend");
//! assert_eq!(negative, 1);
//! assert_eq!(Tensor::<1>::from_dispatch(x).into_data().iter::<f64>().collect::<Vec<_>>(), [2.0, -1.0]);
//! ```

use burn::backend::ops::FloatTensorOps;
use burn::backend::{Dispatch, DispatchTensor, DispatchTensorKind, TensorMetadata};
use burn::tensor::{Element, TensorData};
use pulp::{Arch, NullaryFnOnce};

use crate::kernels::host as memory;

pub use crate::kernels::host::{Slice, SliceMut, is_host};

/// Whether the tensor belongs to a recording, so that it has no value.
pub fn is_recording(tensor: &DispatchTensor) -> bool {
    match &tensor.kind {
        DispatchTensorKind::Capture(_) => true,
        DispatchTensorKind::Autodiff(inner) => matches!(**inner, DispatchTensorKind::Capture(_)),
        _ => false,
    }
}

/// Looks at the elements in row-major order; `None` if the tensor is not a plain one on the host (on a device, on an
/// autodiff tape, in a recording). Copies only what is not contiguous.
pub fn read<R>(tensor: &DispatchTensor, f: impl FnOnce(Slice<'_>) -> R) -> Option<R> {
    if !is_host(tensor) {
        return None;
    }
    match memory::slice(tensor) {
        Some(slice) => Some(f(slice)),
        None => memory::slice(&memory::contiguous(tensor.clone())).map(f),
    }
}

/// Changes the elements in row-major order: in place where no one else holds the buffer, else in a copy.
///
/// # Errors
/// The tensor as it was if it is not a plain one on the host.
#[expect(clippy::result_large_err, reason = "the tensor is handed back")]
pub fn update<R>(
    tensor: DispatchTensor,
    f: impl FnOnce(SliceMut<'_>) -> R,
) -> std::result::Result<(DispatchTensor, R), DispatchTensor> {
    if !is_host(&tensor) {
        return Err(tensor);
    }
    let mut tensor = memory::contiguous(tensor);
    if let Some(slice) = memory::slice_mut(&mut tensor) {
        let result = f(slice);
        return Ok((tensor, result));
    }
    Ok(match memory::slice(&tensor) {
        Some(Slice::F64(x)) => copied(&tensor, x, |x| f(SliceMut::F64(x))),
        Some(Slice::F32(x)) => copied(&tensor, x, |x| f(SliceMut::F32(x))),
        Some(Slice::F16(x)) => copied(&tensor, x, |x| f(SliceMut::F16(x))),
        Some(Slice::BF16(x)) => copied(&tensor, x, |x| f(SliceMut::BF16(x))),
        None => unreachable!("a contiguous host tensor has a slice"),
    })
}

fn copied<E: Element, R>(like: &DispatchTensor, values: &[E], f: impl FnOnce(&mut [E]) -> R) -> (DispatchTensor, R) {
    let mut values = values.to_vec();
    let result = f(&mut values);
    (Dispatch::float_from_data(TensorData::new(values, like.shape()), &like.device()), result)
}

/// Runs a loop compiled for the widest vector unit this machine has. What the closure calls has to be
/// `#[inline(always)]` to gain by it, and so has a closure of more than a few operations itself:
/// `vectorised(#[inline(always)] || ..)`. Else it is called as it was compiled for any machine.
#[inline(always)]
pub fn vectorised<R>(f: impl FnOnce() -> R) -> R {
    struct Loop<F>(F);
    impl<R, F: FnOnce() -> R> NullaryFnOnce for Loop<F> {
        type Output = R;
        #[inline(always)]
        fn call(self) -> R {
            (self.0)()
        }
    }
    Arch::new().dispatch(Loop(f))
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, Tensor};

    fn double(slice: SliceMut<'_>) {
        match slice {
            SliceMut::F32(x) => vectorised(|| x.iter_mut().for_each(|x| *x *= 2.0)),
            _ => panic!("the tensors here are f32"),
        }
    }

    fn values(tensor: DispatchTensor) -> Vec<f64> {
        Tensor::<2>::from_dispatch(tensor).into_data().iter::<f64>().collect()
    }

    #[test]
    fn other_holders_and_other_orders_are_left_alone() {
        for device in crate::testing::host_devices() {
            let x = Tensor::<2>::from_data([[1.0, 2.0], [3.0, 4.0]], &device);
            let turned = x.clone().transpose().into_dispatch();
            let (turned, ()) = update(turned, double).unwrap();
            assert_eq!(values(turned), [2.0, 6.0, 4.0, 8.0]);
            let (all, ()) = update(x.clone().into_dispatch(), double).unwrap();
            assert_eq!(values(all), [2.0, 4.0, 6.0, 8.0]);
            let count = read(&x.clone().transpose().into_dispatch(), |x| match x {
                Slice::F32(x) => x.to_vec(),
                _ => vec![],
            });
            assert_eq!(count.unwrap(), [1.0, 3.0, 2.0, 4.0]);
            assert_eq!(values(x.into_dispatch()), [1.0, 2.0, 3.0, 4.0]);
            let (none, ()) = update(Tensor::<2>::zeros([0, 3], &device).into_dispatch(), double).unwrap();
            assert_eq!(none.shape().num_elements(), 0);
        }
    }

    #[test]
    fn tracked_tensors_are_handed_back() {
        let x = Tensor::<2>::ones([1, 2], &Device::flex().autodiff()).into_dispatch();
        assert!(read(&x, |_| ()).is_none());
        assert!(update(x, double).is_err());
    }
}
