//! Random numbers: seeded per instance, the same on every backend, resumable.
//!
//! Values come from Philox4x32-10, a counter-based generator: block `i` of a stream is a function of
//! the key and `i`, so a tensor is drawn in parallel on the host, an independent stream is another
//! key, and the whole state is a key and a counter.
//!
//! Reference: J. K. Salmon, M. A. Moraes, R. O. Dror, D. E. Shaw, "Parallel random numbers: as easy
//! as 1, 2, 3", SC 2011. The normal distribution is by G. E. P. Box and M. E. Muller, "A note on the
//! generation of random normal deviates", 1958, with logarithm and cosine from `libm`, so that they
//! do not depend on the platform either.

use burn::backend::Dispatch;
use burn::backend::TensorMetadata;
use burn::backend::ops::FloatTensorOps;
use burn::tensor::{Device, Distribution, Shape, Tensor, TensorData};
use rayon::prelude::*;

use crate::transform::State;
use crate::{Error, Result, Tree};

/// A stream of random numbers.
///
/// Numbers are made on the host in `f64` and moved to the device, so they do not depend on the
/// backend. Cost: about 20 ns a normal number on one core, and the transfer.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use core_tensor::Random;
///
/// let mut random = Random::new(7);
/// let noise: Tensor<2> = random.normal([2, 3], 0.0, 1.0, &Device::flex());
/// let mut dropout = random.fork("dropout"); // its own stream, whatever `random` draws
/// let mask: Tensor<1> = dropout.bernoulli([8], 0.9, &Device::flex());
/// # let _ = (noise, mask);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Random {
    key: [u32; 2],
    /// The next block.
    counter: u64,
}

/// Numbers of one task.
const CHUNK: usize = 1 << 12;

impl Random {
    /// The stream of a seed.
    pub fn new(seed: u64) -> Self {
        Self { key: split(seed), counter: 0 }
    }

    /// The stream of a label: independent of this one and of those of other labels, and the same
    /// wherever this one stands.
    pub fn fork(&self, label: impl AsRef<[u8]>) -> Self {
        let label = label.as_ref();
        // Another domain than the counters of the stream, whose upper half is 0.
        let mut key = self.key;
        let mut absorb = |low: u64, high: u32| {
            let [a, b] = split(low);
            let block = philox([a, b, high, u32::MAX], key);
            key = [block[0], block[1]];
        };
        for bytes in label.chunks(8) {
            let mut word = [0; 8];
            word[..bytes.len()].copy_from_slice(bytes);
            absorb(u64::from_le_bytes(word), 1);
        }
        absorb(label.len() as u64, 2);
        Self { key, counter: 0 }
    }

    /// 64 uniform bits.
    pub fn next_u64(&mut self) -> u64 {
        let block = self.block(self.counter);
        self.counter += 1;
        join(block[0], block[1])
    }

    /// A number in `[0, 1)`, a multiple of 2⁻⁵³.
    pub fn next_f64(&mut self) -> f64 {
        unit(self.next_u64())
    }

