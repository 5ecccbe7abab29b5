//! The adding problem: how many seeds of a recurrent network diverge, by rule.
//!
//! A sequence of pairs (number in [0, 1], mark); two steps are marked, and the sum of their numbers is asked for at the end.
//! S. Hochreiter, J. Schmidhuber, "Long short-term memory", 1997, experiment 4; as a test of clipping in Pascanu et al.
//! 2013.

use ::clipping::recurrent::spectral_radius;
use ::clipping::{
    AdaGc, AdaptiveGradientClip, AutoClip, ClipByGlobalNorm, ClipByTensorNorm, ClipByValue, Spam, UnitAxes, ZClip,
};
use burn::module::{Module, Param};
use burn::nn::{Linear, LinearConfig};
use burn::optim::SgdConfig;
use burn::tensor::{Device, Tensor, TensorData};
use core_tensor::transform::{Chain, Identity, Outcome};
use core_tensor::{Random, Scalar};
use serde::Serialize;

use crate::error::Result;
use crate::report::bars::{Bar, Bars};
use crate::report::plot::{Line, Plot, number, significant};
use crate::study::toolkit::{largest, median, parallel};
use crate::study::{Part, Setting};

const UNITS_OF_STATE: usize = 32;
const SEEDS: u64 = 10;

/// Sizes of problem and training.
#[derive(Clone, Copy)]
struct Task {
    time: usize,
    batch: usize,
    steps: usize,
    rate: f64,
}

const TASK: Task = Task { time: 15, batch: 16, steps: 500, rate: 0.1 };
/// The spectral radius of the recurrent weight at the beginning.
const RADIUS: f64 = 1.5;
/// Others, without a rule and with the global norm; at the first gradients vanish.
const RADII: [f64; 4] = [0.5, 0.75, 1.0, 1.25];
/// Steps at the end whose mean loss counts as the last.
const LAST: usize = 50;
/// The variance of the sum of two uniform numbers: the loss of whoever says 1 each time.
const BASELINE: f64 = 1.0 / 6.0;
/// A loss of so many times that, or one that is not finite, is divergence.
const DIVERGED: f64 = 100.0;
/// Steps whose mean is a point of the curves.
const EVERY: usize = 20;

type Make = fn(&Adder) -> core_tensor::Result<Chain>;

/// The rules, by name.
const RULES: [(&str, Make); 9] = [
    ("none", |_| Ok(Chain::new().then(Identity))),
    ("global norm 1", |_| Ok(Chain::new().then(ClipByGlobalNorm::new(1.0)?))),
    ("tensor norm 1", |_| Ok(Chain::new().then(ClipByTensorNorm::new(1.0)?))),
    ("value 0.1", |_| Ok(Chain::new().then(ClipByValue::new(0.1)?))),
    ("unit, AGC 0.1", |m| Ok(Chain::new().then(AdaptiveGradientClip::new(0.1, UnitAxes::of(m))?))),
    ("AutoClip 10 %", |_| Ok(Chain::new().then(AutoClip::new(10.0)?))),
    ("ZClip", |_| Ok(Chain::new().then(ZClip::default()))),
    ("AdaGC", |_| Ok(Chain::new().then(AdaGc::default()))),
    ("SPAM, no reset", |_| Ok(Chain::new().then(Spam::new(5000.0, 0.999, 0)?))),
];
/// Of the rules: without one, and with the lecture's.
const NONE: usize = 0;
const GLOBAL: usize = 1;

pub const UNITS: u64 = (RULES.len() + 2 * RADII.len()) as u64 * SEEDS;

/// A network of one recurrent layer with tanh, its answer read from the last state.
#[derive(Module, Debug)]
pub struct Adder {
    input: Linear,
    recurrent: Linear,
    output: Linear,
}

impl Adder {
    fn new(radius: f64, random: &mut Random, device: &Device) -> Result<Self> {
        let n = UNITS_OF_STATE;
        let mut layer = |from: usize, to: usize, bias: bool, scale: f64| -> Linear {
            let mut layer = LinearConfig::new(from, to).with_bias(bias).init(device);
            layer.weight = Param::from_tensor(random.normal([from, to], 0.0, scale, device));
            layer.bias = bias.then(|| Param::from_tensor(Tensor::zeros([to], device)));
            layer
        };
        let scale = (n as f64).powf(-0.5);
        let (input, mut recurrent) = (layer(2, n, true, 0.5), layer(n, n, false, scale));
        let output = layer(n, 1, true, scale);
        let weight = recurrent.weight.val().inner();
        let factor = radius / spectral_radius(&weight)?;
        recurrent.weight = Param::from_tensor(Tensor::from_inner(weight.mul_scalar(factor)));
        Ok(Self { input, recurrent, output })
    }

