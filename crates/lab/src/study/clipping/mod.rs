//! The study of gradient clipping: two questions, seven experiments.

mod adding;
mod bias;
mod cliff;
mod heavy_tails;
mod smoothness;
mod spikes;
mod time;

use serde::Serialize;

use crate::error::Result;
use crate::report::plot::number;
use crate::study::{Chapter, Finding, Setting};
use crate::summary::{Row, grouped};

/// Units of work of all experiments.
pub const UNITS: u64 =
    time::UNITS + adding::UNITS + smoothness::UNITS + bias::UNITS + heavy_tails::UNITS + cliff::UNITS + spikes::UNITS;

/// Every number of the study.
#[derive(Clone, Debug, Serialize)]
struct Results {
    gradients_over_time: time::Time,
    adding_problem: adding::Adding,
    smoothness: smoothness::Smoothness,
    bias: bias::Bias,
    heavy_tails: heavy_tails::HeavyTails,
    cliff: cliff::Cliff,
    spikes: spikes::Spikes,
}

/// Runs all experiments.
///
/// # Errors
/// Those of the computation, and [`Error::Interrupted`](crate::error::Error::Interrupted).
pub fn run(setting: &Setting<'_>) -> Result<Finding> {
    let progress = setting.progress;
    let found = Results {
        gradients_over_time: progress.experiment("gradients over time", || time::run(setting))?,
        adding_problem: progress.experiment("the adding problem", || adding::run(setting))?,
        smoothness: progress.experiment("(L0, L1)-smoothness", || smoothness::run(setting))?,
        bias: progress.experiment("bias under skewed noise", || bias::run(setting))?,
        heavy_tails: progress.experiment("heavy tails", || heavy_tails::run(setting))?,
        cliff: progress.experiment("Pascanu's cliff", || cliff::run(setting))?,
        spikes: progress.experiment("spikes under Adam", || spikes::run(setting))?,
    };
    Ok(Finding {
        results: serde_json::to_value(&found).expect("plain data"),
        rows: found.rows(),
        chapters: vec![
            Chapter {
                question: "Can clipping overcome exploding gradients?",
                answer: found.exploding(),
                parts: vec![found.gradients_over_time.part(), found.adding_problem.part(), found.cliff.part()],
            },
            Chapter {
                question: "When does clipping beat gradient descent?",
                answer: found.beating(),
                parts: vec![found.smoothness.part(), found.heavy_tails.part(), found.spikes.part(), found.bias.part()],
            },
        ],
    })
}

fn percent(share: f64) -> String {
    format!("{:.0} %", 100.0 * share)
}

impl Results {
    /// The answer to the first question, as the numbers have it.
    fn exploding(&self) -> String {
        let (none, global) = (&self.adding_problem.none(), &self.adding_problem.global());
        let shares = format!(
            "of the seeds of a network with ρ = {} {} diverge without it and {} with the global norm",
            number(none.radius),
            percent(none.diverged),
            percent(global.diverged)
        );
        let first = match (none.diverged > global.diverged, global.diverged == 0.0) {
            (true, true) => format!("Yes, as far as divergence goes: {shares}"),
            (true, false) => format!("In part: {shares}"),
            (false, _) => format!("Not in this run: {shares}"),
        };
        let [without, with] = [0, 1].map(|at| self.adding_problem.vanishing[at].median_last_loss);
        let baseline = self.adding_problem.baseline();
        let better = |loss: f64| loss < 0.9 * baseline;
        let second = match (better(without), better(with)) {
            (false, false) => "but it is no cure for vanishing ones",
            (false, true) => "and where gradients vanish it helped here",
            (true, _) => "while where gradients vanish nothing was amiss here",
        };
        format!(
            "{first}; {second}: at ρ = {} the loss ends at {} with it and {} without, where saying the mean gives {}.",
            number(self.adding_problem.vanishing[0].radius),
            number(with),
            number(without),
            number(baseline)
        )
    }

