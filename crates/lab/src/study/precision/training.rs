//! Momentum and Adam: a perceptron on the embedded digits with gradients or weights in low precision.

use burn::module::Module;
use burn::optim::momentum::MomentumConfig;
use burn::optim::{AdamConfig, GradientsParams, ModuleOptimizer, SgdConfig};
use burn::tensor::{Device, Int, Tensor};
use core_tensor::transform::{Chain, GradientTransform, Identity};
use core_tensor::{Random, Scalar, Tree};
use mixed_precision::{
    Compress, Compressor, Ef21, ErrorFeedback, FixedPoint, Format, Keep, Mx, Natural, Qsgd, QsgdNorm, Quantizer,
    Rounding, ScaleRule, SignSgd, Swalp, TopK,
};
use serde::Serialize;

use crate::data::{CLASSES, Dataset};
use crate::error::Result;
use crate::model::{Classifier, batch};
use crate::recipe::{DataRecipe, ModelName, ModelRecipe};
use crate::report::plot::{Line, Plot, number, significant};
use crate::study::toolkit::{median, parallel};
use crate::study::{Part, Setting};

const STEPS: u64 = 600;
const SEEDS: u64 = 5;
const BATCH: usize = 64;
const HIDDEN: usize = 32;
/// Steps between points of the curves.
const EVERY: u64 = 20;
/// Where the average of SWALP begins.
const WARM_UP: u64 = 300;
/// A case holds where its accuracy is at most this far under that of f32, in percentage points.
const HOLDS: f64 = 1.0;

type Transform = Box<dyn GradientTransform>;

/// Where the low precision is.
#[derive(Clone, Copy)]
enum Place {
    /// In the gradients, before the optimizer.
    Gradients(fn(u64) -> Result<Transform>),
    /// In the weights, after its step.
    Weights(fn(u64) -> Result<Box<dyn Compressor>>),
    /// In the weights, and what counts is their average.
    Average(fn(u64) -> Result<Box<dyn Compressor>>),
}

fn top() -> Result<TopK> {
    Ok(TopK::new(Keep::Share(0.02))?)
}

fn fixed() -> Result<FixedPoint> {
    Ok(FixedPoint::new(8, 6)?)
}

const CASES: [(&str, Place); 15] = [
    ("f32", Place::Gradients(|_| Ok(Box::new(Identity)))),
    ("natural", Place::Gradients(|seed| Ok(Box::new(Compress::new(Natural::new(seed)))))),
    ("QSGD, 7 levels", Place::Gradients(|seed| Ok(Box::new(Compress::new(Qsgd::new(7, seed)?.bucket(64)?))))),
    ("TernGrad", Place::Gradients(|seed| Ok(Box::new(Compress::new(Qsgd::new(1, seed)?.norm(QsgdNorm::Max)))))),
    (
        "MXFP4",
        Place::Gradients(|seed| {
            let mx = Mx::new(Format::E2M1FN)?.scale_rule(ScaleRule::RoundCeil).rounding(Rounding::Stochastic(seed));
            Ok(Box::new(Compress::new(mx)))
        }),
    ),
    ("sign, scaled", Place::Gradients(|_| Ok(Box::new(Compress::new(SignSgd::scaled()))))),
    ("sign, EF14", Place::Gradients(|_| Ok(Box::new(ErrorFeedback::new(SignSgd::scaled()))))),
    ("top 2 %", Place::Gradients(|_| Ok(Box::new(Compress::new(top()?))))),
    ("top 2 %, EF14", Place::Gradients(|_| Ok(Box::new(ErrorFeedback::new(top()?))))),
    ("top 2 %, EF21", Place::Gradients(|_| Ok(Box::new(Ef21::new(top()?))))),
    ("weights bf16, nearest", Place::Weights(|_| Ok(Box::new(Quantizer::new(Format::BF16))))),
    (
        "weights bf16, stochastic",
        Place::Weights(|seed| Ok(Box::new(Quantizer::new(Format::BF16).rounding(Rounding::Stochastic(seed))))),
    ),
    ("weights 8 bits, nearest", Place::Weights(|_| Ok(Box::new(fixed()?)))),
    ("weights 8 bits, stochastic", Place::Weights(|seed| Ok(Box::new(fixed()?.rounding(Rounding::Stochastic(seed)))))),
    ("weights 8 bits, SWALP", Place::Average(|seed| Ok(Box::new(fixed()?.rounding(Rounding::Stochastic(seed)))))),
];

/// An optimizer by name with its rate.
const OPTIMIZERS: [(&str, f64); 2] = [("SGD with momentum 0.9", 0.02), ("Adam", 2e-3)];

pub const UNITS: u64 = (CASES.len() * OPTIMIZERS.len()) as u64 * SEEDS;

