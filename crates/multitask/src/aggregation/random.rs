//! Random: weights drawn anew in every step.

use burn::tensor::{Distribution, Shape};
use core_tensor::Random;
use core_tensor::transform::State;

use crate::solvers::softmax;
use crate::{Gramian, GramianAggregator, Method, Result};

/// A weighted mean with random weights, the softmax of standard normal numbers.
///
/// A baseline that a method with an idea should beat. Draws a number for every task, also those left out, so that a
/// gradient that is not finite does not change the numbers that follow. Cost: as [`Mean`](crate::Mean). State: the
/// random stream.
///
/// B. Lin, F. Ye, Y. Zhang, I. W. Tsang, "Reasonable effectiveness of random weighting: a litmus test for multi-task
/// learning", TMLR
/// 2022, arXiv:2111.10603 (RGW; as weights of losses it is [`Rlw`](crate::weighting::Rlw)).
///
/// ```
/// use multitask::solvers::Matrix;
/// use multitask::{Gramian, GramianAggregator, RandomWeights};
///
/// let g = Gramian::from_products(&Matrix::symmetric(3, |_, _| 1.0))?;
/// let w = RandomWeights::new(7).weights(&g)?;
/// assert!((w.iter().sum::<f64>() - 1.0).abs() < 1e-15);
/// # Ok::<(), multitask::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct RandomWeights {
    random: Random,
}

impl RandomWeights {
    /// Weights from the stream of a seed.
    pub fn new(seed: u64) -> Self {
        Self { random: Random::new(seed).fork("random weights") }
    }
}

impl Method for RandomWeights {
    fn name(&self) -> &'static str {
        "random"
    }

    fn state(&self) -> State {
        self.random.state()
    }

    fn load_state(&mut self, state: State) -> Result<()> {
        Ok(self.random.load_state(state)?)
    }
}

impl GramianAggregator for RandomWeights {
    fn weights(&mut self, gramian: &Gramian) -> Result<Vec<f64>> {
        let drawn = self.random.draw(Distribution::Normal(0.0, 1.0), Shape::new([gramian.total()]));
        let drawn: Vec<f64> = drawn.iter::<f64>().collect();
        Ok(softmax(&gramian.tasks().iter().map(|task| drawn[*task]).collect::<Vec<_>>()))
    }
}
