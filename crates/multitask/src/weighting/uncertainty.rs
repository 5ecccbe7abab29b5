//! Uncertainty weighting: the noise of each task is learned.

use core_tensor::transform::State;

use super::adam::Learned;
use super::{LossWeighting, Losses, check_tasks};
use crate::{Method, Result};

/// Weights `½e^(−s)` with the learned log-variance `s` of each task.
///
/// The likelihood of Gaussian outputs with a noise of their own: tasks that cannot be fitted well count less.
///
/// $$ L = \sum_i \tfrac12 e^{-s_i} L_i + \tfrac12 s_i, \qquad \partial L/\partial s_i = \tfrac12 - \tfrac12 e^{-s_i} L_i $$
///
/// | parameter | default | range | effect |
/// |---|---|---|---|
/// | `rate` | none; 0.001 to 0.05 | `> 0` | Adam's step for `s` |
///
/// `s` starts at 0 and heads for `log L_i`, where every weighted loss is ½. The weights of a step are those before its
/// update, as if `s` were
/// among the model's parameters. State: `s` and Adam's moments. [`UwSo`](super::UwSo) is the closed form without
/// learning.
///
/// A. Kendall, Y. Gal, R. Cipolla, "Multi-task learning using uncertainty to weigh losses for scene geometry and
/// semantics",
/// CVPR 2018, arXiv:1705.07115, equation 7.
///
/// ```
/// use multitask::weighting::{Losses, LossWeighting, Uncertainty};
///
/// let mut uncertainty = Uncertainty::new(0.1)?;
/// for _ in 0..500 {
///     uncertainty.weights(&Losses::new(&[0.1, 10.0]))?;
/// }
/// let w = uncertainty.weights(&Losses::new(&[0.1, 10.0]))?;
/// assert!((w[0] - 5.0).abs() < 0.05 && (w[1] - 0.05).abs() < 0.001, "{w:?}");
/// # Ok::<(), multitask::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Uncertainty {
    s: Learned,
}

impl Uncertainty {
    /// Log-variances that move by `rate`.
    ///
    /// # Errors
    /// [`Error::Parameter`](crate::Error::Parameter) unless `0 < rate < ∞`.
    pub fn new(rate: f64) -> Result<Self> {
        Ok(Self { s: Learned::new(0.0, rate, 0.0)? })
    }
}

impl Method for Uncertainty {
    fn name(&self) -> &'static str {
        "uncertainty"
    }

    fn state(&self) -> State {
        self.s.state()
    }

    fn load_state(&mut self, state: State) -> Result<()> {
        self.s.load_state(state)
    }
}

impl LossWeighting for Uncertainty {
    fn weights(&mut self, losses: &Losses<'_>) -> Result<Vec<f64>> {
        let tasks = losses.values().len();
        check_tasks(self.name(), self.s.tasks(), tasks)?;
        let finite = losses.finite();
        let s = self.s.values(tasks);
        let weights: Vec<(usize, f64)> = finite.iter().map(|(task, _)| (*task, 0.5 * (-s[*task]).exp())).collect();
        self.s.step(finite.iter().zip(&weights).map(|((task, loss), (_, w))| (*task, 0.5 - w * loss)));
        Ok(losses.spread(weights))
    }
}
