//! Weights that are not negative and sum to 1.

use super::matrix::{Matrix, dot};
use super::nnls::Stuck;

/// A pivot below this share of the rows' squared lengths means that a row lies in the plane of those chosen before.
const PIVOT: f64 = 1e-15;

/// The point of smallest norm in the convex hull of the rows, as weights: `argmin wᵀGw` over the simplex, exactly.
///
/// P. Wolfe, "Finding the nearest point in a polytope", 1976: from the shortest row on, the row that lies furthest on
/// the
/// near side of the current point `d` enters, the point of smallest norm in the plane through the rows chosen is
/// found, and rows whose weight
/// would turn negative leave. Every set of rows comes at most once, so the answer is exact up to rounding: `⟨g_i, d⟩ ≥
/// ‖d‖²`
/// for all rows, with equality where `w_i > 0`. Rows of zeros share the weight evenly: the norm is then 0.
///
/// # Errors
/// [`Stuck`] if rounding keeps the conditions from being met within the iterations.
pub fn min_norm_point(g: &Matrix) -> Result<Vec<f64>, Stuck> {
    let m = g.size();
    let diagonal = g.diagonal();
    let Some(shortest) = (0..m).min_by(|i, j| diagonal[*i].total_cmp(&diagonal[*j])) else { return Ok(vec![]) };
    if diagonal[shortest] <= 0.0 {
        let zeros = diagonal.iter().filter(|x| **x <= 0.0).count() as f64;
        return Ok(diagonal.iter().map(|x| if *x <= 0.0 { 1.0 / zeros } else { 0.0 }).collect());
    }
    let mut w = vec![0.0; m];
    w[shortest] = 1.0;
    // Rows in the plane of those chosen, up to rounding.
    let mut refused = vec![false; m];
    for iteration in 0..30 * m + 30 {
        let along = g.times(&w);
        let square = dot(&along, &w);
        let terms = |i: usize| g.row(i).iter().zip(&w).map(|(g, w)| (g * w).abs()).sum::<f64>();
        let spread: f64 = (0..m).map(|i| w[i] * terms(i)).sum();
        let noise: Vec<f64> = (0..m).map(|i| f64::EPSILON * (terms(i) + spread)).collect();
        let gap = |i: usize| square - along[i];
        let outside = (0..m).filter(|i| w[*i] == 0.0);
        let entering = outside.clone().filter(|i| !refused[*i] && gap(*i) > 4.0 * noise[*i]);
        let Some(entering) = entering.max_by(|i, j| gap(*i).total_cmp(&gap(*j))) else {
            let worst = outside.map(|i| gap(i) / noise[i].max(f64::MIN_POSITIVE)).fold(0.0, f64::max);
            return match worst <= 4e6 {
                true => Ok(normalised(w)),
                false => Err(Stuck { residual: worst * f64::EPSILON, iterations: iteration }),
            };
        };
        match descend(g, &w, entering) {
            Some(next) => {
                w = next;
                refused.fill(false);
            }
            None => refused[entering] = true,
        }
    }
    Err(Stuck { residual: f64::NAN, iterations: 30 * m + 30 })
}

/// From `w`, best on its own rows, to the best point on these and one more row, or on a part of them. `None` if that
/// row is
/// in their plane.
fn descend(g: &Matrix, w: &[f64], entering: usize) -> Option<Vec<f64>> {
    let mut w = w.to_vec();
    let mut rows: Vec<usize> = (0..w.len()).filter(|i| w[*i] > 0.0 || *i == entering).collect();
    let mut first = true;
    loop {
        let target = plane_minimum(g, &rows)?;
        if first && rows.iter().zip(&target).any(|(i, t)| *i == entering && *t <= 0.0) {
            return None;
        }
        first = false;
        if target.iter().all(|t| *t > 0.0) {
            w.fill(0.0);
            rows.iter().zip(&target).for_each(|(i, t)| w[*i] = *t);
            return Some(w);
        }
        // As far as all stay at zero or above; the first to get there leaves.
        let steps = rows.iter().zip(&target).filter(|(_, t)| **t <= 0.0).map(|(i, t)| (*i, w[*i] / (w[*i] - t)));
        let (leaving, step) = steps.min_by(|a, b| a.1.total_cmp(&b.1))?;
        rows.iter().zip(&target).for_each(|(i, t)| w[*i] = (w[*i] + step * (t - w[*i])).max(0.0));
        w[leaving] = 0.0;
        rows.retain(|i| w[*i] > 0.0);
    }
}

