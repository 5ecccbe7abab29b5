//! Real data for the tests: the digits that the lab embeds, and a network trained on them.

use std::io::Read;
use std::sync::OnceLock;

use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::optim::AdamConfig;
use burn::tensor::activation::relu;
use burn::tensor::{Device, Int, Tensor, TensorData};
use core_tensor::{Random, Tree};

use crate::training::{RobustProgram, RobustTraining, StandardTraining};

/// Ink from 0 to 1 of 8 × 8 pixels, and the digit.
pub struct Images {
    pub pixels: Vec<f32>,
    pub digits: Vec<usize>,
}

/// Every image, in the file's order.
pub fn all() -> &'static Images {
    static DIGITS: OnceLock<Images> = OnceLock::new();
    DIGITS.get_or_init(|| {
        let file: &[u8] = include_bytes!("../../lab/data/digits.csv.gz");
        let mut text = String::new();
        flate2::read::GzDecoder::new(file).read_to_string(&mut text).unwrap();
        let mut images = Images { pixels: Vec::new(), digits: Vec::new() };
        for line in text.lines() {
            let numbers: Vec<f32> = line.split(',').map(|x| x.parse().unwrap()).collect();
            images.pixels.extend(numbers[..64].iter().map(|x| x / 16.0));
            images.digits.push(numbers[64] as usize);
        }
        images
    })
}

/// Training and test images: every fifth is for testing.
pub fn load() -> &'static (Images, Images) {
    static SPLIT: OnceLock<(Images, Images)> = OnceLock::new();
    SPLIT.get_or_init(|| {
        let images = all();
        let part = |of_test: bool| {
            let chosen = (0..images.digits.len()).filter(|i| (i % 5 == 4) == of_test);
            let (pixels, digits) =
                chosen.map(|i| (&images.pixels[i * 64..(i + 1) * 64], images.digits[i])).unzip::<_, _, Vec<_>, _>();
            Images { pixels: pixels.concat(), digits }
        };
        (part(false), part(true))
    })
}

impl Images {
    /// Some of the images and their digits.
    pub fn select(&self, chosen: &[usize]) -> (Tensor<2>, Vec<usize>) {
        let pixels: Vec<f32> = chosen.iter().flat_map(|i| self.pixels[i * 64..(i + 1) * 64].to_vec()).collect();
        let x = Tensor::from_data(TensorData::new(pixels, [chosen.len(), 64]), &Device::flex());
        (x, chosen.iter().map(|i| self.digits[*i]).collect())
    }

    /// The first images.
    pub fn first(&self, count: usize) -> (Tensor<2>, Vec<usize>) {
        self.select(&(0..count).collect::<Vec<_>>())
    }
}

/// 64-64-10, ReLU.
#[derive(Module, Debug)]
pub struct Net {
    hidden: Linear,
    head: Linear,
}

impl Net {
    pub fn new(seed: u64) -> Self {
        let device = Device::flex().autodiff();
        let linear = |from, to| LinearConfig::new(from, to).init(&device);
        let net = Self { hidden: linear(64, 64), head: linear(64, 10) };
        let weights = Random::new(seed).normal_like(&Tree::from_module(&net), 0.12);
        weights.write_into(net).unwrap()
    }

    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.head.forward(relu(self.hidden.forward(x)))
    }
}

/// The network after so many steps of a method, from the same weights on the same batches.
pub fn train(method: &mut dyn RobustTraining<Net, 2>, steps: usize) -> Net {
    let (train, _) = load();
    let mut model = Net::new(1);
    let mut optimizer = AdamConfig::new().init();
    let mut random = Random::new(2);
    let program = RobustProgram::record(&model, &train.first(64).0, Net::forward).unwrap();
    for step in 0..steps {
        let chosen: Vec<usize> = (0..64).map(|_| random.below(train.digits.len() as u64) as usize).collect();
        let (x, y) = train.select(&chosen);
        let y: Vec<i64> = y.into_iter().map(|y| y as i64).collect();
        let y = Tensor::<1, Int>::from_data(TensorData::new(y, [64]), &Device::flex());
        let found = method.gradients(&program, &model, x, y).unwrap();
        let rate = 5e-3 * (1.0 - step as f64 / steps as f64);
        model = optimizer.step(rate, model, found.gradient.into_params().unwrap());
    }
    model.valid()
}

/// A network trained as usual, as attackers see it.
pub fn classifier() -> &'static crate::Recorded<Net, 2> {
    static TRAINED: OnceLock<crate::Recorded<Net, 2>> = OnceLock::new();
    TRAINED.get_or_init(|| recorded(&train(&mut StandardTraining::new(), 400)))
}

pub fn recorded(net: &Net) -> crate::Recorded<Net, 2> {
    crate::Recorded::new(net, [64], |net: &Net, x| net.forward(x)).unwrap()
}
