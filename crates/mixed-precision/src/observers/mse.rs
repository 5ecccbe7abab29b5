//! The range with the least squared error.

use burn::tensor::Tensor;
use core_tensor::transform::State;
use rayon::prelude::*;

use super::sample::Sample;
use super::{Observer, Range, ends, finite};
use crate::error::{Error, Result, within};
use crate::format::Format;
use crate::memory::CHUNK;
use crate::rounding::{Overflow, Rounding};
use crate::uniform::Uniform;

/// What the values are going to be rounded to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Target {
    /// Integers.
    Uniform(Uniform),
    /// A floating-point format, scaled so that the larger magnitude of the range becomes its largest number.
    Float(Format),
}

impl From<Uniform> for Target {
    fn from(uniform: Uniform) -> Self {
        Self::Uniform(uniform)
    }
}

impl From<Format> for Target {
    fn from(format: Format) -> Self {
        Self::Float(format)
    }
}

/// The range whose quantiser has the least mean squared error on the values seen: it trades what it clamps for smaller steps.
///
/// A grid search: the ends of all values, both times `k/candidates` for `k = 1 … candidates`, each evaluated exactly, on every value
/// kept. Of equal errors the wider range wins. For an affine quantiser that is a line in the plane of both ends, not the plane.
///
/// | setting | default | range | effect |
/// |---|---|---|---|
/// | `target` | – | a [`Uniform`] or a [`Format`] | what the error is that of; granularity and rounding of a `Uniform` count for nothing: one range, to nearest |
/// | [`candidates`](Self::candidates) | 100 | 1 or more | ranges tried |
/// | [`capacity`](Self::capacity) | 2²⁰ | 1 or more | values kept; beyond it an even sample |
///
/// Guarantee: no more error on what is kept than the range of all of it (`laws::mse_is_at_most_that_of_min_max`). Cost: one pass and 4 bytes a
/// value up to the capacity; when the range is asked for, `candidates` passes on all threads. R. Banner, Y. Nahshan, D. Soudry, "Post training
/// 4-bit quantization of convolutional networks for rapid-deployment", NeurIPS 2019, arXiv:1810.05723 (there in closed form for a known
/// distribution).
#[derive(Clone, Debug, PartialEq)]
pub struct MseOptimal {
    target: Target,
    candidates: usize,
    sample: Sample,
}

impl MseOptimal {
    /// One that has seen nothing.
    pub fn new(target: impl Into<Target>) -> Self {
        Self { target: target.into(), candidates: 100, sample: Sample::new(1 << 20) }
    }

    /// Tries so many ranges.
    ///
    /// # Errors
    /// [`Error::Parameter`] for 0.
    pub fn candidates(self, candidates: usize) -> Result<Self> {
        Ok(Self { candidates: within("candidates", candidates, 1..=usize::MAX, "1 <= candidates")?, ..self })
    }

    /// Keeps so many values. Call it first: what was seen is forgotten.
    ///
    /// # Errors
    /// [`Error::Parameter`] for 0.
    pub fn capacity(self, capacity: usize) -> Result<Self> {
        let capacity = within("capacity", capacity, 1..=usize::MAX, "1 <= capacity")?;
        Ok(Self { sample: Sample::new(capacity), ..self })
    }

    /// The mean squared error on the values kept, rounded in a range.
    ///
    /// # Errors
    /// [`Error::NothingObserved`] if there are none; [`Error::Parameter`] for a range whose ends are not finite and in order.
    pub fn error(&self, range: Range) -> Result<f64> {
        let values = self.sample.values();
        if values.is_empty() {
            return Err(Error::NothingObserved);
        }
        let sum = match self.target {
            Target::Uniform(uniform) => {
                let uniform = uniform.rounding(Rounding::NearestEven);
                let (scale, zero) = uniform.parameters(f64::from(range.low), f64::from(range.high))?;
                squares(values, |x| uniform.nearest(x, scale, zero))
            }
            Target::Float(format) => {
                let (scale, codec) = (range.scale(format), Rounding::NearestEven);
                squares(values, |x| format.quantize(x * scale, codec, Overflow::Saturate) * (1.0 / scale))
            }
        };
        Ok(sum / values.len() as f64)
    }
}

/// `Σ (x − round(x))²`, in an order that does not depend on the number of threads.
fn squares(values: &[f32], round: impl Fn(f32) -> f32 + Sync) -> f64 {
    let part = |part: &[f32]| part.iter().map(|x| (f64::from(*x) - f64::from(round(*x))).powi(2)).sum();
    values.par_chunks(CHUNK).map(part).collect::<Vec<f64>>().into_iter().sum()
}

impl Observer for MseOptimal {
    fn observe<const D: usize>(&mut self, x: &Tensor<D>) -> Result<()> {
        self.sample.extend(&finite(x)?);
        Ok(())
    }

    fn range(&self) -> Result<Range> {
        let all = ends(self.sample.values()).ok_or(Error::NothingObserved)?;
        let mut best = (all, self.error(all)?);
        for k in (1..self.candidates).rev() {
            let share = k as f32 / self.candidates as f32;
            let range = Range { low: all.low * share, high: all.high * share };
            let error = self.error(range)?;
            if error < best.1 {
                best = (range, error);
            }
        }
        Ok(best.0)
    }

    fn state(&self) -> State {
        self.sample.state()
    }

    fn load_state(&mut self, state: State) -> Result<()> {
        self.sample.load_state(state)
    }
}
