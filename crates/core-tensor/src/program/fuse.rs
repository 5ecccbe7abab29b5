//! Grouping element-wise operations that one pass over memory can compute.
//!
//! A [`Group`] is a set of operations on one grid: a shape, its rows being all dimensions but the last. Members have the grid's
//! shape or one value a row (reductions of the last dimension and what is computed of them); operands may also be one row or
//! one value. The pass is greedy in the list's order: an operation joins the groups that it shares a tensor with wherever no
//! other operation would have to run between the two. Then the list is put into an order in which every group is in one piece.
//! Nothing else about the graph changes, and a group can always be executed operation by operation.

use std::collections::HashMap;

use burn::backend::ir::*;
use burn::tensor::{DType, Shape};

use super::graph::{Graph, index};
use crate::kernels::fused::{Arg, Extent, Instruction, Kernel, Op};

/// A piece of a schedule.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "most pieces are of the large kind")]
pub(crate) enum Piece {
    /// An operation on its own.
    One(OperationIr),
    /// Operations that run together.
    Group(Group),
}

/// Operations that one kernel computes.
#[derive(Debug)]
pub(crate) struct Group {
    pub operations: Vec<OperationIr>,
    pub kernel: Kernel,
    pub inputs: Vec<TensorIr>,
    pub outputs: Vec<TensorIr>,
}

/// Siblings (operations that read one tensor without one reading the other) are joined up to this many operations apart: farther
/// ones would keep results alive for long.
const NEIGHBOURHOOD: usize = 32;

/// Groups the graph's operations, in an order that respects their dependencies.
pub(crate) fn fuse(graph: &Graph) -> Vec<Piece> {
    let nodes = nodes(graph);
    let mut units = Units::new(&nodes);
    let mut readers: HashMap<usize, Vec<usize>> = HashMap::new();
    for (position, node) in nodes.iter().enumerate() {
        units.add(position);
        let Some(member) = &node.member else { continue };
        let mut near: Vec<usize> =
            member.operands.iter().filter_map(|operand| units.producer.get(&index(operand)).copied()).collect();
        for operand in member.operands.iter().filter(|operand| operand.shape == member.space) {
            let siblings = readers.entry(index(operand)).or_default();
            near.extend(siblings.iter().filter(|sibling| position - **sibling <= NEIGHBOURHOOD));
            siblings.push(position);
        }
        near.sort_unstable();
        near.dedup();
        near.into_iter().rev().for_each(|other| units.join(position, other));
    }
    let order = units.order();
    let mut needed = vec![0usize; graph.tensors];
    graph.outputs.iter().for_each(|out| needed[index(out)] += 1);
    for node in &nodes {
        node.reads().for_each(|input| needed[index(input)] += 1);
    }
    let mut pieces = Vec::with_capacity(order.len());
    for unit in order {
        let members: Vec<&Node> = units.members[unit].iter().map(|member| &nodes[*member]).collect();
        match &units.space[unit] {
            Some(space) if worthwhile(&members) => pieces.push(Piece::Group(group(space, &members, &needed))),
            _ => pieces.extend(members.iter().flat_map(|node| node.operations.iter().cloned().map(Piece::One))),
        }
    }
    pieces
}

/// An operation, with another that it absorbs before it.
struct Node {
    operations: Vec<OperationIr>,
    member: Option<Member>,
}

/// An operation that can be a member of a group.
#[derive(Clone)]
struct Member {
    op: Op,
    operands: Vec<TensorIr>,
    out: TensorIr,
    /// The grid: the shape of the result, or of what a reduction reduces.
    space: Shape,
}

impl Node {
    /// The tensors read that the node does not compute itself.
    fn reads(&self) -> impl Iterator<Item = &TensorIr> {
        let own = |input: &TensorIr| self.operations.iter().any(|op| op.outputs().any(|out| out.id == input.id));
        self.operations.iter().flat_map(|op| op.inputs()).filter(move |input| !own(input))
    }
}

