//! Two losses of two numbers, with valleys that hold a weighted sum back and a front that is known.
//!
//! The landscape of B. Liu et al., "Conflict-averse gradient descent for multi-task learning", NeurIPS 2021, with the first loss times
//! 0.1 as in A. Navon et al., "Multi-task learning as a bargaining game", ICML 2022. Everything is `f64` on the host.

use ::multitask::solvers::Matrix;
use ::multitask::{AlignedMtl, CaGrad, Error as MethodError, Gramian, GramianAggregator};
use ::multitask::{ImtlG, Mean, Mgda, NashMtl, PcGrad, UpGrad};
use serde::Serialize;

use crate::error::Result;
use crate::report::plot::{Line, Plot, fixed, number};
use crate::report::surface::Surface;
use crate::study::toolkit::{largest, median, parallel};
use crate::study::{Part, Setting};
use crate::summary::grouped;

type Point = [f64; 2];

/// What the first loss is multiplied by.
const SCALE: f64 = 0.1;
const STARTS: [Point; 5] = [[-8.5, 7.5], [0.0, 0.0], [9.0, 9.0], [-7.5, -0.5], [9.0, -1.0]];
const STEPS: usize = 35_000;
const RATE: f64 = 1e-3;
/// The front reaches from −7 to 7 in the first number.
const END: f64 = 7.0;
/// Who is this near to the front has arrived.
const NEAR: f64 = 0.1;
/// A path is drawn by points this far from each other.
const STRIDE: f64 = 0.1;
/// Half the side of the map.
const REACH: f64 = 10.0;
const COLUMNS: usize = 161;
/// Bands of equal colour; their edges are the contours.
const BANDS: f64 = 16.0;

/// A name, the class of its colour, and how it is made; the seed is for methods that draw.
type Case = (&'static str, &'static str, fn(u64) -> Result<Box<dyn GramianAggregator>>);

const CASES: [Case; 8] = [
    ("mean of losses", "r7", |_| Ok(Box::new(Mean::new()))),
    ("PCGrad", "s1", |seed| Ok(Box::new(PcGrad::new(seed)))),
    ("CAGrad, c = 0.4", "s2", |_| Ok(Box::new(CaGrad::new(0.4)?))),
    ("MGDA", "s3", |_| Ok(Box::new(Mgda::new()))),
    ("IMTL-G", "s4", |_| Ok(Box::new(ImtlG::new()))),
    ("Nash-MTL", "s5", |_| Ok(Box::new(NashMtl::new()))),
    ("Aligned-MTL", "s6", |_| Ok(Box::new(AlignedMtl::new()))),
    ("UPGrad", "s7", |_| Ok(Box::new(UpGrad::new()))),
];

pub const UNITS: u64 = (CASES.len() * STARTS.len()) as u64;

/// A run from one start.
#[derive(Clone, Debug, Serialize)]
pub struct Path {
    pub start: Point,
    pub end: Point,
    /// The losses at the end.
    pub losses: Point,
    /// How far the end is from the front.
    pub distance: f64,
    /// Steps until it was near the front for the first time.
    pub steps: Option<usize>,
    /// Steps taken before the method had no weights, if it came to that.
    pub stopped: Option<usize>,
    #[serde(skip)]
    points: Vec<Point>,
}

