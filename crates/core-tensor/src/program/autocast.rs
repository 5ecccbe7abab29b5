//! Automatic mixed precision: every operation of a recording in the element type that suits it.
//!
//! A rule gives each operation a [`Precision`]: matrix products in 16 bits, exponentials and sums in `f32`, the rest in the widest
//! type of what it reads. The rewrite inserts casts where a value is read in another type than it has, one for each value and
//! type, and leaves the point, the batch, the value and the gradient as they were: parameters and gradients stay `f32`.
//!
//! - The rewrite is the last one, after tangents and per-sample rules: those see the function in `f32`, and their operations are
//!   classed as all others are.
//! - A promoted operation whose result no 16-bit operation reads runs in `f32`, so that the shifted logits of a softmax that Burn
//!   spells out as maximum, difference, exponential, sum are `f32` ones. Only readers of the same part count (value, gradient,
//!   tangents), so that the value is the same in every call.
//! - A promoted operation with a number that is infinite or vanishes in 16 bits (`1e-8` in `f16`) runs in `f32`.
//! - Constants and masks have no type of their own: they take that of what they meet. So does a bias, a parameter that is
//!   broadcast onto a product of 16 bits: Burn records a linear layer as product and sum.
//! - What reads or gives `f64` is left as it is.
//!
//! Where the device lacks the type, the same rewrite is made of `f32` tensors that hold numbers of the 16-bit format: casts become
//! roundings, and results of 16-bit operations are rounded. That gives the arithmetic, not the memory.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use burn::backend::Dispatch;
use burn::backend::ir::*;
use burn::tensor::{DType, Device, Distribution, FloatDType};

use super::error::ProgramError;
use super::graph::{Builder, Entry, Graph, Source, index};
use super::operations::Values;
use super::simplify::drop_dead;
use crate::error::{Error, Result};
use crate::kernels::{host::is_host_device, narrow};

/// In which element type an operation runs under [`Autocast`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Precision {
    /// In 16 bits, its operands cast if need be.
    Low,
    /// In `f32`, its operands cast if need be.
    Full,
    /// In the widest type of its operands.
    Promote,
}

type Rule = Arc<dyn Fn(&OperationIr) -> Precision + Send + Sync>;

/// A 16-bit type and a rule that says which operations run in it: what [`Program::autocast`](super::Program::autocast) takes.
///
/// Lists of operations are a technique's own; the crate `mixed-precision` has PyTorch's.
#[derive(Clone)]
pub struct Autocast {
    low: FloatDType,
    rule: Rule,
    emulated: bool,
}

/// Whether a device has the 16-bit type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Mode {
    Real,
    Emulated,
}

/// What autocast made of a recording. Its `Display` is one line.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AutocastReport {
    /// The 16-bit type.
    pub low: FloatDType,
    /// Whether the device lacks the type, so that `f32` tensors hold its numbers.
    pub emulated: bool,
    /// Operations in 16 bits by the rule.
    pub low_operations: usize,
    /// Operations in `f32` by the rule.
    pub full_operations: usize,
    /// Promoted operations that run in 16 bits.
    pub promoted_low: usize,
    /// Promoted operations that run in `f32`.
    pub promoted_full: usize,
    /// Operations without floats or with `f64`, and casts of the function's own.
    pub untouched: usize,
    /// Casts to 16 bits (roundings, if emulated).
    pub casts_down: usize,
    /// Casts to `f32` (nothing, if emulated).
    pub casts_up: usize,
    /// Bytes of the results that the forward pass leaves to the backward pass, casts of parameters among them.
    pub stored_bytes: usize,
    /// The same without autocast.
    pub stored_bytes_before: usize,
}

impl Autocast {
    /// To `f16` or `bf16` by a rule.
    ///
    /// # Errors
    /// [`Error::Parameter`] for another type.
    pub fn new(low: FloatDType, rule: impl Fn(&OperationIr) -> Precision + Send + Sync + 'static) -> Result<Self> {
        match low {
            FloatDType::F16 | FloatDType::BF16 => Ok(Self { low, rule: Arc::new(rule), emulated: false }),
            other => {
                let bits = 8.0 * DType::from(other).size() as f64;
                Err(Error::Parameter { parameter: "bits of the low type", value: bits, bound: "f16 or bf16" })
            }
        }
    }

    /// The same with the type emulated even where the device has it: for comparison, and where conversion costs more than the
    /// memory saved.
    pub fn emulated(self) -> Self {
        Self { emulated: true, ..self }
    }

    /// The 16-bit type.
    pub fn low(&self) -> FloatDType {
        self.low
    }

    /// The rule's word on an operation.
    pub fn precision(&self, operation: &OperationIr) -> Precision {
        (self.rule)(operation)
    }

    /// How the device runs it.
    pub(crate) fn mode(&self, device: &Device) -> Result<Mode> {
        use burn::backend::Backend;
        let host = is_host_device(device.as_dispatch());
        match Dispatch::supports_dtype(device.as_dispatch(), self.low.into()) {
            true if !self.emulated => Ok(Mode::Real),
            _ if host => Ok(Mode::Emulated),
            _ => {
                let (dtype, device) = (format!("{:?}", self.low), format!("{device:?}"));
                Err(ProgramError::Unsupported { dtype, device }.into())
            }
        }
    }
}

