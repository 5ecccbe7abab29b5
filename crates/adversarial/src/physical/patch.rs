//! Adversarial patches.

use burn::tensor::{Tensor, TensorData};
use core_tensor::Random;

use super::photograph::{Photograph, Seen};
use super::transform::{ImageMap, Transforms, sine_cosine, within};
use crate::adam::Adam;
use crate::attack::batch::{Rows, differentiate, logits};
use crate::attack::check::{at_least_one, positive};
use crate::classifier::Classifier;
use crate::engine::Goals;
use crate::error::{Error, Result};
use crate::loss::{Loss, Objective};
use crate::threat::{Norm, Threat};

/// The outline of a patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PatchShape {
    /// As wide as the square around it.
    Circle,
    /// The whole square.
    Square,
}

/// Where patches are put: upright by an angle, at a size, anywhere that they fit.
///
/// | setting | default | range | effect |
/// |---|---|---|---|
/// | [`degrees`](Self::degrees) | `[−22.5, 22.5]` | finite | angle, counter-clockwise |
/// | [`scale`](Self::scale) | `[0.3, 0.5]` | in `(0, 1]` | width of the patch as a share of the image's shorter side |
/// | [`warp`](Self::warp) | none | | what happens to the patch itself: [`Transform::Cloth`](super::Transform::Cloth) makes it a T-shirt's print |
/// | [`scene`](Self::scene) | none | | what happens to the whole picture with it: light, blur, noise |
///
/// Of `warp`, only the linear part counts: outline and print move together, light belongs to the scene.
#[derive(Clone, Debug, PartialEq)]
pub struct Placement {
    degrees: [f64; 2],
    scale: [f64; 2],
    warp: Transforms,
    scene: Transforms,
}

impl Default for Placement {
    fn default() -> Self {
        Self::new()
    }
}

impl Placement {
    /// The defaults.
    pub fn new() -> Self {
        Self { degrees: [-22.5, 22.5], scale: [0.3, 0.5], warp: Transforms::new(), scene: Transforms::new() }
    }

    /// Sets the range of angles.
    pub fn degrees(self, least: f64, most: f64) -> Self {
        Self { degrees: [least, most], ..self }
    }

    /// Sets the range of sizes.
    pub fn scale(self, least: f64, most: f64) -> Self {
        Self { scale: [least, most], ..self }
    }

    /// Sets what happens to the patch.
    pub fn warp(self, warp: Transforms) -> Self {
        Self { warp, ..self }
    }

    /// Sets what happens to the picture.
    pub fn scene(self, scene: Transforms) -> Self {
        Self { scene, ..self }
    }

    fn check(&self) -> Result<()> {
        for (parameter, [least, most], low, high, bound) in [
            ("degrees", self.degrees, f64::MIN, f64::MAX, "finite, the least first"),
            ("scale", self.scale, f64::MIN_POSITIVE, 1.0, "in (0, 1], the least first"),
        ] {
            within(parameter, least, low, high, bound)?;
            within(parameter, most, least, high, bound)?;
        }
        Ok(())
    }

    /// Draws from the patch's square to a picture, and what happens to the picture.
    fn draw(&self, patch: [usize; 3], picture: [usize; 3], random: &mut Random) -> Result<(ImageMap, ImageMap)> {
        let mut between = |[low, high]: [f64; 2]| low + (high - low) * random.next_f64();
        let (degrees, scale) = (between(self.degrees), between(self.scale));
        let (sine, cosine) = sine_cosine(degrees);
        let width = scale * picture[1].min(picture[2]) as f64;
        // The square turned fits into a square of this side; what is left is where its centre may be.
        let extent = width * (sine.abs() + cosine.abs());
        let [right, down] = [picture[2], picture[1]].map(|side| {
            let room = ((side as f64 - extent) / 2.0).max(0.0);
            between([-room, room])
        });
        let shrink = patch[1] as f64 / width;
        let put = ImageMap::between(patch, picture, move |u, v| {
            let (u, v) = ((u - right) * shrink, (v - down) * shrink);
            (cosine * u - sine * v, sine * u + cosine * v)
        });
        Ok((self.warp.draw(patch, random)?.then(put)?, self.scene.draw(picture, random)?))
    }
}

