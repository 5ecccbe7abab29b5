//! Clipping each tensor by its root mean square.

use core_tensor::transform::{Context, GradientTransform, Update};
use core_tensor::{Result, Scalar, Tree};

use crate::limit::positive;
use crate::tensor_norm::scale_longer;

/// `u_k ← u_k / max(1, RMS(u_k)/d)` for each tensor, with `RMS(u) = ‖u‖/√n`.
///
/// Adafactor's update clipping with `d = 1` (N. Shazeer, M. Stern, "Adafactor", ICML 2018, section 6, algorithm 4), optax's
/// `clip_by_block_rms`; it stands behind a transform that scales by a second moment. Cost: one pass to read and one to
/// scale what is too large. No host synchronisation.
#[derive(Clone, Debug)]
pub struct ClipByBlockRms {
    threshold: f64,
}

impl ClipByBlockRms {
    /// The largest root mean square `d` of a tensor.
    ///
    /// # Errors
    /// [`core_tensor::Error::Parameter`] unless it is above zero and finite.
    pub fn new(threshold: f64) -> Result<Self> {
        Ok(Self { threshold: positive("threshold", threshold)? })
    }
}

impl GradientTransform for ClipByBlockRms {
    fn name(&self) -> &str {
        "clip_by_block_rms"
    }

    fn apply(&mut self, grads: Tree, _context: &Context<'_>) -> Result<Update> {
        use burn::backend::TensorMetadata;
        let sizes: Vec<usize> = grads.iter().map(|(_, leaf)| leaf.shape().num_elements()).collect();
        let factors: Vec<Scalar> = grads
            .leaf_norms()
            .into_iter()
            .zip(sizes)
            .map(|(norm, size)| {
                let excess = norm * (1.0 / ((size.max(1) as f64).sqrt() * self.threshold));
                excess.max(&Scalar::from(1.0)).recip()
            })
            .collect();
        Ok(Update::Apply(scale_longer(grads, &factors)?))
    }
}

#[cfg(test)]
mod conformance {
    use super::*;
    core_tensor::transform_conformance!(block_rms, || ClipByBlockRms::new(0.1).unwrap());
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, Tensor};

    #[test]
    fn a_tensor_is_brought_to_the_threshold() {
        let device = Device::flex();
        let grads = Tree::empty()
            .push("large", Tensor::<1>::from_data([6.0, 8.0, 0.0, 0.0], &device))
            .and_then(|tree| tree.push("small", Tensor::<1>::from_data([0.5, -0.5], &device)))
            .unwrap();
        let Ok(Update::Apply(out)) = ClipByBlockRms::new(1.0).unwrap().apply(grads, &Context::new(0)) else {
            panic!("applied");
        };
        let values = |path: &str| out.get::<1>(path).unwrap().try_into_vec_as::<f32>().unwrap();
        // RMS 5 → 1.
        assert_eq!(values("large"), [1.2, 1.6, 0.0, 0.0]);
        assert_eq!(values("small"), [0.5, -0.5]);
        assert!(ClipByBlockRms::new(0.0).is_err());
    }
}