/// A case under an optimizer, over all seeds.
#[derive(Clone, Debug, Serialize)]
pub struct Case {
    pub name: String,
    pub optimizer: String,
    /// Median over seeds of the last loss over the training set; infinite where it is not finite.
    pub last_loss: f64,
    /// Median over seeds of the share of the test set that is right.
    pub accuracy: f64,
    /// Median over seeds of the training loss, every 20 steps.
    pub curve: Vec<f64>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Training {
    /// By optimizer, f32 first.
    pub optimizers: Vec<Vec<Case>>,
}

struct Run {
    losses: Vec<f64>,
    accuracy: f64,
}

pub fn run(setting: &Setting<'_>) -> Result<Training> {
    let data = Dataset::load(&DataRecipe::default())?;
    let jobs: Vec<(usize, usize, u64)> = (0..OPTIMIZERS.len())
        .flat_map(|o| (0..CASES.len()).flat_map(move |case| (0..SEEDS).map(move |seed| (o, case, seed))))
        .collect();
    let mut runs = parallel(&jobs, |&(optimizer, case, seed)| {
        let run = train(
            CASES[case].1,
            OPTIMIZERS[optimizer],
            &data,
            setting.random.fork(format!("training {seed}")),
            setting.device,
        )?;
        setting.progress.unit()?;
        Ok(run)
    })?
    .into_iter();
    let mut case = |name: &str, optimizer: &str| {
        let runs: Vec<Run> = runs.by_ref().take(SEEDS as usize).collect();
        let at = |i: usize| median(runs.iter().map(|run| run.losses[i]));
        let curve: Vec<f64> = (0..=(STEPS / EVERY) as usize).map(at).collect();
        Case {
            name: name.into(),
            optimizer: optimizer.into(),
            last_loss: curve[curve.len() - 1],
            accuracy: median(runs.iter().map(|run| run.accuracy)),
            curve,
        }
    };
    let of = |optimizer: &(&str, f64)| CASES.iter().map(|(name, _)| case(name, optimizer.0)).collect();
    Ok(Training { optimizers: OPTIMIZERS.iter().map(of).collect() })
}

fn optimizer(name: &str) -> ModuleOptimizer {
    match name {
        "Adam" => AdamConfig::new().with_epsilon(1e-8).init(),
        _ => {
            let momentum = MomentumConfig::new().with_momentum(0.9).with_dampening(0.0);
            SgdConfig::new().with_momentum(Some(momentum)).init()
        }
    }
}

fn train(place: Place, (name, rate): (&str, f64), data: &Dataset, random: Random, device: &Device) -> Result<Run> {
    let autodiff = device.clone().autodiff();
    let recipe = ModelRecipe { name: ModelName::Mlp, hidden: HIDDEN, ..ModelRecipe::default() };
    let mut model = Classifier::new(&recipe, &data.train, &mut random.fork("weights"), &autodiff)?;
    let seed = random.fork("noise").next_u64();
    let mut chain = match place {
        Place::Gradients(make) => Chain::new().then(make(seed)?),
        Place::Weights(_) | Place::Average(_) => Chain::new(),
    };
    let mut weights = match place {
        Place::Weights(make) | Place::Average(make) => Some(Swalp::new(make(seed)?, WARM_UP, 1)?),
        Place::Gradients(_) => None,
    };
    let mut optimizer = optimizer(name);
    let scale = data.train.mean_and_deviation();
    let whole: Vec<usize> = (0..data.train.len()).collect();
    let (images, labels) = batch(&data.train, &whole, scale, device);
    // What counts: the model, or its average once there is one.
    let counted = |model: &Classifier, weights: &Option<Swalp<Box<dyn Compressor>>>| -> Result<Classifier> {
        let average = weights.as_ref().and_then(|weights| weights.average());
        Ok(match (place, average) {
            (Place::Average(_), Some(average)) => average.write_into(model.valid())?,
            _ => model.valid(),
        })
    };
    let measure = |model: &Classifier| Scalar::from_tensor(model.loss(images.clone(), labels.clone())).value();
    let mut losses = vec![measure(&model.valid())];
    let mut order = random.fork("order");
    let mut queue: Vec<usize> = Vec::new();
    for step in 1..=STEPS {
        if queue.len() < BATCH {
            queue = order.permutation(data.train.len());
        }
        let indices = queue.split_off(queue.len() - BATCH);
        let (images, labels) = batch(&data.train, &indices, scale, &autodiff);
        let grads = GradientsParams::from_grads(model.loss(images, labels).backward(), &model);
        let outcome = chain.optimize(model, &mut optimizer, rate, grads).map_err(core_tensor::Error::from)?;
        model = outcome.into_model();
        if let Some(weights) = &mut weights {
            model = weights.step(Tree::from_module(&model))?.write_into(model)?;
        }
        if step.is_multiple_of(EVERY) {
            losses.push(measure(&counted(&model, &weights)?));
        }
    }
    Ok(Run { losses, accuracy: accuracy(&counted(&model, &weights)?, data, scale, device) })
}

/// The share of the test set that is right.
fn accuracy(model: &Classifier, data: &Dataset, scale: (f64, f64), device: &Device) -> f64 {
    let whole: Vec<usize> = (0..data.test.len()).collect();
    let (images, _): (Tensor<4>, Tensor<1, Int>) = batch(&data.test, &whole, scale, device);
    let logits: Vec<f64> = model.forward(images).into_data().iter::<f64>().collect();
    let class = |logits: &[f64]| (0..CLASSES).max_by(|&a, &b| logits[a].total_cmp(&logits[b]));
    let right = logits.chunks(CLASSES).zip(&data.test.labels);
    right.filter(|(logits, label)| class(logits) == Some(usize::from(**label))).count() as f64 / data.test.len() as f64
}

impl Training {
    /// A case under an optimizer.
    pub fn case(&self, optimizer: usize, name: &str) -> &Case {
        self.optimizers[optimizer].iter().find(|case| case.name == name).expect("a name of this table")
    }

