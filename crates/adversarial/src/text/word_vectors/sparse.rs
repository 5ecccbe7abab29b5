//! Leading singular vectors of a sparse matrix.

use burn::tensor::Distribution;
use core_tensor::Random;
use rayon::prelude::*;

/// A square matrix of few entries, and its transpose.
pub(super) struct Sparse {
    rows: Vec<Vec<(u32, f64)>>,
    columns: Vec<Vec<(u32, f64)>>,
}

impl Sparse {
    /// Of entries `(row, column, value)`, no place given twice.
    pub fn new(size: usize, entries: Vec<(u32, u32, f64)>) -> Self {
        let (mut rows, mut columns) = (vec![Vec::new(); size], vec![Vec::new(); size]);
        for (row, column, value) in entries {
            rows[row as usize].push((column, value));
            columns[column as usize].push((row, value));
        }
        Self { rows, columns }
    }

    #[cfg(test)]
    pub fn get(&self, row: usize, column: usize) -> f64 {
        let entries = self.rows[row].iter();
        entries.filter(|(at, _)| *at as usize == column).map(|(_, value)| value).sum()
    }

    fn len(&self) -> usize {
        self.rows.len()
    }

    fn apply(&self, x: &[f64], width: usize) -> Vec<f64> {
        product(&self.rows, x, width)
    }

    fn apply_transposed(&self, x: &[f64], width: usize) -> Vec<f64> {
        product(&self.columns, x, width)
    }
}

/// Rows of a sparse matrix times a dense one of `width` columns, row-major.
fn product(rows: &[Vec<(u32, f64)>], x: &[f64], width: usize) -> Vec<f64> {
    let mut out = vec![0.0; rows.len() * width];
    out.par_chunks_mut(width).zip(rows).for_each(|(out, entries)| {
        for (column, value) in entries {
            let row = &x[*column as usize * width..][..width];
            out.iter_mut().zip(row).for_each(|(out, x)| *out += value * x);
        }
    });
    out
}

/// More vectors than wanted, so that the wanted ones are found sooner.
const OVERSAMPLING: usize = 10;
/// How often matrix and transpose are applied again.
const POWER_ITERATIONS: usize = 4;

/// The `count` leading left singular vectors, as columns of a row-major matrix, and the singular values. A vector's largest element is positive;
/// the vector of a singular value of 0 is zero.
pub(super) fn leading_vectors(matrix: &Sparse, count: usize, random: &mut Random) -> (Vec<f64>, Vec<f64>) {
    let size = matrix.len();
    let width = (count + OVERSAMPLING).min(size);
    let start = random.draw(Distribution::Normal(0.0, 1.0), [size, width].into());
    let mut basis = matrix.apply(&start.iter::<f64>().collect::<Vec<_>>(), width);
    orthonormalise(&mut basis, width);
    for _ in 0..POWER_ITERATIONS {
        let mut back = matrix.apply_transposed(&basis, width);
        orthonormalise(&mut back, width);
        basis = matrix.apply(&back, width);
        orthonormalise(&mut basis, width);
    }
    // A ≈ Q Qᵀ A = Q B: the left singular vectors of the small B are eigenvectors of B Bᵀ.
    let small = matrix.apply_transposed(&basis, width);
    let (values, rotation) = eigen(gram(&small, width), width);
    let mut order: Vec<usize> = (0..width).collect();
    order.sort_by(|a, b| values[*b].total_cmp(&values[*a]));
    order.truncate(count);
    let values: Vec<f64> = order.iter().map(|i| values[*i].max(0.0).sqrt()).collect();
    let largest = values.first().copied().unwrap_or(0.0);
    let mut vectors = vec![0.0; size * count];
    vectors.par_chunks_mut(count).zip(basis.par_chunks(width)).for_each(|(out, row)| {
        for ((out, column), value) in out.iter_mut().zip(&order).zip(&values) {
            // Below rounding there is no direction.
            if *value > 1e-12 * largest {
                *out = (0..width).map(|i| row[i] * rotation[i * width + column]).sum();
            }
        }
    });
    for column in 0..count {
        let along = || (0..size).map(|row| vectors[row * count + column]);
        let largest = along().fold(0.0, |largest: f64, x| if x.abs() > largest.abs() { x } else { largest });
        if largest < 0.0 {
            (0..size).for_each(|row| vectors[row * count + column] *= -1.0);
        }
    }
    (vectors, values)
}

