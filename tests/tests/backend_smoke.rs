//! Small shapes on whichever device `BURN_DEVICE` selects (the first compiled-in backend if it is unset): the vector
//! space, reductions, clipping, programs of a perceptron and a convolution, and seeded numbers, each against numbers
//! computed on the host or by Burn's own backward pass, in `f32`.

#![forbid(unsafe_code)]

use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::loss::CrossEntropyLoss;
use burn::nn::pool::{MaxPool2d, MaxPool2dConfig};
use burn::nn::{BatchNorm, BatchNormConfig, Dropout, DropoutConfig, LayerNorm, LayerNormConfig, Linear, LinearConfig};
use burn::optim::{AdamWConfig, SgdConfig};
use burn::tensor::{Device, Int, Tensor, TensorData, activation};
use clipping::{
    AdaptiveGradientClip, ClipByGlobalNorm, ClipByTensorNorm, ClipByValue, NonFinite, NonFinitePolicy, UnitAxes,
};
use core_tensor::transform::{Chain, Context, GradientTransform, Masked, Outcome, State, Update};
use core_tensor::{Program, Scalar, Tree, central_difference};
use crucible_tests::draw::Draw;
use mixed_precision::{FixedPoint, Format, Mx, NvFp4, Overflow, Quantizer, Rounding, Uniform};

fn device() -> Device {
    Device::default()
}

fn numbers(tree: &Tree) -> Vec<f64> {
    tree.to_data().into_iter().flat_map(|(_, data)| data.iter::<f64>().collect::<Vec<_>>()).collect()
}

fn number(tensor: Tensor<1>) -> f64 {
    tensor.into_data().iter::<f64>().next().expect("one element")
}

/// `|a − b| ≤ tolerance · largest |b|`, element by element.
fn assert_close(what: &str, got: &[f64], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{what}");
    let largest = want.iter().fold(1e-30f64, |m, x| m.max(x.abs()));
    for (i, (a, b)) in got.iter().zip(want).enumerate() {
        assert!((a - b).abs() <= tolerance * largest, "{what}[{i}]: {a:e}, expected {b:e} (largest {largest:e})");
    }
}

/// A tree of ranks 1 to 4 and its numbers, rounded to `f32`.
fn leaves(seed: u64) -> (Tree, Vec<f64>) {
    let mut draw = Draw::new(seed, &device());
    let tree = Tree::empty()
        .push("vector", draw.tensor([7], -2.0, 2.0))
        .and_then(|tree| tree.push("matrix", draw.tensor([3, 5], -2.0, 2.0)))
        .and_then(|tree| tree.push("filters", draw.tensor([2, 3, 2, 2], -2.0, 2.0)))
        .and_then(|tree| tree.push("cube", draw.tensor([2, 2, 3], -2.0, 2.0)))
        .unwrap();
    let mut draw = Draw::new(seed, &device());
    let host = draw.numbers(7 + 15 + 24 + 12, -2.0, 2.0).into_iter().map(|x| f64::from(x as f32)).collect();
    (tree, host)
}

#[test]
fn trees_are_a_vector_space() {
    let ((x, hx), (y, hy)) = (leaves(1), leaves(2));
    let each = |f: fn(f64, f64) -> f64| hx.iter().zip(&hy).map(|(x, y)| f(*x, *y)).collect::<Vec<_>>();
    assert_eq!(numbers(&x), hx);
    let cases: [(&str, Tree, Vec<f64>); 8] = [
        ("scale", x.clone().scale(-1.5), each(|x, _| -1.5 * x)),
        ("neg", x.clone().neg(), each(|x, _| -x)),
        ("add", x.clone().add(&y).unwrap(), each(|x, y| x + y)),
        ("sub", x.clone().sub(&y).unwrap(), each(|x, y| x - y)),
        ("mul", x.clone().mul(&y).unwrap(), each(|x, y| x * y)),
        ("axpy", x.clone().axpy(0.3, &y).unwrap(), each(|x, y| x + 0.3 * y)),
        ("lerp", x.clone().lerp(&y, 0.25).unwrap(), each(|x, y| 0.75 * x + 0.25 * y)),
        ("axpy_by", x.clone().axpy_by(&Scalar::from_value(-2.0, &device()), &y).unwrap(), each(|x, y| x - 2.0 * y)),
    ];
    for (what, got, want) in cases {
        assert_close(what, &numbers(&got), &want, 1e-6);
        x.same_structure(&got).unwrap();
    }
    assert_eq!(numbers(&x), hx, "operations on clones leave the original alone");
    assert_eq!(numbers(&x.zeros_like()), vec![0.0; hx.len()]);
    assert_eq!(numbers(&x.ones_like()), vec![1.0; hx.len()]);
    let flat = x.flatten().unwrap();
    assert_eq!(flat.dims(), [hx.len()]);
    assert_eq!(numbers(&x.unflatten(flat).unwrap()), hx);
}

