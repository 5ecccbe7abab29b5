//! The boundary attack.

use burn::tensor::Distribution;

use super::check::{at_least_one, positive};
use super::geometry::draw;
use super::start::{Starts, begin, check_decisions};
use super::{Attack, Setting, Walk};
use crate::engine::{Case, Oracle};
use crate::error::{Error, Result};
use crate::threat::Norm;

/// Steps whose successes are counted before a step's length changes.
const WINDOW: usize = 20;
/// By how much it changes.
const FACTOR: f64 = 1.5;
/// A step toward the example of less than this share of the distance is no progress.
const SMALLEST: f64 = 1e-7;

/// The boundary attack: a random walk along the boundary toward the example that sees decisions only. It is the first of its
/// kind and needs more queries than [`HopSkipJump`](super::HopSkipJump), but takes nothing for granted about the boundary.
///
/// From a point `x` that reaches the goal, at the distance `ρ = ‖x − x₀‖₂`:
///
/// 1. a random step of length `δρ` on the sphere around `x₀`: `s = x₀ + ρ·(x − x₀ + η)/‖x − x₀ + η‖₂`, `η ⟂ x − x₀`;
/// 2. from there toward the example: `y = x₀ + (1 − ε)·(s − x₀)`; if `y` reaches the goal, `x ← y`.
///
/// `δ` and `ε` grow by half when more than half of the steps 1 succeed and shrink when fewer than a fifth do; so does `ε` for
/// more than a quarter and less than a tenth of the steps 2 after a good step 1, each over 20 steps.
///
/// | parameter | default | range | effect |
/// |---|---|---|---|
/// | [`steps`](Self::steps) | 5000 | ≥ 1 | the most |
/// | [`spherical_step`](Self::spherical_step) | 0.1 | > 0 | `δ` to begin with |
/// | [`source_step`](Self::source_step) | 0.1 | in `(0, 1)` | `ε` to begin with |
/// | [`starting_points`](Self::starting_points) | none | in the box | points to begin at, tried on every example; needed for targets |
/// | [`rounds`](Self::rounds) | 50 | ≥ 1 | random starts before giving up, four blends with noise each |
///
/// Norm: `L2`. Searches: nearest; first, which ends at the first point inside the ball.
///
/// Cost: two queries a step, asked together, no gradients. It ends early once `ε < 10⁻⁷`.
///
/// Deviations: the start is brought to the boundary by a binary search; both points of a step are asked about at once.
///
/// W. Brendel, J. Rauber, M. Bethge, "Decision-based adversarial attacks: reliable attacks against black-box machine learning
/// models", ICLR 2018, arXiv:1712.04248, algorithm 1.
///
/// ```
/// use adversarial::{Attack, BoundaryAttack, Goals, Norm, Recorded, Threat};
/// use burn::nn::LinearConfig;
/// use burn::tensor::{Device, Tensor};
///
/// let device = Device::flex();
/// let model = LinearConfig::new(4, 3).init(&device);
/// let classifier = Recorded::new(&model, [4], |model, x: Tensor<2>| model.forward(x))?;
/// let x = Tensor::<2>::full([2, 4], 0.5, &device);
/// let attack = BoundaryAttack::new().steps(50);
/// let attacked = attack.nearest(&classifier, Threat::new(Norm::L2, 1.0)?, x, &Goals::untargeted(&[0, 1]))?;
/// assert_eq!(attacked.gradients(), 0);
/// # Ok::<(), adversarial::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct BoundaryAttack {
    steps: usize,
    spherical_step: f64,
    source_step: f64,
    starts: Starts,
    rounds: usize,
}

impl Default for BoundaryAttack {
    fn default() -> Self {
        Self::new()
    }
}

impl BoundaryAttack {
    /// 5000 steps.
    pub fn new() -> Self {
        Self { steps: 5000, spherical_step: 0.1, source_step: 0.1, starts: Starts::default(), rounds: 50 }
    }

    /// Sets the most steps.
    pub fn steps(self, steps: usize) -> Self {
        Self { steps, ..self }
    }

    /// Sets the first length of steps on the sphere, as a share of the distance.
    pub fn spherical_step(self, spherical_step: f64) -> Self {
        Self { spherical_step, ..self }
    }

    /// Sets the first length of steps toward the example, as a share of the distance.
    pub fn source_step(self, source_step: f64) -> Self {
        Self { source_step, ..self }
    }

    /// Sets points to begin at, each an example's elements in row-major order: for targets, inputs of those classes.
    pub fn starting_points(self, points: Vec<Vec<f32>>) -> Self {
        Self { starts: points.into(), ..self }
    }

    /// Sets how many random starts are tried.
    pub fn rounds(self, rounds: usize) -> Self {
        Self { rounds, ..self }
    }
}

impl Attack for BoundaryAttack {
    fn name(&self) -> String {
        format!("Boundary-{}", self.steps)
    }

    fn check(&self, setting: &Setting) -> Result<()> {
        if setting.norm != Norm::L2 {
            let what = format!("the norm {:?}", setting.norm);
            return Err(Error::Unsupported { attack: self.name(), what, supported: "L2" });
        }
        at_least_one("steps", self.steps)?;
        at_least_one("rounds", self.rounds)?;
        positive("spherical_step", self.spherical_step)?;
        if !(self.source_step > 0.0 && self.source_step < 1.0) {
            return Err(Error::Parameter { parameter: "source_step", value: self.source_step, bound: "in (0, 1)" });
        }
        check_decisions(self, setting, &self.starts)
    }

