//! Homoglyphs.

use std::sync::Arc;

use super::{Recipe, TextAttack, TextSetting};
use crate::attack::Walk;
use crate::error::Result;
use crate::text::constraint::{ChangeOnce, Constraint, MostChanged};
use crate::text::engine::{TextCase, TextOracle};
use crate::text::search::{Greedy, Importance};
use crate::text::transformation::{HomoglyphSubstitution, Places};

/// Homoglyphs: a letter of another script that looks the same, in the words that matter most. The reader sees no difference; a
/// model that does not normalise its input sees unknown words.
///
/// | parameter | default | range | effect |
/// |---|---|---|---|
/// | [`most_words`](Self::most_words) | 5 | ≥ 0 | words with a letter replaced |
/// | [`importance`](Self::importance) | an unknown word instead | | which words first |
/// | [`places`](Self::places) | random | | one letter of a word, or with [`Places::All`] the best of all |
/// | [`constraint`](Self::constraint) | none | | more to be kept |
///
/// Cost: one query a word for the importance, one a candidate.
///
/// N. Boucher, I. Shumailov, R. Anderson, N. Papernot, "Bad characters: imperceptible NLP attacks", IEEE S&P 2022, arXiv:2106.09898.
/// Deviation: the paper looks for places by differential evolution; for a classifier of words the importance finds them with fewer
/// queries.
///
/// ```
/// use adversarial::text::Homoglyphs;
///
/// let attack = Homoglyphs::new().most_words(2);
/// # let _ = attack;
/// ```
#[derive(Clone)]
pub struct Homoglyphs {
    most_words: usize,
    importance: Importance,
    places: Places,
    constraints: Vec<Arc<dyn Constraint>>,
}

impl Default for Homoglyphs {
    fn default() -> Self {
        Self::new()
    }
}

impl Homoglyphs {
    /// In five words at most.
    pub fn new() -> Self {
        Self { most_words: 5, importance: Importance::Unknown, places: Places::Random, constraints: Vec::new() }
    }

    /// Sets the number of words that may be changed.
    pub fn most_words(self, most_words: usize) -> Self {
        Self { most_words, ..self }
    }

    /// Sets which words come first.
    pub fn importance(self, importance: Importance) -> Self {
        Self { importance, ..self }
    }

    /// Sets where in a word letters are replaced.
    pub fn places(self, places: Places) -> Self {
        Self { places, ..self }
    }

    /// Adds what has to be kept.
    pub fn constraint(mut self, constraint: impl Constraint + 'static) -> Self {
        self.constraints.push(Arc::new(constraint));
        self
    }

    /// The parts.
    pub fn recipe(&self) -> Recipe {
        Recipe::new(self.name(), Greedy::new(self.importance))
            .transformation(HomoglyphSubstitution::new(self.places))
            .constraint(ChangeOnce)
            .constraint(MostChanged::words(self.most_words))
            .constraints(&self.constraints)
    }
}

impl TextAttack for Homoglyphs {
    fn name(&self) -> String {
        "homoglyphs".into()
    }

    fn needs_gradients(&self) -> bool {
        self.importance == Importance::Gradient
    }

    fn check(&self, setting: &TextSetting) -> Result<()> {
        self.recipe().check(setting)
    }

    fn walk<'a>(&'a self, case: TextCase<'a>, oracle: TextOracle) -> Walk<'a> {
        self.recipe().into_walk(case, oracle)
    }
}
