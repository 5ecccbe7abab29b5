//! HopSkipJump: boundary steps along a gradient direction estimated from decisions.

use burn::tensor::Distribution;

use super::check::{at_least_one, positive};
use super::geometry::{draw, sign};
use super::start::{Starts, begin, check_decisions};
use super::{Attack, Setting, Walk};
use crate::engine::{Case, Oracle};
use crate::error::{Error, Result};
use crate::threat::Norm;

/// The coarsest end of a binary search, as a share of the distance.
const COARSEST: f64 = 1e-4;
/// How often a step is halved before it is given up.
const HALVINGS: usize = 40;

/// HopSkipJump: the nearest success for a model that gives nothing but its decision, in tens of steps.
///
/// A step from the point `x` of the boundary at the distance `ρ = ‖x − x₀‖`:
///
/// 1. estimate the direction of the boundary's normal by `B_t` points, `v = mean (φ_b − φ̄)·u_b` with `φ_b = ±1` for whether
///    `x + δ_t u_b` reaches the goal and random unit vectors `u_b`;
/// 2. step by `ξ = ρ/√t` along `v/‖v‖₂` or `sign(v)`, halved until the goal is reached;
/// 3. go back to the boundary by binary search: along the segment to `x₀` for `L2`, by shrinking the cube around `x₀` for `Linf`.
///
/// | parameter | default | range | effect |
/// |---|---|---|---|
/// | [`steps`](Self::steps) | 50 | ≥ 1 | `T` |
/// | [`initial_queries`](Self::initial_queries) | 100 | ≥ 1 | `B₁`; `B_t = B₁·√t` |
/// | [`most_queries`](Self::most_queries) | 10 000 | ≥ `initial_queries` | the most of `B_t` |
/// | [`gamma`](Self::gamma) | 1 | > 0 | `θ = γ·d^{−3/2}` (`L2`) or `γ·d^{−2}` (`Linf`), where binary searches end, and `δ_t = √d·θ·ρ` or `d·θ·ρ` |
/// | [`starting_points`](Self::starting_points) | none | in the box | points to begin at, tried on every example; needed for targets |
/// | [`rounds`](Self::rounds) | 50 | ≥ 1 | random starts before giving up, four blends with noise each |
///
/// Norms: `L2`, `Linf`. Searches: nearest; first, which ends at the first point inside the ball.
///
/// Cost: about `B_t + log₂(1/θ) + 5` queries for step `t`, no gradients; 50 steps take some 25 000.
///
/// Deviations: starts are tried at four blends with noise, not along a whole segment; a binary search ends at
/// `min(θ, 10⁻⁴)`, as `θ` is coarse for inputs of few elements.
///
/// J. Chen, M. I. Jordan, M. J. Wainwright, "HopSkipJumpAttack: a query-efficient decision-based attack", IEEE S&P 2020,
/// arXiv:1904.02144, algorithm 2.
///
/// ```
/// use adversarial::{Attack, Goals, HopSkipJump, Norm, Recorded, Threat};
/// use burn::nn::LinearConfig;
/// use burn::tensor::{Device, Tensor};
///
/// let device = Device::flex();
/// let model = LinearConfig::new(4, 3).init(&device);
/// let classifier = Recorded::new(&model, [4], |model, x: Tensor<2>| model.forward(x))?;
/// let x = Tensor::<2>::full([2, 4], 0.5, &device);
/// let attack = HopSkipJump::new().steps(5);
/// let attacked = attack.nearest(&classifier, Threat::new(Norm::L2, 1.0)?, x, &Goals::untargeted(&[0, 1]))?;
/// assert_eq!(attacked.gradients(), 0);
/// # Ok::<(), adversarial::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct HopSkipJump {
    steps: usize,
    initial_queries: usize,
    most_queries: usize,
    gamma: f64,
    starts: Starts,
    rounds: usize,
}

impl Default for HopSkipJump {
    fn default() -> Self {
        Self::new()
    }
}

impl HopSkipJump {
    /// The paper's settings, 50 steps.
    pub fn new() -> Self {
        Self {
            steps: 50,
            initial_queries: 100,
            most_queries: 10_000,
            gamma: 1.0,
            starts: Starts::default(),
            rounds: 50,
        }
    }

