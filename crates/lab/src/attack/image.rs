//! `lab attack image`: a picture, an attack, what the model reads before and after.
//!
//! ```text
//! OUT/before.png       the picture as the model sees it
//! OUT/after.png        with the perturbation, in 8 bits
//! OUT/difference.png   red where ink was added, blue where it was taken away, scaled so that the largest change is full colour
//! ```

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use adversarial::{
    Apgd, ApgdL1, Attack, BoundaryAttack, CarliniWagner, Classifier as _, Ddn, DeepFool, Ead, Engine, Fab, Fgsm, Fmn,
    Goal, Goals, HopSkipJump, MiFgsm, Nes, Norm, Pgd, Recorded, Search, SigmaZero, Spsa, Square, Status, Threat,
};
use burn::module::Module;
use burn::optim::{AdamWConfig, GradientsParams, ModuleOptimizer};
use burn::tensor::{Device, Tensor, TensorData};
use clap::{Args, ValueEnum};
use core_tensor::Random;

use crate::data::{Dataset, Images};
use crate::error::{Error, Result};
use crate::model::{Classifier, batch};
use crate::png::Png;
use crate::recipe::{DataRecipe, Override, Recipe};
use crate::run_dir::NewFolder;
use crate::train::{self, Trained, choose_device};

/// Passes over the digits, and their batches, of the model that is trained where none is given.
const EPOCHS: usize = 12;
const BATCH: usize = 64;
/// Predictions shown.
const SHOWN: usize = 3;

/// What to attack and how.
#[derive(Args, Clone, Debug)]
pub struct ImageArgs {
    /// PNG of the size of the model's images, 8 bits, grey or RGB; a digit of the embedded test set if left out.
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Number of the digit in the test set.
    #[arg(long, value_name = "N", default_value_t = 0, conflicts_with = "file")]
    pub digit: usize,
    /// Ink is light in the file, paper dark.
    #[arg(long, requires = "file")]
    pub light_ink: bool,
    /// What the file shows [default: what the model reads].
    #[arg(long, value_name = "N", requires = "file")]
    pub label: Option<usize>,
    /// The class that the model shall read [default: any other].
    #[arg(long, value_name = "N")]
    pub target: Option<usize>,
    /// The attack.
    #[arg(long, value_name = "NAME", default_value = "apgd")]
    pub attack: AttackName,
    /// How the perturbation is measured [default: linf, or the one that the attack is for].
    #[arg(long, value_name = "NAME")]
    pub norm: Option<NormName>,
    /// Radius of the threat; ink goes from 0 to 1. Attacks for the nearest picture take none [default: by norm].
    #[arg(long, value_name = "X")]
    pub epsilon: Option<f64>,
    /// Run folder of `lab train` [default: a model trained on the digits at once].
    #[arg(long, value_name = "RUN_DIR")]
    pub model: Option<PathBuf>,
    /// Folder of the run's MNIST files, if they are no longer where they were.
    #[arg(long, value_name = "DIR", requires = "model")]
    pub data_dir: Option<String>,
    /// Folder to make [default: one below runs, named by the time].
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Seed of all randomness.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
}

/// The attacks, by what they do: within a radius, or to the nearest picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AttackName {
    /// Within a radius: one step.
    Fgsm,
    /// Within a radius: many steps.
    Pgd,
    /// Within a radius: momentum.
    MiFgsm,
    /// Within a radius, with a step size of its own (also for l1).
    Apgd,
    /// Within a radius, without gradients.
    Square,
    /// Within a radius, gradients from scores.
    Nes,
    /// Within a radius, gradients from scores.
    Spsa,
    /// Nearest.
    Fmn,
    /// Nearest.
    Fab,
    /// Nearest in l2.
    Ddn,
    /// Nearest in l2 or linf.
    Deepfool,
    /// Nearest in l2 or linf.
    CarliniWagner,
    /// Nearest in l1.
    Ead,
    /// Nearest in l0.
    SigmaZero,
    /// Nearest, decisions only.
    HopSkipJump,
    /// Nearest in l2, decisions only.
    Boundary,
}

/// The norms of a threat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum NormName {
    /// The largest change of a pixel.
    Linf,
    /// The root of the squares' sum.
    L2,
    /// The sum of the changes.
    L1,
    /// The number of pixels changed.
    L0,
}

/// What came of it, as text for the terminal.
#[derive(Clone, Debug)]
pub struct Report {
    /// The folder.
    pub folder: PathBuf,
    /// Predictions before and after.
    pub text: String,
}

