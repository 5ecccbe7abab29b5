//! A recorded network as few kinds of steps, which is all that bounds have to know.
//!
//! What does not depend on the examples (weights, their transposes, the scales of batch norms) is computed first; the operations that
//! do are broken up into [`Op`]s: a linear layer is a product and a shift, `x − y` is `x + (−1)·y`, a leaky ReLU `ax + (1 − a)·relu(x)`.
//!
//! The examples stay along the first axis throughout, those of one example next to one another, so that every bound belongs to one of
//! them; an operation that would mix them is refused.

use std::collections::HashMap;

use burn::backend::ir::{
    ActivationOperationIr, BaseOperationIr, BinaryOpIr, Conv2dOptionsIr, FloatOperationIr, MaskWhereOpIr,
    ModuleOperationIr, NumericOperationIr, OperationIr, PadModeIr, ScalarOpIr, TensorIr,
};
use burn::backend::ops::{ConvOptions, ConvTransposeOptions, FloatTensorOps, ModuleOps};
use burn::backend::{Dispatch, DispatchTensor};
use burn::tensor::Slice;
use core_tensor::Trace;

use super::array::Array;
use super::function::Function;
use crate::error::{Error, Result};

/// What a step does to the tensors that depend on the examples.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    Reshape,
    Permute(Vec<usize>),
    Flip(Vec<usize>),
    Slice(Vec<Slice>),
    /// Zeros round each axis.
    Pad(Vec<(usize, usize)>),
    Expand,
    Cat(usize),
    Add,
    /// `x·factor`, the factor expanding.
    Scale(Array),
    /// `x + by`, expanding; `size` is at least the magnitude of everything that `by` was computed from.
    Shift {
        by: Array,
        size: Array,
    },
    /// `x·W`
    Matmul(Array),
    /// `W·x`
    LeftMatmul(Array),
    Convolve(Convolution),
    Sum(usize),
    /// `R·x·Cᵀ` of the last two axes, with elements that are not negative: average pooling.
    Resample {
        rows: Array,
        columns: Array,
    },
    Elementwise(Function),
    MaxPool(Window),
    /// The product of two tensors.
    Product,
}

/// A two-dimensional convolution without a bias.
#[derive(Clone, Debug)]
pub(crate) struct Convolution {
    /// `[outputs, inputs / groups, height, width]`
    pub weight: Array,
    pub options: Conv2dOptionsIr,
}

/// The window of a two-dimensional maximum.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Window {
    pub kernel: [usize; 2],
    pub stride: [usize; 2],
    pub padding: [usize; 2],
    pub dilation: [usize; 2],
    pub ceil: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub op: Op,
    pub inputs: Vec<usize>,
    pub out: usize,
}

/// A network for one number of examples: steps in an order that can be executed, tensors by position.
#[derive(Clone, Debug)]
pub(crate) struct Network {
    pub steps: Vec<Step>,
    pub shapes: Vec<Vec<usize>>,
    pub input: usize,
    pub output: usize,
    pub examples: usize,
}

impl Convolution {
    pub fn apply(&self, x: &Array) -> Array {
        self.with(x, &self.weight)
    }

    /// The same with another weight of the same shape.
    pub fn with(&self, x: &Array, weight: &Array) -> Array {
        let Conv2dOptionsIr { stride, padding, dilation, groups } = self.options.clone();
        let options = ConvOptions { stride, padding, dilation, groups };
        Array(Dispatch::conv2d(x.0.clone(), weight.0.clone(), None, options))
    }

    /// The transpose: from the shape of an output back to `[.., height, width]` of the input.
    pub fn transposed(&self, y: &Array, height: usize, width: usize) -> Array {
        let Conv2dOptionsIr { stride, padding, dilation, groups } = self.options.clone();
        let options = ConvTransposeOptions { stride, padding: [0, 0], padding_out: [0, 0], dilation, groups };
        let mut x = Array(Dispatch::conv_transpose2d(y.0.clone(), self.weight.0.clone(), None, options));
        for (axis, size, (before, after)) in [(2, height, padding[0]), (3, width, padding[1])] {
            // Inputs that no window reaches.
            let missing = (before + size + after).saturating_sub(x.shape()[axis]);
            if missing > 0 {
                let mut wider = [(0, 0); 4];
                wider[axis].1 = missing;
                x = x.pad(&wider);
            }
            x = x.narrow(axis, before, before + size);
        }
        x
    }

    /// Terms of a sum, and sums that a term is in at most.
    pub fn terms(&self) -> (usize, usize) {
        let shape = self.weight.shape();
        (shape[1] * shape[2] * shape[3], shape[0] / self.options.groups * shape[2] * shape[3])
    }
}

impl Window {
    pub fn apply(&self, x: &Array) -> Array {
        let Window { kernel, stride, padding, dilation, ceil } = *self;
        Array(Dispatch::max_pool2d(x.0.clone(), kernel, stride, padding, dilation, ceil))
    }

    /// Whether no input is in two windows.
    pub fn apart(&self) -> bool {
        (0..2).all(|axis| self.stride[axis] > (self.kernel[axis] - 1) * self.dilation[axis])
    }
}

