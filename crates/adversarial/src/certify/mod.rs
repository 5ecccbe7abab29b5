//! Certificates: proofs that no allowed perturbation changes a prediction.
//!
//! | certificate | of | take |
//! |---|---|---|
//! | bounds through the network, deterministic | networks of the operations below, small to medium | [`Verifier`] |
//! | training a network that has good ones | the same | [`CertifiedTraining`] |
//! | smoothing, with a confidence | any classifier, in `L2`, for its smoothed version | [`Smoothing`] |

mod array;
mod crown;
mod function;
mod ibp;
mod network;
mod region;
mod smoothed;
mod training;

use burn::backend::ops::{BoolTensorOps, FloatTensorOps, IntTensorOps};
use burn::backend::{Dispatch, DispatchTensor, TensorMetadata};
use burn::module::Module;
use burn::tensor::{DType, Int, Tensor};
use core_tensor::{Frozen, Origin, Program, Trace, Tree, batch_tensors};

use self::array::Array;
use self::crown::{Relaxation, units};
use self::function::Function;
use self::ibp::{Interval, Propagation, roundoff};
use self::network::{Network, Op};
use self::region::Region;
use crate::error::{Error, Result};
use crate::threat::Threat;

pub use smoothed::{Smoothed, Smoothing};
pub use training::{CertifiedLoss, CertifiedTraining, RampUp, Stage};

/// How bounds are found: each is tighter and dearer than the one before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Method {
    /// Interval bound propagation: about three forward passes.
    Ibp,
    /// One linear bound from the outputs back to the inputs, over intervals from interval bound propagation.
    CrownIbp,
    /// The same with intervals from linear bounds of their own.
    #[default]
    Crown,
}

/// Whether rounding counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Rounding {
    /// Bounds are moved outward by more than all rounding: they hold for the network as it is evaluated.
    #[default]
    Outward,
    /// Bounds hold in exact arithmetic and are off by their own rounding.
    Ignored,
}

/// Lower and upper bounds of a network's outputs over all allowed inputs, `[examples, outputs]`.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// No allowed input gives less.
    pub lower: Tensor<2>,
    /// No allowed input gives more.
    pub upper: Tensor<2>,
}

/// Lower bounds of the margins `z_y − z_j` over all allowed inputs.
#[derive(Clone, Debug)]
pub struct Margins {
    /// `[examples, classes]`, zero for the class itself.
    pub lower: Tensor<2>,
    /// The least margin to another class, one an example.
    pub worst: Vec<f64>,
    /// Whether it is above zero: the prediction is right and no allowed input changes it.
    pub certified: Vec<bool>,
}

impl Margins {
    /// The share of certified examples.
    pub fn certified_accuracy(&self) -> f64 {
        self.certified.iter().filter(|certified| **certified).count() as f64 / self.certified.len() as f64
    }
}

/// The function that is verified.
pub(crate) type Recorded<M, const D: usize> = Program<(Tensor<D>, Frozen<M>)>;

