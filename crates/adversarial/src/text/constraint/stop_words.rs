//! Words that carry no meaning of their own.

use std::collections::HashSet;

use super::Constraint;
use crate::text::Sentence;

/// Stop words are not changed: they are what grammar hangs on, and a sentence without its `not` says something else.
///
/// Words are compared in small letters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StopWords {
    words: HashSet<String>,
}

impl StopWords {
    /// The stop words of English: articles, pronouns, prepositions, conjunctions, auxiliary verbs, negations and their short
    /// forms.
    pub fn english() -> Self {
        Self::new(ENGLISH.split_whitespace())
    }

    /// These words.
    pub fn new(words: impl IntoIterator<Item = impl AsRef<str>>) -> Self {
        Self { words: words.into_iter().map(|word| word.as_ref().to_lowercase()).collect() }
    }

    /// Whether a word is one of them.
    pub fn contains(&self, word: &str) -> bool {
        self.words.contains(&word.to_lowercase().replace('’', "'"))
    }
}

impl Constraint for StopWords {
    fn name(&self) -> String {
        "stop words stay".into()
    }

    fn may_change(&self, sentence: &Sentence, word: usize) -> bool {
        !self.contains(sentence.original_word(word))
    }

    fn allows(&self, sentence: &Sentence) -> bool {
        sentence.changed().all(|word| self.may_change(sentence, word))
    }
}

const ENGLISH: &str = "\
    a an the this that these those such \
    i me my mine myself we us our ours ourselves you your yours yourself yourselves he him his himself she her hers herself it \
    its itself they them their theirs themselves who whom whose which what whoever whatever whichever \
    i'm i've i'd i'll we're we've we'd we'll you're you've you'd you'll he's he'd he'll she's she'd she'll it's it'd it'll \
    they're they've they'd they'll that's that'll there's here's what's who's who'll where's let's \
    am is are was were be been being have has had having do does did doing done can could may might must shall should will would \
    ought cannot \
    not no nor none never neither isn't aren't wasn't weren't hasn't haven't hadn't don't doesn't didn't can't couldn't mayn't \
    mightn't mustn't needn't shan't shouldn't won't wouldn't ain't \
    and or but if because as until while although though unless since whether than so yet either both \
    of at by for with without within about against between among into onto upon through throughout during before after above below \
    to from up down in out on off over under toward towards across along around behind beside besides beyond near per via except \
    again further then once here there when where why how all any each every few more most other others another some same own only \
    just too very also even still almost ever now s t d ll m o re ve y";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stop_words_stay_whatever_their_case_and_apostrophe() {
        let stop = StopWords::english();
        assert!(["The", "NOT", "don't", "Don’t", "with"].iter().all(|word| stop.contains(word)));
        assert!(["good", "film", "", "notable"].iter().all(|word| !stop.contains(word)));
        let sentence = Sentence::new("The film");
        assert!(!stop.may_change(&sentence, 0) && stop.may_change(&sentence, 1));
        assert!(!stop.allows(&sentence.replace(0, "a")) && stop.allows(&sentence.replace(1, "movie")));
    }
}
