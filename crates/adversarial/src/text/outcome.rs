//! What attacks on text gave.

use std::fmt::Write;
use std::sync::Arc;

use super::Sentence;
use super::goal::{TextGoal, prediction, probabilities};

/// How a sentence came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TextStatus {
    /// A sentence that reaches the goal was found.
    Succeeded,
    /// None was found. That is no proof that there is none.
    Failed,
    /// Nothing was tried.
    Skipped(SkipReason),
}

/// Why nothing was tried on a sentence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SkipReason {
    /// The model gives it another class than its label.
    AlreadyWrong,
    /// It has no word. The model was not asked about it.
    NoWords,
    /// The model gives it logits that are no numbers.
    NotFinite,
}

/// What the model says about a text.
#[derive(Clone, Debug, PartialEq)]
pub struct Prediction {
    /// Its logits.
    pub logits: Arc<[f64]>,
    /// The class of the largest, the first of several or where one is no number.
    pub class: usize,
    /// That class' probability.
    pub probability: f64,
}

impl Prediction {
    pub(super) fn new(logits: Arc<[f64]>) -> Self {
        let class = prediction(&logits).unwrap_or(0);
        let probability = probabilities(&logits)[class];
        Self { logits, class, probability }
    }
}

/// One sentence's result.
#[derive(Clone, Debug, PartialEq)]
pub struct TextOutcome {
    /// How it came out.
    pub status: TextStatus,
    /// The success, or else the candidate that came nearest to one, or else the sentence as it was.
    pub sentence: Sentence,
    /// What was wanted.
    pub goal: TextGoal,
    /// The prediction for the original; none where the model was not asked.
    pub before: Option<Prediction>,
    /// The prediction for `sentence`.
    pub after: Option<Prediction>,
    /// Distinct texts that the model was asked about, the original among them.
    pub queries: u64,
    /// Gradient evaluations.
    pub gradients: u64,
}

impl TextOutcome {
    pub(super) fn skipped(sentence: Sentence, goal: TextGoal, reason: SkipReason, before: Option<Prediction>) -> Self {
        let queries = u64::from(before.is_some());
        Self {
            status: TextStatus::Skipped(reason),
            sentence,
            goal,
            after: before.clone(),
            before,
            queries,
            gradients: 0,
        }
    }

    /// The words that were changed: the original's and what they have become.
    pub fn changed_words(&self) -> Vec<(&str, &str)> {
        self.sentence.changed().map(|word| (self.sentence.original_word(word), self.sentence.word(word))).collect()
    }

    /// Share of the words that were changed; 0 of none.
    pub fn changed_share(&self) -> f64 {
        self.sentence.changed().len() as f64 / self.sentence.len().max(1) as f64
    }
}

/// What an attack gave, sentence by sentence in the order they were given.
///
/// Accuracies are of the sentences that have words; shares of none are `NaN`.
#[derive(Clone, Debug, PartialEq)]
pub struct TextAttacked {
    /// How each sentence came out.
    pub outcomes: Vec<TextOutcome>,
}

impl TextAttacked {
    /// Sentences for which a success was found.
    pub fn succeeded(&self) -> usize {
        self.count(|status| status == TextStatus::Succeeded)
    }

    /// Sentences that were attacked in vain.
    pub fn failed(&self) -> usize {
        self.count(|status| status == TextStatus::Failed)
    }

    /// Sentences on which nothing was tried.
    pub fn skipped(&self) -> usize {
        self.count(|status| matches!(status, TextStatus::Skipped(_)))
    }

    /// Share of sentences with the right class before the attack.
    pub fn accuracy_before(&self) -> f64 {
        self.accuracy(|outcome| outcome.before.as_ref())
    }

    /// Share of sentences with the right class after it. A sentence whose attack failed keeps its class, whatever the candidate
    /// that came nearest to the goal is.
    pub fn accuracy_after(&self) -> f64 {
        self.accuracy(|outcome| match outcome.status {
            TextStatus::Succeeded => outcome.after.as_ref(),
            _ => outcome.before.as_ref(),
        })
    }

    /// Successes of the sentences that were attacked.
    pub fn success_rate(&self) -> f64 {
        self.succeeded() as f64 / (self.succeeded() + self.failed()) as f64
    }

    /// Queries of all sentences that were attacked for each success.
    pub fn queries_per_success(&self) -> f64 {
        self.attacked().map(|outcome| outcome.queries).sum::<u64>() as f64 / self.succeeded() as f64
    }

    /// Mean queries of a sentence that was attacked.
    pub fn mean_queries(&self) -> f64 {
        self.attacked().map(|outcome| outcome.queries).sum::<u64>() as f64 / (self.succeeded() + self.failed()) as f64
    }

    /// Mean share of words changed in the successes.
    pub fn mean_changed(&self) -> f64 {
        let successes = self.outcomes.iter().filter(|outcome| outcome.status == TextStatus::Succeeded);
        successes.map(TextOutcome::changed_share).sum::<f64>() / self.succeeded() as f64
    }

    /// A line of figures.
    pub fn summary(&self) -> String {
        let percent = |share: f64| if share.is_nan() { "none".to_owned() } else { format!("{:.1}%", 100.0 * share) };
        format!(
            "{} succeeded, {} failed, {} skipped; success rate {}; accuracy {} → {}; {:.1} queries a sentence, {:.1} a success; \
             words changed {}",
            self.succeeded(),
            self.failed(),
            self.skipped(),
            percent(self.success_rate()),
            percent(self.accuracy_before()),
            percent(self.accuracy_after()),
            self.mean_queries(),
            self.queries_per_success(),
            percent(self.mean_changed()),
        )
    }

    /// A Markdown table of the sentences that were attacked: prediction and its percentage before and after, the text before and
    /// after with the words that were changed in double brackets. Classes without a name are numbers.
    pub fn table(&self, classes: &[&str]) -> String {
        let mut table = String::from("| prediction | original | perturbed |\n|---|---|---|\n");
        let say = |prediction: &Prediction| {
            let name = classes.get(prediction.class).map_or_else(|| prediction.class.to_string(), |name| cell(name));
            format!("{name} ({:.0}%)", 100.0 * prediction.probability)
        };
        for outcome in self.attacked() {
            let (Some(before), Some(after)) = (&outcome.before, &outcome.after) else { continue };
            let turned = match outcome.status {
                TextStatus::Succeeded => format!("{} → {}", say(before), say(after)),
                _ => format!("{} → failed, {}", say(before), say(after)),
            };
            let (original, perturbed) = (outcome.sentence.marked_original(), outcome.sentence.marked());
            let _ = writeln!(table, "| {turned} | {} | {} |", cell(&original), cell(&perturbed));
        }
        table
    }

    fn attacked(&self) -> impl Iterator<Item = &TextOutcome> {
        self.outcomes.iter().filter(|outcome| !matches!(outcome.status, TextStatus::Skipped(_)))
    }

    fn count(&self, which: impl Fn(TextStatus) -> bool) -> usize {
        self.outcomes.iter().filter(|outcome| which(outcome.status)).count()
    }

    fn accuracy<'a>(&'a self, prediction: impl Fn(&'a TextOutcome) -> Option<&'a Prediction>) -> f64 {
        let known: Vec<bool> = self
            .outcomes
            .iter()
            .filter_map(|outcome| Some((prediction(outcome)?, outcome)))
            .map(|(prediction, outcome)| !prediction.probability.is_nan() && prediction.class == outcome.goal.label())
            .collect();
        known.iter().filter(|right| **right).count() as f64 / known.len() as f64
    }
}

/// A text that stays in its cell.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace(['\n', '\r'], " ")
}
