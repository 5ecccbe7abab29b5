//! A learning rate that is learned, against a grid of fixed ones.

use ::bilevel::HypergradientDescent;
use ::bilevel::tune::{Hyper, Scope, Tune, Tuned};
use burn::module::{Module, Param};
use burn::nn::Linear;
use burn::tensor::{Device, Tensor};
use core_tensor::{Program, Tree};
use serde::Serialize;

use super::digits::{Digits, Examples, PIXELS, accuracy, cross_entropies, layers, scalar};
use super::percent;
use crate::data::CLASSES;
use crate::error::Result;
use crate::report::plot::{Line, Plot, fixed, number};
use crate::study::toolkit::{host_device, parallel};
use crate::study::{Part, Setting};

const TRAIN: usize = 200;
const VALIDATION: usize = 400;
const WIDTH: usize = 16;
/// Steps of training.
const STEPS: usize = 60;
/// Runs with hypergradients.
const TRIALS: usize = 60;
const MOMENTA: [f64; 3] = [0.0, 0.5, 0.9];
const START: f64 = 1e-3;

pub const UNITS: u64 = MOMENTA.len() as u64 + 1 + LEARNED.len() as u64;

/// Rates of the grid: four a factor of ten.
fn grid() -> Vec<f64> {
    (-12..=5).map(|i| 10f64.powf(f64::from(i) / 4.0)).collect()
}

/// Rates of the rate.
fn betas() -> Vec<f64> {
    (-8..=6).map(|i| 10f64.powf(f64::from(i) / 4.0)).collect()
}

/// What is learned, its name and colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Learn {
    Rate,
    RateAndMomentum,
    RateOfEachStep,
}

const LEARNED: [(Learn, &str, &str); 3] = [
    (Learn::Rate, "a rate", "s4"),
    (Learn::RateAndMomentum, "a rate and a momentum", "s5"),
    (Learn::RateOfEachStep, "a rate for each step", "s6"),
];

/// A run with fixed numbers, or one that found its own.
#[derive(Clone, Debug, Serialize)]
pub struct Run {
    /// The fixed learning rate, or the rate of the rate.
    pub rate: f64,
    /// Loss on validation after all steps, nats.
    pub loss: f64,
    pub accuracy: f64,
}

