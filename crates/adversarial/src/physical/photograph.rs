//! Photographs with a place for a print.

use burn::tensor::{Tensor, TensorData};
use core_tensor::Random;
use rayon::prelude::*;

use super::transform::ImageMap;
use crate::attack::batch::logits;
use crate::attack::check::at_least_one;
use crate::classifier::Classifier;
use crate::error::{Error, Result};
use crate::goal::Goal;

/// A picture of a scene and how a print lies in it: what an attack on one object is made for and measured on.
///
/// With the picture `x`, a print `p` that covers where its mask `m` is 1, the place `W` and the light `S` on the whole picture,
/// the camera sees `clamp(S((1 − Wm)·x + W(m·p)))`: what is under the print is gone, and the same light falls on both.
///
/// | part | is |
/// |---|---|
/// | picture | `[channels, height, width]`, row-major, before the light |
/// | place | from the print's pixels to the picture's: [`ImageMap::printed`] for a flat one, [`ImageMap::cloth`] before it on cloth |
/// | [`light`](Self::light) | brightness, contrast, blur, noise of the whole; default none |
/// | [`bounds`](Self::bounds) | what a camera gives; default `[0, 1]` |
///
/// Guarantees: outside of the print the picture stays as it is, bit for bit without light (test `only_the_place_changes`);
/// gradients are those of central differences (test `gradients_match_central_differences`).
///
/// ```
/// use adversarial::physical::{Homography, ImageMap, Photograph};
///
/// // A white print of 2 × 2 on the right half of a black picture of 4 × 4.
/// let corners = [[-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0], [1.0, 1.0]];
/// let place = Homography::corners(corners, [[2.0, 0.0], [4.0, 0.0], [2.0, 4.0], [4.0, 4.0]])?;
/// let photograph = Photograph::new(vec![0.0; 16], ImageMap::printed([1, 2, 2], [1, 4, 4], &place, 2)?)?;
/// assert_eq!(photograph.with(&[1.0; 4], &[1.0; 4])[..4], [0.0, 0.0, 1.0, 1.0]);
/// # Ok::<(), adversarial::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Photograph {
    picture: Vec<f32>,
    place: ImageMap,
    light: ImageMap,
    bounds: [f32; 2],
}

/// Draws a photograph; the same for the same random numbers. Attacks draw anew at every step, in parallel.
pub type Photographs<'a> = dyn Fn(&mut Random) -> Result<Photograph> + Sync + 'a;

/// What the camera sees, and which elements were not clamped.
pub(super) struct Seen {
    pub pixels: Vec<f32>,
    free: Vec<bool>,
}

impl Photograph {
    /// A picture and a place in it.
    ///
    /// # Errors
    /// [`Error::Shape`] for a picture of another size than the place's.
    pub fn new(picture: Vec<f32>, place: ImageMap) -> Result<Self> {
        let shape = place.to_shape();
        if picture.len() != shape.iter().product::<usize>() {
            let expected = format!("{shape:?}, where the print's place is");
            return Err(Error::Shape { what: "the picture", actual: vec![picture.len()], expected });
        }
        Ok(Self { picture, place, light: ImageMap::identity(shape), bounds: [0.0, 1.0] })
    }

    /// Sets the light.
    ///
    /// # Errors
    /// [`Error::Shape`] for a map of other pictures.
    pub fn light(self, light: ImageMap) -> Result<Self> {
        let shape = self.place.to_shape();
        for actual in [light.from_shape(), light.to_shape()] {
            if actual != shape {
                let expected = format!("{shape:?}, as the picture");
                return Err(Error::Shape { what: "the light's pictures", actual: actual.to_vec(), expected });
            }
        }
        Ok(Self { light, ..self })
    }

    /// Sets what a camera gives.
    pub fn bounds(self, low: f32, high: f32) -> Self {
        Self { bounds: [low, high], ..self }
    }

    /// Shape of the print, `[channels, height, width]`.
    pub fn print_shape(&self) -> [usize; 3] {
        self.place.from_shape()
    }

    /// Shape of the picture.
    pub fn shape(&self) -> [usize; 3] {
        self.place.to_shape()
    }

    /// What the camera sees of the scene without a print.
    pub fn without(&self) -> Vec<f32> {
        self.through(&self.picture).pixels
    }

    /// What the camera sees with a print, `[channels, height, width]`, where its mask, a value a pixel, is 1.
    ///
    /// # Panics
    /// If print or mask have other sizes than the place says.
    pub fn with(&self, print: &[f32], mask: &[f32]) -> Vec<f32> {
        self.seen(print, mask).pixels
    }

