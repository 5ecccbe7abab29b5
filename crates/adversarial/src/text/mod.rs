//! Attacks on text: classifiers of sentences, and how their predictions are turned without changing what a reader understands.
//!
//! | to | take |
//! |---|---|
<<<<<<< HEAD
//! | part a text into words | [`tokenise`], [`Vocabulary`] |
//! | have labelled sentences | [`Corpus`] |
//! | classify them with a Burn module | [`TextCnn`], [`GruClassifier`], your own [`TextModule`]; [`NeuralText`] |
//! | train it, with an adversary or without | [`training`] |
//! | train word vectors, and tell synonyms from antonyms | [`Ppmi`], [`CounterFitting`], [`Similarities`] |
=======
//! | make a model something to attack | [`TextClassifier`], with gradients [`TextGradients`] |
//! | attack with scores alone | [`DeepWordBug`], [`Homoglyphs`], [`Pwws`], [`TextFooler`], [`GeneticAttack`], [`BeamAttack`] |
//! | attack with gradients | [`HotFlip`], [`UniversalTrigger`] |
//! | set batch, budget and seed | [`TextEngine`] |
//! | put an attack together | [`Recipe`], of a [`TextSearch`], [`Transformation`]s and [`Constraint`]s |
//! | write one of your own | [`TextAttack`] |
//! | know synonyms | [`WordNet`], [`SynonymList`], your own [`Thesaurus`] |
>>>>>>> textattack

mod attacks;
mod classifier;
<<<<<<< HEAD
mod corpus;
mod files;
mod models;
mod neural;
mod opinions;
mod pairs;
pub mod training;
mod vocabulary;
=======
mod constraint;
mod engine;
mod goal;
#[cfg(test)]
mod laws;
mod outcome;
mod search;
mod sentence;
mod thesaurus;
mod transformation;
>>>>>>> textattack
mod word_vectors;

pub use attacks::{
    BeamAttack, DeepWordBug, GeneticAttack, Homoglyphs, HotFlip, Pwws, Recipe, TextAttack, TextFooler, TextSetting,
    Trigger, TriggerReport, UniversalTrigger,
};
pub use classifier::{TextClassifier, TextGradients, TokenGradients};
<<<<<<< HEAD
pub use corpus::Corpus;
pub use files::Encoding;
pub use models::{Embedded, GruClassifier, GruClassifierConfig, TextCnn, TextCnnConfig, TextModule};
pub use neural::NeuralText;
pub use pairs::read_pairs;
pub use vocabulary::{Encoded, Token, Vocabulary, tokenise};
pub use word_vectors::{CounterFitting, Ppmi, Similarities, WordVectors};
=======
pub use constraint::{
    ChangeOnce, Constraint, EditDistance, MostChanged, NoAntonyms, PartOfSpeech, PartOfSpeechTagger, Parts,
    SamePartOfSpeech, SentenceSimilarity, StopWords, SuffixTagger, WordSimilarity, levenshtein_within,
};
pub use engine::{Reply, TextCase, TextEngine, TextOracle};
pub use goal::TextGoal;
pub use outcome::{Prediction, SkipReason, TextAttacked, TextOutcome, TextStatus};
pub use search::{Beam, Evolution, Greedy, Importance, Space, TextSearch, WeightedSaliency};
pub use sentence::{Sentence, keep_case};
pub use thesaurus::{SynonymList, Thesaurus, WordNet};
pub use transformation::{
    DeleteCharacter, HomoglyphSubstitution, InsertCharacter, KeyboardTypo, NearestWords, Places, SubstituteCharacter,
    SwapCharacters, Synonyms, Transformation, homoglyphs, keyboard_neighbours,
};
pub use word_vectors::WordVectors;
>>>>>>> textattack
