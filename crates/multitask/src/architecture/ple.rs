//! CGC and PLE: some experts for all, others for one task.

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use super::gate::{Gate, SoftmaxGate};
use super::{at_least_one, flat, index_in, mixture};
use crate::model::{Forward, ModelError, Part, Result};

/// One layer of customised gate control: task `i` mixes the shared experts and its own, never those of another task.
///
/// Between layers a shared gate mixes all experts into the shared features of the next.
#[derive(Module, Debug)]
pub struct Extraction<E: Module> {
    /// Experts of all tasks.
    pub shared: Vec<E>,
    /// Experts of each task.
    pub own: Vec<Vec<E>>,
    /// One gate a task, over the shared experts and then its own.
    pub gates: Vec<SoftmaxGate>,
    /// Over the shared experts and then all others; the last layer has none.
    pub shared_gate: Option<SoftmaxGate>,
}

/// Progressive layered extraction: layers of [`Extraction`], the first on the input, each on the one before.
///
/// A single layer is CGC. Layers before the last feed everything through their shared gates, so that only the last layer's own
/// experts and gates belong to their tasks.
///
/// H. Tang, J. Liu, M. Zhao, X. Gong, "Progressive Layered Extraction (PLE): A Novel Multi-Task Learning Model for
/// Personalized Recommendations", RecSys 2020, equations 1 to 7.
///
/// ```
/// use burn::{nn::{LinearConfig, Relu}, tensor::{Device, Tensor}};
/// use multitask::{Forward, architecture::Ple};
///
/// let device = Device::default();
/// let expert = |from| (LinearConfig::new(from, 8).init(&device), Relu::new());
/// // Two tasks, two layers, in each one expert a task and two for all.
/// let layer = |from| (vec![expert(from), expert(from)], vec![vec![expert(from)], vec![expert(from)]], from);
/// let net = Ple::new(vec![layer(5), layer(8)], &device)?;
/// assert_eq!(net.forward(Tensor::<2>::ones([3, 5], &device))[0].dims(), [3, 8]);
/// # Ok::<(), multitask::ModelError>(())
/// ```
#[derive(Module, Debug)]
pub struct Ple<E: Module> {
    /// The layers.
    pub layers: Vec<Extraction<E>>,
}

impl<E: Module> Ple<E> {
    /// Layers as (shared experts, experts of each task, features of an example at the layer's input, flattened: what its gates see).
    ///
    /// # Errors
    /// [`ModelError::Parameter`] without layers, tasks or features, or for a task without any expert; [`ModelError::PerTask`] for
    /// layers of different numbers of tasks.
    #[allow(clippy::type_complexity)]
    pub fn new(layers: Vec<(Vec<E>, Vec<Vec<E>>, usize)>, device: &Device) -> Result<Self> {
        at_least_one("layers", layers.len())?;
        let (tasks, last) = (layers[0].1.len(), layers.len() - 1);
        at_least_one("tasks", tasks)?;
        let build = |(level, (shared, own, features)): (usize, (Vec<E>, Vec<Vec<E>>, usize))| {
            if own.len() != tasks {
                return Err(ModelError::PerTask { what: "a layer", expected: tasks, found: own.len() });
            }
            let gates = own.iter().map(|mine| SoftmaxGate::new(features, shared.len() + mine.len(), device));
            let gates = gates.collect::<Result<_>>()?;
            let all = shared.len() + own.iter().map(Vec::len).sum::<usize>();
            let shared_gate = (level < last).then(|| SoftmaxGate::new(features, all, device)).transpose()?;
            Ok(Extraction { shared, own, gates, shared_gate })
        };
        Ok(Self { layers: layers.into_iter().enumerate().map(build).collect::<Result<_>>()? })
    }

    /// Customised gate control: one layer.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn cgc(shared: Vec<E>, own: Vec<Vec<E>>, features: usize, device: &Device) -> Result<Self> {
        Self::new(vec![(shared, own, features)], device)
    }

    /// Experts and gates of the last layer belong to their tasks.
    pub fn part(&self, path: &str) -> Part {
        let last = path.starts_with("layers.") && index_in(path, 1) == Some(self.layers.len() - 1);
        let kind = path.split('.').nth(2);
        match last && matches!(kind, Some("own" | "gates")) {
            true => index_in(path, 3).map_or(Part::Shared, Part::Task),
            false => Part::Shared,
        }
    }
}

