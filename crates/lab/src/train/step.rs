//! One training step: the techniques of a recipe in their one order.
//!
//! ```text
//! draw → move the images → loss × scale → gradients → unscale → finite check → aggregate → learn the rate → noise → clip → optimizer
//! ```
//!
//! Each stage takes what the one before gives, and a stage that a recipe has not is not there. Why in this order:
//!
//! - **Unscale first.** Everything after compares gradients with numbers that mean something without a loss scale: norms with limits, noise with
//!   its deviation, tasks with tasks, steps with steps.
//! - **Finite check next,** on every task's gradient: a task whose gradient overflowed would be left out by an aggregator, or spoil the averages
//!   of a clipping rule. The step is skipped before anything but the loss scale has taken note.
//! - **Aggregate before noise and clipping.** These act on the one gradient that is stepped along. Clipping rows one by one would change how the
//!   tasks weigh against each other, which is the aggregator's business.
//! - **Noise before clipping,** so that the step is bounded whatever was drawn.
//!
//! Under `clipping.rule = dp` the gradients of single examples are clipped, summed and made noisy before anything looks at them, since privacy is
//! lost by looking: unscaling is then part of the clipping, and the rest sees a gradient that is already private.

use std::path::Path;

use burn::tensor::{Device, Tensor};
use clipping::DpSgd;
use core_tensor::transform::{Outcome, State, Trainer};
use core_tensor::{Random, Scalar, Tree};

use super::adversarial::{Adversary, Points, example_loss};
use super::average::Average;
use super::bilevel::Learner;
use super::feed::Feed;
use super::multitask::Aggregation;
use super::objective::{Batch, Objective, PixelScale, logits};
use super::precision::{Precision, Unscaled};
use super::{clipping as rules, precision};
use crate::error::Result;
use crate::model::Classifier;
use crate::recipe::{LayerNorm, Recipe};

const TRAINER: &str = "optimizer.bpk";
const TECHNIQUES: &str = "techniques.bpk";

/// All techniques of a recipe, with their state.
pub struct Pipeline {
    objective: Objective,
    adversary: Option<Adversary>,
    precision: Precision,
    private: Option<DpSgd>,
    aggregation: Option<Aggregation>,
    learner: Option<Learner>,
    trainer: Trainer,
    average: Option<Average>,
    scale: PixelScale,
    /// What losses of single examples are multiplied by.
    dp_scale: f64,
    batch_norm: bool,
    validation_batch: usize,
}

/// What a step came to.
pub struct Stepped {
    /// The loss before it.
    pub loss: Scalar,
    /// Norm of the gradient before noise and clipping; NaN if the step was skipped.
    pub grad_norm: Scalar,
    /// The learning rate.
    pub lr: f64,
    /// Why the weights are as they were, if they are.
    pub skipped: Option<String>,
}

/// The gradients of a step as they come from the loss.
enum Gradients {
    /// One for each task, or one for their sum; times the loss scale.
    Scaled(Scalar, Vec<Tree>),
    /// Clipped and noisy.
    Private(f64, Tree),
}

impl Pipeline {
    /// The techniques of a recipe, from their beginning.
    ///
    /// # Errors
    /// Those of the techniques.
    pub fn new(recipe: &Recipe, model: &Classifier, train: &Feed, scale: PixelScale) -> Result<Self> {
        let chain = rules::chain(recipe, model)?;
        let loss = example_loss(&recipe.adversarial);
        Ok(Self {
            objective: Objective::new(model, scale, loss, precision::compute(recipe)),
            adversary: Adversary::new(recipe, model, train, scale)?,
            precision: Precision::new(recipe)?,
            private: rules::private(recipe, train.len())?,
            aggregation: Aggregation::new(recipe)?,
            learner: Learner::new(recipe)?,
            trainer: chain.before(precision::optimizer(recipe)?),
            average: (recipe.train.ema > 0.0).then(|| Average::new(recipe.train.ema, Tree::from_module(model))),
            scale,
            dp_scale: rules::dp_scale(recipe),
            batch_norm: recipe.model.norm == LayerNorm::Batch,
            validation_batch: recipe.train.batch_size,
        })
    }

