//! Fast adversarial training, and a watch for its collapse.

use burn::module::Module;
use burn::tensor::{Int, Tensor};
use core_tensor::transform::State;
use core_tensor::{Gradient, Tree};

use super::inner::{Inner, StepSize, above_zero, at_least_one};
use super::{
    Clock, Cost, Examples, Mode, Perturbed, RobustGradients, RobustProgram, RobustTraining, Start, TwoStage, two_stages,
};
use crate::error::{Error, Result};
use crate::threat::Threat;

/// Trains at the points of one large step from a random start: robust training for twice the cost of standard training.
///
/// `x′ = Π(x⁰ + α·d(∇ₓL(h(x⁰), y)))` with `x⁰` uniform in the ball, then the gradient of `L(h(x′), y)` in the parameters; `d` and `Π` as in
/// [`PgdTraining`](super::PgdTraining).
///
/// | parameter | default | range | effect |
/// |---|---|---|---|
/// | `threat` | – | any norm but `L0` | what the adversary may do |
/// | [`step_size`](Self::step_size) | `1.25·ε` | `(0, ∞)` | `α`; from `2ε` on the method collapses sooner |
/// | [`watch`](Self::watch) | none | | looks for catastrophic overfitting every so many steps |
/// | [`mode`](Self::mode) | evaluation | | how the model behaves while it is attacked |
/// | [`seed`](Self::seed) | 0 | | random starts and dropout |
///
/// **Catastrophic overfitting.** Within a few steps such training can come to resist the single step and nothing else: accuracy under
/// PGD falls to nothing while that under FGSM stays high, on the training data too. An [`OverfittingWatch`] measures both.
///
/// Guarantees: inside ball and box (`every_point_is_inside`), `ε = 0` is standard training (`no_radius_is_standard_training`).
///
/// Cost: 2 gradient evaluations, one in inputs only (1 for `ε = 0`), and those of the watch when it looks.
///
/// E. Wong, L. Rice, J. Z. Kolter, "Fast is better than free: revisiting adversarial training", ICLR 2020, arXiv:2001.03994, algorithm 3.
///
/// ```
/// use adversarial::training::{FastTraining, OverfittingWatch, RobustProgram, RobustTraining};
/// use adversarial::{Norm, Threat};
/// use burn::nn::LinearConfig;
/// use burn::tensor::{Device, Int, Tensor};
///
/// let device = Device::default();
/// let model = LinearConfig::new(2, 3).init(&device);
/// let x = Tensor::<2>::from_data([[0.1, 0.9], [0.8, 0.2]], &device);
/// let y = Tensor::<1, Int>::from_data([0, 2], &device);
/// let program = RobustProgram::record(&model, &x, |model, x| model.forward(x))?;
/// let threat = Threat::new(Norm::Linf, 0.1)?;
/// let watch = OverfittingWatch::new(threat, x.clone(), y.clone())?;
/// let mut fast = FastTraining::new(threat)?.watch(watch, 2)?;
/// let step = fast.gradients(&program, &model, x.clone(), y.clone())?;
/// assert_eq!(step.cost.gradient_evaluations, 2);
/// let seen = fast.gradients(&program, &model, x, y)?.overfitting.expect("every second step");
/// assert!(!seen.detected);
/// # Ok::<(), adversarial::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct FastTraining<const D: usize> {
    inner: Inner,
    clock: Clock,
    watch: Option<(OverfittingWatch<D>, u64)>,
}

/// Compares accuracies under FGSM and under PGD on a batch of training examples kept aside.
///
/// | parameter | default | range | effect |
/// |---|---|---|---|
/// | [`steps`](Self::steps) | 10 | `≥ 1` | of PGD, each `2.5·ε/steps`, from a fixed random start |
/// | [`fall`](Self::fall) | 0.2 | `(0, 1]` | detected if accuracy under PGD is so far below its best |
/// | [`gap`](Self::gap) | 0.2 | `(0, 1]` | detected if accuracy under PGD is so far below that under FGSM |
///
/// Cost of a look: `steps + 1` gradient evaluations in inputs and two forward passes, and as many host synchronisations as
/// reading two rows of logits takes.
///
/// Wong, Rice and Kolter 2020 stop at a fall of 0.2; the gap is what they plot (figure 3).
#[derive(Clone, Debug)]
pub struct OverfittingWatch<const D: usize> {
    fgsm: Inner,
    pgd: Inner,
    inputs: Tensor<D>,
    labels: Tensor<1, Int>,
    fall: f64,
    gap: f64,
    /// The best accuracy under PGD so far.
    best: f64,
}

