//! The privacy loss random variable, composed numerically.
//!
//! With `P = (1 − q)N(0, σ²) + qN(1, σ²)` and `Q = N(0, σ²)`, the loss of a step is `Y = ln P(x)/Q(x)` for `x` from `P`, losses
//! of steps add up, and `δ(ε) = E[(1 − e^(ε − Y))₊]`. The distribution of `Y` is put on a grid with its mean kept, convolved
//! by FFT, and the error of grid and truncation is bounded (Gopi et al. 2021, algorithm 1 and theorem 5).

use core_tensor::{Error, Result};
use rustfft::{FftPlanner, num_complex::Complex};

use super::{Ledger, Mechanism, phi, rdp};

/// What is known of `ε`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PrvBounds {
    /// It is at least this.
    pub lower: f64,
    /// The value on the grid.
    pub estimate: f64,
    /// It is at most this: the guarantee.
    pub upper: f64,
}

const MAX_POINTS: usize = 1 << 26;

/// The composed loss: probabilities at `start + i·step`.
struct Loss {
    start: f64,
    step: f64,
    probabilities: Vec<f64>,
}

pub(super) fn epsilon(ledger: &Ledger, delta: f64, epsilon_error: f64) -> Result<PrvBounds> {
    let delta_error = delta / 1000.0;
    let loss = compose(ledger, epsilon_error, delta_error)?;
    Ok(PrvBounds {
        lower: (loss.epsilon(delta + delta_error) - epsilon_error).max(0.0),
        estimate: loss.epsilon(delta),
        upper: loss.epsilon(delta - delta_error) + epsilon_error,
    })
}

/// An upper bound of `δ(ε)`.
pub(super) fn delta(ledger: &Ledger, epsilon: f64, epsilon_error: f64) -> Result<f64> {
    let delta_error = 1e-12;
    let loss = compose(ledger, epsilon_error, delta_error)?;
    Ok((loss.delta((epsilon - epsilon_error).max(0.0)) + delta_error).min(1.0))
}

fn compose(ledger: &Ledger, epsilon_error: f64, delta_error: f64) -> Result<Loss> {
    let epsilon_error = crate::limit::positive("epsilon_error", epsilon_error)?;
    let steps = ledger.telling().map(|(_, steps)| steps as f64).sum::<f64>();
    // Gopi et al., theorem 5: mesh and domain for the errors asked for.
    let step = epsilon_error / (steps / 2.0 * (12.0 / delta_error).ln()).sqrt();
    let single = |mechanism: Mechanism| {
        let mut one = Ledger::new();
        one.record(mechanism, 1);
        rdp::epsilon(&one, delta_error / (8.0 * steps))
    };
    let reach = ledger
        .telling()
        .map(|(mechanism, _)| single(mechanism))
        .fold(rdp::epsilon(ledger, delta_error / 4.0), f64::max);
    let reach = reach.max(epsilon_error) + 3.0;
    let half = (reach / step).ceil();
    if !(2.0 * half < MAX_POINTS as f64) {
        let bound = "an error for which 2^26 grid points are enough";
        return Err(Error::Parameter { parameter: "epsilon_error", value: epsilon_error, bound });
    }
    let half = half as usize;
    // Points −half..=half−1, even in number; index 0 of the transforms stands for a loss of 0.
    let points = 2 * half;
    let mut planner = FftPlanner::new();
    let (forward, inverse) = (planner.plan_fft_forward(points), planner.plan_fft_inverse(points));
    let mut product = vec![Complex::new(1.0, 0.0); points];
    let mut shift = 0.0;
    for (mechanism, count) in ledger.telling() {
        let (mut spectrum, moved) = discretise(mechanism, step, half);
        forward.process(&mut spectrum);
        for (product, factor) in product.iter_mut().zip(&spectrum) {
            *product *= factor.powf(count as f64);
        }
        shift += moved * count as f64;
    }
    inverse.process(&mut product);
    let at = |i: usize| (product[(i + half) % points].re / points as f64).max(0.0);
    let probabilities = (0..points).map(at).collect();
    Ok(Loss { start: -(half as f64) * step + shift, step, probabilities })
}

