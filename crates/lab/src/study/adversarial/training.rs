//! The same network trained as usual and against an adversary, under every attack.

use std::time::Instant;

use adversarial::Threat;
use adversarial::training::{
    FastTraining, FreeTraining, PgdTraining, RobustProgram, RobustTraining, StandardTraining, TradesTraining,
};
use burn::module::Module;
use burn::optim::{AdamWConfig, ModuleOptimizer};
use burn::tensor::Device;
use core_tensor::Random;
use serde::Serialize;

use super::{ATTACKED, attacked, attacks, epsilon, percent, recorded, threat};
use crate::data::Dataset;
use crate::error::Result;
use crate::model::{Classifier, batch};
use crate::recipe::ModelRecipe;
use crate::report::bars::{Bar, Bars};
use crate::report::plot::fixed;
use crate::study::toolkit::parallel;
use crate::study::{Part, Setting};

/// Steps on images of 8 × 8, and on larger ones.
const STEPS: [usize; 2] = [700, 2500];
const BATCH: usize = 64;
const RATE: f64 = 2e-3;
const INNER_STEPS: usize = 7;

/// How a network is trained: its name and the method.
type Method = (&'static str, fn(Threat) -> Result<Box<dyn Robust>>);

/// A method whose radius can grow.
trait Robust: RobustTraining<Classifier, 4> {
    /// Sets the radius of the next steps; methods without one or with a fixed one leave it.
    fn grow(&mut self, _epsilon: f64) -> Result<()> {
        Ok(())
    }
}

impl Robust for StandardTraining {}
impl Robust for FreeTraining<4> {}

impl Robust for FastTraining<4> {
    fn grow(&mut self, epsilon: f64) -> Result<()> {
        Ok(self.set_radius(epsilon)?)
    }
}

impl Robust for PgdTraining {
    fn grow(&mut self, epsilon: f64) -> Result<()> {
        Ok(self.set_radius(epsilon)?)
    }
}

impl Robust for TradesTraining {
    fn grow(&mut self, epsilon: f64) -> Result<()> {
        Ok(self.set_radius(epsilon)?)
    }
}

const METHODS: [Method; 5] = [
    ("standard", |_| Ok(Box::new(StandardTraining::new()))),
    ("Fast", |threat| Ok(Box::new(FastTraining::new(threat)?))),
    ("Free, 4 replays", |threat| Ok(Box::new(FreeTraining::new(threat)?.replays(4)?))),
    ("PGD-7", |threat| Ok(Box::new(PgdTraining::new(threat)?.steps(INNER_STEPS)?))),
    ("TRADES", |threat| Ok(Box::new(TradesTraining::new(threat, 6.0)?.steps(INNER_STEPS)?))),
];

pub const UNITS: u64 = 2 * METHODS.len() as u64;

/// A trained network.
pub struct Network {
    pub name: &'static str,
    pub model: Classifier,
    gradients: f64,
    seconds: f64,
}

/// A network under attack.
#[derive(Clone, Debug, Serialize)]
pub struct Robustness {
    pub name: String,
    /// Gradient evaluations of the network for one step of the optimizer.
    pub gradients_a_step: f64,
    /// Seconds of the whole training, beside others.
    pub seconds: f64,
    /// Share of the attacked test images classified right.
    pub clean: f64,
    /// The same after each attack, by its name.
    pub attacks: Vec<(String, f64)>,
    /// Share that no attack broke.
    pub ensemble: f64,
    /// The interval of confidence of the last.
    pub interval: (f64, f64),
}

#[derive(Clone, Debug, Serialize)]
pub struct Training {
    pub epsilon: f64,
    pub steps: usize,
    /// The one trained as usual first.
    pub networks: Vec<Robustness>,
}

/// Trains every network from the same weights on the same batches.
pub fn networks(data: &Dataset, setting: &Setting<'_>) -> Result<Vec<Network>> {
    parallel(&METHODS, |(name, method)| {
        let network = train(name, method(threat(epsilon(data))?)?.as_mut(), data, setting.random, setting.device)?;
        setting.progress.unit()?;
        Ok(network)
    })
}

/// Steps of the optimizer, and at one of them the learning rate and the share of the radius. The rate goes down to nothing, as all
/// of them end better so. On larger images both grow over the first third: a radius of 0.3 at once keeps a network from
/// learning anything.
pub fn schedule(data: &Dataset) -> (usize, impl Fn(usize) -> (f64, f64)) {
    let large = usize::from(data.test.width >= 28);
    let steps = STEPS[large];
    let warm_up = if large == 1 { 0.3 * steps as f64 } else { 0.0 };
    let rate = move |step: usize| {
        let rise = if warm_up > 0.0 { (step as f64 / warm_up).min(1.0) } else { 1.0 };
        (RATE * rise * (1.0 - step as f64 / steps as f64), rise)
    };
    (steps, rate)
}

fn train(
    name: &'static str,
    method: &mut dyn Robust,
    data: &Dataset,
    random: &Random,
    device: &Device,
) -> Result<Network> {
    let mut weights = random.fork("adversarial weights");
    let mut model = Classifier::new(&ModelRecipe::default(), &data.train, &mut weights, &device.clone().autodiff())?;
    let mut optimizer: ModuleOptimizer = AdamWConfig::new().with_epsilon(1e-8).with_weight_decay(1e-4).init();
    let mut order = random.fork("adversarial order");
    let mut queue = Vec::new();
    let begun = Instant::now();
    let (mut program, mut gradients) = (None, 0);
    let (steps, at) = schedule(data);
    for step in 0..steps {
        let (rate, share) = at(step);
        if share < 1.0 || step == 0 || at(step - 1).1 < 1.0 {
            method.grow(share * epsilon(data))?;
        }
        if queue.len() < BATCH {
            queue = order.permutation(data.train.len());
        }
        let chosen = queue.split_off(queue.len() - BATCH);
        let (images, labels) = batch(&data.train, &chosen, (0.0, 1.0), device);
        let program = match &program {
            Some(program) => program,
            None => program.insert(RobustProgram::record(&model, &images, |model: &Classifier, x| model.forward(x))?),
        };
        let found = method.gradients(program, &model, images, labels)?;
        gradients += found.cost.gradient_evaluations;
        model = optimizer.step(rate, model, found.gradient.into_params()?);
    }
    let gradients = gradients as f64 / steps as f64;
    Ok(Network { name, model: model.valid(), gradients, seconds: begun.elapsed().as_secs_f64() })
}

/// Attacks every network with everything.
pub fn run(data: &Dataset, networks: &[Network], setting: &Setting<'_>) -> Result<Training> {
    let (images, labels) = attacked(&data.test, ATTACKED, setting.device);
    let mut result = Vec::new();
    for network in networks {
        let report = attacks(threat(epsilon(data))?).run(
            &recorded(&network.model, &data.test)?,
            images.clone(),
            &labels,
            None,
        )?;
        setting.progress.unit()?;
        let share = |share: adversarial::Share| share.value().unwrap_or(f64::NAN);
        result.push(Robustness {
            name: network.name.into(),
            gradients_a_step: network.gradients,
            seconds: network.seconds,
            clean: share(report.clean),
            attacks: report.attacks.iter().map(|attack| (attack.name.clone(), share(attack.standing))).collect(),
            ensemble: share(report.ensemble),
            interval: (report.ensemble.low, report.ensemble.high),
        });
    }
    Ok(Training { epsilon: epsilon(data), steps: schedule(data).0, networks: result })
}

impl Training {
    pub fn answer(&self) -> String {
        let standard = &self.networks[0];
        let robust = &self.networks[1..];
        let best = robust.iter().fold(&robust[0], |a, b| if b.ensemble > a.ensemble { b } else { a });
        let holds = best.ensemble > standard.ensemble + 0.1;
        let start = match holds {
            true => "Most of what the attacks break",
            false => "In this run not much",
        };
        format!(
            "{start}: at {} the best, {}, keeps {} under all attacks for {} clean, the network trained as usual {} for {}; it costs \
             {} gradients a step instead of {}, and Fast training {} for {}.",
            self.epsilon,
            best.name,
            percent(best.ensemble),
            percent(best.clean),
            percent(standard.ensemble),
            percent(standard.clean),
            fixed(best.gradients_a_step, 1),
            fixed(standard.gradients_a_step, 1),
            fixed(self.networks[1].gradients_a_step, 1),
            percent(self.networks[1].ensemble)
        )
    }

    pub fn part(&self) -> Part {
        let bar = |network: &Robustness| Bar {
            name: network.name.clone(),
            value: 100.0 * network.ensemble,
            label: percent(network.ensemble),
            class: "s1",
        };
        let bars = Bars {
            title: "Accuracy that no attack takes",
            axis: "test images classified right under every attack, %",
            end: 100.0,
            bars: self.networks.iter().map(bar).collect(),
        };
        let rows = self.networks.iter().map(|network| {
            let mut row = vec![
                network.name.clone(),
                fixed(network.gradients_a_step, 1),
                fixed(network.seconds, 1),
                percent(network.clean),
            ];
            row.extend(network.attacks.iter().map(|(_, accuracy)| percent(*accuracy)));
            row.push(percent(network.ensemble));
            row.push(format!("{} to {}", percent(network.interval.0), percent(network.interval.1)));
            row
        });
        let mut head = vec!["training", "gradients a step", "seconds", "clean"];
        head.extend(attack_names(self.networks[0].attacks.len()));
        head.extend(["all of them", "95 % interval"]);
        Part {
            title: "Every network under every attack",
            text: format!(
                "The same network from the same weights, {} steps of AdamW on batches of {BATCH} images, against an \
                 adversary in Linf with radius {} (of ink from 0 to 1); PGD and TRADES take {INNER_STEPS} inner steps. Accuracies are of \
                 the first {ATTACKED} test images, each attacked by each attack; seconds are of the training, two networks at a time.",
                self.steps, self.epsilon
            ),
            figures: vec![bars.html()],
            table: (head, rows.collect()),
        }
    }
}

/// The attacks' names as heads of columns.
fn attack_names(count: usize) -> impl Iterator<Item = &'static str> {
    ["FGSM", "PGD-20", "APGD-CE", "APGD-T", "FAB-T", "Square"].into_iter().take(count)
}