#[test]
fn reductions_agree_with_the_host() {
    let ((x, hx), (y, hy)) = (leaves(3), leaves(4));
    let sum = |f: fn(f64, f64) -> f64| hx.iter().zip(&hy).map(|(x, y)| f(*x, *y)).sum::<f64>();
    let largest = hx.iter().fold(0.0f64, |m, x| m.max(x.abs()));
    let got = [
        x.dot(&y).unwrap().value(),
        x.sum().value(),
        x.norm().value(),
        x.norm_p(1.0).unwrap().value(),
        x.norm_p(3.0).unwrap().value(),
        x.norm_inf().value(),
        x.is_finite().value(),
    ];
    let want = [
        sum(|x, y| x * y),
        sum(|x, _| x),
        sum(|x, _| x * x).sqrt(),
        sum(|x, _| x.abs()),
        sum(|x, _| x.abs().powi(3)).cbrt(),
        largest,
        1.0,
    ];
    for (i, (got, want)) in got.iter().zip(&want).enumerate() {
        // The terms of the dot product are of size 2, so that is its scale.
        assert!((got - want).abs() <= 1e-5 * want.abs().max(2.0), "reduction {i}: {got}, expected {want}");
    }
    let norms: Vec<f64> = x.leaf_norms().iter().map(Scalar::value).collect();
    let bounds = [0..7, 7..22, 22..46, 46..58];
    let expected: Vec<f64> = bounds.map(|leaf| hx[leaf].iter().map(|x| x * x).sum::<f64>().sqrt()).to_vec();
    assert_close("leaf norms", &norms, &expected, 1e-5);
}

#[test]
fn norms_survive_the_edges_of_the_range() {
    for scale in [1e-30, 1e30] {
        let data = TensorData::new(vec![3.0 * scale, -4.0 * scale], [2]);
        let tree = Tree::empty().push("x", Tensor::<1>::from_data(data, &device())).unwrap();
        let norm = tree.norm().value();
        assert!((norm / (5.0 * scale) - 1.0).abs() < 1e-5, "{scale:e}: {norm:e}");
    }
}

/// What a rule makes of a gradient.
fn clipped(mut rule: impl GradientTransform, grads: &Tree, context: &Context<'_>) -> Vec<f64> {
    match rule.apply(grads.clone(), context).unwrap() {
        Update::Apply(clipped) => {
            grads.same_structure(&clipped).unwrap();
            numbers(&clipped)
        }
        Update::Skip { why } => panic!("{why}"),
    }
}

