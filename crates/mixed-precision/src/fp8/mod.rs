//! FP8 training: which tensor is scaled by what before it becomes 8 bits, forward and backward.

mod amax;
mod conv2d;
mod linear;
mod product;
mod recipe;
mod tiles;

#[cfg(test)]
mod laws;

pub use amax::{AmaxHistory, Scaling};
pub use conv2d::Fp8Conv2d;
pub use linear::Fp8Linear;
pub use recipe::{AmaxChoice, Recipe};
