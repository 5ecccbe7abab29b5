//! Three simultaneous moves.

use core_tensor::Batch;

use super::{Loop, LoopState};
use crate::error::{Result, positive};
use crate::problem::{Batches, Problem};

/// SOBA: `z`, the linear system's solution `v` and `x` move at once, each along its own gradient at the same point.
///
/// `z ← z − ρ∇z g`, `v ← v − ρ(Hv − ∇z f)`, `x ← x − γ(∇x f − (∂x∂z g)ᵀv)`.
///
/// | parameter | range | effect |
/// |---|---|---|
/// | `inner_rate` `ρ` | > 0 | of `z` and `v`, below `2/L` |
/// | `outer_rate` `γ` | > 0 | of `x`; much below `ρ` |
///
/// Cost a step: one linearisation, one product, one gradient of `f`; memory `v`. With full batches it reaches the solution (test
/// `loops_reach_the_solution`); with drawn ones rates have to fall, or use [`Saba`](super::Saba). M. Dagréou, P. Ablin, S. Vaiter, T. Moreau,
/// "A framework for bilevel optimization that enables stochastic and global variance reduction algorithms", 2022 (arXiv:2201.13409),
/// with the opposite sign of `v`.
#[derive(Clone, Debug)]
pub struct Soba {
    inner_rate: f64,
    outer_rate: f64,
}

impl Soba {
    /// Inner and outer rate.
    ///
    /// # Errors
    /// A parameter error unless both are above zero and finite.
    pub fn new(inner_rate: f64, outer_rate: f64) -> Result<Self> {
        Ok(Self { inner_rate: positive("inner_rate", inner_rate)?, outer_rate: positive("outer_rate", outer_rate)? })
    }
}

impl<I: Batch, O: Batch> Loop<I, O> for Soba {
    fn step(&self, problem: &Problem<I, O>, mut state: LoopState, batches: &Batches<I, O>) -> Result<LoopState> {
        problem.require_attached("the inner objective", |_| false)?;
        let v = state.take("v", &state.z.clone());
        let outer = problem.outer_gradient(&state.x, &state.z, &batches.outer)?;
        let linear = problem.linearize(&state.x, &state.z, &batches.inner)?;
        let product = linear.along_z(&v)?;
        let residual = product.hessian.sub(&outer.z)?;
        state.z = state.z.axpy(-self.inner_rate, &linear.gradient.z)?;
        state.keep("v", v.axpy(-self.inner_rate, &residual)?);
        state.x = state.x.axpy(-self.outer_rate, &outer.x.sub(&product.mixed)?)?;
        state.steps += 1;
        Ok(state)
    }
}
