//! Table `[clipping]`: noise and then a rule, as a chain of transforms; or clipping and noise of every example, as DP-SGD.

use clipping::per_sample::Flat;
use clipping::{
    AdaptiveGradientClip, AutoClip, ClipByGlobalNorm, ClipByTensorNorm, ClipByValue, DpSgd, GaussianNoise,
    QuantileClip, UnitAxes, ZClip,
};
use core_tensor::Chain;

use crate::error::{Error, Result};
use crate::model::Classifier;
use crate::recipe::{ClipRule, Recipe, ScaleRule};

/// Rate of the running quantile, as in its paper.
const QUANTILE_RATE: f64 = 0.2;
/// Examples whose gradients are computed at once under DP.
const TOGETHER: usize = 64;

/// What becomes of a gradient between aggregation and optimizer.
///
/// # Errors
/// None with a recipe's ranges.
pub fn chain(recipe: &Recipe, model: &Classifier) -> Result<Chain> {
    let table = &recipe.clipping;
    let mut chain = Chain::new();
    if table.noise > 0.0 {
        chain = chain.then(GaussianNoise::new(table.noise, recipe.train.seed)?);
    }
    Ok(match table.rule {
        ClipRule::None | ClipRule::Dp => chain,
        ClipRule::GlobalNorm => chain.then(ClipByGlobalNorm::new(table.limit)?),
        ClipRule::TensorNorm => chain.then(ClipByTensorNorm::new(table.limit)?),
        ClipRule::Value => chain.then(ClipByValue::new(table.limit)?),
        ClipRule::Agc => chain.then(AdaptiveGradientClip::new(table.lambda, UnitAxes::of(model))?),
        ClipRule::AutoClip => chain.then(AutoClip::new(100.0 * table.quantile)?),
        ClipRule::Quantile => chain.then(QuantileClip::new(table.quantile, QUANTILE_RATE, table.limit)?),
        ClipRule::ZClip => chain.then(ZClip::new(table.decay, table.z, table.warmup as usize)?),
    })
}

/// DP-SGD over so many training examples; `None` where the recipe wants none.
///
/// Under a fixed loss scale gradients, limit and noise are all multiplied by it, and the result is divided.
///
/// # Errors
/// [`Error::Value`] for a batch larger than the training set, or a budget that allows no step.
pub fn private(recipe: &Recipe, examples: usize) -> Result<Option<DpSgd>> {
    let table = &recipe.clipping;
    if table.rule != ClipRule::Dp {
        return Ok(None);
    }
    if recipe.train.batch_size > examples {
        return Err(Error::Value {
            origin: "clipping.rule = dp".into(),
            field: "train.batch_size".into(),
            value: recipe.train.batch_size.to_string(),
            expected: format!("at most the {examples} training examples, of which each is drawn on its own"),
        });
    }
    let limit = table.limit * dp_scale(recipe);
    let expected = recipe.train.batch_size as f64;
    let mut dp = DpSgd::new(Flat::new(limit)?, table.noise_multiplier, examples, expected)?
        .physical_batch(TOGETHER.min(recipe.train.batch_size))?
        .seed(recipe.train.seed);
    if table.delta > 0.0 {
        dp = dp.delta(table.delta)?;
    }
    if table.epsilon > 0.0 {
        dp = dp.budget(table.epsilon)?;
        if dp.steps_left()? == 0 {
            return Err(Error::Value {
                origin: format!("clipping.noise_multiplier = {}", table.noise_multiplier),
                field: "clipping.epsilon".into(),
                value: table.epsilon.to_string(),
                expected: "more, or more noise: a single step would spend more than that".into(),
            });
        }
    }
    Ok(Some(dp))
}

/// What losses of single examples are multiplied by.
pub fn dp_scale(recipe: &Recipe) -> f64 {
    if recipe.loss_scale() == ScaleRule::Fixed { recipe.precision.scale } else { 1.0 }
}
