//! A tree as one vector.

use core_tensor::Tree;

use super::Compressor;
use crate::error::Result;

/// Compresses the whole tree as one tensor: one norm, one budget of elements for all leaves.
///
/// The vector has the widest dtype of the leaves ([`Tree::flatten`]). Cost: two copies besides the compressor.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use core_tensor::Tree;
/// use mixed_precision::{Compressor, Flat, Keep, TopK};
///
/// let tree = Tree::empty()
///     .push("a", Tensor::<1>::from_data([3.0, -5.0], &Device::flex()))?
///     .push("b", Tensor::<1>::from_data([0.5], &Device::flex()))?;
/// let top = Flat::new(TopK::new(Keep::Count(1))?);
/// assert_eq!(top.compress(0, tree)?.norm_p(1.0)?.value(), 5.0);
/// # Ok::<(), mixed_precision::Error>(())
/// ```
///
/// # Errors
/// [`compress`](Compressor::compress) fails with [`core_tensor::Error::Device`] if the leaves are on several devices.
#[derive(Clone, Copy, Debug)]
pub struct Flat<C>(C);

impl<C: Compressor> Flat<C> {
    /// The compressor on the tree as one vector.
    pub fn new(compressor: C) -> Self {
        Self(compressor)
    }
}

impl<C: Compressor> Compressor for Flat<C> {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn compress(&self, step: u64, tree: Tree) -> Result<Tree> {
        let vector = Tree::empty().push("tree", tree.flatten()?)?;
        let vector = self.0.compress(step, vector)?.get::<1>("tree")?;
        Ok(tree.unflatten(vector)?)
    }

    fn omega(&self, d: usize) -> Option<f64> {
        self.0.omega(d)
    }

    fn delta(&self, d: usize) -> Option<f64> {
        self.0.delta(d)
    }

    fn bits(&self, d: usize) -> f64 {
        self.0.bits(d)
    }

    fn omega_of(&self, tree: &Tree) -> Option<f64> {
        self.0.omega(tree.num_elements())
    }

    fn delta_of(&self, tree: &Tree) -> Option<f64> {
        self.0.delta(tree.num_elements())
    }

    fn bits_of(&self, tree: &Tree) -> f64 {
        self.0.bits(tree.num_elements())
    }
}
