//! Transforms one after another.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use burn::lr_scheduler::module_lr_scheduler::ModuleLearningRate;
use burn::module::Module;
use burn::optim::{GradientsParams, ModuleOptimizer};

use super::trainer::{Outcome, Report, StepError, Trainer};
use super::{Context, GradientTransform, State, Update};
use crate::{Error, Result, Scalar, Tree};

/// Applies transforms in order; the first that skips ends the step.
///
/// The empty chain is the identity. A chain is a transform, so chains nest. It counts the updates
/// it has let through ([`Context::step`]).
///
/// If a transform fails, those before it have already taken note of the gradient.
#[derive(Default)]
pub struct Chain {
    transforms: Vec<Box<dyn GradientTransform>>,
    step: u64,
}

impl Chain {
    /// The empty chain.
    pub fn new() -> Self {
        Self::default()
    }

    /// The chain with a transform at its end.
    pub fn then(mut self, transform: impl GradientTransform + 'static) -> Self {
        self.transforms.push(Box::new(transform));
        self
    }

    /// The chain in front of an optimizer: any Burn optimizer, or one initialised from its config.
    pub fn before(self, optimizer: impl Into<ModuleOptimizer>) -> Trainer {
        Trainer::new(self, optimizer.into())
    }

    /// The chain as a handle that modules can hold, for burn-train.
    pub fn shared(self) -> SharedChain {
        SharedChain(Arc::new(Mutex::new(self)))
    }

    /// Updates let through so far.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// Number of transforms.
    pub fn len(&self) -> usize {
        self.transforms.len()
    }

    /// Whether there are no transforms.
    pub fn is_empty(&self) -> bool {
        self.transforms.is_empty()
    }

    /// Apply the chain to gradients as Burn's optimizers take them. [`Update::Apply`] holds the tree
    /// to turn back with [`Tree::into_params`].
    ///
    /// # Errors
    /// Those of the transforms.
    pub fn apply_grads<M: Module>(&mut self, grads: GradientsParams, model: &M) -> Result<Update> {
        let params = Tree::from_module(model);
        let grads = Tree::from_gradients_params(grads, model);
        let context = Context::new(self.step).with_params(&params);
        let update = self.apply(grads, &context)?;
        if let Update::Apply(update) = &update {
            update.check_part_of(&params)?;
            self.step += 1;
        }
        Ok(update)
    }

    /// Chain and optimizer in one call, with the signature of burn-train's `TrainStep::optimize`:
    ///
    /// ```
    /// use burn::lr_scheduler::module_lr_scheduler::ModuleLearningRate;
    /// use burn::module::Module;
    /// use burn::nn::Linear;
    /// use burn::optim::{GradientsParams, ModuleOptimizer};
    /// use core_tensor::transform::SharedChain;
    ///
    /// #[derive(Module, Debug)]
    /// struct Model {
    ///     layer: Linear,
    ///     #[module(skip)]
    ///     chain: SharedChain,
    /// }
    ///
    /// impl Model {
    ///     // In `impl TrainStep for Model`:
    ///     fn optimize(
    ///         self,
    ///         optim: &mut ModuleOptimizer,
    ///         lr: ModuleLearningRate,
    ///         grads: GradientsParams,
    ///     ) -> Self {
    ///         self.chain.clone().optimize(self, optim, lr, grads).expect("step").into_model()
    ///     }
    /// }
    /// ```
    ///
    /// # Errors
    /// Those of the transforms, with the model. The optimizer is then as it was.
    pub fn optimize<M: Module>(
        &mut self,
        model: M,
        optimizer: &mut ModuleOptimizer,
        lr: impl Into<ModuleLearningRate>,
        grads: GradientsParams,
    ) -> Result<Outcome<M>, StepError<M>> {
        let grads = Tree::from_gradients_params(grads, &model);
        self.advance(model, optimizer, lr.into(), grads, None)
    }

