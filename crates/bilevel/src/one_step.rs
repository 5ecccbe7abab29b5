//! A hyper-parameter that follows the derivative of a single step.

use core_tensor::transform::State;
use core_tensor::{Result, Tree};

use crate::error::{decay, positive};

/// Moves a positive hyper-parameter by factors against the derivative of a loss after one step: `h ← h·(1 − β·cos(∇f(z⁺), ∂z⁺/∂h))`.
///
/// `∇f(z⁺)` is a gradient at the point that the step led to (of the next batch, or of the validation loss), `∂z⁺/∂h` how the step depends
/// on `h`, up to a positive factor; their product is the derivative `df/dh` of the unrolled step. Any optimizer will do, as long as that
/// direction is known:
///
/// | `h` | `∂z⁺/∂h` | `∇f` of |
/// |---|---|---|
/// | learning rate of any optimizer | the step itself, `z⁺ − z` | the next batch |
/// | decoupled weight decay | `−z` | validation examples |
///
/// | parameter | range | effect |
/// |---|---|---|
/// | `value` `h₀` | > 0 | the start |
/// | `beta` `β` | 0 to < 1 | the largest relative change at a time; 0 leaves `h` as it is |
///
/// The cosine makes it free of units: it does not depend on the scale of losses or steps. A direction or gradient of length zero, or one that
/// is not finite, changes nothing. `h` stays positive (`it_follows_the_sign_and_stays_positive`).
///
/// Cost a step: a dot product and two norms; one host synchronisation on a GPU. A. G. Baydin et al., "Online learning rate adaptation with
/// hypergradient descent", 2018 (arXiv:1703.04782), the multiplicative rule; for regularisers through one step: J. Luketina et al., "Scalable
/// gradient-based tuning of continuous regularization hyperparameters", 2016 (arXiv:1511.06727).
///
/// ```
/// use bilevel::OneStep;
/// use burn::tensor::{Device, Tensor};
/// use core_tensor::Tree;
/// # fn main() -> bilevel::Result<()> {
/// // f = ½z², gradient descent from a rate that is much too small.
/// let mut z = Tree::empty().push("z", Tensor::<1>::from_data([3.0f32], &Device::default()))?;
/// let mut rate = OneStep::new(1e-3, 0.1)?;
/// let mut step: Option<Tree> = None;
/// for _ in 0..200 {
///     let gradient = z.clone();
///     if let Some(step) = &step {
///         rate.advance(&gradient, step)?;
///     }
///     let next = z.clone().axpy(-rate.value(), &gradient)?;
///     step = Some(next.clone().sub(&z)?);
///     z = next;
/// }
/// assert!(z.norm().value() < 1e-3);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct OneStep {
    value: f64,
    beta: f64,
}

impl OneStep {
    /// The value to start from, and its largest relative change at a time.
    ///
    /// # Errors
    /// A parameter error unless `value` is above zero and finite and `0 <= beta < 1`.
    pub fn new(value: f64, beta: f64) -> crate::Result<Self> {
        Ok(Self { value: positive("value", value)?, beta: decay("beta", beta)? })
    }

    /// The hyper-parameter now.
    pub fn value(&self) -> f64 {
        self.value
    }

    /// Moves it, given the gradient after the step and how the step depends on it; gives the new value.
    ///
    /// # Errors
    /// Trees of different structures.
    pub fn advance(&mut self, gradient: &Tree, direction: &Tree) -> crate::Result<f64> {
        let product = gradient.dot(direction)?.value();
        let lengths = gradient.norm().value() * direction.norm().value();
        let cosine = product / lengths;
        if cosine.is_finite() {
            self.value *= 1.0 - self.beta * cosine.clamp(-1.0, 1.0);
        }
        Ok(self.value)
    }

    /// What changes from step to step.
    pub fn state(&self) -> State {
        State::new().with("value", self.value)
    }

    /// Go on from a state, bit for bit.
    ///
    /// # Errors
    /// The state of something else; this is then as it was.
    pub fn load_state(&mut self, mut state: State) -> Result<()> {
        let value = state.take("value")?;
        state.finish()?;
        self.value = value;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_follows_the_sign_and_stays_positive(
            gradient in prop::collection::vec(-3.0..3.0f64, 4),
            direction in prop::collection::vec(-3.0..3.0f64, 4),
            beta in 0.0..0.99f64,
            scale in -20..20i32,
        ) {
            let mut h = OneStep::new(0.5, beta).unwrap();
            let (gradient, direction) = (leaf("z", &gradient), leaf("z", &direction));
            let product = gradient.dot(&direction).unwrap().value();
            let after = h.advance(&gradient, &direction).unwrap();
            prop_assert!(after > 0.0 && (after / 0.5 - 1.0).abs() <= beta + 1e-12);
            prop_assert!((after - 0.5) * product <= 0.0);
            // Free of units.
            let mut scaled = OneStep::new(0.5, beta).unwrap();
            let other = scaled.advance(&gradient.scale(2f64.powi(scale)), &direction).unwrap();
            prop_assert!((other - after).abs() < 1e-12);
        }
    }

    #[test]
    fn by_hand_and_resumed() {
        let mut h = OneStep::new(1.0, 0.1).unwrap();
        let (x, diagonal) = (leaf("z", &[1.0, 0.0]), leaf("z", &[3.0, 4.0]));
        assert!((h.advance(&diagonal, &x).unwrap() - 0.94).abs() < 1e-12);
        assert!((h.advance(&diagonal, &x.clone().neg()).unwrap() - 0.94 * 1.06).abs() < 1e-12);
        let before = h.value();
        assert_eq!(h.advance(&x, &x.zeros_like()).unwrap(), before);
        assert_eq!(h.advance(&x.clone().scale(f64::NAN), &x).unwrap(), before);
        assert!(h.advance(&x, &leaf("y", &[1.0, 0.0])).is_err());
        let mut resumed = OneStep::new(7.0, 0.1).unwrap();
        resumed.load_state(h.state()).unwrap();
        assert_eq!(resumed.value(), before);
        assert!(resumed.load_state(State::new()).is_err() && resumed.value() == before);
        for (value, beta) in [(0.0, 0.1), (f64::NAN, 0.1), (1.0, 1.0), (1.0, f64::NAN), (1.0, -0.1)] {
            assert!(OneStep::new(value, beta).is_err(), "{value} {beta}");
        }
    }
}
