//! One body with heads, and its training by any way of joining the tasks' gradients.

use std::time::Instant;

use ::multitask::weighting::{Famo, LossWeighting, Losses};
use ::multitask::{
    Aggregator, Error as MethodError, GramianAggregator, GramianBy, ModelError, ModelResult, MultiTaskModel, Part,
    TaskProgram, TaskTrainer,
};
use burn::module::{Module, Param};
use burn::nn::Linear;
use burn::optim::AdamConfig;
use burn::tensor::activation::{log_softmax, relu};
use burn::tensor::{Device, Tensor};
use core_tensor::{Chain, Random, Tree};

use super::examples::{Batch, Examples};
use crate::error::Result;
use crate::study::toolkit::median;

/// Layers with ReLU that all tasks share, and a linear head a task.
#[derive(Module, Debug)]
pub struct Network {
    body: Vec<Linear>,
    heads: Vec<Linear>,
}

impl Network {
    /// From `inputs` through layers of these widths to heads of these classes; weights uniform in ±1/√n for a unit of n inputs.
    pub fn new(random: &Random, inputs: usize, widths: &[usize], classes: &[usize], device: &Device) -> Self {
        let linear = |name: String, from: usize, to: usize| {
            let limit = (from as f64).sqrt().recip();
            let weight = random.fork(name).uniform([from, to], -limit, limit, device);
            Linear {
                weight: Param::from_tensor(weight),
                bias: Some(Param::from_tensor(Tensor::<1>::zeros([to], device))),
            }
        };
        let sizes: Vec<usize> = std::iter::once(inputs).chain(widths.iter().copied()).collect();
        let body = sizes.windows(2).enumerate().map(|(i, pair)| linear(format!("body {i}"), pair[0], pair[1]));
        let last = sizes[sizes.len() - 1];
        let heads = classes.iter().enumerate().map(|(i, classes)| linear(format!("head {i}"), last, *classes));
        Self { body: body.collect(), heads: heads.collect() }
    }

    /// Logits of every task.
    fn logits(&self, inputs: Tensor<2>) -> Vec<Tensor<2>> {
        let features = self.body.iter().fold(inputs, |x, layer| relu(layer.forward(x)));
        self.heads.iter().map(|head| head.forward(features.clone())).collect()
    }

    /// The mean loss in nats and the share of right answers, task by task, over all examples of some tasks.
    pub fn measure(&self, examples: &Examples, tasks: &[usize], device: &Device) -> Vec<(f64, f64)> {
        let (inputs, labels) = examples.whole(tasks, device);
        let count = examples.len() as f64;
        let of = |(logits, (labels, _)): (Tensor<2>, (Tensor<1, burn::tensor::Int>, _))| {
            let right = logits.clone().argmax(1).flatten::<1>(0, 1).equal(labels.clone()).int().sum();
            let right = right.into_data().iter::<i64>().next().unwrap_or(0) as f64;
            let loss = log_softmax(logits, 1).gather(1, labels.unsqueeze_dim(1)).into_data().iter::<f64>().sum::<f64>();
            (-loss / count, right / count)
        };
        self.logits(inputs).into_iter().zip(labels).map(of).collect()
    }

    /// Numbers in the body and in the heads.
    pub fn parameters(&self) -> (usize, usize) {
        (Tree::from_module(&self.body).num_elements(), Tree::from_module(&self.heads).num_elements())
    }
}

impl MultiTaskModel<Batch> for Network {
    fn tasks(&self) -> Vec<String> {
        (0..self.heads.len()).map(|task| format!("task {task}")).collect()
    }

    fn losses(&self, (inputs, labels): &Batch) -> Tensor<1> {
        let of =
            |(logits, (labels, mask)): (Tensor<2>, &(Tensor<1, burn::tensor::Int>, Option<::multitask::TaskMask>))| {
                let each = log_softmax(logits, 1).gather(1, labels.clone().unsqueeze_dim(1)).squeeze_dim::<1>(1).neg();
                match mask {
                    Some(mask) => mask.mean(each),
                    None => each.mean(),
                }
            };
        Tensor::cat(self.logits(inputs.clone()).into_iter().zip(labels).map(of).collect(), 0)
    }

    fn part(&self, path: &str) -> Part {
        let task = path.strip_prefix("heads.").and_then(|rest| rest.split('.').next()?.parse().ok());
        task.map_or(Part::Shared, Part::Task)
    }

    fn labelled(&self, (_, labels): &Batch) -> Vec<bool> {
        labels.iter().map(|(_, mask)| mask.as_ref().is_none_or(|mask| mask.labelled() > 0)).collect()
    }
}

