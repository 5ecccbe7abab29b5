//! Pascanu's cliff: the error of a recurrence with one unit, over its weight and bias.
//!
//! `x_t = wσ(x_{t−1}) + b` from x₀ = 0.5 for 50 steps, `E = (σ(x₅₀) − 0.7)²`. Where the attractor that x₀ leads to changes, the
//! error has a wall. R. Pascanu, T. Mikolov, Y. Bengio, "On the difficulty of training recurrent neural networks", ICML
//! 2013, figure 6.

use ::clipping::ClipByGlobalNorm;
use burn::tensor::Device;
use serde::Serialize;

use crate::error::Result;
use crate::report::plot::{Line, fixed, number};
use crate::report::surface::Surface;
use crate::study::toolkit::{OnHost, largest, median};
use crate::study::{Part, Setting};

pub const UNITS: u64 = 1;

const TIME: usize = 50;
/// The map: ends of w and b, points on a side.
const W: (f64, f64) = (4.0, 7.0);
const B: (f64, f64) = (-3.5, -1.5);
const SIDE: usize = 301;
/// The paths: where both begin, their step, limit and length.
const START: (f64, f64) = (4.9, -2.4);
const STEP_SIZE: f64 = 0.05;
const LIMIT: f64 = 0.5;
const STEPS: usize = 300;
/// Starts on a side of a grid over the map.
const STARTS: usize = 15;

/// Error and gradient over (w, b), and descent on it.
#[derive(Clone, Debug, Serialize)]
pub struct Cliff {
    /// The largest gradient norm on the grid.
    pub largest_gradient: f64,
    /// Where it is.
    pub at: (f64, f64),
    /// The median gradient norm on the grid.
    pub median_gradient: f64,
    /// Plain descent from one start.
    pub descent: Track,
    /// Clipped descent from there.
    pub clipped: Track,
    /// Of descent from a grid of starts: the share thrown by more than 1 in a single step, and the median of the last error.
    pub all_descent: Many,
    /// The same clipped.
    pub all_clipped: Many,
    /// Errors on the grid, for the map.
    #[serde(skip)]
    errors: Vec<f64>,
    /// Decimal logarithms of the gradient norms on the grid.
    #[serde(skip)]
    logarithms: Vec<f64>,
}

/// A descent.
#[derive(Clone, Debug, Serialize)]
pub struct Track {
    /// The points it went through.
    pub points: Vec<(f64, f64)>,
    /// The longest step.
    pub longest_step: f64,
    /// The last error.
    pub last_error: f64,
}

/// Descents from many starts.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Many {
    pub thrown: f64,
    pub median_last_error: f64,
}

pub fn run(setting: &Setting<'_>) -> Result<Cliff> {
    let grid: Vec<(f64, f64)> = points(SIDE).collect();
    let looks: Vec<(f64, [f64; 2])> = grid.iter().map(|&(w, b)| look(w, b)).collect();
    let norms: Vec<f64> = looks.iter().map(|(_, [dw, db])| dw.hypot(*db)).collect();
    let highest = (0..norms.len()).max_by(|&i, &j| norms[i].total_cmp(&norms[j])).expect("points");
    let many = |clip: bool| -> Result<Many> {
        let tracks: Vec<Track> =
            points(STARTS).map(|start| descend(start, clip, setting.device)).collect::<Result<_>>()?;
        let thrown = tracks.iter().filter(|track| track.longest_step > 1.0).count() as f64 / tracks.len() as f64;
        Ok(Many { thrown, median_last_error: median(tracks.iter().map(|track| track.last_error)) })
    };
    let cliff = Cliff {
        largest_gradient: norms[highest],
        at: grid[highest],
        median_gradient: median(norms.iter().copied()),
        descent: descend(START, false, setting.device)?,
        clipped: descend(START, true, setting.device)?,
        all_descent: many(false)?,
        all_clipped: many(true)?,
        errors: looks.iter().map(|look| look.0).collect(),
        logarithms: norms.iter().map(|norm| norm.log10().max(-4.0)).collect(),
    };
    setting.progress.unit()?;
    Ok(cliff)
}

/// A grid over the map, row after row from the lower left corner.
fn points(side: usize) -> impl Iterator<Item = (f64, f64)> {
    let between = move |(low, high): (f64, f64), at: usize| low + (high - low) * at as f64 / (side - 1) as f64;
    (0..side * side).map(move |at| (between(W, at % side), between(B, at / side)))
}

