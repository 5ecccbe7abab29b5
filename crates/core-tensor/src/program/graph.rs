//! The straight-line operation list behind a [`Program`](super::Program).
//!
//! A [`Graph`] is a list of Burn's own [`OperationIr`] in static single assignment form: every tensor has one dense id, is
//! written once and read any number of times. Rewrites (derivatives, simplification, later precision and bounds) are
//! functions from graph to graph; the executor knows nothing of them.

use burn::backend::ir::{
    ActivationOperationIr, BaseOperationIr, BinaryOpIr, DimOpIr, FloatOperationIr, FullOpIr, GatherOpIr, MaskFillOpIr,
    MaskWhereOpIr, NumericOperationIr, OperationIr, ReduceDimOpIr, ReduceOpIr, ScalarIr, ScalarOpIr, ShapeOpIr,
    TensorId, TensorIr, TensorStatus, UnaryOpIr,
};
use burn::tensor::{BoolStore, DType, Distribution, Shape, TensorData};

/// Where the value of a tensor that no operation computes comes from.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    /// Leaf `n` of the point.
    Point(usize),
    /// Tensor `n` of the batch, in the batch's own order.
    Batch(usize),
    /// Tensor `n` that the program holds: frozen parameters and running state.
    Buffer(usize),
    /// Value `n` kept from an earlier stage.
    Kept(usize),
    /// The cotangent of the output.
    Cotangent,
    /// Tangent of leaf `n` of the point.
    Direction(usize),
    /// Weights of the samples in the gradient of present leaf `n`; past the last leaf, which samples to keep.
    Weight(usize),
    /// A value fixed at recording.
    Constant(TensorData),
    /// A random tensor, drawn once per seed and replayed.
    Noise(Distribution),
}

/// A tensor that enters a graph.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub tensor: TensorIr,
    pub source: Source,
}

/// A straight-line program.
#[derive(Clone, Debug)]
pub(crate) struct Graph {
    pub entries: Vec<Entry>,
    pub operations: Vec<OperationIr>,
    pub outputs: Vec<TensorIr>,
    /// Number of tensor ids in use: ids are `0..tensors`.
    pub tensors: usize,
    /// Element type of the indices that rewrites introduce: the device's default.
    pub int: DType,
}

impl Default for Graph {
    fn default() -> Self {
        Graph { entries: Vec::new(), operations: Vec::new(), outputs: Vec::new(), tensors: 0, int: DType::I64 }
    }
}

/// Dense index of a tensor.
pub(crate) fn index(tensor: &TensorIr) -> usize {
    tensor.id.value() as usize
}

impl Graph {
    /// A builder that appends to this graph.
    pub fn into_builder(self) -> Builder {
        Builder { graph: self }
    }

    /// Short name of an operation, as in `Float(Tanh)`.
    pub fn operation_name(operation: &OperationIr) -> String {
        let text = format!("{operation:?}");
        let mut name = String::new();
        let mut depth = 0;
        for part in text.split_inclusive(['(', '{']) {
            let word = part.trim_end_matches(['(', '{', ' ']);
            let word = word.rsplit([' ', ',']).next().unwrap_or(word);
            if word.ends_with("OpIr") || part.ends_with('{') {
                break;
            }
            if depth > 0 {
                name.push('(');
            }
            name.push_str(word);
            depth += 1;
        }
        name + &")".repeat(depth.max(1) - 1)
    }
}

/// Appends operations to a graph, inferring output shapes.
pub(crate) struct Builder {
    pub graph: Graph,
}

type T = TensorIr;

macro_rules! numeric_binary {
    ($($name:ident => $variant:ident),* $(,)?) => { $(
        pub fn $name(&mut self, lhs: &T, rhs: &T) -> T {
            let out = self.tensor(broadcast(&lhs.shape, &rhs.shape), lhs.dtype);
            let desc = BinaryOpIr { lhs: lhs.clone(), rhs: rhs.clone(), out: out.clone() };
            self.push(OperationIr::NumericFloat(lhs.dtype, NumericOperationIr::$variant(desc)));
            out
        }
    )* };
}

macro_rules! numeric_scalar {
    ($($name:ident => $variant:ident),* $(,)?) => { $(
        pub fn $name(&mut self, lhs: &T, rhs: f64) -> T {
            let out = self.tensor(lhs.shape.clone(), lhs.dtype);
            let desc = ScalarOpIr { lhs: lhs.clone(), rhs: ScalarIr::Float(rhs), out: out.clone() };
            self.push(OperationIr::NumericFloat(lhs.dtype, NumericOperationIr::$variant(desc)));
            out
        }
    )* };
}

macro_rules! float_unary {
    ($($name:ident => $variant:ident),* $(,)?) => { $(
        pub fn $name(&mut self, input: &T) -> T {
            let out = self.tensor(input.shape.clone(), input.dtype);
            let desc = UnaryOpIr { input: input.clone(), out: out.clone() };
            self.push(OperationIr::Float(input.dtype, FloatOperationIr::$variant(desc)));
            out
        }
    )* };
}

