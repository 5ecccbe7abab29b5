//! Interval bound propagation: from intervals of the inputs, step by step, intervals of everything behind them.
//!
//! | step | interval of the result |
//! |---|---|
//! | linear, `W·x + b` | `W·c + b ± |W|·r` with the centre `c = (l + u)/2` and the radius `r = (u − l)/2` |
//! | the first linear step under an `L2` or `L1` ball | also `W·x₀ + b ± ε·‖W‖_q` with the dual norm of each row (Hölder), whichever is tighter |
//! | activations | the exact range, see [`Function`](super::function::Function) |
//! | maximum and average pooling | of the lower and of the upper ends: both rise with every input |
//! | product of two tensors | the extremes of the four products of ends |
//!
//! # Rounding
//! With a unit roundoff `u` every result is widened by a bound on two errors: that of the network's own arithmetic in this step, in
//! any order of summation, and that of the bound's. A sum of `k` products is off by at most `γ_k·Σ|w||x|`, `γ_k = ku/(1 − ku)`
//! (N. Higham, "Accuracy and stability of numerical algorithms", 2002, section 3.1). The widths are kept: a linear bound through
//! the step pays the same, `Σ|aⱼ|·errorⱼ`, see [`crown`](super::crown).
//!
//! S. Gowal et al., "On the effectiveness of interval bound propagation for training verifiably robust models", 2018,
//! arXiv:1810.12715, section 3.

use burn::tensor::DType;

use super::array::Array;
use super::network::{Network, Op, Step};
use super::region::Region;
use crate::error::{Error, Result};
use crate::threat::Norm;

/// What a tensor can be.
#[derive(Clone, Debug)]
pub(crate) struct Interval {
    pub lower: Array,
    pub upper: Array,
}

impl Interval {
    /// The largest magnitude.
    pub fn size(&self) -> Array {
        self.lower.abs().max(&self.upper.abs())
    }

    fn each(&self, f: impl Fn(&Array) -> Array) -> Self {
        Interval { lower: f(&self.lower), upper: f(&self.upper) }
    }

    /// What is in both.
    pub fn meet(&self, other: &Self) -> Self {
        let lower = self.lower.max(&other.lower);
        // Without slack for rounding two bounds of one number may miss each other by it.
        Interval { upper: self.upper.min(&other.upper).max(&lower), lower }
    }
}

/// How a tensor came from the inputs.
#[derive(Clone, Debug)]
pub(crate) enum Origin {
    /// Its elements are inputs, scaled and shifted one by one; under `L2` and `L1` it is a ball of its own.
    Inputs(Option<Ball>),
    /// One linear step after that, so that its interval is already the best.
    Linear,
    Other,
}

/// `‖x − centre‖ ≤ radius`
#[derive(Clone, Debug)]
pub(crate) struct Ball {
    centre: Array,
    radius: f64,
}

/// The intervals of all tensors so far.
pub(crate) struct Propagation<'a> {
    pub network: &'a Network,
    pub region: &'a Region,
    /// The unit roundoff, where rounding counts.
    pub unit: Option<f64>,
    pub intervals: Vec<Option<Interval>>,
    /// How far each computed element may be from the exact result of its step.
    pub errors: Vec<Option<Array>>,
    pub origins: Vec<Origin>,
}

/// The unit roundoff of an element type.
pub(crate) fn roundoff(dtype: DType) -> Result<f64> {
    match dtype {
        DType::F64 => Ok(f64::EPSILON / 2.0),
        DType::F32 => Ok(f64::from(f32::EPSILON) / 2.0),
        other => {
            Err(Error::NoBound { operation: format!("a tensor of {other:?}"), reason: "bounds need f32 or f64".into() })
        }
    }
}

/// `γ_k = ku/(1 − ku)`
pub(crate) fn gamma(roundings: usize, unit: f64) -> f64 {
    let error = roundings as f64 * unit;
    if error < 0.5 { error / (1.0 - error) } else { f64::INFINITY }
}

