//! Coordinate-wise clipping of the momentum for heavy-tailed noise.

use core_tensor::transform::{Context, GradientTransform, State, Update};
use core_tensor::{Error, Result, Tree};

use crate::elementwise::{narrow, wide, wide_tensor};
use crate::limit::decay;

/// ACClip: the momentum clipped element by element at a moving estimate of the noise's size.
///
/// `m ← β₁m + (1 − β₁)g`, `τ^α ← β₂τ^α + (1 − β₂)|g|^α`, and the update is `min(τ/(|m| + ε), 1)·m`. With `α = 1` and
/// `β₂ = 0.99` as in the experiments of J. Zhang et al., "Why are adaptive methods good for attention models?", NeurIPS 2020,
/// algorithm 2. In front of plain SGD: the momentum is in here.
///
/// Elements of the gradient that are not finite are taken for zero. Cost: about ten passes and two trees of memory in `f32`. No
/// host synchronisation.
#[derive(Clone, Debug)]
pub struct AcClip {
    beta1: f64,
    beta2: f64,
    alpha: f64,
    epsilon: f64,
    /// `m` and `τ^α`.
    memory: Option<(Tree, Tree)>,
}

impl Default for AcClip {
    /// `β₁ = 0.9`, `β₂ = 0.99`, `α = 1`, `ε = 10⁻⁸`.
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.99, alpha: 1.0, epsilon: 1e-8, memory: None }
    }
}

impl AcClip {
    /// Decays of momentum and threshold, and the moment `α` in `[1, 2]`.
    ///
    /// # Errors
    /// [`Error::Parameter`] for a decay outside `[0, 1)` or another `alpha`.
    pub fn new(beta1: f64, beta2: f64, alpha: f64) -> Result<Self> {
        if !(1.0..=2.0).contains(&alpha) {
            return Err(Error::Parameter { parameter: "alpha", value: alpha, bound: "1 <= alpha <= 2" });
        }
        Ok(Self { beta1: decay("beta1", beta1)?, beta2: decay("beta2", beta2)?, alpha, ..Self::default() })
    }
}

impl GradientTransform for AcClip {
    fn name(&self) -> &str {
        "acclip"
    }

    fn apply(&mut self, grads: Tree, _context: &Context<'_>) -> Result<Update> {
        let (alpha, epsilon) = (self.alpha, self.epsilon);
        let g = wide(grads.clone())?.finite_or_zero();
        let power = g.clone().map_flat(|_, g| match alpha {
            1.0 => g.abs(),
            alpha => g.abs().powf_scalar(alpha),
        })?;
        let (m, tau) = match self.memory.clone() {
            None => (g.zeros_like(), g.zeros_like()),
            Some(memory) => memory,
        };
        let m = m.lerp(&g, 1.0 - self.beta1)?;
        let tau = tau.lerp(&power, 1.0 - self.beta2)?;
        let update = m.clone().zip_flat(&tau, |m, tau| {
            let tau = match alpha {
                1.0 => wide_tensor(tau),
                alpha => wide_tensor(tau).powf_scalar(1.0 / alpha),
            };
            let factor = tau.div(m.clone().abs().add_scalar(epsilon)).clamp_max(1.0);
            m.mul(factor)
        })?;
        self.memory = Some((m, tau));
        Ok(Update::Apply(narrow(update, &grads)?))
    }

    fn state(&self) -> State {
        let (m, tau) = self.memory.clone().unzip();
        State::new().with("momentum", m).with("threshold", tau)
    }

    fn load_state(&mut self, mut state: State) -> Result<()> {
        let (m, tau): (Option<Tree>, Option<Tree>) =
            (state.take_optional("momentum")?, state.take_optional("threshold")?);
        state.finish()?;
        self.memory = match (m, tau) {
            (Some(m), Some(tau)) => Some((m, tau)),
            (None, None) => None,
            (Some(_), None) => {
                return Err(Error::State { entry: "threshold".into(), found: "missing", expected: "a tree" });
            }
            (None, Some(_)) => {
                return Err(Error::State { entry: "momentum".into(), found: "missing", expected: "a tree" });
            }
        };
        Ok(())
    }
}

#[cfg(test)]
mod conformance {
    use super::*;
    core_tensor::transform_conformance!(acclip, AcClip::default);
    core_tensor::transform_conformance!(acclip_two, || AcClip::new(0.5, 0.9, 2.0).unwrap());
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, Tensor};

    #[test]
    fn two_steps_by_hand() {
        let mut clip = AcClip::new(0.5, 0.75, 1.0).unwrap();
        let mut step = |x: f32| {
            let grads = Tree::empty().push("x", Tensor::<1>::from_data([x], &Device::flex())).unwrap();
            match clip.apply(grads, &Context::new(0)) {
                Ok(Update::Apply(out)) => out.get::<1>("x").unwrap().try_into_vec_as::<f32>().unwrap()[0],
                _ => panic!("applied"),
            }
        };
        // m = 2, τ = 1: clipped to τ.
        assert!((step(4.0) - 1.0).abs() < 1e-6);
        // m = −1, τ = .75 + 1 = 1.75: passes.
        assert!((step(-4.0) + 1.0).abs() < 1e-6);
        assert!(AcClip::new(0.9, 0.99, 3.0).is_err());
    }
}