/// What an [`OverfittingWatch`] saw.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Overfitting {
    /// Accuracy after one step of length `ε` from the input.
    pub fgsm_accuracy: f64,
    /// Accuracy under PGD.
    pub pgd_accuracy: f64,
    /// The best of these, this one included.
    pub best_pgd_accuracy: f64,
    /// Whether the model has overfitted to the single step.
    pub detected: bool,
    /// What the look took.
    pub cost: Cost,
}

const WHAT: &str = "Fast training";

impl<const D: usize> FastTraining<D> {
    /// Against a threat, with the settings of the table.
    ///
    /// # Errors
    /// [`UnsupportedNorm`](Error::UnsupportedNorm) for `L0`.
    pub fn new(threat: Threat) -> Result<Self> {
        let inner = Inner::new(threat, 1, StepSize::OfRadius(1.25), Start::Uniform, WHAT)?;
        Ok(Self { inner, clock: Clock::new(0), watch: None })
    }

    /// Length of the step, `α`.
    ///
    /// # Errors
    /// [`Error::Parameter`] unless it is above zero and finite.
    pub fn step_size(mut self, step_size: f64) -> Result<Self> {
        self.inner.step_size = StepSize::Fixed(above_zero("step_size", step_size)?);
        Ok(self)
    }

    /// Has a look every `every` steps, after the gradient of the step.
    ///
    /// # Errors
    /// [`Error::Parameter`] for 0.
    pub fn watch(self, watch: OverfittingWatch<D>, every: usize) -> Result<Self> {
        Ok(Self { watch: Some((watch, at_least_one("every", every)? as u64)), ..self })
    }

    /// How the model behaves while it is attacked.
    pub fn mode(mut self, mode: Mode) -> Self {
        self.inner.mode = mode;
        self
    }

    /// Seed of random starts and dropout.
    pub fn seed(self, seed: u64) -> Self {
        Self { clock: Clock::new(seed), ..self }
    }

    /// The perturbations trained against.
    pub fn threat(&self) -> Threat {
        self.inner.threat
    }

    /// Another radius from now on, as in a warm-up. A step size that was not set follows.
    ///
    /// # Errors
    /// [`Error::Parameter`] if it is negative or not finite.
    pub fn set_radius(&mut self, epsilon: f64) -> Result<()> {
        self.inner.threat = self.inner.threat.radius(epsilon)?;
        Ok(())
    }
}

impl<M: Module + Sync + 'static, const D: usize> RobustTraining<M, D> for FastTraining<D> {
    fn gradients(
        &mut self,
        program: &RobustProgram<M, D>,
        model: &M,
        inputs: Tensor<D>,
        labels: Tensor<1, Int>,
    ) -> Result<RobustGradients<D>> {
        let clock = self.clock.clone();
        let mut step = two_stages(self, program, model, inputs, labels)?;
        if let Some((watch, every)) = &mut self.watch
            && self.clock.step.is_multiple_of(*every)
        {
            match watch.look(program, model) {
                Ok(seen) => {
                    step.cost += seen.cost;
                    step.overfitting = Some(seen);
                }
                Err(error) => {
                    self.clock = clock;
                    return Err(error);
                }
            }
        }
        Ok(step)
    }

    fn state(&self) -> State {
        let watch = self.watch.as_ref().map(|(watch, _)| watch.state());
        self.clock.state().with_nested("watch", watch.unwrap_or_default())
    }

    fn load_state(&mut self, mut state: State) -> Result<()> {
        let seen = state.take_nested("watch");
        let mut watch = self.watch.clone();
        match &mut watch {
            Some((watch, _)) => watch.load_state(seen)?,
            None => seen.finish()?,
        }
        self.clock.load_state(state)?;
        self.watch = watch;
        Ok(())
    }
}

impl<M: Module + Sync + 'static, const D: usize> TwoStage<M, D> for FastTraining<D> {
    fn perturb(&mut self, program: &RobustProgram<M, D>, model: &M, batch: &Examples<D>) -> Result<Perturbed<D>> {
        let seed = self.clock.tick();
        let mode = self.inner.mode;
        let attacked = (program.frozen(model, mode), batch.labels.clone());
        let gradient = |x| program.attack_gradient(&attacked, mode, x, seed);
        let (adversarial, evaluations) = self.inner.maximise(&batch.inputs, &mut self.clock, WHAT, gradient)?;
        Ok(Perturbed { adversarial, cost: Cost::gradients(evaluations), seed, transport: None })
    }

    fn outer(
        &self,
        program: &RobustProgram<M, D>,
        point: &Tree,
        batch: &Examples<D>,
        perturbed: &Perturbed<D>,
    ) -> Result<(Gradient, u64)> {
        let gradient = program.loss_gradient(point, perturbed.adversarial.clone(), &batch.labels, perturbed.seed)?;
        Ok((gradient, 1))
    }
}

