//! Norms and weighted sums of samples' gradients against the gradients themselves, layer by layer, in `f64`.

#![cfg(feature = "flex")]
#![forbid(unsafe_code)]

use burn::module::{Module, Param};
use burn::nn::conv::{
    Conv1d, Conv1dConfig, Conv2d, Conv2dConfig, Conv3d, Conv3dConfig, ConvTranspose1d, ConvTranspose1dConfig,
    ConvTranspose2d, ConvTranspose2dConfig, ConvTranspose3d, ConvTranspose3dConfig,
};
use burn::nn::pool::{AvgPool2dConfig, MaxPool2dConfig};
use burn::nn::transformer::{TransformerEncoder, TransformerEncoderConfig, TransformerEncoderInput};
use burn::nn::{
    BatchNorm, BatchNormConfig, Dropout, DropoutConfig, Embedding, EmbeddingConfig, GroupNorm, GroupNormConfig, Gru,
    GruConfig, LayerNorm, LayerNormConfig, Linear, LinearConfig, LinearLayout, Lstm, LstmConfig, PRelu, PReluConfig,
    PaddingConfig1d, PaddingConfig2d, PaddingConfig3d, RmsNorm, RmsNormConfig,
};
use burn::tensor::{FloatDType, Int, Tensor, TensorData, activation};
use core_tensor::testing::assert_close;
use core_tensor::{Batch, PerSample, Program, Tree};
use crucible_tests::draw::{Draw, flex_f64 as device};
use crucible_tests::models::{Cnn, Mlp, Transformer, labels};

fn numbers(tensor: &Tensor<1>) -> Vec<f64> {
    tensor.clone().into_data().iter::<f64>().collect()
}

fn of<const D: usize>(seed: u64, shape: [usize; D]) -> Tensor<D> {
    Draw::new(seed, &device()).tensor(shape, -1.5, 1.5)
}

/// Checks values, norms and weighted sums for a model of one loss a sample against the rows of its Jacobian.
fn check<M, B>(what: &str, model: &M, batch: B, losses: fn(&M, &B) -> Tensor<1>)
where
    M: Module + Sync + 'static,
    B: Batch + 'static,
{
    let program = Program::record_first_order(model, &batch, losses).unwrap_or_else(|e| panic!("{what}: {e}"));
    let point = Tree::from_module(model);
    let samples = program.per_sample(&point, &batch).unwrap_or_else(|e| panic!("{what}: {e}"));
    let (values, rows) = program.jacobian(&point, &batch).unwrap();
    let count = samples.samples();
    assert_eq!(numbers(&samples.values), numbers(&values), "{what}");
    let paths = |names: &[core_tensor::LeafName]| names.iter().map(|name| name.path.clone()).collect::<Vec<_>>();
    assert_eq!(paths(samples.names()), paths(rows[0].names()), "{what}");

    for (leaf, squares) in samples.squared_norms().iter().enumerate() {
        for (i, square) in numbers(squares).into_iter().enumerate() {
            let name = samples.names()[leaf].path.clone();
            let expected = rows[i].filter(|other| other.path == name).norm().value().powi(2);
            let whole = rows[i].norm().value().powi(2);
            let error = (square - expected).abs();
            assert!(error <= 1e-9 * expected + 1e-13 * whole, "{what}: {name} of sample {i}: {square} {expected}");
        }
    }
    let weights: Vec<f64> = (0..count).map(|i| 0.3 + 0.7 * i as f64).collect();
    let expected = rows.iter().zip(&weights).fold(rows[0].zeros_like(), |sum, (row, w)| sum.axpy(*w, row).unwrap());
    let weights = Tensor::<1>::from_data(TensorData::new(weights, [count]), &device());
    let sum = samples.weighted_sum(&weights).unwrap();
    assert_close(&sum, &expected, 1e-10 * (1.0 + expected.norm_inf().value()));
}

