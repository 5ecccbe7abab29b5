//! The Gramian relative to its size, made positive definite.

use crate::check::not_negative;
use crate::solvers::Matrix;
use crate::{Gramian, Result};

/// `G/tr G + reg_eps·I`, with zeros for `G/tr G` where `tr G < norm_eps`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Normalise {
    pub norm_eps: f64,
    pub reg_eps: f64,
}

impl Default for Normalise {
    /// TorchJD's.
    fn default() -> Self {
        Self { norm_eps: 1e-4, reg_eps: 1e-4 }
    }
}

impl Normalise {
    pub fn with_norm_eps(self, norm_eps: f64) -> Result<Self> {
        Ok(Self { norm_eps: not_negative("norm_eps", norm_eps)?, ..self })
    }

    pub fn with_reg_eps(self, reg_eps: f64) -> Result<Self> {
        Ok(Self { reg_eps: not_negative("reg_eps", reg_eps)?, ..self })
    }

    pub fn matrix(self, gramian: &Gramian) -> Matrix {
        let products = gramian.products();
        let trace = products.trace();
        let small = trace <= 0.0 || gramian.unscaled(trace, 2) < self.norm_eps;
        let entry = |i: usize, j: usize, x: f64| {
            let x = if small { 0.0 } else { x / trace };
            if i == j { x + self.reg_eps } else { x }
        };
        products.map(entry)
    }
}
