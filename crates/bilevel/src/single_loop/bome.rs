//! Bilevel optimisation made easy.

use core_tensor::Batch;

use super::series::{fall, horizon};
use super::{Loop, LoopState};
use crate::error::{Result, at_least_one, positive};
use crate::problem::{Batches, Problem};

/// BOME: descend on `f` in `(x, z)` with just enough of the inner gap `q = g(x, z) − g(x, z_T)` that it falls too. First derivatives only, no
/// penalty to choose.
///
/// `z_T` by `T` inner steps from `z`; `λ = max(0, η − ⟨∇f, ∇q⟩/‖∇q‖²)` (0 where `∇q = 0`), `(x, z) ← (x, z) − ξ(∇f + λ∇q)`.
///
/// | parameter | range | effect |
/// |---|---|---|
/// | `inner_steps` `T` | ≥ 1 | accuracy of the gap |
/// | `inner_rate` | > 0 | of these steps |
/// | `rate` `ξ` | > 0 | of `x` and `z` |
/// | `eta` `η` | > 0 | how fast the gap has to fall |
/// | `horizon` `m` | ∞, > 0 | `ξ_k = ξ(1 + k/m)^{−1/2}`; ∞ keeps it constant |
///
/// At a constant `ξ` it stalls: the multiplier is about `‖∇f‖/‖∇q‖`, which a step can only follow while `ξλ < 2/L`, so `‖∇q‖`, and with it the error,
/// stays above a multiple of `ξ`. The paper's rate for `K` steps, `ξ = O(K^{−1/2})`, is what `horizon` does without knowing `K` (test
/// `bome_needs_a_falling_rate`). Cost a step: `T + 3` gradients. M. Ye et al., "BOME! Bilevel optimization made easy: a simple first-order approach", 2022
/// (arXiv:2209.08709), algorithm 1 with `φ = η‖∇q‖²`.
#[derive(Clone, Debug)]
pub struct Bome {
    inner_steps: usize,
    inner_rate: f64,
    rate: f64,
    eta: f64,
    horizon: f64,
}

impl Bome {
    /// Inner steps and rate, rate, and `η`.
    ///
    /// # Errors
    /// A parameter error for numbers that are not above zero and finite.
    pub fn new(inner_steps: usize, inner_rate: f64, rate: f64, eta: f64) -> Result<Self> {
        let (inner_rate, rate) = (positive("inner_rate", inner_rate)?, positive("rate", rate)?);
        Ok(Self {
            inner_steps: at_least_one("inner_steps", inner_steps)?,
            inner_rate,
            rate,
            eta: positive("eta", eta)?,
            horizon: f64::INFINITY,
        })
    }

    /// A rate that falls as `(1 + k/m)^{−1/2}`.
    ///
    /// # Errors
    /// A parameter error for a horizon that is not above zero.
    pub fn horizon(self, steps: f64) -> Result<Self> {
        Ok(Self { horizon: horizon(steps)?, ..self })
    }
}

impl<I: Batch, O: Batch> Loop<I, O> for Bome {
    fn step(&self, problem: &Problem<I, O>, mut state: LoopState, batches: &Batches<I, O>) -> Result<LoopState> {
        problem.require_attached("the inner objective", |_| false)?;
        let (x, z) = (state.x.clone(), state.z.clone());
        let here = problem.inner_gradient(&x, &z, &batches.inner)?;
        let mut solved = z.clone().axpy(-self.inner_rate, &here.z)?;
        for _ in 1..self.inner_steps {
            let gradient = problem.inner_gradient(&x, &solved, &batches.inner)?;
            solved = solved.axpy(-self.inner_rate, &gradient.z)?;
        }
        let there = problem.inner_gradient(&x, &solved, &batches.inner)?;
        let (gap_x, gap_z) = (here.x.sub(&there.x)?, here.z);
        let f = problem.outer_gradient(&x, &z, &batches.outer)?;
        let square = gap_x.dot(&gap_x)?.value() + gap_z.dot(&gap_z)?.value();
        let product = f.x.dot(&gap_x)?.value() + f.z.dot(&gap_z)?.value();
        // Where the gap has no gradient there is nothing to descend along, and 0/0 to avoid.
        let lambda = if square > 0.0 { (self.eta - product / square).max(0.0) } else { 0.0 };
        // A subnormal square can still overflow the quotient; the product with the gap would be NaN or infinite.
        let lambda = if lambda.is_finite() { lambda } else { 0.0 };
        let rate = self.rate * fall(state.steps, self.horizon, 0.5);
        state.x = x.axpy(-rate, &f.x)?.axpy(-rate * lambda, &gap_x)?;
        state.z = z.axpy(-rate, &f.z)?.axpy(-rate * lambda, &gap_z)?;
        state.steps += 1;
        Ok(state)
    }
}
