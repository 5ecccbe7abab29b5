//! The loop: epochs over a corpus, batches of sentences of about the same length, Adam.

use burn::optim::AdamConfig;
use burn::tensor::{Device, Tensor, TensorData};
use core_tensor::Random;

use super::{TextBatch, TextTraining};
use crate::attack::check::{at_least_one, positive};
use crate::error::{Error, Result};
use crate::text::models::numbers;
use crate::text::{Corpus, NeuralText, TextModule, Vocabulary};

/// Trains a module on a corpus by any [`TextTraining`] method, with Adam and a learning rate that falls to zero in a straight line.
///
/// | parameter | default | range | effect |
/// |---|---|---|---|
/// | [`epochs`](Self::epochs) | 5 | `≥ 1` | passes over the corpus |
/// | [`batch_size`](Self::batch_size) | 50 | `≥ 1` | sentences of a step |
/// | [`learning_rate`](Self::learning_rate) | 2e-3 | `(0, ∞)` | of the first step |
/// | [`longest`](Self::longest) | 64 | `≥ 1` | words of a sentence that are seen, in training and by the classifier |
/// | [`seed`](Self::seed) | 0 | | order of the sentences, dropout, what is random in the method |
///
/// A batch has sentences of about the same length: shuffled sentences are sorted by length twenty batches at a time, and the batches are
/// shuffled. Words that are not in the vocabulary are trained as `<unk>`, sentences without a word train the bias.
///
/// Guarantees: the same seed, model and corpus give the same weights bit for bit on one backend (`training_is_seeded`).
///
/// Cost: a step's gradient evaluations are those of the method; its gradient and Adam's moments have a row for every word of the vocabulary.
/// Losses are read at the end of an epoch, so that no step waits for the device.
///
/// For an example see [the module](super).
#[derive(Clone, Debug, PartialEq)]
pub struct TextTrainer {
    epochs: usize,
    batch_size: usize,
    learning_rate: f64,
    longest: usize,
    seed: u64,
}

/// The numbers of an epoch.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct EpochReport {
    /// Epochs before this one.
    pub epoch: usize,
    /// Mean of the method's loss over the steps.
    pub loss: f64,
    /// Sentences trained on, rewritten ones among them.
    pub sentences: usize,
    /// Gradient evaluations of batches.
    pub gradient_evaluations: u64,
}

/// Another text for a sentence of the corpus, of the same class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewritten {
    /// Number of the sentence in the corpus.
    pub sentence: usize,
    /// Whether this epoch has the new text only, instead of both.
    pub replaces: bool,
    /// The new text.
    pub text: String,
}

/// What happens between epochs. `()` does nothing.
pub trait TrainingHook<M> {
    /// Sentences of the corpus in other words, for this epoch alone: attacked with the classifier as it is now. Asked before each epoch.
    ///
    /// ```
    /// use adversarial::text::training::{Rewritten, Standard, TextTrainer, TrainingHook};
    /// use adversarial::text::{Corpus, NeuralText, TextCnnConfig, TextModule, Vocabulary};
    /// use burn::tensor::Device;
    ///
    /// /// Every sentence shouted, too.
    /// struct Shout<'a>(&'a Corpus);
    ///
    /// impl<M: TextModule> TrainingHook<M> for Shout<'_> {
    ///     fn rewrite(&mut self, _epoch: usize, _classifier: &NeuralText<M>) -> adversarial::Result<Vec<Rewritten>> {
    ///         let shouted = self.0.texts().iter().enumerate();
    ///         Ok(shouted.map(|(sentence, text)| Rewritten { sentence, replaces: false, text: text.to_uppercase() }).collect())
    ///     }
    /// }
    ///
    /// let corpus = Corpus::opinions(60, 1)?;
    /// let vocabulary = Vocabulary::build(corpus.texts(), 1, 10_000)?;
    /// let model = TextCnnConfig::new().with_dimension(8).with_filters(4).try_init(&vocabulary, 2, 1, &Device::flex())?;
    /// TextTrainer::new().epochs(1)?.train_with(model, vocabulary, &corpus, &Standard, &mut Shout(&corpus))?;
    /// # Ok::<(), adversarial::Error>(())
    /// ```
    ///
    /// # Errors
    /// Any; it ends the training.
    fn rewrite(&mut self, _epoch: usize, _classifier: &NeuralText<M>) -> Result<Vec<Rewritten>> {
        Ok(Vec::new())
    }