#[test]
fn norms_are_clipped_as_on_the_host() {
    let (x, hx) = leaves(21);
    let context = Context::new(0);
    for order in [1.0, 2.0, 3.0, f64::INFINITY] {
        let norm = match order {
            f64::INFINITY => hx.iter().fold(0.0f64, |m, x| m.max(x.abs())),
            p => hx.iter().map(|x| x.abs().powf(p)).sum::<f64>().powf(1.0 / p),
        };
        for share in [0.25, 4.0] {
            let rule = ClipByGlobalNorm::new(share * norm).unwrap().with_p(order).unwrap().exact();
            let want: Vec<f64> = hx.iter().map(|x| x * share.min(1.0)).collect();
            assert_close("global norm", &clipped(rule.clone(), &x, &context), &want, 1e-5);
            let clip = rule.measure(&x).unwrap();
            // Nothing was read: what the host does not know it has not waited for.
            assert_eq!(clip.coefficient.known().is_some(), x.norm().known().is_some());
            assert!((clip.norm.value() / norm - 1.0).abs() < 1e-5 && clip.clipped() == (share < 1.0));
            let step = x.clone().axpy_by(&clip.fold(-0.5), &x).unwrap();
            let want: Vec<f64> = hx.iter().map(|x| x * (1.0 - 0.5 * share.min(1.0))).collect();
            assert_close("folded", &numbers(&step), &want, 1e-5);
        }
    }
    let torch = clipped(ClipByGlobalNorm::new(1e-6).unwrap(), &x.clone().scale(1e-6), &context);
    let norm = 1e-6 * hx.iter().map(|x| x * x).sum::<f64>().sqrt();
    let want: Vec<f64> = hx.iter().map(|x| 1e-6 * x * 1e-6 / (norm + 1e-6)).collect();
    assert_close("PyTorch's epsilon", &torch, &want, 1e-5);
    for edge in [0.0, f64::INFINITY] {
        let want: Vec<f64> = hx.iter().map(|x| if edge == 0.0 { 0.0 } else { *x }).collect();
        assert_eq!(clipped(ClipByGlobalNorm::new(edge).unwrap(), &x, &context), want);
    }
    let each = clipped(ClipByTensorNorm::new(2.0).unwrap(), &x, &context);
    let mut want = Vec::new();
    for leaf in [0..7, 7..22, 22..46, 46..58] {
        let norm = hx[leaf.clone()].iter().map(|x| x * x).sum::<f64>().sqrt();
        want.extend(hx[leaf].iter().map(|x| x * (2.0 / norm).min(1.0)));
    }
    assert_close("norm of each tensor", &each, &want, 1e-5);
}

#[test]
fn values_are_clipped_and_repaired_as_on_the_host() {
    let context = Context::new(0);
    let (x, hx) = leaves(22);
    let want: Vec<f64> = hx.iter().map(|x| x.clamp(-0.5, 0.5)).collect();
    assert_eq!(clipped(ClipByValue::new(0.5).unwrap(), &x, &context), want);
    let values = vec![1.0, f32::INFINITY, -3.0, f32::NEG_INFINITY, 0.25, f32::NAN];
    let broken = Tensor::<2>::from_data(TensorData::new(values, [2, 3]), &device());
    let broken = Tree::empty().push("broken", broken).unwrap();
    let bounded = clipped(ClipByValue::new(2.0).unwrap(), &broken, &context);
    assert!(bounded[..5] == [1.0, 2.0, -2.0, -2.0, 0.25] && bounded[5].is_nan(), "{bounded:?}");
    let mut zero = NonFinite::new(NonFinitePolicy::Zero);
    for (grads, total) in [(&broken, 1.0), (&x, 1.0), (&broken, 2.0)] {
        let Update::Apply(repaired) = zero.apply(grads.clone(), &context).unwrap() else { panic!("applied") };
        let want: Vec<f64> = numbers(grads).into_iter().map(|x| if x.is_finite() { x } else { 0.0 }).collect();
        assert_eq!(numbers(&repaired), want);
        assert_eq!(zero.total(), total);
    }
}

#[test]
fn units_are_clipped_as_on_the_host() {
    let ((g, hg), (w, hw)) = (leaves(23), leaves(24));
    let axes = [("vector", 0), ("matrix", 1), ("filters", 0), ("cube", 2)];
    let units = axes.iter().fold(UnitAxes::default(), |units, (path, axis)| units.with(*path, *axis));
    let (lambda, epsilon) = (0.4, 0.5);
    let rule = AdaptiveGradientClip::new(lambda, units).unwrap().with_epsilon(epsilon).unwrap();
    let got = clipped(rule, &g, &Context::new(0).with_params(&w));
    let (mut want, mut start, mut shortened) = (hg.clone(), 0, 0);
    for ((path, axis), (_, data)) in axes.into_iter().zip(g.to_data()) {
        let shape = data.shape().to_vec();
        let (units, inner) = (shape[axis], shape[axis + 1..].iter().product::<usize>());
        let all = start..start + shape.iter().product::<usize>();
        for unit in 0..units {
            let members: Vec<usize> = all.clone().filter(|i| (i - start) / inner % units == unit).collect();
            let norm = |x: &[f64]| members.iter().map(|i| x[*i] * x[*i]).sum::<f64>().sqrt();
            let (largest, norm) = (lambda * norm(&hw).max(epsilon), norm(&hg));
            if norm > largest {
                members.iter().for_each(|i| want[*i] *= largest / norm);
                shortened += 1;
            }
        }
        assert!(all.end <= want.len(), "{path}");
        start = all.end;
    }
    assert!(shortened > 5 && want.iter().zip(&hg).any(|(a, b)| a == b), "both kinds of unit: {shortened}");
    assert_close("adaptive", &got, &want, 1e-5);
}

