//! Tensors whose rank is known at run time only, as the operations of a recording need them.
//!
//! With parameters on a tape every function here is differentiable.

use burn::backend::ops::{FloatTensorOps, IntTensorOps};
use burn::backend::{Dispatch, DispatchTensor, TensorMetadata};
use burn::tensor::{BoolDType, DType, Device, Scalar, Shape, Slice, Tensor, TensorData};

/// Terms that are added up one after another before their sums are.
const BLOCK: usize = 64;

/// A float tensor of any rank.
#[derive(Clone, Debug)]
pub(crate) struct Array(pub DispatchTensor);

impl Array {
    pub fn of<const D: usize>(tensor: Tensor<D>) -> Self {
        Array(tensor.into_dispatch())
    }

    pub fn tensor<const D: usize>(self) -> Tensor<D> {
        Tensor::from_dispatch(self.0)
    }

    pub fn from_values(values: Vec<f64>, shape: &[usize], like: &Self) -> Self {
        let data = TensorData::new(values, shape.to_vec()).convert_dtype(like.dtype());
        Array(Dispatch::float_from_data(data, &like.0.device()))
    }

    /// `value` everywhere.
    pub fn full(value: f64, shape: &[usize], like: &Self) -> Self {
        let dtype = like.dtype().into();
        Array(Dispatch::float_full(Shape::from(shape.to_vec()), Scalar::Float(value), &like.0.device(), dtype))
    }

    pub fn dtype(&self) -> DType {
        self.0.dtype()
    }

    pub fn shape(&self) -> Vec<usize> {
        self.0.shape().to_vec()
    }

    pub fn rank(&self) -> usize {
        self.0.shape().num_dims()
    }

    pub fn elements(&self) -> usize {
        self.shape().iter().product()
    }

    pub fn values(&self) -> Vec<f64> {
        Tensor::<1>::from_dispatch(self.0.clone()).into_data().iter::<f64>().collect()
    }

    fn device(&self) -> Device {
        Device::new(self.0.device())
    }

    fn bool(&self) -> BoolDType {
        self.device().settings().bool_dtype
    }

    pub fn add(&self, other: &Self) -> Self {
        Array(Dispatch::float_add(self.0.clone(), other.0.clone()))
    }

    pub fn sub(&self, other: &Self) -> Self {
        Array(Dispatch::float_sub(self.0.clone(), other.0.clone()))
    }

    pub fn mul(&self, other: &Self) -> Self {
        Array(Dispatch::float_mul(self.0.clone(), other.0.clone()))
    }

    pub fn div(&self, other: &Self) -> Self {
        Array(Dispatch::float_div(self.0.clone(), other.0.clone()))
    }

    pub fn matmul(&self, other: &Self) -> Self {
        Array(Dispatch::float_matmul(self.0.clone(), other.0.clone()))
    }

    pub fn scale(&self, by: f64) -> Self {
        Array(Dispatch::float_mul_scalar(self.0.clone(), Scalar::Float(by)))
    }

    pub fn shift(&self, by: f64) -> Self {
        Array(Dispatch::float_add_scalar(self.0.clone(), Scalar::Float(by)))
    }

    pub fn neg(&self) -> Self {
        Array(Dispatch::float_neg(self.0.clone()))
    }

    pub fn abs(&self) -> Self {
        Array(Dispatch::float_abs(self.0.clone()))
    }

    pub fn square(&self) -> Self {
        self.mul(self)
    }

    pub fn sqrt(&self) -> Self {
        Array(Dispatch::float_sqrt(self.0.clone()))
    }

    pub fn at_least(&self, bound: f64) -> Self {
        Array(Dispatch::float_clamp_min(self.0.clone(), Scalar::Float(bound)))
    }

    pub fn at_most(&self, bound: f64) -> Self {
        Array(Dispatch::float_clamp_max(self.0.clone(), Scalar::Float(bound)))
    }

    /// The same values without a tape behind them.
    pub fn detach(&self) -> Self {
        Array(Dispatch::float_detach(self.0.clone()))
    }

    /// `max(x, 0)`
    pub fn positive(&self) -> Self {
        self.at_least(0.0)
    }

    /// `min(x, 0)`
    pub fn negative(&self) -> Self {
        self.at_most(0.0)
    }

    /// The larger element of two arrays of one shape.
    pub fn max(&self, other: &Self) -> Self {
        let mask = Dispatch::float_lower(self.0.clone(), other.0.clone(), self.bool());
        Array(Dispatch::float_mask_where(self.0.clone(), mask, other.0.clone()))
    }

    /// The smaller element of two arrays of one shape.
    pub fn min(&self, other: &Self) -> Self {
        let mask = Dispatch::float_greater(self.0.clone(), other.0.clone(), self.bool());
        Array(Dispatch::float_mask_where(self.0.clone(), mask, other.0.clone()))
    }