/// Bounds of a network's outputs, found from a recording of it.
///
/// The network is recorded as it infers: dropout is off, batch norm uses its running statistics, whatever flags the model has. It must give
/// `[examples, outputs]` for inputs whose first axis is the examples, and treat each example by itself. Other numbers of examples are
/// recorded when first met.
///
/// # Operations with bounds
/// Linear layers, matrix products with fixed matrices, convolutions in one and two dimensions, batch norm, average pooling, maximum
/// pooling, additions (residual connections), products with fixed tensors and of two tensors, sums and means over other axes than the
/// first, reshape, permute, slice, flip, pad, cat, and the activations ReLU, leaky and parametric ReLU, tanh, sigmoid, GELU, SiLU, ELU,
/// softplus, hard sigmoid, log-sigmoid, clamp, exp, square and abs. Anything else is [`Error::NoBound`], which names it.
///
/// # Guarantees
/// - With [`Rounding::Outward`] the bounds hold for the network's outputs as computed, in whatever order sums are taken, on a backend
///   whose additions and products round correctly and whose activations are within 8 units in the last place. The width this costs grows
///   with the number of terms in a sum, some `2·10⁻⁴` of `Σ|w||x|` for 784 of them in `f32` (`bounds_contain_corners_and_samples`).
/// - [`Method::Crown`] and [`Method::CrownIbp`] are nowhere looser than [`Method::Ibp`] (`crown_is_nowhere_looser`).
/// - Bounds of [`Method::Ibp`] grow with the radius (`ibp_grows_with_the_radius`). Those of CROWN need not: its slopes are chosen by the
///   intervals.
/// - On a linear model margins are exact up to the slack for `Linf`, and for `L2` and `L1` balls that the box does not cut
///   (`linear_models_are_exact`).
/// - No attack breaks what is certified (`what_is_certified_is_not_broken`).
///
/// # Cost
/// Interval bound propagation takes three forward passes with rounding ignored, five with it. A linear bound takes one pass back for
/// `2k` specifications, `k` the outputs, `2·k·n·w` numbers in memory for `n` examples and `w` the widest tensor. [`Method::Crown`] does that
/// for every activation whose sign is open (all of them, if they are not piecewise linear) and takes them in turns where they are
/// more than 64 MiB: its time grows with the square of the width. One host synchronisation a call, and one an activation layer.
///
/// ```
/// use adversarial::{Method, Norm, Threat, Verifier};
/// use burn::nn::LinearConfig;
/// use burn::tensor::{Device, Int, Tensor, activation};
///
/// let device = Device::flex();
/// let model = (LinearConfig::new(4, 8).init(&device), LinearConfig::new(8, 3).init(&device));
/// let x = Tensor::<2>::from_data([[0.1, 0.9, 0.5, 0.3]], &device);
/// let forward = |model: &(_, _), x| -> Tensor<2> {
///     let (first, second): &(burn::nn::Linear, burn::nn::Linear) = model;
///     second.forward(activation::relu(first.forward(x)))
/// };
/// let y: Tensor<1, Int> = forward(&model, x.clone()).argmax(1).squeeze_dim(1);
///
/// let verifier = Verifier::record(&model, &x, forward)?;
/// let threat = Threat::new(Norm::Linf, 0.001)?;
/// let margins = verifier.margins(Method::Crown, &x, &y, &threat)?;
/// let bounds = verifier.bounds(Method::Ibp, &x, &threat)?;
/// println!("{:?}: {} to {}", margins.certified, bounds.lower, bounds.upper);
/// # Ok::<(), adversarial::Error>(())
/// ```
pub struct Verifier<M: Module, const D: usize> {
    program: Recorded<M, D>,
    model: M,
    rounding: Rounding,
}