fn nodes(graph: &Graph) -> Vec<Node> {
    let mut reads = vec![0usize; graph.tensors];
    graph.outputs.iter().for_each(|out| reads[index(out)] += 1);
    graph.operations.iter().flat_map(|op| op.inputs()).for_each(|input| reads[index(input)] += 1);
    // Operations that readers may absorb: where the largest element is, and a tensor of ones.
    let mut sources: HashMap<usize, &OperationIr> = HashMap::new();
    let mut nodes = Vec::with_capacity(graph.operations.len());
    for operation in &graph.operations {
        match operation {
            OperationIr::NumericFloat(_, NumericOperationIr::ArgMax(d)) if last(d) && reads[index(&d.out)] == 1 => {
                sources.insert(index(&d.out), operation);
            }
            OperationIr::NumericFloat(_, NumericOperationIr::Full(d)) if d.value.elem::<f64>() == 1.0 => {
                sources.insert(index(&d.out), operation);
            }
            _ => {}
        }
        nodes.push(match absorb(operation, &sources) {
            Some((source, member)) => {
                source.outputs().for_each(|out| reads[index(out)] -= 1);
                Node { operations: vec![source.clone(), operation.clone()], member: Some(member) }
            }
            None => Node { operations: vec![operation.clone()], member: classify(operation) },
        });
    }
    // What nobody reads any more.
    nodes.retain(|node| {
        let absorbed = |out: &TensorIr| reads[index(out)] == 0 && sources.contains_key(&index(out));
        node.operations.len() > 1 || !node.operations[0].outputs().any(absorbed)
    });
    nodes
}

/// The member that an operation makes together with the source of one of its inputs.
fn absorb<'a>(operation: &OperationIr, sources: &HashMap<usize, &'a OperationIr>) -> Option<(&'a OperationIr, Member)> {
    match operation {
        OperationIr::BaseFloat(BaseOperationIr::Gather(d)) => {
            let source = *sources.get(&index(&d.indices))?;
            let OperationIr::NumericFloat(_, NumericOperationIr::ArgMax(by)) = source else { return None };
            let fits = d.dim == by.axis && d.tensor.shape == by.input.shape;
            let member = member(Op::PickMax, [&d.tensor, &by.input], &d.out)?;
            fits.then_some((source, member))
        }
        OperationIr::Activation(ActivationOperationIr::GeluBackward(d)) => {
            let source = *sources.get(&index(&d.rhs))?;
            Some((source, member(Op::GeluSlope, [&d.lhs], &d.out)?))
        }
        _ => None,
    }
}

/// How an operation takes part in a group, if it can.
fn classify(operation: &OperationIr) -> Option<Member> {
    use ActivationOperationIr as A;
    use FloatOperationIr as F;
    use NumericOperationIr as N;
    match operation {
        OperationIr::NumericFloat(_, op) => match op {
            N::Add(d) => member(Op::Add, [&d.lhs, &d.rhs], &d.out),
            N::Sub(d) => member(Op::Sub, [&d.lhs, &d.rhs], &d.out),
            N::Mul(d) => member(Op::Mul, [&d.lhs, &d.rhs], &d.out),
            N::Div(d) => member(Op::Div, [&d.lhs, &d.rhs], &d.out),
            N::AddScalar(d) => member(Op::AddScalar(d.rhs.elem()), [&d.lhs], &d.out),
            N::SubScalar(d) => member(Op::SubScalar(d.rhs.elem()), [&d.lhs], &d.out),
            N::MulScalar(d) => member(Op::MulScalar(d.rhs.elem()), [&d.lhs], &d.out),
            N::DivScalar(d) => member(Op::DivScalar(d.rhs.elem()), [&d.lhs], &d.out),
            N::Neg(d) => member(Op::Neg, [&d.input], &d.out),
            N::Abs(d) => member(Op::Abs, [&d.input], &d.out),
            N::PowiScalar(d) => member(power(d.rhs.elem())?, [&d.lhs], &d.out),
            N::SumDim(d) if last(d) => member(Op::Sum, [&d.input], &d.out),
            N::MeanDim(d) if last(d) => member(Op::Mean, [&d.input], &d.out),
            N::MaxDim(d) if last(d) => member(Op::Max, [&d.input], &d.out),
            _ => None,
        },
        OperationIr::Float(_, op) => match op {
            F::Exp(d) => member(Op::Exp, [&d.input], &d.out),
            F::Log(d) => member(Op::Log, [&d.input], &d.out),
            F::Sqrt(d) => member(Op::Sqrt, [&d.input], &d.out),
            F::Recip(d) => member(Op::Recip, [&d.input], &d.out),
            F::Tanh(d) => member(Op::Tanh, [&d.input], &d.out),
            F::Erf(d) => member(Op::Erf, [&d.input], &d.out),
            F::PowfScalar(d) => member(power(d.rhs.elem())?, [&d.lhs], &d.out),
            _ => None,
        },
        OperationIr::Activation(op) => match op {
            A::Relu(d) => member(Op::Relu, [&d.input], &d.out),
            A::ReluBackward(d) => member(Op::ReluBackward, [&d.lhs, &d.rhs], &d.out),
            A::Sigmoid(d) => member(Op::Sigmoid, [&d.input], &d.out),
            A::SigmoidBackward(d) => member(Op::SigmoidBackward, [&d.lhs, &d.rhs], &d.out),
            A::Gelu(d) => member(Op::Gelu, [&d.input], &d.out),
            _ => None,
        },
        _ => None,
    }
}

