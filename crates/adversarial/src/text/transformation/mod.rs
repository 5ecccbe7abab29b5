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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use unicode_segmentation::UnicodeSegmentation;

    fn of(transformation: &dyn Transformation, text: &str, seed: u64) -> Vec<String> {
        let candidates = transformation.candidates(&Sentence::new(text), 0, &mut Random::new(seed));
        candidates.iter().map(Sentence::text).collect()
    }

    #[test]
    fn every_place_is_tried_where_all_are_asked_for() {
        let all = |transformation: &dyn Transformation| of(transformation, "Kit!", 1);
        assert_eq!(all(&SwapCharacters::new(Places::All)), ["Ikt!", "Kti!"]);
        assert_eq!(all(&DeleteCharacter::new(Places::All)), ["It!", "Kt!", "Ki!"]);
        assert_eq!(all(&InsertCharacter::new(Places::All).space()), ["K it!", "Ki t!"]);
        assert_eq!(all(&HomoglyphSubstitution::new(Places::All)), ["К\u{69}t!", "Κ\u{69}t!", "K\u{456}t!"]);
        assert_eq!(all(&KeyboardTypo::new(Places::All)).len(), 5 + 6 + 6);
        let substituted = all(&SubstituteCharacter::new(Places::All));
        assert!(
            substituted.len() == 3 && substituted[0].ends_with("it!") && substituted[2].starts_with("Ki"),
            "{substituted:?}"
        );
    }

    proptest! {
        #[test]
        fn one_place_is_drawn_and_readers_keep_the_first_and_last_character(word in "[a-zé]{1,7}", seed in 0u64..1000) {
            let attacks: [&dyn Fn(Places) -> Box<dyn Transformation>; 6] = [
                &|places| Box::new(SwapCharacters::new(places)),
                &|places| Box::new(SubstituteCharacter::new(places)),
                &|places| Box::new(DeleteCharacter::new(places)),
                &|places| Box::new(InsertCharacter::new(places)),
                &|places| Box::new(KeyboardTypo::new(places)),
                &|places| Box::new(HomoglyphSubstitution::new(places)),
            ];
            let ends = |word: &str| {
                let characters: Vec<&str> = word.graphemes(true).collect();
                (characters[0].to_owned(), characters[characters.len() - 1].to_owned())
            };
            for attack in attacks {
                let any = of(&*attack(Places::Random), &word, seed);
                prop_assert!(any.len() <= 1 && any.iter().all(|new| *new != word), "{:?}", any);
                prop_assert!(any.iter().all(|new| of(&*attack(Places::Random), &word, seed).contains(new)));
                let inside = of(&*attack(Places::RandomInside), &word, seed);
                prop_assert!(inside.len() <= 1 && inside.iter().all(|new| *new != word && ends(new) == ends(&word)), "{:?}", inside);
            }
        }
    }
}
