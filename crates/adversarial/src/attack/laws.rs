//! Laws that attacks keep on models whose every answer is known.

use burn::module::Param;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{Device, Tensor, TensorData};
use proptest::prelude::*;

use super::*;
use crate::{Goals, Objective, Recorded, Status};

/// Logits `[0, w·x + b]`.
fn linear(w: &[f64], b: f64) -> Recorded<Linear, 2> {
    let device = Device::flex();
    let mut model = LinearConfig::new(w.len(), 2).init(&device);
    let weight: Vec<f32> = w.iter().flat_map(|w| [0.0, *w as f32]).collect();
    model.weight = Param::from_tensor(Tensor::from_data(TensorData::new(weight, [w.len(), 2]), &device));
    model.bias = Some(Param::from_tensor(Tensor::from_data([0.0, b as f32], &device)));
    Recorded::new(&model, [w.len()], |model, x| model.forward(x)).unwrap()
}

/// Weights none of which is small, and the margin of a model that the middle of the box is on the wrong side of.
fn slopes() -> impl Strategy<Value = (Vec<f64>, f64)> {
    let weight = (0.3f64..1.0, any::<bool>()).prop_map(|(size, up)| if up { size } else { -size });
    (proptest::collection::vec(weight, 3..7), 0.02f64..0.1)
}

/// The model whose logits of class 1 at the middle of the box are `−margin`.
fn at_middle(w: &[f64], margin: f64) -> (Recorded<Linear, 2>, Tensor<2>) {
    let x = Tensor::<2>::full([1, w.len()], 0.5, &Device::flex());
    (linear(w, -0.5 * w.iter().sum::<f64>() - margin), x)
}

