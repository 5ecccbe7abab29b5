//! Rounding `f32` tensors of the host to the numbers of a narrower format, for backends that lack the format.

use burn::backend::DispatchTensor;
use burn::tensor::DType;
use rayon::prelude::*;

use crate::host::{self, SliceMut, vectorised};

/// Elements of one task.
const CHUNK: usize = 1 << 14;
/// Below this many elements a second thread costs more than it brings.
const PARALLEL: usize = 1 << 16;

/// Every element rounded to the nearest number of `f16` or `bf16`, ties to even: the bits of a cast there and back. In place
/// where no one else holds the buffer.
///
/// # Errors
/// The tensor as it was if it is not an `f32` tensor of the host or the format is another.
#[expect(clippy::result_large_err, reason = "the tensor is handed back")]
pub(crate) fn round(tensor: DispatchTensor, to: DType) -> Result<DispatchTensor, DispatchTensor> {
    let kernel: fn(&mut [f32]) = match to {
        DType::BF16 => |x| vectorised(|| x.iter_mut().for_each(|x| *x = bf16(*x))),
        DType::F16 => |x| vectorised(|| x.iter_mut().for_each(|x| *x = f16(*x))),
        _ => return Err(tensor),
    };
    let (tensor, done) = host::update(tensor, |x| match x {
        SliceMut::F32(x) if x.len() < PARALLEL => {
            kernel(x);
            true
        }
        SliceMut::F32(x) => {
            x.par_chunks_mut(CHUNK).for_each(kernel);
            true
        }
        _ => false,
    })?;
    if done { Ok(tensor) } else { Err(tensor) }
}

/// The nearest number of `bf16`: the upper half of the bits, after a carry out of the lower.
#[inline(always)]
pub(crate) fn bf16(x: f32) -> f32 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) & 0xffff_0000;
    // A carry must not turn a NaN into an infinity or a zero.
    let nan = (bits | 0x0040_0000) & 0xffff_0000;
    f32::from_bits(if bits & 0x7fff_ffff > 0x7f80_0000 { nan } else { rounded })
}

/// The nearest number of `f16`.
#[inline(always)]
pub(crate) fn f16(x: f32) -> f32 {
    let bits = x.to_bits();
    let (sign, magnitude) = (bits & 0x8000_0000, bits & 0x7fff_ffff);
    let normal = magnitude.wrapping_add(0x0fff + ((magnitude >> 13) & 1)) & 0xffff_e000;
    // Above 65504 and half a step lies infinity.
    let normal = if normal >= 0x4780_0000 { 0x7f80_0000 } else { normal };
    // Below 2⁻¹⁴ the numbers are multiples of 2⁻²⁴, as those of `f32` between ½ and 1.
    let small = (f32::from_bits(magnitude) + 0.5) - 0.5;
    let rounded = if magnitude < 0x3880_0000 { small.to_bits() } else { normal };
    let nan = (magnitude | 0x0040_0000) & 0xffff_e000;
    f32::from_bits(sign | if magnitude > 0x7f80_0000 { nan } else { rounded })
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, Tensor, bf16 as Brain, f16 as Half};

    #[test]
    fn every_number_and_its_neighbours_round_as_a_cast_does() {
        // All numbers of both formats, the middles between them, and a little to either side.
        for upper in 0..=u16::MAX {
            for lower in [0u32, 1, 0x0fff, 0x1000, 0x1001, 0x1fff, 0x2000, 0x3000, 0x7fff, 0x8000, 0x8001, 0xffff] {
                let x = f32::from_bits((u32::from(upper) << 16) | lower);
                let (brain, half) = (Brain::from_f32(x).to_f32(), Half::from_f32(x).to_f32());
                assert_eq!(bf16(x).to_bits(), brain.to_bits(), "{x:e}");
                assert_eq!(f16(x).to_bits(), half.to_bits(), "{x:e}");
            }
        }
    }

    #[test]
    fn tensors_of_any_length_and_order() {
        for device in crate::testing::host_devices() {
            for length in [0, 7, PARALLEL + 5] {
                let values: Vec<f32> = (0..length).map(|i| (i as f32 * 0.37).sin() * 1e3).collect();
                let x = Tensor::<1>::from_data(values.as_slice(), &device);
                for (dtype, one) in [(DType::BF16, bf16 as fn(f32) -> f32), (DType::F16, f16)] {
                    let y = round(x.clone().into_dispatch(), dtype).expect("an f32 tensor of the host");
                    let expected: Vec<f32> = values.iter().map(|x| one(*x)).collect();
                    assert_eq!(Tensor::<1>::from_dispatch(y).into_data().try_to_vec::<f32>().unwrap(), expected);
                }
                assert_eq!(x.into_data().try_to_vec::<f32>().unwrap(), values, "a held buffer is not written");
            }
            let wide = Tensor::<1>::from_data([1.5f64], (&device, DType::F64)).into_dispatch();
            assert!(round(wide, DType::BF16).is_err());
        }
        let tracked = Tensor::<1>::ones([1], &Device::flex().autodiff()).into_dispatch();
        assert!(round(tracked, DType::BF16).is_err());
    }
}
