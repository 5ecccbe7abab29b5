//! Loops that move `x` and `z` together, as `step(state) -> state` with plain state.

mod alternating;
mod bome;
mod f2sa;
mod saba;
mod soba;

pub use alternating::Alternating;
pub use bome::Bome;
pub use f2sa::F2sa;
pub use saba::Saba;
pub use soba::Soba;

use std::collections::BTreeMap;

use core_tensor::transform::{State, Value};
use core_tensor::{Batch, Tree};

use crate::error::Result;
use crate::problem::{Batches, Problem};

/// Where a loop is: everything that the next step depends on besides its batches.
#[derive(Clone, Debug, Default)]
pub struct LoopState {
    /// Steps taken.
    pub steps: u64,
    /// The outer variable.
    pub x: Tree,
    /// The inner variable.
    pub z: Tree,
    /// What the loop remembers besides, by name.
    pub memory: BTreeMap<String, Tree>,
}

impl LoopState {
    /// The start, without memory.
    pub fn new(x: &Tree, z: &Tree) -> Self {
        Self { steps: 0, x: x.clone(), z: z.clone(), memory: BTreeMap::new() }
    }

    /// As a state that saves to a file bit for bit.
    pub fn save(&self) -> State {
        let memory = self.memory.iter().fold(State::new(), |state, (name, tree)| state.with(name, tree.clone()));
        State::new()
            .with("steps", self.steps)
            .with("x", self.x.clone())
            .with("z", self.z.clone())
            .with_nested("memory", memory)
    }

    /// Back from [`save`](Self::save).
    ///
    /// # Errors
    /// A state of something else.
    pub fn load(mut state: State) -> Result<Self> {
        let (steps, x, z) = (state.take("steps")?, state.take("x")?, state.take("z")?);
        let mut nested = state.take_nested("memory");
        state.finish()?;
        let trees = nested.iter().filter(|(_, value)| matches!(value, Value::Tree(_)));
        let names: Vec<String> = trees.map(|(name, _)| name.to_string()).collect();
        let mut memory = BTreeMap::new();
        for name in names {
            let tree = nested.take(&name)?;
            memory.insert(name, tree);
        }
        nested.finish()?;
        Ok(Self { steps, x, z, memory })
    }

    fn take(&mut self, name: &str, like: &Tree) -> Tree {
        self.memory.remove(name).unwrap_or_else(|| like.zeros_like())
    }

    fn keep(&mut self, name: impl Into<String>, tree: Tree) {
        self.memory.insert(name.into(), tree);
    }
}

/// A bilevel loop: the configuration is the value, the state is passed through.
pub trait Loop<I: Batch, O: Batch> {
    /// One step on the batches given, which may be others each time.
    ///
    /// # Errors
    /// Those of the problem, and [`Error::Detached`](crate::Error::Detached). The state given is lost then; keep a clone (which is
    /// cheap) to go on from.
    fn step(&self, problem: &Problem<I, O>, state: LoopState, batches: &Batches<I, O>) -> Result<LoopState>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::*;
    use crate::update::Sgd;
    use crate::{ConjugateGradient, Implicit, Unroll};
    use core_tensor::testing::{assert_close, assert_same_bits};

    type Boxed = Box<dyn Loop<Constants, Constants>>;

    fn loops() -> Vec<(&'static str, usize, f64, Boxed)> {
        let implicit = || Implicit::new(ConjugateGradient::new(10).unwrap());
        let unroll = |steps| Unroll::new(Sgd::new(0.3), steps).unwrap();
        vec![
            ("AID", 1000, 1e-8, Box::new(Alternating::new(Sgd::new(0.3), 20, implicit(), 0.05).unwrap())),
            ("ITD", 1000, 1e-3, Box::new(Alternating::new(Sgd::new(0.3), 1, unroll(60), 0.05).unwrap())),
            ("SOBA", 6000, 1e-7, Box::new(Soba::new(0.2, 0.01).unwrap())),
            ("SABA", 6000, 1e-7, Box::new(Saba::new(0.2, 0.01, 1).unwrap())),
            ("F2SA", 8000, 1e-2, Box::new(F2sa::new(0.2, 0.01, 10.0, 0.5).unwrap())),
        ]
    }