    /// The answer to the second question, as the numbers have it.
    fn beating(&self) -> String {
        let (mut wins, mut losses) = (Vec::new(), Vec::new());
        match (self.smoothness.crossover, self.smoothness.starts.first(), self.smoothness.starts.last()) {
            (Some(start), _, Some(far)) => wins.push(format!(
                "where curvature grows with the gradient and the start is far (from x₀ = {} on; {} steps instead of {} at x₀ = {})",
                number(start),
                grouped(far.clipped as usize),
                grouped(far.descent as usize),
                number(far.start)
            )),
            _ => losses.push("on 2cosh x".into()),
        }
        if let Some(near) = self.smoothness.table().into_iter().find(|s| s.descent < s.clipped) {
            losses.push(format!(
                "near the minimum, where a well-chosen constant step needs {} steps instead of {} (x₀ = {})",
                near.descent,
                near.clipped,
                number(near.start)
            ));
        }
        let (plain, clipped) = (&self.heavy_tails.plain, &self.heavy_tails.clipped);
        let tails = format!(
            "under noise with heavy tails (median last loss {} instead of {})",
            number(clipped.median_final),
            number(plain.median_final)
        );
        if clipped.median_final < plain.median_final {
            wins.push(tails)
        } else {
            losses.push(tails)
        }
        if let (Some(none), Some(best)) = (self.spikes.rule("none"), self.spikes.best()) {
            let [slow, fast] = [none, best].map(|rule| rule.median_recovery.unwrap_or(f64::INFINITY));
            if fast < slow {
                wins.push(format!(
                    "at spikes ({} to recover in {} steps instead of {})",
                    best.name,
                    number(fast),
                    number(slow)
                ));
            } else {
                losses.push("at spikes under Adam".into());
            }
        }
        if self.bias.worst() < 0.1 {
            losses.push("under skewed noise, where it settles at 1 − c/9 beside the minimum whatever the step".into());
        }
        let list = |items: Vec<String>| items.join("; ");
        match (wins.is_empty(), losses.is_empty()) {
            (false, false) => format!("It wins {}. It loses {}.", list(wins), list(losses)),
            (false, true) => format!("It wins {}.", list(wins)),
            (true, _) => format!("Not here: it loses {}.", list(losses)),
        }
    }

    fn rows(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        let mut row = |label: String, value: String, note: String| rows.push(Row { label: label.into(), value, note });
        let time = &self.gradients_over_time;
        row(
            "growth rate − ln ρ".into(),
            number(time.worst_rate()),
            "largest difference, linear recurrence, ρ from 0.5 to 1.5".into(),
        );
        for rule in &self.adding_problem.rules {
            let note = match rule.median_last_loss.is_finite() {
                true => format!("diverged seeds; median last loss {}", number(rule.median_last_loss)),
                false => "diverged seeds".into(),
            };
            row(format!("adding, {}", rule.name), percent(rule.diverged), note);
        }
        for start in self.smoothness.table() {
            row(
                format!("2cosh x from {}", number(start.start)),
                format!("{} : {}", grouped(start.descent as usize), grouped(start.clipped as usize)),
                "steps of descent with its best step : clipped".into(),
            );
        }
        if let Some(start) = self.smoothness.crossover {
            row("2cosh x, crossover".into(), number(start), "start from which clipping needs fewer steps".into());
        }
        let (plain, clipped) = (&self.heavy_tails.plain, &self.heavy_tails.clipped);
        row(
            "heavy tails".into(),
            format!("{} : {}", number(plain.median_final), number(clipped.median_final)),
            format!(
                "median last loss, SGD : clipped; at worst {} : {}",
                number(plain.worst_excursion),
                number(clipped.worst_excursion)
            ),
        );
        row(
            "bias − (1 − c/9)".into(),
            number(self.bias.worst()),
            format!("largest difference, simulated; of the exact root {:.0e}", self.bias.worst_root()),
        );
        row(
            "cliff, largest |∇E|".into(),
            number(self.cliff.largest_gradient),
            format!(
                "at w = {:.2}, b = {:.3}; median {}",
                self.cliff.at.0,
                self.cliff.at.1,
                number(self.cliff.median_gradient)
            ),
        );
        row(
            "cliff, longest step".into(),
            format!("{} : {}", number(self.cliff.descent.longest_step), number(self.cliff.clipped.longest_step)),
            "descent : clipped".into(),
        );
        for rule in self.spikes.rules.iter().filter(|rule| rule.median_recovery.is_some()) {
            row(
                format!("spikes, {}", rule.name),
                number(rule.median_recovery.unwrap_or(f64::NAN)),
                format!(
                    "steps to recover; {} not by the next; last loss {}",
                    percent(rule.lost),
                    number(rule.last_loss)
                ),
            );
        }
        rows
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;
    use crate::study::{Event, Progress};
    use burn::tensor::Device;
    use core_tensor::Random;

    /// Runs an experiment with a seed on flex.
    pub fn with_setting<T>(seed: u64, experiment: impl Fn(&Setting<'_>) -> Result<T>) -> T {
        let (stop, observe) = (AtomicBool::new(false), |_: Event<'_>| ());
        let progress = Progress::new(&stop, &observe);
        let setting = Setting { device: &Device::flex(), random: &Random::new(seed), progress: &progress };
        experiment(&setting).unwrap()
    }
}