/// Weights, of any sign, of the point of smallest norm in the plane through some rows: with the shortest row `r`, least
/// squares in the differences `g_k − g_r`. `None` if a row is in the plane of the others.
fn plane_minimum(g: &Matrix, rows: &[usize]) -> Option<Vec<f64>> {
    let r = *rows.iter().min_by(|i, j| g[(**i, **i)].total_cmp(&g[(**j, **j)]))?;
    let others: Vec<usize> = rows.iter().copied().filter(|i| *i != r).collect();
    let entry = |k: usize, l: usize| {
        let (k, l) = (others[k], others[l]);
        (g[(k, l)] - g[(k, r)]) + (g[(r, r)] - g[(r, l)])
    };
    let differences = Matrix::symmetric(others.len(), entry);
    let right: Vec<f64> = others.iter().map(|k| g[(r, r)] - g[(*k, r)]).collect();
    let floors: Vec<f64> = others.iter().map(|k| PIVOT * (g[(*k, *k)] + g[(r, r)])).collect();
    let solution = differences.solve_above(&right, &floors)?;
    let own = 1.0 - solution.iter().sum::<f64>();
    let weight = |i: &usize| others.iter().position(|k| k == i).map_or(own, |k| solution[k]);
    Some(rows.iter().map(weight).collect())
}

/// The nearest point of the simplex, by sorting (W. Wang and M. Á. Carreira-Perpiñán, "Projection onto the probability
/// simplex", 2013, arXiv:1309.1541, algorithm 1).
pub fn project(y: &[f64]) -> Vec<f64> {
    // Adding to all changes nothing; with the largest at 0 what matters keeps its digits.
    let largest = y.iter().fold(f64::NEG_INFINITY, |a, b| a.max(*b));
    let y: Vec<f64> = y.iter().map(|y| y - largest).collect();
    let mut sorted = y.clone();
    sorted.sort_by(|a, b| b.total_cmp(a));
    let mut sum = 0.0;
    let mut shift = 0.0;
    for (i, u) in sorted.iter().enumerate() {
        sum += u;
        let candidate = (1.0 - sum) / (i + 1) as f64;
        if u + candidate > 0.0 {
            shift = candidate;
        }
    }
    normalised(y.iter().map(|y| (y + shift).max(0.0)).collect())
}

/// The exponentials, relative to their sum.
pub fn softmax(x: &[f64]) -> Vec<f64> {
    let largest = x.iter().fold(f64::NEG_INFINITY, |a, b| a.max(*b));
    normalised(x.iter().map(|x| (x - largest).exp()).collect())
}

