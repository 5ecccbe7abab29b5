//! Coloured outlines on a plane, and pictures of it.

use adversarial::physical::Homography;

/// A place on a plane: right, down.
pub type Point = [f64; 2];

/// Red, green, blue from 0 to 1.
pub type Colour = [f32; 3];

/// Points a side that a pixel is the mean of.
pub const SAMPLES: usize = 3;

/// What is inside of a form.
#[derive(Clone, Debug, PartialEq)]
pub enum Outline {
    /// Inside of the polygon through these corners, by the even-odd rule.
    Polygon(Vec<Point>),
    /// Not farther than `radius` from `centre`.
    Disc {
        /// Its middle.
        centre: Point,
        /// Its size.
        radius: f64,
    },
    /// Not farther than half of `width` from the line through `points`.
    Stroke {
        /// Joined by straight lines; one point is a dot.
        points: Vec<Point>,
        /// From side to side.
        width: f64,
    },
}

impl Outline {
    /// An upright rectangle by its left upper and right lower corner.
    pub fn rectangle([left, top]: Point, [right, bottom]: Point) -> Self {
        Self::Polygon(vec![[left, top], [right, top], [right, bottom], [left, bottom]])
    }

    /// A regular polygon around the origin: `radius` to its corners, the first `degrees` clockwise from above.
    pub fn regular(corners: usize, radius: f64, degrees: f64) -> Self {
        let corner = |i: usize| {
            let (sine, cosine) = (degrees + 360.0 * i as f64 / corners as f64).to_radians().sin_cos();
            [radius * sine, -radius * cosine]
        };
        Self::Polygon((0..corners).map(corner).collect())
    }

    /// Whether a point is inside.
    pub fn contains(&self, p: Point) -> bool {
        match self {
            Self::Polygon(corners) => {
                let sides = corners.iter().zip(corners.iter().cycle().skip(1));
                let crossed = sides.filter(|(a, b)| {
                    (a[1] > p[1]) != (b[1] > p[1]) && p[0] < a[0] + (p[1] - a[1]) / (b[1] - a[1]) * (b[0] - a[0])
                });
                crossed.count() % 2 == 1
            }
            Self::Disc { centre, radius } => squared(*centre, p) <= radius * radius,
            Self::Stroke { points, width } => {
                let near = |a: Point, b: Point| distance_squared(a, b, p) <= 0.25 * width * width;
                points.windows(2).any(|pair| near(pair[0], pair[1])) || points.len() == 1 && near(points[0], points[0])
            }
        }
    }

    /// The smallest upright rectangle around it: left upper and right lower corner.
    pub fn bounds(&self) -> (Point, Point) {
        let (points, reach): (&[Point], f64) = match self {
            Self::Polygon(corners) => (corners, 0.0),
            Self::Disc { centre, radius } => (std::slice::from_ref(centre), *radius),
            Self::Stroke { points, width } => (points, 0.5 * width),
        };
        let start = ([f64::INFINITY; 2], [f64::NEG_INFINITY; 2]);
        points.iter().fold(start, |(low, high), p| {
            ([0, 1].map(|i| low[i].min(p[i] - reach)), [0, 1].map(|i| high[i].max(p[i] + reach)))
        })
    }

    /// The same scaled around the origin, then moved.
    pub fn at(&self, [right, down]: Point, factor: f64) -> Self {
        let put = |[u, v]: &Point| [factor * u + right, factor * v + down];
        match self {
            Self::Polygon(corners) => Self::Polygon(corners.iter().map(put).collect()),
            Self::Disc { centre, radius } => Self::Disc { centre: put(centre), radius: factor.abs() * radius },
            Self::Stroke { points, width } => {
                Self::Stroke { points: points.iter().map(put).collect(), width: factor.abs() * width }
            }
        }
    }
}

/// Outlines in their colours, later ones on top.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Drawing(Vec<(Outline, Colour)>);

impl Drawing {
    /// An empty plane.
    pub fn new() -> Self {
        Self::default()
    }

    /// With an outline on top.
    pub fn paint(mut self, outline: Outline, colour: Colour) -> Self {
        self.0.push((outline, colour));
        self
    }

    /// With outlines of one colour on top.
    pub fn paint_all(self, outlines: impl IntoIterator<Item = Outline>, colour: Colour) -> Self {
        outlines.into_iter().fold(self, |drawing, outline| drawing.paint(outline, colour))
    }

