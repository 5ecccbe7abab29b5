//! Top-k: the largest elements.

use burn::tensor::{IndexingUpdateOp, Tensor};
use core_tensor::Tree;
use core_tensor::host::{self, SliceMut};

use super::keep::{Keep, index_bits};
use super::{Compressor, each, on_host};
use crate::error::Result;
use crate::memory::{Wide, with_slice};

/// Keeps the `k` elements of largest magnitude of every tensor and sets the others to zero. Of equal ones the first stay.
///
/// Biased: without [`ErrorFeedback`](crate::ErrorFeedback) descent may diverge. Constants: `δ = k/d`; a value and a position an element kept.
/// NaN counts as larger than infinity, so that damage shows. Guarantees by the tests `compress::laws::*`.
///
/// Cost: a selection in linear time and a pass over host memory; 8 bytes an element for the selection. On other devices a sort, gather and scatter,
/// without a host synchronisation; of equal elements it may keep others there. S. U. Stich, J.-B. Cordonnier, M. Jaggi, "Sparsified SGD with memory",
/// NeurIPS 2018, arXiv:1809.07599, definition 2.2.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use core_tensor::Tree;
/// use mixed_precision::{Compressor, Keep, TopK};
///
/// let tree = Tree::empty().push("w", Tensor::<1>::from_data([3.0, -4.0, 0.5], &Device::flex()))?;
/// let y: Vec<f64> = TopK::new(Keep::Count(1))?.compress(0, tree)?.get::<1>("w")?.into_data().iter::<f64>().collect();
/// assert_eq!(y, [0.0, -4.0, 0.0]);
/// # Ok::<(), mixed_precision::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TopK {
    keep: Keep,
}

impl TopK {
    /// So many elements, or a share of them.
    ///
    /// # Errors
    /// [`Error::Parameter`](crate::Error::Parameter) for a count of 0 or a share outside `0 < share <= 1`.
    pub fn new(keep: Keep) -> Result<Self> {
        Ok(Self { keep: keep.checked()? })
    }

    fn slice<E: Wide>(self, x: &mut [E]) {
        let k = self.keep.of(x.len());
        if k == x.len() {
            return;
        }
        // Bits of magnitudes are ordered as the magnitudes are, NaN above all.
        let magnitude = |x: E| x.wide().abs().to_bits();
        let mut sorted: Vec<u64> = x.iter().map(|x| magnitude(*x)).collect();
        let (above, &mut threshold, _) = sorted.select_nth_unstable_by(k - 1, |a, b| b.cmp(a));
        let mut equal = k - above.iter().filter(|m| **m > threshold).count();
        for x in x {
            let m = magnitude(*x);
            let kept = m > threshold || m == threshold && equal > 0;
            equal -= usize::from(kept && m == threshold);
            if !kept {
                *x = E::narrow(0.0);
            }
        }
    }

    fn tensor(self, x: Tensor<1>) -> Tensor<1> {
        let k = self.keep.of(x.dims()[0]);
        if k == x.dims()[0] {
            return x;
        }
        let (_, indices) = x.clone().abs().topk_with_indices(k, 0);
        let kept = x.clone().gather(0, indices.clone());
        x.zeros_like().scatter(0, indices, kept, IndexingUpdateOp::Add)
    }
}

impl Compressor for TopK {
    fn name(&self) -> &str {
        "top_k"
    }

    fn compress(&self, _step: u64, tree: Tree) -> Result<Tree> {
        let on_the_host = tree.iter().all(|(_, leaf)| host::is_host(leaf));
        match on_the_host {
            true => each(tree, |_, leaf| on_host(leaf, self.name(), |x| with_slice!(SliceMut, x, x => self.slice(x)))),
            false => Ok(tree.map_flat(|_, x| self.tensor(x))?),
        }
    }

    fn omega(&self, d: usize) -> Option<f64> {
        (self.keep.of(d) == d).then_some(0.0)
    }

    fn delta(&self, d: usize) -> Option<f64> {
        Some(self.keep.of(d) as f64 / d.max(1) as f64)
    }

    fn bits(&self, d: usize) -> f64 {
        self.keep.of(d) as f64 * (32.0 + index_bits(d))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core_tensor::testing::{Trees, assert_same_bits, property};

    #[test]
    fn ties_and_damage() {
        let top = |keep, mut x: Vec<f32>| {
            TopK::new(keep).unwrap().slice(&mut x);
            x
        };
        assert_eq!(top(Keep::Count(2), vec![1.0, -1.0, 1.0, 0.5]), [1.0, -1.0, 0.0, 0.0]);
        assert_eq!(top(Keep::Count(3), vec![1.0, 2.0, 1.0, -3.0]), [1.0, 2.0, 0.0, -3.0]);
        assert_eq!(top(Keep::Count(9), vec![1.0, 2.0]), [1.0, 2.0]);
        assert_eq!(top(Keep::Share(0.1), vec![0.0, 0.0, 0.0]), [0.0; 3]);
        let y = top(Keep::Count(1), vec![f32::INFINITY, f32::NAN, 3.0]);
        assert!(y[0] == 0.0 && y[1].is_nan() && y[2] == 0.0);
        assert!(top(Keep::Count(1), vec![]).is_empty());
    }

    #[test]
    fn the_largest_stay_and_tensor_operations_agree() {
        property(60, Trees::new().several(1), |trees| {
            let q = TopK::new(Keep::Share(0.3)).unwrap();
            let host = q.compress(0, trees[0].clone()).unwrap();
            let device = trees[0].clone().map_flat(|_, x| q.tensor(x)).unwrap();
            for ((_, x), (_, y)) in trees[0].to_data().into_iter().zip(host.to_data()) {
                let (x, y): (Vec<f64>, Vec<f64>) = (x.iter().collect(), y.iter().collect());
                let dropped = x.iter().zip(&y).filter(|(x, y)| x != y).map(|(x, _)| x.abs()).fold(0.0, f64::max);
                let kept = x.iter().zip(&y).filter(|(x, y)| x == y && **x != 0.0).map(|(x, _)| x.abs());
                assert!(kept.fold(f64::INFINITY, f64::min) >= dropped);
                assert!(y.iter().filter(|y| **y != 0.0).count() <= q.keep.of(y.len()));
            }
            // Elements of these trees differ, but for zeros.
            let distinct = |x: &f64, all: &[f64]| all.iter().filter(|y| y.abs() == x.abs()).count() == 1;
            let data: Vec<f64> =
                trees[0].to_data().iter().flat_map(|(_, x)| x.iter::<f64>().collect::<Vec<_>>()).collect();
            if data.iter().filter(|x| **x != 0.0).all(|x| distinct(x, &data)) {
                assert_same_bits(
                    &host.clone().map_flat(|_, x| x + 0.0).unwrap(),
                    &device.map_flat(|_, x| x + 0.0).unwrap(),
                );
            }
        });
    }
}
