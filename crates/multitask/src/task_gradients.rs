//! Gradients of every task, exact and from one forward pass.

use std::collections::HashMap;

use burn::backend::DispatchTensor;
use burn::tensor::{Tensor, TensorData};
use core_tensor::{Batch, LeafName, Program, Pullback, Tree};

use crate::gramian::combine;
use crate::model::{ModelError, MultiTaskModel, Part, Result};
use crate::solvers::Matrix;
use crate::{Gramian, Jacobian};

/// The losses of a multi-task model, recorded once, ready to be differentiated task by task.
///
/// Burn's tape is gone after one `backward`, so `m` tasks need `m` forward passes there. A recorded [`Program`] keeps what one
/// forward pass computed and pulls `m` cotangents back through it: row `i` of the Jacobian `J` is `eᵢᵀJ`, what a backward pass
/// of loss `i` alone gives. Only the columns of shared parameters are rows; a parameter that belongs to a task gets the
/// gradient of its own loss from the same pass.
///
/// | call | gives | cotangent passes | trees in memory |
/// |---|---|---|---|
/// | [`gradients`](Self::gradients) | all rows | m | m |
/// | [`ForwardPass::for_each_row`] | one row after another | m | 1 |
/// | [`ForwardPass::gramian`], [`GramianBy::Rows`] | `JJᵀ` | m | m |
/// | [`ForwardPass::gramian`], [`GramianBy::Tangents`] | `JJᵀ` | m, and m tangent passes | 1 |
/// | [`ForwardPass::gramian`], [`GramianBy::Blocks`]`(k)` | `JJᵀ` | m(⌈m/k⌉ + 1)/2 at most | k + 1 |
/// | [`ForwardPass::weighted`] | `Jᵀw` | 1 | 1 |
///
/// A cotangent pass costs what a backward pass does, two forward passes or so; a tangent pass costs about a forward pass. The
/// kept forward pass takes the memory of its activations, whatever `m` is. One exception to "as a backward pass of its own":
/// where the derivative of *another* task's loss is infinite or NaN, zero times it is NaN here.
///
/// Tasks on batches of their own have nothing to share; one program each ([`TaskProgram::record`] of a model with one
/// task) does not pull zeros back through the others.
pub struct TaskProgram<B> {
    program: Program<B>,
    tasks: Vec<String>,
    parts: HashMap<String, Part>,
    labelled: Labelled<B>,
}

/// Which tasks have a label in a batch.
pub(crate) type Labelled<B> = Box<dyn Fn(&B) -> Vec<bool> + Send + Sync>;

/// One row a task, and what belongs to the tasks themselves.
#[derive(Clone, Debug)]
pub struct TaskGradients {
    /// All losses, shape `[m]`. Those of absent tasks mean nothing.
    pub losses: Tensor<1>,
    /// The tasks that have a row, in order.
    pub tasks: Vec<usize>,
    /// The tasks without a label in the batch: they have no row, and no leaf in `own`.
    pub absent: Vec<usize>,
    /// `∇ᵤfᵢ` for each of `tasks`: the gradient of its loss over the shared leaves.
    pub rows: Vec<Tree>,
    /// `∇fᵢ` over the leaves that belong to task `i`, for each of `tasks`.
    pub own: Tree,
    parts: Vec<(LeafName, Part)>,
}

/// How the heads are trained when the shared parameters get `Σ wᵢ∇fᵢ`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HeadGradient {
    /// Each by the gradient of its own loss, whatever its weight: a task that the aggregator silences for a step still
    /// fits its head. What LibMTL's and TorchJD's users get from `mtl_backward`.
    #[default]
    Own,
    /// Each by `wᵢ` times that gradient: the gradient of `Σ wᵢfᵢ` over all parameters.
    Weighted,
}

/// How the Gramian `JJᵀ` is computed: time against memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GramianBy {
    /// All rows in memory, which then also give `Jᵀw` without another pass.
    Rows,
    /// Row by row: column `j` is `J·gⱼ`, a tangent pass along the row just computed. Needs a tangent rule for every operation.
    Tangents,
    /// This many rows at a time held against the ones after them. At least 1.
    Blocks(usize),
}

/// `JJᵀ` over the shared parameters.
#[derive(Clone, Debug)]
pub struct TaskGramian {
    /// The tasks that have a row, in order.
    pub tasks: Vec<usize>,
    /// The tasks without a label in the batch.
    pub absent: Vec<usize>,
    /// `⟨gᵢ, gⱼ⟩`, row by row, for the pairs of `tasks`.
    pub values: Vec<f64>,
    /// As in [`TaskGradients`].
    pub own: Tree,
    rows: Option<Vec<Tree>>,
}

