//! Recorded functions of a point and a batch, with exact first and second derivatives.
//!
//! A [`Program`] is an ordinary Burn function recorded once, forward *and* backward, as a straight-line list of operations.
//! Executing the list gives values and gradients without building a tape. Rewriting it gives what Burn's autodiff cannot:
//!
//! | call | gives | cost, in gradients' time |
//! |---|---|---|
//! | [`Program::value`] | `f(x)` | 1/3 |
//! | [`Program::value_and_grad`] | `f(x)`, `∇f(x)` | 1 |
//! | [`Program::jvp`] | `f`, `∇f`, `∇²f·v` (and `⟨∇f, v⟩`) in one pass | 2 to 2.5 |
//! | [`Program::linearize`] then [`Linearized::hvp`] | many `∇²f·v` at one point | 1 + 1.3 each |
//! | [`Program::vjp`], [`Program::jacobian`] | `cᵢᵀJ` for many `cᵢ` from one forward pass | 1/3 + 2/3 each |
//! | [`Program::scaled_value_and_grad`] | `f(x)`, `s·∇f(x)` for loss scaling | 1 |
//! | [`Program::pushforward`] | `J·v` for many `v` from one forward pass | 1/3 + 1/3 each |
//! | [`Program::trace`] | the operations of `f` as data, for analyses such as bounds | – |
//! | [`Program::per_sample`] | `‖∇fᵢ(x)‖` of every sample, then `Σ wᵢ∇fᵢ(x)` | 1 to 1.5 |
//!
//! The Hessian-vector product is forward over reverse: the tangent of the recorded gradient (Pearlmutter, "Fast exact
//! multiplication by the Hessian", 1994; Griewank & Walther, "Evaluating Derivatives", 2008, ch. 5). It is exact up to
//! rounding; nothing is differenced.
//!
//! [`Program::autocast`] gives the same function in mixed precision, for every call of the table.
//!
//! # Rules
//! - The function's result has shape `[outputs]`; one output is a loss.
//! - Shapes and element types of point and batch are part of a recording; others are recorded when first met and kept.
//! - The function must not look at values (`into_scalar`, `into_data`): [`ProgramError::DataDependent`].
//! - Tensors that the function captures by itself are on the wrong device; hand them in with the batch.
//! - Random operations (dropout) draw once per [`Program::reseed`] and replay, so that a value, its gradient and its
//!   Hessian-vector products belong to the same function.
//! - Layers with a training mode follow their own flag: as built they train, after `Module::valid` they do not. Running state
//!   is read as it was at recording and never written.
//! - Parameters with `require_grad` off are constants of the program, fixed at recording.
//! - What is differentiated is the recorded gradient, as Burn computes it. Where `detach` cuts a gradient short, `∇²f·v` is the
//!   derivative of that shortened gradient, through the detached value too; other frameworks stop there.
//! - A leaf that the value does not depend on has no gradient. It is listed in `absent`, not reported as zero.

mod autocast;
mod batch;
mod difference;
mod error;
mod execute;
mod fuse;
mod graph;
mod lower;
mod operations;
mod per_sample;
mod record;
mod samples;
mod simplify;
mod stage;
mod tangent;
mod trace;
mod variable;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use burn::backend::ir::TensorIr;
use burn::backend::ops::{BoolTensorOps, FloatTensorOps, IntTensorOps};
use burn::backend::{Dispatch, DispatchTensor, TensorMetadata};
use burn::module::Module;
use burn::tensor::{Device, Distribution, Shape, Tensor, TensorData};

pub use autocast::{Autocast, AutocastReport, Precision};
pub use batch::{Batch, BatchMapper, Frozen};
pub use difference::central_difference;
pub use error::ProgramError;
pub use trace::{Origin, Trace, TraceInput, batch_tensors};
pub use variable::Variable;

use crate::error::{Error, Result};
use crate::random::Random;
use crate::scalar::Scalar;
use crate::tree::{LeafName, Tree};
use autocast::Mode;
use execute::Schedule;
use graph::{Entry, Graph, Source};
use record::{BatchValues, ModuleValues, Recording, Spec, Tape, Trainable, Want};

/// A value and its gradient.
#[derive(Clone, Debug)]
pub struct Gradient {
    /// `f(x)`, shape `[1]`.
    pub value: Tensor<1>,
    /// `∇f(x)`, without the leaves in `absent`.
    pub gradient: Tree,
    /// Paths of the leaves that the value does not depend on.
    pub absent: Vec<String>,
}

/// A value, its gradient, and the derivative of both along a direction.
#[derive(Clone, Debug)]
pub struct Jvp {
    /// `f(x)`, shape `[1]`.
    pub value: Tensor<1>,
    /// `∇f(x)`, without the leaves in `absent`.
    pub gradient: Tree,
    /// Paths of the leaves that the value does not depend on.
    pub absent: Vec<String>,
    /// `∇²f(x)·v`, with the same leaves as `gradient`.
    pub hessian_vector: Tree,
    direction: Tree,
}

impl Jvp {
    /// `⟨∇f(x), v⟩`, the derivative of the value along the direction. One pass over gradient and direction.
    pub fn directional(&self) -> Scalar {
        let direction = self.direction.restrict(&self.gradient).expect("the gradient's leaves are the point's");
        self.gradient.dot(&direction).expect("the direction has the gradient's leaves")
    }
}

type Body<B> = Arc<dyn Fn(&mut Tape, &B) -> Tensor<1> + Send + Sync>;

/// A recorded function of a point (a [`Tree`]) and a [`Batch`].
///
/// ```
/// use burn::{nn::{LinearConfig, loss::MseLoss, loss::Reduction}, tensor::{Device, Distribution, Tensor}};
/// use core_tensor::{Program, Tree};
/// # fn main() -> core_tensor::Result<()> {
/// let device = Device::default();
/// let model = LinearConfig::new(3, 2).init(&device);
/// let x = Tensor::<2>::random([8, 3], Distribution::Default, &device);
/// let y = Tensor::<2>::random([8, 2], Distribution::Default, &device);
/// let batch = (x, y);
///
/// let program = Program::record(&model, &batch, |model, (x, y)| {
///     MseLoss::new().forward(model.forward(x.clone()), y.clone(), Reduction::Mean)
/// })?;
/// let point = Tree::from_module(&model);
/// let out = program.jvp(&point, &batch, &point.clone())?;
/// // Along the parameters themselves a quadratic bends by twice its own size there.
/// assert!(out.hessian_vector.dot(&point)?.value() > 0.0);
/// # Ok(()) }
/// ```
///
/// Recording costs a few gradients' time and happens once per set of shapes. Plans are shared behind a lock, so a program
/// can be used from several threads.
pub struct Program<B> {
    body: Body<B>,
    names: Arc<Vec<LeafName>>,
    shapes: Vec<Shape>,
    /// Frozen parameters and running state, as at recording.
    buffers: Vec<DispatchTensor>,
    /// Shared with the same function in other precisions.
    recordings: Arc<Cache<(Key, Want), Recording>>,
    plans: Cache<(Key, Kind, Option<Mode>), Plan>,
    noise: Mutex<Noise>,
    autocast: Option<Autocast>,
}

