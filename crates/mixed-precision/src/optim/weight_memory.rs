//! How a weight of low precision takes an update smaller than half its unit in the last place.

use core_tensor::host::vectorised;
use rayon::prelude::*;

use super::remainder::{join16, remainder, restore, split16};
use crate::format::{Codec, Format, mode};
use crate::memory::{CHUNK, PARALLEL, chunks};
use crate::rounding::{Rounding, Words};

/// What becomes of the part of an update that a weight of few bits cannot hold. Rounded to nearest, a weight of `bf16` does
/// not move at all where the update is below 1/512 of it.
///
/// | update | memory beside the weight | of the update |
/// |---|---|---|
/// | `Nearest` | none | what is below half a unit is lost |
/// | `Stochastic(seed)` | none | nothing is lost in the mean; the weight jitters by a unit |
/// | `Kahan` | a number of the format | the lost part is added to the next update |
/// | `Remainder8` | 1 byte | kept to 1/254 of half a unit a step, and equal updates may lose it always to the same side |
/// | `Remainder16` | 2 bytes | everything is kept: weight and remainder are an `f32`, exactly for `bf16` |
/// | `MasterF32` | 4 bytes | everything is kept |
///
/// `Remainder16` is the master in 4 bytes a weight instead of 6. Its `bf16` weight rounds ties away from zero, all others to
/// even. Numbers beyond the largest one become infinite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WeightUpdate {
    /// Round the updated weight to nearest.
    Nearest,
    /// Round the updated weight at random in proportion, with a stream of the seed for each step.
    Stochastic(u64),
    /// Kahan's compensated sum.
    Kahan,
    /// Keep the rounding error in 8 bits.
    Remainder8,
    /// Keep the rounding error in 16 bits.
    Remainder16,
    /// Keep the weight in `f32` too.
    MasterF32,
}

impl WeightUpdate {
    /// The first memory of `weights` that become numbers of `format` at the next step.
    pub fn start(self, format: Format, weights: &[f32]) -> WeightMemory {
        let n = weights.len();
        let kept = match self {
            Self::Nearest | Self::Stochastic(_) => Kept::Nothing,
            Self::Kahan => Kept::Compensation(vec![0; n]),
            Self::Remainder8 => Kept::Remainder8(vec![0; n]),
            Self::Remainder16 => Kept::Remainder16(vec![0; n]),
            Self::MasterF32 => Kept::Master(weights.to_vec()),
        };
        WeightMemory { update: self, format, step: 0, kept }
    }
}

/// What is kept beside the weights of a tensor: see [`WeightUpdate`].
///
/// A step reads the weights at full precision, updates them as any optimizer does and stores them. Both work on slices, one
/// pass each.
///
/// ```
/// use mixed_precision::Format;
/// use mixed_precision::optim::WeightUpdate;
///
/// let sum = |update: WeightUpdate| {
///     let mut weights = vec![1.0];
///     let mut memory = update.start(Format::BF16, &weights);
///     for _ in 0..1000 {
///         let before = memory.read(&weights);
///         let after: Vec<f32> = before.iter().map(|w| w + 0.001).collect();
///         memory.store(&mut weights, &before, &after);
///     }
///     weights[0]
/// };
/// assert_eq!(sum(WeightUpdate::Nearest), 1.0);
/// assert_eq!(sum(WeightUpdate::Kahan), 2.0);
/// assert_eq!(sum(WeightUpdate::Remainder16), 2.0);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct WeightMemory {
    pub(crate) update: WeightUpdate,
    pub(crate) format: Format,
    /// Steps stored.
    pub(crate) step: u64,
    pub(crate) kept: Kept,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Kept {
    Nothing,
    /// Codes of the format.
    Compensation(Vec<u16>),
    Remainder8(Vec<i8>),
    Remainder16(Vec<i16>),
    Master(Vec<f32>),
}

