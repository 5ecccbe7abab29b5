//! A classifier recorded for robust training: input gradients, parameter gradients, or both from one backward pass.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use burn::module::Module;
use burn::tensor::activation::{log_softmax, softmax};
use burn::tensor::{Int, Tensor};
use core_tensor::{Batch, Frozen, Gradient, Program, Tree};

use super::Mode;
use crate::error::{Error, Result};

/// Classes, one an example.
pub(crate) type Labels = Tensor<1, Int>;

type Forward<M, const D: usize> = Arc<dyn Fn(&M, Tensor<D>) -> Tensor<2> + Send + Sync>;

/// The functions of a classifier that robust training differentiates, each recorded when first needed.
///
/// `forward(model, inputs)` gives logits, shape `[examples, classes]`, for inputs whose first axis is the examples. From it are made
/// (as [`Program`]s, 2 to 4 times as fast as Burn's tape, and no gradient is computed that is not asked for):
///
/// | function | differentiated in | model | used by |
/// |---|---|---|---|
/// | cross-entropy | inputs | frozen, in evaluation mode unless asked otherwise | PGD, MART, Fast, WRM |
/// | `KL(p ‖ softmax h(x))` for given `p` | inputs | the same | TRADES |
/// | cross-entropy; the losses of TRADES and MART | parameters | in its own mode | all |
/// | cross-entropy | inputs and parameters at once | in its own mode | Free |
///
/// **Modes.** In evaluation mode ([`Module::valid`]) dropout is off and batch normalisation reads its running statistics, which stay
/// as they are: attacking never moves them. The gradient of the parameters is taken in the mode that each layer's own flag says, as
/// Burn's training does. A recording cannot write running statistics, so a method ends with one forward pass at its adversarial
/// points that moves those of the model (and of its clones, which share them), if a forward pass in training mode changes any at all;
/// a model without pays nothing.
///
/// Frozen parameters and flags are those of the model that was recorded. Other shapes of batches are recorded when first met.
///
/// ```
/// use adversarial::training::RobustProgram;
/// use burn::nn::LinearConfig;
/// use burn::tensor::{Device, Int, Tensor};
///
/// let device = Device::default();
/// let model = LinearConfig::new(2, 3).init(&device);
/// let x = Tensor::<2>::from_data([[0.1, 0.9], [0.8, 0.2]], &device);
/// let y = Tensor::<1, Int>::from_data([0, 2], &device);
/// let program = RobustProgram::record(&model, &x, |model, x| model.forward(x))?;
/// assert_eq!((program.classes(), program.running_state().len()), (3, 0));
/// println!("accuracy {}", program.accuracy(&model, x, &y)?);
/// # Ok::<(), adversarial::Error>(())
/// ```
pub struct RobustProgram<M, const D: usize> {
    model: M,
    forward: Forward<M, D>,
    classes: usize,
    /// Paths of what a forward pass in training mode changes.
    running: Vec<String>,
    attack: [Slot<(Frozen<M>, Labels)>; 2],
    divergence: [Slot<(Frozen<M>, Tensor<2>)>; 2],
    loss: Slot<(Tensor<D>, Labels)>,
    pair: [Slot<(Tensor<D>, Tensor<D>, Labels, Tensor<1>)>; 2],
    joint: Slot<Labels>,
}

/// A loss of clean and adversarial points together.
#[derive(Clone, Copy, Debug)]
pub(crate) enum PairLoss {
    Trades,
    Mart,
}

/// Cross-entropy's derivatives at one point.
pub(crate) struct Joint<const D: usize> {
    pub gradient: Gradient,
    pub inputs: Tensor<D>,
}

