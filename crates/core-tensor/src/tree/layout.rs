//! Parts of a tree, and a tree as one flat buffer.

use std::sync::Arc;

use burn::backend::ops::FloatTensorOps;
use burn::backend::{Dispatch, DispatchTensor, TensorMetadata};
use burn::tensor::{DType, Device, Shape, Slice, Tensor, TensorData};

use super::{LeafName, Tree, check_shape};
use crate::{Error, Result, kernels};

/// # Parts and buffers
impl Tree {
    /// The leaves whose name satisfies a predicate, in order. Buffers are shared.
    pub fn filter(&self, mut keep: impl FnMut(&LeafName) -> bool) -> Self {
        let leaves = self.iter().filter(|(name, _)| keep(name));
        let (names, leaves) = leaves.map(|(name, leaf)| (name.clone(), leaf.clone())).unzip();
        Self::from_parts(Arc::new(names), leaves)
    }

    /// The leaves whose name satisfies a predicate, and the others.
    pub fn partition(self, mut select: impl FnMut(&LeafName) -> bool) -> (Self, Self) {
        let (mut yes, mut no) = ((vec![], vec![]), (vec![], vec![]));
        for (name, leaf) in self.into_leaves() {
            let side = match select(&name) {
                true => &mut yes,
                false => &mut no,
            };
            side.0.push(name);
            side.1.push(leaf);
        }
        let tree = |(names, leaves)| Self::from_parts(Arc::new(names), leaves);
        (tree(yes), tree(no))
    }

    /// The leaves of both trees, those of `self` first.
    ///
    /// # Errors
    /// [`Error::DuplicateLeaf`] if a path is in both.
    pub fn merge(self, other: Self) -> Result<Self> {
        Self::from_recorded(self.into_leaves().chain(other.into_leaves()))
    }

    /// The leaves named in `like`, in its order.
    ///
    /// # Errors
    /// [`Error::UnknownLeaf`] if one is missing, [`Error::Shape`] if one has another shape.
    pub fn restrict(&self, like: &Self) -> Result<Self> {
        if Arc::ptr_eq(&self.names, &like.names) {
            self.same_structure(like)?;
            return Ok(self.clone());
        }
        // Both usually follow one module, so the next leaf is near the last one found.
        let mut next = 0;
        let leaves = like.iter().map(|(name, pattern)| {
            let index = (next..self.len())
                .chain(0..next)
                .find(|&i| self.names[i].path == name.path)
                .ok_or_else(|| Error::UnknownLeaf { path: name.path.clone(), place: "the tree" })?;
            next = index + 1;
            check_shape(name, &self.leaves[index].shape(), &pattern.shape())?;
            Ok((self.names[index].clone(), self.leaves[index].clone()))
        });
        let leaves = leaves.collect::<Result<Vec<_>>>()?;
        let (names, leaves) = leaves.into_iter().unzip();
        Ok(Self::from_parts(Arc::new(names), leaves))
    }

    /// All elements as one vector, leaf after leaf in row-major order: shape `[num_elements]`, in
    /// the widest dtype of the leaves (`f16` with `bf16` gives `f32`). One copy.
    ///
    /// The empty tree gives a vector without elements on the default device.
    ///
    /// # Errors
    /// [`Error::Device`] if the leaves are on several devices.
    pub fn flatten(&self) -> Result<Tensor<1>> {
        let dtype = self.widest();
        if let Some(device) = self.device()
            && let Some((name, _)) = self.iter().find(|(_, leaf)| leaf.device() != *device.as_dispatch())
        {
            return Err(Error::Device { path: name.path.clone() });
        }
        let leaves: Vec<DispatchTensor> = self
            .leaves()
            .iter()
            .filter(|x| x.shape().num_elements() > 0)
            .map(|x| {
                let length = x.shape().num_elements();
                let x = kernels::cast(x.clone(), dtype);
                Dispatch::float_reshape(x, Shape::new([length]))
            })
            .collect();
        if leaves.is_empty() {
            let device = self.device().unwrap_or_default();
            let nothing = TensorData::new(Vec::<f32>::new(), [0]);
            return Ok(Tensor::from_data(nothing, (&device, dtype)));
        }
        Ok(Tensor::from_dispatch(Dispatch::float_cat(leaves, 0)))
    }

