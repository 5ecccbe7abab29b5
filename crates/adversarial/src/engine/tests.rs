//! Laws of the engine, on models small enough to know everything about them.

use std::ops::ControlFlow;

use burn::module::{Module, Param};
use burn::nn::{Dropout, DropoutConfig, Linear, LinearConfig};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Tensor, TensorData};
use core_tensor::{Random, Tree};
use proptest::prelude::*;

use super::*;
use crate::{Fgsm, Norm, Objective, Pgd, Recorded, Taped};

/// A network with dropout, whose weights are drawn from a seed.
#[derive(Module, Debug)]
struct Net {
    first: Linear,
    drop: Dropout,
    second: Linear,
}

impl Net {
    fn new(inputs: usize, classes: usize, seed: u64, device: &Device) -> Self {
        let net = Self {
            first: LinearConfig::new(inputs, 16).init(device),
            drop: DropoutConfig::new(0.5).init(),
            second: LinearConfig::new(16, classes).init(device),
        };
        let weights = Random::new(seed).normal_like(&Tree::from_module(&net), 0.7);
        weights.write_into(net).unwrap()
    }

    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.second.forward(self.drop.forward(relu(self.first.forward(x))))
    }
}

fn inputs(count: usize, width: usize, seed: u64) -> Tensor<2> {
    Random::new(seed).uniform([count, width], 0.0, 1.0, &Device::flex())
}

/// The classes a classifier gives.
fn labels(classifier: &dyn Classifier<2>, x: &Tensor<2>) -> Vec<usize> {
    let labels = classifier.logits(x.clone()).unwrap().argmax(1).into_data();
    labels.iter::<i64>().map(|label| label as usize).collect()
}

fn rows(x: &Tensor<2>) -> Vec<Vec<f32>> {
    let width = x.dims()[1];
    x.to_data().iter::<f32>().collect::<Vec<_>>().chunks(width).map(<[f32]>::to_vec).collect()
}

fn recorded(seed: u64) -> Recorded<Net, 2> {
    Recorded::new(&Net::new(6, 4, seed, &Device::flex().autodiff()), [6], |net, x| net.forward(x)).unwrap()
}

