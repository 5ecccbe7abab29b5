//! How much the tasks' gradients are in each other's way, from their Gramian alone.

use crate::model::{ModelError, Result};
use crate::solvers::{Matrix, eigen};

/// Norms, cosines and condition number of the tasks' gradients, for every step's report.
///
/// All of it follows from `G = JJᵀ`, a matrix of tasks by tasks on the host: no further pass over any gradient.
///
/// ```
/// use multitask::Conflict;
///
/// // g₁ = (1, 0), g₂ = (−1, 1)
/// let conflict = Conflict::of_gramian(&[1.0, -1.0, -1.0, 2.0])?;
/// assert_eq!(conflict.norms, [1.0, 2f64.sqrt()]);
/// assert!((conflict.cosine(0, 1) + 0.5f64.sqrt()).abs() < 1e-15);
/// assert_eq!(conflict.conflicting_pairs(), 1);
/// # Ok::<(), multitask::ModelError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Conflict {
    /// `‖gᵢ‖`.
    pub norms: Vec<f64>,
    /// `cos(gᵢ, gⱼ)`, row by row; NaN beside a gradient that is zero, 1 on the diagonal of the others.
    pub cosines: Vec<f64>,
    /// `σ_max / σ_min` of `J`: 1 if all gradients have one length and are orthogonal, infinite if they depend on one another.
    /// What Aligned-MTL (D. Senushkin et al., CVPR 2023, arXiv:2305.19000) takes for the measure of conflict and dominance.
    pub condition_number: f64,
    /// `min ‖gᵢ‖² / max ‖gᵢ‖²`: 1 if no task dominates.
    pub dominance: f64,
}

impl Conflict {
    /// Of `JJᵀ`, row by row.
    ///
    /// Entries that are not finite give NaN where they matter.
    ///
    /// # Errors
    /// [`ModelError::PerTask`] unless the number of entries is a square.
    pub fn of_gramian(gramian: &[f64]) -> Result<Self> {
        let count = gramian.len().isqrt();
        if count * count != gramian.len() {
            return Err(ModelError::PerTask { what: "the Gramian", expected: count * count, found: gramian.len() });
        }
        let at = |i: usize, j: usize| gramian[i * count + j];
        let norms: Vec<f64> = (0..count).map(|i| at(i, i).max(0.0).sqrt()).collect();
        let norms: Vec<f64> =
            norms.iter().enumerate().map(|(i, n)| if at(i, i).is_nan() { f64::NAN } else { *n }).collect();
        let cosine = |i: usize, j: usize| match i == j && norms[i] > 0.0 {
            true => 1.0,
            false => (at(i, j) / norms[i] / norms[j]).clamp(-1.0, 1.0),
        };
        let cosines = (0..count * count).map(|k| cosine(k / count, k % count)).collect();
        let finite = gramian.iter().all(|x| x.is_finite());
        let condition_number = match count {
            0 => 1.0,
            _ if !finite => f64::NAN,
            _ => condition(eigenvalues(gramian, count)),
        };
        let square = |i: usize| norms[i] * norms[i];
        let smallest = (0..count).map(square).fold(f64::INFINITY, f64::min);
        let largest = (0..count).map(square).fold(0.0, f64::max);
        let dominance = if count == 0 { 1.0 } else { smallest / largest };
        Ok(Self { norms, cosines, condition_number, dominance })
    }

    /// `cos(gᵢ, gⱼ)`.
    ///
    /// # Panics
    /// If there is no such pair.
    pub fn cosine(&self, i: usize, j: usize) -> f64 {
        assert!(j < self.norms.len(), "there are {} gradients", self.norms.len());
        self.cosines[i * self.norms.len() + j]
    }

    /// Number of pairs whose gradients point apart (a negative cosine).
    pub fn conflicting_pairs(&self) -> usize {
        let count = self.norms.len();
        (0..count).flat_map(|i| (i + 1..count).map(move |j| (i, j))).filter(|(i, j)| self.cosine(*i, *j) < 0.0).count()
    }

    /// The smallest cosine of all pairs; `None` with fewer than two gradients that are not zero.
    pub fn lowest_cosine(&self) -> Option<f64> {
        let count = self.norms.len();
        let pairs = (0..count).flat_map(|i| (i + 1..count).map(move |j| (i, j)));
        pairs.map(|(i, j)| self.cosine(i, j)).filter(|c| !c.is_nan()).min_by(f64::total_cmp)
    }
}

fn condition(eigenvalues: Vec<f64>) -> f64 {
    let largest = eigenvalues.iter().copied().fold(0.0, f64::max);
    let smallest = eigenvalues.iter().copied().fold(f64::INFINITY, f64::min);
    // Rounding leaves the zero eigenvalue of dependent gradients anywhere within a few ulps of the largest.
    match smallest <= largest * f64::EPSILON * eigenvalues.len() as f64 {
        true => f64::INFINITY,
        false => (largest / smallest).sqrt(),
    }
}

