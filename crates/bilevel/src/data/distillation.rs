//! Dataset distillation.

use burn::tensor::Tensor;
use core_tensor::{Batch, Tree, Variable};

use crate::error::{Result, positive, refuse};
use crate::parameterise::Domain;
use crate::problem::{Batches, Problem};
use crate::single_loop::{Loop, LoopState};
use crate::unroll::Unroll;
use crate::update::{Adam, Point, Recorder, Setting, Sgd};

const EXAMPLES: &str = "examples";
const RATE: &str = "log_rate";

/// Dataset distillation: a handful of made-up examples, and a learning rate, such that a few steps on them from a known start train the model. Shows what
/// a training set boils down to, and trains in milliseconds.
///
/// `z_T(x)` by `T` steps of gradient descent of rate `η` on the examples, both of which are `x`; `x` descends along the loss of `z_T` on real data by
/// Adam, whose steps are of one size for pixels and for `ln η` though their gradients are not.
///
/// | parameter | range | effect |
/// |---|---|---|
/// | `steps` `T` | ≥ 1 | inner steps; step `t` takes labels `t mod n`, all of the same examples |
/// | `rate` `γ` | > 0 | Adam's, of examples and of `ln η` |
///
/// The state's `z` is the start, which stays; give another one each step to distil for starts at random. Guarantees: exact through all steps (test
/// `distillation_is_differentiated_exactly`); ten examples distilled from real digits teach more than ten real ones (`ten_digits_are_enough`).
/// Cost a step: `T` gradients, linearisations and products on the examples, one gradient on real data; memory `T` states and Adam's two.
///
/// T. Wang, J.-Y. Zhu, A. Torralba, A. A. Efros, "Dataset distillation", 2018 (arXiv:1811.10959), algorithm 1.
pub struct Distillation {
    unroll: Unroll<Sgd>,
    adam: Recorder<Adam>,
}

impl Distillation {
    /// Inner steps and outer rate.
    ///
    /// # Errors
    /// A parameter error for 0 steps or a rate that is not above zero and finite.
    pub fn new(steps: usize, rate: f64) -> Result<Self> {
        let unroll = Unroll::new(Sgd::new(Setting::leaf(RATE).within(Domain::Positive)), steps)?;
        Ok(Self { unroll, adam: Recorder::new(Adam::new(positive("rate", rate)?)) })
    }

    /// The outer variable: examples to start from, one a row, and the learning rate to start from.
    ///
    /// # Errors
    /// A parameter error for no examples, or a rate that is not above zero and finite.
    pub fn variable(examples: Tensor<2>, learning_rate: f64) -> Result<Tree> {
        if examples.dims()[0] == 0 {
            return refuse("examples", 0.0, "at least one");
        }
        let raw = Domain::Positive.to_raw(&[learning_rate])?[0];
        let rate = Tensor::<1>::full([1], raw, (&examples.device(), examples.dtype()));
        Ok(Tree::empty().push(EXAMPLES, examples)?.push(RATE, rate)?)
    }

    /// The examples.
    ///
    /// # Errors
    /// A tree that [`Distillation::variable`] did not make.
    pub fn examples(x: &Tree) -> Result<Tensor<2>> {
        Ok(x.get::<2>(EXAMPLES)?)
    }

    /// The learning rate.
    ///
    /// # Errors
    /// As [`Distillation::examples`].
    pub fn learning_rate(x: &Tree) -> Result<f64> {
        let raw: Vec<f64> = x.get::<1>(RATE)?.into_data().iter::<f64>().collect();
        Ok(Domain::Positive.to_value(&raw)?[0])
    }

    /// Records the problem: `training` gives the loss on made-up examples with the labels of the inner batch, `real` the loss on real data.
    ///
    /// # Errors
    /// Those of [`Problem::from_functions`]; a tree that [`Distillation::variable`] did not make.
    pub fn problem<Z: Variable, I: Batch, O: Batch>(
        x: &Tree,
        z: &Z,
        batches: &Batches<I, O>,
        training: impl Fn(&Z, Tensor<2>, &I) -> Tensor<1> + Send + Sync + 'static,
        real: impl Fn(&Z, &O) -> Tensor<1> + Send + Sync + 'static,
    ) -> Result<Problem<I, O>> {
        Self::examples(x)?;
        Self::learning_rate(x)?;
        Problem::from_functions(
            x,
            z,
            batches,
            move |x: &Tree, z: &Z, labels: &I| training(z, x.get::<2>(EXAMPLES).expect("checked above"), labels),
            move |_: &Tree, z: &Z, batch: &O| real(z, batch),
        )
    }

    /// The model that the examples train.
    ///
    /// # Errors
    /// Those of [`Unroll::run`].
    pub fn train<I: Batch, O: Batch>(
        &self,
        problem: &Problem<I, O>,
        x: &Tree,
        start: &Tree,
        labels: &[I],
    ) -> Result<Tree> {
        self.unroll.run(problem, x, start, labels)
    }
}

impl<I: Batch, O: Batch> Loop<I, O> for Distillation {
    fn step(&self, problem: &Problem<I, O>, mut state: LoopState, batches: &Batches<I, O>) -> Result<LoopState> {
        let h = self.unroll.differentiate(problem, &state.x, &state.z, batches)?.hypergradient;
        let memory = ["m", "v"].map(|name| state.memory.remove(name).unwrap_or_else(|| state.x.zeros_like()));
        let at = Point { z: state.x, memory: memory.to_vec() };
        let none = Tree::empty();
        let update = self.adam.get(&none, &at.z)?;
        let next = update.run(&none, &at, &h.gradient, &at.zeros_like(), state.steps as usize)?.0;
        state.memory.extend(["m", "v"].map(String::from).into_iter().zip(next.memory));
        state.x = next.z;
        state.steps += 1;
        Ok(state)
    }
}
