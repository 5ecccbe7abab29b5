//! YOPO: you only propagate once.

use std::sync::Arc;

use burn::module::Module;
use burn::tensor::{Int, Tensor};
use core_tensor::transform::State;
use core_tensor::{Frozen, Program, Scalar, Tree};

use super::ball::Ball;
use super::inner::{Inner, StepSize, at_least_one, inner_settings};
use super::program::{Labels, Slot, cross_entropies, input_gradient, split};
use super::{Clock, Cost, RobustGradients, RobustProgram, Start};
use crate::error::{Error, Result};
use crate::threat::Threat;

type First<M, const D: usize, const E: usize> = Arc<dyn Fn(&M, Tensor<D>) -> Tensor<E> + Send + Sync>;
type Rest<M, const E: usize> = Arc<dyn Fn(&M, Tensor<E>) -> Tensor<2> + Send + Sync>;

/// A classifier in two parts for [`YopoTraining`]: `h = rest ∘ first`.
///
/// `first` should be the first layer: what the inner steps go through. Leave batch normalisation and dropout to `rest`, since the inner
/// steps see `first` in evaluation mode.
pub struct YopoProgram<M, const D: usize, const E: usize> {
    whole: RobustProgram<M, D>,
    model: M,
    first: First<M, D, E>,
    rest: Rest<M, E>,
    /// Shape of what `first` gives, without the examples.
    hidden: Vec<usize>,
    joint: Slot<(Tensor<D>, Labels)>,
    inner: Slot<(Frozen<M>, Tensor<E>)>,
}

impl<M: Module + Sync + 'static, const D: usize, const E: usize> YopoProgram<M, D, E> {
    /// Prepares a model's forward pass; `inputs` are any batch.
    ///
    /// # Errors
    /// As [`RobustProgram::record`]; [`Error::Shape`] unless `first` gives a row for each example.
    pub fn record(
        model: &M,
        inputs: &Tensor<D>,
        first: impl Fn(&M, Tensor<D>) -> Tensor<E> + Send + Sync + 'static,
        rest: impl Fn(&M, Tensor<E>) -> Tensor<2> + Send + Sync + 'static,
    ) -> Result<Self> {
        let (first, rest): (First<M, D, E>, Rest<M, E>) = (Arc::new(first), Arc::new(rest));
        let whole = {
            let (first, rest) = (first.clone(), rest.clone());
            RobustProgram::record(model, inputs, move |model, x| rest(model, first(model, x)))?
        };
        let hidden = first(&model.valid(), inputs.clone().inner()).dims();
        if hidden[0] != inputs.dims()[0] {
            let expected = format!("[{}, ..], a row for each example", inputs.dims()[0]);
            return Err(Error::Shape { what: "the first layer's output", actual: hidden.to_vec(), expected });
        }
        let (model, hidden) = (model.clone(), hidden[1..].to_vec());
        Ok(Self { whole, model, first, rest, hidden, joint: Slot::default(), inner: Slot::default() })
    }

    /// The whole classifier, for other methods and for accuracies.
    pub fn whole(&self) -> &RobustProgram<M, D> {
        &self.whole
    }
}