#[derive(Clone, Debug, Serialize)]
pub struct Curve {
    pub momentum: f64,
    pub runs: Vec<Run>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Online {
    pub run: Run,
    /// The learning rate of each step.
    pub path: Vec<f64>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Learned {
    pub name: &'static str,
    #[serde(skip)]
    class: &'static str,
    pub loss: f64,
    pub accuracy: f64,
    /// Learning rates of the run that was best: one, or one a step.
    pub rates: Vec<f64>,
    pub momentum: f64,
    /// Loss of each trial, then rate and momentum.
    pub path: Vec<(f64, f64, f64)>,
    /// Trials until within a hundredth of the best of its own.
    pub trials: usize,
}

#[derive(Clone, Debug, Serialize)]
pub struct Rates {
    /// A curve a momentum.
    pub curves: Vec<Curve>,
    pub online: Vec<Online>,
    pub learned: Vec<Learned>,
}

#[derive(Module, Debug)]
struct Net {
    hidden: Linear,
    head: Linear,
}

impl Net {
    /// The layers of a tree.
    fn new(z: &Tree) -> Result<Self> {
        let linear = |i: usize| -> Result<Linear> {
            let (weight, bias) = (z.get::<2>(&format!("w{i}"))?, z.get::<1>(&format!("b{i}"))?);
            Ok(Linear { weight: Param::from_tensor(weight), bias: Some(Param::from_tensor(bias)) })
        };
        Ok(Self { hidden: linear(0)?, head: linear(1)? })
    }

    fn logits(&self, inputs: &Tensor<2>) -> Tensor<2> {
        self.head.forward(self.hidden.forward(inputs.clone()).tanh())
    }

    fn loss(&self, (inputs, hot): &Examples) -> Tensor<1> {
        cross_entropies(self.logits(inputs), hot).mean()
    }
}

/// Data and the network from which every run starts.
struct Problem {
    train: Examples,
    validation: Examples,
    test: Examples,
    net: Net,
}

impl Problem {
    fn tune(&self, tune: &Tune, trials: usize) -> Result<Tuned> {
        let (train, validation) = (vec![self.train.clone()], vec![self.validation.clone()]);
        Ok(tune.run(&self.net, train, validation, Net::loss, Net::loss, trials)?)
    }

    fn right(&self, net: &Net) -> f64 {
        accuracy(net.logits(&self.test.0), &self.test.1)
    }

    /// Training with fixed numbers.
    fn fixed(&self, program: &Program<Examples>, rate: f64, momentum: f64) -> Result<Run> {
        let mut z = Tree::from_module(&self.net);
        let mut memory = z.zeros_like();
        for _ in 0..STEPS {
            let gradient = program.value_and_grad(&z, &self.train)?.gradient;
            memory = memory.scale(momentum).add(&gradient)?;
            z = z.axpy(-rate, &memory)?;
        }
        self.run(rate, &z)
    }

    fn run(&self, rate: f64, z: &Tree) -> Result<Run> {
        let net = z.write_into(self.net.clone())?;
        Ok(Run { rate, loss: scalar(net.loss(&self.validation)), accuracy: self.right(&net) })
    }

    /// Training with a learning rate that starts at zero; where it is no longer finite the loss is NaN.
    fn online(&self, program: &Program<Examples>, beta: f64) -> Result<Online> {
        let mut descent = HypergradientDescent::new(0.0, beta)?;
        let mut z = Tree::from_module(&self.net);
        let mut path = Vec::with_capacity(STEPS);
        for _ in 0..STEPS {
            let gradient = program.value_and_grad(&z, &self.train)?.gradient;
            match descent.step(z, gradient) {
                Ok(next) => z = next,
                Err(::bilevel::Error::NotFinite { .. }) => {
                    let run = Run { rate: beta, loss: f64::NAN, accuracy: f64::NAN };
                    return Ok(Online { run, path });
                }
                Err(error) => return Err(error.into()),
            }
            path.push(descent.rate());
        }
        Ok(Online { run: self.run(beta, &z)?, path })
    }

    fn learned(&self, (learn, name, class): (Learn, &'static str, &'static str)) -> Result<Learned> {
        let scope = if learn == Learn::RateOfEachStep { Scope::PerStep } else { Scope::Global };
        let tune = Tune::new(STEPS, Hyper::learned(START, scope))?.outer_rate(0.3)?;
        let tune =
            if learn == Learn::RateAndMomentum { tune.momentum(Hyper::learned(0.1, Scope::Global))? } else { tune };
        let tuned = self.tune(&tune, TRIALS)?;
        let middle = |values: &[f64]| values.iter().sum::<f64>() / values.len().max(1) as f64;
        let momentum =
            |values: &std::collections::BTreeMap<String, Vec<f64>>| values.get("momentum").map_or(0.0, |m| m[0]);
        let path = tuned.path.iter().map(|t| (t.loss, middle(&t.values["learning_rate"]), momentum(&t.values)));
        let near = tuned.path.iter().position(|trial| trial.loss <= 1.01 * tuned.loss);
        Ok(Learned {
            name,
            class,
            loss: tuned.loss,
            accuracy: self.right(&tuned.z.write_into(self.net.clone())?),
            rates: tuned.values["learning_rate"].clone(),
            momentum: momentum(&tuned.values),
            path: path.collect(),
            trials: near.map_or(TRIALS, |at| at + 1),
        })
    }
}

enum Job {
    Momentum(f64),
    Online,
    Learn((Learn, &'static str, &'static str)),
}

enum Done {
    Curve(Curve),
    Online(Vec<Online>),
    Learned(Learned),
}

pub fn run(setting: &Setting<'_>) -> Result<Rates> {
    let device: Device = host_device();
    let random = setting.random.fork("rates");
    let digits = Digits::load(random.fork("digits"), &device)?;
    let problem = Problem {
        train: digits.part(0..TRAIN),
        validation: digits.part(TRAIN..TRAIN + VALIDATION),
        test: digits.test(),
        net: Net::new(&layers(&[PIXELS, WIDTH, CLASSES], random.fork("network"), &device)?)?,
    };
    let program = Program::record(&problem.net, &problem.train, Net::loss)?;
    let mut jobs: Vec<Job> = LEARNED.iter().rev().map(|learn| Job::Learn(*learn)).collect();
    jobs.push(Job::Online);
    jobs.extend(MOMENTA.map(Job::Momentum));
    let done = parallel(&jobs, |job| {
        let done = match job {
            Job::Momentum(momentum) => {
                let runs = grid().into_iter().map(|rate| problem.fixed(&program, rate, *momentum));
                Done::Curve(Curve { momentum: *momentum, runs: runs.collect::<Result<_>>()? })
            }
            Job::Online => {
                Done::Online(betas().into_iter().map(|b| problem.online(&program, b)).collect::<Result<_>>()?)
            }
            Job::Learn(learn) => Done::Learned(problem.learned(*learn)?),
        };
        setting.progress.unit()?;
        Ok(done)
    })?;
    let mut found = Rates { curves: Vec::new(), online: Vec::new(), learned: Vec::new() };
    for done in done {
        match done {
            Done::Curve(curve) => found.curves.push(curve),
            Done::Online(online) => found.online = online,
            Done::Learned(learned) => found.learned.insert(0, learned),
        }
    }
    Ok(found)
}

/// The best of some runs, and by how many factors of ten their numbers may differ so that the loss stays within a tenth of that.
fn best_and_range<'a>(runs: impl Iterator<Item = &'a Run> + Clone) -> (Option<&'a Run>, f64) {
    let best = runs.clone().filter(|run| run.loss.is_finite()).min_by(|a, b| a.loss.total_cmp(&b.loss));
    let Some(best) = best else { return (None, 0.0) };
    let good = runs.filter(|run| run.loss <= 1.1 * best.loss).map(|run| run.rate.log10());
    let (low, high) =
        good.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), rate| (low.min(rate), high.max(rate)));
    (Some(best), high - low)
}

