//! A rounding that gradients pass as if it were the identity.

use burn::tensor::Tensor;

use crate::error::Result;

/// `round(x)`; under autodiff with the gradient 1 where `|x| <= limit`, else 0.
///
/// The value is `q − (x' − x')` with the second `x'` on the tape, where `x'` is `x` with what is outside set to zero: equal
/// to `q` bit for bit.
pub(crate) fn apply<const D: usize>(
    x: Tensor<D>,
    limit: f64,
    round: impl FnOnce(Tensor<D>) -> Result<Tensor<D>>,
) -> Result<Tensor<D>> {
    apply_within(x, -limit, limit, round)
}

/// As [`apply`] with the gradient 1 where `low <= x <= high`.
pub(crate) fn apply_within<const D: usize>(
    x: Tensor<D>,
    low: f64,
    high: f64,
    round: impl FnOnce(Tensor<D>) -> Result<Tensor<D>>,
) -> Result<Tensor<D>> {
    if !x.is_autodiff() {
        return round(x);
    }
    let rounded = Tensor::from_inner(round(x.clone().inner())?);
    let held = x.clone().detach();
    let inside = match low == -high {
        true => held.abs().lower_equal_elem(high),
        false => held.clone().greater_equal_elem(low).bool_and(held.lower_equal_elem(high)),
    };
    let x = x.mask_fill(inside.bool_not(), 0.0);
    Ok(rounded - (x.clone().detach() - x))
}
