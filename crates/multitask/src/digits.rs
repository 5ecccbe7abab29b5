//! Real data: the digits that the lab embeds, as several tasks.

use std::io::Read;

use burn::module::Module;
use burn::nn::loss::CrossEntropyLossConfig;
use burn::nn::{Linear, LinearConfig, Relu};
use burn::optim::AdamConfig;
use burn::tensor::{Device, Int, Tensor, TensorData};
use core_tensor::{Chain, Random, Tree};

use crate::architecture::{Mmoe, OfTask};
use crate::metrics::TaskMetric;
use crate::model::{Forward, Masked, MultiTask, MultiTaskModel, TaskMask};
use crate::pareto::{ParetoMtl, preference};
use crate::representation::RepresentationProgram;
use crate::sampling::{Schedule, TaskBatches};
use crate::step::TaskTrainer;
use crate::task_gradients::{GramianBy, HeadGradient, TaskProgram};

/// Digit, parity, and whether it is above four: the last known for every third image only.
type Labels = (Tensor<1, Int>, Tensor<1, Int>, (Tensor<1, Int>, TaskMask));

struct Images {
    pixels: Vec<f32>,
    digits: Vec<i64>,
}

/// Every fifth image is for testing.
fn load() -> (Images, Images) {
    let file: &[u8] = include_bytes!("../../lab/data/digits.csv.gz");
    let mut text = String::new();
    flate2::read::GzDecoder::new(file).read_to_string(&mut text).unwrap();
    let empty = || Images { pixels: Vec::new(), digits: Vec::new() };
    let (mut train, mut test) = (empty(), empty());
    for (i, line) in text.lines().enumerate() {
        let set = if i % 5 == 4 { &mut test } else { &mut train };
        let numbers: Vec<f32> = line.split(',').map(|x| x.parse().unwrap()).collect();
        set.pixels.extend(numbers[..64].iter().map(|x| x / 16.0));
        set.digits.push(numbers[64] as i64);
    }
    (train, test)
}

impl Images {
    fn batch(&self, examples: &[usize], device: &Device) -> (Tensor<2>, Labels) {
        let pixels: Vec<f32> = examples.iter().flat_map(|i| self.pixels[i * 64..(i + 1) * 64].to_vec()).collect();
        let classes = |of: fn(i64) -> i64| {
            let values: Vec<i64> = examples.iter().map(|i| of(self.digits[*i])).collect();
            Tensor::<1, Int>::from_data(TensorData::new(values, [examples.len()]), device)
        };
        let known: Vec<bool> = examples.iter().map(|i| i % 3 == 0).collect();
        let high = (classes(|digit| i64::from(digit > 4)), TaskMask::new(&known, device));
        let x = Tensor::from_data(TensorData::new(pixels, [examples.len(), 64]), device);
        (x, (classes(|digit| digit), classes(|digit| digit % 2), high))
    }
}

fn cross_entropy(logits: Tensor<2>, labels: &Tensor<1, Int>) -> Tensor<1> {
    CrossEntropyLossConfig::new().init(&logits.device()).forward(logits, labels.clone())
}

/// One loss an example.
fn each(logits: Tensor<2>, labels: &Tensor<1, Int>) -> Tensor<1> {
    let log = burn::tensor::activation::log_softmax(logits, 1);
    log.gather(1, labels.clone().unsqueeze_dim(1)).squeeze_dim::<1>(1).neg()
}

fn linear(from: usize, to: usize, device: &Device) -> Linear {
    LinearConfig::new(from, to).init(device)
}

/// The same weights in every run: Burn's generator is one for all threads.
fn drawn<M: Module>(net: M, seed: u64) -> M {
    let like = Tree::from_module(&net);
    Random::new(seed).normal_like(&like, 0.08).write_into(net).unwrap()
}

macro_rules! heads {
    ($net:expr, $head:expr) => {{
        let head = $head;
        $net.head("digit", head(0, 10), |out: Tensor<2>, y: &Labels| cross_entropy(out, &y.0))
            .head("parity", head(1, 2), |out: Tensor<2>, y: &Labels| cross_entropy(out, &y.1))
            .head(
                "high",
                head(2, 2),
                Masked::new(|out: Tensor<2>, y: &Labels| each(out, &y.2.0), |y: &Labels| y.2.1.clone()),
            )
    }};
}

/// Accuracies of the three tasks on the test images, all labels known.
fn accuracies(outputs: [Tensor<2>; 3], labels: &Labels) -> [f64; 3] {
    let [digit, parity, high] = outputs;
    let mut metrics = ["digit", "parity", "high"].map(TaskMetric::accuracy);
    metrics[0].add_classes(digit, labels.0.clone(), None).unwrap();
    metrics[1].add_classes(parity, labels.1.clone(), None).unwrap();
    metrics[2].add_classes(high, labels.2.0.clone(), None).unwrap();
    metrics.map(|metric| metric.value().unwrap())
}

fn check(name: &str, accuracy: [f64; 3]) {
    println!("{name}: digit {:.3}, parity {:.3}, high {:.3}", accuracy[0], accuracy[1], accuracy[2]);
    assert!(accuracy[0] > 0.95 && accuracy[1] > 0.96 && accuracy[2] > 0.94, "{name}: {accuracy:?}");
}

