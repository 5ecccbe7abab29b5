//! A body with named heads of any types, built head by head.

use std::fmt;

use burn::module::{Content, Devices, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor};
use burn::tensor::{Device, Tensor};
use core_tensor::Tree;

use super::{Forward, ManyHeads, MultiTaskModel, Part, TaskMask};

/// One body and a head, a loss and a name for each task: hard parameter sharing
/// (R. Caruana, "Multitask Learning", Machine Learning 28, 1997).
///
/// $$\min_{u, v_1 … v_m} \frac1m \sum_i f_i(u, v_i)$$ with `u` the parameters of `body` and `vᵢ` those of head `i`.
///
/// A batch is a pair `(input, labels)`: the body gets the input, every loss its head's output and the labels. Heads and losses
/// may all be of different types. Parameter paths are `body.…` and `heads.NAME.…`; checkpoints hold all of them.
///
/// ```
/// use burn::{nn::{LinearConfig, Relu, loss::CrossEntropyLossConfig}, tensor::{Device, Int, Tensor}};
/// use core_tensor::Tree;
/// use multitask::{MultiTask, MultiTaskModel, TaskProgram};
/// # fn main() -> multitask::ModelResult<()> {
/// let device = Device::default();
/// type Labels = (Tensor<1, Int>, Tensor<1>);
/// let net = MultiTask::new((LinearConfig::new(4, 8).init(&device), Relu::new()))
///     .head("digit", LinearConfig::new(8, 10).init(&device), |logits: Tensor<2>, labels: &Labels| {
///         CrossEntropyLossConfig::new().init(&logits.device()).forward(logits, labels.0.clone())
///     })
///     .head("size", LinearConfig::new(8, 1).init(&device), |out: Tensor<2>, labels: &Labels| {
///         (out.squeeze_dim::<1>(1) - labels.1.clone()).square().mean()
///     });
///
/// let input = Tensor::<2>::ones([2, 4], &device);
/// let batch = (input, (Tensor::<1, Int>::from_data([3, 7], &device), Tensor::<1>::from_data([0.5, 1.0], &device)));
/// let program = TaskProgram::record(&net, &batch)?;
/// let gradients = program.gradients(&Tree::from_module(&net), &batch)?;
/// assert_eq!((gradients.rows.len(), gradients.own.len()), (2, 4));
/// # Ok(()) }
/// ```
#[derive(Module, Debug)]
pub struct MultiTask<B: Module, H: Module> {
    /// The shared parameters `u`.
    pub body: B,
    /// The heads.
    pub heads: H,
    /// Paths within the body that belong to a task.
    #[module(skip)]
    own: Vec<(String, usize)>,
}

impl<B: Module> MultiTask<B, NoHeads> {
    /// A body without heads yet.
    pub fn new(body: B) -> Self {
        Self { body, heads: NoHeads, own: Vec::new() }
    }
}

impl<B: Module, H: Module> MultiTask<B, H> {
    /// Whose the body's parameters are, by their paths within the body; without this all are shared.
    ///
    /// For architectures whose bodies hold parameters of single tasks: gates, attention. Tasks are counted in the order of heads.
    pub fn parts_of_body(self, parts: impl Fn(&B, &str) -> Part) -> Self {
        let paths = Tree::from_module(&self.body);
        let own = paths.names().iter().filter_map(|name| match parts(&self.body, &name.path) {
            Part::Task(task) => Some((name.path.clone(), task)),
            Part::Shared => None,
        });
        Self { own: own.collect(), ..self }
    }

    /// One more task.
    ///
    /// `loss` is a function `(head's output, &labels) -> Tensor<1>` of one element, or a [`Masked`] one. Names are checked when the
    /// model is recorded: not empty, without a dot, no two alike.
    pub fn head<M: Module, L: Clone + Send>(self, name: &str, head: M, loss: L) -> MultiTask<B, Heads<H, M, L>> {
        let heads = Heads { rest: self.heads, name: name.to_string(), head, loss };
        MultiTask { body: self.body, heads, own: self.own }
    }

    /// Several more tasks whose heads are of one type, a name, a head and a loss each: any number of them, known at run time.
    ///
    /// Their outputs in [`forward`](Self::forward) are a `Vec`.
    ///
    /// ```
    /// use burn::{nn::LinearConfig, tensor::{Device, Tensor}};
    /// use multitask::{MultiTask, MultiTaskModel};
    ///
    /// let device = Device::default();
    /// let linear = |from, to| LinearConfig::new(from, to).init(&device);
    /// let columns = (0..20).map(|i| {
    ///     let loss = move |out: Tensor<2>, y: &Tensor<2>| (out - y.clone().slice_dim(1, i)).square().mean();
    ///     (format!("column {i}"), linear(8, 1), loss)
    /// });
    /// let net = MultiTask::new(linear(3, 8)).heads(columns);
    /// let batch = (Tensor::<2>::ones([4, 3], &device), Tensor::<2>::ones([4, 20], &device));
    /// assert_eq!(net.losses(&batch).dims(), [20]);
    /// ```
    pub fn heads<M: Module, L: Clone + Send>(
        self,
        heads: impl IntoIterator<Item = (String, M, L)>,
    ) -> MultiTask<B, ManyHeads<H, M, L>> {
        let heads = ManyHeads::behind(self.heads, heads);
        MultiTask { body: self.body, heads, own: self.own }
    }

