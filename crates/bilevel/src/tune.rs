//! Learned hyper-parameters of a training run: learning rate, momentum, weight decay, loss weights, label smoothing and augmentation, by exact
//! hypergradients.

use std::collections::BTreeMap;

use burn::backend::TensorMetadata;
use burn::module::Module;
use burn::tensor::{DType, Tensor, TensorData};
use core_tensor::transform::State;
use core_tensor::{Batch, LeafName, Tree};

use crate::certificate::{Certificate, Curvature};
use crate::error::{Error, Result, at_least_one, positive, refuse};
use crate::method::Hypergradient;
use crate::parameterise::{Domain, augment, label_smoothing, weighted};
use crate::problem::{Batches, Problem};
use crate::unroll::{Checkpoint, Unroll};
use crate::update::{Momentum, Setting};

/// What shares one number of a hyper-parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Everything: a leaf `NAME` of one number.
    Global,
    /// Each step: a leaf `NAME` of as many numbers as steps.
    PerStep,
    /// Each layer, which is the part of a parameter's path before its last dot: leaves `NAME/LAYER` of one number.
    PerLayer,
    /// Each index of the first dimension of each parameter, such as an input feature of a weight: leaves `NAME/PATH`.
    PerFeature,
}

/// A hyper-parameter that is fixed, or learned from a start. A plain number is fixed.
#[derive(Clone, Copy, Debug)]
pub struct Hyper {
    value: f64,
    learned: Option<Sharing>,
}

/// A name for what shares a number.
type Group = fn(&LeafName) -> String;

#[derive(Clone, Copy, Debug)]
enum Sharing {
    Scope(Scope),
    Groups(Group),
}

impl From<f64> for Hyper {
    fn from(value: f64) -> Self {
        Self { value, learned: None }
    }
}

impl Hyper {
    /// Learned from this start, in this scope.
    pub fn learned(start: f64, scope: Scope) -> Self {
        Self { value: start, learned: Some(Sharing::Scope(scope)) }
    }

    /// Learned from this start, one number for all parameters to which the function gives the same name: leaves `NAME/GROUP`, such as
    /// `learning_rate/head`.
    pub fn grouped(start: f64, group: fn(&LeafName) -> String) -> Self {
        Self { value: start, learned: Some(Sharing::Groups(group)) }
    }
}

