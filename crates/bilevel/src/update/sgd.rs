//! Gradient descent.

use burn::tensor::Tensor;
use core_tensor::{Result, Tree};

use super::{Setting, Update, decayed};

/// `z ← z − η·(∇g + λz)`, with a rate `η` and a weight decay `λ` (0 unless given) that are fixed or learned.
#[derive(Clone)]
pub struct Sgd {
    rate: Setting,
    decay: Option<Setting>,
}

impl Sgd {
    /// With a learning rate: a number or a [`Setting`].
    pub fn new(rate: impl Into<Setting>) -> Self {
        Self { rate: rate.into(), decay: None }
    }

    /// With a weight decay `λ`: a number or a [`Setting`].
    pub fn weight_decay(self, decay: impl Into<Setting>) -> Self {
        Self { decay: Some(decay.into()), ..self }
    }
}

impl Update for Sgd {
    fn memories(&self) -> usize {
        0
    }

    fn step(&self, x: &Tree, z: Tree, gradient: Tree, _: Vec<Tree>, step: &Tensor<1>) -> Result<(Tree, Vec<Tree>)> {
        let gradient = decayed(&self.decay, x, &z, gradient, step)?;
        let z = z.axpy(-1.0, &self.rate.times(x, gradient, step)?)?;
        Ok((z, vec![]))
    }
}
