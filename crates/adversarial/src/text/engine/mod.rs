//! The engine for text: runs an attack on many sentences, a batch of questions at a time.
//!
//! A [`TextAttack`](super::TextAttack) is written for *one* sentence, as a paper writes it: straight code that asks the model
//! through a [`TextOracle`] and waits. The engine keeps as many sentences going as fill a batch and answers their questions
//! together. So
//!
//! - a sentence is done with at its first success, and the best of one question's successes is kept;
//! - no text is asked about twice for one sentence: what is known is answered from a cache, and the queries reported are the
//!   distinct texts; a sentence that is given twice is attacked once;
//! - random numbers depend on the seed, the sentence and its goal, so that results do not depend on order or split of a batch.

mod oracle;
mod task;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use core_tensor::Random;
use rayon::prelude::*;

pub use oracle::{Reply, TextOracle};

use super::goal::{TextGoal, prediction};
use super::outcome::{Prediction, SkipReason, TextAttacked, TextOutcome, TextStatus};
use super::{Sentence, TextAttack, TextClassifier, TextGradients, TextSetting, TokenGradients, WordVectors};
use crate::attack::check::at_least_one;
use crate::error::{Error, Result};
use task::Task;

/// A sentence under attack, and what is wanted of it.
#[derive(Clone, Debug)]
pub struct TextCase<'a> {
    sentence: Sentence,
    logits: Arc<[f64]>,
    goal: TextGoal,
    random: Random,
    vectors: Option<&'a WordVectors>,
}

impl<'a> TextCase<'a> {
    /// The sentence as it was given; it has words, and the model gives it its label.
    pub fn sentence(&self) -> &Sentence {
        &self.sentence
    }

    /// Its logits.
    pub fn logits(&self) -> &[f64] {
        &self.logits
    }

    /// How near it is to the goal.
    pub fn score(&self) -> f64 {
        self.goal.score(&self.logits)
    }

    /// What counts as success.
    pub fn goal(&self) -> TextGoal {
        self.goal
    }

    /// The sentence's own random numbers. They depend on the seed, the sentence and its goal, not on the batch.
    pub fn random(&self) -> Random {
        self.random.clone()
    }

    /// The vectors of the words the model knows, where it gives gradients.
    pub fn word_vectors(&self) -> Option<&'a WordVectors> {
        self.vectors
    }
}

/// Runs attacks on text.
///
/// | setting | default | range | effect |
/// |---|---|---|---|
/// | [`batch`](Self::batch) | 256 | ≥ 1 | texts evaluated together |
/// | [`queries`](Self::queries) | none | ≥ 1 | the most distinct texts a sentence may ask about, its own included |
/// | [`seed`](Self::seed) | 0 | any | of all random numbers |
///
/// A question that goes beyond the budget is answered as far as the budget reaches, and is the last.
///
/// Guarantees: outcomes do not depend on the batch, on the order or on the other sentences
/// (`outcomes_do_not_depend_on_order_batch_or_company`), as far as the model's logits do not; queries are the distinct texts
/// (`queries_are_the_distinct_texts`).
///
/// Cost: the queries; per sentence under attack the texts it has asked about and their logits. Candidates are made on all cores.
///
/// ```
/// use adversarial::text::{DeepWordBug, TextClassifier, TextEngine, TextGoal};
///
/// /// Counts kind words and unkind ones.
/// struct Counting;
///
/// impl TextClassifier for Counting {
///     fn classes(&self) -> usize {
///         2
///     }
///
///     fn logits(&self, texts: &[&str]) -> adversarial::Result<Vec<Vec<f64>>> {
///         let count = |text: &str, words: &[&str]| text.split_whitespace().filter(|word| words.contains(word)).count() as f64;
///         Ok(texts.iter().map(|text| vec![0.5 + count(text, &["dull", "bad"]), count(text, &["good", "fine"])]).collect())
///     }
/// }
///
/// let attacked = TextEngine::new().run(&DeepWordBug::new(), &Counting, &["a good film"], &[TextGoal::untargeted(1)])?;
/// assert_eq!(attacked.succeeded(), 1);
/// assert_eq!(attacked.outcomes[0].sentence.changed().collect::<Vec<_>>(), [1]);
/// println!("{}", attacked.table(&["negative", "positive"]));
/// # Ok::<(), adversarial::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextEngine {
    batch: usize,
    queries: Option<u64>,
    seed: u64,
}

impl Default for TextEngine {
    fn default() -> Self {
        Self::new()
    }
}

impl TextEngine {
    /// An engine with the defaults.
    pub fn new() -> Self {
        Self { batch: 256, queries: None, seed: 0 }
    }

    /// Sets how many texts are evaluated together.
    pub fn batch(self, batch: usize) -> Self {
        Self { batch, ..self }
    }

    /// Limits the distinct texts a sentence may ask about.
    pub fn queries(self, most: u64) -> Self {
        Self { queries: Some(most), ..self }
    }

