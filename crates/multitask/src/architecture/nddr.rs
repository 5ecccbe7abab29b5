//! NDDR-CNN: features of all tasks, concatenated and reduced again for each.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData};

use super::{at_least_one, index_in, tasks_of};
use crate::model::{Forward, ModelError, Part, Result};

/// A network a task; after every stage each task gets `Wᵢ·[x₁; …; xₘ]`, a 1 × 1 convolution over the channels of all tasks:
/// neural discriminative dimensionality reduction.
///
/// `Wᵢ` starts with `own` on the diagonal of its own channels and the rest shared by the others', which is the paper's diagonal
/// initialisation; a cross-stitch unit is the special case in which `W` stays so. The paper puts batch normalisation behind each
/// reduction and weight decay on it; normalisation is left out here (recorded programs do not write running statistics): put it at the
/// head of the stages if wanted.
///
/// Y. Gao, J. Ma, M. Zhao, W. Liu, A. Yuille, "NDDR-CNN: Layerwise Feature Fusing in Multi-Task CNNs by Neural Discriminative
/// Dimensionality Reduction", CVPR 2019, arXiv:1801.08297, section 3 (0.9 and 0.1 for two tasks).
///
/// ```
/// use burn::{nn::{LinearConfig, Relu}, tensor::{Device, Tensor}};
/// use multitask::{Forward, architecture::Nddr};
///
/// let device = Device::default();
/// let stage = |from| (0..2).map(|_| (LinearConfig::new(from, 8).init(&device), Relu::new())).collect();
/// let net = Nddr::new(vec![stage(3), stage(8)], &[8, 8], 0.9, &device)?;
/// assert_eq!(net.forward(Tensor::<2>::ones([5, 3], &device))[0].dims(), [5, 8]);
/// # Ok::<(), multitask::ModelError>(())
/// ```
#[derive(Module, Debug)]
pub struct Nddr<S: Module> {
    /// By stage, then by task.
    pub stages: Vec<Vec<S>>,
    /// By stage, then by task: `[channels, tasks·channels]`.
    pub reductions: Vec<Vec<Param<Tensor<2>>>>,
}

impl<S: Module> Nddr<S> {
    /// Stages (each with one module a task), the channels of their features, and what a task keeps of its own at the start.
    ///
    /// # Errors
    /// [`ModelError::Parameter`] without stages, tasks or channels, or unless `0 <= own <= 1`; [`ModelError::PerTask`] for lists
    /// of different lengths.
    pub fn new(stages: Vec<Vec<S>>, channels: &[usize], own: f64, device: &Device) -> Result<Self> {
        let tasks = tasks_of(&stages)?;
        if channels.len() != stages.len() {
            let (expected, found) = (stages.len(), channels.len());
            return Err(ModelError::PerTask { what: "the list of channels", expected, found });
        }
        if !(0.0..=1.0).contains(&own) {
            return Err(ModelError::parameter("own", own, "0 <= own <= 1"));
        }
        let (own, other) = match tasks {
            1 => (1.0, 0.0),
            _ => (own, (1.0 - own) / (tasks - 1) as f64),
        };
        let start = |task: usize, channels: usize| {
            let width = tasks * channels;
            let entry = |k: usize| match (k / width, k % width) {
                (row, column) if column % channels != row => 0.0,
                (_, column) if column / channels == task => own,
                _ => other,
            };
            let values: Vec<f64> = (0..channels * width).map(entry).collect();
            Param::from_tensor(Tensor::<2>::from_data(TensorData::new(values, [channels, width]), device))
        };
        for &channels in channels {
            at_least_one("channels", channels)?;
        }
        let reductions = channels.iter().map(|channels| (0..tasks).map(|task| start(task, *channels)).collect());
        Ok(Self { reductions: reductions.collect(), stages })
    }

    /// The last reductions belong to their tasks.
    pub fn part(&self, path: &str) -> Part {
        let last = path.starts_with("reductions.") && index_in(path, 1) == Some(self.reductions.len() - 1);
        match last {
            true => index_in(path, 2).map_or(Part::Shared, Part::Task),
            false => Part::Shared,
        }
    }
}

impl<const D: usize, S: Forward<Tensor<D>, Output = Tensor<D>>> Forward<Tensor<D>> for Nddr<S> {
    type Output = Vec<Tensor<D>>;

    fn forward(&self, input: Tensor<D>) -> Vec<Tensor<D>> {
        let start = vec![input; self.stages[0].len()];
        self.stages.iter().zip(&self.reductions).fold(start, |features, (stage, reductions)| {
            let outputs: Vec<_> = stage.iter().zip(features).map(|(module, x)| module.forward(x)).collect();
            let mut dims = outputs[0].dims();
            let all = Tensor::cat(outputs, 1);
            let [examples, width] = [all.dims()[0], all.dims()[1]];
            let positions = dims[2..].iter().product::<usize>();
            let all: Tensor<3> = all.reshape([examples, width, positions]);
            let reduced = reductions.iter().map(|weight| {
                let weight = weight.val();
                dims[1] = weight.dims()[0];
                weight.unsqueeze::<3>().expand([examples as i64, -1, -1]).matmul(all.clone()).reshape(dims)
            });
            reduced.collect()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{assert_near, gradients_reach_everything, linear, random};
    use super::super::{CrossStitch, tests::values};
    use super::*;
    use burn::nn::conv::{Conv2d, Conv2dConfig};
    use burn::nn::{Linear, PaddingConfig2d, Tanh};
    use core_tensor::testing::host_devices;

    fn stages(device: &Device) -> Vec<Vec<(Linear, Tanh)>> {
        let stage = |from| (0..2).map(|_| (linear(from, 4, device), Tanh::new())).collect();
        vec![stage(3), stage(4)]
    }

    #[test]
    fn the_start_is_a_cross_stitch_network() {
        for device in host_devices() {
            for own in [1.0, 0.9, 0.5] {
                let stages = stages(&device);
                let net = Nddr::new(stages.clone(), &[4, 4], own, &device).unwrap();
                let stitched = CrossStitch::new(stages, own, &device).unwrap();
                let x = random([5, 3], &device);
                for (a, b) in net.forward(x.clone()).into_iter().zip(stitched.forward(x)) {
                    assert_near(a, b, 1e-6);
                }
            }
        }
    }

    #[test]
    fn images_are_reduced_pixel_by_pixel() {
        let device = Device::flex();
        let conv = || -> Conv2d {
            Conv2dConfig::new([2, 3], [3, 3]).with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1)).init(&device)
        };
        let net = Nddr::new(vec![vec![conv(), conv()]], &[3], 1.0, &device).unwrap();
        let x = random([2, 2, 4, 5], &device);
        let out = net.forward(x.clone());
        assert_near(out[1].clone(), net.stages[0][1].forward(x.clone()), 0.0);
        gradients_reach_everything(net, Nddr::part, x, 2);
        assert_eq!(values(out[0].clone()).len(), 2 * 3 * 4 * 5);
    }

    #[test]
    fn the_last_reductions_are_the_tasks_own() {
        let device = Device::flex();
        let net = Nddr::new(stages(&device), &[4, 4], 0.9, &device).unwrap();
        gradients_reach_everything(net, Nddr::part, random([5, 3], &device), 2);
        assert!(Nddr::new(stages(&device), &[4], 0.9, &device).is_err());
        assert!(Nddr::new(stages(&device), &[4, 0], 0.9, &device).is_err());
        assert!(Nddr::new(stages(&device), &[4, 4], f64::NAN, &device).is_err());
    }
}
