//! Rendered pictures and a network trained on them, for the tests.

use burn::module::Module;
use burn::nn::loss::CrossEntropyLossConfig;
use burn::nn::{Linear, LinearConfig};
use burn::optim::{AdamConfig, GradientsParams};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Int, Tensor, TensorData};
use core_tensor::{Random, Tree};

use crate::classifier::Recorded;

/// 64-32-k on pictures of 8 × 8.
#[derive(Module, Debug)]
pub(crate) struct Net {
    first: Linear,
    second: Linear,
}

impl Net {
    fn forward(&self, x: Tensor<4>) -> Tensor<2> {
        self.second.forward(relu(self.first.forward(x.flatten::<2>(1, 3))))
    }
}

/// Pictures of a bar, upright, lying or from corner to corner, at some place and brightness, with noise.
pub(crate) fn bars(count: usize, seed: u64) -> (Tensor<4>, Vec<usize>) {
    let mut random = Random::new(seed);
    let (mut pixels, mut labels) = (Vec::new(), Vec::new());
    for i in 0..count {
        let class = i % 3;
        let place = random.next_f64() * 3.0 + 2.0;
        let ink = 0.6 + 0.3 * random.next_f64();
        for pixel in 0..64 {
            let (row, column) = ((pixel / 8) as f64, (pixel % 8) as f64);
            let off = match class {
                0 => column - place,
                1 => row - place,
                _ => (row - column + place - 3.5) / 1.4,
            };
            let value = ink * (-off * off).exp() + 0.05 * random.next_f64();
            pixels.push(value as f32);
        }
        labels.push(class);
    }
    (Tensor::from_data(TensorData::new(pixels, [count, 1, 8, 8]), &Device::flex()), labels)
}

/// A network that knows bars.
pub(crate) fn classifier() -> Recorded<Net, 4> {
    let (x, labels) = bars(150, 9);
    train(x, &labels, 3)
}

/// Digits that the lab embeds, ink from 0 to 1: every fifth image, from the given one on, and what it shows.
pub(crate) fn digits(first: usize, count: usize) -> (Tensor<4>, Vec<usize>) {
    let chosen: Vec<usize> = (0..count).map(|i| first + 5 * i).collect();
    let (x, labels) = crate::digits::all().select(&chosen);
    (x.reshape([count, 1, 8, 8]), labels)
}

/// A network trained on pictures.
pub(crate) fn train(x: Tensor<4>, labels: &[usize], classes: usize) -> Recorded<Net, 4> {
    let device = Device::flex().autodiff();
    let net =
        Net { first: LinearConfig::new(64, 32).init(&device), second: LinearConfig::new(32, classes).init(&device) };
    let mut net = Random::new(1).normal_like(&Tree::from_module(&net), 0.15).write_into(net).unwrap();
    let mut adam = AdamConfig::new().init();
    let x = Tensor::<4>::from_data(x.into_data(), &device);
    let count = labels.len();
    let labels: Vec<i64> = labels.iter().map(|label| *label as i64).collect();
    let y = Tensor::<1, Int>::from_data(TensorData::new(labels, [count]), &device);
    let loss = CrossEntropyLossConfig::new().init(&device);
    for _ in 0..60 {
        let gradients = loss.forward(net.forward(x.clone()), y.clone()).backward();
        let gradients = GradientsParams::from_grads(gradients, &net);
        net = adam.step(0.01, net, gradients);
    }
    Recorded::new(&net, [1, 8, 8], |net: &Net, x| net.forward(x)).unwrap()
}
