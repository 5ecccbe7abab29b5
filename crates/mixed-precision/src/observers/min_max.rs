//! The range of all that was seen.

use burn::tensor::Tensor;
use core_tensor::transform::State;

use super::{Observer, Range, ends, finite, load, save};
use crate::error::{Error, Result};

/// From the smallest to the largest value seen.
///
/// Guarantee: every value is within (`laws::min_max_holds_all`). Cost: one pass, two numbers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MinMax {
    range: Option<Range>,
}

impl MinMax {
    /// One that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Observer for MinMax {
    fn observe<const D: usize>(&mut self, x: &Tensor<D>) -> Result<()> {
        if let Some(new) = ends(&finite(x)?) {
            let old = self.range.unwrap_or(new);
            self.range = Some(Range { low: old.low.min(new.low), high: old.high.max(new.high) });
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
