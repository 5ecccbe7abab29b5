//! Multi-task models: what they are, and builders for the common ones.
//!
//! A multi-task model is a Burn module that gives one loss a task from a batch and says which parameters are shared
//! ([`MultiTaskModel`]). Implement it for a module of your own, or build one from a body and heads ([`MultiTask`]).

mod builder;
mod error;
mod forward;
mod many;
mod mask;

use burn::module::Module;
use burn::tensor::Tensor;

pub use builder::{HeadOutputs, Heads, Masked, MultiTask, Named, NoHeads, TaskHeads, TaskLoss};
pub use error::{ModelError, Result};
pub use forward::Forward;
pub use many::ManyHeads;
pub use mask::TaskMask;

/// Whose a parameter is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// Several tasks use it: its gradients, one a task, are to be aggregated.
    Shared,
    /// Only the loss of this task depends on it.
    Task(usize),
}

/// A module that gives one loss a task from a batch `B`.
///
/// ```
/// use burn::{module::Module, nn::{Linear, LinearConfig}, tensor::{Device, Tensor}};
/// use multitask::{MultiTaskModel, Part};
///
/// #[derive(Module, Debug)]
/// struct Net { body: Linear, left: Linear, right: Linear }
///
/// struct Batch { x: Tensor<2>, left: Tensor<2>, right: Tensor<2> }
/// core_tensor::batch!(Batch { x, left, right });
///
/// impl MultiTaskModel<Batch> for Net {
///     fn tasks(&self) -> Vec<String> {
///         vec!["left".into(), "right".into()]
///     }
///     fn losses(&self, batch: &Batch) -> Tensor<1> {
///         let z = self.body.forward(batch.x.clone()).tanh();
///         let left = (self.left.forward(z.clone()) - batch.left.clone()).square().mean();
///         let right = (self.right.forward(z) - batch.right.clone()).square().mean();
///         Tensor::cat(vec![left, right], 0)
///     }
///     fn part(&self, path: &str) -> Part {
///         match path.split('.').next() {
///             Some("left") => Part::Task(0),
///             Some("right") => Part::Task(1),
///             _ => Part::Shared,
///         }
///     }
/// }
/// ```
pub trait MultiTaskModel<B>: Module {
    /// The tasks' names; their number is `m`.
    fn tasks(&self) -> Vec<String>;

    /// The losses, shape `[m]`, in the order of the tasks. Recorded once: it must not look at values.
    fn losses(&self, batch: &B) -> Tensor<1>;

    /// Whose the parameter at a path is. A parameter that only one task's loss depends on may be called shared; the other
    /// way round is an error when the model is recorded.
    fn part(&self, path: &str) -> Part;

    /// Which tasks have a label in this batch. Asked for each batch, outside the recording.
    fn labelled(&self, _batch: &B) -> Vec<bool> {
        vec![true; self.tasks().len()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::nn::{LinearConfig, Relu};
    use burn::tensor::{Device, Int};
    use core_tensor::Tree;
    use core_tensor::testing::host_devices;

    type Labels = (Tensor<1>, TaskMask);

    fn square(out: Tensor<2>, labels: &Labels) -> Tensor<1> {
        (out.squeeze_dim::<1>(1) - labels.0.clone()).square()
    }

    #[test]
    fn the_builder_gives_losses_in_order_and_parameters_by_task() {
        for device in host_devices() {
            let linear = |from, to| LinearConfig::new(from, to).init(&device);
            let net = MultiTask::new((linear(2, 3), Relu::new()))
                .head("a", linear(3, 1), |out: Tensor<2>, labels: &Labels| square(out, labels).mean())
                .head("b", (linear(3, 2), linear(2, 1)), Masked::new(square, |labels: &Labels| labels.1.clone()));
            let x = Tensor::<2>::from_data([[1.0, 2.0], [0.5, -1.0], [0.0, 1.0]], &device);
            let labels =
                (Tensor::<1>::from_data([1.0, 2.0, 3.0], &device), TaskMask::new(&[false, true, false], &device));
            let batch = (x.clone(), labels);
            assert_eq!(MultiTaskModel::<(Tensor<2>, Labels)>::tasks(&net), ["a", "b"]);
            let paths: Vec<_> = Tree::from_module(&net).names().iter().map(|name| name.path.clone()).collect();
            assert_eq!(paths[0], "body.0.weight");
            assert_eq!(paths[2], "heads.a.weight");
            assert_eq!(paths[4], "heads.b.0.weight");
            let part = |path: &str| MultiTaskModel::<(Tensor<2>, Labels)>::part(&net, path);
            assert_eq!(
                paths.iter().map(|path| part(path)).collect::<Vec<_>>(),
                [
                    Part::Shared,
                    Part::Shared,
                    Part::Task(0),
                    Part::Task(0),
                    Part::Task(1),
                    Part::Task(1),
                    Part::Task(1),
                    Part::Task(1)
                ]
            );
            let (((), a), b) = net.forward(x);
            let losses: Vec<f32> = net.losses(&batch).try_into_vec_as().unwrap();
            let a: Vec<f32> = a.try_into_vec_as().unwrap();
            let b: Vec<f32> = b.try_into_vec_as().unwrap();
            let mean = a.iter().zip([1.0, 2.0, 3.0]).map(|(x, y)| (x - y) * (x - y)).sum::<f32>() / 3.0;
            assert!((losses[0] - mean).abs() < 1e-5);
            assert!((losses[1] - (b[1] - 2.0) * (b[1] - 2.0)).abs() < 1e-5);
            assert_eq!(net.labelled(&batch), [true, true]);
            let none = TaskMask::new(&[false; 3], &device);
            let batch = (batch.0, (batch.1.0, none));
            assert_eq!(net.labelled(&batch), [true, false]);
            assert_eq!(net.losses(&batch).into_data().iter::<f32>().nth(1), Some(0.0));
        }
    }

    #[test]
    fn a_head_named_like_the_start_of_another_is_its_own() {
        let device = Device::flex();
        let linear = || LinearConfig::new(1, 1).init(&device);
        let loss = |out: Tensor<2>, _: &Tensor<1, Int>| out.mean();
        let net = MultiTask::new(linear()).head("a", linear(), loss).head("ab", linear(), loss);
        let part = |path: &str| MultiTaskModel::<(Tensor<2>, Tensor<1, Int>)>::part(&net, path);
        assert_eq!((part("heads.a.weight"), part("heads.ab.weight")), (Part::Task(0), Part::Task(1)));
        assert_eq!(part("body.weight"), Part::Shared);
    }

    #[test]
    fn a_checkpoint_of_the_builder_holds_body_and_heads() {
        let device = Device::flex();
        let linear = || LinearConfig::new(2, 2).init(&device);
        let loss = |out: Tensor<2>, _: &Tensor<1>| out.mean();
        let build = || MultiTask::new(linear()).head("a", linear(), loss).head("b", linear(), loss);
        let (net, other) = (build(), build());
        let other = other.load_record(net.clone().into_record());
        core_tensor::testing::assert_close(&Tree::from_module(&net), &Tree::from_module(&other), 0.0);
    }
}
