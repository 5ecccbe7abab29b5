//! Stalling: weights in bf16 whose steps are shorter than half a gap.
//!
//! Least squares without noise, `E(x·(w − w*))²/2` with normal `x`, one example a step; `w*` uniform in [0, 100]. The weights are
//! bf16 after every step. Kahan: P. Zamirai et al., "Revisiting bfloat16 training", 2020, arXiv:2010.06192, algorithm 1.

use burn::tensor::{Distribution, Shape};
use core_tensor::Random;
use mixed_precision::{Format, Overflow, Rounding};
use serde::Serialize;

use crate::error::Result;
use crate::report::plot::{Line, Plot, number, significant};
use crate::study::toolkit::{median, parallel};
use crate::study::{Part, Setting};
use crate::summary::grouped;

const SEEDS: u64 = 30;
const RATES: [f64; 3] = [0.001, 0.01, 0.1];
const D: usize = 10;
const STEPS: usize = 20_000;
/// Steps between points of the curves.
const EVERY: usize = 200;
/// Steps at the end over which the error is averaged.
const TAIL: usize = 2_000;

pub const UNITS: u64 = SEEDS * RATES.len() as u64 + 1;

/// How an update gets into bf16 weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Update {
    /// `f64` weights, for comparison.
    Exact,
    /// To nearest.
    Nearest,
    /// At random, unbiased.
    Stochastic,
    /// To nearest, with a second bf16 number for what was lost.
    Kahan,
}

impl Update {
    const ALL: [Self; 4] = [Self::Exact, Self::Nearest, Self::Stochastic, Self::Kahan];

    pub fn name(self) -> &'static str {
        match self {
            Self::Exact => "f64",
            Self::Nearest => "nearest",
            Self::Stochastic => "stochastic",
            Self::Kahan => "Kahan",
        }
    }
}

/// A number under one kind of update.
#[derive(Clone, Copy, Debug)]
struct Weight {
    update: Update,
    value: f64,
    lost: f64,
}

fn nearest(x: f64) -> f64 {
    f64::from(Format::BF16.quantize(x as f32, Rounding::NearestEven, Overflow::Ieee))
}

impl Weight {
    fn new(update: Update, value: f64) -> Self {
        Self { update, value, lost: 0.0 }
    }

    /// `value + step` with random bits for the stochastic one.
    fn add(&mut self, step: f64, bits: u32) {
        match self.update {
            Update::Exact => self.value += step,
            Update::Nearest => self.value = nearest(self.value + step),
            Update::Stochastic => {
                let code = Format::BF16.encode_with_bits((self.value + step) as f32, bits, Overflow::Ieee);
                self.value = f64::from(Format::BF16.decode(code));
            }
            Update::Kahan => {
                let step = nearest(nearest(step) - self.lost);
                let next = nearest(self.value + step);
                self.lost = nearest(nearest(next - self.value) - step);
                self.value = next;
            }
        }
    }
}

/// One kind of update at one rate.
#[derive(Clone, Debug, Serialize)]
pub struct Method {
    pub update: Update,
    /// Median over seeds of the mean of ‖w − w*‖ over the last steps.
    pub error: f64,
    /// Median over seeds of ‖w − w*‖, every 200 steps.
    pub curve: Vec<f64>,
}

/// All kinds at one rate.
#[derive(Clone, Debug, Serialize)]
pub struct Rate {
    pub rate: f64,
    /// In the order of [`Update::ALL`].
    pub methods: Vec<Method>,
}

/// 1 and a thousand times 0.001.
#[derive(Clone, Debug, Serialize)]
pub struct Sums {
    pub nearest: f64,
    pub kahan: f64,
    /// Mean and standard deviation over draws.
    pub stochastic: (f64, f64),
    /// Of nearest, one stochastic and Kahan after each addition.
    pub curves: [Vec<f64>; 3],
}

#[derive(Clone, Debug, Serialize)]
pub struct Stalling {
    pub rates: Vec<Rate>,
    pub sums: Sums,
}

