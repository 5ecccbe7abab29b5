//! The traits of aggregation, and its report.

use core_tensor::Tree;
use core_tensor::transform::State;

use crate::{Error, Gramian, Jacobian, Result};

/// What every method of this crate is: named, and resumable from its state.
pub trait Method: Send {
    /// A short name for reports and errors.
    fn name(&self) -> &'static str;

    /// Everything that later results depend on, randomness included. Configuration is not state.
    fn state(&self) -> State {
        State::new()
    }

    /// Go on from a state of a method with the same configuration.
    ///
    /// # Errors
    /// [`core_tensor::Error::State`] for a state of another method; the own state is then as it was.
    fn load_state(&mut self, state: State) -> Result<()> {
        Ok(state.finish()?)
    }
}

/// Many gradients into one whose result is a weighted sum, with weights from inner products alone: the Jacobian need
/// not be
/// kept in memory.
///
/// Every such method is an [`Aggregator`] of rows too.
pub trait GramianAggregator: Method {
    /// A weight for each finite row of the Gramian, of which there is at least one.
    ///
    /// # Errors
    /// [`Error::NoWeights`] if the method's equations have no solution, [`Error::Tasks`] if a setting is for another
    /// number of tasks. The state is then as it was.
    fn weights(&mut self, gramian: &Gramian) -> Result<Vec<f64>>;

    /// A weight for every row: those of [`weights`](Self::weights), each seen to be finite, and 0 for rows that were dropped.
    ///
    /// # Errors
    /// Those of [`weights`](Self::weights), [`Error::NoWeights`] for a weight that is not finite.
    fn weights_of(&mut self, gramian: &Gramian) -> Result<Vec<f64>> {
        let weights = match gramian.size() {
            0 => vec![],
            _ => self.weights(gramian)?,
        };
        match weights.iter().all(|w| w.is_finite()) {
            true => Ok(gramian.spread(&weights)),
            false => Err(no_weights(self.name(), "a weight is not finite", gramian, f64::NAN, 0)),
        }
    }

    /// `Jᵀw` of any source of gradients.
    ///
    /// # Errors
    /// Those of [`weights`](Self::weights) and of the source.
    fn aggregate_through<J: Jacobian + ?Sized>(&mut self, jacobian: &J) -> Result<Aggregated>
    where
        Self: Sized,
    {
        let gramian = jacobian.gramian()?;
        let weights = self.weights_of(&gramian)?;
        let gradient = jacobian.combine(&weights)?;
        Ok(Aggregated { gradient, report: Report { weights: Some(weights), gramian, groups: vec![] } })
    }
}

/// Many gradients into one.
///
/// Rows that are not finite are left out and named in the report; if none is left, the result is zero. A single row
/// gives
/// a positive multiple of it.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use core_tensor::Tree;
/// use multitask::{Aggregator, UpGrad};
///
/// let row = |x: [f32; 3]| Tree::empty().push("w", Tensor::<1>::from_data(x, &Device::flex()));
/// let out = UpGrad::new().aggregate(&[row([-4.0, 1.0, 1.0])?, row([6.0, 1.0, 1.0])?])?;
/// let d: Vec<f32> = out.gradient.get::<1>("w")?.try_into_vec_as().unwrap();
/// assert!((d[0] - 0.2929).abs() < 1e-4 && (d[1] - 1.9004).abs() < 1e-4);
/// assert_eq!(out.report.conflicts(), 1);
/// # Ok::<(), multitask::Error>(())
/// ```
pub trait Aggregator: Method {
    /// The gradient to step along, from a row a task.
    ///
    /// # Errors
    /// [`Error::NoTasks`] without rows, those of [`GramianAggregator::weights`], [`core_tensor::Error::Structure`] or
    /// `Shape` if rows differ in names or shapes. The state is then as it was.
    fn aggregate(&mut self, rows: &[Tree]) -> Result<Aggregated>;
}

