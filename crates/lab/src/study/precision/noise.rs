//! The noise of formats: signal to quantisation noise of every format under two roundings and two kinds of data.

use burn::tensor::Tensor;
use core_tensor::Tree;
use mixed_precision::{
    Compressor, Element, Format, Granularity, Mx, NvFp4, Overflow, Quantizer, Rounding, ScaleRule, Uniform, sqnr,
};
use serde::Serialize;

use crate::error::Result;
use crate::report::plot::{Line, Plot, fixed, number};
use crate::study::toolkit::parallel;
use crate::study::{Part, Setting};

const ROWS: usize = 2048;
const COLUMNS: usize = 64;

/// A format with a rounding.
type Make = fn(Rounding) -> Result<Box<dyn Compressor>>;

fn float(format: Format, rounding: Rounding) -> Box<dyn Compressor> {
    Box::new(Quantizer::new(format).overflow(Overflow::Saturate).rounding(rounding))
}

fn mx(element: impl Into<Element>, rule: ScaleRule, rounding: Rounding) -> Result<Box<dyn Compressor>> {
    Ok(Box::new(Mx::new(element)?.scale_rule(rule).rounding(rounding)))
}

/// Name, family for the figure, maker.
const FORMATS: [(&str, usize, Make); 19] = [
    ("bf16", 0, |r| Ok(float(Format::BF16, r))),
    ("e3m4", 0, |r| Ok(float(Format::E3M4, r))),
    ("e4m3fn", 0, |r| Ok(float(Format::E4M3FN, r))),
    ("e5m2", 0, |r| Ok(float(Format::E5M2, r))),
    ("e2m1fn", 0, |r| Ok(float(Format::E2M1FN, r))),
    ("int8, tensor", 1, |r| Ok(Box::new(Uniform::symmetric(8)?.rounding(r)))),
    ("int8, groups of 32", 1, |r| Ok(Box::new(Uniform::symmetric(8)?.granularity(Granularity::Group(32)).rounding(r)))),
    ("int4, tensor", 1, |r| Ok(Box::new(Uniform::symmetric(4)?.rounding(r)))),
    ("int4, groups of 32", 1, |r| Ok(Box::new(Uniform::symmetric(4)?.granularity(Granularity::Group(32)).rounding(r)))),
    ("MXINT8, floor", 2, |r| mx(Element::Int8, ScaleRule::Floor, r)),
    ("MX e4m3fn, floor", 2, |r| mx(Format::E4M3FN, ScaleRule::Floor, r)),
    ("MX e4m3fn, ceil", 2, |r| mx(Format::E4M3FN, ScaleRule::Ceil, r)),
    ("MX e4m3fn, rceil", 2, |r| mx(Format::E4M3FN, ScaleRule::RoundCeil, r)),
    ("MX e4m3fn, even", 2, |r| mx(Format::E4M3FN, ScaleRule::Even, r)),
    ("MX e2m1fn, floor", 2, |r| mx(Format::E2M1FN, ScaleRule::Floor, r)),
    ("MX e2m1fn, ceil", 2, |r| mx(Format::E2M1FN, ScaleRule::Ceil, r)),
    ("MX e2m1fn, rceil", 2, |r| mx(Format::E2M1FN, ScaleRule::RoundCeil, r)),
    ("MX e2m1fn, even", 2, |r| mx(Format::E2M1FN, ScaleRule::Even, r)),
    ("NVFP4", 2, |r| Ok(Box::new(NvFp4::new().rounding(r)))),
];

pub const UNITS: u64 = FORMATS.len() as u64;

/// A format's signal to noise in dB.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub name: String,
    family: usize,
    /// Bits an element, scales included.
    pub bits: f64,
    /// Normal numbers, to nearest and at random.
    pub nearest: f64,
    pub stochastic: f64,
    /// Rows of sizes that differ, to nearest.
    pub uneven: f64,
}

#[derive(Clone, Debug, Serialize)]
pub struct Noise {
    pub rows: Vec<Row>,
}

pub fn run(setting: &Setting<'_>) -> Result<Noise> {
    let mut random = setting.random.fork("noise");
    let device = burn::tensor::Device::flex();
    let normal: Tensor<2> = random.normal([ROWS, COLUMNS], 0.0, 1.0, &device);
    let sizes: Tensor<2> = random.normal([ROWS, 1], 0.0, 2.0, &device);
    let uneven = normal.clone() * sizes.exp();
    let rows = parallel(&FORMATS, |&(name, family, make)| {
        let of = |x: &Tensor<2>, rounding| -> Result<f64> {
            // One power of two for the tensor, so that the largest element is near the end of the format, as scaled training has it.
            let x = match family {
                0 => {
                    let largest = x.clone().abs().max().into_scalar::<f64>();
                    let end = f64::from(by_name(name).max());
                    x.clone().mul_scalar((end / largest).log2().floor().clamp(-60.0, 60.0).exp2())
                }
                _ => x.clone(),
            };
            let tree = Tree::empty().push("x", x.clone())?;
            let y = make(rounding)?.compress(0, tree)?.get::<2>("x")?;
            Ok(sqnr(&x, &y)?)
        };
        let row = Row {
            name: name.into(),
            family,
            bits: make(Rounding::NearestEven)?.bits(ROWS * COLUMNS) / (ROWS * COLUMNS) as f64,
            nearest: of(&normal, Rounding::NearestEven)?,
            stochastic: of(&normal, Rounding::Stochastic(1))?,
            uneven: of(&uneven, Rounding::NearestEven)?,
        };
        setting.progress.unit()?;
        Ok(row)
    })?;
    Ok(Noise { rows })
}

