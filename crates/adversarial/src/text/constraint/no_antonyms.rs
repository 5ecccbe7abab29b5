//! No word becomes its opposite.

use std::sync::Arc;

use super::Constraint;
use crate::text::{Sentence, SynonymList};

/// A word is not replaced by one that a list has beside it: give it pairs of antonyms, where candidates come from word vectors, which are
/// near for opposites too.
///
/// ```
/// use std::sync::Arc;
/// use adversarial::text::{Constraint, NoAntonyms, Sentence, SynonymList};
///
/// let constraint = NoAntonyms::new(Arc::new(SynonymList::new([("good", "bad")])));
/// let sentence = Sentence::new("Good film");
/// assert!(constraint.allows(&sentence.replace(0, "fine")) && !constraint.allows(&sentence.replace(0, "bad")));
/// ```
#[derive(Clone, Debug)]
pub struct NoAntonyms {
    antonyms: Arc<SynonymList>,
}

impl NoAntonyms {
    /// By a list of pairs of antonyms.
    pub fn new(antonyms: Arc<SynonymList>) -> Self {
        Self { antonyms }
    }
}

impl Constraint for NoAntonyms {
    fn name(&self) -> String {
        "no antonyms".into()
    }

    fn allows(&self, sentence: &Sentence) -> bool {
        sentence.changed().all(|word| !self.antonyms.contains(sentence.original_word(word), sentence.word(word)))
    }
}