/// Eigenvalues of a symmetric matrix of any scale.
fn eigenvalues(matrix: &[f64], n: usize) -> Vec<f64> {
    let scale = matrix.iter().fold(0.0f64, |a, b| a.max(b.abs()));
    if scale == 0.0 {
        return vec![0.0; n];
    }
    let scaled = Matrix::symmetric(n, |i, j| matrix[i * n + j] / scale);
    eigen(&scaled).values.into_iter().map(|value| value * scale).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use core_tensor::testing::property;
    use proptest::collection::vec;

    fn gramian(rows: &[Vec<f64>]) -> Vec<f64> {
        let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
        rows.iter().flat_map(|x| rows.iter().map(move |y| dot(x, y))).collect()
    }

    #[test]
    fn laws_of_norms_cosines_and_condition() {
        let rows = (1..=5usize).prop_flat_map(|m| vec(vec(-3.0..3.0f64, 6), m));
        use proptest::strategy::Strategy;
        property(64, rows, |rows| {
            let conflict = Conflict::of_gramian(&gramian(&rows)).unwrap();
            let m = rows.len();
            assert!(conflict.condition_number >= 1.0 - 1e-12);
            assert!(conflict.dominance <= 1.0);
            for i in 0..m {
                assert_eq!(conflict.cosine(i, i), 1.0);
                for j in 0..m {
                    assert!((conflict.cosine(i, j) - conflict.cosine(j, i)).abs() < 1e-12);
                }
            }
            // Scaling all gradients changes norms alone; a condition number is that of σ.
            let scaled: Vec<Vec<f64>> = rows.iter().map(|row| row.iter().map(|x| 10.0 * x).collect()).collect();
            let scaled = Conflict::of_gramian(&gramian(&scaled)).unwrap();
            assert!((scaled.condition_number / conflict.condition_number - 1.0).abs() < 1e-6);
            assert!((scaled.norms[0] / conflict.norms[0] - 10.0).abs() < 1e-9);
            assert_eq!(scaled.conflicting_pairs(), conflict.conflicting_pairs());
        });
    }

    #[test]
    fn eigenvalues_keep_trace_and_determinant() {
        let values = eigenvalues(&[2.0, 1.0, 0.0, 1.0, 2.0, 1.0, 0.0, 1.0, 2.0], 3);
        let mut sorted = values;
        sorted.sort_by(f64::total_cmp);
        let expected = [2.0 - 2f64.sqrt(), 2.0, 2.0 + 2f64.sqrt()];
        assert!(sorted.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-14), "{sorted:?}");
    }

    #[test]
    fn known_cases_and_odd_ones() {
        let orthogonal = Conflict::of_gramian(&gramian(&[vec![3.0, 0.0], vec![0.0, 4.0]])).unwrap();
        assert_eq!((orthogonal.condition_number, orthogonal.dominance), (4.0 / 3.0, 9.0 / 16.0));
        assert_eq!((orthogonal.conflicting_pairs(), orthogonal.lowest_cosine()), (0, Some(0.0)));
        let dependent = Conflict::of_gramian(&gramian(&[vec![1.0, 2.0], vec![-2.0, -4.0]])).unwrap();
        assert_eq!((dependent.condition_number, dependent.lowest_cosine()), (f64::INFINITY, Some(-1.0)));
        let zero = Conflict::of_gramian(&gramian(&[vec![0.0], vec![2.0]])).unwrap();
        assert!(zero.cosine(0, 1).is_nan() && zero.cosine(0, 0).is_nan() && zero.cosine(1, 1) == 1.0);
        assert_eq!((zero.lowest_cosine(), zero.dominance, zero.condition_number), (None, 0.0, f64::INFINITY));
        let one = Conflict::of_gramian(&[4.0]).unwrap();
        assert_eq!((one.norms, one.condition_number), (vec![2.0], 1.0));
        assert_eq!(Conflict::of_gramian(&[]).unwrap().condition_number, 1.0);
        assert!(Conflict::of_gramian(&[1.0, 2.0]).is_err());
        let bad = Conflict::of_gramian(&[f64::NAN, 0.0, 0.0, 1.0]).unwrap();
        assert!(bad.condition_number.is_nan() && bad.norms[0].is_nan() && bad.norms[1] == 1.0);
        let large = Conflict::of_gramian(&[1e300, 0.0, 0.0, 1e-300]).unwrap();
        assert_eq!(large.conflicting_pairs(), 0);
    }
}
