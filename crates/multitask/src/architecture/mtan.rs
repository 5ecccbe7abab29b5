//! MTAN: one convolutional network, and attention to its features for each task.

use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{GroupNorm, GroupNormConfig, PaddingConfig2d};
use burn::tensor::activation::{relu, sigmoid};
use burn::tensor::{Device, Tensor};

use super::{at_least_one, index_in};
use crate::model::{Forward, ModelError, Part, Result};

/// Multi-task attention network.
///
/// Stage `j` of the shared network computes `u = first(x)`, `p = rest(u)`, and the next stage starts from `pool(p)`. Task `i` masks the
/// stage's features: `âᵢ = aᵢ ⊙ p` with `aᵢ = h([u; e])` in `(0, 1)`, where `e` is what its attention kept in the stage before,
/// `pool(f(âᵢ))` (nothing in the first stage). `h` is two 1 × 1 convolutions, `f` a 3 × 3 convolution. A task's features are the last `âᵢ`.
///
/// The shared network and the pooling are any modules; attention belongs to its task.
///
/// S. Liu, E. Johns, A. Davison, "End-to-End Multi-Task Learning with Attention", CVPR 2019, arXiv:1803.10704, equations 1 and 2 (the
/// encoder). Deviation: group normalisation over all channels where the paper has batch normalisation, since recorded programs do not
/// write running statistics.
///
/// ```
/// use burn::{nn::{Relu, conv::Conv2dConfig, pool::MaxPool2dConfig, PaddingConfig2d}, tensor::{Device, Tensor}};
/// use multitask::{Forward, architecture::Mtan};
///
/// let device = Device::default();
/// let conv = |from, to| {
///     let conv = Conv2dConfig::new([from, to], [3, 3]).with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1));
///     (conv.init(&device), Relu::new())
/// };
/// // Stages with the channels of u and p.
/// let stages = vec![(conv(1, 4), conv(4, 4), 4, 4), (conv(4, 8), conv(8, 8), 8, 8)];
/// let net = Mtan::new(stages, MaxPool2dConfig::new([2, 2]).with_strides([2, 2]).init(), 3, &device)?;
/// let features = net.forward(Tensor::<4>::ones([2, 1, 8, 8], &device));
/// assert_eq!((features.len(), features[0].dims()), (3, [2, 8, 4, 4]));
/// # Ok::<(), multitask::ModelError>(())
/// ```
#[derive(Module, Debug)]
pub struct Mtan<U: Module, P: Module, R: Module> {
    /// `first` of each stage.
    pub first: Vec<U>,
    /// `rest` of each stage.
    pub rest: Vec<P>,
    /// Between stages, for features and attention alike.
    pub pool: R,
    /// By stage, then by task.
    pub attention: Vec<Vec<Attention>>,
}

/// The attention of one task to one stage.
#[derive(Module, Debug)]
pub struct Attention {
    squeeze: Conv2d,
    squeeze_norm: GroupNorm,
    mask: Conv2d,
    mask_norm: GroupNorm,
    /// `f`, for the next stage.
    extract: Option<Extract>,
}

#[derive(Module, Debug)]
struct Extract {
    conv: Conv2d,
    norm: GroupNorm,
}

impl Attention {
    /// `input` channels in `[u; e]`, `features` in `p`; `extract` if a stage follows, whose attention gets as many channels.
    fn new(input: usize, features: usize, extract: bool, device: &Device) -> Self {
        let norm = || GroupNormConfig::new(1, features).init(device);
        let point = |from| Conv2dConfig::new([from, features], [1, 1]).init(device);
        let wide = Conv2dConfig::new([features, features], [3, 3]).with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1));
        let extract = extract.then(|| Extract { conv: wide.init(device), norm: norm() });
        Self { squeeze: point(input), squeeze_norm: norm(), mask: point(features), mask_norm: norm(), extract }
    }

    /// `a`, in `(0, 1)`, from `[u; e]`.
    pub fn mask(&self, input: Tensor<4>) -> Tensor<4> {
        let hidden = relu(self.squeeze_norm.forward(self.squeeze.forward(input)));
        sigmoid(self.mask_norm.forward(self.mask.forward(hidden)))
    }
}

impl<U: Module, P: Module, R: Module> Mtan<U, P, R> {
    /// Stages as (first, rest, channels of `u`, channels of `p`), the pooling between them, and the number of tasks.
    ///
    /// # Errors
    /// [`ModelError::Parameter`] without stages, tasks or channels.
    pub fn new(stages: Vec<(U, P, usize, usize)>, pool: R, tasks: usize, device: &Device) -> Result<Self> {
        at_least_one("stages", stages.len())?;
        at_least_one("tasks", tasks)?;
        let last = stages.len() - 1;
        let (mut first, mut rest, mut attention, mut kept) = (vec![], vec![], vec![], 0);
        for (level, (u, p, of_u, of_p)) in stages.into_iter().enumerate() {
            if of_u == 0 || of_p == 0 {
                return Err(ModelError::parameter("channels", 0.0, "at least 1"));
            }
            attention.push((0..tasks).map(|_| Attention::new(of_u + kept, of_p, level < last, device)).collect());
            first.push(u);
            rest.push(p);
            kept = of_p;
        }
        Ok(Self { first, rest, pool, attention })
    }

