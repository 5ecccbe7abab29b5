//! Probability-weighted word saliency.

use std::sync::Arc;

use super::{Recipe, TextAttack, TextSetting};
use crate::attack::Walk;
use crate::error::Result;
use crate::text::constraint::{ChangeOnce, Constraint, StopWords};
use crate::text::engine::{TextCase, TextOracle};
use crate::text::search::WeightedSaliency;
use crate::text::thesaurus::Thesaurus;
use crate::text::transformation::Synonyms;

/// PWWS: replaces words by synonyms, those first whose best synonym gains much and that the prediction hangs on.
///
/// The order is that of [`WeightedSaliency`]; each word's synonym is the one that gains the most alone.
///
/// | parameter | default | range | effect |
/// |---|---|---|---|
/// | `thesaurus` | | | where synonyms come from: the paper's is [`WordNet`](crate::text::WordNet) |
/// | [`stop_words`](Self::stop_words) | those of English | | words that stay |
/// | [`constraint`](Self::constraint) | none | | more to be kept |
///
/// Cost: one query a word that may be changed, one a synonym, one a word that is changed.
///
/// S. Ren, Y. Deng, K. He, W. Che, "Generating natural language adversarial examples through probability weighted word saliency", ACL
/// 2019, algorithm 1. Deviations: named entities have no replacements of their own; the parts of speech of synonyms are those of the
/// thesaurus, add [`SamePartOfSpeech`](crate::text::SamePartOfSpeech) to compare them.
///
/// ```
/// use std::sync::Arc;
/// use adversarial::text::{MostChanged, Pwws, SynonymList};
///
/// let thesaurus = Arc::new(SynonymList::new([("good", "fine"), ("film", "movie")]));
/// let attack = Pwws::new(thesaurus).constraint(MostChanged::share(0.2));
/// # let _ = attack;
/// ```
#[derive(Clone)]
pub struct Pwws {
    thesaurus: Arc<dyn Thesaurus>,
    stop_words: StopWords,
    constraints: Vec<Arc<dyn Constraint>>,
}

impl Pwws {
    /// With the synonyms of a thesaurus.
    pub fn new(thesaurus: Arc<dyn Thesaurus>) -> Self {
        Self { thesaurus, stop_words: StopWords::english(), constraints: Vec::new() }
    }

    /// Sets the words that stay.
    pub fn stop_words(self, stop_words: StopWords) -> Self {
        Self { stop_words, ..self }
    }

    /// Adds what has to be kept.
    pub fn constraint(mut self, constraint: impl Constraint + 'static) -> Self {
        self.constraints.push(Arc::new(constraint));
        self
    }

    /// The parts.
    pub fn recipe(&self) -> Recipe {
        Recipe::new(self.name(), WeightedSaliency)
            .transformation(Synonyms::new(self.thesaurus.clone()))
            .constraint(self.stop_words.clone())
            .constraint(ChangeOnce)
            .constraints(&self.constraints)
    }
}

impl TextAttack for Pwws {
    fn name(&self) -> String {
        "PWWS".into()
    }

    fn check(&self, setting: &TextSetting) -> Result<()> {
        self.recipe().check(setting)
    }

    fn walk<'a>(&'a self, case: TextCase<'a>, oracle: TextOracle) -> Walk<'a> {
        self.recipe().into_walk(case, oracle)
    }
}
