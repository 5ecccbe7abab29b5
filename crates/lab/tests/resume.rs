//! A run that was stopped and resumed is the run that never stopped, bit for bit.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use lab::metrics::Metrics;
use lab::recipe::{ModelName, OptimizerName, Override, Recipe, Schedule};
use lab::summary::Ending;
use lab::train::{self, Event, Run};

fn recipe(epochs: u64) -> Recipe {
    let mut recipe = Recipe::default();
    recipe.data.limit = 300;
    recipe.model.channels = 4;
    recipe.model.hidden = 16;
    recipe.train.epochs = epochs;
    recipe.train.batch_size = 64;
    recipe.spectrum.every = 2;
    recipe.spectrum.iterations = 6;
    recipe.spectrum.examples = 64;
    recipe
}

fn start(recipe: &Recipe, folder: &Path) -> Run {
    train::start(recipe, folder, &AtomicBool::new(false), &mut |_| {}).unwrap()
}

fn resume(folder: &Path, epochs: Option<u64>) -> Run {
    let more = epochs.map(|epochs| Override { flag: "--epochs", field: "train.epochs", value: epochs.to_string() });
    train::resume(folder, more.as_slice(), &AtomicBool::new(false), &mut |_| {}).unwrap()
}

/// Starts a run and stops it in the middle of an epoch, after this many steps.
fn start_and_stop(recipe: &Recipe, folder: &Path, after: u64) -> Run {
    let stop = AtomicBool::new(false);
    let mut watch = |event: Event<'_>| {
        if let Event::Step(step) = event
            && step == after
        {
            stop.store(true, Ordering::Relaxed);
        }
    };
    let run = train::start(recipe, folder, &stop, &mut watch).unwrap();
    assert_eq!(run.ending, Ending::Interrupted);
    assert_eq!(run.metrics.steps.len() as u64, after);
    run
}

fn without_seconds(mut metrics: Metrics) -> Metrics {
    metrics.epochs.iter_mut().for_each(|epoch| epoch.seconds = 0.0);
    metrics
}

fn assert_same(whole: &Run, parts: &Run) {
    assert_eq!(whole.ending, Ending::Finished);
    assert_eq!(parts.ending, Ending::Finished);
    assert_eq!(without_seconds(whole.metrics.clone()), without_seconds(parts.metrics.clone()));
    let model = |run: &Run| fs::read(run.checkpoint.join("model.bpk")).unwrap();
    assert!(model(whole) == model(parts), "the model records differ");
    let text = |run: &Run| fs::read_to_string(run.folder.join("recipe.toml")).unwrap();
    assert_eq!(text(whole), text(parts));
}

#[test]
fn four_epochs_are_two_and_two() {
    let root = tempfile::tempdir().unwrap();
    for optimizer in [OptimizerName::AdamW, OptimizerName::Sgd] {
        let mut recipe = recipe(4);
        recipe.optimizer.name = optimizer;
        let whole = start(&recipe, &root.path().join(format!("whole-{optimizer:?}")));
        recipe.train.epochs = 2;
        let folder = root.path().join(format!("parts-{optimizer:?}"));
        start(&recipe, &folder);
        assert_same(&whole, &resume(&folder, Some(4)));
    }
}

#[test]
fn an_interruption_within_an_epoch_changes_nothing() {
    let root = tempfile::tempdir().unwrap();
    let mut recipe = recipe(3);
    recipe.model.name = ModelName::Mlp;
    recipe.optimizer.schedule = Schedule::Cosine;
    let whole = start(&recipe, &root.path().join("whole"));
    for after in [1, 5, 7] {
        // 5 steps are an epoch: the second case stops between two.
        let folder = root.path().join(format!("parts-{after}"));
        start_and_stop(&recipe, &folder, after);
        assert_same(&whole, &resume(&folder, None));
    }
}

#[test]
fn measuring_changes_nothing() {
    let root = tempfile::tempdir().unwrap();
    let mut recipe = recipe(1);
    let with = start(&recipe, &root.path().join("with"));
    recipe.spectrum.every = 0;
    let without = start(&recipe, &root.path().join("without"));
    assert!(!with.metrics.spectra.is_empty() && without.metrics.spectra.is_empty());
    assert_eq!(with.metrics.steps, without.metrics.steps);
}

#[test]
fn what_cannot_be_resumed_is_named() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("run");
    let mut recipe = recipe(2);
    recipe.optimizer.schedule = Schedule::Cosine;
    start(&recipe, &folder);
    let error = |field: &'static str, value: &str| {
        let overrides = [Override { flag: "--x", field, value: value.into() }];
        train::resume(&folder, &overrides, &AtomicBool::new(false), &mut |_| {}).unwrap_err().to_string()
    };
    assert!(
        error("train.epochs", "2").ends_with("train.epochs = 2: expected more than the 2 epochs done, by --epochs")
    );
    assert!(error("train.epochs", "4").ends_with("expected 2, for which the cosine schedule was laid out"));
    let file = folder.join("recipe.toml");
    let text =
        fs::read_to_string(&file).unwrap().replace("limit = 300", "limit = 301").replace("epochs = 2", "epochs = 3");
    fs::write(&file, text).unwrap();
    assert!(error("data.dir", "").ends_with("was made with other data than found now"));
}
