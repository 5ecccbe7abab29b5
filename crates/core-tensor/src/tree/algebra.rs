//! The vector space.

use burn::backend::ops::FloatTensorOps;
use burn::backend::{Dispatch, DispatchTensor, TensorMetadata};
use burn::tensor::{FloatDType, Tensor};

use super::{LeafName, Tree, check_float};
use crate::{Error, Result, Scalar, kernels};

/// # Vector space
/// Every operation is one pass over memory, in place on leaves whose buffer has no other holder,
/// and waits for no device. `self` keeps its dtypes and devices; the other operand is converted. On the
/// host the arithmetic is `f64` and rounds once at the end; elsewhere it is the leaf's own, `f32`
/// for half precision. Operations with a second tree fail with [`Error::Structure`] or
/// [`Error::Shape`] if names or shapes differ.
#[expect(clippy::should_implement_trait, reason = "these fail, and borrow their operand")]
impl Tree {
    /// Zero, with this tree's structure, dtypes and devices.
    pub fn zeros_like(&self) -> Self {
        self.fill(Dispatch::float_zeros)
    }

    /// Ones, with this tree's structure, dtypes and devices.
    pub fn ones_like(&self) -> Self {
        self.fill(Dispatch::float_ones)
    }

    /// `a · self`.
    pub fn scale(self, a: f64) -> Self {
        self.each(|leaf| kernels::scale(leaf, a))
    }

    /// `a · self` for a number that may still be on its way: no host synchronisation.
    pub fn scale_by(self, a: &Scalar) -> Self {
        match a.known() {
            Some(a) => self.scale(a),
            None => {
                let a = a.tensor();
                self.each(|leaf| kernels::scale_by(leaf, &a))
            }
        }
    }

    /// `-self`.
    pub fn neg(self) -> Self {
        self.scale(-1.0)
    }

    /// `self + other`.
    ///
    /// # Errors
    /// [`Error::Structure`] or [`Error::Shape`] if the trees differ.
    pub fn add(self, other: &Self) -> Result<Self> {
        self.axpy(1.0, other)
    }

    /// `self - other`.
    ///
    /// # Errors
    /// As [`add`](Self::add).
    pub fn sub(self, other: &Self) -> Result<Self> {
        self.axpy(-1.0, other)
    }

    /// `self · other`, element by element.
    ///
    /// # Errors
    /// As [`add`](Self::add).
    pub fn mul(self, other: &Self) -> Result<Self> {
        self.pair(other, kernels::mul)
    }

    /// `self + a · x`.
    ///
    /// # Errors
    /// As [`add`](Self::add).
    pub fn axpy(self, a: f64, x: &Self) -> Result<Self> {
        self.pair(x, |leaf, x| kernels::axpy(leaf, a, x))
    }

    /// `self + a · x` for a number that may still be on its way: no host synchronisation.
    ///
    /// # Errors
    /// As [`add`](Self::add).
    pub fn axpy_by(self, a: &Scalar, x: &Self) -> Result<Self> {
        match a.known() {
            Some(a) => self.axpy(a, x),
            None => {
                let a = a.tensor();
                self.pair(x, |leaf, x| kernels::axpy_by(leaf, &a, x))
            }
        }
    }

    /// `(1 - t) · self + t · other`: `self` at 0, `other` at 1.
    ///
    /// # Errors
    /// As [`add`](Self::add).
    pub fn lerp(self, other: &Self, t: f64) -> Result<Self> {
        self.pair(other, |leaf, x| kernels::lerp(leaf, x, t))
    }

    /// [`lerp`](Self::lerp) with a number that may still be on its way: no host synchronisation.
    ///
    /// # Errors
    /// As [`add`](Self::add).
    pub fn lerp_by(self, other: &Self, t: &Scalar) -> Result<Self> {
        match t.known() {
            Some(t) => self.lerp(other, t),
            None => {
                let t = t.tensor();
                self.pair(other, |leaf, x| kernels::lerp_by(leaf, x, &t))
            }
        }
    }

    /// A factor of its own for each leaf, in order; factors may still be on their way: no host synchronisation.
    ///
    /// # Errors
    /// [`Error::Length`] unless there is one factor a leaf.
    pub fn scale_leaves(self, factors: &[Scalar]) -> Result<Self> {
        if factors.len() != self.len() {
            return Err(Error::Length { what: "factors", expected: self.len(), actual: factors.len() });
        }
        let (names, leaves) = self.into_parts();
        let leaves = leaves.into_iter().zip(factors).map(|(leaf, factor)| match factor.known() {
            Some(factor) => kernels::scale(leaf, factor),
            None => kernels::scale_by(leaf, &factor.tensor()),
        });
        Ok(Self::from_parts(names, leaves.collect()))
    }

