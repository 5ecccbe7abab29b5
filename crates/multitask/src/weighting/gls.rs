//! GLS: the geometric mean of the losses.

use super::{LossWeighting, Losses, check_tasks};
use crate::{Method, Result};

/// Weights whose sum of gradients is the gradient of the geometric mean.
///
/// Scale-free: a loss multiplied by a constant changes nothing but the length of the step.
///
/// $$ L = \Big(\prod_i L_i\Big)^{1/K}, \qquad w_i = \frac{L}{K\, L_i} $$
///
/// No parameters, no state. Errors: [`Error::Loss`](crate::Error::Loss) for a loss of 0 or below.
///
/// S. Chennupati, G. Sistu, S. Yogamani, S. A. Rawashdeh, "MultiNet++: multi-stream feature aggregation and geometric
/// loss
/// strategy for multi-task learning", CVPR Workshops 2019, arXiv:1904.08492.
///
/// ```
/// use multitask::weighting::{Gls, Losses, LossWeighting};
///
/// let w = Gls::new().weights(&Losses::new(&[1.0, 4.0]))?;
/// assert!((w[0] - 1.0).abs() < 1e-15 && (w[1] - 0.25).abs() < 1e-15);
/// # Ok::<(), multitask::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Gls;

impl Gls {
    /// The method.
    pub fn new() -> Self {
        Self
    }
}

impl Method for Gls {
    fn name(&self) -> &'static str {
        "gls"
    }
}

impl LossWeighting for Gls {
    fn weights(&mut self, losses: &Losses<'_>) -> Result<Vec<f64>> {
        check_tasks(self.name(), None, losses.values().len())?;
        let finite = losses.positive(self.name())?;
        let count = finite.len() as f64;
        // By logarithms, for a product of many losses leaves the range of numbers.
        let mean = finite.iter().map(|(_, loss)| loss.ln()).sum::<f64>() / count;
        Ok(losses.spread(finite.iter().map(|(task, loss)| (*task, (mean - loss.ln()).exp() / count))))
    }
}
