//! Tasks whose datasets are not shared: a batch, and a program, of its own each.

use burn::module::Module;
use burn::tensor::Tensor;
use core_tensor::{Batch, Program, Tree};

use crate::model::{ModelError, Part, Result};
use crate::task_gradients::TaskGradients;

/// The losses of `m` tasks that share parameters but no inputs, each recorded on a batch of its own.
///
/// Nothing of one task's forward pass serves another, so that `m` gradients are `m` forward and `m` backward passes and no more;
/// a model that gives all losses at once ([`TaskProgram`](crate::TaskProgram)) would pull zeros back through every task's batch
/// for every row.
///
/// ```
/// use burn::{nn::LinearConfig, tensor::{Device, Tensor}};
/// use core_tensor::Tree;
/// use multitask::{Part, SeparateTasks};
/// # fn main() -> multitask::ModelResult<()> {
/// let device = Device::default();
/// let model = LinearConfig::new(2, 1).init(&device);
/// let batches = [Tensor::<2>::ones([3, 2], &device), Tensor::<2>::ones([5, 2], &device)];
/// let tasks = SeparateTasks::record(&model, &batches, |_| Part::Shared, |model, task, x: &Tensor<2>| {
///     (model.forward(x.clone()) - task as f64).square().mean()
/// })?;
/// let [first, second] = batches;
/// let gradients = tasks.gradients(&Tree::from_module(&model), &[Some(first), None])?;
/// assert_eq!((gradients.tasks, gradients.absent), (vec![0], vec![1]));
/// # let _ = second; Ok(()) }
/// ```
pub struct SeparateTasks<B> {
    programs: Vec<Program<B>>,
    parts: Vec<Part>,
}

impl<B: Batch + 'static> SeparateTasks<B> {
    /// Records `loss(model, task, batch)`, of one element, once for each of `batches`. `part` says whose a parameter is.
    ///
    /// # Errors
    /// [`ModelError::UnknownTask`]; [`ModelError::NotOwn`] where the loss of one task depends on what belongs to another;
    /// [`core_tensor::ProgramError`] if a loss cannot be recorded or is not one number.
    pub fn record<M>(
        model: &M,
        batches: &[B],
        part: impl Fn(&str) -> Part,
        loss: impl Fn(&M, usize, &B) -> Tensor<1> + Clone + Send + Sync + 'static,
    ) -> Result<Self>
    where
        M: Module + Sync + 'static,
    {
        let point = Tree::from_module(model);
        let tasks = batches.len();
        let parts: Vec<Part> = point.names().iter().map(|name| part(&name.path)).collect();
        for (name, part) in point.names().iter().zip(&parts) {
            if let Part::Task(task) = *part
                && task >= tasks
            {
                return Err(ModelError::UnknownTask { path: name.path.clone(), task, tasks });
            }
        }
        let mut programs = Vec::with_capacity(tasks);
        for (task, batch) in batches.iter().enumerate() {
            let loss = loss.clone();
            let program =
                Program::record_first_order(model, batch, move |model: &M, batch: &B| loss(model, task, batch))?;
            let absent = program.value_and_grad(&point, batch)?.absent;
            let foreign = point.names().iter().zip(&parts).find(|(name, part)| match part {
                Part::Task(owner) => *owner != task && !absent.contains(&name.path),
                Part::Shared => false,
            });
            if let Some((name, Part::Task(owner))) = foreign {
                return Err(ModelError::NotOwn { path: name.path.clone(), owner: *owner, task });
            }
            programs.push(program);
        }
        Ok(Self { programs, parts })
    }

    /// One row for each task that has a batch: a forward and a backward pass each.
    ///
    /// A shared leaf that a task's loss does not depend on is zero in its row.
    ///
    /// # Errors
    /// [`ModelError::PerTask`] for another number of batches; those of [`Program::value_and_grad`].
    pub fn gradients(&self, point: &Tree, batches: &[Option<B>]) -> Result<TaskGradients> {
        let expected = self.programs.len();
        if batches.len() != expected {
            return Err(ModelError::PerTask { what: "the list of batches", expected, found: batches.len() });
        }
        let part = |path: &str| point.position(path).map_or(Part::Shared, |leaf| self.parts[leaf]);
        let zeros = point.filter(|name| part(&name.path) == Part::Shared).zeros_like();
        let (mut tasks, mut absent, mut rows, mut own) = (vec![], vec![], vec![], Tree::empty());
        let mut losses = Vec::with_capacity(expected);
        let device = point.device().unwrap_or_default();
        for (task, (program, batch)) in self.programs.iter().zip(batches).enumerate() {
            let Some(batch) = batch else {
                absent.push(task);
                losses.push(Tensor::zeros([1], &device));
                continue;
            };
            let out = program.value_and_grad(point, batch)?;
            losses.push(out.value);
            tasks.push(task);
            let (shared, mine) = out.gradient.partition(|name| part(&name.path) == Part::Shared);
            rows.push(filled(shared, &zeros)?);
            own = own.merge(mine)?;
        }
        let parts = point.names().iter().cloned().zip(self.parts.iter().copied()).collect();
        let dtype = losses.iter().map(|loss| loss.dtype()).find(|dtype| dtype.is_float()).expect("a task at least");
        let losses = Tensor::cat(losses.into_iter().map(|loss| loss.cast(dtype)).collect(), 0);
        Ok(TaskGradients::from_parts(losses, tasks, absent, rows, own, parts))
    }

    /// Number of tasks.
    pub fn tasks(&self) -> usize {
        self.programs.len()
    }
}

