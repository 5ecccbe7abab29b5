//! The inputs that a threat allows round given ones, and the least value of a linear function over them.

use burn::tensor::Tensor;

use super::array::Array;
use super::ibp::gamma;
use crate::error::{Error, Result};
use crate::threat::{Norm, Threat};

/// The inputs allowed: a ball and a box, and the interval of each element.
#[derive(Clone, Debug)]
pub(crate) struct Region {
    pub centre: Array,
    pub lower: Array,
    pub upper: Array,
    pub norm: Norm,
    pub epsilon: f64,
}

impl Region {
    /// With `unit`, the unit roundoff, the intervals are widened by the rounding of their ends.
    pub fn new<const D: usize>(inputs: &Tensor<D>, threat: &Threat, unit: Option<f64>) -> Result<Self> {
        if inputs.dims().contains(&0) {
            let expected = "at least one example of at least one element".to_string();
            return Err(Error::Shape { what: "inputs", actual: inputs.dims().to_vec(), expected });
        }
        if threat.norm() == Norm::L0 {
            let reason = "certificates know L∞, L2 and L1; smoothing or an attack may serve".to_string();
            return Err(Error::NoBound { operation: "the L0 ball".to_string(), reason });
        }
        let centre = Array::of(inputs.clone());
        threat.inside_box(&centre.detach().values(), inputs.dims()[1..].iter().product())?;
        let (epsilon, [low, high]) = (threat.epsilon(), [threat.low(), threat.high()]);
        let (mut lower, mut upper) = (centre.shift(-epsilon), centre.shift(epsilon));
        let mut limits = [low, high];
        if let Some(unit) = unit {
            let slack = centre.abs().shift(epsilon).scale(4.0 * unit);
            // Zero stays zero, and nothing at all stays nothing.
            if epsilon > 0.0 {
                (lower, upper) = (lower.sub(&slack), upper.add(&slack));
            }
            let exact = |limit: f64| f64::from(limit as f32) == limit;
            limits = [
                if exact(low) { low } else { low - 2.0 * unit * low.abs() },
                if exact(high) { high } else { high + 2.0 * unit * high.abs() },
            ];
        }
        let (lower, upper) = (lower.at_least(limits[0]), upper.at_most(limits[1]));
        Ok(Region { centre, lower, upper, norm: threat.norm(), epsilon })
    }

    /// The least value of `⟨a, x⟩` over the region for every row of `a`, which has `specs` rows an example, those of the first
    /// specification first; with `unit` lowered by the rounding of the sums.
    ///
    /// Exact for `Linf`. For `L2` and `L1` the better of ball and box by themselves.
    pub fn least(&self, a: &Array, specs: usize, unit: Option<f64>) -> Array {
        let examples = self.centre.shape()[0];
        let width = self.centre.elements() / examples;
        let a = a.reshape(&[specs, examples * width]);
        let flat = |x: &Array| x.reshape(&[1, examples * width]);
        let rows = |terms: Array| terms.reshape(&[specs * examples, width]).sum_rows();
        let lowered = |(sum, roundings): (Array, usize), size: &dyn Fn() -> Array| match unit {
            None => sum,
            Some(unit) => sum.sub(&rows(size()).0.scale(2.0 * gamma(roundings + 4, unit))),
        };
        let (plus, minus) = (a.positive(), a.negative());
        let corner = plus.mul(&flat(&self.lower)).add(&minus.mul(&flat(&self.upper)));
        let size = || a.abs().mul(&flat(&self.lower.abs().max(&self.upper.abs())));
        let in_box = lowered(rows(corner), &size);
        if self.norm == Norm::Linf || self.epsilon == 0.0 {
            return in_box;
        }
        let by_row = a.reshape(&[specs * examples, width]);
        let (dual, roundings) = match self.norm {
            Norm::L1 => (by_row.abs().max_axis(1).reshape(&[specs * examples]), 0),
            _ => {
                // Scaled, so that squares neither overflow nor vanish.
                let largest = by_row.abs().max_axis(1).at_least(1e-30);
                let (sum, roundings) = by_row.div(&largest).square().sum_rows();
                (sum.sqrt().mul(&largest.reshape(&[specs * examples])), roundings)
            }
        };
        let reach = self.epsilon * unit.map_or(1.0, |unit| 1.0 + 2.0 * gamma(roundings + 8, unit));
        let at_centre = lowered(rows(a.mul(&flat(&self.centre))), &|| a.abs().mul(&flat(&self.centre.abs())));
        in_box.max(&at_centre.sub(&dual.scale(reach)))
    }
}
