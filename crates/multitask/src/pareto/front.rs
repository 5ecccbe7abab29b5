//! Sets of points: which are not dominated, and how evenly they are spread.

use super::check_points;
use crate::model::{ModelError, Result};

/// Whether `a` dominates `b`: nowhere worse and somewhere better; smaller is better.
pub fn dominates(a: &[f64], b: &[f64]) -> bool {
    a.iter().zip(b).all(|(a, b)| a <= b) && a.iter().zip(b).any(|(a, b)| a < b)
}

/// Positions of the points that no other dominates, in order. Equal points are all kept.
///
/// ```
/// use multitask::pareto::non_dominated;
///
/// assert_eq!(non_dominated(&[vec![1.0, 2.0], vec![2.0, 2.0], vec![2.0, 1.0]])?, [0, 2]);
/// # Ok::<(), multitask::ModelError>(())
/// ```
///
/// # Errors
/// [`ModelError::PerTask`] for points of different numbers of objectives, [`ModelError::Parameter`] for numbers that are not
/// finite.
pub fn non_dominated(points: &[Vec<f64>]) -> Result<Vec<usize>> {
    check_points(points, points.first().map_or(0, Vec::len))?;
    let alone = |i: &usize| !points.iter().any(|other| dominates(other, &points[*i]));
    Ok((0..points.len()).filter(alone).collect())
}

/// Schott's spacing: the standard deviation of the distance from each point to its nearest neighbour; 0 for an even spread.
///
/// $$S = \sqrt{\frac{1}{n - 1} \sum_i (\bar d - d_i)^2}, \qquad d_i = \min_{j ≠ i} \sum_k |f_k^i - f_k^j|$$
///
/// J. R. Schott, "Fault Tolerant Design Using Single and Multicriteria Genetic Algorithm Optimization", MSc thesis, MIT, 1995.
/// It says nothing of how far the points reach: use it beside the hypervolume.
///
/// # Errors
/// As [`non_dominated`], and [`ModelError::Parameter`] for fewer than two points.
pub fn spacing(points: &[Vec<f64>]) -> Result<f64> {
    check_points(points, points.first().map_or(0, Vec::len))?;
    let n = points.len();
    if n < 2 {
        return Err(ModelError::parameter("points", n as f64, "at least 2"));
    }
    let distance = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).sum::<f64>();
    let nearest = |i: usize| {
        let others = (0..n).filter(|j| *j != i).map(|j| distance(&points[i], &points[j]));
        others.fold(f64::INFINITY, f64::min)
    };
    let d: Vec<f64> = (0..n).map(nearest).collect();
    let mean = d.iter().sum::<f64>() / n as f64;
    Ok((d.iter().map(|d| (mean - d).powi(2)).sum::<f64>() / (n - 1) as f64).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pareto::hypervolume;
    use core_tensor::testing::property;
    use proptest::collection::vec;

    #[test]
    fn the_filter_keeps_the_hypervolume_and_nothing_else() {
        property(100, vec(vec(0.0..1.0f64, 3), 1..15), |points| {
            let kept = non_dominated(&points).unwrap();
            let front: Vec<_> = kept.iter().map(|i| points[*i].clone()).collect();
            let volume = |points: &[Vec<f64>]| hypervolume(points, &[1.0; 3]).unwrap();
            assert!((volume(&front) - volume(&points)).abs() < 1e-12);
            for i in 0..front.len() {
                let mut others = front.clone();
                others.remove(i);
                assert!(volume(&others) < volume(&front), "every point of the front counts");
            }
            assert_eq!(non_dominated(&front).unwrap(), (0..front.len()).collect::<Vec<_>>());
        });
    }

    #[test]
    fn spacing_of_even_and_uneven_sets() {
        let even: Vec<_> = (0..5).map(|i| vec![f64::from(i), 4.0 - f64::from(i)]).collect();
        assert_eq!(spacing(&even).unwrap(), 0.0);
        // Nearest distances 1, 1, 3: mean 5/3, squares 4/9 + 4/9 + 16/9.
        let uneven = [vec![0.0], vec![1.0], vec![4.0]];
        assert!((spacing(&uneven).unwrap() - (24.0f64 / 9.0 / 2.0).sqrt()).abs() < 1e-15);
        assert!(spacing(&[vec![1.0]]).is_err());
        assert!(non_dominated(&[vec![1.0], vec![1.0, 2.0]]).is_err());
        assert_eq!(non_dominated(&[vec![1.0, 1.0], vec![1.0, 1.0]]).unwrap(), [0, 1]);
        assert_eq!(non_dominated(&[]).unwrap(), [0; 0]);
    }
}