impl Network {
    /// From a recording; `values` are those of all tensors that do not depend on the examples, which are `input`, by position.
    pub fn new(trace: &Trace, values: Vec<Option<DispatchTensor>>, input: &TensorIr, like: &Array) -> Result<Self> {
        let mut lowering = Lowering {
            values,
            places: vec![Place::Fixed; trace.tensors()],
            producers: HashMap::new(),
            examples: input.shape[0],
            like: like.clone(),
            network: Network {
                steps: Vec::new(),
                shapes: vec![input.shape.to_vec()],
                input: 0,
                output: 0,
                examples: input.shape[0],
            },
        };
        lowering.places[Trace::position(input)] = Place::Varying(0);
        for operation in trace.operations() {
            lowering.visit(operation)?;
        }
        match lowering.places[Trace::position(trace.output())].clone() {
            Place::Varying(output) => Ok(Network { output, ..lowering.network }),
            Place::Missing(error) => Err(error.into()),
            Place::Fixed => Err(NoRule::new("the result", "it does not depend on the inputs").into()),
        }
    }

    pub fn shape(&self, id: usize) -> &[usize] {
        &self.shapes[id]
    }

    /// Elements of a tensor that belong to one example.
    pub fn width(&self, id: usize) -> usize {
        self.shapes[id].iter().product::<usize>() / self.examples
    }
}

/// Why an operation has no bound.
#[derive(Clone, Debug)]
struct NoRule {
    operation: String,
    reason: String,
}

impl NoRule {
    fn new(operation: impl Into<String>, reason: impl Into<String>) -> Self {
        NoRule { operation: operation.into(), reason: reason.into() }
    }
}

impl From<NoRule> for Error {
    fn from(error: NoRule) -> Self {
        Error::NoBound { operation: error.operation, reason: error.reason }
    }
}

#[derive(Clone, Debug)]
enum Place {
    /// Does not depend on the examples.
    Fixed,
    Varying(usize),
    /// Depends on the examples in a way that has no rule; an error only if it is read by what has one.
    Missing(NoRule),
}

struct Lowering {
    values: Vec<Option<DispatchTensor>>,
    places: Vec<Place>,
    producers: HashMap<usize, OperationIr>,
    examples: usize,
    like: Array,
    network: Network,
}

const NO_RULE: &str = "no bound is known for it";
const MIXED: &str = "the examples have to stay along the first axis";

type Lowered = Result<usize, NoRule>;

impl Lowering {
    fn visit(&mut self, operation: &OperationIr) -> Result<()> {
        let varies = operation.inputs().any(|input| !matches!(self.places[Trace::position(input)], Place::Fixed));
        if !varies {
            return Ok(());
        }
        let place = match self.lower(operation) {
            Ok(id) => Place::Varying(id),
            Err(mut missing) => {
                if missing.operation.is_empty() {
                    missing.operation = Trace::name(operation);
                }
                Place::Missing(missing)
            }
        };
        for (index, out) in operation.outputs().enumerate() {
            let position = Trace::position(out);
            self.producers.insert(position, operation.clone());
            self.places[position] = match index {
                0 => place.clone(),
                _ => Place::Missing(NoRule::new(Trace::name(operation), "only its first result has a bound")),
            };
        }
        Ok(())
    }

    /// The tensor's position in the network.
    fn varying(&self, tensor: &TensorIr) -> Lowered {
        match &self.places[Trace::position(tensor)] {
            Place::Varying(id) => Ok(*id),
            Place::Missing(missing) => Err(missing.clone()),
            Place::Fixed => Err(NoRule::new("", "one of its inputs has to depend on the examples, and does not")),
        }
    }

    fn is_fixed(&self, tensor: &TensorIr) -> bool {
        matches!(self.places[Trace::position(tensor)], Place::Fixed)
    }

    fn fixed(&self, tensor: &TensorIr) -> Result<Array, NoRule> {
        match (&self.places[Trace::position(tensor)], &self.values[Trace::position(tensor)]) {
            (Place::Fixed, Some(value)) => Ok(Array(value.clone())),
            (Place::Missing(missing), _) => Err(missing.clone()),
            _ => Err(NoRule::new("", "one of its inputs has to be fixed, and depends on the examples")),
        }
    }

    fn push(&mut self, op: Op, inputs: Vec<usize>, shape: Vec<usize>) -> Lowered {
        if !shape[0].is_multiple_of(self.examples) {
            return Err(NoRule::new("", MIXED));
        }
        let out = self.network.shapes.len();
        self.network.shapes.push(shape);
        self.network.steps.push(Step { op, inputs, out });
        Ok(out)
    }

    /// A step that keeps the shape.
    fn same(&mut self, op: Op, input: usize) -> Lowered {
        let shape = self.network.shapes[input].clone();
        self.push(op, vec![input], shape)
    }

    fn scalar(&self, value: f64, input: usize) -> Array {
        Array::full(value, &vec![1; self.network.shapes[input].len()], &self.like)
    }

    fn scale(&mut self, input: usize, by: f64) -> Lowered {
        let factor = self.scalar(by, input);
        self.same(Op::Scale(factor), input)
    }

