//! Where synonyms come from.

mod list;
mod wordnet;

pub use list::SynonymList;
pub use wordnet::WordNet;

/// Knows synonyms of words.
///
/// ```
/// use adversarial::text::Thesaurus;
///
/// /// Whatever the word, it is fine.
/// struct Fine;
///
/// impl Thesaurus for Fine {
///     fn synonyms(&self, word: &str) -> Vec<String> {
///         if word == "fine" { Vec::new() } else { vec!["fine".into()] }
///     }
/// }
/// ```
pub trait Thesaurus: Send + Sync {
    /// The synonyms of a word, the likeliest first, the word itself not among them; none of a word that is not known. Words come
    /// as they stand in the text; capitals are the caller's business.
    fn synonyms(&self, word: &str) -> Vec<String>;
}
