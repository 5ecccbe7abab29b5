//! Rényi differential privacy of the Poisson-subsampled Gaussian.

use super::{Ledger, Mechanism};

/// The orders `α` at which the divergence is bounded: 1.1 to 10.9 in steps of 0.1, then 12 to 63.
fn orders() -> impl Iterator<Item = f64> {
    (11..110).map(|i| f64::from(i) / 10.0).chain((12..64).map(f64::from))
}

/// The smallest `ε` that an order gives.
pub(super) fn epsilon(ledger: &Ledger, delta: f64) -> f64 {
    orders().map(|alpha| convert(alpha, divergence(ledger, alpha), delta)).fold(f64::INFINITY, f64::min).max(0.0)
}

/// The smallest `δ` that an order gives.
pub(super) fn delta(ledger: &Ledger, epsilon: f64) -> f64 {
    let log_delta = |alpha: f64| {
        // The conversion below solved for ln δ.
        (alpha - 1.0) * (divergence(ledger, alpha) - epsilon + (-1.0 / alpha).ln_1p()) - alpha.ln()
    };
    orders().map(log_delta).fold(f64::INFINITY, f64::min).exp().min(1.0)
}

/// `ε = D_α − (ln δ + ln α)/(α − 1) + ln((α − 1)/α)`.
fn convert(alpha: f64, divergence: f64, delta: f64) -> f64 {
    divergence - (delta.ln() + alpha.ln()) / (alpha - 1.0) + (-1.0 / alpha).ln_1p()
}

/// The Rényi divergence of order `α` of all steps together.
fn divergence(ledger: &Ledger, alpha: f64) -> f64 {
    ledger.telling().map(|(mechanism, steps)| steps as f64 * step(mechanism, alpha)).sum()
}

/// That of one step.
fn step(mechanism: Mechanism, alpha: f64) -> f64 {
    let (q, variance) = (mechanism.sample_rate(), mechanism.noise_multiplier().powi(2));
    if q == 1.0 {
        return alpha / (2.0 * variance);
    }
    let log_a = match alpha.fract() == 0.0 {
        true => integer(q, variance, alpha as u32),
        false => fractional(q, variance, alpha),
    };
    log_a / (alpha - 1.0)
}

/// `ln Σ_k C(α, k)·(1 − q)^(α−k)·q^k·e^((k² − k)/2σ²)`: Mironov et al., section 3.3.
fn integer(q: f64, variance: f64, alpha: u32) -> f64 {
    let mut log_a = f64::NEG_INFINITY;
    let mut log_binomial = 0.0;
    for k in 0..=alpha {
        let (x, rest) = (f64::from(k), f64::from(alpha - k));
        let term = log_binomial + x * q.ln() + rest * (-q).ln_1p() + (x * x - x) / (2.0 * variance);
        log_a = log_add(log_a, term);
        log_binomial += (rest / (x + 1.0)).ln();
    }
    log_a
}

/// The same for a fractional order: two infinite series with alternating signs, split where the densities cross. Mironov et al.,
/// section 3.3, equation 10.
fn fractional(q: f64, variance: f64, alpha: f64) -> f64 {
    let sigma = variance.sqrt();
    let crossing = variance * (1.0 / q - 1.0).ln() + 0.5;
    let (log_q, log_rest) = (q.ln(), (-q).ln_1p());
    // Positive and negative terms apart, subtracted once.
    let (mut plus, mut minus) = (f64::NEG_INFINITY, f64::NEG_INFINITY);
    let (mut log_binomial, mut positive) = (0.0f64, true);
    for i in 0..10_000u32 {
        let i = f64::from(i);
        let j = alpha - i;
        let tail = |x: f64| log_erfc(x / (std::f64::consts::SQRT_2 * sigma)) - std::f64::consts::LN_2;
        let below = log_binomial + i * log_q + j * log_rest + (i * i - i) / (2.0 * variance) + tail(i - crossing);
        let above = log_binomial + j * log_q + i * log_rest + (j * j - j) / (2.0 * variance) + tail(crossing - j);
        let side = if positive { &mut plus } else { &mut minus };
        *side = log_add(*side, log_add(below, above));
        if below.max(above) < -30.0 {
            break;
        }
        // C(α, i + 1) = C(α, i)·(α − i)/(i + 1), whose sign changes where i passes α.
        log_binomial += (j.abs() / (i + 1.0)).ln();
        positive = positive == (j > 0.0);
    }
    log_subtract(plus, minus)
}

/// `ln(eᵃ + eᵇ)`.
fn log_add(a: f64, b: f64) -> f64 {
    let (low, high) = if a < b { (a, b) } else { (b, a) };
    if low == f64::NEG_INFINITY { high } else { high + (low - high).exp().ln_1p() }
}

/// `ln(eᵃ − eᵇ)` for `a > b`.
fn log_subtract(a: f64, b: f64) -> f64 {
    if b == f64::NEG_INFINITY { a } else { a + (-(b - a).exp()).ln_1p() }
}

/// `ln erfc(x)`, by its asymptotic series where `erfc` leaves the range.
fn log_erfc(x: f64) -> f64 {
    if x < 20.0 {
        return libm::erfc(x).ln();
    }
    let r = 1.0 / (2.0 * x * x);
    -x * x - x.ln() - 0.5 * std::f64::consts::PI.ln() + (-r * (1.0 - 3.0 * r * (1.0 - 5.0 * r))).ln_1p()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integer_and_fractional_orders_meet() {
        for (sigma, q) in [(1.0f64, 0.1), (0.6, 0.4), (3.0, 0.01), (1.0, 0.7)] {
            for alpha in [2u32, 5, 20] {
                let integer = integer(q, sigma * sigma, alpha);
                let beside = fractional(q, sigma * sigma, f64::from(alpha) + 1e-7);
                assert!((integer - beside).abs() < 1e-5 * integer.abs().max(1e-3), "{integer} {beside}");
            }
        }
    }

    #[test]
    fn the_asymptotic_series_continues_erfc() {
        assert!((log_erfc(19.999_999) - log_erfc(20.0)).abs() < 1e-4);
        assert!((log_erfc(20.0) / libm::erfc(20.0).ln() - 1.0).abs() < 1e-12);
        assert!(log_erfc(1e6).is_finite());
    }
}
