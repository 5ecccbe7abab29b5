//! CAGrad: near the mean gradient, best for the task that fares worst.

use super::normalise::Normalise;
use crate::aggregator::stuck;
use crate::check::not_negative;
use crate::solvers::{Matrix, Stuck, dot, eigen, min_norm_point};
use crate::{Gramian, GramianAggregator, Method, Result};

/// The direction within `c·‖g₀‖` of the mean gradient `g₀` along which the slowest task gets ahead fastest.
///
/// Still descends the mean loss (for `c < 1`), and looks after the worst task on the way: between
/// [`Mean`](crate::Mean) (`c = 0`)
/// and [`Mgda`](crate::Mgda) (`c → ∞`). With `g_w = Jᵀw`
///
/// $$ d = g_0 + \frac{c\lVert g_0\rVert}{\lVert g_w\rVert} g_w, \qquad
/// w = \arg\min_w\ g_w^\top g_0 + c\lVert g_0\rVert\lVert g_w\rVert
/// \quad\text{over the simplex} $$
///
/// | parameter | default | range | effect |
/// |---|---|---|---|
/// | `c` | none; the paper's 0.4 | `≥ 0` | radius round the mean; from 1 on no task is made worse |
/// | `norm_eps` | 1e-4 | `≥ 0` | where `‖g_w‖` is below this share of `√tr G` (10⁻⁷ at least), or `tr G` below it, the point counts as Pareto stationary and `d = 0` |
///
/// Solved exactly: for a fixed `s = ‖g_w‖/(c‖g₀‖)` the problem is the point of smallest norm between the `g_i + s·g₀`,
/// and
/// the right `s` is where a monotone function changes sign. Guarantees (`laws`): `c = 0` is the mean, non-conflicting
/// for
/// `c ≥ 1`, permutation equivariant.
///
/// Cost: the Gramian, the eigenvalues of its cosines, about ten quadratic programs of `m` unknowns, one weighted sum.
/// Errors:
/// [`Error::NoWeights`](crate::Error::NoWeights) if rounding keeps one from being solved.
///
/// B. Liu, X. Liu, X. Jin, P. Stone, Q. Liu, "Conflict-averse gradient descent for multi-task learning", NeurIPS 2021,
/// arXiv:2110.14048, algorithm 1 without its rescaling by `1/(1 + c²)`.
///
/// ```
/// use multitask::solvers::Matrix;
/// use multitask::{CaGrad, Gramian, GramianAggregator};
///
/// let g = Matrix::symmetric(2, |i, j| [[18.0, -22.0], [-22.0, 38.0]][i][j]);
/// let w = CaGrad::new(0.5)?.weights(&Gramian::from_products(&g)?)?;
/// assert!((w[0] + w[1] - 1.2041).abs() < 1e-4);
/// # Ok::<(), multitask::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct CaGrad {
    c: f64,
    normalise: Normalise,
}

impl CaGrad {
    /// A radius of `c` times the norm of the mean.
    ///
    /// # Errors
    /// [`Error::Parameter`](crate::Error::Parameter) unless `0 <= c < ∞`.
    pub fn new(c: f64) -> Result<Self> {
        let normalise = Normalise { reg_eps: 0.0, ..Normalise::default() };
        Ok(Self { c: not_negative("c", c)?, normalise })
    }

    /// Below what share of the gradients' size `g_w` counts as zero.
    ///
    /// # Errors
    /// [`Error::Parameter`](crate::Error::Parameter) unless `0 <= norm_eps < ∞`.
    pub fn norm_eps(self, norm_eps: f64) -> Result<Self> {
        Ok(Self { normalise: self.normalise.with_norm_eps(norm_eps)?, ..self })
    }
}

/// A `‖g_w‖` below this share of `√tr G` is rounding: inner products in `f64` know lengths to `10⁻⁸`.
const NOISE: f64 = 1e-7;

impl Method for CaGrad {
    fn name(&self) -> &'static str {
        "cagrad"
    }
}

impl GramianAggregator for CaGrad {
    fn weights(&mut self, gramian: &Gramian) -> Result<Vec<f64>> {
        let m = gramian.size();
        let mean = vec![1.0 / m as f64; m];
        if self.c == 0.0 {
            return Ok(mean);
        }
        let rows = reduced(&self.normalise.matrix(gramian));
        let radius = self.c * norm(&sum(&rows, &mean));
        if radius == 0.0 {
            return Ok(vec![0.0; m]);
        }
        let (w, length) = worst_case(&rows, &mean, radius).map_err(stuck(self.name(), gramian))?;
        Ok(match length < self.normalise.norm_eps.max(NOISE) {
            true => vec![0.0; m],
            false => mean.iter().zip(w).map(|(mean, w)| mean + radius / length * w).collect(),
        })
    }
}

