//! Moments: what the noise of an unbiased Q does to the averages of momentum and Adam.
//!
//! A constant gradient `g` under rand-k, whose every element has the variance `ω·g²`. Momentum's average has `ω(1 − β)/(1 + β)` of it left; Adam's second
//! moment is `(1 + ω)·g²`, so that its step is `1/√(1 + ω)` of the one without noise.

use burn::tensor::{DType, Device, Tensor, TensorData};
use core_tensor::Tree;
use mixed_precision::{Compressor, Keep, RandK};
use serde::Serialize;

use crate::error::Result;
use crate::report::plot::{Line, Plot, number, significant};
use crate::study::toolkit::parallel;
use crate::study::{Part, Setting};
use crate::summary::grouped;

const D: usize = 100;
/// Elements kept of those.
const KEPT: [usize; 6] = [100, 50, 25, 10, 5, 2];
const BETA: f64 = 0.9;
const BETA2: f64 = 0.999;
/// Steps before the first that is measured, and to the last.
const SETTLING: u64 = 6_000;
const STEPS: u64 = 16_000;

pub const UNITS: u64 = KEPT.len() as u64;

#[derive(Clone, Debug, Serialize)]
pub struct Case {
    pub omega: f64,
    /// E‖m − g‖²/‖g‖² of momentum's average, measured and by the formula.
    pub noise: f64,
    pub noise_formula: f64,
    /// The mean length of an element's step under Adam in the direction of the gradient, 1 without noise, and by the formula.
    pub step: f64,
    pub step_formula: f64,
}

#[derive(Clone, Debug, Serialize)]
pub struct Moments {
    pub cases: Vec<Case>,
}

pub fn run(setting: &Setting<'_>) -> Result<Moments> {
    let device = Device::flex();
    let mut random = setting.random.fork("moments");
    let g: Vec<f64> = random.normal::<1>([D], 0.0, 1.0, &device).into_data().iter::<f64>().collect();
    let seed = random.next_u64();
    let tree =
        Tree::empty().push("g", Tensor::<1>::from_data(TensorData::new(g.clone(), [D]), (&device, DType::F64)))?;
    let cases = parallel(&KEPT, |&kept| {
        let q = RandK::new(Keep::Count(kept), seed)?;
        let (mut first, mut second) = (vec![0.0; D], vec![0.0; D]);
        let (mut noise, mut step) = (0.0, 0.0);
        let size: f64 = g.iter().map(|g| g * g).sum();
        for t in 0..STEPS {
            let sent = q.compress(t, tree.clone())?.get::<1>("g")?.into_data();
            for ((m, v), x) in first.iter_mut().zip(&mut second).zip(sent.iter::<f64>()) {
                *m += (1.0 - BETA) * (x - *m);
                *v += (1.0 - BETA2) * (x * x - *v);
            }
            if t >= SETTLING {
                let count = (STEPS - SETTLING) as f64;
                noise += first.iter().zip(&g).map(|(m, g)| (m - g).powi(2)).sum::<f64>() / size / count;
                let along = first.iter().zip(&second).zip(&g).map(|((m, v), g)| g.signum() * m / v.sqrt());
                step += along.sum::<f64>() / D as f64 / count;
            }
        }
        let omega = q.omega(D).unwrap_or(f64::NAN);
        setting.progress.unit()?;
        let (noise_formula, step_formula) = (omega * (1.0 - BETA) / (1.0 + BETA), 1.0 / (1.0 + omega).sqrt());
        Ok(Case { omega, noise, noise_formula, step, step_formula })
    })?;
    Ok(Moments { cases })
}

impl Moments {
    /// The largest relative difference of a step under Adam from the formula, and of momentum's noise.
    pub fn worst(&self) -> (f64, f64) {
        let off =
            |measured: f64, formula: f64| if formula == 0.0 { measured } else { (measured / formula - 1.0).abs() };
        let largest = |of: &dyn Fn(&Case) -> f64| self.cases.iter().map(of).fold(0.0, f64::max);
        (largest(&|c| off(c.step, c.step_formula)), largest(&|c| off(c.noise, c.noise_formula)))
    }

    pub fn part(&self) -> Part {
        let points = |of: fn(&Case) -> f64| self.cases.iter().map(|case| (1.0 + case.omega, of(case))).collect();
        let end = self.cases.iter().map(|case| 1.0 + case.omega).fold(1.0, f64::max);
        let curve = |of: fn(f64) -> f64| {
            (0..=100).map(|i| 1.0 + (end - 1.0) * f64::from(i) / 100.0).map(|x| (x, of(x))).collect()
        };
        let figure = |title, y_axis, formula: Line, measured: Line| {
            let plot = Plot {
                title,
                x_axis: "1 + ω",
                x_range: (0.0, end),
                y_axis,
                logarithmic: false,
                lines: vec![formula, measured],
            };
            plot.html()
        };
        let cells = |case: &Case| {
            vec![
                number(case.omega),
                significant(case.noise),
                significant(case.noise_formula),
                significant(case.step),
                significant(case.step_formula),
            ]
        };
        let (step, noise) = self.worst();
        Part {
            title: "What noise does to the moments",
            text: format!(
                "A constant gradient of {D} elements under rand-k, {} steps after {} to settle. Momentum (β = {BETA}) averages the noise: ω(1 − β)/(1 + β) of it \
                 stays, measured to within {:.0} %. Adam (β₂ = {BETA2}) also takes it for curvature: its second moment is (1 + ω)g², and its step is 1/√(1 + ω) of \
                 the one without noise, measured to within {:.0} %. So 1 + ω times the steps of SGD become √(1 + ω) times those of Adam at the same rate, as long as \
                 steps and not noise decide.",
                grouped((STEPS - SETTLING) as usize),
                grouped(SETTLING as usize),
                100.0 * noise,
                100.0 * step,
            ),
            figures: vec![
                figure(
                    "Noise left in momentum's average",
                    "E‖m − g‖²/‖g‖²",
                    Line::new("ω(1 − β)/(1 + β)", "quiet dashed", curve(|x| (x - 1.0) * (1.0 - BETA) / (1.0 + BETA))),
                    Line::marks("measured", "s1", points(|case| case.noise)),
                ),
                figure(
                    "Length of Adam's step",
                    "step over the one without noise",
                    Line::new("1/√(1 + ω)", "quiet dashed", curve(|x| 1.0 / x.sqrt())),
                    Line::marks("measured", "s1", points(|case| case.step)),
                ),
            ],
            table: (
                vec!["ω", "momentum's noise", "formula", "Adam's step", "formula"],
                self.cases.iter().map(cells).collect(),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::study::clipping::tests::with_setting;

    #[test]
    fn moments_follow_the_formulas() {
        let found = with_setting(2, run);
        let (step, noise) = found.worst();
        assert!(step < 0.1 && noise < 0.15, "{found:?}");
        assert!(found.cases[0].noise < 1e-12 && (found.cases[0].step - 1.0).abs() < 0.01, "{:?}", found.cases[0]);
    }
}
