//! Maximum pooling of host tensors, and the gathering of a tangent where the maxima were.
//!
//! Burn's host kernels look at one window at a time. Here a row of windows is compared at once, in loops that the compiler turns
//! into vector code. Values and indices are those of Burn's flex: the first largest element, the last NaN if there is one.

use burn::backend::ops::{FloatTensorOps, IntTensorOps};
use burn::backend::{Dispatch, DispatchTensor, TensorMetadata};
use burn::tensor::{DType, Element, Shape, TensorData};
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::host::{self, Indices, Slice};
use super::slices::Real;

/// Below this many elements a second thread costs more than it brings.
const PARALLEL: usize = 1 << 15;

/// Largest elements of the windows of a `[batch, channels, height, width]` tensor, and where they are in their planes.
///
/// Without padding and dilation. `None` where there is no kernel: not on the host, not in `f32` or `f64`, or with indices of
/// another type than `i32` and `i64`.
pub(crate) fn max_pool2d(
    x: &DispatchTensor,
    kernel: [usize; 2],
    stride: [usize; 2],
    index: DType,
) -> Option<(DispatchTensor, DispatchTensor)> {
    if !host::is_host(x) {
        return None;
    }
    let x = host::contiguous(x.clone());
    match (host::slice(&x)?, index) {
        (Slice::F32(slice), DType::I32) => windows::<_, i32>(&x, slice, kernel, stride),
        (Slice::F32(slice), DType::I64) => windows::<_, i64>(&x, slice, kernel, stride),
        (Slice::F64(slice), DType::I32) => windows::<_, i32>(&x, slice, kernel, stride),
        (Slice::F64(slice), DType::I64) => windows::<_, i64>(&x, slice, kernel, stride),
        _ => None,
    }
}

fn windows<E: Real + PartialOrd, I: Element + From<i32>>(
    x: &DispatchTensor,
    slice: &[E],
    kernel: [usize; 2],
    stride: [usize; 2],
) -> Option<(DispatchTensor, DispatchTensor)> {
    let shape = x.shape();
    let [height, width] = [shape[2], shape[3]];
    let count = |size: usize, axis: usize| Some(size.checked_sub(kernel[axis])? / stride[axis] + 1);
    let out = [count(height, 0)?, count(width, 1)?];
    let (plane, small) = (height * width, out[0] * out[1]);
    if slice.is_empty() || kernel.contains(&0) || i32::try_from(plane).is_err() {
        return None;
    }
    let planes = slice.len() / plane;
    let mut values = vec![E::ZERO; planes * small];
    let mut indices = vec![I::from(0); planes * small];
    let arch = Arch::new();
    let run = |((values, indices), x): ((&mut [E], &mut [I]), &[E])| {
        arch.dispatch(Plane { x, values, indices, width, out, kernel, stride });
    };
    match slice.len() < PARALLEL {
        true => values.chunks_mut(small).zip(indices.chunks_mut(small)).zip(slice.chunks(plane)).for_each(run),
        false => values
            .par_chunks_mut(small)
            .zip(indices.par_chunks_mut(small))
            .zip(slice.par_chunks(plane))
            .with_min_len(PARALLEL.div_ceil(2 * plane))
            .for_each(run),
    }
    let shape = Shape::new([shape[0], shape[1], out[0], out[1]]);
    let device = x.device();
    let values = Dispatch::float_from_data(TensorData::new(values, shape.clone()), &device);
    Some((values, Dispatch::int_from_data(TensorData::new(indices, shape), &device)))
}

struct Plane<'a, E, I> {
    x: &'a [E],
    values: &'a mut [E],
    indices: &'a mut [I],
    width: usize,
    out: [usize; 2],
    kernel: [usize; 2],
    stride: [usize; 2],
}

impl<E: Real + PartialOrd, I: From<i32>> WithSimd for Plane<'_, E, I> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        let Plane { x, values, indices, width, out, kernel, stride } = self;
        let mut places = vec![0i32; out[1]];
        for (row, (values, indices)) in
            values.chunks_exact_mut(out[1]).zip(indices.chunks_exact_mut(out[1])).enumerate()
        {
            for i in 0..kernel[0] {
                for j in 0..kernel[1] {
                    let start = (row * stride[0] + i) * width + j;
                    let line = &x[start..];
                    match stride[1] {
                        1 => compare::<E, 1>(line, values, &mut places, start, i + j == 0),
                        2 => compare::<E, 2>(line, values, &mut places, start, i + j == 0),
                        step => {
                            for (column, (value, place)) in values.iter_mut().zip(&mut places).enumerate() {
                                let x = line[column * step];
                                if i + j == 0 || better(x, *value) {
                                    (*value, *place) = (x, (start + column * step) as i32);
                                }
                            }
                        }
                    }
                }
            }
            indices.iter_mut().zip(&places).for_each(|(index, place)| *index = I::from(*place));
        }
    }
}

/// One element of every window of a row against the largest so far.
#[inline(always)]
fn compare<E: Real + PartialOrd, const STEP: usize>(
    line: &[E],
    values: &mut [E],
    places: &mut [i32],
    start: usize,
    first: bool,
) {
    let count = values.len();
    let (line, places) = (&line[..(count - 1) * STEP + 1], &mut places[..count]);
    for column in 0..count {
        let x = line[column * STEP];
        let place = (start + column * STEP) as i32;
        let take = first | better(x, values[column]);
        values[column] = if take { x } else { values[column] };
        places[column] = if take { place } else { places[column] };
    }
}

