//! Hyper-parameters that stay where they make sense: positive, within an interval, on a simplex.
//!
//! The outer variable holds unconstrained *raw* numbers; a [`Domain`] maps them to values, inside the objectives or an
//! [`Update`](crate::Update), so that a hypergradient step can never leave the domain and its derivative is exact.
//!
//! | hyper-parameter | domain | put to use by |
//! |---|---|---|
//! | learning rate: global, per step, per group | [`Domain::Positive`] | [`Setting::within`](crate::update::Setting::within) in an update |
//! | momentum | [`Domain::unit`] | the same |
//! | weight decay: global, per layer, per feature | [`Domain::Positive`] | [`weight_decay`] in the inner objective, or an update's own |
//! | loss weights | [`Domain::Simplex`] | [`weighted`] |
//! | augmentation strength | [`Domain::unit`] | [`augment`] |
//! | label smoothing | [`Domain::unit`] | [`label_smoothing`] |
//!
//! ```
//! use bilevel::parameterise::{Domain, weighted};
//! use burn::tensor::{Device, Tensor};
//! # fn main() -> bilevel::Result<()> {
//! let raw = Domain::Simplex.to_raw(&[0.2, 0.3, 0.5])?;
//! let raw = Tensor::<1>::from_data([raw[0] as f32, raw[1] as f32, raw[2] as f32], &Device::default());
//! let losses = Tensor::<1>::from_data([1.0f32, 2.0, 4.0], &raw.device());
//! let loss = weighted(losses, Domain::Simplex.map(raw)).into_scalar::<f32>();
//! assert!((loss - 2.8).abs() < 1e-6);
//! assert!(Domain::Positive.to_raw(&[0.0]).is_err());
//! # Ok(()) }
//! ```

use burn::tensor::{Tensor, activation};
use core_tensor::Tree;

use crate::error::{Error, Result, refuse};
use crate::update::Setting;

/// A set of values and the smooth map onto it from unconstrained numbers.
///
/// | domain | value of raw `r` | derivative |
/// |---|---|---|
/// | `Real` | `r` | 1 |
/// | `Positive` | `eʳ`: equal steps are equal ratios | `eʳ` |
/// | `Softplus` | `ln(1 + eʳ)`: positive, and linear where large | `σ(r)` |
/// | `Interval` | `low + (high − low)·σ(r)` | `(high − low)·σ(r)(1 − σ(r))` |
/// | `Simplex` | `softmax(r)` over the whole leaf: positive with sum 1 | `diag(p) − ppᵀ` |
///
/// Guarantees: values of finite raw numbers lie in the closed domain, [`to_raw`](Self::to_raw) inverts [`to_value`](Self::to_value) (up to a constant
/// for the simplex), and the recorded first and second derivatives are those of the table (tests `values_lie_in_the_domain_and_invert`,
/// `recorded_derivatives_are_exact`).
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Domain {
    /// All numbers.
    Real,
    /// Positive numbers, by the exponential.
    Positive,
    /// Positive numbers, by the softplus.
    Softplus,
    /// An open interval, by the logistic function. Built and checked by [`Domain::interval`].
    #[non_exhaustive]
    Interval {
        /// Lower bound.
        low: f64,
        /// Upper bound.
        high: f64,
    },
    /// Positive numbers with sum one, by the softmax.
    Simplex,
}

impl Domain {
    /// The interval `(low, high)`.
    ///
    /// # Errors
    /// A parameter error unless both are finite and `low < high`.
    pub fn interval(low: f64, high: f64) -> Result<Self> {
        if !low.is_finite() {
            return refuse("low", low, "a finite number");
        }
        match high.is_finite() && high > low {
            true => Ok(Self::Interval { low, high }),
            false => refuse("high", high, "low < high < inf"),
        }
    }

    /// The interval `(0, 1)`.
    pub fn unit() -> Self {
        Self::Interval { low: 0.0, high: 1.0 }
    }

    /// The values of a leaf of raw numbers, as recorded operations.
    pub fn map(self, raw: Tensor<1>) -> Tensor<1> {
        match self {
            Self::Real => raw,
            Self::Positive => raw.exp(),
            Self::Softplus => activation::softplus(raw, 1.0),
            Self::Interval { low, high } => {
                let unit = activation::sigmoid(raw);
                if low == 0.0 && high == 1.0 { unit } else { unit * (high - low) + low }
            }
            Self::Simplex => activation::softmax(raw, 0),
        }
    }

