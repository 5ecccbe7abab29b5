//! TextFooler.

use std::sync::Arc;

use super::{Recipe, TextAttack, TextSetting};
use crate::attack::Walk;
use crate::error::Result;
use crate::text::WordVectors;
use crate::text::constraint::{
    ChangeOnce, Constraint, PartOfSpeechTagger, SamePartOfSpeech, SentenceSimilarity, StopWords, SuffixTagger,
};
use crate::text::engine::{TextCase, TextOracle};
use crate::text::search::{Greedy, Importance};
use crate::text::transformation::NearestWords;

/// TextFooler: replaces the words that matter most by words of near vectors, where the sentence stays similar.
///
/// Words by falling [`Importance::DeleteOneOrTurn`]; candidates of a word are its nearest by cosine of the same part of speech;
/// among those that turn the prediction the one of the most similar sentence is taken, else the one that lowers the label's
/// probability most is kept and the next word follows.
///
/// | parameter | default | range | effect |
/// |---|---|---|---|
/// | `vectors` | | | the paper's are counter-fitted, which keep antonyms apart |
/// | [`candidates`](Self::candidates) | 50 | ≥ 1 | nearest words looked at |
/// | [`least_cosine`](Self::least_cosine) | 0.5 | −1 to 1 | of a word and its replacement |
/// | [`least_similarity`](Self::least_similarity) | 0.7 | −1 to 1 | of the sentences, see [`SentenceSimilarity`] |
/// | [`tagger`](Self::tagger) | [`SuffixTagger`] | | tells parts of speech; [`WordNet`](crate::text::WordNet) does better |
/// | [`stop_words`](Self::stop_words) | those of English | | words that stay |
/// | [`constraint`](Self::constraint) | none | | more to be kept |
///
/// Cost: one query a word that may be changed, and one a candidate of each word gone through.
///
/// Errors: [`Error::Parameter`](crate::Error::Parameter).
///
/// D. Jin, Z. Jin, J. T. Zhou, P. Szolovits, "Is BERT really robust? A strong baseline for natural language attack on text classification
/// and entailment", AAAI 2020, arXiv:1907.11932, algorithm 1. Deviations: sentences are compared by their mean word vectors, not by the
/// Universal Sentence Encoder, so that the paper's threshold means something else here; parts of speech are those a word can have, not the
/// one it has in the sentence.
///
/// ```
/// use std::sync::Arc;
/// use adversarial::text::{TextFooler, WordVectors};
///
/// let words = ["good", "fine", "bad"].map(String::from).to_vec();
/// let vectors = Arc::new(WordVectors::new(words, vec![1.0, 0.0, 0.8, 0.6, -1.0, 0.0])?);
/// let attack = TextFooler::new(vectors).least_similarity(0.8);
/// # let _ = attack;
/// # Ok::<(), adversarial::Error>(())
/// ```
#[derive(Clone)]
pub struct TextFooler {
    nearest: NearestWords,
    vectors: Arc<WordVectors>,
    candidates: usize,
    least_cosine: f64,
    least_similarity: f64,
    tagger: Arc<dyn PartOfSpeechTagger>,
    stop_words: StopWords,
    constraints: Vec<Arc<dyn Constraint>>,
}

impl TextFooler {
    /// With the paper's parameters.
    pub fn new(vectors: Arc<WordVectors>) -> Self {
        Self {
            nearest: NearestWords::new(vectors.clone(), 50).least(0.5),
            vectors,
            candidates: 50,
            least_cosine: 0.5,
            least_similarity: 0.7,
            tagger: Arc::new(SuffixTagger),
            stop_words: StopWords::english(),
            constraints: Vec::new(),
        }
    }

    /// Sets the number of nearest words looked at.
    pub fn candidates(self, candidates: usize) -> Self {
        let nearest = NearestWords::new(self.vectors.clone(), candidates).least(self.least_cosine);
        Self { candidates, nearest, ..self }
    }

    /// Sets the least cosine of a word and its replacement.
    pub fn least_cosine(self, least_cosine: f64) -> Self {
        let nearest = NearestWords::new(self.vectors.clone(), self.candidates).least(least_cosine);
        Self { least_cosine, nearest, ..self }
    }

    /// Sets the least cosine of the sentences.
    pub fn least_similarity(self, least_similarity: f64) -> Self {
        Self { least_similarity, ..self }
    }

    /// Sets what tells parts of speech.
    pub fn tagger(self, tagger: Arc<dyn PartOfSpeechTagger>) -> Self {
        Self { tagger, ..self }
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
        let similarity = SentenceSimilarity::new(self.vectors.clone(), self.least_similarity);
        Recipe::new(self.name(), Greedy::new(Importance::DeleteOneOrTurn).prefer(similarity.clone()))
            .transformation(self.nearest.clone())
            .constraint(self.stop_words.clone())
            .constraint(ChangeOnce)
            .constraint(SamePartOfSpeech::new(self.tagger.clone()))
            .constraint(similarity)
            .constraints(&self.constraints)
    }
}

impl TextAttack for TextFooler {
    fn name(&self) -> String {
        "TextFooler".into()
    }

    fn check(&self, setting: &TextSetting) -> Result<()> {
        self.recipe().check(setting)
    }

    fn walk<'a>(&'a self, case: TextCase<'a>, oracle: TextOracle) -> Walk<'a> {
        self.recipe().into_walk(case, oracle)
    }
}
