//! Element-wise rules as tensor operations, with memories in `f32` or better.

use burn::backend::TensorMetadata;
use burn::tensor::{DType, FloatDType, Tensor};
use core_tensor::{Result, Tree};

/// The tree in `f32`, leaves in `f64` as they are: what moving averages are kept in.
pub(crate) fn wide(tree: Tree) -> Result<Tree> {
    tree.map_flat(|_, x| wide_tensor(x))
}

/// Half precision in `f32`, others as they are.
pub(crate) fn wide_tensor(x: Tensor<1>) -> Tensor<1> {
    match x.dtype() {
        DType::F16 | DType::BF16 => x.cast(FloatDType::F32),
        _ => x,
    }
}

/// The leaves of `tree` in the dtypes of `like`.
pub(crate) fn narrow(tree: Tree, like: &Tree) -> Result<Tree> {
    let mut dtypes = like.iter().map(|(_, leaf)| leaf.dtype());
    tree.map_flat(|_, x| match dtypes.next() {
        Some(dtype) if dtype != x.dtype() => x.cast(dtype),
        _ => x,
    })
}