    pub(super) fn advance<M: Module>(
        &mut self,
        model: M,
        optimizer: &mut ModuleOptimizer,
        lr: ModuleLearningRate,
        grads: Tree,
        loss: Option<Scalar>,
    ) -> Result<Outcome<M>, StepError<M>> {
        let grad_norm = grads.norm();
        match self.update(&model, grads, loss.as_ref()) {
            Err(source) => Err(StepError { model, source }),
            Ok(Err(why)) => Ok(Outcome::Skipped { model, why }),
            Ok(Ok((update_norm, grads))) => {
                let report = Report {
                    step: self.step,
                    loss,
                    update_norm: update_norm.unwrap_or_else(|| grad_norm.clone()),
                    grad_norm,
                };
                self.step += 1;
                let model = optimizer.step(lr, model, grads);
                Ok(Outcome::Stepped { model, report })
            }
        }
    }

    /// The norm of the update (if there are transforms) and the update, or why there is none.
    ///
    /// The parameters are let go on return, so that the optimizer can work in place.
    #[allow(clippy::type_complexity)]
    fn update<M: Module>(
        &mut self,
        model: &M,
        grads: Tree,
        loss: Option<&Scalar>,
    ) -> Result<Result<(Option<Scalar>, GradientsParams), String>> {
        let params = Tree::from_module(model);
        let context = Context { step: self.step, params: Some(&params), loss };
        let update = match self.apply(grads, &context)? {
            Update::Apply(update) => update,
            Update::Skip { why } => return Ok(Err(why)),
        };
        update.check_part_of(&params)?;
        let norm = (!self.is_empty()).then(|| update.norm());
        Ok(Ok((norm, update.into_params()?)))
    }
}

impl GradientTransform for Chain {
    fn name(&self) -> &str {
        "chain"
    }

    /// # Errors
    /// Those of the transforms; [`Error::Transform`] if one changes the structure of the gradient.
    fn apply(&mut self, mut grads: Tree, context: &Context<'_>) -> Result<Update> {
        let outline = grads.outline();
        for transform in &mut self.transforms {
            grads = match transform.apply(grads, context)? {
                Update::Apply(grads) => grads,
                skip => return Ok(skip),
            };
            outline.check(&grads).map_err(|error| Error::transform(transform.name(), error))?;
        }
        Ok(Update::Apply(grads))
    }

    /// The number of updates under `step`, and each transform's state under its position.
    fn state(&self) -> State {
        let state = State::new().with("step", self.step);
        let transforms = self.transforms.iter().enumerate();
        transforms.fold(state, |state, (i, transform)| state.with_nested(&i.to_string(), transform.state()))
    }

    fn load_state(&mut self, mut state: State) -> Result<()> {
        let step = state.take("step")?;
        let states: Vec<State> = (0..self.len()).map(|i| state.take_nested(&i.to_string())).collect();
        state.finish()?;
        let before: Vec<State> = self.transforms.iter().map(|t| t.state()).collect();
        for (i, state) in states.into_iter().enumerate() {
            if let Err(error) = self.transforms[i].load_state(state) {
                for (transform, state) in self.transforms.iter_mut().zip(before).take(i) {
                    // A state the transform gave itself a moment ago.
                    transform.load_state(state)?;
                }
                let name = format!("{} (number {i})", self.transforms[i].name());
                return Err(Error::transform(name, error));
            }
        }
        self.step = step;
        Ok(())
    }
}

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.transforms.iter().map(|t| t.name()).collect();
        f.debug_struct("Chain").field("transforms", &names).field("step", &self.step).finish()
    }
}

/// A [`Chain`] that clones share, to be a `#[module(skip)]` field of a model trained by burn-train.
///
/// Burn does not save skipped fields: keep the state with [`state`](Self::state).
#[derive(Clone, Debug, Default)]
pub struct SharedChain(Arc<Mutex<Chain>>);

impl SharedChain {
    /// [`Chain::optimize`].
    ///
    /// # Errors
    /// As there.
    pub fn optimize<M: Module>(
        &self,
        model: M,
        optimizer: &mut ModuleOptimizer,
        lr: impl Into<ModuleLearningRate>,
        grads: GradientsParams,
    ) -> Result<Outcome<M>, StepError<M>> {
        self.with(|chain| chain.optimize(model, optimizer, lr, grads))
    }