    pub(super) fn seen(&self, print: &[f32], mask: &[f32]) -> Seen {
        let cover: Vec<f32> = print.iter().zip(mask.iter().cycle()).map(|(_, m)| *m).collect();
        let masked: Vec<f32> = print.iter().zip(&cover).map(|(p, m)| p * m).collect();
        let (cover, ink) = (self.place.apply_linear(&cover), self.place.apply_linear(&masked));
        let both = self.picture.iter().zip(cover).zip(ink).map(|((x, a), p)| (1.0 - a) * x + p);
        self.through(&both.collect::<Vec<f32>>())
    }

    fn through(&self, picture: &[f32]) -> Seen {
        let [low, high] = self.bounds;
        let mut pixels = self.light.apply(picture);
        let free = pixels.iter().map(|y| *y >= low && *y <= high).collect();
        pixels.iter_mut().for_each(|y| *y = y.clamp(low, high));
        Seen { pixels, free }
    }

    /// The gradient in the print, from the one in what is seen; where the mask is 0 it does not count.
    pub(super) fn back(&self, seen: &Seen, gradient: &[f32]) -> Vec<f32> {
        let free = gradient.iter().zip(&seen.free).map(|(g, free)| if *free { *g } else { 0.0 });
        self.place.adjoint(&self.light.adjoint(&free.collect::<Vec<_>>()))
    }
}

/// Draws `count` photographs, each from random numbers of its own.
pub(super) fn draw(photographs: &Photographs<'_>, count: usize, random: &Random) -> Result<Vec<Photograph>> {
    let one = |i: usize| photographs(&mut random.fork((i as u64).to_le_bytes()));
    (0..count).into_par_iter().map(one).collect()
}

/// A print for an object, with where it covers it. Made by [`Rp2::run_on`](super::Rp2::run_on), or by hand for comparison.
#[derive(Clone, Debug, PartialEq)]
pub struct Print {
    /// `[channels, height, width]`, row-major.
    pub pixels: Vec<f32>,
    /// 1 where it covers the object, a value a pixel.
    pub mask: Vec<f32>,
    /// Shape of the pixels.
    pub shape: [usize; 3],
}

impl Print {
    /// `count` photographs with the print, `[count, channels, height, width]`, on a device.
    ///
    /// # Errors
    /// [`Error::Parameter`] for no photographs, [`Error::Shape`] for photographs of other prints or of several sizes, and those of
    /// drawing.
    pub fn photographs(
        &self,
        photographs: &Photographs<'_>,
        count: usize,
        seed: u64,
        device: &burn::tensor::Device,
    ) -> Result<Tensor<4>> {
        at_least_one("count", count)?;
        let drawn = draw(photographs, count, &Random::new(seed))?;
        let shape = drawn[0].shape();
        check(&drawn, self.shape, shape)?;
        let seen: Vec<f32> = drawn.par_iter().flat_map_iter(|one| one.with(&self.pixels, &self.mask)).collect();
        let [c, h, w] = shape;
        Ok(Tensor::from_data(TensorData::new(seen, [count, c, h, w]), device))
    }

    /// The share of `count` photographs in which the goal is reached. Draw them from other seeds than the attack's.
    ///
    /// # Errors
    /// As [`photographs`](Self::photographs), and what the model fails with.
    pub fn success(
        &self,
        classifier: &dyn Classifier<4>,
        photographs: &Photographs<'_>,
        goal: Goal,
        count: usize,
        seed: u64,
    ) -> Result<f64> {
        let seen = self.photographs(photographs, count, seed, &classifier.device())?;
        let (dims, values) = (seen.dims(), crate::attack::batch::floats(seen.into_data()));
        let logits = logits(classifier, &values, dims, 64)?;
        crate::Goals::from(vec![goal]).check(logits[0].len())?;
        Ok(logits.iter().filter(|logits| goal.reached(logits)).count() as f64 / count as f64)
    }
}

