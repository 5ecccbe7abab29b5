//! Which operations run in 16 bits: PyTorch's autocast lists, for recorded programs.
//!
//! | class | operations |
//! |---|---|
//! | low | matrix products, linear layers, convolutions and transposed ones, forward and backward; attention; so the cells of recurrent layers, which are linear layers |
//! | full (`f32`) | powers, exponential, logarithms, `1/x`, softmax and its like, normalisation, sums, means, products, cumulative ones, scatters that add, losses, inverse and hyperbolic functions |
//! | promote | all others: the widest type of the operands |
//!
//! Burn records most losses and norms as the operations they are made of, which the lists then class one by one. What differs from
//! PyTorch: means are `f32` ones too (PyTorch's accumulate in `f32` and round), biases' gradients are summed in `f32`.
//!
//! ```
//! use burn::nn::LinearConfig;
//! use burn::tensor::{Device, Distribution, Tensor};
//! use core_tensor::{Program, Tree};
//! use mixed_precision::autocast;
//!
//! let device = Device::default();
//! let model = LinearConfig::new(3, 2).init(&device);
//! let x = Tensor::<2>::random([8, 3], Distribution::Default, &device);
//! let program = Program::record(&model, &x, |model, x| model.forward(x.clone()).square().mean())?;
//! let mixed = program.autocast(&autocast::bf16());
//! let out = mixed.value_and_grad(&Tree::from_module(&model), &x)?;
//! println!("{}", mixed.autocast_report(&Tree::from_module(&model), &x)?.expect("an autocast program"));
//! # let _ = out;
//! # Ok::<(), core_tensor::Error>(())
//! ```

use burn::backend::ir::{
    ActivationOperationIr, BaseOperationIr, FloatOperationIr, ModuleOperationIr, NumericOperationIr, OperationIr,
};
use burn::tensor::{FloatDType, IndexingUpdateOp};
use core_tensor::{Autocast, Precision};

/// Autocast to `bf16` by PyTorch's lists. No loss scaling needed: the range is that of `f32`.
pub fn bf16() -> Autocast {
    Autocast::new(FloatDType::BF16, precision).expect("a 16-bit type")
}

/// Autocast to `f16` by PyTorch's lists, to be used with loss scaling.
pub fn f16() -> Autocast {
    Autocast::new(FloatDType::F16, precision).expect("a 16-bit type")
}

/// The class of an operation; for rules of one's own, which ask it for what they do not decide.
///
/// ```
/// use burn::backend::ir::OperationIr;
/// use burn::tensor::FloatDType;
/// use core_tensor::{Autocast, Precision};
/// use mixed_precision::autocast;
///
/// // As PyTorch, but layers and convolutions in f32.
/// let products_only = Autocast::new(FloatDType::BF16, |operation| match operation {
///     OperationIr::Module(_) => Precision::Full,
///     other => autocast::precision(other),
/// })?;
/// # let _ = products_only;
/// # Ok::<(), core_tensor::Error>(())
/// ```
pub fn precision(operation: &OperationIr) -> Precision {
    match operation {
        OperationIr::Float(_, op) => float(op),
        OperationIr::NumericFloat(_, op) => numeric(op),
        OperationIr::Module(op) => module(op),
        OperationIr::Activation(op) => activation(op),
        OperationIr::BaseFloat(op) => base(op),
        _ => Precision::Promote,
    }
}

fn float(op: &FloatOperationIr) -> Precision {
    use FloatOperationIr as F;
    match op {
        F::Matmul(_) => Precision::Low,
        F::Exp(_) | F::Log(_) | F::Log1p(_) | F::Powf(_) | F::PowfScalar(_) | F::Recip(_) => Precision::Full,
        F::Tan(_) | F::Cosh(_) | F::Sinh(_) | F::ArcCos(_) | F::ArcSin(_) | F::ArcTan(_) => Precision::Full,
        F::ArcCosh(_) | F::ArcSinh(_) | F::ArcTanh(_) | F::Hypot(_) => Precision::Full,
        _ => Precision::Promote,
    }
}

