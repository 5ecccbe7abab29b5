//! Convolutions over words, and the largest response of each.

use burn::config::Config;
use burn::module::Module;
use burn::nn::{Embedding, Linear};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Tensor};
use core_tensor::Random;

use super::{Embedded, TextModule, check, dropped, first_embedding, first_linear};
use crate::error::Result;
use crate::text::{Vocabulary, WordVectors};

/// Settings of a [`TextCnn`].
///
/// | parameter | default | range | effect |
/// |---|---|---|---|
/// | `dimension` | 64 | `≥ 1` | length of a word's vector, `d` |
/// | `widths` | `[3, 4, 5]` | at least one, each `≥ 1` | words in a window, `h` |
/// | `filters` | 64 | `≥ 1` | filters of each width |
/// | `dropout` | 0.5 | `[0, 1)` | share of features taken out in training |
#[derive(Config, Debug)]
pub struct TextCnnConfig {
    /// Length of a word's vector.
    #[config(default = 64)]
    pub dimension: usize,
    /// Words in a window.
    #[config(default = "vec![3, 4, 5]")]
    pub widths: Vec<usize>,
    /// Filters of each width.
    #[config(default = 64)]
    pub filters: usize,
    /// Share of features taken out in training.
    #[config(default = 0.5)]
    pub dropout: f64,
}

/// A convolutional network on sentences: the strongest response of each filter anywhere in the sentence decides.
///
/// ```text
/// c_t = relu(w · [x_t; x_{t+1}; …; x_{t+h−1}] + b),   ĉ = max_t c_t,   logits = W · dropout(ĉ of all filters) + b
/// ```
///
/// `x_t` is the vector of word `t`, zero after the last word; a window begins at each word (`t` over the words alone). A sentence
/// without words has `ĉ = 0`: its logits are the bias.
///
/// Guarantees: padding and other sentences change nothing (`logits_do_not_depend_on_the_batch`), gradients are those of central
/// differences (`gradients_are_those_of_central_differences`).
///
/// Cost: `n · filters · Σ h · d` multiplications for `n` words.
///
/// Y. Kim, "Convolutional neural networks for sentence classification", EMNLP 2014, arXiv:1408.5882, the model CNN-rand (CNN-non-static with
/// [`try_init_from`](TextCnnConfig::try_init_from)). Deviations: 64 filters and dimensions instead of 100 and 300, no bound on the norm of `W`,
/// windows do not begin before the first word.
///
/// ```
/// use adversarial::text::{TextCnnConfig, TextModule, Vocabulary};
/// use burn::tensor::Device;
///
/// let vocabulary = Vocabulary::build(["a good film", "a bad film"], 1, 100)?;
/// let model = TextCnnConfig::new().with_filters(8).try_init(&vocabulary, 2, 7, &Device::flex())?;
/// assert_eq!(model.embedding().dims(), [vocabulary.len(), 64]);
/// # Ok::<(), adversarial::Error>(())
/// ```
#[derive(Module, Debug)]
pub struct TextCnn {
    embedding: Embedding,
    convolutions: Vec<Linear>,
    output: Linear,
    dropout: f64,
}

impl TextCnnConfig {
    /// A network with weights of a seed, for the words of a vocabulary.
    ///
    /// # Errors
    /// [`Error::Parameter`](crate::Error::Parameter) for a setting outside its range.
    pub fn try_init(&self, vocabulary: &Vocabulary, classes: usize, seed: u64, device: &Device) -> Result<TextCnn> {
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
    ) -> Result<TextCnn> {
        self.build(vocabulary, Some(vectors), classes, seed, device)
    }

    fn build(
        &self,
        vocabulary: &Vocabulary,
        vectors: Option<&WordVectors>,
        classes: usize,
        seed: u64,
        device: &Device,
    ) -> Result<TextCnn> {
        let Self { dimension, widths, filters, dropout } = self;
        let narrowest = widths.iter().copied().min().unwrap_or(0);
        let sizes = [("dimension", *dimension), ("filters", *filters), ("widths", narrowest), ("classes", classes)];
        check(&sizes, *dropout)?;
        let mut random = Random::new(seed).fork("text-cnn");
        let embedding = first_embedding(vocabulary, *dimension, vectors, &mut random, device)?;
        let layer = |width: &usize| first_linear(width * dimension, *filters, &mut random, device);
        let convolutions = widths.iter().map(layer).collect();
        let output = first_linear(widths.len() * filters, classes, &mut random, device);
        Ok(TextCnn { embedding, convolutions, output, dropout: *dropout })
    }
}

impl TextModule for TextCnn {
    fn embedding(&self) -> Tensor<2> {
        self.embedding.weight.val()
    }

    fn classes(&self) -> usize {
        self.output.weight.dims()[1]
    }

    fn forward(&self, sentences: Embedded, dropout: Option<&mut Random>) -> Tensor<2> {
        let Embedded { vectors, mask } = sentences;
        let [rows, places, dimension] = vectors.dims();
        let widths = self.convolutions.iter().map(|layer| layer.weight.dims()[0] / dimension);
        let widest = widths.clone().max().unwrap_or(1);
        let padded = match widest {
            1 => vectors,
            _ => {
                let kind = (&vectors.device(), vectors.dtype());
                Tensor::cat(vec![vectors, Tensor::zeros([rows, widest - 1, dimension], kind)], 1)
            }
        };
        let mask = mask.unsqueeze_dim::<3>(2);
        let features = self.convolutions.iter().zip(widths).map(|(layer, width)| {
            let words = (0..width).map(|from| padded.clone().slice_dim(1, from..from + places));
            let windows = Tensor::cat(words.collect(), 2).reshape([rows * places, width * dimension]);
            let responses = relu(layer.forward(windows));
            let filters = responses.dims()[1];
            // Responses are never below zero, so that those of no window are none where there is a word.
            (responses.reshape([rows, places, filters]) * mask.clone()).max_dim(1).squeeze_dim::<2>(1)
        });
        self.output.forward(dropped(Tensor::cat(features.collect(), 1), self.dropout, dropout))
    }
}
