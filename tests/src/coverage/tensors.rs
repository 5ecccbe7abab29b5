//! Tensor functions that models call directly, beyond what the modules use.

use burn::nn::Identity;
use burn::tensor::grid::affine_grid_2d;
use burn::tensor::module::{embedding, linear};
use burn::tensor::ops::PadMode;
use burn::tensor::{IndexingUpdateOp, Int, Tensor, s};

use super::{Expect, Limits, Net, Table, scalarise};

pub(super) fn elementwise(table: &mut Table) {
    table.function("exp", [2, 3], |x| x.exp());
    table.positive("log", [2, 3], |x| x.log());
    table.positive("log1p", [2, 3], |x| x.log1p());
    table.positive("sqrt", [2, 3], |x| x.sqrt());
    table.function("recip", [2, 3], |x| x.recip());
    table.function("square", [2, 3], |x| x.square());
    table.function("abs, sign", [2, 3], |x| x.clone().abs() * x.sign());
    table.function("neg", [2, 3], |x| x.neg());
    table.function("sin", [2, 3], |x| x.sin());
    table.function("cos", [2, 3], |x| x.cos());
    table.function("tan", [2, 3], |x| x.tan());
    table.function("sinh", [2, 3], |x| x.sinh());
    table.function("cosh", [2, 3], |x| x.cosh());
    table.function("asin", [2, 3], |x| x.mul_scalar(0.7).asin());
    table.function("acos", [2, 3], |x| x.mul_scalar(0.7).acos());
    table.function("atan", [2, 3], |x| x.atan());
    table.function("asinh", [2, 3], |x| x.asinh());
    table.positive("acosh", [2, 3], |x| x.add_scalar(1.0).acosh());
    table.function("atanh", [2, 3], |x| x.mul_scalar(0.7).atanh());
    table.function("erf", [2, 3], |x| x.erf());
    table.function("floor, ceil, round", [2, 3], |x| {
        x.clone().floor() * x.clone() + x.clone().ceil() * x.clone().sin() + x.clone().round() * x.exp()
    });
    table.positive("powf_scalar", [2, 3], |x| x.powf_scalar(2.3));
    table.function("powi_scalar", [2, 3], |x| x.powi_scalar(3));
    table.function("clamp", [4, 5], |x| x.clone().clamp(-0.5, 0.8) * x);
    table.function("clamp_min, clamp_max", [4, 5], |x| x.clone().clamp_min(-0.5) * x.clamp_max(0.8));
    table.function("scalar arithmetic", [2, 3], |x| ((x * 1.5 + 0.3) / 2.5 - 0.1) * 0.9).divides();
    table.function("remainder_scalar", [2, 3], |x| x.clone().remainder_scalar(0.7) * x);
    table.pair("add, sub, mul, div", [2, 3], [2, 3], |x, y| {
        (x.clone() + y.clone()) / (x.clone() * y.clone() - 3.0) - x * y
    });
    table.pair("broadcast arithmetic", [2, 3], [1, 3], |x, y| x.clone() * y.clone() + x / y);
    table.pair("powf", [2, 3], [2, 3], |x, y| x.square().powf(y));
    table.pair("atan2", [2, 3], [2, 3], |x, y| x.atan2(y));
    table.pair("hypot", [2, 3], [2, 3], |x, y| x.hypot(y));
    table.pair("remainder", [2, 3], [2, 3], |x, y| x.clone().remainder(y.square().add_scalar(0.4)) * x);
    table.pair("max_pair, min_pair", [2, 3], [2, 3], |x, y| {
        x.clone().max_pair(y.clone()) * x.clone() + x.min_pair(y.clone()) * y
    });
    table
        .function("detach", [2, 3], |x| x.clone().detach() * x)
        .limits(Limits { slope: f64::INFINITY, ..Limits::DOUBLE })
        .note("the gradient stops there, so it is not that of the value");
    table.function("comparisons and masks", [3, 4], |x| {
        let large = x.clone().greater_scalar(0.4);
        let small = x.clone().abs().lower_scalar(0.3);
        x.clone().mask_where(large, x.clone().sin()).mask_fill(small, 0.25) * x
    });
}

