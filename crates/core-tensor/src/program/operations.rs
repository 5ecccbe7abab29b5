//! Executing one operation on whatever device its inputs live on.
//!
//! A direct translation from Burn's operation descriptions to the rank-free functions of [`Dispatch`]. Boolean
//! storage follows the executing device's default.

use std::sync::{Mutex, MutexGuard};

use burn::backend::ir::*;
use burn::backend::ops::{ActivationOps, BoolTensorOps, FloatTensorOps, IntTensorOps, ModuleOps, UnfoldOptions};
use burn::backend::{Dispatch as B, DispatchDevice, DispatchTensor};
use burn::tensor::{BoolDType, Scalar};

use super::autocast;
use super::graph::index;
use crate::kernels::{conv, elementary, pool};

/// The values of a graph's tensors while it runs, on any number of threads.
pub(crate) struct Values<'a> {
    slots: Vec<Mutex<Slot>>,
    pub device: &'a DispatchDevice,
    pub bool: BoolDType,
}

struct Slot {
    value: Option<DispatchTensor>,
    /// How often the value will still be read.
    readers: usize,
}

impl<'a> Values<'a> {
    /// No values yet, for tensors that are read so many times.
    pub fn new(readers: &[usize], device: &'a DispatchDevice, bool: BoolDType) -> Self {
        let slots = readers.iter().map(|readers| Mutex::new(Slot { value: None, readers: *readers })).collect();
        Values { slots, device, bool }
    }

    /// The value of a tensor: handed over at its last reading, so that backends can work in place, else shared.
    pub fn get(&self, tensor: &TensorIr) -> DispatchTensor {
        let mut slot = self.slot(tensor);
        slot.readers -= 1;
        match slot.readers {
            0 => slot.value.take(),
            _ => slot.value.clone(),
        }
        .expect("a tensor is computed before it is read")
    }

    /// Keeps a value that will be read.
    pub fn set(&self, tensor: &TensorIr, value: DispatchTensor) {
        let mut slot = self.slot(tensor);
        if slot.readers > 0 {
            slot.value = Some(value);
        }
    }

    /// Every value that is still kept, by position.
    pub fn into_all(self) -> Vec<Option<DispatchTensor>> {
        self.slots
            .into_iter()
            .map(|slot| slot.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()).value)
            .collect()
    }

    fn slot(&self, tensor: &TensorIr) -> MutexGuard<'_, Slot> {
        self.slots[index(tensor)].lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

macro_rules! run {
    // out = f(inputs…)
    ($v:ident, $d:ident, $f:path, [$($arg:ident),*] $(, $extra:expr)*) => {{
        $( let $arg = $v.get(&$d.$arg); )*
        let out = $f($($arg,)* $($extra),*);
        $v.set(&$d.out, out);
    }};
}

/// As `run!` for a function that has a kernel of its own on the host.
macro_rules! elementary {
    ($v:ident, $d:ident, $own:path, $burn:path) => {{
        let input = $v.get(&$d.input);
        let out = elementary::unary(input, $own, $burn);
        $v.set(&$d.out, out);
    }};
}

macro_rules! compare {
    ($v:ident, $d:ident, $f:path) => {{
        let (lhs, rhs) = ($v.get(&$d.lhs), $v.get(&$d.rhs));
        let out = $f(lhs, rhs, $v.bool);
        $v.set(&$d.out, out);
    }};
}

macro_rules! scalar {
    ($v:ident, $d:ident, $f:path $(, $extra:expr)*) => {{
        let lhs = $v.get(&$d.lhs);
        let out = $f(lhs, Scalar::from($d.rhs) $(, $extra)*);
        $v.set(&$d.out, out);
    }};
}

/// Executes `operation`, reading and writing `values`. `false` where no backend executes such an operation.
pub(crate) fn execute(operation: &OperationIr, v: &Values<'_>) -> bool {
    match operation {
        OperationIr::BaseFloat(op) => base_float(op, v),
        OperationIr::BaseInt(op) => base_int(op, v),
        OperationIr::BaseBool(op) => base_bool(op, v),
        OperationIr::NumericFloat(_, op) => numeric_float(op, v),
        OperationIr::NumericInt(_, op) => numeric_int(op, v),
        OperationIr::Bool(op) => boolean(op, v),
        OperationIr::Int(op) => integer(op, v),
        OperationIr::Float(_, op) => float(op, v),
        OperationIr::Module(op) => module(op, v),
        OperationIr::Activation(op) => activation(op, v),
        OperationIr::Custom(op) => autocast::execute(op, v),
        OperationIr::Init(_) | OperationIr::Drop(_) | OperationIr::Distributed(_) => false,
    }
}

