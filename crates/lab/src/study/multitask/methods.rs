//! Two digits in one image: separate networks, a tuned weighted sum, and ten methods, all with the same budget.

use ::multitask::pareto::{Better, delta_m_higher_is_better};
use ::multitask::weighting::{Famo, Uncertainty};
use ::multitask::{AlignedMtl, CaGrad, GradDrop, ImtlG, Mgda, NashMtl, PcGrad, UpGrad};
use core_tensor::Random;
use serde::Serialize;

use super::examples::Tasks;
use super::network::{Join, Trained, Training};
use crate::error::Result;
use crate::report::bars::{Bar, Bars};
use crate::report::plot::{fixed, number};
use crate::study::toolkit::parallel;
use crate::study::{Part, Setting};
use crate::summary::grouped;

/// Runs with other weights and another order of the examples, for the numbers reported.
const SEEDS: u64 = 8;
/// Settings tried of each method.
const SETTINGS: usize = 9;
/// Rates of methods without a parameter, and of those with one, whose values are three.
const RATES: [f64; SETTINGS] = [2e-3, 4e-3, 6e-3, 8e-3, 1e-2, 1.4e-2, 1.8e-2, 2.4e-2, 3e-2];
const FEW_RATES: [f64; 3] = [6e-3, 1.2e-2, 2.4e-2];
/// Runs by whose mean validation accuracy a setting is chosen.
const TUNING: u64 = 2;
/// Steps that are timed, with nothing beside them.
const TIMED: usize = 120;
pub const BATCH: usize = 64;

/// How large the experiment is: larger for larger images.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    pub widths: &'static [usize],
    pub steps: usize,
}

impl Size {
    pub fn of(tasks: &Tasks) -> Self {
        match tasks.train.inputs {
            inputs if inputs > 400 => Self { widths: &[128, 64], steps: 1000 },
            _ => Self { widths: &[64, 32], steps: 600 },
        }
    }
}

/// What one setting is made of: a value of the method's parameter and a seed.
type Make = fn(f64, u64) -> Result<Join>;

struct Case {
    name: &'static str,
    /// Name and values of its parameter.
    parameter: Option<(&'static str, [f64; 3])>,
    make: Make,
}

const fn case(name: &'static str, parameter: Option<(&'static str, [f64; 3])>, make: Make) -> Case {
    Case { name, parameter, make }
}

const CASES: [Case; 12] = [
    case("separate networks", None, |_, _| Ok(Join::Sum(vec![1.0]))),
    case("weighted sum", Some(("weight of left", [0.4, 0.5, 0.6])), |w, _| Ok(Join::Sum(vec![w, 1.0 - w]))),
    case("PCGrad", None, |_, seed| Ok(Join::Gramian(Box::new(PcGrad::new(seed))))),
    case("CAGrad", Some(("c", [0.2, 0.4, 0.8])), |c, _| Ok(Join::Gramian(Box::new(CaGrad::new(c)?)))),
    case("MGDA", None, |_, _| Ok(Join::Gramian(Box::new(Mgda::new())))),
    case("IMTL-G", None, |_, _| Ok(Join::Gramian(Box::new(ImtlG::new())))),
    case("Nash-MTL", None, |_, _| Ok(Join::Gramian(Box::new(NashMtl::new())))),
    case("Aligned-MTL", None, |_, _| Ok(Join::Gramian(Box::new(AlignedMtl::new())))),
    case("UPGrad", None, |_, _| Ok(Join::Gramian(Box::new(UpGrad::new())))),
    case("GradDrop", None, |_, seed| Ok(Join::Rows(Box::new(GradDrop::new(seed))))),
    case("FAMO", Some(("its rate", [0.005, 0.025, 0.1])), |rate, _| Ok(Join::Famo(Famo::new().rate(rate, 1e-3)?))),
    case("uncertainty", Some(("its rate", [0.003, 0.01, 0.03])), |rate, _| {
        Ok(Join::Losses(Box::new(Uncertainty::new(rate)?)))
    }),
];
/// Separate networks and the weighted sum come first.
const FIRST_METHOD: usize = 2;

