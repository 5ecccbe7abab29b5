//! Recording a Burn function, forward and backward, as a [`Graph`].
//!
//! Burn's capture backend records operations instead of running them, and it records those of a backward pass too when the
//! autodiff decorator sits on top of it. Parameters and batch tensors go in as zeros *created on the capture device*, which
//! have a shape and a type but no value: nothing is copied from the device, and a function that tries to look at a value
//! fails instead of freezing it into the recording.

use std::any::Any;
use std::cell::RefCell;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use burn::backend::ir::{
    BaseOperationIr, FloatOperationIr, IrVisitorMut, OperationIr, TensorId, TensorIr, TensorStatus,
};
use burn::backend::ops::FloatTensorOps;
use burn::backend::{
    Autodiff, AutodiffBackend, BackendTensor, Capture, Dispatch, DispatchDevice, DispatchKindConversion,
    DispatchTensor, TensorMetadata,
};
use burn::module::{Flag, Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Bool, BoolDType, DType, Device, DeviceConfig, FloatDType, Int, IntDType, Shape, Tensor};

use super::batch::{Batch, BatchMapper};
use super::error::ProgramError;
use super::graph::{Entry, Graph, Source, index};
use super::operations::executable;

type Recorder = Autodiff<Capture>;
type Recorded = <Recorder as burn::backend::BackendTypes>::FloatTensorPrimitive;

/// Shape and element type of a tensor: all that a recording depends on.
pub(crate) type Spec = (Shape, DType);

/// What a recording is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Want {
    /// The gradient of the only output.
    Gradient,
    /// The product of a cotangent with the Jacobian of the outputs.
    Pullback,
}

/// A recorded function: outputs are the value and then the gradient of each leaf in `present`.
pub(crate) struct Recording {
    pub graph: Graph,
    /// Leaves that the value depends on, in order.
    pub present: Vec<usize>,
    /// Number of elements of the value.
    pub outputs: usize,
}

/// A function under recording: makes the capture tensors and remembers where each comes from.
pub struct Tape {
    device: Device,
    /// What the leaves look like.
    point: Vec<Spec>,
    leaves: Vec<Recorded>,
    sources: HashMap<TensorId, Source>,
}

impl Tape {
    /// The next differentiated leaf.
    pub fn leaf(&mut self) -> DispatchTensor {
        let (shape, dtype) = self.point[self.leaves.len()].clone();
        let zeros = Dispatch::float_zeros(shape, self.device.as_dispatch(), dtype.into());
        let leaf = Dispatch::float_set_require_grad(zeros, true);
        let primitive = match <DispatchTensor as DispatchKindConversion<Recorder>>::try_into_backend(leaf.clone()) {
            Ok(BackendTensor::Float(primitive)) => primitive,
            _ => unreachable!("created on the recorder as a float"),
        };
        self.sources.insert(Recorder::inner(primitive.clone()).id(), Source::Point(self.leaves.len()));
        self.leaves.push(primitive);
        leaf
    }

    /// A tensor that is read but not differentiated.
    fn float<const D: usize>(&mut self, shape: Shape, dtype: DType, source: Source) -> Tensor<D> {
        let tensor = Tensor::<D>::zeros(shape, (&self.device, dtype));
        self.sources.insert(Recorder::inner(primitive(tensor.clone())).id(), source);
        tensor
    }

    /// A float of a module that is not differentiated. It is off the tape, as running state is moved between devices by the
    /// layer that reads it, which Burn refuses for tensors of the recorder with autodiff.
    fn fixed<const D: usize>(&mut self, shape: Shape, dtype: DType, source: Source) -> Tensor<D> {
        let tensor = Tensor::<D>::zeros(shape, (&self.device.clone().without_autodiff(), dtype));
        let id = tensor.clone().try_into_primitive::<Capture>().expect("created on the recorder").id();
        self.sources.insert(id, source);
        tensor
    }

    fn int<const D: usize>(&mut self, shape: Shape, dtype: DType, source: Source) -> Tensor<D, Int> {
        let tensor = Tensor::<D, Int>::zeros(shape, (&self.device, dtype));
        let id = tensor.clone().try_into_primitive::<Recorder>().expect("created on the recorder").id();
        self.sources.insert(id, source);
        tensor
    }

    fn bool<const D: usize>(&mut self, shape: Shape, source: Source) -> Tensor<D, Bool> {
        let tensor = Tensor::<D, Bool>::zeros(shape, &self.device);
        let id = tensor.clone().try_into_primitive::<Recorder>().expect("created on the recorder").id();
        self.sources.insert(id, source);
        tensor
    }
}

