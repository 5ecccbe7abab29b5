//! Characters replaced by any letter.

use core_tensor::Random;

use super::{Places, Transformation};
use crate::text::Sentence;

/// Replaces a character by a letter from `a` to `z` drawn at random: `film` → `fikm`. The second of DeepWordBug's four; for letters that
/// lie near on the keyboard see [`KeyboardTypo`](super::KeyboardTypo).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SubstituteCharacter {
    places: Places,
}

impl SubstituteCharacter {
    /// At these places.
    pub fn new(places: Places) -> Self {
        Self { places }
    }
}

impl Transformation for SubstituteCharacter {
    fn name(&self) -> String {
        "substitute a character".into()
    }

    fn candidates(&self, sentence: &Sentence, word: usize, random: &mut Random) -> Vec<Sentence> {
        let places = self.places.of(sentence.characters(word), random);
        places.into_iter().filter_map(|at| sentence.replace_character(word, at, &letter(random))).collect()
    }
}

/// A letter from `a` to `z`.
pub(super) fn letter(random: &mut Random) -> String {
    char::from(b'a' + random.below(26) as u8).to_string()
}
