//! Fast adaptive boundary attack.

use super::check::{at_least_one, share};
use super::geometry::uniform_in_ball;
use super::minimum::{Nearest, check_minimum, narrow, wide};
use super::runs::runs;
use super::{Attack, Setting, Walk};
use crate::engine::{Case, Oracle, Run, Search};
use crate::error::{Error, Result};
use crate::loss::{Loss, descending};
use crate::threat::Norm;

/// FAB: projects onto the boundary of the linearised model, biased towards the unperturbed input. Small perturbations without a step size, and
/// indifferent to the scale of the logits.
///
/// With the hyperplane `π` where the nearest class of the linearised model takes over, `d₁ = proj(x^k) − x^k` and `d₂ = proj(x₀) − x₀` the
/// projections onto `π` and the box *together* (exact, in the norm), `α = min(‖d₁‖/(‖d₁‖ + ‖d₂‖), α_max)`,
///
/// ```text
/// x^{k+1} = clip((1 − α)(x^k + η·d₁) + α(x₀ + η·d₂))
/// ```
///
/// and after a success `x^{k+1}` goes back to `(1 − β)x₀ + β·x^{k+1}`.
///
/// | parameter | default | range | effect |
/// |---|---|---|---|
/// | [`steps`](Self::steps) | 100 | ≥ 1 | steps of a run |
/// | [`restarts`](Self::restarts) | 1 | ≥ 1 | runs; those after the first begin at random points within half the radius (of the box's, for the nearest success: at half the side) |
/// | [`targets`](Self::targets) | 0 | | runs that each cross the boundary with one class (FAB-T), those with the largest clean logits first |
/// | [`alpha`](Self::alpha) | 0.1 | 0 to 1 | `α_max` |
/// | [`eta`](Self::eta) | 1.05 | ≥ 1 | `η`, over the boundary |
/// | [`beta`](Self::beta) | 0.9 | 0 to 1 | `β` |
/// | [`bisections`](Self::bisections) | 12 | | queries at the end on the segment from `x₀` to the nearest success |
///
/// Guarantees: projections are exact (`projections_onto_hyperplane_and_box_are_optimal`); on a linear model the distance is the smallest there is
/// (`on_linear_models_the_distance_is_the_smallest`).
///
/// Cost: a gradient and a query a step with a target, for each class but one without; `bisections + 1` more queries; two sorts a step.
///
/// Errors: [`Error::Unsupported`] for `L0` and [`Search::Worst`], [`Error::Parameter`].
///
/// F. Croce, M. Hein, "Minimally distorted adversarial examples with a fast adaptive boundary attack", ICML 2020, arXiv:1907.02044,
/// algorithm 1; the targeted version is section 3.3 of arXiv:2003.01690. The search on the last segment is a bisection instead of three
/// interpolations. After a success the model is linearised at the success, whose logits and gradient come from one question, and not at the point
/// gone back to, which would take one question more in every step.
///
/// ```
/// use adversarial::{Attack, Fab, Goals, Norm, Recorded, Threat};
/// use burn::nn::LinearConfig;
/// use burn::tensor::{Device, Tensor};
///
/// let device = Device::flex();
/// let model = LinearConfig::new(4, 3).init(&device);
/// let classifier = Recorded::new(&model, [4], |model, x: Tensor<2>| model.forward(x))?;
/// let x = Tensor::<2>::full([2, 4], 0.5, &device);
/// let attacked = Fab::targeted(2).steps(20).nearest(&classifier, Threat::new(Norm::L2, 1.0)?, x, &Goals::untargeted(&[0, 1]))?;
/// assert!(attacked.gradients() <= 2 * 2 * 20);
/// # Ok::<(), adversarial::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fab {
    steps: usize,
    restarts: usize,
    targets: usize,
    alpha: f64,
    eta: f64,
    beta: f64,
    bisections: usize,
}

impl Default for Fab {
    fn default() -> Self {
        Self::new()
    }
}

impl Fab {
    /// FAB, 100 steps.
    pub fn new() -> Self {
        Self { steps: 100, restarts: 1, targets: 0, alpha: 0.1, eta: 1.05, beta: 0.9, bisections: 12 }
    }

