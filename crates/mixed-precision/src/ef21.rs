//! EF21: the compressed difference from an estimate that both sides keep.

use core_tensor::Tree;
use core_tensor::transform::{Context, GradientTransform, State, Update};

use crate::compress::{Compressor, dtypes, narrowed, widened};
use crate::error_feedback::not_finite;

/// Sends `Q(∇f − h)` and steps by the sum of all that was sent: `h ← h + Q(∇f − h)`, `g ← h`, with `h = 0` at first.
///
/// Unlike [`ErrorFeedback`](crate::ErrorFeedback) the update is an estimate of the whole gradient in every step, and with full gradients `h → ∇f`:
/// no noise floor at a constant rate, a rate of `O(1/K)` instead of `O(1/K^⅔)` for a contraction, and no bound on the difference of workers' gradients. Under
/// stochastic gradients `h` trails a noisy target; use a smaller rate or momentum there.
///
/// The estimate of half-precision leaves is `f32`. A gradient that is not finite skips the step ([`Update::Skip`]) and leaves the estimate alone.
///
/// State: estimate and number of steps. Cost: the compressor and three passes, one of them the check; one tree of memory. One host synchronisation a step on
/// a GPU, for the check. P. Richtárik, I. Sokolov, I. Fatkhullin, "EF21: a new, simpler, theoretically better, and practically faster error feedback", NeurIPS
/// 2021, arXiv:2106.05203, algorithm 2 with `g⁰ = C(∇f(x⁰))`.
///
/// ```
/// use burn::optim::SgdConfig;
/// use core_tensor::Chain;
/// use mixed_precision::{Ef21, Keep, TopK};
///
/// let train = Chain::new().then(Ef21::new(TopK::new(Keep::Share(0.01))?)).before(SgdConfig::new().init());
/// # let _ = train;
/// # Ok::<(), mixed_precision::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Ef21<C> {
    compressor: C,
    steps: u64,
    estimate: Option<Tree>,
}

impl<C: Compressor> Ef21<C> {
    /// From the estimate 0.
    pub fn new(compressor: C) -> Self {
        Self { compressor, steps: 0, estimate: None }
    }

    /// The estimate `h`; `None` before the first step.
    pub fn estimate(&self) -> Option<&Tree> {
        self.estimate.as_ref()
    }
}

impl<C: Compressor> GradientTransform for Ef21<C> {
    fn name(&self) -> &str {
        "ef21"
    }

    fn apply(&mut self, grads: Tree, _context: &Context<'_>) -> core_tensor::Result<Update> {
        if grads.is_finite().value() == 0.0 {
            return Ok(not_finite());
        }
        let narrow = dtypes(&grads);
        let grads = widened(grads)?;
        let estimate = match &self.estimate {
            None => self.compressor.compress(self.steps, grads)?,
            Some(estimate) => {
                let difference = grads.sub(estimate)?;
                estimate.clone().add(&self.compressor.compress(self.steps, difference)?)?
            }
        };
        let update = narrowed(estimate.clone(), &narrow)?;
        self.estimate = Some(estimate);
        self.steps += 1;
        Ok(Update::Apply(update))
    }

    fn state(&self) -> State {
        State::new().with("steps", self.steps).with("estimate", self.estimate.clone())
    }

    fn load_state(&mut self, mut state: State) -> core_tensor::Result<()> {
        let (steps, estimate) = (state.take("steps")?, state.take_optional("estimate")?);
        state.finish()?;
        (self.steps, self.estimate) = (steps, estimate);
        Ok(())
    }
}

#[cfg(test)]
mod conformance {
    use super::*;
    use crate::{Keep, Natural, TopK};
    core_tensor::transform_conformance!(top, || Ef21::new(TopK::new(Keep::Share(0.3)).unwrap()));
    core_tensor::transform_conformance!(natural, || Ef21::new(Natural::new(3)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Keep, TopK};
    use burn::tensor::{Device, Tensor};
    use core_tensor::testing::{Trees, assert_close, property};

    #[test]
    fn the_estimate_reaches_a_gradient_that_stays() {
        property(20, Trees::new().exponents(-3..=3).several(1), |trees| {
            let mut ef21 = Ef21::new(TopK::new(Keep::Share(0.25)).unwrap());
            for step in 0..4 {
                ef21.apply(trees[0].clone(), &Context::new(step)).unwrap();
            }
            assert_close(ef21.estimate().unwrap(), &trees[0], 0.0);
        });
    }

    #[test]
    fn a_broken_gradient_leaves_the_estimate() {
        let tree = |x: [f32; 2]| Tree::empty().push("x", Tensor::<1>::from_data(x, &Device::flex())).unwrap();
        let mut ef21 = Ef21::new(TopK::new(Keep::Count(1)).unwrap());
        ef21.apply(tree([1.0, 2.0]), &Context::new(0)).unwrap();
        let before = ef21.state();
        assert!(matches!(ef21.apply(tree([f32::INFINITY, 1.0]), &Context::new(1)), Ok(Update::Skip { .. })));
        assert_eq!(ef21.state(), before);
    }
}
