//! Bodies that say where their linear layers and convolutions are.

use burn::module::ParamId;
use burn::nn::conv::{Conv1d, Conv2d};
use burn::nn::pool::{AdaptiveAvgPool2d, AvgPool2d, MaxPool2d};
use burn::nn::{Dropout, Gelu, GroupNorm, LayerNorm, Linear, Relu, Sigmoid, Tanh};
use burn::tensor::Tensor;

use super::ConvShape;
use crate::model::Forward;

/// A body whose forward pass hands its [`Linear`] layers and convolutions to [`Layers`].
///
/// Implemented for the layers that [`Forward`] is, and for tuples of them. For a module of your own repeat its forward pass with
/// `layers.linear(&self.hidden, x)` for `self.hidden.forward(x)`; a layer that is called in the plain way, like any other parameter, is
/// right too, but its gradient is formed.
///
/// ```
/// use burn::{module::Module, nn::{Linear, LinearConfig}, tensor::{Device, Tensor, activation::relu}};
/// use multitask::Forward;
/// use multitask::layerwise::{Layers, Layerwise};
///
/// #[derive(Module, Debug)]
/// struct Body { first: Linear, second: Linear }
///
/// impl Forward<Tensor<2>> for Body {
///     type Output = Tensor<2>;
///     fn forward(&self, x: Tensor<2>) -> Tensor<2> {
///         self.forward_layerwise(x, &mut Layers::plain())
///     }
/// }
///
/// impl Layerwise<Tensor<2>> for Body {
///     fn forward_layerwise(&self, x: Tensor<2>, layers: &mut Layers) -> Tensor<2> {
///         let x = relu(layers.linear(&self.first, x));
///         layers.linear(&self.second, x)
///     }
/// }
///
/// let device = Device::default();
/// let body = Body { first: LinearConfig::new(3, 4).init(&device), second: LinearConfig::new(4, 2).init(&device) };
/// assert_eq!(Forward::forward(&body, Tensor::<2>::ones([5, 3], &device)).dims(), [5, 2]);
/// ```
pub trait Layerwise<I>: Forward<I> {
    /// The forward pass, layer by layer. It calls the same layers in the same order every time.
    fn forward_layerwise(&self, input: I, layers: &mut Layers) -> Self::Output;
}

/// What a [`Layerwise`] forward pass tells its layers to.
pub struct Layers(Mode);

enum Mode {
    /// Nobody listens.
    Plain,
    /// Which layers there are.
    Look(Vec<Call>),
    /// For each call whether its output gets a tap; the taps left, and the inputs of the layers that got one.
    Tap { tapped: Vec<bool>, call: usize, taps: std::vec::IntoIter<Tensor<1>>, inputs: Vec<Tensor<1>> },
}

/// A layer's call in a forward pass.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub weight: ParamId,
    pub bias: Option<ParamId>,
    pub kind: Kind,
    /// Shapes of input and output.
    pub input: Vec<usize>,
    pub output: Vec<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Linear,
    Conv(ConvShape),
}

impl Layers {
    /// Every layer just runs.
    pub fn plain() -> Self {
        Self(Mode::Plain)
    }

    pub(super) fn looking() -> Self {
        Self(Mode::Look(Vec::new()))
    }

    pub(super) fn tapping(tapped: Vec<bool>, taps: Vec<Tensor<1>>) -> Self {
        Self(Mode::Tap { tapped, call: 0, taps: taps.into_iter(), inputs: Vec::new() })
    }

    /// The calls of a pass that looked for them.
    pub(super) fn into_calls(self) -> Vec<Call> {
        match self.0 {
            Mode::Look(calls) => calls,
            _ => Vec::new(),
        }
    }

    /// The inputs of tapped layers, flat.
    pub(super) fn into_inputs(self) -> Vec<Tensor<1>> {
        match self.0 {
            Mode::Tap { inputs, .. } => inputs,
            _ => Vec::new(),
        }
    }