impl<M: Module + Sync + 'static, const D: usize> Verifier<M, D> {
    /// Records `forward` for inputs like these.
    ///
    /// # Errors
    /// [`Error::Core`] if it cannot be recorded, [`Error::NoBound`] for an operation without bounds, [`Error::Shape`] without examples.
    pub fn record(
        model: &M,
        inputs: &Tensor<D>,
        forward: impl Fn(&M, Tensor<D>) -> Tensor<2> + Send + Sync + 'static,
    ) -> Result<Self> {
        let model = model.valid();
        let program = record(&model, inputs, forward)?;
        let verifier = Verifier { program, model, rounding: Rounding::default() };
        verifier.network(&inputs.clone().inner())?;
        Ok(verifier)
    }

    /// The same with rounding counted or not.
    #[must_use]
    pub fn rounding(self, rounding: Rounding) -> Self {
        Self { rounding, ..self }
    }

    /// The same network with the parameters and running statistics of `model`. Nothing is recorded anew.
    #[must_use]
    pub fn with_model(self, model: &M) -> Self {
        Self { model: model.valid(), ..self }
    }

    /// Bounds of the outputs by interval bound propagation.
    ///
    /// # Errors
    /// As [`bounds`](Self::bounds).
    pub fn ibp(&self, inputs: &Tensor<D>, threat: &Threat) -> Result<Bounds> {
        self.bounds(Method::Ibp, inputs, threat)
    }

    /// Bounds of the outputs by CROWN.
    ///
    /// # Errors
    /// As [`bounds`](Self::bounds).
    pub fn crown(&self, inputs: &Tensor<D>, threat: &Threat) -> Result<Bounds> {
        self.bounds(Method::Crown, inputs, threat)
    }

    /// Bounds of the outputs over all inputs that `threat` allows round `inputs`.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`] for inputs outside of the box, [`Error::NoBound`] for `L0` and for element types other than `f32` and `f64`,
    /// [`Error::Core`] where new shapes cannot be recorded.
    pub fn bounds(&self, method: Method, inputs: &Tensor<D>, threat: &Threat) -> Result<Bounds> {
        let (network, region, unit) = self.prepare(inputs, threat)?;
        let found = propagate(&network, &region, method, unit);
        let classes = network.width(network.output);
        let shape = [network.examples, classes];
        let mut bounds = found.interval(network.output).clone();
        if method != Method::Ibp {
            let elements: Vec<usize> = (0..classes).collect();
            let a = units(&elements, classes, network.examples, network.shape(network.output), &region.centre);
            let least = found.least(network.output, a, 2 * classes, Relaxation::Linear);
            let least = least.reshape(&[2, classes, network.examples]);
            let half = |at: usize| least.narrow(0, at, at + 1).reshape(&[classes, network.examples]).transpose();
            let flat = network.shape(network.output);
            bounds = bounds.meet(&Interval { lower: half(0).reshape(flat), upper: half(1).neg().reshape(flat) });
        }
        let [lower, upper] = [bounds.lower, bounds.upper].map(|bound| bound.reshape(&shape).tensor());
        Ok(Bounds { lower, upper })
    }

    /// Lower bounds of the margins to all other classes, the last linear steps taken together.
    ///
    /// # Errors
    /// As [`bounds`](Self::bounds); [`Error::Label`], [`Error::TooFewClasses`] below two, [`Error::Shape`] for another number of labels.
    pub fn margins(
        &self,
        method: Method,
        inputs: &Tensor<D>,
        labels: &Tensor<1, Int>,
        threat: &Threat,
    ) -> Result<Margins> {
        let (network, region, unit) = self.prepare(inputs, threat)?;
        let classes = network.width(network.output);
        let labels = classes_of(labels, network.examples, classes)?;
        let found = propagate(&network, &region, method, unit);
        let mut lower = margins(&found, &labels, Relaxation::Interval);
        if method != Method::Ibp {
            lower = lower.max(&margins(&found, &labels, Relaxation::Linear));
        }
        let values = lower.values();
        let worst: Vec<f64> = (values.chunks(classes).zip(&labels))
            .map(|(row, label)| {
                let others = row.iter().enumerate().filter(|(class, _)| class != label);
                // A margin that is no number proves nothing.
                others.fold(f64::INFINITY, |least, (_, m)| {
                    if *m < least {
                        *m
                    } else if m.is_nan() {
                        f64::NEG_INFINITY
                    } else {
                        least
                    }
                })
            })
            .collect();
        let certified = worst.iter().map(|worst| *worst > 0.0).collect();
        Ok(Margins { lower: lower.tensor(), worst, certified })
    }

    fn prepare(&self, inputs: &Tensor<D>, threat: &Threat) -> Result<(Network, Region, Option<f64>)> {
        let inputs = inputs.clone().inner();
        let unit = roundoff(inputs.dtype())?;
        let unit = (self.rounding == Rounding::Outward).then_some(unit);
        let region = Region::new(&inputs, threat, unit)?;
        Ok((self.network(&inputs)?, region, unit))
    }

    fn network(&self, inputs: &Tensor<D>) -> Result<Network> {
        let batch = (inputs.clone(), Frozen(self.model.clone()));
        let trace = self.program.trace(&Tree::empty(), &batch)?;
        Ok(lowered(&trace, &batch)?.0)
    }
}

/// Records a model in inference mode, its result flat.
pub(crate) fn record<M: Module + Sync + 'static, const D: usize>(
    model: &M,
    inputs: &Tensor<D>,
    forward: impl Fn(&M, Tensor<D>) -> Tensor<2> + Send + Sync + 'static,
) -> Result<Recorded<M, D>> {
    if inputs.dims().contains(&0) {
        let expected = "at least one example of at least one element".to_string();
        return Err(Error::Shape { what: "inputs", actual: inputs.dims().to_vec(), expected });
    }
    let batch = (inputs.clone().inner(), Frozen(model.clone()));
    let program = Program::record_tree(&Tree::empty(), &batch, move |_, (x, Frozen(model))| {
        let out = forward(model, x.clone());
        assert_eq!(out.dims()[0], x.dims()[0], "the network has to give one row of outputs an example");
        let elements = out.dims()[0] * out.dims()[1];
        out.reshape([elements])
    })?;
    Ok(program)
}

