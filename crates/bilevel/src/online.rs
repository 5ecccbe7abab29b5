//! A learning rate that learns while training.

use core_tensor::transform::State;
use core_tensor::{Result, Tree};

use crate::error::{finite, not_negative};

/// Online hypergradient descent: the rate follows the agreement of successive gradients, `α_t = α_{t−1} + β⟨∇_t, ∇_{t−1}⟩`, then
/// `z ← z − α_t·∇_t`. Starts from any rate, zero included.
///
/// `−⟨∇_t, ∇_{t−1}⟩` is the derivative of the loss after a step in that step's rate: one unrolled step, for the price of a dot product.
///
/// | parameter | range | effect |
/// |---|---|---|
/// | `rate` `α₀` | ≥ 0 | the start |
/// | `beta` `β` | ≥ 0 | rate of the rate, in units of `α` by squared gradients; 0 is plain descent |
///
/// Cost a step: one dot product and one kept gradient; one host synchronisation on a GPU. A. G. Baydin et al., "Online learning rate adaptation
/// with hypergradient descent", 2018 (arXiv:1703.04782), algorithm 4.
///
/// ```
/// use bilevel::HypergradientDescent;
/// use burn::tensor::{Device, Tensor};
/// use core_tensor::Tree;
/// # fn main() -> bilevel::Result<()> {
/// // f = ½z², whose gradient is z, from a rate of zero.
/// let mut z = Tree::empty().push("z", Tensor::<1>::from_data([3.0f32], &Device::default()))?;
/// let mut descent = HypergradientDescent::new(0.0, 0.01)?;
/// for _ in 0..100 {
///     let gradient = z.clone();
///     z = descent.step(z, gradient)?;
/// }
/// assert!(z.norm().value() < 1e-3 && descent.rate() > 0.1);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct HypergradientDescent {
    rate: f64,
    beta: f64,
    last: Option<Tree>,
}

impl HypergradientDescent {
    /// The rate to start from, and the rate of the rate.
    ///
    /// # Errors
    /// A parameter error for a negative number or NaN.
    pub fn new(rate: f64, beta: f64) -> crate::Result<Self> {
        Ok(Self { rate: not_negative("rate", rate)?, beta: not_negative("beta", beta)?, last: None })
    }

    /// The rate now.
    pub fn rate(&self) -> f64 {
        self.rate
    }

    /// The next point. The rate is moved first.
    ///
    /// # Errors
    /// A gradient of another structure; [`Error::NotFinite`](crate::Error::NotFinite) for one that is not finite, which leaves the
    /// rate as it was.
    pub fn step(&mut self, z: Tree, gradient: Tree) -> crate::Result<Tree> {
        z.same_structure(&gradient)?;
        finite("the gradient", gradient.norm().value())?;
        if let Some(last) = &self.last {
            self.rate += self.beta * finite("the agreement of gradients", gradient.dot(last)?.value())?;
        }
        let z = z.axpy(-self.rate, &gradient)?;
        self.last = Some(gradient);
        Ok(z)
    }

    /// What changes from step to step.
    pub fn state(&self) -> State {
        State::new().with("rate", self.rate).with("last", self.last.clone())
    }

    /// Go on from a state, bit for bit.
    ///
    /// # Errors
    /// The state of something else; this is then as it was.
    pub fn load_state(&mut self, mut state: State) -> Result<()> {
        let (rate, last) = (state.take("rate")?, state.take_optional("last")?);
        state.finish()?;
        (self.rate, self.last) = (rate, last);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::*;

    #[test]
    fn three_steps_by_hand() {
        let mut descent = HypergradientDescent::new(0.0, 0.01).unwrap();
        let mut z = leaf("z", &[2.0]);
        // ∇ = z: nothing moves; then α = 0.04, z = 1.92; then α = 0.04 + 0.01·1.92·2.
        for (at, rate) in [(2.0, 0.0), (1.92, 0.04), (1.92 * (1.0 - 0.0784), 0.0784)] {
            let gradient = z.clone();
            z = descent.step(z, gradient).unwrap();
            assert!((z.sum().value() - at).abs() < 1e-14 && (descent.rate() - rate).abs() < 1e-15);
        }
        let mut resumed = HypergradientDescent::new(1.0, 0.01).unwrap();
        resumed.load_state(descent.state()).unwrap();
        let again = resumed.step(z.clone(), z.clone()).unwrap();
        core_tensor::testing::assert_same_bits(&again, &descent.step(z.clone(), z.clone()).unwrap());
        assert!(resumed.load_state(State::new()).is_err());
        let rate = resumed.rate();
        assert!(resumed.step(z.clone(), leaf("z", &[f64::NAN])).is_err() && resumed.rate() == rate);
        assert!(resumed.step(z, leaf("y", &[1.0])).is_err());
        assert!(HypergradientDescent::new(-1.0, 0.0).is_err() && HypergradientDescent::new(0.0, f64::NAN).is_err());
    }

    /// From zero to more than twenty times a rate that is too small.
    #[test]
    fn a_rate_from_zero_beats_one_that_is_too_small() {
        let curvature = leaf("z", &[1.0, 0.3, 0.1]);
        let run = |rate: f64, beta: f64| {
            let mut descent = HypergradientDescent::new(rate, beta).unwrap();
            let mut z = leaf("z", &[1.0, 1.0, 1.0]);
            for _ in 0..200 {
                let gradient = z.clone().mul(&curvature).unwrap();
                z = descent.step(z, gradient).unwrap();
            }
            let loss = z.clone().mul(&curvature).unwrap().dot(&z).unwrap().value();
            (loss, descent.rate())
        };
        let (untuned, _) = run(0.01, 0.0);
        let (learned, rate) = run(0.0, 0.05);
        assert!(learned < 1e-3 * untuned && rate > 20.0 * 0.01, "{untuned:e} {learned:e} {rate}");
    }
}
