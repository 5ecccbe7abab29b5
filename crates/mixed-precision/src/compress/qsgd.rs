//! QSGD: stochastic rounding to levels of a norm.

use core_tensor::Tree;
use core_tensor::host::{SliceMut, vectorised};
use rayon::prelude::*;

use super::{Compressor, each, max_abs, norm, on_host};
use crate::error::{Result, within};
use crate::memory::{self, PARALLEL, Wide, with_slice};
use crate::rounding::{Words, derive};

/// The norm whose fractions are the levels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum QsgdNorm {
    /// `‖x‖₂`: few elements away from zero, the sparser the longer the tensor.
    #[default]
    Two,
    /// `max|x|`: every level in use, less variance.
    Max,
}

/// Rounds every element at random to one of `s` levels of a norm, so that the mean is the element:
///
/// `Q(x)ᵢ = ‖x‖·sign(xᵢ)·ξᵢ/s`, `ξᵢ = ⌊s|xᵢ|/‖x‖⌋` or one more, with the probability of the fraction.
///
/// | parameter | default | range | effect |
/// |---|---|---|---|
/// | `levels` (`s`) | – | 1 to 65535 | levels above zero; 1 with the norm max is TernGrad |
/// | `seed` | – | | noise |
/// | [`norm`](Self::norm) | two | [`QsgdNorm`] | what the levels are fractions of |
/// | [`bucket`](Self::bucket) | the tensor | 1 or more | consecutive elements with a norm of their own |
///
/// Constants for buckets of `b`: norm two `ω = min(b/(4s²), √b/s)`, norm max `min(b/(4s²), (1 + √b)/(2s))`. The paper has `b/s²`; a
/// probability times its complement is at most ¼. `δ = 1 − ω` where that is above zero. A message has a norm for each bucket and for each element a
/// sign and `⌈log₂(s + 1)⌉` bits; the paper's Elias codes are shorter where most levels are zero.
///
/// A bucket with a NaN or an infinity becomes NaN, so that the damage shows. Guarantees by the tests `compress::laws::*`.
///
/// Cost: two passes over host memory, in place ([`Error::UnsupportedDevice`](crate::Error::UnsupportedDevice) elsewhere). D. Alistarh et al.,
/// "QSGD: communication-efficient SGD via gradient quantization and encoding", NeurIPS 2017, arXiv:1610.02132, section 3.1 and lemma 3.1.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use core_tensor::Tree;
/// use mixed_precision::{Compressor, Qsgd};
///
/// let tree = Tree::empty().push("w", Tensor::<1>::from_data([3.0, -4.0, 0.0], &Device::flex()))?;
/// let q = Qsgd::new(5, 7)?; // levels 0, 1, 2, 3, 4, 5
/// let y: Vec<f64> = q.compress(0, tree)?.get::<1>("w")?.into_data().iter::<f64>().collect();
/// assert_eq!(y, [3.0, -4.0, 0.0]);
/// # Ok::<(), mixed_precision::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Qsgd {
    levels: u32,
    norm: QsgdNorm,
    bucket: Option<usize>,
    seed: u64,
}

impl Qsgd {
    /// Levels of the tensor's 2-norm.
    ///
    /// # Errors
    /// [`Error::Parameter`](crate::Error::Parameter) unless `1 <= levels <= 65535`.
    pub fn new(levels: usize, seed: u64) -> Result<Self> {
        let levels = within("levels", levels, 1..=65535, "1 <= levels <= 65535")? as u32;
        Ok(Self { levels, norm: QsgdNorm::Two, bucket: None, seed })
    }

    /// The same with another norm.
    pub fn norm(self, norm: QsgdNorm) -> Self {
        Self { norm, ..self }
    }

    /// The same with a norm for so many consecutive elements; the last bucket may be shorter.
    ///
    /// # Errors
    /// [`Error::Parameter`](crate::Error::Parameter) for 0.
    pub fn bucket(self, bucket: usize) -> Result<Self> {
        Ok(Self { bucket: Some(within("bucket", bucket, 1..=usize::MAX, "1 <= bucket")?), ..self })
    }

    /// Elements that share a norm.
    fn shared(&self, d: usize) -> usize {
        self.bucket.map_or(d, |bucket| bucket.min(d)).max(1)
    }

    fn round<E: Wide>(&self, x: &mut [E], seed: u64) {
        let (bucket, levels) = (self.shared(x.len()), f64::from(self.levels));
        let measure = |x: &[E]| match self.norm {
            QsgdNorm::Two => norm(x),
            QsgdNorm::Max => max_abs(x),
        };
        let norms: Vec<f64> = match x.len() < PARALLEL || bucket >= PARALLEL {
            true => x.chunks(bucket).map(measure).collect(),
            false => x.par_chunks(bucket).map(measure).collect(),
        };
        memory::chunks(x, |first, mut x| {
            let (words, mut at) = (Words::new(seed, (first >> 32) as u32), first);
            while !x.is_empty() {
                // To the end of the bucket.
                let (part, rest) = x.split_at_mut(x.len().min(bucket - at % bucket));
                let norm = norms[at / bucket];
                vectorised(|| {
                    for (x, i) in part.iter_mut().zip(0u32..) {
                        *x = level(*x, norm, levels, words.get((at as u32).wrapping_add(i)));
                    }
                });
                (at, x) = (at + part.len(), rest);
            }
        });
    }
}

