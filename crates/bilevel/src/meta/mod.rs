//! Meta-learning: one start (and rates) for many tasks, from a few steps on each.
//!
//! A task is a pair of batches, support for the inner objective and query for the outer one, of a single recorded
//! [`Problem`](crate::Problem), so all tasks share one recording.
//!
//! | method | here |
//! |---|---|
//! | MAML | [`Maml`] with `x` the empty tree, descending along [`MetaGradient::start`] |
//! | FOMAML | [`Maml::first_order`] |
//! | MAML++ per-step rates | [`Maml`] with an update whose rate is [`Setting::per_step`](crate::update::Setting::per_step) of `x` |
//! | Meta-SGD | [`Maml`] with [`Setting::per_element`](crate::update::Setting::per_element) |
//! | ANIL | [`Maml`] with the body as `x` and the head as `z`: only the head is adapted |
//! | Reptile | [`Reptile`] |
//! | iMAML | [`proximal`] with [`Implicit`](crate::Implicit) |
//!
//! Tasks come from [`Sinusoids`], from [`Episodes`] (N-way K-shot on any labelled set), or from [`Omniglot`].

mod maml;
mod omniglot;
mod proximal;
mod reptile;
mod tasks;

pub use maml::{Maml, MetaGradient};
pub use omniglot::Omniglot;
pub use proximal::proximal;
pub use reptile::Reptile;
pub use tasks::{Episode, Episodes, Sinusoids};

#[cfg(test)]
mod tests;
