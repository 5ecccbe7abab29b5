//! Adam's direction with update clipping.

use core_tensor::transform::{Context, GradientTransform, State, Update};
use core_tensor::{Error, Result, Scalar, Tree};

use crate::elementwise::{narrow, wide};
use crate::limit::{decay, not_negative, positive};

/// StableAdamW as a direction: Adam's step, each tensor's divided by `max(1, RMS)` with `RMS = √mean(g²/max(v, ε²))`.
///
/// `RMS` is about 1 while the second moment `v` keeps up with the gradient, and above where it lags behind, which is when loss
/// spikes start. M. Wortsman et al., "Stable and low-precision training for large-scale vision-language models", NeurIPS
/// 2023, algorithm 2, with Adafactor's debiasing of the decays (`β_t = β·(1 − β^(t−1))/(1 − β^t)`) and decoupled weight
/// decay `λ`: the update is `m/(√v + ε)/max(1, RMS) + λ·x`. In front of plain SGD, whose learning rate is Adam's.
///
/// Elements of the gradient that are not finite are taken for zero. Weight decay needs the parameters in the context. Cost:
/// about fifteen passes and two trees of memory in `f32`. No host synchronisation.
///
/// ```
/// use burn::optim::SgdConfig;
/// use clipping::StableAdamW;
/// use core_tensor::Chain;
///
/// let train = Chain::new().then(StableAdamW::default()).before(SgdConfig::new().init());
/// # let _ = train;
/// ```
#[derive(Clone, Debug)]
pub struct StableAdamW {
    beta1: f64,
    beta2: f64,
    epsilon: f64,
    weight_decay: f64,
    steps: u64,
    /// `m` and `v`.
    memory: Option<(Tree, Tree)>,
}

impl Default for StableAdamW {
    /// `β₁ = 0.9`, `β₂ = 0.99`, `ε = 10⁻⁶`, no weight decay.
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.99, epsilon: 1e-6, weight_decay: 0.0, steps: 0, memory: None }
    }
}

impl StableAdamW {
    /// Decays, `ε` and weight decay.
    ///
    /// # Errors
    /// [`Error::Parameter`] for a decay outside `[0, 1)`, `epsilon` not above zero or a negative weight decay.
    pub fn new(beta1: f64, beta2: f64, epsilon: f64, weight_decay: f64) -> Result<Self> {
        Ok(Self {
            beta1: decay("beta1", beta1)?,
            beta2: decay("beta2", beta2)?,
            epsilon: positive("epsilon", epsilon)?,
            weight_decay: not_negative("weight_decay", weight_decay)?,
            ..Self::default()
        })
    }
}

impl GradientTransform for StableAdamW {
    fn name(&self) -> &str {
        "stable_adamw"
    }

    /// # Errors
    /// [`Error::Transform`] for weight decay without parameters in the context; a tree of another structure than before.
    fn apply(&mut self, grads: Tree, context: &Context<'_>) -> Result<Update> {
        use burn::backend::TensorMetadata;
        let epsilon = self.epsilon;
        let decayed = match (self.weight_decay, context.params) {
            (0.0, _) => None,
            (_, Some(params)) => Some(wide(params.restrict(&grads)?)?),
            (_, None) => return Err(Error::transform(self.name(), "weight decay needs the parameters in its context")),
        };
        let g = wide(grads.clone())?.finite_or_zero();
        let square = g.clone().mul(&g)?;
        let t = (self.steps + 1) as f64;
        let debiased = |beta: f64| beta * (1.0 - beta.powf(t - 1.0)) / (1.0 - beta.powf(t));
        let (m, v) = match self.memory.clone() {
            None => (g.zeros_like(), g.zeros_like()),
            Some(memory) => memory,
        };
        let m = m.lerp(&g, 1.0 - debiased(self.beta1))?;
        let v = v.lerp(&square, 1.0 - debiased(self.beta2))?;
        let ratio = square.zip_flat(&v, |square, v| square.div(v.clamp_min(epsilon * epsilon)))?;
        let mut factors = Vec::with_capacity(ratio.len());
        for (name, leaf) in ratio.iter() {
            let size = leaf.shape().num_elements().max(1) as f64;
            let mean = ratio.filter(|other| other == name).sum() * (1.0 / size);
            factors.push(mean.sqrt().max(&Scalar::from(1.0)).recip());
        }
        let update = m.clone().zip_flat(&v, |m, v| m.div(v.sqrt().add_scalar(epsilon)))?;
        let mut update = update.scale_leaves(&factors)?;
        if let Some(params) = decayed {
            update = update.axpy(self.weight_decay, &params)?;
        }
        let update = narrow(update, &grads)?;
        (self.memory, self.steps) = (Some((m, v)), self.steps + 1);
        Ok(Update::Apply(update))
    }