impl TaskGramian {
    /// The values as what aggregators take. Tasks whose gradients are not finite are dropped there.
    ///
    /// # Errors
    /// [`Error::NoTasks`](crate::Error::NoTasks) if no task has a label.
    pub fn gramian(&self) -> crate::Result<Gramian> {
        let count = self.tasks.len();
        Gramian::from_products(&Matrix::symmetric(count, |i, j| self.values[i * count + j]))
    }
}

/// A forward pass of all tasks, to be pulled back task by task. Made by [`TaskProgram::forward`].
pub struct ForwardPass<'a, B> {
    source: &'a TaskProgram<B>,
    point: &'a Tree,
    batch: &'a B,
    pullback: Pullback,
    tasks: Vec<usize>,
    absent: Vec<usize>,
}

impl<B: Batch + 'static> TaskProgram<B> {
    /// Records the losses of a model. Other values of the parameters, and other batches, are then run without recording;
    /// other shapes are recorded when first met.
    ///
    /// As [`Program::record_first_order`]: frozen parameters and running statistics (batch normalisation) are constants, and
    /// the latter are not updated. Runs `m` gradients at the model's parameters to see that each parameter belongs to
    /// whom [`MultiTaskModel::part`] says.
    ///
    /// # Errors
    /// [`ModelError::TaskName`], [`ModelError::Losses`], [`ModelError::UnknownTask`], [`ModelError::NotOwn`],
    /// [`ModelError::PerTask`] for `labelled`; [`core_tensor::ProgramError`] if the losses cannot be recorded.
    pub fn record<M>(model: &M, batch: &B) -> Result<Self>
    where
        M: MultiTaskModel<B> + Sync + 'static,
    {
        let tasks = model.tasks();
        check_names(&tasks)?;
        let program = Program::record_first_order(model, batch, |model: &M, batch: &B| model.losses(batch))?;
        let point = Tree::from_module(model);
        let mut parts = HashMap::new();
        for name in point.names() {
            let part = model.part(&name.path);
            if let Part::Task(task) = part
                && task >= tasks.len()
            {
                return Err(ModelError::UnknownTask { path: name.path.clone(), task, tasks: tasks.len() });
            }
            parts.insert(name.path.clone(), part);
        }
        let template = model.clone();
        let labelled = Box::new(move |batch: &B| template.labelled(batch));
        let program = Self { program, tasks, parts, labelled };
        program.check_parts(&point, batch)?;
        Ok(program)
    }

    /// The tasks' names.
    pub fn tasks(&self) -> &[String] {
        &self.tasks
    }

    /// The recorded function of all leaves: the losses, shape `[m]`.
    pub fn program(&self) -> &Program<B> {
        &self.program
    }

    /// One forward pass.
    ///
    /// # Errors
    /// Those of [`Program::pullback`]; [`ModelError::PerTask`] for `labelled`; [`ModelError::Losses`].
    pub fn forward<'a>(&'a self, point: &'a Tree, batch: &'a B) -> Result<ForwardPass<'a, B>> {
        let labelled = (self.labelled)(batch);
        let expected = self.tasks.len();
        if labelled.len() != expected {
            return Err(ModelError::PerTask { what: "`labelled`", expected, found: labelled.len() });
        }
        let pullback = self.program.pullback(point, batch)?;
        let found = pullback.value.dims()[0];
        if found != expected {
            return Err(ModelError::Losses { expected, found });
        }
        let (tasks, absent) = (0..expected).partition(|task| labelled[*task]);
        Ok(ForwardPass { source: self, point, batch, pullback, tasks, absent })
    }

    /// All rows: one forward pass and `m` cotangent passes.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn gradients(&self, point: &Tree, batch: &B) -> Result<TaskGradients> {
        let pass = self.forward(point, batch)?;
        let (rows, own) = pass.rows(&pass.tasks)?;
        let parts = pass.parts();
        let ForwardPass { pullback, tasks, absent, .. } = pass;
        Ok(TaskGradients { losses: pullback.value, tasks, absent, rows, own, parts })
    }

    /// A leaf of a task must not move the loss of another.
    fn check_parts(&self, point: &Tree, batch: &B) -> Result<()> {
        let pass = self.forward(point, batch)?;
        for &task in &pass.tasks {
            let row = pass.pullback.apply(&pass.unit(task))?;
            for (name, leaf) in row.iter() {
                let owner = match self.parts.get(&name.path) {
                    Some(Part::Task(owner)) if *owner != task => *owner,
                    _ => continue,
                };
                let leaf = Tree::from_leaves([(name.clone(), leaf.clone())])?;
                if leaf.norm_inf().value() > 0.0 {
                    return Err(ModelError::NotOwn { path: name.path.clone(), owner, task });
                }
            }
        }
        Ok(())
    }

    fn part(&self, path: &str) -> Part {
        self.parts.get(path).copied().unwrap_or(Part::Shared)
    }
}

