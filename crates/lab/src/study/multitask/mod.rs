//! The study of multi-task learning: four questions about `min over u, {vᵢ} of (1/M) Σ f(u, vᵢ)`, four experiments.

mod examples;
mod front;
mod landscape;
mod methods;
mod network;
mod sharing;

use serde::Serialize;

use crate::error::Result;
use crate::report::plot::{fixed, number};
use crate::study::{Chapter, Finding, Setting};
use crate::summary::{Row, grouped};
use examples::Tasks;

/// Units of work of all experiments.
pub const UNITS: u64 = landscape::UNITS + methods::UNITS + front::UNITS + sharing::UNITS;

/// Every number of the study.
#[derive(Clone, Debug, Serialize)]
struct Results {
    data: &'static str,
    landscape: landscape::Landscape,
    methods: methods::Methods,
    front: front::Fronts,
    sharing: sharing::Sharing,
}

/// Runs all experiments.
///
/// # Errors
/// Those of the computation, and [`Error::Interrupted`](crate::error::Error::Interrupted).
pub fn run(setting: &Setting<'_>) -> Result<Finding> {
    let progress = setting.progress;
    let two = Tasks::two_digits(setting.data, &setting.random.fork("two digits"));
    let one = Tasks::one_digit(setting.data);
    let found = Results {
        data: setting.data.name,
        landscape: progress.experiment("two losses with valleys", || landscape::run(setting))?,
        methods: progress.experiment("two digits by ten methods", || methods::run(&two, setting))?,
        front: progress.experiment("all trade-offs at once", || front::run(&two, setting))?,
        sharing: progress.experiment("one body or separate networks", || sharing::run(&one, &two, setting))?,
    };
    Ok(Finding {
        results: serde_json::to_value(&found).expect("plain data"),
        rows: found.rows(),
        chapters: vec![
            Chapter {
                question: "How is min over u, {vᵢ} of (1/M) Σ f(u, vᵢ) solved where gradients conflict?",
                answer: found.descending(),
                parts: vec![found.landscape.part()],
            },
            Chapter {
                question: "Does any method beat a tuned weighted sum?",
                answer: found.comparing(),
                parts: vec![found.methods.part()],
            },
            Chapter {
                question: "Can one network hold every trade-off between the tasks?",
                answer: found.trading(),
                parts: vec![found.front.part()],
            },
            Chapter {
                question: "One body u with heads vᵢ, or separate networks, and must the data be shared?",
                answer: found.sharing_a_body(),
                parts: vec![found.sharing.part()],
            },
        ],
    })
}

fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

