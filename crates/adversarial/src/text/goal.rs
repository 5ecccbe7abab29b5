//! What an adversary wants of one sentence.

use crate::attack::check::share;
use crate::error::{Error, Result};

/// What counts as success on one sentence.
///
/// | goal | reached where | [`score`](Self::score) |
/// |---|---|---|
/// | [`untargeted`](Self::untargeted) | another class than the label `y` is predicted, with at least the `confidence` asked for | `log ((1 − p_y) / p_y)` |
/// | [`targeted`](Self::targeted) | the target `t` is predicted, with at least that | `log (p_t / (1 − p_t))` |
///
/// A tie is no success, and neither are logits that are no numbers. The score rises with the probability that papers maximise,
/// but does not saturate: for logits `z`, `log ((1 − p_y) / p_y) = log Σ_{k≠y} exp z_k − z_y`.
///
/// ```
/// use adversarial::text::TextGoal;
///
/// let z = [1.0, 3.0, 2.0];
/// assert!(TextGoal::untargeted(0).reached(&z) && !TextGoal::untargeted(1).reached(&z));
/// assert!(TextGoal::targeted(0, 1).reached(&z) && !TextGoal::targeted(0, 2).reached(&z));
/// assert!(!TextGoal::untargeted(0).confidence(0.9)?.reached(&z)); // it is 66.5 %
/// # Ok::<(), adversarial::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TextGoal {
    label: usize,
    target: Option<usize>,
    confidence: f64,
}

impl TextGoal {
    /// Any class but `label`.
    pub fn untargeted(label: usize) -> Self {
        Self { label, target: None, confidence: 0.0 }
    }

    /// The class `target`, for a sentence whose class is `label`.
    pub fn targeted(label: usize, target: usize) -> Self {
        Self { label, target: Some(target), confidence: 0.0 }
    }

    /// The same with a probability that the class predicted has to reach.
    ///
    /// # Errors
    /// [`Error::Parameter`] where it is not between 0 and 1, both excluded.
    pub fn confidence(self, confidence: f64) -> Result<Self> {
        share("confidence", confidence)?;
        Ok(Self { confidence, ..self })
    }

    /// Any class but each sentence's label.
    pub fn untargeted_all(labels: &[usize]) -> Vec<Self> {
        labels.iter().copied().map(Self::untargeted).collect()
    }

    /// The sentence's class.
    pub fn label(&self) -> usize {
        self.label
    }

    /// The class to be reached, if it is one of them.
    pub fn target(&self) -> Option<usize> {
        self.target
    }

    /// The probability to be reached; 0 where none was asked for.
    pub fn confidence_needed(&self) -> f64 {
        self.confidence
    }

    /// How near the logits are to the goal; `NaN` where a logit is.
    pub fn score(&self, logits: &[f64]) -> f64 {
        let class = self.class();
        let others = log_sum_exp(logits.iter().enumerate().filter(|(k, _)| *k != class).map(|(_, z)| *z));
        self.sign() * (others - logits[class])
    }

    /// The derivative of the score with respect to the logits.
    pub fn slope(&self, logits: &[f64]) -> Vec<f64> {
        let class = self.class();
        let others = log_sum_exp(logits.iter().enumerate().filter(|(k, _)| *k != class).map(|(_, z)| *z));
        let slope = |(k, z): (usize, &f64)| if k == class { -1.0 } else { libm::exp(z - others) };
        logits.iter().enumerate().map(|each| self.sign() * slope(each)).collect()
    }

    /// Whether the logits are a success.
    pub fn reached(&self, logits: &[f64]) -> bool {
        let Some(predicted) = prediction(logits) else { return false };
        let wanted = self.target.unwrap_or(predicted);
        let above = |k: usize| logits[wanted] > logits[k];
        let reached = match self.target {
            None => predicted != self.label && above(self.label),
            Some(_) => (0..logits.len()).all(|k| k == wanted || above(k)),
        };
        reached && (self.confidence == 0.0 || probabilities(logits)[wanted] >= self.confidence)
    }

