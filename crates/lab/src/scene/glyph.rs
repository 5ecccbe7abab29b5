//! Letters and digits as strokes.

use super::drawing::{Outline, Point};

/// Width of a letter as a share of its height.
const WIDTH: f64 = 0.6;
/// From one letter to the next, as a share of the height.
const ADVANCE: f64 = 0.82;

/// A text around the origin, its letters `height` high, their lines `weight` of it thick. What has no glyph is left out.
pub fn text(text: &str, height: f64, weight: f64) -> Vec<Outline> {
    let count = text.chars().count() as f64;
    let place = |i: usize| [ADVANCE * height * (i as f64 - 0.5 * (count - 1.0)), 0.0];
    let letters = text.chars().enumerate().flat_map(|(i, letter)| {
        let strokes = strokes(letter).into_iter().map(|points| Outline::Stroke { points, width: weight });
        strokes.map(move |stroke| stroke.at(place(i), height)).collect::<Vec<_>>()
    });
    letters.collect()
}

/// The lines of a letter around the origin, of height 1 and width [`WIDTH`].
fn strokes(letter: char) -> Vec<Vec<Point>> {
    let (l, r, t, b) = (-0.5 * WIDTH, 0.5 * WIDTH, -0.5, 0.5);
    match letter {
        '0' | 'O' => vec![arc([0.0, 0.0], [r, b], 0.0, 360.0)],
        '1' => vec![vec![[l, -0.3], [0.0, t], [0.0, b]]],
        '2' => vec![[arc([0.0, -0.24], [r, 0.26], -80.0, 130.0), vec![[l, b], [r, b]]].concat()],
        '3' => vec![arc([0.0, -0.25], [r, 0.25], -70.0, 180.0), arc([0.0, 0.25], [r, 0.25], 0.0, 250.0)],
        '4' => vec![vec![[0.15, b], [0.15, t], [l, 0.2], [r, 0.2]]],
        '5' => vec![[vec![[r, t], [l, t], [l, -0.05]], arc([-0.02, 0.18], [r, 0.32], -40.0, 235.0)].concat()],
        '6' => vec![arc([0.0, 0.2], [r, 0.3], 0.0, 360.0), vec![[l, 0.2], [-0.18, -0.2], [0.1, t]]],
        '7' => vec![vec![[l, t], [r, t], [-0.1, b]]],
        '8' => vec![arc([0.0, -0.25], [0.25, 0.25], 0.0, 360.0), arc([0.0, 0.25], [r, 0.25], 0.0, 360.0)],
        '9' => vec![arc([0.0, -0.2], [r, 0.3], 0.0, 360.0), vec![[r, -0.2], [0.18, 0.2], [-0.1, b]]],
        'P' => vec![
            [vec![[l, b], [l, t], [0.05, t]], arc([0.05, -0.23], [r - 0.05, 0.27], 0.0, 180.0), vec![[l, 0.04]]]
                .concat(),
        ],
        'S' => vec![[arc([0.0, -0.25], [r, 0.25], 60.0, -180.0), arc([0.0, 0.25], [r, 0.25], 0.0, 240.0)].concat()],
        'T' => vec![vec![[l, t], [r, t]], vec![[0.0, t], [0.0, b]]],
        'D' => vec![[vec![[l, t], [l, b], [0.0, b]], arc([0.0, 0.0], [r, 0.5], 180.0, 0.0), vec![[l, t]]].concat()],
        'E' => vec![vec![[r, t], [l, t], [l, b], [r, b]], vec![[l, 0.0], [0.2, 0.0]]],
        'I' => vec![vec![[0.0, t], [0.0, b]]],
        'L' => vec![vec![[l, t], [l, b], [r, b]]],
        'M' => vec![vec![[l, b], [l, t], [0.0, 0.1], [r, t], [r, b]]],
        _ => Vec::new(),
    }
}

/// Points of an ellipse by its half axes, in degrees clockwise from above.
fn arc(centre: Point, half: Point, from: f64, to: f64) -> Vec<Point> {
    let steps = ((to - from).abs() / 30.0).ceil() as usize;
    let at = |i: usize| {
        let (sine, cosine) = (from + (to - from) * i as f64 / steps as f64).to_radians().sin_cos();
        [centre[0] + half[0] * sine, centre[1] - half[1] * cosine]
    };
    (0..=steps).map(at).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: &str = "0123456789STOPDEILM";

    #[test]
    fn letters_fit_their_box_and_are_told_apart() {
        let mut bitmaps = Vec::new();
        for letter in ALL.chars() {
            let outlines = text(&letter.to_string(), 1.0, 0.1);
            assert!(!outlines.is_empty(), "{letter}");
            for outline in &outlines {
                let ([left, top], [right, bottom]) = outline.bounds();
                assert!(left >= -0.36 && right <= 0.36 && top >= -0.56 && bottom <= 0.56, "{letter}: {outline:?}");
            }
            let ink = |i: usize| {
                let p = [(i % 12) as f64 / 11.0 * 0.7 - 0.35, (i / 12) as f64 / 19.0 * 1.1 - 0.55];
                outlines.iter().any(|outline| outline.contains(p))
            };
            bitmaps.push((0..240).map(ink).collect::<Vec<bool>>());
        }
        for (i, a) in bitmaps.iter().enumerate() {
            for (j, b) in bitmaps.iter().enumerate().filter(|(j, _)| *j < i) {
                let apart = a.iter().zip(b).filter(|(a, b)| a != b).count();
                let same = [ALL.chars().nth(i), ALL.chars().nth(j)] == [Some('O'), Some('0')];
                assert!(same || apart > 6, "{i} {j}: {apart}");
            }
        }
    }

    #[test]
    fn words_are_centred() {
        let bounds = text("STOP", 2.0, 0.1)
            .iter()
            .map(Outline::bounds)
            .fold((0.0f64, 0.0f64), |(left, right), (l, h)| (left.min(l[0]), right.max(h[0])));
        assert!((bounds.0 + bounds.1).abs() < 0.3 && bounds.1 > 2.5, "{bounds:?}");
        assert!(text("~", 1.0, 0.1).is_empty());
    }
}
