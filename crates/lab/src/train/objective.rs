//! The loss of a step: which tasks, at which points, summed over what.
//!
//! A batch has clean images, the points at which the model is to be right, and a label for each task. A task's loss of an example is
//!
//! | `adversarial.method` | loss of image `x` moved to `x′` |
//! |---|---|
//! | none, pgd, fast, free | `CE(h(x′), y)` |
//! | trades | `CE(h(x), y) + β·KL(p(x) ‖ p(x′))` |
//! | mart | `−log p_y(x′) − log(1 − max_{j≠y} p_j(x′)) + λ·KL(p(x) ‖ p(x′))·(1 − p_y(x))` |
//!
//! with the task's own logits `h` and `p = softmax h`. The same losses are recorded in three forms, each when first needed.

use std::sync::OnceLock;

use burn::tensor::activation::{log_softmax, softmax};
use burn::tensor::{Int, Tensor};
use core_tensor::{Autocast, Program, Scalar, Tree};

use crate::error::Result;
use crate::model::Classifier;

/// Clean images in units of full ink, the points trained at, and the classes for each task.
pub type Batch = (Tensor<4>, Tensor<4>, Vec<Tensor<1, Int>>);

/// Mean and standard deviation of the training pixels, by which a model sees its images.
pub type PixelScale = (f64, f64);

/// Keeps MART's logarithm finite where a wrong class is certain, as in the crate `adversarial`.
const FLOOR: f64 = 1e-4;

/// The loss of an example and task.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ExampleLoss {
    /// Cross-entropy at the points.
    CrossEntropy,
    /// With this weight of the divergence.
    Trades(f64),
    /// With this weight of the divergence.
    Mart(f64),
}

/// The losses of a step, recorded.
pub struct Objective {
    template: Classifier,
    scale: PixelScale,
    loss: ExampleLoss,
    autocast: Option<Autocast>,
    sum: OnceLock<Program<Batch>>,
    tasks: OnceLock<Program<Batch>>,
    examples: OnceLock<Program<Batch>>,
}

impl Objective {
    /// The losses of models like this one.
    pub fn new(model: &Classifier, scale: PixelScale, loss: ExampleLoss, autocast: Option<Autocast>) -> Self {
        let slot = OnceLock::new;
        Self { template: model.clone(), scale, loss, autocast, sum: slot(), tasks: slot(), examples: slot() }
    }

    /// Whether it is the cross-entropy at the points, in the types of the weights.
    pub fn is_plain(&self) -> bool {
        self.loss == ExampleLoss::CrossEntropy && self.autocast.is_none()
    }

    /// The sum over tasks of the mean losses, and the gradient of `scale` times it.
    ///
    /// # Errors
    /// Those of a [`Program`].
    pub fn sum(&self, point: &Tree, batch: &Batch, scale: f32) -> Result<(Scalar, Tree)> {
        let program = self.recorded(&self.sum, batch, sum_of_means)?;
        let out = program.scaled_value_and_grad(point, batch, scale)?;
        Ok((Scalar::from_tensor(out.value), out.gradient))
    }

    /// The sum over tasks of the mean losses, and for each task the gradient of `scale` times its own.
    ///
    /// # Errors
    /// Those of a [`Program`].
    pub fn rows(&self, point: &Tree, batch: &Batch, scale: f32) -> Result<(Scalar, Vec<Tree>)> {
        let program =
            self.recorded(&self.tasks, batch, |losses| Tensor::cat(losses.into_iter().map(Tensor::mean).collect(), 0))?;
        let pullback = program.pullback(point, batch)?;
        let count = batch.2.len();
        let rows = (0..count).map(|task| {
            let unit: Vec<f32> = (0..count).map(|other| if other == task { scale } else { 0.0 }).collect();
            let unit = Tensor::<1>::from_data(&unit[..], (&pullback.value.device(), pullback.value.dtype()));
            pullback.apply(&unit)
        });
        let rows = rows.collect::<core_tensor::Result<_>>()?;
        Ok((Scalar::from_tensor(pullback.value.clone().sum()), rows))
    }

