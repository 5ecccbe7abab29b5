//! Exactness, resuming, bad input, and real digits.

use burn::module::Param;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::activation;
use core_tensor::Random;
use core_tensor::testing::assert_same_bits;

use super::*;
use crate::testing::*;

/// 64-12-10 with tanh.
#[derive(Module, Debug)]
struct Net {
    hidden: Linear,
    head: Linear,
}

impl Net {
    fn new(seed: u64, inputs: usize, width: usize, outputs: usize) -> Self {
        let mut random = Random::new(seed);
        let mut layer = |from: usize, to: usize| {
            let mut layer = LinearConfig::new(from, to).init(&device());
            layer.weight = Param::from_tensor(random.normal([from, to], 0.0, (1.0 / from as f64).sqrt(), &device()));
            layer.bias = Some(Param::from_tensor(Tensor::zeros([to], &device())));
            layer
        };
        Self { hidden: layer(inputs, width), head: layer(width, outputs) }
    }

    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.head.forward(activation::tanh(self.hidden.forward(x)))
    }

    fn loss(&self, (x, hot): &Examples) -> Tensor<1> {
        cross_entropies(self.forward(x.clone()), hot).mean()
    }
}

fn small() -> (Net, Vec<Examples>, Vec<Examples>) {
    let digits = Digits::load();
    (Net::new(3, 64, 5, 10), vec![digits.examples(0..30), digits.examples(30..60)], vec![digits.examples(60..120)])
}

fn everything() -> Tune {
    Tune::new(5, Hyper::learned(0.3, Scope::PerStep))
        .and_then(|tune| tune.momentum(Hyper::learned(0.6, Scope::PerLayer)))
        .and_then(|tune| tune.weight_decay(Hyper::learned(0.02, Scope::PerFeature)))
        .and_then(|tune| tune.loss_weights(&[0.7, 0.3]))
        .unwrap()
}

fn prepare(tune: &Tune) -> Tuner<Examples, Examples> {
    let (net, train, validation) = small();
    let losses = |net: &Net, batch: &Examples| {
        let logits = net.forward(batch.0.clone());
        Tensor::cat(vec![cross_entropies(logits.clone(), &batch.1).mean(), logits.square().mean()], 0)
    };
    tune.prepare(&net, train, validation, losses, Net::loss).unwrap()
}

/// Along each kind of hyper-parameter by itself, in f32.
#[test]
fn the_hypergradient_is_that_of_the_run() {
    let tuner = prepare(&everything());
    let state = tuner.start();
    let h = tuner.hypergradient(&state).unwrap();
    let gradient = crate::solver::elements(&h.gradient);
    assert!((tuner.loss(state.raw()).unwrap() - h.value).abs() < 1e-6);
    let mut from = 0;
    for (name, length, _) in &tuner.domains {
        let range = from..from + length;
        from += length;
        let size = gradient[range.clone()].iter().map(|g| g * g).sum::<f64>().sqrt();
        if size < 1e-3 {
            continue; // Too small for differences in f32.
        }
        let at = |step: f64| {
            let mut raw = state.raw().to_vec();
            for i in range.clone() {
                raw[i] += step * gradient[i] / size;
            }
            tuner.loss(&raw).unwrap()
        };
        let difference = (at(0.05) - at(-0.05)) / 0.1;
        assert!((difference - size).abs() < 2e-3 + 0.01 * size, "{name}: {difference} {size}");
    }
    let total = gradient.iter().map(|g| g * g).sum::<f64>().sqrt();
    assert!(total > 0.05 && from == gradient.len(), "{total}");
    assert!(h.certificate.hessian_vector_products == 5 && h.certificate.inner_residual > 0.0);
    let values = tuner.values(&state).unwrap();
    let near = |name: &str, expected: f64| values[name].iter().all(|v| (v - expected).abs() < 1e-6);
    assert!(near("learning_rate", 0.3) && near("momentum/head", 0.6) && near("weight_decay/hidden.weight", 0.02));
    assert_eq!((values["learning_rate"].len(), values["weight_decay/hidden.weight"].len()), (5, 64));
    assert!((values["loss_weights"][0] - 0.7).abs() < 1e-6);
}

