//! How much privacy noisy, sampled, clipped gradients have spent.
//!
//! Every step of DP-SGD is a Poisson-subsampled Gaussian [`Mechanism`]; a [`Ledger`] records them, and an [`Accountant`] turns
//! the ledger into `(ε, δ)`: neighbouring data sets, differing by one added or removed example, give any outcome with
//! probabilities within a factor `e^ε` of each other, but for `δ`.
//!
//! | accountant | bound | cost |
//! |---|---|---|
//! | [`Accountant::Rdp`] | upper bound, loose by some tens of percent | about a millisecond a distinct mechanism |
//! | [`Accountant::Prv`] | upper bound within a chosen error (0.01) | some tens of milliseconds, an FFT a distinct mechanism |
//! | [`Accountant::Gdp`] | central limit: neither bound; exact without sampling | microseconds |
//!
//! ```
//! use clipping::accountant::{Accountant, Ledger, Mechanism, noise_multiplier_for};
//!
//! let mut ledger = Ledger::new();
//! ledger.record(Mechanism::new(1.5, 0.04)?, 2250);
//! let rdp = Accountant::Rdp.epsilon(&ledger, 1e-5)?;
//! let prv = Accountant::default().epsilon(&ledger, 1e-5)?;
//! assert!(prv < rdp && rdp < 7.33);
//! // The other way round: the noise for a budget.
//! let noise = noise_multiplier_for(3.0, 1e-5, 0.04, 2250, Accountant::Rdp)?;
//! assert!(noise > 1.5);
//! # Ok::<(), core_tensor::Error>(())
//! ```

mod gdp;
mod inverse;
mod prv;
mod rdp;

pub use inverse::{noise_multiplier_for, steps_for};
pub use prv::PrvBounds;

use core_tensor::{Error, Result};

use crate::limit::{limit, share};

/// One step: each example takes part with probability `q`, the sum of contributions of norm at most 1 gets normal noise of
/// deviation `σ`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mechanism {
    noise_multiplier: f64,
    sample_rate: f64,
}

impl Mechanism {
    /// Noise multiplier `σ` (deviation over clipping norm; 0 is no privacy, infinity no information) and sample rate `q`.
    ///
    /// # Errors
    /// [`Error::Parameter`] unless `σ >= 0` and `0 <= q <= 1`.
    pub fn new(noise_multiplier: f64, sample_rate: f64) -> Result<Self> {
        let noise_multiplier = limit("noise_multiplier", noise_multiplier)?;
        Ok(Self { noise_multiplier, sample_rate: share("sample_rate", sample_rate)? })
    }

    /// `σ`
    pub fn noise_multiplier(&self) -> f64 {
        self.noise_multiplier
    }

    /// `q`
    pub fn sample_rate(&self) -> f64 {
        self.sample_rate
    }

    /// Whether it tells nothing about anyone.
    fn is_silent(&self) -> bool {
        self.sample_rate == 0.0 || self.noise_multiplier == f64::INFINITY
    }

    /// Whether it tells everything about those who take part.
    fn is_bare(&self) -> bool {
        self.sample_rate > 0.0 && self.noise_multiplier == 0.0
    }
}

/// The steps taken so far, in any order: privacy adds up whatever came first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ledger(Vec<(Mechanism, u64)>);

impl Ledger {
    /// No steps.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds `steps` of a mechanism.
    pub fn record(&mut self, mechanism: Mechanism, steps: u64) {
        match self.0.iter_mut().find(|(known, _)| *known == mechanism) {
            Some((_, count)) => *count = count.saturating_add(steps),
            None => self.0.push((mechanism, steps)),
        }
    }

    /// The mechanisms and how often each was used.
    pub fn entries(&self) -> &[(Mechanism, u64)] {
        &self.0
    }

    /// Steps of all mechanisms together.
    pub fn steps(&self) -> u64 {
        self.0.iter().fold(0, |sum, (_, steps)| sum.saturating_add(*steps))
    }

    /// Those that tell something.
    fn telling(&self) -> impl Iterator<Item = (Mechanism, u64)> {
        self.0.iter().copied().filter(|(mechanism, steps)| *steps > 0 && !mechanism.is_silent())
    }
}

