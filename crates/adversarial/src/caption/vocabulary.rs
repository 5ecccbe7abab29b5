//! The words of a captioner.

use std::collections::HashMap;

use crate::error::{Error, Result};

/// The words that a captioner writes, numbered as its logits are, and the one that ends a caption.
///
/// ```
/// use adversarial::caption::Vocabulary;
///
/// let vocabulary = Vocabulary::new(["a", "red", "circle", "."], ".")?;
/// assert_eq!(vocabulary.encode("a red circle")?, [0, 1, 2]);
/// assert_eq!(vocabulary.spell(&[0, 1, 2]), "a red circle");
/// assert_eq!(vocabulary.end(), 3);
/// assert!(vocabulary.encode("a blue circle").is_err());
/// # Ok::<(), adversarial::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vocabulary {
    words: Vec<String>,
    numbers: HashMap<String, usize>,
    end: usize,
}

impl Vocabulary {
    /// The words in the order of the logits, and which of them ends a caption.
    ///
    /// # Errors
    /// [`Error::Word`] for a word that is empty, has white space in it or is given twice, and where `end` is none of the words.
    pub fn new<W: Into<String>>(words: impl IntoIterator<Item = W>, end: &str) -> Result<Self> {
        let words: Vec<String> = words.into_iter().map(Into::into).collect();
        let mut numbers = HashMap::with_capacity(words.len());
        for (number, word) in words.iter().enumerate() {
            let wrong = |problem| Err(Error::Word { word: word.clone(), problem });
            if word.is_empty() || word.contains(char::is_whitespace) {
                return wrong("words of a vocabulary are not empty and have no white space");
            }
            if numbers.insert(word.clone(), number).is_some() {
                return wrong("it is in the vocabulary twice");
            }
        }
        let Some(&end) = numbers.get(end) else {
            return Err(Error::Word {
                word: end.to_owned(),
                problem: "it is to end captions and not in the vocabulary",
            });
        };
        Ok(Self { words, numbers, end })
    }

    /// Number of words, the ending one included.
    pub fn len(&self) -> usize {
        self.words.len()
    }

    /// Never: there is at least the word that ends captions.
    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// The words in order.
    pub fn words(&self) -> &[String] {
        &self.words
    }

    /// The number of the word that ends a caption.
    pub fn end(&self) -> usize {
        self.end
    }

    /// The number of a word.
    ///
    /// # Errors
    /// [`Error::Word`] for a word that is not there, and for the one that ends captions: it is not said.
    pub fn number(&self, word: &str) -> Result<usize> {
        let wrong = |problem| Err(Error::Word { word: word.to_owned(), problem });
        match self.numbers.get(word) {
            None => wrong("it is not in the captioner's vocabulary"),
            Some(number) if *number == self.end => wrong("it ends captions and cannot be said"),
            Some(number) => Ok(*number),
        }
    }

    /// The numbers of a caption's words, which are parted by white space; without the word that ends it.
    ///
    /// # Errors
    /// As [`number`](Self::number), for the first such word.
    pub fn encode(&self, caption: &str) -> Result<Vec<usize>> {
        caption.split_whitespace().map(|word| self.number(word)).collect()
    }

    /// The caption of such numbers.
    ///
    /// # Panics
    /// For a number that is none of a word.
    pub fn spell(&self, caption: &[usize]) -> String {
        caption.iter().map(|number| self.words[*number].as_str()).collect::<Vec<_>>().join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_words_are_named() {
        let error = |words: &[&str], end| Vocabulary::new(words.iter().copied(), end).unwrap_err().to_string();
        assert!(error(&["a", "a b"], "a").contains("\"a b\""));
        assert!(error(&["a", ""], "a").contains("\"\""));
        assert!(error(&["a", "b", "a"], "a").contains("\"a\": it is in the vocabulary twice"));
        assert!(error(&["a", "b"], ".").contains("\".\": it is to end captions"));
        let vocabulary = Vocabulary::new(["a", "."], ".").unwrap();
        assert!(vocabulary.encode("a dog").unwrap_err().to_string().contains("\"dog\": it is not in"));
        assert!(vocabulary.encode("a .").unwrap_err().to_string().contains("\".\": it ends captions"));
        assert_eq!(vocabulary.encode(" a  a ").unwrap(), [0, 0]);
        assert_eq!((vocabulary.spell(&[]), vocabulary.len()), (String::new(), 2));
    }
}