fn last(d: &ReduceDimOpIr) -> bool {
    d.axis + 1 == d.input.shape.num_dims()
}

/// Powers as flex computes them: the common ones by multiplication.
fn power(exponent: f64) -> Option<Op> {
    match exponent {
        0.0 | 1.0 => None,
        2.0 => Some(Op::Square),
        -1.0 => Some(Op::Recip),
        -2.0 => Some(Op::SquareRecip),
        _ => Some(Op::Power(exponent)),
    }
}

fn member<const N: usize>(op: Op, operands: [&TensorIr; N], out: &TensorIr) -> Option<Member> {
    let space = if op.reduces() { operands[0].shape.clone() } else { out.shape.clone() };
    // A row of one element is not reduced, and its values could not be told from those of a row.
    let reducible = !op.reduces() || space.iter().last().is_some_and(|columns| *columns > 1);
    let fits = op.supports(out.dtype)
        && reducible
        && space.num_elements() > 0
        && operands.iter().all(|operand| operand.dtype == out.dtype && extent(&operand.shape, &space).is_some())
        && (operands.len() == 2 || operands[0].shape == space);
    let operands = operands.map(TensorIr::clone).to_vec();
    fits.then(|| Member { op, operands, out: out.clone(), space })
}

/// How a tensor varies over a grid.
fn extent(shape: &Shape, space: &Shape) -> Option<Extent> {
    let rank = space.num_dims();
    if shape == space {
        return Some(Extent::Full);
    }
    if shape.num_dims() != rank {
        return None;
    }
    if rows(space) == *shape {
        return Some(Extent::Row);
    }
    if shape.num_elements() == 1 {
        return Some(Extent::One);
    }
    (shape[rank - 1] == space[rank - 1] && shape.num_elements() == shape[rank - 1]).then_some(Extent::Column)
}

/// The shape of one value a row.
fn rows(space: &Shape) -> Shape {
    let mut rows = space.clone();
    if let Some(last) = rows.num_dims().checked_sub(1) {
        rows[last] = 1;
    }
    rows
}

/// The grid that holds both: one of them, where the other is its rows.
fn common(a: &Shape, b: &Shape) -> Option<Shape> {
    match () {
        _ if a == b || rows(a) == *b => Some(a.clone()),
        _ if rows(b) == *a => Some(b.clone()),
        _ => None,
    }
}

fn worthwhile(members: &[&Node]) -> bool {
    let dear = |node: &&Node| node.member.as_ref().is_some_and(|member| member.op.dear());
    members.len() > 1 || members.iter().any(dear)
}

fn group(space: &Shape, members: &[&Node], needed: &[usize]) -> Group {
    let mut inputs: Vec<TensorIr> = Vec::new();
    let mut extents = Vec::new();
    let mut instructions: Vec<Instruction> = Vec::with_capacity(members.len());
    let mut results: HashMap<usize, usize> = HashMap::new();
    // Reads from outside the group.
    let mut outside: HashMap<usize, usize> = HashMap::new();
    for member in members.iter().map(|node| node.member.as_ref().expect("groups are made of members")) {
        let mut args = member.operands.iter().map(|operand| {
            *outside.entry(index(operand)).or_default() += 1;
            if let Some(result) = results.get(&index(operand)) {
                return Arg::Result(*result);
            }
            let known = inputs.iter().position(|input| input.id == operand.id);
            Arg::Input(known.unwrap_or_else(|| {
                inputs.push(operand.clone());
                extents.push(extent(&operand.shape, space).expect("a member's operands fit its grid"));
                inputs.len() - 1
            }))
        });
        let first = args.next().expect("an operation has an operand");
        let second = args.next().unwrap_or(first);
        let extent = extent(&member.out.shape, space).expect("a member's result fits its grid");
        results.insert(index(&member.out), instructions.len());
        instructions.push(Instruction { op: member.op, args: [first, second], extent });
    }
    let outs = members.iter().filter_map(|node| node.member.as_ref()).map(|member| &member.out);
    let outputs: Vec<TensorIr> =
        outs.filter(|out| needed[index(out)] > outside.get(&index(out)).copied().unwrap_or(0)).cloned().collect();
    let targets = outputs.iter().map(|out| (results[&index(out)], out.shape.clone())).collect();
    Group {
        operations: members.iter().flat_map(|node| node.operations.iter().cloned()).collect(),
        kernel: Kernel::new(space, extents, instructions, targets),
        inputs,
        outputs,
    }
}

