//! How candidates are tried.

mod beam;
mod genetic;
mod greedy;
mod importance;
mod saliency;
mod space;

pub use beam::Beam;
pub use genetic::Evolution;
pub use greedy::Greedy;
pub use importance::Importance;
pub use saliency::WeightedSaliency;
pub use space::Space;

use super::engine::{Reply, TextOracle};
use crate::attack::Walk;
use crate::error::Result;

/// How candidates are tried: which words first, which candidates go on.
///
/// A search asks about candidates until there are none left; the engine ends it at a success.
pub trait TextSearch: Send + Sync {
    /// A short name.
    fn name(&self) -> String;

    /// Refuses settings outside of their range.
    ///
    /// # Errors
    /// [`Error::Parameter`](crate::Error::Parameter).
    fn check(&self) -> Result<()> {
        Ok(())
    }

    /// Whether it needs the gradients of the model.
    fn needs_gradients(&self) -> bool {
        false
    }

    /// The search on one sentence.
    fn search<'s>(&'s self, space: &'s Space<'s>, oracle: &'s TextOracle) -> Walk<'s>;
}

/// The place of the highest score, the first of several.
fn best(replies: &[Reply]) -> Option<usize> {
    (0..replies.len()).reduce(|best, i| if replies[i].score > replies[best].score { i } else { best })
}

/// Places by falling value, equal ones in their order.
fn by_falling(values: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*b].total_cmp(&values[*a]));
    order
}
