//! Error feedback: what a compressor leaves out of one step is added to the next.

use core_tensor::Tree;
use core_tensor::transform::{Context, GradientTransform, State, Update};

use crate::compress::{Compressor, dtypes, narrowed, widened};

/// Sends `Q(g + e)` and keeps the rest: `p = g + e`, `g ← Q(p)`, `e ← p − Q(p)`, with `e = 0` at first.
///
/// Nothing is lost but delayed: the sum of all updates and the residual is the sum of all gradients (test
/// `error_feedback::tests::nothing_is_lost`). With a contraction of constant `δ` ([`Compressor::delta`]) descent converges at the rate of
/// uncompressed descent, up to a term of order `1/δ²` that fades; without feedback a biased compressor may diverge, as top-1 does on three workers
/// (test `workers::tests::top_one_diverges_exactly_and_feedback_cures_it`).
///
/// **Learning rate.** The papers put the rate inside, `p = γg + e`, and step by `Q(p)`. Here the residual is in units of the gradient, and the optimizer
/// behind multiplies by its rate: the same iterates while `γ` is constant (test `error_feedback::tests::constant_rates_are_the_papers`). Where the
/// rate changes by a schedule, a residual is applied at the rate of its later step. The optimizer behind is meant to be plain SGD; behind momentum or
/// Adam the compressed gradient enters their averages, which works in practice and is not what the theorem says.
///
/// The residual of half-precision leaves is `f32`, and takes in what rounding the update to the leaf's dtype loses. A gradient that is not finite skips the
/// step ([`Update::Skip`]) and leaves the residual alone.
///
/// State: residual and number of steps. Cost: the compressor and three passes, one of them the check; one tree of memory. One host synchronisation a step on
/// a GPU, for the check. F. Seide et al., "1-bit stochastic gradient descent", Interspeech 2014; S. U. Stich et al., arXiv:1809.07599, algorithm 1; S. P.
/// Karimireddy et al., "Error feedback fixes SignSGD and other gradient compression schemes", ICML 2019, arXiv:1901.09847, algorithm 2.
///
/// ```
/// use burn::optim::SgdConfig;
/// use core_tensor::Chain;
/// use mixed_precision::{ErrorFeedback, Keep, TopK};
///
/// let sparse = ErrorFeedback::new(TopK::new(Keep::Share(0.01))?);
/// let train = Chain::new().then(sparse).before(SgdConfig::new().init());
/// # let _ = train;
/// # Ok::<(), mixed_precision::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct ErrorFeedback<C> {
    compressor: C,
    steps: u64,
    residual: Option<Tree>,
}

impl<C: Compressor> ErrorFeedback<C> {
    /// Without a residual.
    pub fn new(compressor: C) -> Self {
        Self { compressor, steps: 0, residual: None }
    }

    /// What has been left out so far; `None` before the first step.
    pub fn residual(&self) -> Option<&Tree> {
        self.residual.as_ref()
    }
}

impl<C: Compressor> GradientTransform for ErrorFeedback<C> {
    fn name(&self) -> &str {
        "error_feedback"
    }

    fn apply(&mut self, grads: Tree, _context: &Context<'_>) -> core_tensor::Result<Update> {
        if grads.is_finite().value() == 0.0 {
            return Ok(not_finite());
        }
        let narrow = dtypes(&grads);
        let mut proposal = widened(grads)?;
        if let Some(residual) = &self.residual {
            proposal = proposal.add(residual)?;
        }
        let update = narrowed(self.compressor.compress(self.steps, proposal.clone())?, &narrow)?;
        self.residual = Some(proposal.sub(&update)?);
        self.steps += 1;
        Ok(Update::Apply(update))
    }

    fn state(&self) -> State {
        State::new().with("steps", self.steps).with("residual", self.residual.clone())
    }

    fn load_state(&mut self, mut state: State) -> core_tensor::Result<()> {
        let (steps, residual) = (state.take("steps")?, state.take_optional("residual")?);
        state.finish()?;
        (self.steps, self.residual) = (steps, residual);
        Ok(())
    }
}

pub(crate) fn not_finite() -> Update {
    Update::Skip { why: "the gradient is not finite; the residual of its compression stays".into() }
}

