//! Transformations of images as affine maps with exact adjoints.

use burn::tensor::Distribution;
use core_tensor::Random;

use super::homography::Homography;
use super::sparse::{Sparse, solve};
use crate::attack::geometry::draw;
use crate::error::{Error, Result};

/// An affine map `x ↦ A·x + b` from images `[channels, height, width]` to images, with the adjoint `Aᵀ` that gradients go back by.
///
/// | map | parameters | identity at |
/// |---|---|---|
/// | [`rotation`](Self::rotation) | degrees, counter-clockwise | 0 |
/// | [`scale`](Self::scale) | factor, above 1 enlarges | 1 |
/// | [`translation`](Self::translation) | shares of width and height, right and down | 0 |
/// | [`perspective`](Self::perspective) | where the four corners go | no displacement |
/// | [`cloth`](Self::cloth) | where a grid of points goes; a thin-plate spline between them | no displacement |
/// | [`blur`](Self::blur) | deviation of the Gaussian in pixels | 0 |
/// | [`brightness`](Self::brightness) | what is added | 0 |
/// | [`contrast`](Self::contrast) | factor around ½ | 1 |
/// | [`noise`](Self::noise) | an image that is added | zeros |
/// | [`printed`](Self::printed) | how a print lies in a picture of another size | – |
///
/// Geometric maps sample bilinearly; what comes from outside of the image is 0. They compose by [`then`](Self::then), each with
/// its own sampling.
///
/// Guarantees: `⟨Ax, g⟩ = ⟨x, Aᵀg⟩` (test `adjoints_are_adjoint`); at the identity every bit stays (test
/// `identities_keep_every_bit`); a turn by 90° of a square image moves pixels only (test `a_quarter_turn_permutes_pixels`).
///
/// Cost: making a geometric map takes a few operations a pixel and 64 bytes a pixel; applying it and its adjoint four products a
/// pixel and channel, on the host.
///
/// The spline: F. L. Bookstein, "Principal warps: thin-plate splines and the decomposition of deformations", IEEE TPAMI 1989.
///
/// ```
/// use adversarial::physical::ImageMap;
///
/// // One channel, two rows of two.
/// let map = ImageMap::rotation([1, 2, 2], 90.0)?.then(ImageMap::brightness([1, 2, 2], 0.5)?)?;
/// assert_eq!(map.apply(&[1.0, 2.0, 3.0, 4.0]), [2.5, 4.5, 1.5, 3.5]);
/// assert_eq!(map.adjoint(&[2.0, 4.0, 1.0, 3.0]), [1.0, 2.0, 3.0, 4.0]);
/// # Ok::<(), adversarial::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct ImageMap {
    from: [usize; 3],
    to: [usize; 3],
    stages: Vec<Stage>,
}

#[derive(Clone, Debug, PartialEq)]
enum Stage {
    Linear(Sparse),
    /// `gain·x + offset`, the offset for all elements or for each.
    Affine {
        gain: f32,
        offset: Vec<f32>,
    },
}

impl ImageMap {
    /// The map that changes nothing.
    pub fn identity(shape: [usize; 3]) -> Self {
        Self { from: shape, to: shape, stages: Vec::new() }
    }

    /// Turns the image around its centre, counter-clockwise as seen.
    ///
    /// # Errors
    /// [`Error::Parameter`] if the angle is not finite.
    pub fn rotation(shape: [usize; 3], degrees: f64) -> Result<Self> {
        within("degrees", degrees, f64::MIN, f64::MAX, "a finite number")?;
        let (sine, cosine) = sine_cosine(degrees);
        Ok(Self::centred(shape, move |u, v| (cosine * u - sine * v, sine * u + cosine * v)))
    }

    /// Enlarges the image around its centre.
    ///
    /// # Errors
    /// [`Error::Parameter`] if the factor is not a finite number above 0.
    pub fn scale(shape: [usize; 3], factor: f64) -> Result<Self> {
        within("factor", factor, f64::MIN_POSITIVE, f64::MAX, "a finite number above 0")?;
        Ok(Self::centred(shape, move |u, v| (u / factor, v / factor)))
    }

