//! The numbers that a weighting learns, and their optimizer.

use core_tensor::transform::State;

use crate::check::{not_negative, positive};
use crate::{Error, Result};

/// A number a task, moved by Adam with the usual constants (0.9, 0.999, 1e-8) and an L2 penalty. Tasks without a
/// gradient stand
/// still, their moments too.
#[derive(Clone, Debug)]
pub(crate) struct Learned {
    rate: f64,
    decay: f64,
    start: f64,
    values: Vec<f64>,
    first: Vec<f64>,
    second: Vec<f64>,
    /// Steps of each number.
    steps: Vec<u64>,
}

impl Learned {
    /// Numbers that begin at `start`, with a learning rate and a weight decay.
    pub fn new(start: f64, rate: f64, decay: f64) -> Result<Self> {
        let (rate, decay) = (positive("rate", rate)?, not_negative("decay", decay)?);
        Ok(Self { rate, decay, start, values: vec![], first: vec![], second: vec![], steps: vec![] })
    }

    /// The number of tasks; `None` before the first step.
    pub fn tasks(&self) -> Option<usize> {
        (!self.values.is_empty()).then_some(self.values.len())
    }

    /// The numbers, of so many tasks.
    pub fn values(&mut self, tasks: usize) -> &mut [f64] {
        if self.values.is_empty() {
            self.values = vec![self.start; tasks];
            self.first = vec![0.0; tasks];
            self.second = vec![0.0; tasks];
            self.steps = vec![0; tasks];
        }
        &mut self.values
    }

    /// One step along the gradients of some tasks; those that are not finite are left out.
    pub fn step(&mut self, gradients: impl IntoIterator<Item = (usize, f64)>) {
        for (task, gradient) in gradients {
            if !gradient.is_finite() {
                continue;
            }
            let gradient = gradient + self.decay * self.values[task];
            self.steps[task] += 1;
            let steps = self.steps[task] as f64;
            let (first, second) = (&mut self.first[task], &mut self.second[task]);
            *first = 0.9 * *first + 0.1 * gradient;
            *second = (0.999 * *second + 0.001 * gradient * gradient).min(f64::MAX);
            let (mean, square) = (*first / (1.0 - 0.9f64.powf(steps)), *second / (1.0 - 0.999f64.powf(steps)));
            self.values[task] -= self.rate * mean / (square.sqrt() + 1e-8);
        }
    }

    pub fn state(&self) -> State {
        State::new()
            .with("values", self.values.clone())
            .with("first", self.first.clone())
            .with("second", self.second.clone())
            .with("steps", self.steps.clone())
    }

    pub fn load_state(&mut self, mut state: State) -> Result<()> {
        let (values, first): (Vec<f64>, Vec<f64>) = (state.take("values")?, state.take("first")?);
        let (second, steps): (Vec<f64>, Vec<u64>) = (state.take("second")?, state.take("steps")?);
        state.finish()?;
        for (what, actual) in [("first", first.len()), ("second", second.len()), ("steps", steps.len())] {
            if actual != values.len() {
                return Err(Error::Core(core_tensor::Error::Length { what, expected: values.len(), actual }));
            }
        }
        (self.values, self.first, self.second, self.steps) = (values, first, second, steps);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_by_hand() {
        let mut learned = Learned::new(1.0, 0.1, 0.0).unwrap();
        assert_eq!(learned.values(2), [1.0, 1.0]);
        learned.step([(0, 3.0)]);
        // The first step is the rate, whatever the gradient.
        assert!((learned.values(2)[0] - 0.9).abs() < 1e-9 && learned.values(2)[1] == 1.0);
        learned.step([(0, f64::NAN), (1, -1e-3)]);
        assert!((learned.values(2)[1] - 1.1).abs() < 1e-5 && learned.steps == [1, 1]);
        // Second step of the first number: moments 0.27 + 0.1 and 0.008991 + 0.001, corrected by 0.19 and 0.001999.
        learned.step([(0, 1.0)]);
        let expected = 0.9 - 0.1 * (0.37 / 0.19) / ((0.009991f64 / 0.001999).sqrt() + 1e-8);
        assert!((learned.values(2)[0] - expected).abs() < 1e-9);
        let mut resumed = Learned::new(1.0, 0.1, 0.0).unwrap();
        assert!(resumed.load_state(learned.state().with("steps", vec![1u64])).is_err() && resumed.tasks().is_none());
        resumed.load_state(learned.state()).unwrap();
        assert_eq!((resumed.tasks(), resumed.state()), (Some(2), learned.state()));
        assert!(Learned::new(0.0, 0.0, 0.0).is_err() && Learned::new(0.0, 1.0, -1.0).is_err());
    }
}
