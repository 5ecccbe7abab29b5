//! Attacks on text: classifiers of sentences, and how their predictions are turned without changing what a reader understands.
//!
//! | to | take |
//! |---|---|
//! | part a text into words | [`tokenise`], [`Vocabulary`] |
//! | have labelled sentences | [`Corpus`] |
//! | classify them with a Burn module | [`TextCnn`], [`GruClassifier`], your own [`TextModule`]; [`NeuralText`] |
//! | train it, with an adversary or without | [`training`] |
//! | train word vectors, and tell synonyms from antonyms | [`Ppmi`], [`CounterFitting`], [`Similarities`] |
//! | make a model something to attack | [`TextClassifier`], with gradients [`TextGradients`] |
//! | attack with scores alone | [`DeepWordBug`], [`Homoglyphs`], [`Pwws`], [`TextFooler`], [`GeneticAttack`], [`BeamAttack`] |
//! | attack with gradients | [`HotFlip`], [`UniversalTrigger`] |
//! | set batch, budget and seed | [`TextEngine`] |
//! | put an attack together | [`Recipe`], of a [`TextSearch`], [`Transformation`]s and [`Constraint`]s |
//! | write one of your own | [`TextAttack`] |
//! | know synonyms | [`WordNet`], [`SynonymList`], your own [`Thesaurus`] |

mod attacks;
mod classifier;
mod constraint;
mod corpus;
mod engine;
mod files;
mod goal;
#[cfg(test)]
mod laws;
mod models;
mod neural;
mod opinions;
mod outcome;
mod pairs;
mod search;
mod sentence;
mod thesaurus;
pub mod training;
mod transformation;
mod vocabulary;
mod word_vectors;

pub use attacks::{
    BeamAttack, DeepWordBug, GeneticAttack, Homoglyphs, HotFlip, Pwws, Recipe, TextAttack, TextFooler, TextSetting,
    Trigger, TriggerReport, UniversalTrigger,
};
pub use classifier::{TextClassifier, TextGradients, TokenGradients};
pub use constraint::{
    ChangeOnce, Constraint, EditDistance, MostChanged, NoAntonyms, PartOfSpeech, PartOfSpeechTagger, Parts,
    SamePartOfSpeech, SentenceSimilarity, StopWords, SuffixTagger, WordSimilarity, levenshtein_within,
};
pub use corpus::Corpus;
pub use engine::{Reply, TextCase, TextEngine, TextOracle};
pub use files::Encoding;
pub use goal::TextGoal;
pub use models::{Embedded, GruClassifier, GruClassifierConfig, TextCnn, TextCnnConfig, TextModule};
pub use neural::NeuralText;
pub use outcome::{Prediction, SkipReason, TextAttacked, TextOutcome, TextStatus};
pub use pairs::read_pairs;
pub use search::{Beam, Evolution, Greedy, Importance, Space, TextSearch, WeightedSaliency};
pub use sentence::{Sentence, keep_case};
pub use thesaurus::{SynonymList, Thesaurus, WordNet};
pub use transformation::{
    DeleteCharacter, HomoglyphSubstitution, InsertCharacter, KeyboardTypo, NearestWords, Places, SubstituteCharacter,
    SwapCharacters, Synonyms, Transformation, homoglyphs, keyboard_neighbours,
};
pub use vocabulary::{Encoded, Token, Vocabulary, tokenise};
pub use word_vectors::{CounterFitting, Ppmi, Similarities, WordVectors};
