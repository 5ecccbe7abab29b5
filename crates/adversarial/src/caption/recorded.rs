//! Burn models as captioners.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor, TensorData};
use core_tensor::{Frozen, Program, Tree};

use super::captioner::{Captioner, PulledCaptions, check_captions, check_images};
use super::vocabulary::Vocabulary;
use crate::attack::check::at_least_one;
use crate::error::{Error, Result};

/// A Burn model that is trained by teacher forcing, as a captioner.
///
/// `forward` gives the logits `[images, steps, words]` for images `[images, channels, height, width]` and words
/// `[images, steps]`, the first of which begins every caption (by default the word that ends them, see [`start`](Self::start));
/// the logits at a step must not depend on words behind it.
///
/// The model is taken in inference mode ([`Module::valid`]). Gradients are those of a recorded [`Program`]: one recording for each
/// number of images, these rounded up to `2^k` or `3·2^k`, when it is first seen; always of `most_words` steps.
///
/// Guarantee: logits and gradients are those of the model whatever the other images of the batch
/// (test `batches_do_not_mix`).
///
/// ```
/// use adversarial::caption::{Captioner, RecordedCaptioner, Vocabulary};
/// use burn::module::Module;
/// use burn::nn::{Embedding, EmbeddingConfig, Linear, LinearConfig};
/// use burn::tensor::{Device, Int, Tensor};
///
/// // The next word from the image and the word before it: a model as small as can be.
/// #[derive(Module, Debug)]
/// struct Bigrams {
///     image: Linear,
///     word: Embedding,
/// }
///
/// impl Bigrams {
///     fn forward(&self, images: Tensor<4>, words: Tensor<2, Int>) -> Tensor<3> {
///         let seen = self.image.forward(images.flatten::<2>(1, 3));
///         self.word.forward(words) + seen.unsqueeze_dim::<3>(1)
///     }
/// }
///
/// let device = Device::flex();
/// let vocabulary = Vocabulary::new(["a", "dog", "cat", "."], ".")?;
/// let model = Bigrams { image: LinearConfig::new(12, 4).init(&device), word: EmbeddingConfig::new(4, 4).init(&device) };
/// let captioner = RecordedCaptioner::new(&model, vocabulary, [3, 2, 2], 5, Bigrams::forward)?;
/// let images = Tensor::<4>::full([2, 3, 2, 2], 0.5, &device);
/// let captions = captioner.greedy(images.clone())?;
/// println!("{}", captioner.vocabulary().spell(&captions[0]));
/// let pulled = captioner.pullback(images, &captions)?;
/// let gradient = (pulled.back)(Tensor::ones(pulled.logits.dims(), &device))?;
/// assert_eq!(gradient.dims(), [2, 3, 2, 2]);
/// # Ok::<(), adversarial::Error>(())
/// ```
pub struct RecordedCaptioner<M> {
    forward: Arc<Forward<M>>,
    decoder: Option<Box<Decoder<M>>>,
    /// A recording for each number of images.
    programs: Mutex<HashMap<usize, Arc<Recording<M>>>>,
    model: Frozen<M>,
    vocabulary: Vocabulary,
    image: [usize; 3],
    most_words: usize,
    start: usize,
    device: Device,
}

type Forward<M> = dyn Fn(&M, Tensor<4>, Tensor<2, Int>) -> Tensor<3> + Send + Sync;
type Decoder<M> = dyn Fn(&M, Tensor<4>) -> Vec<Vec<usize>> + Send + Sync;
type Recording<M> = Program<(Frozen<M>, Tensor<2, Int>)>;

