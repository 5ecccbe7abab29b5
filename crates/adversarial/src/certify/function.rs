//! Activations: their range over an interval, and lines above and below them there.
//!
//! Every function has at most one turning point, from falling to rising, so that its range over `[l, u]` is from
//! `f(turn clamped to [l, u])` to `max(f(l), f(u))`.
//!
//! | function | line below | line above |
//! |---|---|---|
//! | `relu` | slope 1 if `u > −l`, else 0 (adaptive) | chord |
//! | `tanh`, `sigmoid` | tangent in the middle where convex, chord where concave, else the tangent through the upper end | mirrored |
//! | convex: `exp`, `softplus`, `square`, `abs`, `elu` | tangent in the middle | chord |
//! | `gelu`, `silu` | chord, moved down as far as the range of the slope over the interval allows | the same, up |
//!
//! H. Zhang, T.-W. Weng, P.-Y. Chen, C.-J. Hsieh, L. Daniel, "Efficient neural network robustness certification with general
//! activation functions", NeurIPS 2018, arXiv:1811.00866, section 3.

use burn::backend::Dispatch;
use burn::backend::ops::{ActivationOps, FloatTensorOps};

use super::array::Array;

/// Halvings in the search for a tangent through an end: any result is a bound, more make it tighter.
const HALVINGS: usize = 30;
/// Below it a width is taken as this much.
const TINY: f64 = 1e-30;

/// A function of one number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Function {
    Relu,
    Tanh,
    Sigmoid,
    Gelu,
    Silu,
    /// `x` above 0, `α(eˣ − 1)` below, `0 ≤ α ≤ 1`.
    Elu(f64),
    /// `ln(1 + e^(βx))/β`, `β > 0`.
    Softplus(f64),
    Exp,
    Square,
    Abs,
}

/// Lines `slope·x + offset` below and above a function over an interval.
#[derive(Clone, Debug)]
pub(crate) struct Lines {
    pub lower: Line,
    pub upper: Line,
}

#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub slope: Array,
    /// `None` is zero.
    pub offset: Option<Array>,
}

impl Function {
    pub fn of(self, x: &Array) -> Array {
        match self {
            Self::Relu => x.positive(),
            Self::Tanh => Array(Dispatch::float_tanh(x.0.clone())),
            Self::Sigmoid => Array(Dispatch::sigmoid(x.0.clone())),
            Self::Gelu => Array(Dispatch::gelu(x.0.clone())),
            Self::Silu => x.mul(&Self::Sigmoid.of(x)),
            Self::Elu(alpha) => x.positive().add(&Self::Exp.of(&x.negative()).shift(-1.0).scale(alpha)),
            Self::Softplus(beta) => {
                let x = x.scale(beta);
                let tail = Array(Dispatch::float_log1p(Self::Exp.of(&x.abs().neg()).0));
                x.positive().add(&tail).scale(1.0 / beta)
            }
            Self::Exp => Array(Dispatch::float_exp(x.0.clone())),
            Self::Square => x.square(),
            Self::Abs => x.abs(),
        }
    }

    fn slope(self, x: &Array) -> Array {
        match self {
            Self::Relu => Array(Dispatch::float_sign(x.0.clone())).positive(),
            Self::Tanh => Self::Tanh.of(x).square().neg().shift(1.0),
            Self::Sigmoid => {
                let s = Self::Sigmoid.of(x);
                s.sub(&s.square())
            }
            Self::Gelu => {
                let cdf = Array(Dispatch::float_erf(x.scale(std::f64::consts::FRAC_1_SQRT_2).0)).shift(1.0).scale(0.5);
                let density = Self::Exp.of(&x.square().scale(-0.5)).scale(1.0 / (2.0 * std::f64::consts::PI).sqrt());
                cdf.add(&x.mul(&density))
            }
            Self::Silu => {
                let s = Self::Sigmoid.of(x);
                s.add(&x.mul(&s.sub(&s.square())))
            }
            Self::Elu(alpha) => {
                let rising = Array(Dispatch::float_sign(x.0.clone())).positive();
                let falling = Self::Exp.of(&x.negative()).scale(alpha);
                rising.add(&falling.mul(&rising.neg().shift(1.0)))
            }
            Self::Softplus(beta) => Self::Sigmoid.of(&x.scale(beta)),
            Self::Exp => Self::Exp.of(x),
            Self::Square => x.scale(2.0),
            Self::Abs => Array(Dispatch::float_sign(x.0.clone())),
        }
    }

