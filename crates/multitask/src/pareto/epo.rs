//! EPO: the exact Pareto-optimal point of a preference.

use super::lp::maximise;
use crate::model::{ModelError, Result};

/// Weights that first bring the losses to the ratio of a preference and then descend along it.
///
/// For preferences `r` the target is the Pareto-optimal point on the ray `r₁f₁ = r₂f₂ = … = rₘfₘ`: a task with a larger preference ends with
/// a smaller loss. How far off the losses are is their non-uniformity, with `f̂ᵢ = rᵢfᵢ/Σrf`,
///
/// $$μ_r = \sum_i \hat f_i \log(m \hat f_i) ≥ 0, \qquad a_i = r_i (\log(m \hat f_i) - μ_r).$$
///
/// Where `μ` is above `tolerance` the weights `β` of the simplex solve a linear program that moves along the anchor direction `a` (balance);
/// below it, one that descends all losses as much as it can without leaving the ray (descent). Both need `JJᵀ` alone.
///
/// | parameter | default | range | effect |
/// |---|---|---|---|
/// | `preference` | | > 0 each | the ratio `1/rᵢ` of the losses |
/// | `tolerance` | 1e-4 | >= 0 | non-uniformity up to which losses count as balanced |
///
/// Cost: the Gramian, and a linear program of `m` variables on the host. It stops where no direction balances or descends: at an exact optimum, or
/// at a Pareto-optimal point off the ray. The latter happens where all gradients agree although the losses are out of balance, which is
/// beyond the minimum of a task (`from_beyond_a_minimum_it_ends_there`); a few steps of another method first lead out of there.
///
/// D. Mahapatra and V. Rajan, "Multi-Task Learning with User Preferences: Gradient Descent with Controlled Ascent in Pareto
/// Optimization", ICML 2020, section 4, and its authors' program (restricted descent).
///
/// ```
/// use multitask::pareto::{Epo, EpoMove};
///
/// let epo = Epo::new(&[1.0, 1.0])?;
/// // The first loss is too large for equal preferences: only its gradient is followed.
/// let step = epo.weights(&[4.0, 1.0], &[1.0, 0.0, 0.0, 1.0])?;
/// assert_eq!((step.weights, step.kind), (vec![1.0, 0.0], EpoMove::Balance));
/// # Ok::<(), multitask::ModelError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Epo {
    preference: Vec<f64>,
    tolerance: f64,
}

/// What a step of EPO does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EpoMove {
    /// Towards the ray, at the price of some losses if need be.
    Balance,
    /// Along the ray.
    Descend,
    /// The program has no solution, which happens through rounding or where gradients vanish: weights are the preferences
    /// themselves, scaled to sum to one.
    Infeasible,
}

/// Weights and why.
#[derive(Clone, Debug, PartialEq)]
pub struct EpoStep {
    /// Not negative, of sum 1.
    pub weights: Vec<f64>,
    /// `μ_r`: 0 on the ray.
    pub non_uniformity: f64,
    /// What the step does.
    pub kind: EpoMove,
}

impl Epo {
    /// A preference for each task.
    ///
    /// # Errors
    /// [`ModelError::Parameter`] unless each is positive and finite, or without any.
    pub fn new(preference: &[f64]) -> Result<Self> {
        if preference.is_empty() {
            return Err(ModelError::parameter("tasks", 0.0, "at least 1"));
        }
        match preference.iter().find(|r| !(**r > 0.0 && r.is_finite())) {
            Some(r) => Err(ModelError::parameter("preference", *r, "> 0 and finite")),
            None => Ok(Self { preference: preference.to_vec(), tolerance: 1e-4 }),
        }
    }

    /// Another tolerance.
    ///
    /// # Errors
    /// [`ModelError::Parameter`] unless it is at least 0.
    pub fn with_tolerance(self, tolerance: f64) -> Result<Self> {
        match tolerance >= 0.0 {
            true => Ok(Self { tolerance, ..self }),
            false => Err(ModelError::parameter("tolerance", tolerance, ">= 0")),
        }
    }

    /// Weights for losses and their gradients' Gramian, row by row.
    ///
    /// # Errors
    /// [`ModelError::PerTask`] for lists of other lengths; [`ModelError::Parameter`] for a loss that is negative or not finite, or
    /// if all are 0.
    pub fn weights(&self, losses: &[f64], gramian: &[f64]) -> Result<EpoStep> {
        let m = self.preference.len();
        for (what, expected, found) in [("the losses", m, losses.len()), ("the Gramian", m * m, gramian.len())] {
            if found != expected {
                return Err(ModelError::PerTask { what, expected, found });
            }
        }
        if let Some(loss) = losses.iter().find(|loss| !(**loss >= 0.0 && loss.is_finite())) {
            return Err(ModelError::parameter("loss", *loss, ">= 0 and finite"));
        }
        let weighted: Vec<f64> = losses.iter().zip(&self.preference).map(|(l, r)| l * r).collect();
        let total: f64 = weighted.iter().sum();
        if !(total > 0.0) {
            return Err(ModelError::parameter("sum of the losses", total, "> 0"));
        }
        let share: Vec<f64> = weighted.iter().map(|x| (x / total).max(f64::EPSILON)).collect();
        let non_uniformity: f64 = share.iter().map(|x| x * (x * m as f64).ln()).sum::<f64>().max(0.0);
        let anchor: Vec<f64> =
            share.iter().zip(&self.preference).map(|(x, r)| r * ((x * m as f64).ln() - non_uniformity)).collect();
        let scale = gramian.iter().fold(0.0f64, |a, b| a.max(b.abs()));
        let rows: Vec<Vec<f64>> = gramian.chunks(m).map(|row| row.iter().map(|x| x / scale).collect()).collect();
        let finite = scale > 0.0 && scale.is_finite() && gramian.iter().all(|x| x.is_finite());
        let along: Vec<f64> = rows.iter().map(|row| row.iter().zip(&anchor).map(|(x, a)| x * a).sum()).collect();
        let (kind, solution) = if !finite {
            (EpoMove::Infeasible, None)
        } else if non_uniformity > self.tolerance {
            (EpoMove::Balance, self.balance(&rows, &along, &weighted))
        } else {
            (EpoMove::Descend, descend(&rows, &along))
        };
        Ok(match solution {
            Some(weights) => EpoStep { weights, non_uniformity, kind },
            None => {
                let sum: f64 = self.preference.iter().sum();
                let weights = self.preference.iter().map(|r| r / sum).collect();
                EpoStep { weights, non_uniformity, kind: EpoMove::Infeasible }
            }
        })
    }

