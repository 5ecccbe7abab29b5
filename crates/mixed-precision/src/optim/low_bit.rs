//! Optimizers whose moments are stored in 8 or 4 bits.

use burn::grad_clipping::GradientClippingConfig;
use burn::optim::{ModuleOptimizer, Optimizer, RecordState, StateSink, StateSource};
use burn::tensor::{DType, Device, Element, Tensor, TensorData, bf16, f16};
use core_tensor::host::{self, Slice, SliceMut, vectorised};
use rayon::prelude::*;

use super::rules::{Number, Rule};
use super::state_format::{BlockState, Data, Noise, Part, StateFormat};
use crate::memory::{CHUNK, PARALLEL};
use crate::rounding::Rounding;

/// An optimizer of Burn's with its moments in few bits, made by [`low_bit`](super::LowBitState::low_bit) from Burn's own
/// configuration. For training whose optimizer state does not fit beside the model.
///
/// With the format [`StateFormat::F32`] it computes what Burn's optimizer computes. With any other one each step decodes the
/// moments, updates them and the parameter in `f32` and encodes them again, block by block.
///
/// | parameter | default | range | effect |
/// |---|---|---|---|
/// | `format` | | [`StateFormat`] | bytes and error of the moments |
/// | [`min_elements`](Self::min_elements) | 4096 | any | smaller tensors keep their moments in `f32`: they cost little and are often the touchy ones (biases, norms) |
/// | [`rounding`](Self::rounding) | to nearest | nearest, `Stochastic(seed)` | stochastic codes lose no small change of a moment in the mean |
///
/// Guarantees: with `F32` the steps are those of Burn's optimizers to a unit in the last place (`f32_state_is_burns`); saved and resumed it goes on bit for
/// bit (`resumes_bit_for_bit`); the result does not depend on the number of threads; parameters of `f16` and `bf16` are updated
/// in `f32` and rounded once, parameters of `f64` are updated in `f64`.
///
/// Cost: one pass over parameter, gradient and codes. Coding is bound by computation:
/// an 8-bit AdamW step takes five to eight times that of Burn's `f32` one (`examples/low_bit_speed.rs`). On a device that is not the host each step takes parameter and gradient of every tensor to the host
/// (two host synchronisations a tensor) and the parameter back.
///
/// A gradient that is not finite makes its whole block of moments NaN: skip such steps (see
/// [`Unscale`](crate::Unscale)). A record of another format, or of `f32`, is converted at the next step; one of another size is
/// left and the moments begin anew. Stochastic noise of a tensor depends on the seed, the step and the first values of the
/// tensor at its first step, as Burn tells an optimizer not which parameter it sees.
#[derive(Clone, Debug)]
pub struct LowBit<R> {
    rule: R,
    format: StateFormat,
    min_elements: usize,
    rounding: Rounding,
    clipping: Option<GradientClippingConfig>,
}

impl<R: Rule> LowBit<R> {
    pub(crate) fn new(rule: R, format: StateFormat, clipping: Option<GradientClippingConfig>) -> Self {
        Self { rule, format, min_elements: 4096, rounding: Rounding::NearestEven, clipping }
    }

    /// Only tensors of so many elements are stored in few bits.
    pub fn min_elements(self, min_elements: usize) -> Self {
        Self { min_elements, ..self }
    }

    /// How moments become codes; all but `Stochastic(seed)` mean the nearest code.
    pub fn rounding(self, rounding: Rounding) -> Self {
        Self { rounding, ..self }
    }

    /// For a whole module, with the gradient clipping of the configuration.
    pub fn init(self) -> ModuleOptimizer {
        let clipping = self.clipping.clone();
        let optim = ModuleOptimizer::from(self);
        match clipping {
            Some(clipping) => optim.with_grad_clipping(clipping.init()),
            None => optim,
        }
    }

    fn format_of(&self, length: usize) -> StateFormat {
        if length < self.min_elements { StateFormat::F32 } else { self.format }
    }