fn logistic(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// The error and its gradient, carried forward with the state.
fn look(w: f64, b: f64) -> (f64, [f64; 2]) {
    let (mut x, mut dw, mut db) = (0.5, 0.0, 0.0);
    for _ in 0..TIME {
        let s = logistic(x);
        let slope = w * s * (1.0 - s);
        (x, dw, db) = (w * s + b, s + slope * dw, 1.0 + slope * db);
    }
    let s = logistic(x);
    let outer = 2.0 * (s - 0.7) * s * (1.0 - s);
    ((s - 0.7).powi(2), [outer * dw, outer * db])
}

fn descend(start: (f64, f64), clip: bool, device: &Device) -> Result<Track> {
    let limit = if clip { LIMIT } else { f64::INFINITY };
    let mut rule = OnHost::new(ClipByGlobalNorm::new(limit)?.exact(), device);
    let mut points = vec![start];
    let (mut w, mut b) = start;
    let mut lengths = Vec::with_capacity(STEPS);
    for _ in 0..STEPS {
        let step = rule.apply(look(w, b).1.to_vec())?;
        (w, b) = (w - STEP_SIZE * step[0], b - STEP_SIZE * step[1]);
        lengths.push(STEP_SIZE * step[0].hypot(step[1]));
        points.push((w, b));
    }
    Ok(Track { points, longest_step: largest(lengths), last_error: look(w, b).0 })
}

impl Cliff {
    pub fn part(&self) -> Part {
        let map = |title, value, values| Surface {
            title,
            x: ("weight w", W.0, W.1),
            y: ("bias b", B.0, B.1),
            value,
            columns: SIDE,
            values,
            lines: vec![
                Line::new("descent", "on-red", self.descent.points.clone()),
                Line::new("clipped descent", "on-white", self.clipped.points.clone()),
                Line::marks("start", "on-black", vec![START]),
            ],
        };
        let row = |name: &str, track: &Track, many: &Many| {
            vec![
                name.into(),
                number(track.longest_step),
                number(track.last_error),
                format!("{:.0} %", 100.0 * many.thrown),
                number(many.median_last_error),
            ]
        };
        Part {
            title: "At Pascanu's cliff",
            text: format!(
                "x_t = wσ(x_(t−1)) + b, x₀ = 0.5, 50 steps, E = (σ(x₅₀) − 0.7)². On {SIDE} × {SIDE} points the median of |∇E| is {} and \
                 its maximum {} at w = {}, b = {}; between the points the wall is steeper still. Both paths start at w = {}, b = {} \
                 and take {STEPS} steps at the rate {STEP_SIZE}, clipped at the norm {LIMIT}: at the wall descent is thrown by {} in one \
                 step, clipped descent by at most {}. The table also has a grid of {STARTS} × {STARTS} starts; thrown means a step longer \
                 than 1.",
                number(self.median_gradient),
                number(self.largest_gradient),
                fixed(self.at.0, 2),
                fixed(self.at.1, 3),
                number(START.0),
                number(START.1),
                number(self.descent.longest_step),
                number(self.clipped.longest_step),
            ),
            figures: vec![
                map("The error, and two paths on it", "error E", &self.errors).html(),
                map("The gradient's norm", "log₁₀ |∇E|", &self.logarithms).html(),
            ],
            table: (
                vec!["method", "longest step", "last error", "starts thrown", "median last error"],
                vec![
                    row("descent", &self.descent, &self.all_descent),
                    row("clipped", &self.clipped, &self.all_clipped),
                ],
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::study::clipping::tests::with_setting;

    #[test]
    fn the_wall_is_where_the_reference_has_it() {
        let cliff = with_setting(0, run);
        assert!((1600.0..1800.0).contains(&cliff.largest_gradient), "{}", cliff.largest_gradient);
        assert!((cliff.at.0 - 4.83).abs() < 0.005 && (cliff.at.1 + 2.507).abs() < 0.0005, "{:?}", cliff.at);
        assert!((cliff.median_gradient - 0.057).abs() < 0.0005, "{}", cliff.median_gradient);
        assert!(cliff.descent.longest_step > 5.0, "{}", cliff.descent.longest_step);
        assert!(cliff.clipped.longest_step <= STEP_SIZE * LIMIT * (1.0 + 1e-12));
        assert!(cliff.clipped.last_error < cliff.descent.last_error);
    }

    #[test]
    fn the_gradient_is_that_of_the_error() {
        for (w, b) in [(4.2, -1.9), (5.0, -2.9), (6.5, -1.6), (4.6, -2.2)] {
            let h = 1e-6;
            let slope = |dw: f64, db: f64| (look(w + dw, b + db).0 - look(w - dw, b - db).0) / (2.0 * h);
            let (_, gradient) = look(w, b);
            for (found, exact) in [(slope(h, 0.0), gradient[0]), (slope(0.0, h), gradient[1])] {
                assert!((found - exact).abs() < 1e-6 * (1.0 + exact.abs()), "{found} {exact} at {w}, {b}");
            }
        }
    }
}