fn base_float(op: &BaseOperationIr, v: &Values<'_>) -> bool {
    use BaseOperationIr as O;
    match op {
        O::Reshape(d) => run!(v, d, B::float_reshape, [input], d.out.shape.clone()),
        O::SwapDims(d) => run!(v, d, B::float_swap_dims, [input], d.dim1, d.dim2),
        O::Permute(d) => run!(v, d, B::float_permute, [input], &d.axes),
        O::Flip(d) => run!(v, d, B::float_flip, [input], &d.axes),
        O::Expand(d) => run!(v, d, B::float_expand, [input], d.out.shape.clone()),
        O::Unfold(d) => run!(v, d, B::float_unfold, [input], d.dim, d.size, d.step),
        O::Slice(d) => run!(v, d, B::float_slice, [tensor], &d.ranges),
        O::SliceAssign(d) => {
            let (tensor, value) = (v.get(&d.tensor), v.get(&d.value));
            v.set(&d.out, B::float_slice_assign(tensor, &d.ranges, value));
        }
        O::Select(d) => {
            let (tensor, indices) = (v.get(&d.tensor), v.get(&d.indices));
            v.set(&d.out, B::float_select(tensor, d.dim, indices));
        }
        O::SelectAssign(d) => {
            let (tensor, indices, value) = (v.get(&d.tensor), v.get(&d.indices), v.get(&d.value));
            v.set(&d.out, B::float_select_assign(tensor, d.dim, indices, value, d.update));
        }
        O::MaskWhere(d) => run!(v, d, B::float_mask_where, [tensor, mask, value]),
        O::MaskFill(d) => run!(v, d, B::float_mask_fill, [tensor, mask], Scalar::from(d.value)),
        O::Gather(d) => {
            let (tensor, indices) = (v.get(&d.tensor), v.get(&d.indices));
            let last = d.dim + 1 == d.tensor.shape.num_dims();
            let own = if last { pool::gather_last(&tensor, &indices) } else { None };
            v.set(&d.out, own.unwrap_or_else(|| B::float_gather(d.dim, tensor, indices)));
        }
        O::Scatter(d) => {
            let (tensor, indices, value) = (v.get(&d.tensor), v.get(&d.indices), v.get(&d.value));
            v.set(&d.out, B::float_scatter(d.dim, tensor, indices, value, d.update));
        }
        O::ScatterNd(d) => run!(v, d, B::float_scatter_nd, [data, indices, values], d.reduction),
        O::GatherNd(d) => run!(v, d, B::float_gather_nd, [data, indices]),
        O::Equal(d) => compare!(v, d, B::float_equal),
        O::NotEqual(d) => compare!(v, d, B::float_not_equal),
        O::EqualElem(d) => scalar!(v, d, B::float_equal_elem, v.bool),
        O::NotEqualElem(d) => scalar!(v, d, B::float_not_equal_elem, v.bool),
        O::RepeatDim(d) => run!(v, d, B::float_repeat_dim, [tensor], d.dim, d.times),
        O::Cat(d) => {
            let tensors = d.tensors.iter().map(|t| v.get(t)).collect();
            v.set(&d.out, B::float_cat(tensors, d.dim));
        }
        O::Cast(d) => run!(v, d, B::float_cast, [input], d.out.dtype.into()),
        O::Empty(d) => v.set(&d.out, B::float_empty(d.out.shape.clone(), v.device, d.out.dtype.into())),
        O::Ones(d) => v.set(&d.out, B::float_ones(d.out.shape.clone(), v.device, d.out.dtype.into())),
        O::Zeros(d) => v.set(&d.out, B::float_zeros(d.out.shape.clone(), v.device, d.out.dtype.into())),
        O::All(d) => run!(v, d, B::float_all, [input], v.bool),
        O::Any(d) => run!(v, d, B::float_any, [input], v.bool),
        O::AllDim(d) => run!(v, d, B::float_all_dim, [input], d.axis, v.bool),
        O::AnyDim(d) => run!(v, d, B::float_any_dim, [input], d.axis, v.bool),
    }
    true
}

fn base_int(op: &BaseOperationIr, v: &Values<'_>) -> bool {
    use BaseOperationIr as O;
    match op {
        O::Reshape(d) => run!(v, d, B::int_reshape, [input], d.out.shape.clone()),
        O::SwapDims(d) => run!(v, d, B::int_swap_dims, [input], d.dim1, d.dim2),
        O::Permute(d) => run!(v, d, B::int_permute, [input], &d.axes),
        O::Flip(d) => run!(v, d, B::int_flip, [input], &d.axes),
        O::Expand(d) => run!(v, d, B::int_expand, [input], d.out.shape.clone()),
        O::Unfold(d) => run!(v, d, B::int_unfold, [input], d.dim, d.size, d.step),
        O::Slice(d) => run!(v, d, B::int_slice, [tensor], &d.ranges),
        O::SliceAssign(d) => {
            let (tensor, value) = (v.get(&d.tensor), v.get(&d.value));
            v.set(&d.out, B::int_slice_assign(tensor, &d.ranges, value));
        }
        O::Select(d) => {
            let (tensor, indices) = (v.get(&d.tensor), v.get(&d.indices));
            v.set(&d.out, B::int_select(tensor, d.dim, indices));
        }
        O::SelectAssign(d) => {
            let (tensor, indices, value) = (v.get(&d.tensor), v.get(&d.indices), v.get(&d.value));
            v.set(&d.out, B::int_select_assign(tensor, d.dim, indices, value, d.update));
        }
        O::MaskWhere(d) => run!(v, d, B::int_mask_where, [tensor, mask, value]),
        O::MaskFill(d) => run!(v, d, B::int_mask_fill, [tensor, mask], Scalar::from(d.value)),
        O::Gather(d) => {
            let (tensor, indices) = (v.get(&d.tensor), v.get(&d.indices));
            v.set(&d.out, B::int_gather(d.dim, tensor, indices));
        }
        O::Scatter(d) => {
            let (tensor, indices, value) = (v.get(&d.tensor), v.get(&d.indices), v.get(&d.value));
            v.set(&d.out, B::int_scatter(d.dim, tensor, indices, value, d.update));
        }
        O::ScatterNd(d) => run!(v, d, B::int_scatter_nd, [data, indices, values], d.reduction),
        O::GatherNd(d) => run!(v, d, B::int_gather_nd, [data, indices]),
        O::Equal(d) => compare!(v, d, B::int_equal),
        O::NotEqual(d) => compare!(v, d, B::int_not_equal),
        O::EqualElem(d) => scalar!(v, d, B::int_equal_elem, v.bool),
        O::NotEqualElem(d) => scalar!(v, d, B::int_not_equal_elem, v.bool),
        O::RepeatDim(d) => run!(v, d, B::int_repeat_dim, [tensor], d.dim, d.times),
        O::Cat(d) => {
            let tensors = d.tensors.iter().map(|t| v.get(t)).collect();
            v.set(&d.out, B::int_cat(tensors, d.dim));
        }
        O::Cast(d) => run!(v, d, B::int_cast, [input], d.out.dtype.into()),
        O::Empty(d) => v.set(&d.out, B::int_empty(d.out.shape.clone(), v.device, d.out.dtype.into())),
        O::Ones(d) => v.set(&d.out, B::int_ones(d.out.shape.clone(), v.device, d.out.dtype.into())),
        O::Zeros(d) => v.set(&d.out, B::int_zeros(d.out.shape.clone(), v.device, d.out.dtype.into())),
        O::All(d) => run!(v, d, B::int_all, [input], v.bool),
        O::Any(d) => run!(v, d, B::int_any, [input], v.bool),
        O::AllDim(d) => run!(v, d, B::int_all_dim, [input], d.axis, v.bool),
        O::AnyDim(d) => run!(v, d, B::int_any_dim, [input], d.axis, v.bool),
    }
    true
}

