//! Forward-mode tangents of every operation: from a graph to the graph that also carries directional derivatives.
//!
//! For a graph computing `y = F(x)` the rewrite appends operations computing `ẏ = F'(x)·ẋ`. Applied to a graph that holds a
//! loss *and its gradient* this is forward over reverse (Pearlmutter 1994, "Fast exact multiplication by the Hessian"): the
//! tangent of the gradient is the Hessian-vector product, with no tape and no second backward.
//!
//! Nearly every operation is linear in each tensor argument, so its rule is the operation itself applied to the tangents, one
//! term an argument. Element-wise operations multiply by their derivative. Comparisons, indices, masks, integers and
//! piecewise-constant operations carry none. Nothing is approximated, and an operation without a rule is an error.

use burn::backend::ir::*;
use burn::tensor::{DType, IndexingUpdateOp, Shape};

use super::graph::{Builder, Graph, Source, index};

type T = TensorIr;

/// An operation that an active tensor reaches and that has no rule.
#[derive(Debug)]
pub(crate) struct Missing {
    pub operation: String,
    pub reads: Vec<usize>,
}

/// Appends tangents with respect to the point's leaves and returns the new graph with the tangent of each output.
///
/// `None` stands for a tangent that is exactly zero because the output does not depend on the point.
pub(crate) fn tangents(graph: &Graph) -> Result<(Graph, Vec<Option<T>>), Missing> {
    let mut start =
        Graph { tensors: graph.tensors, entries: graph.entries.clone(), int: graph.int, ..Graph::default() };
    start.operations.reserve(graph.operations.len() * 4);
    let mut pass = Pass { b: start.into_builder(), tangent: vec![None; graph.tensors] };
    for entry in &graph.entries {
        if let Source::Point(leaf) = entry.source {
            let ir = &entry.tensor;
            let tangent = pass.b.entry(ir.shape.clone(), ir.dtype, Source::Direction(leaf));
            pass.tangent[index(ir)] = Some(tangent);
        }
    }
    for operation in &graph.operations {
        pass.b.push(operation.clone());
        if operation.inputs().any(|input| pass.get(input).is_some()) {
            pass.rule(operation)?;
        }
    }
    let tangents = graph.outputs.iter().map(|out| pass.get(out)).collect();
    let mut out = pass.b.graph;
    out.outputs = graph.outputs.clone();
    Ok((out, tangents))
}

struct Pass {
    b: Builder,
    tangent: Vec<Option<T>>,
}

impl Pass {
    fn get(&self, tensor: &T) -> Option<T> {
        self.tangent.get(index(tensor)).cloned().flatten()
    }

    fn set(&mut self, tensor: &T, tangent: Option<T>) {
        self.tangent[index(tensor)] = tangent;
    }

    /// The tangent, or zeros where there is none.
    fn get_or_zeros(&mut self, tensor: &T) -> T {
        match self.get(tensor) {
            Some(tangent) => tangent,
            None => self.b.full(&tensor.shape, tensor.dtype, 0.0),
        }
    }

    fn plus(&mut self, a: Option<T>, b: Option<T>) -> Option<T> {
        match (a, b) {
            (Some(a), Some(b)) => Some(self.b.add(&a, &b)),
            (a, b) => a.or(b),
        }
    }

    /// `ẏ = d(x)·ẋ` for an element-wise operation with derivative `d`.
    fn chain(&mut self, input: &T, out: &T, derivative: impl FnOnce(&mut Builder) -> T) {
        if let Some(dx) = self.get(input) {
            let slope = derivative(&mut self.b);
            let dy = self.b.mul(&dx, &slope);
            self.set(out, Some(dy));
        }
    }

    /// The tangent of a linear operation of one tensor: the operation on the tangent.
    fn linear(&mut self, input: &T, out: &T, op: impl FnOnce(T, T) -> OperationIr) {
        if let Some(dx) = self.get(input) {
            let dy = self.b.like(out);
            self.b.push(op(dx, dy.clone()));
            self.set(out, Some(dy));
        }
    }

    /// The sum of `op` applied to the tangent of each argument in turn: the product rule of a multilinear operation.
    fn multilinear(&mut self, args: &[&T], out: &T, op: impl Fn(usize, T, T) -> OperationIr) {
        let mut total = None;
        for (position, arg) in args.iter().enumerate() {
            if let Some(tangent) = self.get(arg) {
                let term = self.b.like(out);
                self.b.push(op(position, tangent, term.clone()));
                total = self.plus(total, Some(term));
            }
        }
        self.set(out, total);
    }

    fn rule(&mut self, operation: &OperationIr) -> Result<(), Missing> {
        let done = match operation {
            OperationIr::BaseFloat(op) => self.base(op),
            OperationIr::NumericFloat(dtype, op) => self.numeric(*dtype, op),
            OperationIr::Float(dtype, op) => self.float(*dtype, op),
            OperationIr::Module(op) => self.module(op),
            OperationIr::Activation(op) => self.activation(op),
            // Integers and booleans carry no tangent; neither does anything computed from them alone.
            OperationIr::BaseInt(_) | OperationIr::BaseBool(_) | OperationIr::NumericInt(..) => true,
            OperationIr::Bool(_) | OperationIr::Int(_) | OperationIr::Drop(_) => true,
            OperationIr::Init(_) | OperationIr::Custom(_) | OperationIr::Distributed(_) => false,
        };
        if done {
            return Ok(());
        }
        Err(Missing { operation: Graph::operation_name(operation), reads: operation.inputs().map(index).collect() })
    }

