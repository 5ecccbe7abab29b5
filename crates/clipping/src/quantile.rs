//! A clipping norm that follows a quantile of the norms.

use core_tensor::transform::{Context, GradientTransform, State, Update};
use core_tensor::{Error, Result, Scalar, Tree};

use crate::limit::{positive, share};
use crate::report::{Epsilon, Reports};

/// Moves the limit until a given share of norms is below it: `C ← C·exp(−η·(b − γ))`.
///
/// `b` is the share of norms at most `C` in this step (0 or 1 for one gradient), `γ` the target quantile, `η` the rate.
/// Geometric, so it crosses orders of magnitude in a few dozen steps and never reaches zero. G. Andrew, O. Thakkar, B.
/// McMahan, S. Ramaswamy, "Differentially private learning with adaptive clipping", NeurIPS 2021, section 2.1, `η = 0.2`,
/// `γ = 0.5`. This is the rule without noise; in DP-SGD the share must be made private too.
///
/// A norm that is not finite counts as above the limit. Cost as [`ClipByGlobalNorm`](crate::ClipByGlobalNorm), one host
/// synchronisation a step on a GPU.
#[derive(Clone, Debug)]
pub struct QuantileClip {
    quantile: f64,
    rate: f64,
    limit: f64,
    reports: Option<Reports>,
}

impl QuantileClip {
    /// Target quantile `γ`, rate `η`, first limit.
    ///
    /// # Errors
    /// [`Error::Parameter`] unless `0 <= quantile <= 1` and rate and limit are above zero and finite.
    pub fn new(quantile: f64, rate: f64, first_limit: f64) -> Result<Self> {
        let (quantile, rate) = (share("quantile", quantile)?, positive("rate", rate)?);
        Ok(Self { quantile, rate, limit: positive("first_limit", first_limit)?, reports: None })
    }

    /// Leave the report of every step in `reports`.
    pub fn report_to(self, reports: &Reports) -> Self {
        Self { reports: Some(reports.clone()), ..self }
    }

    /// The limit that holds for the next step.
    pub fn limit(&self) -> f64 {
        self.limit
    }

    /// Moves the limit, given the share of norms that were at most the present one.
    ///
    /// # Errors
    /// [`Error::Parameter`] if `below` is outside `[0, 1]`.
    pub fn update(&mut self, below: f64) -> Result<()> {
        let moved = self.limit * (-self.rate * (share("below", below)? - self.quantile)).exp();
        // Stays a usable limit whatever happens for however long.
        self.limit = moved.clamp(f64::MIN_POSITIVE, f64::MAX);
        Ok(())
    }
}

impl GradientTransform for QuantileClip {
    fn name(&self) -> &str {
        "quantile_clip"
    }

    fn apply(&mut self, grads: Tree, _context: &Context<'_>) -> Result<Update> {
        let norm = grads.norm();
        let below = if norm.value() <= self.limit { 1.0 } else { 0.0 };
        let clip = Epsilon::Exact.clip(norm, Scalar::from(self.limit));
        self.update(below)?;
        Reports::put(&self.reports, &clip);
        Ok(Update::Apply(clip.apply(grads)))
    }

    fn state(&self) -> State {
        State::new().with("limit", self.limit)
    }

    fn load_state(&mut self, mut state: State) -> Result<()> {
        let limit: f64 = state.take("limit")?;
        state.finish()?;
        self.limit = positive("limit", limit).map_err(|error| Error::transform("quantile_clip", error))?;
        Ok(())
    }
}

#[cfg(test)]
mod conformance {
    use super::*;
    core_tensor::transform_conformance!(quantile, || QuantileClip::new(0.5, 0.2, 1.0).unwrap());
}

#[cfg(test)]
mod tests {
    use super::*;
    use core_tensor::Random;

    #[test]
    fn the_limit_finds_the_quantile() {
        // Norms uniform on [0, 100]: the 30% quantile is 30.
        let mut clip = QuantileClip::new(0.3, 0.05, 1e-3).unwrap();
        let device = burn::tensor::Device::flex();
        let norms: burn::tensor::Tensor<1> = Random::new(3).uniform([4000], 0.0, 100.0, &device);
        let norms: Vec<f32> = norms.try_into_vec_as().unwrap();
        let mut late = 0.0;
        for (step, norm) in norms.iter().enumerate() {
            clip.update(if f64::from(*norm) <= clip.limit() { 1.0 } else { 0.0 }).unwrap();
            if step >= 2000 {
                late += clip.limit() / 2000.0;
            }
        }
        assert!((late - 30.0).abs() < 3.0, "{late}");
        for bad in
            [QuantileClip::new(1.1, 0.1, 1.0), QuantileClip::new(0.5, 0.0, 1.0), QuantileClip::new(0.5, 0.1, 0.0)]
        {
            assert!(bad.is_err());
        }
    }
}