fn base_bool(op: &BaseOperationIr, v: &Values<'_>) -> bool {
    use BaseOperationIr as O;
    match op {
        O::Reshape(d) => run!(v, d, B::bool_reshape, [input], d.out.shape.clone()),
        O::SwapDims(d) => run!(v, d, B::bool_swap_dims, [input], d.dim1, d.dim2),
        O::Permute(d) => run!(v, d, B::bool_permute, [input], &d.axes),
        O::Flip(d) => run!(v, d, B::bool_flip, [input], &d.axes),
        O::Expand(d) => run!(v, d, B::bool_expand, [input], d.out.shape.clone()),
        O::Unfold(d) => run!(v, d, B::bool_unfold, [input], d.dim, d.size, d.step),
        O::Slice(d) => run!(v, d, B::bool_slice, [tensor], &d.ranges),
        O::SliceAssign(d) => {
            let (tensor, value) = (v.get(&d.tensor), v.get(&d.value));
            v.set(&d.out, B::bool_slice_assign(tensor, &d.ranges, value));
        }
        O::Select(d) => {
            let (tensor, indices) = (v.get(&d.tensor), v.get(&d.indices));
            v.set(&d.out, B::bool_select(tensor, d.dim, indices));
        }
        O::SelectAssign(d) => {
            let (tensor, indices, value) = (v.get(&d.tensor), v.get(&d.indices), v.get(&d.value));
            v.set(&d.out, B::bool_select_or(tensor, d.dim, indices, value));
        }
        O::MaskWhere(d) => run!(v, d, B::bool_mask_where, [tensor, mask, value]),
        O::MaskFill(d) => run!(v, d, B::bool_mask_fill, [tensor, mask], Scalar::from(d.value)),
        O::Gather(d) => {
            let (tensor, indices) = (v.get(&d.tensor), v.get(&d.indices));
            v.set(&d.out, B::bool_gather(d.dim, tensor, indices));
        }
        O::Scatter(d) => {
            let (tensor, indices, value) = (v.get(&d.tensor), v.get(&d.indices), v.get(&d.value));
            v.set(&d.out, B::bool_scatter_or(d.dim, tensor, indices, value));
        }
        O::Equal(d) => run!(v, d, B::bool_equal, [lhs, rhs]),
        O::NotEqual(d) => run!(v, d, B::bool_not_equal, [lhs, rhs]),
        O::EqualElem(d) => scalar!(v, d, B::bool_equal_elem),
        O::NotEqualElem(d) => scalar!(v, d, B::bool_not_equal_elem),
        O::RepeatDim(d) => run!(v, d, B::bool_repeat_dim, [tensor], d.dim, d.times),
        O::Cat(d) => {
            let tensors = d.tensors.iter().map(|t| v.get(t)).collect();
            v.set(&d.out, B::bool_cat(tensors, d.dim));
        }
        O::Cast(d) => {
            let input = v.get(&d.input);
            v.set(&d.out, input);
        }
        O::Empty(d) => v.set(&d.out, B::bool_empty(d.out.shape.clone(), v.device, v.bool)),
        O::Ones(d) => v.set(&d.out, B::bool_ones(d.out.shape.clone(), v.device, v.bool)),
        O::Zeros(d) => v.set(&d.out, B::bool_zeros(d.out.shape.clone(), v.device, v.bool)),
        O::All(d) => run!(v, d, B::bool_all, [input]),
        O::Any(d) => run!(v, d, B::bool_any, [input]),
        O::AllDim(d) => run!(v, d, B::bool_all_dim, [input], d.axis),
        O::AnyDim(d) => run!(v, d, B::bool_any_dim, [input], d.axis),
        O::ScatterNd(_) | O::GatherNd(_) => return false,
    }
    true
}