    /// The values of raw numbers, on the host.
    ///
    /// # Errors
    /// A parameter error for a raw number that is not finite, or a simplex of fewer than two.
    pub fn to_value(self, raw: &[f64]) -> Result<Vec<f64>> {
        self.check_length(raw.len())?;
        if let Some(bad) = raw.iter().find(|raw| !raw.is_finite()) {
            return refuse("raw", *bad, "a finite number");
        }
        let each = |of: &dyn Fn(f64) -> f64| Ok(raw.iter().map(|raw| of(*raw)).collect());
        match self {
            Self::Real => Ok(raw.to_vec()),
            Self::Positive => each(&f64::exp),
            Self::Softplus => each(&|raw| raw.max(0.0) + (-raw.abs()).exp().ln_1p()),
            Self::Interval { low, high } => each(&|raw| low + (high - low) / (1.0 + (-raw).exp())),
            Self::Simplex => {
                let largest = raw.iter().fold(f64::NEG_INFINITY, |max, raw| max.max(*raw));
                let powers: Vec<f64> = raw.iter().map(|raw| (raw - largest).exp()).collect();
                let sum: f64 = powers.iter().sum();
                Ok(powers.into_iter().map(|power| power / sum).collect())
            }
        }
    }

    /// Raw numbers that have these values. For the simplex those with mean zero.
    ///
    /// # Errors
    /// A parameter error for a value outside the open domain or NaN; a simplex of fewer than two, or whose sum is not 1 within 1e-6.
    pub fn to_raw(self, values: &[f64]) -> Result<Vec<f64>> {
        self.check_length(values.len())?;
        let bound = match self {
            Self::Real => "a finite number",
            Self::Positive | Self::Softplus => "0 < value < inf",
            Self::Interval { .. } => "low < value < high",
            Self::Simplex => "0 < value < 1, with sum 1",
        };
        let (low, high) = match self {
            Self::Real => (f64::NEG_INFINITY, f64::INFINITY),
            Self::Positive | Self::Softplus => (0.0, f64::INFINITY),
            Self::Interval { low, high } => (low, high),
            Self::Simplex => (0.0, 1.0),
        };
        if let Some(bad) = values.iter().find(|value| !(**value > low && **value < high)) {
            return refuse("value", *bad, bound);
        }
        let each = |of: &dyn Fn(f64) -> f64| Ok(values.iter().map(|value| of(*value)).collect());
        match self {
            Self::Real => Ok(values.to_vec()),
            Self::Positive => each(&f64::ln),
            // r = v + ln(1 − e⁻ᵛ).
            Self::Softplus => each(&|value| value + (-(-value).exp_m1()).ln()),
            Self::Interval { low, high } => each(&|value| (value - low).ln() - (high - value).ln()),
            Self::Simplex => {
                let sum: f64 = values.iter().sum();
                if !((sum - 1.0).abs() <= 1e-6) {
                    return refuse("sum of the simplex", sum, "1, within 1e-6");
                }
                let mean = values.iter().map(|value| value.ln()).sum::<f64>() / values.len() as f64;
                each(&|value| value.ln() - mean)
            }
        }
    }

    /// The only simplex of one number is 1, whose derivative is a silent zero.
    fn check_length(self, length: usize) -> Result<()> {
        match self == Self::Simplex && length < 2 {
            true => Err(Error::Core(core_tensor::Error::Length { what: "a simplex", expected: 2, actual: length })),
            false => Ok(()),
        }
    }
}

/// `½·Σᵢ λᵢzᵢ²` with a decay that is fixed or learned: global, per group ([`Setting::per_leaf`]), per feature ([`Setting::per_feature`]) or per
/// element. To be added to an inner objective.
///
/// # Errors
/// A leaf that is not in `x`, or has another shape; an empty `z`.
pub fn weight_decay(decay: &Setting, x: &Tree, z: &Tree) -> core_tensor::Result<Tensor<1>> {
    let mut step = None;
    let squares = z.clone().map_flat(|_, leaf| {
        step.get_or_insert_with(|| Tensor::zeros([1], (&leaf.device(), leaf.dtype())));
        leaf.square() * 0.5
    })?;
    let empty = core_tensor::Error::Length { what: "the inner variable", expected: 1, actual: 0 };
    let step = step.ok_or(empty)?;
    let mut sum: Option<Tensor<1>> = None;
    decay.times(x, squares, &step)?.map_flat(|_, leaf| {
        let part = leaf.clone().sum();
        sum = Some(match sum.take() {
            None => part,
            Some(sum) => sum + part,
        });
        leaf
    })?;
    Ok(sum.expect("z has a leaf"))
}

