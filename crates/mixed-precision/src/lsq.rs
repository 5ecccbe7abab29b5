//! Learned step sizes: the quantiser's scale is a parameter that the loss trains.

use burn::module::{Content, Module, ModuleDisplay, Param};
use burn::tensor::{Device, Tensor};

use crate::error::{Error, Result, within};

/// How an [`Lsq`] quantises.
///
/// | setting | default | range | effect |
/// |---|---|---|---|
/// | `bits` | – | 2 to 16 | integers of so many bits |
/// | [`signed`](Self::signed) | true | | from `−2^(b−1)` to `2^(b−1)−1`, or from 0 to `2^b−1` (after a ReLU) |
/// | [`channel`](Self::channel) | none | | a step for each index of an axis |
/// | [`samples`](Self::samples) | none | | the axis of samples, not counted in `n` |
/// | [`offset`](Self::offset) | false | | an offset learned too (LSQ+) |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LsqConfig {
    bits: u32,
    signed: bool,
    channel: Option<usize>,
    samples: Option<usize>,
    offset: bool,
}

impl LsqConfig {
    /// Of a weight: signed, every element counts in `n`.
    ///
    /// # Errors
    /// [`Error::Parameter`] unless `bits` is 2 to 16.
    pub fn weight(bits: usize) -> Result<Self> {
        let bits = within("bits", bits, 2..=16, "2 <= bits <= 16")? as u32;
        Ok(Self { bits, signed: true, channel: None, samples: None, offset: false })
    }

    /// Of what a ReLU gives: unsigned, the first axis is that of samples.
    ///
    /// # Errors
    /// As [`weight`](Self::weight).
    pub fn activation(bits: usize) -> Result<Self> {
        Ok(Self { signed: false, samples: Some(0), ..Self::weight(bits)? })
    }

    /// Whether integers are negative too.
    pub fn signed(self, signed: bool) -> Self {
        Self { signed, ..self }
    }

    /// A step for each index of an axis.
    pub fn channel(self, axis: usize) -> Self {
        Self { channel: Some(axis), ..self }
    }

    /// The axis of samples.
    pub fn samples(self, axis: Option<usize>) -> Self {
        Self { samples: axis, ..self }
    }

    /// Whether an offset is learned too.
    pub fn offset(self, offset: bool) -> Self {
        Self { offset, ..self }
    }

    /// `(Q_N, Q_P)`: integers go from `−Q_N` to `Q_P`.
    pub fn levels(&self) -> (f64, f64) {
        let all = f64::from(1u32 << self.bits);
        match self.signed {
            true => (all / 2.0, all / 2.0 - 1.0),
            false => (0.0, all - 1.0),
        }
    }

    /// A quantiser with the step `2·mean|x|/√Q_P` of the values it is to quantise: the weight, or the first batch.
    ///
    /// With an offset LSQ+'s first guess, `(max − min)/(Q_N + Q_P)` and `β = min + Q_N·s`. A step that would not be a positive
    /// number (all zero, nothing, not finite) is 1, an offset 0.
    ///
    /// # Errors
    /// [`Error::Parameter`] for an axis that the tensor lacks.
    pub fn init<const D: usize>(self, x: &Tensor<D>) -> Result<Lsq> {
        let device = x.device();
        let (low, high) = self.levels();
        let x = x.clone().inner();
        let channels = self.channels(&x.dims())?;
        let rows = match self.channel {
            Some(axis) => x.swap_dims(0, axis).reshape([channels as i32, -1]),
            None => x.reshape([1, -1]),
        };
        let [_, columns] = rows.dims();
        if columns == 0 {
            return Ok(
                self.with(Tensor::ones([channels], &device), self.offset.then(|| Tensor::zeros([channels], &device)))
            );
        }
        let (step, offset) = match self.offset {
            false => (rows.abs().mean_dim(1) * (2.0 / high.sqrt()), None),
            true => {
                let (min, max) = (rows.clone().min_dim(1), rows.max_dim(1));
                let step = (max - min.clone()) / (low + high);
                (step.clone(), Some(min + step * low))
            }
        };
        // Comparisons with NaN are false.
        let good = step.clone().greater_elem(0.0).bool_and(step.clone().lower_equal_elem(f32::MAX));
        let bad = good.bool_not();
        let settle = |x: Tensor<2>, value: f64| {
            let x = x.mask_fill(bad.clone(), value).reshape([channels]);
            if device.is_autodiff() { Tensor::from_inner(x) } else { x }
        };
        Ok(self.with(settle(step, 1.0), offset.map(|offset| settle(offset, 0.0))))
    }