/// A method from all starts.
#[derive(Clone, Debug, Serialize)]
pub struct Method {
    pub name: String,
    pub paths: Vec<Path>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Landscape {
    /// The mean of the losses first.
    pub methods: Vec<Method>,
}

pub fn run(setting: &Setting<'_>) -> Result<Landscape> {
    let jobs: Vec<(usize, usize)> =
        (0..CASES.len()).flat_map(|case| (0..STARTS.len()).map(move |start| (case, start))).collect();
    let paths = parallel(&jobs, |&(case, start)| {
        let (name, _, make) = CASES[case];
        let seed = setting.random.fork(format!("landscape {name} {start}")).next_u64();
        let path = descend(&mut *make(seed)?, STARTS[start], STEPS)?;
        setting.progress.unit()?;
        Ok(path)
    })?;
    let methods = CASES.iter().zip(paths.chunks(STARTS.len()));
    Ok(Landscape {
        methods: methods.map(|(case, paths)| Method { name: case.0.into(), paths: paths.into() }).collect(),
    })
}

/// Both losses with their gradients.
fn losses([x, y]: Point) -> [(f64, Point); 2] {
    let upper = ((0.5 * y).tanh().max(0.0), if y >= 0.0 { 0.5 / (0.5 * y).cosh().powi(2) } else { 0.0 });
    let lower = ((-0.5 * y).tanh().max(0.0), if y <= 0.0 { -0.5 / (0.5 * y).cosh().powi(2) } else { 0.0 });
    let slope = 1.0 / y.cosh().powi(2);
    // The argument of the logarithm's absolute value with its derivatives, and the centre of the bowl.
    let of = |(inner, dx, dy): (f64, f64, f64), centre: f64| {
        let (valley, along) = match inner.abs() >= 5e-6 {
            true => (inner.abs().ln() + 6.0, [dx / inner, dy / inner]),
            false => (5e-6f64.ln() + 6.0, [0.0, 0.0]),
        };
        let bowl = ((x - centre).powi(2) + 0.1 * (y + 8.0).powi(2)) / 10.0 - 20.0;
        let value = valley * upper.0 + bowl * lower.0;
        let by_x = along[0] * upper.0 + (x - centre) / 5.0 * lower.0;
        let by_y = along[1] * upper.0 + valley * upper.1 + (y + 8.0) / 50.0 * lower.0 + bowl * lower.1;
        (value, [by_x, by_y])
    };
    let (first, gradient) = of((0.5 * (-x - 7.0) + y.tanh(), -0.5, slope), END);
    let second = of((0.5 * (-x + 3.0) - y.tanh() + 2.0, -0.5, -slope), -END);
    [(SCALE * first, gradient.map(|g| SCALE * g)), second]
}

/// The second number of the front where the first is `x`.
fn front(x: f64) -> f64 {
    // The weight that makes x stationary leaves a bowl of this depth.
    let depth = (END * END - x * x) / 10.0 - 20.0;
    let slope = |y: f64| {
        let bowl = depth + (y + 8.0).powi(2) / 100.0;
        (-0.5 * y).tanh() * (y + 8.0) / 50.0 - 0.5 / (0.5 * y).cosh().powi(2) * bowl
    };
    let (mut low, mut high) = (-12.0, -6.0);
    for _ in 0..60 {
        let middle = 0.5 * (low + high);
        if slope(middle) < 0.0 { low = middle } else { high = middle }
    }
    0.5 * (low + high)
}

fn distance([x, y]: Point) -> f64 {
    let nearest = x.clamp(-END, END);
    (x - nearest).hypot(y - front(nearest))
}

/// Adam along what a method makes of the two gradients. A method without an answer stays where it is.
fn descend(method: &mut dyn GramianAggregator, start: Point, steps: usize) -> Result<Path> {
    let (mut x, mut moments, mut squares) = (start, [0.0; 2], [0.0; 2]);
    let mut points = vec![start];
    let (mut arrived, mut stopped) = (None, None);
    for step in 1..=steps {
        let [(_, a), (_, b)] = losses(x);
        let dot = |x: Point, y: Point| x[0] * y[0] + x[1] * y[1];
        let products = Matrix::symmetric(2, |i, j| dot([a, b][i], [a, b][j]));
        let weights = match method.weights_of(&Gramian::from_products(&products)?) {
            Ok(weights) => weights,
            Err(MethodError::NoWeights { .. }) => {
                stopped = Some(step - 1);
                break;
            }
            Err(error) => return Err(error.into()),
        };
        for i in 0..2 {
            let gradient = weights[0] * a[i] + weights[1] * b[i];
            moments[i] = 0.9 * moments[i] + 0.1 * gradient;
            squares[i] = 0.999 * squares[i] + 0.001 * gradient * gradient;
            let (mean, square) =
                (moments[i] / (1.0 - 0.9f64.powi(step as i32)), squares[i] / (1.0 - 0.999f64.powi(step as i32)));
            x[i] -= RATE * mean / (square.sqrt() + 1e-8);
        }
        let last = points[points.len() - 1];
        if (x[0] - last[0]).hypot(x[1] - last[1]) >= STRIDE {
            points.push(x);
        }
        if arrived.is_none() && distance(x) <= NEAR {
            arrived = Some(step);
        }
    }
    points.push(x);
    let losses = losses(x).map(|loss| loss.0);
    Ok(Path { start, end: x, losses, distance: distance(x), steps: arrived, stopped, points })
}

impl Method {
    /// Starts from which it ends at the front.
    pub fn arrivals(&self) -> usize {
        self.paths.iter().filter(|path| path.distance <= NEAR).count()
    }