/// What was made once, by what it was made for.
type Cache<K, V> = Mutex<HashMap<K, Arc<V>>>;

/// What a recording depends on: shapes and element types of the point and the batch.
type Key = (Vec<Spec>, Vec<Spec>);

/// What a plan computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    /// The value.
    Value,
    /// Value and gradient.
    Gradient,
    /// Value and gradient along a cotangent.
    Scaled,
    /// Value, gradient, and the tangents of both.
    Jvp,
    /// Value and gradient first, tangents later.
    Linear,
    /// Value first, pullbacks later.
    Pullback,
    /// Value first, its tangents later.
    Pushforward,
    /// Values and norms of each sample's gradient first, weighted sums of them later.
    PerSample,
}

/// A recording rewritten for one kind of question and scheduled.
struct Plan {
    outputs: usize,
    /// Leaves that have a gradient.
    present: Vec<usize>,
    first: Schedule,
    second: Option<Schedule>,
    /// The second stage with samples left out that are not finite.
    guarded: Option<Schedule>,
    /// Where the tangent of each present gradient is among the last stage's outputs.
    /// `None` is exactly zero: the gradient of a linear function does not move.
    tangents: Vec<Option<usize>>,
    report: Option<AutocastReport>,
}

/// Random tensors of the current seed.
struct Noise {
    seed: u64,
    drawn: HashMap<(Key, usize), DispatchTensor>,
}

impl<B: Batch> Program<B> {
    /// Records `function` of a model's trainable parameters.
    ///
    /// The point's leaves are those of [`Tree::from_module`]. The model is only a template: it is not changed, and its values
    /// are not part of the recording, except frozen parameters and running state.
    ///
    /// # Errors
    /// [`ProgramError`] if the function cannot be recorded or has an operation without a tangent rule on the way to its
    /// gradient. If only values and gradients are wanted, [`Program::record_first_order`] accepts the latter.
    pub fn record<M>(
        model: &M,
        batch: &B,
        function: impl Fn(&M, &B) -> Tensor<1> + Send + Sync + 'static,
    ) -> Result<Self>
    where
        M: Module + Sync + 'static,
    {
        let program = Self::record_first_order(model, batch, function)?;
        program.check_second_order(&Tree::from_module(model), batch)?;
        Ok(program)
    }

    /// As [`Program::record`] for a function that will be asked for values and gradients only.
    ///
    /// # Errors
    /// [`ProgramError`] if the function cannot be recorded.
    pub fn record_first_order<M>(
        model: &M,
        batch: &B,
        function: impl Fn(&M, &B) -> Tensor<1> + Send + Sync + 'static,
    ) -> Result<Self>
    where
        M: Module + Sync + 'static,
    {
        let mut trainable = Trainable(Vec::new());
        model.visit(&mut trainable);
        let trainable = trainable.0;
        let mut buffers = Vec::new();
        model.visit(&mut ModuleValues { values: &mut buffers, skip: &trainable, floats: 0 });
        // A copy of its own: what the caller does to shared running state later does not reach it.
        let template = record::independent(model);
        let body: Body<B> = Arc::new(move |tape, batch| {
            let model = record::instantiate_point(&template, tape, &trainable);
            function(&model, &record::record_batch(batch, tape))
        });
        Self::new(body, &Tree::from_module(model), batch, buffers)
    }

    /// Records `function` of a point given directly as a tree.
    ///
    /// # Errors
    /// As [`Program::record`].
    pub fn record_tree(
        point: &Tree,
        batch: &B,
        function: impl Fn(&Tree, &B) -> Tensor<1> + Send + Sync + 'static,
    ) -> Result<Self> {
        let program = Self::record_tree_first_order(point, batch, function)?;
        program.check_second_order(point, batch)?;
        Ok(program)
    }

    /// As [`Program::record_tree`] for a function that will be asked for values and gradients only.
    ///
    /// # Errors
    /// [`ProgramError`] if the function cannot be recorded.
    pub fn record_tree_first_order(
        point: &Tree,
        batch: &B,
        function: impl Fn(&Tree, &B) -> Tensor<1> + Send + Sync + 'static,
    ) -> Result<Self> {
        let names = point.shared_names();
        let body: Body<B> = Arc::new(move |tape, batch| {
            let leaves = names.iter().map(|_| tape.leaf()).collect();
            function(&Tree::from_parts(names.clone(), leaves), &record::record_batch(batch, tape))
        });
        Self::new(body, point, batch, Vec::new())
    }

    /// Records `function` of two arguments, each a tree or a module.
    ///
    /// The point's leaves are those of the first argument, then those of the second, each path behind the argument's name and a
    /// slash: `x/weight`. One tangent in the second argument alone gives `∂²zz f·v` and the mixed product `∂x∂z f·v` at once.
    ///
    /// # Errors
    /// As [`Program::record_first_order`]; two arguments of one name. Missing tangent rules show when they are first needed,
    /// unless [`Program::require_second_order`] asks.
    ///
    /// ```
    /// use burn::{nn::LinearConfig, tensor::{Device, Tensor}};
    /// use core_tensor::{Program, Tree};
    /// # fn main() -> core_tensor::Result<()> {
    /// let device = Device::default();
    /// let decay = Tree::empty().push("decay", Tensor::<1>::from_data([0.5], &device))?;
    /// let model = LinearConfig::new(3, 1).init(&device);
    /// let input = Tensor::<2>::ones([4, 3], &device);
    /// let program = Program::record_pair(("x", &decay), ("z", &model), &input, |decay, model, input| {
    ///     let fit = model.forward(input.clone()).square().mean();
    ///     fit + decay.get::<1>("decay").unwrap() * model.weight.val().square().sum()
    /// })?;
    /// let point = Program::<Tensor<2>>::pair(("x", &decay), ("z", &Tree::from_module(&model)))?;
    /// let out = program.value_and_grad(&point, &input)?;
    /// assert_eq!(out.gradient.names()[0].path, "x/decay");
    /// # Ok(()) }
    /// ```
    pub fn record_pair<X: Variable, Z: Variable>(
        first: (&str, &X),
        second: (&str, &Z),
        batch: &B,
        function: impl Fn(&X, &Z, &B) -> Tensor<1> + Send + Sync + 'static,
    ) -> Result<Self> {
        let point = Self::pair((first.0, &first.1.to_tree()), (second.0, &second.1.to_tree()))?;
        let mut buffers = first.1.buffers();
        buffers.extend(second.1.buffers());
        let (x, z) = (first.1.template(), second.1.template());
        let body: Body<B> = Arc::new(move |tape, batch| {
            let mut buffer = 0;
            let (x, z) = (x.trace(tape, &mut buffer), z.trace(tape, &mut buffer));
            function(&x, &z, &record::record_batch(batch, tape))
        });
        Self::new(body, &point, batch, buffers)
    }

