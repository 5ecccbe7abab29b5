//! Rendered scenes: road signs and people, drawn from any distance and angle, the same from the same seed.
//!
//! | file | is |
//! |---|---|
//! | [`drawing`] | polygons, discs and strokes in colours on a plane, and pictures that they are seen in, with anti-aliased edges |
//! | [`glyph`] | letters and digits as strokes |
//! | [`background`] | sky, road, clutter |
//! | [`sign`] | eight classes of road signs |
//! | [`person`] | people with printed shirts, and streets without people |
//!
//! A plane is drawn in coordinates `(right, down)` of its own and put into a picture by a
//! [`Homography`](adversarial::physical::Homography), so that what is stuck on it later goes the same way.

pub mod background;
pub mod drawing;
pub mod glyph;
pub mod person;
pub mod sign;

use core_tensor::Random;

/// A number between two.
fn between(random: &mut Random, [low, high]: [f64; 2]) -> f64 {
    low + (high - low) * random.next_f64()
}

/// A colour whose channels lie between two numbers.
fn colour(random: &mut Random, range: [f64; 2]) -> drawing::Colour {
    [(); 3].map(|()| between(random, range) as f32)
}
