//! Adversarial learning for [Burn](burn): attacks, robust training, certificates, evaluation.
//!
//! | to | take |
//! |---|---|
//! | say what an adversary may change, and bring inputs back to it exactly | [`Threat`], [`Norm`] |
//! | make a model something to attack | [`Recorded`], [`Taped`], your own [`Classifier`] |
//! | report a robust accuracy | [`AutoAttack`], [`Evaluation`] |
//! | attack within a radius | [`Apgd`], [`ApgdL1`], [`Pgd`], [`Fgsm`], [`MiFgsm`] |
//! | find the smallest perturbation | [`Fmn`], [`Fab`], [`Ddn`], [`DeepFool`], [`CarliniWagner`], [`Ead`], [`SigmaZero`] |
//! | attack without gradients | [`Square`], [`Spsa`], [`Nes`], [`HopSkipJump`] |
//! | fool on all inputs with one perturbation | [`Universal`] |
//! | write an attack of your own | [`Attack`], [`engine`] |
//! | attack classifiers of text | [`text`] |
//! | make a captioner say something else | [`caption`] |
//! | train a model that holds | [`training`], [`CertifiedTraining`] |
//! | prove that it does | [`Verifier`], [`Smoothing`] |

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod adam;
pub mod attack;
mod averaged;
pub mod caption;
mod certify;
mod classifier;
#[cfg(test)]
mod digits;
mod dlr;
pub mod engine;
mod error;
pub mod evaluation;
mod goal;
mod loss;
pub mod physical;
mod projection;
mod smoothing;
pub mod text;
mod threat;
pub mod training;

pub use attack::{
    Apgd, ApgdL1, Attack, AttackStage, AutoAttack, AutoAttackReport, BoundaryAttack, CarliniWagner, Ddn, DeepFool, Ead,
    Fab, Fgsm, Flag, Fmn, Fooling, HopSkipJump, MiFgsm, Nes, Pgd, Setting, SigmaZero, Spsa, Square, Universal,
    UniversalPerturbation, Walk,
};
pub use averaged::Averaged;
pub use certify::{
    Bounds, CertifiedLoss, CertifiedTraining, Margins, Method, RampUp, Rounding, Smoothed, Smoothing, Stage, Verifier,
};
pub use classifier::{Classifier, Pulled, Recorded, Taped};
pub use dlr::{dlr_loss, dlr_loss_targeted};
pub use engine::{Answer, Attacked, Case, Engine, Goals, Oracle, Outcome, Progress, Run, Search, Status};
pub use error::{Error, Result};
pub use evaluation::{Evaluation, NormCurve, RobustnessReport, Share, UnderAttack};
pub use goal::Goal;
pub use loss::{Loss, LossFunction, Objective};
pub use smoothing::{Certificate, smoothing_certificate};
pub use threat::{Norm, Threat};
