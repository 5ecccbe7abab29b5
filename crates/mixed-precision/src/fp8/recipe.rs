//! Which part of a tensor shares a scale, and where the scale comes from.

use crate::error::{Error, Result, within};
use crate::format::Format;

/// What of the history sets a delayed scale.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum AmaxChoice {
    /// The largest amax of the history.
    #[default]
    Max,
    /// The amax of the step before.
    MostRecent,
}

/// Where scales come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Source {
    Delayed { history: usize, choice: AmaxChoice },
    Current,
    Row,
    Block { size: usize },
}

/// How the operands of a matrix product become FP8: `q = fp8(x · scale)`, `x ≈ q / scale`,
/// `scale = (fp8max / amax) / 2^margin` with `amax = max |x|` of what shares the scale.
///
/// | recipe | one scale for | amax of |
/// |---|---|---|
/// | [`delayed`](Self::delayed) | the tensor | the steps before (a history) |
/// | [`current`](Self::current) | the tensor | the tensor itself |
/// | [`per_row`](Self::per_row) | all that one output sums over: rows of the left operand, columns of the right | the row |
/// | [`per_block`](Self::per_block) | 1 × 128 along the sum, 128 × 128 of weights | the block |
///
/// | setting | default | range | effect |
/// |---|---|---|---|
/// | [`history`](Self::history) | 1024 | 1 or more | steps that a delayed scale looks back |
/// | [`choice`](Self::choice) | max | | their largest amax, or the last one |
/// | [`margin`](Self::margin) | 0 | 0 to 126 | powers of two left free below the largest number |
/// | [`block`](Self::block) | 128 | 1 or more | side of a block |
/// | [`formats`](Self::formats) | `e4m3fn`, `e5m2` | 8 bits, signed | forward, backward |
/// | [`power_of_two_scales`](Self::power_of_two_scales) | false | | scales rounded down to a power of two, so that scaling rounds nothing |
///
/// Rounding is to nearest even and saturates. In per-row and per-block scaling an operand is quantised anew, from its own values,
/// for each product it takes part in, because each sums over another axis. Where amax is 0 or not finite a delayed scale stays, and
/// the others are 1; a scale beyond `f32` is the largest `f32`.
///
/// **Emulated.** Operands are rounded to numbers of the format and stay `f32` (`q · (1/scale)`, rounded once more unless the scale is a power of
/// two), and products accumulate as the backend's do. It shows what FP8 does to training; it saves no memory and no time.
///
/// Deviations from Transformer Engine: an element that is not finite becomes NaN where the hardware saturates infinities, so that a
/// loss scaler still sees an overflow; every forward pass of a layer is a step of its history (there: every `autocast` region, and
/// its fused update does not count a step whose amax is 0); per-row and per-block gradients are in `e5m2` unless
/// [`formats`](Self::formats) says otherwise (there and in DeepSeek-V3: `e4m3fn` throughout).
///
/// P. Micikevicius et al., "FP8 formats for deep learning", 2022, arXiv:2209.05433; NVIDIA Transformer Engine, `DelayedScaling` and
/// `Float8CurrentScaling`; DeepSeek-AI, "DeepSeek-V3 technical report", 2024, arXiv:2412.19437, section 3.3.2.
///
/// ```
/// use mixed_precision::{Format, fp8::Recipe};
///
/// let recipe = Recipe::delayed().history(16)?.margin(1)?;
/// assert_eq!(recipe.scale(7.0, Format::E4M3FN, 1.0), 32.0);
/// assert_eq!(recipe.scale(0.0, Format::E4M3FN, 5.0), 5.0);
/// # Ok::<(), mixed_precision::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Recipe {
    pub(crate) source: Source,
    margin: u32,
    power_of_two: bool,
    pub(crate) forward: Format,
    pub(crate) backward: Format,
}

