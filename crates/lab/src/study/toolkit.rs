//! What experiments share: progress, work on all cores, rules on numbers of the host, statistics.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use burn::tensor::{DType, Device, Tensor, TensorData};
use core_tensor::transform::{Context, GradientTransform, Update};
use core_tensor::{Error as CoreError, Tree};

use super::Event;
use crate::error::{Error, Result};

/// The way from an experiment to whoever watches it, and back.
pub struct Progress<'a> {
    stop: &'a AtomicBool,
    observe: &'a (dyn Fn(Event<'_>) + Sync),
}

impl<'a> Progress<'a> {
    /// Tells `observe`, and ends at the next unit once `stop` is true.
    pub fn new(stop: &'a AtomicBool, observe: &'a (dyn Fn(Event<'_>) + Sync)) -> Self {
        Self { stop, observe }
    }

    /// A unit of work is done.
    ///
    /// # Errors
    /// [`Error::Interrupted`] where no more is wanted.
    pub fn unit(&self) -> Result<()> {
        (self.observe)(Event::Unit);
        match self.stop.load(Ordering::Relaxed) {
            true => Err(Error::Interrupted),
            false => Ok(()),
        }
    }

    /// Runs an experiment and tells when it is done.
    ///
    /// # Errors
    /// Those of the experiment.
    pub fn experiment<T>(&self, title: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let clock = Instant::now();
        let result = work()?;
        (self.observe)(Event::Experiment { title, seconds: clock.elapsed().as_secs_f64() });
        Ok(result)
    }
}

impl std::fmt::Debug for Progress<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Progress").finish_non_exhaustive()
    }
}

/// Works on every job, on all cores, and returns the results in the order of the jobs; the first error ends it.
///
/// Threads of its own, not rayon's: there a thread that waits for a part of one network's step would begin another network
/// on top of it.
pub fn parallel<J: Sync, T: Send>(jobs: &[J], work: impl Fn(&J) -> Result<T> + Sync) -> Result<Vec<T>> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new((0..jobs.len()).map(|_| None).collect::<Vec<Option<Result<T>>>>());
    let threads = thread::available_parallelism().map_or(1, usize::from).min(jobs.len());
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(job) = jobs.get(at) else { break };
                    let result = work(job);
                    if result.is_err() {
                        next.store(jobs.len(), Ordering::Relaxed);
                    }
                    done.lock().unwrap_or_else(PoisonError::into_inner)[at] = Some(result);
                }
            });
        }
    });
    // Jobs are begun in order, so that what was not begun lies behind an error.
    done.into_inner().unwrap_or_else(PoisonError::into_inner).into_iter().flatten().collect()
}

/// Where computations in `f64` run whatever device the study is on: a host backend, if this build has one.
#[allow(deprecated)] // ndarray is served as long as Burn ships it.
pub fn host_device() -> Device {
    #[cfg(feature = "flex")]
    {
        Device::flex()
    }
    #[cfg(all(feature = "ndarray", not(feature = "flex")))]
    {
        Device::ndarray()
    }
    #[cfg(not(any(feature = "ndarray", feature = "flex")))]
    {
        Device::default()
    }
}

/// A rule of the clipping crate on a vector of numbers, in `f64` where the device has it.
pub struct OnHost<R> {
    rule: R,
    device: Device,
    dtype: DType,
    steps: u64,
}

impl<R: GradientTransform> OnHost<R> {
    /// The rule from its beginning.
    pub fn new(rule: R, device: &Device) -> Self {
        let dtype = if device.supports_dtype(DType::F64) { DType::F64 } else { DType::F32 };
        Self { rule, device: device.clone(), dtype, steps: 0 }
    }

    /// What the rule makes of a gradient; zeros where it skips the step.
    ///
    /// # Errors
    /// Those of the rule.
    pub fn apply(&mut self, gradient: Vec<f64>) -> Result<Vec<f64>, CoreError> {
        let count = gradient.len();
        let tensor = Tensor::<1>::from_data(TensorData::new(gradient, [count]), (&self.device, self.dtype));
        let tree = Tree::empty().push("x", tensor)?;
        let out = match self.rule.apply(tree, &Context::new(self.steps))? {
            Update::Apply(tree) => tree.get::<1>("x")?.into_data().iter::<f64>().collect(),
            Update::Skip { .. } => vec![0.0; count],
        };
        self.steps += 1;
        Ok(out)
    }
}

/// The value below which this share of the numbers lies, interpolated linearly; NaN counts as the largest. NaN of none.
pub fn quantile(values: impl IntoIterator<Item = f64>, share: f64) -> f64 {
    let mut sorted: Vec<f64> = values.into_iter().map(|x| if x.is_nan() { f64::INFINITY } else { x }).collect();
    sorted.sort_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let rank = share * last as f64;
    let (low, high) = (sorted[rank.floor() as usize], sorted[rank.ceil() as usize]);
    if low == high { low } else { low + rank.fract() * (high - low) }
}

/// The middle of the numbers.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    quantile(values, 0.5)
}

/// The largest of the numbers; infinite if one is NaN, minus infinity of none.
pub fn largest(values: impl IntoIterator<Item = f64>) -> f64 {
    values.into_iter().map(|x| if x.is_nan() { f64::INFINITY } else { x }).fold(f64::NEG_INFINITY, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::clipping::ClipByGlobalNorm;

    #[test]
    fn results_come_in_the_order_of_the_jobs() {
        let jobs: Vec<u64> = (0..100).collect();
        let squares = parallel(&jobs, |x| Ok(x * x)).unwrap();
        assert_eq!(squares, jobs.iter().map(|x| x * x).collect::<Vec<_>>());
        let failed = parallel(&jobs, |x| if *x == 3 { Err(Error::Interrupted) } else { Ok(*x) });
        assert!(matches!(failed, Err(Error::Interrupted)));
        assert_eq!(parallel(&[] as &[u64], |x| Ok(*x)).unwrap(), [0u64; 0]);
    }

    #[test]
    fn a_stop_ends_at_the_next_unit() {
        let stop = AtomicBool::new(false);
        let units = AtomicUsize::new(0);
        let observe = |event: Event<'_>| {
            if matches!(event, Event::Unit) {
                units.fetch_add(1, Ordering::Relaxed);
            }
        };
        let progress = Progress::new(&stop, &observe);
        progress.unit().unwrap();
        stop.store(true, Ordering::Relaxed);
        assert!(matches!(progress.unit(), Err(Error::Interrupted)));
        assert_eq!(units.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn rules_work_on_numbers() {
        let mut rule = OnHost::new(ClipByGlobalNorm::new(1.0).unwrap().exact(), &Device::flex());
        let out = rule.apply(vec![3.0, 4.0]).unwrap();
        assert!((out[0] - 0.6).abs() < 1e-15 && (out[1] - 0.8).abs() < 1e-15);
        assert_eq!(rule.apply(vec![0.25, 0.1]).unwrap(), [0.25, 0.1]);
    }

    #[test]
    fn quantiles_by_hand() {
        assert_eq!(median([3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median([4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(quantile([0.0, 10.0], 0.9), 9.0);
        assert_eq!(median([1.0, f64::NAN, f64::INFINITY]), f64::INFINITY);
        assert!(median([]).is_nan());
        assert_eq!(largest([1.0, 3.0, 2.0]), 3.0);
        assert_eq!(largest([1.0, f64::NAN]), f64::INFINITY);
    }
}