/// Steps to half a unit in the last place of remainders of 8 and of 16 bits.
const STEPS8: f32 = 127.0;
const STEPS16: f32 = 32767.0;

impl WeightMemory {
    /// The weights at the precision that is kept.
    ///
    /// A weight that is not the rounded one of what is kept (somebody set it since) is taken as it is. `weights` has as many
    /// elements as there were at the start.
    pub fn read(&self, weights: &[f32]) -> Vec<f32> {
        let (format, codec) = (self.format, self.format.codec());
        let mut out = weights.to_vec();
        match &self.kept {
            Kept::Nothing | Kept::Compensation(_) => {}
            Kept::Remainder8(kept) => {
                zip(&mut out, kept, |_, x, kept| {
                    let known = nearest(codec, *x) == *x;
                    *x = if known { restore(format, *x, kept.into(), STEPS8) } else { *x };
                });
            }
            Kept::Remainder16(kept) if format == Format::BF16 => {
                zip(&mut out, kept, |_, x, kept| {
                    let bits = x.to_bits();
                    *x = if bits & 0xffff == 0 { join16((bits >> 16) as u16, kept) } else { *x };
                });
            }
            Kept::Remainder16(kept) => {
                zip(&mut out, kept, |_, x, kept| {
                    let known = nearest(codec, *x) == *x;
                    *x = if known { restore(format, *x, kept.into(), STEPS16) } else { *x };
                });
            }
            Kept::Master(kept) => {
                zip(&mut out, kept, |_, x, master| *x = if nearest(codec, master) == *x { master } else { *x });
            }
        }
        out
    }

    /// Makes `weights` the numbers of the format for the weights `after` an update, which were `before` it as
    /// [`read`](Self::read), and keeps what is lost.
    pub fn store(&mut self, weights: &mut [f32], before: &[f32], after: &[f32]) {
        let (format, codec) = (self.format, self.format.codec());
        self.step += 1;
        match (&mut self.kept, self.update) {
            (Kept::Nothing, WeightUpdate::Stochastic(seed)) => {
                let seed = Rounding::Stochastic(seed).at(self.step).seed();
                chunks(weights, |first, weights| {
                    let words = Words::new(seed, (first as u64 >> 32) as u32);
                    vectorised(
                        #[inline(always)]
                        || {
                            for (i, (weight, x)) in weights.iter_mut().zip(&after[first..]).enumerate() {
                                let bits = words.get((first + i) as u32);
                                *weight = codec.quantize::<{ mode::STOCHASTIC }>(*x, bits, false);
                            }
                        },
                    );
                });
            }
            (Kept::Nothing, _) => zip(weights, after, |_, weight, x| *weight = nearest(codec, x)),
            (Kept::Compensation(kept), _) => {
                zip_kept(weights, kept, |i, weight, kept| {
                    let old = nearest(codec, before[i]);
                    // What rounding the weight itself loses, at the first step of one that was not of the format, counts.
                    let lost = codec.decode(u32::from(*kept)) + (before[i] - old) + (after[i] - before[i]);
                    let lost = nearest(codec, lost);
                    *weight = nearest(codec, old + lost);
                    *kept = codec.encode::<{ mode::EVEN }>(lost + (old - *weight), 0, false) as u16;
                });
            }
            (Kept::Remainder8(kept), _) => zip_kept(weights, kept, |i, weight, kept| {
                *weight = nearest(codec, after[i]);
                *kept = remainder(format, after[i], *weight, STEPS8) as i8;
            }),
            (Kept::Remainder16(kept), _) if format == Format::BF16 => zip_kept(weights, kept, |i, weight, kept| {
                let (code, rest) = split16(after[i]);
                (*weight, *kept) = (f32::from_bits(u32::from(code) << 16), rest);
            }),
            (Kept::Remainder16(kept), _) => zip_kept(weights, kept, |i, weight, kept| {
                *weight = nearest(codec, after[i]);
                *kept = remainder(format, after[i], *weight, STEPS16) as i16;
            }),
            (Kept::Master(kept), _) => zip_kept(weights, kept, |i, weight, kept| {
                (*weight, *kept) = (nearest(codec, after[i]), after[i]);
            }),
        }
    }

