//! One limit for the whole gradient of a sample.

use burn::tensor::Tensor;
use core_tensor::Result;

use super::{SampleClip, SampleNorms, shrink};
use crate::limit::limit;

/// `fᵢ = min(1, C/‖gᵢ‖)`: flat clipping.
///
/// M. Abadi et al., "Deep learning with differential privacy", CCS 2016, algorithm 1. The direction of every sample's gradient
/// is kept, that of the sum is not: clipping small and large ones alike biases it.
///
/// ```
/// use clipping::per_sample::{Flat, SampleClip};
///
/// assert_eq!(Flat::new(1.5)?.sensitivity(), 1.5);
/// assert!(Flat::new(-1.0).is_err());
/// # Ok::<(), core_tensor::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Flat {
    max_norm: f64,
}

impl Flat {
    /// The limit `C`. 0 makes every sample zero, infinity changes none.
    ///
    /// # Errors
    /// [`core_tensor::Error::Parameter`] if it is negative or NaN.
    pub fn new(max_norm: f64) -> Result<Self> {
        Ok(Self { max_norm: limit("max_norm", max_norm)? })
    }
}

impl SampleClip for Flat {
    fn name(&self) -> &str {
        "flat"
    }

    fn factors(&self, norms: &SampleNorms<'_>) -> Result<Vec<Tensor<1>>> {
        let Some(total) = norms.of(|_| true) else { return Ok(Vec::new()) };
        Ok(vec![shrink(total, self.max_norm); norms.names.len()])
    }

    fn sensitivity(&self) -> f64 {
        self.max_norm
    }
}
