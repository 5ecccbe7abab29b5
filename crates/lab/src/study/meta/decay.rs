//! A weight decay for each input, by hypergradients and by random search at the same cost.

use ::bilevel::parameterise::weight_decay;
use ::bilevel::update::{Adam, Descent, Momentum, Setting as Decay};
use ::bilevel::{Batches, ConjugateGradient, Domain, Implicit, Method, NegativeCurvature, Problem, Unroll};
use burn::tensor::{Device, Tensor, TensorData};
use core_tensor::{Random, Tree};
use serde::Serialize;

use super::digits::{Digits, Examples, PIXELS, accuracy, cross_entropies, layer, layers, mean_and_error, scalar};
use super::{cost_of, percent_with_error, with_error};
use crate::data::CLASSES;
use crate::error::Result;
use crate::report::plot::{Line, Plot, number};
use crate::study::toolkit::{host_device, parallel};
use crate::study::{Part, Setting};
use crate::summary::grouped;

const TRAIN: usize = 100;
const VALIDATION: usize = 400;
/// Inputs that say nothing, beside the pixels.
const NOISE: usize = 64;
const INPUTS: usize = PIXELS + NOISE;
const STEPS: usize = 60;
/// In gradients.
pub const BUDGET: usize = 15_000;
/// Logarithms of what random search draws from.
const RANGE: (f64, f64) = (-9.0, 0.0);
/// Of raw numbers that are mapped to that range; hypergradients begin in its middle.
const OUTER_RATE: f64 = 0.15;
const SEEDS: usize = 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Search {
    Unrolled,
    Implicit,
    UnrolledOne,
    Random,
    RandomOne,
}

const SEARCHES: [(Search, &str, &str); 5] = [
    (Search::Unrolled, "hypergradients, a decay an input", "s1"),
    (Search::Implicit, "the same, implicit and warm-started", "s2"),
    (Search::UnrolledOne, "hypergradients, one decay", "s3"),
    (Search::Random, "random search, a decay an input", "s4"),
    (Search::RandomOne, "random search, one decay", "s5"),
];

pub const UNITS: u64 = (SEARCHES.len() * SEEDS) as u64;

/// How a search went on average.
#[derive(Clone, Debug, Serialize)]
pub struct Trace {
    pub name: &'static str,
    #[serde(skip)]
    class: &'static str,
    /// Gradients spent; lowest validation loss so far and the test loss there, means over seeds.
    pub points: Vec<(f64, f64, f64)>,
    /// In the end, with standard errors over seeds.
    pub validation: (f64, f64),
    pub test: (f64, f64),
    pub accuracy: (f64, f64),
    /// Test losses of the seeds.
    each: Vec<f64>,
    /// Mean decay of the pixels and of the noise, geometric.
    pub decays: (f64, f64),
    /// Gradients until the validation loss was as low as the end of random search with a decay an input.
    pub to_random: Option<f64>,
    /// Runs, or steps of the loop.
    pub trials: usize,
}

#[derive(Clone, Debug, Serialize)]
pub struct Decays {
    pub traces: Vec<Trace>,
}

/// The best so far: gradients spent, validation loss, test loss, test accuracy, logarithms of the decays.
#[derive(Clone)]
struct Best {
    spent: f64,
    validation: f64,
    test: f64,
    accuracy: f64,
    decays: Vec<f64>,
}

/// Digits with inputs of noise beside the pixels.
struct Bench {
    batches: Batches<Examples, Examples>,
    test: Examples,
    z: Tree,
    device: Device,
}

/// The range as a domain of raw numbers.
fn logarithms() -> Result<Domain> {
    Ok(Domain::interval(RANGE.0, RANGE.1)?)
}

fn loss(z: &Tree, (inputs, hot): &Examples) -> Tensor<1> {
    cross_entropies(layer(z, 0, inputs.clone()), hot).mean()
}

