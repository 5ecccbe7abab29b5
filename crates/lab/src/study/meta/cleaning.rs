//! Wrong labels, found by the loss on a small clean set.

use ::bilevel::data::cleaning::{self, Judgement};
use ::bilevel::single_loop::Alternating;
use ::bilevel::update::Momentum;
use ::bilevel::{Batches, ConjugateGradient, Implicit, Loop, LoopState, Unroll};
use burn::tensor::{Device, Int, Tensor, TensorData};
use core_tensor::{Random, Tree};
use serde::Serialize;

use super::digits::{Digits, Examples, PIXELS, accuracy, cross_entropies, layer, layers, mean_and_error};
use super::{percent, percent_with_error};
use crate::data::CLASSES;
use crate::error::Result;
use crate::report::plot::{Line, Plot, fixed};
use crate::study::toolkit::{host_device, parallel};
use crate::study::{Part, Setting};

/// Examples with labels that may be wrong, and clean ones.
const TRAIN: usize = 800;
const CLEAN: usize = 100;
const SHARES: [f64; 4] = [0.1, 0.3, 0.5, 0.7];
/// Of those the one that the answer is about.
const HALF: usize = 2;
const SEEDS: usize = 4;
const OUTER: usize = 80;
const INNER: usize = 10;
const OUTER_RATE: f64 = 500.0;
const DECAY: f64 = 1e-3;
/// Of the learned weights that are shown.
const BINS: usize = 20;
const THRESHOLD: f64 = 0.5;

pub const UNITS: u64 = (SHARES.len() * SEEDS) as u64;

/// What is trained on.
pub const KINDS: [(&str, &str); 4] = [
    ("only right labels (oracle)", "s2"),
    ("learned weights", "s1"),
    ("the clean set alone", "s3"),
    ("all labels", "s4"),
];

#[derive(Clone, Debug, Serialize)]
pub struct Share {
    /// Share of wrong labels.
    pub wrong: f64,
    /// Test accuracy with its standard error over seeds, in the order of the kinds.
    pub accuracies: Vec<(f64, f64)>,
    pub precision: (f64, f64),
    pub recall: (f64, f64),
    pub f1: (f64, f64),
    /// Share of right and of wrong labels whose weight is in each bin.
    pub histogram: [Vec<f64>; 2],
}

#[derive(Clone, Debug, Serialize)]
pub struct Cleaning {
    pub shares: Vec<Share>,
}

/// One seed.
struct Found {
    accuracies: [f64; 4],
    judgement: Judgement,
    weights: Vec<(f64, bool)>,
}

/// Labels of which a share is replaced by one of the nine others, and which those are.
fn corrupt(labels: &[usize], share: f64, mut random: Random) -> (Vec<usize>, Vec<bool>) {
    let mut wrong = vec![false; labels.len()];
    let count = (labels.len() as f64 * share).round() as usize;
    random.permutation(labels.len()).into_iter().take(count).for_each(|i| wrong[i] = true);
    let labels = labels.iter().zip(&wrong).map(|(label, wrong)| match wrong {
        true => (label + 1 + random.below(CLASSES as u64 - 1) as usize) % CLASSES,
        false => *label,
    });
    (labels.collect(), wrong)
}

fn losses(z: &Tree, (inputs, hot): &Examples) -> Tensor<1> {
    cross_entropies(layer(z, 0, inputs.clone()), hot)
}

/// The weighted loss, with a size of the weights that makes its minimum strict.
fn training(z: &Tree, examples: &Examples, weights: Tensor<1>) -> Tensor<1> {
    let size = z.get::<2>("w0").expect("the layer's weight").square().sum();
    (losses(z, examples) * weights).mean() + size * DECAY
}

fn validation(z: &Tree, examples: &Examples) -> Tensor<1> {
    losses(z, examples).mean()
}

fn positions(count: usize, device: &Device) -> Tensor<1, Int> {
    let positions: Vec<i64> = (0..count as i64).collect();
    Tensor::from_data(TensorData::new(positions, [count]), device)
}

fn logits(weights: impl Iterator<Item = f32>, device: &Device) -> Result<Tree> {
    let values: Vec<f32> = weights.collect();
    let count = values.len();
    Ok(Tree::empty().push("logit", Tensor::<1>::from_data(TensorData::new(values, [count]), device))?)
}

fn learn(share: f64, random: &Random, device: &Device) -> Result<Found> {
    let digits = Digits::load(random.fork("digits"), device)?;
    let (labels, wrong) = corrupt(&digits.labels(0..TRAIN), share, random.fork("labels"));
    let clean = digits.part(TRAIN..TRAIN + CLEAN);
    let batches = Batches::new((digits.labelled(0..TRAIN, &labels), positions(TRAIN, device)), clean.clone());
    let test = digits.test();
    let (x, z) =
        (cleaning::logits(TRAIN, device)?, layers(&[PIXELS, CLASSES], random.fork("start"), device)?.scale(0.0));
    let problem = cleaning::problem(&x, &z, &batches, training, validation)?;
    let fit = Unroll::new(Momentum::new(0.5, 0.9), 150)?;
    let right = |z: &Tree| accuracy(layer(z, 0, test.0.clone()), &test.1);
    let fitted = |x: &Tree| Ok::<f64, crate::error::Error>(right(&fit.run(&problem, x, &z, &batches.inner)?));

    let implicit = Implicit::new(ConjugateGradient::new(10)?.tolerance(1e-3)?);
    let cleaner = Alternating::new(Momentum::new(0.5, 0.9), INNER, implicit, OUTER_RATE)?;
    let mut state = LoopState::new(&x, &z);
    for _ in 0..OUTER {
        state = cleaner.step(&problem, state, &batches)?;
    }
    // Weights of nearly one, or nearly nothing, for what is known.
    let all = logits((0..TRAIN).map(|_| 4.0), device)?;
    let oracle = logits(wrong.iter().map(|wrong| if *wrong { -12.0 } else { 4.0 }), device)?;
    // The clean set in the place of the other, all of it counting.
    let few = cleaning::logits(CLEAN, device)?.ones_like().scale(4.0);
    let few_batches = Batches::new((clean.clone(), positions(CLEAN, device)), clean);
    let alone = cleaning::problem(&few, &z, &few_batches, training, validation)?;
    let alone = right(&fit.run(&alone, &few, &z, &few_batches.inner)?);
    let weights = cleaning::weights(&state.x)?;
    Ok(Found {
        accuracies: [fitted(&oracle)?, fitted(&state.x)?, alone, fitted(&all)?],
        judgement: cleaning::judge(&cleaning::suspects(&state.x, THRESHOLD)?, &wrong)?,
        weights: weights.into_iter().zip(wrong).collect(),
    })
}

