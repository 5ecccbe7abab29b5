//! MMoE: experts shared by all tasks, a gate for each.

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use super::gate::{Gate, SoftmaxGate};
use super::{at_least_one, flat, mixture, part_under};
use crate::model::{Forward, Part, Result};

/// Multi-gate mixture of experts: the features of task `i` are `Σₑ gᵢ(x)ₑ·fₑ(x)`.
///
/// Gates look at the input itself, flattened. The one-gate mixture (OMoE) is one gate given to all tasks by hand; a sparse one is
/// [`DSelectK`](super::DSelectK). An expert a task does not use gets no gradient from it, so the tasks' rows differ where they
/// should.
///
/// J. Ma, Z. Zhao, X. Yi, J. Chen, L. Hong, E. Chi, "Modeling Task Relationships in Multi-task Learning with Multi-gate
/// Mixture-of-Experts", KDD 2018, equations 6 and 7.
///
/// ```
/// use burn::{nn::{LinearConfig, Relu}, tensor::{Device, Tensor}};
/// use multitask::{Forward, architecture::{DSelectK, Mmoe}};
///
/// let device = Device::default();
/// let experts = || (0..4).map(|_| (LinearConfig::new(6, 8).init(&device), Relu::new())).collect();
/// let soft = Mmoe::softmax(experts(), 2, 6, &device)?;
/// let sparse = Mmoe::new(experts(), vec![DSelectK::new(4, 2, 0, &device)?, DSelectK::new(4, 2, 1, &device)?])?;
/// assert_eq!(soft.forward(Tensor::<2>::ones([3, 6], &device))[1].dims(), [3, 8]);
/// # let _ = sparse;
/// # Ok::<(), multitask::ModelError>(())
/// ```
#[derive(Module, Debug)]
pub struct Mmoe<E: Module, G: Module> {
    /// The experts, which all tasks share.
    pub experts: Vec<E>,
    /// One gate a task.
    pub gates: Vec<G>,
}

impl<E: Module> Mmoe<E, SoftmaxGate> {
    /// A softmax gate of `features` inputs for each of `tasks`.
    ///
    /// # Errors
    /// [`ModelError::Parameter`](crate::ModelError::Parameter) without experts, tasks or features.
    pub fn softmax(experts: Vec<E>, tasks: usize, features: usize, device: &Device) -> Result<Self> {
        let gates = (0..tasks).map(|_| SoftmaxGate::new(features, experts.len(), device));
        let gates = gates.collect::<Result<_>>()?;
        Self::new(experts, gates)
    }
}

impl<E: Module, G: Module> Mmoe<E, G> {
    /// Experts, and a gate for each task.
    ///
    /// # Errors
    /// [`ModelError::Parameter`](crate::ModelError::Parameter) without experts or tasks.
    pub fn new(experts: Vec<E>, gates: Vec<G>) -> Result<Self> {
        at_least_one("experts", experts.len())?;
        at_least_one("tasks", gates.len())?;
        Ok(Self { experts, gates })
    }

    /// Gates belong to their tasks.
    pub fn part(&self, path: &str) -> Part {
        part_under(path, "gates")
    }
}

impl<const I: usize, const D: usize, E, G> Forward<Tensor<I>> for Mmoe<E, G>
where
    E: Forward<Tensor<I>, Output = Tensor<D>>,
    G: Gate,
{
    type Output = Vec<Tensor<D>>;

    fn forward(&self, input: Tensor<I>) -> Vec<Tensor<D>> {
        let outputs: Vec<_> = self.experts.iter().map(|expert| expert.forward(input.clone())).collect();
        let seen = flat(input);
        self.gates.iter().map(|gate| mixture(&gate.weights(seen.clone()), &outputs)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::DSelectK;
    use super::super::tests::{assert_near, gradients_reach_everything, linear, random};
    use super::*;
    use burn::module::Param;
    use burn::nn::conv::Conv2dConfig;
    use burn::nn::{Linear, Tanh};
    use core_tensor::testing::host_devices;

    fn experts(device: &Device) -> Vec<(Linear, Tanh)> {
        (0..3).map(|_| (linear(4, 5, device), Tanh::new())).collect()
    }

    #[test]
    fn indifferent_gates_give_the_mean_and_decided_ones_an_expert() {
        for device in host_devices() {
            let mut net = Mmoe::softmax(experts(&device), 2, 4, &device).unwrap();
            net.gates[0].linear.weight = Param::from_tensor(Tensor::zeros([4, 3], &device));
            let x: Tensor<2> = random([6, 4], &device);
            let outputs: Vec<_> = net.experts.iter().map(|expert| expert.forward(x.clone())).collect();
            let mean = (outputs[0].clone() + outputs[1].clone() + outputs[2].clone()) / 3.0;
            assert_near(net.forward(x.clone())[0].clone(), mean, 1e-6);
            let ones = Tensor::<2>::ones([6, 4], &device);
            let only = Tensor::<2>::from_data([[0.0, 0.0, 50.0]], &device).repeat_dim(0, 4);
            net.gates[1].linear.weight = Param::from_tensor(only);
            assert_near(net.forward(ones.clone())[1].clone(), net.experts[2].forward(ones), 1e-6);
        }
    }

    #[test]
    fn experts_are_shared_and_gates_are_not() {
        let device = Device::flex();
        let net = Mmoe::softmax(experts(&device), 2, 4, &device).unwrap();
        gradients_reach_everything(net, Mmoe::part, random([6, 4], &device), 2);
        let gates = (0..2).map(|seed| DSelectK::new(3, 2, seed, &device)).collect::<Result<Vec<_>>>().unwrap();
        gradients_reach_everything(Mmoe::new(experts(&device), gates).unwrap(), Mmoe::part, random([6, 4], &device), 4);
        let gates = (0..2).map(|_| DSelectK::per_example(4, 3, 2, &device).map(|gate| gate.with_gamma(9.0).unwrap()));
        let gates = gates.collect::<Result<Vec<_>>>().unwrap();
        gradients_reach_everything(Mmoe::new(experts(&device), gates).unwrap(), Mmoe::part, random([6, 4], &device), 8);
        assert!(Mmoe::softmax(Vec::<Linear>::new(), 2, 4, &device).is_err());
        assert!(Mmoe::softmax(experts(&device), 0, 4, &device).is_err());
    }

    #[test]
    fn experts_may_be_convolutions() {
        let device = Device::flex();
        let experts = (0..2).map(|_| Conv2dConfig::new([1, 2], [3, 3]).init(&device)).collect();
        let net = Mmoe::softmax(experts, 2, 25, &device).unwrap();
        let x = random([3, 1, 5, 5], &device);
        assert_eq!(net.forward(x.clone())[0].dims(), [3, 2, 3, 3]);
        gradients_reach_everything(net, Mmoe::part, x, 2);
    }
}
