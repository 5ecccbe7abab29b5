//! Rewrites that change nothing but the cost: constants folded, identities and repeated work removed, dead code dropped.
//!
//! Only rewrites that keep every bit are made (multiplying by one, adding zero, computing the same thing once); reassociation
//! is not among them. Adding a literal zero turns `-0.0` into `0.0` in IEEE arithmetic, which the folded form does not.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use burn::backend::ir::*;
use burn::tensor::Shape;

use super::graph::{Graph, index};

/// Simplifies `graph`, keeping its outputs.
pub(crate) fn simplify(graph: Graph) -> Graph {
    let mut pass = Pass {
        rename: vec![None; graph.tensors],
        filled: vec![None; graph.tensors],
        narrow: vec![None; graph.tensors],
        seen: HashMap::new(),
        operations: Vec::with_capacity(graph.operations.len()),
    };
    for operation in graph.operations {
        pass.visit(operation);
    }
    let mut outputs = graph.outputs;
    for output in &mut outputs {
        pass.resolve(output);
    }
    let mut graph =
        Graph { operations: pass.operations, outputs, entries: graph.entries, tensors: graph.tensors, int: graph.int };
    drop_dead(&mut graph);
    graph
}

/// Drops operations and entries that no output needs.
pub(crate) fn drop_dead(graph: &mut Graph) {
    let mut live = vec![false; graph.tensors];
    for output in &graph.outputs {
        live[index(output)] = true;
    }
    let mut keep = vec![false; graph.operations.len()];
    for (position, operation) in graph.operations.iter().enumerate().rev() {
        if operation.outputs().any(|out| live[index(out)]) {
            keep[position] = true;
            operation.inputs().for_each(|input| live[index(input)] = true);
        }
    }
    let mut position = 0;
    graph.operations.retain(|_| {
        position += 1;
        keep[position - 1]
    });
    graph.entries.retain(|entry| live[index(&entry.tensor)]);
}

struct Pass {
    /// A tensor that is another one under a new name.
    rename: Vec<Option<TensorIr>>,
    /// A tensor known to hold one value everywhere.
    filled: Vec<Option<f64>>,
    /// What a tensor is expanded from, if it is.
    narrow: Vec<Option<TensorIr>>,
    /// Operations by what they compute: the operation with its results' ids erased, by hash.
    seen: HashMap<u64, Vec<(OperationIr, Vec<TensorIr>)>>,
    operations: Vec<OperationIr>,
}

impl Pass {
    fn resolve(&self, tensor: &mut TensorIr) {
        while let Some(Some(target)) = self.rename.get(index(tensor)) {
            tensor.id = target.id;
        }
    }

    fn visit(&mut self, mut operation: OperationIr) {
        operation.visit_mut(&mut Resolve(self));
        use OperationIr as O;
        if let O::BaseFloat(_) | O::NumericFloat(..) | O::Float(..) | O::Activation(_) = operation {
            operation.visit_mut(&mut FloatScalars);
        }
        if let Some((out, input)) = self.identity(&operation) {
            self.rename[index(&out)] = Some(input);
            return;
        }
        if let Some((out, value)) = self.constant(&operation) {
            self.filled[index(&out)] = Some(value);
            operation = OperationIr::NumericFloat(
                out.dtype,
                NumericOperationIr::Full(FullOpIr { out, value: ScalarIr::Float(value) }),
            );
        } else if let Some(scaled) = self.by_scalar(&operation) {
            operation = scaled;
            if let Some((out, input)) = self.identity(&operation) {
                self.rename[index(&out)] = Some(input);
                return;
            }
        } else if let Some(expanded) = self.by_ones(&operation) {
            operation = expanded;
        }
        self.without_expansion(&mut operation);
        if let OperationIr::BaseFloat(BaseOperationIr::Expand(d)) = &operation
            && d.input.shape.num_dims() == d.out.shape.num_dims()
        {
            self.narrow[index(&d.out)] = Some(d.input.clone());
        }
        let outputs: Vec<TensorIr> = operation.outputs().cloned().collect();
        let mut key = operation.clone();
        key.visit_mut(&mut Erase(&outputs));
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        let alike = self.seen.entry(hasher.finish()).or_default();
        match alike.iter().find(|(other, _)| *other == key) {
            Some((_, earlier)) => {
                for (out, earlier) in outputs.iter().zip(earlier) {
                    self.rename[index(out)] = Some(earlier.clone());
                }
            }
            None => {
                alike.push((key, outputs));
                self.operations.push(operation);
            }
        }
    }