    /// Sets the seed.
    pub fn seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }

    /// Runs an attack on every sentence, by the logits of the model alone. No sentence gives an empty result.
    ///
    /// # Errors
    /// [`Error::Shape`] for another number of goals or of logits, [`Error::Label`] for a goal that is no class,
    /// [`Error::TooFewClasses`] below two, [`Error::Unsupported`] for an attack that needs gradients or cannot do what is asked,
    /// [`Error::Parameter`] for settings of the attack or of the engine, and what the model fails with.
    pub fn run<S: AsRef<str> + Sync>(
        &self,
        attack: &dyn TextAttack,
        model: &dyn TextClassifier,
        texts: &[S],
        goals: &[TextGoal],
    ) -> Result<TextAttacked> {
        self.run_on(attack, Model { logits: model, gradients: None }, texts, goals)
    }

    /// The same with the gradients of the model.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn run_with_gradients<S: AsRef<str> + Sync>(
        &self,
        attack: &dyn TextAttack,
        model: &dyn TextGradients,
        texts: &[S],
        goals: &[TextGoal],
    ) -> Result<TextAttacked> {
        self.run_on(attack, Model { logits: model, gradients: Some(model) }, texts, goals)
    }

    fn run_on<S: AsRef<str> + Sync>(
        &self,
        attack: &dyn TextAttack,
        model: Model<'_>,
        texts: &[S],
        goals: &[TextGoal],
    ) -> Result<TextAttacked> {
        at_least_one("batch", self.batch)?;
        if self.queries == Some(0) {
            return Err(Error::Parameter { parameter: "queries", value: 0.0, bound: "at least 1" });
        }
        if goals.len() != texts.len() {
            let expected = format!("[{}], one for each text", texts.len());
            return Err(Error::Shape { what: "goals", actual: vec![goals.len()], expected });
        }
        let classes = model.logits.classes();
        if classes < 2 {
            return Err(Error::TooFewClasses { what: "an attack", needed: 2, classes });
        }
        goals.iter().enumerate().try_for_each(|(example, goal)| goal.check(example, classes))?;
        if attack.needs_gradients() && model.gradients.is_none() {
            let (what, supported) = ("a model without gradients".to_owned(), "run_with_gradients");
            return Err(Error::Unsupported { attack: attack.name(), what, supported });
        }
        let targeted = goals.iter().any(|goal| goal.target().is_some());
        attack.check(&TextSetting { classes, targeted, gradients: model.gradients.is_some() })?;

        // What is given twice is attacked once.
        let mut places = HashMap::new();
        let mut unique: Vec<usize> = Vec::new();
        let place_of: Vec<usize> = (0..texts.len())
            .map(|i| {
                *places.entry((texts[i].as_ref(), goals[i].key())).or_insert_with(|| {
                    unique.push(i);
                    unique.len() - 1
                })
            })
            .collect();
        let sentences: Vec<Sentence> = unique.par_iter().map(|i| Sentence::new(texts[*i].as_ref())).collect();
        let goals: Vec<TextGoal> = unique.iter().map(|i| goals[*i]).collect();
        let outcomes = self.attack(attack, model, &sentences, &goals)?;
        Ok(TextAttacked { outcomes: place_of.into_iter().map(|place| outcomes[place].clone()).collect() })
    }

    /// Attacks sentences that are all different.
    fn attack(
        &self,
        attack: &dyn TextAttack,
        model: Model<'_>,
        sentences: &[Sentence],
        goals: &[TextGoal],
    ) -> Result<Vec<TextOutcome>> {
        let asked: Vec<usize> = (0..sentences.len()).filter(|i| !sentences[*i].is_empty()).collect();
        let originals: Vec<&str> = asked.iter().map(|i| sentences[*i].original()).collect();
        let mut clean = vec![None; sentences.len()];
        for (i, logits) in asked.iter().zip(model.logits(&originals, self.batch)?) {
            clean[*i] = Some(logits);
        }

        let mut outcomes: Vec<Option<TextOutcome>> = vec![None; sentences.len()];
        let mut queue = VecDeque::new();
        for (i, (sentence, goal)) in sentences.iter().zip(goals).enumerate() {
            let skipped = match &clean[i] {
                None => Some(SkipReason::NoWords),
                Some(logits) => match prediction(logits) {
                    None => Some(SkipReason::NotFinite),
                    Some(class) => (class != goal.label()).then_some(SkipReason::AlreadyWrong),
                },
            };
            match skipped {
                None => queue.push_back(i),
                Some(reason) => {
                    let before = clean[i].clone().map(Prediction::new);
                    outcomes[i] = Some(TextOutcome::skipped(sentence.clone(), *goal, reason, before));
                }
            }
        }

        let seed = Random::new(self.seed);
        let begin = |i: usize| {
            let (sentence, goal) = (sentences[i].clone(), goals[i]);
            let logits = clean[i].clone().expect("asked for above");
            let label: Vec<u8> =
                sentence.original().bytes().chain(goal.key().into_iter().flat_map(u64::to_le_bytes)).collect();
            let vectors = model.gradients.map(|model| model.word_vectors());
            let case = TextCase { sentence, logits, goal, random: seed.fork(label), vectors };
            let mut task = Task::new(i, attack, case, self.queries);
            task.advance();
            task
        };
        let mut tasks: Vec<Task<'_>> = Vec::new();
        loop {
            // As many more sentences as will about fill the batch with their questions.
            let pending: usize = tasks.iter().map(Task::rows).sum();
            let each = pending.div_ceil(tasks.len().max(1)).max(1);
            let more = self.batch.saturating_sub(pending).div_ceil(each).min(queue.len());
            let begun: Vec<usize> = queue.drain(..more).collect();
            tasks.par_extend(begun.into_par_iter().map(begin));
            retire(&mut tasks, &mut outcomes);
            if tasks.is_empty() && queue.is_empty() {
                break;
            }
            self.answer(model, &mut tasks)?;
            tasks.par_iter_mut().for_each(Task::advance);
            retire(&mut tasks, &mut outcomes);
        }
        Ok(outcomes.into_iter().map(|outcome| outcome.expect("each is skipped or attacked")).collect())
    }

    /// Answers the questions of all tasks.
    fn answer(&self, model: Model<'_>, tasks: &mut [Task<'_>]) -> Result<()> {
        let (mut plain, mut sloped) = (Vec::new(), Vec::new());
        for task in tasks.iter() {
            match task.asks_gradients() {
                false => plain.extend(task.missing().iter().map(|text| &**text)),
                true => sloped.extend(task.missing().iter().map(|text| (&**text, task.goal()))),
            }
        }
        let mut plain = model.logits(&plain, self.batch)?.into_iter();
        let mut sloped = model.gradients(&sloped, self.batch)?.into_iter();
        for task in tasks {
            let count = task.missing().len();
            match task.asks_gradients() {
                false => task.take_logits(plain.by_ref().take(count)),
                true => task.take_gradients(sloped.by_ref().take(count)),
            }
        }
        Ok(())
    }
}