    /// The point of a program recorded by [`Program::record_pair`].
    ///
    /// # Errors
    /// [`Error::DuplicateLeaf`] if both arguments have one name and share a path.
    pub fn pair(first: (&str, &Tree), second: (&str, &Tree)) -> Result<Tree> {
        variable::join([first, second])
    }

    /// Prepares second derivatives, so that a missing rule shows now.
    ///
    /// # Errors
    /// [`ProgramError::NoTangentRule`].
    pub fn require_second_order(&self, point: &Tree, batch: &B) -> Result<()> {
        self.check_second_order(point, batch)
    }

    /// `f(x)`, shape `[outputs]`.
    ///
    /// # Errors
    /// A point that is not of the recorded structure; [`ProgramError`] where new shapes cannot be recorded.
    pub fn value(&self, point: &Tree, batch: &B) -> Result<Tensor<1>> {
        let run = self.prepare(Kind::Value, point, batch)?;
        Ok(Tensor::from_dispatch(self.start(&run, Seed::default())?.swap_remove(0)))
    }

    /// `f(x)` and `∇f(x)` of a loss.
    ///
    /// # Errors
    /// As [`Program::value`]; [`ProgramError::NotScalar`].
    pub fn value_and_grad(&self, point: &Tree, batch: &B) -> Result<Gradient> {
        let run = self.prepare(Kind::Gradient, point, batch)?;
        self.scalar("value_and_grad", &run.plan)?;
        let mut out = self.start(&run, Seed::default())?.into_iter();
        Ok(self.gradient(&run.plan, &mut out))
    }

    /// `f(x)` and `scale·∇f(x)`, the backward pass begun with `scale` instead of one: loss scaling, with the loss itself.
    ///
    /// Gradients that would vanish in 16 bits do not; those that leave the range are infinite or NaN. Without
    /// [`autocast`](Self::autocast) it is the gradient times the scale, up to rounding.
    ///
    /// # Errors
    /// As [`Program::value_and_grad`].
    pub fn scaled_value_and_grad(&self, point: &Tree, batch: &B, scale: f32) -> Result<Gradient> {
        let run = self.prepare(Kind::Scaled, point, batch)?;
        self.scalar("scaled_value_and_grad", &run.plan)?;
        let mut out = self.start(&run, Seed { scale: Some(scale), ..Seed::default() })?.into_iter();
        Ok(self.gradient(&run.plan, &mut out))
    }

    /// `f`, `∇f` and `∇²f·v` in one pass.
    ///
    /// The direction has the point's leaves; another element type is cast to the point's.
    ///
    /// # Errors
    /// As [`Program::value_and_grad`]; [`ProgramError::NoTangentRule`]; a direction that does not match the point.
    pub fn jvp(&self, point: &Tree, batch: &B, direction: &Tree) -> Result<Jvp> {
        let run = self.prepare(Kind::Jvp, point, batch)?;
        self.scalar("jvp", &run.plan)?;
        check_direction(point, direction, &run.device)?;
        let out = self.start(&run, Seed { direction: Some(direction), ..Seed::default() })?;
        let mut stream = out.iter().cloned();
        let Gradient { value, gradient, absent } = self.gradient(&run.plan, &mut stream);
        let hessian_vector = tangents(&run.plan, &out, &gradient);
        Ok(Jvp { value, gradient, absent, hessian_vector, direction: direction.clone() })
    }

    /// `∇²f(x)·v`, without the leaves that `f` does not depend on.
    ///
    /// # Errors
    /// As [`Program::jvp`].
    pub fn hvp(&self, point: &Tree, batch: &B, direction: &Tree) -> Result<Tree> {
        Ok(self.jvp(point, batch, direction)?.hessian_vector)
    }

    /// Evaluates value and gradient and keeps what every Hessian-vector product at this point shares.
    ///
    /// For many directions at one point and batch: eigenvalues, conjugate gradients. The kept values take the memory of one
    /// gradient evaluation.
    ///
    /// # Errors
    /// As [`Program::jvp`].
    pub fn linearize(&self, point: &Tree, batch: &B) -> Result<Linearized> {
        let run = self.prepare(Kind::Linear, point, batch)?;
        self.scalar("linearize", &run.plan)?;
        let mut out = self.start(&run, Seed::default())?;
        let kept = out.split_off(1 + run.plan.present.len());
        let Gradient { value, gradient, absent } = self.gradient(&run.plan, &mut out.into_iter());
        Ok(Linearized { value, gradient, absent, point: point.clone(), kept, plan: run.plan, device: run.device })
    }

    /// `f(x)` and `cᵀJ` for each cotangent `c` of shape `[outputs]`, from one forward pass.
    ///
    /// Leaves that `f` does not depend on are left out of the trees.
    ///
    /// # Errors
    /// As [`Program::value`]; [`ProgramError::Cotangent`].
    pub fn vjp(&self, point: &Tree, batch: &B, cotangents: &[Tensor<1>]) -> Result<(Tensor<1>, Vec<Tree>)> {
        let pullback = self.pullback(point, batch)?;
        let rows = cotangents.iter().enumerate().map(|(index, c)| pullback.apply_indexed(index, c));
        Ok((pullback.value.clone(), rows.collect::<Result<_>>()?))
    }

    /// Runs the forward pass once and keeps what every pullback `c ↦ cᵀJ` shares.
    ///
    /// # Errors
    /// As [`Program::value`].
    pub fn pullback(&self, point: &Tree, batch: &B) -> Result<Pullback> {
        let run = self.prepare(Kind::Pullback, point, batch)?;
        let mut kept = self.start(&run, Seed::default())?;
        let value = Tensor::from_dispatch(kept.remove(0));
        Ok(Pullback { value, names: self.present_names(&run.plan), kept, plan: run.plan, device: run.device })
    }