impl Bench {
    fn new(random: &Random, device: &Device) -> Result<Self> {
        let digits = Digits::load(random.fork("digits"), device)?;
        let mut noise = random.fork("noise");
        let mut beside = |(inputs, hot): Examples| {
            let rows = inputs.dims()[0];
            (Tensor::cat(vec![inputs, noise.normal([rows, NOISE], 0.0, 0.5, device)], 1), hot)
        };
        let train = beside(digits.part(0..TRAIN));
        let validation = beside(digits.part(TRAIN..TRAIN + VALIDATION));
        let test = beside(digits.test());
        let z = layers(&[INPUTS, CLASSES], random.fork("start"), device)?.scale(0.0);
        Ok(Self { batches: Batches::new(train, validation), test, z, device: device.clone() })
    }

    fn x(&self, raw: &[f64]) -> Result<Tree> {
        let values: Vec<f32> = raw.iter().map(|value| *value as f32).collect();
        let count = values.len();
        Ok(Tree::empty().push("raw", Tensor::<1>::from_data(TensorData::new(values, [count]), &self.device))?)
    }

    /// The training loss with a decay for each input, or one for all: `½Σ e^{ℓᵢ}wᵢ²` with `ℓ` in the range. The bias has none.
    fn problem(&self, x: &Tree) -> Result<Problem<Examples, Examples>> {
        let (one, domain) = (x.num_elements() == 1, logarithms()?);
        let decayed = move |x: &Tree, z: &Tree, batch: &Examples| {
            let weight = z.filter(|name| name.path == "w0");
            let decay = if one { Decay::leaf("decay/w0") } else { Decay::per_feature("decay") };
            let mapped = Tree::empty().push("decay/w0", domain.map(x.get::<1>("raw").expect("the raw numbers")));
            let mapped = mapped.expect("one leaf");
            loss(z, batch) + weight_decay(&decay.exp(), &mapped, &weight).expect("a decay for each input")
        };
        Ok(Problem::from_functions(x, &self.z, &self.batches, decayed, |_: &Tree, z: &Tree, b: &Examples| loss(z, b))?)
    }

    fn judge(&self, spent: f64, validation: f64, z: &Tree, x: &Tree) -> Result<Best> {
        let logits = layer(z, 0, self.test.0.clone());
        let decays = logarithms()?.to_value(&x.get::<1>("raw")?.into_data().iter::<f64>().collect::<Vec<_>>())?;
        Ok(Best {
            spent,
            validation,
            test: scalar(cross_entropies(logits.clone(), &self.test.1).mean()),
            accuracy: accuracy(logits, &self.test.1),
            decays: if decays.len() == 1 { vec![decays[0]; INPUTS] } else { decays },
        })
    }

