//! Data hyper-cleaning on real digits: a weight for each training example, learned from a small clean set, finds wrong labels.
//!
//! The experiment of L. Franceschi et al., "Forward and reverse gradient-based hyperparameter optimization", 2017 (arXiv:1703.01785),
//! section 5.1, on the embedded digits.

use bilevel::single_loop::Alternating;
use bilevel::update::Momentum;
use bilevel::{Batches, ConjugateGradient, Implicit, Loop, LoopState, Problem, Unroll};
use burn::tensor::{Device, Tensor, TensorData, activation};
use core_tensor::{Random, Tree};
use lab::data::{Images, digits};

/// Pixels of `[0, 1]` and one-hot labels.
type Examples = (Tensor<2>, Tensor<2>);

fn examples(images: &Images, rows: std::ops::Range<usize>, label: impl Fn(usize) -> u8) -> Examples {
    let device = Device::default();
    let pixels: Vec<f32> =
        rows.clone().flat_map(|i| images.image(i)).map(|p| f32::from(*p) / f32::from(images.ink)).collect();
    let hot: Vec<f32> = rows
        .clone()
        .flat_map(|i| (0..10).map(move |c| (i, c)))
        .map(|(i, c)| f32::from(u8::from(label(i) == c)))
        .collect();
    let n = rows.len();
    let width = pixels.len() / n;
    (
        Tensor::from_data(TensorData::new(pixels, [n, width]), &device),
        Tensor::from_data(TensorData::new(hot, [n, 10]), &device),
    )
}

fn logits(z: &Tree, input: &Tensor<2>) -> Tensor<2> {
    input.clone().matmul(z.get::<2>("weight").unwrap()) + z.get::<1>("bias").unwrap().unsqueeze_dim::<2>(0)
}

/// The cross-entropy of each example.
fn losses(z: &Tree, (input, hot): &Examples) -> Tensor<2> {
    (activation::log_softmax(logits(z, input), 1) * hot.clone()).sum_dim(1).neg()
}

fn accuracy(z: &Tree, (input, hot): &Examples) -> f64 {
    let right = logits(z, input).argmax(1).equal(hot.clone().argmax(1));
    right.float().mean().into_data().iter::<f64>().next().unwrap()
}

#[test]
fn wrong_labels_are_found_by_their_weights() {
    let data = digits::load().unwrap();
    let (train, clean) = (700, 1442);
    // Half of the labels replaced by one of the nine others.
    let mut random = Random::new(3);
    let mut wrong = vec![false; train];
    random.permutation(train).into_iter().take(train / 2).for_each(|i| wrong[i] = true);
    let labels: Vec<u8> = (0..train)
        .map(|i| (data.train.labels[i] + if wrong[i] { 1 + random.below(9) as u8 } else { 0 }) % 10)
        .collect();
    let batches = Batches::new(
        examples(&data.train, 0..train, |i| labels[i]),
        examples(&data.train, train..clean, |i| data.train.labels[i]),
    );
    let test = examples(&data.test, 0..data.test.len(), |i| data.test.labels[i]);

    let device = Device::default();
    let logit = |of: &dyn Fn(usize) -> f32| {
        let values: Vec<f32> = (0..train).map(of).collect();
        Tree::empty().push("logit", Tensor::<1>::from_data(TensorData::new(values, [train]), &device)).unwrap()
    };
    let z = Tree::empty()
        .push("weight", Tensor::<2>::zeros([64, 10], &device))
        .and_then(|z| z.push("bias", Tensor::<1>::zeros([10], &device)))
        .unwrap();
    let x = logit(&|_| 0.0);
    let problem = Problem::from_functions(
        &x,
        &z,
        &batches,
        |x: &Tree, z: &Tree, examples: &Examples| {
            let weight = activation::sigmoid(x.get::<1>("logit").unwrap()).unsqueeze_dim::<2>(1);
            (losses(z, examples) * weight).mean() + z.get::<2>("weight").unwrap().square().sum() * 1e-3
        },
        |_: &Tree, z: &Tree, examples: &Examples| losses(z, examples).mean(),
    )
    .unwrap();
    let fit = Unroll::new(Momentum::new(0.5, 0.9), 300).unwrap();
    let fitted = |x: &Tree| accuracy(&fit.run(&problem, x, &z, &batches.inner).unwrap(), &test);
    let (all, oracle) = (fitted(&logit(&|_| 4.0)), fitted(&logit(&|i| if wrong[i] { -8.0 } else { 4.0 })));

    let implicit = Implicit::new(ConjugateGradient::new(15).unwrap().tolerance(1e-4).unwrap());
    let cleaning = Alternating::new(Momentum::new(0.5, 0.9), 10, implicit, 400.0).unwrap();
    let mut state = LoopState::new(&x, &z);
    for _ in 0..150 {
        state = cleaning.step(&problem, state, &batches).unwrap();
    }
    let cleaned = fitted(&state.x);
    let found: Vec<bool> = state.x.to_data()[0].1.iter::<f64>().map(|logit| logit < 0.0).collect();
    let both = found.iter().zip(&wrong).filter(|(found, wrong)| **found && **wrong).count() as f64;
    let (marked, bad) = (found.iter().filter(|f| **f).count() as f64, wrong.iter().filter(|w| **w).count() as f64);
    let f1 = 2.0 * both / (marked + bad);
    println!(
        "test accuracy: all labels {all:.3}, cleaned {cleaned:.3}, oracle {oracle:.3}; F1 of wrong labels {f1:.3}"
    );
    assert!(cleaned > oracle - 0.03 && cleaned > all + 0.02, "{all} {cleaned} {oracle}");
    assert!(f1 > 0.8, "{f1}");
}