    /// The colour at a point, where there is one.
    pub fn colour_at(&self, p: Point) -> Option<Colour> {
        self.0.iter().rev().find(|(outline, _)| outline.contains(p)).map(|(_, colour)| *colour)
    }

    /// The smallest upright rectangle around everything.
    fn bounds(&self) -> (Point, Point) {
        let start = ([f64::INFINITY; 2], [f64::NEG_INFINITY; 2]);
        self.0
            .iter()
            .map(|(outline, _)| outline.bounds())
            .fold(start, |(low, high), (l, h)| ([0, 1].map(|i| low[i].min(l[i])), [0, 1].map(|i| high[i].max(h[i]))))
    }
}

/// A colour picture: values from 0 to 1, channel after channel, row after row, as networks take them.
#[derive(Clone, Debug, PartialEq)]
pub struct Picture {
    /// `[3, side, side]`.
    pub pixels: Vec<f32>,
    /// Rows, and columns.
    pub side: usize,
}

impl Picture {
    /// A picture whose pixels are given by row and column.
    pub fn new(side: usize, colour: impl Fn(usize, usize) -> Colour) -> Self {
        let mut pixels = vec![0.0; 3 * side * side];
        for i in 0..side * side {
            let at = colour(i / side, i % side);
            (0..3).for_each(|c| pixels[c * side * side + i] = at[c]);
        }
        Self { pixels, side }
    }

    /// Shape of the pixels.
    pub fn shape(&self) -> [usize; 3] {
        [3, self.side, self.side]
    }

    /// Draws a plane into it, and returns how much of each pixel it covers.
    pub fn draw(&mut self, drawing: &Drawing, place: &Homography) -> Vec<f32> {
        let side = self.side;
        let mut cover = vec![0.0; side * side];
        let back = place.inverse();
        let [rows, columns] = reach(drawing, place, side);
        for row in rows.0..rows.1 {
            for column in columns.0..columns.1 {
                let (mut hits, mut sum) = (0u32, [0.0f32; 3]);
                for k in 0..SAMPLES * SAMPLES {
                    let part = |k: usize| (k as f64 + 0.5) / SAMPLES as f64;
                    let at = [column as f64 + part(k % SAMPLES), row as f64 + part(k / SAMPLES)];
                    if let Some(colour) = back.apply(at).and_then(|p| drawing.colour_at(p)) {
                        hits += 1;
                        sum.iter_mut().zip(colour).for_each(|(sum, c)| *sum += c);
                    }
                }
                let i = row * side + column;
                let all = (SAMPLES * SAMPLES) as f32;
                cover[i] = hits as f32 / all;
                for (c, sum) in sum.into_iter().enumerate().filter(|_| hits > 0) {
                    let pixel = &mut self.pixels[c * side * side + i];
                    *pixel = (1.0 - cover[i]) * *pixel + sum / all;
                }
            }
        }
        cover
    }

    /// The pixels as bytes.
    pub fn bytes(&self) -> Vec<[u8; 3]> {
        bytes(&self.pixels)
    }
}

/// Pixels of three channels, channel after channel, as bytes, pixel after pixel.
pub fn bytes(pixels: &[f32]) -> Vec<[u8; 3]> {
    let count = pixels.len() / 3;
    let byte = |x: f32| (255.0 * x.clamp(0.0, 1.0)).round() as u8;
    (0..count).map(|i| [0, 1, 2].map(|c| byte(pixels[c * count + i]))).collect()
}

/// Rows and columns, from and to, outside of which there is nothing of a drawing.
fn reach(drawing: &Drawing, place: &Homography, side: usize) -> [(usize, usize); 2] {
    let ([left, top], [right, bottom]) = drawing.bounds();
    let corners = [[left, top], [right, top], [left, bottom], [right, bottom]].map(|corner| place.apply(corner));
    let along = |axis: usize| {
        let end = |x: f64| x.clamp(0.0, side as f64) as usize;
        match corners.iter().all(Option::is_some) {
            true => {
                let at = || corners.iter().flatten().map(|p| p[axis]);
                let (low, high) = (at().fold(f64::INFINITY, f64::min), at().fold(f64::NEG_INFINITY, f64::max));
                (end(low.floor()), end(high.ceil()))
            }
            false => (0, side),
        }
    };
    [along(1), along(0)]
}