impl<B: Batch + 'static> ForwardPass<'_, B> {
    /// All losses, shape `[m]`.
    pub fn losses(&self) -> &Tensor<1> {
        &self.pullback.value
    }

    /// The tasks that have a label in the batch.
    pub fn tasks(&self) -> &[usize] {
        &self.tasks
    }

    /// The tasks that have none.
    pub fn absent(&self) -> &[usize] {
        &self.absent
    }

    /// The gradient of one task's loss: over the shared leaves, and over its own. One cotangent pass.
    ///
    /// # Errors
    /// [`ModelError::Absent`] for a task without a label.
    pub fn row(&self, task: usize) -> Result<(Tree, Tree)> {
        if !self.tasks.contains(&task) {
            return Err(ModelError::Absent { task });
        }
        let row = self.pullback.apply(&self.unit(task))?;
        let shared = row.filter(|name| self.source.part(&name.path) == Part::Shared);
        let own = row.filter(|name| self.source.part(&name.path) == Part::Task(task));
        Ok((shared, own))
    }

    /// Hands over the rows one after another, none of them kept. One cotangent pass each.
    ///
    /// # Errors
    /// Those of `see`.
    pub fn for_each_row(&self, mut see: impl FnMut(usize, Tree) -> Result<()>) -> Result<()> {
        self.tasks.iter().try_for_each(|task| see(*task, self.row(*task)?.0))
    }

    /// `JJᵀ`, for methods whose weights depend on nothing else.
    ///
    /// # Errors
    /// [`ModelError::Parameter`] for blocks of 0; [`core_tensor::ProgramError::NoTangentRule`] for
    /// [`GramianBy::Tangents`].
    pub fn gramian(&self, by: GramianBy) -> Result<TaskGramian> {
        let count = self.tasks.len();
        let mut values = vec![0.0; count * count];
        let set = |values: &mut [f64], i: usize, j: usize, value: f64| {
            values[i * count + j] = value;
            values[j * count + i] = value;
        };
        let mut own = Tree::empty();
        let mut kept = None;
        match by {
            GramianBy::Rows => {
                let (rows, all) = self.rows(&self.tasks)?;
                values = products(&rows)?;
                (own, kept) = (all, Some(rows));
            }
            GramianBy::Tangents => {
                let push = self.source.program.pushforward(self.point, self.batch)?;
                for (i, &task) in self.tasks.iter().enumerate() {
                    let (row, head) = self.row(task)?;
                    own = own.merge(head)?;
                    set(&mut values, i, i, row.norm().value().powi(2));
                    let column: Vec<f64> = push.apply(&self.direction(row)?)?.into_data().iter::<f64>().collect();
                    for (j, &other) in self.tasks.iter().enumerate().skip(i + 1) {
                        set(&mut values, i, j, column[other]);
                    }
                }
            }
            GramianBy::Blocks(0) => {
                return Err(ModelError::parameter("block", 0.0, "at least 1 row"));
            }
            GramianBy::Blocks(block) => {
                for start in (0..count).step_by(block) {
                    let end = (start + block).min(count);
                    let (rows, heads) = self.rows(&self.tasks[start..end])?;
                    own = own.merge(heads)?;
                    let within = products(&rows)?;
                    for (i, line) in within.chunks(rows.len()).enumerate() {
                        values[(start + i) * count + start..][..rows.len()].copy_from_slice(line);
                    }
                    for j in end..count {
                        let (other, _) = self.row(self.tasks[j])?;
                        for (i, row) in rows.iter().enumerate() {
                            set(&mut values, start + i, j, row.dot(&other)?.value());
                        }
                    }
                }
            }
        }
        Ok(TaskGramian { tasks: self.tasks.clone(), absent: self.absent.clone(), values, own, rows: kept })
    }

