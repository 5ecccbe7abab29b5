//! Eigenvalues of symmetric matrices, and the pseudo-inverse.

use super::matrix::{Matrix, dot};

/// An eigenvalue below this share of the largest counts as zero. Gradients in `f32` carry errors of `6·10⁻⁸`, their
/// squares show up at `10⁻¹⁴`: below this bound there is nothing to tell from noise.
pub const RANK: f64 = 1e-12;

/// Eigenvalues, largest first, and their vectors.
#[derive(Clone, Debug)]
pub struct Eigen {
    /// The eigenvalues, largest first.
    pub values: Vec<f64>,
    /// The unit vector of each.
    pub vectors: Vec<Vec<f64>>,
}

/// The eigenvalues of a symmetric matrix by cyclic rotations, small ones to high relative accuracy (C. G. J. Jacobi,
/// 1846;
/// G. H. Golub and C. F. Van Loan, "Matrix computations", algorithm 8.5.3).
pub fn eigen(a: &Matrix) -> Eigen {
    let m = a.size();
    let mut a = a.clone();
    // Row k is the vector of eigenvalue k.
    let mut v: Vec<Vec<f64>> = (0..m).map(|i| (0..m).map(|j| f64::from(u8::from(i == j))).collect()).collect();
    // Convergence is quadratic; a dozen sweeps are never reached.
    for _ in 0..60 {
        let mut rotated = false;
        for p in 0..m {
            for q in p + 1..m {
                let off = a[(p, q)];
                if off.abs() <= f64::EPSILON * 0.5 * (a[(p, p)].abs() * a[(q, q)].abs()).sqrt() || off == 0.0 {
                    continue;
                }
                rotated = true;
                let theta = (a[(q, q)] - a[(p, p)]) / (2.0 * off);
                let t = theta.signum() / (theta.abs() + theta.hypot(1.0));
                let c = 1.0 / t.hypot(1.0);
                let s = t * c;
                for k in 0..m {
                    let (x, y) = (a[(k, p)], a[(k, q)]);
                    (a[(k, p)], a[(k, q)]) = (c * x - s * y, s * x + c * y);
                }
                for k in 0..m {
                    let (x, y) = (a[(p, k)], a[(q, k)]);
                    (a[(p, k)], a[(q, k)]) = (c * x - s * y, s * x + c * y);
                }
                (a[(p, q)], a[(q, p)]) = (0.0, 0.0);
                let (low, high) = v.split_at_mut(q);
                for (x, y) in low[p].iter_mut().zip(&mut high[0]) {
                    (*x, *y) = (c * *x - s * *y, s * *x + c * *y);
                }
            }
        }
        if !rotated {
            break;
        }
    }
    let mut pairs: Vec<(f64, Vec<f64>)> = a.diagonal().into_iter().zip(v).collect();
    pairs.sort_by(|x, y| y.0.total_cmp(&x.0));
    let (values, vectors) = pairs.into_iter().unzip();
    Eigen { values, vectors }
}

impl Eigen {
    /// How many eigenvalues are above `10⁻¹²` of the largest.
    pub fn rank(&self) -> usize {
        let bound = self.values.first().map_or(0.0, |largest| largest * RANK);
        self.values.iter().filter(|value| **value > bound.max(0.0)).count()
    }

    /// `Σ f(λ)·v·⟨v, b⟩` over the eigenvalues that are not zero.
    pub fn apply(&self, b: &[f64], f: impl Fn(f64) -> f64) -> Vec<f64> {
        let mut x = vec![0.0; b.len()];
        for (value, vector) in self.values.iter().zip(&self.vectors).take(self.rank()) {
            let factor = f(*value) * dot(vector, b);
            x.iter_mut().zip(vector).for_each(|(x, v)| *x += factor * v);
        }
        x
    }

    /// Largest over smallest eigenvalue; infinite for a singular matrix, 1 for one without rows.
    pub fn condition(&self) -> f64 {
        match (self.values.first(), self.values.last()) {
            (Some(largest), Some(smallest)) if *smallest > 0.0 => largest / smallest,
            (Some(_), Some(_)) => f64::INFINITY,
            _ => 1.0,
        }
    }
}

/// `A⁺·b` for a positive semidefinite matrix.
pub fn pseudo_solve(a: &Matrix, b: &[f64]) -> Vec<f64> {
    eigen(a).apply(b, f64::recip)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::solvers::testing::Gramians;
    use core_tensor::testing::property;

    #[test]
    fn vectors_are_orthonormal_and_rebuild_the_matrix() {
        property(200, Gramians::new(1..=12).strategy(), |g| {
            let eigen = eigen(&g);
            let m = g.size();
            let largest = eigen.values[0].max(0.0);
            for i in 0..m {
                for j in 0..m {
                    let product = dot(&eigen.vectors[i], &eigen.vectors[j]);
                    assert!((product - f64::from(u8::from(i == j))).abs() < 1e-13);
                    let rebuilt: f64 =
                        (0..m).map(|k| eigen.values[k] * eigen.vectors[k][i] * eigen.vectors[k][j]).sum();
                    assert!((rebuilt - g[(i, j)]).abs() <= 1e-13 * largest);
                }
            }
            assert!(eigen.values.windows(2).all(|pair| pair[0] >= pair[1]));
        });
    }

    #[test]
    fn the_pseudo_inverse_meets_its_conditions() {
        property(200, Gramians::new(1..=8).strategy(), |g| {
            // On b = G·1, which is in the range: G·G⁺·b = b and G⁺·b is in the range too.
            let b = g.times(&vec![1.0; g.size()]);
            let x = pseudo_solve(&g, &b);
            let size = eigen(&g).values[0] * g.size() as f64;
            for (again, b) in g.times(&x).iter().zip(&b) {
                assert!((again - b).abs() <= 1e-10 * size, "{again:e} {b:e}");
            }
        });
    }

    #[test]
    fn by_hand() {
        let a = Matrix::symmetric(2, |i, j| [[2.0, 1.0], [1.0, 2.0]][i][j]);
        let e = eigen(&a);
        assert!((e.values[0] - 3.0).abs() < 1e-15 && (e.values[1] - 1.0).abs() < 1e-15);
        assert!((e.condition() - 3.0).abs() < 1e-15);
        let singular = Matrix::symmetric(2, |_, _| 1.0);
        assert_eq!((eigen(&singular).rank(), eigen(&Matrix::zeros(2)).rank()), (1, 0));
        let x = pseudo_solve(&singular, &[1.0, 1.0]);
        assert!((x[0] - 0.5).abs() < 1e-15 && (x[1] - 0.5).abs() < 1e-15);
        assert!(pseudo_solve(&Matrix::zeros(2), &[1.0, 1.0]) == [0.0, 0.0]);
    }
}