impl fmt::Debug for Autocast {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Autocast").field("low", &self.low).field("emulated", &self.emulated).finish_non_exhaustive()
    }
}

impl fmt::Display for AutocastReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = if self.emulated { "emulated in f32" } else { "real" };
        write!(
            f,
            "{:?} ({how}): {} operations low, {} f32, promoted {} low and {} f32, {} untouched; casts {} down, {} up; \
             {} bytes stored for the backward pass ({} without)",
            self.low,
            self.low_operations,
            self.full_operations,
            self.promoted_low,
            self.promoted_full,
            self.untouched,
            self.casts_down,
            self.casts_up,
            self.stored_bytes,
            self.stored_bytes_before,
        )
    }
}

/// Rewrites a graph. `parts` are the ends of the value, the gradient and the rest among its outputs.
pub(crate) fn autocast(graph: Graph, parts: &[usize], by: &Autocast, mode: Mode) -> (Graph, AutocastReport) {
    let low = DType::from(by.low);
    let stored_bytes_before = stored(&graph);
    let classes: Vec<Option<Precision>> = graph.operations.iter().map(|op| class(op, by)).collect();
    let wanted = wanted(&graph, &classes, parts);
    let Graph { entries, operations, outputs, tensors, int } = graph;
    let mut pass = Pass {
        low,
        held: vec![None; tensors],
        weak: vec![false; tensors],
        parameter: vec![false; tensors],
        product: vec![false; tensors],
        filled: HashMap::new(),
        casts: HashMap::new(),
        counts: Counts::default(),
        b: Graph { entries, tensors, int, ..Graph::default() }.into_builder(),
    };
    for Entry { tensor, source } in &pass.b.graph.entries {
        pass.held[index(tensor)] = Some(tensor.dtype);
        pass.weak[index(tensor)] = matches!(source, Source::Noise(Distribution::Bernoulli(_)));
        pass.parameter[index(tensor)] = matches!(source, Source::Point(_) | Source::Buffer(_));
    }
    for (operation, class) in operations.into_iter().zip(classes) {
        // A comparison of 16-bit numbers is exact.
        let mut results = floats(operation.outputs()).peekable();
        let wanted = results.peek().is_none() || results.any(|out| wanted[index(out)]);
        drop(results);
        pass.visit(operation, class, wanted);
    }
    let outputs = outputs.into_iter().map(|out| pass.read(&out, out.dtype)).collect();
    pass.b.graph.outputs = outputs;
    let Counts { low_operations, full_operations, promoted_low, promoted_full, untouched, down, up } = pass.counts;
    let mut graph = pass.b.graph;
    if mode == Mode::Emulated {
        graph = emulate(graph, low);
    }
    drop_dead(&mut graph);
    let report = AutocastReport {
        low: by.low,
        emulated: mode == Mode::Emulated,
        low_operations,
        full_operations,
        promoted_low,
        promoted_full,
        untouched,
        casts_down: down,
        casts_up: up,
        stored_bytes: stored(&graph),
        stored_bytes_before,
    };
    (graph, report)
}

/// The float tensors of an operation.
fn floats<'a>(tensors: impl Iterator<Item = &'a TensorIr>) -> impl Iterator<Item = &'a TensorIr> {
    tensors.filter(|tensor| tensor.dtype.is_float())
}

/// The rule's word; `None` for what is left as it is.
fn class(operation: &OperationIr, by: &Autocast) -> Option<Precision> {
    let mut tensors = floats(operation.inputs().chain(operation.outputs())).peekable();
    let known = |tensor: &TensorIr| matches!(tensor.dtype, DType::F32 | DType::F16 | DType::BF16);
    let own = matches!(operation, OperationIr::BaseFloat(BaseOperationIr::Cast(_)));
    (!own && tensors.peek().is_some() && tensors.all(known)).then(|| by.precision(operation))
}

/// Which tensors a 16-bit operation of the same part reads, directly or through promoted ones.
fn wanted(graph: &Graph, classes: &[Option<Precision>], parts: &[usize]) -> Vec<bool> {
    // The first part that needs an operation.
    let mut part = vec![usize::MAX; graph.operations.len()];
    for (number, end) in parts.iter().enumerate() {
        let mut live = vec![false; graph.tensors];
        graph.outputs[..*end].iter().for_each(|out| live[index(out)] = true);
        for (operation, part) in graph.operations.iter().zip(&mut part).rev() {
            if operation.outputs().any(|out| live[index(out)]) {
                *part = number.min(*part);
                operation.inputs().for_each(|input| live[index(input)] = true);
            }
        }
    }
    let mut home = vec![usize::MAX; graph.tensors];
    for (operation, part) in graph.operations.iter().zip(&part) {
        operation.outputs().for_each(|out| home[index(out)] = *part);
    }
    let mut wanted = vec![false; graph.tensors];
    for ((operation, class), part) in graph.operations.iter().zip(classes).zip(&part).rev() {
        let wants = match class {
            Some(Precision::Low) => true,
            Some(Precision::Promote) => floats(operation.outputs()).any(|out| wanted[index(out)]),
            Some(Precision::Full) | None => false,
        };
        if wants {
            let inputs = floats(operation.inputs()).filter(|input| home[index(input)] == *part);
            inputs.for_each(|input| wanted[index(input)] = true);
        }
    }
    wanted
}

