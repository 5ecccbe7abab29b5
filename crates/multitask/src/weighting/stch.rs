//! STCH: the smooth maximum of the losses.

use super::{LossWeighting, Losses, check_tasks};
use crate::check::{positive, preference};
use crate::solvers::softmax;
use crate::{Error, Method, Result};

/// Weights whose sum of gradients is that of the smooth Tchebycheff scalarisation.
///
/// Reaches every Pareto optimal point for some preference, on non-convex fronts too, where weighted sums cannot.
///
/// $$ L = \mu \log \sum_i \exp\frac{\lambda_i (L_i - z_i^*)}{\mu}, \qquad
/// w_i = \lambda_i \operatorname{softmax}_i\frac{\lambda_i (L_i - z_i^*)}{\mu} $$
///
/// | parameter | default | range | effect |
/// |---|---|---|---|
/// | `mu` | none; 0.01 to 1 in units of the losses | `> 0` | smoothness: small, the largest loss only; large, the weighted sum |
/// | `preference` | `1/K` each | `≥ 0`, not all 0 | `λ` |
/// | `ideal` | 0 each | finite | the ideal losses `z*` |
///
/// No state. Errors: [`Error::Tasks`] for lists of another length.
///
/// X. Lin, X. Zhang, Z. Yang, F. Liu, Z. Wang, Q. Zhang, "Smooth Tchebycheff scalarization for multi-objective
/// optimization", ICML
/// 2024, arXiv:2402.19078, equation 5.
///
/// ```
/// use multitask::weighting::{Losses, LossWeighting, Stch};
///
/// let w = Stch::new(0.5)?.preference(&[1.0, 1.0])?.weights(&Losses::new(&[1.0, 2.0]))?;
/// assert!((w[1] / w[0] - 2f64.exp()).abs() < 1e-13 && (w[0] + w[1] - 1.0).abs() < 1e-15);
/// # Ok::<(), multitask::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Stch {
    mu: f64,
    preference: Option<Vec<f64>>,
    ideal: Option<Vec<f64>>,
}

impl Stch {
    /// Smoothness `mu`.
    ///
    /// # Errors
    /// [`Error::Parameter`] unless `0 < mu < ∞`.
    pub fn new(mu: f64) -> Result<Self> {
        Ok(Self { mu: positive("mu", mu)?, preference: None, ideal: None })
    }

    /// The preferences.
    ///
    /// # Errors
    /// [`Error::Parameter`] for a negative number, NaN, or zeros only.
    pub fn preference(self, preference_: &[f64]) -> Result<Self> {
        Ok(Self { preference: Some(preference("preference", preference_)?), ..self })
    }

    /// The ideal losses.
    ///
    /// # Errors
    /// [`Error::Parameter`] for one that is not finite.
    pub fn ideal(self, ideal: &[f64]) -> Result<Self> {
        match ideal.iter().find(|x| !x.is_finite()) {
            Some(x) => Err(Error::Parameter { parameter: "ideal", value: *x, bound: "finite numbers" }),
            None => Ok(Self { ideal: Some(ideal.to_vec()), ..self }),
        }
    }
}

impl Method for Stch {
    fn name(&self) -> &'static str {
        "stch"
    }
}

impl LossWeighting for Stch {
    fn weights(&mut self, losses: &Losses<'_>) -> Result<Vec<f64>> {
        let (method, actual) = (self.name(), losses.values().len());
        check_tasks(method, None, actual)?;
        for (what, list) in [("the preference", &self.preference), ("the list of ideal losses", &self.ideal)] {
            if let Some(list) = list
                && list.len() != actual
            {
                return Err(Error::Tasks { method, what, expected: list.len(), actual });
            }
        }
        let finite = losses.finite();
        let lambda = |task: usize| self.preference.as_ref().map_or(1.0 / actual as f64, |list| list[task]);
        let ideal = |task: usize| self.ideal.as_ref().map_or(0.0, |list| list[task]);
        let scores = finite.iter().map(|(task, loss)| {
            let score = lambda(*task) * (loss - ideal(*task)) / self.mu;
            score.clamp(f64::MIN, f64::MAX)
        });
        let weights = softmax(&scores.collect::<Vec<_>>());
        Ok(losses.spread(finite.iter().zip(weights).map(|((task, _), w)| (*task, lambda(*task) * w))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_the_derivative_of_the_smooth_maximum() {
        let (lambda, ideal, mu) = ([0.2, 1.0, 0.5], [0.1, -1.0, 0.0], 0.3);
        let value = |losses: [f64; 3]| {
            let terms = (0..3).map(|i| (lambda[i] * (losses[i] - ideal[i]) / mu).exp());
            mu * terms.sum::<f64>().ln()
        };
        let mut stch = Stch::new(mu).unwrap().preference(&lambda).unwrap().ideal(&ideal).unwrap();
        let losses = [1.0, 0.3, 2.0];
        let weights = stch.weights(&Losses::new(&losses)).unwrap();
        for i in 0..3 {
            let (mut up, mut down) = (losses, losses);
            (up[i], down[i]) = (up[i] + 1e-5, down[i] - 1e-5);
            assert!(((value(up) - value(down)) / 2e-5 - weights[i]).abs() < 1e-9);
        }
        assert!(matches!(stch.weights(&Losses::new(&[1.0])), Err(Error::Tasks { expected: 3, actual: 1, .. })));
        let extreme = Stch::new(1e-300).unwrap().weights(&Losses::new(&[1e300, 1.0])).unwrap();
        assert_eq!(extreme, [0.5, 0.0]);
    }
}