    /// Moves the image right and down by shares of its width and height.
    ///
    /// # Errors
    /// [`Error::Parameter`] if a share is not finite.
    pub fn translation(shape: [usize; 3], right: f64, down: f64) -> Result<Self> {
        within("right", right, f64::MIN, f64::MAX, "a finite number")?;
        within("down", down, f64::MIN, f64::MAX, "a finite number")?;
        let (du, dv) = (right * shape[2] as f64, down * shape[1] as f64);
        Ok(Self::centred(shape, move |u, v| (u - du, v - dv)))
    }

    /// A view from elsewhere: the homography that moves the corners (upper left, upper right, lower left, lower right) by
    /// `[right, down]` in shares of half the width and height.
    ///
    /// # Errors
    /// [`Error::Parameter`] if a displacement is not within ±0.9, where corners could meet.
    pub fn perspective(shape: [usize; 3], corners: [[f64; 2]; 4]) -> Result<Self> {
        for value in corners.iter().flatten() {
            within("corners", *value, -0.9, 0.9, "displacements within 0.9 of half a side")?;
        }
        // From where a corner goes to where it comes from, both in −1..1.
        let (mut a, mut b) = (Vec::new(), Vec::new());
        for ([x, y], [dx, dy]) in [[-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0], [1.0, 1.0]].into_iter().zip(corners) {
            let (u, v) = (x + dx, y + dy);
            a.push(vec![u, v, 1.0, 0.0, 0.0, 0.0, -u * x, -v * x]);
            a.push(vec![0.0, 0.0, 0.0, u, v, 1.0, -u * y, -v * y]);
            b.extend([vec![x], vec![y]]);
        }
        let Some(h) = solve(a, b) else {
            return Err(Error::Parameter {
                parameter: "corners",
                value: f64::NAN,
                bound: "no three corners on a line",
            });
        };
        let h: Vec<f64> = h.concat();
        let [half_w, half_h] = [shape[2], shape[1]].map(|side| (side as f64 - 1.0).max(1.0) / 2.0);
        Ok(Self::centred(shape, move |u, v| {
            let (u, v) = (u / half_w, v / half_h);
            let depth = h[6] * u + h[7] * v + 1.0;
            // Behind the viewer there is nothing.
            let depth = if depth > 1e-9 { depth } else { f64::NAN };
            ((h[0] * u + h[1] * v + h[2]) / depth * half_w, (h[3] * u + h[4] * v + h[5]) / depth * half_h)
        }))
    }

    /// Cloth: a grid of `side × side` points over the image is moved by `[right, down]` each, in pixels, and the rest follows by
    /// the thin-plate spline, which bends as little as it can. A T-shirt's print is a patch under this map.
    ///
    /// # Errors
    /// [`Error::Parameter`] for `side` below 2, a displacement that is not finite or points that meet, [`Error::Shape`] for another number of
    /// displacements.
    pub fn cloth(shape: [usize; 3], side: usize, displacements: &[[f64; 2]]) -> Result<Self> {
        if side < 2 {
            return Err(Error::Parameter { parameter: "side", value: side as f64, bound: "at least 2" });
        }
        if displacements.len() != side * side {
            let expected = format!("[{}], one for each point of the grid", side * side);
            return Err(Error::Shape { what: "displacements", actual: vec![displacements.len()], expected });
        }
        for value in displacements.iter().flatten() {
            within("displacements", *value, f64::MIN, f64::MAX, "finite numbers")?;
        }
        let [half_w, half_h] = [shape[2], shape[1]].map(|side| (side as f64 - 1.0).max(1.0) / 2.0);
        let place = |i: usize| 2.0 * i as f64 / (side - 1) as f64 - 1.0;
        // Where the points go, as that is where the map is asked from where its pixels come.
        let moved = |(i, [right, down]): (usize, &[f64; 2])| {
            [place(i % side) + right / half_w, place(i / side) + down / half_h]
        };
        let points: Vec<[f64; 2]> = displacements.iter().enumerate().map(moved).collect();
        let n = points.len();
        let (mut a, mut b) = (vec![vec![0.0; n + 3]; n + 3], vec![vec![0.0; 2]; n + 3]);
        for (i, p) in points.iter().enumerate() {
            for (j, q) in points.iter().enumerate() {
                a[i][j] = bending(p, q);
            }
            for (k, x) in [1.0, p[0], p[1]].into_iter().enumerate() {
                (a[i][n + k], a[n + k][i]) = (x, x);
            }
            b[i] = displacements[i].to_vec();
        }
        let Some(weights) = solve(a, b) else {
            return Err(Error::Parameter {
                parameter: "displacements",
                value: f64::NAN,
                bound: "points that do not meet",
            });
        };
        Ok(Self::centred(shape, move |u, v| {
            let at = [u / half_w, v / half_h];
            let basis = points.iter().map(|p| bending(p, &at)).chain([1.0, at[0], at[1]]);
            let moved = basis.zip(&weights).fold([0.0, 0.0], |[x, y], (f, w)| [x + f * w[0], y + f * w[1]]);
            (u - moved[0], v - moved[1])
        }))
    }

