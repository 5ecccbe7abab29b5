//! What the methods of robust training keep, on small models.

use burn::module::Module;
use burn::nn::{BatchNorm, BatchNormConfig, Dropout, DropoutConfig, Linear, LinearConfig};
use burn::tensor::activation::{relu, softmax};
use burn::tensor::{Device, Int, Tensor, TensorData};
use core_tensor::testing::{assert_close, assert_same_bits, host_devices, property};
use core_tensor::transform::State;
use core_tensor::{Random, Tree};
use proptest::prelude::*;

use super::*;
use crate::{Error, Norm, Threat};

#[derive(Module, Debug)]
struct Mlp {
    first: Linear,
    dropout: Dropout,
    last: Linear,
}

type Net = RobustProgram<Mlp, 2>;

const CLASSES: usize = 3;
const WIDTH: usize = 4;

fn model(dropout: f64, seed: u64, device: &Device) -> Mlp {
    let linear = |from, to| LinearConfig::new(from, to).init(device);
    let model = Mlp { first: linear(WIDTH, 8), dropout: DropoutConfig::new(dropout).init(), last: linear(8, CLASSES) };
    let like = Tree::from_module(&model);
    Random::new(seed).normal_like(&like, 0.7).write_into(model).unwrap()
}

fn forward(model: &Mlp, x: Tensor<2>) -> Tensor<2> {
    model.last.forward(model.dropout.forward(relu(model.first.forward(x))))
}

fn batch(rows: usize, seed: u64, device: &Device) -> (Tensor<2>, Tensor<1, Int>) {
    let mut random = Random::new(seed).fork("batch");
    let x = random.uniform([rows, WIDTH], 0.0, 1.0, device);
    let labels: Vec<i64> = (0..rows).map(|_| random.below(CLASSES as u64) as i64).collect();
    (x, Tensor::from_data(TensorData::new(labels, [rows]), device))
}

fn program(model: &Mlp, x: &Tensor<2>) -> Net {
    RobustProgram::record(model, x, forward).unwrap()
}

/// All methods with the trait, against a threat, with what a step costs.
fn methods(threat: Threat) -> Vec<(&'static str, Box<dyn RobustTraining<Mlp, 2>>, u64)> {
    vec![
        ("standard", Box::new(StandardTraining::new()), 1),
        ("PGD", Box::new(PgdTraining::new(threat).unwrap().steps(3).unwrap()), 4),
        ("TRADES", Box::new(TradesTraining::new(threat, 6.0).unwrap().steps(3).unwrap()), 5),
        ("MART", Box::new(MartTraining::new(threat, 5.0).unwrap().steps(3).unwrap()), 5),
        ("Fast", Box::new(FastTraining::new(threat).unwrap()), 2),
        ("Free", Box::new(FreeTraining::new(threat).unwrap()), 1),
        ("WRM", Box::new(WrmTraining::new(0.5).unwrap().steps(3).unwrap()), 4),
        ("AWP PGD", Box::new(Awp::new(PgdTraining::new(threat).unwrap().steps(3).unwrap(), 0.01).unwrap()), 5),
        ("AWP TRADES", Box::new(Awp::new(TradesTraining::new(threat, 6.0).unwrap(), 0.01).unwrap()), 14),
    ]
}

fn values(x: &Tensor<2>) -> Vec<f64> {
    x.to_data().iter::<f64>().collect()
}

fn assert_inside(threat: Threat, x0: &Tensor<2>, x: &Tensor<2>, ball: bool, name: &str) {
    let (x0, x) = (values(x0), values(x));
    assert!(x.iter().all(|x| (threat.low()..=threat.high()).contains(x)), "{name} leaves the box");
    for (x0, x) in x0.chunks(WIDTH).zip(x.chunks(WIDTH)) {
        let size = threat.norm().of(x.iter().zip(x0).map(|(x, x0)| x - x0));
        assert!(!ball || size <= threat.epsilon(), "{name}: {size:e} of {:e}", threat.epsilon());
    }
}

#[test]
fn every_point_is_inside() {
    let radius = prop_oneof![0.0..1.0, Just(8.0 / 255.0), Just(0.1)];
    property(8, (radius, any::<u64>()), |(epsilon, seed)| {
        for device in host_devices() {
            let (model, (x, y)) = (model(0.2, seed, &device), batch(5, seed, &device));
            let program = program(&model, &x);
            for norm in [Norm::Linf, Norm::L2, Norm::L1] {
                let threat = Threat::new(norm, epsilon).unwrap();
                for (name, mut method, _) in methods(threat) {
                    for _ in 0..2 {
                        let step = method.gradients(&program, &model, x.clone(), y.clone()).unwrap();
                        assert_inside(threat, &x, &step.adversarial, name != "WRM", name);
                    }
                }
                let yopo = YopoProgram::record(
                    &model,
                    &x,
                    |model: &Mlp, x| model.first.forward(x),
                    |model: &Mlp, hidden: Tensor<2>| model.last.forward(relu(hidden)),
                );
                let mut method = YopoTraining::new(threat).unwrap().passes(2).unwrap();
                let step = method.gradients(&yopo.unwrap(), &model, x.clone(), y.clone()).unwrap();
                assert_inside(threat, &x, &step.adversarial, true, "YOPO");
            }
        }
    });
}

