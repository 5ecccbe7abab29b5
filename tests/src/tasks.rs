//! The small models with one body and many heads, and every way to a step on all of their losses, for benchmarks of time and memory.

use std::cell::RefCell;
use std::rc::Rc;

use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::loss::CrossEntropyLossConfig;
use burn::nn::pool::{MaxPool2d, MaxPool2dConfig};
use burn::nn::{Linear, LinearConfig, Relu, Tanh};
use burn::tensor::{Device, Distribution, Int, Tensor, TensorData};
use core_tensor::{Batch, Tree};
use multitask::layerwise::{Layerwise, LayerwiseProgram};
use multitask::{
    Forward, Gramian, GramianAggregator, GramianBy, HeadGradient, Jacobian, ManyHeads, MultiTask, MultiTaskModel,
    NoHeads, RepresentationProgram, TaskLoss, TaskProgram,
};

/// Numbers of tasks that are measured.
pub const TASKS: [usize; 6] = [2, 4, 8, 16, 32, 64];

/// A column of labels for each task.
pub type Labels = Tensor<2, Int>;

/// Mean cross-entropy with a task's column of labels.
#[derive(Clone, Copy, Debug)]
pub struct CrossEntropy {
    task: usize,
}

impl TaskLoss<Tensor<2>, Labels> for CrossEntropy {
    fn loss(&self, output: Tensor<2>, labels: &Labels) -> Tensor<1> {
        let labels = labels.clone().slice_dim(1, self.task).squeeze_dim::<1>(1);
        CrossEntropyLossConfig::new().init(&output.device()).forward(output, labels)
    }
}

/// A linear head on the pixels and channels of an image.
#[derive(Module, Debug)]
pub struct Flat {
    head: Linear,
}

impl Forward<Tensor<4>> for Flat {
    type Output = Tensor<2>;
    fn forward(&self, input: Tensor<4>) -> Tensor<2> {
        self.head.forward(input.flatten(1, 3))
    }
}

/// Body and heads.
pub type Net<B, M> = MultiTask<B, ManyHeads<NoHeads, M, CrossEntropy>>;
/// 784-256-256, tanh after both.
pub type MlpBody = (Linear, Tanh, Linear, Tanh);
/// Two convolutions of 3×3 to 8 and 16 channels, each with ReLU and 2×2 max-pooling.
pub type CnnBody = (Conv2d, Relu, MaxPool2d, Conv2d, Relu, MaxPool2d);

/// A model, a batch for it, and the models of each task alone with the same body.
pub struct Case<B: Module, M: Module, X> {
    /// All tasks.
    pub net: Net<B, M>,
    /// The input, and a column of labels for each task.
    pub batch: (X, Labels),
    alone: Vec<Net<B, M>>,
}

/// The MLP with `tasks` heads 256-10 and 128 examples.
pub fn mlp(tasks: usize, device: &Device) -> Case<MlpBody, Linear, Tensor<2>> {
    let linear = |from, to| LinearConfig::new(from, to).init(device);
    let body = (linear(784, 256), Tanh::new(), linear(256, 256), Tanh::new());
    let x = Tensor::random([128, 784], Distribution::Normal(0.0, 1.0), device);
    case(device, body, (0..tasks).map(|_| linear(256, 10)).collect(), x, 128)
}

/// The CNN with `tasks` heads 400-10 and 64 examples.
pub fn cnn(tasks: usize, device: &Device) -> Case<CnnBody, Flat, Tensor<4>> {
    let conv = |from, to| Conv2dConfig::new([from, to], [3, 3]).init(device);
    let pool = || MaxPool2dConfig::new([2, 2]).with_strides([2, 2]).init();
    let body = (conv(1, 8), Relu::new(), pool(), conv(8, 16), Relu::new(), pool());
    let x = Tensor::random([64, 1, 28, 28], Distribution::Normal(0.0, 1.0), device);
    let heads = (0..tasks).map(|_| Flat { head: LinearConfig::new(400, 10).init(device) });
    case(device, body, heads.collect(), x, 64)
}

fn case<B: Module, M: Module, X>(device: &Device, body: B, heads: Vec<M>, x: X, examples: usize) -> Case<B, M, X> {
    let tasks = heads.len();
    // Labels that differ from task to task.
    let label = |i: usize| ((i / tasks) * (1 + i % tasks) + i % tasks) % 10;
    let values: Vec<i64> = (0..examples * tasks).map(|i| label(i) as i64).collect();
    let labels = Tensor::from_data(TensorData::new(values, [examples, tasks]), device);
    let named = |(task, head)| (format!("t{task}"), head, CrossEntropy { task });
    let alone = heads.iter().cloned().enumerate().map(|head| MultiTask::new(body.clone()).heads([named(head)]));
    let alone = alone.collect();
    let net = MultiTask::new(body).heads(heads.into_iter().enumerate().map(named));
    Case { net, batch: (x, labels), alone }
}

/// Something to measure, by name.
pub type Way<'a> = (&'static str, Box<dyn Fn() + 'a>);

