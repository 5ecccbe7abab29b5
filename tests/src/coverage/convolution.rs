//! Linear and convolution layers.

use burn::nn::conv::{
    Conv1dConfig, Conv2dConfig, Conv3dConfig, ConvTranspose1dConfig, ConvTranspose2dConfig, ConvTranspose3dConfig,
    DeformConv2d, DeformConv2dConfig,
};
use burn::nn::{LinearConfig, LinearLayout, PaddingConfig1d, PaddingConfig2d, PaddingConfig3d};

use super::{Expect, Net, Table, scalarise};

pub(super) fn linear(table: &mut Table) {
    table.layer("Linear", [3, 4], |d| LinearConfig::new(4, 2).init(d), |m, x| m.forward(x));
    table.layer("Linear, no bias", [3, 4], |d| LinearConfig::new(4, 2).with_bias(false).init(d), |m, x| m.forward(x));
    table.layer(
        "Linear, column layout",
        [3, 4],
        |d| LinearConfig::new(4, 2).with_layout(LinearLayout::Col).init(d),
        |m, x| m.forward(x),
    );
    table.layer("Linear, one vector", [4], |d| LinearConfig::new(4, 2).init(d), |m, x| m.forward(x));
    table.layer("Linear, rank 3", [2, 3, 4], |d| LinearConfig::new(4, 2).init(d), |m, x| m.forward(x));
}

pub(super) fn convolution(table: &mut Table) {
    table.layer("Conv1d", [2, 2, 7], |d| Conv1dConfig::new(2, 3, 3).init(d), |m, x| m.forward(x));
    table.layer(
        "Conv1d, stride 2, same padding, no bias",
        [2, 2, 7],
        |d| Conv1dConfig::new(2, 3, 3).with_stride(2).with_padding(PaddingConfig1d::Same).with_bias(false).init(d),
        |m, x| m.forward(x),
    );
    table.layer(
        "Conv1d, dilation 2, 2 groups, padding (1, 2)",
        [2, 4, 7],
        |d| {
            Conv1dConfig::new(4, 4, 3)
                .with_dilation(2)
                .with_groups(2)
                .with_padding(PaddingConfig1d::Explicit(1, 2))
                .init(d)
        },
        |m, x| m.forward(x),
    );
    table.layer("Conv2d", [2, 2, 5, 4], |d| Conv2dConfig::new([2, 3], [3, 2]).init(d), |m, x| m.forward(x));
    table.layer(
        "Conv2d, stride (2, 1), padding 1, no bias",
        [2, 2, 5, 4],
        |d| {
            Conv2dConfig::new([2, 3], [3, 3])
                .with_stride([2, 1])
                .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
                .with_bias(false)
                .init(d)
        },
        |m, x| m.forward(x),
    );
    table.layer(
        "Conv2d, dilation (1, 2), 2 groups",
        [2, 4, 5, 6],
        |d| Conv2dConfig::new([4, 6], [2, 3]).with_dilation([1, 2]).with_groups(2).init(d),
        |m, x| m.forward(x),
    );
    table.layer(
        "Conv2d, even kernel, same padding",
        [1, 2, 4, 5],
        |d| Conv2dConfig::new([2, 2], [2, 4]).with_padding(PaddingConfig2d::Same).init(d),
        |m, x| m.forward(x),
    );
    table.layer(
        "Conv2d, depthwise",
        [2, 3, 4, 4],
        |d| Conv2dConfig::new([3, 3], [3, 3]).with_groups(3).with_padding(PaddingConfig2d::Same).init(d),
        |m, x| m.forward(x),
    );
    table.layer("Conv2d, 1x1", [2, 3, 3, 2], |d| Conv2dConfig::new([3, 2], [1, 1]).init(d), |m, x| m.forward(x));
    table.layer("Conv3d", [1, 2, 3, 4, 3], |d| Conv3dConfig::new([2, 2], [2, 3, 2]).init(d), |m, x| m.forward(x));
    table.layer(
        "Conv3d, stride, padding, dilation, 2 groups",
        [1, 2, 4, 4, 5],
        |d| {
            Conv3dConfig::new([2, 4], [2, 3, 2])
                .with_stride([2, 1, 2])
                .with_padding(PaddingConfig3d::Explicit(1, 1, 0))
                .with_dilation([1, 1, 2])
                .with_groups(2)
                .with_bias(false)
                .init(d)
        },
        |m, x| m.forward(x),
    );
}