fn threat(norm: Norm, epsilon: f64) -> Threat {
    Threat::new(norm, epsilon).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn everything_handed_back_is_inside_ball_and_box_and_what_is_called_broken_is(
        seed in 0u64..1000, radius in 0.01f64..0.6, norm in 0usize..4,
    ) {
        let norm = [Norm::Linf, Norm::L2, Norm::L1, Norm::L0][norm];
        let threat = threat(norm, if norm == Norm::L0 { 2.0 } else { radius });
        let (classifier, x) = (recorded(seed), inputs(9, 6, seed));
        let goals = Goals::untargeted(&labels(&classifier, &x));
        for search in [Search::First, Search::Worst, Search::Nearest] {
            let attacked = Engine::new().run(&Pgd::new().steps(8), &classifier, threat, search, x.clone(), &goals).unwrap();
            let after = labels(&classifier, &attacked.inputs);
            for (i, outcome) in attacked.outcomes.iter().enumerate() {
                let (x0, y) = (&rows(&x)[i], &rows(&attacked.inputs)[i]);
                let size = norm.of(y.iter().zip(x0).map(|(y, x0)| f64::from(*y) - f64::from(*x0)));
                prop_assert!(y.iter().all(|y| (0.0..=1.0).contains(y)), "{norm:?} {y:?}");
                prop_assert!(search == Search::Nearest || size <= threat.epsilon(), "{norm:?} {size:e}");
                prop_assert_eq!(size, outcome.distance);
                if search != Search::Worst {
                    prop_assert_eq!(outcome.reached(), after[i] != goals.get(i).label());
                }
                prop_assert!(outcome.gradients <= 8 && outcome.queries <= 10);
            }
        }
    }

    /// Order and split of the batch, its size, and how many examples go at a time, change nothing.
    #[test]
    fn results_do_not_depend_on_the_batch(seed in 0u64..1000, batch in 1usize..20, siblings in 1usize..4) {
        let (classifier, x) = (recorded(seed), inputs(13, 6, seed));
        let truth = labels(&classifier, &x);
        let threat = threat(Norm::Linf, 0.08);
        let attack = Pgd::new().steps(5).restarts(3);
        let run = |engine: &Engine, order: &[usize]| {
            let x = Tensor::cat(order.iter().map(|i| x.clone().slice_dim(0, *i..i + 1)).collect(), 0);
            let goals = Goals::untargeted(&order.iter().map(|i| truth[*i]).collect::<Vec<_>>());
            let attacked = engine.run(&attack, &classifier, threat, Search::First, x, &goals).unwrap();
            rows(&attacked.inputs).into_iter().zip(attacked.outcomes).collect::<Vec<_>>()
        };
        let engine = Engine::new().siblings(siblings);
        let all: Vec<usize> = (0..13).collect();
        let whole = run(&engine, &all);
        let order = Random::new(seed).permutation(13);
        for (place, result) in run(&engine.clone().batch(batch), &order).into_iter().enumerate() {
            prop_assert_eq!(&result, &whole[order[place]]);
        }
        for part in [&all[..4], &all[4..]] {
            for (result, i) in run(&engine, part).iter().zip(part) {
                prop_assert_eq!(result, &whole[*i]);
            }
        }
    }

    #[test]
    fn success_is_monotone_in_the_radius(seed in 0u64..1000) {
        let (classifier, x) = (recorded(seed), inputs(10, 6, seed));
        let goals = Goals::untargeted(&labels(&classifier, &x));
        let mut last = 0;
        for radius in [0.02, 0.08, 0.3, 1.0] {
            // On so small a network and with so many steps nothing is left to luck.
            let attack = Pgd::new().steps(40).restarts(3).objective(Objective::Margin);
            let broken = attack.attack(&classifier, threat(Norm::Linf, radius), x.clone(), &goals).unwrap().count(Status::Broken);
            prop_assert!(broken >= last, "{broken} at {radius}, {last} before");
            last = broken;
        }
    }
}

/// Linear logits `[0, w·x + b]`.
fn linear(w: &[f32], b: f32) -> Recorded<Linear, 2> {
    let device = Device::flex();
    let mut model = LinearConfig::new(w.len(), 2).init(&device);
    let weight: Vec<f32> = w.iter().flat_map(|w| [0.0, *w]).collect();
    model.weight = Param::from_tensor(Tensor::from_data(TensorData::new(weight, [w.len(), 2]), &device));
    model.bias = Some(Param::from_tensor(Tensor::from_data([0.0, b], &device)));
    Recorded::new(&model, [w.len()], |model, x| model.forward(x)).unwrap()
}

#[test]
fn on_a_linear_model_one_step_reaches_the_worst_loss() {
    // f(x) = x₁ − 2x₂ + ½, at (½, ½): 0. In the middle of a wide box the worst f within ε is ε‖w‖_q.
    let classifier = linear(&[1.0, -2.0, 0.5], 0.25);
    let x = Tensor::<2>::full([1, 3], 0.5, &Device::flex());
    let goals = Goals::untargeted(&[0]);
    for (norm, radius, most) in [(Norm::Linf, 0.1, 0.35), (Norm::L2, 0.1, 0.1 * 5.25f64.sqrt()), (Norm::L1, 0.1, 0.2)] {
        let attack = Fgsm::new().objective(Objective::Margin);
        let attacked =
            Engine::new().run(&attack, &classifier, threat(norm, radius), Search::Worst, x.clone(), &goals).unwrap();
        assert!((attacked.outcomes[0].loss - most).abs() < 1e-6, "{norm:?} {}", attacked.outcomes[0].loss);
        assert_eq!((attacked.outcomes[0].gradients, attacked.outcomes[0].queries), (1, 3));
    }
    // Of three elements the second counts most, and the box gives it ½.
    let attacked = Fgsm::new().objective(Objective::Margin);
    let attacked = Engine::new().run(&attacked, &classifier, threat(Norm::L0, 1.0), Search::Worst, x, &goals).unwrap();
    assert_eq!(rows(&attacked.inputs)[0], [0.5, 0.0, 0.5]);
}

