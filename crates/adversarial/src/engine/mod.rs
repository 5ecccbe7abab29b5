//! The engine: runs any attack on many examples, a batch of questions at a time.
//!
//! An [`Attack`] is written for *one* example, as a paper writes it: straight code that asks the model through an [`Oracle`] and
//! waits. The engine keeps as many examples going as fit a batch, answers their questions together, and takes the next example
//! in as soon as one is done with. So
//!
//! - every batch is full until the last examples, whatever each of them needs (compaction at each step, not between attacks);
//! - an example stops at its first success, before the gradient of that point is computed, and its other runs are cancelled;
//! - the best point is kept by the engine, never just the last one, and it is inside ball and box or it does not count;
//! - random numbers depend on the seed, the example and the run, so that results do not depend on order or split of a batch
//!   (up to the rounding of the model itself, whose products may add in another order for another batch size).
//!
//! An example's points live on the host. A step costs one transfer of the batch each way and one host synchronisation; on the
//! host backends nothing is moved.

mod case;
mod evaluate;
mod goals;
mod oracle;
mod outcome;
mod task;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;

use burn::tensor::{DType, Tensor, TensorData};
use core_tensor::Random;
use rayon::prelude::*;

pub use case::{Case, Run, Search};
pub use goals::Goals;
pub use oracle::{Answer, Oracle};
pub use outcome::{Attacked, Outcome, Status};

use crate::attack::{Attack, Setting};
use crate::classifier::Classifier;
use crate::error::{Error, Result};
use crate::goal::Goal;
use crate::threat::Threat;
use evaluate::{Evaluator, Row};
use task::{Budget, Example, Task, retire};

/// How far an attack is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Examples done with.
    pub done: usize,
    /// Examples there are.
    pub examples: usize,
    /// Those of them that reach the goal.
    pub reached: usize,
    /// Gradient evaluations so far.
    pub gradients: u64,
}

type Watch<'a> = dyn FnMut(Progress) -> ControlFlow<()> + 'a;

/// Runs attacks.
///
/// | setting | default | range | effect |
/// |---|---|---|---|
/// | [`batch`](Self::batch) | 128 | ≥ 1 | points evaluated together; memory is about that of one batch of the model, and a few points an example |
/// | [`seed`](Self::seed) | 0 | any | of all random numbers |
/// | [`siblings`](Self::siblings) | 1 | ≥ 1 | runs (restarts, targets) of one example at a time. 1 spends the fewest gradients, as the rest is cancelled at a success; more fill the batches of a GPU when few examples are left |
/// | [`gradients`](Self::gradients) | none | ≥ 1 | the most gradient evaluations for an example, all runs together |
/// | [`queries`](Self::queries) | none | ≥ 1 | the same for evaluations of logits |
///
/// ```
/// use adversarial::{Engine, Goals, Pgd, Recorded, Search, Threat, Norm};
/// use burn::nn::LinearConfig;
/// use burn::tensor::{Device, Tensor};
///
/// let device = Device::flex();
/// let model = LinearConfig::new(4, 3).init(&device);
/// let classifier = Recorded::new(&model, [4], |model, x: Tensor<2>| model.forward(x))?;
/// let x = Tensor::<2>::full([2, 4], 0.5, &device);
/// let goals = Goals::untargeted(&[0, 1]);
/// let attacked = Engine::new().seed(3).run(&Pgd::new(), &classifier, Threat::new(Norm::Linf, 0.1)?, Search::First, x, &goals)?;
/// assert_eq!(attacked.outcomes.len(), 2);
/// # Ok::<(), adversarial::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Engine {
    batch: usize,
    seed: u64,
    siblings: usize,
    gradients: Option<u64>,
    queries: Option<u64>,
}

impl Default for Engine {
    fn default() -> Self {
        Self::new()
    }
}

impl Engine {
    /// An engine with the defaults.
    pub fn new() -> Self {
        Self { batch: 128, seed: 0, siblings: 1, gradients: None, queries: None }
    }