    /// `max βᵀCa` such that no loss that must not grow does: the largest weighted one, and, where nothing shrinks with the anchor,
    /// any more than it does with the anchor.
    fn balance(&self, rows: &[Vec<f64>], along: &[f64], weighted: &[f64]) -> Option<Vec<f64>> {
        let largest = weighted.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let any = along.iter().any(|x| *x > 0.0);
        let (mut a, mut b) = (Vec::new(), Vec::new());
        for ((row, along), weighted) in rows.iter().zip(along).zip(weighted) {
            let bound = match any {
                false => 0.0,
                true if *weighted == largest => 0.0,
                true if *along > 0.0 => continue,
                true => *along,
            };
            a.push(row.clone());
            b.push(bound);
        }
        maximise(along, &a, &b)
    }
}

/// `max Σⱼ (Cβ)ⱼ` such that no loss grows and, as far as possible, the non-uniformity neither.
fn descend(rows: &[Vec<f64>], along: &[f64]) -> Option<Vec<f64>> {
    let m = rows.len();
    let objective: Vec<f64> = (0..m).map(|j| rows.iter().map(|row| row[j]).sum()).collect();
    let highest = along.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let mut a = rows.to_vec();
    let mut b = vec![0.0; m];
    a.push(along.to_vec());
    b.push(highest.min(0.0));
    maximise(&objective, &a, &b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pareto::tests::{gradients, gramian, losses};
    use burn::tensor::{Device, Tensor};
    use core_tensor::Random;

    fn run(r: [f64; 2], mut x: Vec<f64>) -> [f64; 2] {
        let epo = Epo::new(&r).unwrap().with_tolerance(1e-7).unwrap();
        for step in 0..3000 {
            let rows = gradients(&x);
            let weights = epo.weights(&losses(&x), &gramian(&rows)).unwrap().weights;
            let rate = 0.05 / (1.0 + f64::from(step) / 300.0);
            for (i, x) in x.iter_mut().enumerate() {
                *x -= rate * (weights[0] * rows[0][i] + weights[1] * rows[1][i]);
            }
        }
        losses(&x)
    }

    /// On `f₁ = ‖x − a‖²`, `f₂ = ‖x + a‖²` the front is `x = ta`, `|t| ≤ 1`, and the ray fixes `t`.
    #[test]
    fn reaches_the_ratio_and_the_front_of_two_quadratics() {
        for (r, seed) in [([1.0, 1.0], 1), ([4.0, 1.0], 2), ([1.0, 10.0], 3), ([3.0, 2.0], 4), ([2.0, 3.0], 5)] {
            let start: Tensor<1> = Random::new(seed).normal([6], 0.0, 0.4, &Device::flex());
            let f = run(r, start.into_data().iter::<f64>().collect());
            let ratio = r[0] * f[0] / (r[1] * f[1]);
            assert!((ratio - 1.0).abs() < 0.003, "preference {r:?}: ratio {ratio} at {f:?}");
            // (1 − t)/(1 + t) = √(r₂/r₁), and the losses there.
            let q = (r[1] / r[0]).sqrt();
            let t = (1.0 - q) / (1.0 + q);
            let expected = [(1.0 - t).powi(2), (1.0 + t).powi(2)];
            assert!(f.iter().zip(expected).all(|(f, e)| (f - e).abs() < 3e-3), "{f:?}, not {expected:?}");
        }
    }

    /// All gradients agree beyond the first minimum, and the descent that EPO then makes ends in it: Pareto-optimal, off the ray.
    #[test]
    fn from_beyond_a_minimum_it_ends_there() {
        let f = run([1.0, 1.0], vec![2.0; 6]);
        assert!(f[0] < 1e-9 && (f[1] - 4.0).abs() < 1e-4, "{f:?}");
    }

    #[test]
    fn on_the_ray_it_descends_and_off_it_the_non_uniformity_falls() {
        let epo = Epo::new(&[1.0, 1.0, 2.0]).unwrap();
        let identity = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0];
        let step = epo.weights(&[2.0, 2.0, 1.0], &identity).unwrap();
        assert_eq!((step.kind, step.non_uniformity), (EpoMove::Descend, 0.0));
        let step = epo.weights(&[2.0, 1.0, 1.0], &identity).unwrap();
        assert_eq!(step.kind, EpoMove::Balance);
        assert!((step.weights.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        assert_eq!(epo.weights(&[2.0, 1.0, 1.0], &[0.0; 9]).unwrap().kind, EpoMove::Infeasible);
        assert!(epo.weights(&[1.0, 1.0], &identity).is_err());
        assert!(epo.weights(&[-1.0, 1.0, 1.0], &identity).is_err());
        assert!(epo.weights(&[0.0; 3], &identity).is_err());
        for r in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(Epo::new(&[1.0, r]).is_err());
        }
        assert!(Epo::new(&[]).is_err() && epo.with_tolerance(f64::NAN).is_err());
    }
}
