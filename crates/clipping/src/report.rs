//! What a clip did, read only on request.

use std::sync::{Arc, Mutex, PoisonError};

use core_tensor::{Result, Scalar, Tree};

/// A measured gradient: its norm, the limit and the factor that brings it there.
///
/// The token between measuring and scaling. [`apply`](Clip::apply) scales a tree; to save that pass over memory hand
/// [`coefficient`](Clip::coefficient) on to whatever reads the gradient next, with [`fold`](Clip::fold). On a GPU all
/// three numbers stay there until one is read, and reading is the only host synchronisation.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use clipping::ClipByGlobalNorm;
/// use core_tensor::Tree;
///
/// let device = Device::flex();
/// let grads = Tree::empty().push("w", Tensor::<1>::from_data([3.0, 4.0], &device))?;
/// let params = Tree::empty().push("w", Tensor::<1>::from_data([1.0, 1.0], &device))?;
/// let clip = ClipByGlobalNorm::new(1.0)?.exact().measure(&grads)?;
/// // x ← x − lr·coefficient·g in one pass: the clipped gradient is never written.
/// let params = params.axpy_by(&clip.fold(-0.5), &grads)?;
/// let after: Vec<f32> = params.get::<1>("w")?.try_into_vec_as().unwrap();
/// assert!((after[0] - 0.7).abs() < 1e-6 && (after[1] - 0.6).abs() < 1e-6);
/// assert!(clip.clipped() && clip.norm.value() == 5.0);
/// # Ok::<(), core_tensor::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Clip {
    /// The norm before clipping.
    pub norm: Scalar,
    /// What the gradient is multiplied by, at most 1.
    pub coefficient: Scalar,
    /// The limit that held in this step.
    pub threshold: Scalar,
}

impl Clip {
    /// The gradient times the coefficient: one pass, none where the coefficient is known to be 1.
    pub fn apply(&self, grads: Tree) -> Tree {
        match self.coefficient.known() {
            Some(1.0) => grads,
            _ => grads.scale_by(&self.coefficient),
        }
    }

    /// `factor · coefficient`, to fold the clip into an unscale (`1/scale`) or a step (`−lr`).
    pub fn fold(&self, factor: f64) -> Scalar {
        self.coefficient.clone() * factor
    }

    /// Whether the gradient was shortened. Waits for a GPU.
    pub fn clipped(&self) -> bool {
        // A coefficient of NaN comes from a gradient that is not finite.
        self.coefficient.value() != 1.0
    }

    /// Whether the norm is a finite number. Waits for a GPU.
    pub fn is_finite(&self) -> bool {
        self.norm.value().is_finite()
    }
}

/// A handle on the last [`Clip`] of a transform, for use while the transform itself is inside a chain.
///
/// ```
/// use burn::optim::SgdConfig;
/// use clipping::{ClipByGlobalNorm, Reports};
/// use core_tensor::Chain;
///
/// let reports = Reports::default();
/// let clip = ClipByGlobalNorm::new(1.0)?.report_to(&reports);
/// let train = Chain::new().then(clip).before(SgdConfig::new().init());
/// assert!(reports.last().is_none(), "no step yet");
/// # let _ = train;
/// # Ok::<(), core_tensor::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Reports(Arc<Mutex<Option<Clip>>>);

impl Reports {
    /// What the last step did; `None` before the first.
    pub fn last(&self) -> Option<Clip> {
        self.lock().clone()
    }

