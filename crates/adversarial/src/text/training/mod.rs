//! Training of classifiers of text, with and without an adversary in the space of word vectors.
//!
//! | to | take | gradient evaluations a step |
//! |---|---|---|
//! | train without an adversary | [`Standard`] | 1 |
//! | add the loss at the steepest perturbation of the word vectors | [`Fgm`] | 2 |
//! | ascend several steps, and learn from each on the way | [`FreeLb`] | k |
//! | learn from attacked sentences | [`TrainingHook::rewrite`] with any of these | |
//! | have another method | your own [`TextTraining`] | |
//!
//! Perturbations of word vectors make a classifier smoother and often more accurate; that they hold against words that are exchanged is not
//! said by them: measure it with an attack.
//!
//! ```
//! use adversarial::text::training::{Fgm, TextTrainer};
//! use adversarial::text::{Corpus, TextCnnConfig, Vocabulary};
//! use burn::tensor::Device;
//!
//! let (train, held_out) = Corpus::opinions(700, 1)?.split(1.0 / 7.0, 1)?;
//! let vocabulary = Vocabulary::build(train.texts(), 2, 10_000)?;
//! let model = TextCnnConfig::new().with_dimension(24).with_filters(16).try_init(&vocabulary, 2, 1, &Device::flex())?;
//! let trainer = TextTrainer::new().epochs(8)?.batch_size(20)?.learning_rate(1e-2)?.seed(1);
//! let classifier = trainer.train(model, vocabulary, &train, &Fgm::new(0.5)?)?;
//! assert!(held_out.accuracy(&classifier)? > 0.8);
//! # Ok::<(), adversarial::Error>(())
//! ```

mod fgm;
mod freelb;
mod standard;
#[cfg(test)]
mod tests;
mod trainer;

use burn::tensor::activation::log_softmax;
use burn::tensor::{Int, Tensor};
use core_tensor::{Random, Scalar, Tree};

use crate::error::Result;
use crate::text::{Embedded, TextModule};

pub use fgm::Fgm;
pub use freelb::FreeLb;
pub use standard::Standard;
pub use trainer::{EpochReport, Rewritten, TextTrainer, TrainingHook};

/// Sentences of about the same length as numbers of words, and their classes, on the autodiff device of the model.
#[derive(Clone, Debug)]
pub struct TextBatch {
    /// `[sentences, places]`, filled up with the number of `<pad>`.
    pub ids: Tensor<2, Int>,
    /// `[sentences, places]`: 1 at a word, 0 after the last.
    pub mask: Tensor<2>,
    /// The class of each sentence.
    pub labels: Tensor<1, Int>,
}

/// The gradient of a step, and its numbers.
#[derive(Clone, Debug)]
pub struct TextStep {
    /// Gradient of the loss in the module's parameters.
    pub gradient: Tree,
    /// The loss that was differentiated.
    pub loss: Scalar,
    /// Forward and backward passes of the batch.
    pub gradient_evaluations: u64,
}

/// A training method: a batch in, the gradient of the parameters out.
pub trait TextTraining<M> {
    /// The gradient of the method's loss. All that is random in this step comes from copies and forks of `random`.
    ///
    /// # Errors
    /// What the method fails with.
    fn gradients(&self, model: &M, batch: &TextBatch, random: &Random) -> Result<TextStep>;
}

impl TextBatch {
    /// The vectors of the words. The module's embedding gets a gradient through them.
    pub fn embed<M: TextModule>(&self, model: &M) -> Embedded {
        Embedded::look_up(model.embedding(), self.ids.clone(), self.mask.clone())
    }

    /// The mean cross-entropy with `shift` added to the vectors of the words; dropout is the same at every call.
    pub fn loss<M: TextModule>(&self, model: &M, shift: Option<Tensor<3>>, random: &Random) -> Tensor<1> {
        let Embedded { mut vectors, mask } = self.embed(model);
        if let Some(shift) = shift {
            vectors = vectors + shift * mask.clone().unsqueeze_dim::<3>(2);
        }
        let logits = model.forward(Embedded { vectors, mask }, Some(&mut random.fork("dropout")));
        log_softmax(logits, 1).gather(1, self.labels.clone().unsqueeze_dim::<2>(1)).mean().neg()
    }
}

/// Gradient in the parameters and in a shift of the word vectors, from one forward and one backward pass.
struct Joint {
    loss: Tensor<1>,
    parameters: Tree,
    shift: Tensor<3>,
}

fn joint<M: TextModule>(model: &M, batch: &TextBatch, shift: Tensor<3>, random: &Random) -> Joint {
    let shift = Tensor::from_inner(shift).require_grad();
    let loss = batch.loss(model, Some(shift.clone()), random);
    let mut gradients = loss.backward();
    let slope = shift.grad_remove(&mut gradients).unwrap_or_else(|| shift.inner().zeros_like());
    Joint { loss: loss.inner(), parameters: Tree::from_grads(gradients, model), shift: slope }
}

/// The length of each sentence's part of a shift, `[sentences, 1, 1]`.
fn lengths(shift: Tensor<3>) -> Tensor<3> {
    shift.powi_scalar(2).sum_dim(2).sum_dim(1).sqrt()
}

/// Each sentence's part brought to a length; where it is zero it stays.
fn of_length(shift: Tensor<3>, length: f64) -> Tensor<3> {
    // The largest element first, so that the square of a tiny gradient is not lost.
    let largest = shift.clone().abs().max_dim(2).max_dim(1).clamp_min(f64::from(f32::MIN_POSITIVE));
    let shift = shift / largest;
    let norm = lengths(shift.clone()).clamp_min(f64::from(f32::MIN_POSITIVE));
    shift * (norm.recip() * length)
}