#[test]
fn no_radius_is_standard_training() {
    for device in host_devices() {
        let (model, (x, y)) = (model(0.3, 1, &device), batch(6, 1, &device));
        let program = program(&model, &x);
        let mut standard = StandardTraining::new();
        for norm in [Norm::Linf, Norm::L2, Norm::L1] {
            let threat = Threat::new(norm, 0.0).unwrap();
            standard = StandardTraining::new();
            let plain = standard.gradients(&program, &model, x.clone(), y.clone()).unwrap();
            for (name, mut method, _) in methods(threat) {
                if ["MART", "WRM", "AWP PGD", "AWP TRADES"].contains(&name) {
                    continue;
                }
                let step = method.gradients(&program, &model, x.clone(), y.clone()).unwrap();
                assert_same_bits(&step.gradient, &plain.gradient);
                assert_eq!(step.cost, plain.cost, "{name}");
                assert_eq!(values(&step.adversarial), values(&x), "{name}");
                assert_eq!(step.loss.value(), plain.loss.value(), "{name}");
            }
        }
        // Dropout is drawn anew in each step.
        let again = standard.gradients(&program, &model, x.clone(), y.clone()).unwrap();
        let first = StandardTraining::new().gradients(&program, &model, x, y).unwrap();
        assert!(again.gradient.sub(&first.gradient).unwrap().norm().value() > 0.0);
    }
}

#[test]
fn costs_are_those_of_the_table() {
    let device = Device::flex();
    let (model, (x, y)) = (model(0.0, 2, &device), batch(4, 2, &device));
    let program = program(&model, &x);
    for (name, mut method, gradients) in methods(Threat::new(Norm::Linf, 0.1).unwrap()) {
        let cost = method.gradients(&program, &model, x.clone(), y.clone()).unwrap().cost;
        assert_eq!(cost.gradient_evaluations, gradients, "{name}");
        assert_eq!(cost.forward_passes, u64::from(name.ends_with("TRADES")), "{name}");
        assert_eq!(cost.first_layer_evaluations, 0);
    }
    let default = PgdTraining::new(Threat::new(Norm::L2, 0.1).unwrap()).unwrap();
    let cost = { default }.gradients(&program, &model, x, y).unwrap().cost;
    assert_eq!(cost.gradient_evaluations, 8);
}

/// For `h(x) = xW` with two classes the worst loss is `ℓ(m − ε‖w‖_q)`, and PGD finds it.
#[test]
fn a_linear_model_meets_its_worst_case() {
    let device = Device::flex();
    let weight = [0.5f64, -1.5, 0.25, 1.0];
    let linear = LinearConfig::new(WIDTH, 2).with_bias(false).init(&device);
    let columns: Vec<f32> = weight.iter().flat_map(|w| [0.0, *w as f32]).collect();
    let columns = Tensor::<2>::from_data(TensorData::new(columns, [WIDTH, 2]), &device);
    let linear = Tree::empty().push("weight", columns).unwrap().write_into(linear).unwrap();
    // Away from the box, which the closed form does not know.
    let x0 = [[0.4f32, 0.5, 0.6, 0.5], [0.5, 0.4, 0.5, 0.6]];
    let (x, y) = (Tensor::<2>::from_data(x0, &device), Tensor::<1, Int>::from_data([1, 0], &device));
    let program = RobustProgram::record(&linear, &x, |model: &Linear, x| model.forward(x)).unwrap();
    for norm in [Norm::Linf, Norm::L2, Norm::L1] {
        let epsilon = 0.2;
        // Steps as long as to leave the ball, so that the projection alone decides.
        let pgd = PgdTraining::new(Threat::new(norm, epsilon).unwrap()).unwrap();
        let mut pgd = pgd.steps(20).unwrap().step_size(10.0).unwrap();
        let step = pgd.gradients(&program, &linear, x.clone(), y.clone()).unwrap();
        let dual = norm.dual().unwrap().of(weight);
        let margin = |x: &[f32; 4]| x.iter().zip(weight).map(|(x, w)| f64::from(*x) * w).sum::<f64>();
        let loss = |m: f64| (-(m - epsilon * dual)).exp().ln_1p();
        let worst = 0.5 * (loss(margin(&x0[0])) + loss(-margin(&x0[1])));
        assert!((step.loss.value() - worst).abs() < 1e-5, "{norm:?}: {} {worst}", step.loss.value());
    }
}

#[test]
fn no_weight_is_the_clean_loss() {
    for device in host_devices() {
        let (model, (x, y)) = (model(0.0, 3, &device), batch(5, 3, &device));
        let program = program(&model, &x);
        let mut trades = TradesTraining::new(Threat::new(Norm::Linf, 0.1).unwrap(), 0.0).unwrap();
        let step = trades.gradients(&program, &model, x.clone(), y.clone()).unwrap();
        assert!(values(&step.adversarial) != values(&x));
        let plain = StandardTraining::new().gradients(&program, &model, x, y).unwrap();
        assert_close(&step.gradient, &plain.gradient, 1e-6);
        assert!((step.loss.value() - plain.loss.value()).abs() < 1e-6);
    }
}

