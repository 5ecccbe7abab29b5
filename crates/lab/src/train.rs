//! `lab train`: draw → loss → gradients → tree → transforms → optimizer, with checkpoints, measurements and a report.
//!
//! The techniques of a recipe and their order are in [`step`]; here is what goes on around a step. A checkpoint is taken at the end of
//! every epoch and on an interruption. The latter may fall inside an epoch: the checkpoint then holds the random state from the epoch's
//! beginning and the number of steps done since, from which the order of examples is drawn again. So a resumed run goes through the same
//! steps with the same numbers as one that never stopped.

pub mod adversarial;
pub mod average;
pub mod bilevel;
pub mod clipping;
pub mod feed;
pub mod multitask;
pub mod objective;
pub mod precision;
pub mod schedule;
pub mod step;

use std::mem;
use std::panic;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use burn::module::Module;
use burn::store::ModuleRecord;
use burn::tensor::{Device, Tensor};
use core_tensor::transform::State;
use core_tensor::{Program, Random, Scalar, Tree};

use self::adversarial::{check_classes, replays, robust_accuracy};
use self::feed::{Feed, Part};
use self::objective::{Batch, ExampleLoss, PixelScale, summed};
use self::step::{Pipeline, Stepped};
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::lanczos;
use crate::metrics::{Epoch, Metrics, Record, Robust, Spectrum, Step};
use crate::model::{Classifier, batch};
use crate::recipe::{Keep, Metric, Override, Recipe, RobustMethod, Schedule, SpectrumRecipe, one_line};
use crate::report::{Predictions, Report};
use crate::run_dir::{Best, Position, RunDir};
use crate::summary::{Ending, Facts};

/// Losses and norms are read from the device after so many steps.
const READ_EVERY: usize = 25;
/// Images a batch when only measuring.
const MEASURE_BATCH: usize = 500;
/// The training loss and accuracy of an epoch are those of the first so many training examples.
const MEASURED_EXAMPLES: usize = 10_000;

const MODEL: &str = "model.bpk";
const AVERAGE: &str = "average.bpk";
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
    let parts = Parts::load(recipe)?;
    let mut random = Random::new(recipe.train.seed);
    let model = parts.model(recipe, &mut random)?;
    let lens = Lens::new(recipe, &parts, &model)?;
    let pipeline = Pipeline::new(recipe, &model, &parts.train, parts.scale)?;
    let position = Position::start(parts.data.checksum());
    let save = |dir: &Path| {
        save(dir, &model, &pipeline, &random)?;
        Ok(position.clone())
    };
    let run = RunDir::create(folder, &recipe.to_toml(), save)?;
    Session { recipe: recipe.clone(), parts, model, lens, pipeline, random, position, run, clock }.go_on(stop, observe)
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
    if let Some(why) = &position.done {
        return Err(Error::run(folder, format!("is done: {why}")));
    }
    if epochs != before.train.epochs && recipe.optimizer.schedule == Schedule::Cosine {
        return refuse(format!("{}, for which the cosine schedule was laid out", before.train.epochs));
    }
    if epochs <= position.epochs {
        return refuse(format!("more than the {} epochs done, by --epochs", position.epochs));
    }
    let parts = Parts::load(&recipe)?;
    if parts.data.checksum() != position.data {
        return Err(Error::run(folder, "was made with other data than found now"));
    }
    let mut random = Random::new(recipe.train.seed);
    let model = load_model(&checkpoint, parts.model(&recipe, &mut random)?)?;
    let lens = Lens::new(&recipe, &parts, &model)?;
    let mut pipeline = Pipeline::new(&recipe, &model, &parts.train, parts.scale)?;
    pipeline.load(&checkpoint, &parts.device)?;
    random.load_state(State::load(checkpoint.join(RANDOM), &parts.device)?)?;
    let run = RunDir::open(folder, &position)?;
    if recipe != before {
        run.replace_recipe(&recipe.to_toml())?;
    }
    Session { recipe, parts, model, lens, pipeline, random, position, run, clock }.go_on(stop, observe)
}

