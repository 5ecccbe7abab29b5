//! The rate: steps to a tolerance under many Q, against 1 + ω.

use burn::tensor::{DType, Device, Tensor, TensorData};
use core_tensor::transform::Identity;
use core_tensor::{Random, Tree};
use mixed_precision::{
    Compressor, Format, Keep, Natural, Qsgd, QsgdNorm, Quantizer, RandK, Rounding, Uniform, measure,
};
use serde::Serialize;

use crate::error::Result;
use crate::report::plot::{Line, Plot, number, significant};
use crate::study::toolkit::{median, parallel};
use crate::study::{Part, Setting};
use crate::summary::grouped;

const D: usize = 100;
const SEEDS: u64 = 15;
/// Curvatures from here to 1.
const SMALLEST: f64 = 0.1;
/// Where a run is done: f over its first value.
const DONE: f64 = 1e-6;
/// Runs that take longer count as not arriving.
const LIMIT: u64 = 10_000;
/// Draws for ω.
const DRAWS: u64 = 400;

type Make = fn(u64) -> Result<Box<dyn Compressor>>;

const CASES: [(&str, Make); 11] = [
    ("identity", |_| Ok(Box::new(Identity))),
    ("bf16", |seed| Ok(Box::new(Quantizer::new(Format::BF16).rounding(Rounding::Stochastic(seed))))),
    ("natural", |seed| Ok(Box::new(Natural::new(seed)))),
    ("4-bit integers", |seed| Ok(Box::new(Uniform::symmetric(4)?.rounding(Rounding::Stochastic(seed))))),
    ("QSGD, 15 levels", |seed| Ok(Box::new(Qsgd::new(15, seed)?))),
    ("QSGD, 3 levels", |seed| Ok(Box::new(Qsgd::new(3, seed)?))),
    ("QSGD, 1 level", |seed| Ok(Box::new(Qsgd::new(1, seed)?))),
    ("TernGrad", |seed| Ok(Box::new(Qsgd::new(1, seed)?.norm(QsgdNorm::Max)))),
    ("rand-k, 1/2", |seed| Ok(Box::new(RandK::new(Keep::Share(0.5), seed)?))),
    ("rand-k, 1/4", |seed| Ok(Box::new(RandK::new(Keep::Share(0.25), seed)?))),
    ("rand-k, 1/10", |seed| Ok(Box::new(RandK::new(Keep::Share(0.1), seed)?))),
];

pub const UNITS: u64 = CASES.len() as u64;

#[derive(Clone, Debug, Serialize)]
pub struct Case {
    pub name: String,
    /// ω of the theory, for the worst tensor.
    pub bound: f64,
    /// ω measured on the first gradient, with its standard error.
    pub omega: f64,
    pub omega_deviation: f64,
    /// Whether the test for bias passes at the level 0.001.
    pub unbiased: bool,
    /// Median over seeds of the steps to the tolerance at the rate 1/(1 + ω).
    pub steps: f64,
    /// Those over the steps of the identity.
    pub slower: f64,
    /// Bits sent until then, over those of the identity.
    pub bits: f64,
}

#[derive(Clone, Debug, Serialize)]
pub struct Rate {
    pub cases: Vec<Case>,
}

pub fn run(setting: &Setting<'_>) -> Result<Rate> {
    let mut cases = parallel(&CASES, |&(name, make)| {
        let case = of(name, make, setting.random)?;
        setting.progress.unit()?;
        Ok(case)
    })?;
    let (steps, bits) = (cases[0].steps, cases[0].bits);
    for case in &mut cases {
        (case.slower, case.bits) = (case.steps / steps, case.bits / bits);
    }
    Ok(Rate { cases })
}

fn tree(x: &[f64]) -> Result<Tree> {
    let device = Device::flex();
    Ok(Tree::empty()
        .push("x", Tensor::<1>::from_data(TensorData::new(x.to_vec(), [x.len()]), (&device, DType::F64)))?)
}

fn curvature(i: usize) -> f64 {
    SMALLEST + (1.0 - SMALLEST) * i as f64 / (D - 1) as f64
}

