//! Task gradients at the body's output instead of its parameters.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use burn::module::{Module, Param};
use burn::tensor::{Tensor, TensorData};
use core_tensor::{Batch, Program, Pullback, Tree};

use crate::model::{Forward, ModelError, MultiTask, MultiTaskModel, Named, Part, Result, TaskHeads};
use crate::task_gradients::{Labelled, TaskGradients};

/// The path of the only leaf of a row.
pub(crate) const REPRESENTATION: &str = "features";

/// Cheap task gradients of a [`MultiTask`] model: those at the representation `z`, the body's output.
///
/// Rows are `∂fᵢ/∂z` (all examples of the batch in one leaf). Each head is given a `z` of its own, so that *one* backward pass through
/// the heads gives all of them and the heads' gradients too. What an aggregator makes of them goes back through the body once, whatever
/// `m`:
///
/// $$∇_u = \Big(\frac{∂z}{∂u}\Big)^⊤ A\Big(\frac{∂f_1}{∂z}, …, \frac{∂f_m}{∂z}\Big)$$
///
/// With weights `w` found by some other means this is exactly `Σ wᵢ∇ᵤfᵢ`. But weights found *from these rows* are those of the
/// representation's Gramian, not of the shared parameters': the two differ as far as `∂z/∂u` is from a multiple of an isometry, and what
/// an aggregator guarantees (no conflict, minimum norm) holds at `z` and for examples one by one, not for `u`. It is the upper
/// bound of MGDA-UB (O. Sener and V. Koltun, "Multi-Task Learning as Multi-Objective Optimization", NeurIPS 2018,
/// arXiv:1810.04650, section 3.3), and what most papers' "feature-level" runs do.
///
/// [`RepresentationPass::exact`] takes the same rows back through the body one by one: the exact Jacobian at the cost of `m` passes
/// through the body and one through the heads, where [`TaskProgram`](crate::TaskProgram), which knows nothing of heads, pulls each
/// cotangent through all of them.
///
/// ```
/// use burn::{nn::{LinearConfig, Tanh}, tensor::{Device, Tensor}};
/// use core_tensor::Tree;
/// use multitask::{MultiTask, RepresentationProgram};
/// # fn main() -> multitask::ModelResult<()> {
/// let device = Device::default();
/// let linear = |from, to| LinearConfig::new(from, to).init(&device);
/// let net = MultiTask::new((linear(3, 8), Tanh::new()))
///     .head("a", linear(8, 1), |out: Tensor<2>, y: &Tensor<2>| (out - y.clone()).square().mean())
///     .head("b", linear(8, 1), |out: Tensor<2>, y: &Tensor<2>| (out + y.clone()).square().mean());
/// let batch = (Tensor::<2>::ones([4, 3], &device), Tensor::<2>::ones([4, 1], &device));
///
/// let program = RepresentationProgram::record(&net, &batch)?;
/// let point = Tree::from_module(&net);
/// let pass = program.forward(&point, &batch)?;
/// let mean = pass.gradients.combination(&[0.5, 0.5])?;
/// let update = pass.assemble(mean, None)?;
/// assert_eq!(update.len(), point.len());
/// # Ok(()) }
/// ```
pub struct RepresentationProgram<X, Y> {
    body: Program<X>,
    heads: HeadsProgram<Y>,
}

/// The heads of a model, each on a representation of its own: one backward pass gives `∂fᵢ/∂z` of all tasks and the gradients of
/// their own parameters.
pub(crate) struct HeadsProgram<Y> {
    /// By the number of the representation's elements, which a recording is for.
    recorded: Mutex<HashMap<usize, Arc<Program<Y>>>>,
    record: RecordHeads<Y>,
    labelled: Labelled<Y>,
    parts: HashMap<String, Part>,
    tasks: usize,
    /// Elements of the representation of one example.
    width: usize,
}

type RecordHeads<Y> = Box<dyn Fn(usize, &Y) -> Result<Program<Y>> + Send + Sync>;

/// Rows at the representation, and the way back through the body. Made by [`RepresentationProgram::forward`].
pub struct RepresentationPass {
    /// The rows (one leaf, `features`, of shape `[elements]`), the losses and the heads' gradients.
    pub gradients: TaskGradients,
    body: Pullback,
}

/// A body by the paths that its parameters have in the whole model.
#[derive(Module, Debug)]
pub(crate) struct OnlyBody<B: Module> {
    pub body: B,
}

