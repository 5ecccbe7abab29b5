//! Learning about the data: which labels are wrong, what an example should weigh, which few examples would do.
//!
//! | you have | take | outer variable |
//! |---|---|---|
//! | a training set with wrong labels, and a small clean one | [`cleaning`] | a weight for each example |
//! | the same, with a training set too large for that, or one that streams | [`MetaWeightNet`] | a small network from loss to weight |
//! | a training set that should become a handful of examples | [`Distillation`] | the examples themselves, and the learning rate |

pub mod cleaning;
mod distillation;
pub mod meta_weight_net;

pub use distillation::Distillation;
pub use meta_weight_net::MetaWeightNet;

#[cfg(test)]
mod tests;