fn by_name(name: &str) -> Format {
    Format::by_name(name).expect("names of this family are those of formats")
}

impl Noise {
    pub fn row(&self, name: &str) -> &Row {
        self.rows.iter().find(|row| row.name == name).expect("a name of this table")
    }

    /// The scale rule with the least noise for an MX element.
    pub fn best_rule(&self, element: &str) -> &Row {
        let prefix = format!("MX {element}");
        let rows = self.rows.iter().filter(|row| row.name.starts_with(&prefix));
        rows.max_by(|a, b| a.nearest.total_cmp(&b.nearest)).expect("four rules an element")
    }

    /// What stochastic rounding costs in dB: smallest and largest.
    pub fn cost(&self) -> (f64, f64) {
        let costs = self.rows.iter().map(|row| row.nearest - row.stochastic);
        costs.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), cost| (low.min(cost), high.max(cost)))
    }

    pub fn part(&self) -> Part {
        let families = ["floating point", "integers", "blocks"];
        let points = |family: usize, of: fn(&Row) -> f64| -> Vec<(f64, f64)> {
            self.rows.iter().filter(|row| row.family == family).map(|row| (row.bits, of(row))).collect()
        };
        let figure = |title, of: fn(&Row) -> f64| {
            let classes = ["s2", "s3", "s1"];
            let lines = families.iter().zip(classes).enumerate();
            let plot = Plot {
                title,
                x_axis: "bits an element, scales included",
                x_range: (4.0, 16.0),
                y_axis: "signal to quantisation noise, dB",
                logarithmic: false,
                lines: lines.map(|(family, (name, class))| Line::marks(name, class, points(family, of))).collect(),
            };
            plot.html()
        };
        let cells = |row: &Row| {
            vec![
                row.name.clone(),
                number(row.bits),
                fixed(row.nearest, 2),
                fixed(row.stochastic, 2),
                fixed(row.nearest - row.stochastic, 2),
                fixed(row.uneven, 2),
            ]
        };
        let (low, high) = self.cost();
        Part {
            title: "The noise of a format",
            text: format!(
                "{ROWS} × {COLUMNS} normal numbers; and the same with rows of different sizes, normal logarithms of deviation 2. Floating-point formats have one \
                 power of two for the tensor. Stochastic rounding costs {} to {} dB. Of the rules for the scale of MX blocks the quietest here are \
                 “{}” ({} dB) and “{}” ({} dB). Where sizes differ the noise of the large rows covers all, and one integer scale for the \
                 tensor leaves {} dB at 4 bits, groups of 32 {} dB.",
                fixed(low, 1),
                fixed(high, 1),
                self.best_rule("e4m3fn").name,
                fixed(self.best_rule("e4m3fn").nearest, 1),
                self.best_rule("e2m1fn").name,
                fixed(self.best_rule("e2m1fn").nearest, 1),
                fixed(self.row("int4, tensor").uneven, 1),
                fixed(self.row("int4, groups of 32").uneven, 1),
            ),
            figures: vec![
                figure("Normal numbers", |row| row.nearest),
                figure("Rows of different sizes", |row| row.uneven),
            ],
            table: (
                vec!["format", "bits", "nearest, dB", "stochastic, dB", "difference", "uneven rows, nearest, dB"],
                self.rows.iter().map(cells).collect(),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::study::clipping::tests::with_setting;

    #[test]
    fn blocks_are_as_loud_as_the_literature_says() {
        let found = with_setting(1, run);
        let cases = [
            ("MX e4m3fn, floor", 30.63),
            ("MX e4m3fn, rceil", 31.53),
            ("MX e2m1fn, floor", 18.78),
            ("MX e2m1fn, ceil", 16.83),
            ("MX e2m1fn, even", 19.03),
            ("NVFP4", 20.43),
        ];
        for (name, expected) in cases {
            assert!((found.row(name).nearest - expected).abs() < 0.15, "{:?}", found.row(name));
        }
        assert!(
            found.cost().0 > 0.0 && found.row("int4, groups of 32").uneven > found.row("int4, tensor").uneven + 3.0
        );
    }
}
