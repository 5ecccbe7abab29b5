//! The inner maximisation that methods share: projected gradient ascent from a random start.

use burn::tensor::Tensor;

use super::Clock;
use super::Mode;
use super::ball::Ball;
use crate::error::{Error, Result};
use crate::threat::{Norm, Threat};

/// Where an ascent begins.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Start {
    /// At the input.
    Clean,
    /// Uniform in the ball.
    Uniform,
    /// At the input with normal noise of this standard deviation.
    Normal(f64),
}

/// `k` steps of `x ← Π(x + α·d)` with the direction `d` of steepest ascent in the norm of the ball.
#[derive(Clone, Debug)]
pub(super) struct Inner {
    pub threat: Threat,
    pub steps: usize,
    pub step_size: StepSize,
    pub start: Start,
    pub mode: Mode,
}

/// The length of a step.
#[derive(Clone, Copy, Debug)]
pub(super) enum StepSize {
    Fixed(f64),
    /// That times the radius.
    OfRadius(f64),
    /// That times the radius, divided by the number of steps.
    OfPath(f64),
}

impl Inner {
    pub fn new(threat: Threat, steps: usize, step_size: StepSize, start: Start, what: &'static str) -> Result<Self> {
        let norm = threat.norm();
        match norm {
            Norm::L0 => Err(Error::UnsupportedNorm { what, norm }),
            _ => Ok(Self { threat, steps, step_size, start, mode: Mode::Evaluation }),
        }
    }

    pub fn check_start(start: Start) -> Result<Start> {
        match start {
            Start::Normal(value) if !(value >= 0.0 && value.is_finite()) => {
                Err(Error::Parameter { parameter: "start", value, bound: "a finite standard deviation, at least 0" })
            }
            start => Ok(start),
        }
    }

    pub fn size(&self) -> f64 {
        let epsilon = self.threat.epsilon();
        match self.step_size {
            StepSize::Fixed(size) => size,
            StepSize::OfRadius(share) => share * epsilon,
            StepSize::OfPath(length) => length * epsilon / self.steps.max(1) as f64,
        }
    }

    /// The last iterate, and the gradients it took. `gradient` gives its argument back, and the slope there.
    pub fn maximise<const D: usize>(
        &self,
        origin: &Tensor<D>,
        clock: &mut Clock,
        what: &'static str,
        mut gradient: impl FnMut(Tensor<D>) -> Result<[Tensor<D>; 2]>,
    ) -> Result<(Tensor<D>, u64)> {
        let ball = Ball::new(self.threat, origin.clone(), what)?;
        if self.threat.epsilon() == 0.0 {
            return Ok((origin.clone(), 0));
        }
        let mut x = match self.start {
            Start::Clean => origin.clone(),
            Start::Uniform => ball.uniform(&mut clock.random)?,
            Start::Normal(deviation) => ball.normal(&mut clock.random, deviation)?,
        };
        let size = self.size();
        for _ in 0..self.steps {
            let [at, slope] = gradient(x)?;
            x = ball.ascend(at, slope, size)?;
        }
        Ok((x, self.steps as u64))
    }
}

pub(super) fn above_zero(parameter: &'static str, value: f64) -> Result<f64> {
    match value > 0.0 && value.is_finite() {
        true => Ok(value),
        false => Err(Error::Parameter { parameter, value, bound: "a finite number above 0" }),
    }
}

pub(super) fn not_negative(parameter: &'static str, value: f64) -> Result<f64> {
    match value >= 0.0 && value.is_finite() {
        true => Ok(value),
        false => Err(Error::Parameter { parameter, value, bound: "a finite number, at least 0" }),
    }
}

pub(super) fn at_least_one(parameter: &'static str, value: usize) -> Result<usize> {
    match value {
        0 => Err(Error::Parameter { parameter, value: 0.0, bound: "at least 1" }),
        value => Ok(value),
    }
}

/// The settings of methods with an [`Inner`] and a [`Clock`].
macro_rules! inner_settings {
    () => {
        /// Steps of the ascent, `k`.
        ///
        /// # Errors
        /// [`Error::Parameter`](crate::Error::Parameter) for 0.
        pub fn steps(mut self, steps: usize) -> crate::Result<Self> {
            self.inner.steps = super::inner::at_least_one("steps", steps)?;
            Ok(self)
        }

        /// Length of a step, `α`.
        ///
        /// # Errors
        /// [`Error::Parameter`](crate::Error::Parameter) unless it is above zero and finite.
        pub fn step_size(mut self, step_size: f64) -> crate::Result<Self> {
            self.inner.step_size = super::inner::StepSize::Fixed(super::inner::above_zero("step_size", step_size)?);
            Ok(self)
        }

        /// Where the ascent begins.
        ///
        /// # Errors
        /// [`Error::Parameter`](crate::Error::Parameter) for a standard deviation that is negative or not finite.
        pub fn start(mut self, start: super::Start) -> crate::Result<Self> {
            self.inner.start = super::inner::Inner::check_start(start)?;
            Ok(self)
        }

        /// How the model behaves while it is attacked.
        pub fn mode(mut self, mode: super::Mode) -> Self {
            self.inner.mode = mode;
            self
        }

        /// Seed of random starts and dropout.
        pub fn seed(mut self, seed: u64) -> Self {
            self.clock = super::Clock::new(seed);
            self
        }

        /// The perturbations trained against.
        pub fn threat(&self) -> crate::Threat {
            self.inner.threat
        }

        /// Another radius from now on, as in a warm-up. A step size that was not set follows.
        ///
        /// # Errors
        /// [`Error::Parameter`](crate::Error::Parameter) if it is negative or not finite.
        pub fn set_radius(&mut self, epsilon: f64) -> crate::Result<()> {
            self.inner.threat = self.inner.threat.radius(epsilon)?;
            Ok(())
        }
    };
}
pub(super) use inner_settings;

/// [`RobustTraining`](super::RobustTraining) of a method in two stages whose state is its `clock`.
macro_rules! two_stage_training {
    ($method:ty) => {
        impl<M: burn::module::Module + Sync + 'static, const D: usize> super::RobustTraining<M, D> for $method {
            fn gradients(
                &mut self,
                program: &super::RobustProgram<M, D>,
                model: &M,
                inputs: burn::tensor::Tensor<D>,
                labels: burn::tensor::Tensor<1, burn::tensor::Int>,
            ) -> crate::Result<super::RobustGradients<D>> {
                super::two_stages(self, program, model, inputs, labels)
            }

            fn state(&self) -> core_tensor::transform::State {
                self.clock.state()
            }

            fn load_state(&mut self, state: core_tensor::transform::State) -> crate::Result<()> {
                self.clock.load_state(state)
            }
        }
    };
}
pub(super) use two_stage_training;
