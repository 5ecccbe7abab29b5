//! NVFP4: 4-bit elements, an 8-bit scale for 16 of them, one scale for the tensor.

use burn::tensor::{Device, Tensor};
use core_tensor::host::vectorised;
use rayon::prelude::*;

use crate::blocks::{Blocks, amax};
use crate::error::Result;
use crate::format::{Format, mode, with_mode};
use crate::memory::CHUNK;
use crate::rounding::{Rounding, WideWords, Words};
use crate::{bits, memory, straight_through};

/// Elements of a block.
const BLOCK: usize = 16;

/// Two levels of scales: with the tensor's largest magnitude `A` and a block's `a`,
///
/// `S = min(2688/A, f32::MAX)` (1 for zeros), `s = e4m3fn(min(a·S/6, 448))`, `q = e2m1fn(x·min(1/(s/S), f32::MAX))`
/// saturating at 6, and `x ≈ q·s/S`. 2688 is 6·448.
///
/// | setting | default | effect |
/// |---|---|---|
/// | [`rounding`](Self::rounding) | nearest even | of the elements ([`Rounding`]) |
///
/// Blocks run along the last axis; where it is no multiple of 16 the last block of each row counts as padded with zeros,
/// which are not stored. A tensor with a NaN or an infinity becomes NaN. Signal to quantisation noise of normal numbers
/// 20.43 dB (test `nvfp4::tests::the_noise_is_that_of_the_literature`).
///
/// Cost: three reads and a write of host memory, in place; elsewhere the tensor is read back, and by
/// [`fake_quantize`](Self::fake_quantize) moved there again. NVIDIA, "Pretraining large language models with NVFP4", 2025, arXiv:2509.25149.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use mixed_precision::NvFp4;
///
/// let x = Tensor::<1>::from_data([6.0, 1.1, -0.2, 0.0], &Device::flex());
/// let stored = NvFp4::new().quantize(&x)?;
/// assert_eq!((stored.bytes().len(), stored.scales().len(), stored.global_scale()), (2, 1, 448.0));
/// let y: Tensor<1> = stored.dequantize(&Device::flex())?;
/// assert_eq!(y.into_data().iter::<f64>().collect::<Vec<_>>(), [6.0, 1.0, 0.0, 0.0]);
/// # Ok::<(), mixed_precision::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct NvFp4 {
    rounding: Rounding,
}

/// A tensor in two levels of scales, made by [`NvFp4::quantize`].
#[derive(Clone, Debug, PartialEq)]
pub struct NvFp4Tensor {
    shape: Vec<usize>,
    global: f32,
    scales: Vec<u8>,
    bytes: Vec<u8>,
}

impl NvFp4 {
    /// Elements to nearest.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same with another rounding of the elements.
    pub fn rounding(self, rounding: Rounding) -> Self {
        Self { rounding }
    }

    /// The quantiser of a step, as [`Quantizer::at`](crate::Quantizer::at).
    pub fn at(self, step: u64) -> Self {
        self.rounding(self.rounding.at(step))
    }

    /// Codes and both levels of scales.
    ///
    /// # Errors
    /// [`Error::UnsupportedDevice`](crate::Error::UnsupportedDevice) if the tensor is being recorded and has no elements yet.
    pub fn quantize<const D: usize>(&self, x: &Tensor<D>) -> Result<NvFp4Tensor> {
        let shape = x.dims().to_vec();
        let blocks = Blocks::new(&shape, BLOCK)?;
        let (codec, seed) = (Format::E2M1FN.codec(), self.rounding.seed());
        let (global, scales, bytes) = memory::read(x, "nvfp4", |x| {
            let global = global_scale(x);
            let scales = blocks.map(
                x,
                #[inline(always)]
                |block| block_scale(amax(block), global),
            );
            let bytes = bits::pack(x.len(), 4, |first, codes| {
                let x = &x[first..first + codes.len()];
                let words = Words::new(seed, (first >> 32) as u32);
                with_mode!(self.rounding, MODE => vectorised(#[inline(always)] || {
                    blocks.runs(first, x.len(), #[inline(always)] |block, run| {
                        let (inverse, _) = factors(scales[block], global);
                        let first = (first + run.start) as u32;
                        for ((code, x), i) in codes[run.clone()].iter_mut().zip(&x[run]).zip(0..) {
                            let bits = if MODE == mode::STOCHASTIC { words.get(first + i) } else { 0 };
                            *code = codec.encode_number::<MODE>(*x * inverse, bits, true) as u32;
                        }
                    });
                }));
            });
            (global, scales, bytes)
        })?;
        Ok(NvFp4Tensor { shape, global, scales, bytes })
    }

    /// Every element rounded, in the tensor's shape and dtype; gradients pass straight through.
    ///
    /// # Errors
    /// [`Error::UnsupportedDevice`](crate::Error::UnsupportedDevice) if the tensor is being recorded and has no elements yet.
    pub fn fake_quantize<const D: usize>(&self, x: Tensor<D>) -> Result<Tensor<D>> {
        let blocks = Blocks::new(&x.dims(), BLOCK)?;
        straight_through::apply(x, f64::from(f32::MAX), |x| {
            let (x, ()) = memory::update(x.into_dispatch(), "nvfp4", |x| self.round(x, blocks))?;
            Ok(Tensor::from_dispatch(x))
        })
    }

    fn round(&self, x: &mut [f32], blocks: Blocks) {
        let global = global_scale(x);
        let (codec, seed) = (Format::E2M1FN.codec(), self.rounding.seed());
        with_mode!(self.rounding, MODE => blocks.update(x, #[inline(always)] |first, x| {
            let (inverse, scale) = factors(block_scale(amax(x), global), global);
            let words = WideWords::new(seed, first as u64);
            for (x, i) in x.iter_mut().zip(0..) {
                let bits = if MODE == mode::STOCHASTIC { words.get(i) } else { 0 };
                *x = codec.quantize::<MODE>(*x * inverse, bits, true) * scale;
            }
        }));
    }
}

