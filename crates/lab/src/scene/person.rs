//! People in the street with prints on their shirts, and streets without people.

use adversarial::physical::{Homography, ImageMap, Transform, Transforms, Viewpoint};
use core_tensor::Random;

use super::background::street;
use super::drawing::{Colour, Drawing, Outline, Picture};
use super::{between, colour};
use adversarial::Result;

/// Pixels of a picture a side.
pub const SIDE: usize = 40;
/// The camera's focal length in pixels: a person of 1.75 metres is 38 of them high from 2.5 metres, 24 from 4.
const FOCAL_LENGTH: f64 = 55.0;
/// From where people are seen, metres and degrees.
const DISTANCE: [f64; 2] = [2.5, 4.0];
const ANGLE: [f64; 2] = [-30.0, 30.0];
/// Half the width and height of the print on a shirt, metres.
pub const PRINT: [f64; 2] = [0.21, 0.31];

/// A street in some light, with what stands in it.
#[derive(Clone, Debug)]
pub struct Scene {
    /// The picture, before the light.
    pub picture: Picture,
    /// Brightness, contrast, blur and noise of the camera.
    pub light: ImageMap,
    /// Where the square `[−1, 1]²` of the print on the shirt is in it, if there is a person.
    pub print: Option<Homography>,
}

/// A person somewhere in a street, most of them with some print of patches or stripes on the shirt.
///
/// # Errors
/// None with views as they are here.
pub fn person(random: &mut Random) -> Result<Scene> {
    let mut picture = street(SIDE, random);
    for _ in 0..random.below(2) {
        let (thing, place) = (thing(random), stand(random)?);
        picture.draw(&thing, &place);
    }
    let (body, place) = (body(random), stand(random)?);
    picture.draw(&body, &place);
    let shape = Homography::new([[PRINT[0], 0.0, 0.0], [0.0, PRINT[1], 0.0], [0.0, 0.0, 1.0]])?;
    Ok(Scene { light: light(&picture, random)?, picture, print: Some(shape.then(&place)) })
}

/// A street with other things of a person's size: trees, bins, cars, boards and laundry with prints as on shirts.
///
/// # Errors
/// None with views as they are here.
pub fn nobody(random: &mut Random) -> Result<Scene> {
    let mut picture = street(SIDE, random);
    for _ in 0..1 + random.below(2) {
        let (thing, place) = (thing(random), stand(random)?);
        picture.draw(&thing, &place);
    }
    Ok(Scene { light: light(&picture, random)?, picture, print: None })
}

impl Scene {
    /// What the camera sees.
    pub fn seen(&self) -> Vec<f32> {
        self.light.apply(&self.picture.pixels).into_iter().map(|x| x.clamp(0.0, 1.0)).collect()
    }
}

/// A plane in metres around the middle of a shirt, one metre above the ground, seen from somewhere.
fn stand(random: &mut Random) -> Result<Homography> {
    let distance = between(random, DISTANCE);
    let seen = Viewpoint {
        distance,
        yaw: between(random, ANGLE),
        roll: between(random, [-4.0, 4.0]),
        right: between(random, [-0.2, 0.2]) * distance / DISTANCE[0],
        down: -0.25 + between(random, [-0.05, 0.05]),
        ..Viewpoint::default()
    };
    seen.homography(1.0, FOCAL_LENGTH, [SIDE as f64 / 2.0; 2])
}

fn light(picture: &Picture, random: &mut Random) -> Result<ImageMap> {
    let camera = Transforms::new()
        .then(Transform::Contrast([0.7, 1.1]))
        .then(Transform::Brightness([-0.1, 0.1]))
        .then(Transform::Blur([0.0, 0.5]))
        .then(Transform::Noise(0.02));
    camera.draw(picture.shape(), random)
}

/// Head, hair, shirt with a print, arms, legs; metres around the middle of the shirt.
fn body(random: &mut Random) -> Drawing {
    let tone = between(random, [0.25, 0.9]) as f32;
    let skin = [tone, 0.78 * tone, 0.64 * tone];
    let hair = colour(random, [0.05, 0.35]);
    let (shirt, trousers) = (colour(random, [0.1, 0.95]), colour(random, [0.08, 0.6]));
    let stroke = |points: Vec<[f64; 2]>, width: f64| Outline::Stroke { points, width };
    let step = between(random, [0.02, 0.16]);
    let mut drawing = Drawing::new();
    for side in [-1.0, 1.0] {
        let (elbow, hand) = (between(random, [0.28, 0.4]), between(random, [0.24, 0.5]));
        let height = between(random, [0.0, 0.25]);
        drawing = drawing
            .paint(stroke(vec![[0.1 * side, 0.3], [(0.1 + step) * side, 1.0]], 0.16), trousers)
            .paint(stroke(vec![[(0.1 + step) * side, 1.02], [(0.17 + step) * side, 1.02]], 0.09), [0.1, 0.1, 0.1])
            .paint(stroke(vec![[elbow * side, 0.0], [hand * side, height]], 0.09), skin)
            .paint(stroke(vec![[0.22 * side, -0.28], [elbow * side, 0.0]], 0.12), shirt);
    }
    let torso = vec![[-0.26, -0.34], [0.26, -0.34], [0.22, 0.36], [-0.22, 0.36]];
    drawing = drawing
        .paint(stroke(vec![[0.0, -0.3], [0.0, -0.42]], 0.11), skin)
        .paint(Outline::Polygon(torso), shirt)
        .paint(Outline::Disc { centre: [0.0, -0.54], radius: 0.135 }, hair)
        .paint(Outline::Disc { centre: [0.0, -0.52], radius: 0.11 }, skin);
    print(drawing, [0.0, 0.0], random)
}

