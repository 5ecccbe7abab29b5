//! Variance and bias of any Q, by drawing.

use core_tensor::{Random, Tree};

use crate::compress::Compressor;
use crate::error::{Error, Result};

/// What [`measure`] found about `Q(x)` for one `x`.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Measured {
    /// Draws it is made of.
    pub draws: u64,
    /// `E‖Q(x) − x‖²/‖x‖²`, the mean over the draws: `ω` of this `x`, or `1 − δ`.
    pub error: f64,
    /// The standard error of that mean.
    pub error_deviation: f64,
    /// `‖E Q(x) − x‖/‖x‖`, with the part that finitely many draws explain taken out; 0 where they explain all.
    pub bias: f64,
    /// That part: what an unbiased Q of this variance would show on the average.
    pub bias_noise: f64,
    /// The largest of the statistics of the test for bias, as a number of standard deviations.
    pub largest_z: f64,
    /// How many statistics the test has.
    pub directions: u64,
}

impl Measured {
    /// Whether the draws are such as an unbiased Q gives, at a level of significance: it is `true` for an unbiased one but with this probability.
    ///
    /// Bonferroni's test of [`directions`](Self::directions) projections: each is normal by the central limit theorem, so use 100 draws or more.
    pub fn is_unbiased(&self, level: f64) -> bool {
        // Two sides of each.
        libm::erfc(self.largest_z / std::f64::consts::SQRT_2) * self.directions as f64 >= level
    }
}

/// Projections of the test besides that on `x` itself and on the signs of `x`.
const RANDOM_DIRECTIONS: u64 = 14;

/// Measures variance and bias of a compressor on a tree, from `draws` steps of its noise.
///
/// The test for bias asks, for 16 fixed directions `u`, whether the mean of `⟨u, Q(x) − x⟩` is 0: along `x` (a wrong scale), along the signs of `x`
/// (everything too long or too short), and 14 of random signs. Element by element it could not be done: an element that is kept once in a thousand draws
/// has no variance to compare with in most samples, and sums over all elements have. A bias of the size of rounding in `f32` is none.
///
/// Cost: one compression and a pass over `directions` a draw, on the host; five vectors of `f64`.
///
/// ```
/// use burn::tensor::Device;
/// use core_tensor::{Random, Tree};
/// use mixed_precision::{Compressor, Keep, Qsgd, TopK, measure};
///
/// let x = Tree::empty().push("x", Random::new(1).normal([100], 0.0, 1.0, &Device::flex()))?;
/// let qsgd = Qsgd::new(4, 7)?;
/// let found = measure(&qsgd, &x, 400)?;
/// assert!(found.error < qsgd.omega_of(&x).expect("unbiased") && found.is_unbiased(1e-3));
/// let found = measure(&TopK::new(Keep::Share(0.1))?, &x, 2)?;
/// assert!(found.error < 0.9 && found.bias > 0.5 && !found.is_unbiased(1e-3));
/// # Ok::<(), mixed_precision::Error>(())
/// ```
///
/// # Errors
/// [`Error::Parameter`] for fewer than 2 draws or an `x` that is zero or not finite, and the compressor's.
pub fn measure<C: Compressor + ?Sized>(compressor: &C, x: &Tree, draws: u64) -> Result<Measured> {
    if draws < 2 {
        return Err(Error::Parameter { parameter: "draws", value: draws as f64, bound: "2 <= draws" });
    }
    let values = flat(x);
    let size: f64 = values.iter().map(|x| x * x).sum();
    if !(size > 0.0 && size < f64::INFINITY) {
        return Err(Error::Parameter { parameter: "norm of x", value: size.sqrt(), bound: "0 < norm < inf" });
    }
    let directions = directions(&values);
    let mut mean = vec![0.0; values.len()];
    let mut error = Moments::default();
    let mut projections = vec![Moments::default(); directions.len()];
    for step in 0..draws {
        let difference: Vec<f64> =
            flat(&compressor.compress(step, x.clone())?).iter().zip(&values).map(|(y, x)| y - x).collect();
        error.add(difference.iter().map(|d| d * d).sum::<f64>() / size);
        let weight = 1.0 / (step + 1) as f64;
        mean.iter_mut().zip(&difference).for_each(|(mean, d)| *mean += (d - *mean) * weight);
        for (moments, u) in projections.iter_mut().zip(&directions) {
            moments.add(u.iter().zip(&difference).map(|(u, d)| u * d).sum());
        }
    }
    let n = draws as f64;
    let squared = mean.iter().map(|m| m * m).sum::<f64>() / size;
    // E‖mean‖² = ‖bias‖² + variance/n, and the variance is the mean square less the square of the mean.
    let noise = ((error.mean - squared) / (n - 1.0)).max(0.0);
    let z = |(moments, u): (&Moments, &Vec<f64>)| {
        let rounding = f64::from(f32::EPSILON) * u.iter().zip(&values).map(|(u, x)| (u * x).abs()).sum::<f64>();
        moments.mean.abs() / (moments.deviation_of_mean() + rounding)
    };
    let statistics = projections.iter().zip(&directions).map(z);
    Ok(Measured {
        draws,
        error: error.mean,
        error_deviation: error.deviation_of_mean(),
        bias: (squared - noise).max(0.0).sqrt(),
        bias_noise: noise.sqrt(),
        // NaN, of a compressor that gives some, is no evidence for it.
        largest_z: statistics.fold(0.0, |worst: f64, z| if z >= worst || z.is_nan() { z } else { worst }),
        directions: directions.len() as u64,
    })
}

