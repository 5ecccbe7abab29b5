//! Words of the same meaning.

use std::sync::Arc;

use core_tensor::Random;

use super::Transformation;
use crate::text::{Sentence, Thesaurus};

/// Replaces a word by the synonyms that a thesaurus knows of the original word.
#[derive(Clone)]
pub struct Synonyms {
    thesaurus: Arc<dyn Thesaurus>,
}

impl Synonyms {
    /// Those of a thesaurus: [`WordNet`](crate::text::WordNet), [`SynonymList`](crate::text::SynonymList), or your own.
    pub fn new(thesaurus: Arc<dyn Thesaurus>) -> Self {
        Self { thesaurus }
    }
}

impl Transformation for Synonyms {
    fn name(&self) -> String {
        "synonyms".into()
    }

    fn candidates(&self, sentence: &Sentence, word: usize, _random: &mut Random) -> Vec<Sentence> {
        let synonyms = self.thesaurus.synonyms(sentence.original_word(word));
        synonyms.iter().map(|synonym| sentence.replace(word, synonym)).collect()
    }
}
