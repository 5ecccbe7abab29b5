//! Training of captioners.

use burn::module::Module;
use burn::optim::{AdamWConfig, ModuleOptimizer};
use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Int, Tensor, TensorData};
use core_tensor::{Program, Random, Tree};

use super::captioner::check_captions;
use super::vocabulary::Vocabulary;
use crate::attack::check::{at_least_one, positive};
use crate::error::{Error, Result};

/// Teacher forcing: trains an image-to-sequence model to give each word of a caption its due, given the image and the true words
/// before it.
///
/// Minimises `−(1/N) Σ_t log p(S_t | image, S_1 … S_{t−1})` over the `N` words of a batch, the ends of captions included, by AdamW with
/// a rate that falls to zero along half a cosine.
///
/// | parameter | default | range | effect |
/// |---|---|---|---|
/// | [`steps`](Self::steps) | 1000 | ≥ 1 | batches |
/// | [`batch`](Self::batch) | 64 | ≥ 1 | captions of a batch |
/// | [`rate`](Self::rate) | 0.002 | > 0 | first learning rate |
/// | [`seed`](Self::seed) | 0 | any | of the batches |
///
/// Cost: a gradient and one host synchronisation a step.
///
/// R. J. Williams, D. Zipser, "A learning algorithm for continually running fully recurrent neural networks", Neural Computation 1989.
///
/// ```
/// use adversarial::caption::{ShowAndTell, ShowAndTellShape, TeacherForcing, Vocabulary};
/// use burn::tensor::{Device, Tensor};
/// use core_tensor::Random;
///
/// let device = Device::flex();
/// let vocabulary = Vocabulary::new(["dark", "light", "."], ".")?;
/// let shape = ShowAndTellShape { image: [1, 2, 2], channels: vec![], hidden: 8, words: 3 };
/// let model = ShowAndTell::new(&shape, &mut Random::new(1), &device.clone().autodiff())?;
/// let dark = Tensor::<4>::zeros([1, 1, 2, 2], &device);
/// let images = Tensor::cat(vec![dark.clone(), dark + 1.0], 0);
/// let captions = [vocabulary.encode("dark")?, vocabulary.encode("light")?];
/// let training = TeacherForcing::new().steps(60).batch(4).rate(0.05);
/// let model = training.fit(model, ShowAndTell::forward, &vocabulary, &images, &captions, &mut |_, _| true)?;
/// assert_eq!(model.decode(images, 2, 2, 3), captions);
/// # Ok::<(), adversarial::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TeacherForcing {
    steps: usize,
    batch: usize,
    rate: f64,
    seed: u64,
}

impl Default for TeacherForcing {
    fn default() -> Self {
        Self::new()
    }
}

impl TeacherForcing {
    /// The defaults.
    pub fn new() -> Self {
        Self { steps: 1000, batch: 64, rate: 0.002, seed: 0 }
    }

    /// Sets the number of batches.
    pub fn steps(self, steps: usize) -> Self {
        Self { steps, ..self }
    }

    /// Sets the captions of a batch.
    pub fn batch(self, batch: usize) -> Self {
        Self { batch, ..self }
    }

    /// Sets the first learning rate.
    pub fn rate(self, rate: f64) -> Self {
        Self { rate, ..self }
    }

    /// Sets the seed of the batches.
    pub fn seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }

    /// Trains a model on an autodiff device, whose `forward` is that of [`RecordedCaptioner`](super::RecordedCaptioner), and gives it
    /// in inference mode. Captions begin with the word that ends them. `observe` is told the number of each step and its loss, and
    /// says whether to go on; training ends early where it does not.
    ///
    /// # Errors
    /// [`Error::Shape`] for another number of captions than images, [`Error::EmptyBatch`] for none, [`Error::Label`] for a word that
    /// is not in the vocabulary, [`Error::Parameter`], and what cannot be recorded.
    pub fn fit<M: Module + Sync + 'static>(
        &self,
        mut model: M,
        forward: impl Fn(&M, Tensor<4>, Tensor<2, Int>) -> Tensor<3> + Send + Sync + 'static,
        vocabulary: &Vocabulary,
        images: &Tensor<4>,
        captions: &[Vec<usize>],
        observe: &mut dyn FnMut(usize, f64) -> bool,
    ) -> Result<M> {
        at_least_one("steps", self.steps)?;
        at_least_one("batch", self.batch)?;
        positive("rate", self.rate)?;
        let [count, ..] = images.dims();
        if count == 0 {
            return Err(Error::EmptyBatch { what: "training of a captioner" });
        }
        if captions.len() != count {
            let expected = format!("[{count}], one for each image");
            return Err(Error::Shape { what: "captions", actual: vec![captions.len()], expected });
        }
        check_captions(captions, vocabulary.len(), usize::MAX)?;
        let longest = captions.iter().map(Vec::len).max().unwrap_or(0);
        let device = images.device();
        let mut random = Random::new(self.seed);
        let mut optimizer: ModuleOptimizer = AdamWConfig::new().with_epsilon(1e-8).with_weight_decay(1e-4).init();
        let mut draw = || {
            let rows: Vec<usize> = (0..self.batch).map(|_| random.below(count as u64) as usize).collect();
            let lesson = Lesson::of(&rows, captions, longest + 1, vocabulary.end(), &device);
            (super::captioner::pick(images, &rows), lesson.read, lesson.said, lesson.weights)
        };
        let mut batch = draw();
        let program = Program::record_first_order(&model, &batch, move |model, (images, read, said, weights)| {
            let logits = forward(model, images.clone(), read.clone());
            let chosen = log_softmax(logits, 2).gather(2, said.clone().unsqueeze_dim::<3>(2)).squeeze_dim::<2>(2);
            (chosen * weights.clone()).sum().neg()
        })?;
        for step in 0..self.steps {
            let found = program.value_and_grad(&Tree::from_module(&model), &batch)?;
            let angle = std::f64::consts::PI * step as f64 / self.steps as f64;
            let rate = self.rate * (1.0 + angle.cos()) / 2.0;
            model = optimizer.step(rate, model, found.gradient.into_params()?);
            if !observe(step, f64::from(found.value.into_scalar::<f32>())) {
                break;
            }
            batch = draw();
        }
        Ok(model.valid())
    }
}

/// What a batch reads and is to say.
struct Lesson {
    read: Tensor<2, Int>,
    said: Tensor<2, Int>,
    /// One over the number of words in the batch; 0 behind the end of a caption.
    weights: Tensor<2>,
}

impl Lesson {
    fn of(rows: &[usize], captions: &[Vec<usize>], steps: usize, end: usize, device: &Device) -> Self {
        let shape = [rows.len(), steps];
        let total: usize = rows.iter().map(|row| captions[*row].len() + 1).sum();
        let mut read = vec![end as i64; rows.len() * steps];
        let (mut said, mut weights) = (read.clone(), vec![0f32; read.len()]);
        for (i, row) in rows.iter().enumerate() {
            let (caption, from) = (&captions[*row], i * steps);
            for (t, word) in caption.iter().enumerate() {
                read[from + t + 1] = *word as i64;
                said[from + t] = *word as i64;
            }
            weights[from..=from + caption.len()].fill(1.0 / total as f32);
        }
        Self {
            read: Tensor::from_data(TensorData::new(read, shape), device),
            said: Tensor::from_data(TensorData::new(said, shape), device),
            weights: Tensor::from_data(TensorData::new(weights, shape), device),
        }
    }
}
