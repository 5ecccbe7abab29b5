//! Single-timescale double-momentum stochastic approximation.

use core_tensor::Batch;

use super::mrbo::{recursive, weight};
use super::series::{Series, fall, horizon};
use super::{Loop, LoopState};
use crate::error::{Result, at_least_one, positive};
use crate::problem::{Batches, Problem};

/// SUSTAIN: recursive momentum on both variables on one time scale, with a hypergradient that draws a single term of the Neumann series: the cheapest
/// unbiased one but for the series' end.
///
/// The estimates are [`Mrbo`](super::Mrbo)'s with `h = ∇x f − (∂x∂z g)ᵀ·ηK∏_{j≤k}(I − ηHⱼ)∇z f`, `k` drawn from `0..K`, the same at both points.
/// `z ← z − ρη_k·u_k`, `x ← x − γη_k·v_k`, `η_k = (1 + k/m)^{−1/3}`, momenta `c·η_k²`.
///
/// | parameter | range | effect |
/// |---|---|---|
/// | `inner_rate` `ρ`, `outer_rate` `γ` | > 0 | at the start |
/// | `terms` `K`, `step` `η` | ≥ 1, > 0 | of the series; `1/L` |
/// | `momentum` `c` | `(0, 1]` | weight of the newest gradient at the start |
/// | `horizon` `m` | > 0, ∞ for constant rates | steps over which rates fall |
/// | `seed` | | the draws |
///
/// Guarantees: nears the solution as the rates fall (test `drawn_series_near_the_solution`); resumes bit for bit. Cost a step: on average `K/2 + 1` products
/// and linearisations at each of two points; memory as for MRBO.
///
/// P. Khanduri, S. Zeng, M. Hong, H.-T. Wai, Z. Wang, Z. Yang, "A near-optimal algorithm for stochastic bilevel optimization via double-momentum",
/// 2021 (arXiv:2102.07367), algorithm 1.
#[derive(Clone, Debug)]
pub struct Sustain {
    inner_rate: f64,
    outer_rate: f64,
    terms: usize,
    step: f64,
    momentum: f64,
    horizon: f64,
    seed: u64,
}

impl Sustain {
    /// Rates, the series' terms and step, momentum, horizon, seed.
    ///
    /// # Errors
    /// A parameter error for 0 terms, rates that are not above zero and finite, a momentum outside `(0, 1]`, a horizon that is not above zero.
    pub fn new(
        (inner_rate, outer_rate): (f64, f64),
        (terms, step): (usize, f64),
        momentum: f64,
        horizon_: f64,
        seed: u64,
    ) -> Result<Self> {
        Ok(Self {
            inner_rate: positive("inner_rate", inner_rate)?,
            outer_rate: positive("outer_rate", outer_rate)?,
            terms: at_least_one("terms", terms)?,
            step: positive("step", step)?,
            momentum: weight(momentum)?,
            horizon: horizon(horizon_)?,
            seed,
        })
    }
}

impl<I: Batch, O: Batch> Loop<I, O> for Sustain {
    fn step(&self, problem: &Problem<I, O>, mut state: LoopState, batches: &Batches<I, O>) -> Result<LoopState> {
        problem.require_attached("the inner objective", |_| false)?;
        let rate = fall(state.steps, self.horizon, 1.0 / 3.0);
        let keep = 1.0 - self.momentum * fall(state.steps.saturating_sub(1), self.horizon, 2.0 / 3.0);
        let series = Series::drawn(self.terms, self.step, self.seed, state.steps);
        let (u, v) = recursive(problem, &mut state, batches, &series, (keep, keep))?;
        state.z = state.z.axpy(-self.inner_rate * rate, &u)?;
        state.x = state.x.axpy(-self.outer_rate * rate, &v)?;
        state.steps += 1;
        Ok(state)
    }
}