/// Nodes merged into units that run in one piece, without cycles between units.
struct Units<'a> {
    nodes: &'a [Node],
    /// The unit of each node, by its first node.
    unit: Vec<usize>,
    members: Vec<Vec<usize>>,
    space: Vec<Option<Shape>>,
    dtype: Vec<Option<DType>>,
    /// Units that must run before, directly or not; a bit each.
    before: Vec<Vec<u64>>,
    /// The node that computes a tensor.
    producer: HashMap<usize, usize>,
}

impl<'a> Units<'a> {
    fn new(nodes: &'a [Node]) -> Self {
        let count = nodes.len();
        Units {
            nodes,
            unit: (0..count).collect(),
            members: (0..count).map(|node| vec![node]).collect(),
            space: nodes.iter().map(|node| node.member.as_ref().map(|member| member.space.clone())).collect(),
            dtype: nodes.iter().map(|node| node.member.as_ref().map(|member| member.out.dtype)).collect(),
            before: vec![vec![0; count.div_ceil(64)]; count],
            producer: HashMap::new(),
        }
    }

    /// The units that the unit reads from, itself among them where its members read one another.
    fn parents(&self, unit: usize) -> Vec<usize> {
        let reads = self.members[unit].iter().flat_map(|member| self.nodes[*member].reads());
        let mut parents: Vec<usize> =
            reads.filter_map(|read| self.producer.get(&index(read))).map(|node| self.unit[*node]).collect();
        parents.sort_unstable();
        parents.dedup();
        parents
    }

    /// Makes a node a unit of its own; nodes are added in the list's order.
    fn add(&mut self, node: usize) {
        for parent in self.parents(node) {
            let of_parent = self.before[parent].clone();
            merge(&mut self.before[node], &of_parent);
            set(&mut self.before[node], parent, true);
        }
        for operation in &self.nodes[node].operations {
            operation.outputs().for_each(|out| {
                self.producer.insert(index(out), node);
            });
        }
    }

    /// Merges the units of two nodes where they share a grid and nothing must run between them.
    fn join(&mut self, a: usize, b: usize) {
        let (a, b) = (self.unit[a], self.unit[b]);
        let (Some(left), Some(right)) = (&self.space[a], &self.space[b]) else { return };
        let Some(space) = common(left, right) else { return };
        if a == b || self.dtype[a] != self.dtype[b] {
            return;
        }
        let between = |from: usize, to: usize| {
            self.parents(to).into_iter().any(|parent| parent != from && parent != to && bit(&self.before[parent], from))
        };
        if between(a, b) || between(b, a) {
            return;
        }
        let (keep, gone) = (a.min(b), a.max(b));
        let mut before = self.before[keep].clone();
        merge(&mut before, &self.before[gone]);
        set(&mut before, keep, false);
        set(&mut before, gone, false);
        for unit in 0..self.before.len() {
            if bit(&self.before[unit], keep) || bit(&self.before[unit], gone) {
                merge(&mut self.before[unit], &before);
                set(&mut self.before[unit], keep, true);
            }
        }
        self.before[keep] = before;
        let moved = std::mem::take(&mut self.members[gone]);
        moved.iter().for_each(|member| self.unit[*member] = keep);
        self.members[keep].extend(moved);
        self.members[keep].sort_unstable();
        self.space[keep] = Some(space);
    }

    /// All units, each behind those it reads from; a unit comes when the list reaches its last member or a reader.
    fn order(&self) -> Vec<usize> {
        let mut order = Vec::new();
        let mut done = vec![false; self.unit.len()];
        for node in 0..self.unit.len() {
            let unit = self.unit[node];
            if self.members[unit].last() == Some(&node) {
                self.emit(unit, &mut done, &mut order);
            }
        }
        order
    }

