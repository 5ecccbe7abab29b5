//! The three small models that benchmarks and tests share with the Python peers (`tests/peers/hvp.py`).

use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::loss::CrossEntropyLossConfig;
use burn::nn::pool::{MaxPool2d, MaxPool2dConfig};
use burn::nn::transformer::{TransformerEncoder, TransformerEncoderConfig, TransformerEncoderInput};
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{Device, Int, Tensor, TensorData, activation::relu};

/// 784-256-256-10, tanh. Input `[batch, 784]`.
#[derive(Module, Debug)]
pub struct Mlp {
    layers: Vec<Linear>,
}

impl Mlp {
    /// Layers of the given widths, input and output included.
    pub fn new(widths: &[usize], device: &Device) -> Self {
        Self { layers: widths.windows(2).map(|w| LinearConfig::new(w[0], w[1]).init(device)).collect() }
    }

    /// Logits `[batch, classes]`.
    pub fn forward(&self, mut x: Tensor<2>) -> Tensor<2> {
        for (index, layer) in self.layers.iter().enumerate() {
            x = layer.forward(x);
            if index + 1 < self.layers.len() {
                x = x.tanh();
            }
        }
        x
    }

    /// Mean cross-entropy.
    pub fn loss(&self, (x, y): &(Tensor<2>, Tensor<1, Int>)) -> Tensor<1> {
        cross_entropy(self.forward(x.clone()), y.clone())
    }
}

/// Two convolutions of 3×3, each with ReLU and 2×2 max-pooling, and a linear layer. Input `[batch, 1, 28, 28]`.
#[derive(Module, Debug)]
pub struct Cnn {
    first: Conv2d,
    second: Conv2d,
    pool: MaxPool2d,
    head: Linear,
}

impl Cnn {
    /// 8 and 16 channels, 10 classes.
    pub fn new(device: &Device) -> Self {
        Self {
            first: Conv2dConfig::new([1, 8], [3, 3]).init(device),
            second: Conv2dConfig::new([8, 16], [3, 3]).init(device),
            pool: MaxPool2dConfig::new([2, 2]).with_strides([2, 2]).init(),
            head: LinearConfig::new(400, 10).init(device),
        }
    }

    /// Logits `[batch, 10]`.
    pub fn logits(&self, x: Tensor<4>) -> Tensor<2> {
        let h = self.pool.forward(relu(self.first.forward(x)));
        let h = self.pool.forward(relu(self.second.forward(h)));
        self.head.forward(h.flatten(1, 3))
    }

    /// Mean cross-entropy.
    pub fn loss(&self, (x, y): &(Tensor<4>, Tensor<1, Int>)) -> Tensor<1> {
        cross_entropy(self.logits(x.clone()), y.clone())
    }
}

/// One pre-norm Transformer encoder block (width 64, 4 heads, 128 hidden), mean over the sequence, linear head.
/// Input `[batch, sequence, 64]`.
#[derive(Module, Debug)]
pub struct Transformer {
    block: TransformerEncoder,
    head: Linear,
}

impl Transformer {
    /// Without dropout, 10 classes.
    pub fn new(device: &Device) -> Self {
        Self {
            block: TransformerEncoderConfig::new(64, 128, 4, 1).with_norm_first(true).with_dropout(0.0).init(device),
            head: LinearConfig::new(64, 10).init(device),
        }
    }

    /// Logits `[batch, 10]`.
    pub fn logits(&self, x: Tensor<3>) -> Tensor<2> {
        let h = self.block.forward(TransformerEncoderInput::new(x));
        self.head.forward(h.mean_dim(1).squeeze_dim::<2>(1))
    }

    /// Mean cross-entropy.
    pub fn loss(&self, (x, y): &(Tensor<3>, Tensor<1, Int>)) -> Tensor<1> {
        cross_entropy(self.logits(x.clone()), y.clone())
    }
}

fn cross_entropy(logits: Tensor<2>, labels: Tensor<1, Int>) -> Tensor<1> {
    CrossEntropyLossConfig::new().init(&logits.device()).forward(logits, labels)
}

/// The classes 0 to 9 in turn.
pub fn labels(count: usize, device: &Device) -> Tensor<1, Int> {
    let labels: Vec<i64> = (0..count as i64).map(|i| i % 10).collect();
    Tensor::from_data(TensorData::new(labels, [count]), device)
}
