//! Characters taken out.

use core_tensor::Random;

use super::{Places, Transformation};
use crate::text::Sentence;

/// Takes a character out: `film` → `fim`. A word of one character stays. The third of DeepWordBug's four.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeleteCharacter {
    places: Places,
}

impl DeleteCharacter {
    /// At these places.
    pub fn new(places: Places) -> Self {
        Self { places }
    }
}

impl Transformation for DeleteCharacter {
    fn name(&self) -> String {
        "delete a character".into()
    }

    fn candidates(&self, sentence: &Sentence, word: usize, random: &mut Random) -> Vec<Sentence> {
        let places = self.places.of(sentence.characters(word), random);
        places.into_iter().filter_map(|at| sentence.delete_character(word, at)).collect()
    }
}
