//! Attacks on text, one file each.

mod beam_attack;
mod deep_word_bug;
mod genetic;
mod homoglyphs;
mod hot_flip;
mod pwws;
mod recipe;
mod text_fooler;
mod universal_trigger;

pub use beam_attack::BeamAttack;
pub use deep_word_bug::DeepWordBug;
pub use genetic::GeneticAttack;
pub use homoglyphs::Homoglyphs;
pub use hot_flip::HotFlip;
pub use pwws::Pwws;
pub use recipe::Recipe;
pub use text_fooler::TextFooler;
pub use universal_trigger::{Trigger, TriggerReport, UniversalTrigger};

use super::engine::{TextCase, TextEngine, TextOracle};
use super::goal::TextGoal;
use super::outcome::TextAttacked;
use super::{TextClassifier, TextGradients};
use crate::attack::Walk;
use crate::error::Result;

/// What an attack is asked to do, before any sentence is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextSetting {
    /// Number of classes of the model.
    pub classes: usize,
    /// Whether a goal has a target.
    pub targeted: bool,
    /// Whether the model gives gradients.
    pub gradients: bool,
}

/// A way to look for adversarial sentences, written for one sentence at a time.
///
/// An attack never decides about success: it only asks, and the [engine](TextEngine) keeps the best of the candidates asked
/// about. Most attacks are a [`Recipe`]; write one of your own where the search is another.
///
/// ```
/// use adversarial::Walk;
/// use adversarial::text::{TextAttack, TextCase, TextOracle, TextSetting};
///
/// /// Shouts, one word after the other.
/// struct Shouting;
///
/// impl TextAttack for Shouting {
///     fn name(&self) -> String {
///         "shouting".into()
///     }
///
///     fn check(&self, _setting: &TextSetting) -> adversarial::Result<()> {
///         Ok(())
///     }
///
///     fn walk<'a>(&'a self, case: TextCase<'a>, oracle: TextOracle) -> Walk<'a> {
///         Box::pin(async move {
///             let mut sentence = case.sentence().clone();
///             for word in 0..sentence.len() {
///                 sentence = sentence.replace_exactly(word, &sentence.word(word).to_uppercase());
///                 oracle.candidates(vec![sentence.clone()]).await;
///             }
///         })
///     }
/// }
/// ```
pub trait TextAttack: Send + Sync {
    /// A short name.
    fn name(&self) -> String;

    /// Whether it needs the gradients of the model.
    fn needs_gradients(&self) -> bool {
        false
    }

    /// Refuses what the attack cannot do, and settings of its own outside of their range.
    ///
    /// # Errors
    /// Whatever it refuses.
    fn check(&self, setting: &TextSetting) -> Result<()>;

    /// The attack on one sentence. It ends when there is nothing left to ask; the engine drops it earlier once the sentence is
    /// done with.
    fn walk<'a>(&'a self, case: TextCase<'a>, oracle: TextOracle) -> Walk<'a>;

    /// Attacks every sentence, with the default [`TextEngine`].
    ///
    /// # Errors
    /// As [`TextEngine::run`].
    fn attack<S: AsRef<str> + Sync>(
        &self,
        model: &dyn TextClassifier,
        texts: &[S],
        goals: &[TextGoal],
    ) -> Result<TextAttacked>
    where
        Self: Sized,
    {
        TextEngine::new().run(self, model, texts, goals)
    }

    /// The same with the gradients of the model.
    ///
    /// # Errors
    /// As [`TextEngine::run_with_gradients`].
    fn attack_with_gradients<S: AsRef<str> + Sync>(
        &self,
        model: &dyn TextGradients,
        texts: &[S],
        goals: &[TextGoal],
    ) -> Result<TextAttacked>
    where
        Self: Sized,
    {
        TextEngine::new().run_with_gradients(self, model, texts, goals)
    }
}
