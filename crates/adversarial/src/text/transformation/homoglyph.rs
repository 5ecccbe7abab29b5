//! Letters that look alike.

use core_tensor::Random;
use unicode_segmentation::UnicodeSegmentation;

use super::{Places, Transformation};
use crate::text::Sentence;

/// Replaces a letter by one of another script that looks the same: `film` with a Cyrillic `і`. A reader sees no difference, a model another
/// word.
///
/// Accents stay on their letter. The table has Latin, Cyrillic, Greek and Armenian letters, both ways.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HomoglyphSubstitution {
    places: Places,
}

impl HomoglyphSubstitution {
    /// At these places, counting the letters that have a likeness; with [`Places::All`] every likeness of each.
    pub fn new(places: Places) -> Self {
        Self { places }
    }
}

impl Transformation for HomoglyphSubstitution {
    fn name(&self) -> String {
        "homoglyphs".into()
    }

    fn candidates(&self, sentence: &Sentence, word: usize, random: &mut Random) -> Vec<Sentence> {
        let old = sentence.word(word);
        let count = sentence.characters(word);
        let inside = if self.places == Places::RandomInside { 1..count.saturating_sub(1) } else { 0..count };
        let usable: Vec<(usize, char)> = old
            .grapheme_indices(true)
            .enumerate()
            .filter(|(at, _)| inside.contains(at))
            .filter_map(|(_, (start, character))| Some((start, character.chars().next()?)))
            .filter(|(_, letter)| homoglyphs(*letter).next().is_some())
            .collect();
        let replaced = |(start, letter): (usize, char), new: char| {
            let rest = &old[start + letter.len_utf8()..];
            sentence.replace_exactly(word, &format!("{}{new}{rest}", &old[..start]))
        };
        if self.places == Places::All {
            return usable.iter().flat_map(|at| homoglyphs(at.1).map(|new| replaced(*at, new))).collect();
        }
        if usable.is_empty() {
            return Vec::new();
        }
        let at = usable[random.below(usable.len() as u64) as usize];
        let likes: Vec<char> = homoglyphs(at.1).collect();
        vec![replaced(at, likes[random.below(likes.len() as u64) as usize])]
    }
}

/// Letters that look like this one.
///
/// ```
/// use adversarial::text::homoglyphs;
///
/// assert_eq!(homoglyphs('a').collect::<Vec<_>>(), ['\u{430}']);
/// assert!(homoglyphs('\u{430}').any(|letter| letter == 'a') && homoglyphs('~').next().is_none());
/// ```
pub fn homoglyphs(letter: char) -> impl Iterator<Item = char> {
    let alike = ALIKE.iter().find(|alike| alike.contains(&letter)).copied().unwrap_or_default();
    alike.iter().copied().filter(move |other| *other != letter)
}

/// Letters that look alike in common typefaces: Latin, Cyrillic, Greek, Armenian.
const ALIKE: &[&[char]] = &[
    &['a', '\u{430}'],
    &['c', '\u{441}', '\u{3f2}'],
    &['d', '\u{501}'],
    &['e', '\u{435}'],
    &['g', '\u{581}'],
    &['h', '\u{4bb}'],
    &['i', '\u{456}'],
    &['j', '\u{458}', '\u{3f3}'],
    &['l', '\u{4cf}'],
    &['n', '\u{578}'],
    &['o', '\u{43e}', '\u{3bf}', '\u{585}'],
    &['p', '\u{440}', '\u{3c1}'],
    &['q', '\u{51b}'],
    &['s', '\u{455}'],
    &['u', '\u{57d}'],
    &['v', '\u{475}', '\u{3bd}'],
    &['w', '\u{51d}'],
    &['x', '\u{445}'],
    &['y', '\u{443}'],
    &['ä', '\u{4d3}'],
    &['ë', '\u{451}'],
    &['ï', '\u{457}'],
    &['ö', '\u{4e7}'],
    &['A', '\u{410}', '\u{391}'],
    &['B', '\u{412}', '\u{392}'],
    &['C', '\u{421}', '\u{3f9}'],
    &['E', '\u{415}', '\u{395}'],
    &['F', '\u{3dc}'],
    &['G', '\u{50c}'],
    &['H', '\u{41d}', '\u{397}'],
    &['I', '\u{406}', '\u{399}'],
    &['J', '\u{408}', '\u{37f}'],
    &['K', '\u{41a}', '\u{39a}'],
    &['M', '\u{41c}', '\u{39c}'],
    &['N', '\u{39d}'],
    &['O', '\u{41e}', '\u{39f}', '\u{555}'],
    &['P', '\u{420}', '\u{3a1}'],
    &['Q', '\u{51a}'],
    &['S', '\u{405}', '\u{54f}'],
    &['T', '\u{422}', '\u{3a4}'],
    &['U', '\u{54d}'],
    &['V', '\u{474}'],
    &['W', '\u{51c}'],
    &['X', '\u{425}', '\u{3a7}'],
    &['Y', '\u{4ae}', '\u{3a5}'],
    &['Z', '\u{396}'],
    &['Ä', '\u{4d2}'],
    &['Ë', '\u{401}'],
    &['Ï', '\u{407}'],
    &['Ö', '\u{4e6}'],
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn no_letter_stands_twice_and_cases_stay() {
        let all: Vec<char> = ALIKE.iter().flat_map(|alike| alike.iter().copied()).collect();
        assert_eq!(all.iter().collect::<HashSet<_>>().len(), all.len());
        for alike in ALIKE {
            assert!(alike.iter().all(|letter| letter.is_uppercase() == alike[0].is_uppercase()), "{alike:?}");
        }
    }

    #[test]
    fn accents_stay() {
        let sentence = Sentence::new("te\u{301}t");
        let all = HomoglyphSubstitution::new(Places::All).candidates(&sentence, 0, &mut Random::new(0));
        assert_eq!(all.iter().map(Sentence::text).collect::<Vec<_>>(), ["t\u{435}\u{301}t"]);
    }
}
