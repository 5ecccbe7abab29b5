//! Trimmed mean: element by element, without the extremes.

use core_tensor::Tree;

use crate::gramian::elementwise;
use crate::{Aggregated, Aggregator, Error, Gramian, Jacobian, Method, Report, Result};

/// The mean of each element over the rows without its `trim` largest and `trim` smallest values.
///
/// For gradients of many workers of which up to `trim` may be broken or hostile. Not a weighted sum, so it needs the rows.
///
/// | parameter | default | range | effect |
/// |---|---|---|---|
/// | `trim` | none | `≥ 0`, `2·trim < m` | values left out at each end |
///
/// Rows that are not finite are left out before. Guarantees (`laws`): permutation equivariant, `trim = 0` is the mean,
/// each element lies between those of the rows. Cost: one pass over each row and `O(m log m)` an element, on the host (rows on a
/// GPU are fetched), and the Gramian for the report. Errors: [`Error::TooFewRows`].
///
/// D. Yin, Y. Chen, K. Ramchandran, P. Bartlett, "Byzantine-robust distributed learning: towards optimal statistical rates",
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
            false => elementwise(&used, &|column, _| {
                column.sort_unstable_by(f64::total_cmp);
                let middle = &column[trim..m - trim];
                middle.iter().sum::<f64>() / middle.len() as f64
            })?,
        };
        Ok(Aggregated { gradient, report: Report { weights: None, gramian, groups: vec![] } })
    }
}