    /// Runs the forward pass once and keeps what every directional derivative `v ↦ J·v` shares.
    ///
    /// ```
    /// use burn::tensor::{Device, Tensor};
    /// use core_tensor::{Program, Tree};
    /// # fn main() -> core_tensor::Result<()> {
    /// let device = Device::default();
    /// let x = Tree::empty().push("x", Tensor::<1>::from_data([1.0, 2.0, 3.0], &device))?;
    /// let program = Program::record_tree(&x, &(), |x, _| x.get::<1>("x").unwrap().square())?;
    /// let push = program.pushforward(&x, &())?;
    /// // J = diag(2x)
    /// assert_eq!(push.apply(&x)?.try_into_vec_as::<f32>().unwrap(), [2.0, 8.0, 18.0]);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`Program::value`]; [`ProgramError::NoTangentRule`].
    pub fn pushforward(&self, point: &Tree, batch: &B) -> Result<Pushforward> {
        let run = self.prepare(Kind::Pushforward, point, batch)?;
        let mut kept = self.start(&run, Seed::default())?;
        let value = Tensor::from_dispatch(kept.remove(0));
        Ok(Pushforward { value, point: point.clone(), kept, plan: run.plan, device: run.device })
    }

    /// `f(x)` and the rows of its Jacobian, one tree an output, from one forward pass.
    ///
    /// With a loss per example these are the per-sample gradients. The rows are `outputs` gradients in memory; use
    /// [`Program::pullback`] to stream them.
    ///
    /// # Errors
    /// As [`Program::value`].
    pub fn jacobian(&self, point: &Tree, batch: &B) -> Result<(Tensor<1>, Vec<Tree>)> {
        let pullback = self.pullback(point, batch)?;
        let device = pullback.value.device();
        let outputs = pullback.plan.outputs;
        let dtype = pullback.value.dtype();
        let rows = (0..outputs).map(|row| {
            let mut unit = vec![0.0f64; outputs];
            unit[row] = 1.0;
            let unit = Tensor::from_data(TensorData::new(unit, [outputs]), (&device, dtype));
            pullback.apply_indexed(row, &unit)
        });
        Ok((pullback.value.clone(), rows.collect::<Result<_>>()?))
    }

    /// Losses of the samples of a batch and the norms of their gradients, ready for weighted sums of those gradients.
    ///
    /// The function gives one loss a sample, shape `[samples]`. Tensors of the batch hold the samples along their first axis, one
    /// after another, its length being a multiple of their number; what has another length is taken to be the same for every
    /// sample. No gradient of a single sample is stored except where it is small (biases, scales, and weights that are used at
    /// many positions). There is one forward and one backward pass, whatever the number of samples.
    ///
    /// That samples do not influence each other is proven operation by operation at the first call; batch normalisation in
    /// training mode is refused, for example.
    ///
    /// ```
    /// use burn::{nn::LinearConfig, tensor::{Device, Distribution, Tensor}};
    /// use core_tensor::{Program, Tree};
    /// # fn main() -> core_tensor::Result<()> {
    /// let device = Device::default();
    /// let model = LinearConfig::new(3, 2).init(&device);
    /// let x = Tensor::<2>::random([8, 3], Distribution::Default, &device);
    /// let program = Program::record_first_order(&model, &x, |model, x: &Tensor<2>| {
    ///     model.forward(x.clone()).square().sum_dim(1).squeeze_dim::<1>(1)
    /// })?;
    /// let samples = program.per_sample(&Tree::from_module(&model), &x)?;
    /// // Every sample with at most a norm of one.
    /// let weights = samples.norms().clamp_min(1.0).recip();
    /// let clipped = samples.weighted_sum(&weights)?;
    /// assert!(clipped.norm().value() <= 8.0);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`Program::value`]; [`ProgramError::SamplesMixed`] where samples are not proven apart, or a parameter is used in a
    /// way that has no rule.
    pub fn per_sample(&self, point: &Tree, batch: &B) -> Result<PerSample> {
        let run = self.prepare(Kind::PerSample, point, batch)?;
        let names = self.present_names(&run.plan);
        let leaves = names.len();
        if run.plan.outputs == 0 {
            let none = || Tensor::<1>::zeros([0], &run.device);
            let (values, squared_norms) = (none(), (0..leaves).map(|_| none()).collect());
            let zeros = run.plan.present.iter().map(|leaf| {
                let leaf = point.leaf(*leaf).1;
                Dispatch::float_zeros(leaf.shape(), &leaf.device(), leaf.dtype().into())
            });
            let kept = zeros.collect();
            return Ok(PerSample { values, squared_norms, names, kept, plan: run.plan, device: run.device });
        }
        let mut out = self.start(&run, Seed::default())?;
        let kept = out.split_off(1 + leaves);
        let mut out = out.into_iter().map(Tensor::from_dispatch);
        let values = out.next().expect("the values are the first output");
        Ok(PerSample { values, squared_norms: out.collect(), names, kept, plan: run.plan, device: run.device })
    }

    /// Draws the random tensors of the recorded function (dropout masks, noise) anew from `seed`.
    ///
    /// Until then every call sees the same ones. A new program has seed 0. The draw is the same on every backend.
    pub fn reseed(&self, seed: u64) {
        *lock(&self.noise) = Noise { seed, drawn: HashMap::new() };
    }

    /// The same function in mixed precision: each operation in the type that the rule of `autocast` gives it.
    ///
    /// Point, batch, value, gradient and tangents keep their types, every call works as before, and shapes met later are rewritten
    /// alike. Recordings are shared with this program; a value is the same in every call. On a host device that lacks the
    /// type it is emulated; [`Program::autocast_report`] says so.
    ///
    /// ```
    /// use burn::{nn::LinearConfig, tensor::{DType, Device, Distribution, FloatDType, Tensor}};
    /// use core_tensor::{Autocast, Precision, Program, Tree};
    /// # fn main() -> core_tensor::Result<()> {
    /// let device = Device::default();
    /// let model = LinearConfig::new(3, 2).init(&device);
    /// let x = Tensor::<2>::random([8, 3], Distribution::Default, &device);
    /// let program = Program::record(&model, &x, |model, x| model.forward(x.clone()).sum())?;
    /// // Everything where its operands are, except layers and matrix products: `mixed_precision` has complete lists.
    /// let rule = |operation: &_| match operation {
    ///     burn::backend::ir::OperationIr::Module(_) => Precision::Low,
    ///     _ => Precision::Promote,
    /// };
    /// let mixed = program.autocast(&Autocast::new(FloatDType::BF16, rule)?);
    /// let out = mixed.value_and_grad(&Tree::from_module(&model), &x)?;
    /// assert_eq!(out.gradient.get::<2>("weight")?.dtype(), DType::F32);
    /// println!("{}", mixed.autocast_report(&Tree::from_module(&model), &x)?.unwrap());
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn autocast(&self, autocast: &Autocast) -> Self {
        Program {
            body: self.body.clone(),
            names: self.names.clone(),
            shapes: self.shapes.clone(),
            buffers: self.buffers.clone(),
            recordings: self.recordings.clone(),
            plans: Mutex::default(),
            noise: Mutex::new(Noise { seed: lock(&self.noise).seed, drawn: HashMap::new() }),
            autocast: Some(autocast.clone()),
        }
    }

