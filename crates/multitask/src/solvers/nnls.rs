//! Least squares under `x ≥ 0`, exactly, by active sets: the one quadratic program that most aggregators come down to.

use super::matrix::Matrix;

/// Why there is no solution.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stuck {
    /// The largest violation of the optimality conditions, relative to the size of the problem.
    pub residual: f64,
    /// Changes of the active set.
    pub iterations: usize,
}

/// A pivot below this share of its diagonal means that a row depends on those chosen before.
const PIVOT: f64 = 1e-15;

/// `argmin ½·xᵀAx − hᵀx` over `x ≥ 0`, for `A` positive semidefinite and `h` in its range.
///
/// The active-set method of C. L. Lawson and R. J. Hanson, "Solving least squares problems", 1974, algorithm NNLS, in
/// the
/// form on normal equations of R. Bro and S. de Jong, "A fast non-negativity-constrained least squares algorithm",
/// 1997:
/// the row whose dual variable is most negative enters, the equations on the rows chosen are solved, and rows that
/// would turn negative leave. The number of active sets is finite and none comes twice, so the answer is exact up to
/// rounding:
/// `x ≥ 0`, `Ax − h ≥ 0`, `x·(Ax − h) = 0` (property test `kkt_conditions_hold`). A row that enters
/// does not depend on those already chosen, which is why `A` may be singular. `noise` bounds the error of each `h_i`:
/// what is smaller is taken for zero.
///
/// # Errors
/// [`Stuck`] if rounding keeps the conditions from being met within the iterations.
pub fn nnls(a: &Matrix, h: &[f64], noise: &[f64]) -> Result<Vec<f64>, Stuck> {
    let m = a.size();
    let mut x = vec![0.0; m];
    let mut chosen = vec![false; m];
    // Rows that depend on those chosen, up to rounding.
    let mut refused = vec![false; m];
    let size = h.iter().zip(noise).fold(f64::MIN_POSITIVE, |size: f64, (h, noise)| size.max(h.abs() + noise));
    for iteration in 0..30 * m + 30 {
        let dual: Vec<f64> = a.times(&x).iter().zip(h).map(|(ax, h)| ax - h).collect();
        let slack = tolerance(a, &x, noise);
        let entering = (0..m).filter(|i| !chosen[*i] && !refused[*i] && dual[*i] < -slack[*i]);
        let Some(entering) = entering.min_by(|i, j| dual[*i].total_cmp(&dual[*j])) else {
            let worst = (0..m).filter(|i| !chosen[*i]).map(|i| -dual[i] - 1e6 * slack[i]).fold(0.0, f64::max);
            return match worst > 0.0 {
                false => Ok(x),
                true => Err(Stuck { residual: worst / size, iterations: iteration }),
            };
        };
        chosen[entering] = true;
        let before = x.clone();
        loop {
            let rows: Vec<usize> = (0..m).filter(|i| chosen[*i]).collect();
            let right: Vec<f64> = rows.iter().map(|i| h[*i]).collect();
            let target = a.part(&rows).solve_positive(&right, PIVOT);
            // The row that entered has to grow; if it does not, it is there by rounding only.
            let grows =
                |target: &Vec<f64>| rows.iter().zip(target).all(|(i, t)| *i != entering || *t > 0.0 || x[*i] > 0.0);
            let Some(target) = target.filter(grows) else {
                chosen[entering] = false;
                refused[entering] = true;
                x = before;
                chosen.iter_mut().zip(&x).for_each(|(chosen, x)| *chosen = *x > 0.0);
                break;
            };
            if target.iter().all(|t| *t > 0.0) {
                x = vec![0.0; m];
                rows.iter().zip(&target).for_each(|(i, t)| x[*i] = *t);
                refused.fill(false);
                break;
            }
            // As far as all stay at zero or above; the first to get there leaves.
            let leaving = rows.iter().zip(&target).filter(|(_, t)| **t <= 0.0);
            let leaving = leaving.map(|(i, t)| (*i, x[*i] / (x[*i] - t)));
            let Some((first, step)) = leaving.min_by(|a, b| a.1.total_cmp(&b.1)) else { break };
            rows.iter().zip(&target).for_each(|(i, t)| x[*i] = (x[*i] + step * (t - x[*i])).max(0.0));
            x[first] = 0.0;
            chosen.iter_mut().zip(&x).for_each(|(chosen, x)| *chosen &= *x > 0.0);
        }
    }
    let dual = a.times(&x);
    let residual = dual.iter().zip(h).map(|(ax, h)| (h - ax) / size).fold(0.0, f64::max);
    Err(Stuck { residual, iterations: 30 * m + 30 })
}

