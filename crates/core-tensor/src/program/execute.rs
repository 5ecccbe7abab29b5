//! Running a graph: a schedule made once, and its execution on a device.
//!
//! On a host backend, element-wise operations run in groups ([`fuse`](super::fuse)), and steps that do not need one another run at
//! the same time: a value and its tangent, the gradients of a layer's input and of its weight. Both change when something is
//! computed, not what.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};

use burn::backend::ir::{BaseOperationIr, FloatOperationIr, IrVisitorMut, OperationIr, TensorId, TensorIr};
use burn::backend::{DispatchDevice, DispatchTensor};
use burn::tensor::Device;
use rayon::Scope;

use super::error::ProgramError;
use super::fuse::{Group, Piece, fuse};
use super::graph::{Entry, Graph, index};
use super::operations::{Values, execute};
use super::record::panic_message;
use crate::kernels::fused::Kernel;
use crate::kernels::host::is_host_device;

/// Work, in simple operations on one element, that is worth handing to another thread.
const HEAVY: usize = 1 << 15;
/// Below this much work a schedule stays on the caller's thread.
const PARALLEL: usize = 1 << 20;

/// A graph whose steps know who reads them.
#[derive(Debug)]
pub(crate) struct Schedule {
    pub entries: Vec<Entry>,
    pub outputs: Vec<TensorIr>,
    steps: Vec<Step>,
    /// How often each tensor is read, as an output too.
    readers: Vec<usize>,
    /// The steps that read no other step's results.
    first: Vec<usize>,
    work: usize,
}

#[derive(Debug)]
struct Step {
    action: Action,
    /// Steps whose results this one reads.
    waits: usize,
    /// Steps that read this one's results.
    next: Vec<usize>,
    heavy: bool,
}

#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "most steps are of the large kind")]
enum Action {
    One(OperationIr),
    /// Operations in one pass over memory where the device is the host, else one by one.
    Fused {
        kernel: Kernel,
        inputs: Vec<TensorIr>,
        outputs: Vec<TensorIr>,
        plain: Box<Schedule>,
    },
}

impl Schedule {
    pub fn new(graph: Graph) -> Self {
        let pieces = fuse(&graph);
        Self::of(graph, pieces)
    }

    /// Of pieces of the graph in an order that can be run.
    pub fn of(graph: Graph, pieces: Vec<Piece>) -> Self {
        let mut readers = vec![0; graph.tensors];
        let mut writer = vec![None; graph.tensors];
        let mut steps: Vec<Step> = Vec::with_capacity(pieces.len());
        let (mut first, mut total) = (Vec::new(), 0);
        for (position, piece) in pieces.into_iter().enumerate() {
            let work: usize = match &piece {
                Piece::One(operation) => work(operation),
                Piece::Group(group) => group.kernel.work(),
            };
            let action = Action::new(piece);
            let mut before = Vec::new();
            action.inputs(&mut |input| {
                readers[index(input)] += 1;
                before.extend(writer[index(input)]);
            });
            before.sort_unstable();
            before.dedup();
            for step in &before {
                let step: &mut Step = &mut steps[*step];
                step.next.push(position);
            }
            if before.is_empty() {
                first.push(position);
            }
            action.outputs(&mut |out| writer[index(out)] = Some(position));
            steps.push(Step { action, waits: before.len(), next: Vec::new(), heavy: work >= HEAVY });
            total += work;
        }
        graph.outputs.iter().for_each(|out| readers[index(out)] += 1);
        Schedule { entries: graph.entries, outputs: graph.outputs, steps, readers, first, work: total }
    }

    /// Number of operations.
    pub fn len(&self) -> usize {
        let count = |step: &Step| match &step.action {
            Action::One(_) => 1,
            Action::Fused { plain, .. } => plain.len(),
        };
        self.steps.iter().map(count).sum()
    }

    /// Runs the schedule with the given values of its entries, in order, and returns the outputs.
    ///
    /// Burn's kernels panic on what they cannot do; that comes back as an error.
    pub fn run(
        &self,
        entries: Vec<DispatchTensor>,
        device: &DispatchDevice,
    ) -> Result<Vec<DispatchTensor>, ProgramError> {
        catch_unwind(AssertUnwindSafe(|| self.run_unguarded(entries, device)))
            .map_err(|panic| ProgramError::Execution { message: panic_message(panic.as_ref()) })
    }

