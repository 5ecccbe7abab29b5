//! Which axis of a tensor counts the samples of a batch, followed through a graph.
//!
//! A tensor is *fixed* (the same whatever the samples are) or carries them along one axis, sample after sample. An operation
//! whose result at one sample depends on no other sample hands the axis on; every other one mixes samples, or is not known
//! not to, and ends the analysis. What holds is therefore proven operation by operation, never guessed from values.

use burn::backend::ir::*;
use burn::tensor::{Shape, Slice};

type T = TensorIr;

/// The axis that counts samples. Its length is `outer·samples·inner`, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Axis {
    pub axis: usize,
    pub outer: usize,
    pub inner: usize,
}

impl Axis {
    /// One row a sample.
    pub const FIRST: Axis = Axis { axis: 0, outer: 1, inner: 1 };
}

/// The axis of the operation's results, given those of its inputs (`None` for fixed ones), of which one at least has one.
///
/// `None` where samples are mixed or nothing is known.
pub(crate) fn carry(operation: &OperationIr, of: &dyn Fn(&T) -> Option<Axis>, samples: usize) -> Option<Axis> {
    match operation {
        OperationIr::BaseFloat(op) | OperationIr::BaseInt(op) | OperationIr::BaseBool(op) => base(op, of, samples),
        OperationIr::NumericFloat(_, op) | OperationIr::NumericInt(_, op) => numeric(op, of),
        OperationIr::Float(_, op) => float(op, of),
        OperationIr::Int(IntOperationIr::Matmul(d)) => matmul(d, of),
        OperationIr::Int(_) | OperationIr::Bool(_) => agree(operation.inputs(), of),
        OperationIr::Activation(op) => activation(op, of),
        OperationIr::Module(op) => module(op, of),
        OperationIr::Init(_) | OperationIr::Custom(_) | OperationIr::Drop(_) | OperationIr::Distributed(_) => None,
    }
}

/// The one axis that all inputs have which have one: what an element-wise operation hands on.
fn agree<'a>(inputs: impl IntoIterator<Item = &'a T>, of: &dyn Fn(&T) -> Option<Axis>) -> Option<Axis> {
    let mut found = inputs.into_iter().filter_map(of);
    let first = found.next()?;
    found.all(|other| other == first).then_some(first)
}

fn base(op: &BaseOperationIr, of: &dyn Fn(&T) -> Option<Axis>, samples: usize) -> Option<Axis> {
    use BaseOperationIr as B;
    match op {
        B::Reshape(d) => reshaped(&d.input.shape, of(&d.input)?, &d.out.shape, samples),
        B::Expand(d) => {
            let axis = of(&d.input)?;
            let new = d.out.shape.num_dims() - d.input.shape.num_dims();
            Some(Axis { axis: axis.axis + new, ..axis })
        }
        B::SwapDims(d) => {
            let axis = of(&d.input)?;
            let moved = match axis.axis {
                a if a == d.dim1 => d.dim2,
                a if a == d.dim2 => d.dim1,
                a => a,
            };
            Some(Axis { axis: moved, ..axis })
        }
        B::Permute(d) => {
            let axis = of(&d.input)?;
            let moved = d.axes.iter().position(|from| *from == axis.axis)?;
            Some(Axis { axis: moved, ..axis })
        }
        B::Flip(d) => of(&d.input).filter(|a| !d.axes.contains(&a.axis)),
        B::Unfold(d) => beside(of(&d.input)?, d.dim),
        B::Slice(d) => of(&d.tensor).filter(|a| whole(&d.ranges, &d.tensor.shape, a.axis)),
        B::SliceAssign(d) => agree([&d.tensor, &d.value], of).filter(|a| whole(&d.ranges, &d.tensor.shape, a.axis)),
        B::Select(d) => match (of(&d.tensor), of(&d.indices)) {
            (Some(axis), None) => beside(axis, d.dim),
            // One row of a fixed table for each index.
            (None, Some(axis)) => Some(Axis { axis: d.dim, ..axis }),
            _ => None,
        },
        B::SelectAssign(d) if of(&d.indices).is_none() => beside(agree([&d.tensor, &d.value], of)?, d.dim),
        B::Gather(d) => match (of(&d.tensor), of(&d.indices)) {
            (None, indices) => indices,
            _ => beside(agree([&d.tensor, &d.indices], of)?, d.dim),
        },
        B::Scatter(d) => beside(agree([&d.tensor, &d.indices, &d.value], of)?, d.dim),
        B::MaskWhere(d) => agree([&d.tensor, &d.mask, &d.value], of),
        B::MaskFill(d) => agree([&d.tensor, &d.mask], of),
        B::Equal(d) | B::NotEqual(d) => agree([&d.lhs, &d.rhs], of),
        B::EqualElem(d) | B::NotEqualElem(d) => of(&d.lhs),
        B::RepeatDim(d) => beside(of(&d.tensor)?, d.dim),
        B::Cat(d) => beside(agree(&d.tensors, of)?, d.dim),
        B::Cast(d) => of(&d.input),
        B::AllDim(d) | B::AnyDim(d) => beside(of(&d.input)?, d.axis),
        B::All(_) | B::Any(_) | B::Empty(_) | B::Ones(_) | B::Zeros(_) => None,
        B::ScatterNd(_) | B::GatherNd(_) | B::SelectAssign(_) => None,
    }
}

