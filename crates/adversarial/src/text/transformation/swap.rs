//! Neighbouring characters exchanged.

use core_tensor::Random;

use super::{Places, Transformation};
use crate::text::Sentence;

/// Exchanges two neighbouring characters: `film` → `flim`. The first of DeepWordBug's four.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SwapCharacters {
    places: Places,
}

impl SwapCharacters {
    /// At these places; inside means that neither the first nor the last character moves.
    pub fn new(places: Places) -> Self {
        Self { places }
    }
}

impl Transformation for SwapCharacters {
    fn name(&self) -> String {
        "swap characters".into()
    }

    fn candidates(&self, sentence: &Sentence, word: usize, random: &mut Random) -> Vec<Sentence> {
        // A pair of equal characters is no place, as nothing would change.
        let pairs = sentence.characters(word).saturating_sub(1);
        let range = if self.places == Places::RandomInside { 1..pairs.saturating_sub(1) } else { 0..pairs };
        let swapped = range.filter_map(|at| sentence.swap_characters(word, at));
        let swapped: Vec<Sentence> = swapped.filter(|changed| changed.word(word) != sentence.word(word)).collect();
        let places = if self.places == Places::All { Places::All } else { Places::Random };
        places.of(swapped.len(), random).into_iter().map(|i| swapped[i].clone()).collect()
    }
}
