//! A layer's share of the Gramian from its input and the tasks' gradients at its output, without a weight gradient.
//!
//! The gradient of a linear layer's weight is `Wᵢ = AᵀDᵢ`: inputs `A` of `n` positions by `in` features, the gradient of loss `i`
//! at the output `Dᵢ`, `n` by `out`. The inner product of two such gradients is
//!
//! $$⟨W_i, W_j⟩ = \mathrm{tr}(D_i^⊤ A A^⊤ D_j) = ⟨D_i, (A A^⊤) D_j⟩,$$
//!
//! so that the kernel `AAᵀ`, `n` by `n`, stands for the weight. A bias adds 1 to each of its entries. A convolution is the same with
//! the patches of the image for positions. The Gramian of a model is the sum over its layers; what TorchJD's `autogram` engine
//! computes (P. Quinton and V. Rey, "Jacobian Descent for Multi-Objective Optimization", 2024, arXiv:2406.16232, section 6), and the
//! norm of I. Goodfellow, "Efficient Per-Example Gradient Computations", 2015, arXiv:1510.01799, across tasks instead of examples.
//!
//! [`LayerwiseProgram`] does this for whole models, their bodies told layer by layer ([`Layerwise`]); the functions here are for gradients
//! that come from elsewhere.

mod layers;
mod program;

pub use layers::{Layers, Layerwise};
pub use program::{LayerwisePass, LayerwiseProgram};

use burn::tensor::module::unfold4d;
use burn::tensor::ops::UnfoldOptions;
use burn::tensor::{FloatDType, Tensor};

use crate::model::{ModelError, Result};

/// `⟨∂fᵢ/∂(W, b), ∂fⱼ/∂(W, b)⟩` for a linear layer, row by row: `m × m`.
///
/// `input` is `[…, in]` as the layer got it, `output_gradients` one `[…, out]` a task. Takes the cheaper of two exact ways, by their
/// number of multiplications: with the kernel `AAᵀ` (`n²(in + m·out)` of them, `n² + n·out` numbers in memory), or with the
/// weight's gradients (`m·n·in·out`, `m·in·out` numbers).
/// One host synchronisation a call.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use multitask::layerwise::linear_gramian;
///
/// let device = Device::default();
/// let input = Tensor::<2>::from_data([[1.0, 2.0]], &device);
/// let gradients = [Tensor::from_data([[1.0]], &device), Tensor::from_data([[-3.0]], &device)];
/// // Weight gradients (1, 2) and (−3, −6), bias gradients 1 and −3.
/// assert_eq!(linear_gramian(input, &gradients, true)?, [6.0, -18.0, -18.0, 54.0]);
/// # Ok::<(), multitask::ModelError>(())
/// ```
///
/// # Errors
/// [`ModelError::Parameter`] where the gradients' positions are not the input's.
pub fn linear_gramian<const D: usize>(
    input: Tensor<D>,
    output_gradients: &[Tensor<D>],
    bias: bool,
) -> Result<Vec<f64>> {
    let gradients = output_gradients.iter().map(|gradient| rows(gradient.clone())).collect();
    of_positions(rows(input), gradients, bias)
}

/// How a convolution walks over its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvShape {
    /// Height and width of the kernel.
    pub kernel: [usize; 2],
    /// Steps of the kernel.
    pub stride: [usize; 2],
    /// Zeros around the input.
    pub padding: [usize; 2],
    /// Distance of the kernel's elements.
    pub dilation: [usize; 2],
}

impl ConvShape {
    /// A kernel that moves by one, without padding.
    pub fn new(kernel: [usize; 2]) -> Self {
        Self { kernel, stride: [1, 1], padding: [0, 0], dilation: [1, 1] }
    }

    /// What a Burn layer does.
    ///
    /// # Errors
    /// [`ModelError::Parameter`] for grouped convolutions and for padding that differs between the sides.
    pub fn of(layer: &burn::nn::conv::Conv2d) -> Result<Self> {
        use burn::nn::PaddingConfig2d as P;
        if layer.groups != 1 {
            return Err(ModelError::parameter("groups", layer.groups as f64, "1 group"));
        }
        let padding = match layer.padding {
            P::Valid => [0, 0],
            P::Explicit(top, left, bottom, right) if top == bottom && left == right => [top, left],
            _ => {
                return Err(ModelError::parameter(
                    "padding",
                    f64::NAN,
                    "explicit and equal on opposite sides, or none",
                ));
            }
        };
        Ok(Self { kernel: layer.kernel_size, stride: layer.stride, padding, dilation: layer.dilation })
    }
}