    fn base(&mut self, op: &BaseOperationIr) -> bool {
        use BaseOperationIr as B;
        let wrap = OperationIr::BaseFloat;
        match op {
            B::Reshape(d) => self.linear(&d.input, &d.out, |input, out| wrap(B::Reshape(ShapeOpIr { input, out }))),
            B::Expand(d) => self.linear(&d.input, &d.out, |input, out| wrap(B::Expand(ShapeOpIr { input, out }))),
            B::SwapDims(d) => {
                self.linear(&d.input, &d.out, |input, out| wrap(B::SwapDims(SwapDimsOpIr { input, out, ..d.clone() })))
            }
            B::Permute(d) => {
                self.linear(&d.input, &d.out, |input, out| wrap(B::Permute(PermuteOpIr { input, out, ..d.clone() })))
            }
            B::Flip(d) => {
                self.linear(&d.input, &d.out, |input, out| wrap(B::Flip(FlipOpIr { input, out, ..d.clone() })))
            }
            B::Unfold(d) => {
                self.linear(&d.input, &d.out, |input, out| wrap(B::Unfold(UnfoldOpIr { input, out, ..d.clone() })))
            }
            B::Slice(d) => {
                self.linear(&d.tensor, &d.out, |tensor, out| wrap(B::Slice(SliceOpIr { tensor, out, ..d.clone() })))
            }
            B::Select(d) => {
                self.linear(&d.tensor, &d.out, |tensor, out| wrap(B::Select(SelectOpIr { tensor, out, ..d.clone() })))
            }
            B::Gather(d) => {
                self.linear(&d.tensor, &d.out, |tensor, out| wrap(B::Gather(GatherOpIr { tensor, out, ..d.clone() })))
            }
            B::GatherNd(d) => {
                self.linear(&d.data, &d.out, |data, out| wrap(B::GatherNd(GatherNdOpIr { data, out, ..d.clone() })))
            }
            B::RepeatDim(d) => self.linear(&d.tensor, &d.out, |tensor, out| {
                wrap(B::RepeatDim(RepeatDimOpIr { tensor, out, ..d.clone() }))
            }),
            B::MaskFill(d) => {
                self.linear(&d.tensor, &d.out, |tensor, out| {
                    wrap(B::MaskFill(MaskFillOpIr { tensor, out, value: ScalarIr::Float(0.0), ..d.clone() }))
                });
            }
            B::Cast(d) => {
                if d.out.dtype.is_float() {
                    self.linear(&d.input, &d.out, |input, out| wrap(B::Cast(CastOpIr { input, out })));
                }
            }
            // Linear in all float arguments together: one operation on all tangents, zeros for those that have none.
            B::SliceAssign(d) => {
                let (tensor, value) = (self.get_or_zeros(&d.tensor), self.get_or_zeros(&d.value));
                let out = self.b.like(&d.out);
                let desc = SliceAssignOpIr { tensor, value, out: out.clone(), ranges: d.ranges.clone() };
                self.b.push(wrap(B::SliceAssign(desc)));
                self.set(&d.out, Some(out));
            }
            B::Scatter(d) if linear_update(d.update) => {
                let (tensor, value) = (self.get_or_zeros(&d.tensor), self.get_or_zeros(&d.value));
                let out = self.b.like(&d.out);
                self.b.push(wrap(B::Scatter(ScatterOpIr { tensor, value, out: out.clone(), ..d.clone() })));
                self.set(&d.out, Some(out));
            }
            B::ScatterNd(d) if linear_update(d.reduction) => {
                let (data, values) = (self.get_or_zeros(&d.data), self.get_or_zeros(&d.values));
                let out = self.b.like(&d.out);
                self.b.push(wrap(B::ScatterNd(ScatterNdOpIr { data, values, out: out.clone(), ..d.clone() })));
                self.set(&d.out, Some(out));
            }
            B::SelectAssign(d) if linear_update(d.update) => {
                let (tensor, value) = (self.get_or_zeros(&d.tensor), self.get_or_zeros(&d.value));
                let out = self.b.like(&d.out);
                self.b.push(wrap(B::SelectAssign(SelectAssignOpIr { tensor, value, out: out.clone(), ..d.clone() })));
                self.set(&d.out, Some(out));
            }
            B::MaskWhere(d) => {
                let out = match (self.get(&d.tensor), self.get(&d.value)) {
                    (Some(dt), None) => self.b.mask_fill_expanded(&dt, &d.mask, &d.out.shape),
                    _ => {
                        let (tensor, value) = (self.get_or_zeros(&d.tensor), self.get_or_zeros(&d.value));
                        let out = self.b.like(&d.out);
                        let desc = MaskWhereOpIr { tensor, value, mask: d.mask.clone(), out: out.clone() };
                        self.b.push(wrap(B::MaskWhere(desc)));
                        out
                    }
                };
                self.set(&d.out, Some(out));
            }
            B::Cat(d) => {
                let tensors = d.tensors.iter().map(|t| self.get_or_zeros(t)).collect();
                let out = self.b.like(&d.out);
                self.b.push(wrap(B::Cat(CatOpIr { tensors, dim: d.dim, out: out.clone() })));
                self.set(&d.out, Some(out));
            }
            // Comparisons and creations.
            B::Equal(_) | B::EqualElem(_) | B::NotEqual(_) | B::NotEqualElem(_) => {}
            B::All(_) | B::Any(_) | B::AllDim(_) | B::AnyDim(_) => {}
            B::Empty(_) | B::Ones(_) | B::Zeros(_) => {}
            B::Scatter(_) | B::ScatterNd(_) | B::SelectAssign(_) => return false,
        }
        true
    }