    /// A quantiser whose step is a number.
    ///
    /// # Errors
    /// [`Error::Parameter`] unless the step is positive and finite, or if it has an axis of channels, whose number is not known.
    pub fn with_step(self, step: f64, device: &Device) -> Result<Lsq> {
        if let Some(axis) = self.channel {
            return Err(Error::Parameter {
                parameter: "channel",
                value: axis as f64,
                bound: "none where the step is one number",
            });
        }
        let step = crate::error::positive("step", step)?;
        Ok(self.with(Tensor::full([1], step, device), self.offset.then(|| Tensor::zeros([1], device))))
    }

    fn with(self, step: Tensor<1>, offset: Option<Tensor<1>>) -> Lsq {
        Lsq { step: Param::from_tensor(step), offset: offset.map(Param::from_tensor), config: self }
    }

    fn channels(&self, dims: &[usize]) -> Result<usize> {
        for (parameter, axis) in [("channel", self.channel), ("samples", self.samples)] {
            if let Some(axis) = axis.filter(|axis| *axis >= dims.len()) {
                return Err(Error::Parameter { parameter, value: axis as f64, bound: "an axis of the tensor" });
            }
        }
        Ok(self.channel.map_or(1, |axis| dims[axis]))
    }
}

/// LSQ: quantises to `s·clamp(round(x/s), −Q_N, Q_P)` with a step `s` that is trained like a weight.
///
/// With `v = x/s` the gradients are those of the paper's equations 3 and 5, and the step's is multiplied by `g`:
///
/// | | `−Q_N < v < Q_P` | `v ≤ −Q_N` | `v ≥ Q_P` |
/// |---|---|---|---|
/// | of `x` | 1 | 0 | 0 |
/// | of `s` (`step`) | `round(v) − v` | `−Q_N` | `Q_P` |
/// | of `β` (`offset`, with `v = (x − β)/s`) | 0 | 1 | 1 |
///
/// `g = 1/√(n·Q_P)` with `n` the elements that share the step, in one sample. The value is `s·round(v) + β`. Rounding is to nearest
/// even. A step below `f32::EPSILON` counts as that: its gradient still leads it out.
///
/// Guarantees: the gradients equal the table element by element (`tests::gradients_are_those_of_the_table`); values are at most half
/// a step from `x` where nothing is clamped (`tests::values_are_the_nearest_steps`).
///
/// Cost: about ten element-wise operations on any device, no host synchronisation; runs in a recorded
/// [`Program`](core_tensor::Program). One parameter a tensor or channel.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use mixed_precision::LsqConfig;
///
/// let w = Tensor::<2>::from_data([[0.4, -0.2], [0.1, -0.9]], &Device::flex());
/// let lsq = LsqConfig::weight(4)?.init(&w)?;                 // a module: keep it beside the weight
/// let quantised = lsq.forward(w)?;                           // multiply by this one
/// # let _ = quantised;
/// # Ok::<(), mixed_precision::Error>(())
/// ```
///
/// S. K. Esser, J. L. McKinstry, D. Bablani, R. Appuswamy, D. S. Modha, "Learned step size quantization", ICLR 2020, arXiv:1902.08153;
/// the offset: Y. Bhalgat, J. Lee, M. Nagel, T. Blankevoort, N. Kwak, "LSQ+: improving low-bit quantization through learnable offsets and
/// better initialization", CVPR workshops 2020, arXiv:2004.09576 (its second stage of initialisation, a search for the least error, is
/// [`MseOptimal`](crate::observers::MseOptimal) here).
#[derive(Module, Debug)]
#[module(custom_display)]
pub struct Lsq {
    /// The step, or one a channel.
    pub step: Param<Tensor<1>>,
    /// LSQ+'s offset `β`.
    pub offset: Option<Param<Tensor<1>>>,
    #[module(skip)]
    config: LsqConfig,
}

