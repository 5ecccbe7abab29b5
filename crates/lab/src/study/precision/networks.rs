//! One network in every precision that the crate has: what it learns, what it keeps, how long it takes.

use std::fmt::Debug;
use std::time::Instant;

use burn::module::{Module, ModuleDisplay, Param};
use burn::nn::Linear;
use burn::nn::loss::CrossEntropyLossConfig;
use burn::optim::{AdamWConfig, GradientsParams, ModuleOptimizer, Optimizer};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Int, Tensor};
use core_tensor::transform::Chain;
use core_tensor::{Autocast, Program, Random};
use mixed_precision::fp8::{Fp8Linear, Recipe};
use mixed_precision::optim::{LowBitState, LowPrecisionWeights, StateFormat, WeightUpdate, state_bytes};
use mixed_precision::{Amp, Format, LossScale, Mx, ScaleRule, autocast};
use serde::Serialize;

use crate::data::{CLASSES, Dataset};
use crate::error::Result;
use crate::model::batch;
use crate::recipe::DataRecipe;
use crate::report::plot::{fixed, significant};
use crate::study::toolkit::{median, parallel};
use crate::study::{Part, Setting};

const STEPS: u64 = 400;
const SEEDS: u64 = 3;
const BATCH: usize = 64;
const INPUTS: usize = 64;
const HIDDEN: usize = 128;
const RATE: f64 = 3e-3;

type Labelled = (Tensor<2>, Tensor<1, Int>);

/// A layer `x·w + b` in one precision or another.
trait Layer: Module + ModuleDisplay + Debug {
    fn run(&self, x: Tensor<2>) -> Result<Tensor<2>>;
}

impl Layer for Linear {
    fn run(&self, x: Tensor<2>) -> Result<Tensor<2>> {
        Ok(self.forward(x))
    }
}

impl Layer for Fp8Linear {
    fn run(&self, x: Tensor<2>) -> Result<Tensor<2>> {
        Ok(self.forward(x)?)
    }
}

/// Inputs and weights in MXFP4 blocks along what the product sums over; gradients pass straight through and are `f32`.
#[derive(Module, Debug)]
struct Mxfp4 {
    linear: Linear,
}

impl Layer for Mxfp4 {
    fn run(&self, x: Tensor<2>) -> Result<Tensor<2>> {
        let mx = Mx::new(Format::E2M1FN)?.scale_rule(ScaleRule::RoundCeil);
        let weight = mx.fake_quantize(self.linear.weight.val().transpose())?.transpose();
        let bias = self.linear.bias.as_ref().map(Param::val);
        let y = mx.fake_quantize(x)?.matmul(weight);
        Ok(match bias {
            Some(bias) => y + bias.unsqueeze::<2>(),
            None => y,
        })
    }
}

#[derive(Module, Debug)]
struct Network<L: Layer> {
    hidden: L,
    head: L,
}

impl<L: Layer> Network<L> {
    fn logits(&self, x: Tensor<2>) -> Result<Tensor<2>> {
        self.head.run(relu(self.hidden.run(x)?))
    }
}

fn network(random: &Random, device: &Device) -> Network<Linear> {
    let linear = |name: &str, inputs: usize, outputs: usize| {
        let limit = (inputs as f64).sqrt().recip();
        let weight = random.fork(name).uniform([inputs, outputs], -limit, limit, device);
        let bias = Tensor::<1>::zeros([outputs], device);
        Linear { weight: Param::from_tensor(weight), bias: Some(Param::from_tensor(bias)) }
    };
    Network { hidden: linear("hidden", INPUTS, HIDDEN), head: linear("head", HIDDEN, CLASSES) }
}

/// How the network is trained.
#[derive(Clone, Copy)]
enum How {
    /// A recorded program, by autocast or as it is, with a loss scale.
    Recorded(Option<fn() -> Autocast>, fn() -> Result<LossScale>),
    /// Linear layers by an FP8 recipe.
    Fp8(fn() -> Recipe),
    /// Linear layers in MXFP4.
    Mxfp4,
    /// The optimizer's moments in few bits.
    State(StateFormat),
    /// Weights in `bf16`.
    Weights(WeightUpdate),
}