impl<'a> Propagation<'a> {
    pub fn new(network: &'a Network, region: &'a Region, unit: Option<f64>) -> Self {
        let tensors = network.shapes.len();
        let mut out = Propagation {
            network,
            region,
            unit,
            intervals: vec![None; tensors],
            errors: vec![None; tensors],
            origins: vec![Origin::Other; tensors],
        };
        let interval = Interval { lower: region.lower.clone(), upper: region.upper.clone() };
        let ball = region.norm.dual().filter(|_| region.norm != Norm::Linf);
        let ball = ball.map(|_| Ball { centre: region.centre.clone(), radius: region.epsilon });
        out.intervals[network.input] = Some(interval);
        out.origins[network.input] = Origin::Inputs(ball);
        out
    }

    pub fn interval(&self, id: usize) -> &Interval {
        self.intervals[id].as_ref().expect("a step comes after those it reads")
    }

    /// The interval of the step's result.
    pub fn step(&mut self, step: &Step) {
        let (mut interval, error) = self.image(step);
        if let Some(error) = &error {
            interval = Interval { lower: interval.lower.sub(error), upper: interval.upper.add(error) };
        }
        if let Some(tighter) = self.holder(step) {
            interval = interval.meet(&tighter);
        }
        let exact = self.unit.is_some();
        self.errors[step.out] = error.filter(|_| exact);
        self.origins[step.out] = self.origin(step);
        self.intervals[step.out] = Some(interval);
    }

