//! Typing errors.

use core_tensor::Random;

use super::{Places, Transformation};
use crate::text::Sentence;

/// Replaces a character by one whose key is beside it on a QWERTY keyboard: `film` → `fikm`. Characters without a key stay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyboardTypo {
    places: Places,
}

impl KeyboardTypo {
    /// At these places, one neighbour drawn at random; with [`Places::All`] every neighbour.
    pub fn new(places: Places) -> Self {
        Self { places }
    }
}

impl Transformation for KeyboardTypo {
    fn name(&self) -> String {
        "keyboard typo".into()
    }

    fn candidates(&self, sentence: &Sentence, word: usize, random: &mut Random) -> Vec<Sentence> {
        use unicode_segmentation::UnicodeSegmentation;
        let neighbours = |character: &str| -> Vec<char> {
            let mut letters = character.chars();
            match (letters.next(), letters.next()) {
                (Some(letter), None) => keyboard_neighbours(letter),
                _ => Vec::new(),
            }
        };
        let characters: Vec<Vec<char>> = sentence.word(word).graphemes(true).map(neighbours).collect();
        let inside = if self.places == Places::RandomInside {
            1..characters.len().saturating_sub(1)
        } else {
            0..characters.len()
        };
        let usable: Vec<usize> = inside.filter(|at| !characters[*at].is_empty()).collect();
        let replaced = |at: usize, new: char| sentence.replace_character(word, at, new.encode_utf8(&mut [0; 4]));
        if self.places == Places::All {
            let all = usable.iter().flat_map(|at| characters[*at].iter().map(|new| (*at, *new)));
            return all.filter_map(|(at, new)| replaced(at, new)).collect();
        }
        if usable.is_empty() {
            return Vec::new();
        }
        let at = usable[random.below(usable.len() as u64) as usize];
        let new = characters[at][random.below(characters[at].len() as u64) as usize];
        replaced(at, new).into_iter().collect()
    }
}

/// The letters and digits whose keys touch that of a letter or digit on a QWERTY keyboard, in small letters; none of another
/// character.
///
/// ```
/// use adversarial::text::keyboard_neighbours;
///
/// assert_eq!(keyboard_neighbours('s'), ['w', 'e', 'a', 'd', 'z', 'x']);
/// assert!(keyboard_neighbours('é').is_empty());
/// ```
pub fn keyboard_neighbours(character: char) -> Vec<char> {
    // Each row is half a key further to the right than the one above.
    const ROWS: [&[u8]; 4] = [b"1234567890", b"qwertyuiop", b"asdfghjkl", b"zxcvbnm"];
    let key = character.to_ascii_lowercase();
    let place =
        ROWS.iter().enumerate().find_map(|(row, keys)| Some((row, keys.iter().position(|k| char::from(*k) == key)?)));
    let Some((row, column)) = place else { return Vec::new() };
    let around = [(-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0)];
    let at = |(down, right): (isize, isize)| {
        let row = ROWS.get(row.checked_add_signed(down)?)?;
        row.get(column.checked_add_signed(right)?).copied().map(char::from)
    };
    around.into_iter().filter_map(at).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn to_touch_is_mutual() {
        for a in "1234567890qwertyuiopasdfghjklzxcvbnm".chars() {
            assert!(!keyboard_neighbours(a).is_empty());
            for b in keyboard_neighbours(a) {
                assert!(keyboard_neighbours(b).contains(&a), "{a} {b}");
            }
        }
    }
}