/// A name, what the products' operands have, bits of a stored weight and of what the update keeps with it, and how.
type Case = (&'static str, &'static str, f64, How);

const CASES: [Case; 13] = [
    ("f32", "32", 32.0, How::Recorded(None, || Ok(LossScale::fixed(1.0)?))),
    ("bf16 autocast", "16", 32.0, How::Recorded(Some(autocast::bf16), || Ok(LossScale::fixed(1.0)?))),
    ("f16 autocast, loss scaling", "16", 32.0, How::Recorded(Some(autocast::f16), || Ok(LossScale::dynamic()))),
    ("FP8, delayed", "8", 32.0, How::Fp8(Recipe::delayed)),
    ("FP8, current", "8", 32.0, How::Fp8(Recipe::current)),
    ("FP8, per row", "8", 32.0, How::Fp8(Recipe::per_row)),
    ("FP8, per block", "8", 32.0, How::Fp8(Recipe::per_block)),
    ("MXFP4 inputs and weights", "4.25", 32.0, How::Mxfp4),
    ("8-bit dynamic state", "32", 32.0, How::State(StateFormat::DYNAMIC8)),
    ("4-bit linear state", "32", 32.0, How::State(StateFormat::LINEAR4)),
    ("bf16 weights, nearest", "16", 16.0, How::Weights(WeightUpdate::Nearest)),
    ("bf16 weights, stochastic", "16", 16.0, How::Weights(WeightUpdate::Stochastic(7))),
    ("bf16 weights, int8 remainder", "16", 24.0, How::Weights(WeightUpdate::Remainder8)),
];

pub const UNITS: u64 = CASES.len() as u64 * SEEDS;

/// A network in one precision, over all seeds.
#[derive(Clone, Debug, Serialize)]
pub struct Trained {
    pub name: String,
    /// Bits of an operand of a product.
    pub operands: String,
    /// Bytes a parameter of weights and optimizer state.
    pub bytes: f64,
    /// Median over seeds of the last loss over the training set.
    pub last_loss: f64,
    /// Median over seeds of the share of the test set that is right.
    pub accuracy: f64,
    /// Median over seeds of the time of a run, in seconds.
    pub seconds: f64,
}

#[derive(Clone, Debug, Serialize)]
pub struct Networks {
    /// `f32` first.
    pub cases: Vec<Trained>,
}

struct Run {
    loss: f64,
    accuracy: f64,
    seconds: f64,
}

pub fn run(setting: &Setting<'_>) -> Result<Networks> {
    let data = Dataset::load(&DataRecipe::default())?;
    let jobs: Vec<(usize, u64)> = (0..CASES.len()).flat_map(|case| (0..SEEDS).map(move |seed| (case, seed))).collect();
    let runs = parallel(&jobs, |&(case, seed)| {
        let run = train(CASES[case].3, &data, setting.random.fork(format!("networks {seed}")), setting.device)?;
        setting.progress.unit()?;
        Ok(run)
    })?;
    let cases = CASES.iter().zip(runs.chunks(SEEDS as usize)).map(|((name, operands, weight, how), runs)| {
        Ok(Trained {
            name: (*name).into(),
            operands: (*operands).into(),
            bytes: weight / 8.0 + state(*how, setting.device)?,
            last_loss: median(runs.iter().map(|run| run.loss)),
            accuracy: median(runs.iter().map(|run| run.accuracy)),
            seconds: median(runs.iter().map(|run| run.seconds)),
        })
    });
    Ok(Networks { cases: cases.collect::<Result<_>>()? })
}

fn adamw() -> AdamWConfig {
    AdamWConfig::new().with_epsilon(1e-8).with_weight_decay(1e-4)
}

fn optimizer(how: How) -> Result<ModuleOptimizer> {
    Ok(match how {
        How::State(format) => adamw().low_bit(format)?.init(),
        How::Weights(update) => LowPrecisionWeights::new(adamw().build(), update).into(),
        How::Recorded(..) | How::Fp8(_) | How::Mxfp4 => adamw().init(),
    })
}