/// A printed square that misleads a model on whatever picture it is put into, by Adam over a data set and random placements.
///
/// With the patch `p`, its outline `m` and a placement drawn for every picture, put by `W` and seen by `S`:
/// `p ← clamp(Adam(Σ_batch ∇_p L(clamp(S((1 − Wm)·x + W(m·p))))))`.
///
/// | parameter | default | range | effect |
/// |---|---|---|---|
/// | [`side`](Self::side) | 16 | ≥ 1 | pixels of the patch a side, of its own grid |
/// | [`shape`](Self::shape) | circle | [`PatchShape`] | outline |
/// | [`placement`](Self::placement) | [`Placement`] | | what it is trained for |
/// | [`epochs`](Self::epochs) | 20 | ≥ 1 | passes over the pictures |
/// | [`batch`](Self::batch) | 64 | ≥ 1 | pictures of a step |
/// | [`learning_rate`](Self::learning_rate) | 0.05 | > 0 | Adam's, in units of the pixels |
/// | [`objective`](Self::objective) | cross-entropy | [`Objective`] | loss of each picture's goal, targeted or not |
/// | [`bounds`](Self::bounds) | `[0, 1]` | | of the pixels |
/// | [`seed`](Self::seed) | 0 | any | order and placements |
///
/// Guarantees: pixels inside the bounds; nothing outside of the outline changes without a scene (test
/// `only_the_patch_changes_a_picture`).
///
/// Cost: `epochs` gradients a picture; the maps are made on the host, a placement a picture.
///
/// Deviation: the paper optimises with the same transformations in TensorFlow; the way back through them is by exact adjoints
/// here.
///
/// T. B. Brown, D. Mané, A. Roy, M. Abadi, J. Gilmer, "Adversarial patch", 2017, arXiv:1712.09665, section 2; prints on cloth:
/// K. Xu and others, "Adversarial T-shirt! Evading person detectors in a physical world", ECCV 2020, arXiv:1910.11099.
///
/// ```
/// use adversarial::physical::{AdversarialPatch, Placement};
/// use adversarial::{Goals, Recorded};
/// use burn::nn::LinearConfig;
/// use burn::tensor::{Device, Tensor};
///
/// let device = Device::flex();
/// let model = LinearConfig::new(64, 3).init(&device);
/// let classifier = Recorded::new(&model, [1, 8, 8], |model, x: Tensor<4>| model.forward(x.flatten::<2>(1, 3)))?;
/// let x = Tensor::<4>::full([4, 1, 8, 8], 0.5, &device);
/// let goals = Goals::targeted(&[0; 4], &[2; 4])?;
/// let patch = AdversarialPatch::new().side(5).epochs(3).train(&classifier, &x, &goals)?;
/// let report = patch.success(&classifier, &x, &goals, &Placement::new().degrees(0.0, 0.0), 7)?;
/// assert!(report <= 1.0);
/// # Ok::<(), adversarial::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct AdversarialPatch {
    side: usize,
    shape: PatchShape,
    placement: Placement,
    epochs: usize,
    batch: usize,
    learning_rate: f64,
    objective: Objective,
    bounds: [f64; 2],
    seed: u64,
}

/// A trained patch.
#[derive(Clone, Debug, PartialEq)]
pub struct Patch {
    /// `[channels, side, side]`, row-major; what is outside of the outline is never seen.
    pub pixels: Vec<f32>,
    /// The outline, 1 inside, for every channel.
    pub mask: Vec<f32>,
    /// Shape of both.
    pub shape: [usize; 3],
    /// Mean loss of each epoch.
    pub losses: Vec<f64>,
    threat: Threat,
}

/// Success against angle and size. Made by [`Patch::report`].
#[derive(Clone, Debug, PartialEq)]
pub struct PatchReport {
    /// Angles of the rows.
    pub degrees: Vec<f64>,
    /// Sizes of the columns.
    pub scales: Vec<f64>,
    /// Share of pictures whose goal is reached, a row an angle.
    pub success: Vec<Vec<f64>>,
}

