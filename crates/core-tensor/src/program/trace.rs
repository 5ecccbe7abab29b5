//! The forward pass of a recorded function as data, for analyses that another crate writes.
//!
//! A [`Trace`] is the list of Burn's own operations between the inputs of a [`Program`](super::Program) and its value: simplified,
//! without the backward pass and without anything that the value does not need. Every tensor has one dense position, is written once
//! and read any number of times. Bounds through a network are one analysis of that kind: they go over the operations that depend on the
//! examples and let [`Trace::evaluate`] compute everything else.

use std::panic::{AssertUnwindSafe, catch_unwind};

use burn::backend::DispatchTensor;
use burn::backend::ir::{OperationIr, TensorIr};
use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Bool, Device, Distribution, Int, Tensor, TensorData};

use super::batch::{Batch, BatchMapper};
use super::error::ProgramError;
use super::graph::{Graph, Source, index};
use super::operations::{Values, execute};
use super::record::panic_message;
use super::simplify::simplify;
use crate::error::Result;

/// The forward pass of a [`Program`](super::Program) for one set of shapes: operations in an order that can be executed.
///
/// ```
/// use burn::{nn::LinearConfig, tensor::{Device, Tensor}};
/// use core_tensor::{Frozen, Origin, Program, Tree};
/// # fn main() -> core_tensor::Result<()> {
/// let device = Device::default();
/// let batch = (Tensor::<2>::ones([5, 3], &device), Frozen(LinearConfig::new(3, 2).init(&device)));
/// let program = Program::record_tree(&Tree::empty(), &batch, |_, (x, model)| {
///     model.0.forward(x.clone()).reshape([-1])
/// })?;
/// let trace = program.trace(&Tree::empty(), &batch)?;
/// // The input, the weight and the bias come from the batch.
/// assert!(trace.inputs().iter().all(|input| matches!(input.origin, Origin::Batch(0..3))));
/// assert_eq!(trace.output().shape.to_vec(), [10]);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Trace {
    inputs: Vec<TraceInput>,
    operations: Vec<OperationIr>,
    output: TensorIr,
    tensors: usize,
}

/// A tensor of a [`Trace`] that no operation computes.
#[derive(Clone, Debug)]
pub struct TraceInput {
    /// Its shape, type and position.
    pub tensor: TensorIr,
    /// Where its value comes from.
    pub origin: Origin,
}

/// Where the value of a [`TraceInput`] comes from.
#[derive(Clone, Debug)]
pub enum Origin {
    /// This leaf of the point.
    Point(usize),
    /// This tensor of the batch, in the order of [`batch_tensors`].
    Batch(usize),
    /// A parameter with `require_grad` off or running state of the model that was recorded over.
    Held(DispatchTensor),
    /// A value fixed at recording.
    Constant(TensorData),
    /// Drawn at random by the function, so that it is no function of point and batch alone.
    Random(Distribution),
}

impl Trace {
    /// The value of a graph, `buffers` being what its program holds.
    pub(super) fn new(graph: &Graph, buffers: &[DispatchTensor]) -> Self {
        let mut graph = graph.clone();
        graph.outputs.truncate(1);
        let graph = simplify(graph);
        let inputs = graph.entries.into_iter().map(|entry| TraceInput {
            tensor: entry.tensor,
            origin: match entry.source {
                Source::Point(leaf) => Origin::Point(leaf),
                Source::Batch(tensor) => Origin::Batch(tensor),
                Source::Buffer(tensor) => Origin::Held(buffers[tensor].clone()),
                Source::Constant(data) => Origin::Constant(data),
                Source::Noise(distribution) => Origin::Random(distribution),
                Source::Kept(_) | Source::Cotangent | Source::Direction(_) | Source::Weight(_) => {
                    unreachable!("a forward pass reads no input of a later stage")
                }
            },
        });
        let output = graph.outputs.into_iter().next().expect("a recording has a value");
        Trace { inputs: inputs.collect(), operations: graph.operations, output, tensors: graph.tensors }
    }

