//! The sentences that may be tried.

use std::collections::HashSet;
use std::sync::Arc;

use crate::text::Sentence;
use crate::text::constraint::Constraint;
use crate::text::engine::TextCase;
use crate::text::transformation::Transformation;

/// The sentences that a case's own may be changed to: what the transformations make of it and the constraints let pass.
pub struct Space<'s> {
    /// The sentence and what is wanted of it.
    pub case: &'s TextCase<'s>,
    /// What may become of a word.
    pub transformations: &'s [Arc<dyn Transformation>],
    /// What has to be kept.
    pub constraints: &'s [Arc<dyn Constraint>],
    /// A word that stands for an unknown one, in questions that are no results.
    pub unknown: &'s str,
}

impl Space<'_> {
    /// Whether a word of a sentence may be changed.
    pub fn may_change(&self, sentence: &Sentence, word: usize) -> bool {
        self.constraints.iter().all(|constraint| constraint.may_change(sentence, word))
    }

    /// The words of a sentence that may be changed.
    pub fn changeable(&self, sentence: &Sentence) -> Vec<usize> {
        (0..sentence.len()).filter(|word| self.may_change(sentence, *word)).collect()
    }

    /// Whether a sentence is allowed.
    pub fn allows(&self, sentence: &Sentence) -> bool {
        self.constraints.iter().all(|constraint| constraint.allows(sentence))
    }

    /// What may become of a word that may be changed: sentences that are all different, allowed, and not this one.
    ///
    /// They depend on the seed, the sentence and the word, not on what was asked for before.
    pub fn candidates(&self, sentence: &Sentence, word: usize) -> Vec<Sentence> {
        let label = [&word.to_le_bytes(), sentence.word(word).as_bytes()].concat();
        let random = self.case.random().fork(label);
        let mut seen = HashSet::new();
        let mut candidates = Vec::new();
        for (i, transformation) in self.transformations.iter().enumerate() {
            let mut random = random.fork(i.to_le_bytes());
            for candidate in transformation.candidates(sentence, word, &mut random) {
                if candidate != *sentence && !seen.contains(&candidate) && self.allows(&candidate) {
                    seen.insert(candidate.clone());
                    candidates.push(candidate);
                }
            }
        }
        candidates
    }
}
