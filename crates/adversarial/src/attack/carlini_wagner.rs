//! Carlini and Wagner's attacks.

use super::check::{at_least_one, positive};
use super::minimum::{Constant, Nearest, Patience, check_minimum, widest};
use super::{Attack, Setting, Walk};
use crate::adam::Adam;
use crate::engine::{Case, Oracle};
use crate::error::Result;
use crate::loss::Objective;
use crate::threat::Norm;

/// C&W: minimises the size of the perturbation and a hinge of the margin together, with the constant between them looked for by
/// bisection. Slow and dependable; [`Ddn`](crate::Ddn) and [`Fmn`](crate::Fmn) come as near for fewer gradients.
///
/// With the margin `m` of the goal and its confidence `κ`, by Adam from `x₀`,
///
/// | norm | minimised | and then |
/// |---|---|---|
/// | `L2` | `‖δ‖₂² + c·max(κ − m(x₀ + δ), 0)` | `c` larger after a failure, smaller after a success |
/// | `Linf` | `Σ max(|δᵢ| − τ, 0) + c·max(κ − m(x₀ + δ), 0)` | `τ` to 0.9 of the success's `max|δᵢ|`, from which it goes on; `c` doubled after a failure |
///
/// | parameter | default | range | effect |
/// |---|---|---|---|
/// | [`steps`](Self::steps) | 300 | ≥ 1 | gradients of a minimisation |
/// | [`searches`](Self::searches) | 9 | ≥ 1 | minimisations: constants tried (`L2`); for `Linf` four times as many at most |
/// | [`rate`](Self::rate) | 0.01 of the box's side | > 0 | Adam's learning rate; to be small beside the distances looked for |
/// | [`constant`](Self::constant) | 1 | > 0 | first `c` |
/// | [`bisections`](Self::bisections) | 12 | | queries at the end on the segment from `x₀` to the nearest success |
///
/// A minimisation ends early when a tenth of its steps has not lowered the objective by a ten-thousandth.
///
/// Guarantees: on linear models the distance is within 1 % (`L2`) and 5 % (`Linf`, a tenth of the rate) of the smallest there is (`the_slow_attacks_come_near_the_smallest_distance`); every pixel can
/// move, those at 0 and 1 too (`pixels_at_the_bounds_move`).
///
/// Cost: at most `steps · searches` gradients.
///
/// Errors: [`Error::Unsupported`](crate::Error::Unsupported) for `L1` and `L0` and for [`Search::Worst`](crate::Search::Worst),
/// [`Error::Parameter`](crate::Error::Parameter).
///
/// N. Carlini, D. Wagner, "Towards evaluating the robustness of neural networks", S&P 2017, arXiv:1608.04644, sections VI.A and VI.C. The box is
/// kept by projecting each step, the first of the paper's three ways: its change of variables by tanh does not let pixels move that begin at a bound.
///
/// ```
/// use adversarial::{Attack, CarliniWagner, Goals, Norm, Recorded, Threat};
/// use burn::nn::LinearConfig;
/// use burn::tensor::{Device, Tensor};
///
/// let device = Device::flex();
/// let model = LinearConfig::new(4, 3).init(&device);
/// let classifier = Recorded::new(&model, [4], |model, x: Tensor<2>| model.forward(x))?;
/// let x = Tensor::<2>::full([2, 4], 0.5, &device);
/// let attack = CarliniWagner::new().steps(50).searches(3);
/// let attacked = attack.nearest(&classifier, Threat::new(Norm::L2, 1.0)?, x, &Goals::untargeted(&[0, 1]))?;
/// assert!(attacked.gradients() <= 2 * 3 * 50);
/// # Ok::<(), adversarial::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CarliniWagner {
    steps: usize,
    searches: usize,
    rate: f64,
    constant: f64,
    bisections: usize,
}

impl Default for CarliniWagner {
    fn default() -> Self {
        Self::new()
    }
}

impl CarliniWagner {
    /// Nine searches of 300 steps.
    pub fn new() -> Self {
        Self { steps: 300, searches: 9, rate: 0.01, constant: 1.0, bisections: 12 }
    }

