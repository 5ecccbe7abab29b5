//! Universal triggers.

use core_tensor::Random;
use rayon::prelude::*;

use super::hot_flip::is_word;
use crate::attack::check::at_least_one;
use crate::error::{Error, Result};
use crate::text::constraint::StopWords;
use crate::text::goal::{TextGoal, prediction};
use crate::text::{TextClassifier, TextGradients, WordVectors};

/// Finds a universal trigger: a few words that turn the predictions for all sentences when put in front of them.
///
/// The objective is the mean over sentences of `−log p_y`, or of `log p_t` for a target. A round takes its gradient in the vectors of the
/// trigger's words and goes through the places from left to right: the words `b` with the largest `∇ⱼ · v_b` are asked about on the sentences,
/// and the best `beam` triggers go on. It ends with a round that gains nothing.
///
/// | parameter | default | range | effect |
/// |---|---|---|---|
/// | [`length`](Self::length) | 3 | ≥ 1 | words of the trigger |
/// | [`candidates`](Self::candidates) | 20 | ≥ 1 | words asked about at each place |
/// | [`beam`](Self::beam) | 1 | ≥ 1 | triggers that go on |
/// | [`sentences`](Self::sentences) | 256 | ≥ 1 | sentences, drawn at random, that it is found on; the model's right ones are drawn from |
/// | [`rounds`](Self::rounds) | 10 | ≥ 1 | at most |
/// | [`batch`](Self::batch) | 256 | ≥ 1 | texts evaluated together |
/// | [`start`](Self::start) | `the` | a word the model knows | what it begins from |
/// | [`exclude`](Self::exclude) | none | | words that are not taken |
/// | [`seed`](Self::seed) | 0 | | of the sentences drawn |
///
/// Guarantee: for a linear classifier the best trigger is found (`the_trigger_of_a_linear_classifier_is_its_worst_word`).
///
/// Cost: a round takes `beam` gradients of each sentence, and `length · beam · candidates` queries of each.
///
/// Errors: [`Error::Parameter`]; [`Error::Word`] where the model does not know the word it begins from; [`Error::EmptyBatch`] where the model is
/// right on no sentence; [`Error::Shape`], [`Error::Label`] for goals that do not fit.
///
/// E. Wallace, S. Feng, N. Kandpal, M. Gardner, S. Singh, "Universal adversarial triggers for attacking and analyzing NLP", EMNLP 2019,
/// arXiv:1908.07125, section 2. Deviation: one set of sentences for all rounds, so that each is at least as good as the one before.
///
/// ```no_run
/// use adversarial::text::{TextGoal, TextGradients, UniversalTrigger};
///
/// fn find(model: &dyn TextGradients, train: &[&str], test: &[&str]) -> adversarial::Result<()> {
///     let goals = |texts: &[&str]| vec![TextGoal::targeted(1, 0); texts.len()];
///     let trigger = UniversalTrigger::new().find(model, train, &goals(train))?;
///     let report = trigger.report(model, test, &goals(test))?;
///     println!("{:?}: {:.1} % of what it has not seen", trigger.words, 100.0 * report.success_rate());
///     Ok(())
/// }
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct UniversalTrigger {
    length: usize,
    candidates: usize,
    beam: usize,
    sentences: usize,
    rounds: usize,
    batch: usize,
    start: String,
    exclude: Option<StopWords>,
    seed: u64,
}

/// Words to put in front of any sentence.
#[derive(Clone, Debug, PartialEq)]
pub struct Trigger {
    /// The words.
    pub words: Vec<String>,
    /// The objective on the sentences it was found on.
    pub objective: f64,
    /// Texts that the model was asked about.
    pub queries: u64,
    /// Gradient evaluations.
    pub gradients: u64,
}

/// What a trigger does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TriggerReport {
    /// Sentences with words.
    pub sentences: usize,
    /// Those that get their label without the trigger.
    pub right_before: usize,
    /// Those that get their label with it.
    pub right_after: usize,
    /// Those of `right_before` whose goal is reached with it.
    pub reached: usize,
}

impl TriggerReport {
    /// Share of the sentences that were right whose goal is reached; `NaN` of none.
    pub fn success_rate(&self) -> f64 {
        self.reached as f64 / self.right_before as f64
    }

