//! Which task comes next, and which of its examples.

use core_tensor::Random;
use core_tensor::transform::State;

use crate::model::{ModelError, Result};

/// How often each of the tasks, of `nᵢ` examples, is drawn.
///
/// | schedule | probability of task `i` |
/// |---|---|
/// | [`RoundRobin`](Self::RoundRobin) | each in turn |
/// | [`Uniform`](Self::Uniform) | `1/m` |
/// | [`Proportional`](Self::Proportional) | `∝ nᵢ` |
/// | [`Temperature`](Self::Temperature) | `∝ nᵢ^(1/T)`: proportional at 1, uniform as `T → ∞` |
/// | [`Annealed`](Self::Annealed) | `∝ nᵢ^α`, `α = 1 − 0.8·(e − 1)/(E − 1)` in epoch `e` of `E`: proportional first, nearly uniform last |
///
/// Temperature: N. Arivazhagan et al., "Massively Multilingual Neural Machine Translation in the Wild", 2019, arXiv:1907.05019.
/// Annealed: A. C. Stickland and I. Murray, "BERT and PALs", ICML 2019, arXiv:1902.02671, section 3.3 with its 0.8.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Schedule {
    /// Each in turn.
    RoundRobin,
    /// All alike.
    Uniform,
    /// By the number of examples.
    Proportional,
    /// By the number of examples to the power `1/T`; `T` at least 1.
    Temperature(f64),
    /// From proportional towards uniform over `epochs` of `steps` draws each.
    Annealed {
        /// `E`, at least 1; later epochs are like the last.
        epochs: u64,
        /// Draws in an epoch, at least 1.
        steps: u64,
    },
}

/// Draws tasks by a [`Schedule`] and, for each, its next batch of examples.
///
/// Each task's examples come in a random order of their own, all once before any twice; a batch is cut short at the end of that
/// order. Seeded; the state is a few numbers, and a resumed sampler goes on with the same batches.
///
/// ```
/// use multitask::{Schedule, TaskBatches};
/// # fn main() -> multitask::ModelResult<()> {
/// let mut batches = TaskBatches::new(&[1000, 50], 32, Schedule::Temperature(5.0), 7)?;
/// let batch = batches.draw();
/// assert!(batch.task < 2 && batch.examples.len() <= 32);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct TaskBatches {
    sizes: Vec<usize>,
    batch: usize,
    schedule: Schedule,
    random: Random,
    seed: u64,
    drawn: u64,
    /// Passes over each task's examples that are complete, and how far the next has come.
    passes: Vec<u64>,
    positions: Vec<u64>,
    /// The present pass's order, made from seed, task and pass.
    orders: Vec<Option<Vec<usize>>>,
}

/// The examples of one task to train on next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskDraw {
    /// The task.
    pub task: usize,
    /// Positions in its dataset.
    pub examples: Vec<usize>,
}

impl TaskBatches {
    /// Tasks of `sizes` examples each, in batches of `batch`.
    ///
    /// # Errors
    /// [`ModelError::Parameter`] without tasks, for a task without examples, for batches of 0, or for a schedule out of its range.
    pub fn new(sizes: &[usize], batch: usize, schedule: Schedule, seed: u64) -> Result<Self> {
        if sizes.is_empty() {
            return Err(ModelError::parameter("tasks", 0.0, "at least 1"));
        }
        if sizes.contains(&0) {
            return Err(ModelError::parameter("examples of a task", 0.0, "at least 1"));
        }
        if batch == 0 {
            return Err(ModelError::parameter("batch", 0.0, "at least 1"));
        }
        match schedule {
            Schedule::Temperature(t) if !(t >= 1.0) => {
                return Err(ModelError::parameter("temperature", t, ">= 1"));
            }
            Schedule::Annealed { epochs: 0, .. } => return Err(ModelError::parameter("epochs", 0.0, "at least 1")),
            Schedule::Annealed { steps: 0, .. } => return Err(ModelError::parameter("steps", 0.0, "at least 1")),
            _ => {}
        }
        Ok(Self {
            sizes: sizes.to_vec(),
            batch,
            schedule,
            random: Random::new(seed).fork("task"),
            seed,
            drawn: 0,
            passes: vec![0; sizes.len()],
            positions: vec![0; sizes.len()],
            orders: vec![None; sizes.len()],
        })
    }

