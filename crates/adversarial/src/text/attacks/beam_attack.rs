//! Synonyms by beam search.

use std::sync::Arc;

use super::{Recipe, TextAttack, TextSetting};
use crate::attack::Walk;
use crate::error::Result;
use crate::text::constraint::{ChangeOnce, Constraint, MostChanged, StopWords};
use crate::text::engine::{TextCase, TextOracle};
use crate::text::search::Beam;
use crate::text::transformation::Transformation;

/// Beam attack: tries every candidate of every word, keeps the best few sentences, and goes on from these. The strongest of the attacks
/// without gradients where few words may be changed, and the dearest.
///
/// | parameter | default | range | effect |
/// |---|---|---|---|
/// | `transformation` | | | what may become of a word: [`Synonyms`](crate::text::Synonyms), [`NearestWords`](crate::text::NearestWords), … |
/// | [`width`](Self::width) | 5 | ≥ 1 | sentences that go on |
/// | [`most_words`](Self::most_words) | 3 | ≥ 0 | words changed at most |
/// | [`stop_words`](Self::stop_words) | those of English | | words that stay |
/// | [`constraint`](Self::constraint) | none | | more to be kept |
///
/// Cost: at most `width` queries a candidate of every word, for each word that is changed.
///
/// ```
/// use std::sync::Arc;
/// use adversarial::text::{BeamAttack, SynonymList, Synonyms};
///
/// let thesaurus = Arc::new(SynonymList::new([("good", "fine"), ("film", "movie")]));
/// let attack = BeamAttack::new(Synonyms::new(thesaurus)).width(3);
/// # let _ = attack;
/// ```
#[derive(Clone)]
pub struct BeamAttack {
    transformation: Arc<dyn Transformation>,
    width: usize,
    most_words: usize,
    stop_words: StopWords,
    constraints: Vec<Arc<dyn Constraint>>,
}

impl BeamAttack {
    /// With the defaults.
    pub fn new(transformation: impl Transformation + 'static) -> Self {
        let transformation = Arc::new(transformation);
        Self { transformation, width: 5, most_words: 3, stop_words: StopWords::english(), constraints: Vec::new() }
    }

    /// Sets how many sentences go on.
    pub fn width(self, width: usize) -> Self {
        Self { width, ..self }
    }

    /// Sets how many words may be changed.
    pub fn most_words(self, most_words: usize) -> Self {
        Self { most_words, ..self }
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
        Recipe::new(self.name(), Beam::new(self.width))
            .shared_transformation(self.transformation.clone())
            .constraint(self.stop_words.clone())
            .constraint(ChangeOnce)
            .constraint(MostChanged::words(self.most_words))
            .constraints(&self.constraints)
    }
}

impl TextAttack for BeamAttack {
    fn name(&self) -> String {
        format!("beam-{}", self.width)
    }

    fn check(&self, setting: &TextSetting) -> Result<()> {
        self.recipe().check(setting)
    }

    fn walk<'a>(&'a self, case: TextCase<'a>, oracle: TextOracle) -> Walk<'a> {
        self.recipe().into_walk(case, oracle)
    }
}
