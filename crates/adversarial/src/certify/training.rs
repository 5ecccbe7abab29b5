//! Training for certificates: the loss at the worst logits that bounds allow.

use burn::module::Module;
use burn::tensor::{Int, Tensor, activation};
use core_tensor::{Frozen, Tree};

use super::array::Array;
use super::crown::Relaxation;
use super::region::Region;
use super::{Method, Recorded, classes_of, lowered, margins, propagate, record};
use crate::error::{Error, Result};
use crate::threat::Threat;

/// Where the schedule stands: what [`CertifiedTraining::loss`] weighs, and how far the adversary may go.
///
/// | field | range | effect |
/// |---|---|---|
/// | `epsilon` | ≥ 0 | radius of the perturbations |
/// | `kappa` | `[0, 1]` | weight `κ` of the loss at the inputs themselves |
/// | `beta` | `[0, 1]` | share `β` of the bound by CROWN-IBP, the rest being interval bound propagation; 0 costs no pass back |
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stage {
    /// Radius.
    pub epsilon: f64,
    /// Weight of the natural loss.
    pub kappa: f64,
    /// Share of CROWN-IBP.
    pub beta: f64,
}

/// The schedule of certified training: natural training first, then the radius grows linearly while `κ` and `β` fall.
///
/// | setting | default | range | effect |
/// |---|---|---|---|
/// | `epsilon` | – | > 0, finite | the radius at the end |
/// | `steps` | – | ≥ 1 | steps over which it grows |
/// | [`warm_up`](Self::warm_up) | 0 | | steps before, with radius 0 and `κ = 1` |
/// | [`kappa`](Self::kappa) | 0.5 | `[0, 1]` | `κ` at the end, from 1 |
/// | [`beta`](Self::beta) | 0 and 0 | `[0, 1]` | `β` at the start and at the end; 1 and 0 is CROWN-IBP, 0 and 0 interval bound propagation |
///
/// ```
/// let ramp = adversarial::RampUp::new(0.1, 100)?.warm_up(10).kappa(0.25)?.beta(1.0, 0.0)?;
/// assert_eq!(ramp.at(5).epsilon, 0.0);
/// assert_eq!(ramp.at(60), adversarial::Stage { epsilon: 0.05, kappa: 0.625, beta: 0.5 });
/// assert_eq!(ramp.at(1000).epsilon, 0.1);
/// # Ok::<(), adversarial::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RampUp {
    epsilon: f64,
    steps: usize,
    warm_up: usize,
    kappa: f64,
    beta: (f64, f64),
}

impl RampUp {
    /// A radius that grows to `epsilon` in so many steps.
    ///
    /// # Errors
    /// [`Error::Parameter`] outside of the ranges.
    pub fn new(epsilon: f64, steps: usize) -> Result<Self> {
        if !(epsilon > 0.0 && epsilon.is_finite()) {
            return Err(Error::Parameter { parameter: "epsilon", value: epsilon, bound: "a finite number above 0" });
        }
        if steps == 0 {
            return Err(Error::Parameter { parameter: "steps", value: 0.0, bound: "at least 1" });
        }
        Ok(RampUp { epsilon, steps, warm_up: 0, kappa: 0.5, beta: (0.0, 0.0) })
    }

    /// Steps of natural training before.
    #[must_use]
    pub fn warm_up(self, steps: usize) -> Self {
        Self { warm_up: steps, ..self }
    }

    /// The weight of the natural loss at the end.
    ///
    /// # Errors
    /// [`Error::Parameter`] outside of `[0, 1]`.
    pub fn kappa(self, end: f64) -> Result<Self> {
        share("kappa", end)?;
        Ok(Self { kappa: end, ..self })
    }

    /// The share of CROWN-IBP at the start and at the end.
    ///
    /// # Errors
    /// [`Error::Parameter`] outside of `[0, 1]`.
    pub fn beta(self, start: f64, end: f64) -> Result<Self> {
        share("beta", start)?;
        share("beta", end)?;
        Ok(Self { beta: (start, end), ..self })
    }

