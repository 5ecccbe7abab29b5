//! Weights from the losses: one backward pass, whatever the number of tasks.
//!
//! A [`LossWeighting`] gives a weight for every loss such that `Σ wᵢ∇Lᵢ` is the gradient to step along; multiply the
//! losses by
//! them (as constants), add and go backward once.
//!
//! | method | weights | state | needs |
//! |---|---|---|---|
//! | [`Uniform`] | 1 | | |
//! | [`Rlw`] | random | stream | |
//! | [`Uncertainty`] | `½e^(−s)`, `s` learned | `s`, Adam | |
//! | [`UwSo`] | softmax of `1/L` | | losses above 0 |
//! | [`Dwa`] | by how fast losses fell | two averages | losses above 0 |
//! | [`Gls`] | gradient of the geometric mean | | losses above 0 |
//! | [`ImtlL`] | `e^s`, `s` learned | `s`, Adam | |
//! | [`GradNorm`] | equal training rates | weights, Adam | gradient norms |
//! | [`Famo`] | equal rates of decrease | logits, Adam | the losses after the step |
//! | [`Stch`] | smooth maximum | | |
//! | [`ExcessMtl`] | excess risk | squares of gradients | gradients (an [`Aggregator`](crate::Aggregator)) |
//!
//! Methods that learn numbers of their own update them by themselves, by Adam (D. P. Kingma and J. Ba, 2015,
//! arXiv:1412.6980) on the host: nothing has to be handed to the model's optimizer. A loss that is not finite gets the
//! weight
//! 0, and what is known of its task stays as it is.

mod adam;
mod dwa;
mod excess_mtl;
mod famo;
mod gls;
mod gradnorm;
mod imtl_l;
mod rlw;
mod stch;
mod uncertainty;
mod uniform;
mod uw_so;

pub use dwa::Dwa;
pub use excess_mtl::ExcessMtl;
pub use famo::Famo;
pub use gls::Gls;
pub use gradnorm::GradNorm;
pub use imtl_l::ImtlL;
pub use rlw::Rlw;
pub use stch::Stch;
pub use uncertainty::Uncertainty;
pub use uniform::Uniform;
pub use uw_so::UwSo;

use crate::{Error, Method, Result};

/// What a step tells about the tasks.
#[derive(Clone, Copy, Debug)]
pub struct Losses<'a> {
    values: &'a [f64],
    gradient_norms: Option<&'a [f64]>,
}

impl<'a> Losses<'a> {
    /// The losses, one a task.
    pub fn new(values: &'a [f64]) -> Self {
        Self { values, gradient_norms: None }
    }

    /// The same with the norm of each loss's gradient at the last shared weights.
    pub fn with_gradient_norms(self, norms: &'a [f64]) -> Self {
        Self { gradient_norms: Some(norms), ..self }
    }

    /// The losses as given.
    pub fn values(&self) -> &'a [f64] {
        self.values
    }

    /// The norms, if they were given.
    pub fn gradient_norms(&self) -> Option<&'a [f64]> {
        self.gradient_norms
    }

    /// The finite losses with their tasks.
    fn finite(&self) -> Vec<(usize, f64)> {
        self.values.iter().copied().enumerate().filter(|(_, loss)| loss.is_finite()).collect()
    }

    /// The finite losses, all of which have to be above 0.
    fn positive(&self, method: &'static str) -> Result<Vec<(usize, f64)>> {
        let finite = self.finite();
        match finite.iter().find(|(_, loss)| *loss <= 0.0) {
            Some((task, value)) => Err(Error::Loss { method, task: *task, value: *value, bound: "a loss above 0" }),
            None => Ok(finite),
        }
    }

    /// Weights of tasks as weights of all: 0 for the others.
    fn spread(&self, weights: impl IntoIterator<Item = (usize, f64)>) -> Vec<f64> {
        let mut all = vec![0.0; self.values.len()];
        weights.into_iter().for_each(|(task, weight)| all[task] = weight);
        all
    }
}

/// Weights of losses.
///
/// ```
/// use multitask::weighting::{Losses, LossWeighting, Stch};
///
/// let mut stch = Stch::new(0.1)?;
/// let w = stch.weights(&Losses::new(&[0.5, 1.5]))?;
/// // (w[0]·loss_0 + w[1]·loss_1).backward()
/// assert!(w[1] > 0.49, "nearly all of the weight is on the larger loss");
/// # Ok::<(), multitask::Error>(())
/// ```
pub trait LossWeighting: Method {
    /// A weight for every loss of this step, 0 for those that are not finite.
    ///
    /// # Errors
    /// [`Error::NoTasks`] without losses, [`Error::Tasks`] if their number changes, [`Error::Loss`] for a loss outside
    /// the
    /// method's range. The state is then as it was.
    fn weights(&mut self, losses: &Losses<'_>) -> Result<Vec<f64>>;

    /// The losses of the same batch after the step, for methods that learn from them; others do nothing.
    ///
    /// # Errors
    /// As [`weights`](Self::weights).
    fn observe(&mut self, after: &[f64]) -> Result<()> {
        let _ = after;
        Ok(())
    }
}

impl Method for Box<dyn LossWeighting> {
    fn name(&self) -> &'static str {
        (**self).name()
    }
    fn state(&self) -> core_tensor::transform::State {
        (**self).state()
    }
    fn load_state(&mut self, state: core_tensor::transform::State) -> Result<()> {
        (**self).load_state(state)
    }
}

impl LossWeighting for Box<dyn LossWeighting> {
    fn weights(&mut self, losses: &Losses<'_>) -> Result<Vec<f64>> {
        (**self).weights(losses)
    }
    fn observe(&mut self, after: &[f64]) -> Result<()> {
        (**self).observe(after)
    }
}

