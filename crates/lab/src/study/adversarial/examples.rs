//! The lecture's picture: an image, a perturbation, and their sum, which the network takes for something else.

use std::fmt::Write as _;

use adversarial::{Apgd, Attack, Attacked, Classifier as _, Engine, Fmn, Goals, Outcome, Search};
use burn::tensor::Tensor;
use burn::tensor::activation::softmax;
use serde::Serialize;

use super::training::Network;
use super::{attacked, epsilon, percent, recorded, threat};
use crate::data::Dataset;
use crate::error::Result;
use crate::report::image::{colour_address, png_address};
use crate::report::plot::fixed;
use crate::study::toolkit::median;
use crate::study::{Part, Setting};

/// Images whose nearest misclassified neighbours are looked for.
const IMAGES: usize = 100;
/// Those of them that are drawn.
const DRAWN: usize = 6;

pub const UNITS: u64 = 1;

/// A digit before and after.
#[derive(Clone, Debug, Serialize)]
pub struct Example {
    pub label: usize,
    pub confidence_before: f64,
    pub taken_for: usize,
    pub confidence_after: f64,
    /// The largest change of a pixel's ink.
    pub distance: f64,
    #[serde(skip)]
    clean: Vec<f32>,
    #[serde(skip)]
    adversarial: Vec<f32>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Examples {
    #[serde(skip)]
    epsilon: f64,
    /// Median over the images of the distance to the nearest misclassified one found.
    pub median_distance: f64,
    pub gradients_an_image: f64,
    pub drawn: Vec<Example>,
    #[serde(skip)]
    width: usize,
}

pub fn run(data: &Dataset, networks: &[Network], setting: &Setting<'_>) -> Result<Examples> {
    let classifier = recorded(&networks[0].model, &data.test)?;
    let (images, labels) = attacked(&data.test, IMAGES, setting.device);
    let found: Attacked<4> = Fmn::new().steps(100).nearest(
        &classifier,
        threat(epsilon(data))?,
        images.clone(),
        &Goals::untargeted(&labels),
    )?;
    // The pictures are of the worst inside the study's threat, which networks are sure of; the nearest lie on a boundary.
    let goals = Goals::untargeted(&labels);
    let worst =
        Engine::new().run(&Apgd::new(), &classifier, threat(epsilon(data))?, Search::Worst, images.clone(), &goals)?;
    setting.progress.unit()?;
    let width = data.test.width;
    let rows = |x: &Tensor<4>| -> Vec<Vec<f32>> {
        let values: Vec<f32> = x.to_data().iter::<f32>().collect();
        values.chunks(data.test.height * width).map(<[f32]>::to_vec).collect()
    };
    let probabilities = softmax(classifier.logits(images.clone())?, 1).into_data();
    let before: Vec<f64> = probabilities.iter::<f64>().collect();
    let classes = before.len() / labels.len();
    let (clean, adversarial) = (rows(&images), rows(&worst.inputs));
    let mut drawn = Vec::new();
    for (i, outcome) in worst.outcomes.iter().enumerate() {
        let (taken_for, confidence_after) = prediction(outcome);
        if drawn.len() == DRAWN || taken_for == labels[i] || !found.outcomes[i].reached() {
            continue;
        }
        drawn.push(Example {
            label: labels[i],
            confidence_before: before[i * classes + labels[i]],
            taken_for,
            confidence_after,
            distance: outcome.distance,
            clean: clean[i].clone(),
            adversarial: adversarial[i].clone(),
        });
    }
    let reached = found.outcomes.iter().filter(|outcome| outcome.reached());
    Ok(Examples {
        epsilon: epsilon(data),
        median_distance: median(reached.map(|outcome| outcome.distance)),
        gradients_an_image: found.gradients() as f64 / labels.len() as f64,
        drawn,
        width,
    })
}

/// The class of the largest logit and its probability.
fn prediction(outcome: &Outcome) -> (usize, f64) {
    let z = &outcome.logits;
    let best = (0..z.len()).fold(0, |a, b| if z[b] > z[a] { b } else { a });
    let total: f64 = z.iter().map(|other| f64::from(other - z[best]).exp()).sum();
    (best, 1.0 / total)
}

impl Examples {
    pub fn part(&self) -> Part {
        let rows = self.drawn.iter().map(|example| {
            vec![
                example.label.to_string(),
                percent(example.confidence_before),
                fixed(example.distance, 3),
                example.taken_for.to_string(),
                percent(example.confidence_after),
            ]
        });
        Part {
            title: "A digit, a perturbation, another digit",
            text: format!(
                "What APGD makes of the first test images within {} of full ink a pixel. Red is ink added, blue ink taken away, both \
                 five times as strong as they are. The network is the one trained as usual. For the distance to the nearest \
                 misclassified image FMN took {} gradients each for the first {IMAGES}.",
                self.epsilon,
                fixed(self.gradients_an_image, 1)
            ),
            figures: vec![self.figure()],
            table: (
                vec!["digit", "the network's confidence", "largest change of a pixel", "taken for", "with confidence"],
                rows.collect(),
            ),
        }
    }

    /// Three images a row: before, what is added, after.
    fn figure(&self) -> String {
        let mut html = "<figure class=\"triples\">\n<figcaption><h3>Image + perturbation = adversarial example</h3></figcaption>\n<ul>".to_owned();
        for example in &self.drawn {
            let ink = |pixels: &[f32]| pixels.iter().map(|p| (p * 255.0).round() as u8).collect::<Vec<_>>();
            let change: Vec<[u8; 3]> = example
                .clean
                .iter()
                .zip(&example.adversarial)
                .map(|(before, after)| {
                    let change = 5.0 * (after - before);
                    let fade = |strength: f32| (255.0 * (1.0 - strength.clamp(0.0, 1.0))).round() as u8;
                    [fade(-change), fade(change.abs()), fade(change)]
                })
                .collect();
            let image = |alt: &str, address: String| format!("<img alt=\"{alt}\" src=\"{address}\"/>");
            let _ = write!(
                html,
                "<li>{}<span>+</span>{}<span>=</span>{}<small><span class=\"name\">{} ({})</span> to <span class=\"name\">{} ({})</span></small></li>",
                image(&format!("a {}", example.label), png_address(&ink(&example.clean), self.width, 255)),
                image("the perturbation", colour_address(&change, self.width)),
                image(
                    &format!("taken for a {}", example.taken_for),
                    png_address(&ink(&example.adversarial), self.width, 255)
                ),
                example.label,
                percent(example.confidence_before),
                example.taken_for,
                percent(example.confidence_after),
            );
        }
        html += "</ul>\n</figure>\n";
        html
    }
}
