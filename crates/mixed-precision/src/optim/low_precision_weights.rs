//! Weights of `bf16` or `f16` behind any optimizer of Burn's.

use burn::optim::{Optimizer, RecordState, StateSink, StateSource};
use burn::tensor::{DType, Device, FloatDType, Tensor, TensorData};

use super::low_bit::take;
use super::weight_memory::{Kept, WeightMemory, WeightUpdate};
use crate::format::Format;

/// An optimizer whose parameters are stored in low precision: it updates them in `f32` and stores them by a [`WeightUpdate`].
/// For models of `bf16` or `f16`, whose small updates are lost when rounded to nearest.
///
/// ```text
/// w = full(p, memory)          weights at the precision that is kept
/// w′ = inner.step(w, f32(g))   any optimizer
/// p′, memory′ = store(w′)      rounded, and what rounding took
/// ```
///
/// | parameter | default | range | effect |
/// |---|---|---|---|
/// | `inner` | | any [`Optimizer`] | the update, in `f32`; also one with [low-bit state](super::LowBit) |
/// | `update` | | [`WeightUpdate`] | what becomes of the rounding error |
/// | [`format`](Self::format) | `bf16` | [`Format`] | the numbers that parameters of dtype `f32` (and `f64`) are rounded to |
///
/// Parameters of dtype `bf16` and `f16` are of these formats. A parameter of dtype `f32` has its values rounded to numbers of
/// `format` and stays `f32`: that is the emulation for backends without `bf16` (ndarray), with the same numbers.
///
/// Guarantees: with `MasterF32`, and with `Remainder16` and `bf16`, the masters take the steps that `inner` takes in `f32` with
/// the same gradients, bit for bit (`masters_are_the_f32_training`); saved and resumed it goes on bit for bit
/// (`resumes_bit_for_bit`); a dtype of `bf16` and its emulation give the same numbers (`emulated_and_stored_agree`).
///
/// Cost: on top of the inner optimizer two passes over the weights and a copy in `f32` of one tensor at a time. Weights pass
/// through the memory of the host: two host synchronisations a tensor on another device.
///
/// A model whose weights were replaced between steps keeps the new ones; with a remainder, up to half their unit in the last
/// place is added.
///
/// ```
/// use burn::optim::{AdamWConfig, ModuleOptimizer};
/// use mixed_precision::optim::{LowBitState, LowPrecisionWeights, StateFormat, WeightUpdate};
///
/// let adam = AdamWConfig::new().low_bit(StateFormat::DYNAMIC8)?;
/// let optim: ModuleOptimizer = LowPrecisionWeights::new(adam, WeightUpdate::Remainder8).into();
/// # let _ = optim;
/// # Ok::<(), mixed_precision::Error>(())
/// ```
///
/// References: P. Micikevicius et al., "Mixed Precision Training", ICLR 2018, arXiv:1710.03740, section 3.1, for masters; P. Zamirai
/// et al., "Revisiting BFloat16 Training", 2020, arXiv:2010.06192, algorithms 2 and 3, for stochastic rounding and Kahan's sum.
/// Gradient clipping of the inner configuration is not taken over: see `ModuleOptimizer::with_grad_clipping`.
#[derive(Clone, Debug)]
pub struct LowPrecisionWeights<O> {
    inner: O,
    update: WeightUpdate,
    format: Format,
}

impl<O: Optimizer> LowPrecisionWeights<O> {
    /// Around an optimizer, such as `AdamWConfig::new().build()`.
    pub fn new(inner: O, update: WeightUpdate) -> Self {
        Self { inner, update, format: Format::BF16 }
    }

    /// The numbers that parameters of dtype `f32` are rounded to.
    pub fn format(self, format: Format) -> Self {
        Self { format, ..self }
    }

    fn format_of(&self, dtype: DType) -> Format {
        match dtype {
            DType::BF16 => Format::BF16,
            DType::F16 => Format::F16,
            _ => self.format,
        }
    }
}

