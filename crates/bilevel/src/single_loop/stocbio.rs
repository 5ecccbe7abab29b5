//! The stochastic bilevel optimizer.

use core_tensor::Batch;

use super::series::{Cursor, Series};
use super::{Loop, LoopState};
use crate::error::{Result, at_least_one, positive};
use crate::problem::{Batches, Problem};

/// stocBiO: inner steps on a batch each, warm-started, then an outer step along a Neumann series whose products take a batch each.
///
/// `z ← z − ρ∇z g(x, z; Sₜ)` for `t < T`; `v = η·Σ_{q=0}^{Q} ∏_{j≤q}(I − ηHⱼ)·∇z f`; `x ← x − γ(∇x f − (∂x∂z g)ᵀv)`.
///
/// | parameter | range | effect |
/// |---|---|---|
/// | `inner_steps` `T` | ≥ 1 | |
/// | `inner_rate` `ρ` | > 0 | of `z`, below `2/L` |
/// | `outer_rate` `γ` | > 0 | of `x` |
/// | `products` `Q` | ≥ 0 | bias `(1 − ημ)^{Q+1}/μ` |
/// | `step` `η` | > 0 | of the series, below `2/L`; `1/L` is usual |
///
/// Inner batches are taken in turn, `T + Q + 1` a step, going on from step to step; outer ones are averaged. Guarantees: on one batch it is
/// [`Alternating`](super::Alternating) with [`Neumann`](crate::Neumann) (test `stocbio_on_one_batch_is_aid_with_neumann`) and reaches the solution
/// (`loops_reach_the_solution`). Cost a step: `T` gradients, one of `f`, `Q + 1` products and linearisations (one, with a single batch); no memory.
///
/// K. Ji, J. Yang, Y. Liang, "Bilevel optimization: convergence analysis and enhanced design", 2021 (arXiv:2010.07962), algorithms 2 and 3.
#[derive(Clone, Debug)]
pub struct StocBio {
    inner_steps: usize,
    inner_rate: f64,
    outer_rate: f64,
    series: Series,
}

impl StocBio {
    /// Inner steps and rate, outer rate, products and step of the series.
    ///
    /// # Errors
    /// A parameter error for 0 inner steps or rates that are not above zero and finite.
    pub fn new(inner_steps: usize, inner_rate: f64, outer_rate: f64, products: usize, step: f64) -> Result<Self> {
        Ok(Self {
            inner_steps: at_least_one("inner_steps", inner_steps)?,
            inner_rate: positive("inner_rate", inner_rate)?,
            outer_rate: positive("outer_rate", outer_rate)?,
            series: Series::Sum { products, step: positive("step", step)? },
        })
    }
}

impl<I: Batch, O: Batch> Loop<I, O> for StocBio {
    fn step(&self, problem: &Problem<I, O>, mut state: LoopState, batches: &Batches<I, O>) -> Result<LoopState> {
        problem.require_attached("the inner objective", |_| false)?;
        let uses = self.inner_steps + self.series.uses();
        let mut cursor = Cursor::new(state.steps, uses, batches.inner.len())?;
        for _ in 0..self.inner_steps {
            let index = cursor.take();
            let gradient = problem.inner_gradient(&state.x, &state.z, &batches.inner[index..=index])?;
            state.z = state.z.axpy(-self.inner_rate, &gradient.z)?;
        }
        let h = self.series.hypergradient(problem, (&state.x, &state.z), batches, &mut cursor)?;
        state.x = state.x.axpy(-self.outer_rate, &h)?;
        state.steps += 1;
        Ok(state)
    }
}
