//! The noise, or the number of steps, for a budget.

use core_tensor::{Error, Result};

use super::{Accountant, Ledger, Mechanism, check_delta};
use crate::limit::{positive, share};

/// The smallest noise multiplier with which `steps` steps at `sample_rate` spend at most `epsilon` at `delta`.
///
/// Within `10⁻³` of it, from above, so that the budget is kept. Cost: about twenty evaluations of the accountant.
///
/// # Errors
/// [`Error::Parameter`] for a target that is not above zero and finite, or that no noise up to 10⁶ reaches (an error bound of
/// [`Accountant::Prv`] above the target); as [`Accountant::epsilon`].
pub fn noise_multiplier_for(
    epsilon: f64,
    delta: f64,
    sample_rate: f64,
    steps: u64,
    accountant: Accountant,
) -> Result<f64> {
    let target = positive("epsilon", epsilon)?;
    check_delta(delta)?;
    share("sample_rate", sample_rate)?;
    let spent = |noise: f64| {
        let mut ledger = Ledger::new();
        ledger.record(Mechanism::new(noise, sample_rate)?, steps);
        accountant.epsilon(&ledger, delta)
    };
    if steps == 0 || sample_rate == 0.0 {
        return Ok(0.0);
    }
    let (mut low, mut high) = (0.25, 1.0);
    while spent(high)? > target {
        low = high;
        high *= 2.0;
        if high > 1e6 {
            return Err(Error::Parameter {
                parameter: "epsilon",
                value: epsilon,
                bound: "a budget that noise can reach",
            });
        }
    }
    if low < high && low == 0.25 {
        while low > 1e-3 && spent(low)? <= target {
            high = low;
            low *= 0.5;
        }
    }
    while high - low > 1e-3 * high {
        let middle = 0.5 * (low + high);
        match spent(middle)? > target {
            true => low = middle,
            false => high = middle,
        }
    }
    Ok(high)
}

/// The most steps at this noise and rate that spend at most `epsilon` at `delta`, beyond what `ledger` has spent already.
///
/// `u64::MAX` where steps cost nothing. Cost: up to 2·64 evaluations of the accountant, usually about thirty.
///
/// # Errors
/// [`Error::Parameter`] for a target that is negative or not finite; as [`Accountant::epsilon`].
pub fn steps_for(
    epsilon: f64,
    delta: f64,
    mechanism: Mechanism,
    ledger: &Ledger,
    accountant: Accountant,
) -> Result<u64> {
    let target = crate::limit::not_negative("epsilon", epsilon)?;
    let within = |steps: u64| {
        let mut ledger = ledger.clone();
        ledger.record(mechanism, steps);
        Ok::<_, Error>(accountant.epsilon(&ledger, delta)? <= target)
    };
    if mechanism.is_silent() {
        return Ok(u64::MAX);
    }
    if !within(1)? {
        return Ok(0);
    }
    let mut high = 2u64;
    while within(high)? {
        if high > 1 << 40 {
            return Ok(high);
        }
        high *= 2;
    }
    let mut low = high / 2;
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        match within(middle)? {
            true => low = middle,
            false => high = middle,
        }
    }
    Ok(low)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_noise_keeps_the_budget_and_a_little_less_does_not() {
        for accountant in [Accountant::Rdp, Accountant::Gdp, Accountant::default()] {
            for (epsilon, q, steps) in [(3.0, 0.04, 500), (0.5, 0.01, 100), (20.0, 0.1, 10)] {
                let noise = noise_multiplier_for(epsilon, 1e-5, q, steps, accountant).unwrap();
                let spent = |noise: f64| {
                    let mut ledger = Ledger::new();
                    ledger.record(Mechanism::new(noise, q).unwrap(), steps);
                    accountant.epsilon(&ledger, 1e-5).unwrap()
                };
                assert!(spent(noise) <= epsilon, "{accountant:?}");
                assert!(spent(noise * 0.99) > epsilon, "{accountant:?} {noise}");
            }
        }
        assert_eq!(noise_multiplier_for(1.0, 1e-5, 0.1, 0, Accountant::Rdp).unwrap(), 0.0);
        for bad in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(noise_multiplier_for(bad, 1e-5, 0.1, 10, Accountant::Rdp).is_err());
        }
        let unreachable = noise_multiplier_for(0.005, 1e-5, 0.1, 10, Accountant::default());
        assert!(unreachable.unwrap_err().to_string().contains("epsilon = 0.005"));
    }

    #[test]
    fn steps_fill_the_budget() {
        let mechanism = Mechanism::new(1.2, 0.02).unwrap();
        let mut ledger = Ledger::new();
        let all = steps_for(2.0, 1e-5, mechanism, &ledger, Accountant::Rdp).unwrap();
        ledger.record(mechanism, all);
        assert!(Accountant::Rdp.epsilon(&ledger, 1e-5).unwrap() <= 2.0);
        assert_eq!(steps_for(2.0, 1e-5, mechanism, &ledger, Accountant::Rdp).unwrap(), 0);
        ledger.record(mechanism, 1);
        assert!(Accountant::Rdp.epsilon(&ledger, 1e-5).unwrap() > 2.0);
        let silent = Mechanism::new(f64::INFINITY, 0.5).unwrap();
        assert_eq!(steps_for(2.0, 1e-5, silent, &Ledger::new(), Accountant::Rdp).unwrap(), u64::MAX);
        assert!(steps_for(f64::NAN, 1e-5, mechanism, &Ledger::new(), Accountant::Rdp).is_err());
    }
}