    fn shift(&mut self, input: usize, by: Array) -> Lowered {
        let size = by.abs();
        self.same(Op::Shift { by, size }, input)
    }

    fn shift_scalar(&mut self, input: usize, by: f64) -> Lowered {
        let by = self.scalar(by, input);
        self.shift(input, by)
    }

    fn elementwise(&mut self, function: Function, input: usize) -> Lowered {
        self.same(Op::Elementwise(function), input)
    }

    /// Expands over axes other than the first.
    fn expand(&mut self, input: usize, shape: &[usize]) -> Lowered {
        let from = self.network.shapes[input].clone();
        match from == shape {
            true => Ok(input),
            false if from.len() != shape.len() || from[0] != shape[0] => Err(NoRule::new("", MIXED)),
            false => self.push(Op::Expand, vec![input], shape.to_vec()),
        }
    }

    fn reshape(&mut self, input: usize, shape: &[usize]) -> Lowered {
        match self.network.shapes[input] == shape {
            true => Ok(input),
            false => self.push(Op::Reshape, vec![input], shape.to_vec()),
        }
    }

    fn add(&mut self, left: usize, right: usize, shape: &[usize]) -> Lowered {
        let inputs = vec![self.expand(left, shape)?, self.expand(right, shape)?];
        self.push(Op::Add, inputs, shape.to_vec())
    }

    fn lower(&mut self, operation: &OperationIr) -> Lowered {
        match operation {
            OperationIr::BaseFloat(op) => self.base(op),
            OperationIr::NumericFloat(_, op) => self.numeric(op),
            OperationIr::Float(_, op) => self.float(op),
            OperationIr::Activation(op) => self.activation(op),
            OperationIr::Module(op) => self.module(op),
            _ => Err(NoRule::new("", NO_RULE)),
        }
    }

    fn base(&mut self, op: &BaseOperationIr) -> Lowered {
        use BaseOperationIr as O;
        match op {
            O::Reshape(d) => {
                let input = self.varying(&d.input)?;
                self.reshape(input, &d.out.shape.to_vec())
            }
            O::Cast(d) if d.input.dtype == d.out.dtype => self.varying(&d.input),
            O::SwapDims(d) => {
                let mut axes: Vec<usize> = (0..d.input.shape.num_dims()).collect();
                axes.swap(d.dim1, d.dim2);
                self.permute(&d.input, axes, &d.out)
            }
            O::Permute(d) => self.permute(&d.input, d.axes.clone(), &d.out),
            O::Flip(d) if !d.axes.contains(&0) => {
                let input = self.varying(&d.input)?;
                self.same(Op::Flip(d.axes.clone()), input)
            }
            O::Expand(d) => {
                let input = self.varying(&d.input)?;
                self.expand(input, &d.out.shape.to_vec())
            }
            O::RepeatDim(d) if d.dim > 0 => {
                let input = self.varying(&d.tensor)?;
                self.push(Op::Cat(d.dim), vec![input; d.times], d.out.shape.to_vec())
            }
            O::Slice(d) if d.tensor.shape[0] == d.out.shape[0] => {
                let input = self.varying(&d.tensor)?;
                let whole = d.ranges.first().is_none_or(|first| first.step == 1);
                match whole && d.ranges.iter().all(|range| range.step > 0) {
                    true => self.push(Op::Slice(d.ranges.clone()), vec![input], d.out.shape.to_vec()),
                    false => Err(NoRule::new("", "only slices with a positive step have a bound")),
                }
            }
            O::Cat(d) if d.dim > 0 => {
                let inputs = d.tensors.iter().map(|tensor| self.varying(tensor)).collect::<Result<Vec<_>, _>>();
                match inputs {
                    Ok(inputs) => self.push(Op::Cat(d.dim), inputs, d.out.shape.to_vec()),
                    Err(missing) if !missing.operation.is_empty() => Err(missing),
                    Err(_) => self.cat_with_fixed(&d.tensors, d.dim, &d.out),
                }
            }
            // What Burn writes for padding with a constant.
            O::SliceAssign(d) if self.is_fixed(&d.tensor) && d.value.shape[0] == d.out.shape[0] => {
                let (shape, inside) = (d.out.shape.to_vec(), d.value.shape.to_vec());
                if d.ranges.iter().any(|range| range.step != 1) {
                    return Err(NoRule::new("", "only slices with a step of 1 have a bound here"));
                }
                let before = |axis: usize| d.ranges.get(axis).map_or(0, |range| range.to_range(shape[axis]).start);
                let of = |axis: usize| (before(axis), shape[axis] - before(axis) - inside[axis]);
                let padding: Vec<(usize, usize)> = (0..shape.len()).map(of).collect();
                let (input, around) = (self.varying(&d.value)?, self.fixed(&d.tensor)?);
                let padded = self.push(Op::Pad(padding), vec![input], shape)?;
                let zeros = Array::full(0.0, &inside, &self.like);
                let around = Dispatch::float_slice_assign(around.0, &d.ranges, zeros.0);
                self.shift(padded, Array(around))
            }
            O::MaskWhere(_) => self.masked(op),
            O::MaskFill(_) => self.filled(op),
            O::Flip(_) | O::RepeatDim(_) | O::Slice(_) | O::Cat(_) => Err(NoRule::new("", MIXED)),
            _ => Err(NoRule::new("", NO_RULE)),
        }
    }

