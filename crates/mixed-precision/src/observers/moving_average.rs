//! The range of the batches' averages.

use burn::tensor::Tensor;
use core_tensor::transform::State;

use super::{Observer, Range, ends, finite, load, save};
use crate::error::{Error, Result};

/// From the moving average of the batches' smallest values to that of their largest: `low ← low + c·(min − low)`, `high` alike;
/// the first batch sets both.
///
/// | setting | default | range | effect |
/// |---|---|---|---|
/// | `averaging` (`c`) | – | 0 < c ≤ 1 | weight of the new batch; PyTorch's `MovingAverageMinMaxObserver` has 0.01; with 1 the last batch counts alone |
///
/// Cost: one pass, two numbers. B. Jacob et al., "Quantization and training of neural networks for efficient
/// integer-arithmetic-only inference", CVPR 2018, arXiv:1712.05877, section 3.1.
#[derive(Clone, Debug, PartialEq)]
pub struct MovingAverageMinMax {
    averaging: f64,
    range: Option<Range>,
}

impl MovingAverageMinMax {
    /// One that has seen nothing.
    ///
    /// # Errors
    /// [`Error::Parameter`] unless `0 < averaging <= 1`.
    pub fn new(averaging: f64) -> Result<Self> {
        match averaging > 0.0 && averaging <= 1.0 {
            true => Ok(Self { averaging, range: None }),
            false => Err(Error::Parameter { parameter: "averaging", value: averaging, bound: "0 < averaging <= 1" }),
        }
    }
}

impl Observer for MovingAverageMinMax {
    fn observe<const D: usize>(&mut self, x: &Tensor<D>) -> Result<()> {
        if let Some(new) = ends(&finite(x)?) {
            let old = self.range.unwrap_or(new);
            // In f64: differences of two f32 do not overflow there.
            let toward = |old: f32, new: f32| {
                let (old, new) = (f64::from(old), f64::from(new));
                (old + self.averaging * (new - old)) as f32
            };
            self.range = Some(Range { low: toward(old.low, new.low), high: toward(old.high, new.high) });
        }
        Ok(())
    }

    fn range(&self) -> Result<Range> {
        self.range.ok_or(Error::NothingObserved)
    }

    fn state(&self) -> State {
        save(self.range)
    }

    fn load_state(&mut self, state: State) -> Result<()> {
        self.range = load(state)?;
        Ok(())
    }
}