impl Recipe {
    /// One scale for a tensor, of the steps before: one pass over it.
    pub const fn delayed() -> Self {
        Self::new(Source::Delayed { history: 1024, choice: AmaxChoice::Max })
    }

    /// One scale for a tensor, its own: two passes.
    pub const fn current() -> Self {
        Self::new(Source::Current)
    }

    /// A scale for each row of the left operand and each column of the right.
    pub const fn per_row() -> Self {
        Self::new(Source::Row)
    }

    /// A scale for each 128 elements of inputs and gradients, and for each 128 × 128 of weights.
    pub const fn per_block() -> Self {
        Self::new(Source::Block { size: 128 })
    }

    const fn new(source: Source) -> Self {
        Self { source, margin: 0, power_of_two: false, forward: Format::E4M3FN, backward: Format::E5M2 }
    }

    /// Steps that a delayed scale looks back. Other recipes have no history.
    ///
    /// # Errors
    /// [`Error::Parameter`] for 0.
    pub fn history(self, history: usize) -> Result<Self> {
        let history = within("history", history, 1..=usize::MAX, "1 <= history")?;
        Ok(match self.source {
            Source::Delayed { choice, .. } => Self { source: Source::Delayed { history, choice }, ..self },
            _ => self,
        })
    }

    /// What of the history sets the scale.
    pub fn choice(self, choice: AmaxChoice) -> Self {
        match self.source {
            Source::Delayed { history, .. } => Self { source: Source::Delayed { history, choice }, ..self },
            _ => self,
        }
    }

    /// Powers of two left free below the largest number.
    ///
    /// # Errors
    /// [`Error::Parameter`] above 126.
    pub fn margin(self, margin: usize) -> Result<Self> {
        Ok(Self { margin: within("margin", margin, 0..=126, "0 <= margin <= 126")? as u32, ..self })
    }

    /// Side of a block. Other recipes have none.
    ///
    /// # Errors
    /// [`Error::Parameter`] for 0.
    pub fn block(self, size: usize) -> Result<Self> {
        let size = within("block", size, 1..=usize::MAX, "1 <= block")?;
        Ok(match self.source {
            Source::Block { .. } => Self { source: Source::Block { size }, ..self },
            _ => self,
        })
    }

    /// Formats of the forward pass (inputs, weights) and of the gradient that comes back.
    ///
    /// # Errors
    /// [`Error::Parameter`] for a format that has not 8 bits with a sign.
    pub fn formats(self, forward: Format, backward: Format) -> Result<Self> {
        for (parameter, format) in [("bits of the forward format", forward), ("bits of the backward format", backward)]
        {
            if format.bits() != 8 || !format.is_signed() {
                let value = f64::from(format.bits());
                return Err(Error::Parameter { parameter, value, bound: "8, the sign among them" });
            }
        }
        Ok(Self { forward, backward, ..self })
    }

    /// Whether scales are rounded down to powers of two.
    pub fn power_of_two_scales(self, power_of_two: bool) -> Self {
        Self { power_of_two, ..self }
    }

    /// The scale for an amax in a format; `previous` where the amax is 0 or not finite.
    pub fn scale(&self, amax: f32, format: Format, previous: f32) -> f32 {
        self.scale_of(amax, format.max(), previous)
    }

    /// As [`scale`](Self::scale) with the largest number of the format.
    #[inline]
    pub(crate) fn scale_of(&self, amax: f32, max: f32, previous: f32) -> f32 {
        if !(amax > 0.0 && amax < f32::INFINITY) {
            return previous;
        }
        let scale = (max / amax / (self.margin as f32).exp2()).min(f32::MAX);
        match self.power_of_two {
            true => f32::from_bits(scale.to_bits() & 0x7f80_0000),
            false => scale,
        }
    }

    /// Steps of history, if the recipe has one.
    pub(crate) fn history_length(&self) -> Option<usize> {
        match self.source {
            Source::Delayed { history, .. } => Some(history),
            _ => None,
        }
    }

