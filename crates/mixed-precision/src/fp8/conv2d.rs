//! A two-dimensional convolution in FP8.

use burn::backend::Dispatch;
use burn::backend::ops::ModuleOps;
use burn::module::{Content, DisplaySettings, Module, ModuleDisplay, Param};
use burn::nn::PaddingConfig2d;
use burn::nn::conv::Conv2d;
use burn::tensor::Tensor;
use burn::tensor::module::{conv2d, conv2d_weight_backward};
use burn::tensor::ops::ConvOptions;

use super::amax::Scaling;
use super::product::{Bilinear, product};
use super::recipe::Recipe;
use crate::error::Result;

/// Burn's [`Conv2d`] with the convolution and its two gradients in FP8, as [`Fp8Linear`](super::Fp8Linear) has its products.
///
/// What shares a scale in the recipes that are not per tensor, with `x` of `[batch, channel, position]`:
///
/// | | in the convolution and the input's gradient | in the weight's gradient |
/// |---|---|---|
/// | per row | one sample of the input or gradient; the weights of one output channel (in the input's gradient: of one input channel of a group) | one channel |
/// | per block | 128 channels at one position; 128 × 128 channels at one position of the kernel | one channel of one sample |
///
/// They are what an implicit matrix product can take: a scale does not change within what it sums over, or only from block to block.
///
/// ```
/// use burn::nn::conv::Conv2dConfig;
/// use burn::tensor::{Device, Tensor};
/// use mixed_precision::fp8::{Fp8Conv2d, Recipe};
///
/// let device = Device::flex();
/// let layer = Fp8Conv2d::new(Conv2dConfig::new([3, 8], [3, 3]).init(&device), Recipe::delayed());
/// let y = layer.forward(Tensor::<4>::ones([2, 3, 12, 12], &device))?;
/// assert_eq!(y.dims(), [2, 8, 10, 10]);
/// # Ok::<(), mixed_precision::Error>(())
/// ```
#[derive(Module, Debug)]
#[module(custom_display)]
pub struct Fp8Conv2d {
    /// `[channels_out, channels_in / groups, kernel_size_1, kernel_size_2]`.
    pub weight: Param<Tensor<4>>,
    /// `[channels_out]`.
    pub bias: Option<Param<Tensor<1>>>,
    /// The histories of delayed scaling; none in other recipes.
    pub scaling: Option<Scaling>,
    /// Stride of the convolution.
    pub stride: [usize; 2],
    /// Size of the kernel.
    pub kernel_size: [usize; 2],
    /// Spacing between kernel elements.
    pub dilation: [usize; 2],
    /// Groups of channels.
    pub groups: usize,
    /// The padding.
    #[module(skip)]
    pub padding: PaddingConfig2d,
    #[module(skip)]
    recipe: Recipe,
}

impl Fp8Conv2d {
    /// A layer with the parameters of another, by a recipe.
    pub fn new(conv: Conv2d, recipe: Recipe) -> Self {
        let scaling = Scaling::new(&recipe, &conv.weight.val().device());
        let Conv2d { weight, bias, stride, kernel_size, dilation, groups, padding } = conv;
        Self { weight, bias, scaling, stride, kernel_size, dilation, groups, padding, recipe }
    }

    /// The layer without FP8.
    pub fn into_conv2d(self) -> Conv2d {
        let Self { weight, bias, stride, kernel_size, dilation, groups, padding, .. } = self;
        Conv2d { weight, bias, stride, kernel_size, dilation, groups, padding }
    }

    /// The recipe.
    pub fn recipe(&self) -> Recipe {
        self.recipe
    }

    /// The output `[batch, channels_out, height, width]` of an input `[batch, channels_in, height, width]`.
    ///
    /// # Errors
    /// [`Error::UnsupportedDevice`](crate::Error::UnsupportedDevice) if the input is being recorded and has no elements yet.
    ///
    /// # Panics
    /// As [`Conv2d::forward`], if the channels do not fit.
    pub fn forward(&self, input: Tensor<4>) -> Result<Tensor<4>> {
        let [_, _, height, width] = input.dims();
        let padding = [self.pad(0, height), self.pad(1, width)];
        let options = ConvOptions::new_with_padding(self.stride, padding, self.dilation, self.groups);
        let y = product(Convolution(options), self.recipe, self.scaling.as_ref(), input, self.weight.val())?;
        Ok(match &self.bias {
            Some(bias) => {
                let bias = bias.val();
                let channels = bias.dims()[0];
                y + bias.reshape([1, channels, 1, 1])
            }
            None => y,
        })
    }

    /// Padding before and behind, as [`Conv2d`] computes it.
    fn pad(&self, axis: usize, size: usize) -> (usize, usize) {
        match self.padding {
            PaddingConfig2d::Valid => (0, 0),
            PaddingConfig2d::Same => {
                let (stride, kernel) = (self.stride[axis], self.kernel_size[axis]);
                let total = (size.div_ceil(stride).max(1) - 1) * stride + kernel;
                let total = total.saturating_sub(size);
                (total / 2, total - total / 2)
            }
            PaddingConfig2d::Explicit(top, left, bottom, right) => [(top, bottom), (left, right)][axis],
        }
    }
}

#[derive(Clone)]
struct Convolution(ConvOptions<2>);

impl Bilinear<4> for Convolution {
    fn product(&self, x: Tensor<4>, w: Tensor<4>) -> Tensor<4> {
        conv2d(x, w, None, self.0.clone())
    }

    fn input_gradient(&self, x: Tensor<4>, w: Tensor<4>, g: Tensor<4>) -> Tensor<4> {
        let [x, w, g] = [x, w, g].map(Tensor::into_dispatch);
        Tensor::from_dispatch(Dispatch::conv2d_x_backward(x, w, g, self.0.clone()))
    }

    fn weight_gradient(&self, x: Tensor<4>, w: Tensor<4>, g: Tensor<4>) -> Tensor<4> {
        conv2d_weight_backward(x, w, g, self.0.clone())
    }

    fn view(&self, [outer, middle, height, width]: [usize; 4]) -> [usize; 3] {
        [outer, middle, height * width]
    }

    fn weight_tile(&self, recipe: &Recipe, view: [usize; 3], backward: bool) -> [usize; 3] {
        let [outer, middle, inner] = recipe.tile(view, usize::from(!backward), true);
        // The input's gradient sums over the output channels of a group.
        let outer = if outer == view[0] && middle == 1 { (outer / self.0.groups).max(1) } else { outer };
        [outer, middle, inner]
    }
}

impl ModuleDisplay for Fp8Conv2d {
    fn custom_settings(&self) -> Option<DisplaySettings> {
        DisplaySettings::new().with_new_line_after_attribute(false).optional()
    }

    fn custom_content(&self, content: Content) -> Option<Content> {
        let [channels_out, in_group, _, _] = self.weight.dims();
        let content = content.add("ch_in", &(in_group * self.groups)).add("ch_out", &channels_out);
        let content =
            content.add_debug_attribute("stride", &self.stride).add_debug_attribute("kernel_size", &self.kernel_size);
        let content = content.add_debug_attribute("dilation", &self.dilation).add("groups", &self.groups);
        let content = content.add_debug_attribute("padding", &self.padding);
        content.add_debug_attribute("recipe", &self.recipe).optional()
    }
}