fn primitive<const D: usize>(tensor: Tensor<D>) -> Recorded {
    tensor.try_into_primitive::<Recorder>().expect("created on the recorder")
}

/// Records `function`, whose result has shape `[outputs]`, for a point whose leaves look like `point`.
pub(crate) fn record(
    settings: &Device,
    point: Vec<Spec>,
    want: Want,
    names: &dyn Fn(usize) -> String,
    function: &mut dyn FnMut(&mut Tape) -> Tensor<1>,
) -> Result<Recording, ProgramError> {
    let device = capture_device(settings);
    let mut tape = Tape { device: device.clone().autodiff(), point, leaves: Vec::new(), sources: HashMap::new() };
    // The panic is caught inside the scope, so that what was recorded up to it is there to say where it happened.
    let mut outcome = Ok(Err(ProgramError::Panicked { message: String::new() }));
    let captured = device.capture_scope(|scope| {
        outcome = catch_unwind(AssertUnwindSafe(|| differentiate(&mut tape, want, function)));
        scope.complete([], [])
    });
    let mut captured = captured.map_err(|error| ProgramError::Panicked { message: error.to_string() })?;

    // Dense ids; entries for tensors that come from outside; everything else in the order recorded.
    let mut graph = Graph { int: settings.settings().int_dtype.into(), ..Graph::default() };
    let mut dense: HashMap<TensorId, TensorId> = HashMap::new();
    let entry = |graph: &mut Graph, tensor: &TensorIr, source: Source| {
        let id = TensorId::new(graph.tensors as u64);
        graph.tensors += 1;
        let tensor = TensorIr { id, status: TensorStatus::ReadOnly, ..tensor.clone() };
        graph.entries.push(Entry { tensor, source });
        id
    };
    for mut operation in captured.graph.operations {
        if let Some(out) = external(&operation) {
            let source = match tape.sources.remove(&out.id) {
                Some(source) => Some(source),
                None => match &operation {
                    OperationIr::Init(_) => captured.values.remove(&out.id).map(Source::Constant),
                    OperationIr::Float(_, FloatOperationIr::Random(d)) => Some(Source::Noise(d.distribution)),
                    _ => None,
                },
            };
            if let Some(source) = source {
                let id = entry(&mut graph, out, source);
                dense.insert(out.id, id);
                continue;
            }
        }
        operation.visit_mut(&mut Renumber { dense: &mut dense, next: &mut graph.tensors });
        if !executable(&operation) {
            let reads: Vec<usize> = operation.inputs().map(index).collect();
            return Err(ProgramError::NotExecutable {
                operation: Graph::operation_name(&operation),
                path: module_path(&graph, &reads, names),
            });
        }
        graph.operations.push(operation);
    }
    let (value, gradients, outputs) = match outcome {
        Ok(derivatives) => derivatives?,
        Err(panic) => return Err(explain(panic.as_ref(), &graph, &dense, names)),
    };
    let mut present = Vec::new();
    let mut renumber = Renumber { dense: &mut dense, next: &mut graph.tensors };
    let mut outs = vec![value];
    for (leaf, gradient) in gradients.into_iter().enumerate() {
        if let Some(gradient) = gradient {
            present.push(leaf);
            outs.push(gradient);
        }
    }
    outs.iter_mut().for_each(|out| renumber.visit_tensor_mut(out));
    graph.outputs = outs;
    Ok(Recording { graph, present, outputs })
}

type Derivatives = (TensorIr, Vec<Option<TensorIr>>, usize);

fn differentiate(
    tape: &mut Tape,
    want: Want,
    function: &mut dyn FnMut(&mut Tape) -> Tensor<1>,
) -> Result<Derivatives, ProgramError> {
    let value = function(tape);
    let foreign = |detail: String| ProgramError::ForeignResult { detail };
    let out = value.clone().try_into_primitive::<Recorder>().map_err(|error| foreign(format!("{error:?}")))?;
    let outputs = value.dims()[0];
    let out_ir = Recorder::inner(out).into_ir_shared();
    let root = match want {
        Want::Gradient => value,
        Want::Pullback => {
            let cotangent = tape.float::<1>(value.shape(), value.dtype(), Source::Cotangent);
            (value * cotangent).sum()
        }
    };
    let depends = root.is_require_grad() || !tape.leaves.is_empty();
    let mut gradients: Vec<Option<TensorIr>> = vec![None; tape.leaves.len()];
    if depends {
        let mut all = Recorder::backward(primitive(root));
        for (slot, leaf) in gradients.iter_mut().zip(&tape.leaves) {
            *slot = Recorder::grad_remove(leaf, &mut all).map(|gradient| gradient.into_ir_shared());
        }
    }
    Ok((out_ir, gradients, outputs))
}