    /// The inverse of [`flatten`](Self::flatten): a vector of shape `[num_elements]` cut into
    /// leaves with the names, shapes and dtypes of this tree. On the host leaves of the vector's
    /// dtype share its buffer.
    ///
    /// # Errors
    /// [`Error::Length`] if the vector has another number of elements.
    pub fn unflatten(&self, vector: Tensor<1>) -> Result<Self> {
        let (expected, actual) = (self.num_elements(), vector.dims()[0]);
        if expected != actual {
            return Err(Error::Length { what: "the vector", expected, actual });
        }
        let vector = vector.into_dispatch();
        let mut start = 0;
        let leaves = self.leaves().iter().map(|like| {
            let (shape, dtype) = (like.shape(), like.dtype());
            let length = shape.num_elements();
            if length == 0 {
                return like.clone();
            }
            let range = Slice::from(start..start + length);
            start += length;
            let part = Dispatch::float_slice(vector.clone(), &[range]);
            kernels::cast(Dispatch::float_reshape(part, shape), dtype)
        });
        Ok(Self::from_parts(self.shared_names(), leaves.collect()))
    }

    /// The leaves on another device. Leaves that are there already are passed on untouched.
    pub fn to_device(self, device: &Device) -> Self {
        let (names, leaves) = self.into_parts();
        let device = device.clone().without_autodiff();
        let device = device.as_dispatch();
        let leaves = leaves.into_iter().map(|leaf| match leaf.device() == *device {
            true => leaf,
            false => Dispatch::float_to_device(leaf, device),
        });
        Self::from_parts(names, leaves.collect())
    }

    fn widest(&self) -> DType {
        let wider = |a: DType, b: DType| match (a, b) {
            (a, b) if a == b => a,
            (DType::F64, _) | (_, DType::F64) => DType::F64,
            _ => DType::F32,
        };
        let dtypes = self.leaves().iter().map(|x| x.dtype());
        dtypes.reduce(wider).unwrap_or(DType::F32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_same_bits, host_devices};
    use burn::tensor::FloatDType;

    fn tree(device: &Device) -> Tree {
        Tree::empty()
            .push("a", Tensor::<2>::from_data([[1.0, 2.0], [3.0, 4.0]], device))
            .and_then(|tree| tree.push("b", Tensor::<1>::from_data([5.0], device)))
            .and_then(|tree| tree.push("c", Tensor::<1>::from_data([6.0, 7.0], device)))
            .unwrap()
    }

    #[test]
    fn parts_are_taken_and_put_together() {
        for device in host_devices() {
            let tree = tree(&device);
            let (b, rest) = tree.clone().partition(|name| name.path == "b");
            assert_eq!((b.len(), rest.len()), (1, 2));
            let merged = rest.clone().merge(b.clone()).unwrap();
            assert_eq!(merged.names()[2].path, "b");
            assert_same_bits(&merged.restrict(&tree).unwrap(), &tree);
            assert!(matches!(
                merged.merge(b.clone()),
                Err(Error::DuplicateLeaf { path }) if path == "b"
            ));
            assert!(matches!(rest.restrict(&b), Err(Error::UnknownLeaf { path, .. }) if path == "b"));
            assert_same_bits(&tree.clone().merge(Tree::empty()).unwrap(), &tree);
        }
    }

    #[test]
    fn vectors_are_cut_into_leaves() {
        let device = Device::flex();
        let tree = tree(&device);
        let vector: Vec<f32> = tree.flatten().unwrap().try_into_vec_as().unwrap();
        assert_eq!(vector, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]);
        let short = Tensor::<1>::zeros([6], &device);
        assert_eq!(tree.unflatten(short).unwrap_err().to_string(), "the vector has 6 elements, expected 7");
        // Leaves of several dtypes meet in the widest.
        let mixed = tree.filter(|name| name.path == "a").cast(FloatDType::F16);
        let mixed = mixed.merge(tree.filter(|name| name.path != "a").cast(FloatDType::BF16));
        let mixed = mixed.unwrap();
        let vector = mixed.flatten().unwrap();
        assert_eq!(vector.dtype(), DType::F32);
        assert_same_bits(&mixed.unflatten(vector).unwrap(), &mixed);
    }

    #[test]
    fn leaves_on_several_devices_have_no_common_buffer() {
        if let [one, two] = host_devices().as_slice() {
            let tree = tree(one).push("d", Tensor::<1>::ones([1], two)).unwrap();
            assert!(matches!(tree.flatten(), Err(Error::Device { path }) if path == "d"));
            assert_eq!(tree.sum().value(), 29.0);
        }
    }

    #[test]
    fn nothing_flattens_to_nothing() {
        let nothing = Tree::empty().flatten().unwrap();
        assert_eq!(nothing.dims(), [0]);
        assert!(Tree::empty().unflatten(nothing).unwrap().is_empty());
    }

    #[test]
    fn trees_move_between_devices() {
        let devices = host_devices();
        let tree = tree(&devices[0]);
        for device in devices.into_iter().chain([Device::flex().autodiff()]) {
            let moved = tree.clone().to_device(&device);
            assert_eq!(moved.device(), Some(device));
            assert!(!moved.device().unwrap().is_autodiff());
            assert_same_bits(&moved, &tree);
        }
    }
}
