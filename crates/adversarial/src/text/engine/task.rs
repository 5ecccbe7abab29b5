//! An attack on its way, and the sentence it belongs to.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use super::oracle::{Answer, Reply, Request, TextOracle};
use super::{Prediction, TextAttack, TextCase, TextGoal, TextOutcome, TextStatus, TokenGradients};
use crate::attack::Walk;
use crate::text::Sentence;

/// One sentence under attack.
pub(super) struct Task<'a> {
    pub example: usize,
    sentence: Sentence,
    goal: TextGoal,
    clean: Arc<[f64]>,
    oracle: TextOracle,
    walk: Walk<'a>,
    /// What was asked about: where its logits are.
    known: HashMap<Arc<str>, usize>,
    logits: Vec<Arc<[f64]>>,
    question: Option<Question>,
    /// The best candidate so far and its score.
    best: Option<(Sentence, Arc<[f64]>, f64)>,
    budget: u64,
    gradients: u64,
    /// How it ended.
    end: Option<TextStatus>,
}

/// A request on its way to the model.
struct Question {
    request: Request,
    /// For each text asked about where its logits are or will be; fewer than asked where the budget ends.
    places: Vec<usize>,
    /// Texts that the model has to be asked about.
    missing: Vec<Arc<str>>,
    /// Whether the budget ends within it.
    last: bool,
    answers: Vec<TokenGradients>,
}

impl<'a> Task<'a> {
    pub fn new(example: usize, attack: &'a dyn TextAttack, case: TextCase<'a>, budget: Option<u64>) -> Self {
        let oracle = TextOracle::new();
        let original = Arc::from(case.sentence.original());
        Self {
            example,
            sentence: case.sentence.clone(),
            goal: case.goal,
            clean: case.logits.clone(),
            logits: vec![case.logits.clone()],
            walk: attack.walk(case, oracle.clone()),
            oracle,
            known: HashMap::from([(original, 0)]),
            question: None,
            best: None,
            budget: budget.unwrap_or(u64::MAX),
            gradients: 0,
            end: None,
        }
    }

    pub fn goal(&self) -> TextGoal {
        self.goal
    }

    /// The texts to ask the model about.
    pub fn missing(&self) -> &[Arc<str>] {
        self.question.as_ref().map_or(&[], |question| &question.missing)
    }

    /// How many they are.
    pub fn rows(&self) -> usize {
        self.missing().len()
    }

    /// Whether their gradients are asked for.
    pub fn asks_gradients(&self) -> bool {
        matches!(self.question.as_ref().map(|question| &question.request), Some(Request::Gradients(_)))
    }

    /// Takes the model's answers for the missing texts.
    pub fn take_logits(&mut self, answers: impl Iterator<Item = Arc<[f64]>>) {
        self.logits.extend(answers);
    }

    /// The same with gradients.
    pub fn take_gradients(&mut self, answers: impl Iterator<Item = TokenGradients>) {
        let Some(question) = &mut self.question else { return };
        question.answers = answers.collect();
        self.gradients += question.answers.len() as u64;
        for (place, answer) in question.places.iter().zip(&question.answers) {
            // A text that was known keeps its logits; new ones follow in the order of their places.
            if *place == self.logits.len() {
                self.logits.push(answer.logits.as_slice().into());
            }
        }
    }

    /// Takes the answers in and goes on to the next question that the model has to be asked.
    pub fn advance(&mut self) {
        loop {
            if let Some(question) = self.question.take() {
                let answer = self.take_in(&question);
                if question.last && self.end.is_none() {
                    self.end = Some(TextStatus::Failed);
                }
                if self.end.is_some() {
                    return;
                }
                self.oracle.exchange().answer = Some(answer);
            }
            if let Poll::Ready(()) = self.walk.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                self.end = Some(TextStatus::Failed);
                return;
            }
            let request = self.oracle.exchange().request.take();
            let request = request.expect("an attack waits for nothing but its oracle");
            let question = self.question(request);
            let waits = !question.missing.is_empty();
            self.question = Some(question);
            if waits {
                return;
            }
        }
    }

    /// The outcome, once it is over.
    pub fn outcome(&mut self) -> Option<TextOutcome> {
        let status = self.end?;
        let clean_score = self.goal.score(&self.clean);
        let best = self.best.take().filter(|best| status == TextStatus::Succeeded || best.2 > clean_score);
        let (sentence, logits) = match best {
            Some((sentence, logits, _)) => (sentence, logits),
            None => (self.sentence.clone(), self.clean.clone()),
        };
        Some(TextOutcome {
            status,
            sentence,
            goal: self.goal,
            before: Some(Prediction::new(self.clean.clone())),
            after: Some(Prediction::new(logits)),
            queries: self.logits.len() as u64,
            gradients: self.gradients,
        })
    }

    /// Looks up what is known, as far as the budget goes.
    fn question(&mut self, request: Request) -> Question {
        let texts: Vec<Arc<str>> = match &request {
            Request::Probe(texts) | Request::Gradients(texts) => {
                texts.iter().map(|text| text.as_str().into()).collect()
            }
            Request::Candidates(sentences, _) => sentences.iter().map(|sentence| sentence.text().into()).collect(),
        };
        let gradients = matches!(request, Request::Gradients(_));
        let mut question =
            Question { request, places: Vec::new(), missing: Vec::new(), last: false, answers: Vec::new() };
        for text in texts {
            let next = self.known.len();
            match self.known.entry(text.clone()) {
                Entry::Occupied(known) => {
                    question.places.push(*known.get());
                    if gradients {
                        question.missing.push(text);
                    }
                }
                Entry::Vacant(_) if next as u64 >= self.budget => {
                    question.last = true;
                    break;
                }
                Entry::Vacant(entry) => {
                    entry.insert(next);
                    question.places.push(next);
                    question.missing.push(text);
                }
            }
        }
        question
    }

    /// Looks for a success among the answers and gives them to the attack.
    fn take_in(&mut self, question: &Question) -> Answer {
        let replies: Vec<Reply> = question
            .places
            .iter()
            .map(|place| {
                let logits = self.logits[*place].clone();
                let score = self.goal.score(&logits);
                Reply { score: if score.is_nan() { f64::NEG_INFINITY } else { score }, logits }
            })
            .collect();
        if let Request::Candidates(sentences, preferences) = &question.request {
            let rank = |i: usize| (preferences.get(i).copied().unwrap_or(0.0), replies[i].score);
            let better = |best: usize, i: usize| if rank(i) > rank(best) { i } else { best };
            let best = (0..replies.len()).filter(|i| self.goal.reached(&replies[*i].logits)).reduce(better);
            let found = best
                .or_else(|| (0..replies.len()).reduce(|a, b| if replies[b].score > replies[a].score { b } else { a }));
            if let Some(i) =
                found.filter(|i| best.is_some() || self.best.as_ref().is_none_or(|b| replies[*i].score > b.2))
            {
                self.best = Some((sentences[i].clone(), replies[i].logits.clone(), replies[i].score));
            }
            if best.is_some() {
                self.end = Some(TextStatus::Succeeded);
            }
        }
        Answer { replies, gradients: question.answers.clone() }
    }
}
