//! Networks of rendered pictures.

use std::time::Instant;

use adversarial::training::{RobustProgram, RobustTraining, StandardTraining};
use adversarial::{Classifier as _, Recorded};
use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::pool::MaxPool2dConfig;
use burn::nn::{Initializer, Linear, LinearConfig, PaddingConfig2d};
use burn::optim::{AdamWConfig, ModuleOptimizer};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Int, Tensor, TensorData};
use core_tensor::Random;

use crate::error::Result;
use crate::model::draw_weights;
use crate::study::toolkit::parallel;

const CHANNELS: [usize; 3] = [16, 32, 48];
const HIDDEN: usize = 64;
const BATCH: usize = 64;
const RATE: f64 = 3e-3;
/// Pictures that are drawn, or classified, together.
const CHUNK: usize = 64;

/// Three convolutions of 3 × 3, each followed by ReLU and a 2 × 2 maximum, and two linear layers; pictures of three channels from 0
/// to 1.
#[derive(Module, Debug)]
pub struct Network {
    conv: Vec<Conv2d>,
    hidden: Linear,
    head: Linear,
}

/// Pictures `[3, side, side]`, one after the other, with their classes.
pub struct Pictures {
    pub pixels: Vec<f32>,
    pub labels: Vec<usize>,
    pub side: usize,
}

/// A trained network as attackers see it.
pub struct Trained {
    pub classifier: Recorded<Network, 4>,
    /// Share of the held-out pictures classified right, for each class.
    pub accuracies: Vec<f64>,
    /// The same of all of them.
    pub accuracy: f64,
    pub seconds: f64,
}

impl Network {
    fn new(side: usize, classes: usize, random: &mut Random, device: &Device) -> Self {
        let zeros = || Initializer::Zeros;
        let inputs = [3, CHANNELS[0], CHANNELS[1]];
        let conv = inputs.into_iter().zip(CHANNELS).map(|(from, to)| {
            let config = Conv2dConfig::new([from, to], [3, 3]).with_padding(PaddingConfig2d::Same);
            config.with_initializer(zeros()).init(device)
        });
        let linear = |from, to| LinearConfig::new(from, to).with_initializer(zeros()).init(device);
        let features = CHANNELS[2] * (side / 8) * (side / 8);
        let network = Self { conv: conv.collect(), hidden: linear(features, HIDDEN), head: linear(HIDDEN, classes) };
        draw_weights(network, random)
    }

    fn forward(&self, pictures: Tensor<4>) -> Tensor<2> {
        let pool = MaxPool2dConfig::new([2, 2]).with_strides([2, 2]).init();
        let features = self.conv.iter().fold(pictures * 2.0 - 1.0, |x, conv| pool.forward(relu(conv.forward(x))));
        self.head.forward(relu(self.hidden.forward(features.flatten(1, 3))))
    }
}

impl Pictures {
    /// `count` pictures on all cores, the classes in turn, each from random numbers of its own.
    pub fn draw(
        count: usize,
        classes: usize,
        side: usize,
        random: &Random,
        picture: impl Fn(usize, &mut Random) -> adversarial::Result<Vec<f32>> + Sync,
    ) -> Result<Self> {
        let chunks: Vec<usize> = (0..count).step_by(CHUNK).collect();
        let drawn = parallel(&chunks, |first| {
            let mut pixels = Vec::new();
            for i in *first..(first + CHUNK).min(count) {
                pixels.extend(picture(i % classes, &mut random.fork((i as u64).to_le_bytes()))?);
            }
            Ok(pixels)
        })?;
        Ok(Self { pixels: drawn.concat(), labels: (0..count).map(|i| i % classes).collect(), side })
    }

    pub fn len(&self) -> usize {
        self.labels.len()
    }

    pub fn picture(&self, i: usize) -> &[f32] {
        let size = 3 * self.side * self.side;
        &self.pixels[i * size..(i + 1) * size]
    }

    /// Some of them, `[pictures, 3, side, side]`.
    pub fn select(&self, chosen: &[usize], device: &Device) -> Tensor<4> {
        let pixels: Vec<f32> = chosen.iter().flat_map(|i| self.picture(*i)).copied().collect();
        tensor(pixels, self.side, device)
    }
}

/// Pictures of a side as a batch.
pub fn tensor(pixels: Vec<f32>, side: usize, device: &Device) -> Tensor<4> {
    let count = pixels.len() / (3 * side * side);
    Tensor::from_data(TensorData::new(pixels, [count, 3, side, side]), device)
}

/// Trains a network on pictures by AdamW, and measures it on others.
pub fn train(
    data: &Pictures,
    held_out: &Pictures,
    classes: usize,
    epochs: usize,
    random: &Random,
    device: &Device,
) -> Result<Trained> {
    let begun = Instant::now();
    let mut model = Network::new(data.side, classes, &mut random.fork("weights"), &device.clone().autodiff());
    let mut optimizer: ModuleOptimizer = AdamWConfig::new().with_epsilon(1e-8).with_weight_decay(1e-3).init();
    let mut order = random.fork("order");
    let shape = data.select(&(0..BATCH).collect::<Vec<_>>(), device);
    let program = RobustProgram::record(&model, &shape, |model: &Network, x| model.forward(x))?;
    let mut method = StandardTraining::new();
    let (steps, mut step) = (epochs * (data.len() / BATCH), 0);
    for _ in 0..epochs {
        // What does not fill a batch is left out, as a program has one size.
        for chosen in order.permutation(data.len()).chunks_exact(BATCH) {
            let labels: Vec<i32> = chosen.iter().map(|i| data.labels[*i] as i32).collect();
            let labels = Tensor::<1, Int>::from_data(TensorData::new(labels, [BATCH]), device);
            let found = method.gradients(&program, &model, data.select(chosen, device), labels)?;
            let rate = RATE * (1.0 - step as f64 / steps as f64);
            model = optimizer.step(rate, model, found.gradient.into_params()?);
            step += 1;
        }
    }
    let side = data.side;
    let classifier = Recorded::new(&model.valid(), [3, side, side], |model: &Network, x| model.forward(x))?;
    let (mut right, mut all) = (vec![0usize; classes], vec![0usize; classes]);
    for ((class, _), label) in predictions(&classifier, &held_out.pixels, side)?.iter().zip(&held_out.labels) {
        all[*label] += 1;
        right[*label] += usize::from(class == label);
    }
    Ok(Trained {
        accuracies: right.iter().zip(&all).map(|(right, all)| *right as f64 / *all as f64).collect(),
        accuracy: right.iter().sum::<usize>() as f64 / held_out.len() as f64,
        classifier,
        seconds: begun.elapsed().as_secs_f64(),
    })
}

/// The class read in each picture and its probability.
pub fn predictions(classifier: &Recorded<Network, 4>, pixels: &[f32], side: usize) -> Result<Vec<(usize, f64)>> {
    let mut read = Vec::new();
    for chunk in pixels.chunks(CHUNK * 3 * side * side) {
        let logits = classifier.logits(tensor(chunk.to_vec(), side, &classifier.device()))?;
        let classes = logits.dims()[1];
        for logits in logits.into_data().iter::<f64>().collect::<Vec<_>>().chunks(classes) {
            let class = (0..classes).fold(0, |a, b| if logits[b] > logits[a] { b } else { a });
            let sum: f64 = logits.iter().map(|z| (z - logits[class]).exp()).sum();
            read.push((class, 1.0 / sum));
        }
    }
    Ok(read)
}
