//! Laws of all bounds, on random networks.

use std::io::Read;

use burn::module::Module;
use burn::nn::conv::{Conv1d, Conv1dConfig, Conv2d, Conv2dConfig};
use burn::nn::pool::{AdaptiveAvgPool2dConfig, AvgPool2dConfig, MaxPool2dConfig};
use burn::nn::{BatchNorm, BatchNormConfig, Dropout, DropoutConfig, Linear, LinearConfig};
use burn::nn::{PaddingConfig1d, PaddingConfig2d};
use burn::optim::{AdamConfig, GradientsParams};
use burn::tensor::{Device, Distribution, activation};
use core_tensor::testing::{host_devices, property};
use core_tensor::{Random, Tree};
use proptest::prelude::*;

use super::*;
use crate::threat::Norm;

const METHODS: [Method; 3] = [Method::Ibp, Method::CrownIbp, Method::Crown];

type Activation = fn(Tensor<2>) -> Tensor<2>;

const ACTIVATIONS: [(&str, Activation); 14] = [
    ("relu", activation::relu),
    ("leaky relu", |x| activation::leaky_relu(x, 0.1)),
    ("tanh", activation::tanh),
    ("sigmoid", activation::sigmoid),
    ("gelu", activation::gelu),
    ("silu", activation::silu),
    ("elu", |x| activation::elu(x, 0.7)),
    ("softplus", |x| activation::softplus(x, 2.0)),
    ("hard sigmoid", |x| activation::hard_sigmoid(x, 0.3, 0.4)),
    ("log-sigmoid", activation::log_sigmoid),
    ("clamp", |x| x.clamp(-0.4, 0.6)),
    ("abs", |x| x.abs()),
    ("square", |x| x.square()),
    ("gate", |x| x.clone().tanh() * x.slice_dim(1, 0..1)),
];

/// A network of linear layers with random weights of a size that makes activations bend.
fn layers(widths: &[usize], seed: u64, device: &Device) -> Vec<Linear> {
    let model: Vec<Linear> = widths.windows(2).map(|w| LinearConfig::new(w[0], w[1]).init(device)).collect();
    randomised(&model, seed, 1.2)
}

/// The model with normal parameters.
fn randomised<M: Module>(model: &M, seed: u64, size: f64) -> M {
    let tree = Tree::from_module(model);
    let noise = Random::new(seed).normal_like(&tree, size);
    noise.write_into(model.clone()).unwrap()
}

fn feed(layers: &[Linear], x: Tensor<2>, activation: Activation) -> Tensor<2> {
    let last = layers.len() - 1;
    layers.iter().enumerate().fold(x, |x, (i, layer)| {
        let y = layer.forward(x);
        if i < last { activation(y) } else { y }
    })
}

fn verifier(layers: &Vec<Linear>, x: &Tensor<2>, activation: Activation) -> Verifier<Vec<Linear>, 2> {
    Verifier::record(layers, x, move |layers: &Vec<Linear>, x| feed(layers, x, activation)).unwrap()
}

fn numbers<const D: usize>(tensor: &Tensor<D>) -> Vec<f64> {
    tensor.to_data().iter::<f64>().collect()
}

/// Allowed inputs: the corners of the cube where there are few elements, and points of ball and box.
fn allowed<const D: usize>(x: &Tensor<D>, threat: &Threat, random: &mut Random) -> Vec<Tensor<D>> {
    let (device, shape) = (x.device(), x.dims());
    let width: usize = shape[1..].iter().product();
    let mut points = vec![x.clone()];
    for corner in 0..if width <= 5 { 1 << width } else { 0 } {
        let signs: Vec<f64> = (0..shape[0] * width).map(|i| f64::from(corner >> (i % width) & 1) * 2.0 - 1.0).collect();
        let signs = Tensor::<1>::from_data(signs.as_slice(), &device).reshape(shape);
        points.push(threat.project(x, x.clone() + signs * threat.epsilon()).unwrap());
    }
    for size in [0.5, 1.0, 3.0, 100.0] {
        for _ in 0..4 {
            let step: Tensor<D> = random.normal(shape, 0.0, size * threat.epsilon() + 1e-3, &device);
            points.push(threat.project(x, x.clone() + step).unwrap());
        }
    }
    points
}