/// Bytes a parameter of AdamW's moments, counted on the network's largest weight.
fn state(how: How, device: &Device) -> Result<f64> {
    let x = Tensor::<2>::ones([INPUTS, HIDDEN], device);
    let bytes = match how {
        How::State(format) => {
            let (_, state) = adamw().low_bit(format)?.step(RATE, x.clone(), x, None);
            state.map_or(0, |state| state_bytes(&state))
        }
        _ => {
            let (_, state) = adamw().build().step(RATE, x.clone(), x, None);
            state.map_or(0, |state| state_bytes(&state))
        }
    };
    Ok(bytes as f64 / (INPUTS * HIDDEN) as f64)
}

fn train(how: How, data: &Dataset, random: Random, device: &Device) -> Result<Run> {
    let start = network(&random, &device.clone().autodiff());
    let Network { hidden, head } = start;
    match how {
        How::Recorded(cast, scale) => recorded(Network { hidden, head }, cast, scale()?, data, random, device),
        How::Fp8(recipe) => {
            let [hidden, head] = [hidden, head].map(|linear| Fp8Linear::new(linear, recipe()));
            taped(Network { hidden, head }, optimizer(how)?, data, random, device)
        }
        How::Mxfp4 => {
            let [hidden, head] = [hidden, head].map(|linear| Mxfp4 { linear });
            taped(Network { hidden, head }, optimizer(how)?, data, random, device)
        }
        How::State(_) | How::Weights(_) => taped(Network { hidden, head }, optimizer(how)?, data, random, device),
    }
}

/// The images of the next batch.
struct Order {
    random: Random,
    queue: Vec<usize>,
}

impl Order {
    fn next(&mut self, length: usize) -> Vec<usize> {
        if self.queue.len() < BATCH {
            self.queue = self.random.permutation(length);
        }
        self.queue.split_off(self.queue.len() - BATCH)
    }
}

fn rows(data: &crate::data::Images, indices: &[usize], scale: (f64, f64), device: &Device) -> Labelled {
    let (images, labels) = batch(data, indices, scale, device);
    (images.reshape([indices.len() as i32, INPUTS as i32]), labels)
}

fn recorded(
    mut model: Network<Linear>,
    cast: Option<fn() -> Autocast>,
    loss_scale: LossScale,
    data: &Dataset,
    random: Random,
    device: &Device,
) -> Result<Run> {
    let scale = data.train.mean_and_deviation();
    let mut order = Order { random: random.fork("order"), queue: Vec::new() };
    let begun = Instant::now();
    let first = rows(&data.train, &(0..BATCH).collect::<Vec<_>>(), scale, device);
    let program = Program::record_first_order(&model, &first, |model: &Network<Linear>, (x, y): &Labelled| {
        let logits = model.head.forward(relu(model.hidden.forward(x.clone())));
        CrossEntropyLossConfig::new().init(&logits.device()).forward(logits, y.clone())
    })?;
    let program = match cast {
        Some(cast) => program.autocast(&cast()),
        None => program,
    };
    let mut amp = Amp::new(program, loss_scale, Chain::new(), adamw().init());
    for _ in 0..STEPS {
        let indices = order.next(data.train.len());
        let outcome = amp.step(RATE, model, &rows(&data.train, &indices, scale, device));
        model = outcome.map_err(core_tensor::Error::from)?.into_model();
    }
    let seconds = begun.elapsed().as_secs_f64();
    measure(&model.valid(), data, scale, device, seconds)
}

fn taped<L: Layer>(
    mut model: Network<L>,
    mut optimizer: ModuleOptimizer,
    data: &Dataset,
    random: Random,
    device: &Device,
) -> Result<Run> {
    let autodiff = device.clone().autodiff();
    let scale = data.train.mean_and_deviation();
    let mut order = Order { random: random.fork("order"), queue: Vec::new() };
    let cross_entropy = CrossEntropyLossConfig::new().init(&autodiff);
    let begun = Instant::now();
    for _ in 0..STEPS {
        let indices = order.next(data.train.len());
        let (x, y) = rows(&data.train, &indices, scale, &autodiff);
        let loss = cross_entropy.forward(model.logits(x)?, y);
        let grads = GradientsParams::from_grads(loss.backward(), &model);
        model = optimizer.step(RATE, model, grads);
    }
    let seconds = begun.elapsed().as_secs_f64();
    measure(&model.valid(), data, scale, device, seconds)
}

