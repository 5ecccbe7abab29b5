//! Characters replaced by any letter.

use core_tensor::Random;
use unicode_segmentation::UnicodeSegmentation;

use super::{Places, Transformation};
use crate::text::Sentence;

/// Replaces a character by another letter from `a` to `z` drawn at random: `film` → `fikm`. The second of DeepWordBug's four; for letters that
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
        let characters: Vec<String> = sentence.word(word).graphemes(true).map(str::to_lowercase).collect();
        let places = self.places.of(characters.len(), random);
        let new = |random: &mut Random, old: &str| {
            let new = letter(random);
            // The same letter would be no change: the one after it.
            if new == old { char::from(b'a' + (new.as_bytes()[0] - b'a' + 1) % 26).to_string() } else { new }
        };
        places
            .into_iter()
            .filter_map(|at| sentence.replace_character(word, at, &new(random, &characters[at])))
            .collect()
    }
}

/// A letter from `a` to `z`.
pub(super) fn letter(random: &mut Random) -> String {
    char::from(b'a' + random.below(26) as u8).to_string()
}
