//! Planes seen from elsewhere.

use super::sparse::solve;
use super::transform::within;
use crate::error::{Error, Result};

/// A homography: how a plane (a sign's face, a print) lies in a picture. `(u, v) ↦ (x/w, y/w)` with `(x, y, w) = H·(u, v, 1)`.
///
/// Points with `w ≤ 0` are behind the viewer and have no place in the picture.
///
/// Guarantees: the corners go where they were said to go, and [`inverse`](Self::inverse) brings every visible point back (test
/// `corners_go_where_they_should_and_back`).
///
/// R. Hartley, A. Zisserman, "Multiple view geometry in computer vision", 2nd edition 2004, sections 2.3 and 6.1.
///
/// ```
/// use adversarial::physical::{Homography, Viewpoint};
///
/// // A sign of 0.75 m a side, 5 m away, turned by 30°, seen by a camera of 140 pixels focal length.
/// let seen = Viewpoint { distance: 5.0, yaw: 30.0, ..Viewpoint::default() };
/// let place = seen.homography(0.375, 140.0, [16.0, 16.0])?;
/// let [left, right] = [-1.0, 1.0].map(|u| place.apply([u, 0.0]).expect("before the camera")[0]);
/// // 21 pixels from the front, cos 30° of them from here.
/// assert!((right - left - 21.0 * 30f64.to_radians().cos()).abs() < 0.1);
/// # Ok::<(), adversarial::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Homography([[f64; 3]; 3]);

/// Where a plane is seen from: first turned around its own centre (roll in the plane, then pitch, then yaw), then moved.
///
/// | field | unit | default | range |
/// |---|---|---|---|
/// | `distance` | metres from the camera to the centre, along its axis | 1 | > 0 |
/// | `yaw` | degrees around the vertical: the viewing angle | 0 | (−90, 90) |
/// | `pitch` | degrees around the horizontal | 0 | (−90, 90) |
/// | `roll` | degrees in the plane, clockwise as seen | 0 | finite |
/// | `right`, `down` | metres that the centre is off the camera's axis | 0 | finite |
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Viewpoint {
    /// Metres along the camera's axis.
    pub distance: f64,
    /// Degrees around the vertical.
    pub yaw: f64,
    /// Degrees around the horizontal.
    pub pitch: f64,
    /// Degrees in the plane.
    pub roll: f64,
    /// Metres to the right of the camera's axis.
    pub right: f64,
    /// Metres below the camera's axis.
    pub down: f64,
}

impl Default for Viewpoint {
    fn default() -> Self {
        Self { distance: 1.0, yaw: 0.0, pitch: 0.0, roll: 0.0, right: 0.0, down: 0.0 }
    }
}

impl Homography {
    /// From a matrix.
    ///
    /// # Errors
    /// [`Error::Parameter`] for a value that is not finite or a matrix without inverse.
    pub fn new(matrix: [[f64; 3]; 3]) -> Result<Self> {
        for value in matrix.iter().flatten() {
            within("matrix", *value, f64::MIN, f64::MAX, "finite numbers")?;
        }
        let size = matrix.iter().flatten().fold(0.0, |a: f64, x| a.max(x.abs()));
        let determinant = determinant(&matrix);
        if !(determinant.abs() > 1e-14 * size.powi(3)) {
            return Err(Error::Parameter { parameter: "determinant", value: determinant, bound: "not 0" });
        }
        Ok(Self(matrix))
    }

    /// The one that brings four points to four others.
    ///
    /// # Errors
    /// [`Error::Parameter`] for a point that is not finite, or three points of either on a line.
    pub fn corners(from: [[f64; 2]; 4], to: [[f64; 2]; 4]) -> Result<Self> {
        let (mut a, mut b) = (Vec::new(), Vec::new());
        for ([u, v], [x, y]) in from.into_iter().zip(to) {
            for value in [u, v, x, y] {
                within("corners", value, f64::MIN, f64::MAX, "finite numbers")?;
            }
            a.push(vec![u, v, 1.0, 0.0, 0.0, 0.0, -u * x, -v * x]);
            a.push(vec![0.0, 0.0, 0.0, u, v, 1.0, -u * y, -v * y]);
            b.extend([vec![x], vec![y]]);
        }
        let none = Error::Parameter { parameter: "corners", value: f64::NAN, bound: "no three corners on a line" };
        let h = solve(a, b).ok_or(none)?.concat();
        Self::new([[h[0], h[1], h[2]], [h[3], h[4], h[5]], [h[6], h[7], 1.0]])
    }

