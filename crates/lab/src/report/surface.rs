//! A function of two numbers as a coloured map with paths over it, as inline SVG around a PNG.

use std::fmt::Write;

use super::plot::{Axis, Line, path};
use super::{escape, image};

const WIDTH: f64 = 480.0;
const HEIGHT: f64 = 330.0;
const LEFT: f64 = 54.0;
const RIGHT: f64 = 466.0;
const TOP: f64 = 60.0;
const BOTTOM: f64 = 288.0;
/// The scale of colours above the map.
const SCALE: (f64, f64, f64) = (266.0, RIGHT, 18.0);
/// Colours from the lowest value to the highest (viridis): even in lightness, told apart by the colour-blind.
const COLOURS: [[u8; 3]; 9] = [
    [68, 1, 84],
    [71, 44, 122],
    [59, 81, 139],
    [44, 113, 142],
    [33, 144, 141],
    [39, 173, 129],
    [92, 200, 99],
    [170, 220, 50],
    [253, 231, 37],
];

/// Values over a rectangle, on a regular grid.
#[derive(Clone, Debug)]
pub struct Surface<'a> {
    /// What it shows.
    pub title: &'a str,
    /// Name and unit of the horizontal axis, and its ends.
    pub x: (&'a str, f64, f64),
    /// Name and unit of the vertical axis, and its ends.
    pub y: (&'a str, f64, f64),
    /// Name and unit of the values.
    pub value: &'a str,
    /// Points of the grid from left to right.
    pub columns: usize,
    /// From the lower left corner, row after row upwards; what is not finite is shown as the lowest.
    pub values: &'a [f64],
    /// Paths and marks over the map, cut off at its edge; later ones on top.
    pub lines: Vec<Line>,
}

impl Surface<'_> {
    /// The map as a `figure` element.
    pub fn html(&self) -> String {
        let finite = || self.values.iter().copied().filter(|value| value.is_finite());
        let (low, high) = (finite().fold(f64::INFINITY, f64::min), finite().fold(f64::NEG_INFINITY, f64::max));
        let mut html = format!("<figure class=\"plot\">\n<figcaption><h3>{}</h3>\n<ul>", escape(self.title));
        self.lines.iter().for_each(|line| html += &line.key());
        html += "</ul></figcaption>\n";
        if !(low <= high) || self.columns == 0 {
            html += "<p class=\"empty\">Nothing was measured.</p>\n</figure>\n";
            return html;
        }
        let rows = self.values.chunks(self.columns).rev();
        let pixels: Vec<[u8; 3]> = rows.flatten().map(|value| colour((value - low) / (high - low))).collect();
        let x = Axis::linear((self.x.1, self.x.2), LEFT, RIGHT, 6, false);
        let y = Axis::linear((self.y.1, self.y.2), BOTTOM, TOP, 6, false);
        let scale = Axis::linear((low, high), SCALE.0, SCALE.1, 4, false);
        let shades: Vec<[u8; 3]> = (0..200).map(|index| colour(f64::from(index) / 199.0)).collect();
        let _ = write!(
            html,
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}: {} over {} and {}\">\n\
             <image x=\"{LEFT}\" y=\"{TOP}\" width=\"{}\" height=\"{}\" preserveAspectRatio=\"none\" href=\"{}\"/>\n\
             <image x=\"{}\" y=\"{}\" width=\"{}\" height=\"8\" preserveAspectRatio=\"none\" href=\"{}\"/>\n\
             <text class=\"name end\" x=\"{}\" y=\"{}\">{}</text>\n<g class=\"ticks\">",
            escape(self.title),
            escape(self.value),
            escape(self.x.0),
            escape(self.y.0),
            RIGHT - LEFT,
            BOTTOM - TOP,
            image::colour_address(&pixels, self.columns),
            SCALE.0,
            SCALE.2,
            SCALE.1 - SCALE.0,
            image::colour_address(&shades, shades.len()),
            SCALE.1,
            SCALE.2 - 6.0,
            escape(self.value),
        );
        for (value, label) in &scale.ticks {
            let _ = write!(html, "<text x=\"{:.1}\" y=\"{}\">{label}</text>", scale.place(*value), SCALE.2 + 22.0);
        }
        for (value, label) in &y.ticks {
            let place = y.place(*value);
            let _ = write!(html, "<text x=\"{}\" y=\"{:.1}\" class=\"end\">{label}</text>", LEFT - 7.0, place + 4.0);
        }
        for (value, label) in &x.ticks {
            let place = x.place(*value);
            let _ = write!(
                html,
                "<path d=\"M{place:.1} {BOTTOM}v4\"/><text x=\"{place:.1}\" y=\"{}\">{label}</text>",
                BOTTOM + 17.0
            );
        }
        let _ = write!(
            html,
            "</g>\n<text class=\"name\" x=\"4\" y=\"{0}\">{1}</text><text class=\"name end\" x=\"{RIGHT}\" y=\"{4}\">{5}</text>\n\
             <svg x=\"{LEFT}\" y=\"{TOP}\" width=\"{2}\" height=\"{3}\" viewBox=\"{LEFT} {TOP} {2} {3}\">\n",
            TOP - 10.0,
            escape(self.y.0),
            RIGHT - LEFT,
            BOTTOM - TOP,
            HEIGHT - 6.0,
            escape(self.x.0),
        );
        for line in &self.lines {
            let places: Vec<Option<(f64, f64)>> =
                line.points.iter().map(|&(a, b)| Some((near(x.place(a)), near(y.place(b))))).collect();
            let _ = write!(html, "<g class=\"{} over\" opacity=\"{}\">", line.class, line.opacity);
            if line.joined {
                let path = path(&places);
                let _ = write!(html, "<path class=\"halo\" d=\"{path}\"/><path d=\"{path}\"/>");
            } else {
                for (cx, cy) in places.into_iter().flatten() {
                    let _ = write!(html, "<circle cx=\"{cx:.1}\" cy=\"{cy:.1}\" r=\"4\"/>");
                }
            }
            html += "</g>\n";
        }
        html += "</svg>\n</svg>\n</figure>\n";
        html
    }
}

