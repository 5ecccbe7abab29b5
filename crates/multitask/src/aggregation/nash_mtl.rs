//! Nash-MTL: the tasks bargain over the step.

use core_tensor::transform::State;

use crate::aggregator::no_weights;
use crate::check::{at_least, positive};
use crate::solvers::power_equations;
use crate::{Gramian, GramianAggregator, Method, Result};

/// The direction that maximises the product of the tasks' progress: the Nash bargaining solution.
///
/// Invariant to the scale of each loss, so no loss has to be weighted by hand; balanced in practice. The weights solve
///
/// $$ G\alpha = 1/\alpha, \qquad d = J^\top \alpha, \quad \lVert d\rVert = \sqrt m $$
///
/// | parameter | default | range | effect |
/// |---|---|---|---|
/// | `max_norm` | none | `> 0` | `d` is shortened to this norm; the authors' code uses 1 |
/// | `update_every` | 1 | `≥ 1` | weights are kept for so many steps (their `update_weights_every`) |
///
/// Newton's method on the convex `½αᵀGα − Σ log α`, on unit gradients, to an error of `10⁻¹²` or, of nearly opposite
/// gradients, to what rounding leaves of their difference, where the authors' iteration
/// of linearised programs stops early and falls back silently. A row of zeros takes no part. Guarantees (`laws`): `α >
/// 0`,
/// the equations hold, permutation equivariant, independent of the scale of every row, for two tasks parallel to
/// [`ImtlG`](crate::ImtlG) and [`ConFig`](crate::ConFig).
///
/// Cost: the Gramian, about ten Newton steps of `m³/3` operations, one weighted sum. State: the step and, between
/// updates, the weights. Errors:
/// [`Error::NoWeights`](crate::Error::NoWeights) where the gradients are Pareto stationary (to `10⁻⁶`): there is
/// nothing left to bargain over.
///
/// A. Navon et al., "Multi-task learning as a bargaining game", ICML 2022, arXiv:2202.01017, claim 3.1.
///
/// ```
/// use multitask::solvers::Matrix;
/// use multitask::{Gramian, GramianAggregator, NashMtl};
///
/// let g = Matrix::symmetric(2, |i, j| [[18.0, -22.0], [-22.0, 38.0]][i][j]);
/// let w = NashMtl::new().weights(&Gramian::from_products(&g)?)?;
/// assert!((w[0] * (18.0 * w[0] - 22.0 * w[1]) - 1.0).abs() < 1e-12);
/// # Ok::<(), multitask::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct NashMtl {
    max_norm: Option<f64>,
    update_every: usize,
    step: u64,
    last: Option<Vec<f64>>,
}

impl Default for NashMtl {
    fn default() -> Self {
        Self { max_norm: None, update_every: 1, step: 0, last: None }
    }
}

impl NashMtl {
    /// The bargaining solution in every step.
    pub fn new() -> Self {
        Self::default()
    }

    /// Shorten the result to a norm.
    ///
    /// # Errors
    /// [`Error::Parameter`](crate::Error::Parameter) unless `0 < max_norm < ∞`.
    pub fn max_norm(self, max_norm: f64) -> Result<Self> {
        Ok(Self { max_norm: Some(positive("max_norm", max_norm)?), ..self })
    }

    /// Keep weights for so many steps.
    ///
    /// # Errors
    /// [`Error::Parameter`](crate::Error::Parameter) for 0.
    pub fn update_every(self, steps: usize) -> Result<Self> {
        Ok(Self { update_every: at_least("update_every", steps, 1, "1 <= update_every")?, ..self })
    }

    fn bargain(&self, gramian: &Gramian) -> Result<Vec<f64>> {
        let mut weights = vec![0.0; gramian.size()];
        let (rows, g) = gramian.without_zeros();
        let norms: Vec<f64> = g.diagonal().iter().map(|x| x.sqrt()).collect();
        // With α = y/‖g‖ the equations are those of the cosines.
        let solution = power_equations(&g.map(|i, j, x| x / (norms[i] * norms[j])), 1.0);
        if !solution.solved() {
            let reason = match solution.unbounded {
                true => "the gradients are Pareto stationary, there is nothing to bargain over",
                false => "Newton's method did not converge",
            };
            return Err(no_weights(self.name(), reason, gramian, solution.residual, solution.iterations));
        }
        for ((i, y), norm) in rows.iter().zip(solution.x).zip(norms) {
            weights[*i] = gramian.unscaled(y / norm, -1);
        }
        Ok(weights)
    }
}

