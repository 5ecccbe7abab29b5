//! The Nyström approximation.

use core_tensor::{Random, Tree};

use super::matrix::Matrix;
use super::{LinearSolver, Operator, elements, unit};
use crate::error::{Result, at_least_one, positive};

/// `(H_k + ρ)⁻¹b` with the rank-`k` approximation `H_k = C M⁻¹ Cᵀ`, `C` being `k` random columns of the Hessian and `M` their rows
/// of the same indices: no iteration to diverge, all products independent, for Hessians with few large eigenvalues.
///
/// By Woodbury's identity `v = b/ρ − C(M + CᵀC/ρ)⁻¹Cᵀb/ρ²`.
///
/// | parameter | range | effect |
/// |---|---|---|
/// | `rank` `k` | ≥ 1 | columns; capped by the dimension, where it is exact as `ρ → 0` (test `solvers_agree`) |
/// | `rho` `ρ` | > 0 | damping, and the curvature assumed outside the columns |
/// | `seed` | | which columns |
///
/// Cost: `k` products, `k` trees, `k²` dot products. R. Hataya, M. Yamada, "Nyström method for accurate and scalable implicit
/// differentiation", 2023 (arXiv:2302.09726), equation 6.
#[derive(Clone, Debug)]
pub struct Nystrom {
    rank: usize,
    rho: f64,
    seed: u64,
}

impl Nystrom {
    /// Rank, damping and seed.
    ///
    /// # Errors
    /// A parameter error for rank 0 or a `rho` that is not above zero and finite.
    pub fn new(rank: usize, rho: f64, seed: u64) -> Result<Self> {
        Ok(Self { rank: at_least_one("rank", rank)?, rho: positive("rho", rho)?, seed })
    }
}

impl LinearSolver for Nystrom {
    /// # Errors
    /// [`Error::Singular`](crate::Error::Singular) where columns depend on each other and `ρ` is too small to tell them apart.
    fn solve(&self, operator: &mut Operator<'_>, b: &Tree) -> Result<Tree> {
        let n = b.num_elements();
        let k = self.rank.min(n);
        let mut chosen = Random::new(self.seed).permutation(n);
        chosen.truncate(k);
        let columns = chosen.iter().map(|index| operator.apply(&unit(b, *index)?)).collect::<Result<Vec<Tree>>>()?;
        let mut system = Matrix::zeros(k);
        for (j, column) in columns.iter().enumerate() {
            let values = elements(column);
            for i in 0..k {
                let gram = columns[i].dot(column)?.value();
                system.set(i, j, values[chosen[i]] + gram / self.rho);
            }
        }
        let projected = columns.iter().map(|column| Ok(column.dot(b)?.value())).collect::<Result<Vec<f64>>>()?;
        let weights = system.solve(projected, "the Nyström system")?;
        let mut v = b.clone().scale(1.0 / self.rho);
        for (weight, column) in weights.iter().zip(&columns) {
            v = v.axpy(-weight / (self.rho * self.rho), column)?;
        }
        Ok(v)
    }
}
