//! FP8 recipes and learned step sizes on real digits: they learn as well as `f32` does, and go on where they stopped.

#![forbid(unsafe_code)]

use std::sync::Mutex;

use burn::module::{Module, Param};
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::loss::CrossEntropyLossConfig;
use burn::nn::{Linear, LinearConfig};
use burn::optim::{GradientsParams, SgdConfig};
use burn::store::ModuleRecord;
use burn::tensor::activation::relu;
use burn::tensor::module::{conv2d, linear};
use burn::tensor::ops::ConvOptions;
use burn::tensor::{Device, Int, Tensor, TensorData};
use lab::data::{Images, digits};
use mixed_precision::fp8::{AmaxChoice, Fp8Conv2d, Fp8Linear, Recipe};
use mixed_precision::{Lsq, LsqConfig};

const BATCH: usize = 103;
const RATE: f64 = 0.3;
const STEPS: usize = 14 * 40;

/// A convolution, ReLU, and two linear layers.
trait Net: Module {
    fn logits(&self, x: Tensor<4>) -> Tensor<2>;
}

#[derive(Module, Debug)]
struct Plain {
    conv: Conv2d,
    hidden: Linear,
    head: Linear,
}

impl Plain {
    fn new(device: &Device) -> Self {
        // Burn's generator is one for all threads, and parameters draw when they are first looked at.
        static GENERATOR: Mutex<()> = Mutex::new(());
        let _alone = GENERATOR.lock();
        device.seed(17);
        let net = Self {
            conv: Conv2dConfig::new([1, 8], [3, 3]).init(device),
            hidden: LinearConfig::new(288, 32).init(device),
            head: LinearConfig::new(32, 10).init(device),
        };
        let _ = core_tensor::Tree::from_module(&net);
        net
    }

    fn fp8(self, recipe: Recipe) -> Fp8 {
        Fp8 {
            conv: Fp8Conv2d::new(self.conv, recipe),
            hidden: Fp8Linear::new(self.hidden, recipe),
            head: Fp8Linear::new(self.head, recipe),
        }
    }

    fn lsq(self, bits: usize) -> FewBits {
        let config = LsqConfig::weight(bits).unwrap();
        FewBits {
            conv_step: config.init(&self.conv.weight.val()).unwrap(),
            hidden_step: config.init(&self.hidden.weight.val()).unwrap(),
            head_step: config.init(&self.head.weight.val()).unwrap(),
            plain: self,
        }
    }
}

impl Net for Plain {
    fn logits(&self, x: Tensor<4>) -> Tensor<2> {
        let x = relu(self.conv.forward(x)).flatten(1, 3);
        self.head.forward(relu(self.hidden.forward(x)))
    }
}

#[derive(Module, Debug)]
struct Fp8 {
    conv: Fp8Conv2d,
    hidden: Fp8Linear,
    head: Fp8Linear,
}

impl Net for Fp8 {
    fn logits(&self, x: Tensor<4>) -> Tensor<2> {
        let x = relu(self.conv.forward(x).unwrap()).flatten(1, 3);
        self.head.forward(relu(self.hidden.forward(x).unwrap())).unwrap()
    }
}

#[derive(Module, Debug)]
struct FewBits {
    plain: Plain,
    conv_step: Lsq,
    hidden_step: Lsq,
    head_step: Lsq,
}

impl Net for FewBits {
    fn logits(&self, x: Tensor<4>) -> Tensor<2> {
        let Plain { conv, hidden, head } = &self.plain;
        let bias = |bias: &Option<Param<Tensor<1>>>| bias.as_ref().map(Param::val);
        let options = ConvOptions::new([1, 1], [0, 0], [1, 1], 1);
        let weight = self.conv_step.forward(conv.weight.val()).unwrap();
        let x = relu(conv2d(x, weight, bias(&conv.bias), options)).flatten(1, 3);
        let weight = self.hidden_step.forward(hidden.weight.val()).unwrap();
        let x = relu(linear::<2>(x, weight, bias(&hidden.bias)));
        linear(x, self.head_step.forward(head.weight.val()).unwrap(), bias(&head.bias))
    }
}

fn tensors(images: &Images, from: usize, to: usize, device: &Device) -> (Tensor<4>, Tensor<1, Int>) {
    let (height, width, count) = (images.height, images.width, to - from);
    let size = height * width;
    let pixels = images.pixels[from * size..to * size].iter();
    let pixels: Vec<f32> = pixels.map(|p| f32::from(*p) / f32::from(images.ink)).collect();
    let labels: Vec<i64> = images.labels[from..to].iter().map(|y| i64::from(*y)).collect();
    let x = Tensor::from_data(TensorData::new(pixels, [count, 1, height, width]), device);
    (x, Tensor::from_data(TensorData::new(labels, [count]), device))
}

