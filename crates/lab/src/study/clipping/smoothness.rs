//! (L0, L1)-smoothness: a function whose curvature grows with its gradient, by steps to a minimum.
//!
//! `f(x) = 2cosh x` has `|f″| <= L0 + L1|f′|` with L0 = 2 and L1 = 1, and no constant L. J. Zhang, T. He, S. Sra,
//! A. Jadbabaie, "Why gradient clipping accelerates training", ICLR 2020.

use ::clipping::ClipByGlobalNorm;
use burn::tensor::Device;
use serde::Serialize;

use crate::error::Result;
use crate::report::plot::{Line, Plot, number};
use crate::study::toolkit::OnHost;
use crate::study::{Part, Setting};
use crate::summary::grouped;

pub const UNITS: u64 = 1;

const L0: f64 = 2.0;
const L1: f64 = 1.0;
/// Where a run is done: `|f′|` at most.
const DONE: f64 = 1e-3;
/// Runs that take longer count as not arriving.
const LIMIT: u64 = 20_000;
/// The starts of the table.
const TABLE: [f64; 4] = [4.0, 6.0, 8.0, 10.0];

/// Steps from one start.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Start {
    /// Where both begin.
    pub start: f64,
    /// Steps of gradient descent with the best constant step.
    pub descent: u64,
    /// That step.
    pub step_size: f64,
    /// Steps of clipped gradient descent with the paper's constants.
    pub clipped: u64,
}

/// Steps from many starts.
#[derive(Clone, Debug, Serialize)]
pub struct Smoothness {
    /// In the order of the distance.
    pub starts: Vec<Start>,
    /// From this start on the clipped method needs fewer steps; `None` where it does not at the last.
    pub crossover: Option<f64>,
}

pub fn run(setting: &Setting<'_>) -> Result<Smoothness> {
    let starts = (4..=40).map(|quarter| f64::from(quarter) / 4.0).map(|start| measure(start, setting.device));
    let starts: Vec<Start> = starts.collect::<Result<_>>()?;
    let last_lost = starts.iter().rposition(|s| s.clipped >= s.descent);
    let crossover = starts.get(last_lost.map_or(0, |at| at + 1)).map(|s| s.start);
    setting.progress.unit()?;
    Ok(Smoothness { starts, crossover })
}

fn slope(x: f64) -> f64 {
    2.0 * x.sinh()
}

fn measure(start: f64, device: &Device) -> Result<Start> {
    // Steps of the powers of √2.
    let sizes = (0..40).map(|k| (-f64::from(k) / 2.0).exp2());
    let runs = sizes.map(|step_size| (descent(start, step_size), step_size));
    let (descent, step_size) = runs.min_by_key(|run| run.0).expect("forty of them");
    Ok(Start { start, descent, step_size, clipped: clipped(start, device)? })
}

/// Steps of gradient descent, [`LIMIT`] where it does not arrive.
fn descent(start: f64, step_size: f64) -> u64 {
    let mut x = start;
    for step in 0..LIMIT {
        let g = slope(x);
        if g.abs() <= DONE {
            return step;
        }
        x -= step_size * g;
        if !x.is_finite() {
            break;
        }
    }
    LIMIT
}

/// Steps with `h = min(η, γη/|f′|)`, `η = 1/(10·L0)`, `γ = min(1/η, 1/(10·η·L1))`: plain descent on the gradient clipped to γ.
fn clipped(start: f64, device: &Device) -> Result<u64> {
    let eta = 1.0 / (10.0 * L0);
    let gamma = f64::min(1.0 / eta, 1.0 / (10.0 * eta * L1));
    let mut rule = OnHost::new(ClipByGlobalNorm::new(gamma)?.exact(), device);
    let mut x = start;
    for step in 0..LIMIT {
        let g = slope(x);
        if g.abs() <= DONE {
            return Ok(step);
        }
        x -= eta * rule.apply(vec![g])?[0];
    }
    Ok(LIMIT)
}

impl Smoothness {
    /// The run from this start.
    pub fn at(&self, start: f64) -> Option<&Start> {
        self.starts.iter().find(|s| s.start == start)
    }

    /// The rows of the table.
    pub fn table(&self) -> Vec<&Start> {
        TABLE.iter().filter_map(|start| self.at(*start)).collect()
    }

    pub fn part(&self) -> Part {
        let steps = |of: fn(&Start) -> u64| self.starts.iter().map(|s| (s.start, of(s) as f64)).collect();
        let plot = Plot {
            title: "Steps to the minimum of 2cosh x",
            x_axis: "start x₀",
            x_range: (1.0, 10.0),
            y_axis: "steps until |f′| ≤ 0.001 (log scale)",
            logarithmic: true,
            lines: vec![
                Line::new("gradient descent, best constant step", "s2", steps(|s| s.descent)),
                Line::new("clipped, the paper's constants", "s1", steps(|s| s.clipped)),
            ],
        };
        let cells = |s: &&Start| {
            vec![
                number(s.start),
                grouped(s.descent as usize),
                number(s.step_size),
                grouped(s.clipped as usize),
                number(s.descent as f64 / s.clipped as f64),
            ]
        };
        let (near, far) = (self.starts[0], self.starts[self.starts.len() - 1]);
        let crossover = match self.crossover {
            Some(start) => format!("From x₀ = {} on the clipped method needs fewer steps.", number(start)),
            None => "The clipped method never needs fewer steps here.".into(),
        };
        Part {
            title: "Where curvature grows with the gradient",
            text: format!(
                "f = 2cosh x is (L0, L1)-smooth with L0 = 2, L1 = 1 (Zhang et al. 2020). Gradient descent has, for each start, the best \
                 of 40 constant steps (powers of √2); clipping has η = 1/(10·L0) and γ = min(1/η, 1/(10·η·L1)) for all of them, \
                 untuned. {crossover} From x₀ = {} to {} the steps of descent grow by a factor of {} for each unit of distance, those of \
                 the clipped method by {} steps. A constant step that by luck jumps near the minimum can do with fewer, which the powers of \
                 √2 mostly leave out.",
                number(near.start),
                number(far.start),
                number((far.descent as f64 / near.descent as f64).powf(1.0 / (far.start - near.start))),
                number((far.clipped as f64 - near.clipped as f64) / (far.start - near.start)),
            ),
            figures: vec![plot.html()],
            table: (
                vec!["start x₀", "descent, steps", "its best step", "clipped, steps", "ratio"],
                self.table().iter().map(cells).collect(),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_steps_are_those_of_the_reference() {
        let device = Device::flex();
        let rows: Vec<Start> = TABLE.iter().map(|start| measure(*start, &device).unwrap()).collect();
        assert_eq!(rows.iter().map(|s| s.descent).collect::<Vec<_>>(), [28, 182, 1051, 5993]);
        assert_eq!(rows.iter().map(|s| s.clipped).collect::<Vec<_>>(), [102, 122, 142, 162]);
    }

    #[test]
    fn a_step_that_is_too_long_does_not_arrive() {
        assert_eq!(descent(4.0, 1.0), LIMIT);
        assert_eq!(descent(0.0, 1.0), 0);
    }
}
