//! Aligned-MTL: the gradients' principal axes, made equally long.

use crate::check::preference;
use crate::solvers::eigen;
use crate::{Gramian, GramianAggregator, Method, Result};

/// Which eigenvalue all principal axes are scaled to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AlignedScale {
    /// The smallest: never a longer step than the gradients allow. The paper's choice.
    #[default]
    Min,
    /// The median; of an even number the lower one.
    Median,
    /// The mean (the paper's "rmse").
    Mean,
}

/// The weighted sum of the gradients after their principal components were brought to one length.
///
/// Removes both conflict and dominance: the aligned gradients are orthogonal and equally long (condition number 1).
/// With `G = VΛVᵀ`
/// and the preference `u`
///
/// $$ w = B u, \qquad B = \sqrt{\sigma}\, V \Lambda^{-1/2} V^\top $$
///
/// | parameter | default | range | effect |
/// |---|---|---|---|
/// | `scale` | `Min` | `Min`, `Median`, `Mean` | `σ`, of the eigenvalues that are not zero |
/// | `preference` | `1/m` each | `≥ 0`, not all 0 | weights of the aligned gradients |
///
/// Eigenvalues below `10⁻¹²` of the largest count as zero. Guarantees (`laws`): permutation equivariant, independent
/// of scale.
/// A gradient that vanishes makes the step small with `Min`.
///
/// Cost: the Gramian, its eigenvalues (`O(m³)`), one weighted sum. Errors: [`Error::Tasks`](crate::Error::Tasks) for a
/// preference of another length.
///
/// D. Senushkin, N. Patakin, A. Kuznetsov, A. Konushin, "Independent component alignment for multi-task learning",
/// CVPR 2023,
/// arXiv:2305.19000, algorithm 1.
///
/// ```
/// use multitask::solvers::Matrix;
/// use multitask::{AlignedMtl, Gramian, GramianAggregator};
///
/// let g = Matrix::symmetric(2, |i, j| [[18.0, -22.0], [-22.0, 38.0]][i][j]);
/// let w = AlignedMtl::new().weights(&Gramian::from_products(&g)?)?;
/// assert!((w[0] + w[1] - 0.9673).abs() < 1e-4);
/// # Ok::<(), multitask::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct AlignedMtl {
    scale: AlignedScale,
    preference: Option<Vec<f64>>,
}

impl AlignedMtl {
    /// All axes as long as the shortest, all tasks alike.
    pub fn new() -> Self {
        Self::default()
    }

    /// Which eigenvalue the axes are scaled to.
    pub fn scale(self, scale: AlignedScale) -> Self {
        Self { scale, ..self }
    }

    /// The weights of the aligned gradients.
    ///
    /// # Errors
    /// [`Error::Parameter`](crate::Error::Parameter) for a negative number, NaN, or zeros only.
    pub fn preference(self, preference_: &[f64]) -> Result<Self> {
        Ok(Self { preference: Some(preference("preference", preference_)?), ..self })
    }
}

impl Method for AlignedMtl {
    fn name(&self) -> &'static str {
        "aligned_mtl"
    }
}

impl GramianAggregator for AlignedMtl {
    fn weights(&mut self, gramian: &Gramian) -> Result<Vec<f64>> {
        let preference = super::preference(self.name(), &self.preference, gramian)?;
        let eigen = eigen(gramian.products());
        // Largest first.
        let values = &eigen.values[..eigen.rank()];
        if values.is_empty() {
            return Ok(preference);
        }
        let sigma = match self.scale {
            AlignedScale::Min => values[values.len() - 1],
            AlignedScale::Median => values[values.len() / 2],
            AlignedScale::Mean => values.iter().sum::<f64>() / values.len() as f64,
        };
        Ok(eigen.apply(&preference, |lambda| (sigma / lambda).sqrt()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::solvers::Matrix;

    #[test]
    fn axes_become_equally_long() {
        // Orthogonal gradients of norms 1, 2, 3, 4.
        let g = Matrix::symmetric(4, |i, j| if i == j { ((i + 1) * (i + 1)) as f64 } else { 0.0 });
        let gramian = Gramian::from_products(&g).unwrap();
        for (scale, sigma) in
            [(AlignedScale::Min, 1.0f64), (AlignedScale::Median, 4.0), (AlignedScale::Mean, 30.0 / 4.0)]
        {
            let w = AlignedMtl::new().scale(scale).weights(&gramian).unwrap();
            for (i, w) in w.iter().enumerate() {
                let length = w * (i + 1) as f64;
                assert!((length - 0.25 * sigma.sqrt()).abs() < 1e-14, "{scale:?}: {length}");
            }
        }
        let first = AlignedMtl::new().preference(&[1.0, 0.0, 0.0, 0.0]).unwrap().weights(&gramian).unwrap();
        assert!((first[0] - 1.0).abs() < 1e-14 && first[1..].iter().all(|w| w.abs() < 1e-14));
        assert!(AlignedMtl::new().preference(&[0.0]).is_err());
    }
}