    /// What [`autocast`](Self::autocast) made of value and gradient for such a point and batch; `None` without it.
    ///
    /// # Errors
    /// As [`Program::value`].
    pub fn autocast_report(&self, point: &Tree, batch: &B) -> Result<Option<AutocastReport>> {
        Ok(self.prepare(Kind::Gradient, point, batch)?.plan.report.clone())
    }

    /// The forward pass for such a point and batch as data: what other crates analyse, for example to bound its values.
    ///
    /// It is that of the function as recorded, whatever [`autocast`](Self::autocast) makes of it.
    ///
    /// # Errors
    /// As [`Program::value`].
    pub fn trace(&self, point: &Tree, batch: &B) -> Result<Trace> {
        let run = self.prepare(Kind::Value, point, batch)?;
        let recording = self.recording(Want::Gradient, &run.key, &run.device, batch)?;
        Ok(Trace::new(&recording.graph, &self.buffers))
    }

    /// Number of operations in the recorded value and gradient, and in the pass that also gives tangents.
    ///
    /// # Errors
    /// As [`Program::jvp`].
    pub fn operations(&self, point: &Tree, batch: &B) -> Result<(usize, usize)> {
        let gradient = self.prepare(Kind::Gradient, point, batch)?.plan;
        let jvp = self.prepare(Kind::Jvp, point, batch)?.plan;
        Ok((gradient.first.len(), jvp.first.len()))
    }
}

/// The varying inputs of a first stage besides point and batch.
#[derive(Clone, Copy, Default)]
struct Seed<'a> {
    direction: Option<&'a Tree>,
    scale: Option<f32>,
}

/// A plan with everything that a run needs but the varying inputs.
struct Run<'a> {
    plan: Arc<Plan>,
    key: Key,
    device: Device,
    point: &'a Tree,
    batch: Vec<DispatchTensor>,
}

impl<B: Batch> Program<B> {
    fn new(body: Body<B>, point: &Tree, batch: &B, buffers: Vec<DispatchTensor>) -> Result<Self> {
        let program = Program {
            body,
            names: point.shared_names(),
            shapes: point.iter().map(|(_, leaf)| leaf.shape()).collect(),
            buffers,
            recordings: Arc::default(),
            plans: Mutex::default(),
            noise: Mutex::new(Noise { seed: 0, drawn: HashMap::new() }),
            autocast: None,
        };
        program.prepare(Kind::Gradient, point, batch)?;
        Ok(program)
    }

    /// Builds the second-order plan where it has a meaning, so that a missing rule shows at recording.
    fn check_second_order(&self, point: &Tree, batch: &B) -> Result<()> {
        let outputs = self.prepare(Kind::Gradient, point, batch)?.plan.outputs;
        if outputs == 1 {
            self.prepare(Kind::Jvp, point, batch)?;
        }
        Ok(())
    }

    /// Checks that a point has the recorded leaves.
    fn matches(&self, point: &Tree) -> Result<()> {
        let (expected, found) = (&self.names, point.names());
        let path = |names: &[LeafName], index: usize| names.get(index).map(|name| name.path.clone());
        let length = expected.len().max(found.len());
        if let Some(index) = (0..length).find(|&index| path(expected, index) != path(found, index)) {
            return Err(Error::Structure { index, left: path(expected, index), right: path(found, index) });
        }
        for ((name, leaf), shape) in point.iter().zip(&self.shapes) {
            if leaf.shape() != *shape {
                let (left, right) = (shape.to_vec(), leaf.shape().to_vec());
                return Err(Error::Shape { path: name.path.clone(), left, right });
            }
        }
        Ok(())
    }

    fn scalar(&self, call: &'static str, plan: &Plan) -> Result<()> {
        match plan.outputs {
            1 => Ok(()),
            outputs => Err(ProgramError::NotScalar { call, outputs }.into()),
        }
    }