impl<M: Module + Sync + 'static, const D: usize> RobustProgram<M, D> {
    /// Prepares a model's forward pass; `inputs` are any batch.
    ///
    /// Cost: two forward passes (one in evaluation mode for the number of classes, one on a copy in training mode to see what it
    /// changes).
    ///
    /// # Errors
    /// [`Error::EmptyBatch`]; [`Error::Shape`] unless there is a row of logits for each example.
    pub fn record(
        model: &M,
        inputs: &Tensor<D>,
        forward: impl Fn(&M, Tensor<D>) -> Tensor<2> + Send + Sync + 'static,
    ) -> Result<Self> {
        let examples = inputs.dims()[0];
        if examples == 0 {
            return Err(Error::EmptyBatch { what: "recording a classifier" });
        }
        let logits = forward(&model.valid(), inputs.clone().inner());
        let [rows, classes] = logits.dims();
        if rows != examples {
            let expected = format!("[{examples}, classes], a row for each example");
            return Err(Error::Shape { what: "the logits", actual: vec![rows, classes], expected });
        }
        let mut program = Self {
            model: model.clone(),
            forward: Arc::new(forward),
            classes,
            running: Vec::new(),
            attack: Default::default(),
            divergence: Default::default(),
            loss: Slot::default(),
            pair: Default::default(),
            joint: Slot::default(),
        };
        let before = model.valid();
        let fixed = fixed(&before);
        if !fixed.is_empty() {
            let after = program.after_training_pass(model, inputs);
            let changed = fixed.to_data().into_iter().zip(after.to_data()).filter(|((_, a), (_, b))| a != b);
            program.running = changed.map(|((path, _), _)| path).collect();
        }
        Ok(program)
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// Paths of the running statistics that training moves.
    pub fn running_state(&self) -> &[String] {
        &self.running
    }

    /// Logits in evaluation mode, without a gradient.
    pub fn logits(&self, model: &M, inputs: Tensor<D>) -> Tensor<2> {
        (self.forward)(&model.valid(), inputs.inner())
    }

    /// The part of the examples that the model classifies as labelled, in evaluation mode. A row with a logit that is not a number
    /// counts as wrong.
    ///
    /// # Errors
    /// [`Error::EmptyBatch`], [`Error::Shape`], [`Error::Label`].
    pub fn accuracy(&self, model: &M, inputs: Tensor<D>, labels: &Tensor<1, Int>) -> Result<f64> {
        self.check(&inputs, labels, "an accuracy")?;
        let logits: Vec<f64> = self.logits(model, inputs).into_data().iter::<f64>().collect();
        let rows = logits.chunks(self.classes).zip(labels.to_data().iter::<i64>().collect::<Vec<_>>());
        // NaN fails every comparison.
        let right = rows.filter(|(row, label)| {
            let own = row[*label as usize];
            row.iter().enumerate().all(|(i, z)| i == *label as usize || own > *z) && !own.is_nan()
        });
        Ok(right.count() as f64 / labels.dims()[0] as f64)
    }

    /// Takes the model's running statistics through one forward pass in training mode; gives the number of forward passes made.
    ///
    /// # Errors
    /// None but those of a model of another structure than the recorded one.
    pub(crate) fn observe(&self, model: &M, inputs: &Tensor<D>) -> Result<u64> {
        if self.running.is_empty() {
            return Ok(0);
        }
        let after = self.after_training_pass(model, inputs).filter(|name| self.running.contains(&name.path));
        // Clones share running state, so that this writes the model's.
        after.write_into(model.clone())?;
        Ok(1)
    }

    /// What is not trainable, after a forward pass of a copy in training mode.
    fn after_training_pass(&self, model: &M, inputs: &Tensor<D>) -> Tree {
        // `valid` gives running state storage of its own, `train` restores flags.
        let copy = model.valid().train().no_grad();
        let _ = (self.forward)(&copy, Tensor::from_inner(inputs.clone().inner()));
        let after = copy.valid();
        let trainable = Tree::from_module(&model.valid());
        Tree::from_module_all(&after).filter(|name| trainable.position(&name.path).is_none())
    }

    /// The model as attacked.
    pub(crate) fn frozen(&self, model: &M, mode: Mode) -> Frozen<M> {
        Frozen(match mode {
            Mode::Evaluation => model.valid(),
            Mode::Training => model.clone(),
        })
    }

    /// Checks a batch.
    pub(crate) fn check(&self, inputs: &Tensor<D>, labels: &Labels, what: &'static str) -> Result<()> {
        let examples = inputs.dims()[0];
        if examples == 0 {
            return Err(Error::EmptyBatch { what });
        }
        let [count] = labels.dims();
        if count != examples {
            let expected = format!("[{examples}], one for each example");
            return Err(Error::Shape { what: "the label", actual: vec![count], expected });
        }
        let classes = self.classes;
        let data = labels.to_data();
        match data.iter::<i64>().enumerate().find(|(_, label)| *label < 0 || *label >= classes as i64) {
            None => Ok(()),
            Some((example, label)) => Err(Error::Label { what: "the label", example, label, classes }),
        }
    }

    /// `∇ₓ Σ CE(h(x), y)`, and the inputs back.
    pub(crate) fn attack_gradient(
        &self,
        batch: &(Frozen<M>, Labels),
        mode: Mode,
        inputs: Tensor<D>,
        seed: u64,
    ) -> Result<[Tensor<D>; 2]> {
        let forward = self.forward.clone();
        let record = |point: &Tree| {
            let none = Tree::empty();
            Program::record_pair(("x", point), ("", &none), batch, move |x: &Tree, _: &Tree, (model, y)| {
                cross_entropies(forward(&model.0, inputs_of(x)), y).sum()
            })
        };
        input_gradient(&self.attack[mode as usize], record, batch, inputs, (mode == Mode::Training).then_some(seed))
    }

    /// `∇ₓ Σ KL(p ‖ softmax h(x))`, and the inputs back.
    pub(crate) fn divergence_gradient(
        &self,
        batch: &(Frozen<M>, Tensor<2>),
        mode: Mode,
        inputs: Tensor<D>,
        seed: u64,
    ) -> Result<[Tensor<D>; 2]> {
        let forward = self.forward.clone();
        let record = |point: &Tree| {
            let none = Tree::empty();
            Program::record_pair(("x", point), ("", &none), batch, move |x: &Tree, _: &Tree, (model, p)| {
                // Without the entropy of `p`, which has no gradient.
                (log_softmax(forward(&model.0, inputs_of(x)), 1) * p.clone()).sum().neg()
            })
        };
        input_gradient(&self.divergence[mode as usize], record, batch, inputs, (mode == Mode::Training).then_some(seed))
    }

    /// Mean cross-entropy and its gradient in the parameters.
    pub(crate) fn loss_gradient(
        &self,
        point: &Tree,
        inputs: Tensor<D>,
        labels: &Labels,
        seed: u64,
    ) -> Result<Gradient> {
        let batch = (inputs, labels.clone());
        let forward = self.forward.clone();
        let program = self.loss.get(PARAMETERS, || {
            Program::record_first_order(&self.model, &batch, move |model, (x, y): &(Tensor<D>, Labels)| {
                cross_entropies(forward(model, x.clone()), y).mean()
            })
        })?;
        program.reseed(seed);
        Ok(program.value_and_grad(point, &batch)?)
    }

    /// A loss of clean and adversarial inputs, and its gradient in the parameters.
    pub(crate) fn pair_gradient(
        &self,
        loss: PairLoss,
        point: &Tree,
        [clean, adversarial]: [Tensor<D>; 2],
        labels: &Labels,
        weight: f64,
        seed: u64,
    ) -> Result<Gradient> {
        let weight = Tensor::<1>::from_data([weight], (&clean.device(), clean.dtype()));
        let batch = (clean, adversarial, labels.clone(), weight);
        let forward = self.forward.clone();
        let program = self.pair[loss as usize].get(PARAMETERS, || {
            Program::record_first_order(&self.model, &batch, move |model, batch: &(Tensor<D>, Tensor<D>, Labels, _)| {
                let (x, adversarial, y, weight) = batch;
                let [clean, adversarial] = [x, adversarial].map(|x| forward(model, x.clone()));
                let (fit, penalty) = match loss {
                    PairLoss::Trades => super::trades::parts(clean, adversarial, y),
                    PairLoss::Mart => super::mart::parts(clean, adversarial, y),
                };
                fit + penalty * weight.clone()
            })
        })?;
        program.reseed(seed);
        Ok(program.value_and_grad(point, &batch)?)
    }

    /// Mean cross-entropy and its gradients in parameters and inputs, from one forward and one backward pass.
    pub(crate) fn joint_gradient(
        &self,
        point: &Tree,
        inputs: Tensor<D>,
        labels: &Labels,
        seed: u64,
    ) -> Result<Joint<D>> {
        let examples = inputs.dims()[0];
        let inputs = Tree::empty().push("inputs", inputs)?;
        let forward = self.forward.clone();
        let program = self.joint.get(examples, || {
            let parts = (("model", &self.model), ("", &inputs));
            Program::record_pair(parts.0, parts.1, labels, move |model: &M, x: &Tree, y: &Labels| {
                cross_entropies(forward(model, inputs_of(x)), y).mean()
            })
        })?;
        program.reseed(seed);
        let whole = Program::<Labels>::pair(("model", point), ("", &inputs))?;
        let out = program.value_and_grad(&whole, labels)?;
        let (gradient, slopes) = split(out)?;
        let inputs = match slopes.is_empty() {
            false => slopes.get("inputs")?,
            true => inputs.get::<D>("inputs")?.zeros_like(),
        };
        Ok(Joint { gradient, inputs })
    }
}