    /// The improvements of a search, in order, and its trials.
    fn search(&self, search: Search, mut random: Random) -> Result<(Vec<Best>, usize)> {
        let count = if matches!(search, Search::UnrolledOne | Search::RandomOne) { 1 } else { INPUTS };
        let start = self.x(&vec![0.0; count])?;
        let problem = self.problem(&start)?;
        let unroll = Unroll::new(Momentum::new(0.5, 0.9), STEPS)?;
        let mut bests: Vec<Best> = Vec::new();
        let (mut spent, mut trials) = (0.0, 0);
        let mut see = |spent: f64, validation: f64, z: &Tree, x: &Tree| -> Result<()> {
            if validation.is_finite() && bests.last().is_none_or(|best| validation < best.validation) {
                bests.push(self.judge(spent, validation, z, x)?);
            }
            Ok(())
        };
        match search {
            Search::Random | Search::RandomOne => {
                while spent + (STEPS as f64) < BUDGET as f64 {
                    // Not quite the ends, which no raw number has.
                    let draw =
                        |random: &mut Random| RANGE.0 + (RANGE.1 - RANGE.0) * (0.001 + 0.998 * random.next_f64());
                    let drawn: Vec<f64> = (0..count).map(|_| draw(&mut random)).collect();
                    let x = self.x(&logarithms()?.to_raw(&drawn)?)?;
                    let z = unroll.run(&problem, &x, &self.z, &self.batches.inner)?;
                    spent += STEPS as f64 + 1.0;
                    trials += 1;
                    see(spent, problem.outer_value(&x, &z, &self.batches.outer)?, &z, &x)?;
                }
            }
            Search::Unrolled | Search::UnrolledOne => {
                let mut descent = Descent::new(Adam::new(OUTER_RATE).betas(0.9, 0.9)?, &start);
                while spent < BUDGET as f64 {
                    let h = match unroll.hypergradient(&problem, descent.at(), &self.z, &self.batches) {
                        Err(::bilevel::Error::NotFinite { .. }) => break,
                        found => found?,
                    };
                    spent += cost_of(&h.certificate);
                    trials += 1;
                    see(spent, h.value, &h.z, descent.at())?;
                    descent.step(&h.gradient)?;
                }
            }
            Search::Implicit => {
                // A loop that trains on from where it is, its steps taken by Adam.
                let solver = ConjugateGradient::new(10)?.tolerance(1e-2)?;
                let implicit = Implicit::new(solver.on_negative_curvature(NegativeCurvature::Stop));
                let inner = Unroll::new(Momentum::new(0.5, 0.9), 10)?;
                let mut descent = Descent::new(Adam::new(OUTER_RATE / 3.0).betas(0.9, 0.9)?, &start);
                let mut z = inner.run(&problem, &start, &self.z, &self.batches.inner)?;
                while spent < BUDGET as f64 {
                    z = inner.run(&problem, descent.at(), &z, &self.batches.inner)?;
                    let h = match implicit.hypergradient(&problem, descent.at(), &z, &self.batches) {
                        Err(::bilevel::Error::NotFinite { .. }) => break,
                        found => found?,
                    };
                    spent += 10.0 + cost_of(&h.certificate);
                    trials += 1;
                    see(spent, h.value, &z, descent.at())?;
                    descent.step(&h.gradient)?;
                }
            }
        }
        Ok((bests, trials))
    }
}

pub fn run(setting: &Setting<'_>) -> Result<Decays> {
    let device = host_device();
    let random = setting.random.fork("decay");
    let jobs: Vec<(usize, usize)> = (0..SEARCHES.len()).flat_map(|s| (0..SEEDS).map(move |seed| (s, seed))).collect();
    let found = parallel(&jobs, |&(search, seed)| {
        let random = random.fork(format!("{seed}"));
        let found = Bench::new(&random, &device)?.search(SEARCHES[search].0, random.fork("search"))?;
        setting.progress.unit()?;
        Ok(found)
    })?;
    let mut traces: Vec<Trace> =
        SEARCHES.iter().zip(found.chunks(SEEDS)).map(|((_, name, class), seeds)| trace(name, class, seeds)).collect();
    let random = traces.iter().position(|trace| trace.name == SEARCHES[3].1).expect("random search is one of them");
    let level = traces[random].validation.0;
    for trace in &mut traces {
        trace.to_random = trace.points.iter().find(|point| point.1 <= level).map(|point| point.0);
    }
    Ok(Decays { traces })
}

/// Costs at which the means over seeds are taken.
fn costs() -> Vec<f64> {
    (0..=60).map(|i| 100.0 * (BUDGET as f64 / 100.0).powf(f64::from(i) / 60.0)).collect()
}