    fn emit(&self, unit: usize, done: &mut [bool], order: &mut Vec<usize>) {
        if std::mem::replace(&mut done[unit], true) {
            return;
        }
        self.parents(unit).into_iter().for_each(|parent| self.emit(parent, done, order));
        order.push(unit);
    }
}

fn bit(bits: &[u64], position: usize) -> bool {
    bits[position / 64] >> (position % 64) & 1 == 1
}

fn set(bits: &mut [u64], position: usize, value: bool) {
    let mask = 1 << (position % 64);
    match value {
        true => bits[position / 64] |= mask,
        false => bits[position / 64] &= !mask,
    }
}

fn merge(bits: &mut [u64], more: &[u64]) {
    bits.iter_mut().zip(more).for_each(|(bits, more)| *bits |= more);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    use burn::tensor::{Device, Tensor, TensorData};
    use proptest::prelude::*;

    use crate::program::execute::Schedule;
    use crate::program::graph::{Builder, Source};
    use crate::testing::{host_devices, property};

    /// A random graph on a grid of `[2, rows, columns]`: each choice is an operation and two of the tensors made so far.
    #[derive(Clone, Debug)]
    struct Recipe {
        rows: usize,
        columns: usize,
        choices: Vec<(u8, usize, usize)>,
        values: Vec<f64>,
    }

    fn recipes(values: impl Strategy<Value = f64> + 'static) -> impl Strategy<Value = Recipe> {
        let choice = (any::<u8>(), 0..1000usize, 0..1000usize);
        let choices = proptest::collection::vec(choice, 1..30);
        (0..40usize, 1..70usize, choices, proptest::collection::vec(values, 64))
            .prop_map(|(rows, columns, choices, values)| Recipe { rows, columns, choices, values })
    }

    impl Recipe {
        fn shapes(&self) -> [Shape; 5] {
            let (rows, columns) = (self.rows, self.columns);
            [[2, rows, columns], [2, rows, columns], [2, rows, 1], [1, 1, columns], [1, 1, 1]].map(Shape::new)
        }

        /// The graph. `make` makes a tensor of two, or nothing where it does not want to.
        fn graph(
            &self,
            dtype: DType,
            make: impl Fn(u8, &mut Builder, &TensorIr, &TensorIr) -> Option<TensorIr>,
        ) -> Graph {
            let mut b = Graph::default().into_builder();
            let entry = |(position, shape)| b.entry(shape, dtype, Source::Batch(position));
            let mut tensors: Vec<TensorIr> = self.shapes().into_iter().enumerate().map(entry).collect();
            for (op, left, right) in &self.choices {
                let (left, right) = (&tensors[left % tensors.len()], &tensors[right % tensors.len()]);
                tensors.extend(make(*op, &mut b, left, right));
            }
            // The last tensors and some from within.
            b.graph.outputs = tensors.iter().rev().take(3).chain(tensors[5..].iter().step_by(7)).cloned().collect();
            b.graph
        }

        fn inputs(&self, dtype: DType, device: &Device) -> Vec<burn::backend::DispatchTensor> {
            let tensor = |(position, shape): (usize, Shape)| {
                let count = shape.num_elements();
                let values = (0..count).map(|i| self.values[(i * 7 + position * 13) % 64]).collect::<Vec<f64>>();
                let make = |shape| Tensor::<3>::from_data(TensorData::new(values[..].to_vec(), shape), (device, dtype));
                match position {
                    // Views that are not in row-major order.
                    1 => make(Shape::new([2, self.columns, self.rows])).swap_dims(1, 2),
                    2 if self.rows > 0 => make(shape).narrow(0, 0, 1).expand([2, self.rows, 1]),
                    _ => make(shape),
                }
            };
            self.shapes().into_iter().enumerate().map(tensor).map(Tensor::into_dispatch).collect()
        }

        /// The outputs' values, by groups or one operation at a time.
        fn run(&self, graph: &Graph, dtype: DType, device: &Device, fused: bool) -> Vec<f64> {
            let schedule = match fused {
                true => Schedule::new(graph.clone()),
                false => {
                    let pieces = graph.operations.iter().cloned().map(Piece::One).collect();
                    Schedule::of(graph.clone(), pieces)
                }
            };
            let out = schedule.run(self.inputs(dtype, device), device.as_dispatch()).unwrap();
            out.into_iter()
                .flat_map(|out| Tensor::<3>::from_dispatch(out).into_data().iter::<f64>().collect::<Vec<_>>())
                .collect()
        }
    }

    /// Every operation that groups take, but those that add rows up or choose among equals.
    fn element_wise(op: u8, b: &mut Builder, x: &TensorIr, y: &TensorIr) -> Option<TensorIr> {
        let unary = |b: &mut Builder, make: fn(UnaryOpIr) -> OperationIr| {
            let out = b.like(x);
            b.push(make(UnaryOpIr { input: x.clone(), out: out.clone() }));
            out
        };
        let f64 = x.dtype == DType::F64;
        Some(match op % 28 {
            0 | 1 => b.add(x, y),
            2 | 3 => b.sub(x, y),
            4 | 5 => b.mul(x, y),
            6 | 7 => b.div(x, y),
            8 => b.add_scalar(x, 0.3),
            9 => b.mul_scalar(x, -1.7),
            10 => b.neg(x),
            11 => b.abs(x),
            12 => b.sqrt(x),
            13 => b.exp(x),
            14 => b.log(x),
            15 => b.recip(x),
            16 => b.powf_scalar(x, 1.5),
            17 => b.powf_scalar(x, -2.0),
            18 => b.powi_scalar(x, 2.0),
            19 if x.dtype == DType::F32 => b.sigmoid(x),
            20 if x.shape == y.shape => b.relu_backward(x, y),
            21 if x.shape == y.shape && !f64 => b.sigmoid_backward(x, y),
            22 => unary(b, |d| OperationIr::Float(d.out.dtype, FloatOperationIr::Tanh(d))),
            23 => unary(b, |d| OperationIr::Activation(ActivationOperationIr::Relu(d))),
            24 if !f64 => unary(b, |d| OperationIr::Activation(ActivationOperationIr::Gelu(d))),
            25 if !f64 => {
                let ones = b.full(&x.shape, x.dtype, 1.0);
                b.gelu_backward(x, &ones)
            }
            26 if x.shape == y.shape && x.shape[2] > 1 => {
                let at = b.arg_extreme(y, 2, true);
                b.gather(x, 2, &at)
            }
            // Not an operation for groups: it has to run between them.
            27 => {
                let out = b.like(x);
                let flip = FlipOpIr { input: x.clone(), out: out.clone(), axes: vec![1] };
                b.push(OperationIr::BaseFloat(BaseOperationIr::Flip(flip)));
                out
            }
            _ => return None,
        })
    }

    fn special() -> impl Strategy<Value = f64> {
        prop_oneof![
            6 => -4.0..4.0,
            2 => prop::sample::select(vec![0.0, -0.0, 1.0, -1.0, 0.5]),
            1 => prop::sample::select(vec![f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e-42, 3e38, -1e-20]),
        ]
    }

    fn same(a: &[f64], b: &[f64]) {
        assert_eq!(a.len(), b.len());
        for (position, (a, b)) in a.iter().zip(b).enumerate() {
            assert!(
                a == b && a.is_sign_negative() == b.is_sign_negative() || (a.is_nan() && b.is_nan()),
                "{position}: {a:e} and {b:e}"
            );
        }
    }

    #[test]
    fn groups_compute_bit_for_bit_what_their_operations_do() {
        property(300, recipes(special()), |recipe| {
            for dtype in [DType::F32, DType::F64] {
                let graph = recipe.graph(dtype, element_wise);
                let device = Device::flex();
                let fused = recipe.run(&graph, dtype, &device, true);
                same(&fused, &recipe.run(&graph, dtype, &device, false));
                // Kernels are one code on all host backends; what is left out of groups is Burn's.
                if fuse(&graph).iter().all(|piece| matches!(piece, Piece::Group(_))) {
                    host_devices().iter().for_each(|device| same(&fused, &recipe.run(&graph, dtype, device, true)));
                }
            }
        });
    }

    #[test]
    fn sums_and_maxima_of_rows_agree() {
        // Whole numbers below 2²², so that sums are exact in every order.
        let whole = prop::sample::select(vec![-2.0, -1.0, 0.0, 1.0, 2.0]);
        property(200, recipes(whole), |recipe| {
            let sizes = std::cell::RefCell::new(HashMap::new());
            let size = |x: &TensorIr| *sizes.borrow().get(&index(x)).unwrap_or(&2.0f64);
            let graph = recipe.graph(DType::F32, |op, b, x, y| {
                let (out, bound) = match op % 6 {
                    0 | 1 => (b.add(x, y), size(x) + size(y)),
                    2 => (b.sub(x, y), size(x) + size(y)),
                    3 if size(x) * 100.0 < 4e6 => (b.sum_dim(x, 2), size(x) * 100.0),
                    4 => {
                        let mut shape = x.shape.clone();
                        shape[2] = 1;
                        let out = b.tensor(shape, x.dtype);
                        let desc = ReduceDimOpIr { input: x.clone(), out: out.clone(), axis: 2, accumulator_len: 1 };
                        b.push(OperationIr::NumericFloat(x.dtype, NumericOperationIr::MaxDim(desc)));
                        (out, size(x))
                    }
                    _ => (b.neg(x), size(x)),
                };
                sizes.borrow_mut().insert(index(&out), bound);
                (bound < 4e6).then_some(out)
            });
            for device in host_devices() {
                let fused = recipe.run(&graph, DType::F32, &device, true);
                same(&fused, &recipe.run(&graph, DType::F32, &device, false));
            }
        });
    }

    #[test]
    fn nothing_runs_before_what_it_reads() {
        property(300, recipes(special()), |recipe| {
            let graph = recipe.graph(DType::F32, element_wise);
            let mut known: HashSet<usize> = graph.entries.iter().map(|entry| index(&entry.tensor)).collect();
            let mut made = Vec::new();
            for piece in fuse(&graph) {
                let (operations, inputs, outputs) = match piece {
                    Piece::One(op) => {
                        let (inputs, outputs) = (op.inputs().cloned().collect(), op.outputs().cloned().collect());
                        (vec![op], inputs, outputs)
                    }
                    Piece::Group(Group { operations, inputs, outputs, .. }) => (operations, inputs, outputs),
                };
                assert!(inputs.iter().all(|input: &TensorIr| known.contains(&index(input))), "read before it was made");
                // Within a group too.
                let mut within = known.clone();
                for op in &operations {
                    assert!(op.inputs().all(|input| within.contains(&index(input))));
                    within.extend(op.outputs().map(index));
                }
                known.extend(outputs.iter().map(index));
                made.extend(operations);
            }
            assert!(graph.outputs.iter().all(|out| known.contains(&index(out))));
            let absorbable = |op: &OperationIr| matches!(op, OperationIr::NumericFloat(_, NumericOperationIr::Full(_)));
            let count = |ops: &[OperationIr]| ops.iter().filter(|op| !absorbable(op)).count();
            assert_eq!(count(&made), count(&graph.operations));
        });
    }

    #[test]
    fn an_operation_between_two_others_keeps_them_apart() {
        let mut b = Graph::default().into_builder();
        let x = b.entry(Shape::new([4, 8]), DType::F32, Source::Batch(0));
        let y = b.exp(&x);
        let y = b.neg(&y);
        // Columns are summed outside groups.
        let sum = b.sum_dim(&y, 0);
        let z = b.mul(&y, &sum);
        let z = b.add(&z, &x);
        b.graph.outputs = vec![z];
        let sizes: Vec<usize> = fuse(&b.graph)
            .iter()
            .map(|piece| match piece {
                Piece::One(_) => 1,
                Piece::Group(group) => group.operations.len(),
            })
            .collect();
        assert_eq!(sizes, [2, 1, 2]);
    }

    #[test]
    fn softmax_and_its_tangent_are_one_group() {
        let mut b = Graph::default().into_builder();
        let shape = Shape::new([2, 3, 8]);
        let (x, dx) =
            (b.entry(shape.clone(), DType::F32, Source::Batch(0)), b.entry(shape, DType::F32, Source::Batch(1)));
        let at = b.arg_extreme(&x, 2, true);
        let top = b.gather(&x, 2, &at);
        let x = b.sub(&x, &top);
        let e = b.exp(&x);
        let sum = b.sum_dim(&e, 2);
        let y = b.div(&e, &sum);
        let weighted = b.mul(&y, &dx);
        let mean = b.sum_dim(&weighted, 2);
        let dy = b.mul(&y, &mean);
        let dy = b.sub(&weighted, &dy);
        b.graph.outputs = vec![y, dy];
        let [Piece::Group(group)] = &fuse(&b.graph)[..] else { panic!("more than one piece") };
        assert_eq!((group.operations.len(), group.inputs.len(), group.outputs.len()), (10, 2, 2));
    }
}
