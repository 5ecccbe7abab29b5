//! Preferences: how much each task matters, as points of the simplex.

use burn::tensor::{Device, Tensor, TensorData};
use core_tensor::Random;

use crate::model::{ModelError, Result};

/// A preference vector, not negative and of sum 1, drawn from a Dirichlet distribution: uniform over the simplex if every `alpha` is 1,
/// nearer to the middle above, nearer to the corners below.
///
/// By gamma variates (G. Marsaglia and W. W. Tsang, "A simple method for generating gamma variables", 2000).
///
/// ```
/// use core_tensor::Random;
/// use multitask::pareto::dirichlet;
///
/// let r = dirichlet(&[1.0, 1.0, 1.0], &mut Random::new(7))?;
/// assert!((r.iter().sum::<f64>() - 1.0).abs() < 1e-12);
/// # Ok::<(), multitask::ModelError>(())
/// ```
///
/// # Errors
/// [`ModelError::Parameter`] unless each `alpha` is positive and finite, or without any.
pub fn dirichlet(alpha: &[f64], random: &mut Random) -> Result<Vec<f64>> {
    if alpha.is_empty() {
        return Err(ModelError::parameter("tasks", 0.0, "at least 1"));
    }
    if let Some(alpha) = alpha.iter().find(|alpha| !(**alpha > 0.0 && alpha.is_finite())) {
        return Err(ModelError::parameter("alpha", *alpha, "> 0 and finite"));
    }
    // Logarithms, as variates of small alpha are below the smallest number.
    let logs: Vec<f64> = alpha.iter().map(|alpha| log_gamma_variate(*alpha, random)).collect();
    let highest = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let parts: Vec<f64> = logs.iter().map(|log| (log - highest).exp()).collect();
    let sum: f64 = parts.iter().sum();
    Ok(parts.iter().map(|part| part / sum).collect())
}

/// A preference as a tensor of shape `[tasks]`.
pub fn preference(values: &[f64], device: &Device) -> Tensor<1> {
    Tensor::from_data(TensorData::new(values.to_vec(), [values.len()]), device)
}

fn log_gamma_variate(alpha: f64, random: &mut Random) -> f64 {
    if alpha < 1.0 {
        let log_u = (1.0 - random.next_f64()).ln();
        return log_gamma_variate(alpha + 1.0, random) + log_u / alpha;
    }
    let d = alpha - 1.0 / 3.0;
    let c = 1.0 / (9.0 * d).sqrt();
    loop {
        let x = normal(random);
        let v = (1.0 + c * x).powi(3);
        let u = 1.0 - random.next_f64();
        if v > 0.0 && u.ln() < 0.5 * x * x + d - d * v + d * v.ln() {
            return (d * v).ln();
        }
    }
}

fn normal(random: &mut Random) -> f64 {
    let radius = (-2.0 * (1.0 - random.next_f64()).ln()).sqrt();
    radius * (std::f64::consts::TAU * random.next_f64()).cos()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_those_of_the_distribution() {
        for alpha in [vec![1.0, 1.0], vec![0.2, 0.2, 0.2], vec![5.0, 2.0, 0.5]] {
            let mut random = Random::new(3);
            let n = 20_000;
            let draws: Vec<Vec<f64>> = (0..n).map(|_| dirichlet(&alpha, &mut random).unwrap()).collect();
            let total: f64 = alpha.iter().sum();
            for (k, a) in alpha.iter().enumerate() {
                let (mean, variance) = (a / total, a * (total - a) / (total * total * (total + 1.0)));
                let of: Vec<f64> = draws.iter().map(|r| r[k]).collect();
                let found = of.iter().sum::<f64>() / f64::from(n);
                let spread = of.iter().map(|x| (x - found).powi(2)).sum::<f64>() / f64::from(n);
                assert!((found - mean).abs() < 5.0 * (variance / f64::from(n)).sqrt(), "{alpha:?} {k}: {found}");
                assert!((spread / variance - 1.0).abs() < 0.06, "{alpha:?} {k}: {spread} not {variance}");
            }
            assert!(draws.iter().all(|r| (r.iter().sum::<f64>() - 1.0).abs() < 1e-12 && r.iter().all(|x| *x >= 0.0)));
        }
        for bad in [vec![], vec![1.0, 0.0], vec![f64::NAN]] {
            assert!(dirichlet(&bad, &mut Random::new(0)).is_err());
        }
        assert!(dirichlet(&[1e-4, 1e-4], &mut Random::new(0)).unwrap().iter().all(|x| x.is_finite()));
    }
}
