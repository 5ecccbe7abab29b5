//! Normalisation layers.

use burn::module::RunningState;
use burn::nn::norm::NormalizationConfig;
use burn::nn::{
    BatchNorm, BatchNormConfig, GroupNormConfig, InstanceNormConfig, LayerNormConfig, LocalResponseNormConfig,
    RmsNormConfig,
};

use super::{Limits, Net, Table, scalarise};
use crate::draw::Draw;

pub(super) fn normalisation(table: &mut Table) {
    table.layer("BatchNorm, training, rank 2", [5, 3], |d| BatchNormConfig::new(3).init(d), |m, x| m.forward(x));
    table.layer("BatchNorm, training, rank 3", [3, 2, 4], |d| BatchNormConfig::new(2).init(d), |m, x| m.forward(x));
    table.layer(
        "BatchNorm, training, rank 4",
        [2, 2, 3, 2],
        |d| BatchNormConfig::new(2).with_momentum(0.3).with_epsilon(1e-3).init(d),
        |m, x| m.forward(x),
    );
    table.add(
        "BatchNorm, evaluation",
        |draw| (evaluating(draw), draw.param([3, 2, 4]), ()),
        |net: &Net<BatchNorm, _>, _| scalarise(net.module.forward(net.input.val())),
    );
    table.layer("LayerNorm", [3, 4], |d| LayerNormConfig::new(4).init(d), |m, x| m.forward(x));
    table.layer(
        "LayerNorm, no bias, rank 3",
        [2, 3, 4],
        |d| LayerNormConfig::new(4).with_bias(false).with_epsilon(1e-3).init(d),
        |m, x| m.forward(x),
    );
    table.layer("GroupNorm", [2, 4, 3], |d| GroupNormConfig::new(2, 4).init(d), |m, x| m.forward(x));
    table.layer(
        "GroupNorm, not affine, rank 4",
        [2, 4, 2, 3],
        |d| GroupNormConfig::new(2, 4).with_affine(false).init(d),
        |m, x| m.forward(x),
    );
    table.layer("InstanceNorm", [2, 3, 4], |d| InstanceNormConfig::new(3).init(d), |m, x| m.forward(x));
    table.layer(
        "InstanceNorm, not affine",
        [2, 3, 2, 2],
        |d| InstanceNormConfig::new(3).with_affine(false).init(d),
        |m, x| m.forward(x),
    );
    table
        .layer("RmsNorm", [3, 4], |d| RmsNormConfig::new(4).init(d), |m, x| m.forward(x))
        .limits(Limits::SINGLE)
        .note("Burn computes the mean square in f32");
    table.layer(
        "LocalResponseNorm",
        [2, 4, 3],
        |_| LocalResponseNormConfig::new(3).with_alpha(0.5).with_k(1.2).init(),
        |m, x| m.forward(x),
    );
    table.layer(
        "LocalResponseNorm, even size, rank 4",
        [1, 5, 2, 2],
        |_| LocalResponseNormConfig::new(2).with_alpha(0.5).init(),
        |m, x| m.forward(x),
    );
    table.layer(
        "Normalization::Layer",
        [3, 4],
        |d| NormalizationConfig::Layer(LayerNormConfig::new(4)).init(d),
        |m, x| m.forward(x),
    );
}

/// A batch norm that uses its running statistics, which are not those of any batch.
fn evaluating(draw: &mut Draw) -> BatchNorm {
    let mut module = BatchNormConfig::new(2).init(&draw.autodiff());
    module = draw.module(module);
    module.training = module.training.with_value(false);
    module.running_mean = RunningState::new(draw.tensor([2], -0.5, 0.5));
    module.running_var = RunningState::new(draw.tensor([2], 0.5, 2.0));
    module
}
