//! Losses. Each is made a little curved by [`scalarise`], which adds half its square: a loss made of straight
//! pieces then has second derivatives too.

use burn::nn::Identity;
use burn::nn::loss::{
    BinaryCrossEntropyLoss, BinaryCrossEntropyLossConfig, CTCLoss, CTCLossConfig, CosineEmbeddingLoss,
    CosineEmbeddingLossConfig, CrossEntropyLoss, CrossEntropyLossConfig, GaussianNLLLoss, GaussianNLLLossConfig,
    HingeEmbeddingLoss, HingeEmbeddingLossConfig, HuberLoss, HuberLossConfig, KLDivLoss, KLDivLossConfig, LpLoss,
    LpLossConfig, MarginRankingLoss, MarginRankingLossConfig, MseLoss, MultiMarginLoss, MultiMarginLossConfig,
    PoissonNllLoss, PoissonNllLossConfig, RNNTLoss, RNNTLossConfig, Reduction, SmoothL1Loss, SmoothL1LossConfig,
    SoftMarginLoss, TripletMarginLoss, TripletMarginLossConfig,
};
use burn::tensor::activation::{log_softmax, sigmoid, softmax, softplus};
use burn::tensor::loss::cross_entropy_with_logits;
use burn::tensor::{Int, Tensor};

use super::{Expect, Net, Table, scalarise};

const POISSON: &str = "it asserts that its targets are not negative";

fn reads_targets() -> Expect {
    Expect::Uncovered(vec!["the value of `BaseBool(All)`", "reads no parameter"])
}

const BOTH: [Reduction; 2] = [Reduction::Mean, Reduction::Sum];