macro_rules! numeric_unary {
    ($($name:ident => $variant:ident),* $(,)?) => { $(
        pub fn $name(&mut self, input: &T) -> T {
            let out = self.tensor(input.shape.clone(), input.dtype);
            let desc = UnaryOpIr { input: input.clone(), out: out.clone() };
            self.push(OperationIr::NumericFloat(input.dtype, NumericOperationIr::$variant(desc)));
            out
        }
    )* };
}

macro_rules! reduce_dim {
    ($($name:ident => $variant:ident),* $(,)?) => { $(
        pub fn $name(&mut self, input: &T, axis: usize) -> T {
            let mut shape = input.shape.clone();
            shape[axis] = 1;
            let out = self.tensor(shape, input.dtype);
            let desc = ReduceDimOpIr { input: input.clone(), out: out.clone(), axis, accumulator_len: 1 };
            self.push(OperationIr::NumericFloat(input.dtype, NumericOperationIr::$variant(desc)));
            out
        }
    )* };
}

macro_rules! compare_scalar {
    ($($name:ident => $variant:ident),* $(,)?) => { $(
        pub fn $name(&mut self, lhs: &T, rhs: f64) -> T {
            let out = self.tensor(lhs.shape.clone(), DType::Bool(BoolStore::Native));
            let desc = ScalarOpIr { lhs: lhs.clone(), rhs: ScalarIr::Float(rhs), out: out.clone() };
            self.push(OperationIr::NumericFloat(lhs.dtype, NumericOperationIr::$variant(desc)));
            out
        }
    )* };
}

macro_rules! activation_binary {
    ($($name:ident => $variant:ident),* $(,)?) => { $(
        pub fn $name(&mut self, lhs: &T, rhs: &T) -> T {
            let out = self.tensor(lhs.shape.clone(), lhs.dtype);
            let desc = BinaryOpIr { lhs: lhs.clone(), rhs: rhs.clone(), out: out.clone() };
            self.push(OperationIr::Activation(ActivationOperationIr::$variant(desc)));
            out
        }
    )* };
}

impl Builder {
    /// A fresh tensor.
    pub fn tensor(&mut self, shape: Shape, dtype: DType) -> T {
        let id = TensorId::new(self.graph.tensors as u64);
        self.graph.tensors += 1;
        TensorIr { id, shape, status: TensorStatus::ReadOnly, dtype }
    }

    /// A fresh tensor of the same shape and type.
    pub fn like(&mut self, tensor: &T) -> T {
        self.tensor(tensor.shape.clone(), tensor.dtype)
    }

    /// A fresh entry.
    pub fn entry(&mut self, shape: Shape, dtype: DType, source: Source) -> T {
        let tensor = self.tensor(shape, dtype);
        self.graph.entries.push(Entry { tensor: tensor.clone(), source });
        tensor
    }

    /// Appends an operation.
    pub fn push(&mut self, operation: OperationIr) {
        self.graph.operations.push(operation);
    }

    numeric_binary!(add => Add, sub => Sub, mul => Mul, div => Div);
    numeric_scalar!(add_scalar => AddScalar, mul_scalar => MulScalar, powi_scalar => PowiScalar);
    numeric_unary!(neg => Neg, abs => Abs, sign => Sign);
    float_unary!(
        exp => Exp, log => Log, sqrt => Sqrt, cos => Cos, sin => Sin, cosh => Cosh, sinh => Sinh, recip => Recip,
    );
    reduce_dim!(sum_dim => SumDim);
    compare_scalar!(lower_elem => LowerElem, greater_equal_elem => GreaterEqualElem,
        lower_equal_elem => LowerEqualElem);
    activation_binary!(relu_backward => ReluBackward, gelu_backward => GeluBackward, sigmoid_backward => SigmoidBackward,
        log_sigmoid_backward => LogSigmoidBackward);

    pub fn square(&mut self, x: &T) -> T {
        self.mul(x, x)
    }

    /// `1 - x`
    pub fn one_minus(&mut self, x: &T) -> T {
        let negative = self.neg(x);
        self.add_scalar(&negative, 1.0)
    }

    pub fn powf_scalar(&mut self, lhs: &T, rhs: f64) -> T {
        let out = self.like(lhs);
        let desc = ScalarOpIr { lhs: lhs.clone(), rhs: ScalarIr::Float(rhs), out: out.clone() };
        self.push(OperationIr::Float(lhs.dtype, FloatOperationIr::PowfScalar(desc)));
        out
    }

    pub fn powf(&mut self, lhs: &T, rhs: &T) -> T {
        let out = self.tensor(broadcast(&lhs.shape, &rhs.shape), lhs.dtype);
        let desc = BinaryOpIr { lhs: lhs.clone(), rhs: rhs.clone(), out: out.clone() };
        self.push(OperationIr::Float(lhs.dtype, FloatOperationIr::Powf(desc)));
        out
    }

