//! Inner products where the rows are on a device: a matrix product a leaf, in `f32`.

use burn::backend::ops::FloatTensorOps;
use burn::backend::{Dispatch, TensorMetadata};
use burn::tensor::{DType, Shape, Tensor};
use core_tensor::{Scalar, Tree};

use super::{Gramian, exponent_of};
use crate::solvers::Matrix;

/// The Gramian of rows of one structure. Two host synchronisations: the largest magnitudes, by which the rows are
/// scaled
/// so that `f32` keeps their squares, and the products.
pub fn gramian(rows: &[Tree]) -> Gramian {
    let m = rows.len();
    let largest = read(&rows.iter().map(Tree::norm_inf).collect::<Vec<_>>());
    let kept: Vec<bool> = largest.iter().map(|x| x.is_finite()).collect();
    // Beyond 2^±120 lies the end of f32.
    let exponents =
        largest.iter().map(|x| if *x > 0.0 && x.is_finite() { exponent_of(*x).clamp(-120, 120) } else { 0 });
    let exponents: Vec<i32> = exponents.collect();
    let mut sum: Option<Tensor<2>> = None;
    for leaf in 0..rows[0].len() {
        let n = rows[0].leaf(leaf).1.shape().num_elements();
        if n == 0 {
            continue;
        }
        let part = rows.iter().zip(&exponents).zip(&kept).map(|((row, exponent), kept)| {
            let leaf = Dispatch::float_reshape(row.leaf(leaf).1.clone(), Shape::new([1, n]));
            let leaf = Tensor::<2>::from_dispatch(leaf).cast(DType::F32);
            match kept {
                true => leaf.mul_scalar(2f32.powi(-exponent)),
                false => leaf.zeros_like(),
            }
        });
        let part = Tensor::cat(part.collect(), 0);
        let part = part.clone().matmul(part.transpose());
        sum = Some(match sum {
            Some(sum) => {
                let home = sum.device();
                sum + part.to_device(&home)
            }
            None => part,
        });
    }
    let products: Vec<f64> = match sum {
        Some(sum) => sum.into_data().iter::<f64>().collect(),
        None => vec![0.0; m * m],
    };
    Gramian::scaled_rows(&Matrix::symmetric(m, |i, j| products[i * m + j]), &exponents, &kept)
}

/// The numbers, waiting for a device at most once.
fn read(scalars: &[Scalar]) -> Vec<f64> {
    let known: Option<Vec<f64>> = scalars.iter().map(Scalar::known).collect();
    known.unwrap_or_else(|| {
        let tensors = scalars.iter().map(|x| x.tensor().cast(DType::F32)).collect();
        Tensor::<1>::cat(tensors, 0).into_data().iter::<f64>().collect()
    })
}
