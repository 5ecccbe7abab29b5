//! A genetic algorithm.

use core_tensor::Random;

use super::super::engine::TextOracle;
use super::importance::odds;
use super::{Space, TextSearch, best};
use crate::attack::Walk;
use crate::attack::check::{at_least_one, positive};
use crate::error::Result;
use crate::text::Sentence;

/// A genetic algorithm over sentences, after Alzantot et al. 2018.
///
/// A population of the original with one word changed each. In each generation the best is kept; the others are children of two
/// parents, each parent drawn with a probability that grows with its `q`, the probability the goal asks for, as
/// `exp(q / temperature)`; a child has each word from either parent, and is then changed in one more word. A change draws a word with a
/// probability that grows with its number of candidates and takes the best of them.
///
/// | parameter | default | range | effect |
/// |---|---|---|---|
/// | [`population`](Self::population) | 60 | ≥ 2 | sentences of a generation |
/// | [`generations`](Self::generations) | 20 | ≥ 1 | |
/// | [`temperature`](Self::temperature) | 0.3 | > 0 | the lower, the more parents are drawn from the best |
///
/// A child that the constraints refuse is its first parent instead.
///
/// Cost: `population` changes a generation, a query a candidate of each; what was asked before costs nothing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Evolution {
    population: usize,
    generations: usize,
    temperature: f64,
}

impl Default for Evolution {
    fn default() -> Self {
        Self::new()
    }
}

impl Evolution {
    /// With the paper's parameters.
    pub fn new() -> Self {
        Self { population: 60, generations: 20, temperature: 0.3 }
    }

    /// Sets the number of sentences of a generation.
    pub fn population(self, population: usize) -> Self {
        Self { population, ..self }
    }

    /// Sets the number of generations.
    pub fn generations(self, generations: usize) -> Self {
        Self { generations, ..self }
    }

    /// Sets the temperature.
    pub fn temperature(self, temperature: f64) -> Self {
        Self { temperature, ..self }
    }
}

/// A sentence and its score.
#[derive(Clone)]
struct Member {
    sentence: Sentence,
    score: f64,
}

impl TextSearch for Evolution {
    fn name(&self) -> String {
        "genetic".into()
    }

    fn check(&self) -> Result<()> {
        at_least_one("population, less the one that is kept,", self.population.saturating_sub(1))?;
        at_least_one("generations", self.generations)?;
        positive("temperature", self.temperature)
    }

    fn search<'s>(&'s self, space: &'s Space<'s>, oracle: &'s TextOracle) -> Walk<'s> {
        Box::pin(async move {
            let mut random = space.case.random().fork("evolution");
            let original = space.case.sentence().clone();
            let words = space.changeable(&original);
            let counts: Vec<f64> = words.iter().map(|word| space.candidates(&original, *word).len() as f64).collect();
            if counts.iter().all(|count| *count == 0.0) {
                return;
            }
            let weights = Weights { words, counts };
            let mut members = changed(space, oracle, &weights, vec![original; self.population], &mut random).await;
            for _ in 1..self.generations {
                let top = (0..members.len()).reduce(|a, b| if members[b].score > members[a].score { b } else { a });
                let Some(top) = top.map(|i| members[i].clone()) else { return };
                let highest = odds(top.score);
                let chances: Vec<f64> =
                    members.iter().map(|member| libm::exp((odds(member.score) - highest) / self.temperature)).collect();
                let mut parent = || draw(&chances, &mut random);
                let parents: Vec<[usize; 2]> = (1..self.population).map(|_| [parent(), parent()]).collect();
                let children = parents
                    .into_iter()
                    .map(|[a, b]| child(space, &members[a].sentence, &members[b].sentence, &mut random))
                    .collect();
                members = changed(space, oracle, &weights, children, &mut random).await;
                members.push(top);
            }
        })
    }
}

/// Words and their numbers of candidates.
struct Weights {
    words: Vec<usize>,
    counts: Vec<f64>,
}

/// Each sentence with one more word changed, to the best of its candidates; as it is where none may be.
async fn changed(
    space: &Space<'_>,
    oracle: &TextOracle,
    weights: &Weights,
    sentences: Vec<Sentence>,
    random: &mut Random,
) -> Vec<Member> {
    let mut candidates = |sentence: Sentence| {
        let chance = |(word, count): (&usize, &f64)| if space.may_change(&sentence, *word) { *count } else { 0.0 };
        let chances: Vec<f64> = weights.words.iter().zip(&weights.counts).map(chance).collect();
        let found = match chances.iter().any(|chance| *chance > 0.0) {
            true => space.candidates(&sentence, weights.words[draw(&chances, random)]),
            false => Vec::new(),
        };
        if found.is_empty() { vec![sentence] } else { found }
    };
    let candidates: Vec<Vec<Sentence>> = sentences.into_iter().map(&mut candidates).collect();
    let replies = oracle.candidates(candidates.concat()).await;
    let mut from = 0;
    let members = candidates.into_iter().filter_map(|candidates| {
        let replies = &replies[from..][..candidates.len()];
        from += candidates.len();
        best(replies).map(|i| Member { sentence: candidates[i].clone(), score: replies[i].score })
    });
    members.collect()
}

/// Each word from either parent; the first parent where the constraints refuse that.
fn child(space: &Space<'_>, a: &Sentence, b: &Sentence, random: &mut Random) -> Sentence {
    let mut changed: Vec<usize> = a.changed().chain(b.changed()).collect();
    changed.sort_unstable();
    changed.dedup();
    let mix = |child: Sentence, word: usize| match random.below(2) {
        0 => child,
        _ => child.replace_exactly(word, b.word(word)),
    };
    let child = changed.into_iter().fold(a.clone(), mix);
    if space.allows(&child) { child } else { a.clone() }
}

/// A place drawn in proportion to its chance.
fn draw(chances: &[f64], random: &mut Random) -> usize {
    let mut left = random.next_f64() * chances.iter().sum::<f64>();
    let last = chances.iter().rposition(|chance| *chance > 0.0).unwrap_or(0);
    for (place, chance) in chances.iter().enumerate().take(last) {
        left -= chance;
        if left < 0.0 {
            return place;
        }
    }
    last
}