    /// FAB-T for so many classes, 9 in the paper.
    pub fn targeted(targets: usize) -> Self {
        Self { targets, ..Self::new() }
    }

    /// Sets the number of steps.
    pub fn steps(self, steps: usize) -> Self {
        Self { steps, ..self }
    }

    /// Sets the number of runs for each target.
    pub fn restarts(self, restarts: usize) -> Self {
        Self { restarts, ..self }
    }

    /// Sets how many classes are headed for.
    pub fn targets(self, targets: usize) -> Self {
        Self { targets, ..self }
    }

    /// Sets the largest bias towards the unperturbed input.
    pub fn alpha(self, alpha: f64) -> Self {
        Self { alpha, ..self }
    }

    /// Sets how far over the boundary a step goes.
    pub fn eta(self, eta: f64) -> Self {
        Self { eta, ..self }
    }

    /// Sets how far a step goes back after a success.
    pub fn beta(self, beta: f64) -> Self {
        Self { beta, ..self }
    }

    /// Sets the number of queries on the last segment.
    pub fn bisections(self, bisections: usize) -> Self {
        Self { bisections, ..self }
    }

    fn boundaries(case: &Case) -> Vec<Loss> {
        let minus = case.goal().label();
        match (case.goal().target(), case.run().target) {
            (Some(target), _) => vec![Loss::MarginTo { target }],
            (None, Some(plus)) => vec![Loss::Difference { plus, minus }],
            (None, None) => {
                let others = descending(case.logits()).into_iter().filter(|class| *class != minus);
                others.map(|plus| Loss::Difference { plus, minus }).collect()
            }
        }
    }
}

impl Attack for Fab {
    fn name(&self) -> String {
        if self.targets > 0 { "FAB-T".into() } else { "FAB".into() }
    }

    fn check(&self, setting: &Setting) -> Result<()> {
        at_least_one("steps", self.steps)?;
        at_least_one("restarts", self.restarts)?;
        share("alpha", self.alpha)?;
        share("beta", self.beta)?;
        if !(self.eta >= 1.0 && self.eta.is_finite()) {
            return Err(Error::Parameter { parameter: "eta", value: self.eta, bound: "a finite number, at least 1" });
        }
        let norms = [Norm::Linf, Norm::L2, Norm::L1];
        check_minimum(self.name(), setting, &norms, "Linf, L2 and L1, the first or the nearest success")
    }

    fn runs(&self, case: &Case) -> Vec<Run> {
        runs(case, self.restarts, self.targets)
    }

    fn walk(&self, case: Case, oracle: Oracle) -> Walk<'_> {
        Box::pin(async move {
            let norm = case.threat().norm();
            let boundaries = Self::boundaries(&case);
            let confidence = f64::from(case.goal().margin_needed());
            let x0 = wide(case.x0());
            let bounds = (case.threat().low(), case.threat().high());
            let mut x = start(&case);
            let mut nearest = Nearest::default();
            for _ in 0..self.steps {
                let answers = oracle.gradients(x.repeat(boundaries.len()), boundaries.clone()).await;
                if answers[0].reached {
                    nearest.offer(&case, &x);
                    let back = |(x0, x): (&f64, &f32)| x0 + self.beta * (f64::from(*x) - x0);
                    x = narrow(&x0.iter().zip(&x).map(back).collect::<Vec<_>>());
                    case.clamp(&mut x);
                }
                // The boundaries are those linearised where they were asked for.
                let here = wide(&x);
                let planes = answers.iter().filter_map(|answer| {
                    let w = wide(&answer.gradient);
                    let slope = norm.dual()?.of(w.iter().copied());
                    let rise = confidence - answer.loss;
                    (slope > 0.0 && slope.is_finite()).then_some((rise.abs() / slope, rise, w))
                });
                // Without a slope there is nowhere to go; a success found before is still worth its bisection.
                let Some((_, rise, w)) = planes.min_by(|a, b| a.0.total_cmp(&b.0)) else { break };
                // After going back towards x₀ the plane is that much farther.
                let asked_at = match answers[0].reached {
                    true => here.iter().zip(&x0).map(|(x, x0)| x0 + (x - x0) / self.beta).collect(),
                    false => here.clone(),
                };
                let level = dot(&w, &asked_at) + rise;
                let [d1, d2] = [&here, &x0].map(|from| to_plane(norm, from, &w, level - dot(&w, from), bounds));
                let [near, far] = [&d1, &d2].map(|d| norm.of(d.iter().copied()).max(1e-8));
                let alpha = (near / (near + far)).min(self.alpha);
                let next: Vec<f64> = (0..x0.len())
                    .map(|i| (1.0 - alpha) * (here[i] + self.eta * d1[i]) + alpha * (x0[i] + self.eta * d2[i]))
                    .collect();
                x = narrow(&next);
                case.clamp(&mut x);
            }
            if oracle.logits(&x).await.reached {
                nearest.offer(&case, &x);
            }
            nearest.bisect(&case, &oracle, self.bisections).await;
        })
    }
}