impl<T: GramianAggregator> Aggregator for T {
    fn aggregate(&mut self, rows: &[Tree]) -> Result<Aggregated> {
        self.aggregate_through(rows)
    }
}

macro_rules! boxed {
    ($($trait:ident)*) => {$(
        impl Method for Box<dyn $trait> {
            fn name(&self) -> &'static str {
                (**self).name()
            }
            fn state(&self) -> State {
                (**self).state()
            }
            fn load_state(&mut self, state: State) -> Result<()> {
                (**self).load_state(state)
            }
        }
    )*};
}
boxed!(GramianAggregator Aggregator);

impl GramianAggregator for Box<dyn GramianAggregator> {
    fn weights(&mut self, gramian: &Gramian) -> Result<Vec<f64>> {
        (**self).weights(gramian)
    }
}

impl Aggregator for Box<dyn Aggregator> {
    fn aggregate(&mut self, rows: &[Tree]) -> Result<Aggregated> {
        (**self).aggregate(rows)
    }
}

/// The gradient to step along, and how it came about.
#[derive(Clone, Debug)]
pub struct Aggregated {
    /// The aggregate: structure, dtypes and devices of the rows.
    pub gradient: Tree,
    /// How it came about.
    pub report: Report,
}

/// How the tasks' gradients stood to each other in a step, and what was made of them.
#[derive(Clone, Debug)]
pub struct Report {
    /// The weight of every row; `None` for methods whose result is no weighted sum.
    pub weights: Option<Vec<f64>>,
    /// The inner products of the finite rows: norms, cosines, condition number.
    pub gramian: Gramian,
    /// The reports of groups of leaves that were aggregated apart, by name.
    pub groups: Vec<(String, Report)>,
}

impl Report {
    /// The norm of every row; NaN for those dropped.
    pub fn norms(&self) -> Vec<f64> {
        let mut norms = vec![f64::NAN; self.gramian.total()];
        self.gramian.tasks().iter().enumerate().for_each(|(i, task)| norms[*task] = self.gramian.norm(i));
        norms
    }

    /// The cosine between two tasks' gradients; 0 where one is zero, NaN where one was dropped.
    pub fn cosine(&self, one: usize, other: usize) -> f64 {
        let position = |task: usize| self.gramian.tasks().iter().position(|t| *t == task);
        match (position(one), position(other)) {
            (Some(i), Some(j)) => self.gramian.cosine(i, j),
            _ => f64::NAN,
        }
    }

    /// Pairs of tasks whose gradients point apart.
    pub fn conflicts(&self) -> usize {
        let m = self.gramian.size();
        let pairs = (0..m).flat_map(|i| (i + 1..m).map(move |j| (i, j)));
        pairs.filter(|(i, j)| self.gramian.products()[(*i, *j)] < 0.0).count()
    }

    /// Largest over smallest eigenvalue of the Gramian, infinite if the gradients are dependent. Costs `O(m³)`.
    pub fn condition(&self) -> f64 {
        self.gramian.condition()
    }

    /// The tasks whose gradients were not finite and took no part.
    pub fn dropped(&self) -> Vec<usize> {
        self.gramian.dropped()
    }
}

/// That a method has no weights for a Gramian.
pub(crate) fn no_weights(
    method: &'static str,
    reason: &'static str,
    gramian: &Gramian,
    residual: f64,
    iterations: usize,
) -> Error {
    let (tasks, condition) = (gramian.size(), gramian.condition());
    Error::NoWeights { method, reason, tasks, condition, residual, iterations }
}

/// That the quadratic program of a method was not solved.
pub(crate) fn stuck(method: &'static str, gramian: &Gramian) -> impl Fn(crate::solvers::Stuck) -> Error {
    move |stuck| {
        let reason = "rounding kept its quadratic program from being solved";
        no_weights(method, reason, gramian, stuck.residual, stuck.iterations)
    }
}
