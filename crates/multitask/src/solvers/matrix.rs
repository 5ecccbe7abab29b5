//! Symmetric matrices of the size of a Gramian, in `f64`.

use std::ops::{Index, IndexMut};

/// A symmetric matrix of a few dozen rows, stored whole.
#[derive(Clone, Debug, PartialEq)]
pub struct Matrix {
    size: usize,
    entries: Vec<f64>,
}

impl Matrix {
    /// The matrix of zeros.
    pub fn zeros(size: usize) -> Self {
        Self { size, entries: vec![0.0; size * size] }
    }

    /// A matrix by its entries; `entry(i, j)` is asked for `i <= j` only.
    pub fn symmetric(size: usize, mut entry: impl FnMut(usize, usize) -> f64) -> Self {
        let mut matrix = Self::zeros(size);
        for i in 0..size {
            for j in i..size {
                let x = entry(i, j);
                (matrix[(i, j)], matrix[(j, i)]) = (x, x);
            }
        }
        matrix
    }

    /// Number of rows.
    pub fn size(&self) -> usize {
        self.size
    }

    /// A row.
    pub fn row(&self, i: usize) -> &[f64] {
        &self.entries[i * self.size..(i + 1) * self.size]
    }

    /// The diagonal.
    pub fn diagonal(&self) -> Vec<f64> {
        (0..self.size).map(|i| self[(i, i)]).collect()
    }

    /// The sum of the diagonal.
    pub fn trace(&self) -> f64 {
        self.diagonal().iter().sum()
    }

    /// `A·x`
    pub fn times(&self, x: &[f64]) -> Vec<f64> {
        (0..self.size).map(|i| dot(self.row(i), x)).collect()
    }

    /// `xᵀ·A·x`
    pub fn quadratic(&self, x: &[f64]) -> f64 {
        dot(&self.times(x), x)
    }

    /// The rows and columns at these positions.
    pub fn part(&self, positions: &[usize]) -> Self {
        Self::symmetric(positions.len(), |i, j| self[(positions[i], positions[j])])
    }

    /// `f` of every entry.
    pub fn map(&self, mut f: impl FnMut(usize, usize, f64) -> f64) -> Self {
        Self::symmetric(self.size, |i, j| f(i, j, self[(i, j)]))
    }

    /// The solution of `A·x = b` by `A = L·Lᵀ` with one step of refinement; `None` if a pivot is not above `tolerance`
    /// times its diagonal entry, for then `A` is singular to working precision.
    pub fn solve_positive(&self, b: &[f64], tolerance: f64) -> Option<Vec<f64>> {
        let floors: Vec<f64> = self.diagonal().iter().map(|x| tolerance * x).collect();
        self.solve_above(b, &floors)
    }

    /// The same with a lower bound for each pivot.
    pub fn solve_above(&self, b: &[f64], floors: &[f64]) -> Option<Vec<f64>> {
        let factor = self.cholesky(floors)?;
        let mut x = factor.substitute(b);
        let residual: Vec<f64> = self.times(&x).iter().zip(b).map(|(ax, b)| b - ax).collect();
        x.iter_mut().zip(factor.substitute(&residual)).for_each(|(x, dx)| *x += dx);
        Some(x)
    }

    /// The lower triangle `L`.
    fn cholesky(&self, floors: &[f64]) -> Option<Self> {
        let mut l = Self::zeros(self.size);
        for i in 0..self.size {
            for j in 0..=i {
                let sum = self[(i, j)] - dot(&l.row(i)[..j], &l.row(j)[..j]);
                l[(i, j)] = match i == j {
                    false => sum / l[(j, j)],
                    true if sum > floors[i] => sum.sqrt(),
                    true => return None,
                };
            }
        }
        Some(l)
    }

    /// The solution of `L·Lᵀ·x = b` for this lower triangle.
    fn substitute(&self, b: &[f64]) -> Vec<f64> {
        let mut x = b.to_vec();
        for i in 0..self.size {
            x[i] = (x[i] - dot(&self.row(i)[..i], &x[..i])) / self[(i, i)];
        }
        for i in (0..self.size).rev() {
            let known: f64 = (i + 1..self.size).map(|k| self[(k, i)] * x[k]).sum();
            x[i] = (x[i] - known) / self[(i, i)];
        }
        x
    }
}

impl Index<(usize, usize)> for Matrix {
    type Output = f64;
    fn index(&self, (i, j): (usize, usize)) -> &f64 {
        &self.entries[i * self.size + j]
    }
}

impl IndexMut<(usize, usize)> for Matrix {
    fn index_mut(&mut self, (i, j): (usize, usize)) -> &mut f64 {
        &mut self.entries[i * self.size + j]
    }
}

/// `Σ x·y`
pub fn dot(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(x, y)| x * y).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equations_are_solved_and_singular_ones_refused() {
        let a = Matrix::symmetric(3, |i, j| [[4.0, 1.0, 0.5], [0.0, 3.0, -1.0], [0.0, 0.0, 2.0]][i][j]);
        let x = [1.0, -2.0, 3.0];
        let solution = a.solve_positive(&a.times(&x), 1e-14).unwrap();
        assert!(solution.iter().zip(x).all(|(a, b)| (a - b).abs() < 1e-14));
        let singular = Matrix::symmetric(2, |_, _| 1.0);
        assert!(singular.solve_positive(&[1.0, 1.0], 1e-14).is_none());
        assert!(Matrix::zeros(0).solve_positive(&[], 1e-14).unwrap().is_empty());
    }

    #[test]
    fn parts_and_products() {
        let a = Matrix::symmetric(3, |i, j| (10 * i + j) as f64);
        assert_eq!(a.row(1), [1.0, 11.0, 12.0]);
        assert_eq!(a.part(&[2, 0]).row(0), [22.0, 2.0]);
        assert_eq!((a.trace(), a.quadratic(&[1.0, 0.0, 1.0])), (33.0, 26.0));
    }
}
