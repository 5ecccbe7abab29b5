//! Two-dimensional convolutions of host tensors in `f32`: step 1, no dilation, one group, any padding.
//!
//! The sum over taps is taken for a vector of neighbouring positions of [`CHANNELS`] output channels at a time, in registers, with
//! no copy of the input but for padding. Positions run on over the end of a row into the next, as the input's rows follow one
//! another in memory; what falls between two output rows is computed and not written. The gradient with respect to the input is
//! a convolution of the padded gradient with the turned weight; that with respect to the weight is a sum over positions.
//!
//! Results do not depend on the number of threads. Where an input is not finite, the gradients of all weights that read its
//! channel may be NaN.

use burn::backend::ops::FloatTensorOps;
use burn::backend::{Dispatch, DispatchTensor, TensorMetadata};
use burn::tensor::{Shape, TensorData};
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::host::{self, Slice};
use super::slices;

/// Output channels at a time.
const CHANNELS: usize = 8;
/// Images whose gradients one task adds up.
const IMAGES: usize = 8;
/// More than the lanes of any vector.
const SLACK: usize = 64;
/// The deepest sum: beyond it the weights of [`CHANNELS`] outputs leave the first-level cache and a blocked product is faster.
const DEPTH: usize = 1 << 10;

/// `x ⋆ weight + bias`. `None` where there is no kernel.
pub(crate) fn conv2d(
    x: &DispatchTensor,
    weight: &DispatchTensor,
    bias: Option<&DispatchTensor>,
    padding: [usize; 2],
) -> Option<DispatchTensor> {
    let (x, weight) = (dense(x)?, dense(weight)?);
    let bias = match bias {
        Some(bias) => Some(dense(bias)?),
        None => None,
    };
    let [outputs, inputs, height, width] = weight.shape().dims();
    let (values, size) = (floats(&weight), height * width);
    let taps = packed(outputs, inputs * size, |o, tap| values[o * inputs * size + tap]);
    correlate(&x, &taps, [outputs, height, width], padding, bias.as_ref().map(floats))
}

/// The gradient with respect to an input of shape `of`.
pub(crate) fn conv2d_x_backward(
    of: &Shape,
    weight: &DispatchTensor,
    grad: &DispatchTensor,
    padding: [usize; 2],
) -> Option<DispatchTensor> {
    let (weight, grad) = (dense(weight)?, dense(grad)?);
    let [outputs, inputs, height, width] = weight.shape().dims();
    let padding = [height.checked_sub(1 + padding[0])?, width.checked_sub(1 + padding[1])?];
    let (values, size) = (floats(&weight), height * width);
    let taps = packed(inputs, outputs * size, |i, tap| {
        let (o, tap) = (tap / size, tap % size);
        values[(o * inputs + i) * size + size - 1 - tap]
    });
    correlate(&grad, &taps, [inputs, height, width], padding, None).filter(|out| out.shape() == *of)
}

/// The gradient with respect to a weight of shape `of`.
pub(crate) fn conv2d_weight_backward(
    x: &DispatchTensor,
    of: &Shape,
    grad: &DispatchTensor,
    padding: [usize; 2],
) -> Option<DispatchTensor> {
    let (x, grad) = (dense(x)?, dense(grad)?);
    let [_, inputs, height, width] = x.shape().dims();
    let [_, outputs, rows, columns] = grad.shape().dims();
    let plane = Planes { channels: inputs, size: [height, width], padding };
    if plane.outputs([of[2], of[3]])? != [rows, columns] || inputs * of[2] * of[3] > DEPTH {
        return None;
    }
    let weight = Weight { plane, taps: plane.offsets([of[2], of[3]]), outputs, rows, columns };
    let parts = weight.parts(&x, &grad, IMAGES);
    let count = weight.taps.len();
    let sum = |o: usize, tap: usize| parts.iter().map(|part| part[tap * outputs + o]).sum();
    let out: Vec<f32> = (0..outputs * count).map(|at| sum(at / count, at % count)).collect();
    Some(rebuild(&x, out, of.clone()))
}

/// The same for a convolution of as many groups as `images`, on an input of one image: the gradient of each group's weight.
///
/// Groups of one image lie in memory as images of one group do.
pub(crate) fn conv2d_weight_backward_each(
    x: &DispatchTensor,
    of: &Shape,
    grad: &DispatchTensor,
    padding: [usize; 2],
    images: usize,
) -> Option<DispatchTensor> {
    let (x, grad) = (dense(x)?, dense(grad)?);
    let [batch, inputs, height, width] = x.shape().dims();
    let [_, outputs, rows, columns] = grad.shape().dims();
    let (inputs, outputs) = (inputs / images, outputs / images);
    let plane = Planes { channels: inputs, size: [height, width], padding };
    let fits = batch == 1 && plane.outputs([of[2], of[3]])? == [rows, columns] && inputs * of[2] * of[3] <= DEPTH;
    if !fits {
        return None;
    }
    let weight = Weight { plane, taps: plane.offsets([of[2], of[3]]), outputs, rows, columns };
    let count = weight.taps.len();
    let mut out = Vec::with_capacity(images * outputs * count);
    for part in weight.parts(&x, &grad, 1) {
        out.extend((0..outputs * count).map(|at| part[at % count * outputs + at / count]));
    }
    Some(rebuild(&x, out, of.clone()))
}

