//! The losses of Show-and-Fool.

use super::captioner::{largest, log_sum_exp};
use super::goal::Aim;

/// How far logits are from what a captioner is to say. `z_t` are the logits of word `t`, `k` runs over the vocabulary.
///
/// | goal | [`Logits`](Self::Logits) | [`LogProbability`](Self::LogProbability) |
/// |---|---|---|
/// | a caption `S` | `Σ_t max(max_{k≠S_t} z_t,k − z_t,S_t, −κ)` | `−Σ_t log p_t(S_t)` |
/// | keywords `K_j` | `Σ_j min_t g_t,j(max(max_{k≠K_j} z_t,k − z_t,K_j, −κ))` | `Σ_j min_t g_t,j(−log p_t(K_j))` |
/// | without words `W_j` | `Σ_j Σ_t max(z_t,W_j − max_{k≠W_j} z_t,k, −κ)` | `−Σ_j Σ_t log(1 − p_t(W_j))` |
///
/// `z_t` is given the words of `S` before `t`; for the other goals those of the image's caption as it is decoded. The sums run over
/// all words and the end behind them. The gate `g_t,j(x)` is a large constant where another keyword wins word `t`
/// (`argmax_k z_t,k ∈ K \ {K_j}`), else `x`: without it two keywords fight for one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CaptionLoss {
    /// A hinge on logits, which lets go of a word once it is said with the confidence `κ` asked for: smaller perturbations.
    Logits,
    /// The negative log-likelihood.
    LogProbability,
}

/// The gate's constant.
const GATED: f64 = 1e4;

/// A loss at an image.
pub(crate) struct Scored {
    pub loss: f64,
    /// The least that the loss can be.
    pub least: f64,
    /// `∂loss/∂z`, a row a step.
    pub cotangent: Vec<f32>,
    /// Whether the logits say that decoding gives a caption that reaches the goal, no tie among them.
    pub promising: bool,
    /// Whether the logits are given the words that they would themselves choose.
    pub settled: bool,
}

/// Scores logits of `words` words a step, which are given the words of `read`, for an aim; captions end with `end`.
pub(crate) fn score(
    aim: &Aim,
    loss: CaptionLoss,
    kappa: f64,
    z: &[f32],
    read: &[usize],
    words: usize,
    end: usize,
) -> Scored {
    let most = z.len() / words;
    let steps = most.min(read.len() + 1);
    let at = |step: usize| &z[step * words..][..words];
    let wanted = |step: usize| read.get(step).copied().unwrap_or(end);
    let settled = (0..steps).all(|step| ahead(at(step), wanted(step)) > 0.0);
    let mut sum = Sum { loss: 0.0, terms: 0, cotangent: vec![0.0; z.len()], words };
    match aim {
        Aim::Caption(_) => (0..steps).for_each(|step| {
            sum.add(step, said(loss, kappa, at(step), wanted(step)));
        }),
        Aim::Keywords(keywords) => {
            let winners: Vec<usize> = (0..steps).map(|step| largest(at(step))).collect();
            for keyword in keywords {
                let open = (0..steps).filter(|t| winners[*t] == *keyword || !keywords.contains(&winners[*t]));
                let terms = open.map(|step| (step, said(loss, kappa, at(step), *keyword)));
                match terms.min_by(|(_, a), (_, b)| a.value.total_cmp(&b.value)) {
                    Some((step, term)) => sum.add(step, term),
                    None => sum.loss += GATED,
                }
            }
        }
        Aim::Without(banned) => {
            for (step, word) in (0..steps).flat_map(|step| banned.iter().map(move |word| (step, *word))) {
                sum.add(step, unsaid(loss, kappa, at(step), word));
            }
        }
    }
    let promising = settled && aim.reached(read);
    let least = match loss {
        CaptionLoss::Logits => -kappa * sum.terms as f64,
        CaptionLoss::LogProbability => 0.0,
    };
    Scored { loss: sum.loss, least, cotangent: sum.cotangent, promising, settled }
}

/// By how much the logit of a word is the largest; negative where another is.
fn ahead(z: &[f32], word: usize) -> f64 {
    f64::from(z[word]) - f64::from(z[rival(z, word)])
}

/// The largest logit but one; the word itself where there is no other, so that nothing is ever ahead.
fn rival(z: &[f32], word: usize) -> usize {
    let others = (0..z.len()).filter(|k| *k != word);
    others.reduce(|a, b| if z[b] > z[a] { b } else { a }).unwrap_or(word)
}

/// A term of a loss at one step: its value and where it has slopes.
struct Term {
    value: f64,
    slopes: Slopes,
}

enum Slopes {
    None,
    /// 1 at the first logit, −1 at the second.
    Pair(usize, usize),
    All(Vec<f64>),
}

struct Sum {
    loss: f64,
    terms: usize,
    cotangent: Vec<f32>,
    words: usize,
}

impl Sum {
    fn add(&mut self, step: usize, term: Term) {
        self.loss += term.value;
        self.terms += 1;
        let row = &mut self.cotangent[step * self.words..][..self.words];
        match term.slopes {
            Slopes::None => {}
            Slopes::Pair(up, down) => {
                row[up] += 1.0;
                row[down] -= 1.0;
            }
            Slopes::All(slopes) => row.iter_mut().zip(slopes).for_each(|(sum, slope)| *sum += slope as f32),
        }
    }
}

/// `max(z_up − z_down, −κ)`.
fn hinge(z: &[f32], up: usize, down: usize, kappa: f64) -> Term {
    let value = f64::from(z[up]) - f64::from(z[down]);
    match value < -kappa {
        true => Term { value: -kappa, slopes: Slopes::None },
        false => Term { value, slopes: Slopes::Pair(up, down) },
    }
}

/// Small where a word is said.
fn said(loss: CaptionLoss, kappa: f64, z: &[f32], word: usize) -> Term {
    match loss {
        CaptionLoss::Logits => hinge(z, rival(z, word), word, kappa),
        CaptionLoss::LogProbability => {
            let total = log_sum_exp(z);
            let mut slopes: Vec<f64> = z.iter().map(|z| (f64::from(*z) - total).exp()).collect();
            slopes[word] -= 1.0;
            Term { value: total - f64::from(z[word]), slopes: Slopes::All(slopes) }
        }
    }
}

/// Small where a word is not said.
fn unsaid(loss: CaptionLoss, kappa: f64, z: &[f32], word: usize) -> Term {
    match loss {
        CaptionLoss::Logits => hinge(z, word, rival(z, word), kappa),
        CaptionLoss::LogProbability => {
            let total = log_sum_exp(z);
            let others: Vec<f32> = z.iter().enumerate().filter(|(k, _)| *k != word).map(|(_, z)| *z).collect();
            let rest = log_sum_exp(&others);
            let p = (f64::from(z[word]) - total).exp();
            let slope = |(k, z): (usize, &f32)| if k == word { p } else { -p * (f64::from(*z) - rest).exp() };
            Term { value: total - rest, slopes: Slopes::All(z.iter().enumerate().map(slope).collect()) }
        }
    }
}
