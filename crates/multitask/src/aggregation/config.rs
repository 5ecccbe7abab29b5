//! ConFIG: the direction that has the same angle with every gradient.

use crate::check::preference;
use crate::solvers::{dot, pseudo_solve};
use crate::{Gramian, GramianAggregator, Method, Result};

/// The conflict-free direction of equal cosines, as long as the gradients' projections on it together.
///
/// Made for losses of very different sizes (physics-informed networks): the direction looks at unit gradients only.
/// With the unit
/// rows `U` and preferences `u`
///
/// $$ d = \frac{U^{+} u}{\lVert U^{+} u\rVert}, \qquad \text{result} = \Big(\sum_i \langle g_i, d\rangle\Big)\, d $$
///
/// | parameter | default | range | effect |
/// |---|---|---|---|
/// | `preference` | 1 each | `≥ 0`, not all 0 | relative size of the cosines |
///
/// The weights come from the matrix of cosines `C = UUᵀ`, as `U⁺u = Uᵀ·C⁺u`; its eigenvalues below `10⁻¹²` of the
/// largest count as zero. Guarantees (`laws`): linear under scaling, permutation equivariant; equal cosines where the
/// gradients are independent. Opposite gradients give zero. A row of zeros gets the weight 0.
///
/// Cost: the Gramian, eigenvalues (`O(m³)`), one weighted sum. Errors: [`Error::Tasks`](crate::Error::Tasks) for a
/// preference of another length.
///
/// Q. Liu, M. Chu, N. Thuerey, "ConFIG: towards conflict-free training of physics informed neural networks", ICLR 2025,
/// arXiv:2408.11104, equations 2 and 3.
///
/// ```
/// use multitask::solvers::Matrix;
/// use multitask::{ConFig, Gramian, GramianAggregator};
///
/// let g = Matrix::symmetric(2, |i, j| [[18.0, -22.0], [-22.0, 38.0]][i][j]);
/// let w = ConFig::new().weights(&Gramian::from_products(&g)?)?;
/// assert!((w[0] + w[1] - 2.0706).abs() < 1e-4);
/// # Ok::<(), multitask::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct ConFig {
    preference: Option<Vec<f64>>,
}

impl ConFig {
    /// All cosines equal.
    pub fn new() -> Self {
        Self::default()
    }

    /// The relative size of the cosines.
    ///
    /// # Errors
    /// [`Error::Parameter`](crate::Error::Parameter) for a negative number, NaN, or zeros only.
    pub fn preference(preference_: &[f64]) -> Result<Self> {
        Ok(Self { preference: Some(preference("preference", preference_)?) })
    }
}

impl Method for ConFig {
    fn name(&self) -> &'static str {
        "config"
    }
}

impl GramianAggregator for ConFig {
    fn weights(&mut self, gramian: &Gramian) -> Result<Vec<f64>> {
        let preference = match &self.preference {
            Some(all) => gramian.kept(self.name(), "the preference", all)?,
            None => vec![1.0; gramian.size()],
        };
        let mut weights = vec![0.0; gramian.size()];
        // A row of zeros has no direction.
        let (rows, g) = gramian.without_zeros();
        let norms: Vec<f64> = g.diagonal().iter().map(|x| x.sqrt()).collect();
        let cosines = g.map(|i, j, x| x / (norms[i] * norms[j]));
        let wanted: Vec<f64> = rows.iter().map(|i| preference[*i]).collect();
        let along = pseudo_solve(&cosines, &wanted);
        // ‖U⁺u‖² = uᵀC⁺u
        let square = dot(&along, &wanted);
        if square <= 1e-12 * dot(&wanted, &wanted) / rows.len().max(1) as f64 {
            return Ok(weights);
        }
        // Σ⟨g_i, U⁺u⟩ = Σ‖g_i‖·(C·C⁺u)_i
        let length = dot(&norms, &cosines.times(&along)) / square;
        rows.iter().zip(along).zip(norms).for_each(|((i, along), norm)| weights[*i] = length * along / norm);
        Ok(weights)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::solvers::testing::Gramians;
    use core_tensor::testing::property;

    #[test]
    fn cosines_are_equal_where_rows_are_independent() {
        property(100, Gramians::new(1..=8).full_rank().strategy(), |g| {
            let gramian = Gramian::from_products(&g).unwrap();
            let w = ConFig::new().weights(&gramian).unwrap();
            let products = g.times(&w);
            let cosines: Vec<f64> = (0..g.size()).map(|i| products[i] / g[(i, i)].sqrt()).collect();
            let size = g.quadratic(&w).sqrt();
            assert!(cosines.iter().all(|c| *c > 0.0 && (c - cosines[0]).abs() <= 1e-8 * size), "{cosines:?}");
        });
    }
}