#[derive(Module, Debug)]
struct OnFeatures<H: Module> {
    heads: H,
    /// One for each head.
    features: Vec<Param<Tensor<1>>>,
}

impl<X: Batch + Clone + 'static, Y: Batch + 'static> RepresentationProgram<X, Y> {
    /// Records body and heads. The body's output has the examples along its first axis.
    ///
    /// # Errors
    /// [`core_tensor::ProgramError`] if one of them cannot be recorded; [`ModelError::Losses`].
    pub fn record<B, H, const D: usize>(model: &MultiTask<B, H>, batch: &(X, Y)) -> Result<Self>
    where
        B: Forward<X, Output = Tensor<D>> + Sync + 'static,
        H: TaskHeads<Tensor<D>, Y> + Named + Sync + 'static,
    {
        let heads = HeadsProgram::of::<X, B, H, D>(model, model.body.forward(batch.0.clone()).dims());
        let only_body = OnlyBody { body: model.body.clone() };
        let body = Program::record_first_order(&only_body, &batch.0, |model: &OnlyBody<B>, x: &X| {
            model.body.forward(x.clone()).reshape([-1])
        })?;
        Ok(Self { body, heads })
    }

    /// One forward pass, and one backward pass through the heads.
    ///
    /// # Errors
    /// Those of [`Program::pullback`]; [`ModelError::Losses`].
    pub fn forward(&self, point: &Tree, (input, labels): &(X, Y)) -> Result<RepresentationPass> {
        let (in_body, in_heads) = split(point);
        let body = self.body.pullback(&in_body, input)?;
        let gradients = self.heads.gradients(point, in_heads, &body.value, labels)?;
        Ok(RepresentationPass { gradients, body })
    }
}

/// The leaves of the body, and the others.
pub(crate) fn split(point: &Tree) -> (Tree, Tree) {
    point.clone().partition(|name| name.path.starts_with("body."))
}

impl<Y: Batch + 'static> HeadsProgram<Y> {
    /// The heads of a model whose body gives `dims`. Recorded when first needed.
    pub fn of<X, B, H, const D: usize>(model: &MultiTask<B, H>, dims: [usize; D]) -> Self
    where
        X: Clone,
        B: Forward<X, Output = Tensor<D>>,
        H: TaskHeads<Tensor<D>, Y> + Named + Sync + 'static,
    {
        let tasks = MultiTaskModel::<(X, Y)>::tasks(model).len();
        let width = dims[1..].iter().product::<usize>();
        let parts = Tree::from_module(model);
        let part = |path: &str| MultiTaskModel::<(X, Y)>::part(model, path);
        let parts = parts.names().iter().map(|name| (name.path.clone(), part(&name.path))).collect();
        let heads = model.heads.clone();
        let record = Box::new(move |elements: usize, labels: &Y| {
            let device = Tree::from_module(&heads).device().unwrap_or_default();
            let features = (0..tasks).map(|_| Param::from_tensor(Tensor::<1>::zeros([elements], &device))).collect();
            let template = OnFeatures { heads: heads.clone(), features };
            let mut shape = dims;
            shape[0] = elements / width.max(1);
            Ok(Program::record_first_order(&template, labels, move |model: &OnFeatures<H>, labels: &Y| {
                let mut losses = Vec::new();
                model.heads.losses_of(&mut |i| model.features[i].val().reshape(shape), labels, &mut losses);
                Tensor::cat(losses, 0)
            })?)
        });
        let heads = model.heads.clone();
        let labelled = Box::new(move |labels: &Y| {
            let mut labelled = Vec::new();
            heads.labelled(labels, &mut labelled);
            labelled
        });
        Self { recorded: Mutex::default(), record, labelled, parts, tasks, width }
    }

    /// Losses, rows at the representation and the heads' gradients, for a representation of shape `[elements]`.
    pub fn gradients(&self, point: &Tree, in_heads: Tree, z: &Tensor<1>, labels: &Y) -> Result<TaskGradients> {
        let elements = z.dims()[0];
        if self.width == 0 || !elements.is_multiple_of(self.width) {
            let bound = "a multiple of an example's features as recorded";
            return Err(ModelError::parameter("elements of the representation", elements as f64, bound));
        }
        let leaf = |task: usize| format!("{REPRESENTATION}.{task}");
        let own_features = |tree: Tree, task| tree.push(leaf(task), z.clone());
        let on_features = (0..self.tasks).try_fold(in_heads, own_features)?;
        let pass = self.recorded_for(elements, labels)?.pullback(&on_features, labels)?;
        let found = pass.value.dims()[0];
        if found != self.tasks {
            return Err(ModelError::Losses { expected: self.tasks, found });
        }
        let labelled = (self.labelled)(labels);
        let (tasks, absent): (Vec<_>, Vec<_>) = (0..self.tasks).partition(|task| labelled[*task]);
        // No head sees another's features, and none has parameters of another: the gradient of the sum is that of each.
        let ones: Vec<f64> = labelled.iter().map(|labelled| f64::from(u8::from(*labelled))).collect();
        let options = (&pass.value.device(), pass.value.dtype());
        let all = pass.apply(&Tensor::from_data(TensorData::new(ones, [self.tasks]), options))?;
        let row = |task: &usize| {
            let row = all.position(&leaf(*task)).map_or(Ok(z.zeros_like()), |_| all.get::<1>(&leaf(*task)));
            Ok(Tree::empty().push(REPRESENTATION, row?)?)
        };
        let rows = tasks.iter().map(row).collect::<Result<Vec<Tree>>>()?;
        let own = all.filter(|name| matches!(self.part(&name.path), Part::Task(task) if labelled[task]));
        let order: Vec<_> = point.names().iter().map(|name| (name.clone(), self.part(&name.path))).collect();
        Ok(TaskGradients::from_parts(pass.value, tasks, absent, rows, own, order))
    }

    fn recorded_for(&self, elements: usize, labels: &Y) -> Result<Arc<Program<Y>>> {
        let mut recorded = self.recorded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(program) = recorded.get(&elements) {
            return Ok(program.clone());
        }
        let program = Arc::new((self.record)(elements, labels)?);
        recorded.insert(elements, program.clone());
        Ok(program)
    }

    /// Number of tasks.
    pub fn tasks(&self) -> usize {
        self.tasks
    }

    /// Whose a parameter of the model is.
    pub fn part(&self, path: &str) -> Part {
        self.parts.get(path).copied().unwrap_or(Part::Shared)
    }
}