#[derive(Module, Debug)]
struct Mlp {
    first: Linear,
    norm: LayerNorm,
    last: Linear,
}

impl Mlp {
    fn new(draw: &mut Draw) -> Self {
        let device = draw.autodiff();
        let mlp = Self {
            first: LinearConfig::new(4, 6).init(&device),
            norm: LayerNormConfig::new(6).init(&device),
            last: LinearConfig::new(6, 3).init(&device),
        };
        draw.module(mlp)
    }

    fn loss(&self, (x, y): &Labelled<2>) -> Tensor<1> {
        let hidden = activation::tanh(self.norm.forward(self.first.forward(x.clone())));
        let logits = self.last.forward(hidden);
        CrossEntropyLoss::new(None, &logits.device()).forward(logits, y.clone())
    }
}

#[derive(Module, Debug)]
struct Cnn {
    conv: Conv2d,
    norm: BatchNorm,
    pool: MaxPool2d,
    last: Linear,
}

impl Cnn {
    fn new(draw: &mut Draw) -> Self {
        let device = draw.autodiff();
        let cnn = Self {
            conv: Conv2dConfig::new([1, 3], [3, 3]).init(&device),
            norm: BatchNormConfig::new(3).init(&device),
            pool: MaxPool2dConfig::new([2, 2]).init(),
            last: LinearConfig::new(12, 3).init(&device),
        };
        draw.module(cnn)
    }

    fn loss(&self, (x, y): &Labelled<4>) -> Tensor<1> {
        let features = self.pool.forward(activation::tanh(self.norm.forward(self.conv.forward(x.clone()))));
        let logits = self.last.forward(features.flatten::<2>(1, 3));
        CrossEntropyLoss::new(None, &logits.device()).forward(logits, y.clone())
    }
}

/// Examples and classes.
type Labelled<const D: usize> = (Tensor<D>, Tensor<1, Int>);

/// Value and gradient against Burn's backward pass, the Hessian-vector product against differences of it along a
/// direction in the leaves that `moves` selects.
fn check_program<M, const D: usize>(
    model: &M,
    batch: &Labelled<D>,
    loss: fn(&M, &Labelled<D>) -> Tensor<1>,
    moves: fn(&str) -> bool,
) where
    M: Module + Sync + 'static,
{
    let eager = |model: &M| {
        let value = loss(model, batch);
        let gradient = Tree::from_grads(value.backward(), model);
        (number(value), gradient)
    };
    let (value, gradient) = eager(model);
    let program = Program::record(model, batch, loss).unwrap();
    let point = Tree::from_module(model);
    let v = Draw::new(77, &device()).direction(&point);
    let v = v.map_flat(|name, x| if moves(&name.path) { x } else { x * 0.0 }).unwrap();
    let out = program.jvp(&point, batch, &v).unwrap();
    assert!((number(out.value.clone()) - value).abs() < 1e-5 * value.abs());
    assert!(out.absent.is_empty());
    assert_close("gradient", &numbers(&out.gradient), &numbers(&gradient), 1e-4);
    let along = gradient.dot(&v).unwrap().value();
    let scale = gradient.norm().value() * v.norm().value();
    assert!((out.directional().value() - along).abs() < 1e-4 * scale);

    // f32 gradients carry about 1e-7 of rounding, so at this step differences are good to about 1e-3.
    let differences = central_difference(|at| Ok(eager(&at.write_into(model.clone())?).1), &point, &v, 2e-3).unwrap();
    let (hv, differences) = (numbers(&out.hessian_vector), numbers(&differences));
    assert_close("H·v", &hv, &differences, 5e-3);

    let at = program.linearize(&point, batch).unwrap();
    assert_close("linearized H·v", &numbers(&at.hvp(&v).unwrap()), &hv, 1e-4);
    let (_, rows) = program.jacobian(&point, batch).unwrap();
    assert_close("jacobian", &numbers(&rows[0]), &numbers(&gradient), 1e-4);
}

