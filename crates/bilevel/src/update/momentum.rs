//! Gradient descent with momentum.

use burn::tensor::Tensor;
use core_tensor::{Result, Tree};

use super::{Setting, Update, decayed};

/// `m ← μ·m + ∇g + λz`, `z ← z − η·m`: the heavy ball without dampening (B. T. Polyak, 1964), one memory. The weight decay `λ` is 0 unless given.
#[derive(Clone)]
pub struct Momentum {
    rate: Setting,
    momentum: Setting,
    decay: Option<Setting>,
}

impl Momentum {
    /// With a learning rate `η` and a momentum `μ`: numbers or [`Setting`]s.
    pub fn new(rate: impl Into<Setting>, momentum: impl Into<Setting>) -> Self {
        Self { rate: rate.into(), momentum: momentum.into(), decay: None }
    }

    /// With a weight decay `λ`: a number or a [`Setting`].
    pub fn weight_decay(self, decay: impl Into<Setting>) -> Self {
        Self { decay: Some(decay.into()), ..self }
    }
}

impl Update for Momentum {
    fn memories(&self) -> usize {
        1
    }

    fn step(
        &self,
        x: &Tree,
        z: Tree,
        gradient: Tree,
        memory: Vec<Tree>,
        step: &Tensor<1>,
    ) -> Result<(Tree, Vec<Tree>)> {
        let gradient = decayed(&self.decay, x, &z, gradient, step)?;
        let mut m = Tree::empty();
        for memory in memory {
            m = self.momentum.times(x, memory, step)?.add(&gradient)?;
        }
        let z = z.axpy(-1.0, &self.rate.times(x, m.clone(), step)?)?;
        Ok((z, vec![m]))
    }
}
