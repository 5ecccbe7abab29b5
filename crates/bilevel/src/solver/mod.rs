//! Linear solvers for `(H + δ)v = b` on trees, with dot products in `f64`.

mod conjugate_gradient;
mod dense;
mod fixed_point;
mod gmres;
mod identity;
mod matrix;
mod neumann;
mod nystrom;

pub use conjugate_gradient::{ConjugateGradient, NegativeCurvature};
pub use dense::Dense;
pub use fixed_point::FixedPoint;
pub use gmres::Gmres;
pub use identity::Identity;
pub use neumann::Neumann;
pub use nystrom::Nystrom;

use core_tensor::Tree;

use crate::certificate::Curvature;
use crate::error::{Result, finite};
use crate::problem::observe;

/// A way to an approximate solution of `(H + δ)v = b`.
pub trait LinearSolver: Send + Sync {
    /// The solution, without its residual: the caller measures that with the product it needs anyway.
    ///
    /// # Errors
    /// Those of the solver; [`Error::NotFinite`](crate::Error::NotFinite).
    fn solve(&self, operator: &mut Operator<'_>, b: &Tree) -> Result<Tree>;
}

/// A square matrix given by its products, with a multiple of the identity added.
pub struct Operator<'a> {
    product: &'a mut dyn FnMut(&Tree) -> Result<Tree>,
    /// `δ`; a solver may raise it.
    pub damping: f64,
    /// Products so far.
    pub products: usize,
    /// Quotients of the matrix without damping.
    pub curvature: Curvature,
}

/// A product with what a solver asks of it.
pub struct Image {
    /// `(H + δ)v`.
    pub image: Tree,
    /// `vᵀ(H + δ)v`.
    pub quadratic: f64,
    /// `vᵀv`.
    pub square: f64,
}

impl<'a> Operator<'a> {
    /// The matrix `product` plus `damping` times the identity.
    pub fn new(product: &'a mut dyn FnMut(&Tree) -> Result<Tree>, damping: f64) -> Self {
        Self { product, damping, products: 0, curvature: Curvature::default() }
    }

    /// `(H + δ)v`.
    ///
    /// # Errors
    /// Those of the product; [`Error::NotFinite`](crate::Error::NotFinite).
    pub fn apply(&mut self, v: &Tree) -> Result<Tree> {
        Ok(self.measure(v)?.image)
    }

    /// `(H + δ)v` with `vᵀ(H + δ)v` and `vᵀv`. Two passes over `v`, two host synchronisations on a GPU.
    ///
    /// # Errors
    /// As [`Operator::apply`].
    pub fn measure(&mut self, v: &Tree) -> Result<Image> {
        let image = (self.product)(v)?;
        self.products += 1;
        let (quadratic, square) = observe(&mut self.curvature, v, &image)?;
        finite("a product with the Hessian", quadratic)?;
        let quadratic = quadratic + self.damping * square;
        let image = if self.damping == 0.0 { image } else { image.axpy(self.damping, v)? };
        Ok(Image { image, quadratic, square })
    }
}

/// The `index`-th unit vector of the space of `like`.
pub(crate) fn unit(like: &Tree, index: usize) -> Result<Tree> {
    use burn::tensor::{DType, Tensor, TensorData};
    let n = like.num_elements();
    let mut values = vec![0.0f64; n];
    values[index] = 1.0;
    let device = like.device().unwrap_or_default();
    let dtype = like.flatten()?.dtype();
    let dtype = if dtype == DType::F64 { DType::F64 } else { DType::F32 };
    Ok(like.unflatten(Tensor::from_data(TensorData::new(values, [n]), (&device, dtype)))?)
}

/// The elements of a tree on the host.
pub(crate) fn elements(tree: &Tree) -> Vec<f64> {
    tree.to_data().iter().flat_map(|(_, data)| data.iter::<f64>().collect::<Vec<_>>()).collect()
}

/// A tree of the structure of `like` with these elements.
pub(crate) fn from_elements(like: &Tree, values: Vec<f64>) -> Result<Tree> {
    use burn::tensor::{DType, Tensor, TensorData};
    let n = values.len();
    let device = like.device().unwrap_or_default();
    let dtype = if like.flatten()?.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
    Ok(like.unflatten(Tensor::from_data(TensorData::new(values, [n]), (&device, dtype)))?)
}

/// The solution of a dense system, for tests.
#[cfg(test)]
pub(crate) fn solve_dense(n: usize, rows: Vec<f64>, b: Vec<f64>) -> Result<Vec<f64>> {
    matrix::Matrix { n, rows }.solve(b, "the matrix")
}