fn numeric(op: &NumericOperationIr) -> Precision {
    use NumericOperationIr as N;
    match op {
        N::Powi(_) | N::PowiScalar(_) => Precision::Full,
        N::Sum(_) | N::SumDim(_) | N::SumDims(_) | N::Mean(_) | N::MeanDim(_) => Precision::Full,
        N::Prod(_) | N::ProdDim(_) | N::CumSum(_) | N::CumProd(_) => Precision::Full,
        _ => Precision::Promote,
    }
}

fn base(op: &BaseOperationIr) -> Precision {
    use BaseOperationIr as B;
    let update = match op {
        B::Scatter(d) => d.update,
        B::ScatterNd(d) => d.reduction,
        B::SelectAssign(d) => d.update,
        _ => return Precision::Promote,
    };
    match update {
        IndexingUpdateOp::Add | IndexingUpdateOp::Mul => Precision::Full,
        _ => Precision::Promote,
    }
}

fn activation(op: &ActivationOperationIr) -> Precision {
    use ActivationOperationIr as A;
    match op {
        A::Softmax(_) | A::LogSoftmax(_) | A::Softmin(_) | A::LogSigmoid(_) | A::LogSigmoidBackward(_) => {
            Precision::Full
        }
        _ => Precision::Promote,
    }
}

