//! The fixed-point iteration.

use core_tensor::Tree;

use super::{LinearSolver, Operator};
use crate::error::{Result, at_least_one, not_negative, positive};

/// `v ← v + η(b − Av)` from `v = 0` until the residual is small: the adjoint of running the inner gradient descent once more.
///
/// The same numbers as [`Neumann`](super::Neumann) with one iteration less, but it sees its residual and stops.
///
/// | parameter | default | range | effect |
/// |---|---|---|---|
/// | `iterations` | – | ≥ 1 | products at most |
/// | `step` `η` | – | > 0, below `2/L` | |
/// | `tolerance` | 1e-10 | ≥ 0 | relative residual at which it stops |
///
/// R. Grazzi et al., "On the iteration complexity of hypergradient computation", 2020 (arXiv:2006.16218), section 2.2.
#[derive(Clone, Debug)]
pub struct FixedPoint {
    iterations: usize,
    step: f64,
    tolerance: f64,
}

impl FixedPoint {
    /// At most so many iterations of a step.
    ///
    /// # Errors
    /// A parameter error for 0 iterations or a step that is not above zero and finite.
    pub fn new(iterations: usize, step: f64) -> Result<Self> {
        let iterations = at_least_one("iterations", iterations)?;
        Ok(Self { iterations, step: positive("step", step)?, tolerance: 1e-10 })
    }

    /// Another relative residual to stop at.
    ///
    /// # Errors
    /// A parameter error for a negative one or NaN.
    pub fn tolerance(self, tolerance: f64) -> Result<Self> {
        Ok(Self { tolerance: not_negative("tolerance", tolerance)?, ..self })
    }
}

impl LinearSolver for FixedPoint {
    /// # Errors
    /// [`Error::NotFinite`](crate::Error::NotFinite) where it diverged.
    fn solve(&self, operator: &mut Operator<'_>, b: &Tree) -> Result<Tree> {
        let stop = self.tolerance * b.norm().value();
        let mut v = b.clone().scale(self.step);
        for _ in 1..self.iterations {
            let residual = operator.apply(&v)?.neg().add(b)?;
            if residual.norm().value() <= stop {
                break;
            }
            v = v.axpy(self.step, &residual)?;
        }
        Ok(v)
    }
}