/// The losses of TRADES and MART at given logits, against the formulas in `f64`.
#[test]
fn the_losses_by_hand() {
    let device = Device::flex();
    let (clean, moved, labels) = ([[1.0, 0.0, -1.0], [0.5, 2.0, 0.0]], [[0.2, 0.4, -0.3], [1.0, 1.0, 0.1]], [0i64, 2]);
    let tensor = |z: [[f64; 3]; 2]| Tensor::<2>::from_data(z, &device);
    let y = Tensor::<1, Int>::from_data(labels, &device);
    let p = |z: [f64; 3]| {
        let sum: f64 = z.iter().map(|z| z.exp()).sum();
        z.map(|z| z.exp() / sum)
    };
    let (mut fit, mut penalty, mut margin, mut doubt) = (0.0, 0.0, 0.0, 0.0);
    for i in 0..2 {
        let (clean, moved, own) = (p(clean[i]), p(moved[i]), labels[i] as usize);
        let divergence: f64 = (0..3).map(|k| clean[k] * (clean[k] / moved[k]).ln()).sum();
        let rival = (0..3).filter(|k| *k != own).map(|k| moved[k]).fold(0.0, f64::max);
        fit -= clean[own].ln() / 2.0;
        penalty += divergence / 2.0;
        margin += (-moved[own].ln() - (1.0 + 1e-4 - rival).ln()) / 2.0;
        doubt += divergence * (1.0 - clean[own]) / 2.0;
    }
    let close = |got: (Tensor<1>, Tensor<1>), want: (f64, f64)| {
        let got = (got.0.into_scalar::<f32>(), got.1.into_scalar::<f32>());
        assert!(
            (f64::from(got.0) - want.0).abs() < 1e-6 && (f64::from(got.1) - want.1).abs() < 1e-6,
            "{got:?} {want:?}"
        );
    };
    close(trades::parts(tensor(clean), tensor(moved), &y), (fit, penalty));
    close(mart::parts(tensor(clean), tensor(moved), &y), (margin, doubt));
}

/// The recorded gradients are those of Burn's tape at the same adversarial points.
#[test]
fn gradients_are_those_of_the_tape() {
    let device = Device::flex();
    let (model, (x, y)) = (model(0.0, 4, &device), batch(5, 4, &device));
    let program = program(&model, &x);
    let threat = Threat::new(Norm::Linf, 0.15).unwrap();
    let tracked = model.clone().train();
    let tape = |x: &Tensor<2>| forward(&tracked, Tensor::from_inner(x.clone()));
    let labels = Tensor::<1, Int>::from_inner(y.clone());
    type Loss = fn([Tensor<2>; 2], &Tensor<1, Int>) -> Tensor<1>;
    let losses: [(Box<dyn RobustTraining<Mlp, 2>>, Loss); 3] = [
        (Box::new(PgdTraining::new(threat).unwrap()), |[_, moved], y| program::cross_entropies(moved, y).mean()),
        (Box::new(TradesTraining::new(threat, 3.0).unwrap()), |[clean, moved], y| {
            let (fit, penalty) = trades::parts(clean, moved, y);
            fit + penalty * 3.0
        }),
        (Box::new(MartTraining::new(threat, 2.0).unwrap()), |[clean, moved], y| {
            let (fit, penalty) = mart::parts(clean, moved, y);
            fit + penalty * 2.0
        }),
    ];
    for (mut method, loss) in losses {
        let step = method.gradients(&program, &model, x.clone(), y.clone()).unwrap();
        let loss = loss([tape(&x), tape(&step.adversarial)], &labels);
        assert!((f64::from(loss.clone().into_scalar::<f32>()) - step.loss.value()).abs() < 1e-6);
        assert_close(&step.gradient, &Tree::from_grads(loss.backward(), &tracked), 1e-6);
    }
}

#[test]
fn more_steps_find_worse_points() {
    let device = Device::flex();
    let (model, (x, y)) = (model(0.0, 5, &device), batch(32, 5, &device));
    let program = program(&model, &x);
    let threat = Threat::new(Norm::Linf, 0.1).unwrap();
    let loss = |method: &mut dyn RobustTraining<Mlp, 2>| {
        method.gradients(&program, &model, x.clone(), y.clone()).unwrap().loss.value()
    };
    let pgd = || PgdTraining::new(threat).unwrap();
    let random = loss(&mut pgd().steps(1).unwrap().step_size(1e-9).unwrap());
    let (clean, one) = (loss(&mut StandardTraining::new()), loss(&mut FastTraining::new(threat).unwrap()));
    let many = loss(&mut pgd().steps(20).unwrap());
    assert!(clean < one && random < one && one <= many + 1e-6, "{clean} {random} {one} {many}");
    // The divergence that TRADES maximises grows too.
    let trades = |steps| {
        let mut method = TradesTraining::new(threat, 1.0).unwrap().steps(steps).unwrap();
        method.gradients(&program, &model, x.clone(), y.clone()).unwrap().loss.value() - clean
    };
    assert!(trades(10) > trades(1) && trades(1) > 0.0);
}

