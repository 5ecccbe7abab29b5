//! Natural evolution strategies.

use burn::tensor::Distribution;

use super::check::{at_least_one, positive};
use super::estimate::{check_fixed_ball, pairs};
use super::geometry::{ascend, draw, uniform_in_ball};
use super::runs::runs;
use super::{Attack, Setting, Walk};
use crate::engine::{Case, Oracle, Run};
use crate::error::{Error, Result};
use crate::loss::Objective;

/// NES: PGD with a gradient estimated from values of the loss under Gaussian noise, for models that give scores but no
/// gradients. It needs fewer queries a step than [`Spsa`](super::Spsa), and more steps.
///
/// `ĝ = mean (L(x + σu) − L(x − σu)) / (2σ) · u` with `u ~ N(0, I)` for each of the `samples` pairs,
/// `m ← μ·m + (1 − μ)·ĝ`, `x ← P(x + α·d(m))` with the steepest direction `d` of the norm.
///
/// | parameter | default | range | effect |
/// |---|---|---|---|
/// | [`steps`](Self::steps) | 100 | ≥ 1 | estimates of a run |
/// | [`samples`](Self::samples) | 25 | ≥ 1 | pairs of an estimate: 50 queries, as in the paper |
/// | [`sigma`](Self::sigma) | 0.001 | > 0 | `σ`, as a share of the box |
/// | [`step_size`](Self::step_size) | `2.5 ε / steps` | > 0 | `α`, in the threat's norm |
/// | [`momentum`](Self::momentum) | 0.9 | in `[0, 1)` | `μ` |
/// | [`restarts`](Self::restarts) | 1 | ≥ 1 | runs; the first begins at `x₀`, others at random points of the ball |
/// | [`objective`](Self::objective) | cross-entropy | [`Objective`] | the loss |
///
/// Norms: `Linf`, `L2`. Searches: first, worst. A pair that happens to succeed inside ball and box counts.
///
/// Cost: `2 · samples · steps + 1` queries a run, no gradients.
///
/// Deviations: pairs are clamped to the box, which halves the estimate of elements at its bounds; momentum is that of the
/// authors' code; the paper's settings of fewer scores and of labels only are not here (for labels take
/// [`HopSkipJump`](super::HopSkipJump)).
///
/// A. Ilyas, L. Engstrom, A. Athalye, J. Lin, "Black-box adversarial attacks with limited queries and information", ICML 2018,
/// arXiv:1804.08598, algorithm 1 and section 2.
///
/// ```
/// use adversarial::{Attack, Goals, Nes, Norm, Recorded, Threat};
/// use burn::nn::LinearConfig;
/// use burn::tensor::{Device, Tensor};
///
/// let device = Device::flex();
/// let model = LinearConfig::new(4, 3).init(&device);
/// let classifier = Recorded::new(&model, [4], |model, x: Tensor<2>| model.forward(x))?;
/// let x = Tensor::<2>::full([2, 4], 0.5, &device);
/// let nes = Nes::new().steps(5).samples(8);
/// let attacked = nes.attack(&classifier, Threat::new(Norm::L2, 0.1)?, x, &Goals::untargeted(&[0, 1]))?;
/// assert!(attacked.queries() <= 2 * (2 * 5 * 8 + 2));
/// # Ok::<(), adversarial::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Nes {
    steps: usize,
    samples: usize,
    sigma: f64,
    step_size: Option<f64>,
    momentum: f64,
    restarts: usize,
    objective: Objective,
}

impl Default for Nes {
    fn default() -> Self {
        Self::new()
    }
}

impl Nes {
    /// 100 steps of 25 pairs.
    pub fn new() -> Self {
        let objective = Objective::CrossEntropy;
        Self { steps: 100, samples: 25, sigma: 0.001, step_size: None, momentum: 0.9, restarts: 1, objective }
    }

    /// Sets the number of steps.
    pub fn steps(self, steps: usize) -> Self {
        Self { steps, ..self }
    }

    /// Sets the number of pairs of an estimate.
    pub fn samples(self, samples: usize) -> Self {
        Self { samples, ..self }
    }

    /// Sets the deviation of the noise, as a share of the box.
    pub fn sigma(self, sigma: f64) -> Self {
        Self { sigma, ..self }
    }