    /// The pass as a source of gradients over the shared leaves, for methods that need inner products and one weighted sum:
    /// its rows are the tasks that have labels.
    ///
    /// ```
    /// use burn::{nn::{LinearConfig, Tanh}, tensor::{Device, Tensor}};
    /// use core_tensor::Tree;
    /// use multitask::{GramianAggregator, GramianBy, Mgda, MultiTask, TaskProgram};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let device = Device::flex();
    /// let linear = |from, to| LinearConfig::new(from, to).init(&device);
    /// let net = MultiTask::new((linear(3, 8), Tanh::new()))
    ///     .head("a", linear(8, 1), |out: Tensor<2>, y: &Tensor<2>| (out - y.clone()).square().mean())
    ///     .head("b", linear(8, 1), |out: Tensor<2>, y: &Tensor<2>| (out + y.clone()).square().mean());
    /// let batch = (Tensor::<2>::ones([4, 3], &device), Tensor::<2>::ones([4, 1], &device));
    /// let program = TaskProgram::record(&net, &batch)?;
    /// let point = Tree::from_module(&net);
    /// let pass = program.forward(&point, &batch)?;
    /// let out = Mgda::new().aggregate_through(&pass.jacobian(GramianBy::Tangents))?;
    /// assert_eq!(out.gradient.len(), 2);
    /// # Ok(()) }
    /// ```
    pub fn jacobian(&self, by: GramianBy) -> PassJacobian<'_, B> {
        PassJacobian { pass: self, by }
    }

    /// The update of all leaves for weights of `gramian.tasks`: `Jᵀw` over the shared ones, for the others what `heads` says.
    ///
    /// One cotangent pass with `w` as cotangent, none if the Gramian came from [`GramianBy::Rows`].
    ///
    /// # Errors
    /// [`ModelError::PerTask`] for another number of weights.
    pub fn combine(&self, gramian: TaskGramian, weights: &[f64], heads: HeadGradient) -> Result<Tree> {
        let shared = match &gramian.rows {
            Some(rows) => linear_combination(rows, weights)?,
            None => self.combination(weights)?,
        };
        let own = scaled_heads(gramian.own, &gramian.tasks, weights, heads, |path| self.source.part(path))?;
        in_order(&self.parts(), shared, own)
    }

    /// `Jᵀw` over the shared leaves for weights of the tasks that have labels, without any row. One cotangent pass.
    ///
    /// # Errors
    /// [`ModelError::PerTask`] for another number of weights.
    pub fn combination(&self, weights: &[f64]) -> Result<Tree> {
        Ok(self.weighted(weights)?.filter(|name| self.source.part(&name.path) == Part::Shared))
    }

    /// `Σ wᵢ∇fᵢ` over all leaves for weights of the tasks that have labels. One cotangent pass.
    ///
    /// Leaves of absent tasks are left out.
    ///
    /// # Errors
    /// [`ModelError::PerTask`] for another number of weights.
    pub fn weighted(&self, weights: &[f64]) -> Result<Tree> {
        check_weights(&self.tasks, weights)?;
        let mut all = vec![0.0; self.source.tasks.len()];
        self.tasks.iter().zip(weights).for_each(|(task, weight)| all[*task] = *weight);
        let tree = self.pullback.apply(&self.cotangent(all))?;
        Ok(tree.filter(|name| match self.source.part(&name.path) {
            Part::Shared => true,
            Part::Task(task) => self.tasks.contains(&task),
        }))
    }

    /// Rows of some tasks, and their own leaves.
    fn rows(&self, tasks: &[usize]) -> Result<(Vec<Tree>, Tree)> {
        let (mut rows, mut own) = (Vec::with_capacity(tasks.len()), Tree::empty());
        for &task in tasks {
            let (row, head) = self.row(task)?;
            rows.push(row);
            own = own.merge(head)?;
        }
        Ok((rows, own))
    }

    /// A shared tree as a direction of all leaves, zero elsewhere.
    fn direction(&self, shared: Tree) -> Result<Tree> {
        let mut present: HashMap<String, DispatchTensor> =
            shared.into_leaves().map(|(name, leaf)| (name.path, leaf)).collect();
        let zeros = self.point.zeros_like().into_leaves();
        let leaves = zeros.map(|(name, zero)| {
            let leaf = present.remove(&name.path).unwrap_or(zero);
            (name, leaf)
        });
        Ok(Tree::from_leaves(leaves)?)
    }

    fn unit(&self, task: usize) -> Tensor<1> {
        let mut unit = vec![0.0; self.source.tasks.len()];
        unit[task] = 1.0;
        self.cotangent(unit)
    }

    fn cotangent(&self, values: Vec<f64>) -> Tensor<1> {
        let value = &self.pullback.value;
        let length = values.len();
        Tensor::from_data(TensorData::new(values, [length]), (&value.device(), value.dtype()))
    }

    fn parts(&self) -> Vec<(LeafName, Part)> {
        let names = self.point.names().iter();
        names.map(|name| (name.clone(), self.source.part(&name.path))).collect()
    }
}