/// The state of a parameter: the inner optimizer's and what is kept beside the weights.
#[derive(Clone)]
pub struct LowPrecisionState<S> {
    inner: Option<S>,
    memory: WeightMemory,
}

impl<S> LowPrecisionState<S> {
    /// The inner optimizer's state.
    pub fn inner(&self) -> Option<&S> {
        self.inner.as_ref()
    }

    /// What is kept beside the weights.
    pub fn memory(&self) -> &WeightMemory {
        &self.memory
    }
}

impl<O: Optimizer> Optimizer for LowPrecisionWeights<O> {
    type State<const D: usize> = LowPrecisionState<O::State<D>>;

    fn step<const D: usize>(
        &self,
        lr: f64,
        tensor: Tensor<D>,
        grad: Tensor<D>,
        state: Option<Self::State<D>>,
    ) -> (Tensor<D>, Option<Self::State<D>>) {
        let (device, dtype, shape) = (tensor.device(), tensor.dtype(), tensor.shape());
        let format = self.format_of(dtype);
        let mut weights = numbers(tensor);
        let (inner, memory) = state.map(|state| (state.inner, state.memory)).unzip();
        let mut memory = memory
            .filter(|memory| {
                let fits = memory.len().is_none_or(|len| len == weights.len());
                fits && (memory.update, memory.format) == (self.update, format)
            })
            .unwrap_or_else(|| self.update.start(format, &weights));
        let before = memory.read(&weights);
        let full = Tensor::from_data(TensorData::new(before.clone(), shape.clone()), (&device, DType::F32));
        let grad = if grad.dtype() == DType::F32 { grad } else { grad.cast(FloatDType::F32) };
        let (after, inner) = self.inner.step(lr, full, grad, inner.flatten());
        memory.store(&mut weights, &before, &numbers(after));
        let tensor = Tensor::from_data(TensorData::new(weights, shape), (&device, dtype));
        (tensor, Some(LowPrecisionState { inner, memory }))
    }

    fn to_device<const D: usize>(state: Self::State<D>, device: &Device) -> Self::State<D> {
        LowPrecisionState { inner: state.inner.map(|inner| O::to_device(inner, device)), memory: state.memory }
    }
}

fn numbers<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    let data = tensor.into_data();
    match data.dtype() {
        DType::F32 => data.try_into_vec().unwrap_or_default(),
        _ => data.iter().collect(),
    }
}

impl<S: RecordState> RecordState for LowPrecisionState<S> {
    fn state_flatten(&self, prefix: &str, out: &mut StateSink) {
        if let Some(inner) = &self.inner {
            inner.state_flatten(&format!("{prefix}.inner"), out);
        }
        out.push_scalar(prefix, "has_inner", self.inner.is_some().into());
        self.memory.state_flatten(prefix, out);
    }

    fn state_unflatten(prefix: &str, src: &mut StateSource, device: &Device) -> Option<Self> {
        let has_inner: bool = src.take_scalar(prefix, "has_inner")?.try_into().ok()?;
        let inner = match has_inner {
            true => Some(S::state_unflatten(&format!("{prefix}.inner"), src, device)?),
            false => None,
        };
        Some(Self { inner, memory: WeightMemory::state_unflatten(prefix, src, device)? })
    }
}

