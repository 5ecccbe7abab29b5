//! Clipping at a percentile of the norms seen so far.

use core_tensor::transform::{Context, GradientTransform, State, Update};
use core_tensor::{Error, Result, Scalar, Tree};

use crate::report::{Epsilon, Reports};

/// Clips to the `p`-th percentile of all gradient norms so far, the current one included.
///
/// P. Seetharaman, G. Wichern, B. Pardo, J. Le Roux, "AutoClip: adaptive gradient clipping for source separation networks",
/// MLSP 2020, algorithm 1, with percentiles interpolated linearly and `p = 10`. Norms that are not finite are left out of
/// the history (the paper's code would keep them for good).
///
/// Cost: as [`ClipByGlobalNorm`](crate::ClipByGlobalNorm), and a search and an insertion in the sorted history, which takes 8
/// bytes a step. One host synchronisation a step on a GPU.
#[derive(Clone, Debug)]
pub struct AutoClip {
    percentile: f64,
    /// Sorted.
    history: Vec<f64>,
    reports: Option<Reports>,
}

impl AutoClip {
    /// The percentile, from 0 (the smallest norm so far) to 100 (no clipping).
    ///
    /// # Errors
    /// [`Error::Parameter`] if it is outside `[0, 100]`.
    pub fn new(percentile: f64) -> Result<Self> {
        match (0.0..=100.0).contains(&percentile) {
            true => Ok(Self { percentile, history: Vec::new(), reports: None }),
            false => {
                Err(Error::Parameter { parameter: "percentile", value: percentile, bound: "0 <= percentile <= 100" })
            }
        }
    }

    /// Leave the report of every step in `reports`.
    pub fn report_to(self, reports: &Reports) -> Self {
        Self { reports: Some(reports.clone()), ..self }
    }

    /// Takes note of a norm and returns the threshold that holds for it; infinity before the first finite norm.
    pub fn threshold(&mut self, norm: f64) -> f64 {
        if norm.is_finite() {
            let position = self.history.partition_point(|x| *x < norm);
            self.history.insert(position, norm);
        }
        let Some(last) = self.history.len().checked_sub(1) else { return f64::INFINITY };
        let rank = self.percentile / 100.0 * last as f64;
        let (low, part) = (rank.floor() as usize, rank.fract());
        let (below, above) = (self.history[low], self.history[(low + 1).min(last)]);
        below + part * (above - below)
    }
}

impl GradientTransform for AutoClip {
    fn name(&self) -> &str {
        "auto_clip"
    }

    fn apply(&mut self, grads: Tree, _context: &Context<'_>) -> Result<Update> {
        let norm = grads.norm();
        let threshold = self.threshold(norm.value());
        let clip = Epsilon::Exact.clip(norm, Scalar::from(threshold));
        Reports::put(&self.reports, &clip);
        Ok(Update::Apply(clip.apply(grads)))
    }

    fn state(&self) -> State {
        State::new().with("history", self.history.clone())
    }

    fn load_state(&mut self, mut state: State) -> Result<()> {
        let history: Vec<f64> = state.take("history")?;
        state.finish()?;
        self.history = history;
        Ok(())
    }
}

#[cfg(test)]
mod conformance {
    use super::*;
    core_tensor::transform_conformance!(auto_clip, || AutoClip::new(30.0).unwrap());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_are_interpolated_percentiles() {
        let mut clip = AutoClip::new(25.0).unwrap();
        assert_eq!(clip.threshold(f64::NAN), f64::INFINITY);
        assert_eq!(clip.threshold(4.0), 4.0);
        assert_eq!(clip.threshold(f64::INFINITY), 4.0);
        assert_eq!(clip.threshold(2.0), 2.5);
        assert_eq!(clip.threshold(8.0), 3.0);
        assert_eq!(AutoClip::new(100.0).unwrap().threshold(3.0), 3.0);
        for bad in [-1.0, 100.5, f64::NAN] {
            assert!(AutoClip::new(bad).is_err());
        }
    }
}
