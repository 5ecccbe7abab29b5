//! A text whose words can be changed.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Range;
use std::sync::Arc;

use unicode_segmentation::UnicodeSegmentation;

/// A text, the words in it, and which of them have been changed.
///
/// Words are those of Unicode's text segmentation (UAX #29) that have a letter or a digit; what lies between them stays as it
/// is. A word keeps its number whatever is done to it, so a sentence always knows what has become of each word of the original:
/// a word that was inserted belongs to the word beside it, a word that was taken out is a word without text.
///
/// New words take over the capitals of the old: `Good` → `Fine`, `GOOD` → `FINE`, `good` → `fine`. Characters are grapheme
/// clusters: an accent stays on its letter, an emoji is never cut.
///
/// Nothing here panics on any text (`any_text_can_be_changed_anywhere`), but word numbers from [`len`](Self::len) on do.
///
/// Cost: a copy shares the original and holds the changes only; a text is built in one pass.
///
/// ```
/// use adversarial::text::Sentence;
///
/// let sentence = Sentence::new("A wonderful film, truly!");
/// let changed = sentence.replace(1, "nice").replace(0, "one");
/// assert_eq!(changed.text(), "One nice film, truly!");
/// assert_eq!(changed.marked(), "[[One]] [[nice]] film, truly!");
/// assert_eq!(changed.changed().collect::<Vec<_>>(), [0, 1]);
/// assert_eq!(changed.replace(1, "wonderful").restore(0), sentence);
/// ```
#[derive(Clone)]
pub struct Sentence {
    original: Arc<Original>,
    /// What has become of the words that were changed, by their number.
    changes: Vec<(usize, Arc<str>)>,
}

#[derive(PartialEq, Eq)]
struct Original {
    text: String,
    words: Vec<Range<usize>>,
}

impl Sentence {
    /// A text as it is.
    pub fn new(text: impl Into<String>) -> Self {
        let text = text.into();
        let words = text.unicode_word_indices().map(|(at, word)| at..at + word.len()).collect();
        Self { original: Arc::new(Original { text, words }), changes: Vec::new() }
    }

    /// Number of words of the original.
    pub fn len(&self) -> usize {
        self.original.words.len()
    }

    /// Whether there is no word.
    pub fn is_empty(&self) -> bool {
        self.original.words.is_empty()
    }

    /// The original text.
    pub fn original(&self) -> &str {
        &self.original.text
    }

    /// A word of the original.
    ///
    /// # Panics
    /// If there are not so many words, as all that take a word's number.
    pub fn original_word(&self, word: usize) -> &str {
        &self.original.text[self.original.words[word].clone()]
    }

    /// Where the words of the original lie in its text, in bytes.
    pub fn original_spans(&self) -> &[Range<usize>] {
        &self.original.words
    }

    /// What a word is now.
    pub fn word(&self, word: usize) -> &str {
        match self.place(word) {
            Ok(at) => &self.changes[at].1,
            Err(_) => self.original_word(word),
        }
    }

    /// Whether a word is another than in the original.
    pub fn is_changed(&self, word: usize) -> bool {
        self.place(word).is_ok()
    }