fn normalised(x: Vec<f64>) -> Vec<f64> {
    let sum: f64 = x.iter().sum();
    x.into_iter().map(|x| x / sum).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::solvers::testing::Gramians;
    use core_tensor::testing::property;
    use proptest::collection::vec;

    #[test]
    fn the_point_of_smallest_norm_is_nearest_in_every_row() {
        property(400, Gramians::new(1..=12).strategy(), |g| {
            let w = min_norm_point(&g).unwrap();
            assert!(w.iter().all(|w| *w >= 0.0) && (w.iter().sum::<f64>() - 1.0).abs() < 1e-14);
            // ⟨g_i, d⟩ ≥ ‖d‖² for every row, with equality where the weight is positive.
            let (dual, q) = (g.times(&w), g.quadratic(&w));
            for i in 0..g.size() {
                let terms: f64 = g.row(i).iter().zip(&w).map(|(a, x)| (a * x).abs()).sum::<f64>() + q;
                assert!(dual[i] - q >= -1e-12 * terms, "{:e} of {terms:e}", dual[i] - q);
                assert!(w[i] == 0.0 || (dual[i] - q).abs() <= 1e-12 * terms, "{:e} of {terms:e}", dual[i] - q);
            }
        });
    }

    #[test]
    fn the_optimality_conditions_hold_for_rows_of_few_dimensions() {
        use proptest::strategy::Strategy;
        let rows = (1..=6usize, 1..=5usize).prop_flat_map(|(m, n)| vec(vec(-2.0..2.0f64, n), m));
        property(200, rows, |rows| {
            let g = Matrix::symmetric(rows.len(), |i, j| dot(&rows[i], &rows[j]));
            let w = min_norm_point(&g).unwrap();
            assert!(w.iter().all(|w| *w >= 0.0) && (w.iter().sum::<f64>() - 1.0).abs() < 1e-12, "{w:?}");
            let (slope, value) = (g.times(&w), g.quadratic(&w));
            // No vector makes a sharper angle than the point itself.
            assert!(slope.iter().all(|s| *s >= value - 1e-9), "{slope:?} {value}");
        });
        assert_eq!(min_norm_point(&Matrix::zeros(0)).unwrap(), [0.0; 0]);
        assert_eq!(min_norm_point(&Matrix::symmetric(1, |_, _| 4.0)).unwrap(), [1.0]);
        let opposite = Matrix::symmetric(2, |i, j| if i == j { 1.0 } else { -1.0 });
        assert_eq!(min_norm_point(&opposite).unwrap(), [0.5, 0.5]);
        assert_eq!(min_norm_point(&Matrix::zeros(2)).unwrap().iter().sum::<f64>(), 1.0);
        // Pairs of every scale.
        for s in [1e-10, 1.0, 1e15] {
            let w = min_norm_point(&Matrix::symmetric(2, |i, j| if i != j { 0.0 } else { [s, 3.0 * s][i] })).unwrap();
            assert!((w[0] - 0.75).abs() < 1e-12);
        }
    }

    #[test]
    fn the_projection_is_the_nearest_point() {
        property(200, (vec(-3.0..3.0f64, 1..9), vec(0.0..1.0f64, 9)), |(y, other)| {
            let w = project(&y);
            assert!(w.iter().all(|w| *w >= 0.0) && (w.iter().sum::<f64>() - 1.0).abs() < 1e-14);
            // No other point u is on the far side: ⟨y − w, u − w⟩ ≤ 0.
            let u = normalised(other[..y.len()].iter().map(|x| x + 1e-9).collect());
            let slope: f64 = y.iter().zip(&w).zip(&u).map(|((y, w), u)| (y - w) * (u - w)).sum();
            assert!(slope <= 1e-12, "{slope:e}");
        });
        assert_eq!(project(&[0.25, 0.75]), [0.25, 0.75]);
        assert_eq!(project(&[5.0, -1.0, 0.0]), [1.0, 0.0, 0.0]);
        assert_eq!(project(&[-1e30, -1e30, -2e30]), [0.5, 0.5, 0.0]);
    }

    #[test]
    fn by_hand() {
        let segment = Matrix::symmetric(2, |i, j| [[18.0, -22.0], [-22.0, 38.0]][i][j]);
        let w = min_norm_point(&segment).unwrap();
        assert!((w[0] - 0.6).abs() < 1e-15 && (w[1] - 0.4).abs() < 1e-15, "{w:?}");
        let zeros = Matrix::symmetric(3, |i, j| if (i, j) == (1, 1) { 2.0 } else { 0.0 });
        assert_eq!(min_norm_point(&zeros).unwrap(), [0.5, 0.0, 0.5]);
        let p = softmax(&[1e300, 1e300, 0.0]);
        assert_eq!(p, [0.5, 0.5, 0.0]);
    }
}
