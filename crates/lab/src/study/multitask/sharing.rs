//! One body with several heads against separate networks: numbers to train, and examples needed.

use core_tensor::Random;
use serde::Serialize;

use super::examples::Tasks;
use super::network::{Join, Training};
use crate::error::Result;
use crate::report::plot::{Line, Plot, fixed, number};
use crate::study::toolkit::{median, parallel};
use crate::study::{Part, Setting};
use crate::summary::grouped;

const SEEDS: u64 = 5;
/// Training examples.
const EXAMPLES: [usize; 6] = [40, 80, 160, 320, 640, 1200];
const STEPS: usize = 400;
const BATCH: usize = 32;
const RATE: f64 = 5e-3;
const WIDTH: usize = 64;

/// Who learns the tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    /// One body; every example has the labels of all tasks.
    OneBody,
    /// One body; every example has the label of one task: the tasks' data sets have nothing in common.
    OneBodyOwnData,
    /// A network of the same width for each task, on all examples.
    Separate,
    /// The same so narrow that all together train no more numbers than one body.
    Narrow,
    /// A network for each task on the examples that have its label.
    SeparateOwnData,
}

const WHO: [(Who, &str, &str); 5] = [
    (Who::OneBody, "one body", "s1"),
    (Who::Separate, "separate networks", "s2"),
    (Who::Narrow, "separate, as many numbers as one body", "s3"),
    (Who::OneBodyOwnData, "one body, data not shared", "s1 dashed"),
    (Who::SeparateOwnData, "separate networks, data not shared", "s2 dashed"),
];

pub const UNITS: u64 = 2 * WHO.len() as u64 * SEEDS;

/// One way of learning the tasks.
#[derive(Clone, Debug, Serialize)]
pub struct Curve {
    pub name: String,
    #[serde(skip)]
    who: Option<Who>,
    /// Numbers trained, of all networks together.
    pub parameters: usize,
    /// Examples, and the mean over tasks and seeds of the test accuracy.
    pub accuracies: Vec<(usize, f64)>,
    /// The same for each task with all examples.
    each: Vec<f64>,
    /// The largest standard error over the numbers of examples.
    error: f64,
}