impl Rates {
    /// The best run of the grid without momentum, and the factors of ten within which a rate has to lie.
    pub fn plain(&self) -> (&Run, f64) {
        let (best, range) = best_and_range(self.curves[0].runs.iter());
        (best.unwrap_or(&self.curves[0].runs[0]), range)
    }

    /// The best run of the whole grid with its momentum.
    pub fn best(&self) -> (f64, &Run) {
        let all = self.curves.iter().flat_map(|curve| curve.runs.iter().map(move |run| (curve.momentum, run)));
        let best = all.filter(|(_, run)| run.loss.is_finite()).min_by(|a, b| a.1.loss.total_cmp(&b.1.loss));
        best.unwrap_or((0.0, &self.curves[0].runs[0]))
    }

    /// The best run from a rate of zero, and the factors of ten within which the rate of the rate has to lie.
    pub fn online_best(&self) -> (&Online, f64) {
        let (best, range) = best_and_range(self.online.iter().map(|online| &online.run));
        let best = best.and_then(|best| self.online.iter().find(|online| online.run.rate == best.rate));
        (best.unwrap_or(&self.online[0]), range)
    }

    pub fn part(&self) -> Part {
        let mut lines: Vec<Line> = self
            .curves
            .iter()
            .zip(["s1", "s2", "s3"])
            .map(|(curve, class)| {
                let points = curve.runs.iter().map(|run| (run.rate, run.loss));
                let points = points.filter(|(_, loss)| *loss < 4.0).collect();
                Line::new(&format!("fixed, momentum {}", number(curve.momentum)), class, points)
            })
            .collect();
        for learned in self.learned.iter().filter(|learned| learned.rates.len() == 1) {
            let points = vec![(learned.rates[0], learned.loss)];
            lines.push(Line::marks(&format!("learned: {}", learned.name), learned.class, points));
        }
        let (online, _) = self.online_best();
        if let Some(last) = online.path.last() {
            lines.push(Line::marks("learned online, from 0", "s7", vec![(*last, online.run.loss)]));
        }
        let losses = Plot {
            title: "Final loss over the learning rate",
            x_axis: "learning rate",
            x_range: (1e-3, 20.0),
            y_axis: "validation loss, nats",
            logarithmic: true,
            lines,
        };
        let near = |online: &&Online| (online.run.rate.log10().fract().abs()) < 1e-9;
        let lines = self.online.iter().filter(near).zip(["s1", "s2", "s3", "s4", "s5"]).map(|(online, class)| {
            let points = online.path.iter().enumerate().map(|(step, rate)| ((step + 1) as f64, *rate)).collect();
            Line::new(&format!("β = {}", number(online.run.rate)), class, points)
        });
        let paths = Plot {
            title: "Online: the rate while it trains",
            x_axis: "step",
            x_range: (0.0, STEPS as f64),
            y_axis: "learning rate",
            logarithmic: true,
            lines: lines.collect(),
        };
        let points = |runs: Vec<&Run>| runs.iter().map(|run| (run.rate, run.loss)).filter(|p| p.1 < 4.0).collect();
        let both = Plot {
            title: "Two numbers to choose, compared",
            x_axis: "learning rate, or its rate β",
            x_range: (1e-3, 20.0),
            y_axis: "validation loss, nats",
            logarithmic: true,
            lines: vec![
                Line::new("fixed rate", "s1", points(self.curves[0].runs.iter().collect())),
                Line::new("rate from 0, moved by β", "s7", points(self.online.iter().map(|o| &o.run).collect())),
            ],
        };
        let lines = self.learned.iter().map(|learned| {
            let points = learned.path.iter().enumerate().map(|(trial, at)| ((trial + 1) as f64, at.0)).collect();
            Line::new(learned.name, learned.class, points)
        });
        let mut lines: Vec<Line> = lines.collect();
        let (momentum, best) = self.best();
        let level = format!("best of the grid: {}, momentum {}", number(best.rate), number(momentum));
        lines.push(Line::new(&level, "quiet dashed", vec![(1.0, best.loss), (TRIALS as f64, best.loss)]));
        let trials = Plot {
            title: "By hypergradients: loss over trials",
            x_axis: "trial (a run of 60 steps and its hypergradient)",
            x_range: (0.0, TRIALS as f64),
            y_axis: "validation loss, nats",
            logarithmic: true,
            lines,
        };
        let lines = self.learned.iter().filter(|learned| learned.rates.len() == 1).flat_map(|learned| {
            let of = |what: fn(&(f64, f64, f64)) -> f64| {
                learned.path.iter().enumerate().map(|(trial, at)| ((trial + 1) as f64, what(at))).collect()
            };
            let rate = Line::new(&format!("{}: the rate", learned.name), learned.class, of(|at| at.1));
            let dashed = format!("{} dashed", learned.class);
            let momentum = Line::new(&format!("{}: the momentum", learned.name), &dashed, of(|at| at.2));
            if learned.momentum > 0.0 { vec![rate, momentum] } else { vec![rate] }
        });
        let values = Plot {
            title: "By hypergradients: what is learned",
            x_axis: "trial",
            x_range: (0.0, TRIALS as f64),
            y_axis: "learning rate, momentum",
            logarithmic: true,
            lines: lines.collect(),
        };
        let schedule = self.learned.iter().filter(|learned| learned.rates.len() > 1).map(|learned| {
            let points = learned.rates.iter().enumerate().map(|(step, rate)| ((step + 1) as f64, *rate)).collect();
            Line::new(learned.name, learned.class, points)
        });
        let mut lines: Vec<Line> = schedule.collect();
        let (plain, _) = self.plain();
        let level = vec![(1.0, plain.rate), (STEPS as f64, plain.rate)];
        lines.push(Line::new("best fixed rate", "quiet dashed", level));
        let schedule = Plot {
            title: "A learned schedule",
            x_axis: "step of training",
            x_range: (0.0, STEPS as f64),
            y_axis: "learning rate",
            logarithmic: true,
            lines,
        };
        Part {
            title: "A learning rate and a momentum, learned",
            text: format!(
                "A network of one hidden layer of {WIDTH} with tanh is trained by {STEPS} steps of gradient descent on {TRAIN} digits; the loss on {VALIDATION} others \
                 counts. Fixed rates are tried on a grid of {} with momentum {}, {} and {}. Online hypergradient descent starts at a rate of 0 and moves \
                 it by β times the product of two successive gradients; it costs one run. Hypergradients through the run start at {} (they move logarithms, which have \
                 no zero) and take {TRIALS} runs of about five times the cost.",
                grid().len(),
                number(MOMENTA[0]),
                number(MOMENTA[1]),
                number(MOMENTA[2]),
                number(START),
            ),
            figures: vec![
                losses.html_log_x(),
                both.html_log_x(),
                paths.html(),
                trials.html(),
                values.html(),
                schedule.html(),
            ],
            table: (
                vec!["rate", "validation loss, nats", "test accuracy", "learning rate", "momentum", "runs"],
                self.table(),
            ),
        }
    }

