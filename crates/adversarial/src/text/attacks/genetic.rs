//! The genetic attack.

use std::sync::Arc;

use super::{Recipe, TextAttack, TextSetting};
use crate::attack::Walk;
use crate::error::Result;
use crate::text::WordVectors;
use crate::text::constraint::{Constraint, MostChanged, StopWords};
use crate::text::engine::{TextCase, TextOracle};
use crate::text::search::Evolution;
use crate::text::transformation::{NearestWords, Transformation};

/// The genetic attack: a population of sentences with words replaced by near ones, bred until one reaches the goal. It finds
/// combinations that word by word searches miss, for many queries.
///
/// | parameter | default | range | effect |
/// |---|---|---|---|
/// | `vectors` | | | the paper's are counter-fitted, which keep antonyms apart |
/// | [`transformation`](Self::transformation) | the 8 nearest words of a cosine of 0.5 | | what may become of a word |
/// | [`evolution`](Self::evolution) | population 60, 20 generations | | see [`Evolution`] |
/// | [`most_changed`](Self::most_changed) | 0.2 | 0 < share ≤ 1 | share of the words that may be changed |
/// | [`stop_words`](Self::stop_words) | those of English | | words that stay |
/// | [`constraint`](Self::constraint) | none | | more to be kept |
///
/// Cost: at most population × generations × candidates of a word queries.
///
/// Errors: [`Error::Parameter`](crate::Error::Parameter).
///
/// M. Alzantot, Y. Sharma, A. Elgohary, B.-J. Ho, M. Srivastava, K.-W. Chang, "Generating natural language adversarial examples", EMNLP 2018,
/// arXiv:1804.07998, algorithm 1. Deviations: no language model chooses among the nearest words; nearness is the cosine, the paper's
/// a Euclidean distance of 0.5.
///
/// ```
/// use std::sync::Arc;
/// use adversarial::text::{Evolution, GeneticAttack, WordVectors};
///
/// let words = ["good", "fine", "bad"].map(String::from).to_vec();
/// let vectors = Arc::new(WordVectors::new(words, vec![1.0, 0.0, 0.8, 0.6, -1.0, 0.0])?);
/// let attack = GeneticAttack::new(vectors).evolution(Evolution::new().population(20));
/// # let _ = attack;
/// # Ok::<(), adversarial::Error>(())
/// ```
#[derive(Clone)]
pub struct GeneticAttack {
    transformation: Arc<dyn Transformation>,
    evolution: Evolution,
    most_changed: f64,
    stop_words: StopWords,
    constraints: Vec<Arc<dyn Constraint>>,
}

impl GeneticAttack {
    /// With the paper's parameters.
    pub fn new(vectors: Arc<WordVectors>) -> Self {
        Self {
            transformation: Arc::new(NearestWords::new(vectors, 8).least(0.5)),
            evolution: Evolution::new(),
            most_changed: 0.2,
            stop_words: StopWords::english(),
            constraints: Vec::new(),
        }
    }

    /// Sets what may become of a word.
    pub fn transformation(self, transformation: impl Transformation + 'static) -> Self {
        Self { transformation: Arc::new(transformation), ..self }
    }

    /// Sets how sentences are bred.
    pub fn evolution(self, evolution: Evolution) -> Self {
        Self { evolution, ..self }
    }

    /// Sets the share of the words that may be changed.
    pub fn most_changed(self, most_changed: f64) -> Self {
        Self { most_changed, ..self }
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
        Recipe::new(self.name(), self.evolution)
            .shared_transformation(self.transformation.clone())
            .constraint(self.stop_words.clone())
            .constraint(MostChanged::share(self.most_changed))
            .constraints(&self.constraints)
    }
}

impl TextAttack for GeneticAttack {
    fn name(&self) -> String {
        "genetic".into()
    }

    fn check(&self, setting: &TextSetting) -> Result<()> {
        self.recipe().check(setting)
    }

    fn walk<'a>(&'a self, case: TextCase<'a>, oracle: TextOracle) -> Walk<'a> {
        self.recipe().into_walk(case, oracle)
    }
}
