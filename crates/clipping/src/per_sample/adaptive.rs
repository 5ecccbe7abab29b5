//! A limit that follows a quantile of the norms, privately.

use burn::tensor::Tensor;
use core_tensor::transform::State;
use core_tensor::{Error, Random, Result};

use super::{SampleClip, SampleNorms, shrink};
use crate::limit::{positive, share};

/// Flat clipping whose limit moves until a share `γ` of samples is below it: `C ← C·exp(−η·(b̃ − γ))`.
///
/// `b̃ = ½ + (Σ(bᵢ − ½) + N(0, σ_b²))/m`, where `bᵢ` says whether sample `i` is below the limit and `m` is the expected number of
/// samples. Telling `b̃` spends privacy too: for the whole step to spend what a noise multiplier `z` does, the gradient gets
/// `z_Δ = (z⁻² − (2σ_b)⁻²)^(−½)`, a little more than `z`. G. Andrew, O. Thakkar, B. McMahan, S. Ramaswamy, "Differentially
/// private learning with adaptive clipping", NeurIPS 2021, algorithm 1 and theorem 1; `γ = 0.5`, `η = 0.2`, `σ_b = m/20`.
///
/// ```
/// use clipping::per_sample::{Adaptive, SampleClip};
///
/// // 500 samples expected.
/// let rule = Adaptive::new(0.5, 0.2, 1.0, 25.0)?;
/// let noise = rule.gradient_noise(1.0)?;
/// assert!(noise > 1.0 && noise < 1.001);
/// # Ok::<(), core_tensor::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Adaptive {
    quantile: f64,
    rate: f64,
    limit: f64,
    count_noise: f64,
}

impl Adaptive {
    /// Target quantile `γ`, rate `η`, first limit, deviation `σ_b` of the noise on the count.
    ///
    /// # Errors
    /// [`Error::Parameter`] unless `0 <= quantile <= 1` and the others are above zero and finite.
    pub fn new(quantile: f64, rate: f64, first_limit: f64, count_noise: f64) -> Result<Self> {
        let (quantile, rate) = (share("quantile", quantile)?, positive("rate", rate)?);
        let (limit, count_noise) = (positive("first_limit", first_limit)?, positive("count_noise", count_noise)?);
        Ok(Self { quantile, rate, limit, count_noise })
    }

    /// The limit that holds for the next step.
    pub fn limit(&self) -> f64 {
        self.limit
    }
}

impl SampleClip for Adaptive {
    fn name(&self) -> &str {
        "adaptive"
    }

    fn factors(&self, norms: &SampleNorms<'_>) -> Result<Vec<Tensor<1>>> {
        let Some(total) = norms.of(|_| true) else { return Ok(Vec::new()) };
        Ok(vec![shrink(total, self.limit); norms.names.len()])
    }

    fn sensitivity(&self) -> f64 {
        self.limit
    }

    fn gradient_noise(&self, noise_multiplier: f64) -> Result<f64> {
        if noise_multiplier == 0.0 {
            return Ok(0.0);
        }
        let left = noise_multiplier.powi(-2) - (2.0 * self.count_noise).powi(-2);
        match left > 0.0 {
            true => Ok(left.powf(-0.5)),
            false => {
                let bound = "more than half the noise multiplier";
                Err(Error::Parameter { parameter: "count_noise", value: self.count_noise, bound })
            }
        }
    }

    fn below(&self, norms: &SampleNorms<'_>, kept: &Tensor<1>) -> Option<f64> {
        // A norm that is not finite is not below; a comparison with NaN does not hold.
        let below = norms.of(|_| true)?.lower_equal_elem(self.limit).float();
        Some((below.cast(kept.dtype()) * kept.clone()).sum().into_data().iter::<f64>().next().unwrap_or(0.0))
    }

    fn observe(&mut self, below: f64, samples: f64, expected: f64, random: &mut Random) {
        let noise = random.normal::<1>([1], 0.0, self.count_noise, &Default::default());
        let noise = noise.into_data().iter::<f64>().next().unwrap_or(0.0);
        let share = 0.5 + (below - 0.5 * samples + noise) / expected;
        let moved = self.limit * (-self.rate * (share - self.quantile)).exp();
        // Stays a usable limit whatever happens for however long.
        self.limit = moved.clamp(f64::from(f32::MIN_POSITIVE), f64::from(f32::MAX));
    }

    fn state(&self) -> State {
        State::new().with("limit", self.limit)
    }

    fn load_state(&mut self, mut state: State) -> Result<()> {
        let limit: f64 = state.take("limit")?;
        state.finish()?;
        self.limit = positive("limit", limit)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_finds_the_quantile_through_the_noise() {
        let mut rule = Adaptive::new(0.7, 0.2, 1e-2, 5.0).unwrap();
        let mut random = Random::new(1);
        let mut late = 0.0;
        for step in 0..600 {
            // 100 norms, uniform on [0, 10).
            let below = (0..100).filter(|_| 10.0 * random.next_f64() <= rule.limit()).count();
            rule.observe(below as f64, 100.0, 100.0, &mut random);
            if step >= 300 {
                late += rule.limit() / 300.0;
            }
        }
        assert!((late - 7.0).abs() < 0.3, "{late}");
    }

    #[test]
    fn both_noises_together_spend_the_multiplier() {
        // z⁻² = z_Δ⁻² + (2σ_b)⁻².
        let rule = Adaptive::new(0.5, 0.2, 1.0, 0.8).unwrap();
        let gradient = rule.gradient_noise(1.2).unwrap();
        assert!((gradient.powi(-2) + 1.6f64.powi(-2) - 1.2f64.powi(-2)).abs() < 1e-12);
        assert!(rule.gradient_noise(1.6).is_err() && rule.gradient_noise(2.0).is_err());
        assert_eq!(rule.gradient_noise(0.0).unwrap(), 0.0);
        for bad in [Adaptive::new(0.5, 0.2, 0.0, 1.0), Adaptive::new(1.5, 0.2, 1.0, 1.0)] {
            assert!(bad.is_err());
        }
    }
}
