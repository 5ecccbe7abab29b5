//! The equations `Gx = x^(−p)` of bargaining and fairness, by Newton's method.

use super::matrix::{Matrix, dot};

/// What became of the iteration.
#[derive(Clone, Debug, PartialEq)]
pub struct Solution {
    /// The weights, above zero.
    pub x: Vec<f64>,
    /// The largest relative error `|x_i^p·(Gx)_i − 1|`.
    pub residual: f64,
    /// What rounding alone may leave of the equations: large weights of nearly opposite rows cancel in `(Gx)_i`.
    pub rounding: f64,
    /// Newton steps.
    pub iterations: usize,
    /// Whether the weights ran away: the rows have a convex combination (nearly) zero, and there is no solution.
    pub unbounded: bool,
}

impl Solution {
    /// Whether the equations hold, to `10⁻⁹` or as well as rounding lets them.
    pub fn solved(&self) -> bool {
        !self.unbounded && self.residual <= self.rounding.max(CLOSE)
    }
}

/// A relative error this small is a solution.
const CLOSE: f64 = 1e-9;

/// A weight this many times that of its row alone counts as infinite.
const FAR: f64 = 1e6;
const STEPS: usize = 500;

/// The `x > 0` with `(Gx)_i = x_i^(−p)` for all `i`, for `p > 0` and `G` positive semidefinite with a positive
/// diagonal.
///
/// It is the minimiser of the convex `½·xᵀGx − Σ ψ(x_i)` with `ψ′(x) = x^(−p)`. Newton's method in relative steps
/// `δ = Δx/x`, `(XGX + p·X^(1−p))·δ = x^(1−p) − x∘Gx`, damped by backtracking on the objective; its system is always
/// positive definite. A minimiser exists unless a convex combination of the rows is zero: then `unbounded` is set.
pub fn power_equations(g: &Matrix, p: f64) -> Solution {
    let m = g.size();
    // What each row alone would get.
    let alone: Vec<f64> = g.diagonal().iter().map(|g| g.powf(-1.0 / (1.0 + p))).collect();
    // Conflicts make weights larger; together they are at most this much smaller.
    let mut x: Vec<f64> = alone.iter().map(|x| x / (m as f64).powf(1.0 / (1.0 + p))).collect();
    let (error, floor) = (residual(g, &x, p), rounding(g, &x, p));
    let mut best = Solution { x: x.clone(), residual: error, rounding: floor, iterations: 0, unbounded: false };
    let mut stalled = 0;
    for iteration in 1..=STEPS {
        if x.iter().zip(&alone).any(|(x, alone)| *x > FAR * alone) {
            best.unbounded = true;
            return best;
        }
        let gx = g.times(&x);
        let power: Vec<f64> = x.iter().map(|x| x.powf(1.0 - p)).collect();
        let hessian = g.map(|i, j, g| x[i] * g * x[j] + if i == j { p * power[i] } else { 0.0 });
        let descent: Vec<f64> = (0..m).map(|i| power[i] - x[i] * gx[i]).collect();
        let Some(delta) = hessian.solve_positive(&descent, 0.0) else {
            // Only rounding makes it singular: weights so large that nothing is left of their own part.
            best.unbounded = true;
            return best;
        };
        // The decrement, relative to the size of the terms.
        let decrement = dot(&delta, &descent);
        let size: f64 = power.iter().sum();
        let shrinking = delta.iter().fold(0.0, |worst: f64, d| worst.max(-d));
        let mut step = if shrinking > 0.9 { 0.9 / shrinking } else { 1.0 };
        let moved = |step: f64| -> Vec<f64> { x.iter().zip(&delta).map(|(x, d)| x * (1.0 + step * d)).collect() };
        // Close by the objective is rounding, and the full step converges quadratically.
        if decrement > 1e-6 * size {
            let before = objective(g, &x, p);
            while step > 1e-10 && !(objective(g, &moved(step), p) <= before - 0.1 * step * decrement) {
                step *= 0.5;
            }
        }
        x = moved(step);
        let error = residual(g, &x, p);
        match error < best.residual {
            true => {
                (best.residual, best.rounding, best.x, stalled) = (error, rounding(g, &x, p), x.clone(), 0);
            }
            false => stalled += 1,
        }
        best.iterations = iteration;
        if best.residual <= 4.0 * f64::EPSILON || (stalled >= 3 && best.solved()) {
            return best;
        }
    }
    best
}

