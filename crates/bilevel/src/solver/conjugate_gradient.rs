//! Conjugate gradients.

use core_tensor::Tree;

use super::{LinearSolver, Operator};
use crate::error::{Error, Result, at_least_one, not_negative};

/// What to do where the Hessian does not curve upwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NegativeCurvature {
    /// Fail with [`Error::IndefiniteCurvature`].
    Fail,
    /// Keep the solution so far; fail if there is none yet.
    Stop,
    /// Raise the damping above what the direction needs, and start again.
    Damp,
}

/// Conjugate gradients: the solver of choice where the inner problem is solved and its Hessian positive definite.
///
/// `v₀ = 0`, `p₀ = r₀ = b`; `α = rᵀr/pᵀAp`, `v ← v + αp`, `r ← r − αAp`, `p ← r + (r'ᵀr'/rᵀr)p`. Stops at
/// `‖r‖ ≤ tolerance·‖b‖`.
///
/// | parameter | default | range | effect |
/// |---|---|---|---|
/// | `iterations` | – | ≥ 1 | products at most; the dimension is enough but for rounding |
/// | `tolerance` | 1e-10 | ≥ 0 | relative residual at which it stops |
/// | `negative_curvature` | `Fail` | | what `pᵀAp ≤ 0` does |
///
/// Cost: one product an iteration, four trees, three host synchronisations an iteration on a GPU. Equals a dense solve after as
/// many iterations as dimensions (test `solvers_agree`). M. R. Hestenes, E. Stiefel, "Methods of conjugate gradients for solving
/// linear systems", 1952; for hypergradients F. Pedregosa, "Hyperparameter optimization with approximate gradient", 2016
/// (arXiv:1602.02355).
#[derive(Clone, Debug)]
pub struct ConjugateGradient {
    iterations: usize,
    tolerance: f64,
    negative_curvature: NegativeCurvature,
}

impl ConjugateGradient {
    /// At most so many iterations.
    ///
    /// # Errors
    /// A parameter error for 0.
    pub fn new(iterations: usize) -> Result<Self> {
        let iterations = at_least_one("iterations", iterations)?;
        Ok(Self { iterations, tolerance: 1e-10, negative_curvature: NegativeCurvature::Fail })
    }

    /// Another relative residual to stop at.
    ///
    /// # Errors
    /// A parameter error for a negative one or NaN.
    pub fn tolerance(self, tolerance: f64) -> Result<Self> {
        Ok(Self { tolerance: not_negative("tolerance", tolerance)?, ..self })
    }

    /// What to do at negative curvature.
    pub fn on_negative_curvature(self, negative_curvature: NegativeCurvature) -> Self {
        Self { negative_curvature, ..self }
    }

    /// The solution, or the quotient and iteration at which the curvature was not positive.
    fn run(&self, operator: &mut Operator<'_>, b: &Tree) -> Result<(Tree, Option<(f64, usize)>)> {
        let mut v = b.zeros_like();
        let (mut r, mut p) = (b.clone(), b.clone());
        let mut rr = r.dot(&r)?.value();
        let stop = self.tolerance * rr.sqrt();
        for iteration in 0..self.iterations {
            if rr.sqrt() <= stop {
                break;
            }
            let out = operator.measure(&p)?;
            if !(out.quadratic > 0.0) {
                return Ok((v, Some((out.quadratic / out.square, iteration))));
            }
            let alpha = rr / out.quadratic;
            v = v.axpy(alpha, &p)?;
            r = r.axpy(-alpha, &out.image)?;
            let before = std::mem::replace(&mut rr, r.dot(&r)?.value());
            p = p.scale(rr / before).add(&r)?;
        }
        Ok((v, None))
    }
}

impl LinearSolver for ConjugateGradient {
    /// # Errors
    /// [`Error::IndefiniteCurvature`]; [`Error::NotFinite`].
    fn solve(&self, operator: &mut Operator<'_>, b: &Tree) -> Result<Tree> {
        // Each restart raises the damping at least tenfold; a dozen cover the range of f32.
        for _ in 0..12 {
            let (v, bent) = self.run(operator, b)?;
            let Some((quotient, iteration)) = bent else {
                return Ok(v);
            };
            match self.negative_curvature {
                NegativeCurvature::Stop if iteration > 0 => return Ok(v),
                NegativeCurvature::Damp => operator.damping = (10.0 * operator.damping).max(-2.0 * quotient).max(1e-6),
                _ => return Err(Error::IndefiniteCurvature { iteration, quotient }),
            }
        }
        Err(Error::IndefiniteCurvature { iteration: 0, quotient: operator.curvature.smallest })
    }
}
