//! The hypergradient by a penalty, from first derivatives only.

use core_tensor::{Batch, Tree};

use crate::certificate::Certificate;
use crate::error::{Error, Result, at_least_one, positive};
use crate::inner::NewtonCg;
use crate::method::{Hypergradient, Method};
use crate::problem::{Batches, Problem};

/// The value-function penalty of F²SA: `dΦ/dx ≈ ∇x f(x, y) + λ(∇x g(x, y) − ∇x g(x, z))` with `y = argmin f(x, ·) + λg(x, ·)` and `z` the inner
/// solution. No second derivatives, so that operations without a tangent rule do; the bias is `O(1/λ)`.
///
/// | parameter | range | effect |
/// |---|---|---|
/// | `lambda` `λ` | > 0 | bias against conditioning |
/// | `steps` | ≥ 1 | gradient steps from `z` to `y` |
/// | `rate` | > 0 | rate of these steps on `f/λ + g`, below `2/(L_f/λ + L_g)` |
///
/// The certificate's `linear_residual` is `‖∇y(f/λ + g)‖` at the `y` reached. Guarantee: exactly `λ/(1 + λ)·(x − b)` for `g = ½(y − x)²`,
/// `f = ½(y − b)²` (test `the_bias_in_closed_form`). Cost: `2·steps + 4` gradients. Record such problems with
/// [`Problem::from_functions_first_order`].
///
/// J. Kwon, D. Kwon, S. Wright, R. Nowak, "A fully first-order method for stochastic bilevel optimization", 2023 (arXiv:2301.10945).
#[derive(Clone, Debug)]
pub struct Penalty {
    lambda: f64,
    steps: usize,
    rate: f64,
}

impl Penalty {
    /// Penalty, steps and their rate.
    ///
    /// # Errors
    /// A parameter error for numbers that are not above zero and finite.
    pub fn new(lambda: f64, steps: usize, rate: f64) -> Result<Self> {
        let (lambda, rate) = (positive("lambda", lambda)?, positive("rate", rate)?);
        Ok(Self { lambda, steps: at_least_one("steps", steps)?, rate })
    }
}

impl<I: Batch, O: Batch> Method<I, O> for Penalty {
    fn hypergradient(
        &self,
        problem: &Problem<I, O>,
        x: &Tree,
        z: &Tree,
        batches: &Batches<I, O>,
    ) -> Result<Hypergradient> {
        problem.require_attached("the inner objective", |_| false)?;
        let mut y = z.clone();
        let penalised = |y: &Tree| {
            let (f, g) = (problem.outer_gradient(x, y, &batches.outer)?, problem.inner_gradient(x, y, &batches.inner)?);
            let slope = g.z.clone().axpy(1.0 / self.lambda, &f.z)?;
            Ok::<_, Error>((f, g, slope))
        };
        for _ in 0..self.steps {
            let slope = penalised(&y)?.2;
            y = y.axpy(-self.rate, &slope)?;
        }
        let (f, g, slope) = penalised(&y)?;
        let at_z = problem.inner_gradient(x, z, &batches.inner)?;
        let value = problem.outer_value(x, z, &batches.outer)?;
        let gradient = f.x.axpy(self.lambda, &g.x.sub(&at_z.x)?)?;
        if gradient.is_finite().value() != 1.0 {
            return Err(Error::NotFinite { what: "the hypergradient" });
        }
        let certificate = Certificate {
            inner_residual: at_z.z.norm().value(),
            linear_residual: Some(slope.norm().value()),
            gradients: 2 * self.steps + 3,
            ..Certificate::default()
        };
        Ok(Hypergradient { gradient, value, z: z.clone(), certificate })
    }

    fn inner_point(&self, problem: &Problem<I, O>, x: &Tree, z: &Tree, batches: &Batches<I, O>) -> Result<Tree> {
        NewtonCg::default().solve(problem, x, z, &batches.inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::*;

    #[test]
    fn the_bias_in_closed_form() {
        let (x, b, batches) = (leaf("x", &[3.0]), 1.0, Batches::new((), ()));
        let problem = Problem::from_functions_first_order(
            &x,
            &x,
            &batches,
            |x: &Tree, y: &Tree, _: &()| (y.get::<1>("x").unwrap() - x.get::<1>("x").unwrap()).square() * 0.5,
            move |_: &Tree, y: &Tree, _: &()| (y.get::<1>("x").unwrap() - b).square() * 0.5,
        )
        .unwrap();
        for lambda in [0.5, 1.0, 10.0, 1000.0] {
            let h = Penalty::new(lambda, 300, 0.3).unwrap().hypergradient(&problem, &x, &x, &batches).unwrap();
            let expected = lambda / (1.0 + lambda) * 2.0;
            assert!((h.gradient.sum().value() - expected).abs() < 1e-9, "{lambda}");
            assert!(h.certificate.linear_residual.unwrap() < 1e-10 && h.certificate.hessian_vector_products == 0);
        }
        assert!(Penalty::new(0.0, 1, 1.0).is_err() && Penalty::new(1.0, 0, 1.0).is_err());
        let diverging = Penalty::new(1.0, 3000, 10.0).unwrap().hypergradient(&problem, &x, &x, &batches);
        assert!(matches!(diverging, Err(Error::NotFinite { .. })));
    }

    #[test]
    fn the_bias_falls_with_the_penalty() {
        let quadratic = Quadratic::new(3, 4, 2);
        let (x, z) = (&quadratic.x, quadratic.inner(&quadratic.x));
        let exact = quadratic.exact(x);
        let error = |lambda| {
            let method = Penalty::new(lambda, 4000, 0.1).unwrap();
            let h = method.hypergradient(&quadratic.problem, x, &z, &quadratic.batches).unwrap();
            h.gradient.sub(&exact).unwrap().norm().value()
        };
        let (near, nearer) = (error(1e2), error(1e3));
        assert!((near / nearer - 10.0).abs() < 2.0, "{near:e} {nearer:e}");
    }
}