/// Tunes the hyper-parameters of `T` training steps of gradient descent with momentum and weight decay, by gradient descent on the validation
/// loss after them.
///
/// The inner run is `m ← μm + ∇L + λz`, `z ← z − ηm` from the model given, with `L = Σᵢ wᵢLᵢ` of the losses that the training closure returns
/// (their sum where no weights are learned). The hypergradient is that of [`Unroll`], exact for the run as it is, solved or not. Raw numbers
/// (logarithms of `η` and `λ`, the logit of `μ`, logits of `w`; see [`Domain`]) descend along it by Adam with `β = (0.9, 0.9)`, which makes
/// `outer_rate` the relative change of a step.
///
/// | parameter | default | range | effect |
/// |---|---|---|---|
/// | `steps` `T` | – | ≥ 1 | inner steps; step `t` takes training batch `t mod n` |
/// | `learning_rate` `η` | – | > 0 | fixed or learned, in any [`Scope`] or group ([`Hyper::grouped`]) |
/// | `momentum` `μ` | 0 | `[0, 1)`, learned `(0, 1)` | the same |
/// | `weight_decay` `λ` | 0 | ≥ 0, learned > 0 | the same |
/// | `loss_weights` `w` | none | a simplex | learned weights of as many losses |
/// | `label_smoothing` `ε` | 0 | `[0, 1)`, learned `(0, 1)` | targets `(1 − ε)y + ε/classes`, by [`Learned::smooth`] in the training closure |
/// | `augmentation` `s`, by name | none | `[0, 1]`, learned `(0, 1)` | inputs moved by `s` towards an augmented copy, by [`Learned::augment`] |
/// | `objective`, by name | none | a [`Domain`] | learned numbers of your own, by [`Learned::value`] |
/// | `outer_rate` | 0.1 | > 0 | relative change of a hyper-parameter a step |
/// | `checkpoint` | `Sqrt` | | inner states kept against steps taken again |
///
/// A step whose run or hypergradient is not finite is an outcome: its [`Trial`] says so, and the next one starts half-way back to the best
/// so far, with Adam's memory cleared. Only where nothing was finite yet it is an error.
///
/// Guarantees: the hypergradient equals central differences of whole runs for all of these at once (test
/// `the_hypergradient_is_that_of_the_run`, in f64 `each_kind_matches_central_differences`); a run resumes bit for bit (`a_run_resumes_bit_for_bit`); on real digits it beats its start and comes
/// near a grid search (`digits_are_tuned_as_well_as_by_a_grid`). Cost a step: `2T` gradients (with `Sqrt`), `T` linearisations and products, whatever
/// the number of hyper-parameters.
///
/// L. Franceschi et al., "Forward and reverse gradient-based hyperparameter optimization", 2017 (arXiv:1703.01785); D. Maclaurin, D. Duvenaud,
/// R. P. Adams, "Gradient-based hyperparameter optimization through reversible learning", 2015 (arXiv:1502.03492).
///
/// ```
/// use bilevel::tune::{Hyper, Scope, Tune};
/// use burn::nn::{Initializer, Linear, LinearConfig};
/// use burn::tensor::Tensor;
/// use core_tensor::Random;
/// # fn main() -> bilevel::Result<()> {
/// let device = burn::tensor::Device::default();
/// let mut random = Random::new(1);
/// // y = 2·x₀, seen through noise, with seven features that say nothing.
/// let mut examples = |n| {
///     let x = random.normal::<2>([n, 8], 0.0, 1.0, &device);
///     let y = x.clone().slice([0..n, 0..1]) * 2.0 + random.normal::<2>([n, 1], 0.0, 0.5, &device);
///     (x, y)
/// };
/// let (train, validation) = (examples(12), examples(60));
/// let loss = |model: &Linear, (x, y): &(Tensor<2>, Tensor<2>)| (model.forward(x.clone()) - y.clone()).square().mean();
///
/// let model = LinearConfig::new(8, 1).with_initializer(Initializer::Zeros).init(&device);
/// let tuned = Tune::new(20, Hyper::learned(0.01, Scope::Global))?
///     .momentum(Hyper::learned(0.5, Scope::Global))?
///     .weight_decay(Hyper::learned(0.001, Scope::PerFeature))?
///     .run(&model, vec![train], vec![validation], loss, loss, 25)?;
///
/// assert!(tuned.loss < 0.7 * tuned.path[0].loss);
/// println!("{:?}", tuned.values["learning_rate"]);
/// let model = tuned.model(model)?; // trained with what was learned
/// # let _ = model;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Tune {
    steps: usize,
    learning_rate: Hyper,
    momentum: Hyper,
    weight_decay: Hyper,
    loss_weights: Option<Vec<f64>>,
    /// Of the training loss itself, in the order given.
    objective: Vec<Part>,
    outer_rate: f64,
    checkpoint: Checkpoint,
}

/// A hyper-parameter that the training loss reads.
#[derive(Clone, Debug)]
struct Part {
    path: String,
    values: Vec<f64>,
    domain: Domain,
    learned: bool,
}

/// The hyper-parameters of the training loss itself, for a closure given to [`Tune::run_with`].
pub struct Learned<'a> {
    x: &'a Tree,
    parts: &'a [Part],
}

impl Learned<'_> {
    /// The values of a hyper-parameter: `label_smoothing`, `augmentation/NAME`, or a name given to [`Tune::objective`].
    ///
    /// # Errors
    /// A name that was not given.
    pub fn value(&self, name: &str) -> core_tensor::Result<Tensor<1>> {
        let unknown =
            || core_tensor::Error::UnknownLeaf { path: name.into(), place: "the objective's hyper-parameters" };
        let part = self.parts.iter().find(|part| part.path == name).ok_or_else(unknown)?;
        if part.learned {
            return Ok(part.domain.map(self.x.get::<1>(name)?));
        }
        let device = self.x.device().unwrap_or_default();
        let dtype = self.x.iter().next().map_or(DType::F32, |(_, leaf)| leaf.dtype());
        let data = TensorData::new(part.values.clone(), [part.values.len()]);
        Ok(Tensor::from_data(data, (&device, dtype)))
    }

    /// One-hot rows smoothed by the tuned `ε`; as they are where [`Tune::label_smoothing`] was not given.
    pub fn smooth(&self, hot: Tensor<2>) -> Tensor<2> {
        match self.value(SMOOTHING) {
            Ok(epsilon) => label_smoothing(hot, epsilon),
            Err(_) => hot,
        }
    }

    /// An input moved towards its augmented copy by the tuned strength of this name.
    ///
    /// # Errors
    /// A name not given to [`Tune::augmentation`].
    pub fn augment<const D: usize>(
        &self,
        name: &str,
        input: Tensor<D>,
        changed: Tensor<D>,
    ) -> core_tensor::Result<Tensor<D>> {
        Ok(augment(input, changed, self.value(&format!("{AUGMENTATION}/{name}"))?))
    }
}