/// Rows of `m` numbers with these inner products, by the eigenvectors of their cosines: exact relative to each row.
fn reduced(g: &Matrix) -> Vec<Vec<f64>> {
    let norms: Vec<f64> = g.diagonal().iter().map(|x| x.max(0.0).sqrt()).collect();
    let cosine = |i: usize, j: usize, x: f64| if x == 0.0 { 0.0 } else { x / (norms[i] * norms[j]) };
    let eigen = eigen(&g.map(cosine));
    let axes = eigen.values.iter().zip(&eigen.vectors);
    let axes: Vec<(f64, &Vec<f64>)> = axes.map(|(value, vector)| (value.max(0.0).sqrt(), vector)).collect();
    norms.iter().enumerate().map(|(i, n)| axes.iter().map(|(length, v)| n * length * v[i]).collect()).collect()
}

fn sum(rows: &[Vec<f64>], weights: &[f64]) -> Vec<f64> {
    (0..rows.len()).map(|k| rows.iter().zip(weights).map(|(row, w)| row[k] * w).sum()).collect()
}

fn norm(x: &[f64]) -> f64 {
    dot(x, x).sqrt()
}

/// The minimiser over the simplex of `g_wᵀg₀ + radius·‖g_w‖` and its `‖g_w‖`, where `g₀ = Jᵀ·mean`.
///
/// As `radius·‖g_w‖ = min_t ½·radius·(‖g_w‖²/t + t)`, the minimiser for a fixed `t` is that of `‖g_w + s·g₀‖` with
/// `s = t/radius`, and `t = ‖g_w‖` at the best `t`. The objective is convex in `(w, t)` together, so that
/// `‖g_w(s)‖ − s·radius` changes sign once.
fn worst_case(rows: &[Vec<f64>], mean: &[f64], radius: f64) -> Result<(Vec<f64>, f64), Stuck> {
    let centre = sum(rows, mean);
    let at = |s: f64| {
        let shift = |row: &Vec<f64>| row.iter().zip(&centre).map(|(x, c)| x + s * c).collect();
        let shifted: Vec<Vec<f64>> = rows.iter().map(shift).collect();
        let w = min_norm_point(&Matrix::symmetric(rows.len(), |i, j| dot(&shifted[i], &shifted[j])))?;
        let length = norm(&sum(rows, &w));
        Ok::<_, Stuck>((length - s * radius, w, length))
    };
    let longest = rows.iter().map(|row| norm(row)).fold(0.0, f64::max);
    // No point between the rows is longer than the longest, and what is shorter than the lower end is rounding.
    let (mut low, mut high) = (0.1 * NOISE * longest / radius, longest / radius);
    let (mut gap_low, w, length) = at(low)?;
    let mut best = (w, length);
    if gap_low <= 0.0 {
        return Ok(best);
    }
    let (mut gap_high, w, length) = at(high)?;
    if gap_high >= 0.0 {
        return Ok((w, length));
    }
    let mut last_side = 0;
    for _ in 0..200 {
        if high - low <= 4.0 * f64::EPSILON * high {
            break;
        }
        // False position; an end that stays has its gap halved (the Illinois rule).
        let s = (low * gap_high - high * gap_low) / (gap_high - gap_low);
        let s = if s > low && s < high { s } else { 0.5 * (low + high) };
        let (gap, w, length) = at(s)?;
        best = (w, length);
        if gap.abs() <= 2.0 * f64::EPSILON * length {
            break;
        }
        match gap > 0.0 {
            true => {
                (low, gap_low) = (s, gap);
                gap_high *= if last_side == 1 { 0.5 } else { 1.0 };
                last_side = 1;
            }
            false => {
                (high, gap_high) = (s, gap);
                gap_low *= if last_side == -1 { 0.5 } else { 1.0 };
                last_side = -1;
            }
        }
    }
    Ok(best)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::solvers::testing::Gramians;
    use core_tensor::testing::property;

    #[test]
    fn no_other_weights_have_a_better_worst_case() {
        property(300, (Gramians::new(1..=8).strategy(), 0.01..3.0f64), |(g, c)| {
            let m = g.size();
            let g = g.map(|_, _, x| x / g.trace().max(f64::MIN_POSITIVE));
            let mean = vec![1.0 / m as f64; m];
            let radius = c * g.quadratic(&mean).max(0.0).sqrt();
            if !(radius > 1e-6) {
                return;
            }
            let (w, length) = worst_case(&reduced(&g), &mean, radius).unwrap();
            assert!((w.iter().sum::<f64>() - 1.0).abs() < 1e-13 && w.iter().all(|w| *w >= 0.0));
            if length < 1e-6 {
                return;
            }
            // The derivative along every edge of the simplex: no row is below the weighted mean.
            let (gw, b) = (g.times(&w), g.times(&mean));
            let slope: Vec<f64> = (0..m).map(|i| b[i] + radius / length * gw[i]).collect();
            let value = dot(&slope, &w);
            let worst = slope.iter().fold(f64::INFINITY, |worst: f64, s| worst.min(*s));
            assert!(worst - value >= -1e-10 * (1.0 + radius / length), "{:e} at {length:e}", worst - value);
        });
    }
}
