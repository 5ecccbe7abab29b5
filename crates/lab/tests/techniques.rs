//! Every combination of techniques trains, and goes on bit for bit after a stop.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use adversarial::training::{MartTraining, RobustProgram, RobustTraining, StandardTraining, TradesTraining};
use adversarial::{Norm, Threat};
use burn::tensor::{Device, Tensor};
use core_tensor::{Random, Tree};
use lab::data::Dataset;
use lab::metrics::Metrics;
use lab::model::Classifier;
use lab::recipe::{DataRecipe, Keep, LayerNorm, Metric, ModelName, ModelRecipe, Recipe, Tasks};
use lab::summary::Ending;
use lab::train::adversarial::together;
use lab::train::feed::{Feed, Part};
use lab::train::objective::{ExampleLoss, Objective, logits};
use lab::train::{self, Event, Run};

/// A small run: 6 steps an epoch.
const BASE: &str = "[data]\nlimit = 240\nvalidation = 0.2\n[model]\nname = \"mlp\"\nhidden = 16\n[train]\nepochs = 2\n\
                    batch_size = 32\n[spectrum]\nevery = 0\n";
/// The table of each technique.
const TECHNIQUES: [(&str, &str); 5] = [
    ("precision", "[precision]\ncompute = \"f16\"\ngrowth_interval = 2\nstate = \"dynamic8\"\n"),
    ("clipping", "[clipping]\nrule = \"zclip\"\nwarmup = 3\nnoise = 0.001\n"),
    (
        "adversarial",
        "[adversarial]\nmethod = \"trades\"\nsteps = 2\nevaluation_steps = 3\nevaluation_examples = 20\nevery = 1\n",
    ),
    ("bilevel", "[bilevel]\nlearn = \"weight-decay\"\n"),
    ("multitask", "[multitask]\ntasks = \"digit+parity+large\"\naggregator = \"pcgrad\"\n"),
];

fn recipe(tables: &[&str]) -> Recipe {
    Recipe::parse(&format!("{BASE}{}", tables.concat()), "the test").unwrap()
}

fn start(recipe: &Recipe, folder: &Path, stop_after: Option<u64>) -> Run {
    let stop = AtomicBool::new(false);
    let mut watch = |event: Event<'_>| {
        if matches!(event, Event::Step(step) if Some(step) == stop_after) {
            stop.store(true, Ordering::Relaxed);
        }
    };
    train::start(recipe, folder, &stop, &mut watch).unwrap()
}

fn resume(folder: &Path) -> Run {
    train::resume(folder, &[], &AtomicBool::new(false), &mut |_| {}).unwrap()
}

fn without_seconds(mut metrics: Metrics) -> String {
    metrics.epochs.iter_mut().for_each(|epoch| epoch.seconds = 0.0);
    // As text, in which a loss that is not known equals another.
    format!("{metrics:?}")
}

/// The bytes of every file of a checkpoint but its clock and the optimizer's record, whose entries are in no fixed order; what is in that
/// shows in the weights of the steps after a resumption.
fn bytes(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let named = files.map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read(path).unwrap()));
    named.filter(|(name, _)| name != "state.json" && name != "optimizer.bpk").collect()
}

/// A run, and the same run stopped within an epoch and resumed, end in the same bytes. Gives the whole one.
fn same_after_a_stop(root: &Path, name: &str, recipe: &Recipe, stop_after: u64) -> Run {
    let whole = start(recipe, &root.join(format!("{name}-whole")), None);
    let folder = root.join(format!("{name}-parts"));
    assert_eq!(start(recipe, &folder, Some(stop_after)).ending, Ending::Interrupted, "{name}");
    let parts = resume(&folder);
    assert_eq!(whole.ending, parts.ending, "{name}");
    assert_eq!(without_seconds(whole.metrics.clone()), without_seconds(parts.metrics), "{name}");
    let (one, other) = (bytes(&whole.checkpoint), bytes(&parts.checkpoint));
    assert_eq!(one.keys().collect::<Vec<_>>(), other.keys().collect::<Vec<_>>(), "{name}");
    for (file, content) in &one {
        assert!(content == &other[file], "{name}: {file} differs");
    }
    whole
}

