//! SOBA with variance reduction.

use core_tensor::{Batch, Random, Tree};

use super::{Loop, LoopState};
use crate::error::{Result, positive};
use crate::problem::{Batches, Problem};

/// SABA: [`Soba`](super::Soba) on one inner and one outer batch a step, drawn from a fixed list, with SAGA's tables: constant rates
/// converge as with full batches.
///
/// Each of the five sums over batches is estimated by `qᵢ − tableᵢ + mean(table)`, after which `tableᵢ ← qᵢ`. The first step fills the
/// tables from all batches. With one batch it is SOBA (test `saba_on_one_batch_is_soba`).
///
/// | parameter | range | effect |
/// |---|---|---|
/// | `inner_rate`, `outer_rate` | > 0 | as for SOBA |
/// | `seed` | | which batch in which step |
///
/// The list of batches has to stay the same from step to step. Cost a step: that of SOBA on one batch; memory `n·(2z + x)` trees for `n`
/// inner and `m·(z + x)` for `m` outer batches. M. Dagréou et al. 2022 (arXiv:2201.13409), section 3.
#[derive(Clone, Debug)]
pub struct Saba {
    inner_rate: f64,
    outer_rate: f64,
    seed: u64,
}

impl Saba {
    /// Rates, and the seed of the draws.
    ///
    /// # Errors
    /// A parameter error unless both rates are above zero and finite.
    pub fn new(inner_rate: f64, outer_rate: f64, seed: u64) -> Result<Self> {
        let inner_rate = positive("inner_rate", inner_rate)?;
        Ok(Self { inner_rate, outer_rate: positive("outer_rate", outer_rate)?, seed })
    }
}

impl<I: Batch, O: Batch> Loop<I, O> for Saba {
    fn step(&self, problem: &Problem<I, O>, mut state: LoopState, batches: &Batches<I, O>) -> Result<LoopState> {
        problem.require_attached("the inner objective", |_| false)?;
        let v = state.take("v", &state.z.clone());
        let (x, z) = (state.x.clone(), state.z.clone());
        let inner = |index: usize| {
            let linear = problem.linearize(&x, &z, &batches.inner[index..=index])?;
            let product = linear.along_z(&v)?;
            Ok(vec![linear.gradient.z, product.hessian, product.mixed])
        };
        let outer = |index: usize| {
            let gradient = problem.outer_gradient(&x, &z, &batches.outer[index..=index])?;
            Ok(vec![gradient.z, gradient.x])
        };
        let mut random = Random::new(self.seed).fork(state.steps.to_le_bytes());
        let inner = estimate(&mut state, "inner", batches.inner.len(), &mut random, inner)?;
        let outer = estimate(&mut state, "outer", batches.outer.len(), &mut random, outer)?;
        let residual = inner[1].clone().sub(&outer[0])?;
        state.z = state.z.axpy(-self.inner_rate, &inner[0])?;
        state.keep("v", v.axpy(-self.inner_rate, &residual)?);
        state.x = state.x.axpy(-self.outer_rate, &outer[1].clone().sub(&inner[2])?)?;
        state.steps += 1;
        Ok(state)
    }
}

/// SAGA's estimate of the mean over batches of the trees that `of` gives.
fn estimate(
    state: &mut LoopState,
    what: &str,
    count: usize,
    random: &mut Random,
    of: impl Fn(usize) -> Result<Vec<Tree>>,
) -> Result<Vec<Tree>> {
    if count == 0 {
        return Err(core_tensor::Error::Length { what: "the list of batches", expected: 1, actual: 0 }.into());
    }
    let key = |index: String, part: usize| format!("{what}/{index}/{part}");
    let share = 1.0 / count as f64;
    if !state.memory.contains_key(&key("mean".into(), 0)) {
        let mut means: Vec<Tree> = Vec::new();
        for index in 0..count {
            for (part, tree) in of(index)?.into_iter().enumerate() {
                match means.get_mut(part) {
                    Some(mean) => *mean = std::mem::take(mean).axpy(share, &tree)?,
                    None => means.push(tree.clone().scale(share)),
                }
                state.keep(key(index.to_string(), part), tree);
            }
        }
        for (part, mean) in means.iter().enumerate() {
            state.keep(key("mean".into(), part), mean.clone());
        }
        return Ok(means);
    }
    let index = random.below(count as u64) as usize;
    let mut estimates = Vec::new();
    for (part, new) in of(index)?.into_iter().enumerate() {
        let old = state.take(&key(index.to_string(), part), &new);
        let mean = state.take(&key("mean".into(), part), &new);
        let change = new.clone().sub(&old)?;
        estimates.push(mean.clone().add(&change)?);
        state.keep(key("mean".into(), part), mean.axpy(share, &change)?);
        state.keep(key(index.to_string(), part), new);
    }
    Ok(estimates)
}
