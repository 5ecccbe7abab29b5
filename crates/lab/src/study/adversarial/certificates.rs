//! What is proven: bounds through networks against what attacks find, and smoothing.

use adversarial::Classifier as _;
use adversarial::{Apgd, CertifiedTraining, Evaluation, Method, RampUp, Smoothing, Verifier};
use burn::module::Module;
use burn::optim::{AdamWConfig, GradientsParams, ModuleOptimizer};
use burn::tensor::{Int, Tensor, TensorData};
use serde::Serialize;

use super::training::Network;
use super::{attacked, epsilon, percent, recorded, threat};
use crate::data::Dataset;
use crate::error::Result;
use crate::model::{Classifier, batch};
use crate::recipe::ModelRecipe;
use crate::report::plot::{Line, Plot, fixed};
use crate::study::{Part, Setting};
use crate::summary::Row;

const STEPS: usize = 900;
const BATCH: usize = 64;
const RATE: f64 = 2e-3;
/// Test images that are certified.
const IMAGES: usize = 60;
/// Radii in `Linf`, as multiples of the study's.
const FACTORS: [f64; 6] = [0.0625, 0.25, 0.5, 2.0 / 3.0, 1.0, 1.25];
/// Which of them the third network is trained for: bounds cost more accuracy than attacks do.
const AT: usize = 3;
/// Noise of smoothing, as a share of full ink a pixel.
const SIGMA: f64 = 0.25;
const DRAWS: usize = 1000;
/// Radii in `L2`.
const SMOOTHED: [f64; 6] = [0.0, 0.1, 0.2, 0.3, 0.4, 0.6];

pub const UNITS: u64 = 4;

/// A network's shares by radius.
#[derive(Clone, Debug, Serialize)]
pub struct Proven {
    pub name: String,
    /// Proven by interval bound propagation.
    pub ibp: Vec<f64>,
    /// Proven by CROWN.
    pub crown: Vec<f64>,
    /// Not broken by attacks.
    pub attacked: Vec<f64>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Certificates {
    pub radii: Vec<f64>,
    /// As usual, against PGD, for bounds.
    pub networks: Vec<Proven>,
    /// Radii in `L2` and shares of the images whose smoothed prediction is right and certified that far.
    pub smoothed: Vec<(f64, f64)>,
}

pub fn run(data: &Dataset, networks: &[Network], setting: &Setting<'_>) -> Result<Certificates> {
    let certified = train(data, setting)?;
    let models =
        [(networks[0].name, &networks[0].model), (networks[3].name, &networks[3].model), ("bounds", &certified)];
    let mut proven = Vec::new();
    for (name, model) in models {
        proven.push(prove(name, model, data, setting)?);
        setting.progress.unit()?;
    }
    let smoothed = smooth(&networks[3].model, data, setting)?;
    setting.progress.unit()?;
    Ok(Certificates { radii: FACTORS.map(|factor| factor * epsilon(data)).to_vec(), networks: proven, smoothed })
}

/// Trains for bounds: interval bound propagation with a radius that grows.
fn train(data: &Dataset, setting: &Setting<'_>) -> Result<Classifier> {
    let device = setting.device.clone().autodiff();
    let mut weights = setting.random.fork("adversarial weights");
    let mut model = Classifier::new(&ModelRecipe::default(), &data.train, &mut weights, &device)?;
    let mut optimizer: ModuleOptimizer = AdamWConfig::new().with_epsilon(1e-8).with_weight_decay(1e-4).init();
    let mut order = setting.random.fork("certified order");
    let mut queue = Vec::new();
    let ramp = RampUp::new(FACTORS[AT] * epsilon(data), STEPS * 2 / 3)?.warm_up(STEPS / 10);
    let mut program = None;
    for step in 0..STEPS {
        if queue.len() < BATCH {
            queue = order.permutation(data.train.len());
        }
        let chosen = queue.split_off(queue.len() - BATCH);
        let (images, labels) = batch(&data.train, &chosen, (0.0, 1.0), setting.device);
        let program = match &program {
            Some(program) => program,
            None => {
                program.insert(CertifiedTraining::record(&model, &images, |model: &Classifier, x| model.forward(x))?)
            }
        };
        let out = program.loss(&model, &images, &labels, &threat(epsilon(data))?, ramp.at(step))?;
        let gradients = GradientsParams::from_grads(out.loss.backward(), &model);
        let rate = RATE * (1.0 - step as f64 / STEPS as f64);
        model = optimizer.step(rate, model, gradients);
    }
    Ok(model.valid())
}

/// Proves and attacks one network at every radius. What is proven and broken would end it.
fn prove(name: &str, model: &Classifier, data: &Dataset, setting: &Setting<'_>) -> Result<Proven> {
    let (images, labels) = attacked(&data.test, IMAGES, setting.device);
    let verifier = Verifier::record(model, &images, |model: &Classifier, x| model.forward(x))?;
    let classifier = recorded(model, &data.test)?;
    let numbers: Vec<i64> = labels.iter().map(|label| *label as i64).collect();
    let classes = Tensor::<1, Int>::from_data(TensorData::new(numbers, [labels.len()]), setting.device);
    let mut proven = Proven { name: name.into(), ibp: Vec::new(), crown: Vec::new(), attacked: Vec::new() };
    for factor in FACTORS {
        let threat = threat(factor * epsilon(data))?;
        let ibp = verifier.margins(Method::Ibp, &images, &classes, &threat)?;
        let crown = verifier.margins(Method::CrownIbp, &images, &classes, &threat)?;
        let evaluation = Evaluation::new(threat).attack(Apgd::new().steps(50)).attack(Apgd::targeted(9).steps(30));
        let report = evaluation.run(&classifier, images.clone(), &labels, Some(&crown.certified))?;
        proven.ibp.push(ibp.certified_accuracy());
        proven.crown.push(crown.certified_accuracy());
        proven.attacked.push(report.ensemble.value().unwrap_or(f64::NAN));
    }
    Ok(proven)
}

fn smooth(model: &Classifier, data: &Dataset, setting: &Setting<'_>) -> Result<Vec<(f64, f64)>> {
    let (images, labels) = attacked(&data.test, IMAGES, setting.device);
    let classifier = recorded(model, &data.test)?;
    let smoothing = Smoothing::new(SIGMA)?.estimation(DRAWS)?;
    let found = smoothing.certify(&images, |x| classifier.logits(x))?;
    let share = |radius: f64| {
        let right =
            found.iter().zip(&labels).filter(|(found, label)| found.class == Some(**label) && found.radius >= radius);
        right.count() as f64 / labels.len() as f64
    };
    Ok(SMOOTHED.iter().map(|radius| (*radius, share(*radius))).collect())
}

impl Certificates {
    pub fn row(&self) -> Option<Row> {
        let (at, epsilon) = (AT, self.radii[AT]);
        let bounds = self.networks.last()?;
        Some(Row {
            label: format!("trained for bounds: proven, attacked at {}", fixed(epsilon, 2)).into(),
            value: format!("{}, {}", percent(bounds.crown[at]), percent(bounds.attacked[at])),
            note: "nothing proven was broken".into(),
        })
    }