impl RepresentationPass {
    /// The gradient of one of `gradients.tasks`, by its position there: over the shared leaves, and over those of the body that are its
    /// own. One pass through the body.
    ///
    /// # Errors
    /// [`ModelError::Parameter`] for a position that none of them has.
    pub fn row(&self, position: usize) -> Result<(Tree, Tree)> {
        let (Some(features), Some(task)) = (self.gradients.rows.get(position), self.gradients.tasks.get(position))
        else {
            return Err(ModelError::parameter("position", position as f64, "below the number of labelled tasks"));
        };
        let row = self.body.apply(&features.get::<1>(REPRESENTATION)?)?;
        let part = |part| row.filter(|name| self.gradients.part(&name.path) == part);
        Ok((part(Part::Shared), part(Part::Task(*task))))
    }

    /// The exact task gradients, those of [`TaskProgram::gradients`](crate::TaskProgram::gradients). A pass through the body for each.
    ///
    /// # Errors
    /// None with rows as they came.
    pub fn exact(&self) -> Result<TaskGradients> {
        let mut exact = self.gradients.clone();
        for (position, row) in exact.rows.iter_mut().enumerate() {
            let own;
            (*row, own) = self.row(position)?;
            exact.own = exact.own.merge(own)?;
        }
        Ok(exact)
    }

