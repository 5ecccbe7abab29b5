//! Words and a vector for each.

mod counter_fitting;
mod ppmi;
mod simlex;
mod sparse;

use std::collections::HashMap;

use crate::error::{Error, Result};

pub use counter_fitting::CounterFitting;
pub use ppmi::Ppmi;
pub use simlex::Similarities;

/// Words and a vector for each, all of one length.
///
/// Cost: the vectors once, and their norms.
///
/// ```
/// use adversarial::text::WordVectors;
///
/// let words = ["good", "fine", "bad"].map(String::from).to_vec();
/// let vectors = WordVectors::new(words, vec![1.0, 0.0, 0.8, 0.6, -1.0, 0.0])?;
/// assert_eq!(vectors.dimension(), 2);
/// assert_eq!(vectors.cosine("good", "bad"), Some(-1.0));
/// assert_eq!(vectors.nearest("good", 1)[0].0, "fine");
/// assert_eq!(vectors.cosine("good", "unheard"), None);
/// # Ok::<(), adversarial::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct WordVectors {
    words: Vec<String>,
    rows: HashMap<String, usize>,
    vectors: Vec<f32>,
    norms: Vec<f64>,
    dimension: usize,
}

impl WordVectors {
    /// The vectors of `words`, row by row, row-major.
    ///
    /// # Errors
    /// [`Error::Shape`] where there is no word or `vectors` is not the same number of values for each, [`Error::Word`] for a word
    /// given twice or a value that is not finite.
    pub fn new(words: Vec<String>, vectors: Vec<f32>) -> Result<Self> {
        let count = words.len();
        if count == 0 || vectors.is_empty() || !vectors.len().is_multiple_of(count) {
            return Err(Error::Shape {
                what: "word vectors",
                actual: vec![vectors.len()],
                expected: format!("as many values, at least one, for each of {count} words"),
            });
        }
        let dimension = vectors.len() / count;
        let mut rows = HashMap::with_capacity(count);
        for (row, word) in words.iter().enumerate() {
            if rows.insert(word.clone(), row).is_some() {
                return Err(Error::Word { word: word.clone(), problem: "it has two vectors" });
            }
        }
        let norms: Vec<f64> = vectors.chunks(dimension).map(|vector| dot(vector, vector).sqrt()).collect();
        if let Some(row) = norms.iter().position(|norm| !norm.is_finite()) {
            return Err(Error::Word { word: words[row].clone(), problem: "its vector is not finite" });
        }
        Ok(Self { words, rows, vectors, norms, dimension })
    }

    /// Number of words.
    pub fn len(&self) -> usize {
        self.words.len()
    }

    /// Never: there is at least one word.
    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// Length of each vector.
    pub fn dimension(&self) -> usize {
        self.dimension
    }

    /// The words, in the order of their rows.
    pub fn words(&self) -> &[String] {
        &self.words
    }

    /// The row of a word.
    pub fn row(&self, word: &str) -> Option<usize> {
        self.rows.get(word).copied()
    }

    /// The vector of a row.
    ///
    /// # Panics
    /// Where there is no such row.
    pub fn vector(&self, row: usize) -> &[f32] {
        &self.vectors[row * self.dimension..][..self.dimension]
    }

    /// All vectors, row by row.
    pub fn vectors(&self) -> &[f32] {
        &self.vectors
    }

    /// The cosine of the angle between the vectors of two words: 1 for the same direction; 0 where one of them is zero; `None`
    /// for a word without a vector.
    pub fn cosine(&self, a: &str, b: &str) -> Option<f64> {
        Some(self.cosine_of_rows(self.row(a)?, self.row(b)?))
    }

    /// The `count` words of the largest cosine with `word`, which is none of them, best first. None for a word without a vector.
    /// Cost: one pass over all vectors.
    pub fn nearest(&self, word: &str, count: usize) -> Vec<(&str, f64)> {
        let Some(row) = self.row(word) else { return Vec::new() };
        let mut found: Vec<(&str, f64)> = (0..self.len())
            .filter(|other| *other != row)
            .map(|other| (self.words[other].as_str(), self.cosine_of_rows(row, other)))
            .collect();
        let count = count.min(found.len());
        if count < found.len() && count > 0 {
            found.select_nth_unstable_by(count - 1, by_cosine);
        }
        found.truncate(count);
        found.sort_by(by_cosine);
        found
    }

    /// The cosine of the vectors of two rows.
    pub(crate) fn cosine_of_rows(&self, a: usize, b: usize) -> f64 {
        let norms = self.norms[a] * self.norms[b];
        if norms > 0.0 { (dot(self.vector(a), self.vector(b)) / norms).clamp(-1.0, 1.0) } else { 0.0 }
    }
}

/// Largest cosine first, then by word, so that the order is always the same.
fn by_cosine(a: &(&str, f64), b: &(&str, f64)) -> std::cmp::Ordering {
    b.1.total_cmp(&a.1).then(a.0.cmp(b.0))
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn neighbours_are_by_cosine_and_ties_by_word() {
        let vectors =
            WordVectors::new(words(&["a", "d", "c", "b", "zero"]), vec![1., 0., 2., 2., 1., 1., 0., 1., 0., 0.])
                .unwrap();
        let found: Vec<&str> = vectors.nearest("a", 10).into_iter().map(|(word, _)| word).collect();
        assert_eq!(found, ["c", "d", "b", "zero"]);
        assert_eq!(vectors.nearest("a", 1)[0].0, "c");
        assert!(vectors.nearest("a", 0).is_empty() && vectors.nearest("unheard", 3).is_empty());
        assert_eq!(vectors.cosine("a", "zero"), Some(0.0));
    }

    #[test]
    fn bad_vectors_are_named() {
        let error =
            |given: &[&str], vectors: Vec<f32>| WordVectors::new(words(given), vectors).unwrap_err().to_string();
        assert!(error(&[], vec![]).contains("0 words"));
        assert!(error(&["a", "b"], vec![1.0, 2.0, 3.0]).contains("has shape [3]"));
        assert!(error(&["a", "a"], vec![1.0, 2.0]).contains("\"a\": it has two vectors"));
        assert!(error(&["a", "b"], vec![1.0, f32::NAN]).contains("\"b\": its vector is not finite"));
    }
}
