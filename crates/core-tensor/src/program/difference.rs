//! The central difference of a gradient: the fallback where a function cannot be recorded.

use super::error::ProgramError;
use crate::error::{Error, Result};
use crate::tree::Tree;

/// `(∇f(x + hv) − ∇f(x − hv)) / 2h`, an approximation of the Hessian-vector product `∇²f(x)·v`.
///
/// For functions that a [`Program`](crate::Program) cannot record (data-dependent control flow, an operation without a
/// tangent rule) and for checking those that it can. `gradient` is called twice.
///
/// The error is `h²/6` times the third derivative along `v`, plus rounding of about `ε‖∇f‖/h`; with `‖v‖ = 1` a step near
/// `ε^(1/3)` (5e-3 in f32, 6e-6 in f64) balances the two, times the scale of `x`.
///
/// # Errors
/// [`ProgramError::Step`] unless `step` is positive and finite; mismatched trees; whatever `gradient` returns.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use core_tensor::{Tree, central_difference};
/// # fn main() -> core_tensor::Result<()> {
/// let device = Device::default();
/// let x = Tree::empty().push("x", Tensor::<1>::from_data([3.0f32], &device))?;
/// let v = Tree::empty().push("x", Tensor::<1>::from_data([1.0f32], &device))?;
/// // f = x³, so f'' = 6x = 18
/// let hv = central_difference(|x| x.clone().mul(x).map(|g| g.scale(3.0)), &x, &v, 1e-2)?;
/// assert!((hv.norm().value() - 18.0).abs() < 1e-2);
/// # Ok(()) }
/// ```
pub fn central_difference(
    mut gradient: impl FnMut(&Tree) -> Result<Tree>,
    point: &Tree,
    direction: &Tree,
    step: f64,
) -> Result<Tree> {
    if !(step > 0.0 && step.is_finite()) {
        return Err(Error::Program(ProgramError::Step { step }));
    }
    let up = gradient(&point.clone().axpy(step, direction)?)?;
    let down = gradient(&point.clone().axpy(-step, direction)?)?;
    Ok(up.sub(&down)?.scale(0.5 / step))
}