/// The tree with the leaves of `like`, zero where it has none.
fn filled(tree: Tree, like: &Tree) -> Result<Tree> {
    let leaves = like.iter().map(|(name, zero)| {
        let leaf = tree.position(&name.path).map_or_else(|| zero.clone(), |leaf| tree.leaf(leaf).1.clone());
        (name.clone(), leaf)
    });
    Ok(Tree::from_leaves(leaves)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task_gradients::TaskProgram;
    use crate::task_gradients::tests::{batch, net};
    use burn::nn::{Linear, LinearConfig};
    use burn::tensor::{Device, Distribution};
    use core_tensor::testing::assert_close;

    #[derive(Module, Debug)]
    struct Two {
        body: Linear,
        middle: Linear,
        heads: Vec<Linear>,
    }

    fn part(path: &str) -> Part {
        match path.strip_prefix("heads.") {
            Some(rest) => Part::Task(rest[..1].parse().unwrap()),
            None => Part::Shared,
        }
    }

    #[test]
    fn a_task_that_skips_a_shared_layer_has_zeros_there() {
        let device = Device::flex();
        let linear = |from, to| LinearConfig::new(from, to).init(&device);
        let model = Two { body: linear(3, 4), middle: linear(4, 4), heads: vec![linear(4, 1), linear(4, 1)] };
        let x = |rows| Tensor::<2>::random([rows, 3], Distribution::Default, &device);
        let batches = [x(2), x(5)];
        let loss = |model: &Two, task: usize, x: &Tensor<2>| {
            let z = model.body.forward(x.clone()).tanh();
            let z = if task == 0 { z } else { model.middle.forward(z) };
            model.heads[task].forward(z).square().mean()
        };
        let tasks = SeparateTasks::record(&model, &batches, part, loss).unwrap();
        let point = Tree::from_module(&model);
        let gradients = tasks.gradients(&point, &batches.clone().map(Some)).unwrap();
        let paths = |tree: &Tree| tree.names().iter().map(|name| name.path.clone()).collect::<Vec<_>>();
        let shared = ["body.weight", "body.bias", "middle.weight", "middle.bias"];
        assert_eq!(
            (paths(&gradients.rows[0]), paths(&gradients.rows[1])),
            (shared.map(String::from).to_vec(), shared.map(String::from).to_vec())
        );
        let middle = |row: &Tree| row.filter(|name| name.path.starts_with("middle")).norm().value();
        assert_eq!(middle(&gradients.rows[0]), 0.0);
        assert!(middle(&gradients.rows[1]) > 0.0);
        let update = gradients.clone().assemble(gradients.combination(&[1.0, 1.0]).unwrap(), None).unwrap();
        assert_eq!(update.names(), point.names());
        assert!(tasks.gradients(&point, &[None]).is_err());
        let foreign =
            SeparateTasks::record(&model, &batches, part, move |model: &Two, task, x| loss(model, 1 - task, x));
        assert!(matches!(foreign, Err(ModelError::NotOwn { .. })));
    }

    #[test]
    fn on_one_batch_for_all_they_are_the_rows_of_one_program() {
        let device = Device::flex();
        let net = net(2, &device);
        let batch = batch(2, &[true; 2], &device);
        let joint = TaskProgram::record(&net, &batch).unwrap();
        use crate::model::MultiTaskModel;
        let each = SeparateTasks::record(
            &net,
            &[batch.clone(), batch.clone()],
            |path| MultiTaskModel::<(Tensor<2>, crate::task_gradients::tests::Labels)>::part(&net, path),
            |net, task, batch| net.loss_of(task, batch),
        );
        let point = Tree::from_module(&net);
        let each = each.unwrap().gradients(&point, &[Some(batch.clone()), Some(batch.clone())]).unwrap();
        let joint = joint.gradients(&point, &batch).unwrap();
        for (a, b) in each.rows.iter().zip(&joint.rows) {
            assert_close(a, b, 1e-6);
        }
        assert_close(&each.own, &joint.own, 1e-6);
    }
}
