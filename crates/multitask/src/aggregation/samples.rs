//! Inner products between two independent samples of the same gradients.

use core_tensor::Tree;

use crate::solvers::dot;
use crate::{Aggregated, Error, Gramian, Jacobian, Report, Result};

/// The step along the last of three samples, with weights that `update` finds from the products of the other two.
pub(crate) fn aggregate(
    method: &'static str,
    [first, second, last]: [&[Tree]; 3],
    update: impl FnOnce(&Cross, &Gramian) -> Result<Vec<f64>>,
) -> Result<Aggregated> {
    let gramian = Gramian::of(last)?;
    let weights = gramian.spread(&update(&Cross::of(method, first, second)?, &gramian)?);
    let gradient = last.combine(&weights)?;
    Ok(Aggregated { gradient, report: Report { weights: Some(weights), gramian, groups: vec![] } })
}

/// `J₁J₂ᵀ` of the tasks that are finite in both samples: an unbiased estimate of the Gramian of the expected
/// gradients, which
/// `JJᵀ` of one sample is not.
pub(crate) struct Cross {
    /// The tasks of the rows.
    pub tasks: Vec<usize>,
    /// Number of all tasks.
    pub total: usize,
    /// Rows of products, over `4^exponent`.
    rows: Vec<Vec<f64>>,
    whole: Gramian,
}

impl Cross {
    /// Of two samples, row by row the same tasks.
    pub fn of(method: &'static str, first: &[Tree], second: &[Tree]) -> Result<Self> {
        let total = first.len();
        if second.len() != total {
            return Err(Error::Tasks { method, what: "the first sample", expected: total, actual: second.len() });
        }
        let both: Vec<Tree> = first.iter().chain(second).cloned().collect();
        let whole = Gramian::of(&both)?;
        let position = |row: usize| whole.tasks().iter().position(|task| *task == row);
        let pairs = (0..total).filter_map(|task| Some((task, position(task)?, position(task + total)?)));
        let pairs: Vec<(usize, usize, usize)> = pairs.collect();
        let row = |i: usize| pairs.iter().map(|(_, _, j)| whole.products()[(i, *j)]).collect();
        let rows = pairs.iter().map(|(_, i, _)| row(*i)).collect();
        Ok(Self { tasks: pairs.iter().map(|(task, ..)| *task).collect(), total, rows, whole })
    }

    /// One sample taken for both.
    pub fn same(gramian: &Gramian) -> Self {
        let rows = (0..gramian.size()).map(|i| gramian.products().row(i).to_vec()).collect();
        Self { tasks: gramian.tasks().to_vec(), total: gramian.total(), rows, whole: gramian.clone() }
    }

    /// The products with a weighted sum of the second sample's rows, at the scale of the gradients.
    pub fn times(&self, weights: &[f64]) -> Vec<f64> {
        self.rows.iter().map(|row| self.whole.unscaled(dot(row, weights), 2)).collect()
    }

    /// The products over the square of the mean norm `√max(0, ⟨g_i, g_i′⟩)`; as they are if that is 0.
    pub fn normalised(&self) -> Vec<Vec<f64>> {
        let m = self.rows.len().max(1) as f64;
        let norm = self.rows.iter().enumerate().map(|(i, row)| row[i].max(0.0).sqrt()).sum::<f64>() / m;
        let factor = if norm > 0.0 { 1.0 / (norm * norm) } else { 1.0 };
        self.rows.iter().map(|row| row.iter().map(|x| factor * x).collect()).collect()
    }
}

/// Weights on the simplex that are carried from step to step; uniform before the first. Tasks that are not finite in a
/// step keep
/// their share for later, the others share the step among them.
#[derive(Clone, Debug)]
pub(crate) struct Carried {
    all: Vec<f64>,
    tasks: Vec<usize>,
    mass: f64,
}

impl Carried {
    /// Of these tasks, from the weights of all after the last step.
    pub fn of(method: &'static str, last: &Option<Vec<f64>>, tasks: &[usize], total: usize) -> Result<Self> {
        let all = match last {
            None => vec![1.0 / total as f64; total],
            Some(last) if last.len() == total => last.clone(),
            Some(last) => {
                return Err(Error::Tasks { method, what: "the state", expected: last.len(), actual: total });
            }
        };
        let mass = tasks.iter().map(|task| all[*task]).sum();
        Ok(Self { all, tasks: tasks.to_vec(), mass })
    }

    /// The weights of the tasks of this step, of sum 1.
    pub fn own(&self) -> Vec<f64> {
        match self.mass > 0.0 {
            true => self.tasks.iter().map(|task| self.all[*task] / self.mass).collect(),
            false => vec![1.0 / self.tasks.len() as f64; self.tasks.len()],
        }
    }

    /// The weights of all after a step that gave those of its tasks.
    pub fn put(mut self, own: &[f64]) -> Vec<f64> {
        self.tasks.iter().zip(own).for_each(|(task, w)| self.all[*task] = self.mass * w);
        self.all
    }
}
