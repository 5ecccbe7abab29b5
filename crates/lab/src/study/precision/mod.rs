//! The study of low precision: four questions about `x ← x − γ·Q(∇F(x, ξ))`, nine experiments.

mod averaging;
mod feedback;
mod moments;
mod networks;
mod noise;
mod rate;
mod stalling;
mod training;
mod underflow;

use burn::tensor::FloatDType;
use serde::Serialize;

use crate::error::{Error, Result};
use crate::report::plot::{fixed, number};
use crate::study::toolkit::host_device;
use crate::study::{Chapter, Finding, Setting};
use crate::summary::Row;
use stalling::Update;

/// Units of work of all experiments.
pub const UNITS: u64 = stalling::UNITS
    + underflow::UNITS
    + rate::UNITS
    + noise::UNITS
    + averaging::UNITS
    + feedback::UNITS
    + moments::UNITS
    + training::UNITS
    + networks::UNITS;

/// Every number of the study.
#[derive(Clone, Debug, Serialize)]
struct Results {
    bf16_weights: stalling::Stalling,
    underflow: underflow::Underflow,
    rate: rate::Rate,
    noise: noise::Noise,
    averaging: averaging::Averaging,
    error_feedback: feedback::Feedback,
    moments: moments::Moments,
    training: training::Training,
    networks: networks::Networks,
}

/// Runs all experiments.
///
/// # Errors
/// Those of the computation, and [`Error::Interrupted`], and [`Error::MissingData`] where no backend has `f64`.
pub fn run(setting: &Setting<'_>) -> Result<Finding> {
    if !host_device().supports_dtype(FloatDType::F64) {
        return Err(Error::MissingData {
            what: "the study of low precision".into(),
            looked_for: "flex, ndarray (backends with f64)".into(),
            remedy: "build with the feature `flex`".into(),
        });
    }
    let progress = setting.progress;
    let found = Results {
        bf16_weights: progress.experiment("weights in bf16", || stalling::run(setting))?,
        underflow: progress.experiment("gradients in f16", || underflow::run(setting))?,
        rate: progress.experiment("steps against 1 + ω", || rate::run(setting))?,
        noise: progress.experiment("the noise of formats", || noise::run(setting))?,
        averaging: progress.experiment("SWALP", || averaging::run(setting))?,
        error_feedback: progress.experiment("error feedback", || feedback::run(setting))?,
        moments: progress.experiment("moments under noise", || moments::run(setting))?,
        training: progress.experiment("momentum and Adam", || training::run(setting))?,
        networks: progress.experiment("one network in every precision", || networks::run(setting))?,
    };
    Ok(Finding {
        results: serde_json::to_value(&found).expect("plain data"),
        rows: found.rows(),
        chapters: vec![
            Chapter {
                question: "Can training in low precision converge?",
                answer: found.converging(),
                parts: vec![found.bf16_weights.part(), found.underflow.part()],
            },
            Chapter {
                question: "How does Q influence the rate?",
                answer: found.slowing(),
                parts: vec![found.rate.part()],
            },
            Chapter {
                question: "How should Q be designed?",
                answer: found.designing(),
                parts: vec![found.noise.part(), found.averaging.part(), found.error_feedback.part()],
            },
            Chapter {
                question: "What about momentum and adaptive methods?",
                answer: found.adapting(),
                parts: vec![found.moments.part(), found.training.part(), found.networks.part()],
            },
        ],
    })
}

fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

impl Results {
    /// The answer to the first question, as the numbers have it.
    fn converging(&self) -> String {
        let rates = &self.bf16_weights.rates;
        let told = |rate: &stalling::Rate| {
            format!(
                "at the rate {} an error of {} to nearest, {} at random, {} with Kahan's compensation",
                number(rate.rate),
                number(rate.error(Update::Nearest)),
                number(rate.error(Update::Stochastic)),
                number(rate.error(Update::Kahan))
            )
        };
        let (short, long) = (&rates[0], &rates[rates.len() - 1]);
        let unbiased = short.error(Update::Stochastic) < 0.1 * short.error(Update::Nearest);
        let first = match unbiased {
            true => {
                "Yes, to a noise floor, if rounding is unbiased or compensated; to nearest it stalls where steps are shorter than half a gap"
            }
            false => "In this run rounding at random did not do better than to nearest",
        };
        let crossover = match self.bf16_weights.crossover() {
            Some(rate) => format!("; from the rate {} on steps are long enough and nearest is no worse", number(rate)),
            None => "; nearest is worse at every rate".into(),
        };
        let [one, large] = [0, 2].map(|i| &self.underflow.scales[i]);
        let scale = match large.last() < 0.9 * one.last() {
            true => format!(
                "a small loss needs a scale: f16 gradients at the scale 1 end at {}, at 2¹⁶ at {}",
                number(one.last()),
                number(large.last())
            ),
            false => format!(
                "a loss scale made no difference in this run ({} and {})",
                number(one.last()),
                number(large.last())
            ),
        };
        format!("{first}: {}; {}{crossover}; {scale}.", told(short), told(long))
    }

