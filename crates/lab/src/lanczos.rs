//! Largest eigenvalues of a symmetric operator on parameter space, by the Lanczos method with full reorthogonalisation.
//!
//! From a start vector q₁ it builds orthonormal q₁…q_m with `H·q_j = β_{j−1}·q_{j−1} + α_j·q_j + β_j·q_{j+1}`; the eigenvalues θ of
//! the tridiagonal matrix T of the α and β approach those of H, the outermost first. For an eigenvector s of T with
//! eigenvalue θ, `‖H·v − θ·v‖ = β_m·|s_m|` bounds the distance of θ to an eigenvalue of H; the rounding of products in `f32`
//! is added to it.
//!
//! Guarantees: values from the largest down (test `a_known_diagonal_is_found`); where the start vector spans an invariant
//! subspace, the method stops there and what it found is exact (`an_invariant_subspace_ends_the_search`). An eigenvalue that
//! occurs more than once is found once. Coefficients are `f64`, vectors have the dtype of the start.
//!
//! Cost: one product H·v, one stored vector and up to 2·m dot products (each read to the host) an iteration.
//!
//! Reference: C. Lanczos, *An iteration method for the solution of the eigenvalue problem of linear differential and integral
//! operators*, 1950; B. N. Parlett, *The Symmetric Eigenvalue Problem*, 1980, chapter 13 (two passes of orthogonalisation).

use core_tensor::{Result, Tree};

/// Below this fraction of the largest coefficient so far a remainder counts as zero (its digits are rounding in `f32`).
const BREAKDOWN: f64 = 1e-6;

/// Eigenvalues found.
#[derive(Clone, Debug, PartialEq)]
pub struct Eigenvalues {
    /// From the largest down; NaN where the operator gave something that is not finite.
    pub values: Vec<f64>,
    /// For each the bound `‖H·v − θ·v‖` on its error, rounding included.
    pub residuals: Vec<f64>,
    /// Products H·v spent.
    pub products: usize,
}

/// The `top` largest eigenvalues of the symmetric operator `product` after at most `iterations` steps from `start`.
///
/// `start` must not be zero; a random one has a part in every eigenvector. Fewer values than `top` come back where the
/// search ended early.
///
/// # Errors
/// Those of `product`, and a structure mismatch where its result differs from `start`.
pub fn top_eigenvalues(
    start: Tree,
    iterations: usize,
    top: usize,
    mut product: impl FnMut(&Tree) -> Result<Tree>,
) -> Result<Eigenvalues> {
    let norm = start.norm().value();
    let mut basis = vec![start.scale(1.0 / norm)];
    let (mut diagonal, mut beside): (Vec<f64>, Vec<f64>) = (Vec::new(), Vec::new());
    let mut scale = 0.0f64;
    loop {
        let last = basis.last().expect("the start is in it");
        let mut rest = product(last)?;
        let alpha = rest.dot(last)?.value();
        for _ in 0..2 {
            for vector in &basis {
                let along = rest.dot(vector)?.value();
                rest = rest.axpy(-along, vector)?;
            }
        }
        let beta = rest.norm().value();
        diagonal.push(alpha);
        beside.push(beta);
        scale = scale.max(alpha.abs()).max(beta);
        if !(alpha.is_finite() && beta.is_finite()) {
            let nothing = vec![f64::NAN; top];
            return Ok(Eigenvalues { values: nothing.clone(), residuals: nothing, products: diagonal.len() });
        }
        if diagonal.len() == iterations || beta <= BREAKDOWN * scale {
            break;
        }
        basis.push(rest.scale(1.0 / beta));
    }
    let size = diagonal.len();
    let mut matrix = vec![vec![0.0; size]; size];
    for index in 0..size {
        matrix[index][index] = diagonal[index];
        if index + 1 < size {
            matrix[index][index + 1] = beside[index];
            matrix[index + 1][index] = beside[index];
        }
    }
    let mut found: Vec<(f64, f64)> = symmetric_eigenvalues(matrix)
        .into_iter()
        .map(|(value, vector)| (value, beside[size - 1] * vector[size - 1].abs() + f64::from(f32::EPSILON) * scale))
        .collect();
    found.sort_by(|a, b| b.0.total_cmp(&a.0));
    found.truncate(top);
    let (values, residuals) = found.into_iter().unzip();
    Ok(Eigenvalues { values, residuals, products: size })
}

