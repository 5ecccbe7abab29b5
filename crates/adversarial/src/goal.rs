//! What an adversary wants of one example, and how near logits are to it.

use crate::error::{Error, Result};

/// What counts as success on one example.
///
/// | goal | [`margin`](Self::margin) of logits `z`, reached where it is above `confidence` or, if that is not 0, equal to it |
/// |---|---|
/// | [`untargeted`](Self::untargeted) | `max_{i≠y} zᵢ − z_y` |
/// | [`targeted`](Self::targeted) | `z_t − max_{i≠t} zᵢ` |
///
/// A tie is no success: nothing is claimed that another order of classes would take back.
///
/// ```
/// use adversarial::Goal;
///
/// let z = [1.0, 3.0, 2.0];
/// assert!(!Goal::untargeted(1).reached(&z) && Goal::untargeted(0).reached(&z));
/// assert_eq!(Goal::targeted(0, 2).margin(&z), -1.0);
/// // Wrong by 2, and asked to be so by 2 and by more.
/// assert!(Goal::untargeted(0).confidence(2.0)?.reached(&z));
/// assert!(!Goal::untargeted(0).confidence(2.1)?.reached(&z));
/// # Ok::<(), adversarial::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Goal {
    label: usize,
    target: Option<usize>,
    confidence: f32,
}

impl Goal {
    /// Any class but `label`.
    pub fn untargeted(label: usize) -> Self {
        Self { label, target: None, confidence: 0.0 }
    }

    /// The class `target`, for an example whose class is `label`.
    pub fn targeted(label: usize, target: usize) -> Self {
        Self { label, target: Some(target), confidence: 0.0 }
    }

    /// The same with a margin of logits to be reached, `κ` of Carlini and Wagner.
    ///
    /// # Errors
    /// [`Error::Parameter`] if `confidence` is negative or not finite.
    pub fn confidence(self, confidence: f32) -> Result<Self> {
        if !(confidence >= 0.0 && confidence.is_finite()) {
            let value = f64::from(confidence);
            return Err(Error::Parameter { parameter: "confidence", value, bound: "a finite number, at least 0" });
        }
        Ok(Self { confidence, ..self })
    }

    /// The example's class.
    pub fn label(&self) -> usize {
        self.label
    }

    /// The class to be reached, if it is one of them.
    pub fn target(&self) -> Option<usize> {
        self.target
    }

    /// The margin `κ` to be reached.
    pub fn margin_needed(&self) -> f32 {
        self.confidence
    }

    /// How far the logits are beyond the boundary: positive where the goal without confidence is reached, `NaN` if a logit is.
    pub fn margin(&self, logits: &[f32]) -> f32 {
        let class = self.target.unwrap_or(self.label);
        let other = largest_but(logits, class);
        match self.target {
            None => other - logits[class],
            Some(_) => logits[class] - other,
        }
    }

    /// Whether the logits are a success.
    pub fn reached(&self, logits: &[f32]) -> bool {
        let margin = self.margin(logits);
        margin > 0.0 && margin >= self.confidence
    }
}

/// The largest logit but one; `NaN` if any is.
fn largest_but(logits: &[f32], class: usize) -> f32 {
    let others = logits.iter().enumerate().filter(|(i, _)| *i != class).map(|(_, z)| *z);
    others.fold(f32::NEG_INFINITY, |a, b| if a.is_nan() || b.is_nan() { f32::NAN } else { a.max(b) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_and_numbers_that_are_none_are_no_success() {
        assert!(!Goal::untargeted(0).reached(&[1.0, 1.0]));
        assert!(!Goal::targeted(0, 1).reached(&[1.0, 1.0]));
        assert!(!Goal::untargeted(0).reached(&[1.0, f32::NAN, 3.0]));
        assert!(Goal::untargeted(0).confidence(-1.0).is_err() && Goal::untargeted(0).confidence(f32::NAN).is_err());
        // The only class cannot be left.
        assert!(!Goal::untargeted(0).reached(&[1.0]));
    }
}
