//! Sluice networks: which subspaces, and which stages, a task takes from which.

use burn::module::{Module, Param};
use burn::nn::Linear;
use burn::nn::conv::Conv2d;
use burn::tensor::{Device, Tensor};

use super::cross_stitch::CrossStitchUnit;
use super::tasks_of;
use crate::model::{Forward, Result};

/// A network a task; after every stage the features are cut into two subspaces each, and the subspaces of all tasks are mixed;
/// a task's features are a mixture of what it had after every stage.
///
/// `α` (one unit a stage) mixes the `2m` subspaces, `β` (`[tasks, stages]`) the stages: hard sharing, cross-stitch, low supervision
/// and private subspaces are all special values, and both are learned. All stages give features of one shape with an even number
/// of channels. [`orthogonality`](Self::orthogonality) is the penalty that keeps the two subspaces of a stage apart; add it to the
/// losses with a small factor.
///
/// S. Ruder, J. Bingel, I. Augenstein, A. Søgaard, "Latent Multi-task Architecture Learning", AAAI 2019, arXiv:1705.08142,
/// equations 3 to 5. The paper's `β` starts at the last stage or evenly; here at the last one, so that `own = 1` is separate
/// networks.
///
/// ```
/// use burn::{nn::{LinearConfig, Tanh}, tensor::{Device, Tensor}};
/// use multitask::{Forward, architecture::Sluice};
///
/// let device = Device::default();
/// let stage = |from| (0..2).map(|_| (LinearConfig::new(from, 8).init(&device), Tanh::new())).collect();
/// let net = Sluice::new(vec![stage(3), stage(8)], 0.9, &device)?;
/// assert_eq!(net.forward(Tensor::<2>::ones([5, 3], &device))[1].dims(), [5, 8]);
/// assert!(net.orthogonality().into_scalar::<f32>() >= 0.0);
/// # Ok::<(), multitask::ModelError>(())
/// ```
#[derive(Module, Debug)]
pub struct Sluice<S: Module> {
    /// By stage, then by task.
    pub stages: Vec<Vec<S>>,
    /// `α` after each stage, over subspaces in the order task 0 first, task 0 second, task 1 first, …
    pub units: Vec<CrossStitchUnit>,
    /// `β`, `[tasks, stages]`.
    pub beta: Param<Tensor<2>>,
}

/// A stage whose weight can be cut into subspaces: one column an output channel.
pub trait StageWeight {
    /// `[inputs, channels]`
    fn weight_matrix(&self) -> Tensor<2>;
}

impl StageWeight for Linear {
    fn weight_matrix(&self) -> Tensor<2> {
        self.weight.val()
    }
}

impl StageWeight for Conv2d {
    fn weight_matrix(&self) -> Tensor<2> {
        let weight = self.weight.val();
        let [out, channels, height, width] = weight.dims();
        weight.reshape([out, channels * height * width]).transpose()
    }
}

impl<A: StageWeight, B> StageWeight for (A, B) {
    fn weight_matrix(&self) -> Tensor<2> {
        self.0.weight_matrix()
    }
}

impl<A: StageWeight, B, C> StageWeight for (A, B, C) {
    fn weight_matrix(&self) -> Tensor<2> {
        self.0.weight_matrix()
    }
}

impl<S: Module> Sluice<S> {
    /// Stages (each with one module a task) and the diagonal of `α` at the start.
    ///
    /// # Errors
    /// As [`CrossStitch::new`](super::CrossStitch::new).
    pub fn new(stages: Vec<Vec<S>>, own: f64, device: &Device) -> Result<Self> {
        let tasks = tasks_of(&stages)?;
        let units = stages.iter().map(|_| CrossStitchUnit::new(2 * tasks, 1, own, device)).collect::<Result<_>>()?;
        let last = stages.len() - 1;
        let beta = Tensor::<2>::zeros([tasks, stages.len()], device);
        let beta = beta.slice_assign([0..tasks, last..last + 1], Tensor::ones([tasks, 1], device));
        Ok(Self { stages, units, beta: Param::from_tensor(beta) })
    }

    /// `Σ ‖G₁ᵀG₂‖²` over stages and tasks, with the weights `G₁`, `G₂` of a stage's two subspaces; shape `[1]`.
    pub fn orthogonality(&self) -> Tensor<1>
    where
        S: StageWeight,
    {
        let each = self.stages.iter().flatten().map(|stage| {
            let weight = stage.weight_matrix();
            let half = weight.dims()[1] / 2;
            let first = weight.clone().slice_dim(1, 0..half);
            let second = weight.slice_dim(1, half..2 * half);
            first.transpose().matmul(second).square().sum()
        });
        Tensor::cat(each.collect(), 0).sum()
    }
}