/// Every output is inside the bounds, without any tolerance.
fn assert_contains(bounds: &Bounds, out: &Tensor<2>, what: &str) {
    let (lower, upper) = (numbers(&bounds.lower), numbers(&bounds.upper));
    for ((l, z), u) in lower.iter().zip(numbers(out)).zip(&upper) {
        assert!(*l <= z && z <= *u, "{what}: {z} is not in [{l}, {u}]");
    }
}

fn threats() -> impl Strategy<Value = Threat> {
    let norm = prop::sample::select(vec![Norm::Linf, Norm::L2, Norm::L1]);
    (norm, 0.0f64..0.6).prop_map(|(norm, epsilon)| Threat::new(norm, epsilon).unwrap())
}

#[test]
fn bounds_contain_corners_and_samples() {
    let case = (0..ACTIVATIONS.len(), threats(), 1usize..3, any::<u64>());
    property(60, case, |(index, threat, depth, seed)| {
        for device in host_devices() {
            let (name, activation) = ACTIVATIONS[index];
            let mut random = Random::new(seed);
            let x: Tensor<2> = random.uniform([3, 4], 0.0, 1.0, &device);
            let mut widths = vec![4];
            widths.extend(vec![6; depth]);
            widths.push(3);
            let model = layers(&widths, seed, &device);
            let verifier = verifier(&model, &x, activation);
            let points = allowed(&x, &threat, &mut random);
            for method in METHODS {
                let bounds = verifier.bounds(method, &x, &threat).unwrap();
                for point in &points {
                    let out = feed(&model, point.clone(), activation);
                    assert_contains(&bounds, &out, &format!("{name} {method:?} {threat:?} {device:?}"));
                }
            }
        }
    });
}

/// Lines below and above, and the range, for every activation by itself.
#[test]
fn lines_enclose_functions() {
    let functions = [
        Function::Relu,
        Function::Tanh,
        Function::Sigmoid,
        Function::Gelu,
        Function::Silu,
        Function::Elu(0.6),
        Function::Softplus(1.5),
        Function::Exp,
        Function::Square,
        Function::Abs,
    ];
    let widths = prop_oneof![Just(0.0), 1e-6f64..1e-3, 1e-3f64..1.0, 1.0f64..8.0];
    property(400, (-5.0f64..5.0, widths), |(low, width)| {
        let device = Device::flex();
        let points: Vec<f64> = (0..=64).map(|i| low + width * f64::from(i) / 64.0).collect();
        let x = Array::of(Tensor::<1>::from_data(points.as_slice(), &device));
        let end = |at: usize| Array::of(Tensor::<1>::from_data([points[at]], &device));
        let unit = roundoff(x.dtype()).unwrap();
        for function in functions {
            let (l, u) = (end(0), end(64));
            let lines = function.lines(&l, &u, Some(unit));
            let (least, most) = function.range(&l, &u);
            let error = function.error(&least.abs().max(&most.abs()), &l.abs().max(&u.abs()), unit);
            let error = error.map_or(0.0, |error| error.values()[0]);
            let (least, most) = (least.values()[0] - error, most.values()[0] + error);
            let at = |line: &function::Line, x: f64| {
                line.slope.values()[0] * x + line.offset.as_ref().map_or(0.0, |offset| offset.values()[0])
            };
            for (x, f) in x.values().into_iter().zip(function.of(&x).values()) {
                let (below, above) = (at(&lines.lower, x), at(&lines.upper, x));
                assert!(below <= f && f <= above, "{function:?} on {low}+{width} at {x}: {below} {f} {above}");
                assert!(least <= f && f <= most, "{function:?} on {low}+{width} at {x}: {least} {f} {most}");
            }
        }
    });
}

#[test]
fn crown_is_nowhere_looser() {
    property(40, (0..ACTIVATIONS.len(), threats(), any::<u64>()), |(index, threat, seed)| {
        let device = Device::flex();
        let x: Tensor<2> = Random::new(seed).uniform([2, 4], 0.0, 1.0, &device);
        let y = Tensor::<1, Int>::from_data([0, 2], &device);
        let verifier = verifier(&layers(&[4, 7, 5, 3], seed, &device), &x, ACTIVATIONS[index].1);
        let bounds = METHODS.map(|method| verifier.bounds(method, &x, &threat).unwrap());
        let margins = METHODS.map(|method| verifier.margins(method, &x, &y, &threat).unwrap());
        for tighter in 1..3 {
            let pairs = [
                (numbers(&bounds[tighter].lower), numbers(&bounds[0].lower)),
                (numbers(&bounds[0].upper), numbers(&bounds[tighter].upper)),
                (numbers(&margins[tighter].lower), numbers(&margins[0].lower)),
            ];
            for (above, below) in pairs {
                // Up to the rounding of centre and radius.
                let holds = |a: f64, b: f64| assert!(a >= b - 1e-5 * (1.0 + b.abs()), "{index} {threat:?}: {a} {b}");
                above.iter().zip(&below).for_each(|(a, b)| holds(*a, *b));
            }
        }
    });
}