fn list(names: &[&str]) -> String {
    match names {
        [] => "none".into(),
        [one] => (*one).into(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

impl Results {
    /// The answer to the first question, as the numbers have it.
    fn descending(&self) -> String {
        let landscape = &self.landscape;
        let reliable = landscape.reliable();
        let names: Vec<&str> = reliable.iter().map(|method| method.name.as_str()).collect();
        let mean = landscape.mean();
        let stuck: Vec<String> = mean.stuck().iter().map(|path| landscape::place(path.start)).collect();
        let of_mean = match stuck.is_empty() {
            true => "the mean of the losses does so too".into(),
            false => format!(
                "the mean of the losses does so from {} of {}, and is held up from {}",
                mean.arrivals(),
                landscape.starts(),
                stuck.join(" and ")
            ),
        };
        let first = match names.len() {
            0 => format!("No method reached the Pareto front from all {} starts in this run", landscape.starts()),
            _ => format!(
                "By weights found anew in each step from the gradients: {} of {} methods reach the Pareto front from all {} starts ({})",
                names.len(),
                landscape.methods.len(),
                landscape.starts(),
                list(&names)
            ),
        };
        format!("{first}; {of_mean}.")
    }

    /// The answer to the second question, as the numbers have it.
    fn comparing(&self) -> String {
        let methods = &self.methods;
        let (ahead, behind) = (methods.apart(1.0), methods.apart(-1.0));
        let named = |outcomes: &[&methods::Outcome]| {
            list(&outcomes.iter().map(|outcome| outcome.name.as_str()).collect::<Vec<_>>())
        };
        let best = methods.best();
        let (gain, error) = methods.gain(best);
        let first = match ahead.len() {
            0 => "No, not in this run: none of ten methods is ahead of it by more than two standard errors".into(),
            count => {
                format!("{count} of ten methods are ahead of it by more than two standard errors ({})", named(&ahead))
            }
        };
        let last = match behind.len() {
            0 => "none is behind".into(),
            _ => format!("{} behind", named(&behind)),
        };
        let cost = best.seconds / methods.sum().seconds;
        format!(
            "{first}, {last}; the best, {}, has {} where the tuned sum has {} and separate networks {} ({} ± {} points over it, the best of ten by chance \
             included), at {} times the time of a step.",
            best.name,
            percent(best.accuracy()),
            percent(methods.sum().accuracy()),
            percent(methods.separate().accuracy()),
            fixed(100.0 * gain, 2),
            fixed(100.0 * error, 2),
            number(cost),
        )
    }

    /// The answer to the third question, as the numbers have it.
    fn trading(&self) -> String {
        let front = &self.front;
        let (each, best) = (front.each(), front.best());
        let share = best.hypervolume() / each.hypervolume();
        let first = match share >= 1.0 {
            true => "Yes",
            false if share > 0.9 => "Nearly",
            false => "Not well in this run",
        };
        format!(
            "{first}: the better of two learners, the {} with {} numbers and {} steps has a hypervolume of {}, {} networks with {} numbers and {} steps have {}, which is {} of theirs.",
            best.name,
            grouped(best.parameters),
            grouped(best.steps),
            fixed(best.hypervolume(), 3),
            front.networks(),
            grouped(each.parameters),
            grouped(each.steps),
            fixed(each.hypervolume(), 3),
            percent(share),
        )
    }

    /// The answer to the fourth question, as the numbers have it.
    fn sharing_a_body(&self) -> String {
        let told = self.sharing.families.iter().map(|family| {
            let (one, separate, narrow) = (family.one_body(), family.separate(), family.narrow());
            let examples = |times: Option<f64>| match times {
                Some(times) => format!("{} times its images", number(times)),
                None => "a number of images that was not reached".into(),
            };
            let (own, apart) = family.own_data();
            format!(
                "for {} one body with {} of the numbers has {} ({} separate, {} as small in all), and separate networks need {} for as much; with data that \
                 are not shared it has {} ({} separate) and they need {}",
                family.title,
                percent(one.parameters as f64 / separate.parameters as f64),
                percent(one.last()),
                percent(separate.last()),
                percent(narrow.last()),
                examples(family.more_examples()),
                percent(own.last()),
                percent(apart.last()),
                examples(family.more_examples_own_data()),
            )
        });
        let helped =
            self.sharing.families.iter().filter(|family| family.more_examples().is_some_and(|times| times > 1.1));
        let first = match helped.count() {
            0 => "A body saves numbers, but no examples in this run",
            count if count == self.sharing.families.len() => "One body saves numbers and examples",
            _ => "It depends on the tasks",
        };
        format!("{first}: {}.", told.collect::<Vec<_>>().join("; "))
    }

    fn rows(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        let mut row = |label: String, value: String, note: String| rows.push(Row { label: label.into(), value, note });
        for method in &self.landscape.methods {
            row(
                format!("landscape, {}", method.name),
                format!("{} of {}", method.arrivals(), self.landscape.starts()),
                "starts from which it reaches the front".into(),
            );
        }
        for outcome in &self.methods.outcomes {
            row(
                format!("two digits, {}", outcome.name),
                format!("{} : {} ms", percent(outcome.accuracy()), fixed(1e3 * outcome.seconds, 2)),
                "test accuracy, mean of tasks and seeds : a step".into(),
            );
        }
        for set in &self.front.sets {
            row(
                format!("front, {}", set.name),
                fixed(set.hypervolume(), 3),
                format!("hypervolume; {} numbers", grouped(set.parameters)),
            );
        }
        for family in &self.sharing.families {
            for curve in &family.curves {
                row(
                    format!("{}, {}", family.title, curve.name),
                    format!("{} : {}", percent(curve.last()), grouped(curve.parameters)),
                    "test accuracy with all images : numbers trained".into(),
                );
            }
        }
        rows
    }
}
