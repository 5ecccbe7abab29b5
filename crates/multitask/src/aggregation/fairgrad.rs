//! FairGrad: α-fair progress.

use crate::aggregator::no_weights;
use crate::check::positive;
use crate::solvers::power_equations;
use crate::{Gramian, GramianAggregator, Method, Result};

/// The direction of α-fair progress: from the sum's (`α → 0`) by way of Nash bargaining (`α = 1`) to the slowest task's
/// (`α → ∞`).
///
/// One knob between efficiency and fairness. The weights solve
///
/// $$ G w = w^{-1/\alpha}, \qquad d = J^\top w $$
///
/// | parameter | default | range | effect |
/// |---|---|---|---|
/// | `alpha` | none; 1 to 2 in the paper | `> 0` | fairness: 1 proportional, 2 minimal delay, large max-min |
///
/// Newton's method on a convex function to an error of `10⁻¹²` or, of nearly opposite gradients, to what rounding leaves of
/// their difference. A row of zeros takes no part. Guarantees (`laws`): `w
/// > 0`,
/// the equations hold, permutation equivariant; `α = 1` is [`NashMtl`](crate::NashMtl).
///
/// Cost: the Gramian, some ten Newton steps of `m³/3` operations, one weighted sum. Errors:
/// [`Error::NoWeights`](crate::Error::NoWeights) where the gradients are Pareto stationary (to `10⁻⁶`).
///
/// H. Ban and K. Ji, "Fair resource allocation in multi-task learning", ICML 2024, arXiv:2402.15638, equation 5.
///
/// ```
/// use multitask::solvers::Matrix;
/// use multitask::{FairGrad, Gramian, GramianAggregator};
///
/// let g = Matrix::symmetric(2, |i, j| [[18.0, -22.0], [-22.0, 38.0]][i][j]);
/// let w = FairGrad::new(2.0)?.weights(&Gramian::from_products(&g)?)?;
/// assert!(((18.0 * w[0] - 22.0 * w[1]) * w[0].sqrt() - 1.0).abs() < 1e-12);
/// # Ok::<(), multitask::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct FairGrad {
    alpha: f64,
}

impl FairGrad {
    /// Fairness `alpha`.
    ///
    /// # Errors
    /// [`Error::Parameter`](crate::Error::Parameter) unless `0 < alpha < ∞`.
    pub fn new(alpha: f64) -> Result<Self> {
        Ok(Self { alpha: positive("alpha", alpha)? })
    }
}

impl Method for FairGrad {
    fn name(&self) -> &'static str {
        "fairgrad"
    }
}

impl GramianAggregator for FairGrad {
    fn weights(&mut self, gramian: &Gramian) -> Result<Vec<f64>> {
        let p = 1.0 / self.alpha;
        let mut weights = vec![0.0; gramian.size()];
        let (rows, g) = gramian.without_zeros();
        let solution = power_equations(&g, p);
        if !solution.solved() {
            let reason = match solution.unbounded {
                true => "the gradients are Pareto stationary, no step is progress for all",
                false => "Newton's method did not converge",
            };
            return Err(no_weights(self.name(), reason, gramian, solution.residual, solution.iterations));
        }
        // 4^e·G·w = w^(−p) for w = 4^(−e/(1 + p))·x
        let factor = (-2.0 * f64::from(gramian.exponent()) / (1.0 + p)).exp2();
        rows.iter().zip(solution.x).for_each(|(i, x)| weights[*i] = factor * x);
        Ok(weights)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::solvers::Matrix;

    #[test]
    fn fairness_moves_progress_to_the_slow_task() {
        let g = Matrix::symmetric(2, |i, j| [[1.0, 0.2], [0.2, 100.0]][i][j]);
        let gramian = Gramian::from_products(&g).unwrap();
        let mut last = 0.0;
        for alpha in [0.1, 0.5, 1.0, 2.0, 10.0] {
            let w = FairGrad::new(alpha).unwrap().weights(&gramian).unwrap();
            let progress = g.times(&w);
            for (progress, w) in progress.iter().zip(&w) {
                assert!((progress * w.powf(1.0 / alpha) - 1.0).abs() < 1e-9);
            }
            let share = progress[0] / progress[1];
            assert!(share > last && share < 1.0, "{alpha}: {share}");
            last = share;
        }
        assert!(last > 0.5);
        assert!(FairGrad::new(0.0).is_err() && FairGrad::new(f64::NAN).is_err());
    }
}