/// The description of a captured tensor without ending its life.
trait SharedIr {
    fn into_ir_shared(self) -> TensorIr;
}

impl SharedIr for <Capture as burn::backend::BackendTypes>::FloatTensorPrimitive {
    fn into_ir_shared(self) -> TensorIr {
        TensorIr { id: self.id(), shape: self.shape(), status: TensorStatus::ReadOnly, dtype: self.dtype() }
    }
}

/// The result of an operation that only brings a tensor into being.
fn external(operation: &OperationIr) -> Option<&TensorIr> {
    match operation {
        OperationIr::Init(d) => Some(&d.out),
        OperationIr::BaseFloat(BaseOperationIr::Zeros(d)) => Some(&d.out),
        OperationIr::BaseInt(BaseOperationIr::Zeros(d)) => Some(&d.out),
        OperationIr::BaseBool(BaseOperationIr::Zeros(d)) => Some(&d.out),
        OperationIr::Float(_, FloatOperationIr::Random(d)) => Some(&d.out),
        _ => None,
    }
}

struct Renumber<'a> {
    dense: &'a mut HashMap<TensorId, TensorId>,
    next: &'a mut usize,
}

impl IrVisitorMut for Renumber<'_> {
    fn visit_tensor_mut(&mut self, tensor: &mut TensorIr) {
        let next = &mut *self.next;
        tensor.id = *self.dense.entry(tensor.id).or_insert_with(|| {
            *next += 1;
            TensorId::new(*next as u64 - 1)
        });
        tensor.status = TensorStatus::ReadOnly;
    }
}

/// The leaves that flow into `reads`, as the place of an operation in the user's terms.
pub(crate) fn module_path(graph: &Graph, reads: &[usize], names: &dyn Fn(usize) -> String) -> String {
    let mut reached = vec![false; graph.tensors];
    reads.iter().for_each(|id| reached[*id] = true);
    let mut nearest = None;
    for operation in graph.operations.iter().rev() {
        if operation.outputs().any(|out| reached[index(out)]) {
            for input in operation.inputs() {
                reached[index(input)] = true;
            }
        }
    }
    let mut leaves = Vec::new();
    for entry in &graph.entries {
        if let Source::Point(leaf) = entry.source
            && reached[index(&entry.tensor)]
        {
            leaves.push(names(leaf));
            nearest = leaves.last().cloned();
        }
    }
    match (leaves.as_slice(), nearest) {
        ([], _) => "reads no parameter".to_string(),
        ([only], _) => format!("after parameter `{only}`"),
        (_, Some(nearest)) => format!("after parameter `{nearest}`, the last of {}", leaves.len()),
        _ => unreachable!("a non-empty list has a last element"),
    }
}

/// The text of a panic.
pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message").to_string()
}

/// What a panic while recording means.
fn explain(
    panic: &(dyn Any + Send),
    graph: &Graph,
    dense: &HashMap<TensorId, TensorId>,
    names: &dyn Fn(usize) -> String,
) -> ProgramError {
    let message = panic_message(panic);
    if ["wrong backend", "not on the same device", "Expected Capture", "Cannot move a tensor to a capture device"]
        .iter()
        .any(|of| message.contains(of))
    {
        return ProgramError::ForeignTensor { message };
    }
    let reads = ["has no concrete value", "has no initialized value", "Cannot move a tensor from a capture device"];
    if !reads.iter().any(|read| message.contains(read)) {
        return ProgramError::Panicked { message };
    }
    // The backend names the tensor that was read: "captured tensor TensorId(12) has no concrete value".
    let id = message.split("TensorId(").nth(1).and_then(|rest| rest.split(')').next()?.parse().ok());
    let tensor = id.and_then(|id: u64| dense.get(&TensorId::new(id)));
    let producer = tensor
        .and_then(|tensor| graph.operations.iter().find(|operation| operation.outputs().any(|out| out.id == *tensor)));
    match (tensor, producer) {
        (Some(tensor), Some(operation)) => ProgramError::DataDependent {
            operation: Graph::operation_name(operation),
            path: module_path(graph, &[tensor.value() as usize], names),
        },
        _ => ProgramError::DataDependent { operation: "an input".to_string(), path: "read directly".to_string() },
    }
}

thread_local! {
    /// Capture devices are a finite resource of the process (65,536 and never given back), so each thread keeps one for
    /// every setting of default element types. A scope starts from nothing, so sharing them shares no state.
    static DEVICES: RefCell<Vec<(Defaults, Device)>> = const { RefCell::new(Vec::new()) };
}

