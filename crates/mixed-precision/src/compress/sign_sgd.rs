//! signSGD: one bit an element.

use burn::backend::DispatchTensor;
use burn::tensor::{DType, Tensor};
use core_tensor::Tree;
use core_tensor::host::{self, SliceMut, vectorised};

use super::{Compressor, each, on_host, sum};
use crate::error::Result;
use crate::memory::{self, Wide, with_slice};

/// The sign of every element, times the mean magnitude of its tensor: `Q(x) = (‖x‖₁/d)·sign(x)`, `sign(0) = 0`.
///
/// [`unscaled`](Self::unscaled) gives `sign(x)` as in signSGD, whose step has one length whatever the gradient's. Both are biased:
/// use [`ErrorFeedback`](crate::ErrorFeedback) with the scaled one, which is EF-signSGD.
///
/// Constants: scaled `δ = 1/d` (attained where one element is far larger than the others; the share is `‖x‖₁²/(d‖x‖²)`, 2/π for normal numbers);
/// unscaled none. One bit an element, and 32 for the scale; elements that are exactly zero need a third symbol, not counted.
/// A tensor with a NaN becomes NaN if scaled; unscaled, NaN stays where it is.
///
/// Cost: two passes over host memory, in place; unscaled one. On other devices tensor operations, without a host synchronisation. J. Bernstein et al.,
/// "signSGD: compressed optimisation for non-convex problems", ICML 2018, arXiv:1802.04434, algorithm 1; S. P. Karimireddy et al., "Error
/// feedback fixes SignSGD and other gradient compression schemes", ICML 2019, arXiv:1901.09847, algorithm 1.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use core_tensor::Tree;
/// use mixed_precision::{Compressor, SignSgd};
///
/// let tree = Tree::empty().push("w", Tensor::<1>::from_data([3.0, -1.0, 0.0, 4.0], &Device::flex()))?;
/// let y: Vec<f64> = SignSgd::scaled().compress(0, tree)?.get::<1>("w")?.into_data().iter::<f64>().collect();
/// assert_eq!(y, [2.0, -2.0, 0.0, 2.0]);
/// # Ok::<(), mixed_precision::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SignSgd {
    scaled: bool,
}

impl SignSgd {
    /// Signs times the mean magnitude.
    pub fn scaled() -> Self {
        Self { scaled: true }
    }

    /// Signs alone.
    pub fn unscaled() -> Self {
        Self { scaled: false }
    }

    fn slice<E: Wide>(self, x: &mut [E]) {
        let scale = match self.scaled {
            // Means before the sum, where the sum would be infinite.
            true => match sum(x, f64::abs) / x.len() as f64 {
                mean if mean < f64::INFINITY => mean,
                _ => sum(x, |v| v.abs() / x.len() as f64),
            },
            false => 1.0,
        };
        memory::chunks(x, |_, x| {
            vectorised(|| {
                for x in x {
                    let v = x.wide();
                    let sign = if v == 0.0 || v.is_nan() { v } else { 1f64.copysign(v) };
                    // 0·∞ is not wanted.
                    *x = E::narrow(if v == 0.0 { v } else { scale * sign });
                }
            });
        });
    }

    fn tensor(self, x: Tensor<1>) -> Tensor<1> {
        let dtype = x.dtype();
        let wide = if dtype == DType::F64 { x } else { x.cast(DType::F32) };
        let sign = wide.clone().sign();
        let y = match self.scaled {
            true => sign * wide.abs().mean(),
            false => sign,
        };
        y.cast(dtype)
    }
}

impl Compressor for SignSgd {
    fn name(&self) -> &str {
        if self.scaled { "scaled_sign" } else { "sign_sgd" }
    }

    fn compress(&self, _step: u64, tree: Tree) -> Result<Tree> {
        if !tree.iter().all(|(_, leaf)| host::is_host(leaf)) {
            return Ok(tree.map_flat(|_, x| if x.dims()[0] == 0 { x } else { self.tensor(x) })?);
        }
        let host = |leaf: DispatchTensor| on_host(leaf, self.name(), |x| with_slice!(SliceMut, x, x => self.slice(x)));
        each(tree, |_, leaf| host(leaf))
    }

    fn omega(&self, _d: usize) -> Option<f64> {
        None
    }

    fn delta(&self, d: usize) -> Option<f64> {
        self.scaled.then(|| 1.0 / d.max(1) as f64)
    }

    fn bits(&self, d: usize) -> f64 {
        d as f64 + if self.scaled { 32.0 } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core_tensor::testing::{Trees, assert_close, property};

    #[test]
    fn damage_shows_and_zero_stays() {
        let mut x = [f32::NAN, -0.0, 3.0];
        SignSgd::unscaled().slice(&mut x);
        assert!(x[0].is_nan() && x[1].to_bits() == (-0.0f32).to_bits() && x[2] == 1.0);
        let mut x = [1.0, f64::NEG_INFINITY, 0.0];
        SignSgd::scaled().slice(&mut x);
        assert_eq!(x, [f64::INFINITY, f64::NEG_INFINITY, 0.0]);
        let mut x = [f64::MAX, -f64::MAX];
        SignSgd::scaled().slice(&mut x);
        assert_eq!(x, [f64::MAX, -f64::MAX]);
    }

    #[test]
    fn tensor_operations_agree_with_host_loops() {
        for q in [SignSgd::scaled(), SignSgd::unscaled()] {
            property(40, Trees::new().exponents(-3..=3).several(1), |trees| {
                let host = q.compress(0, trees[0].clone()).unwrap();
                let device = trees[0].clone().map_flat(|_, x| if x.dims()[0] == 0 { x } else { q.tensor(x) }).unwrap();
                assert_close(&host, &device, 1e-6 * host.norm_inf().value());
            });
        }
    }
}