/// What each technique has to have left in the records.
fn check_traces(on: &[&str], run: &Run) {
    let last = run.metrics.epochs.last().unwrap();
    let has = |technique| on.contains(&technique);
    assert_eq!(!run.metrics.robust.is_empty(), has("adversarial"), "{on:?}");
    assert_eq!(last.learned.is_some_and(|decay| decay != 0.01), has("bilevel"), "{on:?}");
    assert_eq!(last.task_accuracies.len(), if has("multitask") { 2 } else { 0 }, "{on:?}");
    let moved = run.metrics.steps.iter().any(|step| step.skipped.is_none());
    assert!(moved && last.train_loss.is_finite(), "{on:?}");
}

#[test]
fn every_pair_and_all_five_resume_bit_for_bit() {
    let root = tempfile::tempdir().unwrap();
    for (i, (one, first)) in TECHNIQUES.iter().enumerate() {
        for (other, second) in &TECHNIQUES[i + 1..] {
            let name = format!("{one}+{other}");
            let run = same_after_a_stop(root.path(), &name, &recipe(&[first, second]), 8);
            check_traces(&[one, other], &run);
        }
    }
    let (names, tables): (Vec<_>, Vec<_>) = TECHNIQUES.into_iter().unzip();
    let mut all = recipe(&tables);
    all.train.ema = 0.9;
    let run = same_after_a_stop(root.path(), "all", &all, 8);
    check_traces(&names, &run);
    assert!(run.checkpoint.join("average.bpk").exists());
}

#[test]
fn other_methods_of_each_technique_resume_bit_for_bit() {
    let root = tempfile::tempdir().unwrap();
    let cases = [
        ("bf16", "[precision]\ncompute = \"bf16\"\nstate = \"linear4\"\n"),
        ("fixed", "[precision]\nloss_scale = \"fixed\"\nscale = 64\n[multitask]\ntasks = \"digit+parity\"\n"),
        ("agc-noise", "[clipping]\nrule = \"agc\"\nnoise = 0.01\n"),
        ("autoclip", "[clipping]\nrule = \"autoclip\"\n[bilevel]\nlearn = \"learning-rate\"\n"),
        ("quantile", "[clipping]\nrule = \"quantile\"\n[optimizer]\nschedule = \"step\"\nstep_every = 1\nwarmup = 1\n"),
        ("dp", "[clipping]\nrule = \"dp\"\n[bilevel]\nlearn = \"learning-rate\"\n"),
        ("dp-f16", "[clipping]\nrule = \"dp\"\n[precision]\ncompute = \"f16\"\nloss_scale = \"fixed\"\nscale = 256\n"),
        ("fast", "[adversarial]\nmethod = \"fast\"\nnorm = \"l2\"\nradius = 0.5\nevaluation_examples = 10\n"),
        ("free", "[adversarial]\nmethod = \"free\"\nreplays = 3\nevaluation_examples = 10\n"),
        (
            "mart",
            "[adversarial]\nmethod = \"mart\"\nsteps = 2\nevaluation_examples = 10\n[multitask]\ntasks = \"digit+parity\"\n",
        ),
        ("upgrad", "[multitask]\ntasks = \"digit+parity+large\"\naggregator = \"upgrad\"\n"),
    ];
    for (name, table) in cases {
        let run = same_after_a_stop(root.path(), name, &recipe(&[table]), 8);
        assert!(run.metrics.epochs.last().unwrap().train_loss.is_finite(), "{name}");
    }
}

#[test]
fn normalisation_resumes_bit_for_bit() {
    let root = tempfile::tempdir().unwrap();
    for (name, norm, table) in [
        ("batch", LayerNorm::Batch, "[adversarial]\nmethod = \"pgd\"\nsteps = 1\nevaluation_examples = 10\n"),
        ("group", LayerNorm::Group, "[clipping]\nrule = \"dp\"\n"),
    ] {
        let mut recipe = recipe(&[table]);
        recipe.model = ModelRecipe { name: ModelName::Cnn, channels: 4, hidden: 8, norm };
        recipe.spectrum.every = 2;
        recipe.spectrum.iterations = 5;
        let run = same_after_a_stop(root.path(), name, &recipe, 8);
        assert!(!run.metrics.spectra.is_empty());
    }
}

