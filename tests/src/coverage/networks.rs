//! Small networks of several layers, as users build them.

use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::loss::CrossEntropyLoss;
use burn::nn::pool::{MaxPool2d, MaxPool2dConfig};
use burn::nn::{
    BatchNorm, BatchNormConfig, Embedding, EmbeddingConfig, LayerNorm, LayerNormConfig, Linear, LinearConfig, Lstm,
    LstmConfig,
};
use burn::tensor::{Int, Tensor, activation};

use super::{Net, Table};

#[derive(Module, Debug)]
struct Perceptron {
    first: Linear,
    norm: LayerNorm,
    last: Linear,
}

#[derive(Module, Debug)]
struct Convolutional {
    conv: Conv2d,
    norm: BatchNorm,
    pool: MaxPool2d,
    last: Linear,
}

#[derive(Module, Debug)]
struct Sequential {
    embedding: Embedding,
    lstm: Lstm,
    last: Linear,
}

fn cross_entropy(logits: Tensor<2>, targets: &Tensor<1, Int>) -> Tensor<1> {
    CrossEntropyLoss::new(None, &logits.device()).forward(logits, targets.clone())
}

pub(super) fn networks(table: &mut Table) {
    table.add(
        "Linear, LayerNorm, GELU, Linear, cross-entropy",
        |draw| {
            let device = draw.autodiff();
            let module = Perceptron {
                first: LinearConfig::new(4, 5).init(&device),
                norm: LayerNormConfig::new(5).init(&device),
                last: LinearConfig::new(5, 3).init(&device),
            };
            (draw.module(module), draw.param([4, 4]), draw.exactly([4], &[0, 2, 1, 0]))
        },
        |net: &Net<Perceptron, _>, targets: &Tensor<1, Int>| {
            let Perceptron { first, norm, last } = &net.module;
            let hidden = activation::gelu(norm.forward(first.forward(net.input.val())));
            cross_entropy(last.forward(hidden), targets)
        },
    );
    table.add(
        "Conv2d, BatchNorm, tanh, MaxPool2d, Linear, cross-entropy",
        |draw| {
            let device = draw.autodiff();
            let module = Convolutional {
                conv: Conv2dConfig::new([1, 3], [3, 3]).init(&device),
                norm: BatchNormConfig::new(3).init(&device),
                pool: MaxPool2dConfig::new([2, 2]).init(),
                last: LinearConfig::new(12, 3).init(&device),
            };
            (draw.module(module), draw.param([3, 1, 6, 6]), draw.exactly([3], &[0, 2, 1]))
        },
        |net: &Net<Convolutional, _>, targets: &Tensor<1, Int>| {
            let Convolutional { conv, norm, pool, last } = &net.module;
            let features = pool.forward(activation::tanh(norm.forward(conv.forward(net.input.val()))));
            cross_entropy(last.forward(features.flatten::<2>(1, 3)), targets)
        },
    );
    table.add(
        "Embedding, Lstm, Linear, cross-entropy",
        |draw| {
            let device = draw.autodiff();
            let module = Sequential {
                embedding: EmbeddingConfig::new(5, 3).init(&device),
                lstm: LstmConfig::new(3, 4, true).init(&device),
                last: LinearConfig::new(4, 3).init(&device),
            };
            let tokens = draw.exactly([2, 3], &[4, 0, 2, 2, 1, 4]);
            (draw.module(module), burn::nn::Identity::new(), (tokens, draw.exactly([2], &[2, 0])))
        },
        |net: &Net<Sequential, _>, (tokens, targets): &(Tensor<2, Int>, Tensor<1, Int>)| {
            let Sequential { embedding, lstm, last } = &net.module;
            let (_, state) = lstm.forward(embedding.forward(tokens.clone()), None);
            cross_entropy(last.forward(state.hidden), targets)
        },
    );
}
