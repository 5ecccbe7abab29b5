//! A word stays the part of speech it is.

use std::sync::Arc;

use super::Constraint;
use crate::text::Sentence;

/// A part of speech.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PartOfSpeech {
    /// `film`.
    Noun,
    /// `watch`.
    Verb,
    /// `good`.
    Adjective,
    /// `slowly`.
    Adverb,
}

/// The parts of speech that a word can be. None is known of a word outside of the tagger's reach.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Parts(u8);

impl Parts {
    /// None.
    pub const NONE: Self = Self(0);

    /// These and one more.
    #[must_use]
    pub fn with(self, part: PartOfSpeech) -> Self {
        Self(self.0 | 1 << part as u8)
    }

    /// Whether a part is among them.
    pub fn contains(self, part: PartOfSpeech) -> bool {
        self.0 & 1 << part as u8 != 0
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether both have a part in common.
    pub fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

/// Tells which parts of speech a word can be, by the word alone.
pub trait PartOfSpeechTagger: Send + Sync {
    /// The parts a word can be; none where it is not known.
    fn parts(&self, word: &str) -> Parts;
}

/// A changed word can be one of the parts of speech that the original word can be.
///
/// This looks at words, not at the sentence: a word that can be noun and verb is both, so more passes than with the tagger of a
/// paper, which reads the context. Words that the tagger knows nothing of are refused, unless
/// [`unknown`](Self::unknown) allows them.
#[derive(Clone)]
pub struct SamePartOfSpeech {
    tagger: Arc<dyn PartOfSpeechTagger>,
    unknown: bool,
}

impl SamePartOfSpeech {
    /// By a tagger: [`WordNet`](crate::text::WordNet), [`SuffixTagger`], or your own.
    pub fn new(tagger: Arc<dyn PartOfSpeechTagger>) -> Self {
        Self { tagger, unknown: false }
    }

    /// Whether words that nothing is known of pass.
    pub fn unknown(self, allowed: bool) -> Self {
        Self { unknown: allowed, ..self }
    }
}

impl Constraint for SamePartOfSpeech {
    fn name(&self) -> String {
        "same part of speech".into()
    }

    fn may_change(&self, sentence: &Sentence, word: usize) -> bool {
        self.unknown || !self.tagger.parts(sentence.original_word(word)).is_empty()
    }

    fn allows(&self, sentence: &Sentence) -> bool {
        sentence.changed().all(|word| {
            let (before, after) =
                (self.tagger.parts(sentence.original_word(word)), self.tagger.parts(sentence.word(word)));
            before.meets(after) || self.unknown && (before.is_empty() || after.is_empty())
        })
    }
}

/// A rough tagger for English by the endings of words, for where no WordNet is at hand.
///
/// It knows some forty endings (`-ness` a noun, `-ous` an adjective, `-ly` an adverb, `-ize` a verb, …) and says of every other
/// word that it can be noun, verb or adjective. So it keeps apart only words that wear their part of speech on their sleeve.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SuffixTagger;

impl PartOfSpeechTagger for SuffixTagger {
    fn parts(&self, word: &str) -> Parts {
        use PartOfSpeech::{Adjective, Adverb, Noun, Verb};
        let word = word.to_lowercase();
        let open = Parts::NONE.with(Noun).with(Verb).with(Adjective);
        if !word.chars().any(char::is_alphabetic) {
            return Parts::NONE;
        }
        let ends: &[(&[&str], &[PartOfSpeech])] = &[
            (&["lly", "ily", "ously", "ably", "ibly", "edly", "ingly", "fully", "lessly", "wards"], &[Adverb]),
            (&["ly"], &[Adverb, Adjective]),
            (
                &["ness", "tion", "sion", "ment", "ship", "hood", "ism", "ist", "ity", "ance", "ence", "dom", "ology"],
                &[Noun],
            ),
            (&["nesses", "tions", "sions", "ships", "isms", "ists", "ities", "ances", "ences"], &[Noun]),
            (&["ous", "ful", "less", "able", "ible", "ive", "ish", "esque", "ical", "est"], &[Adjective]),
            (&["ize", "ise", "ify", "izes", "ises", "ifies", "ized", "ified"], &[Verb]),
            (&["ing"], &[Verb, Noun, Adjective]),
            (&["ed"], &[Verb, Adjective]),
            (&["ic", "al", "ary"], &[Adjective, Noun]),
        ];
        ends.iter()
            .find(|(ends, _)| ends.iter().any(|end| word.len() > end.len() + 2 && word.ends_with(end)))
            .map_or(open, |(_, parts)| parts.iter().fold(Parts::NONE, |all, part| all.with(*part)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endings_tell_what_they_can() {
        let same = SamePartOfSpeech::new(Arc::new(SuffixTagger));
        let sentence = Sentence::new("Slowly kindness 2024");
        assert!(same.allows(&sentence.replace(0, "quietly")) && !same.allows(&sentence.replace(0, "kindness")));
        assert!(same.allows(&sentence.replace(1, "film")) && !same.allows(&sentence.replace(1, "famous")));
        assert!(!same.may_change(&sentence, 2) && !same.allows(&sentence.replace(2, "film")));
        assert!(same.unknown(true).allows(&sentence.replace(2, "film")));
        assert!(Parts::NONE.with(PartOfSpeech::Verb).contains(PartOfSpeech::Verb) && Parts::NONE.is_empty());
    }
}
