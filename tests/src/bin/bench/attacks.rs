//! PGD-40 and AutoAttack on the networks and images of the peers: accuracy left, gradients and seconds.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Instant;

use adversarial::training::{FastTraining, RobustProgram, RobustTraining};
use adversarial::{
    Apgd, Attack, AutoAttack, Classifier, Engine, Fab, Goals, Norm, Pgd, Recorded, Search, Square, Threat,
};
use burn::optim::AdamConfig;
use burn::tensor::{Device, Int, Tensor, TensorData};
use crucible_tests::models::AttackedCnn;

use crate::{Peers, medians};

const EPSILON: f64 = 0.3;
const BATCH: usize = 128;
/// Images under AutoAttack, as of the peers.
const ENSEMBLE_IMAGES: usize = 100;

/// What `tests/peers/attacks.py` leaves: arrays by name.
struct Arrays(Vec<(String, Vec<f32>)>);

impl Arrays {
    fn read(folder: &Path) -> Option<Self> {
        let names: serde_json::Value = serde_json::from_slice(&fs::read(folder.join("attacks.json")).ok()?).ok()?;
        let bytes = fs::read(folder.join("attacks.bin")).ok()?;
        let mut numbers = bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        let arrays = names.as_array()?.iter().map(|entry| {
            let count: u64 = entry["shape"].as_array()?.iter().filter_map(|size| size.as_u64()).product();
            Some((entry["name"].as_str()?.to_string(), numbers.by_ref().take(count as usize).collect()))
        });
        arrays.collect::<Option<_>>().map(Self)
    }

    fn get(&self, name: &str) -> Vec<f32> {
        let found = self.0.iter().find(|(known, _)| known == name);
        found.unwrap_or_else(|| panic!("attacks.json has no {name}")).1.clone()
    }
}

/// Attacks what the peers attacked; without their files there is nothing to compare.
pub fn run(out: &mut String, peers: &Peers, folder: Option<&Path>) {
    let Some(arrays) = folder.and_then(Arrays::read) else {
        let _ = writeln!(out, "\nattacks: measured beside peers only (--peers, with MNIST in $DATA_DIR/mnist)");
        return;
    };
    let device = Device::default();
    let labels: Vec<usize> = arrays.get("labels").iter().map(|label| *label as usize).collect();
    let images = Tensor::<4>::from_data(TensorData::new(arrays.get("images"), [labels.len(), 1, 28, 28]), &device);
    let threat = Threat::new(Norm::Linf, EPSILON).expect("a radius");
    let _ = writeln!(
        out,
        "\nattacks on MNIST, Linf {EPSILON}: seconds, share still right, gradients an image; peers on the same weights and images\n\n\
         | network | attack | ours: s | standing | gradients | torchattacks: s | standing | gradients | foolbox: s | standing | seconds, theirs / ours |\n\
         |---|---|---|---|---|---|---|---|---|---|---|"
    );
    let (mut gaps, mut stages) = (String::new(), String::new());
    for name in ["standard", "robust"] {
        let net = AttackedCnn::new(&device).with_torch(|array| arrays.get(&format!("{name}.{array}")));
        let classifier = Recorded::new(&net, [1, 28, 28], |net, x: Tensor<4>| net.logits(x)).expect("a plain network");
        let batch = images.clone().slice_dim(0, 0..BATCH);
        let gradient = || {
            let pulled = classifier.pullback(batch.clone()).expect("recorded");
            let cotangent = pulled.logits.ones_like();
            drop((pulled.back)(cotangent).expect("recorded").into_data());
        };
        let [ms] = medians([&gradient], &[1]);
        let theirs = peers.get(&(name.to_string(), "torch".into(), "gradient".into()));
        let _ = writeln!(
            gaps,
            "{name}: {ms:.2} ms for the gradients of {BATCH} images{}",
            theirs.map_or(String::new(), |theirs| format!(", PyTorch {theirs:.2} ({:.2} of theirs)", ms / theirs))
        );

        let goals = Goals::untargeted(&labels);
        let pgd = Pgd::new().step_size(0.01);
        let engine = Engine::new().batch(BATCH);
        let start = Instant::now();
        let attacked =
            engine.run(&pgd, &classifier, threat, Search::First, images.clone(), &goals).expect("images in the box");
        let examples = attacked.outcomes.len() as f64;
        let seconds = start.elapsed().as_secs_f64();
        let (standing, gradients) = (attacked.standing() as f64 / examples, attacked.gradients() as f64 / examples);
        line(out, peers, (name, "pgd"), seconds, standing, gradients);

        // The peer's ensemble takes 10 steps where the paper's takes 100: first with as many, then as in the paper.
        let short: Vec<Box<dyn Attack>> = vec![
            Box::new(Apgd::new().steps(10)),
            Box::new(Apgd::targeted(9).steps(10)),
            Box::new(Fab::targeted(9).steps(10)),
            Box::new(Square::new()),
        ];
        let standard = AutoAttack::standard(threat).expect("Linf");
        for (what, ensemble) in [("autoattack", AutoAttack::custom(threat, short)), ("autoattack, 100 steps", standard)]
        {
            let some = images.clone().slice_dim(0, 0..ENSEMBLE_IMAGES);
            let ensemble = ensemble.engine(Engine::new().batch(BATCH));
            let start = Instant::now();
            let report = ensemble.run(&classifier, some, &labels[..ENSEMBLE_IMAGES]).expect("images in the box");
            let seconds = start.elapsed().as_secs_f64();
            let gradients =
                report.stages.iter().map(|stage| stage.gradients).sum::<u64>() as f64 / ENSEMBLE_IMAGES as f64;
            let standing = report.standing.count as f64 / ENSEMBLE_IMAGES as f64;
            line(out, peers, (name, what), seconds, standing, gradients);
            let _ = write!(stages, "\n{name}, {what}\n{report}");
        }
    }
    fast_epoch(&mut gaps, peers, &images, &labels);
    out.push_str(&format!("\n{gaps}\n```text{stages}```\n"));
}