    fn prepare<'a>(&self, kind: Kind, point: &'a Tree, batch: &B) -> Result<Run<'a>> {
        self.matches(point)?;
        let mut values = BatchValues::default();
        batch.map(&mut values);
        let spec = |tensor: &DispatchTensor| (tensor.shape(), tensor.dtype());
        let key: Key = (point.iter().map(|(_, leaf)| spec(leaf)).collect(), values.0.iter().map(spec).collect());
        let device = point.iter().map(|(_, leaf)| leaf).chain(&values.0).chain(&self.buffers).next();
        let device = device.map(|tensor| Device::new(tensor.device())).unwrap_or_default().inner();
        for (name, leaf) in point.iter() {
            on_device(leaf, &device, || format!("leaf `{}`", name.path))?;
        }
        for (index, tensor) in values.0.iter().enumerate() {
            on_device(tensor, &device, || format!("tensor {index} of the batch"))?;
        }
        let mode = self.autocast.as_ref().map(|autocast| autocast.mode(&device)).transpose()?;
        let slot = (key.clone(), kind, mode);
        let cached = lock(&self.plans).get(&slot).cloned();
        let plan = match cached {
            Some(plan) => plan,
            None => {
                let plan = Arc::new(self.plan(kind, &key, &device, batch, mode)?);
                lock(&self.plans).insert(slot, plan.clone());
                plan
            }
        };
        Ok(Run { plan, key, device, point, batch: values.0 })
    }

    fn recording(&self, want: Want, key: &Key, device: &Device, batch: &B) -> Result<Arc<Recording>> {
        let slot = (key.clone(), want);
        if let Some(recording) = lock(&self.recordings).get(&slot) {
            return Ok(recording.clone());
        }
        let mut recording =
            record::record(device, key.0.clone(), want, &|leaf| self.path(leaf), &mut |tape| (self.body)(tape, batch))?;
        let graph = simplify::simplify(std::mem::take(&mut recording.graph));
        recording.graph = simplify::simplify(lower::lower(graph));
        let recording = Arc::new(recording);
        lock(&self.recordings).insert(slot, recording.clone());
        Ok(recording)
    }

    fn plan(&self, kind: Kind, key: &Key, device: &Device, batch: &B, mode: Option<Mode>) -> Result<Plan> {
        let want = match kind {
            Kind::Scaled | Kind::Pullback | Kind::Pushforward | Kind::PerSample => Want::Pullback,
            _ => Want::Gradient,
        };
        let recording = self.recording(want, key, device, batch)?;
        let graph = &recording.graph;
        let mut plan = Plan {
            outputs: recording.outputs,
            present: recording.present.clone(),
            first: Schedule::new(Graph::default()),
            second: None,
            guarded: None,
            tangents: Vec::new(),
            report: None,
        };
        let gradients = 1 + plan.present.len();
        // The last rewrite, of value, gradient and the rest; stages are split after it.
        let mut report = None;
        let mut cast = |graph: Graph| match self.autocast.as_ref().zip(mode) {
            None => graph,
            Some((by, mode)) => {
                let parts = [1, gradients, graph.outputs.len()].map(|end| end.min(graph.outputs.len()));
                let (graph, made) = autocast::autocast(graph, &parts, by, mode);
                report = Some(made);
                graph
            }
        };
        match kind {
            Kind::Value => {
                let mut graph = graph.clone();
                graph.outputs.truncate(1);
                plan.first = Schedule::new(cast(simplify::simplify(graph)));
            }
            Kind::Gradient | Kind::Scaled => plan.first = Schedule::new(cast(graph.clone())),
            Kind::Jvp => {
                let (mut graph, tangents) = self.with_tangents(graph)?;
                plan.tangents = append(&mut graph.outputs, tangents);
                plan.first = Schedule::new(cast(simplify::simplify(graph)));
            }
            Kind::Linear => {
                let (mut graph, tangents) = self.with_tangents(graph)?;
                let stable = graph.outputs.len();
                plan.tangents = append(&mut graph.outputs, tangents);
                let mut graph = cast(simplify::simplify(graph));
                let late = graph.outputs.split_off(stable);
                let early = std::mem::take(&mut graph.outputs);
                let (first, second) = stage::split(&graph, |s| matches!(s, Source::Direction(_)), early, late);
                plan.tangents.iter_mut().flatten().for_each(|position| *position -= stable);
                plan.first = Schedule::new(first);
                plan.second = Some(Schedule::new(second));
            }
            Kind::Pullback => {
                let graph = cast(graph.clone());
                let early = graph.outputs[..1].to_vec();
                let late = graph.outputs[1..].to_vec();
                let (first, second) = stage::split(&graph, |s| matches!(s, Source::Cotangent), early, late);
                plan.first = Schedule::new(first);
                plan.second = Some(Schedule::new(second));
            }
            Kind::Pushforward => {
                let mut graph = graph.clone();
                graph.outputs.truncate(1);
                let graph = simplify::simplify(graph);
                let (mut graph, tangents) =
                    tangent::tangents(&graph).map_err(|missing| self.no_rule(&graph, missing))?;
                plan.tangents = append(&mut graph.outputs, tangents);
                let mut graph = cast(simplify::simplify(graph));
                let late = graph.outputs.split_off(1);
                let early = std::mem::take(&mut graph.outputs);
                let (first, second) = stage::split(&graph, |s| matches!(s, Source::Direction(_)), early, late);
                plan.tangents.iter_mut().flatten().for_each(|position| *position -= 1);
                plan.first = Schedule::new(first);
                plan.second = Some(Schedule::new(second));
            }
            // Nothing to compute without samples.
            Kind::PerSample if recording.outputs == 0 => {}
            Kind::PerSample => {
                let leaves = plan.present.len();
                let host = crate::kernels::host::is_host_device(device.as_dispatch());
                let rewritten = per_sample::per_sample(graph, recording.outputs, host).map_err(|refused| {
                    let path = match refused.leaf {
                        Some(leaf) => format!("of parameter `{}`", self.path(plan.present[leaf])),
                        None => record::module_path(graph, &refused.reads, &|leaf| self.path(leaf)),
                    };
                    Error::Program(ProgramError::SamplesMixed { operation: refused.operation, path })
                })?;
                let mut graph = cast(simplify::simplify(rewritten));
                let late = graph.outputs.split_off(1 + leaves);
                let early = std::mem::take(&mut graph.outputs);
                let (first, mut second) = stage::split(&graph, |s| matches!(s, Source::Weight(_)), early, late);
                let mut guarded = second.clone();
                guarded.outputs.drain(..leaves);
                second.outputs.truncate(leaves);
                plan.first = Schedule::new(first);
                for (slot, mut graph) in [(&mut plan.second, second), (&mut plan.guarded, guarded)] {
                    simplify::drop_dead(&mut graph);
                    *slot = Some(Schedule::new(graph));
                }
            }
        }
        plan.report = report;
        Ok(plan)
    }

    /// The graph with the tangents of the gradients. The value's own tangent is left out: it is `⟨∇f, v⟩`.
    fn with_tangents(&self, graph: &Graph) -> Result<(Graph, Vec<Option<TensorIr>>)> {
        let (graph, mut tangents) = tangent::tangents(graph).map_err(|missing| self.no_rule(graph, missing))?;
        tangents.remove(0);
        Ok((graph, tangents))
    }

    fn no_rule(&self, graph: &Graph, missing: tangent::Missing) -> Error {
        let path = record::module_path(graph, &missing.reads, &|leaf| self.path(leaf));
        Error::Program(ProgramError::NoTangentRule { operation: missing.operation, path })
    }

    fn path(&self, leaf: usize) -> String {
        self.names[leaf].path.clone()
    }

    /// Runs the first stage.
    fn start(&self, run: &Run<'_>, seed: Seed<'_>) -> Result<Vec<DispatchTensor>> {
        let entries = run.plan.first.entries.iter().map(|entry| match &entry.source {
            Source::Point(leaf) => run.point.leaf(*leaf).1.clone(),
            Source::Direction(leaf) => {
                let direction = seed.direction.expect("plans with a direction are given one");
                along(direction.leaf(*leaf).1, run.point.leaf(*leaf).1)
            }
            Source::Batch(tensor) => run.batch[*tensor].clone(),
            Source::Buffer(tensor) => self.buffers[*tensor].clone(),
            Source::Constant(data) => self.fixed(run, entry, |_| upload(data.clone(), entry, &run.device)),
            Source::Noise(distribution) => self.fixed(run, entry, |seed| draw(*distribution, seed, entry, &run.device)),
            Source::Cotangent => {
                let scale = seed.scale.expect("plans with a cotangent in the first stage are given a scale");
                let (shape, dtype) = (entry.tensor.shape.clone(), entry.tensor.dtype);
                Dispatch::float_full(shape, f64::from(scale).into(), run.device.as_dispatch(), dtype.into())
            }
            Source::Kept(_) | Source::Weight(_) => unreachable!("belongs to the second stage"),
        });
        Ok(run.plan.first.run(entries.collect(), run.device.as_dispatch())?)
    }

    /// A tensor made once per recording and seed: constants and random tensors, by their id in the recording.
    fn fixed(&self, run: &Run<'_>, entry: &Entry, make: impl FnOnce(u64) -> DispatchTensor) -> DispatchTensor {
        let mut noise = lock(&self.noise);
        let id = graph::index(&entry.tensor);
        let slot = (run.key.clone(), id);
        if let Some(tensor) = noise.drawn.get(&slot)
            && tensor.device() == *run.device.as_dispatch()
        {
            return tensor.clone();
        }
        let tensor = make(noise.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(id as u64));
        noise.drawn.insert(slot, tensor.clone());
        tensor
    }

    fn present_names(&self, plan: &Plan) -> Arc<Vec<LeafName>> {
        if plan.present.len() == self.names.len() {
            return self.names.clone();
        }
        Arc::new(plan.present.iter().map(|leaf| self.names[*leaf].clone()).collect())
    }

    fn gradient(&self, plan: &Plan, out: &mut dyn Iterator<Item = DispatchTensor>) -> Gradient {
        let value = Tensor::from_dispatch(out.next().expect("the value is the first output"));
        let leaves = out.take(plan.present.len()).collect();
        let absent = (0..self.names.len()).filter(|leaf| !plan.present.contains(leaf));
        Gradient {
            value,
            gradient: Tree::from_parts(self.present_names(plan), leaves),
            absent: absent.map(|leaf| self.path(leaf)).collect(),
        }
    }
}