#[derive(Default)]
struct Counts {
    low_operations: usize,
    full_operations: usize,
    promoted_low: usize,
    promoted_full: usize,
    untouched: usize,
    down: usize,
    up: usize,
}

struct Pass {
    low: DType,
    b: Builder,
    /// The type that each tensor was computed in.
    held: Vec<Option<DType>>,
    /// Tensors without a type of their own: constants and masks.
    weak: Vec<bool>,
    /// Parameters and views of them.
    parameter: Vec<bool>,
    /// Results of 16-bit operations and views of them.
    product: Vec<bool>,
    /// Values of tensors that hold one value everywhere.
    filled: HashMap<usize, ScalarIr>,
    /// Tensors in other types than they were computed in.
    casts: HashMap<(usize, DType), TensorIr>,
    counts: Counts,
}

impl Pass {
    /// A tensor in the given type, by a cast if there is none yet.
    fn read(&mut self, tensor: &TensorIr, dtype: DType) -> TensorIr {
        let Some(held) = self.held[index(tensor)].filter(|_| tensor.dtype.is_float()) else { return tensor.clone() };
        let source = TensorIr { dtype: held, ..tensor.clone() };
        if held == dtype {
            return source;
        }
        if let Some(cast) = self.casts.get(&(index(tensor), dtype)) {
            return cast.clone();
        }
        let out = self.b.tensor(tensor.shape.clone(), dtype);
        match self.filled.get(&index(tensor)) {
            Some(value) => self.b.push(OperationIr::NumericFloat(
                dtype,
                NumericOperationIr::Full(FullOpIr { out: out.clone(), value: *value }),
            )),
            None => {
                *(if dtype == self.low { &mut self.counts.down } else { &mut self.counts.up }) += 1;
                let cast = CastOpIr { input: source, out: out.clone() };
                self.b.push(OperationIr::BaseFloat(BaseOperationIr::Cast(cast)));
            }
        }
        self.casts.insert((index(tensor), dtype), out.clone());
        out
    }

    fn visit(&mut self, operation: OperationIr, class: Option<Precision>, wanted: bool) {
        let Some(class) = class else {
            self.counts.untouched += 1;
            // A cast of the function's own takes what there is; other operations get what they were recorded with.
            return match operation {
                OperationIr::BaseFloat(BaseOperationIr::Cast(mut d)) => {
                    d.input.dtype = self.held[index(&d.input)].unwrap_or(d.input.dtype);
                    self.held[index(&d.out)] = Some(d.out.dtype);
                    self.b.push(OperationIr::BaseFloat(BaseOperationIr::Cast(d)));
                }
                operation => self.put(operation, None),
            };
        };
        let bias = self.bias(&operation);
        let strong = floats(operation.inputs()).filter(|input| !self.weak[index(input)] && bias != Some(index(input)));
        let types: Vec<DType> = strong.filter_map(|input| self.held[index(input)]).collect();
        let common = types.first().copied().filter(|first| types.iter().all(|dtype| dtype == first));
        let dtype = match (class, types.first()) {
            (Precision::Low, _) => self.low,
            (Precision::Full, _) => DType::F32,
            // Made of nothing, or of what has no type.
            (Precision::Promote, None) => {
                self.counts.untouched += 1;
                self.note(&operation);
                return self.put(operation, None);
            }
            (Precision::Promote, Some(_)) => match common {
                Some(common) if common != self.low || (wanted && fits(&operation, self.low)) => common,
                _ => DType::F32,
            },
        };
        let count = match class {
            Precision::Low => &mut self.counts.low_operations,
            Precision::Full => &mut self.counts.full_operations,
            Precision::Promote if dtype == self.low => &mut self.counts.promoted_low,
            Precision::Promote => &mut self.counts.promoted_full,
        };
        *count += 1;
        match &operation {
            OperationIr::BaseFloat(BaseOperationIr::Reshape(d) | BaseOperationIr::Expand(d)) => {
                self.parameter[index(&d.out)] = self.parameter[index(&d.input)];
                self.product[index(&d.out)] = self.product[index(&d.input)];
            }
            _ if class == Precision::Low => {
                operation.outputs().for_each(|out| self.product[index(out)] = true);
            }
            _ => {}
        }
        self.put(operation, Some(dtype));
    }

    /// The operand of a sum that is a parameter broadcast onto a 16-bit product.
    fn bias(&self, operation: &OperationIr) -> Option<usize> {
        let OperationIr::NumericFloat(_, NumericOperationIr::Add(d)) = operation else { return None };
        let bias = |bias: &TensorIr, product: &TensorIr| {
            let small = bias.shape.num_elements() < product.shape.num_elements();
            (small && self.parameter[index(bias)] && self.product[index(product)]).then(|| index(bias))
        };
        bias(&d.rhs, &d.lhs).or_else(|| bias(&d.lhs, &d.rhs))
    }

