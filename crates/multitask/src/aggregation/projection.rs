//! What UPGrad and DualProj have in common: a projection on the cone of directions along which no loss grows.

use super::normalise::Normalise;
use crate::check::preference;
use crate::solvers::Matrix;
use crate::{Gramian, Result};

/// The matrix `Ĝ` of the quadratic programs, and the preference `u`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Projection {
    pub normalise: Normalise,
    preference: Option<Vec<f64>>,
}

impl Projection {
    pub fn with_preference(self, preference_: &[f64]) -> Result<Self> {
        Ok(Self { preference: Some(preference("preference", preference_)?), ..self })
    }

    /// `Ĝ` and the preferences of the finite rows, by default one over their number.
    pub fn program(&self, method: &'static str, gramian: &Gramian) -> Result<(Matrix, Vec<f64>)> {
        Ok((self.normalise.matrix(gramian), super::preference(method, &self.preference, gramian)?))
    }
}

/// The settings of a method with a field `projection`.
macro_rules! projection_settings {
    ($method:ty, $preference:literal) => {
        impl $method {
            #[doc = $preference]
            ///
            /// # Errors
            /// [`Error::Parameter`](crate::Error::Parameter) for a negative number, NaN, or zeros only.
            pub fn preference(self, preference: &[f64]) -> Result<Self> {
                Ok(Self { projection: self.projection.with_preference(preference)? })
            }

            /// The trace below which gradients count as zero.
            ///
            /// # Errors
            /// [`Error::Parameter`](crate::Error::Parameter) unless `0 <= norm_eps < ∞`.
            pub fn norm_eps(mut self, norm_eps: f64) -> Result<Self> {
                self.projection.normalise = self.projection.normalise.with_norm_eps(norm_eps)?;
                Ok(self)
            }

            /// What is added to the diagonal.
            ///
            /// # Errors
            /// [`Error::Parameter`](crate::Error::Parameter) unless `0 <= reg_eps < ∞`.
            pub fn reg_eps(mut self, reg_eps: f64) -> Result<Self> {
                self.projection.normalise = self.projection.normalise.with_reg_eps(reg_eps)?;
                Ok(self)
            }
        }
    };
}
pub(crate) use projection_settings;