    /// The tensors that no operation computes.
    pub fn inputs(&self) -> &[TraceInput] {
        &self.inputs
    }

    /// The operations, each after those whose results it reads.
    pub fn operations(&self) -> &[OperationIr] {
        &self.operations
    }

    /// The function's value, of rank 1.
    pub fn output(&self) -> &TensorIr {
        &self.output
    }

    /// Number of positions in use.
    pub fn tensors(&self) -> usize {
        self.tensors
    }

    /// The position of a tensor, less than [`tensors`](Self::tensors).
    pub fn position(tensor: &TensorIr) -> usize {
        index(tensor)
    }

    /// Short name of an operation, as in `Float(Tanh)`.
    pub fn name(operation: &OperationIr) -> String {
        Graph::operation_name(operation)
    }

    /// The values of all tensors that follow from the inputs that `known` gives a value for, by position.
    ///
    /// The values are on `device` and either all of them carry a tape or none does; with tapes `device` is one with autodiff, and
    /// what is computed can be differentiated.
    ///
    /// # Errors
    /// [`ProgramError::Execution`] if a kernel panics, for example because devices do not match.
    pub fn evaluate(
        &self,
        device: &Device,
        mut known: impl FnMut(&TraceInput) -> Option<DispatchTensor>,
    ) -> Result<Vec<Option<DispatchTensor>>> {
        let mut computed = vec![false; self.tensors];
        // Nothing is handed over: every value is read once more at the end.
        let mut readers = vec![1; self.tensors];
        self.operations.iter().flat_map(|op| op.inputs()).for_each(|input| readers[index(input)] += 1);
        let settings = device.settings();
        let values = Values::new(&readers, device.as_dispatch(), settings.bool_dtype);
        for input in &self.inputs {
            if let Some(value) = known(input) {
                computed[index(&input.tensor)] = true;
                values.set(&input.tensor, value);
            }
        }
        let run = || {
            for operation in &self.operations {
                if operation.inputs().all(|input| computed[index(input)]) {
                    execute(operation, &values);
                    operation.outputs().for_each(|out| computed[index(out)] = true);
                }
            }
        };
        catch_unwind(AssertUnwindSafe(run))
            .map_err(|panic| ProgramError::Execution { message: panic_message(panic.as_ref()) })?;
        Ok(values.into_all())
    }
}

/// The tensors of a batch in the order that [`Origin::Batch`] counts them, each with its tape if it has one.
pub fn batch_tensors<B: Batch>(batch: &B) -> Vec<DispatchTensor> {
    let mut tensors = Tracked(Vec::new());
    batch.map(&mut tensors);
    tensors.0
}

struct Tracked(Vec<DispatchTensor>);

impl BatchMapper for Tracked {
    fn float<const D: usize>(&mut self, tensor: &Tensor<D>) -> Tensor<D> {
        self.0.push(tensor.clone().into_dispatch());
        tensor.clone()
    }

    fn int<const D: usize>(&mut self, tensor: &Tensor<D, Int>) -> Tensor<D, Int> {
        self.0.push(tensor.clone().into_dispatch());
        tensor.clone()
    }

    fn bool<const D: usize>(&mut self, tensor: &Tensor<D, Bool>) -> Tensor<D, Bool> {
        self.0.push(tensor.clone().into_dispatch());
        tensor.clone()
    }

    fn module<M: Module>(&mut self, module: &M) -> M {
        module.visit(self);
        module.clone()
    }
}

impl ModuleVisitor for Tracked {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.0.push(param.val().into_dispatch());
    }

    fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
        self.0.push(param.val().into_dispatch());
    }

    fn visit_bool<const D: usize>(&mut self, param: &Param<Tensor<D, Bool>>) {
        self.0.push(param.val().into_dispatch());
    }
}

#[cfg(test)]
mod tests {
    use burn::nn::{BatchNormConfig, DropoutConfig, LinearConfig};
    use burn::tensor::{Distribution, activation};

    use super::*;
    use crate::testing::host_devices;
    use crate::{Frozen, Program, Tree};

