//! The lecture's formula: the norm of the gradient against time in linear and tanh recurrences.

use ::clipping::recurrent::{Verdict, gradient_norms, growth_rate, spectral_norm, spectral_radius};
use burn::tensor::Tensor;
use serde::Serialize;

use crate::error::Result;
use crate::report::plot::{Line, Plot, fixed, number, significant};
use crate::study::{Part, Setting};

const RADII: [f64; 7] = [0.5, 0.75, 0.9, 1.0, 1.1, 1.25, 1.5];
pub const UNITS: u64 = RADII.len() as u64;

const UNITS_OF_STATE: usize = 64;
const BATCH: usize = 8;
const TIME: usize = 60;

/// A recurrent weight of one spectral radius.
#[derive(Clone, Debug, Serialize)]
pub struct Radius {
    /// Its spectral radius ρ.
    pub radius: f64,
    /// Its spectral norm.
    pub norm: f64,
    /// What the formula says, with |σ′| ≤ 1.
    pub verdict: String,
    /// ‖∂L/∂h_t‖ for t from 0, without an activation.
    pub linear: Vec<f64>,
    /// The same with tanh.
    pub tanh: Vec<f64>,
    /// Growth of the logarithm a step back in time over the far half, without an activation.
    pub linear_rate: f64,
    /// The same with tanh.
    pub tanh_rate: f64,
}

/// All of them, multiples of one random matrix.
#[derive(Clone, Debug, Serialize)]
pub struct Time {
    pub radii: Vec<Radius>,
}

pub fn run(setting: &Setting<'_>) -> Result<Time> {
    let device = setting.device;
    let mut random = setting.random.fork("gradients over time");
    let n = UNITS_OF_STATE;
    let matrix: Tensor<2> = random.normal([n, n], 0.0, (n as f64).powf(-0.5), device);
    let own = spectral_radius(&matrix)?;
    let inputs: Vec<Tensor<2>> = (0..TIME).map(|_| random.normal([BATCH, n], 0.0, 0.1, device).autodiff()).collect();
    let direction: Tensor<2> = random.normal([BATCH, n], 0.0, ((BATCH * n) as f64).powf(-0.5), device).autodiff();
    let mut radii = Vec::new();
    for radius in RADII {
        let weight = matrix.clone().mul_scalar(radius / own);
        let (radius, norm) = (spectral_radius(&weight)?, spectral_norm(&weight)?);
        let weight = weight.autodiff();
        let flow = |activation: fn(Tensor<2>) -> Tensor<2>| {
            let step = |h: Tensor<2>, t: usize| activation(h.matmul(weight.clone()) + inputs[t - 1].clone());
            let start = Tensor::zeros([BATCH, n], device);
            gradient_norms(start, TIME, step, |h| (h[TIME].clone() * direction.clone()).sum())
        };
        let (linear, tanh) = (flow(|x| x)?, flow(Tensor::tanh)?);
        radii.push(Radius {
            radius,
            norm,
            verdict: format!("{:?}", Verdict::of(radius, 1.0)?).to_lowercase(),
            linear_rate: growth_rate(&linear[..TIME / 2])?,
            tanh_rate: growth_rate(&tanh[..TIME / 2])?,
            linear,
            tanh,
        });
        setting.progress.unit()?;
    }
    Ok(Time { radii })
}

impl Time {
    /// The largest distance of a linear recurrence's rate from ln ρ.
    pub fn worst_rate(&self) -> f64 {
        self.radii.iter().map(|r| (r.linear_rate - r.radius.ln()).abs()).fold(0.0, f64::max)
    }

    /// What tanh does to the rates, as far as the numbers say so.
    fn with_tanh(&self) -> &'static str {
        let (below, above): (Vec<&Radius>, Vec<&Radius>) =
            self.radii.iter().filter(|r| r.verdict != "stable").partition(|r| r.verdict == "vanishing");
        let vanishing = below.iter().all(|r| r.tanh_rate < 0.0);
        let damped = above.iter().all(|r| r.tanh_rate < r.linear_rate);
        match (vanishing, damped) {
            (true, true) => {
                "With tanh they vanish below ρ = 1 too, and above it grow by less than ln ρ: the more the states saturate, the more \
                 they shrink what passes."
            }
            (true, false) => "With tanh they vanish below ρ = 1 too.",
            _ => "With tanh the rates are others.",
        }
    }

    pub fn part(&self) -> Part {
        let plot = |title, norms: fn(&Radius) -> &Vec<f64>| {
            let lines = self.radii.iter().enumerate().map(|(at, radius)| {
                let points = norms(radius).iter().enumerate().map(|(t, norm)| (t as f64, *norm)).collect();
                Line::new(&format!("ρ = {}", number(radius.radius)), &format!("r{}", at + 1), points)
            });
            let plot = Plot {
                title,
                x_axis: "time step t; the loss is at 60",
                x_range: (0.0, TIME as f64),
                y_axis: "‖∂L/∂h_t‖ (log scale)",
                logarithmic: true,
                lines: lines.collect(),
            };
            plot.html()
        };
        let cells = |r: &Radius| {
            vec![
                number(r.radius),
                number(r.norm),
                r.verdict.clone(),
                fixed(r.radius.ln(), 3),
                significant(r.linear_rate),
                significant(r.tanh_rate),
                significant(r.linear[0]),
                significant(r.tanh[0]),
            ]
        };
        Part {
            title: "The formula: gradients over time",
            text: format!(
                "A recurrent weight of {UNITS_OF_STATE} × {UNITS_OF_STATE} normal numbers, scaled to spectral radii ρ from {} to {}; the loss is \
                 a fixed direction of the last state, so the norm there is the same for all. Its rate of growth back in time, fitted over \
                 the far half, is ln ρ in the linear recurrence to within {}: (W_hᵀ)^(t−i). {}",
                RADII[0],
                RADII[RADII.len() - 1],
                number(self.worst_rate()),
                self.with_tanh(),
            ),
            figures: vec![
                plot("Linear recurrence", |radius| &radius.linear),
                plot("tanh recurrence", |radius| &radius.tanh),
            ],
            table: (
                vec![
                    "radius ρ",
                    "norm ‖W‖₂",
                    "formula",
                    "ln ρ",
                    "linear, rate a step",
                    "tanh, rate a step",
                    "linear, ‖∂L/∂h₀‖",
                    "tanh, ‖∂L/∂h₀‖",
                ],
                self.radii.iter().map(cells).collect(),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::study::clipping::tests::with_setting;

    #[test]
    fn rates_follow_the_formula() {
        let time = with_setting(5, run);
        assert!(time.worst_rate() < 0.05, "{}", time.worst_rate());
        for (r, expected) in time.radii.iter().zip(RADII) {
            assert!((r.radius - expected).abs() < 1e-6 && r.norm > r.radius);
            assert!(r.tanh_rate < r.linear_rate + 0.01, "tanh only shrinks: {r:?}");
            let (first, last) = (r.linear[0], r.linear[TIME]);
            match expected {
                x if x < 1.0 => assert!(r.verdict == "vanishing" && first < 0.1 * last),
                x if x > 1.0 => assert!(r.verdict == "exploding" && first > 10.0 * last),
                _ => assert_eq!(r.verdict, "stable"),
            }
        }
        // All are multiples of one matrix, and so are the powers.
        let (half, one) = (&time.radii[0], &time.radii[3]);
        for t in 0..=TIME {
            let expected = one.linear[t] * 0.5f64.powi((TIME - t) as i32);
            assert!((half.linear[t] - expected).abs() < 1e-3 * expected, "{t}");
        }
    }
}