    /// The words that are others than in the original, in order.
    pub fn changed(&self) -> impl ExactSizeIterator<Item = usize> + '_ {
        self.changes.iter().map(|(word, _)| *word)
    }

    /// The text now.
    pub fn text(&self) -> String {
        self.joined("", "")
    }

    /// The text now, with the words that were changed in double brackets.
    pub fn marked(&self) -> String {
        self.joined("[[", "]]")
    }

    /// The original text, with the words that have been changed since in double brackets.
    pub fn marked_original(&self) -> String {
        let changes = self.changed().map(|word| (word, Arc::from(self.original_word(word)))).collect();
        Self { original: self.original.clone(), changes }.joined("[[", "]]")
    }

    /// Where the words lie in the text now, in bytes. A word that was taken out is an empty range.
    pub fn spans(&self) -> Vec<Range<usize>> {
        let mut spans = Vec::with_capacity(self.len());
        let (mut text, mut from) = (String::with_capacity(self.capacity()), 0);
        for (word, span) in self.original.words.iter().enumerate() {
            let gap = &self.original.text[from..span.start];
            text.push_str(gap);
            let start = text.len();
            text.push_str(self.word(word));
            from = span.end;
            if start == text.len() {
                from += close_gap(&mut text, gap, &self.original.text[from..]);
            }
            spans.push(start.min(text.len())..text.len());
        }
        spans
    }

    /// The sentence with another word in place of this, with the capitals of the original word.
    pub fn replace(&self, word: usize, new: &str) -> Self {
        self.with(word, keep_case(self.original_word(word), new))
    }

    /// The same with exactly this text in place of the word.
    pub fn replace_exactly(&self, word: usize, new: &str) -> Self {
        self.with(word, new.to_owned())
    }

    /// The sentence with a word as in the original.
    pub fn restore(&self, word: usize) -> Self {
        self.with(word, self.original_word(word).to_owned())
    }

    /// The sentence without a word, and without a space that would be left over.
    pub fn delete(&self, word: usize) -> Self {
        self.with(word, String::new())
    }

    /// The sentence with a new word before this one.
    pub fn insert_before(&self, word: usize, new: &str) -> Self {
        self.with(word, format!("{new} {}", self.word(word)))
    }

    /// The sentence with a new word behind this one.
    pub fn insert_after(&self, word: usize, new: &str) -> Self {
        self.with(word, format!("{} {new}", self.word(word)))
    }

    /// The sentence with two words exchanged; capitals stay at their places.
    pub fn swap(&self, a: usize, b: usize) -> Self {
        let (first, second) = (self.word(a), self.word(b));
        let (for_a, for_b) = (recased(first, second), recased(second, first));
        self.with(a, for_a).with(b, for_b)
    }

    /// Number of characters of a word as it is now.
    pub fn characters(&self, word: usize) -> usize {
        self.word(word).graphemes(true).count()
    }

    /// The sentence with a character and the next of a word exchanged; none where there is no next. A capital stays at the
    /// front.
    pub fn swap_characters(&self, word: usize, at: usize) -> Option<Self> {
        let mut characters: Vec<&str> = self.word(word).graphemes(true).collect();
        if at + 1 >= characters.len() {
            return None;
        }
        characters.swap(at, at + 1);
        let (first, second) = (recased(characters[1], characters[0]), recased(characters[0], characters[1]));
        if at == 0 {
            (characters[0], characters[1]) = (&first, &second);
        }
        Some(self.with(word, characters.concat()))
    }

    /// The sentence with another character in a word; none where there is no such place.
    pub fn replace_character(&self, word: usize, at: usize, new: &str) -> Option<Self> {
        let old = self.word(word);
        let (start, character) = old.grapheme_indices(true).nth(at)?;
        let rest = &old[start + character.len()..];
        Some(self.with(word, [&old[..start], &recased(character, new), rest].concat()))
    }

    /// The sentence with a character of a word taken out; none where there is no such place, or no other character.
    pub fn delete_character(&self, word: usize, at: usize) -> Option<Self> {
        let old = self.word(word);
        let (start, character) = old.grapheme_indices(true).nth(at)?;
        let rest = &old[start + character.len()..];
        (character.len() < old.len()).then(|| self.with(word, keep_case(old, &[&old[..start], rest].concat())))
    }

    /// The sentence with a character put into a word before the one at this place, or at its end; none beyond.
    pub fn insert_character(&self, word: usize, at: usize, new: &str) -> Option<Self> {
        let old = self.word(word);
        let start = match old.grapheme_indices(true).nth(at) {
            Some((start, _)) => start,
            None if at == self.characters(word) => old.len(),
            None => return None,
        };
        Some(self.with(word, [&old[..start], new, &old[start..]].concat()))
    }

    fn place(&self, word: usize) -> Result<usize, usize> {
        self.changes.binary_search_by_key(&word, |(changed, _)| *changed)
    }

    fn with(&self, word: usize, new: String) -> Self {
        let (place, same) = (self.place(word), new == self.original_word(word));
        let mut changes = self.changes.clone();
        match (place, same) {
            (Ok(at), true) => drop(changes.remove(at)),
            (Ok(at), false) => changes[at].1 = new.into(),
            (Err(_), true) => {}
            (Err(at), false) => changes.insert(at, (word, new.into())),
        }
        Self { original: self.original.clone(), changes }
    }

    fn capacity(&self) -> usize {
        self.original.text.len() + self.changes.iter().map(|(_, new)| new.len() + 4).sum::<usize>()
    }

    /// The text, changed words between the given signs.
    fn joined(&self, open: &str, close: &str) -> String {
        let (mut text, mut from) = (String::with_capacity(self.capacity()), 0);
        for (word, new) in &self.changes {
            let span = &self.original.words[*word];
            let gap = &self.original.text[from..span.start];
            text.push_str(gap);
            from = span.end;
            text.push_str(open);
            text.push_str(new);
            text.push_str(close);
            if new.is_empty() && open.is_empty() {
                from += close_gap(&mut text, gap, &self.original.text[from..]);
            }
        }
        text.push_str(&self.original.text[from..]);
        text
    }
}

