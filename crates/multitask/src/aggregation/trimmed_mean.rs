//! Trimmed mean: element by element, without the extremes.

use core_tensor::Tree;
use pulp::{Arch, NullaryFnOnce};

use crate::gramian::blend;
use crate::{Aggregated, Aggregator, Error, Gramian, Jacobian, Method, Report, Result};

/// The mean of each element over the rows without its `trim` largest and `trim` smallest values.
///
/// For gradients of many workers of which up to `trim` may be broken or hostile. Not a weighted sum, so it needs the
/// rows.
///
/// | parameter | default | range | effect |
/// |---|---|---|---|
/// | `trim` | none | `≥ 0`, `2·trim < m` | values left out at each end |
///
/// Rows that are not finite are left out before. Guarantees (`laws`): permutation equivariant, `trim = 0` is the mean,
/// each element lies between those of the rows. Cost: one pass over each row and `O(m log² m)` an element in vector
/// operations, on the host (rows on a
/// GPU are fetched), and the Gramian for the report. Errors: [`Error::TooFewRows`].
///
/// D. Yin, Y. Chen, K. Ramchandran, P. Bartlett, "Byzantine-robust distributed learning: towards optimal statistical
/// rates",
/// ICML 2018, arXiv:1803.01498, definition 2.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use core_tensor::Tree;
/// use multitask::{Aggregator, TrimmedMean};
///
/// let row = |x: [f32; 2]| Tree::empty().push("w", Tensor::<1>::from_data(x, &Device::flex()));
/// let out = TrimmedMean::new(1).aggregate(&[row([1.0, 9e9])?, row([2.0, 5.0])?, row([-1e9, 4.0])?])?;
/// assert_eq!(out.gradient.get::<1>("w")?.try_into_vec_as::<f32>().unwrap(), [1.0, 5.0]);
/// # Ok::<(), multitask::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct TrimmedMean {
    trim: usize,
}

impl TrimmedMean {
    /// Without so many values at each end.
    pub fn new(trim: usize) -> Self {
        Self { trim }
    }
}

impl Method for TrimmedMean {
    fn name(&self) -> &'static str {
        "trimmed_mean"
    }
}

impl Aggregator for TrimmedMean {
    fn aggregate(&mut self, rows: &[Tree]) -> Result<Aggregated> {
        let gramian = Gramian::of(rows)?;
        let (m, trim) = (gramian.size(), self.trim);
        if m > 0 && m <= trim.saturating_mul(2) {
            return Err(Error::TooFewRows { method: self.name(), least: trim.saturating_mul(2) + 1, actual: m });
        }
        let used: Vec<&Tree> = gramian.tasks().iter().map(|task| &rows[*task]).collect();
        let gradient = match used.is_empty() {
            true => rows.combine(&vec![0.0; rows.len()])?,
            false => blend(&used, &|block, out, _| {
                Arch::new().dispatch(MiddleMeans { block, out, rows: m, trim });
            })?,
        };
        Ok(Aggregated { gradient, report: Report { weights: None, gramian, groups: vec![] } })
    }
}

/// The means of the middle of every column of a block of rows.
struct MiddleMeans<'a> {
    block: &'a mut [f64],
    out: &'a mut [f64],
    rows: usize,
    trim: usize,
}

impl NullaryFnOnce for MiddleMeans<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { block, out, rows, trim } = self;
        sort_columns(block, rows);
        for row in block.chunks_exact(out.len()).take(rows - trim).skip(trim) {
            out.iter_mut().zip(row).for_each(|(out, x)| *out += x);
        }
        let factor = 1.0 / (rows - 2 * trim) as f64;
        out.iter_mut().for_each(|out| *out *= factor);
    }
}

/// Sorts every column of a block of `m` rows, by Batcher's network of merges: whole rows are compared at once, without
/// a branch
/// (K. E. Batcher, "Sorting networks and their applications", 1968; D. E. Knuth, TAOCP 3, algorithm 5.2.2M).
#[inline(always)]
fn sort_columns(block: &mut [f64], m: usize) {
    let n = block.len() / m;
    let mut p = 1;
    while p < m {
        let mut k = p;
        while k > 0 {
            for j in (k % p..m - k).step_by(2 * k) {
                for i in j..(j + k).min(m - k) {
                    if i / (2 * p) == (i + k) / (2 * p) {
                        let (low, high) = block.split_at_mut((i + k) * n);
                        for (x, y) in low[i * n..(i + 1) * n].iter_mut().zip(&mut high[..n]) {
                            (*x, *y) = if *x <= *y { (*x, *y) } else { (*y, *x) };
                        }
                    }
                }
            }
            k /= 2;
        }
        p *= 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core_tensor::Random;

    #[test]
    fn columns_are_sorted_whatever_their_length() {
        let mut random = Random::new(4);
        for m in 1..=33 {
            let n = 7;
            let mut block: Vec<f64> = (0..m * n).map(|_| (random.next_f64() * 20.0).floor() - 10.0).collect();
            let before = block.clone();
            sort_columns(&mut block, m);
            for k in 0..n {
                let column = |block: &[f64]| (0..m).map(|i| block[i * n + k]).collect::<Vec<_>>();
                let mut expected = column(&before);
                expected.sort_by(f64::total_cmp);
                assert_eq!(column(&block), expected, "{m} rows");
            }
        }
    }
}