/// As [`check`] in `f32`, where convolutions have kernels of their own.
fn check_single(what: &str, conv: Conv2dConfig, shape: [usize; 4]) {
    let device = device();
    let cast = |x: Tensor<4>| x.cast(FloatDType::F32);
    let model = conv.init(&device);
    let model = Conv2d {
        weight: model.weight.map(cast),
        bias: model.bias.map(|bias| bias.map(|x| x.cast(FloatDType::F32))),
        ..model
    };
    let x = cast(of(1, shape));
    let losses =
        |m: &Conv2d, x: &Tensor<4>| m.forward(x.clone()).square().flatten::<2>(1, 3).sum_dim(1).squeeze_dim::<1>(1);
    let program = Program::record_first_order(&model, &x, losses).unwrap();
    let point = Tree::from_module(&model);
    let samples = program.per_sample(&point, &x).unwrap_or_else(|e| panic!("{what}: {e}"));
    let (_, rows) = program.jacobian(&point, &x).unwrap();
    for (norm, row) in numbers(&samples.norms()).into_iter().zip(&rows) {
        let expected = row.norm().value();
        assert!((norm / expected - 1.0).abs() < 1e-5, "{what}: {norm} {expected}");
    }
    let ones = Tensor::<1>::ones([shape[0]], (&device, burn::tensor::DType::F32));
    let expected = rows[1..].iter().fold(rows[0].clone(), |sum, row| sum.add(row).unwrap());
    let tolerance = 1e-5 * expected.norm_inf().value();
    assert_close(&samples.weighted_sum(&ones).unwrap(), &expected, tolerance);
}

#[test]
fn convolutions_in_single_precision() {
    let square = || Conv2dConfig::new([2, 5], [3, 3]);
    check_single("plain", square(), [3, 2, 9, 8]);
    check_single("padded", square().with_padding(PaddingConfig2d::Explicit(1, 2, 1, 2)), [3, 2, 7, 8]);
    check_single("strided", square().with_stride([2, 2]), [3, 2, 9, 9]);
    check_single("grouped", Conv2dConfig::new([4, 6], [3, 3]).with_groups(2), [2, 4, 8, 8]);
    check_single("few positions", Conv2dConfig::new([3, 4], [5, 5]), [2, 3, 6, 6]);
}

/// A mean over everything but the samples, with weights that differ.
fn score<const D: usize>(x: Tensor<D>) -> Tensor<1> {
    let samples = x.dims()[0];
    let size = x.dims().iter().product::<usize>() / samples;
    let x = x.reshape([samples, size]);
    let ramp = Tensor::<1, Int>::arange(0..size as i64, &x.device()).float().add_scalar(1.0).div_scalar(size as f64);
    x.tanh().mul(ramp.unsqueeze::<2>()).sum_dim(1).squeeze_dim::<1>(1)
}

#[test]
fn linear_layers_and_their_layouts() {
    #[derive(Module, Debug)]
    struct Two {
        first: Linear,
        second: Linear,
    }
    let device = device();
    for layout in [LinearLayout::Row, LinearLayout::Col] {
        let model = Two {
            first: LinearConfig::new(4, 5).with_layout(layout).init(&device),
            second: LinearConfig::new(5, 3).with_bias(false).with_layout(layout).init(&device),
        };
        check("flat", &model, of(1, [6, 4]), |m, x: &Tensor<2>| {
            score(m.second.forward(m.first.forward(x.clone()).tanh()))
        });
        check("one sample", &model, of(1, [1, 4]), |m, x: &Tensor<2>| {
            score(m.second.forward(m.first.forward(x.clone())))
        });
        // Two positions: products of positions; eleven: the gradient of each sample is smaller.
        for positions in [2, 11] {
            check("sequence", &model, of(2, [3, positions, 4]), |m, x: &Tensor<3>| {
                score(m.second.forward(m.first.forward(x.clone()).tanh()))
            });
        }
        check("positions merged into rows", &model, of(3, [3, 2, 4]), |m, x: &Tensor<3>| {
            let [samples, positions, _] = x.dims();
            let rows = x.clone().reshape([samples * positions, 4]);
            score(m.second.forward(m.first.forward(rows).tanh()).reshape([samples, positions, 3]))
        });
        check("positions as rows of the batch", &model, of(3, [6, 4]), |m, x: &Tensor<2>| {
            score(m.second.forward(m.first.forward(x.clone()).tanh()).reshape([3, 2, 3]))
        });
        check("samples second", &model, of(4, [3, 2, 4]), |m, x: &Tensor<3>| {
            let steps = x.clone().swap_dims(0, 1);
            score(m.second.forward(m.first.forward(steps).tanh()).swap_dims(0, 1))
        });
    }
}

#[test]
fn whole_models() {
    let device = device();
    let labels = |count: usize| labels(count, &device);
    check("mlp", &Mlp::new(&[12, 9, 10], &device), (of(1, [5, 12]), labels(5)), Mlp::losses);
    check("cnn", &Cnn::new(&device), (of(2, [3, 1, 28, 28]), labels(3)), Cnn::losses);
    check("transformer", &Transformer::new(&device), (of(3, [3, 6, 64]), labels(3)), Transformer::losses);
}