    fn permute(&mut self, input: &TensorIr, axes: Vec<usize>, out: &TensorIr) -> Lowered {
        let input = self.varying(input)?;
        match axes[0] {
            0 => self.push(Op::Permute(axes), vec![input], out.shape.to_vec()),
            _ => Err(NoRule::new("", MIXED)),
        }
    }

    /// Some of the parts are fixed: each that is not is padded to the whole, the others are a shift.
    fn cat_with_fixed(&mut self, parts: &[TensorIr], dim: usize, out: &TensorIr) -> Lowered {
        let shape = out.shape.to_vec();
        let (mut at, mut fixed, mut whole) = (0, Vec::new(), None);
        for part in parts {
            let size = part.shape[dim];
            if self.is_fixed(part) {
                fixed.push(self.fixed(part)?);
            } else {
                fixed.push(Array::full(0.0, &part.shape.to_vec(), &self.like));
                let mut padding = vec![(0, 0); shape.len()];
                padding[dim] = (at, shape[dim] - at - size);
                let input = self.varying(part)?;
                let padded = self.push(Op::Pad(padding), vec![input], shape.clone())?;
                whole = Some(match whole {
                    None => padded,
                    Some(whole) => self.add(whole, padded, &shape)?,
                });
            }
            at += size;
        }
        let whole = whole.ok_or_else(|| NoRule::new("", NO_RULE))?;
        self.shift(whole, Array::cat(&fixed, dim))
    }

    /// Clamps, which Burn writes as a value put where the input is below or above it.
    fn filled(&mut self, op: &BaseOperationIr) -> Lowered {
        use NumericOperationIr as N;
        let none = || NoRule::new("", "of masks that depend on the examples, only those of clamps have a bound");
        let BaseOperationIr::MaskFill(d) = op else { return Err(none()) };
        let Some(OperationIr::NumericFloat(_, mask)) = self.producers.get(&Trace::position(&d.mask)).cloned() else {
            return Err(none());
        };
        let value: f64 = d.value.elem();
        let fits = |by: &ScalarOpIr| by.lhs.id == d.tensor.id && by.rhs.elem::<f64>() == value;
        match &mask {
            N::LowerElem(by) | N::LowerEqualElem(by) if fits(by) => {
                let input = self.varying(&d.tensor)?;
                self.clamp_min(input, value)
            }
            N::GreaterElem(by) | N::GreaterEqualElem(by) if fits(by) => {
                let input = self.varying(&d.tensor)?;
                self.clamp_max(input, value)
            }
            _ => Err(none()),
        }
    }

    /// The slope below zero, if it is a leaky or parametric ReLU: where `x < 0`, `ax`; else `x`.
    fn leak(&self, d: &MaskWhereOpIr) -> Option<Result<Array, NoRule>> {
        use NumericOperationIr as N;
        let made = |tensor: &TensorIr| self.producers.get(&Trace::position(tensor));
        let Some(OperationIr::NumericFloat(_, N::LowerElem(mask))) = made(&d.mask) else { return None };
        if mask.lhs.id != d.tensor.id || mask.rhs.elem::<f64>() != 0.0 {
            return None;
        }
        let ones = vec![1; d.tensor.shape.num_dims()];
        match made(&d.value)? {
            OperationIr::NumericFloat(_, N::MulScalar(by)) if by.lhs.id == d.tensor.id => {
                Some(Ok(Array::full(by.rhs.elem(), &ones, &self.like)))
            }
            OperationIr::NumericFloat(_, N::Mul(by)) if by.lhs.id == d.tensor.id && self.is_fixed(&by.rhs) => {
                Some(self.fixed(&by.rhs))
            }
            _ => None,
        }
    }

