//! Where gradients of many tasks come from.

use core_tensor::Tree;

use crate::gramian::combine;
use crate::{Gramian, Result};

/// The gradients of many tasks, a row a task, seen through what Gramian methods need of them: their inner products, and
/// one weighted sum.
///
/// A slice of trees is one. A source that can compute rows anew need not keep them: it builds the
/// [`Gramian`] part by part and gets `Jᵀw` from one backward pass of the weighted loss.
pub trait Jacobian {
    /// The inner products of the rows.
    ///
    /// # Errors
    /// Those of the source, [`Error::NoTasks`](crate::Error::NoTasks) without rows.
    fn gramian(&self) -> Result<Gramian>;

    /// `Jᵀw`, without a look at rows of weight 0.
    ///
    /// # Errors
    /// Those of the source.
    fn combine(&self, weights: &[f64]) -> Result<Tree>;
}

impl Jacobian for [Tree] {
    fn gramian(&self) -> Result<Gramian> {
        Gramian::of(self)
    }

    fn combine(&self, weights: &[f64]) -> Result<Tree> {
        Ok(combine(self, weights)?)
    }
}

impl Jacobian for Vec<Tree> {
    fn gramian(&self) -> Result<Gramian> {
        Gramian::of(self)
    }

    fn combine(&self, weights: &[f64]) -> Result<Tree> {
        Ok(combine(self, weights)?)
    }
}

/// Weights from the gradients at a shared representation, applied to the gradients of the shared weights.
///
/// The gradient with respect to the features `z` that the body hands its heads is small and cheap; conflicts there
/// stand in
/// for conflicts at the weights (O. Sener and V. Koltun, "Multi-task learning as multi-objective optimization", NeurIPS
/// 2018, arXiv:1810.04650, MGDA-UB, an upper bound). `features` gives the Gramian, `weights` the weighted sum: for the
/// second, one
/// backward pass of `Σ w_i L_i` is enough.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use core_tensor::Tree;
/// use multitask::{GramianAggregator, Mgda, RepresentationOnly};
///
/// let row = |x: [f32; 2]| Tree::empty().push("x", Tensor::<1>::from_data(x, &Device::flex()));
/// let features = [row([1.0, 0.0])?, row([-1.0, 1.0])?];
/// let weights = [row([3.0, 0.0])?, row([0.0, 5.0])?];
/// let jacobian = RepresentationOnly { features: &features[..], weights: &weights[..] };
/// let out = Mgda::new().aggregate_through(&jacobian)?;
/// assert!((out.report.weights.unwrap()[0] - 0.6).abs() < 1e-12);
/// # Ok::<(), multitask::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct RepresentationOnly<'a, F: ?Sized, W: ?Sized> {
    /// The gradients at the representation.
    pub features: &'a F,
    /// The gradients of the shared weights.
    pub weights: &'a W,
}

impl<F: Jacobian + ?Sized, W: Jacobian + ?Sized> Jacobian for RepresentationOnly<'_, F, W> {
    fn gramian(&self) -> Result<Gramian> {
        self.features.gramian()
    }

    fn combine(&self, weights: &[f64]) -> Result<Tree> {
        self.weights.combine(weights)
    }
}
