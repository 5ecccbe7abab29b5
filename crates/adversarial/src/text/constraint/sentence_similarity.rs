//! Sentences whose mean word vectors are near.

use std::collections::HashMap;
use std::sync::Arc;

use super::Constraint;
use super::word_similarity::{cosine, row};
use crate::error::{Error, Result};
use crate::text::{Sentence, WordVectors};

/// The mean of a changed sentence's word vectors has at least a cosine with that of the original.
///
/// `v(x) = Σᵢ weight(xᵢ) v(xᵢ)`, over the words that have a vector; a word's weight is 1, or
/// `a / (a + p(word))` with [`frequencies`](Self::frequencies), so that common words count less. A sentence whose words have no
/// vector at all is like any other.
///
/// It stands in for the sentence encoder of TextFooler, whose similarity it only approximates: it knows nothing of order, and a
/// negation moves it little. Thresholds of papers do not carry over.
///
/// Cost: one pass over the vectors of both sentences' words.
///
/// S. Arora, Y. Liang, T. Ma, "A simple but tough-to-beat baseline for sentence embeddings", ICLR 2017, without the removal of the
/// common component.
#[derive(Clone, Debug, PartialEq)]
pub struct SentenceSimilarity {
    vectors: Arc<WordVectors>,
    least: f64,
    /// The weight of each row; none where all are 1.
    weights: Option<Arc<[f64]>>,
}

impl SentenceSimilarity {
    /// A cosine of at least `least`.
    pub fn new(vectors: Arc<WordVectors>, least: f64) -> Self {
        Self { vectors, least, weights: None }
    }

    /// Weighs a word by `a / (a + p)`, with `p` its share of all the counts; the paper's `a` is 10⁻³. A word without a count
    /// weighs 1.
    ///
    /// # Errors
    /// [`Error::Parameter`] where `a` is not a finite number above 0.
    pub fn frequencies(self, counts: &HashMap<String, u64>, a: f64) -> Result<Self> {
        if !(a > 0.0 && a.is_finite()) {
            return Err(Error::Parameter { parameter: "a", value: a, bound: "a finite number above 0" });
        }
        let total = counts.values().sum::<u64>().max(1) as f64;
        let weight = |word: &String| a / (a + counts.get(word).copied().unwrap_or(0) as f64 / total);
        Ok(Self { weights: Some(self.vectors.words().iter().map(weight).collect()), ..self })
    }

    /// The cosine of a changed sentence and its original: 1 where nothing known has changed.
    pub fn cosine(&self, sentence: &Sentence) -> f64 {
        if sentence.changed().len() == 0 {
            return 1.0;
        }
        let mut before = vec![0.0; self.vectors.dimension()];
        let mut after = before.clone();
        for word in 0..sentence.len() {
            let original = row(&self.vectors, sentence.original_word(word));
            let now = if sentence.is_changed(word) { row(&self.vectors, sentence.word(word)) } else { original };
            self.add(&mut before, original);
            self.add(&mut after, now);
        }
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let norms = (dot(&before, &before) * dot(&after, &after)).sqrt();
        match norms > 0.0 {
            true => (dot(&before, &after) / norms).clamp(-1.0, 1.0),
            // Nothing is known of one of them: alike where nothing is known of both.
            false => f64::from(u8::from(before == after)),
        }
    }

    fn add(&self, sum: &mut [f64], row: Option<usize>) {
        let Some(row) = row else { return };
        let weight = self.weights.as_ref().map_or(1.0, |weights| weights[row]);
        sum.iter_mut().zip(self.vectors.vector(row)).for_each(|(sum, v)| *sum += weight * f64::from(*v));
    }
}

impl Constraint for SentenceSimilarity {
    fn name(&self) -> String {
        format!("cosine of sentences at least {}", self.least)
    }

    fn check(&self) -> Result<()> {
        cosine("least", self.least)
    }

    fn allows(&self, sentence: &Sentence) -> bool {
        self.cosine(sentence) >= self.least
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cosine_is_that_of_the_weighted_means() {
        let words = ["good", "film", "bad"].map(String::from).to_vec();
        let vectors = Arc::new(WordVectors::new(words, vec![1.0, 0.0, 0.0, 1.0, -1.0, 0.0]).unwrap());
        let plain = SentenceSimilarity::new(vectors, 0.5);
        let sentence = Sentence::new("Good film");
        let changed = sentence.replace(0, "bad");
        assert_eq!((plain.cosine(&sentence), plain.cosine(&changed)), (1.0, 0.0));
        // good and bad weigh 1/(1 + 0.1) and 1, film 1/(1 + 0.9).
        let counts = HashMap::from([("good".to_owned(), 1), ("film".to_owned(), 9)]);
        let weighed = plain.clone().frequencies(&counts, 1.0).unwrap();
        let (good, film, bad) = (1.0 / 1.1f64, 1.0 / 1.9f64, 1.0f64);
        let expected = (film * film - good * bad) / ((good.hypot(film)) * bad.hypot(film));
        assert!((weighed.cosine(&changed) - expected).abs() < 1e-12);
        assert_eq!(plain.cosine(&Sentence::new("x y").replace(0, "z")), 1.0);
        assert!(plain.allows(&sentence) && !plain.allows(&changed));
        assert!(plain.clone().frequencies(&counts, 0.0).is_err());
    }
}