    /// `yes` where this is above `than`, `no` elsewhere; all of one shape.
    pub fn above(&self, than: &Self, yes: &Self, no: &Self) -> Self {
        let mask = Dispatch::float_greater(self.0.clone(), than.0.clone(), self.bool());
        Array(Dispatch::float_mask_where(no.0.clone(), mask, yes.0.clone()))
    }

    pub fn reshape(&self, shape: &[usize]) -> Self {
        if self.shape() == shape {
            return self.clone();
        }
        Array(Dispatch::float_reshape(self.0.clone(), Shape::from(shape.to_vec())))
    }

    pub fn permute(&self, axes: &[usize]) -> Self {
        Array(Dispatch::float_permute(self.0.clone(), axes))
    }

    /// The last two axes exchanged.
    pub fn transpose(&self) -> Self {
        let rank = self.rank();
        Array(Dispatch::float_swap_dims(self.0.clone(), rank - 2, rank - 1))
    }

    pub fn flip(&self, axes: &[usize]) -> Self {
        Array(Dispatch::float_flip(self.0.clone(), axes))
    }

    pub fn slice(&self, ranges: &[Slice]) -> Self {
        Array(Dispatch::float_slice(self.0.clone(), ranges))
    }

    /// Elements `from..to` of one axis.
    pub fn narrow(&self, axis: usize, from: usize, to: usize) -> Self {
        let shape = self.shape();
        if from == 0 && to == shape[axis] {
            return self.clone();
        }
        let bounds = |(at, size): (usize, &usize)| if at == axis { (from, to) } else { (0, *size) };
        let ranges: Vec<Slice> = shape.iter().enumerate().map(bounds).map(|(a, b)| Slice::from(a..b)).collect();
        self.slice(&ranges)
    }

    pub fn expand(&self, shape: &[usize]) -> Self {
        if self.shape() == shape {
            return self.clone();
        }
        Array(Dispatch::float_expand(self.0.clone(), Shape::from(shape.to_vec())))
    }

    /// The array so many times along its first axis.
    pub fn tile(&self, times: usize) -> Self {
        if times == 1 {
            return self.clone();
        }
        let (shape, mut wide) = (self.shape(), vec![times, self.elements()]);
        let tiled = self.reshape(&[1, wide[1]]).expand(&wide);
        wide = shape;
        wide[0] *= times;
        tiled.reshape(&wide)
    }

    pub fn cat(parts: &[Self], axis: usize) -> Self {
        match parts {
            [only] => only.clone(),
            _ => Array(Dispatch::float_cat(parts.iter().map(|part| part.0.clone()).collect(), axis)),
        }
    }

    /// Zeros put round each axis.
    pub fn pad(&self, padding: &[(usize, usize)]) -> Self {
        let mut out = self.clone();
        for (axis, (before, after)) in padding.iter().enumerate() {
            let mut parts = Vec::new();
            for (size, own) in [(*before, false), (0, true), (*after, false)] {
                let mut shape = out.shape();
                shape[axis] = size;
                match own {
                    true => parts.push(out.clone()),
                    false if size > 0 => parts.push(Self::full(0.0, &shape, &out)),
                    false => {}
                }
            }
            out = Self::cat(&parts, axis);
        }
        out
    }

    pub fn sum_axis(&self, axis: usize) -> Self {
        Array(Dispatch::float_sum_dim(self.0.clone(), axis))
    }

    pub fn max_axis(&self, axis: usize) -> Self {
        Array(Dispatch::float_max_dim(self.0.clone(), axis))
    }

    /// Sums of rows of a matrix, and how many roundings a term went through at most. Added up in blocks, so that these are few
    /// whatever the backend does within one.
    pub fn sum_rows(&self) -> (Self, usize) {
        let (rows, mut width) = (self.shape()[0], self.shape()[1]);
        let (mut sums, mut roundings) = (self.clone(), 0);
        while width > BLOCK {
            let blocks = width.div_ceil(BLOCK);
            let padded = sums.pad(&[(0, 0), (0, blocks * BLOCK - width)]);
            sums = padded.reshape(&[rows, blocks, BLOCK]).sum_axis(2).reshape(&[rows, blocks]);
            width = blocks;
            roundings += BLOCK;
        }
        (sums.sum_axis(1).reshape(&[rows]), roundings + width)
    }

    /// Columns of a matrix by their indices.
    pub fn columns(&self, indices: &[usize]) -> Self {
        let dtype = self.device().settings().int_dtype;
        let data = TensorData::new(indices.iter().map(|i| *i as i64).collect::<Vec<_>>(), [indices.len()]);
        let indices = Dispatch::int_from_data(data.convert_dtype(dtype.into()), &self.0.device());
        Array(Dispatch::float_select(self.0.clone(), 1, indices))
    }
}