    /// Notes results without a type of their own.
    fn note(&mut self, operation: &OperationIr) {
        match operation {
            OperationIr::NumericFloat(_, NumericOperationIr::Full(d)) => {
                self.weak[index(&d.out)] = true;
                self.filled.insert(index(&d.out), d.value);
            }
            OperationIr::Bool(BoolOperationIr::IntoFloat(d)) => self.weak[index(&d.out)] = true,
            OperationIr::BaseFloat(
                BaseOperationIr::Ones(d) | BaseOperationIr::Zeros(d) | BaseOperationIr::Empty(d),
            ) => {
                self.weak[index(&d.out)] = true;
            }
            OperationIr::BaseFloat(BaseOperationIr::Reshape(d) | BaseOperationIr::Expand(d)) => {
                self.weak[index(&d.out)] = self.weak[index(&d.input)];
            }
            _ => {}
        }
    }

    /// Appends an operation with its floats in a type, or in the types that it was recorded with.
    fn put(&mut self, mut operation: OperationIr, dtype: Option<DType>) {
        let mut places: HashMap<TensorId, TensorIr> = HashMap::new();
        let inputs: Vec<TensorIr> = floats(operation.inputs()).cloned().collect();
        for input in inputs {
            let read = self.read(&input, dtype.unwrap_or(input.dtype));
            places.insert(input.id, read);
        }
        let outputs: Vec<TensorIr> = floats(operation.outputs()).cloned().collect();
        for out in outputs {
            let made = TensorIr { dtype: dtype.unwrap_or(out.dtype), ..out };
            self.held[index(&made)] = Some(made.dtype);
            places.insert(made.id, made);
        }
        operation.visit_mut(&mut Place(&places));
        if let Some(dtype) = dtype {
            retag(&mut operation, dtype);
        }
        self.b.push(operation);
    }
}

/// Whether every number in an operation is zero, infinite, or a normal number of the format.
fn fits(operation: &OperationIr, low: DType) -> bool {
    struct Check(f64, f64, bool);
    impl IrVisitorMut for Check {
        fn visit_scalar_mut(&mut self, scalar: &mut ScalarIr) {
            let size = scalar.elem::<f64>().abs();
            self.2 &= size == 0.0 || !size.is_finite() || (size >= self.0 && size <= self.1);
        }
    }
    let (smallest, largest) = match low {
        DType::F16 => (2f64.powi(-14), 65504.0),
        _ => (2f64.powi(-126), f64::from(burn::tensor::bf16::MAX)),
    };
    let mut check = Check(smallest, largest, true);
    operation.clone().visit_mut(&mut check);
    check.2
}

struct Place<'a>(&'a HashMap<TensorId, TensorIr>);

impl IrVisitorMut for Place<'_> {
    fn visit_tensor_mut(&mut self, tensor: &mut TensorIr) {
        if let Some(place) = self.0.get(&tensor.id) {
            (tensor.id, tensor.dtype) = (place.id, place.dtype);
        }
    }
}

fn retag(operation: &mut OperationIr, dtype: DType) {
    if let OperationIr::NumericFloat(tag, _) | OperationIr::Float(tag, _) = operation {
        *tag = dtype;
    }
}

/// Names of the operation that rounds to the numbers of a format.
const ROUND: [(DType, &str); 2] = [(DType::F16, "round to f16"), (DType::BF16, "round to bf16")];

/// The same arithmetic with `f32` tensors that hold numbers of the 16-bit format.
fn emulate(graph: Graph, low: DType) -> Graph {
    let Graph { entries, operations, outputs, tensors, int } = graph;
    let mut b = Graph { entries, tensors, int, ..Graph::default() }.into_builder();
    let name = ROUND.iter().find(|(dtype, _)| *dtype == low).expect("one of the two 16-bit types").1;
    let round = |b: &mut Builder, input: TensorIr, out: TensorIr| {
        b.push(OperationIr::Custom(CustomOpIr::new(name, &[input], &[out])));
    };
    let wide = |tensor: &TensorIr| TensorIr {
        dtype: if tensor.dtype == low { DType::F32 } else { tensor.dtype },
        ..tensor.clone()
    };
    let cast = |b: &mut Builder, input: TensorIr, out: TensorIr| {
        b.push(OperationIr::BaseFloat(BaseOperationIr::Cast(CastOpIr { input, out })));
    };
    let mut places: HashMap<TensorId, TensorIr> = HashMap::new();
    for entry in b.graph.entries.clone().iter().filter(|entry| entry.tensor.dtype == low) {
        let out = b.tensor(entry.tensor.shape.clone(), DType::F32);
        cast(&mut b, entry.tensor.clone(), out.clone());
        places.insert(entry.tensor.id, out);
    }
    for mut operation in operations {
        let narrow = operation.inputs().chain(operation.outputs()).any(|tensor| tensor.dtype == low);
        let results: Vec<TensorIr> = operation.outputs().filter(|out| out.dtype == low).cloned().collect();
        operation.visit_mut(&mut Place(&places));
        match operation {
            OperationIr::BaseFloat(BaseOperationIr::Cast(d)) if d.out.dtype == low => {
                let mut input = wide(&d.input);
                if input.dtype != DType::F32 {
                    let narrower = b.tensor(input.shape.clone(), DType::F32);
                    cast(&mut b, input, narrower.clone());
                    input = narrower;
                }
                round(&mut b, input, wide(&d.out));
            }
            OperationIr::BaseFloat(BaseOperationIr::Cast(d)) if narrow && d.out.dtype == DType::F32 => {
                places.insert(d.out.id, wide(&d.input));
            }
            mut operation if narrow => {
                let mut widened: HashMap<TensorId, TensorIr> =
                    operation.inputs().map(|input| (input.id, wide(input))).collect();
                let exact = exact(&operation);
                for out in &results {
                    let raw = if exact { wide(out) } else { b.tensor(out.shape.clone(), DType::F32) };
                    widened.insert(out.id, raw);
                }
                operation.visit_mut(&mut Place(&widened));
                operation.visit_mut(&mut RoundScalars(low));
                retag(&mut operation, DType::F32);
                b.push(operation);
                for out in results.iter().filter(|_| !exact) {
                    round(&mut b, widened[&out.id].clone(), wide(out));
                }
            }
            operation => b.push(operation),
        }
    }
    for mut out in outputs {
        let place = places.get(&out.id).cloned();
        if out.dtype == low {
            let given = b.like(&out);
            cast(&mut b, place.unwrap_or_else(|| wide(&out)), given.clone());
            out = given;
        } else if let Some(place) = place {
            out = place;
        }
        b.graph.outputs.push(out);
    }
    b.graph
}