pub const UNITS: u64 = CASES.len() as u64 * (SETTINGS as u64 * TUNING + SEEDS + 1);

/// A setting that was tried.
#[derive(Clone, Copy, Debug, Serialize)]
struct Tried {
    /// The value of the method's parameter, if it has one.
    parameter: Option<f64>,
    rate: f64,
    /// Mean over the tasks of the share of validation examples that are right.
    validation: f64,
}

/// What one of them came to with the setting that was best on validation.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    pub name: String,
    chosen: Tried,
    tried: Vec<Tried>,
    /// Test accuracy of each task, seed by seed.
    accuracies: Vec<Vec<f64>>,
    /// Test loss of each task in nats, mean of seeds.
    pub losses: Vec<f64>,
    /// Mean relative gain over separate networks.
    pub delta_m: f64,
    /// Share of steps in which the gradients pointed apart.
    pub conflicts: Option<f64>,
    /// Share of steps in which the method had no weights for the gradients, and nothing moved.
    pub stood: f64,
    /// Seconds a step; of separate networks those of all together.
    pub seconds: f64,
    /// Bytes of gradients that are in memory at once, counted.
    pub bytes: usize,
}

#[derive(Clone, Debug, Serialize)]
pub struct Methods {
    names: Vec<&'static str>,
    steps: usize,
    training_examples: usize,
    test_examples: usize,
    /// Numbers in the body and in the heads.
    parameters: (usize, usize),
    /// Separate networks, the weighted sum, the methods.
    pub outcomes: Vec<Outcome>,
}

impl Case {
    fn settings(&self) -> Vec<(Option<f64>, f64)> {
        match self.parameter {
            None => RATES.iter().map(|rate| (None, *rate)).collect(),
            Some((_, values)) => {
                values.iter().flat_map(|value| FEW_RATES.iter().map(|rate| (Some(*value), *rate))).collect()
            }
        }
    }
}

/// One run: a network for all tasks, or one for each.
fn train(
    index: usize,
    (parameter, rate): (Option<f64>, f64),
    steps: usize,
    tasks: &Tasks,
    random: &Random,
    setting: &Setting<'_>,
) -> Result<Vec<(Vec<usize>, Trained)>> {
    let size = Size::of(tasks);
    let groups: Vec<Vec<usize>> = match index {
        0 => tasks.all().into_iter().map(|task| vec![task]).collect(),
        _ => vec![tasks.all()],
    };
    let run = |group: Vec<usize>| {
        let training = Training {
            examples: &tasks.train,
            among: None,
            tasks: &group,
            known: None,
            widths: size.widths,
            steps,
            batch: BATCH,
            rate,
            device: setting.device,
        };
        let label = if index == 0 { format!("separate {}", group[0]) } else { "shared".into() };
        let seed = random.fork("method").next_u64();
        let trained = training.run(&random.fork(label), (CASES[index].make)(parameter.unwrap_or(f64::NAN), seed)?)?;
        Ok((group, trained))
    };
    groups.into_iter().map(run).collect()
}

/// Loss and accuracy of each task.
fn measure(
    runs: &[(Vec<usize>, Trained)],
    examples: &super::examples::Examples,
    setting: &Setting<'_>,
) -> Vec<(f64, f64)> {
    runs.iter().flat_map(|(group, trained)| trained.network.measure(examples, group, setting.device)).collect()
}

fn mean(values: impl IntoIterator<Item = f64>) -> f64 {
    let (sum, count) = values.into_iter().fold((0.0, 0), |(sum, count), x| (sum + x, count + 1));
    sum / f64::from(count)
}

/// The standard deviation of a sample.
fn deviation(values: &[f64]) -> f64 {
    let middle = mean(values.iter().copied());
    let squares: f64 = values.iter().map(|x| (x - middle).powi(2)).sum();
    (squares / (values.len() as f64 - 1.0)).sqrt()
}