/// Far outside is as good as just outside, and a file holds no number too large to draw.
fn near(place: f64) -> f64 {
    if place.is_nan() { -1e4 } else { place.clamp(-1e4, 1e4) }
}

fn colour(part: f64) -> [u8; 3] {
    let last = COLOURS.len() - 1;
    let place = if part.is_nan() { 0.0 } else { part.clamp(0.0, 1.0) * last as f64 };
    let below = (place as usize).min(last - 1);
    let between = |channel: usize| {
        let (a, b) = (f64::from(COLOURS[below][channel]), f64::from(COLOURS[below + 1][channel]));
        (a + (place - below as f64) * (b - a)).round() as u8
    };
    [0, 1, 2].map(between)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_go_from_end_to_end() {
        assert_eq!(colour(0.0), COLOURS[0]);
        assert_eq!(colour(1.0), COLOURS[8]);
        assert_eq!(colour(0.5), COLOURS[4]);
        assert_eq!(colour(f64::NAN), COLOURS[0]);
        assert_eq!(colour(0.0625), [70, 23, 103]);
    }

    #[test]
    fn a_map_holds_its_image_scale_and_paths() {
        let surface = Surface {
            title: "t",
            x: ("w", 4.0, 7.0),
            y: ("b", -3.0, -1.0),
            value: "E",
            columns: 2,
            values: &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0],
            lines: vec![
                Line::new("descent", "s1", vec![(4.0, -3.0), (1e300, f64::INFINITY)]),
                Line::marks("start", "s2", vec![(7.0, -1.0)]),
            ],
        };
        let html = surface.html();
        assert_eq!(html.matches("data:image/png;base64,").count(), 2);
        assert!(html.contains(&format!("d=\"M{LEFT:.1} {BOTTOM:.1}L10000.0 ")), "{html}");
        assert!(html.contains(&format!("<circle cx=\"{RIGHT:.1}\" cy=\"{TOP:.1}\"")), "{html}");
        let empty = Surface { values: &[f64::NAN], columns: 1, lines: vec![], ..surface };
        assert!(empty.html().contains("Nothing was measured."));
    }
}
