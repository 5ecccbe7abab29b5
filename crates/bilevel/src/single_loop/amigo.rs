//! Amortized implicit gradient optimization.

use core_tensor::Batch;

use super::series::Cursor;
use super::{Loop, LoopState};
use crate::error::{Result, at_least_one, positive};
use crate::problem::{Batches, Problem};

/// AmIGO: a few steps on the inner problem and a few on the linear system, both warm-started, then one outer step: as cheap as unconverged solves,
/// as accurate in the end as converged ones.
///
/// `z ← z − ρ∇z g(x, z)` `T` times; `v ← v − σ(Hv − ∇z f)` `N` times; `x ← x − γ(∇x f − (∂x∂z g)ᵀv)`.
///
/// | parameter | range | effect |
/// |---|---|---|
/// | `inner_steps` `T`, `inner_rate` `ρ` | ≥ 1, > 0 | of `z`, below `2/L` |
/// | `linear_steps` `N`, `linear_rate` `σ` | ≥ 1, > 0 | of `v`, below `2/L` |
/// | `outer_rate` `γ` | > 0 | of `x` |
///
/// Inner batches are taken in turn, `T + N + 1` a step, going on from step to step; outer ones are averaged. Guarantees: reaches the solution at
/// constant rates (test `loops_reach_the_solution`). Cost a step: `T` gradients, one of `f`, `N + 1` products and linearisations (one, with a single
/// batch); memory `v`.
///
/// M. Arbel, J. Mairal, "Amortized implicit differentiation for stochastic bilevel optimization", 2022 (arXiv:2111.14580), algorithm 1, with the
/// opposite sign of `v`.
#[derive(Clone, Debug)]
pub struct Amigo {
    inner_steps: usize,
    inner_rate: f64,
    linear_steps: usize,
    linear_rate: f64,
    outer_rate: f64,
}

impl Amigo {
    /// Inner steps and rate, linear steps and rate, outer rate.
    ///
    /// # Errors
    /// A parameter error for 0 steps or rates that are not above zero and finite.
    pub fn new(inner: (usize, f64), linear: (usize, f64), outer_rate: f64) -> Result<Self> {
        Ok(Self {
            inner_steps: at_least_one("inner_steps", inner.0)?,
            inner_rate: positive("inner_rate", inner.1)?,
            linear_steps: at_least_one("linear_steps", linear.0)?,
            linear_rate: positive("linear_rate", linear.1)?,
            outer_rate: positive("outer_rate", outer_rate)?,
        })
    }
}

impl<I: Batch, O: Batch> Loop<I, O> for Amigo {
    fn step(&self, problem: &Problem<I, O>, mut state: LoopState, batches: &Batches<I, O>) -> Result<LoopState> {
        problem.require_attached("the inner objective", |_| false)?;
        let uses = self.inner_steps + self.linear_steps + 1;
        let mut cursor = Cursor::new(state.steps, uses, batches.inner.len())?;
        for _ in 0..self.inner_steps {
            let index = cursor.take();
            let gradient = problem.inner_gradient(&state.x, &state.z, &batches.inner[index..=index])?;
            state.z = state.z.axpy(-self.inner_rate, &gradient.z)?;
        }
        let mut v = state.take("v", &state.z.clone());
        let outer = problem.outer_gradient(&state.x, &state.z, &batches.outer)?;
        let mut last = None;
        for step in 0..=self.linear_steps {
            let index = cursor.take();
            let linear = match last.take() {
                Some((at, linear)) if at == index => linear,
                _ => problem.linearize(&state.x, &state.z, &batches.inner[index..=index])?,
            };
            let product = linear.along_z(&v)?;
            last = Some((index, linear));
            if step < self.linear_steps {
                v = v.axpy(-self.linear_rate, &product.hessian.sub(&outer.z)?)?;
            } else {
                let h = outer.x.clone().sub(&product.mixed)?;
                state.x = state.x.clone().axpy(-self.outer_rate, &h)?;
            }
        }
        drop(last);
        state.keep("v", v);
        state.steps += 1;
        Ok(state)
    }
}