    /// Where the function turns from falling to rising; `None` if it only rises.
    fn turn(self) -> Option<f64> {
        match self {
            Self::Gelu => Some(-0.751_791_524_693_564_5),
            Self::Silu => Some(-1.278_464_542_761_074),
            Self::Square | Self::Abs => Some(0.0),
            _ => None,
        }
    }

    /// The range over `[lower, upper]`.
    pub fn range(self, lower: &Array, upper: &Array) -> (Array, Array) {
        let (at_lower, at_upper) = (self.of(lower), self.of(upper));
        match self.turn() {
            None => (at_lower, at_upper),
            Some(turn) => {
                let turn = Array::full(turn, &lower.shape(), lower);
                (self.of(&turn.max(lower).min(upper)), at_lower.max(&at_upper))
            }
        }
    }

    /// How far a computed value may be from the exact one, given the range and the largest argument; `unit` is the unit roundoff.
    pub fn error(self, range: &Array, argument: &Array, unit: f64) -> Option<Array> {
        match self {
            Self::Relu | Self::Abs => None,
            Self::Tanh | Self::Sigmoid => Some(Array::full(16.0 * unit, &range.shape(), range)),
            Self::Gelu | Self::Silu => Some(argument.scale(16.0 * unit)),
            Self::Elu(_) | Self::Softplus(_) => Some(range.shift(1.0).scale(16.0 * unit)),
            Self::Exp => Some(range.mul(&argument.shift(16.0)).scale(2.0 * unit)),
            Self::Square => Some(range.scale(2.0 * unit)),
        }
    }

    /// Lines below and above over `[lower, upper]`. With `unit`, the unit roundoff, they are moved outward by more than the
    /// rounding of their own computation.
    pub fn lines(self, lower: &Array, upper: &Array, unit: Option<f64>) -> Lines {
        let mut lines = match self {
            Self::Relu => return relu(lower, upper, unit),
            Self::Tanh => self.s_shaped(lower, upper, 0.0),
            Self::Sigmoid => self.s_shaped(lower, upper, 1.0),
            Self::Gelu => self.by_slopes(lower, upper, std::f64::consts::SQRT_2, 1.128_904_145_184_762),
            Self::Silu => self.by_slopes(lower, upper, 2.399_357_280_520_546, 1.099_839_320_128_866_8),
            Self::Elu(_) | Self::Softplus(_) | Self::Exp | Self::Square | Self::Abs => self.convex(lower, upper),
        };
        if let Some(unit) = unit {
            let argument = lower.abs().max(&upper.abs());
            let range = self.of(lower).abs().max(&self.of(upper).abs()).shift(1.0);
            for (line, sign) in [(&mut lines.lower, -1.0), (&mut lines.upper, 1.0)] {
                let size = line.slope.abs().shift(1.0).mul(&argument).add(&range);
                let slack = size.scale(sign * 32.0 * unit);
                line.offset = Some(line.offset.as_ref().map_or(slack.clone(), |offset| offset.add(&slack)));
            }
        }
        lines
    }

    fn through(self, slope: Array, x: &Array) -> Line {
        let offset = self.of(x).sub(&slope.mul(x));
        Line { slope, offset: Some(offset) }
    }

    /// The slope of the chord; as the mean of the slopes between it lies between `least` and `most`.
    fn chord(self, lower: &Array, upper: &Array, least: &Array, most: &Array) -> Array {
        let rise = self.of(upper).sub(&self.of(lower));
        rise.div(&upper.sub(lower).at_least(TINY)).max(least).min(most)
    }

    fn convex(self, lower: &Array, upper: &Array) -> Lines {
        let middle = lower.add(upper).scale(0.5);
        let chord = self.chord(lower, upper, &self.slope(lower), &self.slope(upper));
        let (left, right) = (self.through(chord.clone(), lower), self.through(chord.clone(), upper));
        let offset = left.offset.zip(right.offset).map(|(left, right)| left.max(&right));
        Lines { lower: self.through(self.slope(&middle), &middle), upper: Line { slope: chord, offset } }
    }

    /// `tanh` and `sigmoid`, with `f(x) + f(−x) = sum`.
    fn s_shaped(self, lower: &Array, upper: &Array, sum: f64) -> Lines {
        let above = self.above_s(lower, upper);
        let mirrored = self.above_s(&upper.neg(), &lower.neg());
        let offset = mirrored.offset.map(|offset| offset.neg().shift(sum));
        Lines { lower: Line { slope: mirrored.slope, offset }, upper: above }
    }