    /// The interval in exact arithmetic, and how far rounding may lead out of it.
    fn image(&self, step: &Step) -> (Interval, Option<Array>) {
        let shape = self.network.shape(step.out);
        let x = self.interval(step.inputs[0]);
        let few = |size: Array| self.unit.map(|unit| size.scale(4.0 * unit).shift(f64::from(f32::MIN_POSITIVE)));
        match &step.op {
            Op::Reshape => (x.each(|x| x.reshape(shape)), None),
            Op::Permute(axes) => (x.each(|x| x.permute(axes)), None),
            Op::Flip(axes) => (x.each(|x| x.flip(axes)), None),
            Op::Slice(ranges) => (x.each(|x| x.slice(ranges)), None),
            Op::Pad(padding) => (x.each(|x| x.pad(padding)), None),
            Op::Expand => {
                // The way back is a sum.
                let times =
                    shape.iter().product::<usize>() / self.network.shape(step.inputs[0]).iter().product::<usize>();
                let error = self.unit.map(|unit| x.size().expand(shape).scale(gamma(times + 1, unit)));
                (x.each(|x| x.expand(shape)), error)
            }
            Op::Cat(axis) => {
                let parts: Vec<&Interval> = step.inputs.iter().map(|input| self.interval(*input)).collect();
                let lower: Vec<Array> = parts.iter().map(|part| part.lower.clone()).collect();
                let upper: Vec<Array> = parts.iter().map(|part| part.upper.clone()).collect();
                (Interval { lower: Array::cat(&lower, *axis), upper: Array::cat(&upper, *axis) }, None)
            }
            Op::Add => {
                let y = self.interval(step.inputs[1]);
                let sum = Interval { lower: x.lower.add(&y.lower), upper: x.upper.add(&y.upper) };
                (sum, self.unit.and_then(|_| few(x.size().add(&y.size()))))
            }
            Op::Scale(factor) => {
                let (plus, minus) = (factor.positive(), factor.negative());
                let lower = x.lower.mul(&plus).add(&x.upper.mul(&minus));
                let upper = x.upper.mul(&plus).add(&x.lower.mul(&minus));
                (Interval { lower, upper }, self.unit.and_then(|_| few(x.size().mul(&factor.abs()))))
            }
            Op::Shift { by, size } => (x.each(|x| x.add(by)), self.unit.and_then(|_| few(x.size().add(size)))),
            Op::Matmul(weight) => {
                let (rows, columns) = (weight.shape()[weight.rank() - 2], weight.shape()[weight.rank() - 1]);
                self.linear(x, (rows, columns), |x| x.matmul(weight), |x| x.matmul(&weight.abs()))
            }
            Op::LeftMatmul(weight) => {
                let (rows, columns) = (weight.shape()[weight.rank() - 2], weight.shape()[weight.rank() - 1]);
                self.linear(x, (columns, rows), |x| weight.matmul(x), |x| weight.abs().matmul(x))
            }
            Op::Convolve(convolution) => {
                let absolute = convolution.weight.abs();
                let terms = convolution.terms();
                self.linear(x, terms, |x| convolution.apply(x), |x| convolution.with(x, &absolute))
            }
            Op::Sum(axis) => {
                let terms = self.network.shape(step.inputs[0])[*axis];
                let error = self.unit.map(|unit| x.size().sum_axis(*axis).scale(2.0 * gamma(terms + 1, unit)));
                (x.each(|x| x.sum_axis(*axis)), error)
            }
            Op::Resample { rows, columns } => {
                let of = |x: &Array| resample(x, rows, columns);
                let terms = rows.shape()[3] + columns.shape()[3];
                // Twice a way that the network takes, once by windows.
                let error = self.unit.map(|unit| of(&x.size()).scale(4.0 * gamma(terms + 4, unit)));
                (x.each(of), error)
            }
            Op::Elementwise(function) => {
                let (lower, upper) = function.range(&x.lower, &x.upper);
                let error = self.unit.and_then(|unit| function.error(&lower.abs().max(&upper.abs()), &x.size(), unit));
                (Interval { lower, upper }, error)
            }
            Op::MaxPool(window) => (x.each(|x| window.apply(x)), None),
            Op::Product => {
                let y = self.interval(step.inputs[1]);
                let products = [(&x.lower, &y.lower), (&x.lower, &y.upper), (&x.upper, &y.lower), (&x.upper, &y.upper)];
                let [a, b, c, d] = products.map(|(x, y)| x.mul(y));
                let interval = Interval { lower: a.min(&b).min(&c.min(&d)), upper: a.max(&b).max(&c.max(&d)) };
                let error = self.unit.and_then(|_| few(interval.size()));
                (interval, error)
            }
        }
    }

    /// Centre and radius through a linear step; `terms` in a sum, and sums a term is in.
    fn linear(
        &self,
        x: &Interval,
        terms: (usize, usize),
        apply: impl Fn(&Array) -> Array,
        absolute: impl Fn(&Array) -> Array,
    ) -> (Interval, Option<Array>) {
        let centre = apply(&x.lower.add(&x.upper).scale(0.5));
        let radius = absolute(&x.upper.sub(&x.lower).scale(0.5));
        let error = self.unit.map(|unit| {
            let by = 2.0 * gamma(terms.0 + 4, unit) + gamma(terms.1 + 4, unit);
            absolute(&x.size()).scale(by).shift(f64::from(f32::MIN_POSITIVE))
        });
        (Interval { lower: centre.sub(&radius), upper: centre.add(&radius) }, error)
    }