/// Attacks a picture and leaves the folder.
///
/// # Errors
/// Those of the file, the run folder and the settings before anything is attacked; those of the computation. No folder is left
/// then.
pub fn run(arguments: &ImageArgs, folder: &Path) -> Result<Report> {
    let norm = arguments.norm.map_or(arguments.attack.own_norm(), NormName::norm);
    let (attack, search) = arguments.attack.attack(norm);
    let threat = threat(arguments, norm, search)?;
    let subject = Subject::load(arguments)?;
    let classes = &subject.data.classes;
    check_class("--target", arguments.target, classes.len())?;
    check_class("--label", arguments.label, classes.len())?;
    let (picture, named) = picture(arguments, &subject.data.test)?;
    let (height, width) = (subject.data.test.height, subject.data.test.width);

    let device = &subject.device;
    let (mean, deviation) = subject.data.train.mean_and_deviation();
    let classifier = Recorded::new(&subject.model, [1, height, width], move |model: &Classifier, x: Tensor<4>| {
        model.forward((x - mean) / deviation.max(1e-6))
    })?;
    let logits = |ink: &[f32]| -> Result<Vec<f32>> {
        let x = Tensor::<4>::from_data(TensorData::new(ink.to_vec(), [1, 1, height, width]), device);
        Ok(classifier.logits(x)?.into_data().iter::<f32>().collect())
    };
    let before = logits(&picture)?;
    let label = named.label.unwrap_or_else(|| largest(&before));
    let goal = match arguments.target {
        None => Goal::untargeted(label),
        Some(target) if target == label => {
            return Err(wrong(
                "--target",
                "target",
                &target.to_string(),
                &format!("another class than its own, {label}"),
            ));
        }
        Some(target) => Goal::targeted(label, target),
    };

    let x = Tensor::<4>::from_data(TensorData::new(picture.clone(), [1, 1, height, width]), device);
    let engine = Engine::new().seed(arguments.seed);
    let attacked = engine.run(attack.as_ref(), &classifier, threat, search, x, &Goals::from(vec![goal]));
    let attacked = attacked.map_err(unsupported)?;
    let outcome = &attacked.outcomes[0];
    let after: Vec<f32> = attacked.inputs.into_data().iter::<f32>().collect();
    let saved: Vec<u8> = after.iter().map(|ink| byte(*ink)).collect();
    let in_bytes = logits(&saved.iter().map(|ink| f32::from(*ink) / 255.0).collect::<Vec<_>>())?;

    let paper = |ink: &[u8]| {
        let samples = ink.iter().map(|ink| if arguments.light_ink { *ink } else { 255 - ink }).collect();
        Png { width, channels: 1, samples }.encode()
    };
    // Not before all else is done: where something cannot be, nothing is left, not even a folder for runs.
    let new = NewFolder::begin(folder, "choose another --out")?;
    new.write("before.png", paper(&picture.iter().map(|ink| byte(*ink)).collect::<Vec<_>>()))?;
    new.write("after.png", paper(&saved))?;
    new.write("difference.png", difference(&picture, &after, width).encode())?;
    new.finish()?;

    let change: Vec<f64> = after.iter().zip(&picture).map(|(a, b)| f64::from(*a) - f64::from(*b)).collect();
    let said = match (goal.reached(&before), goal.reached(&outcome.logits)) {
        _ if outcome.status == Status::NotFinite => "the model gives no numbers",
        (true, _) => "was read so as it is",
        (false, true) => "misled",
        (false, false) => "not misled; this came nearest",
    };
    let wanted = match arguments.target {
        Some(target) => format!("{} to be read as {}", classes[label], classes[target]),
        None => format!("{} to be read as anything else", classes[label]),
    };
    let within = match search {
        Search::Nearest => format!("nearest in {norm:?}"),
        _ => format!("within {} in {norm:?}", threat.epsilon()),
    };
    let mut text = format!("{}\n{}\n{}, {within}: {wanted}\n\n", named.what, subject.what, attack.name());
    for (name, logits) in [("before", &before), ("after", &outcome.logits), ("in 8 bits", &in_bytes)] {
        let _ = writeln!(text, "  {name:10} {}", predictions(logits, classes));
    }
    let _ = write!(
        text,
        "\n  {said}: distance {:.4} in Linf, {:.4} in L2, {:.4} in L1, {} in L0; {} gradients, {} queries\n",
        Norm::Linf.of(change.iter().copied()),
        Norm::L2.of(change.iter().copied()),
        Norm::L1.of(change.iter().copied()),
        Norm::L0.of(change.iter().copied()),
        outcome.gradients,
        outcome.queries
    );
    Ok(Report { folder: folder.to_owned(), text })
}

/// The picture's name, and its class where that is known.
struct Named {
    what: String,
    label: Option<usize>,
}

/// The model with the data that it was trained on.
struct Subject {
    what: String,
    model: Classifier,
    data: Dataset,
    device: Device,
}

