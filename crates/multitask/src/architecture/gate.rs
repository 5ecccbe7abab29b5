//! Gates: how much of each expert an example gets.

use burn::module::{Module, ModuleDisplay};
use burn::nn::{Linear, LinearConfig};
use burn::tensor::activation::softmax;
use burn::tensor::{Device, Tensor};

use super::at_least_one;
use crate::model::Result;

/// Weights of experts for each example: not negative, with sum 1.
pub trait Gate: Module + ModuleDisplay {
    /// `[examples, experts]` from what the gate looks at, `[examples, features]`.
    fn weights(&self, input: Tensor<2>) -> Tensor<2>;
}

/// `softmax(W·x)`: every expert, more or less.
#[derive(Module, Debug)]
pub struct SoftmaxGate {
    /// `W`
    pub linear: Linear,
}

impl SoftmaxGate {
    /// Of so many features, for so many experts.
    ///
    /// # Errors
    /// [`ModelError::Parameter`](crate::ModelError::Parameter) if there are none of one.
    pub fn new(features: usize, experts: usize, device: &Device) -> Result<Self> {
        at_least_one("features", features)?;
        at_least_one("experts", experts)?;
        Ok(Self { linear: LinearConfig::new(features, experts).with_bias(false).init(device) })
    }
}

impl Gate for SoftmaxGate {
    fn weights(&self, input: Tensor<2>) -> Tensor<2> {
        softmax(self.linear.forward(input), 1)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::tests::{random, values};
    use super::*;

    /// Rows are not negative and sum to one.
    pub fn is_a_gate(gate: &impl Gate, features: usize, experts: usize, device: &Device) {
        let weights = gate.weights(random([9, features], device) * 3.0);
        assert_eq!(weights.dims(), [9, experts]);
        for row in values(weights).chunks(experts) {
            assert!(row.iter().all(|w| *w >= 0.0), "{row:?}");
            assert!((row.iter().sum::<f64>() - 1.0).abs() < 1e-5, "{row:?}");
        }
    }

    #[test]
    fn softmax_gates_sum_to_one() {
        let device = Device::flex();
        is_a_gate(&SoftmaxGate::new(4, 5, &device).unwrap(), 4, 5, &device);
        assert!(SoftmaxGate::new(4, 0, &device).is_err());
    }
}