    /// An integer in `0..bound`, each equally likely.
    ///
    /// # Panics
    /// If `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "there is no integer below 0");
        // The widening product, redrawn in the part that would make some values likelier.
        let threshold = bound.wrapping_neg() % bound;
        loop {
            let product = u128::from(self.next_u64()) * u128::from(bound);
            if product as u64 >= threshold {
                return (product >> 64) as u64;
            }
        }
    }

    /// The numbers `0..length` in random order.
    pub fn permutation(&mut self, length: usize) -> Vec<usize> {
        let mut items: Vec<usize> = (0..length).collect();
        for i in (1..length).rev() {
            items.swap(i, self.below(i as u64 + 1) as usize);
        }
        items
    }

    /// A tensor of numbers uniform in `[low, high)`.
    pub fn uniform<const D: usize>(&mut self, shape: [usize; D], low: f64, high: f64, device: &Device) -> Tensor<D> {
        self.tensor(Distribution::Uniform(low, high), shape, device)
    }

    /// A tensor of normal numbers.
    pub fn normal<const D: usize>(
        &mut self,
        shape: [usize; D],
        mean: f64,
        standard_deviation: f64,
        device: &Device,
    ) -> Tensor<D> {
        let distribution = Distribution::Normal(mean, standard_deviation);
        self.tensor(distribution, shape, device)
    }

    /// A tensor of ones, each with a probability, and zeros.
    pub fn bernoulli<const D: usize>(&mut self, shape: [usize; D], probability: f64, device: &Device) -> Tensor<D> {
        self.tensor(Distribution::Bernoulli(probability), shape, device)
    }

    /// A tree of normal numbers around 0, with the structure, dtypes and devices of another.
    pub fn normal_like(&mut self, tree: &Tree, standard_deviation: f64) -> Tree {
        self.like(tree, Distribution::Normal(0.0, standard_deviation))
    }

    /// A tree of ones and minus ones, equally likely, with the structure of another.
    pub fn rademacher_like(&mut self, tree: &Tree) -> Tree {
        let bits = self.like(tree, Distribution::Bernoulli(0.5));
        let signs = bits.ones_like().axpy(-2.0, &bits);
        match signs {
            Ok(signs) => signs,
            Err(_) => unreachable!("both have the structure of one tree"),
        }
    }

    /// Numbers of a distribution as `f64`, in row-major order.
    pub fn draw(&mut self, distribution: Distribution, shape: Shape) -> TensorData {
        let values = self.values(distribution, shape.num_elements());
        TensorData::new(values, shape)
    }

    /// The state, to go on from later.
    pub fn state(&self) -> State {
        let key = join(self.key[0], self.key[1]);
        State::new().with("random", vec![key, self.counter])
    }

    /// Go on from a state.
    ///
    /// # Errors
    /// [`Error::State`] for another state; the stream is then as it was.
    pub fn load_state(&mut self, mut state: State) -> Result<()> {
        let words: Vec<u64> = state.take("random")?;
        state.finish()?;
        let &[key, counter] = words.as_slice() else {
            return Err(Error::State {
                entry: "random".into(),
                found: "a list of another length",
                expected: "two words, key and counter",
            });
        };
        self.key = [key as u32, (key >> 32) as u32];
        self.counter = counter;
        Ok(())
    }

    fn tensor<const D: usize>(&mut self, distribution: Distribution, shape: [usize; D], device: &Device) -> Tensor<D> {
        let values = self.values(distribution, shape.iter().product());
        Tensor::from_data(TensorData::new(narrow(&values, distribution), shape), device)
    }

    fn like(&mut self, tree: &Tree, distribution: Distribution) -> Tree {
        let leaves = tree.leaves().iter().map(|leaf| {
            let (shape, dtype) = (leaf.shape(), leaf.dtype());
            let data = self.draw(distribution, shape).convert_dtype(dtype);
            Dispatch::float_from_data(data, &leaf.device())
        });
        let leaves = leaves.collect();
        Tree::from_parts(tree.shared_names(), leaves)
    }

    /// Two numbers a block.
    fn values(&mut self, distribution: Distribution, length: usize) -> Vec<f64> {
        let start = self.counter;
        self.counter += length.div_ceil(2) as u64;
        let mut values = vec![0.0; length];
        let fill = |(chunk, values): (usize, &mut [f64])| {
            let first = start + (chunk * CHUNK / 2) as u64;
            for (i, pair) in values.chunks_mut(2).enumerate() {
                let block = self.block(first + i as u64);
                let bits = [join(block[0], block[1]), join(block[2], block[3])];
                let numbers = match distribution {
                    Distribution::Default => bits.map(unit),
                    Distribution::Uniform(low, high) => {
                        bits.map(|x| (low + unit(x) * (high - low)).min(high.next_down()))
                    }
                    Distribution::Bernoulli(p) => bits.map(|x| f64::from(unit(x) < p)),
                    Distribution::Normal(mean, deviation) => normal(bits).map(|x| mean + deviation * x),
                };
                pair.copy_from_slice(&numbers[..pair.len()]);
            }
        };
        match length <= CHUNK {
            true => fill((0, &mut values)),
            false => values.par_chunks_mut(CHUNK).enumerate().for_each(fill),
        }
        values
    }

    fn block(&self, index: u64) -> [u32; 4] {
        philox([index as u32, (index >> 32) as u32, 0, 0], self.key)
    }
}

/// To `f32`, without rounding up to the open end of an interval.
fn narrow(values: &[f64], distribution: Distribution) -> Vec<f32> {
    let end = match distribution {
        Distribution::Default => 1.0,
        Distribution::Uniform(_, high) => high,
        Distribution::Bernoulli(_) | Distribution::Normal(..) => f64::INFINITY,
    };
    let narrow = |&x: &f64| {
        let y = x as f32;
        match f64::from(y) >= end && x < end {
            true => y.next_down(),
            false => y,
        }
    };
    values.iter().map(narrow).collect()
}

/// Two independent standard normal numbers (Box and Muller, equations 1).
fn normal(bits: [u64; 2]) -> [f64; 2] {
    // In (0, 1], so that the logarithm is finite.
    let radius = (-2.0 * libm::log(1.0 - unit(bits[0]))).sqrt();
    let (sine, cosine) = libm::sincos(std::f64::consts::TAU * unit(bits[1]));
    [radius * cosine, radius * sine]
}

/// The upper 53 bits as a number in `[0, 1)`.
fn unit(bits: u64) -> f64 {
    (bits >> 11) as f64 * 2f64.powi(-53)
}

