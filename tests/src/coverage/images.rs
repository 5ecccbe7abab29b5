//! Resampling, rearranging and comparing.

use burn::nn::interpolate::{Interpolate1dConfig, Interpolate2dConfig, InterpolateMode};
use burn::nn::{
    CosineSimilarity, CosineSimilarityConfig, Fold4dConfig, PairwiseDistance, PairwiseDistanceConfig,
    PixelShuffleConfig, PixelUnshuffleConfig, Unfold4dConfig,
};

use super::{Expect, Net, Table, scalarise};

pub(super) fn resampling(table: &mut Table) {
    for (mode, name, expect) in [
        (InterpolateMode::Nearest, "nearest", Expect::Covered),
        (InterpolateMode::NearestExact, "nearest exact", Expect::NoGradientInBurn),
        (InterpolateMode::Linear, "linear", Expect::Covered),
        (InterpolateMode::Cubic, "cubic", Expect::Covered),
        (InterpolateMode::Lanczos, "Lanczos", Expect::NoGradientInBurn),
    ] {
        let config = Interpolate1dConfig::new().with_output_size(Some(7)).with_mode(mode.clone());
        let name1 = format!("Interpolate1d, {name}");
        table.layer(name1, [2, 2, 4], move |_| config.clone().init(), |m, x| m.forward(x)).expect(expect.clone());
        let config =
            Interpolate2dConfig::new().with_scale_factor(Some([2.0, 1.5])).with_mode(mode).with_align_corners(false);
        let name2 = format!("Interpolate2d, {name}, corners not aligned");
        table.layer(name2, [1, 2, 3, 4], move |_| config.clone().init(), |m, x| m.forward(x)).expect(expect);
    }
    table.layer(
        "Unfold4d, stride, dilation, padding",
        [1, 2, 4, 5],
        |_| Unfold4dConfig::new([2, 3]).with_stride([2, 1]).with_dilation([1, 2]).with_padding([1, 1]).init(),
        |m, x| m.forward(x),
    );
    table.layer("Unfold4d", [2, 2, 3, 4], |_| Unfold4dConfig::new([2, 2]).init(), |m, x| m.forward(x));
    table.layer("Fold4d", [2, 8, 6], |_| Fold4dConfig::new([3, 4], [2, 2]).init(), |m, x| m.forward(x));
    table.layer(
        "Fold4d, stride, padding",
        [1, 8, 6],
        |_| Fold4dConfig::new([3, 2], [2, 2]).with_stride([2, 1]).with_padding([1, 1]).init(),
        |m, x| m.forward(x),
    );
    table.layer("PixelShuffle", [1, 8, 2, 3], |_| PixelShuffleConfig::new(2).init(), |m, x| m.forward(x));
    table.layer("PixelUnshuffle", [1, 2, 4, 2], |_| PixelUnshuffleConfig::new(2).init(), |m, x| m.forward(x));
}

pub(super) fn similarity(table: &mut Table) {
    table.add(
        "CosineSimilarity",
        |draw| (CosineSimilarityConfig::new().init(), (draw.param([3, 4]), draw.param([3, 4])), ()),
        |net: &Net<CosineSimilarity, _>, _| {
            let (a, b) = &net.input;
            scalarise(net.module.forward(a.val(), b.val()))
        },
    );
    for p in [1.0, 2.0, 3.0] {
        table.add(
            format!("PairwiseDistance, p = {p}"),
            move |draw| {
                let module = PairwiseDistanceConfig::new().with_p(p).init();
                (module, (draw.staggered([3, 4], 0), draw.staggered([3, 4], 1)), ())
            },
            |net: &Net<PairwiseDistance, _>, _| {
                let (a, b) = &net.input;
                scalarise(net.module.forward(a.val(), b.val()))
            },
        );
    }
}
