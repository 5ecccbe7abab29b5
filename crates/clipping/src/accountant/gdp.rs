//! Gaussian differential privacy: everything composed is as private as one Gaussian of deviation `1/μ`.

use super::{Ledger, phi};

/// `μ = √Σ T·q²·(e^(1/σ²) − 1)` by the central limit theorem for Poisson sampling (Bu et al. 2020, section 3), and without
/// sampling `μ² = T/σ²`, which is exact.
pub(super) fn mu(ledger: &Ledger) -> f64 {
    let square = |(mechanism, steps): (super::Mechanism, u64)| {
        let (q, inverse) = (mechanism.sample_rate(), mechanism.noise_multiplier().powi(-2));
        let one = if q == 1.0 { inverse } else { q * q * inverse.exp_m1() };
        steps as f64 * one
    };
    ledger.telling().map(square).sum::<f64>().sqrt()
}

/// `δ(ε) = Φ(−ε/μ + μ/2) − e^ε·Φ(−ε/μ − μ/2)`: Dong et al. 2019, corollary 2.13.
pub(super) fn delta(mu: f64, epsilon: f64) -> f64 {
    if mu == f64::INFINITY {
        return 1.0;
    }
    let below = phi(-epsilon / mu - mu / 2.0);
    // Where the tail underflows, so does its product with e^ε.
    let scaled = if below == 0.0 { 0.0 } else { (epsilon + below.ln()).exp() };
    (phi(-epsilon / mu + mu / 2.0) - scaled).max(0.0)
}

/// The `ε` at which `δ(ε)` is `delta`, by bisection of a falling function.
pub(super) fn epsilon(mu: f64, target: f64) -> f64 {
    if delta(mu, 0.0) <= target {
        return 0.0;
    }
    let mut high = 1.0;
    while delta(mu, high) > target {
        high *= 2.0;
        if high > 1e300 {
            return f64::INFINITY;
        }
    }
    let mut low = 0.0;
    for _ in 0..200 {
        let middle = 0.5 * (low + high);
        match delta(mu, middle) > target {
            true => low = middle,
            false => high = middle,
        }
    }
    high
}
