//! GradVac: gradients are turned towards a similarity seen before.

use core_tensor::Random;
use core_tensor::transform::State;

use crate::check::share;
use crate::{Error, Gramian, GramianAggregator, Method, Result};

/// The sum of the gradients, each turned until its cosine with the others is at least what it has been lately.
///
/// [`PcGrad`](crate::PcGrad) acts on negative cosines only; this one raises positive ones too, towards a moving
/// average `φ̂_ij`
/// of the pair. To each `g_i′` the other original gradients are applied in a random order, and where its cosine `φ`
/// with `g_j` is below
/// `φ̂_ij`
///
/// $$ g_i' \leftarrow g_i' + \frac{\lVert g_i'\rVert\,(\hat\phi\sqrt{1 - \phi^2} - \phi\sqrt{1 - \hat\phi^2})}
/// {\lVert g_j\rVert \sqrt{1 - \hat\phi^2}}\, g_j, \qquad
/// \hat\phi_{ij} \leftarrow (1 - \beta)\hat\phi_{ij} + \beta\phi, \qquad d = \sum_i g_i' $$
///
/// | parameter | default | range | effect |
/// |---|---|---|---|
/// | `seed` | none | any | the orders, new ones in every step |
/// | `beta` | 0.5 | `[0, 1]` | weight of the newest cosine in the average; the paper uses 0.01 |
///
/// The averages start at 0, so the first step is PCGrad's up to the order. Pairs with a row that is zero or not finite
/// leave no
/// trace. To work layer by layer as the paper, put it into [`PerGroup`](crate::PerGroup). Cost: the Gramian, `O(m³)`
/// numbers, one
/// weighted sum. State: the random stream and `m²` averages. Errors: [`Error::Tasks`] if the number of tasks changes.
///
/// Z. Wang, Y. Tsvetkov, O. Firat, Y. Cao, "Gradient vaccine: investigating and improving multi-task optimization in
/// massively multilingual
/// models", ICLR 2021, arXiv:2010.05874, algorithm 1.
///
/// ```
/// use multitask::solvers::Matrix;
/// use multitask::{GradVac, Gramian, GramianAggregator};
///
/// let g = Gramian::from_products(&Matrix::symmetric(2, |i, j| [[1.0, 0.6], [0.6, 1.0]][i][j]))?;
/// let mut vac = GradVac::new(7);
/// assert_eq!(vac.weights(&g)?, [1.0, 1.0]);
/// let apart = Gramian::from_products(&Matrix::symmetric(2, |i, j| [[1.0, 0.0], [0.0, 1.0]][i][j]))?;
/// assert!(vac.weights(&apart)?[0] > 1.3, "turned towards the average 0.3");
/// # Ok::<(), multitask::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct GradVac {
    random: Random,
    beta: f64,
    /// Row by row; none before the first step.
    targets: Option<Vec<f64>>,
}

impl GradVac {
    /// Orders drawn from the stream of a seed, averages of weight 0.5.
    pub fn new(seed: u64) -> Self {
        Self { random: Random::new(seed).fork("gradvac"), beta: 0.5, targets: None }
    }

    /// The weight of the newest cosine.
    ///
    /// # Errors
    /// [`Error::Parameter`] unless `0 <= beta <= 1`.
    pub fn beta(self, beta: f64) -> Result<Self> {
        Ok(Self { beta: share("beta", beta)?, ..self })
    }
}

impl Method for GradVac {
    fn name(&self) -> &'static str {
        "gradvac"
    }

    fn state(&self) -> State {
        State::new().with_nested("random", self.random.state()).with("targets", self.targets.clone())
    }

    fn load_state(&mut self, mut state: State) -> Result<()> {
        let (random, targets) = (state.take_nested("random"), state.take_optional("targets")?);
        state.finish()?;
        self.random.load_state(random)?;
        self.targets = targets;
        Ok(())
    }
}

impl GramianAggregator for GradVac {
    fn weights(&mut self, gramian: &Gramian) -> Result<Vec<f64>> {
        let (m, total, g) = (gramian.size(), gramian.total(), gramian.products());
        let mut targets = self.targets.clone().unwrap_or_else(|| vec![0.0; total * total]);
        if targets.len() != total * total {
            let expected = (targets.len() as f64).sqrt() as usize;
            return Err(Error::Tasks { method: self.name(), what: "the state", expected, actual: total });
        }
        let mut weights = vec![0.0; m];
        for i in 0..m {
            let mut own = vec![0.0; m];
            own[i] = 1.0;
            for j in self.random.permutation(m) {
                let along = g.times(&own);
                let length = along.iter().zip(&own).map(|(x, w)| x * w).sum::<f64>().max(0.0).sqrt();
                let norm = g[(j, j)].sqrt();
                if j == i || !(length > 0.0 && norm > 0.0) {
                    continue;
                }
                let phi = (along[j] / (length * norm)).clamp(-1.0, 1.0);
                let target = &mut targets[gramian.tasks()[i] * total + gramian.tasks()[j]];
                let sine = (1.0 - *target * *target).sqrt();
                // An average of 1 asks for equal directions, which no finite step along g_j reaches.
                if phi < *target && sine > 0.0 {
                    own[j] += length * (*target * (1.0 - phi * phi).sqrt() - phi * sine) / (norm * sine);
                }
                *target = (1.0 - self.beta) * *target + self.beta * phi;
            }
            weights.iter_mut().zip(own).for_each(|(w, own)| *w += own);
        }
        self.targets = Some(targets);
        Ok(weights)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::solvers::Matrix;

    #[test]
    fn the_cosine_reaches_its_target() {
        let g = |c: f64| Gramian::from_products(&Matrix::symmetric(2, |i, j| if i == j { 1.0 } else { c })).unwrap();
        let mut vac = GradVac::new(1).beta(1.0).unwrap();
        vac.weights(&g(0.8)).unwrap();
        // Orthogonal now, but the target is 0.8: g_1′ = g_1 + 0.8/0.6·g_2.
        let w = vac.weights(&g(0.0)).unwrap();
        assert!((w[0] - (1.0 + 0.8 / 0.6)).abs() < 1e-14 && (w[0] - w[1]).abs() < 1e-14, "{w:?}");
        assert!(vac.targets.as_ref().unwrap().iter().all(|t| *t == 0.0));
    }
}
