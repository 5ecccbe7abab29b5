//! One training step of a multi-task model: rows, aggregation, heads, optimizer.

use std::fmt;

use burn::lr_scheduler::module_lr_scheduler::ModuleLearningRate;
use burn::module::Module;
use core_tensor::transform::{Outcome, Report, StepError};
use core_tensor::{Batch, Scalar, Trainer, Tree};

use crate::aggregator::{Aggregator, GramianAggregator};
use crate::diagnostics::Conflict;
use crate::gramian::Gramian;
use crate::model::{ModelError, Result};
use crate::solvers::Matrix;
use crate::task_gradients::{GramianBy, HeadGradient, TaskGradients, TaskProgram};

/// Joins the tasks' gradients into one and hands it to a chain and an optimizer.
///
/// ```
/// use burn::{nn::{LinearConfig, Tanh}, optim::AdamConfig, tensor::{Device, Tensor}};
/// use core_tensor::Chain;
/// use multitask::{MultiTask, TaskProgram, TaskTrainer, UpGrad};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let device = Device::flex().autodiff();
/// let linear = |from, to| LinearConfig::new(from, to).init(&device);
/// let mut net = MultiTask::new((linear(3, 8), Tanh::new()))
///     .head("a", linear(8, 1), |out: Tensor<2>, y: &Tensor<2>| (out - y.clone()).square().mean())
///     .head("b", linear(8, 1), |out: Tensor<2>, y: &Tensor<2>| (out + y.clone()).square().mean());
/// let plain = Device::flex();
/// let batch = (Tensor::<2>::ones([4, 3], &plain), Tensor::<2>::ones([4, 1], &plain));
///
/// let program = TaskProgram::record(&net, &batch)?;
/// let mut train = TaskTrainer::new(Chain::new().before(AdamConfig::new().init()));
/// for _ in 0..3 {
///     // No task is made worse by the step.
///     let step = train.step_by(1e-2, net, &program, &batch, &mut UpGrad::new())?;
///     println!("{:?}, {} conflicts", step.report.losses, step.report.conflict.conflicting_pairs());
///     net = step.outcome.into_model();
/// }
/// # let _ = net; Ok(()) }
/// ```
#[derive(Debug)]
pub struct TaskTrainer {
    trainer: Trainer,
    heads: HeadGradient,
}

/// What became of a step.
#[derive(Debug)]
pub struct TaskStep<M> {
    /// The model, updated or not.
    pub outcome: Outcome<M>,
    /// What the tasks had to say.
    pub report: TaskReport,
}

/// The numbers of a step, task by task.
#[derive(Clone, Debug)]
pub struct TaskReport {
    /// The loss of each task, before the update; `None` for the absent ones.
    pub losses: Vec<Option<f64>>,
    /// The tasks that took part.
    pub tasks: Vec<usize>,
    /// The weight of each of `tasks`, if weights were used.
    pub weights: Option<Vec<f64>>,
    /// Norms, cosines and condition number of their gradients over the shared parameters.
    pub conflict: Conflict,
    /// The optimizer's report, if it made a step.
    pub optimizer: Option<Report>,
}

/// A step that failed before it touched model or optimizer, with the model.
pub struct TaskStepError<M> {
    /// The model, unchanged.
    pub model: M,
    /// What went wrong.
    pub source: ModelError,
}

impl TaskTrainer {
    /// Before a chain and its optimizer. Heads are trained by their own losses.
    pub fn new(trainer: Trainer) -> Self {
        Self { trainer, heads: HeadGradient::Own }
    }

    /// How [`step_weighted`](Self::step_weighted) trains the heads.
    pub fn heads(self, heads: HeadGradient) -> Self {
        Self { heads, ..self }
    }

    /// The chain and the optimizer, which save and load.
    pub fn trainer(&self) -> &Trainer {
        &self.trainer
    }

    /// The same, to load into.
    pub fn trainer_mut(&mut self) -> &mut Trainer {
        &mut self.trainer
    }

