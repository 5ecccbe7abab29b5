//! Adam.

use burn::tensor::Tensor;
use core_tensor::{Result, Tree};

use super::{Setting, Update, decayed};
use crate::error::{decay, not_negative, positive};

/// Adam with bias correction: `m ← β₁m + (1−β₁)∇g`, `v ← β₂v + (1−β₂)∇g²`, `z ← z − η·(m̂/(√(v̂ + ε₀) + ε) + λz)`; two
/// memories. The decoupled weight decay `λ` of AdamW (arXiv:1711.05101) is 0 unless given.
///
/// | parameter | default | range | effect |
/// |---|---|---|---|
/// | `rate` `η` | – | number or [`Setting`] | |
/// | `beta1`, `beta2` | 0.9, 0.999 | `[0, 1)` | decays |
/// | `epsilon` `ε` | 1e-8 | ≥ 0 | |
/// | `epsilon_root` `ε₀` | 1e-16 | > 0 | keeps the root's derivative finite where a gradient is exactly zero, which would be NaN |
///
/// D. P. Kingma, J. Ba, "Adam: a method for stochastic optimization", 2015 (arXiv:1412.6980), algorithm 1.
#[derive(Clone)]
pub struct Adam {
    rate: Setting,
    decay: Option<Setting>,
    beta1: f64,
    beta2: f64,
    epsilon: f64,
    epsilon_root: f64,
}

impl Adam {
    /// With a learning rate and the usual decays.
    pub fn new(rate: impl Into<Setting>) -> Self {
        Self { rate: rate.into(), decay: None, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, epsilon_root: 1e-16 }
    }

    /// With a decoupled weight decay `λ`: a number or a [`Setting`].
    pub fn weight_decay(self, decay: impl Into<Setting>) -> Self {
        Self { decay: Some(decay.into()), ..self }
    }

    /// Other decays.
    ///
    /// # Errors
    /// A parameter error outside `[0, 1)`.
    pub fn betas(self, beta1: f64, beta2: f64) -> crate::Result<Self> {
        Ok(Self { beta1: decay("beta1", beta1)?, beta2: decay("beta2", beta2)?, ..self })
    }

    /// Other `ε` and `ε₀`.
    ///
    /// # Errors
    /// A parameter error for a negative `ε` or an `ε₀` that is not above zero.
    pub fn epsilons(self, epsilon: f64, epsilon_root: f64) -> crate::Result<Self> {
        let epsilon = not_negative("epsilon", epsilon)?;
        Ok(Self { epsilon, epsilon_root: positive("epsilon_root", epsilon_root)?, ..self })
    }
}

impl Update for Adam {
    fn memories(&self) -> usize {
        2
    }

    fn step(
        &self,
        x: &Tree,
        z: Tree,
        gradient: Tree,
        memory: Vec<Tree>,
        step: &Tensor<1>,
    ) -> Result<(Tree, Vec<Tree>)> {
        let [m, v]: [Tree; 2] = memory.try_into().expect("two memories, as asked for");
        let m = m.scale(self.beta1).axpy(1.0 - self.beta1, &gradient)?;
        let square = gradient.clone().mul(&gradient)?;
        let v = v.scale(self.beta2).axpy(1.0 - self.beta2, &square)?;
        // 1 − βᵗ with t from 1; for β = 0 it is 1.
        let correction = |beta: f64| match beta {
            0.0 => step.ones_like(),
            beta => (step.clone() + 1.0).mul_scalar(beta.ln()).exp().neg() + 1.0,
        };
        let (first, second) = (correction(self.beta1), correction(self.beta2));
        let direction = m.clone().zip_flat(&v, |m, v| {
            let root = (v / second.clone() + self.epsilon_root).sqrt() + self.epsilon;
            m / first.clone() / root
        })?;
        let direction = decayed(&self.decay, x, &z, direction, step)?;
        let z = z.axpy(-1.0, &self.rate.times(x, direction, step)?)?;
        Ok((z, vec![m, v]))
    }
}
