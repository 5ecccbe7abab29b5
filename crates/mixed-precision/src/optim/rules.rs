//! The updates of Burn's optimizers for one element, so that a pass over memory can decode, update and encode.

use burn::config::{Config, ConfigError, config_to_json};
use burn::grad_clipping::GradientClippingConfig;
use burn::optim::decay::WeightDecayConfig;
use burn::optim::momentum::MomentumConfig;
use burn::optim::{AdamConfig, AdamWConfig, LionConfig, SgdConfig};

use super::low_bit::LowBit;
use super::state_format::StateFormat;
use crate::error::{Error, Result, positive};

/// A float in which the update of an element is computed.
pub trait Number:
    Copy
    + Send
    + Sync
    + PartialOrd
    + std::ops::Add<Output = Self>
    + std::ops::Sub<Output = Self>
    + std::ops::Mul<Output = Self>
    + std::ops::Div<Output = Self>
    + 'static
{
    /// Rounded to nearest.
    fn from_f64(x: f64) -> Self;
    /// Exact.
    fn from_f32(x: f32) -> Self;
    /// Rounded to nearest.
    fn to_f32(self) -> f32;
    /// The square root.
    fn sqrt(self) -> Self;
}

macro_rules! number {
    ($type:ty) => {
        impl Number for $type {
            #[inline(always)]
            fn from_f64(x: f64) -> Self {
                x as Self
            }
            #[inline(always)]
            fn from_f32(x: f32) -> Self {
                Self::from(x)
            }
            #[inline(always)]
            fn to_f32(self) -> f32 {
                self as f32
            }
            #[inline(always)]
            fn sqrt(self) -> Self {
                <$type>::sqrt(self)
            }
        }
    };
}

number!(f32);
number!(f64);

/// An update rule: how many moments it keeps and what one step does to an element.
pub trait Rule: Clone + Send + Sync + 'static {
    /// The numbers that are the same for all elements of a step.
    type Step<T: Number>: Copy + Send + Sync;

    /// For each moment its name and whether it can be negative; at most three.
    fn moments(&self) -> &'static [(&'static str, bool)];

    /// The numbers of step `time`, counted from 1.
    fn step<T: Number>(&self, lr: f64, time: usize) -> Self::Step<T>;

    /// The next parameter of parameter `p` and gradient `g`; `m` holds the moments and becomes the next ones.
    fn update<T: Number, const M: usize>(step: Self::Step<T>, p: T, g: T, m: &mut [T; M]) -> T;
}

/// Adds state of few bits to a configuration of Burn's.
///
/// | configuration | moments |
/// |---|---|
/// | [`SgdConfig`] | the velocity; none without momentum |
/// | [`AdamConfig`], [`AdamWConfig`] | first, second, and with AMSGrad the largest second |
/// | [`LionConfig`] | the momentum |
///
/// ```
/// use burn::optim::{AdamWConfig, ModuleOptimizer};
/// use mixed_precision::optim::{LowBitState, StateFormat};
///
/// let optim: ModuleOptimizer = AdamWConfig::new().with_weight_decay(0.01).low_bit(StateFormat::DYNAMIC8)?.init();
/// # let _ = optim;
/// # Ok::<(), mixed_precision::Error>(())
/// ```
pub trait LowBitState {
    /// The rule of the optimizer.
    type Rule: Rule;

    /// The optimizer with its moments in `format`.
    ///
    /// # Errors
    /// [`Error::Parameter`] for a decay outside `[0, 1)`, an `epsilon` not above zero, a weight decay below zero, or one of them
    /// not finite ([`Error::Optimizer`] then, as Burn writes such a number down as nothing).
    fn low_bit(&self, format: StateFormat) -> Result<LowBit<Self::Rule>>;
}

/// Burn keeps the fields of its configurations to itself, and writes them down for everyone.
fn read<C: Config, R: Config>(name: &'static str, config: &C) -> Result<R> {
    R::load_binary(config_to_json(config).as_bytes())
        .map_err(|source: ConfigError| Error::Optimizer { name, problem: format!("{source:?}") })
}

