//! Clipping by the norm of the whole gradient.

use burn::module::Module;
use burn::optim::GradientsParams;
use core_tensor::transform::{Context, GradientTransform, Update};
use core_tensor::{Result, Scalar, Tree};

use crate::limit::limit;
use crate::report::{Clip, Epsilon, Reports, clip_to};

/// `g ← min(1, c/‖g‖)·g` with the norm of all parameters together.
///
/// The direction of the gradient is kept; a gradient within the limit passes with every bit in place. R. Pascanu,
/// T. Mikolov, Y. Bengio, "On the difficulty of training recurrent neural networks", ICML 2013, algorithm 1; PyTorch's
/// `clip_grad_norm_`, optax's `clip_by_global_norm`. The norm is accumulated in `f64` on the host and in `f32` or better
/// elsewhere, scaled so that it neither overflows nor vanishes, whatever the dtypes of the leaves and their grouping.
///
/// Cost: one pass to read, and where the gradient is too long one to scale it in place. No host synchronisation. A NaN
/// in the gradient makes all of it NaN, an infinity gives NaN there and zeros elsewhere, as in PyTorch;
/// [`NonFinite`](crate::NonFinite) before it does better.
///
/// ```
/// use burn::optim::AdamWConfig;
/// use clipping::ClipByGlobalNorm;
/// use core_tensor::Chain;
///
/// // Behind it any Burn optimizer.
/// let train = Chain::new().then(ClipByGlobalNorm::new(1.0)?).before(AdamWConfig::new().init());
/// # let _ = train;
/// # Ok::<(), core_tensor::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct ClipByGlobalNorm {
    max_norm: f64,
    p: f64,
    epsilon: Epsilon,
    reports: Option<Reports>,
}

impl ClipByGlobalNorm {
    /// A limit for the Euclidean norm, with PyTorch's epsilon. 0 makes every gradient zero, infinity changes none.
    ///
    /// # Errors
    /// [`core_tensor::Error::Parameter`] if `max_norm` is negative or NaN.
    pub fn new(max_norm: f64) -> Result<Self> {
        Ok(Self { max_norm: limit("max_norm", max_norm)?, p: 2.0, epsilon: Epsilon::Torch, reports: None })
    }

    /// Without epsilon: exactly to the limit.
    pub fn exact(self) -> Self {
        Self { epsilon: Epsilon::Exact, ..self }
    }

    /// The `p`-norm instead, `1 <= p <= ∞`.
    ///
    /// # Errors
    /// [`core_tensor::Error::Parameter`] if `p` is below 1 or NaN.
    pub fn with_p(self, p: f64) -> Result<Self> {
        Tree::empty().norm_p(p)?;
        Ok(Self { p, ..self })
    }

    /// Leave the report of every step in `reports`.
    pub fn report_to(self, reports: &Reports) -> Self {
        Self { reports: Some(reports.clone()), ..self }
    }

    /// Measures without changing anything: the norm and the coefficient, to be applied or handed on. One pass to read.
    ///
    /// # Errors
    /// None but those of [`Tree::norm_p`], which were excluded.
    pub fn measure(&self, grads: &Tree) -> Result<Clip> {
        Ok(self.token(grads.norm_p(self.p)?))
    }

    /// The token for a norm that was computed elsewhere, such as one summed across devices
    /// ([`combine_norms`](crate::combine_norms)).
    pub fn token(&self, norm: Scalar) -> Clip {
        self.epsilon.clip(norm, Scalar::from(self.max_norm))
    }
}

impl GradientTransform for ClipByGlobalNorm {
    fn name(&self) -> &str {
        "clip_by_global_norm"
    }

    fn apply(&mut self, grads: Tree, _context: &Context<'_>) -> Result<Update> {
        let clip = self.measure(&grads)?;
        Reports::put(&self.reports, &clip);
        Ok(Update::Apply(clip.apply(grads)))
    }
}

/// A tree clipped by its Euclidean norm (PyTorch's epsilon), and what was done.
///
/// # Errors
/// [`core_tensor::Error::Parameter`] if `max_norm` is negative or NaN.
pub fn clip_by_global_norm(grads: Tree, max_norm: f64) -> Result<(Tree, Clip)> {
    let norm = grads.norm();
    Ok(clip_to(grads, norm, limit("max_norm", max_norm)?, Epsilon::Torch))
}

/// [`clip_by_global_norm`] for gradients as Burn's optimizers take them: the one line to add to a training loop.
///
/// ```
/// use burn::nn::LinearConfig;
/// use burn::optim::{AdamWConfig, GradientsParams};
/// use burn::tensor::{Device, Tensor};
/// use clipping::clip_grad_norm;
///
/// let device = Device::flex().autodiff();
/// let mut model = LinearConfig::new(3, 1).init(&device);
/// let mut optim = AdamWConfig::new().init();
/// for _ in 0..2 {
///     let loss = model.forward(Tensor::<2>::ones([4, 3], &device)).powi_scalar(2).mean();
///     let grads = GradientsParams::from_grads(loss.backward(), &model);
///     let (grads, clip) = clip_grad_norm(grads, &model, 1.0)?;
///     model = optim.step(1e-3, model, grads);
///     println!("norm before clipping {}", clip.norm.value());
/// }
/// # Ok::<(), core_tensor::Error>(())
/// ```
///
/// # Errors
/// [`core_tensor::Error::Parameter`] if `max_norm` is negative or NaN.
pub fn clip_grad_norm<M: Module>(grads: GradientsParams, model: &M, max_norm: f64) -> Result<(GradientsParams, Clip)> {
    let (grads, clip) = clip_by_global_norm(Tree::from_gradients_params(grads, model), max_norm)?;
    Ok((grads.into_params()?, clip))
}

#[cfg(test)]
mod conformance {
    use super::*;
    core_tensor::transform_conformance!(torch, || ClipByGlobalNorm::new(1.0).unwrap());
    core_tensor::transform_conformance!(exact_max, || ClipByGlobalNorm::new(0.1)
        .unwrap()
        .exact()
        .with_p(f64::INFINITY)
        .unwrap());
}