/// ‖w − w*‖ at every point of the curve, and its mean over the last steps.
type Path = (Vec<f64>, f64);

pub fn run(setting: &Setting<'_>) -> Result<Stalling> {
    let jobs: Vec<(usize, u64)> = (0..RATES.len()).flat_map(|rate| (0..SEEDS).map(move |seed| (rate, seed))).collect();
    let paths = parallel(&jobs, |&(rate, seed)| {
        let paths = descend(RATES[rate], setting.random.fork(format!("stalling {seed}")));
        setting.progress.unit()?;
        Ok(paths)
    })?;
    let rate = |(at, rate): (usize, &f64)| {
        let paths = &paths[at * SEEDS as usize..][..SEEDS as usize];
        let method = |(of, update): (usize, Update)| Method {
            update,
            error: median(paths.iter().map(|p| p[of].1)),
            curve: (0..=STEPS / EVERY).map(|i| median(paths.iter().map(|p| p[of].0[i]))).collect(),
        };
        Rate { rate: *rate, methods: Update::ALL.into_iter().enumerate().map(method).collect() }
    };
    let rates = RATES.iter().enumerate().map(rate).collect();
    let sums = sums(setting.random.fork("sums"));
    setting.progress.unit()?;
    Ok(Stalling { rates, sums })
}

/// A path for each kind, on the same examples.
fn descend(rate: f64, random: Random) -> Vec<Path> {
    let normal = Distribution::Normal(0.0, 1.0);
    let draw = |label: &str, distribution, count: usize| -> Vec<f64> {
        random.fork(label).draw(distribution, Shape::new([count])).iter::<f64>().collect()
    };
    let goal = draw("goal", Distribution::Uniform(0.0, 100.0), D);
    let examples = draw("examples", normal, STEPS * D);
    let path = |update| {
        let mut bits = random.fork("bits");
        let mut w = [Weight::new(update, 0.0); D];
        let distance = |w: &[Weight; D]| w.iter().zip(&goal).map(|(w, c)| (w.value - c).powi(2)).sum::<f64>().sqrt();
        let (mut curve, mut tail) = (vec![distance(&w)], 0.0);
        for (step, x) in examples.chunks_exact(D).enumerate() {
            let error: f64 = x.iter().zip(&w).zip(&goal).map(|((x, w), c)| x * (w.value - c)).sum();
            for (w, x) in w.iter_mut().zip(x) {
                let bits = if update == Update::Stochastic { bits.next_u64() as u32 } else { 0 };
                w.add(-rate * error * x, bits);
            }
            if step + 1 > STEPS - TAIL {
                tail += distance(&w) / TAIL as f64;
            }
            if (step + 1).is_multiple_of(EVERY) {
                curve.push(distance(&w));
            }
        }
        (curve, tail)
    };
    Update::ALL.map(path).into()
}

fn sums(mut random: Random) -> Sums {
    let mut sum = |update| -> Vec<f64> {
        let mut weight = Weight::new(update, 1.0);
        let mut after = |_| {
            weight.add(0.001, random.next_u64() as u32);
            weight.value
        };
        (0..1000).map(&mut after).collect()
    };
    let curves = [Update::Nearest, Update::Stochastic, Update::Kahan].map(&mut sum);
    let draws: Vec<f64> = (0..400).map(|_| sum(Update::Stochastic)[999]).collect();
    let mean = draws.iter().sum::<f64>() / draws.len() as f64;
    let variance = draws.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (draws.len() - 1) as f64;
    Sums { nearest: curves[0][999], kahan: curves[2][999], stochastic: (mean, variance.sqrt()), curves }
}

impl Rate {
    /// The error of a kind of update.
    pub fn error(&self, update: Update) -> f64 {
        self.methods.iter().find(|method| method.update == update).map_or(f64::NAN, |method| method.error)
    }
}

impl Stalling {
    /// The first rate at which rounding to nearest is no worse than stochastic rounding.
    pub fn crossover(&self) -> Option<f64> {
        let better = |rate: &&Rate| rate.error(Update::Nearest) <= rate.error(Update::Stochastic);
        self.rates.iter().find(better).map(|rate| rate.rate)
    }

