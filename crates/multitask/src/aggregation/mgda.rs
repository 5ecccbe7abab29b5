//! MGDA: the shortest vector between the gradients.

use crate::aggregator::stuck;
use crate::solvers::min_norm_point;
use crate::{Gramian, GramianAggregator, Method, Result};

/// The point of smallest norm in the convex hull of the gradients.
///
/// The classic with a guarantee for every task: `⟨g_i, d⟩ ≥ ‖d‖²` for all of them, and `d = 0` exactly at Pareto
/// stationary points. The smallest gradient dominates, so a task that is nearly done stops the others: bring losses to
/// one scale
/// first.
///
/// $$ w = \arg\min_w\ w^\top G w \quad\text{with}\quad w \ge 0,\ \textstyle\sum_i w_i = 1 $$
///
/// Exact, by active sets, where peers stop Frank-Wolfe steps at `10⁻³` or clip them. No parameters. Guarantees
/// (`laws`):
/// non-conflicting, zero where strongly stationary, permutation equivariant, independent of scale. A zero row makes
/// the result zero.
///
/// Cost: the Gramian, one quadratic program of `m` unknowns, one weighted sum. Errors:
/// [`Error::NoWeights`](crate::Error::NoWeights) if rounding keeps the program from being solved.
///
/// J.-A. Désidéri, "Multiple-gradient descent algorithm (MGDA) for multiobjective optimization", 2012; O. Sener and V.
/// Koltun,
/// "Multi-task learning as multi-objective optimization", NeurIPS 2018, arXiv:1810.04650.
///
/// ```
/// use multitask::solvers::Matrix;
/// use multitask::{Gramian, GramianAggregator, Mgda};
///
/// let g = Matrix::symmetric(2, |i, j| [[18.0, -22.0], [-22.0, 38.0]][i][j]);
/// let w = Mgda::new().weights(&Gramian::from_products(&g)?)?;
/// assert!((w[0] - 0.6).abs() < 1e-15 && (w[1] - 0.4).abs() < 1e-15);
/// # Ok::<(), multitask::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Mgda;

impl Mgda {
    /// The method.
    pub fn new() -> Self {
        Self
    }
}

impl Method for Mgda {
    fn name(&self) -> &'static str {
        "mgda"
    }
}

impl GramianAggregator for Mgda {
    fn weights(&mut self, gramian: &Gramian) -> Result<Vec<f64>> {
        min_norm_point(gramian.products()).map_err(stuck(self.name(), gramian))
    }
}
