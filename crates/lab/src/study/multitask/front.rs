//! All trade-offs at once: sets of networks learned for every preference, against a network trained for each.

use ::multitask::pareto::{Hypernetwork, LowRankPareto, ParetoSet, dirichlet, hypervolume, non_dominated, preference};
use burn::module::Module;
use burn::tensor::{Device, Tensor};
use core_tensor::{Chain, Program, Random, Tree};
use serde::Serialize;

use super::examples::{Batch, Examples, Tasks};
use super::methods::{BATCH, Size};
use super::network::{Join, Network, Order, Training, adam};
use crate::error::Result;
use crate::report::plot::{Line, Plot, fixed, number};
use crate::study::toolkit::parallel;
use crate::study::{Part, Setting};
use crate::summary::grouped;

const SEEDS: u64 = 3;
/// Shares of the first task for which networks are trained one by one.
const SHARES: [f64; 7] = [0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9];
/// A set is asked for so many preferences, evenly.
const ASKED: usize = 25;
/// Rates tried; the best by hypervolume on validation is taken, of each on its own.
const RATES: [f64; 4] = [1e-3, 3e-3, 8e-3, 2e-2];
/// Steps of a set and of every network, over those of the comparison of methods.
const LONGER: usize = 3;
/// Widths of the body.
const NARROW: [usize; 1] = [16];
const RANK: usize = 4;
/// Hidden units of the hypernetwork.
const WIDTH: usize = 16;

const LEARNERS: [&str; 2] = ["low-rank Pareto set", "hypernetwork"];
pub const UNITS: u64 = (SEEDS + RATES.len() as u64) * (LEARNERS.len() + SHARES.len()) as u64;

/// The losses of both tasks over the test set, for a share of the first.
#[derive(Clone, Debug, Serialize)]
struct Point {
    share: f64,
    losses: Vec<f64>,
}