    /// One step on the examples at `indices` (under DP it draws its own), at the schedule's learning rate: the model after it, and what it came to.
    ///
    /// # Errors
    /// Those of the techniques.
    pub fn step(
        &mut self,
        model: Classifier,
        scheduled: f64,
        indices: &[usize],
        train: &Feed,
        validation: &Feed,
    ) -> Result<(Classifier, Stepped)> {
        let point = Tree::from_module(&model);
        let (loss, gradient) = match self.gradients(&model, &point, indices, train)? {
            Gradients::Private(loss, gradient) => match gradient.is_finite().value() == 1.0 {
                true => (loss.into(), gradient),
                false => {
                    return Ok((model, skipped(loss.into(), scheduled, "the gradient is not finite".into())));
                }
            },
            Gradients::Scaled(loss, rows) => match self.precision.unscale(rows)? {
                Unscaled::Skip(why) => return Ok((model, skipped(loss, scheduled, why))),
                Unscaled::Gradients(rows) => (loss, self.aggregate(rows)?),
            },
        };
        let lr = match &mut self.learner {
            Some(learner) => learner.rate(scheduled, &gradient)?,
            None => scheduled,
        };
        // Only what is learned needs the weights before the step; else they are let go, so that the optimizer can work in place.
        let before = self.learner.is_some().then_some(point);
        let stepped = self.trainer.step_grads(lr, model, gradient, Some(loss.clone()));
        let (mut model, report) = match stepped.map_err(core_tensor::Error::from)? {
            Outcome::Stepped { model, report } => (model, report),
            Outcome::Skipped { model, why } => return Ok((model, skipped(loss, lr, why))),
        };
        if let (Some(learner), Some(before)) = (&mut self.learner, before) {
            let (adversary, objective, count) = (&mut self.adversary, &self.objective, self.validation_batch);
            let outer = |weights: &Tree, random: &mut Random| {
                let model = weights.write_into(model.clone())?;
                let indices: Vec<usize> =
                    (0..count.min(validation.len())).map(|_| random.below(validation.len() as u64) as usize).collect();
                let (images, labels) = validation.batch(&indices);
                let points = match adversary {
                    Some(adversary) if !adversary.carries() => adversary.points(&model, &images, &labels)?.images,
                    _ => images.clone(),
                };
                Ok(objective.sum(weights, &(images, points, labels), 1.0)?.1)
            };
            let after = learner.after(lr, &before, Tree::from_module(&model), outer)?;
            model = after.write_into(model)?;
        }
        if let Some(average) = &mut self.average {
            average.take(&Tree::from_module(&model))?;
        }
        Ok((model, Stepped { loss, grad_norm: report.grad_norm, lr, skipped: None }))
    }

    /// Draws, moves the images and differentiates.
    fn gradients(&mut self, model: &Classifier, point: &Tree, indices: &[usize], train: &Feed) -> Result<Gradients> {
        if let Some(private) = &mut self.private {
            let (adversary, scale) = (&mut self.adversary, self.dp_scale);
            let mut problem = None;
            let mut draw = |rows: &[usize]| -> Batch {
                let (images, labels) = train.batch(rows);
                let points = match adversary.as_mut().map(|adversary| adversary.points(model, &images, &labels)) {
                    None => images.clone(),
                    Some(Ok(points)) => points.images,
                    Some(Err(error)) => {
                        problem = Some(error);
                        images.clone()
                    }
                };
                (images, points, labels)
            };
            let example = {
                let (images, labels) = train.batch(&[0, 1.min(train.len() - 1)]);
                (images.clone(), images, labels)
            };
            let program = self.objective.examples(&example, scale as f32)?;
            let step = private.step(program, point, &mut draw)?;
            if let Some(problem) = problem {
                return Err(problem);
            }
            let step = step.expect("whoever calls asks first whether the budget is spent");
            return Ok(Gradients::Private(step.loss / scale, step.gradient.scale(1.0 / scale)));
        }
        let (images, labels) = train.batch(indices);
        let Points { images: points, gradient } = match &mut self.adversary {
            Some(adversary) => adversary.points(model, &images, &labels)?,
            None => Points { images: images.clone(), gradient: None },
        };
        if self.batch_norm && !self.adversary.as_ref().is_some_and(Adversary::carries) {
            // A recording cannot move running statistics: one forward pass on the model itself does.
            let moved = Tensor::from_inner(points.clone());
            let _ = logits(model, moved, self.scale);
        }
        let batch = (images, points, labels);
        let scale = self.precision.scale();
        Ok(match (&self.aggregation, gradient) {
            (None, Some((loss, gradient))) if self.objective.is_plain() => {
                Gradients::Scaled(loss, vec![gradient.scale(f64::from(scale))])
            }
            (None, _) => {
                let (loss, gradient) = self.objective.sum(point, &batch, scale)?;
                Gradients::Scaled(loss, vec![gradient])
            }
            (Some(_), _) => {
                let (loss, rows) = self.objective.rows(point, &batch, scale)?;
                Gradients::Scaled(loss, rows)
            }
        })
    }