impl PartialEq for Sentence {
    fn eq(&self, other: &Self) -> bool {
        self.changes == other.changes
            && (Arc::ptr_eq(&self.original, &other.original) || self.original == other.original)
    }
}

impl Eq for Sentence {}

/// Of the changes alone: sentences that are kept together mostly have one original.
impl Hash for Sentence {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.changes.hash(state);
    }
}

impl fmt::Debug for Sentence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sentence({:?})", self.marked())
    }
}

impl fmt::Display for Sentence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text())
    }
}

/// A new word with the capitals of the old one: its first letter, or all of them where the old has more than one letter and
/// only capitals. Where the old begins small, the new stays as it is.
pub fn keep_case(old: &str, new: &str) -> String {
    let mut letters = old.chars().filter(|c| c.is_alphabetic());
    let capital = old.chars().next().is_some_and(char::is_uppercase);
    if !capital {
        return new.to_owned();
    }
    if letters.clone().nth(1).is_some() && letters.all(char::is_uppercase) {
        return new.to_uppercase();
    }
    let mut rest = new.chars();
    rest.next().map_or_else(String::new, |first| first.to_uppercase().chain(rest).collect())
}

/// [`keep_case`], and a small first letter where the old one is small and the new word not all capitals.
fn recased(old: &str, new: &str) -> String {
    let mut rest = new.chars();
    let small = old.chars().next().is_some_and(char::is_lowercase);
    match rest.next() {
        Some(first) if small && first.is_uppercase() && !rest.clone().any(char::is_uppercase) => {
            first.to_lowercase().chain(rest).collect()
        }
        _ => keep_case(old, new),
    }
}