pub fn run(tasks: &Tasks, setting: &Setting<'_>) -> Result<Methods> {
    let size = Size::of(tasks);
    let jobs: Vec<(usize, usize)> =
        (0..CASES.len()).flat_map(|index| (0..SETTINGS).map(move |at| (index, at))).collect();
    let random = setting.random.fork("methods");
    let tried = parallel(&jobs, |&(index, at)| {
        let (parameter, rate) = CASES[index].settings()[at];
        let mut total = 0.0;
        for run in 0..TUNING {
            let random = random.fork(format!("tuning {run}"));
            let runs = train(index, (parameter, rate), size.steps, tasks, &random, setting)?;
            total += mean(measure(&runs, &tasks.validation, setting).into_iter().map(|(_, right)| right));
            setting.progress.unit()?;
        }
        let validation = total / TUNING as f64;
        Ok(Tried { parameter, rate, validation })
    })?;
    let tried: Vec<&[Tried]> = tried.chunks(SETTINGS).collect();
    // The first of the best, so that chance does not decide between equals.
    let best = |tried: &[Tried]| tried.iter().rev().max_by(|a, b| a.validation.total_cmp(&b.validation)).copied();
    let chosen: Vec<Tried> = tried.iter().map(|tried| best(tried).expect("there are settings")).collect();
    let jobs: Vec<(usize, u64)> =
        (0..CASES.len()).flat_map(|index| (0..SEEDS).map(move |seed| (index, seed))).collect();
    let found = parallel(&jobs, |&(index, seed)| {
        let Tried { parameter, rate, .. } = chosen[index];
        let runs = train(index, (parameter, rate), size.steps, tasks, &random.fork(format!("seed {seed}")), setting)?;
        setting.progress.unit()?;
        Ok((
            measure(&runs, &tasks.test, setting),
            (runs[0].1.conflicts, runs[0].1.stood),
            runs[0].1.network.parameters(),
        ))
    })?;
    let (found, parameters): (Vec<_>, Vec<_>) = found.into_iter().map(|(of, shares, p)| ((of, shares), p)).unzip();
    let parameters = parameters[parameters.len() - 1];
    let count = tasks.names.len();
    let mut outcomes: Vec<Outcome> = Vec::new();
    for (index, found) in found.chunks(SEEDS as usize).enumerate() {
        let Tried { parameter, rate, .. } = chosen[index];
        let timed = train(index, (parameter, rate), TIMED, tasks, &random.fork("time"), setting)?;
        setting.progress.unit()?;
        let (body, heads) = match index {
            0 => (parameters.0, parameters.1 / count),
            _ => parameters,
        };
        let rows = (CASES[index].make)(parameter.unwrap_or(f64::NAN), 0)?.rows(count);
        let over_seeds =
            |of: fn(&(f64, f64)) -> f64, task: usize| mean(found.iter().map(|(tasks, _)| of(&tasks[task])));
        let accuracies: Vec<f64> = (0..count).map(|task| over_seeds(|of| of.1, task)).collect();
        let separate = outcomes.first().map_or(accuracies.clone(), |first| first.means());
        let conflicts = mean(found.iter().map(|(_, (conflicts, _))| *conflicts));
        outcomes.push(Outcome {
            name: CASES[index].name.into(),
            chosen: chosen[index],
            tried: tried[index].to_vec(),
            accuracies: found.iter().map(|(tasks, _)| tasks.iter().map(|task| task.1).collect()).collect(),
            losses: (0..count).map(|task| over_seeds(|of| of.0, task)).collect(),
            delta_m: delta_m_higher_is_better(&accuracies, &separate, &vec![Better::Higher; count])?,
            conflicts: conflicts.is_finite().then_some(conflicts),
            stood: mean(found.iter().map(|(_, (_, stood))| *stood)),
            seconds: timed.iter().map(|(_, trained)| trained.seconds).sum(),
            bytes: 4 * (rows * body + heads),
        });
    }
    Ok(Methods {
        names: tasks.names.clone(),
        steps: size.steps,
        training_examples: tasks.train.len(),
        test_examples: tasks.test.len(),
        parameters,
        outcomes,
    })
}

impl Outcome {
    /// Test accuracy of each task, mean of seeds.
    fn means(&self) -> Vec<f64> {
        let tasks = self.accuracies[0].len();
        (0..tasks).map(|task| mean(self.accuracies.iter().map(|seed| seed[task]))).collect()
    }

