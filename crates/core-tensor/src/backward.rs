//! Operations with a backward pass of their own.
//!
//! ```
//! use burn::tensor::{Device, Tensor};
//! use core_tensor::backward::with_backward;
//!
//! // The identity forward, twice the gradient backward.
//! let x = Tensor::<1>::from_data([1.0, 2.0], &Device::flex().autodiff()).require_grad();
//! let value = x.clone().inner().into_dispatch();
//! let y = with_backward([x.clone().into_dispatch()], value, |gradient, _wanted| {
//!     let gradient = Tensor::<1>::from_dispatch(gradient);
//!     [Some((gradient * 2.0).into_dispatch())]
//! })
//! .expect("flex is compiled in");
//! let grads = Tensor::<1>::from_dispatch(y).sum().backward();
//! let grad: Vec<f64> = x.grad(&grads).unwrap().into_data().iter::<f64>().collect();
//! assert_eq!(grad, [2.0, 2.0]);
//! ```

use std::fmt;
use std::sync::Arc;

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::{BalancedCheckpointing, CheckpointStrategy, NoCheckpointing};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::{
    Autodiff, Backend, BackendTensor, BackendTypes, Capture, DispatchAutodiffContext, DispatchKindConversion,
    DispatchTensor, DispatchTensorKind, GradientCheckpointingStrategy,
};

type Tracked<B> = <Autodiff<B> as BackendTypes>::FloatTensorPrimitive;

/// `output`, a plain tensor computed from the plain values of `inputs`, as the result of one operation on them whose backward
/// pass is `backward`.
///
/// `backward` gets the gradient of the output and which inputs want theirs, and gives those, plain tensors of the inputs' shapes.
/// Inputs without autodiff are constants; if there is no other, the output is handed back as it is. Both checkpointing strategies
/// of Burn are served; what the closure holds stays in memory until the backward pass.
///
/// # Errors
/// The output as it was if its backend is none of those compiled in with this crate's features.
///
/// # Panics
/// In the backward pass, if `backward` leaves out a gradient that is wanted.
#[expect(clippy::result_large_err, reason = "the tensor is handed back")]
pub fn with_backward<const N: usize>(
    inputs: [DispatchTensor; N],
    output: DispatchTensor,
    backward: impl Fn(DispatchTensor, [bool; N]) -> [Option<DispatchTensor>; N] + Send + Sync + 'static,
) -> std::result::Result<DispatchTensor, DispatchTensor> {
    let mut strategies = inputs.iter().filter_map(|input| match input.autodiff {
        DispatchAutodiffContext::Enabled(strategy) => Some(strategy),
        DispatchAutodiffContext::Disabled => None,
    });
    let Some(strategy) = strategies.next_back() else {
        return Ok(output);
    };
    let rule = Rule(Arc::new(backward));
    match &output.kind {
        #[cfg(feature = "flex")]
        DispatchTensorKind::Flex(_) => Ok(on::<burn::backend::Flex, N>(inputs, output, rule, strategy)),
        #[cfg(feature = "ndarray")]
        #[allow(deprecated)] // Supported as long as Burn ships it.
        DispatchTensorKind::NdArray(_) => Ok(on::<burn::backend::NdArray, N>(inputs, output, rule, strategy)),
        #[cfg(any(feature = "wgpu", feature = "cuda"))]
        DispatchTensorKind::Cube(_) => Ok(on::<burn::backend::Cube, N>(inputs, output, rule, strategy)),
        DispatchTensorKind::Capture(_) => Ok(on::<Capture, N>(inputs, output, rule, strategy)),
        _ => Err(output),
    }
}

type Function<const N: usize> = dyn Fn(DispatchTensor, [bool; N]) -> [Option<DispatchTensor>; N] + Send + Sync;

#[derive(Clone)]
struct Rule<const N: usize>(Arc<Function<N>>);

impl<const N: usize> fmt::Debug for Rule<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Rule")
    }
}

fn on<B: Backend, const N: usize>(
    inputs: [DispatchTensor; N],
    output: DispatchTensor,
    rule: Rule<N>,
    strategy: GradientCheckpointingStrategy,
) -> DispatchTensor
where
    DispatchTensor: DispatchKindConversion<B>
        + DispatchKindConversion<Autodiff<B, NoCheckpointing>>
        + DispatchKindConversion<Autodiff<B, BalancedCheckpointing>>,
{
    match strategy {
        GradientCheckpointingStrategy::Disabled => record::<B, NoCheckpointing, N>(inputs, output, rule),
        GradientCheckpointingStrategy::Balanced => record::<B, BalancedCheckpointing, N>(inputs, output, rule),
    }
}