    fn numeric(&mut self, dtype: DType, op: &NumericOperationIr) -> bool {
        use NumericOperationIr as N;
        let wrap = |op| OperationIr::NumericFloat(dtype, op);
        match op {
            N::Add(d) => {
                let (l, r) = (self.get(&d.lhs), self.get(&d.rhs));
                let sum = self.plus(l, r).map(|sum| self.b.expand(&sum, &d.out.shape));
                self.set(&d.out, sum);
            }
            N::Sub(d) => {
                let out = match (self.get(&d.lhs), self.get(&d.rhs)) {
                    (Some(l), Some(r)) => Some(self.b.sub(&l, &r)),
                    (Some(l), None) => Some(l),
                    (None, Some(r)) => Some(self.b.neg(&r)),
                    (None, None) => None,
                };
                let out = out.map(|out| self.b.expand(&out, &d.out.shape));
                self.set(&d.out, out);
            }
            N::Mul(d) => {
                if d.lhs.id == d.rhs.id {
                    // y = x², ẏ = 2xẋ
                    self.chain(&d.lhs, &d.out, |b| b.mul_scalar(&d.lhs, 2.0));
                    return true;
                }
                let l = self.get(&d.lhs).map(|l| self.b.mul(&l, &d.rhs));
                let r = self.get(&d.rhs).map(|r| self.b.mul(&r, &d.lhs));
                let out = self.plus(l, r);
                self.set(&d.out, out);
            }
            N::Div(d) => {
                // ẏ = (l̇ − y·ṙ)/r
                let l = self.get(&d.lhs);
                let r = self.get(&d.rhs).map(|r| self.b.mul(&d.out, &r));
                let top = match (l, r) {
                    (Some(l), Some(r)) => self.b.sub(&l, &r),
                    (Some(l), None) => l,
                    (None, Some(r)) => self.b.neg(&r),
                    (None, None) => return true,
                };
                let out = self.b.div(&top, &d.rhs);
                self.set(&d.out, Some(out));
            }
            N::Rem(d) => {
                // y = l − r·⌊l/r⌋
                let l = self.get(&d.lhs).map(|l| self.b.expand(&l, &d.out.shape));
                let r = self.get(&d.rhs).map(|r| {
                    let difference = self.b.sub(&d.out, &d.lhs);
                    let quotient = self.b.div(&difference, &d.rhs);
                    self.b.mul(&quotient, &r)
                });
                let out = self.plus(l, r);
                self.set(&d.out, out);
            }
            N::AddScalar(d) | N::SubScalar(d) | N::RemScalar(d) => {
                let tangent = self.get(&d.lhs);
                self.set(&d.out, tangent);
            }
            N::MulScalar(d) => {
                self.linear(&d.lhs, &d.out, |lhs, out| wrap(N::MulScalar(ScalarOpIr { lhs, out, rhs: d.rhs })))
            }
            N::DivScalar(d) => {
                self.linear(&d.lhs, &d.out, |lhs, out| wrap(N::DivScalar(ScalarOpIr { lhs, out, rhs: d.rhs })))
            }
            N::Neg(d) => self.linear(&d.input, &d.out, |input, out| wrap(N::Neg(UnaryOpIr { input, out }))),
            N::Abs(d) => self.chain(&d.input, &d.out, |b| b.sign(&d.input)),
            N::Sum(d) => self.linear(&d.input, &d.out, |input, out| wrap(N::Sum(ReduceOpIr { input, out }))),
            N::Mean(d) => self.linear(&d.input, &d.out, |input, out| wrap(N::Mean(ReduceOpIr { input, out }))),
            N::SumDim(d) => {
                self.linear(&d.input, &d.out, |input, out| wrap(N::SumDim(ReduceDimOpIr { input, out, ..d.clone() })))
            }
            N::MeanDim(d) => {
                self.linear(&d.input, &d.out, |input, out| wrap(N::MeanDim(ReduceDimOpIr { input, out, ..d.clone() })))
            }
            N::SumDims(d) => {
                self.linear(&d.input, &d.out, |input, out| wrap(N::SumDims(ReduceDimsOpIr { input, out, ..d.clone() })))
            }
            N::CumSum(d) => {
                self.linear(&d.input, &d.out, |input, out| wrap(N::CumSum(DimOpIr { input, out, axis: d.axis })))
            }
            N::Prod(d) => {
                // ẏ = y·Σ ẋ/x
                if let Some(dx) = self.get(&d.input) {
                    let ratio = self.b.div(&dx, &d.input);
                    let sum = self.b.sum(&ratio);
                    let sum = self.b.reshape(&sum, &d.out.shape);
                    let out = self.b.mul(&sum, &d.out);
                    self.set(&d.out, Some(out));
                }
            }
            N::ProdDim(d) => {
                if let Some(dx) = self.get(&d.input) {
                    let ratio = self.b.div(&dx, &d.input);
                    let sum = self.b.sum_dim(&ratio, d.axis);
                    let out = self.b.mul(&sum, &d.out);
                    self.set(&d.out, Some(out));
                }
            }
            N::CumProd(d) => {
                if let Some(dx) = self.get(&d.input) {
                    let ratio = self.b.div(&dx, &d.input);
                    let sum = self.b.cumsum(&ratio, d.axis);
                    let out = self.b.mul(&sum, &d.out);
                    self.set(&d.out, Some(out));
                }
            }
            N::Max(d) => self.extreme(&d.input, &d.out, true),
            N::Min(d) => self.extreme(&d.input, &d.out, false),
            N::MaxDim(d) => self.extreme_dim(&d.input, &d.out, d.axis, true),
            N::MinDim(d) => self.extreme_dim(&d.input, &d.out, d.axis, false),
            N::MaxAbs(d) => {
                if let Some(dx) = self.get(&d.input) {
                    let (size, sign) = (self.b.abs(&d.input), self.b.sign(&d.input));
                    let signed = self.b.mul(&dx, &sign);
                    self.set(&size, Some(signed));
                    self.extreme(&size, &d.out, true);
                }
            }
            N::MaxAbsDim(d) => {
                if let Some(dx) = self.get(&d.input) {
                    let (size, sign) = (self.b.abs(&d.input), self.b.sign(&d.input));
                    let signed = self.b.mul(&dx, &sign);
                    self.set(&size, Some(signed));
                    self.extreme_dim(&size, &d.out, d.axis, true);
                }
            }
            N::MaxDimWithIndices(d) | N::MinDimWithIndices(d) => {
                if let Some(dx) = self.get(&d.tensor) {
                    let out = self.b.gather(&dx, d.dim, &d.out_indices);
                    self.set(&d.out, Some(out));
                }
            }
            N::TopKWithIndices(d) => {
                if let Some(dx) = self.get(&d.tensor) {
                    let out = self.b.gather(&dx, d.dim, &d.out_indices);
                    self.set(&d.out, Some(out));
                }
            }
            N::TopK(d) => {
                if let Some(dx) = self.get(&d.input) {
                    let indices = self.b.tensor(d.out.shape.clone(), self.b.graph.int);
                    let desc = ReduceDimOpIr { out: indices.clone(), ..d.clone() };
                    self.b.push(wrap(N::ArgTopK(desc)));
                    let out = self.b.gather(&dx, d.axis, &indices);
                    self.set(&d.out, Some(out));
                }
            }
            N::SortWithIndices(d) => {
                if let Some(dx) = self.get(&d.input) {
                    let out = self.b.gather(&dx, d.dim, &d.out_indices);
                    self.set(&d.out, Some(out));
                }
            }
            N::Sort(d) => {
                if let Some(dx) = self.get(&d.input) {
                    let indices = self.b.tensor(d.out.shape.clone(), self.b.graph.int);
                    self.b.push(wrap(N::ArgSort(SortOpIr { out: indices.clone(), ..d.clone() })));
                    let out = self.b.gather(&dx, d.dim, &indices);
                    self.set(&d.out, Some(out));
                }
            }
            N::Clamp(d) => self.clamp(&d.tensor, &d.out),
            N::ClampMin(d) | N::ClampMax(d) => self.clamp(&d.lhs, &d.out),
            N::PowiScalar(d) => {
                let power: f64 = d.rhs.elem();
                if let Some(dx) = self.get(&d.lhs) {
                    let slope = match power {
                        0.0 => return true,
                        1.0 => return self.pass_on(&d.lhs, &d.out),
                        2.0 => self.b.mul_scalar(&d.lhs, 2.0),
                        _ => {
                            let lower = self.b.powi_scalar(&d.lhs, power - 1.0);
                            self.b.mul_scalar(&lower, power)
                        }
                    };
                    let out = self.b.mul(&dx, &slope);
                    self.set(&d.out, Some(out));
                }
            }
            N::Powi(_) => return false,
            N::Pad(d) => {
                let mode = match &d.mode {
                    PadModeIr::Constant(_) => PadModeIr::Constant(ScalarIr::Float(0.0)),
                    other => *other,
                };
                self.linear(&d.input, &d.out, |input, out| {
                    wrap(N::Pad(PadOpIr { input, out, mode, padding: d.padding.clone() }))
                });
            }
            // Piecewise constant, boolean or integer results.
            N::Sign(_) | N::Full(_) | N::IntRandom(_) => {}
            N::Greater(_) | N::GreaterElem(_) | N::GreaterEqual(_) | N::GreaterEqualElem(_) => {}
            N::Lower(_) | N::LowerElem(_) | N::LowerEqual(_) | N::LowerEqualElem(_) => {}
            N::ArgMax(_) | N::ArgMin(_) | N::ArgTopK(_) | N::ArgSort(_) => {}
            N::CumMin(_) | N::CumMax(_) => return false,
        }
        true
    }

