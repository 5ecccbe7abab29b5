//! Word vectors from how often words stand near each other.

use std::collections::HashMap;

use core_tensor::Random;
use rayon::prelude::*;

use super::WordVectors;
use super::sparse::{Sparse, leading_vectors};
use crate::attack::check::{at_least_one, not_negative, positive};
use crate::error::{Error, Result};
use crate::text::Vocabulary;

/// Word vectors from positive pointwise mutual information and a truncated singular value decomposition: seconds for ten thousand
/// sentences, where predictive methods have too little to learn from.
///
/// ```text
/// PPMI(w, c) = max(0, log(#(w,c) · Σ#(·)^a / (#(w) · #(c)^a)) − log k),   PPMI ≈ U_d Σ_d V_dᵀ,   vectors U_d Σ_d^p
/// ```
///
/// `#(w,c)` counts how often `c` stands within `window` words of `w`, each pair `1/distance`; words that are not in the vocabulary keep their place
/// but are not counted.
///
/// | parameter | default | range | effect |
/// |---|---|---|---|
/// | `dimension` | – | `≥ 1`, at most the number of words | `d`, length of a vector |
/// | [`window`](Self::window) | 5 | `≥ 1` | words on each side |
/// | [`smoothing`](Self::smoothing) | 0.75 | `[0, ∞)` | `a`: below 1 rare contexts weigh less |
/// | [`shift`](Self::shift) | 1 | `(0, ∞)` | `k`: above 1 only stronger associations are kept |
/// | [`power`](Self::power) | 0.5 | `[0, ∞)` | `p`: how much the leading directions count |
/// | [`seed`](Self::seed) | 0 | | start of the decomposition |
///
/// Guarantees: the same texts and settings give the same vectors bit for bit, on any number of threads (`vectors_are_seeded`); the decomposition is
/// that of a dense solver on small matrices (`leading_vectors_are_those_of_the_matrix`).
///
/// Cost: ten products of the sparse matrix with `d + 10` vectors, five orthogonalisations of `words × (d + 10)`; memory for the pairs that occur.
///
/// O. Levy, Y. Goldberg, I. Dagan, "Improving distributional similarity with lessons learned from word embeddings", TACL 2015, sections 2 and 3;
/// the decomposition is by N. Halko, P. G. Martinsson, J. A. Tropp, "Finding structure with randomness", 2011, arXiv:0909.4061, algorithms 4.4 and 5.1.
/// Deviation: pairs count by distance as in GloVe.
///
/// ```
/// use adversarial::text::{Corpus, Ppmi, Vocabulary};
///
/// let corpus = Corpus::opinions(1000, 1)?;
/// let vocabulary = Vocabulary::build(corpus.texts(), 5, 10_000)?;
/// let vectors = Ppmi::new(20)?.train(corpus.texts(), &vocabulary)?;
/// assert_eq!((vectors.len(), vectors.dimension()), (vocabulary.words().len(), 20));
/// // Films are told apart less than a film and a sister.
/// assert!(vectors.cosine("film", "movie") > vectors.cosine("film", "sister"));
/// # Ok::<(), adversarial::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Ppmi {
    dimension: usize,
    window: usize,
    smoothing: f64,
    shift: f64,
    power: f64,
    seed: u64,
}

impl Ppmi {
    /// Vectors of this length, with the settings of the table.
    ///
    /// # Errors
    /// [`Error::Parameter`] for 0.
    pub fn new(dimension: usize) -> Result<Self> {
        at_least_one("dimension", dimension)?;
        Ok(Self { dimension, window: 5, smoothing: 0.75, shift: 1.0, power: 0.5, seed: 0 })
    }

    /// Words on each side, `window`.
    ///
    /// # Errors
    /// [`Error::Parameter`] for 0.
    pub fn window(self, window: usize) -> Result<Self> {
        at_least_one("window", window)?;
        Ok(Self { window, ..self })
    }

    /// Power of the contexts' counts, `a`.
    ///
    /// # Errors
    /// [`Error::Parameter`] for a negative number or one that is not finite.
    pub fn smoothing(self, smoothing: f64) -> Result<Self> {
        not_negative("smoothing", smoothing)?;
        Ok(Self { smoothing, ..self })
    }

    /// `k`, whose logarithm is taken off.
    ///
    /// # Errors
    /// [`Error::Parameter`] unless it is above zero and finite.
    pub fn shift(self, shift: f64) -> Result<Self> {
        positive("shift", shift)?;
        Ok(Self { shift, ..self })
    }

    /// Power of the singular values, `p`.
    ///
    /// # Errors
    /// [`Error::Parameter`] for a negative number or one that is not finite.
    pub fn power(self, power: f64) -> Result<Self> {
        not_negative("power", power)?;
        Ok(Self { power, ..self })
    }

