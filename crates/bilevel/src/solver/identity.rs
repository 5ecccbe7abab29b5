//! The inverse replaced by a multiple of the identity.

use core_tensor::Tree;

use super::{LinearSolver, Operator};
use crate::error::{Result, positive};

/// `v = η·b`: no products at all. The hypergradient of one step of gradient descent with rate `η`, for very large models.
///
/// J. Luketina et al., "Scalable gradient-based tuning of continuous regularization hyperparameters", 2016 (arXiv:1511.06727; T1−T2).
/// With [`Products::CentralDifference`](crate::Products::CentralDifference) it is second-order DARTS: H. Liu, K. Simonyan, Y. Yang,
/// "DARTS: differentiable architecture search", 2019 (arXiv:1806.09055), equation 8.
#[derive(Clone, Debug)]
pub struct Identity {
    scale: f64,
}

impl Identity {
    /// The multiple `η`.
    ///
    /// # Errors
    /// A parameter error unless it is above zero and finite.
    pub fn new(scale: f64) -> Result<Self> {
        Ok(Self { scale: positive("scale", scale)? })
    }
}

impl LinearSolver for Identity {
    fn solve(&self, _: &mut Operator<'_>, b: &Tree) -> Result<Tree> {
        Ok(b.clone().scale(self.scale))
    }
}