    /// Number of weights, if anything is kept for each.
    pub(crate) fn len(&self) -> Option<usize> {
        match &self.kept {
            Kept::Nothing => None,
            Kept::Compensation(x) => Some(x.len()),
            Kept::Remainder8(x) => Some(x.len()),
            Kept::Remainder16(x) => Some(x.len()),
            Kept::Master(x) => Some(x.len()),
        }
    }

    /// Bytes kept beside the weights.
    pub fn bytes(&self) -> usize {
        match &self.kept {
            Kept::Nothing => 0,
            Kept::Compensation(x) => 2 * x.len(),
            Kept::Remainder8(x) => x.len(),
            Kept::Remainder16(x) => 2 * x.len(),
            Kept::Master(x) => 4 * x.len(),
        }
    }
}

#[inline(always)]
fn nearest(codec: Codec, x: f32) -> f32 {
    codec.quantize::<{ mode::EVEN }>(x, 0, false)
}

/// `f(index, x, y)` for all elements of two slices, in parallel where it pays.
fn zip<A: Send, B: Copy + Sync>(x: &mut [A], y: &[B], f: impl Fn(usize, &mut A, B) + Sync) {
    let run = |(chunk, (x, y)): (usize, (&mut [A], &[B]))| {
        vectorised(
            #[inline(always)]
            || {
                for (i, (x, y)) in x.iter_mut().zip(y).enumerate() {
                    f(chunk * CHUNK + i, x, *y);
                }
            },
        );
    };
    match x.len() < PARALLEL {
        true => x.chunks_mut(CHUNK).zip(y.chunks(CHUNK)).enumerate().for_each(run),
        false => x.par_chunks_mut(CHUNK).zip(y.par_chunks(CHUNK)).enumerate().for_each(run),
    }
}

