//! Road signs as a camera sees them from the road.

use adversarial::physical::{Homography, ImageMap, Transform, Transforms, Viewpoint};
use core_tensor::Random;

use super::background::street;
use super::between;
use super::drawing::{Drawing, Outline, Picture};
use super::glyph::text;
use adversarial::Result;

/// Pixels of a picture a side.
pub const SIDE: usize = 32;
/// Metres from the middle of a sign to its side.
pub const HALF_SIDE: f64 = 0.375;
/// The camera's focal length in pixels: a sign is 26 of them wide from 4 metres, 12 from 9.
pub const FOCAL_LENGTH: f64 = 140.0;

const RED: [f32; 3] = [0.72, 0.06, 0.1];
const WHITE: [f32; 3] = [0.95, 0.95, 0.93];
const BLACK: [f32; 3] = [0.06, 0.06, 0.07];
const YELLOW: [f32; 3] = [0.97, 0.78, 0.1];
const BLUE: [f32; 3] = [0.08, 0.28, 0.65];
const GREY: [f32; 3] = [0.45, 0.45, 0.47];

/// The classes, in the order of a network's logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    /// A red octagon.
    Stop,
    /// A white triangle with a red edge, on its corner.
    Yield,
    /// A white board.
    Speed30,
    /// Another.
    Speed45,
    /// A white bar on a red disc.
    NoEntry,
    /// A yellow square on its corner.
    Priority,
    /// A white arrow to the right on a blue disc.
    TurnRight,
    /// A white arrow upwards on a blue disc.
    StraightOn,
}

impl Sign {
    /// Every class.
    pub const ALL: [Self; 8] = [
        Self::Stop,
        Self::Yield,
        Self::Speed30,
        Self::Speed45,
        Self::NoEntry,
        Self::Priority,
        Self::TurnRight,
        Self::StraightOn,
    ];

    /// Its number.
    pub fn class(self) -> usize {
        self as usize
    }

    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Yield => "yield",
            Self::Speed30 => "speed limit 30",
            Self::Speed45 => "speed limit 45",
            Self::NoEntry => "no entry",
            Self::Priority => "priority road",
            Self::TurnRight => "turn right",
            Self::StraightOn => "straight on",
        }
    }

    /// The sign on the square `[−1, 1]²`.
    pub fn drawing(self) -> Drawing {
        let octagon = |radius| Outline::regular(8, radius, 22.5);
        let triangle = |radius| Outline::regular(3, radius, 180.0).at([0.0, -0.2], 1.0);
        let disc = |radius| Outline::Disc { centre: [0.0, 0.0], radius };
        let new = Drawing::new();
        match self {
            Self::Stop => {
                new.paint(octagon(1.0), WHITE).paint(octagon(0.92), RED).paint_all(text("STOP", 0.5, 0.13), WHITE)
            }
            Self::Yield => new.paint(triangle(1.1), RED).paint(triangle(0.66), WHITE),
            Self::Speed30 | Self::Speed45 => {
                let digits = if self == Self::Speed30 { "30" } else { "45" };
                let digits = text(digits, 0.85, 0.17).into_iter().map(|stroke| stroke.at([0.0, 0.4], 1.0));
                let words = text("SPEED", 0.22, 0.06).into_iter().map(|stroke| stroke.at([0.0, -0.72], 1.0));
                let more = text("LIMIT", 0.22, 0.06).into_iter().map(|stroke| stroke.at([0.0, -0.38], 1.0));
                new.paint(Outline::rectangle([-0.78, -1.0], [0.78, 1.0]), BLACK)
                    .paint(Outline::rectangle([-0.72, -0.94], [0.72, 0.94]), WHITE)
                    .paint_all(words.chain(more).chain(digits), BLACK)
            }
            Self::NoEntry => new
                .paint(disc(1.0), WHITE)
                .paint(disc(0.93), RED)
                .paint(Outline::rectangle([-0.68, -0.18], [0.68, 0.18]), WHITE),
            Self::Priority => {
                let square = |radius| Outline::regular(4, radius, 0.0);
                new.paint(square(1.0), BLACK).paint(square(0.94), WHITE).paint(square(0.68), YELLOW)
            }
            Self::TurnRight => {
                let shaft = Outline::Stroke { points: vec![[-0.45, 0.55], [-0.45, 0.05], [0.3, 0.05]], width: 0.24 };
                let head = Outline::Polygon(vec![[0.15, -0.4], [0.7, 0.05], [0.15, 0.5]]);
                new.paint(disc(1.0), WHITE).paint(disc(0.93), BLUE).paint_all([shaft, head], WHITE)
            }
            Self::StraightOn => {
                let shaft = Outline::Stroke { points: vec![[0.0, 0.6], [0.0, -0.2]], width: 0.24 };
                let head = Outline::Polygon(vec![[-0.45, -0.1], [0.0, -0.7], [0.45, -0.1]]);
                new.paint(disc(1.0), WHITE).paint(disc(0.93), BLUE).paint_all([shaft, head], WHITE)
            }
        }
    }

    /// The face from the front, `side` pixels a side: what a print on it is compared with.
    pub fn face(self, side: usize) -> Picture {
        let half = side as f64 / 2.0;
        let place = Homography::new([[half, 0.0, half], [0.0, half, half], [0.0, 0.0, 1.0]]).expect("a side above 0");
        let mut picture = Picture::new(side, |_, _| GREY);
        picture.draw(&self.drawing(), &place);
        picture
    }
}

