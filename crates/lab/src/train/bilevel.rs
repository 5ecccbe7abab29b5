//! Table `[bilevel]`: a setting of the optimizer that is learned along with the weights, from the derivative of one step in it.
//!
//! | learned | the derivative of | in | is |
//! |---|---|---|---|
//! | learning rate | the loss of the next batch | the rate of this step | `⟨∇L(w⁺), w⁺ − w⟩/α` |
//! | weight decay | the loss of validation examples | the decay of this step | `−α⟨∇V(w⁺), w⟩` |
//!
//! Gradients are those of the step: at adversarial points, unscaled, aggregated.

use bilevel::OneStep;
use core_tensor::transform::State;
use core_tensor::{Random, Tree};

use crate::error::Result;
use crate::recipe::{Learned, Recipe};

/// The setting that is learned.
pub enum Learner {
    /// The learning rate, and the last step.
    Rate {
        /// The rate.
        rate: OneStep,
        /// `w⁺ − w` of the last step.
        last: Option<Tree>,
    },
    /// The decoupled weight decay.
    Decay {
        /// The decay.
        decay: OneStep,
        /// Which validation examples come next.
        random: Random,
        /// Steps between two changes.
        every: u64,
        /// Steps so far.
        steps: u64,
    },
}

impl Learner {
    /// What a recipe learns; `None` for nothing.
    ///
    /// # Errors
    /// None with a recipe's ranges.
    pub fn new(recipe: &Recipe) -> Result<Option<Self>> {
        let (table, optimizer) = (&recipe.bilevel, &recipe.optimizer);
        Ok(match table.learn {
            Learned::None => None,
            Learned::LearningRate => Some(Self::Rate { rate: OneStep::new(optimizer.lr, table.rate)?, last: None }),
            Learned::WeightDecay => Some(Self::Decay {
                decay: OneStep::new(optimizer.weight_decay, table.rate)?,
                random: Random::new(recipe.train.seed).fork("validation"),
                every: table.every,
                steps: 0,
            }),
        })
    }

    /// The learned value now.
    pub fn value(&self) -> f64 {
        match self {
            Self::Rate { rate, .. } => rate.value(),
            Self::Decay { decay, .. } => decay.value(),
        }
    }

    /// The learning rate of a step along this gradient, where `scheduled` is the schedule's.
    ///
    /// # Errors
    /// None but those of trees.
    pub fn rate(&mut self, scheduled: f64, gradient: &Tree) -> Result<f64> {
        match self {
            Self::Rate { rate, last: Some(last) } => Ok(rate.advance(gradient, &last.restrict(gradient)?)?),
            Self::Rate { rate, last: None } => Ok(rate.value()),
            Self::Decay { .. } => Ok(scheduled),
        }
    }

    /// The weights after a step of `lr` from `before` to `after`, and what is learned from it. `validation` gives the gradient of the validation
    /// loss at the weights it is given, for examples that it draws.
    ///
    /// # Errors
    /// Those of `validation`.
    pub fn after(
        &mut self,
        lr: f64,
        before: &Tree,
        after: Tree,
        validation: impl FnOnce(&Tree, &mut Random) -> Result<Tree>,
    ) -> Result<Tree> {
        match self {
            Self::Rate { last, .. } => {
                *last = Some(after.clone().sub(before)?);
                Ok(after)
            }
            Self::Decay { decay, random, every, steps } => {
                let after = after.axpy(-lr * decay.value(), before)?;
                *steps += 1;
                if steps.is_multiple_of(*every) {
                    let gradient = validation(&after, random)?;
                    decay.advance(&gradient, &before.restrict(&gradient)?.neg())?;
                }
                Ok(after)
            }
        }
    }

    /// What changes from step to step.
    pub fn state(&self) -> State {
        match self {
            Self::Rate { rate, last } => State::new().with_nested("rate", rate.state()).with("last", last.clone()),
            Self::Decay { decay, random, steps, .. } => State::new()
                .with_nested("decay", decay.state())
                .with_nested("random", random.state())
                .with("steps", *steps),
        }
    }

    /// Go on from a state.
    ///
    /// # Errors
    /// The state of something else.
    pub fn load_state(&mut self, mut state: State) -> Result<()> {
        match self {
            Self::Rate { rate, last } => {
                rate.load_state(state.take_nested("rate"))?;
                *last = state.take_optional("last")?;
            }
            Self::Decay { decay, random, steps, .. } => {
                decay.load_state(state.take_nested("decay"))?;
                random.load_state(state.take_nested("random"))?;
                *steps = state.take("steps")?;
            }
        }
        Ok(state.finish()?)
    }
}
