//! How tasks share a network: architectures over any Burn backbone.
//!
//! Each is a [`Forward`] module whose output is a `Vec` with the features of every task; a head takes its own with [`OfTask`].
//! Stages, experts and backbones are any modules with [`Forward`]; stages of different kinds are an enum of yours.
//!
//! | | shares | a task has of its own |
//! |---|---|---|
//! | [`HardSharing`] | one body | nothing but its head |
//! | [`CrossStitch`] | linear mixtures of the networks' features, stage by stage | a network |
//! | [`Sluice`] | mixtures of halves of the features, and of stages | a network |
//! | [`Nddr`] | 1 × 1 convolutions over all networks' features | a network |
//! | [`Mmoe`] | experts | a gate: [`SoftmaxGate`], or sparse [`DSelectK`] |
//! | [`Ple`] | some experts, others not; one layer of it is CGC | experts and a gate |
//! | [`Mtan`] | one convolutional network | attention to its features |
//!
//! ```
//! use burn::{nn::{LinearConfig, Relu}, tensor::{Device, Tensor}};
//! use core_tensor::Tree;
//! use multitask::{MultiTask, TaskProgram, architecture::{Mmoe, OfTask}};
//! # fn main() -> multitask::ModelResult<()> {
//! let device = Device::default();
//! let linear = |from, to| LinearConfig::new(from, to).init(&device);
//! let experts = (0..4).map(|_| (linear(6, 8), Relu::new())).collect();
//! let loss = |out: Tensor<2>, y: &Tensor<2>| (out - y.clone()).square().mean();
//! let net = MultiTask::new(Mmoe::softmax(experts, 2, 6, &device)?)
//!     .parts_of_body(Mmoe::part)
//!     .head("click", OfTask::new(0, linear(8, 1)), loss)
//!     .head("buy", OfTask::new(1, linear(8, 1)), loss);
//! let batch = (Tensor::<2>::ones([3, 6], &device), Tensor::<2>::ones([3, 1], &device));
//! let gradients = TaskProgram::record(&net, &batch)?.gradients(&Tree::from_module(&net), &batch)?;
//! assert_eq!(gradients.own.len(), 2 + 2 * 2); // the gates, and the heads' weights and biases
//! # Ok(()) }
//! ```

mod cross_stitch;
mod dselect_k;
mod gate;
mod hard_sharing;
mod mmoe;
mod mtan;
mod nddr;
mod ple;
mod sluice;

use burn::module::{Module, ModuleDisplay};
use burn::tensor::Tensor;

use crate::model::{Forward, ModelError, Part, Result};

pub use cross_stitch::{CrossStitch, CrossStitchUnit};
pub use dselect_k::DSelectK;
pub use gate::{Gate, SoftmaxGate};
pub use hard_sharing::HardSharing;
pub use mmoe::Mmoe;
pub use mtan::{Attention, Mtan};
pub use nddr::Nddr;
pub use ple::{Extraction, Ple};
pub use sluice::{Sluice, StageWeight};

/// A head that takes the features of one task out of those of all.
#[derive(Module, Debug)]
pub struct OfTask<H: Module> {
    head: H,
    task: usize,
}

impl<H: Module> OfTask<H> {
    /// The head of a task.
    pub fn new(task: usize, head: H) -> Self {
        Self { head, task }
    }
}

impl<Z: Clone, H: Forward<Z> + ModuleDisplay> Forward<Vec<Z>> for OfTask<H> {
    type Output = H::Output;

    /// # Panics
    /// If the architecture has no such task.
    fn forward(&self, features: Vec<Z>) -> Self::Output {
        self.head.forward(features[self.task].clone())
    }
}

/// The number at a place of a path: `2` at 1 of `stages.2.weight`.
fn index_in(path: &str, place: usize) -> Option<usize> {
    path.split('.').nth(place)?.parse().ok()
}

/// The part of `prefix.TASK.…`, shared for all other paths.
fn part_under(path: &str, prefix: &str) -> Part {
    match path.split('.').next() == Some(prefix) {
        true => index_in(path, 1).map_or(Part::Shared, Part::Task),
        false => Part::Shared,
    }
}

/// A factor for each example and feature map: `[n]` against `[n, …]`.
fn along_examples<const D: usize>(weights: Tensor<2>, expert: usize) -> Tensor<D> {
    let examples = weights.dims()[0];
    let mut shape = [1; D];
    shape[0] = examples;
    weights.slice_dim(1, expert).reshape(shape)
}