fn numeric(op: &NumericOperationIr, of: &dyn Fn(&T) -> Option<Axis>) -> Option<Axis> {
    use NumericOperationIr as N;
    match op {
        N::Add(d) | N::Sub(d) | N::Mul(d) | N::Div(d) | N::Rem(d) | N::Powi(d) => agree([&d.lhs, &d.rhs], of),
        N::Greater(d) | N::GreaterEqual(d) | N::Lower(d) | N::LowerEqual(d) => agree([&d.lhs, &d.rhs], of),
        N::AddScalar(d) | N::SubScalar(d) | N::MulScalar(d) | N::DivScalar(d) | N::RemScalar(d) => of(&d.lhs),
        N::GreaterElem(d) | N::GreaterEqualElem(d) | N::LowerElem(d) | N::LowerEqualElem(d) => of(&d.lhs),
        N::PowiScalar(d) | N::ClampMin(d) | N::ClampMax(d) => of(&d.lhs),
        N::Clamp(d) => of(&d.tensor),
        N::Neg(d) | N::Abs(d) | N::Sign(d) => of(&d.input),
        N::SumDim(d) | N::MeanDim(d) | N::ProdDim(d) | N::MaxDim(d) | N::MinDim(d) | N::MaxAbsDim(d) => {
            beside(of(&d.input)?, d.axis)
        }
        N::ArgMax(d) | N::ArgMin(d) | N::ArgTopK(d) | N::TopK(d) => beside(of(&d.input)?, d.axis),
        N::SumDims(d) => of(&d.input).filter(|a| !d.axes.contains(&a.axis)),
        N::CumSum(d) | N::CumProd(d) | N::CumMin(d) | N::CumMax(d) => beside(of(&d.input)?, d.axis),
        N::MaxDimWithIndices(d) | N::MinDimWithIndices(d) => beside(of(&d.tensor)?, d.dim),
        N::TopKWithIndices(d) => beside(of(&d.tensor)?, d.dim),
        N::Sort(d) | N::ArgSort(d) => beside(of(&d.input)?, d.dim),
        N::SortWithIndices(d) => beside(of(&d.input)?, d.dim),
        N::Pad(d) => of(&d.input).filter(|a| d.padding.get(a.axis).is_none_or(|pad| *pad == (0, 0))),
        N::Sum(_) | N::Mean(_) | N::Prod(_) | N::Max(_) | N::Min(_) | N::MaxAbs(_) => None,
        N::Full(_) | N::IntRandom(_) => None,
    }
}

fn float(op: &FloatOperationIr, of: &dyn Fn(&T) -> Option<Axis>) -> Option<Axis> {
    use FloatOperationIr as F;
    match op {
        F::Matmul(d) => matmul(d, of),
        F::Cross(d) => beside(agree([&d.lhs, &d.rhs], of)?, d.dim),
        F::GridSample2d(d) => agree([&d.tensor, &d.grid], of).filter(|a| a.axis == 0),
        F::Powf(d) | F::ArcTan2(d) | F::Hypot(d) => agree([&d.lhs, &d.rhs], of),
        F::PowfScalar(d) => of(&d.lhs),
        F::Exp(d) | F::Log(d) | F::Log1p(d) | F::Erf(d) | F::Sqrt(d) | F::Recip(d) => of(&d.input),
        F::Cos(d) | F::Sin(d) | F::Tan(d) | F::Cosh(d) | F::Sinh(d) | F::Tanh(d) => of(&d.input),
        F::ArcCos(d) | F::ArcSin(d) | F::ArcTan(d) | F::ArcCosh(d) | F::ArcSinh(d) | F::ArcTanh(d) => of(&d.input),
        F::Round(d) | F::Floor(d) | F::Ceil(d) | F::Trunc(d) => of(&d.input),
        F::IntoInt(d) => of(&d.input),
        F::IsNan(d) | F::IsInf(d) => of(&d.input),
        F::Random(_) | F::Quantize(_) | F::Dequantize(_) => None,
    }
}

