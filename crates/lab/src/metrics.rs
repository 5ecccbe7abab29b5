//! What a run records, one JSON object a line.

use serde::{Deserialize, Deserializer, Serialize};

/// A line of `metrics.jsonl`. A number that is not finite is written as `null` and read back as NaN.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Record {
    /// One update of the weights.
    Step(Step),
    /// The state after a pass over the training set.
    Epoch(Epoch),
    /// A measurement of the Hessian.
    Spectrum(Spectrum),
    /// A measurement of robust accuracy.
    Robust(Robust),
}

/// One update of the weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Counted from 1 over the whole run.
    pub step: u64,
    /// The epoch it belongs to, from 1.
    pub epoch: u64,
    /// Mean loss of the batch, before the update, in nats.
    #[serde(deserialize_with = "number")]
    pub loss: f64,
    /// L2 norm of the gradient as the optimizer's chain received it.
    #[serde(deserialize_with = "number")]
    pub grad_norm: f64,
    /// Learning rate.
    pub lr: f64,
    /// Why no update was made, where none was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skipped: Option<String>,
}

/// The state after a pass over the training set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Epoch {
    /// From 1.
    pub epoch: u64,
    /// Steps so far.
    pub step: u64,
    /// Mean loss over the training set, in nats.
    #[serde(deserialize_with = "number")]
    pub train_loss: f64,
    /// Part of the training set classified correctly, 0 to 1.
    pub train_accuracy: f64,
    /// Mean loss over the test set, in nats.
    #[serde(deserialize_with = "number")]
    pub test_loss: f64,
    /// Part of the test set classified correctly, 0 to 1.
    pub test_accuracy: f64,
    /// Mean loss over the validation set, in nats, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation_loss: Option<f64>,
    /// Part of the validation set classified correctly, 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation_accuracy: Option<f64>,
    /// Part of the first validation examples that holds under attack, where that is what training goes by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation_robust_accuracy: Option<f64>,
    /// Part of the test set classified correctly by each head after the first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub task_accuracies: Vec<f64>,
    /// The setting that is learned, as it is now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learned: Option<f64>,
    /// ε spent so far, under DP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epsilon: Option<f64>,
    /// Seconds of work so far, those before a resumption included.
    pub seconds: f64,
}

/// A measurement of the Hessian of the mean training loss.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spectrum {
    /// Epochs done, 0 before the first.
    pub epoch: u64,
    /// Steps done.
    pub step: u64,
    /// Training examples of the mean loss.
    pub examples: usize,
    /// Hessian-vector products spent.
    pub products: usize,
    /// Largest eigenvalues, largest first.
    pub eigenvalues: Vec<f64>,
    /// For each the norm of H·v − λ·v, a bound on its error.
    pub residuals: Vec<f64>,
}

/// How many test examples hold under attack.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Robust {
    /// Epochs done.
    pub epoch: u64,
    /// Steps done.
    pub step: u64,
    /// The first so many test examples.
    pub examples: usize,
    /// Part of them classified correctly as they are.
    pub clean_accuracy: f64,
    /// Part of them for which no mistake was found in the ball.
    pub robust_accuracy: f64,
}

/// Everything that a run recorded, by kind.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metrics {
    /// In order.
    pub steps: Vec<Step>,
    /// In order.
    pub epochs: Vec<Epoch>,
    /// In order.
    pub spectra: Vec<Spectrum>,
    /// In order.
    pub robust: Vec<Robust>,
}

impl Metrics {
    /// Adds a record.
    pub fn push(&mut self, record: Record) {
        match record {
            Record::Step(step) => self.steps.push(step),
            Record::Epoch(epoch) => self.epochs.push(epoch),
            Record::Spectrum(spectrum) => self.spectra.push(spectrum),
            Record::Robust(robust) => self.robust.push(robust),
        }
    }

    /// Median and maximum of the finite gradient norms; `None` without any.
    pub fn grad_norms(&self) -> Option<(f64, f64)> {
        let mut norms: Vec<f64> =
            self.steps.iter().map(|step| step.grad_norm).filter(|norm| norm.is_finite()).collect();
        norms.sort_by(f64::total_cmp);
        let max = *norms.last()?;
        let middle = norms.len() / 2;
        let median = if norms.len() % 2 == 1 { norms[middle] } else { (norms[middle - 1] + norms[middle]) / 2.0 };
        Some((median, max))
    }

    /// The last measured top eigenvalue.
    pub fn sharpness(&self) -> Option<f64> {
        self.spectra.last()?.eigenvalues.first().copied()
    }
}

fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::<f64>::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(grad_norm: f64) -> Step {
        Step { step: 1, epoch: 1, loss: f64::NAN, grad_norm, lr: 0.5, skipped: None }
    }

    #[test]
    fn lines_read_back_and_keep_nan() {
        let line = serde_json::to_string(&Record::Step(step(2.0))).unwrap();
        assert_eq!(line, r#"{"kind":"step","step":1,"epoch":1,"loss":null,"grad_norm":2.0,"lr":0.5}"#);
        let Record::Step(back) = serde_json::from_str(&line).unwrap() else { panic!("a step") };
        assert!(back.loss.is_nan() && back.grad_norm == 2.0);
    }

    #[test]
    fn median_and_maximum_ignore_what_is_not_finite() {
        let mut metrics = Metrics::default();
        assert_eq!(metrics.grad_norms(), None);
        metrics.steps.extend([3.0, 1.0, f64::INFINITY, 2.0].map(step));
        assert_eq!(metrics.grad_norms(), Some((2.0, 3.0)));
        metrics.steps.push(step(10.0));
        assert_eq!(metrics.grad_norms(), Some((2.5, 10.0)));
    }
}