    /// The mean squared error of sequences `[time, batch, 2]` with answers `[batch, 1]`.
    fn loss(&self, sequences: Tensor<3>, answers: Tensor<2>) -> Tensor<1> {
        let inputs = self.input.forward(sequences);
        let [time, batch, n] = inputs.dims();
        let mut h = Tensor::zeros([batch, n], &inputs.device());
        for t in 0..time {
            let x = inputs.clone().narrow(0, t, 1).squeeze_dim::<2>(0);
            h = (x + self.recurrent.forward(h)).tanh();
        }
        (self.output.forward(h) - answers).square().mean()
    }
}

/// Sequences `[time, batch, 2]` and answers `[batch, 1]`.
fn problems(Task { time, batch, .. }: Task, random: &mut Random, device: &Device) -> (Tensor<3>, Tensor<2>) {
    let mut pairs: Vec<f32> = (0..time * batch).flat_map(|_| [random.next_f64() as f32, 0.0]).collect();
    let mut answers = vec![0.0; batch];
    for (column, answer) in answers.iter_mut().enumerate() {
        // One in each half.
        let half = time as u64 / 2;
        for t in [random.below(half), half + random.below(half)] {
            let at = 2 * (t as usize * batch + column);
            pairs[at + 1] = 1.0;
            *answer += pairs[at];
        }
    }
    (
        Tensor::from_data(TensorData::new(pairs, [time, batch, 2]), device),
        Tensor::from_data(TensorData::new(answers, [batch, 1]), device),
    )
}

/// One seed.
#[derive(Clone, Debug, Serialize)]
pub struct Run {
    /// The step at which it diverged, from 1.
    pub diverged: Option<usize>,
    /// The loss of each batch up to there.
    pub losses: Vec<f64>,
    /// The norm of each gradient up to there, before clipping.
    pub norms: Vec<f64>,
}

/// A rule over all seeds.
#[derive(Clone, Debug, Serialize)]
pub struct Rule {
    /// Its name.
    pub name: String,
    /// The spectral radius of the recurrent weight at the beginning.
    pub radius: f64,
    /// Share of seeds that diverged.
    pub diverged: f64,
    /// Median over seeds of the mean loss of the last steps, infinite for a seed that diverged.
    #[serde(serialize_with = "finite_or_null")]
    pub median_last_loss: f64,
    /// The largest gradient norm of any seed.
    #[serde(serialize_with = "finite_or_null")]
    pub largest_norm: f64,
    /// The seeds.
    pub runs: Vec<Run>,
}

fn finite_or_null<S: serde::Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    value.is_finite().then_some(*value).serialize(serializer)
}

/// All rules where gradients explode, two of them at smaller radii.
#[derive(Clone, Debug, Serialize)]
pub struct Adding {
    /// The loss of whoever says the mean.
    pub baseline: f64,
    /// All rules at the largest radius.
    pub rules: Vec<Rule>,
    /// Without a rule, from the smallest radius up to the largest.
    pub none: Vec<Rule>,
    /// With the global norm, at the same radii.
    pub global: Vec<Rule>,
}