    /// Sets the steps of a minimisation.
    pub fn steps(self, steps: usize) -> Self {
        Self { steps, ..self }
    }

    /// Sets the number of minimisations.
    pub fn searches(self, searches: usize) -> Self {
        Self { searches, ..self }
    }

    /// Sets Adam's learning rate, as a share of the box's side.
    pub fn rate(self, rate: f64) -> Self {
        Self { rate, ..self }
    }

    /// Sets the first constant.
    pub fn constant(self, constant: f64) -> Self {
        Self { constant, ..self }
    }

    /// Sets the number of queries on the last segment.
    pub fn bisections(self, bisections: usize) -> Self {
        Self { bisections, ..self }
    }

    /// One minimisation from `x`; the nearest success of it, if there was one.
    async fn minimise(
        &self,
        case: &Case,
        oracle: &Oracle,
        start: &[f32],
        constant: f64,
        tau: Option<f64>,
        nearest: &mut Nearest,
    ) -> Nearest {
        let loss = Objective::Margin.loss(&case.goal(), case.run().target);
        let kappa = f64::from(case.goal().margin_needed());
        let rate = self.rate * (case.threat().high() - case.threat().low());
        let mut x = start.to_vec();
        let mut adam = Adam::new(rate, x.len());
        let (mut patience, mut found) = (Patience::new(self.steps), Nearest::default());
        for step in 0..self.steps {
            let answer = oracle.gradient(&x, loss.clone()).await;
            if answer.reached {
                nearest.offer(case, &x);
                found.offer(case, &x);
            }
            let hinge = (kappa - answer.loss).max(0.0);
            let mut size = 0.0;
            let mut slope = vec![0.0; x.len()];
            for (i, (x, x0)) in x.iter().zip(case.x0()).enumerate() {
                let delta = f64::from(*x) - f64::from(*x0);
                match tau {
                    None => (size, slope[i]) = (size + delta * delta, 2.0 * delta),
                    Some(tau) if delta.abs() > tau => (size, slope[i]) = (size + delta.abs() - tau, delta.signum()),
                    Some(_) => {}
                }
                if hinge > 0.0 || answer.loss == kappa {
                    slope[i] -= constant * f64::from(answer.gradient[i]);
                }
            }
            if tau.is_some_and(|tau| found.distance() <= tau) || patience.is_over(step, size + constant * hinge) {
                break;
            }
            adam.descend(&mut x, &slope);
            case.clamp(&mut x);
        }
        found
    }
}

impl Attack for CarliniWagner {
    fn name(&self) -> String {
        "C&W".into()
    }

    fn check(&self, setting: &Setting) -> Result<()> {
        at_least_one("steps", self.steps)?;
        at_least_one("searches", self.searches)?;
        positive("rate", self.rate)?;
        positive("constant", self.constant)?;
        check_minimum(self.name(), setting, &[Norm::L2, Norm::Linf], "L2 and Linf, the first or the nearest success")
    }

    fn walk(&self, case: Case, oracle: Oracle) -> Walk<'_> {
        Box::pin(async move {
            let mut nearest = Nearest::default();
            if case.threat().norm() == Norm::L2 {
                let mut constant = Constant::new(self.constant);
                for _ in 0..self.searches {
                    let found = self.minimise(&case, &oracle, case.x0(), constant.value, None, &mut nearest).await;
                    constant.update(found.distance().is_finite());
                }
            } else {
                let (mut constant, mut tau) = (self.constant, widest(&case));
                let mut start = case.x0().to_vec();
                for _ in 0..4 * self.searches {
                    let found = self.minimise(&case, &oracle, &start, constant, Some(tau), &mut nearest).await;
                    match found.point() {
                        Some(point) if found.distance() <= tau => {
                            start = point.to_vec();
                            tau = 0.9 * found.distance();
                        }
                        _ => constant *= 2.0,
                    }
                }
            }
            nearest.bisect(&case, &oracle, self.bisections).await;
        })
    }
}
