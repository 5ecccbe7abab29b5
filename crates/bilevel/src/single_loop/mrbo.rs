//! Momentum-based recursive bilevel optimizer.

use core_tensor::{Batch, Tree};

use super::series::{Cursor, Series, fall, horizon};
use super::{Loop, LoopState};
use crate::error::{Result, positive, refuse};
use crate::problem::{Batches, Problem};

/// MRBO: recursive momentum (STORM) on the inner gradient and on the hypergradient, one step of each variable at once. Each estimate is corrected by the
/// same batches at the last point, so that noise falls without large batches.
///
/// `u_k = ∇z g(x_k, z_k) + (1 − β_k)(u_{k−1} − ∇z g(x_{k−1}, z_{k−1}))`, `v_k = h(x_k, z_k) + (1 − α_k)(v_{k−1} − h(x_{k−1}, z_{k−1}))` with `h` the
/// hypergradient by a Neumann series of `Q + 1` terms; `x ← x − γη_k·v_k`, `z ← z − ρη_k·u_k`. `η_k = (1 + k/m)^{−1/3}`,
/// `α_{k+1} = β_{k+1} = c·η_k²`.
///
/// | parameter | range | effect |
/// |---|---|---|
/// | `inner_rate` `ρ`, `outer_rate` `γ` | > 0 | at the start |
/// | `products` `Q`, `step` `η` | ≥ 0, > 0 | of the series, as for [`StocBio`](super::StocBio) |
/// | `momentum` `c` | `(0, 1]` | weight of the newest gradient at the start; 1 is none |
/// | `horizon` `m` | > 0, ∞ for constant rates | steps over which rates fall |
///
/// Guarantees: with full batches the recursion is the gradient itself, and it reaches the solution (tests `recursive_momentum_of_full_batches_is_none`,
/// `loops_reach_the_solution`); on drawn batches it ends nearer than without momentum (`recursive_momentum_lowers_the_noise`). Cost a step: twice that
/// of [`StocBio`](super::StocBio) with one inner step; memory the last point and two directions.
///
/// J. Yang, K. Ji, Y. Liang, "Provably faster algorithms for bilevel optimization", 2021 (arXiv:2106.04692), algorithm 1; the constants `d` and `m` of
/// its rates are written as the rates at the start.
#[derive(Clone, Debug)]
pub struct Mrbo {
    inner_rate: f64,
    outer_rate: f64,
    series: Series,
    momentum: f64,
    horizon: f64,
}

impl Mrbo {
    /// Rates, the series' products and step, momentum, horizon.
    ///
    /// # Errors
    /// A parameter error for rates that are not above zero and finite, a momentum outside `(0, 1]`, a horizon that is not above zero.
    pub fn new(
        (inner_rate, outer_rate): (f64, f64),
        (products, step): (usize, f64),
        momentum: f64,
        horizon_: f64,
    ) -> Result<Self> {
        Ok(Self {
            inner_rate: positive("inner_rate", inner_rate)?,
            outer_rate: positive("outer_rate", outer_rate)?,
            series: Series::Sum { products, step: positive("step", step)? },
            momentum: weight(momentum)?,
            horizon: horizon(horizon_)?,
        })
    }
}

impl<I: Batch, O: Batch> Loop<I, O> for Mrbo {
    fn step(&self, problem: &Problem<I, O>, mut state: LoopState, batches: &Batches<I, O>) -> Result<LoopState> {
        problem.require_attached("the inner objective", |_| false)?;
        let rate = fall(state.steps, self.horizon, 1.0 / 3.0);
        let keep = 1.0 - self.momentum * fall(state.steps.saturating_sub(1), self.horizon, 2.0 / 3.0);
        let (u, v) = recursive(problem, &mut state, batches, &self.series, (keep, keep))?;
        state.x = state.x.axpy(-self.outer_rate * rate, &v)?;
        state.z = state.z.axpy(-self.inner_rate * rate, &u)?;
        state.steps += 1;
        Ok(state)
    }
}

/// The recursive estimates of the inner gradient and the hypergradient at the state's point, which they remember with it. `keep` says how
/// much of the last ones stays.
pub(super) fn recursive<I: Batch, O: Batch>(
    problem: &Problem<I, O>,
    state: &mut LoopState,
    batches: &Batches<I, O>,
    series: &Series,
    keep: (f64, f64),
) -> Result<(Tree, Tree)> {
    let at = |x: &Tree, z: &Tree| {
        // The same batches at both points.
        let mut cursor = Cursor::new(state.steps, 1 + series.uses(), batches.inner.len())?;
        let index = cursor.take();
        let inner = problem.inner_gradient(x, z, &batches.inner[index..=index])?.z;
        Ok::<_, crate::Error>((inner, series.hypergradient(problem, (x, z), batches, &mut cursor)?))
    };
    let (mut u, mut v) = at(&state.x, &state.z)?;
    let last = ["x", "z", "u", "v"].map(|name| state.memory.get(name).cloned());
    if let [Some(x), Some(z), Some(last_u), Some(last_v)] = last {
        let (inner, outer) = at(&x, &z)?;
        u = u.axpy(keep.0, &last_u.sub(&inner)?)?;
        v = v.axpy(keep.1, &last_v.sub(&outer)?)?;
    }
    for (name, tree) in
        [("x", &state.x), ("z", &state.z), ("u", &u), ("v", &v)].map(|(name, tree)| (name, tree.clone()))
    {
        state.memory.insert(name.into(), tree);
    }
    Ok((u, v))
}

/// A number of `(0, 1]`.
pub(super) fn weight(value: f64) -> Result<f64> {
    match value > 0.0 && value <= 1.0 {
        true => Ok(value),
        false => refuse("momentum", value, "0 < value <= 1"),
    }
}