    /// The activations that Burn writes with a mask: leaky and parametric ReLU, ELU and softplus.
    fn masked(&mut self, op: &BaseOperationIr) -> Lowered {
        let none = || {
            NoRule::new(
                "",
                "of masks that depend on the examples, only those of leaky ReLU, ELU and softplus have a bound",
            )
        };
        let BaseOperationIr::MaskWhere(d) = op else { return Err(none()) };
        if let Some(slope) = self.leak(d) {
            let input = self.varying(&d.tensor)?;
            return self.leaky(input, slope?);
        }
        let made = |tensor: &TensorIr| self.producers.get(&Trace::position(tensor));
        let same = |a: &TensorIr, b: &TensorIr| a.id == b.id;
        use NumericOperationIr as N;
        use OperationIr::{Float, NumericFloat};
        // Where x ≤ 0, α(eˣ − 1); else x.
        let elu = || {
            let NumericFloat(_, N::LowerEqualElem(mask)) = made(&d.mask)? else { return None };
            let (alpha, scaled) = match made(&d.value)? {
                NumericFloat(_, N::MulScalar(by)) => (by.rhs.elem::<f64>(), &by.lhs),
                _ => (1.0, &d.value),
            };
            let exp = match made(scaled)? {
                NumericFloat(_, N::SubScalar(minus)) if minus.rhs.elem::<f64>() == 1.0 => &minus.lhs,
                NumericFloat(_, N::AddScalar(plus)) if plus.rhs.elem::<f64>() == -1.0 => &plus.lhs,
                _ => return None,
            };
            let Float(_, FloatOperationIr::Exp(exp)) = made(exp)? else { return None };
            let fits = same(&mask.lhs, &d.tensor) && same(&exp.input, &d.tensor) && mask.rhs.elem::<f64>() == 0.0;
            (fits && (0.0..=1.0).contains(&alpha)).then_some((Function::Elu(alpha), d.tensor.clone()))
        };
        // Where βx > t, x; else ln(1 + exp(min(βx, t)))/β.
        let softplus = || {
            let NumericFloat(_, N::GreaterElem(mask)) = made(&d.mask)? else { return None };
            let (divisor, log) = match made(&d.tensor)? {
                NumericFloat(_, N::DivScalar(by)) => (by.rhs.elem::<f64>(), &by.lhs),
                _ => (1.0, &d.tensor),
            };
            let (beta, x) = match made(&mask.lhs) {
                Some(NumericFloat(_, N::MulScalar(by))) if !same(&mask.lhs, &d.value) => (by.rhs.elem(), &by.lhs),
                _ => (1.0, &mask.lhs),
            };
            let Float(_, FloatOperationIr::Log1p(log)) = made(log)? else { return None };
            let Float(_, FloatOperationIr::Exp(exp)) = made(&log.input)? else { return None };
            let OperationIr::BaseFloat(BaseOperationIr::MaskFill(fill)) = made(&exp.input)? else { return None };
            let fits = same(&fill.mask, &d.mask) && same(&fill.tensor, &mask.lhs) && same(x, &d.value);
            let threshold: f64 = mask.rhs.elem();
            let right = divisor == beta && beta > 0.0 && threshold >= 17.0 && fill.value.elem::<f64>() == threshold;
            (fits && right).then_some((Function::Softplus(beta), d.value.clone()))
        };
        let (function, x) = elu().or_else(softplus).ok_or_else(none)?;
        let input = self.varying(&x)?;
        self.elementwise(function, input)
    }

    fn numeric(&mut self, op: &NumericOperationIr) -> Lowered {
        use NumericOperationIr as O;
        match op {
            O::Add(d) | O::Sub(d) => self.sum_of(d, matches!(op, O::Sub(_))),
            O::Mul(d) => self.product_of(d),
            O::Div(d) => {
                let (input, divisor) = (self.varying(&d.lhs)?, self.fixed(&d.rhs)?);
                let input = self.expand(input, &d.out.shape.to_vec())?;
                let ones = Array::full(1.0, &vec![1; divisor.rank()], &divisor);
                self.same(Op::Scale(ones.div(&divisor)), input)
            }
            O::AddScalar(d) | O::SubScalar(d) => {
                let (input, by) = (self.varying(&d.lhs)?, d.rhs.elem::<f64>());
                self.shift_scalar(input, if matches!(op, O::SubScalar(_)) { -by } else { by })
            }
            O::MulScalar(d) | O::DivScalar(d) => {
                let (input, by) = (self.varying(&d.lhs)?, d.rhs.elem::<f64>());
                self.scale(input, if matches!(op, O::DivScalar(_)) { 1.0 / by } else { by })
            }
            O::Neg(d) => {
                let input = self.varying(&d.input)?;
                self.scale(input, -1.0)
            }
            O::Abs(d) => {
                let input = self.varying(&d.input)?;
                self.elementwise(Function::Abs, input)
            }
            O::PowiScalar(d) if d.rhs.elem::<f64>() == 2.0 => {
                let input = self.varying(&d.lhs)?;
                self.elementwise(Function::Square, input)
            }
            O::ClampMin(d) => {
                let input = self.varying(&d.lhs)?;
                self.clamp_min(input, d.rhs.elem())
            }
            O::ClampMax(d) => {
                let input = self.varying(&d.lhs)?;
                self.clamp_max(input, d.rhs.elem())
            }
            O::Clamp(d) => {
                let input = self.varying(&d.tensor)?;
                let input = self.clamp_min(input, d.min.elem())?;
                self.clamp_max(input, d.max.elem())
            }
            O::SumDim(d) | O::MeanDim(d) if d.axis > 0 => {
                let input = self.varying(&d.input)?;
                let mean = matches!(op, O::MeanDim(_));
                self.sum_axes(input, &[d.axis], mean)
            }
            O::SumDims(d) if !d.axes.contains(&0) => {
                let input = self.varying(&d.input)?;
                self.sum_axes(input, &d.axes, false)
            }
            O::Pad(d) if d.padding[0] == (0, 0) => {
                let PadModeIr::Constant(value) = &d.mode else {
                    return Err(NoRule::new("", "only padding with a constant has a bound"));
                };
                let input = self.varying(&d.input)?;
                let padded = self.push(Op::Pad(d.padding.clone()), vec![input], d.out.shape.to_vec())?;
                match value.elem::<f64>() {
                    0.0 => Ok(padded),
                    value => {
                        let mut inside = d.input.shape.to_vec();
                        inside[0] = 1;
                        let outside = Array::full(1.0, &inside, &self.like).pad(&d.padding).neg().shift(1.0);
                        self.shift(padded, outside.scale(value))
                    }
                }
            }
            O::SumDim(_) | O::MeanDim(_) | O::SumDims(_) | O::Sum(_) | O::Mean(_) => Err(NoRule::new("", MIXED)),
            _ => Err(NoRule::new("", NO_RULE)),
        }
    }