    /// The line above a function that is convex below 0 and concave above.
    fn above_s(self, lower: &Array, upper: &Array) -> Line {
        let zeros = Array::full(0.0, &lower.shape(), lower);
        // Tangents at d ≥ 0 are above the function on the right of 0, and on the left of it down to `lower` if they are there.
        let clears = |d: &Array| self.of(d).add(&self.slope(d).mul(&lower.sub(d))).sub(&self.of(lower));
        let (mut miss, mut hit) = (zeros.clone(), upper.positive().detach());
        for _ in 0..HALVINGS {
            let d = miss.add(&hit).scale(0.5);
            let gap = clears(&d).detach();
            hit = gap.above(&zeros, &d, &hit);
            miss = gap.above(&zeros, &miss, &d);
        }
        let middle = lower.add(upper).scale(0.5);
        let tangent_at = lower.above(&zeros, &middle, &hit);
        let tangent = self.slope(&tangent_at);
        let (at_lower, at_upper) = (self.slope(lower), self.slope(upper));
        let steepest = self.slope(&zeros.max(lower).min(upper));
        let chord = self.chord(lower, upper, &at_lower.min(&at_upper), &steepest);
        let ends = self.of(lower).sub(&chord.mul(lower)).max(&self.of(upper).sub(&chord.mul(upper)));
        let touch = self.of(&tangent_at).sub(&tangent.mul(&tangent_at));
        // The tangent serves from 0 on, and where one through the lower end touches before the upper end.
        let serves = lower.max(&clears(&upper.positive()));
        let convex = upper.above(&zeros, &zeros, &zeros.shift(1.0));
        let none = zeros.shift(-1.0);
        let serves = convex.above(&zeros, &none, &serves);
        Line { slope: serves.above(&zeros, &tangent, &chord), offset: Some(serves.above(&zeros, &touch, &ends)) }
    }

    /// A function whose slope is `1 − most` at `−at`, its least, and `most` at `at`, and moves one way before, between and after.
    fn by_slopes(self, lower: &Array, upper: &Array, at: f64, most: f64) -> Lines {
        let (left, right) = (self.slope(lower), self.slope(upper));
        let (mut least_slope, mut most_slope) = (left.min(&right), left.max(&right));
        let full = |value: f64| Array::full(value, &lower.shape(), lower);
        for (turn, value, bound) in [(-at, 1.0 - most, &mut least_slope), (at, most, &mut most_slope)] {
            let turn = full(turn);
            // Positive where the turn lies outside of the interval.
            let outside = lower.sub(&turn).max(&turn.sub(upper));
            *bound = outside.above(&full(0.0), bound, &full(value));
        }
        let chord = self.chord(lower, upper, &least_slope, &most_slope);
        let (at_lower, at_upper) = (self.of(lower), self.of(upper));
        let (low, high) = (at_lower.sub(&chord.mul(lower)), at_upper.sub(&chord.mul(upper)));
        let (low, high) = (low.min(&high), low.max(&high));
        // Between the ends f − chord rises by no more than (most − chord) and falls by no more than (chord − least) per unit:
        // the two meet at a height of width·(most − chord)(chord − least)/(most − least), and below likewise.
        let (up, down) = (most_slope.sub(&chord).positive(), chord.sub(&least_slope).positive());
        let height = upper.sub(lower).mul(&up).mul(&down).div(&up.add(&down).at_least(TINY));
        let line = |offset: Array| Line { slope: chord.clone(), offset: Some(offset) };
        Lines { lower: line(low.sub(&height)), upper: line(high.add(&height)) }
    }
}

fn relu(lower: &Array, upper: &Array, unit: Option<f64>) -> Lines {
    let (low, high) = (lower.negative(), upper.positive());
    let slope = high.div(&high.sub(&low).at_least(TINY));
    let (zeros, ones) = (Array::full(0.0, &low.shape(), &low), Array::full(1.0, &low.shape(), &low));
    let mut offset = slope.mul(&low).neg();
    if let Some(unit) = unit {
        // The function is convex: a line above it at both ends is above it between.
        let right = high.sub(&slope.mul(&high));
        offset = offset.max(&right).scale(1.0 + 8.0 * unit).add(&high.scale(4.0 * unit));
        // A unit that is never active stays exactly zero, and one that always is exactly itself.
        let unstable = low.neg().min(&high);
        offset = unstable.above(&zeros, &offset, &zeros);
    }
    let adaptive = high.above(&low.neg(), &ones, &zeros);
    Lines { lower: Line { slope: adaptive, offset: None }, upper: Line { slope, offset: Some(offset) } }
}