impl RecordState for WeightMemory {
    fn state_flatten(&self, prefix: &str, out: &mut StateSink) {
        let format = Format::ALL.iter().position(|format| *format == self.format).unwrap_or_default();
        let (kind, seed) = match self.update {
            WeightUpdate::Nearest => (0, 0),
            WeightUpdate::Stochastic(seed) => (1, seed),
            WeightUpdate::Kahan => (2, 0),
            WeightUpdate::Remainder8 => (3, 0),
            WeightUpdate::Remainder16 => (4, 0),
            WeightUpdate::MasterF32 => (5, 0),
        };
        for (leaf, value) in [("format", format as u64), ("update", kind), ("seed", seed), ("step", self.step)] {
            out.push_scalar(prefix, leaf, value.into());
        }
        let length = self.len().unwrap_or(0);
        out.push_scalar(prefix, "length", (length as u64).into());
        let mut push = |data: TensorData| out.push_tensor(prefix, "kept", data);
        match &self.kept {
            Kept::Nothing => {}
            Kept::Compensation(x) => push(TensorData::new(x.clone(), [length])),
            Kept::Remainder8(x) => push(TensorData::new(x.clone(), [length])),
            Kept::Remainder16(x) => push(TensorData::new(x.clone(), [length])),
            Kept::Master(x) => push(TensorData::new(x.clone(), [length])),
        }
    }

