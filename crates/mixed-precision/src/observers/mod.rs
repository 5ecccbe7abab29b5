//! Range observers: they look at tensors and say from where to where a quantiser should reach.
//!
//! | observer | range | use it for |
//! |---|---|---|
//! | [`MinMax`] | of the smallest and the largest value seen | weights |
//! | [`MovingAverageMinMax`] | of the averages of the batches' smallest and largest values | activations in training |
//! | [`Percentile`] | that leaves out a share of the values on each side | activations with outliers |
//! | [`MseOptimal`] | of the least squared error of the quantiser | few bits |
//!
//! ```
//! use burn::tensor::{Device, Tensor};
//! use mixed_precision::observers::{Observer, Percentile};
//! use mixed_precision::{Format, Uniform};
//!
//! let mut observer = Percentile::new(0.999)?;
//! for batch in 0..4 {
//!     let x = Tensor::<2>::full([8, 16], batch as f32 - 1.0, &Device::flex());
//!     observer.observe(&x)?;
//! }
//! let range = observer.range()?;
//! assert_eq!((range.low, range.high), (-1.0, 2.0));
//! let quantiser = range.apply(Uniform::affine(8)?)?;
//! assert_eq!(range.scale(Format::E4M3FN), 224.0);
//! # let _ = quantiser;
//! # Ok::<(), mixed_precision::Error>(())
//! ```

mod min_max;
mod moving_average;
mod mse;
mod percentile;
mod sample;

#[cfg(test)]
mod laws;

pub use min_max::MinMax;
pub use moving_average::MovingAverageMinMax;
pub use mse::{MseOptimal, Target};
pub use percentile::Percentile;

use burn::tensor::Tensor;
use core_tensor::transform::State;

use crate::error::{Error, Result};
use crate::format::Format;
use crate::memory;
use crate::uniform::Uniform;

/// From where to where values go.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Range {
    /// The lower end.
    pub low: f32,
    /// The upper end.
    pub high: f32,
}

impl Range {
    /// The larger magnitude of the two ends.
    pub fn amax(&self) -> f32 {
        self.low.abs().max(self.high.abs())
    }

    /// The quantiser with this range instead of each tensor's own.
    ///
    /// # Errors
    /// None for a range that an observer gave.
    pub fn apply(&self, uniform: Uniform) -> Result<Uniform> {
        uniform.range(f64::from(self.low), f64::from(self.high))
    }

    /// What to multiply by before rounding to a format, `max/amax`; 1 for an amax of 0.
    pub fn scale(&self, format: Format) -> f32 {
        crate::fp8::Recipe::current().scale(self.amax(), format, 1.0)
    }
}

/// Looks at tensors, remembers what it needs, and gives a [`Range`].
///
/// Tensors are read in host memory. One that is empty changes nothing; one with a NaN or an infinity is an
/// [`Error::NotFinite`] and changes nothing either. Zeros and constants are values as others: their range is that one value.
pub trait Observer {
    /// Looks at a tensor.
    ///
    /// # Errors
    /// [`Error::NotFinite`] if an element is not finite; [`Error::UnsupportedDevice`] if the tensor is being recorded.
    fn observe<const D: usize>(&mut self, x: &Tensor<D>) -> Result<()>;

    /// The range of what was seen.
    ///
    /// # Errors
    /// [`Error::NothingObserved`] if that is nothing.
    fn range(&self) -> Result<Range>;

    /// What it remembers: saves and resumes bit for bit.
    fn state(&self) -> State;

    /// Goes on from a state. After an error the observer is as before.
    ///
    /// # Errors
    /// [`Error::Core`] if an entry is missing, unknown or of another type.
    fn load_state(&mut self, state: State) -> Result<()>;
}

/// All elements, of which each is finite.
fn finite<const D: usize>(x: &Tensor<D>) -> Result<Vec<f32>> {
    let values = memory::read(x, "a range observer", <[f32]>::to_vec)?;
    match values.iter().position(|x| !x.is_finite()) {
        None => Ok(values),
        Some(index) => Err(Error::NotFinite { index, value: values[index] }),
    }
}

/// The smallest and the largest of some values.
fn ends(values: &[f32]) -> Option<Range> {
    let join = |range: Range, x: &f32| Range { low: range.low.min(*x), high: range.high.max(*x) };
    values.first().map(|first| values.iter().fold(Range { low: *first, high: *first }, join))
}

/// A range in a state, if there is one.
fn save(range: Option<Range>) -> State {
    match range {
        None => State::new(),
        Some(Range { low, high }) => State::new().with("low", f64::from(low)).with("high", f64::from(high)),
    }
}

fn load(mut state: State) -> Result<Option<Range>> {
    let range = match (state.take_optional::<f64>("low")?, state.take_optional::<f64>("high")?) {
        (Some(low), Some(high)) => Some(Range { low: low as f32, high: high as f32 }),
        (None, None) => None,
        (Some(_), None) => state.take::<f64>("high").map(|_| None)?,
        (None, Some(_)) => state.take::<f64>("low").map(|_| None)?,
    };
    state.finish()?;
    Ok(range)
}
