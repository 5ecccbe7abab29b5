//! FAMO: all losses fall at one rate.

use core_tensor::transform::State;

use super::adam::Learned;
use super::{LossWeighting, Losses, check_tasks};
use crate::solvers::softmax;
use crate::{Error, Method, Result};

/// Weights learned such that the losses fall at equal relative rates, at the price of one backward pass.
///
/// [`Mgda`](crate::Mgda) on the logarithms of the losses, amortised over the steps: no gradient of a single task is
/// ever computed.
/// With logits `ξ`, `z = softmax(ξ)` and `D_i = L_i − L_i*`
///
/// $$ w_i = \frac{z_i/D_i}{\sum_j z_j/D_j}, \qquad
/// \xi \leftarrow \operatorname{Adam}\Big(\xi,\ \big(\tfrac{\partial z}{\partial \xi}\big)^{\!\top} \delta + \gamma
/// \xi\Big), \quad
/// \delta_i = \log D_i^{\text{before}} - \log D_i^{\text{after}} $$
///
/// | parameter | default | range | effect |
/// |---|---|---|---|
/// | `rate` | 0.025 | `> 0` | Adam's step for `ξ` |
/// | `decay` | 0.001 | `≥ 0` | `γ`, pull towards equal weights |
/// | `minima` | 0 each | finite | the losses' lower bounds `L*` |
/// | `deferred` | no | | where `after` comes from |
///
/// As published it needs the losses of the same batch after the step, one more forward pass: hand them to
/// [`observe`](LossWeighting::observe) before the next call. With [`deferred`](Self::deferred) the losses of the next
/// batch take their place:
/// no extra pass, more noise. State: `ξ`, Adam's moments, the losses waited upon. Errors:
/// [`Error::Missing`] where `observe` was left out, [`Error::Loss`] for a loss below its bound.
///
/// B. Liu, Y. Feng, P. Stone, Q. Liu, "FAMO: fast adaptive multitask optimization", NeurIPS 2023, arXiv:2306.03792,
/// algorithm 1.
///
/// ```
/// use multitask::weighting::{Famo, Losses, LossWeighting};
///
/// let mut famo = Famo::new();
/// let first = famo.weights(&Losses::new(&[1.0, 1.0]))?; // equal
/// // … a step; the same batch again:
/// famo.observe(&[0.5, 0.9])?;
/// let second = famo.weights(&Losses::new(&[1.0, 1.0]))?;
/// assert!(first[0] == 0.5 && second[1] > 0.5, "the second task falls behind and gains");
/// # Ok::<(), multitask::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Famo {
    logits: Learned,
    minima: Option<Vec<f64>>,
    deferred: bool,
    /// The losses before the step; NaN where they were not finite.
    before: Option<Vec<f64>>,
}

/// What a loss counts for at its lower bound.
const FLOOR: f64 = 1e-8;

impl Default for Famo {
    fn default() -> Self {
        match Learned::new(0.0, 0.025, 0.001) {
            Ok(logits) => Self { logits, minima: None, deferred: false, before: None },
            Err(_) => unreachable!("the constants are in range"),
        }
    }
}

impl Famo {
    /// The authors' constants.
    pub fn new() -> Self {
        Self::default()
    }

    /// Learning rate and decay of the logits.
    ///
    /// # Errors
    /// [`Error::Parameter`] unless `0 < rate < ∞` and `0 <= decay < ∞`.
    pub fn rate(self, rate: f64, decay: f64) -> Result<Self> {
        Ok(Self { logits: Learned::new(0.0, rate, decay)?, ..self })
    }

    /// The losses' lower bounds.
    ///
    /// # Errors
    /// [`Error::Parameter`] for a bound that is not finite.
    pub fn minima(self, minima: &[f64]) -> Result<Self> {
        match minima.iter().find(|x| !x.is_finite()) {
            Some(x) => Err(Error::Parameter { parameter: "minima", value: *x, bound: "finite numbers" }),
            None => Ok(Self { minima: Some(minima.to_vec()), ..self }),
        }
    }

    /// Learn from the losses of the next batch instead of the same one after the step.
    pub fn deferred(self) -> Self {
        Self { deferred: true, ..self }
    }

    /// The losses over their bounds, NaN where not finite.
    fn excess(&self, values: &[f64]) -> Result<Vec<f64>> {
        let method = self.name();
        let minima = match &self.minima {
            Some(minima) if minima.len() != values.len() => {
                let (expected, actual) = (minima.len(), values.len());
                return Err(Error::Tasks { method, what: "the list of minima", expected, actual });
            }
            Some(minima) => minima.clone(),
            None => vec![0.0; values.len()],
        };
        let excess = values.iter().zip(minima).enumerate().map(|(task, (value, minimum))| {
            let excess = value - minimum + FLOOR;
            match excess <= 0.0 {
                true => Err(Error::Loss { method, task, value: *value, bound: "a loss at its minimum or above" }),
                false => Ok(if excess.is_finite() { excess } else { f64::NAN }),
            }
        });
        excess.collect()
    }