    /// An operation that only hands on its input.
    fn identity(&self, operation: &OperationIr) -> Option<(TensorIr, TensorIr)> {
        use BaseOperationIr as B;
        use NumericOperationIr as N;
        let same = |input: &TensorIr, out: &TensorIr| {
            (input.shape == out.shape && input.dtype == out.dtype).then(|| (out.clone(), input.clone()))
        };
        match operation {
            OperationIr::BaseFloat(op) | OperationIr::BaseInt(op) | OperationIr::BaseBool(op) => match op {
                B::Reshape(d) | B::Expand(d) => same(&d.input, &d.out),
                B::Cast(d) if !d.input.dtype.is_bool() => same(&d.input, &d.out),
                _ => None,
            },
            OperationIr::NumericFloat(_, op) => match op {
                N::MulScalar(d) | N::DivScalar(d) if d.rhs.elem::<f64>() == 1.0 => same(&d.lhs, &d.out),
                N::AddScalar(d) | N::SubScalar(d) if d.rhs.elem::<f64>() == 0.0 => same(&d.lhs, &d.out),
                N::PowiScalar(d) if d.rhs.elem::<f64>() == 1.0 => same(&d.lhs, &d.out),
                N::Mul(d) if self.is(&d.rhs, 1.0) => same(&d.lhs, &d.out),
                N::Mul(d) if self.is(&d.lhs, 1.0) => same(&d.rhs, &d.out),
                N::Div(d) if self.is(&d.rhs, 1.0) => same(&d.lhs, &d.out),
                N::Add(d) if self.is(&d.rhs, 0.0) => same(&d.lhs, &d.out),
                N::Add(d) if self.is(&d.lhs, 0.0) => same(&d.rhs, &d.out),
                N::Sub(d) if self.is(&d.rhs, 0.0) => same(&d.lhs, &d.out),
                N::SumDim(d) | N::MeanDim(d) | N::MaxDim(d) | N::MinDim(d) => same(&d.input, &d.out),
                N::SumDims(d) => same(&d.input, &d.out),
                N::Sum(d) | N::Mean(d) => same(&d.input, &d.out),
                _ => None,
            },
            _ => None,
        }
    }

    fn is(&self, tensor: &TensorIr, value: f64) -> bool {
        self.filled[index(tensor)] == Some(value)
    }

    /// A float result that is one value everywhere.
    fn constant(&self, operation: &OperationIr) -> Option<(TensorIr, f64)> {
        use BaseOperationIr as B;
        use NumericOperationIr as N;
        let known = |tensor: &TensorIr| self.filled[index(tensor)];
        match operation {
            OperationIr::BaseFloat(op) => match op {
                B::Ones(d) => Some((d.out.clone(), 1.0)),
                B::Zeros(d) => Some((d.out.clone(), 0.0)),
                B::Reshape(d) | B::Expand(d) => Some((d.out.clone(), known(&d.input)?)),
                B::SwapDims(d) => Some((d.out.clone(), known(&d.input)?)),
                B::Permute(d) => Some((d.out.clone(), known(&d.input)?)),
                _ => None,
            },
            OperationIr::NumericFloat(_, op) => match op {
                N::Full(d) => Some((d.out.clone(), d.value.elem())),
                // Exact in every float type, so safe to fold before the element type rounds.
                N::Neg(d) => Some((d.out.clone(), -known(&d.input)?)),
                N::MulScalar(d) if known(&d.lhs)? == 1.0 => Some((d.out.clone(), d.rhs.elem())),
                N::DivScalar(d) if known(&d.lhs)? == 1.0 => Some((d.out.clone(), 1.0 / d.rhs.elem::<f64>())),
                N::Mul(d) => Some((d.out.clone(), known(&d.lhs)? * known(&d.rhs)?))
                    .filter(|_| self.is(&d.lhs, 1.0) || self.is(&d.rhs, 1.0)),
                _ => None,
            },
            _ => None,
        }
    }

