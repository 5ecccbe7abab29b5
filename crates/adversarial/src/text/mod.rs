//! Attacks on text: classifiers of sentences, and how their predictions are turned without changing what a reader understands.
//!
//! | to | take |
//! |---|---|
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
mod engine;
mod goal;
#[cfg(test)]
mod laws;
mod outcome;
mod search;
mod sentence;
mod thesaurus;
mod transformation;
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
