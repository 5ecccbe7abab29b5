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
mod classifier;
mod dlr;
pub mod engine;
mod error;
mod goal;
mod loss;
pub mod physical;
mod projection;
mod smoothing;
mod threat;

pub use attack::{Attack, BoundaryAttack, Fgsm, Fooling, HopSkipJump, Nes, Pgd, Setting, Spsa, Universal, UniversalPerturbation, Walk};
pub use classifier::{Classifier, Pulled, Recorded, Taped};
pub use dlr::{dlr_loss, dlr_loss_targeted};
pub use engine::{Answer, Attacked, Case, Engine, Goals, Oracle, Outcome, Progress, Run, Search, Status};
pub use error::{Error, Result};
pub use goal::Goal;
pub use loss::{Loss, LossFunction, Objective};
pub use smoothing::{Certificate, smoothing_certificate};
pub use threat::{Norm, Threat};
