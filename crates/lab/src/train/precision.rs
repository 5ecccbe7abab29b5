//! Table `[precision]`: the type of the recorded operations, the loss scale, the check for what is not finite, and the optimizer with its moments.

use burn::optim::decay::WeightDecayConfig;
use burn::optim::momentum::MomentumConfig;
use burn::optim::{AdamConfig, AdamWConfig, ModuleOptimizer, SgdConfig};
use core_tensor::transform::State;
use core_tensor::{Autocast, Tree};
use mixed_precision::optim::{LowBitState, StateFormat};
use mixed_precision::{LossScale, autocast};

use crate::error::Result;
use crate::recipe::{Compute, FiniteCheck, Learned, OptimizerName, Recipe, ScaleRule, StateName};

/// The loss scale of a run, and whether steps that are not finite are skipped.
pub struct Precision {
    scale: LossScale,
    checked: bool,
}

/// Gradients as they come from the loss.
pub enum Unscaled {
    /// Divided by the loss scale; finite, where that is checked.
    Gradients(Vec<Tree>),
    /// One is not finite: the step is skipped for this reason.
    Skip(String),
}

impl Precision {
    /// The loss scale of a recipe.
    ///
    /// # Errors
    /// None with a recipe's ranges.
    pub fn new(recipe: &Recipe) -> Result<Self> {
        let table = &recipe.precision;
        let scale = match recipe.loss_scale() {
            ScaleRule::Dynamic => {
                LossScale::dynamic().init_scale(table.scale)?.growth_interval(table.growth_interval)?
            }
            ScaleRule::Fixed => LossScale::fixed(table.scale)?,
            ScaleRule::None | ScaleRule::Auto => LossScale::fixed(1.0)?,
        };
        let plain = table.compute == Compute::F32 && recipe.loss_scale() == ScaleRule::None;
        Ok(Self { scale, checked: !plain || table.finite_check == FiniteCheck::Always })
    }

    /// What the loss of the next step is multiplied by.
    pub fn scale(&self) -> f32 {
        self.scale.scale()
    }

    /// Divides the gradients of scaled losses by the scale, and adapts it to whether all of them were finite.
    ///
    /// # Errors
    /// Those of [`LossScale`].
    pub fn unscale(&mut self, gradients: Vec<Tree>) -> Result<Unscaled> {
        if !self.checked {
            return Ok(Unscaled::Gradients(gradients));
        }
        let scale = self.scale();
        let mut finite = true;
        let mut unscaled = Vec::with_capacity(gradients.len());
        for (index, gradient) in gradients.into_iter().enumerate() {
            let one = self.scale.unscale(&index.to_string(), gradient)?;
            finite &= one.finite;
            unscaled.push(one.grads);
        }
        self.scale.update()?;
        Ok(match finite {
            true => Unscaled::Gradients(unscaled),
            false if scale == 1.0 => Unscaled::Skip("the gradient is not finite".into()),
            false => Unscaled::Skip(format!("the gradient is not finite at the loss scale {scale}")),
        })
    }

    /// What changes from step to step.
    pub fn state(&self) -> State {
        self.scale.state()
    }

    /// Go on from a state.
    ///
    /// # Errors
    /// The state of something else.
    pub fn load_state(&mut self, state: State) -> Result<()> {
        Ok(self.scale.load_state(state)?)
    }
}

/// The types in which a recipe computes; `None` leaves all as they are.
pub fn compute(recipe: &Recipe) -> Option<Autocast> {
    match recipe.precision.compute {
        Compute::F32 => None,
        Compute::Bf16 => Some(autocast::bf16()),
        Compute::F16 => Some(autocast::f16()),
    }
}

/// The optimizer of a recipe, without a weight decay that is learned.
///
/// # Errors
/// None with a recipe's ranges.
pub fn optimizer(recipe: &Recipe) -> Result<ModuleOptimizer> {
    let table = &recipe.optimizer;
    let decay = if recipe.bilevel.learn == Learned::WeightDecay { 0.0 } else { table.weight_decay as f32 };
    let added = (decay > 0.0).then(|| WeightDecayConfig::new(decay));
    let format = match recipe.precision.state {
        StateName::F32 => None,
        StateName::Dynamic8 => Some(StateFormat::DYNAMIC8),
        StateName::Linear8 => Some(StateFormat::LINEAR8),
        StateName::Fp8 => Some(StateFormat::FP8),
        StateName::Dynamic4 => Some(StateFormat::DYNAMIC4),
        StateName::Linear4 => Some(StateFormat::LINEAR4),
    };
    macro_rules! initialised {
        ($config:expr) => {
            match format {
                None => $config.init(),
                Some(format) => $config.low_bit(format)?.init(),
            }
        };
    }
    Ok(match table.name {
        OptimizerName::AdamW => initialised!(AdamWConfig::new().with_weight_decay(decay)),
        OptimizerName::Adam => initialised!(AdamConfig::new().with_weight_decay(added)),
        OptimizerName::Sgd => {
            // Burn's default dampening of 0.1 is not the textbook's momentum.
            let momentum = MomentumConfig::new().with_momentum(table.momentum).with_dampening(0.0);
            let momentum = (table.momentum > 0.0).then_some(momentum);
            initialised!(SgdConfig::new().with_weight_decay(added).with_momentum(momentum))
        }
    })
}
