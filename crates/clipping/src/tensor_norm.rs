//! Clipping each tensor by its own norm, and groups of tensors by theirs.

use core_tensor::transform::{Context, GradientTransform, Update};
use core_tensor::{LeafName, Result, Scalar, Tree};

use crate::limit::limit;
use crate::report::Epsilon;

/// Each tensor `g_k ← min(1, c/‖g_k‖)·g_k` on its own, what Burn's own clipping and Keras's `clipnorm` do.
///
/// Tensors are shortened by different factors, so the direction of the whole gradient changes. Cost: one pass to read and
/// one to scale those that are too long. No host synchronisation.
#[derive(Clone, Debug)]
pub struct ClipByTensorNorm {
    max_norm: f64,
    epsilon: Epsilon,
}

impl ClipByTensorNorm {
    /// A limit for the Euclidean norm of each tensor, reached exactly.
    ///
    /// # Errors
    /// [`core_tensor::Error::Parameter`] if it is negative or NaN.
    pub fn new(max_norm: f64) -> Result<Self> {
        Ok(Self { max_norm: limit("max_norm", max_norm)?, epsilon: Epsilon::Exact })
    }

    /// With PyTorch's epsilon.
    pub fn torch(self) -> Self {
        Self { epsilon: Epsilon::Torch, ..self }
    }
}

impl GradientTransform for ClipByTensorNorm {
    fn name(&self) -> &str {
        "clip_by_tensor_norm"
    }

    fn apply(&mut self, grads: Tree, _context: &Context<'_>) -> Result<Update> {
        let threshold = Scalar::from(self.max_norm);
        let norms = grads.leaf_norms().into_iter();
        let factors: Vec<Scalar> = norms.map(|norm| self.epsilon.clip(norm, threshold.clone()).coefficient).collect();
        Ok(Update::Apply(scale_longer(grads, &factors)?))
    }
}

/// Names the group of a leaf.
type Grouping = Box<dyn Fn(&LeafName) -> Option<String> + Send>;

/// Groups of tensors clipped by the norm of the group: encoder and decoder, weights and biases, experts.
///
/// A function names the group of each leaf; leaves of one name share a norm, leaves without one pass unchanged. Cost and
/// synchronisation as for [`ClipByTensorNorm`].
///
/// ```
/// use clipping::ClipByGroupNorm;
///
/// // The first component of the path is the group.
/// let by_block = ClipByGroupNorm::new(1.0, |name| name.path.split('.').next().map(str::to_string))?;
/// # let _ = by_block;
/// # Ok::<(), core_tensor::Error>(())
/// ```
pub struct ClipByGroupNorm {
    max_norm: f64,
    epsilon: Epsilon,
    group: Grouping,
}

impl ClipByGroupNorm {
    /// A limit for the Euclidean norm of each group, reached exactly.
    ///
    /// # Errors
    /// [`core_tensor::Error::Parameter`] if it is negative or NaN.
    pub fn new(max_norm: f64, group: impl Fn(&LeafName) -> Option<String> + Send + 'static) -> Result<Self> {
        Ok(Self { max_norm: limit("max_norm", max_norm)?, epsilon: Epsilon::Exact, group: Box::new(group) })
    }

    /// With PyTorch's epsilon.
    pub fn torch(self) -> Self {
        Self { epsilon: Epsilon::Torch, ..self }
    }
}

impl GradientTransform for ClipByGroupNorm {
    fn name(&self) -> &str {
        "clip_by_group_norm"
    }

    fn apply(&mut self, grads: Tree, _context: &Context<'_>) -> Result<Update> {
        let groups: Vec<Option<String>> = grads.names().iter().map(&self.group).collect();
        let mut coefficients: Vec<(&str, Scalar)> = Vec::new();
        let mut factors = Vec::with_capacity(groups.len());
        for group in &groups {
            let Some(group) = group else {
                factors.push(Scalar::from(1.0));
                continue;
            };
            let known = coefficients.iter().find(|(name, _)| name == group);
            let coefficient = match known {
                Some((_, coefficient)) => coefficient.clone(),
                None => {
                    let mut members = groups.iter().map(|other| other.as_ref() == Some(group));
                    let norm = grads.filter(|_| members.next() == Some(true)).norm();
                    let clip = self.epsilon.clip(norm, Scalar::from(self.max_norm));
                    coefficients.push((group, clip.coefficient.clone()));
                    clip.coefficient
                }
            };
            factors.push(coefficient);
        }
        Ok(Update::Apply(scale_longer(grads, &factors)?))
    }
}

impl std::fmt::Debug for ClipByGroupNorm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClipByGroupNorm").field("max_norm", &self.max_norm).finish_non_exhaustive()
    }
}

/// [`Tree::scale_leaves`], leaving the tree alone if every factor is known to be 1.
pub(crate) fn scale_longer(grads: Tree, factors: &[Scalar]) -> Result<Tree> {
    match factors.iter().all(|factor| factor.known() == Some(1.0)) {
        true => Ok(grads),
        false => grads.scale_leaves(factors),
    }
}

#[cfg(test)]
mod conformance {
    use super::*;
    core_tensor::transform_conformance!(by_tensor_norm, || ClipByTensorNorm::new(0.5).unwrap());
    core_tensor::transform_conformance!(by_group_norm, || ClipByGroupNorm::new(0.5, |name| {
        (name.path.len() != 5).then(|| (name.path.len() % 2).to_string())
    })
    .unwrap());
}