pub(super) fn transposed(table: &mut Table) {
    table.layer("ConvTranspose1d", [2, 2, 4], |d| ConvTranspose1dConfig::new([2, 3], 3).init(d), |m, x| m.forward(x));
    table.layer(
        "ConvTranspose1d, stride, padding, dilation, 2 groups",
        [2, 2, 4],
        |d| {
            ConvTranspose1dConfig::new([2, 4], 3)
                .with_stride(2)
                .with_padding(1)
                .with_padding_out(1)
                .with_dilation(2)
                .with_groups(2)
                .with_bias(false)
                .init(d)
        },
        |m, x| m.forward(x),
    );
    table.layer(
        "ConvTranspose2d",
        [2, 2, 3, 3],
        |d| ConvTranspose2dConfig::new([2, 3], [3, 2]).init(d),
        |m, x| m.forward(x),
    );
    table.layer(
        "ConvTranspose2d, stride, padding, dilation, 2 groups",
        [1, 2, 3, 3],
        |d| {
            ConvTranspose2dConfig::new([2, 4], [3, 2])
                .with_stride([2, 1])
                .with_padding([1, 0])
                .with_padding_out([1, 0])
                .with_dilation([1, 2])
                .with_groups(2)
                .with_bias(false)
                .init(d)
        },
        |m, x| m.forward(x),
    );
    table.layer(
        "ConvTranspose3d",
        [1, 2, 2, 3, 2],
        |d| ConvTranspose3dConfig::new([2, 2], [2, 2, 3]).init(d),
        |m, x| m.forward(x),
    );
    table.layer(
        "ConvTranspose3d, stride, padding, dilation, 2 groups",
        [1, 2, 2, 3, 2],
        |d| {
            ConvTranspose3dConfig::new([2, 4], [2, 3, 2])
                .with_stride([2, 1, 2])
                .with_padding([1, 1, 0])
                .with_padding_out([1, 0, 1])
                .with_dilation([1, 1, 2])
                .with_groups(2)
                .with_bias(false)
                .init(d)
        },
        |m, x| m.forward(x),
    );
    // Offsets stay inside one cell of the grid: bilinear sampling has kinks on its lines.
    let refusal = |last| Expect::Uncovered(vec!["`Module(DeformableConv2d)`", last]);
    let deformable = table.add(
        "DeformConv2d",
        |draw| {
            let module: DeformConv2d = DeformConv2dConfig::new([2, 2], [2, 2]).init(&draw.autodiff());
            let module = draw.module(module);
            let input = (
                draw.param([1, 2, 4, 4]),
                draw.param_in([1, 8, 3, 3], 0.1, 0.4),
                draw.param_in([1, 4, 3, 3], 0.2, 0.9),
            );
            (module, input, ())
        },
        |net: &Net<DeformConv2d, _>, _| {
            let (x, offset, mask) = &net.input;
            scalarise(net.module.forward(x.val(), offset.val(), Some(mask.val())))
        },
    );
    deformable.expect(refusal("after parameter `input.2`"));
    let deformable = table.add(
        "DeformConv2d, 2 groups, no mask",
        |draw| {
            let module: DeformConv2d = DeformConv2dConfig::new([2, 4], [2, 2])
                .with_weight_groups(2)
                .with_offset_groups(2)
                .with_bias(false)
                .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
                .init(&draw.autodiff());
            let module = draw.module(module);
            let input = (draw.param([1, 2, 3, 3]), draw.param_in([1, 16, 4, 4], 0.1, 0.4));
            (module, input, ())
        },
        |net: &Net<DeformConv2d, _>, _| {
            let (x, offset) = &net.input;
            scalarise(net.module.forward(x.val(), offset.val(), None))
        },
    );
    deformable.expect(refusal("after parameter `input.1`"));
}