#[test]
fn convolutions_of_every_kind() {
    let device = device();
    let conv1 = Conv1dConfig::new(4, 6, 3).with_stride(2).with_groups(2).with_padding(PaddingConfig1d::Explicit(1, 1));
    check::<Conv1d, _>("conv1d", &conv1.init(&device), of(1, [3, 4, 9]), |m, x: &Tensor<3>| {
        score(m.forward(x.clone()))
    });
    let plain = Conv2dConfig::new([2, 3], [3, 2]).init(&device);
    check::<Conv2d, _>("conv2d", &plain, of(2, [3, 2, 6, 5]), |m, x: &Tensor<4>| score(m.forward(x.clone())));
    let wide = Conv2dConfig::new([4, 6], [3, 3])
        .with_stride([2, 1])
        .with_dilation([1, 2])
        .with_groups(2)
        .with_padding(PaddingConfig2d::Explicit(1, 2, 1, 2))
        .init(&device);
    check::<Conv2d, _>("strided conv2d", &wide, of(3, [3, 4, 7, 8]), |m, x: &Tensor<4>| score(m.forward(x.clone())));
    // Few positions and a large kernel: products of positions.
    let few = Conv2dConfig::new([3, 5], [4, 4]).init(&device);
    check::<Conv2d, _>("conv2d of few positions", &few, of(4, [3, 3, 5, 5]), |m, x: &Tensor<4>| {
        score(m.forward(x.clone()))
    });
    let deep = Conv3dConfig::new([2, 4], [2, 2, 2]).with_padding(PaddingConfig3d::Explicit(1, 0, 1)).with_groups(2);
    check::<Conv3d, _>("conv3d", &deep.init(&device), of(5, [2, 2, 3, 4, 3]), |m, x: &Tensor<5>| {
        score(m.forward(x.clone()))
    });
    let up1 = ConvTranspose1dConfig::new([4, 6], 3).with_stride(2).with_padding(1).with_groups(2);
    check::<ConvTranspose1d, _>("transposed 1d", &up1.init(&device), of(6, [3, 4, 5]), |m, x: &Tensor<3>| {
        score(m.forward(x.clone()))
    });
    let up2 = ConvTranspose2dConfig::new([4, 4], [3, 2]).with_stride([2, 2]).with_padding_out([1, 0]).with_groups(2);
    check::<ConvTranspose2d, _>("transposed 2d", &up2.init(&device), of(7, [3, 4, 3, 4]), |m, x: &Tensor<4>| {
        score(m.forward(x.clone()))
    });
    let up3 = ConvTranspose3dConfig::new([2, 3], [2, 2, 2]);
    check::<ConvTranspose3d, _>("transposed 3d", &up3.init(&device), of(8, [2, 2, 2, 3, 2]), |m, x: &Tensor<5>| {
        score(m.forward(x.clone()))
    });
}

#[test]
fn norms_activations_and_pooling() {
    #[derive(Module, Debug)]
    struct Net {
        conv: Conv2d,
        group: GroupNorm,
        prelu: PRelu,
        layer: LayerNorm,
        rms: RmsNorm,
        head: Linear,
    }
    let device = device();
    let net = Net {
        conv: Conv2dConfig::new([1, 4], [3, 3]).init(&device),
        group: GroupNormConfig::new(2, 4).init(&device),
        prelu: PReluConfig::new().init(&device),
        layer: LayerNormConfig::new(4).init(&device),
        rms: RmsNormConfig::new(4).init(&device),
        head: LinearConfig::new(4, 3).init(&device),
    };
    let net = Draw::new(9, &device).module(net);
    check("norms", &net, of(1, [3, 1, 10, 10]), |m, x: &Tensor<4>| {
        let h = m.group.forward(m.conv.forward(x.clone()));
        let h = MaxPool2dConfig::new([2, 2]).with_strides([2, 2]).init().forward(h);
        let h = AvgPool2dConfig::new([2, 2]).with_strides([2, 2]).init().forward(activation::gelu(h));
        let h = h.flatten::<3>(2, 3).swap_dims(1, 2);
        score(m.head.forward(m.rms.forward(m.layer.forward(h))))
    });
    check("prelu", &net, of(2, [3, 4]), |m, x: &Tensor<2>| score(m.prelu.forward(x.clone())));
}

