//! Q(x): every element of a tensor as the nearest number of a format.

use burn::backend::{DispatchTensor, TensorMetadata};
use burn::tensor::{Device, Tensor};
use core_tensor::Tree;
use core_tensor::host::{self, Slice, SliceMut, vectorised};

#[cfg(any(feature = "wgpu", feature = "cuda"))]
use crate::device;
use crate::error::{Error, Result};
use crate::format::{Format, with_mode};
use crate::memory::{self, Real, with_slice};
use crate::packed::Packed;
use crate::rounding::{Overflow, Rounding, Words};
use crate::{bits, straight_through};

/// Rounds tensors to a [`Format`]: in place as the values that the format has, or to [`Packed`] bytes.
///
/// | setting | default | effect |
/// |---|---|---|
/// | [`rounding`](Self::rounding) | nearest even | which neighbour ([`Rounding`]) |
/// | [`overflow`](Self::overflow) | IEEE | what is beyond the largest number ([`Overflow`]) |
///
/// A quantiser is a value: the same one gives the same result. Stochastic rounding draws by seed and position;
/// [`at`](Self::at) gives the quantiser of a step, so that steps do not repeat their noise.
///
/// Leaves of `f64` are rounded once, not by way of `f32`. Results are stored in the tensor's dtype: one that lacks a
/// number of the format (`bf16` values in an `f16` tensor) rounds again.
///
/// Guarantees, by the tests `laws::*`: idempotent, monotone, odd (for roundings that are), the nearest number for the
/// nearest roundings, unbiased for the stochastic one, and equal to packing and unpacking.
///
/// Cost: one pass over memory (8 bytes an element in `f32`); on the host on all threads, in place where no one else holds
/// the buffer; on wgpu and CUDA (features `wgpu`, `cuda`) one kernel into a new buffer, nothing read back, with the host's
/// numbers bit for bit (test `quantisation_is_bit_for_bit_that_of_the_host` of the workspace's backends). There `f16` and `bf16`
/// are widened first. On other devices, for `f64` off the host and under Burn's `fusion` the tensor is read back, rounded on the host and
/// moved there again (two host synchronisations), with the same numbers.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use mixed_precision::{Format, Overflow, Quantizer, Rounding};
///
/// let x = Tensor::<1>::from_data([0.3, -1.0, 500.0], &Device::flex());
/// let q = Quantizer::new(Format::E4M3FN).overflow(Overflow::Saturate);
/// let y: Vec<f64> = q.fake_quantize(x.clone())?.into_data().iter::<f64>().collect();
/// assert_eq!(y, [0.3125, -1.0, 448.0]);
///
/// let noisy = q.rounding(Rounding::Stochastic(7));
/// let step = noisy.at(0).fake_quantize(x.clone())?;
/// assert_eq!(q.pack(&x)?.bytes().len(), 3);
/// # let _ = step;
/// # Ok::<(), mixed_precision::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Quantizer {
    format: Format,
    rounding: Rounding,
    overflow: Overflow,
}

impl Quantizer {
    /// To the nearest numbers of a format, overflow as in IEEE 754.
    pub const fn new(format: Format) -> Self {
        Self { format, rounding: Rounding::NearestEven, overflow: Overflow::Ieee }
    }

    /// The same with another rounding.
    pub const fn rounding(self, rounding: Rounding) -> Self {
        Self { rounding, ..self }
    }

    /// The same with another overflow.
    pub const fn overflow(self, overflow: Overflow) -> Self {
        Self { overflow, ..self }
    }

    /// The format.
    pub const fn format(&self) -> Format {
        self.format
    }

    /// The rounding.
    pub(crate) const fn mode(&self) -> Rounding {
        self.rounding
    }

    /// The quantiser of a step: itself, with a stream of its own if the rounding is stochastic.
    pub fn at(self, step: u64) -> Self {
        self.rounding(self.rounding.at(step))
    }

    /// Rounds every element in place.
    pub fn quantize_slice(&self, x: &mut [f32]) {
        self.round(x);
    }

