//! Robust physical perturbations.

use burn::tensor::{Tensor, TensorData};
use core_tensor::Random;
use rayon::prelude::*;

use super::photograph::{self, Photographs, Print};
use super::transform::{ImageMap, Transforms, within};
use crate::adam::Adam;
use crate::attack::batch::{differentiate, logits};
use crate::attack::check::{at_least_one, positive};
use crate::classifier::Classifier;
use crate::error::{Error, Result};
use crate::goal::Goal;
use crate::loss::{Loss, Objective};

/// The colours that a printer can print, and how far an image is from them.
///
/// ```
/// use adversarial::physical::PrintableColours;
///
/// let grey = PrintableColours::new(vec![vec![0.0], vec![1.0]])?;
/// // (0.25 − 0)·(1 − 0.25), and a colour of the palette counts nothing.
/// assert_eq!(grey.score(&[0.25, 1.0], &[1.0, 1.0]), 0.1875);
/// # Ok::<(), adversarial::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct PrintableColours(Vec<Vec<f32>>);

impl PrintableColours {
    /// From colours of one value a channel.
    ///
    /// # Errors
    /// [`Error::Shape`] for no colours or colours of different channels, [`Error::Parameter`] for a value that is not finite.
    pub fn new(colours: Vec<Vec<f32>>) -> Result<Self> {
        let channels = colours.first().map_or(0, Vec::len);
        if channels == 0 || colours.iter().any(|colour| colour.len() != channels) {
            let expected = "at least one colour, all of the same channels".to_string();
            return Err(Error::Shape { what: "the palette", actual: vec![colours.len(), channels], expected });
        }
        for value in colours.iter().flatten() {
            within("palette", f64::from(*value), f64::MIN, f64::MAX, "finite numbers")?;
        }
        Ok(Self(colours))
    }

    /// The non-printability score `Σ_pixels mask · Π_colours ‖p − c‖₂` of an image `[channels, …]`; the mask has a value a pixel.
    ///
    /// # Panics
    /// If the image has other channels than the palette.
    pub fn score(&self, image: &[f32], mask: &[f32]) -> f64 {
        self.score_and_gradient(image, mask, 0.0, &mut vec![0.0; image.len()])
    }

    /// The same, with its gradient times `weight` added.
    fn score_and_gradient(&self, image: &[f32], mask: &[f32], weight: f64, gradient: &mut [f64]) -> f64 {
        let (pixels, channels) = (mask.len(), self.0[0].len());
        assert_eq!(image.len(), pixels * channels, "an image of the palette's channels");
        let mut total = 0.0;
        for (i, m) in mask.iter().enumerate().filter(|(_, m)| **m != 0.0) {
            let from = |colour: &[f32], c: usize| f64::from(image[c * pixels + i]) - f64::from(colour[c]);
            let length = |colour: &[f32]| (0..channels).map(|c| from(colour, c).powi(2)).sum::<f64>().sqrt();
            let distances: Vec<f64> = self.0.iter().map(|colour| length(colour)).collect();
            total += f64::from(*m) * distances.iter().product::<f64>();
            for (k, colour) in self.0.iter().enumerate().filter(|(k, _)| distances[*k] > 0.0) {
                let others: f64 = distances.iter().enumerate().filter(|(j, _)| *j != k).map(|(_, d)| d).product();
                for c in 0..channels {
                    gradient[c * pixels + i] += weight * f64::from(*m) * others * from(colour, c) / distances[k];
                }
            }
        }
        total
    }
}

