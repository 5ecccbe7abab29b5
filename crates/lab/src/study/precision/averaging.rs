//! Averaging: SWALP on linear regression with 8-bit weights.

use burn::tensor::{DType, Device, Tensor, TensorData};
use core_tensor::transform::Identity;
use core_tensor::{Random, Tree};
use mixed_precision::{Compressor, FixedPoint, Rounding, Swalp};
use serde::Serialize;

use crate::error::Result;
use crate::report::plot::{Line, Plot, number, significant};
use crate::study::toolkit::parallel;
use crate::study::{Part, Setting};
use crate::summary::grouped;

const D: usize = 64;
const EXAMPLES: usize = 1024;
const RATE: f64 = 0.05;
const STEPS: u64 = 60_000;
const WARM_UP: u64 = 20_000;
/// Steps between points of the curves.
const EVERY: u64 = 500;

/// Weights as they are, to nearest, at random.
const CASES: [&str; 3] = ["f64", "nearest", "stochastic"];

pub const UNITS: u64 = CASES.len() as u64;

#[derive(Clone, Debug, Serialize)]
pub struct Weights {
    pub name: String,
    /// ‖w − w*‖² of the last weights and of their average.
    pub last: f64,
    pub average: f64,
    /// Both every 500 steps; of the average once there is one.
    pub curve: Vec<(f64, Option<f64>)>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Averaging {
    /// In the order f64, nearest, stochastic.
    pub weights: Vec<Weights>,
}

/// Linear regression with its solution.
struct Problem {
    inputs: Vec<f64>,
    targets: Vec<f64>,
    solution: Vec<f64>,
}

fn dot(x: &[f64], w: &[f64]) -> f64 {
    x.iter().zip(w).map(|(x, w)| x * w).sum()
}

impl Problem {
    fn new(random: &Random) -> Self {
        let draw = |label: &str, count: usize, deviation: f64| -> Vec<f64> {
            let mut random = random.fork(label);
            random.normal::<1>([count], 0.0, deviation, &Device::flex()).into_data().iter::<f64>().collect()
        };
        let (inputs, truth, noise) =
            (draw("inputs", EXAMPLES * D, 0.25), draw("truth", D, 0.5), draw("noise", EXAMPLES, 0.1));
        let targets: Vec<f64> = inputs.chunks(D).zip(&noise).map(|(x, noise)| dot(x, &truth) + noise).collect();
        // By descent on all examples: curvatures lie within 0.03 and 0.1.
        let mut solution = vec![0.0; D];
        for _ in 0..600 {
            let mut gradient = vec![0.0; D];
            for (x, target) in inputs.chunks(D).zip(&targets) {
                let error = (dot(x, &solution) - target) / EXAMPLES as f64;
                gradient.iter_mut().zip(x).for_each(|(g, x)| *g += error * x);
            }
            solution.iter_mut().zip(&gradient).for_each(|(w, g)| *w -= 10.0 * g);
        }
        Self { inputs, targets, solution }
    }