/// `x₀`, or for restarts a random point around it.
fn start(case: &Case) -> Vec<f32> {
    if case.run().restart == 0 {
        return case.x0().to_vec();
    }
    let far = uniform_in_ball(case, &mut case.random());
    let halfway = match case.search() {
        // The ball is all of the box here.
        Search::Nearest => 0.25,
        _ => 0.5,
    };
    let at = |(x0, x): (&f32, &f32)| x0 + halfway * (x - x0);
    let mut x: Vec<f32> = case.x0().iter().zip(&far).map(at).collect();
    case.clamp(&mut x);
    x
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// The shortest `d` in the norm with `⟨w, d⟩ = rise` and `x + d` in the box; every element at its bound where the box does not reach that far.
///
/// With `r_i` the room in the direction of `sign(rise)·w_i`, magnitudes are `min(t, r_i)` for `Linf`, `min(t|w_i|, r_i)` for `L2`, and for
/// `L1` the room of the elements with the largest `|w_i|` until it is enough.
fn to_plane(norm: Norm, x: &[f64], w: &[f64], rise: f64, (low, high): (f64, f64)) -> Vec<f64> {
    let up = rise.signum();
    let slope: Vec<f64> = w.iter().map(|w| w.abs()).collect();
    let toward: Vec<f64> = w.iter().map(|w| if *w == 0.0 { 0.0 } else { up * w.signum() }).collect();
    let room: Vec<f64> =
        x.iter().zip(&toward).map(|(x, t)| (if *t > 0.0 { high - x } else { x - low }).max(0.0)).collect();
    let mut need = rise.abs();
    let mut size = vec![0.0; x.len()];
    let mut order: Vec<usize> = (0..x.len()).filter(|i| slope[*i] > 0.0).collect();
    if norm == Norm::L1 {
        order.sort_by(|i, j| slope[*j].total_cmp(&slope[*i]));
        for i in order {
            size[i] = room[i].min(need / slope[i]);
            need -= slope[i] * size[i];
            if need <= 0.0 {
                break;
            }
        }
    } else {
        // `t` at which an element meets its bound, and how fast the rise grows with `t` before.
        let (end, rate): (Vec<f64>, Vec<f64>) = match norm {
            Norm::Linf => (room.clone(), slope.clone()),
            _ => (room.iter().zip(&slope).map(|(r, s)| r / s).collect(), slope.iter().map(|s| s * s).collect()),
        };
        order.sort_by(|i, j| end[*i].total_cmp(&end[*j]));
        let mut free: f64 = order.iter().map(|i| rate[*i]).sum();
        let (mut t, mut reached) = (f64::INFINITY, 0.0);
        let mut last = 0.0;
        for i in &order {
            let next = reached + free * (end[*i] - last);
            if next >= need {
                t = last + (need - reached) / free;
                break;
            }
            (reached, last) = (next, end[*i]);
            free -= rate[*i];
        }
        for i in order {
            size[i] = match norm {
                Norm::Linf => t.min(room[i]),
                _ => (t * slope[i]).min(room[i]),
            };
        }
    }
    size.iter().zip(toward).map(|(size, toward)| size * toward).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::{Classifier, Goals, Pulled, Recorded, Threat};
    use burn::module::Param;
    use burn::nn::{Linear, LinearConfig};
    use burn::tensor::{Device, Tensor};
    use proptest::prelude::*;

    /// Has a gradient for so many calls, and none after them.
    struct Fading(Recorded<Linear, 2>, AtomicUsize);

    impl Classifier<2> for Fading {
        fn logits(&self, inputs: Tensor<2>) -> Result<Tensor<2>> {
            self.0.logits(inputs)
        }

        fn pullback(&self, inputs: Tensor<2>) -> Result<Pulled<'_, 2>> {
            let left = self.1.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
            match left {
                Ok(_) => self.0.pullback(inputs),
                Err(_) => {
                    let (logits, zeros) = (self.0.logits(inputs.clone())?, inputs.zeros_like());
                    Ok(Pulled { logits, back: Box::new(move |_| Ok(zeros)) })
                }
            }
        }

        fn device(&self) -> Device {
            self.0.device()
        }
    }

    #[test]
    fn a_success_is_bisected_where_the_gradient_ends() {
        let device = Device::flex();
        let mut model = LinearConfig::new(2, 2).init(&device);
        model.weight = Param::from_tensor(Tensor::from_data([[0.0, 0.6], [0.0, 0.8]], &device));
        model.bias = Some(Param::from_tensor(Tensor::from_data([0.0, -0.8], &device)));
        let classifier = Recorded::new(&model, [2], |model: &Linear, x| model.forward(x)).unwrap();
        let x = Tensor::<2>::full([1, 2], 0.5, &device);
        let threat = Threat::new(Norm::L2, 1.0).unwrap();
        let classifier = Fading(classifier, AtomicUsize::new(1));
        let found = Fab::new().nearest(&classifier, threat, x, &Goals::untargeted(&[0])).unwrap();
        // The first step goes 1.05 times as far as the boundary is.
        let distance = found.outcomes[0].distance;
        assert!((distance / 0.1 - 1.0).abs() < 1e-3, "{distance}");
        assert_eq!(found.outcomes[0].gradients, 2);
    }

    proptest! {
        /// No other point of plane and box is nearer: along every direction in the plane that stays in the box the norm does not fall.
        #[test]
        fn projections_onto_hyperplane_and_box_are_optimal(
            x in proptest::collection::vec(0f64..1.0, 2..6), seed in proptest::collection::vec(-1f64..1.0, 12), rise in -1f64..1.0,
        ) {
            let n = x.len();
            let w = &seed[..n];
            for norm in [Norm::Linf, Norm::L2, Norm::L1] {
                let d = to_plane(norm, &x, w, rise, (0.0, 1.0));
                let size = norm.of(d.iter().copied());
                prop_assert!(x.iter().zip(&d).all(|(x, d)| (-1e-12..=1.0 + 1e-12).contains(&(x + d))));
                let most: f64 = x.iter().zip(w).map(|(x, w)| w.abs() * if (w * rise) > 0.0 { 1.0 - x } else { *x }).sum();
                if most < rise.abs() {
                    prop_assert!((dot(w, &d).abs() - most).abs() < 1e-9, "every bound");
                    continue;
                }
                prop_assert!((dot(w, &d) - rise).abs() < 1e-9, "{norm:?}");
                // Pairs of elements traded against each other along the plane.
                for i in 0..n {
                    for j in 0..n {
                        for step in [1e-3, -1e-3, 0.1, -0.1] {
                            let mut other = d.clone();
                            other[i] += step * w[j];
                            other[j] -= step * w[i];
                            if i != j && x.iter().zip(&other).all(|(x, d)| (0.0..=1.0).contains(&(x + d))) {
                                prop_assert!(norm.of(other.iter().copied()) >= size - 1e-9, "{norm:?} {d:?} {other:?}");
                            }
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn planes_by_hand() {
        let far = (-100.0, 100.0);
        assert_eq!(to_plane(Norm::L2, &[0.0, 0.0], &[3.0, 4.0], 25.0, far), [3.0, 4.0]);
        assert_eq!(to_plane(Norm::Linf, &[0.0, 0.0], &[3.0, -4.0], -14.0, far), [-2.0, 2.0]);
        assert_eq!(to_plane(Norm::L1, &[0.0, 0.0], &[3.0, 4.0], 8.0, far), [0.0, 2.0]);
        // The second element is held at 1, and the first makes up for it.
        assert_eq!(to_plane(Norm::L1, &[0.0, 0.0], &[3.0, 4.0], 7.0, (0.0, 1.0)), [1.0, 1.0]);
    }
}
