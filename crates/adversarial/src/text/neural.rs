//! A Burn module and a vocabulary as a classifier of texts.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use core_tensor::Tree;
use rayon::prelude::*;

use crate::attack::check::at_least_one;
use crate::error::{Error, Result};
use crate::text::models::numbers;
use crate::text::vocabulary::SPECIAL;
use crate::text::{
    Embedded, Encoded, TextClassifier, TextGradients, TextModule, TokenGradients, Vocabulary, WordVectors,
};

/// Sentences that are evaluated together.
const ROWS: usize = 16;
/// Lengths are filled up to the next multiple of this.
const PLACES: usize = 8;

/// A Burn module and the vocabulary it was trained with: a classifier of texts, with gradients for the vectors of words.
///
/// A text is the first [`longest`](Self::longest) of its words ([`tokenise`](crate::text::tokenise)). A word that the vocabulary does not know has
/// the vector of `<unk>`, and so a text of unknown words alone is one of as many `<unk>`. A text without a word is no error: the
/// modules here give it their bias as logits. Logits that are not finite are handed on as they are.
///
/// Guarantees: a text's logits are the same bit for bit whatever else is in the batch (`logits_do_not_depend_on_the_batch`): every text
/// is evaluated in a batch of one size, filled up to a length that depends on its own alone.
///
/// Cost: texts are evaluated 16 at a time, those of about the same length together, on all cores; a single text costs as much as 16.
/// One host synchronisation for every 16 texts. No tape is kept but by [`gradients`](TextGradients::gradients). The weights are kept once,
/// the vectors of words twice.
///
/// ```
/// use adversarial::text::{NeuralText, TextClassifier, TextCnnConfig, TextGradients, Vocabulary};
/// use burn::tensor::Device;
///
/// let vocabulary = Vocabulary::build(["a good film", "a bad film"], 1, 100)?;
/// let model = TextCnnConfig::new().with_filters(8).try_init(&vocabulary, 2, 7, &Device::flex())?;
/// let classifier = NeuralText::new(model, vocabulary)?;
/// let logits = classifier.logits(&["a good film", "good"])?;
/// assert_eq!((logits.len(), logits[0].len()), (2, 2));
/// let gradients = classifier.gradients(&["An unheard film!"], &|_, _| vec![1.0, -1.0])?;
/// assert_eq!(gradients[0].tokens, [0..2, 3..10, 11..15]);
/// assert_eq!(gradients[0].rows[2], classifier.word_vectors().row("film"));
/// # Ok::<(), adversarial::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct NeuralText<M> {
    vocabulary: Vocabulary,
    vectors: WordVectors,
    model: M,
    /// The model on the autodiff device, frozen.
    taped: M,
    longest: usize,
    device: Device,
}

const WORDS: &str = "vocabulary.txt";
const WEIGHTS: &str = "weights.bpk";

impl<M: TextModule> NeuralText<M> {
    /// The module in inference mode, with texts of 64 words at most.
    ///
    /// # Errors
    /// [`Error::Shape`] where the module has not as many vectors as the vocabulary has numbers, [`Error::Word`] where one is not finite.
    pub fn new(model: M, vocabulary: Vocabulary) -> Result<Self> {
        let model = model.valid();
        let embedding = model.embedding();
        let [rows, dimension] = embedding.dims();
        if rows != vocabulary.len() {
            let expected = format!("[{}, dimension], one for each number of the vocabulary", vocabulary.len());
            return Err(Error::Shape { what: "the embedding", actual: vec![rows, dimension], expected });
        }
        let device = embedding.device();
        let values: Vec<f32> = embedding.into_data().iter::<f32>().skip(SPECIAL * dimension).collect();
        let vectors = WordVectors::new(vocabulary.words().to_vec(), values)?;
        let taped = model.clone().to_device(&device.clone().autodiff()).freeze();
        Ok(Self { vocabulary, vectors, model, taped, longest: 64, device })
    }