#[test]
fn ibp_grows_with_the_radius() {
    property(40, (0..ACTIVATIONS.len(), threats(), 0.0f64..1.0, any::<u64>()), |(index, threat, share, seed)| {
        let device = Device::flex();
        let x: Tensor<2> = Random::new(seed).uniform([2, 4], 0.0, 1.0, &device);
        let verifier =
            verifier(&layers(&[4, 6, 3], seed, &device), &x, ACTIVATIONS[index].1).rounding(Rounding::Ignored);
        let wide = verifier.ibp(&x, &threat).unwrap();
        let narrow = verifier.ibp(&x, &threat.radius(threat.epsilon() * share).unwrap()).unwrap();
        // Up to the rounding that is ignored.
        let above = |a: &Tensor<2>, b: &Tensor<2>| {
            numbers(a).iter().zip(numbers(b)).for_each(|(a, b)| assert!(*a >= b - 1e-4 * (1.0 + b.abs()), "{a} {b}"));
        };
        above(&narrow.lower, &wide.lower);
        above(&wide.upper, &narrow.upper);
    });
}

#[test]
fn without_a_radius_bounds_are_the_value() {
    property(28, (0..ACTIVATIONS.len(), any::<u64>()), |(index, seed)| {
        let device = Device::flex();
        let (x, model) = (Random::new(seed).uniform([2, 4], 0.0, 1.0, &device), layers(&[4, 6, 3], seed, &device));
        let out = numbers(&feed(&model, x.clone(), ACTIVATIONS[index].1));
        let verifier = verifier(&model, &x, ACTIVATIONS[index].1);
        for method in METHODS {
            let bounds = verifier.bounds(method, &x, &Threat::new(Norm::L2, 0.0).unwrap()).unwrap();
            for ((l, z), u) in numbers(&bounds.lower).iter().zip(&out).zip(numbers(&bounds.upper)) {
                let scale = 1.0 + z.abs();
                assert!(u - l < 2e-3 * scale, "{}: {l} {z} {u}", ACTIVATIONS[index].0);
            }
        }
    });
}

/// The worst margin of a linear model is `m − ε‖w_y − w_j‖_q`, for `Linf` with the box element by element.
#[test]
fn linear_models_are_exact() {
    property(40, (threats(), any::<u64>()), |(threat, seed)| {
        let device = Device::flex();
        let cut = threat.norm() == Norm::Linf;
        let threat = if cut { threat } else { threat.bounds(-50.0, 50.0).unwrap() };
        let x: Tensor<2> = Random::new(seed).uniform([2, 5], 0.0, 1.0, &device);
        let model = layers(&[5, 3], seed, &device);
        let (weight, bias) = (numbers(&model[0].weight.val()), numbers(&model[0].bias.as_ref().unwrap().val()));
        let y = Tensor::<1, Int>::from_data([1, 2], &device);
        let verifier = verifier(&model, &x, activation::relu);
        for method in METHODS {
            let margins = verifier.margins(method, &x, &y, &threat).unwrap();
            for (row, (x, y)) in numbers(&margins.lower).chunks(3).zip(numbers(&x).chunks(5).zip([1, 2])) {
                for j in (0..3).filter(|j| *j != y) {
                    let w: Vec<f64> = (0..5).map(|i| weight[i * 3 + y] - weight[i * 3 + j]).collect();
                    let at = w.iter().zip(x).map(|(w, x)| w * x).sum::<f64>() + bias[y] - bias[j];
                    let drop = match threat.norm().dual() {
                        Some(q) if !cut => threat.epsilon() * q.of(w.iter().copied()),
                        _ => {
                            let epsilon = threat.epsilon();
                            let room = |w: f64, x: f64| if w > 0.0 { x.min(epsilon) } else { (1.0 - x).min(epsilon) };
                            w.iter().zip(x).map(|(w, x)| w.abs() * room(*w, *x)).sum()
                        }
                    };
                    assert!((row[j] - (at - drop)).abs() < 1e-4, "{method:?} {threat:?}: {} {}", row[j], at - drop);
                    assert!(row[j] <= at - drop + 1e-7);
                }
            }
        }
    });
}