/// A trained model.
pub(crate) struct Trained {
    /// In inference mode, of the last checkpoint.
    pub model: Classifier,
    /// What it was trained on.
    pub data: Dataset,
    /// Where it is.
    pub device: Device,
    /// Steps of its training.
    pub steps: u64,
}

/// What a run folder holds.
///
/// # Errors
/// Those of [`resume`] up to the training.
pub(crate) fn trained(folder: &Path, overrides: &[Override]) -> Result<Trained> {
    let (checkpoint, position) = RunDir::inspect(folder)?;
    let recipe = Recipe::load(Some(&RunDir::recipe_file(folder)), overrides)?;
    let parts = Parts::load(&recipe)?;
    if parts.data.checksum() != position.data {
        return Err(Error::run(folder, "was made with other data than found now"));
    }
    let model = load_model(&checkpoint, parts.model(&recipe, &mut Random::new(recipe.train.seed))?)?;
    Ok(Trained { model: model.valid(), data: parts.data, device: parts.device, steps: position.steps })
}

/// The data of a run, and the device it goes to.
struct Parts {
    data: Dataset,
    train: Feed,
    validation: Feed,
    test: Feed,
    scale: PixelScale,
    device: Device,
}

impl Parts {
    fn load(recipe: &Recipe) -> Result<Self> {
        let data = Dataset::load(&recipe.data)?;
        check_classes(&recipe.adversarial, data.classes.len())?;
        let device = choose_device()?;
        let feed = |part| Feed::new(&data, part, recipe.multitask.tasks, &device);
        let [train, validation, test] = [Part::Train, Part::Validation, Part::Test].map(feed);
        let scale = data.train.mean_and_deviation();
        Ok(Self { data, train, validation, test, scale, device })
    }

    fn model(&self, recipe: &Recipe, random: &mut Random) -> Result<Classifier> {
        let device = self.device.clone().autodiff();
        Classifier::with_heads(&recipe.model, &self.data.train, self.train.classes(), random, &device)
    }
}

/// A run in progress.
struct Session {
    recipe: Recipe,
    parts: Parts,
    model: Classifier,
    lens: Option<Lens>,
    pipeline: Pipeline,
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
        let examples = self.parts.train.len();
        let batch_size = self.recipe.train.batch_size;
        let replays = replays(&self.recipe.adversarial);
        let steps_an_epoch = (examples.div_ceil(batch_size) * replays) as u64;
        let epochs = self.recipe.train.epochs;
        observe(Event::Begin { steps_done: self.position.steps, steps: epochs * steps_an_epoch, epochs });
        if self.position.steps == 0 {
            self.measure_spectrum()?;
        }