    fn sum_of(&mut self, d: &BinaryOpIr, minus: bool) -> Lowered {
        let shape = d.out.shape.to_vec();
        if self.is_fixed(&d.rhs) {
            let (input, by) = (self.varying(&d.lhs)?, self.fixed(&d.rhs)?);
            let input = self.expand(input, &shape)?;
            return self.shift(input, if minus { by.neg() } else { by });
        }
        let right = self.varying(&d.rhs)?;
        let right = if minus { self.scale(right, -1.0)? } else { right };
        if self.is_fixed(&d.lhs) {
            let right = self.expand(right, &shape)?;
            let by = self.fixed(&d.lhs)?;
            return self.shift(right, by);
        }
        let left = self.varying(&d.lhs)?;
        self.add(left, right, &shape)
    }

    fn product_of(&mut self, d: &BinaryOpIr) -> Lowered {
        let shape = d.out.shape.to_vec();
        for (moving, fixed) in [(&d.lhs, &d.rhs), (&d.rhs, &d.lhs)] {
            if self.is_fixed(fixed) {
                let (input, factor) = (self.varying(moving)?, self.fixed(fixed)?);
                let input = self.expand(input, &shape)?;
                return self.same(Op::Scale(factor), input);
            }
        }
        let (left, right) = (self.varying(&d.lhs)?, self.varying(&d.rhs)?);
        if left == right {
            return self.elementwise(Function::Square, left);
        }
        let gate = |of: usize, gate: usize| {
            let step = self.network.steps.iter().find(|step| step.out == gate);
            step.is_some_and(|step| matches!(step.op, Op::Elementwise(Function::Sigmoid)) && step.inputs == [of])
        };
        if gate(left, right) {
            return self.elementwise(Function::Silu, left);
        }
        if gate(right, left) {
            return self.elementwise(Function::Silu, right);
        }
        let inputs = vec![self.expand(left, &shape)?, self.expand(right, &shape)?];
        self.push(Op::Product, inputs, shape)
    }

    /// `max(x, c) = c + relu(x − c)`
    fn clamp_min(&mut self, input: usize, bound: f64) -> Lowered {
        let above = match bound {
            0.0 => input,
            _ => self.shift_scalar(input, -bound)?,
        };
        let above = self.elementwise(Function::Relu, above)?;
        if bound == 0.0 { Ok(above) } else { self.shift_scalar(above, bound) }
    }

    /// `min(x, c) = −max(−x, −c)`
    fn clamp_max(&mut self, input: usize, bound: f64) -> Lowered {
        let negative = self.scale(input, -1.0)?;
        let clamped = self.clamp_min(negative, -bound)?;
        self.scale(clamped, -1.0)
    }

    fn sum_axes(&mut self, input: usize, axes: &[usize], mean: bool) -> Lowered {
        let (mut out, mut count) = (input, 1);
        for axis in axes {
            let mut shape = self.network.shapes[out].clone();
            count *= std::mem::replace(&mut shape[*axis], 1);
            out = self.push(Op::Sum(*axis), vec![out], shape)?;
        }
        if mean { self.scale(out, 1.0 / count as f64) } else { Ok(out) }
    }

    fn float(&mut self, op: &FloatOperationIr) -> Lowered {
        use FloatOperationIr as O;
        let function = match op {
            O::Tanh(d) => (Function::Tanh, &d.input),
            O::Exp(d) => (Function::Exp, &d.input),
            O::PowfScalar(d) if d.rhs.elem::<f64>() == 2.0 => (Function::Square, &d.lhs),
            O::Matmul(d) => {
                let shape = d.out.shape.to_vec();
                let one_matrix = |w: &Array| w.shape()[..w.rank() - 2].iter().all(|size| *size == 1);
                if self.is_fixed(&d.rhs) {
                    let (input, weight) = (self.varying(&d.lhs)?, self.fixed(&d.rhs)?);
                    return match weight.rank() == 2 || weight.shape()[0] == 1 {
                        true if one_matrix(&weight) || self.same_stack(input, &weight) => {
                            self.push(Op::Matmul(weight), vec![input], shape)
                        }
                        _ => Err(NoRule::new("", MIXED)),
                    };
                }
                let (weight, input) = (self.fixed(&d.lhs)?, self.varying(&d.rhs)?);
                return match weight.rank() > 2 && weight.shape()[0] == 1 {
                    true if one_matrix(&weight) || self.same_stack(input, &weight) => {
                        self.push(Op::LeftMatmul(weight), vec![input], shape)
                    }
                    _ => Err(NoRule::new("", MIXED)),
                };
            }
            _ => return Err(NoRule::new("", NO_RULE)),
        };
        let input = self.varying(function.1)?;
        self.elementwise(function.0, input)
    }

