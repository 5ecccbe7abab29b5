//! Cross-stitch networks: a network a task, whose features are mixed after every stage.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData};

use super::{at_least_one, tasks_of};
use crate::model::{Forward, ModelError, Result};

/// Mixes the features of all tasks: `x̃ᵢ = Σⱼ αᵢⱼ·xⱼ`, one `α` for all channels or one each.
///
/// Channels are the second axis, of images and of feature vectors.
#[derive(Module, Debug)]
pub struct CrossStitchUnit {
    /// `[channels or 1, tasks, tasks]`
    pub alpha: Param<Tensor<3>>,
}

impl CrossStitchUnit {
    /// `αᵢᵢ = own`, the rest shared equally by the other tasks: rows sum to one, features keep their scale. The paper found 0.9 and
    /// 0.1 good for two tasks; `own = 1` starts from separate networks. `channels` is 1 for one `α` for all.
    ///
    /// # Errors
    /// [`ModelError::Parameter`] for no tasks or channels, or unless `0 <= own <= 1`.
    pub fn new(tasks: usize, channels: usize, own: f64, device: &Device) -> Result<Self> {
        at_least_one("tasks", tasks)?;
        at_least_one("channels", channels)?;
        if !(0.0..=1.0).contains(&own) {
            return Err(ModelError::parameter("own", own, "0 <= own <= 1"));
        }
        let (own, other) = match tasks {
            1 => (1.0, 0.0),
            _ => (own, (1.0 - own) / (tasks - 1) as f64),
        };
        let square = (0..tasks * tasks).map(|k| if k / tasks == k % tasks { own } else { other });
        let all: Vec<f64> = square.collect::<Vec<_>>().repeat(channels);
        let alpha = Tensor::from_data(TensorData::new(all, [channels, tasks, tasks]), device);
        Ok(Self { alpha: Param::from_tensor(alpha) })
    }

    /// One mixture a task.
    pub fn forward<const D: usize>(&self, features: Vec<Tensor<D>>) -> Vec<Tensor<D>> {
        let alpha = self.alpha.val();
        let mut shape = [1; D];
        shape[1] = alpha.dims()[0];
        let mixed = (0..features.len()).map(|i| {
            let mut terms = features.iter().enumerate().map(|(j, x)| {
                let factor = alpha.clone().slice_dim(1, i).slice_dim(2, j).reshape(shape);
                x.clone() * factor
            });
            let first = terms.next().expect("a unit has a task");
            terms.fold(first, |sum, term| sum + term)
        });
        mixed.collect()
    }
}

/// A network a task, stitched together after every stage.
///
/// Every stage of every task reaches every task's loss, so all parameters are shared.
///
/// I. Misra, A. Shrivastava, A. Gupta, M. Hebert, "Cross-stitch Networks for Multi-task Learning", CVPR 2016, arXiv:1604.03539,
/// equation 1; units for two tasks there, for any number here. The units learn better with a rate 10 to 1,000 times that of the
/// networks (section 4.2 there): Burn's `ModuleLearningRate` by groups.
///
/// ```
/// use burn::{nn::{LinearConfig, Relu}, tensor::{Device, Tensor}};
/// use multitask::{Forward, architecture::CrossStitch};
///
/// let device = Device::default();
/// let stage = |from| vec![(LinearConfig::new(from, 8).init(&device), Relu::new()), (LinearConfig::new(from, 8).init(&device), Relu::new())];
/// let net = CrossStitch::new(vec![stage(3), stage(8)], 0.9, &device)?;
/// let features = net.forward(Tensor::<2>::ones([5, 3], &device));
/// assert_eq!((features.len(), features[0].dims()), (2, [5, 8]));
/// # Ok::<(), multitask::ModelError>(())
/// ```
#[derive(Module, Debug)]
pub struct CrossStitch<S: Module> {
    /// By stage, then by task.
    pub stages: Vec<Vec<S>>,
    /// One after each stage.
    pub units: Vec<CrossStitchUnit>,
}

impl<S: Module> CrossStitch<S> {
    /// Stages (each with one module a task) and the units' diagonal at the start.
    ///
    /// # Errors
    /// [`ModelError::Parameter`] without stages or tasks, or unless `0 <= own <= 1`; [`ModelError::PerTask`] for stages of different
    /// numbers of tasks.
    pub fn new(stages: Vec<Vec<S>>, own: f64, device: &Device) -> Result<Self> {
        let tasks = tasks_of(&stages)?;
        let units = stages.iter().map(|_| CrossStitchUnit::new(tasks, 1, own, device)).collect::<Result<_>>()?;
        Ok(Self { stages, units })
    }

