//! IMTL-L: every loss is scaled to one.

use core_tensor::transform::State;

use super::adam::Learned;
use super::{LossWeighting, Losses, check_tasks};
use crate::{Method, Result};

/// Weights `e^s` with learned scales `s` that bring every loss to 1.
///
/// $$ L = \sum_i e^{s_i} L_i - s_i, \qquad \partial L/\partial s_i = e^{s_i} L_i - 1 $$
///
/// | parameter | default | range | effect |
/// |---|---|---|---|
/// | `rate` | none; 0.001 to 0.05 | `> 0` | Adam's step for `s` |
///
/// `s` starts at 0 and heads for `−log L_i`. The weights of a step are those before its update. State: `s` and Adam's
/// moments. Combined
/// with gradients balanced by [`ImtlG`](crate::ImtlG) it is IMTL.
///
/// L. Liu et al., "Towards impartial multi-task learning", ICLR 2021, equation 7 with base e.
///
/// ```
/// use multitask::weighting::{ImtlL, Losses, LossWeighting};
///
/// let mut imtl = ImtlL::new(0.1)?;
/// for _ in 0..500 {
///     imtl.weights(&Losses::new(&[0.1, 10.0]))?;
/// }
/// let w = imtl.weights(&Losses::new(&[0.1, 10.0]))?;
/// assert!((w[0] - 10.0).abs() < 0.1 && (w[1] - 0.1).abs() < 0.002, "{w:?}");
/// # Ok::<(), multitask::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct ImtlL {
    s: Learned,
}

impl ImtlL {
    /// Scales that move by `rate`.
    ///
    /// # Errors
    /// [`Error::Parameter`](crate::Error::Parameter) unless `0 < rate < ∞`.
    pub fn new(rate: f64) -> Result<Self> {
        Ok(Self { s: Learned::new(0.0, rate, 0.0)? })
    }
}

impl Method for ImtlL {
    fn name(&self) -> &'static str {
        "imtl_l"
    }

    fn state(&self) -> State {
        self.s.state()
    }

    fn load_state(&mut self, state: State) -> Result<()> {
        self.s.load_state(state)
    }
}

impl LossWeighting for ImtlL {
    fn weights(&mut self, losses: &Losses<'_>) -> Result<Vec<f64>> {
        let tasks = losses.values().len();
        check_tasks(self.name(), self.s.tasks(), tasks)?;
        let finite = losses.finite();
        let s = self.s.values(tasks);
        let weights: Vec<(usize, f64)> = finite.iter().map(|(task, _)| (*task, s[*task].exp())).collect();
        self.s.step(finite.iter().zip(&weights).map(|((task, loss), (_, w))| (*task, w * loss - 1.0)));
        Ok(losses.spread(weights))
    }
}
