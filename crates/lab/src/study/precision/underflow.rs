//! Underflow: gradients in f16 of a loss that is too small, and loss scales.

use burn::tensor::{Device, Tensor, TensorData};
use core_tensor::{Random, Tree};
use mixed_precision::{Format, LossScale, Overflow, Rounding, Step};
use serde::Serialize;

use crate::error::Result;
use crate::report::plot::{Line, Plot, number, significant};
use crate::study::toolkit::parallel;
use crate::study::{Part, Setting};

const EXAMPLES: usize = 512;
const D: usize = 16;
const STEPS: usize = 200;
/// What the loss is multiplied by: a loss of this size is what the scale is for.
const SHRINK: f64 = 1.0 / 65536.0;
/// The rate for the loss as it would be without that.
const RATE: f64 = 4.0;

pub const UNITS: u64 = 4;

#[derive(Clone, Debug, Serialize)]
pub struct Scaled {
    pub name: String,
    /// The mean cross-entropy (without the factor) before the first step and after each.
    pub losses: Vec<f64>,
    /// The share of gradient elements that were exactly 0.
    pub zeros: f64,
    /// Steps skipped because of overflow.
    pub skipped: u64,
    /// The scale at the end.
    pub last_scale: f64,
}

#[derive(Clone, Debug, Serialize)]
pub struct Underflow {
    /// Scales 1, 2⁸, 2¹⁶, and dynamic.
    pub scales: Vec<Scaled>,
}

fn scales() -> Result<Vec<(&'static str, LossScale)>> {
    Ok(vec![
        ("1", LossScale::fixed(1.0)?),
        ("2⁸", LossScale::fixed(256.0)?),
        ("2¹⁶", LossScale::fixed(65536.0)?),
        ("dynamic", LossScale::dynamic()),
    ])
}

pub fn run(setting: &Setting<'_>) -> Result<Underflow> {
    let scales = parallel(&scales()?, |(name, scale)| {
        let scaled = train(name, scale.clone(), setting.random.fork("underflow"))?;
        setting.progress.unit()?;
        Ok(scaled)
    })?;
    Ok(Underflow { scales })
}

fn half(x: f64) -> f64 {
    f64::from(Format::F16.quantize(x as f32, Rounding::NearestEven, Overflow::Ieee))
}

/// Logistic regression whose backward pass is f16: the gradient of each score, and the sums of products, which are added in f32.
fn train(name: &str, mut scale: LossScale, random: Random) -> Result<Scaled> {
    let mut draw = random.fork("data");
    let device = Device::flex();
    let mut normal =
        |count: usize| -> Vec<f64> { draw.normal::<1>([count], 0.0, 1.0, &device).into_data().iter::<f64>().collect() };
    let (inputs, truth, noise) = (normal(EXAMPLES * D), normal(D), normal(EXAMPLES));
    let score = |x: &[f64], w: &[f64]| x.iter().zip(w).map(|(x, w)| x * w).sum::<f64>();
    let labels: Vec<f64> = inputs.chunks(D).zip(&noise).map(|(x, n)| (score(x, &truth) + 0.5 * n).signum()).collect();
    let loss = |w: &[f64]| {
        let each = inputs.chunks(D).zip(&labels).map(|(x, y)| (-y * score(x, w)).exp().ln_1p());
        each.sum::<f64>() / EXAMPLES as f64
    };
    let mut w = vec![0.0; D];
    let mut found = Scaled {
        name: name.into(),
        losses: vec![loss(&w)],
        zeros: 0.0,
        skipped: 0,
        last_scale: f64::from(scale.scale()),
    };
    let mut zeros = 0;
    for _ in 0..STEPS {
        let factor = f64::from(scale.scale()) * SHRINK / EXAMPLES as f64;
        let mut gradient = vec![0.0; D];
        for (x, y) in inputs.chunks(D).zip(&labels) {
            let of_score = half(factor * -y / (1.0 + (y * score(x, &w)).exp()));
            gradient.iter_mut().zip(x).for_each(|(g, x)| *g += of_score * x);
        }
        let gradient: Vec<f32> = gradient.into_iter().map(|g| half(g) as f32).collect();
        zeros += gradient.iter().filter(|g| **g == 0.0).count();
        // The master weights and the unscaled gradient are not f16.
        let tree = Tree::empty().push("w", Tensor::<1>::from_data(TensorData::new(gradient, [D]), &device))?;
        let unscaled = scale.unscale("sgd", tree)?;
        match scale.step("sgd", || unscaled.grads)? {
            Step::Stepped(grads) => {
                let grads = grads.get::<1>("w")?.into_data();
                w.iter_mut().zip(grads.iter::<f64>()).for_each(|(w, g)| *w -= RATE / SHRINK * g);
            }
            Step::Skipped { .. } => found.skipped += 1,
        }
        scale.update()?;
        found.losses.push(loss(&w));
    }
    found.zeros = zeros as f64 / (D * STEPS) as f64;
    found.last_scale = f64::from(scale.scale());
    Ok(found)
}

impl Scaled {
    pub fn last(&self) -> f64 {
        self.losses[STEPS]
    }
}

impl Underflow {
    pub fn part(&self) -> Part {
        let classes = ["s2", "s3", "s1", "s4"];
        let line = |(scaled, class): (&Scaled, &str)| {
            let points = scaled.losses.iter().enumerate().map(|(step, loss)| (step as f64, *loss)).collect();
            Line::new(&format!("scale {}", scaled.name), class, points)
        };
        let plot = Plot {
            title: "Logistic regression with gradients in f16",
            x_axis: "step",
            x_range: (0.0, STEPS as f64),
            y_axis: "cross-entropy, nats (log scale)",
            logarithmic: true,
            lines: self.scales.iter().zip(classes).map(line).collect(),
        };
        let cells = |s: &Scaled| {
            vec![
                s.name.clone(),
                significant(s.losses[0]),
                format!("{:.5}", s.last()),
                format!("{:.0} %", 100.0 * s.zeros),
                s.skipped.to_string(),
                number(s.last_scale),
            ]
        };
        Part {
            title: "Gradients in f16",
            text: format!(
                "{EXAMPLES} examples of {D} normal numbers, labels by a hidden direction with noise, full batches, {STEPS} steps; the loss is multiplied by 2⁻¹⁶, \
                 so that the gradient of a score is at most 2⁻²⁵, and the smallest f16 number is 2⁻²⁴. Unscaled, {:.0} % of the gradient's elements \
                 are exactly zero and the loss ends at {}; at the scale 2⁸ at {}, at 2¹⁶ at {}.",
                100.0 * self.scales[0].zeros,
                number(self.scales[0].last()),
                number(self.scales[1].last()),
                number(self.scales[2].last()),
            ),
            figures: vec![plot.html()],
            table: (
                vec!["loss scale", "first loss", "last loss", "gradient elements zero", "steps skipped", "last scale"],
                self.scales.iter().map(cells).collect(),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::study::clipping::tests::with_setting;

    #[test]
    fn without_a_scale_nothing_is_learned() {
        let found = with_setting(4, run);
        let [one, small, large, dynamic] = &found.scales[..] else { panic!("four") };
        assert!(one.zeros == 1.0 && one.last() == one.losses[0]);
        assert!((one.last() - 2f64.ln()).abs() < 1e-12);
        assert!(small.last() < 0.3 && large.last() < 0.3, "{} {}", small.last(), large.last());
        assert!((small.last() - large.last()).abs() < 0.05);
        assert_eq!((dynamic.losses.clone(), dynamic.skipped), (large.losses.clone(), 0));
    }
}
