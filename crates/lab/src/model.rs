//! The classifiers that `lab train` trains.

use burn::module::{Module, ModuleMapper, Param, ParamId, RunningState};
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::loss::CrossEntropyLossConfig;
use burn::nn::pool::MaxPool2dConfig;
use burn::nn::{
    BatchNorm, BatchNormConfig, GroupNorm, GroupNormConfig, Initializer, Linear, LinearConfig, PaddingConfig2d,
};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Int, Tensor, TensorData};
use core_tensor::Random;

use crate::data::{CLASSES, Images};
use crate::error::{Error, Result};
use crate::recipe::{LayerNorm, ModelName, ModelRecipe};

/// Smallest side of an image that the CNN can halve twice.
const SMALLEST: usize = 4;

/// Convolutions of 3 × 3 (each followed by a normalisation, if any, ReLU and a 2 × 2 maximum), then linear layers with ReLU
/// between them, the last of which are the heads: one for each task.
///
/// Without convolutions it is a multi-layer perceptron.
#[derive(Module, Debug)]
pub struct Classifier {
    conv: Vec<Conv2d>,
    batch: Vec<BatchNorm>,
    group: Vec<GroupNorm>,
    linear: Vec<Linear>,
    heads: Vec<Linear>,
}

impl Classifier {
    /// The model of a recipe for images like these with ten classes, as [`with_heads`](Self::with_heads).
    ///
    /// # Errors
    /// As there.
    pub fn new(recipe: &ModelRecipe, images: &Images, random: &mut Random, device: &Device) -> Result<Self> {
        Self::with_heads(recipe, images, &[CLASSES], random, device)
    }

    /// The model of a recipe for images like these, with a head for each number of classes, on `device`, with weights drawn from
    /// `random`: uniform in ±√(3/n) for a unit of n inputs, so that their variance is 1/n; biases are zero. The values are the
    /// same on every device.
    ///
    /// # Errors
    /// [`Error::Value`] where the images are too small for the model.
    pub fn with_heads(
        recipe: &ModelRecipe,
        images: &Images,
        classes: &[usize],
        random: &mut Random,
        device: &Device,
    ) -> Result<Self> {
        let (height, width) = (images.height, images.width);
        let zeros = Initializer::Zeros;
        let channels = match recipe.name {
            ModelName::Mlp => Vec::new(),
            ModelName::Cnn if height.min(width) < SMALLEST => {
                return Err(Error::Value {
                    origin: format!("images of {height} x {width} pixels"),
                    field: "model.name".into(),
                    value: "cnn".into(),
                    expected: format!("mlp, or images of at least {SMALLEST} x {SMALLEST} pixels"),
                });
            }
            ModelName::Cnn => vec![recipe.channels, 2 * recipe.channels],
        };
        let inputs = match channels.last() {
            None => height * width,
            Some(channels) => channels * (height / 4) * (width / 4),
        };
        let conv = |(index, &outputs): (usize, &usize)| {
            let inputs = index.checked_sub(1).map_or(1, |before| channels[before]);
            Conv2dConfig::new([inputs, outputs], [3, 3])
                .with_padding(PaddingConfig2d::Same)
                .with_initializer(zeros.clone())
                .init(device)
        };
        let conv = channels.iter().enumerate().map(conv).collect();
        let normalised = |norm| if recipe.norm == norm { &channels[..] } else { &[] };
        let batch = normalised(LayerNorm::Batch).iter().enumerate();
        let batch = batch.map(|(index, &n)| numbered(BatchNormConfig::new(n).init(device), index)).collect();
        let group =
            normalised(LayerNorm::Group).iter().map(|&n| GroupNormConfig::new(groups(n), n).init(device)).collect();
        let mut widths = vec![inputs, recipe.hidden];
        if recipe.name == ModelName::Mlp {
            widths.push(recipe.hidden);
        }
        let layer = |inputs, outputs| LinearConfig::new(inputs, outputs).with_initializer(zeros.clone()).init(device);
        let linear = widths.windows(2).map(|pair| layer(pair[0], pair[1])).collect();
        let heads = classes.iter().map(|&classes| layer(recipe.hidden, classes)).collect();
        Ok(draw_weights(Self { conv, batch, group, linear, heads }, random))
    }