impl Default for AdversarialPatch {
    fn default() -> Self {
        Self::new()
    }
}

impl AdversarialPatch {
    /// The defaults.
    pub fn new() -> Self {
        Self {
            side: 16,
            shape: PatchShape::Circle,
            placement: Placement::new(),
            epochs: 20,
            batch: 64,
            learning_rate: 0.05,
            objective: Objective::CrossEntropy,
            bounds: [0.0, 1.0],
            seed: 0,
        }
    }

    /// Sets the patch's pixels a side.
    pub fn side(self, side: usize) -> Self {
        Self { side, ..self }
    }

    /// Sets the outline.
    pub fn shape(self, shape: PatchShape) -> Self {
        Self { shape, ..self }
    }

    /// Sets where it will be put.
    pub fn placement(self, placement: Placement) -> Self {
        Self { placement, ..self }
    }

    /// Sets the passes over the pictures.
    pub fn epochs(self, epochs: usize) -> Self {
        Self { epochs, ..self }
    }

    /// Sets the pictures of a step.
    pub fn batch(self, batch: usize) -> Self {
        Self { batch, ..self }
    }

    /// Sets Adam's rate.
    pub fn learning_rate(self, learning_rate: f64) -> Self {
        Self { learning_rate, ..self }
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

    /// Trains a patch on pictures `[pictures, channels, height, width]` with a goal each.
    ///
    /// # Errors
    /// [`Error::Parameter`] for a setting out of range, [`Error::Shape`] for no pictures or misfits, [`Error::OutOfBounds`] for a
    /// picture outside of the bounds, [`Error::ElementType`], [`Error::Label`], [`Error::TooFewClasses`], and what the model
    /// fails with.
    pub fn train(&self, classifier: &dyn Classifier<4>, pictures: &Tensor<4>, goals: &Goals) -> Result<Patch> {
        at_least_one("side", self.side)?;
        at_least_one("epochs", self.epochs)?;
        at_least_one("batch", self.batch)?;
        positive("learning_rate", self.learning_rate)?;
        self.placement.check()?;
        let threat = Threat::new(Norm::L0, 0.0)?.bounds(self.bounds[0], self.bounds[1])?;
        let [_, c, h, w] = pictures.dims();
        let rows = Rows::new("the pictures", pictures, goals, &threat)?;
        if rows.values.is_empty() {
            let expected = "at least one picture and one pixel".to_string();
            return Err(Error::Shape { what: "the pictures", actual: pictures.dims().to_vec(), expected });
        }
        let classes = logits(classifier, rows.row(0), [1, c, h, w], 1)?[0].len();
        goals.check(classes)?;
        self.objective.check(classes, goals.targeted_any())?;

        let shape = [c, self.side, self.side];
        let (mask, middle) = (outline(shape, self.shape), (0.5 * (threat.low() + threat.high())) as f32);
        let mut patch = Patch { pixels: vec![middle; mask.len()], mask, shape, losses: Vec::new(), threat };
        let mut adam = Adam::new(self.learning_rate, patch.pixels.len());
        let mut random = Random::new(self.seed);
        for _ in 0..self.epochs {
            let mut total = 0.0;
            for chosen in random.permutation(rows.count).chunks(self.batch) {
                let of: Vec<Loss> = chosen.iter().map(|i| self.objective.loss(&goals.get(*i), None)).collect();
                let views = chosen.iter().map(|i| patch.put(rows.row(*i), [c, h, w], &self.placement, &mut random));
                let views = views.collect::<Result<Vec<_>>>()?;
                let points = views.iter().flat_map(|(_, seen)| seen.pixels.iter().copied()).collect();
                let found = differentiate(classifier, points, [chosen.len(), c, h, w], &of, |_| true)?;
                total += found.losses.iter().filter(|loss| !loss.is_nan()).sum::<f64>();
                let mut descent = vec![0.0f64; patch.pixels.len()];
                for ((view, seen), gradient) in views.iter().zip(found.gradient.chunks(c * h * w)) {
                    let back = view.back(seen, gradient);
                    let masked = back.iter().zip(&patch.mask).map(|(g, m)| f64::from(g * m) / chosen.len() as f64);
                    descent.iter_mut().zip(masked).for_each(|(d, g)| *d -= g);
                }
                adam.descend(&mut patch.pixels, &descent);
                let (low, high) = (threat.low() as f32, threat.high() as f32);
                patch.pixels.iter_mut().for_each(|p| *p = p.clamp(low, high));
            }
            patch.losses.push(total / rows.count as f64);
        }
        Ok(patch)
    }
}

impl Patch {
    /// A picture with the patch, and the way back to it.
    fn put(
        &self,
        x: &[f32],
        picture: [usize; 3],
        placement: &Placement,
        random: &mut Random,
    ) -> Result<(Photograph, Seen)> {
        let (put, scene) = placement.draw(self.shape, picture, random)?;
        let (low, high) = (self.threat.low() as f32, self.threat.high() as f32);
        let photograph = Photograph::new(x.to_vec(), put)?.light(scene)?.bounds(low, high);
        let seen = photograph.seen(&self.pixels, &self.mask);
        Ok((photograph, seen))
    }