    /// Share of the sentences that get their label without the trigger.
    pub fn accuracy_before(&self) -> f64 {
        self.right_before as f64 / self.sentences as f64
    }

    /// Share of the sentences that get their label with it.
    pub fn accuracy_after(&self) -> f64 {
        self.right_after as f64 / self.sentences as f64
    }
}

impl Default for UniversalTrigger {
    fn default() -> Self {
        Self::new()
    }
}

impl UniversalTrigger {
    /// Three words, with the defaults.
    pub fn new() -> Self {
        Self {
            length: 3,
            candidates: 20,
            beam: 1,
            sentences: 256,
            rounds: 10,
            batch: 256,
            start: "the".into(),
            exclude: None,
            seed: 0,
        }
    }

    /// Sets the number of words.
    pub fn length(self, length: usize) -> Self {
        Self { length, ..self }
    }

    /// Sets how many words are asked about at each place.
    pub fn candidates(self, candidates: usize) -> Self {
        Self { candidates, ..self }
    }

    /// Sets how many triggers go on.
    pub fn beam(self, beam: usize) -> Self {
        Self { beam, ..self }
    }

    /// Sets how many sentences it is found on.
    pub fn sentences(self, sentences: usize) -> Self {
        Self { sentences, ..self }
    }

    /// Sets the most rounds.
    pub fn rounds(self, rounds: usize) -> Self {
        Self { rounds, ..self }
    }

    /// Sets how many texts are evaluated together.
    pub fn batch(self, batch: usize) -> Self {
        Self { batch, ..self }
    }

    /// Sets the word that it begins from.
    pub fn start(self, word: impl Into<String>) -> Self {
        Self { start: word.into(), ..self }
    }

    /// Sets words that are not taken: those of the classes, say.
    pub fn exclude(self, words: StopWords) -> Self {
        Self { exclude: Some(words), ..self }
    }