    pub fn part(&self) -> Part {
        let classes = ["quiet dashed", "s2", "s1", "s3"];
        let figure = |rate: &Rate| {
            let lines = rate.methods.iter().zip(classes).map(|(method, class)| {
                let points = method.curve.iter().enumerate().map(|(i, y)| ((i * EVERY) as f64, *y)).collect();
                Line::new(method.update.name(), class, points)
            });
            let title = format!("bf16 weights at the rate {}", number(rate.rate));
            let plot = Plot {
                title: &title,
                x_axis: "step",
                x_range: (0.0, STEPS as f64),
                y_axis: "‖w − w*‖, median of seeds (log scale)",
                logarithmic: true,
                // The exact one goes to rounding of f64, which would flatten the others.
                lines: lines
                    .map(|line| Line { points: line.points.into_iter().filter(|p| p.1 > 1e-2).collect(), ..line })
                    .collect(),
            };
            plot.html()
        };
        let sum = |name, class, curve: &[f64]| {
            Line::new(name, class, curve.iter().enumerate().step_by(10).map(|(i, y)| ((i + 1) as f64, *y)).collect())
        };
        let sums = Plot {
            title: "1 + 0.001 + 0.001 + … in bf16",
            x_axis: "additions",
            x_range: (0.0, 1000.0),
            y_axis: "sum",
            logarithmic: false,
            lines: vec![
                Line::new("exact", "quiet dashed", vec![(0.0, 1.0), (1000.0, 2.0)]),
                sum("nearest", "s2", &self.sums.curves[0]),
                sum("stochastic", "s1", &self.sums.curves[1]),
                sum("Kahan", "s3", &self.sums.curves[2]),
            ],
        };
        let cells = |rate: &Rate| {
            let of = |update| significant(rate.error(update));
            vec![number(rate.rate), of(Update::Nearest), of(Update::Stochastic), of(Update::Kahan), of(Update::Exact)]
        };
        let crossover = match self.crossover() {
            Some(rate) => {
                format!("From the rate {} on rounding to nearest is no worse: steps are long enough.", number(rate))
            }
            None => "At none of these rates is rounding to nearest as good.".into(),
        };
        Part {
            title: "Weights in bf16",
            text: format!(
                "Least squares without noise in {D} dimensions, w* uniform in [0, 100], one example a step, {} steps, {SEEDS} seeds, the \
                 same examples for all; the error is the mean of ‖w − w*‖ over the last {}. To nearest a step under half a gap is lost, every time. At \
                 random it is taken now and then, and is right on the average; what stays is a noise floor. Kahan keeps the lost part in \
                 a second bf16 number. {crossover} The sum 1 + 1000 × 0.001 is {} to nearest, {} ± {} at random and {} with Kahan.",
                grouped(STEPS),
                grouped(TAIL),
                number(self.sums.nearest),
                number(self.sums.stochastic.0),
                number(self.sums.stochastic.1),
                number(self.sums.kahan),
            ),
            figures: self.rates.iter().map(figure).chain([sums.html()]).collect(),
            table: (vec!["rate", "nearest", "stochastic", "Kahan", "f64"], self.rates.iter().map(cells).collect()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_those_of_the_reference() {
        let sums = sums(Random::new(1));
        assert_eq!((sums.nearest, sums.kahan), (1.0, 2.0));
        let (mean, deviation) = sums.stochastic;
        assert!((mean - 2.0).abs() < 0.02 && (0.05..0.12).contains(&deviation), "{mean} {deviation}");
    }

    #[test]
    fn short_steps_stall_to_nearest_and_long_ones_do_not() {
        let error = |rate| -> Vec<f64> { descend(rate, Random::new(2)).into_iter().map(|path| path.1).collect() };
        let (short, long) = (error(0.001), error(0.1));
        assert!(short[1] > 10.0 && short[2] < 1.5 && short[0] < 1e-2, "{short:?}");
        assert!(long[1] < long[2], "{long:?}");
    }
}
