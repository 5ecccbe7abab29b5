//! Rounding on a GPU: one kernel of 32-bit integers for every runtime of CubeCL (wgpu, CUDA), bit for bit the host's.
//!
//! The kernel reads and writes the bits of `f32`, so that no device flushes or rounds anything by itself. Format,
//! rounding and overflow are constants of it: a pipeline each, compiled when first used.

use std::any::Any;

use burn::backend::{BackendTensor, DispatchTensor, DispatchTensorKind, TensorMetadata};
use burn::tensor::DType;
use burn_cubecl::cubecl::{self, calculate_cube_count_elemwise, prelude::*};
use burn_cubecl::kernel::{cast, into_contiguous};
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;

use crate::format::{Codec, mode, with_mode};
use crate::rounding::{Rounding, Words};

/// What the kernel is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Constants {
    mode: u8,
    saturate: bool,
    powers: bool,
    /// Bits that a normal number loses.
    discarded: u32,
    /// The exponent field that the smallest normal number has as an `f32`.
    low: u32,
    /// The unit of subnormal numbers is two to the minus this.
    unit: u32,
    max: u32,
    beyond: u32,
    nan: u32,
    signed_zero: bool,
    nan_is_zero: bool,
}

/// Every element rounded; the tensor as it was where the kernel does not apply: off these runtimes, in `f64`, in a
/// tensor of 2³² elements or more, and where Burn's `fusion` wraps the backend.
#[expect(clippy::result_large_err, reason = "the tensor is handed back")]
pub(crate) fn quantize(
    x: DispatchTensor,
    codec: Codec,
    rounding: Rounding,
    saturate: bool,
) -> Result<DispatchTensor, DispatchTensor> {
    let DispatchTensor { kind, autodiff } = x;
    let DispatchTensorKind::Cube(BackendTensor::Float(x)) = kind else {
        return Err(DispatchTensor { kind, autodiff });
    };
    let fits =
        matches!(x.dtype(), DType::F32 | DType::F16 | DType::BF16) && u32::try_from(x.shape().num_elements()).is_ok();
    let kernel = |x: CubeTensor| launch(x, codec, rounding, saturate);
    let (x, done) = if fits { through(x, kernel) } else { (x, false) };
    let x = DispatchTensor { kind: DispatchTensorKind::Cube(BackendTensor::Float(x)), autodiff };
    if done { Ok(x) } else { Err(x) }
}

/// `f(x)` if `x` is a plain tensor of CubeCL: with `fusion` it is one of another type.
fn through<T: Any>(x: T, f: impl FnOnce(CubeTensor) -> CubeTensor) -> (T, bool) {
    let is = "the type that was asked for";
    let x: Box<dyn Any> = Box::new(x);
    match x.downcast::<CubeTensor>() {
        Ok(x) => {
            let y: Box<dyn Any> = Box::new(f(*x));
            (*y.downcast::<T>().expect(is), true)
        }
        Err(x) => (*x.downcast::<T>().expect(is), false),
    }
}

fn launch(x: CubeTensor, codec: Codec, rounding: Rounding, saturate: bool) -> CubeTensor {
    let dtype = x.dtype();
    if dtype != DType::F32 {
        // Widening is exact, and so is narrowing what the dtype has.
        return cast(launch(cast(x, DType::F32), codec, rounding, saturate), dtype);
    }
    let x = into_contiguous(x);
    let (client, count) = (x.client.clone(), x.shape().num_elements());
    let y = empty_device_contiguous_dtype(client.clone(), x.device.clone(), x.shape(), dtype);
    if count == 0 {
        return y;
    }
    let words = Words::new(rounding.seed(), 0);
    let cubes = CubeDim::new(&client, count);
    fake_quantize::launch(
        &client,
        calculate_cube_count_elemwise(&client, count, cubes),
        cubes,
        x.into_buffer_arg(),
        y.clone().into_buffer_arg(),
        words.low,
        words.high,
        codec.constants(with_mode!(rounding, MODE => MODE), saturate),
    );
    y
}

impl Codec {
    fn constants(self, mode: u8, saturate: bool) -> Constants {
        Constants {
            mode,
            saturate,
            powers: self.is_powers(),
            discarded: 23 - self.mantissa_bits as u32,
            low: self.low as u32,
            unit: (127 - (self.unit.to_bits() >> 23) as i32).max(0) as u32,
            max: self.max_value as u32,
            beyond: self.beyond_value as u32,
            nan: self.nan_value as u32,
            signed_zero: self.signed_zero,
            nan_is_zero: self.nan_is_zero,
        }
    }
}

#[cube(launch)]
fn fake_quantize(input: &[u32], output: &mut [u32], low: u32, high: u32, #[comptime] with: Constants) {
    if ABSOLUTE_POS < output.len() {
        let x = input[ABSOLUTE_POS];
        let sign = x >> 31;
        let magnitude = x & 0x7fff_ffff;
        let bits = word(ABSOLUTE_POS as u32, low, high, with);
        output[ABSOLUTE_POS] = if comptime!(with.powers) {
            power(sign, magnitude, bits, with)
        } else {
            number(sign, magnitude, bits, with)
        };
    }
}

/// The random bits of a position, as [`Words`].
#[cube]
fn word(index: u32, low: u32, high: u32, #[comptime] with: Constants) -> u32 {
    if comptime!(with.mode == mode::STOCHASTIC) { mix(mix(index ^ low) + high) } else { 0u32.runtime() }
}