    /// The mean over the tasks, seed by seed.
    fn over_tasks(&self) -> Vec<f64> {
        self.accuracies.iter().map(|tasks| mean(tasks.iter().copied())).collect()
    }

    /// Mean over tasks and seeds.
    pub fn accuracy(&self) -> f64 {
        mean(self.over_tasks())
    }

    fn setting(&self, parameter: Option<&str>) -> String {
        match (parameter, self.chosen.parameter) {
            (Some(name), Some(value)) => format!("{name} {}, rate {}", number(value), number(self.chosen.rate)),
            _ => format!("rate {}", number(self.chosen.rate)),
        }
    }
}

impl Methods {
    pub fn separate(&self) -> &Outcome {
        &self.outcomes[0]
    }

    pub fn sum(&self) -> &Outcome {
        &self.outcomes[1]
    }

    /// Everything but those two.
    pub fn methods(&self) -> &[Outcome] {
        &self.outcomes[FIRST_METHOD..]
    }

    pub fn best(&self) -> &Outcome {
        let best = self.methods().iter().max_by(|a, b| a.accuracy().total_cmp(&b.accuracy()));
        best.expect("there are ten")
    }

    /// By how much the accuracy is above that of the weighted sum, seed by seed under the same weights and order, with the
    /// standard error of the mean.
    pub fn gain(&self, outcome: &Outcome) -> (f64, f64) {
        let pairs = outcome.over_tasks().into_iter().zip(self.sum().over_tasks());
        let gains: Vec<f64> = pairs.map(|(a, b)| a - b).collect();
        (mean(gains.iter().copied()), deviation(&gains) / (gains.len() as f64).sqrt())
    }

    /// The methods that are ahead of the weighted sum, or behind it for `sign` −1, by more than two standard errors.
    pub fn apart(&self, sign: f64) -> Vec<&Outcome> {
        let clear = |outcome: &&Outcome| {
            let (gain, error) = self.gain(outcome);
            sign * gain > 2.0 * error
        };
        self.methods().iter().filter(clear).collect()
    }