pub(super) fn classification(table: &mut Table) {
    let plain = CrossEntropyLossConfig::new;
    let weights = || Some(vec![0.5, 2.0, 1.0, 0.7]);
    for (name, config) in [
        ("CrossEntropyLoss", plain()),
        ("CrossEntropyLoss, class weights", plain().with_weights(weights())),
        ("CrossEntropyLoss, padding", plain().with_pad_tokens(Some(vec![1]))),
        ("CrossEntropyLoss, smoothing", plain().with_smoothing(Some(0.1))),
        (
            "CrossEntropyLoss, smoothing, weights, padding",
            plain().with_smoothing(Some(0.1)).with_weights(weights()).with_pad_tokens(Some(vec![1, 3])),
        ),
    ] {
        table.add(
            name,
            move |draw| {
                let targets = draw.exactly([5], &[0, 3, 1, 2, 0]);
                (config.init(&draw.device()), draw.param([5, 4]), targets)
            },
            |net: &Net<CrossEntropyLoss, _>, targets: &Tensor<1, Int>| {
                scalarise(net.module.forward(net.input.val(), targets.clone()))
            },
        );
    }
    table.add(
        "CrossEntropyLoss, probabilities",
        |draw| {
            let module = CrossEntropyLossConfig::new().with_logits(false).init(&draw.device());
            (module, draw.param([5, 4]), draw.exactly([5], &[0, 3, 1, 2, 0]))
        },
        |net: &Net<CrossEntropyLoss, _>, targets: &Tensor<1, Int>| {
            scalarise(net.module.forward(softmax(net.input.val(), 1), targets.clone()))
        },
    );
    table.add(
        "cross_entropy_with_logits",
        |draw| (Identity::new(), draw.param([3, 4]), draw.tensor([3, 4], 0.0, 1.0)),
        |net: &Net<Identity, _>, targets: &Tensor<2>| {
            scalarise(cross_entropy_with_logits(net.input.val(), targets.clone()))
        },
    );
    let plain = BinaryCrossEntropyLossConfig::new;
    for (name, config) in [
        ("BinaryCrossEntropyLoss, logits", plain().with_logits(true)),
        ("BinaryCrossEntropyLoss, logits, weights", plain().with_logits(true).with_weights(Some(vec![0.5, 2.0, 1.5]))),
        ("BinaryCrossEntropyLoss, logits, smoothing", plain().with_logits(true).with_smoothing(Some(0.2))),
    ] {
        table.add(
            name,
            move |draw| (config.init(&draw.device()), draw.param([4, 3]), draw.ints([4, 3], &[0, 1])),
            |net: &Net<BinaryCrossEntropyLoss, _>, targets: &Tensor<2, Int>| {
                scalarise(net.module.forward(net.input.val(), targets.clone()))
            },
        );
    }
    table.add(
        "BinaryCrossEntropyLoss, probabilities, rank 1, weights",
        |draw| {
            let module = BinaryCrossEntropyLossConfig::new().with_weights(Some(vec![0.5, 2.0])).init(&draw.device());
            (module, draw.param([5]), draw.exactly([5], &[0, 1, 1, 0, 1]))
        },
        |net: &Net<BinaryCrossEntropyLoss, _>, targets: &Tensor<1, Int>| {
            scalarise(net.module.forward(sigmoid(net.input.val()), targets.clone()))
        },
    );
    for reduction in BOTH {
        for p in [1, 2] {
            let to = reduction.clone();
            table.add(
                format!("MultiMarginLoss, p = {p} ({reduction:?})"),
                move |draw| {
                    let module = MultiMarginLossConfig::new().with_p(p).with_margin(0.8).init();
                    (module, draw.param([4, 3]), draw.ints([4], &[0, 1, 2]))
                },
                move |net: &Net<MultiMarginLoss, _>, targets: &Tensor<1, Int>| {
                    scalarise(net.module.forward(net.input.val(), targets.clone(), to.clone()))
                },
            );
        }
        let to = reduction.clone();
        table.add(
            format!("SoftMarginLoss ({reduction:?})"),
            |draw| (SoftMarginLoss::new(), draw.param([3, 4]), draw.ints([3, 4], &[-1, 1]).float()),
            move |net: &Net<SoftMarginLoss, _>, targets: &Tensor<2>| {
                scalarise(net.module.forward(net.input.val(), targets.clone(), to.clone()))
            },
        );
        let to = reduction.clone();
        table.add(
            format!("HingeEmbeddingLoss ({reduction:?})"),
            |draw| {
                let module = HingeEmbeddingLossConfig::new().with_margin(0.6).init();
                (module, draw.param([3, 4]), draw.ints([3, 4], &[-1, 1]).float())
            },
            move |net: &Net<HingeEmbeddingLoss, _>, targets: &Tensor<2>| {
                scalarise(net.module.forward(net.input.val(), targets.clone(), to.clone()))
            },
        );
    }
}