    /// The state of the chain.
    pub fn state(&self) -> State {
        self.with(|chain| chain.state())
    }

    /// Go on from a state.
    ///
    /// # Errors
    /// Those of the transforms.
    pub fn load_state(&self, state: State) -> Result<()> {
        self.with(|chain| chain.load_state(state))
    }

    fn with<R>(&self, f: impl FnOnce(&mut Chain) -> R) -> R {
        // A panic elsewhere leaves the chain usable: transforms change state last.
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod conformance {
    use crate::transform::{Chain, Identity, Masked};
    crate::transform_conformance!(empty_chain, Chain::new);
    crate::transform_conformance!(nested_chain, || Chain::new()
        .then(Identity)
        .then(Chain::new().then(Masked::new(Identity, |_| true))));
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, Tensor};

    /// Adds its calls so far to every element.
    #[derive(Default)]
    struct Count(u64);

    impl GradientTransform for Count {
        fn name(&self) -> &str {
            "count"
        }
        fn apply(&mut self, grads: Tree, _context: &Context<'_>) -> Result<Update> {
            self.0 += 1;
            let ones = grads.ones_like();
            Ok(Update::Apply(grads.axpy(self.0 as f64, &ones)?))
        }
        fn state(&self) -> State {
            State::new().with("calls", self.0)
        }
        fn load_state(&mut self, mut state: State) -> Result<()> {
            let calls = state.take("calls")?;
            state.finish()?;
            self.0 = calls;
            Ok(())
        }
    }

    struct Scale(f64);

    impl GradientTransform for Scale {
        fn name(&self) -> &str {
            "scale"
        }
        fn apply(&mut self, grads: Tree, _context: &Context<'_>) -> Result<Update> {
            Ok(match self.0 {
                0.0 => Update::Skip { why: "zero".into() },
                f64::INFINITY => Update::Apply(Tree::empty()),
                factor => Update::Apply(grads.scale(factor)),
            })
        }
    }

    fn tree(x: f32) -> Tree {
        let x = Tensor::<1>::from_data([x], &Device::flex());
        Tree::empty().push("x", x).unwrap()
    }

    fn value(chain: &mut Chain, x: f32) -> f64 {
        match chain.apply(tree(x), &Context::new(0)).unwrap() {
            Update::Apply(tree) => tree.sum().value(),
            Update::Skip { .. } => f64::NAN,
        }
    }

    #[test]
    fn transforms_run_in_order_and_stop_at_a_skip() {
        let mut chain = Chain::new().then(Scale(2.0)).then(Count::default());
        assert_eq!((value(&mut chain, 3.0), value(&mut chain, 3.0)), (7.0, 8.0));
        let mut chain = Chain::new().then(Scale(0.0)).then(Count::default());
        assert!(value(&mut chain, 1.0).is_nan());
        assert_eq!(chain.transforms[1].state(), State::new().with("calls", 0u64));
        assert_eq!(format!("{chain:?}"), r#"Chain { transforms: ["scale", "count"], step: 0 }"#);
    }

    #[test]
    fn a_transform_that_loses_leaves_is_named() {
        let mut chain = Chain::new().then(Scale(f64::INFINITY));
        let error = chain.apply(tree(1.0), &Context::new(0)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "transform `scale` failed: trees differ at leaf 0: `x` on the left, nothing on the right"
        );
    }

    #[test]
    fn a_state_of_another_chain_changes_nothing() {
        let mut chain = Chain::new().then(Count(5)).then(Count(6));
        let state = chain.state();
        let other = Chain::new().then(Count(1)).then(Scale(1.0)).state();
        let error = chain.load_state(other).unwrap_err().to_string();
        assert!(error.contains("count (number 1)") && error.contains("`calls`"), "{error}");
        assert_eq!(chain.state(), state);
        let longer = state.clone().with_nested("2", Count(1).state());
        assert!(chain.load_state(longer).is_err());
        let mut fresh = Chain::new().then(Count(0)).then(Count(0));
        fresh.load_state(state.clone()).unwrap();
        assert_eq!(fresh.state(), state);
    }
}
