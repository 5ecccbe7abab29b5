//! The same reductions as tensor operations, with nothing read back: for devices whose memory the
//! host cannot reach, and for leaves that are being recorded or differentiated.
//!
//! Norms and dot products divide by the largest magnitude first. Recorded leaves are reduced by the
//! plain formula, whose derivative is simpler.

use burn::backend::{DispatchTensor, TensorMetadata};
use burn::tensor::{DType, Device, Tensor};

use super::generic::{flat, is_recorded, widen};

/// `Σ x·y` over pairs of leaves of one shape.
pub(crate) fn dot(pairs: &[(&DispatchTensor, &DispatchTensor)]) -> Tensor<1> {
    let (xs, ys): (Vec<_>, Vec<_>) = pairs.iter().copied().unzip();
    let recorded = xs.iter().chain(&ys).any(|x| is_recorded(x));
    let xs = vectors(&xs);
    let ys = vectors(&ys).into_iter().map(|y| on(y, &xs[0].device()));
    let ys: Vec<Tensor<1>> = ys.collect();
    let pairs = xs.iter().cloned().zip(ys.iter().cloned());
    if recorded {
        let products = pairs.map(|(x, y)| {
            let (x, y) = common(x, y);
            (x * y).sum()
        });
        return gather(products.collect()).sum();
    }
    let (a, b) = (unit(largest(&xs)), unit(largest(&ys)));
    let products = pairs.map(|(x, y)| {
        let (x, y) = common(x, y);
        (over(x, &a) * over(y, &b)).sum()
    });
    let sum = gather(products.collect()).sum();
    // Twice the geometric mean rather than both: it only leaves the range if the result does.
    let (a, b) = common(a, b);
    let root = a.sqrt() * b.sqrt();
    times(times(sum, root.clone()), root)
}

/// `√Σ x²`.
pub(crate) fn norm(leaves: &[&DispatchTensor]) -> Tensor<1> {
    let xs = vectors(leaves);
    let square = |x: Tensor<1>| (x.clone() * x).sum();
    if leaves.iter().any(|x| is_recorded(x)) {
        return gather(xs.into_iter().map(square).collect()).sum().sqrt();
    }
    let unit = unit(largest(&xs));
    let squares = xs.into_iter().map(|x| square(over(x, &unit)));
    times(gather(squares.collect()).sum().sqrt(), unit)
}

/// `(Σ |x|^p)^(1/p)` for `1 <= p < ∞`.
pub(crate) fn norm_p(leaves: &[&DispatchTensor], p: f64) -> Tensor<1> {
    let xs = vectors(leaves);
    let unit = unit(largest(&xs));
    let powers = xs.into_iter().map(|x| over(x.abs(), &unit).powf_scalar(p).sum());
    let total = gather(powers.collect()).sum().powf_scalar(1.0 / p);
    times(total, unit)
}

/// `max |x|`.
pub(crate) fn max_abs(leaves: &[&DispatchTensor]) -> Tensor<1> {
    largest(&vectors(leaves))
}

/// `Σ |x|`, or `Σ x`.
pub(crate) fn sum(leaves: &[&DispatchTensor], absolute: bool) -> Tensor<1> {
    let sums = vectors(leaves).into_iter().map(|x| match absolute {
        true => x.abs().sum(),
        false => x.sum(),
    });
    gather(sums.collect()).sum()
}

/// 1 if every element is finite, else 0.
pub(crate) fn is_finite(leaves: &[&DispatchTensor]) -> Tensor<1> {
    let bad = vectors(leaves).into_iter().map(|x| {
        let dtype = x.dtype();
        let bad = x.clone().is_nan().bool_or(x.is_inf());
        cast(bad.any().float(), dtype)
    });
    let bad = gather(bad.collect()).sum();
    let dtype = bad.dtype();
    cast(bad.equal_scalar(0.0).float(), dtype)
}

/// Both in `f64` if one is.
pub(crate) fn common(x: Tensor<1>, y: Tensor<1>) -> (Tensor<1>, Tensor<1>) {
    match x.dtype() == DType::F64 || y.dtype() == DType::F64 {
        true => (cast(x, DType::F64), cast(y, DType::F64)),
        false => (x, y),
    }
}