/// Gradient descent on the worst margin, projected.
fn break_by_descent(
    model: &[Linear],
    activation: Activation,
    x: &Tensor<2>,
    y: &[usize],
    threat: &Threat,
) -> Vec<bool> {
    let (device, examples) = (x.device().autodiff(), x.dims()[0]);
    let tracked: Vec<Linear> = model.to_vec().train();
    let mut broken = vec![false; examples];
    let mut point = x.clone();
    for _ in 0..30 {
        let at = Tensor::<2>::from_data(point.to_data(), &device).require_grad();
        let out = feed(&tracked, at.clone(), activation);
        let mut loss = Tensor::<1>::zeros([1], &device);
        for (row, (z, y)) in numbers(&out).chunks(3).zip(y).enumerate() {
            let other = (0..3).filter(|j| j != y).max_by(|a, b| z[*a].total_cmp(&z[*b])).unwrap();
            broken[row] |= z[other] >= z[*y];
            let pick = |j: usize| out.clone().slice([row..row + 1, j..j + 1]).reshape([1]);
            loss = loss + pick(*y) - pick(other);
        }
        let gradient = at.grad(&loss.backward()).unwrap();
        point = threat.project(x, point - gradient.sign() * (threat.epsilon() / 4.0)).unwrap();
    }
    broken
}

#[test]
fn what_is_certified_is_not_broken() {
    property(16, (0..ACTIVATIONS.len(), threats(), any::<u64>()), |(index, threat, seed)| {
        let device = Device::flex();
        let activation = ACTIVATIONS[index].1;
        let threat = threat.radius(threat.epsilon() / 6.0).unwrap();
        let x: Tensor<2> = Random::new(seed).uniform([4, 4], 0.0, 1.0, &device);
        let model = layers(&[4, 8, 3], seed, &device);
        let y: Tensor<1, Int> = feed(&model, x.clone(), activation).argmax(1).squeeze_dim(1);
        let labels: Vec<usize> = y.to_data().iter::<i64>().map(|y| y as usize).collect();
        let margins = verifier(&model, &x, activation).margins(Method::Crown, &x, &y, &threat).unwrap();
        let broken = break_by_descent(&model, activation, &x, &labels, &threat);
        for (certified, broken) in margins.certified.iter().zip(broken) {
            assert!(!(*certified && broken), "{} {threat:?}", ACTIVATIONS[index].0);
        }
    });
}

/// Everything with a rule that a network for images records.
#[derive(Module, Debug)]
struct Images {
    first: Conv2d,
    norm: BatchNorm,
    second: Conv2d,
    side: Conv1d,
    dropout: Dropout,
    last: Linear,
}

impl Images {
    fn new(device: &Device, padding: PaddingConfig2d) -> Self {
        Images {
            first: Conv2dConfig::new([1, 4], [3, 3]).with_padding(padding).init(device),
            norm: BatchNormConfig::new(4).init(device),
            second: Conv2dConfig::new([4, 4], [2, 3])
                .with_groups(2)
                .with_stride([2, 1])
                .with_dilation([1, 2])
                .with_padding(PaddingConfig2d::Explicit(1, 2, 1, 2))
                .init(device),
            side: Conv1dConfig::new(4, 2, 3).with_padding(PaddingConfig1d::Explicit(1, 0)).init(device),
            dropout: DropoutConfig::new(0.5).init(),
            last: LinearConfig::new(125, 3).init(device),
        }
    }