/// What stands for all trade-offs.
#[derive(Clone, Debug, Serialize)]
pub struct Set {
    pub name: String,
    /// The rate chosen.
    rate: f64,
    /// Numbers trained.
    pub parameters: usize,
    /// Steps, of all its networks together.
    pub steps: usize,
    /// Area dominated below the reference, seed by seed.
    pub hypervolumes: Vec<f64>,
    /// Points of the first seed.
    points: Vec<Point>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Fronts {
    names: Vec<&'static str>,
    /// The corner of the hypervolumes: twice the losses at equal shares.
    reference: Vec<f64>,
    /// A network for each share first, then the learners.
    pub sets: Vec<Set>,
}

/// What a job gives: points, numbers trained, steps.
type Learned = (Vec<Point>, usize, usize);
/// A network for each share, or a learner, as a whole.
const KINDS: usize = 1 + LEARNERS.len();

/// All of one seed and rate: the networks for each share, then the learners; measured on the examples given.
fn all_of(
    tasks: &Tasks,
    on: &Examples,
    runs: &[(Random, [f64; KINDS])],
    setting: &Setting<'_>,
) -> Result<Vec<[Learned; KINDS]>> {
    let each = SHARES.len();
    let jobs: Vec<(usize, usize)> =
        (0..runs.len()).flat_map(|run| (0..each + LEARNERS.len()).map(move |job| (run, job))).collect();
    let found = parallel(&jobs, |&(run, job)| {
        let (random, rates) = &runs[run];
        let learned = match job.checked_sub(each) {
            None => alone(tasks, SHARES[job], on, rates[0], random, setting.device)?,
            Some(learner) => learn(tasks, learner, on, rates[1 + learner], random, setting.device)?,
        };
        setting.progress.unit()?;
        Ok(learned)
    })?;
    let whole = found.chunks(each + LEARNERS.len()).map(|jobs| {
        let (networks, learners) = jobs.split_at(each);
        let sum = |of: fn(&Learned) -> usize| networks.iter().map(of).sum();
        let points = networks.iter().flat_map(|(points, ..)| points.clone()).collect();
        [(points, sum(|of| of.1), sum(|of| of.2)), learners[0].clone(), learners[1].clone()]
    });
    Ok(whole.collect())
}

fn volume(points: &[Point], reference: &[f64]) -> Result<f64> {
    let losses: Vec<Vec<f64>> = points.iter().map(|point| point.losses.clone()).collect();
    Ok(hypervolume(&losses, reference)?)
}

/// Twice the losses of the networks of equal shares, on average over runs.
fn corner(runs: &[[Learned; KINDS]], count: usize) -> Vec<f64> {
    let equal = |task: usize| runs.iter().map(|run| run[0].0[SHARES.len() / 2].losses[task]).sum::<f64>();
    (0..count).map(|task| 2.0 * equal(task) / runs.len() as f64).collect()
}

pub fn run(tasks: &Tasks, setting: &Setting<'_>) -> Result<Fronts> {
    let (random, count) = (setting.random.fork("front"), tasks.names.len());
    let tuning: Vec<_> = RATES.iter().map(|rate| (random.fork("tuning"), [*rate; KINDS])).collect();
    let tried = all_of(tasks, &tasks.validation, &tuning, setting)?;
    let reference = corner(&tried, count);
    let mut chosen = [RATES[0]; KINDS];
    for (kind, chosen) in chosen.iter_mut().enumerate() {
        let mut best = f64::NEG_INFINITY;
        for (run, rate) in tried.iter().zip(RATES) {
            let volume = volume(&run[kind].0, &reference)?;
            if volume > best {
                (best, *chosen) = (volume, rate);
            }
        }
    }
    let seeds: Vec<_> = (0..SEEDS).map(|seed| (random.fork(format!("seed {seed}")), chosen)).collect();
    let found = all_of(tasks, &tasks.test, &seeds, setting)?;
    let reference = corner(&found, count);
    let names = ["a network for each", LEARNERS[0], LEARNERS[1]];
    let sets = names.iter().enumerate().map(|(kind, name)| {
        let hypervolumes = found.iter().map(|run| volume(&run[kind].0, &reference));
        let (points, parameters, steps) = found[0][kind].clone();
        let hypervolumes = hypervolumes.collect::<Result<_>>()?;
        Ok(Set { name: (*name).into(), rate: chosen[kind], parameters, steps, hypervolumes, points })
    });
    let sets = sets.collect::<Result<_>>()?;
    Ok(Fronts { names: tasks.names.clone(), reference, sets })
}

/// A network so narrow that the tasks compete for it.
fn training<'a>(tasks: &'a Tasks, all: &'a [usize], rate: f64, device: &'a Device) -> Training<'a> {
    Training {
        examples: &tasks.train,
        among: None,
        tasks: all,
        known: None,
        widths: &NARROW,
        steps: LONGER * Size::of(tasks).steps,
        batch: BATCH,
        rate,
        device,
    }
}

fn point(network: &Network, share: f64, tasks: &Tasks, on: &Examples, device: &Device) -> Point {
    let losses = network.measure(on, &tasks.all(), device);
    Point { share, losses: losses.into_iter().map(|(loss, _)| loss).collect() }
}

/// One network for one share.
fn alone(tasks: &Tasks, share: f64, on: &Examples, rate: f64, random: &Random, device: &Device) -> Result<Learned> {
    let all = tasks.all();
    let training = training(tasks, &all, rate, device);
    let network = training.run(random, Join::Sum(vec![share, 1.0 - share]))?.network;
    let (body, heads) = network.parameters();
    Ok((vec![point(&network, share, tasks, on, device)], body + heads, training.steps))
}

