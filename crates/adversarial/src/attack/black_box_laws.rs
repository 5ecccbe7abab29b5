//! What attacks have to do on models that everything is known about.

use burn::tensor::{Device, Tensor};
use core_tensor::Random;

use super::Attack;
use crate::classifier::{Classifier, Pulled};
use crate::engine::{Attacked, Engine, Goals, Search};
use crate::error::{Error, Result};
use crate::threat::{Norm, Threat};

/// Logits `x·W + b` with `W` of shape `[inputs, classes]`, without gradients.
pub(crate) struct Scores {
    weight: Vec<f32>,
    bias: Vec<f32>,
}

impl Scores {
    /// Logits `[0, w·x + b]`.
    pub fn two(w: &[f32], b: f32) -> Self {
        Self { weight: w.iter().flat_map(|w| [0.0, *w]).collect(), bias: vec![0.0, b] }
    }

    /// Random logits of several classes, equal in the middle of the box.
    pub fn random(inputs: usize, classes: usize, seed: u64) -> Self {
        let weight = Random::new(seed).normal::<1>([inputs * classes], 0.0, 1.0, &Device::flex());
        let weight: Vec<f32> = weight.into_data().iter().collect();
        let bias = (0..classes).map(|c| -0.5 * weight.iter().skip(c).step_by(classes).sum::<f32>()).collect();
        Self { weight, bias }
    }
}

impl Classifier<2> for Scores {
    fn logits(&self, inputs: Tensor<2>) -> Result<Tensor<2>> {
        let device = inputs.device();
        let classes = self.bias.len();
        let weight = Tensor::<1>::from_floats(&self.weight[..], &device).reshape([-1, classes as i32]);
        Ok(inputs.matmul(weight) + Tensor::<1>::from_floats(&self.bias[..], &device).unsqueeze())
    }

    fn pullback(&self, _: Tensor<2>) -> Result<Pulled<'_, 2>> {
        let (attack, supported) = ("a model of scores only".into(), "logits");
        Err(Error::Unsupported { attack, what: "gradients".into(), supported })
    }

    fn device(&self) -> Device {
        Device::flex()
    }
}

/// Weights of shape `[inputs, 2]` of logits `[0, w·x]`.
pub(crate) fn weights(w: &[f32]) -> Tensor<2> {
    let both: Vec<f32> = w.iter().flat_map(|w| [0.0, *w]).collect();
    Tensor::<1>::from_floats(&both[..], &Device::flex()).reshape([w.len(), 2])
}

fn threat(norm: Norm, epsilon: f64) -> Threat {
    Threat::new(norm, epsilon).unwrap()
}

fn rows(x: &Tensor<2>) -> Vec<Vec<f64>> {
    let width = x.dims()[1];
    x.to_data().iter::<f64>().collect::<Vec<_>>().chunks(width).map(<[f64]>::to_vec).collect()
}

const WEIGHTS: [f32; 4] = [1.0, -2.0, 0.5, 0.25];

/// The largest `f` within `ε` is `f(x₀) + ε‖w‖_q`.
pub(crate) fn reaches_the_worst_loss(attack: &dyn Attack, norms: &[Norm], tolerance: f64) {
    let classifier = Scores::two(&WEIGHTS, 0.125);
    for norm in norms {
        let x = Tensor::<2>::full([3, 4], 0.5, &Device::flex());
        let attacked =
            Engine::new().run(attack, &classifier, threat(*norm, 0.1), Search::Worst, x, &Goals::untargeted(&[0; 3]));
        let most = 0.1 * norm.dual().unwrap().of(WEIGHTS.map(f64::from));
        for outcome in attacked.unwrap().outcomes {
            assert!((outcome.loss / most - 1.0).abs() < tolerance, "{norm:?}: {} of {most}", outcome.loss);
        }
    }
}

/// The nearest success is at `|f(x₀)| / ‖w‖_q`, and a ball a little larger holds one.
pub(crate) fn reaches_the_minimum_distance(attack: &dyn Attack, norms: &[Norm], tolerance: f64) {
    let classifier = Scores::two(&WEIGHTS, -0.175);
    for norm in norms {
        let x = Tensor::<2>::full([3, 4], 0.5, &Device::flex());
        let goals = Goals::untargeted(&[0; 3]);
        let least = 0.3 / norm.dual().unwrap().of(WEIGHTS.map(f64::from));
        let run = |search, radius| {
            Engine::new().run(attack, &classifier, threat(*norm, radius), search, x.clone(), &goals).unwrap()
        };
        for outcome in run(Search::Nearest, 0.0).outcomes {
            assert!(outcome.reached(), "{norm:?}");
            assert!(outcome.distance >= least * (1.0 - 1e-4), "{norm:?}: {} is less than {least}", outcome.distance);
            assert!(outcome.distance <= least * (1.0 + tolerance), "{norm:?}: {} of {least}", outcome.distance);
        }
        assert_eq!(run(Search::First, least * 1.2).standing(), 0, "{norm:?}");
        assert_eq!(run(Search::First, least * 0.98).standing(), 3, "{norm:?}");
    }
}

