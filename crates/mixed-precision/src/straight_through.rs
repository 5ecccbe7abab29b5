//! A rounding that gradients pass as if it were the identity.

use burn::tensor::Tensor;
use core_tensor::host;

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
    // What is being recorded has no value to round; the rounding says so.
    if !x.is_autodiff() || host::is_recording(&x.clone().into_dispatch()) {
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

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Tensor};
    use core_tensor::{Program, Tree};

    use crate::{Element, Error, FixedPoint, Format, Mx, NvFp4, Quantizer, Uniform};

    #[test]
    fn a_recording_is_refused_by_name() {
        let x = Tensor::<2>::ones([2, 32], &Device::flex());
        let point = Tree::empty().push("x", x.clone()).unwrap();
        let refused = |what: &'static str, quantise: fn(Tensor<2>) -> Result<Tensor<2>, Error>| {
            let program = Program::record_tree(&point, &x, move |point, batch| {
                for (place, x) in [("the point", point.get::<2>("x").unwrap()), ("the batch", batch.clone())] {
                    let error = quantise(x).expect_err("a recording has no values");
                    assert!(matches!(error, Error::UnsupportedDevice { .. }), "{what} of {place}: {error}");
                }
                point.get::<2>("x").unwrap().square().sum()
            });
            program.unwrap_or_else(|error| panic!("{what}: {error}"));
        };
        refused("a format", |x| Quantizer::new(Format::E4M3FN).fake_quantize(x));
        refused("packing", |x| Quantizer::new(Format::E4M3FN).pack(&x).map(|_| x));
        refused("fixed point", |x| FixedPoint::new(8, 4)?.fake_quantize(x));
        refused("integers", |x| Uniform::symmetric(8)?.fake_quantize(x));
        refused("blocks", |x| Mx::new(Element::Int8)?.fake_quantize(x));
        refused("packed blocks", |x| Mx::new(Format::E2M1FN)?.quantize(&x).map(|_| x));
        refused("two scales", |x| NvFp4::new().fake_quantize(x));
    }
}