/// A set for all shares.
fn learn(tasks: &Tasks, learner: usize, on: &Examples, rate: f64, random: &Random, device: &Device) -> Result<Learned> {
    let all = tasks.all();
    let base = training(tasks, &all, rate, device).network(random, device);
    match learner {
        0 => {
            let seed = random.fork("low rank").next_u64();
            walk(LowRankPareto::new(base, all.len(), RANK, seed, device)?, tasks, on, rate, random, device)
        }
        _ => {
            let set = Hypernetwork::new(base, all.len(), WIDTH, 1, device)?;
            walk(drawn(set, &random.fork("hypernetwork"))?, tasks, on, rate, random, device)
        }
    }
}

/// A hypernetwork with weights of its own stream in place of those of Burn's, which is one for all threads.
fn drawn<M: Module>(set: M, random: &Random) -> Result<M> {
    let mut leaves = Tree::empty();
    for (name, leaf) in Tree::from_module(&set).into_leaves() {
        let path = name.path.clone();
        let leaf = Tree::from_leaves([(name, leaf)])?;
        let hidden = path.starts_with("hidden");
        let new = match path.ends_with("weight") {
            true => random.fork(&path).normal_like(&leaf, if hidden { 1.0 } else { 0.1 / (WIDTH as f64).sqrt() }),
            // What begins as the network's own weights stays.
            false if hidden => leaf.zeros_like(),
            false => continue,
        };
        leaves = leaves.merge(new)?;
    }
    Ok(leaves.write_into(set)?)
}

/// Trains a set by linear scalarisation with a preference drawn for each step, and asks it for its front.
fn walk<S: ParetoSet<Network> + Sync + 'static>(
    set: S,
    tasks: &Tasks,
    on: &Examples,
    rate: f64,
    random: &Random,
    device: &Device,
) -> Result<Learned> {
    let all = tasks.all();
    let steps = LONGER * Size::of(tasks).steps;
    let mut set = set.to_device(&device.clone().autodiff()).train();
    let mut order = Order::new(random.fork("order"), tasks.train.len(), BATCH);
    let mut shares = random.fork("shares");
    let mut next = |shares: &mut Random| -> Result<(Batch, Tensor<1>)> {
        let share = dirichlet(&vec![1.0; all.len()], shares)?;
        Ok((tasks.train.batch(&order.next(), &all, None, device), preference(&share, device)))
    };
    let first = next(&mut random.fork("first"))?;
    let program = Program::record_first_order(&set, &first, |set: &S, (batch, share): &(Batch, Tensor<1>)| {
        set.scalarised(share.clone(), batch)
    });
    let program = program?;
    let mut trainer = Chain::new().before(adam().init());
    for step in 0..steps {
        let rate = rate * (1.0 - step as f64 / steps as f64);
        let gradient = program.value_and_grad(&Tree::from_module(&set), &next(&mut shares)?);
        let gradient = gradient?.gradient;
        set = trainer.step_grads(rate, set, gradient, None).map_err(core_tensor::Error::from)?.into_model();
    }
    let set = set.valid();
    let points = (0..ASKED).map(|i| i as f64 / (ASKED - 1) as f64).map(|share| {
        let network = set.at(preference(&[share, 1.0 - share], device));
        point(&network, share, tasks, on, device)
    });
    Ok((points.collect(), Tree::from_module(&set).num_elements(), steps))
}

impl Set {
    /// Mean over the seeds.
    pub fn hypervolume(&self) -> f64 {
        self.hypervolumes.iter().sum::<f64>() / self.hypervolumes.len() as f64
    }

    /// The smallest and the largest of the seeds.
    fn spread(&self) -> (f64, f64) {
        self.hypervolumes.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), x| (a.min(*x), b.max(*x)))
    }

    /// Points that no other of the set dominates, of the first seed.
    fn on_the_front(&self) -> usize {
        let losses: Vec<Vec<f64>> = self.points.iter().map(|point| point.losses.clone()).collect();
        non_dominated(&losses).map_or(0, |kept| kept.len())
    }
}

