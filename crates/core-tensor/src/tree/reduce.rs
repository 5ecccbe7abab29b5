//! Norms, dot products and other numbers of a tree.

use burn::backend::DispatchTensor;

use super::Tree;
use crate::kernels::{self, Reduction};
use crate::{Error, Result, Scalar};

/// # Reductions
/// Each is one pass over memory (two where noted) and returns a [`Scalar`] without waiting for the
/// device. On the host sums are accumulated in `f64`, in an order that does not depend on the number
/// of threads. Norms and dot products leave the range of numbers only if the result does; NaN in
/// gives NaN out, and an infinite element an infinite norm. The empty tree has norm, sum and dot
/// product 0 and is finite.
///
/// Leaves of a recording (within [`Program::record_tree`](crate::Program::record_tree)) are reduced
/// by the textbook formula, so that the result can be differentiated.
impl Tree {
    /// `Σ x·y` over all elements.
    ///
    /// # Errors
    /// [`Error::Structure`] or [`Error::Shape`] if the trees differ.
    pub fn dot(&self, other: &Self) -> Result<Scalar> {
        self.same_structure(other)?;
        let pairs: Vec<_> = self.leaves().iter().zip(other.leaves()).collect();
        Ok(self.reduced(kernels::dot(&pairs)))
    }

    /// The Euclidean norm `√Σ x²`. On a GPU two passes, scaled by the largest magnitude.
    pub fn norm(&self) -> Scalar {
        self.reduced(kernels::norm(&self.refs()))
    }

    /// The `p`-norm `(Σ |x|^p)^(1/p)`, for `p` from 1 to infinity. Two passes unless `p` is 1, 2
    /// or infinite.
    ///
    /// # Errors
    /// [`Error::Parameter`] if `p` is below 1 or NaN.
    pub fn norm_p(&self, p: f64) -> Result<Scalar> {
        if p.is_nan() || p < 1.0 {
            return Err(Error::Parameter { parameter: "p", value: p, bound: "1 <= p <= inf" });
        }
        Ok(match p {
            1.0 => self.reduced(kernels::sum(&self.refs(), true)),
            2.0 => self.norm(),
            f64::INFINITY => self.norm_inf(),
            p => self.reduced(kernels::norm_p(&self.refs(), p)),
        })
    }

    /// The largest magnitude `max |x|`.
    pub fn norm_inf(&self) -> Scalar {
        self.reduced(kernels::max_abs(&self.refs()))
    }

    /// `Σ x`.
    pub fn sum(&self) -> Scalar {
        self.reduced(kernels::sum(&self.refs(), false))
    }

    /// The Euclidean norm of each leaf, in order.
    pub fn leaf_norms(&self) -> Vec<Scalar> {
        let norm = |leaf| Scalar::reduced(kernels::norm(&[leaf]), Some(leaf));
        self.leaves().iter().map(norm).collect()
    }

    /// 1 if no element is NaN or infinite, else 0.
    pub fn is_finite(&self) -> Scalar {
        self.reduced(kernels::is_finite(&self.refs()))
    }

    fn reduced(&self, reduction: Reduction) -> Scalar {
        Scalar::reduced(reduction, self.leaves().first())
    }