#[cfg(test)]
mod conformance {
    use super::*;
    use crate::{Keep, Qsgd, SignSgd, TopK};
    core_tensor::transform_conformance!(top, || ErrorFeedback::new(TopK::new(Keep::Share(0.3)).unwrap()));
    core_tensor::transform_conformance!(sign, || ErrorFeedback::new(SignSgd::scaled()));
    core_tensor::transform_conformance!(qsgd, || ErrorFeedback::new(Qsgd::new(3, 4).unwrap()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Keep, SignSgd, TopK};
    use burn::tensor::{DType, Device, Tensor};
    use core_tensor::testing::{Trees, assert_close, property};

    fn apply(transform: &mut dyn GradientTransform, grads: Tree) -> Tree {
        match transform.apply(grads, &Context::new(0)) {
            Ok(Update::Apply(update)) => update,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn nothing_is_lost() {
        property(20, Trees::new().exponents(-3..=3).several(6), |gradients| {
            let mut feedback = ErrorFeedback::new(TopK::new(Keep::Share(0.2)).unwrap());
            let (mut sent, mut given) = (gradients[0].zeros_like(), gradients[0].zeros_like());
            for gradient in &gradients {
                given = given.add(gradient).unwrap();
                sent = sent.add(&apply(&mut feedback, gradient.clone())).unwrap();
            }
            let size: f64 = gradients.iter().map(|g| g.norm_inf().value()).sum();
            assert_close(&sent.add(feedback.residual().unwrap()).unwrap(), &given, 1e-5 * size);
        });
    }

    #[test]
    fn constant_rates_are_the_papers() {
        // Algorithm 2 with the rate inside, on ½‖x − c‖², by hand.
        let device = Device::flex();
        let (c, rate) = ([3.0, -1.0, 0.5, 0.25], 0.25);
        let sign = |p: [f64; 4]| {
            let mean = p.iter().map(|p| p.abs()).sum::<f64>() / 4.0;
            p.map(|p| mean * if p == 0.0 { 0.0 } else { p.signum() })
        };
        let (mut x, mut e, mut y) = ([0.0; 4], [0.0; 4], [0.0; 4]);
        let mut feedback = ErrorFeedback::new(SignSgd::scaled());
        for _ in 0..50 {
            let p: [f64; 4] = std::array::from_fn(|i| rate * (x[i] - c[i]) + e[i]);
            let step = sign(p);
            (0..4).for_each(|i| (x[i], e[i]) = (x[i] - step[i], p[i] - step[i]));
            let data = burn::tensor::TensorData::from(std::array::from_fn::<f64, 4, _>(|i| y[i] - c[i]));
            let g = Tree::empty().push("x", Tensor::<1>::from_data(data, (&device, DType::F64))).unwrap();
            let update = apply(&mut feedback, g).get::<1>("x").unwrap().into_data();
            y.iter_mut().zip(update.iter::<f64>()).for_each(|(y, u)| *y -= rate * u);
        }
        assert!(x.iter().zip(&y).all(|(x, y)| (x - y).abs() < 1e-12), "{x:?} {y:?}");
    }

    #[test]
    fn half_precision_leaves_lose_nothing_either() {
        let device = Device::flex();
        let mut feedback = ErrorFeedback::new(SignSgd::scaled());
        let x = Tensor::<1>::from_data([1.0, 0.00390625, 0.5], (&device, DType::BF16));
        let grads = Tree::empty().push("x", x).unwrap();
        let update = apply(&mut feedback, grads.clone());
        assert_eq!(update.get::<1>("x").unwrap().dtype(), DType::BF16);
        let residual = feedback.residual().unwrap();
        assert_eq!(residual.get::<1>("x").unwrap().dtype(), DType::F32);
        assert_close(&residual.clone().add(&update).unwrap(), &widened(grads).unwrap(), 0.0);
    }

    #[test]
    fn a_broken_gradient_leaves_the_residual() {
        let tree = |x: [f32; 2]| Tree::empty().push("x", Tensor::<1>::from_data(x, &Device::flex())).unwrap();
        let mut feedback = ErrorFeedback::new(TopK::new(Keep::Count(1)).unwrap());
        apply(&mut feedback, tree([1.0, 2.0]));
        let before = feedback.state();
        assert!(matches!(feedback.apply(tree([f32::NAN, 1.0]), &Context::new(1)), Ok(Update::Skip { .. })));
        assert_eq!(feedback.state(), before);
        let other = Tree::empty().push("y", Tensor::<1>::ones([2], &Device::flex())).unwrap();
        assert!(feedback.apply(other, &Context::new(1)).is_err());
        assert_eq!(feedback.state(), before);
    }
}
