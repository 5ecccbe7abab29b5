//! Laws, and real digits.

use burn::tensor::{Int, Tensor, TensorData};
use core_tensor::{Random, Tree};

use super::*;
use crate::single_loop::Alternating;
use crate::testing::*;
use crate::update::{Momentum, Setting, Sgd};
use crate::{Batches, ConjugateGradient, Error, Implicit, Loop, LoopState, Unroll, diagnose};

/// A softmax regression from zero, or any start.
fn linear() -> Tree {
    let weight = Tensor::<2>::zeros([64, 10], &device());
    Tree::empty().push("weight", weight).and_then(|z| z.push("bias", Tensor::<1>::zeros([10], &device()))).unwrap()
}

fn logits(z: &Tree, input: Tensor<2>) -> Tensor<2> {
    input.matmul(z.get::<2>("weight").unwrap()) + z.get::<1>("bias").unwrap().unsqueeze_dim::<2>(0)
}

fn losses(z: &Tree, (input, hot): &Examples) -> Tensor<1> {
    cross_entropies(logits(z, input.clone()), hot).squeeze_dim::<1>(1)
}

fn mean(z: &Tree, examples: &Examples) -> Tensor<1> {
    losses(z, examples).mean()
}

fn right(z: &Tree, (input, hot): &Examples) -> f64 {
    accuracy(logits(z, input.clone()), hot)
}

/// Labels of which a share is replaced by one of the nine others, and which those are.
fn corrupted(labels: &[usize], share: f64, seed: u64) -> (Vec<usize>, Vec<bool>) {
    let mut random = Random::new(seed);
    let mut wrong = vec![false; labels.len()];
    let count = (labels.len() as f64 * share) as usize;
    random.permutation(labels.len()).into_iter().take(count).for_each(|i| wrong[i] = true);
    let labels = labels.iter().zip(&wrong);
    let labels = labels.map(|(l, wrong)| (l + if *wrong { 1 + random.below(9) as usize } else { 0 }) % 10).collect();
    (labels, wrong)
}

#[test]
fn wrong_labels_of_digits_are_found() {
    let digits = Digits::load();
    let (labels, wrong) = corrupted(&digits.labels[..400], 0.5, 3);
    let positions: Vec<i64> = (0..400).collect();
    let positions = Tensor::<1, Int>::from_data(TensorData::new(positions, [400]), &device());
    let batches = Batches::new((digits.labelled(0..400, &labels), positions), digits.examples(400..800));
    let test = digits.examples(800..1797);
    let (x, z) = (cleaning::logits(400, &device()).unwrap(), linear());
    let problem = cleaning::problem(
        &x,
        &z,
        &batches,
        |z: &Tree, examples: &Examples, weights| {
            (losses(z, examples) * weights).mean() + z.get::<2>("weight").unwrap().square().sum() * 1e-3
        },
        mean,
    )
    .unwrap();
    let fit = Unroll::new(Momentum::new(0.5, 0.9), 100).unwrap();
    let fitted = |logit: &dyn Fn(usize) -> f32| {
        let values: Vec<f32> = (0..400).map(logit).collect();
        let x = Tree::empty().push("logit", Tensor::<1>::from_data(TensorData::new(values, [400]), &device())).unwrap();
        right(&fit.run(&problem, &x, &z, &batches.inner).unwrap(), &test)
    };
    let implicit = Implicit::new(ConjugateGradient::new(10).unwrap().tolerance(1e-3).unwrap());
    let cleaner = Alternating::new(Momentum::new(0.5, 0.9), 10, implicit, 300.0).unwrap();
    let mut state = LoopState::new(&x, &z);
    for _ in 0..60 {
        state = cleaner.step(&problem, state, &batches).unwrap();
    }
    let weights = cleaning::weights(&state.x).unwrap();
    let found = cleaning::judge(&cleaning::suspects(&state.x, 0.5).unwrap(), &wrong).unwrap();
    let cleaned = right(&fit.run(&problem, &state.x, &z, &batches.inner).unwrap(), &test);
    let (all, oracle) = (fitted(&|_| 4.0), fitted(&|i| if wrong[i] { -8.0 } else { 4.0 }));
    println!("accuracy: all {all:.3}, cleaned {cleaned:.3}, oracle {oracle:.3}; {found:?}");
    assert!(weights.len() == 400 && found.f1 > 0.8, "{found:?}");
    assert!(cleaned > all + 0.02 && cleaned > oracle - 0.05, "{all} {cleaned} {oracle}");
}

