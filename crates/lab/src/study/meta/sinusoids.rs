//! Starts from which ten points of a sinusoid suffice.

use ::bilevel::meta::{Maml, MetaGradient, Reptile, Sinusoids};
use ::bilevel::update::{Adam, Descent, Setting as Rate, Sgd};
use ::bilevel::{Batches, Problem};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Tensor, TensorData};
use core_tensor::{Random, Tree};
use serde::Serialize;

use super::digits::{layer, layers, mean_and_error};
use super::with_error;
use crate::error::Result;
use crate::report::plot::{Line, Plot, number};
use crate::study::toolkit::{host_device, parallel};
use crate::study::{Part, Setting};

const WIDTHS: [usize; 4] = [1, 40, 40, 1];
const SHOTS: usize = 10;
/// Points that a task is judged by while learning, and afterwards.
const QUERY: usize = 10;
const JUDGED: usize = 50;
/// Tasks of a step of learning.
const TASKS: u64 = 8;
const LEARNING: f64 = 2e-3;
/// Of the rates of Meta-SGD, which a step must not change by much.
const LEARNING_RATES: f64 = 2e-4;
/// Rate of adaptation, learned from here by Meta-SGD.
const RATE: f64 = 0.02;
/// Steps of it that are learned through.
const THROUGH: usize = 3;
/// Steps of adaptation that are looked at.
const STEPS: usize = 10;
/// Rates of adaptation among which the best is taken for starts that were not learned with one.
const RATES: [f64; 7] = [1e-4, 1e-3, 3e-3, 0.01, 0.02, 0.03, 0.05];
/// Fresh tasks: to choose a rate by, and to measure on.
const CHOOSING: u64 = 100;
const FRESH: u64 = 400;
/// Of adaptation in a step of Reptile.
const REPTILE: usize = 8;

type Data = Tensor<2>;
type Task = Batches<Data, Data>;

/// How a start is learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Pretrained,
    Maml,
    MetaSgd,
    Reptile,
}

/// With steps of learning.
const WHO: [(Who, &str, &str, u64); 4] = [
    (Who::Maml, "MAML", "s1", 4_000),
    (Who::MetaSgd, "Meta-SGD", "s2", 4_000),
    (Who::Reptile, "Reptile", "s3", 4_000),
    (Who::Pretrained, "pre-trained", "s4", 4_000),
];

pub const UNITS: u64 = WHO.len() as u64;

#[derive(Clone, Debug, Serialize)]
pub struct Start {
    pub name: &'static str,
    #[serde(skip)]
    class: &'static str,
    /// Rate of adaptation; of Meta-SGD the mean over the weights.
    pub rate: f64,
    /// Mean squared error on new points after 0, 1, … steps of adaptation, with its standard error over tasks.
    pub errors: Vec<(f64, f64)>,
    /// Of the same tasks one by one.
    #[serde(skip)]
    each: Vec<Vec<f64>>,
    /// Of two tasks the curve before, after one and after five steps.
    #[serde(skip)]
    curves: Vec<[Vec<f64>; 3]>,
    /// Gradients taken while learning, in thousands; a product counts two.
    pub cost: f64,
}

#[derive(Clone, Debug, Serialize)]
pub struct Starts {
    pub starts: Vec<Start>,
    #[serde(skip)]
    shown: Vec<Vec<(f64, f64)>>,
}

fn data(points: &[(f64, f64)], device: &Device) -> Data {
    let values: Vec<f32> = points.iter().flat_map(|(x, y)| [*x as f32, *y as f32]).collect();
    Tensor::from_data(TensorData::new(values, [points.len(), 2]), device)
}

fn column(data: &Data, i: usize) -> Tensor<2> {
    data.clone().slice([0..data.dims()[0], i..i + 1])
}

fn network(z: &Tree, x: Tensor<2>) -> Tensor<2> {
    layer(z, 2, relu(layer(z, 1, relu(layer(z, 0, x)))))
}

fn loss(_: &Tree, z: &Tree, points: &Data) -> Tensor<1> {
    (network(z, column(points, 0)) - column(points, 1)).square().mean()
}