    /// One output a head, as a nested pair `(((), first), second)`.
    pub fn forward<X>(&self, input: X) -> H::Outputs
    where
        B: Forward<X>,
        H: HeadOutputs<B::Output>,
    {
        self.heads.outputs(&self.body.forward(input))
    }
}

impl<X, Y, B, H> MultiTaskModel<(X, Y)> for MultiTask<B, H>
where
    X: Clone,
    B: Forward<X>,
    B::Output: Clone,
    H: TaskHeads<B::Output, Y> + Named,
{
    fn tasks(&self) -> Vec<String> {
        let mut names = Vec::new();
        self.heads.names(&mut names);
        names
    }

    fn losses(&self, (input, labels): &(X, Y)) -> Tensor<1> {
        let mut losses = Vec::new();
        let features = self.body.forward(input.clone());
        self.heads.losses_of(&mut |_| features.clone(), labels, &mut losses);
        Tensor::cat(losses, 0)
    }

    fn part(&self, path: &str) -> Part {
        let mut names = Vec::new();
        self.heads.names(&mut names);
        let head = path.strip_prefix("heads.").and_then(|rest| rest.split('.').next());
        match names.iter().position(|name| Some(name.as_str()) == head) {
            Some(task) => Part::Task(task),
            None => {
                let within = path.strip_prefix("body.");
                let own = self.own.iter().find(|(own, _)| Some(own.as_str()) == within);
                own.map_or(Part::Shared, |(_, task)| Part::Task(*task))
            }
        }
    }

    fn labelled(&self, (_, labels): &(X, Y)) -> Vec<bool> {
        let mut labelled = Vec::new();
        self.heads.labelled(labels, &mut labelled);
        labelled
    }
}

/// What a task loses: `(head's output, &labels) -> [1]`.
pub trait TaskLoss<O, Y>: Clone + Send {
    /// The loss, one element.
    fn loss(&self, output: O, labels: &Y) -> Tensor<1>;

    /// Whether the batch has any label for this task.
    fn labelled(&self, _labels: &Y) -> bool {
        true
    }
}

impl<O, Y, F: Fn(O, &Y) -> Tensor<1> + Clone + Send> TaskLoss<O, Y> for F {
    fn loss(&self, output: O, labels: &Y) -> Tensor<1> {
        self(output, labels)
    }
}

/// A loss of which some examples have no label: the mean over those that have one.
///
/// `losses` gives one loss an example, shape `[examples]`; `mask` says which count. A batch in which none does gives the
/// task no gradient ([`TaskGradients::absent`](crate::TaskGradients::absent)).
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use multitask::{Masked, TaskLoss, TaskMask};
///
/// type Labels = (Tensor<1>, TaskMask);
/// let device = Device::default();
/// let loss = Masked::new(
///     |out: Tensor<2>, labels: &Labels| (out.squeeze_dim::<1>(1) - labels.0.clone()).square(),
///     |labels: &Labels| labels.1.clone(),
/// );
/// let out = Tensor::<2>::from_data([[1.0], [9.0]], &device);
/// let labels = (Tensor::<1>::from_data([3.0, 0.0], &device), TaskMask::new(&[true, false], &device));
/// assert_eq!(loss.loss(out, &labels).into_scalar::<f32>(), 4.0);
/// ```
#[derive(Clone)]
pub struct Masked<F, K> {
    losses: F,
    mask: K,
}

impl<F, K> Masked<F, K> {
    /// Losses an example, and the examples that have a label.
    pub fn new(losses: F, mask: K) -> Self {
        Self { losses, mask }
    }
}

impl<O, Y, F, K> TaskLoss<O, Y> for Masked<F, K>
where
    F: Fn(O, &Y) -> Tensor<1> + Clone + Send,
    K: Fn(&Y) -> TaskMask + Clone + Send,
{
    fn loss(&self, output: O, labels: &Y) -> Tensor<1> {
        (self.mask)(labels).mean((self.losses)(output, labels))
    }

    fn labelled(&self, labels: &Y) -> bool {
        (self.mask)(labels).labelled() > 0
    }
}

/// The end of the list of heads.
#[derive(Module, Debug)]
pub struct NoHeads;

/// A head, its name and its loss, behind the heads before it. Made by [`MultiTask::head`].
#[derive(Clone)]
pub struct Heads<R, M, L> {
    rest: R,
    name: String,
    head: M,
    loss: L,
}