/// Value and gradient at a point, ready for Hessian-vector products there. Made by [`Program::linearize`].
pub struct Linearized {
    /// `f(x)`, shape `[1]`.
    pub value: Tensor<1>,
    /// `∇f(x)`, without the leaves in `absent`.
    pub gradient: Tree,
    /// Paths of the leaves that the value does not depend on.
    pub absent: Vec<String>,
    point: Tree,
    kept: Vec<DispatchTensor>,
    plan: Arc<Plan>,
    device: Device,
}

impl Linearized {
    /// `∇²f(x)·v`, with the leaves of `gradient`. The direction has the point's leaves.
    ///
    /// # Errors
    /// A direction that does not match the point.
    pub fn hvp(&self, direction: &Tree) -> Result<Tree> {
        check_direction(&self.point, direction, &self.device)?;
        let schedule = self.plan.second.as_ref().expect("a linear plan has two stages");
        let entries = schedule.entries.iter().map(|entry| match entry.source {
            Source::Direction(leaf) => along(direction.leaf(leaf).1, self.point.leaf(leaf).1),
            Source::Kept(value) => self.kept[value].clone(),
            _ => unreachable!("the second stage reads directions and kept values"),
        });
        let out = schedule.run(entries.collect(), self.device.as_dispatch())?;
        Ok(tangents(&self.plan, &out, &self.gradient))
    }
}

/// A forward pass ready to be pulled back along any cotangent. Made by [`Program::pullback`].
pub struct Pullback {
    /// `f(x)`, shape `[outputs]`.
    pub value: Tensor<1>,
    names: Arc<Vec<LeafName>>,
    kept: Vec<DispatchTensor>,
    plan: Arc<Plan>,
    device: Device,
}

impl Pullback {
    /// `cᵀJ` for a cotangent of shape `[outputs]`, without the leaves that `f` does not depend on.
    ///
    /// # Errors
    /// [`ProgramError::Cotangent`].
    pub fn apply(&self, cotangent: &Tensor<1>) -> Result<Tree> {
        self.apply_indexed(0, cotangent)
    }

    fn apply_indexed(&self, position: usize, cotangent: &Tensor<1>) -> Result<Tree> {
        let found = cotangent.dims()[0];
        if found != self.plan.outputs {
            return Err(ProgramError::Cotangent { index: position, found, expected: self.plan.outputs }.into());
        }
        let schedule = self.plan.second.as_ref().expect("a pullback plan has two stages");
        let entries = schedule.entries.iter().map(|entry| match entry.source {
            Source::Cotangent => cotangent.clone().inner().into_dispatch(),
            Source::Kept(value) => self.kept[value].clone(),
            _ => unreachable!("the second stage reads the cotangent and kept values"),
        });
        let out = schedule.run(entries.collect(), self.device.as_dispatch())?;
        Ok(Tree::from_parts(self.names.clone(), out))
    }
}

/// A forward pass ready to be pushed along any direction. Made by [`Program::pushforward`].
pub struct Pushforward {
    /// `f(x)`, shape `[outputs]`.
    pub value: Tensor<1>,
    point: Tree,
    kept: Vec<DispatchTensor>,
    plan: Arc<Plan>,
    device: Device,
}

impl Pushforward {
    /// `J·v`, shape `[outputs]`, for a direction with the point's leaves.
    ///
    /// # Errors
    /// A direction that does not match the point.
    pub fn apply(&self, direction: &Tree) -> Result<Tensor<1>> {
        check_direction(&self.point, direction, &self.device)?;
        let [Some(position)] = self.plan.tangents[..] else {
            return Ok(self.value.zeros_like());
        };
        let schedule = self.plan.second.as_ref().expect("a pushforward plan has two stages");
        let entries = schedule.entries.iter().map(|entry| match entry.source {
            Source::Direction(leaf) => along(direction.leaf(leaf).1, self.point.leaf(leaf).1),
            Source::Kept(value) => self.kept[value].clone(),
            _ => unreachable!("the second stage reads directions and kept values"),
        });
        let mut out = schedule.run(entries.collect(), self.device.as_dispatch())?;
        Ok(Tensor::from_dispatch(out.swap_remove(position)))
    }
}

/// What the samples of a batch say one by one, without their gradients. Made by [`Program::per_sample`].
pub struct PerSample {
    /// `fᵢ(x)`, shape `[samples]`.
    pub values: Tensor<1>,
    squared_norms: Vec<Tensor<1>>,
    names: Arc<Vec<LeafName>>,
    kept: Vec<DispatchTensor>,
    plan: Arc<Plan>,
    device: Device,
}

impl PerSample {
    /// Number of samples.
    pub fn samples(&self) -> usize {
        self.plan.outputs
    }

    /// The leaves that the values depend on: those of the sums.
    pub fn names(&self) -> &[LeafName] {
        &self.names
    }

    /// `‖∂fᵢ/∂leaf‖²` for each leaf, shape `[samples]`, in `f32` or wider. Infinite where the square leaves that range.
    pub fn squared_norms(&self) -> &[Tensor<1>] {
        &self.squared_norms
    }