const SMOOTHING: &str = "label_smoothing";
const AUGMENTATION: &str = "augmentation";

/// One evaluation of hyper-parameters.
#[derive(Clone, Debug, PartialEq)]
pub struct Trial {
    /// The values tried, by leaf.
    pub values: BTreeMap<String, Vec<f64>>,
    /// The validation loss after the run; NaN where run or hypergradient were not finite.
    pub loss: f64,
    /// The norm of the hypergradient in the raw numbers.
    pub gradient_norm: f64,
    /// What the hypergradient can be trusted for.
    pub certificate: Certificate,
}

/// Where a tuning run is; saves and resumes bit for bit.
#[derive(Clone, Debug)]
pub struct TuneState {
    raw: Vec<f64>,
    first: Vec<f64>,
    second: Vec<f64>,
    /// Steps since Adam's memory was cleared.
    since: u64,
    best: Vec<f64>,
    best_loss: f64,
    /// The trials so far.
    pub path: Vec<Trial>,
}

/// What was learned.
#[derive(Clone, Debug)]
pub struct Tuned {
    /// The best hyper-parameters met, by leaf: `learning_rate`, `momentum`, `weight_decay`, `loss_weights`, `label_smoothing`, `augmentation/NAME`, names of
    /// your own; the first three with `/LAYER`, `/GROUP` or `/PATH` where they have several leaves.
    pub values: BTreeMap<String, Vec<f64>>,
    /// Their validation loss.
    pub loss: f64,
    /// All trials, in order.
    pub path: Vec<Trial>,
    /// The parameters trained with the best.
    pub z: Tree,
    /// Where to go on from.
    pub state: TuneState,
}

impl Tuned {
    /// The model with the parameters trained with the best hyper-parameters.
    ///
    /// # Errors
    /// A model of another structure.
    pub fn model<M: Module>(&self, model: M) -> Result<M> {
        Ok(self.z.write_into(model)?)
    }
}

/// A [`Tune`] recorded for a model and its data.
pub struct Tuner<I, O> {
    problem: Problem<I, O>,
    batches: Batches<I, O>,
    unroll: Unroll<Momentum>,
    start: Tree,
    /// The structure of the outer variable: raw numbers of the start.
    x: Tree,
    domains: Vec<(String, usize, Domain)>,
    rate: f64,
}

impl Tune {
    /// So many inner steps with a learning rate.
    ///
    /// # Errors
    /// A parameter error for 0 steps or a rate that is not above zero and finite.
    pub fn new(steps: usize, learning_rate: impl Into<Hyper>) -> Result<Self> {
        let learning_rate = learning_rate.into();
        positive("learning_rate", learning_rate.value)?;
        Ok(Self {
            steps: at_least_one("steps", steps)?,
            learning_rate,
            momentum: 0.0.into(),
            weight_decay: 0.0.into(),
            loss_weights: None,
            objective: Vec::new(),
            outer_rate: 0.1,
            checkpoint: Checkpoint::Sqrt,
        })
    }

    /// With a momentum.
    ///
    /// # Errors
    /// A parameter error outside `[0, 1)`, for a learned one outside `(0, 1)`.
    pub fn momentum(self, momentum: impl Into<Hyper>) -> Result<Self> {
        let momentum = momentum.into();
        match momentum.learned {
            Some(_) => Domain::unit().to_raw(&[momentum.value]).map(drop)?,
            None => crate::error::decay("momentum", momentum.value).map(drop)?,
        }
        Ok(Self { momentum, ..self })
    }

    /// With a weight decay.
    ///
    /// # Errors
    /// A parameter error for a negative one, for a learned one also for zero.
    pub fn weight_decay(self, decay: impl Into<Hyper>) -> Result<Self> {
        let decay = decay.into();
        match decay.learned {
            Some(_) => positive("weight_decay", decay.value)?,
            None => crate::error::not_negative("weight_decay", decay.value)?,
        };
        Ok(Self { weight_decay: decay, ..self })
    }

    /// With learned weights of the losses, from this start.
    ///
    /// # Errors
    /// A parameter error unless they are at least two, positive, with sum 1.
    pub fn loss_weights(self, start: &[f64]) -> Result<Self> {
        Domain::Simplex.to_raw(start)?;
        Ok(Self { loss_weights: Some(start.to_vec()), ..self })
    }