    /// The probability of each task in the next draw; for [`Schedule::RoundRobin`] 1 for the one that comes.
    pub fn probabilities(&self) -> Vec<f64> {
        let count = self.sizes.len();
        let power = match self.schedule {
            Schedule::RoundRobin => {
                let next = (self.drawn % count as u64) as usize;
                return (0..count).map(|task| f64::from(u8::from(task == next))).collect();
            }
            Schedule::Uniform => 0.0,
            Schedule::Proportional => 1.0,
            Schedule::Temperature(t) => 1.0 / t,
            Schedule::Annealed { epochs, steps } => {
                let epoch = (self.drawn / steps).min(epochs - 1);
                let progress = if epochs > 1 { epoch as f64 / (epochs - 1) as f64 } else { 0.0 };
                1.0 - 0.8 * progress
            }
        };
        let weights: Vec<f64> = self.sizes.iter().map(|n| (*n as f64).powf(power)).collect();
        let sum: f64 = weights.iter().sum();
        weights.into_iter().map(|weight| weight / sum).collect()
    }

    /// The next task and its next batch.
    pub fn draw(&mut self) -> TaskDraw {
        let probabilities = self.probabilities();
        let task = match self.schedule {
            Schedule::RoundRobin => (self.drawn % self.sizes.len() as u64) as usize,
            _ => {
                let mut left = self.random.next_f64();
                let hit = probabilities.iter().position(|p| {
                    left -= p;
                    left < 0.0
                });
                hit.unwrap_or(self.sizes.len() - 1)
            }
        };
        self.drawn += 1;
        TaskDraw { task, examples: self.next_of(task) }
    }

    /// The next batch of every task: for steps that take one row from each.
    pub fn draw_all(&mut self) -> Vec<TaskDraw> {
        self.drawn += 1;
        (0..self.sizes.len()).map(|task| TaskDraw { task, examples: self.next_of(task) }).collect()
    }

    /// The state, to go on from later.
    pub fn state(&self) -> State {
        State::new()
            .with("seed", self.seed)
            .with("drawn", self.drawn)
            .with("passes", self.passes.clone())
            .with("positions", self.positions.clone())
            .with_nested("random", self.random.state())
    }

    /// Go on from a state of a sampler of the same tasks.
    ///
    /// # Errors
    /// [`core_tensor::Error::State`] for another state, [`ModelError::PerTask`] for one of other tasks; the sampler is then as
    /// it was.
    pub fn load_state(&mut self, mut state: State) -> Result<()> {
        let (seed, drawn) = (state.take("seed")?, state.take("drawn")?);
        let (passes, positions): (Vec<u64>, Vec<u64>) = (state.take("passes")?, state.take("positions")?);
        let inner = state.take_nested("random");
        state.finish()?;
        let expected = self.sizes.len();
        for list in [&passes, &positions] {
            if list.len() != expected {
                return Err(ModelError::PerTask { what: "the saved state", expected, found: list.len() });
            }
        }
        if let Some((position, _)) = positions.iter().zip(&self.sizes).find(|(at, size)| **at >= **size as u64) {
            return Err(ModelError::parameter("saved position", *position as f64, "below the number of examples"));
        }
        self.random.load_state(inner)?;
        (self.seed, self.drawn, self.passes, self.positions) = (seed, drawn, passes, positions);
        self.orders = vec![None; expected];
        Ok(())
    }