/// From where signs are seen; ranges are `[least, most]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Views {
    /// Metres.
    pub distance: [f64; 2],
    /// Degrees around the vertical, to either side.
    pub angle: [f64; 2],
}

/// A sign in a street, before the light falls on it.
#[derive(Clone, Debug)]
pub struct Scene {
    /// The picture.
    pub picture: Picture,
    /// Where the sign's square `[−1, 1]²` is in it.
    pub place: Homography,
    /// How much of each pixel the sign's face covers.
    pub face: Vec<f32>,
    /// Brightness, contrast, blur and noise of the camera.
    pub light: ImageMap,
}

/// A sign seen from somewhere in a range, tilted by a few degrees, not quite in the middle, in some street and light.
///
/// # Errors
/// Those of views that cannot be: a distance that is not above 0, an angle of 90° and more.
pub fn scene(sign: Sign, views: &Views, random: &mut Random) -> Result<Scene> {
    let mut picture = street(SIDE, random);
    let distance = between(random, views.distance);
    let angle = between(random, views.angle) * if random.below(2) == 0 { -1.0 } else { 1.0 };
    let off = 2.5 * distance / FOCAL_LENGTH;
    let seen = Viewpoint {
        distance,
        yaw: angle,
        pitch: between(random, [-6.0, 6.0]),
        roll: between(random, [-6.0, 6.0]),
        right: between(random, [-off, off]),
        down: between(random, [-off, off]),
    };
    let place = seen.homography(HALF_SIDE, FOCAL_LENGTH, [SIDE as f64 / 2.0; 2])?;
    let pole = Outline::rectangle([-0.07, 0.3], [0.07, 5.0]);
    picture.draw(&Drawing::new().paint(pole, GREY), &place);
    let face = picture.draw(&sign.drawing(), &place);
    let light = Transforms::new()
        .then(Transform::Contrast([0.65, 1.1]))
        .then(Transform::Brightness([-0.12, 0.12]))
        .then(Transform::Blur([0.0, 0.6]))
        .then(Transform::Noise(0.02))
        .draw(picture.shape(), random)?;
    Ok(Scene { picture, place, face, light })
}

impl Scene {
    /// What the camera sees.
    pub fn seen(&self) -> Vec<f32> {
        self.light.apply(&self.picture.pixels).into_iter().map(|x| x.clamp(0.0, 1.0)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEAR: Views = Views { distance: [4.0, 9.0], angle: [0.0, 55.0] };

    #[test]
    fn the_face_is_where_the_homography_says() {
        for seed in 0..40 {
            let sign = Sign::ALL[seed as usize % 8];
            let scene = scene(sign, &NEAR, &mut Random::new(seed)).unwrap();
            let back = scene.place.inverse();
            assert!(scene.face.iter().sum::<f32>() > 20.0, "{sign:?}");
            for (i, cover) in scene.face.iter().enumerate() {
                let corner = |k: usize| [(i % SIDE + k % 2) as f64, (i / SIDE + k / 2) as f64];
                let points = [0, 1, 2, 3].map(|k| back.apply(corner(k)));
                let outside = |p: &Option<[f64; 2]>| p.is_none_or(|[u, v]| u.abs() > 1.001 || v.abs() > 1.001);
                assert!(*cover == 0.0 || !points.iter().all(outside), "seed {seed}: pixel {i} is covered by {cover}");
                let drawing = sign.drawing();
                let all = points.iter().all(|p| p.is_some_and(|p| drawing.colour_at(p).is_some()));
                assert!(!all || *cover > 0.5, "seed {seed}: pixel {i} is covered by {cover}");
            }
            // The drawn corners: the middle of the face is seen in the colour that is painted there.
            let [x, y] = scene.place.apply([0.0, 0.0]).unwrap();
            assert_eq!(scene.face[y as usize * SIDE + x as usize], 1.0);
        }
    }

    #[test]
    fn scenes_are_those_of_the_seed() {
        let draw = |seed| {
            let scene = scene(Sign::Stop, &NEAR, &mut Random::new(seed)).unwrap();
            (scene.seen(), scene.face, scene.place)
        };
        assert_eq!(draw(3), draw(3));
        assert_ne!(draw(3).0, draw(4).0);
        assert!(draw(5).0.iter().all(|x| (0.0..=1.0).contains(x)));
    }

    #[test]
    fn signs_are_told_apart_by_their_faces() {
        let faces = Sign::ALL.map(|sign| sign.face(32).pixels);
        for (i, a) in faces.iter().enumerate() {
            for (j, b) in faces.iter().enumerate().filter(|(j, _)| *j < i) {
                let apart = a.iter().zip(b).map(|(a, b)| (a - b).abs()).sum::<f32>() / a.len() as f32;
                assert!(apart > 0.02, "{i} {j}: {apart}");
            }
        }
        assert!(Sign::ALL.iter().enumerate().all(|(i, sign)| sign.class() == i));
    }

    #[test]
    fn what_is_farther_is_smaller() {
        let area = |distance: f64| {
            let views = Views { distance: [distance; 2], angle: [0.0; 2] };
            scene(Sign::NoEntry, &views, &mut Random::new(1)).unwrap().face.iter().sum::<f32>()
        };
        assert!((area(5.0) / area(10.0) - 4.0).abs() < 0.3, "{} {}", area(5.0), area(10.0));
        let views = Views { distance: [0.0; 2], ..NEAR };
        assert!(scene(Sign::Stop, &views, &mut Random::new(1)).is_err());
    }
}