pub(super) fn regression(table: &mut Table) {
    for reduction in BOTH {
        let to = reduction.clone();
        table.add(
            format!("MseLoss ({reduction:?})"),
            |draw| (MseLoss::new(), draw.param([3, 4]), draw.tensor([3, 4], -1.0, 1.0)),
            move |net: &Net<MseLoss, _>, targets: &Tensor<2>| {
                scalarise(net.module.forward(net.input.val(), targets.clone(), to.clone()))
            },
        );
        for p in [1.0, 2.0, 3.5] {
            let to = reduction.clone();
            table.add(
                format!("LpLoss, p = {p} ({reduction:?})"),
                move |draw| (LpLossConfig::new(p).init(), draw.param([3, 4]), draw.tensor([3, 4], -1.0, 1.0)),
                move |net: &Net<LpLoss, _>, targets: &Tensor<2>| {
                    scalarise(net.module.forward(net.input.val(), targets.clone(), to.clone()))
                },
            );
        }
        let to = reduction.clone();
        table.add(
            format!("HuberLoss ({reduction:?})"),
            |draw| (HuberLossConfig::new(0.7).init(), draw.param([3, 4]), draw.tensor([3, 4], -1.0, 1.0)),
            move |net: &Net<HuberLoss, _>, targets: &Tensor<2>| {
                scalarise(net.module.forward(net.input.val(), targets.clone(), to.clone()))
            },
        );
        let to = reduction.clone();
        table
            .add(
                format!("SmoothL1Loss ({reduction:?})"),
                |draw| {
                    let module = SmoothL1LossConfig::new().with_beta(0.7).init();
                    (module, draw.param([3, 4]), draw.tensor([3, 4], -1.0, 1.0))
                },
                move |net: &Net<SmoothL1Loss, _>, targets: &Tensor<2>| {
                    scalarise(net.module.forward_with_reduction(net.input.val(), targets.clone(), to.clone()))
                },
            )
            .divides();
        for full in [false, true] {
            let to = reduction.clone();
            let constant = if full { ", full" } else { "" };
            table.add(
                format!("GaussianNLLLoss{constant} ({reduction:?})"),
                move |draw| {
                    let module = GaussianNLLLossConfig::new().with_full(full).init();
                    (module, (draw.param([3, 4]), draw.param_in([3, 4], 0.3, 2.0)), draw.tensor([3, 4], -1.0, 1.0))
                },
                move |net: &Net<GaussianNLLLoss, _>, targets: &Tensor<2>| {
                    let (mean, variance) = &net.input;
                    scalarise(net.module.forward(mean.val(), targets.clone(), variance.val(), to.clone()))
                },
            );
        }
        let to = reduction.clone();
        let poisson = table.add(
            format!("PoissonNllLoss ({reduction:?})"),
            |draw| (PoissonNllLossConfig::new().init(), draw.param([3, 4]), draw.tensor([3, 4], 0.5, 3.0)),
            move |net: &Net<PoissonNllLoss, _>, targets: &Tensor<2>| {
                scalarise(net.module.forward(net.input.val(), targets.clone(), to.clone()))
            },
        );
        poisson.expect(reads_targets()).note(POISSON);
        let to = reduction.clone();
        let poisson = table.add(
            format!("PoissonNllLoss, rates, full ({reduction:?})"),
            |draw| {
                let module = PoissonNllLossConfig::new().with_log_input(false).with_full(true).init();
                (module, draw.param([3, 4]), draw.tensor([3, 4], 0.5, 3.0))
            },
            move |net: &Net<PoissonNllLoss, _>, targets: &Tensor<2>| {
                let rates = softplus(net.input.val(), 1.0);
                scalarise(net.module.forward(rates, targets.clone(), to.clone()))
            },
        );
        poisson.expect(reads_targets()).note(POISSON);
    }
    table.add(
        "LpLoss, p = 3, over one dimension",
        |draw| (LpLossConfig::new(3.0).init(), draw.param([3, 4]), draw.tensor([3, 4], -1.0, 1.0)),
        |net: &Net<LpLoss, _>, targets: &Tensor<2>| {
            scalarise(net.module.forward_reduce_dims(net.input.val(), targets.clone(), &[1]))
        },
    );
    for reduction in [Reduction::Mean, Reduction::Sum, Reduction::BatchMean] {
        for log_target in [false, true] {
            let to = reduction.clone();
            let kind = if log_target { ", log targets" } else { "" };
            let divergence = table.add(
                format!("KLDivLoss{kind} ({reduction:?})"),
                move |draw| {
                    let module = KLDivLossConfig::new().with_log_target(log_target).init();
                    let targets = softmax(draw.tensor([3, 4], -1.0, 1.0), 1);
                    (module, draw.param([3, 4]), if log_target { targets.log() } else { targets })
                },
                move |net: &Net<KLDivLoss, _>, targets: &Tensor<2>| {
                    let predictions = log_softmax(net.input.val(), 1);
                    scalarise(net.module.forward(predictions, targets.clone(), to.clone()))
                },
            );
            if matches!(reduction, Reduction::BatchMean) {
                divergence.divides();
            }
        }
    }
}

