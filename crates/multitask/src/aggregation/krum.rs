//! Krum: the gradient that most others agree with.

use crate::check::at_least;
use crate::{Error, Gramian, GramianAggregator, Method, Result};

/// How far two gradients are apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KrumDistance {
    /// `‖g_i − g_j‖²`, the paper's.
    #[default]
    Squared,
    /// `‖g_i − g_j‖`, TorchJD's.
    Euclidean,
}

/// The mean of the gradients that are nearest to their neighbours, so that a few arbitrary ones do no harm.
///
/// For gradients of many workers of which some may be broken or hostile; for tasks that differ it throws away what is
/// different. The score of a row is
/// the sum of its distances to the `m − byzantine − 2` nearest others; the `selected` rows of lowest score are
/// averaged.
///
/// | parameter | default | range | effect |
/// |---|---|---|---|
/// | `byzantine` | none | `≥ 0`, at most `m − 3` | rows that may be arbitrary |
/// | `selected` | 1 | `1 … m` | rows averaged (multi-Krum); of equal scores the first |
/// | `distance` | `Squared` | | power of the distances that are summed |
///
/// Rows that are not finite are left out before; they are the broken ones, but `byzantine` is not lowered for them.
/// Guarantees
/// (`laws`): permutation equivariant up to ties. Cost: the Gramian, `O(m² log m)`, one weighted sum. Errors:
/// [`Error::TooFewRows`].
///
/// P. Blanchard, E. M. El Mhamdi, R. Guerraoui, J. Stainer, "Machine learning with adversaries: Byzantine tolerant
/// gradient descent", NeurIPS 2017, arXiv:1703.02757.
///
/// ```
/// use multitask::solvers::Matrix;
/// use multitask::{Gramian, GramianAggregator, Krum};
///
/// let x = [1.0, 1.1, 0.9, -50.0];
/// let g = Gramian::from_products(&Matrix::symmetric(4, |i, j| x[i] * x[j]))?;
/// assert_eq!(Krum::new(1).selected(2)?.weights(&g)?[3], 0.0);
/// # Ok::<(), multitask::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Krum {
    byzantine: usize,
    selected: usize,
    distance: KrumDistance,
}

impl Krum {
    /// The one gradient nearest to its neighbours, when so many may be arbitrary.
    pub fn new(byzantine: usize) -> Self {
        Self { byzantine, selected: 1, distance: KrumDistance::Squared }
    }

    /// Average so many.
    ///
    /// # Errors
    /// [`Error::Parameter`] for none.
    pub fn selected(self, selected: usize) -> Result<Self> {
        Ok(Self { selected: at_least("selected", selected, 1, "1 <= selected")?, ..self })
    }

    /// The power of the distances that are summed.
    pub fn distance(self, distance: KrumDistance) -> Self {
        Self { distance, ..self }
    }
}

impl Method for Krum {
    fn name(&self) -> &'static str {
        "krum"
    }
}

impl GramianAggregator for Krum {
    fn weights(&mut self, gramian: &Gramian) -> Result<Vec<f64>> {
        let (m, g) = (gramian.size(), gramian.products());
        let least = self.selected.max(self.byzantine.saturating_add(3));
        if m < least {
            return Err(Error::TooFewRows { method: self.name(), least, actual: m });
        }
        let distance = |i: usize, j: usize| {
            // From subtraction equal rows may come out slightly negative.
            let square = (g[(i, i)] + g[(j, j)] - 2.0 * g[(i, j)]).max(0.0);
            match self.distance {
                KrumDistance::Squared => square,
                KrumDistance::Euclidean => square.sqrt(),
            }
        };
        let score = |i: usize| {
            let mut others: Vec<f64> = (0..m).filter(|j| *j != i).map(|j| distance(i, j)).collect();
            others.sort_by(f64::total_cmp);
            others[..m - self.byzantine - 2].iter().sum::<f64>()
        };
        let mut scores: Vec<(f64, usize)> = (0..m).map(|i| (score(i), i)).collect();
        scores.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut weights = vec![0.0; m];
        scores[..self.selected].iter().for_each(|(_, i)| weights[*i] = 1.0 / self.selected as f64);
        Ok(weights)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::solvers::Matrix;

    #[test]
    fn scores_by_hand() {
        // On a line: 0, 1, 3, 7 with one neighbour each: scores 1, 1, 2, 4.
        let x = [0.0, 1.0, 3.0, 7.0];
        let g = Gramian::from_products(&Matrix::symmetric(4, |i, j| x[i] * x[j])).unwrap();
        assert_eq!(Krum::new(1).weights(&g).unwrap(), [1.0, 0.0, 0.0, 0.0]);
        let three = Krum::new(1).selected(3).unwrap().weights(&g).unwrap();
        assert_eq!(three, [1.0 / 3.0, 1.0 / 3.0, 1.0 / 3.0, 0.0]);
        // With two neighbours: squares 10, 5, 13, 52; distances 4, 3, 5, 10.
        assert_eq!(Krum::new(0).weights(&g).unwrap(), [0.0, 1.0, 0.0, 0.0]);
        // The two powers disagree: sums of squares 2·3² < 1² + 4.9², of distances 1 + 4.9 < 2·3.
        let y = [0.0, 3.0, 6.0, 20.0, 21.0, 25.9];
        let g = Gramian::from_products(&Matrix::symmetric(6, |i, j| y[i] * y[j])).unwrap();
        let [squared, euclidean] = [KrumDistance::Squared, KrumDistance::Euclidean].map(|distance| {
            let w = Krum::new(2).distance(distance).weights(&g).unwrap();
            w.iter().position(|w| *w == 1.0).unwrap()
        });
        assert_eq!((squared, euclidean), (1, 4));
        assert!(matches!(Krum::new(4).weights(&g), Err(Error::TooFewRows { least: 7, actual: 6, .. })));
        assert!(matches!(Krum::new(0).selected(7).unwrap().weights(&g), Err(Error::TooFewRows { least: 7, .. })));
        assert!(Krum::new(0).selected(0).is_err());
    }
}