#[test]
fn no_weight_perturbation_is_the_method() {
    for device in host_devices() {
        let (model, (x, y)) = (model(0.2, 6, &device), batch(4, 6, &device));
        let program = program(&model, &x);
        let threat = Threat::new(Norm::Linf, 0.1).unwrap();
        let pgd = || PgdTraining::new(threat).unwrap();
        let plain = pgd().gradients(&program, &model, x.clone(), y.clone()).unwrap();
        let mut awp = Awp::new(pgd(), 0.0).unwrap();
        let wrapped = awp.gradients(&program, &model, x.clone(), y.clone()).unwrap();
        assert_same_bits(&wrapped.gradient, &plain.gradient);
        assert_eq!(wrapped.cost, plain.cost);
        // The same points and the same dropout: only the weights differ, and the loss is worse there.
        let moved = Awp::new(pgd(), 0.01).unwrap().gradients(&program, &model, x, y).unwrap();
        assert_eq!(values(&moved.adversarial), values(&plain.adversarial));
        assert!(moved.loss.value() > plain.loss.value());
    }
}

#[test]
fn weights_move_by_gamma() {
    let device = Device::flex();
    let model = model(0.0, 7, &device);
    let point = Tree::from_module(&model);
    let gradient = Random::new(8).normal_like(&point, 1e-3);
    let moved = awp::perturb_weights(&point, &gradient, 0.02).unwrap();
    let change = moved.sub(&point).unwrap();
    for ((name, size), change) in point.names().iter().zip(point.leaf_norms()).zip(change.leaf_norms()) {
        let relative = change.value() / size.value();
        match name.path.ends_with("weight") {
            true => assert!((relative - 0.02).abs() < 1e-6, "{name}: {relative}"),
            false => assert_eq!(relative, 0.0, "{name}"),
        }
    }
    // A gradient that vanishes moves nothing, and one that a leaf lacks leaves it alone.
    assert_same_bits(&awp::perturb_weights(&point, &point.zeros_like(), 0.02).unwrap(), &point);
    let part = gradient.filter(|name| name.path == "first.weight");
    let moved = awp::perturb_weights(&point, &part, 0.02).unwrap().sub(&point).unwrap();
    assert!(moved.get::<2>("last.weight").unwrap().abs().max().into_scalar::<f32>() == 0.0);
}

/// Free with one replay is FGSM training from the perturbation it carries.
#[test]
fn free_steps_by_the_sign_from_what_it_carries() {
    for device in host_devices() {
        let (model, (x, y)) = (model(0.0, 9, &device), batch(6, 9, &device));
        let program = program(&model, &x);
        let epsilon = 0.1;
        let threat = Threat::new(Norm::Linf, epsilon).unwrap();
        let mut free = FreeTraining::new(threat).unwrap().step_size(0.06).unwrap();
        let first = free.gradients(&program, &model, x.clone(), y.clone()).unwrap();
        let plain = StandardTraining::new().gradients(&program, &model, x.clone(), y.clone()).unwrap();
        assert_eq!(values(&first.adversarial), values(&x));
        assert_close(&first.gradient, &plain.gradient, 1e-6);
        // 0.06 by the sign, then 0.12 clipped to 0.1 where the sign is the same.
        let carried = values(free.delta().unwrap());
        assert!(
            carried.iter().all(|d| (d.abs() - 0.06).abs() < 1e-7 || *d == 0.0) && carried.iter().any(|d| *d != 0.0)
        );
        let second = free.gradients(&program, &model, x.clone(), y.clone()).unwrap();
        let at = values(&(x.clone() + Tensor::from_data(TensorData::new(carried, [6, WIDTH]), &device)));
        let gap = values(&second.adversarial).into_iter().zip(at).map(|(a, b)| (a - b.clamp(0.0, 1.0)).abs());
        assert!(gap.fold(0.0, f64::max) < 1e-6);
        assert!(second.loss.value() > first.loss.value());
        assert!(values(free.delta().unwrap()).iter().all(|d| d.abs() <= epsilon));
        // A smaller batch takes the first rows and leaves the others; a larger one adds rows.
        let before = values(free.delta().unwrap());
        let few = |rows| (x.clone().slice_dim(0, 0..rows), y.clone().slice_dim(0, 0..rows));
        let (x2, y2) = few(2);
        free.gradients(&program, &model, x2, y2).unwrap();
        let after = values(free.delta().unwrap());
        assert_eq!((after.len(), &after[2 * WIDTH..]), (6 * WIDTH, &before[2 * WIDTH..]));
        let (x9, y9) = batch(9, 10, &device);
        free.gradients(&program, &model, x9, y9).unwrap();
        assert_eq!(free.delta().unwrap().dims(), [9, WIDTH]);
    }
}