/// One list of tasks.
#[derive(Clone, Debug, Serialize)]
pub struct Family {
    pub title: &'static str,
    tasks: Vec<&'static str>,
    pub curves: Vec<Curve>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Sharing {
    /// Tasks on one digit, then both digits of an image.
    pub families: Vec<Family>,
}

pub fn run(one: &Tasks, two: &Tasks, setting: &Setting<'_>) -> Result<Sharing> {
    let families = [("three questions about one digit", one), ("two digits in one image", two)];
    let random = setting.random.fork("sharing");
    let found = families.map(|(title, tasks)| family(title, tasks, &random.fork(title), setting));
    Ok(Sharing { families: found.into_iter().collect::<Result<_>>()? })
}

fn family(title: &'static str, tasks: &Tasks, random: &Random, setting: &Setting<'_>) -> Result<Family> {
    let jobs: Vec<(usize, u64)> = (0..WHO.len()).flat_map(|who| (0..SEEDS).map(move |seed| (who, seed))).collect();
    let found = parallel(&jobs, |&(who, seed)| {
        let of = |count: &usize| learn(WHO[who].0, *count, tasks, &random.fork(format!("{seed}")), setting);
        let accuracies = EXAMPLES.iter().map(of).collect::<Result<Vec<_>>>()?;
        setting.progress.unit()?;
        Ok(accuracies)
    })?;
    let curves = WHO.iter().zip(found.chunks(SEEDS as usize)).map(|((who, name, _), seeds)| {
        let count = tasks.names.len() as f64;
        let mean = |at: usize, seed: usize| seeds[seed][at].0.iter().sum::<f64>() / count;
        let seeds_of = |at: usize| (0..seeds.len()).map(move |seed| mean(at, seed)).collect::<Vec<f64>>();
        let average = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        let error = |values: &[f64]| {
            let middle = average(values);
            let squares: f64 = values.iter().map(|x| (x - middle).powi(2)).sum();
            (squares / (values.len() * (values.len() - 1)) as f64).sqrt()
        };
        let last = EXAMPLES.len() - 1;
        let each =
            (0..tasks.names.len()).map(|task| average(&seeds.iter().map(|s| s[last].0[task]).collect::<Vec<_>>()));
        Curve {
            name: (*name).into(),
            who: Some(*who),
            parameters: seeds[0][last].1,
            accuracies: EXAMPLES.iter().enumerate().map(|(at, n)| (*n, average(&seeds_of(at)))).collect(),
            each: each.collect(),
            error: (0..EXAMPLES.len()).map(|at| error(&seeds_of(at))).fold(0.0, f64::max),
        }
    });
    Ok(Family { title, tasks: tasks.names.clone(), curves: curves.collect() })
}

/// Numbers of a network of one hidden layer, for heads of these classes.
fn numbers(inputs: usize, width: usize, classes: &[usize]) -> usize {
    (inputs + 1) * width + classes.iter().map(|classes| (width + 1) * classes).sum::<usize>()
}

/// Accuracy of each task on the test set, and numbers trained.
fn learn(who: Who, count: usize, tasks: &Tasks, random: &Random, setting: &Setting<'_>) -> Result<(Vec<f64>, usize)> {
    let all = tasks.all();
    let classes = &tasks.train.classes;
    let one = numbers(tasks.train.inputs, WIDTH, classes);
    let groups: Vec<Vec<usize>> = match who {
        Who::OneBody | Who::OneBodyOwnData => vec![all.clone()],
        _ => all.iter().map(|task| vec![*task]).collect(),
    };
    let width = match who {
        Who::Narrow => {
            let fits = |width: &usize| {
                classes.iter().map(|classes| numbers(tasks.train.inputs, *width, &[*classes])).sum::<usize>() <= one
            };
            (1..=WIDTH).rev().find(fits).unwrap_or(1)
        }
        _ => WIDTH,
    };
    let known = |example: usize, task: usize| example % all.len() == task;
    let (mut accuracies, mut parameters) = (Vec::new(), 0);
    for group in &groups {
        let among: Vec<usize> = (0..count).filter(|i| who != Who::SeparateOwnData || known(*i, group[0])).collect();
        let training = Training {
            examples: &tasks.train,
            among: Some(&among),
            tasks: group,
            known: if who == Who::OneBodyOwnData { Some(&known) } else { None },
            widths: &[width],
            steps: STEPS,
            // As many labels of each task in a step, whoever learns.
            batch: if who == Who::OneBodyOwnData { BATCH * all.len() } else { BATCH },
            rate: RATE,
            device: setting.device,
        };
        let weights = vec![1.0 / group.len() as f64; all.len()];
        let network = training.run(&random.fork(format!("{group:?}")), Join::Sum(weights))?.network;
        accuracies.extend(network.measure(&tasks.test, group, setting.device).into_iter().map(|(_, right)| right));
        let (body, heads) = network.parameters();
        parameters += body + heads;
    }
    Ok((accuracies, parameters))
}

impl Curve {
    /// The accuracy with all examples.
    pub fn last(&self) -> f64 {
        self.accuracies[self.accuracies.len() - 1].1
    }

    /// Examples for an accuracy, between those measured by their logarithms; `None` outside them.
    fn examples_for(&self, accuracy: f64) -> Option<f64> {
        self.accuracies.windows(2).find_map(|pair| {
            let [(n, low), (m, high)] = [pair[0], pair[1]].map(|(n, a)| ((n as f64).ln(), a));
            let inside = low <= accuracy && accuracy <= high && low < high;
            inside.then(|| (n + (accuracy - low) / (high - low) * (m - n)).exp())
        })
    }
}

impl Family {
    fn curve(&self, who: Who) -> &Curve {
        self.curves.iter().find(|curve| curve.who == Some(who)).expect("all are there")
    }

    pub fn one_body(&self) -> &Curve {
        self.curve(Who::OneBody)
    }

    pub fn separate(&self) -> &Curve {
        self.curve(Who::Separate)
    }

    pub fn narrow(&self) -> &Curve {
        self.curve(Who::Narrow)
    }

    /// One body and separate networks where each example has the label of one task.
    pub fn own_data(&self) -> (&Curve, &Curve) {
        (self.curve(Who::OneBodyOwnData), self.curve(Who::SeparateOwnData))
    }