/// The gradients of a [`ForwardPass`] over the shared leaves. Made by [`ForwardPass::jacobian`].
///
/// The weighted sum is a cotangent pass of its own, whatever the way to the Gramian.
pub struct PassJacobian<'a, B> {
    pass: &'a ForwardPass<'a, B>,
    by: GramianBy,
}

impl<B: Batch + 'static> Jacobian for PassJacobian<'_, B> {
    fn gramian(&self) -> crate::Result<Gramian> {
        self.pass.gramian(self.by)?.gramian()
    }

    fn combine(&self, weights: &[f64]) -> crate::Result<Tree> {
        Ok(self.pass.combination(weights)?)
    }
}

impl TaskGradients {
    pub(crate) fn from_parts(
        losses: Tensor<1>,
        tasks: Vec<usize>,
        absent: Vec<usize>,
        rows: Vec<Tree>,
        own: Tree,
        parts: Vec<(LeafName, Part)>,
    ) -> Self {
        Self { losses, tasks, absent, rows, own, parts }
    }

    /// The update of all leaves, in the model's order, from what an aggregator made of the rows.
    ///
    /// `weights` (one for each of `tasks`) are what the heads are scaled by, if [`HeadGradient::Weighted`] is wanted; `None`
    /// trains each by its own loss.
    ///
    /// # Errors
    /// [`ModelError::PerTask`] for another number of weights; [`core_tensor::Error`] if `shared` has not the rows' leaves.
    pub fn assemble(self, shared: Tree, weights: Option<&[f64]>) -> Result<Tree> {
        if let Some(row) = self.rows.first() {
            row.same_structure(&shared)?;
        }
        let own = match weights {
            Some(weights) => {
                let part = |path: &str| part_of(&self.parts, path);
                scaled_heads(self.own, &self.tasks, weights, HeadGradient::Weighted, part)?
            }
            None => self.own,
        };
        in_order(&self.parts, shared, own)
    }

    /// `JJᵀ`, row by row; NaN in the lines of rows that are not finite. One pass over the rows.
    ///
    /// # Errors
    /// None with rows as they came.
    pub fn gramian(&self) -> Result<Vec<f64>> {
        products(&self.rows)
    }

    /// Whose a leaf is.
    pub(crate) fn part(&self, path: &str) -> Part {
        part_of(&self.parts, path)
    }

    /// `Jᵀw`.
    ///
    /// # Errors
    /// [`ModelError::PerTask`] for another number of weights.
    pub fn combination(&self, weights: &[f64]) -> Result<Tree> {
        linear_combination(&self.rows, weights)
    }
}

/// `JJᵀ`, row by row, at the scale of the rows.
pub(crate) fn products(rows: &[Tree]) -> Result<Vec<f64>> {
    match rows.is_empty() {
        true => Ok(Vec::new()),
        false => Ok(Gramian::of(rows)?.entries()),
    }
}

/// `Σ wᵢ·rowᵢ`, in one pass over the rows. Rows of weight 0 are not looked at.
pub(crate) fn linear_combination(rows: &[Tree], weights: &[f64]) -> Result<Tree> {
    match rows.len() == weights.len() {
        true => Ok(combine(rows, weights)?),
        false => Err(ModelError::PerTask { what: "the list of weights", expected: rows.len(), found: weights.len() }),
    }
}

fn part_of(parts: &[(LeafName, Part)], path: &str) -> Part {
    parts.iter().find(|(name, _)| name.path == path).map_or(Part::Shared, |(_, part)| *part)
}

fn check_weights(tasks: &[usize], weights: &[f64]) -> Result<()> {
    match weights.len() == tasks.len() {
        true => Ok(()),
        false => Err(ModelError::PerTask { what: "the list of weights", expected: tasks.len(), found: weights.len() }),
    }
}

fn scaled_heads(
    own: Tree,
    tasks: &[usize],
    weights: &[f64],
    heads: HeadGradient,
    part: impl Fn(&str) -> Part,
) -> Result<Tree> {
    check_weights(tasks, weights)?;
    if heads == HeadGradient::Own {
        return Ok(own);
    }
    let factors = own.names().iter().map(|name| {
        let task = match part(&name.path) {
            Part::Task(task) => tasks.iter().position(|other| *other == task),
            Part::Shared => None,
        };
        task.map_or(1.0, |position| weights[position]).into()
    });
    let factors: Vec<_> = factors.collect();
    Ok(own.scale_leaves(&factors)?)
}