    /// Attention belongs to its task.
    pub fn part(&self, path: &str) -> Part {
        match path.starts_with("attention.") {
            true => index_in(path, 2).map_or(Part::Shared, Part::Task),
            false => Part::Shared,
        }
    }
}

impl<U, P, R> Forward<Tensor<4>> for Mtan<U, P, R>
where
    U: Forward<Tensor<4>, Output = Tensor<4>>,
    P: Forward<Tensor<4>, Output = Tensor<4>>,
    R: Forward<Tensor<4>, Output = Tensor<4>>,
{
    type Output = Vec<Tensor<4>>;

    fn forward(&self, input: Tensor<4>) -> Vec<Tensor<4>> {
        let mut x = input;
        let mut kept: Vec<Option<Tensor<4>>> = vec![None; self.attention[0].len()];
        let mut features = Vec::new();
        for (level, of_task) in self.attention.iter().enumerate() {
            let u = self.first[level].forward(x);
            let p = self.rest[level].forward(u.clone());
            features = of_task
                .iter()
                .zip(&mut kept)
                .map(|(attention, kept)| {
                    let seen = match kept.take() {
                        Some(e) => Tensor::cat(vec![u.clone(), e], 1),
                        None => u.clone(),
                    };
                    let attended = attention.mask(seen) * p.clone();
                    *kept = attention.extract.as_ref().map(|extract| {
                        let f = relu(extract.norm.forward(extract.conv.forward(attended.clone())));
                        self.pool.forward(f)
                    });
                    attended
                })
                .collect();
            x = match level + 1 < self.attention.len() {
                true => self.pool.forward(p),
                false => p,
            };
        }
        features
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{assert_near, gradients_reach_everything, random, values};
    use super::*;
    use burn::module::Param;
    use burn::nn::Tanh;
    use burn::nn::pool::{AvgPool2d, AvgPool2dConfig};
    use core_tensor::testing::host_devices;

    type Layer = (Conv2d, Tanh);

    fn net(device: &Device) -> Mtan<Layer, Layer, AvgPool2d> {
        let conv = |from, to| {
            let conv = Conv2dConfig::new([from, to], [3, 3]).with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1));
            (conv.init(device), Tanh::new())
        };
        let stages = vec![(conv(1, 2), conv(2, 3), 2, 3), (conv(3, 4), conv(4, 2), 4, 2)];
        Mtan::new(stages, AvgPool2dConfig::new([2, 2]).with_strides([2, 2]).init(), 2, device).unwrap()
    }

    /// Attention that ignores what it sees and lets through `sigmoid(bias)`.
    fn constant(attention: &mut Attention, bias: f64, device: &Device) {
        let gamma = attention.mask_norm.gamma.as_ref().unwrap().val();
        attention.mask_norm.gamma = Some(Param::from_tensor(gamma.zeros_like()));
        attention.mask_norm.beta = Some(Param::from_tensor(Tensor::full(gamma.shape(), bias, device)));
    }

    #[test]
    fn attention_to_everything_is_the_shared_network_and_to_nothing_is_nothing() {
        for device in host_devices() {
            let mut net = net(&device);
            for stage in &mut net.attention {
                constant(&mut stage[0], 40.0, &device);
                constant(&mut stage[1], -200.0, &device);
            }
            let x = random([2, 1, 4, 4], &device);
            let out = net.forward(x.clone());
            let p = net.rest[0].forward(net.first[0].forward(x));
            let p = net.rest[1].forward(net.first[1].forward(Forward::forward(&net.pool, p)));
            assert_near(out[0].clone(), p, 1e-6);
            assert!(values(out[1].clone()).iter().all(|x| x.abs() < 1e-30));
        }
    }

    #[test]
    fn masks_lie_between_zero_and_one() {
        let device = Device::flex();
        let net = net(&device);
        let mask = values(net.attention[0][1].mask(random([2, 2, 4, 4], &device) * 10.0));
        assert!(mask.iter().all(|a| *a > 0.0 && *a < 1.0));
    }

    #[test]
    fn attention_is_the_tasks_own() {
        let device = Device::flex();
        // Of each task: (2 convolutions and 2 norms) twice, one extraction; of two leaves each.
        gradients_reach_everything(net(&device), Mtan::part, random([2, 1, 4, 4], &device), 2 * 2 * (4 + 4 + 2));
    }
}
