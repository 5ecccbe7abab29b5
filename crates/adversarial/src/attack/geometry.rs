//! Steps and starting points in the geometry of each norm.

use burn::tensor::{Distribution, Shape};
use core_tensor::Random;

use crate::engine::Case;
use crate::threat::Norm;

/// Share of the elements that one step in `L1` changes.
const SPARSE: f64 = 0.01;

/// Moves `x` uphill by `step` in the threat's norm; a zero gradient moves nothing. Does not project.
///
/// | norm | step |
/// |---|---|
/// | `Linf` | `step · sign(g)` |
/// | `L2` | `step · g / ‖g‖₂` |
/// | `L1` | `step / k · sign(g)` on the `k` (1 % of all) elements of largest `|g|` that the box lets move |
/// | `L0` | `step · sign(g)` on the `ε` elements of largest `|g|` that the box lets move |
///
/// The sparse step in `L1` is that of F. Tramèr and D. Boneh, "Adversarial training and robustness for multiple perturbations",
/// NeurIPS 2019, arXiv:1904.13000.
pub(crate) fn ascend(case: &Case, x: &mut [f32], gradient: &[f32], step: f64) {
    match case.threat().norm() {
        Norm::Linf => {
            let step = step as f32;
            x.iter_mut().zip(gradient).for_each(|(x, g)| *x += step * sign(*g));
        }
        Norm::L2 => {
            let scale = step / length(gradient);
            if scale.is_finite() {
                x.iter_mut().zip(gradient).for_each(|(x, g)| *x += (scale * f64::from(*g)) as f32);
            }
        }
        Norm::L1 => {
            let count = ((SPARSE * x.len() as f64).round() as usize).max(1);
            let chosen = largest_movable(case, x, gradient, count);
            let each = (step / chosen.len().max(1) as f64) as f32;
            chosen.into_iter().for_each(|i| x[i] += each * sign(gradient[i]));
        }
        Norm::L0 => {
            let chosen = largest_movable(case, x, gradient, case.threat().epsilon() as usize);
            chosen.into_iter().for_each(|i| x[i] += step as f32 * sign(gradient[i]));
        }
    }
}

/// Moves from `x0` to where a linear function of the given gradient is largest in the ball; for `L1` and `L0` in ball and box.
pub(crate) fn linear_maximiser(case: &Case, gradient: &[f32]) -> Vec<f32> {
    let mut x = case.x0().to_vec();
    let (threat, epsilon) = (case.threat(), case.threat().epsilon());
    match threat.norm() {
        Norm::Linf | Norm::L2 => ascend(case, &mut x, gradient, epsilon),
        Norm::L1 | Norm::L0 => {
            let mut left = epsilon;
            for i in largest_movable(case, &x, gradient, x.len()) {
                let bound = if gradient[i] > 0.0 { threat.high() } else { threat.low() };
                let room = (bound - f64::from(x[i])).abs();
                let (cost, moved) = match threat.norm() {
                    Norm::L0 => (1.0, room),
                    _ => (room.min(left), room.min(left)),
                };
                x[i] += (moved * f64::from(sign(gradient[i]))) as f32;
                left -= cost;
                if left <= 0.0 {
                    break;
                }
            }
        }
    }
    case.project(&mut x);
    x
}

/// A point drawn uniformly from the ball, then brought into the box.
pub(crate) fn uniform_in_ball(case: &Case, random: &mut Random) -> Vec<f32> {
    let (n, epsilon) = (case.x0().len(), case.threat().epsilon());
    let delta: Vec<f64> = match case.threat().norm() {
        Norm::Linf => draw(random, Distribution::Uniform(-epsilon, epsilon), n),
        Norm::L2 => {
            let direction = draw(random, Distribution::Normal(0.0, 1.0), n);
            let scale = epsilon * random.next_f64().powf(1.0 / n as f64) / Norm::L2.of(direction.iter().copied());
            direction.into_iter().map(|d| d * scale).collect()
        }
        Norm::L1 => {
            // Exponential magnitudes over their sum and one more are uniform in the simplex and its inside.
            let magnitude: Vec<f64> =
                draw(random, Distribution::Uniform(0.0, 1.0), n + 1).iter().map(|u| -(1.0 - u).ln()).collect();
            let total: f64 = magnitude.iter().sum();
            let signs = draw(random, Distribution::Uniform(-1.0, 1.0), n);
            magnitude.iter().zip(signs).map(|(m, s)| epsilon * m / total * s.signum()).collect()
        }
        Norm::L0 => {
            let mut delta = vec![0.0; n];
            let (low, high) = (case.threat().low(), case.threat().high());
            for i in random.permutation(n).into_iter().take(epsilon as usize) {
                delta[i] = low + (high - low) * random.next_f64() - f64::from(case.x0()[i]);
            }
            delta
        }
    };
    let mut x: Vec<f32> = case.x0().iter().zip(delta).map(|(x, d)| (f64::from(*x) + d) as f32).collect();
    case.project(&mut x);
    x
}

/// Numbers of a distribution.
pub(crate) fn draw(random: &mut Random, distribution: Distribution, count: usize) -> Vec<f64> {
    random.draw(distribution, Shape::new([count])).iter::<f64>().collect()
}

/// The Euclidean length, in `f64`.
pub(crate) fn length(x: &[f32]) -> f64 {
    Norm::L2.of(x.iter().map(|x| f64::from(*x)))
}

/// −1, 0 or 1.
pub(crate) fn sign(x: f32) -> f32 {
    match x {
        x if x > 0.0 => 1.0,
        x if x < 0.0 => -1.0,
        _ => 0.0,
    }
}

/// The elements of largest `|g|`, largest first, without those whose gradient is 0 or points out of the box they are at.
pub(crate) fn largest_movable(case: &Case, x: &[f32], gradient: &[f32], count: usize) -> Vec<usize> {
    let (low, high) = (case.threat().low() as f32, case.threat().high() as f32);
    let movable = |i: &usize| (gradient[*i] > 0.0 && x[*i] < high) || (gradient[*i] < 0.0 && x[*i] > low);
    let mut order: Vec<usize> = (0..x.len()).filter(movable).collect();
    let key = |i: &usize, j: &usize| gradient[*j].abs().total_cmp(&gradient[*i].abs()).then(i.cmp(j));
    if count < order.len() && count > 0 {
        order.select_nth_unstable_by(count - 1, key);
    }
    order.truncate(count);
    order.sort_by(key);
    order
}