/// A batch with an augmented copy of its pixels.
type Augmented = (Examples, Tensor<2>);

/// Everything that a tuner can learn at once, in f64.
fn wide(tune: &Tune) -> Tuner<Augmented, Examples> {
    let (net, train, validation) = small();
    let double = |(x, hot): &Examples| (x.clone().cast(DType::F64), hot.clone().cast(DType::F64));
    let layer = |mut layer: Linear| {
        layer.weight = Param::from_tensor(layer.weight.val().inner().cast(DType::F64));
        layer.bias = layer.bias.map(|bias| Param::from_tensor(bias.val().inner().cast(DType::F64)));
        layer
    };
    let net = Net { hidden: layer(net.hidden), head: layer(net.head) };
    let mut random = Random::new(8);
    let train = train.iter().map(double).map(|(x, hot)| {
        let changed = x.clone() + normal::<2>(&mut random, x.dims());
        ((x, hot), changed)
    });
    let losses = |net: &Net, ((x, hot), changed): &Augmented, learned: &Learned<'_>| {
        let x = learned.augment("noise", x.clone(), changed.clone()).unwrap();
        let logits = net.forward(x);
        let heat = learned.value("heat").unwrap();
        let entropy = cross_entropies(logits.clone() * heat.unsqueeze_dim::<2>(0), &learned.smooth(hot.clone()));
        Tensor::cat(vec![entropy.mean(), logits.square().mean()], 0)
    };
    let validation = validation.iter().map(double).collect();
    tune.prepare_with(&net, train.collect(), validation, losses, Net::loss).unwrap()
}

#[test]
fn each_kind_matches_central_differences() {
    let of_head = |name: &LeafName| (if name.path.starts_with("head") { "head" } else { "rest" }).to_string();
    let learned = Hyper::learned;
    let loss = |tune: Tune| {
        tune.loss_weights(&[0.7, 0.3])
            .and_then(|tune| tune.label_smoothing(learned(0.1, Scope::Global)))
            .and_then(|tune| tune.augmentation("noise", learned(0.2, Scope::Global)))
            .and_then(|tune| tune.objective("heat", &[1.2; 10], Domain::Positive))
    };
    let rates = [
        (learned(0.3, Scope::PerStep), learned(0.6, Scope::PerLayer), learned(0.02, Scope::PerFeature)),
        (Hyper::grouped(0.3, of_head), learned(0.6, Scope::PerStep), Hyper::grouped(0.02, of_head)),
        (learned(0.3, Scope::PerFeature), Hyper::grouped(0.6, of_head), learned(0.02, Scope::PerStep)),
        (learned(0.3, Scope::Global), learned(0.6, Scope::Global), learned(0.02, Scope::Global)),
    ];
    for (rate, momentum, decay) in rates {
        let tune = Tune::new(5, rate).and_then(|tune| tune.momentum(momentum)?.weight_decay(decay));
        let tuner = wide(&tune.and_then(loss).unwrap());
        let state = tuner.start();
        let gradient = crate::solver::elements(&tuner.hypergradient(&state).unwrap().gradient);
        let (mut from, mut random) = (0, Random::new(4));
        for (name, length, _) in &tuner.domains {
            let direction: Vec<f64> = (0..*length).map(|_| 2.0 * random.next_f64() - 1.0).collect();
            let slope: f64 = direction.iter().zip(&gradient[from..]).map(|(u, g)| u * g).sum();
            let at = |step: f64| {
                let mut raw = state.raw().to_vec();
                raw[from..].iter_mut().zip(&direction).for_each(|(raw, u)| *raw += step * u);
                tuner.loss(&raw).unwrap()
            };
            let difference = (at(1e-4) - at(-1e-4)) / 2e-4;
            assert!((difference - slope).abs() < 1e-7 * slope.abs().max(1e-2), "{name}: {difference} {slope}");
            assert!(gradient[from..from + length].iter().any(|slope| *slope != 0.0), "{name}");
            from += length;
        }
        assert_eq!(from, gradient.len());
        let values = tuner.values(&state).unwrap();
        for (name, count, expected) in
            [("label_smoothing", 1, 0.1), ("augmentation/noise", 1, 0.2), ("heat", 10, 1.2), ("loss_weights", 2, 0.7)]
        {
            assert!(values[name].len() == count && (values[name][0] - expected).abs() < 1e-12, "{name}");
        }
    }
}

