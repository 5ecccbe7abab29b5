//! Models of burn-nn trained in mixed precision, their code as it is: real 16-bit types on flex, emulated ones on ndarray.

#![cfg(all(feature = "flex", feature = "ndarray"))]
#![forbid(unsafe_code)]

use burn::module::{Module, ModuleMapper, Param};
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::gru::{Gru, GruConfig};
use burn::nn::loss::CrossEntropyLossConfig;
use burn::nn::pool::{MaxPool2d, MaxPool2dConfig};
use burn::nn::transformer::{TransformerEncoder, TransformerEncoderConfig, TransformerEncoderInput};
use burn::nn::{Linear, LinearConfig, Lstm, LstmConfig};
use burn::optim::AdamConfig;
use burn::tensor::activation::relu;
use burn::tensor::{DType, Device, FloatDType, Int, Tensor, TensorData};
use clipping::ClipByGlobalNorm;
use core_tensor::testing::host_devices;
use core_tensor::transform::{Chain, Outcome};
use core_tensor::{Autocast, Program, Tree};
use crucible_tests::coverage::{Expect, Mixed, Outcome as Checked, cases};
use crucible_tests::draw::Draw;
use lab::data::digits;
use mixed_precision::{Amp, LossScale, autocast};

type Labelled = (Tensor<3>, Tensor<1, Int>);

/// The embedded digits as rows of pixels, `[batch, 8, 8]`, in batches of 103.
fn batches(device: &Device) -> Vec<Labelled> {
    let images = digits::load().expect("the embedded digits").train;
    let all: Vec<usize> = (0..images.len()).collect();
    let batch = |indices: &[usize]| {
        let pixels: Vec<f32> = indices.iter().flat_map(|i| images.image(*i)).map(|x| f32::from(*x) / 16.0).collect();
        let labels: Vec<i64> = indices.iter().map(|i| i64::from(images.labels[*i])).collect();
        let x = Tensor::from_data(TensorData::new(pixels, [indices.len(), 8, 8]), device);
        (x, Tensor::from_data(TensorData::new(labels, [indices.len()]), device))
    };
    all.chunks_exact(103).map(batch).collect()
}

fn cross_entropy(logits: Tensor<2>, labels: &Tensor<1, Int>) -> Tensor<1> {
    CrossEntropyLossConfig::new().init(&logits.device()).forward(logits, labels.clone())
}

/// A row of pixels is a position.
#[derive(Module, Debug)]
struct Transformer {
    embed: Linear,
    encoder: TransformerEncoder,
    head: Linear,
}

impl Transformer {
    fn new(device: &Device) -> Self {
        Self {
            embed: LinearConfig::new(8, 32).init(device),
            encoder: TransformerEncoderConfig::new(32, 64, 4, 2).with_norm_first(true).with_dropout(0.1).init(device),
            head: LinearConfig::new(8 * 32, 10).init(device),
        }
    }

    fn loss(&self, (x, y): &Labelled) -> Tensor<1> {
        let h = self.encoder.forward(TransformerEncoderInput::new(self.embed.forward(x.clone())));
        cross_entropy(self.head.forward(h.flatten(1, 2)), y)
    }
}

#[derive(Module, Debug)]
struct Cnn {
    first: Conv2d,
    second: Conv2d,
    pool: MaxPool2d,
    head: Linear,
}

impl Cnn {
    fn new(device: &Device) -> Self {
        Self {
            first: Conv2dConfig::new([1, 8], [3, 3]).init(device),
            second: Conv2dConfig::new([8, 16], [3, 3]).init(device),
            pool: MaxPool2dConfig::new([2, 2]).with_strides([2, 2]).init(),
            head: LinearConfig::new(64, 10).init(device),
        }
    }

    fn loss(&self, (x, y): &Labelled) -> Tensor<1> {
        let h = relu(self.first.forward(x.clone().unsqueeze_dim(1)));
        let h = self.pool.forward(relu(self.second.forward(h)));
        cross_entropy(self.head.forward(h.flatten(1, 3)), y)
    }
}

#[derive(Module, Debug)]
struct Recurrent {
    lstm: Lstm,
    gru: Gru,
    head: Linear,
}

impl Recurrent {
    fn new(device: &Device) -> Self {
        Self {
            lstm: LstmConfig::new(8, 24, true).init(device),
            gru: GruConfig::new(24, 24, true).init(device),
            head: LinearConfig::new(24, 10).init(device),
        }
    }