/// Trains with many inner steps through the first layer alone, whose adversary sees the rest of the network through a vector that is
/// renewed `m` times.
///
/// With `p = ∇L` in the first layer's output, from the full pass that also gives the gradient of the parameters, `n` steps
/// `x′ ← Π(x′ + α·d(∇ₓ⟨p, f₀(x′)⟩))` follow before the next full pass. The gradients of the `m` full passes are averaged.
///
/// | parameter | default | range | effect |
/// |---|---|---|---|
/// | `threat` | – | any norm but `L0` | what the adversary may do |
/// | [`passes`](Self::passes) | 5 | `≥ 1` | `m`, full forward and backward passes |
/// | [`steps`](Self::steps) | 3 | `≥ 1` | `n`, inner steps between two of them |
/// | [`step_size`](Self::step_size) | `ε/4` | `(0, ∞)` | `α` |
/// | [`start`](Self::start) | [`Start::Uniform`] | | where the ascent begins |
/// | [`seed`](Self::seed) | 0 | | random starts and dropout |
///
/// Guarantees: inside ball and box (`every_point_is_inside`); with two classes and a linear rest YOPO's steps
/// are those of PGD (`through_a_linear_rest_yopo_is_pgd`); `ε = 0` is standard training with `m = 1`.
///
/// Cost: `m` gradient evaluations and `(m − 1)·n` of the first layer in inputs only.
///
/// D. Zhang, T. Zhang, Y. Lu, Z. Zhu, B. Dong, "You only propagate once: accelerating adversarial training via maximal principle",
/// NeurIPS 2019, arXiv:1905.00877, algorithm 1 (YOPO-m-n). Deviations: the mean of the gradients instead of their sum, so that
/// learning rates are those of other methods; no inner steps after the last full pass, since nothing would see them.
///
/// ```
/// use adversarial::training::{YopoProgram, YopoTraining};
/// use adversarial::{Norm, Threat};
/// use burn::nn::{Linear, LinearConfig};
/// use burn::tensor::{Device, Int, Tensor, activation::relu};
///
/// let device = Device::default();
/// let model = (LinearConfig::new(2, 8).init(&device), LinearConfig::new(8, 3).init(&device));
/// let x = Tensor::<2>::from_data([[0.1, 0.9], [0.8, 0.2]], &device);
/// let y = Tensor::<1, Int>::from_data([0, 2], &device);
/// let first = |model: &(Linear, Linear), x| model.0.forward(x);
/// let rest = |model: &(Linear, Linear), hidden: Tensor<2>| model.1.forward(relu(hidden));
/// let program = YopoProgram::record(&model, &x, first, rest)?;
/// let step = YopoTraining::new(Threat::new(Norm::Linf, 0.1)?)?.gradients(&program, &model, x, y)?;
/// assert_eq!((step.cost.gradient_evaluations, step.cost.first_layer_evaluations), (5, 12));
/// # Ok::<(), adversarial::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct YopoTraining {
    inner: Inner,
    passes: usize,
    clock: Clock,
}

const WHAT: &str = "YOPO";

impl YopoTraining {
    /// Against a threat, with the settings of the table.
    ///
    /// # Errors
    /// [`UnsupportedNorm`](Error::UnsupportedNorm) for `L0`.
    pub fn new(threat: Threat) -> Result<Self> {
        let inner = Inner::new(threat, 3, StepSize::OfRadius(0.25), Start::Uniform, WHAT)?;
        Ok(Self { inner, passes: 5, clock: Clock::new(0) })
    }

    /// Full passes, `m`.
    ///
    /// # Errors
    /// [`Error::Parameter`] for 0.
    pub fn passes(self, passes: usize) -> Result<Self> {
        Ok(Self { passes: at_least_one("passes", passes)?, ..self })
    }

    inner_settings!();

