//! Auto-PGD in `L1`.

use burn::tensor::Distribution;

use super::check::at_least_one;
use super::geometry::{draw, largest_movable, sign};
use super::minimum::project_to;
use super::runs::runs;
use super::{Attack, Setting, Walk};
use crate::engine::{Case, Oracle, Run};
use crate::error::{Error, Result};
use crate::loss::{Loss, Objective};
use crate::threat::Norm;

/// APGD in `L1`: sparse steps whose sparsity follows that of the best point, and exact projections onto the `L1` ball cut by the
/// box.
///
/// `x^{k+1} = P(x^k + η/s · sign(g))` on the `s` elements of largest `|g|`, at first `s = ‖x⁰ − x₀‖₀ / 1.5`. Every `⌊0.04 N⌋` steps `s` becomes
/// `‖x_best − x₀‖₀ / 1.5`; the step
/// returns to `ε` and the run to the best point where that number has fallen by 5 % or more, else the step is divided by 1.5, down to `ε/10`.
/// The radius comes down in three stages: `3ε` for 30 % of the steps, `2ε` for 30 %, `ε` for 40 %, each begun at the best point so far.
///
/// | parameter | default | range | effect |
/// |---|---|---|---|
/// | [`steps`](Self::steps) | 100 | ≥ 1 | `N`, gradients of a run |
/// | [`restarts`](Self::restarts) | 1 | ≥ 1 | runs from other starting points |
/// | [`objective`](Self::objective) | cross-entropy | [`Objective`] | the loss |
/// | [`targets`](Self::targets) | 0 | | as [`Apgd::targets`](crate::Apgd::targets) |
///
/// Guarantees: on linear models the worst loss in ball and box is reached (`fixed_ball_attacks_reach_the_worst_loss_of_a_linear_model`).
///
/// Cost: `steps` gradients and `steps + 1` queries a run, a sort of the elements a step.
///
/// Errors: [`Error::Unsupported`] for other norms, [`Error::TooFewClasses`], [`Error::Parameter`].
///
/// F. Croce, M. Hein, "Mind the box: l1-APGD for sparse adversarial attacks on image classifiers", ICML 2021, arXiv:2103.01208,
/// algorithm 1 and section 4.3. Elements that the gradient would push out of the box do not count among the `s`.
///
/// ```
/// use adversarial::{ApgdL1, Attack, Goals, Norm, Recorded, Threat};
/// use burn::nn::LinearConfig;
/// use burn::tensor::{Device, Tensor};
///
/// let device = Device::flex();
/// let model = LinearConfig::new(4, 3).init(&device);
/// let classifier = Recorded::new(&model, [4], |model, x: Tensor<2>| model.forward(x))?;
/// let x = Tensor::<2>::full([2, 4], 0.5, &device);
/// let attacked = ApgdL1::new().steps(20).attack(&classifier, Threat::new(Norm::L1, 0.5)?, x, &Goals::untargeted(&[0, 1]))?;
/// assert!(attacked.gradients() <= 2 * 20);
/// # Ok::<(), adversarial::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApgdL1 {
    steps: usize,
    restarts: usize,
    objective: Objective,
    targets: usize,
}

impl Default for ApgdL1 {
    fn default() -> Self {
        Self::new()
    }
}

impl ApgdL1 {
    /// 100 steps on the cross-entropy.
    pub fn new() -> Self {
        Self { steps: 100, restarts: 1, objective: Objective::CrossEntropy, targets: 0 }
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

impl Attack for ApgdL1 {
    fn name(&self) -> String {
        match self.targets {
            0 => "APGD-L1".into(),
            _ => "APGD-L1-T".into(),
        }
    }

    fn check(&self, setting: &Setting) -> Result<()> {
        at_least_one("steps", self.steps)?;
        at_least_one("restarts", self.restarts)?;
        if setting.norm != Norm::L1 {
            let (attack, what) = (self.name(), format!("{:?}", setting.norm));
            return Err(Error::Unsupported { attack, what, supported: "L1; Apgd is for Linf and L2" });
        }
        self.objective.check(setting.classes, setting.targeted || self.targets > 0)
    }

    fn runs(&self, case: &Case) -> Vec<Run> {
        runs(case, self.restarts, self.targets)
    }

    fn walk(&self, case: Case, oracle: Oracle) -> Walk<'_> {
        Box::pin(async move {
            let loss = self.objective.loss(&case.goal(), case.run().target);
            let epsilon = case.threat().epsilon();
            let mut random = case.random();
            let noise = draw(&mut random, Distribution::Normal(0.0, 1.0), case.x0().len());
            let mut x: Vec<f32> = case.x0().iter().zip(noise).map(|(x, d)| (f64::from(*x) + d) as f32).collect();
            let early = (0.3 * self.steps as f64) as usize;
            let stages = [(3.0 * epsilon, early), (2.0 * epsilon, early), (epsilon, self.steps - 2 * early)];
            for (radius, steps) in stages {
                inside(&case, &mut x, radius);
                if steps > 0 {
                    x = climb(&case, &oracle, &loss, x, radius, steps, radius == epsilon).await;
                }
            }
        })
    }
}

/// Brings a point into the ball of a radius, and the box.
fn inside(case: &Case, x: &mut [f32], radius: f64) {
    let mut wide: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
    project_to(case, &mut wide, radius);
    x.iter_mut().zip(wide).for_each(|(x, y)| *x = y as f32);
}

/// The best point of so many steps at one radius.
async fn climb(
    case: &Case,
    oracle: &Oracle,
    loss: &Loss,
    start: Vec<f32>,
    radius: f64,
    steps: usize,
    last_stage: bool,
) -> Vec<f32> {
    let every = ((0.04 * steps as f64) as usize).max(1);
    let moved = |x: &[f32]| case.x0().iter().zip(x).filter(|(a, b)| a != b).count();
    let sparse = |support: usize| ((support as f64 / 1.5) as usize).max(1);
    let mut support = moved(&start);
    let (mut step, mut sparsity) = (radius, sparse(support));
    let mut x = start;
    let first = oracle.gradient(&x, loss.clone()).await;
    let mut gradient = first.gradient;
    let mut best = (first.loss, x.clone(), gradient.clone());
    for k in 0..steps {
        let chosen = largest_movable(case, &x, &gradient, sparsity);
        let each = (step / chosen.len().max(1) as f64) as f32;
        chosen.into_iter().for_each(|i| x[i] += each * sign(gradient[i]));
        inside(case, &mut x, radius);
        if k + 1 == steps {
            let value = oracle.value(&x, loss.clone()).await.loss;
            if last_stage || value <= best.0 {
                break;
            }
            return x;
        }
        let answer = oracle.gradient(&x, loss.clone()).await;
        gradient = answer.gradient;
        if answer.loss > best.0 {
            best = (answer.loss, x.clone(), gradient.clone());
        }
        if (k + 1).is_multiple_of(every) {
            let now = moved(&best.1);
            sparsity = sparse(now);
            match (now as f64) < 0.95 * support as f64 {
                true => {
                    step = radius;
                    (_, x, gradient) = best.clone();
                }
                false => step = (step / 1.5).max(radius / 10.0),
            }
            support = now;
        }
    }
    best.1
}
