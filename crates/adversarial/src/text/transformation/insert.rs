//! Characters put in.

use core_tensor::Random;

use super::substitute::letter;
use super::{Places, Transformation};
use crate::text::Sentence;

/// Puts a letter, or a space, into a word: `film` → `fiolm`, `fi lm`. The fourth of DeepWordBug's four.
///
/// Places are those between two characters, so that a word of one character has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InsertCharacter {
    places: Places,
    space: bool,
}

impl InsertCharacter {
    /// A letter from `a` to `z` drawn at random, at these places.
    pub fn new(places: Places) -> Self {
        Self { places, space: false }
    }

    /// A space instead, which makes two words of one.
    pub fn space(self) -> Self {
        Self { space: true, ..self }
    }
}

impl Transformation for InsertCharacter {
    fn name(&self) -> String {
        if self.space { "insert a space".into() } else { "insert a character".into() }
    }

    fn candidates(&self, sentence: &Sentence, word: usize, random: &mut Random) -> Vec<Sentence> {
        // All of them lie inside.
        let places = if self.places == Places::All { Places::All } else { Places::Random };
        let places = places.of(sentence.characters(word).saturating_sub(1), random);
        let new = |random: &mut Random| if self.space { " ".to_owned() } else { letter(random) };
        places.into_iter().filter_map(|at| sentence.insert_character(word, at + 1, &new(random))).collect()
    }
}