/// RP2: stickers on one object, of colours that can be printed, that mislead a model from many viewpoints.
///
/// Minimises over `δ`, by Adam, for the object `x` and a mask `M` of where stickers may be,
///
/// `λ‖M·δ‖₂ + ν·NPS(x + M·δ) + τ·TV(M·δ) − mean_views L(clamp(T(x + M·δ)))`
///
/// with transformations `T` drawn anew at each step, and keeps `x + M·δ` in the bounds. Two ways to say what is seen:
///
/// | | `T` is | for |
/// |---|---|---|
/// | [`run`](Self::run) | [`views`](Self::views) of one picture of the object, all of which moves | a picture that shows little but the object |
/// | [`run_on`](Self::run_on) | a [`Photograph`](super::Photograph) drawn anew: other places, backgrounds and light, the print where the object is | everything else; the paper's alignment of stickers with photographs |
///
/// A T-shirt (Xu and others) is [`run_on`](Self::run_on) with photographs of people, a [`cloth`](ImageMap::cloth) in each place, the goal
/// [`Goal::untargeted`] of the class to vanish, and `norm_weight(0.0)`.
///
/// | parameter | default | range | effect |
/// |---|---|---|---|
/// | [`views`](Self::views) | [`Transforms::camera`] | | family of `T` |
/// | [`samples`](Self::samples) | 8 | ≥ 1 | views of a step |
/// | [`steps`](Self::steps) | 200 | ≥ 1 | |
/// | [`learning_rate`](Self::learning_rate) | 0.02 | > 0 | Adam's, in units of the pixels |
/// | [`norm_weight`](Self::norm_weight) | 0.01 | ≥ 0 | `λ` |
/// | [`colours`](Self::colours) | none, 0 | ≥ 0 | palette and `ν`; 0.01 is a start |
/// | [`smoothness`](Self::smoothness) | 0.001 | ≥ 0 | `τ`, of `TV = Σ |δ_i − δ_j|` over neighbours, which stickers need as cameras blur |
/// | [`objective`](Self::objective) | cross-entropy | [`Objective`] | `L` for the goal |
/// | [`bounds`](Self::bounds) | `[0, 1]` | | of the pixels |
/// | [`seed`](Self::seed) | 0 | any | of the views |
///
/// Guarantee: outside of the mask every bit stays, inside the result is in the bounds (tests `stickers_stay_where_they_may_be`,
/// `prints_stay_where_they_may_be`).
///
/// Cost: `samples` gradients a step, `NPS` a product of all colours a pixel; one host synchronisation a step. Photographs are drawn
/// on all cores.
///
/// Deviation: total variation is an addition, as in later work of the authors.
///
/// K. Eykholt, I. Evtimov, E. Fernandes, B. Li, A. Rahmati, C. Xiao, A. Prakash, T. Kohno, D. Song, "Robust physical-world
/// attacks on deep learning visual classification", CVPR 2018, arXiv:1707.08945, equation 3; the score: M. Sharif, S. Bhagavatula,
/// L. Bauer, M. K. Reiter, "Accessorize to a crime", CCS 2016. The T-shirt: K. Xu and others, "Adversarial T-shirt! Evading person
/// detectors in a physical world", ECCV 2020, arXiv:1910.11099, equations 4 and 5.
///
/// ```
/// use adversarial::physical::{PrintableColours, Rp2};
/// use adversarial::{Goal, Recorded};
/// use burn::nn::LinearConfig;
/// use burn::tensor::{Device, Tensor};
///
/// let device = Device::flex();
/// let model = LinearConfig::new(64, 3).init(&device);
/// let classifier = Recorded::new(&model, [1, 8, 8], |model, x: Tensor<4>| model.forward(x.flatten::<2>(1, 3)))?;
/// let sign = Tensor::<4>::full([1, 1, 8, 8], 0.5, &device);
/// // Two bars across it.
/// let mask: Vec<f32> = (0..64).map(|i| f32::from(u8::from(i / 8 == 2 || i / 8 == 5))).collect();
/// let ink = PrintableColours::new(vec![vec![0.1], vec![0.9]])?;
/// let stickers = Rp2::new().steps(5).colours(ink, 0.01).run(&classifier, &sign, &mask, Goal::targeted(0, 2))?;
/// println!("misleads in {:.0} % of views", 100.0 * stickers.success(&classifier, 50, 1)?);
///
/// // The same on photographs of it: a face of 4 × 4 somewhere in the picture, in other light each time.
/// use adversarial::physical::{ImageMap, Photograph, Print, Transform, Viewpoint};
/// let photographs = |random: &mut core_tensor::Random| {
///     let seen = Viewpoint { distance: 1.0 + random.next_f64(), ..Viewpoint::default() };
///     let place = seen.homography(0.5, 6.0, [4.0, 4.0])?;
///     let photograph = Photograph::new(vec![0.5; 64], ImageMap::printed([1, 4, 4], [1, 8, 8], &place, 3)?)?;
///     photograph.light(Transform::Brightness([-0.2, 0.2]).draw([1, 8, 8], random)?)
/// };
/// let face = Print { pixels: vec![0.5; 16], mask: vec![1.0; 16], shape: [1, 4, 4] };
/// let (print, _) = Rp2::new().steps(5).run_on(&classifier, &face, &photographs, Goal::targeted(0, 2))?;
/// assert!(print.success(&classifier, &photographs, Goal::targeted(0, 2), 20, 1)? <= 1.0);
/// # Ok::<(), adversarial::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Rp2 {
    views: Transforms,
    samples: usize,
    steps: usize,
    learning_rate: f64,
    norm_weight: f64,
    colours: Option<(PrintableColours, f64)>,
    smoothness: f64,
    objective: Objective,
    bounds: [f64; 2],
    seed: u64,
}

