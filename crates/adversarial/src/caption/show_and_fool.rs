//! Show-and-Fool.

use burn::tensor::{Tensor, TensorData};

use super::captioner::{Captioner, Rows, check_images};
use super::goal::{Aim, CaptionGoal};
use super::loss::{CaptionLoss, score};
use super::walk::{Success, Victim, Walk, decode_again, tensor};
use crate::attack::check::{at_least_one, not_negative, positive};
use crate::attack::minimum::Constant;
use crate::engine::Status;
use crate::error::{Error, Result};
use crate::threat::{Norm, Threat};

/// Show-and-Fool: the smallest change of an image, in `L2`, that makes a captioner write a caption of the attacker's choice, one with
/// keywords, or one without some words.
///
/// Minimises over `w`, by Adam from the image `x₀`,
///
/// `‖x − x₀‖₂² + c·L(x)` with `x` in the box by `tanh(w)`
///
/// where [`CaptionLoss`] has `L`, and looks for the constant `c` by bisection: ten times as large as long as nothing succeeds, then
/// between the largest that failed and the smallest that succeeded. For keywords the loss is given the words that the captioner
/// itself writes; they are decoded again every few steps.
///
/// | parameter | default | range | effect |
/// |---|---|---|---|
/// | [`loss`](Self::loss) | [`Logits`](CaptionLoss::Logits) | | `L` |
/// | [`confidence`](Self::confidence) | 0.1 | ≥ 0 | `κ`, by how much a logit is to be ahead; more for captions that survive rounding and other decoders, at larger distances |
/// | [`steps`](Self::steps) | 200 | ≥ 1 | gradients of a minimisation |
/// | [`searches`](Self::searches) | 6 | ≥ 1 | minimisations: constants tried |
/// | [`rate`](Self::rate) | 0.01 | > 0 | Adam's learning rate in `w`; a pixel in the middle moves by 0.53 of it times the box's side |
/// | [`constant`](Self::constant) | 1 | > 0 | first `c` |
/// | [`redecode`](Self::redecode) | 5 | ≥ 1 | steps between decodings, for keywords and words to be left out |
/// | [`batch`](Self::batch) | 32 | ≥ 1 | images at a time |
/// | [`bounds`](Self::bounds) | `[0, 1]` | | of the pixels |
///
/// A minimisation of an image that has met a success ends early when a tenth of its steps has not lowered the objective by a
/// ten-thousandth; the others of the batch go on without it.
///
/// Guarantees: a success is one of [`Captioner::greedy`], run on the very image that is handed back, whatever the losses say
/// (`success_is_what_is_decoded`); images are inside the bounds (`images_stay_in_the_box`), and pixels at a bound can move
/// (`pixels_at_the_bounds_move`); where logits are linear the distance is within 2 % of the smallest there is
/// (`distances_are_near_the_smallest`); without a success an image comes back as it was.
///
/// Cost: at most `steps · searches` gradients an image; a decoding before, one a minimisation, and for keywords one every `redecode`
/// steps of the images whose caption is changing. Two host synchronisations a step.
///
/// Deviations from the paper: the end of a target caption is one of its words, so that nothing is said behind it; the box has a
/// margin, in which pixels of exactly 0 and 1 are not frozen; goals without words are ours.
///
/// H. Chen, H. Zhang, P.-Y. Chen, J. Yi, C.-J. Hsieh, "Attacking visual language grounding with adversarial examples: a case study on
/// neural image captioning", ACL 2018, arXiv:1712.02051, section 3.
///
/// ```
/// use adversarial::caption::{CaptionGoal, RecordedCaptioner, ShowAndFool, ShowAndTell, ShowAndTellShape, Vocabulary};
/// use burn::tensor::{Device, Tensor};
/// use core_tensor::Random;
///
/// let device = Device::flex();
/// let vocabulary = Vocabulary::new(["a", "dog", "cat", "."], ".")?;
/// let shape = ShowAndTellShape { image: [3, 8, 8], channels: vec![4], hidden: 8, words: vocabulary.len() };
/// // Yours would be trained.
/// let model = ShowAndTell::new(&shape, &mut Random::new(1), &device)?;
/// let captioner = RecordedCaptioner::new(&model, vocabulary, [3, 8, 8], 4, ShowAndTell::forward)?;
/// let images = Tensor::<4>::full([1, 3, 8, 8], 0.5, &device);
/// let attacked = ShowAndFool::new().steps(50).attack(&captioner, &images, &[CaptionGoal::caption("a cat")])?;
/// let found = &attacked.outcomes[0];
/// println!("{} → {} at {:.2}, {:?}", found.before, found.after, found.distance, found.status);
/// # Ok::<(), adversarial::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ShowAndFool {
    loss: CaptionLoss,
    confidence: f64,
    steps: usize,
    searches: usize,
    rate: f64,
    constant: f64,
    redecode: usize,
    batch: usize,
    bounds: [f64; 2],
}