    fn loss(&self, (x, y): &Labelled) -> Tensor<1> {
        let h = self.gru.forward(self.lstm.forward(x.clone(), None).0, None);
        cross_entropy(self.head.forward(h.slice_dim(1, 7..8).squeeze_dim(1)), y)
    }
}

/// Losses of a run on the digits, and the steps skipped.
fn train<M: Module + Sync + 'static>(
    model: M,
    loss: fn(&M, &Labelled) -> Tensor<1>,
    device: &Device,
    by: Option<Autocast>,
    scale: LossScale,
    steps: usize,
) -> (Vec<f64>, usize) {
    let mut model = model;
    let batches = batches(device);
    let mut program = Program::record_first_order(&model, &batches[0], loss).unwrap();
    if let Some(by) = &by {
        program = program.autocast(by);
        let report = program.autocast_report(&Tree::from_module(&model), &batches[0]).unwrap().unwrap();
        assert_eq!(report.emulated, !device.supports_dtype(by.low()));
        assert!(report.low_operations > 0 && report.full_operations > 0 && report.casts_down > 0);
        println!("{report}");
    }
    let chain = Chain::new().then(ClipByGlobalNorm::new(1.0).unwrap());
    let mut amp = Amp::new(program, scale, chain, AdamConfig::new().init());
    let start = amp.program().value(&Tree::from_module(&model), &batches[0]).unwrap();
    let (mut losses, mut skipped) = (vec![f64::from(start.into_scalar::<f32>())], 0);
    for step in 0..steps {
        amp.program().reseed(step as u64);
        model = match amp.step(5e-3, model, &batches[step % batches.len()]).unwrap() {
            Outcome::Stepped { model, report } => {
                losses.push(report.loss.unwrap().value());
                model
            }
            Outcome::Skipped { model, .. } => {
                skipped += 1;
                model
            }
        };
    }
    assert!(Tree::from_module(&model).iter().all(|(_, leaf)| burn::backend::TensorMetadata::dtype(leaf) == DType::F32));
    (losses, skipped)
}

/// Weights drawn alike everywhere, uniform with the variance of one over their inputs; biases zero, scales as they are.
struct Init(Draw);

impl ModuleMapper for Init {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let shape: [usize; D] = param.dims();
        let inputs = match D {
            1 => {
                let value = param.val().inner();
                let one = value.clone().equal_elem(1.0).all().into_scalar::<bool>();
                let value = if one { value } else { value.zeros_like() };
                return Param::from_tensor(Tensor::from_inner(value));
            }
            2 => shape[0],
            _ => shape[1..].iter().product(),
        };
        let bound = (3.0 / inputs as f64).sqrt();
        let values = self.0.numbers(shape.iter().product(), -bound, bound);
        Param::from_tensor(Tensor::from_data(TensorData::new(values, shape), &self.0.autodiff()))
    }
}

fn mean(losses: &[f64]) -> f64 {
    losses.iter().sum::<f64>() / losses.len() as f64
}

/// Trains in `f32`, `bf16` and `f16` and holds the losses of the last ten steps against each other.
fn compare<M: Module + Sync + 'static>(
    name: &str,
    new: fn(&Device) -> M,
    loss: fn(&M, &Labelled) -> Tensor<1>,
    steps: usize,
    near: f64,
) {
    for plain in host_devices() {
        let model = new(&plain.clone().autodiff()).map(&mut Init(Draw::new(7, &plain)));
        let one = || LossScale::fixed(1.0).unwrap();
        let run = |by: Option<Autocast>, scale: LossScale| {
            let (losses, skipped) = train(model.clone(), loss, &plain, by, scale, steps);
            (losses[0], mean(&losses[losses.len() - 10..]), skipped)
        };
        let full = run(None, one());
        let brain = run(Some(autocast::bf16()), one());
        let half = run(Some(autocast::f16()), LossScale::dynamic().init_scale(4096.0).unwrap());
        println!("{name}: first, last ten, skipped: f32 {full:?}, bf16 {brain:?}, f16 {half:?}");
        assert!(full.1 < 0.5 * full.0, "{name} learns in f32: {full:?}");
        for low in [brain, half] {
            assert!((low.0 / full.0 - 1.0).abs() < 0.01, "{name}: the first loss is that of f32: {low:?}, {full:?}");
            assert!((low.1 / full.1 - 1.0).abs() < near, "{name}: the last losses are those of f32: {low:?}, {full:?}");
        }
        assert_eq!((full.2, brain.2), (0, 0));
    }
}

#[test]
fn a_transformer_learns_as_in_f32() {
    compare("transformer", Transformer::new, Transformer::loss, 60, 0.1);
}