    /// Multiplication by a larger tensor of ones as an expansion.
    fn by_ones(&self, operation: &OperationIr) -> Option<OperationIr> {
        let OperationIr::NumericFloat(_, NumericOperationIr::Mul(d)) = operation else { return None };
        let input = match () {
            _ if self.is(&d.rhs, 1.0) => &d.lhs,
            _ if self.is(&d.lhs, 1.0) => &d.rhs,
            _ => return None,
        };
        (input.shape.num_dims() == d.out.shape.num_dims()).then(|| {
            OperationIr::BaseFloat(BaseOperationIr::Expand(ShapeOpIr { input: input.clone(), out: d.out.clone() }))
        })
    }

    /// Lets arithmetic with a tensor of the full shape expand its other operand by itself.
    fn without_expansion(&self, operation: &mut OperationIr) {
        use NumericOperationIr as N;
        if let OperationIr::NumericFloat(_, N::Add(d) | N::Sub(d) | N::Mul(d) | N::Div(d)) = operation {
            let (lhs, rhs) = (self.narrow[index(&d.lhs)].clone(), self.narrow[index(&d.rhs)].clone());
            match (lhs, rhs) {
                (Some(lhs), _) if d.rhs.shape == d.out.shape => d.lhs = lhs,
                (_, Some(rhs)) if d.lhs.shape == d.out.shape => d.rhs = rhs,
                _ => {}
            }
        }
    }

    /// Multiplication by a filled tensor as multiplication by its value.
    fn by_scalar(&self, operation: &OperationIr) -> Option<OperationIr> {
        use NumericOperationIr as N;
        let scaled = |dtype, input: &TensorIr, value: f64, out: &TensorIr, shape: &Shape| {
            (input.shape == *shape).then(|| {
                let desc = ScalarOpIr { lhs: input.clone(), rhs: ScalarIr::Float(value), out: out.clone() };
                OperationIr::NumericFloat(dtype, N::MulScalar(desc))
            })
        };
        match operation {
            OperationIr::NumericFloat(dtype, N::Mul(d)) => {
                match (self.filled[index(&d.lhs)], self.filled[index(&d.rhs)]) {
                    (_, Some(value)) => scaled(*dtype, &d.lhs, value, &d.out, &d.out.shape),
                    (Some(value), _) => scaled(*dtype, &d.rhs, value, &d.out, &d.out.shape),
                    _ => None,
                }
            }
            _ => None,
        }
    }
}

struct Resolve<'a>(&'a Pass);

impl IrVisitorMut for Resolve<'_> {
    fn visit_tensor_mut(&mut self, tensor: &mut TensorIr) {
        self.0.resolve(tensor);
    }
}

/// Writes every scalar of a float operation as a float, so that `x + 1` and `x + 1.0` are seen to be the same.
struct FloatScalars;

impl IrVisitorMut for FloatScalars {
    fn visit_scalar_mut(&mut self, scalar: &mut ScalarIr) {
        *scalar = ScalarIr::Float(scalar.elem());
    }
}

struct Erase<'a>(&'a [TensorIr]);

impl IrVisitorMut for Erase<'_> {
    fn visit_tensor_mut(&mut self, tensor: &mut TensorIr) {
        if self.0.iter().any(|out| out.id == tensor.id) {
            tensor.id = TensorId::new(u64::MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::DType;

    use crate::program::graph::Source;

    #[test]
    fn arithmetic_expands_by_itself() {
        let mut b = Graph::default().into_builder();
        let wide = Shape::new([3, 4]);
        let x = b.entry(wide.clone(), DType::F32, Source::Batch(0));
        let row = b.entry(Shape::new([3, 1]), DType::F32, Source::Batch(1));
        let ones = b.full(&wide, DType::F32, 1.0);
        // Both are the row for every column, and one of them is left where arithmetic needs the full shape.
        let spread = b.mul(&ones, &row);
        let expanded = b.expand(&row, &wide);
        let sum = b.add(&spread, &x);
        let difference = b.sub(&x, &expanded);
        let square = b.mul(&expanded, &spread);
        b.graph.outputs = vec![sum, difference, square];
        let graph = simplify(b.graph);
        let reads: Vec<Vec<usize>> = graph.operations.iter().map(|op| op.inputs().map(index).collect()).collect();
        let [x, row, spread] = [&x, &row, &spread].map(index);
        assert_eq!(reads, [vec![row], vec![row, x], vec![x, row], vec![row, spread]]);
    }
}