/// Rows, columns and leading axes of a product are those of its factors; the axis summed over is none of them.
fn matmul(d: &MatmulOpIr, of: &dyn Fn(&T) -> Option<Axis>) -> Option<Axis> {
    let rank = d.out.shape.num_dims();
    let (row, column) = (rank - 2, rank - 1);
    match (of(&d.lhs), of(&d.rhs)) {
        (Some(l), None) => beside(l, column),
        (None, Some(r)) => beside(r, row),
        (Some(l), Some(r)) => (l == r && l.axis < row).then_some(l),
        (None, None) => None,
    }
}

fn activation(op: &ActivationOperationIr, of: &dyn Fn(&T) -> Option<Axis>) -> Option<Axis> {
    use ActivationOperationIr as A;
    match op {
        A::Softmax(d) | A::Softmin(d) | A::LogSoftmax(d) => beside(of(&d.input)?, d.axis),
        A::Relu(d) | A::Gelu(d) | A::Sigmoid(d) | A::LogSigmoid(d) => of(&d.input),
        A::HardSigmoid(d) => of(&d.tensor),
        A::LeakyRelu(d) => of(&d.lhs),
        A::PRelu(d) => of(&d.lhs).filter(|_| of(&d.rhs).is_none()),
        A::ReluBackward(d) | A::GeluBackward(d) | A::SigmoidBackward(d) | A::LogSigmoidBackward(d) => {
            agree([&d.lhs, &d.rhs], of)
        }
    }
}

/// Layers see samples along the first axis (pooling along channels too) with parameters that are fixed.
fn module(op: &ModuleOperationIr, of: &dyn Fn(&T) -> Option<Axis>) -> Option<Axis> {
    use ModuleOperationIr as M;
    let fixed = |parameters: &[&T]| parameters.iter().all(|parameter| of(parameter).is_none());
    let optional = |parameter: &Option<T>| parameter.as_ref().is_none_or(|parameter| of(parameter).is_none());
    macro_rules! layer {
        ($d:ident) => {
            of(&$d.x).filter(|a| a.axis == 0 && fixed(&[&$d.weight]) && optional(&$d.bias))
        };
    }
    macro_rules! back {
        ($d:ident) => {
            of(&$d.output_grad).filter(|a| a.axis == 0 && fixed(&[&$d.weight]))
        };
    }
    match op {
        M::Linear(d) => {
            let last = d.x.shape.num_dims() - 1;
            of(&d.x).filter(|a| a.axis != last && fixed(&[&d.weight]) && optional(&d.bias))
        }
        M::LinearXBackward(d) => {
            let last = d.output_grad.shape.num_dims() - 1;
            of(&d.output_grad).filter(|a| a.axis != last && fixed(&[&d.weight]))
        }
        M::Conv1d(d) => layer!(d),
        M::Conv2d(d) => layer!(d),
        M::Conv3d(d) => layer!(d),
        M::ConvTranspose1d(d) => layer!(d),
        M::ConvTranspose2d(d) => layer!(d),
        M::ConvTranspose3d(d) => layer!(d),
        M::Conv1dXBackward(d) => back!(d),
        M::Conv2dXBackward(d) => back!(d),
        M::Conv3dXBackward(d) => back!(d),
        M::Embedding(d) => of(&d.indices).filter(|_| fixed(&[&d.weights])),
        M::BatchNorm(d) => of(&d.x).filter(|a| a.axis != 1 && fixed(&[&d.gamma, &d.beta, &d.mean, &d.variance])),
        M::LayerNorm(d) => {
            let last = d.input.shape.num_dims() - 1;
            of(&d.input).filter(|a| a.axis != last && fixed(&[&d.gamma]) && optional(&d.beta))
        }
        M::Attention(d) => {
            let extra = d.mask.iter().chain(&d.attn_bias);
            agree([&d.query, &d.key, &d.value].into_iter().chain(extra), of).filter(|a| a.axis <= 1)
        }
        M::AvgPool1d(d) => of(&d.x).filter(planes),
        M::AvgPool2d(d) => of(&d.x).filter(planes),
        M::AdaptiveAvgPool1d(d) => of(&d.x).filter(planes),
        M::AdaptiveAvgPool2d(d) => of(&d.x).filter(planes),
        M::AdaptiveAvgPool3d(d) => of(&d.x).filter(planes),
        M::MaxPool1d(d) => of(&d.x).filter(planes),
        M::MaxPool2d(d) => of(&d.x).filter(planes),
        M::MaxPool1dWithIndices(d) => of(&d.x).filter(planes),
        M::MaxPool2dWithIndices(d) => of(&d.x).filter(planes),
        M::Interpolate(d) => of(&d.x).filter(planes),
        M::AvgPool1dBackward(d) => of(&d.grad).filter(planes),
        M::AvgPool2dBackward(d) => of(&d.grad).filter(planes),
        M::AdaptiveAvgPool1dBackward(d) => of(&d.grad).filter(planes),
        M::AdaptiveAvgPool2dBackward(d) => of(&d.grad).filter(planes),
        M::AdaptiveAvgPool3dBackward(d) => of(&d.grad).filter(planes),
        M::InterpolateBackward(d) => of(&d.grad).filter(planes),
        M::MaxPool1dWithIndicesBackward(d) => agree([&d.grad, &d.indices], of).filter(planes),
        M::MaxPool2dWithIndicesBackward(d) => agree([&d.grad, &d.indices], of).filter(planes),
        M::Unfold4d(d) => of(&d.x).filter(|a| a.axis == 0),
        // Sums over samples, and what has no rule.
        M::LinearWeightBackward(_) | M::LinearBiasBackward(_) | M::EmbeddingBackward(_) => None,
        M::Conv1dWeightBackward(_) | M::Conv2dWeightBackward(_) | M::Conv3dWeightBackward(_) => None,
        M::Conv1dBiasBackward(_) | M::Conv2dBiasBackward(_) | M::Conv3dBiasBackward(_) => None,
        M::ConvTranspose1dWeightBackward(_) | M::ConvTranspose2dWeightBackward(_) => None,
        M::ConvTranspose3dWeightBackward(_) | M::ConvTranspose1dBiasBackward(_) => None,
        M::ConvTranspose2dBiasBackward(_) | M::ConvTranspose3dBiasBackward(_) => None,
        M::DeformableConv2d(_) | M::DeformableConv2dBackward(_) | M::CtcLoss(_) | M::CtcLossBackward(_) => None,
    }
}

