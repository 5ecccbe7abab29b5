//! Adversarial examples for [Burn](burn): the parts that attacks and certificates are made of.
//!
//! | to | take |
//! |---|---|
//! | say what an adversary may change | [`Threat`], [`Norm`] |
//! | bring inputs back to what is allowed, exactly | [`Threat::project`] |
//! | measure how near an example is to being misclassified, whatever the scale of the logits | [`dlr_loss`], [`dlr_loss_targeted`] |
//! | turn counts under noise into a certified radius | [`smoothing_certificate`] |
//! | prove that no allowed perturbation changes a prediction | [`Verifier`], [`Smoothing`] |
//! | train a network that has such proofs | [`CertifiedTraining`] |
//!
//! Attacks and robust training are not here yet.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod certify;
mod dlr;
mod error;
mod projection;
mod smoothing;
mod threat;

pub use certify::{
    Bounds, CertifiedLoss, CertifiedTraining, Margins, Method, RampUp, Rounding, Smoothed, Smoothing, Stage, Verifier,
};
pub use dlr::{dlr_loss, dlr_loss_targeted};
pub use error::{Error, Result};
pub use smoothing::{Certificate, smoothing_certificate};
pub use threat::{Norm, Threat};
