//! The Hessian written out.

use core_tensor::Tree;

use super::matrix::Matrix;
use super::{LinearSolver, Operator, elements, from_elements, unit};
use crate::error::{Error, Result};

/// The matrix column by column, and Gaussian elimination: exact for small problems, and the reference for the others.
///
/// Works for indefinite matrices too. Cost: as many products as dimensions `d`, `d²` numbers, `d³/3` operations on the host, `d` host
/// synchronisations.
#[derive(Clone, Debug)]
pub struct Dense {
    limit: usize,
}

impl Default for Dense {
    /// Up to 2,048 dimensions.
    fn default() -> Self {
        Self { limit: 2048 }
    }
}

impl Dense {
    /// Up to so many dimensions.
    pub fn new(limit: usize) -> Self {
        Self { limit }
    }
}

impl LinearSolver for Dense {
    /// # Errors
    /// [`Error::TooLarge`], [`Error::Singular`].
    fn solve(&self, operator: &mut Operator<'_>, b: &Tree) -> Result<Tree> {
        let n = b.num_elements();
        if n > self.limit {
            return Err(Error::TooLarge { what: "a dense solve", found: n, limit: self.limit });
        }
        let mut matrix = Matrix::zeros(n);
        for column in 0..n {
            for (row, value) in elements(&operator.apply(&unit(b, column)?)?).into_iter().enumerate() {
                matrix.set(row, column, value);
            }
        }
        from_elements(b, matrix.solve(elements(b), "the Hessian")?)
    }
}