/// Refuses photographs that do not fit a print or each other.
pub(super) fn check(drawn: &[Photograph], print: [usize; 3], picture: [usize; 3]) -> Result<()> {
    for one in drawn {
        for (what, actual, expected) in
            [("the photograph's print", one.print_shape(), print), ("a photograph", one.shape(), picture)]
        {
            if actual != expected {
                let expected = format!("{expected:?}, as the others");
                return Err(Error::Shape { what, actual: actual.to_vec(), expected });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::physical::{Homography, Transform, Transforms, Viewpoint};
    use proptest::prelude::*;

    const PRINT: [usize; 3] = [3, 6, 5];
    const PICTURE: [usize; 3] = [3, 12, 14];

    fn values(count: usize, random: &mut Random) -> Vec<f32> {
        (0..count).map(|_| random.next_f64() as f32).collect()
    }

    fn place(random: &mut Random) -> Homography {
        let mut between = |low: f64, high: f64| low + (high - low) * random.next_f64();
        let seen = Viewpoint {
            distance: between(2.0, 5.0),
            yaw: between(-60.0, 60.0),
            pitch: between(-30.0, 30.0),
            roll: between(-180.0, 180.0),
            ..Viewpoint::default()
        };
        seen.homography(0.5, 25.0, [between(4.0, 10.0), between(4.0, 8.0)]).unwrap()
    }

    fn photograph(light: &Transforms, random: &mut Random) -> Photograph {
        let printed = ImageMap::printed(PRINT, PICTURE, &place(random), 3).unwrap();
        let cloth = Transform::Cloth { side: 3, most: 0.8 }.draw(PRINT, random).unwrap();
        let new = Photograph::new(values(3 * 168, random), cloth.then(printed).unwrap()).unwrap();
        new.light(light.draw(PICTURE, random).unwrap()).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn gradients_match_central_differences(seed in 0u64..10_000) {
            let mut random = Random::new(seed);
            let light = Transforms::new().then(Transform::Contrast([0.5, 0.9])).then(Transform::Blur([0.3, 0.8]));
            // So wide that nothing is clamped: the map is affine, and differences are exact but for rounding.
            let photograph = photograph(&light, &mut random).bounds(-9.0, 9.0);
            let (print, step) = (values(90, &mut random), values(90, &mut random));
            let mask: Vec<f32> = (0..30).map(|_| random.below(2) as f32).collect();
            let weights = values(3 * 168, &mut random);
            let at = |h: f32| {
                let print: Vec<f32> = print.iter().zip(&step).map(|(p, s)| p + h * s).collect();
                let seen = photograph.with(&print, &mask);
                seen.iter().zip(&weights).map(|(y, w)| f64::from(y * w)).sum::<f64>()
            };
            let difference = (at(0.5) - at(-0.5)) / 1.0;
            let back = photograph.back(&photograph.seen(&print, &mask), &weights);
            let along = |((g, s), m): ((&f32, &f32), &f32)| f64::from(g * s * m);
            let slope: f64 = back.iter().zip(&step).zip(mask.iter().cycle()).map(along).sum();
            prop_assert!((slope - difference).abs() < 1e-3 * (1.0 + slope.abs()), "{slope} {difference}");
        }

        #[test]
        fn only_the_place_changes(seed in 0u64..10_000) {
            let mut random = Random::new(seed);
            let place = place(&mut random);
            let picture = values(3 * 168, &mut random);
            let photograph = Photograph::new(picture.clone(), ImageMap::printed(PRINT, PICTURE, &place, 3).unwrap()).unwrap();
            prop_assert_eq!(&photograph.without(), &picture);
            prop_assert_eq!(&photograph.with(&[0.5; 90], &[0.0; 30]), &picture);
            let seen = photograph.with(&[0.5; 90], &[1.0; 30]);
            // A pixel changes only if its square can meet the print's.
            let back = place.inverse();
            for i in 0..168 {
                let (row, column) = ((i / 14) as f64, (i % 14) as f64);
                let meets = (0..36).any(|k| {
                    let at = [column + (k % 6) as f64 / 5.0, row + (k / 6) as f64 / 5.0];
                    back.apply(at).is_some_and(|[u, v]| u.abs() <= 1.0 && v.abs() <= 1.0)
                });
                prop_assert!(meets || seen[i].to_bits() == picture[i].to_bits(), "{row} {column}");
                let deep = [[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]].iter().all(|[x, y]| {
                    back.apply([column + x, row + y]).is_some_and(|[u, v]| u.abs() < 0.999 && v.abs() < 0.999)
                });
                prop_assert!(!deep || (seen[i] - 0.5).abs() < 1e-6);
            }
        }
    }

    #[test]
    fn misfits_are_named() {
        let place = ImageMap::identity([1, 2, 2]);
        let error = |result: Result<Photograph>| result.unwrap_err().to_string();
        assert!(error(Photograph::new(vec![0.0; 3], place.clone())).starts_with("the picture has shape [3]"));
        let good = Photograph::new(vec![0.0; 4], place.clone()).unwrap();
        assert!(error(good.clone().light(ImageMap::identity([1, 2, 3]))).starts_with("the light's pictures"));
        let print = Print { pixels: vec![0.0; 6], mask: vec![1.0; 6], shape: [1, 2, 3] };
        let device = burn::tensor::Device::flex();
        let drawn = print.photographs(&|_: &mut Random| Ok(good.clone()), 2, 0, &device).unwrap_err().to_string();
        assert!(drawn.starts_with("the photograph's print has shape [1, 2, 2]"), "{drawn}");
        let none = print.photographs(&|_: &mut Random| Ok(good.clone()), 0, 0, &device).unwrap_err().to_string();
        assert!(none.starts_with("count = 0"));
    }
}
