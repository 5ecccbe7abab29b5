//! Adversarial examples for [Burn](burn): the parts that attacks and certificates are made of.
//!
//! | to | take |
//! |---|---|
//! | say what an adversary may change | [`Threat`], [`Norm`] |
//! | bring inputs back to what is allowed, exactly | [`Threat::project`] |
//! | measure how near an example is to being misclassified, whatever the scale of the logits | [`dlr_loss`], [`dlr_loss_targeted`] |
//! | turn counts under noise into a certified radius | [`smoothing_certificate`] |
//!
//! Attacks, robust training and bounds through a network are not here yet.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod attack;
mod averaged;
mod classifier;
#[cfg(test)]
mod digits;
mod dlr;
pub mod engine;
mod error;
pub mod evaluation;
mod goal;
mod loss;
mod projection;
mod smoothing;
mod threat;
pub mod training;

pub use attack::{
    Apgd, ApgdL1, Attack, AutoAttack, AutoAttackReport, Ddn, DeepFool, Fab, Fgsm, Flag, Fmn, Pgd, Setting, Square,
    Stage, Walk,
};
pub use averaged::Averaged;
pub use classifier::{Classifier, Pulled, Recorded, Taped};
pub use dlr::{dlr_loss, dlr_loss_targeted};
pub use engine::{Answer, Attacked, Case, Engine, Goals, Oracle, Outcome, Progress, Run, Search, Status};
pub use error::{Error, Result};
pub use evaluation::{Evaluation, NormCurve, RobustnessReport, Share, UnderAttack};
pub use goal::Goal;
pub use loss::{Loss, LossFunction, Objective};
pub use smoothing::{Certificate, smoothing_certificate};
pub use threat::{Norm, Threat};
