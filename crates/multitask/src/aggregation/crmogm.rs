//! CR-MOGM: weights of any method, smoothed over time.

use core_tensor::transform::State;

use crate::check::decay;
use crate::{Gramian, GramianAggregator, Method, Result};

/// The moving average of another method's weights.
///
/// Weights computed from one noisy sample are correlated with its noise; averaged ones are less so, which makes
/// stochastic
/// multi-objective methods converge.
///
/// $$ \lambda_t = \alpha\, \lambda_{t-1} + (1 - \alpha)\, \hat\lambda_t, \qquad d = J^\top \lambda_t $$
///
/// | parameter | default | range | effect |
/// |---|---|---|---|
/// | `alpha` | none; 0.9 in the paper's experiments | `[0, 1)` | memory; 0 is the method itself |
///
/// The average starts at the first weights. Tasks whose gradient is not finite keep theirs for later. A direction that
/// does
/// not conflict may do so after averaging. Cost: that of the method. State: its own and `λ`. Errors: its own, and
/// [`Error::Tasks`](crate::Error::Tasks) if the number of tasks changes.
///
/// S. Zhou, W. Zhang, J. Jiang, W. Zhong, J. Gu, W. Zhu, "On the convergence of stochastic multi-objective gradient
/// manipulation and beyond", NeurIPS 2022, algorithm 1.
///
/// ```
/// use multitask::solvers::Matrix;
/// use multitask::{CrMogm, Gramian, GramianAggregator, Mgda};
///
/// let g = |a: f64| Gramian::from_products(&Matrix::symmetric(2, |i, j| if i != j { 0.0 } else if i == 0 { a } else { 1.0 }));
/// let mut smooth = CrMogm::new(Mgda::new(), 0.9)?;
/// assert_eq!(smooth.weights(&g(1.0)?)?, [0.5, 0.5]);
/// assert!((smooth.weights(&g(3.0)?)?[0] - (0.9 * 0.5 + 0.1 * 0.25)).abs() < 1e-15);
/// # Ok::<(), multitask::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct CrMogm<A> {
    inner: A,
    alpha: f64,
    last: Option<Vec<f64>>,
}

impl<A: GramianAggregator> CrMogm<A> {
    /// Smooth the weights of `inner` with memory `alpha`.
    ///
    /// # Errors
    /// [`Error::Parameter`](crate::Error::Parameter) unless `0 <= alpha < 1`.
    pub fn new(inner: A, alpha: f64) -> Result<Self> {
        Ok(Self { inner, alpha: decay("alpha", alpha)?, last: None })
    }
}

impl<A: GramianAggregator> Method for CrMogm<A> {
    fn name(&self) -> &'static str {
        "cr_mogm"
    }

    fn state(&self) -> State {
        State::new().with_nested("inner", self.inner.state()).with("last", self.last.clone())
    }

    fn load_state(&mut self, mut state: State) -> Result<()> {
        let (inner, last) = (state.take_nested("inner"), state.take_optional("last")?);
        state.finish()?;
        self.inner.load_state(inner)?;
        self.last = last;
        Ok(())
    }
}

impl<A: GramianAggregator> GramianAggregator for CrMogm<A> {
    fn weights(&mut self, gramian: &Gramian) -> Result<Vec<f64>> {
        if let Some(last) = &self.last {
            // Before the inner method changes: a state for other tasks is refused.
            gramian.kept(self.name(), "the state", last)?;
        }
        let new = self.inner.weights(gramian)?;
        let mut all = self.last.clone().unwrap_or_else(|| gramian.spread(&new));
        for (task, new) in gramian.tasks().iter().zip(&new) {
            all[*task] = self.alpha * all[*task] + (1.0 - self.alpha) * new;
        }
        let weights = gramian.tasks().iter().map(|task| all[*task]).collect();
        self.last = Some(all);
        Ok(weights)
    }
}