    pub(crate) fn put(reports: &Option<Self>, clip: &Clip) {
        if let Some(reports) = reports {
            *reports.lock() = Some(clip.clone());
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Clip>> {
        // A clip is stored in one assignment, so a panic elsewhere leaves a whole one.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How the norm is divided by.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Epsilon {
    /// `c/(‖g‖ + 10⁻⁶)`, as PyTorch's `clip_grad_norm_`: a little shorter than the limit, and gradients within `10⁻⁶`
    /// below it are shortened too.
    #[default]
    Torch,
    /// `c/‖g‖`, as optax: exactly the limit up to rounding.
    Exact,
}

impl Epsilon {
    /// `min(1, threshold/‖g‖)` without a synchronisation. A limit of 0 gives 0, a norm of 0 gives 1 unless the limit is
    /// 0 too, an infinite limit gives 1, a norm of NaN gives NaN.
    pub(crate) fn clip(self, norm: Scalar, threshold: Scalar) -> Clip {
        let one = Scalar::from(1.0);
        let coefficient = match (threshold.known(), self) {
            (Some(f64::INFINITY), _) => one,
            (_, Self::Torch) => (&threshold / &(norm.clone() + 1e-6)).min(&one),
            // The smallest normal f32 stands for a zero norm, on every device.
            (_, Self::Exact) => match norm.known() {
                Some(known) => {
                    let ratio = if known == 0.0 { known.max(f64::MIN_POSITIVE) } else { known };
                    (&threshold / &Scalar::from(ratio)).min(&one)
                }
                None => (&threshold / &norm.max(&Scalar::from(f64::from(f32::MIN_POSITIVE)))).min(&one),
            },
        };
        Clip { norm, coefficient, threshold }
    }
}

/// A limit of one number for the norm of a whole tree.
pub(crate) fn clip_to(grads: Tree, norm: Scalar, threshold: f64, epsilon: Epsilon) -> (Tree, Clip) {
    let clip = epsilon.clip(norm, Scalar::from(threshold));
    (clip.apply(grads), clip)
}

/// The `p`-norm of several parts from the norms of each: on several devices, of several shards. No synchronisation.
///
/// # Errors
/// [`core_tensor::Error::Parameter`] if `p` is below 1 or NaN.
pub fn combine_norms(norms: &[Scalar], p: f64) -> Result<Scalar> {
    if !(p >= 1.0) {
        return Err(core_tensor::Error::Parameter { parameter: "p", value: p, bound: "1 <= p <= inf" });
    }
    let zero = Scalar::from(0.0);
    let largest = norms.iter().fold(zero.clone(), |largest, norm| largest.max(norm));
    if p == f64::INFINITY || norms.len() < 2 {
        return Ok(largest);
    }
    // Relative to the largest part, so that powers neither overflow nor vanish.
    let scale = largest.max(&Scalar::from(f64::from(f32::MIN_POSITIVE)));
    let sum = norms.iter().fold(zero, |sum, norm| sum + (norm / &scale).powf(p));
    Ok(sum.powf(1.0 / p) * scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coefficients_at_the_edges() {
        let clip = |norm: f64, limit: f64, epsilon: Epsilon| {
            epsilon.clip(Scalar::from(norm), Scalar::from(limit)).coefficient.value()
        };
        for epsilon in [Epsilon::Torch, Epsilon::Exact] {
            assert_eq!(clip(3.0, 0.0, epsilon), 0.0, "a limit of zero");
            assert_eq!(clip(0.0, 0.0, epsilon), 0.0);
            assert_eq!(clip(3.0, f64::INFINITY, epsilon), 1.0, "an infinite limit");
            assert_eq!(clip(f64::INFINITY, f64::INFINITY, epsilon), 1.0);
            assert_eq!(clip(0.0, 1.0, epsilon), 1.0, "a zero norm");
            assert!(clip(f64::NAN, 1.0, epsilon).is_nan());
            assert_eq!(clip(f64::INFINITY, 1.0, epsilon), 0.0);
        }
        assert_eq!(clip(2.0, 1.0, Epsilon::Exact), 0.5);
        assert_eq!(clip(2.0, 1.0, Epsilon::Torch), 1.0 / (2.0 + 1e-6));
        assert_eq!(clip(1.0, 1.0, Epsilon::Exact), 1.0);
    }

    #[test]
    fn norms_of_parts_combine() {
        let parts = |values: &[f64]| values.iter().map(|x| Scalar::from(*x)).collect::<Vec<_>>();
        let combine = |values: &[f64], p| combine_norms(&parts(values), p).unwrap().value();
        assert_eq!(combine(&[3.0, 4.0], 2.0), 5.0);
        assert_eq!(combine(&[3.0, 4.0], 1.0), 7.0);
        assert_eq!(combine(&[3.0, 4.0], f64::INFINITY), 4.0);
        assert_eq!(combine(&[], 2.0), 0.0);
        assert_eq!(combine(&[0.0, 0.0], 2.0), 0.0);
        assert!((combine(&[3e200, 4e200], 2.0) / 5e200 - 1.0).abs() < 1e-15);
        assert!(combine(&[f64::NAN, 1.0], 2.0).is_nan());
        assert!(combine_norms(&[], 0.5).is_err());
    }
}
