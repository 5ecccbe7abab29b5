//! CROWN: linear functions of the input below a network's outputs, found from the back.
//!
//! For weights `a` on a tensor `z` it keeps `⟨a, z⟩ ≥ ⟨a', x⟩ + d` for all allowed inputs while going from `z` back to the input `x`:
//!
//! - a linear step `z = Wx + b` gives `a' = Wᵀa` and `d = ⟨a, b⟩`, exactly;
//! - an activation with lines `α·x + β ≤ f(x) ≤ α'·x + β'` over its interval takes the line below where `a > 0` and the one above where
//!   `a < 0`: `a' = a₊α + a₋α'`, `d = ⟨a₊, β⟩ + ⟨a₋, β'⟩`;
//! - a maximum over a window takes its element with the largest lower bound from below, and from above that element too where it beats
//!   the upper bounds of all others (checked where windows do not overlap), else the window's upper bound;
//! - what else is not linear (a product of two tensors) counts as free in its interval.
//!
//! At the input `⟨a', x⟩` has a least value over ball and box, see [`Region::least`]. Upper bounds are lower bounds of `−a`.
//!
//! Weights are kept for all specifications and examples at once, `[specs · n, …]`, the first specification's first.
//!
//! H. Zhang, T.-W. Weng, P.-Y. Chen, C.-J. Hsieh, L. Daniel, "Efficient neural network robustness certification with general
//! activation functions", NeurIPS 2018, arXiv:1811.00866, theorem 3.2. With intervals from interval bound propagation it is CROWN-IBP:
//! H. Zhang et al., "Towards stable and efficient training of verifiably robust neural networks", ICLR 2020, arXiv:1906.06316.

use burn::backend::ops::{FloatTensorOps, IntTensorOps, ModuleOps};
use burn::backend::{Dispatch, TensorMetadata};
use burn::tensor::{Device, IndexingUpdateOp, Slice};

use super::array::Array;
use super::function::Lines;
use super::ibp::{Interval, Propagation, gamma};
use super::network::{Op, Step, Window};

/// Elements of the weights of one pass back: more specifications are taken in turns.
const BUDGET: usize = 1 << 24;

/// What stands for an operation that is not linear.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Relaxation {
    /// Lines below and above.
    Linear,
    /// Its interval: only the linear steps at the end are taken together.
    Interval,
}

/// Sums over the elements of every example, with their rounding.
struct Total {
    value: Array,
    /// What has to be taken off for errors of the steps.
    slack: Option<Array>,
    /// The sum of magnitudes, for the rounding of the value.
    size: Option<Array>,
    roundings: usize,
    specs: usize,
    examples: usize,
}

impl Total {
    /// Adds `⟨a, by⟩` of every example; `by` has one element for each of `a` within a specification.
    fn add(&mut self, a: &Array, by: &Array) {
        let terms = self.product(a, by);
        let (sum, roundings) = terms.sum_rows();
        self.value = self.value.add(&sum);
        if let Some(size) = &self.size {
            self.size = Some(size.add(&terms.abs().sum_rows().0));
        }
        self.roundings = self.roundings.max(roundings + 4);
    }

    fn error(&mut self, a: &Array, error: &Array) {
        if let Some(slack) = &self.slack {
            self.slack = Some(slack.add(&self.product(&a.abs(), error).sum_rows().0));
        }
    }

    fn product(&self, a: &Array, by: &Array) -> Array {
        let elements = by.elements();
        let terms = a.reshape(&[self.specs, elements]).mul(&by.reshape(&[1, elements]));
        terms.reshape(&[self.specs * self.examples, elements / self.examples])
    }
}

