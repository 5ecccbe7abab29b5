//! The point of smallest norm in the convex hull of vectors known by their Gramian.

/// Weights `w` of the simplex that minimise `wᵀGw`.
///
/// P. Wolfe, "Finding the nearest point in a polytope", Mathematical Programming 11, 1976: a set of vectors whose affine hull's nearest
/// point lies inside their convex hull grows by the vector that improves most, and loses those on the way. Finite.
pub(crate) fn min_norm(gramian: &[f64], m: usize) -> Vec<f64> {
    let at = |i: usize, j: usize| gramian[i * m + j];
    let scale = (0..m).map(|i| at(i, i)).fold(0.0, f64::max);
    let first = (0..m).min_by(|i, j| at(*i, *i).total_cmp(&at(*j, *j)));
    let Some(first) = first else { return Vec::new() };
    let mut w = vec![0.0; m];
    w[first] = 1.0;
    if !(scale > 0.0 && scale.is_finite()) {
        return w;
    }
    let mut corral = vec![first];
    for _ in 0..100 * m {
        let slope: Vec<f64> = (0..m).map(|i| (0..m).map(|j| at(i, j) * w[j]).sum()).collect();
        let value: f64 = slope.iter().zip(&w).map(|(s, w)| s * w).sum();
        let best = (0..m).min_by(|i, j| slope[*i].total_cmp(&slope[*j])).expect("m is not 0");
        if slope[best] >= value - 1e-13 * scale || corral.contains(&best) {
            break;
        }
        corral.push(best);
        loop {
            let Some(affine) = affine_minimiser(&corral, &at, scale) else {
                // Dependent vectors: the newcomer brings nothing that the others have not.
                corral.pop();
                break;
            };
            if affine.iter().all(|x| *x > 1e-15) {
                w.fill(0.0);
                corral.iter().zip(&affine).for_each(|(i, x)| w[*i] = *x);
                break;
            }
            let step = corral.iter().zip(&affine).filter(|(_, x)| **x <= 1e-15);
            let step = step.map(|(i, x)| w[*i] / (w[*i] - x)).filter(|t| t.is_finite()).fold(1.0, f64::min);
            for (i, x) in corral.iter().zip(&affine) {
                w[*i] += step * (x - w[*i]);
            }
            let before = corral.len();
            corral.retain(|i| w[*i] > 1e-15);
            if corral.len() == before {
                // Rounding left everything positive: drop the smallest.
                let smallest = (0..before).min_by(|i, j| w[corral[*i]].total_cmp(&w[corral[*j]])).expect("not empty");
                w[corral.remove(smallest)] = 0.0;
            }
            (0..m).filter(|i| !corral.contains(i)).for_each(|i| w[i] = 0.0);
        }
    }
    let sum: f64 = w.iter().sum();
    w.iter().map(|w| w / sum).collect()
}

/// Weights of sum 1, of any sign, that minimise the norm: `G·x = μ·1`.
fn affine_minimiser(corral: &[usize], at: &impl Fn(usize, usize) -> f64, scale: f64) -> Option<Vec<f64>> {
    let k = corral.len();
    let mut rows: Vec<Vec<f64>> = (0..k)
        .map(|i| {
            let row = corral.iter().map(|j| at(corral[i], *j) / scale);
            row.chain([1.0, 0.0]).collect()
        })
        .collect();
    rows.push(vec![1.0; k].into_iter().chain([0.0, 1.0]).collect());
    for column in 0..=k {
        let pivot = (column..=k).max_by(|i, j| rows[*i][column].abs().total_cmp(&rows[*j][column].abs()))?;
        if rows[pivot][column].abs() < 1e-15 {
            return None;
        }
        rows.swap(column, pivot);
        let line = rows[column].clone();
        for (_, row) in rows.iter_mut().enumerate().filter(|(i, _)| *i != column) {
            let factor = row[column] / line[column];
            row[column..].iter_mut().zip(&line[column..]).for_each(|(x, y)| *x -= factor * y);
        }
    }
    Some((0..k).map(|i| rows[i][k + 1] / rows[i][i]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use core_tensor::testing::property;
    use proptest::collection::vec;
    use proptest::strategy::Strategy;

    #[test]
    fn the_optimality_conditions_hold() {
        let rows = (1..=6usize, 1..=5usize).prop_flat_map(|(m, n)| vec(vec(-2.0..2.0f64, n), m));
        property(200, rows, |rows| {
            let m = rows.len();
            let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
            let g: Vec<f64> = rows.iter().flat_map(|x| rows.iter().map(move |y| dot(x, y))).collect();
            let w = min_norm(&g, m);
            assert!(w.iter().all(|w| *w >= 0.0) && (w.iter().sum::<f64>() - 1.0).abs() < 1e-12, "{w:?}");
            let slope: Vec<f64> = (0..m).map(|i| dot(&g[i * m..(i + 1) * m], &w)).collect();
            let value = dot(&slope, &w);
            // No vector makes a sharper angle than the point itself.
            assert!(slope.iter().all(|s| *s >= value - 1e-9), "{slope:?} {value}");
        });
        assert_eq!(min_norm(&[], 0), [0.0; 0]);
        assert_eq!(min_norm(&[4.0], 1), [1.0]);
        assert_eq!(min_norm(&[1.0, -1.0, -1.0, 1.0], 2), [0.5, 0.5]);
        assert_eq!(min_norm(&[0.0; 4], 2).iter().sum::<f64>(), 1.0);
        // Pairs of every scale.
        for s in [1e-10, 1.0, 1e15] {
            let w = min_norm(&[s, 0.0, 0.0, 3.0 * s], 2);
            assert!((w[0] - 0.75).abs() < 1e-12);
        }
    }
}