    /// Whether a stack of matrices has the stack of the input, but for the first axis, so that nothing of the input expands.
    fn same_stack(&self, input: usize, weight: &Array) -> bool {
        let (input, weight) = (&self.network.shapes[input], weight.shape());
        let stack = input.len() - 2;
        (1..stack).all(|axis| input[axis] == weight[axis] || weight[axis] == 1)
    }

    fn activation(&mut self, op: &ActivationOperationIr) -> Lowered {
        use ActivationOperationIr as O;
        let (function, input) = match op {
            O::Relu(d) => (Function::Relu, &d.input),
            O::Sigmoid(d) => (Function::Sigmoid, &d.input),
            O::Gelu(d) => (Function::Gelu, &d.input),
            O::LeakyRelu(d) => {
                let input = self.varying(&d.lhs)?;
                let slope = self.scalar(d.rhs.elem(), input);
                return self.leaky(input, slope);
            }
            O::PRelu(d) => {
                let (input, alpha) = (self.varying(&d.lhs)?, self.fixed(&d.rhs)?);
                let slope = self.along(&alpha, 1, input);
                return self.leaky(input, slope);
            }
            O::HardSigmoid(d) => {
                let input = self.varying(&d.tensor)?;
                let scaled = self.scale(input, d.alpha.elem())?;
                let shifted = self.shift_scalar(scaled, d.beta.elem())?;
                let positive = self.clamp_min(shifted, 0.0)?;
                return self.clamp_max(positive, 1.0);
            }
            // −softplus(−x)
            O::LogSigmoid(d) => {
                let input = self.varying(&d.input)?;
                let negative = self.scale(input, -1.0)?;
                let softplus = self.elementwise(Function::Softplus(1.0), negative)?;
                return self.scale(softplus, -1.0);
            }
            _ => return Err(NoRule::new("", NO_RULE)),
        };
        let input = self.varying(input)?;
        self.elementwise(function, input)
    }

    /// `ax + (1 − a)·relu(x)`
    fn leaky(&mut self, input: usize, slope: Array) -> Lowered {
        let rest = slope.neg().shift(1.0);
        let line = self.same(Op::Scale(slope), input)?;
        let relu = self.elementwise(Function::Relu, input)?;
        let relu = self.same(Op::Scale(rest), relu)?;
        let shape = self.network.shapes[input].clone();
        self.add(line, relu, &shape)
    }

    /// A vector along one axis of an input, to expand over the others.
    fn along(&self, vector: &Array, axis: usize, input: usize) -> Array {
        let mut shape = vec![1; self.network.shapes[input].len()];
        shape[axis] = vector.elements();
        vector.reshape(&shape)
    }

    fn module(&mut self, op: &ModuleOperationIr) -> Lowered {
        use ModuleOperationIr as O;
        match op {
            O::Linear(d) => {
                let (input, weight) = (self.varying(&d.x)?, self.fixed(&d.weight)?);
                let rank = self.network.shapes[input].len();
                if rank < 2 {
                    return Err(NoRule::new("", MIXED));
                }
                let mut stack = vec![1; rank - 2];
                stack.extend(weight.shape());
                let product = self.push(Op::Matmul(weight.reshape(&stack)), vec![input], d.out.shape.to_vec())?;
                self.biased(product, d.bias.as_ref(), rank - 1)
            }
            O::Conv2d(d) => {
                let (input, weight) = (self.varying(&d.x)?, self.fixed(&d.weight)?);
                let convolution = Convolution { weight, options: d.options.clone() };
                let product = self.push(Op::Convolve(convolution), vec![input], d.out.shape.to_vec())?;
                self.biased(product, d.bias.as_ref(), 1)
            }
            O::Conv1d(d) => {
                let (input, weight) = (self.varying(&d.x)?, self.fixed(&d.weight)?);
                let [outputs, inputs, width] = d.weight.shape.dims();
                let options = Conv2dOptionsIr {
                    stride: [1, d.options.stride[0]],
                    padding: [(0, 0), d.options.padding[0]],
                    dilation: [1, d.options.dilation[0]],
                    groups: d.options.groups,
                };
                let flat = self.flat(input)?;
                let [examples, _, length] = d.out.shape.dims();
                let convolution = Convolution { weight: weight.reshape(&[outputs, inputs, 1, width]), options };
                let product = self.push(Op::Convolve(convolution), vec![flat], vec![examples, outputs, 1, length])?;
                let product = self.reshape(product, &d.out.shape.to_vec())?;
                self.biased(product, d.bias.as_ref(), 1)
            }
            O::BatchNorm(d) => {
                let input = self.varying(&d.x)?;
                let [gamma, beta, mean, variance] = [&d.gamma, &d.beta, &d.mean, &d.variance].map(|t| self.fixed(t));
                let factor = gamma?.div(&variance?.shift(d.epsilon.elem()).sqrt());
                let (beta, moved) = (beta?, mean?.mul(&factor));
                let (by, size) = (beta.sub(&moved), beta.abs().add(&moved.abs()));
                let [factor, by, size] = [factor, by, size].map(|vector| self.along(&vector, 1, input));
                let scaled = self.same(Op::Scale(factor), input)?;
                self.same(Op::Shift { by, size }, scaled)
            }
            O::AvgPool2d(d) if !(d.ceil_mode && d.count_include_pad) => {
                let (height, width) = (d.x.shape[2], d.x.shape[3]);
                let [rows, columns] = [(0, height), (1, width)].map(|(axis, size)| {
                    let out = d.out.shape[2 + axis];
                    let of = |o: usize| {
                        let from = o * d.stride[axis];
                        (from as isize - d.padding[axis] as isize, d.kernel_size[axis], d.count_include_pad)
                    };
                    self.averages(size, out, of)
                });
                let input = self.varying(&d.x)?;
                self.push(Op::Resample { rows, columns }, vec![input], d.out.shape.to_vec())
            }
            O::AvgPool1d(d) if !(d.ceil_mode && d.count_include_pad) => {
                let of = |o: usize| ((o * d.stride) as isize - d.padding as isize, d.kernel_size, d.count_include_pad);
                let columns = self.averages(d.x.shape[2], d.out.shape[2], of);
                self.resample_line(&d.x, columns, &d.out)
            }
            O::AdaptiveAvgPool2d(d) => {
                let [rows, columns] = [2, 3].map(|axis| self.adaptive(d.x.shape[axis], d.out.shape[axis]));
                let input = self.varying(&d.x)?;
                self.push(Op::Resample { rows, columns }, vec![input], d.out.shape.to_vec())
            }
            O::AdaptiveAvgPool1d(d) => {
                let columns = self.adaptive(d.x.shape[2], d.out.shape[2]);
                self.resample_line(&d.x, columns, &d.out)
            }
            O::MaxPool2d(d) => {
                let window = (d.kernel_size, d.stride, d.padding, d.dilation, d.ceil_mode);
                self.max_pool(&d.x, window, &d.out)
            }
            O::MaxPool2dWithIndices(d) => {
                let window = (d.kernel_size, d.stride, d.padding, d.dilation, d.ceil_mode);
                self.max_pool(&d.x, window, &d.out)
            }
            O::MaxPool1d(d) => {
                let window = ([1, d.kernel_size], [1, d.stride], [0, d.padding], [1, d.dilation], d.ceil_mode);
                self.max_pool(&d.x, window, &d.out)
            }
            O::MaxPool1dWithIndices(d) => {
                let window = ([1, d.kernel_size], [1, d.stride], [0, d.padding], [1, d.dilation], d.ceil_mode);
                self.max_pool(&d.x, window, &d.out)
            }
            _ => Err(NoRule::new("", NO_RULE)),
        }
    }