impl<const D: usize, E: Forward<Tensor<D>, Output = Tensor<D>>> Forward<Tensor<D>> for Ple<E> {
    type Output = Vec<Tensor<D>>;

    fn forward(&self, input: Tensor<D>) -> Vec<Tensor<D>> {
        let tasks = self.layers[0].own.len();
        let (mut of_task, mut common) = (vec![input.clone(); tasks], input);
        for layer in &self.layers {
            let shared: Vec<_> = layer.shared.iter().map(|expert| expert.forward(common.clone())).collect();
            let own: Vec<Vec<_>> = layer
                .own
                .iter()
                .zip(&of_task)
                .map(|(experts, x)| experts.iter().map(|expert| expert.forward(x.clone())).collect())
                .collect();
            let mixed = layer.gates.iter().zip(&own).zip(&of_task).map(|((gate, mine), x)| {
                let seen: Vec<_> = shared.iter().chain(mine).cloned().collect();
                mixture(&gate.weights(flat(x.clone())), &seen)
            });
            let mixed = mixed.collect();
            if let Some(gate) = &layer.shared_gate {
                let seen: Vec<_> = shared.iter().chain(own.iter().flatten()).cloned().collect();
                common = mixture(&gate.weights(flat(common)), &seen);
            }
            of_task = mixed;
        }
        of_task
    }
}

#[cfg(test)]
mod tests {
    use super::super::Mmoe;
    use super::super::tests::{assert_near, gradients_reach_everything, linear, random};
    use super::*;
    use burn::nn::{Linear, Tanh};
    use core_tensor::testing::host_devices;

    fn expert(from: usize, device: &Device) -> (Linear, Tanh) {
        (linear(from, 4, device), Tanh::new())
    }

    #[test]
    fn without_own_experts_it_is_mmoe() {
        for device in host_devices() {
            let experts: Vec<_> = (0..3).map(|_| expert(5, &device)).collect();
            let net = Ple::cgc(experts.clone(), vec![vec![], vec![]], 5, &device).unwrap();
            let same = Mmoe::new(experts, net.layers[0].gates.clone()).unwrap();
            let x: Tensor<2> = random([3, 5], &device);
            for (a, b) in net.forward(x.clone()).into_iter().zip(same.forward(x)) {
                assert_near(a, b, 0.0);
            }
        }
    }

    #[test]
    fn a_task_never_sees_the_experts_of_another() {
        let device = Device::flex();
        let own = || vec![vec![expert(5, &device)], vec![expert(5, &device), expert(5, &device)]];
        let net = Ple::cgc(vec![expert(5, &device)], own(), 5, &device).unwrap();
        let mut other = net.clone();
        other.layers[0].own[1] = own().swap_remove(1);
        let x: Tensor<2> = random([3, 5], &device);
        let (a, b) = (net.forward(x.clone()), other.forward(x.clone()));
        assert_near(a[0].clone(), b[0].clone(), 0.0);
        // 3 own experts of two leaves each, and two gates.
        gradients_reach_everything(net, Ple::part, x, 8);
    }

    #[test]
    fn lower_layers_are_shared() {
        let device = Device::flex();
        let layer =
            |from| (vec![expert(from, &device)], vec![vec![expert(from, &device)], vec![expert(from, &device)]], from);
        let net = Ple::new(vec![layer(5), layer(4), layer(4)], &device).unwrap();
        assert!(net.layers[2].shared_gate.is_none());
        gradients_reach_everything(net, Ple::part, random([3, 5], &device), 6);
        assert!(Ple::<Linear>::new(vec![], &device).is_err());
        assert!(Ple::<Linear>::cgc(vec![], vec![vec![]], 4, &device).is_err());
        let mut uneven = layer(4);
        uneven.1.pop();
        assert!(Ple::new(vec![layer(5), uneven], &device).is_err());
    }
}