#[test]
fn a_resumed_run_goes_on_bit_for_bit() {
    let device = Device::flex();
    let (model, (x, y)) = (model(0.3, 11, &device), batch(5, 11, &device));
    let program = program(&model, &x);
    let threat = Threat::new(Norm::L2, 0.2).unwrap();
    let all = || {
        let mut all = methods(threat);
        let watch = OverfittingWatch::new(threat, x.clone(), y.clone()).unwrap();
        all.push(("watched", Box::new(FastTraining::new(threat).unwrap().watch(watch, 2).unwrap()), 0));
        all
    };
    let folder = tempfile::tempdir().unwrap();
    for ((name, mut method, _), (_, mut resumed, _)) in all().into_iter().zip(all()) {
        let step =
            |method: &mut dyn RobustTraining<Mlp, 2>| method.gradients(&program, &model, x.clone(), y.clone()).unwrap();
        for _ in 0..3 {
            step(method.as_mut());
        }
        let path = folder.path().join(name);
        method.state().save(&path).unwrap();
        resumed.load_state(State::load(&path, &device).unwrap()).unwrap();
        for _ in 0..3 {
            let [left, right] = [step(method.as_mut()), step(resumed.as_mut())];
            assert_same_bits(&left.gradient, &right.gradient);
            assert_eq!(left.overfitting, right.overfitting, "{name}");
            let points = [left, right].map(|step| Tree::empty().push("x", step.adversarial).unwrap());
            assert_same_bits(&points[0], &points[1]);
        }
        let before = method.state();
        assert!(method.load_state(State::new().with("other", 1u64)).is_err(), "{name}");
        assert_eq!(format!("{:?}", method.state()), format!("{before:?}"), "{name}");
    }
}

#[test]
fn batches_that_are_none_are_errors_and_change_nothing() {
    let device = Device::flex();
    let (model, (x, y)) = (model(0.0, 12, &device), batch(3, 12, &device));
    let program = program(&model, &x);
    let label = |y: [i64; 3]| Tensor::<1, Int>::from_data(y, &device);
    let none = Tensor::<2>::zeros([0, WIDTH], &device);
    let outside = x.clone().slice_assign([1..2, 0..1], Tensor::from_data([[1.5]], &device));
    let missing = x.clone().slice_assign([2..3, 3..4], Tensor::from_data([[f32::NAN]], &device));
    for (name, mut method, _) in methods(Threat::new(Norm::Linf, 0.1).unwrap()) {
        let before = format!("{:?}", method.state());
        let mut error =
            |x: &Tensor<2>, y: &Tensor<1, Int>| method.gradients(&program, &model, x.clone(), y.clone()).unwrap_err();
        let empty = error(&none, &y.clone().slice_dim(0, 0..0));
        assert_eq!(empty.to_string(), "a training step needs at least one example");
        assert_eq!(error(&x, &label([0, 3, 1])).to_string(), "the label of example 1 is 3, the model has 3 classes");
        assert!(matches!(error(&x, &label([0, -1, 1])), Error::Label { example: 1, label: -1, .. }));
        assert!(matches!(error(&x, &y.clone().slice_dim(0, 0..2)), Error::Shape { .. }), "{name}");
        if name != "standard" {
            let found = error(&outside, &y);
            assert!(matches!(found, Error::OutOfBounds { example: 1, element: 0, .. }), "{name}: {found}");
            assert!(matches!(error(&missing, &y), Error::OutOfBounds { example: 2, element: 3, .. }), "{name}");
        }
        assert_eq!(format!("{:?}", method.state()), before, "{name}");
    }
    let other = LinearConfig::new(WIDTH, 2).init(&device);
    let rows = RobustProgram::record(&other, &x, |model: &Linear, x| model.forward(x).transpose());
    let error = rows.err().unwrap().to_string();
    assert_eq!(error, "the logits has shape [2, 3], expected [3, classes], a row for each example");
    assert!(matches!(RobustProgram::record(&model, &none, forward), Err(Error::EmptyBatch { .. })));
}

