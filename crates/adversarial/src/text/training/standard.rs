//! Training without an adversary.

use core_tensor::{Random, Scalar, Tree};

use super::{TextBatch, TextStep, TextTraining};
use crate::error::Result;
use crate::text::TextModule;

/// Mean cross-entropy of the sentences as they are: what the other methods are compared with.
///
/// Cost: one gradient evaluation.
///
/// ```
/// use adversarial::text::training::{Standard, TextTrainer};
/// use adversarial::text::{Corpus, TextClassifier, TextCnnConfig, Vocabulary};
/// use burn::tensor::Device;
///
/// let corpus = Corpus::opinions(100, 1)?;
/// let vocabulary = Vocabulary::build(corpus.texts(), 1, 10_000)?;
/// let model = TextCnnConfig::new().with_dimension(16).with_filters(8).try_init(&vocabulary, 2, 1, &Device::flex())?;
/// let classifier = TextTrainer::new().epochs(2)?.train(model, vocabulary, &corpus, &Standard)?;
/// assert_eq!(classifier.logits(&["a wonderful film"])?.len(), 1);
/// # Ok::<(), adversarial::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standard;

impl<M: TextModule> TextTraining<M> for Standard {
    fn gradients(&self, model: &M, batch: &TextBatch, random: &Random) -> Result<TextStep> {
        let loss = batch.loss(model, None, random);
        let gradient = Tree::from_grads(loss.backward(), model);
        Ok(TextStep { gradient, loss: Scalar::from_tensor(loss.inner()), gradient_evaluations: 1 })
    }
}
