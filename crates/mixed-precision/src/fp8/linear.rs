//! A linear layer in FP8.

use burn::module::{Content, DisplaySettings, Module, ModuleDisplay, Param};
use burn::nn::Linear;
use burn::tensor::Tensor;

use super::amax::Scaling;
use super::product::{Bilinear, product};
use super::recipe::Recipe;
use crate::error::Result;

/// Burn's [`Linear`] with its three products in FP8: `y = x̂·ŵ + b`, `∂x = ĝ·ŵᵀ`, `∂w = x̂ᵀ·ĝ`, where a hat is a rounding by the
/// [`Recipe`]: inputs and weights in its forward format, the output's gradient `g` in its backward format. The bias and its
/// gradient are not rounded.
///
/// Made of a [`Linear`], whose parameters it keeps under their names and ids: records of either load into the other, those of a
/// `Linear` into a layer with histories with `allow_partial(true)`. The histories are saved with the module (`scaling`), so that
/// training resumes bit for bit. They move in each forward pass of an input with autodiff, and the gradient's in each backward
/// pass; without autodiff (`model.valid()`) scales stay as they are. Clones share them until one is mapped, moved or loaded.
///
/// Cost: three matrix products a step, as `Linear`; beside them delayed scaling takes one pass over each operand, current scaling two,
/// the others two for each product. No host synchronisation on host backends; elsewhere each
/// rounding takes its operand to the host and back.
///
/// ```
/// use burn::nn::LinearConfig;
/// use burn::tensor::{Device, Tensor};
/// use mixed_precision::fp8::{Fp8Linear, Recipe};
///
/// let device = Device::flex();
/// let layer = Fp8Linear::new(LinearConfig::new(64, 32).init(&device), Recipe::current());
/// let y = layer.forward(Tensor::<3>::ones([2, 5, 64], &device))?;
/// assert_eq!(y.dims(), [2, 5, 32]);
/// # Ok::<(), mixed_precision::Error>(())
/// ```
#[derive(Module, Debug)]
#[module(custom_display)]
pub struct Fp8Linear {
    /// `[d_input, d_output]`.
    pub weight: Param<Tensor<2>>,
    /// `[d_output]`.
    pub bias: Option<Param<Tensor<1>>>,
    /// The histories of delayed scaling; none in other recipes.
    pub scaling: Option<Scaling>,
    #[module(skip)]
    recipe: Recipe,
}

impl Fp8Linear {
    /// A layer with the parameters of another, by a recipe.
    pub fn new(linear: Linear, recipe: Recipe) -> Self {
        let scaling = Scaling::new(&recipe, &linear.weight.val().device());
        Self { weight: linear.weight, bias: linear.bias, scaling, recipe }
    }

    /// The layer without FP8.
    pub fn into_linear(self) -> Linear {
        Linear { weight: self.weight, bias: self.bias }
    }

    /// The recipe.
    pub fn recipe(&self) -> Recipe {
        self.recipe
    }

    /// The output `[…, d_output]` of an input `[…, d_input]`.
    ///
    /// # Errors
    /// [`Error::UnsupportedDevice`](crate::Error::UnsupportedDevice) if the input is being recorded and has no elements yet.
    ///
    /// # Panics
    /// As [`Linear::forward`], if the last axis is not `d_input`.
    pub fn forward<const D: usize>(&self, input: Tensor<D>) -> Result<Tensor<D>> {
        let mut dims = input.dims();
        let (weight, bias) = (self.weight.val(), self.bias.as_ref().map(Param::val));
        let [d_input, d_output] = weight.dims();
        assert_eq!(dims[D - 1], d_input, "the last axis of the input is d_input");
        dims[D - 1] = d_output;
        let rows: usize = dims[..D - 1].iter().product();
        if rows * d_output == 0 {
            // Backends differ on products of nothing.
            return Ok(Tensor::zeros(dims, (&input.device(), input.dtype())));
        }
        let rows = input.reshape([rows, d_input]);
        let y = product(Matrices, self.recipe, self.scaling.as_ref(), rows, weight)?.reshape(dims);
        Ok(match bias {
            Some(bias) => y + bias.unsqueeze::<D>(),
            None => y,
        })
    }
}

/// `[n, k]·[k, m]`.
#[derive(Clone)]
struct Matrices;

impl Bilinear<2> for Matrices {
    fn product(&self, x: Tensor<2>, w: Tensor<2>) -> Tensor<2> {
        x.matmul(w)
    }

    fn input_gradient(&self, _x: Tensor<2>, w: Tensor<2>, g: Tensor<2>) -> Tensor<2> {
        g.matmul(w.transpose())
    }

    fn weight_gradient(&self, x: Tensor<2>, _w: Tensor<2>, g: Tensor<2>) -> Tensor<2> {
        x.transpose().matmul(g)
    }

    fn view(&self, [outer, middle]: [usize; 2]) -> [usize; 3] {
        [outer, middle, 1]
    }

    fn weight_tile(&self, recipe: &Recipe, view: [usize; 3], backward: bool) -> [usize; 3] {
        recipe.tile(view, usize::from(backward), true)
    }
}

impl ModuleDisplay for Fp8Linear {
    fn custom_settings(&self) -> Option<DisplaySettings> {
        DisplaySettings::new().with_new_line_after_attribute(false).optional()
    }

    fn custom_content(&self, content: Content) -> Option<Content> {
        let [d_input, d_output] = self.weight.shape().dims();
        let content = content.add("d_input", &d_input).add("d_output", &d_output);
        content.add("bias", &self.bias.is_some()).add_debug_attribute("recipe", &self.recipe).optional()
    }
}