/// An object with stickers. Made by [`Rp2::run`].
#[derive(Clone, Debug)]
pub struct Stickers {
    /// The object with them, `[1, channels, height, width]`.
    pub object: Tensor<4>,
    /// What was minimised, at each step.
    pub losses: Vec<f64>,
    goal: Goal,
    views: Transforms,
    bounds: [f64; 2],
}

impl Default for Rp2 {
    fn default() -> Self {
        Self::new()
    }
}

impl Rp2 {
    /// The defaults.
    pub fn new() -> Self {
        Self {
            views: Transforms::camera(),
            samples: 8,
            steps: 200,
            learning_rate: 0.02,
            norm_weight: 0.01,
            colours: None,
            smoothness: 0.001,
            objective: Objective::CrossEntropy,
            bounds: [0.0, 1.0],
            seed: 0,
        }
    }

    /// Sets how the object is seen.
    pub fn views(self, views: Transforms) -> Self {
        Self { views, ..self }
    }

    /// Sets the views of a step.
    pub fn samples(self, samples: usize) -> Self {
        Self { samples, ..self }
    }

    /// Sets the number of steps.
    pub fn steps(self, steps: usize) -> Self {
        Self { steps, ..self }
    }

    /// Sets Adam's rate.
    pub fn learning_rate(self, learning_rate: f64) -> Self {
        Self { learning_rate, ..self }
    }

    /// Sets how much the size of the change counts.
    pub fn norm_weight(self, norm_weight: f64) -> Self {
        Self { norm_weight, ..self }
    }

    /// Sets what can be printed and how much that counts.
    pub fn colours(self, palette: PrintableColours, weight: f64) -> Self {
        Self { colours: Some((palette, weight)), ..self }
    }

    /// Sets how much the total variation counts.
    pub fn smoothness(self, smoothness: f64) -> Self {
        Self { smoothness, ..self }
    }

    /// Sets the loss.
    pub fn objective(self, objective: Objective) -> Self {
        Self { objective, ..self }
    }

    /// Sets the bounds of pixels.
    pub fn bounds(self, low: f64, high: f64) -> Self {
        Self { bounds: [low, high], ..self }
    }