#[test]
fn fixed_numbers_of_the_loss_are_those_given() {
    let tune = |smoothing: Hyper, strength: Hyper| {
        Tune::new(3, Hyper::learned(0.3, Scope::Global))
            .and_then(|tune| {
                tune.loss_weights(&[0.7, 0.3])?.label_smoothing(smoothing)?.augmentation("noise", strength)
            })
            .and_then(|tune| tune.objective("heat", &[1.0], Domain::Positive))
            .unwrap()
    };
    let loss = |tuner: &Tuner<Augmented, Examples>| tuner.loss(tuner.start().raw()).unwrap();
    let learned = |value| Hyper::learned(value, Scope::Global);
    let [fixed, start] = [tune(0.1.into(), 0.2.into()), tune(learned(0.1), learned(0.2))].map(|tune| wide(&tune));
    assert!((loss(&fixed) - loss(&start)).abs() < 1e-14);
    assert!(!fixed.values(&fixed.start()).unwrap().contains_key("label_smoothing"));
    let none = wide(&tune(0.0.into(), 0.0.into()));
    assert!((loss(&none) - loss(&fixed)).abs() > 1e-6);
    // What was given last counts.
    let twice = tune(0.5.into(), 0.2.into()).label_smoothing(0.1).unwrap();
    assert_eq!(loss(&wide(&twice)), loss(&fixed));
}

/// Labels of which many are wrong: less trust in them.
#[test]
fn smoothing_grows_where_labels_are_wrong() {
    let digits = Digits::load();
    let labels: Vec<usize> = (0..120).map(|i| (digits.labels[i] + if i % 3 == 0 { i % 10 } else { 0 }) % 10).collect();
    let tune = Tune::new(40, 0.5)
        .and_then(|tune| tune.momentum(0.9)?.label_smoothing(Hyper::learned(0.02, Scope::Global))?.outer_rate(0.5))
        .unwrap();
    let training = |net: &Net, (x, hot): &Examples, learned: &Learned<'_>| {
        cross_entropies(net.forward(x.clone()), &learned.smooth(hot.clone())).mean()
    };
    let (train, validation) = (digits.labelled(0..120, &labels), digits.examples(120..400));
    let tuned =
        tune.run_with(&Net::new(3, 64, 16, 10), vec![train], vec![validation], training, Net::loss, 10).unwrap();
    let smoothing = tuned.values["label_smoothing"][0];
    assert!(
        smoothing > 0.1 && tuned.loss < 0.95 * tuned.path[0].loss,
        "{smoothing} {} {}",
        tuned.loss,
        tuned.path[0].loss
    );
}