#[test]
fn dp_spends_its_budget_and_ends() {
    let root = tempfile::tempdir().unwrap();
    let mut recipe = recipe(&["[clipping]\nrule = \"dp\"\nnoise_multiplier = 1.0\nepsilon = 3.0\ndelta = 1e-3\n"]);
    recipe.train.epochs = 50;
    let run = start(&recipe, &root.path().join("run"), None);
    assert_eq!(run.ending, Ending::BudgetSpent);
    let epsilon = run.metrics.epochs.last().unwrap().epsilon.unwrap();
    assert_eq!(run.metrics.steps.len() as u64, run.metrics.epochs.last().unwrap().step);
    println!("epsilon {epsilon} after {} steps", run.metrics.steps.len());
    assert!(epsilon <= 3.0 && epsilon > 2.5, "{epsilon}");
    let again = train::resume(&run.folder, &[], &AtomicBool::new(false), &mut |_| {}).unwrap_err().to_string();
    assert!(again.contains("is done: the privacy budget is spent"), "{again}");
    recipe.clipping.epsilon = 0.01;
    let folder = root.path().join("none");
    let error = train::start(&recipe, &folder, &AtomicBool::new(false), &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains("clipping.epsilon = 0.01: expected more"), "{error}");
    assert!(!folder.exists());
}

#[test]
fn training_stops_early_and_keeps_the_best() {
    let root = tempfile::tempdir().unwrap();
    let mut recipe = recipe(&["[optimizer]\nlr = 0.05\n"]);
    recipe.train.epochs = 200;
    recipe.train.patience = 3;
    recipe.train.keep = Keep::Best;
    recipe.train.metric = Metric::Loss;
    let run = same_after_a_stop(root.path(), "early", &recipe, 8);
    let Ending::StoppedEarly { best } = run.ending else { panic!("{:?}", run.ending) };
    let losses: Vec<f64> = run.metrics.epochs.iter().map(|epoch| epoch.validation_loss.unwrap()).collect();
    assert_eq!(losses.len() as u64, best + 3);
    assert!(losses.iter().all(|loss| *loss >= losses[best as usize - 1]));
    let kept: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(run.folder.join("best/state.json")).unwrap()).unwrap();
    assert_eq!(kept["epochs"], best);
    assert_eq!(bytes(&run.folder.join("best")), bytes(&root.path().join("early-parts/best")));
    let again = train::resume(&run.folder, &[], &AtomicBool::new(false), &mut |_| {}).unwrap_err().to_string();
    assert!(again.contains("is done: nothing better in 3 epochs"), "{again}");
}

#[test]
fn dlr_with_two_classes_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let lines: String = (0..40).map(|i| format!("{i},0,{},9,{}\n", 40 - i, i % 2)).collect();
    fs::write(root.path().join("train.csv"), lines).unwrap();
    let text = format!(
        "[data]\nname = \"csv\"\ndir = {:?}\n[model]\nname = \"mlp\"\n[adversarial]\nmethod = \"pgd\"\nevaluation_loss = \"dlr\"",
        root.path()
    );
    let recipe = Recipe::parse(&text, "").unwrap();
    let folder = root.path().join("run");
    let error = train::start(&recipe, &folder, &AtomicBool::new(false), &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains("adversarial.evaluation_loss = dlr with 2 classes: DLR divides by"), "{error}");
    assert!(!folder.exists());
}

#[test]
fn label_columns_are_tasks() {
    let root = tempfile::tempdir().unwrap();
    let line = |i: usize| format!("{},{},{},{},{},{}\n", i, 39 - i, i % 7, i % 3, ["low", "high"][i / 20], i % 2);
    let text: String = "a,b,c,d,height,odd\n".to_owned() + &(0..40).map(line).collect::<String>();
    fs::write(root.path().join("train.csv"), text).unwrap();
    let text = format!(
        "[data]\nname = \"csv\"\ndir = {:?}\nlabels = 2\nvalidation = 0.2\n[model]\nname = \"mlp\"\nhidden = 8\n[train]\nepochs = 20\n\
         batch_size = 8\n[optimizer]\nlr = 0.02\n[spectrum]\nevery = 0\n[multitask]\ntasks = \"columns\"\naggregator = \"upgrad\"",
        root.path()
    );
    let run = start(&Recipe::parse(&text, "").unwrap(), &root.path().join("run"), None);
    let last = run.metrics.epochs.last().unwrap();
    assert_eq!((run.facts.tasks[1].as_str(), last.task_accuracies.len()), ("odd", 1));
    assert!(last.test_accuracy > 0.8, "{last:?}");
    let report = fs::read_to_string(run.folder.join("report.html")).unwrap();
    assert!(report.contains(">low</th>") && report.contains("… of odd"));
}