#[test]
fn judgements_by_hand() {
    let wrong = [true, true, false, false, true];
    let found = cleaning::judge(&[0, 2], &wrong).unwrap();
    assert_eq!((found.precision, found.recall), (0.5, 1.0 / 3.0));
    assert!((found.f1 - 0.4).abs() < 1e-15);
    assert_eq!(cleaning::judge(&[], &[false]).unwrap().f1, 1.0);
    assert_eq!(cleaning::judge(&[0], &[false, true]).unwrap().f1, 0.0);
    assert!(cleaning::judge(&[5], &wrong).is_err() && cleaning::logits(0, &device()).is_err());
    let x = cleaning::logits(3, &device()).unwrap();
    assert_eq!(cleaning::weights(&x).unwrap(), [0.5; 3]);
    assert_eq!(cleaning::suspects(&x, 0.6).unwrap(), [0, 1, 2]);
    assert!(cleaning::suspects(&x, 1.0).is_err() && cleaning::suspects(&x, f64::NAN).is_err());
    assert!(cleaning::weights(&linear()).is_err());
}

/// `g = mean V(L)·L` with `Lᵢ = ½(z − dᵢ)²` in f64, at a point where the losses differ.
#[test]
fn the_virtual_step_is_differentiated_exactly() {
    let mut random = Random::new(2);
    let net = Tree::empty()
        .push("hidden.weight", normal(&mut random, [1, 6]))
        .and_then(|x| x.push("hidden.bias", normal(&mut random, [6])))
        .and_then(|x| x.push("output.weight", normal(&mut random, [6, 1])))
        .and_then(|x| x.push("output.bias", normal(&mut random, [1])))
        .unwrap();
    let (z, data) = (leaf("z", &[0.3]), tensor([4], vec![1.0, -2.0, 0.5, 3.0]));
    let batches = Batches::new(data.clone(), data);
    let loss = |z: &Tree, d: &Tensor<1>| (d.clone() - z.get::<1>("z").unwrap()).square() * 0.5;
    let meta = move |z: &Tree, d: &Tensor<1>| (loss(z, d) * d.clone()).mean();
    let method = MetaWeightNet::new((0.4, 1.0), (&net, &z), &batches, loss, meta).unwrap();
    let d = [1.0, -2.0, 0.5, 3.0];
    let at: Vec<f64> = d.iter().map(|d| 0.5 * (d - 0.3) * (d - 0.3)).collect();
    let judged = Batches::new((batches.inner[0].clone(), tensor([4], at.clone())), batches.outer[0].clone());
    let unroll = Unroll::new(Sgd::new(0.4), 1).unwrap();
    let found = diagnose(&unroll, method.problem(), (&net, &z), &judged, (3, 1e-5, 1)).unwrap();
    assert!(found.error < 1e-7 && found.hypergradient.gradient.norm().value() > 1e-3, "{:e}", found.error);
    // A step is that hypergradient, then the mean of V(Lᵢ)∇Lᵢ with the new net.
    let next = method.step(LoopState::new(&net, &z), &batches).unwrap();
    core_tensor::testing::assert_close(&next.x, &net.clone().sub(&found.hypergradient.gradient).unwrap(), 1e-13);
    let v = method.weights(&next.x, &z, &batches.inner[0]).unwrap().into_data().iter::<f64>().collect::<Vec<_>>();
    let moved: f64 = d.iter().zip(&v).map(|(d, v)| 0.3 - 0.4 * v * (0.3 - d)).sum::<f64>() / 4.0;
    assert!((next.z.sum().value() - moved).abs() < 1e-13);
    let make = |rates| MetaWeightNet::new(rates, (&net, &z), &batches, loss, meta).err();
    assert!(make((0.0, 1.0)).is_some() && make((1.0, f64::NAN)).is_some() && make((1.0, 1.0)).is_none());
    let empty = Batches { inner: vec![], outer: batches.outer.clone() };
    assert!(MetaWeightNet::new((1.0, 1.0), (&net, &z), &empty, loss, meta).is_err());
    assert!(meta_weight_net::weight_net(0, 1, &device()).is_err());
    assert!(MetaWeightNet::new((1.0, 1.0), (&z, &z), &batches, loss, meta).is_err());
}