    /// A linear layer.
    pub fn linear<const D: usize>(&mut self, layer: &Linear, input: Tensor<D>) -> Tensor<D> {
        let bias = layer.bias.as_ref().map(|bias| bias.id);
        self.call(layer.weight.id, bias, Some(Kind::Linear), input, |input| layer.forward(input))
    }

    /// A two-dimensional convolution.
    pub fn conv2d(&mut self, layer: &Conv2d, input: Tensor<4>) -> Tensor<4> {
        let (bias, kind) = (layer.bias.as_ref().map(|bias| bias.id), ConvShape::of(layer).ok().map(Kind::Conv));
        self.call(layer.weight.id, bias, kind, input, |input| layer.forward(input))
    }

    fn call<const D: usize>(
        &mut self,
        weight: ParamId,
        bias: Option<ParamId>,
        kind: Option<Kind>,
        input: Tensor<D>,
        forward: impl FnOnce(Tensor<D>) -> Tensor<D>,
    ) -> Tensor<D> {
        let Some(kind) = kind else { return forward(input) };
        match &mut self.0 {
            Mode::Plain => forward(input),
            Mode::Look(calls) => {
                let dims = input.dims().to_vec();
                let output = forward(input);
                calls.push(Call { weight, bias, kind, input: dims, output: output.dims().to_vec() });
                output
            }
            Mode::Tap { tapped, call, taps, inputs } => {
                *call += 1;
                match tapped.get(*call - 1) {
                    Some(true) => {
                        // Only read: no gradient comes back this way.
                        inputs.push(input.clone().detach().reshape([-1]));
                        let output = forward(input);
                        let tap = taps.next().expect("a tap for each call that has one").reshape(output.dims());
                        output + tap
                    }
                    _ => forward(input),
                }
            }
        }
    }
}

impl<const D: usize> Layerwise<Tensor<D>> for Linear {
    fn forward_layerwise(&self, input: Tensor<D>, layers: &mut Layers) -> Tensor<D> {
        layers.linear(self, input)
    }
}

impl Layerwise<Tensor<4>> for Conv2d {
    fn forward_layerwise(&self, input: Tensor<4>, layers: &mut Layers) -> Tensor<4> {
        layers.conv2d(self, input)
    }
}

macro_rules! any_rank {
    ($($layer:ty),+) => {$(
        impl<const D: usize> Layerwise<Tensor<D>> for $layer {
            fn forward_layerwise(&self, input: Tensor<D>, _layers: &mut Layers) -> Tensor<D> {
                <$layer>::forward(self, input)
            }
        }
    )+};
}
any_rank!(LayerNorm, GroupNorm, Dropout, Relu, Gelu, Sigmoid, Tanh);

macro_rules! one_rank {
    ($($rank:literal $layer:ty),+) => {$(
        impl Layerwise<Tensor<$rank>> for $layer {
            fn forward_layerwise(&self, input: Tensor<$rank>, _layers: &mut Layers) -> Tensor<$rank> {
                <$layer>::forward(self, input)
            }
        }
    )+};
}
one_rank!(4 MaxPool2d, 4 AvgPool2d, 4 AdaptiveAvgPool2d, 3 Conv1d);

macro_rules! tuples {
    ($(($($stage:ident $field:tt $from:ty),+) -> $last:ty;)+) => {$(
        impl<X, $($stage: Layerwise<$from>),+> Layerwise<X> for ($($stage,)+) {
            fn forward_layerwise(&self, input: X, layers: &mut Layers) -> $last {
                $(let input = self.$field.forward_layerwise(input, layers);)+
                input
            }
        }
    )+};
}
tuples! {
    (A 0 X, B 1 A::Output) -> B::Output;
    (A 0 X, B 1 A::Output, C 2 B::Output) -> C::Output;
    (A 0 X, B 1 A::Output, C 2 B::Output, D 3 C::Output) -> D::Output;
    (A 0 X, B 1 A::Output, C 2 B::Output, D 3 C::Output, E 4 D::Output) -> E::Output;
    (A 0 X, B 1 A::Output, C 2 B::Output, D 3 C::Output, E 4 D::Output, F 5 E::Output) -> F::Output;
}
