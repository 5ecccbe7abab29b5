//! The study of bilevel and meta-learning: six questions about `min_x f(x, z*(x))` with `z*(x) = argmin_z g(x, z)`, seven experiments.
//!
//! All of it runs on a host backend, whatever device the study is on: these problems are small, and in part need `f64`.

mod cells;
mod cleaning;
mod cost;
mod decay;
mod digits;
mod few_shot;
mod rates;
mod sinusoids;

use ::bilevel::Certificate;
use serde::Serialize;

use crate::error::Result;
use crate::report::plot::{fixed, number};
use crate::study::{Chapter, Finding, Setting};
use crate::summary::{Row, grouped};

/// Units of work of all experiments.
pub const UNITS: u64 =
    rates::UNITS + sinusoids::UNITS + few_shot::UNITS + cleaning::UNITS + decay::UNITS + cells::UNITS + cost::UNITS;

/// Every number of the study.
#[derive(Clone, Debug, Serialize)]
struct Results {
    rates: rates::Rates,
    sinusoids: sinusoids::Starts,
    few_shot: few_shot::FewShot,
    cleaning: cleaning::Cleaning,
    decay: decay::Decays,
    cells: cells::Cells,
    cost: cost::Costs,
}

/// Runs all experiments.
///
/// # Errors
/// Those of the computation, and [`Error::Interrupted`](crate::error::Error::Interrupted).
pub fn run(setting: &Setting<'_>) -> Result<Finding> {
    let progress = setting.progress;
    let found = Results {
        cost: progress.experiment("what a hypergradient costs", || cost::run(setting))?,
        rates: progress.experiment("learning rates", || rates::run(setting))?,
        sinusoids: progress.experiment("starts for sinusoids", || sinusoids::run(setting))?,
        few_shot: progress.experiment("starts for new characters", || few_shot::run(setting))?,
        cleaning: progress.experiment("wrong labels", || cleaning::run(setting))?,
        decay: progress.experiment("a weight decay for each input", || decay::run(setting))?,
        cells: progress.experiment("architectures", || cells::run(setting))?,
    };
    let chapter = |question, answer, parts| Chapter { question, answer, parts };
    Ok(Finding {
        results: serde_json::to_value(&found).expect("plain data"),
        rows: found.rows(),
        chapters: vec![
            chapter(
                "Can the learning rate be learned instead of tuned by hand?",
                found.learning_a_rate(),
                vec![found.rates.part()],
            ),
            chapter(
                "Can a start be learned from which few examples suffice?",
                found.learning_a_start(),
                vec![found.sinusoids.part(), found.few_shot.part()],
            ),
            chapter(
                "Can data be cleaned by its own validation loss?",
                found.cleaning_data(),
                vec![found.cleaning.part()],
            ),
            chapter(
                "Which hyper-parameters can be learned at the cost of a few runs?",
                found.learning_decays(),
                vec![found.decay.part()],
            ),
            chapter("Can an architecture be learned?", found.learning_a_cell(), vec![found.cells.part()]),
            chapter("What does a hypergradient cost?", found.costing(), found.cost.parts()),
        ],
    })
}

/// What a hypergradient cost: a gradient is the unit, a product with second derivatives counts two.
fn cost_of(certificate: &Certificate) -> f64 {
    certificate.gradients as f64 + 2.0 * certificate.hessian_vector_products as f64
}

fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

fn percent_with_error((mean, error): (f64, f64)) -> String {
    format!("{:.1} ± {:.1} %", 100.0 * mean, 100.0 * error)
}

fn with_error((mean, error): (f64, f64), decimals: usize) -> String {
    format!("{} ± {}", fixed(mean, decimals), fixed(error, decimals))
}

