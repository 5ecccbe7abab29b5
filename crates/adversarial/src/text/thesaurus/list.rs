//! Synonyms from a list.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use super::Thesaurus;
use crate::error::{Error, Result};

/// Synonyms from a list of words, as a file of pairs or of your own gives it.
///
/// Words are compared in small letters. Synonyms go both ways, in the order of the list, each once.
///
/// ```
/// use adversarial::text::{SynonymList, Thesaurus};
///
/// let list = SynonymList::new([("good", "fine"), ("nice", "good"), ("good", "fine")]);
/// assert_eq!(list.synonyms("Good"), ["fine", "nice"]);
/// assert_eq!(list.synonyms("fine"), ["good"]);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SynonymList {
    synonyms: HashMap<String, Vec<String>>,
}

impl SynonymList {
    /// Pairs of synonyms.
    pub fn new(pairs: impl IntoIterator<Item = (impl AsRef<str>, impl AsRef<str>)>) -> Self {
        let mut list = Self::default();
        for (a, b) in pairs {
            list.add(&a.as_ref().to_lowercase(), &b.as_ref().to_lowercase());
        }
        list
    }

    /// Reads a file in UTF-8: on each line a word and its synonyms, parted by white space. Empty lines and those that begin with
    /// `#` are left out. A file of pairs is the case of one synonym a line.
    ///
    /// # Errors
    /// [`Error::Data`] naming the file: where it is not there or cannot be read, and the line that has a word without a synonym.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let wrong = |problem: String| Error::Data { path: path.to_path_buf(), problem };
        let text = fs::read_to_string(path).map_err(|error| {
            wrong(format!(
                "{error}; expected a list of synonyms, on each line a word and its synonyms, parted by spaces"
            ))
        })?;
        let mut list = Self::default();
        for (line, content) in text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with('#')) {
            let mut words = content.split_whitespace().map(str::to_lowercase);
            let Some(word) = words.next() else { continue };
            let others: Vec<String> = words.collect();
            if others.is_empty() {
                return Err(wrong(format!("line {}: expected a word and its synonyms, found {content:?}", line + 1)));
            }
            others.iter().for_each(|other| list.add(&word, other));
        }
        Ok(list)
    }

    /// Number of words that have synonyms.
    pub fn len(&self) -> usize {
        self.synonyms.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.synonyms.is_empty()
    }

    /// Whether a word is a synonym of another.
    pub fn contains(&self, word: &str, other: &str) -> bool {
        let other = other.to_lowercase();
        self.synonyms.get(&word.to_lowercase()).is_some_and(|synonyms| synonyms.contains(&other))
    }

    fn add(&mut self, a: &str, b: &str) {
        if a == b || a.is_empty() || b.is_empty() {
            return;
        }
        for (word, other) in [(a, b), (b, a)] {
            let synonyms = self.synonyms.entry(word.to_owned()).or_default();
            if !synonyms.iter().any(|synonym| synonym == other) {
                synonyms.push(other.to_owned());
            }
        }
    }
}

impl Thesaurus for SynonymList {
    fn synonyms(&self, word: &str) -> Vec<String> {
        self.synonyms.get(&word.to_lowercase()).cloned().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_and_their_faults_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("synonyms.txt");
        fs::write(&path, "# mine\ngood  fine nice\n\nGood\tfine\r\nbad bad awful\n").unwrap();
        let list = SynonymList::read(&path).unwrap();
        assert_eq!(list.synonyms("good"), ["fine", "nice"]);
        assert_eq!((list.synonyms("awful"), list.len()), (vec!["bad".to_owned()], 5));
        assert!(list.contains("Nice", "good") && !list.contains("nice", "fine"));
        fs::write(&path, "good fine\nlonely\n").unwrap();
        let error = SynonymList::read(&path).unwrap_err().to_string();
        assert!(error.contains("synonyms.txt: line 2: expected a word and its synonyms, found \"lonely\""), "{error}");
        let error = SynonymList::read(folder.path().join("none.txt")).unwrap_err().to_string();
        assert!(error.contains("none.txt: ") && error.contains("expected a list of synonyms"), "{error}");
    }
}
