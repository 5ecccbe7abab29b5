//! Dividing by the loss scale: multiply, check and measure in one pass, and as a transform in a chain.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use burn::tensor::Tensor;
use burn::tensor::{bf16, f16};
use core_tensor::host::{self, SliceMut, vectorised};
use core_tensor::transform::{Context, GradientTransform, State, Update};
use core_tensor::{Scalar, Tree};
use rayon::prelude::*;

use crate::error::Result;
use crate::loss_scale::{LossScale, Step, Unscaled};
use crate::memory::{CHUNK, PARALLEL, Wide, with_slice};

/// A loss scale as a handle: the loop scales the loss with it, a chain unscales the gradient.
///
/// ```
/// use burn::nn::LinearConfig;
/// use burn::optim::AdamWConfig;
/// use burn::tensor::{Device, Tensor};
/// use core_tensor::Chain;
/// use mixed_precision::{LossScale, SharedLossScale};
///
/// let device = Device::flex().autodiff();
/// let model = LinearConfig::new(3, 1).init(&device);
/// let scale = SharedLossScale::new(LossScale::dynamic());
/// let mut train = Chain::new().then(scale.unscale()).before(AdamWConfig::new().init());
/// let loss = model.forward(Tensor::<2>::ones([4, 3], &device)).mean();
/// let outcome = train.step(1e-3, model, scale.scale_loss(loss))?;
/// assert!(outcome.report().is_some());
/// # Ok::<(), core_tensor::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct SharedLossScale(Arc<Mutex<LossScale>>);

/// Unscales the gradient, skips it if it is not finite, and updates the scale: the first of a chain, made by
/// [`SharedLossScale::unscale`].
///
/// Loss and gradient norm in the trainer's report are the scaled ones. Cost as [`LossScale::unscale`].
#[derive(Clone, Debug)]
pub struct Unscale(SharedLossScale);

impl SharedLossScale {
    /// A handle on a loss scale.
    pub fn new(scale: LossScale) -> Self {
        Self(Arc::new(Mutex::new(scale)))
    }

    /// The loss times the scale, to be differentiated.
    pub fn scale_loss<const D: usize>(&self, loss: Tensor<D>) -> Tensor<D> {
        self.lock().scale_loss(loss)
    }

    /// The scale as it is now.
    pub fn get(&self) -> LossScale {
        self.lock().clone()
    }

    /// The transform that goes first in the chain. One only: each updates the scale.
    pub fn unscale(&self) -> Unscale {
        Unscale(self.clone())
    }

    fn lock(&self) -> MutexGuard<'_, LossScale> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl GradientTransform for Unscale {
    fn name(&self) -> &str {
        "unscale"
    }

    fn apply(&mut self, grads: Tree, _context: &Context<'_>) -> core_tensor::Result<Update> {
        let mut scale = self.0.lock();
        let unscaled = scale.unscale(self.name(), grads)?;
        let update = match scale.step(self.name(), || unscaled.grads)? {
            Step::Stepped(grads) => Update::Apply(grads),
            Step::Skipped { why } => Update::Skip { why },
        };
        scale.update()?;
        Ok(update)
    }

    fn state(&self) -> State {
        self.0.lock().state()
    }

    fn load_state(&mut self, state: State) -> core_tensor::Result<()> {
        Ok(self.0.lock().load_state(state)?)
    }
}

/// An element that is unscaled and measured.
trait Scaled: Wide {
    /// 0, or NaN for what is not finite.
    fn check(self) -> f32;
    fn scale(self, inverse: f32) -> Self;
}

macro_rules! scaled {
    ($type:ty, $check:expr, $scale:expr) => {
        impl Scaled for $type {
            #[inline(always)]
            fn check(self) -> f32 {
                $check(self)
            }
            #[inline(always)]
            fn scale(self, inverse: f32) -> Self {
                $scale(self, inverse)
            }
        }
    };
}

scaled!(f64, |x: f64| (x * 0.0) as f32, |x: f64, s: f32| x * f64::from(s));
scaled!(f32, |x: f32| x * 0.0, |x: f32, s: f32| x * s);
// Products of these are exact in f64 and so rounded once.
scaled!(f16, |x: f16| x.to_f32() * 0.0, |x: f16, s: f32| f16::from_f64(x.to_f64() * f64::from(s)));
scaled!(bf16, |x: bf16| x.to_f32() * 0.0, |x: bf16, s: f32| bf16::from_f64(x.to_f64() * f64::from(s)));

/// Independent accumulators within a chunk: enough that additions need not wait for each other.
const LANES: usize = 32;

/// `inverse · grads`, whether `grads` was finite, and the norm of the result.
pub(crate) fn unscale(grads: Tree, inverse: f32) -> Result<Unscaled> {
    if !grads.iter().all(|(_, leaf)| host::is_host(leaf)) {
        let finite = grads.is_finite();
        let grads = grads.scale(f64::from(inverse));
        return Ok(Unscaled { norm: grads.norm(), finite: finite.value() == 1.0, grads });
    }
    let device = grads.device();
    let (mut finite, mut squares) = (true, 0.0);
    let grads = grads.map(|_, leaf| match host::update(leaf, |x| with_slice!(SliceMut, x, x => pass(x, inverse))) {
        Ok((leaf, found)) => {
            finite &= found.finite;
            squares += found.squares;
            leaf
        }
        Err(_) => unreachable!("every leaf is one of the host"),
    })?;
    let norm = match squares > 1e-270 && squares < f64::INFINITY {
        true => device.map_or(Scalar::from(squares.sqrt()), |device| Scalar::from_value(squares.sqrt(), &device)),
        // Out of the range of sums of squares of f64, or zero.
        false => grads.norm(),
    };
    Ok(Unscaled { grads, finite, norm })
}