    /// Also that a run resumes from a file bit for bit.
    #[test]
    fn loops_reach_the_solution() {
        let quadratic = Quadratic::new(11, 4, 2);
        let solution = quadratic.solution();
        assert!(quadratic.exact(&solution).norm().value() < 1e-9);
        let start = LoopState::new(&quadratic.x, &quadratic.z);
        let file = tempfile::NamedTempFile::new().unwrap();
        for (name, steps, tolerance, method) in loops() {
            let step = |state| method.step(&quadratic.problem, state, &quadratic.batches).unwrap();
            let mut state = start.clone();
            for _ in 0..3 {
                state = step(state);
            }
            state.save().save(file.path()).unwrap();
            let loaded = core_tensor::transform::State::load(file.path(), &device()).unwrap();
            let mut resumed = step(LoopState::load(loaded).unwrap());
            state = step(state);
            assert_same_bits(&state.x, &resumed.x);
            assert_same_bits(&state.z, &resumed.z);
            resumed = step(resumed);
            state = step(state);
            assert_same_bits(&state.x, &resumed.x);
            while (state.steps as usize) < steps {
                state = step(state);
            }
            let error = state.x.clone().sub(&solution).unwrap().norm().value();
            assert!(error < tolerance, "{name}: {error:e}");
        }
        assert!(LoopState::load(core_tensor::transform::State::new()).is_err());
    }

    #[test]
    fn saba_on_one_batch_is_soba() {
        let quadratic = Quadratic::new(2, 3, 2);
        let (soba, saba) = (Soba::new(0.2, 0.02).unwrap(), Saba::new(0.2, 0.02, 5).unwrap());
        let mut states = [LoopState::new(&quadratic.x, &quadratic.z), LoopState::new(&quadratic.x, &quadratic.z)];
        for _ in 0..20 {
            let [a, b] = states;
            let a = soba.step(&quadratic.problem, a, &quadratic.batches).unwrap();
            let b = saba.step(&quadratic.problem, b, &quadratic.batches).unwrap();
            assert_close(&a.x, &b.x, 1e-13);
            assert_close(&a.z, &b.z, 1e-13);
            states = [a, b];
        }
    }

    /// SAGA's tables take the noise of drawing batches away, at a constant rate.
    #[test]
    fn saba_converges_on_several_batches() {
        let quadratic = Quadratic::new(7, 3, 2);
        let spread = |constants: &Constants, by: f64| {
            let (m, v) = constants.clone();
            (m, v.into_iter().map(|v| v + by).collect())
        };
        let parts = |one: &Constants| vec![spread(one, 0.7), spread(one, -0.5), spread(one, -0.2)];
        let batches = Batches { inner: parts(&quadratic.batches.inner[0]), outer: parts(&quadratic.batches.outer[0]) };
        let saba = Saba::new(0.1, 0.01, 9).unwrap();
        let mut state = LoopState::new(&quadratic.x, &quadratic.z);
        for _ in 0..12_000 {
            state = saba.step(&quadratic.problem, state, &batches).unwrap();
        }
        let error = state.x.sub(&quadratic.solution()).unwrap().norm().value();
        assert!(error < 1e-6, "{error:e}");
    }

    #[test]
    fn bome_comes_near_the_solution() {
        let quadratic = Quadratic::new(11, 4, 2);
        let bome = Bome::new(30, 0.3, 0.01, 0.5).unwrap();
        let mut state = LoopState::new(&quadratic.x, &quadratic.z);
        let before = quadratic.exact(&state.x).norm().value();
        for _ in 0..2000 {
            state = bome.step(&quadratic.problem, state, &quadratic.batches).unwrap();
        }
        let after = quadratic.exact(&state.x).norm().value();
        assert!(after < 0.1 * before, "{after:e} of {before:e}");
        // At the inner solution the gap and its gradient are zero: no division of them.
        let x = quadratic.x.clone();
        let solved = LoopState::new(&x, &quadratic.inner(&x));
        let next = bome.step(&quadratic.problem, solved, &quadratic.batches).unwrap();
        assert_eq!((next.x.is_finite().value(), next.z.is_finite().value()), (1.0, 1.0));
    }

    #[test]
    fn parameters_are_checked() {
        assert!(Soba::new(0.0, 1.0).is_err() && Saba::new(0.1, f64::NAN, 0).is_err());
        assert!(F2sa::new(0.1, 0.1, 0.0, 0.0).is_err() && F2sa::new(0.1, 0.1, 1.0, -1.0).is_err());
        assert!(Bome::new(0, 0.1, 0.1, 0.5).is_err() && Bome::new(1, 0.1, 0.1, 0.0).is_err());
    }
}
