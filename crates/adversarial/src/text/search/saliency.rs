//! Probability-weighted word saliency.

use super::super::engine::TextOracle;
use super::importance::{Importance, odds};
use super::{Space, TextSearch, best, by_falling};
use crate::attack::Walk;

/// The search of PWWS: words are replaced by their best candidates, in the order of the gain weighted by saliency.
///
/// `H(xᵢ) = softmax(S)ᵢ · Δpᵢ`, with the saliency `S(xᵢ)` of word `i`, [`Importance::Unknown`], and the gain `Δpᵢ` of its best candidate
/// alone. All candidates are made from the original sentence, so that they are asked about in one question.
///
/// Cost: one query a word, one a candidate, one a step.
///
/// Deviation: a candidate that succeeds alone ends the search, with one word changed. Words that may not be changed have no part in
/// the softmax, which changes no order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WeightedSaliency;

impl TextSearch for WeightedSaliency {
    fn name(&self) -> String {
        "weighted saliency".into()
    }

    fn search<'s>(&'s self, space: &'s Space<'s>, oracle: &'s TextOracle) -> Walk<'s> {
        Box::pin(async move {
            let original = space.case.sentence();
            let before = odds(space.case.score());
            let words = space.changeable(original);
            let candidates: Vec<_> = words.iter().map(|word| space.candidates(original, *word)).collect();
            let replies = oracle.candidates(candidates.concat()).await;
            let scores = Importance::Unknown.of(space, oracle, &words).await;
            let saliency = softmax(&scores.into_iter().map(|score| odds(score) - before).collect::<Vec<_>>());

            // The best candidate of each word and its gain.
            let (mut chosen, mut weighted, mut from) = (Vec::new(), Vec::new(), 0);
            for ((word, candidates), saliency) in words.iter().zip(&candidates).zip(saliency) {
                let replies = &replies[from..][..candidates.len()];
                from += candidates.len();
                if let Some(i) = best(replies) {
                    chosen.push((*word, candidates[i].word(*word).to_owned()));
                    weighted.push(saliency * (odds(replies[i].score) - before));
                }
            }
            let mut current = original.clone();
            for (word, new) in by_falling(&weighted).into_iter().filter(|i| weighted[*i] > 0.0).map(|i| &chosen[i]) {
                let next = current.replace_exactly(*word, new);
                if space.may_change(&current, *word) && space.allows(&next) {
                    oracle.candidates(vec![next.clone()]).await;
                    current = next;
                }
            }
        })
    }
}

fn softmax(values: &[f64]) -> Vec<f64> {
    super::super::goal::probabilities(values)
}
