//! A product of two tensors whose operands are FP8 in the forward and in the backward pass.

use burn::tensor::{Device, Tensor};
use core_tensor::backward::with_backward;

use super::amax::{AmaxHistory, Scaling};
use super::recipe::Recipe;
use super::tiles::{Tiles, round_tiles, round_whole};
use crate::error::{Error, Result};
use crate::format::Format;

/// A bilinear operation `y = x·w` with its two adjoints, and how its tensors look to a [`Recipe`].
pub(crate) trait Bilinear<const D: usize>: Clone + Send + Sync + 'static {
    fn product(&self, x: Tensor<D>, w: Tensor<D>) -> Tensor<D>;
    /// `∂⟨g, x·w⟩/∂x`; of `x` the shape counts.
    fn input_gradient(&self, x: Tensor<D>, w: Tensor<D>, g: Tensor<D>) -> Tensor<D>;
    /// `∂⟨g, x·w⟩/∂w`; of `w` the shape counts.
    fn weight_gradient(&self, x: Tensor<D>, w: Tensor<D>, g: Tensor<D>) -> Tensor<D>;
    /// A tensor as `[outer, middle, inner]`.
    fn view(&self, dims: [usize; D]) -> [usize; 3];
    /// What of a weight shares a scale, in the product or (`backward`) in the gradient of the input.
    fn weight_tile(&self, recipe: &Recipe, view: [usize; 3], backward: bool) -> [usize; 3];
}

/// An operand on its way from the forward pass to a product of the backward pass.
#[derive(Clone)]
struct Operand<const D: usize> {
    value: Tensor<D>,
    /// How it has yet to be rounded; `None` if it is.
    rounding: Option<Rounding>,
}

#[derive(Clone)]
struct Rounding {
    recipe: Recipe,
    format: Format,
    tiles: Tiles,
    /// The history that gives the scale.
    history: Option<AmaxHistory>,
    /// Whether the step counts.
    training: bool,
}

impl Rounding {
    fn apply<const D: usize>(&self, x: Tensor<D>) -> Result<Tensor<D>> {
        let Some(history) = &self.history else {
            return round_tiles(x, self.recipe, self.format, self.tiles);
        };
        let (x, amax) = round_whole(x, self.format, history.scale())?;
        if self.training {
            history.record(amax, &self.recipe, self.format);
        }
        Ok(x)
    }
}

impl<const D: usize> Operand<D> {
    /// Rounded for the forward pass, and as the backward pass wants it: the same if it is rounded alike.
    fn new(value: Tensor<D>, forward: Rounding, backward: Tiles) -> Result<(Tensor<D>, Self)> {
        let rounded = forward.apply(value.clone())?;
        let later = match forward.history.is_some() || forward.tiles == backward {
            true => Self { value: rounded.clone(), rounding: None },
            false => Self { value, rounding: Some(Rounding { tiles: backward, ..forward }) },
        };
        Ok((rounded, later))
    }

    fn get(&self) -> Tensor<D> {
        match &self.rounding {
            Some(rounding) => host(rounding.apply(self.value.clone())),
            None => self.value.clone(),
        }
    }
}

/// In the backward pass: the forward pass has found the tensors on the host.
fn host<const D: usize>(rounded: Result<Tensor<D>>) -> Tensor<D> {
    rounded.unwrap_or_else(|error| panic!("the forward pass ran on the host: {error}"))
}

/// The product of the rounded operands, its gradients those of rounded operands too.
pub(crate) fn product<const D: usize>(
    operation: impl Bilinear<D>,
    recipe: Recipe,
    scaling: Option<&Scaling>,
    x: Tensor<D>,
    w: Tensor<D>,
) -> Result<Tensor<D>> {
    let training = x.is_autodiff();
    let (x_view, w_view) = (operation.view(x.dims()), operation.view(w.dims()));
    let rounding = |format, view, tile, history: Option<&AmaxHistory>| Rounding {
        recipe,
        format,
        tiles: Tiles::new(view, tile),
        history: history.cloned(),
        training,
    };
    let x_rounding = rounding(recipe.forward, x_view, recipe.tile(x_view, 1, false), scaling.map(|s| &s.input));
    let w_tile = |backward| operation.weight_tile(&recipe, w_view, backward);
    let w_rounding = rounding(recipe.forward, w_view, w_tile(false), scaling.map(|s| &s.weight));
    let x_later = Tiles::new(x_view, recipe.tile(x_view, 0, false));
    let (x_now, x_later) = Operand::new(x.clone().without_autodiff(), x_rounding, x_later)?;
    let w_later = Tiles::new(w_view, w_tile(true));
    let (w_now, w_later) = Operand::new(w.clone().without_autodiff(), w_rounding, w_later)?;
    let y = operation.product(x_now, w_now);
    if !training && !w.is_autodiff() {
        return Ok(y);
    }
    let g_view = operation.view(y.dims());
    let tile = |sum| recipe.tile(g_view, sum, false);
    let g_input = rounding(recipe.backward, g_view, tile(1), scaling.map(|s| &s.gradient));
    let g_weight = Rounding { tiles: Tiles::new(g_view, tile(0)), ..g_input.clone() };
    let once = g_input.history.is_some() || g_input.tiles == g_weight.tiles;
    let inputs = [x.into_dispatch(), w.into_dispatch()];
    let y = with_backward(inputs, y.into_dispatch(), move |gradient, [input, weight]| {
        let g = Tensor::<D>::from_dispatch(gradient);
        let (x, w) = (x_later.value.clone(), w_later.value.clone());
        let (for_input, for_weight) = match once {
            true => {
                let g = host(g_input.apply(g));
                (input.then(|| g.clone()), weight.then_some(g))
            }
            false => (input.then(|| host(g_input.apply(g.clone()))), weight.then(|| host(g_weight.apply(g)))),
        };
        [
            for_input.map(|g| operation.input_gradient(x.clone(), w_later.get(), g).into_dispatch()),
            for_weight.map(|g| operation.weight_gradient(x_later.get(), w.clone(), g).into_dispatch()),
        ]
    });
    let y = y.map_err(|y| Error::device(&Device::new(burn::backend::TensorMetadata::device(&y)), recipe.forward))?;
    Ok(Tensor::from_dispatch(y))
}
