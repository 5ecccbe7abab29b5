//! The words a model knows, and texts as numbers of them.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

use unicode_segmentation::UnicodeSegmentation;

use crate::error::{Error, Result};
use crate::text::files::{self, Encoding};

/// Number of `<pad>`, which fills a batch up.
pub(crate) const PAD: usize = 0;
/// Number of `<unk>`, which stands for every word that is not in the vocabulary.
pub(crate) const UNKNOWN: usize = 1;
/// Numbers that are no word.
pub(crate) const SPECIAL: usize = 2;
const NAMES: [&str; SPECIAL] = ["<pad>", "<unk>"];

/// A word of a text, and where it lies.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Token {
    /// The word in lower case.
    pub word: String,
    /// Its bytes in the text.
    pub span: Range<usize>,
}

/// The words of a text, in lower case, with the bytes each takes in the text as it was given.
///
/// Words are those of Unicode's text segmentation (UAX #29) that have a letter or a digit: `it's` and `21st` are one word,
/// `co-writer` two; punctuation is none. Lower case is Unicode's full mapping. Spans slice the text, do not overlap and are in
/// order (`spans_slice_any_text`).
///
/// ```
/// use adversarial::text::tokenise;
///
/// let words: Vec<_> = tokenise("Über-funny: it's GREAT!").into_iter().map(|token| token.word).collect();
/// assert_eq!(words, ["über", "funny", "it's", "great"]);
/// ```
pub fn tokenise(text: &str) -> Vec<Token> {
    let words = text.unicode_word_indices();
    words.map(|(at, word)| Token { word: word.to_lowercase(), span: at..at + word.len() }).collect()
}

/// The words a model knows, each with a number: 0 is `<pad>`, 1 is `<unk>`, words follow from the most frequent on, those
/// equally frequent in the order of the alphabet.
///
/// | parameter of [`build`](Self::build) | range | effect |
/// |---|---|---|
/// | `minimum_count` | `≥ 1` | rarer words are unknown; from 2 on a model learns what an unknown word is like |
/// | `largest_size` | `≥ 1` | so many words at most, `<pad>` and `<unk>` not counted |
///
/// Guarantees: a saved vocabulary loads as it was, whatever its words (`a_saved_vocabulary_is_the_same`).
///
/// ```
/// use adversarial::text::Vocabulary;
///
/// let texts = ["A good film.", "A bad film!", "good"];
/// let vocabulary = Vocabulary::build(texts, 2, 1000)?;
/// assert_eq!(vocabulary.words(), ["a", "film", "good"]);
/// let encoded = vocabulary.encode("A dull FILM", 10);
/// assert_eq!(encoded.ids, [2, 1, 3]);
/// assert_eq!(encoded.spans[2], 7..11);
/// # Ok::<(), adversarial::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vocabulary {
    words: Vec<String>,
    ids: HashMap<String, usize>,
}

/// A text as numbers of words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encoded {
    /// The number of each word.
    pub ids: Vec<usize>,
    /// Its bytes in the text.
    pub spans: Vec<Range<usize>>,
}

impl Vocabulary {
    /// Of the words that are in the texts at least `minimum_count` times, the `largest_size` most frequent.
    ///
    /// # Errors
    /// [`Error::Parameter`] for 0; [`Error::EmptyBatch`] where no word is left.
    pub fn build<T: AsRef<str>>(
        texts: impl IntoIterator<Item = T>,
        minimum_count: usize,
        largest_size: usize,
    ) -> Result<Self> {
        for (parameter, value) in [("minimum_count", minimum_count), ("largest_size", largest_size)] {
            if value == 0 {
                return Err(Error::Parameter { parameter, value: 0.0, bound: "at least 1" });
            }
        }
        let mut counts: HashMap<String, usize> = HashMap::new();
        for text in texts {
            for token in tokenise(text.as_ref()) {
                *counts.entry(token.word).or_default() += 1;
            }
        }
        let kept = |(word, count): &(String, usize)| *count >= minimum_count && is_word(word);
        let mut counts: Vec<(String, usize)> = counts.into_iter().filter(kept).collect();
        counts.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        counts.truncate(largest_size);
        Self::from_words(counts.into_iter().map(|(word, _)| word).collect())
    }

    /// These words, in this order.
    ///
    /// # Errors
    /// [`Error::EmptyBatch`] for no word; [`Error::Word`] for one given twice, and for one that [`tokenise`] would never give, as
    /// `Good`, `so so` or `<unk>`.
    pub fn from_words(words: Vec<String>) -> Result<Self> {
        if words.is_empty() {
            return Err(Error::EmptyBatch { what: "a vocabulary" });
        }
        let mut ids = HashMap::with_capacity(words.len());
        for (index, word) in words.iter().enumerate() {
            if !is_word(word) {
                return Err(Error::Word { word: word.clone(), problem: "it is not one word in lower case" });
            }
            if ids.insert(word.clone(), index + SPECIAL).is_some() {
                return Err(Error::Word { word: word.clone(), problem: "it is in the vocabulary twice" });
            }
        }
        Ok(Self { words, ids })
    }

    /// How many numbers there are: the words, `<pad>` and `<unk>`. The rows of an embedding.
    pub fn len(&self) -> usize {
        self.words.len() + SPECIAL
    }

    /// Never: there is at least one word.
    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// The words, without `<pad>` and `<unk>`: word `i` has number `i + 2`.
    pub fn words(&self) -> &[String] {
        &self.words
    }

    /// The number of a word in lower case; that of `<unk>` where it is not known.
    pub fn id(&self, word: &str) -> usize {
        self.ids.get(word).copied().unwrap_or(UNKNOWN)
    }

