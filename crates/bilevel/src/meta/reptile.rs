//! Reptile.

use core_tensor::{Batch, Tree};

use super::maml::parallel;
use crate::error::{Result, positive};
use crate::problem::{Batches, Problem};
use crate::unroll::Unroll;
use crate::update::Update;

/// Reptile: `θ ← θ + ε(φ̄ − θ)` with `φ̄` the mean of the points adapted to each task. No derivative through the adaptation, no query set.
///
/// | parameter | range | effect |
/// |---|---|---|
/// | `update`, `steps` | ≥ 1 | the adaptation; with one step it is joint training, so take several |
/// | `rate` `ε` | > 0 | 1 is the mean itself |
///
/// A. Nichol, J. Achiam, J. Schulman, "On first-order meta-learning algorithms", 2018 (arXiv:1803.02999), algorithm 2.
pub struct Reptile<U> {
    unroll: Unroll<U>,
    rate: f64,
}

impl<U: Update> Reptile<U> {
    /// Update, steps and rate.
    ///
    /// # Errors
    /// A parameter error for 0 steps or a rate that is not above zero and finite.
    pub fn new(update: U, steps: usize, rate: f64) -> Result<Self> {
        Ok(Self { unroll: Unroll::new(update, steps)?, rate: positive("rate", rate)? })
    }

    /// The next start.
    ///
    /// # Errors
    /// No tasks; those of [`Unroll::run`].
    pub fn step<I: Batch + Sync, O: Batch + Sync>(
        &self,
        problem: &Problem<I, O>,
        x: &Tree,
        start: Tree,
        tasks: &[Batches<I, O>],
    ) -> Result<Tree> {
        let adapted = parallel(tasks, |task| self.unroll.run(problem, x, &start, &task.inner))?;
        let mut sum = start.zeros_like();
        for point in &adapted {
            sum = sum.add(point)?;
        }
        Ok(start.lerp(&sum.scale(1.0 / tasks.len() as f64), self.rate)?)
    }
}
