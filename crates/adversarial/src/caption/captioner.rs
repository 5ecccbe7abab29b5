//! Captioners as an attacker sees them.

use burn::tensor::{Device, Int, Tensor, TensorData};

use super::vocabulary::Vocabulary;
use crate::attack::check::at_least_one;
use crate::error::{Error, Result};

/// A model under attack that writes a caption for an image, word by word: logits of the next word, given the image and the words
/// before.
///
/// An image's logits have to be a function of that image and of the words before alone. Normalisation belongs to the captioner.
///
/// | implementation | gradients by | for |
/// |---|---|---|
/// | [`RecordedCaptioner`](super::RecordedCaptioner) | a recorded [`Program`](core_tensor::Program) | any Burn model without control flow that depends on data |
/// | your own | anything | every other model |
///
/// Captions are lists of the numbers of words in the [`vocabulary`](Self::vocabulary), without the word that ends them; one of
/// [`most_words`](Self::most_words) needs no end, it is cut there.
pub trait Captioner {
    /// The words.
    fn vocabulary(&self) -> &Vocabulary;

    /// Shape of an image, `[channels, height, width]`.
    fn image(&self) -> [usize; 3];

    /// Number of words after which a caption is cut.
    fn most_words(&self) -> usize;

    /// Where images have to be.
    fn device(&self) -> Device;

    /// Logits of every next word under teacher forcing, without gradients: `[images, steps, words]` for images
    /// `[images, channels, height, width]` and a caption each. Those at step `t` are given the first `t` words of the image's
    /// caption. There are as many steps as the longest caption has words and one more, at most [`most_words`](Self::most_words);
    /// more do no harm, and those behind the end of an image's caption mean nothing.
    ///
    /// # Errors
    /// What the model fails with.
    fn logits(&self, images: Tensor<4>, captions: &[Vec<usize>]) -> Result<Tensor<3>>;

    /// The same logits, and the pullback from a cotangent of theirs to the images' gradient.
    ///
    /// # Errors
    /// What the model fails with.
    fn pullback(&self, images: Tensor<4>, captions: &[Vec<usize>]) -> Result<PulledCaptions<'_>>;

    /// Captions by greedy decoding: the likeliest word at each step, the first of equals, until the end.
    ///
    /// This default asks [`logits`](Self::logits) once a step with all words so far. Give the model's own decoder where there is
    /// one: it is what attacks are judged by.
    ///
    /// # Errors
    /// What the model fails with.
    fn greedy(&self, images: Tensor<4>) -> Result<Vec<Vec<usize>>> {
        greedily(self, images)
    }

    /// Captions by beam search: at each step the `width` likeliest beginnings and whole captions of each image are kept, and the
    /// likeliest caption is given once no beginning is left among them. One beam is greedy decoding. Likelihoods are not divided by
    /// lengths.
    ///
    /// Cost: `width` times that of the default of [`greedy`](Self::greedy).
    ///
    /// # Errors
    /// [`Error::Parameter`] for no beam, and what the model fails with.
    fn beam(&self, images: Tensor<4>, width: usize) -> Result<Vec<Vec<usize>>> {
        at_least_one("width", width)?;
        let whole = |beam: &Beam| beam.ended || beam.words.len() == self.most_words();
        let mut beams = vec![vec![Beam::default()]; images.dims()[0]];
        for step in 0..self.most_words() {
            let open: Vec<(usize, usize)> = beams
                .iter()
                .enumerate()
                .flat_map(|(i, of)| of.iter().enumerate().filter(|(_, beam)| !whole(beam)).map(move |(b, _)| (i, b)))
                .collect();
            if open.is_empty() {
                break;
            }
            let rows: Vec<usize> = open.iter().map(|(i, _)| *i).collect();
            let words: Vec<Vec<usize>> = open.iter().map(|(i, b)| beams[*i][*b].words.clone()).collect();
            let logits = Rows::of(self.logits(pick(&images, &rows), &words)?);
            let mut grown: Vec<Vec<Beam>> =
                beams.iter().map(|of| of.iter().filter(|beam| whole(beam)).cloned().collect()).collect();
            for (row, (i, b)) in open.iter().enumerate() {
                let (beam, z) = (&beams[*i][*b], logits.at(row, step));
                let total = log_sum_exp(z);
                for (word, z) in z.iter().enumerate() {
                    let mut longer = Beam { score: beam.score + f64::from(*z) - total, ..beam.clone() };
                    match word == self.vocabulary().end() {
                        true => longer.ended = true,
                        false => longer.words.push(word),
                    }
                    grown[*i].push(longer);
                }
            }
            for of in &mut grown {
                of.sort_by(|a, b| b.score.total_cmp(&a.score));
                of.truncate(width);
            }
            beams = grown;
        }
        let best = |of: Vec<Beam>| of.into_iter().next().map_or_else(Vec::new, |beam| beam.words);
        Ok(beams.into_iter().map(best).collect())
    }
}

