//! Loss scaling: gradients that would vanish in 16 bits are computed of a loss that is larger.

use std::collections::BTreeMap;

use burn::tensor::Tensor;
use core_tensor::transform::State;
use core_tensor::{Scalar, Tree};

use crate::error::{Error, Result, positive};
use crate::unscale::unscale;

/// A loss scale, fixed or adapted to overflow, with the protocol of PyTorch's `GradScaler`.
///
/// Per step: [`scale_loss`](Self::scale_loss), backward, then for every optimizer [`unscale`](Self::unscale) and
/// [`step`](Self::step), at the end [`update`](Self::update) once. An optimizer goes ready → unscaled → stepped, and back by the update; what does not fit is an
/// [`Error::Protocol`]. Only an optimizer that saw a non-finite gradient skips; any of them backs the shared scale off. With
/// gradient accumulation the scale stays for the whole effective batch, and the sum is unscaled once. Clip after unscaling.
///
/// Update of a dynamic scale: after a step with a non-finite gradient `scale ← scale·backoff` and the tracker is 0; else the
/// tracker counts, and at the interval it is 0 again and `scale ← scale·growth` if that is finite as an `f32`.
///
/// | setting | default | range | effect |
/// |---|---|---|---|
/// | [`init_scale`](Self::init_scale) | 2¹⁶ | positive | where it starts |
/// | [`growth_factor`](Self::growth_factor) | 2 | more than 1 | |
/// | [`backoff_factor`](Self::backoff_factor) | ½ | 0 to 1 | |
/// | [`growth_interval`](Self::growth_interval) | 2000 | 1 or more | finite steps before it grows |
/// | [`floor`](Self::floor), [`cap`](Self::cap) | 0, none | | ends; without a floor a loss that is always NaN brings the scale to 0 |
/// | [`hysteresis`](Self::hysteresis) | 1 | 1 or more | non-finite steps until it backs off, counted anew once it grows (DeepSpeed's) |
///
/// The scale is an `f32`, factors are applied in `f64` and rounded, as PyTorch does. P. Micikevicius et al., "Mixed precision
/// training", ICLR 2018, arXiv:1710.03740; `torch.amp.GradScaler`.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use core_tensor::Tree;
/// use mixed_precision::{LossScale, ScaleChange, Step};
///
/// let mut scale = LossScale::dynamic().init_scale(1024.0)?;
/// let grads = Tree::empty().push("w", Tensor::<1>::from_data([2048.0], &Device::flex()))?;
/// let unscaled = scale.unscale("adam", grads)?;
/// assert_eq!((unscaled.grads.norm().value(), unscaled.finite), (2.0, true));
/// match scale.step("adam", || "the optimizer's step")? {
///     Step::Stepped(result) => println!("{result}"),
///     Step::Skipped { why } => println!("skipped: {why}"),
/// }
/// assert_eq!(scale.update()?, ScaleChange::Kept);
/// # Ok::<(), mixed_precision::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct LossScale {
    scale: f32,
    dynamic: bool,
    growth: f64,
    backoff: f64,
    interval: u64,
    floor: f32,
    cap: f32,
    hysteresis: u64,
    tracker: u64,
    /// Non-finite steps until the scale backs off.
    left: u64,
    optimizers: BTreeMap<String, Stage>,
}

/// Where an optimizer stands since the last update; ready if it is not listed.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Stage {
    finite: bool,
    stepped: bool,
}

/// What [`LossScale::unscale`] found.
#[derive(Clone, Debug)]
pub struct Unscaled {
    /// The gradient of the loss itself.
    pub grads: Tree,
    /// Whether every element of the scaled gradient was finite.
    pub finite: bool,
    /// The Euclidean norm of `grads`.
    pub norm: Scalar,
}

/// What became of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step<T> {
    /// The optimizer ran; its result.
    Stepped(T),
    /// It did not.
    Skipped {
        /// Why, for a person to read.
        why: String,
    },
}

