//! Rand-k: elements drawn by lot.

use core_tensor::Tree;
use core_tensor::host::SliceMut;

use super::keep::Keep;
use super::{Compressor, each, on_host};
use crate::error::Result;
use crate::memory::{self, Wide, with_slice};
use crate::rounding::{Words, derive};

/// Keeps `k` of the `d` elements of every tensor, every set of `k` equally likely, times `d/k` so that the mean is the tensor; the others
/// become zero.
///
/// Constants: `ω = d/k − 1`, attained by every tensor. [`unscaled`](Self::unscaled) leaves the factor out: biased, `δ = k/d`, for
/// [`ErrorFeedback`](crate::ErrorFeedback). A message has the values kept; the positions follow from the seed. An element that is not finite
/// shows only where it is drawn. Guarantees by the tests `compress::laws::*`.
///
/// Cost: a selection in linear time and a pass over host memory ([`Error::UnsupportedDevice`](crate::Error::UnsupportedDevice) elsewhere); 8 bytes an
/// element for the selection. S. U. Stich, J.-B. Cordonnier, M. Jaggi, "Sparsified SGD with memory", NeurIPS 2018, arXiv:1809.07599, definition 2.2;
/// the unbiased form as in A. Beznosikov et al., "On biased compression for distributed learning", arXiv:2002.12410.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use core_tensor::Tree;
/// use mixed_precision::{Compressor, Keep, RandK};
///
/// let tree = Tree::empty().push("w", Tensor::<1>::ones([8], &Device::flex()))?;
/// let q = RandK::new(Keep::Share(0.25), 7)?;
/// assert_eq!((q.compress(0, tree)?.sum().value(), q.omega(8)), (8.0, Some(3.0)));
/// # Ok::<(), mixed_precision::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RandK {
    keep: Keep,
    seed: u64,
    scaled: bool,
}

impl RandK {
    /// So many elements, or a share of them, by the lot of a seed.
    ///
    /// # Errors
    /// [`Error::Parameter`](crate::Error::Parameter) for a count of 0 or a share outside `0 < share <= 1`.
    pub fn new(keep: Keep, seed: u64) -> Result<Self> {
        Ok(Self { keep: keep.checked()?, seed, scaled: true })
    }

    /// The same without the factor `d/k`.
    pub fn unscaled(self) -> Self {
        Self { scaled: false, ..self }
    }

    fn slice<E: Wide>(self, x: &mut [E], seed: u64) {
        let (d, k) = (x.len(), self.keep.of(x.len()));
        if k == d {
            return;
        }
        // Lots: random bits above, the position below so that all differ.
        let lot = |i: usize| {
            let word = Words::new(seed, (i >> 32) as u32).get(i as u32);
            (word, i)
        };
        let mut lots: Vec<(u32, usize)> = (0..d).map(lot).collect();
        let (_, &mut last, _) = lots.select_nth_unstable(k - 1);
        let factor = if self.scaled { d as f64 / k as f64 } else { 1.0 };
        memory::chunks(x, |first, x| {
            for (i, x) in x.iter_mut().enumerate() {
                *x = E::narrow(if lot(first + i) <= last { x.wide() * factor } else { 0.0 });
            }
        });
    }

    fn kept(&self, d: usize) -> f64 {
        self.keep.of(d).max(1) as f64
    }
}

impl Compressor for RandK {
    fn name(&self) -> &str {
        "rand_k"
    }

    fn compress(&self, step: u64, tree: Tree) -> Result<Tree> {
        let seed = derive(self.seed, step);
        each(tree, |i, leaf| {
            on_host(leaf, self.name(), |x| with_slice!(SliceMut, x, x => self.slice(x, derive(seed, i as u64))))
        })
    }

    fn omega(&self, d: usize) -> Option<f64> {
        let d_over_k = d.max(1) as f64 / self.kept(d);
        (self.scaled || d_over_k == 1.0).then_some(d_over_k - 1.0)
    }

    fn delta(&self, d: usize) -> Option<f64> {
        let share = self.kept(d) / d.max(1) as f64;
        // ω is below 1 from more than half on.
        let scaled = 2.0 - 1.0 / share;
        if self.scaled { Some(scaled).filter(|delta| *delta > 0.0) } else { Some(share) }
    }

    fn bits(&self, d: usize) -> f64 {
        32.0 * self.keep.of(d) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_element_and_every_pair_is_drawn_alike() {
        let (d, k, draws) = (10, 3, 20_000u64);
        let q = RandK::new(Keep::Count(k), 0).unwrap();
        let (mut single, mut pair) = ([0u32; 10], [[0u32; 10]; 10]);
        for step in 0..draws {
            let mut x = [1.0f32; 10];
            q.slice(&mut x, derive(5, step));
            let kept: Vec<usize> = (0..d).filter(|i| x[*i] != 0.0).collect();
            assert!(kept.len() == k && kept.iter().all(|i| x[*i] == 10f32 / 3.0));
            for &i in &kept {
                single[i] += 1;
                kept.iter().for_each(|&j| pair[i][j] += 1);
            }
        }
        // Five deviations of a binomial count.
        let near = |count: u32, p: f64| {
            let n = draws as f64;
            (f64::from(count) - n * p).abs() < 5.0 * (n * p * (1.0 - p)).sqrt()
        };
        assert!(single.iter().all(|count| near(*count, 0.3)), "{single:?}");
        let pairs = (0..d).flat_map(|i| (0..i).map(move |j| (i, j)));
        assert!(pairs.clone().all(|(i, j)| near(pair[i][j], 3.0 * 2.0 / 90.0)), "{pair:?}");
    }

    #[test]
    fn constants_by_hand() {
        let q = RandK::new(Keep::Share(0.25), 0).unwrap();
        assert_eq!((q.omega(100), q.delta(100), q.bits(100)), (Some(3.0), None, 800.0));
        assert_eq!((q.unscaled().omega(100), q.unscaled().delta(100)), (None, Some(0.25)));
        assert_eq!(RandK::new(Keep::Share(0.8), 0).unwrap().delta(100), Some(0.75));
        assert_eq!(RandK::new(Keep::Count(5), 0).unwrap().unscaled().omega(4), Some(0.0));
    }
}