/// Books what is done with.
fn retire(tasks: &mut Vec<Task<'_>>, outcomes: &mut [Option<TextOutcome>]) {
    tasks.retain_mut(|task| match task.outcome() {
        None => true,
        Some(outcome) => {
            outcomes[task.example] = Some(outcome);
            false
        }
    });
}

/// A model with or without gradients.
#[derive(Clone, Copy)]
struct Model<'a> {
    logits: &'a dyn TextClassifier,
    gradients: Option<&'a dyn TextGradients>,
}

impl Model<'_> {
    /// The logits of texts, a batch at a time. Texts of like length go together, as models pad to the longest.
    fn logits(&self, texts: &[&str], batch: usize) -> Result<Vec<Arc<[f64]>>> {
        let classes = self.logits.classes();
        let mut order: Vec<usize> = (0..texts.len()).collect();
        if texts.len() > batch {
            order.sort_by_key(|i| texts[*i].len());
        }
        let mut results: Vec<Option<Arc<[f64]>>> = vec![None; texts.len()];
        for chunk in order.chunks(batch) {
            let some: Vec<&str> = chunk.iter().map(|i| texts[*i]).collect();
            let logits = self.logits.logits(&some)?;
            same_number(logits.len(), some.len(), classes)?;
            for (i, logits) in chunk.iter().zip(logits) {
                same_classes(&logits, some.len(), classes)?;
                results[*i] = Some(logits.into());
            }
        }
        Ok(results.into_iter().map(|logits| logits.expect("each is in a chunk")).collect())
    }

    /// The gradients of the goals' scores, a batch at a time.
    fn gradients(&self, texts: &[(&str, TextGoal)], batch: usize) -> Result<Vec<TokenGradients>> {
        let mut results = Vec::with_capacity(texts.len());
        let Some(model) = self.gradients else { return Ok(results) };
        for chunk in texts.chunks(batch) {
            let some: Vec<&str> = chunk.iter().map(|(text, _)| *text).collect();
            let gradients = model.gradients(&some, &|i, logits| chunk[i].1.slope(logits))?;
            same_number(gradients.len(), some.len(), model.classes())?;
            for gradient in &gradients {
                same_classes(&gradient.logits, some.len(), model.classes())?;
            }
            results.extend(gradients);
        }
        Ok(results)
    }
}

fn same_number(actual: usize, texts: usize, classes: usize) -> Result<()> {
    match actual == texts {
        true => Ok(()),
        false => Err(Error::Shape { what: "logits", actual: vec![actual], expected: format!("[{texts}, {classes}]") }),
    }
}

fn same_classes(logits: &[f64], texts: usize, classes: usize) -> Result<()> {
    match logits.len() == classes {
        true => Ok(()),
        false => {
            let expected = format!("[{texts}, {classes}]");
            Err(Error::Shape { what: "logits", actual: vec![texts, logits.len()], expected })
        }
    }
}
