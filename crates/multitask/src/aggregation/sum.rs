//! Sum: the gradient of the summed losses.

use crate::{Gramian, GramianAggregator, Method, Result};

/// The sum of the gradients: what one backward pass of the summed losses gives.
///
/// As [`Mean`](crate::Mean), `m` times as long.
///
/// ```
/// use multitask::solvers::Matrix;
/// use multitask::{Gramian, GramianAggregator, Sum};
///
/// let g = Gramian::from_products(&Matrix::symmetric(3, |_, _| 1.0))?;
/// assert_eq!(Sum::new().weights(&g)?, [1.0; 3]);
/// # Ok::<(), multitask::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum;

impl Sum {
    /// The method.
    pub fn new() -> Self {
        Self
    }
}

impl Method for Sum {
    fn name(&self) -> &'static str {
        "sum"
    }
}

impl GramianAggregator for Sum {
    fn weights(&mut self, gramian: &Gramian) -> Result<Vec<f64>> {
        Ok(vec![1.0; gramian.size()])
    }
}