    /// The program of `scale` times the loss of each example, summed over tasks.
    ///
    /// # Errors
    /// Those of a [`Program`].
    pub fn examples(&self, batch: &Batch, scale: f32) -> Result<&Program<Batch>> {
        self.recorded(&self.examples, batch, move |losses| {
            losses.into_iter().reduce(|a, b| a + b).expect("there is a task").mul_scalar(scale)
        })
    }

    fn recorded<'a>(
        &self,
        slot: &'a OnceLock<Program<Batch>>,
        batch: &Batch,
        reduce: impl Fn(Vec<Tensor<1>>) -> Tensor<1> + Send + Sync + 'static,
    ) -> Result<&'a Program<Batch>> {
        if let Some(program) = slot.get() {
            return Ok(program);
        }
        let (scale, loss) = (self.scale, self.loss);
        let program = Program::record_first_order(&self.template, batch, move |model: &Classifier, batch: &Batch| {
            reduce(losses(model, batch, scale, loss))
        })?;
        let program = match &self.autocast {
            Some(autocast) => program.autocast(autocast),
            None => program,
        };
        Ok(slot.get_or_init(|| program))
    }
}

/// The logits of every task for images in units of full ink.
pub fn logits(model: &Classifier, images: Tensor<4>, (mean, deviation): PixelScale) -> Vec<Tensor<2>> {
    model.logits((images - mean) / deviation.max(1e-6))
}

/// The sum over tasks of the mean losses.
pub fn summed(model: &Classifier, batch: &Batch, scale: PixelScale, loss: ExampleLoss) -> Tensor<1> {
    sum_of_means(losses(model, batch, scale, loss))
}

fn sum_of_means(losses: Vec<Tensor<1>>) -> Tensor<1> {
    losses.into_iter().map(Tensor::mean).reduce(|a, b| a + b).expect("there is a task")
}

/// The losses of the examples, for each task.
fn losses(model: &Classifier, (clean, points, labels): &Batch, scale: PixelScale, loss: ExampleLoss) -> Vec<Tensor<1>> {
    let moved = logits(model, points.clone(), scale);
    if loss == ExampleLoss::CrossEntropy {
        return moved.into_iter().zip(labels).map(|(logits, y)| cross_entropies(logits, y)).collect();
    }
    let clean = logits(model, clean.clone(), scale);
    let pairs = clean.into_iter().zip(moved).zip(labels);
    pairs
        .map(|((clean, moved), y)| {
            let divergence = divergences(clean.clone(), moved.clone());
            match loss {
                ExampleLoss::CrossEntropy => unreachable!("returned above"),
                ExampleLoss::Trades(beta) => cross_entropies(clean, y) + divergence * beta,
                ExampleLoss::Mart(lambda) => {
                    let doubt = cross_entropies(clean, y).neg().exp().neg() + 1.0;
                    margins(moved, y) + divergence * doubt * lambda
                }
            }
        })
        .collect()
}

/// `−log p_y` of each row of logits.
fn cross_entropies(logits: Tensor<2>, labels: &Tensor<1, Int>) -> Tensor<1> {
    log_softmax(logits, 1).gather(1, labels.clone().unsqueeze_dim::<2>(1)).squeeze_dim::<1>(1).neg()
}

/// `KL(softmax p ‖ softmax q)` of each row of logits.
fn divergences(p: Tensor<2>, q: Tensor<2>) -> Tensor<1> {
    let log = log_softmax(p.clone(), 1) - log_softmax(q, 1);
    (softmax(p, 1) * log).sum_dim(1).squeeze_dim::<1>(1)
}

/// `−log p_y − log(1 − max_{j≠y} p_j)` of each row of logits.
fn margins(logits: Tensor<2>, labels: &Tensor<1, Int>) -> Tensor<1> {
    let [examples, classes] = logits.dims();
    let at = labels.clone().unsqueeze_dim::<2>(1);
    let every = Tensor::<1, Int>::arange(0..classes as i64, &labels.device()).unsqueeze_dim::<2>(0);
    let own = every.expand([examples, classes]).equal(at.expand([examples, classes]));
    let rival = softmax(logits.clone(), 1).mask_fill(own, 0.0).max_dim(1).squeeze_dim::<1>(1);
    cross_entropies(logits, labels) - (rival.neg() + (1.0 + FLOOR)).log()
}