impl Subject {
    fn load(arguments: &ImageArgs) -> Result<Self> {
        match &arguments.model {
            Some(run) => Self::trained(run, arguments.data_dir.as_ref()),
            None => Self::quickly(arguments.seed),
        }
    }

    /// The model of a run folder's last checkpoint.
    fn trained(run: &Path, data_dir: Option<&String>) -> Result<Self> {
        let dir = data_dir.map(|dir| Override { flag: "--data-dir", field: "data.dir", value: dir.clone() });
        let Trained { model, data, device, steps } = train::trained(run, &dir.into_iter().collect::<Vec<_>>())?;
        Ok(Self { what: format!("model: {}, step {steps}", run.display()), model, data, device })
    }

    /// The default model, trained on the digits for a moment.
    fn quickly(seed: u64) -> Result<Self> {
        let begun = Instant::now();
        let data = Dataset::load(&DataRecipe::default())?;
        let device = choose_device()?;
        let (autodiff, random) = (device.clone().autodiff(), Random::new(seed));
        let recipe = Recipe::default();
        let mut model = Classifier::new(&recipe.model, &data.train, &mut random.fork("weights"), &autodiff)?;
        let mut optimizer: ModuleOptimizer = AdamWConfig::new().init();
        let (scale, mut order) = (data.train.mean_and_deviation(), random.fork("order"));
        for epoch in 0..EPOCHS {
            let rate = 3e-3 * (1.0 - epoch as f64 / EPOCHS as f64);
            for chosen in order.permutation(data.train.len()).chunks(BATCH) {
                let (images, labels) = batch(&data.train, chosen, scale, &autodiff);
                let gradients = GradientsParams::from_grads(model.loss(images, labels).backward(), &model);
                model = optimizer.step(rate, model, gradients);
            }
        }
        let model = model.valid();
        let all: Vec<usize> = (0..data.test.len()).collect();
        let (images, labels) = batch(&data.test, &all, scale, &device);
        let read = model.forward(images).argmax(1).into_data().iter::<i64>().collect::<Vec<_>>();
        let right = read.into_iter().zip(labels.into_data().iter::<i64>()).filter(|(a, b)| a == b).count();
        let what = format!(
            "model: a small CNN trained on the embedded digits in {:.1} s, {:.1} % of the test set right",
            begun.elapsed().as_secs_f64(),
            100.0 * right as f64 / all.len() as f64
        );
        Ok(Self { what, model, data, device })
    }
}

/// Ink from 0 to 1 of the picture asked for.
fn picture(arguments: &ImageArgs, test: &Images) -> Result<(Vec<f32>, Named)> {
    let Some(path) = &arguments.file else {
        if arguments.digit >= test.len() {
            let expected = format!("0 to {}, the test set", test.len() - 1);
            return Err(wrong("--digit", "digit", &arguments.digit.to_string(), &expected));
        }
        let ink = test.image(arguments.digit).iter().map(|pixel| f32::from(*pixel) / f32::from(test.ink)).collect();
        let label = usize::from(test.labels[arguments.digit]);
        let what = format!("picture: number {} of the test set, labelled {label}", arguments.digit);
        return Ok((ink, Named { what, label: Some(label) }));
    };
    let png = Png::read(path)?;
    if (png.width, png.height()) != (test.width, test.height) {
        let problem = format!(
            "{} x {} pixels, expected {} x {}, the model's images",
            png.width,
            png.height(),
            test.width,
            test.height
        );
        return Err(Error::Data { origin: path.display().to_string(), problem });
    }
    // The luma of Rec. 601.
    let light = |pixel: &[u8]| match pixel {
        [red, green, blue] => (0.299 * f32::from(*red) + 0.587 * f32::from(*green) + 0.114 * f32::from(*blue)) / 255.0,
        _ => f32::from(pixel[0]) / 255.0,
    };
    let ink = png.samples.chunks(png.channels).map(light).map(|x| if arguments.light_ink { x } else { 1.0 - x });
    let ink = ink.map(|x| x.clamp(0.0, 1.0)).collect();
    Ok((ink, Named { what: format!("picture: {}", path.display()), label: arguments.label }))
}

impl AttackName {
    /// The norm where none is given.
    fn own_norm(self) -> Norm {
        match self {
            Self::Ddn | Self::CarliniWagner | Self::Boundary | Self::HopSkipJump => Norm::L2,
            Self::Ead => Norm::L1,
            Self::SigmaZero => Norm::L0,
            _ => Norm::Linf,
        }
    }