/// Logits with the way back. Made by [`Captioner::pullback`].
pub struct PulledCaptions<'a> {
    /// Shape `[images, steps, words]`.
    pub logits: Tensor<3>,
    /// From a cotangent of the shape of the logits to a gradient of the shape of the images.
    pub back: Box<dyn FnOnce(Tensor<3>) -> Result<Tensor<4>> + 'a>,
}

/// A beginning of a caption, or a whole one.
#[derive(Clone, Default)]
struct Beam {
    words: Vec<usize>,
    ended: bool,
    /// Log-likelihood.
    score: f64,
}

/// Greedy decoding that asks for the logits of all words so far at each step.
pub(crate) fn greedily<C: Captioner + ?Sized>(captioner: &C, images: Tensor<4>) -> Result<Vec<Vec<usize>>> {
    let mut captions = vec![Vec::new(); images.dims()[0]];
    let mut open: Vec<usize> = (0..captions.len()).collect();
    for step in 0..captioner.most_words() {
        if open.is_empty() {
            break;
        }
        let logits = Rows::of(captioner.logits(pick(&images, &open), &chosen(&captions, &open))?);
        let next: Vec<usize> = (0..open.len()).map(|row| largest(logits.at(row, step))).collect();
        let end = captioner.vocabulary().end();
        open.iter().zip(&next).filter(|(_, word)| **word != end).for_each(|(i, word)| captions[*i].push(*word));
        open = open.into_iter().zip(next).filter(|(_, word)| *word != end).map(|(i, _)| i).collect();
    }
    Ok(captions)
}

/// Logits on the host.
pub(crate) struct Rows {
    pub values: Vec<f32>,
    pub steps: usize,
    pub words: usize,
}

impl Rows {
    pub fn of(logits: Tensor<3>) -> Self {
        let [_, steps, words] = logits.dims();
        Self { values: logits.into_data().iter::<f32>().collect(), steps, words }
    }

    /// Those of every step of an image.
    pub fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.steps * self.words..][..self.steps * self.words]
    }

    /// Those of one step.
    pub fn at(&self, row: usize, step: usize) -> &[f32] {
        &self.row(row)[step * self.words..][..self.words]
    }
}

/// The index of the largest number, the first of equals.
pub(crate) fn largest(z: &[f32]) -> usize {
    (0..z.len()).fold(0, |a, b| if z[b] > z[a] { b } else { a })
}

/// `log Σ exp z`.
pub(crate) fn log_sum_exp(z: &[f32]) -> f64 {
    let most = z.iter().fold(f64::NEG_INFINITY, |most, z| most.max(f64::from(*z)));
    most + z.iter().map(|z| (f64::from(*z) - most).exp()).sum::<f64>().ln()
}

/// Some of the images.
pub(crate) fn pick(images: &Tensor<4>, rows: &[usize]) -> Tensor<4> {
    let rows: Vec<i64> = rows.iter().map(|row| *row as i64).collect();
    let count = rows.len();
    images.clone().select(0, Tensor::<1, Int>::from_data(TensorData::new(rows, [count]), &images.device()))
}

pub(crate) fn chosen(captions: &[Vec<usize>], rows: &[usize]) -> Vec<Vec<usize>> {
    rows.iter().map(|row| captions[*row].clone()).collect()
}

/// Refuses images of another shape than the captioner's, and other numbers of captions.
pub(crate) fn check_images(images: [usize; 4], image: [usize; 3], captions: usize) -> Result<()> {
    if images[1..] != image {
        let expected = format!("[images, ..{image:?}], as the captioner sees them");
        return Err(Error::Shape { what: "images", actual: images.to_vec(), expected });
    }
    if captions != images[0] {
        let expected = format!("[{}], one for each image", images[0]);
        return Err(Error::Shape { what: "captions", actual: vec![captions], expected });
    }
    Ok(())
}

/// Refuses captions that are too long or of words that there are not.
pub(crate) fn check_captions(captions: &[Vec<usize>], words: usize, most: usize) -> Result<()> {
    for (example, caption) in captions.iter().enumerate() {
        if caption.len() > most {
            let problem = format!("has {} words, the captioner writes {most} at most", caption.len());
            return Err(Error::Caption { example, caption: format!("{caption:?}"), problem });
        }
        if let Some(word) = caption.iter().find(|word| **word >= words) {
            return Err(Error::Label { what: "a word of the caption", example, label: *word as i64, classes: words });
        }
    }
    Ok(())
}
