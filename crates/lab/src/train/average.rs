//! `train.ema`: a moving average of the weights, which usually is better than the weights themselves while these still jump about.

use core_tensor::Tree;
use core_tensor::transform::State;

use crate::error::Result;

/// `a ← d·a + (1 − d)·w` with `d = min(decay, (1 + t)/(10 + t))` at step `t`, so that the first weights are soon forgotten.
pub struct Average {
    decay: f64,
    tree: Tree,
    steps: u64,
}

impl Average {
    /// An average that begins with these weights.
    pub fn new(decay: f64, weights: Tree) -> Self {
        Self { decay, tree: weights, steps: 0 }
    }

    /// Takes note of the weights after a step.
    ///
    /// # Errors
    /// Weights of another structure.
    pub fn take(&mut self, weights: &Tree) -> Result<()> {
        let t = self.steps as f64;
        let decay = self.decay.min((1.0 + t) / (10.0 + t));
        self.tree = self.tree.clone().lerp(weights, 1.0 - decay)?;
        self.steps += 1;
        Ok(())
    }

    /// The average.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// What changes from step to step.
    pub fn state(&self) -> State {
        State::new().with("steps", self.steps).with("weights", Some(self.tree.clone()))
    }

    /// Go on from a state.
    ///
    /// # Errors
    /// The state of something else.
    pub fn load_state(&mut self, mut state: State) -> Result<()> {
        let (steps, tree): (u64, Tree) = (state.take("steps")?, state.take("weights")?);
        tree.same_structure(&self.tree)?;
        state.finish()?;
        (self.steps, self.tree) = (steps, tree);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, Tensor};

    #[test]
    fn three_steps_by_hand() {
        let tree = |x: f64| Tree::empty().push("w", Tensor::<1>::from_data([x], &Device::flex())).unwrap();
        let mut average = Average::new(0.15, tree(0.0));
        average.take(&tree(1.0)).unwrap(); // decay 0.1: 0.9
        assert!((average.tree().sum().value() - 0.9).abs() < 1e-6);
        average.take(&tree(2.0)).unwrap(); // decay 0.15: 0.135 + 1.7
        assert!((average.tree().sum().value() - 1.835).abs() < 1e-6);
        let mut resumed = Average::new(0.15, tree(7.0));
        resumed.load_state(average.state()).unwrap();
        assert_eq!(resumed.tree().to_data(), average.tree().to_data());
        assert!(resumed.load_state(State::new()).is_err());
    }
}
