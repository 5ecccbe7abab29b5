//! `lab train`: loss → gradients → tree → chain of transforms → optimizer, with checkpoints, measurements and a report.
//!
//! A checkpoint is taken at the end of every epoch and on an interruption. The latter may fall inside an epoch: the
//! checkpoint then holds the random state from the epoch's beginning and the number of steps done since, from which the order
//! of examples is drawn again. So a resumed run goes through the same steps with the same numbers as one that never stopped.

use std::mem;
use std::panic;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use burn::module::Module;
use burn::optim::decay::WeightDecayConfig;
use burn::optim::momentum::MomentumConfig;
use burn::optim::{AdamConfig, AdamWConfig, ModuleOptimizer, SgdConfig};
use burn::store::ModuleRecord;
use burn::tensor::{Device, Int, Tensor};
use core_tensor::transform::{Chain, Identity, Outcome, State, Trainer};
use core_tensor::{Program, Random, Scalar, Tree};

use crate::data::{CLASSES, Dataset, Images};
use crate::error::{Error, Result};
use crate::lanczos;
use crate::metrics::{Epoch, Metrics, Record, Spectrum, Step};
use crate::model::{Classifier, batch};
use crate::recipe::{OptimizerName, OptimizerRecipe, Override, Recipe, Schedule, SpectrumRecipe, one_line};
use crate::report::{Predictions, Report};
use crate::run_dir::{Position, RunDir};
use crate::summary::{Ending, Facts};

/// Losses and norms are read from the device after so many steps.
const READ_EVERY: usize = 25;
/// Images a batch when only measuring.
const MEASURE_BATCH: usize = 500;
/// The training loss and accuracy of an epoch are those of the first so many training examples.
const MEASURED_EXAMPLES: usize = 10_000;

const MODEL: &str = "model.bpk";
const TRAINER: &str = "optimizer.bpk";
const RANDOM: &str = "random.bpk";

/// What happens during a run, for whoever shows it.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// Training begins or continues.
    Begin {
        /// Steps done before.
        steps_done: u64,
        /// Steps of the whole run.
        steps: u64,
        /// Epochs of the whole run.
        epochs: u64,
    },
    /// So many steps are done.
    Step(u64),
    /// An epoch is done.
    Epoch(&'a Epoch),
}

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Run {
    /// The run folder.
    pub folder: PathBuf,
    /// The last checkpoint.
    pub checkpoint: PathBuf,
    /// The recipe as run.
    pub recipe: Recipe,
    /// Facts beyond recipe and metrics.
    pub facts: Facts,
    /// Everything recorded.
    pub metrics: Metrics,
    /// How it ended.
    pub ending: Ending,
    /// The command that continues it.
    pub resume_command: String,
}