    /// Refuses classes that the model does not have.
    pub(crate) fn check(&self, example: usize, classes: usize) -> Result<()> {
        for (what, class) in [("the label", Some(self.label)), ("the target", self.target)] {
            if let Some(class) = class.filter(|class| *class >= classes) {
                return Err(Error::Label { what, example, label: class as i64, classes });
            }
        }
        if self.target == Some(self.label) {
            let label = self.label as i64;
            return Err(Error::Label { what: "the target, which is the label,", example, label, classes });
        }
        Ok(())
    }

    /// What tells two goals apart.
    pub(crate) fn key(&self) -> [u64; 3] {
        [self.label as u64, self.target.map_or(u64::MAX, |target| target as u64), self.confidence.to_bits()]
    }

    /// The class that the score speaks of.
    fn class(&self) -> usize {
        self.target.unwrap_or(self.label)
    }

    fn sign(&self) -> f64 {
        if self.target.is_some() { -1.0 } else { 1.0 }
    }
}

/// The class of the largest logit, the first of several; none where a logit is no number.
pub(crate) fn prediction(logits: &[f64]) -> Option<usize> {
    if logits.iter().any(|z| z.is_nan()) {
        return None;
    }
    (0..logits.len()).reduce(|best, k| if logits[k] > logits[best] { k } else { best })
}

/// The softmax of logits.
pub(crate) fn probabilities(logits: &[f64]) -> Vec<f64> {
    let total = log_sum_exp(logits.iter().copied());
    logits.iter().map(|z| libm::exp(z - total)).collect()
}

/// `log Σ exp z`, without overflow; `NaN` where a term is.
fn log_sum_exp(terms: impl Iterator<Item = f64> + Clone) -> f64 {
    let largest =
        terms.clone().fold(f64::NEG_INFINITY, |a, b| if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b) });
    match largest.is_finite() {
        true => largest + libm::log(terms.map(|z| libm::exp(z - largest)).sum()),
        false => largest,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ties_and_numbers_that_are_none_are_no_success() {
        assert!(!TextGoal::untargeted(0).reached(&[1.0, 1.0]) && !TextGoal::untargeted(1).reached(&[1.0, 1.0]));
        assert!(!TextGoal::targeted(0, 1).reached(&[1.0, 1.0]));
        assert!(!TextGoal::untargeted(0).reached(&[1.0, f64::NAN]));
        assert!(TextGoal::untargeted(0).score(&[1.0, f64::NAN]).is_nan());
        assert!(!TextGoal::untargeted(0).reached(&[1.0]));
        assert!(
            TextGoal::untargeted(0).confidence(1.0).is_err() && TextGoal::untargeted(0).confidence(f64::NAN).is_err()
        );
        // A probability that rounds to 1 is still told from a larger one.
        assert!(TextGoal::untargeted(0).score(&[1000.0, 0.0]) > TextGoal::untargeted(0).score(&[1001.0, 0.0]));
    }

    proptest! {
        #[test]
        fn the_score_is_the_log_odds_and_the_slope_its_derivative(
            z in proptest::collection::vec(-5.0f64..5.0, 2..5), targeted: bool,
        ) {
            let goal = if targeted { TextGoal::targeted(1, 0) } else { TextGoal::untargeted(0) };
            let p = probabilities(&z)[0];
            let odds = if targeted { (p / (1.0 - p)).ln() } else { ((1.0 - p) / p).ln() };
            prop_assert!((goal.score(&z) - odds).abs() < 1e-9);
            for (k, slope) in goal.slope(&z).into_iter().enumerate() {
                let at = |step: f64| { let mut z = z.clone(); z[k] += step; goal.score(&z) };
                prop_assert!(((at(1e-5) - at(-1e-5)) / 2e-5 - slope).abs() < 1e-6);
            }
        }
    }
}