pub fn run(setting: &Setting<'_>) -> Result<Adding> {
    let sweep = |rule: usize| RADII.map(|radius| (rule, radius));
    let large = (0..RULES.len()).map(|rule| (rule, RADIUS));
    let cases: Vec<(usize, f64)> = sweep(NONE).into_iter().chain(sweep(GLOBAL)).chain(large).collect();
    let jobs: Vec<(usize, f64, u64)> =
        cases.iter().flat_map(|&(rule, radius)| (0..SEEDS).map(move |seed| (rule, radius, seed))).collect();
    let mut runs = parallel(&jobs, |&(rule, radius, seed)| {
        let run = train(TASK, RULES[rule].1, radius, setting.random.fork(format!("adding {seed}")), setting.device)?;
        setting.progress.unit()?;
        Ok(run)
    })?
    .into_iter();
    let mut of = |cases: &[(usize, f64)]| -> Vec<Rule> {
        let mut seeds = || runs.by_ref().take(SEEDS as usize).collect();
        cases.iter().map(|&(rule, radius)| Rule::of(RULES[rule].0, radius, seeds())).collect()
    };
    let n = RADII.len();
    let (mut none, mut global, rules) = (of(&cases[..n]), of(&cases[n..2 * n]), of(&cases[2 * n..]));
    none.push(rules[NONE].clone());
    global.push(rules[GLOBAL].clone());
    Ok(Adding { baseline: BASELINE, rules, none, global })
}

fn train(task: Task, rule: Make, radius: f64, random: Random, device: &Device) -> Result<Run> {
    let device = device.clone().autodiff();
    let mut model = Adder::new(radius, &mut random.fork("weights"), &device)?;
    let mut trainer = rule(&model)?.before(SgdConfig::new().init());
    let mut data = random.fork("sequences");
    let mut run = Run { diverged: None, losses: Vec::new(), norms: Vec::new() };
    for step in 1..=task.steps {
        let (sequences, answers) = problems(task, &mut data, &device);
        let loss = model.loss(sequences, answers);
        let value = Scalar::from_tensor(loss.clone()).value();
        run.losses.push(value);
        if !(value < DIVERGED * BASELINE) {
            run.diverged = Some(step);
            break;
        }
        let outcome = trainer.step(task.rate, model, loss).map_err(core_tensor::Error::from)?;
        run.norms.push(outcome.report().map_or(f64::NAN, |report| report.grad_norm.value()));
        model = match outcome {
            Outcome::Stepped { model, .. } | Outcome::Skipped { model, .. } => model,
        };
    }
    Ok(run)
}

impl Rule {
    fn of(name: &str, radius: f64, runs: Vec<Run>) -> Self {
        let last = |run: &Run| match run.diverged {
            Some(_) => f64::INFINITY,
            None => run.losses[TASK.steps - LAST..].iter().sum::<f64>() / LAST as f64,
        };
        Self {
            name: name.into(),
            radius,
            diverged: runs.iter().filter(|run| run.diverged.is_some()).count() as f64 / runs.len() as f64,
            median_last_loss: median(runs.iter().map(last)),
            largest_norm: largest(runs.iter().flat_map(|run| run.norms.iter().copied())),
            runs,
        }
    }

    fn cells(&self) -> Vec<String> {
        let infinite = |value: f64| if value.is_finite() { significant(value) } else { "–".into() };
        vec![
            self.name.clone(),
            number(self.radius),
            format!("{:.0} %", 100.0 * self.diverged),
            infinite(self.median_last_loss),
            infinite(self.largest_norm),
        ]
    }
}