/// Trains by a recipe in a new run folder; `stop`, once true, ends the run with a checkpoint.
///
/// # Errors
/// Those of the data set, of the run folder and of the computation; where one comes before training, no folder is left.
pub fn start(recipe: &Recipe, folder: &Path, stop: &AtomicBool, observe: &mut dyn FnMut(Event<'_>)) -> Result<Run> {
    let clock = Instant::now();
    let data = Dataset::load(&recipe.data)?;
    let device = choose_device()?;
    let mut random = Random::new(recipe.train.seed);
    let model = Classifier::new(&recipe.model, &data.train, &mut random, &device.clone().autodiff())?;
    let lens = Lens::new(recipe, &data.train, &model, &device)?;
    let trainer = Chain::new().then(Identity).before(optimizer(&recipe.optimizer));
    let position =
        Position { epochs: 0, steps_in_epoch: 0, steps: 0, seconds: 0.0, metrics_bytes: 0, data: data.checksum() };
    let save = |dir: &Path| {
        save(dir, &model, &trainer, &random)?;
        Ok(position.clone())
    };
    let run = RunDir::create(folder, &recipe.to_toml(), save)?;
    Session { recipe: recipe.clone(), data, device, model, lens, trainer, random, position, run, clock }
        .go_on(stop, observe)
}

/// Continues the run in a run folder from its last checkpoint, in the same way as if it had never stopped; `overrides` may
/// set more epochs and the place of the data.
///
/// # Errors
/// Those of [`start`], and [`Error::Run`] or [`Error::Value`] where the folder is no run, is damaged, is done, or was made
/// with other data; the folder is then as it was.
pub fn resume(
    folder: &Path,
    overrides: &[Override],
    stop: &AtomicBool,
    observe: &mut dyn FnMut(Event<'_>),
) -> Result<Run> {
    let clock = Instant::now();
    let (checkpoint, position) = RunDir::inspect(folder)?;
    let file = RunDir::recipe_file(folder);
    let before = Recipe::load(Some(&file), &[])?;
    let recipe = Recipe::load(Some(&file), overrides)?;
    let epochs = recipe.train.epochs;
    let refuse = |expected: String| {
        let origin = folder.display().to_string();
        Err(Error::Value { origin, field: "train.epochs".into(), value: epochs.to_string(), expected })
    };
    if epochs != before.train.epochs && recipe.optimizer.schedule == Schedule::Cosine {
        return refuse(format!("{}, for which the cosine schedule was laid out", before.train.epochs));
    }
    if epochs <= position.epochs {
        return refuse(format!("more than the {} epochs done, by --epochs", position.epochs));
    }
    let data = Dataset::load(&recipe.data)?;
    if data.checksum() != position.data {
        return Err(Error::run(folder, "was made with other data than found now"));
    }
    let device = choose_device()?;
    let mut random = Random::new(recipe.train.seed);
    let model = Classifier::new(&recipe.model, &data.train, &mut random, &device.clone().autodiff())?;
    let model = load_model(&checkpoint, model)?;
    let lens = Lens::new(&recipe, &data.train, &model, &device)?;
    let mut trainer = Chain::new().then(Identity).before(optimizer(&recipe.optimizer));
    trainer.load(checkpoint.join(TRAINER), &device)?;
    random.load_state(State::load(checkpoint.join(RANDOM), &device)?)?;
    let run = RunDir::open(folder, &position)?;
    if recipe != before {
        run.replace_recipe(&recipe.to_toml())?;
    }
    Session { recipe, data, device, model, lens, trainer, random, position, run, clock }.go_on(stop, observe)
}

/// A run in progress.
struct Session {
    recipe: Recipe,
    data: Dataset,
    device: Device,
    model: Classifier,
    lens: Option<Lens>,
    trainer: Trainer,
    /// As of the beginning of the unfinished epoch.
    random: Random,
    position: Position,
    run: RunDir,
    clock: Instant,
}

/// Steps whose figures are still on the device.
#[derive(Default)]
struct Unread {
    steps: Vec<Step>,
    losses: Vec<Scalar>,
    norms: Vec<Scalar>,
}

impl Session {
    fn go_on(mut self, stop: &AtomicBool, observe: &mut dyn FnMut(Event<'_>)) -> Result<Run> {
        let seconds_before = self.position.seconds;
        let examples = self.data.train.len();
        let batch_size = self.recipe.train.batch_size;
        let steps_an_epoch = examples.div_ceil(batch_size) as u64;
        let epochs = self.recipe.train.epochs;
        let scale = self.data.train.mean_and_deviation();
        let autodiff = self.device.clone().autodiff();
        observe(Event::Begin { steps_done: self.position.steps, steps: epochs * steps_an_epoch, epochs });
        if self.position.steps == 0 {
            self.measure_spectrum()?;
        }

        let mut ending = Ending::Finished;
        'run: while self.position.epochs < epochs {
            let mut random = self.random.clone();
            let order = random.permutation(examples);
            let mut unread = Unread::default();
            let done = self.position.steps_in_epoch as usize;
            for indices in order.chunks(batch_size).skip(done) {
                let (images, labels) = batch(&self.data.train, indices, scale, &autodiff);
                let loss = self.model.loss(images, labels);
                unread.losses.push(Scalar::from_tensor(loss.clone()));
                let lr = learning_rate(&self.recipe.optimizer, self.position.steps, epochs * steps_an_epoch);
                let outcome = self.trainer.step(lr, self.model, loss).map_err(core_tensor::Error::from)?;
                let skipped = match outcome {
                    Outcome::Stepped { model, report } => {
                        self.model = model;
                        unread.norms.push(report.grad_norm);
                        None
                    }
                    Outcome::Skipped { model, why } => {
                        self.model = model;
                        unread.norms.push(f64::NAN.into());
                        Some(why)
                    }
                };
                self.position.steps += 1;
                self.position.steps_in_epoch += 1;
                let (step, epoch) = (self.position.steps, self.position.epochs + 1);
                unread.steps.push(Step { step, epoch, loss: f64::NAN, grad_norm: f64::NAN, lr, skipped });
                observe(Event::Step(step));
                let stopping = stop.load(Ordering::Relaxed) && self.position.steps_in_epoch < steps_an_epoch;
                if (unread.steps.len() >= READ_EVERY || stopping || self.position.steps_in_epoch == steps_an_epoch)
                    && let Some(diverged) = self.read(&mut unread)?
                {
                    ending = diverged;
                    break 'run;
                }
                if stopping {
                    ending = match self.check_weights() {
                        Some(diverged) => diverged,
                        None => {
                            self.checkpoint(seconds_before)?;
                            Ending::Interrupted
                        }
                    };
                    break 'run;
                }
            }
            self.position.epochs += 1;
            self.position.steps_in_epoch = 0;
            self.random = random;
            let epoch = self.measure_epoch(scale, seconds_before);
            observe(Event::Epoch(&epoch));
            let finite = epoch.train_loss.is_finite() && epoch.test_loss.is_finite();
            self.run.record(&Record::Epoch(epoch))?;
            let lost = (!finite).then_some(Ending::Diverged { step: self.position.steps, what: "the loss" });
            if let Some(diverged) = self.check_weights().or(lost) {
                ending = diverged;
                break;
            }
            if self.spectrum_is_due() {
                self.measure_spectrum()?;
            }
            self.checkpoint(seconds_before)?;
            if stop.load(Ordering::Relaxed) && self.position.epochs < epochs {
                ending = Ending::Interrupted;
                break;
            }
        }
        // After the last checkpoint: a run that is resumed for more epochs measures when it would have.
        if ending == Ending::Finished && !self.spectrum_is_due() {
            self.measure_spectrum()?;
        }
        self.finish(scale, ending)
    }

    /// Reads losses and norms from the device and records them; a loss that is not finite ends the run.
    fn read(&mut self, unread: &mut Unread) -> Result<Option<Ending>> {
        let losses = numbers(&mem::take(&mut unread.losses));
        let norms = numbers(&mem::take(&mut unread.norms));
        let mut diverged = None;
        for ((mut step, loss), grad_norm) in unread.steps.drain(..).zip(losses).zip(norms) {
            (step.loss, step.grad_norm) = (loss, grad_norm);
            if diverged.is_none() && !loss.is_finite() {
                diverged = Some(Ending::Diverged { step: step.step, what: "the loss" });
            }
            self.run.record(&Record::Step(step))?;
        }
        Ok(diverged)
    }

    /// Weights that are not finite end the run, so that no checkpoint holds any.
    fn check_weights(&self) -> Option<Ending> {
        let finite = Tree::from_module(&self.model).is_finite().value() == 1.0;
        (!finite).then_some(Ending::Diverged { step: self.position.steps, what: "a weight" })
    }

    fn checkpoint(&mut self, seconds_before: f64) -> Result<()> {
        self.position.seconds = seconds_before + self.clock.elapsed().as_secs_f64();
        self.position.metrics_bytes = self.run.metrics_bytes();
        let (model, trainer, random, position) = (&self.model, &self.trainer, &self.random, &self.position);
        self.run.checkpoint(|dir| {
            save(dir, model, trainer, random)?;
            Ok(position.clone())
        })
    }

    fn measure_epoch(&self, scale: (f64, f64), seconds_before: f64) -> Epoch {
        let model = self.model.valid();
        let few = MEASURED_EXAMPLES.min(self.data.train.len());
        let train = Measured::new(&model, &self.data.train, few, scale, &self.device);
        let test = Measured::new(&model, &self.data.test, self.data.test.len(), scale, &self.device);
        Epoch {
            epoch: self.position.epochs,
            step: self.position.steps,
            train_loss: train.loss,
            train_accuracy: train.accuracy,
            test_loss: test.loss,
            test_accuracy: test.accuracy,
            seconds: seconds_before + self.clock.elapsed().as_secs_f64(),
        }
    }

    fn spectrum_is_due(&self) -> bool {
        let every = self.recipe.spectrum.every;
        every > 0 && self.position.epochs.is_multiple_of(every)
    }

    fn measure_spectrum(&mut self) -> Result<()> {
        let Some(lens) = &self.lens else { return Ok(()) };
        let found = lens.look(&self.model)?;
        // Products that overflow say nothing about the curvature; the run goes on.
        if found.values.iter().chain(&found.residuals).all(|value| value.is_finite()) {
            self.run.record(&Record::Spectrum(Spectrum {
                epoch: self.position.epochs,
                step: self.position.steps,
                examples: lens.examples,
                products: found.products,
                eigenvalues: found.values,
                residuals: found.residuals,
            }))?;
        }
        Ok(())
    }

    fn finish(mut self, scale: (f64, f64), ending: Ending) -> Result<Run> {
        let metrics = self.run.metrics()?;
        let checkpoint = self.run.last_checkpoint()?;
        if matches!(ending, Ending::Diverged { .. }) {
            self.model = load_model(&checkpoint, self.model)?;
        }
        let folder = self.run.path().to_owned();
        let facts = Facts {
            parameters: self.model.num_params(),
            device: device_name(&self.device),
            train_examples: MEASURED_EXAMPLES.min(self.data.train.len()),
            test_examples: self.data.test.len(),
        };
        let program = if std::env::var_os("CARGO").is_some() { "cargo lab" } else { "lab" };
        let mut resume_command = format!("{program} train --resume {}", folder.display());
        if ending == Ending::Finished {
            resume_command += &format!(" --epochs {}", 2 * self.recipe.train.epochs);
        }
        let test = Measured::new(&self.model.valid(), &self.data.test, self.data.test.len(), scale, &self.device);
        let report = Report {
            name: &folder.file_name().unwrap_or(folder.as_os_str()).to_string_lossy(),
            resume: &resume_command,
            recipe: &self.recipe,
            facts: &facts,
            metrics: &metrics,
            ending: &ending,
            test: &self.data.test,
            predictions: &test.predictions,
        };
        self.run.write_report(&report.html())?;
        Ok(Run { folder, checkpoint, recipe: self.recipe, facts, metrics, ending, resume_command })
    }
}

/// What looks at the Hessian: the recorded mean loss of a fixed batch.
struct Lens {
    program: Program<(Tensor<4>, Tensor<1, Int>)>,
    batch: (Tensor<4>, Tensor<1, Int>),
    examples: usize,
    recipe: SpectrumRecipe,
    seed: u64,
}

impl Lens {
    /// `None` where the recipe wants no measurement.
    fn new(recipe: &Recipe, train: &Images, model: &Classifier, device: &Device) -> Result<Option<Self>> {
        if recipe.spectrum.every == 0 {
            return Ok(None);
        }
        let examples = recipe.spectrum.examples.min(train.len());
        let indices: Vec<usize> = (0..examples).collect();
        let batch = batch(train, &indices, train.mean_and_deviation(), device);
        let program = Program::record(model, &batch, |model: &Classifier, (images, labels)| {
            model.loss(images.clone(), labels.clone())
        })?;
        Ok(Some(Self { program, batch, examples, recipe: recipe.spectrum.clone(), seed: recipe.train.seed }))
    }

    fn look(&self, model: &Classifier) -> Result<lanczos::Eigenvalues> {
        let point = Tree::from_module(model);
        let start = Random::new(self.seed).fork("lanczos").normal_like(&point, 1.0);
        let here = self.program.linearize(&point, &self.batch)?;
        Ok(lanczos::top_eigenvalues(start, self.recipe.iterations, self.recipe.eigenvalues, |v| here.hvp(v))?)
    }
}

/// A model's results on images.
struct Measured {
    loss: f64,
    accuracy: f64,
    predictions: Predictions,
}

impl Measured {
    /// On the first `count` images, with the softmax in `f64` on the host.
    fn new(model: &Classifier, images: &Images, count: usize, scale: (f64, f64), device: &Device) -> Self {
        let mut predictions = Predictions { classes: Vec::new(), confidences: Vec::new() };
        let (mut loss, mut right) = (0.0, 0usize);
        let indices: Vec<usize> = (0..count).collect();
        for indices in indices.chunks(MEASURE_BATCH) {
            let (inputs, _) = batch(images, indices, scale, device);
            let logits: Vec<f64> = model.forward(inputs).into_data().iter::<f64>().collect();
            for (logits, &index) in logits.chunks(CLASSES).zip(indices) {
                let class = (0..CLASSES).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).expect("ten classes");
                let sum: f64 = logits.iter().map(|logit| (logit - logits[class]).exp()).sum();
                let label = usize::from(images.labels[index]);
                loss += sum.ln() + logits[class] - logits[label];
                right += usize::from(class == label);
                predictions.classes.push(class as u8);
                predictions.confidences.push(1.0 / sum);
            }
        }
        Self { loss: loss / count as f64, accuracy: right as f64 / count as f64, predictions }
    }
}

fn optimizer(recipe: &OptimizerRecipe) -> ModuleOptimizer {
    let decay = recipe.weight_decay as f32;
    let added = (decay > 0.0).then(|| WeightDecayConfig::new(decay));
    match recipe.name {
        OptimizerName::AdamW => AdamWConfig::new().with_weight_decay(decay).init(),
        OptimizerName::Adam => AdamConfig::new().with_weight_decay(added).init(),
        OptimizerName::Sgd => {
            // Burn's default dampening of 0.1 is not the textbook's momentum.
            let momentum = MomentumConfig::new().with_momentum(recipe.momentum).with_dampening(0.0);
            let momentum = (recipe.momentum > 0.0).then_some(momentum);
            SgdConfig::new().with_weight_decay(added).with_momentum(momentum).init()
        }
    }
}

/// The learning rate of the step after `done` of `steps`.
fn learning_rate(recipe: &OptimizerRecipe, done: u64, steps: u64) -> f64 {
    match recipe.schedule {
        Schedule::Constant => recipe.lr,
        Schedule::Cosine => recipe.lr * 0.5 * (1.0 + (std::f64::consts::PI * done as f64 / steps as f64).cos()),
    }
}

/// The device that BURN_DEVICE or the compiled-in backends choose, tried out.
pub(crate) fn choose_device() -> Result<Device> {
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    let result = panic::catch_unwind(|| {
        let device = Device::default();
        let _ = Tensor::<1>::ones([1], &device).into_data();
        device
    });
    panic::set_hook(hook);
    result.map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Error::Device(one_line(&text.unwrap_or_else(|| "the compute device does not answer".into())))
    })
}