    /// Every element rounded, in the tensor's shape and dtype.
    ///
    /// On an autodiff device the gradient passes straight through where `|x|` is at most the largest number, and is zero
    /// beyond and for NaN. Y. Bengio, N. Léonard, A. Courville, "Estimating or propagating gradients through stochastic
    /// neurons for conditional computation", 2013, arXiv:1308.3432, with the clipping of M. Courbariaux et al., "BinaryConnect", 2015.
    ///
    /// # Errors
    /// [`Error::UnsupportedDevice`] if the tensor is being recorded and has no elements yet.
    pub fn fake_quantize<const D: usize>(&self, x: Tensor<D>) -> Result<Tensor<D>> {
        let limit = f64::from(self.format.max());
        straight_through::apply(x, limit, |x| Ok(Tensor::from_dispatch(self.rounded(x.into_dispatch())?)))
    }

    /// Every leaf rounded, each with its own stream if the rounding is stochastic.
    ///
    /// # Errors
    /// As [`fake_quantize`](Self::fake_quantize).
    pub fn fake_quantize_tree(&self, tree: Tree) -> Result<Tree> {
        let leaves =
            tree.into_leaves().enumerate().map(|(i, (name, leaf))| Ok((name, self.at(i as u64).rounded(leaf)?)));
        Ok(Tree::from_leaves(leaves.collect::<Result<Vec<_>>>()?)?)
    }

    /// The codes of every element, without gaps. Bytes are on the host: a tensor elsewhere is read back first.
    ///
    /// # Errors
    /// [`Error::UnsupportedDevice`] if the tensor is being recorded and has no elements yet.
    pub fn pack<const D: usize>(&self, x: &Tensor<D>) -> Result<Packed> {
        let leaf = memory::plain(x);
        let bytes = match host::read(&leaf, |x| with_slice!(Slice, x, x => self.codes(x))) {
            Some(bytes) => bytes,
            None => memory::read(x, self.format, |x| self.codes(x))?,
        };
        Packed::from_bytes(self.format, &x.dims(), bytes)
    }

    /// A plain tensor rounded, on whichever device it is.
    fn rounded(&self, x: DispatchTensor) -> Result<DispatchTensor> {
        let x = match host::update(x, |x| with_slice!(SliceMut, x, x => self.round(x))) {
            Ok((x, ())) => return Ok(x),
            Err(x) => x,
        };
        #[cfg(any(feature = "wgpu", feature = "cuda"))]
        let x = match device::quantize(x, self.format.codec(), self.rounding, self.overflow == Overflow::Saturate) {
            Ok(x) => return Ok(x),
            Err(x) => x,
        };
        match memory::through_host(x, |x| with_slice!(SliceMut, x, x => self.round(x))) {
            Ok((x, ())) => Ok(x),
            Err(x) => Err(Error::device(&Device::new(x.device()), self.format)),
        }
    }

