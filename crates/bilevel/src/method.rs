//! The hypergradient method as a value.

use core_tensor::{Batch, Tree};

use crate::certificate::Certificate;
use crate::error::Result;
use crate::problem::{Batches, Problem};

/// A hypergradient `dΦ/dx` of `Φ(x) = f(x, z(x))`, and what it can be trusted for.
#[derive(Clone, Debug)]
pub struct Hypergradient {
    /// `dΦ/dx`.
    pub gradient: Tree,
    /// `f(x, z)` at the inner point used.
    pub value: f64,
    /// The inner point at which the outer objective was taken: the point given, or the end of the unrolled steps.
    pub z: Tree,
    /// Residuals, counts and signs.
    pub certificate: Certificate,
}

/// A way to a hypergradient, whatever found `z`.
pub trait Method<I: Batch, O: Batch> {
    /// The hypergradient at `x`. Implicit methods take `z` for the solution of the inner problem, unrolled ones for its start.
    ///
    /// # Errors
    /// [`Error::Detached`](crate::Error::Detached); the errors of the method.
    fn hypergradient(
        &self,
        problem: &Problem<I, O>,
        x: &Tree,
        z: &Tree,
        batches: &Batches<I, O>,
    ) -> Result<Hypergradient>;

    /// The inner point `z(x)` whose outer objective this method differentiates, found from `z`.
    ///
    /// # Errors
    /// Those of the inner solver.
    fn inner_point(&self, problem: &Problem<I, O>, x: &Tree, z: &Tree, batches: &Batches<I, O>) -> Result<Tree>;
}