    /// The state to update: what there is if it fits, in the format wanted.
    fn prepare(&self, state: Option<LowBitMoments>, length: usize, stream: impl FnOnce() -> u64) -> LowBitMoments {
        let (format, moments) = (self.format_of(length), self.rule.moments());
        let fits = |state: &LowBitMoments| {
            state.moments.len() == moments.len()
                && state.moments.iter().zip(moments).all(|(m, (_, signed))| m.length == length && m.signed == *signed)
        };
        match state.filter(fits) {
            Some(state) => LowBitMoments {
                moments: state.moments.into_iter().map(|moment| moment.into_format(format)).collect(),
                ..state
            },
            None => LowBitMoments {
                time: 0,
                stream: stream(),
                moments: moments.iter().map(|(_, signed)| BlockState::zeros(format, *signed, length)).collect(),
            },
        }
    }

    /// One step over slices.
    fn update<E: Weight>(&self, lr: f64, p: &mut [E], g: &[E], state: Option<LowBitMoments>) -> LowBitMoments {
        let mut state = self.prepare(state, p.len(), || stream(p, g));
        state.time += 1;
        let step = self.rule.step::<E::Number>(lr, state.time);
        let rounding = |moment: usize| match self.rounding {
            Rounding::Stochastic(_) => {
                Rounding::Stochastic(self.rounding.seed() ^ state.stream).at(state.time as u64).at(moment as u64)
            }
            _ => Rounding::NearestEven,
        };
        let pass = Pass { step, block: self.format_of(p.len()).block(), rounding: std::array::from_fn(rounding) };
        match &mut state.moments[..] {
            [] => pass.run::<E, R, 0>(p, g, []),
            [a] => pass.run::<E, R, 1>(p, g, [a]),
            [a, b] => pass.run::<E, R, 2>(p, g, [a, b]),
            [a, b, c, ..] => pass.run::<E, R, 3>(p, g, [a, b, c]),
        }
        state
    }

    /// The same where the tensors are not in the memory of the host.
    fn update_data(
        &self,
        lr: f64,
        p: TensorData,
        g: TensorData,
        state: Option<LowBitMoments>,
    ) -> (TensorData, LowBitMoments) {
        let (shape, dtype) = (p.shape().clone(), p.dtype());
        match dtype {
            DType::F64 => {
                let mut p: Vec<f64> = p.iter().collect();
                let state = self.update(lr, &mut p, &g.iter::<f64>().collect::<Vec<_>>(), state);
                (TensorData::new(p, shape), state)
            }
            _ => {
                let mut p: Vec<f32> = p.iter().collect();
                let state = self.update(lr, &mut p, &g.iter::<f32>().collect::<Vec<_>>(), state);
                (TensorData::new(p, shape).convert_dtype(dtype), state)
            }
        }
    }
}

/// The moments of a parameter.
#[derive(Clone, Debug, PartialEq)]
pub struct LowBitMoments {
    /// Steps taken.
    pub(crate) time: usize,
    /// What tells the noise of this tensor from that of others.
    stream: u64,
    moments: Vec<BlockState>,
}

impl LowBitMoments {
    /// The moments, in the order of the rule.
    pub fn moments(&self) -> &[BlockState] {
        &self.moments
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.moments.iter().map(BlockState::bytes).sum()
    }
}

impl<R: Rule> Optimizer for LowBit<R> {
    type State<const D: usize> = LowBitMoments;

    fn step<const D: usize>(
        &self,
        lr: f64,
        tensor: Tensor<D>,
        grad: Tensor<D>,
        state: Option<LowBitMoments>,
    ) -> (Tensor<D>, Option<LowBitMoments>) {
        let (device, dtype) = (tensor.device(), tensor.dtype());
        let grad = if grad.dtype() == dtype { grad } else { grad.cast(float(dtype)) };
        let (p, g) = (tensor.into_dispatch(), grad.into_dispatch());
        if !(host::is_host(&p) && host::is_host(&g)) {
            let (p, g) = (Tensor::<D>::from_dispatch(p), Tensor::<D>::from_dispatch(g));
            let (p, state) = self.update_data(lr, p.into_data(), g.into_data(), state);
            return (Tensor::from_data(p, (&device, dtype)), Some(state));
        }
        let mut parameter = Some((p, state));
        let done = host::read(&g, |g| {
            let (p, state) = parameter.take()?;
            host::update(p, |p| match (p, g) {
                (SliceMut::F32(p), Slice::F32(g)) => Some(self.update(lr, p, g, state)),
                (SliceMut::F64(p), Slice::F64(g)) => Some(self.update(lr, p, g, state)),
                (SliceMut::F16(p), Slice::F16(g)) => Some(self.update(lr, p, g, state)),
                (SliceMut::BF16(p), Slice::BF16(g)) => Some(self.update(lr, p, g, state)),
                _ => None,
            })
            .ok()
        });
        match done.flatten() {
            Some((p, state)) => (Tensor::from_dispatch(p), state),
            None => unreachable!("a host tensor can be read and changed, and the gradient has its dtype"),
        }
    }