/// A way to turn a [`Ledger`] into `(ε, δ)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Accountant {
    /// Rényi differential privacy: I. Mironov, K. Talwar, L. Zhang, "Rényi differential privacy of the sampled Gaussian
    /// mechanism", 2019; conversion by C. Canonne, G. Kamath, T. Steinke, 2020, proposition 12.
    Rdp,
    /// Gaussian differential privacy by its central limit theorem: J. Dong, A. Roth, W. Su, "Gaussian differential privacy",
    /// 2019; Z. Bu, J. Dong, Q. Long, W. Su, 2020. May understate `ε`; exact where every sample rate is 1.
    Gdp,
    /// The privacy loss itself, composed numerically: S. Gopi, Y. T. Lee, L. Wutschitz, "Numerical composition of differential
    /// privacy", NeurIPS 2021. What [`Accountant::epsilon`] returns is the upper end.
    Prv {
        /// The most that the bounds on `ε` may be apart from the estimate.
        epsilon_error: f64,
    },
}

impl Default for Accountant {
    /// The tight one, within 0.01.
    fn default() -> Self {
        Self::Prv { epsilon_error: 0.01 }
    }
}

impl Accountant {
    /// `ε` at a given `δ`: 0 for no steps, infinity for a step without noise.
    ///
    /// # Errors
    /// [`Error::Parameter`] unless `0 < δ < 1`; for [`Accountant::Prv`] also for an error bound or a number of steps that needs
    /// more than 2²⁶ grid points.
    pub fn epsilon(&self, ledger: &Ledger, delta: f64) -> Result<f64> {
        check_delta(delta)?;
        if ledger.telling().next().is_none() {
            return Ok(0.0);
        }
        if ledger.telling().any(|(mechanism, _)| mechanism.is_bare()) {
            return Ok(f64::INFINITY);
        }
        match self {
            Self::Rdp => Ok(rdp::epsilon(ledger, delta)),
            Self::Gdp => Ok(gdp::epsilon(gdp::mu(ledger), delta)),
            Self::Prv { epsilon_error } => Ok(prv::epsilon(ledger, delta, *epsilon_error)?.upper),
        }
    }

    /// `δ` at a given `ε`.
    ///
    /// # Errors
    /// [`Error::Parameter`] unless `0 <= ε < ∞`; as [`epsilon`](Accountant::epsilon).
    pub fn delta(&self, ledger: &Ledger, epsilon: f64) -> Result<f64> {
        let epsilon = crate::limit::not_negative("epsilon", epsilon)?;
        if ledger.telling().next().is_none() {
            return Ok(0.0);
        }
        if ledger.telling().any(|(mechanism, _)| mechanism.is_bare()) {
            return Ok(1.0);
        }
        match self {
            Self::Rdp => Ok(rdp::delta(ledger, epsilon)),
            Self::Gdp => Ok(gdp::delta(gdp::mu(ledger), epsilon)),
            Self::Prv { epsilon_error } => prv::delta(ledger, epsilon, *epsilon_error),
        }
    }

    /// Lower bound, estimate and upper bound of `ε` by the privacy loss, whatever the accountant's own kind.
    ///
    /// # Errors
    /// As [`epsilon`](Accountant::epsilon).
    pub fn prv_bounds(ledger: &Ledger, delta: f64, epsilon_error: f64) -> Result<PrvBounds> {
        check_delta(delta)?;
        if ledger.telling().any(|(mechanism, _)| mechanism.is_bare()) {
            return Ok(PrvBounds { lower: f64::INFINITY, estimate: f64::INFINITY, upper: f64::INFINITY });
        }
        match ledger.telling().next() {
            None => Ok(PrvBounds { lower: 0.0, estimate: 0.0, upper: 0.0 }),
            Some(_) => prv::epsilon(ledger, delta, epsilon_error),
        }
    }
}

fn check_delta(delta: f64) -> Result<f64> {
    match delta > 0.0 && delta < 1.0 {
        true => Ok(delta),
        false => Err(Error::Parameter { parameter: "delta", value: delta, bound: "0 < delta < 1" }),
    }
}