    fn state_unflatten(prefix: &str, src: &mut StateSource, _: &Device) -> Option<Self> {
        let mut number = |leaf: &str| u64::try_from(src.take_scalar(prefix, leaf)?).ok();
        let format = *Format::ALL.get(usize::try_from(number("format")?).ok()?)?;
        let (kind, seed, step) = (number("update")?, number("seed")?, number("step")?);
        let length = usize::try_from(number("length")?).ok()?;
        let (update, kept) = match kind {
            0 => (WeightUpdate::Nearest, Kept::Nothing),
            1 => (WeightUpdate::Stochastic(seed), Kept::Nothing),
            2 => (WeightUpdate::Kahan, Kept::Compensation(take(src, prefix, "kept", length)?)),
            3 => (WeightUpdate::Remainder8, Kept::Remainder8(take(src, prefix, "kept", length)?)),
            4 => (WeightUpdate::Remainder16, Kept::Remainder16(take(src, prefix, "kept", length)?)),
            5 => (WeightUpdate::MasterF32, Kept::Master(take(src, prefix, "kept", length)?)),
            _ => return None,
        };
        Some(Self { update, format, step, kept })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::optim::{LowBitState, StateFormat, state_bytes};
    use burn::optim::{AdamW, AdamWConfig, SgdConfig};
    use core_tensor::Random;
    use core_tensor::testing::host_devices;

    const ALL: [WeightUpdate; 6] = [
        WeightUpdate::Nearest,
        WeightUpdate::Stochastic(1),
        WeightUpdate::Kahan,
        WeightUpdate::Remainder8,
        WeightUpdate::Remainder16,
        WeightUpdate::MasterF32,
    ];

    fn bits<const D: usize>(x: &Tensor<D>) -> Vec<u64> {
        x.to_data().iter::<f64>().map(f64::to_bits).collect()
    }

    fn gradient(step: u64, device: &Device) -> Tensor<2> {
        // Numbers of bf16, so that both dtypes see the same.
        let x: Tensor<2> = Random::new(step).normal([20, 30], 0.0, 1.0, device);
        let rounded: Vec<f32> = x.to_data().iter::<f32>().map(|x| burn::tensor::bf16::from_f32(x).to_f32()).collect();
        Tensor::from_data(TensorData::new(rounded, [20, 30]), device)
    }

    fn train<O: Optimizer>(
        optim: &O,
        mut x: Tensor<2>,
        mut state: Option<O::State<2>>,
        steps: std::ops::Range<u64>,
    ) -> (Tensor<2>, Option<O::State<2>>) {
        for step in steps {
            let g = gradient(step, &x.device()).cast(FloatDType::from(x.dtype()));
            (x, state) = optim.step(1e-3, x, g, state);
        }
        (x, state)
    }

    fn adam(update: WeightUpdate) -> LowPrecisionWeights<AdamW> {
        LowPrecisionWeights::new(AdamWConfig::new().build(), update)
    }

    #[test]
    fn masters_are_the_f32_training() {
        for device in host_devices() {
            let start = gradient(99, &device);
            let (expected, _) = train(&AdamWConfig::new().build(), start.clone(), None, 0..20);
            for update in [WeightUpdate::MasterF32, WeightUpdate::Remainder16] {
                let (x, state) = train(&adam(update), start.clone(), None, 0..20);
                let x: Vec<f32> = x.to_data().iter().collect();
                let masters = state.unwrap().memory().read(&x);
                let masters: Vec<u64> = masters.into_iter().map(|x| f64::from(x).to_bits()).collect();
                assert_eq!(masters, bits(&expected), "{update:?}");
            }
        }
    }

    #[test]
    fn emulated_and_stored_agree() {
        let device = Device::flex();
        for update in ALL {
            let start = gradient(98, &device);
            let (emulated, _) = train(&adam(update), start.clone(), None, 0..10);
            let (stored, state) = train(&adam(update), start.cast(FloatDType::BF16), None, 0..10);
            assert_eq!(stored.dtype(), DType::BF16);
            assert_eq!(bits(&emulated), bits(&stored), "{update:?}");
            // Moments in f32 in either case.
            assert_eq!(state_bytes(state.unwrap().inner().unwrap()), 2 * 4 * 600);
        }
    }

    #[test]
    fn resumes_bit_for_bit() {
        for update in ALL {
            let low = AdamWConfig::new().low_bit(StateFormat::DYNAMIC8).unwrap().min_elements(0);
            let optim = LowPrecisionWeights::new(low, update).format(Format::BF16);
            let (expected, _) = train(&optim, gradient(97, &Device::flex()), None, 0..8);
            let (middle, state) = train(&optim, gradient(97, &Device::flex()), None, 0..4);
            let mut sink = StateSink::default();
            state.unwrap().state_flatten("7", &mut sink);
            let mut source = StateSource::new(sink.scalars.into_iter().collect());
            sink.tensors.into_iter().for_each(|(name, data)| source.insert_tensor(name, data));
            let state = LowPrecisionState::state_unflatten("7", &mut source, &Device::flex());
            assert!(state.is_some());
            let (resumed, _) = train(&optim, middle, state, 4..8);
            assert_eq!(bits(&resumed), bits(&expected), "{update:?}");
        }
    }

    #[test]
    fn bytes_of_each_update() {
        let bytes = ALL.map(|update| {
            let optim = LowPrecisionWeights::new(SgdConfig::new().build(), update);
            let (_, state) = train(&optim, gradient(1, &Device::flex()), None, 0..1);
            let state = state.unwrap();
            assert_eq!(state_bytes(&state), state.memory().bytes());
            state.memory().bytes() / 600
        });
        assert_eq!(bytes, [0, 0, 2, 1, 2, 4]);
    }

    #[test]
    fn small_updates_arrive_in_the_model() {
        let start = Tensor::<1>::ones([100], (&Device::flex(), DType::BF16));
        let run = |update| {
            let optim = LowPrecisionWeights::new(SgdConfig::new().build(), update);
            let (mut x, mut state) = (start.clone(), None);
            for _ in 0..1000 {
                (x, state) = optim.step(0.001, x, -Tensor::ones([100], &Device::flex()), state);
            }
            x.cast(FloatDType::F32).mean().into_scalar::<f32>()
        };
        assert_eq!(run(WeightUpdate::Nearest), 1.0);
        assert_eq!(run(WeightUpdate::Kahan), 2.0);
        assert_eq!(run(WeightUpdate::MasterF32), 2.0);
        let stochastic = run(WeightUpdate::Stochastic(3));
        assert!((stochastic - 2.0).abs() < 5.0 * 0.0083, "{stochastic}");
    }

    #[test]
    fn a_state_of_another_update_begins_anew() {
        let x = gradient(5, &Device::flex());
        let (x, state) = train(&adam(WeightUpdate::Kahan), x, None, 0..2);
        let (_, state) = adam(WeightUpdate::MasterF32).step(1e-3, x.clone(), x, state);
        assert_eq!(state.unwrap().memory().bytes(), 2400);
    }
}