fn trace(name: &'static str, class: &'static str, seeds: &[(Vec<Best>, usize)]) -> Trace {
    let points = costs().into_iter().filter_map(|spent| {
        let at: Option<Vec<&Best>> =
            seeds.iter().map(|(all, _)| all.iter().rfind(|best| best.spent <= spent)).collect();
        at.map(|at| {
            let count = at.len() as f64;
            let mean = |of: fn(&Best) -> f64| at.iter().map(|best| of(best)).sum::<f64>() / count;
            (spent, mean(|best| best.validation), mean(|best| best.test))
        })
    });
    let last: Vec<&Best> = seeds.iter().filter_map(|(all, _)| all.last()).collect();
    let of = |what: fn(&Best) -> f64| last.iter().map(|best| what(best)).collect::<Vec<f64>>();
    let decays = |part: std::ops::Range<usize>| {
        let all: Vec<f64> = last.iter().flat_map(|best| best.decays[part.clone()].iter().copied()).collect();
        mean_and_error(&all).0.exp()
    };
    Trace {
        name,
        class,
        points: points.collect(),
        validation: mean_and_error(&of(|best| best.validation)),
        test: mean_and_error(&of(|best| best.test)),
        accuracy: mean_and_error(&of(|best| best.accuracy)),
        each: of(|best| best.test),
        decays: (decays(0..PIXELS), decays(PIXELS..INPUTS)),
        to_random: None,
        trials: seeds.first().map_or(0, |(_, trials)| *trials),
    }
}

impl Decays {
    pub fn of(&self, name: &str) -> &Trace {
        self.traces.iter().find(|trace| trace.name == name).expect("a search of the list")
    }

    /// Hypergradients and random search, each with a decay an input; then hypergradients and random search with one decay.
    pub fn pairs(&self) -> [&Trace; 4] {
        [0, 3, 2, 4].map(|at| self.of(SEARCHES[at].1))
    }

    /// How much lower the test loss of the first is, with its standard error paired by seed.
    pub fn gain(one: &Trace, other: &Trace) -> (f64, f64) {
        mean_and_error(&one.each.iter().zip(&other.each).map(|(a, b)| b - a).collect::<Vec<_>>())
    }

    pub fn part(&self) -> Part {
        let plot = |title, axis, of: fn(&(f64, f64, f64)) -> f64| {
            let lines = self.traces.iter().map(|trace| {
                Line::new(trace.name, trace.class, trace.points.iter().map(|point| (point.0, of(point))).collect())
            });
            Plot {
                title,
                x_axis: "gradients spent",
                x_range: (100.0, BUDGET as f64),
                y_axis: axis,
                logarithmic: false,
                lines: lines.collect(),
            }
            .html_log_x()
        };
        let rows = self.traces.iter().map(|trace| {
            vec![
                trace.name.into(),
                with_error(trace.validation, 3),
                with_error(trace.test, 3),
                percent_with_error(trace.accuracy),
                number(trace.decays.0),
                number(trace.decays.1),
                trace.to_random.map_or("–".into(), |cost| grouped(cost.round() as usize)),
                trace.trials.to_string(),
            ]
        });
        Part {
            title: "A weight decay for each of 128 inputs",
            text: format!(
                "A softmax regression on {TRAIN} digits whose {PIXELS} pixels stand beside {NOISE} inputs of noise, trained by {STEPS} steps with momentum. A decay for each input (or one \
                 for all) is chosen by the loss on {VALIDATION} digits. A run costs {STEPS} gradients, a hypergradient through it three times that and {STEPS} products, each of which \
                 counts two gradients; every search spends {} gradients. Random search draws logarithms evenly from {} to {}, hypergradients begin in the middle and move raw numbers behind that range. The implicit one \
                 trains on from where it is, ten steps at a time, and solves by at most ten conjugate gradients. Mean ± standard error over {SEEDS} draws of the data.",
                grouped(BUDGET),
                number(RANGE.0),
                number(RANGE.1),
            ),
            figures: vec![
                plot("Lowest validation loss over cost", "validation loss, nats", |point| point.1),
                plot("Test loss there over cost", "test loss, nats", |point| point.2),
            ],
            table: (
                vec![
                    "search",
                    "validation loss",
                    "test loss",
                    "test accuracy",
                    "decay of pixels",
                    "decay of noise",
                    "gradients to random search's end",
                    "trials",
                ],
                rows.collect(),
            ),
        }
    }
}
