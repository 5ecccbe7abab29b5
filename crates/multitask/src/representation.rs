//! Task gradients at the body's output instead of its parameters.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use burn::module::{Module, Param};
use burn::tensor::{Tensor, TensorData};
use core_tensor::{Batch, Program, Pullback, Tree};

use crate::model::{Forward, ModelError, MultiTask, MultiTaskModel, Part, Result, TaskHeads};
use crate::task_gradients::{Labelled, TaskGradients};

/// The path of the only leaf of a row.
const REPRESENTATION: &str = "features";

/// Cheap task gradients of a [`MultiTask`] model: those at the representation `z`, the body's output.
///
/// Rows are `∂fᵢ/∂z` (all examples of the batch in one leaf), which costs `m` passes through the *heads* and none through the body.
/// What an aggregator makes of them goes back through the body once. Two backward passes through the body become one, whatever `m`:
///
/// $$∇_u = \Big(\frac{∂z}{∂u}\Big)^⊤ A\Big(\frac{∂f_1}{∂z}, …, \frac{∂f_m}{∂z}\Big)$$
///
/// With weights `w` found by some other means this is exactly `Σ wᵢ∇ᵤfᵢ`. But weights found *from these rows* are those of the
/// representation's Gramian, not of the shared parameters': the two differ as far as `∂z/∂u` is from a multiple of an isometry, and what
/// an aggregator guarantees (no conflict, minimum norm) holds at `z` and for examples one by one, not for `u`. It is the upper
/// bound of MGDA-UB (O. Sener and V. Koltun, "Multi-Task Learning as Multi-Objective Optimization", NeurIPS 2018,
/// arXiv:1810.04650, section 3.3), and what most papers' "feature-level" runs do. For exact ones use
/// [`TaskProgram`](crate::TaskProgram).
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
    /// The heads by the number of the representation's elements, which a recording is for.
    heads: Mutex<HashMap<usize, Arc<Program<Y>>>>,
    record_heads: RecordHeads<Y>,
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

#[derive(Module, Debug)]
struct OnlyBody<B: Module> {
    body: B,
}

#[derive(Module, Debug)]
struct OnFeatures<H: Module> {
    heads: H,
    features: Param<Tensor<1>>,
}

impl<X: Batch + Clone + 'static, Y: Batch + 'static> RepresentationProgram<X, Y> {
    /// Records body and heads. The body's output has the examples along its first axis.
    ///
    /// # Errors
    /// [`core_tensor::ProgramError`] if one of them cannot be recorded; [`ModelError::Losses`].
    pub fn record<B, H, const D: usize>(model: &MultiTask<B, H>, batch: &(X, Y)) -> Result<Self>
    where
        B: Forward<X, Output = Tensor<D>> + Sync + 'static,
        H: TaskHeads<Tensor<D>, Y> + crate::model::Named + Sync + 'static,
    {
        let tasks = model.tasks().len();
        let dims = model.body.forward(batch.0.clone()).dims();
        let width = dims[1..].iter().product::<usize>();
        let only_body = OnlyBody { body: model.body.clone() };
        let body = Program::record_first_order(&only_body, &batch.0, |model: &OnlyBody<B>, x: &X| {
            model.body.forward(x.clone()).reshape([-1])
        })?;
        let parts = Tree::from_module(model);
        let parts = parts.names().iter().map(|name| (name.path.clone(), model.part(&name.path))).collect();
        let heads = model.heads.clone();
        let record_heads = Box::new(move |elements: usize, labels: &Y| {
            let device = Tree::from_module(&heads).device().unwrap_or_default();
            let features = Param::from_tensor(Tensor::<1>::zeros([elements], &device));
            let template = OnFeatures { heads: heads.clone(), features };
            let mut shape = dims;
            shape[0] = elements / width.max(1);
            Ok(Program::record_first_order(&template, labels, move |model: &OnFeatures<H>, labels: &Y| {
                let mut losses = Vec::new();
                model.heads.losses(&model.features.val().reshape(shape), labels, &mut losses);
                Tensor::cat(losses, 0)
            })?)
        });
        let heads = model.heads.clone();
        let labelled = Box::new(move |labels: &Y| {
            let mut labelled = Vec::new();
            heads.labelled(labels, &mut labelled);
            labelled
        });
        Ok(Self { body, heads: Mutex::default(), record_heads, labelled, parts, tasks, width })
    }

    /// One forward pass, and one backward pass through the heads for each task that has labels.
    ///
    /// # Errors
    /// Those of [`Program::pullback`]; [`ModelError::Losses`].
    pub fn forward(&self, point: &Tree, (input, labels): &(X, Y)) -> Result<RepresentationPass> {
        let (in_body, in_heads) = point.clone().partition(|name| name.path.starts_with("body."));
        let body = self.body.pullback(&in_body, input)?;
        let elements = body.value.dims()[0];
        if self.width == 0 || elements % self.width != 0 {
            let bound = "a multiple of an example's features as recorded";
            return Err(ModelError::parameter("elements of the representation", elements as f64, bound));
        }
        let heads = self.heads_for(elements, labels)?;
        let on_features = in_heads.push(REPRESENTATION, body.value.clone())?;
        let pass = heads.pullback(&on_features, labels)?;
        let found = pass.value.dims()[0];
        if found != self.tasks {
            return Err(ModelError::Losses { expected: self.tasks, found });
        }
        let labelled = (self.labelled)(labels);
        let (tasks, absent): (Vec<_>, Vec<_>) = (0..self.tasks).partition(|task| labelled[*task]);
        let (mut rows, mut own) = (Vec::with_capacity(tasks.len()), Tree::empty());
        for &task in &tasks {
            let mut unit = vec![0.0; self.tasks];
            unit[task] = 1.0;
            let options = (&pass.value.device(), pass.value.dtype());
            let row = pass.apply(&Tensor::from_data(TensorData::new(unit, [self.tasks]), options))?;
            let (features, others) = row.partition(|name| name.path == REPRESENTATION);
            rows.push(features);
            own = own.merge(others.filter(|name| self.part(&name.path) == Part::Task(task)))?;
        }
        let order: Vec<_> = point.names().iter().map(|name| (name.clone(), self.part(&name.path))).collect();
        let gradients = TaskGradients::from_parts(pass.value, tasks, absent, rows, own, order);
        Ok(RepresentationPass { gradients, body })
    }

    fn heads_for(&self, elements: usize, labels: &Y) -> Result<Arc<Program<Y>>> {
        let mut heads = self.heads.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(program) = heads.get(&elements) {
            return Ok(program.clone());
        }
        let program = Arc::new((self.record_heads)(elements, labels)?);
        heads.insert(elements, program.clone());
        Ok(program)
    }

    fn part(&self, path: &str) -> Part {
        self.parts.get(path).copied().unwrap_or(Part::Shared)
    }
}

impl RepresentationPass {
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