    pub fn sum(&mut self, input: &T) -> T {
        let out = self.tensor(Shape::new([1]), input.dtype);
        let desc = ReduceOpIr { input: input.clone(), out: out.clone() };
        self.push(OperationIr::NumericFloat(input.dtype, NumericOperationIr::Sum(desc)));
        out
    }

    pub fn reshape(&mut self, input: &T, shape: &Shape) -> T {
        let out = self.tensor(shape.clone(), input.dtype);
        let desc = ShapeOpIr { input: input.clone(), out: out.clone() };
        self.push(if input.dtype.is_float() {
            OperationIr::BaseFloat(BaseOperationIr::Reshape(desc))
        } else {
            OperationIr::BaseInt(BaseOperationIr::Reshape(desc))
        });
        out
    }

    /// Broadcasts to `shape`; nothing is emitted where the shape is right already.
    pub fn expand(&mut self, input: &T, shape: &Shape) -> T {
        if input.shape == *shape {
            return input.clone();
        }
        let out = self.tensor(shape.clone(), input.dtype);
        let desc = ShapeOpIr { input: input.clone(), out: out.clone() };
        self.push(OperationIr::BaseFloat(BaseOperationIr::Expand(desc)));
        out
    }

    pub fn full(&mut self, shape: &Shape, dtype: DType, value: f64) -> T {
        let out = self.tensor(shape.clone(), dtype);
        let desc = FullOpIr { out: out.clone(), value: ScalarIr::Float(value) };
        self.push(OperationIr::NumericFloat(dtype, NumericOperationIr::Full(desc)));
        out
    }

    pub fn cumsum(&mut self, input: &T, axis: usize) -> T {
        let out = self.like(input);
        let desc = DimOpIr { input: input.clone(), out: out.clone(), axis };
        self.push(OperationIr::NumericFloat(input.dtype, NumericOperationIr::CumSum(desc)));
        out
    }

    pub fn sigmoid(&mut self, input: &T) -> T {
        let out = self.like(input);
        let desc = UnaryOpIr { input: input.clone(), out: out.clone() };
        self.push(OperationIr::Activation(ActivationOperationIr::Sigmoid(desc)));
        out
    }

    pub fn gather(&mut self, tensor: &T, dim: usize, indices: &T) -> T {
        let out = self.tensor(indices.shape.clone(), tensor.dtype);
        let desc = GatherOpIr { tensor: tensor.clone(), dim, indices: indices.clone(), out: out.clone() };
        self.push(OperationIr::BaseFloat(BaseOperationIr::Gather(desc)));
        out
    }

    /// Index of the largest (or smallest) element along `axis`.
    pub fn arg_extreme(&mut self, input: &T, axis: usize, largest: bool) -> T {
        let mut shape = input.shape.clone();
        shape[axis] = 1;
        let out = self.tensor(shape, self.graph.int);
        let desc = ReduceDimOpIr { input: input.clone(), out: out.clone(), axis, accumulator_len: 1 };
        self.push(OperationIr::NumericFloat(
            input.dtype,
            if largest { NumericOperationIr::ArgMax(desc) } else { NumericOperationIr::ArgMin(desc) },
        ));
        out
    }

    pub fn not_equal(&mut self, lhs: &T, rhs: &T) -> T {
        let out = self.tensor(lhs.shape.clone(), DType::Bool(BoolStore::Native));
        let desc = BinaryOpIr { lhs: lhs.clone(), rhs: rhs.clone(), out: out.clone() };
        self.push(OperationIr::BaseFloat(BaseOperationIr::NotEqual(desc)));
        out
    }

    pub fn mask_fill(&mut self, tensor: &T, mask: &T, value: f64) -> T {
        let out = self.like(tensor);
        let desc = MaskFillOpIr {
            tensor: tensor.clone(),
            mask: mask.clone(),
            value: ScalarIr::Float(value),
            out: out.clone(),
        };
        self.push(OperationIr::BaseFloat(BaseOperationIr::MaskFill(desc)));
        out
    }

    /// `value` where the mask holds, `tensor` elsewhere.
    pub fn mask_where(&mut self, tensor: &T, mask: &T, value: &T) -> T {
        let out = self.like(tensor);
        let desc = MaskWhereOpIr { tensor: tensor.clone(), mask: mask.clone(), value: value.clone(), out: out.clone() };
        self.push(OperationIr::BaseFloat(BaseOperationIr::MaskWhere(desc)));
        out
    }
}

/// Shape of an element-wise operation's result; equal ranks, each dimension equal or one.
fn broadcast(lhs: &Shape, rhs: &Shape) -> Shape {
    let mut shape = lhs.clone();
    for axis in 0..shape.num_dims().min(rhs.num_dims()) {
        if shape[axis] == 1 {
            shape[axis] = rhs[axis];
        }
    }
    shape
}
