//! Sparse linear maps between the pixels of images, and small systems of equations.

/// Nearer than this to a pixel's centre, a place is that pixel.
const SNAP: f64 = 1e-6;

/// A linear map of the pixels of one channel, the same for every channel: a list of weighted sources for each result.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sparse {
    from: usize,
    /// Where the sources of each result end.
    ends: Vec<usize>,
    entries: Vec<(usize, f32)>,
}

impl Sparse {
    /// From the sources of each result.
    pub fn new(from: usize, rows: impl IntoIterator<Item = Vec<(usize, f32)>>) -> Self {
        let (mut ends, mut entries) = (Vec::new(), Vec::new());
        for row in rows {
            entries.extend(row.into_iter().filter(|(_, weight)| *weight != 0.0));
            ends.push(entries.len());
        }
        Self { from, ends, entries }
    }

    /// Bilinear sampling of an image of `from` rows and columns at a place for each pixel of the result, `(row, column)` between
    /// pixels' centres; outside of the image everything is 0.
    pub fn bilinear(from: [usize; 2], to: [usize; 2], source: impl Fn(f64, f64) -> (f64, f64)) -> Self {
        let snap = |x: f64| if (x - x.round()).abs() < SNAP { x.round() } else { x };
        let pixel = |i: usize| {
            let (row, column) = source((i / to[1]) as f64, (i % to[1]) as f64);
            let (row, column) = (snap(row), snap(column));
            let mut row_of = Vec::new();
            if !(row.is_finite() && column.is_finite()) {
                return row_of;
            }
            for (r, wr) in [(row.floor(), 1.0 - row.fract_up()), (row.floor() + 1.0, row.fract_up())] {
                for (c, wc) in [(column.floor(), 1.0 - column.fract_up()), (column.floor() + 1.0, column.fract_up())] {
                    if r >= 0.0 && c >= 0.0 && r < from[0] as f64 && c < from[1] as f64 {
                        row_of.push((r as usize * from[1] + c as usize, (wr * wc) as f32));
                    }
                }
            }
            row_of
        };
        Self::new(from[0] * from[1], (0..to[0] * to[1]).map(pixel))
    }

    /// The results of every channel.
    pub fn apply(&self, x: &[f32]) -> Vec<f32> {
        let mut y = Vec::with_capacity(x.len() / self.from.max(1) * self.ends.len());
        for channel in x.chunks(self.from) {
            let mut start = 0;
            for end in &self.ends {
                y.push(self.entries[start..*end].iter().map(|(i, weight)| weight * channel[*i]).sum());
                start = *end;
            }
        }
        y
    }

    /// The transposed map.
    pub fn adjoint(&self, g: &[f32]) -> Vec<f32> {
        let channels = g.len() / self.ends.len().max(1);
        let mut x = vec![0.0; channels * self.from];
        for (x, g) in x.chunks_mut(self.from).zip(g.chunks(self.ends.len())) {
            let mut start = 0;
            for (end, g) in self.ends.iter().zip(g) {
                self.entries[start..*end].iter().for_each(|(i, weight)| x[*i] += weight * g);
                start = *end;
            }
        }
        x
    }
}

trait FractUp {
    /// The part above the next smaller whole number.
    fn fract_up(self) -> Self;
}

impl FractUp for f64 {
    fn fract_up(self) -> Self {
        self - self.floor()
    }
}

/// Solves `A·X = B` by elimination with pivots, for `B` of several columns; none if `A` is singular.
pub(super) fn solve(mut a: Vec<Vec<f64>>, mut b: Vec<Vec<f64>>) -> Option<Vec<Vec<f64>>> {
    let n = a.len();
    for k in 0..n {
        let pivot = (k..n).max_by(|i, j| a[*i][k].abs().total_cmp(&a[*j][k].abs()))?;
        if !(a[pivot][k].abs() > 1e-12) {
            return None;
        }
        a.swap(k, pivot);
        b.swap(k, pivot);
        let (pivot, right) = (a[k].clone(), b[k].clone());
        for (i, (row, sides)) in a.iter_mut().zip(&mut b).enumerate() {
            let factor = row[k] / pivot[k];
            if i != k && factor != 0.0 {
                row.iter_mut().zip(&pivot).skip(k).for_each(|(x, p)| *x -= factor * p);
                sides.iter_mut().zip(&right).for_each(|(x, p)| *x -= factor * p);
            }
        }
    }
    for (row, a) in b.iter_mut().zip(a.iter().enumerate().map(|(i, row)| row[i])) {
        row.iter_mut().for_each(|x| *x /= a);
    }
    Some(b)
}
