//! Spikes element by element, against the running second moment.

use core_tensor::transform::{Context, GradientTransform, State, Update};
use core_tensor::{Error, Result, Tree};

use crate::elementwise::{narrow, wide, wide_tensor};
use crate::limit::{decay, positive};

/// Spike-aware clipping: where `g² > θ·v`, `g ← sign(g)·√(θ·v)`, with the moving average `v` of the clipped `g²`.
///
/// T. Huang et al., "SPAM: spike-aware Adam with momentum reset for stable LLM training", ICLR 2025, equation 1, `θ = 5000`
/// and Adam's `β₂ = 0.999`. Elements without a history pass. The paper also resets both of Adam's moments every `ΔT = 500`
/// steps: this transform resets its own and says when with [`reset_due`](Spam::reset_due), for the loop to initialise its
/// optimizer anew.
///
/// Infinite elements become the bound, NaN passes; neither enters `v`. Cost: about eight passes and a tree of memory in `f32`. No
/// host synchronisation.
#[derive(Clone, Debug)]
pub struct Spam {
    theta: f64,
    beta: f64,
    interval: u64,
    steps: u64,
    second: Option<Tree>,
}

impl Default for Spam {
    /// The paper's constants.
    fn default() -> Self {
        Self { theta: 5000.0, beta: 0.999, interval: 500, steps: 0, second: None }
    }
}

impl Spam {
    /// Threshold `θ`, decay `β₂`, steps between resets (0 for none).
    ///
    /// # Errors
    /// [`Error::Parameter`] unless `theta > 0` is finite and `0 <= beta < 1`.
    pub fn new(theta: f64, beta: f64, interval: u64) -> Result<Self> {
        Ok(Self { theta: positive("theta", theta)?, beta: decay("beta", beta)?, interval, ..Self::default() })
    }

    /// Whether the optimizer's moments should be reset before the next step.
    pub fn reset_due(&self) -> bool {
        self.interval > 0 && self.steps > 0 && self.steps.is_multiple_of(self.interval)
    }
}

impl GradientTransform for Spam {
    fn name(&self) -> &str {
        "spam"
    }

    fn apply(&mut self, grads: Tree, _context: &Context<'_>) -> Result<Update> {
        if self.reset_due() {
            self.second = None;
        }
        let theta = self.theta;
        let clipped = match &self.second {
            None => grads,
            Some(second) => {
                let out = grads.clone().zip_flat(second, |g, v| {
                    let g = wide_tensor(g);
                    let bound = v.cast(g.dtype()).mul_scalar(theta);
                    // √(θ·v) of the elements that have a history.
                    let spike = g.clone().square().greater(bound.clone()).bool_and(bound.clone().greater_elem(0.0));
                    let at_bound = g.clone().sign().mul(bound.sqrt());
                    g.mask_where(spike, at_bound)
                })?;
                narrow(out, &grads)?
            }
        };
        let square = wide(clipped.clone())?.finite_or_zero();
        let square = square.clone().mul(&square)?;
        self.second = Some(match self.second.take() {
            // Bias-corrected by starting from the first square.
            None => square,
            Some(second) => second.lerp(&square, 1.0 - self.beta)?,
        });
        self.steps += 1;
        Ok(Update::Apply(clipped))
    }

    fn state(&self) -> State {
        State::new().with("steps", self.steps).with("second", self.second.clone())
    }

    fn load_state(&mut self, mut state: State) -> Result<()> {
        let (steps, second) = (state.take("steps")?, state.take_optional("second")?);
        state.finish()?;
        (self.steps, self.second) = (steps, second);
        Ok(())
    }
}

/// Stable-SPAM's two steps: elements clipped at the moving maximum, then the norm at the scale of its history.
///
/// 1. `T ← γ₃T + (1 − γ₃)·max|g|`; where `|g| > T̂`, `g ← g/max|g|·T̂` (AdaClip).
/// 2. With moving averages `m` of `‖g‖` and `v` of `‖g‖²`, `g ← g/‖g‖·m̂/(√v̂ + ε)` (AdaGN).
///
/// Hats are bias-corrected. T. Huang et al., "Stable-SPAM: how to train in 4-bit more stably than 16-bit Adam", 2025,
/// algorithm 1, `γ₁ = 0.7`, `γ₂ = 0.9`, `γ₃ = 0.999`. The length of the result is at most about 1, so the learning rate
/// is the length of a step.
///
/// A gradient that is not finite passes and leaves the averages alone. Cost: about four passes. Two host synchronisations a
/// step on a GPU.
#[derive(Clone, Debug)]
pub struct StableSpam {
    gamma: [f64; 3],
    steps: u64,
    /// `m`, `v`, `T`.
    averages: [f64; 3],
}

impl Default for StableSpam {
    /// The paper's constants.
    fn default() -> Self {
        Self { gamma: [0.7, 0.9, 0.999], steps: 0, averages: [0.0; 3] }
    }
}