/// How an image came out. Made by [`ShowAndFool::attack`].
#[derive(Clone, Debug, PartialEq)]
pub struct CaptionOutcome {
    /// [`Broken`](Status::Broken) where an image that reaches the goal was found.
    pub status: Status,
    /// The caption of the image given.
    pub before: String,
    /// The caption of the image handed back.
    pub after: String,
    /// `‖x − x₀‖₂` of the image handed back.
    pub distance: f64,
    /// `max|x − x₀|` of it.
    pub largest: f64,
    /// Steps of the minimisation that found it, to where it was; 0 without a success.
    pub iterations: usize,
    /// Gradients spent on the image, by all minimisations.
    pub gradients: usize,
}

impl CaptionOutcome {
    /// Whether the caption of the image handed back reaches the goal.
    pub fn reached(&self) -> bool {
        matches!(self.status, Status::Broken | Status::AlreadyReached)
    }
}

/// What an attack on captions gave, in the order of the images.
#[derive(Clone, Debug)]
pub struct AttackedCaptions {
    /// For each image the nearest success found, else the image as it was.
    pub images: Tensor<4>,
    /// How each came out.
    pub outcomes: Vec<CaptionOutcome>,
}

impl AttackedCaptions {
    /// The share of images that were made to reach their goal, of those that did not before; 1 where there is none.
    pub fn success(&self) -> f64 {
        let asked = self.outcomes.iter().filter(|outcome| outcome.status != Status::AlreadyReached).count();
        let broken = self.outcomes.iter().filter(|outcome| outcome.status == Status::Broken).count();
        if asked == 0 { 1.0 } else { broken as f64 / asked as f64 }
    }
}

impl Default for ShowAndFool {
    fn default() -> Self {
        Self::new()
    }
}

impl ShowAndFool {
    /// Six searches of 200 steps.
    pub fn new() -> Self {
        Self {
            loss: CaptionLoss::Logits,
            confidence: 0.1,
            steps: 200,
            searches: 6,
            rate: 0.01,
            constant: 1.0,
            redecode: 5,
            batch: 32,
            bounds: [0.0, 1.0],
        }
    }

    /// Sets the loss.
    pub fn loss(self, loss: CaptionLoss) -> Self {
        Self { loss, ..self }
    }

    /// Sets by how much a logit is to be ahead.
    pub fn confidence(self, confidence: f64) -> Self {
        Self { confidence, ..self }
    }

    /// Sets the steps of a minimisation.
    pub fn steps(self, steps: usize) -> Self {
        Self { steps, ..self }
    }

    /// Sets the number of minimisations.
    pub fn searches(self, searches: usize) -> Self {
        Self { searches, ..self }
    }

    /// Sets Adam's learning rate.
    pub fn rate(self, rate: f64) -> Self {
        Self { rate, ..self }
    }

    /// Sets the first constant.
    pub fn constant(self, constant: f64) -> Self {
        Self { constant, ..self }
    }

    /// Sets the steps between decodings.
    pub fn redecode(self, redecode: usize) -> Self {
        Self { redecode, ..self }
    }

    /// Sets how many images are attacked at a time.
    pub fn batch(self, batch: usize) -> Self {
        Self { batch, ..self }
    }

    /// Sets the bounds of pixels.
    pub fn bounds(self, low: f64, high: f64) -> Self {
        Self { bounds: [low, high], ..self }
    }

    /// Attacks images `[images, channels, height, width]`, each with its goal.
    ///
    /// # Errors
    /// Before anything is computed: [`Error::Word`] for a word that the captioner does not know, that ends captions, or that is asked
    /// for twice; [`Error::Caption`] for a goal without words or with more than the captioner writes; [`Error::Shape`] for images of
    /// another shape than the captioner's or another number of goals; [`Error::OutOfBounds`]; [`Error::EmptyBatch`];
    /// [`Error::Parameter`] for a setting out of range. Later: what the model fails with.
    pub fn attack(
        &self,
        captioner: &dyn Captioner,
        images: &Tensor<4>,
        goals: &[CaptionGoal],
    ) -> Result<AttackedCaptions> {
        let [count, channels, height, width] = images.dims();
        self.check(captioner, images.dims(), goals.len())?;
        let goals: Vec<Aim> =
            goals.iter().enumerate().map(|(i, goal)| goal.aim(captioner, i)).collect::<Result<_>>()?;
        let pixels: Vec<f32> = images.to_data().iter().collect();
        let size = channels * height * width;
        let threat = Threat::new(Norm::L2, 0.0)?.bounds(self.bounds[0], self.bounds[1])?;
        threat.inside_box(&pixels.iter().map(|x| f64::from(*x)).collect::<Vec<_>>(), size)?;
        let (mut found, mut outcomes) = (Vec::with_capacity(pixels.len()), Vec::with_capacity(count));
        for (pixels, goals) in pixels.chunks(self.batch * size).zip(goals.chunks(self.batch)) {
            for victim in self.attack_batch(captioner, pixels, goals)? {
                let (image, outcome) = victim.finish(captioner);
                found.extend(image);
                outcomes.push(outcome);
            }
        }
        let images = Tensor::from_data(TensorData::new(found, [count, channels, height, width]), &images.device());
        Ok(AttackedCaptions { images, outcomes })
    }