    /// The bound of Hölder's inequality for a linear step on a ball, rounding included.
    fn holder(&self, step: &Step) -> Option<Interval> {
        let Origin::Inputs(Some(Ball { centre, radius })) = &self.origins[step.inputs[0]] else { return None };
        let rank = centre.rank();
        let norm = |weight: &Array, axis: usize| match self.region.norm {
            Norm::L1 => weight.abs().max_axis(axis),
            _ => weight.square().sum_axis(axis).sqrt(),
        };
        let (value, slope, terms) = match &step.op {
            Op::Matmul(weight) => (centre.matmul(weight), norm(weight, rank - 2), weight.shape()[rank - 2]),
            Op::LeftMatmul(weight) => (weight.matmul(centre), norm(weight, rank - 1), weight.shape()[rank - 1]),
            Op::Convolve(convolution) => {
                let outputs = convolution.weight.shape()[0];
                let terms = convolution.terms().0;
                let slope = norm(&convolution.weight.reshape(&[outputs, terms]), 1).reshape(&[1, outputs, 1, 1]);
                (convolution.apply(centre), slope, terms)
            }
            _ => return None,
        };
        let shape = self.network.shape(step.out);
        let mut reach = slope.scale(*radius).expand(shape);
        if let Some(unit) = self.unit {
            let error = self.errors_of(step)?;
            reach = reach.scale(1.0 + 2.0 * gamma(terms + 8, unit)).add(&error);
        }
        Some(Interval { lower: value.sub(&reach), upper: value.add(&reach) })
    }

    /// The error of a linear step, which covers that of the ball's centre too: it is one of the inputs.
    fn errors_of(&self, step: &Step) -> Option<Array> {
        self.image(step).1
    }

    /// A radius and the rounding of a step, element by element.
    fn wider(&self, radius: f64, out: usize) -> f64 {
        let (Some(unit), Some(error)) = (self.unit, &self.errors[out]) else { return radius };
        let most = error.detach().values().into_iter().fold(0.0, f64::max);
        let width = self.network.width(out) as f64;
        radius * (1.0 + 8.0 * unit) + 2.0 * most * if self.region.norm == Norm::L1 { width } else { width.sqrt() }
    }

    fn origin(&self, step: &Step) -> Origin {
        let linf = self.region.norm == Norm::Linf;
        match (&self.origins[step.inputs[0]], &step.op) {
            (Origin::Inputs(ball), Op::Reshape | Op::Permute(_) | Op::Flip(_) | Op::Slice(_) | Op::Pad(_)) => {
                let through = |ball: &Ball| {
                    let centre = match &step.op {
                        Op::Reshape => ball.centre.reshape(self.network.shape(step.out)),
                        Op::Permute(axes) => ball.centre.permute(axes),
                        Op::Flip(axes) => ball.centre.flip(axes),
                        Op::Slice(ranges) => ball.centre.slice(ranges),
                        Op::Pad(padding) => ball.centre.pad(padding),
                        _ => unreachable!("only moves of elements come here"),
                    };
                    Ball { centre, radius: ball.radius }
                };
                Origin::Inputs(ball.as_ref().map(through))
            }
            (Origin::Inputs(ball), Op::Scale(factor)) => Origin::Inputs(ball.as_ref().map(|ball| {
                let largest = factor.detach().values().into_iter().fold(0.0, |most: f64, by| most.max(by.abs()));
                Ball { centre: ball.centre.mul(factor), radius: self.wider(ball.radius * largest, step.out) }
            })),
            (Origin::Inputs(ball), Op::Shift { by, .. }) => Origin::Inputs(
                ball.as_ref()
                    .map(|ball| Ball { centre: ball.centre.add(by), radius: self.wider(ball.radius, step.out) }),
            ),
            (Origin::Inputs(_), Op::Matmul(_) | Op::LeftMatmul(_) | Op::Convolve(_)) => Origin::Linear,
            (Origin::Inputs(_), Op::Sum(_) | Op::Resample { .. }) if linf => Origin::Linear,
            (
                Origin::Linear,
                Op::Reshape
                | Op::Permute(_)
                | Op::Flip(_)
                | Op::Slice(_)
                | Op::Pad(_)
                | Op::Expand
                | Op::Scale(_)
                | Op::Shift { .. },
            ) => Origin::Linear,
            _ => Origin::Other,
        }
    }
}

/// `R·x·Cᵀ`
pub(crate) fn resample(x: &Array, rows: &Array, columns: &Array) -> Array {
    rows.matmul(&x.matmul(&columns.transpose()))
}