fn decay(parameter: &'static str, value: f32) -> Result<f32> {
    match (0.0..1.0).contains(&value) {
        true => Ok(value),
        false => Err(Error::Parameter { parameter, value: value.into(), bound: "0 <= value < 1" }),
    }
}

fn not_negative(parameter: &'static str, value: f64) -> Result<f64> {
    match value >= 0.0 && value.is_finite() {
        true => Ok(value),
        false => Err(Error::Parameter { parameter, value, bound: "0 <= value < inf" }),
    }
}

fn penalty(config: &Option<WeightDecayConfig>) -> Result<f32> {
    let penalty = config.as_ref().map_or(0.0, |config| config.penalty);
    Ok(not_negative("penalty", penalty.into())? as f32)
}

/// SGD with momentum, as Burn's: `v ← (1 − dampening)·g + momentum·v`, at first `v = g`; `p ← p − lr·v`.
#[derive(Clone, Debug)]
pub struct SgdRule {
    momentum: Option<MomentumConfig>,
    penalty: f32,
}

#[derive(Config, Debug)]
struct SgdParameters {
    weight_decay: Option<WeightDecayConfig>,
    momentum: Option<MomentumConfig>,
    gradient_clipping: Option<GradientClippingConfig>,
}

impl LowBitState for SgdConfig {
    type Rule = SgdRule;

    fn low_bit(&self, format: StateFormat) -> Result<LowBit<SgdRule>> {
        let config: SgdParameters = read("Sgd", self)?;
        if let Some(momentum) = &config.momentum {
            not_negative("momentum", momentum.momentum)?;
            if !momentum.dampening.is_finite() {
                let value = momentum.dampening;
                return Err(Error::Parameter { parameter: "dampening", value, bound: "a finite number" });
            }
        }
        let rule = SgdRule { penalty: penalty(&config.weight_decay)?, momentum: config.momentum };
        Ok(LowBit::new(rule, format, config.gradient_clipping))
    }
}

/// The numbers of a step of [`SgdRule`].
#[derive(Clone, Copy, Debug)]
pub struct SgdStep<T> {
    lr: T,
    penalty: Option<T>,
    momentum: T,
    /// `1 − dampening`, nothing in the first step.
    fresh: Option<T>,
    nesterov: bool,
}

impl Rule for SgdRule {
    type Step<T: Number> = SgdStep<T>;

    fn moments(&self) -> &'static [(&'static str, bool)] {
        match self.momentum {
            Some(_) => &[("velocity", true)],
            None => &[],
        }
    }

    fn step<T: Number>(&self, lr: f64, time: usize) -> SgdStep<T> {
        let config = self.momentum.clone().unwrap_or_else(MomentumConfig::new);
        SgdStep {
            lr: T::from_f64(lr),
            penalty: (self.penalty != 0.0).then(|| T::from_f32(self.penalty)),
            momentum: T::from_f32(config.momentum as f32),
            fresh: (time > 1).then(|| T::from_f64(1.0 - config.dampening)),
            nesterov: config.nesterov,
        }
    }

    #[inline(always)]
    fn update<T: Number, const M: usize>(step: SgdStep<T>, p: T, g: T, m: &mut [T; M]) -> T {
        let g = step.penalty.map_or(g, |penalty| p * penalty + g);
        let Some(velocity) = m.first_mut() else {
            return p - g * step.lr;
        };
        *velocity = step.fresh.map_or(g, |fresh| g * fresh + *velocity * step.momentum);
        let delta = if step.nesterov { *velocity * step.momentum + g } else { *velocity };
        p - delta * step.lr
    }
}

