//! The three small models that benchmarks and tests share with the Python peers (`tests/peers/hvp.py`).

use burn::module::{Module, Param};
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::loss::CrossEntropyLossConfig;
use burn::nn::pool::{MaxPool2d, MaxPool2dConfig};
use burn::nn::transformer::{TransformerEncoder, TransformerEncoderConfig, TransformerEncoderInput};
use burn::nn::{Linear, LinearConfig, PaddingConfig2d};
use burn::tensor::activation::{log_softmax, relu};
use burn::tensor::{Device, Int, Tensor, TensorData};

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

    /// Cross-entropy of each sample.
    pub fn losses(&self, (x, y): &(Tensor<2>, Tensor<1, Int>)) -> Tensor<1> {
        cross_entropies(self.forward(x.clone()), y.clone())
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

    /// Cross-entropy of each sample.
    pub fn losses(&self, (x, y): &(Tensor<4>, Tensor<1, Int>)) -> Tensor<1> {
        cross_entropies(self.logits(x.clone()), y.clone())
    }
}

/// Two convolutions of 3×3 that keep the size, each with ReLU and 2×2 max-pooling, and two linear layers. Input
/// `[batch, 1, 28, 28]`. The network that attacks are measured on, with the weights that `tests/peers/attacks.py` leaves.
#[derive(Module, Debug)]
pub struct AttackedCnn {
    first: Conv2d,
    second: Conv2d,
    pool: MaxPool2d,
    hidden: Linear,
    head: Linear,
}

impl AttackedCnn {
    /// 16 and 32 channels, 100 hidden units, 10 classes.
    pub fn new(device: &Device) -> Self {
        let convolution =
            |channels| Conv2dConfig::new(channels, [3, 3]).with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1));
        Self {
            first: convolution([1, 16]).init(device),
            second: convolution([16, 32]).init(device),
            pool: MaxPool2dConfig::new([2, 2]).with_strides([2, 2]).init(),
            hidden: LinearConfig::new(1568, 100).init(device),
            head: LinearConfig::new(100, 10).init(device),
        }
    }

    /// The same with PyTorch's weights: `weight(name)` gives the array of a name in row-major order.
    pub fn with_torch(mut self, weight: impl Fn(&str) -> Vec<f32>) -> Self {
        let device = self.head.weight.device();
        let vector = |name: &str| Tensor::<1>::from_data(weight(name).as_slice(), &device);
        let convolution = |layer: &mut Conv2d, index: usize| {
            let shape = layer.weight.dims();
            layer.weight = Param::from_tensor(vector(&format!("{index}.weight")).reshape(shape));
            layer.bias = Some(Param::from_tensor(vector(&format!("{index}.bias"))));
        };
        convolution(&mut self.first, 0);
        convolution(&mut self.second, 3);
        let linear = |layer: &mut Linear, index: usize| {
            let [inputs, outputs] = layer.weight.dims();
            let weight = vector(&format!("{index}.weight")).reshape([outputs, inputs]).transpose();
            layer.weight = Param::from_tensor(weight);
            layer.bias = Some(Param::from_tensor(vector(&format!("{index}.bias"))));
        };
        linear(&mut self.hidden, 7);
        linear(&mut self.head, 9);
        self
    }

    /// Logits `[batch, 10]`.
    pub fn logits(&self, x: Tensor<4>) -> Tensor<2> {
        let h = self.pool.forward(relu(self.first.forward(x)));
        let h = self.pool.forward(relu(self.second.forward(h)));
        self.head.forward(relu(self.hidden.forward(h.flatten(1, 3))))
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

    /// Cross-entropy of each sample.
    pub fn losses(&self, (x, y): &(Tensor<3>, Tensor<1, Int>)) -> Tensor<1> {
        cross_entropies(self.logits(x.clone()), y.clone())
    }
}

fn cross_entropy(logits: Tensor<2>, labels: Tensor<1, Int>) -> Tensor<1> {
    CrossEntropyLossConfig::new().init(&logits.device()).forward(logits, labels)
}

fn cross_entropies(logits: Tensor<2>, labels: Tensor<1, Int>) -> Tensor<1> {
    log_softmax(logits, 1).gather(1, labels.unsqueeze_dim::<2>(1)).squeeze_dim::<1>(1).neg()
}

/// The classes 0 to 9 in turn.
pub fn labels(count: usize, device: &Device) -> Tensor<1, Int> {
    let labels: Vec<i64> = (0..count as i64).map(|i| i % 10).collect();
    Tensor::from_data(TensorData::new(labels, [count]), device)
}