fn numeric_float(op: &NumericOperationIr, v: &Values<'_>) -> bool {
    use NumericOperationIr as O;
    match op {
        O::Add(d) => run!(v, d, B::float_add, [lhs, rhs]),
        O::Sub(d) => run!(v, d, B::float_sub, [lhs, rhs]),
        O::Mul(d) => run!(v, d, B::float_mul, [lhs, rhs]),
        O::Div(d) => run!(v, d, B::float_div, [lhs, rhs]),
        O::Rem(d) => run!(v, d, B::float_remainder, [lhs, rhs]),
        O::AddScalar(d) => scalar!(v, d, B::float_add_scalar),
        O::SubScalar(d) => scalar!(v, d, B::float_sub_scalar),
        O::MulScalar(d) => scalar!(v, d, B::float_mul_scalar),
        O::DivScalar(d) => scalar!(v, d, B::float_div_scalar),
        O::RemScalar(d) => scalar!(v, d, B::float_remainder_scalar),
        O::Abs(d) => run!(v, d, B::float_abs, [input]),
        O::Neg(d) => run!(v, d, B::float_neg, [input]),
        O::Sign(d) => run!(v, d, B::float_sign, [input]),
        O::Full(d) => {
            let dtype = d.out.dtype.into();
            v.set(&d.out, B::float_full(d.out.shape.clone(), Scalar::from(d.value), v.device, dtype));
        }
        O::Mean(d) => run!(v, d, B::float_mean, [input]),
        O::Sum(d) => run!(v, d, B::float_sum, [input]),
        O::Prod(d) => run!(v, d, B::float_prod, [input]),
        O::MeanDim(d) => run!(v, d, B::float_mean_dim, [input], d.axis),
        O::SumDim(d) => run!(v, d, B::float_sum_dim, [input], d.axis),
        O::ProdDim(d) => run!(v, d, B::float_prod_dim, [input], d.axis),
        O::SumDims(d) => run!(v, d, B::float_sum_dims, [input], &d.axes),
        O::Greater(d) => compare!(v, d, B::float_greater),
        O::GreaterEqual(d) => compare!(v, d, B::float_greater_equal),
        O::Lower(d) => compare!(v, d, B::float_lower),
        O::LowerEqual(d) => compare!(v, d, B::float_lower_equal),
        O::GreaterElem(d) => scalar!(v, d, B::float_greater_elem, v.bool),
        O::GreaterEqualElem(d) => scalar!(v, d, B::float_greater_equal_elem, v.bool),
        O::LowerElem(d) => scalar!(v, d, B::float_lower_elem, v.bool),
        O::LowerEqualElem(d) => scalar!(v, d, B::float_lower_equal_elem, v.bool),
        O::ArgMax(d) => run!(v, d, B::float_argmax, [input], d.axis, d.out.dtype.into()),
        O::ArgMin(d) => run!(v, d, B::float_argmin, [input], d.axis, d.out.dtype.into()),
        O::ArgTopK(d) => {
            run!(v, d, B::float_argtopk, [input], d.axis, d.accumulator_len, d.out.dtype.into())
        }
        O::TopK(d) => run!(v, d, B::float_topk, [input], d.axis, d.accumulator_len),
        O::TopKWithIndices(d) => {
            let tensor = v.get(&d.tensor);
            let (out, indices) = B::float_topk_with_indices(tensor, d.dim, d.k, d.out_indices.dtype.into());
            v.set(&d.out, out);
            v.set(&d.out_indices, indices);
        }
        O::Max(d) => run!(v, d, B::float_max, [input]),
        O::Min(d) => run!(v, d, B::float_min, [input]),
        O::MaxDim(d) => run!(v, d, B::float_max_dim, [input], d.axis),
        O::MinDim(d) => run!(v, d, B::float_min_dim, [input], d.axis),
        O::MaxAbs(d) => run!(v, d, B::float_max_abs, [input]),
        O::MaxAbsDim(d) => run!(v, d, B::float_max_abs_dim, [input], d.axis),
        O::MaxDimWithIndices(d) => {
            let tensor = v.get(&d.tensor);
            let (out, indices) = B::float_max_dim_with_indices(tensor, d.dim, d.out_indices.dtype.into());
            v.set(&d.out, out);
            v.set(&d.out_indices, indices);
        }
        O::MinDimWithIndices(d) => {
            let tensor = v.get(&d.tensor);
            let (out, indices) = B::float_min_dim_with_indices(tensor, d.dim, d.out_indices.dtype.into());
            v.set(&d.out, out);
            v.set(&d.out_indices, indices);
        }
        O::Clamp(d) => run!(v, d, B::float_clamp, [tensor], Scalar::from(d.min), Scalar::from(d.max)),
        O::ClampMin(d) => scalar!(v, d, B::float_clamp_min),
        O::ClampMax(d) => scalar!(v, d, B::float_clamp_max),
        O::Powi(d) => run!(v, d, B::float_powi, [lhs, rhs]),
        O::PowiScalar(d) => {
            // The exponent of an integer power is an integer whatever the description holds.
            let lhs = v.get(&d.lhs);
            let power: f64 = d.rhs.elem();
            v.set(&d.out, B::float_powi_scalar(lhs, Scalar::Int(power as i64)));
        }
        O::CumSum(d) => run!(v, d, B::float_cumsum, [input], d.axis),
        O::CumProd(d) => run!(v, d, B::float_cumprod, [input], d.axis),
        O::CumMin(d) => run!(v, d, B::float_cummin, [input], d.axis),
        O::CumMax(d) => run!(v, d, B::float_cummax, [input], d.axis),
        O::Sort(d) => run!(v, d, B::float_sort, [input], d.dim, d.descending),
        O::ArgSort(d) => run!(v, d, B::float_argsort, [input], d.dim, d.descending, d.out.dtype.into()),
        O::SortWithIndices(d) => {
            let input = v.get(&d.input);
            let dtype = d.out_indices.dtype.into();
            let (out, indices) = B::float_sort_with_indices(input, d.dim, d.descending, dtype);
            v.set(&d.out, out);
            v.set(&d.out_indices, indices);
        }
        O::Pad(d) => run!(v, d, B::float_pad, [input], &d.padding, d.mode.into()),
        O::IntRandom(_) => return false,
    }
    true
}