/// How one step is made of many losses.
pub enum Join {
    /// A weighted sum of the losses, heads weighted too.
    Sum(Vec<f64>),
    /// Weights from the inner products of the gradients; heads are trained by their own losses.
    Gramian(Box<dyn GramianAggregator>),
    /// From the gradients themselves; heads as before.
    Rows(Box<dyn Aggregator>),
    /// Weights from the losses.
    Losses(Box<dyn LossWeighting>),
    /// FAMO as published, with a second look at the losses after the step.
    Famo(Famo),
}

impl Join {
    /// Trees of the body's gradient that are in memory at once.
    pub fn rows(&self, tasks: usize) -> usize {
        match self {
            Self::Sum(_) | Self::Losses(_) | Self::Famo(_) => 1,
            Self::Gramian(_) | Self::Rows(_) => tasks + 1,
        }
    }
}

/// What a network is trained on, and how long.
#[derive(Clone, Copy)]
pub struct Training<'a> {
    pub examples: &'a Examples,
    /// Positions of the examples used; `None`: all.
    pub among: Option<&'a [usize]>,
    /// Its tasks.
    pub tasks: &'a [usize],
    /// Whether a label may be used, by example and task; `None`: all may.
    pub known: Option<&'a (dyn Fn(usize, usize) -> bool + Sync)>,
    pub widths: &'a [usize],
    pub steps: usize,
    pub batch: usize,
    /// Adam's rate, falling linearly to zero.
    pub rate: f64,
    pub device: &'a Device,
}

/// A network after training.
pub struct Trained {
    pub network: Network,
    /// The share of steps in which gradients pointed apart; NaN where they were not looked at.
    pub conflicts: f64,
    /// The share of steps in which the method had no weights, and nothing moved.
    pub stood: f64,
    /// Median over the steps of the time of a step, in seconds.
    pub seconds: f64,
}

/// Positions of the next batch, every example once before any twice.
pub struct Order {
    random: Random,
    length: usize,
    batch: usize,
    queue: Vec<usize>,
}

impl Order {
    pub fn new(random: Random, length: usize, batch: usize) -> Self {
        Self { random, length, batch: batch.min(length), queue: Vec::new() }
    }

    pub fn next(&mut self) -> Vec<usize> {
        if self.queue.len() < self.batch {
            self.queue = self.random.permutation(self.length);
        }
        self.queue.split_off(self.queue.len() - self.batch)
    }
}

pub fn adam() -> AdamConfig {
    AdamConfig::new().with_epsilon(1e-8)
}

impl Training<'_> {
    fn classes(&self) -> Vec<usize> {
        self.tasks.iter().map(|task| self.examples.classes[*task]).collect()
    }

    /// A new network, on the device as it is.
    pub fn network(&self, random: &Random, device: &Device) -> Network {
        Network::new(&random.fork("weights"), self.examples.inputs, self.widths, &self.classes(), device)
    }

    /// Trains a new network; weights and order of the examples come from `random`.
    pub fn run(&self, random: &Random, mut join: Join) -> Result<Trained> {
        let mut network = self.network(random, &self.device.clone().autodiff());
        let length = self.among.map_or(self.examples.len(), <[usize]>::len);
        let mut order = Order::new(random.fork("order"), length, self.batch);
        let known = self.known.map(|known| known as &dyn Fn(usize, usize) -> bool);
        let next = |order: &mut Order| {
            let mut positions = order.next();
            if let Some(among) = self.among {
                positions.iter_mut().for_each(|at| *at = among[*at]);
            }
            self.examples.batch(&positions, self.tasks, known, self.device)
        };
        let first = next(&mut Order::new(random.fork("first"), length, self.batch));
        let program = TaskProgram::record(&network, &first)?;
        let mut trainer = TaskTrainer::new(Chain::new().before(adam().init()));
        let (mut conflicts, mut looked, mut stood) = (0usize, 0usize, 0usize);
        let mut times = Vec::with_capacity(self.steps);
        for step in 0..self.steps {
            let rate = self.rate * (1.0 - step as f64 / self.steps as f64);
            let batch = next(&mut order);
            let clock = Instant::now();
            let report = match advance(network.clone(), &program, &batch, rate, &mut trainer, &mut join) {
                Ok((stepped, report)) => {
                    network = stepped;
                    report
                }
                // A gradient of zero, say, that no weights can shorten or lengthen: the network stays as it is.
                Err(error) if has_no_weights(&error) => {
                    stood += 1;
                    None
                }
                Err(error) => return Err(error.into()),
            };
            times.push(clock.elapsed().as_secs_f64());
            if let Some(pairs) = report {
                (conflicts, looked) = (conflicts + usize::from(pairs > 0), looked + 1);
            }
        }
        Ok(Trained {
            network: network.valid(),
            conflicts: conflicts as f64 / looked as f64,
            stood: stood as f64 / self.steps as f64,
            seconds: median(times),
        })
    }
}

