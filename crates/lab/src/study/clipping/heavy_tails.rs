//! Heavy-tailed noise: descent with and without clipping where the noise has no variance.

use ::clipping::ClipByGlobalNorm;
use core_tensor::Random;
use serde::Serialize;

use crate::error::Result;
use crate::report::plot::{Line, Plot, number, significant};
use crate::study::toolkit::{OnHost, largest, median, parallel};
use crate::study::{Part, Setting};
use crate::summary::grouped;

const SEEDS: u64 = 100;
pub const UNITS: u64 = SEEDS;

const DIMENSIONS: usize = 10;
const STEP_SIZE: f64 = 0.01;
const STEPS: usize = 2000;
const TAIL: f64 = 1.5;
const LIMIT: f64 = 5.0;
/// Steps between points of the curves.
const EVERY: usize = 20;

/// One method over all seeds.
#[derive(Clone, Debug, Serialize)]
pub struct Method {
    /// The median of the loss at the end.
    pub median_final: f64,
    /// The median over seeds of the largest loss on the way.
    pub median_excursion: f64,
    /// The largest loss of any seed on the way.
    pub worst_excursion: f64,
    /// Median and largest loss over seeds, every 20 steps.
    pub curve: Vec<(f64, f64)>,
}

/// Both methods on the same noise.
#[derive(Clone, Debug, Serialize)]
pub struct HeavyTails {
    /// Stochastic gradient descent.
    pub plain: Method,
    /// The same on gradients clipped to the norm 5.
    pub clipped: Method,
}

/// The loss at every step.
type Path = Vec<f64>;

pub fn run(setting: &Setting<'_>) -> Result<HeavyTails> {
    let seeds: Vec<u64> = (0..SEEDS).collect();
    let paths = parallel(&seeds, |seed| {
        let random = setting.random.fork(format!("heavy tails {seed}"));
        let mut rule = OnHost::new(ClipByGlobalNorm::new(LIMIT)?.exact(), setting.device);
        let plain = descend(random.clone(), Ok)?;
        let clipped = descend(random, |gradient| Ok(rule.apply(gradient)?))?;
        setting.progress.unit()?;
        Ok((plain, clipped))
    })?;
    let (plain, clipped): (Vec<Path>, Vec<Path>) = paths.into_iter().unzip();
    Ok(HeavyTails { plain: Method::of(&plain), clipped: Method::of(&clipped) })
}

/// Descends ½‖x‖² from its minimum, with noise whose elements are symmetric Pareto numbers less 1.
fn descend(mut random: Random, mut rule: impl FnMut(Vec<f64>) -> Result<Vec<f64>>) -> Result<Path> {
    let mut x = [0.0; DIMENSIONS];
    let mut path = Vec::with_capacity(STEPS);
    for _ in 0..STEPS {
        let gradient = x.iter().map(|x| x + noise(&mut random)).collect();
        x.iter_mut().zip(rule(gradient)?).for_each(|(x, g)| *x -= STEP_SIZE * g);
        path.push(0.5 * x.iter().map(|x| x * x).sum::<f64>());
    }
    Ok(path)
}

fn noise(random: &mut Random) -> f64 {
    // A uniform number in (0, 1], so that the power is finite.
    let size = (1.0 - random.next_f64()).powf(-1.0 / TAIL) - 1.0;
    if random.next_f64() < 0.5 { size } else { -size }
}

impl Method {
    fn of(paths: &[Path]) -> Self {
        let at = |step: usize| paths.iter().map(move |path| path[step]);
        let worst: Vec<f64> = paths.iter().map(|path| largest(path.iter().copied())).collect();
        Self {
            median_final: median(at(STEPS - 1)),
            median_excursion: median(worst.iter().copied()),
            worst_excursion: largest(worst),
            curve: (EVERY - 1..STEPS).step_by(EVERY).map(|step| (median(at(step)), largest(at(step)))).collect(),
        }
    }
}

impl HeavyTails {
    pub fn part(&self) -> Part {
        let curve = |method: &Method, of: fn(&(f64, f64)) -> f64| {
            method.curve.iter().enumerate().map(|(at, point)| (((at + 1) * EVERY) as f64, of(point))).collect()
        };
        let plot = Plot {
            title: "Loss under noise without a variance",
            x_axis: "step",
            x_range: (0.0, STEPS as f64),
            y_axis: "½‖x‖² (log scale)",
            logarithmic: true,
            lines: vec![
                Line { opacity: 0.45, ..Line::new("SGD, largest of the seeds", "s2", curve(&self.plain, |p| p.1)) },
                Line::new("SGD, median", "s2", curve(&self.plain, |p| p.0)),
                Line { opacity: 0.45, ..Line::new("clipped, largest", "s1", curve(&self.clipped, |p| p.1)) },
                Line::new("clipped, median", "s1", curve(&self.clipped, |p| p.0)),
            ],
        };
        let row = |name: &str, m: &Method| {
            vec![
                name.into(),
                significant(m.median_final),
                significant(m.median_excursion),
                significant(m.worst_excursion),
            ]
        };
        Part {
            title: "Where noise has heavy tails",
            text: format!(
                "½‖x‖² in {DIMENSIONS} dimensions from its minimum, {} steps of {STEP_SIZE}, noise of symmetric Pareto numbers with tail \
                 index {TAIL} less 1, which has no variance; {SEEDS} seeds, the same noise for both. With the limit {} the median of the \
                 last loss is {} instead of {}, the worst moment of any seed {} instead of {}. The worst of SGD grows with the number of \
                 seeds and steps without bound.",
                grouped(STEPS),
                number(LIMIT),
                number(self.clipped.median_final),
                number(self.plain.median_final),
                number(self.clipped.worst_excursion),
                number(self.plain.worst_excursion),
            ),
            figures: vec![plot.html()],
            table: (
                vec!["method", "median last loss", "median worst loss", "worst loss of all"],
                vec![row("SGD", &self.plain), row("clipped, c = 5", &self.clipped)],
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::study::clipping::tests::with_setting;

    #[test]
    fn the_figures_are_near_those_of_the_reference() {
        // Medians over another run's seeds: SGD 1.37, clipped .068, and .292 at worst; SGD's worst is of any size above.
        let found = with_setting(3, run);
        assert!((1.0..1.7).contains(&found.plain.median_final), "{found:?}");
        assert!((0.06..0.08).contains(&found.clipped.median_final), "{found:?}");
        assert!((0.24..0.36).contains(&found.clipped.worst_excursion), "{found:?}");
        assert!(found.plain.worst_excursion > 500.0, "{found:?}");
    }

    #[test]
    fn the_noise_has_the_tail_it_should() {
        let mut random = Random::new(1);
        let draws: Vec<f64> = (0..200_000).map(|_| noise(&mut random)).collect();
        // P(|ξ| > 3) = 4^(−1.5) = 1/8.
        let share = draws.iter().filter(|x| x.abs() > 3.0).count() as f64 / draws.len() as f64;
        assert!((share - 0.125).abs() < 0.003, "{share}");
        let positive = draws.iter().filter(|x| **x > 0.0).count() as f64 / draws.len() as f64;
        assert!((positive - 0.5).abs() < 0.005, "{positive}");
    }
}