    fn state(&self) -> State {
        let (m, v) = self.memory.clone().unzip();
        State::new().with("steps", self.steps).with("first", m).with("second", v)
    }

    fn load_state(&mut self, mut state: State) -> Result<()> {
        let steps: u64 = state.take("steps")?;
        let (m, v): (Option<Tree>, Option<Tree>) = (state.take_optional("first")?, state.take_optional("second")?);
        state.finish()?;
        if m.is_some() != v.is_some() {
            let entry = if m.is_some() { "second" } else { "first" };
            return Err(Error::State { entry: entry.into(), found: "missing", expected: "a tree" });
        }
        (self.memory, self.steps) = (m.zip(v), steps);
        Ok(())
    }
}

#[cfg(test)]
mod conformance {
    use super::*;
    core_tensor::transform_conformance!(stable_adamw, || StableAdamW::new(0.9, 0.99, 1e-6, 0.01).unwrap());
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, Tensor};

    fn tree(x: [f32; 2]) -> Tree {
        Tree::empty().push("x", Tensor::<1>::from_data(x, &Device::flex())).unwrap()
    }

    #[test]
    fn a_spike_that_the_second_moment_lags_behind_is_shortened() {
        let mut adam = StableAdamW::default();
        let mut step = |x: [f32; 2]| match adam.apply(tree(x), &Context::new(0)) {
            Ok(Update::Apply(out)) => out.get::<1>("x").unwrap().try_into_vec_as::<f32>().unwrap(),
            _ => panic!("applied"),
        };
        // The first step: m = g, v = g², RMS 1.
        let first = step([2.0, -0.5]);
        assert!((first[0] - 1.0).abs() < 1e-4 && (first[1] + 1.0).abs() < 1e-4, "{first:?}");
        for _ in 0..30 {
            step([1.0, 1.0]);
        }
        // Weights of the newest gradient with debiased decays at t = 32.
        let weight = |beta: f64| (1.0 - beta) / (1.0 - beta.powi(32));
        let spiked = step([1000.0, 1000.0]);
        let v = 1.0 + weight(0.99) * (1e6 - 1.0);
        let rms = (1e6 / v).sqrt();
        assert!(rms > 4.0, "{rms}");
        let plain = (1.0 + weight(0.9) * 999.0) / v.sqrt();
        assert!((f64::from(spiked[0]) - plain / rms).abs() < 0.02 * plain / rms, "{spiked:?} {plain} {rms}");
    }

    #[test]
    fn weight_decay_pulls_towards_zero_and_needs_parameters() {
        let mut adam = StableAdamW::new(0.9, 0.99, 1e-6, 0.5).unwrap();
        assert!(adam.apply(tree([1.0, 1.0]), &Context::new(0)).is_err());
        let params = tree([4.0, -4.0]);
        let Ok(Update::Apply(out)) = adam.apply(tree([0.0, 0.0]), &Context::new(0).with_params(&params)) else {
            panic!("applied");
        };
        assert_eq!(out.get::<1>("x").unwrap().try_into_vec_as::<f32>().unwrap(), [2.0, -2.0]);
    }
}
