//! What the stochastic loops share: hypergradients by Neumann series with a batch of its own for each product, and falling rates.

use core_tensor::{Batch, Random, Tree};

use crate::error::Result;
use crate::problem::{Batches, Linearization, Problem};

/// Which inner batches a step takes: one after the other, going on where the last step ended.
pub(super) struct Cursor {
    next: usize,
    count: usize,
}

impl Cursor {
    /// At the start of a step that takes `uses` batches of `count`.
    ///
    /// # Errors
    /// An empty list.
    pub fn new(steps: u64, uses: usize, count: usize) -> Result<Self> {
        if count == 0 {
            return Err(core_tensor::Error::Length { what: "the list of inner batches", expected: 1, actual: 0 }.into());
        }
        Ok(Self { next: ((steps % count as u64) as usize * (uses % count)) % count, count })
    }

    pub fn take(&mut self) -> usize {
        let index = self.next;
        self.next = (index + 1) % self.count;
        index
    }
}

/// How the inverse Hessian is estimated: `Σ_{q=0}^{Q} η∏(I − ηHⱼ)`, or one term of it drawn at random and scaled to the same mean.
#[derive(Clone, Debug)]
pub(super) enum Series {
    /// All `Q + 1` terms.
    Sum {
        /// `Q`.
        products: usize,
        /// `η`.
        step: f64,
    },
    /// `ηK∏_{j=1}^{k}(I − ηHⱼ)` with `k` drawn from `0..K`.
    Drawn {
        /// `K`.
        terms: usize,
        /// `η`.
        step: f64,
        /// `k` of this step.
        drawn: usize,
    },
}

impl Series {
    /// One of `terms`, drawn for this step.
    pub fn drawn(terms: usize, step: f64, seed: u64, steps: u64) -> Self {
        let drawn = Random::new(seed).fork(steps.to_le_bytes()).below(terms as u64) as usize;
        Self::Drawn { terms, step, drawn }
    }

    /// Inner batches that a hypergradient takes at most.
    pub fn uses(&self) -> usize {
        match self {
            Self::Sum { products, .. } => products + 1,
            Self::Drawn { terms, .. } => *terms,
        }
    }

    /// `∇x f − (∂x∂z g)ᵀv` with `v` the series times `∇z f`. Each factor takes the next inner batch, the mixed product one more.
    pub fn hypergradient<I: Batch, O: Batch>(
        &self,
        problem: &Problem<I, O>,
        (x, z): (&Tree, &Tree),
        batches: &Batches<I, O>,
        cursor: &mut Cursor,
    ) -> Result<Tree> {
        let outer = problem.outer_gradient(x, z, &batches.outer)?;
        let mut last: Option<(usize, Linearization<'_, I, O>)> = None;
        let mut along = |v: &Tree| {
            let index = cursor.take();
            let linear = match last.take() {
                Some((at, linear)) if at == index => linear,
                _ => problem.linearize(x, z, &batches.inner[index..=index])?,
            };
            let product = linear.along_z(v)?;
            last = Some((index, linear));
            Ok::<_, crate::Error>(product)
        };
        let mut term = outer.z;
        let v = match *self {
            Self::Sum { products, step } => {
                let mut sum = term.clone();
                for _ in 0..products {
                    let product = along(&term)?.hessian;
                    term = term.axpy(-step, &product)?;
                    sum = sum.add(&term)?;
                }
                sum.scale(step)
            }
            Self::Drawn { terms, step, drawn } => {
                for _ in 0..drawn {
                    let product = along(&term)?.hessian;
                    term = term.axpy(-step, &product)?;
                }
                term.scale(step * terms as f64)
            }
        };
        let mixed = along(&v)?.mixed;
        Ok(outer.x.axpy(-1.0, &mixed)?)
    }
}

/// `(1 + k/horizon)^{−power}`: one at the start, half of it for power 1 after `horizon` steps; an infinite horizon keeps it one.
pub(super) fn fall(steps: u64, horizon: f64, power: f64) -> f64 {
    (1.0 + steps as f64 / horizon).powf(-power)
}

/// A horizon: above zero, infinite for constant rates.
pub(super) fn horizon(value: f64) -> Result<f64> {
    match value > 0.0 {
        true => Ok(value),
        false => crate::error::refuse("horizon", value, "value > 0"),
    }
}