    fn aggregate(&mut self, mut rows: Vec<Tree>) -> Result<Tree> {
        match &mut self.aggregation {
            Some(aggregation) => aggregation.aggregate(rows),
            None => Ok(rows.swap_remove(0)),
        }
    }

    /// The model to measure: with the average of the weights, where one is kept.
    ///
    /// # Errors
    /// None but those of trees.
    pub fn measured(&self, model: &Classifier) -> Result<Classifier> {
        Ok(match &self.average {
            Some(average) => average.tree().write_into(model.clone())?,
            None => model.clone(),
        })
    }

    /// Whether an average of the weights is kept.
    pub fn averages(&self) -> bool {
        self.average.is_some()
    }

    /// The value that is learned, if one is.
    pub fn learned(&self) -> Option<f64> {
        self.learner.as_ref().map(Learner::value)
    }

    /// Whether another step would spend more than the privacy budget.
    ///
    /// # Errors
    /// Those of the accountant.
    pub fn is_spent(&mut self) -> Result<bool> {
        Ok(match &mut self.private {
            Some(private) => private.steps_left()? == 0,
            None => false,
        })
    }

    /// ε spent so far, under DP.
    ///
    /// # Errors
    /// Those of the accountant.
    pub fn epsilon(&self) -> Result<Option<f64>> {
        Ok(self.private.as_ref().filter(|dp| dp.noise_multiplier() > 0.0).map(DpSgd::epsilon).transpose()?)
    }

    /// Saves everything that later steps depend on but the model.
    ///
    /// # Errors
    /// Files that cannot be written.
    pub fn save(&self, dir: &Path) -> Result<()> {
        self.trainer.save(dir.join(TRAINER))?;
        let mut state = State::new().with_nested("precision", self.precision.state());
        let parts = [
            ("adversarial", self.adversary.as_ref().map(Adversary::state)),
            ("private", self.private.as_ref().map(DpSgd::state)),
            ("multitask", self.aggregation.as_ref().map(Aggregation::state)),
            ("bilevel", self.learner.as_ref().map(Learner::state)),
            ("average", self.average.as_ref().map(Average::state)),
        ];
        for (name, part) in parts {
            if let Some(part) = part {
                state = state.with_nested(name, part);
            }
        }
        Ok(state.save(dir.join(TECHNIQUES))?)
    }

    /// Goes on from a saved folder.
    ///
    /// # Errors
    /// Files that cannot be read or are of another recipe.
    pub fn load(&mut self, dir: &Path, device: &Device) -> Result<()> {
        self.trainer.load(dir.join(TRAINER), device)?;
        let mut state = State::load(dir.join(TECHNIQUES), device)?;
        self.precision.load_state(state.take_nested("precision"))?;
        let mut part = |name| state.take_nested(name);
        if let Some(adversary) = &mut self.adversary {
            adversary.load_state(part("adversarial"))?;
        }
        if let Some(private) = &mut self.private {
            private.load_state(part("private"))?;
        }
        if let Some(aggregation) = &mut self.aggregation {
            aggregation.load_state(part("multitask"))?;
        }
        if let Some(learner) = &mut self.learner {
            learner.load_state(part("bilevel"))?;
        }
        if let Some(average) = &mut self.average {
            average.load_state(part("average"))?;
        }
        Ok(state.finish()?)
    }
}

fn skipped(loss: Scalar, lr: f64, why: String) -> Stepped {
    Stepped { loss, grad_norm: f64::NAN.into(), lr, skipped: Some(why) }
}