    /// Gaussian blur, cut at three deviations; at the edges the weights inside are scaled to sum to 1.
    ///
    /// # Errors
    /// [`Error::Parameter`] if the deviation is not in `[0, 1000]`.
    pub fn blur(shape: [usize; 3], deviation: f64) -> Result<Self> {
        within("deviation", deviation, 0.0, 1000.0, "in [0, 1000] pixels")?;
        let [_, h, w] = shape;
        let reach = (3.0 * deviation).ceil() as usize;
        let along = |side: usize, stride: usize| {
            let row = move |pixel: usize| {
                let at = pixel / stride % side;
                let near = at.saturating_sub(reach)..(at + reach + 1).min(side);
                let weight = |i: usize| match i == at {
                    true => 1.0,
                    false => (-0.5 * ((i as f64 - at as f64) / deviation).powi(2)).exp(),
                };
                let total: f64 = near.clone().map(weight).sum();
                near.map(|i| (pixel - at * stride + i * stride, (weight(i) / total) as f32)).collect()
            };
            Stage::Linear(Sparse::new(h * w, (0..h * w).map(row)))
        };
        let stages = if deviation == 0.0 { Vec::new() } else { vec![along(w, 1), along(h, w)] };
        Ok(Self { from: shape, to: shape, stages })
    }

    /// Adds to every element.
    ///
    /// # Errors
    /// [`Error::Parameter`] if it is not finite.
    pub fn brightness(shape: [usize; 3], added: f64) -> Result<Self> {
        within("added", added, f64::MIN, f64::MAX, "a finite number")?;
        Ok(Self::affine(shape, 1.0, vec![added as f32]))
    }

    /// Scales every element's distance from ½.
    ///
    /// # Errors
    /// [`Error::Parameter`] if the factor is negative or not finite.
    pub fn contrast(shape: [usize; 3], factor: f64) -> Result<Self> {
        within("factor", factor, 0.0, f64::MAX, "a finite number, at least 0")?;
        Ok(Self::affine(shape, factor as f32, vec![(0.5 * (1.0 - factor)) as f32]))
    }

    /// Adds an image.
    ///
    /// # Errors
    /// [`Error::Shape`] for one of another size.
    pub fn noise(shape: [usize; 3], noise: Vec<f32>) -> Result<Self> {
        if noise.len() != shape.iter().product::<usize>() {
            let expected = format!("{shape:?}, as the image");
            return Err(Error::Shape { what: "the noise", actual: vec![noise.len()], expected });
        }
        Ok(Self::affine(shape, 1.0, noise))
    }