    /// `[n, 1, 6, 5]` to `[n, 3]`.
    fn forward(&self, x: Tensor<4>) -> Tensor<2> {
        let n = x.dims()[0];
        let x = (x - 0.4) / 0.3;
        let a = activation::relu(self.norm.forward(self.first.forward(x.clone())));
        let a = a.clone() + a.clone().flip([3]) - x.expand([n, 4, 6, 5]) * 0.5;
        let b = activation::tanh(self.second.forward(self.dropout.forward(a.clone())));
        let pooled = MaxPool2dConfig::new([2, 2]).init().forward(a.clone());
        let over = MaxPool2dConfig::new([3, 2]).with_strides([1, 1]).init().forward(a.clone());
        let mean = AvgPool2dConfig::new([3, 2])
            .with_strides([2, 2])
            .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
            .with_count_include_pad(false)
            .init()
            .forward(b);
        let shrunk = AdaptiveAvgPool2dConfig::new([4, 2]).init().forward(a.clone());
        let line = self.side.forward(a.clone().mean_dim(2).reshape([n, 4, 5]));
        let line = line.pad((0, 1, 0, 0), burn::tensor::ops::PadMode::Constant(0.25));
        let flat = |x: Tensor<4>| {
            let x = x.swap_dims(1, 2);
            let size = x.dims()[1] * x.dims()[2] * x.dims()[3];
            x.reshape([n, size])
        };
        let line = line.permute([0, 2, 1]).flatten::<2>(1, 2);
        let parts = [flat(pooled), flat(over).slice_dim(1, burn::tensor::s![1..;2]), flat(mean), flat(shrunk), line];
        let all = Tensor::cat(parts.to_vec(), 1);
        let all = Tensor::cat(vec![all.clone(), Tensor::ones([n, 3], &all.device())], 1);
        self.last.forward(all)
    }
}

/// Running statistics that are not those of a new layer.
fn images(seed: u64, device: &Device) -> Images {
    let padding = PaddingConfig2d::Explicit(1, 1, 1, 1);
    let model = randomised(&Images::new(&device.clone().autodiff(), padding), seed, 0.6);
    let x = Random::new(seed).normal([8, 1, 6, 5], 0.3, 0.5, &device.clone().autodiff());
    for _ in 0..20 {
        model.forward(x.clone());
    }
    model.valid()
}

#[test]
fn images_are_bounded() {
    property(10, (threats(), any::<u64>()), |(threat, seed)| {
        for device in host_devices() {
            let threat = threat.radius(threat.epsilon() / 4.0).unwrap();
            let mut random = Random::new(seed);
            let x: Tensor<4> = random.uniform([2, 1, 6, 5], 0.0, 1.0, &device);
            let model = images(seed, &device);
            let verifier = Verifier::record(&model, &x, |model: &Images, x| model.forward(x)).unwrap();
            for method in METHODS {
                let bounds = verifier.bounds(method, &x, &threat).unwrap();
                for point in allowed(&x, &threat, &mut random) {
                    assert_contains(&bounds, &model.forward(point), &format!("{method:?} {threat:?} {device:?}"));
                }
                let exact = verifier.bounds(method, &x, &threat.radius(0.0).unwrap()).unwrap();
                let width = numbers(&(exact.upper - exact.lower)).into_iter().fold(0.0, f64::max);
                assert!(width < 0.05, "{method:?}: {width}");
            }
            // One by one as all together.
            let all = verifier.ibp(&x, &threat).unwrap();
            let one = verifier.ibp(&x.clone().slice_dim(0, 1..2), &threat).unwrap();
            let (all, one) = (numbers(&all.lower.slice_dim(0, 1..2)), numbers(&one.lower));
            all.iter().zip(one).for_each(|(a, b)| assert!((a - b).abs() < 1e-3 * (1.0 + b.abs()), "{a} {b}"));
        }
    });
}

/// A model in training mode is verified as it infers, and is left as it was.
#[test]
fn training_mode_does_not_matter() {
    for device in host_devices() {
        let tracked = device.clone().autodiff();
        let model = Images::new(&tracked, PaddingConfig2d::Explicit(1, 1, 1, 1));
        let x = Tensor::<4>::random([2, 1, 6, 5], Distribution::Uniform(0.0, 1.0), &device);
        let verifier = Verifier::record(&model, &x, |model: &Images, x| model.forward(x)).unwrap();
        let threat = Threat::new(Norm::Linf, 1e-4).unwrap();
        let inputs = Tensor::from_inner(x.clone());
        let bounds = verifier.crown(&inputs, &threat).unwrap();
        assert_contains(&bounds, &model.valid().forward(x), "inference");
        assert!(model.dropout.training.is_enabled() && model.norm.training.is_enabled());
        assert_eq!(numbers(&model.norm.running_mean.value().inner()), [0.0; 4]);
    }
}