#[test]
fn recurrent_layers() {
    let device = device();
    let lstm = LstmConfig::new(3, 4, true).init(&device);
    check::<Lstm, _>("lstm", &lstm, of(1, [3, 5, 3]), |m, x: &Tensor<3>| score(m.forward(x.clone(), None).0));
    let gru = GruConfig::new(3, 4, true).init(&device);
    check::<Gru, _>("gru", &gru, of(2, [3, 5, 3]), |m, x: &Tensor<3>| score(m.forward(x.clone(), None)));
    // The same weight at each step, few steps and many.
    let cell = LinearConfig::new(7, 4).init(&device);
    for steps in [3, 9] {
        check::<Linear, _>("recurrence", &cell, of(3, [3, steps, 3]), |m, x: &Tensor<3>| {
            let [samples, steps, _] = x.dims();
            let mut h = Tensor::<2>::zeros([samples, 4], &x.device());
            for t in 0..steps {
                let input = x.clone().narrow(1, t, 1).squeeze_dim::<2>(1);
                h = m.forward(Tensor::cat(vec![input, h], 1)).tanh();
            }
            score(h)
        });
    }
}

#[test]
fn embeddings_and_attention() {
    #[derive(Module, Debug)]
    struct Net {
        table: Embedding,
        block: TransformerEncoder,
        head: Linear,
    }
    let device = device();
    let net = Net {
        table: EmbeddingConfig::new(11, 8).init(&device),
        block: TransformerEncoderConfig::new(8, 12, 2, 1).with_dropout(0.0).init(&device),
        head: LinearConfig::new(8, 2).init(&device),
    };
    // Indices that repeat within a sample and across samples.
    let tokens = Tensor::<2, Int>::from_data([[1, 4, 1, 1], [0, 10, 3, 4], [5, 5, 5, 5]], &device);
    check("embedding", &net, tokens.clone(), |m, tokens: &Tensor<2, Int>| score(m.table.forward(tokens.clone())));
    check("encoder", &net, tokens.clone(), |m, tokens: &Tensor<2, Int>| {
        let h = m.block.forward(TransformerEncoderInput::new(m.table.forward(tokens.clone())));
        score(m.head.forward(h))
    });
    check("one position", &net, tokens.narrow(1, 0, 1), |m, tokens: &Tensor<2, Int>| {
        score(m.table.forward(tokens.clone()))
    });
    // Rows picked from a table that is a plain parameter.
    let table = Linear { weight: Param::from_tensor(of(9, [11, 5])), bias: None };
    let picks = Tensor::<1, Int>::from_data([2, 2, 7], &device);
    check("select", &table, picks, |m, picks: &Tensor<1, Int>| score(m.weight.val().select(0, picks.clone())));
}

#[test]
fn shared_weights_penalties_and_dropout() {
    #[derive(Module, Debug)]
    struct Net {
        layer: Linear,
        drop: Dropout,
    }
    let device = device();
    let net = Net { layer: LinearConfig::new(4, 4).init(&device), drop: DropoutConfig::new(0.4).init() };
    check("one layer twice", &net, of(1, [5, 4]), |m, x: &Tensor<2>| {
        score(m.layer.forward(m.layer.forward(x.clone()).tanh()))
    });
    check("a weight and its transpose", &net, of(2, [5, 4]), |m, x: &Tensor<2>| {
        let h = m.layer.forward(x.clone()).tanh();
        score(h.matmul(m.layer.weight.val().transpose()))
    });
    check("every sample with a penalty", &net, of(3, [5, 4]), |m, x: &Tensor<2>| {
        score(m.layer.forward(x.clone())) + m.layer.weight.val().square().sum() * 0.1
    });
    check("dropout", &net, of(4, [5, 4]), |m, x: &Tensor<2>| score(m.drop.forward(m.layer.forward(x.clone()))));
    check("a linear loss", &net, of(5, [5, 4]), |m, x: &Tensor<2>| {
        m.layer.forward(x.clone()).sum_dim(1).squeeze_dim::<1>(1)
    });
}