    fn attack(self, norm: Norm) -> (Box<dyn Attack>, Search) {
        match self {
            Self::Fgsm => (Box::new(Fgsm::new()), Search::Worst),
            Self::Pgd => (Box::new(Pgd::new()), Search::Worst),
            Self::MiFgsm => (Box::new(MiFgsm::new()), Search::Worst),
            Self::Apgd if norm == Norm::L1 => (Box::new(ApgdL1::new()), Search::Worst),
            Self::Apgd => (Box::new(Apgd::new()), Search::Worst),
            Self::Square => (Box::new(Square::new()), Search::First),
            Self::Nes => (Box::new(Nes::new()), Search::First),
            Self::Spsa => (Box::new(Spsa::new()), Search::First),
            Self::Fmn => (Box::new(Fmn::new()), Search::Nearest),
            Self::Fab => (Box::new(Fab::new()), Search::Nearest),
            Self::Ddn => (Box::new(Ddn::new()), Search::Nearest),
            Self::Deepfool => (Box::new(DeepFool::new()), Search::Nearest),
            Self::CarliniWagner => (Box::new(CarliniWagner::new()), Search::Nearest),
            Self::Ead => (Box::new(Ead::new()), Search::Nearest),
            Self::SigmaZero => (Box::new(SigmaZero::new()), Search::Nearest),
            Self::HopSkipJump => (Box::new(HopSkipJump::new()), Search::Nearest),
            Self::Boundary => (Box::new(BoundaryAttack::new()), Search::Nearest),
        }
    }
}

impl NormName {
    fn norm(self) -> Norm {
        match self {
            Self::Linf => Norm::Linf,
            Self::L2 => Norm::L2,
            Self::L1 => Norm::L1,
            Self::L0 => Norm::L0,
        }
    }
}

fn threat(arguments: &ImageArgs, norm: Norm, search: Search) -> Result<Threat> {
    if let (Search::Nearest, Some(epsilon)) = (search, arguments.epsilon) {
        return Err(wrong(
            "--epsilon",
            "epsilon",
            &epsilon.to_string(),
            "none: this attack looks for the nearest picture",
        ));
    }
    let epsilon = arguments.epsilon.unwrap_or(match norm {
        Norm::Linf => 0.15,
        Norm::L2 => 1.0,
        Norm::L1 => 5.0,
        Norm::L0 => 5.0,
    });
    Threat::new(norm, epsilon).map_err(|error| match error {
        adversarial::Error::Parameter { value, bound, .. } => wrong("--epsilon", "epsilon", &value.to_string(), bound),
        other => other.into(),
    })
}

/// What an attack does not do is bad input here.
fn unsupported(error: adversarial::Error) -> Error {
    match error {
        adversarial::Error::Unsupported { attack, what, supported } => {
            wrong("--attack", &attack, &what, &format!("what it supports: {supported}"))
        }
        other => other.into(),
    }
}

fn check_class(flag: &str, class: Option<usize>, classes: usize) -> Result<()> {
    match class.filter(|class| *class >= classes) {
        None => Ok(()),
        Some(class) => {
            let expected = format!("0 to {}", classes - 1);
            Err(wrong(flag, flag.trim_start_matches('-'), &class.to_string(), &expected))
        }
    }
}

fn wrong(origin: &str, field: &str, value: &str, expected: &str) -> Error {
    let [origin, field, value, expected] = [origin, field, value, expected].map(str::to_owned);
    Error::Value { origin, field, value, expected }
}

/// The likeliest classes with their probabilities.
fn predictions(logits: &[f32], classes: &[String]) -> String {
    let top = f64::from(logits[largest(logits)]);
    let sum: f64 = logits.iter().map(|z| (f64::from(*z) - top).exp()).sum();
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
    let part =
        |class: &usize| format!("{} {:5.1} %", classes[*class], 100.0 * (f64::from(logits[*class]) - top).exp() / sum);
    order.iter().take(SHOWN).map(part).collect::<Vec<_>>().join("   ")
}

fn largest(logits: &[f32]) -> usize {
    (0..logits.len()).fold(0, |a, b| if logits[b] > logits[a] { b } else { a })
}

fn byte(ink: f32) -> u8 {
    (255.0 * ink.clamp(0.0, 1.0)).round() as u8
}

/// Red where ink was added, blue where it was taken away.
fn difference(before: &[f32], after: &[f32], width: usize) -> Png {
    let largest = before.iter().zip(after).map(|(b, a)| (a - b).abs()).fold(0.0f32, f32::max).max(f32::MIN_POSITIVE);
    let pixel = |(before, after): (&f32, &f32)| {
        let change = (after - before) / largest;
        let fade = |strength: f32| byte(1.0 - strength.clamp(0.0, 1.0));
        [fade(-change), fade(change.abs()), fade(change)]
    };
    Png { width, channels: 3, samples: before.iter().zip(after).flat_map(pixel).collect() }
}
