//! Clipping norms that are outliers of their own recent history.

use core_tensor::transform::{Context, GradientTransform, State, Update};
use core_tensor::{Error, Result, Scalar, Tree};

use crate::limit::{decay, positive};
use crate::report::{Epsilon, Reports};

/// Clips a norm whose z-score among the recent ones is above a threshold.
///
/// With the moving mean `μ` and variance `σ²` of norms, `z = (n − μ)/(σ + 10⁻⁶)`; where `z > z₀`, the norm is brought to
/// `μ + σ·z₀²/z`: the further out, the harder. The averages take in the clipped norm, the variance around the new mean. The
/// first norms pass and give the first mean and (population) variance. A. Kumar et al., "ZClip: adaptive spike mitigation for
/// LLM pre-training", 2025, reciprocal rule, `α = 0.97`, `z₀ = 2.5`, warm-up 25.
///
/// Norms that are not finite neither are clipped nor enter the averages, where the reference is poisoned by one NaN; put
/// [`NonFinite`](crate::NonFinite) before it. Cost as [`ClipByGlobalNorm`](crate::ClipByGlobalNorm), one host
/// synchronisation a step on a GPU.
#[derive(Clone, Debug)]
pub struct ZClip {
    alpha: f64,
    z: f64,
    warmup: usize,
    /// Norms of the warm-up.
    first: Vec<f64>,
    moments: Option<(f64, f64)>,
    reports: Option<Reports>,
}

impl ZClip {
    /// Decay `alpha` of the averages, threshold `z`, norms of the warm-up.
    ///
    /// # Errors
    /// [`Error::Parameter`] unless `0 <= alpha < 1`, `0 < z < ∞`, `warmup >= 1`.
    pub fn new(alpha: f64, z: f64, warmup: usize) -> Result<Self> {
        if warmup == 0 {
            return Err(Error::Parameter { parameter: "warmup", value: 0.0, bound: "1 <= warmup" });
        }
        let (alpha, z) = (decay("alpha", alpha)?, positive("z", z)?);
        Ok(Self { alpha, z, warmup, first: Vec::new(), moments: None, reports: None })
    }

    /// Leave the report of every step in `reports`.
    pub fn report_to(self, reports: &Reports) -> Self {
        Self { reports: Some(reports.clone()), ..self }
    }

    /// Takes note of a norm and returns what it is brought to.
    pub fn clipped_norm(&mut self, norm: f64) -> f64 {
        if !norm.is_finite() {
            return norm;
        }
        let Some((mean, variance)) = self.moments else {
            self.first.push(norm);
            if self.first.len() == self.warmup {
                let n = self.warmup as f64;
                let mean = self.first.iter().sum::<f64>() / n;
                let variance = self.first.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
                self.moments = Some((mean, variance));
                self.first = Vec::new();
            }
            return norm;
        };
        let deviation = variance.sqrt();
        let score = (norm - mean) / (deviation + 1e-6);
        let clipped = if score > self.z { mean + self.z * self.z * deviation / score } else { norm };
        let new_mean = self.alpha * mean + (1.0 - self.alpha) * clipped;
        let new_variance = self.alpha * variance + (1.0 - self.alpha) * (clipped - new_mean).powi(2);
        self.moments = Some((new_mean, new_variance));
        clipped
    }
}

impl Default for ZClip {
    /// The paper's constants.
    fn default() -> Self {
        Self { alpha: 0.97, z: 2.5, warmup: 25, first: Vec::new(), moments: None, reports: None }
    }
}

impl GradientTransform for ZClip {
    fn name(&self) -> &str {
        "zclip"
    }

    fn apply(&mut self, grads: Tree, _context: &Context<'_>) -> Result<Update> {
        let norm = grads.norm();
        let value = norm.value();
        let clipped = self.clipped_norm(value);
        let threshold = if clipped < value { clipped } else { f64::INFINITY };
        let clip = Epsilon::Exact.clip(norm, Scalar::from(threshold));
        Reports::put(&self.reports, &clip);
        Ok(Update::Apply(clip.apply(grads)))
    }

    fn state(&self) -> State {
        State::new()
            .with("first", self.first.clone())
            .with("moments", self.moments.map(|(mean, variance)| vec![mean, variance]))
    }

    fn load_state(&mut self, mut state: State) -> Result<()> {
        let first: Vec<f64> = state.take("first")?;
        let moments: Option<Vec<f64>> = state.take_optional("moments")?;
        state.finish()?;
        let moments = match moments.as_deref() {
            None => None,
            Some([mean, variance]) => Some((*mean, *variance)),
            Some(other) => return Err(Error::Length { what: "moments", expected: 2, actual: other.len() }),
        };
        (self.first, self.moments) = (first, moments);
        Ok(())
    }
}

#[cfg(test)]
mod conformance {
    use super::*;
    core_tensor::transform_conformance!(zclip, || ZClip::new(0.9, 1.0, 2).unwrap());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spike_is_clipped_and_does_not_move_the_mean_much() {
        let mut clip = ZClip::new(0.97, 2.5, 4).unwrap();
        for norm in [1.0, 1.2, 0.8, 1.0] {
            assert_eq!(clip.clipped_norm(norm), norm, "the warm-up passes");
        }
        assert!(clip.clipped_norm(f64::NAN).is_nan());
        let before = clip.moments;
        assert_eq!(clip.clipped_norm(f64::INFINITY), f64::INFINITY);
        assert_eq!(clip.moments, before, "what is not finite leaves no trace");
        let deviation = 0.02f64.sqrt();
        let score = 99.0 / (deviation + 1e-6);
        let expected = 1.0 + 6.25 * deviation / score;
        assert!((clip.clipped_norm(100.0) - expected).abs() < 1e-12);
        assert!(clip.moments.unwrap().0 < 1.01);
        assert!(ZClip::new(1.0, 2.5, 25).is_err() && ZClip::new(0.9, 0.0, 25).is_err());
        assert!(ZClip::new(0.9, 1.0, 0).is_err());
    }
}