/// Steps of plain SGD, which keeps no state of its own: all that counts is in the model.
fn train<N: Net>(mut net: N, steps: std::ops::Range<usize>, rate: f64, device: &Device) -> N {
    let data = digits::load().unwrap().train;
    let batches = data.len() / BATCH;
    let loss = CrossEntropyLossConfig::new().init(device);
    let mut optim = SgdConfig::new().init();
    for step in steps {
        let from = step % batches * BATCH;
        let (x, y) = tensors(&data, from, from + BATCH, device);
        let grads = loss.forward(net.logits(x), y).backward();
        let grads = GradientsParams::from_grads(grads, &net);
        net = optim.step(rate, net, grads);
    }
    net
}

fn accuracy<N: Net>(net: &N) -> f64 {
    let data = digits::load().unwrap().test;
    let device = Device::flex();
    let (x, y) = tensors(&data, 0, data.len(), &device);
    let found = net.valid().logits(x).argmax(1).flatten::<1>(0, 1);
    let right = found.equal(y).int().sum().into_data().iter::<i64>().next().unwrap();
    right as f64 / data.len() as f64
}

fn bits<M: Module>(module: M) -> Vec<(String, Vec<u8>)> {
    let tree = core_tensor::Tree::from_module(&module);
    tree.to_data().into_iter().map(|(name, data)| (name, data.as_bytes().to_vec())).collect()
}

#[test]
fn fp8_learns_as_f32_does() {
    let device = Device::flex().autodiff();
    let start = Plain::new(&device);
    let exact = accuracy(&train(start.clone(), 0..STEPS, RATE, &device));
    assert!(exact > 0.93, "{exact}");
    let delayed = Recipe::delayed().history(16).unwrap();
    for recipe in
        [delayed, delayed.choice(AmaxChoice::MostRecent), Recipe::current(), Recipe::per_row(), Recipe::per_block()]
    {
        let found = accuracy(&train(start.clone().fp8(recipe), 0..STEPS, RATE, &device));
        println!("{recipe:?}: {found:.4} of {exact:.4}");
        // The test set has 355 digits: six of them.
        assert!(found >= exact - 6.5 / 355.0, "{recipe:?}: {found}, in f32 {exact}");
    }
}

#[test]
fn training_resumes_bit_for_bit_with_its_histories() {
    let device = Device::flex().autodiff();
    let recipe = Recipe::delayed().history(8).unwrap();
    let start = || Plain::new(&device).fp8(recipe);
    let half = train(start(), 0..20, RATE, &device);
    let saved = half.clone().into_record().into_bytes().unwrap();
    let weights = half.clone().into_record();
    let whole = train(half, 20..40, RATE, &device);

    let record = ModuleRecord::from_bytes(saved).unwrap();
    let resumed = train(start().load_record(record), 20..40, RATE, &device);
    let histories = |net: &Fp8| {
        let scaling = [&net.conv.scaling, &net.hidden.scaling, &net.head.scaling];
        let state = scaling
            .map(|s| s.as_ref().unwrap())
            .map(|s| [&s.input, &s.weight, &s.gradient].map(|a| (a.history(), a.scale())));
        state.into_iter().flatten().collect::<Vec<_>>()
    };
    assert_eq!(histories(&resumed), histories(&whole));
    assert!(histories(&whole).iter().all(|(history, scale)| history[1..].iter().all(|a| *a > 0.0) && *scale > 1.0));
    let expected = bits(whole);
    assert_eq!(bits(resumed), expected);

    // Without the histories it would not be the same.
    let fresh = start().load_record(weights);
    let fresh =
        Plain { conv: fresh.conv.into_conv2d(), hidden: fresh.hidden.into_linear(), head: fresh.head.into_linear() };
    assert_ne!(bits(train(fresh.fp8(recipe), 20..40, RATE, &device)), expected);
}

#[test]
fn learned_steps_keep_the_accuracy_of_four_bit_weights() {
    let device = Device::flex().autodiff();
    let net = train(Plain::new(&device), 0..STEPS, RATE, &device);
    let exact = accuracy(&net);
    for (bits, lost) in [(4, 6.5 / 355.0), (2, 0.03)] {
        let start = net.clone().lsq(bits);
        let rounded = accuracy(&start);
        let trained = accuracy(&train(start, 0..STEPS, RATE / 4.0, &device));
        println!("{bits} bits: {trained:.4}, {rounded:.4} before training, {exact:.4} in f32");
        assert!(trained >= exact - lost, "{bits} bits: {trained}, in f32 {exact}");
    }
}
