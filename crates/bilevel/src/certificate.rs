//! What a hypergradient can be trusted for.

use crate::error::{Error, Result};

/// The range of `vᵀHv/vᵀv` over the directions that a computation met: signs, and bounds for steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Curvature {
    /// The smallest; infinite if nothing was measured.
    pub smallest: f64,
    /// The largest; `-∞` if nothing was measured.
    pub largest: f64,
}

impl Default for Curvature {
    fn default() -> Self {
        Self { smallest: f64::INFINITY, largest: f64::NEG_INFINITY }
    }
}

impl Curvature {
    /// Takes one more quotient into the range; NaN (a zero direction) is left out.
    pub fn observe(&mut self, quotient: f64) {
        self.smallest = self.smallest.min(quotient);
        self.largest = self.largest.max(quotient);
    }

    /// Whether every direction met curves upwards.
    pub fn is_positive(&self) -> bool {
        self.smallest > 0.0
    }
}

/// What is known of a hypergradient besides its value. Every method fills it in.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Certificate {
    /// `‖∇z g(x, z)‖`: zero where the inner problem is solved. Implicit methods need it small, unrolled ones do not.
    pub inner_residual: f64,
    /// `‖b − (H + δ)v‖/‖b‖` of the linear system of an implicit method, measured with the vector that was used.
    pub linear_residual: Option<f64>,
    /// Products with the Hessian (each gives the mixed product too).
    pub hessian_vector_products: usize,
    /// Gradients of the inner or the outer objective.
    pub gradients: usize,
    /// Curvature of the inner objective along the directions met, without damping.
    pub curvature: Curvature,
    /// Damping `δ` that was used in the end.
    pub damping: f64,
    /// The largest number of inner states stored at once.
    pub stored_states: usize,
}

impl Certificate {
    /// Turns what is not good enough into a named error.
    ///
    /// # Errors
    /// [`Error::InnerNotConverged`], [`Error::LinearNotConverged`] (also where a residual is NaN).
    pub fn require(&self, inner_tolerance: f64, linear_tolerance: f64) -> Result<()> {
        if !(self.inner_residual <= inner_tolerance) {
            return Err(Error::InnerNotConverged { residual: self.inner_residual, tolerance: inner_tolerance });
        }
        match self.linear_residual {
            Some(residual) if !(residual <= linear_tolerance) => {
                Err(Error::LinearNotConverged { residual, tolerance: linear_tolerance })
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_good_enough_is_named() {
        let certificate = Certificate { inner_residual: 1e-3, linear_residual: Some(1e-2), ..Certificate::default() };
        certificate.require(1e-2, 1e-1).unwrap();
        assert!(
            matches!(certificate.require(1e-4, 1.0), Err(Error::InnerNotConverged { residual, .. }) if residual == 1e-3)
        );
        assert!(matches!(certificate.require(1.0, 1e-3), Err(Error::LinearNotConverged { .. })));
        let broken = Certificate { inner_residual: f64::NAN, ..Certificate::default() };
        assert!(broken.require(1.0, 1.0).is_err());
        let mut curvature = Curvature::default();
        assert!(curvature.is_positive());
        [2.0, f64::NAN, 0.5].into_iter().for_each(|quotient| curvature.observe(quotient));
        assert_eq!((curvature.smallest, curvature.largest), (0.5, 2.0));
        curvature.observe(0.0);
        assert!(!curvature.is_positive());
    }
}