    /// The first `longest` words of a text as numbers; those after them are not seen.
    pub fn encode(&self, text: &str, longest: usize) -> Encoded {
        let mut encoded = Encoded::default();
        for (at, word) in text.unicode_word_indices().take(longest) {
            encoded.ids.push(self.id(&word.to_lowercase()));
            encoded.spans.push(at..at + word.len());
        }
        encoded
    }

    /// Writes the words to a text file, `<pad>` and `<unk>` first, one a line, replacing it in one step.
    ///
    /// # Errors
    /// [`Error::Data`] where it cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let names = NAMES.into_iter().chain(self.words.iter().map(String::as_str));
        files::write(path.as_ref(), &names.flat_map(|word| [word, "\n"]).collect::<String>())
    }

    /// Reads a file that [`save`](Self::save) has written.
    ///
    /// # Errors
    /// [`Error::Data`] naming the file, where it cannot be read or is not a vocabulary.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let text = files::read(path, Encoding::Utf8)?;
        let mut lines = text.split_terminator('\n').map(|line| line.strip_suffix('\r').unwrap_or(line));
        for (index, name) in NAMES.into_iter().enumerate() {
            if lines.next() != Some(name) {
                return Err(files::wrong(path, format!("line {} is not {name}, as in a vocabulary", index + 1)));
            }
        }
        Self::from_words(lines.map(String::from).collect()).map_err(|error| files::wrong(path, error))
    }
}

/// Whether it is one word that lower case leaves as it is.
fn is_word(word: &str) -> bool {
    matches!(&tokenise(word)[..], [token] if token.word == word)
}

#[cfg(test)]
mod tests {
    use super::*;
    use core_tensor::testing::property;
    use proptest::prelude::*;

    #[test]
    fn words_are_counted_and_the_most_frequent_kept() {
        let texts = ["b a c", "A b", "a d"];
        let words = |minimum, largest| Vocabulary::build(texts, minimum, largest).unwrap().words().to_vec();
        assert_eq!(words(1, 10), ["a", "b", "c", "d"]);
        assert_eq!(words(2, 10), ["a", "b"]);
        assert_eq!(words(1, 3), ["a", "b", "c"]);
        let vocabulary = Vocabulary::build(texts, 2, 10).unwrap();
        assert_eq!((vocabulary.len(), vocabulary.id("b"), vocabulary.id("c"), vocabulary.id("<pad>")), (4, 3, 1, 1));
        assert_eq!(vocabulary.encode("a, c; b", 2).ids, [2, 1]);
        assert_eq!(vocabulary.encode(" ?! ", 5), Encoded::default());
    }

    #[test]
    fn bad_vocabularies_are_named() {
        assert!(Vocabulary::build(["a"], 0, 1).unwrap_err().to_string().contains("minimum_count = 0"));
        assert!(Vocabulary::build(["a"], 1, 0).unwrap_err().to_string().contains("largest_size = 0"));
        assert!(matches!(Vocabulary::build(["a"], 2, 1), Err(Error::EmptyBatch { .. })));
        let error = |words: &[&str]| {
            let words = words.iter().map(|word| (*word).to_owned()).collect();
            Vocabulary::from_words(words).unwrap_err().to_string()
        };
        assert!(error(&["a", "a"]).contains("\"a\": it is in the vocabulary twice"));
        for word in ["", "A", "a b", "<unk>", "!", "a!"] {
            assert!(error(&[word]).contains("not one word in lower case"), "{word}");
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("words.txt");
        for (text, problem) in [
            ("", "line 1 is not <pad>"),
            ("<pad>\na\n", "line 2 is not <unk>"),
            ("<pad>\n<unk>\nx\nx\n", "\"x\": it is in the vocabulary twice"),
            ("<pad>\n<unk>\nx\n\n", "not one word"),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = Vocabulary::load(&path).unwrap_err().to_string();
            assert!(error.contains("words.txt") && error.contains(problem), "{error}");
        }
    }

    #[test]
    fn spans_slice_any_text() {
        property(256, "\\PC{0,40}|[a-zA-ZİßÆ'’.,\u{300}\u{200d} \t\n-]{0,40}", |text: String| {
            let tokens = tokenise(&text);
            let mut end = 0;
            for token in &tokens {
                assert!(token.span.start >= end && token.span.end > token.span.start);
                end = token.span.end;
                assert_eq!(text[token.span.clone()].to_lowercase(), token.word);
                assert!(token.word.chars().any(char::is_alphanumeric), "{token:?}");
            }
            let rest: String = tokens.iter().rev().fold(text.clone(), |mut text, token| {
                text.replace_range(token.span.clone(), "");
                text
            });
            assert!(tokens.is_empty() || rest.len() + tokens.iter().map(|t| t.span.len()).sum::<usize>() == text.len());
        });
    }

    #[test]
    fn a_saved_vocabulary_is_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("words.txt");
        let texts = proptest::collection::vec("\\PC{0,30}", 1..6);
        property(64, texts, |texts: Vec<String>| {
            let Ok(built) = Vocabulary::build(&texts, 1, 100) else { return };
            built.save(&path).unwrap();
            assert_eq!(Vocabulary::load(&path).unwrap(), built);
            for text in &texts {
                let encoded = built.encode(text, usize::MAX);
                assert!(encoded.ids.iter().all(|id| (SPECIAL..built.len()).contains(id)));
                assert_eq!(encoded.ids.len(), tokenise(text).len());
            }
        });
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, cases: 64, ..ProptestConfig::default() })]
        #[test]
        fn case_makes_no_difference(text in "[a-zäöü' ]{0,30}") {
            let words = |text: &str| tokenise(text).into_iter().map(|token| token.word).collect::<Vec<_>>();
            prop_assert_eq!(words(&text.to_uppercase()), words(&text));
        }
    }
}