impl<const D: usize, S: Forward<Tensor<D>, Output = Tensor<D>>> Forward<Tensor<D>> for Sluice<S> {
    type Output = Vec<Tensor<D>>;

    /// # Panics
    /// If a stage gives an odd number of channels, or stages features of different shapes.
    fn forward(&self, input: Tensor<D>) -> Vec<Tensor<D>> {
        let tasks = self.stages[0].len();
        let mut features = vec![input; tasks];
        let mut of_task: Vec<Option<Tensor<D>>> = vec![None; tasks];
        let beta = self.beta.val();
        for (level, (stage, unit)) in self.stages.iter().zip(&self.units).enumerate() {
            let outputs = stage.iter().zip(features).map(|(module, x)| module.forward(x));
            let halves = outputs.flat_map(|x| {
                let channels = x.dims()[1];
                assert!(channels % 2 == 0, "{channels} channels cannot be cut into two subspaces");
                let half = channels / 2;
                [x.clone().slice_dim(1, 0..half), x.slice_dim(1, half..channels)]
            });
            let mixed = unit.forward(halves.collect());
            features = mixed.chunks(2).map(|pair| Tensor::cat(pair.to_vec(), 1)).collect();
            for (task, x) in features.iter().enumerate() {
                let share = beta.clone().slice_dim(0, task).slice_dim(1, level).reshape([1; D]);
                let term = x.clone() * share;
                of_task[task] = Some(match of_task[task].take() {
                    Some(sum) => sum + term,
                    None => term,
                });
            }
        }
        of_task.into_iter().flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{assert_near, gradients_reach_everything, linear, random, values};
    use super::*;
    use crate::model::Part;
    use burn::nn::Tanh;
    use core_tensor::testing::host_devices;

    fn stages(device: &Device) -> Vec<Vec<(Linear, Tanh)>> {
        let stage = |from| (0..2).map(|_| (linear(from, 4, device), Tanh::new())).collect();
        vec![stage(3), stage(4)]
    }

    #[test]
    fn the_start_without_mixing_is_separate_networks() {
        for device in host_devices() {
            let net = Sluice::new(stages(&device), 1.0, &device).unwrap();
            let x = random([5, 3], &device);
            for (task, out) in net.forward(x.clone()).into_iter().enumerate() {
                assert_near(out, net.stages[1][task].forward(net.stages[0][task].forward(x.clone())), 0.0);
            }
        }
    }

    #[test]
    fn subspaces_move_between_tasks_and_stages_mix() {
        let device = Device::flex();
        let mut net = Sluice::new(stages(&device), 1.0, &device).unwrap();
        let x = random([5, 3], &device);
        let before = net.forward(x.clone());
        // Task 0 takes the second subspace of task 1 for its own second one.
        let swapped = [[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]];
        net.units[1].alpha = Param::from_tensor(Tensor::from_data([swapped], &device));
        let after = net.forward(x.clone());
        assert_near(after[0].clone().slice_dim(1, 0..2), before[0].clone().slice_dim(1, 0..2), 0.0);
        assert_near(after[0].clone().slice_dim(1, 2..4), before[1].clone().slice_dim(1, 2..4), 0.0);
        // β alone on the first stage: its features.
        net.beta = Param::from_tensor(Tensor::from_data([[1.0, 0.0], [0.5, 0.5]], &device));
        let out = net.forward(x.clone());
        assert_near(out[0].clone(), net.stages[0][0].forward(x), 0.0);
    }

    #[test]
    fn orthogonal_subspaces_cost_nothing() {
        let device = Device::flex();
        let mut net = Sluice::new(vec![vec![linear(2, 2, &device)]], 1.0, &device).unwrap();
        net.stages[0][0].weight = Param::from_tensor(Tensor::from_data([[1.0, 0.0], [0.0, 3.0]], &device));
        assert_eq!(values(net.orthogonality()), [0.0]);
        net.stages[0][0].weight = Param::from_tensor(Tensor::from_data([[1.0, 2.0], [0.0, 3.0]], &device));
        assert_eq!(values(net.orthogonality()), [4.0]);
    }

    #[test]
    fn gradients_reach_every_parameter() {
        let device = Device::flex();
        let mut net = Sluice::new(stages(&device), 0.7, &device).unwrap();
        net.beta = Param::from_tensor(Tensor::from_data([[0.4, 0.6], [0.5, 0.5]], &device));
        gradients_reach_everything(net, |_, _| Part::Shared, random([5, 3], &device), 0);
    }
}