#[test]
fn three_tasks_of_the_digits_are_learned_together() {
    let device = Device::flex();
    let (train, test) = load();
    let whole = test.batch(&(0..test.digits.len()).collect::<Vec<_>>(), &device);
    let batches = || TaskBatches::new(&[train.digits.len()], 96, Schedule::RoundRobin, 5).unwrap();
    let (steps, width) = (1000, 128);
    let rate_of = |step: usize, steps: usize| 4e-3 * (1.0 - step as f64 / steps as f64);
    let rate = |step| rate_of(step, steps);

    // The mean of the rows, heads by their own losses.
    let body = (linear(64, width, &device), Relu::new());
    let start = drawn(heads!(MultiTask::new(body), |_, classes| linear(width, classes, &device)), 3);
    let mut draws = batches();
    let first = train.batch(&draws.draw().examples, &device);
    let program = TaskProgram::record(&start, &first).unwrap();
    let on_tape = |net: &_| MultiTask::to_device(Clone::clone(net), &device.clone().autodiff()).train();
    let mut net = on_tape(&start);
    let mut trainer = TaskTrainer::new(Chain::new().before(AdamConfig::new().init()));
    let mut conflicts = 0;
    for step in 0..steps {
        let batch = train.batch(&draws.draw().examples, &device);
        let step = trainer.step(rate(step), net, &program, &batch, |rows: &[Tree]| {
            let sum = rows[1..].iter().try_fold(rows[0].clone(), |sum, row| sum.add(row))?;
            Ok::<_, core_tensor::Error>(sum.scale(1.0 / rows.len() as f64))
        });
        let step = step.unwrap();
        conflicts += step.report.conflict.conflicting_pairs();
        net = step.outcome.into_model();
    }
    let ((((), digit), parity), high) = net.valid().forward(whole.0.clone());
    check("mean of rows", accuracies([digit, parity, high], &whole.1));
    assert!(conflicts > 0, "these tasks do conflict now and then");

    // Weights from the Gramian without storing rows: one cone of Pareto MTL, all heads weighted.
    let rays = [vec![1.0, 0.3, 0.3], vec![0.3, 1.0, 0.3], vec![1.0, 1.0, 1.0]];
    let method = ParetoMtl::new(&rays, 2).unwrap().with_tolerance(0.0).unwrap();
    let mut net = on_tape(&start);
    let mut trainer = TaskTrainer::new(Chain::new().before(AdamConfig::new().init())).heads(HeadGradient::Own);
    let mut draws = batches();
    // Outside its cone it lowers violations instead of losses, and the third task has a third of the labels: twice the steps.
    for step in 0..2 * steps {
        let batch = train.batch(&draws.draw().examples, &device);
        let step = trainer.step_weighted(
            rate_of(step, 2 * steps),
            net,
            &program,
            &batch,
            GramianBy::Tangents,
            |losses, gramian| method.weights(losses, gramian).map(|step| step.weights),
        );
        net = step.unwrap().outcome.into_model();
    }
    let ((((), digit), parity), high) = net.valid().forward(whole.0.clone());
    check("Pareto MTL", accuracies([digit, parity, high], &whole.1));

    // The same mean at the representation.
    let cheap = RepresentationProgram::record(&start, &first).unwrap();
    let mut net = on_tape(&start);
    let mut optimizer = Chain::new().before(AdamConfig::new().init());
    let mut draws = batches();
    for step in 0..steps {
        let batch = train.batch(&draws.draw().examples, &device);
        let pass = cheap.forward(&Tree::from_module(&net), &batch).unwrap();
        let mean = pass.gradients.combination(&[1.0 / 3.0; 3]).unwrap();
        let update = pass.assemble(mean, None).unwrap();
        net = optimizer.step_grads(rate(step), net, update, None).unwrap().into_model();
    }
    let ((((), digit), parity), high) = net.valid().forward(whole.0.clone());
    check("representation", accuracies([digit, parity, high], &whole.1));
}

#[test]
fn experts_learn_the_digits_too() {
    let device = Device::flex();
    let (train, test) = load();
    let whole = test.batch(&(0..test.digits.len()).collect::<Vec<_>>(), &device);
    let experts = (0..4).map(|_| (linear(64, 64, &device), Relu::new())).collect();
    let body = Mmoe::softmax(experts, 3, 64, &device).unwrap();
    let net = MultiTask::new(body).parts_of_body(Mmoe::part);
    let net = drawn(heads!(net, |task, classes| OfTask::new(task, linear(64, classes, &device))), 4);
    let mut draws = TaskBatches::new(&[train.digits.len()], 96, Schedule::RoundRobin, 5).unwrap();
    let program = TaskProgram::record(&net, &train.batch(&draws.draw().examples, &device)).unwrap();
    let mut net = net.to_device(&device.clone().autodiff()).train();
    let mut optimizer = Chain::new().before(AdamConfig::new().init());
    let weights = preference(&[1.0; 3], &device).into_data().iter::<f64>().collect::<Vec<_>>();
    for step in 0..1000 {
        let rate = 4e-3 * (1.0 - f64::from(step) / 1000.0);
        let batch = train.batch(&draws.draw().examples, &device);
        let point = Tree::from_module(&net);
        let update = program.forward(&point, &batch).unwrap().weighted(&weights).unwrap();
        net = optimizer.step_grads(rate, net, update, None).unwrap().into_model();
    }
    let ((((), digit), parity), high) = net.valid().forward(whole.0.clone());
    check("MMoE", accuracies([digit, parity, high], &whole.1));
    assert_eq!(MultiTaskModel::<(Tensor<2>, Labels)>::tasks(&net), ["digit", "parity", "high"]);
    assert_eq!(Forward::forward(&net.body, whole.0).len(), 3);
}