fn numeric_int(op: &NumericOperationIr, v: &Values<'_>) -> bool {
    use NumericOperationIr as O;
    match op {
        O::Add(d) => run!(v, d, B::int_add, [lhs, rhs]),
        O::Sub(d) => run!(v, d, B::int_sub, [lhs, rhs]),
        O::Mul(d) => run!(v, d, B::int_mul, [lhs, rhs]),
        O::Div(d) => run!(v, d, B::int_div, [lhs, rhs]),
        O::Rem(d) => run!(v, d, B::int_remainder, [lhs, rhs]),
        O::AddScalar(d) => scalar!(v, d, B::int_add_scalar),
        O::SubScalar(d) => scalar!(v, d, B::int_sub_scalar),
        O::MulScalar(d) => scalar!(v, d, B::int_mul_scalar),
        O::DivScalar(d) => scalar!(v, d, B::int_div_scalar),
        O::RemScalar(d) => scalar!(v, d, B::int_remainder_scalar),
        O::Abs(d) => run!(v, d, B::int_abs, [input]),
        O::Neg(d) => run!(v, d, B::int_neg, [input]),
        O::Sign(d) => run!(v, d, B::int_sign, [input]),
        O::Full(d) => {
            let dtype = d.out.dtype.into();
            v.set(&d.out, B::int_full(d.out.shape.clone(), Scalar::from(d.value), v.device, dtype));
        }
        O::Mean(d) => run!(v, d, B::int_mean, [input]),
        O::Sum(d) => run!(v, d, B::int_sum, [input]),
        O::Prod(d) => run!(v, d, B::int_prod, [input]),
        O::MeanDim(d) => run!(v, d, B::int_mean_dim, [input], d.axis),
        O::SumDim(d) => run!(v, d, B::int_sum_dim, [input], d.axis),
        O::ProdDim(d) => run!(v, d, B::int_prod_dim, [input], d.axis),
        O::SumDims(d) => {
            let mut out = v.get(&d.input);
            for axis in &d.axes {
                out = B::int_sum_dim(out, *axis);
            }
            v.set(&d.out, out);
        }
        O::Greater(d) => compare!(v, d, B::int_greater),
        O::GreaterEqual(d) => compare!(v, d, B::int_greater_equal),
        O::Lower(d) => compare!(v, d, B::int_lower),
        O::LowerEqual(d) => compare!(v, d, B::int_lower_equal),
        O::GreaterElem(d) => scalar!(v, d, B::int_greater_elem, v.bool),
        O::GreaterEqualElem(d) => scalar!(v, d, B::int_greater_equal_elem, v.bool),
        O::LowerElem(d) => scalar!(v, d, B::int_lower_elem, v.bool),
        O::LowerEqualElem(d) => scalar!(v, d, B::int_lower_equal_elem, v.bool),
        O::ArgMax(d) => run!(v, d, B::int_argmax, [input], d.axis),
        O::ArgMin(d) => run!(v, d, B::int_argmin, [input], d.axis),
        O::ArgTopK(d) => run!(v, d, B::int_argtopk, [input], d.axis, d.accumulator_len),
        O::TopK(d) => run!(v, d, B::int_topk, [input], d.axis, d.accumulator_len),
        O::TopKWithIndices(d) => {
            let tensor = v.get(&d.tensor);
            let (out, indices) = B::int_topk_with_indices(tensor, d.dim, d.k);
            v.set(&d.out, out);
            v.set(&d.out_indices, indices);
        }
        O::Max(d) => run!(v, d, B::int_max, [input]),
        O::Min(d) => run!(v, d, B::int_min, [input]),
        O::MaxDim(d) => run!(v, d, B::int_max_dim, [input], d.axis),
        O::MinDim(d) => run!(v, d, B::int_min_dim, [input], d.axis),
        O::MaxAbs(d) => run!(v, d, B::int_max_abs, [input]),
        O::MaxAbsDim(d) => run!(v, d, B::int_max_abs_dim, [input], d.axis),
        O::MaxDimWithIndices(d) => {
            let tensor = v.get(&d.tensor);
            let (out, indices) = B::int_max_dim_with_indices(tensor, d.dim);
            v.set(&d.out, out);
            v.set(&d.out_indices, indices);
        }
        O::MinDimWithIndices(d) => {
            let tensor = v.get(&d.tensor);
            let (out, indices) = B::int_min_dim_with_indices(tensor, d.dim);
            v.set(&d.out, out);
            v.set(&d.out_indices, indices);
        }
        O::Clamp(d) => run!(v, d, B::int_clamp, [tensor], Scalar::from(d.min), Scalar::from(d.max)),
        O::ClampMin(d) => scalar!(v, d, B::int_clamp_min),
        O::ClampMax(d) => scalar!(v, d, B::int_clamp_max),
        O::Powi(d) => run!(v, d, B::int_powi, [lhs, rhs]),
        O::PowiScalar(d) => scalar!(v, d, B::int_powi_scalar),
        O::CumSum(d) => run!(v, d, B::int_cumsum, [input], d.axis),
        O::CumProd(d) => run!(v, d, B::int_cumprod, [input], d.axis),
        O::CumMin(d) => run!(v, d, B::int_cummin, [input], d.axis),
        O::CumMax(d) => run!(v, d, B::int_cummax, [input], d.axis),
        O::Sort(d) => run!(v, d, B::int_sort, [input], d.dim, d.descending),
        O::ArgSort(d) => run!(v, d, B::int_argsort, [input], d.dim, d.descending),
        O::SortWithIndices(d) => {
            let input = v.get(&d.input);
            let (out, indices) = B::int_sort_with_indices(input, d.dim, d.descending);
            v.set(&d.out, out);
            v.set(&d.out_indices, indices);
        }
        O::Pad(d) => run!(v, d, B::int_pad, [input], &d.padding, d.mode.into()),
        O::IntRandom(_) => return false,
    }
    true
}

fn boolean(op: &BoolOperationIr, v: &Values<'_>) -> bool {
    use BoolOperationIr as O;
    match op {
        O::IntoFloat(d) => run!(v, d, B::bool_into_float, [input], d.out.dtype.into()),
        O::IntoInt(d) => run!(v, d, B::bool_into_int, [input], d.out.dtype.into()),
        O::Not(d) => run!(v, d, B::bool_not, [input]),
        O::And(d) => run!(v, d, B::bool_and, [lhs, rhs]),
        O::Or(d) => run!(v, d, B::bool_or, [lhs, rhs]),
        O::Xor(d) => run!(v, d, B::bool_xor, [lhs, rhs]),
    }
    true
}

fn integer(op: &IntOperationIr, v: &Values<'_>) -> bool {
    use IntOperationIr as O;
    match op {
        O::IntoFloat(d) => run!(v, d, B::int_into_float, [input], d.out.dtype.into()),
        O::BitwiseAnd(d) => run!(v, d, B::bitwise_and, [lhs, rhs]),
        O::BitwiseOr(d) => run!(v, d, B::bitwise_or, [lhs, rhs]),
        O::BitwiseXor(d) => run!(v, d, B::bitwise_xor, [lhs, rhs]),
        O::BitwiseNot(d) => run!(v, d, B::bitwise_not, [input]),
        O::BitwiseLeftShift(d) => run!(v, d, B::bitwise_left_shift, [lhs, rhs]),
        O::BitwiseRightShift(d) => run!(v, d, B::bitwise_right_shift, [lhs, rhs]),
        O::BitwiseAndScalar(d) => scalar!(v, d, B::bitwise_and_scalar),
        O::BitwiseOrScalar(d) => scalar!(v, d, B::bitwise_or_scalar),
        O::BitwiseXorScalar(d) => scalar!(v, d, B::bitwise_xor_scalar),
        O::BitwiseLeftShiftScalar(d) => scalar!(v, d, B::bitwise_left_shift_scalar),
        O::BitwiseRightShiftScalar(d) => scalar!(v, d, B::bitwise_right_shift_scalar),
        O::Matmul(d) => run!(v, d, B::int_matmul, [lhs, rhs]),
    }
    true
}