impl Lsq {
    /// How it quantises.
    pub fn config(&self) -> LsqConfig {
        self.config
    }

    /// The values quantised, in the tensor's shape and dtype.
    ///
    /// # Errors
    /// [`Error::Parameter`] for a tensor without the axes of the config, or with another number of channels.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Result<Tensor<D>> {
        let dims = x.dims();
        let channels = self.config.channels(&dims)?;
        let step = self.step.val();
        if step.dims()[0] != channels {
            let value = channels as f64;
            return Err(Error::Parameter { parameter: "channels", value, bound: "as many as the quantiser has steps" });
        }
        let mut shape = [1; D];
        if let Some(axis) = self.config.channel {
            shape[axis] = channels;
        }
        if dims.contains(&0) {
            return Ok(x);
        }
        let (low, high) = self.config.levels();
        let samples = self.config.samples.map_or(1, |axis| dims[axis]);
        // One channel of one sample; an axis may be both.
        let shared = dims.iter().product::<usize>() / channels;
        let shared = if self.config.samples == self.config.channel { shared } else { shared / samples };
        let g = 1.0 / (shared as f64 * high).sqrt();

        let dtype = x.dtype();
        let step = step.cast(dtype).reshape(shape);
        let offset = self.offset.as_ref().map(|offset| offset.val().cast(dtype).reshape(shape));
        let s = step.clone().detach().clamp_min(f32::EPSILON);
        let beta = offset.clone().map(Tensor::detach);
        let held = x.clone().detach();
        let centred = match &beta {
            Some(beta) => held - beta.clone(),
            None => held,
        };
        let v = centred / s.clone();
        let inside = v.clone().greater_elem(-low).bool_and(v.clone().lower_elem(high));
        let outside = inside.bool_not();
        let rounded = v.clone().clamp(-low, high).round();
        let value = rounded.clone() * s;
        let value = match beta {
            Some(beta) => value + beta,
            None => value,
        };
        if !x.is_autodiff() && !step.is_autodiff() {
            return Ok(value);
        }
        // Terms that are zero, with the gradients of the table.
        let of_step = (rounded.clone() - v.mask_fill(outside.clone(), 0.0)) * g;
        let x = x.mask_fill(outside.clone(), 0.0);
        let value = value - (x.clone().detach() - x);
        let value = value - of_step * (step.clone().detach() - step);
        Ok(match offset {
            Some(offset) => value - outside.float().cast(dtype) * g * (offset.clone().detach() - offset),
            None => value,
        })
    }
}