/// A gradient that is finite; a step without one is left out.
fn finite(gradient: ::bilevel::Result<MetaGradient>) -> Result<Option<MetaGradient>> {
    match gradient {
        Ok(gradient) => Ok(Some(gradient)),
        Err(::bilevel::Error::NotFinite { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Where the curves are drawn.
fn places() -> Vec<f64> {
    (0..=100).map(|i| -5.0 + 0.1 * f64::from(i)).collect()
}

fn curve(z: &Tree, device: &Device) -> Vec<f64> {
    let x: Vec<f32> = places().iter().map(|x| *x as f32).collect();
    let x = Tensor::<2>::from_data(TensorData::new(x, [places().len(), 1]), device);
    network(z, x).into_data().iter::<f64>().collect()
}

/// Everything that the ways to learn share.
struct Bench {
    device: Device,
    tasks: Sinusoids,
    theta: Tree,
    problem: Problem<Data, Data>,
}

impl Bench {
    fn task(&self, index: u64, judged: usize) -> Task {
        let points = self.tasks.task(index, SHOTS + judged);
        Batches::new(data(&points[..SHOTS], &self.device), data(&points[SHOTS..], &self.device))
    }

    fn batch(&self, step: u64) -> Vec<Task> {
        (step * TASKS..(step + 1) * TASKS).map(|index| self.task(index, QUERY)).collect()
    }

    /// Learns a start, and rates where those are learned too.
    fn learn(&self, who: Who, steps: u64) -> Result<(Tree, Tree, f64)> {
        let none = Tree::empty();
        let mut start = Descent::new(Adam::new(LEARNING), &self.theta);
        let tasks = TASKS as f64;
        match who {
            Who::Pretrained => {
                for step in 0..steps {
                    let points: Vec<(f64, f64)> = (step * TASKS..(step + 1) * TASKS)
                        .flat_map(|index| self.tasks.task(index, SHOTS + QUERY))
                        .collect();
                    let batch = [data(&points, &self.device)];
                    let gradient = self.problem.inner_gradient(&none, start.at(), &batch)?.z;
                    start.step(&gradient)?;
                }
                Ok((start.at().clone(), none, tasks * 2.0 * steps as f64))
            }
            Who::Maml => {
                let maml = Maml::new(Sgd::new(RATE), THROUGH)?;
                for step in 0..steps {
                    if let Some(gradient) = finite(maml.gradient(&self.problem, &none, start.at(), &self.batch(step)))?
                    {
                        start.step(&gradient.start)?;
                    }
                }
                Ok((start.at().clone(), none, tasks * (4 * THROUGH + 2) as f64 * steps as f64))
            }
            Who::MetaSgd => {
                let maml = Maml::new(Sgd::new(Rate::per_element("rate")), THROUGH)?;
                let rates = self.theta.iter().try_fold(Tree::empty(), |tree, (name, leaf)| {
                    tree.merge(Tree::from_leaves([(
                        core_tensor::LeafName::new(format!("rate/{}", name.path)),
                        leaf.clone(),
                    )])?)
                })?;
                let rates = rates.ones_like().scale(RATE);
                let problem = Problem::from_functions(&rates, &self.theta, &self.task(0, QUERY), loss, loss)?;
                let mut rates = Descent::new(Adam::new(LEARNING_RATES), &rates);
                for step in 0..steps {
                    if let Some(gradient) = finite(maml.gradient(&problem, rates.at(), start.at(), &self.batch(step)))?
                    {
                        start.step(&gradient.start)?;
                        rates.step(&gradient.x)?;
                    }
                }
                Ok((start.at().clone(), rates.at().clone(), tasks * (4 * THROUGH + 2) as f64 * steps as f64))
            }
            Who::Reptile => {
                let mut theta = self.theta.clone();
                for step in 0..steps {
                    // The step falls to nothing in the end, as in the paper.
                    let rate = 1.0 - step as f64 / steps as f64;
                    let reptile = Reptile::new(Sgd::new(0.02), REPTILE, rate)?;
                    let tasks = (step * TASKS..(step + 1) * TASKS).map(|index| {
                        let points = self.tasks.task(index, SHOTS + QUERY);
                        let all = data(&points, &self.device);
                        Batches::new(all.clone(), all)
                    });
                    theta = reptile.step(&self.problem, &none, theta, &tasks.collect::<Vec<_>>())?;
                }
                Ok((theta, none, tasks * 2.0 * REPTILE as f64 * steps as f64))
            }
        }
    }

    /// The error on new points of each task after 0, 1, … steps.
    fn adapt(&self, theta: &Tree, rates: &Tree, rate: f64, tasks: std::ops::Range<u64>) -> Result<Vec<Vec<f64>>> {
        tasks
            .map(|index| {
                let task = self.task(index, JUDGED);
                let mut errors = Vec::with_capacity(STEPS + 1);
                let mut z = theta.clone();
                for _ in 0..=STEPS {
                    errors.push(self.problem.outer_value(&Tree::empty(), &z, &task.outer)?);
                    z = self.step(z, rates, rate, &task)?;
                }
                Ok(errors)
            })
            .collect()
    }

    fn step(&self, z: Tree, rates: &Tree, rate: f64, task: &Task) -> Result<Tree> {
        let gradient = self.problem.inner_gradient(&Tree::empty(), &z, &task.inner)?.z;
        if rates.is_empty() {
            return Ok(z.axpy(-rate, &gradient)?);
        }
        // The same leaves in the same order, under the names of `z`.
        let leaves = rates.iter().zip(z.iter()).map(|((_, leaf), (name, _))| (name.clone(), leaf.clone()));
        let rates = Tree::from_leaves(leaves)?;
        Ok(z.sub(&gradient.mul(&rates)?)?)
    }

    fn start(&self, (who, name, class, steps): (Who, &'static str, &'static str, u64), shown: &[u64]) -> Result<Start> {
        let (theta, rates, cost) = self.learn(who, steps)?;
        let after =
            |errors: &[Vec<f64>], steps: usize| mean_and_error(&errors.iter().map(|e| e[steps]).collect::<Vec<_>>());
        let rate = match who {
            Who::Maml => RATE,
            Who::MetaSgd => rates.sum().value() / rates.num_elements() as f64,
            // The best after five steps on tasks of their own.
            Who::Pretrained | Who::Reptile => {
                let mut best = (f64::INFINITY, RATES[0]);
                for rate in RATES {
                    let errors = self.adapt(&theta, &rates, rate, 1_000_000..1_000_000 + CHOOSING)?;
                    let (mean, _) = after(&errors, 5);
                    if mean < best.0 {
                        best = (mean, rate);
                    }
                }
                best.1
            }
        };
        let each = self.adapt(&theta, &rates, rate, 2_000_000..2_000_000 + FRESH)?;
        let errors = (0..=STEPS).map(|steps| after(&each, steps)).collect();
        let curves = shown.iter().map(|index| {
            let task = self.task(*index, 1);
            let mut points = vec![theta.clone()];
            for step in 0..5 {
                points.push(self.step(points[step].clone(), &rates, rate, &task)?);
            }
            Ok([0, 1, 5].map(|step| curve(&points[step], &self.device)))
        });
        let curves = curves.collect::<Result<_>>()?;
        Ok(Start { name, class, rate, errors, each, curves, cost: cost / 1e3 })
    }
}

pub fn run(setting: &Setting<'_>) -> Result<Starts> {
    let device = host_device();
    let mut random: Random = setting.random.fork("sinusoids");
    let tasks = Sinusoids::new(random.next_u64());
    let theta = layers(&WIDTHS, random.fork("network"), &device)?;
    let points = tasks.task(0, SHOTS + QUERY);
    let first = Batches::new(data(&points[..SHOTS], &device), data(&points[SHOTS..], &device));
    let problem = Problem::from_functions(&Tree::empty(), &theta, &first, loss, loss)?;
    // Tasks with an amplitude of at least two, to see something.
    let large = |index: &u64| tasks.task(*index, 100).iter().any(|(_, y)| y.abs() > 2.0);
    let shown: Vec<u64> = (2_000_000..2_000_000 + FRESH).filter(large).take(2).collect();
    let bench = Bench { device, tasks, theta, problem };
    let starts = parallel(&WHO, |who| {
        let start = bench.start(*who, &shown)?;
        setting.progress.unit()?;
        Ok(start)
    })?;
    Ok(Starts { starts, shown: shown.iter().map(|index| bench.tasks.task(*index, SHOTS + 200)).collect() })
}

impl Starts {
    pub fn of(&self, name: &str) -> &Start {
        self.starts.iter().find(|start| start.name == name).expect("a start of the list")
    }

    /// The error after five steps over that of the pre-trained start, with its standard error paired by task.
    pub fn ratio(&self, name: &str) -> (f64, f64) {
        let (of, other) = (self.of(name), self.of("pre-trained"));
        let mean = other.errors[5].0;
        let ratio = of.errors[5].0 / mean;
        let parts: Vec<f64> = of.each.iter().zip(&other.each).map(|(a, b)| (a[5] - ratio * b[5]) / mean).collect();
        (ratio, mean_and_error(&parts).1)
    }

    pub fn part(&self) -> Part {
        let lines = self.starts.iter().map(|start| {
            let points = start.errors.iter().enumerate().map(|(step, (mean, _))| (step as f64, *mean)).collect();
            Line::new(start.name, start.class, points)
        });
        let errors = Plot {
            title: "New sinusoids: error over steps of adaptation",
            x_axis: "steps on ten points",
            x_range: (0.0, STEPS as f64),
            y_axis: "mean squared error on new points",
            logarithmic: true,
            lines: lines.collect(),
        };
        let mut figures = vec![errors.html()];
        for (at, points) in self.shown.iter().enumerate() {
            let over = |values: &[f64]| places().into_iter().zip(values.iter().copied()).collect::<Vec<_>>();
            let mut truth = points.clone();
            truth.sort_by(|a, b| a.0.total_cmp(&b.0));
            let mut lines = vec![Line::new("sinusoid", "quiet", truth)];
            for (name, class) in [("MAML", "s1"), ("pre-trained", "s4")] {
                let curves = &self.of(name).curves[at];
                let dashed = format!("{class} dashed");
                lines.push(Line::new(&format!("{name}, before"), &dashed, over(&curves[0])));
                lines.push(Line::new(&format!("{name}, after 5 steps"), class, over(&curves[2])));
            }
            lines.push(Line::marks("ten points", "s7", points[..SHOTS].to_vec()));
            let plot = Plot {
                title: if at == 0 { "A new sinusoid" } else { "Another" },
                x_axis: "x",
                x_range: (-5.0, 5.0),
                y_axis: "y",
                logarithmic: false,
                lines,
            };
            figures.push(plot.html());
        }
        let rows = self.starts.iter().map(|start| {
            let mut row = vec![start.name.to_string()];
            row.extend([0, 1, 5, 10].map(|step| with_error(start.errors[step], 3)));
            row.extend([number(start.rate), number(start.cost)]);
            row
        });
        Part {
            title: "Ten points of a sinusoid",
            text: format!(
                "A network 1-40-40-1 with ReLU sees ten points of A·sin(x + φ), with A from 0.1 to 5, φ from 0 to π and x from −5 to 5, and is judged by others of the same \
                 sinusoid. MAML and Meta-SGD learn a start through {THROUGH} steps of adaptation (rate {}; Meta-SGD learns a rate for each weight too), Reptile as the mean of what \
                 {REPTILE} steps on 20 points come to, the pre-trained one on the points of all tasks together. Each takes {} steps of learning with {TASKS} tasks by Adam at {}, \
                 Reptile without. For the last two the best of {} rates of adaptation is taken by tasks of its own. Mean ± standard error over {FRESH} new sinusoids.",
                number(RATE),
                crate::summary::grouped(WHO[0].3 as usize),
                number(LEARNING),
                RATES.len(),
            ),
            figures,
            table: (
                vec!["start", "0 steps", "1 step", "5 steps", "10 steps", "rate", "thousand gradients to learn"],
                rows.collect(),
            ),
        }
    }
}