impl Propagation<'_> {
    /// Lower bounds of `⟨a, z⟩` for the tensor `z` at `from`, `[specs · examples]`, those of the first specification first.
    pub fn least(&self, from: usize, a: Array, specs: usize, relaxation: Relaxation) -> Array {
        let network = self.network;
        let examples = network.examples;
        let zeros = || Array::full(0.0, &[specs * examples], &a);
        let exact = self.unit.is_some();
        let mut total =
            Total { value: zeros(), slack: exact.then(zeros), size: exact.then(zeros), roundings: 0, specs, examples };
        let mut weights: Vec<Option<Array>> = vec![None; network.shapes.len()];
        weights[from] = Some(a);
        for step in network.steps.iter().rev().filter(|step| step.out <= from) {
            let Some(a) = weights[step.out].take() else { continue };
            if let Some(error) = &self.errors[step.out] {
                total.error(&a, error);
            }
            for (input, part) in step.inputs.iter().zip(self.back(step, &a, relaxation, &mut total)) {
                let Some(part) = part else { continue };
                weights[*input] = Some(match weights[*input].take() {
                    None => part,
                    Some(other) => {
                        let sum = other.add(&part);
                        if let Some(unit) = self.unit {
                            total.error(&sum, &self.interval(*input).size().scale(2.0 * unit));
                        }
                        sum
                    }
                });
            }
        }
        let mut value = total.value;
        if let Some(a) = weights[network.input].take() {
            value = value.add(&self.region.least(&a, specs, self.unit));
        }
        let (Some(unit), Some(slack), Some(size)) = (self.unit, total.slack, total.size) else { return value };
        // Each step adds one more sum to the value.
        let by = 2.0 * gamma(total.roundings + network.steps.len(), unit);
        let tiny = value.abs().add(&slack).add(&size).scale(16.0 * unit);
        value.sub(&slack.add(&size.scale(by)).add(&tiny))
    }

    /// The weights of the step's inputs, `None` where a step that is not linear stands as its interval.
    fn back(&self, step: &Step, a: &Array, relaxation: Relaxation, total: &mut Total) -> Vec<Option<Array>> {
        let from = self.network.shape(step.inputs[0]);
        let specs = total.specs;
        let mut shape = from.to_vec();
        shape[0] *= specs;
        let one = |a: Array| vec![Some(a)];
        match &step.op {
            Op::Reshape => one(a.reshape(&shape)),
            Op::Permute(axes) => {
                let mut inverse = vec![0; axes.len()];
                axes.iter().enumerate().for_each(|(to, from)| inverse[*from] = to);
                one(a.permute(&inverse))
            }
            Op::Flip(axes) => one(a.flip(axes)),
            Op::Slice(ranges) => one(unslice(a, ranges, &shape)),
            Op::Pad(padding) => {
                let narrowed = padding
                    .iter()
                    .enumerate()
                    .fold(a.clone(), |a, (axis, (before, _))| a.narrow(axis, *before, *before + shape[axis]));
                one(narrowed)
            }
            Op::Expand => {
                let axes = (0..shape.len()).filter(|axis| shape[*axis] != a.shape()[*axis]);
                one(axes.fold(a.clone(), |a, axis| a.sum_axis(axis)))
            }
            Op::Cat(axis) => {
                let mut at = 0;
                let parts = step.inputs.iter().map(|input| {
                    let size = self.network.shape(*input)[*axis];
                    at += size;
                    Some(a.narrow(*axis, at - size, at))
                });
                parts.collect()
            }
            Op::Add => vec![Some(a.clone()), Some(a.clone())],
            Op::Scale(factor) => one(a.mul(&spread(factor, specs))),
            Op::Shift { by, .. } => {
                total.add(a, &by.expand(self.network.shape(step.out)));
                one(a.clone())
            }
            Op::Matmul(weight) => one(a.matmul(&weight.transpose())),
            Op::LeftMatmul(weight) => one(weight.transpose().matmul(a)),
            Op::Convolve(convolution) => one(convolution.transposed(a, shape[2], shape[3])),
            Op::Sum(_) => one(a.expand(&shape)),
            Op::Resample { rows, columns } => one(rows.transpose().matmul(&a.matmul(columns))),
            Op::Elementwise(function) if relaxation == Relaxation::Linear => {
                let Interval { lower, upper } = self.interval(step.inputs[0]);
                let Lines { lower: below, upper: above } = function.lines(lower, upper, self.unit);
                if let Some(unit) = self.unit {
                    let slope = below.slope.abs().max(&above.slope.abs());
                    total.error(a, &slope.mul(&lower.abs().max(&upper.abs())).scale(4.0 * unit));
                }
                let (plus, minus) = (a.positive(), a.negative());
                for (a, line) in [(&plus, &below), (&minus, &above)] {
                    if let Some(offset) = &line.offset {
                        total.add(a, offset);
                    }
                }
                let by = |slope: &Array| spread(slope, specs);
                one(plus.mul(&by(&below.slope)).add(&minus.mul(&by(&above.slope))))
            }
            Op::MaxPool(window) if relaxation == Relaxation::Linear => {
                one(self.through_maximum(step, *window, a, &shape, total))
            }
            Op::Elementwise(_) | Op::MaxPool(_) | Op::Product => {
                let Interval { lower, upper } = self.interval(step.out);
                total.add(&a.positive(), lower);
                total.add(&a.negative(), upper);
                vec![None; step.inputs.len()]
            }
        }
    }

    fn through_maximum(&self, step: &Step, window: Window, a: &Array, shape: &[usize], total: &mut Total) -> Array {
        let Interval { lower, upper } = self.interval(step.inputs[0]);
        let above = &self.interval(step.out).upper;
        let (examples, channels) = (lower.shape()[0], lower.shape()[1]);
        let (pixels, windows) = (lower.shape()[2] * lower.shape()[3], above.elements() / (examples * channels));
        let settings = Device::new(lower.0.device()).settings();
        let Window { kernel, stride, padding, dilation, ceil } = window;
        let best = lower.detach().0;
        let best = Dispatch::max_pool2d_with_indices(best, kernel, stride, padding, dilation, ceil, settings.int_dtype);
        let rows = examples * channels;
        let indices = Dispatch::int_reshape(best.indices, [rows, windows].into());
        // Only the chosen elements get weight; where one beats all others it is the maximum.
        let mut certain = Array::full(0.0, &above.shape(), above);
        if window.apart() {
            let ones = Array::full(1.0, &[rows, windows], lower);
            let zeros = Array::full(0.0, &[rows, pixels], lower);
            let chosen =
                Array(Dispatch::float_scatter(1, zeros.0.clone(), indices.clone(), ones.0, IndexingUpdateOp::Add));
            let never = Array::full(-1e30, &[rows, pixels], lower);
            let others = chosen.above(&zeros, &never, &upper.detach().reshape(&[rows, pixels]));
            let others = window.apply(&others.reshape(&lower.shape()));
            let best = window.apply(&lower.detach());
            certain = best.above(&others, &certain.shift(1.0), &certain);
        }
        if let Some(unit) = self.unit {
            // An element takes the weights of all windows that it is in.
            let size = window.apply(&lower.abs().max(&upper.abs()).detach());
            total.error(a, &size.scale(gamma(kernel[0] * kernel[1] + 4, unit)));
        }
        let (plus, minus) = (a.positive(), a.negative());
        let certain_wide = spread(&certain, total.specs);
        total.add(&minus, &above.mul(&certain.neg().shift(1.0)));
        let routed = plus.add(&minus.mul(&certain_wide)).reshape(&[total.specs * rows, windows]);
        let zeros = Array::full(0.0, &[total.specs * rows, pixels], lower);
        let wide = Dispatch::int_repeat_dim(indices, 0, total.specs);
        Array(Dispatch::float_scatter(1, zeros.0, wide, routed.0, IndexingUpdateOp::Add)).reshape(shape)
    }

    /// Makes the interval of a tensor tighter, by weights on each element that `wanted` names (indices within an example).
    pub fn refine(&mut self, id: usize, wanted: &[usize]) {
        if wanted.is_empty() {
            return;
        }
        let (examples, width) = (self.network.examples, self.network.width(id));
        let widest = (0..=id).map(|id| self.network.width(id)).max().unwrap_or(width);
        let at_once = (BUDGET / (2 * examples * widest)).max(1);
        let old = self.interval(id).clone();
        let (mut lower, mut upper) = (Vec::new(), Vec::new());
        for chunk in wanted.chunks(at_once) {
            let a = units(chunk, width, examples, self.network.shape(id), &old.lower);
            let bounds = self.least(id, a, 2 * chunk.len(), Relaxation::Linear);
            let bounds = bounds.reshape(&[2, chunk.len(), examples]);
            let half = |at: usize| bounds.narrow(0, at, at + 1).reshape(&[chunk.len(), examples]).transpose();
            lower.push(half(0));
            upper.push(half(1).neg());
        }
        // Columns of the new bounds where there are any, else of the old ones.
        let mut columns: Vec<usize> = (0..width).collect();
        wanted.iter().enumerate().for_each(|(new, element)| columns[*element] = width + new);
        let shape = self.network.shape(id).to_vec();
        let merge = |old: &Array, mut new: Vec<Array>| {
            new.insert(0, old.reshape(&[examples, width]));
            Array::cat(&new, 1).columns(&columns).reshape(&shape)
        };
        let new = Interval { lower: merge(&old.lower, lower), upper: merge(&old.upper, upper) };
        self.intervals[id] = Some(old.meet(&new));
    }
}

