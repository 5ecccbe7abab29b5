//! A point, gradient or tangent in parameter space.
//!
//! A [`Tree`] is an ordered list of named float tensors of any rank and dtype: the parameters of a
//! model, their gradients, a direction, an optimizer's memory. It is an element of a vector space
//! and is measured by norms and dot products; it converts to and from modules, Burn's gradients,
//! flat buffers and files.

mod algebra;
mod layout;
mod module;
mod record;
mod reduce;

#[cfg(test)]
mod properties;

pub(crate) use record::{elements, read_pack, unpack, write_pack};

use std::fmt;
use std::sync::Arc;

use burn::backend::{AutodiffBackend, Dispatch, DispatchTensor, DispatchTensorKind, TensorMetadata};
use burn::module::ParamId;
use burn::tensor::{Device, Shape, Tensor};

use crate::{Error, Result};

/// The highest rank of a leaf that modules and optimizers handle.
pub(crate) const MAX_RANK: usize = 8;

/// Run a block with the constant `$D` equal to a rank from 0 to [`MAX_RANK`], else the last block.
macro_rules! with_rank {
    ($rank:expr, $D:ident => $body:expr, $other:expr) => {
        $crate::tree::with_rank!(@ $rank, $D => $body, $other; 0 1 2 3 4 5 6 7 8)
    };
    (@ $rank:expr, $D:ident => $body:expr, $other:expr; $($n:literal)*) => {
        match $rank {
            $($n => { const $D: usize = $n; $body })*
            _ => $other,
        }
    };
}
pub(crate) use with_rank;

/// What a leaf is called, and which module parameter it belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LeafName {
    /// Path within the module, `conv1.weight`.
    pub path: String,
    /// The module parameter's identity, by which optimizers keep their state.
    pub id: Option<ParamId>,
}

impl LeafName {
    /// A name without a parameter.
    pub fn new(path: impl Into<String>) -> Self {
        Self { path: path.into(), id: None }
    }
}

impl fmt::Display for LeafName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path)
    }
}

/// An ordered list of named float tensors of any rank and dtype (see the [module page](self)).
///
/// Cloning is cheap: names and buffers are shared until written. Operations that take `self` work
/// in place on every leaf whose buffer has no other holder, so `a.axpy(0.1, &b)?` allocates nothing
/// if `a` was the only handle. Leaves never carry an autodiff tape; a tensor of rank 0 is a leaf of
/// shape `[1]`, as everywhere in Burn. Leaves without elements are allowed.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use core_tensor::Tree;
///
/// let device = Device::flex();
/// let x = Tree::empty()
///     .push("weight", Tensor::<2>::from_data([[1.0, 2.0], [2.0, 0.0]], &device))?
///     .push("bias", Tensor::<1>::from_data([0.0, 0.0], &device))?;
/// assert_eq!(x.norm().value(), 3.0);
/// let y = x.clone().scale(2.0).axpy(-1.0, &x)?;
/// assert_eq!(y.dot(&x)?.value(), 9.0);
/// # Ok::<(), core_tensor::Error>(())
/// ```
#[derive(Clone, Default)]
pub struct Tree {
    names: Arc<Vec<LeafName>>,
    leaves: Vec<DispatchTensor>,
}

impl Tree {
    /// The tree without leaves: norm 0, finite, neutral for [`merge`](Self::merge).
    pub fn empty() -> Self {
        Self::default()
    }

    /// A tree of the given leaves, in their order. Autodiff tensors are taken off their tape.
    ///
    /// # Errors
    /// [`Error::DuplicateLeaf`] if two paths are equal, [`Error::NotFloat`] for an integer, boolean
    /// or quantized tensor.
    pub fn from_leaves(leaves: impl IntoIterator<Item = (LeafName, DispatchTensor)>) -> Result<Self> {
        let leaves = leaves.into_iter().map(|(name, leaf)| (name, inner(leaf)));
        Self::from_recorded(leaves)
    }

    /// The same, leaving tensors on the tape or in the recording they belong to.
    pub(crate) fn from_recorded(leaves: impl IntoIterator<Item = (LeafName, DispatchTensor)>) -> Result<Self> {
        let (names, leaves): (Vec<_>, Vec<_>) = leaves.into_iter().unzip();
        let mut seen = std::collections::HashSet::with_capacity(names.len());
        for (name, leaf) in names.iter().zip(&leaves) {
            if !seen.insert(name.path.as_str()) {
                return Err(Error::DuplicateLeaf { path: name.path.clone() });
            }
            check_float(name, leaf)?;
        }
        Ok(Self { names: Arc::new(names), leaves })
    }

    /// Leaves under names already known to be good, one for each.
    pub(crate) fn from_parts(names: Arc<Vec<LeafName>>, leaves: Vec<DispatchTensor>) -> Self {
        debug_assert_eq!(names.len(), leaves.len());
        Self { names, leaves }
    }