/// The gradient with respect to the bias: the sum of each channel.
pub(crate) fn conv2d_bias_backward(grad: &DispatchTensor) -> Option<DispatchTensor> {
    let grad = dense(grad)?;
    let [_, channels, rows, columns] = grad.shape().dims();
    let mut out = vec![0.0f64; channels];
    for (position, plane) in floats(&grad).chunks_exact(rows * columns).enumerate() {
        out[position % channels] += slices::sum(plane, |x| x);
    }
    let out = out.into_iter().map(|x| x as f32).collect();
    Some(rebuild(&grad, out, Shape::new([channels])))
}

/// A tensor of the host in `f32`, in row-major order, with elements.
fn dense(x: &DispatchTensor) -> Option<DispatchTensor> {
    if !host::is_host(x) || x.shape().num_elements() == 0 {
        return None;
    }
    let x = host::contiguous(x.clone());
    matches!(host::slice(&x), Some(Slice::F32(_))).then_some(x)
}

fn floats(x: &DispatchTensor) -> &[f32] {
    match host::slice(x) {
        Some(Slice::F32(slice)) => slice,
        _ => unreachable!("a dense tensor is in f32"),
    }
}

fn rebuild(like: &DispatchTensor, values: Vec<f32>, shape: Shape) -> DispatchTensor {
    Dispatch::float_from_data(TensorData::new(values, shape), &like.device())
}

/// The planes of one image.
#[derive(Clone, Copy)]
struct Planes {
    channels: usize,
    size: [usize; 2],
    padding: [usize; 2],
}

impl Planes {
    fn padded(&self) -> [usize; 2] {
        [self.size[0] + 2 * self.padding[0], self.size[1] + 2 * self.padding[1]]
    }

    /// Rows and columns of the positions that a kernel has.
    fn outputs(&self, kernel: [usize; 2]) -> Option<[usize; 2]> {
        let [height, width] = self.padded();
        Some([(height + 1).checked_sub(kernel[0])?, (width + 1).checked_sub(kernel[1])?])
            .filter(|out| !out.contains(&0))
    }

    /// Where each channel's taps are, from a position of the first channel.
    fn offsets(&self, kernel: [usize; 2]) -> Vec<usize> {
        let [height, width] = self.padded();
        let taps = move |channel| {
            (0..kernel[0]).flat_map(move |i| (0..kernel[1]).map(move |j| (channel * height + i) * width + j))
        };
        (0..self.channels).flat_map(taps).collect()
    }

    /// An image with its padding.
    fn pad(&self, image: &[f32], out: &mut [f32]) {
        let ([_, wide], [top, left], width) = (self.padded(), self.padding, self.size[1]);
        let tall = self.padded()[0];
        for (row, line) in image.chunks_exact(width).enumerate() {
            let (channel, row) = (row / self.size[0], row % self.size[0]);
            out[(channel * tall + top + row) * wide + left..][..width].copy_from_slice(line);
        }
    }
}

/// Weights of [`CHANNELS`] outputs at a time, by taps; zero beyond the last output.
fn packed(outputs: usize, taps: usize, weight: impl Fn(usize, usize) -> f32) -> Vec<[f32; CHANNELS]> {
    let block = |first: usize| {
        let weight = &weight;
        (0..taps).map(move |tap| {
            std::array::from_fn(|channel| match first + channel < outputs {
                true => weight(first + channel, tap),
                false => 0.0,
            })
        })
    };
    (0..outputs).step_by(CHANNELS).flat_map(block).collect()
}

fn correlate(
    x: &DispatchTensor,
    weights: &[[f32; CHANNELS]],
    [outputs, height, width]: [usize; 3],
    padding: [usize; 2],
    bias: Option<&[f32]>,
) -> Option<DispatchTensor> {
    let [batch, channels, rows, columns] = x.shape().dims();
    let planes = Planes { channels, size: [rows, columns], padding };
    let out = planes.outputs([height, width])?;
    let taps = planes.offsets([height, width]);
    if taps.len() > DEPTH {
        return None;
    }
    let mut values = vec![0.0; batch * outputs * out[0] * out[1]];
    let arch = Arch::new();
    values
        .par_chunks_mut(outputs * out[0] * out[1])
        .zip(floats(x).par_chunks(channels * rows * columns))
        .for_each(|(values, image)| arch.dispatch(Image { planes, taps: &taps, weights, bias, image, out, values }));
    Some(rebuild(x, values, Shape::new([batch, outputs, out[0], out[1]])))
}