    /// Where a point is seen; none behind the viewer.
    pub fn apply(&self, [u, v]: [f64; 2]) -> Option<[f64; 2]> {
        let [x, y, w] = self.0.map(|row| row[0] * u + row[1] * v + row[2]);
        (w > 1e-9).then(|| [x / w, y / w])
    }

    /// The way back.
    pub fn inverse(&self) -> Self {
        let m = &self.0;
        let minor = |r: usize, c: usize| {
            let ([r0, r1], [c0, c1]) = ([(r + 1) % 3, (r + 2) % 3], [(c + 1) % 3, (c + 2) % 3]);
            m[r0][c0] * m[r1][c1] - m[r0][c1] * m[r1][c0]
        };
        let determinant = determinant(m);
        let mut inverse = [[0.0; 3]; 3];
        for (r, row) in inverse.iter_mut().enumerate() {
            for (c, value) in row.iter_mut().enumerate() {
                *value = minor(c, r) / determinant;
            }
        }
        Self(inverse)
    }

    /// This one and then another.
    pub fn then(&self, next: &Self) -> Self {
        let (a, b) = (&next.0, &self.0);
        let mut product = [[0.0; 3]; 3];
        for (r, row) in product.iter_mut().enumerate() {
            for (c, value) in row.iter_mut().enumerate() {
                *value = (0..3).map(|k| a[r][k] * b[k][c]).sum();
            }
        }
        Self(product)
    }
}

impl Viewpoint {
    /// The plane's square `[−1, 1]²` (right, down), of `half_side` metres from its centre to a side, in the picture of a pinhole
    /// camera: `focal_length` and `centre` (column, row of the camera's axis) in pixels, pixels being squares of side 1 from 0 on.
    ///
    /// # Errors
    /// [`Error::Parameter`] for a field out of range, and for a `half_side` or `focal_length` that is not above 0.
    pub fn homography(&self, half_side: f64, focal_length: f64, centre: [f64; 2]) -> Result<Homography> {
        let positive = "a finite number above 0";
        for (parameter, value) in
            [("distance", self.distance), ("half_side", half_side), ("focal_length", focal_length)]
        {
            within(parameter, value, f64::MIN_POSITIVE, f64::MAX, positive)?;
        }
        for (parameter, value) in [("yaw", self.yaw), ("pitch", self.pitch)] {
            if !(value.abs() < 90.0) {
                return Err(Error::Parameter { parameter, value, bound: "within 90 degrees: the plane's front" });
            }
        }
        for (parameter, value) in
            [("roll", self.roll), ("right", self.right), ("down", self.down), ("centre", centre[0] + centre[1])]
        {
            within(parameter, value, f64::MIN, f64::MAX, "a finite number")?;
        }
        let [(sy, cy), (sp, cp), (sr, cr)] =
            [self.yaw, self.pitch, self.roll].map(|degrees| degrees.to_radians().sin_cos());
        // The plane's two axes in the camera's frame: right, down, away.
        let turned = |[u, v]: [f64; 2]| {
            let (u, v) = (cr * u - sr * v, sr * u + cr * v);
            let (v, away) = (cp * v, sp * v);
            [cy * u + sy * away, v, cy * away - sy * u].map(|x| half_side * x)
        };
        let (a, b) = (turned([1.0, 0.0]), turned([0.0, 1.0]));
        let at = [self.right, self.down, self.distance];
        let row = |i: usize, c: f64| [a, b, at].map(|axis| focal_length * axis[i] + c * axis[2]);
        Homography::new([row(0, centre[0]), row(1, centre[1]), [a[2], b[2], at[2]]])
    }
}

