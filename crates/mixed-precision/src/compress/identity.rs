//! The compressor that changes nothing.

use core_tensor::Tree;
use core_tensor::transform::Identity;

use super::Compressor;
use crate::error::Result;

/// `Q(x) = x`: what others are measured against. `ω = 0`, `δ = 1`, 32 bits an element.
impl Compressor for Identity {
    fn name(&self) -> &str {
        "identity"
    }

    fn compress(&self, _step: u64, tree: Tree) -> Result<Tree> {
        Ok(tree)
    }

    fn omega(&self, _d: usize) -> Option<f64> {
        Some(0.0)
    }

    fn delta(&self, _d: usize) -> Option<f64> {
        Some(1.0)
    }

    fn bits(&self, d: usize) -> f64 {
        32.0 * d as f64
    }
}