fn global_scale(x: &[f32]) -> f32 {
    let part = |x: &[f32]| {
        vectorised(
            #[inline(always)]
            || amax(x),
        )
    };
    let largest = amax(&x.par_chunks(CHUNK).map(part).collect::<Vec<f32>>());
    match largest == 0.0 {
        true => 1.0,
        // NaN stays.
        false if largest.is_nan() => f32::NAN,
        false => (2688.0 / largest).min(f32::MAX),
    }
}

#[inline(always)]
fn block_scale(amax: f32, global: f32) -> u8 {
    Format::E4M3FN.codec().encode_number::<{ mode::EVEN }>(amax * global / 6.0, 0, true) as u8
}

/// What elements are multiplied by, and what brings them back.
#[inline(always)]
fn factors(scale: u8, global: f32) -> (f32, f32) {
    let scale = Format::E4M3FN.codec().decode_number(i32::from(scale)) / global;
    let inverse = 1.0 / scale;
    (if inverse > f32::MAX { f32::MAX } else { inverse }, scale)
}

impl NvFp4Tensor {
    /// The shape of the tensor.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The tensor's scale `S`.
    pub fn global_scale(&self) -> f32 {
        self.global
    }

    /// The scale of each block as `e4m3fn` codes, block by block along the rows.
    pub fn scales(&self) -> &[u8] {
        &self.scales
    }

    /// The elements' codes, two a byte, the first in the lower half.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The values as an `f32` tensor: the one that [`NvFp4::fake_quantize`] gives.
    ///
    /// # Errors
    /// [`Error::Parameter`](crate::Error::Parameter) if the tensor has another rank than `D`.
    pub fn dequantize<const D: usize>(&self, device: &Device) -> Result<Tensor<D>> {
        let (blocks, codec) = (Blocks::new(&self.shape, BLOCK)?, Format::E2M1FN.codec());
        let count = self.shape.iter().product();
        let values = bits::unpack(&self.bytes, count, 4, |first, codes, values: &mut [f32]| {
            vectorised(
                #[inline(always)]
                || {
                    blocks.runs(
                        first,
                        codes.len(),
                        #[inline(always)]
                        |block, run| {
                            let (_, scale) = factors(self.scales[block], self.global);
                            let pairs = values[run.clone()].iter_mut().zip(&codes[run]);
                            pairs.for_each(
                                #[inline(always)]
                                |(value, code)| *value = codec.decode_number(*code as i32) * scale,
                            );
                        },
                    );
                },
            );
        });
        memory::tensor(values, &self.shape, device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sqnr;
    use core_tensor::Random;
    use core_tensor::testing::host_devices;

    fn values<const D: usize>(x: Tensor<D>) -> Vec<f32> {
        x.into_data().iter::<f32>().collect()
    }

    #[test]
    fn the_noise_is_that_of_the_literature() {
        let device = Device::flex();
        let x: Tensor<1> = Random::new(2).normal([1 << 20], 0.0, 1.0, &device);
        let got = sqnr(&x, &NvFp4::new().fake_quantize(x.clone()).unwrap()).unwrap();
        assert!((got - 20.43).abs() < 0.05, "{got} dB");
    }

    #[test]
    fn storage_agrees() {
        for device in host_devices() {
            let x: Tensor<2> = Random::new(3).normal([7, 37], 0.0, 3.0, &device);
            for rounding in [Rounding::NearestEven, Rounding::Stochastic(8)] {
                let q = NvFp4::new().rounding(rounding);
                let stored = q.quantize(&x).unwrap();
                assert_eq!((stored.bytes().len(), stored.scales().len()), (130, 21));
                let back = values(stored.dequantize::<2>(&device).unwrap());
                assert_eq!(values(q.fake_quantize(x.clone()).unwrap()), back);
            }
        }
    }

    #[test]
    fn extremes() {
        let device = Device::flex();
        let q = |data: [f32; 4]| values(NvFp4::new().fake_quantize(Tensor::<1>::from_data(data, &device)).unwrap());
        assert_eq!(q([0.0; 4]), [0.0; 4]);
        assert_eq!(q([1e-44, 0.0, 0.0, 0.0])[1..], [0.0; 3], "a scale is never infinite");
        assert!(q([f32::NAN, 1.0, 0.0, 0.0]).iter().all(|x| x.is_nan()));
        let largest = q([3e38, -3e38, 1.0, 0.0]);
        assert!((largest[0] / 3e38 - 1.0).abs() < 1e-6 && largest[1] == -largest[0] && largest[2] == 0.0);
    }
}