    fn learn(&mut self, after: &[f64]) {
        let Some(before) = self.before.take() else { return };
        let known = (0..after.len()).filter(|task| !(before[*task].is_nan() || after[*task].is_nan()));
        let known: Vec<usize> = known.collect();
        let logits = self.logits.values(after.len());
        let z = softmax(&known.iter().map(|task| logits[*task]).collect::<Vec<_>>());
        let delta: Vec<f64> = known.iter().map(|task| before[*task].ln() - after[*task].ln()).collect();
        let mean: f64 = z.iter().zip(&delta).map(|(z, delta)| z * delta).sum();
        let slopes = z.iter().zip(&delta).map(|(z, delta)| z * (delta - mean));
        self.logits.step(known.iter().copied().zip(slopes).collect::<Vec<_>>());
    }
}

impl Method for Famo {
    fn name(&self) -> &'static str {
        "famo"
    }

    fn state(&self) -> State {
        State::new().with_nested("logits", self.logits.state()).with("before", self.before.clone())
    }

    fn load_state(&mut self, mut state: State) -> Result<()> {
        let (logits, before) = (state.take_nested("logits"), state.take_optional("before")?);
        state.finish()?;
        self.logits.load_state(logits)?;
        self.before = before;
        Ok(())
    }
}

impl LossWeighting for Famo {
    fn weights(&mut self, losses: &Losses<'_>) -> Result<Vec<f64>> {
        let (method, tasks) = (self.name(), losses.values().len());
        check_tasks(method, self.logits.tasks(), tasks)?;
        let excess = self.excess(losses.values())?;
        if self.before.is_some() && !self.deferred {
            let what = "the losses after the last step";
            let hint = "hand them to observe, or learn from the next batch's with Famo::deferred";
            return Err(Error::Missing { method, what, hint });
        }
        self.learn(&excess);
        let finite: Vec<usize> = (0..tasks).filter(|task| !excess[*task].is_nan()).collect();
        let logits = self.logits.values(tasks);
        // By logarithms: losses may be of very different sizes.
        let scores: Vec<f64> = finite.iter().map(|task| logits[*task] - excess[*task].ln()).collect();
        let weights = softmax(&scores);
        self.before = Some(excess);
        Ok(losses.spread(finite.into_iter().zip(weights)))
    }

    fn observe(&mut self, after: &[f64]) -> Result<()> {
        check_tasks(self.name(), self.logits.tasks(), after.len())?;
        let excess = self.excess(after)?;
        // What comes with the next batch is learnt then.
        if !self.deferred {
            self.learn(&excess);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_by_hand() {
        let mut famo = Famo::new().rate(0.1, 0.0).unwrap().minima(&[0.5, 0.0]).unwrap();
        let w = famo.weights(&Losses::new(&[1.5, 3.0])).unwrap();
        assert!((w[0] - 0.75).abs() < 1e-8 && (w[1] - 0.25).abs() < 1e-8, "z/D: {w:?}");
        // Without a look after the step the method would never learn.
        let error = famo.weights(&Losses::new(&[1.5, 3.0])).unwrap_err();
        assert!(error.to_string().starts_with("famo needs the losses after the last step"), "{error}");
        famo.observe(&[1.0, 3.0]).unwrap();
        // The first fell, so its logit falls by the rate (Adam's first step) and the other's rises.
        let logits = famo.logits.values(2).to_vec();
        assert!((logits[0] + 0.1).abs() < 1e-6 && (logits[1] - 0.1).abs() < 1e-6, "{logits:?}");
        assert!(matches!(famo.weights(&Losses::new(&[0.2, 1.0])), Err(Error::Loss { task: 0, .. })));
        let mut deferred = Famo::new().rate(0.1, 0.0).unwrap().minima(&[0.5, 0.0]).unwrap().deferred();
        deferred.weights(&Losses::new(&[1.5, 3.0])).unwrap();
        deferred.weights(&Losses::new(&[1.0, 3.0])).unwrap();
        assert_eq!(deferred.logits.values(2), logits);
        assert!(Famo::new().minima(&[f64::NAN]).is_err());
        assert!(Famo::new().minima(&[0.0]).unwrap().weights(&Losses::new(&[1.0, 1.0])).is_err());
    }
}
