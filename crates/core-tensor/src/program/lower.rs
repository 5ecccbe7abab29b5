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

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{DType, Device, Distribution, Tensor};

    use crate::program::execute::Schedule;
    use crate::program::graph::Source;
    use crate::program::simplify::drop_dead;

    fn matmul(b: &mut Builder, lhs: &TensorIr, rhs: &TensorIr, shape: [usize; 3]) -> TensorIr {
        let out = b.tensor(Shape::new(shape), lhs.dtype);
        let desc = MatmulOpIr { lhs: lhs.clone(), rhs: rhs.clone(), out: out.clone() };
        b.push(OperationIr::Float(lhs.dtype, FloatOperationIr::Matmul(desc)));
        out
    }

    /// Shapes of the products left after lowering, having checked that values agree.
    fn lowered(graph: Graph, shapes: &[[usize; 3]]) -> Vec<Shape> {
        let device = Device::flex();
        let options = (&device, DType::F64);
        let inputs: Vec<_> = shapes
            .iter()
            .map(|shape| Tensor::<3>::random(*shape, Distribution::Normal(0.0, 1.0), options).into_dispatch())
            .collect();
        let run = |graph: Graph| {
            let out = Schedule::new(graph).run(inputs.clone(), device.as_dispatch()).unwrap().swap_remove(0);
            Tensor::<3>::from_dispatch(out)
        };
        let mut after = lower(graph.clone());
        drop_dead(&mut after);
        let products = after.operations.iter().filter_map(|op| match op {
            OperationIr::Float(_, FloatOperationIr::Matmul(d)) => Some(d.out.shape.clone()),
            _ => None,
        });
        let products = products.collect();
        run(after)
            .into_data()
            .assert_approx_eq::<f64>(&run(graph).into_data(), burn::tensor::Tolerance::absolute(1e-12));
        products
    }

    #[test]
    fn a_stack_times_a_matrix_is_one_product() {
        let mut b = Graph::default().into_builder();
        let x = b.entry(Shape::new([3, 4, 5]), DType::F64, Source::Batch(0));
        let w = b.entry(Shape::new([1, 5, 2]), DType::F64, Source::Batch(1));
        let y = matmul(&mut b, &x, &w, [3, 4, 2]);
        b.graph.outputs = vec![y];
        assert_eq!(lowered(b.graph, &[[3, 4, 5], [1, 5, 2]]), [Shape::new([1, 12, 2])]);
    }

    #[test]
    fn products_summed_over_the_stack_are_one_product() {
        for kept in [false, true] {
            let mut b = Graph::default().into_builder();
            let x = b.entry(Shape::new([3, 4, 5]), DType::F64, Source::Batch(0));
            let g = b.entry(Shape::new([3, 4, 2]), DType::F64, Source::Batch(1));
            let turned = b.tensor(Shape::new([3, 5, 4]), DType::F64);
            let swap = SwapDimsOpIr { input: x, dim1: 1, dim2: 2, out: turned.clone() };
            b.push(OperationIr::BaseFloat(BaseOperationIr::SwapDims(swap)));
            let products = matmul(&mut b, &turned, &g, [3, 5, 2]);
            let sum = b.sum_dim(&products, 0);
            b.graph.outputs = vec![sum];
            // Somebody else reads the single products.
            b.graph.outputs.extend(kept.then_some(products));
            let expected = if kept { Shape::new([3, 5, 2]) } else { Shape::new([1, 5, 2]) };
            assert_eq!(lowered(b.graph, &[[3, 4, 5], [3, 4, 2]]), [expected]);
        }
    }

    #[test]
    fn a_gelu_gradient_is_the_gradient_times_the_slope() {
        let mut b = Graph::default().into_builder();
        let shape = Shape::new([2, 3, 4]);
        let x = b.entry(shape.clone(), DType::F64, Source::Batch(0));
        let g = b.entry(shape, DType::F64, Source::Batch(1));
        let y = b.gelu_backward(&x, &g);
        b.graph.outputs = vec![y];
        assert!(lowered(b.graph, &[[2, 3, 4], [2, 3, 4]]).is_empty());
    }
}