    /// The tree with one more leaf at the end, without a parameter id.
    ///
    /// # Errors
    /// [`Error::DuplicateLeaf`] if the path is taken.
    pub fn push<const D: usize>(self, path: impl Into<String>, tensor: Tensor<D>) -> Result<Self> {
        let leaf = (LeafName::new(path), tensor.into_dispatch());
        let (names, leaves) = self.into_parts();
        let names = names.iter().cloned();
        Self::from_leaves(names.zip(leaves).chain([leaf]))
    }

    /// Number of leaves.
    pub fn len(&self) -> usize {
        self.leaves.len()
    }

    /// Whether there are no leaves.
    pub fn is_empty(&self) -> bool {
        self.leaves.is_empty()
    }

    /// Number of elements of all leaves together: the dimension of the space.
    pub fn num_elements(&self) -> usize {
        self.leaves.iter().map(|x| x.shape().num_elements()).sum()
    }

    /// The names, in order.
    pub fn names(&self) -> &[LeafName] {
        &self.names
    }

    /// The names as a handle to share.
    pub(crate) fn shared_names(&self) -> Arc<Vec<LeafName>> {
        self.names.clone()
    }

    /// The leaf at a position.
    ///
    /// # Panics
    /// If `index >= len()`, as slices do.
    pub fn leaf(&self, index: usize) -> (&LeafName, &DispatchTensor) {
        (&self.names[index], &self.leaves[index])
    }

    /// The leaves with their names, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&LeafName, &DispatchTensor)> {
        self.names.iter().zip(&self.leaves)
    }

    /// The leaves with their names, giving up the tree's hold on the buffers.
    pub fn into_leaves(self) -> impl ExactSizeIterator<Item = (LeafName, DispatchTensor)> {
        let (names, leaves) = self.into_parts();
        let names = Arc::unwrap_or_clone(names);
        names.into_iter().zip(leaves)
    }

    pub(crate) fn into_parts(self) -> (Arc<Vec<LeafName>>, Vec<DispatchTensor>) {
        (self.names, self.leaves)
    }

    pub(crate) fn leaves(&self) -> &[DispatchTensor] {
        &self.leaves
    }

    /// Position of a leaf.
    pub fn position(&self, path: &str) -> Option<usize> {
        self.names.iter().position(|name| name.path == path)
    }

    /// A leaf as a tensor of rank `D`.
    ///
    /// # Errors
    /// [`Error::UnknownLeaf`] if there is none of this path, [`Error::Rank`] if it has another rank.
    pub fn get<const D: usize>(&self, path: &str) -> Result<Tensor<D>> {
        let index =
            self.position(path).ok_or_else(|| Error::UnknownLeaf { path: path.to_string(), place: "the tree" })?;
        let leaf = &self.leaves[index];
        let shape = leaf.shape();
        if shape.num_dims() != D {
            return Err(Error::Rank {
                path: path.to_string(),
                rank: shape.num_dims(),
                shape: shape.to_vec(),
                asked: D,
            });
        }
        Ok(Tensor::from_dispatch(leaf.clone()))
    }

    /// The device of the first leaf; `None` for the empty tree.
    pub fn device(&self) -> Option<Device> {
        self.leaves.first().map(|leaf| Device::new(leaf.device()))
    }

    /// Check that the other tree has the same paths in the same order with the same shapes.
    /// Parameter ids, dtypes and devices may differ.
    ///
    /// # Errors
    /// [`Error::Structure`] or [`Error::Shape`] for the first difference.
    pub fn same_structure(&self, other: &Self) -> Result<()> {
        same_names(&self.names, &other.names)?;
        for ((name, x), y) in self.iter().zip(&other.leaves) {
            check_shape(name, &x.shape(), &y.shape())?;
        }
        Ok(())
    }

    /// What [`same_structure`](Self::same_structure) compares, without the buffers.
    pub(crate) fn outline(&self) -> Outline {
        Outline { names: self.names.clone(), shapes: self.leaves.iter().map(|leaf| leaf.shape()).collect() }
    }
}

/// The structure of a tree.
pub(crate) struct Outline {
    names: Arc<Vec<LeafName>>,
    shapes: Vec<Shape>,
}

impl Outline {
    /// [`Tree::same_structure`] with this on the left.
    pub(crate) fn check(&self, tree: &Tree) -> Result<()> {
        same_names(&self.names, &tree.names)?;
        for ((name, leaf), shape) in tree.iter().zip(&self.shapes) {
            check_shape(name, shape, &leaf.shape())?;
        }
        Ok(())
    }
}

impl fmt::Debug for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut map = f.debug_map();
        for (name, leaf) in self.iter() {
            map.entry(&name.path, &format_args!("{:?} {:?}", leaf.dtype(), leaf.shape().to_vec()));
        }
        map.finish()
    }
}