    /// With label smoothing, which the training closure reads by [`Learned::smooth`].
    ///
    /// # Errors
    /// A parameter error outside `[0, 1)`, for a learned one outside `(0, 1)`; one learned in another scope than [`Scope::Global`].
    pub fn label_smoothing(self, epsilon: impl Into<Hyper>) -> Result<Self> {
        let epsilon = epsilon.into();
        if epsilon.learned.is_none() {
            crate::error::decay(SMOOTHING, epsilon.value)?;
        }
        self.part(SMOOTHING.into(), epsilon)
    }

    /// With an augmentation of a strength, which the training closure reads by [`Learned::augment`] with the same name.
    ///
    /// # Errors
    /// A parameter error outside `[0, 1]`, for a learned one outside `(0, 1)`; one learned in another scope than [`Scope::Global`].
    pub fn augmentation(self, name: &str, strength: impl Into<Hyper>) -> Result<Self> {
        let strength = strength.into();
        if strength.learned.is_none() && !(0.0..=1.0).contains(&strength.value) {
            return refuse(AUGMENTATION, strength.value, "0 <= value <= 1");
        }
        self.part(format!("{AUGMENTATION}/{name}"), strength)
    }

    /// With learned numbers of the training loss's own, from a start within a domain; the closure reads them by [`Learned::value`].
    ///
    /// # Errors
    /// A parameter error for a start outside the domain, or for none.
    pub fn objective(self, name: &str, start: &[f64], domain: Domain) -> Result<Self> {
        at_least_one("numbers of the objective", start.len())?;
        domain.to_raw(start)?;
        Ok(self.with_part(Part { path: name.into(), values: start.to_vec(), domain, learned: true }))
    }

    /// A number of `(0, 1)` if learned, in the global scope.
    fn part(self, path: String, hyper: Hyper) -> Result<Self> {
        let (domain, learned) = (Domain::unit(), hyper.learned.is_some());
        match hyper.learned {
            None => {}
            Some(Sharing::Scope(Scope::Global)) => drop(domain.to_raw(&[hyper.value])?),
            Some(_) => return refuse("scopes of a hyper-parameter of the loss", 0.0, "Scope::Global"),
        }
        Ok(self.with_part(Part { path, values: vec![hyper.value], domain, learned }))
    }

    /// What is given twice counts as given last.
    fn with_part(mut self, part: Part) -> Self {
        self.objective.retain(|other| other.path != part.path);
        self.objective.push(part);
        self
    }

    /// Another relative change of a hyper-parameter a step.
    ///
    /// # Errors
    /// A parameter error unless it is above zero and finite.
    pub fn outer_rate(self, rate: f64) -> Result<Self> {
        Ok(Self { outer_rate: positive("outer_rate", rate)?, ..self })
    }

    /// Keep other inner states.
    pub fn checkpoint(self, checkpoint: Checkpoint) -> Self {
        Self { checkpoint, ..self }
    }

    /// Records the run for a model, its training and validation batches, and closures for their losses: `training` gives one loss or several,
    /// shape `[k]`, `validation` one, shape `[1]`.
    ///
    /// # Errors
    /// Nothing to learn; no batches; another number of losses than of weights; those of [`Problem::record`].
    pub fn prepare<M, I, O>(
        &self,
        model: &M,
        train: Vec<I>,
        validate: Vec<O>,
        training: impl Fn(&M, &I) -> Tensor<1> + Send + Sync + 'static,
        validation: impl Fn(&M, &O) -> Tensor<1> + Send + Sync + 'static,
    ) -> Result<Tuner<I, O>>
    where
        M: Module + Sync + 'static,
        I: Batch,
        O: Batch,
    {
        let training = move |model: &M, batch: &I, _: &Learned<'_>| training(model, batch);
        self.prepare_with(model, train, validate, training, validation)
    }