impl Method for NashMtl {
    fn name(&self) -> &'static str {
        "nash_mtl"
    }

    fn state(&self) -> State {
        State::new().with("step", self.step).with("last", self.last.clone())
    }

    fn load_state(&mut self, mut state: State) -> Result<()> {
        let (step, last) = (state.take("step")?, state.take_optional("last")?);
        state.finish()?;
        (self.step, self.last) = (step, last);
        Ok(())
    }
}

impl GramianAggregator for NashMtl {
    fn weights(&mut self, gramian: &Gramian) -> Result<Vec<f64>> {
        let due = self.step.is_multiple_of(self.update_every as u64);
        let mut weights = match &self.last {
            Some(last) if !due => gramian.kept(self.name(), "the state", last)?,
            _ => self.bargain(gramian)?,
        };
        self.step += 1;
        // With an update in every step nothing has to be remembered.
        self.last = (self.update_every > 1).then(|| match &self.last {
            Some(last) if !due => last.clone(),
            _ => gramian.spread(&weights),
        });
        if let Some(max_norm) = self.max_norm {
            // α is as small as the gradients are large; the scaled products need scaled weights.
            let scaled: Vec<f64> = weights.iter().map(|w| gramian.unscaled(*w, 1)).collect();
            let norm = gramian.products().quadratic(&scaled).max(0.0).sqrt();
            if norm > max_norm {
                weights.iter_mut().for_each(|w| *w *= max_norm / norm);
            }
        }
        Ok(weights)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;
    use crate::solvers::Matrix;

    #[test]
    fn weights_are_kept_between_updates() {
        let gramian =
            |a: f64| Gramian::from_products(&Matrix::symmetric(2, |i, j| if i == j { a } else { 0.0 })).unwrap();
        let mut nash = NashMtl::new().update_every(2).unwrap();
        let first = nash.weights(&gramian(4.0)).unwrap();
        assert!((first[0] - 0.5).abs() < 1e-14);
        let mut resumed = NashMtl::new().update_every(2).unwrap();
        resumed.load_state(nash.state()).unwrap();
        assert_eq!(resumed.weights(&gramian(1.0)).unwrap(), first);
        assert_eq!(nash.weights(&gramian(1.0)).unwrap(), first);
        assert!((nash.weights(&gramian(1.0)).unwrap()[0] - 1.0).abs() < 1e-14);
        // The norm is that of the step's own gradients.
        let mut short = NashMtl::new().max_norm(1.0).unwrap();
        assert!((short.weights(&gramian(1e20)).unwrap()[0] - 0.5f64.sqrt() * 1e-10).abs() < 1e-24);
    }

    #[test]
    fn nearly_stationary_gradients_bargain() {
        // Met near the front of the toy landscape: a cosine of −1 + 2·10⁻⁹.
        let rows = [[-0.13993335987089167, 3.286097741322606e-5], [1.3993335987394295, 0.00032860977403056674]];
        let g = Matrix::symmetric(2, |i, j| rows[i][0] * rows[j][0] + rows[i][1] * rows[j][1]);
        let w = NashMtl::new().weights(&Gramian::from_products(&g).unwrap()).unwrap();
        let step = [0, 1].map(|k| w[0] * rows[0][k] + w[1] * rows[1][k]);
        for row in rows {
            let progress = row[0] * step[0] + row[1] * step[1];
            assert!(progress > 0.0, "{step:?}");
        }
        assert!((step[0].hypot(step[1]) - 2f64.sqrt()).abs() < 1e-5, "{step:?}");
    }

    #[test]
    fn opposite_gradients_have_nothing_to_bargain_over() {
        let g = Matrix::symmetric(2, |i, j| [[1.0, -2.0], [-2.0, 4.0]][i][j]);
        let error = NashMtl::new().weights(&Gramian::from_products(&g).unwrap()).unwrap_err();
        assert!(matches!(error, Error::NoWeights { method: "nash_mtl", tasks: 2, condition: f64::INFINITY, .. }));
        assert!(error.to_string().contains("Pareto stationary"), "{error}");
    }
}