    /// Sets how many points are evaluated together.
    pub fn batch(self, batch: usize) -> Self {
        Self { batch, ..self }
    }

    /// Sets the seed.
    pub fn seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }

    /// Sets how many runs of one example go at a time.
    pub fn siblings(self, siblings: usize) -> Self {
        Self { siblings, ..self }
    }

    /// Limits the gradient evaluations of an example.
    pub fn gradients(self, most: u64) -> Self {
        Self { gradients: Some(most), ..self }
    }

    /// Limits the evaluations of an example's logits.
    pub fn queries(self, most: u64) -> Self {
        Self { queries: Some(most), ..self }
    }

    /// Runs an attack on every example. For [`Search::Nearest`] the threat's norm and bounds count, not its radius.
    ///
    /// An empty batch gives an empty result, and a radius of 0 leaves every example as it is.
    ///
    /// # Errors
    /// [`Error::ElementType`] for inputs that are not `f32`, [`Error::OutOfBounds`] for an input outside of the threat's box,
    /// [`Error::Shape`] for another number of goals, [`Error::Label`] for one that is no class, [`Error::TooFewClasses`] and
    /// [`Error::Unsupported`] where the attack cannot do what is asked, [`Error::Parameter`] for settings of its own or of the
    /// engine, and what the model fails with.
    pub fn run<const D: usize>(
        &self,
        attack: &dyn Attack,
        classifier: &dyn Classifier<D>,
        threat: Threat,
        search: Search,
        inputs: Tensor<D>,
        goals: &Goals,
    ) -> Result<Attacked<D>> {
        self.run_watched(attack, classifier, threat, search, inputs, goals, &mut |_| ControlFlow::Continue(()))
    }

    /// The same, telling after each batch how far it is; it stops when told to, and what is not done with by then is
    /// [`Status::Unfinished`]. Attacking those examples later gives what the whole would have given.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    #[expect(clippy::too_many_arguments, reason = "those of `run` and one")]
    pub fn run_watched<const D: usize>(
        &self,
        attack: &dyn Attack,
        classifier: &dyn Classifier<D>,
        threat: Threat,
        search: Search,
        inputs: Tensor<D>,
        goals: &Goals,
        watch: &mut Watch<'_>,
    ) -> Result<Attacked<D>> {
        self.check()?;
        let dims = inputs.dims();
        let width: usize = dims[1..].iter().product();
        if inputs.dtype() != DType::F32 {
            return Err(Error::ElementType {
                what: "the inputs",
                actual: format!("{:?}", inputs.dtype()),
                expected: "F32",
            });
        }
        if goals.len() != dims[0] {
            let expected = format!("[{}], one for each example", dims[0]);
            return Err(Error::Shape { what: "goals", actual: vec![goals.len()], expected });
        }
        let (device, originals) = (inputs.device(), inputs.clone().into_data());
        let originals: Vec<f32> = originals.iter::<f32>().collect();
        threat.inside_box(&originals.iter().map(|x| f64::from(*x)).collect::<Vec<_>>(), width)?;
        let threat = match search {
            Search::Nearest => threat.radius(case::diameter(threat.norm(), width, threat.high() - threat.low()))?,
            _ => threat,
        };
        if dims[0] == 0 || width == 0 {
            return Ok(Attacked { inputs, outcomes: Vec::new() });
        }

        let evaluator = Evaluator::new(classifier, dims, self.batch);
        let rows: Vec<&[f32]> = originals.chunks(width).collect();
        let clean = evaluator.logits(&rows)?;
        let classes = clean[0].len();
        goals.check(classes)?;
        let setting =
            Setting { norm: threat.norm(), search, classes, shape: dims[1..].into(), targeted: goals.targeted_any() };
        attack.check(&setting)?;

        let seed = Random::new(self.seed);
        let shape: Arc<[usize]> = dims[1..].into();
        let mut examples: Vec<Example> = rows
            .par_iter()
            .zip(clean)
            .enumerate()
            .map(|(index, (x0, logits))| {
                let goal = goals.get(index);
                let case = Case {
                    x0: (*x0).into(),
                    shape: shape.clone(),
                    logits: logits.into(),
                    goal,
                    threat,
                    search,
                    run: Run::default(),
                    random: example_random(&seed, x0, &goal),
                    interval: case::interval(&threat, x0),
                };
                Example::new(case, attack)
            })
            .collect();

        let budget = Budget { gradients: self.gradients, queries: self.queries };
        let mut queue: VecDeque<usize> = (0..examples.len()).filter(|i| examples[*i].status.is_none()).collect();
        let mut tasks: Vec<Task<'_>> = Vec::new();
        while !(queue.is_empty() && tasks.is_empty()) {
            // As many more examples as will about fill the batch with their questions.
            let pending: usize = tasks.iter().map(Task::rows).sum();
            let each = pending.div_ceil(tasks.len().max(1)).max(1) * self.siblings;
            let more = (self.batch.saturating_sub(pending)).div_ceil(each).min(queue.len());
            let mut begun: Vec<Task<'_>> = queue
                .drain(..more)
                .collect::<Vec<_>>()
                .into_iter()
                .flat_map(|i| examples[i].begin(i, attack, self.siblings))
                .collect();
            begun.par_iter_mut().for_each(Task::advance);
            tasks.append(&mut begun);
            tasks = retire(tasks, &mut examples, budget, &mut queue);

            answer(&evaluator, &mut tasks)?;
            tasks.par_iter_mut().for_each(Task::advance);
            tasks = retire(tasks, &mut examples, budget, &mut queue);
            if watch(progress(&examples)).is_break() {
                break;
            }
        }
        drop(tasks);
        let mut values = Vec::with_capacity(originals.len());
        let mut outcomes = Vec::with_capacity(examples.len());
        for (point, outcome) in examples.into_iter().map(Example::into_outcome) {
            values.extend(point);
            outcomes.push(outcome);
        }
        Ok(Attacked { inputs: Tensor::from_data(TensorData::new(values, dims), &device), outcomes })
    }

    fn check(&self) -> Result<()> {
        let least = |parameter, value: u64| match value {
            0 => Err(Error::Parameter { parameter, value: 0.0, bound: "at least 1" }),
            _ => Ok(()),
        };
        least("batch", self.batch as u64)?;
        least("siblings", self.siblings as u64)?;
        least("gradients", self.gradients.unwrap_or(1))?;
        least("queries", self.queries.unwrap_or(1))
    }
}