pub fn run(setting: &Setting<'_>) -> Result<Cleaning> {
    let device = host_device();
    let random = setting.random.fork("cleaning");
    let jobs: Vec<(usize, usize)> = (0..SHARES.len()).flat_map(|share| (0..SEEDS).map(move |s| (share, s))).collect();
    let found = parallel(&jobs, |&(share, seed)| {
        let found = learn(SHARES[share], &random.fork(format!("{seed}")), &device)?;
        setting.progress.unit()?;
        Ok(found)
    })?;
    let shares = SHARES.iter().zip(found.chunks(SEEDS)).map(|(wrong, seeds)| {
        let of = |what: &dyn Fn(&Found) -> f64| mean_and_error(&seeds.iter().map(what).collect::<Vec<_>>());
        let weights: Vec<(f64, bool)> = seeds.iter().flat_map(|found| found.weights.iter().copied()).collect();
        let histogram = [false, true].map(|kind| {
            let mine: Vec<f64> =
                weights.iter().filter(|(_, wrong)| *wrong == kind).map(|(weight, _)| *weight).collect();
            let mut bins = vec![0.0; BINS];
            for weight in &mine {
                bins[((weight * BINS as f64) as usize).min(BINS - 1)] += 1.0 / mine.len() as f64;
            }
            bins
        });
        Share {
            wrong: *wrong,
            accuracies: (0..KINDS.len()).map(|kind| of(&|found| found.accuracies[kind])).collect(),
            precision: of(&|found| found.judgement.precision),
            recall: of(&|found| found.judgement.recall),
            f1: of(&|found| found.judgement.f1),
            histogram,
        }
    });
    Ok(Cleaning { shares: shares.collect() })
}

impl Cleaning {
    /// With half of the labels wrong.
    pub fn half(&self) -> &Share {
        &self.shares[HALF]
    }

    pub fn part(&self) -> Part {
        let half = self.half();
        let lines =
            half.histogram.iter().zip([("right labels", "s2"), ("wrong labels", "s4")]).map(|(bins, (name, class))| {
                let points =
                    bins.iter().enumerate().map(|(bin, share)| ((bin as f64 + 0.5) / BINS as f64, *share)).collect();
                Line::new(name, class, points)
            });
        let histogram = Plot {
            title: "Learned weights, half of the labels wrong",
            x_axis: "weight of an example",
            x_range: (0.0, 1.0),
            y_axis: "share of the examples in each twentieth",
            logarithmic: false,
            lines: lines.collect(),
        };
        let lines = KINDS.iter().enumerate().map(|(kind, (name, class))| {
            let points = self.shares.iter().map(|share| (share.wrong, 100.0 * share.accuracies[kind].0)).collect();
            Line::new(name, class, points)
        });
        let accuracies = Plot {
            title: "Accuracy over wrong labels",
            x_axis: "share of wrong labels",
            x_range: (0.0, 0.8),
            y_axis: "test accuracy, %",
            logarithmic: false,
            lines: lines.collect(),
        };
        let rows = self.shares.iter().map(|share| {
            let mut row = vec![percent(share.wrong)];
            row.extend(share.accuracies.iter().map(|found| percent_with_error(*found)));
            row.extend([share.precision, share.recall, share.f1].map(|found| fixed(found.0, 3)));
            row
        });
        Part {
            title: "Weights for examples with wrong labels",
            text: format!(
                "{TRAIN} digits of which a share has one of the nine other labels, {CLEAN} with right ones, a softmax regression. Each of the {TRAIN} has a weight, ½ at first; \
                 {OUTER} steps of {INNER} steps of training with momentum and a hypergradient of the loss on the {CLEAN} by conjugate gradients move the weights. Then the \
                 regression is trained anew with them. An example below {} counts as found. Mean ± standard error over {SEEDS} draws of digits and labels.",
                fixed(THRESHOLD, 1)
            ),
            figures: vec![histogram.html(), accuracies.html()],
            table: (
                vec![
                    "wrong labels",
                    "only right labels",
                    "learned weights",
                    "the clean set alone",
                    "all labels",
                    "precision",
                    "recall",
                    "F1",
                ],
                rows.collect(),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_the_labels_becomes_another() {
        let labels: Vec<usize> = (0..200).map(|i| i % 10).collect();
        let (given, wrong) = corrupt(&labels, 0.3, Random::new(4));
        assert_eq!(wrong.iter().filter(|wrong| **wrong).count(), 60);
        for ((given, label), wrong) in given.iter().zip(&labels).zip(wrong) {
            assert!(*given < 10 && (given != label) == wrong);
        }
    }
}