/// A small network for the first digits with the tasks given, and these digits.
fn setting(tasks: Tasks) -> (Classifier, Feed, (f64, f64)) {
    let data = Dataset::load(&DataRecipe::default()).unwrap();
    let device = Device::default();
    let feed = Feed::new(&data, Part::Train, tasks, &device);
    let recipe = ModelRecipe { name: ModelName::Mlp, hidden: 16, ..ModelRecipe::default() };
    let model = Classifier::with_heads(&recipe, &data.train, feed.classes(), &mut Random::new(3), &device.autodiff());
    (model.unwrap(), feed, data.train.mean_and_deviation())
}

fn assert_close(ours: (core_tensor::Scalar, Tree), loss: f64, gradient: &Tree) {
    assert!((ours.0.value() / loss - 1.0).abs() < 1e-5, "{} {loss}", ours.0.value());
    let distance = ours.1.sub(gradient).unwrap().norm().value();
    assert!(distance < 1e-4 * gradient.norm().value(), "{distance}");
}

#[test]
fn losses_are_those_of_the_methods() {
    let (model, feed, scale) = setting(Tasks::None);
    let (images, labels) = feed.batch(&(0..24).collect::<Vec<_>>());
    let program =
        RobustProgram::record(&model, &images, move |model: &Classifier, x| together(logits(model, x, scale)));
    let program = program.unwrap();
    let threat = Threat::new(Norm::Linf, 0.2).unwrap();
    let mut trades = TradesTraining::new(threat, 3.0).unwrap();
    let mut mart = MartTraining::new(threat, 2.0).unwrap();
    let methods: [(&mut dyn RobustTraining<Classifier, 4>, ExampleLoss); 2] =
        [(&mut trades, ExampleLoss::Trades(3.0)), (&mut mart, ExampleLoss::Mart(2.0))];
    for (method, loss) in methods {
        let step = method.gradients(&program, &model, images.clone(), labels[0].clone()).unwrap();
        let objective = Objective::new(&model, scale, loss, None);
        let batch = (images.clone(), step.adversarial, labels.clone());
        let ours = objective.sum(&Tree::from_module(&model), &batch, 1.0).unwrap();
        assert_close(ours, step.loss.value(), &step.gradient);
    }
}

#[test]
fn an_attack_on_combinations_of_classes_is_one_on_the_sum_of_losses() {
    let (model, feed, scale) = setting(Tasks::ParityLarge);
    let (images, labels) = feed.batch(&(0..24).collect::<Vec<_>>());
    let program =
        RobustProgram::record(&model, &images, move |model: &Classifier, x| together(logits(model, x, scale)));
    let program = program.unwrap();
    assert_eq!(program.classes(), 40);
    let combined = labels[0].clone() * 4 + labels[1].clone() * 2 + labels[2].clone();
    let step = StandardTraining::new().gradients(&program, &model, images.clone(), combined).unwrap();
    let objective = Objective::new(&model, scale, ExampleLoss::CrossEntropy, None);
    let (point, batch) = (Tree::from_module(&model), (images.clone(), images, labels));
    assert_close(objective.sum(&point, &batch, 1.0).unwrap(), step.loss.value(), &step.gradient);
    // The rows add up to it, and examples' losses have its mean.
    let (loss, rows) = objective.rows(&point, &batch, 1.0).unwrap();
    let sum = rows.into_iter().reduce(|a, b| a.add(&b).unwrap()).unwrap();
    assert_close((loss, sum), step.loss.value(), &step.gradient);
    let each: Tensor<1> = objective.examples(&batch, 8.0).unwrap().value(&point, &batch).unwrap();
    let mean = each.mean().into_data().iter::<f64>().next().unwrap();
    assert!((mean / 8.0 / step.loss.value() - 1.0).abs() < 1e-5);
}
