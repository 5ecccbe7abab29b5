//! How well word vectors agree with people on what is similar.

use std::path::Path;

use super::WordVectors;
use crate::error::Result;
use crate::text::files::{self, Encoding};

/// Pairs of words and how similar people find them.
///
/// ```
/// use adversarial::text::{Similarities, WordVectors};
///
/// let pairs = [("good", "fine", 8.0), ("good", "bad", 1.0), ("good", "chair", 2.0)];
/// let people = Similarities::new(pairs.map(|(a, b, score)| (a.into(), b.into(), score)).to_vec());
/// let words = ["good", "fine", "bad"].map(String::from).to_vec();
/// let vectors = WordVectors::new(words, vec![1.0, 0.0, 0.8, 0.6, 0.0, 1.0])?;
/// assert_eq!(people.agreement(&vectors), Some((1.0, 2)));
/// # Ok::<(), adversarial::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Similarities {
    pairs: Vec<(String, String, f64)>,
}

impl Similarities {
    /// Pairs of words, and a number each that is larger for more similar ones.
    pub fn new(pairs: Vec<(String, String, f64)>) -> Self {
        Self { pairs }
    }

    /// Reads SimLex-999: 999 pairs of adjectives, nouns and verbs, rated by similarity and not by association. Columns parted by tabulators, the words
    /// and the rating in the columns `word1`, `word2` and `SimLex999` of the first line.
    ///
    /// F. Hill, R. Reichart, A. Korhonen, "SimLex-999: evaluating semantic models with (genuine) similarity estimation", 2015, arXiv:1408.3456;
    /// <https://fh295.github.io/simlex.html>.
    ///
    /// # Errors
    /// [`Error::Data`](crate::Error::Data) naming the file, and the line that is none of the table.
    pub fn simlex(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let text = files::read(path, Encoding::Utf8)?;
        let mut lines = text.lines().enumerate();
        let head: Vec<&str> = lines.next().map_or_else(Vec::new, |(_, line)| line.split('\t').collect());
        let mut places = [0; 3];
        for (place, name) in places.iter_mut().zip(["word1", "word2", "SimLex999"]) {
            let found = head.iter().position(|column| *column == name);
            *place = found.ok_or_else(|| files::wrong(path, format!("the first line has no column {name}")))?;
        }
        let mut pairs = Vec::new();
        for (index, line) in lines.filter(|(_, line)| !line.trim().is_empty()) {
            let columns: Vec<&str> = line.split('\t').collect();
            let column = |place: usize| columns.get(places[place]).copied();
            let score = column(2).and_then(|score| score.parse().ok()).filter(|score: &f64| score.is_finite());
            let (Some(one), Some(other), Some(score)) = (column(0), column(1), score) else {
                return Err(files::wrong(path, format!("line {}: expected two words and a rating", index + 1)));
            };
            pairs.push((one.to_lowercase(), other.to_lowercase(), score));
        }
        Ok(Self { pairs })
    }

    /// Number of pairs.
    pub fn len(&self) -> usize {
        self.pairs.len()
    }

    /// Whether there is no pair.
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// Spearman's rank correlation of the ratings and the cosines of the vectors, equal values with their mean rank, and the number of pairs it is over:
    /// those whose words both have a vector. `None` where there are less than two, or all are equal.
    pub fn agreement(&self, vectors: &WordVectors) -> Option<(f64, usize)> {
        let covered = self.pairs.iter().filter_map(|(a, b, score)| Some((*score, vectors.cosine(a, b)?)));
        let (scores, cosines): (Vec<f64>, Vec<f64>) = covered.unzip();
        let correlation = pearson(&ranks(&scores), &ranks(&cosines))?;
        Some((correlation, scores.len()))
    }
}

/// The rank of each value from 0; equal ones have the mean of their ranks.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*a].total_cmp(&values[*b]));
    let mut ranks = vec![0.0; values.len()];
    let mut first = 0;
    for equal in order.chunk_by(|a, b| values[*a] == values[*b]) {
        let rank = first as f64 + (equal.len() - 1) as f64 / 2.0;
        equal.iter().for_each(|i| ranks[*i] = rank);
        first += equal.len();
    }
    ranks
}

fn pearson(a: &[f64], b: &[f64]) -> Option<f64> {
    let mean = |x: &[f64]| x.iter().sum::<f64>() / x.len() as f64;
    let (mean_a, mean_b) = (mean(a), mean(b));
    let sum = |f: &dyn Fn(f64, f64) -> f64| a.iter().zip(b).map(|(a, b)| f(a - mean_a, b - mean_b)).sum::<f64>();
    let spread = (sum(&|a, _| a * a) * sum(&|_, b| b * b)).sqrt();
    (spread > 0.0).then(|| sum(&|a, b| a * b) / spread)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_and_correlation_by_hand() {
        assert_eq!(ranks(&[3.0, 1.0, 3.0, 2.0]), [2.5, 0.0, 2.5, 1.0]);
        // Spearman's formula without equal values: 1 − 6 Σ d² / (n (n² − 1)), d = 1, 1, 2, 0, 2.
        let found = pearson(&ranks(&[1.0, 2.0, 3.0, 4.0, 5.0]), &ranks(&[20.0, 10.0, 50.0, 40.0, 30.0])).unwrap();
        assert!((found - (1.0 - 6.0 * 10.0 / 120.0)).abs() < 1e-12);
        assert_eq!(pearson(&ranks(&[]), &ranks(&[])), None);
        assert_eq!(pearson(&ranks(&[1.0, 1.0]), &ranks(&[1.0, 2.0])), None);
    }

    #[test]
    fn tables_that_are_none_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("simlex.txt");
        std::fs::write(&path, "word1\tword2\tPOS\tSimLex999\nOld\tnew\tA\t1.58\n\n").unwrap();
        let found = Similarities::simlex(&path).unwrap();
        assert_eq!(found, Similarities::new(vec![("old".into(), "new".into(), 1.58)]));
        for (text, problem) in [
            ("", "no column word1"),
            ("word1\tword2\n", "no column SimLex999"),
            ("word1\tword2\tSimLex999\nold\tnew\n", "line 2: expected two words and a rating"),
            ("word1\tword2\tSimLex999\nold\tnew\tNaN\n", "line 2"),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = Similarities::simlex(&path).unwrap_err().to_string();
            assert!(error.contains("simlex.txt") && error.contains(problem), "{error}");
        }
    }
}