    /// The same with an `α` a channel, of as many channels as each stage's features have.
    ///
    /// # Errors
    /// As [`new`](Self::new), and [`ModelError::PerTask`] for another number of channels than stages.
    pub fn per_channel(stages: Vec<Vec<S>>, channels: &[usize], own: f64, device: &Device) -> Result<Self> {
        let tasks = tasks_of(&stages)?;
        if channels.len() != stages.len() {
            let (expected, found) = (stages.len(), channels.len());
            return Err(ModelError::PerTask { what: "the list of channels", expected, found });
        }
        let units = channels.iter().map(|channels| CrossStitchUnit::new(tasks, *channels, own, device));
        Ok(Self { units: units.collect::<Result<_>>()?, stages })
    }
}

impl<const D: usize, S: Forward<Tensor<D>, Output = Tensor<D>>> Forward<Tensor<D>> for CrossStitch<S> {
    type Output = Vec<Tensor<D>>;

    fn forward(&self, input: Tensor<D>) -> Vec<Tensor<D>> {
        let start = vec![input; self.stages[0].len()];
        self.stages.iter().zip(&self.units).fold(start, |features, (stage, unit)| {
            unit.forward(stage.iter().zip(features).map(|(module, x)| module.forward(x)).collect())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{assert_near, gradients_reach_everything, linear, random};
    use super::*;
    use crate::model::Part;
    use burn::nn::{Linear, Tanh};
    use core_tensor::testing::host_devices;

    fn stages(device: &Device, tasks: usize) -> Vec<Vec<(Linear, Tanh)>> {
        let stage = |from| (0..tasks).map(|_| (linear(from, 4, device), Tanh::new())).collect();
        vec![stage(3), stage(4)]
    }

    #[test]
    fn the_identity_is_separate_networks() {
        for device in host_devices() {
            for net in [
                CrossStitch::new(stages(&device, 3), 1.0, &device).unwrap(),
                CrossStitch::per_channel(stages(&device, 3), &[4, 4], 1.0, &device).unwrap(),
            ] {
                let x = random([5, 3], &device);
                for (task, out) in net.forward(x.clone()).into_iter().enumerate() {
                    let alone = net.stages[1][task].forward(net.stages[0][task].forward(x.clone()));
                    assert_near(out, alone, 0.0);
                }
            }
        }
    }

    #[test]
    fn equal_shares_give_every_task_the_same_and_constants_keep_their_scale() {
        let device = Device::flex();
        let net = CrossStitch::new(stages(&device, 2), 0.5, &device).unwrap();
        let out = net.forward(random([5, 3], &device));
        assert_near(out[0].clone(), out[1].clone(), 1e-6);
        let unit = CrossStitchUnit::new(3, 2, 0.8, &device).unwrap();
        let same = Tensor::<4>::ones([1, 2, 3, 3], &device);
        unit.forward(vec![same.clone(); 3]).into_iter().for_each(|out| assert_near(out, same.clone(), 1e-6));
        let unit = CrossStitchUnit::new(2, 1, 0.9, &device).unwrap();
        let out = unit.forward(vec![Tensor::<2>::ones([1, 1], &device), Tensor::<2>::zeros([1, 1], &device)]);
        assert_near(out[0].clone(), Tensor::<2>::full([1, 1], 0.9, &device), 1e-7);
        assert_near(out[1].clone(), Tensor::<2>::full([1, 1], 0.1, &device), 1e-7);
    }

    #[test]
    fn every_parameter_is_trained_by_both_tasks() {
        let device = Device::flex();
        let net = CrossStitch::per_channel(stages(&device, 2), &[4, 4], 0.9, &device).unwrap();
        gradients_reach_everything(net, |_, _| Part::Shared, random([5, 3], &device), 0);
    }

    #[test]
    fn bad_settings_are_refused() {
        let device = Device::flex();
        assert!(CrossStitch::<Linear>::new(vec![], 0.9, &device).is_err());
        assert!(CrossStitch::<Linear>::new(vec![vec![]], 0.9, &device).is_err());
        for own in [-0.1, 1.1, f64::NAN] {
            assert!(CrossStitch::new(stages(&device, 2), own, &device).is_err());
        }
        let mut uneven = stages(&device, 2);
        uneven[1].pop();
        assert!(CrossStitch::new(uneven, 0.9, &device).is_err());
        assert!(CrossStitch::per_channel(stages(&device, 2), &[4], 0.9, &device).is_err());
    }
}