    /// Whether [`rewrite`](Self::rewrite) is to be asked. The classifier it gets costs a copy of the word vectors.
    fn rewrites(&self, _epoch: usize) -> bool {
        true
    }

    /// After an epoch.
    fn report(&mut self, _report: &EpochReport) {}
}

impl<M> TrainingHook<M> for () {
    fn rewrites(&self, _epoch: usize) -> bool {
        false
    }
}

/// Batches that are sorted by length together.
const POOL: usize = 20;

impl TextTrainer {
    /// With the settings of the table.
    pub fn new() -> Self {
        Self { epochs: 5, batch_size: 50, learning_rate: 2e-3, longest: 64, seed: 0 }
    }

    /// Passes over the corpus.
    ///
    /// # Errors
    /// [`Error::Parameter`] for 0.
    pub fn epochs(self, epochs: usize) -> Result<Self> {
        at_least_one("epochs", epochs)?;
        Ok(Self { epochs, ..self })
    }

    /// Sentences of a step.
    ///
    /// # Errors
    /// [`Error::Parameter`] for 0.
    pub fn batch_size(self, batch_size: usize) -> Result<Self> {
        at_least_one("batch_size", batch_size)?;
        Ok(Self { batch_size, ..self })
    }

    /// Learning rate of the first step.
    ///
    /// # Errors
    /// [`Error::Parameter`] unless it is above zero and finite.
    pub fn learning_rate(self, learning_rate: f64) -> Result<Self> {
        positive("learning_rate", learning_rate)?;
        Ok(Self { learning_rate, ..self })
    }

    /// Words of a sentence that are seen.
    ///
    /// # Errors
    /// [`Error::Parameter`] for 0.
    pub fn longest(self, longest: usize) -> Result<Self> {
        at_least_one("longest", longest)?;
        Ok(Self { longest, ..self })
    }