    /// A print in a picture: each of its pixels is a square of ink, `place` brings its square `[−1, 1]²` (right, down) into the
    /// picture, whose pixels are squares of side 1 from 0 on, and each of those is the mean of `samples × samples` points in it. What
    /// the print does not reach is 0.
    ///
    /// # Errors
    /// [`Error::Parameter`] for no samples, [`Error::Shape`] for other channels or a print without pixels.
    pub fn printed(from: [usize; 3], to: [usize; 3], place: &Homography, samples: usize) -> Result<Self> {
        crate::attack::check::at_least_one("samples", samples)?;
        if from[0] != to[0] || from.contains(&0) {
            let expected = format!("[{}, at least 1, at least 1]", to[0]);
            return Err(Error::Shape { what: "the print", actual: from.to_vec(), expected });
        }
        let (back, [_, rows, columns]) = (place.inverse(), from);
        let weight = 1.0 / (samples * samples) as f32;
        let pixel = |i: usize| {
            let mut sources: Vec<(usize, f32)> = Vec::new();
            for k in 0..samples * samples {
                let within = |k: usize| (k as f64 + 0.5) / samples as f64;
                let at = [(i % to[2]) as f64 + within(k % samples), (i / to[2]) as f64 + within(k / samples)];
                let Some([u, v]) = back.apply(at) else { continue };
                if !(u.abs() < 1.0 && v.abs() < 1.0) {
                    continue;
                }
                let part = |x: f64, side: usize| ((0.5 * (x + 1.0) * side as f64) as usize).min(side - 1);
                let source = part(v, rows) * columns + part(u, columns);
                match sources.iter_mut().find(|(other, _)| *other == source) {
                    Some((_, sum)) => *sum += weight,
                    None => sources.push((source, weight)),
                }
            }
            sources
        };
        let map = Sparse::new(rows * columns, (0..to[1] * to[2]).map(pixel));
        Ok(Self { from, to, stages: vec![Stage::Linear(map)] })
    }

    /// This map and then another.
    ///
    /// # Errors
    /// [`Error::Shape`] if the other does not begin where this one ends.
    pub fn then(mut self, next: Self) -> Result<Self> {
        if self.to != next.from {
            let expected = format!("{:?}, what the map before gives", self.to);
            return Err(Error::Shape { what: "the next map's images", actual: next.from.to_vec(), expected });
        }
        self.stages.extend(next.stages);
        Ok(Self { to: next.to, ..self })
    }

    /// Shape of the images it takes.
    pub fn from_shape(&self) -> [usize; 3] {
        self.from
    }

    /// Shape of the images it gives.
    pub fn to_shape(&self) -> [usize; 3] {
        self.to
    }

    /// `A·x + b` of an image in row-major order.
    ///
    /// # Panics
    /// If the image has another size.
    pub fn apply(&self, x: &[f32]) -> Vec<f32> {
        self.forward(x, true)
    }

    /// `A·x`, without what is added.
    ///
    /// # Panics
    /// If the image has another size.
    pub fn apply_linear(&self, x: &[f32]) -> Vec<f32> {
        self.forward(x, false)
    }

    /// `Aᵀ·g`: the gradient in the image from the gradient in the result.
    ///
    /// # Panics
    /// If the gradient has another size than the result.
    pub fn adjoint(&self, g: &[f32]) -> Vec<f32> {
        assert_eq!(g.len(), self.to.iter().product::<usize>(), "a gradient of the size of the result");
        self.stages.iter().rev().fold(g.to_vec(), |g, stage| match stage {
            Stage::Linear(map) => map.adjoint(&g),
            Stage::Affine { gain, .. } => g.iter().map(|g| gain * g).collect(),
        })
    }

    fn forward(&self, x: &[f32], with_offset: bool) -> Vec<f32> {
        assert_eq!(x.len(), self.from.iter().product::<usize>(), "an image of the size of the map");
        self.stages.iter().fold(x.to_vec(), |x, stage| match stage {
            Stage::Linear(map) => map.apply(&x),
            Stage::Affine { gain, .. } if !with_offset => x.iter().map(|x| gain * x).collect(),
            Stage::Affine { gain, offset } => x.iter().zip(offset.iter().cycle()).map(|(x, b)| gain * x + b).collect(),
        })
    }

    fn affine(shape: [usize; 3], gain: f32, offset: Vec<f32>) -> Self {
        let nothing = gain == 1.0 && offset.iter().all(|b| *b == 0.0);
        let stages = if nothing { Vec::new() } else { vec![Stage::Affine { gain, offset }] };
        Self { from: shape, to: shape, stages }
    }

    /// A map of places `(right, down)` from the centre: from where a pixel goes to where it comes from.
    fn centred(shape: [usize; 3], source: impl Fn(f64, f64) -> (f64, f64)) -> Self {
        Self::between(shape, shape, source)
    }