impl Adding {
    pub fn part(&self) -> Part {
        let bar = |rule: &Rule| Bar {
            name: rule.name.clone(),
            value: 100.0 * rule.diverged,
            label: format!("{:.0} %", 100.0 * rule.diverged),
            class: if rule.name == RULES[NONE].0 { "s2" } else { "s1" },
        };
        let bars = Bars {
            title: "Diverged seeds by rule",
            axis: "seeds diverged, %",
            end: 100.0,
            bars: self.rules.iter().map(bar).collect(),
        };
        let curve = |name: &str, class: &str, rule: &Rule| {
            let mean = |run: &Run, at: usize| match run.losses.get(at..at + EVERY) {
                Some(losses) => losses.iter().sum::<f64>() / EVERY as f64,
                None => f64::INFINITY,
            };
            let point = |at: usize| ((at + EVERY / 2) as f64, median(rule.runs.iter().map(|run| mean(run, at))));
            Line::new(name, class, (0..TASK.steps).step_by(EVERY).map(point).collect())
        };
        let flat = vec![(0.0, BASELINE), (TASK.steps as f64, BASELINE)];
        let (vanishing, exploding) = (0, RADII.len());
        let named = |name: &str, rule: &Rule| {
            let gone = if rule.diverged > 0.5 { " (diverged)" } else { "" };
            format!("{name}, ρ = {}{gone}", number(rule.radius))
        };
        let faint = |line: Line| Line { opacity: 0.6, ..line };
        let losses = Plot {
            title: "Loss on the way",
            x_axis: "step",
            x_range: (0.0, TASK.steps as f64),
            y_axis: "squared error, median of seeds (log scale)",
            logarithmic: true,
            lines: vec![
                faint(curve(&named("none", &self.none[vanishing]), "s5", &self.none[vanishing])),
                faint(curve(&named("global norm", &self.global[vanishing]), "s3", &self.global[vanishing])),
                curve(&named("none", &self.none[exploding]), "s2", &self.none[exploding]),
                curve(&named("global norm", &self.global[exploding]), "s1", &self.global[exploding]),
                Line::new("saying the mean", "quiet dashed", flat),
            ],
        };
        let over_radii = |of: &dyn Fn(&Rule) -> f64, rules: &[Rule]| rules.iter().map(|r| (r.radius, of(r))).collect();
        let share = |rule: &Rule| 100.0 * rule.diverged;
        let shares = Plot {
            title: "Diverged seeds by radius",
            x_axis: "spectral radius ρ at the beginning",
            x_range: (RADII[0], RADIUS),
            y_axis: "seeds diverged, %",
            logarithmic: false,
            lines: vec![
                Line::new("none", "s2", over_radii(&share, &self.none)),
                Line::new("global norm 1", "s1", over_radii(&share, &self.global)),
            ],
        };
        let Task { time, batch, steps, rate } = TASK;
        Part {
            title: "The adding problem: diverged seeds",
            text: format!(
                "A tanh network of {UNITS_OF_STATE} units on sequences of {time}, batch {batch}, {steps} steps of SGD at {rate}, {SEEDS} seeds, the \
                 same for every rule; the recurrent weight begins at the spectral radius {RADIUS}. A seed has diverged when a loss is not \
                 finite or {} times {}, which is what saying the mean costs. Rules that learn their limit from the norms themselves let the \
                 first ones pass. The rows below are of smaller radii; at {} gradients vanish.",
                number(DIVERGED),
                number(BASELINE),
                RADII[0],
            ),
            figures: vec![bars.html(), shares.html(), losses.html()],
            table: (
                vec!["rule", "radius ρ", "diverged", "median last loss", "largest gradient norm"],
                self.rules
                    .iter()
                    .chain(&self.none[..RADII.len()])
                    .chain(&self.global[..RADII.len()])
                    .map(Rule::cells)
                    .collect(),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_the_sums_of_the_marked() {
        let (sequences, answers) = problems(TASK, &mut Random::new(2), &Device::flex());
        let pairs: Vec<f32> = sequences.into_data().iter().collect();
        let answers: Vec<f32> = answers.into_data().iter().collect();
        for (column, answer) in answers.iter().enumerate() {
            let pair = |t: usize| (pairs[2 * (t * TASK.batch + column)], pairs[2 * (t * TASK.batch + column) + 1]);
            let marks: Vec<usize> = (0..TASK.time).filter(|t| pair(*t).1 == 1.0).collect();
            assert_eq!(marks.len(), 2);
            assert_eq!(*answer, pair(marks[0]).0 + pair(marks[1]).0);
        }
    }

    #[test]
    fn the_recurrent_weight_has_the_radius_asked_for() {
        let device = Device::flex().autodiff();
        let model = Adder::new(1.5, &mut Random::new(1), &device).unwrap();
        let radius = spectral_radius(&model.recurrent.weight.val()).unwrap();
        assert!((radius - 1.5).abs() < 1e-5, "{radius}");
    }

    #[test]
    fn a_run_ends_where_it_diverges() {
        // At a rate at which the first step throws every weight away.
        let random = Random::new(4);
        let unclipped = train(TASK, RULES[NONE].1, 3.0, random.clone(), &Device::flex()).unwrap();
        if let Some(step) = unclipped.diverged {
            assert_eq!((unclipped.losses.len(), unclipped.norms.len()), (step, step - 1));
        }
        let clipped = train(TASK, RULES[GLOBAL].1, 3.0, random, &Device::flex()).unwrap();
        assert_eq!(clipped.losses[0], unclipped.losses[0], "the same seed");
        assert_eq!(clipped.diverged, None);
        assert_eq!(clipped.losses.len(), TASK.steps);
    }
}