/// `½·xᵀGx − Σ ψ(x_i)`
fn objective(g: &Matrix, x: &[f64], p: f64) -> f64 {
    let psi = |x: f64| if p == 1.0 { x.ln() } else { x.powf(1.0 - p) / (1.0 - p) };
    0.5 * g.quadratic(x) - x.iter().map(|x| psi(*x)).sum::<f64>()
}

fn residual(g: &Matrix, x: &[f64], p: f64) -> f64 {
    g.times(x).iter().zip(x).map(|(gx, x)| (gx * x.powf(p) - 1.0).abs()).fold(0.0, f64::max)
}

/// A few ulps of the terms that cancel in `x_i^p·(Gx)_i`.
fn rounding(g: &Matrix, x: &[f64], p: f64) -> f64 {
    let terms = g.map(|_, _, g| g.abs()).times(x);
    let largest = terms.iter().zip(x).map(|(terms, x)| terms * x.powf(p)).fold(0.0, f64::max);
    8.0 * f64::EPSILON * largest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::solvers::testing::Gramians;
    use core_tensor::testing::property;

    #[test]
    fn the_equations_hold() {
        property(200, (Gramians::new(1..=8).full_rank().strategy(), 0..4usize), |(g, k)| {
            let p = [0.5, 1.0, 2.0, 0.2][k];
            let cosines = g.map(|i, j, x| x / (g[(i, i)] * g[(j, j)]).sqrt());
            let solution = power_equations(&cosines, p);
            assert!(solution.solved() && solution.residual < 1e-9, "{p}: {solution:?}");
            assert!(solution.x.iter().all(|x| *x > 0.0));
        });
    }

    #[test]
    fn nearly_opposite_rows_are_solved_as_well_as_rounding_lets_them() {
        property(200, (2.0..11.0f64, 0..3usize), |(digits, k)| {
            let p = [0.5, 1.0, 2.0][k];
            // Weights below the 10⁶ that count as infinite.
            let gap = 10f64.powf(-f64::min(0.5 * (1.0 + p) * digits, 12.0));
            let g = Matrix::symmetric(2, |i, j| if i == j { 1.0 } else { gap - 1.0 });
            let solution = power_equations(&g, p);
            assert!(solution.solved() && solution.iterations < 100, "{p} {gap}: {solution:?}");
            // Both alike: x^(1 + p)·gap = 1, of which rounding G leaves ε/gap.
            let exact = (1.0 + g[(0, 1)]).powf(-1.0 / (1.0 + p));
            let error = solution.x.iter().map(|x| (x / exact - 1.0).abs()).fold(0.0, f64::max);
            assert!(error < 1e-9 + 32.0 * f64::EPSILON / gap, "{p} {gap}: {error}");
        });
    }

    #[test]
    fn opposite_rows_have_no_solution() {
        for p in [0.5, 1.0, 2.0] {
            let g = Matrix::symmetric(2, |i, j| [[1.0, -1.0], [-1.0, 1.0]][i][j]);
            assert!(power_equations(&g, p).unbounded, "{p}");
        }
    }

    #[test]
    fn by_hand() {
        // One row: g·x = x^(−p).
        let one = Matrix::symmetric(1, |_, _| 16.0);
        assert!((power_equations(&one, 1.0).x[0] - 0.25).abs() < 1e-15);
        assert!((power_equations(&one, 3.0).x[0] - 0.5).abs() < 1e-15);
        // Equal rows share: 2x = 1/x.
        let equal = Matrix::symmetric(2, |_, _| 1.0);
        let x = power_equations(&equal, 1.0).x;
        assert!(x.iter().all(|x| (x - 0.5f64.sqrt()).abs() < 1e-15));
    }
}
