//! Error feedback: top-1 on three workers, without and with.
//!
//! A. Beznosikov et al., "On biased compression for distributed learning", 2020, arXiv:2002.12410, example 1.

use burn::tensor::{DType, Device, Tensor, TensorData};
use core_tensor::{Context, GradientTransform, Tree, Update};
use mixed_precision::{Compress, Ef21, ErrorFeedback, Keep, TopK, Workers};
use serde::Serialize;

use crate::error::Result;
use crate::report::plot::{Line, Plot, number, significant};
use crate::study::{Part, Setting};
use crate::summary::grouped;

const A: [[f64; 3]; 3] = [[-3.0, 2.0, 2.0], [2.0, -3.0, 2.0], [2.0, 2.0, -3.0]];
const RATE: f64 = 0.01;
const STEPS: u64 = 2000;

pub const UNITS: u64 = 4;

#[derive(Clone, Debug, Serialize)]
pub struct Path {
    pub name: String,
    /// ‖x‖/‖x₀‖ before the first step and after each.
    pub distances: Vec<f64>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Feedback {
    /// Whole gradients, top-1, with EF14, with EF21.
    pub paths: Vec<Path>,
    /// The largest relative difference of top-1 from (1 + 11γ/6)^k.
    pub off: f64,
}

pub fn run(setting: &Setting<'_>) -> Result<Feedback> {
    let top = TopK::new(Keep::Count(1))?;
    let paths = vec![
        descend("whole gradients", Workers::new(3, |_| core_tensor::transform::Identity)?, setting)?,
        descend("top-1", Workers::new(3, |_| Compress::new(top))?, setting)?,
        descend("top-1, EF14", Workers::new(3, |_| ErrorFeedback::new(top))?, setting)?,
        descend("top-1, EF21", Workers::new(3, |_| Ef21::new(top))?, setting)?,
    ];
    let growth = |k: usize| (1.0 + 11.0 * RATE / 6.0).powi(k as i32);
    let off = paths[1].distances.iter().enumerate().map(|(k, d)| (d / growth(k) - 1.0).abs()).fold(0.0, f64::max);
    Ok(Feedback { paths, off })
}

fn descend<T: GradientTransform>(name: &str, mut workers: Workers<T>, setting: &Setting<'_>) -> Result<Path> {
    let device = Device::flex();
    let mut x = [1.0; 3];
    let size = |x: &[f64; 3]| (x.iter().map(|x| x * x).sum::<f64>() / 3.0).sqrt();
    let mut distances = vec![size(&x)];
    for step in 0..STEPS {
        let gradient = |a: &[f64; 3]| {
            let along: f64 = a.iter().zip(x).map(|(a, x)| a * x).sum();
            let g: [f64; 3] = std::array::from_fn(|i| 2.0 * along * a[i] + 0.5 * x[i]);
            Tree::empty().push("x", Tensor::<1>::from_data(TensorData::from(g), (&device, DType::F64)))
        };
        let gradients = A.iter().map(gradient).collect::<core_tensor::Result<Vec<_>>>()?;
        if let Update::Apply(mean) = workers.mean(gradients, &Context::new(step))? {
            let g = mean.get::<1>("x")?.into_data();
            x.iter_mut().zip(g.iter::<f64>()).for_each(|(x, g)| *x -= RATE * g);
        }
        distances.push(size(&x));
    }
    setting.progress.unit()?;
    Ok(Path { name: name.into(), distances })
}

impl Path {
    pub fn last(&self) -> f64 {
        self.distances[STEPS as usize]
    }
}

impl Feedback {
    pub fn part(&self) -> Part {
        let classes = ["quiet dashed", "s2", "s1", "s3"];
        let line = |(path, class): (&Path, &str)| {
            let points = path.distances.iter().enumerate().step_by(10).map(|(k, d)| (k as f64, *d));
            // The growth would be all there is to see.
            Line::new(&path.name, class, points.filter(|p| (1e-12..1e4).contains(&p.1)).collect())
        };
        let plot = Plot {
            title: "Three workers, top-1 of each",
            x_axis: "step",
            x_range: (0.0, STEPS as f64),
            y_axis: "‖x‖/‖x₀‖ (log scale)",
            logarithmic: true,
            lines: self.paths.iter().zip(classes).map(line).collect(),
        };
        let [whole, top, ef14, ef21] = [0, 1, 2, 3].map(|i| self.paths[i].last());
        let cured = match ef14 < 1e-3 && ef21 < 1e-3 {
            true => "With the residual of each worker it converges",
            false => "With the residuals it ends",
        };
        Part {
            title: "Biased Q: error feedback",
            text: format!(
                "f = ⅓·Σ(⟨aᵢ, x⟩² + ¼‖x‖²) with a = (−3, 2, 2), (2, −3, 2), (2, 2, −3), from (1, 1, 1) at the rate {RATE}, {} steps. Each worker's largest \
                 element points away from the minimum: top-1 grows as (1 + 11γ/6)^k, to within {:.0e}, and stands at {} of the start. {cured}: {} (EF14) and {} \
                 (EF21), with whole gradients {}.",
                grouped(STEPS as usize),
                self.off,
                number(top),
                number(ef14),
                number(ef21),
                number(whole),
            ),
            figures: vec![plot.html()],
            table: (
                vec!["method", "‖x‖/‖x₀‖ at the end"],
                self.paths.iter().map(|path| vec![path.name.clone(), significant(path.last())]).collect(),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::study::clipping::tests::with_setting;

    #[test]
    fn top_one_follows_the_closed_form_and_feedback_converges() {
        let found = with_setting(1, run);
        assert!(found.off < 1e-10, "{}", found.off);
        assert!(found.paths[2].last() < 1e-3 && found.paths[3].last() < 1e-3, "{:?}", found.paths[2].last());
    }
}
