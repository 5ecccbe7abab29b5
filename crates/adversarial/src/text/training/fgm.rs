//! Adversarial training on word vectors by one step.

use burn::tensor::Tensor;
use core_tensor::{Random, Scalar};

use super::{Joint, TextBatch, TextStep, TextTraining, joint, of_length};
use crate::attack::check::positive;
use crate::error::Result;
use crate::text::TextModule;

/// Fast gradient method: the loss of a sentence, and the loss where its word vectors are moved in the direction of steepest ascent.
///
/// ```text
/// r = ε g/‖g‖₂,   g = ∇_s L(s; θ),   minimise L(s; θ) + L(s + r; θ)
/// ```
///
/// `s` are the vectors of all words of a sentence one after the other, so that `‖g‖₂` is the norm of the whole sentence's gradient; `r` is
/// a constant for the gradient in `θ`, and dropout is the same in both terms. A sentence whose gradient is zero is not moved. From random weights an
/// `ε` of more than about 0.2 can keep a model from learning anything: train some epochs with [`Standard`](super::Standard) first.
///
/// | parameter | default | range | effect |
/// |---|---|---|---|
/// | `epsilon` | – | `(0, ∞)` | `ε`, length of the perturbation of a sentence; the vectors of the modules here begin with length 1 |
///
/// Guarantees: the perturbation has length `ε` (`perturbations_have_their_length`), the gradient is that of the sum
/// (`fgm_is_the_gradient_of_both_losses`).
///
/// Cost: 2 gradient evaluations, one of them for the word vectors too; no host synchronisation.
///
/// T. Miyato, A. M. Dai, I. Goodfellow, "Adversarial training methods for semi-supervised text classification", ICLR 2017,
/// arXiv:1605.07725, equations 4 to 7. Deviation: vectors of words are not normalised, so a model may escape to longer ones
/// over many epochs; the reported loss is the mean of both terms, and so is the gradient, which Adam does not notice.
///
/// ```
/// use adversarial::text::training::{Fgm, TextTrainer};
/// use adversarial::text::{Corpus, TextCnnConfig, Vocabulary};
/// use burn::tensor::Device;
///
/// let corpus = Corpus::opinions(100, 1)?;
/// let vocabulary = Vocabulary::build(corpus.texts(), 1, 10_000)?;
/// let model = TextCnnConfig::new().with_dimension(16).with_filters(8).try_init(&vocabulary, 2, 1, &Device::flex())?;
/// let classifier = TextTrainer::new().epochs(2)?.train(model, vocabulary, &corpus, &Fgm::new(1.0)?)?;
/// # Ok::<(), adversarial::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fgm {
    epsilon: f64,
}

impl Fgm {
    /// With perturbations of length `epsilon`.
    ///
    /// # Errors
    /// [`Error::Parameter`](crate::Error::Parameter) unless it is above zero and finite.
    pub fn new(epsilon: f64) -> Result<Self> {
        positive("epsilon", epsilon)?;
        Ok(Self { epsilon })
    }
}

impl<M: TextModule> TextTraining<M> for Fgm {
    fn gradients(&self, model: &M, batch: &TextBatch, random: &Random) -> Result<TextStep> {
        let vectors = batch.embed(model).vectors.inner();
        let clean = joint(model, batch, vectors.zeros_like(), random);
        let adversarial: Tensor<3> = of_length(clean.shift, self.epsilon);
        let Joint { loss, parameters, .. } = joint(model, batch, adversarial, random);
        Ok(TextStep {
            gradient: clean.parameters.lerp(&parameters, 0.5)?,
            loss: Scalar::from_tensor((clean.loss + loss) / 2.0),
            gradient_evaluations: 2,
        })
    }
}
