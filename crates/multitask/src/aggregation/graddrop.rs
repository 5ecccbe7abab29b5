//! GradDrop: one sign an element, drawn by how pure the signs are.

use core_tensor::transform::State;
use core_tensor::{Random, Tree};

use crate::check::share;
use crate::gramian::elementwise;
use crate::{Aggregated, Aggregator, Gramian, Jacobian, Method, Report, Result};

/// The sum of the gradients, where in each element only those of one sign count; which sign is drawn.
///
/// Finds minima shared by all tasks: elements where gradients agree pass, elements where they conflict are noisy. With
/// the purity `P` and a uniform number `U` for every element
///
/// $$ P = \tfrac12\Big(1 + \frac{\sum_i g_i}{\sum_i |g_i|}\Big), \qquad
/// d = \sum_i \big(\ell_i + (1 - \ell_i)\,\mathbb 1[g_i > 0 \land f(P) > U \ \lor\ g_i < 0 \land f(P) < U]\big)\, g_i $$
///
/// | parameter | default | range | effect |
/// |---|---|---|---|
/// | `seed` | none | any | the numbers `U`, new ones in every step |
/// | `leak` | 0 each | `[0, 1]` | share `ℓ_i` of a task's gradient that always passes |
/// | `sharpness` | 1 | `> 0` | `f(P) = ½ + sharpness·(P − ½)` within `[0, 1]`: above 1 the majority's sign wins more often |
///
/// Rows that are not finite are left out before. Elements that are zero in all rows give zero. Guarantees (`laws`):
/// permutation equivariant for equal leaks, all leaks 1 give the sum. In expectation an element is `P·Σ⁺ + (1 −
/// P)·Σ⁻`. Cost: one pass over
/// each row, a random number an element, on the host (rows on a GPU are fetched), and the Gramian for the report.
/// State: the random stream.
///
/// Z. Chen et al., "Just pick a sign: optimizing deep multitask models with gradient sign dropout", NeurIPS 2020,
/// arXiv:2010.06808, algorithm 1, lines 10 to 15.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use core_tensor::Tree;
/// use multitask::{Aggregator, GradDrop};
///
/// let row = |x: [f32; 2]| Tree::empty().push("w", Tensor::<1>::from_data(x, &Device::flex()));
/// let out = GradDrop::new(7).aggregate(&[row([1.0, 2.0])?, row([3.0, -2.0])?])?;
/// let d: Vec<f32> = out.gradient.get::<1>("w")?.try_into_vec_as().unwrap();
/// assert!(d[0] == 4.0 && d[1].abs() == 2.0);
/// # Ok::<(), multitask::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct GradDrop {
    random: Random,
    leak: Option<Vec<f64>>,
    sharpness: f64,
}

impl GradDrop {
    /// Signs drawn from the stream of a seed, no leak.
    pub fn new(seed: u64) -> Self {
        Self { random: Random::new(seed).fork("graddrop"), leak: None, sharpness: 1.0 }
    }

    /// The share of each task's gradient that always passes.
    ///
    /// # Errors
    /// [`Error::Parameter`](crate::Error::Parameter) for a share outside `[0, 1]`.
    pub fn leak(self, leak: &[f64]) -> Result<Self> {
        let leak = leak.iter().map(|x| share("leak", *x)).collect::<Result<_>>()?;
        Ok(Self { leak: Some(leak), ..self })
    }

    /// How strongly the majority's sign is preferred.
    ///
    /// # Errors
    /// [`Error::Parameter`](crate::Error::Parameter) unless `0 < sharpness < ∞`.
    pub fn sharpness(self, sharpness: f64) -> Result<Self> {
        Ok(Self { sharpness: crate::check::positive("sharpness", sharpness)?, ..self })
    }
}

impl Method for GradDrop {
    fn name(&self) -> &'static str {
        "graddrop"
    }

    fn state(&self) -> State {
        self.random.state()
    }

    fn load_state(&mut self, state: State) -> Result<()> {
        Ok(self.random.load_state(state)?)
    }
}

impl Aggregator for GradDrop {
    fn aggregate(&mut self, rows: &[Tree]) -> Result<Aggregated> {
        let gramian = Gramian::of(rows)?;
        let leak = match &self.leak {
            Some(leak) => gramian.kept(self.name(), "the list of leaks", leak)?,
            None => vec![0.0; gramian.size()],
        };
        let used: Vec<&Tree> = gramian.tasks().iter().map(|task| &rows[*task]).collect();
        // A stream a step: every element has its number whatever block it is computed in.
        let drawn = self.random.next_u64();
        let sharpness = self.sharpness;
        let gradient = match used.is_empty() {
            true => rows.combine(&vec![0.0; rows.len()])?,
            false => elementwise(&used, &|column, place| {
                let (sum, size) = column.iter().fold((0.0, 0.0), |(sum, size), g| (sum + g, size + g.abs()));
                if size == 0.0 {
                    return 0.0;
                }
                let purity = (0.5 + sharpness * 0.5 * sum / size).clamp(0.0, 1.0);
                let u = uniform(drawn, place);
                let passes = |g: f64| (g > 0.0 && purity > u) || (g < 0.0 && purity < u);
                let terms = column.iter().zip(&leak);
                terms.map(|(g, leak)| g * if passes(*g) { 1.0 } else { *leak }).sum()
            })?,
        };
        Ok(Aggregated { gradient, report: Report { weights: None, gramian, groups: vec![] } })
    }
}

/// A number in `(0, 1)` for a place: the finaliser of SplitMix64 (G. L. Steele, D. Lea, C. H. Flood, "Fast splittable
/// pseudorandom number generators", OOPSLA 2014) of the step's number plus its odd increments.
fn uniform(step: u64, place: u64) -> f64 {
    let mut z = step.wrapping_add(place.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^= z >> 31;
    ((z >> 11) as f64 + 0.5) * 2f64.powi(-53)
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, Tensor};

    #[test]
    fn signs_are_drawn_by_their_purity() {
        let device = Device::flex();
        let row = |x: f32| Tree::empty().push("w", Tensor::<1>::full([40_000], x, &device)).unwrap();
        let mut drop = GradDrop::new(1);
        for (sharpness, positive) in [(1.0, 0.75), (1.5, 0.875), (4.0, 1.0)] {
            drop = drop.sharpness(sharpness).unwrap();
            let out = drop.aggregate(&[row(2.0), row(-1.0), row(1.0)]).unwrap().gradient;
            let values: Vec<f64> = out.to_data()[0].1.iter().collect();
            assert!(values.iter().all(|x| *x == 3.0 || *x == -1.0));
            let share = values.iter().filter(|x| **x == 3.0).count() as f64 / values.len() as f64;
            assert!((share - positive).abs() < 0.01, "{share}");
        }
        let mut leaky = GradDrop::new(1).leak(&[1.0, 1.0, 1.0]).unwrap();
        let out = leaky.aggregate(&[row(2.0), row(-1.0), row(1.0)]).unwrap().gradient;
        assert!(out.to_data()[0].1.iter::<f64>().all(|x| x == 2.0));
        assert!(leaky.aggregate(&[row(2.0)]).is_err() && GradDrop::new(1).leak(&[1.5]).is_err());
    }
}