#[test]
fn new_parameters_need_no_new_recording() {
    let device = Device::flex();
    let x: Tensor<2> = Random::new(1).uniform([2, 4], 0.0, 1.0, &device);
    let threat = Threat::new(Norm::Linf, 0.1).unwrap();
    let (one, two) = (layers(&[4, 5, 3], 1, &device), layers(&[4, 5, 3], 2, &device));
    let moved = verifier(&one, &x, activation::relu).with_model(&two).ibp(&x, &threat).unwrap();
    let fresh = verifier(&two, &x, activation::relu).ibp(&x, &threat).unwrap();
    assert_eq!(numbers(&moved.lower), numbers(&fresh.lower));
}

#[test]
fn what_has_no_bound_is_named() {
    let device = Device::flex();
    let x: Tensor<2> = Random::new(1).uniform([2, 4], 0.0, 1.0, &device);
    let model = layers(&[4, 3], 1, &device);
    let name = |forward: fn(&Vec<Linear>, Tensor<2>) -> Tensor<2>| {
        Verifier::record(&model, &x, forward).err().map(|error| error.to_string()).unwrap_or_default()
    };
    assert!(name(|m, x| m[0].forward(x.sin())).contains("Float(Sin)"));
    assert!(name(|m, x| activation::softmax(m[0].forward(x), 1)).starts_with("no bound through"));
    assert!(name(|m, x| m[0].forward(x.clone() - x.mean_dim(0))).contains("first axis"));
    assert!(name(|m, x| m[0].forward(x.flip([0]))).contains("first axis"));
    assert!(name(|m, x| m[0].forward(x.clone() + x.random_like(Distribution::Default))).contains("draws from"));
    assert!(name(|m, x| m[0].forward(x.zeros_like())).contains("does not depend"));
    assert!(name(|m, x| m[0].forward(x).slice_dim(0, 0..1)).contains("one row of outputs an example"));
    // What is computed and not needed does no harm.
    let unused = |m: &Vec<Linear>, x: Tensor<2>| {
        let _unused = activation::softmax(x.clone(), 1);
        m[0].forward(x)
    };
    assert_eq!(name(unused), "");
    let verifier = verifier(&model, &x, activation::relu);
    let threat = Threat::new(Norm::L0, 1.0).unwrap();
    assert!(matches!(verifier.ibp(&x, &threat), Err(Error::NoBound { .. })));
    let threat = Threat::new(Norm::L2, 0.1).unwrap();
    assert!(matches!(
        verifier.ibp(&(x.clone() + 2.0), &threat),
        Err(Error::OutOfBounds { example: 0, element: 0, .. })
    ));
    let wrong = Tensor::<1, Int>::from_data([0, 3], &device);
    let error = verifier.margins(Method::Ibp, &x, &wrong, &threat).unwrap_err();
    assert!(matches!(error, Error::Label { example: 1, label: 3, classes: 3, .. }), "{error}");
    let short = Tensor::<1, Int>::from_data([0], &device);
    assert!(matches!(verifier.margins(Method::Ibp, &x, &short, &threat), Err(Error::Shape { .. })));
    let none = Tensor::<2>::zeros([0, 4], &device);
    assert!(matches!(verifier.ibp(&none, &threat), Err(Error::Shape { .. })));
}