    /// The update of all leaves from what an aggregator made of the rows: one backward pass through the body.
    ///
    /// `weights` as in [`TaskGradients::assemble`].
    ///
    /// # Errors
    /// [`core_tensor::Error::UnknownLeaf`] if `features` has not the rows' leaf; as [`TaskGradients::assemble`].
    pub fn assemble(self, features: Tree, weights: Option<&[f64]>) -> Result<Tree> {
        let shared = self.body.apply(&features.get::<1>(REPRESENTATION)?)?;
        let mut gradients = self.gradients;
        gradients.rows.clear();
        gradients.assemble(shared, weights)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layerwise::{linear_gramian, representation_gramian};
    use crate::model::{Masked, TaskMask};
    use crate::task_gradients::TaskProgram;
    use burn::nn::{LinearConfig, Tanh};
    use burn::tensor::{Device, Distribution};
    use core_tensor::testing::{assert_close, host_devices};

    #[test]
    fn fixed_weights_give_the_exact_gradient_and_the_last_layer_its_gramian() {
        for device in host_devices() {
            let linear = |from, to| LinearConfig::new(from, to).init(&device);
            type Labels = (Tensor<2>, TaskMask);
            let square = |out: Tensor<2>, y: &Labels| (out - y.0.clone()).square().mean();
            let net = MultiTask::new((linear(3, 8), Tanh::new(), linear(8, 5)))
                .head("a", (Tanh::new(), linear(5, 1)), square)
                .head("b", linear(5, 1), square)
                .head(
                    "c",
                    linear(5, 1),
                    Masked::new(
                        |out: Tensor<2>, y: &Labels| (out + y.0.clone()).square().squeeze_dim(1),
                        |y: &Labels| y.1.clone(),
                    ),
                );
            let batch_of = |n: usize, last: bool| {
                let random = |w| Tensor::<2>::random([n, w], Distribution::Normal(0.0, 1.0), &device);
                let mut labelled = vec![false; n];
                labelled[0] = last;
                (random(3), (random(1), TaskMask::new(&labelled, &device)))
            };
            let batch = batch_of(4, true);
            let cheap = RepresentationProgram::record(&net, &batch).unwrap();
            let exact = TaskProgram::record(&net, &batch).unwrap();
            let point = Tree::from_module(&net);
            // Another batch size than the recorded one, and a task without labels.
            for (n, last) in [(4, true), (7, true), (2, false)] {
                let batch = batch_of(n, last);
                let pass = cheap.forward(&point, &batch).unwrap();
                let rows = exact.gradients(&point, &batch).unwrap();
                assert_eq!((&pass.gradients.tasks, &pass.gradients.absent), (&rows.tasks, &rows.absent));
                let weights = &[0.3, -2.0, 1.5][..rows.tasks.len()];
                let features: Vec<Tensor<2>> =
                    pass.gradients.rows.iter().map(|row| row.get::<1>("features").unwrap().reshape([n, 5])).collect();
                for (row, other) in pass.exact().unwrap().rows.iter().zip(&rows.rows) {
                    assert_close(row, other, 1e-6);
                }
                assert_close(&pass.gradients.own, &rows.own, 1e-6);
                assert!(matches!(pass.row(rows.rows.len()), Err(ModelError::Parameter { .. })));
                // The gradients at z are those at the output of the body's last layer.
                let hidden = net.body.0.forward(batch.0.clone()).tanh();
                let last_layer = linear_gramian(hidden, &features, true).unwrap();
                let of_rows = |rows: &TaskGradients| {
                    let rows: Vec<Tree> =
                        rows.rows.iter().map(|row| row.filter(|name| name.path.starts_with("body.2"))).collect();
                    rows.iter()
                        .flat_map(|x| rows.iter().map(|y| x.dot(y).unwrap().value()).collect::<Vec<_>>())
                        .collect::<Vec<f64>>()
                };
                for (a, b) in last_layer.iter().zip(of_rows(&rows)) {
                    assert!((a - b).abs() < 1e-5 * (1.0 + b.abs()), "{a} {b}");
                }
                let gramian = pass.gradients.gramian().unwrap();
                for (a, b) in representation_gramian(&features).unwrap().iter().zip(gramian) {
                    assert!((a - b).abs() < 1e-5 * (1.0 + b.abs()));
                }
                let combined = pass.gradients.combination(weights).unwrap();
                let update = pass.assemble(combined, Some(weights)).unwrap();
                let expected = rows.combination(weights).unwrap();
                assert_close(&update, &rows.assemble(expected, Some(weights)).unwrap(), 1e-5);
            }
        }
    }

    #[test]
    fn a_wrong_combination_is_refused() {
        let device = Device::flex();
        let linear = || LinearConfig::new(2, 2).init(&device);
        let net = MultiTask::new(linear()).head("a", linear(), |out: Tensor<2>, _: &()| out.mean());
        let batch = (Tensor::<2>::ones([1, 2], &device), ());
        let program = RepresentationProgram::record(&net, &batch).unwrap();
        let pass = program.forward(&Tree::from_module(&net), &batch).unwrap();
        assert!(pass.assemble(Tree::empty(), None).is_err());
    }
}