fn of(name: &str, make: Make, random: &Random) -> Result<Case> {
    let start = |seed: u64| -> Vec<f64> {
        let mut random = random.fork(format!("rate {seed}"));
        random.normal::<1>([D], 0.0, 1.0, &Device::flex()).into_data().iter::<f64>().collect()
    };
    let gradient = |x: &[f64]| -> Vec<f64> { x.iter().enumerate().map(|(i, x)| curvature(i) * x).collect() };
    let found = measure(&make(0)?, &tree(&gradient(&start(0)))?, DRAWS)?;
    let rate = 1.0 / (1.0 + found.error);
    let steps = |seed: u64| -> Result<f64> {
        let q = make(seed)?;
        let mut x = start(seed);
        let value = |x: &[f64]| 0.5 * x.iter().enumerate().map(|(i, x)| curvature(i) * x * x).sum::<f64>();
        let first = value(&x);
        for step in 0..LIMIT {
            if value(&x) <= DONE * first {
                return Ok(step as f64);
            }
            let g = q.compress(step, tree(&gradient(&x))?)?.get::<1>("x")?.into_data();
            x.iter_mut().zip(g.iter::<f64>()).for_each(|(x, g)| *x -= rate * g);
        }
        Ok(LIMIT as f64)
    };
    let steps = median((0..SEEDS).map(steps).collect::<Result<Vec<_>>>()?);
    let q = make(0)?;
    Ok(Case {
        name: name.into(),
        bound: q.omega(D).unwrap_or(f64::NAN),
        omega: found.error,
        omega_deviation: found.error_deviation,
        unbiased: found.is_unbiased(1e-3),
        steps,
        slower: 1.0,
        bits: steps * q.bits(D),
    })
}

impl Rate {
    /// Steps over those of the identity, divided by 1 + ω: smallest and largest.
    pub fn agreement(&self) -> (f64, f64) {
        let ratios = self.cases.iter().map(|case| case.slower / (1.0 + case.omega));
        ratios.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), ratio| (low.min(ratio), high.max(ratio)))
    }

    /// The one that sends the fewest bits.
    pub fn cheapest(&self) -> &Case {
        self.cases.iter().min_by(|a, b| a.bits.total_cmp(&b.bits)).expect("there are cases")
    }

    pub fn part(&self) -> Part {
        let points = |of: fn(&Case) -> f64| self.cases.iter().map(|case| (1.0 + case.omega, of(case))).collect();
        let end = self.cases.iter().map(|case| 1.0 + case.omega).fold(1.0, f64::max);
        let plot = Plot {
            title: "Steps to the tolerance",
            x_axis: "1 + ω, ω measured on the first gradient",
            x_range: (0.0, end),
            y_axis: "steps over those of the identity",
            logarithmic: false,
            lines: vec![
                Line::new("1 + ω", "quiet dashed", vec![(1.0, 1.0), (end, end)]),
                Line::marks("measured", "s1", points(|case| case.slower)),
            ],
        };
        let bits = Plot {
            title: "Bits to the tolerance",
            x_axis: "1 + ω",
            x_range: (0.0, end),
            y_axis: "bits sent over those of the identity (log scale)",
            logarithmic: true,
            lines: vec![Line::marks("measured", "s1", points(|case| case.bits))],
        };
        let cells = |case: &Case| {
            vec![
                case.name.clone(),
                significant(case.bound),
                format!("{} ± {:.0e}", significant(case.omega), case.omega_deviation),
                if case.unbiased { "yes" } else { "no" }.into(),
                if case.steps < LIMIT as f64 { grouped(case.steps as usize) } else { "–".into() },
                significant(case.slower),
                significant(case.slower / (1.0 + case.omega)),
                significant(case.bits),
            ]
        };
        let (low, high) = self.agreement();
        Part {
            title: "Steps against 1 + ω",
            text: format!(
                "A quadratic in {D} dimensions with curvatures from {SMALLEST} to 1, x ← x − Q(∇f)/(1 + ω) with ω = E‖Q(∇f) − ∇f‖²/‖∇f‖² measured on \
                 the first gradient ({DRAWS} draws), until f is {} of its first value; median of {SEEDS} seeds. The steps over those of the \
                 identity are between {} and {} times 1 + ω. The fewest bits are sent by {}: {} of those of f32.",
                number(DONE),
                number(low),
                number(high),
                self.cheapest().name,
                number(self.cheapest().bits),
            ),
            figures: vec![plot.html(), bits.html()],
            table: (
                vec![
                    "Q",
                    "ω, bound",
                    "ω, measured",
                    "unbiased",
                    "steps",
                    "over identity",
                    "over 1 + ω",
                    "bits over identity",
                ],
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
    fn steps_follow_one_plus_omega() {
        let found = with_setting(3, run);
        let (low, high) = found.agreement();
        assert!(low > 0.7 && high < 1.4, "{found:?}");
        // Rand-k attains its bound, so that what is drawn lies on both sides of it.
        let within = |case: &Case| case.omega <= case.bound + 4.0 * case.omega_deviation;
        assert!(found.cases.iter().all(|case| case.unbiased && within(case)), "{found:?}");
        let rand = &found.cases[10];
        assert!((rand.omega - 9.0).abs() < 4.0 * rand.omega_deviation, "{rand:?}");
    }
}
