//! A recurrent network that reads a sentence word by word.

use burn::config::Config;
use burn::module::Module;
use burn::nn::{Embedding, Linear};
use burn::tensor::{Device, Tensor};
use core_tensor::Random;

use super::{Embedded, TextModule, check, dropped, first_embedding, first_linear};
use crate::error::Result;
use crate::text::{Vocabulary, WordVectors};

/// Settings of a [`GruClassifier`].
///
/// | parameter | default | range | effect |
/// |---|---|---|---|
/// | `dimension` | 64 | `≥ 1` | length of a word's vector |
/// | `hidden` | 64 | `≥ 1` | length of the state |
/// | `dropout` | 0.5 | `[0, 1)` | share of features taken out in training |
#[derive(Config, Debug)]
pub struct GruClassifierConfig {
    /// Length of a word's vector.
    #[config(default = 64)]
    pub dimension: usize,
    /// Length of the state.
    #[config(default = 64)]
    pub hidden: usize,
    /// Share of features taken out in training.
    #[config(default = 0.5)]
    pub dropout: f64,
}

/// A gated recurrent unit that reads a sentence from its first word to its last; the mean of its states decides.
///
/// ```text
/// r = σ(W_r x_t + U_r h_{t−1}),   z = σ(W_z x_t + U_z h_{t−1}),   n = tanh(W_n x_t + r ⊙ (U_n h_{t−1}))
/// h_t = (1 − z) ⊙ n + z ⊙ h_{t−1},   logits = W · dropout((1/n) Σ_t h_t) + b
/// ```
///
/// Biases are not written. A sentence without words has a mean of 0: its logits are the bias.
///
/// Guarantees: those of [`TextCnn`](super::TextCnn), by the same tests.
///
/// Cost: `3n · hidden · (dimension + hidden)` multiplications for `n` words, one word after the other.
///
/// K. Cho et al., "Learning phrase representations using RNN encoder-decoder for statistical machine translation", EMNLP 2014,
/// arXiv:1406.1078, equations 5 to 8. Deviations: the reset gate acts after the product with `U_n`, as in cuDNN; the mean of the states
/// instead of the last.
///
/// ```
/// use adversarial::text::{GruClassifierConfig, TextModule, Vocabulary};
/// use burn::tensor::Device;
///
/// let vocabulary = Vocabulary::build(["a good film", "a bad film"], 1, 100)?;
/// let model = GruClassifierConfig::new().with_hidden(16).try_init(&vocabulary, 2, 7, &Device::flex())?;
/// assert_eq!(model.classes(), 2);
/// # Ok::<(), adversarial::Error>(())
/// ```
#[derive(Module, Debug)]
pub struct GruClassifier {
    embedding: Embedding,
    /// `W` and its biases, of `r`, `z` and `n` side by side.
    input: Linear,
    /// `U` and its biases, likewise.
    recurrent: Linear,
    output: Linear,
    dropout: f64,
}

impl GruClassifierConfig {
    /// A network with weights of a seed, for the words of a vocabulary.
    ///
    /// # Errors
    /// [`Error::Parameter`](crate::Error::Parameter) for a setting outside its range.
    pub fn try_init(
        &self,
        vocabulary: &Vocabulary,
        classes: usize,
        seed: u64,
        device: &Device,
    ) -> Result<GruClassifier> {
        self.build(vocabulary, None, classes, seed, device)
    }

    /// The same with the vectors given for the words that have one.
    ///
    /// # Errors
    /// [`Error::Parameter`](crate::Error::Parameter) for a setting outside its range, [`Error::Shape`](crate::Error::Shape) for vectors of
    /// another dimension.
    pub fn try_init_from(
        &self,
        vectors: &WordVectors,
        vocabulary: &Vocabulary,
        classes: usize,
        seed: u64,
        device: &Device,
    ) -> Result<GruClassifier> {
        self.build(vocabulary, Some(vectors), classes, seed, device)
    }

    fn build(
        &self,
        vocabulary: &Vocabulary,
        vectors: Option<&WordVectors>,
        classes: usize,
        seed: u64,
        device: &Device,
    ) -> Result<GruClassifier> {
        let &Self { dimension, hidden, dropout } = self;
        check(&[("dimension", dimension), ("hidden", hidden), ("classes", classes)], dropout)?;
        let mut random = Random::new(seed).fork("gru-classifier");
        let embedding = first_embedding(vocabulary, dimension, vectors, &mut random, device)?;
        let [input, recurrent] = [dimension, hidden].map(|from| first_linear(from, 3 * hidden, &mut random, device));
        let output = first_linear(hidden, classes, &mut random, device);
        Ok(GruClassifier { embedding, input, recurrent, output, dropout })
    }
}

impl TextModule for GruClassifier {
    fn embedding(&self) -> Tensor<2> {
        self.embedding.weight.val()
    }

    fn classes(&self) -> usize {
        self.output.weight.dims()[1]
    }

    fn forward(&self, sentences: Embedded, dropout: Option<&mut Random>) -> Tensor<2> {
        let Embedded { vectors, mask } = sentences;
        let [rows, places, _] = vectors.dims();
        let hidden = self.recurrent.weight.dims()[0];
        let mut state = Tensor::<2>::zeros([rows, hidden], (&vectors.device(), vectors.dtype()));
        let mut sum = state.clone();
        for place in 0..places {
            let word = vectors.clone().slice_dim(1, place..place + 1).squeeze_dim::<2>(1);
            let is_word = mask.clone().slice_dim(1, place..place + 1);
            let [input, recurrent] = [self.input.forward(word), self.recurrent.forward(state.clone())];
            let part = |x: &Tensor<2>, from: usize| x.clone().slice_dim(1, from * hidden..(from + 1) * hidden);
            let gates = input.clone().slice_dim(1, 0..2 * hidden) + recurrent.clone().slice_dim(1, 0..2 * hidden);
            // σ(x) = (1 + tanh(x/2))/2: ndarray's own σ takes f64 through f32.
            let gates = (gates * 0.5).tanh() * 0.5 + 0.5;
            let (reset, update) = (part(&gates, 0), part(&gates, 1));
            let new = (part(&input, 2) + reset * part(&recurrent, 2)).tanh();
            state = new.clone() + update * (state - new);
            // After the last word the state goes on, but is no longer counted.
            sum = sum + state.clone() * is_word;
        }
        let words = mask.sum_dim(1).clamp_min(1.0);
        self.output.forward(dropped(sum / words, self.dropout, dropout))
    }
}