    /// Sets the seed.
    pub fn seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }

    /// Makes stickers for an object `[1, channels, height, width]`, where the mask of its pixels, `[height · width]`, is 1.
    ///
    /// # Errors
    /// [`Error::Parameter`] for a setting out of range or a mask of other values than 0 and 1, [`Error::Shape`] for misfits,
    /// [`Error::OutOfBounds`] for an object outside of the bounds, [`Error::Label`], [`Error::TooFewClasses`], and what the model
    /// fails with.
    pub fn run(
        &self,
        classifier: &dyn Classifier<4>,
        object: &Tensor<4>,
        mask: &[f32],
        goal: Goal,
    ) -> Result<Stickers> {
        let [n, c, h, w] = object.dims();
        self.check(object.dims(), mask)?;
        let x: Vec<f32> = object.to_data().iter().collect();
        self.threat()?.inside_box(&x.iter().map(|x| f64::from(*x)).collect::<Vec<_>>(), x.len())?;
        let classes = logits(classifier, &x, [n, c, h, w], 1)?[0].len();
        crate::Goals::from(vec![goal]).check(classes)?;
        self.objective.check(classes, goal.target().is_some())?;

        let loss = self.objective.loss(&goal, None);
        let seen = |y: &[f32], random: &mut Random| {
            let maps = (0..self.samples).map(|_| self.views.draw([c, h, w], random));
            self.seen(classifier, y, &maps.collect::<Result<Vec<_>>>()?, &loss)
        };
        let (y, losses) = self.descend(&x, mask, [c, h, w], seen)?;
        let object = Tensor::from_data(TensorData::new(y, [1, c, h, w]), &object.device());
        Ok(Stickers { object, losses, goal, views: self.views.clone(), bounds: self.bounds })
    }

    /// Makes a print for an object that photographs show: `object` is the object's own face, on the print's grid, and the print may
    /// differ from it where its mask is 1. Photographs are drawn anew at each step, [`views`](Self::views) does not count. Returns the
    /// print and what was minimised, at each step.
    ///
    /// # Errors
    /// As [`run`](Self::run), [`Error::Shape`] for photographs of other prints or of several sizes, and those of drawing.
    pub fn run_on(
        &self,
        classifier: &dyn Classifier<4>,
        object: &Print,
        photographs: &Photographs<'_>,
        goal: Goal,
    ) -> Result<(Print, Vec<f64>)> {
        let [c, h, w] = object.shape;
        self.check([1, c, h, w], &object.mask)?;
        if object.pixels.len() != c * h * w {
            let expected = format!("[{}], the print's shape", c * h * w);
            return Err(Error::Shape { what: "the object", actual: vec![object.pixels.len()], expected });
        }
        self.threat()?.inside_box(&object.pixels.iter().map(|x| f64::from(*x)).collect::<Vec<_>>(), c * h * w)?;
        let first = photograph::draw(photographs, 1, &Random::new(self.seed))?.remove(0);
        let [pc, ph, pw] = first.shape();
        let classes = logits(classifier, &first.without(), [1, pc, ph, pw], 1)?[0].len();
        crate::Goals::from(vec![goal]).check(classes)?;
        self.objective.check(classes, goal.target().is_some())?;

        let losses = vec![self.objective.loss(&goal, None); self.samples];
        let count = self.samples as f64;
        let seen = |y: &[f32], random: &mut Random| {
            let drawn = photograph::draw(photographs, self.samples, &Random::new(random.next_u64()))?;
            photograph::check(&drawn, object.shape, first.shape())?;
            let views: Vec<_> = drawn.par_iter().map(|one| one.seen(y, &object.mask)).collect();
            let points = views.iter().flat_map(|seen| seen.pixels.iter().copied()).collect();
            let found = differentiate(classifier, points, [self.samples, pc, ph, pw], &losses, |_| true)?;
            let gradients = found.gradient.par_chunks(pc * ph * pw).zip(&drawn).zip(&views);
            let back: Vec<Vec<f32>> = gradients.map(|((g, one), seen)| one.back(seen, g)).collect();
            let mut gradient = vec![0.0; y.len()];
            for g in back {
                gradient.iter_mut().zip(g).for_each(|(sum, g)| *sum -= f64::from(g) / count);
            }
            let total: f64 = found.losses.iter().filter(|loss| !loss.is_nan()).sum();
            Ok((-total / count, gradient))
        };
        let (pixels, losses) = self.descend(&object.pixels, &object.mask, object.shape, seen)?;
        Ok((Print { pixels, ..object.clone() }, losses))
    }

    /// Adam on what is seen and what the stickers cost. `seen` gives minus the mean loss of a point's views with its gradient.
    fn descend(
        &self,
        x: &[f32],
        mask: &[f32],
        shape: [usize; 3],
        seen: impl Fn(&[f32], &mut Random) -> Result<(f64, Vec<f64>)>,
    ) -> Result<(Vec<f32>, Vec<f64>)> {
        let mut random = Random::new(self.seed);
        let mut adam = Adam::new(self.learning_rate, x.len());
        let mut y = x.to_vec();
        let mut losses = Vec::with_capacity(self.steps);
        for _ in 0..self.steps {
            let (value, mut gradient) = seen(&y, &mut random)?;
            losses.push(value + self.regularise(x, &y, mask, shape, &mut gradient));
            gradient.iter_mut().zip(mask.iter().cycle()).for_each(|(g, m)| *g *= f64::from(*m));
            adam.descend(&mut y, &gradient);
            let (low, high) = (self.bounds[0] as f32, self.bounds[1] as f32);
            for ((y, x), m) in y.iter_mut().zip(x).zip(mask.iter().cycle()) {
                *y = if *m == 0.0 { *x } else { y.clamp(low, high) };
            }
        }
        Ok((y, losses))
    }

    fn threat(&self) -> Result<crate::Threat> {
        crate::Threat::new(crate::Norm::L0, 0.0)?.bounds(self.bounds[0], self.bounds[1])
    }

    fn check(&self, [n, c, h, w]: [usize; 4], mask: &[f32]) -> Result<()> {
        at_least_one("samples", self.samples)?;
        at_least_one("steps", self.steps)?;
        positive("learning_rate", self.learning_rate)?;
        let weight = self.colours.as_ref().map_or(0.0, |(_, weight)| *weight);
        for (parameter, value) in
            [("norm_weight", self.norm_weight), ("colours", weight), ("smoothness", self.smoothness)]
        {
            within(parameter, value, 0.0, f64::MAX, "a finite number, at least 0")?;
        }
        if n != 1 || c * h * w == 0 {
            let expected = "[1, channels, height, width], one object".to_string();
            return Err(Error::Shape { what: "the object", actual: vec![n, c, h, w], expected });
        }
        if mask.len() != h * w {
            let expected = format!("[{}], the object's pixels", h * w);
            return Err(Error::Shape { what: "the mask", actual: vec![mask.len()], expected });
        }
        if let Some(value) = mask.iter().find(|m| **m != 0.0 && **m != 1.0) {
            return Err(Error::Parameter { parameter: "mask", value: f64::from(*value), bound: "0 or 1" });
        }
        match &self.colours {
            Some((palette, _)) if palette.0[0].len() != c => {
                let expected = format!("colours of {c} channels, as the object");
                Err(Error::Shape { what: "the palette", actual: vec![palette.0.len(), palette.0[0].len()], expected })
            }
            _ => Ok(()),
        }
    }

    /// Minus the mean loss of the views, and its gradient in the object.
    fn seen(
        &self,
        classifier: &dyn Classifier<4>,
        y: &[f32],
        maps: &[ImageMap],
        loss: &Loss,
    ) -> Result<(f64, Vec<f64>)> {
        let (low, high, count) = (self.bounds[0] as f32, self.bounds[1] as f32, maps.len() as f64);
        let raw: Vec<f32> = maps.iter().flat_map(|map| map.apply(y)).collect();
        let [c, h, w] = maps[0].to_shape();
        let points = raw.iter().map(|y| y.clamp(low, high)).collect();
        let mut found =
            differentiate(classifier, points, [maps.len(), c, h, w], &vec![loss.clone(); maps.len()], |_| true)?;
        found.gradient.iter_mut().zip(&raw).filter(|(_, y)| !(**y >= low && **y <= high)).for_each(|(g, _)| *g = 0.0);
        let mut gradient = vec![0.0; y.len()];
        for (map, g) in maps.iter().zip(found.gradient.chunks(y.len())) {
            gradient.iter_mut().zip(map.adjoint(g)).for_each(|(sum, g)| *sum -= f64::from(g) / count);
        }
        let total: f64 = found.losses.iter().filter(|loss| !loss.is_nan()).sum();
        Ok((-total / count, gradient))
    }

    /// What the stickers cost by themselves; adds its gradient.
    fn regularise(&self, x: &[f32], y: &[f32], mask: &[f32], [c, h, w]: [usize; 3], gradient: &mut [f64]) -> f64 {
        let delta: Vec<f64> = y.iter().zip(x).map(|(y, x)| f64::from(*y) - f64::from(*x)).collect();
        let size = crate::Norm::L2.of(delta.iter().copied());
        if size > 0.0 {
            gradient.iter_mut().zip(&delta).for_each(|(g, d)| *g += self.norm_weight * d / size);
        }
        let mut variation = 0.0;
        let mut neighbours = |i: usize, j: usize| {
            let difference = delta[i] - delta[j];
            variation += difference.abs();
            if difference != 0.0 {
                gradient[i] += self.smoothness * difference.signum();
                gradient[j] -= self.smoothness * difference.signum();
            }
        };
        for i in 0..c * h * w {
            if i % w + 1 < w {
                neighbours(i, i + 1);
            }
            if i / w % h + 1 < h {
                neighbours(i, i + w);
            }
        }
        let unprintable = match &self.colours {
            Some((palette, weight)) => weight * palette.score_and_gradient(y, mask, *weight, gradient),
            None => 0.0,
        };
        self.norm_weight * size + self.smoothness * variation + unprintable
    }
}

