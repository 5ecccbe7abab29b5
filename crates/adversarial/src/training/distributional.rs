//! Distributionally robust training (WRM).

use burn::module::Module;
use core_tensor::{Gradient, Tree};

use super::ball::Ball;
use super::inner::{above_zero, at_least_one, two_stage_training};
use super::{Clock, Cost, Examples, Mode, Perturbed, RobustProgram, TwoStage};
use crate::error::Result;
use crate::threat::{Norm, Threat};

/// Trains against every distribution near that of the data: perturbations pay for the way they move, instead of a wall at `ε`.
///
/// For the cost `c(z, x) = ½‖z − x‖²` the worst expected loss over distributions within transport cost `ρ` of the data is at most
/// `γρ + (1/m) Σᵢ φ_γ(xᵢ)` with `φ_γ(x) = max_z [L(h(z), y) − γ·c(z, x)]`. The maximum is sought by
/// `z ← Π_box(z + (∇L(h(z), y)/γ − (z − x))/√(t + 1))` from `z = x`; the gradient of the parameters is that of the loss at `z`. For `γ` above
/// the smoothness of the loss in its inputs the problem is strongly concave and this finds its maximum.
///
/// | parameter | default | range | effect |
/// |---|---|---|---|
/// | `gamma` | – | `(0, ∞)` | `γ`, the price of moving; less is more robust |
/// | [`steps`](Self::steps) | 15 | `≥ 1` | `k` |
/// | [`bounds`](Self::bounds) | `[0, 1]` | finite, `low < high` | what inputs there are |
/// | [`mode`](Self::mode) | evaluation | | how the model behaves while it is attacked |
/// | [`seed`](Self::seed) | 0 | | dropout |
///
/// Guarantees: inside the box (`every_point_is_inside`); for a large `γ` the points satisfy `γ(z − x) = ∇L(h(z), y)`
/// (`the_points_of_wrm_are_stationary`); the value falls as `γ` grows (`moving_costs_what_it_gains`).
///
/// Cost: `k + 1` gradient evaluations; one host synchronisation to read the distance.
///
/// A. Sinha, H. Namkoong, J. Duchi, "Certifying some distributional robustness with principled adversarial training", ICLR 2018,
/// arXiv:1710.10571, algorithm 1 and equation 7. Step lengths are those of the authors' code.
///
/// ```
/// use adversarial::training::{RobustProgram, RobustTraining, WrmTraining};
/// use burn::nn::LinearConfig;
/// use burn::tensor::{Device, Int, Tensor};
///
/// let device = Device::default();
/// let model = LinearConfig::new(2, 3).init(&device);
/// let x = Tensor::<2>::from_data([[0.1, 0.9], [0.8, 0.2]], &device);
/// let y = Tensor::<1, Int>::from_data([0, 2], &device);
/// let program = RobustProgram::record(&model, &x, |model, x| model.forward(x))?;
/// let step = WrmTraining::new(2.0)?.gradients(&program, &model, x, y)?;
/// let transport = step.transport.expect("WRM reports it");
/// // At the cost that was paid the bound is the loss itself.
/// let loss = step.loss.value();
/// assert_eq!(transport.bound(loss, transport.distance), loss);
/// assert!(transport.bound(loss, 0.1 + transport.distance) > loss);
/// # Ok::<(), adversarial::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct WrmTraining {
    gamma: f64,
    steps: usize,
    /// A ball that the box fills.
    box_alone: Threat,
    mode: Mode,
    clock: Clock,
}

/// How far a batch was moved.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Transport {
    /// Mean of `½‖z − x‖²` over the batch: the `ρ` at which the bound is tight.
    pub distance: f64,
    /// The price of moving.
    pub gamma: f64,
}

const WHAT: &str = "WRM training";

impl WrmTraining {
    /// With the price `gamma` and inputs in `[0, 1]`.
    ///
    /// # Errors
    /// [`Parameter`](crate::Error::Parameter) unless it is above zero and finite.
    pub fn new(gamma: f64) -> Result<Self> {
        let box_alone = Threat::new(Norm::Linf, 1.0)?;
        Ok(Self {
            gamma: above_zero("gamma", gamma)?,
            steps: 15,
            box_alone,
            mode: Mode::Evaluation,
            clock: Clock::new(0),
        })
    }

    /// Steps of the ascent, `k`.
    ///
    /// # Errors
    /// [`Parameter`](crate::Error::Parameter) for 0.
    pub fn steps(self, steps: usize) -> Result<Self> {
        Ok(Self { steps: at_least_one("steps", steps)?, ..self })
    }

    /// What inputs there are.
    ///
    /// # Errors
    /// [`Parameter`](crate::Error::Parameter) if the bounds are not finite or `low` is not below `high`.
    pub fn bounds(self, low: f64, high: f64) -> Result<Self> {
        let box_alone = self.box_alone.bounds(low, high)?.radius(high - low)?;
        Ok(Self { box_alone, ..self })
    }

    /// How the model behaves while it is attacked.
    pub fn mode(self, mode: Mode) -> Self {
        Self { mode, ..self }
    }

    /// Seed of dropout.
    pub fn seed(self, seed: u64) -> Self {
        Self { clock: Clock::new(seed), ..self }
    }
}

two_stage_training!(WrmTraining);

impl<M: Module + Sync + 'static, const D: usize> TwoStage<M, D> for WrmTraining {
    fn perturb(&mut self, program: &RobustProgram<M, D>, model: &M, batch: &Examples<D>) -> Result<Perturbed<D>> {
        let seed = self.clock.tick();
        let ball = Ball::new(self.box_alone, batch.inputs.clone(), WHAT)?;
        let attacked = (program.frozen(model, self.mode), batch.labels.clone());
        let mut z = batch.inputs.clone();
        for t in 0..self.steps {
            let [at, slope] = program.attack_gradient(&attacked, self.mode, z, seed)?;
            let slope = slope.clone().mask_fill(slope.is_finite().bool_not(), 0.0);
            let ascent = slope / self.gamma - (at.clone() - batch.inputs.clone());
            z = ball.project(at + ascent / ((t + 1) as f64).sqrt())?;
        }
        let moved = (z.clone() - batch.inputs.clone()).into_data();
        let squares: f64 = moved.iter::<f64>().map(|d| d * d).sum();
        let distance = 0.5 * squares / batch.inputs.dims()[0] as f64;
        let transport = Some(Transport { distance, gamma: self.gamma });
        Ok(Perturbed { adversarial: z, cost: Cost::gradients(self.steps as u64), seed, transport })
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

impl Transport {
    /// `γρ + (1/m) Σᵢ φ_γ(xᵢ)` with the loss of the step: at most this is the expected loss of any distribution within transport cost
    /// `rho` of the batch, as far as the ascent has found the maxima.
    pub fn bound(&self, loss: f64, rho: f64) -> f64 {
        loss + self.gamma * (rho - self.distance)
    }
}
