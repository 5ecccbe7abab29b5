//! What becomes of a gradient that is not finite.

use std::fmt;

use core_tensor::transform::{Context, GradientTransform, State, Update};
use core_tensor::{Error, Result, Scalar, Tree};

use crate::limit::read;

/// What to do with NaN and infinite elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NonFinitePolicy {
    /// Pass them on and only count the step. No host synchronisation.
    Propagate,
    /// Replace them by zero, keeping the other elements. No host synchronisation.
    Zero,
    /// Hold the step back: model and optimizer state stay as they are. One host synchronisation.
    Skip,
    /// Fail with the names of the parameters. One host synchronisation.
    Error,
}

/// Applies a [`NonFinitePolicy`] before other rules see the gradient, and counts.
///
/// PyTorch only propagates: a norm of infinity turns the gradient into zeros and NaN. The counters are kept where the
/// gradient is, so counting waits for nothing; reading them does. Cost: one pass to read, for [`NonFinitePolicy::Zero`] one
/// more in place.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use clipping::{NonFinite, NonFinitePolicy};
/// use core_tensor::{Context, GradientTransform, Tree, Update};
///
/// let broken = Tree::empty().push("w", Tensor::<1>::from_data([f32::NAN, 2.0], &Device::flex()))?;
/// let mut skip = NonFinite::new(NonFinitePolicy::Skip);
/// assert!(matches!(skip.apply(broken.clone(), &Context::new(0))?, Update::Skip { .. }));
/// assert_eq!((skip.total(), skip.consecutive()), (1.0, 1.0));
///
/// let mut error = NonFinite::new(NonFinitePolicy::Error);
/// let message = error.apply(broken, &Context::new(0)).unwrap_err().to_string();
/// assert!(message.contains("`w`"));
/// # Ok::<(), core_tensor::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct NonFinite {
    policy: NonFinitePolicy,
    limit: Option<u64>,
    total: Scalar,
    consecutive: Scalar,
}

/// The parameters whose gradients are not finite.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NonFiniteGradient {
    /// Their paths, in order.
    pub paths: Vec<String>,
}

impl fmt::Display for NonFiniteGradient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the gradient is not finite in ")?;
        for (i, path) in self.paths.iter().enumerate() {
            write!(f, "{}`{path}`", if i > 0 { ", " } else { "" })?;
        }
        Ok(())
    }
}

impl std::error::Error for NonFiniteGradient {}

impl NonFinite {
    /// The policy without a limit.
    pub fn new(policy: NonFinitePolicy) -> Self {
        let zero = Scalar::from(0.0);
        Self { policy, limit: None, total: zero.clone(), consecutive: zero }
    }

    /// After `limit` bad steps in a row fail with the names of the parameters, so that a run that has diverged ends
    /// (optax's `apply_if_finite` lets them through instead). One host synchronisation a step.
    pub fn at_most_in_a_row(self, limit: u64) -> Self {
        Self { limit: Some(limit), ..self }
    }

    /// Bad steps so far. Waits for a GPU.
    pub fn total(&self) -> f64 {
        self.total.value()
    }

    /// Bad steps since the last good one. Waits for a GPU.
    pub fn consecutive(&self) -> f64 {
        self.consecutive.value()
    }
}

/// The paths of the leaves that hold a NaN or an infinity. One pass to read, one host synchronisation.
pub fn non_finite_leaves(grads: &Tree) -> Vec<String> {
    let flags: Vec<Scalar> = grads
        .names()
        .iter()
        .enumerate()
        .map(|(index, _)| {
            let mut position = 0;
            let leaf = grads.filter(|_| {
                position += 1;
                position - 1 == index
            });
            leaf.is_finite()
        })
        .collect();
    let names = grads.names().iter().zip(read(&flags));
    names.filter(|(_, finite)| *finite == 0.0).map(|(name, _)| name.path.clone()).collect()
}

impl GradientTransform for NonFinite {
    fn name(&self) -> &str {
        "non_finite"
    }

    /// # Errors
    /// [`Error::Transform`] with a [`NonFiniteGradient`] under [`NonFinitePolicy::Error`] or past the limit.
    fn apply(&mut self, grads: Tree, _context: &Context<'_>) -> Result<Update> {
        let finite = grads.is_finite();
        let bad = Scalar::from(1.0) - finite.clone();
        let total = &self.total + &bad;
        // (c + 1)·bad: one more, or back to zero.
        let consecutive = &(self.consecutive.clone() + 1.0) * &bad;
        let over = self.limit.is_some_and(|limit| consecutive.value() > limit as f64);
        if over || (self.policy == NonFinitePolicy::Error && finite.value() == 0.0) {
            let paths = non_finite_leaves(&grads);
            return Err(Error::transform(self.name(), NonFiniteGradient { paths }));
        }
        (self.total, self.consecutive) = (total, consecutive);
        Ok(match self.policy {
            NonFinitePolicy::Skip if finite.value() == 0.0 => {
                Update::Skip { why: NonFiniteGradient { paths: non_finite_leaves(&grads) }.to_string() }
            }
            NonFinitePolicy::Zero if finite.known() != Some(1.0) => Update::Apply(grads.finite_or_zero()),
            _ => Update::Apply(grads),
        })
    }