    /// What of the tensor, seen as `[outer, middle, inner]`, shares a scale in a product that sums over the axis `sum` (0 or 1)
    /// and, where there is an inner extent, over that too.
    pub(crate) fn tile(&self, view: [usize; 3], sum: usize, weight: bool) -> [usize; 3] {
        let [outer, middle, inner] = view;
        match self.source {
            Source::Delayed { .. } | Source::Current => view,
            Source::Row if sum == 1 => [1, middle, inner],
            Source::Row => [outer, 1, inner],
            Source::Block { size } if weight => [size, size, 1],
            Source::Block { size } if sum == 1 => [1, size, 1],
            // The sum runs over positions of an image, which a kernel shifts: a block is one image's.
            Source::Block { .. } if inner > 1 => [1, 1, inner],
            Source::Block { size } => [size, 1, 1],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_by_hand() {
        let recipe = Recipe::current();
        let scale = |recipe: Recipe, amax| recipe.scale(amax, Format::E4M3FN, 3.0);
        assert_eq!(scale(recipe, 2.0), 224.0);
        assert_eq!(scale(recipe.margin(3).unwrap(), 2.0), 28.0);
        assert_eq!(recipe.scale(2.0, Format::E5M2, 3.0), 28672.0);
        assert_eq!(scale(recipe, 3.0), 448.0 / 3.0);
        assert_eq!(scale(recipe.power_of_two_scales(true), 3.0), 128.0);
        for amax in [0.0, -0.0, f32::INFINITY, f32::NAN, -1.0] {
            assert_eq!(scale(recipe, amax), 3.0, "{amax}: the scale stays");
        }
        assert_eq!(scale(recipe, 1e-38), f32::MAX, "4.48e40 is none");
        assert_eq!(scale(recipe.power_of_two_scales(true), 1e-38), 2f32.powi(127));
    }

    #[test]
    fn parameters_are_checked_and_settings_of_other_recipes_ignored() {
        let message = |result: Result<Recipe>| result.unwrap_err().to_string();
        assert_eq!(message(Recipe::delayed().history(0)), "history = 0 is out of range, expected 1 <= history");
        assert_eq!(message(Recipe::delayed().margin(127)), "margin = 127 is out of range, expected 0 <= margin <= 126");
        assert_eq!(message(Recipe::per_block().block(0)), "block = 0 is out of range, expected 1 <= block");
        let bits = message(Recipe::current().formats(Format::E4M3FN, Format::E2M1FN));
        assert_eq!(bits, "bits of the backward format = 4 is out of range, expected 8, the sign among them");
        assert!(Recipe::current().formats(Format::E8M0, Format::E5M2).is_err());
        let other = Recipe::current().history(3).unwrap().block(4).unwrap().choice(AmaxChoice::MostRecent);
        assert_eq!(other, Recipe::current());
    }

    #[test]
    fn tiles_of_matrices_and_images() {
        let (matrix, images) = ([300, 200, 1], [8, 16, 49]);
        for recipe in [Recipe::delayed(), Recipe::current()] {
            assert_eq!((recipe.tile(matrix, 0, false), recipe.tile(images, 1, true)), (matrix, images));
        }
        let row = Recipe::per_row();
        assert_eq!((row.tile(matrix, 1, false), row.tile(matrix, 0, true)), ([1, 200, 1], [300, 1, 1]));
        assert_eq!((row.tile(images, 1, false), row.tile(images, 0, false)), ([1, 16, 49], [8, 1, 49]));
        let block = Recipe::per_block();
        assert_eq!((block.tile(matrix, 1, false), block.tile(matrix, 0, false)), ([1, 128, 1], [128, 1, 1]));
        assert_eq!((block.tile(images, 1, false), block.tile(images, 0, false)), ([1, 128, 1], [1, 1, 49]));
        assert_eq!(block.tile(images, 0, true), [128, 128, 1]);
    }
}