/// Splits the gradient of a pair `model`, `""` and takes the prefixes off.
pub(crate) fn split(out: Gradient) -> Result<(Gradient, Tree)> {
    let bare = |path: &str| path.split_once('/').map_or_else(|| path.to_string(), |(_, path)| path.to_string());
    let of_model = |path: &str| path.starts_with("model/");
    let (gradient, rest) = out.gradient.partition(|name| of_model(&name.path));
    let [gradient, rest] = [gradient, rest].map(|tree| {
        Tree::from_leaves(tree.into_leaves().map(|(mut name, leaf)| {
            name.path = bare(&name.path);
            (name, leaf)
        }))
    });
    let absent = out.absent.iter().filter(|path| of_model(path)).map(|path| bare(path)).collect();
    Ok((Gradient { value: out.value, gradient: gradient?, absent }, rest?))
}

fn inputs_of<const D: usize>(x: &Tree) -> Tensor<D> {
    x.get("inputs").expect("the leaf that was pushed")
}

/// Runs an input gradient; gives the inputs back so that they can be moved in place.
pub(crate) fn input_gradient<B: Batch, const D: usize>(
    slot: &Slot<B>,
    record: impl FnOnce(&Tree) -> core_tensor::Result<Program<B>>,
    batch: &B,
    inputs: Tensor<D>,
    seed: Option<u64>,
) -> Result<[Tensor<D>; 2]> {
    let examples = inputs.dims()[0];
    let part = Tree::empty().push("inputs", inputs)?;
    let program = slot.get(examples, || record(&part))?;
    if let Some(seed) = seed {
        program.reseed(seed);
    }
    let point = Program::<B>::pair(("x", &part), ("", &Tree::empty()))?;
    drop(part);
    let out = program.value_and_grad(&point, batch)?;
    let inputs = point.get::<D>("x/inputs")?;
    let gradient = match out.absent.is_empty() {
        true => out.gradient.get::<D>("x/inputs")?,
        false => inputs.zeros_like(),
    };
    Ok([inputs, gradient])
}

