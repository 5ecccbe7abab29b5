//! Auto-PGD.

use burn::tensor::Distribution;

use super::check::at_least_one;
use super::geometry::{ascend, draw, length};
use super::runs::runs;
use super::{Attack, Setting, Walk};
use crate::engine::{Case, Oracle, Run};
use crate::error::{Error, Result};
use crate::loss::{Loss, Objective};
use crate::threat::Norm;

/// APGD: PGD with momentum and a step that halves itself where the loss no longer grows. Nothing to tune but the number of
/// steps; the white-box half of [`AutoAttack`](crate::AutoAttack).
///
/// From a point on the ball's surface, with steps `η` of `2ε` at first,
///
/// ```text
/// z^{k+1} = P(x^k + η·d(∇L(x^k)))
/// x^{k+1} = P(x^k + ¾(z^{k+1} − x^k) + ¼(x^k − x^{k−1}))
/// ```
///
/// with the steepest direction `d` of the norm and the projection `P` onto ball and box. At checkpoints the step is halved, and the run goes on from
/// the best point, if since the last one the loss grew in at most ¾ of the steps, or if the step was not halved there and the best loss
/// has not changed since. Checkpoints are `⌊0.22 N⌋` steps apart at first, each distance `⌊0.03 N⌋` less, down to `⌊0.06 N⌋`.
///
/// | parameter | default | range | effect |
/// |---|---|---|---|
/// | [`steps`](Self::steps) | 100 | ≥ 1 | `N`, gradients of a run |
/// | [`restarts`](Self::restarts) | 1 | ≥ 1 | runs from other starting points |
/// | [`objective`](Self::objective) | cross-entropy | [`Objective`] | the loss; [`Objective::Dlr`] for APGD-DLR |
/// | [`targets`](Self::targets) | 0 | | runs that each head for one of so many classes, those with the largest clean logits first; 0: away from the label |
///
/// Guarantees: on linear models the worst loss in ball and box is reached (`fixed_ball_attacks_reach_the_worst_loss_of_a_linear_model`).
///
/// Cost: `steps` gradients and `steps + 1` queries a run; five points of memory.
///
/// Errors: [`Error::Unsupported`] for `L1` ([`ApgdL1`](crate::ApgdL1)) and `L0`, [`Error::TooFewClasses`], [`Error::Parameter`].
///
/// F. Croce, M. Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks", ICML 2020,
/// arXiv:2003.01690, algorithm 1. The projection in `L2` is onto ball and box together; the paper's clips one after the other.
///
/// ```
/// use adversarial::{Apgd, Attack, Goals, Norm, Recorded, Threat};
/// use burn::nn::LinearConfig;
/// use burn::tensor::{Device, Tensor};
///
/// let device = Device::flex();
/// let model = LinearConfig::new(4, 5).init(&device);
/// let classifier = Recorded::new(&model, [4], |model, x: Tensor<2>| model.forward(x))?;
/// let x = Tensor::<2>::full([2, 4], 0.5, &device);
/// let attacked = Apgd::targeted(3).steps(20).attack(&classifier, Threat::new(Norm::Linf, 0.1)?, x, &Goals::untargeted(&[0, 1]))?;
/// assert!(attacked.gradients() <= 2 * 3 * 20);
/// # Ok::<(), adversarial::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Apgd {
    steps: usize,
    restarts: usize,
    objective: Objective,
    targets: usize,
}

impl Default for Apgd {
    fn default() -> Self {
        Self::new()
    }
}

impl Apgd {
    /// APGD-CE, 100 steps.
    pub fn new() -> Self {
        Self { steps: 100, restarts: 1, objective: Objective::CrossEntropy, targets: 0 }
    }

    /// APGD-DLR: the difference of logits ratio. Needs 3 classes.
    pub fn dlr() -> Self {
        Self::new().objective(Objective::Dlr)
    }

    /// APGD-T: the targeted difference of logits ratio for so many classes, 9 in the paper. Needs 4 classes.
    pub fn targeted(targets: usize) -> Self {
        Self::dlr().targets(targets)
    }

    /// Sets the number of steps.
    pub fn steps(self, steps: usize) -> Self {
        Self { steps, ..self }
    }

    /// Sets the number of runs for each target.
    pub fn restarts(self, restarts: usize) -> Self {
        Self { restarts, ..self }
    }