/// All eigenvalues and unit eigenvectors of a small symmetric matrix, by cyclic Jacobi rotations.
fn symmetric_eigenvalues(mut matrix: Vec<Vec<f64>>) -> Vec<(f64, Vec<f64>)> {
    let size = matrix.len();
    let mut vectors: Vec<Vec<f64>> =
        (0..size).map(|row| (0..size).map(|column| f64::from(row == column)).collect()).collect();
    let total: f64 = matrix.iter().flatten().map(|value| value * value).sum();
    for _ in 0..60 {
        let off: f64 = (0..size)
            .flat_map(|row| (0..row).map(move |column| (row, column)))
            .map(|(row, column)| matrix[row][column].powi(2))
            .sum();
        if off <= 1e-30 * total {
            break;
        }
        for p in 0..size {
            for q in p + 1..size {
                if matrix[p][q] == 0.0 {
                    continue;
                }
                let theta = (matrix[q][q] - matrix[p][p]) / (2.0 * matrix[p][q]);
                let tangent = theta.signum() / (theta.abs() + theta.hypot(1.0));
                let cosine = 1.0 / tangent.hypot(1.0);
                let sine = tangent * cosine;
                let rotate = |a: f64, b: f64| (cosine * a - sine * b, sine * a + cosine * b);
                for row in &mut matrix {
                    (row[p], row[q]) = rotate(row[p], row[q]);
                }
                let (upper, lower) = matrix.split_at_mut(q);
                for (a, b) in upper[p].iter_mut().zip(&mut lower[0]) {
                    (*a, *b) = rotate(*a, *b);
                }
                for row in &mut vectors {
                    (row[p], row[q]) = rotate(row[p], row[q]);
                }
            }
        }
    }
    (0..size).map(|index| (matrix[index][index], vectors.iter().map(|row| row[index]).collect())).collect()
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Tensor};

    use super::*;

    /// A tree of two leaves, of 4 and 2 × 3 numbers.
    fn tree(numbers: [f32; 10]) -> Tree {
        let device = Device::default();
        let first: [f32; 4] = numbers[..4].try_into().unwrap();
        let second = [[numbers[4], numbers[5], numbers[6]], [numbers[7], numbers[8], numbers[9]]];
        Tree::empty()
            .push("a", Tensor::<1>::from_floats(first, &device))
            .and_then(|tree| tree.push("b", Tensor::<2>::from_floats(second, &device)))
            .unwrap()
    }

    fn diagonal(values: [f32; 10]) -> impl FnMut(&Tree) -> Result<Tree> {
        let values = tree(values);
        move |vector| vector.clone().mul(&values)
    }

    const START: [f32; 10] = [1.0, -0.5, 0.7, 0.3, -0.9, 0.4, 0.8, -0.6, 0.2, 0.5];

    #[test]
    fn a_known_diagonal_is_found() {
        let operator = diagonal([3.0, -7.0, 10.0, 0.0, 0.5, 1.5, -2.0, 6.0, 4.0, 0.1]);
        let found = top_eigenvalues(tree(START), 10, 4, operator).unwrap();
        for (value, expected) in found.values.iter().zip([10.0, 6.0, 4.0, 3.0]) {
            assert!((value - expected).abs() < 1e-4, "{found:?}");
        }
        assert_eq!((found.values.len(), found.products), (4, 10));
    }

    #[test]
    fn residuals_bound_the_error_of_an_unfinished_search() {
        let spectrum = [3.0, -7.0, 10.0, 0.0, 0.5, 1.5, -2.0, 6.0, 4.0, 0.1];
        let found = top_eigenvalues(tree(START), 5, 2, diagonal(spectrum)).unwrap();
        for (value, residual) in found.values.iter().zip(&found.residuals) {
            let nearest = spectrum.iter().map(|exact| (f64::from(*exact) - value).abs()).fold(f64::INFINITY, f64::min);
            assert!(nearest <= 1.01 * residual && *residual < 3.0, "{found:?}");
        }
    }

    #[test]
    fn an_invariant_subspace_ends_the_search() {
        let operator = diagonal([2.0, 2.0, 2.0, 2.0, 5.0, 5.0, 5.0, 5.0, 5.0, 5.0]);
        let found = top_eigenvalues(tree(START), 10, 5, operator).unwrap();
        assert_eq!((found.values.len(), found.products), (2, 2));
        assert!((found.values[0] - 5.0).abs() < 1e-5 && (found.values[1] - 2.0).abs() < 1e-5, "{found:?}");
        let zero = top_eigenvalues(tree(START), 10, 5, diagonal([0.0; 10])).unwrap();
        assert_eq!((zero.values, zero.products), (vec![0.0], 1));
    }

    #[test]
    fn what_is_not_finite_is_reported_as_such() {
        let mut values = [1.0; 10];
        values[3] = f32::NAN;
        let found = top_eigenvalues(tree(START), 10, 2, diagonal(values)).unwrap();
        assert!(found.values.iter().chain(&found.residuals).all(|value| value.is_nan()));
    }

    #[test]
    fn jacobi_solves_a_dense_matrix() {
        // Eigenvalues 1, 2 and 4, with eigenvectors (1, 1, 1), (1, 0, −1) and (1, −2, 1).
        let matrix = vec![vec![2.0, -1.0, 0.0], vec![-1.0, 3.0, -1.0], vec![0.0, -1.0, 2.0]];
        let mut found = symmetric_eigenvalues(matrix.clone());
        found.sort_by(|a, b| a.0.total_cmp(&b.0));
        for ((value, vector), expected) in found.iter().zip([1.0, 2.0, 4.0]) {
            assert!((value - expected).abs() < 1e-13);
            for (row, entry) in matrix.iter().zip(vector) {
                let product: f64 = row.iter().zip(vector).map(|(a, b)| a * b).sum();
                assert!((product - value * entry).abs() < 1e-13);
            }
        }
    }
}
