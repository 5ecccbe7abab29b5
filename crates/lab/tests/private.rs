//! Differentially private training on real images: the embedded digits.

#![cfg(feature = "flex")]
#![forbid(unsafe_code)]

use burn::nn::{Linear, LinearConfig};
use burn::optim::SgdConfig;
use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Int, Tensor, TensorData};
use clipping::DpSgd;
use clipping::accountant::Accountant;
use clipping::per_sample::{Adaptive, Flat, SampleClip};
use core_tensor::{Program, Tree};
use lab::data::{Images, digits};

type Labelled = (Tensor<2>, Tensor<1, Int>);

fn rows(images: &Images, indices: &[usize]) -> Labelled {
    let device = Device::flex();
    let ink = f32::from(images.ink);
    let pixels: Vec<f32> = indices.iter().flat_map(|i| images.image(*i)).map(|x| f32::from(*x) / ink).collect();
    let labels: Vec<i64> = indices.iter().map(|i| i64::from(images.labels[*i])).collect();
    let (n, size) = (indices.len(), images.height * images.width);
    let x = Tensor::from_data(TensorData::new(pixels, [n, size]), &device);
    (x, Tensor::from_data(TensorData::new(labels, [n]), &device))
}

fn losses(model: &Linear, (x, y): &Labelled) -> Tensor<1> {
    let scores = log_softmax(model.forward(x.clone()), 1);
    scores.gather(1, y.clone().unsqueeze_dim::<2>(1)).squeeze_dim::<1>(1).neg()
}

fn accuracy(model: &Linear, images: &Images) -> f64 {
    let (x, y) = rows(images, &(0..images.len()).collect::<Vec<_>>());
    let x = Tensor::from_inner(x);
    let right = model.forward(x).inner().argmax(1).squeeze_dim::<1>(1).equal(y).int().sum();
    right.into_data().iter::<f64>().next().expect("one number") / images.len() as f64
}

/// Trains until the budget is spent; the test accuracy and the steps taken.
fn train(mut dp: DpSgd, lr: f64) -> (f64, u64) {
    let data = digits::load().expect("the embedded digits");
    let mut model = LinearConfig::new(64, 10).init(&Device::flex().autodiff());
    let mut optim = SgdConfig::new().init();
    let program = Program::record_first_order(&model, &rows(&data.train, &[0, 1]), losses).unwrap();
    while let Some(step) = dp.step(&program, &Tree::from_module(&model), |i| rows(&data.train, i)).unwrap() {
        model = optim.step(lr, model, step.gradient.into_params().unwrap());
    }
    let epsilon = dp.epsilon().unwrap();
    assert!(epsilon <= 3.0 && epsilon > 2.9, "the budget is used and kept: {epsilon}");
    assert!(dp.epsilon_by(Accountant::Rdp).unwrap() > epsilon, "Rényi's bound is looser");
    (accuracy(&model, &data.test), dp.steps())
}

fn budget(rule: impl SampleClip + 'static) -> DpSgd {
    let examples = digits::load().expect("the embedded digits").train.len();
    DpSgd::for_budget(rule, 3.0, 1e-4, 120, examples, 256.0).unwrap().seed(5).physical_batch(128).unwrap()
}

#[test]
fn digits_are_learnt_within_a_budget() {
    let (flat, steps) = train(budget(Flat::new(1.0).unwrap()), 2.0);
    assert!((120..126).contains(&steps), "{steps}");
    assert!(flat > 0.85, "{flat}");
    // From a limit that is far too high: it comes down by itself.
    let (adaptive, _) = train(budget(Adaptive::new(0.5, 0.2, 50.0, 12.8).unwrap()), 2.0);
    assert!(adaptive > 0.7, "{adaptive}");
    println!("test accuracy at ε = 3: flat {flat:.3}, adaptive {adaptive:.3}");
}