/// Heads that give losses, for an output `Z` of the body and labels `Y`.
pub trait TaskHeads<Z, Y>: Module + ModuleDisplay {
    /// Appends the losses of all heads. Head `i` of the model is given `features(i)`.
    fn losses_of(&self, features: &mut dyn FnMut(usize) -> Z, labels: &Y, losses: &mut Vec<Tensor<1>>);
    /// Appends whether the batch has labels for each task.
    fn labelled(&self, labels: &Y, labelled: &mut Vec<bool>);
}

/// Heads that give outputs, for an output `Z` of the body.
pub trait HeadOutputs<Z>: Module + ModuleDisplay {
    /// All outputs.
    type Outputs;
    /// The outputs of all heads.
    fn outputs(&self, features: &Z) -> Self::Outputs;
}

/// Heads with names.
pub trait Named {
    /// Appends the names.
    fn names(&self, names: &mut Vec<String>);
}

impl<Z, Y> TaskHeads<Z, Y> for NoHeads {
    fn losses_of(&self, _features: &mut dyn FnMut(usize) -> Z, _labels: &Y, _losses: &mut Vec<Tensor<1>>) {}
    fn labelled(&self, _labels: &Y, _labelled: &mut Vec<bool>) {}
}

impl<Z> HeadOutputs<Z> for NoHeads {
    type Outputs = ();
    fn outputs(&self, _features: &Z) {}
}

impl Named for NoHeads {
    fn names(&self, _names: &mut Vec<String>) {}
}

impl<Z, Y, R, M, L> TaskHeads<Z, Y> for Heads<R, M, L>
where
    R: TaskHeads<Z, Y>,
    M: Forward<Z>,
    L: TaskLoss<M::Output, Y>,
{
    fn losses_of(&self, features: &mut dyn FnMut(usize) -> Z, labels: &Y, losses: &mut Vec<Tensor<1>>) {
        self.rest.losses_of(features, labels, losses);
        let own = features(losses.len());
        losses.push(self.loss.loss(self.head.forward(own), labels).reshape([-1]));
    }

    fn labelled(&self, labels: &Y, labelled: &mut Vec<bool>) {
        self.rest.labelled(labels, labelled);
        labelled.push(self.loss.labelled(labels));
    }
}

impl<Z, R, M, L> HeadOutputs<Z> for Heads<R, M, L>
where
    Z: Clone,
    R: HeadOutputs<Z>,
    M: Forward<Z>,
    L: Clone + Send,
{
    type Outputs = (R::Outputs, M::Output);

    fn outputs(&self, features: &Z) -> Self::Outputs {
        (self.rest.outputs(features), self.head.forward(features.clone()))
    }
}

impl<R: Named, M, L> Named for Heads<R, M, L> {
    fn names(&self, names: &mut Vec<String>) {
        self.rest.names(names);
        names.push(self.name.clone());
    }
}

impl<R: fmt::Debug, M: fmt::Debug, L> fmt::Debug for Heads<R, M, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Heads")
            .field("rest", &self.rest)
            .field("name", &self.name)
            .field("head", &self.head)
            .finish_non_exhaustive()
    }
}

/// Written by hand so that parameters are named by their task.
impl<R: Module, M: Module, L: Clone + Send> Module for Heads<R, M, L> {
    fn collect_devices(&self, devices: Devices) -> Devices {
        self.head.collect_devices(self.rest.collect_devices(devices))
    }

    fn fork(self, device: &Device) -> Self {
        Self { rest: self.rest.fork(device), head: self.head.fork(device), ..self }
    }

    fn to_device(self, device: &Device) -> Self {
        Self { rest: self.rest.to_device(device), head: self.head.to_device(device), ..self }
    }

    fn train(self) -> Self {
        Self { rest: self.rest.train(), head: self.head.train(), ..self }
    }

    fn valid(&self) -> Self {
        let (rest, head) = (self.rest.valid(), self.head.valid());
        Self { rest, head, name: self.name.clone(), loss: self.loss.clone() }
    }

    fn materialize(self) -> Self {
        Self { rest: self.rest.materialize(), head: self.head.materialize(), ..self }
    }

    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        self.rest.visit(visitor);
        visitor.enter_module(&self.name, "Head");
        self.head.visit(visitor);
        visitor.exit_module(&self.name, "Head");
    }

    fn map<V: ModuleMapper>(self, mapper: &mut V) -> Self {
        let rest = self.rest.map(mapper);
        mapper.enter_module(&self.name, "Head");
        let head = self.head.map(mapper);
        mapper.exit_module(&self.name, "Head");
        Self { rest, head, ..self }
    }
}

impl<R: ModuleDisplay, M: ModuleDisplay, L> ModuleDisplayDefault for Heads<R, M, L> {
    fn content(&self, content: Content) -> Option<Content> {
        content.add("rest", &self.rest).add(&self.name, &self.head).optional()
    }
}

impl<R: ModuleDisplay, M: ModuleDisplay, L> ModuleDisplay for Heads<R, M, L> {}