    /// The stage of a step, counted from 0.
    pub fn at(&self, step: usize) -> Stage {
        let t = (step.saturating_sub(self.warm_up) as f64 / self.steps as f64).min(1.0);
        let between = |(start, end): (f64, f64)| start + t * (end - start);
        Stage { epsilon: t * self.epsilon, kappa: between((1.0, self.kappa)), beta: between(self.beta) }
    }
}

/// What a step of certified training weighs.
#[derive(Clone, Debug)]
pub struct CertifiedLoss {
    /// `κ·natural + (1 − κ)·robust`, to differentiate.
    pub loss: Tensor<1>,
    /// Cross-entropy at the inputs.
    pub natural: Tensor<1>,
    /// Cross-entropy at the worst logits: the negative lower bounds of the margins.
    pub robust: Tensor<1>,
    /// Lower bounds of the margins `z_y − z_j`, `[examples, classes]`.
    pub margins: Tensor<2>,
}

/// Training with a loss over bounds, which any Burn optimizer can follow: IBP and CROWN-IBP training.
///
/// With `m_j` a lower bound of `z_y − z_j` over all allowed inputs, `−m` are logits no better than any that the adversary can reach
/// (`m_y = 0`), and
///
/// ```text
/// loss = κ·CE(z(x), y) + (1 − κ)·CE(−m, y),   m = (1 − β)·m_IBP + β·m_CROWN-IBP
/// ```
///
/// `κ`, `β` and the radius come from a schedule, [`RampUp`]: without one training seldom leaves the start. The bounds are differentiated
/// exactly in the parameters; rounding is ignored, as it is a hundredth of a step. The network is the one that infers: dropout is off,
/// and batch norm uses the running statistics it has, which a step here does not move.
///
/// # Cost
/// About three gradients' time for interval bound propagation, and `k` more passes back with `β > 0`, `k` the classes. One host
/// synchronisation for the checks of inputs and labels.
///
/// # Guarantees
/// The gradient is that of the loss (`gradients_are_those_of_the_loss`); at radius 0 both losses are the plain cross-entropy
/// (`without_a_radius_it_is_cross_entropy`). Digits trained so have certificates that plain training lacks (`digits_are_certified`).
///
/// # Errors
/// See [`CertifiedTraining::loss`].
///
/// ```
/// use adversarial::{CertifiedTraining, Norm, RampUp, Threat};
/// use burn::nn::{Linear, LinearConfig};
/// use burn::optim::{GradientsParams, SgdConfig};
/// use burn::tensor::{Device, Int, Tensor};
///
/// let device = Device::flex().autodiff();
/// let mut model = LinearConfig::new(2, 3).init(&device);
/// let x = Tensor::<2>::from_data([[0.2, 0.8], [0.9, 0.1]], &device);
/// let y = Tensor::<1, Int>::from_data([0, 2], &device);
/// let training = CertifiedTraining::record(&model, &x, |model: &Linear, x| model.forward(x))?;
/// let (threat, ramp) = (Threat::new(Norm::Linf, 0.05)?, RampUp::new(0.05, 20)?);
/// let mut optimizer = SgdConfig::new().init();
/// for step in 0..40 {
///     let out = training.loss(&model, &x, &y, &threat, ramp.at(step))?;
///     let gradients = GradientsParams::from_grads(out.loss.backward(), &model);
///     model = optimizer.step(0.5, model, gradients);
/// }
/// # Ok::<(), adversarial::Error>(())
/// ```
///
/// S. Gowal et al., "On the effectiveness of interval bound propagation for training verifiably robust models", 2018,
/// arXiv:1810.12715; H. Zhang et al., "Towards stable and efficient training of verifiably robust neural networks", ICLR 2020,
/// arXiv:1906.06316, equation 9.
pub struct CertifiedTraining<M: Module, const D: usize> {
    program: Recorded<M, D>,
}