#[test]
fn samples_that_influence_each_other_are_refused() {
    #[derive(Module, Debug)]
    struct Net {
        layer: Linear,
        norm: BatchNorm,
    }
    let device = device();
    let net = Net { layer: LinearConfig::new(4, 4).init(&device), norm: BatchNormConfig::new(4).init(&device) };
    let x = of(1, [5, 4]);
    let point = Tree::from_module(&net);
    let refused = |losses: fn(&Net, &Tensor<2>) -> Tensor<1>| {
        let program = Program::record_first_order(&net, &x, losses).unwrap();
        let error = program.per_sample(&point, &x).err().expect("refused").to_string();
        assert!(error.contains("mixes the samples"), "{error}");
        error
    };
    refused(|m, x| score(m.norm.forward(m.layer.forward(x.clone()))));
    refused(|m, x| {
        let h = m.layer.forward(x.clone());
        score(h.clone() - h.mean_dim(0))
    });
    refused(|m, x| score(m.layer.forward(x.clone()).cumsum(0)));
    refused(|m, x| score(m.layer.forward(x.clone()).transpose().reshape([5, 4])));
    refused(|m, x| score(m.layer.forward(x.clone().flip([0])) + m.layer.forward(x.clone())));
    // Rows of the batch that are positions of samples.
    let rows = of(2, [10, 4]);
    let program = Program::record_first_order(&net, &rows, |m, x: &Tensor<2>| {
        let h = m.layer.forward(x.clone());
        score((h.clone() - h.mean_dim(0)).reshape([5, 2, 4]))
    });
    let error = program.unwrap().per_sample(&point, &rows).err().expect("refused").to_string();
    assert!(error.contains("mixes the samples"), "{error}");
    // One loss is one sample, whatever it was computed from.
    let program = Program::record_first_order(&net, &x, |m, x| m.layer.forward(x.clone()).sum()).unwrap();
    assert_eq!(program.per_sample(&point, &x).unwrap().samples(), 1);
    // In evaluation the statistics are fixed.
    let still = net.clone().valid();
    check("batch norm in evaluation", &still.train(), x.clone(), |m, x: &Tensor<2>| score(m.layer.forward(x.clone())));
}

#[test]
fn a_broken_sample_is_left_out_whatever_it_holds() {
    let device = device();
    let model = Cnn::new(&device);
    let point = Tree::from_module(&model);
    let losses = |m: &Cnn, x: &Tensor<4>| score(m.logits(x.clone()));
    let clean = of(1, [4, 1, 28, 28]);
    let broken = |value: f64| {
        let row = Tensor::full([1, 1, 28, 28], value, &device);
        clean.clone().slice_assign([1..2, 0..1, 0..28, 0..28], row)
    };
    let program = Program::record_first_order(&model, &clean, losses).unwrap();
    let take = |x: &Tensor<4>, weights: [f64; 4]| {
        let samples: PerSample = program.per_sample(&point, x).unwrap();
        let weights = Tensor::<1>::from_data(weights, &device);
        (numbers(&samples.norms()), samples.weighted_sum(&weights).unwrap())
    };
    let (norms, without) = take(&clean, [1.0, 0.0, 0.5, 2.0]);
    assert!(norms.iter().all(|norm| norm.is_finite()));
    for value in [f64::NAN, f64::INFINITY] {
        let (norms, sum) = take(&broken(value), [1.0, 1.0, 0.5, 2.0]);
        assert!(!norms[1].is_finite() && norms[0].is_finite() && norms[2].is_finite() && norms[3].is_finite());
        assert_close(&sum, &without, 1e-12 * without.norm_inf().value());
    }
}

#[test]
fn counts_are_checked_and_no_samples_give_zero() {
    let device = device();
    let model = LinearConfig::new(3, 2).init(&device);
    let point = Tree::from_module(&model);
    let losses = |m: &Linear, x: &Tensor<2>| score(m.forward(x.clone()));
    let x = of(1, [4, 3]);
    let program = Program::record_first_order(&model, &x, losses).unwrap();
    let samples = program.per_sample(&point, &x).unwrap();
    let three = Tensor::<1>::ones([3], &device);
    assert!(samples.weighted_sum(&three).unwrap_err().to_string().contains("3 elements"));
    assert!(samples.weighted_sums(&[Tensor::ones([4], &device)]).unwrap_err().to_string().contains("expected 2"));
    // Other batch sizes are recorded as they come, none at all too.
    assert_eq!(program.per_sample(&point, &of(1, [2, 3])).unwrap().samples(), 2);
    let none = Tensor::<2>::zeros([0, 3], &device);
    let program = Program::record_first_order(&model, &x, |m: &Linear, x: &Tensor<2>| {
        m.forward(x.clone()).sum_dim(1).squeeze_dim::<1>(1)
    });
    let samples = program.unwrap().per_sample(&point, &none).unwrap();
    assert_eq!((samples.samples(), samples.norms().dims()), (0, [0]));
    let sum = samples.weighted_sum(&Tensor::zeros([0], &device)).unwrap();
    assert_eq!((sum.len(), sum.norm().value()), (2, 0.0));
}
