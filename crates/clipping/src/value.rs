//! Clipping element by element.

use burn::module::Module;
use burn::optim::GradientsParams;
use core_tensor::transform::{Context, GradientTransform, Update};
use core_tensor::{Result, Tree};

use crate::limit::limit;

/// Every element moved into `[−limit, limit]` (PyTorch's `clip_grad_value_`).
///
/// The direction of the gradient is not kept. Infinities become the limit, NaN stays. Cost: one pass in place, no host
/// synchronisation.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use clipping::clip_by_value;
/// use core_tensor::Tree;
///
/// let grads = Tree::empty().push("w", Tensor::<1>::from_data([3.0, -0.5], &Device::flex()))?;
/// let clipped: Vec<f32> = clip_by_value(grads, 1.0)?.get::<1>("w")?.try_into_vec_as().unwrap();
/// assert_eq!(clipped, [1.0, -0.5]);
/// # Ok::<(), core_tensor::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct ClipByValue {
    limit: f64,
}

impl ClipByValue {
    /// A limit for the magnitude of an element.
    ///
    /// # Errors
    /// [`core_tensor::Error::Parameter`] if it is negative or NaN.
    pub fn new(limit_: f64) -> Result<Self> {
        Ok(Self { limit: limit("limit", limit_)? })
    }
}

impl GradientTransform for ClipByValue {
    fn name(&self) -> &str {
        "clip_by_value"
    }

    fn apply(&mut self, grads: Tree, _context: &Context<'_>) -> Result<Update> {
        Ok(Update::Apply(grads.clamp(-self.limit, self.limit)?))
    }
}

/// [`ClipByValue`] in one call.
///
/// # Errors
/// [`core_tensor::Error::Parameter`] if the limit is negative or NaN.
pub fn clip_by_value(grads: Tree, max_value: f64) -> Result<Tree> {
    let bound = limit("limit", max_value)?;
    grads.clamp(-bound, bound)
}

/// [`clip_by_value`] for gradients as Burn's optimizers take them.
///
/// # Errors
/// [`core_tensor::Error::Parameter`] if the limit is negative or NaN.
pub fn clip_grad_value<M: Module>(grads: GradientsParams, model: &M, max_value: f64) -> Result<GradientsParams> {
    clip_by_value(Tree::from_gradients_params(grads, model), max_value)?.into_params()
}

#[cfg(test)]
mod conformance {
    use super::*;
    core_tensor::transform_conformance!(by_value, || ClipByValue::new(0.5).unwrap());
}
