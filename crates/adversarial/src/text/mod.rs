//! Attacks on text: classifiers of sentences, and how their predictions are turned without changing what a reader understands.

mod classifier;
mod word_vectors;

pub use classifier::{TextClassifier, TextGradients, TokenGradients};
pub use word_vectors::WordVectors;
