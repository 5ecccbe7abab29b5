//! Characters never met before, told apart after one or five examples of each.

use ::bilevel::meta::{Episodes, Maml, Omniglot, Reptile};
use ::bilevel::update::{Adam, Descent, Sgd};
use ::bilevel::{Batches, Problem};
use burn::tensor::activation::relu;
use burn::tensor::module::conv2d;
use burn::tensor::ops::ConvOptions;
use burn::tensor::{Device, Tensor};
use core_tensor::{Random, Tree};
use serde::Serialize;

use super::digits::{accuracy, cross_entropies, mean_and_error};
use super::{percent, percent_with_error};
use crate::data::digits;
use crate::error::Result;
use crate::report::bars::{Bar, Bars};
use crate::report::plot::number;
use crate::study::toolkit::{host_device, parallel};
use crate::study::{Part, Setting};
use crate::summary::grouped;

/// Pixels of a side of the characters.
const SIDE: usize = 14;
/// Of Omniglot's 136 characters those that are learned from, and of the digits.
const KNOWN: (usize, usize) = (100, 5);
const WAYS: usize = 5;
const SHOTS: [usize; 2] = [1, 5];
const QUERIES: usize = 5;
const CHANNELS: usize = 16;
const LAYERS: usize = 3;
const TASKS: u64 = 4;
/// Steps of learning, of Adam's rate.
const LEARNING: u64 = 200;
const OUTER_RATE: f64 = 3e-3;
/// Rate of adaptation; steps of it that are learned through, and that are taken on new tasks.
const RATE: f64 = 0.4;
const LEARNED_THROUGH: usize = 1;
const ADAPTED: usize = 3;
/// The same where only the head is adapted.
const HEAD_THROUGH: usize = 3;
const HEAD_ADAPTED: usize = 5;
/// The same of Reptile, which takes five examples of each class to learn.
const REPTILE_LEARNING: u64 = 100;
const REPTILE_RATE: f64 = 0.1;
const REPTILE_THROUGH: usize = 5;
const REPTILE_ADAPTED: usize = 10;
/// New tasks that are measured on.
const FRESH: u64 = 120;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Maml,
    FirstOrder,
    Anil,
    Reptile,
    Drawn,
    Prototypes,
    Neighbour,
}

const WHO: [(Who, &str, &str); 7] = [
    (Who::Maml, "MAML", "s1"),
    (Who::Anil, "ANIL", "s2"),
    (Who::FirstOrder, "FOMAML", "s3"),
    (Who::Reptile, "Reptile", "s4"),
    (Who::Drawn, "drawn start", "quiet"),
    (Who::Prototypes, "nearest mean of pixels", "s5"),
    (Who::Neighbour, "nearest neighbour in pixels", "s6"),
];

pub const UNITS: u64 = WHO.len() as u64;

type Examples = (Tensor<2>, Tensor<2>);
type Task = Batches<Examples, Examples>;

#[derive(Clone, Debug, Serialize)]
pub struct Learner {
    pub name: &'static str,
    #[serde(skip)]
    class: &'static str,
    /// Accuracy with one and five examples of each class, with its standard error over tasks.
    pub accuracies: Vec<(f64, f64)>,
}

#[derive(Clone, Debug, Serialize)]
pub struct FewShot {
    /// What the classes are.
    pub set: &'static str,
    /// Why it is not Omniglot, where it is not.
    pub missing: Option<String>,
    /// Classes that were learned from, and new ones, turned ones counted.
    pub classes: (usize, usize),
    /// Pixels of a side.
    pub side: usize,
    pub learners: Vec<Learner>,
}

/// Classes to learn from and new ones.
struct Sets {
    name: &'static str,
    missing: Option<String>,
    train: Omniglot,
    test: Omniglot,
}