/// Whether results are among the numbers read or given, or their negatives, so that they need no rounding.
fn exact(operation: &OperationIr) -> bool {
    use ActivationOperationIr as A;
    use BaseOperationIr as B;
    use ModuleOperationIr as M;
    use NumericOperationIr as N;
    match operation {
        OperationIr::BaseFloat(op) => matches!(
            op,
            B::Reshape(_)
                | B::SwapDims(_)
                | B::Permute(_)
                | B::Flip(_)
                | B::Expand(_)
                | B::Unfold(_)
                | B::Slice(_)
                | B::SliceAssign(_)
                | B::Select(_)
                | B::MaskWhere(_)
                | B::MaskFill(_)
                | B::Gather(_)
                | B::GatherNd(_)
                | B::RepeatDim(_)
                | B::Cat(_)
        ),
        OperationIr::NumericFloat(_, op) => {
            matches!(op, N::Full(_) | N::Neg(_) | N::Abs(_) | N::MaxDim(_) | N::MinDim(_) | N::Clamp(_) | N::Pad(_))
        }
        OperationIr::Activation(op) => matches!(op, A::Relu(_) | A::ReluBackward(_)),
        OperationIr::Module(op) => matches!(op, M::MaxPool2d(_) | M::MaxPool2dWithIndices(_)),
        _ => false,
    }
}

/// Burn's backends round the numbers in an operation to the tensor's type.
struct RoundScalars(DType);

impl IrVisitorMut for RoundScalars {
    fn visit_scalar_mut(&mut self, scalar: &mut ScalarIr) {
        if let ScalarIr::Float(value) = scalar {
            let single = *value as f32;
            *value = f64::from(if self.0 == DType::F16 { narrow::f16(single) } else { narrow::bf16(single) });
        }
    }
}

/// Executes an operation of [`emulate`]; `false` for any other.
pub(crate) fn execute(operation: &CustomOpIr, v: &Values<'_>) -> bool {
    let Some((dtype, _)) = ROUND.iter().find(|(_, name)| operation.id == *name) else { return false };
    let rounded = narrow::round(v.get(&operation.inputs[0]), *dtype);
    v.set(&operation.outputs[0], rounded.expect("emulation is for f32 tensors of the host"));
    true
}