    /// Seed of everything random.
    pub fn seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }

    /// Trains a module from the weights it has.
    ///
    /// # Errors
    /// [`Error::TooFewClasses`] where the corpus has more classes than the module; those of the method and of [`NeuralText::new`].
    pub fn train<M: TextModule>(
        &self,
        model: M,
        vocabulary: Vocabulary,
        corpus: &Corpus,
        method: &dyn TextTraining<M>,
    ) -> Result<NeuralText<M>> {
        self.train_with(model, vocabulary, corpus, method, &mut ())
    }

    /// The same with a hook between epochs.
    ///
    /// # Errors
    /// Those of [`train`](Self::train) and of the hook; [`Error::Shape`] for a rewritten sentence that is not in the corpus.
    pub fn train_with<M: TextModule>(
        &self,
        model: M,
        vocabulary: Vocabulary,
        corpus: &Corpus,
        method: &dyn TextTraining<M>,
        hook: &mut dyn TrainingHook<M>,
    ) -> Result<NeuralText<M>> {
        let (needed, classes) = (corpus.classes().len(), model.classes());
        if needed > classes {
            return Err(Error::TooFewClasses { what: "the corpus", needed, classes });
        }
        let classifier = |model: M| NeuralText::new(model, vocabulary.clone())?.longest(self.longest);
        let encode = |text: &str| vocabulary.encode(text, self.longest).ids;
        let sentences: Vec<Vec<usize>> = corpus.texts().iter().map(|text| encode(text)).collect();
        // Checked before the first step: sizes that do not fit.
        classifier(model.clone())?;
        let device = model.embedding().device().inner().autodiff();
        let mut model = on_tape(model, &device)?;
        let mut optimizer = AdamConfig::new().with_epsilon(1e-8).init();
        let random = Random::new(self.seed).fork("text-training");
        for epoch in 0..self.epochs {
            let rewritten = match hook.rewrites(epoch) {
                true => hook.rewrite(epoch, &classifier(model.clone())?)?,
                false => Vec::new(),
            };
            let examples = examples(&sentences, corpus.labels(), rewritten, &encode)?;
            let batches = self.batches(&examples, &mut random.fork(format!("order {epoch}")));
            let mut report = EpochReport { epoch, loss: 0.0, sentences: examples.len(), gradient_evaluations: 0 };
            let mut losses = Vec::with_capacity(batches.len());
            for (step, batch) in batches.iter().enumerate() {
                let done = (epoch as f64 + step as f64 / batches.len() as f64) / self.epochs as f64;
                let batch = to_device(&examples, batch, &device);
                let found = method.gradients(&model, &batch, &random.fork(format!("step {epoch} {step}")))?;
                report.gradient_evaluations += found.gradient_evaluations;
                losses.push(found.loss);
                model = optimizer.step(self.learning_rate * (1.0 - done), model, found.gradient.into_params()?);
            }
            report.loss = losses.iter().map(core_tensor::Scalar::value).sum::<f64>() / losses.len() as f64;
            hook.report(&report);
        }
        classifier(model)
    }

    /// Each epoch's batches: sentences by number.
    fn batches(&self, examples: &[(Vec<usize>, usize)], random: &mut Random) -> Vec<Vec<usize>> {
        let mut order = random.permutation(examples.len());
        let mut batches: Vec<Vec<usize>> = Vec::new();
        for pool in order.chunks_mut(self.batch_size.saturating_mul(POOL)) {
            pool.sort_by_key(|example| examples[*example].0.len());
            batches.extend(pool.chunks(self.batch_size).map(<[usize]>::to_vec));
        }
        let places = random.permutation(batches.len());
        places.into_iter().map(|place| std::mem::take(&mut batches[place])).collect()
    }
}

impl Default for TextTrainer {
    fn default() -> Self {
        Self::new()
    }
}

/// The module on the autodiff device, where what is to be trained requires a gradient.
fn on_tape<M: TextModule>(model: M, device: &Device) -> Result<M> {
    match model.embedding().device().is_autodiff() {
        true => Ok(model),
        false => Ok(model.train().fork(device)),
    }
}

/// The sentences of an epoch and their classes.
fn examples(
    sentences: &[Vec<usize>],
    labels: &[usize],
    rewritten: Vec<Rewritten>,
    encode: &dyn Fn(&str) -> Vec<usize>,
) -> Result<Vec<(Vec<usize>, usize)>> {
    if let Some(wrong) = rewritten.iter().find(|wrong| wrong.sentence >= sentences.len()) {
        let expected = format!("a sentence below {}, the length of the corpus", sentences.len());
        return Err(Error::Shape { what: "a rewritten sentence's number", actual: vec![wrong.sentence], expected });
    }
    let mut replaced = vec![false; sentences.len()];
    for new in &rewritten {
        replaced[new.sentence] |= new.replaces;
    }
    let old = (0..sentences.len()).filter(|i| !replaced[*i]).map(|i| (sentences[i].clone(), labels[i]));
    let new = rewritten.iter().map(|new| (encode(&new.text), labels[new.sentence]));
    Ok(old.chain(new).collect())
}

fn to_device(examples: &[(Vec<usize>, usize)], batch: &[usize], device: &Device) -> TextBatch {
    let sentences: Vec<&[usize]> = batch.iter().map(|i| &examples[*i].0[..]).collect();
    let places = sentences.iter().map(|sentence| sentence.len()).max().unwrap_or(0).max(1);
    let (ids, mask) = numbers(&sentences, batch.len(), places, device);
    let labels: Vec<i64> = batch.iter().map(|i| examples[*i].1 as i64).collect();
    TextBatch { ids, mask, labels: Tensor::from_data(TensorData::new(labels, [batch.len()]), device) }
}