impl Results {
    /// The answer to the first question, as the numbers have it.
    fn learning_a_rate(&self) -> String {
        let rates = &self.rates;
        let ((plain, range), (online, online_range)) = (rates.plain(), rates.online_best());
        let (one, both) = (&rates.learned[0], &rates.learned[1]);
        let (momentum, best) = rates.best();
        let first = match (one.loss.min(both.loss) <= 1.05 * best.loss, one.loss <= 1.05 * plain.loss) {
            (true, _) => "Yes",
            (_, true) => "Yes, but for the momentum",
            _ => "Not as well as by a grid in this run",
        };
        format!(
            "{first}: by hypergradients from a rate of 0.001 a single rate ends at {} with a validation loss of {} in {} runs, rate and momentum at {} and {} with {}; the best \
             fixed rate, {}, has {}, with momentum {} the best is {}. Online, in one run from a rate of 0, the loss is {}, and β may lie anywhere within a factor of {} (the fixed \
             rate: {}) for a loss within a tenth of its best.",
            number(one.rates[0]),
            fixed(one.loss, 3),
            one.trials,
            number(both.rates[0]),
            number(both.momentum),
            fixed(both.loss, 3),
            number(plain.rate),
            fixed(plain.loss, 3),
            number(momentum),
            fixed(best.loss, 3),
            fixed(online.run.loss, 3),
            number(10f64.powf(online_range)),
            number(10f64.powf(range)),
        )
    }

    /// The answer to the second question, as the numbers have it.
    fn learning_a_start(&self) -> String {
        let starts = &self.sinusoids;
        let (ratio, error) = starts.ratio("MAML");
        let few = &self.few_shot;
        let best = few.best();
        let (pixels, maml) = (few.pixels(), few.of("MAML"));
        let ahead = best.accuracies[0].0 > pixels.accuracies[0].0;
        let first = match (ratio <= 0.5, ahead) {
            (true, true) => "Yes",
            (false, false) => "Not in this run",
            _ => "In part",
        };
        format!(
            "{first}: after five steps on ten points of a new sinusoid the error from MAML's start is {} ({} ± {} of that from a pre-trained one, {}), Meta-SGD's {}. For five \
             new classes of {} from one example each, MAML is right for {}, {} is best with {}, and {} has {}; from five examples {}, {} and {}.",
            with_error(starts.of("MAML").errors[5], 3),
            fixed(ratio, 3),
            fixed(error, 3),
            with_error(starts.of("pre-trained").errors[5], 3),
            with_error(starts.of("Meta-SGD").errors[5], 3),
            few.set,
            percent_with_error(maml.accuracies[0]),
            best.name,
            percent_with_error(best.accuracies[0]),
            pixels.name,
            percent_with_error(pixels.accuracies[0]),
            percent_with_error(maml.accuracies[1]),
            percent_with_error(best.accuracies[1]),
            percent_with_error(pixels.accuracies[1]),
        )
    }

    /// The answer to the third question, as the numbers have it.
    fn cleaning_data(&self) -> String {
        let half = self.cleaning.half();
        let [oracle, cleaned, alone, all] = [0, 1, 2, 3].map(|kind| half.accuracies[kind]);
        let first = match (cleaned.0 > all.0 && cleaned.0 > alone.0, cleaned.0 > oracle.0 - 0.02) {
            (true, true) => "Yes",
            (true, false) => "Mostly",
            _ => "Not in this run",
        };
        format!(
            "{first}: with half of the labels wrong, weights learned by the loss on a small clean set give {} of the test digits right, training on right labels only {}, on all {}, on \
             the clean set alone {}; wrong labels are found with an F1 of {}.",
            percent_with_error(cleaned),
            percent_with_error(oracle),
            percent_with_error(all),
            percent_with_error(alone),
            with_error(half.f1, 3),
        )
    }

    /// The answer to the fourth question, as the numbers have it.
    fn learning_decays(&self) -> String {
        let [learned, random, one, random_one] = self.decay.pairs();
        let (gain, error) = decay::Decays::gain(learned, random);
        let many = gain > 2.0 * error;
        let first = match many {
            true => "Those that are many",
            false => "None clearly better than by chance in this run",
        };
        let cost = match learned.to_random {
            Some(cost) => format!(
                "as low a validation loss as random search ends with costs {} gradients",
                grouped(cost.round() as usize)
            ),
            None => "random search's validation loss was not reached".into(),
        };
        format!(
            "{first}: 128 weight decays by hypergradients end with a test loss of {}, by random search at the same cost with {} ({} ± {} more); {cost}, of {} that it spends. A single \
             decay needs no gradient: {} by random search, {} by hypergradients.",
            with_error(learned.test, 3),
            with_error(random.test, 3),
            fixed(gain, 3),
            fixed(error, 3),
            grouped(decay::BUDGET),
            with_error(random_one.test, 3),
            with_error(one.test, 3),
        )
    }