        let (mut ending, mut spent) = (Ending::Finished, false);
        'run: while self.position.epochs < epochs {
            let mut random = self.random.clone();
            let order = random.permutation(examples);
            let batches: Vec<&[usize]> = order.chunks(batch_size).collect();
            let mut unread = Unread::default();
            for step_in_epoch in self.position.steps_in_epoch..steps_an_epoch {
                let indices = batches[step_in_epoch as usize / replays];
                let lr = schedule::learning_rate(&self.recipe.optimizer, self.position.steps, steps_an_epoch, epochs);
                let (train, validation) = (&self.parts.train, &self.parts.validation);
                let (model, stepped) = self.pipeline.step(self.model, lr, indices, train, validation)?;
                self.model = model;
                let Stepped { loss, grad_norm, lr, skipped } = stepped;
                unread.losses.push(loss);
                unread.norms.push(grad_norm);
                self.position.steps += 1;
                self.position.steps_in_epoch += 1;
                let (step, epoch) = (self.position.steps, self.position.epochs + 1);
                unread.steps.push(Step { step, epoch, loss: f64::NAN, grad_norm: f64::NAN, lr, skipped });
                observe(Event::Step(step));
                spent = self.pipeline.is_spent()?;
                let last = spent || self.position.steps_in_epoch == steps_an_epoch;
                let stopping = stop.load(Ordering::Relaxed) && !last;
                if (unread.steps.len() >= READ_EVERY || stopping || last)
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
                if spent {
                    break;
                }
            }
            self.position.epochs += 1;
            self.position.steps_in_epoch = 0;
            self.random = random;
            let epoch = self.measure_epoch(seconds_before)?;
            observe(Event::Epoch(&epoch));
            let finite = epoch.train_loss.is_finite() && epoch.test_loss.is_finite();
            let metric = self.metric(&epoch);
            self.run.record(&Record::Epoch(epoch))?;
            let lost = (!finite).then_some(Ending::Diverged { step: self.position.steps, what: "the loss" });
            if let Some(diverged) = self.check_weights().or(lost) {
                ending = diverged;
                break;
            }
            if self.spectrum_is_due() {
                self.measure_spectrum()?;
            }
            if self.robust_is_due() {
                self.measure_robust()?;
            }
            let stale = self.judge(metric)?;
            if spent {
                let epsilon = self.pipeline.epsilon()?.unwrap_or(f64::INFINITY);
                self.position.done = Some(format!("the privacy budget is spent (epsilon {epsilon:.3})"));
                ending = Ending::BudgetSpent;
            } else if stale {
                let best = self.position.best.as_ref().map_or(0, |best| best.epoch);
                let patience = self.recipe.train.patience;
                self.position.done = Some(format!("nothing better in {patience} epochs after epoch {best}"));
                ending = Ending::StoppedEarly { best };
            }
            self.checkpoint(seconds_before)?;
            if self.position.done.is_some() {
                break;
            }
            if stop.load(Ordering::Relaxed) && self.position.epochs < epochs {
                ending = Ending::Interrupted;
                break;
            }
        }
        // After the last checkpoint: a run that is resumed for more epochs measures when it would have.
        if !matches!(ending, Ending::Diverged { .. } | Ending::Interrupted) {
            if !self.spectrum_is_due() {
                self.measure_spectrum()?;
            }
            if !self.robust_is_due() {
                self.measure_robust()?;
            }
        }
        self.finish(ending)
    }

    /// Reads losses and norms from the device and records them; a loss that is not finite ends the run.
    fn read(&mut self, unread: &mut Unread) -> Result<Option<Ending>> {
        let losses = numbers(&mem::take(&mut unread.losses));
        let norms = numbers(&mem::take(&mut unread.norms));
        let mut diverged = None;
        for ((mut step, loss), grad_norm) in unread.steps.drain(..).zip(losses).zip(norms) {
            (step.loss, step.grad_norm) = (loss, grad_norm);
            // Under DP a step may have drawn no example, and then it has no loss.
            if diverged.is_none() && !loss.is_finite() && !self.recipe.is_private() {
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
        let (model, pipeline, random, position) = (&self.model, &self.pipeline, &self.random, &self.position);
        self.run.checkpoint(|dir| {
            save(dir, model, pipeline, random)?;
            Ok(position.clone())
        })
    }

    /// Keeps the model if its metric is the best so far; whether it has not been for longer than patience has.
    fn judge(&mut self, metric: Option<f64>) -> Result<bool> {
        let Some(value) = metric else { return Ok(false) };
        let epoch = self.position.epochs;
        let better = self.position.best.as_ref().is_none_or(|best| match self.recipe.train.metric {
            Metric::Loss => value < best.value,
            Metric::Accuracy | Metric::RobustAccuracy => value > best.value,
        });
        if better {
            self.position.best = Some(Best { epoch, value });
            if self.recipe.train.keep == Keep::Best {
                let (model, pipeline, random, position) = (&self.model, &self.pipeline, &self.random, &self.position);
                self.run.keep_best(|dir| {
                    save(dir, model, pipeline, random)?;
                    Ok(position.clone())
                })?;
            }
        }
        let since = epoch - self.position.best.as_ref().map_or(epoch, |best| best.epoch);
        Ok(self.recipe.train.patience > 0 && since >= self.recipe.train.patience)
    }

    /// The number that patience and the best checkpoint go by, where one of them wants it.
    fn metric(&self, epoch: &Epoch) -> Option<f64> {
        let train = &self.recipe.train;
        if train.patience == 0 && train.keep == Keep::Last {
            return None;
        }
        match train.metric {
            Metric::Accuracy => epoch.validation_accuracy,
            Metric::Loss => epoch.validation_loss,
            Metric::RobustAccuracy => epoch.validation_robust_accuracy,
        }
    }

    fn measure_epoch(&self, seconds_before: f64) -> Result<Epoch> {
        let model = self.pipeline.measured(&self.model)?.valid();
        let measure =
            |feed: &Feed, count: usize| Measured::new(&model, feed, count, self.parts.scale, &self.parts.device);
        let (train, validation, test) = (&self.parts.train, &self.parts.validation, &self.parts.test);
        let on_train = measure(train, MEASURED_EXAMPLES.min(train.len()));
        let on_validation = (!validation.is_empty()).then(|| measure(validation, validation.len()));
        let on_test = measure(test, test.len());
        let judged = self.recipe.train.metric == Metric::RobustAccuracy && !validation.is_empty();
        let robust = judged.then(|| robust_accuracy(&self.recipe.adversarial, &model, validation, self.parts.scale));
        Ok(Epoch {
            epoch: self.position.epochs,
            step: self.position.steps,
            train_loss: on_train.loss,
            train_accuracy: on_train.accuracies[0],
            test_loss: on_test.loss,
            test_accuracy: on_test.accuracies[0],
            validation_loss: on_validation.as_ref().map(|measured| measured.loss),
            validation_accuracy: on_validation.as_ref().map(|measured| measured.accuracies[0]),
            validation_robust_accuracy: robust.transpose()?,
            task_accuracies: on_test.accuracies[1..].to_vec(),
            learned: self.pipeline.learned(),
            epsilon: self.pipeline.epsilon()?,
            seconds: seconds_before + self.clock.elapsed().as_secs_f64(),
        })
    }

    fn spectrum_is_due(&self) -> bool {
        let every = self.recipe.spectrum.every;
        every > 0 && self.position.epochs.is_multiple_of(every)
    }

    fn robust_is_due(&self) -> bool {
        let every = self.recipe.adversarial.every;
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

    fn measure_robust(&mut self) -> Result<()> {
        let table = &self.recipe.adversarial;
        if table.method == RobustMethod::None {
            return Ok(());
        }
        let (test, scale) = (&self.parts.test, self.parts.scale);
        let model = self.pipeline.measured(&self.model)?.valid();
        let examples = table.evaluation_examples.min(test.len());
        let clean = Measured::new(&model, test, examples, scale, &self.parts.device).accuracies[0];
        let robust = robust_accuracy(table, &model, test, scale)?;
        let (epoch, step) = (self.position.epochs, self.position.steps);
        self.run.record(&Record::Robust(Robust {
            epoch,
            step,
            examples,
            clean_accuracy: clean,
            robust_accuracy: robust,
        }))
    }

    fn finish(mut self, ending: Ending) -> Result<Run> {
        let metrics = self.run.metrics()?;
        let checkpoint = self.run.last_checkpoint()?;
        if matches!(ending, Ending::Diverged { .. }) {
            self.model = load_model(&checkpoint, self.model)?;
            self.pipeline.load(&checkpoint, &self.parts.device)?;
        }
        let folder = self.run.path().to_owned();
        let test = &self.parts.test;
        let facts = Facts {
            parameters: self.model.num_params(),
            device: device_name(&self.parts.device),
            train_examples: MEASURED_EXAMPLES.min(self.parts.train.len()),
            test_examples: test.len(),
            tasks: test.names().to_vec(),
        };
        let program = if std::env::var_os("CARGO").is_some() { "cargo lab" } else { "lab" };
        let mut resume_command = format!("{program} train --resume {}", folder.display());
        if ending == Ending::Finished {
            resume_command += &format!(" --epochs {}", 2 * self.recipe.train.epochs);
        }
        let model = self.pipeline.measured(&self.model)?.valid();
        let measured = Measured::new(&model, test, test.len(), self.parts.scale, &self.parts.device);
        let report = Report {
            name: &folder.file_name().unwrap_or(folder.as_os_str()).to_string_lossy(),
            resume: &resume_command,
            recipe: &self.recipe,
            facts: &facts,
            metrics: &metrics,
            ending: &ending,
            test: test.images(),
            classes: &self.parts.data.classes,
            predictions: &measured.predictions,
        };
        self.run.write_report(&report.html())?;
        Ok(Run { folder, checkpoint, recipe: self.recipe, facts, metrics, ending, resume_command })
    }
}

/// What looks at the Hessian: the recorded mean loss of a fixed batch, summed over tasks.
struct Lens {
    program: Program<Batch>,
    batch: Batch,
    examples: usize,
    recipe: SpectrumRecipe,
    seed: u64,
}

impl Lens {
    /// `None` where the recipe wants no measurement.
    fn new(recipe: &Recipe, parts: &Parts, model: &Classifier) -> Result<Option<Self>> {
        if recipe.spectrum.every == 0 {
            return Ok(None);
        }
        let examples = recipe.spectrum.examples.min(parts.train.len());
        let indices: Vec<usize> = (0..examples).collect();
        let (images, labels) = parts.train.batch(&indices);
        let batch = (images.clone(), images, labels);
        let scale = parts.scale;
        let program = Program::record(model, &batch, move |model: &Classifier, batch: &Batch| {
            summed(model, batch, scale, ExampleLoss::CrossEntropy)
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
    /// Mean loss of the first task.
    loss: f64,
    /// Of each task.
    accuracies: Vec<f64>,
    /// Of the first task.
    predictions: Predictions,
}

impl Measured {
    /// On the first `count` images, with the softmax in `f64` on the host.
    fn new(model: &Classifier, feed: &Feed, count: usize, scale: PixelScale, device: &Device) -> Self {
        let mut predictions = Predictions { classes: Vec::new(), confidences: Vec::new() };
        let (mut loss, mut right) = (0.0, vec![0usize; feed.classes().len()]);
        let indices: Vec<usize> = (0..count).collect();
        for indices in indices.chunks(MEASURE_BATCH) {
            let (inputs, _) = batch(feed.images(), indices, scale, device);
            for (task, logits) in model.logits(inputs).into_iter().enumerate() {
                let classes = feed.classes()[task];
                let logits: Vec<f64> = logits.into_data().iter::<f64>().collect();
                for (logits, &index) in logits.chunks(classes).zip(indices) {
                    let class =
                        (0..classes).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).expect("there are classes");
                    let label = usize::from(feed.labels()[task][index]);
                    right[task] += usize::from(class == label);
                    if task == 0 {
                        let sum: f64 = logits.iter().map(|logit| (logit - logits[class]).exp()).sum();
                        loss += sum.ln() + logits[class] - logits[label];
                        predictions.classes.push(class as u8);
                        predictions.confidences.push(1.0 / sum);
                    }
                }
            }
        }
        let accuracies = right.into_iter().map(|right| right as f64 / count as f64).collect();
        Self { loss: loss / count as f64, accuracies, predictions }
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

/// Writes a checkpoint: the model, with averaged weights beside it where these are kept, the techniques and the random state.
fn save(dir: &Path, model: &Classifier, pipeline: &Pipeline, random: &Random) -> Result<()> {
    // Running statistics wait beside the model until they are asked for, and a record does not ask.
    let _ = model.valid();
    let write = |model: Classifier, name: &str| {
        let file = dir.join(name);
        let record = model.into_record();
        record.save(&file).map_err(|error| Error::run(&file, format!("cannot be written: {error:?}")))
    };
    write(model.clone(), MODEL)?;
    if pipeline.averages() {
        write(pipeline.measured(model)?, AVERAGE)?;
    }
    pipeline.save(dir)?;
    Ok(random.state().save(dir.join(RANDOM))?)
}

fn load_model(dir: &Path, model: Classifier) -> Result<Classifier> {
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