impl<const D: usize> OverfittingWatch<D> {
    /// On examples kept aside, against the threat trained for.
    ///
    /// # Errors
    /// [`UnsupportedNorm`](Error::UnsupportedNorm) for `L0`; [`EmptyBatch`](Error::EmptyBatch).
    pub fn new(threat: Threat, inputs: Tensor<D>, labels: Tensor<1, Int>) -> Result<Self> {
        let what = "a watch for catastrophic overfitting";
        if inputs.dims()[0] == 0 {
            return Err(Error::EmptyBatch { what });
        }
        let fgsm = Inner::new(threat, 1, StepSize::OfRadius(1.0), Start::Clean, what)?;
        let pgd = Inner::new(threat, 10, StepSize::OfPath(2.5), Start::Uniform, what)?;
        Ok(Self { fgsm, pgd, inputs: inputs.inner(), labels: labels.inner(), fall: 0.2, gap: 0.2, best: 0.0 })
    }

    /// Steps of PGD.
    ///
    /// # Errors
    /// [`Error::Parameter`] for 0.
    pub fn steps(mut self, steps: usize) -> Result<Self> {
        self.pgd.steps = at_least_one("steps", steps)?;
        Ok(self)
    }

    /// The fall of accuracy under PGD, from its best, that counts as overfitting.
    ///
    /// # Errors
    /// [`Error::Parameter`] outside of `(0, 1]`.
    pub fn fall(self, fall: f64) -> Result<Self> {
        Ok(Self { fall: share("fall", fall)?, ..self })
    }

    /// The difference of accuracies under FGSM and PGD that counts as overfitting.
    ///
    /// # Errors
    /// [`Error::Parameter`] outside of `(0, 1]`.
    pub fn gap(self, gap: f64) -> Result<Self> {
        Ok(Self { gap: share("gap", gap)?, ..self })
    }

    /// Measures both accuracies.
    ///
    /// # Errors
    /// As [`RobustTraining::gradients`], for the examples kept aside. Then the watch is as it was.
    pub fn look<M: Module + Sync + 'static>(
        &mut self,
        program: &RobustProgram<M, D>,
        model: &M,
    ) -> Result<Overfitting> {
        let batch = program.examples(self.inputs.clone(), self.labels.clone())?;
        let mut cost = Cost::default();
        let mut accuracy = |attack: &Inner| {
            let attacked = (program.frozen(model, attack.mode), batch.labels.clone());
            let gradient = |x| program.attack_gradient(&attacked, attack.mode, x, 0);
            let (x, evaluations) = attack.maximise(&batch.inputs, &mut Clock::new(0), WHAT, gradient)?;
            cost += Cost { gradient_evaluations: evaluations, forward_passes: 1, ..Cost::default() };
            program.accuracy(model, x, &batch.labels)
        };
        let [fgsm_accuracy, pgd_accuracy] = [accuracy(&self.fgsm)?, accuracy(&self.pgd)?];
        self.best = self.best.max(pgd_accuracy);
        let detected = self.best - pgd_accuracy >= self.fall || fgsm_accuracy - pgd_accuracy >= self.gap;
        Ok(Overfitting { fgsm_accuracy, pgd_accuracy, best_pgd_accuracy: self.best, detected, cost })
    }

    /// The best accuracy so far.
    pub fn state(&self) -> State {
        State::new().with("best", self.best)
    }

    /// Go on from a state.
    ///
    /// # Errors
    /// [`Error::Core`] for the state of something else. Then nothing has changed.
    pub fn load_state(&mut self, mut state: State) -> Result<()> {
        let best = state.take("best")?;
        state.finish()?;
        self.best = best;
        Ok(())
    }
}

impl Overfitting {
    /// What to do, for a person to read.
    pub fn advice(&self) -> &'static str {
        match self.detected {
            false => "no catastrophic overfitting: go on",
            true => {
                "catastrophic overfitting: stop, go back to the weights of the best accuracy under PGD, and train on with a \
                 smaller step or radius, or with PGD"
            }
        }
    }
}

fn share(parameter: &'static str, value: f64) -> Result<f64> {
    match value > 0.0 && value <= 1.0 {
        true => Ok(value),
        false => Err(Error::Parameter { parameter, value, bound: "above 0 and at most 1" }),
    }
}