    /// [`prepare`](Self::prepare) for a training closure that reads hyper-parameters of its own.
    ///
    /// # Errors
    /// As `prepare`.
    pub fn prepare_with<M, I, O>(
        &self,
        model: &M,
        train: Vec<I>,
        validate: Vec<O>,
        training: impl Fn(&M, &I, &Learned<'_>) -> Tensor<1> + Send + Sync + 'static,
        validation: impl Fn(&M, &O) -> Tensor<1> + Send + Sync + 'static,
    ) -> Result<Tuner<I, O>>
    where
        M: Module + Sync + 'static,
        I: Batch,
        O: Batch,
    {
        let missing = |what| Error::Core(core_tensor::Error::Length { what, expected: 1, actual: 0 });
        let first = train.first().ok_or_else(|| missing("the list of training batches"))?;
        if validate.is_empty() {
            return Err(missing("the list of validation batches"));
        }
        let start = Tree::from_module(model);
        let mut raw = Raw { x: Tree::empty(), domains: Vec::new(), start: &start, steps: self.steps };
        let rate = raw.setting("learning_rate", self.learning_rate, Domain::Positive)?;
        let momentum = raw.setting("momentum", self.momentum, Domain::unit())?;
        let decay = raw.setting("weight_decay", self.weight_decay, Domain::Positive)?;
        if let Some(weights) = &self.loss_weights {
            raw.leaf("loss_weights".into(), weights, Domain::Simplex)?;
        }
        for part in self.objective.iter().filter(|part| part.learned) {
            raw.leaf(part.path.clone(), &part.values, part.domain)?;
        }
        let Raw { x, domains, .. } = raw;
        if domains.is_empty() {
            return refuse("learned hyper-parameters", 0.0, "at least one that is learned");
        }
        let parts = self.objective.clone();
        if let Some(weights) = &self.loss_weights {
            let losses = training(model, first, &Learned { x: &x, parts: &parts });
            let (expected, [actual]) = (weights.len(), losses.dims());
            if expected != actual {
                return Err(core_tensor::Error::Length { what: "the training losses", expected, actual }.into());
            }
        }
        let update = Momentum::new(rate, momentum);
        // A fixed decay of zero costs nothing.
        let idle = self.weight_decay.learned.is_none() && self.weight_decay.value == 0.0;
        let update = if idle { update } else { update.weight_decay(decay) };
        let batches = Batches { inner: train, outer: validate };
        let with_weights = self.loss_weights.is_some();
        let problem = Problem::from_functions(
            &x,
            model,
            &batches,
            move |x: &Tree, model: &M, batch: &I| {
                let losses = training(model, batch, &Learned { x, parts: &parts });
                match with_weights {
                    true => {
                        let raw = x.get::<1>("loss_weights").expect("the leaf was made above");
                        weighted(losses, Domain::Simplex.map(raw))
                    }
                    false => losses.sum(),
                }
            },
            move |_: &Tree, model: &M, batch: &O| validation(model, batch),
        )?;
        let unroll = Unroll::new(update, self.steps)?.checkpoint(self.checkpoint)?;
        Ok(Tuner { problem, batches, unroll, start, x, domains, rate: self.outer_rate })
    }

    /// [`prepare`](Self::prepare), so many steps, and what they learned.
    ///
    /// # Errors
    /// Those of `prepare` and [`Tuner::step`].
    pub fn run<M, I, O>(
        &self,
        model: &M,
        train: Vec<I>,
        validate: Vec<O>,
        training: impl Fn(&M, &I) -> Tensor<1> + Send + Sync + 'static,
        validation: impl Fn(&M, &O) -> Tensor<1> + Send + Sync + 'static,
        trials: usize,
    ) -> Result<Tuned>
    where
        M: Module + Sync + 'static,
        I: Batch,
        O: Batch,
    {
        let training = move |model: &M, batch: &I, _: &Learned<'_>| training(model, batch);
        self.run_with(model, train, validate, training, validation, trials)
    }

    /// [`run`](Self::run) for a training closure that reads hyper-parameters of its own.
    ///
    /// ```
    /// use bilevel::tune::{Hyper, Learned, Scope, Tune};
    /// use burn::nn::{Initializer, Linear, LinearConfig};
    /// use burn::tensor::{Tensor, activation::log_softmax};
    /// use core_tensor::Random;
    /// # fn main() -> bilevel::Result<()> {
    /// let device = burn::tensor::Device::default();
    /// let mut random = Random::new(1);
    /// // Two classes that overlap, as one-hot rows, and a noisier copy of each input.
    /// let mut examples = |n| {
    ///     let side = random.bernoulli::<2>([n, 1], 0.5, &device);
    ///     let x = random.normal::<2>([n, 6], 0.0, 1.0, &device) + side.clone() * 0.7;
    ///     let noisy = x.clone() + random.normal::<2>([n, 6], 0.0, 2.0, &device);
    ///     (x, noisy, Tensor::cat(vec![side.clone(), side.neg() + 1.0], 1))
    /// };
    /// let (train, validation) = (examples(16), examples(80));
    /// type Examples = (Tensor<2>, Tensor<2>, Tensor<2>);
    /// let entropy = |logits: Tensor<2>, y: Tensor<2>| (log_softmax(logits, 1) * y).sum_dim(1).mean().neg();
    ///
    /// let model = LinearConfig::new(6, 2).with_initializer(Initializer::Zeros).init(&device);
    /// let tuned = Tune::new(30, 1.0)?
    ///     .label_smoothing(Hyper::learned(0.05, Scope::Global))?
    ///     .augmentation("noise", Hyper::learned(0.1, Scope::Global))?
    ///     .run_with(
    ///         &model, vec![train], vec![validation],
    ///         move |model: &Linear, (x, noisy, y): &Examples, learned: &Learned| {
    ///             let x = learned.augment("noise", x.clone(), noisy.clone()).unwrap();
    ///             entropy(model.forward(x), learned.smooth(y.clone()))
    ///         },
    ///         move |model: &Linear, (x, _, y): &Examples| entropy(model.forward(x.clone()), y.clone()),
    ///         20,
    ///     )?;
    /// assert!(tuned.loss < tuned.path[0].loss);
    /// println!("{:?} {:?}", tuned.values["label_smoothing"], tuned.values["augmentation/noise"]);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As `run`.
    pub fn run_with<M, I, O>(
        &self,
        model: &M,
        train: Vec<I>,
        validate: Vec<O>,
        training: impl Fn(&M, &I, &Learned<'_>) -> Tensor<1> + Send + Sync + 'static,
        validation: impl Fn(&M, &O) -> Tensor<1> + Send + Sync + 'static,
        trials: usize,
    ) -> Result<Tuned>
    where
        M: Module + Sync + 'static,
        I: Batch,
        O: Batch,
    {
        let trials = at_least_one("trials", trials)?;
        let tuner = self.prepare_with(model, train, validate, training, validation)?;
        let mut state = tuner.start();
        for _ in 0..trials {
            state = tuner.step(state)?;
        }
        tuner.finish(state)
    }
}

impl<I: Batch, O: Batch> Tuner<I, O> {
    /// The state before the first trial.
    pub fn start(&self) -> TuneState {
        let raw = crate::solver::elements(&self.x);
        let zero = vec![0.0; raw.len()];
        TuneState {
            best: raw.clone(),
            raw,
            first: zero.clone(),
            second: zero,
            since: 0,
            best_loss: f64::INFINITY,
            path: Vec::new(),
        }
    }

    /// One trial: a run, its hypergradient, and the next raw numbers.
    ///
    /// # Errors
    /// [`Error::NotFinite`] where no trial was finite so far; those of [`Unroll`]. The state is lost then; keep a clone to go on from.
    pub fn step(&self, mut state: TuneState) -> Result<TuneState> {
        let values = self.values_of(&state.raw)?;
        match self.hypergradient(&state) {
            Ok(h) => {
                let gradient = crate::solver::elements(&h.gradient);
                if h.value < state.best_loss {
                    (state.best, state.best_loss) = (state.raw.clone(), h.value);
                }
                let gradient_norm = gradient.iter().map(|g| g * g).sum::<f64>().sqrt();
                state.path.push(Trial { values, loss: h.value, gradient_norm, certificate: h.certificate });
                state.adam(&gradient, self.rate);
            }
            Err(Error::NotFinite { .. }) if state.best_loss < f64::INFINITY => {
                let certificate = Certificate::default();
                state.path.push(Trial { values, loss: f64::NAN, gradient_norm: f64::NAN, certificate });
                for (raw, best) in state.raw.iter_mut().zip(&state.best) {
                    *raw = 0.5 * (*raw + best);
                }
                (state.first, state.second) = (vec![0.0; state.raw.len()], vec![0.0; state.raw.len()]);
                state.since = 0;
            }
            Err(error) => return Err(error),
        }
        Ok(state)
    }

    /// The validation loss, hypergradient in the raw numbers and certificate at a state, which stays as it is.
    ///
    /// # Errors
    /// Those of [`Unroll`]; [`Error::NotFinite`].
    pub fn hypergradient(&self, state: &TuneState) -> Result<Hypergradient> {
        let h = self.unroll.differentiate(&self.problem, &self.point(&state.raw)?, &self.start, &self.batches)?;
        crate::error::finite("the validation loss", h.hypergradient.value)?;
        Ok(h.hypergradient)
    }

    /// The validation loss of a run with these raw numbers: what [`hypergradient`](Self::hypergradient) is the derivative of.
    ///
    /// # Errors
    /// Another number of raw numbers; those of [`Unroll::run`].
    pub fn loss(&self, raw: &[f64]) -> Result<f64> {
        let x = self.point(raw)?;
        let z = self.unroll.run(&self.problem, &x, &self.start, &self.batches.inner)?;
        self.problem.outer_value(&x, &z, &self.batches.outer)
    }

    /// The best hyper-parameters so far, and the model trained with them.
    ///
    /// # Errors
    /// Those of [`Unroll::run`].
    pub fn finish(&self, state: TuneState) -> Result<Tuned> {
        let z = self.unroll.run(&self.problem, &self.point(&state.best)?, &self.start, &self.batches.inner)?;
        Ok(Tuned { values: self.values_of(&state.best)?, loss: state.best_loss, path: state.path.clone(), z, state })
    }

    /// The hyper-parameters that the next trial takes, by leaf.
    ///
    /// # Errors
    /// Raw numbers that left the range of numbers.
    pub fn values(&self, state: &TuneState) -> Result<BTreeMap<String, Vec<f64>>> {
        self.values_of(&state.raw)
    }

    /// A state saved by [`TuneState::save`] for the same structure.
    ///
    /// # Errors
    /// A state of something else.
    pub fn load(&self, mut state: State) -> Result<TuneState> {
        let raw: Vec<f64> = state.take("raw")?;
        let (first, second, best): (Vec<f64>, Vec<f64>, Vec<f64>) =
            (state.take("first")?, state.take("second")?, state.take("best")?);
        let (since, best_loss) = (state.take("since")?, state.take("best_loss")?);
        let mut path = state.take_nested("path");
        state.finish()?;
        let numbers: Vec<f64> = path.take("numbers")?;
        let all: Vec<f64> = path.take("values")?;
        let counts: Vec<u64> = path.take("counts")?;
        path.finish()?;
        let length = self.x.num_elements();
        let wrong = |what, expected, actual| Error::Core(core_tensor::Error::Length { what, expected, actual });
        for part in [&raw, &first, &second, &best] {
            if part.len() != length {
                return Err(wrong("a saved tuning run's numbers", length, part.len()));
            }
        }
        let trials = all.len() / length;
        if all.len() != trials * length {
            return Err(wrong("a saved path's values", trials * length, all.len()));
        }
        if numbers.len() != trials * NUMBERS || counts.len() != trials * COUNTS {
            return Err(wrong("a saved path's certificates", trials * NUMBERS, numbers.len()));
        }
        // Saved in the order of their names.
        let mut domains = self.domains.clone();
        domains.sort_by(|a, b| a.0.cmp(&b.0));
        let trial = |((values, n), c): ((&[f64], &[f64]), &[u64])| Trial {
            values: named(&domains, values),
            loss: n[0],
            gradient_norm: n[1],
            certificate: Certificate {
                inner_residual: n[2],
                linear_residual: None,
                hessian_vector_products: c[0] as usize,
                gradients: c[1] as usize,
                curvature: Curvature { smallest: n[3], largest: n[4] },
                damping: n[5],
                stored_states: c[2] as usize,
            },
        };
        let path = all.chunks(length).zip(numbers.chunks(NUMBERS)).zip(counts.chunks(COUNTS)).map(trial).collect();
        Ok(TuneState { raw, first, second, since, best, best_loss, path })
    }

    /// Raw numbers as the outer variable.
    fn point(&self, raw: &[f64]) -> Result<Tree> {
        let (expected, actual) = (self.x.num_elements(), raw.len());
        match expected == actual {
            true => crate::solver::from_elements(&self.x, raw.to_vec()),
            false => Err(core_tensor::Error::Length { what: "the raw numbers", expected, actual }.into()),
        }
    }

    fn values_of(&self, raw: &[f64]) -> Result<BTreeMap<String, Vec<f64>>> {
        let mut values = Vec::with_capacity(raw.len());
        let mut rest = raw;
        for (_, length, domain) in &self.domains {
            let (here, after) = rest.split_at(*length);
            values.extend(domain.to_value(here)?);
            rest = after;
        }
        Ok(named(&self.domains, &values))
    }
}

fn named(domains: &[(String, usize, Domain)], mut values: &[f64]) -> BTreeMap<String, Vec<f64>> {
    let mut named = BTreeMap::new();
    for (name, length, _) in domains {
        let (here, after) = values.split_at(*length);
        named.insert(name.clone(), here.to_vec());
        values = after;
    }
    named
}

/// Numbers and counts of a saved trial.
const NUMBERS: usize = 6;
const COUNTS: usize = 3;

impl TuneState {
    /// The raw numbers of the next trial, in the order of [`Tuner::values`]' leaves as recorded.
    pub fn raw(&self) -> &[f64] {
        &self.raw
    }

    /// As a state that saves to a file bit for bit.
    pub fn save(&self) -> State {
        let of = |part: &dyn Fn(&Trial) -> Vec<f64>| -> Vec<f64> { self.path.iter().flat_map(part).collect() };
        let numbers = of(&|trial| {
            let c = &trial.certificate;
            let curvature = c.curvature;
            vec![trial.loss, trial.gradient_norm, c.inner_residual, curvature.smallest, curvature.largest, c.damping]
        });
        let counts: Vec<u64> = self
            .path
            .iter()
            .map(|trial| &trial.certificate)
            .flat_map(|c| [c.hessian_vector_products as u64, c.gradients as u64, c.stored_states as u64])
            .collect();
        let path = State::new().with("numbers", numbers).with("counts", counts);
        let path = path.with("values", of(&|trial| trial.values.values().flatten().copied().collect()));
        State::new()
            .with("raw", self.raw.clone())
            .with("first", self.first.clone())
            .with("second", self.second.clone())
            .with("since", self.since)
            .with("best", self.best.clone())
            .with("best_loss", self.best_loss)
            .with_nested("path", path)
    }

    /// Adam with `β = (0.9, 0.9)`.
    fn adam(&mut self, gradient: &[f64], rate: f64) {
        let beta = 0.9f64;
        self.since += 1;
        let correction = 1.0 - beta.powf(self.since as f64);
        for (i, g) in gradient.iter().enumerate() {
            let (m, v) = (&mut self.first[i], &mut self.second[i]);
            *m = beta * *m + (1.0 - beta) * g;
            *v = beta * *v + (1.0 - beta) * g * g;
            let root = (*v / correction).sqrt();
            if root > 0.0 {
                self.raw[i] -= rate * (*m / correction) / root;
            }
        }
    }
}

/// The outer variable as it is put together.
struct Raw<'a> {
    x: Tree,
    domains: Vec<(String, usize, Domain)>,
    start: &'a Tree,
    steps: usize,
}

impl Raw<'_> {
    fn leaf(&mut self, path: String, values: &[f64], domain: Domain) -> Result<()> {
        let raw = domain.to_raw(values)?;
        let device = self.start.device().unwrap_or_default();
        let dtype = if self.start.flatten()?.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
        let tensor = Tensor::<1>::from_data(TensorData::new(raw, [values.len()]), (&device, dtype));
        self.domains.push((path.clone(), values.len(), domain));
        self.x = std::mem::take(&mut self.x).push(path, tensor)?;
        Ok(())
    }