    fn check(&self, captioner: &dyn Captioner, images: [usize; 4], goals: usize) -> Result<()> {
        for (parameter, value) in
            [("steps", self.steps), ("searches", self.searches), ("redecode", self.redecode), ("batch", self.batch)]
        {
            at_least_one(parameter, value)?;
        }
        positive("rate", self.rate)?;
        positive("constant", self.constant)?;
        not_negative("confidence", self.confidence)?;
        check_images(images, captioner.image(), images[0])?;
        if images[0] == 0 {
            return Err(Error::EmptyBatch { what: "an attack on captions" });
        }
        if goals != images[0] {
            let expected = format!("[{}], one for each image", images[0]);
            return Err(Error::Shape { what: "goals", actual: vec![goals], expected });
        }
        Ok(())
    }

    fn attack_batch(&self, captioner: &dyn Captioner, pixels: &[f32], goals: &[Aim]) -> Result<Vec<Victim>> {
        let size = pixels.len() / goals.len();
        let clean = captioner.greedy(tensor(captioner, pixels.chunks(size)))?;
        let victim = |((pixels, aim), caption): ((&[f32], &Aim), Vec<usize>)| Victim {
            status: if aim.reached(&caption) { Status::AlreadyReached } else { Status::Standing },
            image: pixels.to_vec(),
            aim: aim.clone(),
            caption,
            constant: Constant::new(self.constant),
            best: None,
            gradients: 0,
        };
        let mut victims: Vec<Victim> = pixels.chunks(size).zip(goals).zip(clean).map(victim).collect();
        for _ in 0..self.searches {
            let attacked = victims.iter_mut().filter(|v| matches!(v.status, Status::Standing | Status::Broken));
            let walks = attacked.map(|victim| Walk::new(victim, self.bounds, self.rate, self.steps)).collect();
            self.minimise(captioner, walks)?;
        }
        Ok(victims)
    }

    /// One minimisation of each image, and the judgement of what it found.
    fn minimise(&self, captioner: &dyn Captioner, mut walks: Vec<Walk<'_>>) -> Result<()> {
        for step in 0..self.steps {
            let mut open: Vec<&mut Walk<'_>> = walks.iter_mut().filter(|walk| walk.open).collect();
            if open.is_empty() {
                break;
            }
            if step > 0 {
                open.iter_mut().for_each(|walk| walk.look());
                if step.is_multiple_of(self.redecode) {
                    decode_again(captioner, &mut open)?;
                }
            }
            let images = tensor(captioner, open.iter().map(|walk| walk.x.as_slice()));
            let captions: Vec<Vec<usize>> = open.iter().map(|walk| walk.read.clone()).collect();
            let pulled = captioner.pullback(images, &captions)?;
            let shape = pulled.logits.dims();
            let (words, end) = (captioner.vocabulary().len(), captioner.vocabulary().end());
            let rows = Rows::of(pulled.logits);
            let scores: Vec<_> = open
                .iter()
                .enumerate()
                .map(|(i, walk)| {
                    score(&walk.victim.aim, self.loss, self.confidence, rows.row(i), &walk.read, words, end)
                })
                .collect();
            let cotangent: Vec<f32> = scores.iter().flat_map(|score| score.cotangent.iter().copied()).collect();
            let cotangent = Tensor::from_data(TensorData::new(cotangent, shape), &captioner.device());
            let gradient: Vec<f32> = (pulled.back)(cotangent)?.into_data().iter().collect();
            let size = gradient.len() / open.len();
            for ((walk, score), gradient) in open.iter_mut().zip(&scores).zip(gradient.chunks(size)) {
                walk.settled = score.settled;
                if score.promising {
                    walk.offer(step);
                }
                walk.descend(step, gradient, score);
            }
        }
        self.judge(captioner, walks)
    }

    /// Decodes what the minimisations found.
    fn judge(&self, captioner: &dyn Captioner, walks: Vec<Walk<'_>>) -> Result<()> {
        let found = || walks.iter().filter_map(|walk| walk.nearest.as_ref());
        let captions = match found().next() {
            Some(_) => captioner.greedy(tensor(captioner, found().map(|(_, _, x)| x.as_slice())))?,
            None => Vec::new(),
        };
        let mut captions = captions.into_iter();
        for walk in walks {
            let victim = walk.victim;
            let found = walk.nearest.map(|nearest| (nearest, captions.next().expect("a caption for each image")));
            let success = found.filter(|(_, caption)| victim.aim.reached(caption));
            victim.constant.update(success.is_some());
            if let Some(((distance, step, x), caption)) = success {
                victim.status = Status::Broken;
                if victim.best.as_ref().is_none_or(|best| distance < best.distance) {
                    victim.best = Some(Success { distance, iterations: step + 1, image: x, caption });
                }
            }
        }
        Ok(())
    }
}