/// Whether a method found no weights for its gradients.
fn has_no_weights(error: &ModelError) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if matches!(error.downcast_ref(), Some(MethodError::NoWeights { .. })) {
            return true;
        }
        cause = error.source();
    }
    false
}

/// One step; also how many pairs of gradients pointed apart, where that is known.
fn advance(
    network: Network,
    program: &TaskProgram<Batch>,
    batch: &Batch,
    rate: f64,
    trainer: &mut TaskTrainer,
    join: &mut Join,
) -> ModelResult<(Network, Option<usize>)> {
    let step = match join {
        Join::Gramian(method) => trainer.step_through(rate, network, program, batch, GramianBy::Rows, &mut **method)?,
        Join::Rows(method) => trainer.step_by(rate, network, program, batch, &mut **method)?,
        Join::Sum(_) | Join::Losses(_) | Join::Famo(_) => {
            let point = Tree::from_module(&network);
            let pass = program.forward(&point, batch)?;
            let weigh = |method: &mut dyn LossWeighting| {
                let losses: Vec<f64> = pass.losses().to_data().iter::<f64>().collect();
                method.weights(&Losses::new(&losses)).map_err(::multitask::ModelError::join)
            };
            let weights = match join {
                Join::Losses(method) => weigh(&mut **method)?,
                Join::Famo(famo) => weigh(famo)?,
                Join::Sum(weights) => pass.tasks().iter().map(|task| weights[*task]).collect(),
                Join::Gramian(_) | Join::Rows(_) => unreachable!("these were dealt with"),
            };
            let update = pass.weighted(&weights)?;
            drop(pass);
            let outcome = trainer.trainer_mut().step_grads(rate, network, update, None);
            let network = outcome.map_err(core_tensor::Error::from)?.into_model();
            if let Join::Famo(famo) = join {
                let after = program.program().value(&Tree::from_module(&network), batch)?;
                let after: Vec<f64> = after.into_data().iter::<f64>().collect();
                famo.observe(&after).map_err(::multitask::ModelError::join)?;
            }
            return Ok((network, None));
        }
    };
    let pairs = step.report.conflict.conflicting_pairs();
    Ok((step.outcome.into_model(), Some(pairs)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Dataset;
    use crate::recipe::DataRecipe;
    use crate::study::multitask::examples::Tasks;
    use ::multitask::{GradDrop, UpGrad};

    #[test]
    fn every_way_of_joining_learns() {
        let data = Dataset::load(&DataRecipe::default()).unwrap();
        let tasks = Tasks::one_digit(&data);
        let device = Device::flex();
        let joins: [fn() -> Join; 5] = [
            || Join::Sum(vec![1.0 / 3.0; 3]),
            || Join::Gramian(Box::new(UpGrad::new())),
            || Join::Rows(Box::new(GradDrop::new(1))),
            || Join::Losses(Box::new(::multitask::weighting::Uniform::new())),
            || Join::Famo(Famo::new()),
        ];
        for (index, join) in joins.iter().enumerate() {
            let all = tasks.all();
            let training = Training {
                examples: &tasks.train,
                among: None,
                tasks: &all,
                known: None,
                widths: &[32],
                steps: 200,
                batch: 64,
                rate: 1e-2,
                device: &device,
            };
            let trained = training.run(&Random::new(2), join()).unwrap();
            let found = trained.network.measure(&tasks.test, &all, &device);
            assert!(found.iter().all(|(loss, right)| *right > 0.85 && *loss < 0.6), "{index}: {found:?}");
            assert_eq!(trained.conflicts.is_nan(), !matches!(index, 1 | 2));
            assert_eq!(join().rows(3), if matches!(index, 1 | 2) { 4 } else { 1 });
        }
        // A run is the same again, and the parts of the network are told apart.
        let all = tasks.all();
        let known = |example: usize, task: usize| example % 3 == task;
        let few: Vec<usize> = (100..160).collect();
        let training = Training {
            examples: &tasks.train,
            among: Some(&few),
            tasks: &all,
            known: Some(&known),
            widths: &[16],
            steps: 20,
            batch: 64,
            rate: 1e-2,
            device: &device,
        };
        let run = || {
            let trained = training.run(&Random::new(2), Join::Sum(vec![1.0; 3])).unwrap();
            assert_eq!(trained.network.parameters(), (64 * 16 + 16, 17 * 14));
            trained.network.measure(&tasks.test, &all, &device)
        };
        assert_eq!(run(), run());
    }
}