    /// How many words of a text are seen.
    ///
    /// # Errors
    /// [`Error::Parameter`] for 0.
    pub fn longest(self, longest: usize) -> Result<Self> {
        at_least_one("longest", longest)?;
        Ok(Self { longest, ..self })
    }

    /// The module, in inference mode.
    pub fn model(&self) -> &M {
        &self.model
    }

    /// The words the module knows.
    pub fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    /// Writes `vocabulary.txt` and `weights.bpk` to a folder, which is made where there is none. Each file is replaced in one step.
    ///
    /// # Errors
    /// [`Error::Data`] and [`core_tensor::Error::File`] where they cannot be written.
    pub fn save(&self, folder: impl AsRef<Path>) -> Result<()> {
        let folder = folder.as_ref();
        std::fs::create_dir_all(folder).map_err(|error| super::files::wrong(folder, error))?;
        self.vocabulary.save(folder.join(WORDS))?;
        Ok(Tree::from_module_all(&self.model).save(folder.join(WEIGHTS))?)
    }

    /// Reads what [`save`](Self::save) has written. `model` makes a module for the vocabulary, whose weights are then those of the file.
    ///
    /// # Errors
    /// [`Error::Data`] and [`Error::Core`] where a file cannot be read or the weights are of another module; those of [`new`](Self::new).
    ///
    /// ```
    /// use adversarial::text::{NeuralText, TextClassifier, TextCnnConfig, Vocabulary};
    /// use burn::tensor::Device;
    ///
    /// let config = TextCnnConfig::new().with_filters(8);
    /// let vocabulary = Vocabulary::build(["a good film", "a bad film"], 1, 100)?;
    /// let classifier = NeuralText::new(config.try_init(&vocabulary, 2, 7, &Device::flex())?, vocabulary)?;
    /// let folder = std::env::temp_dir().join(format!("classifier-{}", std::process::id()));
    /// classifier.save(&folder)?;
    /// let again = NeuralText::load(&folder, |vocabulary| config.try_init(vocabulary, 2, 0, &Device::flex()))?;
    /// assert_eq!(again.logits(&["a good film"])?, classifier.logits(&["a good film"])?);
    /// # std::fs::remove_dir_all(&folder).unwrap();
    /// # Ok::<(), adversarial::Error>(())
    /// ```
    pub fn load(folder: impl AsRef<Path>, model: impl FnOnce(&Vocabulary) -> Result<M>) -> Result<Self> {
        let folder = folder.as_ref();
        let vocabulary = Vocabulary::load(folder.join(WORDS))?;
        let model = model(&vocabulary)?;
        let weights = Tree::load(folder.join(WEIGHTS), &model.embedding().device().inner())?;
        let present = Tree::from_module_all(&model);
        // Ids are those of the file; paths and their order have to be those of the module.
        let paths = |tree: &Tree| tree.names().iter().map(|name| name.path.clone()).collect::<Vec<_>>();
        if paths(&weights) != paths(&present) {
            let problem = format!("it holds {:?}, the module has {:?}", paths(&weights), paths(&present));
            return Err(super::files::wrong(&folder.join(WEIGHTS), problem));
        }
        Self::new(weights.write_into(model)?, vocabulary)
    }

    /// Texts as numbers, and batches of texts with as many places.
    fn batches(&self, texts: &[&str]) -> (Vec<Encoded>, Vec<(usize, Vec<usize>)>) {
        let encoded: Vec<_> = texts.par_iter().map(|text| self.vocabulary.encode(text, self.longest)).collect();
        let mut by_places: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (index, text) in encoded.iter().enumerate() {
            by_places.entry(text.ids.len().max(1).next_multiple_of(PLACES)).or_default().push(index);
        }
        let batches = by_places
            .into_iter()
            .flat_map(|(places, texts)| texts.chunks(ROWS).map(|texts| (places, texts.to_vec())).collect::<Vec<_>>());
        let batches = batches.collect();
        (encoded, batches)
    }

