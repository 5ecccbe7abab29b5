//! Value-function penalty-based bilevel gradient descent.

use core_tensor::Batch;

use super::{Loop, LoopState};
use crate::error::{Result, at_least_one, positive};
use crate::problem::{Batches, Problem};

/// V-PBGD: descend on `f + γ(g − v)` in `(x, z)` at once, where the value function `v(x) = min g(x, ·)` is followed by a few inner steps. First
/// derivatives only; take it where [`F2sa`](super::F2sa) is wanted with a fixed penalty.
///
/// `ω` by `T` steps `ω ← ω − β∇z g(x, ω)` from `ω = z`; then `x ← x − α(∇x f + γ(∇x g(x, z) − ∇x g(x, ω)))` and
/// `z ← z − α(∇z f + γ∇z g(x, z))`.
///
/// | parameter | range | effect |
/// |---|---|---|
/// | `inner_steps` `T` | ≥ 1 | accuracy of the value function |
/// | `inner_rate` `β` | > 0 | of these steps, below `2/L_g` |
/// | `rate` `α` | > 0 | of `x` and `z`, below `2/L` of `f + γ(g − v)` in both |
/// | `gamma` `γ` | > 0 | bias `O(1/γ)` against conditioning |
///
/// Guarantees: for `g = ½(z − x)²`, `f = ½(z − b)² + c/2·x²` it ends at `x = κb/(c + κ)` with `κ = γ/(1 + γ)` (test
/// `v_pbgd_of_a_quadratic_in_closed_form`), which is the bilevel solution but for `O(1/γ)`. Cost a step: `T + 3` gradients, no memory besides. No projection: `x` is unconstrained, see [`parameterise`](crate::parameterise).
///
/// H. Shen, T. Chen, "On penalty-based bilevel gradient descent method", 2023 (arXiv:2302.05185), algorithm 1.
#[derive(Clone, Debug)]
pub struct VPbgd {
    inner_steps: usize,
    inner_rate: f64,
    rate: f64,
    gamma: f64,
}

impl VPbgd {
    /// Inner steps and rate, rate, and `γ`.
    ///
    /// # Errors
    /// A parameter error for 0 steps or numbers that are not above zero and finite.
    pub fn new(inner_steps: usize, inner_rate: f64, rate: f64, gamma: f64) -> Result<Self> {
        Ok(Self {
            inner_steps: at_least_one("inner_steps", inner_steps)?,
            inner_rate: positive("inner_rate", inner_rate)?,
            rate: positive("rate", rate)?,
            gamma: positive("gamma", gamma)?,
        })
    }
}

impl<I: Batch, O: Batch> Loop<I, O> for VPbgd {
    fn step(&self, problem: &Problem<I, O>, mut state: LoopState, batches: &Batches<I, O>) -> Result<LoopState> {
        problem.require_attached("the inner objective", |_| false)?;
        let (x, z) = (state.x.clone(), state.z.clone());
        let here = problem.inner_gradient(&x, &z, &batches.inner)?;
        let mut omega = z.clone().axpy(-self.inner_rate, &here.z)?;
        for _ in 1..self.inner_steps {
            let gradient = problem.inner_gradient(&x, &omega, &batches.inner)?;
            omega = omega.axpy(-self.inner_rate, &gradient.z)?;
        }
        let there = problem.inner_gradient(&x, &omega, &batches.inner)?;
        let f = problem.outer_gradient(&x, &z, &batches.outer)?;
        state.x = x.axpy(-self.rate, &f.x.axpy(self.gamma, &here.x.sub(&there.x)?)?)?;
        state.z = z.axpy(-self.rate, &f.z.axpy(self.gamma, &here.z)?)?;
        state.steps += 1;
        Ok(state)
    }
}