/// The network behind a recording with the values of a batch, and its outputs at the batch itself if that has tapes.
pub(crate) fn lowered<M: Module, const D: usize>(
    trace: &Trace,
    batch: &(Tensor<D>, Frozen<M>),
) -> Result<(Network, Option<Array>)> {
    let device = batch.0.device();
    let tracked = batch.0.is_autodiff();
    // Running statistics and constants are without a tape, which operations do not take together with one.
    let lift = |tensor: DispatchTensor| match tracked && tensor.dtype().is_float() {
        true => {
            let tensor = Tensor::<1>::from_dispatch(tensor);
            if tensor.is_autodiff() { tensor.into_dispatch() } else { Tensor::from_inner(tensor).into_dispatch() }
        }
        false => tensor,
    };
    let tensors = batch_tensors(batch);
    let mut input = None;
    for entry in trace.inputs() {
        match entry.origin {
            Origin::Batch(0) => input = Some(entry.tensor.clone()),
            Origin::Random(distribution) => {
                let reason = format!("the network draws from {distribution:?}, so that no bound holds for its outputs");
                return Err(Error::NoBound { operation: "a random tensor".to_string(), reason });
            }
            _ => {}
        }
    }
    let value = |entry: &core_tensor::TraceInput, with_input: bool| match &entry.origin {
        Origin::Batch(0) if !with_input => None,
        Origin::Batch(index) => Some(lift(tensors[*index].clone())),
        Origin::Held(tensor) => Some(lift(tensor.clone())),
        Origin::Constant(data) => {
            let (plain, dtype) = (device.clone().inner(), entry.tensor.dtype);
            let data = data.clone().convert_dtype(dtype);
            Some(match dtype {
                DType::Bool(_) => Dispatch::bool_from_data(data, plain.as_dispatch()),
                dtype if dtype.is_float() => lift(Dispatch::float_from_data(data, plain.as_dispatch())),
                _ => Dispatch::int_from_data(data, plain.as_dispatch()),
            })
        }
        Origin::Point(_) | Origin::Random(_) => None,
    };
    let Some(input) = input else {
        let reason = "it does not depend on the inputs".to_string();
        return Err(Error::NoBound { operation: "the result".to_string(), reason });
    };
    let values = trace.evaluate(&device, |entry| value(entry, false))?;
    let network = Network::new(trace, values, &input, &Array::of(batch.0.clone()))?;
    if !tracked {
        return Ok((network, None));
    }
    let mut all = trace.evaluate(&device, |entry| value(entry, true))?;
    let out = all[Trace::position(trace.output())].take().map(Array);
    Ok((network, out))
}

/// Intervals of all tensors of a network.
pub(crate) fn propagate<'a>(
    network: &'a Network,
    region: &'a Region,
    method: Method,
    unit: Option<f64>,
) -> Propagation<'a> {
    let mut found = Propagation::new(network, region, unit);
    let mut refined = vec![false; network.shapes.len()];
    for step in &network.steps {
        let input = step.inputs[0];
        let relaxed = matches!(step.op, Op::Elementwise(_) | Op::MaxPool(_));
        if method == Method::Crown && relaxed && !refined[input] && matches!(found.origins[input], ibp::Origin::Other) {
            refined[input] = true;
            let wanted = open(&step.op, found.interval(input), network.width(input));
            found.refine(input, &wanted);
        }
        found.step(step);
    }
    found
}

/// The elements of an example whose interval matters: all, but for ReLU only where the sign is open for some example.
fn open(op: &Op, interval: &Interval, width: usize) -> Vec<usize> {
    if !matches!(op, Op::Elementwise(Function::Relu)) {
        return (0..width).collect();
    }
    let (lower, upper) = (interval.lower.values(), interval.upper.values());
    let open = |element: &usize| {
        let of = |values: &[f64]| values.iter().skip(*element).step_by(width).copied().collect::<Vec<f64>>();
        of(&lower).iter().zip(of(&upper)).any(|(l, u)| *l < 0.0 && u > 0.0)
    };
    (0..width).filter(open).collect()
}

/// Lower bounds of `z_y − z_j`, `[examples, classes]`.
pub(crate) fn margins(found: &Propagation<'_>, labels: &[usize], relaxation: Relaxation) -> Array {
    let network = found.network;
    let (examples, classes) = (network.examples, network.width(network.output));
    let mut a = vec![0.0; classes * examples * classes];
    for class in 0..classes {
        for (example, label) in labels.iter().enumerate() {
            let row = (class * examples + example) * classes;
            a[row + label] += 1.0;
            a[row + class] -= 1.0;
        }
    }
    let mut shape = network.shape(network.output).to_vec();
    shape[0] *= classes;
    let a = Array::from_values(a, &shape, &found.region.centre);
    found.least(network.output, a, classes, relaxation).reshape(&[classes, examples]).transpose()
}

/// Labels on the host, checked.
pub(crate) fn classes_of(labels: &Tensor<1, Int>, examples: usize, classes: usize) -> Result<Vec<usize>> {
    if classes < 2 {
        return Err(Error::TooFewClasses { what: "a margin", needed: 2, classes });
    }
    if labels.dims() != [examples] {
        let expected = format!("[{examples}], a label an example");
        return Err(Error::Shape { what: "labels", actual: labels.dims().to_vec(), expected });
    }
    let labels = labels.to_data();
    let checked = labels.iter::<i64>().enumerate().map(|(example, label)| match usize::try_from(label) {
        Ok(index) if index < classes => Ok(index),
        _ => Err(Error::Label { what: "the label", example, label, classes }),
    });
    checked.collect()
}

#[cfg(test)]
mod tests;
