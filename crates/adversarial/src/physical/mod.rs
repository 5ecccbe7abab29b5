//! Attacks that leave the screen: transformations of images, patches and stickers that survive them.
//!
//! | to | take |
//! |---|---|
//! | turn, warp, light and blur images, with exact gradients through it | [`ImageMap`], [`Transforms`] |
//! | attack or evaluate a model under all of that | [`Transformed`] |
//! | print one patch that misleads on any picture, on cloth too | [`AdversarialPatch`] |
//! | put stickers on one object, or a print on a T-shirt | [`Rp2`], over [`Photograph`]s |
//! | say how a plane lies in a picture, from distance and angle | [`Viewpoint`], [`Homography`], [`ImageMap::printed`] |

mod eot;
mod homography;
mod patch;
mod photograph;
mod rp2;
#[cfg(test)]
pub(crate) mod samples;
mod sparse;
mod transform;

pub use eot::Transformed;
pub use homography::{Homography, Viewpoint};
pub use patch::{AdversarialPatch, Patch, PatchReport, PatchShape, Placement};
pub use photograph::{Photograph, Photographs, Print};
pub use rp2::{PrintableColours, Rp2, Stickers};
pub use transform::{ImageMap, Transform, Transforms};
