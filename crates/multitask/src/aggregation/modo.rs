//! MoDo: MGDA's weights, followed with two independent samples.

use core_tensor::Tree;
use core_tensor::transform::State;

use super::samples::{self, Carried, Cross};
use crate::check::{not_negative, positive};
use crate::solvers::project;
use crate::{Aggregated, Gramian, GramianAggregator, Method, Result};

/// Weights that make one projected gradient step towards [`Mgda`](crate::Mgda)'s in each training step, free of the
/// bias that one
/// noisy sample brings.
///
/// $$ \lambda \leftarrow \Pi_\Delta\big(\lambda - \gamma\,(J_1 J_2^\top \lambda + \rho\lambda)\big), \qquad d = J_3^\top \lambda $$
///
/// | parameter | default | range | effect |
/// |---|---|---|---|
/// | `gamma` | none; 0.001 to 0.1 | `> 0` | step of the weights, in units of one over a squared norm; towards 0 the mean |
/// | `rho` | 0 | `≥ 0` | regularisation towards equal weights |
///
/// [`aggregate_samples`](Self::aggregate_samples) takes the samples; the third may be one of the other two. As a
/// [`GramianAggregator`] one sample stands for all three. Depends on the scale of the gradients through `gamma`.
///
/// Cost: the Gramian (of `2m` rows for several samples), one weighted sum. State: `λ`. Errors:
/// [`Error::Tasks`](crate::Error::Tasks) if the number of tasks changes.
///
/// L. Chen, H. Fernando, Y. Ying, T. Chen, "Three-way trade-off in multi-objective learning: optimization,
/// generalization and
/// conflict-avoidance", NeurIPS 2023, arXiv:2305.20057, algorithm 2.
///
/// ```
/// use multitask::solvers::Matrix;
/// use multitask::{Gramian, GramianAggregator, MoDo};
///
/// let g = Gramian::from_products(&Matrix::symmetric(2, |i, j| [[18.0, -22.0], [-22.0, 38.0]][i][j]))?;
/// let mut modo = MoDo::new(0.01)?;
/// for _ in 0..100 {
///     modo.weights(&g)?;
/// }
/// assert!((modo.weights(&g)?[0] - 0.6).abs() < 1e-6, "on the way to MGDA's 0.6, 0.4");
/// # Ok::<(), multitask::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct MoDo {
    gamma: f64,
    rho: f64,
    lambda: Option<Vec<f64>>,
}

impl MoDo {
    /// Steps of `gamma` for the weights.
    ///
    /// # Errors
    /// [`Error::Parameter`](crate::Error::Parameter) unless `0 < gamma < ∞`.
    pub fn new(gamma: f64) -> Result<Self> {
        Ok(Self { gamma: positive("gamma", gamma)?, rho: 0.0, lambda: None })
    }

    /// Regularisation towards equal weights.
    ///
    /// # Errors
    /// [`Error::Parameter`](crate::Error::Parameter) unless `0 <= rho < ∞`.
    pub fn rho(self, rho: f64) -> Result<Self> {
        Ok(Self { rho: not_negative("rho", rho)?, ..self })
    }

    /// From three samples of the gradients: two independent ones for the weights, the last to step along.
    ///
    /// # Errors
    /// [`Error::Tasks`](crate::Error::Tasks) if they differ in the number of tasks, those of [`Gramian::of`].
    pub fn aggregate_samples(&mut self, first: &[Tree], second: &[Tree], last: &[Tree]) -> Result<Aggregated> {
        samples::aggregate(self.name(), [first, second, last], |cross, last| self.update(cross, last))
    }

    fn update(&mut self, cross: &Cross, last: &Gramian) -> Result<Vec<f64>> {
        let carried = Carried::of(self.name(), &self.lambda, &cross.tasks, cross.total)?;
        let own = carried.own();
        let slopes = cross.times(&own);
        // Steps that leave the range say that gamma is far too large for these gradients: they lead to a corner.
        let step = |slope: f64, w: f64| (self.gamma * (slope + self.rho * w)).clamp(-1e100, 1e100);
        let moved: Vec<f64> = own.iter().zip(slopes).map(|(w, slope)| w - step(slope, *w)).collect();
        let lambda = carried.put(&project(&moved));
        let weights = Carried::of(self.name(), &Some(lambda.clone()), last.tasks(), last.total())?.own();
        self.lambda = Some(lambda);
        Ok(weights)
    }
}

impl Method for MoDo {
    fn name(&self) -> &'static str {
        "modo"
    }

    fn state(&self) -> State {
        State::new().with("lambda", self.lambda.clone())
    }

    fn load_state(&mut self, mut state: State) -> Result<()> {
        let lambda = state.take_optional("lambda")?;
        state.finish()?;
        self.lambda = lambda;
        Ok(())
    }
}

impl GramianAggregator for MoDo {
    fn weights(&mut self, gramian: &Gramian) -> Result<Vec<f64>> {
        self.update(&Cross::same(gramian), gramian)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, Tensor};
    use core_tensor::Random;

    /// Expected gradients (1, 0) and (−1, 1) under noise of deviation 2: one sample used twice sees the noise's
    /// variance on the
    /// diagonal and is drawn to equal weights; two samples find MGDA's 0.6, 0.4.
    #[test]
    fn two_samples_are_free_of_the_noise() {
        let device = Device::flex();
        let mut random = Random::new(3);
        let mut sample = || -> Vec<Tree> {
            [[1.0f32, 0.0], [-1.0, 1.0]]
                .iter()
                .map(|mean| {
                    let noise = random.normal::<1>([2], 0.0, 2.0, &device);
                    Tree::empty().push("x", Tensor::<1>::from_data(*mean, &device) + noise).unwrap()
                })
                .collect()
        };
        let (mut two, mut one) = (MoDo::new(0.002).unwrap(), MoDo::new(0.002).unwrap());
        let (mut mean_two, mut mean_one) = (0.0, 0.0);
        for step in 0..6000 {
            let (a, b) = (sample(), sample());
            let first = two.aggregate_samples(&a, &b, &a).unwrap().report.weights.unwrap()[0];
            let second = one.aggregate_through(&a).unwrap().report.weights.unwrap()[0];
            if step >= 1000 {
                (mean_two, mean_one) = (mean_two + first / 5000.0, mean_one + second / 5000.0);
            }
        }
        assert!((mean_two - 0.6).abs() < 0.03, "{mean_two}");
        assert!((mean_one - 0.6).abs() > 0.05, "{mean_one}");
        let short = two.aggregate_samples(&sample(), &sample()[..1], &sample());
        assert!(matches!(short, Err(crate::Error::Tasks { expected: 2, actual: 1, .. })));
    }
}