    fn table(&self) -> Vec<Vec<String>> {
        let fixed_runs = grid().len();
        let mut rows: Vec<Vec<String>> = Vec::new();
        for curve in &self.curves {
            let (Some(best), _) = best_and_range(curve.runs.iter()) else { continue };
            rows.push(vec![
                "best fixed".into(),
                fixed(best.loss, 3),
                percent(best.accuracy),
                number(best.rate),
                number(curve.momentum),
                fixed_runs.to_string(),
            ]);
        }
        let (online, _) = self.online_best();
        rows.push(vec![
            format!("online from 0, β = {}", number(online.run.rate)),
            fixed(online.run.loss, 3),
            percent(online.run.accuracy),
            format!("{} at the end", number(online.path.last().copied().unwrap_or(f64::NAN))),
            "0".into(),
            "1".into(),
        ]);
        for learned in &self.learned {
            let range = match learned.rates.as_slice() {
                [one] => number(*one),
                all => {
                    let low = all.iter().copied().fold(f64::INFINITY, f64::min);
                    let high = all.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    format!("{} to {}", number(low), number(high))
                }
            };
            rows.push(vec![
                format!("learned: {}", learned.name),
                fixed(learned.loss, 3),
                percent(learned.accuracy),
                range,
                number(learned.momentum),
                format!("{TRIALS} × 5"),
            ]);
        }
        rows
    }
}
