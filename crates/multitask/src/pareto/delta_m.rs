//! Δm: the mean relative change of a multi-task model against single-task ones.

use crate::model::{ModelError, Result};

/// Which way a metric improves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    /// Accuracy, intersection over union.
    Higher,
    /// An error or a loss.
    Lower,
}

/// Mean relative *gain* over the single-task baselines: **higher is better**, 0 is as good as they are, 0.01 is one per cent better.
///
/// $$Δ_m = \frac1M \sum_t s_t \frac{m_t - b_t}{|b_t|}, \qquad s_t = +1 \text{ where higher is better, } -1 \text{ where lower is}$$
///
/// K.-K. Maninis, I. Radosavovic, I. Kokkinos, "Attentive Single-Tasking of Multiple Tasks", CVPR 2019, arXiv:1904.08918,
/// equation 4, and LibMTL's sign. The papers on gradient aggregation (Nash-MTL, CAGrad, FAMO) report the opposite sign:
/// [`delta_m_lower_is_better`].
///
/// ```
/// use multitask::pareto::{Better, delta_m_higher_is_better, delta_m_lower_is_better};
///
/// // Accuracy 0.9 instead of 0.8, error 1.1 instead of 1.0: +12.5 % and −10 %.
/// let (ours, baseline, better) = ([0.9, 1.1], [0.8, 1.0], [Better::Higher, Better::Lower]);
/// assert!((delta_m_higher_is_better(&ours, &baseline, &better)? - 0.0125).abs() < 1e-12);
/// assert!((delta_m_lower_is_better(&ours, &baseline, &better)? + 0.0125).abs() < 1e-12);
/// # Ok::<(), multitask::ModelError>(())
/// ```
///
/// # Errors
/// [`ModelError::PerTask`] for lists of different lengths; [`ModelError::Parameter`] without metrics, for a baseline of 0, or for
/// numbers that are not finite.
pub fn delta_m_higher_is_better(metrics: &[f64], baseline: &[f64], better: &[Better]) -> Result<f64> {
    let expected = metrics.len();
    for (what, found) in [("the baseline", baseline.len()), ("the list of directions", better.len())] {
        if found != expected {
            return Err(ModelError::PerTask { what, expected, found });
        }
    }
    if expected == 0 {
        return Err(ModelError::parameter("metrics", 0.0, "at least 1"));
    }
    let mut sum = 0.0;
    for ((&metric, &base), better) in metrics.iter().zip(baseline).zip(better) {
        if !metric.is_finite() {
            return Err(ModelError::parameter("metric", metric, "a finite number"));
        }
        if base == 0.0 || !base.is_finite() {
            return Err(ModelError::parameter("baseline", base, "a finite number other than 0"));
        }
        let change = (metric - base) / base.abs();
        sum += if *better == Better::Higher { change } else { -change };
    }
    Ok(sum / expected as f64)
}

/// Mean relative *loss* against the single-task baselines: **lower is better**, the negative of [`delta_m_higher_is_better`].
///
/// # Errors
/// As there.
pub fn delta_m_lower_is_better(metrics: &[f64], baseline: &[f64], better: &[Better]) -> Result<f64> {
    Ok(-delta_m_higher_is_better(metrics, baseline, better)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_follow_the_direction_and_the_name() {
        use Better::{Higher, Lower};
        let higher = |m: &[f64], b: &[f64], s: &[Better]| delta_m_higher_is_better(m, b, s).unwrap();
        assert_eq!(higher(&[1.0, 2.0], &[1.0, 2.0], &[Higher, Lower]), 0.0);
        assert!(higher(&[2.0], &[1.0], &[Higher]) > 0.0 && higher(&[2.0], &[1.0], &[Lower]) < 0.0);
        // Negative baselines keep the sense of better.
        assert_eq!(higher(&[-1.0], &[-2.0], &[Higher]), 0.5);
        assert_eq!(delta_m_lower_is_better(&[2.0], &[1.0], &[Lower]).unwrap(), 1.0);
        assert!(delta_m_higher_is_better(&[1.0], &[0.0], &[Higher]).is_err());
        assert!(delta_m_higher_is_better(&[1.0], &[1.0, 2.0], &[Higher]).is_err());
        assert!(delta_m_higher_is_better(&[1.0], &[1.0], &[]).is_err());
        assert!(delta_m_higher_is_better(&[f64::NAN], &[1.0], &[Higher]).is_err());
        assert!(delta_m_higher_is_better(&[], &[], &[]).is_err());
    }
}