/// That there are tasks, and as many as before.
fn check_tasks(method: &'static str, before: Option<usize>, now: usize) -> Result<()> {
    match before {
        _ if now == 0 => Err(Error::NoTasks),
        Some(expected) if expected != now => Err(Error::Tasks { method, what: "the state", expected, actual: now }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod laws {
    //! What every weighting promises.

    use super::*;
    use core_tensor::testing::property;
    use core_tensor::transform::State;
    use proptest::collection::vec;
    use proptest::prelude::*;

    macro_rules! laws {
        ($($name:ident: $make:expr;)*) => {$(
            #[test]
            fn $name() {
                let make = || -> Box<dyn LossWeighting> { Box::new($make) };
                weights_are_finite_and_not_negative(&make);
                losses_that_are_not_finite_are_isolated(&make);
                resumes_from_a_file(&make);
                refuses_what_is_not_its_own(&make);
            }
        )*};
    }

    laws! {
        uniform: Uniform::new();
        rlw: Rlw::new(3);
        uncertainty: Uncertainty::new(0.01).unwrap();
        uw_so: UwSo::new(1.0).unwrap();
        dwa: Dwa::new(2.0).unwrap();
        dwa_epochs: Dwa::new(2.0).unwrap().window(2).unwrap();
        gls: Gls::new();
        imtl_l: ImtlL::new(0.01).unwrap();
        gradnorm: GradNorm::new(1.5, 0.01).unwrap();
        famo: Famo::new();
        famo_deferred: Famo::new().deferred();
        stch: Stch::new(0.5).unwrap();
    }

    type Make<'a> = &'a dyn Fn() -> Box<dyn LossWeighting>;

    fn losses() -> impl Strategy<Value = Vec<Vec<f64>>> {
        vec(vec(-6..=6i32, 3), 4).prop_flat_map(|steps| {
            let step = |exponents: Vec<i32>| {
                exponents.into_iter().map(|e| (1.0..10.0f64).prop_map(move |x| x * 10f64.powi(e)))
            };
            steps.into_iter().map(|step_| step(step_).collect::<Vec<_>>()).collect::<Vec<_>>()
        })
    }

    fn step(method: &mut Box<dyn LossWeighting>, values: &[f64]) -> Vec<f64> {
        let norms: Vec<f64> = values.iter().map(|x| x.abs().sqrt()).collect();
        let weights = method.weights(&Losses::new(values).with_gradient_norms(&norms)).unwrap();
        method.observe(&values.iter().map(|x| 0.9 * x).collect::<Vec<_>>()).unwrap();
        weights
    }

    fn weights_are_finite_and_not_negative(make: Make<'_>) {
        property(40, losses(), |steps| {
            let mut method = make();
            for values in steps {
                let weights = step(&mut method, &values);
                assert_eq!(weights.len(), 3);
                assert!(weights.iter().all(|w| w.is_finite() && *w >= 0.0), "{weights:?}");
                assert!(weights.iter().any(|w| *w > 0.0));
            }
        });
    }

    fn losses_that_are_not_finite_are_isolated(make: Make<'_>) {
        property(20, losses(), |steps| {
            let mut method = make();
            step(&mut method, &steps[0]);
            for bad in [f64::NAN, f64::INFINITY] {
                let weights = step(&mut method, &[steps[1][0], bad, steps[1][2]]);
                assert!(weights[1] == 0.0 && weights.iter().all(|w| w.is_finite()), "{weights:?}");
                assert_eq!(step(&mut method, &[bad; 3]), [0.0; 3]);
            }
            let weights = step(&mut method, &steps[2]);
            assert!(weights.iter().all(|w| w.is_finite()) && weights[1] >= 0.0);
        });
    }

    fn resumes_from_a_file(make: Make<'_>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.bpk");
        property(12, losses(), |steps| {
            let mut old = make();
            steps[..2].iter().for_each(|values| drop(step(&mut old, values)));
            // Between a step and what is seen after it, too.
            let norms = [1.0; 3];
            old.weights(&Losses::new(&steps[2]).with_gradient_norms(&norms)).unwrap();
            old.state().save(&path).unwrap();
            let loaded = State::load(&path, &core_tensor::testing::host_devices()[0]).unwrap();
            assert_eq!(loaded, old.state());
            let mut resumed = make();
            resumed.load_state(loaded).unwrap();
            for method in [&mut old, &mut resumed] {
                method.observe(&steps[0]).unwrap();
            }
            let (one, two) = (step(&mut old, &steps[3]), step(&mut resumed, &steps[3]));
            assert!(one.iter().zip(&two).all(|(a, b)| a.to_bits() == b.to_bits()));
            assert_eq!(old.state(), resumed.state());
        });
    }

    fn refuses_what_is_not_its_own(make: Make<'_>) {
        let mut method = make();
        assert!(matches!(method.weights(&Losses::new(&[])), Err(Error::NoTasks)));
        let before = method.state();
        assert!(method.load_state(before.clone().with("an entry of no one", 1u64)).is_err());
        assert_eq!(method.state(), before);
        step(&mut method, &[1.0, 2.0, 3.0]);
        if method.state().iter().any(|(name, _)| name != "random") {
            let before = method.state();
            let two = method.weights(&Losses::new(&[1.0, 2.0]).with_gradient_norms(&[1.0, 1.0]));
            assert!(matches!(two, Err(Error::Tasks { expected: 3, actual: 2, .. })), "{two:?}");
            assert_eq!(method.state(), before);
        }
    }
}