#[test]
fn parameters_out_of_range_are_named() {
    let threat = Threat::new(Norm::Linf, 0.1).unwrap();
    let sparse = Threat::new(Norm::L0, 1.0).unwrap();
    let name = |error: Error| error.to_string();
    assert!(name(PgdTraining::new(threat).unwrap().steps(0).unwrap_err()).starts_with("steps = 0"));
    assert!(name(PgdTraining::new(threat).unwrap().step_size(f64::NAN).unwrap_err()).starts_with("step_size = NaN"));
    assert!(name(PgdTraining::new(threat).unwrap().start(Start::Normal(-1.0)).unwrap_err()).starts_with("start = -1"));
    assert!(name(PgdTraining::new(threat).unwrap().set_radius(-1.0).unwrap_err()).starts_with("epsilon = -1"));
    assert!(name(TradesTraining::new(threat, -1.0).unwrap_err()).starts_with("beta = -1"));
    assert!(name(MartTraining::new(threat, f64::NAN).unwrap_err()).starts_with("lambda = NaN"));
    assert!(name(Awp::new(StandardTraining::new(), f64::INFINITY).unwrap_err()).starts_with("gamma = inf"));
    assert!(name(WrmTraining::new(0.0).unwrap_err()).starts_with("gamma = 0"));
    assert!(WrmTraining::new(1.0).unwrap().bounds(1.0, 0.0).is_err());
    assert!(name(FreeTraining::<2>::new(threat).unwrap().replays(0).unwrap_err()).starts_with("replays = 0"));
    assert!(name(YopoTraining::new(threat).unwrap().passes(0).unwrap_err()).starts_with("passes = 0"));
    let watch = || {
        let device = Device::flex();
        OverfittingWatch::new(threat, Tensor::<2>::zeros([1, 2], &device), Tensor::zeros([1], &device)).unwrap()
    };
    assert!(name(watch().gap(1.5).unwrap_err()).starts_with("gap = 1.5"));
    assert!(name(watch().fall(0.0).unwrap_err()).starts_with("fall = 0"));
    assert!(name(FastTraining::new(threat).unwrap().watch(watch(), 0).unwrap_err()).starts_with("every = 0"));
    assert!(matches!(PgdTraining::new(sparse), Err(Error::UnsupportedNorm { norm: Norm::L0, .. })));
    assert!(FastTraining::<2>::new(sparse).is_err() && FreeTraining::<2>::new(sparse).is_err());
    assert!(TradesTraining::new(sparse, 1.0).is_err() && MartTraining::new(sparse, 1.0).is_err());
    assert!(YopoTraining::new(sparse).is_err());
}

/// Logits that are not numbers: the points stay allowed inputs, and the gradient says it.
#[test]
fn what_is_not_finite_is_an_outcome() {
    for device in host_devices() {
        let model = model(0.0, 13, &device);
        let broken = Tree::from_module(&model).filter(|name| name.path == "last.bias");
        let broken = broken.scale(f64::NAN).write_into(model).unwrap();
        let (x, y) = batch(4, 13, &device);
        let program = program(&broken, &x);
        for norm in [Norm::Linf, Norm::L2, Norm::L1] {
            let threat = Threat::new(norm, 0.1).unwrap();
            for (name, mut method, _) in methods(threat) {
                let step = method.gradients(&program, &broken, x.clone(), y.clone()).unwrap();
                assert!(step.loss.value().is_nan() && step.gradient.is_finite().value() == 0.0, "{name}");
                assert_inside(threat, &x, &step.adversarial, true, name);
            }
        }
        assert_eq!(program.accuracy(&broken, x, &y).unwrap(), 0.0);
    }
}

#[derive(Module, Debug)]
struct Normed {
    first: Linear,
    norm: BatchNorm,
    last: Linear,
}

fn normed(device: &Device) -> Normed {
    let linear = |from, to| LinearConfig::new(from, to).init(device);
    Normed { first: linear(WIDTH, 6), norm: BatchNormConfig::new(6).init(device), last: linear(6, CLASSES) }
}

fn forward_normed(model: &Normed, x: Tensor<2>) -> Tensor<2> {
    model.last.forward(relu(model.norm.forward(model.first.forward(x))))
}

fn running(model: &Normed) -> Tree {
    Tree::from_module_all(&model.valid()).filter(|name| name.path.contains("running"))
}

/// Running statistics move once a step, at the points trained on, as in a forward pass of Burn's; attacks do not touch them.
#[test]
fn running_statistics_move_once_at_the_adversarial_points() {
    for plain in host_devices() {
        for device in [plain.clone().autodiff(), plain.clone()] {
            let model = normed(&device);
            let (x, y) = batch(8, 14, &plain);
            let before = running(&model);
            let program = RobustProgram::record(&model, &x, forward_normed).unwrap();
            assert_eq!(program.running_state(), ["norm.running_mean", "norm.running_var"]);
            assert_same_bits(&running(&model), &before);
            let mut pgd = PgdTraining::new(Threat::new(Norm::Linf, 0.1).unwrap()).unwrap();
            // On a model of its own: clones share running statistics.
            let twin = model.valid().train();
            let step = pgd.gradients(&program, &model, x.clone(), y.clone()).unwrap();
            assert_eq!((step.cost.gradient_evaluations, step.cost.forward_passes), (8, 1));
            let _ = forward_normed(&twin, Tensor::from_inner(step.adversarial.clone()));
            assert_close(&running(&model), &running(&twin), 1e-6);
            assert!(running(&model).sub(&before).unwrap().norm().value() > 0.0);
            // The gradient is that of training mode, by the statistics of the batch.
            let loss = program::cross_entropies(
                forward_normed(&twin, Tensor::from_inner(step.adversarial.clone())),
                &Tensor::from_inner(y.clone()),
            );
            assert_close(&step.gradient, &Tree::from_grads(loss.mean().backward(), &twin), 1e-5);
            // The next attack reads what the last step has written.
            let attack = |model: &Normed| {
                let mut pgd =
                    PgdTraining::new(Threat::new(Norm::L2, 0.3).unwrap()).unwrap().start(Start::Clean).unwrap();
                let batch = program.examples(x.clone(), y.clone()).unwrap();
                values(&pgd.perturb(&program, model, &batch).unwrap().adversarial)
            };
            let now = attack(&model);
            before.write_into(model.clone()).unwrap();
            assert_ne!(attack(&model), now);
            assert_same_bits(&running(&model), &before);
        }
    }
}

