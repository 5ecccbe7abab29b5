//! Activations, as modules and as functions.

use burn::nn::activation::{
    Activation, ActivationConfig, CeluConfig, EluConfig, GLU, Gelu, HardShrinkConfig, HardSigmoidConfig, HardSwish,
    HardtanhConfig, LeakyReluConfig, LogSigmoid, Mish, PReluConfig, RReluConfig, Relu, Relu6, Selu, ShrinkConfig, SiLU,
    Sigmoid, SoftShrinkConfig, SoftplusConfig, Softsign, SwiGluConfig, Tanh, Tanhshrink, ThresholdConfig,
    ThresholdedReluConfig,
};
use burn::nn::{Identity, Linear, LinearConfig};
use burn::tensor::activation;

use super::{Limits, Net, Table, scalarise};

const IN_F32: &str = "Burn computes it in f32";

pub(super) fn activations(table: &mut Table) {
    table.layer("Identity", [2, 3], |_| Identity::new(), |m, x| m.forward(x));
    table.layer("Relu", [3, 4], |_| Relu::new(), |m, x| m.forward(x));
    table.away("Relu6", [3, 4], (-2.0, 8.0, &[0.0, 6.0]), |_| Relu6::new(), |m, x| m.forward(x));
    table.layer("LeakyRelu", [3, 4], |_| LeakyReluConfig::new().with_negative_slope(0.2).init(), |m, x| m.forward(x));
    table.layer("PRelu", [3, 4], |d| PReluConfig::new().init(d), |m, x| m.forward(x));
    table.layer(
        "PRelu, a slope a channel",
        [2, 3, 2],
        |d| PReluConfig::new().with_num_parameters(3).init(d),
        |m, x| m.forward(x),
    );
    table.add(
        "RRelu, evaluation",
        |draw| {
            let mut module = RReluConfig::new().init();
            module.training = module.training.with_value(false);
            (module, draw.param([3, 4]), ())
        },
        |net: &Net<burn::nn::activation::RRelu, _>, _| scalarise(net.module.forward(net.input.val())),
    );
    table.layer("Gelu", [3, 4], |_| Gelu::new(), |m, x| m.forward(x));
    table.layer("Gelu, tanh approximation", [3, 4], |_| Gelu::new_approximate(), |m, x| m.forward(x));
    table.layer("SwiGlu", [3, 4], |d| SwiGluConfig::new(4, 3).with_bias(true).init(d), |m, x| m.forward(x));
    table.layer("GLU", [3, 4], |_| GLU::new(1), |m, x| m.forward(x));
    table.layer("Selu", [3, 4], |_| Selu::new(), |m, x| m.forward(x));
    table.layer("Elu", [3, 4], |_| EluConfig::new().with_alpha(0.7).init(), |m, x| m.forward(x));
    table.layer("Celu", [3, 4], |_| CeluConfig::new().with_alpha(1.4).init(), |m, x| m.forward(x)).divides();
    table.layer("Sigmoid", [3, 4], |_| Sigmoid::new(), |m, x| m.forward(x));
    table.layer("LogSigmoid", [3, 4], |_| LogSigmoid::new(), |m, x| m.forward(x));
    table
        .away(
            "HardSigmoid",
            [3, 4],
            (-4.0, 4.0, &[-2.5, 2.5]),
            |_| HardSigmoidConfig::new().init(),
            |m, x| m.forward(x),
        )
        .limits(Limits::SINGLE)
        .note(IN_F32);
    table.layer("SiLU", [3, 4], |_| SiLU::new(), |m, x| m.forward(x));
    table
        .away("HardSwish", [3, 4], (-4.0, 4.0, &[-3.0, 3.0]), |_| HardSwish::new(), |m, x| m.forward(x))
        .limits(Limits::SINGLE)
        .note(IN_F32);
    table.layer("Mish", [3, 4], |_| Mish::new(), |m, x| m.forward(x));
    table.layer("Tanh", [3, 4], |_| Tanh::new(), |m, x| m.forward(x));
    table.layer("Tanhshrink", [3, 4], |_| Tanhshrink::new(), |m, x| m.forward(x));
    table.away(
        "Hardtanh",
        [3, 4],
        (-2.0, 2.0, &[-1.0, 0.5]),
        |_| HardtanhConfig::new().with_max_val(0.5).init(),
        |m, x| m.forward(x),
    );
    table.away(
        "Softplus, across the threshold",
        [3, 4],
        (-3.0, 3.0, &[0.5]),
        |_| SoftplusConfig::new().with_beta(2.0).with_threshold(1.0).init(),
        |m, x| m.forward(x),
    );
    table.layer("Softsign", [3, 4], |_| Softsign::new(), |m, x| m.forward(x));
    table.away(
        "Threshold",
        [3, 4],
        (-1.0, 2.0, &[0.4]),
        |_| ThresholdConfig::new(0.4, -0.3).init(),
        |m, x| m.forward(x),
    );
    table.away(
        "ThresholdedRelu",
        [3, 4],
        (-1.0, 3.0, &[1.0]),
        |_| ThresholdedReluConfig::new().init(),
        |m, x| m.forward(x),
    );
    let edges: &[f64] = &[-0.5, 0.5];
    table.away("HardShrink", [3, 4], (-2.0, 2.0, edges), |_| HardShrinkConfig::new().init(), |m, x| m.forward(x));
    table.away("SoftShrink", [3, 4], (-2.0, 2.0, edges), |_| SoftShrinkConfig::new().init(), |m, x| m.forward(x));
    table.away(
        "Shrink",
        [3, 4],
        (-2.0, 2.0, edges),
        |_| ShrinkConfig::new().with_bias(0.2).init(),
        |m, x| m.forward(x),
    );
    table.add(
        "Activation::Softplus, after Linear",
        |draw| {
            let linear: Linear = LinearConfig::new(4, 3).init(&draw.autodiff());
            let activation: Activation = ActivationConfig::Softplus(SoftplusConfig::new()).init(&draw.autodiff());
            ((draw.module(linear), activation), draw.param([2, 4]), ())
        },
        |net: &Net<(Linear, Activation), _>, _| {
            let (linear, activation) = &net.module;
            scalarise(activation.forward(linear.forward(net.input.val())))
        },
    );
    table.function("softmax", [3, 4], |x| activation::softmax(x, 1));
    table.function("softmax, first dimension", [3, 2, 2], |x| activation::softmax(x, 0));
    table.function("softmin", [3, 4], |x| activation::softmin(x, 1));
    table.function("quiet_softmax", [3, 4], |x| activation::quiet_softmax(x, 1));
    table.function("log_softmax", [3, 4], |x| activation::log_softmax(x, 1));
    table.function("softplus", [3, 4], |x| activation::softplus(x, 1.5)).divides();
    table.function("glu", [4, 3], |x| activation::glu(x, 0));
}