#[derive(Clone, Copy)]
struct Found {
    finite: bool,
    squares: f64,
}

/// In place, in an order that does not depend on the number of threads.
fn pass<E: Scaled>(x: &mut [E], inverse: f32) -> Found {
    let run = |x: &mut [E]| {
        vectorised(
            #[inline(always)]
            || {
                let (mut check, mut squares) = ([0.0; LANES], [0.0; LANES]);
                let (groups, rest) = x.as_chunks_mut::<LANES>();
                for group in groups {
                    for i in 0..LANES {
                        check[i] += group[i].check();
                        group[i] = group[i].scale(inverse);
                        squares[i] += group[i].wide() * group[i].wide();
                    }
                }
                for (i, x) in rest.iter_mut().enumerate() {
                    check[i] += x.check();
                    *x = x.scale(inverse);
                    squares[i] += x.wide() * x.wide();
                }
                Found { finite: check.iter().all(|c| *c == 0.0), squares: squares.iter().sum() }
            },
        )
    };
    let found: Vec<Found> = match x.len() < PARALLEL {
        true => x.chunks_mut(CHUNK).map(run).collect(),
        false => x.par_chunks_mut(CHUNK).map(run).collect(),
    };
    let join = |a: Found, b: &Found| Found { finite: a.finite && b.finite, squares: a.squares + b.squares };
    found.iter().fold(Found { finite: true, squares: 0.0 }, join)
}

#[cfg(test)]
mod conformance {
    use super::*;
    core_tensor::transform_conformance!(dynamic, || SharedLossScale::new(LossScale::dynamic()).unscale());
    core_tensor::transform_conformance!(fixed, || SharedLossScale::new(LossScale::fixed(3.0).unwrap()).unscale());
}

#[cfg(test)]
mod tests {
    use super::*;
    use core_tensor::testing::{Trees, assert_same_bits, property};

    #[test]
    fn one_pass_is_scale_check_and_norm() {
        for trees in [Trees::new(), Trees::new().non_finite()] {
            property(60, trees.exponents(-6..=6).several(1), |trees| {
                for inverse in [1.0, 0.3, 1.0 / 65536.0] {
                    let tree = trees[0].clone();
                    let (scaled, finite) = (tree.clone().scale(f64::from(inverse)), tree.is_finite().value() == 1.0);
                    let found = unscale(tree, inverse).unwrap();
                    assert_same_bits(&found.grads, &scaled);
                    assert_eq!(found.finite, finite);
                    let (got, want) = (found.norm.value(), scaled.norm().value());
                    assert!(got == want || (got - want).abs() <= 1e-12 * want || (got.is_nan() && want.is_nan()));
                }
            });
        }
    }

    #[test]
    fn finite_numbers_that_sum_to_infinity_are_finite() {
        for device in core_tensor::testing::host_devices() {
            let x = Tensor::<1>::full([(1 << 17) + 3], 3e38f32, &device);
            let found = unscale(Tree::empty().push("w", x.clone()).unwrap(), 1.0).unwrap();
            assert!(found.finite);
            assert!((found.norm.value() / (f64::from(3e38f32) * ((1 << 17) as f64 + 3.0).sqrt()) - 1.0).abs() < 1e-12);
            let x = Tensor::cat(vec![x, Tensor::from_data([f32::NEG_INFINITY], &device)], 0);
            assert!(!unscale(Tree::empty().push("w", x).unwrap(), 1.0).unwrap().finite);
            let tiny = Tensor::<1>::from_data(
                burn::tensor::TensorData::from([1e-200f64]),
                (&device, burn::tensor::DType::F64),
            );
            let norm = unscale(Tree::empty().push("w", tiny).unwrap(), 0.5).unwrap().norm.value();
            assert!((norm / 5e-201 - 1.0).abs() < 1e-12);
        }
    }

    #[test]
    fn the_handle_sees_what_the_chain_does() {
        let scale = SharedLossScale::new(LossScale::dynamic());
        let mut unscale = scale.unscale();
        let device = burn::tensor::Device::flex();
        let grads = |x: f32| Tree::empty().push("w", Tensor::<1>::from_data([x], &device)).unwrap();
        let context = Context::new(0);
        match unscale.apply(grads(65536.0), &context).unwrap() {
            Update::Apply(tree) => assert_eq!(tree.norm().value(), 1.0),
            Update::Skip { why } => panic!("{why}"),
        }
        let Update::Skip { why } = unscale.apply(grads(f32::NAN), &context).unwrap() else { panic!("not skipped") };
        assert_eq!(why, "the gradient is not finite at the loss scale 65536");
        assert_eq!(scale.get().scale(), 32768.0);
    }
}