#[test]
fn an_example_stops_at_its_first_success_and_its_other_runs_are_cancelled() {
    let classifier = linear(&[1.0, 1.0], -0.9);
    let x = Tensor::<2>::from_data([[0.4, 0.4], [0.0, 0.0]], &Device::flex());
    let goals = Goals::untargeted(&[0, 0]);
    let attack = Pgd::new().random_start(false).steps(10).step_size(0.06).restarts(3);
    for siblings in [1, 3] {
        let engine = Engine::new().siblings(siblings);
        let attacked =
            engine.run(&attack, &classifier, threat(Norm::Linf, 0.3), Search::First, x.clone(), &goals).unwrap();
        // 0.8 + 0.12 is beyond 0.9: one step. The gradient at the success itself is not computed.
        let near = &attacked.outcomes[0];
        assert_eq!(
            (near.status, near.gradients, near.queries),
            (Status::Broken, siblings as u64, 1 + 2 * siblings as u64)
        );
        let far = &attacked.outcomes[1];
        assert_eq!((far.status, far.gradients, far.queries), (Status::Standing, 30, 34));
        assert!((far.distance - 0.3).abs() < 1e-6, "the strongest point comes back");
        assert_eq!((attacked.standing(), attacked.robust_accuracy()), (1, 0.5));
    }
}

#[test]
fn a_model_in_training_mode_is_attacked_in_inference_mode() {
    let net = Net::new(6, 4, 3, &Device::flex().autodiff());
    let (recorded, taped) = (recorded(3), Taped::new(&net, |net: &Net, x: Tensor<2>| net.forward(x)));
    let x = inputs(5, 6, 1);
    let goals = Goals::untargeted(&labels(&recorded, &x));
    let run = |classifier: &dyn Classifier<2>| {
        let attack = Pgd::new().steps(5).random_start(false);
        Engine::new().run(&attack, classifier, threat(Norm::L2, 0.2), Search::Worst, x.clone(), &goals).unwrap()
    };
    let (a, b) = (run(&recorded), run(&taped));
    for (a, b) in a.outcomes.iter().zip(&b.outcomes) {
        assert!((a.loss - b.loss).abs() < 1e-4 * (1.0 + a.loss.abs()), "{} {}", a.loss, b.loss);
    }
}