    /// Sets the seed.
    pub fn seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }

    /// Finds a trigger for sentences and what is wanted of each.
    ///
    /// # Errors
    /// Those named above, and what the model fails with.
    pub fn find<S: AsRef<str> + Sync>(
        &self,
        model: &dyn TextGradients,
        texts: &[S],
        goals: &[TextGoal],
    ) -> Result<Trigger> {
        self.check()?;
        let vectors = model.word_vectors();
        let Some(start) = vectors.row(&self.start) else {
            return Err(Error::Word {
                word: self.start.clone(),
                problem: "the model does not know it, so no trigger begins from it",
            });
        };
        let mut count = Count::default();
        let right = right(model, texts, goals, self.batch, &mut count)?;
        if right.is_empty() {
            return Err(Error::EmptyBatch { what: "a trigger, of those the model is right on," });
        }
        let order = Random::new(self.seed).permutation(right.len());
        let mut chosen: Vec<usize> = order.into_iter().take(self.sentences).map(|i| right[i]).collect();
        chosen.sort_unstable();
        let sentences: Vec<(&str, TextGoal)> = chosen.iter().map(|i| (texts[*i].as_ref(), goals[*i])).collect();
        let allowed = |row: &usize| {
            let word = &vectors.words()[*row];
            is_word(word) && !self.exclude.as_ref().is_some_and(|words| words.contains(word))
        };
        let usable: Vec<usize> = (0..vectors.len()).filter(allowed).collect();

        let first = vec![start; self.length];
        let mut best = vec![(self.objective(model, &sentences, &first, &mut count)?, first)];
        for _ in 0..self.rounds {
            let before = best[0].0;
            let mut beam = Vec::new();
            for (objective, rows) in &best {
                let slopes = self.slopes(model, &sentences, rows, &mut count)?;
                beam.push((*objective, rows.clone(), slopes));
            }
            // From left to right; the gradients are those of the trigger that the round began with.
            for place in 0..self.length {
                let mut next: Vec<(f64, Vec<usize>, Vec<Vec<f64>>)> = beam.clone();
                for (_, rows, slopes) in &beam {
                    for word in self.promising(vectors, &usable, &slopes[place]) {
                        let mut changed = rows.clone();
                        changed[place] = word;
                        if next.iter().all(|(_, rows, _)| *rows != changed) {
                            let objective = self.objective(model, &sentences, &changed, &mut count)?;
                            next.push((objective, changed, slopes.clone()));
                        }
                    }
                }
                next.sort_by(|a, b| b.0.total_cmp(&a.0));
                next.truncate(self.beam);
                beam = next;
            }
            best = beam.into_iter().map(|(objective, rows, _)| (objective, rows)).collect();
            if !(best[0].0 > before) {
                break;
            }
        }
        let (objective, rows) = best.swap_remove(0);
        let words = rows.iter().map(|row| vectors.words()[*row].clone()).collect();
        Ok(Trigger { words, objective, queries: count.queries, gradients: count.gradients })
    }

    fn check(&self) -> Result<()> {
        at_least_one("length", self.length)?;
        at_least_one("candidates", self.candidates)?;
        at_least_one("beam", self.beam)?;
        at_least_one("sentences", self.sentences)?;
        at_least_one("rounds", self.rounds)?;
        at_least_one("batch", self.batch)
    }

    /// The mean objective of the sentences with a trigger.
    fn objective(
        &self,
        model: &dyn TextGradients,
        sentences: &[(&str, TextGoal)],
        trigger: &[usize],
        count: &mut Count,
    ) -> Result<f64> {
        let prefix = prefix(model.word_vectors(), trigger);
        let mut total = 0.0;
        for chunk in sentences.chunks(self.batch) {
            let texts: Vec<String> = chunk.iter().map(|(text, _)| format!("{prefix} {text}")).collect();
            let logits = logits(model, &texts.iter().map(String::as_str).collect::<Vec<_>>(), count)?;
            total += chunk.iter().zip(logits).map(|((_, goal), logits)| value(goal, &logits)).sum::<f64>();
        }
        let mean = total / sentences.len() as f64;
        Ok(if mean.is_nan() { f64::NEG_INFINITY } else { mean })
    }

    /// The gradient of the objective in the vector of each word of the trigger.
    fn slopes(
        &self,
        model: &dyn TextGradients,
        sentences: &[(&str, TextGoal)],
        trigger: &[usize],
        count: &mut Count,
    ) -> Result<Vec<Vec<f64>>> {
        let vectors = model.word_vectors();
        let prefix = prefix(vectors, trigger);
        let ends: Vec<usize> = trigger
            .iter()
            .scan(0, |end, row| {
                *end += vectors.words()[*row].len() + 1;
                Some(*end - 1)
            })
            .collect();
        let mut slopes = vec![vec![0.0; vectors.dimension()]; trigger.len()];
        for chunk in sentences.chunks(self.batch) {
            let texts: Vec<String> = chunk.iter().map(|(text, _)| format!("{prefix} {text}")).collect();
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            let answers = model.gradients(&texts, &|i, logits| {
                let goal = chunk[i].1;
                let steep = steepness(&goal, logits);
                goal.slope(logits).into_iter().map(|slope| steep * slope).collect()
            })?;
            count.gradients += texts.len() as u64;
            count.queries += texts.len() as u64;
            for answer in answers {
                for (token, gradient) in
                    answer.tokens.iter().zip(&answer.gradients).filter(|(token, _)| token.end <= prefix.len())
                {
                    let place = ends.partition_point(|end| *end < token.end);
                    slopes[place].iter_mut().zip(gradient).for_each(|(sum, g)| *sum += f64::from(*g));
                }
            }
        }
        Ok(slopes)
    }

    /// The words that promise most at a place, best first.
    fn promising(&self, vectors: &WordVectors, usable: &[usize], slope: &[f64]) -> Vec<usize> {
        let along = |row: &usize| vectors.vector(*row).iter().zip(slope).map(|(v, g)| f64::from(*v) * g).sum::<f64>();
        let mut rated: Vec<(f64, usize)> = usable.par_iter().map(|row| (along(row), *row)).collect();
        let falling = |a: &(f64, usize), b: &(f64, usize)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
        if rated.len() > self.candidates {
            rated.select_nth_unstable_by(self.candidates - 1, falling);
            rated.truncate(self.candidates);
        }
        rated.sort_by(falling);
        rated.into_iter().map(|(_, row)| row).collect()
    }
}

