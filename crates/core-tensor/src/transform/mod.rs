//! Gradient transforms: state plus `gradient -> gradient`, in a chain before an optimizer.
//!
//! Clipping, unscaling, noise and error feedback are [`GradientTransform`]s. A [`Chain`] applies
//! them in order; [`Chain::before`] puts it before any Burn optimizer as a [`Trainer`], and
//! [`Chain::optimize`] is the one line that burn-train's `TrainStep::optimize` needs.
//!
//! ```
//! use burn::nn::LinearConfig;
//! use burn::optim::AdamWConfig;
//! use burn::tensor::{Device, Tensor};
//! use core_tensor::transform::{Chain, Identity, Outcome};
//!
//! let device = Device::flex().autodiff();
//! let model = LinearConfig::new(3, 1).init(&device);
//! let mut train = Chain::new().then(Identity).before(AdamWConfig::new().init());
//! let loss = model.forward(Tensor::<2>::ones([4, 3], &device)).mean();
//! let model = match train.step(1e-3, model, loss)? {
//!     Outcome::Stepped { model, report } => {
//!         println!("gradient norm {}", report.grad_norm.value());
//!         model
//!     }
//!     Outcome::Skipped { model, why } => {
//!         println!("skipped: {why}");
//!         model
//!     }
//! };
//! # let _ = model;
//! # Ok::<(), core_tensor::Error>(())
//! ```

mod chain;
mod identity;
mod masked;
mod state;
mod trainer;

pub use chain::{Chain, SharedChain};
pub use identity::Identity;
pub use masked::Masked;
pub use state::{State, Value};
pub use trainer::{Outcome, Report, StepError, Trainer};

use crate::{Result, Scalar, Tree};

/// What a transform may look at besides the gradient.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct Context<'a> {
    /// Updates applied so far: 0 before the first, not counting skipped ones.
    pub step: u64,
    /// The parameters the gradient belongs to, before the update. They may have more leaves than
    /// the gradient ([`Tree::restrict`]).
    pub params: Option<&'a Tree>,
    /// The loss the gradient was taken of.
    pub loss: Option<&'a Scalar>,
}

impl<'a> Context<'a> {
    /// A context with a step and nothing else.
    pub fn new(step: u64) -> Self {
        Self { step, ..Self::default() }
    }

    /// The same with parameters.
    pub fn with_params(self, params: &'a Tree) -> Self {
        Self { params: Some(params), ..self }
    }

    /// The same with a loss.
    pub fn with_loss(self, loss: &'a Scalar) -> Self {
        Self { loss: Some(loss), ..self }
    }
}

/// What a transform made of a gradient.
#[derive(Clone, Debug)]
pub enum Update {
    /// Go on with this gradient.
    Apply(Tree),
    /// Leave model and optimizer as they are in this step.
    Skip {
        /// Why, for a person to read.
        why: String,
    },
}

/// State plus `gradient -> gradient`.
///
/// A transform keeps the structure of the gradient (names, shapes, order) and its dtypes. NaN and
/// infinite gradients are inputs like any other: pass them on, repair them or [`Update::Skip`], but do
/// not fail. Everything that later results depend on is in [`state`](Self::state), randomness
/// included, so that a resumed run goes on bit for bit. Configuration is not state.
///
/// `core_tensor::transform_conformance!` (feature `testing`) checks all of this.
///
/// ```
/// use core_tensor::transform::{Context, GradientTransform, State, Update};
/// use core_tensor::{Result, Tree};
///
/// /// The running mean of all gradients so far.
/// #[derive(Default)]
/// struct Mean {
///     count: u64,
///     mean: Option<Tree>,
/// }
///
/// impl GradientTransform for Mean {
///     fn name(&self) -> &str {
///         "mean"
///     }
///
///     fn apply(&mut self, grads: Tree, _context: &Context<'_>) -> Result<Update> {
///         let mean = match &self.mean {
///             Some(mean) => mean.clone().lerp(&grads, 1.0 / (self.count + 1) as f64)?,
///             None => grads,
///         };
///         self.count += 1;
///         self.mean = Some(mean.clone());
///         Ok(Update::Apply(mean))
///     }
///
///     fn state(&self) -> State {
///         State::new().with("count", self.count).with("mean", self.mean.clone())
///     }
///
///     fn load_state(&mut self, mut state: State) -> Result<()> {
///         let (count, mean) = (state.take("count")?, state.take_optional("mean")?);
///         state.finish()?;
///         (self.count, self.mean) = (count, mean);
///         Ok(())
///     }
/// }
/// ```
pub trait GradientTransform: Send {
    /// A short name for reports and errors.
    fn name(&self) -> &str;

    /// Transform a gradient.
    ///
    /// # Errors
    /// Only for what the caller did wrong, such as a tree of another structure than before. The
    /// state is then as it was.
    fn apply(&mut self, grads: Tree, context: &Context<'_>) -> Result<Update>;

    /// Everything that later results depend on. Trees share their buffers, so this is cheap.
    fn state(&self) -> State {
        State::new()
    }

    /// Go on from a state of a transform with the same configuration.
    ///
    /// # Errors
    /// [`Error::State`](crate::Error::State) for a state of another transform; the own state is
    /// then as it was.
    fn load_state(&mut self, state: State) -> Result<()> {
        state.finish()
    }
}

impl<T: GradientTransform + ?Sized> GradientTransform for Box<T> {
    fn name(&self) -> &str {
        (**self).name()
    }

    fn apply(&mut self, grads: Tree, context: &Context<'_>) -> Result<Update> {
        (**self).apply(grads, context)
    }

    fn state(&self) -> State {
        (**self).state()
    }

    fn load_state(&mut self, state: State) -> Result<()> {
        (**self).load_state(state)
    }
}