pub(super) fn ranking(table: &mut Table) {
    for reduction in BOTH {
        let to = reduction.clone();
        table.add(
            format!("CosineEmbeddingLoss ({reduction:?})"),
            move |draw| {
                let module = CosineEmbeddingLossConfig::new().with_margin(-0.9).with_reduction(to.clone()).init();
                (module, (draw.param([3, 4]), draw.param([3, 4])), draw.exactly([3], &[1, -1, -1]))
            },
            |net: &Net<CosineEmbeddingLoss, _>, targets: &Tensor<1, Int>| {
                let (a, b) = &net.input;
                scalarise(net.module.forward(a.val(), b.val(), targets.clone()))
            },
        );
        let to = reduction.clone();
        table.add(
            format!("MarginRankingLoss ({reduction:?})"),
            |draw| {
                let module = MarginRankingLossConfig::new().with_margin(0.4).init();
                (module, (draw.param([6]), draw.param([6])), draw.ints([6], &[-1, 1]).float())
            },
            move |net: &Net<MarginRankingLoss, _>, targets: &Tensor<1>| {
                let (a, b) = &net.input;
                scalarise(net.module.forward(a.val(), b.val(), targets.clone(), to.clone()))
            },
        );
        for p in [1.0, 2.0] {
            let to = reduction.clone();
            table.add(
                format!("TripletMarginLoss, p = {p} ({reduction:?})"),
                move |draw| {
                    let module = TripletMarginLossConfig::new().with_p(p).with_margin(2.0).init();
                    let input = (draw.staggered([3, 4], 0), draw.staggered([3, 4], 1), draw.staggered([3, 4], 2));
                    (module, input, ())
                },
                move |net: &Net<TripletMarginLoss, _>, _| {
                    let (anchor, positive, negative) = &net.input;
                    scalarise(net.module.forward(anchor.val(), positive.val(), negative.val(), to.clone()))
                },
            );
        }
    }
}

/// Targets, input lengths and target lengths.
type Alignment = (Tensor<2, Int>, Tensor<1, Int>, Tensor<1, Int>);

pub(super) fn sequences(table: &mut Table) {
    for reduction in BOTH {
        let to = reduction.clone();
        table.add(
            format!("CTCLoss ({reduction:?})"),
            |draw| {
                let targets = draw.exactly([2, 2], &[1, 2, 2, 2]);
                let lengths = (draw.exactly([2], &[4, 5]), draw.exactly([2], &[1, 2]));
                (CTCLossConfig::new().init(), draw.param([5, 2, 3]), (targets, lengths.0, lengths.1))
            },
            move |net: &Net<CTCLoss, _>, (targets, inputs, lengths): &Alignment| {
                let log_probabilities = log_softmax(net.input.val(), 2);
                scalarise(net.module.forward_with_reduction(
                    log_probabilities,
                    targets.clone(),
                    inputs.clone(),
                    lengths.clone(),
                    to.clone(),
                ))
            },
        );
        let to = reduction.clone();
        table.add(
            format!("RNNTLoss ({reduction:?})"),
            |draw| {
                let targets = draw.exactly([2, 2], &[1, 2, 2, 1]);
                let lengths = (draw.exactly([2], &[3, 2]), draw.exactly([2], &[2, 1]));
                (RNNTLossConfig::new().init(), draw.param([2, 3, 3, 3]), (targets, lengths.0, lengths.1))
            },
            move |net: &Net<RNNTLoss, _>, (targets, inputs, lengths): &Alignment| {
                scalarise(net.module.forward_with_reduction(
                    net.input.val(),
                    targets.clone(),
                    inputs.clone(),
                    lengths.clone(),
                    to.clone(),
                ))
            },
        );
    }
    table.add(
        "CTCLoss, infinite losses zeroed",
        |draw| {
            let targets = draw.exactly([2, 2], &[1, 2, 1, 2]);
            let lengths = (draw.exactly([2], &[1, 4]), draw.exactly([2], &[2, 2]));
            (
                CTCLossConfig::new().with_zero_infinity(true).init(),
                draw.param([4, 2, 3]),
                (targets, lengths.0, lengths.1),
            )
        },
        |net: &Net<CTCLoss, _>, (targets, inputs, lengths): &Alignment| {
            let log_probabilities = log_softmax(net.input.val(), 2);
            scalarise(net.module.forward(log_probabilities, targets.clone(), inputs.clone(), lengths.clone()))
        },
    );
}
