//! Two-timescale stochastic approximation.

use core_tensor::Batch;

use super::series::{Cursor, Series, fall, horizon};
use super::{Loop, LoopState};
use crate::error::{Result, at_least_one, positive};
use crate::problem::{Batches, Problem};

/// TTSA: one inner step, then one outer step with a rate that falls faster, so that `z` follows `x` ever more closely. The simplest stochastic loop, and
/// the slowest.
///
/// `z ← z − β_k∇z g(x, z)`, `x ← x − α_k(∇x f − (∂x∂z g)ᵀv)` at the new `z`, with `v = ηK∏_{j≤k}(I − ηHⱼ)∇z f` and `k` drawn from `0..K`.
/// `β_k = ρ(1 + k/m)^{−2/5}`, `α_k = γ(1 + k/m)^{−3/5}`.
///
/// | parameter | range | effect |
/// |---|---|---|
/// | `inner_rate` `ρ`, `outer_rate` `γ` | > 0 | at the start |
/// | `terms` `K`, `step` `η` | ≥ 1, > 0 | of the series; `1/L` |
/// | `horizon` `m` | > 0, ∞ for constant rates | steps over which rates fall; 1 in the paper |
/// | `seed` | | the draws |
///
/// Guarantees: nears the solution as the rates fall (test `drawn_series_near_the_solution`); resumes bit for bit. Cost a step: one gradient of each
/// objective and on average `K/2 + 1` products and linearisations; no memory. No projection: `x` is unconstrained.
///
/// M. Hong, H.-T. Wai, Z. Wang, Z. Yang, "A two-timescale stochastic algorithm framework for bilevel optimization: complexity analysis and application
/// to actor-critic", 2020 (arXiv:2007.05170), algorithm 1.
#[derive(Clone, Debug)]
pub struct Ttsa {
    inner_rate: f64,
    outer_rate: f64,
    terms: usize,
    step: f64,
    horizon: f64,
    seed: u64,
}

impl Ttsa {
    /// Rates, the series' terms and step, horizon, seed.
    ///
    /// # Errors
    /// A parameter error for 0 terms, rates that are not above zero and finite, a horizon that is not above zero.
    pub fn new(
        (inner_rate, outer_rate): (f64, f64),
        (terms, step): (usize, f64),
        horizon_: f64,
        seed: u64,
    ) -> Result<Self> {
        Ok(Self {
            inner_rate: positive("inner_rate", inner_rate)?,
            outer_rate: positive("outer_rate", outer_rate)?,
            terms: at_least_one("terms", terms)?,
            step: positive("step", step)?,
            horizon: horizon(horizon_)?,
            seed,
        })
    }
}

impl<I: Batch, O: Batch> Loop<I, O> for Ttsa {
    fn step(&self, problem: &Problem<I, O>, mut state: LoopState, batches: &Batches<I, O>) -> Result<LoopState> {
        problem.require_attached("the inner objective", |_| false)?;
        let series = Series::drawn(self.terms, self.step, self.seed, state.steps);
        let mut cursor = Cursor::new(state.steps, 1 + series.uses(), batches.inner.len())?;
        let index = cursor.take();
        let gradient = problem.inner_gradient(&state.x, &state.z, &batches.inner[index..=index])?;
        let (beta, alpha) = (fall(state.steps, self.horizon, 0.4), fall(state.steps, self.horizon, 0.6));
        state.z = state.z.axpy(-self.inner_rate * beta, &gradient.z)?;
        let h = series.hypergradient(problem, (&state.x, &state.z), batches, &mut cursor)?;
        state.x = state.x.axpy(-self.outer_rate * alpha, &h)?;
        state.steps += 1;
        Ok(state)
    }
}