/// A frozen normalisation is left as it is, and so are frozen parameters.
#[test]
fn what_is_frozen_stays() {
    let device = Device::flex().autodiff();
    let mut model = normed(&device);
    model.norm = model.norm.freeze();
    let (x, y) = batch(8, 15, &Device::flex());
    let program = RobustProgram::record(&model, &x, forward_normed).unwrap();
    assert!(program.running_state().is_empty());
    let mut free = FreeTraining::new(Threat::new(Norm::Linf, 0.1).unwrap()).unwrap();
    let step = free.gradients(&program, &model, x, y).unwrap();
    let paths: Vec<&str> = step.gradient.names().iter().map(|name| name.path.as_str()).collect();
    assert_eq!(paths, ["first.weight", "first.bias", "last.weight", "last.bias"]);
    assert_eq!(step.gradient.names(), Tree::from_module(&model).names());
}

#[test]
fn the_points_of_wrm_are_stationary() {
    let device = Device::flex();
    let (model, (x, y)) = (model(0.0, 16, &device), batch(6, 16, &device));
    // Away from the box.
    let x = x * 0.2 + 0.4;
    let program = program(&model, &x);
    let gamma = 40.0;
    let mut wrm = WrmTraining::new(gamma).unwrap().steps(200).unwrap();
    let examples = program.examples(x.clone(), y.clone()).unwrap();
    let found = wrm.perturb(&program, &model, &examples).unwrap();
    let [z, slope] = program
        .attack_gradient(&(program.frozen(&model, Mode::Evaluation), y), Mode::Evaluation, found.adversarial, 0)
        .unwrap();
    let residual = (z.clone() - x.clone()) * gamma - slope.clone();
    let size = |x: Tensor<2>| Norm::Linf.of(values(&x));
    assert!(size(residual.clone()) < 0.02 * size(slope), "{}", size(residual));
    let squares: f64 = values(&(z - x)).iter().map(|d| d * d).sum();
    let transport = found.transport.unwrap();
    assert!((transport.distance - 0.5 * squares / 6.0).abs() < 1e-9);
}

#[test]
fn moving_costs_what_it_gains() {
    let device = Device::flex();
    let (model, (x, y)) = (model(0.0, 17, &device), batch(16, 17, &device));
    let program = program(&model, &x);
    let clean = StandardTraining::new().gradients(&program, &model, x.clone(), y.clone()).unwrap().loss.value();
    let surrogate = |gamma| {
        let mut wrm = WrmTraining::new(gamma).unwrap().steps(60).unwrap();
        let step = wrm.gradients(&program, &model, x.clone(), y.clone()).unwrap();
        (step.transport.unwrap().bound(step.loss.value(), 0.0), step.transport.unwrap().distance)
    };
    let found: Vec<(f64, f64)> = [100.0, 30.0, 10.0].map(surrogate).to_vec();
    assert!(found.windows(2).all(|w| w[0].0 <= w[1].0 && w[0].1 < w[1].1), "{found:?}");
    assert!(found[0].0 >= clean - 1e-6);
}

/// With a linear rest `p` does not depend on the hidden values for two classes' sign, so that YOPO's steps are those of PGD.
#[test]
fn through_a_linear_rest_yopo_is_pgd() {
    let device = Device::flex();
    let model = (LinearConfig::new(WIDTH, 8).init(&device), LinearConfig::new(8, 2).init(&device));
    let (x, _) = batch(6, 18, &device);
    let y = Tensor::<1, Int>::from_data([0, 1, 0, 1, 1, 0], &device);
    type Pair = (Linear, Linear);
    let program = YopoProgram::record(
        &model,
        &x,
        |model: &Pair, x| model.0.forward(x).tanh(),
        |model: &Pair, hidden: Tensor<2>| model.1.forward(hidden),
    );
    let (program, threat) = (program.unwrap(), Threat::new(Norm::Linf, 0.1).unwrap());
    let yopo = || YopoTraining::new(threat).unwrap().start(Start::Clean).unwrap().step_size(0.02).unwrap();
    let mut one = yopo().passes(2).unwrap().steps(4).unwrap();
    let step = one.gradients(&program, &model, x.clone(), y.clone()).unwrap();
    let mut pgd =
        PgdTraining::new(threat).unwrap().start(Start::Clean).unwrap().steps(4).unwrap().step_size(0.02).unwrap();
    let reference = pgd.gradients(program.whole(), &model, x.clone(), y.clone()).unwrap();
    assert_eq!(values(&step.adversarial), values(&reference.adversarial));
    assert_eq!((step.cost.gradient_evaluations, step.cost.first_layer_evaluations), (2, 4));
    // The mean of the two full passes: at the clean and at the moved inputs.
    let plain = StandardTraining::new().gradients(program.whole(), &model, x.clone(), y.clone()).unwrap();
    assert_close(&step.gradient, &plain.gradient.clone().lerp(&reference.gradient, 0.5).unwrap(), 1e-6);
    let still = yopo().passes(3).unwrap().gradients(&program, &model, x.clone(), y.clone()).unwrap();
    assert!(still.loss.value() >= plain.loss.value());
    let mut still = YopoTraining::new(threat.radius(0.0).unwrap()).unwrap();
    let still = still.gradients(&program, &model, x.clone(), y.clone()).unwrap();
    assert_close(&still.gradient, &plain.gradient, 1e-6);
    assert_eq!(still.cost.gradient_evaluations, 1);
    assert!(
        YopoProgram::record(
            &model,
            &x,
            |model: &Pair, x| model.0.forward(x).transpose(),
            |model: &Pair, h: Tensor<2>| { model.1.forward(h.transpose()) }
        )
        .is_err()
    );
}