fn planes(axis: &Axis) -> bool {
    axis.axis <= 1
}

/// The axis if `other` is another one.
fn beside(axis: Axis, other: usize) -> Option<Axis> {
    (axis.axis != other).then_some(axis)
}

/// Whether the ranges take all of an axis, in order.
fn whole(ranges: &[Slice], shape: &Shape, axis: usize) -> bool {
    ranges.get(axis).is_none_or(|range| {
        let length = shape[axis] as isize;
        range.start == 0 && range.step == 1 && range.end.is_none_or(|end| end >= length)
    })
}

/// Where the samples are after a reshape: on the axis that holds all of them, behind as many elements as before.
fn reshaped(from: &Shape, axis: Axis, to: &Shape, samples: usize) -> Option<Axis> {
    let before = axis.outer * (0..axis.axis).map(|d| from[d]).product::<usize>();
    let mut product = 1;
    for d in 0..to.num_dims() {
        if product > 0 && before.is_multiple_of(product) {
            let outer = before / product;
            if outer > 0 && to[d] > 0 && to[d].is_multiple_of(outer * samples) {
                return Some(Axis { axis: d, outer, inner: to[d] / (outer * samples) });
            }
        }
        product *= to[d];
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reshapes_keep_the_samples_together_or_lose_them() {
        let shape = |dims: &[usize]| Shape::from(dims.to_vec());
        let at = |axis, outer, inner| Some(Axis { axis, outer, inner });
        let first = Axis::FIRST;
        assert_eq!(reshaped(&shape(&[5, 3, 4]), first, &shape(&[15, 4]), 5), at(0, 1, 3));
        assert_eq!(reshaped(&shape(&[15, 4]), at(0, 1, 3).unwrap(), &shape(&[5, 3, 2, 2]), 5), Some(first));
        let second = at(1, 1, 1).unwrap();
        assert_eq!(reshaped(&shape(&[3, 5, 4]), second, &shape(&[3, 20]), 5), at(1, 1, 4));
        assert_eq!(reshaped(&shape(&[3, 5, 4]), second, &shape(&[15, 4]), 5), at(0, 3, 1));
        assert_eq!(reshaped(&shape(&[15, 4]), at(0, 3, 1).unwrap(), &shape(&[3, 5, 2, 2]), 5), Some(second));
        assert_eq!(reshaped(&shape(&[5, 4]), first, &shape(&[1, 5, 4]), 5), Some(second));
        // Samples in parts.
        assert_eq!(reshaped(&shape(&[5, 4]), first, &shape(&[4, 5]), 5), None);
        assert_eq!(reshaped(&shape(&[4, 5]), second, &shape(&[5, 4]), 5), None);
        assert_eq!(reshaped(&shape(&[6, 4]), first, &shape(&[2, 3, 4]), 6), None);
    }

    #[test]
    fn a_slice_is_whole_or_not() {
        let shape = Shape::from(vec![4, 6]);
        let range = |start, end, step| Slice { start, end, step };
        assert!(whole(&[range(0, None, 1)], &shape, 0) && whole(&[range(0, Some(4), 1)], &shape, 0));
        assert!(whole(&[range(1, Some(2), 1)], &shape, 1), "no range for the axis");
        assert!(!whole(&[range(0, Some(3), 1)], &shape, 0) && !whole(&[range(0, None, -1)], &shape, 0));
    }
}