    /// How many times the examples others need for the accuracy of `one`: median over its numbers of examples where it can be
    /// told.
    fn times(one: &Curve, other: &Curve) -> Option<f64> {
        let ratios = one.accuracies.iter().filter_map(|(n, accuracy)| Some(other.examples_for(*accuracy)? / *n as f64));
        let middle = median(ratios);
        middle.is_finite().then_some(middle)
    }

    /// For separate networks, against one body.
    pub fn more_examples(&self) -> Option<f64> {
        Self::times(self.one_body(), self.separate())
    }

    /// The same where data are not shared.
    pub fn more_examples_own_data(&self) -> Option<f64> {
        let (one, separate) = self.own_data();
        Self::times(one, separate)
    }

    fn plot(&self) -> String {
        let lines = self.curves.iter().zip(WHO).map(|(curve, (_, name, class))| {
            Line::new(name, class, curve.accuracies.iter().map(|(n, a)| (*n as f64, 100.0 * a)).collect())
        });
        let title = format!("Accuracy by examples: {}", self.title);
        let plot = Plot {
            title: &title,
            x_axis: "training images",
            x_range: (0.0, EXAMPLES[EXAMPLES.len() - 1] as f64),
            y_axis: "right on the test set, mean of tasks and seeds, %",
            logarithmic: false,
            lines: lines.collect(),
        };
        plot.html()
    }
}

impl Sharing {
    pub fn part(&self) -> Part {
        let rows = self.families.iter().flat_map(|family| {
            family.curves.iter().map(|curve| {
                let each =
                    family.tasks.iter().zip(&curve.each).map(|(task, a)| format!("{task} {}", fixed(100.0 * a, 1)));
                let mut cells = vec![format!("{}: {}", family.title, curve.name), grouped(curve.parameters)];
                cells.extend(curve.accuracies.iter().map(|(_, accuracy)| fixed(100.0 * accuracy, 1)));
                cells.push(each.collect::<Vec<_>>().join(", "));
                cells
            })
        });
        let error = self.families.iter().flat_map(|family| &family.curves).map(|curve| curve.error).fold(0.0, f64::max);
        let head =
            ["tasks and networks", "numbers trained", "40", "80", "160", "320", "640", "1,200", "with 1,200, by task"];
        Part {
            title: "One body, or a network for each task",
            text: format!(
                "A hidden layer of {WIDTH}, Adam at {}, batch {BATCH}, {STEPS} steps on the first images of the training set, {SEEDS} seeds; accuracies in % are \
                 means over tasks and seeds, with a standard error of at most {} points. Data that are not shared: the i-th image has a \
                 label for one task only, in turn; a batch of one body then holds {BATCH} images of each task.",
                number(RATE),
                fixed(100.0 * error, 1),
            ),
            figures: self.families.iter().map(Family::plot).collect(),
            table: (head.to_vec(), rows.collect()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curve(who: Who, accuracies: [f64; 3]) -> Curve {
        Curve {
            name: String::new(),
            who: Some(who),
            parameters: 1,
            accuracies: [100, 200, 400].into_iter().zip(accuracies).collect(),
            each: vec![],
            error: 0.0,
        }
    }

    #[test]
    fn examples_are_interpolated_by_their_logarithm() {
        let one = curve(Who::OneBody, [0.6, 0.8, 0.9]);
        let half = one.examples_for(0.7).unwrap();
        assert!((half - 100.0 * 2f64.sqrt()).abs() < 1e-9, "{half}");
        assert_eq!((one.examples_for(0.5), one.examples_for(0.95)), (None, None));
        let late = curve(Who::Separate, [0.4, 0.6, 0.8]);
        assert!((Family::times(&one, &late).unwrap() - 2.0).abs() < 1e-9);
        assert_eq!(Family::times(&curve(Who::OneBody, [0.95; 3]), &late), None);
    }

    #[test]
    fn numbers_are_those_of_the_network() {
        let network =
            super::super::network::Network::new(&Random::new(1), 7, &[5], &[3, 2], &burn::tensor::Device::flex());
        let (body, heads) = network.parameters();
        assert_eq!(body + heads, numbers(7, 5, &[3, 2]));
    }
}