    /// Sets the length of a step.
    pub fn step_size(self, step_size: f64) -> Self {
        Self { step_size: Some(step_size), ..self }
    }

    /// Sets how much of the last direction is kept.
    pub fn momentum(self, momentum: f64) -> Self {
        Self { momentum, ..self }
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

impl Attack for Nes {
    fn name(&self) -> String {
        format!("NES-{}", self.steps)
    }

    fn check(&self, setting: &Setting) -> Result<()> {
        check_fixed_ball(self, setting)?;
        at_least_one("steps", self.steps)?;
        at_least_one("samples", self.samples)?;
        at_least_one("restarts", self.restarts)?;
        positive("sigma", self.sigma)?;
        positive("step_size", self.step_size.unwrap_or(1.0))?;
        if !(self.momentum >= 0.0 && self.momentum < 1.0) {
            return Err(Error::Parameter { parameter: "momentum", value: self.momentum, bound: "in [0, 1)" });
        }
        self.objective.check(setting.classes, setting.targeted)
    }

    fn runs(&self, case: &Case) -> Vec<Run> {
        runs(case, self.restarts, 0)
    }

    fn walk(&self, case: Case, oracle: Oracle) -> Walk<'_> {
        Box::pin(async move {
            let (threat, n) = (case.threat(), case.x0().len());
            let loss = self.objective.loss(&case.goal(), case.run().target);
            let sigma = self.sigma * (threat.high() - threat.low());
            let step = self.step_size.unwrap_or(2.5 * threat.epsilon() / self.steps as f64);
            let mut random = case.random();
            let mut x = match case.run().restart {
                0 => case.x0().to_vec(),
                _ => uniform_in_ball(&case, &mut random),
            };
            let mut direction = vec![0.0f64; n];
            for _ in 0..self.steps {
                let noise = draw(&mut random, Distribution::Normal(0.0, 1.0), self.samples * n);
                let pairs = pairs(&case, &oracle, &x, &loss, sigma, &noise).await;
                direction.iter_mut().for_each(|m| *m *= self.momentum);
                let share = (1.0 - self.momentum) / (2.0 * sigma * self.samples as f64);
                for (u, difference) in noise.chunks(n).zip(&pairs.differences) {
                    direction.iter_mut().zip(u).for_each(|(m, u)| *m += share * difference * u);
                }
                let along: Vec<f32> = direction.iter().map(|m| *m as f32).collect();
                ascend(&case, &mut x, &along, step);
                case.project(&mut x);
            }
            oracle.value(&x, loss).await;
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attack::black_box_laws;
    use crate::threat::Norm;

    #[test]
    fn it_reaches_the_worst_loss_of_a_linear_model() {
        let nes = Nes::new().samples(100).objective(Objective::Margin);
        black_box_laws::reaches_the_worst_loss(&nes, &[Norm::Linf, Norm::L2], 1e-3);
    }

    #[test]
    fn outputs_are_inside_and_targets_are_reached() {
        black_box_laws::stays_inside(&Nes::new().steps(10), &[Norm::Linf, Norm::L2]);
        black_box_laws::reaches_targets(&Nes::new(), &[Norm::Linf, Norm::L2]);
    }

    #[test]
    fn it_needs_no_gradient() {
        black_box_laws::needs_no_gradient(&Nes::new().steps(20), Norm::L2);
    }

    #[test]
    fn what_it_cannot_do_is_named() {
        let ball = |attack: Nes| black_box_laws::refusal(&attack, Norm::Linf, crate::Search::First);
        assert!(ball(Nes::new().samples(0)).starts_with("samples = 0"));
        assert!(ball(Nes::new().sigma(-1.0)).starts_with("sigma = -1"));
        assert!(ball(Nes::new().momentum(1.0)).starts_with("momentum = 1"));
        assert!(ball(Nes::new().momentum(f64::NAN)).starts_with("momentum = NaN"));
        assert!(ball(Nes::new().step_size(f64::INFINITY)).starts_with("step_size = inf"));
        assert!(black_box_laws::refusal(&Nes::new(), Norm::L0, crate::Search::Worst).contains("the norm L0"));
        assert!(black_box_laws::refusal(&Nes::new(), Norm::L2, crate::Search::Nearest).contains("nearest"));
    }
}