/// Columns made orthonormal by Gram and Schmidt's method, twice; columns that depend on those before them become zero.
fn orthonormalise(x: &mut [f64], width: usize) {
    let size = x.len() / width;
    let mut columns = vec![0.0; x.len()];
    for (row, values) in x.chunks(width).enumerate() {
        values.iter().enumerate().for_each(|(column, value)| columns[column * size + row] = *value);
    }
    for column in 0..width {
        let (before, rest) = columns.split_at_mut(column * size);
        let own = &mut rest[..size];
        let length = dot(own, own).sqrt();
        for _ in 0..2 {
            let parts: Vec<f64> = before.par_chunks(size).map(|other| dot(other, own)).collect();
            for (other, part) in before.chunks(size).zip(parts) {
                own.iter_mut().zip(other).for_each(|(x, y)| *x -= part * y);
            }
        }
        let left = dot(own, own).sqrt();
        let scale = if left > 1e-12 * length { left.recip() } else { 0.0 };
        own.iter_mut().for_each(|x| *x *= scale);
    }
    for (row, values) in x.chunks_mut(width).enumerate() {
        values.iter_mut().enumerate().for_each(|(column, value)| *value = columns[column * size + row]);
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    // Sixteen sums, so that they can be made side by side.
    let mut sums = [0.0; 16];
    let (a16, b16) = (a.chunks_exact(16), b.chunks_exact(16));
    let rest: f64 = a16.remainder().iter().zip(b16.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a16.zip(b16) {
        sums.iter_mut().zip(a.iter().zip(b)).for_each(|(sum, (a, b))| *sum += a * b);
    }
    sums.iter().sum::<f64>() + rest
}

/// `XᵀX`.
fn gram(x: &[f64], width: usize) -> Vec<f64> {
    let mut out = vec![0.0; width * width];
    out.par_chunks_mut(width).enumerate().for_each(|(i, out)| {
        for row in x.chunks(width) {
            out.iter_mut().zip(row).for_each(|(out, x)| *out += row[i] * x);
        }
    });
    out
}

/// Eigenvalues and eigenvectors (as columns) of a symmetric matrix, by Jacobi's rotations.
fn eigen(mut a: Vec<f64>, n: usize) -> (Vec<f64>, Vec<f64>) {
    let mut vectors = vec![0.0; n * n];
    (0..n).for_each(|i| vectors[i * n + i] = 1.0);
    let scale = dot(&a, &a).sqrt();
    for _ in 0..100 {
        let off: f64 = (0..n).flat_map(|i| (0..i).map(move |j| i * n + j)).map(|at| a[at] * a[at]).sum();
        if off.sqrt() <= 1e-15 * scale {
            break;
        }
        for p in 0..n {
            for q in p + 1..n {
                if a[p * n + q] == 0.0 {
                    continue;
                }
                let theta = (a[q * n + q] - a[p * n + p]) / (2.0 * a[p * n + q]);
                let t = theta.signum() / (theta.abs() + theta.hypot(1.0));
                let c = t.hypot(1.0).recip();
                let s = t * c;
                for k in 0..n {
                    let (x, y) = (a[k * n + p], a[k * n + q]);
                    (a[k * n + p], a[k * n + q]) = (c * x - s * y, s * x + c * y);
                }
                for k in 0..n {
                    let (x, y) = (a[p * n + k], a[q * n + k]);
                    (a[p * n + k], a[q * n + k]) = (c * x - s * y, s * x + c * y);
                }
                for k in 0..n {
                    let (x, y) = (vectors[k * n + p], vectors[k * n + q]);
                    (vectors[k * n + p], vectors[k * n + q]) = (c * x - s * y, s * x + c * y);
                }
            }
        }
    }
    ((0..n).map(|i| a[i * n + i]).collect(), vectors)
}

#[cfg(test)]
mod tests {
    use super::*;
    use core_tensor::testing::property;
    use proptest::prelude::*;

    #[test]
    fn leading_vectors_are_those_of_the_matrix() {
        property(32, (2usize..25, 1usize..5, any::<u64>()), |(size, rank, seed)| {
            let mut random = Random::new(seed);
            // A matrix of a rank, with values that fall.
            let mut normal = |scale: f64| -> Vec<f64> {
                random.draw(Distribution::Normal(0.0, scale), [size].into()).iter::<f64>().collect()
            };
            let mut dense = vec![0.0; size * size];
            for part in 0..rank {
                let (left, right) = (normal(0.3f64.powi(part as i32)), normal(1.0));
                for (at, value) in dense.iter_mut().enumerate() {
                    *value += left[at / size] * right[at % size];
                }
            }
            let entries = dense.iter().enumerate().map(|(at, value)| ((at / size) as u32, (at % size) as u32, *value));
            let matrix = Sparse::new(size, entries.collect());
            let count = rank.min(size);
            let (vectors, values) = leading_vectors(&matrix, count, &mut Random::new(seed ^ 1));
            // A Aᵀ u = σ² u, orthonormal, in order; and no more is left of A than rounding.
            let column = |i: usize| (0..size).map(|row| vectors[row * count + i]).collect::<Vec<_>>();
            let mut left = dot(&dense, &dense);
            for i in 0..count {
                let u = column(i);
                let image = matrix.apply(&matrix.apply_transposed(&u, 1), 1);
                for (x, u) in image.iter().zip(&u) {
                    assert!((x - values[i].powi(2) * u).abs() < 1e-9 * values[0].powi(2));
                }
                for j in 0..=i {
                    let expected = f64::from(u8::from(i == j));
                    assert!((dot(&u, &column(j)) - expected).abs() < 1e-9);
                }
                assert!(i == 0 || values[i] <= values[i - 1]);
                left -= values[i].powi(2);
            }
            assert!(left.abs() < 1e-9 * values[0].powi(2), "{left}");
        });
    }

    #[test]
    fn a_matrix_of_zeros_has_no_directions() {
        let (vectors, values) = leading_vectors(&Sparse::new(4, vec![]), 3, &mut Random::new(0));
        assert!(vectors.iter().chain(&values).all(|x| *x == 0.0));
    }
}