    /// Every element moved into `[min, max]`: infinities become the nearer end, NaN stays.
    ///
    /// # Errors
    /// [`Error::Parameter`] unless `min <= max`.
    pub fn clamp(self, min: f64, max: f64) -> Result<Self> {
        if !(min <= max) {
            return Err(Error::Parameter { parameter: "min", value: min, bound: "min <= max, neither NaN" });
        }
        Ok(self.each(|leaf| kernels::clamp(leaf, min, max)))
    }

    /// Every NaN and infinite element replaced by zero.
    pub fn finite_or_zero(self) -> Self {
        self.each(kernels::finite_or_zero)
    }

    /// Apply a function to each leaf. The results are taken off their autodiff tape, except while a
    /// [`Program`](crate::Program) is recorded; shapes may change.
    ///
    /// # Errors
    /// [`Error::NotFloat`] if the function returns an integer or boolean tensor.
    pub fn map(self, mut f: impl FnMut(&LeafName, DispatchTensor) -> DispatchTensor) -> Result<Self> {
        let (names, leaves) = self.into_parts();
        let leaves = names.iter().zip(leaves).map(|(name, leaf)| {
            let leaf = super::inner(f(name, leaf));
            check_float(name, &leaf).map(|()| leaf)
        });
        let leaves = leaves.collect::<Result<_>>()?;
        Ok(Self::from_parts(names, leaves))
    }

    /// Apply a function to each pair of leaves, as [`map`](Self::map) does.
    ///
    /// # Errors
    /// As [`add`](Self::add) and [`map`](Self::map).
    pub fn zip_map(
        self,
        other: &Self,
        mut f: impl FnMut(&LeafName, DispatchTensor, &DispatchTensor) -> DispatchTensor,
    ) -> Result<Self> {
        self.same_structure(other)?;
        let mut others = other.leaves().iter();
        self.map(|name, leaf| match others.next() {
            Some(other) => f(name, leaf, other),
            None => unreachable!("trees of one structure have as many leaves"),
        })
    }

    /// Apply an element-wise function of Burn tensors to each leaf, given as a tensor of shape
    /// `[elements]`; the leaf's shape is restored.
    ///
    /// ```
    /// use burn::tensor::{Device, Tensor};
    /// use core_tensor::Tree;
    ///
    /// let tree = Tree::empty().push("w", Tensor::<2>::from_data([[-2.0], [0.5]], &Device::flex()))?;
    /// let clipped = tree.map_flat(|_, x| x.clamp(-1.0, 1.0))?;
    /// assert_eq!(clipped.norm_inf().value(), 1.0);
    /// # Ok::<(), core_tensor::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Shape`] if the function changes the length.
    pub fn map_flat(self, mut f: impl FnMut(&LeafName, Tensor<1>) -> Tensor<1>) -> Result<Self> {
        let (names, leaves) = self.into_parts();
        let leaves = names.iter().zip(leaves).map(|(name, leaf)| {
            let shape = leaf.shape();
            let y = super::inner(f(name, kernels::flat(leaf)).into_dispatch());
            match y.shape().num_elements() == shape.num_elements() {
                true => Ok(Dispatch::float_reshape(y, shape)),
                false => Err(Error::Shape {
                    path: name.path.clone(),
                    left: vec![shape.num_elements()],
                    right: y.shape().to_vec(),
                }),
            }
        });
        let leaves = leaves.collect::<Result<_>>()?;
        Ok(Self::from_parts(names, leaves))
    }

    /// [`map_flat`](Self::map_flat) of each pair of leaves. Dtypes are the function's business.
    ///
    /// # Errors
    /// As [`add`](Self::add) and [`map_flat`](Self::map_flat).
    pub fn zip_flat(self, other: &Self, mut f: impl FnMut(Tensor<1>, Tensor<1>) -> Tensor<1>) -> Result<Self> {
        self.same_structure(other)?;
        let mut others = other.leaves().iter();
        self.map_flat(|_, x| match others.next() {
            Some(y) => f(x, kernels::flat(y.clone())),
            None => unreachable!("trees of one structure have as many leaves"),
        })
    }

    /// The leaves in another dtype. Leaves that have it already are passed on untouched.
    pub fn cast(self, dtype: FloatDType) -> Self {
        self.each(|leaf| kernels::cast(leaf, dtype.into()))
    }

    fn fill(
        &self,
        value: impl Fn(burn::tensor::Shape, &burn::backend::DispatchDevice, FloatDType) -> DispatchTensor,
    ) -> Self {
        let leaves = self.leaves().iter();
        let leaves = leaves.map(|x| value(x.shape(), &x.device(), x.dtype().into()));
        Self::from_parts(self.shared_names(), leaves.collect())
    }

