//! Table `[adversarial]`: at which points the loss of a step is taken, and how robust the model is.
//!
//! With several tasks the adversary attacks the sum of their losses. The attack sees one classifier whose classes are the combinations of the
//! tasks' classes, with the sum of the tasks' logits for each: its softmax is the product of theirs, so that its cross-entropy is exactly the sum of
//! theirs, and so is its divergence. Attacks compute in `f32`, whatever `precision.compute` says, and see the model as at inference.

use adversarial::training::{
    FastTraining, FreeTraining, MartTraining, PgdTraining, RobustProgram, RobustTraining, TradesTraining, TwoStage,
};
use adversarial::{Attack, Goals, Norm, Objective as Climbed, Pgd, Recorded, Threat};
use burn::tensor::{Int, Tensor};
use core_tensor::transform::State;
use core_tensor::{Scalar, Tree};

use super::feed::Feed;
use super::objective::{ExampleLoss, PixelScale, logits};
use crate::error::{Error, Result};
use crate::model::Classifier;
use crate::recipe::{AdversarialRecipe, AttackLoss, BallNorm, Recipe, RobustMethod};

/// Combinations of classes that an attack on several tasks may have.
const LARGEST: usize = 4096;

/// Who moves the images of a step.
pub struct Adversary {
    program: RobustProgram<Classifier, 4>,
    method: Method,
    /// Classes of each task.
    classes: Vec<usize>,
}

enum Method {
    TwoStage(Box<dyn TwoStage<Classifier, 4>>),
    Free(Box<FreeTraining<4>>),
}

/// Where the loss of a step is taken.
pub struct Points {
    /// The images there.
    pub images: Tensor<4>,
    /// Loss and gradient of the sum of the tasks' losses there, where the method had to take them on the way.
    pub gradient: Option<(Scalar, Tree)>,
}

impl Adversary {
    /// The adversary of a recipe; `None` for standard training.
    ///
    /// # Errors
    /// [`Error::Value`] where the combinations of the tasks' classes are too many.
    pub fn new(recipe: &Recipe, model: &Classifier, feed: &Feed, scale: PixelScale) -> Result<Option<Self>> {
        let table = &recipe.adversarial;
        let (threat, seed) = (threat(table)?, recipe.train.seed);
        let classes = feed.classes().to_vec();
        // The settings of each method are checked by the ranges of the recipe.
        macro_rules! two_stages {
            ($method:expr) => {{
                let method = $method.seed(seed);
                Method::TwoStage(Box::new(match table.step_size {
                    0.0 => method,
                    size => method.step_size(size)?,
                }))
            }};
        }
        let method = match table.method {
            RobustMethod::None => return Ok(None),
            RobustMethod::Pgd => two_stages!(PgdTraining::new(threat)?.steps(table.steps)?),
            RobustMethod::Trades => two_stages!(TradesTraining::new(threat, table.beta)?.steps(table.steps)?),
            RobustMethod::Mart => two_stages!(MartTraining::new(threat, table.lambda)?.steps(table.steps)?),
            RobustMethod::Fast => two_stages!(FastTraining::new(threat)?),
            RobustMethod::Free => {
                let method = FreeTraining::new(threat)?.replays(table.replays)?.seed(seed);
                Method::Free(Box::new(match table.step_size {
                    0.0 => method,
                    size => method.step_size(size)?,
                }))
            }
        };
        if let Some(count) = classes.iter().try_fold(1usize, |product, n| product.checked_mul(*n))
            && count <= LARGEST
        {
            let (images, _) = feed.batch(&[0]);
            let program = RobustProgram::record(model, &images, move |model: &Classifier, images| {
                together(logits(model, images, scale))
            })?;
            return Ok(Some(Self { program, method, classes }));
        }
        Err(Error::Value {
            origin: "the tasks attacked together".into(),
            field: "classes".into(),
            value: classes.iter().map(usize::to_string).collect::<Vec<_>>().join(" x "),
            expected: format!("at most {LARGEST} combinations"),
        })
    }

    /// The points of a batch.
    ///
    /// # Errors
    /// Those of the method.
    pub fn points(&mut self, model: &Classifier, images: &Tensor<4>, labels: &[Tensor<1, Int>]) -> Result<Points> {
        let labels = self.combined(labels);
        Ok(match &mut self.method {
            Method::TwoStage(method) => {
                let batch = self.program.examples(images.clone(), labels)?;
                Points { images: method.perturb(&self.program, model, &batch)?.adversarial, gradient: None }
            }
            Method::Free(method) => {
                let step = method.gradients(&self.program, model, images.clone(), labels)?;
                Points { images: step.adversarial, gradient: Some((step.loss, step.gradient)) }
            }
        })
    }

