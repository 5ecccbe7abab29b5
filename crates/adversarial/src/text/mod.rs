//! Attacks on text: classifiers of sentences, and how their predictions are turned without changing what a reader understands.

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
pub use word_vectors::WordVectors;