/// What the dual variables may be below zero by rounding.
fn tolerance(a: &Matrix, x: &[f64], noise: &[f64]) -> Vec<f64> {
    let terms = |i: usize| a.row(i).iter().zip(x).map(|(a, x)| (a * x).abs()).sum::<f64>();
    noise.iter().enumerate().map(|(i, noise)| 4.0 * (f64::EPSILON * terms(i) + noise)).collect()
}

/// `argmin vᵀGv` over `v ≥ lower`, for `G` positive semidefinite: the projection of `Jᵀ·lower` on the dual cone of the
/// rows, as weights. [`nnls`] in `v − lower`.
///
/// # Errors
/// As [`nnls`].
pub fn above(g: &Matrix, lower: &[f64]) -> Result<Vec<f64>, Stuck> {
    let h: Vec<f64> = g.times(lower).iter().map(|x| -x).collect();
    let terms = |i: usize| g.row(i).iter().zip(lower).map(|(g, u)| (g * u).abs()).sum::<f64>();
    let noise: Vec<f64> = (0..g.size()).map(|i| f64::EPSILON * terms(i)).collect();
    let y = nnls(g, &h, &noise)?;
    Ok(lower.iter().zip(y).map(|(lower, y)| lower + y).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::solvers::testing::{Gramians, objective};
    use core_tensor::testing::property;

    /// The best of all sets of positive variables, each with its equations.
    fn by_enumeration(a: &Matrix, h: &[f64]) -> f64 {
        let m = a.size();
        let best = (0..1usize << m).filter_map(|set| {
            let rows: Vec<usize> = (0..m).filter(|i| set >> i & 1 == 1).collect();
            let right: Vec<f64> = rows.iter().map(|i| h[*i]).collect();
            // Sets of nearly dependent rows are met by others, and their own solutions are noise.
            let part = a.part(&rows).solve_positive(&right, 1e-8)?;
            let mut x = vec![0.0; m];
            rows.iter().zip(&part).for_each(|(i, t)| x[*i] = *t);
            part.iter().all(|t| *t >= 0.0).then(|| objective(a, h, &x))
        });
        best.fold(f64::INFINITY, f64::min)
    }

    #[test]
    fn kkt_conditions_hold() {
        property(400, Gramians::new(1..=12).strategy(), |g| {
            let m = g.size();
            let lower: Vec<f64> = (0..m).map(|i| 1.0 / (1.0 + i as f64)).collect();
            let v = above(&g, &lower).unwrap();
            let dual = g.times(&v);
            for i in 0..m {
                let terms: f64 = g.row(i).iter().zip(&v).map(|(a, x)| (a * x).abs()).sum();
                assert!(v[i] >= lower[i], "feasible");
                assert!(dual[i] >= -1e-12 * terms, "dual feasible: {:e} of {terms:e}", dual[i]);
                assert!(v[i] == lower[i] || dual[i].abs() <= 1e-12 * terms, "complementary: {:e}", dual[i]);
            }
        });
    }

    #[test]
    fn no_other_active_set_is_better() {
        property(200, Gramians::new(1..=6).strategy(), |g| {
            let lower = vec![1.0 / g.size() as f64; g.size()];
            let h: Vec<f64> = g.times(&lower).iter().map(|x| -x).collect();
            let v = above(&g, &lower).unwrap();
            let x: Vec<f64> = v.iter().zip(&lower).map(|(v, lower)| v - lower).collect();
            let (found, best) = (objective(&g, &h, &x), by_enumeration(&g, &h));
            let size: f64 = g.map(|_, _, x| x.abs()).quadratic(&lower);
            assert!(found <= best + 1e-13 * size, "{found:e} {best:e}");
        });
    }

    #[test]
    fn by_hand() {
        // Conflicting rows (1, 0) and (−1, 1): v = (1, 1) is best at its bounds, for the sum does not conflict.
        let g = Matrix::symmetric(2, |i, j| [[1.0, -1.0], [-1.0, 2.0]][i][j]);
        assert_eq!(above(&g, &[1.0, 1.0]).unwrap(), [1.0, 1.0]);
        // Of (0, 1) the projection on (1, 0)'s dual cone is the sum.
        assert_eq!(above(&g, &[0.0, 1.0]).unwrap(), [1.0, 1.0]);
        assert_eq!(above(&Matrix::zeros(2), &[0.5, 0.5]).unwrap(), [0.5, 0.5]);
        assert!(above(&Matrix::zeros(0), &[]).unwrap().is_empty());
    }
}