    /// Sets the number of steps.
    pub fn steps(self, steps: usize) -> Self {
        Self { steps, ..self }
    }

    /// Sets the queries of the first estimate.
    pub fn initial_queries(self, initial_queries: usize) -> Self {
        Self { initial_queries, ..self }
    }

    /// Sets the most queries of an estimate.
    pub fn most_queries(self, most_queries: usize) -> Self {
        Self { most_queries, ..self }
    }

    /// Sets `γ`.
    pub fn gamma(self, gamma: f64) -> Self {
        Self { gamma, ..self }
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

impl Attack for HopSkipJump {
    fn name(&self) -> String {
        format!("HopSkipJump-{}", self.steps)
    }

    fn check(&self, setting: &Setting) -> Result<()> {
        if !matches!(setting.norm, Norm::Linf | Norm::L2) {
            let what = format!("the norm {:?}", setting.norm);
            return Err(Error::Unsupported { attack: self.name(), what, supported: "Linf and L2" });
        }
        at_least_one("steps", self.steps)?;
        at_least_one("initial_queries", self.initial_queries)?;
        at_least_one("rounds", self.rounds)?;
        positive("gamma", self.gamma)?;
        if self.most_queries < self.initial_queries {
            let (parameter, value) = ("most_queries", self.most_queries as f64);
            return Err(Error::Parameter { parameter, value, bound: "at least `initial_queries`" });
        }
        check_decisions(self, setting, &self.starts)
    }

    fn walk(&self, case: Case, oracle: Oracle) -> Walk<'_> {
        Box::pin(async move {
            let (norm, d) = (case.threat().norm(), case.x0().len() as f64);
            let side = case.threat().high() - case.threat().low();
            let (theta, widen) = match norm {
                Norm::Linf => (self.gamma / (d * d), d),
                _ => (self.gamma / (d * d.sqrt()), d.sqrt()),
            };
            let mut random = case.random();
            let Some(start) = begin(&case, &oracle, &self.starts, self.rounds, &mut random).await else {
                return;
            };
            let mut x = to_boundary(&case, &oracle, start, theta.min(COARSEST)).await;
            for t in 1..=self.steps {
                let distance = case.distance(&x);
                let delta = if t == 1 { 0.1 * side } else { widen * theta * distance };
                let count = (self.initial_queries as f64 * (t as f64).sqrt()) as usize;
                let noise = match norm {
                    Norm::Linf => Distribution::Uniform(-1.0, 1.0),
                    _ => Distribution::Normal(0.0, 1.0),
                };
                let noise = draw(&mut random, noise, count.min(self.most_queries) * x.len());
                let direction = estimate(&case, &oracle, &x, delta, &noise).await;
                let mut step = distance / (t as f64).sqrt();
                for _ in 0..HALVINGS {
                    let mut y: Vec<f32> =
                        x.iter().zip(&direction).map(|(x, v)| (f64::from(*x) + step * v) as f32).collect();
                    case.clamp(&mut y);
                    if oracle.logits(&y).await.reached {
                        x = to_boundary(&case, &oracle, y, theta.min(COARSEST)).await;
                        break;
                    }
                    step *= 0.5;
                }
            }
        })
    }
}

/// The direction away from the boundary into the goal, of length 1 in `L2` or of signs for `Linf`.
async fn estimate(case: &Case, oracle: &Oracle, x: &[f32], delta: f64, noise: &[f64]) -> Vec<f64> {
    let n = x.len();
    let mut points = Vec::with_capacity(noise.len());
    for u in noise.chunks(n) {
        let scale = delta / Norm::L2.of(u.iter().copied());
        let mut point: Vec<f32> = x.iter().zip(u).map(|(x, u)| (f64::from(*x) + scale * u) as f32).collect();
        case.clamp(&mut point);
        points.extend(point);
    }
    let answers = oracle.many_logits(points.clone()).await;
    let phi: Vec<f64> = answers.iter().map(|answer| if answer.reached { 1.0 } else { -1.0 }).collect();
    let mean = phi.iter().sum::<f64>() / phi.len() as f64;
    // Where all agree, there is no contrast to take out.
    let baseline = if mean.abs() == 1.0 { 0.0 } else { mean };
    let mut direction = vec![0.0f64; n];
    for (point, phi) in points.chunks(n).zip(&phi) {
        let moved = point.iter().zip(x).map(|(y, x)| f64::from(*y) - f64::from(*x));
        direction.iter_mut().zip(moved).for_each(|(v, u)| *v += (phi - baseline) * u);
    }
    match case.threat().norm() {
        Norm::Linf => direction.iter().map(|v| f64::from(sign(*v as f32))).collect(),
        _ => {
            let length = Norm::L2.of(direction.iter().copied());
            direction.iter().map(|v| if length > 0.0 { v / length } else { 0.0 }).collect()
        }
    }
}

/// The point between `x₀` and a success, still a success, that is at the boundary up to a share of the distance.
pub(crate) async fn to_boundary(case: &Case, oracle: &Oracle, success: Vec<f32>, tolerance: f64) -> Vec<f32> {
    let distance = case.distance(&success);
    let (mut low, mut high, mut best) = (0.0, 1.0, success.clone());
    while high - low > tolerance * high {
        let share = 0.5 * (low + high);
        let between = |(y, x0): (&f32, &f32)| {
            let (x0, delta) = (f64::from(*x0), f64::from(*y) - f64::from(*x0));
            let kept = match case.threat().norm() {
                Norm::Linf => delta.clamp(-share * distance, share * distance),
                _ => share * delta,
            };
            (x0 + kept) as f32
        };
        let mut point: Vec<f32> = success.iter().zip(case.x0()).map(between).collect();
        case.clamp(&mut point);
        if point == best || point == case.x0() {
            break;
        }
        match oracle.logits(&point).await.reached {
            true => (high, best) = (share, point),
            false => low = share,
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attack::black_box_laws;
    use crate::engine::Search;

    #[test]
    fn it_reaches_the_minimum_distance_of_a_linear_model() {
        black_box_laws::reaches_the_minimum_distance(&HopSkipJump::new(), &[Norm::L2, Norm::Linf], 1e-3);
    }

    #[test]
    fn outputs_are_inside() {
        black_box_laws::stays_inside(&HopSkipJump::new().steps(8), &[Norm::L2, Norm::Linf]);
    }

    #[test]
    fn decisions_suffice() {
        black_box_laws::needs_no_gradient(&HopSkipJump::new().steps(10), Norm::L2);
    }

    #[test]
    fn targets_are_reached_from_starting_points() {
        // Every corner that is farthest for one class, by its weights.
        let corners = (0..256u32).map(|bits| (0..8).map(|i| (bits >> i & 1) as f32).collect()).collect();
        let attack = HopSkipJump::new().steps(10).starting_points(corners);
        for norm in [Norm::L2, Norm::Linf] {
            let attacked = black_box_laws::targeted(&attack, norm, Search::Nearest, 0.0);
            assert_eq!(attacked.standing(), 0);
            assert!(attacked.outcomes.iter().all(|outcome| outcome.distance < norm.of([0.6; 8])));
        }
    }

    #[test]
    fn what_it_cannot_do_is_named() {
        let message = |attack: HopSkipJump| black_box_laws::refusal(&attack, Norm::L2, Search::Nearest);
        assert!(message(HopSkipJump::new().steps(0)).starts_with("steps = 0"));
        assert!(message(HopSkipJump::new().initial_queries(0)).starts_with("initial_queries = 0"));
        assert!(message(HopSkipJump::new().most_queries(99)).starts_with("most_queries = 99"));
        assert!(message(HopSkipJump::new().gamma(f64::NAN)).starts_with("gamma = NaN"));
        assert!(
            message(HopSkipJump::new().starting_points(vec![vec![0.0; 3]]))
                .starts_with("a starting point has shape [3]")
        );
        assert!(black_box_laws::refusal(&HopSkipJump::new(), Norm::L1, Search::Nearest).contains("the norm L1"));
        assert!(black_box_laws::refusal(&HopSkipJump::new(), Norm::L2, Search::Worst).contains("worst"));
        let setting = Setting { norm: Norm::L2, search: Search::First, classes: 3, shape: vec![4], targeted: true };
        assert!(HopSkipJump::new().check(&setting).unwrap_err().to_string().contains("starting point"));
    }
}
