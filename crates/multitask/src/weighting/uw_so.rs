//! UW-SO: the uncertainty's closed form, softened.

use super::{LossWeighting, Losses, check_tasks};
use crate::check::positive;
use crate::solvers::softmax;
use crate::{Method, Result};

/// The softmax of the inverse losses.
///
/// [`Uncertainty`](super::Uncertainty)'s weights at their optimum are `1/L_i`; taken directly they overfit less and
/// have no
/// inertia, and the softmax tames tiny losses.
///
/// $$ w_i = \frac{e^{(1/L_i)/T}}{\sum_j e^{(1/L_j)/T}} $$
///
/// | parameter | default | range | effect |
/// |---|---|---|---|
/// | `temperature` | none; tuned, 1 to 100 | `> 0` | large: equal weights; small: all on the smallest loss |
///
/// No state. Errors: [`Error::Loss`](crate::Error::Loss) for a loss of 0 or below.
///
/// L. Kirchdorfer et al., "Analytical uncertainty-based loss weighting in multi-task learning", GCPR 2024,
/// arXiv:2408.07985.
///
/// ```
/// use multitask::weighting::{Losses, LossWeighting, UwSo};
///
/// let w = UwSo::new(1.0)?.weights(&Losses::new(&[1.0, 0.5]))?;
/// assert!((w[1] / w[0] - 1f64.exp()).abs() < 1e-14);
/// # Ok::<(), multitask::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct UwSo {
    temperature: f64,
}

impl UwSo {
    /// Softened by a temperature.
    ///
    /// # Errors
    /// [`Error::Parameter`](crate::Error::Parameter) unless `0 < temperature < ∞`.
    pub fn new(temperature: f64) -> Result<Self> {
        Ok(Self { temperature: positive("temperature", temperature)? })
    }
}

impl Method for UwSo {
    fn name(&self) -> &'static str {
        "uw_so"
    }
}

impl LossWeighting for UwSo {
    fn weights(&mut self, losses: &Losses<'_>) -> Result<Vec<f64>> {
        check_tasks(self.name(), None, losses.values().len())?;
        let finite = losses.positive(self.name())?;
        // An inverse beyond the range of numbers is as good as the largest.
        let scores = finite.iter().map(|(_, loss)| (1.0 / loss / self.temperature).min(f64::MAX));
        let weights = softmax(&scores.collect::<Vec<_>>());
        Ok(losses.spread(finite.iter().map(|(task, _)| *task).zip(weights)))
    }
}