    /// The pictures with the patch, each at a place of its own.
    ///
    /// # Errors
    /// [`Error::Shape`] for another number of channels, [`Error::Parameter`] for a placement out of range.
    pub fn apply(&self, pictures: &Tensor<4>, placement: &Placement, seed: u64) -> Result<Tensor<4>> {
        placement.check()?;
        let [n, c, h, w] = pictures.dims();
        if c != self.shape[0] {
            let expected = format!("[pictures, {}, height, width], as the patch", self.shape[0]);
            return Err(Error::Shape { what: "the pictures", actual: pictures.dims().to_vec(), expected });
        }
        if n * c * h * w == 0 {
            return Ok(pictures.clone());
        }
        let mut random = Random::new(seed);
        let values: Vec<f32> = pictures.to_data().iter().collect();
        let views = values.chunks(c * h * w).map(|x| self.put(x, [c, h, w], placement, &mut random));
        let seen: Vec<f32> = views.collect::<Result<Vec<_>>>()?.into_iter().flat_map(|(_, seen)| seen.pixels).collect();
        Ok(Tensor::from_data(TensorData::new(seen, [n, c, h, w]), &pictures.device()))
    }

    /// The share of pictures whose goal is reached with the patch; `NaN` of none.
    ///
    /// # Errors
    /// As [`apply`](Self::apply); [`Error::Shape`] for another number of goals, and what the model fails with.
    pub fn success(
        &self,
        classifier: &dyn Classifier<4>,
        pictures: &Tensor<4>,
        goals: &Goals,
        placement: &Placement,
        seed: u64,
    ) -> Result<f64> {
        let with = self.apply(pictures, placement, seed)?;
        let rows = Rows::new("the pictures", &with, goals, &self.threat)?;
        let logits = logits(classifier, &rows.values, with.dims(), 64)?;
        if let Some(logits) = logits.first() {
            goals.check(logits.len())?;
        }
        let reached = logits.iter().enumerate().filter(|(i, logits)| goals.get(*i).reached(logits)).count();
        Ok(reached as f64 / rows.count as f64)
    }

