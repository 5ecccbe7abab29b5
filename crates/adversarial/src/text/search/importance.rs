//! Which words matter.

use super::super::engine::TextOracle;
use super::super::goal::{prediction, probabilities};
use super::super::{Sentence, TokenGradients};
use super::Space;

/// How much a word matters to the goal: the larger, the sooner it is changed.
///
/// `q(x)` is the probability that the goal asks for: `1 − p_y(x)`, or `p_t(x)` of a target. For words `x₁ … xₙ`:
///
/// | importance | of word `i` | queries for `m` words | from |
/// |---|---|---|---|
/// | [`DeleteOne`](Self::DeleteOne) | `q(x without xᵢ) − q(x)` | m | Li et al. 2016 |
/// | [`DeleteOneOrTurn`](Self::DeleteOneOrTurn) | the same, and what the class that is predicted without it gains, where that is another | m | TextFooler |
/// | [`Unknown`](Self::Unknown) | `q(x with an unknown word in its place) − q(x)` | m | PWWS, DeepWordBug's Replace-1 |
/// | [`Head`](Self::Head) | `q(x₁ … xᵢ₋₁) − q(x₁ … xᵢ)` | ≤ 2m | DeepWordBug |
/// | [`Tail`](Self::Tail) | `q(xᵢ₊₁ … xₙ) − q(xᵢ … xₙ)` | ≤ 2m | DeepWordBug |
/// | [`Combined`](Self::Combined) | head and `λ` times tail | ≤ 4m | DeepWordBug |
/// | [`Gradient`](Self::Gradient) | the norm of the gradient in its tokens' vectors | 0, and 1 gradient | |
/// | [`Random`](Self::Random) | a random number | 0 | |
/// | [`InOrder`](Self::InOrder) | the sooner it stands in the sentence | 0 | |
///
/// Where nothing would be left of a text, it is the unknown word instead.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Importance {
    /// What taking it out does.
    DeleteOne,
    /// What taking it out does, with a bonus where it turns the prediction.
    DeleteOneOrTurn,
    /// What an unknown word in its place does.
    Unknown,
    /// What it adds to the words before it.
    Head,
    /// What it adds to the words behind it.
    Tail,
    /// `Head` and this times `Tail`.
    Combined(f64),
    /// The norm of the gradient.
    Gradient,
    /// Any order.
    Random,
    /// The order of the sentence.
    InOrder,
}

impl Importance {
    /// The importance of some of the words of the original sentence.
    pub async fn of(self, space: &Space<'_>, oracle: &TextOracle, words: &[usize]) -> Vec<f64> {
        let sentence = space.case.sentence();
        match self {
            Self::InOrder => words.iter().map(|word| -(*word as f64)).collect(),
            Self::Random => {
                let mut random = space.case.random().fork("importance");
                words.iter().map(|_| random.next_f64()).collect()
            }
            Self::Unknown => {
                let texts = words.iter().map(|word| sentence.replace_exactly(*word, space.unknown).text()).collect();
                oracle.probe(texts).await.iter().map(|reply| reply.score).collect()
            }
            Self::DeleteOne => {
                // The score rises with q: the order is the same, and it does not saturate.
                oracle.probe(without(space, words)).await.iter().map(|reply| reply.score).collect()
            }
            Self::DeleteOneOrTurn => {
                let clean = probabilities(space.case.logits());
                let (before, label) = (odds(space.case.score()), space.case.goal().label());
                let replies = oracle.probe(without(space, words)).await;
                let of = replies.iter().map(|reply| {
                    let turned = prediction(&reply.logits).filter(|class| *class != label);
                    let gain = turned.map_or(0.0, |class| probabilities(&reply.logits)[class] - clean[class]);
                    odds(reply.score) - before + gain
                });
                of.collect()
            }
            Self::Head => parts(space, oracle, words, |at| 0..at).await,
            Self::Tail => tail(space, oracle, words).await,
            Self::Combined(weight) => {
                let head = parts(space, oracle, words, |at| 0..at).await;
                let tail = tail(space, oracle, words).await;
                head.iter().zip(tail).map(|(head, tail)| head + weight * tail).collect()
            }
            Self::Gradient => {
                let gradients = oracle.gradients(vec![sentence.text()]).await;
                let norms = gradients.first().map_or_else(|| vec![0.0; sentence.len()], |of| word_norms(sentence, of));
                words.iter().map(|word| norms[*word]).collect()
            }
        }
    }
}

/// The texts without each of the words.
fn without(space: &Space<'_>, words: &[usize]) -> Vec<String> {
    let sentence = space.case.sentence();
    let text =
        |word: &usize| if sentence.len() == 1 { space.unknown.to_owned() } else { sentence.delete(*word).text() };
    words.iter().map(text).collect()
}

async fn tail(space: &Space<'_>, oracle: &TextOracle, words: &[usize]) -> Vec<f64> {
    let count = space.case.sentence().len();
    // The text from a word on, and that from the next on: the same difference, seen from behind.
    let gains = parts(space, oracle, words, |at| at..count).await;
    gains.into_iter().map(|gain| -gain).collect()
}

/// `q` of the words `range(i)` less `q` of those of `range(i + 1)`, for each word `i`.
async fn parts(
    space: &Space<'_>,
    oracle: &TextOracle,
    words: &[usize],
    range: impl Fn(usize) -> std::ops::Range<usize>,
) -> Vec<f64> {
    let sentence = space.case.sentence();
    let text = |at: usize| {
        let (spans, range) = (sentence.original_spans(), range(at));
        match range.is_empty() {
            true => space.unknown.to_owned(),
            false => {
                let start = if range.start == 0 { 0 } else { spans[range.start].start };
                let end = if range.end == spans.len() { sentence.original().len() } else { spans[range.end - 1].end };
                sentence.original()[start..end].to_owned()
            }
        }
    };
    let texts = words.iter().flat_map(|word| [text(*word), text(word + 1)]).collect();
    let replies = oracle.probe(texts).await;
    replies.chunks(2).map(|pair| odds(pair[0].score) - odds(pair[1].score)).collect()
}

/// The probability of log odds.
pub(super) fn odds(score: f64) -> f64 {
    1.0 / (1.0 + libm::exp(-score))
}

/// The norm of the gradients of each word's tokens.
fn word_norms(sentence: &Sentence, of: &TokenGradients) -> Vec<f64> {
    let spans = sentence.spans();
    let mut squares = vec![0.0; spans.len()];
    for (token, gradient) in of.tokens.iter().zip(&of.gradients) {
        // Words do not overlap, so the one that a token lies in is the first that ends behind its start.
        let word = spans.partition_point(|span| span.end <= token.start);
        if spans.get(word).is_some_and(|span| span.start < token.end) {
            squares[word] += gradient.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>();
        }
    }
    squares.into_iter().map(f64::sqrt).collect()
}
