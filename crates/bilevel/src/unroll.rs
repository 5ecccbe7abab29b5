//! Differentiation through the inner optimizer's steps, in reverse.

use core_tensor::{Batch, Tree};

use crate::certificate::Certificate;
use crate::error::{Error, Result, at_least_one};
use crate::method::{Hypergradient, Method};
use crate::problem::{Batches, Problem, observe};
use crate::update::{Point, RecordedUpdate, Recorder, Update};

/// Which inner states the reverse pass keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checkpoint {
    /// All `T`: no step twice.
    All,
    /// About `2√T`: every step at most twice (T. Chen et al., "Training deep nets with sublinear memory cost", 2016).
    Sqrt,
    /// About `k·log_k T`: the steps are cut into `k` pieces again and again, every step `log_k T` times at most.
    Kary(usize),
}

/// Reverse differentiation of `T` inner steps `(z, m) ← U(x, z, ∇z g(x, z), m)` from the `z` given: exact for the point reached, solved or
/// not, and for what the update itself learns (rates, momenta).
///
/// Backwards through each step: the pullback of `U` gives cotangents of `z`, `m`, `x` and of the gradient; the last, `ḡ`, goes on by one
/// second-order product, `z̄ += H·ḡ` and `x̄ += (∂x∂z g)ᵀḡ`.
///
/// | parameter | default | range | effect |
/// |---|---|---|---|
/// | `update` | – | [`Update`] | the inner optimizer |
/// | `steps` `T` | – | ≥ 1 | step `t` takes inner batch `t mod n` |
/// | `truncate` | none | ≥ 0 | only the last so many steps are differentiated; 0 is the direct gradient |
/// | `checkpoint` | `All` | | states kept against steps taken again |
///
/// Guarantees: equals central differences for each update (test `unrolled_matches_central_differences`), forward mode
/// (`reverse_is_forward`), the Neumann series where truncated at a stationary point (`truncated_is_neumann`); the same bits for
/// each checkpointing (`checkpoints_change_nothing`). Cost: `T` gradients forwards, a linearisation and a product a step backwards,
/// `T·(1 + memories)` trees or as the checkpoints say. Errors: [`Error::Detached`] for a leaf of `x` that neither objective nor update
/// reads.
///
/// L. Franceschi et al., "Forward and reverse gradient-based hyperparameter optimization", 2017 (arXiv:1703.01785), algorithm 1;
/// A. Shaban et al., "Truncated back-propagation for bilevel optimization", 2019 (arXiv:1810.10667).
pub struct Unroll<U> {
    recorder: Recorder<U>,
    steps: usize,
    truncate: Option<usize>,
    checkpoint: Checkpoint,
}

/// A hypergradient with the derivative in the start.
#[derive(Clone, Debug)]
pub struct Unrolled {
    /// In `x`.
    pub hypergradient: Hypergradient,
    /// `dΦ/dz₀`: what MAML descends along.
    pub start: Tree,
}

/// What the steps of one call share.
struct Run<'a, I, O> {
    problem: &'a Problem<I, O>,
    update: &'a RecordedUpdate,
    x: &'a Tree,
    batches: &'a [I],
    /// Pieces at each level of checkpointing.
    pieces: usize,
    zero: Point,
    stored: usize,
    certificate: Certificate,
    /// The cotangents of `x` and of the state.
    in_x: Tree,
    in_state: Point,
}

impl<U: Update> Unroll<U> {
    /// So many steps of an update.
    ///
    /// # Errors
    /// A parameter error for 0 steps.
    pub fn new(update: U, steps: usize) -> Result<Self> {
        let steps = at_least_one("steps", steps)?;
        Ok(Self { recorder: Recorder::new(update), steps, truncate: None, checkpoint: Checkpoint::All })
    }

    /// Differentiate only the last so many steps.
    pub fn truncate(self, steps: usize) -> Self {
        Self { truncate: Some(steps), ..self }
    }

    /// Keep fewer states.
    ///
    /// # Errors
    /// A parameter error for fewer than 2 pieces.
    pub fn checkpoint(self, checkpoint: Checkpoint) -> Result<Self> {
        if let Checkpoint::Kary(k) = checkpoint
            && k < 2
        {
            return Err(core_tensor::Error::Parameter { parameter: "k", value: k as f64, bound: "k >= 2" }.into());
        }
        Ok(Self { checkpoint, ..self })
    }

    /// The point after all steps.
    ///
    /// # Errors
    /// A structure that does not fit; an update that cannot be recorded.
    pub fn run<I: Batch, O: Batch>(&self, problem: &Problem<I, O>, x: &Tree, z: &Tree, batches: &[I]) -> Result<Tree> {
        let update = self.recorder.get(x, z)?;
        let start = Point::start(z, self.recorder.memories());
        let mut run = Run::new(problem, &update, x, &start, batches, 2);
        Ok(run.forward(start, 0, self.steps)?.z)
    }

