//! Pareto MTL: one solution in each cone around a preference vector.

use crate::model::{ModelError, Result};
use crate::solvers::{Matrix, dot, min_norm_point};

/// Weights that first bring the losses into the cone of preference `k` and then descend within it.
///
/// Preference vectors `u₁ … u_K` cut the space of losses into cones, `Ωₖ = {f : uⱼᵀf ≤ uₖᵀf for all j}`. Outside its cone the step shrinks the
/// violated constraints `(uⱼ − uₖ)ᵀf/‖f‖ > 0` together (the vector of smallest norm in their gradients' convex hull); inside, it is
/// the min-norm point of the losses' gradients and those of the constraints that are active (above `−tolerance`). `K` runs, one for each `k`,
/// give `K` solutions. All from `JJᵀ`, as a constraint's gradient is `(uⱼ − uₖ)ᵀJ`.
///
/// Unlike EPO it promises a cone, not a ray; weights may be negative, since keeping a constraint may need a loss to rise.
///
/// X. Lin, H.-L. Zhen, Z. Li, Q. Zhang, S. Kwong, "Pareto Multi-Task Learning", NeurIPS 2019, arXiv:1912.12854, equations 8 to 14.
/// Preference vectors are scaled to length 1, as in the authors' program; its constraints are active above 0.
///
/// ```
/// use multitask::pareto::ParetoMtl;
///
/// let rays = [vec![1.0, 0.0], vec![0.7, 0.7], vec![0.0, 1.0]];
/// let step = ParetoMtl::new(&rays, 1)?.weights(&[1.0, 1.0], &[1.0, 0.0, 0.0, 1.0])?;
/// assert!(step.inside && step.weights == [0.5, 0.5]);
/// # Ok::<(), multitask::ModelError>(())
/// ```
#[derive(Clone, Debug)]
pub struct ParetoMtl {
    /// `uⱼ − uₖ` for the other preferences.
    constraints: Vec<Vec<f64>>,
    tasks: usize,
    tolerance: f64,
}

/// Weights and where the losses are.
#[derive(Clone, Debug, PartialEq)]
pub struct ParetoMtlStep {
    /// One a task, of any sign.
    pub weights: Vec<f64>,
    /// Whether the losses are in the cone.
    pub inside: bool,
    /// Number of constraints taken into account.
    pub active: usize,
}

impl ParetoMtl {
    /// Preference vectors, and which of them this run is for.
    ///
    /// # Errors
    /// [`ModelError::Parameter`] unless `chosen` is one of them and they are not negative, finite and not 0;
    /// [`ModelError::PerTask`] if they differ in length.
    pub fn new(preferences: &[Vec<f64>], chosen: usize) -> Result<Self> {
        if chosen >= preferences.len() {
            return Err(ModelError::parameter("chosen", chosen as f64, "the position of a preference vector"));
        }
        let tasks = preferences[chosen].len();
        let mut rays = Vec::with_capacity(preferences.len());
        for ray in preferences {
            if ray.len() != tasks {
                return Err(ModelError::PerTask { what: "a preference vector", expected: tasks, found: ray.len() });
            }
            if let Some(u) = ray.iter().find(|u| !(**u >= 0.0 && u.is_finite())) {
                return Err(ModelError::parameter("preference", *u, ">= 0 and finite"));
            }
            let norm = ray.iter().map(|u| u * u).sum::<f64>().sqrt();
            if !(norm > 0.0) {
                return Err(ModelError::parameter("norm of a preference vector", norm, "> 0"));
            }
            rays.push(ray.iter().map(|u| u / norm).collect::<Vec<f64>>());
        }
        let others = rays.iter().enumerate().filter(|(j, _)| *j != chosen);
        let constraints = others.map(|(_, ray)| ray.iter().zip(&rays[chosen]).map(|(u, k)| u - k).collect());
        Ok(Self { constraints: constraints.collect(), tasks, tolerance: 0.0 })
    }

    /// How far from its border a constraint counts as active, in units of the losses' norm.
    ///
    /// # Errors
    /// [`ModelError::Parameter`] unless it is at least 0.
    pub fn with_tolerance(self, tolerance: f64) -> Result<Self> {
        match tolerance >= 0.0 {
            true => Ok(Self { tolerance, ..self }),
            false => Err(ModelError::parameter("tolerance", tolerance, ">= 0")),
        }
    }

    /// `K` preference vectors of two tasks, evenly spread over the quarter circle.
    ///
    /// # Errors
    /// [`ModelError::Parameter`] for fewer than two.
    pub fn circle(count: usize) -> Result<Vec<Vec<f64>>> {
        if count < 2 {
            return Err(ModelError::parameter("count", count as f64, "at least 2"));
        }
        let angle = |i: usize| std::f64::consts::FRAC_PI_2 * i as f64 / (count - 1) as f64;
        Ok((0..count).map(|i| vec![angle(i).cos().max(0.0), angle(i).sin()]).collect())
    }

