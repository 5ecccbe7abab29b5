//! Normal noise on a gradient.

use core_tensor::transform::{Context, GradientTransform, State, Update};
use core_tensor::{Random, Result, Tree};

use crate::limit::not_negative;

/// Adds independent normal noise of one standard deviation to every element: `g ← g + N(0, s²)`.
///
/// The noise of DP-SGD, of A. Neelakantan et al., "Adding gradient noise improves learning for very deep networks", 2015, and of
/// Langevin dynamics. Numbers come from a seeded counter-based generator ([`Random`]), the same on every backend. For privacy
/// against someone who may know or guess the seed draw it from the operating system and keep it secret; the generator is not
/// a cryptographic one, and rounding of floating-point noise can tell more than the theory of real numbers does (I. Mironov, "On
/// significance of the least significant bits for differential privacy", CCS 2012).
///
/// Cost: one pass, and about 20 ns an element and core for the numbers, made on the host.
///
/// ```
/// use burn::optim::SgdConfig;
/// use clipping::{ClipByGlobalNorm, GaussianNoise};
/// use core_tensor::Chain;
///
/// let train = Chain::new().then(ClipByGlobalNorm::new(1.0)?).then(GaussianNoise::new(0.1, 7)?).before(SgdConfig::new().init());
/// # let _ = train;
/// # Ok::<(), core_tensor::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct GaussianNoise {
    deviation: f64,
    random: Random,
}

impl GaussianNoise {
    /// Standard deviation and seed.
    ///
    /// # Errors
    /// [`core_tensor::Error::Parameter`] if the deviation is negative, NaN or infinite.
    pub fn new(standard_deviation: f64, seed: u64) -> Result<Self> {
        let deviation = not_negative("standard_deviation", standard_deviation)?;
        Ok(Self { deviation, random: Random::new(seed).fork("gaussian noise") })
    }
}

impl GradientTransform for GaussianNoise {
    fn name(&self) -> &str {
        "gaussian_noise"
    }

    fn apply(&mut self, grads: Tree, _context: &Context<'_>) -> Result<Update> {
        if self.deviation == 0.0 {
            return Ok(Update::Apply(grads));
        }
        let noise = self.random.normal_like(&grads, self.deviation);
        Ok(Update::Apply(grads.add(&noise)?))
    }

    fn state(&self) -> State {
        self.random.state()
    }

    fn load_state(&mut self, state: State) -> Result<()> {
        self.random.load_state(state)
    }
}

#[cfg(test)]
mod conformance {
    use super::*;
    core_tensor::transform_conformance!(noise, || GaussianNoise::new(0.5, 3).unwrap());
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, Tensor};

    #[test]
    fn the_noise_has_its_deviation_and_no_mean() {
        let n = 100_000;
        let zeros = Tree::empty().push("x", Tensor::<1>::zeros([n], &Device::flex())).unwrap();
        let Ok(Update::Apply(noise)) = GaussianNoise::new(2.0, 5).unwrap().apply(zeros, &Context::new(0)) else {
            panic!("applied");
        };
        let n = n as f64;
        assert!((noise.norm().value() / n.sqrt() - 2.0).abs() < 5.0 * 2.0 / (2.0 * n).sqrt());
        assert!((noise.sum().value() / n).abs() < 5.0 * 2.0 / n.sqrt());
        assert!(GaussianNoise::new(-1.0, 0).is_err() && GaussianNoise::new(f64::INFINITY, 0).is_err());
    }
}
