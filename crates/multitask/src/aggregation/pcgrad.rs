//! PCGrad: conflicting parts are cut off pair by pair.

use core_tensor::Random;
use core_tensor::transform::State;

use crate::{Gramian, GramianAggregator, Method, Result};

/// The sum of the gradients, each without the parts that conflict with others.
///
/// Simple and popular; for more than two tasks the result may still conflict with some. From each `g_i` the other
/// original gradients
/// are taken in a random order, and where `⟨g_i′, g_j⟩ < 0`
///
/// $$ g_i' \leftarrow g_i' - \frac{\langle g_i', g_j\rangle}{\lVert g_j\rVert^2} g_j, \qquad d = \sum_i g_i' $$
///
/// | parameter | default | range | effect |
/// |---|---|---|---|
/// | `seed` | none | any | the orders, new ones in every step |
///
/// Guarantees (`laws`): for two tasks equal to [`UpGrad`](crate::UpGrad) with preference 1 and `reg_eps` 0, hence
/// non-conflicting. Cost: the Gramian, `O(m³)` numbers, one weighted sum. State: the random stream.
///
/// T. Yu, S. Kumar, A. Gupta, S. Levine, K. Hausman, C. Finn, "Gradient surgery for multi-task learning", NeurIPS 2020,
/// arXiv:2001.06782, algorithm 1.
///
/// ```
/// use multitask::solvers::Matrix;
/// use multitask::{Gramian, GramianAggregator, PcGrad};
///
/// let g = Matrix::symmetric(2, |i, j| [[18.0, -22.0], [-22.0, 38.0]][i][j]);
/// let w = PcGrad::new(7).weights(&Gramian::from_products(&g)?)?;
/// assert!((w[0] - (1.0 + 22.0 / 18.0)).abs() < 1e-15 && (w[1] - (1.0 + 22.0 / 38.0)).abs() < 1e-15);
/// # Ok::<(), multitask::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct PcGrad {
    random: Random,
}

impl PcGrad {
    /// Orders drawn from the stream of a seed.
    pub fn new(seed: u64) -> Self {
        Self { random: Random::new(seed).fork("pcgrad") }
    }
}

impl Method for PcGrad {
    fn name(&self) -> &'static str {
        "pcgrad"
    }

    fn state(&self) -> State {
        self.random.state()
    }

    fn load_state(&mut self, state: State) -> Result<()> {
        Ok(self.random.load_state(state)?)
    }
}

impl GramianAggregator for PcGrad {
    fn weights(&mut self, gramian: &Gramian) -> Result<Vec<f64>> {
        let g = gramian.products();
        let m = gramian.size();
        let mut weights = vec![0.0; m];
        for i in 0..m {
            let mut own = vec![0.0; m];
            own[i] = 1.0;
            for j in self.random.permutation(m) {
                if j == i {
                    continue;
                }
                let product: f64 = g.row(j).iter().zip(&own).map(|(g, w)| g * w).sum();
                if product < 0.0 {
                    own[j] -= product / g[(j, j)];
                }
            }
            weights.iter_mut().zip(own).for_each(|(w, own)| *w += own);
        }
        Ok(weights)
    }
}