    /// The cases under an optimizer that lose more than a point of accuracy.
    pub fn losing(&self, optimizer: usize) -> Vec<&Case> {
        let cases = &self.optimizers[optimizer];
        let exact = cases[0].accuracy;
        cases[1..].iter().filter(|case| 100.0 * (exact - case.accuracy) > HOLDS).collect()
    }

    pub fn part(&self) -> Part {
        let shown: [&[(&str, &str)]; 2] = [
            &[
                ("f32", "quiet"),
                ("QSGD, 7 levels", "s1"),
                ("TernGrad", "s5"),
                ("sign, scaled", "s3"),
                ("sign, EF14", "s6"),
                ("top 2 %", "s2"),
                ("top 2 %, EF14", "s4"),
                ("top 2 %, EF21", "s7"),
            ],
            &[
                ("f32", "quiet"),
                ("weights bf16, nearest", "s2"),
                ("weights bf16, stochastic", "s1"),
                ("weights 8 bits, nearest", "s5"),
                ("weights 8 bits, stochastic", "s3"),
                ("weights 8 bits, SWALP", "s4"),
            ],
        ];
        let figure = |optimizer: usize, shown: &[(&str, &str)], what: &str| {
            let lines = shown.iter().map(|(name, class)| {
                let curve = self.case(optimizer, name).curve.iter().enumerate();
                Line::new(name, class, curve.map(|(i, loss)| ((i as u64 * EVERY) as f64, *loss)).collect())
            });
            let title = format!("{what}, {}", OPTIMIZERS[optimizer].0);
            let plot = Plot {
                title: &title,
                x_axis: "step",
                x_range: (0.0, STEPS as f64),
                y_axis: "training loss, nats, median of seeds (log scale)",
                logarithmic: true,
                lines: lines.collect(),
            };
            plot.html()
        };
        let figures = (0..OPTIMIZERS.len())
            .flat_map(|o| [figure(o, shown[0], "Compressed gradients"), figure(o, shown[1], "Low-precision weights")]);
        let rows = self.optimizers[0].iter().zip(&self.optimizers[1]).map(|(sgd, adam)| {
            let percent = |case: &Case| format!("{:.1} %", 100.0 * case.accuracy);
            vec![sgd.name.clone(), significant(sgd.last_loss), percent(sgd), significant(adam.last_loss), percent(adam)]
        });
        let [sgd, adam] = OPTIMIZERS;
        Part {
            title: "A perceptron on digits",
            text: format!(
                "Two layers of {HIDDEN} on the embedded digits, batch {BATCH}, {STEPS} steps, {SEEDS} seeds; {} at {} and {} at {}. Gradients are compressed before the \
                 optimizer, tensor by tensor; weights are rounded after its step. SWALP averages from step {WARM_UP} on, and its row is the \
                 average.",
                sgd.0,
                number(sgd.1),
                adam.0,
                number(adam.1),
            ),
            figures: figures.collect(),
            table: (
                vec![
                    "what is in low precision",
                    "momentum: last loss",
                    "test accuracy",
                    "Adam: last loss",
                    "test accuracy",
                ],
                rows.collect(),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn feedback_helps_and_bf16_weights_learn() {
        let data = Dataset::load(&DataRecipe::default()).unwrap();
        let run = |name: &str, optimizer: usize| {
            let case = CASES.iter().find(|case| case.0 == name).unwrap();
            train(case.1, OPTIMIZERS[optimizer], &data, Random::new(1), &Device::flex()).unwrap()
        };
        let last = |run: &Run| *run.losses.last().unwrap();
        let (exact, top, fed) = (run("f32", 0), run("top 2 %", 0), run("top 2 %, EF14", 0));
        assert!(exact.accuracy > 0.93, "{}", exact.accuracy);
        assert!(last(&fed) < last(&top), "{} {}", last(&fed), last(&top));
        assert!(run("weights bf16, stochastic", 1).accuracy > 0.9);
    }
}
