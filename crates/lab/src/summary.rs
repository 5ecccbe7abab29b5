//! What a run came to, as rows for the terminal and the report.

use std::borrow::Cow;

use crate::metrics::Metrics;
use crate::recipe::{ModelName, OptimizerName, Recipe};
use crate::report::plot::{number, significant};

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// All epochs are done.
    Finished,
    /// It was asked to stop and can be resumed.
    Interrupted,
    /// No epoch was better than an earlier one for as long as patience allows.
    StoppedEarly {
        /// The best epoch.
        best: u64,
    },
    /// Another step would spend more than the privacy budget.
    BudgetSpent,
    /// The loss or the weights ceased to be finite; the last checkpoint from before is kept.
    Diverged {
        /// The step whose loss was not finite, or after which a weight was not.
        step: u64,
        /// What was not finite.
        what: &'static str,
    },
}

/// Facts of a run that are neither in its recipe nor in its metrics.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Trained numbers in the model.
    pub parameters: usize,
    /// The compute device.
    pub device: String,
    /// Training examples.
    pub train_examples: usize,
    /// Test examples.
    pub test_examples: usize,
    /// The tasks' names.
    pub tasks: Vec<String>,
}

/// A line of the final table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// What it is.
    pub label: Cow<'static, str>,
    /// The figure with its unit.
    pub value: String,
    /// More about it; may be empty.
    pub note: String,
}

/// What was run, in one line.
pub fn headline(recipe: &Recipe, facts: &Facts) -> String {
    let data = recipe.data.name.title();
    let model = match recipe.model.name {
        ModelName::Cnn => "CNN",
        ModelName::Mlp => "MLP",
    };
    let optimizer = match recipe.optimizer.name {
        OptimizerName::AdamW => "AdamW",
        OptimizerName::Adam => "Adam",
        OptimizerName::Sgd => "SGD",
    };
    let on = techniques(recipe);
    format!(
        "{model} of {} parameters on {data}, {optimizer} at {}, batch {}{}, on {}",
        grouped(facts.parameters),
        number(recipe.optimizer.lr),
        recipe.train.batch_size,
        if on.is_empty() { String::new() } else { format!(", with {}", on.join(", ")) },
        facts.device
    )
}

/// The techniques that are on, as in the recipe.
fn techniques(recipe: &Recipe) -> Vec<String> {
    let defaults = toml::Table::try_from(Recipe::default()).expect("a recipe is a table");
    let table = toml::Table::try_from(recipe).expect("a recipe is a table");
    let switches = [
        ("precision", "compute"),
        ("clipping", "rule"),
        ("adversarial", "method"),
        ("bilevel", "learn"),
        ("multitask", "tasks"),
    ];
    let on = switches.into_iter().filter(|(section, key)| table[*section][*key] != defaults[*section][*key]);
    on.map(|(section, key)| format!("{section} {}", table[section][key].as_str().unwrap_or_default())).collect()
}

/// The final table.
pub fn rows(facts: &Facts, metrics: &Metrics, ending: &Ending) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut row = |label: &str, value, note| rows.push(Row { label: label.to_owned().into(), value, note });
    if let Some(last) = metrics.epochs.last() {
        let accuracy = |part: f64, of: usize| {
            let wrong = ((1.0 - part) * of as f64).round() as usize;
            (format!("{:.2} %", 100.0 * part), format!("{} of {} wrong", grouped(wrong), grouped(of)))
        };
        let (value, note) = accuracy(last.test_accuracy, facts.test_examples);
        row("test accuracy", value, note);
        for (task, part) in facts.tasks.iter().skip(1).zip(&last.task_accuracies) {
            let (value, note) = accuracy(*part, facts.test_examples);
            row(&format!("… of {task}"), value, note);
        }
        if let Some(robust) = metrics.robust.last() {
            let (value, note) = accuracy(robust.robust_accuracy, robust.examples);
            let clean = 100.0 * robust.clean_accuracy;
            row("robust accuracy", value, format!("{note} under PGD; {clean:.2} % of them as they are"));
        }
        let (value, note) = accuracy(last.train_accuracy, facts.train_examples);
        row("train accuracy", value, note);
        row(
            "time",
            format!("{:.1} s", last.seconds),
            format!("{} epochs, {} steps", last.epoch, grouped(last.step as usize)),
        );
    }
    if let Some(learned) = metrics.epochs.last().and_then(|last| last.learned) {
        row("learned", significant(learned), "bilevel.learn at the end".into());
    }
    if let Some(epsilon) = metrics.epochs.last().and_then(|last| last.epsilon) {
        row("privacy spent", format!("ε {}", significant(epsilon)), String::new());
    }
    if let Some((median, max)) = metrics.grad_norms() {
        row("gradient norm", significant(median), format!("median of all steps; largest {}", significant(max)));
    }
    if let Some(spectrum) = metrics.spectra.last()
        && let (Some(top), Some(error)) = (spectrum.eigenvalues.first(), spectrum.residuals.first())
    {
        let note = format!("± {:.0e}, top Hessian eigenvalue over {} examples", error, grouped(spectrum.examples));
        row("sharpness", significant(*top), note);
    }
    let skipped = metrics.steps.iter().filter(|step| step.skipped.is_some()).count();
    if skipped > 0 {
        row("skipped steps", grouped(skipped), String::new());
    }
    match ending {
        Ending::Finished => {}
        Ending::Interrupted => row("ended", "interrupted".into(), "can be resumed".into()),
        Ending::StoppedEarly { best } => row("ended", "early".into(), format!("nothing better since epoch {best}")),
        Ending::BudgetSpent => row("ended", "early".into(), "the privacy budget is spent".into()),
        Ending::Diverged { step, what } => {
            row("ended", "diverged".into(), format!("{what} was not finite at step {step}"))
        }
    }
    rows
}

/// The rows as text, in columns.
pub fn table(rows: &[Row]) -> String {
    let width = |text: fn(&Row) -> &str| rows.iter().map(|row| text(row).chars().count()).max().unwrap_or(0);
    let (labels, values) = (width(|row| &row.label), width(|row| &row.value));
    let line = |row: &Row| {
        format!("  {:labels$}   {:>values$}   {}", row.label, row.value, row.note).trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

/// A count with commas between groups of three digits.
pub fn grouped(count: usize) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Epoch;

    #[test]
    fn counts_are_grouped() {
        assert_eq!([0, 12, 999, 1000, 1_234_567].map(grouped), ["0", "12", "999", "1,000", "1,234,567"]);
    }

    #[test]
    fn the_table_stands_in_columns() {
        let facts =
            Facts { parameters: 1, device: "d".into(), train_examples: 1442, test_examples: 355, tasks: vec![] };
        let epoch = Epoch {
            epoch: 2,
            step: 46,
            train_loss: 0.0,
            train_accuracy: 1.0,
            test_loss: 0.1,
            test_accuracy: 350.0 / 355.0,
            seconds: 4.04,
            ..Epoch::default()
        };
        let metrics = Metrics { epochs: vec![epoch], ..Metrics::default() };
        let text = table(&rows(&facts, &metrics, &Ending::Diverged { step: 9, what: "the loss" }));
        assert_eq!(
            text,
            "  test accuracy     98.59 %   5 of 355 wrong\n  train accuracy   100.00 %   0 of 1,442 wrong\n  \
             time                4.0 s   2 epochs, 46 steps\n  ended            diverged   the loss was not finite at step 9\n"
        );
    }
}
