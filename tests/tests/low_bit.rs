//! Optimizer state of few bits on real digits: the losses of `f32` state, in a third of its bytes or less.

#![forbid(unsafe_code)]

use burn::module::Module;
use burn::nn::loss::CrossEntropyLossConfig;
use burn::nn::{Linear, LinearConfig};
use burn::optim::{
    AdamWConfig, GradientsParams, LionConfig, ModuleOptimizer, Optimizer, SgdConfig, momentum::MomentumConfig,
};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Int, Tensor, TensorData};
use core_tensor::{Random, Tree};
use lab::data::{Images, digits};
use mixed_precision::optim::{LowBitState, LowPrecisionWeights, StateFormat, WeightUpdate, state_bytes};

const BATCH: usize = 64;
const EPOCHS: usize = 15;

#[derive(Module, Debug)]
struct Mlp {
    hidden: Linear,
    head: Linear,
}

impl Mlp {
    /// Weights that depend on `seed` alone, drawn as Burn draws them: uniform in `±1/√d_input`.
    fn new(seed: u64, device: &Device) -> Self {
        let net = Self { hidden: LinearConfig::new(64, 96).init(device), head: LinearConfig::new(96, 10).init(device) };
        let random = Random::new(seed);
        let drawn = |name: &str, shape: [usize; 2]| {
            let limit = 1.0 / (shape[0] as f64).sqrt();
            random.fork(name).uniform(shape, -limit, limit, device)
        };
        let tree = Tree::empty()
            .push("hidden.weight", drawn("hidden", [64, 96]))
            .and_then(|tree| tree.push("hidden.bias", Tensor::<1>::zeros([96], device)))
            .and_then(|tree| tree.push("head.weight", drawn("head", [96, 10])))
            .and_then(|tree| tree.push("head.bias", Tensor::<1>::zeros([10], device)));
        tree.unwrap().write_into(net).unwrap()
    }

    fn logits(&self, x: Tensor<2>) -> Tensor<2> {
        self.head.forward(relu(self.hidden.forward(x)))
    }
}

fn tensors(images: &Images, rows: &[usize], device: &Device) -> (Tensor<2>, Tensor<1, Int>) {
    let size = images.height * images.width;
    let pixel = |i: usize| f32::from(images.pixels[i]) / f32::from(images.ink);
    let pixels: Vec<f32> = rows.iter().flat_map(|row| (row * size..(row + 1) * size).map(pixel)).collect();
    let labels: Vec<i64> = rows.iter().map(|row| i64::from(images.labels[*row])).collect();
    let x = Tensor::from_data(TensorData::new(pixels, [rows.len(), size]), device);
    (x, Tensor::from_data(TensorData::new(labels, [rows.len()]), device))
}

/// The mean loss of every epoch and the share of the test images that is told right.
fn train(mut optim: ModuleOptimizer, rate: f64, order: u64, device: &Device) -> (Vec<f64>, f64) {
    let data = digits::load().unwrap();
    let mut net = Mlp::new(5, device);
    let (loss, mut shuffle) = (CrossEntropyLossConfig::new().init(device), Random::new(order));
    let mut curve = Vec::new();
    for _ in 0..EPOCHS {
        let rows = shuffle.permutation(data.train.len());
        let mut losses = Vec::new();
        for rows in rows.chunks_exact(BATCH) {
            let (x, y) = tensors(&data.train, rows, device);
            let value = loss.forward(net.logits(x), y);
            losses.push(value.clone().inner().into_scalar::<f64>());
            let grads = GradientsParams::from_grads(value.backward(), &net);
            net = optim.step(rate, net, grads);
        }
        curve.push(losses.iter().sum::<f64>() / losses.len() as f64);
    }
    let rows: Vec<usize> = (0..data.test.len()).collect();
    let (x, y) = tensors(&data.test, &rows, device);
    let right = net.logits(x).argmax(1).squeeze_dim::<1>(1).equal(y).int().sum().into_scalar::<f64>();
    (curve, right / rows.len() as f64)
}

/// The largest distance of two curves, in units of the first's value there.
fn apart(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b).abs() / a).fold(0.0, f64::max)
}