/// Bounds by hand: `relu(x₁ − x₂) − relu(x₂)` on `[0, 1]²`.
#[test]
fn a_small_network_by_hand() {
    let device = Device::flex();
    let mut model = layers(&[2, 2, 1], 1, &device);
    let set = |layer: &mut Linear, weight: Vec<f64>, bias: Vec<f64>| {
        let shape = layer.weight.dims();
        layer.weight =
            burn::module::Param::from_tensor(Tensor::<1>::from_data(weight.as_slice(), &device).reshape(shape));
        layer.bias = Some(burn::module::Param::from_tensor(Tensor::<1>::from_data(bias.as_slice(), &device)));
    };
    set(&mut model[0], vec![1.0, 0.0, -1.0, 1.0], vec![0.0, 0.0]);
    set(&mut model[1], vec![1.0, -1.0], vec![0.0]);
    let x = Tensor::<2>::from_data([[0.5, 0.5]], &device);
    let verifier = verifier(&model, &x, activation::relu).rounding(Rounding::Ignored);
    let threat = Threat::new(Norm::Linf, 0.5).unwrap();
    let ibp = verifier.ibp(&x, &threat).unwrap();
    assert_eq!((numbers(&ibp.lower), numbers(&ibp.upper)), (vec![-1.0], vec![1.0]));
    // Above: relu(x₁ − x₂) ≤ ½(x₁ − x₂) + ½ and relu(x₂) = x₂, so ½x₁ − 1½x₂ + ½ ≤ 1.
    let crown = verifier.crown(&x, &threat).unwrap();
    assert_eq!((numbers(&crown.lower), numbers(&crown.upper)), (vec![-1.0], vec![1.0]));
    // Round [0.9, 0.2] both units are open nowhere, and the network is x₁ − 2x₂.
    let x = Tensor::<2>::from_data([[0.875, 0.25]], &device);
    let crown = verifier.crown(&x, &Threat::new(Norm::Linf, 0.125).unwrap()).unwrap();
    assert_eq!((numbers(&crown.lower), numbers(&crown.upper)), (vec![0.0], vec![0.75]));
    let crown = verifier.crown(&x, &Threat::new(Norm::L1, 0.125).unwrap()).unwrap();
    assert_eq!((numbers(&crown.lower), numbers(&crown.upper)), (vec![0.125], vec![0.625]));
}

#[test]
fn gradients_are_those_of_the_loss() {
    for device in host_devices() {
        let tracked = device.clone().autodiff();
        let x: Tensor<2> = Random::new(3).uniform([3, 4], 0.0, 1.0, &device);
        let y = Tensor::<1, Int>::from_data([0, 2, 1], &device);
        for activation in [activation::relu as Activation, activation::tanh] {
            let model = layers(&[4, 5, 3], 4, &tracked);
            let training =
                CertifiedTraining::record(&model, &x, move |m: &Vec<Linear>, x| feed(m, x, activation)).unwrap();
            let threat = Threat::new(Norm::Linf, 0.5).unwrap();
            for beta in [0.0, 0.5, 1.0] {
                let stage = Stage { epsilon: 0.05, kappa: 0.3, beta };
                let loss = |model: &Vec<Linear>| training.loss(model, &x, &y, &threat, stage).unwrap();
                let (out, gradient) = training.gradient(&model, &x, &y, &threat, stage).unwrap();
                let point = Tree::from_module(&model);
                let direction = Random::new(5).normal_like(&gradient, 1.0);
                let slope = gradient.dot(&direction).unwrap().value();
                let at = |h: f64| {
                    let moved = point.clone().add(&direction.clone().scale(h)).unwrap();
                    f64::from(loss(&moved.write_into(model.clone()).unwrap()).loss.into_scalar::<f32>())
                };
                let difference = (at(1e-3) - at(-1e-3)) / 2e-3;
                assert!((slope - difference).abs() < 2e-2 * (1.0 + slope.abs()), "{beta}: {slope} {difference}");
                assert!(out.robust.into_scalar::<f32>() >= out.natural.into_scalar::<f32>());
            }
        }
    }
}

#[test]
fn without_a_radius_it_is_cross_entropy() {
    let device = Device::flex().autodiff();
    let x = Random::new(3).uniform([2, 1, 6, 5], 0.0, 1.0, &device);
    let y = Tensor::<1, Int>::from_data([0, 2], &device);
    let model = Images::new(&device, PaddingConfig2d::Explicit(1, 1, 1, 1));
    let training = CertifiedTraining::record(&model, &x, |m: &Images, x| m.forward(x)).unwrap();
    let out = model.valid().forward(x.clone().inner());
    let want = burn::nn::loss::CrossEntropyLossConfig::new().init(&out.device()).forward(out, y.clone().inner());
    let want = want.into_scalar::<f32>();
    for beta in [0.0, 1.0] {
        let stage = Stage { epsilon: 0.0, kappa: 0.5, beta };
        let out = training.loss(&model, &x, &y, &Threat::new(Norm::L2, 1.0).unwrap(), stage).unwrap();
        for loss in [&out.natural, &out.robust, &out.loss] {
            assert!((loss.clone().into_scalar::<f32>() - want).abs() < 1e-5, "{loss} {want}");
        }
    }
    let stage = Stage { epsilon: 0.0, kappa: 2.0, beta: 0.0 };
    let error = training.loss(&model, &x, &y, &Threat::new(Norm::L2, 1.0).unwrap(), stage).unwrap_err();
    assert!(error.to_string().starts_with("kappa = 2"));
}