#[inline(always)]
fn better<E: PartialOrd>(x: E, best: E) -> bool {
    // `x != x`: NaN wins.
    #[allow(clippy::eq_op)]
    let nan = x != x;
    (x > best) | nan
}

/// Picks elements along the last dimension; leading dimensions agree. `None` where there is no kernel.
pub(crate) fn gather_last(tensor: &DispatchTensor, indices: &DispatchTensor) -> Option<DispatchTensor> {
    let (from, shape) = (tensor.shape(), indices.shape());
    let last = from.num_dims().checked_sub(1)?;
    if !host::is_host(tensor) || from.num_dims() != shape.num_dims() || from[..last] != shape[..last] {
        return None;
    }
    let tensor = host::contiguous(tensor.clone());
    if shape.num_elements() == 0 || from[last] == 0 {
        return None;
    }
    Some(match (host::slice(&tensor)?, host::indices(indices)?) {
        (Slice::F32(x), Indices::I32(at)) => picked(&tensor, x, at, |at| at as usize, &shape),
        (Slice::F32(x), Indices::I64(at)) => picked(&tensor, x, at, |at| at as usize, &shape),
        (Slice::F64(x), Indices::I32(at)) => picked(&tensor, x, at, |at| at as usize, &shape),
        (Slice::F64(x), Indices::I64(at)) => picked(&tensor, x, at, |at| at as usize, &shape),
        _ => return None,
    })
}

fn picked<E: Real, I: Copy>(
    like: &DispatchTensor,
    x: &[E],
    places: &[I],
    place: impl Fn(I) -> usize,
    shape: &Shape,
) -> DispatchTensor {
    let (width, count) = (like.shape()[shape.num_dims() - 1], shape[shape.num_dims() - 1]);
    let mut out = vec![E::ZERO; places.len()];
    for ((out, x), places) in out.chunks_mut(count).zip(x.chunks(width)).zip(places.chunks(count)) {
        out.iter_mut().zip(places).for_each(|(out, at)| *out = x[place(*at)]);
    }
    Dispatch::float_from_data(TensorData::new(out, shape.clone()), &like.device())
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::backend::ops::ModuleOps;
    use burn::tensor::{Device, Int, Tensor};

    /// Few values, so that there are ties; NaN now and then.
    fn planes(shape: [usize; 4], dtype: DType, device: &Device, nan: bool) -> DispatchTensor {
        let count = shape.iter().product::<usize>();
        let value = |i: usize| match (i * 2_654_435_761) >> 7 & 63 {
            63 if nan => f64::NAN,
            x => (x % 11) as f64 - 5.0,
        };
        let values: Vec<f64> = (0..count).map(value).collect();
        Tensor::<4>::from_data(TensorData::new(values, shape), (device, dtype)).into_dispatch()
    }

    #[test]
    fn maxima_and_their_places_are_those_of_burn() {
        let device = Device::flex();
        for dtype in [DType::F32, DType::F64] {
            for (shape, kernel, stride) in [
                ([64, 8, 26, 26], [2, 2], [2, 2]),
                ([2, 3, 11, 11], [2, 2], [2, 2]),
                ([2, 3, 9, 20], [3, 2], [1, 1]),
                ([1, 2, 16, 17], [4, 5], [2, 3]),
                ([1, 1, 1, 1], [1, 1], [1, 1]),
            ] {
                for (index, nan) in [(DType::I32, false), (DType::I64, true)] {
                    let x = planes(shape, dtype, &device, nan);
                    let (values, places) = max_pool2d(&x, kernel, stride, index).expect("a kernel");
                    let want = Dispatch::max_pool2d_with_indices(
                        x.clone(),
                        kernel,
                        stride,
                        [0, 0],
                        [1, 1],
                        false,
                        index.into(),
                    );
                    let floats =
                        |x| Tensor::<4>::from_dispatch(x).into_data().iter::<f64>().map(f64::to_bits).collect();
                    let ints = |x| Tensor::<4, Int>::from_dispatch(x).into_data().iter::<i64>().collect();
                    let (got, expected): (Vec<u64>, Vec<u64>) = (floats(values), floats(want.output));
                    assert_eq!(got, expected, "{shape:?}");
                    let (got, expected): (Vec<i64>, Vec<i64>) = (ints(places), ints(want.indices));
                    assert_eq!(got, expected, "{shape:?}");
                }
            }
        }
    }

    #[test]
    fn gathering_agrees_with_burn() {
        for device in crate::testing::host_devices() {
            for dtype in [DType::F32, DType::F64] {
                let x = planes([2, 3, 4, 10], dtype, &device, false);
                let at: Vec<i64> = (0..2 * 3 * 4 * 7).map(|i| i * 5 % 10).collect();
                let at = Tensor::<4, Int>::from_data(TensorData::new(at, [2, 3, 4, 7]), &device).into_dispatch();
                let got = gather_last(&x, &at).expect("a kernel");
                let want = Dispatch::float_gather(3, x, at);
                let data = |x| Tensor::<4>::from_dispatch(x).into_data();
                data(got).assert_eq(&data(want), true);
            }
        }
    }

    #[test]
    fn a_window_larger_than_the_plane_is_left_to_burn() {
        let x = planes([1, 1, 2, 2], DType::F32, &Device::flex(), false);
        assert!(max_pool2d(&x, [3, 1], [1, 1], DType::I64).is_none());
    }
}
