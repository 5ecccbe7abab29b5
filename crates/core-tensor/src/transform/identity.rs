//! The transform that changes nothing.

use super::{Context, GradientTransform, Update};
use crate::{Result, Tree};

/// Passes the gradient on as it is: the neutral element of a [`Chain`](super::Chain), for code that
/// needs a transform where none is wanted. No cost, no state.
#[derive(Clone, Copy, Debug, Default)]
pub struct Identity;

impl GradientTransform for Identity {
    fn name(&self) -> &str {
        "identity"
    }

    fn apply(&mut self, grads: Tree, _context: &Context<'_>) -> Result<Update> {
        Ok(Update::Apply(grads))
    }
}

#[cfg(test)]
mod conformance {
    use super::*;
    crate::transform_conformance!(identity, || Identity);
}