impl Fronts {
    /// A network for each trade-off.
    pub fn each(&self) -> &Set {
        &self.sets[0]
    }

    /// Their number.
    pub fn networks(&self) -> usize {
        SHARES.len()
    }

    /// The learner with the largest hypervolume.
    pub fn best(&self) -> &Set {
        let best = self.sets[1..].iter().max_by(|a, b| a.hypervolume().total_cmp(&b.hypervolume()));
        best.expect("there are two")
    }

    pub fn part(&self) -> Part {
        let line = |set: &Set, class: &str, joined: bool| {
            let inside = |point: &&Point| point.losses.iter().zip(&self.reference).all(|(loss, corner)| loss < corner);
            let points = set.points.iter().filter(inside).map(|point| (point.losses[0], point.losses[1])).collect();
            match joined {
                true => Line::new(&set.name, class, points),
                false => Line::marks(&set.name, class, points),
            }
        };
        let plot = Plot {
            title: "All trade-offs, one seed",
            x_axis: "test loss of the left digit, nats",
            x_range: (f64::INFINITY, f64::NEG_INFINITY),
            y_axis: "test loss of the right digit, nats",
            logarithmic: false,
            lines: vec![
                line(&self.sets[1], "s1", true),
                line(&self.sets[2], "s3", true),
                line(&self.sets[0], "s2", false),
            ],
        };
        let rows = self.sets.iter().map(|set| {
            let (low, high) = set.spread();
            vec![
                set.name.clone(),
                grouped(set.parameters),
                grouped(set.steps),
                number(set.rate),
                fixed(set.hypervolume(), 3),
                format!("{} – {}", fixed(low, 3), fixed(high, 3)),
                format!("{} of {}", set.on_the_front(), set.points.len()),
            ]
        });
        Part {
            title: "The front from a Pareto-set learner",
            text: format!(
                "The same images, a body of one layer of {} so that the tasks compete. A set is trained by the weighted sum with shares drawn anew for each step (uniform over the simplex) and \
                 then asked for {ASKED} of them; against it stand {} networks, each trained for one share of the left digit ({}). Adam, batch \
                 {BATCH}; a set has as many steps as each network; each row has the best of {} rates by hypervolume on validation, then {SEEDS} seeds. The low-rank set adds matrices of rank {RANK} a task to common weights, the \
                 hypernetwork makes all weights from {WIDTH} hidden units. Hypervolume is the area below ({}), twice the losses at equal \
                 shares; the larger the better. Points beyond that corner count for nothing and are not drawn.",
                NARROW[0],
                SHARES.len(),
                SHARES.map(number).join(", "),
                RATES.len(),
                self.reference.iter().map(|x| number(*x)).collect::<Vec<_>>().join(", "),
            ),
            figures: vec![plot.html()],
            table: (
                vec![
                    "set",
                    "numbers trained",
                    "steps",
                    "rate",
                    "hypervolume",
                    "lowest – highest seed",
                    "not dominated",
                ],
                rows.collect(),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::multitask::MultiTaskModel;

    #[test]
    fn a_hypernetwork_is_drawn_from_its_own_stream() {
        let device = Device::flex();
        let make = |seed: u64| {
            let base = Network::new(&Random::new(1), 4, &[3], &[2, 2], &device);
            drawn(Hypernetwork::new(base, 2, WIDTH, 1, &device).unwrap(), &Random::new(seed)).unwrap()
        };
        let data = |set: &Hypernetwork<Network>| -> Vec<Vec<f32>> {
            let tree = Tree::from_module(set).to_data();
            tree.into_iter().map(|(_, data)| data.iter::<f32>().collect()).collect()
        };
        assert_eq!(data(&make(3)), data(&make(3)));
        assert_ne!(data(&make(3)), data(&make(4)));
        let network = make(3).at(preference(&[0.5, 0.5], &device));
        assert_eq!(network.tasks().len(), 2);
    }
}
