//! The study of adversarial learning: how examples that fool a network are made, what min-max training holds, what can be proven.

mod certificates;
mod examples;
mod falling;
mod training;

use adversarial::{Apgd, Evaluation, Fab, Fgsm, Norm, Pgd, Recorded, Square, Threat};
use burn::tensor::{Device, Tensor};
use serde::Serialize;

use crate::data::{Dataset, Images};
use crate::error::Result;
use crate::model::{Classifier, batch};
use crate::report::plot::fixed;
use crate::study::{Chapter, Finding, Setting};
use crate::summary::Row;

/// Units of work of all experiments.
pub const UNITS: u64 = training::UNITS + examples::UNITS + falling::UNITS + certificates::UNITS;

/// Test images that are attacked.
const ATTACKED: usize = 200;

/// Every number of the study.
#[derive(Clone, Debug, Serialize)]
struct Results {
    /// The radius of the threat.
    epsilon: f64,
    examples: examples::Examples,
    falling: falling::Falling,
    training: training::Training,
    certificates: certificates::Certificates,
}

/// Runs all experiments.
///
/// # Errors
/// Those of the computation, and [`Error::Interrupted`](crate::error::Error::Interrupted).
pub fn run(setting: &Setting<'_>) -> Result<Finding> {
    let progress = setting.progress;
    let data = setting.data;
    let networks = progress.experiment("robust training", || training::networks(data, setting))?;
    let found = Results {
        epsilon: epsilon(data),
        examples: progress.experiment("adversarial digits", || examples::run(data, &networks, setting))?,
        falling: progress.experiment("accuracy against the radius", || falling::run(data, &networks, setting))?,
        training: progress
            .experiment("every network under every attack", || training::run(data, &networks, setting))?,
        certificates: progress.experiment("certificates", || certificates::run(data, &networks, setting))?,
    };
    Ok(Finding {
        results: serde_json::to_value(&found).expect("plain data"),
        rows: found.rows(),
        chapters: vec![
            Chapter {
                question: "How are adversarial examples constructed?",
                answer: found.constructing(),
                parts: vec![found.examples.part(), found.falling.part()],
            },
            Chapter {
                question: "What does min-max training hold?",
                answer: found.training.answer(),
                parts: vec![found.training.part()],
            },
            Chapter {
                question: "What can be proven?",
                answer: found.certificates.answer(),
                parts: vec![found.certificates.part()],
            },
        ],
    })
}

impl Results {
    fn constructing(&self) -> String {
        let standard = &self.falling.networks[0];
        let [clean, at] = [0, falling::at_epsilon()].map(|i| percent(standard.accuracies[i]));
        format!(
            "By climbing the loss in the image instead of descending it in the weights: within {} of full ink a pixel, changes that \
             leave every digit readable take the network trained as usual from {clean} to {at}; its median image is \
             misclassified at a distance of {}.",
            self.epsilon,
            fixed(self.examples.median_distance, 3)
        )
    }

    fn rows(&self) -> Vec<Row> {
        let row = |what: &str, figure: String, note: String| Row { label: what.to_owned().into(), value: figure, note };
        let mut rows: Vec<Row> = self
            .training
            .networks
            .iter()
            .map(|network| {
                row(
                    &format!("{}: clean, under all attacks", network.name),
                    format!("{}, {}", percent(network.clean), percent(network.ensemble)),
                    format!("{} gradients a step", fixed(network.gradients_a_step, 1)),
                )
            })
            .collect();
        rows.extend(self.certificates.row());
        rows
    }
}

fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

/// The radius in `Linf`, as a share of full ink: the usual one of MNIST, and half of it for images of 8 × 8.
fn epsilon(data: &Dataset) -> f64 {
    if data.test.width < 28 { 0.15 } else { 0.3 }
}

fn threat(epsilon: f64) -> Result<Threat> {
    Ok(Threat::new(Norm::Linf, epsilon)?)
}

/// The first test images as ink between 0 and 1, `[examples, 1, height, width]`, and their labels.
fn attacked(data: &Images, count: usize, device: &Device) -> (Tensor<4>, Vec<usize>) {
    let count = count.min(data.len());
    let (images, _) = batch(data, &(0..count).collect::<Vec<_>>(), (0.0, 1.0), device);
    (images, data.labels[..count].iter().map(|label| usize::from(*label)).collect())
}

/// A network as attackers see it.
fn recorded(model: &Classifier, data: &Images) -> Result<Recorded<Classifier, 4>> {
    Ok(Recorded::new(model, [1, data.height, data.width], |model, x| model.forward(x))?)
}

/// The attacks of an evaluation, from the cheapest to the strongest.
fn attacks(threat: Threat) -> Evaluation {
    let strong = Evaluation::new(threat).attack(Fgsm::new()).attack(Pgd::new().steps(20)).attack(Apgd::new());
    strong.attack(Apgd::targeted(9)).attack(Fab::targeted(9)).attack(Square::new().queries(1000))
}