pub(super) fn reductions(table: &mut Table) {
    table.function("sum, mean", [2, 3], |x| x.clone().sum() * x.mean());
    table.function("sum_dim, mean_dim", [2, 3, 2], |x| x.clone().sum_dim(1) * x.mean_dim(1));
    table.function("mean_dims", [2, 3, 2], |x| x.clone().mean_dims(&[0, 2]) * x);
    table.function("prod", [2, 3], |x| x.prod());
    table.function("prod_dim", [2, 3], |x| x.prod_dim(1));
    table.function("max_dim, min_dim", [3, 4], |x| x.clone().max_dim(1) * x.min_dim(1));
    table.function("max, min", [3, 4], |x| x.clone().max() * x.min());
    table.function("max_dim_with_indices", [3, 4], |x| x.max_dim_with_indices(0).0);
    table.function("max_abs_dim", [3, 4], |x| x.max_abs_dim(1));
    table.function("var, var_bias", [3, 4], |x| x.clone().var(1) * x.var_bias(1)).divides();
    table.function("var_mean", [3, 4], |x| {
        let (variance, mean) = x.var_mean(0);
        variance * mean
    });
    table.function("median", [3, 5], |x| x.median(1));
    table.function("cov", [3, 4], |x| x.cov(1, 1)).divides();
    table.function("cumsum", [2, 4], |x| x.cumsum(1));
    table.function("cumprod", [2, 4], |x| x.cumprod(1));
    table
        .function("cummax, cummin", [2, 4], |x| x.clone().cummax(1) * x.cummin(1))
        .expect(Expect::Uncovered(vec!["`NumericFloat(CumMax)`", "after parameter `input`"]));
    table.function("sort", [2, 4], |x| x.sort(1));
    table.function("sort_descending", [2, 4], |x| x.sort_descending(1));
    table.function("sort_with_indices", [2, 4], |x| x.sort_with_indices(1).0);
    table.function("topk", [2, 4], |x| x.topk(2, 1));
    table.function("argmax gathered", [3, 4], |x| {
        let best = x.clone().argmax(1);
        x.clone().gather(1, best) * x
    });
}

pub(super) fn shapes(table: &mut Table) {
    table.function("reshape, transpose, permute", [2, 3, 2], |x| {
        let y: Tensor<3> = x.clone().permute([2, 0, 1]).reshape([2, 3, 2]).swap_dims(0, 2).reshape([2, 3, 2]);
        y * x
    });
    table.function("flip, roll", [2, 3], |x| x.clone().flip([1]) * x.roll(&[1], &[0]));
    table.function("expand, repeat", [2, 1], |x| x.clone().expand([2, 3]) * x.repeat(&[1, 3]));
    table.function("squeeze, unsqueeze", [2, 1, 3], |x| x.clone().squeeze_dim::<2>(1).unsqueeze_dim::<3>(1) * x);
    table.function("slice, step", [3, 6], |x| x.clone().slice(s![0..2, 1..6;2]) * x.slice(s![1..3, 0..3]));
    table.function("narrow, chunk, split", [4, 3], |x| {
        let parts = x.clone().chunk(2, 0);
        let halves = x.clone().split(2, 0);
        parts[0].clone() * halves[1].clone() * x.narrow(0, 1, 2)
    });
    table.pair("slice_assign", [3, 4], [2, 2], |x, y| x.clone().slice_assign([0..2, 1..3], y) * x);
    table.function("slice_fill", [3, 4], |x| x.clone().slice_fill([0..2, 1..3], 0.5) * x);
    table.pair("cat", [2, 3], [1, 3], |x, y| Tensor::cat(vec![x.clone(), y.clone(), x], 0));
    table.pair("stack", [2, 3], [2, 3], |x, y| Tensor::stack::<3>(vec![x.clone(), y, x], 1));
    table.function("pad, constant", [2, 3], |x| x.pad((1, 2, 0, 1), PadMode::Constant(0.5)));
    table.function("pad, reflect", [3, 4], |x| x.pad((1, 2, 1, 1), PadMode::Reflect));
    table.function("pad, edge", [2, 3], |x| x.pad((1, 2, 0, 1), PadMode::Edge));
    table.function("triu, tril", [3, 3], |x| x.clone().triu(0).matmul(x.tril(-1)));
    table.function("unfold", [2, 5], |x| x.unfold::<3, _>(1, 3, 2));
    table
        .function("one_hot of argmin", [3, 4], |x| {
            let worst: Tensor<1, Int> = x.clone().argmin(1).squeeze_dim(1);
            worst.one_hot::<2>(4).float() * x
        })
        .expect(Expect::Uncovered(vec!["the value of `BaseBool(Any)`", "after parameter `input`"]));
}