/// Bytes of the value's operations' results that other operations read, views not counted beside what they show.
fn stored(graph: &Graph) -> usize {
    let mut live = vec![false; graph.tensors];
    graph.outputs.iter().take(1).for_each(|out| live[index(out)] = true);
    let mut forward = vec![false; graph.operations.len()];
    for (operation, forward) in graph.operations.iter().zip(&mut forward).rev() {
        if operation.outputs().any(|out| live[index(out)]) {
            *forward = true;
            operation.inputs().for_each(|input| live[index(input)] = true);
        }
    }
    let mut shown: Vec<usize> = (0..graph.tensors).collect();
    for operation in &graph.operations {
        use BaseOperationIr as B;
        if let OperationIr::BaseFloat(op) | OperationIr::BaseInt(op) | OperationIr::BaseBool(op) = operation
            && let B::Reshape(_) | B::SwapDims(_) | B::Permute(_) | B::Expand(_) = op
            && let (Some(input), Some(out)) = (operation.inputs().next(), operation.outputs().next())
        {
            shown[index(out)] = shown[index(input)];
        }
    }
    let mut read = vec![false; graph.tensors];
    for (operation, _) in graph.operations.iter().zip(&forward).filter(|(_, forward)| !**forward) {
        operation.inputs().for_each(|input| read[shown[index(input)]] = true);
    }
    let results = graph.operations.iter().zip(&forward).filter(|(_, forward)| **forward);
    let results = results.flat_map(|(operation, _)| operation.outputs()).filter(|out| read[index(out)]);
    results.map(|out| out.shape.num_elements() * out.dtype.size()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::module::{Module, Param};
    use burn::nn::Linear;
    use burn::tensor::activation::{log_softmax, relu};
    use burn::tensor::{Shape, Tensor, TensorData};

    use crate::program::{Program, simplify::simplify};
    use crate::testing::{assert_close, assert_same_bits, host_devices};
    use crate::{Batch, Tree};

    /// Products and layers low, exponentials, logarithms and sums full.
    fn rule(operation: &OperationIr) -> Precision {
        use FloatOperationIr as F;
        use NumericOperationIr as N;
        match operation {
            OperationIr::Module(_) | OperationIr::Float(_, F::Matmul(_)) => Precision::Low,
            OperationIr::Float(_, F::Exp(_) | F::Log(_)) => Precision::Full,
            OperationIr::NumericFloat(_, N::Sum(_) | N::SumDim(_) | N::Mean(_) | N::MeanDim(_)) => Precision::Full,
            OperationIr::Activation(ActivationOperationIr::LogSoftmax(_)) => Precision::Full,
            _ => Precision::Promote,
        }
    }

    fn to(low: FloatDType) -> Autocast {
        Autocast::new(low, rule).unwrap()
    }

    fn matmul(b: &mut Builder, lhs: &TensorIr, rhs: &TensorIr) -> TensorIr {
        let out = b.tensor(Shape::new([lhs.shape[0], rhs.shape[1]]), lhs.dtype);
        let desc = MatmulOpIr { lhs: lhs.clone(), rhs: rhs.clone(), out: out.clone() };
        b.push(OperationIr::Float(lhs.dtype, FloatOperationIr::Matmul(desc)));
        out
    }

    /// The types of what the operations give, by operation, after a rewrite to `bf16`.
    fn rewritten(mut b: Builder, outputs: Vec<TensorIr>) -> (Vec<(String, DType)>, AutocastReport) {
        b.graph.outputs = outputs;
        let parts = [1, b.graph.outputs.len()];
        let (graph, report) = autocast(simplify(b.graph), &parts, &to(FloatDType::BF16), Mode::Real);
        let types = graph.operations.iter().map(|operation| {
            let out = operation.outputs().next().expect("every operation gives something");
            (Graph::operation_name(operation), out.dtype)
        });
        (types.collect(), report)
    }

    fn square(b: &mut Builder, dtype: DType, number: usize) -> TensorIr {
        b.entry(Shape::new([4, 4]), dtype, Source::Batch(number))
    }

    #[test]
    fn a_value_is_cast_once_and_results_stay_low() {
        let mut b = Graph::default().into_builder();
        let [x, v, w] = [0, 1, 2].map(|number| square(&mut b, DType::F32, number));
        let left = matmul(&mut b, &x, &v);
        let right = matmul(&mut b, &x, &w);
        let sum = b.add(&left, &right);
        let product = matmul(&mut b, &sum, &v);
        let total = b.sum(&product);
        let (types, report) = rewritten(b, vec![total]);
        let low = types.iter().filter(|(_, dtype)| *dtype == DType::BF16).count();
        assert_eq!((report.casts_down, report.casts_up), (3, 1), "{types:?}");
        assert_eq!((report.low_operations, report.full_operations, report.promoted_low), (3, 1, 1));
        assert_eq!((low, types.len()), (3 + 3 + 1, 9));
        assert_eq!(types.last().unwrap(), &("NumericFloat(Sum)".to_string(), DType::F32));
    }

    #[test]
    fn promoted_operations_that_only_f32_ones_read_are_f32() {
        let mut b = Graph::default().into_builder();
        let [x, w] = [0, 1].map(|number| square(&mut b, DType::F32, number));
        let logits = matmul(&mut b, &x, &w);
        let shifted = b.add_scalar(&logits, -1.0);
        let exp = b.exp(&shifted);
        let sum = b.sum_dim(&exp, 1);
        let weights = b.div(&exp, &sum);
        let out = matmul(&mut b, &weights, &w);
        let (types, report) = rewritten(b, vec![out]);
        let shifted = types.iter().find(|(name, _)| name == "NumericFloat(AddScalar)").unwrap();
        assert_eq!(shifted.1, DType::F32, "{types:?}");
        // The product is cast up, not the shifted product.
        assert_eq!((report.promoted_low, report.promoted_full, report.casts_up), (0, 2, 2));
        assert_eq!(types.last().unwrap().1, DType::F32, "the output has the recorded type");
    }

    #[test]
    fn constants_and_masks_take_the_type_of_what_they_meet() {
        let mut b = Graph::default().into_builder();
        let [x, w] = [0, 1].map(|number| square(&mut b, DType::F32, number));
        let source = Source::Noise(Distribution::Bernoulli(0.5));
        let mask = b.entry(Shape::new([4, 4]), DType::F32, source);
        let product = matmul(&mut b, &x, &w);
        let dropped = b.mul(&product, &mask);
        let half = b.full(&Shape::new([4, 1]), DType::F32, 0.5);
        let shifted = b.sub(&dropped, &half);
        let out = matmul(&mut b, &shifted, &w);
        let (types, report) = rewritten(b, vec![out]);
        assert_eq!((report.promoted_low, report.promoted_full), (2, 0), "{types:?}");
        assert_eq!(report.casts_down, 3, "the constant is made in 16 bits");
    }

    #[test]
    fn a_bias_is_part_of_the_product() {
        for (source, low) in [(Source::Point(0), 1), (Source::Batch(2), 0)] {
            let mut b = Graph::default().into_builder();
            let [x, w] = [0, 1].map(|number| square(&mut b, DType::F32, number));
            let row = b.entry(Shape::new([4]), DType::F32, source);
            let product = matmul(&mut b, &x, &w);
            let row = b.reshape(&row, &Shape::new([1, 4]));
            let sum = b.add(&product, &row);
            let out = matmul(&mut b, &sum, &w);
            let (types, report) = rewritten(b, vec![out]);
            // The view of the row is a promoted operation too.
            assert_eq!((report.promoted_low, report.promoted_full), (low, 2 - low), "{types:?}");
        }
    }

    #[test]
    fn numbers_that_16_bits_cannot_hold_make_an_operation_f32() {
        for (number, low) in [(0.25, true), (0.0, true), (f64::INFINITY, true), (1e-8, false), (-1e9, false)] {
            let mut b = Graph::default().into_builder();
            let [x, w] = [0, 1].map(|number| square(&mut b, DType::F32, number));
            let product = matmul(&mut b, &x, &w);
            let shifted = b.add_scalar(&product, number);
            let out = matmul(&mut b, &shifted, &w);
            b.graph.outputs = vec![out];
            let (_, report) = autocast(b.graph, &[1], &to(FloatDType::F16), Mode::Real);
            assert_eq!(report.promoted_low, usize::from(low), "{number}");
        }
    }

    #[test]
    fn f64_is_left_as_it_is() {
        for device in host_devices() {
            let options = (&device, DType::F64);
            let x = Tensor::<2>::random([5, 4], Distribution::Normal(0.0, 1.0), options);
            let point = Tree::empty().push("w", Tensor::<2>::random([4, 3], Distribution::Default, options)).unwrap();
            let program = Program::record_tree(&point, &x, |point, x| {
                log_softmax(x.clone().matmul(point.get::<2>("w").unwrap()), 1).sum()
            });
            let program = program.unwrap();
            let mixed = program.autocast(&to(FloatDType::BF16));
            let report = mixed.autocast_report(&point, &x).unwrap().unwrap();
            let touched = report.low_operations + report.full_operations + report.promoted_low + report.promoted_full;
            assert_eq!((touched, report.casts_down, report.casts_up), (0, 0, 0), "{report}");
            let (plain, mixed) = (program.value_and_grad(&point, &x), mixed.value_and_grad(&point, &x));
            assert_same_bits(&mixed.unwrap().gradient, &plain.unwrap().gradient);
            assert!(program.autocast_report(&point, &x).unwrap().is_none());
        }
    }

    #[derive(Module, Debug)]
    struct Net {
        first: Linear,
        second: Linear,
    }

    impl Net {
        fn new(device: &Device) -> Self {
            // The same for every run: a unit near zero may be on in one precision and off in another.
            let mut random = crate::Random::new(11);
            let mut linear = |from: usize, to: usize| Linear {
                weight: Param::from_tensor(random.uniform([from, to], -0.5, 0.5, device)),
                bias: Some(Param::from_tensor(random.uniform([to], -0.5, 0.5, device))),
            };
            Self { first: linear(6, 8), second: linear(8, 3) }
        }

        fn losses(&self, x: &Tensor<2>) -> Tensor<1> {
            let h = self.second.forward(relu(self.first.forward(x.clone())));
            log_softmax(h, 1).slice_dim(1, 0..1).squeeze_dim::<1>(1).neg()
        }
    }

    fn input(rows: usize, device: &Device) -> Tensor<2> {
        let values: Vec<f32> = (0..rows * 6).map(|i| (i as f32 * 0.7).sin()).collect();
        Tensor::from_data(TensorData::new(values, [rows, 6]), device)
    }

    fn bits<B: Batch>(value: Tensor<1>, _: &Program<B>) -> Vec<u32> {
        value.into_data().try_to_vec::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
    }

    #[test]
    fn every_call_gives_the_same_value_and_gradients_in_f32() {
        for device in host_devices() {
            for low in [FloatDType::BF16, FloatDType::F16] {
                let (net, x) = (Net::new(&device), input(5, &device));
                let point = Tree::from_module(&net);
                let plain = Program::record(&net, &x, |net: &Net, x| net.losses(x).mean()).unwrap();
                let program = plain.autocast(&to(low));
                let first = program.value_and_grad(&point, &x).unwrap();
                let value = bits(first.value.clone(), &program);
                assert_ne!(value, bits(plain.value(&point, &x).unwrap(), &plain), "16 bits make a difference");
                assert_eq!(bits(program.value(&point, &x).unwrap(), &program), value);
                let scaled = program.scaled_value_and_grad(&point, &x, 256.0).unwrap();
                assert_eq!(bits(scaled.value, &program), value);
                let jvp = program.jvp(&point, &x, &point).unwrap();
                assert_eq!(bits(jvp.value.clone(), &program), value);
                assert_same_bits(&jvp.gradient, &first.gradient);
                let linear = program.linearize(&point, &x).unwrap();
                assert_eq!(bits(linear.value.clone(), &program), value);
                assert_same_bits(&linear.hvp(&point).unwrap(), &jvp.hessian_vector);
                let (pulled, rows) = program.vjp(&point, &x, &[Tensor::ones([1], &device)]).unwrap();
                assert_eq!(bits(pulled, &program), value);

                let full = plain.jvp(&point, &x, &point).unwrap();
                let near = |mixed: &Tree, full: &Tree| {
                    mixed.same_structure(full).unwrap();
                    assert!(mixed.iter().all(|(_, leaf)| burn::backend::TensorMetadata::dtype(leaf) == DType::F32));
                    assert_close(mixed, full, 0.03 * full.norm_inf().value());
                };
                near(&first.gradient, &full.gradient);
                near(&scaled.gradient.scale(1.0 / 256.0), &full.gradient);
                near(&rows[0], &full.gradient);
                near(&jvp.hessian_vector, &full.hessian_vector);

                let samples = Program::record_first_order(&net, &x, Net::losses).unwrap();
                let mixed = samples.autocast(&to(low));
                let per = mixed.per_sample(&point, &x).unwrap();
                assert_eq!(bits(per.values.clone(), &mixed), bits(mixed.value(&point, &x).unwrap(), &mixed));
                let exact = samples.per_sample(&point, &x).unwrap().norms();
                per.norms()
                    .into_data()
                    .assert_approx_eq::<f32>(&exact.into_data(), burn::tensor::Tolerance::relative(0.03));
            }
        }
    }

    #[test]
    fn shapes_met_later_and_other_devices_are_cast_alike() {
        let devices = host_devices();
        let net = Net::new(&devices[0]);
        let x = input(5, &devices[0]);
        let program = Program::record(&net, &x, |net: &Net, x| net.losses(x).mean()).unwrap();
        let program = program.autocast(&to(FloatDType::BF16));
        for device in &devices {
            let point = Tree::from_module(&net).to_device(device);
            for rows in [5, 2] {
                let report = program.autocast_report(&point, &input(rows, device)).unwrap().unwrap();
                assert_eq!(report.emulated, !device.supports_dtype(FloatDType::BF16));
                assert_eq!(report.low_operations, 5, "two layers, and three products backward: {report}");
                assert!(report.to_string().contains(if report.emulated { "emulated" } else { "real" }));
                program.value_and_grad(&point, &input(rows, device)).unwrap();
            }
        }
    }

    #[test]
    fn emulation_is_the_real_thing_bit_for_bit() {
        let device = Device::flex();
        let x = input(7, &device);
        let w: Vec<f32> = (0..18).map(|i| (i as f32 * 1.3).cos()).collect();
        let point = Tree::empty().push("w", Tensor::<2>::from_data(TensorData::new(w, [6, 3]), &device)).unwrap();
        let program = Program::record_tree(&point, &x, |point, x| {
            let h = x.clone().matmul(point.get::<2>("w").unwrap());
            let h = relu(h * 0.3 + 0.1).matmul(point.get::<2>("w").unwrap().transpose());
            (h.clone() - h.max_dim(1)).exp().sum()
        });
        let real = program.unwrap().autocast(&to(FloatDType::BF16));
        let emulated = real.autocast(&to(FloatDType::BF16).emulated());
        let (a, b) = (real.value_and_grad(&point, &x).unwrap(), emulated.value_and_grad(&point, &x).unwrap());
        assert_eq!(bits(a.value, &real), bits(b.value, &emulated));
        assert_same_bits(&a.gradient, &b.gradient);
        let (a, b) = (real.hvp(&point, &x, &point).unwrap(), emulated.hvp(&point, &x, &point).unwrap());
        assert_same_bits(&a, &b);
        assert!(emulated.autocast_report(&point, &x).unwrap().unwrap().emulated);
    }

    #[test]
    fn a_point_in_16_bits_keeps_its_type() {
        let device = Device::flex();
        let x = input(5, &device).cast(FloatDType::BF16);
        let w = input(4, &device).transpose().cast(FloatDType::BF16);
        let point = Tree::empty().push("w", w).unwrap();
        let program =
            Program::record_tree(&point, &x, |point, x| x.clone().matmul(point.get::<2>("w").unwrap()).exp().sum());
        let program = program.unwrap();
        for by in [to(FloatDType::BF16), to(FloatDType::BF16).emulated(), to(FloatDType::F16)] {
            let out = program.autocast(&by).value_and_grad(&point, &x).unwrap();
            assert_eq!((out.value.dtype(), out.gradient.get::<2>("w").unwrap().dtype()), (DType::BF16, DType::BF16));
            let full = program.value_and_grad(&point, &x).unwrap();
            assert_close(&out.gradient, &full.gradient, 0.03 * full.gradient.norm_inf().value());
        }
    }

    #[test]
    fn only_16_bit_types_are_low() {
        for dtype in [FloatDType::F32, FloatDType::F64, FloatDType::Flex32] {
            assert!(Autocast::new(dtype, rule).unwrap_err().to_string().contains("f16 or bf16"));
        }
    }
}