/// The loss over the training set and the share of the test set that is right.
fn measure<L: Layer>(
    model: &Network<L>,
    data: &Dataset,
    scale: (f64, f64),
    device: &Device,
    seconds: f64,
) -> Result<Run> {
    let all = |length: usize| (0..length).collect::<Vec<_>>();
    let (x, y) = rows(&data.train, &all(data.train.len()), scale, device);
    let loss = CrossEntropyLossConfig::new().init(device).forward(model.logits(x)?, y);
    let loss = core_tensor::Scalar::from_tensor(loss).value();
    let (x, y) = rows(&data.test, &all(data.test.len()), scale, device);
    let right = model.logits(x)?.argmax(1).flatten::<1>(0, 1).equal(y).int().sum();
    let right = right.into_data().iter::<i64>().next().unwrap_or(0);
    Ok(Run { loss, accuracy: right as f64 / data.test.len() as f64, seconds })
}

impl Networks {
    /// The cases that lose more than a point of `f32`'s accuracy.
    pub fn losing(&self) -> Vec<&Trained> {
        let exact = self.cases[0].accuracy;
        self.cases[1..].iter().filter(|case| 100.0 * (exact - case.accuracy) > 1.0).collect()
    }

    pub fn part(&self) -> Part {
        let exact = &self.cases[0];
        let rows = self.cases.iter().map(|case| {
            vec![
                case.name.clone(),
                case.operands.clone(),
                fixed(case.bytes, 2),
                significant(case.last_loss),
                format!("{:.1} %", 100.0 * case.accuracy),
                fixed(case.seconds, 2),
                fixed(case.seconds / exact.seconds, 1),
            ]
        });
        Part {
            title: "One network in every precision",
            text: format!(
                "{INPUTS}-{HIDDEN}-{CLASSES} on the embedded digits, AdamW at {RATE}, batch {BATCH}, {STEPS} steps, {SEEDS} seeds. The first three \
                 rows train by a recorded program, the others by Burn's tape. FP8 and MXFP4 are emulated: their numbers in \
                 f32 tensors, so that they cost time here; the bits are what hardware would hold. Bytes are those of a parameter's weight and AdamW's \
                 moments as stored, of the largest layer. Seconds are of one run beside others.",
            ),
            figures: Vec::new(),
            table: (
                vec![
                    "precision",
                    "bits of an operand",
                    "bytes a parameter",
                    "last loss",
                    "test accuracy",
                    "seconds",
                    "over f32's",
                ],
                rows.collect(),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use core_tensor::Tree;

    use super::*;

    #[test]
    fn every_precision_learns_the_digits() {
        let data = Dataset::load(&DataRecipe::default()).unwrap();
        for (name, _, _, how) in CASES {
            let run = train(how, &data, Random::new(3), &Device::flex()).unwrap();
            assert!(run.accuracy > 0.9 && run.loss < 0.5, "{name}: {} {}", run.accuracy, run.loss);
        }
    }

    #[test]
    fn bytes_are_those_of_the_formats() {
        let device = Device::flex();
        assert_eq!(state(CASES[0].3, &device).unwrap(), 8.0);
        let eight = state(How::State(StateFormat::DYNAMIC8), &device).unwrap();
        assert!((2.0..2.1).contains(&eight), "{eight}");
    }

    #[test]
    fn networks_begin_alike() {
        let device = Device::flex().autodiff();
        let bytes = |random: &Random| {
            let tree = Tree::from_module(&network(random, &device));
            tree.to_data().into_iter().map(|(_, data)| data.as_bytes().to_vec()).collect::<Vec<_>>()
        };
        assert_eq!(bytes(&Random::new(1)), bytes(&Random::new(1)));
        assert_ne!(bytes(&Random::new(1)), bytes(&Random::new(2)));
    }
}