    fn run_unguarded(&self, entries: Vec<DispatchTensor>, device: &DispatchDevice) -> Vec<DispatchTensor> {
        let settings = Device::new(device.clone()).settings();
        let values = Values::new(&self.readers, device, settings.bool_dtype);
        for (entry, value) in self.entries.iter().zip(entries) {
            values.set(&entry.tensor, value);
        }
        match self.work >= PARALLEL && is_host_device(device) && rayon::current_num_threads() > 1 {
            true => self.run_parallel(&values),
            false => self.steps.iter().for_each(|step| step.action.run(&values)),
        }
        self.outputs.iter().map(|out| values.get(out)).collect()
    }

    fn run_parallel(&self, values: &Values<'_>) {
        let waiting: Vec<AtomicUsize> = self.steps.iter().map(|step| AtomicUsize::new(step.waits)).collect();
        rayon::scope(|scope| self.follow(self.first.clone(), values, &waiting, scope));
    }

    /// Runs `ready` steps and what they make ready; hands all heavy steps but one at a time to other threads.
    fn follow<'s>(
        &'s self,
        mut ready: Vec<usize>,
        values: &'s Values<'s>,
        waiting: &'s [AtomicUsize],
        scope: &Scope<'s>,
    ) {
        let (mut light, mut heavy) = (Vec::new(), None);
        loop {
            for step in ready.drain(..) {
                if !self.steps[step].heavy {
                    light.push(step);
                } else if heavy.is_none() {
                    heavy = Some(step);
                } else {
                    scope.spawn(move |scope| self.follow(vec![step], values, waiting, scope));
                }
            }
            let Some(step) = light.pop().or_else(|| heavy.take()) else { return };
            let step = &self.steps[step];
            step.action.run(values);
            ready.extend(step.next.iter().filter(|next| waiting[**next].fetch_sub(1, Ordering::AcqRel) == 1));
        }
    }
}

impl Action {
    fn new(piece: Piece) -> Self {
        let Group { mut operations, kernel, inputs, outputs } = match piece {
            Piece::One(operation) => return Action::One(operation),
            Piece::Group(group) => group,
        };
        // The operations on their own, with tensors counted from 0.
        let mut local = Local(Vec::new());
        let mut renamed = |tensors: &[TensorIr]| -> Vec<TensorIr> {
            let mut tensors = tensors.to_vec();
            tensors.iter_mut().for_each(|tensor| local.visit_tensor_mut(tensor));
            tensors
        };
        let (entries, results) = (renamed(&inputs), renamed(&outputs));
        operations.iter_mut().for_each(|operation| operation.visit_mut(&mut local));
        let entry = |(source, tensor)| Entry { tensor, source: super::graph::Source::Kept(source) };
        let graph = Graph {
            entries: entries.into_iter().enumerate().map(entry).collect(),
            outputs: results,
            tensors: local.0.len(),
            ..Graph::default()
        };
        let plain = Schedule::of(graph, operations.into_iter().map(Piece::One).collect());
        Action::Fused { kernel, inputs, outputs, plain: Box::new(plain) }
    }

    fn inputs(&self, visit: &mut dyn FnMut(&TensorIr)) {
        match self {
            Action::One(operation) => operation.inputs().for_each(visit),
            Action::Fused { inputs, .. } => inputs.iter().for_each(visit),
        }
    }

    fn outputs(&self, visit: &mut dyn FnMut(&TensorIr)) {
        match self {
            Action::One(operation) => operation.outputs().for_each(visit),
            Action::Fused { outputs, .. } => outputs.iter().for_each(visit),
        }
    }

    fn run(&self, values: &Values<'_>) {
        match self {
            Action::One(operation) => {
                let done = execute(operation, values);
                assert!(done, "recording accepts only operations that can be executed: {operation:?}");
            }
            Action::Fused { kernel, inputs, outputs, plain } => {
                let inputs = inputs.iter().map(|input| values.get(input)).collect();
                let results = match kernel.run(inputs, values.device) {
                    Ok(results) => results,
                    Err(inputs) => plain.run_unguarded(inputs, values.device),
                };
                outputs.iter().zip(results).for_each(|(out, value)| values.set(out, value));
            }
        }
    }
}