fn nearest(attack: &dyn Attack, norm: Norm, w: &[f64], margin: f64) -> f64 {
    let (classifier, x) = at_middle(w, margin);
    let threat = Threat::new(norm, 1.0).unwrap();
    let found = Engine::new().run(attack, &classifier, threat, Search::Nearest, x, &Goals::untargeted(&[0])).unwrap();
    assert_eq!(found.outcomes[0].status, Status::Broken, "{} {norm:?} {w:?} {margin}", attack.name());
    found.outcomes[0].distance
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// `|f|/‖w‖_q`
    #[test]
    fn on_linear_models_the_distance_is_the_smallest((w, margin) in slopes()) {
        let mut cases: Vec<(Box<dyn Attack>, Norm)> = vec![(Box::new(Ddn::new().steps(200)), Norm::L2)];
        for norm in [Norm::Linf, Norm::L2, Norm::L1] {
            cases.push((Box::new(Fab::new()), norm));
            cases.push((Box::new(Fab::targeted(1)), norm));
            cases.push((Box::new(Fmn::new().steps(200)), norm));
        }
        for (attack, norm) in cases {
            let least = margin / norm.dual().unwrap().of(w.iter().copied());
            let found = nearest(attack.as_ref(), norm, &w, margin);
            prop_assert!(found >= least * (1.0 - 1e-4) && found <= least * (1.0 + 1e-3), "{} {norm:?} {found} {least}", attack.name());
        }
    }

    #[test]
    fn on_linear_models_the_distance_is_the_smallest_and_the_overshoot((w, margin) in slopes()) {
        for norm in [Norm::Linf, Norm::L2] {
            let least = 1.02 * margin / norm.dual().unwrap().of(w.iter().copied());
            let found = nearest(&DeepFool::new(), norm, &w, margin);
            prop_assert!((found / least - 1.0).abs() < 1e-3, "{norm:?} {found} {least}");
        }
    }

    /// The fewest elements: those of largest weight to the bounds, until the margin is used up.
    #[test]
    fn on_linear_models_the_fewest_elements_are_found((w, margin) in slopes(), more in 1.0f64..6.0) {
        let margin = margin * more;
        let mut gains: Vec<f64> = w.iter().map(|w| w.abs() / 2.0).collect();
        gains.sort_by(|a, b| b.total_cmp(a));
        let mut sum = 0.0;
        let least = gains.iter().take_while(|gain| { let before = sum; sum += **gain; before <= margin }).count();
        for attack in [&Fmn::new() as &dyn Attack, &SigmaZero::new()] {
            let found = nearest(attack, Norm::L0, &w, margin);
            prop_assert!(found >= least as f64 && found <= least as f64 + 1.0, "{} {found} {least}", attack.name());
        }
    }

    #[test]
    fn the_slow_attacks_come_near_the_smallest_distance((w, margin) in slopes()) {
        let cases = [(CarliniWagner::new(), Norm::L2, 0.01), (CarliniWagner::new().rate(0.001), Norm::Linf, 0.05)];
        for (attack, norm, slack) in cases {
            let least = margin / norm.dual().unwrap().of(w.iter().copied());
            let found = nearest(&attack, norm, &w, margin);
            prop_assert!(found >= least * (1.0 - 1e-4) && found <= least * (1.0 + slack), "{norm:?} {found} {least}");
        }
    }

    /// The elastic net's own solution is `δᵢ = (λ|wᵢ| − β)₊/2`, whose `L1` size is above the smallest.
    #[test]
    fn ead_finds_no_more_than_the_elastic_net_allows((w, margin) in slopes()) {
        let beta = 0.01;
        let sizes = |lambda: f64| w.iter().map(move |w| (lambda * w.abs() - beta).max(0.0) / 2.0);
        let reached = |lambda: f64| sizes(lambda).zip(&w).map(|(d, w)| d * w.abs()).sum::<f64>();
        let (mut low, mut high) = (0.0, 10.0);
        for _ in 0..100 {
            let middle = 0.5 * (low + high);
            if reached(middle) < margin { low = middle } else { high = middle }
        }
        let net: f64 = sizes(high).sum();
        let least = margin / Norm::Linf.of(w.iter().copied());
        let found = nearest(&Ead::new().beta(beta), Norm::L1, &w, margin);
        prop_assert!(found >= least * (1.0 - 1e-4) && found <= 1.05 * net, "{found} {least} {net}");
    }

    /// `−f + ε‖w‖_q` where the box is not met, for every attack on a fixed ball.
    #[test]
    fn fixed_ball_attacks_reach_the_worst_loss_of_a_linear_model((w, margin) in slopes(), epsilon in 0.05f64..0.4) {
        let margin = margin + 3.0;
        let (classifier, x) = at_middle(&w, margin);
        let apgd = Apgd::new().objective(Objective::Margin);
        let mut cases: Vec<(Box<dyn Attack>, Norm)> = vec![
            (Box::new(ApgdL1::new().objective(Objective::Margin)), Norm::L1),
            (Box::new(Square::new().queries(3000)), Norm::Linf),
        ];
        for norm in [Norm::Linf, Norm::L2] {
            cases.push((Box::new(apgd), norm));
            cases.push((Box::new(Pgd::new().step_size(4.0).objective(Objective::Margin)), norm));
        }
        for (attack, norm) in cases {
            let threat = Threat::new(norm, epsilon).unwrap();
            let goals = Goals::untargeted(&[0]);
            let found = Engine::new().run(attack.as_ref(), &classifier, threat, Search::Worst, x.clone(), &goals).unwrap();
            let worst = epsilon * norm.dual().unwrap().of(w.iter().copied()) - margin;
            let loss = found.outcomes[0].loss;
            prop_assert!(loss <= worst + 1e-5 && loss >= worst - 1e-3 * (worst + margin), "{} {norm:?} {loss} {worst}", attack.name());
        }
    }
}