impl ModuleDisplay for Lsq {
    fn custom_content(&self, content: Content) -> Option<Content> {
        content.add("steps", &self.step.dims()[0]).add_debug_attribute("config", &self.config).optional()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{DType, TensorData};
    use core_tensor::testing::{host_devices, property};
    use proptest::prelude::*;

    fn values<const D: usize>(x: Tensor<D>) -> Vec<f64> {
        x.into_data().iter::<f64>().collect()
    }

    fn tensor(data: &[f64], device: &Device) -> Tensor<1> {
        Tensor::from_data(TensorData::new(data.to_vec(), [data.len()]), (device, DType::F64))
    }

    fn configs() -> impl Strategy<Value = LsqConfig> {
        (2usize..=8, any::<bool>(), any::<bool>())
            .prop_map(|(bits, signed, offset)| LsqConfig::weight(bits).unwrap().signed(signed).offset(offset))
    }

    /// Step and offset as `f64`, so that the table can be checked closely.
    fn quantiser(config: LsqConfig, step: f64, offset: f64, device: &Device) -> Lsq {
        let (step, offset) = (tensor(&[step], device), config.offset.then(|| tensor(&[offset], device)));
        config.with(step, offset)
    }

    #[test]
    fn gradients_are_those_of_the_table() {
        let strategy =
            (configs(), 0.05f64..2.0, -1f64..1.0, proptest::collection::vec((-30f64..30.0, -2f64..2.0), 1..20));
        property(100, strategy, |(config, step, offset, data)| {
            for device in host_devices() {
                let device = device.autodiff();
                let lsq = quantiser(config, step, offset, &device);
                let (x, up): (Vec<f64>, Vec<f64>) = data.iter().copied().unzip();
                let leaf = tensor(&x, &device).require_grad();
                let y = lsq.forward(leaf.clone()).unwrap();
                let grads = (y * tensor(&up, &device)).sum().backward();
                let (low, high) = config.levels();
                let beta = if config.offset { offset } else { 0.0 };
                let g = 1.0 / (x.len() as f64 * high).sqrt();
                let (mut of_step, mut of_offset) = (0.0, 0.0);
                let of_x: Vec<f64> = x
                    .iter()
                    .zip(&up)
                    .map(|(x, up)| {
                        let v = (x - beta) / step;
                        let (dx, ds, db) = match v {
                            v if v <= -low => (0.0, -low, 1.0),
                            v if v >= high => (0.0, high, 1.0),
                            v => (1.0, v.round_ties_even() - v, 0.0),
                        };
                        of_step += up * ds * g;
                        of_offset += up * db * g;
                        up * dx
                    })
                    .collect();
                let close = |a: f64, b: f64| (a - b).abs() <= 1e-9 * (1.0 + b.abs());
                assert_eq!(values(leaf.grad(&grads).unwrap()), of_x);
                let found = values(lsq.step.grad(&grads).unwrap())[0];
                assert!(close(found, of_step), "{config:?}: {found} {of_step}");
                if let Some(offset) = &lsq.offset {
                    let found = values(offset.grad(&grads).unwrap())[0];
                    assert!(close(found, of_offset), "{found} {of_offset}");
                }
            }
        });
    }

    #[test]
    fn values_are_the_nearest_steps() {
        let strategy = (configs(), 0.05f64..2.0, -1f64..1.0, proptest::collection::vec(-30f64..30.0, 1..20));
        property(100, strategy, |(config, step, offset, x)| {
            let plain = Device::flex();
            let y =
                |device: &Device| values(quantiser(config, step, offset, device).forward(tensor(&x, device)).unwrap());
            let found = y(&plain);
            assert_eq!(found, y(&plain.autodiff()), "the value is that without autodiff");
            let (low, high) = config.levels();
            let beta = if config.offset { offset } else { 0.0 };
            for (x, y) in x.iter().zip(found) {
                let whole = (y - beta) / step;
                assert!((whole - whole.round()).abs() < 1e-9 && (-low - 1e-9..=high + 1e-9).contains(&whole));
                let v = (x - beta) / step;
                assert!(v < -low || v > high || (x - y).abs() <= step * (0.5 + 1e-9), "{x} became {y}");
            }
        });
    }

    #[test]
    fn first_steps_by_hand() {
        let device = Device::flex();
        let w = Tensor::<2>::from_data([[1.0, -3.0], [2.0, 2.0], [0.0, 0.0]], &device);
        // Mean 8/6, Q_P 7.
        let step = values(LsqConfig::weight(4).unwrap().init(&w).unwrap().step.val());
        assert!((step[0] - 2.0 * 8.0 / 6.0 / 7f64.sqrt()).abs() < 1e-6);
        let rows = LsqConfig::weight(4).unwrap().channel(0).init(&w).unwrap();
        let step = values(rows.step.val());
        assert!((step[0] - 4.0 / 7f64.sqrt()).abs() < 1e-6 && (step[1] - step[0]).abs() < 1e-6 && step[2] == 1.0);
        assert_eq!(rows.forward(w.clone()).unwrap().dims(), [3, 2]);
        let columns = LsqConfig::weight(2).unwrap().channel(1).init(&w).unwrap();
        assert_eq!(values(columns.step.val()), [2.0, 10.0 / 3.0].map(|x: f64| f64::from(x as f32)));
        let plus = LsqConfig::activation(2).unwrap().offset(true).init(&w).unwrap();
        assert_eq!(values(plus.offset.as_ref().unwrap().val()), [-3.0], "from −3 to 2 in three steps");
        let y = values(plus.forward(w).unwrap());
        assert!((y[1] + 3.0).abs() < 1e-6 && (y[2] - 2.0).abs() < 1e-6);
    }

    #[test]
    fn bad_input_has_a_name_or_shows() {
        let device = Device::flex();
        let message = |result: Result<Lsq>| result.unwrap_err().to_string();
        let x = Tensor::<1>::from_data([1.0, f32::NAN], &device);
        assert_eq!(LsqConfig::weight(1).unwrap_err().to_string(), "bits = 1 is out of range, expected 2 <= bits <= 16");
        let config = LsqConfig::weight(4).unwrap();
        assert_eq!(message(config.channel(1).init(&x)), "channel = 1 is out of range, expected an axis of the tensor");
        assert_eq!(
            message(config.with_step(f64::NAN, &device)),
            "step = NaN is out of range, expected 0 < value < inf"
        );
        assert!(config.channel(0).with_step(1.0, &device).is_err());
        assert_eq!(values(config.init(&x).unwrap().step.val()), [1.0]);
        assert_eq!(values(config.init(&Tensor::<2>::zeros([3, 0], &device)).unwrap().step.val()), [1.0]);
        let lsq = config.with_step(0.5, &device).unwrap();
        let y = values(lsq.forward(x).unwrap());
        assert!(y[0] == 1.0 && y[1].is_nan(), "{y:?}");
        let channels = config.channel(0).init(&Tensor::<1>::ones([3], &device)).unwrap();
        let other = channels.forward(Tensor::<1>::ones([2], &device)).unwrap_err().to_string();
        assert_eq!(other, "channels = 2 is out of range, expected as many as the quantiser has steps");
        assert_eq!(lsq.forward(Tensor::<2>::zeros([0, 3], &device)).unwrap().dims(), [0, 3]);
    }

    #[test]
    fn a_step_gone_negative_comes_back() {
        let device = Device::flex().autodiff();
        let config = LsqConfig::weight(3).unwrap();
        let mut step = -0.1;
        for _ in 0..200 {
            let lsq = quantiser(config, step, 0.0, &device);
            let x = tensor(&[-1.0, 0.3, 0.8], &device);
            let loss = (lsq.forward(x.clone()).unwrap() - x).square().sum();
            let grads = loss.backward();
            step -= 0.1 * values(lsq.step.grad(&grads).unwrap())[0];
        }
        assert!(step > 0.15 && step < 0.5, "{step}");
    }

    #[test]
    fn runs_in_a_recorded_program() {
        use core_tensor::{Program, Tree};
        let device = Device::flex();
        let lsq = LsqConfig::weight(4).unwrap().with_step(0.3, &device).unwrap();
        let x = Tensor::<1>::from_data([0.4, -5.0, 1.1], &device);
        let program = Program::record(&lsq, &x, |lsq, x| lsq.forward(x.clone()).unwrap().square().sum()).unwrap();
        let out = program.value_and_grad(&Tree::from_module(&lsq), &x).unwrap();
        let direct = LsqConfig::weight(4).unwrap().with_step(0.3, &device.clone().autodiff()).unwrap();
        let grads = direct.forward(Tensor::from_inner(x)).unwrap().square().sum().backward();
        let want = values(direct.step.grad(&grads).unwrap());
        let got = values(out.gradient.get::<1>("step").unwrap());
        assert!((got[0] - want[0]).abs() <= 1e-5 * want[0].abs(), "{got:?} {want:?}");
    }
}