impl Sets {
    /// Omniglot where it is there, else the digits.
    fn load() -> Result<Self> {
        let (name, missing, set, known) = match Omniglot::find().and_then(|path| Omniglot::load(&path, SIDE)) {
            Ok(set) => ("Omniglot", None, set, KNOWN.0),
            Err(error) => {
                let all = digits::load()?.train;
                let set = Omniglot {
                    pixels: all.pixels.iter().map(|pixel| f32::from(*pixel) / f32::from(all.ink)).collect(),
                    side: all.width,
                    labels: all.labels.iter().map(|label| usize::from(*label)).collect(),
                    classes: (0..crate::data::CLASSES).map(|digit| format!("digit/{digit}")).collect(),
                };
                // The file alone: a report holds no address to fetch from.
                let missing = match error {
                    ::bilevel::Error::Data { path, .. } => format!("no archive at {}", path.display()),
                    other => other.to_string(),
                };
                ("digits", Some(missing), set, KNOWN.1)
            }
        };
        let (train, test) = (set.keep(|class| class < known), set.keep(|class| class >= known));
        Ok(Self { name, missing, train: train.rotated(), test: test.rotated() })
    }

    fn classes(&self) -> (usize, usize) {
        let count = |set: &Omniglot| set.labels.iter().collect::<std::collections::BTreeSet<_>>().len();
        (count(&self.train), count(&self.test))
    }
}

/// Channels normalised by the batch, without memory.
fn normalised(x: Tensor<4>) -> Tensor<4> {
    let mean = |x: Tensor<4>| x.mean_dim(0).mean_dim(2).mean_dim(3);
    let centred = x.clone() - mean(x);
    let variance = mean(centred.clone().square());
    centred / (variance + 1e-3).sqrt()
}

/// What the convolutions make of images, one a row.
fn features(body: &Tree, inputs: Tensor<2>) -> Tensor<2> {
    let [count, pixels] = inputs.dims();
    let side = pixels.isqrt();
    let mut x = inputs.reshape([count, 1, side, side]);
    for i in 0..LAYERS {
        let weight = body.get::<4>(&format!("c{i}")).expect("a kernel for each layer");
        let bias = body.get::<1>(&format!("b{i}")).expect("a bias for each layer");
        let channels = bias.dims()[0];
        let out = conv2d(x, weight, None, ConvOptions::new([2, 2], [1, 1], [1, 1], 1));
        x = relu(normalised(out) + bias.reshape([1, channels, 1, 1]));
    }
    x.flatten(1, 3)
}

fn logits(body: &Tree, head: &Tree, inputs: Tensor<2>) -> Tensor<2> {
    let weight = head.get::<2>("w").expect("the head's weight");
    let bias = head.get::<1>("b").expect("the head's bias");
    features(body, inputs).matmul(weight) + bias.unsqueeze_dim::<2>(0)
}

fn start(side: usize, random: &Random, device: &Device) -> Result<(Tree, Tree)> {
    let mut random = random.fork("start");
    let (mut body, mut from, mut side) = (Tree::empty(), 1, side);
    for i in 0..LAYERS {
        let kernel = random.normal::<4>([CHANNELS, from, 3, 3], 0.0, (2.0 / (9 * from) as f64).sqrt(), device);
        body = body.push(format!("c{i}"), kernel)?.push(format!("b{i}"), Tensor::<1>::zeros([CHANNELS], device))?;
        (from, side) = (CHANNELS, side.div_ceil(2));
    }
    let inputs = CHANNELS * side * side;
    let head = Tree::empty()
        .push("w", Tensor::<2>::zeros([inputs, WAYS], device))?
        .push("b", Tensor::<1>::zeros([WAYS], device))?;
    Ok((body, head))
}

struct Bench {
    sets: Sets,
    device: Device,
    body: Tree,
    head: Tree,
    random: Random,
}

impl Bench {
    fn task(&self, set: &Omniglot, episodes: &Episodes, index: u64) -> Task {
        let [support, query] = set.batches(&episodes.task(index), &self.device);
        Batches::new(support, query)
    }

    fn episodes(&self, set: &Omniglot, shots: usize, label: &str) -> Result<Episodes> {
        Ok(set.episodes(WAYS, shots, QUERIES, self.random.fork(label).next_u64())?)
    }

    /// Accuracy on new tasks by any rule.
    fn judge(&self, of: impl Fn(&Task) -> Result<f64>) -> Result<Vec<(f64, f64)>> {
        SHOTS
            .iter()
            .map(|shots| {
                let episodes = self.episodes(&self.sets.test, *shots, "test")?;
                let right = (0..FRESH).map(|index| of(&self.task(&self.sets.test, &episodes, index)));
                Ok(mean_and_error(&right.collect::<Result<Vec<f64>>>()?))
            })
            .collect()
    }

