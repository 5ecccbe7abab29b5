//! HotFlip.

use std::collections::{BinaryHeap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use unicode_segmentation::UnicodeSegmentation;

use super::{TextAttack, TextSetting};
use crate::attack::Walk;
use crate::attack::check::at_least_one;
use crate::error::Result;
use crate::text::constraint::{Constraint, SamePartOfSpeech, StopWords, SuffixTagger, cosine};
use crate::text::engine::{TextCase, TextOracle};
use crate::text::{Sentence, TokenGradients, WordVectors};

/// HotFlip: replaces the tokens whose exchange raises the goal's score most by the gradient, with a beam. The attack to take where the
/// model gives gradients and queries are dear.
///
/// To exchange the token `a` at place `i` for `b` changes the score by about `∇ᵢ · (v_b − v_a)`, with the gradient in the vector at that place and
/// the model's vectors `v`: one gradient rates every exchange of every token. Of each sentence in the beam the `flips` that promise most are
/// asked about, and the best `width` go on.
///
/// Tokens are the model's: words, or the characters of a model that reads characters. Tokens that the model does not know are not exchanged,
/// and only words of the text are ever put in.
///
/// | parameter | default | range | effect |
/// |---|---|---|---|
/// | [`most_flips`](Self::most_flips) | 2 | ≥ 1 | tokens exchanged at most |
/// | [`width`](Self::width) | 10 | ≥ 1 | sentences that go on |
/// | [`flips`](Self::flips) | 10 | ≥ 1 | exchanges asked about for each of them |
/// | [`least_cosine`](Self::least_cosine) | 0.8 | −1 to 1 | of the vectors exchanged; −1 for characters |
/// | [`same_part_of_speech`](Self::same_part_of_speech) | by [`SuffixTagger`] | | none for characters |
/// | [`stop_words`](Self::stop_words) | those of English | | words that stay |
/// | [`constraint`](Self::constraint) | none | | more to be kept |
///
/// Guarantee: for a linear classifier the promise is exact, and the best exchange is found with a width of 1
/// (`hot_flip_finds_the_best_flip_of_a_linear_classifier`).
///
/// Cost: a round takes at most `width` gradients and `width · flips` queries, and for each token of each sentence one pass over
/// the model's vectors.
///
/// Errors: [`Error::Parameter`](crate::Error::Parameter), and [`Error::Unsupported`](crate::Error::Unsupported) for a model without gradients.
///
/// J. Ebrahimi, A. Rao, D. Lowd, D. Dou, "HotFlip: white-box adversarial examples for text classification", ACL 2018,
/// arXiv:1712.06751. Deviations: the beam keeps sentences by their scores, not by the sum of promises; characters are exchanged only, not put
/// in or taken out.
///
/// ```
/// use adversarial::text::HotFlip;
///
/// let attack = HotFlip::new().most_flips(3).least_cosine(0.5);
/// # let _ = attack;
/// ```
#[derive(Clone)]
pub struct HotFlip {
    most_flips: usize,
    width: usize,
    flips: usize,
    least_cosine: f64,
    part_of_speech: Option<SamePartOfSpeech>,
    stop_words: StopWords,
    constraints: Vec<Arc<dyn Constraint>>,
}

impl Default for HotFlip {
    fn default() -> Self {
        Self::new()
    }
}

impl HotFlip {
    /// With the paper's constraints on words.
    pub fn new() -> Self {
        Self {
            most_flips: 2,
            width: 10,
            flips: 10,
            least_cosine: 0.8,
            part_of_speech: Some(SamePartOfSpeech::new(Arc::new(SuffixTagger))),
            stop_words: StopWords::english(),
            constraints: Vec::new(),
        }
    }

    /// Sets how many tokens are exchanged at most.
    pub fn most_flips(self, most_flips: usize) -> Self {
        Self { most_flips, ..self }
    }

    /// Sets how many sentences go on.
    pub fn width(self, width: usize) -> Self {
        Self { width, ..self }
    }

    /// Sets how many exchanges of each sentence are asked about.
    pub fn flips(self, flips: usize) -> Self {
        Self { flips, ..self }
    }

    /// Sets the least cosine of the vectors exchanged.
    pub fn least_cosine(self, least_cosine: f64) -> Self {
        Self { least_cosine, ..self }
    }

    /// Sets how parts of speech are compared; none for any.
    pub fn same_part_of_speech(self, part_of_speech: Option<SamePartOfSpeech>) -> Self {
        Self { part_of_speech, ..self }
    }

    /// Sets the words that stay.
    pub fn stop_words(self, stop_words: StopWords) -> Self {
        Self { stop_words, ..self }
    }

    /// Adds what has to be kept.
    pub fn constraint(mut self, constraint: impl Constraint + 'static) -> Self {
        self.constraints.push(Arc::new(constraint));
        self
    }

    fn all(&self) -> impl Iterator<Item = &dyn Constraint> {
        let own: [Option<&dyn Constraint>; 2] =
            [Some(&self.stop_words), self.part_of_speech.as_ref().map(|part| part as &dyn Constraint)];
        own.into_iter().flatten().chain(self.constraints.iter().map(|constraint| &**constraint))
    }

    /// The exchanges of a sentence that promise most, at most `flips`, which were not seen before.
    fn best_flips(
        &self,
        sentence: &Sentence,
        of: &TokenGradients,
        vectors: &WordVectors,
        usable: &[usize],
        seen: &mut HashSet<Sentence>,
    ) -> Vec<Sentence> {
        let spans = sentence.spans();
        let mut heap: Vec<Flip> = Vec::new();
        for ((token, row), gradient) in of.tokens.iter().zip(&of.rows).zip(&of.gradients) {
            let Some(old) = row.filter(|row| *row < vectors.len() && gradient.len() == vectors.dimension()) else {
                continue;
            };
            let word = spans.partition_point(|span| span.end <= token.start);
            let inside = spans.get(word).is_some_and(|span| span.start <= token.start && token.end <= span.end);
            if !inside || !self.all().all(|constraint| constraint.may_change(sentence, word)) {
                continue;
            }
            let place = token.start - spans[word].start..token.end - spans[word].start;
            let along = |row: usize| {
                vectors.vector(row).iter().zip(gradient).map(|(v, g)| f64::from(*v) * f64::from(*g)).sum::<f64>()
            };
            let before = along(old);
            for new in usable.iter().copied().filter(|new| *new != old) {
                let promise = along(new) - before;
                if promise > 0.0 {
                    heap.push(Flip { promise, word, place: place.clone(), old, new });
                }
            }
        }
        let mut heap = BinaryHeap::from(heap);
        let mut found = Vec::new();
        while found.len() < self.flips
            && let Some(flip) = heap.pop()
        {
            if vectors.cosine_of_rows(flip.old, flip.new) < self.least_cosine {
                continue;
            }
            let changed = flip.apply(sentence, &vectors.words()[flip.new]);
            if !seen.contains(&changed) && self.all().all(|constraint| constraint.allows(&changed)) {
                seen.insert(changed.clone());
                found.push(changed);
            }
        }
        found
    }
}

impl TextAttack for HotFlip {
    fn name(&self) -> String {
        "HotFlip".into()
    }

    fn needs_gradients(&self) -> bool {
        true
    }

    fn check(&self, _setting: &TextSetting) -> Result<()> {
        at_least_one("most_flips", self.most_flips)?;
        at_least_one("width", self.width)?;
        at_least_one("flips", self.flips)?;
        cosine("least_cosine", self.least_cosine)?;
        self.all().try_for_each(|constraint| constraint.check())
    }

    fn walk<'a>(&'a self, case: TextCase<'a>, oracle: TextOracle) -> Walk<'a> {
        Box::pin(async move {
            let Some(vectors) = case.word_vectors() else { return };
            // Signs such as `<pad>` are no words of a text.
            let usable: Vec<usize> = (0..vectors.len()).filter(|row| is_word(&vectors.words()[*row])).collect();
            let original = case.sentence().clone();
            let mut seen = HashSet::from([original.clone()]);
            let mut beam = vec![original];
            for _ in 0..self.most_flips {
                let gradients = oracle.gradients(beam.iter().map(Sentence::text).collect()).await;
                let mut candidates = Vec::new();
                for (sentence, of) in beam.iter().zip(&gradients) {
                    candidates.extend(self.best_flips(sentence, of, vectors, &usable, &mut seen));
                }
                if candidates.is_empty() {
                    return;
                }
                let replies = oracle.candidates(candidates.clone()).await;
                let mut order: Vec<usize> = (0..replies.len()).collect();
                order.sort_by(|a, b| replies[*b].score.total_cmp(&replies[*a].score));
                beam = order.into_iter().take(self.width).map(|i| candidates[i].clone()).collect();
            }
        })
    }
}

/// Whether a row of the vectors is one word of a text and nothing else.
pub(super) fn is_word(word: &str) -> bool {
    word.unicode_words().next() == Some(word)
}

/// A token exchanged for another.
struct Flip {
    /// What the score is expected to gain.
    promise: f64,
    word: usize,
    /// Where the token lies in the word.
    place: Range<usize>,
    old: usize,
    new: usize,
}

impl Flip {
    fn apply(&self, sentence: &Sentence, new: &str) -> Sentence {
        let word = sentence.word(self.word);
        match self.place == (0..word.len()) {
            true => sentence.replace(self.word, new),
            false => {
                let (before, after) = (word.get(..self.place.start), word.get(self.place.end..));
                let changed = [before.unwrap_or_default(), new, after.unwrap_or_default()].concat();
                sentence.replace(self.word, &changed)
            }
        }
    }
}

impl Ord for Flip {
    /// By promise; of equal ones the first word and the first row is the largest.
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        let place = |flip: &Self| (flip.word, flip.place.start, flip.new);
        self.promise.total_cmp(&other.promise).then_with(|| place(other).cmp(&place(self)))
    }
}

impl PartialOrd for Flip {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Flip {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Flip {}