#[test]
fn a_perceptron_is_differentiated_twice() {
    let mut draw = Draw::new(5, &device());
    let model = Mlp::new(&mut draw);
    let batch = (draw.tensor([5, 4], -1.0, 1.0), draw.ints([5], &[0, 1, 2]));
    check_program(&model, &batch, Mlp::loss, |_| true);
}

#[test]
fn a_convolutional_network_is_differentiated_twice() {
    let mut draw = Draw::new(6, &device());
    let model = Cnn::new(&mut draw);
    let batch = (draw.tensor([4, 1, 6, 6], -1.0, 1.0), draw.ints([4], &[0, 1, 2]));
    // Behind the pooling only: before it even a small step may change which element of a window is the largest.
    check_program(&model, &batch, Cnn::loss, |path| path.starts_with("last."));
}

#[test]
fn samples_are_clipped_without_their_gradients() {
    use clipping::per_sample::{Flat, clip_samples};
    let mut draw = Draw::new(8, &device());
    let model = draw.module(crucible_tests::models::Cnn::new(&device()));
    let batch: Labelled<4> = (draw.tensor([3, 1, 28, 28], -1.0, 1.0), draw.ints([3], &[0, 4, 9]));
    let program = Program::record_first_order(&model, &batch, crucible_tests::models::Cnn::losses).unwrap();
    let point = Tree::from_module(&model);
    let (_, rows) = program.jacobian(&point, &batch).unwrap();
    let norms: Vec<f64> = rows.iter().map(|row| row.norm().value()).collect();
    let limit = norms[0];
    let expected = rows
        .iter()
        .zip(&norms)
        .fold(rows[0].zeros_like(), |sum, (row, norm)| sum.axpy((limit / norm).min(1.0), row).unwrap());
    let clip = |batch: &Labelled<4>| {
        let samples = program.per_sample(&point, batch).unwrap();
        clip_samples(samples, &Flat::new(limit).unwrap()).unwrap()
    };
    let clipped = clip(&batch);
    let got: Vec<f64> = clipped.norms.into_data().iter::<f64>().collect();
    assert_close("norms", &got, &norms, 1e-4);
    assert_close("sum", &numbers(&clipped.sum), &numbers(&expected), 1e-4);
    // The last sample broken: what is left is the sum of the others.
    let broken =
        batch.0.clone().slice_assign([2..3, 0..1, 0..1, 0..1], Tensor::full([1, 1, 1, 1], f32::NAN, &device()));
    let rest = expected.axpy(-(limit / norms[2]).min(1.0), &rows[2]).unwrap();
    assert_close("without it", &numbers(&clip(&(broken, batch.1)).sum), &numbers(&rest), 1e-4);
}