/// Adam and AdamW, as Burn's: `m ← β₁m + (1 − β₁)g`, `v ← β₂v + (1 − β₂)g²`, `p ← p − lr·m̂/(√v̂ + ε)`, with Adam's weight decay
/// in the gradient and AdamW's on the parameter.
#[derive(Clone, Debug)]
pub struct AdamRule {
    beta_1: f32,
    beta_2: f32,
    epsilon: f32,
    amsgrad: bool,
    /// Adam's.
    penalty: f32,
    /// AdamW's.
    weight_decay: f32,
    cautious: bool,
}

#[derive(Config, Debug)]
struct AdamParameters {
    beta_1: f32,
    beta_2: f32,
    epsilon: f32,
    amsgrad: bool,
    weight_decay: Option<WeightDecayConfig>,
    grad_clipping: Option<GradientClippingConfig>,
}

#[derive(Config, Debug)]
struct AdamWParameters {
    beta_1: f32,
    beta_2: f32,
    epsilon: f32,
    weight_decay: f32,
    cautious_weight_decay: bool,
    amsgrad: bool,
    grad_clipping: Option<GradientClippingConfig>,
}

impl LowBitState for AdamConfig {
    type Rule = AdamRule;

    fn low_bit(&self, format: StateFormat) -> Result<LowBit<AdamRule>> {
        let config: AdamParameters = read("Adam", self)?;
        let rule = AdamRule {
            beta_1: decay("beta_1", config.beta_1)?,
            beta_2: decay("beta_2", config.beta_2)?,
            epsilon: positive("epsilon", config.epsilon.into())? as f32,
            amsgrad: config.amsgrad,
            penalty: penalty(&config.weight_decay)?,
            weight_decay: 0.0,
            cautious: false,
        };
        Ok(LowBit::new(rule, format, config.grad_clipping))
    }
}

impl LowBitState for AdamWConfig {
    type Rule = AdamRule;

    fn low_bit(&self, format: StateFormat) -> Result<LowBit<AdamRule>> {
        let config: AdamWParameters = read("AdamW", self)?;
        let rule = AdamRule {
            beta_1: decay("beta_1", config.beta_1)?,
            beta_2: decay("beta_2", config.beta_2)?,
            epsilon: positive("epsilon", config.epsilon.into())? as f32,
            amsgrad: config.amsgrad,
            penalty: 0.0,
            weight_decay: not_negative("weight_decay", config.weight_decay.into())? as f32,
            cautious: config.cautious_weight_decay,
        };
        Ok(LowBit::new(rule, format, config.grad_clipping))
    }
}

/// The numbers of a step of [`AdamRule`].
#[derive(Clone, Copy, Debug)]
pub struct AdamStep<T> {
    lr: T,
    beta_1: T,
    beta_2: T,
    fresh_1: T,
    fresh_2: T,
    correction_1: T,
    correction_2: T,
    epsilon: T,
    penalty: Option<T>,
    /// `lr·λ`, and one less it.
    decay: Option<(T, T)>,
    cautious: bool,
}

impl Rule for AdamRule {
    type Step<T: Number> = AdamStep<T>;

