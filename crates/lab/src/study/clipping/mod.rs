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
use crate::report::plot::{fixed, number};
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
        let adding = &self.adding_problem;
        let at = |radius: usize| (&adding.none[radius], &adding.global[radius]);
        let (none, global) = at(adding.none.len() - 1);
        let shares = format!(
            "at ρ = {}, {} of the seeds diverge without it and {} with the global norm",
            number(none.radius),
            percent(none.diverged),
            percent(global.diverged)
        );
        let loss = |rule: &adding::Rule| rule.median_last_loss;
        let learned = loss(global) < 0.9 * adding.baseline;
        let first = match (none.diverged > global.diverged, global.diverged == 0.0) {
            (true, true) if learned => format!("Yes: {shares}, and those learn (loss {})", number(loss(global))),
            (true, true) => format!("As far as divergence goes: {shares}"),
            (true, false) => format!("In part: {shares}"),
            (false, _) => format!("Not in this run: {shares}"),
        };
        let (without, with) = at(0);
        // The same with and without to a tenth of what there is to learn, and worse than where gradients explode.
        let alike = (loss(with) - loss(without)).abs() < 0.1 * adding.baseline;
        let second = match (alike && loss(with) > loss(global), loss(with) < loss(without)) {
            (true, _) => "but it is no cure for vanishing ones, since it can only shorten",
            (false, true) => "and where they vanish it helped too, in this run",
            (false, false) => "and where they vanish it did not help",
        };
        format!(
            "{first}; {second}: at ρ = {} the loss ends at {} with it and {} without, where saying the mean gives {}.",
            number(without.radius),
            number(loss(with)),
            number(loss(without)),
            number(adding.baseline)
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
        if let Some(none) = self.spikes.rules.iter().find(|rule| rule.name == "none") {
            let (median, faster) = (|rule: &spikes::Rule| rule.median_recovery, self.spikes.faster_than(none));
            let told = |rule: &&spikes::Rule| Some(format!("{} with {}", number(median(rule)?), rule.name));
            let told: Vec<String> = self.spikes.clipped().filter_map(|rule| told(&rule)).collect();
            let slow = number(median(none).unwrap_or(f64::NAN));
            let text = format!("at spikes under Adam (steps to recover: {slow} without it, {})", told.join(", "));
            if faster > 0 { wins.push(text) } else { losses.push(text) }
        }
        if self.bias.holds() {
            losses.push("under skewed noise, where it settles at 1 − c/9 beside the minimum whatever the step".into());
        }
        let list = |items: Vec<String>| items.join("; ");
        match (wins.is_empty(), losses.is_empty()) {
            (false, false) => format!("It wins {}; it loses {}.", list(wins), list(losses)),
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
                "at w = {}, b = {}; median {}",
                fixed(self.cliff.at.0, 2),
                fixed(self.cliff.at.1, 3),
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
                format!("steps to recover; {} not by the next; {} steps behind", percent(rule.lost), rule.behind),
            );
        }
        rows
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;
    use crate::data::Dataset;
    use crate::recipe::DataRecipe;
    use crate::study::{Event, Progress};
    use burn::tensor::Device;
    use core_tensor::Random;

    /// Runs an experiment with a seed on flex.
    pub fn with_setting<T>(seed: u64, experiment: impl Fn(&Setting<'_>) -> Result<T>) -> T {
        let (stop, observe) = (AtomicBool::new(false), |_: Event<'_>| ());
        let progress = Progress::new(&stop, &observe);
        let data = Dataset::load(&DataRecipe::default()).unwrap();
        let random = Random::new(seed);
        let setting = Setting { device: &Device::flex(), random: &random, data: &data, progress: &progress };
        experiment(&setting).unwrap()
    }
}