/// The same for a two-dimensional convolution of one group.
///
/// `input` is `[n, channels, height, width]`, each gradient `[n, out, height', width']`. Every output pixel is a position, its patch the
/// position's input. Memory: the patches (`kernel` times the input) besides what [`linear_gramian`] needs.
///
/// # Errors
/// [`ModelError::Parameter`] where the gradients have not the shape of this convolution's output.
pub fn conv2d_gramian(
    input: Tensor<4>,
    output_gradients: &[Tensor<4>],
    shape: ConvShape,
    bias: bool,
) -> Result<Vec<f64>> {
    let options = UnfoldOptions::new(shape.stride, shape.padding, shape.dilation);
    let patches = unfold4d(input, shape.kernel, options);
    let gradients = output_gradients.iter().map(|gradient| {
        let [n, out, height, width] = gradient.dims();
        rows(gradient.clone().permute([0, 2, 3, 1]).reshape([n, height * width, out]))
    });
    of_positions(rows(patches.swap_dims(1, 2)), gradients.collect(), bias)
}

/// The representation's own Gramian `⟨∂fᵢ/∂z, ∂fⱼ/∂z⟩`: what MGDA-UB weighs by instead of the shared weights' one.
///
/// # Errors
/// [`ModelError::Parameter`] where the gradients differ in their positions.
pub fn representation_gramian<const D: usize>(gradients: &[Tensor<D>]) -> Result<Vec<f64>> {
    let gradients: Vec<Tensor<2>> = gradients.iter().map(|gradient| gradient.clone().reshape([1, -1])).collect();
    let Some(width) = gradients.first().map(|first| first.dims()[1]) else {
        return Ok(Vec::new());
    };
    if let Some(other) = gradients.iter().find(|other| other.dims()[1] != width) {
        return Err(ModelError::parameter("elements", other.dims()[1] as f64, "as many as in the first gradient"));
    }
    let all = widened(Tensor::cat(gradients, 0));
    Ok((all.clone().matmul(all.transpose())).into_data().iter::<f64>().collect())
}

fn of_positions(input: Tensor<2>, gradients: Vec<Tensor<2>>, bias: bool) -> Result<Vec<f64>> {
    let [n, features] = input.dims();
    let count = gradients.len();
    if let Some(other) = gradients.iter().find(|gradient| gradient.dims()[0] != n) {
        return Err(ModelError::parameter(
            "positions of a gradient",
            other.dims()[0] as f64,
            "as many as the input has",
        ));
    }
    let Some(out) = gradients.first().map(|first| first.dims()[1]) else {
        return Ok(Vec::new());
    };
    if n == 0 {
        return Ok(vec![0.0; count * count]);
    }
    let input = widened(input);
    let gradients: Vec<Tensor<2>> = gradients.into_iter().map(widened).collect();
    let flat = |tensors: Vec<Tensor<2>>| {
        Tensor::cat(tensors.into_iter().map(|tensor| tensor.reshape([1, -1])).collect::<Vec<Tensor<2>>>(), 0)
    };
    let (left, right) = match n * n * (features + count * out) < count * n * features * out {
        true => {
            let kernel = input.clone().matmul(input.transpose());
            let kernel = if bias { kernel + 1.0 } else { kernel };
            let moved = gradients.iter().map(|gradient| kernel.clone().matmul(gradient.clone())).collect();
            (flat(gradients), flat(moved))
        }
        false => {
            let turned = input.transpose();
            let weights = gradients.iter().map(|gradient| {
                let weight = turned.clone().matmul(gradient.clone());
                match bias {
                    true => Tensor::cat(vec![weight, gradient.clone().sum_dim(0)], 0),
                    false => weight,
                }
            });
            let weights = flat(weights.collect());
            (weights.clone(), weights)
        }
    };
    Ok(left.matmul(right.transpose()).into_data().iter::<f64>().collect())
}

/// All axes but the last as positions.
fn rows<const D: usize>(tensor: Tensor<D>) -> Tensor<2> {
    let dims = tensor.dims();
    let positions = dims[..D - 1].iter().product::<usize>();
    tensor.reshape([positions as i64, dims[D - 1] as i64])
}

