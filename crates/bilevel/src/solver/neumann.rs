//! The truncated Neumann series.

use core_tensor::Tree;

use super::{LinearSolver, Operator};
use crate::error::{Result, positive};

/// The Neumann series `v = η·Σ_{k=0}^{K} (I − ηA)ᵏ b` of `K + 1` terms: cheap steps that never divide, for Hessians that are
/// noisy or not quite positive.
///
/// | parameter | range | effect |
/// |---|---|---|
/// | `iterations` `K` | ≥ 0 | products; 0 is `ηb` |
/// | `step` `η` | > 0, below `2/L` to converge | `L` the largest curvature, which the certificate shows |
///
/// Equals the reverse of `K + 1` unrolled gradient steps at a stationary point (test `truncated_is_neumann`). Cost: `K` products,
/// two trees. A series that diverges shows in the certificate's residual. J. Lorraine, P. Vicol, D. Duvenaud, "Optimizing millions
/// of hyperparameters by implicit differentiation", 2020 (arXiv:1911.02590), algorithm 3.
#[derive(Clone, Debug)]
pub struct Neumann {
    iterations: usize,
    step: f64,
}

impl Neumann {
    /// So many iterations of a step.
    ///
    /// # Errors
    /// A parameter error for a step that is not above zero and finite.
    pub fn new(iterations: usize, step: f64) -> Result<Self> {
        Ok(Self { iterations, step: positive("step", step)? })
    }
}

impl LinearSolver for Neumann {
    /// # Errors
    /// [`Error::NotFinite`](crate::Error::NotFinite) where the series left the range of numbers.
    fn solve(&self, operator: &mut Operator<'_>, b: &Tree) -> Result<Tree> {
        let (mut term, mut sum) = (b.clone(), b.clone());
        for _ in 0..self.iterations {
            let image = operator.apply(&term)?;
            term = term.axpy(-self.step, &image)?;
            sum = sum.add(&term)?;
        }
        Ok(sum.scale(self.step))
    }
}