fn float(op: &FloatOperationIr, v: &Values<'_>) -> bool {
    use FloatOperationIr as O;
    match op {
        O::Exp(d) => elementary!(v, d, elementary::exp, B::float_exp),
        O::Log(d) => run!(v, d, B::float_log, [input]),
        O::Log1p(d) => run!(v, d, B::float_log1p, [input]),
        O::Erf(d) => elementary!(v, d, elementary::erf, B::float_erf),
        O::PowfScalar(d) => scalar!(v, d, B::float_powf_scalar),
        O::Sqrt(d) => run!(v, d, B::float_sqrt, [input]),
        O::Cos(d) => run!(v, d, B::float_cos, [input]),
        O::Cosh(d) => run!(v, d, B::float_cosh, [input]),
        O::Sin(d) => run!(v, d, B::float_sin, [input]),
        O::Sinh(d) => run!(v, d, B::float_sinh, [input]),
        O::Tan(d) => run!(v, d, B::float_tan, [input]),
        O::Tanh(d) => elementary!(v, d, elementary::tanh, B::float_tanh),
        O::ArcCos(d) => run!(v, d, B::float_acos, [input]),
        O::ArcCosh(d) => run!(v, d, B::float_acosh, [input]),
        O::ArcSin(d) => run!(v, d, B::float_asin, [input]),
        O::ArcSinh(d) => run!(v, d, B::float_asinh, [input]),
        O::ArcTan(d) => run!(v, d, B::float_atan, [input]),
        O::ArcTanh(d) => run!(v, d, B::float_atanh, [input]),
        O::ArcTan2(d) => run!(v, d, B::float_atan2, [lhs, rhs]),
        O::Round(d) => run!(v, d, B::float_round, [input]),
        O::Floor(d) => run!(v, d, B::float_floor, [input]),
        O::Ceil(d) => run!(v, d, B::float_ceil, [input]),
        O::Trunc(d) => run!(v, d, B::float_trunc, [input]),
        O::IntoInt(d) => run!(v, d, B::float_into_int, [input], d.out.dtype.into()),
        O::Matmul(d) => run!(v, d, B::float_matmul, [lhs, rhs]),
        O::Cross(d) => run!(v, d, B::float_cross, [lhs, rhs], d.dim),
        O::Recip(d) => run!(v, d, B::float_recip, [input]),
        O::IsNan(d) => run!(v, d, B::float_is_nan, [input], v.bool),
        O::IsInf(d) => run!(v, d, B::float_is_inf, [input], v.bool),
        O::GridSample2d(d) => run!(v, d, B::float_grid_sample_2d, [tensor, grid], d.options.clone().into()),
        O::Powf(d) => run!(v, d, B::float_powf, [lhs, rhs]),
        O::Hypot(d) => run!(v, d, B::float_hypot, [lhs, rhs]),
        O::Random(_) | O::Quantize(_) | O::Dequantize(_) => return false,
    }
    true
}

fn activation(op: &ActivationOperationIr, v: &Values<'_>) -> bool {
    use ActivationOperationIr as O;
    match op {
        O::Relu(d) => run!(v, d, B::relu, [input]),
        O::ReluBackward(d) => run!(v, d, B::relu_backward, [lhs, rhs]),
        O::LeakyRelu(d) => scalar!(v, d, B::leaky_relu),
        O::PRelu(d) => run!(v, d, B::prelu, [lhs, rhs]),
        O::Gelu(d) => elementary!(v, d, elementary::gelu, B::gelu),
        O::GeluBackward(d) => run!(v, d, gelu_backward, [lhs, rhs]),
        O::Sigmoid(d) => elementary!(v, d, elementary::sigmoid, B::sigmoid),
        O::SigmoidBackward(d) => run!(v, d, B::sigmoid_backward, [lhs, rhs]),
        O::HardSigmoid(d) => run!(v, d, B::hard_sigmoid, [tensor], Scalar::from(d.alpha), Scalar::from(d.beta)),
        O::LogSigmoid(d) => run!(v, d, B::log_sigmoid, [input]),
        O::LogSigmoidBackward(d) => run!(v, d, B::log_sigmoid_backward, [lhs, rhs]),
        O::Softmax(d) => run!(v, d, B::softmax, [input], d.axis),
        O::LogSoftmax(d) => run!(v, d, B::log_softmax, [input], d.axis),
        O::Softmin(d) => run!(v, d, B::softmin, [input], d.axis),
    }
    true
}

/// `g·(Φ(x) + xφ(x))`. Burn's default kernel, which ndarray and wgpu inherit, is the derivative of the tanh approximation of a
/// function that the forward pass computes exactly; its error of up to 5e-4 would make second derivatives wrong.
fn gelu_backward(x: DispatchTensor, g: DispatchTensor) -> DispatchTensor {
    elementary::binary(x, g, elementary::gelu_backward, exact_gelu_backward)
}

fn exact_gelu_backward(x: DispatchTensor, g: DispatchTensor) -> DispatchTensor {
    let scaled = B::float_mul_scalar(x.clone(), Scalar::Float(std::f64::consts::FRAC_1_SQRT_2));
    let cdf = B::float_add_scalar(B::float_erf(scaled.clone()), Scalar::Float(1.0));
    let cdf = B::float_mul_scalar(cdf, Scalar::Float(0.5));
    let bell = B::float_exp(B::float_neg(B::float_mul(scaled.clone(), scaled)));
    let density = B::float_mul_scalar(bell, Scalar::Float(1.0 / (2.0 * std::f64::consts::PI).sqrt()));
    B::float_mul(g, B::float_add(cdf, B::float_mul(x, density)))
}