    /// Sets the loss.
    pub fn objective(self, objective: Objective) -> Self {
        Self { objective, ..self }
    }

    /// Sets how many classes are headed for.
    pub fn targets(self, targets: usize) -> Self {
        Self { targets, ..self }
    }
}

impl Attack for Apgd {
    fn name(&self) -> String {
        let loss = match (self.objective, self.targets) {
            (Objective::CrossEntropy, 0) => "CE",
            (Objective::Dlr, 0) => "DLR",
            (Objective::Margin, 0) => "margin",
            (_, _) => "T",
        };
        format!("APGD-{loss}")
    }

    fn check(&self, setting: &Setting) -> Result<()> {
        at_least_one("steps", self.steps)?;
        at_least_one("restarts", self.restarts)?;
        if !matches!(setting.norm, Norm::Linf | Norm::L2) {
            let (attack, what) = (self.name(), format!("{:?}", setting.norm));
            return Err(Error::Unsupported { attack, what, supported: "Linf and L2; ApgdL1 is for L1" });
        }
        self.objective.check(setting.classes, setting.targeted || self.targets > 0)
    }

    fn runs(&self, case: &Case) -> Vec<Run> {
        runs(case, self.restarts, self.targets)
    }

    fn walk(&self, case: Case, oracle: Oracle) -> Walk<'_> {
        Box::pin(async move {
            let loss = self.objective.loss(&case.goal(), case.run().target);
            let start = on_surface(&case);
            climb(&case, &oracle, loss, start, self.steps).await;
        })
    }
}

async fn climb(case: &Case, oracle: &Oracle, loss: Loss, start: Vec<f32>, steps: usize) {
    let share = |part: f64| ((part * steps as f64) as usize).max(1);
    let (mut distance, less, least) = (share(0.22), share(0.03), share(0.06));
    let mut step = 2.0 * case.threat().epsilon();
    let mut x = start;
    let mut before = x.clone();
    let first = oracle.gradient(&x, loss.clone()).await;
    let (mut gradient, mut last) = (first.gradient, first.loss);
    let mut best = (last, x.clone(), gradient.clone());
    let (mut best_at_check, mut halved, mut grown, mut since) = (last, true, 0, 0);
    for k in 0..steps {
        let mut z = x.clone();
        ascend(case, &mut z, &gradient, step);
        case.project(&mut z);
        if k > 0 {
            for ((z, x), before) in z.iter_mut().zip(&x).zip(&before) {
                let (x, before) = (f64::from(*x), f64::from(*before));
                *z = (x + 0.75 * (f64::from(*z) - x) + 0.25 * (x - before)) as f32;
            }
            case.project(&mut z);
        }
        before = std::mem::replace(&mut x, z);
        if k + 1 == steps {
            // Where the last point leads is of no interest.
            oracle.value(&x, loss).await;
            return;
        }
        let answer = oracle.gradient(&x, loss.clone()).await;
        grown += usize::from(answer.loss > last);
        (last, gradient) = (answer.loss, answer.gradient);
        if last > best.0 {
            best = (last, x.clone(), gradient.clone());
        }
        since += 1;
        if since == distance {
            let stuck = 4 * grown <= 3 * since || (!halved && best.0 <= best_at_check);
            if stuck {
                step /= 2.0;
                (last, x, gradient) = best.clone();
            }
            (halved, best_at_check, grown, since) = (stuck, best.0, 0, 0);
            distance = distance.saturating_sub(less).max(least);
        }
    }
}

/// A random point on the ball's surface, in the box.
fn on_surface(case: &Case) -> Vec<f32> {
    let mut random = case.random();
    let (n, epsilon) = (case.x0().len(), case.threat().epsilon());
    let direction: Vec<f32> = match case.threat().norm() {
        Norm::Linf => draw(&mut random, Distribution::Uniform(-1.0, 1.0), n),
        _ => draw(&mut random, Distribution::Normal(0.0, 1.0), n),
    }
    .into_iter()
    .map(|d| d as f32)
    .collect();
    let size = match case.threat().norm() {
        Norm::Linf => f64::from(direction.iter().fold(0f32, |a, d| a.max(d.abs()))),
        _ => length(&direction),
    };
    let mut x: Vec<f32> =
        case.x0().iter().zip(direction).map(|(x, d)| (f64::from(*x) + epsilon / size * f64::from(d)) as f32).collect();
    case.project(&mut x);
    x
}
