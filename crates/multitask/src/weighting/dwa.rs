//! DWA: slow tasks get more weight.

use core_tensor::transform::State;

use super::{LossWeighting, Losses, check_tasks};
use crate::check::{at_least, positive};
use crate::solvers::softmax;
use crate::{Error, Method, Result};

/// Weights by how much each loss fell between the last two epochs.
///
/// $$ w_i = K \cdot \operatorname{softmax}_i\big(r_i/T\big), \qquad r_i = L_i^{(t-1)}/L_i^{(t-2)} $$
///
/// for `K` tasks, with losses averaged over an epoch. Before two epochs have passed all weights are 1.
///
/// | parameter | default | range | effect |
/// |---|---|---|---|
/// | `temperature` | none; the paper's 2 | `> 0` | large: equal weights |
/// | `window` | 1 | `≥ 1` | calls an average is taken over: the steps of an epoch |
///
/// A loss that is not finite is left out of its average; a task without a finite loss in a whole window keeps its
/// average. State: the last two
/// averages and the running one. Errors: [`Error::Loss`] for a loss of 0 or below, [`Error::Tasks`] if their number
/// changes.
///
/// S. Liu, E. Johns, A. J. Davison, "End-to-end multi-task learning with attention", CVPR 2019, arXiv:1803.10704,
/// equation 7.
///
/// ```
/// use multitask::weighting::{Dwa, Losses, LossWeighting};
///
/// let mut dwa = Dwa::new(2.0)?;
/// assert_eq!(dwa.weights(&Losses::new(&[1.0, 1.0]))?, [1.0, 1.0]);
/// assert_eq!(dwa.weights(&Losses::new(&[1.0, 0.5]))?, [1.0, 1.0]);
/// let w = dwa.weights(&Losses::new(&[1.0, 0.5]))?;
/// assert!((w[0] / w[1] - 0.25f64.exp()).abs() < 1e-14 && (w[0] + w[1] - 2.0).abs() < 1e-14);
/// # Ok::<(), multitask::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Dwa {
    temperature: f64,
    window: usize,
    /// Calls in the running window.
    calls: u64,
    sums: Vec<f64>,
    counts: Vec<u64>,
    /// The averages of the last window and the one before; NaN where there is none.
    last: Vec<f64>,
    before: Vec<f64>,
}

impl Dwa {
    /// Softened by a temperature.
    ///
    /// # Errors
    /// [`Error::Parameter`] unless `0 < temperature < ∞`.
    pub fn new(temperature: f64) -> Result<Self> {
        let temperature = positive("temperature", temperature)?;
        let (last, before) = (vec![], vec![]);
        Ok(Self { temperature, window: 1, calls: 0, sums: vec![], counts: vec![], last, before })
    }

    /// Averages over so many calls.
    ///
    /// # Errors
    /// [`Error::Parameter`] for 0.
    pub fn window(self, window: usize) -> Result<Self> {
        Ok(Self { window: at_least("window", window, 1, "1 <= window")?, ..self })
    }

    /// The window is over: its averages become the last ones.
    fn turn(&mut self) {
        for task in 0..self.sums.len() {
            if self.counts[task] > 0 {
                let average = self.sums[task] / self.counts[task] as f64;
                self.before[task] = std::mem::replace(&mut self.last[task], average);
            }
            (self.sums[task], self.counts[task]) = (0.0, 0);
        }
        self.calls = 0;
    }
}

impl Method for Dwa {
    fn name(&self) -> &'static str {
        "dwa"
    }

    fn state(&self) -> State {
        State::new()
            .with("calls", self.calls)
            .with("sums", self.sums.clone())
            .with("counts", self.counts.clone())
            .with("last", self.last.clone())
            .with("before", self.before.clone())
    }

    fn load_state(&mut self, mut state: State) -> Result<()> {
        let calls = state.take("calls")?;
        let (sums, counts): (Vec<f64>, Vec<u64>) = (state.take("sums")?, state.take("counts")?);
        let (last, before): (Vec<f64>, Vec<f64>) = (state.take("last")?, state.take("before")?);
        state.finish()?;
        for (what, actual) in [("counts", counts.len()), ("last", last.len()), ("before", before.len())] {
            if actual != sums.len() {
                return Err(Error::Core(core_tensor::Error::Length { what, expected: sums.len(), actual }));
            }
        }
        *self = Self { calls, sums, counts, last, before, ..*self };
        Ok(())
    }
}

impl LossWeighting for Dwa {
    fn weights(&mut self, losses: &Losses<'_>) -> Result<Vec<f64>> {
        let tasks = losses.values().len();
        check_tasks(self.name(), (!self.sums.is_empty()).then_some(self.sums.len()), tasks)?;
        let finite = losses.positive(self.name())?;
        if self.sums.is_empty() {
            (self.sums, self.counts) = (vec![0.0; tasks], vec![0; tasks]);
            (self.last, self.before) = (vec![f64::NAN; tasks], vec![f64::NAN; tasks]);
        }
        if self.calls >= self.window as u64 {
            self.turn();
        }
        for (task, loss) in &finite {
            self.sums[*task] += loss;
            self.counts[*task] += 1;
        }
        self.calls += 1;
        let rate = |task: usize| {
            let rate = self.last[task] / self.before[task];
            // Without a history a task counts as standing still.
            let rate = if rate.is_nan() { 1.0 } else { rate.min(f64::MAX) };
            rate / self.temperature
        };
        let known = finite.iter().any(|(task, _)| !self.before[*task].is_nan());
        let scores: Vec<f64> = finite.iter().map(|(task, _)| if known { rate(*task) } else { 0.0 }).collect();
        let count = finite.len() as f64;
        let weights = softmax(&scores).into_iter().map(|w| count * w);
        Ok(losses.spread(finite.iter().map(|(task, _)| *task).zip(weights)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn averages_are_those_of_windows() {
        let mut dwa = Dwa::new(1.0).unwrap().window(2).unwrap();
        let mut weights = |losses: [f64; 2]| dwa.weights(&Losses::new(&losses)).unwrap();
        for losses in [[1.0, 1.0], [3.0, 3.0], [1.0, 2.0], [1.0, 2.0]] {
            assert_eq!(weights(losses), [1.0, 1.0]);
        }
        // Averages 2, 2 and then 1, 2: rates ½ and 1.
        for losses in [[9.0, 1.0], [9.0, 1.0]] {
            let w = weights(losses);
            assert!((w[1] / w[0] - 0.5f64.exp()).abs() < 1e-14, "{w:?}");
        }
        assert!(matches!(dwa.weights(&Losses::new(&[0.0, 1.0])), Err(Error::Loss { task: 0, .. })));
    }
}