    /// The answer to the second question, as the numbers have it.
    fn slowing(&self) -> String {
        let (low, high) = self.rate.agreement();
        let worst = self.rate.cases.iter().max_by(|a, b| a.omega.total_cmp(&b.omega)).expect("there are cases");
        let law = match low > 0.7 && high < 1.4 {
            true => "An unbiased Q costs 1 + ω times the steps",
            false => "In this run the steps did not follow 1 + ω",
        };
        let cheapest = self.rate.cheapest();
        let paid = match cheapest.bits < 1.0 {
            true => format!(
                "it can be worth it: with {} the tolerance takes {} of the bits",
                cheapest.name,
                percent(cheapest.bits)
            ),
            false => "no Q saved bits".into(),
        };
        format!(
            "{law}: over {} of them the ratio to that was {} to {}, up to ω = {} ({}, {} times the steps); {paid}.",
            self.rate.cases.len(),
            fixed(low, 2),
            fixed(high, 2),
            number(worst.omega),
            worst.name,
            number(worst.slower),
        )
    }

    /// The answer to the third question, as the numbers have it.
    fn designing(&self) -> String {
        let mut advice = Vec::new();
        let noise = &self.noise;
        let (group, tensor) = (noise.row("int4, groups of 32"), noise.row("int4, tensor"));
        advice.push(match group.uneven > tensor.uneven {
            true => format!(
                "share scales within small blocks ({} instead of {} dB at 4 bits where sizes differ)",
                fixed(group.uneven, 1),
                fixed(tensor.uneven, 1)
            ),
            false => "one scale a tensor was enough in this run".into(),
        });
        let [exact, nearest, stochastic] = [0, 1, 2].map(|i| &self.averaging.weights[i]);
        advice.push(match stochastic.average < nearest.average {
            true => format!(
                "round at random what is averaged later (SWALP: {} where nearest has {} and f64 {}, though the last weights are at {} and {})",
                number(stochastic.average),
                number(nearest.average),
                number(exact.average),
                number(stochastic.last),
                number(nearest.last)
            ),
            false => "averages gained nothing by stochastic rounding in this run".into(),
        });
        let [_, top, ef14, ef21] = [0, 1, 2, 3].map(|i| &self.error_feedback.paths[i]);
        advice.push(match top.last() > 1.0 && ef14.last() < 1e-3 && ef21.last() < 1e-3 {
            true => format!(
                "feed back the error of a biased Q (top-1 diverges to {} times the start, with EF14 it ends at {}, with EF21 at {})",
                number(top.last()),
                number(ef14.last()),
                number(ef21.last())
            ),
            false => format!("error feedback did not cure top-1 in this run ({} and {})", number(ef14.last()), number(ef21.last())),
        });
        let best = noise.best_rule("e2m1fn");
        advice.push(format!(
            "for 4-bit MX blocks the quietest scale is “{}” ({} dB)",
            best.name,
            fixed(best.nearest, 2)
        ));
        let mut text = advice.join("; ");
        if let Some(first) = text.get(..1) {
            text = first.to_uppercase() + &text[1..];
        }
        text + "."
    }