    fn each(self, f: impl Fn(DispatchTensor) -> DispatchTensor) -> Self {
        let (names, leaves) = self.into_parts();
        Self::from_parts(names, leaves.into_iter().map(f).collect())
    }

    fn pair(self, other: &Self, f: impl Fn(DispatchTensor, &DispatchTensor) -> DispatchTensor) -> Result<Self> {
        self.same_structure(other)?;
        let (names, leaves) = self.into_parts();
        let leaves = leaves.into_iter().zip(other.leaves());
        let leaves = leaves.map(|(x, y)| f(x, y)).collect();
        Ok(Self::from_parts(names, leaves))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::host_devices;
    use burn::tensor::Device;

    fn tree(values: [f32; 2], device: &Device) -> Tree {
        let x = Tensor::<2>::from_data([values], device);
        Tree::empty().push("x", x).unwrap()
    }

    fn values(tree: &Tree) -> Vec<f64> {
        tree.to_data()[0].1.iter().collect()
    }

    #[test]
    fn operations_compute_what_they_say() {
        for device in host_devices() {
            let x = || tree([1.0, -2.0], &device);
            let y = tree([10.0, 20.0], &device);
            assert_eq!(values(&x().scale(3.0)), [3.0, -6.0]);
            assert_eq!(values(&x().neg()), [-1.0, 2.0]);
            assert_eq!(values(&x().add(&y).unwrap()), [11.0, 18.0]);
            assert_eq!(values(&x().sub(&y).unwrap()), [-9.0, -22.0]);
            assert_eq!(values(&x().mul(&y).unwrap()), [10.0, -40.0]);
            assert_eq!(values(&x().axpy(0.5, &y).unwrap()), [6.0, 8.0]);
            assert_eq!(values(&x().lerp(&y, 0.25).unwrap()), [3.25, 3.5]);
            assert_eq!(values(&x().zeros_like()), [0.0, 0.0]);
            assert_eq!(values(&x().ones_like()), [1.0, 1.0]);
            let half = Scalar::from_value(0.5, &device);
            assert_eq!(values(&x().scale_by(&half)), [0.5, -1.0]);
            assert_eq!(values(&x().axpy_by(&half, &y).unwrap()), [6.0, 8.0]);
            assert_eq!(values(&x().lerp_by(&y, &half).unwrap()), [5.5, 9.0]);
        }
    }

    #[test]
    fn functions_are_applied_leaf_by_leaf() {
        let device = Device::flex();
        let x = tree([1.0, -2.0], &device);
        let doubled = x.clone().map(|name, leaf| {
            assert_eq!(name.path, "x");
            Dispatch::float_mul_scalar(leaf, 2.0.into())
        });
        assert_eq!(values(&doubled.unwrap()), [2.0, -4.0]);
        let product = x.clone().zip_map(&x, |_, x, y| Dispatch::float_mul(x, y.clone()));
        assert_eq!(values(&product.unwrap()), [1.0, 4.0]);
        let flat = x.clone().map_flat(|_, x| x.abs()).unwrap();
        assert_eq!(values(&flat), [1.0, 2.0]);
        flat.same_structure(&x).unwrap();
        let longer = x.clone().map_flat(|_, x| Tensor::cat(vec![x.clone(), x], 0));
        assert!(matches!(longer, Err(Error::Shape { .. })));
        let integers = x.map(|_, leaf| Tensor::<2>::from_dispatch(leaf).int().into_dispatch());
        assert!(matches!(integers, Err(Error::NotFloat { .. })));
    }

    #[test]
    fn trees_of_other_structure_are_refused() {
        let device = Device::flex();
        let x = tree([1.0, 2.0], &device);
        let y = Tree::empty().push("y", Tensor::<1>::ones([2], &device)).unwrap();
        for result in [x.clone().add(&y), x.clone().axpy(2.0, &Tree::empty())] {
            assert!(matches!(result, Err(Error::Structure { index: 0, .. })));
        }
        assert!(matches!(x.dot(&y), Err(Error::Structure { .. })));
        let flat = Tree::empty().push("x", Tensor::<1>::ones([2], &device)).unwrap();
        assert!(matches!(x.mul(&flat), Err(Error::Shape { .. })));
    }

    #[test]
    fn not_a_number_is_a_value() {
        let x = tree([f32::NAN, f32::INFINITY], &Device::flex());
        let y = x.clone().scale(2.0).axpy(1.0, &x).unwrap();
        let y = values(&y);
        assert!(y[0].is_nan() && y[1] == f64::INFINITY);
    }
}