/// A tensor off its autodiff tape; one that a [`Program`](crate::Program) is recording stays, or it would lose its gradient.
fn inner(leaf: DispatchTensor) -> DispatchTensor {
    match &leaf.kind {
        DispatchTensorKind::Autodiff(tensor) if matches!(**tensor, DispatchTensorKind::Capture(_)) => leaf,
        DispatchTensorKind::Autodiff(_) => <Dispatch as AutodiffBackend>::inner(leaf),
        _ => leaf,
    }
}

fn check_float(name: &LeafName, leaf: &DispatchTensor) -> Result<()> {
    let dtype = leaf.dtype();
    match dtype.is_float() {
        true => Ok(()),
        false => Err(Error::NotFloat { path: name.path.clone(), dtype }),
    }
}

fn check_shape(name: &LeafName, left: &Shape, right: &Shape) -> Result<()> {
    match left == right {
        true => Ok(()),
        false => Err(Error::Shape { path: name.path.clone(), left: left.to_vec(), right: right.to_vec() }),
    }
}

fn same_names(left: &Arc<Vec<LeafName>>, right: &Arc<Vec<LeafName>>) -> Result<()> {
    if Arc::ptr_eq(left, right) {
        return Ok(());
    }
    let path = |names: &[LeafName], i: usize| names.get(i).map(|name| name.path.clone());
    let length = left.len().max(right.len());
    let differ = |&i: &usize| left.get(i).map(|name| name.path.as_str()) != right.get(i).map(|name| name.path.as_str());
    match (0..length).find(differ) {
        None => Ok(()),
        Some(index) => Err(Error::Structure { index, left: path(left, index), right: path(right, index) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::host_devices;
    use burn::tensor::{DType, Int};

    fn two(device: &Device) -> Tree {
        Tree::empty()
            .push("a", Tensor::<2>::from_data([[1.0, 2.0]], device))
            .and_then(|tree| tree.push("b", Tensor::<1>::from_data([3.0], device)))
            .unwrap()
    }

    #[test]
    fn leaves_are_found_by_position_and_by_path() {
        for device in host_devices() {
            let tree = two(&device);
            assert_eq!((tree.len(), tree.num_elements()), (2, 3));
            assert_eq!(tree.leaf(1).0.path, "b");
            assert_eq!(tree.device(), Some(device.clone()));
            let a: Vec<f32> = tree.get::<2>("a").unwrap().try_into_vec_as().unwrap();
            assert_eq!(a, [1.0, 2.0]);
            assert!(matches!(tree.get::<1>("a"), Err(Error::Rank { rank: 2, asked: 1, .. })));
            assert!(matches!(tree.get::<1>("c"), Err(Error::UnknownLeaf { .. })));
            let again = Tree::from_leaves(tree.clone().into_leaves()).unwrap();
            again.same_structure(&tree).unwrap();
        }
        assert!(Tree::empty().is_empty() && Tree::empty().device().is_none());
    }

    #[test]
    fn bad_leaves_are_refused() {
        let device = Device::flex();
        let again = two(&device).push("a", Tensor::<1>::from_data([0.0], &device));
        assert!(matches!(again, Err(Error::DuplicateLeaf { path }) if path == "a"));
        let integers = Tensor::<1, Int>::from_data([1, 2], &device).into_dispatch();
        let tree = Tree::from_leaves([(LeafName::new("i"), integers)]);
        assert!(matches!(tree, Err(Error::NotFloat { path, .. }) if path == "i"));
    }

    #[test]
    fn structures_are_compared_by_name_and_shape() {
        let device = Device::flex();
        let tree = two(&device);
        let other = tree.filter(|name| name.path == "b");
        assert_eq!(
            tree.same_structure(&other).unwrap_err().to_string(),
            "trees differ at leaf 0: `a` on the left, `b` on the right"
        );
        let shorter = tree.filter(|name| name.path == "a");
        assert_eq!(
            tree.same_structure(&shorter).unwrap_err().to_string(),
            "trees differ at leaf 1: `b` on the left, nothing on the right"
        );
        let reshaped = shorter.push("b", Tensor::<2>::from_data([[3.0]], &device)).unwrap();
        assert_eq!(
            tree.same_structure(&reshaped).unwrap_err().to_string(),
            "leaf `b` has shape [1] on the left and [1, 1] on the right"
        );
    }

    #[test]
    fn tracked_tensors_leave_their_tape() {
        let device = Device::flex().autodiff();
        let x = Tensor::<1>::from_data([1.0], &device).require_grad();
        let tree = Tree::empty().push("x", x * 2.0).unwrap();
        assert!(!tree.get::<1>("x").unwrap().is_autodiff());
        assert_eq!(tree.leaf(0).1.dtype(), DType::F32);
    }
}