/// Everything handed back is inside ball and box, and what is called broken is.
pub(crate) fn stays_inside(attack: &dyn Attack, norms: &[Norm]) {
    for seed in 0..6 {
        let classifier = Scores::random(6, 4, seed);
        let x = Random::new(seed).uniform([5, 6], 0.0, 1.0, &Device::flex());
        let labels = classes(&classifier, &x);
        for (norm, radius) in norms.iter().flat_map(|norm| [(*norm, 0.05), (*norm, 0.4)]) {
            let attacked = Engine::new()
                .run(attack, &classifier, threat(norm, radius), Search::First, x.clone(), &Goals::untargeted(&labels))
                .unwrap();
            let after = classes(&classifier, &attacked.inputs);
            let both = rows(&x).into_iter().zip(rows(&attacked.inputs));
            for ((i, outcome), (x, y)) in attacked.outcomes.iter().enumerate().zip(both) {
                assert!(norm.of(y.iter().zip(&x).map(|(y, x)| y - x)) <= radius);
                assert!(y.iter().all(|y| (0.0..=1.0).contains(y)));
                assert_eq!(outcome.reached(), after[i] != labels[i]);
            }
        }
    }
}

/// On a linear model, whose goals are all within reach of the whole box, the target is reached.
pub(crate) fn reaches_targets(attack: &dyn Attack, norms: &[Norm]) {
    for norm in norms {
        let attacked = targeted(attack, *norm, Search::First, 1.0);
        assert_eq!(attacked.standing(), 0, "{norm:?}");
    }
}

/// Three examples of one class, each with another class for its target.
pub(crate) fn targeted(attack: &dyn Attack, norm: Norm, search: Search, radius: f64) -> Attacked<2> {
    let classifier = Scores::random(8, 4, 1);
    let x =
        Tensor::<2>::full([3, 8], 0.5, &Device::flex()) + Random::new(2).uniform([1, 8], -0.1, 0.1, &Device::flex());
    let labels = classes(&classifier, &x);
    let targets: Vec<usize> = (0..3).map(|i| (labels[i] + 1 + i) % 4).collect();
    let goals = Goals::targeted(&labels, &targets).unwrap();
    let attacked = Engine::new().run(attack, &classifier, threat(norm, radius), search, x, &goals).unwrap();
    let after = classes(&classifier, &attacked.inputs);
    for (i, outcome) in attacked.outcomes.iter().enumerate() {
        assert_eq!(outcome.reached(), after[i] == targets[i], "{norm:?}");
    }
    attacked
}

/// A model whose gradients cannot be had is attacked all the same.
pub(crate) fn needs_no_gradient(attack: &dyn Attack, norm: Norm) {
    let classifier = Scores::two(&WEIGHTS, -0.175);
    let x = Tensor::<2>::full([2, 4], 0.5, &Device::flex());
    let goals = Goals::untargeted(&[0, 0]);
    let attacked = Engine::new().run(attack, &classifier, threat(norm, 0.3), Search::First, x, &goals).unwrap();
    assert_eq!((attacked.standing(), attacked.gradients()), (0, 0));
}

/// What an attack says when it is asked for something.
pub(crate) fn refusal(attack: &dyn Attack, norm: Norm, search: Search) -> String {
    let x = Tensor::<2>::full([1, 4], 0.5, &Device::flex());
    let classifier = Scores::two(&WEIGHTS, -0.175);
    let radius = if norm == Norm::L0 { 1.0 } else { 0.1 };
    let attacked = Engine::new().run(attack, &classifier, threat(norm, radius), search, x, &Goals::untargeted(&[0]));
    attacked.unwrap_err().to_string()
}

fn classes(classifier: &Scores, x: &Tensor<2>) -> Vec<usize> {
    let labels = classifier.logits(x.clone()).unwrap().argmax(1).into_data();
    labels.iter::<i64>().map(|label| label as usize).collect()
}
