//! DeepFool.

use super::check::{at_least_one, not_negative};
use super::minimum::{check_minimum, narrow, wide};
use super::{Attack, Setting, Walk};
use crate::engine::{Case, Oracle};
use crate::error::{Error, Result};
use crate::loss::{Loss, descending};
use crate::threat::Norm;

/// DeepFool: steps to the nearest boundary of the linearised model until a boundary is crossed. A quick estimate of the
/// smallest perturbation in `L2` and `Linf`; [`Fmn`](crate::Fmn) and [`Ddn`](crate::Ddn) get nearer for more gradients.
///
/// With `f_k = z_k − z_y − κ` and `w_k = ∇f_k` at the current point, the nearest boundary of the linearised model is that of
/// `l = argmin_k |f_k|/‖w_k‖_q`, with `q` the dual exponent (2 for `L2`, 1 for `Linf`), and the step there is
///
/// | norm | step |
/// |---|---|
/// | `L2` | `r = |f_l|/‖w_l‖₂² · w_l` |
/// | `Linf` | `r = |f_l|/‖w_l‖₁ · sign(w_l)` |
///
/// The point is `x₀ + (1 + η)·Σr`, in the box: the overshoot is of the *whole* perturbation, not of a step.
///
/// | parameter | default | range | effect |
/// |---|---|---|---|
/// | [`steps`](Self::steps) | 50 | ≥ 1 | steps at most; few are needed |
/// | [`candidates`](Self::candidates) | 10 | ≥ 2 | classes looked at: the label and those with the largest logits at `x₀` |
/// | [`overshoot`](Self::overshoot) | 0.02 | ≥ 0 | `η` |
///
/// Guarantees: on a linear model, where the box is not reached, the distance is `1 + η` times the smallest there is
/// (`on_linear_models_the_distance_is_the_smallest_and_the_overshoot`).
///
/// Cost: `candidates − 1` gradients and as many queries a step, one more query at the end; for a goal with a target one
/// gradient a step.
///
/// Errors: [`Error::Unsupported`] for `L1`, `L0` and [`Search::Worst`](crate::Search::Worst), [`Error::Parameter`].
///
/// S. Moosavi-Dezfooli, A. Fawzi, P. Frossard, "DeepFool: a simple and accurate method to fool deep neural networks", CVPR 2016,
/// arXiv:1511.04599, algorithm 2 and section 3.3. Beyond the paper: the box; a confidence `κ` of the [goal](crate::Goal); and
/// goals with a target, where the boundary is the one with the best other class.
///
/// ```
/// use adversarial::{Attack, DeepFool, Goals, Norm, Recorded, Threat};
/// use burn::nn::LinearConfig;
/// use burn::tensor::{Device, Tensor};
///
/// let device = Device::flex();
/// let model = LinearConfig::new(4, 3).init(&device);
/// let classifier = Recorded::new(&model, [4], |model, x: Tensor<2>| model.forward(x))?;
/// let x = Tensor::<2>::full([2, 4], 0.5, &device);
/// let attacked = DeepFool::new().nearest(&classifier, Threat::new(Norm::L2, 1.0)?, x, &Goals::untargeted(&[0, 1]))?;
/// assert!(attacked.outcomes.iter().all(|outcome| outcome.distance <= 1.01));
/// # Ok::<(), adversarial::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DeepFool {
    steps: usize,
    candidates: usize,
    overshoot: f64,
}

impl Default for DeepFool {
    fn default() -> Self {
        Self::new()
    }
}

impl DeepFool {
    /// DeepFool as in the paper.
    pub fn new() -> Self {
        Self { steps: 50, candidates: 10, overshoot: 0.02 }
    }

    /// Sets the largest number of steps.
    pub fn steps(self, steps: usize) -> Self {
        Self { steps, ..self }
    }

    /// Sets how many classes are looked at, the label among them.
    pub fn candidates(self, candidates: usize) -> Self {
        Self { candidates, ..self }
    }

    /// Sets by which share of the perturbation it goes beyond the boundary.
    pub fn overshoot(self, overshoot: f64) -> Self {
        Self { overshoot, ..self }
    }

    /// A loss for each boundary looked at, negative on this side of it.
    fn boundaries(&self, case: &Case) -> Vec<Loss> {
        let label = case.goal().label();
        match case.goal().target() {
            Some(target) => vec![Loss::MarginTo { target }],
            None => {
                let others = descending(case.logits()).into_iter().filter(|class| *class != label);
                others.take(self.candidates - 1).map(|plus| Loss::Difference { plus, minus: label }).collect()
            }
        }
    }
}

impl Attack for DeepFool {
    fn name(&self) -> String {
        "DeepFool".into()
    }

    fn check(&self, setting: &Setting) -> Result<()> {
        at_least_one("steps", self.steps)?;
        if self.candidates < 2 {
            let value = self.candidates as f64;
            return Err(Error::Parameter { parameter: "candidates", value, bound: "at least 2" });
        }
        not_negative("overshoot", self.overshoot)?;
        check_minimum(self.name(), setting, &[Norm::L2, Norm::Linf], "L2 and Linf, the first or the nearest success")
    }

    fn walk(&self, case: Case, oracle: Oracle) -> Walk<'_> {
        Box::pin(async move {
            let boundaries = self.boundaries(&case);
            let confidence = f64::from(case.goal().margin_needed());
            let x0 = wide(case.x0());
            let mut total = vec![0.0; x0.len()];
            let mut x = case.x0().to_vec();
            for _ in 0..self.steps {
                let answers = oracle.gradients(x.repeat(boundaries.len()), boundaries.clone()).await;
                if answers[0].reached {
                    return;
                }
                let steps = answers.iter().filter_map(|answer| {
                    to_boundary(case.threat().norm(), (answer.loss - confidence).abs(), &answer.gradient)
                });
                let Some((_, step)) = steps.min_by(|a, b| a.0.total_cmp(&b.0)) else { return };
                total.iter_mut().zip(step).for_each(|(total, step)| *total += step);
                let along = |(x0, r): (&f64, &f64)| x0 + (1.0 + self.overshoot) * r;
                x = narrow(&x0.iter().zip(&total).map(along).collect::<Vec<_>>());
                case.clamp(&mut x);
            }
            oracle.logits(&x).await;
        })
    }
}

/// The distance to where a linear function of slope `w` has risen by `rise`, and the step there; none where it is flat.
fn to_boundary(norm: Norm, rise: f64, w: &[f32]) -> Option<(f64, Vec<f64>)> {
    let w = wide(w);
    let slope = norm.dual()?.of(w.iter().copied());
    if !(slope > 0.0 && slope.is_finite()) {
        return None;
    }
    let distance = rise / slope;
    let step = match norm {
        Norm::L2 => w.iter().map(|w| distance * w / slope).collect(),
        _ => w.iter().map(|w| if *w == 0.0 { 0.0 } else { distance * w.signum() }).collect(),
    };
    Some((distance, step))
}