    /// With every input known the last value is the program's; with the examples left out, nothing that depends on them is there.
    #[test]
    fn what_is_known_is_evaluated() {
        for device in host_devices() {
            let model = (LinearConfig::new(3, 4).init(&device), BatchNormConfig::new(4).init(&device)).valid();
            let x = Tensor::<2>::random([5, 3], Distribution::Default, &device);
            let batch = (x, Frozen(model));
            let program = Program::record_tree(&Tree::empty(), &batch, |_, (x, Frozen(model))| {
                activation::relu(model.1.forward(model.0.forward(x.clone()))).reshape([-1])
            });
            let program = program.unwrap();
            let trace = program.trace(&Tree::empty(), &batch).unwrap();
            let tensors = batch_tensors(&batch);
            let values = trace.evaluate(&device, |input| match input.origin {
                Origin::Batch(n) => Some(tensors[n].clone()),
                _ => panic!("{:?}", input.origin),
            });
            let out = values.unwrap()[Trace::position(trace.output())].take().unwrap();
            let want = program.value(&Tree::empty(), &batch).unwrap();
            let close = (Tensor::<1>::from_dispatch(out) - want).abs().max().into_scalar::<f32>();
            assert!(close < 1e-6, "{close}");
            let values = trace.evaluate(&device, |input| match input.origin {
                Origin::Batch(0) => None,
                Origin::Batch(n) => Some(tensors[n].clone()),
                _ => panic!("{:?}", input.origin),
            });
            let values = values.unwrap();
            let mut varies = vec![false; trace.tensors()];
            let first = |input: &&TraceInput| matches!(input.origin, Origin::Batch(0));
            varies[Trace::position(&trace.inputs().iter().find(first).unwrap().tensor)] = true;
            for operation in trace.operations() {
                let moved = operation.inputs().any(|input| varies[Trace::position(input)]);
                operation.outputs().for_each(|out| {
                    varies[Trace::position(out)] = moved;
                    assert_eq!(values[Trace::position(out)].is_none(), moved, "{operation:?}");
                });
            }
            assert!(varies[Trace::position(trace.output())]);
        }
    }

    /// Parameters on a tape keep it through what is evaluated.
    #[test]
    fn tapes_are_kept() {
        let device = Device::flex();
        let x = Tensor::<1>::from_data([3.0, -1.0], &device);
        let batch = (x.clone(), x);
        let program = Program::record_tree(&Tree::empty(), &batch, |_, (x, y): &(Tensor<1>, Tensor<1>)| {
            x.clone().square() * y.clone() + 1.0
        });
        let trace = program.unwrap().trace(&Tree::empty(), &batch).unwrap();
        let tracked = device.clone().autodiff();
        let x = Tensor::<1>::from_data([3.0, -1.0], &tracked).require_grad();
        let batch = batch_tensors(&(x.clone(), x.clone()));
        let values = trace.evaluate(&tracked, |input| match input.origin {
            Origin::Batch(n) => Some(batch[n].clone()),
            _ => None,
        });
        let out = values.unwrap()[Trace::position(trace.output())].take().unwrap();
        let gradient = x.grad(&Tensor::<1>::from_dispatch(out).sum().backward()).unwrap();
        assert_eq!(gradient.into_data().iter::<f32>().collect::<Vec<_>>(), [27.0, 3.0]);
    }

    /// Noise is an input of its own, never a hidden part of a value.
    #[test]
    fn noise_shows() {
        let device = Device::flex();
        let batch = (Tensor::<2>::ones([2, 3], &device), Frozen(DropoutConfig::new(0.5).init()));
        let program = Program::record_tree(&Tree::empty(), &batch, |_, (x, Frozen(dropout))| {
            dropout.forward(x.clone()).reshape([-1])
        });
        let trace = program.unwrap().trace(&Tree::empty(), &batch).unwrap();
        assert!(trace.inputs().iter().any(|input| matches!(input.origin, Origin::Random(_))));
    }
}
