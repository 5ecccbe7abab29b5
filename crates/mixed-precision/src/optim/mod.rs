//! Optimizer state of few bits, and weights of low precision that still learn from small updates.

mod dynamic8;
mod low_bit;
mod low_precision_weights;
mod remainder;
mod rules;
mod state_format;
mod weight_memory;

pub use dynamic8::dynamic_map;
pub use low_bit::{LowBit, LowBitMoments, state_bytes};
pub use low_precision_weights::{LowPrecisionState, LowPrecisionWeights};
pub use remainder::{join16, split16};
pub use rules::{AdamRule, AdamStep, LionRule, LionStep, LowBitState, Number, Rule, SgdRule, SgdStep};
pub use state_format::{BlockState, StateFormat};
pub use weight_memory::{WeightMemory, WeightUpdate};