/// All elements of a tree.
fn flat(tree: &Tree) -> Vec<f64> {
    tree.to_data().iter().flat_map(|(_, data)| data.iter::<f64>().collect::<Vec<_>>()).collect()
}

fn directions(x: &[f64]) -> Vec<Vec<f64>> {
    let mut random = Random::new(0).fork("directions of a test for bias");
    let mut signs = || x.iter().map(|_| if random.next_u64() >> 63 == 0 { 1.0 } else { -1.0 }).collect();
    let own = [x.to_vec(), x.iter().map(|x| x.signum()).collect()];
    own.into_iter().chain((0..RANDOM_DIRECTIONS).map(|_| signs())).collect()
}

/// Mean and variance as they come in (Welford).
#[derive(Clone, Copy, Default)]
struct Moments {
    count: f64,
    mean: f64,
    squares: f64,
}

impl Moments {
    fn add(&mut self, value: f64) {
        self.count += 1.0;
        let before = value - self.mean;
        self.mean += before / self.count;
        self.squares += before * (value - self.mean);
    }

    fn deviation_of_mean(&self) -> f64 {
        (self.squares / (self.count - 1.0) / self.count).sqrt()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Format, Keep, Natural, Qsgd, Quantizer, RandK, Rounding, SignSgd};
    use burn::tensor::{Device, Tensor};
    use core_tensor::transform::Identity;

    fn normal(d: usize, seed: u64) -> Tree {
        Tree::empty().push("x", Random::new(seed).normal([d], 0.0, 1.0, &Device::flex())).unwrap()
    }

    #[test]
    fn known_variances_and_biases() {
        let x = normal(60, 1);
        let exact = measure(&Identity, &x, 2).unwrap();
        assert_eq!((exact.error, exact.bias, exact.largest_z), (0.0, 0.0, 0.0));
        assert!(exact.is_unbiased(1.0));
        // Rand-k: ω = d/k − 1 exactly; unscaled the bias is 1 − k/d.
        let rand = RandK::new(Keep::Count(15), 2).unwrap();
        let found = measure(&rand, &x, 4000).unwrap();
        assert!((found.error - 3.0).abs() < 4.0 * found.error_deviation, "{found:?}");
        assert!(found.is_unbiased(1e-3) && found.bias < 2.0 * found.bias_noise, "{found:?}");
        let found = measure(&rand.unscaled(), &x, 4000).unwrap();
        assert!(
            (found.error - 0.75).abs() < 4.0 * found.error_deviation && (found.bias - 0.75).abs() < 0.02,
            "{found:?}"
        );
        assert!(!found.is_unbiased(1e-9));
    }

    #[test]
    fn small_biases_are_found() {
        let x = normal(200, 3);
        for biased in [Rounding::NearestEven, Rounding::TowardZero] {
            let q = Quantizer::new(Format::E4M3FN).rounding(biased);
            assert!(!measure(&q, &x, 2).unwrap().is_unbiased(1e-6));
        }
        assert!(!measure(&SignSgd::scaled(), &x, 2).unwrap().is_unbiased(1e-6));
        /// An unbiased one, a hundredth too long.
        struct Longer(Natural);
        impl Compressor for Longer {
            fn name(&self) -> &str {
                "longer"
            }
            fn compress(&self, step: u64, tree: Tree) -> Result<Tree> {
                Ok(self.0.compress(step, tree)?.scale(1.01))
            }
            fn omega(&self, _d: usize) -> Option<f64> {
                None
            }
            fn delta(&self, _d: usize) -> Option<f64> {
                None
            }
            fn bits(&self, d: usize) -> f64 {
                d as f64
            }
        }
        assert!(!measure(&Longer(Natural::new(1)), &x, 1000).unwrap().is_unbiased(1e-3));
    }

    #[test]
    fn the_test_errs_as_often_as_it_says() {
        // 200 samples of unbiased ones at the level 0.05: at most about 10 refusals, 23 with four deviations.
        let refused = (0..200).filter(|seed| {
            let q = Qsgd::new(2, *seed).unwrap();
            !measure(&q, &normal(50, 100 + seed), 200).unwrap().is_unbiased(0.05)
        });
        let refused = refused.count();
        assert!((1..23).contains(&refused), "{refused}");
    }

    #[test]
    fn what_cannot_be_measured_is_refused() {
        let x = normal(3, 1);
        assert!(measure(&Identity, &x, 1).unwrap_err().to_string().starts_with("draws = 1"));
        assert!(measure(&Identity, &x.zeros_like(), 2).unwrap_err().to_string().starts_with("norm of x = 0"));
        let broken = Tree::empty().push("x", Tensor::<1>::from_data([f32::NAN], &Device::flex())).unwrap();
        assert!(matches!(measure(&Identity, &broken, 2), Err(Error::Parameter { .. })));
    }
}
