//! Inner steps, then one outer step by any hypergradient method.

use core_tensor::{Batch, Tree};

use super::{Loop, LoopState};
use crate::error::{Result, positive};
use crate::method::Method;
use crate::problem::{Batches, Problem};
use crate::unroll::Unroll;
use crate::update::Update;

/// The double loop: some inner steps from where the last ones ended, then `x ← x − γ·h` with the hypergradient of a method.
///
/// With [`Implicit`](crate::Implicit) it is AID (K. Ji, J. Yang, Y. Liang, "Bilevel optimization: convergence analysis and enhanced
/// design", 2021, arXiv:2010.07962, algorithm 1), whose stochastic form is [`StocBio`](super::StocBio); with [`Unroll`] it is ITD, whose own steps
/// start at the `z` reached and are then kept.
pub struct Alternating<U, M> {
    inner: Unroll<U>,
    method: M,
    rate: f64,
}

impl<U: Update, M> Alternating<U, M> {
    /// Inner update and its steps, method, outer rate `γ`.
    ///
    /// # Errors
    /// A parameter error for 0 steps or a rate that is not above zero and finite.
    pub fn new(update: U, steps: usize, method: M, rate: f64) -> Result<Self> {
        Ok(Self { inner: Unroll::new(update, steps)?, method, rate: positive("rate", rate)? })
    }
}

impl<U: Update, M: Method<I, O>, I: Batch, O: Batch> Loop<I, O> for Alternating<U, M> {
    fn step(&self, problem: &Problem<I, O>, mut state: LoopState, batches: &Batches<I, O>) -> Result<LoopState> {
        let z: Tree = self.inner.run(problem, &state.x, &state.z, &batches.inner)?;
        let h = self.method.hypergradient(problem, &state.x, &z, batches)?;
        state.x = state.x.axpy(-self.rate, &h.gradient)?;
        state.z = h.z;
        state.steps += 1;
        Ok(state)
    }
}
