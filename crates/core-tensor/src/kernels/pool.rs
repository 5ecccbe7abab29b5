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