    pub fn part(&self) -> Part {
        let class = |index: usize| match index {
            0 => "quiet",
            1 => "s2",
            _ => "s1",
        };
        let bars = |value: &dyn Fn(&Outcome) -> f64, label: &dyn Fn(&Outcome) -> String| {
            let bars = self.outcomes.iter().enumerate().map(|(index, outcome)| Bar {
                name: outcome.name.clone(),
                value: value(outcome),
                label: label(outcome),
                class: class(index),
            });
            bars.collect::<Vec<_>>()
        };
        let worst = self.outcomes.iter().map(|of| 100.0 * (1.0 - of.accuracy())).fold(0.0, f64::max);
        let errors = Bars {
            title: "Wrong answers on the test set",
            axis: "mean of both tasks and all seeds, % (± deviation of the seeds)",
            // Room for the numbers behind the bars.
            end: 1.2 * worst,
            bars: bars(&|of| 100.0 * (1.0 - of.accuracy()), &|of| {
                format!(
                    "{} ± {}",
                    fixed(100.0 * (1.0 - of.accuracy()), 2),
                    fixed(100.0 * deviation(&of.over_tasks()), 2)
                )
            }),
        };
        let times = Bars {
            title: "Time of a step",
            axis: "median, ms",
            end: 0.0,
            bars: bars(&|of| 1e3 * of.seconds, &|of| fixed(1e3 * of.seconds, 2)),
        };
        let memory = Bars {
            title: "Gradients in memory at once",
            axis: "counted, KiB",
            end: 0.0,
            bars: bars(&|of| of.bytes as f64 / 1024.0, &|of| fixed(of.bytes as f64 / 1024.0, 0)),
        };
        let rows = self.outcomes.iter().zip(&CASES).enumerate().map(|(index, (outcome, case))| {
            let mut cells = vec![outcome.name.clone()];
            for task in 0..self.names.len() {
                let of: Vec<f64> = outcome.accuracies.iter().map(|seed| 100.0 * seed[task]).collect();
                cells.push(format!("{} ± {}", fixed(mean(of.iter().copied()), 1), fixed(deviation(&of), 1)));
            }
            let (gain, error) = self.gain(outcome);
            cells.push(format!("{} %", fixed(100.0 * outcome.delta_m, 2)));
            cells.push(match index {
                1 => "–".into(),
                _ => format!("{} ± {}", fixed(100.0 * gain, 2), fixed(100.0 * error, 2)),
            });
            cells.push(outcome.setting(case.parameter.map(|(name, _)| name)));
            cells.push(outcome.conflicts.map_or("–".into(), |share| format!("{:.0} %", 100.0 * share)));
            cells.push(fixed(1e3 * outcome.seconds, 2));
            cells.push(fixed(outcome.bytes as f64 / 1024.0, 0));
            cells
        });
        let (body, heads) = self.parameters;
        let stood = self.outcomes.iter().filter(|outcome| outcome.stood > 0.0);
        let stood: String = stood
            .map(|outcome| {
                let share = fixed(100.0 * outcome.stood, 2);
                format!(
                    " {} had no weights for the gradients of {share} % of the steps, and stood still there.",
                    outcome.name
                )
            })
            .collect();
        Part {
            title: "Two digits in one image",
            text: format!(
                "{} images of two overlapping digits for training, {} for testing, no digit in both. A body of {} numbers, two heads of {}; Adam, \
                 batch {BATCH}, {} steps. Everything has the same budget: {SETTINGS} settings (nine rates, or three rates and three values of a \
                 parameter), the best by validation accuracy over {TUNING} runs, then {SEEDS} seeds that share weights and order. Separate networks have a body each. \
                 Gain is over the weighted sum in points, with the standard error over seeds. With two tasks Nash-MTL and IMTL-G take the \
                 same direction and PCGrad that of UPGrad, but not the same length. Bytes are counted from what is kept (a body's gradient for \
                 each task and their sum, or one), not measured; the forward pass and Adam's moments are the same for all.{stood}",
                grouped(self.training_examples),
                grouped(self.test_examples),
                grouped(body),
                grouped(heads),
                self.steps,
            ),
            figures: vec![errors.html(), times.html(), memory.html()],
            table: (
                vec![
                    "method",
                    "left, %",
                    "right, %",
                    "Δm",
                    "gain, points",
                    "setting chosen",
                    "conflicts",
                    "ms a step",
                    "KiB of gradients",
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
    fn every_case_has_the_same_number_of_settings() {
        for case in &CASES {
            assert_eq!(case.settings().len(), SETTINGS, "{}", case.name);
            for (parameter, _) in case.settings() {
                (case.make)(parameter.unwrap_or(f64::NAN), 1).unwrap();
            }
        }
        assert_eq!(CASES.len() - FIRST_METHOD, 10);
    }

    #[test]
    fn gains_are_paired_by_seed() {
        let outcome = |accuracies: [f64; 3]| Outcome {
            name: String::new(),
            chosen: Tried { parameter: None, rate: 1e-3, validation: 0.5 },
            tried: vec![],
            accuracies: accuracies.iter().map(|x| vec![*x, *x]).collect(),
            losses: vec![],
            delta_m: 0.0,
            conflicts: None,
            stood: 0.0,
            seconds: 0.0,
            bytes: 0,
        };
        let outcomes =
            vec![outcome([0.5; 3]), outcome([0.5, 0.6, 0.7]), outcome([0.52, 0.61, 0.73]), outcome([0.4, 0.6, 0.8])];
        let methods = Methods {
            names: vec!["a", "b"],
            steps: 1,
            training_examples: 1,
            test_examples: 1,
            parameters: (1, 1),
            outcomes,
        };
        let (gain, error) = methods.gain(&methods.outcomes[2]);
        assert!((gain - 0.02).abs() < 1e-12 && (error - 0.01 / 3f64.sqrt()).abs() < 1e-12);
        assert_eq!(methods.apart(1.0).len(), 1);
        assert!(methods.apart(-1.0).is_empty());
        assert!((methods.best().accuracy() - 0.62).abs() < 1e-12);
    }
}