/// Patches of colour or stripes where a shirt's print is, or none.
fn print(drawing: Drawing, [right, down]: [f64; 2], random: &mut Random) -> Drawing {
    let kind = random.below(4);
    let (columns, rows) = match kind {
        0 => return drawing,
        1 => (1, 2 + random.below(5)),
        _ => (2 + random.below(4), 2 + random.below(5)),
    };
    let mut drawing = drawing;
    for i in 0..columns * rows {
        let at = |i: u64, of: u64, half: f64| half * (2.0 * i as f64 / of as f64 - 1.0);
        let (column, row) = (i % columns, i / columns);
        let cell = Outline::rectangle(
            [right + at(column, columns, PRINT[0]), down + at(row, rows, PRINT[1])],
            [right + at(column + 1, columns, PRINT[0]), down + at(row + 1, rows, PRINT[1])],
        );
        drawing = drawing.paint(cell, colour(random, [0.0, 1.0]));
    }
    drawing
}

/// Something else of about the size of a person.
fn thing(random: &mut Random) -> Drawing {
    let new = Drawing::new();
    let (first, second): (Colour, Colour) = (colour(random, [0.1, 0.9]), colour(random, [0.05, 0.6]));
    match random.below(6) {
        0 => {
            let green = [0.1 + 0.2 * random.next_f64() as f32, 0.3 + 0.3 * random.next_f64() as f32, 0.15];
            let crown = between(random, [0.3, 0.5]);
            new.paint(Outline::rectangle([-0.08, -0.3], [0.08, 1.0]), [0.32, 0.22, 0.14])
                .paint(Outline::Disc { centre: [0.0, -0.4], radius: crown }, green)
        }
        // A bin.
        1 => new
            .paint(Outline::rectangle([-0.25, 0.2], [0.25, 1.0]), first)
            .paint(Outline::rectangle([-0.29, 0.1], [0.29, 0.25]), second),
        // A car from the side.
        2 => {
            let wheel = |u: f64| Outline::Disc { centre: [u, 0.9], radius: 0.16 };
            new.paint(Outline::Polygon(vec![[-0.4, 0.4], [-0.25, 0.1], [0.3, 0.1], [0.45, 0.4]]), second)
                .paint(Outline::rectangle([-0.7, 0.4], [0.7, 0.9]), first)
                .paint_all([wheel(-0.4), wheel(0.4)], [0.06; 3])
        }
        // A board on two legs, with a print.
        3 => {
            let legs = [-0.2, 0.15].map(|u| Outline::rectangle([u, 0.3], [u + 0.05, 1.0]));
            let board = Outline::rectangle([-0.27, -0.36], [0.27, 0.36]);
            print(new.paint_all(legs, second).paint(board, first), [0.0, 0.0], random)
        }
        // A shirt on a line.
        4 => {
            let line = Outline::rectangle([-2.0, -0.36], [2.0, -0.33]);
            let torso = Outline::Polygon(vec![[-0.26, -0.34], [0.26, -0.34], [0.22, 0.36], [-0.22, 0.36]]);
            let sleeve = |u: f64| Outline::Stroke { points: vec![[0.22 * u, -0.28], [0.36 * u, 0.0]], width: 0.12 };
            let shirt = new.paint(line, [0.2; 3]).paint_all([sleeve(-1.0), sleeve(1.0), torso], first);
            print(shirt, [0.0, 0.0], random)
        }
        // A lamp.
        _ => new
            .paint(Outline::rectangle([-0.05, -0.6], [0.05, 1.0]), second)
            .paint(Outline::Disc { centre: [0.0, -0.6], radius: 0.13 }, [0.95, 0.9, 0.7]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scenes_are_those_of_the_seed_and_prints_lie_on_shirts() {
        for seed in 0..30 {
            let draw = || person(&mut Random::new(seed)).unwrap();
            let scene = draw();
            assert_eq!(scene.seen(), draw().seen());
            assert!(scene.seen().iter().all(|x| (0.0..=1.0).contains(x)));
            let place = scene.print.unwrap();
            for corner in [[-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0], [1.0, 1.0]] {
                let [x, y] = place.apply(corner).unwrap();
                assert!((0.0..SIDE as f64).contains(&x) && (0.0..SIDE as f64).contains(&y), "seed {seed}: {x} {y}");
            }
            assert!(nobody(&mut Random::new(seed)).unwrap().print.is_none());
        }
    }

    #[test]
    fn a_print_covers_what_is_inside_of_the_torso() {
        let drawing = body(&mut Random::new(2));
        for corner in [[-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0], [1.0, 1.0]] {
            let [u, v] = [0, 1].map(|i| 0.99 * PRINT[i] * corner[i]);
            assert!(drawing.colour_at([u, v]).is_some(), "{u} {v}");
        }
    }
}