/// After a word without text that followed a gap: takes the gap's last space back, or gives the number of bytes to leave out
/// after the word, so that two spaces do not meet and none stands before a comma.
fn close_gap(text: &mut String, gap: &str, rest: &str) -> usize {
    let next = rest.chars().next();
    let closes = next.is_none_or(|c| c.is_whitespace() || matches!(c, '.' | ',' | ';' | ':' | '!' | '?'));
    if closes && gap.ends_with(char::is_whitespace) {
        text.pop();
        return 0;
    }
    next.filter(|c| text.is_empty() && c.is_whitespace()).map_or(0, char::len_utf8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn words_are_words_and_the_rest_stays() {
        let sentence = Sentence::new("  Don't — 3.5 stars 👩‍👩‍👧! שלום עולם");
        let words: Vec<&str> = (0..sentence.len()).map(|word| sentence.word(word)).collect();
        assert_eq!(words, ["Don't", "3.5", "stars", "שלום", "עולם"]);
        assert_eq!(sentence.replace(2, "points").text(), "  Don't — 3.5 points 👩‍👩‍👧! שלום עולם");
        assert!(Sentence::new("").is_empty() && Sentence::new(" \n👍…").is_empty());
    }

    #[test]
    fn capitals_stay() {
        let sentence = Sentence::new("Good GOOD good I Über");
        let all = (0..5).fold(sentence, |sentence, word| sentence.replace(word, "état"));
        assert_eq!(all.text(), "État ÉTAT état État État");
        let swapped = Sentence::new("The film").swap(0, 1);
        assert_eq!(swapped.text(), "Film the");
        assert_eq!(swapped.swap(0, 1), Sentence::new("The film"));
    }

    #[test]
    fn a_word_taken_out_leaves_no_space_behind() {
        let sentence = Sentence::new("a good, long film.");
        assert_eq!(sentence.delete(0).text(), "good, long film.");
        assert_eq!(sentence.delete(1).text(), "a, long film.");
        assert_eq!(sentence.delete(3).text(), "a good, long.");
        assert_eq!(sentence.delete(0).delete(1).delete(2).delete(3).text(), ",.");
        assert_eq!(Sentence::new("one two").delete(0).delete(1).text(), "");
        assert_eq!(sentence.delete(1).marked(), "a [[]], long film.");
        assert_eq!(sentence.delete(1).marked_original(), "a [[good]], long film.");
        assert_eq!(sentence.insert_before(1, "very").insert_after(3, "noir").text(), "a very good, long film noir.");
    }

    #[test]
    fn characters_are_what_a_reader_sees() {
        let sentence = Sentence::new("Cafe\u{301} Movie");
        assert_eq!(sentence.characters(0), 4);
        assert_eq!(sentence.swap_characters(0, 2).unwrap().word(0), "Cae\u{301}f");
        assert_eq!(sentence.delete_character(0, 3).unwrap().word(0), "Caf");
        assert_eq!(sentence.swap_characters(1, 0).unwrap().word(1), "Omvie");
        assert_eq!(sentence.delete_character(1, 0).unwrap().word(1), "Ovie");
        assert_eq!(sentence.replace_character(1, 0, "n").unwrap().word(1), "Novie");
        assert_eq!(sentence.insert_character(1, 5, "s").unwrap().word(1), "Movies");
        assert!(sentence.swap_characters(1, 4).is_none() && sentence.insert_character(1, 6, "s").is_none());
        assert!(sentence.replace_character(1, 5, "s").is_none() && sentence.delete_character(1, 5).is_none());
        assert!(Sentence::new("I").delete_character(0, 0).is_none());
        assert_eq!(sentence.replace_character(1, 0, "n").unwrap().replace_character(1, 0, "m").unwrap(), sentence);
    }

    proptest! {
        #[test]
        fn any_text_can_be_changed_anywhere(
            text in "(\\PC|[ \u{301}\u{200d}א🇩👍🏽.,\n]|[A-Za-z]{1,4}){0,12}",
            steps in proptest::collection::vec((0usize..8, any::<prop::sample::Index>(), 0usize..5, "\\PC{0,4}"), 0..8),
        ) {
            let mut sentence = Sentence::new(text.as_str());
            prop_assert_eq!(sentence.text(), text.as_str());
            for (kind, word, at, new) in steps {
                if sentence.is_empty() {
                    break;
                }
                let other = at % sentence.len();
                let word = word.index(sentence.len());
                let next = match kind {
                    0 => Some(sentence.replace(word, &new)),
                    1 => Some(sentence.delete(word)),
                    2 => Some(sentence.insert_before(word, &new)),
                    3 => Some(sentence.swap(word, other)),
                    4 => sentence.swap_characters(word, at),
                    5 => sentence.replace_character(word, at, &new),
                    6 => sentence.delete_character(word, at),
                    _ => sentence.insert_character(word, at, &new),
                };
                sentence = next.unwrap_or(sentence);
                let (now, spans) = (sentence.text(), sentence.spans());
                prop_assert_eq!(spans.len(), sentence.len());
                let mut last = 0;
                for (i, span) in spans.iter().enumerate() {
                    prop_assert!(span.start >= last || span.is_empty());
                    last = last.max(span.end);
                    prop_assert_eq!(&now[span.clone()], sentence.word(i));
                    prop_assert_eq!(sentence.is_changed(i), sentence.word(i) != sentence.original_word(i));
                }
                prop_assert_eq!(sentence.original(), text.as_str());
            }
            let restored = (0..sentence.len()).fold(sentence, |sentence, word| sentence.restore(word));
            prop_assert_eq!(restored.text(), text);
        }
    }
}