    fn distance(&self, w: &[f64]) -> f64 {
        w.iter().zip(&self.solution).map(|(w, c)| (w - c).powi(2)).sum()
    }
}

pub fn run(setting: &Setting<'_>) -> Result<Averaging> {
    let random = setting.random.fork("averaging");
    let problem = Problem::new(&random);
    let weights = parallel(&CASES, |&name| {
        let fixed = FixedPoint::new(8, 6)?;
        let quantizer: Box<dyn Compressor> = match name {
            "nearest" => Box::new(fixed),
            "stochastic" => Box::new(fixed.rounding(Rounding::Stochastic(random.clone().next_u64()))),
            _ => Box::new(Identity),
        };
        let weights = descend(name, &problem, quantizer, random.fork("examples"))?;
        setting.progress.unit()?;
        Ok(weights)
    })?;
    Ok(Averaging { weights })
}

fn descend(name: &str, problem: &Problem, quantizer: Box<dyn Compressor>, mut order: Random) -> Result<Weights> {
    let device = Device::flex();
    let tree = |w: &[f64]| {
        Tree::empty().push("w", Tensor::<1>::from_data(TensorData::new(w.to_vec(), [D]), (&device, DType::F64)))
    };
    let values = |tree: &Tree| -> Result<Vec<f64>> { Ok(tree.get::<1>("w")?.into_data().iter::<f64>().collect()) };
    let mut swalp = Swalp::new(quantizer, WARM_UP, 1)?;
    let mut w = vec![0.0; D];
    let mut curve = vec![(problem.distance(&w), None)];
    for step in 1..=STEPS {
        let i = order.below(EXAMPLES as u64) as usize;
        let x = &problem.inputs[i * D..(i + 1) * D];
        let error = dot(x, &w) - problem.targets[i];
        w.iter_mut().zip(x).for_each(|(w, x)| *w -= RATE * error * x);
        w = values(&swalp.step(tree(&w)?)?)?;
        if step % EVERY == 0 {
            let average =
                swalp.average().map(|average| Ok::<_, crate::error::Error>(problem.distance(&values(average)?)));
            curve.push((problem.distance(&w), average.transpose()?));
        }
    }
    let average = curve.last().and_then(|point| point.1).unwrap_or(f64::NAN);
    Ok(Weights { name: name.into(), last: problem.distance(&w), average, curve })
}

impl Averaging {
    pub fn part(&self) -> Part {
        let points = |weights: &Weights, of: fn(&(f64, Option<f64>)) -> Option<f64>| -> Vec<(f64, f64)> {
            let at = weights.curve.iter().enumerate();
            at.map(|(i, point)| ((i as u64 * EVERY) as f64, of(point).unwrap_or(f64::NAN))).collect()
        };
        let classes = ["quiet", "s2", "s1"];
        let lines = self.weights.iter().zip(classes).flat_map(|(weights, class)| {
            let last = Line {
                opacity: 0.45,
                ..Line::new(&format!("{}, weights", weights.name), class, points(weights, |p| Some(p.0)))
            };
            [last, Line::new(&format!("{}, average", weights.name), class, points(weights, |p| p.1))]
        });
        let plot = Plot {
            title: "8-bit weights and their average",
            x_axis: "step",
            x_range: (0.0, STEPS as f64),
            y_axis: "‖w − w*‖² (log scale)",
            logarithmic: true,
            lines: lines.collect(),
        };
        let cells = |w: &Weights| {
            vec![w.name.clone(), significant(w.last), significant(w.average), significant(w.last / w.average)]
        };
        let [exact, nearest, stochastic] = [0, 1, 2].map(|i| &self.weights[i]);
        Part {
            title: "Noise that averages out: SWALP",
            text: format!(
                "Linear regression of {D} weights on {EXAMPLES} examples, one a step, rate {RATE}; fixed-point weights of 8 bits, 6 of them after the point; {} \
                 steps, averaged after {}. Squared distance from the solution, last weights and average: to nearest {} and {}, at random {} and {}, \
                 f64 {} and {}.",
                grouped(STEPS as usize),
                grouped(WARM_UP as usize),
                number(nearest.last),
                number(nearest.average),
                number(stochastic.last),
                number(stochastic.average),
                number(exact.last),
                number(exact.average),
            ),
            figures: vec![plot.html()],
            table: (vec!["weights", "last", "average", "last over average"], self.weights.iter().map(cells).collect()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_solution_is_one() {
        let problem = Problem::new(&Random::new(2));
        let residuals = problem.inputs.chunks(D).zip(&problem.targets).map(|(x, y)| dot(x, &problem.solution) - y);
        let residuals: Vec<f64> = residuals.collect();
        for i in 0..D {
            let slope: f64 = problem.inputs.chunks(D).zip(&residuals).map(|(x, r)| x[i] * r).sum();
            assert!(slope.abs() < 1e-6, "{i}: {slope}");
        }
    }
}