#[test]
fn a_weight_net_learns_to_distrust_large_losses() {
    let digits = Digits::load();
    let (labels, wrong) = corrupted(&digits.labels[..400], 0.4, 5);
    let batches = Batches::new(digits.labelled(0..400, &labels), digits.examples(400..600));
    let net = meta_weight_net::weight_net(20, 1, &device()).unwrap();
    let method = MetaWeightNet::new((1.0, 3.0), (&net, &linear()), &batches, losses, mean).unwrap();
    let mut state = LoopState::new(&net, &linear());
    // A model that has begun to learn the wrong labels by heart.
    let none = Tensor::<1>::zeros([400], &device());
    let judged = [(batches.inner[0].clone(), none)];
    for _ in 0..200 {
        let gradient = method.problem().inner_gradient(&state.x, &state.z, &judged).unwrap();
        state.z = state.z.axpy(-2.0, &gradient.z).unwrap();
    }
    for _ in 0..200 {
        state = method.step(state, &batches).unwrap();
    }
    let weights = |net: &Tree, z: &Tree| -> Vec<f64> {
        method.weights(net, z, &batches.inner[0]).unwrap().into_data().iter::<f64>().collect()
    };
    let of = |weights: &[f64], bad: bool| {
        let all: Vec<f64> = weights.iter().zip(&wrong).filter(|(_, w)| **w == bad).map(|(v, _)| *v).collect();
        all.iter().sum::<f64>() / all.len() as f64
    };
    let (before, after) = (weights(&net, &state.z), weights(&state.x, &state.z));
    let test = digits.examples(600..1797);
    println!(
        "mean weight of right and wrong labels: {:.3} {:.3}, before {:.3} {:.3}; accuracy {:.3}",
        of(&after, false),
        of(&after, true),
        of(&before, false),
        of(&before, true),
        right(&state.z, &test)
    );
    assert!(of(&after, false) > 1.5 * of(&after, true));
    assert!(of(&before, false) < 1.5 * of(&before, true));
}

#[test]
fn distillation_is_differentiated_exactly() {
    let mut random = Random::new(4);
    let x = Distillation::variable(normal(&mut random, [3, 2]), 0.3).unwrap();
    let z = leaf("w", &[0.1, -0.2]);
    let (labels, real) = (normal(&mut random, [3, 1]), normal(&mut random, [5, 3]));
    let batches = Batches::new(labels, real);
    let fit = |z: &Tree, input: Tensor<2>, target: Tensor<2>| {
        (input.matmul(z.get::<1>("w").unwrap().unsqueeze_dim::<2>(1)).tanh() - target).square().mean()
    };
    let problem = Distillation::problem(
        &x,
        &z,
        &batches,
        move |z: &Tree, examples, labels: &Tensor<2>| fit(z, examples, labels.clone()),
        move |z: &Tree, real: &Tensor<2>| fit(z, real.clone().slice([0..5, 0..2]), real.clone().slice([0..5, 2..3])),
    )
    .unwrap();
    let unroll = Unroll::new(Sgd::new(Setting::leaf("log_rate").exp()), 4).unwrap();
    let found = diagnose(&unroll, &problem, (&x, &z), &batches, (3, 1e-5, 1)).unwrap();
    assert!(found.error < 1e-7 && found.slopes.iter().any(|(s, _)| s.abs() > 1e-3), "{:e}", found.error);
    assert!((Distillation::learning_rate(&x).unwrap() - 0.3).abs() < 1e-15);
    assert!(Distillation::new(0, 1.0).is_err() && Distillation::new(1, 0.0).is_err());
    assert!(Distillation::new(1, f64::NAN).is_err() && Distillation::examples(&z).is_err());
    assert!(matches!(Distillation::variable(normal(&mut random, [3, 2]), 0.0), Err(Error::Core(_))));
}

#[test]
fn ten_digits_are_enough() {
    let digits = Digits::load();
    let train = digits.examples(0..600);
    let test = digits.examples(600..1797);
    // One real digit a class to start from.
    let first: Vec<usize> = (0..10).map(|c| digits.labels.iter().position(|l| *l == c).unwrap()).collect();
    let pixels: Vec<f32> = first.iter().flat_map(|i| digits.pixels[i * 64..(i + 1) * 64].to_vec()).collect();
    let x = Distillation::variable(Tensor::from_data(TensorData::new(pixels, [10, 64]), &device()), 0.5).unwrap();
    let labels = Tensor::<2>::eye(10, &device());
    let batches = Batches::new(labels, train);
    let problem = Distillation::problem(
        &x,
        &linear(),
        &batches,
        |z: &Tree, examples, labels: &Tensor<2>| mean(z, &(examples, labels.clone())),
        mean,
    )
    .unwrap();
    let method = Distillation::new(10, 0.02).unwrap();
    let taught = |x: &Tree| right(&method.train(&problem, x, &linear(), &batches.inner).unwrap(), &test);
    let mut state = LoopState::new(&x, &linear());
    for _ in 0..120 {
        state = method.step(&problem, state, &batches).unwrap();
    }
    let (real, distilled) = (taught(&x), taught(&state.x));
    println!("accuracy from ten examples: real {real:.3}, distilled {distilled:.3}");
    assert!(distilled > real + 0.1 && distilled > 0.8, "{real} {distilled}");
    // The start stays, and the loop resumes bit for bit.
    core_tensor::testing::assert_same_bits(&state.z, &linear());
    let resumed = LoopState::load(state.save()).unwrap();
    let (one, two) =
        (method.step(&problem, state, &batches).unwrap(), method.step(&problem, resumed, &batches).unwrap());
    core_tensor::testing::assert_same_bits(&one.x, &two.x);
}