impl<B, M, X, const D: usize> Case<B, M, X>
where
    B: Layerwise<X, Output = Tensor<D>> + Sync + 'static,
    M: Forward<Tensor<D>, Output = Tensor<2>> + Sync + 'static,
    X: Batch + Clone + 'static,
{
    /// Every way from the model to an update of all its parameters: task gradients over the shared ones, what `weights` makes of their
    /// Gramian, and the heads by their own losses.
    ///
    /// The first is the recorded gradient of the first task alone, what the others are compared with.
    pub fn ways<'a>(&'a self, weights: &'a dyn Fn(&Gramian) -> Vec<f64>) -> Vec<Way<'a>> {
        let record = |net: &Net<B, M>| TaskProgram::record(net, &self.batch).expect("the model can be recorded");
        let (one, all) = (record(&self.alone[0]), Rc::new(record(&self.net)));
        let heads_first = RepresentationProgram::record(&self.net, &self.batch).expect("the model can be recorded");
        let heads_first = Rc::new(heads_first);
        let layerwise = LayerwiseProgram::record(&self.net, &self.batch).expect("the model can be recorded");
        let (first, point) = (Tree::from_module(&self.alone[0]), Rc::new(Tree::from_module(&self.net)));
        let tape: Vec<Net<B, M>> = self.alone.iter().map(|net| net.clone().train()).collect();
        let mean = vec![1.0 / self.alone.len() as f64; self.alone.len()];

        let gradient = move || drop(one.forward(&first, &self.batch).unwrap().weighted(&[1.0]).unwrap());
        let burn = move || {
            let gradients = tape.iter().map(|net| Tree::from_grads(net.losses(&self.batch).backward(), net));
            let split = gradients.map(|gradient| gradient.partition(|name| name.path.starts_with("body.")));
            let (rows, own): (Vec<Tree>, Vec<Tree>) = split.unzip();
            drop((rows.combine(&weights(&rows.gramian().unwrap())).unwrap(), own));
        };
        let weighted = {
            let (all, point) = (all.clone(), point.clone());
            move || drop(all.forward(&point, &self.batch).unwrap().weighted(&mean).unwrap())
        };
        let through = |by: GramianBy| {
            let (all, point) = (all.clone(), point.clone());
            move || {
                let pass = all.forward(&point, &self.batch).unwrap();
                let products = pass.gramian(by).unwrap();
                let found = weights(&products.gramian().unwrap());
                drop(pass.combine(products, &found, HeadGradient::Own).unwrap());
            }
        };
        let exact = {
            let (heads_first, point) = (heads_first.clone(), point.clone());
            move || {
                let exact = heads_first.forward(&point, &self.batch).unwrap().exact().unwrap();
                let sum = exact.rows.combine(&weights(&exact.rows.gramian().unwrap())).unwrap();
                drop(exact.assemble(sum, None).unwrap());
            }
        };
        let factored = {
            let point = point.clone();
            move || {
                let pass = layerwise.forward(&point, &self.batch).unwrap();
                let sum = pass.combine(&weights(&pass.gramian().unwrap())).unwrap();
                drop(pass.assemble(sum, None).unwrap());
            }
        };
        let cheap = {
            let point = point.clone();
            move || {
                let pass = heads_first.forward(&point, &self.batch).unwrap();
                let rows = &pass.gradients.rows;
                let sum = rows.combine(&weights(&rows.gramian().unwrap())).unwrap();
                drop(pass.assemble(sum, None).unwrap());
            }
        };
        vec![
            ("one recorded gradient, of one task", Box::new(gradient)),
            ("loss only: one weighted sum", Box::new(weighted)),
            ("Burn: a forward and backward pass a task", Box::new(burn)),
            ("rows of a program", Box::new(through(GramianBy::Rows))),
            ("Gramian, blocks of 8 rows", Box::new(through(GramianBy::Blocks(8)))),
            ("Gramian, one row at a time", Box::new(through(GramianBy::Tangents))),
            ("rows, heads first", Box::new(exact)),
            ("rows in factored form (layer-wise)", Box::new(factored)),
            ("at the representation", Box::new(cheap)),
        ]
    }
}

impl<B, M, X, const D: usize> Case<B, M, X>
where
    B: Forward<X, Output = Tensor<D>> + Sync + 'static,
    M: Forward<Tensor<D>, Output = Tensor<2>> + Sync + 'static,
    X: Batch + Clone + 'static,
{
    /// The tasks' inner products.
    pub fn gramian(&self) -> Gramian {
        let program = TaskProgram::record(&self.net, &self.batch).expect("the model can be recorded");
        let rows = program.gradients(&Tree::from_module(&self.net), &self.batch).expect("recorded for this batch").rows;
        Gramian::of(&rows).expect("rows of one structure")
    }
}

/// A weight for every task by a method, for [`Case::ways`].
pub fn weights_of(method: impl GramianAggregator) -> impl Fn(&Gramian) -> Vec<f64> {
    let method = RefCell::new(method);
    move |gramian| method.borrow_mut().weights_of(gramian).expect("weights")
}
