//! What an attack on text asks of a model.

use std::ops::Range;

use crate::error::Result;
use crate::text::WordVectors;

/// A classifier of texts, as an attacker without gradients sees it. It tokenises by itself; any model can be one.
pub trait TextClassifier: Sync {
    /// Number of classes.
    fn classes(&self) -> usize;

    /// The logits of every text, `texts × classes`. One evaluation of a batch: a text's logits depend on that text alone.
    ///
    /// # Errors
    /// Those of the model; a text without any word is one of them where the model cannot take it.
    fn logits(&self, texts: &[&str]) -> Result<Vec<Vec<f64>>>;
}

/// A classifier that also tells how its logits change with the vectors of a text's words.
pub trait TextGradients: TextClassifier {
    /// For every text the derivative of `Σ_k cotangent_k · logit_k` with respect to the vector of each token, where
    /// `cotangents(i, logits)` is that of text `i`, given its logits. One forward and one backward pass.
    ///
    /// # Errors
    /// Those of the model.
    fn gradients(&self, texts: &[&str], cotangents: &dyn Fn(usize, &[f64]) -> Vec<f64>) -> Result<Vec<TokenGradients>>;

    /// The vectors of the words the model knows: the rows of its embedding.
    fn word_vectors(&self) -> &WordVectors;
}

/// What the vectors of a text's tokens do to a sum of its logits.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenGradients {
    /// The text's logits.
    pub logits: Vec<f64>,
    /// Where each token that the model sees lies in the text, in bytes.
    pub tokens: Vec<Range<usize>>,
    /// The token's row in [`TextGradients::word_vectors`]; `None` for a word the model does not know.
    pub rows: Vec<Option<usize>>,
    /// The derivative with respect to each token's vector.
    pub gradients: Vec<Vec<f32>>,
}
