//! How loud the error of a quantisation is.

use burn::tensor::Tensor;
use core_tensor::Tree;

use crate::error::Result;

/// Signal to quantisation noise ratio in dB, `10·log₁₀(Σx² / Σ(x − y)²)`: infinite for equal tensors, about 6 dB a bit.
///
/// Sums are in `f64`. One host synchronisation on a GPU.
///
/// ```
/// use burn::tensor::{Device, Tensor};
///
/// let x = Tensor::<1>::from_data([10.0, 0.0], &Device::flex());
/// let y = Tensor::<1>::from_data([9.0, 0.0], &Device::flex());
/// assert!((mixed_precision::sqnr(&x, &y)? - 20.0).abs() < 1e-9);
/// # Ok::<(), mixed_precision::Error>(())
/// ```
///
/// # Errors
/// [`core_tensor::Error::Shape`] if the shapes differ.
pub fn sqnr<const D: usize>(x: &Tensor<D>, y: &Tensor<D>) -> Result<f64> {
    let tree = |x: &Tensor<D>| Tree::empty().push("tensor", x.clone());
    let (x, y) = (tree(x)?, tree(y)?);
    let signal = x.norm();
    Ok(20.0 * (signal / x.sub(&y)?.norm()).value().log10())
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    #[test]
    fn equal_tensors_and_other_shapes() {
        let x = Tensor::<1>::from_data([1.0, 2.0], &Device::flex());
        assert_eq!(sqnr(&x, &x).unwrap(), f64::INFINITY);
        assert!(sqnr(&x, &x.clone().narrow(0, 0, 1)).unwrap_err().to_string().contains("shape [2]"));
    }
}
