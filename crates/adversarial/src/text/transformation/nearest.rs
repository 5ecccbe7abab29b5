//! Words of near vectors.

use std::sync::{Arc, OnceLock};

use core_tensor::Random;

use super::Transformation;
use crate::attack::check::at_least_one;
use crate::error::Result;
use crate::text::constraint::{cosine, row};
use crate::text::{Sentence, WordVectors};

/// Replaces a word by those whose vectors are nearest to that of the original word, by their cosine.
///
/// | parameter | default | range | effect |
/// |---|---|---|---|
/// | `count` | | ≥ 1 | at most so many words |
/// | [`least`](Self::least) | −1 | a cosine | those of a smaller cosine are left out |
///
/// The vectors decide what that means: those made from contexts alone put `good` beside `bad`; counter-fitted ones
/// (N. Mrkšić et al. 2016) keep them apart.
///
/// Cost: one pass over all vectors for each word the first time, nothing later.
#[derive(Clone, Debug)]
pub struct NearestWords {
    vectors: Arc<WordVectors>,
    count: usize,
    least: f64,
    /// The rows near to each, as they are asked for.
    near: Arc<[OnceLock<Vec<usize>>]>,
}

impl NearestWords {
    /// The `count` nearest.
    pub fn new(vectors: Arc<WordVectors>, count: usize) -> Self {
        let near = (0..vectors.len()).map(|_| OnceLock::new()).collect();
        Self { vectors, count, least: -1.0, near }
    }

    /// Leaves out words of a smaller cosine.
    pub fn least(self, least: f64) -> Self {
        let near = (0..self.vectors.len()).map(|_| OnceLock::new()).collect();
        Self { least, near, ..self }
    }

    fn near(&self, row: usize) -> &[usize] {
        self.near[row].get_or_init(|| {
            let nearest = self.vectors.nearest(&self.vectors.words()[row], self.count);
            let near = nearest.into_iter().filter(|(_, cosine)| *cosine >= self.least);
            near.filter_map(|(word, _)| self.vectors.row(word)).collect()
        })
    }
}

impl Transformation for NearestWords {
    fn name(&self) -> String {
        "nearest words".into()
    }

    fn check(&self) -> Result<()> {
        at_least_one("count", self.count)?;
        cosine("least", self.least)
    }

    fn candidates(&self, sentence: &Sentence, word: usize, _random: &mut Random) -> Vec<Sentence> {
        let Some(row) = row(&self.vectors, sentence.original_word(word)) else { return Vec::new() };
        self.near(row).iter().map(|near| sentence.replace(word, &self.vectors.words()[*near])).collect()
    }
}
