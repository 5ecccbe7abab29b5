//! Descent by an update, for gradients that come from elsewhere.

use core_tensor::Tree;
use core_tensor::transform::State;

use super::{Point, Recorder, Update};
use crate::error::Result;

/// Moves a point along gradients that are given to it, by any [`Update`]: the outer optimizer of meta-learning and of hypergradients.
///
/// ```
/// use bilevel::update::{Descent, Sgd};
/// use burn::tensor::{Device, Tensor};
/// use core_tensor::Tree;
/// # fn main() -> bilevel::Result<()> {
/// // ½z², whose gradient is z.
/// let start = Tree::empty().push("z", Tensor::<1>::from_data([3.0f32], &Device::default()))?;
/// let mut descent = Descent::new(Sgd::new(0.1), &start);
/// for _ in 0..100 {
///     let gradient = descent.at().clone();
///     descent.step(&gradient)?;
/// }
/// assert!(descent.at().norm().value() < 0.01);
/// # Ok(()) }
/// ```
///
/// Cost a step: one run of the recorded update; memory that of the update. Saves and resumes bit for bit (test `descent_resumes_bit_for_bit`).
pub struct Descent<U> {
    recorder: Recorder<U>,
    point: Point,
    zero: Point,
    steps: u64,
}

impl<U: Update> Descent<U> {
    /// From a start, with the update's memory zero. Numbers of the update have to be fixed ones: there is no outer variable to read others from.
    pub fn new(update: U, start: &Tree) -> Self {
        let recorder = Recorder::new(update);
        let point = Point::start(start, recorder.memories());
        Self { zero: point.zeros_like(), recorder, point, steps: 0 }
    }

    /// The point now.
    pub fn at(&self) -> &Tree {
        &self.point.z
    }

    /// The next point.
    ///
    /// # Errors
    /// A gradient of another structure; an update that cannot be recorded. The point is then as it was.
    pub fn step(&mut self, gradient: &Tree) -> Result<&Tree> {
        let none = Tree::empty();
        self.point.z.same_structure(gradient)?;
        let update = self.recorder.get(&none, &self.point.z)?;
        self.point = update.run(&none, &self.point, gradient, &self.zero, self.steps as usize)?.0;
        self.steps += 1;
        Ok(&self.point.z)
    }

    /// What changes from step to step.
    pub fn state(&self) -> State {
        let memory = self.point.memory.iter().enumerate();
        let memory = memory.fold(State::new(), |state, (i, tree)| state.with(format!("{i}"), tree.clone()));
        State::new().with("steps", self.steps).with("at", self.point.z.clone()).with_nested("memory", memory)
    }

    /// Go on from a state, bit for bit.
    ///
    /// # Errors
    /// The state of something else; this is then as it was.
    pub fn load_state(&mut self, mut state: State) -> Result<()> {
        let (steps, z): (u64, Tree) = (state.take("steps")?, state.take("at")?);
        let mut nested = state.take_nested("memory");
        state.finish()?;
        let memory = (0..self.point.memory.len()).map(|i| nested.take(&format!("{i}")));
        let memory = memory.collect::<core_tensor::Result<Vec<Tree>>>()?;
        nested.finish()?;
        for tree in std::iter::once(&z).chain(&memory) {
            self.point.z.same_structure(tree)?;
        }
        (self.steps, self.point) = (steps, Point { z, memory });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::*;
    use crate::update::{Adam, Momentum};
    use core_tensor::testing::{assert_close, assert_same_bits};

    /// `m ← 0.5m + z`, `z ← z − 0.1m` on `½z²`.
    #[test]
    fn momentum_by_hand() {
        let mut descent = Descent::new(Momentum::new(0.1, 0.5), &leaf("z", &[2.0]));
        let (mut z, mut m) = (2.0, 0.0);
        for _ in 0..4 {
            let gradient = descent.at().clone();
            descent.step(&gradient).unwrap();
            m = 0.5 * m + z;
            z -= 0.1 * m;
            assert_close(descent.at(), &leaf("z", &[z]), 1e-14);
        }
        assert!(descent.step(&leaf("y", &[1.0])).is_err());
        assert_close(descent.at(), &leaf("z", &[z]), 1e-14);
    }

    #[test]
    fn descent_resumes_bit_for_bit() {
        let start = leaf("z", &[1.0, -2.0, 0.3]);
        let go = |descent: &mut Descent<Adam>| {
            for _ in 0..3 {
                let gradient = descent.at().clone().scale(0.7);
                descent.step(&gradient).unwrap();
            }
        };
        let mut one = Descent::new(Adam::new(0.1), &start);
        go(&mut one);
        let mut two = Descent::new(Adam::new(0.1), &start);
        two.load_state(one.state()).unwrap();
        assert_same_bits(one.at(), two.at());
        go(&mut one);
        go(&mut two);
        assert_same_bits(one.at(), two.at());
        assert!(two.load_state(State::new()).is_err());
        assert!(two.load_state(Descent::new(Momentum::new(0.1, 0.5), &start).state()).is_err());
        assert!(two.load_state(Descent::new(Adam::new(0.1), &leaf("y", &[0.0])).state()).is_err());
        assert_same_bits(one.at(), two.at());
    }
}