fn record<B: Backend, C: CheckpointStrategy, const N: usize>(
    inputs: [DispatchTensor; N],
    output: DispatchTensor,
    rule: Rule<N>,
) -> DispatchTensor
where
    DispatchTensor: DispatchKindConversion<B> + DispatchKindConversion<Autodiff<B, C>>,
{
    let inputs = inputs.map(|input| match input.autodiff {
        DispatchAutodiffContext::Enabled(_) => tracked::<B, C>(input),
        DispatchAutodiffContext::Disabled => Tracked::<B>::new(plain::<B>(input)),
    });
    let nodes = inputs.each_ref().map(|input| input.node());
    let output = plain::<B>(output);
    let output = match Custom.prepare::<C>(nodes).compute_bound().stateful() {
        OpsKind::Tracked(prepared) => prepared.finish(rule, output),
        OpsKind::UnTracked(prepared) => prepared.finish(output),
    };
    <DispatchTensor as DispatchKindConversion<Autodiff<B, C>>>::from_backend(BackendTensor::Float(output))
}

fn tracked<B: Backend, C: CheckpointStrategy>(tensor: DispatchTensor) -> Tracked<B>
where
    DispatchTensor: DispatchKindConversion<Autodiff<B, C>>,
{
    match <DispatchTensor as DispatchKindConversion<Autodiff<B, C>>>::try_into_backend(tensor) {
        Ok(BackendTensor::Float(tensor)) => tensor,
        Ok(_) => panic!("the inputs of an operation are floats"),
        Err(why) => panic!("inputs and output of an operation are on one backend: {why}"),
    }
}

fn plain<B: Backend>(tensor: DispatchTensor) -> B::FloatTensorPrimitive
where
    DispatchTensor: DispatchKindConversion<B>,
{
    match <DispatchTensor as DispatchKindConversion<B>>::try_into_backend(tensor) {
        Ok(tensor) => tensor.float(),
        Err(why) => panic!("inputs, output and gradients of an operation are on one backend: {why}"),
    }
}

#[derive(Debug)]
struct Custom;

impl<B: Backend, const N: usize> Backward<B, N> for Custom
where
    DispatchTensor: DispatchKindConversion<B>,
{
    type State = Rule<N>;

    fn backward(self, ops: Ops<Rule<N>, N>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let gradient = BackendTensor::Float(grads.consume::<B>(&ops.node));
        let gradient = <DispatchTensor as DispatchKindConversion<B>>::from_backend(gradient);
        let found = (ops.state.0)(gradient, ops.parents.each_ref().map(Option::is_some));
        for (parent, found) in ops.parents.into_iter().zip(found) {
            if let Some(parent) = parent {
                let found = found.expect("a gradient for every input that wants one");
                grads.register::<B>(parent.id, plain::<B>(found));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, Tensor};

    /// `x·w` with gradients `3·g·w` and `5·g·x`.
    fn product(x: &Tensor<1>, w: &Tensor<1>) -> Tensor<1> {
        let (a, b) = (x.clone().inner(), w.clone().inner());
        let value = a.clone() * b.clone();
        let inputs = [x.clone().into_dispatch(), w.clone().into_dispatch()];
        let y = with_backward(inputs, value.into_dispatch(), move |gradient, wanted| {
            let gradient = Tensor::<1>::from_dispatch(gradient);
            [
                wanted[0].then(|| (gradient.clone() * b.clone() * 3.0).into_dispatch()),
                wanted[1].then(|| (gradient * a.clone() * 5.0).into_dispatch()),
            ]
        });
        Tensor::from_dispatch(y.unwrap())
    }

    fn values(x: Tensor<1>) -> Vec<f64> {
        x.into_data().iter::<f64>().collect()
    }

    #[test]
    fn gradients_are_those_of_the_rule_within_a_longer_chain() {
        for device in crate::testing::host_devices() {
            for strategy in [GradientCheckpointingStrategy::Disabled, GradientCheckpointingStrategy::Balanced] {
                let leaf = |data: [f32; 2]| {
                    let leaf = Tensor::<1>::from_data(data, &device.clone().autodiff());
                    leaf.with_gradient_checkpointing_strategy(strategy).require_grad()
                };
                let (x, w) = (leaf([1.0, 2.0]), leaf([3.0, 4.0]));
                let y = product(&(x.clone() * 2.0), &w) * 10.0;
                assert_eq!(values(y.clone()), [60.0, 160.0]);
                let grads = y.sum().backward();
                assert_eq!(values(x.grad(&grads).unwrap()), [2.0 * 30.0 * 3.0, 2.0 * 30.0 * 4.0]);
                assert_eq!(values(w.grad(&grads).unwrap()), [50.0 * 2.0, 50.0 * 4.0]);
            }
        }
    }

    #[test]
    fn constants_want_no_gradient() {
        let device = Device::flex();
        let plain = Tensor::<1>::from_data([3.0], &device);
        let leaf = Tensor::<1>::from_data([2.0], &device.autodiff()).require_grad();
        let grads = product(&leaf, &plain).sum().backward();
        assert_eq!(values(leaf.grad(&grads).unwrap()), [9.0]);
        let grads = product(&leaf.clone().detach(), &leaf).sum().backward();
        assert_eq!(values(leaf.grad(&grads).unwrap()), [10.0]);
        let none = product(&plain, &plain);
        assert!(!none.is_autodiff());
        assert_eq!(values(none), [9.0]);
    }
}