    /// The answer to the fourth question, as the numbers have it.
    fn adapting(&self) -> String {
        let training = &self.training;
        let told = |optimizer: usize| {
            let cases = &training.optimizers[optimizer];
            let losing = training.losing(optimizer);
            let names: Vec<String> =
                losing.iter().map(|case| format!("{} ({})", case.name, percent(case.accuracy))).collect();
            let lost = match names.is_empty() {
                true => "none loses more than a point".into(),
                false => format!("more than a point is lost by {}", names.join(", ")),
            };
            format!(
                "under {}, {} of {} keep the accuracy of f32 ({}); {lost}",
                cases[0].optimizer,
                cases.len() - 1 - losing.len(),
                cases.len() - 1,
                percent(cases[0].accuracy)
            )
        };
        let gain = |optimizer: usize| {
            training.case(optimizer, "top 2 %").last_loss / training.case(optimizer, "top 2 %, EF14").last_loss
        };
        let (step, noise) = self.moments.worst();
        let law = match step < 0.15 && noise < 0.15 {
            true => "Momentum averages the noise of Q, Adam shortens its step by √(1 + ω) for it",
            false => "The moments did not follow their formulas in this run",
        };
        let (momentum, adam) = (training.losing(0).len(), training.losing(1).len());
        let verdict = match momentum + adam {
            0 => "both keep the accuracy",
            _ if momentum < adam => "momentum tolerates more",
            _ if momentum > adam => "Adam tolerates more",
            _ => "both tolerate as much",
        };
        let losing = self.networks.losing();
        let cases = &self.networks.cases;
        let lost: Vec<String> =
            losing.iter().map(|case| format!("{} ({})", case.name, percent(case.accuracy))).collect();
        let networks = format!(
            "of {} low precisions of products, state and weights, {} keep f32's {} to a point{}",
            cases.len() - 1,
            cases.len() - 1 - losing.len(),
            percent(cases[0].accuracy),
            if lost.is_empty() { String::new() } else { format!(", not {}", lost.join(", ")) },
        );
        format!(
            "{law} (to within {:.0} % and {:.0} % of the formulas); on the digits {verdict}: {}; {}; error feedback of top 2 % divides the last loss by {} with \
             momentum and by {} with Adam; {networks}.",
            100.0 * noise,
            100.0 * step,
            told(0),
            told(1),
            number(gain(0)),
            number(gain(1)),
        )
    }

    fn rows(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        let mut row = |label: String, value: String, note: String| rows.push(Row { label: label.into(), value, note });
        for rate in &self.bf16_weights.rates {
            row(
                format!("bf16 weights, rate {}", number(rate.rate)),
                format!(
                    "{} : {} : {}",
                    number(rate.error(Update::Nearest)),
                    number(rate.error(Update::Stochastic)),
                    number(rate.error(Update::Kahan))
                ),
                "error, nearest : stochastic : Kahan".into(),
            );
        }
        let sums = &self.bf16_weights.sums;
        row(
            "1 + 1000 × 0.001".into(),
            format!("{} : {} : {}", number(sums.nearest), number(sums.stochastic.0), number(sums.kahan)),
            format!("nearest : stochastic (± {}) : Kahan", number(sums.stochastic.1)),
        );
        for scale in &self.underflow.scales {
            row(
                format!("f16, loss scale {}", scale.name),
                format!("{:.5}", scale.last()),
                format!("last loss; {} of the gradient zero", percent(scale.zeros)),
            );
        }
        let (low, high) = self.rate.agreement();
        row(
            "steps over 1 + ω".into(),
            format!("{} – {}", fixed(low, 2), fixed(high, 2)),
            format!("over {} compressors, identity = 1", self.rate.cases.len()),
        );
        for case in self.moments.cases.iter().filter(|case| case.omega > 0.0) {
            row(
                format!("Adam's step, ω = {}", number(case.omega)),
                format!("{} : {}", fixed(case.step, 3), fixed(case.step_formula, 3)),
                "measured : 1/√(1 + ω)".into(),
            );
        }
        for weights in &self.averaging.weights {
            row(
                format!("8-bit weights, {}", weights.name),
                format!("{} : {}", number(weights.last), number(weights.average)),
                "squared distance, last : average".into(),
            );
        }
        for path in &self.error_feedback.paths {
            row(format!("three workers, {}", path.name), number(path.last()), "distance over that of the start".into());
        }
        for (name, label) in [("e4m3fn", "MX e4m3fn"), ("e2m1fn", "MX e2m1fn")] {
            let best = self.noise.best_rule(name);
            row(format!("{label}, quietest"), format!("{} dB", fixed(best.nearest, 2)), best.name.clone());
        }
        for (sgd, adam) in self.training.optimizers[0].iter().zip(&self.training.optimizers[1]) {
            row(
                format!("digits, {}", sgd.name),
                format!("{} : {}", percent(sgd.accuracy), percent(adam.accuracy)),
                "test accuracy, momentum : Adam".into(),
            );
        }
        for case in &self.networks.cases {
            row(
                format!("network, {}", case.name),
                format!("{} : {}", percent(case.accuracy), fixed(case.bytes, 2)),
                "test accuracy : bytes a parameter with its state".into(),
            );
        }
        rows
    }
}
