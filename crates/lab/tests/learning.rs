//! What the default recipe and MNIST come to.

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use lab::data::idx;
use lab::recipe::{DataName, ModelName, Recipe};
use lab::train;

#[test]
fn the_default_recipe_reads_digits() {
    let mut recipe = Recipe::default();
    if std::env::var("BURN_DEVICE").is_ok_and(|device| device != "flex") {
        // Ten times slower in convolutions, or on a GPU that is emulated.
        println!("on another device than flex: the MLP instead of the CNN");
        recipe.model.name = ModelName::Mlp;
    }
    let root = tempfile::tempdir().unwrap();
    let run = train::start(&recipe, &root.path().join("run"), &AtomicBool::new(false), &mut |_| {}).unwrap();
    let last = run.metrics.epochs.last().unwrap();
    println!("test accuracy {:.4} after {:.1} s", last.test_accuracy, last.seconds);
    assert!(last.test_accuracy > 0.97, "{last:?}");
    assert!(last.train_accuracy > 0.99, "{last:?}");
    // Curvature was measured before, during and after; the loss is smaller at the end than at the beginning, its gradient too.
    assert!(run.metrics.spectra.len() >= 3);
    assert!(run.metrics.spectra.iter().all(|spectrum| spectrum.eigenvalues[0] > 0.0));
    let (first, last) = (run.metrics.steps.first().unwrap(), run.metrics.steps.last().unwrap());
    assert!(last.loss < first.loss && last.grad_norm < first.grad_norm);
}

#[test]
fn mnist_is_learned_from_its_files() {
    let data = std::env::var_os("DATA_DIR").map(PathBuf::from);
    let data = data.unwrap_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data")));
    let dir = data.join("mnist");
    let mut recipe = Recipe::default();
    recipe.model.name = ModelName::Mlp;
    recipe.train.epochs = 5;
    recipe.spectrum.every = 0;
    match idx::load_mnist(&dir) {
        Ok(mnist) => {
            assert_eq!((mnist.train.len(), mnist.train.height, mnist.train.width), (60_000, 28, 28));
            recipe.data.name = DataName::Mnist;
            recipe.data.dir = dir.display().to_string();
            recipe.data.limit = 6000;
        }
        Err(error) => println!("MNIST is not here, the embedded digits are used instead: {error}"),
    }
    let root = tempfile::tempdir().unwrap();
    let run = train::start(&recipe, &root.path().join("run"), &AtomicBool::new(false), &mut |_| {}).unwrap();
    let last = run.metrics.epochs.last().unwrap();
    println!("{} test accuracy {:.4} after {:.1} s", recipe.data.name.title(), last.test_accuracy, last.seconds);
    assert!(last.test_accuracy > 0.88, "{last:?}");
}

/// bf16, AutoClip, PGD training, learned weight decay and two tasks under UPGrad at once, by the recipe in the book.
#[test]
fn all_five_techniques_read_digits_and_hold_them() {
    let recipe = Recipe::parse(include_str!("../recipes/all-five.toml"), "recipes/all-five.toml").unwrap();
    let root = tempfile::tempdir().unwrap();
    let run = train::start(&recipe, &root.path().join("run"), &AtomicBool::new(false), &mut |_| {}).unwrap();
    let (last, robust) = (run.metrics.epochs.last().unwrap(), run.metrics.robust.last().unwrap());
    println!("{last:?} {robust:?}");
    assert!(last.test_accuracy > 0.97, "{last:?}");
    assert!(last.task_accuracies[0] > 0.97, "{last:?}");
    assert!(robust.robust_accuracy > 0.74, "{robust:?}");
    assert!(run.folder.join("best/average.bpk").exists());
}