fn squared(a: Point, b: Point) -> f64 {
    (a[0] - b[0]).powi(2) + (a[1] - b[1]).powi(2)
}

/// From a point to the line between two, squared.
fn distance_squared(a: Point, b: Point, p: Point) -> f64 {
    let along = [b[0] - a[0], b[1] - a[1]];
    let length = along[0] * along[0] + along[1] * along[1];
    let share = if length > 0.0 { ((p[0] - a[0]) * along[0] + (p[1] - a[1]) * along[1]) / length } else { 0.0 };
    let share = share.clamp(0.0, 1.0);
    squared([a[0] + share * along[0], a[1] + share * along[1]], p)
}

#[cfg(test)]
mod tests {
    use super::*;
    use adversarial::physical::Viewpoint;

    const SQUARE: [Point; 4] = [[-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0], [1.0, 1.0]];

    fn black(side: usize) -> Picture {
        Picture::new(side, |_, _| [0.0; 3])
    }

    #[test]
    fn outlines_by_hand() {
        let square = Outline::rectangle([0.0, 0.0], [2.0, 1.0]);
        assert!(square.contains([1.9, 0.1]) && !square.contains([2.1, 0.1]) && !square.contains([1.0, -0.1]));
        let disc = Outline::Disc { centre: [1.0, 0.0], radius: 0.5 };
        assert!(disc.contains([1.3, 0.3]) && !disc.contains([1.4, 0.4]));
        let bend = Outline::Stroke { points: vec![[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]], width: 0.2 };
        assert!(bend.contains([0.5, 0.09]) && bend.contains([1.09, 0.5]) && !bend.contains([0.5, 0.5]));
        assert_eq!(bend.bounds(), ([-0.1, -0.1], [1.1, 1.1]));
        let octagon = Outline::regular(8, 1.0, 22.5);
        // Its flat sides are cos 22.5° from the middle.
        assert!(octagon.contains([0.0, -0.92]) && !octagon.contains([0.0, -0.93]) && !octagon.contains([0.7, 0.7]));
        assert!(disc.at([1.0, 1.0], 2.0).contains([3.0, 1.9]));
        let drawing = Drawing::new().paint(square, [1.0; 3]).paint(disc, [0.5; 3]);
        assert_eq!(drawing.colour_at([1.0, 0.4]), Some([0.5; 3]));
        assert_eq!(drawing.colour_at([0.1, 0.1]), Some([1.0; 3]));
        assert_eq!(drawing.colour_at([0.1, 1.1]), None);
    }

    #[test]
    fn edges_are_shares() {
        let drawing = Drawing::new().paint(Outline::rectangle([-1.0, -1.0], [1.0, 1.0]), [1.0, 0.6, 0.2]);
        let to = [[1.0, 1.0], [3.0, 1.0], [1.0, 2.0 + 1.0 / 3.0], [3.0, 2.0 + 1.0 / 3.0]];
        let mut picture = black(4);
        let cover = picture.draw(&drawing, &Homography::corners(SQUARE, to).unwrap());
        let row = |i: usize| cover[4 * i..4 * i + 4].to_vec();
        assert_eq!((row(0), row(1)), (vec![0.0; 4], vec![0.0, 1.0, 1.0, 0.0]));
        assert!((row(2)[1] - 1.0 / 3.0).abs() < 1e-6);
        assert!((picture.pixels[5] - 1.0).abs() < 1e-6 && (picture.pixels[9] - 1.0 / 3.0).abs() < 1e-6);
        assert_eq!(picture.bytes()[5], [255, 153, 51]);
    }

    #[test]
    fn what_is_seen_from_the_side_covers_less() {
        let drawing = Drawing::new().paint(Outline::regular(8, 1.0, 22.5), [1.0; 3]);
        let area = |yaw: f64| {
            let seen = Viewpoint { distance: 6.0, yaw, ..Viewpoint::default() };
            black(32).draw(&drawing, &seen.homography(0.4, 150.0, [16.0; 2]).unwrap()).iter().sum::<f32>()
        };
        // The octagon's area at 20 pixels a side of its square, up to a sixth of a pixel along its edge of 61; and its share from
        // 60°.
        assert!((area(0.0) - 100.0 * 8f32.sqrt()).abs() < 10.0, "{}", area(0.0));
        assert!((area(60.0) / area(0.0) - 0.5).abs() < 0.03, "{}", area(60.0));
    }
}