#[inline(always)]
fn level<E: Wide>(x: E, norm: f64, levels: f64, word: u32) -> E {
    let x = x.wide();
    let scaled = x.abs() / norm * levels;
    let lower = scaled.floor();
    let up = f64::from(word) < (scaled - lower) * 4_294_967_296.0;
    let level = (lower + f64::from(u8::from(up))).min(levels);
    let y = if norm == 0.0 { x } else { (norm * (level / levels)).copysign(x) };
    E::narrow(if norm < f64::INFINITY { y } else { f64::NAN })
}

impl Compressor for Qsgd {
    fn name(&self) -> &str {
        "qsgd"
    }

    fn compress(&self, step: u64, tree: Tree) -> Result<Tree> {
        let seed = derive(self.seed, step);
        each(tree, |i, leaf| {
            on_host(leaf, self.name(), |x| with_slice!(SliceMut, x, x => self.round(x, derive(seed, i as u64))))
        })
    }

    fn omega(&self, d: usize) -> Option<f64> {
        let (b, s) = (self.shared(d) as f64, f64::from(self.levels));
        let near_zero = match self.norm {
            QsgdNorm::Two => b.sqrt() / s,
            QsgdNorm::Max => (1.0 + b.sqrt()) / (2.0 * s),
        };
        Some((b / (4.0 * s * s)).min(near_zero))
    }

    fn delta(&self, d: usize) -> Option<f64> {
        self.omega(d).map(|omega| 1.0 - omega).filter(|delta| *delta > 0.0)
    }

    fn bits(&self, d: usize) -> f64 {
        let level = f64::from(u32::BITS - self.levels.leading_zeros());
        32.0 * d.div_ceil(self.shared(d)) as f64 + d as f64 * (1.0 + level)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;

    fn round(q: Qsgd, mut x: Vec<f32>, seed: u64) -> Vec<f32> {
        q.round(&mut x, seed);
        x
    }

    #[test]
    fn levels_by_hand() {
        // ‖x‖₂ = 5: 0.9 of a level of 5/3 and 2.4 of one.
        assert_eq!(
            [0, 3_865_470_565, 3_865_470_567].map(|word| level(1.5f64, 5.0, 3.0, word)),
            [5.0 * (1.0 / 3.0), 5.0 * (1.0 / 3.0), 0.0]
        );
        assert_eq!([0, u32::MAX].map(|word| level(-4.0f64, 5.0, 3.0, word)), [-5.0, -5.0 * (2.0 / 3.0)]);
        assert_eq!(level(7.0f32, 7.0, 3.0, 0), 7.0, "never above the norm");
    }

    #[test]
    fn buckets_have_their_own_norm() {
        let q = Qsgd::new(1, 0).unwrap().norm(QsgdNorm::Max).bucket(2).unwrap();
        let y = round(q, vec![1.0, 0.5, -8.0, 8.0, 0.0, 0.0, f32::NAN, 1.0, 3.0], 5);
        assert!(y[0] == 1.0 && (y[1] == 0.0 || y[1] == 1.0));
        assert_eq!((&y[2..6], y[8]), (&[-8.0, 8.0, 0.0, 0.0][..], 3.0));
        assert!(y[6].is_nan() && y[7].is_nan());
        assert!(round(q, vec![f32::INFINITY, 1.0], 0).iter().all(|y| y.is_nan()));
        assert!(round(q, vec![], 0).is_empty());
        // Chunks of one task and buckets do not coincide, nor do the threads matter.
        let x: Vec<f32> = (0..3 * PARALLEL + 7).map(|i| (i as f32 * 0.7).sin() * (1 + i / 1000) as f32).collect();
        for bucket in [1000, PARALLEL + 1] {
            let q = Qsgd::new(7, 0).unwrap().norm(QsgdNorm::Max).bucket(bucket).unwrap();
            let together = round(q, x.clone(), 9);
            let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
            assert_eq!(one.install(|| round(q, x.clone(), 9)), together);
            for (part, x) in together.chunks(bucket).zip(x.chunks(bucket)) {
                let largest = x.iter().fold(0f32, |m, x| m.max(x.abs()));
                assert!(part.iter().all(|y| {
                    let level = f64::from(y.abs()) / f64::from(largest) * 7.0;
                    (level - level.round()).abs() < 1e-5
                }));
            }
        }
    }

    #[test]
    fn norms_beyond_the_squares_of_f64() {
        let q = Qsgd::new(5, 0).unwrap();
        for scale in [1e-200, 1e200f64] {
            let mut x = [3.0 * scale, -4.0 * scale];
            q.round(&mut x, 0);
            assert!((x[0] / scale - 3.0).abs() < 1e-12 && (x[1] / scale + 4.0).abs() < 1e-12);
        }
    }

    #[test]
    fn constants_by_hand() {
        let q = Qsgd::new(4, 0).unwrap();
        assert_eq!((q.omega(64), q.omega(1 << 20)), (Some(1.0), Some(256.0)));
        assert_eq!((q.delta(32), q.delta(64)), (Some(0.5), None));
        assert_eq!(q.bucket(16).unwrap().omega(1 << 20), Some(0.25));
        assert_eq!(q.norm(QsgdNorm::Max).omega(1 << 20), Some(1025.0 / 8.0));
        assert_eq!((q.bits(100), q.bucket(10).unwrap().bits(100)), (432.0, 720.0));
        for bad in [Qsgd::new(0, 0), Qsgd::new(65536, 0), q.bucket(0)] {
            assert!(matches!(bad, Err(Error::Parameter { .. })));
        }
    }
}
