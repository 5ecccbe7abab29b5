//! Equal weights: the baseline.

use super::{LossWeighting, Losses, check_tasks};
use crate::{Method, Result};

/// Weight 1 for every finite loss: their sum.
///
/// The baseline; with tuned constant factors before it, the one that V. Kurin et al., "In defense of the unitary
/// scalarization for
/// deep multi-task learning", NeurIPS 2022, arXiv:2201.04122, could not beat.
///
/// ```
/// use multitask::weighting::{Losses, LossWeighting, Uniform};
///
/// assert_eq!(Uniform::new().weights(&Losses::new(&[2.0, f64::NAN]))?, [1.0, 0.0]);
/// # Ok::<(), multitask::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Uniform;

impl Uniform {
    /// The method.
    pub fn new() -> Self {
        Self
    }
}

impl Method for Uniform {
    fn name(&self) -> &'static str {
        "uniform"
    }
}

impl LossWeighting for Uniform {
    fn weights(&mut self, losses: &Losses<'_>) -> Result<Vec<f64>> {
        check_tasks(self.name(), None, losses.values().len())?;
        Ok(losses.spread(losses.finite().into_iter().map(|(task, _)| (task, 1.0))))
    }
}