#[test]
fn a_convolutional_network_learns_as_in_f32() {
    compare("cnn", Cnn::new, Cnn::loss, 60, 0.1);
}

#[test]
fn recurrent_layers_learn_as_in_f32() {
    compare("lstm and gru", Recurrent::new, Recurrent::loss, 80, 0.1);
}

/// The same numbers on both backends where every sum is exact in `f32`, so that only the roundings to 16 bits count.
#[test]
fn emulation_on_ndarray_is_flex_bit_for_bit_where_sums_are_exact() {
    let outputs = host_devices().into_iter().map(|device| {
        let mut draw = Draw::new(5, &device);
        let mut whole = |rows: usize, columns: usize| {
            let numbers = draw.numbers(rows * columns, -15.0, 16.0).into_iter().map(f64::floor).collect();
            Tensor::<2>::from_data(TensorData::new::<f64, _>(numbers, [rows, columns]), &device)
        };
        let (x, first, second) = (whole(9, 16), whole(16, 16), whole(16, 5));
        let point = Tree::empty().push("first", first).and_then(|tree| tree.push("second", second)).unwrap();
        let program = Program::record_tree(&point, &x, |point, x| {
            let h = relu(x.clone().matmul(point.get("first").unwrap()));
            h.matmul(point.get::<2>("second").unwrap()).sum()
        })
        .unwrap();
        let exact = program.value(&point, &x).unwrap().into_scalar::<f32>();
        let out = program.autocast(&autocast::bf16()).value_and_grad(&point, &x).unwrap();
        let value = out.value.into_scalar::<f32>();
        assert_ne!(value, exact, "16 bits round");
        (value, numbers(&out.gradient))
    });
    let outputs: Vec<(f32, Vec<f64>)> = outputs.collect();
    assert_eq!(outputs[0], outputs[1]);
}

#[test]
fn emulation_on_ndarray_is_flex_but_for_the_order_of_sums() {
    let model = Transformer::new(&Device::flex().autodiff()).map(&mut Init(Draw::new(7, &Device::flex())));
    for by in [autocast::bf16(), autocast::f16()] {
        let gradients = host_devices().into_iter().map(|device| {
            let batch = &batches(&device)[0];
            let point = Tree::from_module(&model).to_device(&device);
            let program = Program::record_first_order(&Transformer::new(&device), batch, Transformer::loss).unwrap();
            numbers(&program.autocast(&by).value_and_grad(&point, batch).unwrap().gradient)
        });
        let gradients: Vec<Vec<f64>> = gradients.collect();
        let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
        let pairs = || gradients[0].iter().zip(&gradients[1]);
        let error = norm(&mut pairs().map(|(a, b)| a - b)) / norm(&mut gradients[0].iter().copied());
        println!("{:?}: gradients on flex and ndarray differ by {error:.1e}", by.low());
        assert!(error < 5e-3, "{error}");
    }
}

fn numbers(tree: &Tree) -> Vec<f64> {
    tree.to_data().into_iter().flat_map(|(_, data)| data.iter::<f64>().collect::<Vec<_>>()).collect()
}

/// Every case of burn-nn's table in `f32` on flex, and beside it in 16 bits, real and emulated.
#[test]
fn all_of_burn_nn_runs_in_16_bits() {
    let device = Device::flex();
    for (by, value, gradient) in [(autocast::bf16(), 0.01, 0.02), (autocast::f16(), 0.002, 0.004)] {
        for case in cases().into_iter().filter(|case| case.expect == Expect::Covered) {
            let name = case.name.clone();
            let case = case.mixed(&by);
            let real = mixed(&name, case.run(&device));
            let emulated = mixed(&name, case.mixed(&by.clone().emulated()).run(&device));
            assert!(!real.report.emulated && emulated.report.emulated);
            assert_eq!(real.report.casts_down, emulated.report.casts_down);
            let errors = (real.value, real.gradient, real.curvature);
            assert!(real.value <= value && real.gradient <= gradient, "{name} in {:?}: {errors:?}", by.low());
            // Flex has products of `f16` of its own, which sum otherwise; `bf16` is computed by conversion.
            if by.low() == FloatDType::BF16 {
                assert_eq!(real.numbers, emulated.numbers, "{name}: emulation is the real thing");
            }
        }
    }
}

fn mixed(name: &str, outcome: Checked) -> Mixed {
    match outcome {
        Checked::Mixed(mixed) => {
            assert!(mixed.agrees, "{name}: calls differ");
            mixed
        }
        other => panic!("{name}: {other:?}"),
    }
}
