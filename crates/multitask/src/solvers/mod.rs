//! Small exact solvers in `f64`: matrices have as many rows as there are tasks.
//!
//! | problem | solver | used by |
//! |---|---|---|
//! | `min ½xᵀAx − hᵀx`, `x ≥ 0` | [`nnls`]: active sets | everything below |
//! | `min vᵀGv`, `v ≥ u` | [`above`] | UPGrad, DualProj |
//! | `min wᵀGw` over the simplex | [`min_norm_point`] | MGDA, CAGrad, Pareto MTL |
//! | `Gx = x^(−p)` | [`power_equations`]: damped Newton | Nash-MTL, FairGrad |
//! | eigenvalues, `A⁺b` | [`eigen`], [`pseudo_solve`]: Jacobi rotations | IMTL-G, Aligned-MTL, ConFIG, condition numbers |
//!
//! Own code, for these problems are tiny, and general solvers stop at tolerances (`10⁻³` to `10⁻⁸`) that show in the
//! weights.

mod eigen;
mod matrix;
mod newton;
mod nnls;
mod simplex;

pub use eigen::{Eigen, eigen, pseudo_solve};
pub use matrix::{Matrix, dot};
pub use newton::{Solution, power_equations};
pub use nnls::{Stuck, above, nnls};
pub use simplex::{min_norm_point, project, softmax};

#[cfg(test)]
pub(crate) mod testing {
    //! Gramians of rows sampled by rank, stationarity and scale.

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::{Matrix, dot};

    pub struct Gramians {
        sizes: std::ops::RangeInclusive<usize>,
        full_rank: bool,
    }

    impl Gramians {
        pub fn new(sizes: std::ops::RangeInclusive<usize>) -> Self {
            Self { sizes, full_rank: false }
        }

        pub fn full_rank(self) -> Self {
            Self { full_rank: true, ..self }
        }

        pub fn strategy(self) -> impl Strategy<Value = Matrix> {
            let full = self.full_rank;
            self.sizes.prop_flat_map(move |m| {
                let rank = if full { m + 3..=m + 3 } else { 1..=m + 1 };
                let kind = if full { 0..1usize } else { 0..4 };
                (rank, kind).prop_flat_map(move |(rank, kind)| {
                    let rows = vec(vec(-1.0..1.0f64, rank), m);
                    (rows, vec(-3..=3i32, m)).prop_map(move |(rows, exponents)| gramian(rows, exponents, kind))
                })
            })
        }
    }

    /// 0: as drawn; 1: the rows sum to zero; 2: rows of several sizes; 3: some are zero.
    fn gramian(mut rows: Vec<Vec<f64>>, exponents: Vec<i32>, kind: usize) -> Matrix {
        let m = rows.len();
        if kind == 1 {
            let sum: Vec<f64> = (0..rows[0].len()).map(|k| rows[..m - 1].iter().map(|row| -row[k]).sum()).collect();
            rows[m - 1] = sum;
        }
        for (row, exponent) in rows.iter_mut().zip(exponents) {
            let factor = match kind {
                2 => 10f64.powi(exponent),
                3 if exponent > 1 => 0.0,
                _ => 1.0,
            };
            row.iter_mut().for_each(|x| *x *= factor);
        }
        Matrix::symmetric(m, |i, j| dot(&rows[i], &rows[j]))
    }

    pub fn objective(a: &Matrix, h: &[f64], x: &[f64]) -> f64 {
        0.5 * a.quadratic(x) - dot(h, x)
    }
}