/// `−log softmax(z)_y` of each row.
pub(crate) fn cross_entropies(logits: Tensor<2>, labels: &Labels) -> Tensor<1> {
    log_softmax(logits, 1).gather(1, labels.clone().unsqueeze_dim::<2>(1)).squeeze_dim::<1>(1).neg()
}

/// `KL(softmax p ‖ softmax q)` of each row of logits.
pub(crate) fn divergences(p: Tensor<2>, q: Tensor<2>) -> Tensor<1> {
    let log = log_softmax(p.clone(), 1) - log_softmax(q, 1);
    (softmax(p, 1) * log).sum_dim(1).squeeze_dim::<1>(1)
}

/// What of a module is not trainable: frozen parameters and running state.
fn fixed<M: Module>(model: &M) -> Tree {
    let trainable = Tree::from_module(model);
    Tree::from_module_all(model).filter(|name| trainable.position(&name.path).is_none())
}

/// A program recorded when first needed, one for each number of examples in its point.
pub(crate) struct Slot<B>(Mutex<HashMap<usize, Arc<Program<B>>>>);

impl<B> Default for Slot<B> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<B> Slot<B> {
    pub fn get(
        &self,
        examples: usize,
        record: impl FnOnce() -> core_tensor::Result<Program<B>>,
    ) -> Result<Arc<Program<B>>> {
        // A panic while the lock is held leaves what was there.
        let mut slot = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(program) = slot.get(&examples) {
            return Ok(program.clone());
        }
        let program = Arc::new(record()?);
        slot.insert(examples, program.clone());
        Ok(program)
    }
}

/// The number of examples of programs whose point has none: the parameters alone.
pub(crate) const PARAMETERS: usize = 0;