impl<M: Module + Sync + 'static, const D: usize> CertifiedTraining<M, D> {
    /// Records `forward` for inputs like these.
    ///
    /// # Errors
    /// [`Error::Core`] if it cannot be recorded.
    pub fn record(
        model: &M,
        inputs: &Tensor<D>,
        forward: impl Fn(&M, Tensor<D>) -> Tensor<2> + Send + Sync + 'static,
    ) -> Result<Self> {
        Ok(Self { program: record(&model.valid(), inputs, forward)? })
    }

    /// The loss of a model on an autodiff device. The radius is the stage's, norm and box are the threat's.
    ///
    /// # Errors
    /// [`Error::NoBound`] for an operation without bounds, [`Error::OutOfBounds`], [`Error::Label`], [`Error::Shape`],
    /// [`Error::Parameter`] for a stage outside of its ranges, [`Error::Core`].
    pub fn loss(
        &self,
        model: &M,
        inputs: &Tensor<D>,
        labels: &Tensor<1, Int>,
        threat: &Threat,
        stage: Stage,
    ) -> Result<CertifiedLoss> {
        share("kappa", stage.kappa)?;
        share("beta", stage.beta)?;
        let threat = threat.radius(stage.epsilon)?;
        let plain = inputs.clone().inner();
        let trace = self.program.trace(&Tree::empty(), &(plain.clone(), Frozen(model.clone())))?;
        // With a tape, like the parameters.
        let batch = (Tensor::from_inner(plain), Frozen(model.clone()));
        let (network, natural) = lowered(&trace, &batch)?;
        let classes = network.width(network.output);
        let indices = classes_of(labels, network.examples, classes)?;
        let region = Region::new(&batch.0, &threat, None)?;
        let found = propagate(&network, &region, Method::Ibp, None);
        let bound = |relaxation: Relaxation| margins(&found, &indices, relaxation);
        let lower = match stage.beta {
            0.0 => bound(Relaxation::Interval),
            1.0 => bound(Relaxation::Linear),
            beta => bound(Relaxation::Interval).scale(1.0 - beta).add(&bound(Relaxation::Linear).scale(beta)),
        };
        let natural = natural.expect("inputs with a tape give outputs").reshape(&[network.examples, classes]);
        let natural = cross_entropy(natural, &indices);
        let robust = cross_entropy(lower.neg(), &indices);
        let loss = natural.clone() * stage.kappa + robust.clone() * (1.0 - stage.kappa);
        Ok(CertifiedLoss { loss, natural, robust, margins: lower.tensor() })
    }

    /// The gradient of [`loss`](Self::loss) as a tree, for a chain of transforms.
    ///
    /// # Errors
    /// As [`loss`](Self::loss).
    pub fn gradient(
        &self,
        model: &M,
        inputs: &Tensor<D>,
        labels: &Tensor<1, Int>,
        threat: &Threat,
        stage: Stage,
    ) -> Result<(CertifiedLoss, Tree)> {
        let out = self.loss(model, inputs, labels, threat, stage)?;
        let gradient = Tree::from_grads(out.loss.backward(), model);
        Ok((out, gradient))
    }
}

fn share(parameter: &'static str, value: f64) -> Result<()> {
    match (0.0..=1.0).contains(&value) {
        true => Ok(()),
        false => Err(Error::Parameter { parameter, value, bound: "0 <= value <= 1" }),
    }
}

/// The mean cross-entropy of rows of logits.
fn cross_entropy(logits: Array, labels: &[usize]) -> Tensor<1> {
    let classes = logits.shape()[1];
    let mut picked = vec![0.0; labels.len() * classes];
    labels.iter().enumerate().for_each(|(row, label)| picked[row * classes + label] = -1.0 / labels.len() as f64);
    let picked = Array::from_values(picked, &[labels.len(), classes], &logits).tensor::<2>();
    (activation::log_softmax(logits.tensor::<2>(), 1) * picked).sum()
}
