//! Words whose vectors are near.

use std::sync::Arc;

use super::Constraint;
use crate::error::{Error, Result};
use crate::text::{Sentence, WordVectors};

/// The vector of a changed word has at least a cosine with that of the original word. Words are looked up as they are, then in
/// small letters; a word without a vector is refused.
///
/// How alike words of a cosine are depends on the vectors: those made from contexts alone put `good` beside `bad`.
#[derive(Clone, Debug, PartialEq)]
pub struct WordSimilarity {
    vectors: Arc<WordVectors>,
    least: f64,
}

impl WordSimilarity {
    /// A cosine of at least `least`.
    pub fn new(vectors: Arc<WordVectors>, least: f64) -> Self {
        Self { vectors, least }
    }
}

impl Constraint for WordSimilarity {
    fn name(&self) -> String {
        format!("cosine of words at least {}", self.least)
    }

    fn check(&self) -> Result<()> {
        cosine("least", self.least)
    }

    fn may_change(&self, sentence: &Sentence, word: usize) -> bool {
        row(&self.vectors, sentence.original_word(word)).is_some()
    }

    fn allows(&self, sentence: &Sentence) -> bool {
        sentence.changed().all(|word| {
            let rows = (row(&self.vectors, sentence.original_word(word)), row(&self.vectors, sentence.word(word)));
            matches!(rows, (Some(a), Some(b)) if self.vectors.cosine_of_rows(a, b) >= self.least)
        })
    }
}

/// The row of a word as it is, or else in small letters.
pub(in crate::text) fn row(vectors: &WordVectors, word: &str) -> Option<usize> {
    vectors.row(word).or_else(|| vectors.row(&word.to_lowercase()))
}

/// Refuses what is no cosine.
pub(in crate::text) fn cosine(parameter: &'static str, value: f64) -> Result<()> {
    match (-1.0..=1.0).contains(&value) {
        true => Ok(()),
        false => Err(Error::Parameter { parameter, value, bound: "a cosine, from -1 to 1" }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_as_near_as_their_vectors() {
        let words = ["good", "fine", "bad"].map(String::from).to_vec();
        let vectors = Arc::new(WordVectors::new(words, vec![1.0, 0.0, 0.8, 0.6, -1.0, 0.0]).unwrap());
        let similar = WordSimilarity::new(vectors, 0.5);
        let sentence = Sentence::new("Good film");
        assert!(similar.may_change(&sentence, 0) && !similar.may_change(&sentence, 1));
        assert!(similar.allows(&sentence) && similar.allows(&sentence.replace(0, "fine")));
        assert!(!similar.allows(&sentence.replace(0, "bad")) && !similar.allows(&sentence.replace(0, "unheard")));
        assert!(WordSimilarity { least: 1.5, ..similar.clone() }.check().is_err());
        assert!(WordSimilarity { least: f64::NAN, ..similar }.check().is_err());
    }
}
