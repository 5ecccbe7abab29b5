//! Free large-batch adversarial training on word vectors.

use burn::tensor::Tensor;
use core_tensor::{Random, Scalar, Tree};

use super::{TextBatch, TextStep, TextTraining, joint, lengths, of_length};
use crate::attack::check::{at_least_one, positive};
use crate::error::Result;
use crate::text::TextModule;

/// Ascends in the word vectors for several steps, and learns from the gradient at each point on the way.
///
/// ```text
/// δ₀ ~ U(−ε, ε)/√N_δ,   g_θ = (1/K) Σ_{t=1..K} ∇_θ L(s + δ_{t−1}; θ)
/// δ_t = Π_{‖δ‖_F ≤ ε}(δ_{t−1} + α g_δ/‖g_δ‖_F)
/// ```
///
/// `s` are the vectors of all words of a sentence, `N_δ` how many values these are, `‖·‖_F` is taken over a sentence. Dropout is the same at
/// each of the `K` points. Each backward pass gives the gradient of parameters and of `δ`. What is said of the size of `ε` at [`Fgm`](super::Fgm) holds
/// here too.
///
/// | parameter | default | range | effect |
/// |---|---|---|---|
/// | `epsilon` | – | `(0, ∞)` | `ε`, largest length of a sentence's perturbation |
/// | [`steps`](Self::steps) | 3 | `≥ 1` | `K`; with 1 the loss at the random start alone |
/// | [`step_size`](Self::step_size) | `ε` | `(0, ∞)` | `α`, length of a step |
///
/// Guarantees: no perturbation is longer than `ε` (`perturbations_have_their_length`); with one step and a tiny `ε` it is [`Standard`](super::Standard)
/// training (`freelb_without_a_radius_is_standard_training`).
///
/// Cost: `K` gradient evaluations; no host synchronisation.
///
/// C. Zhu, Y. Cheng, Z. Gan, S. Sun, T. Goldstein, J. Liu, "FreeLB: enhanced adversarial training for natural language understanding", ICLR
/// 2020, arXiv:1909.11764, algorithm 1. Deviation: the last ascent, whose point no gradient is taken at, is left out.
///
/// ```
/// use adversarial::text::training::{FreeLb, TextTrainer};
/// use adversarial::text::{Corpus, GruClassifierConfig, Vocabulary};
/// use burn::tensor::Device;
///
/// let corpus = Corpus::opinions(100, 1)?;
/// let vocabulary = Vocabulary::build(corpus.texts(), 1, 10_000)?;
/// let model = GruClassifierConfig::new().with_dimension(8).with_hidden(8).try_init(&vocabulary, 2, 1, &Device::flex())?;
/// let method = FreeLb::new(1.0)?.steps(2)?.step_size(0.5)?;
/// let classifier = TextTrainer::new().epochs(1)?.train(model, vocabulary, &corpus, &method)?;
/// # Ok::<(), adversarial::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FreeLb {
    epsilon: f64,
    steps: usize,
    step_size: Option<f64>,
}

impl FreeLb {
    /// With perturbations of length `epsilon` at most, and the settings of the table.
    ///
    /// # Errors
    /// [`Error::Parameter`](crate::Error::Parameter) unless it is above zero and finite.
    pub fn new(epsilon: f64) -> Result<Self> {
        positive("epsilon", epsilon)?;
        Ok(Self { epsilon, steps: 3, step_size: None })
    }

    /// Points at which gradients are taken, `K`.
    ///
    /// # Errors
    /// [`Error::Parameter`](crate::Error::Parameter) for 0.
    pub fn steps(self, steps: usize) -> Result<Self> {
        at_least_one("steps", steps)?;
        Ok(Self { steps, ..self })
    }

    /// Length of a step, `α`.
    ///
    /// # Errors
    /// [`Error::Parameter`](crate::Error::Parameter) unless it is above zero and finite.
    pub fn step_size(self, step_size: f64) -> Result<Self> {
        positive("step_size", step_size)?;
        Ok(Self { step_size: Some(step_size), ..self })
    }

    /// `δ₀`: zero after a sentence's last word.
    pub(super) fn start<M: TextModule>(&self, model: &M, batch: &TextBatch, random: &Random) -> Tensor<3> {
        let vectors = batch.embed(model).vectors.inner();
        let dimension = vectors.dims()[2];
        let mask = batch.mask.clone().inner().cast(vectors.dtype()).unsqueeze_dim::<3>(2);
        let values = (mask.clone().sum_dim(1) * dimension as f64).clamp_min(1.0);
        let drawn = random.fork("start").uniform(vectors.dims(), -self.epsilon, self.epsilon, &vectors.device());
        drawn.cast(vectors.dtype()) * mask / values.sqrt()
    }

    /// `δ_t` of `δ_{t−1}` and its gradient.
    pub(super) fn ascend(&self, shift: Tensor<3>, slope: Tensor<3>) -> Tensor<3> {
        let moved = shift + of_length(slope, self.step_size.unwrap_or(self.epsilon));
        let length = lengths(moved.clone()).clamp_min(self.epsilon);
        moved * (length.recip() * self.epsilon)
    }
}

impl<M: TextModule> TextTraining<M> for FreeLb {
    fn gradients(&self, model: &M, batch: &TextBatch, random: &Random) -> Result<TextStep> {
        let mut shift = self.start(model, batch, random);
        let mut sum: Option<(Tree, Tensor<1>)> = None;
        for step in 1..=self.steps {
            let found = joint(model, batch, shift.clone(), random);
            sum = Some(match sum {
                None => (found.parameters, found.loss),
                Some((gradient, loss)) => (gradient.add(&found.parameters)?, loss + found.loss),
            });
            if step < self.steps {
                shift = self.ascend(shift, found.shift);
            }
        }
        let (gradient, loss) = sum.expect("there is at least one step");
        let share = (self.steps as f64).recip();
        Ok(TextStep {
            gradient: gradient.scale(share),
            loss: Scalar::from_tensor(loss * share),
            gradient_evaluations: self.steps as u64,
        })
    }
}
