//! What a changed sentence has to keep.

mod change_once;
mod edit_distance;
mod most_changed;
mod no_antonyms;
mod part_of_speech;
mod sentence_similarity;
mod stop_words;
mod word_similarity;

pub use change_once::ChangeOnce;
pub use edit_distance::{EditDistance, levenshtein_within};
pub use most_changed::MostChanged;
pub use no_antonyms::NoAntonyms;
pub use part_of_speech::{PartOfSpeech, PartOfSpeechTagger, Parts, SamePartOfSpeech, SuffixTagger};
pub use sentence_similarity::SentenceSimilarity;
pub use stop_words::StopWords;
pub use word_similarity::WordSimilarity;
pub(super) use word_similarity::{cosine, row};

use super::Sentence;
use crate::error::Result;

/// What a changed sentence has to keep.
///
/// ```
/// use adversarial::text::{Constraint, Sentence};
///
/// /// Names stay.
/// struct Names;
///
/// impl Constraint for Names {
///     fn name(&self) -> String {
///         "names".into()
///     }
///
///     fn may_change(&self, sentence: &Sentence, word: usize) -> bool {
///         word == 0 || !sentence.original_word(word).starts_with(char::is_uppercase)
///     }
///
///     fn allows(&self, sentence: &Sentence) -> bool {
///         sentence.changed().all(|word| self.may_change(sentence, word))
///     }
/// }
/// ```
pub trait Constraint: Send + Sync {
    /// A short name.
    fn name(&self) -> String;

    /// Refuses settings outside of their range.
    ///
    /// # Errors
    /// [`Error::Parameter`](crate::Error::Parameter).
    fn check(&self) -> Result<()> {
        Ok(())
    }

    /// Whether a word may be changed now. Asked before candidates for it are made, so that none are made in vain.
    fn may_change(&self, sentence: &Sentence, word: usize) -> bool {
        let _ = (sentence, word);
        true
    }

    /// Whether a changed sentence keeps what it has to. The original always does.
    fn allows(&self, sentence: &Sentence) -> bool;
}