/// What an update did to the scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScaleChange {
    /// Every gradient was finite, the interval is not over (or the scale is fixed or at its cap).
    Kept,
    /// Every gradient was finite, and the scale grew.
    Grown,
    /// A gradient was not finite, and the scale went down.
    BackedOff,
    /// A gradient was not finite, and the scale stayed: it is fixed, at its floor, or hysteresis held it.
    Held,
}

impl LossScale {
    /// PyTorch's defaults.
    pub fn dynamic() -> Self {
        Self {
            scale: 65536.0,
            dynamic: true,
            growth: 2.0,
            backoff: 0.5,
            interval: 2000,
            floor: 0.0,
            cap: f32::MAX,
            hysteresis: 1,
            tracker: 0,
            left: 1,
            optimizers: BTreeMap::new(),
        }
    }

    /// A scale that stays. Non-finite gradients are skipped all the same.
    ///
    /// # Errors
    /// [`Error::Parameter`] unless it is positive and finite as an `f32`.
    pub fn fixed(scale: f64) -> Result<Self> {
        Self { dynamic: false, ..Self::dynamic() }.init_scale(scale)
    }

    /// The scale to start with.
    ///
    /// # Errors
    /// [`Error::Parameter`] unless it is positive and finite as an `f32`.
    pub fn init_scale(self, scale: f64) -> Result<Self> {
        positive("init_scale", f64::from(scale as f32))?;
        Ok(Self { scale: scale as f32, ..self })
    }

    /// What the scale grows by.
    ///
    /// # Errors
    /// [`Error::Parameter`] unless `1 < growth < ∞`.
    pub fn growth_factor(self, growth: f64) -> Result<Self> {
        match growth > 1.0 && growth.is_finite() {
            true => Ok(Self { growth, ..self }),
            false => Err(Error::Parameter { parameter: "growth_factor", value: growth, bound: "1 < growth < inf" }),
        }
    }

    /// What the scale is multiplied by after an overflow.
    ///
    /// # Errors
    /// [`Error::Parameter`] unless `0 < backoff < 1`.
    pub fn backoff_factor(self, backoff: f64) -> Result<Self> {
        match backoff > 0.0 && backoff < 1.0 {
            true => Ok(Self { backoff, ..self }),
            false => Err(Error::Parameter { parameter: "backoff_factor", value: backoff, bound: "0 < backoff < 1" }),
        }
    }

    /// Finite steps in a row before the scale grows.
    ///
    /// # Errors
    /// [`Error::Parameter`] for 0.
    pub fn growth_interval(self, interval: u64) -> Result<Self> {
        Ok(Self { interval: count("growth_interval", interval)?, ..self })
    }

    /// The scale never backs off below this.
    ///
    /// # Errors
    /// [`Error::Parameter`] unless it is positive and finite.
    pub fn floor(self, floor: f64) -> Result<Self> {
        Ok(Self { floor: positive("floor", floor)? as f32, ..self })
    }

    /// The scale never grows above this.
    ///
    /// # Errors
    /// [`Error::Parameter`] unless it is positive and finite.
    pub fn cap(self, cap: f64) -> Result<Self> {
        Ok(Self { cap: positive("cap", cap)? as f32, ..self })
    }

    /// Non-finite steps until the scale backs off; the count starts anew when it grows.
    ///
    /// # Errors
    /// [`Error::Parameter`] for 0.
    pub fn hysteresis(self, hysteresis: u64) -> Result<Self> {
        let hysteresis = count("hysteresis", hysteresis)?;
        Ok(Self { hysteresis, left: hysteresis, ..self })
    }

    /// The scale.
    pub fn scale(&self) -> f32 {
        self.scale
    }

    /// Finite steps since the scale last changed.
    pub fn growth_tracker(&self) -> u64 {
        self.tracker
    }

    /// The loss times the scale, to be differentiated.
    pub fn scale_loss<const D: usize>(&self, loss: Tensor<D>) -> Tensor<D> {
        loss.mul_scalar(self.scale)
    }

