//! The fully first-order method.

use core_tensor::Batch;

use super::{Loop, LoopState};
use crate::error::{Result, not_negative, positive};
use crate::problem::{Batches, Problem};

/// F²SA: the inner solution `z` and the penalised one `y` follow `x` by a step each; `x` descends along the penalty's gradient. No second
/// derivatives.
///
/// `z ← z − ρ∇z g(x, z)`, `y ← y − ρ(∇z f(x, y)/λ + ∇z g(x, y))`, `x ← x − γ(∇x f(x, y) + λ(∇x g(x, y) − ∇x g(x, z)))`, then
/// `λ ← λ + δ`.
///
/// | parameter | range | effect |
/// |---|---|---|
/// | `inner_rate` `ρ` | > 0 | of `z` and `y` |
/// | `outer_rate` `γ` | > 0 | of `x`; need not fall with `λ`, as `λ(y − z)` moves like SOBA's `−v` whatever `λ` is |
/// | `lambda` | > 0 | `λ` at the start |
/// | `growth` `δ` | ≥ 0 | a step; the bias is `O(1/λ)` |
///
/// Cost a step: four gradients; memory `y`. J. Kwon et al. 2023 (arXiv:2301.10945), algorithm 1, one inner step.
#[derive(Clone, Debug)]
pub struct F2sa {
    inner_rate: f64,
    outer_rate: f64,
    lambda: f64,
    growth: f64,
}

impl F2sa {
    /// Rates, penalty and its growth.
    ///
    /// # Errors
    /// A parameter error unless rates and penalty are above zero, the growth is not negative, all finite.
    pub fn new(inner_rate: f64, outer_rate: f64, lambda: f64, growth: f64) -> Result<Self> {
        let (inner_rate, outer_rate) = (positive("inner_rate", inner_rate)?, positive("outer_rate", outer_rate)?);
        Ok(Self {
            inner_rate,
            outer_rate,
            lambda: positive("lambda", lambda)?,
            growth: not_negative("growth", growth)?,
        })
    }
}

impl<I: Batch, O: Batch> Loop<I, O> for F2sa {
    fn step(&self, problem: &Problem<I, O>, mut state: LoopState, batches: &Batches<I, O>) -> Result<LoopState> {
        problem.require_attached("the inner objective", |_| false)?;
        let lambda = self.lambda + self.growth * state.steps as f64;
        let (x, z) = (&state.x, &state.z);
        let y = state.memory.get("y").unwrap_or(z).clone();
        let at_z = problem.inner_gradient(x, z, &batches.inner)?;
        let (f, g) = (problem.outer_gradient(x, &y, &batches.outer)?, problem.inner_gradient(x, &y, &batches.inner)?);
        let gradient = f.x.axpy(lambda, &g.x.sub(&at_z.x)?)?;
        state.z = state.z.axpy(-self.inner_rate, &at_z.z)?;
        state.keep("y", y.axpy(-self.inner_rate / lambda, &f.z)?.axpy(-self.inner_rate, &g.z)?);
        state.x = state.x.axpy(-self.outer_rate, &gradient)?;
        state.steps += 1;
        Ok(state)
    }
}