    fn embed(&self, model: &M, encoded: &[Encoded], texts: &[usize], places: usize, device: &Device) -> Embedded {
        let ids: Vec<&[usize]> = texts.iter().map(|text| &encoded[*text].ids[..]).collect();
        let (ids, mask) = numbers(&ids, ROWS, places, device);
        Embedded::look_up(model.embedding(), ids, mask)
    }
}

impl<M: TextModule> TextClassifier for NeuralText<M> {
    fn classes(&self) -> usize {
        self.model.classes()
    }

    fn logits(&self, texts: &[&str]) -> Result<Vec<Vec<f64>>> {
        let (encoded, batches) = self.batches(texts);
        let found = batches.into_par_iter().map(|(places, batch)| {
            let embedded = self.embed(&self.model, &encoded, &batch, places, &self.device);
            let logits = rows(self.model.forward(embedded, None));
            batch.into_iter().zip(logits).collect::<Vec<_>>()
        });
        Ok(in_order(found.flatten_iter().collect()))
    }
}

impl<M: TextModule> TextGradients for NeuralText<M> {
    fn gradients(&self, texts: &[&str], cotangents: &dyn Fn(usize, &[f64]) -> Vec<f64>) -> Result<Vec<TokenGradients>> {
        let (mut encoded, batches) = self.batches(texts);
        let (classes, dimension) = (self.classes(), self.vectors.dimension());
        let device = self.device.clone().autodiff();
        let mut found = Vec::with_capacity(texts.len());
        for (places, batch) in batches {
            let Embedded { vectors, mask } = self.embed(&self.taped, &encoded, &batch, places, &device);
            let vectors = Tensor::from_inner(vectors.inner()).require_grad();
            let logits = self.taped.forward(Embedded { vectors: vectors.clone(), mask }, None);
            let values = rows(logits.clone().inner());
            let mut weights = vec![0.0; ROWS * classes];
            for ((text, logits), weights) in batch.iter().zip(&values).zip(weights.chunks_mut(classes)) {
                let cotangent = cotangents(*text, logits);
                if cotangent.len() != classes {
                    let expected = format!("[{classes}], one value for each class");
                    return Err(Error::Shape { what: "a cotangent", actual: vec![cotangent.len()], expected });
                }
                weights.copy_from_slice(&cotangent);
            }
            let weights = Tensor::<2>::from_data(TensorData::new(weights, [ROWS, classes]), (&device, logits.dtype()));
            let gradients = (logits * weights).sum().backward();
            // A module may depend on no vector at all.
            let gradient = vectors.grad(&gradients).map(|gradient| gradient.into_data().iter::<f32>().collect());
            let gradient: Vec<f32> = gradient.unwrap_or_else(|| vec![0.0; ROWS * places * dimension]);
            for ((text, logits), row) in batch.into_iter().zip(values).zip(gradient.chunks(places * dimension)) {
                let Encoded { ids, spans } = std::mem::take(&mut encoded[text]);
                let gradients = row.chunks(dimension).take(ids.len()).map(<[f32]>::to_vec).collect();
                let rows = ids.into_iter().map(|id| id.checked_sub(SPECIAL)).collect();
                found.push((text, TokenGradients { logits, tokens: spans, rows, gradients }));
            }
        }
        Ok(in_order(found))
    }

    fn word_vectors(&self) -> &WordVectors {
        &self.vectors
    }
}

/// The rows of a matrix on the host.
fn rows(matrix: Tensor<2>) -> Vec<Vec<f64>> {
    let columns = matrix.dims()[1];
    let values: Vec<f64> = matrix.into_data().iter::<f64>().collect();
    values.chunks(columns).map(<[f64]>::to_vec).collect()
}

fn in_order<T>(mut found: Vec<(usize, T)>) -> Vec<T> {
    found.sort_unstable_by_key(|(text, _)| *text);
    found.into_iter().map(|(_, value)| value).collect()
}
