//! Attacks, one file each.

mod apgd;
mod apgd_l1;
mod auto_attack;
pub(crate) mod batch;
#[cfg(test)]
mod black_box_laws;
mod boundary;
mod carlini_wagner;
pub(crate) mod check;
mod ddn;
mod deepfool;
mod ead;
pub(crate) mod estimate;
mod fab;
mod fgsm;
mod fmn;
pub(crate) mod geometry;
mod hop_skip_jump;
#[cfg(test)]
mod laws;
pub(crate) mod minimum;
mod momentum;
mod nes;
mod pgd;
mod runs;
mod sigma_zero;
mod spsa;
mod square;
mod start;
mod universal;

use std::pin::Pin;

use burn::tensor::Tensor;

pub use apgd::Apgd;
pub use apgd_l1::ApgdL1;
pub use auto_attack::{AttackStage, AutoAttack, AutoAttackReport, Flag};
pub use boundary::BoundaryAttack;
pub use carlini_wagner::CarliniWagner;
pub use ddn::Ddn;
pub use deepfool::DeepFool;
pub use ead::Ead;
pub use fab::Fab;
pub use fgsm::Fgsm;
pub use fmn::Fmn;
pub use hop_skip_jump::HopSkipJump;
pub use momentum::MiFgsm;
pub use nes::Nes;
pub use pgd::Pgd;
pub use sigma_zero::SigmaZero;
pub use spsa::Spsa;
pub use square::Square;
pub use universal::{Fooling, Universal, UniversalPerturbation};

use crate::classifier::Classifier;
use crate::engine::{Attacked, Case, Engine, Goals, Oracle, Run, Search};
use crate::error::Result;
use crate::threat::{Norm, Threat};

/// A run on its way: what an `async` block of an attack is.
pub type Walk<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// What an attack is asked to do, before any example is looked at.
#[derive(Clone, Debug, PartialEq)]
pub struct Setting {
    /// The threat's norm.
    pub norm: Norm,
    /// What is looked for.
    pub search: Search,
    /// Number of classes of the model.
    pub classes: usize,
    /// An example's shape.
    pub shape: Vec<usize>,
    /// Whether a goal has a target.
    pub targeted: bool,
}

/// A way to look for adversarial examples, written for one example at a time.
///
/// An attack never decides about success: it only asks, and the [engine](Engine) keeps the best of the points asked about.
///
/// ```
/// use adversarial::{Attack, Case, Oracle, Result, Setting, Walk};
///
/// /// Tries the corners of the box in random order.
/// struct Corners(usize);
///
/// impl Attack for Corners {
///     fn name(&self) -> String {
///         "corners".into()
///     }
///
///     fn check(&self, _setting: &Setting) -> Result<()> {
///         Ok(())
///     }
///
///     fn walk(&self, case: Case, oracle: Oracle) -> Walk<'_> {
///         Box::pin(async move {
///             let mut random = case.random();
///             for _ in 0..self.0 {
///                 let mut x: Vec<f32> = case.x0().iter().map(|_| random.below(2) as f32).collect();
///                 case.project(&mut x);
///                 oracle.logits(&x).await;
///             }
///         })
///     }
/// }
/// ```
pub trait Attack: Send + Sync {
    /// A short name, with what sets it apart: `PGD-40`.
    fn name(&self) -> String;

    /// Refuses what the attack cannot do, and settings of its own outside of their range.
    ///
    /// # Errors
    /// Whatever it refuses.
    fn check(&self, setting: &Setting) -> Result<()>;

    /// The runs to make on an example; one, unless the attack has restarts or heads for several targets.
    fn runs(&self, case: &Case) -> Vec<Run> {
        let _ = case;
        vec![Run::default()]
    }

    /// One run. It ends when there is nothing left to ask; the engine drops it earlier once the example is done with.
    fn walk(&self, case: Case, oracle: Oracle) -> Walk<'_>;

    /// Looks for a success inside the threat for every example, with the default [`Engine`].
    ///
    /// # Errors
    /// As [`Engine::run`].
    fn attack<const D: usize>(
        &self,
        classifier: &dyn Classifier<D>,
        threat: Threat,
        inputs: Tensor<D>,
        goals: &Goals,
    ) -> Result<Attacked<D>>
    where
        Self: Sized,
    {
        Engine::new().run(self, classifier, threat, Search::First, inputs, goals)
    }

    /// Looks for the nearest success in the threat's norm and box, whatever its radius, with the default [`Engine`].
    ///
    /// # Errors
    /// As [`Engine::run`].
    fn nearest<const D: usize>(
        &self,
        classifier: &dyn Classifier<D>,
        threat: Threat,
        inputs: Tensor<D>,
        goals: &Goals,
    ) -> Result<Attacked<D>>
    where
        Self: Sized,
    {
        Engine::new().run(self, classifier, threat, Search::Nearest, inputs, goals)
    }
}