/// The normal distribution function.
fn phi(x: f64) -> f64 {
    0.5 * libm::erfc(-x * std::f64::consts::FRAC_1_SQRT_2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use core_tensor::testing::property;

    fn ledger(sigma: f64, q: f64, steps: u64) -> Ledger {
        let mut ledger = Ledger::new();
        ledger.record(Mechanism::new(sigma, q).unwrap(), steps);
        ledger
    }

    const ALL: [Accountant; 3] = [Accountant::Rdp, Accountant::Gdp, Accountant::Prv { epsilon_error: 0.01 }];

    #[test]
    fn opacus_agrees() {
        // Opacus's RDPAccountant.
        for (sigma, q, steps, expected) in
            [(1.5, 0.04, 2250, 7.3291111714386545), (1.0, 0.01, 1000, 2.1013652716430564)]
        {
            let got = Accountant::Rdp.epsilon(&ledger(sigma, q, steps), 1e-5).unwrap();
            assert!((got / expected - 1.0).abs() < 1e-6, "{got} {expected}");
        }
    }

    #[test]
    fn without_sampling_all_are_one_gaussian() {
        // Compositions of Gaussians are a Gaussian of deviation σ/√T: Balle and Wang 2018, theorem 8.
        for (sigma, steps) in [(1.0, 1), (4.0, 16), (20.0, 100)] {
            let ledger = ledger(sigma, 1.0, steps);
            let mu = (steps as f64).sqrt() / sigma;
            for epsilon in [0.5, 1.0, 3.0] {
                let exact = phi(-epsilon / mu + mu / 2.0) - epsilon.exp() * phi(-epsilon / mu - mu / 2.0);
                let gdp = Accountant::Gdp.delta(&ledger, epsilon).unwrap();
                assert!((gdp / exact - 1.0).abs() < 1e-9, "{gdp} {exact}");
                let bounds = Accountant::prv_bounds(&ledger, exact, 0.01).unwrap();
                assert!(bounds.lower <= epsilon && epsilon <= bounds.upper, "{bounds:?} {epsilon}");
                assert!((bounds.estimate - epsilon).abs() < 1e-3, "{bounds:?} {epsilon}");
                assert!(Accountant::Rdp.epsilon(&ledger, exact).unwrap() >= epsilon);
            }
        }
    }

    #[test]
    fn one_sampled_step_has_a_closed_form() {
        // δ(ε) = P(x > x_ε) − e^ε·Q(x > x_ε) for P = (1 − q)N(0, σ²) + qN(1, σ²), Q = N(0, σ²).
        for (sigma, q, epsilon) in [(1.0, 0.1, 0.2), (0.7, 0.5, 1.0), (2.0, 0.01, 0.003)] {
            let x: f64 = sigma * sigma * ((f64::exp_m1(epsilon) + q) / q).ln() + 0.5;
            let above = |mean: f64| phi((mean - x) / sigma);
            let delta = (1.0 - q) * above(0.0) + q * above(1.0) - epsilon.exp() * above(0.0);
            let bounds = Accountant::prv_bounds(&ledger(sigma, q, 1), delta, 1e-3).unwrap();
            assert!((bounds.estimate - epsilon).abs() < 1e-4, "{bounds:?} {epsilon}");
        }
    }

    #[test]
    fn budgets_move_the_right_way() {
        let cases = (0.6..4.0f64, 0.005..0.3f64, 1..400u64);
        property(24, cases, |(sigma, q, steps)| {
            for accountant in ALL {
                let epsilon = |sigma, q, steps, delta| accountant.epsilon(&ledger(sigma, q, steps), delta).unwrap();
                let base = epsilon(sigma, q, steps, 1e-5);
                // The grid of the numerical bound moves with the case.
                let slack = 1e-9 + if matches!(accountant, Accountant::Prv { .. }) { 2e-3 } else { 0.0 };
                assert!(base > 0.0 && base.is_finite());
                assert!(epsilon(sigma * 1.1, q, steps, 1e-5) <= base + slack, "more noise, {accountant:?}");
                assert!(epsilon(sigma, q * 1.1, steps, 1e-5) >= base - slack, "more samples, {accountant:?}");
                assert!(epsilon(sigma, q, steps + 5, 1e-5) >= base - slack, "more steps, {accountant:?}");
                assert!(epsilon(sigma, q, steps, 1e-4) <= base + slack, "more δ, {accountant:?}");
            }
        });
    }

    #[test]
    fn the_tight_bound_is_below_the_loose_one() {
        property(24, (0.7..4.0f64, 0.005..0.3f64, 1..400u64), |(sigma, q, steps)| {
            let ledger = ledger(sigma, q, steps);
            let bounds = Accountant::prv_bounds(&ledger, 1e-5, 0.01).unwrap();
            assert!(bounds.lower <= bounds.estimate && bounds.estimate <= bounds.upper, "{bounds:?}");
            assert!(bounds.lower <= Accountant::Rdp.epsilon(&ledger, 1e-5).unwrap());
            assert!(bounds.upper - bounds.lower < 0.1, "{bounds:?}");
        });
    }

    #[test]
    fn delta_inverts_epsilon() {
        let ledger = ledger(1.1, 0.02, 500);
        for accountant in [Accountant::Rdp, Accountant::Gdp] {
            for delta in [1e-3, 1e-5, 1e-7] {
                let epsilon = accountant.epsilon(&ledger, delta).unwrap();
                let back = accountant.delta(&ledger, epsilon).unwrap();
                assert!((back / delta - 1.0).abs() < 1e-6, "{accountant:?}: {back:e} {delta:e}");
            }
        }
        let prv = Accountant::default();
        let epsilon = prv.epsilon(&ledger, 1e-5).unwrap();
        let back = prv.delta(&ledger, epsilon).unwrap();
        assert!(back <= 1.1e-5 && back > 0.8e-5, "{back:e}");
    }

    #[test]
    fn steps_add_up_in_any_order() {
        let (a, b) = (Mechanism::new(1.2, 0.05).unwrap(), Mechanism::new(0.9, 0.01).unwrap());
        let mut forth = Ledger::new();
        forth.record(a, 100);
        forth.record(b, 300);
        forth.record(a, 50);
        let mut back = Ledger::new();
        back.record(b, 300);
        back.record(a, 150);
        assert_eq!((forth.steps(), forth.entries().len()), (450, 2));
        for accountant in ALL {
            let (x, y) = (accountant.epsilon(&forth, 1e-6).unwrap(), accountant.epsilon(&back, 1e-6).unwrap());
            assert!((x / y - 1.0).abs() < 1e-9, "{accountant:?}: {x} {y}");
            // Both parts together spend more than one.
            let mut one = Ledger::new();
            one.record(a, 150);
            assert!(x > accountant.epsilon(&one, 1e-6).unwrap());
        }
    }

    #[test]
    fn edges_and_bad_input() {
        for accountant in ALL {
            let epsilon = |ledger: &Ledger| accountant.epsilon(ledger, 1e-5).unwrap();
            assert_eq!(epsilon(&Ledger::new()), 0.0);
            assert_eq!(epsilon(&ledger(1.0, 0.1, 0)), 0.0);
            assert_eq!(epsilon(&ledger(1.0, 0.0, 10)), 0.0);
            assert_eq!(epsilon(&ledger(f64::INFINITY, 0.1, 10)), 0.0);
            assert_eq!(epsilon(&ledger(0.0, 0.1, 1)), f64::INFINITY);
            assert_eq!(accountant.delta(&ledger(0.0, 0.1, 1), 1.0).unwrap(), 1.0);
            assert_eq!(accountant.delta(&Ledger::new(), 1.0).unwrap(), 0.0);
            for delta in [0.0, 1.0, -1e-5, f64::NAN] {
                assert!(accountant.epsilon(&Ledger::new(), delta).is_err());
            }
            for epsilon in [-1.0, f64::NAN, f64::INFINITY] {
                assert!(accountant.delta(&Ledger::new(), epsilon).is_err());
            }
        }
        assert!(Accountant::Prv { epsilon_error: 0.0 }.epsilon(&ledger(1.0, 0.1, 1), 1e-5).is_err());
        assert!(Accountant::Prv { epsilon_error: 1e-12 }.epsilon(&ledger(1.0, 0.1, 100), 1e-5).is_err());
        for (sigma, q) in [(-1.0, 0.1), (f64::NAN, 0.1), (1.0, 1.1), (1.0, -0.1), (1.0, f64::NAN)] {
            assert!(Mechanism::new(sigma, q).is_err());
        }
    }
}