    fn learner(&self, (who, name, class): (Who, &'static str, &'static str)) -> Result<Learner> {
        let accuracies = match who {
            Who::Prototypes | Who::Neighbour => self.judge(|task| Ok(self.by_pixels(who == Who::Prototypes, task)))?,
            Who::Anil => self.anil()?,
            _ => self.adapted(who)?,
        };
        Ok(Learner { name, class, accuracies })
    }

    /// The class whose mean, or whose nearest example, is nearest.
    fn by_pixels(&self, means: bool, task: &Task) -> f64 {
        let ((support, hot), (query, labels)) = (&task.inner[0], &task.outer[0]);
        let squares = |x: &Tensor<2>| x.clone().square().sum_dim(1);
        let logits = match means {
            true => {
                let count = hot.clone().sum_dim(0).transpose();
                let centres = hot.clone().transpose().matmul(support.clone()) / count;
                query.clone().matmul(centres.clone().transpose()) * 2.0 - squares(&centres).transpose()
            }
            false => {
                let near = query.clone().matmul(support.clone().transpose()) * 2.0 - squares(support).transpose();
                let nearest = near.argmax(1).squeeze_dim::<1>(1);
                hot.clone().select(0, nearest)
            }
        };
        accuracy(logits, labels)
    }

    fn adapted(&self, who: Who) -> Result<Vec<(f64, f64)>> {
        let (train, none) = (&self.sets.train, Tree::empty());
        let theta = self.body.clone().merge(self.head.clone())?;
        let loss =
            |_: &Tree, z: &Tree, (inputs, hot): &Examples| cross_entropies(logits(z, z, inputs.clone()), hot).mean();
        let episodes = self.episodes(train, 1, "train")?;
        let first = self.task(train, &episodes, 0);
        let problem = Problem::from_functions(&none, &theta, &first, loss, loss)?;
        let maml = |steps| Maml::new(Sgd::new(RATE), steps);
        let learned = match who {
            Who::Drawn => theta,
            Who::Reptile => {
                let many = self.episodes(train, 5, "train")?;
                let mut theta = theta;
                for step in 0..REPTILE_LEARNING {
                    let left = 1.0 - step as f64 / REPTILE_LEARNING as f64;
                    let reptile = Reptile::new(Sgd::new(REPTILE_RATE), REPTILE_THROUGH, left)?;
                    let tasks: Vec<Task> =
                        (step * TASKS..(step + 1) * TASKS).map(|index| self.task(train, &many, index)).collect();
                    theta = reptile.step(&problem, &none, theta, &tasks)?;
                }
                theta
            }
            _ => {
                let maml =
                    if who == Who::FirstOrder { maml(LEARNED_THROUGH)?.first_order() } else { maml(LEARNED_THROUGH)? };
                let mut descent = Descent::new(Adam::new(OUTER_RATE), &theta);
                for step in 0..LEARNING {
                    let tasks: Vec<Task> =
                        (step * TASKS..(step + 1) * TASKS).map(|index| self.task(train, &episodes, index)).collect();
                    let gradient = maml.gradient(&problem, &none, descent.at(), &tasks)?.start;
                    descent.step(&gradient)?;
                }
                descent.at().clone()
            }
        };
        let (rate, steps) = if who == Who::Reptile { (REPTILE_RATE, REPTILE_ADAPTED) } else { (RATE, ADAPTED) };
        let adapt = Maml::new(Sgd::new(rate), steps)?;
        self.judge(|task| {
            let z = adapt.adapt(&problem, &none, &learned, &task.inner)?;
            Ok(accuracy(logits(&z, &z, task.outer[0].0.clone()), &task.outer[0].1))
        })
    }

    /// Only the head is adapted, body and head are learned.
    fn anil(&self) -> Result<Vec<(f64, f64)>> {
        let train = &self.sets.train;
        let loss =
            |x: &Tree, z: &Tree, (inputs, hot): &Examples| cross_entropies(logits(x, z, inputs.clone()), hot).mean();
        let episodes = self.episodes(train, 1, "train")?;
        let problem = Problem::from_functions(&self.body, &self.head, &self.task(train, &episodes, 0), loss, loss)?;
        let maml = |steps| Maml::new(Sgd::new(RATE), steps);
        let learn = maml(HEAD_THROUGH)?;
        let (mut body, mut head) =
            (Descent::new(Adam::new(OUTER_RATE), &self.body), Descent::new(Adam::new(OUTER_RATE), &self.head));
        for step in 0..LEARNING {
            let tasks: Vec<Task> =
                (step * TASKS..(step + 1) * TASKS).map(|index| self.task(train, &episodes, index)).collect();
            let gradient = learn.gradient(&problem, body.at(), head.at(), &tasks)?;
            body.step(&gradient.x)?;
            head.step(&gradient.start)?;
        }
        let adapt = maml(HEAD_ADAPTED)?;
        self.judge(|task| {
            let z = adapt.adapt(&problem, body.at(), head.at(), &task.inner)?;
            Ok(accuracy(logits(body.at(), &z, task.outer[0].0.clone()), &task.outer[0].1))
        })
    }
}