impl StableSpam {
    /// The decays `γ₁` of the norm, `γ₂` of its square, `γ₃` of the maximum.
    ///
    /// # Errors
    /// [`Error::Parameter`] for a decay outside `[0, 1)`.
    pub fn new(gamma1: f64, gamma2: f64, gamma3: f64) -> Result<Self> {
        let gamma = [decay("gamma1", gamma1)?, decay("gamma2", gamma2)?, decay("gamma3", gamma3)?];
        Ok(Self { gamma, ..Self::default() })
    }
}

impl GradientTransform for StableSpam {
    fn name(&self) -> &str {
        "stable_spam"
    }

    fn apply(&mut self, grads: Tree, _context: &Context<'_>) -> Result<Update> {
        let largest = grads.norm_inf().value();
        if !largest.is_finite() {
            return Ok(Update::Apply(grads));
        }
        let t = self.steps + 1;
        let corrected = |average: f64, gamma: f64| average / (1.0 - gamma.powf(t as f64));
        let [mut m, mut v, mut top] = self.averages;
        let [gamma1, gamma2, gamma3] = self.gamma;
        top = gamma3 * top + (1.0 - gamma3) * largest;
        let bound = corrected(top, gamma3);
        let clipped = match largest > bound {
            // Only elements above the bound shrink, all by one factor.
            true => grads.map_flat(|_, g| {
                let (dtype, g) = (g.dtype(), wide_tensor(g));
                let spike = g.clone().abs().greater_elem(bound);
                let shrunk = g.clone().mul_scalar(bound / largest);
                g.mask_where(spike, shrunk).cast(dtype)
            })?,
            false => grads,
        };
        let norm = clipped.norm().value();
        m = gamma1 * m + (1.0 - gamma1) * norm;
        v = gamma2 * v + (1.0 - gamma2) * norm * norm;
        let scale = corrected(m, gamma1) / (corrected(v, gamma2).sqrt() + 1e-8);
        (self.averages, self.steps) = ([m, v, top], t);
        Ok(Update::Apply(if norm > 0.0 { clipped.scale(scale / norm) } else { clipped }))
    }

    fn state(&self) -> State {
        State::new().with("steps", self.steps).with("averages", self.averages.to_vec())
    }

    fn load_state(&mut self, mut state: State) -> Result<()> {
        let steps: u64 = state.take("steps")?;
        let averages: Vec<f64> = state.take("averages")?;
        state.finish()?;
        let actual = averages.len();
        let averages = averages.try_into().map_err(|_| Error::Length { what: "averages", expected: 3, actual })?;
        (self.steps, self.averages) = (steps, averages);
        Ok(())
    }
}

#[cfg(test)]
mod conformance {
    use super::*;
    core_tensor::transform_conformance!(spam, || Spam::new(2.0, 0.9, 3).unwrap());
    core_tensor::transform_conformance!(stable_spam, || StableSpam::new(0.7, 0.9, 0.5).unwrap());
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, Tensor};

    fn step(transform: &mut dyn GradientTransform, x: [f32; 2]) -> Vec<f32> {
        let grads = Tree::empty().push("x", Tensor::<1>::from_data(x, &Device::flex())).unwrap();
        match transform.apply(grads, &Context::new(0)) {
            Ok(Update::Apply(out)) => out.get::<1>("x").unwrap().try_into_vec_as().unwrap(),
            _ => panic!("applied"),
        }
    }

    #[test]
    fn spikes_are_cut_at_the_second_moment() {
        let mut spam = Spam::new(4.0, 0.5, 3).unwrap();
        assert_eq!(step(&mut spam, [1.0, 0.0]), [1.0, 0.0], "no history");
        assert_eq!(step(&mut spam, [-100.0, 5.0]), [-2.0, 5.0], "an element without history passes");
        assert!(!spam.reset_due());
        // v = (1 + 4)/2.
        let out = step(&mut spam, [f32::INFINITY, 0.0]);
        assert!((out[0] - 10f32.sqrt()).abs() < 1e-6, "{out:?}");
        assert!(spam.reset_due());
        assert_eq!(step(&mut spam, [50.0, 50.0]), [50.0, 50.0], "after a reset there is no history");
    }

    #[test]
    fn the_norm_is_brought_to_its_usual_size() {
        let mut stable = StableSpam::new(0.7, 0.9, 0.5).unwrap();
        let length = |x: Vec<f32>| f64::from(x[0]).hypot(f64::from(x[1]));
        assert!((length(step(&mut stable, [3.0, 4.0])) - 1.0).abs() < 1e-6);
        assert!((length(step(&mut stable, [3.0, 4.0])) - 1.0).abs() < 1e-6);
        // The maximum of ever higher gradients lags behind them.
        let spiked = step(&mut stable, [0.0, 400.0]);
        assert!(length(spiked) < 1.0);
        assert_eq!(step(&mut stable, [0.0, 0.0]), [0.0, 0.0]);
        assert!(step(&mut stable, [f32::NAN, 1.0])[0].is_nan());
        assert!(StableSpam::new(1.0, 0.9, 0.9).is_err());
    }
}
