//! The classifiers that `lab train` trains.

use burn::module::{Module, ModuleMapper, Param, ParamId};
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::loss::CrossEntropyLossConfig;
use burn::nn::pool::MaxPool2dConfig;
use burn::nn::{Initializer, Linear, LinearConfig, PaddingConfig2d};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Int, Tensor, TensorData};
use core_tensor::Random;

use crate::data::{CLASSES, Images};
use crate::error::{Error, Result};
use crate::recipe::{ModelName, ModelRecipe};

/// Smallest side of an image that the CNN can halve twice.
const SMALLEST: usize = 4;

/// Convolutions of 3 × 3 (each followed by ReLU and a 2 × 2 maximum), then linear layers with ReLU between them.
///
/// Without convolutions it is a multi-layer perceptron.
#[derive(Module, Debug)]
pub struct Classifier {
    conv: Vec<Conv2d>,
    linear: Vec<Linear>,
}

impl Classifier {
    /// The model of a recipe for images like these, on `device`, with weights drawn from `random`: uniform in ±√(3/n) for
    /// a unit of n inputs, so that their variance is 1/n; biases are zero. The values are the same on every device.
    ///
    /// # Errors
    /// [`Error::Value`] where the images are too small for the model.
    pub fn new(recipe: &ModelRecipe, images: &Images, random: &mut Random, device: &Device) -> Result<Self> {
        let (height, width) = (images.height, images.width);
        let zeros = Initializer::Zeros;
        let (conv, inputs) = match recipe.name {
            ModelName::Mlp => (Vec::new(), height * width),
            ModelName::Cnn if height.min(width) < SMALLEST => {
                return Err(Error::Value {
                    origin: format!("images of {height} x {width} pixels"),
                    field: "model.name".into(),
                    value: "cnn".into(),
                    expected: format!("mlp, or images of at least {SMALLEST} x {SMALLEST} pixels"),
                });
            }
            ModelName::Cnn => {
                let conv = |channels| {
                    Conv2dConfig::new(channels, [3, 3])
                        .with_padding(PaddingConfig2d::Same)
                        .with_initializer(zeros.clone())
                        .init(device)
                };
                let channels = recipe.channels;
                let layers = vec![conv([1, channels]), conv([channels, 2 * channels])];
                (layers, 2 * channels * (height / 4) * (width / 4))
            }
        };
        let mut widths = vec![inputs, recipe.hidden];
        if recipe.name == ModelName::Mlp {
            widths.push(recipe.hidden);
        }
        widths.push(CLASSES);
        let linear = widths
            .windows(2)
            .map(|pair| LinearConfig::new(pair[0], pair[1]).with_initializer(zeros.clone()).init(device))
            .collect();
        Ok(draw_weights(Self { conv, linear }, random))
    }

    /// Logits `[batch, CLASSES]` for images `[batch, 1, height, width]`.
    pub fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        let pool = MaxPool2dConfig::new([2, 2]).with_strides([2, 2]).init();
        let features = self.conv.iter().fold(images, |x, conv| pool.forward(relu(conv.forward(x))));
        let mut x: Tensor<2> = features.flatten(1, 3);
        for (index, linear) in self.linear.iter().enumerate() {
            x = linear.forward(if index == 0 { x } else { relu(x) });
        }
        x
    }

    /// Mean cross-entropy in nats, shape `[1]`, of images `[batch, 1, height, width]` with labels `[batch]`.
    pub fn loss(&self, images: Tensor<4>, labels: Tensor<1, Int>) -> Tensor<1> {
        let device = images.device();
        CrossEntropyLossConfig::new().init(&device).forward(self.forward(images), labels)
    }
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
            1 => return param,
            2 => shape[0],
            _ => shape[1..].iter().product(),
        };
        let bound = (3.0 / inputs as f64).sqrt();
        let values = self.random.uniform(shape, -bound, bound, &param.device());
        param.map(|zeros| values.set_require_grad(zeros.is_require_grad()))
    }
}
