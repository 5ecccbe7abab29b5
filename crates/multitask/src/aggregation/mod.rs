//! Aggregators, one a file.

mod aligned_mtl;
mod cagrad;
mod config;
mod constant;
mod crmogm;
mod dualproj;
mod fairgrad;
mod graddrop;
mod gradvac;
mod imtl_g;
mod krum;
mod mean;
mod mgda;
mod moco;
mod modo;
mod nash_mtl;
mod normalise;
mod pcgrad;
mod projection;
mod random;
mod samples;
mod sdmgrad;
mod sum;
mod trimmed_mean;
mod upgrad;

pub use aligned_mtl::{AlignedMtl, AlignedScale};
pub use cagrad::CaGrad;
pub use config::ConFig;
pub use constant::Constant;
pub use crmogm::CrMogm;
pub use dualproj::DualProj;
pub use fairgrad::FairGrad;
pub use graddrop::GradDrop;
pub use gradvac::GradVac;
pub use imtl_g::ImtlG;
pub use krum::{Krum, KrumDistance};
pub use mean::Mean;
pub use mgda::Mgda;
pub use moco::MoCo;
pub use modo::MoDo;
pub use nash_mtl::NashMtl;
pub use pcgrad::PcGrad;
pub use random::RandomWeights;
pub use sdmgrad::SdmGrad;
pub use sum::Sum;
pub use trimmed_mean::TrimmedMean;
pub use upgrad::UpGrad;

use crate::{Gramian, Result};

/// The preferences of the finite rows; by default one over their number.
fn preference(method: &'static str, preference: &Option<Vec<f64>>, gramian: &Gramian) -> Result<Vec<f64>> {
    match preference {
        Some(all) => gramian.kept(method, "the preference", all),
        None => Ok(vec![1.0 / gramian.size() as f64; gramian.size()]),
    }
}