impl<M: Module + Sync + 'static> RecordedCaptioner<M> {
    /// Takes `forward` as the model's logits for images `[channels, height, width]` and captions of at most `most_words` words.
    ///
    /// # Errors
    /// [`Error::Parameter`] for `most_words` of 0; [`Error::Shape`] if the logits are not `[images, steps, words]` of the
    /// vocabulary; [`core_tensor::ProgramError`] inside of [`Error::Core`] if the model cannot be recorded.
    pub fn new(
        model: &M,
        vocabulary: Vocabulary,
        image: [usize; 3],
        most_words: usize,
        forward: impl Fn(&M, Tensor<4>, Tensor<2, Int>) -> Tensor<3> + Send + Sync + 'static,
    ) -> Result<Self> {
        at_least_one("most_words", most_words)?;
        let model = model.valid();
        let device = model.devices().into_iter().next().unwrap_or_default();
        let recorded = Self {
            forward: Arc::new(forward),
            decoder: None,
            programs: Mutex::default(),
            model: Frozen(model),
            start: vocabulary.end(),
            vocabulary,
            image,
            most_words,
            device,
        };
        let [channels, height, width] = image;
        let images = Tensor::zeros([1, channels, height, width], &recorded.device);
        let words = recorded.words(&[Vec::new()], most_words);
        let logits = (recorded.forward)(&recorded.model.0, images.clone(), words.clone()).dims();
        if logits != [1, most_words, recorded.vocabulary.len()] {
            let words = recorded.vocabulary.len();
            let expected = format!("[1, {most_words}, {words}] for an image, {most_words} steps and {words} words");
            return Err(Error::Shape { what: "logits", actual: logits.to_vec(), expected });
        }
        recorded.program(&Tree::empty().push("images", images)?, &words)?;
        Ok(recorded)
    }

    /// Sets the word that captions begin with, which is not one of their words.
    ///
    /// # Errors
    /// [`Error::Label`] for a number that is none of a word.
    pub fn start(self, start: usize) -> Result<Self> {
        match start < self.vocabulary.len() {
            true => Ok(Self { start, ..self }),
            false => {
                let (label, classes) = (start as i64, self.vocabulary.len());
                Err(Error::Label { what: "the first word", example: 0, label, classes })
            }
        }
    }

    /// Sets the model's own greedy decoder, in place of one that asks for the logits of all words so far at each step. Captions
    /// are to be without the word that ends them and cut after `most_words` words.
    pub fn decoder(self, decoder: impl Fn(&M, Tensor<4>) -> Vec<Vec<usize>> + Send + Sync + 'static) -> Self {
        Self { decoder: Some(Box::new(decoder)), ..self }
    }

    /// The model, in inference mode.
    pub fn model(&self) -> &M {
        &self.model.0
    }

    /// What the decoder reads: the first word, then those of the captions, padded with the word that ends them.
    fn words(&self, captions: &[Vec<usize>], steps: usize) -> Tensor<2, Int> {
        let mut words = vec![self.vocabulary.end() as i64; captions.len() * steps];
        for (row, caption) in words.chunks_mut(steps).zip(captions) {
            row[0] = self.start as i64;
            row[1..].iter_mut().zip(caption).for_each(|(slot, word)| *slot = *word as i64);
        }
        Tensor::from_data(TensorData::new(words, [captions.len(), steps]), &self.device)
    }

    fn check(&self, images: &Tensor<4>, captions: &[Vec<usize>]) -> Result<()> {
        check_images(images.dims(), self.image, captions.len())?;
        check_captions(captions, self.vocabulary.len(), self.most_words)
    }

    /// The recording for as many images as the point has.
    fn program(&self, point: &Tree, words: &Tensor<2, Int>) -> Result<Arc<Recording<M>>> {
        let images = words.dims()[0];
        let mut programs = self.programs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(program) = programs.get(&images) {
            return Ok(program.clone());
        }
        let forward = self.forward.clone();
        let batch = (self.model.clone(), words.clone());
        let program = Program::record_tree_first_order(point, &batch, move |point, (model, words)| {
            let images = point.get::<4>("images").unwrap_or_else(|error| panic!("{error}"));
            let logits = forward(&model.0, images, words.clone());
            let count = logits.dims().iter().product::<usize>();
            logits.reshape([count])
        })?;
        Ok(programs.entry(images).or_insert(Arc::new(program)).clone())
    }
}

impl<M: Module + Sync + 'static> Captioner for RecordedCaptioner<M> {
    fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    fn image(&self) -> [usize; 3] {
        self.image
    }

    fn most_words(&self) -> usize {
        self.most_words
    }

    fn device(&self) -> Device {
        self.device.clone()
    }

    fn logits(&self, images: Tensor<4>, captions: &[Vec<usize>]) -> Result<Tensor<3>> {
        self.check(&images, captions)?;
        let longest = captions.iter().map(Vec::len).max().unwrap_or(0);
        let words = self.words(captions, self.most_words.min(longest + 1));
        Ok((self.forward)(&self.model.0, images.to_device(&self.device), words))
    }

    fn pullback(&self, images: Tensor<4>, captions: &[Vec<usize>]) -> Result<PulledCaptions<'_>> {
        self.check(&images, captions)?;
        let [count, channels, height, width] = images.dims();
        let (steps, words, padded) = (self.most_words, self.vocabulary.len(), rounded_up(count));
        let padding = |shape| Tensor::zeros(shape, &self.device);
        let images = match padded - count {
            0 => images.to_device(&self.device),
            more => Tensor::cat(vec![images.to_device(&self.device), padding([more, channels, height, width])], 0),
        };
        let mut read = captions.to_vec();
        read.resize(padded, Vec::new());
        let point = Tree::empty().push("images", images)?;
        let read = self.words(&read, steps);
        let program = self.program(&point, &read)?;
        let pullback = program.pullback(&point, &(self.model.clone(), read))?;
        let logits = pullback.value.clone().reshape([padded, steps, words]).slice_dim(0, 0..count);
        let back = Box::new(move |cotangent: Tensor<3>| {
            let cotangent = match padded - count {
                0 => cotangent,
                more => Tensor::cat(vec![cotangent, Tensor::zeros([more, steps, words], &pullback.value.device())], 0),
            };
            let gradient = pullback.apply(&cotangent.reshape([padded * steps * words]))?;
            match gradient.is_empty() {
                // Logits that do not depend on the image at all.
                true => Ok(Tensor::zeros([count, channels, height, width], &pullback.value.device())),
                false => Ok(gradient.get::<4>("images")?.slice_dim(0, 0..count)),
            }
        });
        Ok(PulledCaptions { logits, back })
    }

    fn greedy(&self, images: Tensor<4>) -> Result<Vec<Vec<usize>>> {
        check_images(images.dims(), self.image, images.dims()[0])?;
        match &self.decoder {
            Some(decoder) => Ok(decoder(&self.model.0, images.to_device(&self.device))),
            None => super::captioner::greedily(self, images),
        }
    }
}

/// The smallest `2^k` or `3·2^k` that is not below a number.
fn rounded_up(count: usize) -> usize {
    let power = count.next_power_of_two();
    match power / 4 * 3 {
        less if less >= count => less,
        _ => power,
    }
}

#[cfg(test)]
mod tests {
    use super::rounded_up;

    #[test]
    fn sizes_are_few() {
        let sizes: Vec<usize> = [1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 17, 24, 25, 33].map(rounded_up).to_vec();
        assert_eq!(sizes, [1, 2, 3, 4, 6, 6, 8, 8, 12, 12, 16, 24, 24, 32, 48]);
    }
}