    /// The state is in the memory of the host wherever the parameter is.
    fn to_device<const D: usize>(state: LowBitMoments, _: &Device) -> LowBitMoments {
        state
    }
}

fn float(dtype: DType) -> burn::tensor::FloatDType {
    dtype.into()
}

impl RecordState for LowBitMoments {
    fn state_flatten(&self, prefix: &str, out: &mut StateSink) {
        out.push_scalar(prefix, "time", self.time.into());
        out.push_scalar(prefix, "stream", self.stream.into());
        for (index, moment) in self.moments.iter().enumerate() {
            moment.state_flatten(&format!("{prefix}.{index}"), out);
        }
    }

    fn state_unflatten(prefix: &str, src: &mut StateSource, device: &Device) -> Option<Self> {
        let time = src.take_scalar(prefix, "time")?.try_into().ok()?;
        let stream = src.take_scalar(prefix, "stream")?.try_into().ok()?;
        let moments = (0..3).map_while(|index| {
            let prefix = format!("{prefix}.{index}");
            // What is there has to be whole.
            src.has_under(&prefix).then(|| BlockState::state_unflatten(&prefix, src, device))
        });
        Some(Self { time, stream, moments: moments.collect::<Option<_>>()? })
    }
}

impl RecordState for BlockState {
    fn state_flatten(&self, prefix: &str, out: &mut StateSink) {
        let index = StateFormat::ALL.iter().position(|format| format.name() == self.format.name());
        out.push_scalar(prefix, "format", index.unwrap_or_default().into());
        out.push_scalar(prefix, "block", self.format.block().into());
        out.push_scalar(prefix, "signed", self.signed.into());
        out.push_scalar(prefix, "length", self.length.into());
        let mut push = |leaf: &str, data: TensorData| out.push_tensor(prefix, leaf, data);
        match &self.data {
            Data::Numbers(x) => push("numbers", TensorData::new(x.clone(), [x.len()])),
            Data::Codes { codes, scales } => {
                push("codes", TensorData::new(codes.clone(), [codes.len()]));
                push("scales", TensorData::new(scales.clone(), [scales.len()]));
            }
        }
    }

    fn state_unflatten(prefix: &str, src: &mut StateSource, _: &Device) -> Option<Self> {
        let mut number = |leaf: &str| usize::try_from(src.take_scalar(prefix, leaf)?).ok();
        let (index, block, length) = (number("format")?, number("block")?, number("length")?);
        let signed = src.take_scalar(prefix, "signed")?.try_into().ok()?;
        let format = StateFormat::ALL.get(index)?.with_block(block).ok()?;
        let mut state = Self::zeros(format, signed, 0);
        state.length = length;
        state.data = match format.is_coded() {
            false => Data::Numbers(take(src, prefix, "numbers", length)?),
            true => Data::Codes {
                codes: take(src, prefix, "codes", (length.checked_mul(format.bits())?).div_ceil(8))?,
                scales: take(src, prefix, "scales", length.div_ceil(block))?,
            },
        };
        Some(state)
    }
}

/// A tensor of a record, if it has the type and the length expected.
pub(crate) fn take<E: Element>(src: &mut StateSource, prefix: &str, leaf: &str, length: usize) -> Option<Vec<E>> {
    src.take_tensor(prefix, leaf)?.try_into_vec().ok().filter(|x: &Vec<E>| x.len() == length)
}

