//! What an adversary may change, and how far.

use crate::error::{Error, Result};

/// How the size of a perturbation `δ` is measured, over all elements of one example.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Norm {
    /// `max |δᵢ|`: every element a little.
    Linf,
    /// `√Σδᵢ²`
    L2,
    /// `Σ|δᵢ|`: few elements, by how much counts.
    L1,
    /// The number of elements that are not zero.
    L0,
}

/// The perturbations allowed: `‖δ‖ ≤ ε`, of inputs that stay in a box.
///
/// | setting | default | range | effect |
/// |---|---|---|---|
/// | `norm` | – | [`Norm`] | how the perturbation is measured |
/// | `epsilon` | – | finite, ≥ 0; a whole number for [`Norm::L0`] | the radius |
/// | [`bounds`](Self::bounds) | `[0, 1]` | finite, `low < high` | what inputs there are |
///
/// ```
/// use adversarial::{Norm, Threat};
///
/// let threat = Threat::new(Norm::Linf, 8.0 / 255.0)?;
/// assert_eq!((threat.low(), threat.high()), (0.0, 1.0));
/// assert!(Threat::new(Norm::L2, f64::NAN).is_err());
/// # Ok::<(), adversarial::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Threat {
    norm: Norm,
    epsilon: f64,
    low: f64,
    high: f64,
}

impl Threat {
    /// A ball of radius `epsilon`, inputs in `[0, 1]`.
    ///
    /// # Errors
    /// [`Error::Parameter`] if `epsilon` is negative or not finite, or not whole for [`Norm::L0`].
    pub fn new(norm: Norm, epsilon: f64) -> Result<Self> {
        let parameter = "epsilon";
        if !(epsilon >= 0.0 && epsilon.is_finite()) {
            return Err(Error::Parameter { parameter, value: epsilon, bound: "a finite number, at least 0" });
        }
        if norm == Norm::L0 && epsilon.fract() != 0.0 {
            return Err(Error::Parameter { parameter, value: epsilon, bound: "a whole number of elements for L0" });
        }
        Ok(Self { norm, epsilon, low: 0.0, high: 1.0 })
    }

    /// The same for inputs in `[low, high]`.
    ///
    /// # Errors
    /// [`Error::Parameter`] if the bounds are not finite or `low` is not below `high`.
    pub fn bounds(self, low: f64, high: f64) -> Result<Self> {
        if !low.is_finite() {
            return Err(Error::Parameter { parameter: "low", value: low, bound: "a finite number" });
        }
        if !(high > low && high.is_finite()) {
            return Err(Error::Parameter { parameter: "high", value: high, bound: "a finite number above `low`" });
        }
        Ok(Self { low, high, ..self })
    }

    /// The same with another radius.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn radius(self, epsilon: f64) -> Result<Self> {
        Ok(Self { low: self.low, high: self.high, ..Self::new(self.norm, epsilon)? })
    }

    /// How perturbations are measured.
    pub fn norm(&self) -> Norm {
        self.norm
    }

    /// The radius `ε`.
    pub fn epsilon(&self) -> f64 {
        self.epsilon
    }

    /// Lower bound of inputs.
    pub fn low(&self) -> f64 {
        self.low
    }

    /// Upper bound of inputs.
    pub fn high(&self) -> f64 {
        self.high
    }
}

impl Norm {
    /// The size of a perturbation, in `f64`; `NaN` if an element is.
    pub fn of(self, delta: impl IntoIterator<Item = f64>) -> f64 {
        let delta = delta.into_iter().map(f64::abs);
        let largest = |a: f64, b: f64| if b.is_nan() || b > a { b } else { a };
        match self {
            Self::Linf => delta.fold(0.0, |a, b| if a.is_nan() { a } else { largest(a, b) }),
            Self::L1 => delta.sum(),
            Self::L2 => {
                // Scaled, so that squares neither overflow nor vanish.
                let delta: Vec<f64> = delta.collect();
                let scale = Self::Linf.of(delta.iter().copied());
                match scale > 0.0 && scale.is_finite() {
                    true => scale * delta.iter().map(|d| (d / scale) * (d / scale)).sum::<f64>().sqrt(),
                    false => scale,
                }
            }
            Self::L0 => delta.map(|d| if d.is_nan() { d } else { f64::from(u8::from(d != 0.0)) }).sum(),
        }
    }

    /// The `q` of the dual norm `1/p + 1/q = 1`: a linear function falls fastest by `‖w‖_q` per unit of `‖δ‖_p`. `L0` has none.
    pub fn dual(self) -> Option<Self> {
        match self {
            Self::Linf => Some(Self::L1),
            Self::L2 => Some(Self::L2),
            Self::L1 => Some(Self::Linf),
            Self::L0 => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn norms_by_hand() {
        let delta = [3.0, -4.0, 0.0];
        let norms = [Norm::Linf, Norm::L2, Norm::L1, Norm::L0].map(|norm| norm.of(delta));
        assert_eq!(norms, [4.0, 5.0, 7.0, 2.0]);
        assert!((Norm::L2.of([3e200, 4e200]) / 5e200 - 1.0).abs() < 1e-15);
        assert!((Norm::L2.of([3e-200, 4e-200]) / 5e-200 - 1.0).abs() < 1e-15);
        for norm in [Norm::Linf, Norm::L2, Norm::L1, Norm::L0] {
            assert!(norm.of([0.0, f64::NAN, 1.0]).is_nan(), "{norm:?}");
            assert_eq!(norm.of([]), 0.0);
        }
        assert_eq!(Norm::Linf.dual().and_then(Norm::dual), Some(Norm::Linf));
        assert_eq!(Norm::L0.dual(), None);
    }

    #[test]
    fn what_is_no_ball_or_no_box_is_named() {
        let name = |error: Error| error.to_string();
        assert!(name(Threat::new(Norm::L2, -1.0).unwrap_err()).starts_with("epsilon = -1"));
        assert!(name(Threat::new(Norm::Linf, f64::INFINITY).unwrap_err()).starts_with("epsilon = inf"));
        assert!(name(Threat::new(Norm::L0, 1.5).unwrap_err()).contains("whole"));
        let threat = Threat::new(Norm::L1, 2.0).unwrap();
        assert!(name(threat.bounds(1.0, 1.0).unwrap_err()).starts_with("high = 1"));
        assert!(name(threat.bounds(f64::NAN, 1.0).unwrap_err()).starts_with("low = NaN"));
        assert!(threat.bounds(0.0, f64::INFINITY).is_err());
        let wider = threat.bounds(-2.0, 3.0).unwrap().radius(0.5).unwrap();
        assert_eq!((wider.low(), wider.high(), wider.epsilon(), wider.norm()), (-2.0, 3.0, 0.5, Norm::L1));
        assert!(threat.radius(f64::NAN).is_err());
    }
}