    pub fn answer(&self) -> String {
        let (at, epsilon) = (AT, self.radii[AT]);
        let [standard, _, bounds] = &self.networks[..] else { unreachable!("three networks") };
        let (radius, smoothed) = self.smoothed[2];
        format!(
            "No attack shows that a network holds, but bounds do: of the network trained for them {} of the images are proven at {epsilon:.2}, and attacks \
             leave {}; of the one trained as usual {} are proven at {} and {} at {epsilon:.2}. Smoothing proves {} at {radius} in L2 without bounds. \
             Nothing proven was broken.",
            percent(bounds.crown[at]),
            percent(bounds.attacked[at]),
            percent(standard.crown[0]),
            fixed(self.radii[0], 4),
            percent(standard.crown[at]),
            percent(smoothed)
        )
    }

    pub fn part(&self) -> Part {
        let points =
            |shares: &[f64]| self.radii.iter().zip(shares).map(|(radius, share)| (*radius, 100.0 * share)).collect();
        let names = ["trained as usual", "against PGD-7", "for bounds"];
        let mut lines = Vec::new();
        for ((network, name), class) in self.networks.iter().zip(names).zip(["s1", "s2", "s3"]) {
            lines.push(Line::new(&format!("{name}: proven"), class, points(&network.crown)));
            lines.push(Line::new(
                &format!("{name}: not broken"),
                &format!("{class} dashed"),
                points(&network.attacked),
            ));
        }
        let bounds = Plot {
            title: "Proven and not broken",
            x_axis: "radius in Linf, ink of a pixel from 0 to 1",
            x_range: (0.0, self.radii[FACTORS.len() - 1]),
            y_axis: "test images, %",
            logarithmic: false,
            lines,
        };
        let smoothed = Plot {
            title: "Proven by smoothing",
            x_axis: "radius in L2",
            x_range: (0.0, SMOOTHED[SMOOTHED.len() - 1]),
            y_axis: "test images, %",
            logarithmic: false,
            lines: vec![Line::new(
                &format!("trained against PGD-7, noise {SIGMA}"),
                "s2",
                self.smoothed.iter().map(|(radius, share)| (*radius, 100.0 * share)).collect(),
            )],
        };
        let rows = self.radii.iter().enumerate().map(|(i, radius)| {
            let mut row = vec![fixed(*radius, 4)];
            for network in &self.networks {
                row.extend([network.ibp[i], network.crown[i], network.attacked[i]].map(percent));
            }
            row
        });
        Part {
            title: "Proofs against attacks",
            text: format!(
                "The first {IMAGES} test images. Intervals and linear bounds (CROWN over intervals) through the recorded network count rounding; \
                 every image that is proven was also attacked by APGD-CE and APGD-T, and one broken would have ended the study. The third \
                 network is trained on the worst logits that intervals allow, {STEPS} steps with a growing radius. Smoothing draws {DRAWS} noisy copies, and \
                 each of its proofs is wrong with probability 0.001 at most."
            ),
            figures: vec![bounds.html(), smoothed.html()],
            table: (
                vec![
                    "radius",
                    "as usual: intervals",
                    "CROWN",
                    "not broken",
                    "PGD-7: intervals",
                    "CROWN",
                    "not broken",
                    "bounds: intervals",
                    "CROWN",
                    "not broken",
                ],
                rows.collect(),
            ),
        }
    }
}
