//! Gradient descent.

use burn::tensor::Tensor;
use core_tensor::{Result, Tree};

use super::{Setting, Update};

/// `z ← z − η·∇g`, with a rate that is fixed or learned.
#[derive(Clone)]
pub struct Sgd {
    rate: Setting,
}

impl Sgd {
    /// With a learning rate: a number or a [`Setting`].
    pub fn new(rate: impl Into<Setting>) -> Self {
        Self { rate: rate.into() }
    }
}

impl Update for Sgd {
    fn memories(&self) -> usize {
        0
    }

    fn step(&self, x: &Tree, z: Tree, gradient: Tree, _: Vec<Tree>, step: &Tensor<1>) -> Result<(Tree, Vec<Tree>)> {
        let z = z.axpy(-1.0, &self.rate.times(x, gradient, step)?)?;
        Ok((z, vec![]))
    }
}