    /// The gradient divided by the scale (times `1/scale` as an `f32`), whether the scaled one was finite, and the norm of the result.
    ///
    /// Cost: on the host one pass, in place (8 bytes an element in `f32`). Elsewhere three: check, scale, norm; and one host
    /// synchronisation, to know whether to step.
    ///
    /// # Errors
    /// [`Error::Protocol`] if the optimizer has been unscaled or stepped since the last update.
    pub fn unscale(&mut self, optimizer: &str, grads: Tree) -> Result<Unscaled> {
        match self.optimizers.get(optimizer) {
            None => {}
            Some(Stage { stepped: false, .. }) => {
                return Err(protocol(optimizer, "unscale", "twice before an update"));
            }
            Some(_) => return Err(protocol(optimizer, "unscale", "between step and update")),
        }
        let unscaled = unscale(grads, (1.0 / f64::from(self.scale)) as f32)?;
        self.optimizers.insert(optimizer.to_string(), Stage { finite: unscaled.finite, stepped: false });
        Ok(unscaled)
    }

    /// Runs the optimizer if its gradient was finite.
    ///
    /// # Errors
    /// [`Error::Protocol`] unless the optimizer has been unscaled and not stepped since the last update.
    pub fn step<T>(&mut self, optimizer: &str, run: impl FnOnce() -> T) -> Result<Step<T>> {
        match self.optimizers.get_mut(optimizer) {
            None => Err(protocol(optimizer, "step", "before unscale")),
            Some(Stage { stepped: true, .. }) => Err(protocol(optimizer, "step", "twice before an update")),
            Some(stage) => {
                stage.stepped = true;
                match stage.finite {
                    true => Ok(Step::Stepped(run())),
                    false => Ok(Step::Skipped { why: self.why() }),
                }
            }
        }
    }

    /// Adapts the scale to what was found since the last update, and makes every optimizer ready.
    ///
    /// # Errors
    /// [`Error::NothingChecked`] if no gradient was unscaled since the last update.
    pub fn update(&mut self) -> Result<ScaleChange> {
        if self.optimizers.is_empty() {
            return Err(Error::NothingChecked);
        }
        let finite = self.optimizers.values().all(|stage| stage.finite);
        self.optimizers.clear();
        Ok(self.advance(finite))
    }

    /// Sets the scale instead of adapting it, and makes every optimizer ready.
    ///
    /// # Errors
    /// [`Error::Parameter`] unless it is positive and finite as an `f32`.
    pub fn update_to(&mut self, scale: f64) -> Result<()> {
        self.scale = positive("scale", f64::from(scale as f32))? as f32;
        self.optimizers.clear();
        Ok(())
    }

    pub(crate) fn why(&self) -> String {
        format!("the gradient is not finite at the loss scale {}", self.scale)
    }

    fn advance(&mut self, finite: bool) -> ScaleChange {
        if !self.dynamic {
            return if finite { ScaleChange::Kept } else { ScaleChange::Held };
        }
        let before = self.scale;
        if !finite {
            self.tracker = 0;
            if self.left > 1 {
                self.left -= 1;
                return ScaleChange::Held;
            }
            let lower = (f64::from(before) * self.backoff) as f32;
            // A scale that starts below the floor stays where it is.
            self.scale = lower.max(self.floor).min(before);
            return if self.scale < before { ScaleChange::BackedOff } else { ScaleChange::Held };
        }
        self.tracker += 1;
        if self.tracker < self.interval {
            return ScaleChange::Kept;
        }
        (self.tracker, self.left) = (0, self.hysteresis);
        let higher = (f64::from(before) * self.growth) as f32;
        if higher.is_finite() {
            self.scale = higher.min(self.cap).max(before);
        }
        if self.scale > before { ScaleChange::Grown } else { ScaleChange::Kept }
    }

    /// Scale, factors, interval and counts, to go on from later. Which optimizers are unscaled is not part of it: save
    /// after an update.
    pub fn state(&self) -> State {
        State::new()
            .with("scale", f64::from(self.scale))
            .with("dynamic", self.dynamic)
            .with("growth_factor", self.growth)
            .with("backoff_factor", self.backoff)
            .with("growth_interval", self.interval)
            .with("growth_tracker", self.tracker)
            .with("floor", f64::from(self.floor))
            .with("cap", f64::from(self.cap))
            .with("hysteresis", self.hysteresis)
            .with("hysteresis_left", self.left)
    }