/// Such as `flex`, or the text in which Burn names a graphics device.
pub(crate) fn device_name(device: &Device) -> String {
    let text = format!("{:?}", device.as_dispatch());
    let (backend, inner) = text.split_once('(').unwrap_or((&text, ""));
    match backend {
        "Cube" => inner.trim_end_matches(')').into(),
        _ => backend.to_lowercase(),
    }
}

fn save(dir: &Path, model: &Classifier, trainer: &Trainer, random: &Random) -> Result<()> {
    let file = dir.join(MODEL);
    model
        .clone()
        .into_record()
        .save(&file)
        .map_err(|error| Error::run(&file, format!("cannot be written: {error:?}")))?;
    trainer.save(dir.join(TRAINER))?;
    Ok(random.state().save(dir.join(RANDOM))?)
}

pub(crate) fn load_model(dir: &Path, model: Classifier) -> Result<Classifier> {
    let file = dir.join(MODEL);
    let damaged = |error| Error::run(&file, format!("cannot be loaded: {}", one_line(&format!("{error:?}"))));
    model.try_load_record(ModuleRecord::load(&file).map_err(damaged)?).map_err(damaged)
}

/// The numbers on the host, with one synchronisation where any is still on a device.
fn numbers(scalars: &[Scalar]) -> Vec<f64> {
    if let Some(known) = scalars.iter().map(Scalar::known).collect() {
        return known;
    }
    Tensor::cat(scalars.iter().map(Scalar::tensor).collect(), 0).into_data().iter::<f64>().collect()
}