    /// The setting of a hyper-parameter, with its leaves added.
    fn setting(&mut self, name: &'static str, hyper: Hyper, domain: Domain) -> Result<Setting> {
        let value = hyper.value;
        let setting = match hyper.learned {
            None => return Ok(Setting::fixed(value)),
            Some(Sharing::Groups(group)) => self.groups(name, value, domain, group)?,
            Some(Sharing::Scope(Scope::PerLayer)) => self.groups(name, value, domain, layer)?,
            Some(Sharing::Scope(Scope::Global)) => {
                self.leaf(name.into(), &[value], domain)?;
                Setting::leaf(name)
            }
            Some(Sharing::Scope(Scope::PerStep)) => {
                self.leaf(name.into(), &vec![value; self.steps], domain)?;
                Setting::per_step(name)
            }
            Some(Sharing::Scope(Scope::PerFeature)) => {
                for (path, data) in self.start.to_data() {
                    self.leaf(format!("{name}/{path}"), &vec![value; data.shape()[0]], domain)?;
                }
                Setting::per_feature(name)
            }
        };
        Ok(setting.within(domain))
    }

    /// A leaf for each group, and the setting that reads them.
    fn groups(&mut self, name: &'static str, value: f64, domain: Domain, group: Group) -> Result<Setting> {
        let mut groups: Vec<String> = self.start.names().iter().map(group).collect();
        groups.sort();
        groups.dedup();
        for group in groups {
            self.leaf(format!("{name}/{group}"), &[value], domain)?;
        }
        Ok(Setting::per_leaf(move |leaf| format!("{name}/{}", group(leaf))))
    }
}

/// The layer of a parameter: its path before the last dot, or all of it.
fn layer(name: &LeafName) -> String {
    name.path.rsplit_once('.').map_or(name.path.as_str(), |(layer, _)| layer).to_string()
}

#[cfg(test)]
mod tests;