/// The leaves that have elements, as vectors on the device of the first; one zero if none has any.
fn vectors(leaves: &[&DispatchTensor]) -> Vec<Tensor<1>> {
    let device = Device::new(leaves[0].device());
    let vectors: Vec<Tensor<1>> = leaves
        .iter()
        .filter(|x| x.shape().num_elements() > 0)
        .map(|&x| flat(widen(x.clone())))
        .map(|x| on(x, &device))
        .collect();
    match vectors.is_empty() {
        true => vec![Tensor::zeros([1], (&device, DType::F32))],
        false => vectors,
    }
}

/// One-element tensors as one vector, of the widest dtype among them.
fn gather(scalars: Vec<Tensor<1>>) -> Tensor<1> {
    if scalars.len() == 1 {
        return scalars.into_iter().next().expect("one scalar");
    }
    let dtype = match scalars.iter().any(|x| x.dtype() == DType::F64) {
        true => DType::F64,
        false => DType::F32,
    };
    let scalars = scalars.into_iter().map(|x| cast(x, dtype)).collect();
    Tensor::cat(scalars, 0)
}

fn largest(xs: &[Tensor<1>]) -> Tensor<1> {
    gather(xs.iter().map(|x| x.clone().max_abs()).collect()).max()
}

/// What to divide by: the largest magnitude, or 1 where that is 0 or not finite.
fn unit(largest: Tensor<1>) -> Tensor<1> {
    let max = match largest.dtype() {
        DType::F64 => f64::MAX,
        _ => f64::from(f32::MAX),
    };
    let usable = largest.clone().greater_scalar(0.0).bool_and(largest.clone().lower_equal_scalar(max));
    largest.mask_fill(usable.bool_not(), 1.0)
}

fn over(x: Tensor<1>, unit: &Tensor<1>) -> Tensor<1> {
    let unit = cast(unit.clone(), x.dtype());
    x / unit
}

fn times(x: Tensor<1>, unit: Tensor<1>) -> Tensor<1> {
    let (x, unit) = common(x, unit);
    x * unit
}

fn cast(x: Tensor<1>, dtype: DType) -> Tensor<1> {
    match x.dtype() == dtype {
        true => x,
        false => x.cast(dtype),
    }
}

fn on(x: Tensor<1>, device: &Device) -> Tensor<1> {
    match x.device() == *device {
        true => x,
        false => x.to_device(device),
    }
}

#[cfg(test)]
mod tests {
    use super::super::host_reduce;
    use super::*;
    use burn::tensor::TensorData;

    #[test]
    fn tensor_operations_agree_with_the_host_loops() {
        let device = Device::flex();
        let cases: [&[f64]; 7] = [
            &[3.0, -4.0],
            &[1e19, 1e19, -1e19],
            &[1e-30; 9],
            &[1e38, 1e-38],
            &[0.0, 0.0],
            &[1.0, f64::INFINITY],
            &[1.0, f64::NAN],
        ];
        for (values, dtype) in cases.iter().flat_map(|v| [(v, DType::F32), (v, DType::F64)]) {
            let data = TensorData::new(values.to_vec(), [values.len()]);
            let x = Tensor::<1>::from_data(data, (&device, dtype)).into_dispatch();
            let one = Tensor::<1>::ones([values.len()], (&device, dtype)).into_dispatch();
            let results = [
                (norm(&[&x]), host_reduce::norm(&[&x])),
                (norm(&[&x, &one]), host_reduce::norm(&[&x, &one])),
                (norm_p(&[&x], 3.0), host_reduce::norm_p(&[&x], 3.0)),
                (max_abs(&[&x]), host_reduce::max_abs(&[&x])),
                (sum(&[&x], false), host_reduce::sum(&[&x], false)),
                (sum(&[&x], true), host_reduce::sum(&[&x], true)),
                (is_finite(&[&x]), host_reduce::is_finite(&[&x])),
                (dot(&[(&x, &x)]), host_reduce::dot(&[(&x, &x)])),
                (dot(&[(&x, &one)]), host_reduce::dot(&[(&x, &one)])),
            ];
            for (i, (device, host)) in results.into_iter().enumerate() {
                assert_eq!(device.dims(), [1]);
                assert_eq!(device.dtype(), dtype);
                let device = device.into_data().iter::<f64>().next().unwrap();
                let agree = device == host
                    || (device.is_nan() && host.is_nan())
                    || (device / host - 1.0).abs() < 1e-5
                    || device == f64::from(host as f32);
                assert!(agree, "reduction {i} of {values:?}: {device}, host {host}");
            }
        }
    }
}