    fn float(&mut self, dtype: DType, op: &FloatOperationIr) -> bool {
        use FloatOperationIr as F;
        match op {
            F::Matmul(d) => self.multilinear(&[&d.lhs, &d.rhs], &d.out, |position, tangent, out| {
                let (lhs, rhs) = replace2(position, tangent, &d.lhs, &d.rhs);
                OperationIr::Float(dtype, F::Matmul(MatmulOpIr { lhs, rhs, out }))
            }),
            F::Cross(d) => self.multilinear(&[&d.lhs, &d.rhs], &d.out, |position, tangent, out| {
                let (lhs, rhs) = replace2(position, tangent, &d.lhs, &d.rhs);
                OperationIr::Float(dtype, F::Cross(CrossOpIr { lhs, rhs, out, dim: d.dim }))
            }),
            F::Exp(d) => self.chain(&d.input, &d.out, |_| d.out.clone()),
            F::Log(d) => {
                if let Some(dx) = self.get(&d.input) {
                    let out = self.b.div(&dx, &d.input);
                    self.set(&d.out, Some(out));
                }
            }
            F::Log1p(d) => {
                if let Some(dx) = self.get(&d.input) {
                    let shifted = self.b.add_scalar(&d.input, 1.0);
                    let out = self.b.div(&dx, &shifted);
                    self.set(&d.out, Some(out));
                }
            }
            F::Erf(d) => self.chain(&d.input, &d.out, |b| {
                let square = b.square(&d.input);
                let negative = b.neg(&square);
                let bell = b.exp(&negative);
                b.mul_scalar(&bell, std::f64::consts::FRAC_2_SQRT_PI)
            }),
            F::PowfScalar(d) => {
                let power: f64 = d.rhs.elem();
                if power == 0.0 {
                    return true;
                }
                self.chain(&d.lhs, &d.out, |b| {
                    let lower = b.powf_scalar(&d.lhs, power - 1.0);
                    b.mul_scalar(&lower, power)
                });
            }
            F::Powf(d) => {
                // ẏ = r·l^(r−1)·l̇ + y·ln(l)·ṙ
                let l = self.get(&d.lhs).map(|dl| {
                    let exponent = self.b.add_scalar(&d.rhs, -1.0);
                    let lower = self.b.powf(&d.lhs, &exponent);
                    let slope = self.b.mul(&lower, &d.rhs);
                    self.b.mul(&slope, &dl)
                });
                let r = self.get(&d.rhs).map(|dr| {
                    let log = self.b.log(&d.lhs);
                    let slope = self.b.mul(&log, &d.out);
                    self.b.mul(&slope, &dr)
                });
                let out = self.plus(l, r);
                self.set(&d.out, out);
            }
            F::Sqrt(d) => {
                if let Some(dx) = self.get(&d.input) {
                    let half = self.b.mul_scalar(&dx, 0.5);
                    let out = self.b.div(&half, &d.out);
                    self.set(&d.out, Some(out));
                }
            }
            F::Cos(d) => self.chain(&d.input, &d.out, |b| {
                let sin = b.sin(&d.input);
                b.neg(&sin)
            }),
            F::Sin(d) => self.chain(&d.input, &d.out, |b| b.cos(&d.input)),
            F::Cosh(d) => self.chain(&d.input, &d.out, |b| b.sinh(&d.input)),
            F::Sinh(d) => self.chain(&d.input, &d.out, |b| b.cosh(&d.input)),
            F::Tan(d) => self.chain(&d.input, &d.out, |b| {
                let square = b.square(&d.out);
                b.add_scalar(&square, 1.0)
            }),
            F::Tanh(d) => self.chain(&d.input, &d.out, |b| {
                let square = b.square(&d.out);
                b.one_minus(&square)
            }),
            F::ArcSin(d) => self.inverse_root(&d.input, &d.out, -1.0, 1.0, 1.0),
            F::ArcCos(d) => self.inverse_root(&d.input, &d.out, -1.0, 1.0, -1.0),
            F::ArcSinh(d) => self.inverse_root(&d.input, &d.out, 1.0, 1.0, 1.0),
            F::ArcCosh(d) => self.inverse_root(&d.input, &d.out, 1.0, -1.0, 1.0),
            F::ArcTan(d) => self.chain(&d.input, &d.out, |b| {
                let square = b.square(&d.input);
                let shifted = b.add_scalar(&square, 1.0);
                b.recip(&shifted)
            }),
            F::ArcTanh(d) => self.chain(&d.input, &d.out, |b| {
                let square = b.square(&d.input);
                let rest = b.one_minus(&square);
                b.recip(&rest)
            }),
            F::ArcTan2(d) => {
                // y = atan2(l, r): ẏ = (r·l̇ − l·ṙ)/(l² + r²)
                let l = self.get(&d.lhs).map(|dl| self.b.mul(&dl, &d.rhs));
                let r = self.get(&d.rhs).map(|dr| {
                    let product = self.b.mul(&dr, &d.lhs);
                    self.b.neg(&product)
                });
                if let Some(top) = self.plus(l, r) {
                    let (a, b) = (self.b.square(&d.lhs), self.b.square(&d.rhs));
                    let bottom = self.b.add(&a, &b);
                    let out = self.b.div(&top, &bottom);
                    self.set(&d.out, Some(out));
                }
            }
            F::Hypot(d) => {
                let l = self.get(&d.lhs).map(|dl| self.b.mul(&dl, &d.lhs));
                let r = self.get(&d.rhs).map(|dr| self.b.mul(&dr, &d.rhs));
                if let Some(top) = self.plus(l, r) {
                    let out = self.b.div(&top, &d.out);
                    self.set(&d.out, Some(out));
                }
            }
            F::Recip(d) => self.chain(&d.input, &d.out, |b| {
                let square = b.square(&d.out);
                b.neg(&square)
            }),
            F::GridSample2d(d) => {
                if self.get(&d.grid).is_some() {
                    return false;
                }
                self.linear(&d.tensor, &d.out, |tensor, out| {
                    OperationIr::Float(dtype, F::GridSample2d(GridSample2dOpIr { tensor, out, ..d.clone() }))
                });
            }
            F::Round(_) | F::Floor(_) | F::Ceil(_) | F::Trunc(_) => {}
            F::IntoInt(_) | F::IsNan(_) | F::IsInf(_) | F::Random(_) => {}
            F::Quantize(_) | F::Dequantize(_) => return false,
        }
        true
    }

