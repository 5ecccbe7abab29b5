//! Word by word, by importance.

use super::super::constraint::SentenceSimilarity;
use super::super::engine::TextOracle;
use super::{Importance, Space, TextSearch, best, by_falling};
use crate::attack::Walk;
use crate::error::Result;

/// Greedy search: goes through the words by falling importance and for each keeps the candidate of the highest score, where that is
/// higher than without it.
///
/// | parameter | default | range | effect |
/// |---|---|---|---|
/// | `importance` | | | the order of the words |
/// | [`prefer`](Self::prefer) | none | | among a word's successes takes the one of the most similar sentence, not the surest |
///
/// Where the words' effects add up, and each can be made to have none, it changes as few words as there are ways to
/// (`greedy_changes_the_fewest_words_of_a_linear_classifier`).
///
/// Cost: the importance, and one query a candidate of each word gone through.
#[derive(Clone)]
pub struct Greedy {
    importance: Importance,
    similarity: Option<SentenceSimilarity>,
}

impl Greedy {
    /// In the order of an importance.
    pub fn new(importance: Importance) -> Self {
        Self { importance, similarity: None }
    }

    /// Takes the success of the most similar sentence.
    pub fn prefer(self, similarity: SentenceSimilarity) -> Self {
        Self { similarity: Some(similarity), ..self }
    }
}

impl TextSearch for Greedy {
    fn name(&self) -> String {
        "greedy".into()
    }

    fn check(&self) -> Result<()> {
        match self.importance {
            Importance::Combined(weight) => crate::attack::check::not_negative("the weight of the tail", weight),
            _ => Ok(()),
        }
    }

    fn needs_gradients(&self) -> bool {
        self.importance == Importance::Gradient
    }

    fn search<'s>(&'s self, space: &'s Space<'s>, oracle: &'s TextOracle) -> Walk<'s> {
        Box::pin(async move {
            let (mut current, mut score) = (space.case.sentence().clone(), space.case.score());
            let words = space.changeable(&current);
            let importance = self.importance.of(space, oracle, &words).await;
            for word in by_falling(&importance).into_iter().map(|i| words[i]) {
                if !space.may_change(&current, word) {
                    continue;
                }
                let candidates = space.candidates(&current, word);
                let replies = match &self.similarity {
                    None => oracle.candidates(candidates.clone()).await,
                    Some(similarity) => {
                        let preferences = candidates.iter().map(|candidate| similarity.cosine(candidate)).collect();
                        oracle.preferred(candidates.clone(), preferences).await
                    }
                };
                if let Some(i) = best(&replies).filter(|i| replies[*i].score > score) {
                    (current, score) = (candidates[i].clone(), replies[i].score);
                }
            }
        })
    }
}
