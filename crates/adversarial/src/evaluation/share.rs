//! A share of examples with its confidence interval.

use std::fmt;

use crate::smoothing::clopper_pearson_lower;

/// `count` of `of` examples, with the exact two-sided interval of Clopper and Pearson for the share in the population they were
/// drawn from.
///
/// ```
/// use adversarial::Share;
///
/// let share = Share::new(90, 100, 0.95);
/// assert_eq!(share.to_string(), "90.0 % [82.4, 95.1]");
/// assert_eq!(Share::new(0, 0, 0.95).value(), None);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Share {
    /// Examples that count.
    pub count: usize,
    /// Examples there are.
    pub of: usize,
    /// Lower end of the interval, in `[0, 1]`.
    pub low: f64,
    /// Upper end of the interval, in `[0, 1]`.
    pub high: f64,
}

impl Share {
    /// The share with its interval at a confidence in `(0, 1)`; of no examples, the interval is everything.
    ///
    /// # Panics
    /// If `count` is above `of`.
    pub fn new(count: usize, of: usize, confidence: f64) -> Self {
        assert!(count <= of, "{count} of {of}");
        let (n, k, alpha) = (of as u64, count as u64, (1.0 - confidence) / 2.0);
        let (low, high) = match of {
            0 => (0.0, 1.0),
            _ => (clopper_pearson_lower(n, k, alpha), 1.0 - clopper_pearson_lower(n, n - k, alpha)),
        };
        Self { count, of, low, high }
    }

    /// `count / of`; none of no examples.
    pub fn value(&self) -> Option<f64> {
        (self.of > 0).then(|| self.count as f64 / self.of as f64)
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.value() {
            Some(value) => write!(f, "{:.1} % [{:.1}, {:.1}]", 100.0 * value, 100.0 * self.low, 100.0 * self.high),
            None => f.write_str("of none"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_of_scipy() {
        // scipy.stats.binomtest(k, n).proportion_ci(0.95, "exact")
        let close = |share: Share, low: f64, high: f64| {
            assert!((share.low - low).abs() < 1e-9 && (share.high - high).abs() < 1e-9, "{share:?}");
        };
        close(Share::new(90, 100, 0.95), 0.823_777_402_259_824_7, 0.950_995_310_778_514_1);
        close(Share::new(0, 20, 0.95), 0.0, 0.168_433_470_983_085_06);
        close(Share::new(20, 20, 0.95), 0.831_566_529_016_914_9, 1.0);
    }
}