/// Bytes of the tensors of a state, any of Burn's or this crate's.
///
/// ```
/// use burn::optim::{AdamWConfig, Optimizer};
/// use burn::tensor::{Device, Tensor};
/// use mixed_precision::optim::{LowBitState, StateFormat, state_bytes};
///
/// let x = Tensor::<2>::ones([100, 100], &Device::flex());
/// let (_, state) = AdamWConfig::new().build().step(0.1, x.clone(), x.clone(), None);
/// assert_eq!(state_bytes(&state.unwrap()), 80_000);
/// let low = AdamWConfig::new().low_bit(StateFormat::DYNAMIC8)?;
/// let (_, state) = low.step(0.1, x.clone(), x, None);
/// assert_eq!(state_bytes(&state.unwrap()), 20_000 + 2 * 40 * 4);
/// # Ok::<(), mixed_precision::Error>(())
/// ```
pub fn state_bytes<S: RecordState>(state: &S) -> usize {
    let mut sink = StateSink::default();
    state.state_flatten("", &mut sink);
    sink.tensors.iter().map(|(_, data)| data.as_bytes().len()).sum()
}

/// A parameter's element: loaded, updated as a [`Number`], stored.
trait Weight: Copy + Send + Sync {
    type Number: Number;
    fn load(self) -> Self::Number;
    fn store(x: Self::Number) -> Self;
}

macro_rules! weight {
    ($type:ty, $number:ty, $load:expr, $store:expr) => {
        impl Weight for $type {
            type Number = $number;
            #[inline(always)]
            fn load(self) -> $number {
                $load(self)
            }
            #[inline(always)]
            fn store(x: $number) -> Self {
                $store(x)
            }
        }
    };
}

weight!(f32, f32, |x| x, |x| x);
weight!(f64, f64, |x| x, |x| x);
weight!(f16, f32, f16::to_f32, f16::from_f32);
weight!(bf16, f32, bf16::to_f32, bf16::from_f32);

/// One step over a tensor.
struct Pass<S> {
    step: S,
    block: usize,
    rounding: [Rounding; 3],
}

/// Blocks that one thread does.
struct Task<'a, E, const M: usize> {
    first: usize,
    p: &'a mut [E],
    g: &'a [E],
    moments: [Part<'a>; M],
}

impl<S: Copy + Send + Sync> Pass<S> {
    fn run<E: Weight, R: Rule<Step<E::Number> = S>, const M: usize>(
        &self,
        p: &mut [E],
        g: &[E],
        moments: [&mut BlockState; M],
    ) {
        let length = p.len();
        let elements = if length < PARALLEL { length.max(1) } else { CHUNK.max(self.block) / self.block * self.block };
        let mut parts = moments.map(|moment| moment.parts(elements));
        let mut tasks = Vec::with_capacity(length.div_ceil(elements));
        for (index, (p, g)) in p.chunks_mut(elements).zip(g.chunks(elements)).enumerate() {
            let moments = parts.each_mut().map(|parts| parts.next().expect("as many parts as chunks"));
            tasks.push(Task { first: index * elements, p, g, moments });
        }
        match tasks.len() {
            0 | 1 => tasks.into_iter().for_each(|task| self.chunk::<E, R, M>(task)),
            _ => tasks.into_par_iter().for_each(|task| self.chunk::<E, R, M>(task)),
        }
    }

    fn chunk<E: Weight, R: Rule<Step<E::Number> = S>, const M: usize>(&self, mut task: Task<'_, E, M>) {
        let mut buffers: [Vec<f32>; M] = std::array::from_fn(|_| vec![0.0; self.block]);
        let blocks = task.p.chunks_mut(self.block).zip(task.g.chunks(self.block));
        for (index, (p, g)) in blocks.enumerate() {
            for (part, buffer) in task.moments.iter().zip(&mut buffers) {
                part.get(index, &mut buffer[..p.len()]);
            }
            block::<E, R, M>(self.step, p, g, buffers.each_mut().map(|buffer| &mut buffer[..]));
            for (k, (part, buffer)) in task.moments.iter_mut().zip(&buffers).enumerate() {
                part.put(index, &buffer[..p.len()], Noise::new(self.rounding[k], task.first + index * self.block));
            }
        }
    }
}

