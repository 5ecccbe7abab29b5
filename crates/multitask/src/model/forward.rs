//! Layers, bodies and heads under one name.

use burn::module::{Module, ModuleDisplay};
use burn::nn::conv::{Conv1d, Conv2d};
use burn::nn::pool::{AdaptiveAvgPool2d, AvgPool2d, MaxPool2d};
use burn::nn::{Dropout, Gelu, GroupNorm, LayerNorm, Linear, Relu, Sigmoid, Tanh};
use burn::tensor::Tensor;

/// A module with one forward pass: what a body, a head, an expert or a stage must be.
///
/// Burn's layers have a `forward` each and no trait in common; here they get one. Implemented for the layers that most
/// bodies and heads are made of and for tuples, which run their parts one after another. For a module of your own:
///
/// ```
/// use burn::{module::Module, nn::{Linear, LinearConfig}, tensor::{Device, Tensor, activation::relu}};
/// use multitask::Forward;
///
/// #[derive(Module, Debug)]
/// struct Body { hidden: Linear }
///
/// impl Forward<Tensor<2>> for Body {
///     type Output = Tensor<2>;
///     fn forward(&self, x: Tensor<2>) -> Tensor<2> {
///         relu(self.hidden.forward(x))
///     }
/// }
///
/// let device = Device::default();
/// let body = (Body { hidden: LinearConfig::new(3, 8).init(&device) }, LinearConfig::new(8, 2).init(&device));
/// assert_eq!(Forward::forward(&body, Tensor::<2>::ones([5, 3], &device)).dims(), [5, 2]);
/// ```
pub trait Forward<I>: Module + ModuleDisplay {
    /// What comes out.
    type Output;

    /// The forward pass.
    fn forward(&self, input: I) -> Self::Output;
}

macro_rules! any_rank {
    ($($layer:ty),+) => {$(
        impl<const D: usize> Forward<Tensor<D>> for $layer {
            type Output = Tensor<D>;
            fn forward(&self, input: Tensor<D>) -> Tensor<D> {
                <$layer>::forward(self, input)
            }
        }
    )+};
}
any_rank!(Linear, LayerNorm, GroupNorm, Dropout, Relu, Gelu, Sigmoid, Tanh);

macro_rules! images {
    ($($layer:ty),+) => {$(
        impl Forward<Tensor<4>> for $layer {
            type Output = Tensor<4>;
            fn forward(&self, input: Tensor<4>) -> Tensor<4> {
                <$layer>::forward(self, input)
            }
        }
    )+};
}
images!(Conv2d, MaxPool2d, AvgPool2d, AdaptiveAvgPool2d);

impl Forward<Tensor<3>> for Conv1d {
    type Output = Tensor<3>;
    fn forward(&self, input: Tensor<3>) -> Tensor<3> {
        Conv1d::forward(self, input)
    }
}

impl<X, A: Forward<X>, B: Forward<A::Output>> Forward<X> for (A, B) {
    type Output = B::Output;
    fn forward(&self, input: X) -> Self::Output {
        let input = self.0.forward(input);
        self.1.forward(input)
    }
}

impl<X, A: Forward<X>, B: Forward<A::Output>, C: Forward<B::Output>> Forward<X> for (A, B, C) {
    type Output = C::Output;
    fn forward(&self, input: X) -> Self::Output {
        let input = self.0.forward(input);
        let input = self.1.forward(input);
        self.2.forward(input)
    }
}

impl<X, A: Forward<X>, B: Forward<A::Output>, C: Forward<B::Output>, D: Forward<C::Output>> Forward<X>
    for (A, B, C, D)
{
    type Output = D::Output;
    fn forward(&self, input: X) -> Self::Output {
        let input = self.0.forward(input);
        let input = self.1.forward(input);
        let input = self.2.forward(input);
        self.3.forward(input)
    }
}

impl<X, A: Forward<X>, B: Forward<A::Output>, C: Forward<B::Output>, D: Forward<C::Output>, E: Forward<D::Output>>
    Forward<X> for (A, B, C, D, E)
{
    type Output = E::Output;
    fn forward(&self, input: X) -> Self::Output {
        let input = self.0.forward(input);
        let input = self.1.forward(input);
        let input = self.2.forward(input);
        let input = self.3.forward(input);
        self.4.forward(input)
    }
}

impl<
    X,
    A: Forward<X>,
    B: Forward<A::Output>,
    C: Forward<B::Output>,
    D: Forward<C::Output>,
    E: Forward<D::Output>,
    F: Forward<E::Output>,
> Forward<X> for (A, B, C, D, E, F)
{
    type Output = F::Output;
    fn forward(&self, input: X) -> Self::Output {
        let input = self.0.forward(input);
        let input = self.1.forward(input);
        let input = self.2.forward(input);
        let input = self.3.forward(input);
        let input = self.4.forward(input);
        self.5.forward(input)
    }
}