pub fn run(setting: &Setting<'_>) -> Result<FewShot> {
    let (device, random, sets) = (host_device(), setting.random.fork("few shots"), Sets::load()?);
    let (body, head) = start(sets.train.side, &random, &device)?;
    let bench = Bench { sets, device, body, head, random };
    let learners = parallel(&WHO, |who| {
        let learner = bench.learner(*who)?;
        setting.progress.unit()?;
        Ok(learner)
    })?;
    let (classes, side) = (bench.sets.classes(), bench.sets.train.side);
    Ok(FewShot { set: bench.sets.name, missing: bench.sets.missing, classes, side, learners })
}

impl FewShot {
    pub fn of(&self, name: &str) -> &Learner {
        self.learners.iter().find(|learner| learner.name == name).expect("a learner of the list")
    }

    /// The best of the learned starts, by one example of each class.
    pub fn best(&self) -> &Learner {
        self.higher(&["MAML", "ANIL", "FOMAML", "Reptile"])
    }

    /// The better of the rules on pixels.
    pub fn pixels(&self) -> &Learner {
        self.higher(&["nearest mean of pixels", "nearest neighbour in pixels"])
    }

    /// What was taken instead of Omniglot, and why.
    fn told(&self) -> String {
        match &self.missing {
            None => "Omniglot: ".into(),
            Some(problem) => format!(
                "Omniglot is not there ({problem}); the embedded digits take its place, five of the ten to learn from: "
            ),
        }
    }

    fn higher(&self, names: &[&str]) -> &Learner {
        let all = names.iter().map(|name| self.of(name));
        all.max_by(|a, b| a.accuracies[0].0.total_cmp(&b.accuracies[0].0)).expect("names are given")
    }

    pub fn part(&self) -> Part {
        let bars = |title, at: usize| {
            let bars = self.learners.iter().map(|learner| Bar {
                name: learner.name.into(),
                value: 100.0 * learner.accuracies[at].0,
                label: percent(learner.accuracies[at].0),
                class: learner.class,
            });
            Bars { title, axis: "accuracy on new classes, %", end: 100.0, bars: bars.collect() }.html()
        };
        let rows = self.learners.iter().map(|learner| {
            let mut row = vec![learner.name.to_string()];
            row.extend(learner.accuracies.iter().map(|found| percent_with_error(*found)));
            row
        });
        Part {
            title: "New characters from one and five examples",
            text: format!(
                "{}{} classes to learn from and {} new ones, a class being a character turned by 0, 90, 180 or 270 degrees, with {} pixels a side. A network of {LAYERS} \
                 convolutions with {CHANNELS} channels, each normalised by the batch at hand, and a layer. MAML, FOMAML and ANIL learn for {LEARNING} steps of Adam on {TASKS} tasks of one \
                 example a class, by the loss after adaptation on {QUERIES} others a class: {LEARNED_THROUGH} step of rate {}, ANIL {HEAD_THROUGH} of the last layer only. Reptile learns for \
                 {REPTILE_LEARNING} steps from {REPTILE_THROUGH} steps on five examples a class. On new tasks they take {ADAPTED}, {HEAD_ADAPTED} and {REPTILE_ADAPTED} steps. The same \
                 starts serve for one and for five examples. Mean ± standard error over {FRESH} new tasks of five classes; chance is 20 %.",
                self.told(),
                grouped(self.classes.0),
                grouped(self.classes.1),
                self.side,
                number(RATE),
            ),
            figures: vec![bars("One example of each of five classes", 0), bars("Five examples of each", 1)],
            table: (vec!["start", "1 shot", "5 shots"], rows.collect()),
        }
    }
}
