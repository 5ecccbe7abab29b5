//! Minimisations of Show-and-Fool, an image each.

use burn::tensor::{Tensor, TensorData};

use super::captioner::Captioner;
use super::goal::Aim;
use super::loss::Scored;
use super::show_and_fool::CaptionOutcome;
use super::tanh_box::TanhBox;
use crate::adam::Adam;
use crate::attack::minimum::{Constant, Patience};
use crate::engine::Status;
use crate::error::Result;
use crate::threat::Norm;

/// An image under attack.
pub(crate) struct Victim {
    pub image: Vec<f32>,
    pub aim: Aim,
    pub caption: Vec<usize>,
    pub status: Status,
    pub constant: Constant,
    pub best: Option<Success>,
    pub gradients: usize,
}

/// The nearest image that reaches the goal.
pub(crate) struct Success {
    pub distance: f64,
    pub iterations: usize,
    pub image: Vec<f32>,
    pub caption: Vec<usize>,
}

impl Victim {
    /// The image to hand back and what to say of it.
    pub fn finish(self, captioner: &dyn Captioner) -> (Vec<f32>, CaptionOutcome) {
        let spell = |caption: &[usize]| captioner.vocabulary().spell(caption);
        let before = spell(&self.caption);
        let (image, after, iterations) = match self.best {
            Some(best) => (best.image, spell(&best.caption), best.iterations),
            None => (self.image.clone(), before.clone(), 0),
        };
        let change = || image.iter().zip(&self.image).map(|(x, x0)| f64::from(*x) - f64::from(*x0));
        let outcome = CaptionOutcome {
            status: self.status,
            before,
            after,
            distance: Norm::L2.of(change()),
            largest: Norm::Linf.of(change()),
            iterations,
            gradients: self.gradients,
        };
        (image, outcome)
    }
}

/// A minimisation of one image.
pub(crate) struct Walk<'a> {
    pub victim: &'a mut Victim,
    space: TanhBox,
    w: Vec<f32>,
    pub x: Vec<f32>,
    adam: Adam,
    patience: Patience,
    /// The words that the loss is given.
    pub read: Vec<usize>,
    /// Whether these are the captioner's own.
    pub settled: bool,
    /// Distance, step and image of the nearest that looked like a success.
    pub nearest: Option<(f64, usize, Vec<f32>)>,
    pub open: bool,
}

impl<'a> Walk<'a> {
    /// From the image as it was given, with pixels in `bounds`.
    pub fn new(victim: &'a mut Victim, bounds: [f64; 2], rate: f64, steps: usize) -> Self {
        let space = TanhBox::new(bounds);
        let w: Vec<f32> = victim.image.iter().map(|x| space.enter(*x)).collect();
        let read = match &victim.aim {
            Aim::Caption(words) => words.clone(),
            Aim::Keywords(_) | Aim::Without(_) => victim.caption.clone(),
        };
        Self {
            space,
            adam: Adam::new(rate, w.len()),
            patience: Patience::new(steps),
            x: victim.image.clone(),
            w,
            read,
            settled: true,
            nearest: None,
            open: true,
            victim,
        }
    }
    /// Makes the image of `w`.
    pub fn look(&mut self) {
        self.x.iter_mut().zip(&self.w).for_each(|(x, w)| *x = self.space.leave(*w));
    }

    fn distance(&self) -> f64 {
        Norm::L2.of(self.x.iter().zip(&self.victim.image).map(|(x, x0)| f64::from(*x) - f64::from(*x0)))
    }

    /// Takes in what looks like a success.
    pub fn offer(&mut self, step: usize) {
        let distance = self.distance();
        if self.nearest.as_ref().is_none_or(|(least, ..)| distance < *least) {
            self.nearest = Some((distance, step, self.x.clone()));
        }
    }

    /// A step against the gradient of the objective, given that of the loss; none where it is no number.
    pub fn descend(&mut self, step: usize, gradient: &[f32], scored: &Scored) {
        self.victim.gradients += 1;
        if !(scored.loss.is_finite() && gradient.iter().all(|g| g.is_finite())) {
            self.open = false;
            if step == 0 {
                self.victim.status = Status::NotFinite;
            }
            return;
        }
        let c = self.victim.constant.value;
        let slope = |((w, x), (x0, g)): ((&f32, &f32), (&f32, &f32))| {
            self.space.slope(*w) * (2.0 * (f64::from(*x) - f64::from(*x0)) + c * f64::from(*g))
        };
        let image = self.victim.image.iter().zip(gradient);
        let slopes: Vec<f64> = self.w.iter().zip(&self.x).zip(image).map(slope).collect();
        self.adam.descend(&mut self.w, &slopes);
        self.space.clamp(&mut self.w);
        let objective = self.distance().powi(2) + c * (scored.loss - scored.least);
        // Without a success there is nothing to keep: words are won one after the other.
        self.open = !self.patience.is_over(step, objective) || self.nearest.is_none();
    }
}

/// Gives walks whose captioner has changed its mind its new words.
pub(crate) fn decode_again(captioner: &dyn Captioner, walks: &mut [&mut Walk<'_>]) -> Result<()> {
    let changed = |walk: &&mut Walk<'_>| !walk.settled && !matches!(walk.victim.aim, Aim::Caption(_));
    let mut changed: Vec<&mut Walk<'_>> =
        walks.iter_mut().filter(|walk| changed(walk)).map(|walk| &mut **walk).collect();
    if changed.is_empty() {
        return Ok(());
    }
    let captions = captioner.greedy(tensor(captioner, changed.iter().map(|walk| walk.x.as_slice())))?;
    changed.iter_mut().zip(captions).for_each(|(walk, caption)| walk.read = caption);
    Ok(())
}

/// Images as the captioner takes them.
pub(crate) fn tensor<'a>(captioner: &dyn Captioner, images: impl Iterator<Item = &'a [f32]>) -> Tensor<4> {
    let [channels, height, width] = captioner.image();
    let values = images.collect::<Vec<_>>().concat();
    let count = values.len() / (channels * height * width);
    Tensor::from_data(TensorData::new(values, [count, channels, height, width]), &captioner.device())
}