    fn walk(&self, case: Case, oracle: Oracle) -> Walk<'_> {
        Box::pin(async move {
            let n = case.x0().len();
            let mut random = case.random();
            let Some(start) = begin(&case, &oracle, &self.starts, self.rounds, &mut random).await else {
                return;
            };
            let mut x = super::hop_skip_jump::to_boundary(&case, &oracle, start, 0.01).await;
            let (mut spherical, mut source) = (self.spherical_step, self.source_step);
            let (mut on_sphere, mut toward) = (Rate::default(), Rate::default());
            for _ in 0..self.steps {
                let noise = draw(&mut random, Distribution::Normal(0.0, 1.0), n);
                let sphere = on_the_sphere(case.x0(), &x, &noise, spherical);
                let mut nearer: Vec<f32> =
                    sphere.iter().zip(case.x0()).map(|(s, x0)| (f64::from(*x0) + (1.0 - source) * s) as f32).collect();
                let mut sphere: Vec<f32> =
                    sphere.iter().zip(case.x0()).map(|(s, x0)| (f64::from(*x0) + s) as f32).collect();
                case.clamp(&mut sphere);
                case.clamp(&mut nearer);
                sphere.extend_from_slice(&nearer);
                let reached: Vec<bool> = oracle.many_logits(sphere).await.iter().map(|answer| answer.reached).collect();
                let (first, second) = (reached[0], reached[1]);
                if second && case.distance(&nearer) < case.distance(&x) {
                    x = nearer;
                }
                match on_sphere.count(first) {
                    Some(rate) if rate > 0.5 => (spherical, source) = (spherical * FACTOR, source * FACTOR),
                    Some(rate) if rate < 0.2 => (spherical, source) = (spherical / FACTOR, source / FACTOR),
                    _ => {}
                }
                if first {
                    match toward.count(second) {
                        Some(rate) if rate > 0.25 => source *= FACTOR,
                        Some(rate) if rate < 0.1 => source /= FACTOR,
                        _ => {}
                    }
                }
                source = source.min(0.5);
                spherical = spherical.min(1.0);
                if source < SMALLEST {
                    return;
                }
            }
        })
    }
}

/// From `x₀` to the point that is as far as `x`, a random step of a share of that distance aside.
fn on_the_sphere(x0: &[f32], x: &[f32], noise: &[f64], share: f64) -> Vec<f64> {
    let from: Vec<f64> = x.iter().zip(x0).map(|(x, x0)| f64::from(*x) - f64::from(*x0)).collect();
    let distance = Norm::L2.of(from.iter().copied());
    let along = from.iter().zip(noise).map(|(f, u)| f * u).sum::<f64>() / (distance * distance);
    let aside: Vec<f64> = noise.iter().zip(&from).map(|(u, f)| u - along * f).collect();
    let scale = share * distance / Norm::L2.of(aside.iter().copied());
    let scale = if scale.is_finite() { scale } else { 0.0 };
    let moved: Vec<f64> = from.iter().zip(&aside).map(|(f, a)| f + scale * a).collect();
    let back = distance / Norm::L2.of(moved.iter().copied());
    moved.into_iter().map(|m| m * back).collect()
}

/// How many of the last steps succeeded.
#[derive(Default)]
struct Rate {
    tried: usize,
    succeeded: usize,
}

impl Rate {
    /// Counts a step; gives the rate when a window is full, and begins another.
    fn count(&mut self, success: bool) -> Option<f64> {
        self.tried += 1;
        self.succeeded += usize::from(success);
        if self.tried < WINDOW {
            return None;
        }
        let rate = self.succeeded as f64 / self.tried as f64;
        *self = Self::default();
        Some(rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attack::black_box_laws;
    use crate::engine::Search;

    #[test]
    fn it_reaches_the_minimum_distance_of_a_linear_model() {
        black_box_laws::reaches_the_minimum_distance(&BoundaryAttack::new(), &[Norm::L2], 1e-3);
    }

    #[test]
    fn outputs_are_inside_and_decisions_suffice() {
        black_box_laws::stays_inside(&BoundaryAttack::new().steps(200), &[Norm::L2]);
        black_box_laws::needs_no_gradient(&BoundaryAttack::new().steps(200), Norm::L2);
    }

    #[test]
    fn targets_are_reached_from_starting_points() {
        let corners = (0..256u32).map(|bits| (0..8).map(|i| (bits >> i & 1) as f32).collect()).collect();
        let attack = BoundaryAttack::new().steps(500).starting_points(corners);
        let attacked = black_box_laws::targeted(&attack, Norm::L2, Search::Nearest, 0.0);
        assert_eq!(attacked.standing(), 0);
        assert!(attacked.outcomes.iter().all(|outcome| outcome.distance < 1.0));
    }

    #[test]
    fn what_it_cannot_do_is_named() {
        let message = |attack: BoundaryAttack| black_box_laws::refusal(&attack, Norm::L2, Search::Nearest);
        assert!(message(BoundaryAttack::new().steps(0)).starts_with("steps = 0"));
        assert!(message(BoundaryAttack::new().spherical_step(0.0)).starts_with("spherical_step = 0"));
        assert!(message(BoundaryAttack::new().source_step(1.0)).starts_with("source_step = 1"));
        assert!(message(BoundaryAttack::new().source_step(f64::NAN)).starts_with("source_step = NaN"));
        assert!(black_box_laws::refusal(&BoundaryAttack::new(), Norm::Linf, Search::Nearest).contains("the norm Linf"));
        assert!(black_box_laws::refusal(&BoundaryAttack::new(), Norm::L2, Search::Worst).contains("worst"));
    }
}
