//! The range without the outermost values.

use burn::tensor::Tensor;
use core_tensor::transform::State;

use super::sample::Sample;
use super::{Observer, Range, finite};
use crate::error::{Error, Result, within};

/// From the `1 − p` quantile to the `p` quantile of the values seen, each the value of that rank: no interpolation.
///
/// With the values ascending, `x₀ … x₍ₙ₋₁₎`, the range is from `x₍ₙ₋₁₋ₖ₎` to `xₖ` with `k = ⌈p·n⌉ − 1`: at least the share `p` of all is at most
/// `high`, and at least as much is at least `low`.
///
/// | setting | default | range | effect |
/// |---|---|---|---|
/// | `p` | – | ½ to 1 | share of values not cut on either side; with 1 the range of [`MinMax`](super::MinMax) (of the sample) |
/// | [`capacity`](Self::capacity) | 2²⁰ | 1 or more | values kept; beyond it an even sample, which does not depend on the batches |
///
/// Guarantees: ranges grow with `p` (`laws::percentiles_are_monotone`). Cost: one pass and 4 bytes a value up to the capacity; a
/// selection when the range is asked for. Percentile calibration as in H. Wu, P. Judd, X. Zhang, M. Isaev, P. Micikevicius, "Integer
/// quantization for deep learning inference", 2020, arXiv:2004.09602, section 3.3 (there of the magnitudes).
#[derive(Clone, Debug, PartialEq)]
pub struct Percentile {
    p: f64,
    sample: Sample,
}

impl Percentile {
    /// One that has seen nothing.
    ///
    /// # Errors
    /// [`Error::Parameter`] unless `½ <= p <= 1`.
    pub fn new(p: f64) -> Result<Self> {
        match (0.5..=1.0).contains(&p) {
            true => Ok(Self { p, sample: Sample::new(1 << 20) }),
            false => Err(Error::Parameter { parameter: "p", value: p, bound: "0.5 <= p <= 1" }),
        }
    }

    /// Keeps so many values. Call it first: what was seen is forgotten.
    ///
    /// # Errors
    /// [`Error::Parameter`] for 0.
    pub fn capacity(self, capacity: usize) -> Result<Self> {
        let capacity = within("capacity", capacity, 1..=usize::MAX, "1 <= capacity")?;
        Ok(Self { sample: Sample::new(capacity), ..self })
    }
}

impl Observer for Percentile {
    fn observe<const D: usize>(&mut self, x: &Tensor<D>) -> Result<()> {
        self.sample.extend(&finite(x)?);
        Ok(())
    }

    fn range(&self) -> Result<Range> {
        let mut values = self.sample.values().to_vec();
        if values.is_empty() {
            return Err(Error::NothingObserved);
        }
        let last = values.len() - 1;
        let rank = ((self.p * values.len() as f64).ceil() as usize).saturating_sub(1).min(last);
        let (_, high, _) = values.select_nth_unstable_by(rank, f32::total_cmp);
        let high = *high;
        let (_, low, _) = values.select_nth_unstable_by(last - rank, f32::total_cmp);
        // With p near ½ and few values the ranks may be the wrong way round.
        Ok(Range { low: low.min(high), high: high.max(*low) })
    }

    fn state(&self) -> State {
        self.sample.state()
    }

    fn load_state(&mut self, state: State) -> Result<()> {
        self.sample.load_state(state)
    }
}