    fn state(&self) -> State {
        State::new().with("total", self.total.value()).with("consecutive", self.consecutive.value())
    }

    fn load_state(&mut self, mut state: State) -> Result<()> {
        let (total, consecutive): (f64, f64) = (state.take("total")?, state.take("consecutive")?);
        state.finish()?;
        (self.total, self.consecutive) = (Scalar::from(total), Scalar::from(consecutive));
        Ok(())
    }
}

#[cfg(test)]
mod conformance {
    use super::*;
    core_tensor::transform_conformance!(propagate, || NonFinite::new(NonFinitePolicy::Propagate));
    core_tensor::transform_conformance!(zero, || NonFinite::new(NonFinitePolicy::Zero));
    core_tensor::transform_conformance!(skip, || NonFinite::new(NonFinitePolicy::Skip));
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, Tensor};

    fn grads(x: [f32; 3]) -> Tree {
        let device = Device::flex();
        Tree::empty()
            .push("first", Tensor::<1>::from_data([x[0], x[1]], &device))
            .and_then(|tree| tree.push("second", Tensor::<1>::from_data([x[2]], &device)))
            .unwrap()
    }

    fn values(tree: &Tree) -> Vec<f32> {
        tree.flatten().unwrap().try_into_vec_as().unwrap()
    }

    #[test]
    fn policies() {
        let bad = || grads([f32::NAN, 2.0, f32::NEG_INFINITY]);
        let apply = |policy| NonFinite::new(policy).apply(bad(), &Context::new(0));
        match apply(NonFinitePolicy::Propagate) {
            Ok(Update::Apply(out)) => assert!(values(&out)[0].is_nan() && values(&out)[2] == f32::NEG_INFINITY),
            other => panic!("{other:?}"),
        }
        match apply(NonFinitePolicy::Zero) {
            Ok(Update::Apply(out)) => assert_eq!(values(&out), [0.0, 2.0, 0.0]),
            other => panic!("{other:?}"),
        }
        match apply(NonFinitePolicy::Skip) {
            Ok(Update::Skip { why }) => assert!(why.contains("`first`, `second`"), "{why}"),
            other => panic!("{other:?}"),
        }
        let Err(Error::Transform { source, .. }) = apply(NonFinitePolicy::Error) else { panic!("an error") };
        let source = source.downcast_ref::<NonFiniteGradient>().unwrap();
        assert_eq!(source.paths, ["first", "second"]);
    }

    #[test]
    fn counters_run_and_reset_and_a_limit_ends_the_run() {
        let mut policy = NonFinite::new(NonFinitePolicy::Skip).at_most_in_a_row(2);
        let mut step = |x: [f32; 3]| policy.apply(grads(x), &Context::new(0)).is_ok();
        let (good, bad) = ([1.0; 3], [1.0, f32::INFINITY, 1.0]);
        assert!(step(bad) && step(bad) && step(good) && step(bad) && step(bad));
        assert!(!step(bad), "three in a row");
        assert_eq!((policy.total(), policy.consecutive()), (4.0, 2.0), "the step that failed is not counted");
    }

    #[test]
    fn a_skip_leaves_the_optimizer_alone() {
        use burn::nn::LinearConfig;
        use burn::optim::AdamWConfig;
        use core_tensor::{Chain, Outcome};
        let model = LinearConfig::new(2, 1).init(&Device::flex().autodiff());
        let chain = Chain::new().then(NonFinite::new(NonFinitePolicy::Skip));
        let mut train = chain.before(AdamWConfig::new().init());
        let loss = |model: &burn::nn::Linear, x: f32| {
            model.forward(Tensor::<2>::full([1, 2], x, &model.weight.device())).sum()
        };
        let (now, before) = (loss(&model, 1.0), train.updates());
        let model = train.step(0.1, model, now).unwrap().into_model();
        let point = Tree::from_module(&model);
        let now = loss(&model, f32::NAN);
        let Outcome::Skipped { model, .. } = train.step(0.1, model, now).unwrap() else { panic!("stepped") };
        core_tensor::testing::assert_same_bits(&point, &Tree::from_module(&model));
        assert_eq!(train.updates(), before + 1);
    }
}
