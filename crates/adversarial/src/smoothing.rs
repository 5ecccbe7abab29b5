//! Certificates of randomised smoothing.

use crate::error::{Error, Result};

/// What `n` noisy predictions prove about the smoothed classifier at an input.
///
/// The smoothed classifier answers with the class that the base classifier gives most often under noise `N(0, σ²I)`. If
/// `k` of `n` draws gave the class, its probability is above `p_lower` with confidence `1 − α` (the exact one-sided interval of Clopper
/// and Pearson), and then no perturbation with `‖δ‖₂ < radius` changes the answer, `radius = σ·Φ⁻¹(p_lower)`.
///
/// The class has to be chosen by draws of its own: those counted here must not have chosen it.
///
/// J. Cohen, E. Rosenfeld, J. Z. Kolter, "Certified adversarial robustness via randomized smoothing", ICML 2019,
/// arXiv:1902.02918, theorem 1 and algorithm `Certify`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Certificate {
    /// The lower confidence bound of the class's probability.
    pub p_lower: f64,
    /// The certified radius in the norm of `L2`; `None` where `p_lower ≤ ½` and nothing is certified.
    pub radius: Option<f64>,
}

/// The certificate of `k` hits in `n` draws under noise `sigma` at the level `alpha`.
///
/// Cost: some ten thousand operations at most beyond `O(√n)` terms of the binomial tail for each of 60 bisections, on the host.
///
/// # Errors
/// [`Error::Parameter`] unless `n ≥ 1`, `k ≤ n`, `0 < sigma < ∞` and `0 < alpha < 1`.
///
/// ```
/// // All of 1000 draws: p = 0.001^(1/1000).
/// let certificate = adversarial::smoothing_certificate(1000, 1000, 0.25, 0.001)?;
/// assert!((certificate.p_lower - 0.001f64.powf(0.001)).abs() < 1e-12);
/// assert!(adversarial::smoothing_certificate(1000, 500, 0.25, 0.001)?.radius.is_none());
/// # Ok::<(), adversarial::Error>(())
/// ```
pub fn smoothing_certificate(n: u64, k: u64, sigma: f64, alpha: f64) -> Result<Certificate> {
    if n == 0 {
        return Err(Error::Parameter { parameter: "n", value: 0.0, bound: "1 <= n" });
    }
    if k > n {
        return Err(Error::Parameter { parameter: "k", value: k as f64, bound: "0 <= k <= n" });
    }
    if !(sigma > 0.0 && sigma.is_finite()) {
        return Err(Error::Parameter { parameter: "sigma", value: sigma, bound: "0 < sigma < inf" });
    }
    if !(alpha > 0.0 && alpha < 1.0) {
        return Err(Error::Parameter { parameter: "alpha", value: alpha, bound: "0 < alpha < 1" });
    }
    let p_lower = clopper_pearson_lower(n, k, alpha);
    Ok(Certificate { p_lower, radius: (p_lower > 0.5).then(|| sigma * normal_quantile(p_lower)) })
}

/// The `p` with `P(Binomial(n, p) ≥ k) = α`: 0 for `k = 0`.
pub(crate) fn clopper_pearson_lower(n: u64, k: u64, alpha: f64) -> f64 {
    if k == 0 {
        return 0.0;
    }
    if k == n {
        return (alpha.ln() / n as f64).exp();
    }
    let (mut low, mut high) = (0.0, 1.0);
    // Until no number lies between.
    loop {
        let p = 0.5 * (low + high);
        if p <= low || p >= high {
            return low;
        }
        match upper_tail(n, k, p) < alpha {
            true => low = p,
            false => high = p,
        }
    }
}

/// `P(Binomial(n, p) ≥ k)` for `0 < k < n`, summed away from the mode.
pub(crate) fn upper_tail(n: u64, k: u64, p: f64) -> f64 {
    let (n, k) = (n as f64, k as f64);
    let log_choose = |i: f64| libm::lgamma(n + 1.0) - libm::lgamma(i + 1.0) - libm::lgamma(n - i + 1.0);
    let term = |i: f64| (log_choose(i) + i * p.ln() + (n - i) * (-p).ln_1p()).exp();
    let odds = p / (1.0 - p);
    let upward = k >= n * p;
    // The terms from k up, or those below k, fall from here on.
    let mut i = if upward { k } else { k - 1.0 };
    let (mut sum, mut part) = (0.0, term(i));
    while part > 0.0 && part > sum * 1e-18 {
        sum += part;
        part *= match upward {
            true => (n - i) / (i + 1.0) * odds,
            false => i / (n - i + 1.0) / odds,
        };
        i += if upward { 1.0 } else { -1.0 };
    }
    if upward { sum } else { 1.0 - sum }
}

