//! Implicit differentiation.

use core_tensor::{Batch, Tree};

use crate::certificate::Certificate;
use crate::error::{Error, Result, not_negative, positive};
use crate::inner::NewtonCg;
use crate::method::{Hypergradient, Method};
use crate::problem::{Batches, Problem, observe};
use crate::solver::{LinearSolver, Operator};

/// The implicit function theorem: `dΦ/dx = ∇x f − (∂x∂z g)ᵀv` with `(∂²zz g + δ)v = ∇z f`, at a point `z` that solves the inner problem.
/// Memory and time do not depend on how it was found.
///
/// | parameter | default | range | effect |
/// |---|---|---|---|
/// | `solver` | – | [`LinearSolver`] | how `v` is found |
/// | `damping` `δ` | 0 | ≥ 0 | for Hessians that are not positive definite; biases the result by `O(δ)` |
/// | `inner_tolerance` | none | > 0 | `‖∇z g‖` above it is [`Error::InnerNotConverged`] |
/// | `linear_tolerance` | none | > 0 | a relative residual above it is [`Error::LinearNotConverged`] |
///
/// Guarantees: exact at the solution with an exact solver (test `ridge_by_hand`), equal to central differences of `Φ` on a network for
/// every solver (test `methods_match_central_differences`). Cost: one linearisation, one gradient of `f`, the solver's products and one
/// more, which gives the mixed product and the true residual together. Errors: [`Error::Detached`], the solver's.
///
/// F. Pedregosa 2016 (arXiv:1602.02355); J. Lorraine et al. 2020 (arXiv:1911.02590).
#[derive(Clone, Debug)]
pub struct Implicit<S> {
    solver: S,
    damping: f64,
    inner_tolerance: Option<f64>,
    linear_tolerance: Option<f64>,
}

impl<S: LinearSolver> Implicit<S> {
    /// With a solver.
    pub fn new(solver: S) -> Self {
        Self { solver, damping: 0.0, inner_tolerance: None, linear_tolerance: None }
    }

    /// `δ` added to the Hessian's diagonal.
    ///
    /// # Errors
    /// A parameter error for a negative one or NaN.
    pub fn damping(self, damping: f64) -> Result<Self> {
        Ok(Self { damping: not_negative("damping", damping)?, ..self })
    }

    /// Refuse points with a larger `‖∇z g‖`.
    ///
    /// # Errors
    /// A parameter error unless it is above zero and finite.
    pub fn inner_tolerance(self, tolerance: f64) -> Result<Self> {
        Ok(Self { inner_tolerance: Some(positive("inner_tolerance", tolerance)?), ..self })
    }

    /// Refuse solutions with a larger relative residual.
    ///
    /// # Errors
    /// A parameter error unless it is above zero and finite.
    pub fn linear_tolerance(self, tolerance: f64) -> Result<Self> {
        Ok(Self { linear_tolerance: Some(positive("linear_tolerance", tolerance)?), ..self })
    }

    /// The hypergradient at `x` and an inner solution `z`.
    ///
    /// # Errors
    /// As the type says.
    pub fn hypergradient<I: Batch, O: Batch>(
        &self,
        problem: &Problem<I, O>,
        x: &Tree,
        z: &Tree,
        batches: &Batches<I, O>,
    ) -> Result<Hypergradient> {
        problem.require_attached("the inner objective", |_| false)?;
        let outer = problem.outer_gradient(x, z, &batches.outer)?;
        let linear = problem.linearize(x, z, &batches.inner)?;
        let mut certificate =
            Certificate { inner_residual: linear.gradient.z.norm().value(), gradients: 2, ..Certificate::default() };
        certificate.require(self.inner_tolerance.unwrap_or(f64::INFINITY), f64::INFINITY)?;

        let mut product = |v: &Tree| Ok(linear.along_z(v)?.hessian);
        let mut operator = Operator::new(&mut product, self.damping);
        let v = self.solver.solve(&mut operator, &outer.z)?;
        let (damping, products, mut curvature) = (operator.damping, operator.products, operator.curvature);

        let last = linear.along_z(&v)?;
        observe(&mut curvature, &v, &last.hessian)?;
        let residual = last.hessian.axpy(damping, &v)?.neg().add(&outer.z)?.norm().value();
        let size = outer.z.norm().value();
        // A zero right-hand side has the solution zero, which every solver finds.
        certificate.linear_residual = Some(if size == 0.0 { residual } else { residual / size });
        certificate.hessian_vector_products = products + 1;
        (certificate.curvature, certificate.damping) = (curvature, damping);
        certificate.require(f64::INFINITY, self.linear_tolerance.unwrap_or(f64::INFINITY))?;

        let gradient = outer.x.axpy(-1.0, &last.mixed)?;
        match gradient.is_finite().value() == 1.0 {
            true => Ok(Hypergradient { gradient, value: outer.value.value(), z: z.clone(), certificate }),
            false => Err(Error::NotFinite { what: "the hypergradient" }),
        }
    }
}

impl<S: LinearSolver, I: Batch, O: Batch> Method<I, O> for Implicit<S> {
    fn hypergradient(
        &self,
        problem: &Problem<I, O>,
        x: &Tree,
        z: &Tree,
        batches: &Batches<I, O>,
    ) -> Result<Hypergradient> {
        Implicit::hypergradient(self, problem, x, z, batches)
    }

    fn inner_point(&self, problem: &Problem<I, O>, x: &Tree, z: &Tree, batches: &Batches<I, O>) -> Result<Tree> {
        NewtonCg::default().solve(problem, x, z, &batches.inner)
    }
}
