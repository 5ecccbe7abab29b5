//! What is behind: sky, ground, clutter.

use adversarial::physical::Homography;
use core_tensor::Random;

use super::drawing::{Colour, Drawing, Outline, Picture};
use super::{between, colour};

/// A street or field under the sky: two gradients that meet at some height, and a few trees, houses and poles before them.
pub fn street(side: usize, random: &mut Random) -> Picture {
    let horizon = between(random, [0.35, 0.75]) * side as f64;
    let (light, dark) = (between(random, [0.55, 1.0]) as f32, between(random, [0.2, 0.5]) as f32);
    // From blue to grey, and from grey over brown to green.
    let sky = [light - 0.25 * random.next_f64() as f32, light - 0.1, light];
    let ground = [dark + 0.15 * random.next_f64() as f32, dark + 0.15 * random.next_f64() as f32, dark];
    let mut picture = Picture::new(side, |row, _| {
        let row = row as f64;
        let (base, fade): (Colour, f64) = match row < horizon {
            true => (sky, 0.8 + 0.2 * row / horizon),
            false => (ground, 1.0 - 0.3 * (row - horizon) / (side as f64 - horizon)),
        };
        base.map(|x| x * fade as f32)
    });
    for _ in 0..random.below(4) {
        let drawing = clutter(horizon / side as f64, random);
        picture.draw(&drawing, &whole(side));
    }
    picture
}

/// From shares of the picture to the picture.
pub(super) fn whole(side: usize) -> Homography {
    let side = side as f64;
    Homography::new([[side, 0.0, 0.0], [0.0, side, 0.0], [0.0, 0.0, 1.0]]).expect("a side above 0")
}

/// A tree, a house or a pole on the ground, in shares of the picture.
fn clutter(horizon: f64, random: &mut Random) -> Drawing {
    let at = between(random, [0.0, 1.0]);
    let size = between(random, [0.08, 0.25]);
    let foot = horizon + between(random, [0.0, 0.2]);
    match random.below(3) {
        0 => {
            let green = [0.1 + 0.2 * random.next_f64() as f32, 0.3 + 0.3 * random.next_f64() as f32, 0.15];
            let trunk = Outline::rectangle([at - 0.15 * size, foot - 1.2 * size], [at + 0.15 * size, foot]);
            let crown = Outline::Disc { centre: [at, foot - 1.7 * size], radius: 0.8 * size };
            Drawing::new().paint(trunk, [0.3, 0.2, 0.12]).paint(crown, green)
        }
        1 => {
            let wall = Outline::rectangle([at - size, foot - 1.2 * size], [at + size, foot]);
            let roof =
                [[at - 1.1 * size, foot - 1.2 * size], [at + 1.1 * size, foot - 1.2 * size], [at, foot - 2.0 * size]];
            let walls = colour(random, [0.4, 0.9]);
            let pane = |i: f64| {
                Outline::rectangle([at + i * size, foot - 0.9 * size], [at + (i + 0.4) * size, foot - 0.4 * size])
            };
            Drawing::new()
                .paint(wall, walls)
                .paint(Outline::Polygon(roof.to_vec()), [0.45, 0.22, 0.18])
                .paint_all([pane(-0.7), pane(0.3)], [0.2, 0.25, 0.3])
        }
        _ => {
            let pole = Outline::rectangle([at - 0.08 * size, foot - 3.0 * size], [at + 0.08 * size, foot]);
            let grey = between(random, [0.2, 0.7]) as f32;
            Drawing::new().paint(pole, [grey; 3])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streets_are_those_of_the_seed_and_differ() {
        let draw = |seed| street(20, &mut Random::new(seed));
        for seed in 0..20 {
            let picture = draw(seed);
            assert_eq!(picture, draw(seed));
            assert!(picture.pixels.iter().all(|x| (0.0..=1.0).contains(x)), "seed {seed}");
            assert_ne!(picture, draw(seed + 1));
        }
    }
}
