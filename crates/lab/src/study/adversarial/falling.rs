//! Accuracy against the radius, of a network trained as usual and one trained against an adversary.

use adversarial::{Apgd, Evaluation, Pgd};
use serde::Serialize;

use super::training::Network;
use super::{attacked, epsilon, percent, recorded, threat};
use crate::data::Dataset;
use crate::error::Result;
use crate::report::plot::{Line, Plot, fixed};
use crate::study::{Part, Setting};

/// Radii, as multiples of the study's.
const FACTORS: [f64; 8] = [0.0, 0.125, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0];
/// Which networks of [`super::training`]: as usual, and PGD.
const SHOWN: [usize; 2] = [0, 3];
const IMAGES: usize = 150;

pub const UNITS: u64 = SHOWN.len() as u64;

/// Where the study's radius is.
pub fn at_epsilon() -> usize {
    FACTORS.iter().position(|factor| *factor == 1.0).expect("one of them")
}

#[derive(Clone, Debug, Serialize)]
pub struct Curve {
    pub name: String,
    /// Share of the images that no attack breaks, by radius.
    pub accuracies: Vec<f64>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Falling {
    pub radii: Vec<f64>,
    pub networks: Vec<Curve>,
}

pub fn run(data: &Dataset, networks: &[Network], setting: &Setting<'_>) -> Result<Falling> {
    let (images, labels) = attacked(&data.test, IMAGES, setting.device);
    let radii = FACTORS.map(|factor| factor * epsilon(data));
    let mut curves = Vec::new();
    for index in SHOWN {
        let network = &networks[index];
        let classifier = recorded(&network.model, &data.test)?;
        let report = Evaluation::new(threat(epsilon(data))?)
            .attack(Pgd::new().steps(20))
            .attack(Apgd::new())
            .attack(Apgd::targeted(4).steps(50))
            .radii(radii)
            .run(&classifier, images.clone(), &labels, None)?;
        setting.progress.unit()?;
        let accuracies = report.curve.iter().map(|(_, share)| share.value().unwrap_or(f64::NAN)).collect();
        curves.push(Curve { name: network.name.into(), accuracies });
    }
    Ok(Falling { radii: radii.to_vec(), networks: curves })
}

impl Falling {
    pub fn part(&self) -> Part {
        let line = |curve: &Curve, class: &str| {
            let points = self.radii.iter().zip(&curve.accuracies).map(|(radius, share)| (*radius, 100.0 * share));
            Line::new(&curve.name, class, points.collect())
        };
        let classes = ["s1", "s2"];
        let plot = Plot {
            title: "Accuracy against the radius",
            x_axis: "radius in Linf, ink of a pixel from 0 to 1",
            x_range: (0.0, self.radii[FACTORS.len() - 1]),
            y_axis: "images that no attack breaks, %",
            logarithmic: false,
            lines: self.networks.iter().zip(classes).map(|(curve, class)| line(curve, class)).collect(),
        };
        let mut head = vec!["radius"];
        head.extend(["trained as usual", "trained against PGD-7"]);
        let rows = self.radii.iter().enumerate().map(|(i, radius)| {
            let mut row = vec![fixed(*radius, 3)];
            row.extend(self.networks.iter().map(|curve| percent(curve.accuracies[i])));
            row
        });
        Part {
            title: "Accuracy against the radius",
            text: format!(
                "The first {IMAGES} test images under PGD-20, APGD-CE and APGD-T (4 targets, 50 steps), from the smallest radius up; what is broken at one stays broken. At a \
                 radius of 0.5 every image can be made uniform grey, so that every honest curve ends at chance or below: one that does \
                 not would show an attack that fails, not a network that holds.",
            ),
            figures: vec![plot.html()],
            table: (head, rows.collect()),
        }
    }
}