    /// One step in which `join` makes one gradient of the rows: `AGGREGATOR.aggregate(rows)`.
    ///
    /// Cost: a forward pass and a backward pass a task; `m(m + 1)/2` dot products for the report; one host synchronisation to report
    /// the losses. Heads get the gradients of their own losses.
    ///
    /// A batch without any label is a skipped step.
    ///
    /// # Errors
    /// [`ModelError::Join`] with the error of `join`; those of [`TaskProgram::gradients`] and of the chain. All with the model.
    pub fn step<M, B, E>(
        &mut self,
        lr: impl Into<ModuleLearningRate>,
        model: M,
        program: &TaskProgram<B>,
        batch: &B,
        join: impl FnOnce(&[Tree]) -> Result<Tree, E>,
    ) -> Result<TaskStep<M>, TaskStepError<M>>
    where
        M: Module,
        B: Batch + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let joined = || -> Result<(Option<Tree>, TaskReport)> {
            let gradients = program.gradients(&Tree::from_module(&model), batch)?;
            let report = TaskReport::of(&gradients)?;
            if gradients.tasks.is_empty() {
                return Ok((None, report));
            }
            let shared = join(&gradients.rows).map_err(ModelError::join)?;
            Ok((Some(gradients.assemble(shared, None)?), report))
        };
        match joined() {
            Ok((update, report)) => self.finish(lr.into(), model, update, report),
            Err(source) => Err(TaskStepError { model, source }),
        }
    }

    /// One step in which `weigh` finds weights from the losses and `JJᵀ`, in memory that does not grow with the number of tasks
    /// unless `by` asks for it.
    ///
    /// `weigh` gets the losses of the tasks that take part and their Gramian, row by row, and gives a weight for each.
    ///
    /// # Errors
    /// As [`step`](Self::step), and [`ModelError::PerTask`] for another number of weights.
    pub fn step_weighted<M, B, E>(
        &mut self,
        lr: impl Into<ModuleLearningRate>,
        model: M,
        program: &TaskProgram<B>,
        batch: &B,
        by: GramianBy,
        weigh: impl FnOnce(&[f64], &[f64]) -> Result<Vec<f64>, E>,
    ) -> Result<TaskStep<M>, TaskStepError<M>>
    where
        M: Module,
        B: Batch + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let heads = self.heads;
        let joined = || -> Result<(Option<Tree>, TaskReport)> {
            let point = Tree::from_module(&model);
            let pass = program.forward(&point, batch)?;
            let losses: Vec<f64> = pass.losses().to_data().iter::<f64>().collect();
            let gramian = pass.gramian(by)?;
            let conflict = Conflict::of_gramian(&gramian.values)?;
            let mut report = TaskReport::new(&losses, &gramian.tasks, conflict);
            if gramian.tasks.is_empty() {
                return Ok((None, report));
            }
            let present: Vec<f64> = gramian.tasks.iter().map(|task| losses[*task]).collect();
            let weights = weigh(&present, &gramian.values).map_err(ModelError::join)?;
            let update = pass.combine(gramian, &weights, heads)?;
            report.weights = Some(weights);
            Ok((Some(update), report))
        };
        match joined() {
            Ok((update, report)) => self.finish(lr.into(), model, update, report),
            Err(source) => Err(TaskStepError { model, source }),
        }
    }

    /// One step by an aggregator of rows: [`step`](Self::step) with `aggregator.aggregate(rows)`, its weights in the report.
    ///
    /// # Errors
    /// As [`step`](Self::step).
    pub fn step_by<M: Module, B: Batch + 'static>(
        &mut self,
        lr: impl Into<ModuleLearningRate>,
        model: M,
        program: &TaskProgram<B>,
        batch: &B,
        aggregator: &mut (impl Aggregator + ?Sized),
    ) -> Result<TaskStep<M>, TaskStepError<M>> {
        let mut weights = None;
        let mut step = self.step(lr, model, program, batch, |rows| {
            let out = aggregator.aggregate(rows)?;
            weights = out.report.weights;
            Ok::<_, crate::Error>(out.gradient)
        })?;
        step.report.weights = weights;
        Ok(step)
    }

    /// One step by an aggregator that needs the Gramian only: [`step_weighted`](Self::step_weighted) with its weights.
    ///
    /// A task whose gradient is not finite takes part with weight 0.
    ///
    /// # Errors
    /// As [`step_weighted`](Self::step_weighted).
    pub fn step_through<M: Module, B: Batch + 'static>(
        &mut self,
        lr: impl Into<ModuleLearningRate>,
        model: M,
        program: &TaskProgram<B>,
        batch: &B,
        by: GramianBy,
        aggregator: &mut (impl GramianAggregator + ?Sized),
    ) -> Result<TaskStep<M>, TaskStepError<M>> {
        self.step_weighted(lr, model, program, batch, by, |losses, products| {
            let count = losses.len();
            let gramian = Gramian::from_products(&Matrix::symmetric(count, |i, j| products[i * count + j]))?;
            aggregator.weights_of(&gramian)
        })
    }

    fn finish<M: Module>(
        &mut self,
        lr: ModuleLearningRate,
        model: M,
        update: Option<Tree>,
        mut report: TaskReport,
    ) -> Result<TaskStep<M>, TaskStepError<M>> {
        let Some(update) = update else {
            let why = ModelError::NothingLabelled.to_string();
            return Ok(TaskStep { outcome: Outcome::Skipped { model, why }, report });
        };
        let total: f64 = report.losses.iter().flatten().sum();
        let outcome = self.trainer.step_grads(lr, model, update, Some(Scalar::from(total)));
        let outcome = outcome.map_err(|StepError { model, source }| TaskStepError { model, source: source.into() })?;
        report.optimizer = outcome.report().cloned();
        Ok(TaskStep { outcome, report })
    }
}