/// Both trees as one, in the order of the model's leaves.
fn in_order(order: &[(LeafName, Part)], shared: Tree, own: Tree) -> Result<Tree> {
    let mut leaves: HashMap<String, DispatchTensor> =
        shared.merge(own)?.into_leaves().map(|(name, leaf)| (name.path, leaf)).collect();
    let ordered = order.iter().filter_map(|(name, _)| Some((name.clone(), leaves.remove(&name.path)?)));
    let tree = Tree::from_leaves(ordered)?;
    match leaves.into_keys().next() {
        None => Ok(tree),
        Some(path) => Err(core_tensor::Error::UnknownLeaf { path, place: "the model" }.into()),
    }
}

fn check_names(tasks: &[String]) -> Result<()> {
    for (task, name) in tasks.iter().enumerate() {
        let reason = if name.is_empty() {
            "it is empty"
        } else if name.contains('.') {
            "a dot separates the parts of a path"
        } else if tasks[..task].contains(name) {
            "another task has that name"
        } else {
            continue;
        };
        return Err(ModelError::TaskName { task, name: name.clone(), reason });
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::model::{Masked, MultiTask, TaskMask};
    use burn::module::Module;
    use burn::nn::{Linear, LinearConfig, Tanh};
    use burn::tensor::{DType, Device, Distribution};
    use core_tensor::testing::{assert_close, host_devices, property};

    pub(crate) type Labels = (Tensor<2>, Vec<TaskMask>);

    #[derive(Module, Debug)]
    pub(crate) struct Net {
        body: (Linear, Tanh),
        heads: Vec<Linear>,
    }

    impl Net {
        pub(crate) fn loss_of(&self, task: usize, (x, (y, masks)): &(Tensor<2>, Labels)) -> Tensor<1> {
            let z = self.body.0.forward(x.clone()).tanh();
            let out: Tensor<1> = self.heads[task].forward(z).squeeze_dim(1);
            masks[task].mean((out - y.clone().slice_dim(1, task).squeeze_dim(1)).square())
        }
    }

    impl MultiTaskModel<(Tensor<2>, Labels)> for Net {
        fn tasks(&self) -> Vec<String> {
            (0..self.heads.len()).map(|task| format!("t{task}")).collect()
        }
        fn losses(&self, (x, (y, masks)): &(Tensor<2>, Labels)) -> Tensor<1> {
            let z = self.body.0.forward(x.clone()).tanh();
            let losses = self.heads.iter().zip(masks).enumerate().map(|(task, (head, mask))| {
                let out: Tensor<1> = head.forward(z.clone()).squeeze_dim(1);
                mask.mean((out - y.clone().slice_dim(1, task).squeeze_dim(1)).square())
            });
            Tensor::cat(losses.collect(), 0)
        }
        fn part(&self, path: &str) -> Part {
            match path.strip_prefix("heads.").and_then(|rest| rest.split('.').next()?.parse().ok()) {
                Some(task) => Part::Task(task),
                None => Part::Shared,
            }
        }
        fn labelled(&self, (_, (_, masks)): &(Tensor<2>, Labels)) -> Vec<bool> {
            masks.iter().map(|mask| mask.labelled() > 0).collect()
        }
    }

    pub(crate) fn net(tasks: usize, device: &Device) -> Net {
        let heads = (0..tasks).map(|_| LinearConfig::new(5, 1).init(device)).collect();
        Net { body: (LinearConfig::new(3, 5).init(device), Tanh::new()), heads }
    }

    pub(crate) fn batch(tasks: usize, labels: &[bool], device: &Device) -> (Tensor<2>, Labels) {
        let examples = 4;
        let masks = (0..tasks).map(|task| {
            let has = labels[task];
            TaskMask::new(&(0..examples).map(|i| has && i != task % 3).collect::<Vec<_>>(), device)
        });
        let x = Tensor::random([examples, 3], Distribution::Normal(0.0, 1.0), device);
        let y = Tensor::random([examples, tasks], Distribution::Normal(0.0, 1.0), device);
        (x, (y, masks.collect()))
    }

    /// What Burn's own tape gives for `Σ wᵢfᵢ`, one forward pass each.
    fn burn(net: &Net, batch: &(Tensor<2>, Labels), weights: &[f64]) -> Tree {
        let device = batch.0.device().autodiff();
        let net = net.clone().to_device(&device).train();
        let on = |x: &Tensor<2>| Tensor::<2>::from_data(x.to_data(), &device);
        let masks = batch.1.1.iter().map(|mask| {
            let data: Vec<bool> = mask.tensor().into_data().iter::<bool>().collect();
            TaskMask::new(&data, &device)
        });
        let batch = (on(&batch.0), (on(&batch.1.0), masks.collect()));
        let w = Tensor::<1>::from_data(TensorData::new(weights.to_vec(), [weights.len()]), &device);
        Tree::from_grads((net.losses(&batch) * w).sum().backward(), &net)
    }

    #[test]
    fn rows_are_the_gradients_of_each_loss_alone() {
        for device in host_devices() {
            let (m, net) = (3, net(3, &device));
            let batch = batch(m, &[true; 3], &device);
            let program = TaskProgram::record(&net, &batch).unwrap();
            let point = Tree::from_module(&net);
            let gradients = program.gradients(&point, &batch).unwrap();
            assert_eq!((gradients.tasks.as_slice(), gradients.absent.len()), ([0, 1, 2].as_slice(), 0));
            let own = gradients.own.clone();
            for task in 0..m {
                let mut unit = vec![0.0; m];
                unit[task] = 1.0;
                let alone = burn(&net, &batch, &unit);
                assert_close(&gradients.rows[task], &alone.filter(|name| name.path.starts_with("body")), 1e-6);
                let head = format!("heads.{task}.");
                let mine = |name: &LeafName| name.path.starts_with(&head);
                assert_close(&own.filter(mine), &alone.filter(mine), 1e-6);
            }
            // Weighted heads make it the gradient of the weighted sum, to the last leaf and in the model's order.
            let weights = [0.5, -1.0, 2.0];
            let shared = gradients.combination(&weights).unwrap();
            let update = gradients.assemble(shared, Some(&weights)).unwrap();
            assert_close(&update, &burn(&net, &batch, &weights), 1e-5);
            assert_eq!(update.names(), point.names());
        }
    }

    #[test]
    fn every_way_to_the_gramian_agrees() {
        property(12, (1..=5usize, 1..=6usize, proptest::num::u8::ANY), |(m, block, missing)| {
            let device = Device::flex();
            let net = net(m, &device);
            let labels: Vec<bool> = (0..m).map(|task| missing >> task & 1 == 1 || task == 0).collect();
            let batch = batch(m, &labels, &device);
            let program = TaskProgram::record(&net, &batch).unwrap();
            let point = Tree::from_module(&net);
            let pass = program.forward(&point, &batch).unwrap();
            let rows = pass.gramian(GramianBy::Rows).unwrap();
            let stored = program.gradients(&point, &batch).unwrap();
            assert_eq!(rows.values, stored.gramian().unwrap());
            let weights: Vec<f64> = (0..rows.tasks.len()).map(|i| 1.0 - 0.7 * i as f64).collect();
            let expected = stored.combination(&weights).unwrap();
            assert_close(&pass.combination(&weights).unwrap(), &expected, 1e-5);
            let expected = stored.clone().assemble(expected, Some(&weights)).unwrap();
            for by in [GramianBy::Tangents, GramianBy::Blocks(block), GramianBy::Rows] {
                let gramian = pass.gramian(by).unwrap();
                let scale = rows.values.iter().fold(0.0f64, |a, b| a.max(b.abs()));
                for (a, b) in gramian.values.iter().zip(&rows.values) {
                    assert!((a - b).abs() <= 2e-6 * scale, "{by:?}: {a} and {b}");
                }
                let update = pass.combine(gramian, &weights, HeadGradient::Weighted).unwrap();
                assert_close(&update, &expected, 1e-5);
            }
            let own = pass.combine(pass.gramian(GramianBy::Tangents).unwrap(), &weights, HeadGradient::Own).unwrap();
            assert_eq!(own.names(), expected.names());
            // The same as a source for any method.
            let through = pass.jacobian(GramianBy::Tangents);
            let found = through.gramian().unwrap();
            let scale = rows.values.iter().fold(0.0f64, |a, b| a.max(b.abs()));
            for (entry, expected) in found.entries().iter().zip(&rows.values) {
                assert!((entry - expected).abs() <= 2e-6 * scale, "{entry} and {expected}");
            }
            assert_close(&through.combine(&weights).unwrap(), &stored.combination(&weights).unwrap(), 1e-5);
        });
    }

    #[test]
    fn a_task_without_labels_is_absent_not_zero() {
        let device = Device::flex();
        let net = net(3, &device);
        let full = batch(3, &[true; 3], &device);
        let program = TaskProgram::record(&net, &full).unwrap();
        let point = Tree::from_module(&net);
        let some = batch(3, &[true, false, true], &device);
        let gradients = program.gradients(&point, &some).unwrap();
        assert_eq!((&gradients.tasks[..], &gradients.absent[..]), (&[0, 2][..], &[1][..]));
        assert_eq!(gradients.rows.len(), 2);
        let update = gradients.clone().assemble(gradients.rows[0].clone(), None).unwrap();
        assert!(update.names().iter().all(|name| !name.path.starts_with("heads.1")));
        let pass = program.forward(&point, &some).unwrap();
        assert!(matches!(pass.row(1), Err(ModelError::Absent { task: 1 })));
        assert!(matches!(pass.weighted(&[1.0; 3]), Err(ModelError::PerTask { expected: 2, found: 3, .. })));
        let mut seen = Vec::new();
        pass.for_each_row(|task, row| {
            seen.push((task, row.len()));
            Ok(())
        })
        .unwrap();
        assert_eq!(seen, [(0, 2), (2, 2)]);
        let none = batch(3, &[false; 3], &device);
        let gradients = program.gradients(&point, &none).unwrap();
        assert!(gradients.rows.is_empty() && gradients.own.is_empty());
        assert!(matches!(pass.gramian(GramianBy::Blocks(0)), Err(ModelError::Parameter { .. })));
    }

    #[test]
    fn wrong_claims_about_parts_and_names_are_refused() {
        #[derive(Module, Debug)]
        struct Wrong {
            a: Linear,
            b: Linear,
            #[module(skip)]
            claim: usize,
        }
        impl MultiTaskModel<Tensor<2>> for Wrong {
            fn tasks(&self) -> Vec<String> {
                let second = if self.claim == 3 { "x.y" } else { "second" };
                vec!["first".into(), second.into()]
            }
            fn losses(&self, x: &Tensor<2>) -> Tensor<1> {
                let (a, b) = (self.a.forward(x.clone()), self.b.forward(x.clone()));
                let losses = vec![a.clone().mean(), (a * b).mean()];
                Tensor::cat(if self.claim == 2 { losses[..1].to_vec() } else { losses }, 0)
            }
            fn part(&self, path: &str) -> Part {
                match (path.starts_with('a'), self.claim) {
                    (true, 0) => Part::Task(0),
                    (false, 1) => Part::Task(5),
                    _ => Part::Shared,
                }
            }
        }
        let device = Device::flex();
        let linear = || LinearConfig::new(2, 2).init(&device);
        let x = Tensor::<2>::ones([3, 2], &device);
        let record = |claim| match TaskProgram::record(&Wrong { a: linear(), b: linear(), claim }, &x) {
            Ok(_) => panic!("accepted"),
            Err(error) => error.to_string(),
        };
        assert_eq!(record(0), "parameter `a.weight` is said to belong to task 0, but the loss of task 1 depends on it");
        assert_eq!(record(1), "parameter `b.weight` belongs to task 5, but there are 2 tasks");
        assert_eq!(record(2), "the model names 2 tasks, but `losses` gives 1 losses");
        assert_eq!(record(3), "task 1 is named `x.y`: a dot separates the parts of a path");
    }

    #[test]
    fn the_builder_is_recorded_with_masks_and_in_half_precision_weights() {
        let device = Device::flex();
        let linear = |from, to| LinearConfig::new(from, to).init(&device);
        let net = MultiTask::new((linear(3, 4), Tanh::new()))
            .head("a", linear(4, 1), |out: Tensor<2>, y: &(Tensor<1>, TaskMask)| {
                (out.squeeze_dim::<1>(1) - y.0.clone()).square().mean()
            })
            .head(
                "b",
                linear(4, 1),
                Masked::new(
                    |out: Tensor<2>, y: &(Tensor<1>, TaskMask)| (out.squeeze_dim::<1>(1) + y.0.clone()).square(),
                    |y: &(Tensor<1>, TaskMask)| y.1.clone(),
                ),
            );
        let x = Tensor::<2>::random([2, 3], Distribution::Default, &device);
        let y = Tensor::<1>::ones([2], &device);
        let batch = (x.clone(), (y.clone(), TaskMask::new(&[true, false], &device)));
        let program = TaskProgram::record(&net, &batch).unwrap();
        assert_eq!(program.tasks(), ["a", "b"]);
        let point = Tree::from_module(&net);
        let gradients = program.gradients(&point, &batch).unwrap();
        assert_eq!(gradients.own.names()[3].path, "heads.b.bias");
        let none = (x, (y, TaskMask::new(&[false, false], &device)));
        assert_eq!(program.gradients(&point, &none).unwrap().absent, [1]);
        let narrow = point.cast(burn::tensor::FloatDType::F16);
        let narrow_batch = (none.0.cast(DType::F16), (none.1.0.cast(DType::F16), TaskMask::all(2, &device)));
        let narrow = program.gradients(&narrow, &narrow_batch).unwrap();
        for (row, wide) in narrow.rows.iter().zip(&gradients.rows) {
            assert_eq!(row.len(), wide.len());
            assert!(row.is_finite().value() == 1.0);
        }
    }
}