    fn activation(&mut self, op: &ActivationOperationIr) -> bool {
        use ActivationOperationIr as A;
        let wrap = OperationIr::Activation;
        match op {
            // The backward kernels are the derivative times their second argument, which is a tangent as well as a gradient.
            A::Relu(d) => {
                if let Some(dx) = self.get(&d.input) {
                    let out = self.b.relu_backward(&d.out, &dx);
                    self.set(&d.out, Some(out));
                }
            }
            A::ReluBackward(d) => {
                self.linear(&d.rhs, &d.out, |rhs, out| wrap(A::ReluBackward(BinaryOpIr { rhs, out, ..d.clone() })))
            }
            A::LeakyRelu(d) => {
                if let Some(dx) = self.get(&d.lhs) {
                    let mask = self.b.lower_elem(&d.lhs, 0.0);
                    let low = self.b.mul_scalar(&dx, d.rhs.elem());
                    let out = self.b.mask_where(&dx, &mask, &low);
                    self.set(&d.out, Some(out));
                }
            }
            A::PRelu(d) => {
                let mask = self.b.lower_elem(&d.lhs, 0.0);
                let dx = self.get_or_zeros(&d.lhs);
                let steep = self.b.mul(&dx, &d.rhs);
                let low = match self.get(&d.rhs) {
                    Some(da) => {
                        let moved = self.b.mul(&d.lhs, &da);
                        self.b.add(&steep, &moved)
                    }
                    None => steep,
                };
                let out = self.b.mask_where(&dx, &mask, &low);
                self.set(&d.out, Some(out));
            }
            // The slope alone, which a gradient through the same function shares.
            A::Gelu(d) => self.chain(&d.input, &d.out, |b| {
                let ones = b.full(&d.input.shape, d.input.dtype, 1.0);
                b.gelu_backward(&d.input, &ones)
            }),
            A::GeluBackward(d) => {
                // y = g·(Φ + xφ): ∂x = g·φ·(2 − x²)
                let g = self.get(&d.rhs).map(|dg| self.b.gelu_backward(&d.lhs, &dg));
                let x = self.get(&d.lhs).map(|dx| {
                    let square = self.b.square(&d.lhs);
                    let half = self.b.mul_scalar(&square, -0.5);
                    let bell = self.b.exp(&half);
                    let negative = self.b.neg(&square);
                    let two = self.b.add_scalar(&negative, 2.0);
                    let curve = self.b.mul(&bell, &two);
                    let curve = self.b.mul_scalar(&curve, 1.0 / (2.0 * std::f64::consts::PI).sqrt());
                    let scaled = self.b.mul(&curve, &d.rhs);
                    self.b.mul(&scaled, &dx)
                });
                let out = self.plus(g, x);
                self.set(&d.out, out);
            }
            A::Sigmoid(d) => {
                if let Some(dx) = self.get(&d.input) {
                    let out = self.b.sigmoid_backward(&d.out, &dx);
                    self.set(&d.out, Some(out));
                }
            }
            A::SigmoidBackward(d) => {
                // y = g·s·(1 − s) with s the sigmoid itself
                let g = self.get(&d.rhs).map(|dg| self.b.sigmoid_backward(&d.lhs, &dg));
                let s = self.get(&d.lhs).map(|ds| {
                    let double = self.b.mul_scalar(&d.lhs, -2.0);
                    let slope = self.b.add_scalar(&double, 1.0);
                    let scaled = self.b.mul(&slope, &d.rhs);
                    self.b.mul(&scaled, &ds)
                });
                let out = self.plus(g, s);
                self.set(&d.out, out);
            }
            A::HardSigmoid(d) => {
                if let Some(dx) = self.get(&d.tensor) {
                    let slope = self.b.mul_scalar(&dx, d.alpha.elem());
                    let low = self.b.lower_equal_elem(&d.out, 0.0);
                    let high = self.b.greater_equal_elem(&d.out, 1.0);
                    let out = self.b.mask_fill(&slope, &low, 0.0);
                    let out = self.b.mask_fill(&out, &high, 0.0);
                    self.set(&d.out, Some(out));
                }
            }
            A::LogSigmoid(d) => {
                if let Some(dx) = self.get(&d.input) {
                    let out = self.b.log_sigmoid_backward(&d.input, &dx);
                    self.set(&d.out, Some(out));
                }
            }
            A::LogSigmoidBackward(d) => {
                // y = g·σ(−x): ∂x = −g·σ(−x)·σ(x)
                let g = self.get(&d.rhs).map(|dg| self.b.log_sigmoid_backward(&d.lhs, &dg));
                let x = self.get(&d.lhs).map(|dx| {
                    let s = self.b.sigmoid(&d.lhs);
                    let slope = self.b.sigmoid_backward(&s, &dx);
                    let negative = self.b.neg(&slope);
                    self.b.mul(&negative, &d.rhs)
                });
                let out = self.plus(g, x);
                self.set(&d.out, out);
            }
            A::Softmax(d) => self.softmax(&d.input, &d.out, d.axis, 1.0),
            A::Softmin(d) => self.softmax(&d.input, &d.out, d.axis, -1.0),
            A::LogSoftmax(d) => {
                // ẏ = ẋ − Σ e^y ẋ
                if let Some(dx) = self.get(&d.input) {
                    let share = self.b.exp(&d.out);
                    let weighted = self.b.mul(&share, &dx);
                    let mean = self.b.sum_dim(&weighted, d.axis);
                    let out = self.b.sub(&dx, &mean);
                    self.set(&d.out, Some(out));
                }
            }
        }
        true
    }