fn module(op: &ModuleOperationIr, v: &Values<'_>) -> bool {
    use ModuleOperationIr as O;
    macro_rules! convolution {
        ($d:ident, $f:path) => {{
            let (x, weight) = (v.get(&$d.x), v.get(&$d.weight));
            let bias = $d.bias.as_ref().map(|bias| v.get(bias));
            v.set(&$d.out, $f(x, weight, bias, $d.options.clone().into()));
        }};
    }
    match op {
        O::Linear(d) => {
            let (x, weight) = (v.get(&d.x), v.get(&d.weight));
            let bias = d.bias.as_ref().map(|bias| v.get(bias));
            v.set(&d.out, B::linear(x, weight, bias));
        }
        O::LinearXBackward(d) => run!(v, d, B::linear_x_backward, [weight, output_grad]),
        O::LinearWeightBackward(d) => run!(v, d, B::linear_weight_backward, [x, output_grad]),
        O::LinearBiasBackward(d) => run!(v, d, B::linear_bias_backward, [output_grad]),
        O::Conv1d(d) => convolution!(d, B::conv1d),
        O::Conv2d(d) => {
            let (x, weight) = (v.get(&d.x), v.get(&d.weight));
            let bias = d.bias.as_ref().map(|bias| v.get(bias));
            let own = plain(&d.options).and_then(|padding| conv::conv2d(&x, &weight, bias.as_ref(), padding));
            v.set(&d.out, own.unwrap_or_else(|| B::conv2d(x, weight, bias, d.options.clone().into())));
        }
        O::Conv3d(d) => convolution!(d, B::conv3d),
        O::ConvTranspose1d(d) => convolution!(d, B::conv_transpose1d),
        O::ConvTranspose2d(d) => convolution!(d, B::conv_transpose2d),
        O::ConvTranspose3d(d) => convolution!(d, B::conv_transpose3d),
        O::Conv1dXBackward(d) => {
            run!(v, d, B::conv1d_x_backward, [x, weight, output_grad], d.options.clone().into())
        }
        O::Conv2dXBackward(d) => {
            let (x, weight, grad) = (v.get(&d.x), v.get(&d.weight), v.get(&d.output_grad));
            let own = plain(&d.options).and_then(|p| conv::conv2d_x_backward(&d.x.shape, &weight, &grad, p));
            v.set(&d.out, own.unwrap_or_else(|| B::conv2d_x_backward(x, weight, grad, d.options.clone().into())));
        }
        O::Conv3dXBackward(d) => {
            run!(v, d, B::conv3d_x_backward, [x, weight, output_grad], d.options.clone().into())
        }
        O::Conv1dWeightBackward(d) => {
            run!(v, d, B::conv1d_weight_backward, [x, weight, output_grad], d.options.clone().into())
        }
        O::Conv2dWeightBackward(d) => {
            let (x, weight, grad) = (v.get(&d.x), v.get(&d.weight), v.get(&d.output_grad));
            let (of, groups) = (&d.weight.shape, d.options.groups);
            let own = plain(&Conv2dOptionsIr { groups: 1, ..d.options.clone() }).and_then(|p| match groups {
                1 => conv::conv2d_weight_backward(&x, of, &grad, p),
                groups => conv::conv2d_weight_backward_each(&x, of, &grad, p, groups),
            });
            v.set(&d.out, own.unwrap_or_else(|| B::conv2d_weight_backward(x, weight, grad, d.options.clone().into())));
        }
        O::Conv3dWeightBackward(d) => {
            run!(v, d, B::conv3d_weight_backward, [x, weight, output_grad], d.options.clone().into())
        }
        O::Conv1dBiasBackward(d) => run!(v, d, B::conv1d_bias_backward, [x, bias, output_grad]),
        O::Conv2dBiasBackward(d) => {
            let (x, bias, grad) = (v.get(&d.x), v.get(&d.bias), v.get(&d.output_grad));
            let own = conv::conv2d_bias_backward(&grad);
            v.set(&d.out, own.unwrap_or_else(|| B::conv2d_bias_backward(x, bias, grad)));
        }
        O::Conv3dBiasBackward(d) => run!(v, d, B::conv3d_bias_backward, [x, bias, output_grad]),
        O::ConvTranspose1dWeightBackward(d) => {
            run!(v, d, B::conv_transpose1d_weight_backward, [x, weight, output_grad], d.options.clone().into())
        }
        O::ConvTranspose2dWeightBackward(d) => {
            run!(v, d, B::conv_transpose2d_weight_backward, [x, weight, output_grad], d.options.clone().into())
        }
        O::ConvTranspose3dWeightBackward(d) => {
            run!(v, d, B::conv_transpose3d_weight_backward, [x, weight, output_grad], d.options.clone().into())
        }
        O::ConvTranspose1dBiasBackward(d) => run!(v, d, B::conv_transpose1d_bias_backward, [x, bias, output_grad]),
        O::ConvTranspose2dBiasBackward(d) => run!(v, d, B::conv_transpose2d_bias_backward, [x, bias, output_grad]),
        O::ConvTranspose3dBiasBackward(d) => run!(v, d, B::conv_transpose3d_bias_backward, [x, bias, output_grad]),
        O::DeformableConv2d(d) => {
            let (x, offset, weight) = (v.get(&d.x), v.get(&d.offset), v.get(&d.weight));
            let mask = d.mask.as_ref().map(|mask| v.get(mask));
            let bias = d.bias.as_ref().map(|bias| v.get(bias));
            v.set(&d.out, B::deform_conv2d(x, offset, weight, mask, bias, d.options.clone().into()));
        }
        O::DeformableConv2dBackward(d) => {
            let (x, offset, weight) = (v.get(&d.x), v.get(&d.offset), v.get(&d.weight));
            let mask = d.mask.as_ref().map(|mask| v.get(mask));
            let bias = d.bias.as_ref().map(|bias| v.get(bias));
            let grad = v.get(&d.out_grad);
            let back = B::deform_conv2d_backward(x, offset, weight, mask, bias, grad, d.options.clone().into());
            v.set(&d.input_grad, back.x_grad);
            v.set(&d.offset_grad, back.offset_grad);
            v.set(&d.weight_grad, back.weight_grad);
            if let (Some(ir), Some(value)) = (&d.mask_grad, back.mask_grad) {
                v.set(ir, value);
            }
            if let (Some(ir), Some(value)) = (&d.bias_grad, back.bias_grad) {
                v.set(ir, value);
            }
        }
        O::Embedding(d) => run!(v, d, B::embedding, [weights, indices]),
        O::EmbeddingBackward(d) => run!(v, d, B::embedding_backward, [weights, out_grad, indices]),
        O::AvgPool1d(d) => {
            run!(v, d, B::avg_pool1d, [x], d.kernel_size, d.stride, d.padding, d.count_include_pad, d.ceil_mode)
        }
        O::AvgPool2d(d) => {
            run!(v, d, B::avg_pool2d, [x], d.kernel_size, d.stride, d.padding, d.count_include_pad, d.ceil_mode)
        }
        O::AvgPool1dBackward(d) => {
            let (x, grad) = (v.get(&d.x), v.get(&d.grad));
            let (pad, ceil) = (d.count_include_pad, d.ceil_mode);
            v.set(&d.out, B::avg_pool1d_backward(x, grad, d.kernel_size, d.stride, d.padding, pad, ceil));
        }
        O::AvgPool2dBackward(d) => {
            let (x, grad) = (v.get(&d.x), v.get(&d.grad));
            let (pad, ceil) = (d.count_include_pad, d.ceil_mode);
            v.set(&d.out, B::avg_pool2d_backward(x, grad, d.kernel_size, d.stride, d.padding, pad, ceil));
        }
        O::AdaptiveAvgPool1d(d) => run!(v, d, B::adaptive_avg_pool1d, [x], d.output_size),
        O::AdaptiveAvgPool2d(d) => run!(v, d, B::adaptive_avg_pool2d, [x], d.output_size),
        O::AdaptiveAvgPool3d(d) => run!(v, d, B::adaptive_avg_pool3d, [x], d.output_size),
        O::AdaptiveAvgPool1dBackward(d) => run!(v, d, B::adaptive_avg_pool1d_backward, [x, grad]),
        O::AdaptiveAvgPool2dBackward(d) => run!(v, d, B::adaptive_avg_pool2d_backward, [x, grad]),
        O::AdaptiveAvgPool3dBackward(d) => run!(v, d, B::adaptive_avg_pool3d_backward, [x, grad]),
        O::MaxPool1d(d) => {
            run!(v, d, B::max_pool1d, [x], d.kernel_size, d.stride, d.padding, d.dilation, d.ceil_mode)
        }
        O::MaxPool2d(d) => {
            run!(v, d, B::max_pool2d, [x], d.kernel_size, d.stride, d.padding, d.dilation, d.ceil_mode)
        }
        O::MaxPool1dWithIndices(d) => {
            let x = v.get(&d.x);
            let dtype = d.out_indices.dtype.into();
            let pooled =
                B::max_pool1d_with_indices(x, d.kernel_size, d.stride, d.padding, d.dilation, d.ceil_mode, dtype);
            v.set(&d.out, pooled.output);
            v.set(&d.out_indices, pooled.indices);
        }
        O::MaxPool2dWithIndices(d) => {
            let x = v.get(&d.x);
            let plain = d.padding == [0, 0] && d.dilation == [1, 1] && !d.ceil_mode;
            if plain && let Some((out, indices)) = pool::max_pool2d(&x, d.kernel_size, d.stride, d.out_indices.dtype) {
                v.set(&d.out, out);
                v.set(&d.out_indices, indices);
                return true;
            }
            let dtype = d.out_indices.dtype.into();
            let pooled =
                B::max_pool2d_with_indices(x, d.kernel_size, d.stride, d.padding, d.dilation, d.ceil_mode, dtype);
            v.set(&d.out, pooled.output);
            v.set(&d.out_indices, pooled.indices);
        }
        O::MaxPool1dWithIndicesBackward(d) => {
            let (x, grad, indices) = (v.get(&d.x), v.get(&d.grad), v.get(&d.indices));
            let back = B::max_pool1d_with_indices_backward(
                x,
                d.kernel_size,
                d.stride,
                d.padding,
                d.dilation,
                d.ceil_mode,
                grad,
                indices,
            );
            v.set(&d.out, back.x_grad);
        }
        O::MaxPool2dWithIndicesBackward(d) => {
            let (x, grad, indices) = (v.get(&d.x), v.get(&d.grad), v.get(&d.indices));
            let back = B::max_pool2d_with_indices_backward(
                x,
                d.kernel_size,
                d.stride,
                d.padding,
                d.dilation,
                d.ceil_mode,
                grad,
                indices,
            );
            v.set(&d.out, back.x_grad);
        }
        O::Interpolate(d) => run!(v, d, B::interpolate, [x], d.output_size, d.options.clone().into()),
        O::InterpolateBackward(d) => {
            run!(v, d, B::interpolate_backward, [x, grad], d.output_size, d.options.clone().into())
        }
        O::Unfold4d(d) => {
            let options = UnfoldOptions::new(d.options.stride, d.options.padding, d.options.dilation);
            run!(v, d, B::unfold4d, [x], d.kernel_size, options)
        }
        O::LayerNorm(d) => {
            let (input, gamma) = (v.get(&d.input), v.get(&d.gamma));
            let beta = d.beta.as_ref().map(|beta| v.get(beta));
            v.set(&d.out, B::layer_norm(input, gamma, beta, d.epsilon.elem()));
        }
        O::BatchNorm(d) => {
            run!(v, d, B::batch_norm, [x, gamma, beta, mean, variance], d.epsilon.elem())
        }
        O::Attention(d) => {
            let (query, key, value) = (v.get(&d.query), v.get(&d.key), v.get(&d.value));
            let mask = d.mask.as_ref().map(|mask| v.get(mask));
            let bias = d.attn_bias.as_ref().map(|bias| v.get(bias));
            v.set(&d.out, B::attention(query, key, value, mask, bias, d.options.clone().into()));
        }
        O::CtcLoss(d) => {
            run!(v, d, B::ctc_loss, [log_probs, targets, input_lengths, target_lengths], d.blank)
        }
        O::CtcLossBackward(d) => {
            run!(v, d, B::ctc_loss_backward, [log_probs, targets, input_lengths, target_lengths, grad_loss], d.blank)
        }
    }
    true
}