/// The same with both to change.
fn zip_kept<A: Send, B: Send>(x: &mut [A], y: &mut [B], f: impl Fn(usize, &mut A, &mut B) + Sync) {
    let run = |(chunk, (x, y)): (usize, (&mut [A], &mut [B]))| {
        vectorised(
            #[inline(always)]
            || {
                for (i, (x, y)) in x.iter_mut().zip(y).enumerate() {
                    f(chunk * CHUNK + i, x, y);
                }
            },
        );
    };
    match x.len() < PARALLEL {
        true => x.chunks_mut(CHUNK).zip(y.chunks_mut(CHUNK)).enumerate().for_each(run),
        false => x.par_chunks_mut(CHUNK).zip(y.par_chunks_mut(CHUNK)).enumerate().for_each(run),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core_tensor::Random;
    use core_tensor::testing::property;
    use proptest::prelude::*;

    const ALL: [WeightUpdate; 6] = [
        WeightUpdate::Nearest,
        WeightUpdate::Stochastic(1),
        WeightUpdate::Kahan,
        WeightUpdate::Remainder8,
        WeightUpdate::Remainder16,
        WeightUpdate::MasterF32,
    ];

    /// 1 + 1000·0.001 in bf16.
    fn sum(update: WeightUpdate) -> f32 {
        let mut weights = vec![1.0];
        let mut memory = update.start(Format::BF16, &weights);
        for _ in 0..1000 {
            let before = memory.read(&weights);
            memory.store(&mut weights, &before, &[before[0] + 0.001]);
        }
        weights[0]
    }

    #[test]
    fn a_thousand_small_updates() {
        assert_eq!(sum(WeightUpdate::Nearest), 1.0);
        for update in [WeightUpdate::Kahan, WeightUpdate::Remainder16, WeightUpdate::MasterF32] {
            assert_eq!(sum(update), 2.0, "{update:?}");
        }
        // Eight bits lose up to 1/254 of half a unit (2⁻⁸) a step, here always to the same side: 2.0156.
        let (drift, half_unit) = (1000.0 / 254.0 / 256.0, 1.0 / 256.0);
        assert!((sum(WeightUpdate::Remainder8) - 2.0).abs() <= drift + half_unit);
        let trials = 200;
        let sums: Vec<f64> = (0..trials).map(|seed| sum(WeightUpdate::Stochastic(seed)).into()).collect();
        let mean = sums.iter().sum::<f64>() / trials as f64;
        let deviation = (sums.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / trials as f64).sqrt();
        assert!((mean - 2.0).abs() < 0.02, "{mean}");
        // A step is 2⁻⁷ with probability 0.128: √(1000·0.128·0.872)/128 = 0.083.
        assert!((0.07..0.095).contains(&deviation), "{deviation}");
    }

    /// Least squares with ten weights, batch 1: the mean distance to the solution over the last thousand of 20000 steps.
    fn least_squares(update: WeightUpdate, lr: f32, seed: u64) -> f64 {
        const D: usize = 10;
        let mut random = Random::new(seed);
        let solution: Vec<f32> = (0..D).map(|_| 100.0 * random.next_f64() as f32).collect();
        let mut weights = vec![0.0; D];
        let mut memory = update.start(Format::BF16, &weights);
        let (steps, mut distance) = (20_000, 0.0);
        for step in 0..steps {
            let x: Vec<f32> = (0..D)
                .map(|_| {
                    // Normal, by Box and Muller.
                    let (u, v) = (1.0 - random.next_f64(), random.next_f64());
                    ((-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()) as f32
                })
                .collect();
            let before = memory.read(&weights);
            let dot = |w: &[f32]| w.iter().zip(&x).map(|(w, x)| w * x).sum::<f32>();
            let residual = dot(&weights) - dot(&solution);
            let after: Vec<f32> = before.iter().zip(&x).map(|(w, x)| w - lr * residual * x).collect();
            memory.store(&mut weights, &before, &after);
            if step >= steps - 1000 {
                let square: f32 = weights.iter().zip(&solution).map(|(w, s)| (w - s) * (w - s)).sum();
                distance += f64::from(square).sqrt() / 1000.0;
            }
        }
        distance
    }

    #[test]
    fn least_squares_stall_or_not() {
        use WeightUpdate::{Kahan, MasterF32, Nearest, Remainder8, Remainder16, Stochastic};
        let mean = |update: fn(u64) -> WeightUpdate, lr| {
            (0..4).map(|seed| least_squares(update(seed), lr, seed)).sum::<f64>() / 4.0
        };
        let rows: Vec<[f64; 3]> = [|_| Nearest, Stochastic, |_| Kahan, |_| Remainder8, |_| Remainder16, |_| MasterF32]
            .into_iter()
            .map(|update: fn(u64) -> WeightUpdate| [0.001, 0.01, 0.1].map(|lr| mean(update, lr)))
            .collect();
        let [nearest, stochastic, kahan, remainder8, remainder16, master] = rows[..] else { unreachable!() };
        println!("{rows:.3?}");
        // Nearest stalls where the update is below half a unit, stochastic does not.
        assert!(nearest[0] > 15.0 && stochastic[0] < 1.5);
        assert!((1.0..2.0).contains(&nearest[1]) && (0.6..1.0).contains(&stochastic[1]));
        // Large updates are never lost: there the noise of stochastic rounding costs more than it brings.
        assert!(nearest[2] < 0.5 && stochastic[2] > 1.5 * nearest[2]);
        // What keeps the rounding error stays at the error of the weights' own rounding.
        for row in [kahan, remainder8, remainder16, master] {
            assert!(row.iter().all(|x| (0.25..0.5).contains(x)), "{row:?}");
        }
    }

    #[test]
    fn weights_are_numbers_of_the_format_near_what_is_kept() {
        let numbers = prop::collection::vec((-20.0f32..15.9, any::<bool>()), 1..40).prop_map(|x| {
            x.into_iter().map(|(e, negative)| if negative { -e.exp2() } else { e.exp2() }).collect::<Vec<_>>()
        });
        property(200, (numbers, -1.0f32..1.0), |(start, factor)| {
            for (update, format) in ALL.into_iter().flat_map(|u| [(u, Format::BF16), (u, Format::F16)]) {
                let mut weights = start.clone();
                let mut memory = update.start(format, &weights);
                for _ in 0..3 {
                    let before = memory.read(&weights);
                    assert_eq!(before.len(), start.len());
                    let after: Vec<f32> = before.iter().map(|w| (w * (1.0 + 0.01 * factor)).clamp(-6e4, 6e4)).collect();
                    memory.store(&mut weights, &before, &after);
                    for (i, (w, x)) in weights.iter().zip(&after).enumerate() {
                        assert_eq!(nearest(format.codec(), *w), *w, "{update:?}");
                        let gap = (x.abs() * f32::EPSILON * (1 << (23 - format.mantissa_bits())) as f32)
                            .max(format.min_positive());
                        assert!((w - x).abs() <= 2.0 * gap, "{update:?} {format:?}: {x} became {w}");
                        let kept = memory.read(&weights)[i];
                        match update {
                            WeightUpdate::MasterF32 => assert_eq!(kept, *x),
                            WeightUpdate::Remainder16 if format == Format::BF16 => assert_eq!(kept, *x),
                            WeightUpdate::Remainder8 => {
                                assert!((kept - x).abs() <= gap / 200.0 + x.abs() * f32::EPSILON)
                            }
                            _ => {}
                        }
                    }
                }
            }
        });
    }

    #[test]
    fn sixteen_bit_remainders_are_the_master() {
        let mut random = Random::new(4);
        let start: Vec<f32> = (0..1000).map(|_| random.next_f64() as f32 - 0.5).collect();
        let run = |update: WeightUpdate| {
            let mut weights = start.clone();
            let mut memory = update.start(Format::BF16, &weights);
            for step in 0..50 {
                let before = memory.read(&weights);
                let after: Vec<f32> = before.iter().map(|w| w - 1e-4 * (w * step as f32).sin()).collect();
                memory.store(&mut weights, &before, &after);
            }
            (memory.read(&weights), memory.bytes())
        };
        let (master, remainder) = (run(WeightUpdate::MasterF32), run(WeightUpdate::Remainder16));
        assert_eq!(master.0, remainder.0);
        assert_eq!((master.1, remainder.1), (4000, 2000));
    }

    #[test]
    fn weights_set_from_outside_win() {
        for update in [WeightUpdate::MasterF32, WeightUpdate::Remainder16, WeightUpdate::Remainder8] {
            let mut weights = vec![1.0, 1.0];
            let mut memory = update.start(Format::BF16, &weights);
            let before = memory.read(&weights);
            memory.store(&mut weights, &before, &[1.001, 1.001]);
            weights[0] = 3.0;
            weights[1] = 0.1;
            let read = memory.read(&weights);
            assert!((read[0] - 3.0).abs() < 0.008 && read[1] == 0.1, "{update:?}: {read:?}");
        }
    }

    #[test]
    fn long_tensors_are_the_same_with_any_number_of_threads() {
        let start: Vec<f32> = (0..PARALLEL + 5).map(|i| (i as f32).sin()).collect();
        for update in ALL {
            let run = || {
                let mut weights = start.clone();
                let mut memory = update.start(Format::BF16, &weights);
                let before = memory.read(&weights);
                let after: Vec<f32> = before.iter().map(|w| w * 1.001).collect();
                memory.store(&mut weights, &before, &after);
                (weights, memory)
            };
            let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap().install(run);
            let four = rayon::ThreadPoolBuilder::new().num_threads(4).build().unwrap().install(run);
            assert_eq!(one, four);
        }
    }
}