impl Stickers {
    /// The share of `count` new views in which the goal is reached.
    ///
    /// # Errors
    /// [`Error::Parameter`] for no views, and what the model fails with.
    pub fn success(&self, classifier: &dyn Classifier<4>, count: usize, seed: u64) -> Result<f64> {
        at_least_one("count", count)?;
        let [_, c, h, w] = self.object.dims();
        let (low, high) = (self.bounds[0] as f32, self.bounds[1] as f32);
        let y: Vec<f32> = self.object.to_data().iter().collect();
        let mut random = Random::new(seed);
        let mut seen = Vec::with_capacity(count * y.len());
        for _ in 0..count {
            let view = self.views.draw([c, h, w], &mut random)?.apply(&y);
            seen.extend(view.into_iter().map(|y| y.clamp(low, high)));
        }
        let logits = logits(classifier, &seen, [count, c, h, w], 64)?;
        Ok(logits.iter().filter(|logits| self.goal.reached(logits)).count() as f64 / count as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::physical::samples::{bars, classifier};
    use crate::physical::{Photograph, Transform, Viewpoint};

    /// The lower and the right half.
    fn mask() -> Vec<f32> {
        (0..64).map(|i| f32::from(u8::from(i / 8 > 4 || i % 8 > 4))).collect()
    }

    fn upright() -> Tensor<4> {
        bars(1, 3).0
    }

    #[test]
    fn stickers_stay_where_they_may_be() {
        let x = upright();
        let stickers = Rp2::new().steps(20).run(&classifier(), &x, &mask(), Goal::targeted(0, 1)).unwrap();
        let [x, y] = [&x, &stickers.object].map(|x| x.to_data().iter::<f32>().collect::<Vec<_>>());
        for ((x, y), m) in x.iter().zip(&y).zip(mask()) {
            assert!(m == 1.0 || x.to_bits() == y.to_bits());
            assert!((0.0..=1.0).contains(y));
        }
        assert!(x != y);
    }

    #[test]
    fn stickers_mislead_in_views_they_were_not_made_for() {
        let (x, classifier) = (upright(), classifier());
        let goal = Goal::targeted(0, 1);
        let stickers = Rp2::new().run(&classifier, &x, &mask(), goal).unwrap();
        let bare = Stickers { object: x.clone(), ..stickers.clone() };
        let [with, without] = [&stickers, &bare].map(|s| s.success(&classifier, 200, 77).unwrap());
        assert!(with > without + 0.4, "{with} {without}");
        let again = Rp2::new().run(&classifier, &x, &mask(), goal).unwrap();
        assert_eq!(again.object.to_data(), stickers.object.to_data());
    }

    /// Pictures of upright bars, and a print of 6 × 6 on most of them from some angle, on cloth.
    fn worn(random: &mut Random) -> Result<Photograph> {
        let picture = crate::attack::batch::floats(bars(1, random.next_u64()).0.into_data());
        let mut between = |low: f64, high: f64| low + (high - low) * random.next_f64();
        let seen = Viewpoint { distance: between(1.0, 1.2), yaw: between(-30.0, 30.0), ..Viewpoint::default() };
        let place = seen.homography(0.5, 6.0, [between(3.0, 5.0), between(3.0, 5.0)])?;
        let cloth = Transform::Cloth { side: 3, most: 0.5 }.draw([1, 6, 6], random)?;
        let printed = cloth.then(ImageMap::printed([1, 6, 6], [1, 8, 8], &place, 2)?)?;
        Photograph::new(picture, printed)?.light(Transform::Brightness([-0.05, 0.05]).draw([1, 8, 8], random)?)
    }

    fn grey() -> Print {
        Print { pixels: vec![0.3; 36], mask: vec![1.0; 36], shape: [1, 6, 6] }
    }

    #[test]
    fn a_print_misleads_on_photographs_it_was_not_made_for() {
        let (classifier, goal) = (classifier(), Goal::targeted(0, 1));
        let attack = Rp2::new().steps(100).norm_weight(0.0);
        let (print, losses) = attack.run_on(&classifier, &grey(), &worn, goal).unwrap();
        let share = |print: &Print| print.success(&classifier, &worn, goal, 200, 5).unwrap();
        assert!(share(&print) > share(&grey()) + 0.4, "{} {}", share(&print), share(&grey()));
        assert_eq!(losses.len(), 100);
        assert_eq!((print, losses), attack.run_on(&classifier, &grey(), &worn, goal).unwrap());
    }

    #[test]
    fn prints_stay_where_they_may_be() {
        let classifier = classifier();
        let mask: Vec<f32> = (0..36).map(|i| f32::from(u8::from(i % 6 < 3))).collect();
        let object = Print { mask, ..grey() };
        let attack = Rp2::new().steps(10).learning_rate(0.3).bounds(0.0, 0.9);
        let (print, _) = attack.run_on(&classifier, &object, &worn, Goal::untargeted(0)).unwrap();
        for ((y, x), m) in print.pixels.iter().zip(&object.pixels).zip(&object.mask) {
            assert!(if *m == 0.0 { y.to_bits() == x.to_bits() } else { (0.0..=0.9).contains(y) });
        }
        assert!(print.pixels != object.pixels);
    }

    #[test]
    fn a_palette_draws_colours_to_itself() {
        let (x, classifier) = (upright(), classifier());
        let palette = PrintableColours::new(vec![vec![0.05], vec![0.5], vec![0.95]]).unwrap();
        let run = |weight: f64| {
            let attack = Rp2::new().steps(100).colours(palette.clone(), weight);
            let y = attack.run(&classifier, &x, &mask(), Goal::targeted(0, 1)).unwrap().object;
            palette.score(&y.into_data().iter::<f32>().collect::<Vec<_>>(), &mask())
        };
        assert!(run(1.0) < 0.7 * run(0.0), "{} {}", run(1.0), run(0.0));
    }

    #[test]
    fn the_costs_of_stickers_have_the_gradients_of_central_differences() {
        let colours = PrintableColours::new(vec![vec![0.1, 0.9], vec![0.8, 0.3]]).unwrap();
        let attack = Rp2::new().norm_weight(0.3).smoothness(0.2).colours(colours, 0.5);
        let mask = [1.0, 1.0, 0.0, 1.0, 1.0, 1.0];
        let x = vec![0.5f32; 12];
        let y: Vec<f32> = (0..12).map(|i| 0.5 + 0.03 * ((7 * i) % 12) as f32).collect();
        let cost = |y: &[f32], gradient: &mut [f64]| attack.regularise(&x, y, &mask, [2, 2, 3], gradient);
        let mut gradient = vec![0.0; 12];
        cost(&y, &mut gradient);
        for i in 0..12 {
            let at = |h: f32| {
                let mut y = y.clone();
                y[i] += h;
                (f64::from(y[i]), cost(&y, &mut [0.0; 12]))
            };
            let ((high, above), (low, below)) = (at(1.0 / 1024.0), at(-1.0 / 1024.0));
            let difference = (above - below) / (high - low);
            assert!((difference - gradient[i]).abs() < 1e-3, "{i}: {difference} {}", gradient[i]);
        }
    }

    #[test]
    fn misfits_are_named() {
        let (x, classifier) = (upright(), classifier());
        let run = |attack: Rp2, x: &Tensor<4>, mask: &[f32], goal: Goal| {
            attack.run(&classifier, x, mask, goal).unwrap_err().to_string()
        };
        let (new, goal, mask) = (Rp2::new, Goal::untargeted(0), mask());
        assert!(run(new().steps(0), &x, &mask, goal).starts_with("steps = 0"));
        assert!(run(new().smoothness(-1.0), &x, &mask, goal).starts_with("smoothness = -1"));
        assert!(run(new().norm_weight(f64::NAN), &x, &mask, goal).starts_with("norm_weight = NaN"));
        assert!(run(new(), &x, &mask[1..], goal).starts_with("the mask has shape [63]"));
        assert!(run(new(), &x, &[0.5; 64], goal).starts_with("mask = 0.5"));
        assert!(run(new(), &(x.clone() + 1.0), &mask, goal).contains("outside"));
        assert!(run(new(), &x, &mask, Goal::untargeted(3)).contains("is 3"));
        let on = |print: Print, goal: Goal| new().run_on(&classifier, &print, &worn, goal).unwrap_err().to_string();
        assert!(on(Print { pixels: vec![0.0; 9], ..grey() }, goal).starts_with("the object has shape [9]"));
        assert!(on(Print { pixels: vec![2.0; 36], ..grey() }, goal).contains("outside"));
        assert!(
            on(Print { shape: [1, 4, 9], ..grey() }, goal).starts_with("the photograph's print has shape [1, 6, 6]")
        );
        assert!(on(grey(), Goal::untargeted(3)).contains("is 3"));
        let rgb = PrintableColours::new(vec![vec![0.0; 3]]).unwrap();
        assert!(run(new().colours(rgb, 1.0), &x, &mask, goal).contains("colours of 1 channels"));
        assert!(PrintableColours::new(Vec::new()).is_err() && PrintableColours::new(vec![vec![f32::NAN]]).is_err());
    }
}