/// The convolution of one image.
struct Image<'a> {
    planes: Planes,
    taps: &'a [usize],
    weights: &'a [[f32; CHANNELS]],
    bias: Option<&'a [f32]>,
    image: &'a [f32],
    out: [usize; 2],
    values: &'a mut [f32],
}

impl WithSimd for Image<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Image { planes, taps, weights, bias, image, out: [rows, columns], values } = self;
        let [tall, wide] = planes.padded();
        // Room for the vectors that reach over the last position.
        let mut padded = vec![0.0; planes.channels * tall * wide + SLACK];
        planes.pad(image, &mut padded);
        // Output rows as far apart as input rows.
        let length = ((rows - 1) * wide + columns).next_multiple_of(S::F32_LANES);
        let mut full = vec![0.0; CHANNELS * length];
        for (block, (weights, values)) in
            weights.chunks_exact(taps.len()).zip(values.chunks_mut(CHANNELS * rows * columns)).enumerate()
        {
            let start: [S::f32s; CHANNELS] = std::array::from_fn(|channel| {
                let bias = bias.and_then(|bias| bias.get(block * CHANNELS + channel));
                simd.splat_f32s(bias.copied().unwrap_or(0.0))
            });
            for position in (0..length).step_by(S::F32_LANES) {
                let mut sums = start;
                for (tap, weights) in taps.iter().zip(weights) {
                    let x = S::as_simd_f32s(&padded[position + tap..][..S::F32_LANES]).0[0];
                    for channel in 0..CHANNELS {
                        sums[channel] = simd.mul_add_e_f32s(x, simd.splat_f32s(weights[channel]), sums[channel]);
                    }
                }
                for (channel, sum) in sums.into_iter().enumerate() {
                    S::as_mut_simd_f32s(&mut full[channel * length + position..][..S::F32_LANES]).0[0] = sum;
                }
            }
            for (values, full) in values.chunks_mut(rows * columns).zip(full.chunks_exact(length)) {
                for (row, values) in values.chunks_exact_mut(columns).enumerate() {
                    values.copy_from_slice(&full[row * wide..][..columns]);
                }
            }
        }
    }
}

/// The gradient with respect to the weight.
struct Weight {
    plane: Planes,
    taps: Vec<usize>,
    outputs: usize,
    rows: usize,
    columns: usize,
}

impl Weight {
    /// What each so many images add to it: by taps, then by outputs.
    fn parts(&self, x: &DispatchTensor, grad: &DispatchTensor, images: usize) -> Vec<Vec<f32>> {
        let arch = Arch::new();
        let [height, width] = self.plane.size;
        floats(x)
            .par_chunks(images * self.plane.channels * height * width)
            .zip(floats(grad).par_chunks(images * self.outputs * self.rows * self.columns))
            .map(|(x, grad)| arch.dispatch(WeightPart { weight: self, x, grad }))
            .collect()
    }
}

/// Its part from some images: by taps, then by outputs.
struct WeightPart<'a> {
    weight: &'a Weight,
    x: &'a [f32],
    grad: &'a [f32],
}