/// The probabilities of one step's loss in cells round the grid's points, from that of 0 on with the negative ones at the end,
/// and how far the grid has to move for the mean to be right.
fn discretise(mechanism: Mechanism, step: f64, half: usize) -> (Vec<Complex<f64>>, f64) {
    let points = 2 * half;
    let edge = |i: i64| (i as f64 - 0.5) * step;
    let first = -(half as i64);
    let mut last = cdf(mechanism, edge(first));
    let low = last;
    let mut cells = vec![Complex::new(0.0, 0.0); points];
    let mut on_grid = 0.0;
    for i in first..half as i64 {
        let next = cdf(mechanism, edge(i + 1));
        let mass = next - last;
        cells[i.rem_euclid(points as i64) as usize].re = mass;
        on_grid += i as f64 * step * mass;
        last = next;
    }
    let total = last - low;
    cells.iter_mut().for_each(|cell| *cell /= total);
    // What lies outside the grid is too improbable to count.
    (cells, mean(mechanism) - on_grid / total)
}

/// `E[Y]`, by the trapezoidal rule over `x`. The loss may be narrower than a cell, its argument is as smooth as a normal
/// density, for which the rule's error vanishes faster than any power of the spacing.
fn mean(mechanism: Mechanism) -> f64 {
    let (sigma, q) = (mechanism.noise_multiplier(), mechanism.sample_rate());
    let (start, end) = (-12.0 * sigma, 1.0 + 12.0 * sigma);
    // The loss bends within σ².
    let intervals = ((end - start) / (0.02 * sigma).min(0.5 * sigma * sigma)).ceil();
    let spacing = (end - start) / intervals;
    let density = |x: f64| (-0.5 * (x / sigma).powi(2)).exp();
    let sum: f64 = (0..=intervals as u64)
        .map(|i| {
            let x = start + i as f64 * spacing;
            let tilt = (x - 0.5) / (sigma * sigma);
            // Without the exponential of a large number.
            let loss = match tilt {
                _ if q == 1.0 => tilt,
                0.0.. => tilt + ((1.0 - q) * (-tilt).exp_m1()).ln_1p(),
                _ => (q * tilt.exp_m1()).ln_1p(),
            };
            loss * ((1.0 - q) * density(x) + q * density(x - 1.0))
        })
        .sum();
    sum * spacing / (sigma * (2.0 * std::f64::consts::PI).sqrt())
}

/// `P(Y <= t)`.
fn cdf(mechanism: Mechanism, t: f64) -> f64 {
    let (sigma, q) = (mechanism.noise_multiplier(), mechanism.sample_rate());
    // x with ln(1 − q + q·e^((2x − 1)/2σ²)) = t.
    let ratio = t.exp_m1() / q;
    if !(ratio > -1.0) {
        return 0.0;
    }
    let x = sigma * sigma * ratio.ln_1p() + 0.5;
    (1.0 - q) * phi(x / sigma) + q * phi((x - 1.0) / sigma)
}

impl Loss {
    /// Losses from the largest down, with their probabilities.
    fn descending(&self) -> impl Iterator<Item = (f64, f64)> {
        let points = self.probabilities.iter().enumerate().rev();
        points.map(|(i, p)| (self.start + i as f64 * self.step, *p))
    }

    /// `δ(ε) = Σ_{Y > ε} p·(1 − e^(ε − Y))`.
    fn delta(&self, epsilon: f64) -> f64 {
        let above = self.descending().take_while(|(y, _)| *y > epsilon);
        above.map(|(y, p)| -p * (epsilon - y).exp_m1()).sum()
    }

    /// The `ε` with `δ(ε) = delta`: the losses above it are summed from the largest down until their `δ` is reached, and within
    /// the last cell the equation is solved exactly.
    fn epsilon(&self, delta: f64) -> f64 {
        let (mut mass, mut discounted) = (0.0, 0.0);
        for (y, p) in self.descending() {
            // δ at ε = y with what lies above.
            if mass - y.exp() * discounted >= delta {
                break;
            }
            mass += p;
            discounted += p * (-y).exp();
        }
        if mass <= delta || discounted <= 0.0 {
            return 0.0;
        }
        ((mass - delta) / discounted).ln().max(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_are_exact() {
        // mpmath's quadrature with 30 digits.
        for (sigma, q, expected) in [
            (1.0, 0.1, 0.007_257_730_486_431_13),
            (0.8, 0.001, 1.870_101_103_320_742_2e-6),
            (0.3, 0.5, 2.206_626_341_403_623_4),
            (4.0, 0.01, 3.222_612_611_911_447e-6),
            (20.0, 0.3, 1.125_688_913_177_817_9e-4),
            // 1/2σ².
            (1.5, 1.0, 2.0 / 9.0),
            (0.01, 1.0, 5e3),
        ] {
            let mean = mean(Mechanism::new(sigma, q).unwrap());
            // The mean of a rarely sampled mechanism is the difference of larger parts.
            assert!((mean - expected).abs() <= 1e-12 * expected + 1e-16, "{sigma} {q}: {mean:e}, {expected:e}");
        }
    }
}