#[test]
fn gelu_has_its_exact_derivatives() {
    // Burn's own backward pass approximates the first where a backend has no kernel for it.
    let points = [-2.5, -1.0, -0.3, 0.0, 0.4, 1.2, 3.0];
    let x = Tensor::<1>::from_data(TensorData::new(points.to_vec(), [points.len()]), &device());
    let point = Tree::empty().push("x", x).unwrap();
    let program =
        Program::record_tree(&point, &(), |point, _| activation::gelu(point.get::<1>("x").expect("the leaf")).sum())
            .unwrap();
    let out = program.jvp(&point, &(), &point.ones_like()).unwrap();
    let density = |x: f64| (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
    // The normal distribution function at the points above, from tables.
    let below = [
        0.006209665325776132,
        0.15865525393145707,
        0.38208857781104744,
        0.5,
        0.6554217416103242,
        0.8849303297782918,
        0.9986501019683699,
    ];
    let first: Vec<f64> = points.iter().zip(below).map(|(x, below)| below + x * density(*x)).collect();
    let second: Vec<f64> = points.iter().map(|x| (2.0 - x * x) * density(*x)).collect();
    assert_close("GELU'", &numbers(&out.gradient), &first, 1e-5);
    assert_close("GELU''", &numbers(&out.hessian_vector), &second, 1e-5);
}

#[test]
fn dropout_draws_the_same_mask_on_every_backend() {
    let mut draw = Draw::new(7, &device());
    let point = Tree::empty().push("x", draw.tensor([4, 16], 0.5, 1.5)).unwrap();
    let layer: core_tensor::Frozen<Dropout> = core_tensor::Frozen(DropoutConfig::new(0.5).init());
    let program = Program::record_tree(&point, &layer, |point, layer| {
        layer.0.forward(point.get::<2>("x").expect("the leaf")).sum()
    })
    .unwrap();
    program.reseed(11);
    let mask = numbers(&program.value_and_grad(&point, &layer).unwrap().gradient);
    let bits = mask.iter().fold(0u64, |bits, kept| bits << 1 | u64::from(*kept != 0.0));
    assert!(mask.iter().all(|m| *m == 0.0 || *m == 2.0), "{mask:?}");
    assert_eq!(format!("{bits:016x}"), MASK);
}

/// The mask of seed 11, a bit an element, 1 where it is kept.
const MASK: &str = "5c9e022264f58550";

/// Scales by a factor and counts; holds a gradient back that is not finite.
struct Scaled {
    factor: f64,
    count: u64,
}

impl GradientTransform for Scaled {
    fn name(&self) -> &str {
        "scaled"
    }

    fn apply(&mut self, grads: Tree, _context: &Context<'_>) -> core_tensor::Result<Update> {
        if grads.is_finite().value() == 0.0 {
            return Ok(Update::Skip { why: "not finite".to_string() });
        }
        self.count += 1;
        Ok(Update::Apply(grads.scale(self.factor / self.count as f64)))
    }

    fn state(&self) -> State {
        State::new().with("count", self.count)
    }

    fn load_state(&mut self, mut state: State) -> core_tensor::Result<()> {
        let count = state.take("count")?;
        state.finish()?;
        self.count = count;
        Ok(())
    }
}

fn scaled(factor: f64) -> Scaled {
    Scaled { factor, count: 0 }
}

#[test]
fn a_chain_stands_in_front_of_an_optimizer() {
    let mut draw = Draw::new(8, &device());
    let model = Mlp::new(&mut draw);
    let batch = (draw.tensor([5, 4], -1.0, 1.0), draw.ints([5], &[0, 1, 2]));
    let before = Tree::from_module(&model);
    let gradient = Tree::from_grads(model.loss(&batch).backward(), &model);
    // The weights' gradient is scaled by 0.5 and then by 3, the biases' only by 3.
    let weights = Masked::new(scaled(0.5), |name| name.path.ends_with("weight"));
    let mut train = Chain::new().then(weights).then(scaled(3.0)).before(SgdConfig::new().init());
    let loss = model.loss(&batch);
    let outcome = train.step(0.1, model, loss).unwrap();
    let report = outcome.report().expect("stepped");
    assert!((report.grad_norm.value() / gradient.norm().value() - 1.0).abs() < 1e-5);
    let model = outcome.into_model();
    let factor = |path: &str| if path.ends_with("weight") { -0.15 } else { -0.3 };
    let expected = gradient.map_flat(|name, g| g * factor(&name.path)).unwrap().add(&before).unwrap();
    let after = Tree::from_module(&model);
    assert_close("updated", &numbers(&after), &numbers(&expected), 1e-5);

    // A loss that is not finite changes nothing.
    let broken = model.loss(&batch) / 0.0;
    match train.step(0.1, model, broken).unwrap() {
        Outcome::Skipped { model, why } => {
            assert_eq!(numbers(&Tree::from_module(&model)), numbers(&after));
            assert!(why.contains("not finite"), "{why}");
        }
        Outcome::Stepped { .. } => panic!("a gradient of infinities was applied"),
    }
    assert_eq!(train.updates(), 1);
}

#[test]
fn training_resumes_bit_for_bit() {
    let mut draw = Draw::new(9, &device());
    let start = Mlp::new(&mut draw);
    let batch = (draw.tensor([5, 4], -1.0, 1.0), draw.ints([5], &[0, 1, 2]));
    let new = || Chain::new().then(scaled(2.0)).before(AdamWConfig::new().init());
    let run = |train: &mut core_tensor::transform::Trainer, mut model: Mlp, steps: usize| {
        for _ in 0..steps {
            let loss = model.loss(&batch);
            model = train.step(1e-2, model, loss).unwrap().into_model();
        }
        model
    };
    let mut train = new();
    let straight = run(&mut train, start.clone(), 6);

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("trainer.bpk");
    let mut first = new();
    let half = run(&mut first, start, 3);
    first.save(&file).unwrap();
    let mut second = new();
    second.load(&file, &device()).unwrap();
    assert_eq!(second.updates(), 3);
    let resumed = run(&mut second, half, 3);
    let bits = |model: &Mlp| numbers(&Tree::from_module(model)).into_iter().map(f64::to_bits).collect::<Vec<_>>();
    assert_eq!(bits(&resumed), bits(&straight));
}

/// Numbers at, beside and between those of a format, past its ends, specials, and any bits at all.
fn edges(format: Format, draw: &mut Draw) -> Vec<f32> {
    let mut x =
        vec![0.0, f32::INFINITY, f32::NAN, f32::MAX, f32::MIN_POSITIVE, f32::from_bits(1), f32::from_bits(0x40_0000)];
    let codes = 1u32 << format.bits();
    let values: Vec<f32> =
        (0..codes).step_by((codes / 256).max(1) as usize).map(|code| format.decode(code as u16)).collect();
    for pair in values.windows(2).filter(|pair| pair[0].is_finite() && pair[1].is_finite()) {
        let middle = ((f64::from(pair[0]) + f64::from(pair[1])) / 2.0) as f32;
        x.extend([pair[0], pair[0].next_up(), middle.next_down(), middle, middle.next_up()]);
    }
    x.extend([1.01, 1.04, 1.06, 1.5, 2.5].map(|factor| format.max() * factor));
    x.extend((0..300).map(|_| f32::from_bits(draw.bits() as u32)));
    x.iter().flat_map(|x| [*x, -*x]).collect()
}

#[test]
fn quantisation_is_bit_for_bit_that_of_the_host() {
    let mut draw = Draw::new(31, &device());
    let roundings = [
        Rounding::NearestEven,
        Rounding::NearestAway,
        Rounding::TowardZero,
        Rounding::TowardPositive,
        Rounding::TowardNegative,
        Rounding::Stochastic(0x1234_5678_9abc_def0),
    ];
    for &format in Format::ALL {
        let x = edges(format, &mut draw);
        for rounding in roundings {
            for overflow in [Overflow::Ieee, Overflow::Saturate] {
                let q = Quantizer::new(format).rounding(rounding).overflow(overflow);
                let tensor = Tensor::<2>::from_data(TensorData::new(x.clone(), [2, x.len() / 2]), &device());
                let got = q.fake_quantize(tensor).unwrap().into_data();
                let mut want = x.clone();
                q.quantize_slice(&mut want);
                assert_eq!(got.shape().to_vec(), [2, x.len() / 2]);
                for ((got, want), x) in got.iter::<f32>().zip(want).zip(&x) {
                    let same = got.to_bits() == want.to_bits();
                    assert!(same, "{format} {rounding:?} {overflow:?}: {x:e} is {got:e}, on the host {want:e}");
                }
            }
        }
    }
}

#[test]
fn quantised_tensors_keep_their_order_and_their_gradient() {
    let mut draw = Draw::new(32, &device());
    let q = Quantizer::new(Format::E2M1FN).rounding(Rounding::Stochastic(5)).overflow(Overflow::Saturate);
    let x = draw.tensor([3, 5], -8.0, 8.0);
    let turned = x.clone().transpose();
    let mut want: Vec<f32> = turned.clone().into_data().iter::<f32>().collect();
    q.quantize_slice(&mut want);
    let got: Vec<f32> = q.fake_quantize(turned).unwrap().into_data().iter::<f32>().collect();
    assert_eq!(got, want, "positions are those of the rows as they are seen");

    let tree = Tree::empty().push("a", x.clone()).and_then(|tree| tree.push("b", x.clone())).unwrap();
    let each = q.fake_quantize_tree(tree).unwrap();
    for (i, name) in ["a", "b"].into_iter().enumerate() {
        let alone: Tensor<2> = q.at(i as u64).fake_quantize(x.clone()).unwrap();
        assert_eq!(each.get::<2>(name).unwrap().into_data(), alone.into_data());
    }

    let leaf = Tensor::<2>::from_inner(x.clone()).require_grad();
    let grads = q.fake_quantize(leaf.clone()).unwrap().sum().backward();
    let got: Vec<f64> = leaf.grad(&grads).unwrap().into_data().iter::<f64>().collect();
    let want: Vec<f64> = x.into_data().iter::<f64>().map(|x| f64::from(u8::from(x.abs() <= 6.0))).collect();
    assert_eq!(got, want);
    assert!(want.contains(&0.0) && want.contains(&1.0));
    let none = q.fake_quantize(Tensor::<2>::zeros([0, 3], &device())).unwrap();
    assert_eq!(none.dims(), [0, 3]);
}

#[test]
fn packed_tensors_come_from_and_go_to_the_device() {
    let mut draw = Draw::new(33, &device());
    let x = draw.tensor([4, 40], -8.0, 8.0);
    let values = |x: Tensor<2>| x.into_data().iter::<f32>().collect::<Vec<_>>();
    let q = Quantizer::new(Format::E4M3FN).rounding(Rounding::Stochastic(5));
    let packed = q.pack(&x).unwrap();
    assert_eq!(values(packed.unpack(&device()).unwrap()), values(q.fake_quantize(x.clone()).unwrap()));
    let first = values(x.clone())[0];
    assert_eq!(
        u16::from(packed.bytes()[0]),
        Format::E4M3FN.encode_with_bits(first, mixed_precision::word(5, 0), Overflow::Ieee)
    );

    let near = |what: &str, y: Tensor<2>, largest: f32| {
        let errors = values(y).into_iter().zip(values(x.clone())).map(|(y, x)| (y - x).abs());
        assert!(errors.fold(0f32, f32::max) <= largest, "{what}");
    };
    // Magnitudes are below 8: there MXFP8 ends at 7, NVFP4 has gaps of up to 8/3 and int8 of 8/127.
    near("MXFP8", Mx::new(Format::E4M3FN).unwrap().quantize(&x).unwrap().dequantize(&device()).unwrap(), 1.0);
    near(
        "int8",
        Uniform::symmetric(8).unwrap().quantize(&x).unwrap().dequantize(&device()).unwrap(),
        4.0 / 127.0 * 1.01,
    );
    near("NVFP4", NvFp4::new().quantize(&x).unwrap().dequantize(&device()).unwrap(), 1.5);
}

/// Where there is no kernel a tensor goes to the host and back: the numbers are those of its bytes, and the gradient passes.
#[test]
fn quantisers_without_a_kernel_run_everywhere() {
    let mut draw = Draw::new(34, &device());
    let x = draw.tensor([4, 40], -8.0, 8.0);
    let values = |x: Tensor<2>| x.into_data().iter::<f32>().collect::<Vec<_>>();
    let (mx, nv) = (Mx::new(Format::E2M1FN).unwrap().rounding(Rounding::Stochastic(3)), NvFp4::new());
    let (uniform, fixed) = (Uniform::affine(6).unwrap(), FixedPoint::new(8, 3).unwrap());
    let there = |x: Tensor<2>| x.to_device(&device());
    for (what, got, want) in [
        ("MXFP4", mx.fake_quantize(x.clone()), mx.quantize(&x).unwrap().dequantize(&device())),
        ("NVFP4", nv.fake_quantize(x.clone()), nv.quantize(&x).unwrap().dequantize(&device())),
        ("uniform", uniform.fake_quantize(x.clone()), uniform.quantize(&x).unwrap().dequantize(&device())),
    ] {
        let got = got.unwrap();
        assert_eq!(format!("{:?}", got.device()), format!("{:?}", x.device()), "{what}");
        assert_eq!(values(there(got)), values(want.unwrap()), "{what}");
    }
    // Eighths, up to 127 of them.
    let got = values(fixed.fake_quantize(x.clone()).unwrap());
    let want = values(x.clone()).into_iter().map(|x| (x * 8.0).round_ties_even() / 8.0);
    assert!(got.into_iter().eq(want));
    let leaf = Tensor::<2>::from_inner(x.clone()).require_grad();
    let grads = mx.fake_quantize(leaf.clone()).unwrap().sum().backward();
    assert_eq!(values(leaf.grad(&grads).unwrap()), [1.0; 160]);
}