    fn moments(&self) -> &'static [(&'static str, bool)] {
        const MOMENTS: &[(&str, bool)] = &[("moment_1", true), ("moment_2", false), ("max_moment_2", false)];
        if self.amsgrad { MOMENTS } else { &MOMENTS[..2] }
    }

    fn step<T: Number>(&self, lr: f64, time: usize) -> AdamStep<T> {
        // Burn counts in 32 bits; beyond them the corrections are 1 either way.
        let time = i32::try_from(time).unwrap_or(i32::MAX);
        let rate = lr * f64::from(self.weight_decay);
        AdamStep {
            lr: T::from_f64(lr),
            beta_1: T::from_f32(self.beta_1),
            beta_2: T::from_f32(self.beta_2),
            fresh_1: T::from_f32(1.0 - self.beta_1),
            fresh_2: T::from_f32(1.0 - self.beta_2),
            correction_1: T::from_f32(1.0 - self.beta_1.powi(time)),
            correction_2: T::from_f32(1.0 - self.beta_2.powi(time)),
            epsilon: T::from_f32(self.epsilon),
            penalty: (self.penalty != 0.0).then(|| T::from_f32(self.penalty)),
            decay: (rate != 0.0).then(|| (T::from_f64(rate), T::from_f64(1.0 - rate))),
            cautious: self.cautious,
        }
    }

    #[inline(always)]
    fn update<T: Number, const M: usize>(step: AdamStep<T>, p: T, g: T, m: &mut [T; M]) -> T {
        let g = step.penalty.map_or(g, |penalty| p * penalty + g);
        m[0] = m[0] * step.beta_1 + g * step.fresh_1;
        m[1] = m[1] * step.beta_2 + g * g * step.fresh_2;
        if M == 3 {
            m[M - 1] = if m[1] > m[M - 1] { m[1] } else { m[M - 1] };
        }
        let delta = m[0] / step.correction_1 / ((m[M - 1] / step.correction_2).sqrt() + step.epsilon);
        let zero = T::from_f32(0.0);
        let decayed = match step.decay {
            None => p,
            Some((rate, _)) if step.cautious => match (p >= zero) == (m[0] >= zero) {
                true => p - p * rate,
                false => p,
            },
            Some((_, kept)) => p * kept,
        };
        decayed - delta * step.lr
    }
}

/// Lion, as Burn's: `u = sign(β₁m + (1 − β₁)g)`, `m ← β₂m + (1 − β₂)g`, `p ← p·(1 − lr·λ) − lr·u`.
#[derive(Clone, Debug)]
pub struct LionRule {
    beta_1: f32,
    beta_2: f32,
    weight_decay: f32,
}

#[derive(Config, Debug)]
struct LionParameters {
    beta_1: f32,
    beta_2: f32,
    weight_decay: f32,
    grad_clipping: Option<GradientClippingConfig>,
}

impl LowBitState for LionConfig {
    type Rule = LionRule;

    fn low_bit(&self, format: StateFormat) -> Result<LowBit<LionRule>> {
        let config: LionParameters = read("Lion", self)?;
        let rule = LionRule {
            beta_1: decay("beta_1", config.beta_1)?,
            beta_2: decay("beta_2", config.beta_2)?,
            weight_decay: not_negative("weight_decay", config.weight_decay.into())? as f32,
        };
        Ok(LowBit::new(rule, format, config.grad_clipping))
    }
}

/// The numbers of a step of [`LionRule`].
#[derive(Clone, Copy, Debug)]
pub struct LionStep<T> {
    lr: T,
    beta_1: T,
    beta_2: T,
    fresh_1: T,
    fresh_2: T,
    kept: T,
}

impl Rule for LionRule {
    type Step<T: Number> = LionStep<T>;

    fn moments(&self) -> &'static [(&'static str, bool)] {
        &[("momentum", true)]
    }

    fn step<T: Number>(&self, lr: f64, _: usize) -> LionStep<T> {
        LionStep {
            lr: T::from_f64(lr),
            beta_1: T::from_f32(self.beta_1),
            beta_2: T::from_f32(self.beta_2),
            fresh_1: T::from_f32(1.0 - self.beta_1),
            fresh_2: T::from_f32(1.0 - self.beta_2),
            kept: T::from_f64(1.0 - lr * f64::from(self.weight_decay)),
        }
    }

    #[inline(always)]
    fn update<T: Number, const M: usize>(step: LionStep<T>, p: T, g: T, m: &mut [T; M]) -> T {
        let (zero, one) = (T::from_f32(0.0), T::from_f32(1.0));
        let direction = m[0] * step.beta_1 + g * step.fresh_1;
        m[0] = m[0] * step.beta_2 + g * step.fresh_2;
        // NaN stays what it is.
        let sign = if direction > zero {
            one
        } else if direction < zero {
            zero - one
        } else {
            direction
        };
        p * step.kept - sign * step.lr
    }
}