/// `Σᵢ wᵢLᵢ` of as many weights as losses, shape `[1]`.
pub fn weighted(losses: Tensor<1>, weights: Tensor<1>) -> Tensor<1> {
    (losses * weights).sum()
}

/// `(1 − ε)·y + ε/classes` for one-hot rows `y` and a smoothing `ε` of shape `[1]`. C. Szegedy et al., "Rethinking the inception
/// architecture", 2016 (arXiv:1512.00567), section 7.
pub fn label_smoothing(hot: Tensor<2>, epsilon: Tensor<1>) -> Tensor<2> {
    let classes = hot.dims()[1] as f64;
    let epsilon = epsilon.unsqueeze_dim::<2>(0);
    hot.clone() - (hot - 1.0 / classes) * epsilon
}

/// `a + s·(b − a)`: an input moved towards an augmented copy of it by a strength `s` of shape `[1]`. With `b = a + noise` the strength is the
/// noise's standard deviation. The copy comes with the batch, as recorded functions draw nothing new.
pub fn augment<const D: usize>(input: Tensor<D>, changed: Tensor<D>, strength: Tensor<1>) -> Tensor<D> {
    let strength = strength.reshape([1; D]);
    input.clone() + (changed - input) * strength
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::*;
    use core_tensor::Program;
    use core_tensor::testing::{assert_close, property};

    fn domains() -> Vec<Domain> {
        let interval = Domain::interval(-0.5, 2.0).unwrap();
        vec![Domain::Real, Domain::Positive, Domain::Softplus, interval, Domain::unit(), Domain::Simplex]
    }

    #[test]
    fn values_lie_in_the_domain_and_invert() {
        property(64, proptest::collection::vec(-12.0f64..12.0, 2..6), |raw| {
            for domain in domains() {
                let value = domain.to_value(&raw).unwrap();
                let again = domain.to_value(&domain.to_raw(&value).unwrap()).unwrap();
                for (value, again) in value.iter().zip(&again) {
                    let inside = match domain {
                        Domain::Positive | Domain::Softplus => *value > 0.0,
                        Domain::Interval { low, high } => *value > low && *value < high,
                        Domain::Simplex => *value > 0.0 && *value < 1.0,
                        Domain::Real => true,
                    };
                    assert!(
                        inside && (value - again).abs() <= 1e-9 * value.abs().max(1e-3),
                        "{domain:?} {value} {again}"
                    );
                }
                if domain == Domain::Simplex {
                    assert!((value.iter().sum::<f64>() - 1.0).abs() < 1e-14);
                }
                let recorded = domain.map(tensor([raw.len()], raw.clone()));
                assert_close(&leaf("v", &value), &Tree::empty().push("v", recorded).unwrap(), 1e-9 * 2e5);
            }
        });
        // Far out nothing overflows on the host.
        assert_eq!(Domain::Softplus.to_value(&[800.0, -800.0]).unwrap(), [800.0, 0.0]);
        assert_eq!(Domain::unit().to_value(&[800.0, -800.0]).unwrap(), [1.0, 0.0]);
        assert_eq!(Domain::Simplex.to_value(&[800.0, -800.0]).unwrap(), [1.0, 0.0]);
    }

    /// The gradient and the Hessian along a direction of `Σ cᵢ·value(r)ᵢ`.
    #[test]
    fn recorded_derivatives_are_exact() {
        let (raw, c, u) = ([-1.3, 0.4, 2.1], [0.7, -1.1, 0.3], [0.5, -0.2, 1.4]);
        let sigma = |r: f64| 1.0 / (1.0 + (-r).exp());
        for domain in domains() {
            let point = leaf("r", &raw);
            let weights = tensor([3], c.to_vec());
            let program = Program::record_tree(&point, &weights, move |point, c| {
                (domain.map(point.get::<1>("r").unwrap()) * c.clone()).sum()
            })
            .unwrap();
            let out = program.jvp(&point, &weights, &leaf("r", &u)).unwrap();
            let bend = |first: &dyn Fn(f64) -> f64, second: &dyn Fn(f64) -> f64| {
                let gradient: Vec<f64> = (0..3).map(|i| c[i] * first(raw[i])).collect();
                let hessian: Vec<f64> = (0..3).map(|i| c[i] * second(raw[i]) * u[i]).collect();
                (gradient, hessian)
            };
            let slope = |r: f64| sigma(r) * (1.0 - sigma(r));
            let curve = |r: f64| slope(r) * (1.0 - 2.0 * sigma(r));
            let (gradient, hessian) = match domain {
                Domain::Real => bend(&|_| 1.0, &|_| 0.0),
                Domain::Positive => bend(&f64::exp, &f64::exp),
                Domain::Softplus => bend(&sigma, &slope),
                Domain::Interval { low, high } => bend(&|r| (high - low) * slope(r), &|r| (high - low) * curve(r)),
                Domain::Simplex => {
                    let p = Domain::Simplex.to_value(&raw).unwrap();
                    let mean = |v: &[f64]| -> f64 { p.iter().zip(v).map(|(p, v)| p * v).sum() };
                    let jacobian = |v: &[f64]| -> Vec<f64> { (0..3).map(|i| p[i] * (v[i] - mean(v))).collect() };
                    let (dp, average) = (jacobian(&u), mean(&c));
                    let change: f64 = dp.iter().zip(&c).map(|(dp, c)| dp * c).sum();
                    (jacobian(&c), (0..3).map(|i| dp[i] * (c[i] - average) - p[i] * change).collect())
                }
            };
            assert_close(&out.gradient, &leaf("r", &gradient), 1e-13);
            assert_close(&out.hessian_vector, &leaf("r", &hessian), 1e-13);
        }
    }

    #[test]
    fn bad_input_is_named() {
        for (domain, bad) in [
            (Domain::Real, vec![f64::INFINITY]),
            (Domain::Positive, vec![0.0]),
            (Domain::Positive, vec![f64::NAN]),
            (Domain::Softplus, vec![-1.0]),
            (Domain::Softplus, vec![f64::INFINITY]),
            (Domain::unit(), vec![1.0]),
            (Domain::unit(), vec![f64::NAN]),
            (Domain::Simplex, vec![0.5, 0.4]),
            (Domain::Simplex, vec![1.0, 0.0]),
            (Domain::Simplex, vec![1.0]),
        ] {
            assert!(domain.to_raw(&bad).is_err(), "{domain:?} {bad:?}");
        }
        for domain in domains() {
            assert!(domain.to_value(&[f64::NAN, 0.0]).is_err() && domain.to_value(&[0.0, f64::INFINITY]).is_err());
        }
        let error = Domain::Positive.to_raw(&[-2.0]).unwrap_err().to_string();
        assert_eq!(error, "value = -2 is out of range, expected 0 < value < inf");
        assert!(Domain::interval(1.0, 1.0).is_err() && Domain::interval(f64::NAN, 1.0).is_err());
        assert!(Domain::interval(0.0, f64::NAN).is_err() && Domain::interval(0.0, f64::INFINITY).is_err());
        let step = Setting::leaf("missing");
        assert!(weight_decay(&step, &Tree::empty(), &leaf("z", &[1.0])).is_err());
        assert!(weight_decay(&Setting::fixed(1.0), &Tree::empty(), &Tree::empty()).is_err());
    }

    #[test]
    fn helpers_by_hand() {
        let read = |t: Tensor<1>| t.into_data().iter::<f64>().collect::<Vec<_>>();
        let hot = tensor([2, 2], vec![1.0, 0.0, 0.0, 1.0]);
        let smooth = label_smoothing(hot.clone(), tensor([1], vec![0.2]));
        assert_eq!(read(smooth.reshape([4])), [0.9, 0.1, 0.1, 0.9]);
        let moved = augment(hot.clone(), hot * 3.0, tensor([1], vec![0.5]));
        assert_eq!(read(moved.reshape([4])), [2.0, 0.0, 0.0, 2.0]);
        assert_eq!(read(weighted(tensor([2], vec![1.0, 4.0]), tensor([2], vec![0.5, 0.25]))), [1.5]);
        // Decays: one number, one a leaf, one a row.
        let z = Tree::empty()
            .push("w", tensor([2, 3], vec![1.0, 1.0, 1.0, 2.0, 0.0, 0.0]))
            .and_then(|z| z.push("b", tensor([2], vec![1.0, 3.0])))
            .unwrap();
        let x = ["all", "of/w", "of/b"].iter().zip([[2.0f64].to_vec(), vec![1.0, 10.0], vec![100.0, 1000.0]]);
        let x = x.fold(Tree::empty(), |x, (name, values)| x.merge(leaf(name, &values)).unwrap());
        let decay = |setting: Setting| read(weight_decay(&setting, &x, &z).unwrap())[0];
        assert_eq!(decay(Setting::fixed(2.0)), 17.0);
        assert_eq!(decay(Setting::leaf("all")), 17.0);
        assert_eq!(decay(Setting::per_leaf(|_| "all".into())), 17.0);
        assert_eq!(decay(Setting::per_feature("of")), 0.5 * (3.0 + 40.0 + 100.0 + 9000.0));
    }
}
