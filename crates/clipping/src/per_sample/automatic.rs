//! Normalising every sample instead of clipping it.

use burn::tensor::Tensor;
use core_tensor::Result;

use super::{SampleClip, SampleNorms};
use crate::limit::{not_negative, positive};

/// `fᵢ = C/(‖gᵢ‖ + γ)`: automatic clipping, without a threshold to tune.
///
/// Z. Bu, Y.-X. Wang, S. Zha, G. Karypis, "Automatic clipping: differentially private deep learning made easier and stronger",
/// NeurIPS 2023 (AUTO-S), `γ = 0.01`. Every sample adds nearly `C`, so that `C` only rescales the learning rate; `γ > 0` keeps
/// the lengths of small gradients apart, without which the method need not converge.
///
/// ```
/// use clipping::per_sample::{Automatic, SampleClip};
///
/// assert_eq!(Automatic::new(1.0, 0.01)?.sensitivity(), 1.0);
/// # Ok::<(), core_tensor::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Automatic {
    size: f64,
    gamma: f64,
}

impl Automatic {
    /// The size `C` and the stability constant `γ`.
    ///
    /// # Errors
    /// [`core_tensor::Error::Parameter`] unless `0 < size < ∞` and `0 <= gamma < ∞`.
    pub fn new(size: f64, gamma: f64) -> Result<Self> {
        Ok(Self { size: positive("size", size)?, gamma: not_negative("gamma", gamma)? })
    }
}

impl SampleClip for Automatic {
    fn name(&self) -> &str {
        "automatic"
    }

    fn factors(&self, norms: &SampleNorms<'_>) -> Result<Vec<Tensor<1>>> {
        let Some(total) = norms.of(|_| true) else { return Ok(Vec::new()) };
        let shifted = total.add_scalar(self.gamma).clamp_min(f64::from(f32::MIN_POSITIVE));
        Ok(vec![shifted.recip().mul_scalar(self.size); norms.names.len()])
    }

    fn sensitivity(&self) -> f64 {
        self.size
    }
}