    fn round<E: Real>(&self, x: &mut [E]) {
        let (codec, saturate, seed) = (self.format.codec(), self.overflow == Overflow::Saturate, self.rounding.seed());
        memory::chunks(x, |first, x| {
            let words = Words::new(seed, (first >> 32) as u32);
            let first = first as u32;
            with_mode!(self.rounding, MODE => match codec.is_powers() {
                true => x.iter_mut().zip(first..).for_each(|(x, i)| {
                    *x = E::put(codec.decode(codec.encode::<MODE>(x.get(), words.get(i), saturate)));
                }),
                false => vectorised(#[inline(always)] move || {
                    for (x, i) in x.iter_mut().zip(0..) {
                        let bits = if MODE == mode::STOCHASTIC { words.get(first + i) } else { 0 };
                        *x = E::put(codec.quantize::<MODE>(x.get(), bits, saturate));
                    }
                }),
            });
        });
    }

    fn codes<E: Real>(&self, x: &[E]) -> Vec<u8> {
        let (codec, saturate, seed) = (self.format.codec(), self.overflow == Overflow::Saturate, self.rounding.seed());
        bits::pack(x.len(), self.format.bits(), |first, codes| {
            let pairs = codes.iter_mut().zip(&x[first..]);
            let words = Words::new(seed, (first >> 32) as u32);
            let first = first as u32;
            with_mode!(self.rounding, MODE => match codec.is_powers() {
                true => pairs.zip(first..).for_each(|((code, x), i)| {
                    *code = codec.encode::<MODE>(x.get(), words.get(i), saturate);
                }),
                false => vectorised(#[inline(always)] move || {
                    for ((code, x), i) in pairs.zip(0..) {
                        let bits = if MODE == mode::STOCHASTIC { words.get(first + i) } else { 0 };
                        *code = codec.encode_number::<MODE>(x.get(), bits, saturate) as u32;
                    }
                }),
            });
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{DType, TensorData};
    use core_tensor::testing::host_devices;

    #[test]
    fn every_dtype_and_device_gives_the_same_numbers() {
        let values = [0.3, -1.0, 500.0, -0.0, 1e-9, 0.017];
        for device in host_devices() {
            for dtype in [DType::F64, DType::F32, DType::F16, DType::BF16] {
                if !device.supports_dtype(dtype) {
                    continue;
                }
                let x = Tensor::<2>::from_data(TensorData::new(values.to_vec(), [2, 3]), (&device, dtype));
                let q = Quantizer::new(Format::E5M2).rounding(Rounding::TowardZero);
                let y = q.fake_quantize(x.clone()).unwrap();
                assert_eq!((y.dtype(), y.dims()), (dtype, [2, 3]));
                let got: Vec<f64> = y.into_data().iter::<f64>().collect();
                // The last one in the dtype is a little more or less than 0.017.
                assert_eq!(got, [0.25, -1.0, 448.0, 0.0, 0.0, 0.015625], "{dtype:?}");
                assert!(got[3].is_sign_negative());
                let kept: Vec<f64> = x.into_data().iter::<f64>().collect();
                assert!((kept[0] - 0.3).abs() < 1e-2, "a held buffer is not written");
            }
        }
    }

    #[test]
    fn trees_and_steps_have_streams_of_their_own() {
        let device = Device::flex();
        let x = Tensor::<1>::full([64], 1.1, &device);
        let q = Quantizer::new(Format::E2M1FN).rounding(Rounding::Stochastic(3));
        let values = |x: Tensor<1>| x.into_data().iter::<f64>().collect::<Vec<_>>();
        let tree = Tree::empty().push("a", x.clone()).unwrap().push("b", x.clone()).unwrap();
        let tree = q.fake_quantize_tree(tree).unwrap();
        let (a, b) = (values(tree.get("a").unwrap()), values(tree.get("b").unwrap()));
        assert_ne!(a, b);
        let plain = |q: Quantizer| values(q.fake_quantize(x.clone()).unwrap());
        assert_eq!(plain(q), plain(q));
        assert_ne!(plain(q.at(1)), plain(q.at(2)));
        assert_eq!(plain(q.at(1)), b, "a leaf is what its position as a step would give");
        assert_eq!(plain(Quantizer::new(Format::E2M1FN).at(4)), [1.0; 64]);
    }

    #[test]
    fn a_recording_has_nothing_to_round() {
        let device = Device::capture();
        let scope = device.capture_scope(|scope| {
            let x = Tensor::<1>::from_data([1.0], &device);
            let q = Quantizer::new(Format::E5M2);
            let error = q.pack(&x).unwrap_err();
            assert!(matches!(&error, Error::UnsupportedDevice { format, .. } if format == "e5m2"), "{error}");
            assert!(error.to_string().starts_with("e5m2 does not run on "), "{error}");
            assert!(matches!(q.fake_quantize(x), Err(Error::UnsupportedDevice { .. })));
            scope.complete([], [])
        });
        assert!(scope.is_ok());
    }

    #[test]
    fn gradients_pass_straight_through_within_the_range() {
        for device in host_devices() {
            let device = device.autodiff();
            let data = [0.3, 6.0, -6.5, f32::NAN, -0.1, f32::INFINITY];
            let x = Tensor::<1>::from_data(data, &device).require_grad();
            let q = Quantizer::new(Format::E2M1FN).overflow(Overflow::Saturate);
            let y = q.fake_quantize(x.clone()).unwrap();
            let plain = q.fake_quantize(x.clone().inner()).unwrap();
            let bits = |x: Tensor<1>| x.into_data().iter::<f32>().map(f32::to_bits).collect::<Vec<_>>();
            assert_eq!(bits(y.clone().inner()), bits(plain), "the value is that without autodiff");
            let weights = Tensor::<1>::from_data([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], &device);
            let grads = (y * weights).sum().backward();
            let grad: Vec<f64> = x.grad(&grads).unwrap().into_data().iter::<f64>().collect();
            assert_eq!(grad, [1.0, 2.0, 0.0, 0.0, 5.0, 0.0]);
        }
    }
}
