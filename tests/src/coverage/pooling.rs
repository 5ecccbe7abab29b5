//! Pooling layers.

use burn::nn::pool::{
    AdaptiveAvgPool1dConfig, AdaptiveAvgPool2dConfig, AdaptiveAvgPool3dConfig, AvgPool1dConfig, AvgPool2dConfig,
    MaxPool1dConfig, MaxPool2dConfig,
};
use burn::nn::{PaddingConfig1d, PaddingConfig2d};
use burn::tensor::module::{max_pool1d_with_indices, max_pool2d_with_indices};
use burn::tensor::ops::MaxPoolOptions;

use super::Table;

pub(super) fn pooling(table: &mut Table) {
    table.layer("MaxPool1d", [2, 2, 7], |_| MaxPool1dConfig::new(2).init(), |m, x| m.forward(x));
    table.layer(
        "MaxPool1d, stride 2, padding, dilation, ceil",
        [2, 2, 8],
        |_| {
            MaxPool1dConfig::new(3)
                .with_stride(2)
                .with_padding(PaddingConfig1d::Explicit(1, 1))
                .with_dilation(2)
                .with_ceil_mode(true)
                .init()
        },
        |m, x| m.forward(x),
    );
    table.layer("MaxPool2d", [2, 2, 4, 6], |_| MaxPool2dConfig::new([2, 3]).init(), |m, x| m.forward(x));
    table.layer(
        "MaxPool2d, overlapping, padding, ceil",
        [1, 2, 5, 5],
        |_| {
            MaxPool2dConfig::new([3, 3])
                .with_strides([2, 1])
                .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
                .with_ceil_mode(true)
                .init()
        },
        |m, x| m.forward(x),
    );
    table.function("max_pool1d_with_indices", [2, 2, 6], |x| {
        max_pool1d_with_indices(x, MaxPoolOptions::new([2]).with_stride([2])).0
    });
    table.function("max_pool2d_with_indices", [1, 2, 4, 4], |x| {
        max_pool2d_with_indices(x, MaxPoolOptions::new([2, 2]).with_stride([2, 2])).0
    });
    table.layer("AvgPool1d", [2, 2, 6], |_| AvgPool1dConfig::new(2).init(), |m, x| m.forward(x));
    table.layer(
        "AvgPool1d, stride 2, padding not counted, ceil",
        [2, 2, 6],
        |_| {
            AvgPool1dConfig::new(3)
                .with_stride(2)
                .with_padding(PaddingConfig1d::Explicit(1, 1))
                .with_count_include_pad(false)
                .with_ceil_mode(true)
                .init()
        },
        |m, x| m.forward(x),
    );
    table.layer("AvgPool2d", [2, 2, 4, 6], |_| AvgPool2dConfig::new([2, 3]).init(), |m, x| m.forward(x));
    table.layer(
        "AvgPool2d, overlapping, padding not counted, ceil",
        [1, 2, 5, 4],
        |_| {
            AvgPool2dConfig::new([3, 2])
                .with_strides([2, 1])
                .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
                .with_count_include_pad(false)
                .with_ceil_mode(true)
                .init()
        },
        |m, x| m.forward(x),
    );
    table.layer("AdaptiveAvgPool1d", [2, 2, 7], |_| AdaptiveAvgPool1dConfig::new(3).init(), |m, x| m.forward(x));
    table.layer(
        "AdaptiveAvgPool2d",
        [2, 2, 5, 4],
        |_| AdaptiveAvgPool2dConfig::new([3, 2]).init(),
        |m, x| m.forward(x),
    );
    table.layer(
        "AdaptiveAvgPool3d",
        [1, 2, 3, 4, 5],
        |_| AdaptiveAvgPool3dConfig::new([2, 2, 3]).init(),
        |m, x| m.forward(x),
    );
}