type Defaults = (FloatDType, IntDType, BoolDType);

/// A capture device whose default element types are those of the device to run on.
fn capture_device(like: &Device) -> Device {
    let settings = like.settings();
    let defaults = (settings.float_dtype, settings.int_dtype, settings.bool_dtype);
    DEVICES.with_borrow_mut(|devices| {
        if let Some((_, device)) = devices.iter().find(|(of, _)| *of == defaults) {
            return device.clone();
        }
        let device = Device::capture();
        let config = DeviceConfig::default().float_dtype(defaults.0).int_dtype(defaults.1).bool_dtype(defaults.2);
        // A capture device answers questions only inside a scope, and takes its defaults only before its first tensor.
        let scope = device.capture_scope(|scope| {
            device.clone().configure(config).expect("a fresh capture device takes any default types");
            // Burn keeps those of the dispatching device apart from those of the capture device itself, which the autodiff
            // decorator asks for the type of pooling indices.
            if let DispatchDevice::Capture(device) = device.as_dispatch() {
                burn::backend::set_default_dtypes::<Capture>(device, defaults.0, defaults.1, defaults.2)
                    .expect("a fresh capture device takes any default types");
            }
            scope.complete([], [])
        });
        scope.expect("a fresh capture device has no other scope");
        devices.push((defaults, device.clone()));
        device
    })
}

/// Puts capture tensors in place of a batch's, in order.
pub(crate) struct BatchRecorder<'a> {
    pub tape: &'a mut Tape,
    pub next: usize,
}

impl BatchRecorder<'_> {
    fn source(&mut self) -> Source {
        self.next += 1;
        Source::Batch(self.next - 1)
    }
}

impl BatchMapper for BatchRecorder<'_> {
    fn float<const D: usize>(&mut self, tensor: &Tensor<D>) -> Tensor<D> {
        let source = self.source();
        self.tape.float(tensor.shape(), tensor.dtype(), source)
    }

    fn int<const D: usize>(&mut self, tensor: &Tensor<D, Int>) -> Tensor<D, Int> {
        let source = self.source();
        self.tape.int(tensor.shape(), tensor.dtype(), source)
    }

    fn bool<const D: usize>(&mut self, tensor: &Tensor<D, Bool>) -> Tensor<D, Bool> {
        let source = self.source();
        self.tape.bool(tensor.shape(), source)
    }

    fn module<M: Module>(&mut self, module: &M) -> M {
        let next = &mut self.next;
        let mut place = || {
            *next += 1;
            Source::Batch(*next - 1)
        };
        instantiate(module, self.tape, &[], &mut place)
    }
}

/// Collects the tensors of a batch in the same order as [`BatchRecorder`] replaces them.
#[derive(Default)]
pub(crate) struct BatchValues(pub Vec<DispatchTensor>);

impl BatchMapper for BatchValues {
    fn float<const D: usize>(&mut self, tensor: &Tensor<D>) -> Tensor<D> {
        self.0.push(tensor.clone().inner().into_dispatch());
        tensor.clone()
    }

    fn int<const D: usize>(&mut self, tensor: &Tensor<D, Int>) -> Tensor<D, Int> {
        self.0.push(tensor.clone().inner().into_dispatch());
        tensor.clone()
    }

    fn bool<const D: usize>(&mut self, tensor: &Tensor<D, Bool>) -> Tensor<D, Bool> {
        self.0.push(tensor.clone().inner().into_dispatch());
        tensor.clone()
    }

    fn module<M: Module>(&mut self, module: &M) -> M {
        module.visit(&mut ModuleValues { values: &mut self.0, skip: &[], floats: 0 });
        module.clone()
    }
}

/// Collects a module's tensors except the trainable floats listed in `skip` (by position among the floats).
pub(crate) struct ModuleValues<'a> {
    pub values: &'a mut Vec<DispatchTensor>,
    pub skip: &'a [bool],
    pub floats: usize,
}

impl ModuleVisitor for ModuleValues<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if !self.skip.get(self.floats).copied().unwrap_or(false) {
            self.values.push(param.val().inner().into_dispatch());
        }
        self.floats += 1;
    }

    fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
        self.values.push(param.val().inner().into_dispatch());
    }

    fn visit_bool<const D: usize>(&mut self, param: &Param<Tensor<D, Bool>>) {
        self.values.push(param.val().inner().into_dispatch());
    }
}

/// Which float tensors of a module are trainable, in visiting order.
pub(crate) struct Trainable(pub Vec<bool>);