/// On real digits: everything handed back is inside, minimum distances are alike, and APGD breaks no less than PGD.
#[test]
fn on_digits_the_attacks_agree() {
    let classifier = crate::digits::classifier();
    let (x, y) = crate::digits::load().1.first(100);
    let goals = Goals::untargeted(&y);
    let l2 = Threat::new(Norm::L2, 1.0).unwrap();
    let median = |attack: &dyn Attack| {
        let found = Engine::new().run(attack, classifier, l2, Search::Nearest, x.clone(), &goals).unwrap();
        let mut distances: Vec<f64> =
            found.outcomes.iter().map(|o| if o.reached() { o.distance } else { f64::INFINITY }).collect();
        distances.sort_by(f64::total_cmp);
        distances[50]
    };
    let attacks: [(&str, Box<dyn Attack>); 5] = [
        ("C&W", Box::new(CarliniWagner::new().steps(200))),
        ("FAB-T", Box::new(Fab::targeted(9).steps(40))),
        ("DDN", Box::new(Ddn::new().steps(200))),
        ("FMN", Box::new(Fmn::new().steps(200))),
        ("DeepFool", Box::new(DeepFool::new())),
    ];
    let medians: Vec<(&str, f64)> = attacks.iter().map(|(name, attack)| (*name, median(attack.as_ref()))).collect();
    println!("{medians:?}");
    let best = medians.iter().map(|(_, median)| *median).fold(f64::INFINITY, f64::min);
    for (name, median) in &medians {
        // C&W climbs the margin, which keeps to the class it first meets.
        let slack = match *name {
            "DeepFool" => 1.25,
            "C&W" => 1.06,
            _ => 1.02,
        };
        assert!(*median <= slack * best, "{medians:?}");
    }

    let ball = Threat::new(Norm::Linf, 0.08).unwrap();
    let standing = |attack: &dyn Attack| {
        Engine::new().run(attack, classifier, ball, Search::First, x.clone(), &goals).unwrap().standing()
    };
    let (pgd, apgd) = (standing(&Pgd::new().steps(50)), standing(&Apgd::new().steps(50)));
    let (dlr, targeted, square) =
        (standing(&Apgd::dlr().steps(50)), standing(&Apgd::targeted(9).steps(50)), standing(&Square::new()));
    println!("standing: PGD {pgd}, APGD {apgd}, DLR {dlr}, T {targeted}, Square {square}");
    assert!(apgd <= pgd + 1 && targeted <= apgd + 1 && square >= targeted);
}

/// Pixels that begin at a bound of the box are not held there.
#[test]
fn pixels_at_the_bounds_move() {
    let classifier = linear(&[1.0, -1.0, 0.5], -0.2);
    let x = Tensor::<2>::from_data([[0.0, 1.0, 0.0]], &Device::flex());
    let threat = Threat::new(Norm::L2, 1.0).unwrap();
    let found = CarliniWagner::new().nearest(&classifier, threat, x, &Goals::untargeted(&[0])).unwrap();
    // f = −1.2 there: the smallest distance is 1.2/‖w‖₂ = 0.8, inside the box.
    assert!((found.outcomes[0].distance - 0.8).abs() < 0.01, "{:?}", found.outcomes[0]);
}

/// On networks with random weights and their own decisions as labels, APGD breaks no fewer than PGD with as many gradients.
#[test]
fn apgd_is_not_weaker_than_pgd_at_equal_gradients() {
    let (x, _) = crate::digits::load().1.first(60);
    for (norm, epsilon) in [(Norm::Linf, 0.05), (Norm::L2, 0.4)] {
        let threat = Threat::new(norm, epsilon).unwrap();
        let (mut pgd, mut apgd, mut all) = (0, 0, 0);
        for seed in 0..6 {
            let classifier = crate::digits::recorded(&crate::digits::Net::new(seed));
            let labels: Vec<usize> = crate::Classifier::logits(&classifier, x.clone())
                .unwrap()
                .argmax(1)
                .into_data()
                .iter::<i64>()
                .map(|label| label as usize)
                .collect();
            let goals = Goals::untargeted(&labels);
            let engine = Engine::new().seed(seed);
            let standing = |attack: &dyn Attack| {
                engine.run(attack, &classifier, threat, Search::First, x.clone(), &goals).unwrap().standing()
            };
            pgd += standing(&Pgd::new().steps(30));
            apgd += standing(&Apgd::new().steps(30));
            all += labels.len();
        }
        println!("{norm:?}: of {all} PGD leaves {pgd}, APGD {apgd}");
        assert!(apgd <= pgd + all / 100, "{norm:?}: PGD leaves {pgd}, APGD {apgd} of {all}");
        assert!(pgd > all / 20 && pgd < all - all / 20, "{norm:?}: {pgd} of {all} says nothing");
    }
}

