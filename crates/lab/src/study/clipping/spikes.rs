//! Spikes under Adam: how long training takes to recover from a gradient a thousand times too long.

use ::clipping::{AdaGc, ClipByGlobalNorm, Spam, ZClip};
use burn::module::Module;
use burn::optim::{AdamConfig, GradientsParams, ModuleOptimizer};
use burn::tensor::{Device, Int, Tensor};
use core_tensor::transform::{Chain, Context, GradientTransform, Update};
use core_tensor::{Random, Scalar, Tree};
use serde::Serialize;

use crate::data::{CLASSES, Dataset};
use crate::error::Result;
use crate::model::{Classifier, batch};
use crate::recipe::{DataRecipe, ModelName, ModelRecipe};
use crate::report::plot::{Line, Plot, number, significant};
use crate::study::toolkit::{largest, median, parallel};
use crate::study::{Part, Setting};

const STEPS: u64 = 1000;
const SEEDS: u64 = 3;
const BATCH: usize = 64;
const HIDDEN: usize = 32;
const RATE: f64 = 1e-3;
const EVERY: u64 = 100;
const FACTOR: f64 = 1000.0;

type Make = fn() -> core_tensor::Result<Chain>;

/// A rule, whether there are spikes before it, and after how many steps it resets Adam's moments (0: never).
#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    spikes: bool,
    reset: u64,
    make: Make,
}

const fn case(name: &'static str, make: Make) -> Case {
    Case { name, spikes: true, reset: 0, make }
}

const RULES: [Case; 6] = [
    Case { spikes: false, ..case("no spikes", || Ok(Chain::new())) },
    case("none", || Ok(Chain::new())),
    case("global norm 1", || Ok(Chain::new().then(ClipByGlobalNorm::new(1.0)?))),
    case("ZClip", || Ok(Chain::new().then(ZClip::default()))),
    case("AdaGC", || Ok(Chain::new().then(AdaGc::default()))),
    Case { reset: 500, ..case("SPAM", || Ok(Chain::new().then(Spam::default()))) },
];

pub const UNITS: u64 = RULES.len() as u64 * SEEDS;

/// Makes every hundredth gradient a thousand times as long.
struct Spike;

impl GradientTransform for Spike {
    fn name(&self) -> &str {
        "spike"
    }

    fn apply(&mut self, grads: Tree, context: &Context<'_>) -> core_tensor::Result<Update> {
        Ok(Update::Apply(if is_spike(context.step + 1) { grads.scale(FACTOR) } else { grads }))
    }
}

/// Whether the update of this number, from 1, is a spike's.
fn is_spike(step: u64) -> bool {
    step.is_multiple_of(EVERY) && step < STEPS
}

/// A rule over all seeds and spikes.
#[derive(Clone, Debug, Serialize)]
pub struct Rule {
    /// Its name.
    pub name: String,
    /// Steps after each spike, its own included, until the training loss is at or under what it was before and stays there until
    /// the next spike; [`None`] where it does not. Empty without spikes.
    pub recoveries: Vec<Option<u64>>,
    /// The median of those, a hundred where one is missing; `None` without spikes.
    pub median_recovery: Option<f64>,
    /// The share of spikes not recovered from by the next.
    pub lost: f64,
    /// By what the training loss was multiplied at most until the next spike: median and largest.
    pub jump: Option<(f64, f64)>,
    /// Median over seeds of the last training loss.
    pub last_loss: f64,
    /// How many steps earlier the run without spikes had that loss; 0 for itself.
    pub behind: u64,
    /// Median over seeds of the share of the test set that is right at the end.
    pub accuracy: f64,
    /// Median over seeds of the training loss, before the first step and after each.
    pub curve: Vec<f64>,
}

/// All rules.
#[derive(Clone, Debug, Serialize)]
pub struct Spikes {
    pub rules: Vec<Rule>,
}

/// One seed: the training loss before the first step and after each, and the accuracy at the end.
struct Run {
    losses: Vec<f64>,
    accuracy: f64,
}

pub fn run(setting: &Setting<'_>) -> Result<Spikes> {
    let data = Dataset::load(&DataRecipe::default())?;
    let jobs: Vec<(usize, u64)> = (0..RULES.len()).flat_map(|rule| (0..SEEDS).map(move |seed| (rule, seed))).collect();
    let mut runs = parallel(&jobs, |&(rule, seed)| {
        let run = train(RULES[rule], &data, setting.random.fork(format!("spikes {seed}")), setting.device)?;
        setting.progress.unit()?;
        Ok(run)
    })?
    .into_iter();
    let mut rules: Vec<Rule> =
        RULES.iter().map(|case| Rule::of(*case, runs.by_ref().take(SEEDS as usize).collect())).collect();
    let calm = rules[0].curve.clone();
    for rule in &mut rules[1..] {
        let reached = calm.iter().position(|loss| *loss <= rule.last_loss).unwrap_or(calm.len() - 1);
        rule.behind = STEPS - reached as u64;
    }
    Ok(Spikes { rules })
}