/// Pixels in `[0, 1]` and labels of the digits that the lab embeds; every fifth image is for testing.
fn digits() -> [(Vec<f32>, Vec<i64>); 2] {
    let file: &[u8] = include_bytes!("../../../lab/data/digits.csv.gz");
    let mut text = String::new();
    flate2::read::GzDecoder::new(file).read_to_string(&mut text).unwrap();
    let mut sets = [(Vec::new(), Vec::new()), (Vec::new(), Vec::new())];
    for (i, line) in text.lines().enumerate() {
        let numbers: Vec<f32> = line.split(',').map(|x| x.parse().unwrap()).collect();
        let (pixels, labels) = &mut sets[usize::from(i % 5 == 4)];
        pixels.extend(numbers[..64].iter().map(|x| x / 16.0));
        labels.push(numbers[64] as i64);
    }
    sets
}

/// Digits at a radius of 0.1 of the range, certified by interval bound propagation and CROWN: trained plainly, by IBP and by CROWN-IBP.
#[test]
fn digits_are_certified() {
    let device = Device::flex();
    let tracked = device.clone().autodiff();
    let [(pixels, labels), (test_pixels, test_labels)] = digits();
    let take = |pixels: &[f32], labels: &[i64], rows: &[usize]| {
        let chosen: Vec<f32> = rows.iter().flat_map(|row| &pixels[row * 64..row * 64 + 64]).copied().collect();
        let x = Tensor::<1>::from_data(chosen.as_slice(), &device).reshape([rows.len(), 64]);
        let y: Vec<i64> = rows.iter().map(|row| labels[*row]).collect();
        (x, Tensor::<1, Int>::from_data(y.as_slice(), &device))
    };
    let (epsilon, steps, size) = (0.1, 420, 128);
    let threat = Threat::new(Norm::Linf, epsilon).unwrap();
    let test: Vec<usize> = (0..200).collect();
    let (test_x, test_y) = take(&test_pixels, &test_labels, &test);
    let certified = |robust: bool, beta: f64| {
        tracked.seed(11);
        let mut model: Vec<Linear> =
            [64, 48, 48, 10].windows(2).map(|w| LinearConfig::new(w[0], w[1]).init(&tracked)).collect();
        let (first, _) = take(&pixels, &labels, &(0..size).collect::<Vec<_>>());
        let training =
            CertifiedTraining::record(&model, &first, |m: &Vec<Linear>, x| feed(m, x, activation::relu)).unwrap();
        let ramp = RampUp::new(epsilon, 240).unwrap().warm_up(40).kappa(0.2).unwrap().beta(beta, 0.0).unwrap();
        let plain = Stage { epsilon: 0.0, kappa: 1.0, beta: 0.0 };
        let mut optimizer = AdamConfig::new().init();
        let mut random = Random::new(2);
        for step in 0..steps {
            let rows: Vec<usize> = (0..size).map(|_| random.below(labels.len() as u64) as usize).collect();
            let (x, y) = take(&pixels, &labels, &rows);
            let stage = if robust { ramp.at(step) } else { plain };
            let out = training.loss(&model, &x, &y, &threat, stage).unwrap();
            let gradients = GradientsParams::from_grads(out.loss.backward(), &model);
            model = optimizer.step(3e-3, model, gradients);
        }
        let verifier = Verifier::record(&model, &test_x, |m: &Vec<Linear>, x| feed(m, x, activation::relu)).unwrap();
        let natural = verifier.margins(Method::Ibp, &test_x, &test_y, &threat.radius(0.0).unwrap()).unwrap();
        let by = |method: Method| verifier.margins(method, &test_x, &test_y, &threat).unwrap().certified_accuracy();
        [natural.certified_accuracy(), by(Method::Ibp), by(Method::Crown)]
    };
    let (plain, ibp, crown_ibp) = (certified(false, 0.0), certified(true, 0.0), certified(true, 1.0));
    println!("natural, certified by IBP, by CROWN: plain {plain:?}, IBP {ibp:?}, CROWN-IBP {crown_ibp:?}");
    assert!(plain[0] > 0.9 && plain[1] < 0.05);
    for trained in [ibp, crown_ibp] {
        assert!(trained[0] > 0.8 && trained[1] > 0.5 && trained[2] >= trained[1]);
        assert!(trained[2] > plain[2] + 0.2);
    }
}