/// An epoch's steps of Fast adversarial training, as many as of 60,000 images; they come from the images at hand again and again.
fn fast_epoch(out: &mut String, peers: &Peers, images: &Tensor<4>, labels: &[usize]) {
    const STEPS: usize = 60_000usize.div_ceil(BATCH);
    let device = images.device();
    let mut net = AttackedCnn::new(&device.clone().autodiff());
    let mut optimizer = AdamConfig::new().init();
    let batches: Vec<_> = (0..images.dims()[0] / BATCH)
        .map(|i| {
            let range = i * BATCH..(i + 1) * BATCH;
            let labels: Vec<i64> = labels[range.clone()].iter().map(|label| *label as i64).collect();
            let labels = Tensor::<1, Int>::from_data(labels.as_slice(), &device);
            (images.clone().slice_dim(0, range), labels)
        })
        .collect();
    let program = RobustProgram::record(&net, &batches[0].0, |net: &AttackedCnn, x| net.logits(x)).expect("plain");
    let mut method = FastTraining::new(Threat::new(Norm::Linf, EPSILON).expect("a radius")).expect("Linf");
    let mut step = |net: AttackedCnn, i: usize| {
        let (x, y) = batches[i % batches.len()].clone();
        let found = method.gradients(&program, &net, x, y).expect("images in the box");
        optimizer.step(1e-3, net, found.gradient.into_params().expect("of this network"))
    };
    // Recording is done before the clock runs.
    net = step(net, 0);
    let begun = Instant::now();
    for i in 0..STEPS {
        net = step(net, i);
    }
    drop(net);
    let seconds = begun.elapsed().as_secs_f64();
    let theirs = peers.get(&("robust".to_string(), "torch".into(), "fast epoch seconds".into()));
    let _ = writeln!(
        out,
        "Fast adversarial training, {STEPS} steps: {seconds:.2} s{}",
        theirs.map_or(String::new(), |theirs| format!(", PyTorch {theirs:.2} ({:.2} of theirs)", seconds / theirs))
    );
}

fn line(out: &mut String, peers: &Peers, (name, what): (&str, &str), seconds: f64, standing: f64, gradients: f64) {
    let theirs =
        |peer: &str, kind: &str| peers.get(&(name.to_string(), peer.to_string(), format!("{what} {kind}"))).copied();
    let shown =
        |value: Option<f64>, digits: usize| value.map_or("–".to_string(), |value| format!("{value:.digits$}"));
    let fastest = ["torchattacks", "foolbox"].iter().filter_map(|peer| theirs(peer, "seconds")).reduce(f64::min);
    let _ = writeln!(
        out,
        "| {name} | {what} | {seconds:.2} | {standing:.3} | {gradients:.1} | {} | {} | {} | {} | {} | {} |",
        shown(theirs("torchattacks", "seconds"), 2),
        shown(theirs("torchattacks", "standing"), 3),
        shown(theirs("torchattacks", "gradients"), 1),
        shown(theirs("foolbox", "seconds"), 2),
        shown(theirs("foolbox", "standing"), 3),
        shown(fastest.map(|fastest| fastest / seconds), 2),
    );
}
