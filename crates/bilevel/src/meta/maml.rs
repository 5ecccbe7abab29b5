//! Model-agnostic meta-learning.

use core_tensor::{Batch, Tree};
use rayon::prelude::*;

use crate::error::Result;
use crate::problem::{Batches, Problem};
use crate::unroll::{Unroll, Unrolled};
use crate::update::Update;

/// The mean over tasks of the query loss after adaptation, and its derivatives.
#[derive(Clone, Debug)]
pub struct MetaGradient {
    /// The mean query loss after adaptation.
    pub loss: f64,
    /// In the start of the adaptation.
    pub start: Tree,
    /// In `x`: learned rates, or what is not adapted.
    pub x: Tree,
}

/// MAML: the gradient, through `k` steps of adaptation on each task's support, of its query loss.
///
/// With gradient descent of rate `α` it is `∏ᵢ(I − αHᵢ)·∇L_q(θ_k)`, exact for any [`Update`]. Tasks run in parallel and are added up in their
/// order, so that the result does not depend on the number of threads (test `threads_do_not_matter`).
///
/// Cost a task: `k` gradients, `k` linearisations and products; first order, `k + 2` gradients.
///
/// C. Finn, P. Abbeel, S. Levine, "Model-agnostic meta-learning for fast adaptation of deep networks", 2017 (arXiv:1703.03400), algorithm 1;
/// Z. Li et al., "Meta-SGD", 2017 (arXiv:1707.09835); A. Raghu et al., "Rapid learning or feature reuse?", 2020 (arXiv:1909.09157; ANIL);
/// A. Antoniou, H. Edwards, A. Storkey, "How to train your MAML", 2019 (arXiv:1810.09502).
pub struct Maml<U> {
    unroll: Unroll<U>,
}

impl<U: Update> Maml<U> {
    /// An inner update and its number of steps.
    ///
    /// # Errors
    /// A parameter error for 0 steps.
    pub fn new(update: U, steps: usize) -> Result<Self> {
        Ok(Self { unroll: Unroll::new(update, steps)? })
    }

    /// FOMAML: the query gradient at the adapted point, as if adaptation had derivative one.
    pub fn first_order(self) -> Self {
        Self { unroll: self.unroll.truncate(0) }
    }

    /// Loss and gradients, the mean over `tasks`.
    ///
    /// # Errors
    /// No tasks; those of [`Unroll`], the first in the order of tasks.
    pub fn gradient<I: Batch + Sync, O: Batch + Sync>(
        &self,
        problem: &Problem<I, O>,
        x: &Tree,
        start: &Tree,
        tasks: &[Batches<I, O>],
    ) -> Result<MetaGradient> {
        let mut parts = parallel(tasks, |task| self.unroll.differentiate(problem, x, start, task))?.into_iter();
        let Unrolled { hypergradient: first, start: first_start } = parts.next().expect("at least one task");
        let (mut loss, mut in_x, mut in_start) = (first.value, first.gradient, first_start);
        for part in parts {
            loss += part.hypergradient.value;
            in_x = in_x.add(&part.hypergradient.gradient)?;
            in_start = in_start.add(&part.start)?;
        }
        let share = 1.0 / tasks.len() as f64;
        Ok(MetaGradient { loss: loss * share, start: in_start.scale(share), x: in_x.scale(share) })
    }

    /// The adapted point of one task.
    ///
    /// # Errors
    /// Those of [`Unroll::run`].
    pub fn adapt<I: Batch, O: Batch>(
        &self,
        problem: &Problem<I, O>,
        x: &Tree,
        start: &Tree,
        support: &[I],
    ) -> Result<Tree> {
        self.unroll.run(problem, x, start, support)
    }
}

/// What a function gives for each task, in their order. The first one runs alone, as it may have to record.
pub(super) fn parallel<T: Sync, R: Send>(tasks: &[T], of: impl Fn(&T) -> Result<R> + Send + Sync) -> Result<Vec<R>> {
    let none = core_tensor::Error::Length { what: "the list of tasks", expected: 1, actual: 0 };
    let (first, rest) = tasks.split_first().ok_or(none)?;
    let first = of(first)?;
    let rest: Vec<Result<R>> = rest.par_iter().map(of).collect();
    std::iter::once(Ok(first)).chain(rest).collect()
}
