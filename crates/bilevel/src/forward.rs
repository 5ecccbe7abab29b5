//! Differentiation through the inner optimizer's steps, forwards.

use core_tensor::{Batch, Tree};

use crate::certificate::Certificate;
use crate::error::{Error, Result, at_least_one};
use crate::method::{Hypergradient, Method};
use crate::problem::{Batches, Problem};
use crate::solver::{elements, from_elements, unit};
use crate::update::{Point, Recorder, Update};

/// Forward differentiation of `T` inner steps: a tangent of the state for every element of `x` runs along, so that memory does not depend on
/// `T`. For few hyper-parameters and long runs; the same numbers as [`Unroll`](crate::Unroll).
///
/// `ġ = ∂z∂x g·ẋ + H·ż`, `(ż, ṁ) ← ∂U·(ẋ, ż, ġ, ṁ)`; in the end `dΦ/dxᵢ = ∂f/∂xᵢ + ⟨∇z f, żᵢ⟩`.
///
/// Cost: for `p` elements of `x` `T` linearisations, `p·T` products, `p·(1 + memories)` trees. Test `reverse_is_forward`. L. Franceschi et al.
/// 2017 (arXiv:1703.01785), algorithm 2.
pub struct Forward<U> {
    recorder: Recorder<U>,
    steps: usize,
}

impl<U: Update> Forward<U> {
    /// So many steps of an update.
    ///
    /// # Errors
    /// A parameter error for 0 steps.
    pub fn new(update: U, steps: usize) -> Result<Self> {
        Ok(Self { recorder: Recorder::new(update), steps: at_least_one("steps", steps)? })
    }

    /// The states, and the tangent of the last one for each of `directions` in `x`.
    fn run<I: Batch, O: Batch>(
        &self,
        problem: &Problem<I, O>,
        (x, z): (&Tree, &Tree),
        batches: &[I],
        directions: &[Tree],
        certificate: &mut Certificate,
    ) -> Result<(Point, Vec<Point>)> {
        let update = self.recorder.get(x, z)?;
        let mut state = Point::start(z, self.recorder.memories());
        let zero = state.zeros_like();
        let mut tangents: Vec<Point> = directions.iter().map(|_| zero.clone()).collect();
        for step in 0..self.steps {
            let batch = match batches.len() {
                0 => batches,
                n => &batches[step % n..=step % n],
            };
            certificate.gradients += 1;
            let gradient = match directions.is_empty() {
                true => problem.inner_gradient(x, &state.z, batch)?.z,
                false => {
                    let linear = problem.linearize(x, &state.z, batch)?;
                    for (direction, tangent) in directions.iter().zip(&mut tangents) {
                        let moved = linear.tangent(direction, &tangent.z)?;
                        certificate.hessian_vector_products += 1;
                        let arguments = (x, &state, &linear.gradient.z);
                        *tangent = update.push(arguments, (direction, tangent, &moved), step)?;
                    }
                    linear.gradient.z
                }
            };
            state = update.run(x, &state, &gradient, &zero, step)?.0;
        }
        certificate.stored_states = 1;
        Ok((state, tangents))
    }
}

impl<U: Update, I: Batch, O: Batch> Method<I, O> for Forward<U> {
    fn hypergradient(
        &self,
        problem: &Problem<I, O>,
        x: &Tree,
        z: &Tree,
        batches: &Batches<I, O>,
    ) -> Result<Hypergradient> {
        let update = self.recorder.get(x, z)?;
        problem.require_attached("the inner objective or the update", |path| {
            update.reads.iter().any(|read| read == path)
        })?;
        let directions = (0..x.num_elements()).map(|i| unit(x, i)).collect::<Result<Vec<Tree>>>()?;
        let mut certificate = Certificate::default();
        let (end, tangents) = self.run(problem, (x, z), &batches.inner, &directions, &mut certificate)?;
        let outer = problem.outer_gradient(x, &end.z, &batches.outer)?;
        certificate.inner_residual = problem.inner_gradient(x, &end.z, &batches.inner)?.z.norm().value();
        certificate.gradients += 2;
        let mut gradient = elements(&outer.x);
        for (value, tangent) in gradient.iter_mut().zip(&tangents) {
            *value += outer.z.dot(&tangent.z)?.value();
        }
        if gradient.iter().any(|value| !value.is_finite()) {
            return Err(Error::NotFinite { what: "the hypergradient" });
        }
        let gradient = from_elements(x, gradient)?;
        Ok(Hypergradient { gradient, value: outer.value.value(), z: end.z, certificate })
    }

    fn inner_point(&self, problem: &Problem<I, O>, x: &Tree, z: &Tree, batches: &Batches<I, O>) -> Result<Tree> {
        let (end, _) = self.run(problem, (x, z), &batches.inner, &[], &mut Certificate::default())?;
        Ok(end.z)
    }
}
