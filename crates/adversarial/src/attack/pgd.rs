//! Projected gradient descent.

use super::check::{at_least_one, positive};
use super::geometry::{ascend, uniform_in_ball};
use super::runs::runs;
use super::{Attack, Setting, Walk};
use crate::engine::{Case, Oracle, Run};
use crate::error::Result;
use crate::loss::Objective;

/// PGD: steps uphill in the loss, each brought back into ball and box. The standard first attack.
///
/// `x⁰` uniform in the ball, `x^{k+1} = P(x^k + α·d(∇L(x^k)))` with the steepest direction `d` of the norm.
///
/// | parameter | default | range | effect |
/// |---|---|---|---|
/// | [`steps`](Self::steps) | 40 | ≥ 1 | gradient evaluations of a run at most |
/// | [`step_size`](Self::step_size) | `2.5 ε / steps` | > 0 | `α`, in the threat's norm |
/// | [`random_start`](Self::random_start) | yes | | whether runs begin at random points of the ball or at `x₀` |
/// | [`restarts`](Self::restarts) | 1 | ≥ 1 | runs from other starting points, until one succeeds |
/// | [`objective`](Self::objective) | cross-entropy | [`Objective`] | the loss |
///
/// Cost: at most `steps` gradients and `steps + 1` queries a restart; an example stops at its first success.
///
/// A. Mądry, A. Makelov, L. Schmidt, D. Tsipras, A. Vladu, "Towards deep learning models resistant to adversarial attacks", ICLR
/// 2018, arXiv:1706.06083, section 2.1.
///
/// ```
/// use adversarial::{Attack, Goals, Norm, Pgd, Recorded, Threat};
/// use burn::nn::LinearConfig;
/// use burn::tensor::{Device, Tensor};
///
/// let device = Device::flex();
/// let model = LinearConfig::new(4, 3).init(&device);
/// let classifier = Recorded::new(&model, [4], |model, x: Tensor<2>| model.forward(x))?;
/// let x = Tensor::<2>::full([2, 4], 0.5, &device);
/// let pgd = Pgd::new().steps(10).restarts(2);
/// let attacked = pgd.attack(&classifier, Threat::new(Norm::L2, 0.5)?, x, &Goals::untargeted(&[0, 1]))?;
/// assert!(attacked.gradients() <= 2 * 2 * 10);
/// # Ok::<(), adversarial::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pgd {
    steps: usize,
    step_size: Option<f64>,
    random_start: bool,
    restarts: usize,
    objective: Objective,
}

impl Default for Pgd {
    fn default() -> Self {
        Self::new()
    }
}

impl Pgd {
    /// PGD-40 with one random start.
    pub fn new() -> Self {
        Self { steps: 40, step_size: None, random_start: true, restarts: 1, objective: Objective::CrossEntropy }
    }

    /// Sets the number of steps.
    pub fn steps(self, steps: usize) -> Self {
        Self { steps, ..self }
    }

    /// Sets the length of a step.
    pub fn step_size(self, step_size: f64) -> Self {
        Self { step_size: Some(step_size), ..self }
    }

    /// Sets whether runs begin at random points.
    pub fn random_start(self, random_start: bool) -> Self {
        Self { random_start, ..self }
    }

    /// Sets the number of runs.
    pub fn restarts(self, restarts: usize) -> Self {
        Self { restarts, ..self }
    }

    /// Sets the loss.
    pub fn objective(self, objective: Objective) -> Self {
        Self { objective, ..self }
    }
}

impl Attack for Pgd {
    fn name(&self) -> String {
        format!("PGD-{}", self.steps)
    }

    fn check(&self, setting: &Setting) -> Result<()> {
        at_least_one("steps", self.steps)?;
        at_least_one("restarts", self.restarts)?;
        positive("step_size", self.step_size.unwrap_or(1.0))?;
        self.objective.check(setting.classes, setting.targeted)
    }

    fn runs(&self, case: &Case) -> Vec<Run> {
        runs(case, self.restarts, 0)
    }

    fn walk(&self, case: Case, oracle: Oracle) -> Walk<'_> {
        Box::pin(async move {
            let loss = self.objective.loss(&case.goal(), case.run().target);
            let step = self.step_size.unwrap_or(2.5 * case.threat().epsilon() / self.steps as f64);
            let mut x = match self.random_start {
                true => uniform_in_ball(&case, &mut case.random()),
                false => case.x0().to_vec(),
            };
            for _ in 0..self.steps {
                let gradient = oracle.gradient(&x, loss.clone()).await.gradient;
                ascend(&case, &mut x, &gradient, step);
                case.project(&mut x);
            }
            oracle.value(&x, loss).await;
        })
    }
}