    /// The same between images of different sizes, each measured from its own centre.
    pub(super) fn between(from: [usize; 3], to: [usize; 3], source: impl Fn(f64, f64) -> (f64, f64)) -> Self {
        let centre = |shape: [usize; 3]| [shape[1], shape[2]].map(|side| (side as f64 - 1.0) / 2.0);
        let ([fr, fc], [tr, tc]) = (centre(from), centre(to));
        let map = Sparse::bilinear([from[1], from[2]], [to[1], to[2]], |row, column| {
            let (u, v) = source(column - tc, row - tr);
            (v + fr, u + fc)
        });
        Self { from, to, stages: vec![Stage::Linear(map)] }
    }
}

/// A family of maps, one of which is drawn: ranges are `[least, most]`, and equal ends leave no choice.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Transform {
    /// Degrees, counter-clockwise.
    Rotation([f64; 2]),
    /// Factor, above 0.
    Scale([f64; 2]),
    /// Share of width and height, drawn for both.
    Translation([f64; 2]),
    /// The most that a corner is moved, as a share of half a side, in `[0, 0.9]`.
    Perspective(f64),
    /// A grid of so many points a side, each moved by at most so many pixels in either direction.
    Cloth {
        /// Points a side, at least 2.
        side: usize,
        /// Most pixels.
        most: f64,
    },
    /// What is added.
    Brightness([f64; 2]),
    /// Factor around ½.
    Contrast([f64; 2]),
    /// Deviation in pixels.
    Blur([f64; 2]),
    /// Deviation of Gaussian noise.
    Noise(f64),
}

impl Transform {
    /// Draws one map for images of a shape.
    ///
    /// # Errors
    /// [`Error::Parameter`] for a range that is none, and what the map itself refuses.
    pub fn draw(&self, shape: [usize; 3], random: &mut Random) -> Result<ImageMap> {
        let mut between = |[low, high]: [f64; 2]| {
            if !(low <= high && low.is_finite() && high.is_finite()) {
                return Err(Error::Parameter {
                    parameter: "range",
                    value: high,
                    bound: "finite ends, the least first",
                });
            }
            Ok(low + (high - low) * random.next_f64())
        };
        match self {
            Self::Rotation(range) => ImageMap::rotation(shape, between(*range)?),
            Self::Scale(range) => ImageMap::scale(shape, between(*range)?),
            Self::Translation(range) => ImageMap::translation(shape, between(*range)?, between(*range)?),
            Self::Brightness(range) => ImageMap::brightness(shape, between(*range)?),
            Self::Contrast(range) => ImageMap::contrast(shape, between(*range)?),
            Self::Blur(range) => ImageMap::blur(shape, between(*range)?),
            Self::Perspective(most) => {
                let mut corners = [[0.0; 2]; 4];
                for value in corners.iter_mut().flatten() {
                    *value = between([-most, *most])?;
                }
                ImageMap::perspective(shape, corners)
            }
            Self::Cloth { side, most } => {
                let mut displacements = vec![[0.0; 2]; side * side];
                for value in displacements.iter_mut().flatten() {
                    *value = between([-most, *most])?;
                }
                ImageMap::cloth(shape, *side, &displacements)
            }
            Self::Noise(deviation) => {
                within("deviation", *deviation, 0.0, f64::MAX, "a finite number, at least 0")?;
                let noise = draw(random, Distribution::Normal(0.0, *deviation), shape.iter().product());
                ImageMap::noise(shape, noise.into_iter().map(|x| x as f32).collect())
            }
        }
    }
}

/// Families of maps, one after the other.
///
/// ```
/// use adversarial::physical::{Transform, Transforms};
/// use core_tensor::Random;
///
/// let seen = Transforms::new().then(Transform::Rotation([-20.0, 20.0])).then(Transform::Brightness([-0.1, 0.1]));
/// let map = seen.draw([3, 8, 8], &mut Random::new(1))?;
/// assert_eq!(map.apply(&[0.5; 192]).len(), 192);
/// # Ok::<(), adversarial::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Transforms(Vec<Transform>);