/// `Σₑ wₑ·outputₑ` with weights `[n, experts]`.
fn mixture<const D: usize>(weights: &Tensor<2>, outputs: &[Tensor<D>]) -> Tensor<D> {
    let mut terms = outputs.iter().enumerate().map(|(e, out)| out.clone() * along_examples::<D>(weights.clone(), e));
    let first = terms.next().expect("a mixture has an expert");
    terms.fold(first, |sum, term| sum + term)
}

/// All axes but the first as one: what gates look at.
fn flat<const D: usize>(input: Tensor<D>) -> Tensor<2> {
    let dims = input.dims();
    input.reshape([dims[0] as i64, dims[1..].iter().product::<usize>() as i64])
}

fn at_least_one(parameter: &'static str, count: usize) -> Result<()> {
    match count {
        0 => Err(ModelError::parameter(parameter, 0.0, "at least 1")),
        _ => Ok(()),
    }
}

/// Checks that a table of stages has the same number of tasks everywhere and gives it.
fn tasks_of<S>(stages: &[Vec<S>]) -> Result<usize> {
    at_least_one("stages", stages.len())?;
    let tasks = stages[0].len();
    at_least_one("tasks", tasks)?;
    match stages.iter().find(|stage| stage.len() != tasks) {
        Some(other) => Err(ModelError::PerTask { what: "a stage", expected: tasks, found: other.len() }),
        None => Ok(tasks),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::{MultiTask, TaskProgram};
    use burn::nn::{Linear, LinearConfig};
    use burn::tensor::{Device, Distribution};
    use core_tensor::Tree;
    use core_tensor::testing::host_devices;

    pub(super) fn linear(from: usize, to: usize, device: &Device) -> Linear {
        LinearConfig::new(from, to).init(device)
    }

    pub(super) fn random<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
        Tensor::random(shape, Distribution::Normal(0.0, 1.0), device)
    }

    pub(super) fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f64> {
        tensor.into_data().iter::<f64>().collect()
    }

    pub(super) fn assert_near<const D: usize>(left: Tensor<D>, right: Tensor<D>, tolerance: f64) {
        assert_eq!(left.dims(), right.dims());
        let (left, right) = (values(left), values(right));
        for (a, b) in left.iter().zip(&right) {
            assert!((a - b).abs() <= tolerance, "{a} and {b}");
        }
    }

    /// With two tasks: every parameter gets a gradient, and those of tasks only their own.
    pub(super) fn gradients_reach_everything<B, const I: usize, const D: usize>(
        body: B,
        parts: impl Fn(&B, &str) -> Part,
        input: Tensor<I>,
        own: usize,
    ) where
        B: Forward<Tensor<I>, Output = Vec<Tensor<D>>> + ModuleDisplay + Sync + 'static,
    {
        let loss = |z: Tensor<D>, y: &Tensor<1>| (z.square().sum() / 7.0 - y.clone()).square();
        let net = MultiTask::new(body)
            .parts_of_body(parts)
            .head("a", OfTask::new(0, burn::nn::Tanh::new()), loss)
            .head("b", OfTask::new(1, burn::nn::Gelu::new()), loss);
        let y = Tensor::<1>::from_data([0.3], &input.device());
        let batch = (input, y);
        let program = TaskProgram::record(&net, &batch).unwrap();
        let point = Tree::from_module(&net);
        let gradients = program.gradients(&point, &batch).unwrap();
        assert_eq!(gradients.own.len(), own);
        let sum = gradients.combination(&[1.0, 1.0]).unwrap();
        let all = gradients.assemble(sum, None).unwrap();
        assert_eq!(all.names(), point.names(), "every leaf has a gradient");
        for ((name, _), norm) in all.iter().zip(all.leaf_norms()) {
            assert!(norm.value() > 0.0 && norm.value().is_finite(), "{name}: {}", norm.value());
        }
    }

    #[test]
    fn mixtures_are_sums_example_by_example() {
        for device in host_devices() {
            let weights = Tensor::<2>::from_data([[0.25, 0.75], [1.0, 0.0]], &device);
            let outputs = [Tensor::<3>::ones([2, 1, 3], &device), Tensor::<3>::ones([2, 1, 3], &device) * 5.0];
            assert_eq!(values(mixture(&weights, &outputs)), [4.0, 4.0, 4.0, 1.0, 1.0, 1.0]);
        }
    }
}