fn join(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

fn split(word: u64) -> [u32; 2] {
    [word as u32, (word >> 32) as u32]
}

/// Philox4x32 with ten rounds.
fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let [a, b] = split(u64::from(counter[0]) * 0xD251_1F53);
        let [c, d] = split(u64::from(counter[2]) * 0xCD9E_8D57);
        counter = [d ^ counter[1] ^ key[0], c, b ^ counter[3] ^ key[1], a];
        key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::host_devices;

    /// The known answers published with the reference implementation, Random123.
    #[test]
    fn philox_gives_the_known_answers() {
        let cases = [
            ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            ([u32::MAX; 4], [u32::MAX; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ];
        for (counter, key, expected) in cases {
            assert_eq!(philox(counter, key), expected);
        }
    }

    #[test]
    fn every_backend_gets_the_same_values() {
        let draw = |device: &Device| {
            let mut random = Random::new(3);
            let normal = random.normal([5, 3], 1.0, 2.0, device);
            let uniform = random.uniform([7], -1.0, 1.0, device);
            let both = Tensor::cat(vec![normal.reshape([15]), uniform], 0);
            both.try_into_vec_as::<f32>().unwrap()
        };
        let devices = host_devices();
        for device in &devices {
            assert_eq!(draw(device), draw(&devices[0]));
        }
    }

    #[test]
    fn tensors_do_not_depend_on_threads_or_position() {
        let mut random = Random::new(5);
        let long = random.values(Distribution::Default, 3 * CHUNK + 1);
        let mut again = Random::new(5);
        let short = again.values(Distribution::Default, CHUNK);
        assert_eq!(long[..CHUNK], short);
        assert_eq!(long[CHUNK..2 * CHUNK], again.values(Distribution::Default, CHUNK));
    }

    #[test]
    fn forks_are_streams_of_their_own() {
        let mut random = Random::new(1);
        let fork = random.fork("a");
        random.next_u64();
        assert_eq!(random.fork("a"), fork);
        let labels = ["", "a", "b", "ab", "a\0", "aaaaaaaa", "aaaaaaaaa"];
        let mut first: Vec<u64> = labels.map(|l| random.fork(l).next_u64()).to_vec();
        first.push(Random::new(1).next_u64());
        first.push(random.fork("a").fork("a").next_u64());
        first.sort();
        first.dedup();
        assert_eq!(first.len(), 9);
    }

    #[test]
    fn a_state_resumes_the_stream() {
        let mut random = Random::new(9).fork("x");
        random.permutation(10);
        let mut resumed = Random::new(0);
        resumed.load_state(random.state()).unwrap();
        assert_eq!(resumed, random);
        assert_eq!(resumed.next_u64(), random.next_u64());
        let wrong = State::new().with("random", vec![1u64]);
        assert!(matches!(random.load_state(wrong), Err(Error::State { .. })));
        assert_eq!(resumed, random);
    }

    #[test]
    fn moments_are_those_of_the_distribution() {
        let n = 200_000;
        let moments = |distribution| {
            let x = Random::new(11).values(distribution, n);
            let mean = x.iter().sum::<f64>() / n as f64;
            let moment = |k: i32| x.iter().map(|x| (x - mean).powi(k)).sum::<f64>() / n as f64;
            (mean, moment(2), moment(3), moment(4))
        };
        let near = |a: f64, b: f64| (a - b).abs() < 0.03;
        let (mean, variance, third, fourth) = moments(Distribution::Normal(2.0, 1.0));
        assert!(near(mean, 2.0) && near(variance, 1.0) && near(third, 0.0) && near(fourth / 3.0, 1.0));
        let (mean, variance, ..) = moments(Distribution::Uniform(-1.0, 3.0));
        assert!(near(mean, 1.0) && near(variance, 4.0 / 3.0));
        let (mean, variance, ..) = moments(Distribution::Bernoulli(0.3));
        assert!(near(mean, 0.3) && near(variance, 0.21));
    }

    #[test]
    fn ranges_are_half_open_and_permutations_complete() {
        let mut random = Random::new(2);
        let x = random.uniform::<1>([100_000], 0.0, 1.0, &Device::flex());
        let x: Vec<f32> = x.try_into_vec_as().unwrap();
        assert!(x.iter().all(|&x| (0.0..1.0).contains(&x)));
        assert_eq!(narrow(&[1f64.next_down()], Distribution::Default), [1f32.next_down()]);
        for n in [0, 1, 2, 50] {
            let mut items = random.permutation(n);
            items.sort();
            assert_eq!(items, (0..n).collect::<Vec<_>>());
        }
        let mut counts = [0; 6];
        for _ in 0..6000 {
            counts[random.below(6) as usize] += 1;
        }
        assert!(counts.iter().all(|&n| (850..1150).contains(&n)));
    }

    #[test]
    fn trees_are_drawn_leaf_by_leaf() {
        let device = Device::flex();
        let tree = Tree::empty()
            .push("a", Tensor::<2>::zeros([40, 50], &device))
            .and_then(|t| t.push("b", Tensor::<1>::zeros([3], &device)))
            .unwrap();
        let normal = Random::new(4).normal_like(&tree, 0.5);
        normal.same_structure(&tree).unwrap();
        assert!((normal.norm().value() / (0.5 * 2003f64.sqrt()) - 1.0).abs() < 0.05);
        let signs = Random::new(4).rademacher_like(&tree);
        assert_eq!(signs.norm().value(), 2003f64.sqrt());
        assert_eq!(signs.norm_inf().value(), 1.0);
        assert!(signs.sum().value().abs() < 200.0);
    }
}
