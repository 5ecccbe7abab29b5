//! UPGrad: no task is made worse, and each counts by its size.

use super::projection::{Projection, projection_settings};
use crate::aggregator::stuck;
use crate::solvers::above;
use crate::{Gramian, GramianAggregator, Method, Result};

/// The mean of the gradients, each projected first on the cone of directions along which no loss grows.
///
/// The first choice where conflicts matter: `Jd ≥ 0`, and a task whose loss is scaled counts for as much more. With the
/// preference `u` (by default `1/m`)
///
/// $$ w = \sum_i \arg\min_v\ v^\top \hat G v \quad\text{with}\quad v \ge u_i e_i, \qquad
/// \hat G = G/\operatorname{tr} G + \mathtt{reg\\_eps}\cdot I $$
///
/// | parameter | default | range | effect |
/// |---|---|---|---|
/// | `preference` | `1/m` each | `≥ 0`, not all 0 | how much each task's projection counts |
/// | `norm_eps` | 1e-4 | `≥ 0` | below this `tr G` the gradients count as zero, and the result is their weighted sum |
/// | `reg_eps` | 1e-4 | `≥ 0` | makes the projection unique; conflicts of relative size `√reg_eps` are tolerated |
///
/// The defaults are TorchJD's. With `norm_eps(0)` the result does not depend on the scale of the gradients, with
/// `reg_eps(0)` it is exact, also for dependent rows. Guarantees (`laws`): non-conflicting, linear under scaling, zero
/// where the
/// gradients are strongly stationary (the three with `reg_eps` 0, else up to it), permutation equivariant. For two
/// tasks with
/// preference 1 it is [`PcGrad`](crate::PcGrad).
///
/// Cost: the Gramian, `m` quadratic programs of `m` unknowns solved exactly, one weighted sum. Errors:
/// [`Error::NoWeights`](crate::Error::NoWeights) if rounding keeps a program from being solved,
/// [`Error::Tasks`](crate::Error::Tasks) for a preference of another length.
///
/// P. Quinton and V. Rey, "Jacobian descent for multi-objective optimization", 2024, arXiv:2406.16232.
///
/// ```
/// use multitask::solvers::Matrix;
/// use multitask::{Gramian, GramianAggregator, UpGrad};
///
/// let g = Matrix::symmetric(2, |i, j| [[18.0, -22.0], [-22.0, 38.0]][i][j]);
/// let w = UpGrad::new().weights(&Gramian::from_products(&g)?)?;
/// assert!((w[0] - 1.1109).abs() < 1e-3 && (w[1] - 0.7894).abs() < 1e-3);
/// # Ok::<(), multitask::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct UpGrad {
    projection: Projection,
}

impl UpGrad {
    /// TorchJD's constants, all tasks alike.
    pub fn new() -> Self {
        Self::default()
    }
}

projection_settings!(UpGrad, "How much each task counts.");

impl Method for UpGrad {
    fn name(&self) -> &'static str {
        "upgrad"
    }
}

impl GramianAggregator for UpGrad {
    fn weights(&mut self, gramian: &Gramian) -> Result<Vec<f64>> {
        let m = gramian.size();
        let (g, preference) = self.projection.program(self.name(), gramian)?;
        let mut weights = vec![0.0; m];
        for (i, u) in preference.iter().enumerate() {
            let mut lower = vec![0.0; m];
            lower[i] = *u;
            let v = above(&g, &lower).map_err(stuck(self.name(), gramian))?;
            weights.iter_mut().zip(v).for_each(|(w, v)| *w += v);
        }
        Ok(weights)
    }
}