    /// The gradient on a batch.
    ///
    /// # Errors
    /// As [`RobustTraining::gradients`](super::RobustTraining::gradients). Then the method is as it was.
    pub fn gradients<M: Module + Sync + 'static, const D: usize, const E: usize>(
        &mut self,
        program: &YopoProgram<M, D, E>,
        model: &M,
        inputs: Tensor<D>,
        labels: Tensor<1, Int>,
    ) -> Result<RobustGradients<D>> {
        let batch = program.whole.examples(inputs, labels)?;
        let mut clock = self.clock.clone();
        let (seed, point, size) = (clock.tick(), Tree::from_module(model), self.inner.size());
        let still = self.inner.threat.epsilon() == 0.0;
        let passes = if still { 1 } else { self.passes };
        let ball = Ball::new(self.inner.threat, batch.inputs.clone(), WHAT)?;
        let mut x = match self.inner.start {
            Start::Uniform if !still => ball.uniform(&mut clock.random)?,
            Start::Normal(deviation) if !still => ball.normal(&mut clock.random, deviation)?,
            _ => batch.inputs.clone(),
        };
        let (mut sum, mut loss, mut cost) = (None::<Tree>, Scalar::from(0.0), Cost::default());
        let mut absent = Vec::new();
        for pass in 0..passes {
            let (gradient, p) = program.full_pass(&point, x.clone(), &batch.labels, seed)?;
            cost.gradient_evaluations += 1;
            loss = loss + Scalar::from_tensor(gradient.value);
            absent = gradient.absent;
            sum = Some(match sum {
                None => gradient.gradient,
                Some(sum) => sum.add(&gradient.gradient)?,
            });
            if pass + 1 == passes {
                break;
            }
            let attacked = (Frozen(model.valid()), p);
            for _ in 0..self.inner.steps {
                let [at, slope] = program.first_layer(&attacked, x)?;
                x = ball.ascend(at, slope, size)?;
                cost.first_layer_evaluations += 1;
            }
        }
        cost.forward_passes += program.whole.observe(model, &x)?;
        self.clock = clock;
        let share = 1.0 / passes as f64;
        let gradient = sum.unwrap_or_default();
        Ok(RobustGradients {
            // Not scaled where nothing was added, so that one pass is bit for bit that pass.
            gradient: if passes == 1 { gradient } else { gradient.scale(share) },
            absent,
            loss: loss * Scalar::from(share),
            adversarial: x,
            cost,
            overfitting: None,
            transport: None,
        })
    }

    /// What later steps depend on besides the configuration.
    pub fn state(&self) -> State {
        self.clock.state()
    }

    /// Go on from a state.
    ///
    /// # Errors
    /// [`Error::Core`] for the state of something else. Then nothing has changed.
    pub fn load_state(&mut self, state: State) -> Result<()> {
        self.clock.load_state(state)
    }
}

impl<M: Module + Sync + 'static, const D: usize, const E: usize> YopoProgram<M, D, E> {
    /// Mean cross-entropy with its gradient in the parameters, and its gradient in the first layer's output.
    fn full_pass(
        &self,
        point: &Tree,
        inputs: Tensor<D>,
        labels: &Labels,
        seed: u64,
    ) -> Result<(core_tensor::Gradient, Tensor<E>)> {
        let examples = inputs.dims()[0];
        let mut shape = [examples; E];
        shape[1..].copy_from_slice(&self.hidden);
        let zeros = Tensor::<E>::zeros(shape, (&inputs.device(), inputs.dtype()));
        let offset = Tree::empty().push("offset", zeros)?;
        let batch = (inputs, labels.clone());
        let program = self.joint.get(examples, || {
            let (first, rest) = (self.first.clone(), self.rest.clone());
            let (model, offset) = (("model", &self.model), ("", &offset));
            Program::record_pair(model, offset, &batch, move |model: &M, offset: &Tree, (x, y)| {
                let offset = offset.get::<E>("offset").expect("the leaf that was pushed");
                cross_entropies(rest(model, first(model, Tensor::clone(x)) + offset), y).mean()
            })
        })?;
        program.reseed(seed);
        let whole = Program::<(Tensor<D>, Labels)>::pair(("model", point), ("", &offset))?;
        let (gradient, slopes) = split(program.value_and_grad(&whole, &batch)?)?;
        let p = match slopes.is_empty() {
            false => slopes.get("offset")?,
            true => offset.get::<E>("offset")?,
        };
        Ok((gradient, p))
    }

    /// `∇ₓ⟨p, f₀(x)⟩`, and the inputs back.
    fn first_layer(&self, batch: &(Frozen<M>, Tensor<E>), inputs: Tensor<D>) -> Result<[Tensor<D>; 2]> {
        let first = self.first.clone();
        let record = |point: &Tree| {
            let none = Tree::empty();
            Program::record_pair(("x", point), ("", &none), batch, move |x: &Tree, _: &Tree, (model, p)| {
                let x = x.get::<D>("inputs").expect("the leaf that was pushed");
                (first(&model.0, x) * Tensor::clone(p)).sum()
            })
        };
        input_gradient(&self.inner, record, batch, inputs, None)
    }
}
