//! What may become of a word.

mod delete;
mod homoglyph;
mod insert;
mod keyboard;
mod nearest;
mod places;
mod substitute;
mod swap;
mod synonym;

pub use delete::DeleteCharacter;
pub use homoglyph::{HomoglyphSubstitution, homoglyphs};
pub use insert::InsertCharacter;
pub use keyboard::{KeyboardTypo, keyboard_neighbours};
pub use nearest::NearestWords;
pub use places::Places;
pub use substitute::SubstituteCharacter;
pub use swap::SwapCharacters;
pub use synonym::Synonyms;

use core_tensor::Random;

use super::Sentence;
use crate::error::Result;

/// What may become of a word.
///
/// ```
/// use adversarial::text::{Sentence, Transformation};
/// use core_tensor::Random;
///
/// /// Says it twice.
/// struct Twice;
///
/// impl Transformation for Twice {
///     fn name(&self) -> String {
///         "twice".into()
///     }
///
///     fn candidates(&self, sentence: &Sentence, word: usize, _random: &mut Random) -> Vec<Sentence> {
///         vec![sentence.insert_after(word, sentence.word(word))]
///     }
/// }
/// ```
pub trait Transformation: Send + Sync {
    /// A short name.
    fn name(&self) -> String;

    /// Refuses settings outside of their range.
    ///
    /// # Errors
    /// [`Error::Parameter`](crate::Error::Parameter).
    fn check(&self) -> Result<()> {
        Ok(())
    }

    /// The sentences that this word may be changed to. Random numbers depend on the sentence's own, the word and what it is now.
    fn candidates(&self, sentence: &Sentence, word: usize, random: &mut Random) -> Vec<Sentence>;
}
