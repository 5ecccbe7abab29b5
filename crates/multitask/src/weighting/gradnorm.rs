//! GradNorm: tasks train at equal rates.

use core_tensor::transform::State;

use super::adam::Learned;
use super::{LossWeighting, Losses, check_tasks};
use crate::check::not_negative;
use crate::{Error, Method, Result};

/// Weights learned such that the weighted gradient norms follow how far each task lags behind.
///
/// With the norms `n_i` of the gradients at the last shared weights, `G_i = w_i n_i`, their mean `Ḡ`, and the inverse
/// training rate `r_i`, the loss ratio `L_i(t)/L_i(0)` over its mean
///
/// $$ L_w = \sum_i \big|\, G_i - \bar G r_i^\alpha \,\big|, \qquad \sum_i w_i = K $$
///
/// where the target `Ḡ r_i^α` is constant.
///
/// | parameter | default | range | effect |
/// |---|---|---|---|
/// | `alpha` | none; the paper's 1.5 | `≥ 0` | how strongly slow tasks are pulled; 0: equal norms |
/// | `rate` | none; the paper's 0.025 | `> 0` | Adam's step for the weights |
///
/// Weights start at 1 and stay at `10⁻⁸` or above. The weights of a step are those before its update. State: weights,
/// Adam's moments and the first losses.
/// Errors: [`Error::Missing`] without [`Losses::with_gradient_norms`], [`Error::Loss`] for a loss of 0 or below.
///
/// Z. Chen, V. Badrinarayanan, C.-Y. Lee, A. Rabinovich, "GradNorm: gradient normalization for adaptive loss balancing
/// in deep
/// multitask networks", ICML 2018, arXiv:1711.02257, algorithm 1.
///
/// ```
/// use multitask::weighting::{GradNorm, Losses, LossWeighting};
///
/// let mut gradnorm = GradNorm::new(0.0, 0.01)?;
/// let losses = Losses::new(&[1.0, 1.0]).with_gradient_norms(&[1.0, 3.0]);
/// for _ in 0..300 {
///     gradnorm.weights(&losses)?;
/// }
/// let w = gradnorm.weights(&losses)?;
/// assert!((w[0] - 3.0 * w[1]).abs() < 0.1 && (w[0] + w[1] - 2.0).abs() < 1e-12, "equal norms: {w:?}");
/// # Ok::<(), multitask::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct GradNorm {
    alpha: f64,
    weights: Learned,
    /// NaN where no finite loss was seen.
    first_losses: Vec<f64>,
}

impl GradNorm {
    /// Pull `alpha`, and weights that move by `rate`.
    ///
    /// # Errors
    /// [`Error::Parameter`] unless `0 <= alpha < ∞` and `0 < rate < ∞`.
    pub fn new(alpha: f64, rate: f64) -> Result<Self> {
        let alpha = not_negative("alpha", alpha)?;
        Ok(Self { alpha, weights: Learned::new(1.0, rate, 0.0)?, first_losses: vec![] })
    }
}

impl Method for GradNorm {
    fn name(&self) -> &'static str {
        "gradnorm"
    }

    fn state(&self) -> State {
        State::new().with_nested("weights", self.weights.state()).with("first_losses", self.first_losses.clone())
    }

    fn load_state(&mut self, mut state: State) -> Result<()> {
        let (weights, first_losses) = (state.take_nested("weights"), state.take("first_losses")?);
        state.finish()?;
        self.weights.load_state(weights)?;
        self.first_losses = first_losses;
        Ok(())
    }
}

impl LossWeighting for GradNorm {
    fn weights(&mut self, losses: &Losses<'_>) -> Result<Vec<f64>> {
        let (method, tasks) = (self.name(), losses.values().len());
        check_tasks(method, self.weights.tasks(), tasks)?;
        let Some(norms) = losses.gradient_norms() else {
            let (what, hint) = ("the norms of the losses' gradients", "give them by Losses::with_gradient_norms");
            return Err(Error::Missing { method, what, hint });
        };
        check_tasks(method, Some(tasks), norms.len())?;
        let finite: Vec<(usize, f64)> =
            losses.positive(method)?.into_iter().filter(|(task, _)| norms[*task].is_finite()).collect();
        let values = self.weights.values(tasks);
        let weights: Vec<(usize, f64)> = finite.iter().map(|(task, _)| (*task, values[*task])).collect();
        self.first_losses.resize(tasks, f64::NAN);
        for (task, loss) in &finite {
            if self.first_losses[*task].is_nan() {
                self.first_losses[*task] = *loss;
            }
        }
        if finite.is_empty() {
            return Ok(losses.spread(weights));
        }
        let count = finite.len() as f64;
        let ratios: Vec<f64> = finite.iter().map(|(task, loss)| loss / self.first_losses[*task]).collect();
        let mean_ratio = ratios.iter().sum::<f64>() / count;
        let mean_norm = weights.iter().map(|(task, w)| w * norms[*task]).sum::<f64>() / count;
        let slopes = weights.iter().zip(&ratios).map(|((task, w), ratio)| {
            let target = mean_norm * (ratio / mean_ratio).powf(self.alpha);
            let off = w * norms[*task] - target;
            // At its target a weight stands still.
            (*task, if off == 0.0 { 0.0 } else { off.signum() * norms[*task] })
        });
        self.weights.step(slopes.collect::<Vec<_>>());
        let values = self.weights.values(tasks);
        values.iter_mut().for_each(|w| *w = w.max(1e-8));
        let sum: f64 = values.iter().sum();
        values.iter_mut().for_each(|w| *w *= tasks as f64 / sum);
        Ok(losses.spread(weights))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_task_that_lags_gains() {
        let mut gradnorm = GradNorm::new(1.5, 0.01).unwrap();
        let norms = [1.0, 1.0];
        gradnorm.weights(&Losses::new(&[2.0, 4.0]).with_gradient_norms(&norms)).unwrap();
        // The first fell to a half, the second stands.
        for _ in 0..20 {
            gradnorm.weights(&Losses::new(&[1.0, 4.0]).with_gradient_norms(&norms)).unwrap();
        }
        let w = gradnorm.weights(&Losses::new(&[1.0, 4.0]).with_gradient_norms(&norms)).unwrap();
        assert!(w[1] > 1.1 && (w[0] + w[1] - 2.0).abs() < 1e-12, "{w:?}");
        let error = gradnorm.weights(&Losses::new(&[1.0, 4.0])).unwrap_err();
        assert_eq!(
            error.to_string(),
            "gradnorm needs the norms of the losses' gradients; give them by Losses::with_gradient_norms"
        );
    }
}