#[test]
fn budgets_end_an_example_and_watching_ends_everything() {
    let classifier = linear(&[1.0, 1.0], -0.9);
    let x = Tensor::<2>::zeros([3, 2], &Device::flex());
    let goals = Goals::untargeted(&[0, 0, 0]);
    let (attack, ball) = (Pgd::new().steps(10).restarts(2), threat(Norm::Linf, 0.1));
    let run = |engine: Engine| engine.run(&attack, &classifier, ball, Search::First, x.clone(), &goals).unwrap();
    assert_eq!(run(Engine::new().gradients(7)).gradients(), 21);
    assert_eq!(run(Engine::new().queries(4)).queries(), 12);
    assert_eq!(run(Engine::new()).gradients(), 60);

    let mut seen = Vec::new();
    let mut watch = |progress: Progress| {
        seen.push(progress.gradients);
        if seen.len() == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let stopped =
        Engine::new().run_watched(&attack, &classifier, ball, Search::First, x.clone(), &goals, &mut watch).unwrap();
    assert_eq!((stopped.count(Status::Unfinished), seen), (3, vec![3, 6, 9]));
}

#[test]
fn what_needs_no_attack_gets_none() {
    let classifier = linear(&[1.0, 1.0], -0.9);
    let x = Tensor::<2>::from_data([[1.0, 1.0], [0.0, 0.0]], &Device::flex());
    let goals = Goals::untargeted(&[0, 0]);
    let attacked = Pgd::new().attack(&classifier, threat(Norm::Linf, 0.0), x.clone(), &goals).unwrap();
    let statuses: Vec<Status> = attacked.outcomes.iter().map(|outcome| outcome.status).collect();
    assert_eq!((statuses, attacked.gradients()), (vec![Status::AlreadyReached, Status::Standing], 0));
    assert_eq!(attacked.inputs.to_data(), x.to_data());
    assert_eq!(attacked.broken().into_data().iter::<bool>().collect::<Vec<_>>(), [true, false]);

    let empty = Pgd::new().attack(
        &classifier,
        threat(Norm::Linf, 0.1),
        Tensor::zeros([0, 2], &Device::flex()),
        &Goals::untargeted(&[]),
    );
    assert!(empty.unwrap().outcomes.is_empty());
}

#[test]
fn logits_that_are_no_numbers_are_an_outcome() {
    let classifier = linear(&[f32::NAN, 1.0], 0.0);
    let x = Tensor::<2>::full([2, 2], 0.5, &Device::flex());
    let attacked =
        Pgd::new().attack(&classifier, threat(Norm::Linf, 0.1), x.clone(), &Goals::untargeted(&[0, 1])).unwrap();
    assert_eq!((attacked.count(Status::NotFinite), attacked.gradients()), (2, 0));
    assert_eq!(attacked.inputs.to_data(), x.to_data());
    // Only beyond the unperturbed input: √(x − ½) of one below ½.
    let device = Device::flex();
    let model = LinearConfig::new(1, 2).init(&device);
    let classifier = Recorded::new(&model, [1], |_, x: Tensor<2>| {
        let root = (x - 0.5).sqrt();
        Tensor::cat(vec![root.zeros_like(), root + 1.0], 1)
    });
    let attacked = Pgd::new().random_start(false).attack(
        &classifier.unwrap(),
        threat(Norm::Linf, 0.2),
        Tensor::full([1, 1], 0.51, &device),
        &Goals::untargeted(&[1]),
    );
    assert_eq!(attacked.unwrap().outcomes[0].status, Status::NotFinite);
}

#[test]
fn misfits_are_named() {
    let classifier = linear(&[1.0, 1.0], -0.9);
    let device = Device::flex();
    let x = Tensor::<2>::zeros([2, 2], &device);
    let ball = threat(Norm::Linf, 0.1);
    let message =
        |attack: Pgd, x: Tensor<2>, goals: &Goals| attack.attack(&classifier, ball, x, goals).unwrap_err().to_string();
    let two = Goals::untargeted(&[0, 1]);
    assert_eq!(
        message(Pgd::new(), x.clone(), &Goals::untargeted(&[0])),
        "goals has shape [1], expected [2], one for each example"
    );
    assert_eq!(
        message(Pgd::new(), x.clone(), &Goals::untargeted(&[0, 2])),
        "the label of example 1 is 2, the model has 2 classes"
    );
    assert!(message(Pgd::new(), x.clone() + 1.5, &two).starts_with("element 0 of example 0 is 1.5"));
    assert!(message(Pgd::new().objective(Objective::Dlr), x.clone(), &two).contains("at least 3 classes"));
    assert!(message(Pgd::new().steps(0), x.clone(), &two).starts_with("steps = 0"));
    assert!(message(Pgd::new().step_size(f64::NAN), x.clone(), &two).starts_with("step_size = NaN"));
    let double = x.clone().cast(burn::tensor::DType::F64);
    assert_eq!(message(Pgd::new(), double, &two), "the inputs are F64, expected F32");
    let targeted = Goals::targeted(&[0, 1], &[1, 1]).unwrap();
    assert!(message(Pgd::new(), x.clone(), &targeted).contains("the target, which is the label, of example 1"));
    let engine = Engine::new().batch(0).run(&Pgd::new(), &classifier, ball, Search::First, x, &two);
    assert_eq!(engine.unwrap_err().to_string(), "batch = 0 is out of range, expected at least 1");
}
