//! Mean: the baseline that every other method has to beat.

use crate::{Gramian, GramianAggregator, Method, Result};

/// The mean of the gradients: the gradient of the mean loss.
///
/// Always compare with this one, tuned: V. Kurin et al., "In defense of the unitary scalarization for deep multi-task
/// learning",
/// NeurIPS 2022, arXiv:2201.04122, found no method that beats it throughout. Of `m` finite rows each gets the weight
/// `1/m`. Linear
/// under scaling, permutation equivariant (`laws`). No errors.
///
/// ```
/// use multitask::solvers::Matrix;
/// use multitask::{Gramian, GramianAggregator, Mean};
///
/// let g = Gramian::from_products(&Matrix::symmetric(4, |_, _| 1.0))?;
/// assert_eq!(Mean::new().weights(&g)?, [0.25; 4]);
/// # Ok::<(), multitask::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Mean;

impl Mean {
    /// The method.
    pub fn new() -> Self {
        Self
    }
}

impl Method for Mean {
    fn name(&self) -> &'static str {
        "mean"
    }
}

impl GramianAggregator for Mean {
    fn weights(&mut self, gramian: &Gramian) -> Result<Vec<f64>> {
        Ok(vec![1.0 / gramian.size() as f64; gramian.size()])
    }
}