fn module(op: &ModuleOperationIr) -> Precision {
    use ModuleOperationIr as M;
    match op {
        M::Linear(_) | M::LinearXBackward(_) | M::LinearWeightBackward(_) => Precision::Low,
        M::Conv1d(_) | M::Conv1dXBackward(_) | M::Conv1dWeightBackward(_) => Precision::Low,
        M::Conv2d(_) | M::Conv2dXBackward(_) | M::Conv2dWeightBackward(_) => Precision::Low,
        M::Conv3d(_) | M::Conv3dXBackward(_) | M::Conv3dWeightBackward(_) => Precision::Low,
        M::ConvTranspose1d(_) | M::ConvTranspose1dWeightBackward(_) => Precision::Low,
        M::ConvTranspose2d(_) | M::ConvTranspose2dWeightBackward(_) => Precision::Low,
        M::ConvTranspose3d(_) | M::ConvTranspose3dWeightBackward(_) => Precision::Low,
        M::DeformableConv2d(_) | M::DeformableConv2dBackward(_) | M::Attention(_) => Precision::Low,
        // Sums over the batch.
        M::LinearBiasBackward(_) | M::Conv1dBiasBackward(_) | M::Conv2dBiasBackward(_) => Precision::Full,
        M::Conv3dBiasBackward(_) | M::ConvTranspose1dBiasBackward(_) => Precision::Full,
        M::ConvTranspose2dBiasBackward(_) | M::ConvTranspose3dBiasBackward(_) => Precision::Full,
        M::EmbeddingBackward(_) => Precision::Full,
        M::LayerNorm(_) | M::BatchNorm(_) | M::CtcLoss(_) | M::CtcLossBackward(_) => Precision::Full,
        _ => Precision::Promote,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::backend::ir::{
        BinaryOpIr, LinearOpIr, MatmulOpIr, ReduceOpIr, ScalarIr, ScalarOpIr, SelectAssignOpIr, TensorId, TensorIr,
        TensorStatus, UnaryOpIr,
    };
    use burn::module::Module;
    use burn::nn::{LayerNorm, LayerNormConfig, Linear, LinearConfig};
    use burn::tensor::{DType, Shape, Tensor, activation};
    use core_tensor::testing::host_devices;
    use core_tensor::{Program, Tree};

    fn tensor() -> TensorIr {
        let (id, shape) = (TensorId::new(0), Shape::new([2, 2]));
        TensorIr { id, shape, status: TensorStatus::ReadOnly, dtype: DType::F32 }
    }

    fn unary() -> UnaryOpIr {
        UnaryOpIr { input: tensor(), out: tensor() }
    }

    fn binary() -> BinaryOpIr {
        BinaryOpIr { lhs: tensor(), rhs: tensor(), out: tensor() }
    }

    #[test]
    fn the_lists_are_those_of_pytorch() {
        use FloatOperationIr as F;
        use NumericOperationIr as N;
        let float = |op| OperationIr::Float(DType::F32, op);
        let numeric = |op| OperationIr::NumericFloat(DType::F32, op);
        let product = MatmulOpIr { lhs: tensor(), rhs: tensor(), out: tensor() };
        let layer = LinearOpIr { x: tensor(), weight: tensor(), bias: None, out: tensor() };
        for low in [float(F::Matmul(product)), OperationIr::Module(ModuleOperationIr::Linear(layer))] {
            assert_eq!(precision(&low), Precision::Low, "{low:?}");
        }
        let power = ScalarOpIr { lhs: tensor(), rhs: ScalarIr::Float(2.0), out: tensor() };
        let scatter = |update| {
            let (tensor, indices, value, out) = (tensor(), tensor(), tensor(), tensor());
            OperationIr::BaseFloat(BaseOperationIr::SelectAssign(SelectAssignOpIr {
                tensor,
                dim: 0,
                indices,
                value,
                update,
                out,
            }))
        };
        for full in [
            float(F::Exp(unary())),
            float(F::Log(unary())),
            float(F::Log1p(unary())),
            float(F::Recip(unary())),
            float(F::PowfScalar(power.clone())),
            numeric(N::PowiScalar(power.clone())),
            numeric(N::Sum(ReduceOpIr { input: tensor(), out: tensor() })),
            numeric(N::Prod(ReduceOpIr { input: tensor(), out: tensor() })),
            OperationIr::Activation(ActivationOperationIr::LogSigmoid(unary())),
            scatter(IndexingUpdateOp::Add),
        ] {
            assert_eq!(precision(&full), Precision::Full, "{full:?}");
        }
        for promote in [
            numeric(N::Add(binary())),
            numeric(N::Div(binary())),
            numeric(N::MulScalar(power)),
            numeric(N::Neg(unary())),
            float(F::Tanh(unary())),
            float(F::Sqrt(unary())),
            OperationIr::Activation(ActivationOperationIr::Relu(unary())),
            OperationIr::Activation(ActivationOperationIr::Gelu(unary())),
            scatter(IndexingUpdateOp::Assign),
        ] {
            assert_eq!(precision(&promote), Precision::Promote, "{promote:?}");
        }
    }

    #[derive(Module, Debug)]
    struct Net {
        first: Linear,
        norm: LayerNorm,
        second: Linear,
    }

    #[test]
    fn layers_are_low_and_what_is_between_is_as_precise_as_it_needs() {
        for device in host_devices() {
            let net = Net {
                first: LinearConfig::new(4, 8).init(&device),
                norm: LayerNormConfig::new(8).init(&device),
                second: LinearConfig::new(8, 3).init(&device),
            };
            let x = Tensor::<2>::ones([5, 4], &device);
            let program = Program::record(&net, &x, |net: &Net, x: &Tensor<2>| {
                let h = net.second.forward(net.norm.forward(activation::relu(net.first.forward(x.clone()))));
                activation::log_softmax(h, 1).slice_dim(1, 0..1).mean().neg()
            })
            .unwrap();
            for by in [bf16(), f16()] {
                let mixed = program.autocast(&by);
                let report = mixed.autocast_report(&Tree::from_module(&net), &x).unwrap().unwrap();
                assert_eq!(report.low, by.low());
                assert_eq!(report.low_operations, 5, "two products forward, three backward: {report}");
                assert!(report.full_operations > 5 && report.promoted_low > 0, "{report}");
                let out = mixed.value_and_grad(&Tree::from_module(&net), &x).unwrap();
                assert_eq!(out.value.dtype(), DType::F32);
            }
        }
    }
}