    /// Seed of the start of the decomposition.
    pub fn seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }

    /// The vectors of a vocabulary's words, in its order. A word that never stands near another has a vector of zeros.
    ///
    /// # Errors
    /// [`Error::Parameter`] for a dimension above the number of words.
    pub fn train<T: AsRef<str> + Sync>(&self, texts: &[T], vocabulary: &Vocabulary) -> Result<WordVectors> {
        let words = vocabulary.words().len();
        if self.dimension > words {
            let value = self.dimension as f64;
            return Err(Error::Parameter { parameter: "dimension", value, bound: "at most the number of words" });
        }
        let matrix = self.information(texts, vocabulary);
        let mut random = Random::new(self.seed).fork("ppmi");
        let (vectors, values) = leading_vectors(&matrix, self.dimension, &mut random);
        let scales: Vec<f64> = values.iter().map(|value| value.powf(self.power)).collect();
        let rows = vectors.chunks(self.dimension).flat_map(|row| row.iter().zip(&scales).map(|(x, s)| (x * s) as f32));
        WordVectors::new(vocabulary.words().to_vec(), rows.collect())
    }

    /// The matrix of positive pointwise mutual information. It is symmetric where `a` is 1.
    fn information<T: AsRef<str> + Sync>(&self, texts: &[T], vocabulary: &Vocabulary) -> Sparse {
        let words = vocabulary.words().len();
        let counts = self.counts(texts, vocabulary);
        let mut sums = vec![0.0; words];
        for ((word, _), count) in &counts {
            sums[*word as usize] += count;
        }
        let smoothed: Vec<f64> = sums.iter().map(|sum: &f64| sum.powf(self.smoothing)).collect();
        let total: f64 = smoothed.iter().zip(&sums).filter(|(_, sum)| **sum > 0.0).map(|(smoothed, _)| smoothed).sum();
        let entries = counts.into_iter().filter_map(|((word, context), count)| {
            let ratio = count * total / (sums[word as usize] * smoothed[context as usize] * self.shift);
            (ratio > 1.0).then(|| (word, context, ratio.ln()))
        });
        Sparse::new(words, entries.collect())
    }

    /// How often words stand near each other, by `1/distance`, sorted.
    fn counts<T: AsRef<str> + Sync>(&self, texts: &[T], vocabulary: &Vocabulary) -> Vec<((u32, u32), f64)> {
        let special = vocabulary.len() - vocabulary.words().len();
        // In parts of the same length whatever the number of threads, so that sums are made in the same order.
        let parts: Vec<HashMap<(u32, u32), f64>> = texts
            .par_chunks(1024)
            .map(|texts| {
                let mut counts = HashMap::new();
                for text in texts {
                    let ids = vocabulary.encode(text.as_ref(), usize::MAX).ids;
                    let known: Vec<Option<u32>> = ids.iter().map(|id| Some(id.checked_sub(special)? as u32)).collect();
                    for (place, word) in known.iter().enumerate() {
                        for distance in 1..=self.window.min(place) {
                            if let (Some(a), Some(b)) = (*word, known[place - distance]) {
                                let weight = (distance as f64).recip();
                                *counts.entry((a, b)).or_insert(0.0) += weight;
                                *counts.entry((b, a)).or_insert(0.0) += weight;
                            }
                        }
                    }
                }
                counts
            })
            .collect();
        let mut all: HashMap<(u32, u32), f64> = HashMap::new();
        for part in parts {
            for (pair, count) in part {
                *all.entry(pair).or_insert(0.0) += count;
            }
        }
        let mut all: Vec<_> = all.into_iter().collect();
        all.sort_unstable_by_key(|(pair, _)| *pair);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::Corpus;

    #[test]
    fn information_is_that_by_hand() {
        let vocabulary = Vocabulary::build(["a b", "a c x", "b a"], 1, 3).unwrap();
        let texts = ["a b", "a x c", "b a"];
        // Pairs: a-b twice at distance 1, a-c at distance 2.
        let ppmi = Ppmi::new(1).unwrap().smoothing(1.0).unwrap();
        let found = ppmi.information(&texts, &vocabulary);
        // #(a) = 2.5, #(b) = 2, #(c) = 0.5, in all 5.
        let expected = [(0, 1, (2.0f64 * 5.0 / (2.5 * 2.0)).ln()), (0, 2, (0.5f64 * 5.0 / (2.5 * 0.5)).ln())];
        for (row, column, value) in expected {
            assert!((found.get(row, column) - value).abs() < 1e-12);
            assert_eq!(found.get(column, row), found.get(row, column));
        }
        assert_eq!(found.get(1, 2), 0.0);
        // By 4 all associations are gone: the vectors are zero, not NaN.
        let none = ppmi.shift(4.0).unwrap().train(&texts, &vocabulary).unwrap();
        assert!(none.vectors().iter().all(|x| *x == 0.0));
    }

    #[test]
    fn vectors_are_seeded() {
        let corpus = Corpus::opinions(2500, 3).unwrap();
        let vocabulary = Vocabulary::build(corpus.texts(), 2, 1000).unwrap();
        let train = |threads: usize, seed: u64| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| Ppmi::new(16).unwrap().seed(seed).train(corpus.texts(), &vocabulary).unwrap())
        };
        let one = train(1, 0);
        assert_eq!(one, train(3, 0));
        assert_ne!(one, train(1, 1));
        // Words of one list of the grammar are neighbours.
        let near: Vec<&str> = one.nearest("thriller", 8).into_iter().map(|(word, _)| word).collect();
        let kinds = ["film", "movie", "picture", "drama", "comedy", "sequel", "documentary", "western", "romance"];
        assert!(near.iter().filter(|word| kinds.contains(word)).count() >= 5, "{near:?}");
    }

    #[test]
    fn bad_settings_are_named() {
        let ppmi = Ppmi::new(3).unwrap();
        assert!(Ppmi::new(0).is_err() && ppmi.clone().window(0).is_err());
        assert!(ppmi.clone().smoothing(f64::NAN).is_err() && ppmi.clone().shift(0.0).is_err());
        assert!(ppmi.clone().power(-1.0).is_err());
        let vocabulary = Vocabulary::build(["a b"], 1, 10).unwrap();
        let error = ppmi.train(&["a b"], &vocabulary).unwrap_err().to_string();
        assert!(error.contains("dimension = 3"), "{error}");
    }
}