#[test]
fn a_run_resumes_bit_for_bit() {
    let tuner = prepare(&everything());
    let mut state = tuner.start();
    for _ in 0..3 {
        state = tuner.step(state).unwrap();
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    state.save().save(file.path()).unwrap();
    let other = prepare(&everything());
    let mut resumed = other.load(State::load(file.path(), &device()).unwrap()).unwrap();
    assert_eq!(resumed.path, state.path);
    for _ in 0..2 {
        (state, resumed) = (tuner.step(state).unwrap(), other.step(resumed).unwrap());
    }
    assert_eq!((&state.raw, &state.path), (&resumed.raw, &resumed.path));
    let (one, two) = (tuner.finish(state.clone()).unwrap(), other.finish(resumed).unwrap());
    // The models are equal but for the ids of their parameters.
    let plain = |z: &Tree| Tree::empty().push("z", z.flatten().unwrap()).unwrap();
    assert_same_bits(&plain(&one.z), &plain(&two.z));
    assert!(tuner.load(State::new()).is_err());
    let smaller = prepare(&Tune::new(5, 0.1).unwrap().loss_weights(&[0.5, 0.5]).unwrap());
    assert!(smaller.load(state.save()).is_err());
}

#[test]
fn bad_input_is_named() {
    assert!(Tune::new(0, 0.1).is_err() && Tune::new(1, 0.0).is_err() && Tune::new(1, f64::NAN).is_err());
    let tune = || Tune::new(2, Hyper::learned(0.1, Scope::Global)).unwrap();
    assert!(tune().momentum(1.0).is_err() && tune().momentum(f64::NAN).is_err() && tune().momentum(0.0).is_ok());
    assert!(tune().momentum(Hyper::learned(0.0, Scope::Global)).is_err());
    assert!(tune().weight_decay(-0.1).is_err() && tune().weight_decay(Hyper::learned(0.0, Scope::Global)).is_err());
    assert!(tune().loss_weights(&[0.5, 0.6]).is_err() && tune().loss_weights(&[1.0]).is_err());
    assert!(tune().outer_rate(f64::INFINITY).is_err());
    let per_step = Hyper::learned(0.1, Scope::PerStep);
    assert!(tune().label_smoothing(1.0).is_err() && tune().label_smoothing(f64::NAN).is_err());
    assert!(tune().label_smoothing(per_step).is_err() && tune().label_smoothing(0.0).is_ok());
    assert!(tune().label_smoothing(Hyper::learned(0.0, Scope::Global)).is_err());
    assert!(tune().augmentation("a", 1.1).is_err() && tune().augmentation("a", f64::NAN).is_err());
    assert!(tune().augmentation("a", per_step).is_err() && tune().augmentation("a", 1.0).is_ok());
    assert!(
        tune().objective("a", &[], Domain::Real).is_err() && tune().objective("a", &[0.0], Domain::Positive).is_err()
    );
    let (net, train, validation) = small();
    let run = |tune: Tune, train: &[Examples], validation: &[Examples], trials| {
        tune.run(&net, train.to_vec(), validation.to_vec(), Net::loss, Net::loss, trials).map(drop)
    };
    let error = run(Tune::new(2, 0.1).unwrap(), &train, &validation, 1).unwrap_err().to_string();
    assert!(error.contains("learned hyper-parameters"), "{error}");
    assert!(run(tune(), &[], &validation, 1).is_err() && run(tune(), &train, &[], 1).is_err());
    assert!(run(tune(), &train, &validation, 0).is_err());
    let error = run(tune().loss_weights(&[0.5, 0.5]).unwrap(), &train, &validation, 1).unwrap_err().to_string();
    assert!(error.contains("training losses"), "{error}");
    // Learned, but read by nobody; read, but given by nobody; a name of the update's.
    let unread = tune().label_smoothing(Hyper::learned(0.1, Scope::Global)).unwrap();
    let error = run(unread, &train, &validation, 1).unwrap_err();
    assert!(matches!(&error, Error::Detached { leaf, .. } if leaf == "label_smoothing"), "{error}");
    let reads = |net: &Net, batch: &Examples, learned: &Learned<'_>| net.loss(batch) * learned.value("heat").unwrap();
    let error = tune().run_with(&net, train.clone(), validation.clone(), reads, Net::loss, 1).unwrap_err().to_string();
    assert!(error.contains("heat"), "{error}");
    let taken = tune().objective("learning_rate", &[1.0], Domain::Real).unwrap();
    assert!(run(taken, &train, &validation, 1).is_err());
    // Nothing finite at the start is an error; later it is an outcome.
    let wild = Tune::new(60, Hyper::learned(1e30, Scope::Global)).unwrap().weight_decay(1.0).unwrap();
    assert!(matches!(run(wild, &train, &validation, 1), Err(Error::NotFinite { .. })));
}

#[test]
fn what_is_not_finite_goes_half_way_back() {
    let (net, train, validation) = small();
    let tune = Tune::new(40, Hyper::learned(0.5, Scope::Global)).unwrap().weight_decay(0.1).unwrap();
    let tuner = tune.prepare(&net, train, validation, Net::loss, Net::loss).unwrap();
    let mut state = tuner.step(tuner.start()).unwrap();
    let best = state.best.clone();
    state.raw = vec![80.0];
    let next = tuner.step(state).unwrap();
    assert!(next.path[1].loss.is_nan() && next.path[1].gradient_norm.is_nan() && next.best == best);
    assert_eq!(next.raw, [0.5 * (80.0 + best[0])]);
}

/// Of two losses one teaches labels that are shifted by one.
#[test]
fn the_weight_of_a_loss_that_misleads_falls() {
    let digits = Digits::load();
    let wrong: Vec<usize> = digits.labels[..100].iter().map(|l| (l + 1) % 10).collect();
    let train = (digits.examples(0..100), digits.labelled(0..100, &wrong));
    let losses =
        |net: &Net, (right, wrong): &(Examples, Examples)| Tensor::cat(vec![net.loss(right), net.loss(wrong)], 0);
    let tune = Tune::new(20, 0.5).and_then(|tune| tune.momentum(0.9)).and_then(|tune| tune.loss_weights(&[0.5, 0.5]));
    let tune = tune.unwrap().outer_rate(0.3).unwrap();
    let net = Net::new(3, 64, 8, 10);
    let tuned = tune.run(&net, vec![train], vec![digits.examples(100..300)], losses, Net::loss, 12).unwrap();
    let weights = &tuned.values["loss_weights"];
    assert!(weights[0] > 0.9 && (weights[0] + weights[1] - 1.0).abs() < 1e-6, "{weights:?}");
    assert!(tuned.loss < 0.8 * tuned.path[0].loss, "{} {}", tuned.loss, tuned.path[0].loss);
}

/// Learning rate, momentum and weight decay, from values that are all too small, against the best of 60 runs.
#[test]
fn digits_are_tuned_as_well_as_by_a_grid() {
    let digits = Digits::load();
    let (train, validation, test) = (digits.examples(0..150), digits.examples(150..600), digits.examples(600..1797));
    let net = Net::new(3, 64, 12, 10);
    let with = |rate: f64, momentum: f64, decay: f64| {
        Tune::new(30, Hyper::learned(rate, Scope::Global))
            .and_then(|tune| tune.momentum(Hyper::learned(momentum, Scope::Global)))
            .and_then(|tune| tune.weight_decay(Hyper::learned(decay, Scope::Global)))
            .and_then(|tune| tune.outer_rate(0.25))
            .unwrap()
    };
    let tuner =
        |tune: Tune| tune.prepare(&net, vec![train.clone()], vec![validation.clone()], Net::loss, Net::loss).unwrap();
    let start = tuner(with(0.05, 0.3, 1e-4));
    let mut state = start.start();
    for _ in 0..30 {
        state = start.step(state).unwrap();
    }
    let tuned = start.finish(state).unwrap();

    let mut grid = (f64::INFINITY, [0.0; 3]);
    for rate in [0.1, 0.3, 1.0, 3.0] {
        for momentum in [0.01, 0.5, 0.8, 0.9, 0.95] {
            for decay in [1e-4, 1e-3, 1e-2] {
                let domains = [Domain::Positive, Domain::unit(), Domain::Positive];
                let values = [rate, momentum, decay];
                let raw: Vec<f64> = domains.iter().zip(values).flat_map(|(d, v)| d.to_raw(&[v]).unwrap()).collect();
                let loss = start.loss(&raw).unwrap();
                if loss < grid.0 {
                    grid = (loss, values);
                }
            }
        }
    }
    let right = |net: Net| accuracy(net.forward(test.0.clone()), &test.1);
    let untuned = start.finish(start.start()).unwrap().model(net.clone()).unwrap();
    let (before, accuracy) = (right(untuned), right(tuned.model(net.clone()).unwrap()));
    println!(
        "validation loss: start {:.4}, learned {:.4} with {:?}, best of 60 {:.4} with {:?}; test accuracy {before:.4} to {accuracy:.4}",
        tuned.path[0].loss, tuned.loss, tuned.values, grid.0, grid.1
    );
    assert!(tuned.loss < 0.5 * tuned.path[0].loss && tuned.loss < 1.03 * grid.0);
    assert!(accuracy > before + 0.2);
    assert!(tuned.path.iter().all(|trial| trial.certificate.hessian_vector_products == 30 || trial.loss.is_nan()));
}