pub(super) fn indexing(table: &mut Table) {
    table.indexed("select", [3, 4], &[2, 0, 2], |x, i| x.select(0, i));
    table.indexed("gather", [3, 4], &[3, 0, 3], |x, i| x.gather(1, i.reshape([3, 1])));
    table.indexed("take", [3, 4], &[1, 1, 2], |x, i| x.take::<1, 2>(0, i));
    table.indexed("gather_nd", [3, 4], &[0, 2, 1, 1], |x, i| {
        let rows: Tensor<1> = x.gather_nd(i.reshape([2, 2]));
        rows
    });
    table.indexed_pair("select_assign", [3, 4], [2, 4], &[2, 2], |x, y, i| {
        x.clone().select_assign(0, i, y, IndexingUpdateOp::Add) * x
    });
    table.indexed_pair("scatter", [3, 4], [3, 2], &[1, 1, 0, 3, 2, 2], |x, y, i| {
        x.clone().scatter(1, i.reshape([3, 2]), y, IndexingUpdateOp::Add) * x
    });
    table.indexed_pair("scatter_nd", [3, 4], [2, 4], &[2, 0], |x, y, i| {
        x.clone().scatter_nd(i.reshape([2, 1]), y, IndexingUpdateOp::Add) * x
    });
    table.add(
        "embedding (functional)",
        |draw| (Identity::new(), draw.param([4, 3]), draw.exactly([2, 2], &[1, 3, 3, 0])),
        |net: &Net<Identity, _>, tokens: &Tensor<2, Int>| scalarise(embedding(net.input.val(), tokens.clone())),
    );
}

pub(super) fn products(table: &mut Table) {
    table.pair("matmul", [2, 3], [3, 4], |x, y| x.matmul(y));
    table.pair("matmul, batched and broadcast", [2, 2, 3], [1, 3, 2], |x, y| x.matmul(y));
    table.pair("matmul, transposed", [3, 2], [4, 3], |x, y| x.transpose().matmul(y.transpose()));
    table.pair("matmul, matrix and vector", [3, 4], [4, 1], |x, y| x.matmul(y));
    table.pair("dot", [4], [4], |x, y| x.dot(y));
    table.pair("cross", [2, 3], [2, 3], |x, y| x.cross(y, 1));
    table.pair("linear (functional), rank 3", [2, 2, 3], [3, 2], |x, y: Tensor<2>| linear(x, y, None));
    table.pair("grid_sample_2d", [1, 2, 3, 3], [1, 2, 2, 2], |x, y| {
        // Locations between -0.6 and -0.1 lie inside one cell of the grid.
        let place = y.tanh().mul_scalar(0.2).sub_scalar(0.35);
        x.grid_sample_2d(place, burn::tensor::ops::InterpolateMode::Bilinear)
    });
    table.function("affine_grid_2d", [1, 2, 3], |x| affine_grid_2d(x, [1, 1, 2, 3]));
}