    // One macro serves descriptions with further fields and those without.
    #[allow(clippy::needless_update)]
    fn module(&mut self, op: &ModuleOperationIr) -> bool {
        use ModuleOperationIr as M;
        let wrap = OperationIr::Module;
        /// Convolutions and linear layers: bilinear in input and weight, affine in the bias.
        macro_rules! affine {
            ($d:ident, $variant:ident, $desc:ident) => {{
                // The bias's tangent rides on the weight's term where there is one.
                let mut bias = $d.bias.as_ref().and_then(|bias| self.get(bias));
                let ride = if self.get(&$d.weight).is_some() { bias.take() } else { None };
                self.multilinear(&[&$d.x, &$d.weight], &$d.out, |position, tangent, out| {
                    let bias = if position == 1 { ride.clone() } else { None };
                    let (x, weight) = replace2(position, tangent, &$d.x, &$d.weight);
                    wrap(M::$variant($desc { x, weight, bias, out, ..$d.clone() }))
                });
                if let Some(bias) = bias {
                    let bias = self.channel_vector(&bias, &$d.out.shape, stringify!($variant) == "Linear");
                    let total = match self.get(&$d.out) {
                        Some(rest) => self.b.add(&rest, &bias),
                        None => self.b.expand(&bias, &$d.out.shape),
                    };
                    self.set(&$d.out, Some(total));
                }
            }};
        }
        /// Backward kernels: bilinear in two arguments; a third gives only the shape.
        macro_rules! bilinear {
            ($d:ident, $variant:ident, $desc:ident, $a:ident, $b:ident) => {
                self.multilinear(&[&$d.$a, &$d.$b], &$d.out, |position, tangent, out| {
                    let ($a, $b) = replace2(position, tangent, &$d.$a, &$d.$b);
                    wrap(M::$variant($desc { $a, $b, out, ..$d.clone() }))
                })
            };
        }
        macro_rules! linear_in {
            ($d:ident, $variant:ident, $desc:ident, $a:ident) => {
                self.linear(&$d.$a, &$d.out, |$a, out| wrap(M::$variant($desc { $a, out, ..$d.clone() })))
            };
        }
        match op {
            M::Linear(d) => affine!(d, Linear, LinearOpIr),
            M::Conv1d(d) => affine!(d, Conv1d, Conv1dOpIr),
            M::Conv2d(d) => affine!(d, Conv2d, Conv2dOpIr),
            M::Conv3d(d) => affine!(d, Conv3d, Conv3dOpIr),
            M::ConvTranspose1d(d) => affine!(d, ConvTranspose1d, ConvTranspose1dOpIr),
            M::ConvTranspose2d(d) => affine!(d, ConvTranspose2d, ConvTranspose2dOpIr),
            M::ConvTranspose3d(d) => affine!(d, ConvTranspose3d, ConvTranspose3dOpIr),
            M::LinearXBackward(d) => bilinear!(d, LinearXBackward, LinearXBackwardOpIr, weight, output_grad),
            M::LinearWeightBackward(d) => bilinear!(d, LinearWeightBackward, LinearWeightBackwardOpIr, x, output_grad),
            M::LinearBiasBackward(d) => linear_in!(d, LinearBiasBackward, LinearBiasBackwardOpIr, output_grad),
            M::Conv1dXBackward(d) => bilinear!(d, Conv1dXBackward, Conv1dXBackwardOpIr, weight, output_grad),
            M::Conv2dXBackward(d) => bilinear!(d, Conv2dXBackward, Conv2dXBackwardOpIr, weight, output_grad),
            M::Conv3dXBackward(d) => bilinear!(d, Conv3dXBackward, Conv3dXBackwardOpIr, weight, output_grad),
            M::Conv1dWeightBackward(d) => bilinear!(d, Conv1dWeightBackward, Conv1dWeightBackwardOpIr, x, output_grad),
            M::Conv2dWeightBackward(d) => bilinear!(d, Conv2dWeightBackward, Conv2dWeightBackwardOpIr, x, output_grad),
            M::Conv3dWeightBackward(d) => bilinear!(d, Conv3dWeightBackward, Conv3dWeightBackwardOpIr, x, output_grad),
            M::Conv1dBiasBackward(d) => linear_in!(d, Conv1dBiasBackward, Conv1dBiasBackwardOpIr, output_grad),
            M::Conv2dBiasBackward(d) => linear_in!(d, Conv2dBiasBackward, Conv2dBiasBackwardOpIr, output_grad),
            M::Conv3dBiasBackward(d) => linear_in!(d, Conv3dBiasBackward, Conv3dBiasBackwardOpIr, output_grad),
            M::ConvTranspose1dWeightBackward(d) => {
                bilinear!(d, ConvTranspose1dWeightBackward, ConvTranspose1dWeightBackwardOpIr, x, output_grad)
            }
            M::ConvTranspose2dWeightBackward(d) => {
                bilinear!(d, ConvTranspose2dWeightBackward, ConvTranspose2dWeightBackwardOpIr, x, output_grad)
            }
            M::ConvTranspose3dWeightBackward(d) => {
                bilinear!(d, ConvTranspose3dWeightBackward, ConvTranspose3dWeightBackwardOpIr, x, output_grad)
            }
            M::ConvTranspose1dBiasBackward(d) => {
                linear_in!(d, ConvTranspose1dBiasBackward, ConvTranspose1dBiasBackwardOpIr, output_grad)
            }
            M::ConvTranspose2dBiasBackward(d) => {
                linear_in!(d, ConvTranspose2dBiasBackward, ConvTranspose2dBiasBackwardOpIr, output_grad)
            }
            M::ConvTranspose3dBiasBackward(d) => {
                linear_in!(d, ConvTranspose3dBiasBackward, ConvTranspose3dBiasBackwardOpIr, output_grad)
            }
            M::Embedding(d) => linear_in!(d, Embedding, EmbeddingOpIr, weights),
            M::EmbeddingBackward(d) => linear_in!(d, EmbeddingBackward, EmbeddingBackwardOpIr, out_grad),
            M::AvgPool1d(d) => linear_in!(d, AvgPool1d, AvgPool1dOpIr, x),
            M::AvgPool2d(d) => linear_in!(d, AvgPool2d, AvgPool2dOpIr, x),
            M::AdaptiveAvgPool1d(d) => linear_in!(d, AdaptiveAvgPool1d, AdaptiveAvgPool1dOpIr, x),
            M::AdaptiveAvgPool2d(d) => linear_in!(d, AdaptiveAvgPool2d, AdaptiveAvgPool2dOpIr, x),
            M::AdaptiveAvgPool3d(d) => linear_in!(d, AdaptiveAvgPool3d, AdaptiveAvgPool3dOpIr, x),
            M::AvgPool1dBackward(d) => linear_in!(d, AvgPool1dBackward, AvgPool1dBackwardOpIr, grad),
            M::AvgPool2dBackward(d) => linear_in!(d, AvgPool2dBackward, AvgPool2dBackwardOpIr, grad),
            M::AdaptiveAvgPool1dBackward(d) => {
                linear_in!(d, AdaptiveAvgPool1dBackward, AdaptiveAvgPool1dBackwardOpIr, grad)
            }
            M::AdaptiveAvgPool2dBackward(d) => {
                linear_in!(d, AdaptiveAvgPool2dBackward, AdaptiveAvgPool2dBackwardOpIr, grad)
            }
            M::AdaptiveAvgPool3dBackward(d) => {
                linear_in!(d, AdaptiveAvgPool3dBackward, AdaptiveAvgPool3dBackwardOpIr, grad)
            }
            M::Interpolate(d) => linear_in!(d, Interpolate, InterpolateOpIr, x),
            M::InterpolateBackward(d) => linear_in!(d, InterpolateBackward, InterpolateBackwardOpIr, grad),
            M::Unfold4d(d) => linear_in!(d, Unfold4d, Unfold4dOpIr, x),
            // A maximum moves with the element it picked: gather the tangent at the recorded indices.
            M::MaxPool1dWithIndices(d) => self.pooled(&d.x, &d.out, &d.out_indices, 2),
            M::MaxPool2dWithIndices(d) => self.pooled(&d.x, &d.out, &d.out_indices, 2),
            M::MaxPool1d(d) => {
                let indices = self.b.tensor(d.out.shape.clone(), self.b.graph.int);
                let copy = self.b.like(&d.out);
                self.b.push(wrap(M::MaxPool1dWithIndices(MaxPool1dWithIndicesOpIr {
                    x: d.x.clone(),
                    kernel_size: d.kernel_size,
                    stride: d.stride,
                    padding: d.padding,
                    dilation: d.dilation,
                    ceil_mode: d.ceil_mode,
                    out: copy,
                    out_indices: indices.clone(),
                })));
                self.pooled(&d.x, &d.out, &indices, 2);
            }
            M::MaxPool2d(d) => {
                let indices = self.b.tensor(d.out.shape.clone(), self.b.graph.int);
                let copy = self.b.like(&d.out);
                self.b.push(wrap(M::MaxPool2dWithIndices(MaxPool2dWithIndicesOpIr {
                    x: d.x.clone(),
                    kernel_size: d.kernel_size,
                    stride: d.stride,
                    padding: d.padding,
                    dilation: d.dilation,
                    ceil_mode: d.ceil_mode,
                    out: copy,
                    out_indices: indices.clone(),
                })));
                self.pooled(&d.x, &d.out, &indices, 2);
            }
            M::MaxPool1dWithIndicesBackward(d) => {
                linear_in!(d, MaxPool1dWithIndicesBackward, MaxPool1dWithIndicesBackwardOpIr, grad)
            }
            M::MaxPool2dWithIndicesBackward(d) => {
                linear_in!(d, MaxPool2dWithIndicesBackward, MaxPool2dWithIndicesBackwardOpIr, grad)
            }
            M::BatchNorm(d) => self.batch_norm(d),
            M::LayerNorm(_) | M::Attention(_) => return false,
            M::DeformableConv2d(_) | M::DeformableConv2dBackward(_) => return false,
            M::CtcLoss(_) | M::CtcLossBackward(_) => return false,
        }
        true
    }

