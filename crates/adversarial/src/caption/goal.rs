//! What a captioner is to be made to say.

use super::captioner::Captioner;
use crate::error::{Error, Result};

/// What counts as success on one image: what its caption by greedy decoding is to be.
///
/// ```
/// use adversarial::caption::CaptionGoal;
///
/// let goals = [
///     CaptionGoal::caption("a red circle on sand"),
///     CaptionGoal::keywords(["red", "sand"]),
///     CaptionGoal::without(["circle"]),
/// ];
/// assert_eq!(goals[1].to_string(), "red, sand");
/// assert_eq!(goals.map(|goal| goal.reached_by("a red cross on sand")), [false, true, true]);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CaptionGoal {
    /// Exactly this caption, its words parted by white space.
    Caption(String),
    /// A caption that says all of these words, anywhere.
    Keywords(Vec<String>),
    /// A caption that says none of these words.
    Without(Vec<String>),
}

impl CaptionGoal {
    /// Exactly this caption.
    pub fn caption(caption: impl Into<String>) -> Self {
        Self::Caption(caption.into())
    }

    /// All of these words, anywhere.
    pub fn keywords<W: Into<String>>(words: impl IntoIterator<Item = W>) -> Self {
        Self::Keywords(words.into_iter().map(Into::into).collect())
    }

    /// None of these words.
    pub fn without<W: Into<String>>(words: impl IntoIterator<Item = W>) -> Self {
        Self::Without(words.into_iter().map(Into::into).collect())
    }

    /// Whether a caption is a success.
    pub fn reached_by(&self, caption: &str) -> bool {
        let said: Vec<&str> = caption.split_whitespace().collect();
        match self {
            Self::Caption(words) => words.split_whitespace().eq(said),
            Self::Keywords(words) => words.iter().all(|word| said.contains(&word.as_str())),
            Self::Without(words) => !words.iter().any(|word| said.contains(&word.as_str())),
        }
    }

    /// The goal of image `example` in numbers.
    pub(crate) fn aim(&self, captioner: &dyn Captioner, example: usize) -> Result<Aim> {
        let (vocabulary, most) = (captioner.vocabulary(), captioner.most_words());
        let wrong = |problem: String| Err(Error::Caption { example, caption: self.to_string(), problem });
        let words = match self {
            Self::Caption(caption) => vocabulary.encode(caption)?,
            Self::Keywords(words) | Self::Without(words) => {
                words.iter().map(|word| vocabulary.number(word)).collect::<Result<Vec<_>>>()?
            }
        };
        if words.is_empty() {
            return wrong("has no word".into());
        }
        if words.len() > most && !matches!(self, Self::Without(_)) {
            return wrong(format!("has {} words, the captioner writes {most} at most", words.len()));
        }
        let twice = words.iter().enumerate().find(|(i, word)| words[..*i].contains(word));
        match (self, twice) {
            (Self::Caption(_), _) => Ok(Aim::Caption(words)),
            (_, Some((_, word))) => {
                let word = vocabulary.words()[*word].clone();
                Err(Error::Word { word, problem: "it is asked for twice" })
            }
            (Self::Keywords(_), None) => Ok(Aim::Keywords(words)),
            (Self::Without(_), None) => Ok(Aim::Without(words)),
        }
    }
}

impl std::fmt::Display for CaptionGoal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Caption(caption) => f.write_str(caption),
            Self::Keywords(words) => f.write_str(&words.join(", ")),
            Self::Without(words) => write!(f, "without {}", words.join(", ")),
        }
    }
}

/// A goal in the numbers of words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Aim {
    Caption(Vec<usize>),
    Keywords(Vec<usize>),
    Without(Vec<usize>),
}

impl Aim {
    /// Whether a decoded caption is a success.
    pub fn reached(&self, caption: &[usize]) -> bool {
        match self {
            Self::Caption(words) => caption == words,
            Self::Keywords(words) => words.iter().all(|word| caption.contains(word)),
            Self::Without(words) => !words.iter().any(|word| caption.contains(word)),
        }
    }
}