    /// Logits `[batch, classes]` of the first head for images `[batch, 1, height, width]`.
    pub fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        self.heads[0].forward(self.features(images))
    }

    /// The logits of every head.
    pub fn logits(&self, images: Tensor<4>) -> Vec<Tensor<2>> {
        let features = self.features(images);
        self.heads.iter().map(|head| head.forward(features.clone())).collect()
    }

    /// Mean cross-entropy in nats of the first head, shape `[1]`, of images `[batch, 1, height, width]` with labels `[batch]`.
    pub fn loss(&self, images: Tensor<4>, labels: Tensor<1, Int>) -> Tensor<1> {
        let device = images.device();
        CrossEntropyLossConfig::new().init(&device).forward(self.forward(images), labels)
    }

    /// What the heads see, `[batch, hidden]`.
    fn features(&self, images: Tensor<4>) -> Tensor<2> {
        let pool = MaxPool2dConfig::new([2, 2]).with_strides([2, 2]).init();
        let mut x = images;
        for (index, conv) in self.conv.iter().enumerate() {
            x = conv.forward(x);
            if let Some(norm) = self.batch.get(index) {
                x = norm.forward(x);
            }
            if let Some(norm) = self.group.get(index) {
                x = norm.forward(x);
            }
            x = pool.forward(relu(x));
        }
        let x: Tensor<2> = x.flatten(1, 3);
        self.linear.iter().fold(x, |x, linear| relu(linear.forward(x)))
    }
}

/// The layer with numbers for its running statistics, which a mapper does not reach, so that the records of two equal runs are equal.
fn numbered(mut norm: BatchNorm, index: usize) -> BatchNorm {
    let id = |place: usize| ParamId::from(u64::MAX - (2 * index + place) as u64);
    norm.running_mean = RunningState::with_id(id(0), norm.running_mean.value());
    norm.running_var = RunningState::with_id(id(1), norm.running_var.value());
    norm
}

/// The largest number of groups of at least two channels, at most eight, that divides the channels.
fn groups(channels: usize) -> usize {
    (1..=8.min(channels / 2)).rev().find(|groups| channels.is_multiple_of(*groups)).unwrap_or(1)
}

/// The images `indices` as `[batch, 1, height, width]`, shifted by `mean` and divided by `deviation` (both as fractions of full
/// ink), with their labels `[batch]`.
pub fn batch(
    images: &Images,
    indices: &[usize],
    (mean, deviation): (f64, f64),
    device: &Device,
) -> (Tensor<4>, Tensor<1, Int>) {
    let (factor, shift) = (1.0 / (f64::from(images.ink) * deviation.max(1e-6)), mean / deviation.max(1e-6));
    let values: Vec<f32> = indices
        .iter()
        .flat_map(|&index| images.image(index))
        .map(|&pixel| (f64::from(pixel) * factor - shift) as f32)
        .collect();
    let labels: Vec<i32> = indices.iter().map(|&index| i32::from(images.labels[index])).collect();
    let shape = [indices.len(), 1, images.height, images.width];
    (
        Tensor::from_data(TensorData::new(values, shape), device),
        Tensor::from_data(TensorData::new(labels, [indices.len()]), device),
    )
}

/// A module with weights drawn from `random`, uniform in ±√(3/n) for a unit of n inputs; biases stay as they are.
pub fn draw_weights<M: Module>(module: M, random: &mut Random) -> M {
    module.map(&mut Draw { random, drawn: 0 })
}

/// Draws weights in visit order, and numbers the parameters instead of leaving their ids to chance, so that the records of two
/// equal runs are equal byte for byte.
struct Draw<'a> {
    random: &'a mut Random,
    drawn: u64,
}

impl ModuleMapper for Draw<'_> {
    fn map_float<const D: usize>(&mut self, mut param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        self.drawn += 1;
        param.id = ParamId::from(self.drawn);
        let shape = param.dims();
        // Convolutions are [out, in, height, width], linear layers [in, out], biases [out].
        let inputs: usize = match D {
            1 => return param, // biases, and the scales of normalisations
            2 => shape[0],
            _ => shape[1..].iter().product(),
        };
        let bound = (3.0 / inputs as f64).sqrt();
        let values = self.random.uniform(shape, -bound, bound, &param.device());
        param.map(|zeros| values.set_require_grad(zeros.is_require_grad()))
    }
}