    /// The answer to the fifth question, as the numbers have it.
    fn learning_a_cell(&self) -> String {
        let cells = &self.cells;
        let told = cells.found.iter().map(|found| {
            let (place, accuracy) = cells.place(found);
            format!(
                "{} finds the cell {} of {} ({})",
                found.order,
                place,
                cells.all.len(),
                percent_with_error(accuracy)
            )
        });
        let told: Vec<String> = told.collect();
        let worst = cells.found.iter().map(|found| cells.place(found).0).max().unwrap_or(usize::MAX);
        let first = match worst {
            1..=4 => "Yes, in so small a space",
            5..=16 => "Better than by chance",
            _ => "Not in this run",
        };
        format!(
            "{first}: {}; a cell drawn at random has {}, the best {}.",
            told.join(", "),
            percent(cells.drawn()),
            percent_with_error(cells.all[0].accuracy),
        )
    }

    /// The answer to the sixth question, as the numbers have it.
    fn costing(&self) -> String {
        let told = self.cost.cases.iter().map(|case| {
            let cost = |name: &str| match case.curve(name).cost(cost::WANTED[0]) {
                Some(cost) => grouped(cost.round() as usize),
                None => "more than were tried".into(),
            };
            format!(
                "{} (condition {}): {} by conjugate gradients and {} by a Neumann series at the solution, {} by steps and conjugate gradients and {} unrolled from a start that is not solved",
                case.name,
                number(case.condition),
                cost("conjugate gradients"),
                cost("Neumann series"),
                cost("steps, then conjugate gradients"),
                cost("unrolled"),
            )
        });
        format!(
            "In gradients for an error of 1 %, a product with second derivatives counting two: {}. Such a product takes {} times the time of a gradient here.",
            told.collect::<Vec<_>>().join("; "),
            self.cost.cases.iter().map(|case| number(case.product)).collect::<Vec<_>>().join(" and "),
        )
    }

    fn rows(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        let mut row = |label: String, value: String, note: &str| {
            rows.push(Row { label: label.into(), value, note: note.into() });
        };
        let (_, best) = self.rates.best();
        row("rate, best of the grid".into(), fixed(best.loss, 3), "validation loss, nats");
        row("rate, online from 0".into(), fixed(self.rates.online_best().0.run.loss, 3), "validation loss, nats");
        for learned in &self.rates.learned {
            row(format!("learned: {}", learned.name), fixed(learned.loss, 3), "validation loss, nats");
        }
        for start in &self.sinusoids.starts {
            row(format!("sinusoids, {}", start.name), with_error(start.errors[5], 3), "squared error after five steps");
        }
        for learner in &self.few_shot.learners {
            let [one, five] = [0, 1].map(|at| percent(learner.accuracies[at].0));
            row(
                format!("{}, {}", self.few_shot.set, learner.name),
                format!("{one} : {five}"),
                "5-way, 1 shot : 5 shots",
            );
        }
        for (at, (name, _)) in cleaning::KINDS.iter().enumerate() {
            row(format!("half wrong, {name}"), percent(self.cleaning.half().accuracies[at].0), "test accuracy");
        }
        row("half wrong, found".into(), fixed(self.cleaning.half().f1.0, 3), "F1");
        for trace in &self.decay.traces {
            row(trace.name.into(), fixed(trace.test.0, 3), "test loss, nats, at the same cost");
        }
        for found in &self.cells.found {
            let (place, accuracy) = self.cells.place(found);
            row(
                format!("DARTS, {}", found.order),
                percent(accuracy.0),
                &format!("place {place} of {}", self.cells.all.len()),
            );
        }
        for case in &self.cost.cases {
            for name in ["conjugate gradients", "Neumann series", "unrolled", "unrolled, with momentum", "forward"] {
                let cost = case.curve(name).cost(cost::WANTED[0]);
                let cost = cost.map_or("–".into(), |cost| grouped(cost.round() as usize));
                row(format!("{}, {name}", case.name), cost, "gradients to an error of 1 %");
            }
        }
        rows
    }
}