/// Halves as `f32`, so that sums of squares stay in range.
fn widened(tensor: Tensor<2>) -> Tensor<2> {
    match FloatDType::from(tensor.dtype()) {
        FloatDType::F16 | FloatDType::BF16 => tensor.cast(FloatDType::F32),
        _ => tensor,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::module::Module;
    use burn::nn::conv::{Conv2d, Conv2dConfig};
    use burn::nn::{LinearConfig, PaddingConfig2d};
    use burn::tensor::{Device, Distribution};
    use core_tensor::testing::{host_devices, property};
    use core_tensor::{Program, Tree};

    /// The Gramian of exact rows, from one backward pass a task through the layer alone.
    fn exact<M: Module + Sync + 'static, const D: usize>(
        layer: &M,
        input: &Tensor<D>,
        gradients: &[Tensor<D>],
        forward: impl Fn(&M, &Tensor<D>) -> Tensor<D> + Send + Sync + 'static,
    ) -> Vec<f64> {
        let batch = (input.clone(), gradients.to_vec());
        let losses = move |layer: &M, (x, gradients): &(Tensor<D>, Vec<Tensor<D>>)| {
            let out = forward(layer, x);
            Tensor::cat(gradients.iter().map(|gradient| (out.clone() * gradient.clone()).sum()).collect(), 0)
        };
        let program = Program::record_first_order(layer, &batch, losses).unwrap();
        let (_, rows) = program.jacobian(&Tree::from_module(layer), &batch).unwrap();
        rows.iter().flat_map(|x| rows.iter().map(|y| x.dot(y).unwrap().value()).collect::<Vec<_>>()).collect()
    }

    fn close(a: &[f64], b: &[f64]) {
        let scale = b.iter().fold(1e-30f64, |a, b| a.max(b.abs()));
        assert_eq!(a.len(), b.len());
        assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 3e-6 * scale), "{a:?} and {b:?}");
    }

    fn random<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
        Tensor::random(shape, Distribution::Normal(0.0, 1.0), device)
    }

    #[test]
    fn linear_layers_give_the_gramian_of_their_rows_both_ways() {
        // From few positions and many features to the opposite: both branches.
        property(24, (1..12usize, 1..12usize, 1..6usize, 1..4usize, proptest::bool::ANY), |(n, from, to, m, bias)| {
            let device = Device::flex();
            let layer = LinearConfig::new(from, to).with_bias(bias).init(&device);
            let input = random([n, 2, from], &device);
            let gradients: Vec<_> = (0..m).map(|_| random([n, 2, to], &device)).collect();
            let expected = exact(&layer, &input, &gradients, |layer, x| layer.forward(x.clone()));
            close(&linear_gramian(input, &gradients, bias).unwrap(), &expected);
        });
    }

    #[test]
    fn convolutions_give_the_gramian_of_their_rows() {
        for device in host_devices() {
            for (channels, out, kernel, stride, padding) in [(2, 3, 3, 1, 1), (3, 2, 2, 2, 0), (1, 8, 3, 2, 1)] {
                let layer = Conv2dConfig::new([channels, out], [kernel, kernel])
                    .with_stride([stride, stride])
                    .with_padding(PaddingConfig2d::Explicit(padding, padding, padding, padding))
                    .init(&device);
                let input = random([2, channels, 6, 5], &device);
                let dims = layer.forward(input.clone()).dims();
                let gradients: Vec<_> = (0..3).map(|_| random(dims, &device)).collect();
                let expected = exact(&layer, &input, &gradients, |layer: &Conv2d, x| layer.forward(x.clone()));
                let shape = ConvShape::of(&layer).unwrap();
                close(&conv2d_gramian(input, &gradients, shape, true).unwrap(), &expected);
            }
        }
    }

    #[test]
    fn representations_and_odd_shapes() {
        let device = Device::flex();
        let x = Tensor::<2>::from_data([[1.0, 2.0], [0.0, 1.0]], &device);
        assert_eq!(representation_gramian(&[x.clone(), x.clone() * -2.0]).unwrap(), [6.0, -12.0, -12.0, 24.0]);
        assert_eq!(representation_gramian::<2>(&[]).unwrap(), [0.0; 0]);
        assert!(representation_gramian(&[x.clone(), Tensor::zeros([1, 1], &device)]).is_err());
        assert_eq!(linear_gramian::<2>(x.clone(), &[], true).unwrap(), [0.0; 0]);
        assert!(linear_gramian(x, &[Tensor::<2>::zeros([3, 1], &device)], true).is_err());
        let grouped = Conv2dConfig::new([2, 2], [1, 1]).with_groups(2).init(&device);
        assert!(ConvShape::of(&grouped).is_err());
    }
}