    /// The starts from which it does not.
    pub fn stuck(&self) -> Vec<&Path> {
        self.paths.iter().filter(|path| !(path.distance <= NEAR)).collect()
    }

    /// How much of the front's first number its ends span, where they are at the front.
    fn span(&self) -> Option<(f64, f64)> {
        let ends = self.paths.iter().filter(|path| path.distance <= NEAR).map(|path| path.end[0]);
        ends.fold(None, |span, x| match span {
            None => Some((x, x)),
            Some((low, high)) => Some((f64::min(low, x), f64::max(high, x))),
        })
    }
}

pub fn place([x, y]: Point) -> String {
    format!("({}, {})", number(x), number(y))
}

impl Landscape {
    pub fn starts(&self) -> usize {
        STARTS.len()
    }

    /// The mean of the losses.
    pub fn mean(&self) -> &Method {
        &self.methods[0]
    }

    /// The methods that reach the front from every start.
    pub fn reliable(&self) -> Vec<&Method> {
        self.methods.iter().filter(|method| method.arrivals() == STARTS.len()).collect()
    }

    pub fn part(&self) -> Part {
        let at = |i: usize| -REACH + 2.0 * REACH * i as f64 / (COLUMNS - 1) as f64;
        let grid = (0..COLUMNS).flat_map(|row| (0..COLUMNS).map(move |column| [at(column), at(row)]));
        let values: Vec<f64> = grid.map(|x| losses(x).iter().map(|loss| 0.5 * loss.0).sum()).collect();
        let (low, high) = values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), x| (a.min(*x), b.max(*x)));
        let band = (high - low) / BANDS;
        let values: Vec<f64> = values.iter().map(|x| low + ((x - low) / band).round() * band).collect();
        let curve: Vec<Point> = (0..=70).map(|i| f64::from(i) / 5.0 - END).map(|x| [x, front(x)]).collect();
        let pair = |[x, y]: Point| (x, y);
        let map = |method: &Method| {
            let mut lines = vec![Line::new("Pareto front", "on-red", curve.iter().copied().map(pair).collect())];
            for (index, path) in method.paths.iter().enumerate() {
                let name = if index == 0 { "paths" } else { "" };
                lines.push(Line::new(name, "on-white", path.points.iter().copied().map(pair).collect()));
            }
            let marks = |name: &str, class: &str, of: fn(&Path) -> Point| {
                Line::marks(name, class, method.paths.iter().map(of).map(pair).collect())
            };
            lines.push(marks("starts", "on-black", |path| path.start));
            lines.push(marks("ends", "on-red", |path| path.end));
            let surface = Surface {
                title: &method.name,
                x: ("x₁", -REACH, REACH),
                y: ("x₂", -REACH, REACH),
                value: "mean of both losses",
                columns: COLUMNS,
                values: &values,
                lines,
            };
            surface.html()
        };
        let values_of = |x: Point| pair(losses(x).map(|loss| loss.0));
        let mut lines = vec![Line::new("Pareto front", "quiet", curve.iter().copied().map(values_of).collect())];
        lines[0].points.dedup();
        for (method, (_, class, _)) in self.methods.iter().zip(CASES) {
            let ends = method.paths.iter().filter(|path| path.distance <= 1.0).map(|path| pair(path.losses));
            lines.push(Line::marks(&method.name, class, ends.collect()));
        }
        let ends = Plot {
            title: "Where the paths end, in losses",
            x_axis: "first loss",
            x_range: (-2.0, 0.0),
            y_axis: "second loss",
            logarithmic: false,
            lines,
        };
        let mut figures: Vec<String> = self.methods.iter().map(map).collect();
        figures.push(ends.html());
        let rows = self.methods.iter().map(|method| {
            let steps = method.paths.iter().filter_map(|path| path.steps).map(|steps| steps as f64);
            let steps = median(steps);
            let stuck: Vec<String> = method.stuck().iter().map(|path| place(path.start)).collect();
            vec![
                method.name.clone(),
                format!("{} of {}", method.arrivals(), STARTS.len()),
                if steps.is_finite() { grouped(steps as usize) } else { "–".into() },
                number(largest(method.paths.iter().map(|path| path.distance))),
                method.span().map_or("–".into(), |(low, high)| format!("{} to {}", fixed(low, 2), fixed(high, 2))),
                if stuck.is_empty() { "none".into() } else { stuck.join(", ") },
            ]
        });
        Part {
            title: "Two losses with valleys",
            text: format!(
                "The landscape of Liu et al. (2021), first loss times {}, from five starts by Adam at {} over {} steps. The front is the curve from \
                 (−{END}, {}) over (0, {}) to ({END}, {}); who ends within {NEAR} of it has arrived. Bands of colour are contours of the mean. All methods see \
                 the same gradients; none was tuned.",
                number(SCALE),
                number(RATE),
                grouped(STEPS),
                fixed(front(-END), 2),
                fixed(front(0.0), 2),
                fixed(front(END), 2),
            ),
            figures,
            table: (
                vec![
                    "method",
                    "at the front",
                    "steps to it, median",
                    "largest distance",
                    "ends at x₁",
                    "not there from",
                ],
                rows.collect(),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gradients_are_those_of_the_losses() {
        let h = 1e-6;
        for x in [[-8.5, 7.5], [0.3, 0.4], [9.0, 9.0], [-7.5, -0.5], [2.0, -8.3], [0.0, 2.0]] {
            for (task, (_, gradient)) in losses(x).into_iter().enumerate() {
                for i in 0..2 {
                    let [mut up, mut down] = [x, x];
                    up[i] += h;
                    down[i] -= h;
                    let slope = (losses(up)[task].0 - losses(down)[task].0) / (2.0 * h);
                    assert!(
                        (slope - gradient[i]).abs() < 1e-6 * (1.0 + slope.abs()),
                        "{x:?} {task} {i}: {slope} {gradient:?}"
                    );
                }
            }
        }
        // By hand: at (0, −8) both bowls are 4.9 − 20, times tanh 4.
        let [(first, _), (second, _)] = losses([0.0, -8.0]);
        assert!((second + 15.1 * 4f64.tanh()).abs() < 1e-12 && (first - 0.1 * second).abs() < 1e-12);
    }

    #[test]
    fn the_front_is_stationary() {
        assert!((front(0.0) + 8.3552).abs() < 1e-3, "{}", front(0.0));
        for x in [-6.0, -2.5, 0.0, 5.0] {
            let [(_, a), (_, b)] = losses([x, front(x)]);
            let share = (x + END) / (2.0 * END);
            let (first, second) = (share / SCALE, 1.0 - share);
            let rest = [0, 1].map(|i| first * a[i] + second * b[i]);
            assert!(rest.iter().all(|r| r.abs() < 1e-9), "{x}: {rest:?}");
            assert_eq!(distance([x, front(x)]), 0.0);
        }
        assert!((distance([10.0, front(7.0)]) - 3.0).abs() < 1e-12);
    }

    #[test]
    fn the_mean_is_stuck_where_bargaining_is_not() {
        let mean = descend(&mut Mean::new(), [9.0, 9.0], STEPS).unwrap();
        let nash = descend(&mut NashMtl::new(), [9.0, 9.0], STEPS).unwrap();
        assert!(mean.distance > 1.0 && mean.steps.is_none(), "{mean:?}");
        assert!(nash.distance < NEAR && nash.steps.is_some(), "{nash:?}");
    }
}