/// `Φ⁻¹(p)` for `½ < p < 1`, by Newton's method on the upper tail.
fn normal_quantile(p: f64) -> f64 {
    let tail = 1.0 - p;
    let upper = |x: f64| 0.5 * libm::erfc(x / std::f64::consts::SQRT_2);
    // Bisection first: the tail spans three hundred orders of magnitude.
    let (mut low, mut high) = (0.0, 40.0);
    for _ in 0..200 {
        let x = 0.5 * (low + high);
        if x <= low || x >= high {
            break;
        }
        match upper(x) > tail {
            true => low = x,
            false => high = x,
        }
    }
    0.5 * (low + high)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_scipy() {
        // scipy.stats.beta.ppf(alpha, k, n − k + 1) and norm.ppf.
        let close = |a: f64, b: f64| assert!((a - b).abs() <= 1e-12 * b.abs(), "{a} {b}");
        let certificate = smoothing_certificate(1000, 990, 0.25, 0.001).unwrap();
        close(certificate.p_lower, 0.976_036_187_155_311_4);
        assert!((certificate.radius.unwrap() - 0.494_502_395_535_299_84).abs() < 1e-9);
        let certificate = smoothing_certificate(100_000, 100_000, 0.5, 0.001).unwrap();
        close(certificate.p_lower, 0.999_930_924_833_009_4);
        assert!((certificate.radius.unwrap() - 1.905_728_281_694_957_2).abs() < 1e-9);
    }

    #[test]
    fn the_bound_has_its_level() {
        for (n, k) in [(1, 1), (7, 3), (100, 60), (1000, 400), (100_000, 99_000)] {
            for alpha in [0.5, 0.05, 1e-6] {
                let p = clopper_pearson_lower(n, k, alpha);
                assert!(p < k as f64 / n as f64 || (alpha == 0.5 && p <= 1.0));
                let tail = if k == n { p.powi(n as i32) } else { upper_tail(n, k, p) };
                assert!((tail / alpha - 1.0).abs() < 1e-6, "{n} {k} {alpha}: {tail}");
            }
        }
        assert_eq!(clopper_pearson_lower(10, 0, 0.05), 0.0);
    }

    #[test]
    fn tails_are_those_of_all_terms() {
        for p in [0.1, 0.5, 0.83] {
            for k in 1..12u64 {
                let choose = |k: u64| (0..k).fold(1.0, |c, i| c * (12 - i) as f64 / (i + 1) as f64);
                let exact: f64 =
                    (k..=12).map(|i| choose(i) * f64::powi(p, i as i32) * f64::powi(1.0 - p, 12 - i as i32)).sum();
                assert!((upper_tail(12, k, p) - exact).abs() < 1e-13, "{p} {k}");
            }
        }
    }

    #[test]
    fn more_hits_certify_more_and_half_certifies_nothing() {
        let radius = |k| smoothing_certificate(500, k, 0.5, 0.01).unwrap().radius.unwrap_or(0.0);
        assert!((250..=500).map(radius).collect::<Vec<_>>().windows(2).all(|w| w[0] <= w[1]));
        assert_eq!((radius(250), radius(270)), (0.0, 0.0));
        assert!(radius(300) > 0.0);
        let (one, two) = (smoothing_certificate(500, 450, 0.5, 0.01), smoothing_certificate(500, 450, 1.0, 0.01));
        assert!((two.unwrap().radius.unwrap() / one.unwrap().radius.unwrap() - 2.0).abs() < 1e-15);
    }

    #[test]
    fn parameters_out_of_range_are_named() {
        let error = |n, k, sigma, alpha| smoothing_certificate(n, k, sigma, alpha).unwrap_err().to_string();
        assert!(error(0, 0, 1.0, 0.1).starts_with("n = 0"));
        assert!(error(5, 6, 1.0, 0.1).starts_with("k = 6"));
        assert!(error(5, 5, f64::NAN, 0.1).starts_with("sigma = NaN"));
        assert!(error(5, 5, 1.0, 1.0).starts_with("alpha = 1"));
    }
}
