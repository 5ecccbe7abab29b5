//! No word is changed twice.

use super::Constraint;
use crate::text::Sentence;

/// A word that has been changed stays as it is, so that changes do not add up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChangeOnce;

impl Constraint for ChangeOnce {
    fn name(&self) -> String {
        "change once".into()
    }

    fn may_change(&self, sentence: &Sentence, word: usize) -> bool {
        !sentence.is_changed(word)
    }

    /// Always: what was done before a sentence came to be cannot be seen in it.
    fn allows(&self, _sentence: &Sentence) -> bool {
        true
    }
}