    /// `‖∇fᵢ(x)‖` over all leaves, shape `[samples]`.
    pub fn norms(&self) -> Tensor<1> {
        let sum = self.squared_norms.iter().cloned().reduce(|sum, squares| {
            let (sum, squares) = crate::kernels::common(sum, squares);
            sum + squares
        });
        // Rounding can leave the square of a zero gradient below zero.
        sum.map_or_else(|| Tensor::zeros([self.samples()], &self.device), |sum| sum.clamp_min(0.0).sqrt())
    }

    /// `Σᵢ wᵢ∇fᵢ(x)` for weights of shape `[samples]`.
    ///
    /// Samples whose norm is not finite are left out, whatever their weight.
    ///
    /// # Errors
    /// [`ProgramError::Cotangent`] for another number of weights.
    pub fn weighted_sum(&self, weights: &Tensor<1>) -> Result<Tree> {
        self.weighted_sums(&vec![weights.clone(); self.names.len()])
    }

    /// The same with weights of its own for each leaf, in the order of [`names`](Self::names).
    ///
    /// # Errors
    /// [`ProgramError::Cotangent`] for another number of weights; [`Error::Length`] for another number of leaves.
    pub fn weighted_sums(&self, weights: &[Tensor<1>]) -> Result<Tree> {
        let (schedule, entries) = self.weighted(&self.plan, weights)?;
        self.finish(schedule, entries)
    }

    /// [`weighted_sums`](Self::weighted_sums) as the last question: memory is freed on the way.
    ///
    /// # Errors
    /// As there.
    pub fn into_weighted_sums(mut self, weights: &[Tensor<1>]) -> Result<Tree> {
        let plan = self.plan.clone();
        let (schedule, entries) = self.weighted(&plan, weights)?;
        if schedule.is_some() {
            self.kept.clear();
        }
        self.finish(schedule, entries)
    }

    fn finish(&self, schedule: Option<&Schedule>, entries: Vec<DispatchTensor>) -> Result<Tree> {
        let leaves = match schedule {
            Some(schedule) => schedule.run(entries, self.device.as_dispatch())?,
            None => self.kept.clone(),
        };
        Ok(Tree::from_parts(self.names.clone(), leaves))
    }

    /// What to run on which values for the sums of weighted samples; nothing without samples.
    fn weighted<'a>(
        &self,
        plan: &'a Plan,
        weights: &[Tensor<1>],
    ) -> Result<(Option<&'a Schedule>, Vec<DispatchTensor>)> {
        if weights.len() != self.names.len() {
            let (expected, actual) = (self.names.len(), weights.len());
            return Err(Error::Length { what: "the list of weights", expected, actual });
        }
        let expected = self.samples();
        for (index, weights) in weights.iter().enumerate() {
            let found = weights.dims()[0];
            if found != expected {
                return Err(ProgramError::Cotangent { index, found, expected }.into());
            }
        }
        if expected == 0 {
            return Ok((None, Vec::new()));
        }
        let norms = self.norms();
        let finite = norms.clone().is_finite();
        // On the host looking costs nothing; elsewhere it would wait for the device.
        let all = crate::kernels::host::is_host(&norms.into_dispatch()) && finite.clone().all().into_scalar::<bool>();
        let schedule = if all { &plan.second } else { &plan.guarded };
        let schedule = schedule.as_ref().expect("a plan for samples has these stages");
        let lost = finite.clone().bool_not();
        let dtype = self.values.dtype();
        let entries = schedule.entries.iter().map(|entry| match entry.source {
            Source::Weight(leaf) => {
                let tensor = match weights.get(leaf) {
                    Some(weights) if all => weights.clone().inner(),
                    Some(weights) => weights.clone().inner().mask_fill(lost.clone(), 0.0),
                    None => finite.clone().float(),
                };
                Dispatch::float_cast(tensor.into_dispatch(), dtype.into())
            }
            Source::Kept(value) => self.kept[value].clone(),
            _ => unreachable!("the second stage reads weights and kept values"),
        });
        Ok((Some(schedule), entries.collect()))
    }
}

/// A direction's leaf in the element type of the point's.
fn along(direction: &DispatchTensor, point: &DispatchTensor) -> DispatchTensor {
    match direction.dtype() == point.dtype() {
        true => direction.clone(),
        false => Dispatch::float_cast(direction.clone(), point.dtype().into()),
    }
}

/// Checks that a direction has the point's leaves on the point's device.
fn check_direction(point: &Tree, direction: &Tree, device: &Device) -> Result<()> {
    point.same_structure(direction)?;
    direction.iter().try_for_each(|(name, leaf)| on_device(leaf, device, || format!("direction leaf `{}`", name.path)))
}

fn on_device(tensor: &DispatchTensor, device: &Device, what: impl FnOnce() -> String) -> Result<()> {
    let found = tensor.device();
    if found == *device.as_dispatch() {
        return Ok(());
    }
    let (found, expected) = (format!("{found:?}"), format!("{:?}", device.as_dispatch()));
    Err(ProgramError::Device { what: what(), found, expected }.into())
}

/// The Hessian-vector product from the last stage's outputs.
fn tangents(plan: &Plan, out: &[DispatchTensor], gradient: &Tree) -> Tree {
    let leaves = plan.tangents.iter().zip(gradient.iter()).map(|(position, (_, leaf))| match position {
        Some(position) => out[*position].clone(),
        None => Dispatch::float_zeros(leaf.shape(), &leaf.device(), leaf.dtype().into()),
    });
    Tree::from_parts(gradient.shared_names(), leaves.collect())
}

/// Appends the tangents that exist to the outputs and says where each is.
fn append(outputs: &mut Vec<TensorIr>, tangents: Vec<Option<TensorIr>>) -> Vec<Option<usize>> {
    let mut place = |tangent: Option<TensorIr>| {
        tangent.map(|tangent| {
            outputs.push(tangent);
            outputs.len() - 1
        })
    };
    tangents.into_iter().map(&mut place).collect()
}

fn upload(data: TensorData, entry: &Entry, device: &Device) -> DispatchTensor {
    let settings = device.settings();
    let dtype = entry.tensor.dtype;
    if dtype.is_float() {
        Dispatch::float_from_data(data, device.as_dispatch())
    } else if dtype.is_bool() {
        Dispatch::bool_from_data(data.convert_dtype(settings.bool_dtype.into()), device.as_dispatch())
    } else {
        Dispatch::int_from_data(data, device.as_dispatch())
    }
}

fn draw(distribution: Distribution, seed: u64, entry: &Entry, device: &Device) -> DispatchTensor {
    let data = Random::new(seed).draw(distribution, entry.tensor.shape.clone()).convert_dtype(entry.tensor.dtype);
    Dispatch::float_from_data(data, device.as_dispatch())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic while a lock is held leaves a cache that is still right.
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
