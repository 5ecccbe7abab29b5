//! Beam search.

use std::collections::HashSet;

use super::super::engine::TextOracle;
use super::{Space, TextSearch, by_falling};
use crate::attack::Walk;
use crate::attack::check::at_least_one;
use crate::error::Result;
use crate::text::Sentence;

/// Beam search: in each round all candidates of all words of the best `width` sentences, of which the best `width` go on.
///
/// With a width of 1 it is the greedy search over all words at once: each round changes the word that gains the most.
///
/// | parameter | default | range | effect |
/// |---|---|---|---|
/// | `width` | | ≥ 1 | sentences that go on |
/// | [`rounds`](Self::rounds) | the number of words | ≥ 1 | changes at most |
///
/// On a linear classifier of words the best sentence of one and of two changes is found with any width
/// (`beam_finds_the_best_one_and_two_words_of_a_linear_classifier`).
///
/// Cost: one query a candidate of each word of each sentence in the beam, a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beam {
    width: usize,
    rounds: usize,
}

impl Beam {
    /// With `width` sentences.
    pub fn new(width: usize) -> Self {
        Self { width, rounds: usize::MAX }
    }

    /// Sets the most rounds.
    pub fn rounds(self, rounds: usize) -> Self {
        Self { rounds, ..self }
    }
}

impl TextSearch for Beam {
    fn name(&self) -> String {
        format!("beam of {}", self.width)
    }

    fn check(&self) -> Result<()> {
        at_least_one("width", self.width)?;
        at_least_one("rounds", self.rounds)
    }

    fn search<'s>(&'s self, space: &'s Space<'s>, oracle: &'s TextOracle) -> Walk<'s> {
        Box::pin(async move {
            let original = space.case.sentence();
            let mut beam: Vec<Sentence> = vec![original.clone()];
            let mut seen: HashSet<Sentence> = HashSet::from([original.clone()]);
            for _ in 0..self.rounds.min(original.len()) {
                let mut candidates: Vec<Sentence> = Vec::new();
                for sentence in &beam {
                    for word in space.changeable(sentence) {
                        let new = space.candidates(sentence, word);
                        candidates.extend(new.into_iter().filter(|candidate| seen.insert(candidate.clone())));
                    }
                }
                if candidates.is_empty() {
                    return;
                }
                let replies = oracle.candidates(candidates.clone()).await;
                let scores: Vec<f64> = replies.iter().map(|reply| reply.score).collect();
                beam = by_falling(&scores).into_iter().take(self.width).map(|i| candidates[i].clone()).collect();
            }
        })
    }
}
