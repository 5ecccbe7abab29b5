//! DualProj: the mean gradient, bent until it harms no task.

use super::projection::{Projection, projection_settings};
use crate::aggregator::stuck;
use crate::solvers::above;
use crate::{Gramian, GramianAggregator, Method, Result};

/// The projection of the mean gradient on the cone of directions along which no loss grows.
///
/// Cheaper than [`UpGrad`](crate::UpGrad) (one program instead of `m`), and like it non-conflicting; but a task with a
/// large gradient may keep a small one from counting at all. With the preference `u` (by default `1/m`)
///
/// $$ w = \arg\min_v\ v^\top \hat G v \quad\text{with}\quad v \ge u, \qquad
/// \hat G = G/\operatorname{tr} G + \mathtt{reg\\_eps}\cdot I $$
///
/// | parameter | default | range | effect |
/// |---|---|---|---|
/// | `preference` | `1/m` each | `≥ 0`, not all 0 | weights of the sum that is projected |
/// | `norm_eps` | 1e-4 | `≥ 0` | below this `tr G` the gradients count as zero, and the result is the sum itself |
/// | `reg_eps` | 1e-4 | `≥ 0` | makes the projection unique |
///
/// Guarantees (`laws`): non-conflicting, zero where strongly stationary (both with `reg_eps` 0, else up to it),
/// permutation
/// equivariant. Cost and errors: as UPGrad, with one program.
///
/// D. Lopez-Paz and M. Ranzato, "Gradient episodic memory for continual learning", NeurIPS 2017, arXiv:1706.08840,
/// section
/// 3; named by P. Quinton and V. Rey, arXiv:2406.16232.
///
/// ```
/// use multitask::solvers::Matrix;
/// use multitask::{DualProj, Gramian, GramianAggregator};
///
/// let g = Matrix::symmetric(2, |i, j| [[18.0, -22.0], [-22.0, 38.0]][i][j]);
/// let w = DualProj::new().weights(&Gramian::from_products(&g)?)?;
/// assert!((w[0] - 0.6109).abs() < 1e-4 && w[1] == 0.5);
/// # Ok::<(), multitask::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct DualProj {
    projection: Projection,
}

impl DualProj {
    /// TorchJD's constants, all tasks alike.
    pub fn new() -> Self {
        Self::default()
    }
}

projection_settings!(DualProj, "The weights of the sum that is projected.");

impl Method for DualProj {
    fn name(&self) -> &'static str {
        "dualproj"
    }
}

impl GramianAggregator for DualProj {
    fn weights(&mut self, gramian: &Gramian) -> Result<Vec<f64>> {
        let (g, preference) = self.projection.program(self.name(), gramian)?;
        above(&g, &preference).map_err(stuck(self.name(), gramian))
    }
}