fn determinant(m: &[[f64; 3]; 3]) -> f64 {
    (0..3).map(|c| m[0][c] * (m[1][(c + 1) % 3] * m[2][(c + 2) % 3] - m[1][(c + 2) % 3] * m[2][(c + 1) % 3])).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SQUARE: [[f64; 2]; 4] = [[-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0], [1.0, 1.0]];

    fn near(a: [f64; 2], b: [f64; 2]) -> bool {
        a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-9 * (1.0 + b.abs()))
    }

    proptest! {
        #[test]
        fn corners_go_where_they_should_and_back(moves in prop::collection::vec(-0.4f64..0.4, 8), size in 1.0f64..50.0) {
            let mut to = SQUARE;
            for ([x, y], moved) in to.iter_mut().zip(moves.chunks(2)) {
                (*x, *y) = (size * (*x + moved[0]), size * (*y + moved[1]));
            }
            let map = Homography::corners(SQUARE, to).unwrap();
            for (from, to) in SQUARE.into_iter().zip(to) {
                prop_assert!(near(map.apply(from).unwrap(), to));
                prop_assert!(near(map.inverse().apply(to).unwrap(), from));
            }
            let inner = [0.3, -0.2];
            let round = map.then(&map.inverse());
            prop_assert!(near(round.apply(inner).unwrap(), inner));
            prop_assert!(near(map.inverse().apply(map.apply(inner).unwrap()).unwrap(), inner));
        }

        #[test]
        fn what_is_twice_as_far_is_half_as_large(distance in 1.0f64..20.0, yaw in -80.0f64..80.0) {
            // Small against the distance, so that the near and the far side are alike.
            let span = |distance: f64, yaw: f64| {
                let seen = Viewpoint { distance, yaw, ..Viewpoint::default() };
                let map = seen.homography(0.001, 100.0, [3.0, 4.0]).unwrap();
                let [left, right] = [-1.0, 1.0].map(|u| map.apply([u, 0.0]).unwrap());
                right[0] - left[0]
            };
            prop_assert!((span(distance, yaw) / span(2.0 * distance, yaw) - 2.0).abs() < 1e-2);
            prop_assert!((span(distance, yaw) / span(distance, 0.0) - yaw.to_radians().cos()).abs() < 1e-2);
        }
    }

    #[test]
    fn a_view_by_hand() {
        // 2 m before a camera of 10 pixels focal length, one metre is 5 pixels.
        let seen = Viewpoint { distance: 2.0, right: 1.0, down: -1.0, ..Viewpoint::default() };
        let map = seen.homography(1.0, 10.0, [8.0, 8.0]).unwrap();
        assert_eq!(map.apply([0.0, 0.0]), Some([13.0, 3.0]));
        assert_eq!(map.apply([1.0, 1.0]), Some([18.0, 8.0]));
        // A quarter turn in the plane, clockwise: the right side is now below.
        let rolled = Viewpoint { distance: 2.0, roll: 90.0, ..Viewpoint::default() };
        let map = rolled.homography(1.0, 10.0, [8.0, 8.0]).unwrap();
        assert!(near(map.apply([1.0, 0.0]).unwrap(), [8.0, 13.0]));
        // Turned to the right, the right side comes nearer.
        let turned = Viewpoint { distance: 2.0, yaw: 30.0, ..Viewpoint::default() };
        let map = turned.homography(1.0, 10.0, [0.0, 0.0]).unwrap();
        let height = |u: f64| map.apply([u, 1.0]).unwrap()[1];
        assert!(height(1.0) > height(-1.0));
        // And what comes behind the camera is not seen.
        let close = Viewpoint { distance: 0.3, yaw: 60.0, ..Viewpoint::default() };
        assert_eq!(close.homography(1.0, 10.0, [0.0, 0.0]).unwrap().apply([1.0, 0.0]), None);
    }

    #[test]
    fn what_is_no_view_is_named() {
        let error = |seen: Viewpoint| seen.homography(1.0, 1.0, [0.0; 2]).unwrap_err().to_string();
        let new = Viewpoint::default;
        assert!(error(Viewpoint { distance: 0.0, ..new() }).starts_with("distance = 0"));
        assert!(error(Viewpoint { yaw: 90.0, ..new() }).starts_with("yaw = 90"));
        assert!(error(Viewpoint { pitch: f64::NAN, ..new() }).starts_with("pitch = NaN"));
        assert!(error(Viewpoint { right: f64::INFINITY, ..new() }).starts_with("right = inf"));
        let flat = Homography::new([[1.0, 2.0, 3.0], [2.0, 4.0, 6.0], [0.0, 0.0, 1.0]]).unwrap_err();
        assert!(flat.to_string().starts_with("determinant = 0"));
        let line = [[0.0, 0.0], [1.0, 1.0], [2.0, 2.0], [0.0, 1.0]];
        assert!(Homography::corners(SQUARE, line).is_err() || Homography::corners(line, SQUARE).is_err());
    }
}
