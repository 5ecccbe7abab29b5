//! Attacks on text: classifiers of sentences, and how their predictions are turned without changing what a reader understands.
//!
//! | to | take |
//! |---|---|
//! | part a text into words | [`tokenise`], [`Vocabulary`] |
//! | have labelled sentences | [`Corpus`] |
//! | classify them with a Burn module | [`TextCnn`], [`GruClassifier`], your own [`TextModule`]; [`NeuralText`] |
//! | train it, with an adversary or without | [`training`] |
//! | train word vectors, and tell synonyms from antonyms | [`Ppmi`], [`CounterFitting`], [`Similarities`] |

mod classifier;
mod corpus;
mod files;
mod models;
mod neural;
mod opinions;
mod pairs;
pub mod training;
mod vocabulary;
mod word_vectors;

pub use classifier::{TextClassifier, TextGradients, TokenGradients};
pub use corpus::Corpus;
pub use files::Encoding;
pub use models::{Embedded, GruClassifier, GruClassifierConfig, TextCnn, TextCnnConfig, TextModule};
pub use neural::NeuralText;
pub use pairs::read_pairs;
pub use vocabulary::{Encoded, Token, Vocabulary, tokenise};
pub use word_vectors::{CounterFitting, Ppmi, Similarities, WordVectors};