    /// Whether points carry over from one batch to the next, so that examples of another kind may not come between.
    pub fn carries(&self) -> bool {
        matches!(self.method, Method::Free(_))
    }

    /// What later points depend on.
    pub fn state(&self) -> State {
        match &self.method {
            Method::TwoStage(method) => method.state(),
            Method::Free(method) => RobustTraining::<Classifier, 4>::state(&**method),
        }
    }

    /// Go on from a state.
    ///
    /// # Errors
    /// The state of something else.
    pub fn load_state(&mut self, state: State) -> Result<()> {
        match &mut self.method {
            Method::TwoStage(method) => method.load_state(state)?,
            Method::Free(method) => RobustTraining::<Classifier, 4>::load_state(&mut **method, state)?,
        }
        Ok(())
    }

    /// The combination of each example's classes.
    fn combined(&self, labels: &[Tensor<1, Int>]) -> Tensor<1, Int> {
        let others = labels.iter().zip(&self.classes).skip(1);
        others.fold(labels[0].clone(), |all, (labels, classes)| all * *classes as i64 + labels.clone())
    }
}

/// Logits of the combinations of classes of several tasks: the sums of theirs.
pub fn together(tasks: Vec<Tensor<2>>) -> Tensor<2> {
    let both = |a: Tensor<2>, b: Tensor<2>| {
        let sums: Tensor<3> = a.unsqueeze_dim::<3>(2) + b.unsqueeze_dim::<3>(1);
        sums.flatten(1, 2)
    };
    tasks.into_iter().reduce(both).expect("there is a task")
}

/// What the adversary of a recipe may do.
///
/// # Errors
/// None with a recipe's ranges.
pub fn threat(table: &AdversarialRecipe) -> Result<Threat> {
    let norm = match table.norm {
        BallNorm::Linf => Norm::Linf,
        BallNorm::L2 => Norm::L2,
        BallNorm::L1 => Norm::L1,
    };
    Ok(Threat::new(norm, table.radius)?)
}

/// The loss of an example by the recipe's method.
pub fn example_loss(table: &AdversarialRecipe) -> ExampleLoss {
    match table.method {
        RobustMethod::Trades => ExampleLoss::Trades(table.beta),
        RobustMethod::Mart => ExampleLoss::Mart(table.lambda),
        _ => ExampleLoss::CrossEntropy,
    }
}

/// How often a batch is repeated.
pub fn replays(table: &AdversarialRecipe) -> usize {
    if table.method == RobustMethod::Free { table.replays } else { 1 }
}

/// Accuracy of the first task under the recipe's PGD, on the first examples of a feed.
///
/// # Errors
/// [`Error::Contradiction`] for DLR with fewer than three classes; those of the attack.
pub fn robust_accuracy(table: &AdversarialRecipe, model: &Classifier, feed: &Feed, scale: PixelScale) -> Result<f64> {
    check_classes(table, feed.classes()[0])?;
    let count = table.evaluation_examples.min(feed.len());
    let indices: Vec<usize> = (0..count).collect();
    let (images, _) = feed.batch(&indices);
    let [_, channels, height, width] = images.dims();
    let attacked = Recorded::new(model, [channels, height, width], move |model: &Classifier, x| {
        logits(model, x, scale).swap_remove(0)
    })?;
    let objective = match table.evaluation_loss {
        AttackLoss::CrossEntropy => Climbed::CrossEntropy,
        AttackLoss::Dlr => Climbed::Dlr,
    };
    let labels: Vec<usize> = indices.iter().map(|&index| usize::from(feed.labels()[0][index])).collect();
    let pgd = Pgd::new().steps(table.evaluation_steps).objective(objective);
    Ok(pgd.attack(&attacked, threat(table)?, images, &Goals::untargeted(&labels))?.robust_accuracy())
}

/// Refuses DLR where it is not defined.
///
/// # Errors
/// [`Error::Contradiction`].
pub fn check_classes(table: &AdversarialRecipe, classes: usize) -> Result<()> {
    if table.method == RobustMethod::None || table.evaluation_loss != AttackLoss::Dlr || classes >= 3 {
        return Ok(());
    }
    Err(Error::Contradiction {
        origin: "the data".into(),
        one: "adversarial.evaluation_loss = dlr".into(),
        other: format!("{classes} classes"),
        why: "DLR divides by the distance between the first and the third logit, and there is no third; take cross-entropy"
            .into(),
    })
}
