//! Rewrites of a recording that cost less and mean the same up to rounding, made before tangents are derived from it.
//!
//! - A stack of matrices times one matrix is one product of the stack's rows.
//! - Products of two stacks summed over the stack (the gradient of a weight) are one product with a longer inner dimension.
//! - The gradient through a GELU is the gradient times the function's slope, so that all gradients and tangents through one GELU
//!   share the slope.

use std::collections::HashMap;

use burn::backend::ir::*;
use burn::tensor::Shape;

use super::graph::{Builder, Graph, index};

/// Lowers a graph, keeping its outputs.
pub(crate) fn lower(graph: Graph) -> Graph {
    let mut pass = Pass { dense: vec![false; graph.tensors], swapped: HashMap::new(), stacks: HashMap::new() };
    graph.entries.iter().for_each(|entry| pass.dense[index(&entry.tensor)] = true);
    let mut reads = vec![0usize; graph.tensors];
    graph.outputs.iter().for_each(|out| reads[index(out)] += 1);
    graph.operations.iter().flat_map(|op| op.inputs()).for_each(|input| reads[index(input)] += 1);
    let operations = graph.operations;
    let mut b = Graph { operations: Vec::with_capacity(operations.len()), ..graph }.into_builder();
    for operation in operations {
        pass.visit(operation, &reads, &mut b);
    }
    b.graph
}

struct Pass {
    /// Tensors in row-major order, as far as is known.
    dense: Vec<bool>,
    /// Row-major stacks of matrices, by what holds them transposed.
    swapped: HashMap<usize, TensorIr>,
    /// Products of two stacks that are read once, by their result.
    stacks: HashMap<usize, MatmulOpIr>,
}

impl Pass {
    fn visit(&mut self, operation: OperationIr, reads: &[usize], b: &mut Builder) {
        self.follow(&operation);
        match &operation {
            OperationIr::Float(_, FloatOperationIr::Matmul(d)) => {
                if self.shared(d) {
                    return rows(d, b);
                }
                if self.stacked(d) && reads[index(&d.out)] == 1 {
                    self.stacks.insert(index(&d.out), d.clone());
                }
            }
            OperationIr::NumericFloat(_, NumericOperationIr::SumDim(d)) if d.axis == 0 => {
                if let Some(product) = self.stacks.get(&index(&d.input)) {
                    return self.contract(product, &d.out, b);
                }
            }
            OperationIr::Activation(ActivationOperationIr::GeluBackward(d)) => {
                let ones = b.full(&d.lhs.shape, d.lhs.dtype, 1.0);
                let slope = b.gelu_backward(&d.lhs, &ones);
                let product = BinaryOpIr { lhs: d.rhs.clone(), rhs: slope, out: d.out.clone() };
                return b.push(OperationIr::NumericFloat(d.out.dtype, NumericOperationIr::Mul(product)));
            }
            _ => {}
        }
        b.push(operation);
    }

    /// Notes which results are in row-major order.
    fn follow(&mut self, operation: &OperationIr) {
        use BaseOperationIr as B;
        let dense = match operation {
            OperationIr::BaseFloat(B::SwapDims(d)) => {
                let rank = d.input.shape.num_dims();
                if self.dense[index(&d.input)] && rank == 3 && d.dim1 + d.dim2 == 3 {
                    self.swapped.insert(index(&d.out), d.input.clone());
                }
                false
            }
            OperationIr::BaseFloat(B::Permute(_) | B::Expand(_) | B::Slice(_) | B::Flip(_)) => false,
            OperationIr::BaseFloat(B::Reshape(_)) | OperationIr::Float(_, FloatOperationIr::Matmul(_)) => true,
            OperationIr::Module(_) => true,
            _ => operation.inputs().all(|input| self.dense[index(input)] || !input.dtype.is_float()),
        };
        operation.outputs().for_each(|out| self.dense[index(out)] = dense);
    }

    /// A row-major stack times one matrix.
    fn shared(&self, d: &MatmulOpIr) -> bool {
        let (stack, matrix) = (&d.lhs.shape, &d.rhs.shape);
        let rank = stack.num_dims();
        let count = |shape: &Shape| shape[..rank - 2].iter().product::<usize>();
        rank > 2 && matrix.num_dims() == rank && count(stack) > 1 && count(matrix) == 1 && self.dense[index(&d.lhs)]
    }

    /// A stack of transposed row-major matrices times another stack.
    fn stacked(&self, d: &MatmulOpIr) -> bool {
        self.swapped.contains_key(&index(&d.lhs)) && self.dense[index(&d.rhs)] && d.lhs.shape[0] == d.rhs.shape[0]
    }

    /// `out = Σᵢ lhsᵢ·rhsᵢ`
    fn contract(&self, d: &MatmulOpIr, out: &TensorIr, b: &mut Builder) {
        let source = &self.swapped[&index(&d.lhs)];
        let flat = |tensor: &TensorIr| {
            let [stack, rows, columns] = tensor.shape.dims();
            Shape::new([1, stack * rows, columns])
        };
        let left = b.reshape(source, &flat(source));
        let right = b.reshape(&d.rhs, &flat(&d.rhs));
        let [_, rows, columns] = left.shape.dims();
        let turned = b.tensor(Shape::new([1, columns, rows]), left.dtype);
        let swap = SwapDimsOpIr { input: left, dim1: 1, dim2: 2, out: turned.clone() };
        b.push(OperationIr::BaseFloat(BaseOperationIr::SwapDims(swap)));
        let product = MatmulOpIr { lhs: turned, rhs: right, out: out.clone() };
        b.push(OperationIr::Float(out.dtype, FloatOperationIr::Matmul(product)));
    }
}

/// A stack times one matrix, as one product.
fn rows(d: &MatmulOpIr, b: &mut Builder) {
    let rank = d.out.shape.num_dims();
    let flat = |shape: &Shape| {
        let mut flat = vec![1; rank];
        flat[rank - 1] = shape[rank - 1];
        flat[rank - 2] = shape[..rank - 1].iter().product();
        Shape::from(flat)
    };
    let left = b.reshape(&d.lhs, &flat(&d.lhs.shape));
    let product = b.tensor(flat(&d.out.shape), d.out.dtype);
    let desc = MatmulOpIr { lhs: left, rhs: d.rhs.clone(), out: product.clone() };
    b.push(OperationIr::Float(d.out.dtype, FloatOperationIr::Matmul(desc)));
    let back = ShapeOpIr { input: product, out: d.out.clone() };
    b.push(OperationIr::BaseFloat(BaseOperationIr::Reshape(back)));
}
