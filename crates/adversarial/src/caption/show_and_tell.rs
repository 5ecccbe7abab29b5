//! A small image-to-sequence model.

use burn::module::{Module, ModuleMapper, Param};
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{Embedding, EmbeddingConfig, Initializer, Linear, LinearConfig, PaddingConfig2d};
use burn::tensor::activation::{relu, sigmoid};
use burn::tensor::{Device, Int, Tensor, TensorData};
use core_tensor::Random;

use crate::attack::check::at_least_one;
use crate::error::Result;

/// Sizes of a [`ShowAndTell`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShowAndTellShape {
    /// `[channels, height, width]` of the images.
    pub image: [usize; 3],
    /// Channels of each convolution, which halves height and width.
    pub channels: Vec<usize>,
    /// Units of the layer behind the convolutions, and of the recurrent state.
    pub hidden: usize,
    /// Words of the vocabulary.
    pub words: usize,
}

/// A captioner of few parameters: convolutions see the image, a gated recurrent unit writes the words.
///
/// With pixels from 0 to 1, features `v = relu(W_v·conv(2x − 1))` and the word before `S_{t−1}`, each step is
///
/// `r, u = σ(E S_{t−1} + W v + U h)`, `n = tanh(E S_{t−1} + W v + r ⊙ U h)`, `h ← (1 − u) ⊙ n + u ⊙ h`, `z_t = W_o h`,
///
/// each gate with its part of `E`, `W` and `U`; `h` begins at zero. Convolutions are of 3 × 3 with stride 2 and ReLU.
///
/// Cost of a caption: one pass of the convolutions, a matrix product of `hidden × 3·hidden` a word.
///
/// O. Vinyals, A. Toshev, S. Bengio, D. Erhan, "Show and tell: a neural image caption generator", CVPR 2015, arXiv:1411.4555. Deviations:
/// the gated recurrent unit (K. Cho et al., arXiv:1406.1078) in place of an LSTM, and the image is seen at every step, not only at
/// the first.
///
/// ```
/// use adversarial::caption::{ShowAndTell, ShowAndTellShape};
/// use burn::tensor::{Device, Int, Tensor};
/// use core_tensor::Random;
///
/// let shape = ShowAndTellShape { image: [3, 16, 16], channels: vec![8, 16], hidden: 32, words: 10 };
/// let model = ShowAndTell::new(&shape, &mut Random::new(1), &Device::flex())?;
/// let images = Tensor::<4>::full([2, 3, 16, 16], 0.5, &Device::flex());
/// let logits = model.forward(images.clone(), Tensor::<2, Int>::zeros([2, 5], &Device::flex()));
/// assert_eq!(logits.dims(), [2, 5, 10]);
/// // Word 9 begins and ends captions.
/// assert!(model.decode(images, 9, 9, 5).iter().all(|caption| caption.len() <= 5));
/// # Ok::<(), adversarial::Error>(())
/// ```
#[derive(Module, Debug)]
pub struct ShowAndTell {
    conv: Vec<Conv2d>,
    features: Linear,
    seen: Linear,
    word: Embedding,
    state: Linear,
    output: Linear,
}

impl ShowAndTell {
    /// Weights drawn from `random`, uniform in ±√(3/n) for a unit of n inputs; biases are zero. They are the same on every device.
    ///
    /// # Errors
    /// [`Error::Parameter`](crate::Error::Parameter) for a size of 0.
    pub fn new(shape: &ShowAndTellShape, random: &mut Random, device: &Device) -> Result<Self> {
        let [mut channels, mut height, mut width] = shape.image;
        for (parameter, value) in [
            ("channels of an image", channels),
            ("height", height),
            ("width", width),
            ("hidden", shape.hidden),
            ("words", shape.words),
        ] {
            at_least_one(parameter, value)?;
        }
        let zeros = Initializer::Zeros;
        let mut conv = Vec::new();
        for &more in &shape.channels {
            at_least_one("channels", more)?;
            let config = Conv2dConfig::new([channels, more], [3, 3])
                .with_stride([2, 2])
                .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
                .with_initializer(zeros.clone());
            conv.push(config.init(device));
            (channels, height, width) = (more, height.div_ceil(2), width.div_ceil(2));
        }
        let linear = |from, to| LinearConfig::new(from, to).with_initializer(zeros.clone()).init(device);
        let hidden = shape.hidden;
        let model = Self {
            conv,
            features: linear(channels * height * width, hidden),
            seen: linear(hidden, 3 * hidden),
            word: EmbeddingConfig::new(shape.words, 3 * hidden).with_initializer(zeros.clone()).init(device),
            state: linear(hidden, 3 * hidden),
            output: linear(hidden, shape.words),
        };
        Ok(model.map(&mut Draw(random)))
    }