/// Answers the questions of all tasks.
fn answer<const D: usize>(evaluator: &Evaluator<'_, D>, tasks: &mut [Task<'_>]) -> Result<()> {
    let mut rows = Vec::new();
    for task in tasks.iter() {
        if let Some(request) = &task.request {
            let points = request.points.chunks(task.case.x0.len());
            let (losses, gradient, case) = (&request.losses, request.gradient, &*task.case);
            rows.extend(points.enumerate().map(|(i, point)| Row { point, loss: losses.get(i), gradient, case }));
        }
    }
    let mut answers = evaluator.answer(&rows)?.into_iter();
    for task in tasks {
        let count = task.rows();
        task.answers = answers.by_ref().take(count).collect();
    }
    Ok(())
}

fn progress(examples: &[Example]) -> Progress {
    Progress {
        done: examples.iter().filter(|example| example.status.is_some()).count(),
        examples: examples.len(),
        reached: examples.iter().filter(|example| example.reached()).count(),
        gradients: examples.iter().map(Example::gradients).sum(),
    }
}

/// The random numbers of an example: of the seed and what the example is, not of where it stands.
fn example_random(seed: &Random, x0: &[f32], goal: &Goal) -> Random {
    let mut label: Vec<u8> = x0.iter().flat_map(|x| x.to_le_bytes()).collect();
    let classes = [goal.label() as u64, goal.target().map_or(u64::MAX, |target| target as u64)];
    label.extend(classes.iter().flat_map(|class| class.to_le_bytes()));
    seed.fork(label)
}
