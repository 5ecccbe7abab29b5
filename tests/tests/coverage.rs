//! Walks burn-nn, checks every case, and keeps the book's coverage page up to date.
//!
//! `UPDATE_COVERAGE=1` writes the page; without it the test fails if the page no longer says what is true.

#![cfg(feature = "flex")]
#![forbid(unsafe_code)]

use std::path::PathBuf;

use burn::module::RunningState;
use burn::nn::{BatchNorm, BatchNormConfig, Dropout, DropoutConfig};
use burn::tensor::Tensor;
use core_tensor::{Program, Tree};
use crucible_tests::coverage::{Expect, Outcome, Row, cases, markdown, scalarise, stable};
use crucible_tests::draw::{Draw, flex_f64 as device};

#[test]
fn burn_nn_is_covered_and_the_page_says_so() {
    let cases = cases();
    let mut names: Vec<&str> = cases.iter().map(|case| case.name.as_str()).collect();
    names.sort_unstable();
    names.windows(2).for_each(|pair| assert_ne!(pair[0], pair[1], "two cases of one name"));

    let outcomes: Vec<Outcome> = cases.iter().map(|case| case.run(&device())).collect();
    let rows: Vec<Row<'_>> = cases.iter().zip(&outcomes).map(|(case, outcome)| Row { case, outcome }).collect();
    let page = markdown(&rows);
    println!("{page}");

    let mut wrong = Vec::new();
    for Row { case, outcome } in &rows {
        let complaint = match (&case.expect, outcome) {
            (Expect::Covered, Outcome::Covered(measured)) if measured.complaints.is_empty() => None,
            (Expect::Covered, Outcome::Covered(measured)) => Some(measured.complaints.join("; ")),
            (Expect::Uncovered(parts), Outcome::Uncovered { error }) => {
                let missing: Vec<_> = parts.iter().filter(|part| !error.contains(**part)).collect();
                (!missing.is_empty()).then(|| format!("the error lacks {missing:?}: {error}"))
            }
            (Expect::NoGradientInBurn, Outcome::NoGradientInBurn { .. }) => None,
            (expected, outcome) => Some(format!("expected {expected:?}, got {outcome:?}")),
        };
        wrong.extend(complaint.map(|complaint| format!("{}: {complaint}", case.name)));
    }
    assert!(wrong.is_empty(), "{} of {} cases are wrong:\n{}", wrong.len(), rows.len(), wrong.join("\n"));

    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/src/coverage.md");
    if std::env::var_os("UPDATE_COVERAGE").is_some_and(|value| value == "1") {
        let unfinished = file.with_extension("md.tmp");
        std::fs::write(&unfinished, &page).and_then(|()| std::fs::rename(&unfinished, &file)).expect("writable");
    }
    let committed = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(
        stable(&committed) == stable(&page),
        "docs/src/coverage.md is out of date; run this test with UPDATE_COVERAGE=1. First difference: {:?}",
        stable(&committed)
            .lines()
            .zip(stable(&page).lines())
            .find(|(old, new)| old != new)
            .map(|(old, new)| (old.to_string(), new.to_string()))
    );
}

#[test]
fn dropout_replays_one_mask_until_reseeded() {
    let mut draw = Draw::new(1, &device());
    let input = Tree::empty().push("x", draw.tensor([40, 50], 0.5, 1.5)).unwrap();
    let dropout: Dropout = DropoutConfig::new(0.25).init();
    // The gradient of the sum is the mask itself.
    let layer = core_tensor::Frozen(dropout);
    let program = Program::record_tree(&input, &layer, |input, layer| {
        layer.0.forward(input.get::<2>("x").expect("the leaf")).sum()
    })
    .unwrap();
    let mask = || -> Vec<f64> {
        let gradient = program.value_and_grad(&input, &layer).unwrap().gradient;
        gradient.get::<2>("x").unwrap().into_data().iter::<f64>().collect()
    };
    let first = mask();
    let kept = first.iter().filter(|m| **m != 0.0).count();
    assert!(first.iter().all(|m| *m == 0.0 || (m - 1.0 / 0.75).abs() < 1e-12));
    // 2000 Bernoulli draws: five standard deviations of 19.4.
    assert!((kept as f64 - 1500.0).abs() < 97.0, "{kept} of 2000 kept");
    assert_eq!(first, mask());
    let values: Vec<f64> = input.get::<2>("x").unwrap().into_data().iter::<f64>().collect();
    let expected: f64 = values.iter().zip(&first).map(|(x, m)| x * m).sum();
    let value = program.value(&input, &layer).unwrap().into_data().iter::<f64>().next().unwrap();
    assert!((value - expected).abs() < 1e-9 * expected);
    program.reseed(2);
    let second = mask();
    assert_ne!(first, second);
    program.reseed(0);
    assert_eq!(first, mask(), "a new program has seed 0");
}

#[test]
fn a_program_reads_running_state_but_never_writes_it() {
    let state = |module: &BatchNorm| -> Vec<f64> {
        let both = Tensor::cat(vec![module.running_mean.value_sync(), module.running_var.value_sync()], 0);
        both.into_data().iter::<f64>().collect()
    };
    let mut draw = Draw::new(2, &device());
    let mut model = BatchNormConfig::new(3).init(&draw.autodiff());
    model.running_mean = RunningState::new(draw.tensor([3], -1.0, 1.0));
    let before = state(&model);
    let x = draw.tensor([6, 3], -1.0, 1.0);
    let training = Program::record(&model, &x, |model, x| scalarise(model.forward(x.clone()))).unwrap();
    let point = Tree::from_module(&model);
    let v = draw.direction(&point);
    training.jvp(&point, &x, &v).unwrap();
    assert_eq!(state(&model), before);

    // The same layer in evaluation depends on its state, in training it does not.
    let mut evaluating = model.clone();
    evaluating.training = evaluating.training.with_value(false);
    let program = Program::record(&evaluating, &x, |model, x| scalarise(model.forward(x.clone()))).unwrap();
    let value = |program: &Program<Tensor<2>>| program.value(&point, &x).unwrap().into_data().iter::<f64>().next();
    let (trained, evaluated) = (value(&training), value(&program));
    assert_ne!(trained, evaluated);
    // Later changes of the model do not reach the programs.
    model.running_mean.update(draw.tensor([3], 5.0, 6.0));
    assert_ne!(state(&model), before);
    assert_eq!((value(&training), value(&program)), (trained, evaluated));
}