    fn biased(&mut self, input: usize, bias: Option<&TensorIr>, axis: usize) -> Lowered {
        match bias {
            None => Ok(input),
            Some(bias) => {
                let bias = self.along(&self.fixed(bias)?, axis, input);
                self.shift(input, bias)
            }
        }
    }

    /// `[n, c, l]` as `[n, c, 1, l]`.
    fn flat(&mut self, input: usize) -> Lowered {
        let mut shape = self.network.shapes[input].clone();
        shape.insert(2, 1);
        self.reshape(input, &shape)
    }

    fn max_pool(
        &mut self,
        x: &TensorIr,
        window: ([usize; 2], [usize; 2], [usize; 2], [usize; 2], bool),
        out: &TensorIr,
    ) -> Lowered {
        let (kernel, stride, padding, dilation, ceil) = window;
        let window = Window { kernel, stride, padding, dilation, ceil };
        let (mut input, shape) = (self.varying(x)?, out.shape.to_vec());
        let mut flat = shape.clone();
        if flat.len() == 3 {
            input = self.flat(input)?;
            flat.insert(2, 1);
        }
        let pooled = self.push(Op::MaxPool(window), vec![input], flat)?;
        self.reshape(pooled, &shape)
    }

    fn resample_line(&mut self, x: &TensorIr, columns: Array, out: &TensorIr) -> Lowered {
        let input = self.varying(x)?;
        let flat = self.flat(input)?;
        let rows = Array::full(1.0, &[1, 1, 1, 1], &self.like);
        let mut shape = out.shape.to_vec();
        shape.insert(2, 1);
        let pooled = self.push(Op::Resample { rows, columns }, vec![flat], shape)?;
        self.reshape(pooled, &out.shape.to_vec())
    }

    /// The matrix of means over windows: `of` an output, where it begins, its length, and whether padding counts.
    fn averages(&self, size: usize, out: usize, of: impl Fn(usize) -> (isize, usize, bool)) -> Array {
        let mut matrix = vec![0.0; out * size];
        for o in 0..out {
            let (from, length, padded) = of(o);
            let inside = from.max(0) as usize..((from + length as isize).max(0) as usize).min(size);
            let count = if padded { length } else { inside.len() };
            inside.for_each(|i| matrix[o * size + i] = 1.0 / count as f64);
        }
        Array::from_values(matrix, &[1, 1, out, size], &self.like)
    }

    fn adaptive(&self, size: usize, out: usize) -> Array {
        self.averages(size, out, |o| {
            let (from, to) = (o * size / out, ((o + 1) * size).div_ceil(out));
            (from as isize, to - from, false)
        })
    }
}