/// The padding of a convolution that has nothing else special.
fn plain(options: &Conv2dOptionsIr) -> Option<[usize; 2]> {
    let [(top, bottom), (left, right)] = options.padding;
    let plain = options.stride == [1, 1] && options.dilation == [1, 1] && options.groups == 1;
    (plain && top == bottom && left == right).then_some([top, left])
}

/// Whether the executor knows the operation, checked once when a graph is recorded.
pub(crate) fn executable(operation: &OperationIr) -> bool {
    use BaseOperationIr as Base;
    match operation {
        OperationIr::BaseBool(Base::ScatterNd(_) | Base::GatherNd(_)) => false,
        OperationIr::NumericFloat(_, NumericOperationIr::IntRandom(_)) => false,
        OperationIr::NumericInt(_, NumericOperationIr::IntRandom(_)) => false,
        OperationIr::Float(
            _,
            FloatOperationIr::Random(_) | FloatOperationIr::Quantize(_) | FloatOperationIr::Dequantize(_),
        ) => false,
        // Burn's own kernels panic there.
        OperationIr::Module(ModuleOperationIr::InterpolateBackward(d)) => {
            !matches!(d.options.mode, InterpolateModeIr::NearestExact | InterpolateModeIr::Lanczos3)
        }
        OperationIr::Init(_) | OperationIr::Custom(_) | OperationIr::Drop(_) | OperationIr::Distributed(_) => false,
        _ => true,
    }
}