impl Trigger {
    /// A text with the trigger in front of it.
    pub fn apply(&self, text: &str) -> String {
        format!("{} {text}", self.words.join(" "))
    }

    /// What the trigger does to sentences: to others than it was found on, to know what it is worth.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::Label`] for goals that do not fit, and what the model fails with.
    pub fn report<S: AsRef<str> + Sync>(
        &self,
        model: &dyn TextClassifier,
        texts: &[S],
        goals: &[TextGoal],
    ) -> Result<TriggerReport> {
        let (batch, mut count) = (256, Count::default());
        let right = right(model, texts, goals, batch, &mut count)?;
        let known: Vec<usize> = (0..texts.len()).filter(|i| has_words(texts[*i].as_ref())).collect();
        let mut report =
            TriggerReport { sentences: known.len(), right_before: right.len(), right_after: 0, reached: 0 };
        for chunk in known.chunks(batch) {
            let triggered: Vec<String> = chunk.iter().map(|i| self.apply(texts[*i].as_ref())).collect();
            let logits = logits(model, &triggered.iter().map(String::as_str).collect::<Vec<_>>(), &mut count)?;
            for (i, logits) in chunk.iter().zip(logits) {
                report.right_after += usize::from(prediction(&logits) == Some(goals[*i].label()));
                report.reached += usize::from(goals[*i].reached(&logits) && right.binary_search(i).is_ok());
            }
        }
        Ok(report)
    }
}

/// Evaluations spent.
#[derive(Default)]
struct Count {
    queries: u64,
    gradients: u64,
}

/// The sentences that have words and get their label.
fn right<S: AsRef<str> + Sync>(
    model: &(impl TextClassifier + ?Sized),
    texts: &[S],
    goals: &[TextGoal],
    batch: usize,
    count: &mut Count,
) -> Result<Vec<usize>> {
    if goals.len() != texts.len() {
        let expected = format!("[{}], one for each text", texts.len());
        return Err(Error::Shape { what: "goals", actual: vec![goals.len()], expected });
    }
    goals.iter().enumerate().try_for_each(|(example, goal)| goal.check(example, model.classes()))?;
    let known: Vec<usize> = (0..texts.len()).filter(|i| has_words(texts[*i].as_ref())).collect();
    let mut right = Vec::new();
    for chunk in known.chunks(batch) {
        let some: Vec<&str> = chunk.iter().map(|i| texts[*i].as_ref()).collect();
        let logits = logits(model, &some, count)?;
        right.extend(
            chunk.iter().zip(logits).filter(|(i, z)| prediction(z) == Some(goals[**i].label())).map(|(i, _)| *i),
        );
    }
    Ok(right)
}

fn has_words(text: &str) -> bool {
    use unicode_segmentation::UnicodeSegmentation;
    text.unicode_words().next().is_some()
}

fn logits(model: &(impl TextClassifier + ?Sized), texts: &[&str], count: &mut Count) -> Result<Vec<Vec<f64>>> {
    let (logits, classes) = (model.logits(texts)?, model.classes());
    if logits.len() != texts.len() || logits.iter().any(|z| z.len() != classes) {
        let actual = vec![logits.len(), logits.first().map_or(0, Vec::len)];
        return Err(Error::Shape { what: "logits", actual, expected: format!("[{}, {classes}]", texts.len()) });
    }
    count.queries += texts.len() as u64;
    Ok(logits)
}

fn prefix(vectors: &WordVectors, trigger: &[usize]) -> String {
    trigger.iter().map(|row| vectors.words()[*row].as_str()).collect::<Vec<_>>().join(" ")
}

/// `−log p_y = softplus(score)`, or `log p_t = −softplus(−score)`.
fn value(goal: &TextGoal, logits: &[f64]) -> f64 {
    let softplus = |x: f64| x.max(0.0) + libm::log1p(libm::exp(-x.abs()));
    let score = goal.score(logits);
    if goal.target().is_some() { -softplus(-score) } else { softplus(score) }
}

/// The derivative of that by the score.
fn steepness(goal: &TextGoal, logits: &[f64]) -> f64 {
    let score = goal.score(logits);
    let toward = if goal.target().is_some() { -score } else { score };
    1.0 / (1.0 + libm::exp(-toward))
}
