//! IMTL-G: equal progress along every gradient.

use crate::aggregator::no_weights;
use crate::solvers::{dot, eigen, pseudo_solve};
use crate::{Gramian, GramianAggregator, Method, Result};

/// The combination that has the same projection on every task's gradient.
///
/// Impartial: a task is neither favoured for a large gradient nor for a small one. With the norms `n_i = ‖g_i‖`
///
/// $$ v = G^{+} n, \qquad w = v/\textstyle\sum_i v_i $$
///
/// No parameters. A row of zeros gets the weight 0. Where gradients are dependent the pseudo-inverse gives the
/// shortest solution;
/// eigenvalues below `10⁻¹²` of the largest count as zero. Guarantees (`laws`): permutation equivariant, independent
/// of scale,
/// for two tasks parallel to [`NashMtl`](crate::NashMtl), [`FairGrad`](crate::FairGrad) with `α = 1` and
/// [`ConFig`](crate::ConFig). It may conflict: weights may be negative.
///
/// Cost: the Gramian, its eigenvalues (`O(m³)`), one weighted sum. Errors:
/// [`Error::NoWeights`](crate::Error::NoWeights)
/// where the `v_i` sum to zero, as for opposite gradients.
///
/// L. Liu et al., "Towards impartial multi-task learning", ICLR 2021; for dependent rows P. Quinton and V. Rey,
/// arXiv:2406.16232.
///
/// ```
/// use multitask::solvers::Matrix;
/// use multitask::{Gramian, GramianAggregator, ImtlG};
///
/// let g = Matrix::symmetric(2, |i, j| [[18.0, -22.0], [-22.0, 38.0]][i][j]);
/// let w = ImtlG::new().weights(&Gramian::from_products(&g)?)?;
/// assert!((6.0 * w[1] - 4.0 * w[0] - 0.0767).abs() < 1e-4 && (w[0] + w[1] - 1.0).abs() < 1e-15);
/// # Ok::<(), multitask::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct ImtlG;

impl ImtlG {
    /// The method.
    pub fn new() -> Self {
        Self
    }
}

impl Method for ImtlG {
    fn name(&self) -> &'static str {
        "imtl_g"
    }
}

/// `G⁺n`. Where the rows that are not zero are independent it is `C⁻¹1` over the norms, with the cosines `C`: exact
/// for rows of
/// very different sizes too.
fn equal_projections(gramian: &Gramian) -> Vec<f64> {
    let (rows, g) = gramian.without_zeros();
    let norms: Vec<f64> = g.diagonal().iter().map(|x| x.sqrt()).collect();
    let cosines = eigen(&g.map(|i, j, x| x / (norms[i] * norms[j])));
    let solution: Vec<f64> = match cosines.rank() == rows.len() {
        true => cosines.apply(&vec![1.0; rows.len()], f64::recip).iter().zip(&norms).map(|(x, n)| x / n).collect(),
        false => pseudo_solve(&g, &norms),
    };
    let mut v = vec![0.0; gramian.size()];
    rows.iter().zip(solution).for_each(|(i, x)| v[*i] = x);
    v
}

impl GramianAggregator for ImtlG {
    fn weights(&mut self, gramian: &Gramian) -> Result<Vec<f64>> {
        let g = gramian.products();
        if g.trace() <= 0.0 {
            return Ok(vec![0.0; gramian.size()]);
        }
        let v = equal_projections(gramian);
        let sum: f64 = v.iter().sum();
        let size = dot(&v, &v).sqrt();
        match sum.abs() > 1e-12 * size {
            true => Ok(v.iter().map(|v| v / sum).collect()),
            false => {
                let reason = "no combination has equal projections (the solution's weights sum to zero)";
                Err(no_weights(self.name(), reason, gramian, sum.abs() / size.max(f64::MIN_POSITIVE), 0))
            }
        }
    }
}