    /// Logits `[images, steps, words]` of the word behind each of `words`, `[images, steps]`, for images of pixels from 0 to 1,
    /// `[images, channels, height, width]`.
    pub fn forward(&self, images: Tensor<4>, words: Tensor<2, Int>) -> Tensor<3> {
        let [count, steps] = words.dims();
        let given = self.word.forward(words) + self.see(images).unsqueeze_dim::<3>(1);
        let mut state = Tensor::zeros([count, self.hidden()], &given.device());
        let mut states = Vec::with_capacity(steps);
        for step in 0..steps {
            let now = given.clone().slice_dim(1, step..step + 1).squeeze_dim::<2>(1);
            state = self.step(now, state);
            states.push(state.clone().unsqueeze_dim::<3>(1));
        }
        self.output.forward(Tensor::cat(states, 1))
    }

    /// Captions by greedy decoding, one word after the other: each the likeliest after the one before, from `start` on, until
    /// `end`, which is not given, or until there are `most_words`. One host synchronisation a word.
    pub fn decode(&self, images: Tensor<4>, start: usize, end: usize, most_words: usize) -> Vec<Vec<usize>> {
        let seen = self.see(images);
        let (count, device) = (seen.dims()[0], seen.device());
        let mut state = Tensor::zeros([count, self.hidden()], &device);
        let (mut captions, mut ended, mut words) = (vec![Vec::new(); count], vec![false; count], vec![start; count]);
        for _ in 0..most_words {
            let read: Vec<i64> = words.iter().map(|word| *word as i64).collect();
            let read = Tensor::<2, Int>::from_data(TensorData::new(read, [count, 1]), &device);
            state = self.step(self.word.forward(read).squeeze_dim::<2>(1) + seen.clone(), state);
            let logits = self.output.forward(state.clone());
            let [_, size] = logits.dims();
            let logits: Vec<f32> = logits.into_data().iter().collect();
            for (i, z) in logits.chunks(size).enumerate() {
                words[i] = super::captioner::largest(z);
                ended[i] |= words[i] == end;
                if !ended[i] {
                    captions[i].push(words[i]);
                }
            }
            if ended.iter().all(|ended| *ended) {
                break;
            }
        }
        captions
    }

    fn hidden(&self) -> usize {
        self.state.weight.dims()[0]
    }

    /// What the image gives to the gates.
    fn see(&self, images: Tensor<4>) -> Tensor<2> {
        let pixels = images * 2.0 - 1.0;
        let seen = self.conv.iter().fold(pixels, |x, conv| relu(conv.forward(x)));
        self.seen.forward(relu(self.features.forward(seen.flatten::<2>(1, 3))))
    }

    /// The next state, from what image and word give to the gates.
    fn step(&self, given: Tensor<2>, state: Tensor<2>) -> Tensor<2> {
        let hidden = self.hidden();
        let part = |x: &Tensor<2>, gate: usize| x.clone().slice_dim(1, gate * hidden..(gate + 1) * hidden);
        let kept = self.state.forward(state.clone());
        let gate = |i| sigmoid(part(&given, i) + part(&kept, i));
        let (reset, update) = (gate(0), gate(1));
        let candidate = (part(&given, 2) + reset * part(&kept, 2)).tanh();
        candidate.clone() + update * (state - candidate)
    }
}

/// Draws weights in visit order.
struct Draw<'a>(&'a mut Random);

impl ModuleMapper for Draw<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let shape = param.dims();
        // Convolutions are [out, in, height, width], linear layers [in, out], the embedding [words, out], biases [out].
        let inputs: usize = match D {
            1 => return param,
            2 => shape[0],
            _ => shape[1..].iter().product(),
        };
        let bound = (3.0 / inputs as f64).sqrt();
        let values = self.0.uniform(shape, -bound, bound, &param.device());
        param.map(|zeros| values.set_require_grad(zeros.is_require_grad()))
    }
}