    /// `y = γ·(x − μ)·r + β` with `r = 1/√(σ² + ε)`, statistics along axis 1:
    /// `ẏ = γr·(ẋ − μ̇) + (γ̇ − γ·r²·σ̇²/2)·(x − μ)·r + β̇`.
    fn batch_norm(&mut self, d: &BatchNormOpIr) {
        let shape = &d.out.shape;
        let channels = |pass: &mut Self, tensor: &T| pass.channel_vector(tensor, shape, false);
        let tangent = |pass: &mut Self, tensor: &T| {
            let tangent = pass.get(tensor)?;
            Some(pass.channel_vector(&tangent, shape, false))
        };
        let variance = channels(self, &d.variance);
        let shifted = self.b.add_scalar(&variance, d.epsilon.elem());
        let root = self.b.sqrt(&shifted);
        let r = self.b.recip(&root);
        let gamma = channels(self, &d.gamma);
        let scale = self.b.mul(&gamma, &r);

        let mean = tangent(self, &d.mean).map(|dm| self.b.neg(&dm));
        let x = self.get(&d.x);
        let moved = self.plus(x, mean).map(|moved| self.b.mul(&moved, &scale));
        let by_variance = tangent(self, &d.variance).map(|dv| {
            let square = self.b.square(&r);
            let slope = self.b.mul(&gamma, &square);
            let slope = self.b.mul_scalar(&slope, -0.5);
            self.b.mul(&slope, &dv)
        });
        let dgamma = tangent(self, &d.gamma);
        let stretched = self.plus(dgamma, by_variance).map(|slope| {
            let mean = channels(self, &d.mean);
            let centred = self.b.sub(&d.x, &mean);
            let factor = self.b.mul(&slope, &r);
            self.b.mul(&centred, &factor)
        });
        let dbeta = tangent(self, &d.beta);
        let total = self.plus(moved, stretched);
        let total = self.plus(total, dbeta).map(|total| self.b.expand(&total, shape));
        self.set(&d.out, total);
    }