    fn refs(&self) -> Vec<&DispatchTensor> {
        self.leaves().iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::host_devices;
    use burn::tensor::{DType, Device, FloatDType, Tensor};

    fn tree(values: &[f64], dtype: DType, device: &Device) -> Tree {
        let data = burn::tensor::TensorData::new(values.to_vec(), [values.len()]);
        let tensor = Tensor::<1>::from_data(data, (device, dtype));
        Tree::empty().push("x", tensor).unwrap()
    }

    #[test]
    fn norms_do_not_leave_the_range_on_the_way() {
        for device in host_devices() {
            let huge = tree(&[1e19; 128], DType::F32, &device);
            let expected = 1e19f32 as f64 * 128f64.sqrt();
            assert!((huge.norm().value() / expected - 1.0).abs() < 1e-15);
            for n in [1, 7, 1000] {
                let tiny = tree(&vec![1e-30; n], DType::F32, &device);
                let expected = 1e-30f32 as f64 * (n as f64).sqrt();
                assert!((tiny.norm().value() / expected - 1.0).abs() < 1e-15);
            }
            for scale in [1e-320, 1e-200, 1.0, 1e200, 1e307] {
                let x = tree(&[3.0 * scale, -4.0 * scale], DType::F64, &device);
                let expected = 5.0 * scale;
                let error = (x.norm().value() / expected - 1.0).abs();
                // A subnormal input has few digits of its own.
                assert!(error < if scale < 1e-300 { 1e-3 } else { 1e-15 }, "{scale}: {error}");
                let p = x.norm_p(3.0).unwrap().value() / scale / 91f64.cbrt();
                assert!((p - 1.0).abs() < 1e-3);
            }
        }
    }

    #[test]
    fn dot_products_do_not_leave_the_range_on_the_way() {
        let device = Device::flex();
        let x = tree(&[1e200, 1e200, 1.0], DType::F64, &device);
        let y = tree(&[1e200, -1e200, 0.5], DType::F64, &device);
        assert_eq!(x.dot(&y).unwrap().value(), 0.0);
        let tiny = tree(&[1e-200, 0.0, 0.0], DType::F64, &device);
        assert!((x.dot(&tiny).unwrap().value() - 1.0).abs() < 1e-15);
        assert_eq!(tiny.dot(&tiny).unwrap().value(), 0.0);
        assert_eq!(x.dot(&x).unwrap().value(), f64::INFINITY);
    }

    #[test]
    fn leaves_of_all_magnitudes_add_up() {
        let device = Device::flex();
        let leaf = |x: f64, n: usize| {
            Tensor::<1>::from_data(burn::tensor::TensorData::new(vec![x; n], [n]), (&device, DType::F64))
        };
        let tree = Tree::empty()
            .push("huge", leaf(3e200, 1))
            .unwrap()
            .push("zero", leaf(0.0, 5))
            .unwrap()
            .push("tiny", leaf(1e-300, 4))
            .unwrap()
            .push("same", leaf(4e200, 1))
            .unwrap();
        assert!((tree.norm().value() / 5e200 - 1.0).abs() < 1e-15);
        let small = tree.filter(|name| name.path != "huge" && name.path != "same");
        assert!((small.norm().value() / 2e-300 - 1.0).abs() < 1e-15);
    }

    #[test]
    fn special_values_have_named_results() {
        for device in host_devices() {
            let nan = tree(&[1.0, f64::NAN, f64::INFINITY], DType::F32, &device);
            assert!(nan.norm().value().is_nan() && nan.norm_inf().value().is_nan());
            assert!(nan.norm_p(3.0).unwrap().value().is_nan());
            assert_eq!(nan.is_finite().value(), 0.0);
            for dtype in [DType::F32, DType::F64] {
                let inf = tree(&[1.0, f64::NEG_INFINITY], dtype, &device);
                assert_eq!(inf.norm().value(), f64::INFINITY);
                assert_eq!(inf.norm_inf().value(), f64::INFINITY);
                assert_eq!(inf.norm_p(1.5).unwrap().value(), f64::INFINITY);
                assert_eq!(inf.is_finite().value(), 0.0);
            }
            let nothing = tree(&[], DType::F32, &device);
            for tree in [Tree::empty(), nothing] {
                assert_eq!(tree.norm().value(), 0.0);
                assert_eq!(tree.norm_p(1.5).unwrap().value(), 0.0);
                assert_eq!(tree.norm_inf().value(), 0.0);
                assert_eq!(tree.dot(&tree).unwrap().value(), 0.0);
                assert_eq!(tree.sum().value(), 0.0);
                assert_eq!(tree.is_finite().value(), 1.0);
            }
        }
        let x = tree(&[1.0], DType::F32, &Device::flex());
        for p in [0.5, f64::NAN, -1.0] {
            assert!(matches!(x.norm_p(p), Err(Error::Parameter { parameter: "p", .. })));
        }
    }

    #[test]
    fn half_precision_is_summed_in_f64() {
        let device = Device::flex();
        for dtype in [DType::F16, DType::BF16] {
            let x = tree(&[256.0; 10_000], dtype, &device);
            assert_eq!(x.norm().value(), 25_600.0);
            assert_eq!(x.sum().value(), 2_560_000.0);
            let y = x.clone().cast(FloatDType::F32);
            assert_eq!(x.dot(&y).unwrap().value(), 655_360_000.0);
        }
    }

    #[test]
    fn views_are_reduced_in_their_own_order() {
        for device in host_devices() {
            let x = Tensor::<2>::from_data([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], &device);
            let weights = Tensor::<2>::from_data([[1.0, 10.0], [100.0, 1e3], [1e4, 1e5]], &device);
            let of = |x: Tensor<2>| Tree::empty().push("x", x).unwrap();
            let dot = |x, y| of(x).dot(&of(y)).unwrap().value();
            assert_eq!(dot(x.clone().transpose(), weights.clone()), 635241.0 - 0.0);
            let column = x.clone().slice([0..2, 1..2]);
            assert_eq!(of(column).norm().value(), 29f64.sqrt());
            let row = x.slice([1..2, 0..3]);
            assert_eq!(of(row).sum().value(), 15.0);
        }
    }
}
