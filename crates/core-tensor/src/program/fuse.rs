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
    for position in 0..nodes.len() {
        units.add(position);
        let Some(member) = &nodes[position].member else { continue };
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
            let member = member(Op::PickMax, &[&d.tensor, &by.input], &d.out)?;
            fits.then_some((source, member))
        }
        OperationIr::Activation(ActivationOperationIr::GeluBackward(d)) => {
            let source = *sources.get(&index(&d.rhs))?;
            Some((source, member(Op::GeluSlope, &[&d.lhs], &d.out)?))
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
            N::Add(d) => member(Op::Add, &[&d.lhs, &d.rhs], &d.out),
            N::Sub(d) => member(Op::Sub, &[&d.lhs, &d.rhs], &d.out),
            N::Mul(d) => member(Op::Mul, &[&d.lhs, &d.rhs], &d.out),
            N::Div(d) => member(Op::Div, &[&d.lhs, &d.rhs], &d.out),
            N::AddScalar(d) => member(Op::AddScalar(d.rhs.elem()), &[&d.lhs], &d.out),
            N::SubScalar(d) => member(Op::SubScalar(d.rhs.elem()), &[&d.lhs], &d.out),
            N::MulScalar(d) => member(Op::MulScalar(d.rhs.elem()), &[&d.lhs], &d.out),
            N::DivScalar(d) => member(Op::DivScalar(d.rhs.elem()), &[&d.lhs], &d.out),
            N::Neg(d) => member(Op::Neg, &[&d.input], &d.out),
            N::Abs(d) => member(Op::Abs, &[&d.input], &d.out),
            N::PowiScalar(d) => member(power(d.rhs.elem())?, &[&d.lhs], &d.out),
            N::SumDim(d) if last(d) => member(Op::Sum, &[&d.input], &d.out),
            N::MeanDim(d) if last(d) => member(Op::Mean, &[&d.input], &d.out),
            N::MaxDim(d) if last(d) => member(Op::Max, &[&d.input], &d.out),
            _ => None,
        },
        OperationIr::Float(_, op) => match op {
            F::Exp(d) => member(Op::Exp, &[&d.input], &d.out),
            F::Log(d) => member(Op::Log, &[&d.input], &d.out),
            F::Sqrt(d) => member(Op::Sqrt, &[&d.input], &d.out),
            F::Recip(d) => member(Op::Recip, &[&d.input], &d.out),
            F::Tanh(d) => member(Op::Tanh, &[&d.input], &d.out),
            F::Erf(d) => member(Op::Erf, &[&d.input], &d.out),
            F::PowfScalar(d) => member(power(d.rhs.elem())?, &[&d.lhs], &d.out),
            _ => None,
        },
        OperationIr::Activation(op) => match op {
            A::Relu(d) => member(Op::Relu, &[&d.input], &d.out),
            A::ReluBackward(d) => member(Op::ReluBackward, &[&d.lhs, &d.rhs], &d.out),
            A::Sigmoid(d) => member(Op::Sigmoid, &[&d.input], &d.out),
            A::SigmoidBackward(d) => member(Op::SigmoidBackward, &[&d.lhs, &d.rhs], &d.out),
            A::Gelu(d) => member(Op::Gelu, &[&d.input], &d.out),
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

fn member(op: Op, operands: &[&TensorIr], out: &TensorIr) -> Option<Member> {
    let space = if op.reduces() { operands[0].shape.clone() } else { out.shape.clone() };
    let fits = op.supports(out.dtype)
        && space.num_elements() > 0
        && operands.iter().all(|operand| operand.dtype == out.dtype && extent(&operand.shape, &space).is_some())
        && (operands.len() == 2 || operands[0].shape == space);
    let operands = operands.iter().map(|operand| TensorIr::clone(operand)).collect();
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