impl Transforms {
    /// None: the identity.
    pub fn new() -> Self {
        Self::default()
    }

    /// What could be seen of a print held in front of a camera: turned by 20°, from 0.8 to 1.2 of its size, moved by a tenth, seen
    /// from the side, lighter or darker, blurred, with noise.
    pub fn camera() -> Self {
        Self::new()
            .then(Transform::Rotation([-20.0, 20.0]))
            .then(Transform::Scale([0.8, 1.2]))
            .then(Transform::Translation([-0.1, 0.1]))
            .then(Transform::Perspective(0.1))
            .then(Transform::Blur([0.0, 0.6]))
            .then(Transform::Contrast([0.8, 1.2]))
            .then(Transform::Brightness([-0.1, 0.1]))
            .then(Transform::Noise(0.02))
    }

    /// These and then another.
    pub fn then(mut self, next: Transform) -> Self {
        self.0.push(next);
        self
    }

    /// Draws one map of each family.
    ///
    /// # Errors
    /// As [`Transform::draw`].
    pub fn draw(&self, shape: [usize; 3], random: &mut Random) -> Result<ImageMap> {
        self.0.iter().try_fold(ImageMap::identity(shape), |map, next| map.then(next.draw(shape, random)?))
    }
}

/// `U(r) = r² log r²`
fn bending(p: &[f64; 2], q: &[f64; 2]) -> f64 {
    let squared = (p[0] - q[0]).powi(2) + (p[1] - q[1]).powi(2);
    if squared > 0.0 { squared * squared.ln() } else { 0.0 }
}

/// Exact at multiples of 90°.
pub(super) fn sine_cosine(degrees: f64) -> (f64, f64) {
    let turn = degrees.rem_euclid(360.0);
    match turn {
        0.0 => (0.0, 1.0),
        90.0 => (1.0, 0.0),
        180.0 => (0.0, -1.0),
        270.0 => (-1.0, 0.0),
        _ => turn.to_radians().sin_cos(),
    }
}