#[test]
fn adamw_learns_with_8_and_4_bits_as_with_32() {
    let device = Device::flex().autodiff();
    let config = || AdamWConfig::new().with_weight_decay(1e-4);
    let low = |format| config().low_bit(format).unwrap().init();
    let (reference, right) = train(config().init(), 3e-3, 0, &device);
    // What another order of the images does to the curve.
    let noise = (1..4).map(|order| apart(&reference, &train(config().init(), 3e-3, order, &device).0));
    let noise = noise.fold(0.0, f64::max);
    for (format, within) in [
        (StateFormat::F32, 1e-2),
        (StateFormat::DYNAMIC8, noise),
        (StateFormat::LINEAR8, noise),
        (StateFormat::FP8, noise),
        (StateFormat::LINEAR4, 2.0 * noise),
    ] {
        let (curve, accuracy) = train(low(format), 3e-3, 0, &device);
        let distance = apart(&reference, &curve);
        println!("{format:?}: curve {distance:.4} apart (noise {noise:.4}), {accuracy:.4} right (f32 {right:.4})");
        assert!(distance <= within, "{format:?}: {distance} of {within}");
        assert!(accuracy >= right - 0.015, "{format:?}: {accuracy} of {right}");
    }
}

#[test]
fn momentum_and_lion_learn_with_8_bits() {
    let device = Device::flex().autodiff();
    let sgd = || SgdConfig::new().with_momentum(Some(MomentumConfig::new().with_momentum(0.9)));
    let lion = LionConfig::new;
    let formats = [StateFormat::DYNAMIC8, StateFormat::FP8];
    let (_, right) = train(sgd().init(), 0.1, 0, &device);
    for format in formats {
        let (_, accuracy) = train(sgd().low_bit(format).unwrap().init(), 0.1, 0, &device);
        println!("momentum {format:?}: {accuracy:.4} (f32 {right:.4})");
        assert!(accuracy >= right - 0.015, "{format:?}: {accuracy} of {right}");
    }
    let (_, right) = train(lion().init(), 3e-4, 0, &device);
    for format in formats {
        let (_, accuracy) = train(lion().low_bit(format).unwrap().init(), 3e-4, 0, &device);
        println!("Lion {format:?}: {accuracy:.4} (f32 {right:.4})");
        assert!(accuracy >= right - 0.015, "{format:?}: {accuracy} of {right}");
    }
}

#[test]
fn weights_of_16_bits_learn_as_f32_ones() {
    let device = Device::flex().autodiff();
    let (_, right) = train(AdamWConfig::new().init(), 3e-3, 0, &device);
    for update in [WeightUpdate::Kahan, WeightUpdate::Stochastic(1), WeightUpdate::Remainder8, WeightUpdate::MasterF32]
    {
        // The tensors stay `f32` and hold numbers of `bf16`.
        let optim = LowPrecisionWeights::new(AdamWConfig::new().build(), update);
        let (_, accuracy) = train(optim.into(), 3e-3, 0, &device);
        println!("{update:?}: {accuracy:.4} (f32 {right:.4})");
        assert!(accuracy >= right - 0.015, "{update:?}: {accuracy} of {right}");
    }
}

/// The bytes that a saved state holds, of a matrix of a million elements.
#[test]
fn adamw_state_of_8_bits_takes_less_than_a_third() {
    let device = Device::flex();
    let x = Tensor::<2>::ones([1000, 1000], &device);
    let (_, full) = AdamWConfig::new().build().step(0.1, x.clone(), x.clone(), None);
    let full = state_bytes(&full.unwrap()) as f64;
    for (format, share) in [
        (StateFormat::DYNAMIC8, 0.26),
        (StateFormat::LINEAR8, 0.26),
        (StateFormat::FP8, 0.26),
        (StateFormat::LINEAR4, 0.14),
        (StateFormat::DYNAMIC4, 0.14),
    ] {
        let low = AdamWConfig::new().low_bit(format).unwrap();
        let (_, state) = low.step(0.1, x.clone(), x.clone(), None);
        let bytes = state_bytes(&state.unwrap()) as f64;
        assert!(bytes <= share * full, "{format:?}: {bytes} of {full}");
    }
}