fn train(case: Case, data: &Dataset, random: Random, device: &Device) -> Result<Run> {
    let autodiff = device.clone().autodiff();
    let recipe = ModelRecipe { name: ModelName::Mlp, hidden: HIDDEN, ..ModelRecipe::default() };
    let mut model = Classifier::new(&recipe, &data.train, &mut random.fork("weights"), &autodiff)?;
    let mut chain = if case.spikes { Chain::new().then(Spike) } else { Chain::new() }.then((case.make)()?);
    let fresh = || -> ModuleOptimizer { AdamConfig::new().with_epsilon(1e-8).init() };
    let mut optimizer = fresh();
    let scale = data.train.mean_and_deviation();
    let whole: Vec<usize> = (0..data.train.len()).collect();
    let (images, labels) = batch(&data.train, &whole, scale, device);
    let measure = |model: &Classifier| Scalar::from_tensor(model.valid().loss(images.clone(), labels.clone())).value();
    let mut losses = vec![measure(&model)];
    let mut order = random.fork("order");
    let mut queue: Vec<usize> = Vec::new();
    for step in 0..STEPS {
        if case.reset > 0 && step > 0 && step % case.reset == 0 {
            optimizer = fresh();
        }
        if queue.len() < BATCH {
            queue = order.permutation(data.train.len());
        }
        let indices = queue.split_off(queue.len() - BATCH);
        let (images, labels) = batch(&data.train, &indices, scale, &autodiff);
        let grads = GradientsParams::from_grads(model.loss(images, labels).backward(), &model);
        let outcome = chain.optimize(model, &mut optimizer, RATE, grads).map_err(core_tensor::Error::from)?;
        model = outcome.into_model();
        losses.push(measure(&model));
    }
    Ok(Run { losses, accuracy: accuracy(&model, data, scale, device) })
}

/// The share of the test set that is right.
fn accuracy(model: &Classifier, data: &Dataset, scale: (f64, f64), device: &Device) -> f64 {
    let whole: Vec<usize> = (0..data.test.len()).collect();
    let (images, _): (Tensor<4>, Tensor<1, Int>) = batch(&data.test, &whole, scale, device);
    let logits: Vec<f64> = model.valid().forward(images).into_data().iter::<f64>().collect();
    let class = |logits: &[f64]| (0..CLASSES).max_by(|&a, &b| logits[a].total_cmp(&logits[b]));
    let right = logits.chunks(CLASSES).zip(&data.test.labels);
    right.filter(|(logits, label)| class(logits) == Some(usize::from(**label))).count() as f64 / data.test.len() as f64
}

/// For each spike: steps until the loss is back for good, and the largest loss until the next over the one before.
fn recoveries(losses: &[f64]) -> Vec<(Option<u64>, f64)> {
    let spikes = (1..losses.len()).filter(|step| is_spike(*step as u64));
    spikes
        .map(|step| {
            let before = losses[step - 1];
            let after = &losses[step..losses.len().min(step + EVERY as usize)];
            let above = after.iter().rposition(|loss| !(*loss <= before)).map_or(0, |at| at + 1);
            ((above < after.len()).then_some(above as u64 + 1), largest(after.iter().copied()) / before)
        })
        .collect()
}

impl Rule {
    fn of(Case { name, spikes, .. }: Case, runs: Vec<Run>) -> Self {
        let all: Vec<(Option<u64>, f64)> = match spikes {
            true => runs.iter().flat_map(|run| recoveries(&run.losses)).collect(),
            false => Vec::new(),
        };
        let steps = all.iter().map(|(back, _)| back.unwrap_or(EVERY) as f64);
        let lost = all.iter().filter(|(back, _)| back.is_none()).count();
        let at = |step: usize| median(runs.iter().map(|run| run.losses[step]));
        Self {
            name: name.into(),
            median_recovery: spikes.then(|| median(steps)),
            lost: lost as f64 / all.len().max(1) as f64,
            jump: spikes.then(|| (median(all.iter().map(|a| a.1)), largest(all.iter().map(|a| a.1)))),
            recoveries: all.iter().map(|(back, _)| *back).collect(),
            last_loss: at(STEPS as usize),
            behind: 0,
            accuracy: median(runs.iter().map(|run| run.accuracy)),
            curve: (0..=STEPS as usize).map(at).collect(),
        }
    }

