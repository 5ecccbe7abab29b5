//! How many words may be changed.

use super::Constraint;
use crate::error::{Error, Result};
use crate::text::Sentence;

/// At most a share, or a number, of the words may be changed.
///
/// A share of a short sentence may be less than a word: then nothing is. Give [`or_one`](Self::or_one) to allow one word always.
///
/// ```
/// use adversarial::text::{Constraint, MostChanged, Sentence};
///
/// let sentence = Sentence::new("a good film of four words").replace(1, "nice");
/// assert!(MostChanged::share(0.2).allows(&sentence) && MostChanged::words(1).allows(&sentence));
/// assert!(!MostChanged::share(0.3).allows(&sentence.replace(2, "movie")));
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MostChanged {
    share: f64,
    words: usize,
    or_one: bool,
}

impl MostChanged {
    /// At most this share of the words.
    pub fn share(share: f64) -> Self {
        Self { share, words: usize::MAX, or_one: false }
    }

    /// At most so many words.
    pub fn words(words: usize) -> Self {
        Self { share: 1.0, words, or_one: false }
    }

    /// Allows one word in any case.
    pub fn or_one(self) -> Self {
        Self { or_one: true, ..self }
    }

    fn most(&self, sentence: &Sentence) -> usize {
        // What is a whole number but for its rounding is one.
        let share = (self.share * sentence.len() as f64 + 1e-9) as usize;
        share.min(self.words).max(usize::from(self.or_one))
    }
}

impl Constraint for MostChanged {
    fn name(&self) -> String {
        match self.words {
            usize::MAX => format!("at most {} of the words", self.share),
            words => format!("at most {words} words"),
        }
    }

    fn check(&self) -> Result<()> {
        match self.share > 0.0 && self.share <= 1.0 {
            true => Ok(()),
            false => Err(Error::Parameter { parameter: "share", value: self.share, bound: "0 < share <= 1" }),
        }
    }

    fn may_change(&self, sentence: &Sentence, word: usize) -> bool {
        sentence.is_changed(word) || sentence.changed().len() < self.most(sentence)
    }

    fn allows(&self, sentence: &Sentence) -> bool {
        sentence.changed().len() <= self.most(sentence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_of_the_words() {
        let sentence = Sentence::new("one two three four five six seven eight nine ten");
        let three = (0..3).fold(sentence.clone(), |sentence, word| sentence.replace(word, "x"));
        assert!(MostChanged::share(0.3).allows(&three) && !MostChanged::share(0.29).allows(&three));
        assert!(!MostChanged::share(0.3).may_change(&three, 5) && MostChanged::share(0.3).may_change(&three, 0));
        let short = Sentence::new("one two");
        assert!(
            !MostChanged::share(0.3).may_change(&short, 0) && MostChanged::share(0.3).or_one().may_change(&short, 0)
        );
        assert!(MostChanged::share(0.0).check().is_err() && MostChanged::share(f64::NAN).check().is_err());
    }
}
