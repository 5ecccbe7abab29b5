//! Small dense linear algebra on the host.

use crate::error::{Error, Result};

/// A square matrix, row by row.
#[derive(Clone, Debug)]
pub(crate) struct Matrix {
    pub n: usize,
    pub rows: Vec<f64>,
}

impl Matrix {
    pub fn zeros(n: usize) -> Self {
        Self { n, rows: vec![0.0; n * n] }
    }

    pub fn at(&self, i: usize, j: usize) -> f64 {
        self.rows[i * self.n + j]
    }

    pub fn set(&mut self, i: usize, j: usize, value: f64) {
        self.rows[i * self.n + j] = value;
    }

    /// The solution of `Ax = b` by Gaussian elimination with partial pivoting.
    pub fn solve(mut self, mut b: Vec<f64>, what: &'static str) -> Result<Vec<f64>> {
        let n = self.n;
        let size = self.rows.iter().fold(0.0f64, |max, x| max.max(x.abs()));
        for column in 0..n {
            let pivot = (column..n).max_by(|i, j| self.at(*i, column).abs().total_cmp(&self.at(*j, column).abs()));
            let pivot = pivot.expect("the range is not empty");
            // A pivot of rounding errors only, or NaN.
            if !(self.at(pivot, column).abs() > size * f64::EPSILON * n as f64) {
                return Err(Error::Singular { what });
            }
            for j in 0..n {
                self.rows.swap(pivot * n + j, column * n + j);
            }
            b.swap(pivot, column);
            for i in column + 1..n {
                let factor = self.at(i, column) / self.at(column, column);
                for j in column..n {
                    self.rows[i * n + j] -= factor * self.rows[column * n + j];
                }
                b[i] -= factor * b[column];
            }
        }
        for i in (0..n).rev() {
            let known: f64 = (i + 1..n).map(|j| self.at(i, j) * b[j]).sum();
            b[i] = (b[i] - known) / self.at(i, i);
        }
        Ok(b)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_system_that_needs_pivoting_is_solved() {
        let matrix = Matrix { n: 3, rows: vec![0.0, 2.0, 1.0, 1.0, -1.0, 0.0, 3.0, 0.0, 4.0] };
        let x = matrix.clone().solve(vec![7.0, -1.0, 15.0], "it").unwrap();
        for (x, y) in x.iter().zip([1.0, 2.0, 3.0]) {
            assert!((x - y).abs() < 1e-14);
        }
        let singular = Matrix { n: 2, rows: vec![1.0, 2.0, 2.0, 4.0] };
        assert!(matches!(singular.solve(vec![1.0, 1.0], "it"), Err(Error::Singular { .. })));
        let broken = Matrix { n: 1, rows: vec![f64::NAN] };
        assert!(broken.solve(vec![1.0], "it").is_err());
    }
}
