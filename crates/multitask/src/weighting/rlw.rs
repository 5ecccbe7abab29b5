//! RLW: random weights.

use burn::tensor::{Distribution, Shape};
use core_tensor::Random;
use core_tensor::transform::State;

use super::{LossWeighting, Losses, check_tasks};
use crate::solvers::softmax;
use crate::{Method, Result};

/// Weights drawn anew in every step, the softmax of standard normal numbers.
///
/// A litmus test: what does not beat it has learnt nothing. State: the random stream; a loss that is not finite does
/// not change
/// the numbers that follow.
///
/// B. Lin, F. Ye, Y. Zhang, I. W. Tsang, "Reasonable effectiveness of random weighting: a litmus test for multi-task
/// learning", TMLR
/// 2022, arXiv:2111.10603.
///
/// ```
/// use multitask::weighting::{Losses, LossWeighting, Rlw};
///
/// let w = Rlw::new(7).weights(&Losses::new(&[1.0, 2.0, 3.0]))?;
/// assert!((w.iter().sum::<f64>() - 1.0).abs() < 1e-15);
/// # Ok::<(), multitask::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Rlw {
    random: Random,
}

impl Rlw {
    /// Weights from the stream of a seed.
    pub fn new(seed: u64) -> Self {
        Self { random: Random::new(seed).fork("rlw") }
    }
}

impl Method for Rlw {
    fn name(&self) -> &'static str {
        "rlw"
    }

    fn state(&self) -> State {
        self.random.state()
    }

    fn load_state(&mut self, state: State) -> Result<()> {
        Ok(self.random.load_state(state)?)
    }
}

impl LossWeighting for Rlw {
    fn weights(&mut self, losses: &Losses<'_>) -> Result<Vec<f64>> {
        let tasks = losses.values().len();
        check_tasks(self.name(), None, tasks)?;
        let drawn = self.random.draw(Distribution::Normal(0.0, 1.0), Shape::new([tasks]));
        let drawn: Vec<f64> = drawn.iter::<f64>().collect();
        let finite = losses.finite();
        let weights = softmax(&finite.iter().map(|(task, _)| drawn[*task]).collect::<Vec<_>>());
        Ok(losses.spread(finite.iter().map(|(task, _)| *task).zip(weights)))
    }
}