    /// Go on from a state, its factors and ends included.
    ///
    /// # Errors
    /// [`core_tensor::Error::State`] for another state; the loss scale is then as it was.
    pub fn load_state(&mut self, mut state: State) -> Result<()> {
        let loaded = Self {
            scale: state.take::<f64>("scale")? as f32,
            dynamic: state.take("dynamic")?,
            growth: state.take("growth_factor")?,
            backoff: state.take("backoff_factor")?,
            interval: state.take("growth_interval")?,
            tracker: state.take("growth_tracker")?,
            floor: state.take::<f64>("floor")? as f32,
            cap: state.take::<f64>("cap")? as f32,
            hysteresis: state.take("hysteresis")?,
            left: state.take("hysteresis_left")?,
            optimizers: BTreeMap::new(),
        };
        state.finish()?;
        *self = loaded;
        Ok(())
    }
}

fn count(parameter: &'static str, value: u64) -> Result<u64> {
    match value {
        0 => Err(Error::Parameter { parameter, value: 0.0, bound: "1 <= value" }),
        value => Ok(value),
    }
}

fn protocol(optimizer: &str, call: &'static str, state: &'static str) -> Error {
    Error::Protocol { optimizer: optimizer.to_string(), call, state }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    fn grads(x: f32) -> Tree {
        Tree::empty().push("w", Tensor::<1>::from_data([x, 1.0], &Device::flex())).unwrap()
    }

    /// A whole step with a gradient that is finite or not.
    fn one(scale: &mut LossScale, finite: bool) -> ScaleChange {
        scale.unscale("a", grads(if finite { 1.0 } else { f32::INFINITY })).unwrap();
        let stepped = matches!(scale.step("a", || ()).unwrap(), Step::Stepped(()));
        assert_eq!(stepped, finite);
        scale.update().unwrap()
    }

    #[test]
    fn scale_and_tracker_by_hand() {
        let mut scale = LossScale::dynamic().init_scale(8.0).unwrap().growth_interval(2).unwrap();
        let mut seen = vec![];
        for finite in [true, true, false, true, false, true, true] {
            let change = one(&mut scale, finite);
            seen.push((change, scale.scale(), scale.growth_tracker()));
        }
        use ScaleChange::*;
        let expected = [
            (Kept, 8.0, 1),
            (Grown, 16.0, 0),
            (BackedOff, 8.0, 0),
            (Kept, 8.0, 1),
            (BackedOff, 4.0, 0),
            (Kept, 4.0, 1),
            (Grown, 8.0, 0),
        ];
        assert_eq!(seen, expected);
    }

    #[test]
    fn the_scale_stays_a_finite_number_within_its_ends() {
        let mut high = LossScale::dynamic().init_scale(f64::from(f32::MAX)).unwrap().growth_interval(1).unwrap();
        assert_eq!((one(&mut high, true), high.scale(), high.growth_tracker()), (ScaleChange::Kept, f32::MAX, 0));
        let ends = || LossScale::dynamic().init_scale(4.0).unwrap().growth_interval(1).unwrap();
        let mut ends = ends().floor(3.0).unwrap().cap(5.0).unwrap();
        assert_eq!((one(&mut ends, true), ends.scale()), (ScaleChange::Grown, 5.0));
        assert_eq!((one(&mut ends, true), ends.scale()), (ScaleChange::Kept, 5.0));
        assert_eq!((one(&mut ends, false), ends.scale()), (ScaleChange::BackedOff, 3.0));
        assert_eq!((one(&mut ends, false), ends.scale()), (ScaleChange::Held, 3.0));
        let mut fixed = LossScale::fixed(128.0).unwrap().growth_interval(1).unwrap();
        assert_eq!((one(&mut fixed, true), one(&mut fixed, false)), (ScaleChange::Kept, ScaleChange::Held));
        assert_eq!(fixed.scale(), 128.0);
    }

    #[test]
    fn hysteresis_waits_and_starts_anew_after_growth() {
        let scale = LossScale::dynamic().init_scale(8.0).unwrap().growth_interval(1).unwrap();
        let mut scale = scale.hysteresis(2).unwrap();
        let changes = [false, false, false, true, false, false].map(|finite| one(&mut scale, finite));
        use ScaleChange::*;
        assert_eq!(changes, [Held, BackedOff, BackedOff, Grown, Held, BackedOff]);
    }

    #[test]
    fn misuse_is_named() {
        let mut scale = LossScale::dynamic();
        let message = |error: Error| error.to_string();
        assert_eq!(
            message(scale.update().unwrap_err()),
            "no gradient was unscaled since the last update of the loss scale"
        );
        assert_eq!(message(scale.step("a", || ()).unwrap_err()), "optimizer `a`: step is not allowed before unscale");
        scale.unscale("a", grads(1.0)).unwrap();
        let twice = scale.unscale("a", grads(1.0)).unwrap_err();
        assert_eq!(message(twice), "optimizer `a`: unscale is not allowed twice before an update");
        scale.step("a", || ()).unwrap();
        let late = scale.unscale("a", grads(1.0)).unwrap_err();
        assert_eq!(message(late), "optimizer `a`: unscale is not allowed between step and update");
        let again = scale.step("a", || ()).unwrap_err();
        assert_eq!(message(again), "optimizer `a`: step is not allowed twice before an update");
        scale.update().unwrap();
        scale.unscale("a", grads(1.0)).unwrap();
        for error in [
            LossScale::fixed(0.0).unwrap_err(),
            LossScale::fixed(1e39).unwrap_err(),
            LossScale::dynamic().growth_factor(1.0).unwrap_err(),
            LossScale::dynamic().backoff_factor(f64::NAN).unwrap_err(),
            LossScale::dynamic().growth_interval(0).unwrap_err(),
            LossScale::dynamic().hysteresis(0).unwrap_err(),
            LossScale::dynamic().floor(0.0).unwrap_err(),
            LossScale::dynamic().cap(-1.0).unwrap_err(),
        ] {
            assert!(matches!(error, Error::Parameter { .. }));
        }
    }

    #[test]
    fn only_the_optimizer_that_overflowed_skips() {
        let mut scale = LossScale::dynamic();
        scale.unscale("good", grads(1.0)).unwrap();
        scale.unscale("bad", grads(f32::NAN)).unwrap();
        assert_eq!(scale.step("good", || 7).unwrap(), Step::Stepped(7));
        let why = "the gradient is not finite at the loss scale 65536".to_string();
        assert_eq!(scale.step("bad", || 7).unwrap(), Step::Skipped { why });
        assert_eq!((scale.update().unwrap(), scale.scale()), (ScaleChange::BackedOff, 32768.0));
        scale.update_to(2.0).unwrap();
        assert_eq!(scale.scale(), 2.0);
        assert!(scale.update_to(f64::NAN).is_err());
    }

    #[test]
    fn a_resumed_scale_goes_on_alike() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("scale.bpk");
        let start = LossScale::dynamic().growth_interval(3).unwrap().growth_factor(1.7).unwrap();
        let mut old = start.hysteresis(2).unwrap().backoff_factor(0.3).unwrap().floor(10.0).unwrap();
        let finite = [true, true, false, true, true, true, false, false];
        for finite in finite {
            one(&mut old, finite);
        }
        old.state().save(&path).unwrap();
        let mut new = LossScale::dynamic();
        new.load_state(State::load(&path, &Device::flex()).unwrap()).unwrap();
        assert_eq!(new, old);
        assert_eq!(finite.map(|finite| one(&mut new, finite)), finite.map(|finite| one(&mut old, finite)));
        let before = new.clone();
        assert!(new.load_state(old.state().with("other", 1u64)).is_err());
        assert!(new.load_state(State::new()).is_err());
        assert_eq!(new, before);
    }
}