/// A model that resists the single step alone is found out.
#[test]
fn the_watch_sees_a_gap_and_a_fall() {
    let device = Device::flex();
    let (x, threat) = (Tensor::<2>::full([8, 1], 0.5, &device), Threat::new(Norm::Linf, 0.3).unwrap());
    let y = Tensor::<1, Int>::zeros([8], &device);
    // Right at 0.5 and from 0.7 on, wrong between: the slope at 0.5 leads over the dip to its far side.
    let model = LinearConfig::new(1, 1).init(&device);
    let program = RobustProgram::record(&model, &x, |_: &Linear, x| {
        let bump = ((x.clone() - 0.62).square() * -400.0).exp() * 3.0 - 1.0;
        Tensor::cat(vec![bump.clone().neg(), bump], 1)
    })
    .unwrap();
    let mut watch = OverfittingWatch::new(threat, x.clone(), y.clone()).unwrap().steps(20).unwrap();
    let seen = watch.look(&program, &model).unwrap();
    assert_eq!((seen.fgsm_accuracy, seen.detected), (1.0, true), "{seen:?}");
    assert!(seen.pgd_accuracy < 0.8 && seen.advice().starts_with("catastrophic"));
    assert_eq!((seen.cost.gradient_evaluations, seen.cost.forward_passes), (21, 2));
    // A fall from a remembered best, with no gap.
    let firm = RobustProgram::record(&model, &x, |_: &Linear, x| Tensor::cat(vec![x.ones_like(), x.zeros_like()], 1));
    let weak = RobustProgram::record(&model, &x, |_: &Linear, x| Tensor::cat(vec![x.zeros_like(), x], 1));
    let mut watch = OverfittingWatch::new(threat, x, y).unwrap();
    let first = watch.look(&firm.unwrap(), &model).unwrap();
    assert_eq!((first.pgd_accuracy, first.detected), (1.0, false));
    let second = watch.look(&weak.unwrap(), &model).unwrap();
    assert_eq!((second.fgsm_accuracy, second.pgd_accuracy, second.detected), (0.0, 0.0, true));
    assert_eq!(second.best_pgd_accuracy, 1.0);
}

/// By logarithms the divergence is right where probabilities vanish.
#[test]
fn rows_of_the_divergence_are_not_negative() {
    property(50, proptest::array::uniform6(-20f32..20.0), |z| {
        let device = Device::flex();
        let z = Tensor::<2>::from_data(TensorData::new(z.to_vec(), [2, 3]), &device);
        let (p, q) = (z.clone().slice_dim(0, 0..1), z.slice_dim(0, 1..2));
        let value = program::divergences(p.clone(), q.clone()).into_scalar::<f32>();
        assert!(value >= -1e-5 && program::divergences(p.clone(), p.clone()).into_scalar::<f32>().abs() < 1e-5);
        let direct = softmax(p.clone(), 1) * (softmax(p, 1).log() - softmax(q, 1).log());
        let direct = direct.sum().into_scalar::<f32>();
        assert!(!direct.is_finite() || (direct - value).abs() < 1e-3 * (1.0 + value.abs()));
    });
}

/// On real digits, against PGD-20: what is trained against an adversary holds where what is trained as usual does not.
#[test]
fn robust_training_holds_on_digits() {
    use crate::digits::{load, recorded, train};
    use crate::{Attack, Goals, Pgd};

    let threat = Threat::new(Norm::Linf, 0.12).unwrap();
    let (x, y) = load().1.first(200);
    let robust = |method: &mut dyn RobustTraining<crate::digits::Net, 2>| {
        let attacked =
            Pgd::new().steps(20).attack(&recorded(&train(method, 400)), threat, x.clone(), &Goals::untargeted(&y));
        attacked.unwrap().robust_accuracy()
    };
    let standard = robust(&mut StandardTraining::new());
    let others = [
        ("PGD", robust(&mut PgdTraining::new(threat).unwrap().steps(7).unwrap())),
        ("TRADES", robust(&mut TradesTraining::new(threat, 6.0).unwrap().steps(7).unwrap())),
        ("Fast", robust(&mut FastTraining::new(threat).unwrap())),
        ("Free", robust(&mut FreeTraining::new(threat).unwrap())),
    ];
    println!("standard {standard} {others:?}");
    for (name, accuracy) in others {
        assert!(accuracy > standard + 0.2, "{name} {accuracy}, standard {standard}");
    }
}
