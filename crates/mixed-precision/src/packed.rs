//! Codes of a format as bytes.

use burn::tensor::{Device, Tensor};
use core_tensor::host::vectorised;

use crate::error::{Error, Result};
use crate::format::Format;
use crate::{bits, memory};

/// A tensor as codes of a [`Format`], made by [`Quantizer::pack`](crate::Quantizer::pack).
///
/// Codes are in row-major order without gaps, the first in the lowest bits: two bytes each (little-endian) for 16-bit
/// formats, one for 8-bit, three for four codes of 6 bits, one for two of 4 bits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packed {
    format: Format,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl Packed {
    /// Codes that came from [`bytes`](Self::bytes).
    ///
    /// # Errors
    /// [`Error::Bytes`] if the shape needs another number of bytes.
    pub fn from_bytes(format: Format, shape: &[usize], bytes: Vec<u8>) -> Result<Self> {
        let expected = bits::length(shape.iter().product(), format.bits());
        match bytes.len() == expected {
            true => Ok(Self { format, shape: shape.to_vec(), bytes }),
            false => Err(Error::Bytes { what: "the packed tensor", expected, actual: bytes.len() }),
        }
    }

    /// The format.
    pub fn format(&self) -> Format {
        self.format
    }

    /// The shape of the tensor.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The bytes, without a copy.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// The values as an `f32` tensor: the one that [`Quantizer::fake_quantize`](crate::Quantizer::fake_quantize) gives.
    ///
    /// # Errors
    /// [`Error::Parameter`] if the tensor has another rank than `D`.
    pub fn unpack<const D: usize>(&self, device: &Device) -> Result<Tensor<D>> {
        let (codec, count) = (self.format.codec(), self.shape.iter().product());
        let values = bits::unpack(&self.bytes, count, self.format.bits(), |_, codes, values: &mut [f32]| {
            let pairs = values.iter_mut().zip(codes);
            match codec.is_powers() {
                true => pairs.for_each(|(value, code)| *value = codec.decode(*code)),
                false => vectorised(
                    #[inline(always)]
                    || pairs.for_each(|(value, code)| *value = codec.decode_number(*code as i32)),
                ),
            }
        });
        memory::tensor(values, &self.shape, device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Quantizer, Rounding};

    #[test]
    fn bytes_are_as_many_as_the_format_says() {
        let device = Device::flex();
        let x = Tensor::<2>::from_data([[0.5, -1.0, 6.0], [3.0, 0.1, -0.0]], &device);
        for (format, length) in [(Format::BF16, 12), (Format::E4M3FN, 6), (Format::E3M2FN, 5), (Format::E2M1FN, 3)] {
            let packed = Quantizer::new(format).pack(&x).unwrap();
            assert_eq!((packed.bytes().len(), packed.shape()), (length, &[2, 3][..]));
            let again = Packed::from_bytes(format, &[2, 3], packed.clone().into_bytes()).unwrap();
            assert_eq!(again, packed);
            assert!(matches!(again.unpack::<1>(&device), Err(Error::Parameter { parameter: "D", .. })));
            let error = Packed::from_bytes(format, &[2, 4], packed.into_bytes()).unwrap_err();
            assert!(error.to_string().contains(&format!("has {length} bytes")), "{error}");
        }
        let codes = Quantizer::new(Format::E2M1FN).rounding(Rounding::TowardZero).pack(&x).unwrap();
        assert_eq!(codes.bytes(), [0xa1, 0x57, 0x80]);
    }
}