impl TaskReport {
    fn of(gradients: &TaskGradients) -> Result<Self> {
        let losses: Vec<f64> = gradients.losses.to_data().iter::<f64>().collect();
        let conflict = Conflict::of_gramian(&gradients.gramian()?)?;
        Ok(Self::new(&losses, &gradients.tasks, conflict))
    }

    fn new(losses: &[f64], tasks: &[usize], conflict: Conflict) -> Self {
        let losses = losses.iter().enumerate().map(|(task, loss)| tasks.contains(&task).then_some(*loss));
        Self { losses: losses.collect(), tasks: tasks.to_vec(), weights: None, conflict, optimizer: None }
    }
}

impl<M> fmt::Debug for TaskStepError<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskStepError").field("source", &self.source).finish_non_exhaustive()
    }
}

impl<M> fmt::Display for TaskStepError<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.source.fmt(f)
    }
}

impl<M> std::error::Error for TaskStepError<M> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(&self.source)
    }
}

/// Lets go of the model, for callers that have another copy or give up.
impl<M> From<TaskStepError<M>> for ModelError {
    fn from(error: TaskStepError<M>) -> Self {
        error.source
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task_gradients::tests::{batch, net};
    use burn::module::Module;
    use burn::optim::SgdConfig;
    use burn::tensor::Device;
    use core_tensor::Chain;
    use core_tensor::testing::{assert_close, assert_same_bits};

    fn trainer() -> TaskTrainer {
        TaskTrainer::new(Chain::new().before(SgdConfig::new().init()))
    }

    fn mean(rows: &[Tree]) -> core_tensor::Result<Tree> {
        let sum = rows[1..].iter().try_fold(rows[0].clone(), |sum, row| sum.add(row))?;
        Ok(sum.scale(1.0 / rows.len() as f64))
    }

    #[test]
    fn an_aggregator_gives_the_same_step_from_rows_and_from_products() {
        use crate::{Mgda, UpGrad};
        let device = Device::flex();
        let batch = batch(3, &[true, true, false], &device);
        let model = net(3, &device).to_device(&device.clone().autodiff()).train();
        let program = TaskProgram::record(&model, &batch).unwrap();
        let methods: [fn() -> Box<dyn GramianAggregator>; 2] = [|| Box::new(UpGrad::new()), || Box::new(Mgda::new())];
        for method in methods {
            let rows = trainer().step_by(0.1, model.clone(), &program, &batch, &mut method()).unwrap();
            let weights = rows.report.weights.clone().unwrap();
            assert!(weights.len() == 2 && weights.iter().all(|w| *w >= 0.0) && weights.iter().sum::<f64>() > 0.5);
            let rows = Tree::from_module(&rows.outcome.into_model());
            for by in [GramianBy::Rows, GramianBy::Tangents, GramianBy::Blocks(1)] {
                let step = trainer().step_through(0.1, model.clone(), &program, &batch, by, &mut method()).unwrap();
                let found = step.report.weights.clone().unwrap();
                assert!(found.iter().zip(&weights).all(|(a, b)| (a - b).abs() < 1e-4), "{found:?} {weights:?}");
                assert_close(&Tree::from_module(&step.outcome.into_model()), &rows, 1e-5);
            }
        }
    }

    #[test]
    fn a_step_moves_shared_leaves_by_the_join_and_heads_by_their_own_loss() {
        let device = Device::flex();
        let batch = batch(3, &[true, true, false], &device);
        let model = net(3, &device).to_device(&device.clone().autodiff()).train();
        let program = TaskProgram::record(&model, &batch).unwrap();
        let before = Tree::from_module(&model);
        let gradients = program.gradients(&before, &batch).unwrap();
        let step = trainer().step(0.1, model.clone(), &program, &batch, mean).unwrap();
        let after = Tree::from_module(&step.outcome.into_model());
        let update = gradients.clone().assemble(mean(&gradients.rows).unwrap(), None).unwrap();
        assert_close(
            &after.restrict(&update).unwrap(),
            &before.restrict(&update).unwrap().axpy(-0.1, &update).unwrap(),
            1e-6,
        );
        let still = |tree: &Tree| tree.filter(|name| name.path.starts_with("heads.2"));
        assert_same_bits(&still(&after), &still(&before));
        let report = step.report;
        assert_eq!((report.tasks.len(), report.losses[2], report.weights), (2, None, None));
        assert!((report.conflict.norms[0] - gradients.rows[0].norm().value()).abs() < 1e-6);
        assert_eq!(report.optimizer.unwrap().step, 0);

        // The same by weights, without storing rows, heads weighted or not.
        for heads in [HeadGradient::Own, HeadGradient::Weighted] {
            let half = |losses: &[f64], gramian: &[f64]| {
                assert_eq!((losses.len(), gramian.len()), (2, 4));
                Ok::<_, ModelError>(vec![0.5, 0.5])
            };
            let step =
                trainer().heads(heads).step_weighted(0.1, model.clone(), &program, &batch, GramianBy::Tangents, half);
            let step = step.unwrap();
            assert_eq!(step.report.weights.as_deref(), Some(&[0.5, 0.5][..]));
            let weighted = Tree::from_module(&step.outcome.into_model());
            let part = |tree: &Tree, of: &str| tree.filter(|name| name.path.starts_with(of));
            assert_close(&part(&weighted, "body"), &part(&after, "body"), 1e-6);
            let (start, full) = (part(&before, "heads.0"), part(&after, "heads.0"));
            let factor = if heads == HeadGradient::Own { 1.0 } else { 0.5 };
            assert_close(&part(&weighted, "heads.0"), &start.lerp(&full, factor).unwrap(), 1e-6);
        }
    }

    #[test]
    fn nothing_labelled_is_a_skip_and_errors_give_the_model_back() {
        let device = Device::flex();
        let model = net(2, &device).to_device(&device.clone().autodiff()).train();
        let full = batch(2, &[true; 2], &device);
        let program = TaskProgram::record(&model, &full).unwrap();
        let before = Tree::from_module(&model);
        let none = batch(2, &[false; 2], &device);
        let mut train = trainer();
        let step = train.step(0.1, model, &program, &none, mean).unwrap();
        assert!(matches!(&step.outcome, Outcome::Skipped { why, .. } if why == "no task has a label in this batch"));
        assert_eq!(step.report.losses, [None, None]);
        let model = step.outcome.into_model();
        let error = train.step(0.1, model, &program, &full, |_| Err::<Tree, _>("not today")).unwrap_err();
        assert_eq!(error.to_string(), "joining the tasks' gradients failed: not today");
        let error = train.step(0.1, error.model, &program, &full, |_| Ok::<_, ModelError>(Tree::empty())).unwrap_err();
        let few = |_: &[f64], _: &[f64]| Ok::<_, ModelError>(vec![1.0]);
        let error = train.step_weighted(0.1, error.model, &program, &full, GramianBy::Rows, few).unwrap_err();
        assert!(matches!(error.source, ModelError::PerTask { expected: 2, found: 1, .. }));
        assert_same_bits(&Tree::from_module(&error.model), &before);
        assert_eq!(train.trainer().updates(), 0);
    }
}
