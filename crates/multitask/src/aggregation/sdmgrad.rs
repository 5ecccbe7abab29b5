//! SDMGrad: a common descent direction that stays near the mean, from noisy gradients.

use core_tensor::Tree;
use core_tensor::transform::State;

use super::samples::{self, Carried, Cross};
use crate::check::{at_least, decay, not_negative, positive};
use crate::solvers::{dot, project};
use crate::{Aggregated, Gramian, GramianAggregator, Method, Result};

/// A mixture of [`Mgda`](crate::Mgda)'s direction and the mean, with weights that follow noisy gradients from step to
/// step.
///
/// $$ w \leftarrow \Pi_\Delta\Big(w - \eta\, \hat G\,(w + \lambda \tfrac1m \mathbf 1)\Big) \ \text{repeated}, \qquad
/// d = \frac{J^\top w + \lambda g_0}{1 + \lambda} $$
///
/// with the projection `Π` on the simplex and `Ĝ` the inner products over the square of the mean norm. Between steps
/// `w` is kept.
///
/// | parameter | default | range | effect |
/// |---|---|---|---|
/// | `lambda` | none; the authors' 0.3 | `≥ 0` | pull towards the mean `g₀`; large: the mean |
/// | `iterations` | 20 | `≥ 1` | steps for `w` |
/// | `rate` | 0.5 | `> 0` | `η`; the authors' code has 5, which jumps between corners of the simplex |
/// | `momentum` | 0.5 | `[0, 1)` | heavy-ball term of `η`'s steps, anew in every training step |
///
/// [`aggregate_samples`](Self::aggregate_samples) takes three independent samples, as the paper: with two the estimate
/// of
/// `G` is unbiased, the third is stepped along. As a [`GramianAggregator`] one sample stands for all three.
///
/// Guarantees (`laws`): independent of scale. Cost: the Gramian (of `2m` rows for three samples), `iterations·m²`, one
/// weighted sum. State: `w`. Errors: [`Error::Tasks`](crate::Error::Tasks) if the number of tasks changes.
///
/// P. Xiao, H. Ban, K. Ji, "Direction-oriented multi-objective learning: simple and provable stochastic algorithms",
/// NeurIPS
/// 2023, arXiv:2305.18409, algorithm 1.
///
/// ```
/// use multitask::solvers::Matrix;
/// use multitask::{Gramian, GramianAggregator, SdmGrad};
///
/// let g = Matrix::symmetric(2, |i, j| [[18.0, -22.0], [-22.0, 38.0]][i][j]);
/// let w = SdmGrad::new(0.0)?.weights(&Gramian::from_products(&g)?)?;
/// assert!((w[0] - 0.6).abs() < 1e-3, "without a pull it is MGDA: {w:?}");
/// # Ok::<(), multitask::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct SdmGrad {
    lambda: f64,
    iterations: usize,
    rate: f64,
    momentum: f64,
    w: Option<Vec<f64>>,
}

impl SdmGrad {
    /// A pull of `lambda` towards the mean.
    ///
    /// # Errors
    /// [`Error::Parameter`](crate::Error::Parameter) unless `0 <= lambda < ∞`.
    pub fn new(lambda: f64) -> Result<Self> {
        Ok(Self { lambda: not_negative("lambda", lambda)?, iterations: 20, rate: 0.5, momentum: 0.5, w: None })
    }

    /// Steps for the weights.
    ///
    /// # Errors
    /// [`Error::Parameter`](crate::Error::Parameter) for 0.
    pub fn iterations(self, iterations: usize) -> Result<Self> {
        Ok(Self { iterations: at_least("iterations", iterations, 1, "1 <= iterations")?, ..self })
    }

    /// Size and momentum of the steps for the weights.
    ///
    /// # Errors
    /// [`Error::Parameter`](crate::Error::Parameter) unless `0 < rate < ∞` and `0 <= momentum < 1`.
    pub fn rate(self, rate: f64, momentum: f64) -> Result<Self> {
        Ok(Self { rate: positive("rate", rate)?, momentum: decay("momentum", momentum)?, ..self })
    }

    /// From three independent samples of the gradients: two for the weights, the last to step along.
    ///
    /// # Errors
    /// [`Error::Tasks`](crate::Error::Tasks) if they differ in the number of tasks, those of [`Gramian::of`].
    pub fn aggregate_samples(&mut self, first: &[Tree], second: &[Tree], last: &[Tree]) -> Result<Aggregated> {
        samples::aggregate(self.name(), [first, second, last], |cross, last| self.update(cross, last))
    }

    /// New weights from the products, for the finite rows of `last`.
    fn update(&mut self, cross: &Cross, last: &Gramian) -> Result<Vec<f64>> {
        let carried = Carried::of(self.name(), &self.w, &cross.tasks, cross.total)?;
        let m = cross.tasks.len();
        let g = cross.normalised();
        let mut w = carried.own();
        let mut velocity = vec![0.0; m];
        for _ in 0..self.iterations {
            let target: Vec<f64> = w.iter().map(|w| w + self.lambda / m as f64).collect();
            for (v, row) in velocity.iter_mut().zip(&g) {
                *v = self.momentum * *v + dot(row, &target);
            }
            w = project(&w.iter().zip(&velocity).map(|(w, v)| w - self.rate * v).collect::<Vec<_>>());
        }
        let all = carried.put(&w);
        let weights = Carried::of(self.name(), &Some(all.clone()), last.tasks(), last.total())?.own();
        let share = self.lambda / last.size() as f64;
        self.w = Some(all);
        Ok(weights.iter().map(|w| (w + share) / (1.0 + self.lambda)).collect())
    }
}

impl Method for SdmGrad {
    fn name(&self) -> &'static str {
        "sdmgrad"
    }

    fn state(&self) -> State {
        State::new().with("w", self.w.clone())
    }

    fn load_state(&mut self, mut state: State) -> Result<()> {
        let w = state.take_optional("w")?;
        state.finish()?;
        self.w = w;
        Ok(())
    }
}

impl GramianAggregator for SdmGrad {
    fn weights(&mut self, gramian: &Gramian) -> Result<Vec<f64>> {
        self.update(&Cross::same(gramian), gramian)
    }
}