    /// The hypergradient in `x`, with the derivative in the start.
    ///
    /// # Errors
    /// As the type says.
    pub fn differentiate<I: Batch, O: Batch>(
        &self,
        problem: &Problem<I, O>,
        x: &Tree,
        z: &Tree,
        batches: &Batches<I, O>,
    ) -> Result<Unrolled> {
        let update = self.recorder.get(x, z)?;
        problem.require_attached("the inner objective or the update", |path| {
            update.reads.iter().any(|read| read == path)
        })?;
        let start = Point::start(z, self.recorder.memories());
        let kept = self.truncate.unwrap_or(self.steps).min(self.steps);
        let pieces = match self.checkpoint {
            Checkpoint::All => kept.max(2),
            Checkpoint::Sqrt => (kept as f64).sqrt().ceil().max(2.0) as usize,
            Checkpoint::Kary(k) => k,
        };
        let mut run = Run::new(problem, &update, x, &start, &batches.inner, pieces);
        let from = self.steps - kept;
        let first = run.forward(start, 0, from)?;
        let (starts, end) = run.sweep(first, from, self.steps, true)?;

        let outer = problem.outer_gradient(x, &end.z, &batches.outer)?;
        let residual = problem.inner_gradient(x, &end.z, &batches.inner)?.z.norm().value();
        run.certificate.gradients += 2;
        (run.in_x, run.in_state.z) = (outer.x, outer.z);
        run.backward(starts, from, self.steps)?;

        let Run { in_x, in_state, mut certificate, .. } = run;
        certificate.inner_residual = residual;
        if in_x.is_finite().value() != 1.0 || in_state.z.is_finite().value() != 1.0 {
            return Err(Error::NotFinite { what: "the hypergradient" });
        }
        let value = outer.value.value();
        let hypergradient = Hypergradient { gradient: in_x, value, z: end.z, certificate };
        Ok(Unrolled { hypergradient, start: in_state.z })
    }
}

impl<U: Update, I: Batch, O: Batch> Method<I, O> for Unroll<U> {
    fn hypergradient(
        &self,
        problem: &Problem<I, O>,
        x: &Tree,
        z: &Tree,
        batches: &Batches<I, O>,
    ) -> Result<Hypergradient> {
        Ok(self.differentiate(problem, x, z, batches)?.hypergradient)
    }

    fn inner_point(&self, problem: &Problem<I, O>, x: &Tree, z: &Tree, batches: &Batches<I, O>) -> Result<Tree> {
        self.run(problem, x, z, &batches.inner)
    }
}

impl<'a, I: Batch, O: Batch> Run<'a, I, O> {
    fn new(
        problem: &'a Problem<I, O>,
        update: &'a RecordedUpdate,
        x: &'a Tree,
        start: &Point,
        batches: &'a [I],
        pieces: usize,
    ) -> Self {
        let zero = start.zeros_like();
        let (in_x, in_state) = (x.zeros_like(), zero.clone());
        let certificate = Certificate::default();
        Self { problem, update, x, batches, pieces, zero, stored: 0, certificate, in_x, in_state }
    }

    fn batch(&self, step: usize) -> Result<&'a [I]> {
        let missing = core_tensor::Error::Length { what: "the list of inner batches", expected: 1, actual: 0 };
        if self.batches.is_empty() {
            return Err(missing.into());
        }
        let index = step % self.batches.len();
        Ok(&self.batches[index..=index])
    }

    fn forward(&mut self, mut state: Point, from: usize, to: usize) -> Result<Point> {
        for step in from..to {
            let gradient = self.problem.inner_gradient(self.x, &state.z, self.batch(step)?)?.z;
            self.certificate.gradients += 1;
            state = self.update.run(self.x, &state, &gradient, &self.zero, step)?.0;
        }
        Ok(state)
    }

    /// Runs forward and keeps the states at which pieces start; to the end of the last piece only if asked.
    fn sweep(&mut self, start: Point, from: usize, to: usize, last: bool) -> Result<(Vec<(usize, Point)>, Point)> {
        let length = (to - from).div_ceil(self.pieces).max(1);
        let mut starts = Vec::new();
        let mut state = start;
        let mut at = from;
        while at < to {
            starts.push((at, state.clone()));
            self.stored += 1;
            self.certificate.stored_states = self.certificate.stored_states.max(self.stored);
            let end = (at + length).min(to);
            if end < to || last {
                state = self.forward(state, at, end)?;
            }
            at = end;
        }
        Ok((starts, state))
    }

    /// Goes back from `to` to `from`, piece by piece.
    fn backward(&mut self, mut starts: Vec<(usize, Point)>, from: usize, to: usize) -> Result<()> {
        debug_assert!(starts.first().is_none_or(|(at, _)| *at == from));
        let mut end = to;
        while let Some((at, state)) = starts.pop() {
            match end - at {
                1 => self.step_back(&state, at)?,
                _ => {
                    let (inner, _) = self.sweep(state, at, end, false)?;
                    self.backward(inner, at, end)?;
                }
            }
            self.stored -= 1;
            end = at;
        }
        Ok(())
    }

    fn step_back(&mut self, state: &Point, step: usize) -> Result<()> {
        let linear = self.problem.linearize(self.x, &state.z, self.batch(step)?)?;
        let (_, pulled) = self.update.run(self.x, state, &linear.gradient.z, &self.in_state, step)?;
        let product = linear.along_z(&pulled.gradient)?;
        self.certificate.gradients += 1;
        self.certificate.hessian_vector_products += 1;
        observe(&mut self.certificate.curvature, &pulled.gradient, &product.hessian)?;
        let in_x = std::mem::take(&mut self.in_x);
        self.in_x = in_x.add(&pulled.x)?.add(&product.mixed)?;
        self.in_state = pulled.point;
        self.in_state.z = std::mem::take(&mut self.in_state.z).add(&product.hessian)?;
        Ok(())
    }
}
