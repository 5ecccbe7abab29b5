//! Levenshtein distance.

use super::Constraint;
use crate::text::Sentence;

/// At most so many characters are put in, taken out or replaced: Levenshtein's distance of the texts, in Unicode characters.
///
/// Cost: that of the words changed, whose distances added up are at least that of the texts; only where this is more than allowed, the
/// text's length times the distance allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EditDistance {
    most: usize,
}

impl EditDistance {
    /// At most `most` edits. 0 allows nothing.
    pub fn new(most: usize) -> Self {
        Self { most }
    }
}

impl Constraint for EditDistance {
    fn name(&self) -> String {
        format!("at most {} edits", self.most)
    }

    fn may_change(&self, _sentence: &Sentence, _word: usize) -> bool {
        self.most > 0
    }

    fn allows(&self, sentence: &Sentence) -> bool {
        // Word by word there are never fewer edits than for the whole; a word taken out may take a space with it.
        let words = sentence.changed().try_fold(self.most, |left, word| {
            let (before, after) = (sentence.original_word(word), sentence.word(word));
            let edits = levenshtein_within(before, after, left)? + usize::from(after.is_empty());
            left.checked_sub(edits)
        });
        words.is_some() || levenshtein_within(sentence.original(), &sentence.text(), self.most).is_some()
    }
}

/// Levenshtein's distance of two texts in Unicode characters, where it is not above `most`: the fewest characters to put in, take
/// out or replace.
///
/// What both begin and end with is left out, and of the table only the diagonals that can matter are computed (E. Ukkonen,
/// "Algorithms for approximate string matching", 1985): `O(length × most)`.
///
/// ```
/// use adversarial::text::levenshtein_within;
///
/// assert_eq!(levenshtein_within("kitten", "sitting", 3), Some(3));
/// assert_eq!(levenshtein_within("kitten", "sitting", 2), None);
/// ```
pub fn levenshtein_within(a: &str, b: &str, most: usize) -> Option<usize> {
    let same = a.chars().zip(b.chars()).take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8()).sum::<usize>();
    let (a, b) = (&a[same..], &b[same..]);
    let same: usize = a.chars().rev().zip(b.chars().rev()).take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8()).sum();
    let (a, b) = (&a[..a.len() - same], &b[..b.len() - same]);
    let a: Vec<char> = a.chars().collect();
    let b: Vec<char> = b.chars().collect();
    let (a, b) = if a.len() <= b.len() { (a, b) } else { (b, a) };
    if b.len() - a.len() > most {
        return None;
    }
    // Row i holds the distances of a[..i] and b[..j]; those far from the diagonal are above `most` anyway.
    let far = most.saturating_add(1);
    let mut row: Vec<usize> = (0..=b.len()).map(|j| j.min(far)).collect();
    for i in 1..=a.len() {
        let (low, high) = (i.saturating_sub(most), i.saturating_add(most).min(b.len()));
        let mut diagonal = if low == 0 { row[0] } else { row[low - 1] };
        let mut left = far;
        let mut least = far;
        for j in low..=high {
            let above = if j == i.saturating_add(most) { far } else { row[j] };
            let value = match j {
                0 => i.min(far),
                _ => (diagonal + usize::from(a[i - 1] != b[j - 1])).min(above + 1).min(left + 1).min(far),
            };
            diagonal = row[j];
            row[j] = value;
            left = value;
            least = least.min(value);
        }
        if least > most {
            return None;
        }
    }
    Some(row[b.len()]).filter(|distance| *distance <= most)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn plain(a: &str, b: &str) -> usize {
        let b: Vec<char> = b.chars().collect();
        let mut row: Vec<usize> = (0..=b.len()).collect();
        for (i, x) in a.chars().enumerate() {
            let mut next = vec![i + 1];
            for (j, y) in b.iter().enumerate() {
                next.push((row[j] + usize::from(x != *y)).min(row[j + 1] + 1).min(next[j] + 1));
            }
            row = next;
        }
        row[b.len()]
    }

    proptest! {
        #[test]
        fn it_is_the_whole_tables(a in "[abé🙂]{0,9}", b in "[abé🙂]{0,9}", most in 0usize..10) {
            let distance = plain(&a, &b);
            prop_assert_eq!(levenshtein_within(&a, &b, most), (distance <= most).then_some(distance));
            prop_assert_eq!(levenshtein_within(&a, &b, usize::MAX), Some(distance));
        }
    }

    proptest! {
        #[test]
        fn word_by_word_nothing_is_allowed_that_is_not_in_all(
            text in "[ab]{1,4}( [ab]{1,4}){0,3}[.!]?", new in proptest::collection::vec("[ab ]{0,5}", 4), most in 0usize..8,
        ) {
            let sentence = Sentence::new(text.as_str());
            let changed = (0..sentence.len()).fold(sentence, |sentence, word| sentence.replace_exactly(word, &new[word]));
            prop_assert_eq!(EditDistance::new(most).allows(&changed), plain(&text, &changed.text()) <= most);
        }
    }

    #[test]
    fn a_sentence_is_compared_with_its_original() {
        let changed = Sentence::new("a good film").replace(1, "god").replace(2, "flim");
        assert!(EditDistance::new(3).allows(&changed) && !EditDistance::new(2).allows(&changed));
        assert!(EditDistance::new(0).allows(&Sentence::new("x")) && !EditDistance::new(0).may_change(&changed, 0));
    }
}