    /// [`success`](Self::success) for each of the angles and sizes, at random places; warp and scene are those of `placement`.
    ///
    /// # Errors
    /// As [`success`](Self::success).
    #[expect(clippy::too_many_arguments, reason = "those of `success` and the two axes")]
    pub fn report(
        &self,
        classifier: &dyn Classifier<4>,
        pictures: &Tensor<4>,
        goals: &Goals,
        placement: &Placement,
        degrees: &[f64],
        scales: &[f64],
        seed: u64,
    ) -> Result<PatchReport> {
        let at = |degrees: f64, scale: f64| {
            let placement = placement.clone().degrees(degrees, degrees).scale(scale, scale);
            self.success(classifier, pictures, goals, &placement, seed)
        };
        let row = |degrees: &f64| scales.iter().map(|scale| at(*degrees, *scale)).collect::<Result<Vec<f64>>>();
        let success = degrees.iter().map(row).collect::<Result<_>>()?;
        Ok(PatchReport { degrees: degrees.to_vec(), scales: scales.to_vec(), success })
    }
}

fn outline([c, h, w]: [usize; 3], shape: PatchShape) -> Vec<f32> {
    let radius = h as f64 / 2.0;
    let inside = |i: usize| {
        let (row, column) = ((i / w % h) as f64 + 0.5 - radius, (i % w) as f64 + 0.5 - radius);
        shape == PatchShape::Square || row * row + column * column <= radius * radius
    };
    (0..c * h * w).map(|i| f32::from(u8::from(inside(i)))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::physical::Transform;
    use crate::physical::samples::{bars, classifier, digits, train};
    use burn::tensor::Device;

    fn goals(labels: &[usize]) -> Goals {
        Goals::untargeted(labels)
    }

    #[test]
    fn only_the_patch_changes_a_picture() {
        let (x, labels) = bars(6, 1);
        for shape in [PatchShape::Circle, PatchShape::Square] {
            let attack = AdversarialPatch::new().side(6).shape(shape).epochs(2);
            let patch = attack.train(&classifier(), &x, &goals(&labels)).unwrap();
            assert!(patch.pixels.iter().all(|p| (0.0..=1.0).contains(p)));
            let y = patch.apply(&x, &Placement::new().degrees(-180.0, 180.0).scale(0.4, 0.4), 3).unwrap();
            let [x, y] = [&x, &y].map(|x| x.to_data().iter::<f32>().collect::<Vec<_>>());
            for (x, y) in x.chunks(64).zip(y.chunks(64)) {
                let changed: Vec<usize> = (0..64).filter(|i| x[*i] != y[*i]).collect();
                // A square of 3.2 pixels, turned, with the halves of the pixels around it.
                assert!(!changed.is_empty() && changed.len() <= 36, "{}", changed.len());
                let span = |of: fn(usize) -> usize| {
                    let all = changed.iter().map(|i| of(*i));
                    all.clone().max().unwrap() - all.min().unwrap()
                };
                assert!(span(|i| i / 8) <= 6 && span(|i| i % 8) <= 6);
            }
        }
    }

    #[test]
    fn a_patch_of_the_size_of_its_place_is_pasted_bit_for_bit() {
        let pixels: Vec<f32> = (0..16).map(|i| i as f32 / 16.0).collect();
        let threat = Threat::new(Norm::L0, 0.0).unwrap();
        let patch = Patch { pixels: pixels.clone(), mask: vec![1.0; 16], shape: [1, 4, 4], losses: Vec::new(), threat };
        let x = Tensor::<4>::full([1, 1, 4, 4], 0.3, &Device::flex());
        let y = patch.apply(&x, &Placement::new().degrees(0.0, 0.0).scale(1.0, 1.0), 0).unwrap();
        assert_eq!(y.into_data().iter::<f32>().collect::<Vec<_>>(), pixels);
    }

    #[test]
    fn a_patch_misleads_on_pictures_it_has_not_seen_at_any_angle_and_better_when_larger() {
        let ((x, labels), (unseen, others)) = (bars(90, 2), bars(60, 3));
        let classifier = classifier();
        let attack = AdversarialPatch::new().side(8).placement(Placement::new().degrees(-45.0, 45.0).scale(0.4, 0.7));
        let patch = attack.train(&classifier, &x, &goals(&labels)).unwrap();
        assert!(patch.losses.last() > patch.losses.first());
        let grey = Patch { pixels: vec![0.5; 64], ..patch.clone() };
        let (degrees, scales) = ([-30.0, 0.0, 30.0], [0.3, 0.7]);
        let report = |patch: &Patch| {
            patch
                .report(&classifier, &unseen, &goals(&others), &Placement::new(), &degrees, &scales, 5)
                .unwrap()
                .success
        };
        let (trained, untrained) = (report(&patch), report(&grey));
        for (trained, untrained) in trained.iter().zip(&untrained) {
            assert!(trained[1] > untrained[1] && trained[1] > trained[0], "{trained:?} {untrained:?}");
        }
        // The same of the same seed.
        assert_eq!(patch, attack.train(&classifier, &x, &goals(&labels)).unwrap());
    }

    #[test]
    fn a_print_on_cloth_survives_the_warp() {
        let ((x, labels), (unseen, others)) = (bars(90, 2), bars(60, 3));
        let classifier = classifier();
        let shirt = Transforms::new().then(Transform::Cloth { side: 4, most: 1.0 });
        let light = Transforms::new().then(Transform::Brightness([-0.1, 0.1])).then(Transform::Noise(0.02));
        let worn = Placement::new().scale(0.6, 0.7).warp(shirt).scene(light);
        let attack = AdversarialPatch::new().side(8).shape(PatchShape::Square).placement(worn.clone());
        let patch = attack.train(&classifier, &x, &goals(&labels)).unwrap();
        let grey = Patch { pixels: vec![0.5; 64], ..patch.clone() };
        let rate = |patch: &Patch| patch.success(&classifier, &unseen, &goals(&others), &worn, 9).unwrap();
        assert!(rate(&patch) > rate(&grey) + 0.15, "{} {}", rate(&patch), rate(&grey));
    }

    #[test]
    fn a_patch_heads_for_one_class() {
        let (x, labels) = bars(120, 4);
        let chosen: Vec<i64> = (0..120).filter(|i| labels[*i as usize] != 0).collect();
        let chosen = Tensor::<1, burn::tensor::Int>::from_data(&chosen[..], &Device::flex());
        let (x, kept) = (x.select(0, chosen), labels.iter().copied().filter(|label| *label != 0).collect::<Vec<_>>());
        let goals = Goals::targeted(&kept, &vec![0; kept.len()]).unwrap();
        let (classifier, placement) = (classifier(), Placement::new().scale(0.6, 0.7));
        let patch =
            AdversarialPatch::new().side(8).placement(placement.clone()).train(&classifier, &x, &goals).unwrap();
        let grey = Patch { pixels: vec![0.5; 64], ..patch.clone() };
        let rate = |patch: &Patch| patch.success(&classifier, &x, &goals, &placement, 2).unwrap();
        assert!(rate(&patch) > rate(&grey) + 0.15, "{} {}", rate(&patch), rate(&grey));
    }

    #[test]
    fn a_patch_misleads_on_digits_it_has_not_seen() {
        let ((x, labels), (unseen, others)) = (digits(0, 300), digits(1, 200));
        let classifier = train(x.clone(), &labels, 10);
        let placement = Placement::new().scale(0.4, 0.5);
        let patch =
            AdversarialPatch::new().side(6).placement(placement.clone()).train(&classifier, &x, &goals(&labels));
        let patch = patch.unwrap();
        let grey = Patch { pixels: vec![0.5; 36], ..patch.clone() };
        let rate = |patch: &Patch| patch.success(&classifier, &unseen, &goals(&others), &placement, 4).unwrap();
        assert!(rate(&patch) > rate(&grey) + 0.1, "{} {}", rate(&patch), rate(&grey));
    }

    #[test]
    fn misfits_are_named() {
        let (x, labels) = bars(3, 1);
        let classifier = classifier();
        let train = |attack: AdversarialPatch, x: &Tensor<4>, g: &Goals| {
            attack.train(&classifier, x, g).unwrap_err().to_string()
        };
        let new = AdversarialPatch::new;
        let g = goals(&labels);
        assert!(train(new().side(0), &x, &g).starts_with("side = 0"));
        assert!(train(new().learning_rate(f64::NAN), &x, &g).starts_with("learning_rate = NaN"));
        assert!(train(new().placement(Placement::new().scale(0.5, 1.5)), &x, &g).starts_with("scale = 1.5"));
        assert!(train(new().placement(Placement::new().degrees(9.0, 1.0)), &x, &g).starts_with("degrees = 1"));
        assert!(train(new(), &(x.clone() + 2.0), &g).contains("outside"));
        assert!(train(new(), &x, &goals(&[0])).starts_with("goals has shape [1]"));
        assert!(train(new(), &x, &goals(&[0, 1, 7])).contains("is 7"));
        let none = Tensor::<4>::zeros([0, 1, 8, 8], &Device::flex());
        assert!(train(new(), &none, &goals(&[])).contains("at least one picture"));
    }
}
