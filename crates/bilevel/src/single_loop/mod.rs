//! Loops that move `x` and `z` together, as `step(state) -> state` with plain state.

mod alternating;
mod amigo;
mod bome;
mod f2sa;
mod mrbo;
mod saba;
mod series;
mod soba;
mod stocbio;
mod sustain;
mod ttsa;
mod v_pbgd;

pub use alternating::Alternating;
pub use amigo::Amigo;
pub use bome::Bome;
pub use f2sa::F2sa;
pub use mrbo::Mrbo;
pub use saba::Saba;
pub use soba::Soba;
pub use stocbio::StocBio;
pub use sustain::Sustain;
pub use ttsa::Ttsa;
pub use v_pbgd::VPbgd;

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
    use core_tensor::Tree;
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
            ("stocBiO", 700, 1e-6, Box::new(StocBio::new(10, 0.3, 0.05, 60, 0.5).unwrap())),
            ("AmIGO", 1500, 1e-7, Box::new(Amigo::new((2, 0.3), (2, 0.3), 0.03).unwrap())),
            ("MRBO", 1000, 1e-6, Box::new(Mrbo::new((0.3, 0.03), (60, 0.5), 0.5, 1000.0).unwrap())),
            // A tenth of the distance at the start: these draw, or have a bias, by design; laws of their own are below.
            ("SUSTAIN", 2000, 0.31, Box::new(Sustain::new((0.3, 0.01), (20, 0.5), 0.1, 100.0, 4).unwrap())),
            ("TTSA", 2000, 0.31, Box::new(Ttsa::new((0.3, 0.01), (20, 0.5), 500.0, 4).unwrap())),
            ("V-PBGD", 3000, 0.31, Box::new(VPbgd::new(15, 0.5, 0.0025, 20.0).unwrap())),
            ("BOME", 3000, 0.31, Box::new(Bome::new(15, 0.5, 0.02, 0.5).and_then(|b| b.horizon(100.0)).unwrap())),
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
    fn bome_needs_a_falling_rate() {
        let quadratic = Quadratic::new(11, 4, 2);
        let before = quadratic.exact(&quadratic.x).norm().value();
        let left = |bome: Bome, steps: usize| {
            let mut state = LoopState::new(&quadratic.x, &quadratic.z);
            for _ in 0..steps {
                state = bome.step(&quadratic.problem, state, &quadratic.batches).unwrap();
            }
            quadratic.exact(&state.x).norm().value() / before
        };
        let bome = |rate| Bome::new(15, 0.5, rate, 0.5).unwrap();
        let constant = [left(bome(0.01), 1000), left(bome(0.01), 4000)];
        let falling = [1000, 4000].map(|steps| left(bome(0.02).horizon(50.0).unwrap(), steps));
        assert!(constant[1] > 0.7 * constant[0] && falling[1] < 0.3 * falling[0] && falling[1] < 0.01);
        println!("share of the hypergradient left: constant {constant:?}, falling {falling:?}");
        // At the inner solution the gap and its gradient are zero: no division of them.
        let x = quadratic.x.clone();
        let solved = LoopState::new(&x, &quadratic.inner(&x));
        let next = bome(0.01).step(&quadratic.problem, solved, &quadratic.batches).unwrap();
        assert_eq!((next.x.is_finite().value(), next.z.is_finite().value()), (1.0, 1.0));
    }

    #[test]
    fn v_pbgd_of_a_quadratic_in_closed_form() {
        use burn::tensor::Tensor;
        let (x, batches, b, c) = (leaf("x", &[3.0]), Batches::new((), ()), 1.5, 0.4);
        let problem = Problem::from_functions_first_order(
            &x,
            &x,
            &batches,
            |x: &Tree, z: &Tree, _: &()| (z.get::<1>("x").unwrap() - x.get::<1>("x").unwrap()).square() * 0.5,
            move |x: &Tree, z: &Tree, _: &()| -> Tensor<1> {
                (z.get::<1>("x").unwrap() - b).square() * 0.5 + x.get::<1>("x").unwrap().square() * (0.5 * c)
            },
        )
        .unwrap();
        for gamma in [0.5, 2.0, 20.0] {
            let method = VPbgd::new(60, 0.5, 0.9 / (1.0 + 2.0 * gamma), gamma).unwrap();
            let mut state = LoopState::new(&x, &x);
            for _ in 0..4000 {
                state = method.step(&problem, state, &batches).unwrap();
            }
            let kappa = gamma / (1.0 + gamma);
            assert!((state.x.sum().value() - kappa * b / (c + kappa)).abs() < 1e-9, "{gamma}");
        }
    }

    #[test]
    fn stocbio_on_one_batch_is_aid_with_neumann() {
        let quadratic = Quadratic::new(2, 3, 2);
        let implicit = Implicit::new(crate::Neumann::new(7, 0.2).unwrap());
        let aid = Alternating::new(Sgd::new(0.25), 4, implicit, 0.05).unwrap();
        let stocbio = StocBio::new(4, 0.25, 0.05, 7, 0.2).unwrap();
        let mut states = [LoopState::new(&quadratic.x, &quadratic.z), LoopState::new(&quadratic.x, &quadratic.z)];
        for _ in 0..10 {
            let [a, b] = states;
            let a = aid.step(&quadratic.problem, a, &quadratic.batches).unwrap();
            let b = stocbio.step(&quadratic.problem, b, &quadratic.batches).unwrap();
            assert_close(&a.x, &b.x, 1e-13);
            assert_close(&a.z, &b.z, 1e-13);
            states = [a, b];
        }
    }

    /// `v_k = h_k` exactly, whatever the momentum, when nothing is drawn.
    #[test]
    fn recursive_momentum_of_full_batches_is_none() {
        let quadratic = Quadratic::new(2, 3, 2);
        let run = |momentum| {
            let method = Mrbo::new((0.2, 0.03), (20, 0.2), momentum, f64::INFINITY).unwrap();
            let mut state = LoopState::new(&quadratic.x, &quadratic.z);
            for _ in 0..30 {
                state = method.step(&quadratic.problem, state, &quadratic.batches).unwrap();
            }
            state
        };
        let (none, strong) = (run(1.0), run(0.05));
        assert_close(&none.x, &strong.x, 1e-11);
        assert_close(&none.z, &strong.z, 1e-11);
    }

    fn spread(quadratic: &Quadratic) -> Batches<Constants, Constants> {
        let moved = |constants: &Constants, by: f64| {
            let (m, v) = constants.clone();
            (m, v.into_iter().map(|v| v + by).collect())
        };
        let parts = |one: &Constants| vec![moved(one, 0.7), moved(one, -0.5), moved(one, -0.2)];
        Batches { inner: parts(&quadratic.batches.inner[0]), outer: quadratic.batches.outer.clone() }
    }

    /// The mean square distance over the last steps, on inner batches that are taken in turn.
    #[test]
    fn recursive_momentum_lowers_the_noise() {
        let quadratic = Quadratic::new(7, 3, 2);
        let (batches, solution) = (spread(&quadratic), quadratic.solution());
        let noise = |momentum| {
            let method = Mrbo::new((0.2, 0.02), (60, 0.25), momentum, f64::INFINITY).unwrap();
            let mut state = LoopState::new(&solution, &quadratic.inner(&solution));
            let mut sum = 0.0;
            for step in 0..900 {
                state = method.step(&quadratic.problem, state, &batches).unwrap();
                if step >= 600 {
                    sum += state.x.clone().sub(&solution).unwrap().norm().value().powi(2) / 300.0;
                }
            }
            sum
        };
        let (none, strong) = (noise(1.0), noise(0.1));
        assert!(strong < 0.5 * none, "{strong:e} {none:e}");
    }

    /// One term of the series has `K` times the variance of all: near, at a distance that falls with the rates.
    #[test]
    fn drawn_series_near_the_solution() {
        let quadratic = Quadratic::new(11, 4, 2);
        let solution = quadratic.solution();
        let sustain = Sustain::new((0.3, 0.01), (20, 0.5), 0.1, 100.0, 4).unwrap();
        let ttsa = Ttsa::new((0.3, 0.01), (20, 0.5), 100.0, 4).unwrap();
        for (name, method) in [("SUSTAIN", &sustain as &dyn Loop<_, _>), ("TTSA", &ttsa)] {
            let mut state = LoopState::new(&quadratic.x, &quadratic.z);
            let mut means = [0.0; 5];
            for step in 0..2500 {
                state = method.step(&quadratic.problem, state, &quadratic.batches).unwrap();
                means[step / 500] += state.x.clone().sub(&solution).unwrap().norm().value() / 500.0;
            }
            println!("{name}: mean distance by 500 steps {means:?}");
            assert!(means[4] < 0.08 * means[0], "{name}: {means:?}");
        }
    }

    /// Inner batches are all used, and on a solution of their mean the loops stay near it.
    #[test]
    fn batches_are_taken_in_turn() {
        for (uses, count) in [(3, 5), (4, 4), (7, 3), (1, 1)] {
            let mut seen = vec![0; count];
            let mut expected = 0;
            for steps in 0..20u64 {
                let mut cursor = series::Cursor::new(steps, uses, count).unwrap();
                for _ in 0..uses {
                    let index = cursor.take();
                    assert_eq!(index, expected % count);
                    (seen[index], expected) = (seen[index] + 1, expected + 1);
                }
            }
            assert!(seen.iter().all(|times| *times > 0));
        }
        let quadratic = Quadratic::new(7, 3, 2);
        let empty = Batches { inner: vec![], outer: quadratic.batches.outer.clone() };
        let state = LoopState::new(&quadratic.x, &quadratic.z);
        assert!(StocBio::new(1, 0.1, 0.1, 1, 0.1).unwrap().step(&quadratic.problem, state, &empty).is_err());
    }

    #[test]
    fn parameters_are_checked() {
        assert!(Soba::new(0.0, 1.0).is_err() && Saba::new(0.1, f64::NAN, 0).is_err());
        assert!(F2sa::new(0.1, 0.1, 0.0, 0.0).is_err() && F2sa::new(0.1, 0.1, 1.0, -1.0).is_err());
        assert!(Bome::new(0, 0.1, 0.1, 0.5).is_err() && Bome::new(1, 0.1, 0.1, 0.0).is_err());
        assert!(Bome::new(1, 0.1, 0.1, 0.5).unwrap().horizon(f64::NAN).is_err());
        assert!(VPbgd::new(0, 0.1, 0.1, 1.0).is_err() && VPbgd::new(1, 0.1, 0.1, f64::NAN).is_err());
        assert!(StocBio::new(0, 0.1, 0.1, 1, 0.1).is_err() && StocBio::new(1, 0.1, f64::INFINITY, 1, 0.1).is_err());
        assert!(Amigo::new((0, 0.1), (1, 0.1), 0.1).is_err() && Amigo::new((1, 0.1), (1, f64::NAN), 0.1).is_err());
        for bad in [0.0, 1.1, f64::NAN] {
            assert!(Mrbo::new((0.1, 0.1), (1, 0.1), bad, 1.0).is_err());
            assert!(Sustain::new((0.1, 0.1), (1, 0.1), bad, 1.0, 0).is_err());
        }
        assert!(
            Mrbo::new((0.1, 0.1), (1, 0.1), 0.5, 0.0).is_err() && Mrbo::new((0.1, -0.1), (1, 0.1), 0.5, 1.0).is_err()
        );
        assert!(Sustain::new((0.1, 0.1), (0, 0.1), 0.5, 1.0, 0).is_err());
        assert!(
            Ttsa::new((0.1, 0.1), (0, 0.1), 1.0, 0).is_err() && Ttsa::new((0.1, 0.1), (1, 0.1), f64::NAN, 0).is_err()
        );
    }
}
