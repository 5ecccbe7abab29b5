//! Training without an adversary.

use burn::module::Module;
use burn::tensor::Tensor;
use core_tensor::{Gradient, Tree};

use super::inner::two_stage_training;
use super::{Clock, Cost, Examples, Perturbed, RobustProgram, TwoStage};
use crate::error::Result;

/// Mean cross-entropy at the inputs as they are: what robust methods are compared with.
///
/// Cost: one gradient evaluation.
///
/// ```
/// use adversarial::training::{RobustProgram, RobustTraining, StandardTraining};
/// use burn::nn::LinearConfig;
/// use burn::tensor::{Device, Int, Tensor};
///
/// let device = Device::default();
/// let model = LinearConfig::new(2, 3).init(&device);
/// let x = Tensor::<2>::from_data([[0.1, 0.9], [0.8, 0.2]], &device);
/// let y = Tensor::<1, Int>::from_data([0, 2], &device);
/// let program = RobustProgram::record(&model, &x, |model, x| model.forward(x))?;
/// let step = StandardTraining::new().gradients(&program, &model, x, y)?;
/// assert_eq!(step.cost.gradient_evaluations, 1);
/// # Ok::<(), adversarial::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct StandardTraining {
    clock: Clock,
}

impl StandardTraining {
    /// With seed 0 for dropout.
    pub fn new() -> Self {
        Self { clock: Clock::new(0) }
    }

    /// Seed of dropout.
    pub fn seed(self, seed: u64) -> Self {
        Self { clock: Clock::new(seed) }
    }
}

impl Default for StandardTraining {
    fn default() -> Self {
        Self::new()
    }
}

two_stage_training!(StandardTraining);

impl<M: Module + Sync + 'static, const D: usize> TwoStage<M, D> for StandardTraining {
    fn perturb(&mut self, _: &RobustProgram<M, D>, _: &M, batch: &Examples<D>) -> Result<Perturbed<D>> {
        let (adversarial, seed): (Tensor<D>, u64) = (batch.inputs.clone(), self.clock.tick());
        Ok(Perturbed { adversarial, cost: Cost::default(), seed, transport: None })
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
