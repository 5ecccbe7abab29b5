//! Simultaneous perturbation stochastic approximation.

use burn::tensor::Distribution;

use super::check::{at_least_one, positive};
use super::estimate::{check_fixed_ball, pairs};
use super::geometry::{ascend, draw, uniform_in_ball};
use super::runs::runs;
use super::{Attack, Setting, Walk};
use crate::engine::{Case, Oracle, Run};
use crate::error::Result;
use crate::loss::Objective;
use crate::threat::Norm;

const BETA_1: f64 = 0.9;
const BETA_2: f64 = 0.999;
const TINY: f64 = 1e-8;

/// SPSA: projected ascent along a gradient estimated from values of the loss alone. Take it where gradients are missing, or to
/// find out whether they are masked: where it breaks what [`Pgd`](super::Pgd) does not, they are.
///
/// With `v ∈ {−1, 1}ⁿ` drawn anew for each of the `samples` pairs,
/// `ĝ = mean (L(x + δv) − L(x − δv)) / (2δ) · v⁻¹`, and `x ← P(x + Adam(ĝ))`.
///
/// | parameter | default | range | effect |
/// |---|---|---|---|
/// | [`steps`](Self::steps) | 100 | ≥ 1 | estimates of a run |
/// | [`samples`](Self::samples) | 64 | ≥ 1 | pairs of an estimate; the paper takes 1024 and more for strong evaluations |
/// | [`radius`](Self::radius) | 0.01 | > 0 | `δ`, as a share of the box |
/// | [`learning_rate`](Self::learning_rate) | `2.5 ε / steps` | > 0 | length of a step: Adam's rate for `Linf`, the step's norm for `L2` |
/// | [`restarts`](Self::restarts) | 1 | ≥ 1 | runs; the first begins at `x₀`, others at random points of the ball |
/// | [`objective`](Self::objective) | margin | [`Objective`] | the loss |
///
/// Norms: `Linf`, `L2`. Searches: first, worst. A pair that happens to succeed inside ball and box counts.
///
/// Cost: `2 · samples · steps + 1` queries a run, no gradients.
///
/// Deviations: pairs are clamped to the box, so that the model sees nothing that is no input, and differences are taken over
/// what is left of them; in `L2` a step follows the first moment alone, as Adam's scaling would turn it away from the steepest
/// direction.
///
/// J. Uesato, B. O'Donoghue, A. van den Oord, P. Kohli, "Adversarial risk and the dangers of evaluating against weak attacks",
/// ICML 2018, arXiv:1802.05666, algorithm 1.
///
/// ```
/// use adversarial::{Attack, Goals, Norm, Recorded, Spsa, Threat};
/// use burn::nn::LinearConfig;
/// use burn::tensor::{Device, Tensor};
///
/// let device = Device::flex();
/// let model = LinearConfig::new(4, 3).init(&device);
/// let classifier = Recorded::new(&model, [4], |model, x: Tensor<2>| model.forward(x))?;
/// let x = Tensor::<2>::full([2, 4], 0.5, &device);
/// let spsa = Spsa::new().steps(5).samples(8);
/// let attacked = spsa.attack(&classifier, Threat::new(Norm::Linf, 0.1)?, x, &Goals::untargeted(&[0, 1]))?;
/// assert_eq!(attacked.gradients(), 0);
/// # Ok::<(), adversarial::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spsa {
    steps: usize,
    samples: usize,
    radius: f64,
    learning_rate: Option<f64>,
    restarts: usize,
    objective: Objective,
}

impl Default for Spsa {
    fn default() -> Self {
        Self::new()
    }
}

impl Spsa {
    /// 100 steps of 64 pairs.
    pub fn new() -> Self {
        let objective = Objective::Margin;
        Self { steps: 100, samples: 64, radius: 0.01, learning_rate: None, restarts: 1, objective }
    }

    /// Sets the number of steps.
    pub fn steps(self, steps: usize) -> Self {
        Self { steps, ..self }
    }

    /// Sets the number of pairs of an estimate.
    pub fn samples(self, samples: usize) -> Self {
        Self { samples, ..self }
    }

    /// Sets how far pairs are from the point, as a share of the box.
    pub fn radius(self, radius: f64) -> Self {
        Self { radius, ..self }
    }

