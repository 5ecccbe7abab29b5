//! What attacks that look for the smallest perturbation share.

use super::Setting;
use crate::engine::{Case, Oracle, Search};
use crate::error::{Error, Result};
use crate::projection::toward_f32;
use crate::threat::Norm;

/// Refuses norms other than the given ones, and the search for the worst loss.
pub(crate) fn check_minimum(attack: String, setting: &Setting, norms: &[Norm], supported: &'static str) -> Result<()> {
    let what = match (norms.contains(&setting.norm), setting.search) {
        (false, _) => format!("{:?}", setting.norm),
        (true, Search::Worst) => "the search for the worst loss".into(),
        _ => return Ok(()),
    };
    Err(Error::Unsupported { attack, what, supported })
}

/// From `first` at step 0 down to `last` at step `steps`, along half a cosine.
pub(crate) fn cosine(first: f64, last: f64, step: usize, steps: usize) -> f64 {
    let angle = std::f64::consts::PI * step as f64 / steps as f64;
    last + (first - last) * (1.0 + angle.cos()) / 2.0
}

/// A point in `f64`.
pub(crate) fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|x| f64::from(*x)).collect()
}

/// A point in `f32`, each element rounded to the nearest.
pub(crate) fn narrow(x: &[f64]) -> Vec<f32> {
    x.iter().map(|x| *x as f32).collect()
}

/// The largest perturbation that the box allows, in the threat's norm.
pub(crate) fn widest(case: &Case) -> f64 {
    let (low, high) = (case.threat().low(), case.threat().high());
    case.threat().norm().of(case.x0().iter().map(|x| (f64::from(*x) - low).max(high - f64::from(*x))))
}

/// Brings `x` into the ball of another radius, and into the box.
pub(crate) fn project_to(case: &Case, x: &mut [f64], radius: f64) {
    let threat = case.threat().radius(radius).unwrap_or(case.threat());
    threat.project_row(&wide(case.x0()), x, toward_f32);
}

/// The nearest success that a run has met.
#[derive(Default)]
pub(crate) struct Nearest(Option<(f64, Vec<f32>)>);

impl Nearest {
    /// Takes a success in.
    pub fn offer(&mut self, case: &Case, x: &[f32]) {
        let distance = case.distance(x);
        if self.0.as_ref().is_none_or(|(least, _)| distance < *least) {
            self.0 = Some((distance, x.to_vec()));
        }
    }

    /// Its distance; infinite while there is none.
    pub fn distance(&self) -> f64 {
        self.0.as_ref().map_or(f64::INFINITY, |(distance, _)| *distance)
    }

    /// The point itself.
    pub fn point(&self) -> Option<&[f32]> {
        self.0.as_ref().map(|(_, x)| x.as_slice())
    }

    /// Bisects the segment from the unperturbed input to it, by so many queries.
    pub async fn bisect(self, case: &Case, oracle: &Oracle, queries: usize) {
        let Some((_, far)) = self.0 else { return };
        let (mut short, mut enough) = (0.0, 1.0);
        for _ in 0..queries {
            let share = f64::midpoint(short, enough);
            let at = |(x0, x): (&f32, &f32)| (f64::from(*x0) + share * (f64::from(*x) - f64::from(*x0))) as f32;
            let mut x: Vec<f32> = case.x0().iter().zip(&far).map(at).collect();
            case.clamp(&mut x);
            match oracle.logits(&x).await.reached {
                true => enough = share,
                false => short = share,
            }
        }
    }
}

/// The constant `c` between a distance and a loss, looked for by bisection: larger after a failure, smaller after a success.
pub(crate) struct Constant {
    low: f64,
    high: f64,
    pub value: f64,
}

impl Constant {
    /// Largest value tried.
    const MOST: f64 = 1e10;

    pub fn new(initial: f64) -> Self {
        Self { low: 0.0, high: f64::INFINITY, value: initial }
    }

    pub fn update(&mut self, succeeded: bool) {
        match succeeded {
            true => self.high = self.value,
            false => self.low = self.value,
        }
        self.value = match self.high.is_finite() {
            true => f64::midpoint(self.low, self.high),
            false => (10.0 * self.value).min(Self::MOST),
        };
    }
}

/// Ends a minimisation that no longer gets anywhere: every tenth of the steps its loss has to be below 0.9999 of what it was.
pub(crate) struct Patience {
    every: usize,
    last: f64,
}

impl Patience {
    pub fn new(steps: usize) -> Self {
        Self { every: (steps / 10).max(1), last: f64::INFINITY }
    }

    pub fn is_over(&mut self, step: usize, loss: f64) -> bool {
        if !step.is_multiple_of(self.every) {
            return false;
        }
        let over = loss > 0.9999 * self.last;
        self.last = loss;
        over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_constant_is_bracketed_once_both_sides_are_known() {
        let mut constant = Constant::new(1.0);
        constant.update(false);
        constant.update(false);
        assert_eq!(constant.value, 100.0);
        constant.update(true);
        assert_eq!(constant.value, 55.0);
        constant.update(false);
        assert_eq!(constant.value, 77.5);
    }

    #[test]
    fn schedules_begin_and_end_where_they_are_told() {
        assert_eq!((cosine(1.0, 0.1, 0, 7), cosine(1.0, 0.0, 7, 7)), (1.0, 0.0));
        assert!((cosine(1.0, 0.0, 5, 10) - 0.5).abs() < 1e-15);
        let mut patience = Patience::new(20);
        assert!(
            !patience.is_over(0, 1.0)
                && !patience.is_over(1, 2.0)
                && !patience.is_over(2, 0.9)
                && patience.is_over(4, 0.9)
        );
    }
}