    /// Weights for losses and their gradients' Gramian, row by row.
    ///
    /// # Errors
    /// [`ModelError::PerTask`] for lists of other lengths; [`ModelError::Parameter`] for a loss that is not finite;
    /// [`ModelError::Unsolved`] if rounding keeps the point of smallest norm from being found.
    pub fn weights(&self, losses: &[f64], gramian: &[f64]) -> Result<ParetoMtlStep> {
        let m = self.tasks;
        for (what, expected, found) in [("the losses", m, losses.len()), ("the Gramian", m * m, gramian.len())] {
            if found != expected {
                return Err(ModelError::PerTask { what, expected, found });
            }
        }
        if let Some(loss) = losses.iter().find(|loss| !loss.is_finite()) {
            return Err(ModelError::parameter("loss", *loss, "a finite number"));
        }
        let gramian = Matrix::symmetric(m, |i, j| gramian[i * m + j]);
        let norm = losses.iter().map(|l| l * l).sum::<f64>().sqrt().max(f64::MIN_POSITIVE);
        let value = |c: &Vec<f64>| c.iter().zip(losses).map(|(c, l)| c * l / norm).sum::<f64>();
        let violated: Vec<&Vec<f64>> = self.constraints.iter().filter(|c| value(c) > 0.0).collect();
        if !violated.is_empty() {
            return Ok(ParetoMtlStep {
                weights: combined(&violated, &gramian)?,
                inside: false,
                active: violated.len(),
            });
        }
        let unit = |i: usize| (0..m).map(|j| f64::from(u8::from(i == j))).collect::<Vec<f64>>();
        let units: Vec<Vec<f64>> = (0..m).map(unit).collect();
        let active = self.constraints.iter().filter(|c| value(c) > -self.tolerance);
        let rows: Vec<&Vec<f64>> = units.iter().chain(active).collect();
        Ok(ParetoMtlStep { weights: combined(&rows, &gramian)?, inside: true, active: rows.len() - m })
    }
}

/// `Σ λⱼ·rowⱼ` with the weights `λ` for which `rows·J` has the smallest combination.
fn combined(rows: &[&Vec<f64>], gramian: &Matrix) -> Result<Vec<f64>> {
    let moved: Vec<Vec<f64>> = rows.iter().map(|row| gramian.times(row)).collect();
    let lambda = min_norm_point(&Matrix::symmetric(rows.len(), |i, j| dot(rows[i], &moved[j])));
    let lambda = lambda.map_err(|stuck| ModelError::Unsolved {
        what: "the point of smallest norm between the losses and the active constraints",
        residual: stuck.residual,
        iterations: stuck.iterations,
    })?;
    Ok((0..gramian.size()).map(|i| rows.iter().zip(&lambda).map(|(row, l)| row[i] * l).sum()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pareto::tests::{gradients, gramian, losses};

    #[test]
    fn each_preference_ends_in_its_cone_on_the_front() {
        let rays = ParetoMtl::circle(5).unwrap();
        let mut last = f64::INFINITY;
        for k in 0..5 {
            let method = ParetoMtl::new(&rays, k).unwrap();
            let mut x: Vec<f64> = (0..6).map(|i| 0.8 * (f64::from(i) * 1.7).cos()).collect();
            let mut step = method.weights(&losses(&x), &gramian(&gradients(&x))).unwrap();
            for _ in 0..3000 {
                let rows = gradients(&x);
                step = method.weights(&losses(&x), &gramian(&rows)).unwrap();
                for (i, x) in x.iter_mut().enumerate() {
                    *x -= 0.01 * (step.weights[0] * rows[0][i] + step.weights[1] * rows[1][i]);
                }
            }
            let f = losses(&x);
            // On the front √f₁ + √f₂ = 2, the distance between the two minima.
            assert!((f[0].sqrt() + f[1].sqrt() - 2.0).abs() < 0.02, "{k}: {f:?}");
            let norm = (f[0] * f[0] + f[1] * f[1]).sqrt();
            let cosine = |ray: &[f64]| (ray[0] * f[0] + ray[1] * f[1]) / norm;
            let best = rays.iter().map(|ray| cosine(ray)).fold(f64::NEG_INFINITY, f64::max);
            assert!(cosine(&rays[k]) >= best - 0.02, "{k}: {f:?} is nearer to another ray");
            assert!(f[0] < last, "from the first task to the second: {f:?}");
            last = f[0];
            assert!(step.weights.iter().all(|w| w.is_finite()));
        }
    }

    #[test]
    fn bad_settings_are_refused() {
        assert!(ParetoMtl::new(&[], 0).is_err() && ParetoMtl::circle(1).is_err());
        assert!(ParetoMtl::new(&[vec![1.0, 0.0], vec![1.0]], 0).is_err());
        for bad in [vec![0.0, 0.0], vec![-1.0, 1.0], vec![f64::NAN, 1.0]] {
            assert!(ParetoMtl::new(&[bad], 0).is_err());
        }
        let method = ParetoMtl::new(&[vec![1.0, 1.0]], 0).unwrap();
        assert!(method.weights(&[1.0], &[1.0; 4]).is_err());
        assert!(method.weights(&[1.0, f64::NAN], &[1.0; 4]).is_err());
        assert!(method.with_tolerance(-1.0).is_err());
    }
}