    /// Sets the length of a step.
    pub fn learning_rate(self, learning_rate: f64) -> Self {
        Self { learning_rate: Some(learning_rate), ..self }
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

impl Attack for Spsa {
    fn name(&self) -> String {
        format!("SPSA-{}", self.steps)
    }

    fn check(&self, setting: &Setting) -> Result<()> {
        check_fixed_ball(self, setting)?;
        at_least_one("steps", self.steps)?;
        at_least_one("samples", self.samples)?;
        at_least_one("restarts", self.restarts)?;
        positive("radius", self.radius)?;
        positive("learning_rate", self.learning_rate.unwrap_or(1.0))?;
        self.objective.check(setting.classes, setting.targeted)
    }

    fn runs(&self, case: &Case) -> Vec<Run> {
        runs(case, self.restarts, 0)
    }

    fn walk(&self, case: Case, oracle: Oracle) -> Walk<'_> {
        Box::pin(async move {
            let (threat, n) = (case.threat(), case.x0().len());
            let loss = self.objective.loss(&case.goal(), case.run().target);
            let radius = self.radius * (threat.high() - threat.low());
            let rate = self.learning_rate.unwrap_or(2.5 * threat.epsilon() / self.steps as f64);
            let mut random = case.random();
            let mut x = match case.run().restart {
                0 => case.x0().to_vec(),
                _ => uniform_in_ball(&case, &mut random),
            };
            let (mut first, mut second) = (vec![0.0f64; n], vec![0.0f64; n]);
            for step in 1..=self.steps {
                let bits = draw(&mut random, Distribution::Bernoulli(0.5), self.samples * n);
                let directions: Vec<f64> = bits.into_iter().map(|bit| 2.0 * bit - 1.0).collect();
                let pairs = pairs(&case, &oracle, &x, &loss, radius, &directions).await;
                let mut estimate = vec![0.0f64; n];
                for (moved, difference) in pairs.moved.chunks(n).zip(&pairs.differences) {
                    for (g, moved) in estimate.iter_mut().zip(moved).filter(|(_, moved)| **moved != 0.0) {
                        *g += difference / f64::from(*moved) / self.samples as f64;
                    }
                }
                for ((m, v), g) in first.iter_mut().zip(&mut second).zip(&estimate) {
                    *m = BETA_1 * *m + (1.0 - BETA_1) * g;
                    *v = BETA_2 * *v + (1.0 - BETA_2) * g * g;
                }
                match threat.norm() {
                    Norm::L2 => {
                        let direction: Vec<f32> = first.iter().map(|m| *m as f32).collect();
                        ascend(&case, &mut x, &direction, rate);
                    }
                    _ => {
                        let [c1, c2] = [BETA_1, BETA_2].map(|beta: f64| 1.0 - beta.powi(step as i32));
                        for ((x, m), v) in x.iter_mut().zip(&first).zip(&second) {
                            *x = (f64::from(*x) + rate * (m / c1) / ((v / c2).sqrt() + TINY)) as f32;
                        }
                    }
                }
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

    #[test]
    fn it_reaches_the_worst_loss_of_a_linear_model() {
        let spsa = Spsa::new().samples(128);
        black_box_laws::reaches_the_worst_loss(&spsa, &[Norm::Linf, Norm::L2], 1e-3);
    }

    #[test]
    fn outputs_are_inside_and_targets_are_reached() {
        black_box_laws::stays_inside(&Spsa::new().steps(10).samples(16), &[Norm::Linf, Norm::L2]);
        black_box_laws::reaches_targets(&Spsa::new(), &[Norm::Linf, Norm::L2]);
    }

    #[test]
    fn it_needs_no_gradient() {
        black_box_laws::needs_no_gradient(&Spsa::new().steps(20).samples(16), Norm::Linf);
    }

    #[test]
    fn what_it_cannot_do_is_named() {
        let ball = |attack: Spsa| black_box_laws::refusal(&attack, Norm::Linf, crate::Search::First);
        assert!(ball(Spsa::new().samples(0)).starts_with("samples = 0"));
        assert!(ball(Spsa::new().steps(0)).starts_with("steps = 0"));
        assert!(ball(Spsa::new().radius(f64::NAN)).starts_with("radius = NaN"));
        assert!(ball(Spsa::new().learning_rate(0.0)).starts_with("learning_rate = 0"));
        assert!(black_box_laws::refusal(&Spsa::new(), Norm::L1, crate::Search::First).contains("the norm L1"));
        assert!(black_box_laws::refusal(&Spsa::new(), Norm::L2, crate::Search::Nearest).contains("nearest"));
    }
}
