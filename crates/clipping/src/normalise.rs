//! Normalised and smoothed gradients: the limit of clipping with a threshold near zero.

use core_tensor::transform::{Context, GradientTransform, Update};
use core_tensor::{Result, Scalar, Tree};

use crate::limit::not_negative;

/// `g ← g/(‖g‖ + γ)`.
///
/// With `γ = 0` the normalised gradient (Yu. Nesterov, 1984; E. Hazan, K. Levy, S. Shalev-Shwartz, "Beyond convexity",
/// NeurIPS 2015), whose steps all have one length; with `γ > 0` the smoothed clip that is never flat (J. Zhang, T. He,
/// S. Sra, A. Jadbabaie, "Why gradient clipping accelerates training", ICLR 2020, equation 3; automatic clipping of Bu et
/// al. 2023). A zero gradient stays zero. Cost: one pass to read and one to scale. No host synchronisation.
#[derive(Clone, Debug)]
pub struct NormaliseGradient {
    gamma: f64,
}

impl NormaliseGradient {
    /// The normalised gradient.
    pub fn new() -> Self {
        Self { gamma: 0.0 }
    }

    /// The smoothed gradient with constant `gamma`.
    ///
    /// # Errors
    /// [`core_tensor::Error::Parameter`] if it is negative, NaN or infinite.
    pub fn smoothed(gamma: f64) -> Result<Self> {
        Ok(Self { gamma: not_negative("gamma", gamma)? })
    }
}

impl Default for NormaliseGradient {
    fn default() -> Self {
        Self::new()
    }
}

impl GradientTransform for NormaliseGradient {
    fn name(&self) -> &str {
        "normalise_gradient"
    }

    fn apply(&mut self, grads: Tree, _context: &Context<'_>) -> Result<Update> {
        let norm = grads.norm() + Scalar::from(self.gamma);
        // A zero gradient: any finite factor keeps it.
        let factor = match norm.known() {
            Some(0.0) => Scalar::from(1.0),
            _ => norm.max(&Scalar::from(f64::from(f32::MIN_POSITIVE))).recip(),
        };
        Ok(Update::Apply(grads.scale_by(&factor)))
    }
}

#[cfg(test)]
mod conformance {
    use super::*;
    core_tensor::transform_conformance!(normalised, NormaliseGradient::new);
    core_tensor::transform_conformance!(smoothed, || NormaliseGradient::smoothed(0.1).unwrap());
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, Tensor};

    fn apply(mut transform: NormaliseGradient, x: [f32; 2]) -> Vec<f32> {
        let grads = Tree::empty().push("x", Tensor::<1>::from_data(x, &Device::flex())).unwrap();
        match transform.apply(grads, &Context::new(0)) {
            Ok(Update::Apply(out)) => out.get::<1>("x").unwrap().try_into_vec_as().unwrap(),
            _ => panic!("applied"),
        }
    }

    #[test]
    fn lengths_are_one_or_a_little_less() {
        assert_eq!(apply(NormaliseGradient::new(), [3.0, 4.0]), [0.6, 0.8]);
        assert_eq!(apply(NormaliseGradient::new(), [0.0, 0.0]), [0.0, 0.0]);
        assert_eq!(apply(NormaliseGradient::smoothed(5.0).unwrap(), [3.0, 4.0]), [0.3, 0.4]);
        assert!(NormaliseGradient::smoothed(-1.0).is_err());
    }
}