/// The weights that pick single elements, then those that pick their negatives.
pub(crate) fn units(elements: &[usize], width: usize, examples: usize, shape: &[usize], like: &Array) -> Array {
    let mut values = vec![0.0; 2 * elements.len() * width];
    for (row, element) in elements.iter().enumerate() {
        values[row * width + element] = 1.0;
        values[(elements.len() + row) * width + element] = -1.0;
    }
    let specs = 2 * elements.len();
    let picked = Array::from_values(values, &[specs, 1, width], like).expand(&[specs, examples, width]);
    let mut wide = shape.to_vec();
    wide[0] *= specs;
    picked.reshape(&wide)
}

/// A factor for every specification: as it is if it is the same for all examples.
fn spread(factor: &Array, specs: usize) -> Array {
    match factor.shape()[0] {
        1 => factor.clone(),
        _ => factor.tile(specs),
    }
}

/// The transpose of a slice with positive steps.
fn unslice(a: &Array, ranges: &[Slice], shape: &[usize]) -> Array {
    let mut out = a.clone();
    for (axis, range) in ranges.iter().enumerate().skip(1) {
        let size = shape[axis];
        let (range, step) = range.to_range_and_step(size);
        let step = step.unsigned_abs();
        let taken = out.shape()[axis];
        if step > 1 {
            // A row of zeros behind each element but the last.
            let mut split = out.shape();
            split.insert(axis + 1, 1);
            let mut padding = vec![(0, 0); split.len()];
            padding[axis + 1] = (0, step - 1);
            let mut joined = out.shape();
            joined[axis] *= step;
            out = out.reshape(&split).pad(&padding).reshape(&joined).narrow(axis, 0, (taken - 1) * step + 1);
        }
        let mut padding = vec![(0, 0); shape.len()];
        padding[axis] = (range.start, size - range.start - out.shape()[axis]);
        out = out.pad(&padding);
    }
    out
}