    fn pass_on(&mut self, input: &T, out: &T) -> bool {
        let tangent = self.get(input);
        self.set(out, tangent);
        true
    }

    /// A bias of shape `[channels]` shaped to broadcast against the output: last axis for linear, axis 1 otherwise.
    fn channel_vector(&mut self, bias: &T, out: &Shape, last: bool) -> T {
        let rank = out.num_dims();
        let mut shape = vec![1; rank];
        shape[if last { rank - 1 } else { 1 }] = bias.shape.num_elements();
        self.b.reshape(bias, &Shape::from(shape))
    }

    fn clamp(&mut self, input: &T, out: &T) {
        if let Some(dx) = self.get(input) {
            let clipped = self.b.not_equal(input, out);
            let tangent = self.b.mask_fill(&dx, &clipped, 0.0);
            self.set(out, Some(tangent));
        }
    }

    fn extreme(&mut self, input: &T, out: &T, largest: bool) {
        if let Some(dx) = self.get(input) {
            let flat = Shape::new([input.shape.num_elements()]);
            let (x, dx) = (self.b.reshape(input, &flat), self.b.reshape(&dx, &flat));
            let position = self.b.arg_extreme(&x, 0, largest);
            let picked = self.b.gather(&dx, 0, &position);
            let picked = self.b.reshape(&picked, &out.shape);
            self.set(out, Some(picked));
        }
    }

    fn extreme_dim(&mut self, input: &T, out: &T, axis: usize, largest: bool) {
        if let Some(dx) = self.get(input) {
            let position = self.b.arg_extreme(input, axis, largest);
            let picked = self.b.gather(&dx, axis, &position);
            self.set(out, Some(picked));
        }
    }

    fn softmax(&mut self, input: &T, out: &T, axis: usize, sign: f64) {
        // ẏ = ±y·(ẋ − Σ y·ẋ)
        if let Some(dx) = self.get(input) {
            let weighted = self.b.mul(out, &dx);
            let mean = self.b.sum_dim(&weighted, axis);
            let product = self.b.mul(out, &mean);
            let tangent = if sign > 0.0 { self.b.sub(&weighted, &product) } else { self.b.sub(&product, &weighted) };
            self.set(out, Some(tangent));
        }
    }

    /// `ẏ = sign·ẋ/√(scale·x² + shift)`
    fn inverse_root(&mut self, input: &T, out: &T, scale: f64, shift: f64, sign: f64) {
        if let Some(dx) = self.get(input) {
            let square = self.b.square(input);
            let scaled = if scale == 1.0 { square } else { self.b.mul_scalar(&square, scale) };
            let shifted = self.b.add_scalar(&scaled, shift);
            let root = self.b.sqrt(&shifted);
            let quotient = self.b.div(&dx, &root);
            let tangent = if sign < 0.0 { self.b.neg(&quotient) } else { quotient };
            self.set(out, Some(tangent));
        }
    }

    /// Gathers a tangent at pooling indices, which count within the flattened axes from `leading` on.
    fn pooled(&mut self, input: &T, out: &T, indices: &T, leading: usize) {
        if let Some(dx) = self.get(input) {
            let flat = |shape: &Shape| {
                let dims: Vec<usize> = (0..shape.num_dims()).map(|axis| shape[axis]).collect();
                let mut flat = dims[..leading].to_vec();
                flat.push(dims[leading..].iter().product());
                Shape::from(flat)
            };
            let flat_dx = self.b.reshape(&dx, &flat(&input.shape));
            let flat_indices = self.b.reshape(indices, &flat(&out.shape));
            let picked = self.b.gather(&flat_dx, leading, &flat_indices);
            let tangent = self.b.reshape(&picked, &out.shape);
            self.set(out, Some(tangent));
        }
    }
}

impl Builder {
    /// Zero where the mask holds, after broadcasting to the mask's shape.
    fn mask_fill_expanded(&mut self, tensor: &T, mask: &T, shape: &Shape) -> T {
        let tensor = self.expand(tensor, shape);
        self.mask_fill(&tensor, mask, 0.0)
    }
}

fn replace2(position: usize, tangent: T, a: &T, b: &T) -> (T, T) {
    if position == 0 { (tangent, b.clone()) } else { (a.clone(), tangent) }
}

fn linear_update(update: IndexingUpdateOp) -> bool {
    matches!(update, IndexingUpdateOp::Add | IndexingUpdateOp::Assign)
}