impl ModuleVisitor for Trainable {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let value = param.val();
        let trainable =
            if value.is_autodiff() { value.is_require_grad() } else { param.clone().train().is_require_grad() };
        self.0.push(trainable);
    }
}

/// A copy of a module on the recorder: trainable floats become the point's leaves, everything else is placed by `place`.
///
/// The copy shares nothing with the module.
pub(crate) fn instantiate<M: Module>(
    module: &M,
    tape: &mut Tape,
    trainable: &[bool],
    place: &mut dyn FnMut() -> Source,
) -> M {
    let recorder = tape.device.clone().without_autodiff();
    // Plain tensors in a module (positional encodings, class weights) are moved by `to_device` alone, as constants. Hollow
    // parameters keep that from copying the others.
    let module = independent(module).map(&mut Hollow(&recorder)).to_device(&recorder);
    module.map(&mut Instantiate { tape, trainable, floats: 0, place })
}

/// Replaces parameters by valueless ones on the recorder.
struct Hollow<'a>(&'a Device);

impl ModuleMapper for Hollow<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (id, value, mapper) = param.consume();
        Param::from_mapped_value(id, Tensor::zeros(value.shape(), (self.0, value.dtype())), mapper)
    }

    fn map_int<const D: usize>(&mut self, param: Param<Tensor<D, Int>>) -> Param<Tensor<D, Int>> {
        let (id, value, mapper) = param.consume();
        Param::from_mapped_value(id, Tensor::zeros(value.shape(), (self.0, value.dtype())), mapper)
    }

    fn map_bool<const D: usize>(&mut self, param: Param<Tensor<D, Bool>>) -> Param<Tensor<D, Bool>> {
        let (id, value, mapper) = param.consume();
        Param::from_mapped_value(id, Tensor::zeros(value.shape(), self.0), mapper)
    }
}

/// A copy of a module that shares no running state with it and keeps its flags.
///
/// `Module::valid` is what gives running state (batch norm) storage of its own, while `clone` shares it; the flags that it
/// clears are set again from the original.
pub(crate) fn independent<M: Module>(module: &M) -> M {
    let mut flags = Flags(Vec::new());
    module.visit(&mut flags);
    flags.0.reverse();
    module.valid().map(&mut flags)
}

/// As [`instantiate`] for the module that a program differentiates.
pub(crate) fn instantiate_point<M: Module>(module: &M, tape: &mut Tape, trainable: &[bool]) -> M {
    let mut buffers = 0;
    instantiate(module, tape, trainable, &mut || {
        buffers += 1;
        Source::Buffer(buffers - 1)
    })
}

struct Flags(Vec<bool>);

impl ModuleVisitor for Flags {
    fn visit_flag(&mut self, flag: &Param<Flag>) {
        self.0.push(flag.is_enabled());
    }
}

impl ModuleMapper for Flags {
    fn map_flag(&mut self, flag: Param<Flag>) -> Param<Flag> {
        match self.0.pop() {
            Some(enabled) => flag.with_value(enabled),
            None => flag,
        }
    }
}

struct Instantiate<'a> {
    tape: &'a mut Tape,
    trainable: &'a [bool],
    floats: usize,
    place: &'a mut dyn FnMut() -> Source,
}

impl ModuleMapper for Instantiate<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let leaf = self.trainable.get(self.floats).copied().unwrap_or(false);
        self.floats += 1;
        let (id, value, mapper) = param.consume();
        let value = match leaf {
            true => Tensor::from_dispatch(self.tape.leaf()),
            false => {
                let source = (self.place)();
                self.tape.fixed(value.shape(), value.dtype(), source)
            }
        };
        Param::from_mapped_value(id, value, mapper)
    }

    fn map_int<const D: usize>(&mut self, param: Param<Tensor<D, Int>>) -> Param<Tensor<D, Int>> {
        let (id, value, mapper) = param.consume();
        let source = (self.place)();
        Param::from_mapped_value(id, self.tape.int(value.shape(), value.dtype(), source), mapper)
    }

    fn map_bool<const D: usize>(&mut self, param: Param<Tensor<D, Bool>>) -> Param<Tensor<D, Bool>> {
        let (id, value, mapper) = param.consume();
        let source = (self.place)();
        Param::from_mapped_value(id, self.tape.bool(value.shape(), source), mapper)
    }
}

/// Replaces a batch's tensors by recording ones.
pub(crate) fn record_batch<T: Batch>(batch: &T, tape: &mut Tape) -> T {
    batch.map(&mut BatchRecorder { tape, next: 0 })
}
