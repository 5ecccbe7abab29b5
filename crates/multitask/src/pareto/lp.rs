//! A small dense linear program over the simplex.

/// What counts as zero in a table of numbers around one.
const TOLERANCE: f64 = 1e-11;

/// `x ≥ 0`, `Σx = 1`, `A·x ≥ b` that maximises `c·x`; `None` if there is no such `x`.
///
/// The two-phase simplex method on a full table with Bland's rule (R. G. Bland, 1977), which cannot cycle.
pub(crate) fn maximise(c: &[f64], a: &[Vec<f64>], b: &[f64]) -> Option<Vec<f64>> {
    let (n, p) = (c.len(), a.len());
    // Rows: A·x − s = b and Σx = 1, signs such that the right side is not negative, an artificial variable each.
    let width = n + p + (p + 1);
    let mut rows: Vec<Vec<f64>> = Vec::with_capacity(p + 1);
    for (i, (row, b)) in a.iter().zip(b).enumerate() {
        let sign = if *b < 0.0 { -1.0 } else { 1.0 };
        let mut line = vec![0.0; width + 1];
        row.iter().enumerate().for_each(|(j, x)| line[j] = sign * x);
        line[n + i] = -sign;
        line[n + p + i] = 1.0;
        line[width] = sign * b;
        rows.push(line);
    }
    let mut simplex = vec![0.0; width + 1];
    simplex[..n].fill(1.0);
    simplex[n + p + p] = 1.0;
    simplex[width] = 1.0;
    rows.push(simplex);
    let mut basis: Vec<usize> = (0..=p).map(|i| n + p + i).collect();

    let artificial: Vec<f64> = (0..width).map(|j| if j < n + p { 0.0 } else { -1.0 }).collect();
    solve(&mut rows, &mut basis, &artificial, width);
    let infeasible: f64 = basis.iter().zip(&rows).filter(|(j, _)| **j >= n + p).map(|(_, row)| row[width]).sum();
    if infeasible > 1e-9 {
        return None;
    }
    // Artificial variables that stayed at zero must not come back: others take their places, and where none can, the row says nothing.
    let mut row = 0;
    while row < rows.len() {
        if basis[row] < n + p {
            row += 1;
            continue;
        }
        let largest = (0..n + p).max_by(|i, j| rows[row][*i].abs().total_cmp(&rows[row][*j].abs()));
        match largest.filter(|enter| rows[row][*enter].abs() > TOLERANCE) {
            Some(enter) => {
                pivot(&mut rows, &mut basis, row, enter);
                row += 1;
            }
            None => {
                rows.remove(row);
                basis.remove(row);
            }
        }
    }
    let objective: Vec<f64> = (0..width).map(|j| if j < n { c[j] } else { 0.0 }).collect();
    solve(&mut rows, &mut basis, &objective, n + p);
    let mut x = vec![0.0; n];
    for (j, row) in basis.iter().zip(&rows) {
        if *j < n {
            x[*j] = row[width].max(0.0);
        }
    }
    Some(x)
}

/// Pivots until no variable below `limit` improves the objective.
fn solve(rows: &mut [Vec<f64>], basis: &mut [usize], objective: &[f64], limit: usize) {
    let width = objective.len();
    loop {
        let gain =
            |j: usize| objective[j] - basis.iter().zip(rows.iter()).map(|(i, row)| objective[*i] * row[j]).sum::<f64>();
        let Some(enter) = (0..limit).find(|j| !basis.contains(j) && gain(*j) > TOLERANCE) else {
            return;
        };
        let ratio = |i: usize| rows[i][width] / rows[i][enter];
        let leave = (0..rows.len())
            .filter(|i| rows[*i][enter] > TOLERANCE)
            .min_by(|i, j| ratio(*i).total_cmp(&ratio(*j)).then(basis[*i].cmp(&basis[*j])));
        // The simplex is bounded, so some row limits the step; only rounding can hide it.
        let Some(leave) = leave else { return };
        pivot(rows, basis, leave, enter);
    }
}

/// Makes `enter` the basic variable of row `leave`.
fn pivot(rows: &mut [Vec<f64>], basis: &mut [usize], leave: usize, enter: usize) {
    let pivot = rows[leave][enter];
    rows[leave].iter_mut().for_each(|x| *x /= pivot);
    let line = rows[leave].clone();
    for (i, row) in rows.iter_mut().enumerate() {
        let factor = row[enter];
        if i != leave && factor != 0.0 {
            row.iter_mut().zip(&line).for_each(|(x, y)| *x -= factor * y);
        }
    }
    basis[leave] = enter;
}

#[cfg(test)]
mod tests {
    use super::*;
    use core_tensor::testing::property;
    use proptest::collection::vec;
    use proptest::strategy::Strategy;

    #[test]
    fn feasible_and_no_point_of_a_grid_is_better() {
        let problem = (0..=3usize).prop_flat_map(|p| {
            // Bounds of exactly zero are common in use, and start from a degenerate corner.
            let bound = proptest::prop_oneof![-0.6..0.4f64, proptest::strategy::Just(0.0)];
            (vec(-1.0..1.0f64, 3), vec(vec(-1.0..1.0f64, 3), p), vec(bound, p))
        });
        property(400, problem, |(c, a, b)| {
            let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
            let n = 40;
            let grid = (0..=n).flat_map(|i| (0..=n - i).map(move |j| [i, j, n - i - j].map(|k| k as f64 / n as f64)));
            let allowed = |x: &[f64]| a.iter().zip(&b).all(|(a, b)| dot(a, x) >= *b);
            let best = grid.filter(|x| allowed(x)).map(|x| dot(&c, &x)).fold(f64::NEG_INFINITY, f64::max);
            match maximise(&c, &a, &b) {
                Some(x) => {
                    assert!(x.iter().all(|x| *x >= 0.0) && (x.iter().sum::<f64>() - 1.0).abs() < 1e-9);
                    assert!(a.iter().zip(&b).all(|(a, b)| dot(a, &x) >= b - 1e-9), "{x:?}");
                    assert!(dot(&c, &x) >= best - 1e-9, "{x:?}: {} below {best}", dot(&c, &x));
                }
                None => assert!(best == f64::NEG_INFINITY),
            }
        });
        assert_eq!(maximise(&[1.0, 2.0], &[], &[]).unwrap(), [0.0, 1.0]);
        assert!(maximise(&[1.0, 2.0], &[vec![1.0, 1.0]], &[2.0]).is_none());
    }
}