#[test]
fn what_an_attack_cannot_do_is_named() {
    let (classifier, x) = at_middle(&[1.0, -0.5, 0.7, 0.9], 0.1);
    let refuse = |attack: &dyn Attack, norm: Norm, search: Search| {
        let threat = Threat::new(norm, 1.0).unwrap();
        let run = Engine::new().run(attack, &classifier, threat, search, x.clone(), &Goals::untargeted(&[0]));
        run.unwrap_err().to_string()
    };
    assert!(refuse(&Apgd::new(), Norm::L1, Search::First).starts_with("APGD-CE does not support L1"));
    assert!(refuse(&ApgdL1::new(), Norm::L2, Search::First).starts_with("APGD-L1 does not support L2"));
    assert!(refuse(&Apgd::dlr(), Norm::L2, Search::First).contains("at least 3 classes"));
    assert!(refuse(&Apgd::targeted(9), Norm::L2, Search::First).contains("at least 4 classes"));
    assert!(refuse(&Fab::new(), Norm::L0, Search::Nearest).starts_with("FAB does not support L0"));
    assert!(refuse(&Fab::new().eta(0.9), Norm::L2, Search::Nearest).starts_with("eta = 0.9"));
    assert!(refuse(&Fab::new(), Norm::L2, Search::Worst).contains("the search for the worst loss"));
    assert!(refuse(&Square::new(), Norm::L1, Search::First).starts_with("Square does not support L1"));
    assert!(refuse(&Square::new(), Norm::L2, Search::Nearest).contains("nearest success"));
    assert!(refuse(&Square::new().share(0.0), Norm::L2, Search::First).starts_with("share = 0"));
    assert!(refuse(&Ddn::new(), Norm::Linf, Search::Nearest).starts_with("DDN-100 does not support Linf"));
    assert!(refuse(&Ddn::new().gamma(1.0), Norm::L2, Search::Nearest).starts_with("gamma = 1"));
    assert!(refuse(&CarliniWagner::new(), Norm::L1, Search::Nearest).starts_with("C&W does not support L1"));
    assert!(refuse(&CarliniWagner::new().rate(0.0), Norm::L2, Search::Nearest).starts_with("rate = 0"));
    assert!(refuse(&Ead::new(), Norm::L2, Search::Nearest).starts_with("EAD does not support L2"));
    assert!(refuse(&Ead::new().beta(-1.0), Norm::L1, Search::Nearest).starts_with("beta = -1"));
    assert!(refuse(&SigmaZero::new(), Norm::L1, Search::Nearest).starts_with("σ-zero does not support L1"));
    assert!(refuse(&SigmaZero::new().tau(1.0), Norm::L0, Search::Nearest).starts_with("tau = 1"));
    assert!(refuse(&DeepFool::new().candidates(1), Norm::L2, Search::Nearest).starts_with("candidates = 1"));
    assert!(refuse(&Fmn::new().steps(0), Norm::L2, Search::Nearest).starts_with("steps = 0"));
}

/// A goal with a target and a confidence is reached with that class and that margin.
#[test]
fn targets_and_confidences_are_kept() {
    let classifier = crate::digits::classifier();
    let (x, y) = crate::digits::load().1.first(30);
    let targets: Vec<usize> = y.iter().map(|label| (label + 1) % 10).collect();
    let goals = Goals::targeted(&y, &targets).unwrap().confidence(0.5).unwrap();
    let l2 = Threat::new(Norm::L2, 3.0).unwrap();
    let attacks: [(Box<dyn Attack>, Search); 6] = [
        (Box::new(Apgd::new().steps(60)), Search::First),
        (Box::new(Pgd::new()), Search::First),
        (Box::new(Ddn::new()), Search::Nearest),
        (Box::new(Fmn::new()), Search::Nearest),
        (Box::new(Fab::new()), Search::Nearest),
        (Box::new(DeepFool::new()), Search::Nearest),
    ];
    for (attack, search) in attacks {
        let found = Engine::new().run(attack.as_ref(), classifier, l2, search, x.clone(), &goals).unwrap();
        let reached = found.outcomes.iter().filter(|outcome| outcome.reached()).count();
        for (outcome, target) in found.outcomes.iter().zip(&targets).filter(|(outcome, _)| outcome.reached()) {
            let z = &outcome.logits;
            let other = z.iter().enumerate().filter(|(i, _)| i != target).map(|(_, z)| *z).fold(f32::MIN, f32::max);
            assert!(z[*target] - other >= 0.5, "{}", attack.name());
        }
        assert!(reached >= 20, "{}: {reached} of 30", attack.name());
    }
}
