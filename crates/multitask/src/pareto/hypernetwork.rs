//! Pareto hypernetworks: a network that makes the weights of another for a preference.

use burn::module::{Module, ModuleDisplay, Param};
use burn::nn::{Linear, LinearConfig};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Tensor};
use core_tensor::Tree;

use super::ParetoSet;
use super::parameters::{Given, trainable, with_parameters};
use crate::model::{ModelError, Result};

/// A multilayer perceptron from the preference to all weights of any Burn module.
///
/// Each weight tensor of the target has a linear layer of its own behind common hidden layers of `width` units. The whole front is one
/// module: [`at`](ParetoSet::at) gives the model for a preference.
///
/// Memory: about `width` times the target's parameters; for large targets take [`LowRankPareto`](super::LowRankPareto). Cost of
/// a step: that of the target, and one pass over the hypernetwork's parameters each way.
///
/// The biases of the last layers start as the target's own weights and their weights small, so that every preference starts near the
/// target as initialised; the paper starts from a default initialisation. A. Navon, A. Shamsian, G. Chechik, E. Fetaya, "Learning
/// the Pareto Front with Hypernetworks", ICLR 2021, arXiv:2010.04104, with [`ParetoSet::scalarised`] PHN-LS; with the weights of
/// [`Epo`](super::Epo) for the preferences PHN-EPO.
///
/// ```
/// use burn::{nn::LinearConfig, tensor::{Device, Tensor}};
/// use multitask::pareto::{Hypernetwork, ParetoSet, preference};
///
/// let device = Device::default();
/// let hyper = Hypernetwork::new(LinearConfig::new(3, 2).init(&device), 2, 16, 2, &device)?;
/// let model = hyper.at(preference(&[0.3, 0.7], &device));
/// assert_eq!(model.forward(Tensor::<2>::ones([5, 3], &device)).dims(), [5, 2]);
/// # Ok::<(), multitask::ModelError>(())
/// ```
#[derive(Module, Debug)]
pub struct Hypernetwork<M: Module> {
    /// The target, whose trained values are replaced; frozen.
    target: M,
    hidden: Vec<Linear>,
    heads: Vec<Linear>,
    #[module(skip)]
    trained: Vec<bool>,
    tasks: usize,
}

impl<M: Module> Hypernetwork<M> {
    /// For a target as initialised, of `depth` hidden layers of `width` units.
    ///
    /// # Errors
    /// [`ModelError::Parameter`] for no tasks, width or depth, or for a target without trained parameters.
    pub fn new(target: M, tasks: usize, width: usize, depth: usize, device: &Device) -> Result<Self> {
        let trained: Vec<bool> = trainable(&target).into_iter().map(|(trained, _)| trained).collect();
        let leaves = Tree::from_module(&target);
        for (parameter, count) in
            [("tasks", tasks), ("width", width), ("depth", depth), ("trained parameters", leaves.len())]
        {
            if count == 0 {
                return Err(ModelError::parameter(parameter, 0.0, "at least 1"));
            }
        }
        let hidden = (0..depth).map(|i| LinearConfig::new(if i == 0 { tasks } else { width }, width).init(device));
        let mut heads = Vec::with_capacity(leaves.len());
        for (_, leaf) in leaves.into_leaves() {
            let start: Tensor<1> = Tree::from_leaves([(core_tensor::LeafName::new("leaf"), leaf)])?.flatten()?;
            let mut head: Linear = LinearConfig::new(width, start.dims()[0]).init(device);
            head.weight = head.weight.map(|weight| weight * 0.1);
            head.bias = Some(Param::from_tensor(Tensor::from_data(start.into_data(), device)));
            heads.push(head);
        }
        Ok(Self { target: target.no_grad(), hidden: hidden.collect(), heads, trained, tasks })
    }
}

impl<M: Module + ModuleDisplay> ParetoSet<M> for Hypernetwork<M> {
    fn at(&self, preference: Tensor<1>) -> M {
        let input: Tensor<2> = preference.unsqueeze();
        let hidden = self.hidden.iter().fold(input, |x, layer| relu(layer.forward(x)));
        let weights = self.heads.iter().map(|head| head.forward(hidden.clone()).reshape([-1]));
        with_parameters(&self.target, &self.trained, weights.collect(), Given::Instead)
    }

    fn tasks(&self) -> usize {
        self.tasks
    }
}

#[cfg(test)]
mod tests {
    use super::super::preference;
    use super::super::tests::{Point, learns_the_front};
    use super::*;
    use core_tensor::testing::assert_close;

    #[test]
    fn every_preference_starts_near_the_target_and_learns_its_place() {
        let device = Device::flex();
        let point = Point::new(&device);
        let hyper = Hypernetwork::new(point.clone(), 2, 32, 2, &device).unwrap();
        assert_eq!(hyper.tasks(), 2);
        let start = Tree::from_module_all(&hyper.at(preference(&[0.9, 0.1], &device)));
        assert_close(&start, &Tree::from_module_all(&point), 0.3);
        // The target's own values are no parameters of the set.
        assert!(Tree::from_module(&hyper).names().iter().all(|name| !name.path.starts_with("target")));
        learns_the_front(hyper, 800, 0.06);
    }

    #[test]
    fn bad_settings_are_refused() {
        let device = Device::flex();
        let new = |tasks, width, depth| Hypernetwork::new(Point::new(&device), tasks, width, depth, &device);
        assert!(new(0, 1, 1).is_err() && new(1, 0, 1).is_err() && new(1, 1, 0).is_err() && new(1, 1, 1).is_ok());
        assert!(Hypernetwork::new(burn::nn::Relu::new(), 2, 2, 1, &device).is_err());
    }
}