pub(super) fn within(parameter: &'static str, value: f64, low: f64, high: f64, bound: &'static str) -> Result<()> {
    match value >= low && value <= high {
        true => Ok(()),
        false => Err(Error::Parameter { parameter, value, bound }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::physical::Viewpoint;
    use burn::tensor::Device;
    use proptest::prelude::*;

    fn image(shape: [usize; 3], seed: u64) -> Vec<f32> {
        Random::new(seed).uniform::<3>(shape, -1.0, 1.0, &Device::flex()).into_data().iter().collect()
    }

    fn families() -> Vec<Transform> {
        vec![
            Transform::Rotation([-180.0, 180.0]),
            Transform::Scale([0.5, 2.0]),
            Transform::Translation([-0.4, 0.4]),
            Transform::Perspective(0.5),
            Transform::Cloth { side: 4, most: 1.5 },
            Transform::Brightness([-0.5, 0.5]),
            Transform::Contrast([0.5, 2.0]),
            Transform::Blur([0.0, 2.0]),
            Transform::Noise(0.3),
        ]
    }

    fn dot(a: &[f32], b: &[f32]) -> f64 {
        a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn adjoints_are_adjoint(seed in 0u64..10_000, c in 1usize..4, h in 1usize..9, w in 1usize..9) {
            let shape = [c, h, w];
            let mut random = Random::new(seed);
            let (x, g) = (image(shape, seed), image(shape, seed + 1));
            let mut maps: Vec<ImageMap> = families().iter().map(|f| f.draw(shape, &mut random).unwrap()).collect();
            maps.push(Transforms(families()).draw(shape, &mut random).unwrap());
            let seen = Viewpoint { distance: 1.0 + random.next_f64(), yaw: 40.0, roll: 10.0, ..Viewpoint::default() };
            let place = seen.homography(0.5, 8.0, [w as f64 / 2.0, h as f64 / 2.0]).unwrap();
            maps.push(ImageMap::printed(shape, shape, &place, 2).unwrap());
            for map in maps {
                let (forward, back) = (dot(&map.apply_linear(&x), &g), dot(&x, &map.adjoint(&g)));
                prop_assert!((forward - back).abs() < 1e-4 * (1.0 + forward.abs()), "{forward} {back}");
                // Affine: the difference of two images is mapped by the linear part alone.
                let sum: Vec<f32> = x.iter().zip(&g).map(|(x, g)| x + g).collect();
                let linear = map.apply_linear(&g);
                for ((both, one), linear) in map.apply(&sum).iter().zip(map.apply(&x)).zip(linear) {
                    prop_assert!((both - one - linear).abs() < 1e-4);
                }
            }
        }

        #[test]
        fn draws_are_those_of_the_seed(seed in 0u64..1000) {
            let shape = [2, 6, 5];
            let draw = |seed| Transforms::camera().draw(shape, &mut Random::new(seed)).unwrap();
            prop_assert_eq!(draw(seed), draw(seed));
            prop_assert!(draw(seed) != draw(seed + 1));
        }
    }

    #[test]
    fn identities_keep_every_bit() {
        for shape in [[3, 8, 8], [1, 5, 7], [2, 1, 3]] {
            let x = image(shape, 3);
            let same = [
                ImageMap::identity(shape),
                ImageMap::rotation(shape, 0.0).unwrap(),
                ImageMap::rotation(shape, -720.0).unwrap(),
                ImageMap::scale(shape, 1.0).unwrap(),
                ImageMap::translation(shape, 0.0, 0.0).unwrap(),
                ImageMap::perspective(shape, [[0.0; 2]; 4]).unwrap(),
                ImageMap::cloth(shape, 3, &[[0.0; 2]; 9]).unwrap(),
                ImageMap::blur(shape, 0.0).unwrap(),
                ImageMap::brightness(shape, 0.0).unwrap(),
                ImageMap::contrast(shape, 1.0).unwrap(),
                ImageMap::noise(shape, vec![0.0; x.len()]).unwrap(),
            ];
            for map in same {
                assert_eq!((map.apply(&x), map.adjoint(&x)), (x.clone(), x.clone()), "{shape:?}");
            }
        }
    }

    #[test]
    fn a_quarter_turn_permutes_pixels() {
        for n in [1, 4, 7] {
            let x = image([2, n, n], 5);
            let turned = ImageMap::rotation([2, n, n], 90.0).unwrap().apply(&x);
            for (i, y) in turned.iter().enumerate() {
                let (c, row, column) = (i / (n * n), i / n % n, i % n);
                assert_eq!(*y, x[c * n * n + column * n + (n - 1 - row)]);
            }
            let back = ImageMap::rotation([2, n, n], -90.0).unwrap();
            assert_eq!(back.apply(&turned), x);
        }
    }

    #[test]
    fn whole_shifts_by_hand() {
        let shape = [1, 2, 4];
        let x: Vec<f32> = (1..=8).map(|i| i as f32).collect();
        let right = ImageMap::translation(shape, 0.25, 0.0).unwrap();
        assert_eq!(right.apply(&x), [0.0, 1.0, 2.0, 3.0, 0.0, 5.0, 6.0, 7.0]);
        let down = ImageMap::translation(shape, 0.0, 0.5).unwrap();
        assert_eq!(down.apply(&x), [0.0, 0.0, 0.0, 0.0, 1.0, 2.0, 3.0, 4.0]);
        // All points of the cloth moved alike is a translation.
        let cloth = ImageMap::cloth(shape, 3, &[[1.0, 0.0]; 9]).unwrap();
        assert_eq!(cloth.apply(&x), right.apply(&x));
        let half = ImageMap::translation([1, 1, 2], 0.25, 0.0).unwrap();
        assert_eq!(half.apply(&[1.0, 3.0]), [0.5, 2.0]);
    }

    #[test]
    fn cloth_goes_through_its_points_and_perspective_through_its_corners() {
        let shape = [1, 9, 9];
        let mut x = vec![0.0f32; 81];
        // The centre point of a 3 × 3 grid goes one right and two down.
        x[4 * 9 + 4] = 1.0;
        let mut displacements = [[0.0; 2]; 9];
        displacements[4] = [1.0, 2.0];
        let y = ImageMap::cloth(shape, 3, &displacements).unwrap().apply(&x);
        let largest = (0..81).max_by(|i, j| y[*i].total_cmp(&y[*j])).unwrap();
        assert_eq!((largest / 9, largest % 9), (6, 5));
        // The upper left corner goes two right and one down, half a side being four.
        let mut x = vec![0.0f32; 81];
        x[0] = 1.0;
        let mut corners = [[0.0; 2]; 4];
        corners[0] = [0.5, 0.25];
        let y = ImageMap::perspective(shape, corners).unwrap().apply(&x);
        assert!((y[9 + 2] - 1.0).abs() < 1e-5, "{}", y[9 + 2]);
    }

    #[test]
    fn a_print_by_hand() {
        let corners = [[-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0], [1.0, 1.0]];
        let at = |left: f64, top: f64, side: f64| {
            let to = corners.map(|[u, v]| [left + side * (u + 1.0) / 2.0, top + side * (v + 1.0) / 2.0]);
            Homography::corners(corners, to).unwrap()
        };
        let x = [1.0, 2.0, 3.0, 4.0];
        let put =
            |place: &Homography, samples| ImageMap::printed([1, 2, 2], [1, 3, 3], place, samples).unwrap().apply(&x);
        assert_eq!(put(&at(1.0, 0.0, 2.0), 1), [0.0, 1.0, 2.0, 0.0, 3.0, 4.0, 0.0, 0.0, 0.0]);
        // Half a pixel to the right: halves of the neighbours.
        assert_eq!(put(&at(0.5, 0.0, 2.0), 2), [0.5, 1.5, 1.0, 1.5, 3.5, 2.0, 0.0, 0.0, 0.0]);
        // One pixel for all of it.
        assert_eq!(put(&at(1.0, 1.0, 1.0), 2), [0.0, 0.0, 0.0, 0.0, 2.5, 0.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn blur_keeps_flat_images_and_is_symmetric() {
        let map = ImageMap::blur([1, 6, 5], 1.3).unwrap();
        assert!(map.apply(&[0.7; 30]).iter().all(|y| (y - 0.7).abs() < 1e-6));
        let mut x = vec![0.0f32; 49];
        x[24] = 1.0;
        let y = ImageMap::blur([1, 7, 7], 0.8).unwrap().apply(&x);
        assert!((y[23] - y[25]).abs() < 1e-7 && (y[17] - y[31]).abs() < 1e-7 && y[24] > y[23]);
    }

    #[test]
    fn what_is_no_parameter_is_named() {
        let s = [1, 4, 4];
        let error = |map: Result<ImageMap>| map.unwrap_err().to_string();
        assert!(error(ImageMap::rotation(s, f64::NAN)).starts_with("degrees = NaN"));
        assert!(error(ImageMap::scale(s, 0.0)).starts_with("factor = 0"));
        assert!(error(ImageMap::contrast(s, -1.0)).starts_with("factor = -1"));
        assert!(error(ImageMap::blur(s, -1.0)).starts_with("deviation = -1"));
        assert!(error(ImageMap::perspective(s, [[1.0; 2]; 4])).starts_with("corners = 1"));
        assert!(error(ImageMap::cloth(s, 1, &[])).starts_with("side = 1"));
        assert!(error(ImageMap::cloth(s, 2, &[])).starts_with("displacements has shape [0]"));
        let place = Viewpoint::default().homography(1.0, 1.0, [2.0; 2]).unwrap();
        assert!(error(ImageMap::printed(s, s, &place, 0)).starts_with("samples = 0"));
        assert!(error(ImageMap::printed([3, 4, 4], s, &place, 1)).starts_with("the print has shape [3, 4, 4]"));
        assert!(error(ImageMap::noise(s, vec![0.0])).starts_with("the noise has shape [1]"));
        assert!(error(ImageMap::identity(s).then(ImageMap::identity([1, 4, 5]))).contains("[1, 4, 5]"));
        let mut random = Random::new(0);
        assert!(error(Transform::Scale([2.0, 1.0]).draw(s, &mut random)).starts_with("range = 1"));
        assert!(error(Transform::Noise(f64::NAN).draw(s, &mut random)).starts_with("deviation = NaN"));
    }
}