#[cube]
fn mix(x: u32) -> u32 {
    let x = (x ^ (x >> 16)) * 0x7feb_352d;
    let x = (x ^ (x >> 15)) * 0x846c_a68b;
    x ^ (x >> 16)
}

/// As [`Codec::quantize`].
#[cube]
fn number(sign: u32, magnitude: u32, bits: u32, #[comptime] with: Constants) -> u32 {
    let rest = comptime!((1u32 << with.discarded) - 1);
    let add = if comptime!(with.mode == mode::EVEN) {
        ((magnitude >> comptime!(with.discarded)) & 1) + comptime!(rest >> 1)
    } else if comptime!(with.mode == mode::AWAY) {
        comptime!((rest >> 1) + 1).runtime()
    } else if comptime!(with.mode == mode::POSITIVE) {
        select(sign == 0, rest, 0u32)
    } else if comptime!(with.mode == mode::NEGATIVE) {
        select(sign == 1, rest, 0u32)
    } else if comptime!(with.mode == mode::STOCHASTIC) {
        !bits >> comptime!(32 - with.discarded)
    } else {
        0u32.runtime()
    };
    let mut value = (magnitude + add) & comptime!(!rest);
    if comptime!(with.low > 1) {
        if magnitude < comptime!(with.low << 23) {
            value = small(sign, magnitude, bits, with);
        }
    }
    if value > comptime!(with.max) {
        value = end(sign, magnitude, with);
    }
    let is_nan = magnitude > 0x7f80_0000;
    value = select(is_nan, comptime!(with.nan), value);
    let mut signed = sign;
    if comptime!(with.nan_is_zero) {
        signed = select(is_nan, sign ^ 1, sign);
    }
    if comptime!(!with.signed_zero) {
        signed = select(value == 0, 0u32, signed);
    }
    value | (signed << 31)
}

/// What is below the smallest normal number: a multiple of the unit.
#[cube]
fn small(sign: u32, magnitude: u32, bits: u32, #[comptime] with: Constants) -> u32 {
    let exponent = max(magnitude >> 23, 1u32);
    let leading = select(magnitude > 0x7f_ffff, 0x80_0000u32, 0u32);
    let significand = (magnitude & 0x7f_ffff) | leading;
    let discarded = comptime!(with.discarded + with.low) - exponent;
    let shift = min(discarded, 31u32);
    let quotient = significand >> shift;
    let rest = significand - (quotient << shift);
    let half = 1u32 << (shift - 1);
    let up = if comptime!(with.mode == mode::EVEN) {
        rest + (quotient & 1) > half
    } else if comptime!(with.mode == mode::AWAY) {
        rest >= half
    } else if comptime!(with.mode == mode::POSITIVE) {
        rest > 0 && sign == 0
    } else if comptime!(with.mode == mode::NEGATIVE) {
        rest > 0 && sign == 1
    } else if comptime!(with.mode == mode::STOCHASTIC) {
        let drawn = min(discarded, 32u32);
        (bits >> (32 - drawn)) < (rest >> min(discarded - drawn, 31u32))
    } else {
        false.runtime()
    };
    let code = quotient + select(up, 1u32, 0u32);
    // The code as an `f32` is exact and normal; the unit lowers its exponent.
    let float = u32::reinterpret(f32::cast_from(code));
    select(code == 0, 0u32, float - comptime!(with.unit << 23))
}

/// What is past the largest number.
#[cube]
fn end(sign: u32, magnitude: u32, #[comptime] with: Constants) -> u32 {
    let inward = if comptime!(with.mode == mode::ZERO) {
        true.runtime()
    } else if comptime!(with.mode == mode::POSITIVE) {
        sign == 1
    } else if comptime!(with.mode == mode::NEGATIVE) {
        sign == 0
    } else {
        false.runtime()
    };
    if comptime!(with.saturate) {
        comptime!(with.max).runtime()
    } else {
        select(inward && magnitude < 0x7f80_0000, comptime!(with.max), comptime!(with.beyond))
    }
}

/// As [`Codec::encode`] and [`Codec::decode`] for powers of two.
#[cube]
fn power(sign: u32, magnitude: u32, bits: u32, #[comptime] with: Constants) -> u32 {
    let normal = magnitude >= 0x80_0000;
    let floor = select(normal, magnitude >> 23, 0u32);
    let half = select(magnitude >= 0x40_0000, (magnitude - 0x40_0000) << 1, 0u32);
    let rest = select(normal, magnitude & 0x7f_ffff, half);
    let up = if comptime!(with.mode == mode::EVEN || with.mode == mode::AWAY) {
        rest >= 0x40_0000
    } else if comptime!(with.mode == mode::POSITIVE) {
        rest > 0
    } else if comptime!(with.mode == mode::STOCHASTIC) {
        (bits >> 9) < rest
    } else {
        false.runtime()
    };
    let code = floor + select(up, 1u32, 0u32);
    let mut value = select(code == 0, 0x40_0000u32, code << 23);
    if code > 254 {
        value = end(sign, magnitude, with);
    }
    let is_number = magnitude > 0 && magnitude <= 0x7f80_0000 && sign == 0;
    select(is_number, value, comptime!(with.nan))
}
