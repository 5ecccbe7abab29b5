//! Burn modules that classify a sentence from the vectors of its words.

mod cnn;
mod gru;
#[cfg(test)]
mod laws;

use burn::module::{Module, Param};
use burn::nn::{Embedding, Linear};
use burn::tensor::{Device, Distribution, Int, Tensor, TensorData};
use core_tensor::Random;

use crate::error::{Error, Result};
use crate::text::vocabulary::{PAD, SPECIAL};
use crate::text::{Vocabulary, WordVectors};

pub use cnn::{TextCnn, TextCnnConfig};
pub use gru::{GruClassifier, GruClassifierConfig};

/// A Burn module that classifies sentences from the vectors of their words: what [`NeuralText`](crate::text::NeuralText) makes a
/// classifier of texts, and what [`training`](crate::text::training) trains.
///
/// A sentence's logits have to depend on its own words alone, and not on how many places of padding follow them.
pub trait TextModule: Module + Sync + 'static {
    /// The vector of each number of the vocabulary, `[numbers, dimension]`; that of `<pad>` is never seen.
    fn embedding(&self) -> Tensor<2>;

    /// Logits `[sentences, classes]`. With a stream of random numbers as in training (dropout from this stream), without as at inference.
    fn forward(&self, sentences: Embedded, dropout: Option<&mut Random>) -> Tensor<2>;

    /// Number of classes.
    fn classes(&self) -> usize;
}

/// Sentences as vectors of words, filled up to the same length.
#[derive(Clone, Debug)]
pub struct Embedded {
    /// `[sentences, places, dimension]`, zero after a sentence's last word.
    pub vectors: Tensor<3>,
    /// `[sentences, places]`: 1 at a word, 0 after the last.
    pub mask: Tensor<2>,
}

impl Embedded {
    /// The vectors of the words with these numbers.
    pub(crate) fn look_up(embedding: Tensor<2>, ids: Tensor<2, Int>, mask: Tensor<2>) -> Self {
        let mask = mask.cast(embedding.dtype());
        let vectors = burn::tensor::module::embedding(embedding, ids) * mask.clone().unsqueeze_dim::<3>(2);
        Self { vectors, mask }
    }
}

/// Sentences as numbers of words on a device, filled up to `places` with `<pad>` and to `rows` with empty sentences.
pub(crate) fn numbers(
    sentences: &[&[usize]],
    rows: usize,
    places: usize,
    device: &Device,
) -> (Tensor<2, Int>, Tensor<2>) {
    let mut ids = vec![PAD as i64; rows * places];
    let mut mask = vec![0f32; rows * places];
    for (row, sentence) in sentences.iter().enumerate() {
        for (place, id) in sentence.iter().enumerate() {
            ids[row * places + place] = *id as i64;
            mask[row * places + place] = 1.0;
        }
    }
    let shape = [rows, places];
    (Tensor::from_data(TensorData::new(ids, shape), device), Tensor::from_data(TensorData::new(mask, shape), device))
}

/// Vectors to begin with: normal, of length about 1; zero for `<pad>` and `<unk>`; those given where there are any.
fn first_embedding(
    vocabulary: &Vocabulary,
    dimension: usize,
    vectors: Option<&WordVectors>,
    random: &mut Random,
    device: &Device,
) -> Result<Embedding> {
    if let Some(vectors) = vectors.filter(|vectors| vectors.dimension() != dimension) {
        let expected = format!("[words, {dimension}], the model's dimension");
        let actual = vec![vectors.len(), vectors.dimension()];
        return Err(Error::Shape { what: "word vectors", actual, expected });
    }
    let shape = [vocabulary.len(), dimension];
    let normal = Distribution::Normal(0.0, (dimension as f64).sqrt().recip());
    let mut values: Vec<f32> = random.draw(normal, shape.into()).iter::<f32>().collect();
    values[..SPECIAL * dimension].fill(0.0);
    if let Some(vectors) = vectors {
        for (word, row) in vocabulary.words().iter().zip(values.chunks_mut(dimension).skip(SPECIAL)) {
            if let Some(known) = vectors.row(word) {
                row.copy_from_slice(vectors.vector(known));
            }
        }
    }
    Ok(Embedding { weight: Param::from_tensor(Tensor::from_data(TensorData::new(values, shape), device)) })
}

/// A layer with weights of Glorot and Bengio's uniform distribution, and no bias yet.
fn first_linear(from: usize, to: usize, random: &mut Random, device: &Device) -> Linear {
    let bound = (6.0 / (from + to) as f64).sqrt();
    let weight = Param::from_tensor(random.uniform([from, to], -bound, bound, device));
    Linear { weight, bias: Some(Param::from_tensor(Tensor::zeros([to], device))) }
}

/// Takes each element out with probability `rate`, and makes the others larger by as much.
fn dropped<const D: usize>(x: Tensor<D>, rate: f64, random: Option<&mut Random>) -> Tensor<D> {
    match random {
        Some(random) if rate > 0.0 => {
            let kept: Tensor<D> = random.bernoulli(x.dims(), 1.0 - rate, &x.device());
            let dtype = x.dtype();
            x * kept.cast(dtype) / (1.0 - rate)
        }
        _ => x,
    }
}

/// Refuses sizes that are 0, and rates of dropout that take everything out.
fn check(sizes: &[(&'static str, usize)], dropout: f64) -> Result<()> {
    for (parameter, value) in sizes {
        crate::attack::check::at_least_one(parameter, *value)?;
    }
    match (0.0..1.0).contains(&dropout) {
        true => Ok(()),
        false => Err(Error::Parameter { parameter: "dropout", value: dropout, bound: "0 <= dropout < 1" }),
    }
}