/// Roughly the time of an operation, in simple operations on one element.
fn work(operation: &OperationIr) -> usize {
    use BaseOperationIr as B;
    let largest = || {
        let tensors = operation.inputs().chain(operation.outputs());
        tensors.map(|tensor| tensor.shape.num_elements()).max().unwrap_or(0)
    };
    match operation {
        OperationIr::BaseFloat(op) | OperationIr::BaseInt(op) | OperationIr::BaseBool(op) => match op {
            B::Reshape(_) | B::SwapDims(_) | B::Permute(_) | B::Expand(_) | B::Slice(_) => 0,
            _ => largest(),
        },
        OperationIr::Float(_, FloatOperationIr::Matmul(d)) => {
            let depth = d.lhs.shape.iter().last().copied().unwrap_or(1);
            d.out.shape.num_elements() * depth.div_ceil(8)
        }
        OperationIr::Module(_) => 16 * largest(),
        _ => largest(),
    }
}

/// Renames tensors in the order in which they are met.
struct Local(Vec<TensorId>);

impl IrVisitorMut for Local {
    fn visit_tensor_mut(&mut self, tensor: &mut TensorIr) {
        let known = self.0.iter().position(|id| *id == tensor.id);
        let local = known.unwrap_or_else(|| {
            self.0.push(tensor.id);
            self.0.len() - 1
        });
        tensor.id = TensorId::new(local as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::graph::{Builder, Source};
    use burn::backend::ir::MatmulOpIr;
    use burn::tensor::{DType, Distribution, Shape, Tensor};

    fn matmul(b: &mut Builder, lhs: &TensorIr, rhs: &TensorIr) -> TensorIr {
        let out = b.like(lhs);
        let desc = MatmulOpIr { lhs: lhs.clone(), rhs: rhs.clone(), out: out.clone() };
        b.push(OperationIr::Float(lhs.dtype, FloatOperationIr::Matmul(desc)));
        out
    }

    /// Two strands that meet now and then, with work enough for threads.
    fn braid(wrong: bool) -> Graph {
        let mut b = Graph::default().into_builder();
        let shape = Shape::new([96, 96]);
        let mut entry = |source| b.entry(shape.clone(), DType::F32, Source::Batch(source));
        let (mut x, mut y) = (entry(0), entry(1));
        for _ in 0..6 {
            let (left, right) = (matmul(&mut b, &x, &y), matmul(&mut b, &y, &x));
            let (left, right) = (b.mul_scalar(&left, 0.1), b.mul_scalar(&right, 0.1));
            x = b.sub(&left, &right);
            y = b.add(&right, &left);
        }
        if wrong {
            // A matrix product of sizes that do not fit.
            let narrow = b.tensor(Shape::new([95, 96]), DType::F32);
            let slice = b.sum_dim(&y, 0);
            x = matmul(&mut b, &slice, &narrow);
            b.graph.entries.push(Entry { tensor: narrow, source: Source::Batch(2) });
        }
        b.graph.outputs = vec![x, y];
        b.graph
    }

    fn inputs(device: &Device, wrong: bool) -> Vec<DispatchTensor> {
        let draw = |rows: usize| Tensor::<2>::random([rows, 96], Distribution::Default, device).into_dispatch();
        let mut inputs = vec![draw(96), draw(96)];
        inputs.extend(wrong.then(|| draw(95)));
        inputs
    }

    fn bits(values: Vec<DispatchTensor>) -> Vec<Vec<u32>> {
        let floats = |value| Tensor::<2>::from_dispatch(value).into_data().try_to_vec::<f32>().unwrap();
        values.into_iter().map(|value| floats(value).into_iter().map(f32::to_bits).collect()).collect()
    }

    #[test]
    fn threads_change_nothing() {
        for device in crate::testing::host_devices() {
            let schedule = Schedule::new(braid(false));
            assert!(schedule.work >= PARALLEL && schedule.steps.iter().any(|step| step.heavy));
            let inputs = inputs(&device, false);
            let run = |threads: usize| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                bits(pool.install(|| schedule.run(inputs.clone(), device.as_dispatch())).unwrap())
            };
            let alone = run(1);
            for _ in 0..20 {
                assert_eq!(run(4), alone);
            }
        }
    }

    #[test]
    fn a_panic_on_any_thread_is_an_error() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(4).build().unwrap();
        for device in crate::testing::host_devices() {
            let schedule = Schedule::new(braid(true));
            let outcome = pool.install(|| schedule.run(inputs(&device, true), device.as_dispatch()));
            assert!(matches!(outcome, Err(ProgramError::Execution { .. })));
        }
    }
}