impl WithSimd for WeightPart<'_> {
    type Output = Vec<f32>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Vec<f32> {
        let Weight { plane, taps, outputs, rows, columns } = self.weight;
        let (outputs, rows, columns) = (*outputs, *rows, *columns);
        let [tall, wide] = plane.padded();
        let mut padded = vec![0.0; plane.channels * tall * wide + SLACK];
        let length = ((rows - 1) * wide + columns).next_multiple_of(S::F32_LANES);
        // Zero between rows and beyond the last output.
        let blocks = outputs.div_ceil(CHANNELS);
        let mut full = vec![0.0; blocks * CHANNELS * length];
        let mut sums = vec![[simd.splat_f32s(0.0); CHANNELS]; blocks * taps.len()];
        let images = self.x.chunks_exact(plane.channels * plane.size[0] * plane.size[1]);
        for (x, grad) in images.zip(self.grad.chunks_exact(outputs * rows * columns)) {
            plane.pad(x, &mut padded);
            for (row, line) in grad.chunks_exact(columns).enumerate() {
                let (channel, row) = (row / rows, row % rows);
                full[channel * length + row * wide..][..columns].copy_from_slice(line);
            }
            for (full, sums) in full.chunks_exact(CHANNELS * length).zip(sums.chunks_exact_mut(taps.len())) {
                for (tap, sums) in taps.iter().zip(sums) {
                    let mut local = *sums;
                    for position in (0..length).step_by(S::F32_LANES) {
                        let x = S::as_simd_f32s(&padded[position + tap..][..S::F32_LANES]).0[0];
                        for channel in 0..CHANNELS {
                            let grad = &full[channel * length + position..][..S::F32_LANES];
                            local[channel] = simd.mul_add_e_f32s(x, S::as_simd_f32s(grad).0[0], local[channel]);
                        }
                    }
                    *sums = local;
                }
            }
        }
        let mut out = vec![0.0; taps.len() * outputs];
        for (tap, out) in out.chunks_exact_mut(outputs).enumerate() {
            for (output, out) in out.iter_mut().enumerate() {
                let sum = sums[output / CHANNELS * taps.len() + tap][output % CHANNELS];
                *out = simd.reduce_sum_f32s(sum);
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::backend::ops::{ConvOptions, ModuleOps};
    use burn::tensor::{Distribution, Tensor, TensorData, Tolerance};

    /// Batch, input channels, output channels; size, kernel, padding.
    const CASES: [([usize; 3], [[usize; 2]; 3]); 6] = [
        ([1, 1, 1], [[1, 1], [1, 1], [0, 0]]),
        ([2, 3, 4], [[7, 5], [3, 3], [0, 0]]),
        ([3, 1, 8], [[28, 28], [3, 3], [0, 0]]),
        ([9, 8, 17], [[13, 13], [3, 3], [1, 1]]),
        ([2, 2, 3], [[6, 40], [2, 5], [1, 4]]),
        ([17, 5, 9], [[4, 4], [4, 4], [2, 0]]),
    ];

    fn check(name: &str, got: Option<DispatchTensor>, want: DispatchTensor) {
        let got = got.unwrap_or_else(|| panic!("{name}: no kernel"));
        assert_eq!(got.shape(), want.shape(), "{name}");
        let data = |x: DispatchTensor| {
            let flat = x.shape().num_elements();
            Tensor::<1>::from_dispatch(Dispatch::float_reshape(x, Shape::new([flat]))).into_data()
        };
        data(got).assert_approx_eq::<f32>(&data(want), Tolerance::rel_abs(1e-4, 1e-4));
    }

    #[test]
    fn convolutions_and_their_gradients_are_those_of_burn() {
        for device in crate::testing::host_devices() {
            for ([batch, inputs, outputs], [size, kernel, padding]) in CASES {
                let draw = |shape: [usize; 4]| {
                    Tensor::<4>::random(shape, Distribution::Normal(0.0, 1.0), &device).into_dispatch()
                };
                let x = draw([batch, inputs, size[0], size[1]]);
                let weight = draw([outputs, inputs, kernel[0], kernel[1]]);
                let bias = Tensor::<1>::random([outputs], Distribution::Default, &device).into_dispatch();
                let options = || ConvOptions::new([1, 1], padding, [1, 1], 1);
                let out = Dispatch::conv2d(x.clone(), weight.clone(), Some(bias.clone()), options());
                check("value", conv2d(&x, &weight, Some(&bias), padding), out.clone());
                let plain = Dispatch::conv2d(x.clone(), weight.clone(), None, options());
                check("without bias", conv2d(&x, &weight, None, padding), plain);
                let grad = draw(out.shape().dims());
                if padding[0] < kernel[0] && padding[1] < kernel[1] {
                    let want = Dispatch::conv2d_x_backward(x.clone(), weight.clone(), grad.clone(), options());
                    check("input", conv2d_x_backward(&x.shape(), &weight, &grad, padding), want);
                }
                let want = Dispatch::conv2d_weight_backward(x.clone(), weight.clone(), grad.clone(), options());
                check("weight", conv2d_weight_backward(&x, &weight.shape(), &grad, padding), want);
                let want = Dispatch::conv2d_bias_backward(x.clone(), bias.clone(), grad.clone());
                check("bias", conv2d_bias_backward(&grad), want);
            }
        }
    }

    #[test]
    fn what_has_no_kernel_is_left_to_burn() {
        let device = crate::testing::host_devices().swap_remove(0);
        let draw = |shape: [usize; 4]| Tensor::<4>::random(shape, Distribution::Default, &device).into_dispatch();
        let (x, weight) = (draw([1, 200, 6, 6]), draw([2, 200, 3, 3]));
        assert!(conv2d(&x, &weight, None, [0, 0]).is_none(), "a sum too deep");
        let large = draw([2, 1, 9, 9]);
        assert!(conv2d(&draw([1, 1, 4, 4]), &large, None, [0, 0]).is_none(), "a kernel larger than the image");
        let wide =
            Tensor::<4>::from_data(TensorData::new(vec![1.0f64], [1, 1, 1, 1]), (&device, burn::tensor::DType::F64));
        let wide = wide.into_dispatch();
        assert!(conv2d(&wide, &wide, None, [0, 0]).is_none(), "another type");
    }
}