fn block<E: Weight, R: Rule, const M: usize>(
    step: R::Step<E::Number>,
    p: &mut [E],
    g: &[E],
    mut moments: [&mut [f32]; M],
) {
    vectorised(
        #[inline(always)]
        || {
            let length = p.len();
            let g = &g[..length];
            let moments = moments.each_mut().map(|moment| &mut moment[..length]);
            for i in 0..length {
                let mut m: [E::Number; M] = std::array::from_fn(
                    #[inline(always)]
                    |k| E::Number::from_f32(moments[k][i]),
                );
                p[i] = E::store(R::update(step, p[i].load(), g[i].load(), &mut m));
                for k in 0..M {
                    moments[k][i] = m[k].to_f32();
                }
            }
        },
    );
}

/// A number of the first values of a tensor and its gradient.
fn stream<E: Weight>(p: &[E], g: &[E]) -> u64 {
    let bits = |x: &[E]| -> Vec<u32> { x.iter().take(32).map(|x| x.load().to_f32().to_bits()).collect() };
    // FNV-1a over words.
    bits(p)
        .into_iter()
        .chain(bits(g))
        .chain([p.len() as u32])
        .fold(0xcbf2_9ce4_8422_2325, |hash, word| (hash ^ u64::from(word)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::optim::LowBitState;
    use burn::module::{Module, Param};
    use burn::optim::decay::WeightDecayConfig;
    use burn::optim::momentum::MomentumConfig;
    use burn::optim::{AdamConfig, AdamWConfig, GradientsParams, LionConfig, OptimizerRecord, SgdConfig};
    use core_tensor::Random;
    use core_tensor::testing::host_devices;

    fn values<const D: usize>(x: &Tensor<D>) -> Vec<f64> {
        x.to_data().iter::<f64>().collect()
    }

    /// Five steps of both with the same gradients.
    fn together<A: Optimizer, B: Optimizer>(a: &A, b: &B, device: &Device, tolerance: f64) {
        let mut random = Random::new(1);
        let mut x: Tensor<2> = random.normal([37, 29], 0.0, 1.0, device);
        let mut y = x.clone();
        let (mut left, mut right) = (None, None);
        for _ in 0..5 {
            let g: Tensor<2> = random.normal([37, 29], 0.0, 0.3, device);
            (x, left) = a.step(0.01, x, g.clone(), left);
            (y, right) = b.step(0.01, y, g, right);
            for (x, y) in values(&x).into_iter().zip(values(&y)) {
                assert!((x - y).abs() <= tolerance * y.abs().max(0.01), "{x} {y} on {device:?}");
            }
        }
    }

    #[test]
    fn f32_state_is_burns() {
        let format = StateFormat::F32;
        // Five steps, a unit in the last place each.
        let tolerance = 5.0 * f64::from(f32::EPSILON);
        for device in host_devices() {
            for momentum in [
                None,
                Some(MomentumConfig::new()),
                Some(MomentumConfig::new().with_momentum(0.8).with_dampening(0.0).with_nesterov(true)),
            ] {
                let config =
                    SgdConfig::new().with_momentum(momentum).with_weight_decay(Some(WeightDecayConfig::new(0.1)));
                together(&config.build(), &config.low_bit(format).unwrap(), &device, tolerance);
            }
            let adam = AdamConfig::new().with_beta_1(0.8).with_epsilon(1e-8);
            together(&adam.build(), &adam.low_bit(format).unwrap(), &device, tolerance);
            let adam = adam.with_amsgrad(true).with_weight_decay(Some(WeightDecayConfig::new(0.1)));
            together(&adam.build(), &adam.low_bit(format).unwrap(), &device, tolerance);
            for (cautious, amsgrad) in [(false, false), (true, false), (false, true)] {
                let adamw = AdamWConfig::new()
                    .with_weight_decay(0.3)
                    .with_cautious_weight_decay(cautious)
                    .with_amsgrad(amsgrad);
                together(&adamw.build(), &adamw.low_bit(format).unwrap(), &device, tolerance);
            }
            let lion = LionConfig::new().with_weight_decay(0.2);
            together(&lion.build(), &lion.low_bit(format).unwrap(), &device, tolerance);
        }
    }

    #[test]
    fn low_bit_steps_stay_close_to_burns() {
        let device = Device::flex();
        for (format, tolerance) in [
            (StateFormat::DYNAMIC8, 0.1),
            (StateFormat::LINEAR8, 0.6),
            (StateFormat::FP8, 0.2),
            (StateFormat::DYNAMIC4, 1.0),
        ] {
            let config = AdamWConfig::new();
            let (burns, ours) = (config.build(), config.low_bit(format).unwrap().min_elements(0));
            let mut random = Random::new(2);
            let start: Tensor<2> = random.normal([64, 64], 0.0, 1.0, &device);
            let (mut x, mut y) = (start.clone(), start.clone());
            let (mut left, mut right) = (None, None);
            for _ in 0..20 {
                let g: Tensor<2> = random.normal([64, 64], 0.1, 0.3, &device);
                (x, left) = burns.step(0.01, x, g.clone(), left);
                (y, right) = ours.step(0.01, y, g, right);
            }
            let moved = (x.clone() - start).powf_scalar(2.0).sum().sqrt();
            let apart = ((x - y).powf_scalar(2.0).sum().sqrt() / moved).into_scalar::<f64>();
            assert!(apart < tolerance && apart > 0.0, "{}: {apart}", format.name());
        }
    }

    #[derive(Module, Debug)]
    struct Net {
        weight: Param<Tensor<2>>,
        bias: Param<Tensor<1>>,
    }

    fn net(device: &Device) -> Net {
        let mut random = Random::new(3);
        let device = device.clone().autodiff();
        Net {
            weight: Param::from_tensor(random.normal([80, 70], 0.0, 1.0, &device)),
            bias: Param::from_tensor(random.normal([70], 0.0, 1.0, &device)),
        }
    }

    fn train(optim: &mut ModuleOptimizer, mut net: Net, steps: std::ops::Range<u64>) -> Net {
        for step in steps {
            let x: Tensor<2> = Random::new(step).normal([16, 80], 0.0, 1.0, &net.weight.device());
            let y = x.matmul(net.weight.val()) + net.bias.val().unsqueeze();
            let loss = (y - 1.0).powf_scalar(2.0).mean();
            let grads = GradientsParams::from_grads(loss.backward(), &net);
            net = optim.step(0.01, net, grads);
        }
        net
    }

    fn bits(net: &Net) -> Vec<u64> {
        let (a, b) = (values(&net.weight.val()), values(&net.bias.val()));
        a.into_iter().chain(b).map(f64::to_bits).collect()
    }

    #[test]
    fn resumes_bit_for_bit() {
        for format in StateFormat::ALL {
            for rounding in [Rounding::NearestEven, Rounding::Stochastic(5)] {
                let fresh = || {
                    let config = AdamWConfig::new().with_amsgrad(rounding.seed() == 5);
                    config.low_bit(*format).unwrap().rounding(rounding).init()
                };
                let (mut straight, mut first) = (fresh(), fresh());
                let expected = train(&mut straight, net(&Device::flex()), 0..6);
                let middle = train(&mut first, net(&Device::flex()), 0..3);
                let mut resumed = fresh().from_bytes(first.into_bytes().unwrap()).unwrap();
                assert_eq!(bits(&train(&mut resumed, middle, 3..6)), bits(&expected), "{}", format.name());
            }
        }
    }

    #[test]
    fn records_of_another_format_or_size_are_converted_or_left() {
        let config = AdamWConfig::new();
        let low = |format| config.low_bit(format).unwrap().min_elements(0);
        let device = Device::flex();
        let x = Tensor::<1>::ones([600], &device);
        let (x, state) = low(StateFormat::F32).step(0.1, x.clone(), x, None);
        let (_, state) = low(StateFormat::DYNAMIC8).step(0.1, x.clone(), x.clone(), state);
        let state = state.unwrap();
        assert_eq!((state.time, state.moments()[0].format()), (2, StateFormat::DYNAMIC8));
        // m after two gradients of 1 is 0.19, the largest of its block.
        assert!(state.moments()[0].decode().iter().all(|m| (m - (0.09 + 0.1)).abs() < 0.02));
        let y = Tensor::<1>::ones([5], &device);
        let (_, other) = low(StateFormat::DYNAMIC8).step(0.1, y.clone(), y, Some(state));
        assert_eq!(other.unwrap().time, 1);
        // What is not whole is not loaded.
        let mut optim = low(StateFormat::FP8).init();
        train(&mut optim, net(&device), 0..1);
        let record = OptimizerRecord::from_bytes(optim.into_bytes().unwrap()).unwrap();
        let foreign = SgdConfig::new().init().load_record(record);
        assert!(foreign.to_record().is_empty());
    }

    #[test]
    fn small_tensors_and_other_dtypes() {
        let config = LionConfig::new();
        let optim = config.low_bit(StateFormat::DYNAMIC8).unwrap();
        for (length, bytes) in [(4095, 4 * 4095), (4096, 4096 + 4 * 16)] {
            let x = Tensor::<1>::ones([length], &Device::flex());
            let (_, state) = optim.step(0.1, x.clone(), x, None);
            assert_eq!(state.unwrap().bytes(), bytes);
        }
        let device = Device::flex();
        for (dtype, exact) in [(DType::F64, 1.0 - 1e-12), (DType::F16, 1.0), (DType::BF16, 1.0)] {
            let x = Tensor::<1>::ones([5000], (&device, dtype));
            let g = Tensor::<1>::ones([5000], &device);
            let (x, _) = optim.step(1e-12, x, g, None);
            assert_eq!(x.dtype(), dtype);
            assert_eq!(values(&x)[17], exact);
        }
        // Views and shared tensors are left alone.
        let x = Tensor::<2>::from_data([[1.0, 2.0], [3.0, 4.0]], &device);
        let turned = x.clone().transpose();
        let (y, _) = optim.step(1.0, turned, Tensor::ones([2, 2], &device), None);
        assert_eq!((values(&x), values(&y)), (vec![1.0, 2.0, 3.0, 4.0], vec![0.0, 2.0, 1.0, 3.0]));
        // A tensor on a tape goes through a copy.
        let x = Tensor::<1>::ones([3], &device.autodiff());
        let (y, _) = optim.step(1.0, x.clone(), x, None);
        assert_eq!(values(&y), [0.0; 3]);
        let none = Tensor::<1>::zeros([0], &Device::flex());
        assert_eq!(optim.step(1.0, none.clone(), none, None).0.dims(), [0]);
    }

    #[test]
    fn threads_change_nothing() {
        let length = PARALLEL + 1000;
        let run = || {
            let mut random = Random::new(8);
            let x: Tensor<1> = random.normal([length], 0.0, 1.0, &Device::flex());
            let optim = AdamConfig::new().low_bit(StateFormat::LINEAR4).unwrap().rounding(Rounding::Stochastic(1));
            let (x, state) = optim.step(0.1, x.clone(), x, None);
            (values(&x), state)
        };
        let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap().install(run);
        let four = rayon::ThreadPoolBuilder::new().num_threads(4).build().unwrap().install(run);
        assert_eq!(one, four);
    }

    #[test]
    fn bad_configurations_are_errors() {
        let format = StateFormat::DYNAMIC8;
        for config in [
            AdamWConfig::new().with_beta_1(1.0),
            AdamWConfig::new().with_beta_2(-0.1),
            AdamWConfig::new().with_epsilon(0.0),
            AdamWConfig::new().with_weight_decay(-1.0),
            AdamWConfig::new().with_epsilon(f32::NAN),
        ] {
            assert!(config.low_bit(format).is_err(), "{config:?}");
        }
        assert!(LionConfig::new().with_weight_decay(-1.0).low_bit(format).is_err());
        assert!(AdamConfig::new().with_weight_decay(Some(WeightDecayConfig::new(-1.0))).low_bit(format).is_err());
        let momentum = MomentumConfig::new().with_momentum(-0.5);
        assert!(SgdConfig::new().with_momentum(Some(momentum)).low_bit(format).is_err());
        let error = LionConfig::new().with_beta_1(1.5).low_bit(format).unwrap_err();
        assert_eq!(error.to_string(), "beta_1 = 1.5 is out of range, expected 0 <= value < 1");
    }

    #[test]
    fn clipping_of_the_configuration_is_kept() {
        let config = AdamWConfig::new().with_grad_clipping(Some(GradientClippingConfig::Norm(1.0)));
        assert!(config.low_bit(StateFormat::FP8).unwrap().init().has_gradient_clipping());
        assert!(!AdamWConfig::new().low_bit(StateFormat::FP8).unwrap().init().has_gradient_clipping());
    }
}