    fn cells(&self) -> Vec<String> {
        let or_dash = |value: Option<String>| value.unwrap_or_else(|| "–".into());
        vec![
            self.name.clone(),
            or_dash(self.median_recovery.map(number)),
            or_dash(self.median_recovery.map(|_| format!("{:.0} %", 100.0 * self.lost))),
            or_dash(self.jump.map(|jump| significant(jump.0))),
            or_dash(self.jump.map(|jump| significant(jump.1))),
            significant(self.last_loss),
            self.behind.to_string(),
            format!("{:.1} %", 100.0 * self.accuracy),
        ]
    }
}

impl Spikes {
    /// The rules before which there are spikes, less the one that does nothing.
    pub fn clipped(&self) -> impl Iterator<Item = &Rule> {
        self.rules.iter().filter(|rule| rule.median_recovery.is_some() && rule.name != "none")
    }

    /// How many of those recover in fewer steps than this one.
    pub fn faster_than(&self, none: &Rule) -> usize {
        let steps = |rule: &Rule| rule.median_recovery.unwrap_or(f64::INFINITY);
        self.clipped().filter(|rule| steps(rule) < steps(none)).count()
    }

    pub fn part(&self) -> Part {
        let classes = ["quiet", "s2", "s1", "s3", "s4", "s5"];
        let lines = self.rules.iter().zip(classes).map(|(rule, class)| {
            let points = rule.curve.iter().enumerate().skip(1).step_by(2).map(|(step, loss)| (step as f64, *loss));
            Line::new(&rule.name, class, points.collect())
        });
        let plot = Plot {
            title: "Training loss with a spike every 100 steps",
            x_axis: "step",
            x_range: (0.0, STEPS as f64),
            y_axis: "cross-entropy, nats, median of seeds (log scale)",
            logarithmic: true,
            lines: lines.collect(),
        };
        Part {
            title: "At spikes, under Adam",
            text: format!(
                "A perceptron with two layers of {HIDDEN} on the embedded digits, Adam at {RATE}, batch {BATCH}, {STEPS} steps, {SEEDS} seeds; \
                 every {EVERY}th gradient is multiplied by {FACTOR}. Recovered: the loss over the training set is at or under what it was \
                 before the spike and stays there until the next, counted from the spike's own step. Steps behind: how much earlier the run \
                 without spikes had the last loss. Adam shortens the spike itself, but for tens of steps the first moment carries on in its \
                 direction, and for a thousand the second shortens every step. The global limit is the usual 1; the others have their papers' \
                 constants, SPAM with its reset of Adam's moments every 500 steps."
            ),
            figures: vec![plot.html()],
            table: (
                vec![
                    "rule",
                    "steps to recover, median",
                    "not recovered",
                    "jump of the loss, median",
                    "largest",
                    "last loss",
                    "steps behind",
                    "test accuracy",
                ],
                self.rules.iter().map(Rule::cells).collect(),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recoveries_by_hand() {
        let mut losses = vec![1.0; 1001];
        losses[101] = 5.0; // better at first, then worse: back for good at 102, the third step
        losses[200..300].fill(1.5); // not before the next spike
        let found = recoveries(&losses);
        assert_eq!(found.len(), 9);
        assert_eq!(found[0], (Some(3), 5.0));
        assert_eq!(found[1], (None, 1.5));
        assert_eq!(found[2], (Some(1), 1.0 / 1.5));
        assert_eq!(found[3], (Some(1), 1.0));
    }

    #[test]
    fn spikes_come_every_hundredth_step() {
        let device = Device::flex();
        let mut norm = |step| {
            let tree = Tree::empty().push("x", Tensor::<1>::from_data([3.0, 4.0], &device)).unwrap();
            match Spike.apply(tree, &Context::new(step)) {
                Ok(Update::Apply(tree)) => tree.norm().value(),
                _ => panic!("applied"),
            }
        };
        assert_eq!([0, 98, 99, 100, 199, 999].map(&mut norm), [5.0, 5.0, 5000.0, 5.0, 5000.0, 5.0]);
    }

    #[test]
    fn an_unclipped_spike_is_felt_and_a_clipped_one_less() {
        let data = Dataset::load(&DataRecipe::default()).unwrap();
        let losses = |rule| train(rule, &data, Random::new(1), &Device::flex()).unwrap();
        let (calm, none, zclip) = (losses(RULES[0]), losses(RULES[1]), losses(RULES[3]));
        assert_eq!(calm.losses[..100], none.losses[..100], "the same until the first spike");
        assert_eq!(calm.losses[..20], zclip.losses[..20]);
        assert!(none.losses[130] > zclip.losses[130], "{:?}", &none.losses[99..131]);
        assert!(zclip.losses[1000] < none.losses[1000]);
        assert!(calm.accuracy > 0.93, "{}", calm.accuracy);
    }
}