    fn next_of(&mut self, task: usize) -> Vec<usize> {
        let (size, pass, start) = (self.sizes[task], self.passes[task], self.positions[task] as usize);
        let end = (start + self.batch).min(size);
        let order = self.orders[task]
            .get_or_insert_with(|| Random::new(self.seed).fork(format!("examples {task} {pass}")).permutation(size));
        let examples = order[start..end].to_vec();
        if end == size {
            self.orders[task] = None;
            (self.passes[task], self.positions[task]) = (pass + 1, 0);
        } else {
            self.positions[task] = end as u64;
        }
        examples
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core_tensor::testing::property;

    const ALL: [Schedule; 5] = [
        Schedule::RoundRobin,
        Schedule::Uniform,
        Schedule::Proportional,
        Schedule::Temperature(3.0),
        Schedule::Annealed { epochs: 3, steps: 50 },
    ];

    #[test]
    fn shares_are_those_of_the_schedule() {
        for schedule in [Schedule::Uniform, Schedule::Proportional, Schedule::Temperature(2.0)] {
            let sizes = [900, 100, 25];
            let mut batches = TaskBatches::new(&sizes, 10, schedule, 1).unwrap();
            let expected = match schedule {
                Schedule::Uniform => [1.0 / 3.0; 3],
                Schedule::Proportional => [900.0 / 1025.0, 100.0 / 1025.0, 25.0 / 1025.0],
                _ => [30.0 / 45.0, 10.0 / 45.0, 5.0 / 45.0],
            };
            let n = 20_000;
            let mut counts = [0.0; 3];
            (0..n).for_each(|_| counts[batches.draw().task] += 1.0);
            for (count, p) in counts.iter().zip(expected) {
                let (n, p): (f64, f64) = (f64::from(n), p);
                assert!((count / n - p).abs() < 5.0 * (p * (1.0 - p) / n).sqrt(), "{schedule:?} {counts:?}");
            }
        }
    }

    #[test]
    fn annealing_goes_from_proportional_to_a_fifth_of_the_power() {
        let mut batches = TaskBatches::new(&[64, 4], 2, Schedule::Annealed { epochs: 3, steps: 2 }, 0).unwrap();
        let mut odds = Vec::new();
        for _ in 0..7 {
            let p = batches.probabilities();
            odds.push((p[0] / p[1]).log2());
            batches.draw();
        }
        let expected = [4.0, 4.0, 2.4, 2.4, 0.8, 0.8, 0.8];
        assert!(odds.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12), "{odds:?}");
        let mut turns = TaskBatches::new(&[5, 5, 5], 1, Schedule::RoundRobin, 0).unwrap();
        assert_eq!((0..6).map(|_| turns.draw().task).collect::<Vec<_>>(), [0, 1, 2, 0, 1, 2]);
    }

    #[test]
    fn every_example_once_before_any_twice() {
        property(24, (1..30usize, 1..9usize, 0..5usize, 0..99u64), |(size, batch, which, seed)| {
            let mut batches = TaskBatches::new(&[size, 3], batch, ALL[which], seed).unwrap();
            for _ in 0..2 {
                let mut seen = Vec::new();
                while seen.len() < size {
                    let draw = batches.draw();
                    if draw.task == 0 {
                        seen.extend(draw.examples);
                    }
                }
                seen.sort_unstable();
                assert_eq!(seen, (0..size).collect::<Vec<_>>());
            }
        });
    }

    #[test]
    fn a_resumed_sampler_goes_on_with_the_same_batches() {
        property(24, (0..5usize, 0..60usize, 0..99u64), |(which, steps, seed)| {
            let new = |seed| TaskBatches::new(&[17, 5, 40], 4, ALL[which], seed).unwrap();
            let mut batches = new(seed);
            for _ in 0..steps {
                batches.draw();
                batches.draw_all();
            }
            let mut resumed = new(seed + 1);
            resumed.load_state(batches.state()).unwrap();
            for _ in 0..40 {
                assert_eq!(batches.draw(), resumed.draw());
            }
            assert_eq!(batches.draw_all(), resumed.draw_all());
        });
    }

    #[test]
    fn bad_settings_and_states_are_refused() {
        let new = |sizes: &[usize], batch, schedule| TaskBatches::new(sizes, batch, schedule, 0);
        assert!(new(&[], 1, Schedule::Uniform).is_err());
        assert!(new(&[1, 0], 1, Schedule::Uniform).is_err());
        assert!(new(&[1], 0, Schedule::Uniform).is_err());
        for t in [0.5, f64::NAN] {
            assert!(new(&[1], 1, Schedule::Temperature(t)).is_err());
        }
        assert!(new(&[1], 1, Schedule::Annealed { epochs: 0, steps: 1 }).is_err());
        assert!(new(&[1], 1, Schedule::Annealed { epochs: 1, steps: 0 }).is_err());
        let mut two = new(&[4, 4], 1, Schedule::Uniform).unwrap();
        let three = new(&[4, 4, 4], 1, Schedule::Uniform).unwrap();
        assert!(matches!(two.load_state(three.state()), Err(ModelError::PerTask { expected: 2, found: 3, .. })));
        assert!(two.load_state(State::new()).is_err());
    }
}
