//! Numbers, tensors and module parameters drawn from a seed by a generator of our own, so that a test sees the
//! same values on every backend, in every precision and in every run.

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Bool, Device, Int, Tensor, TensorData};
use core_tensor::Tree;

/// flex with `f64` as its default. The setting is the process's and can only be made before the first tensor.
#[cfg(feature = "flex")]
pub fn flex_f64() -> Device {
    static DEVICE: std::sync::OnceLock<Device> = std::sync::OnceLock::new();
    DEVICE
        .get_or_init(|| {
            let mut device = Device::flex();
            device.configure(burn::tensor::FloatDType::F64).expect("no tensor was made before");
            device
        })
        .clone()
}

/// A seeded source of test values on one device.
#[derive(Clone, Debug)]
pub struct Draw {
    state: u64,
    device: Device,
}

impl Draw {
    /// Parameters live on `device` with autodiff, everything else on `device` without.
    pub fn new(seed: u64, device: &Device) -> Self {
        Self { state: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0xD1B5_4A32_D192_ED03, device: device.clone() }
    }

    /// The device without autodiff.
    pub fn device(&self) -> Device {
        self.device.clone().without_autodiff()
    }

    /// The device that parameters live on.
    pub fn autodiff(&self) -> Device {
        self.device.clone().autodiff()
    }

    /// The next 64 bits (SplitMix64: Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
    pub fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number of `[low, high)`.
    pub fn number(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * ((self.bits() >> 11) as f64 / (1u64 << 53) as f64)
    }

    /// `n` numbers of `[low, high)`.
    pub fn numbers(&mut self, n: usize, low: f64, high: f64) -> Vec<f64> {
        (0..n).map(|_| self.number(low, high)).collect()
    }

    /// `n` numbers of `[low, high)`, none closer than 0.05 to one of `kinks`.
    pub fn away(&mut self, n: usize, low: f64, high: f64, kinks: &[f64]) -> Vec<f64> {
        let clear = |x: f64| kinks.iter().all(|kink| (x - kink).abs() >= 0.05);
        (0..n)
            .map(|_| {
                loop {
                    let x = self.number(low, high);
                    if clear(x) {
                        return x;
                    }
                }
            })
            .collect()
    }

    /// A tensor of `[low, high)`, without autodiff.
    pub fn tensor<const D: usize>(&mut self, shape: [usize; D], low: f64, high: f64) -> Tensor<D> {
        let data = self.numbers(shape.iter().product(), low, high);
        Tensor::from_data(TensorData::new(data, shape), &self.device())
    }

    /// Integers `choices[i]` for random `i`.
    pub fn ints<const D: usize>(&mut self, shape: [usize; D], choices: &[i64]) -> Tensor<D, Int> {
        let n = shape.iter().product();
        let data: Vec<i64> = (0..n).map(|_| choices[(self.bits() % choices.len() as u64) as usize]).collect();
        Tensor::from_data(TensorData::new(data, shape), &self.device())
    }

    /// Exactly these integers.
    pub fn exactly<const D: usize>(&self, shape: [usize; D], data: &[i64]) -> Tensor<D, Int> {
        Tensor::from_data(TensorData::new(data.to_vec(), shape), &self.device())
    }

    /// Exactly these truth values.
    pub fn mask<const D: usize>(&self, shape: [usize; D], data: &[bool]) -> Tensor<D, Bool> {
        Tensor::from_data(TensorData::new(data.to_vec(), shape), &self.device())
    }

    /// A trainable parameter with exactly these values.
    pub fn param_of<const D: usize>(&self, shape: [usize; D], data: Vec<f64>) -> Param<Tensor<D>> {
        Param::from_tensor(Tensor::from_data(TensorData::new(data, shape), &self.autodiff()))
    }

    /// A trainable parameter of `[low, high)`.
    pub fn param_in<const D: usize>(&mut self, shape: [usize; D], low: f64, high: f64) -> Param<Tensor<D>> {
        let data = self.numbers(shape.iter().product(), low, high);
        self.param_of(shape, data)
    }

    /// A trainable parameter of `[-1.3, 1.3)`, no closer than 0.05 to 0.
    pub fn param<const D: usize>(&mut self, shape: [usize; D]) -> Param<Tensor<D>> {
        let data = self.away(shape.iter().product(), -1.3, 1.3, &[0.0]);
        self.param_of(shape, data)
    }

    /// A trainable parameter of about `[-1.2, 1.2)` on a grid of spacing 0.24, moved by `0.06·place`: of two with
    /// different places (0 to 3) every difference is at least 0.06.
    pub fn staggered<const D: usize>(&mut self, shape: [usize; D], place: u32) -> Param<Tensor<D>> {
        let n = shape.iter().product();
        let data = (0..n).map(|_| 0.24 * self.number(-5.0, 5.0).floor() + 0.06 * f64::from(place)).collect();
        self.param_of(shape, data)
    }

    /// The module with every float parameter drawn anew from `[-0.7, 0.7)`.
    pub fn module<M: Module>(&mut self, module: M) -> M {
        module.map(&mut Redraw(self))
    }

    /// A tree of the structure of `like` with numbers of `[-1, 1)`.
    ///
    /// # Panics
    /// If the tree's flatten and unflatten do not agree.
    pub fn direction(&mut self, like: &Tree) -> Tree {
        let numbers = self.numbers(like.num_elements(), -1.0, 1.0);
        let n = numbers.len();
        let flat = Tensor::from_data(TensorData::new(numbers, [n]), &self.device());
        like.unflatten(flat).expect("as many numbers as the tree has elements")
    }
}

struct Redraw<'a>(&'a mut Draw);

impl ModuleMapper for Redraw<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (id, value, mapper) = param.consume();
        let (shape, device) = (value.dims(), value.device());
        let data = self.0.numbers(shape.iter().product(), -0.7, 0.7);
        let value = Tensor::from_data(TensorData::new(data, shape), &device).set_require_grad(value.is_require_grad());
        Param::from_mapped_value(id, value, mapper)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generator_is_the_published_one() {
        // First outputs of SplitMix64 from state 0, as in the reference implementation.
        let mut draw = Draw { state: 0, device: Device::default() };
        assert_eq!(draw.bits(), 0xE220_A839_7B1D_CDAF);
        assert_eq!(draw.bits(), 0x6E78_9E6A_A1B9_65F4);
        assert_eq!(draw.bits(), 0x06C4_5D18_8009_454F);
    }

    #[test]
    fn numbers_keep_to_their_range_and_away_from_kinks() {
        let mut draw = Draw::new(1, &Device::default());
        let numbers = draw.away(1000, -1.0, 2.0, &[0.0, 1.0]);
        assert!(numbers.iter().all(|x| (-1.0..2.0).contains(x) && x.abs() >= 0.05 && (x - 1.0).abs() >= 0.05));
        assert!(numbers.iter().any(|x| *x > 1.9) && numbers.iter().any(|x| *x < -0.9));
    }
}
