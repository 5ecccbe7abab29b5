//! Low-rank Pareto sets: one network, and a low-rank change of its weights for each task.

use burn::module::{Module, ModuleDisplay, Param};
use burn::tensor::{Device, Tensor};
use core_tensor::Random;

use super::ParetoSet;
use super::parameters::{Given, trainable, with_parameters};
use crate::model::{ModelError, Result};

/// `W(r) = W₀ + s·Σᵢ rᵢ·BᵢAᵢ` for every matrix and kernel of any Burn module, `b(r) = b₀ + s·Σᵢ rᵢ·bᵢ` for its vectors.
///
/// `W₀` is the module's own weight and is trained too; a kernel is a matrix of output channels by the rest. `Bᵢ` start at zero, so that
/// every preference starts as the module itself; `Aᵢ` are drawn from `seed`. Mixed weights need no extra work at inference:
/// [`at`](ParetoSet::at) gives a plain model.
///
/// | parameter | default | range | effect |
/// |---|---|---|---|
/// | `rank` | | >= 1 | inner dimension of `BᵢAᵢ`; cut to that of the weight |
/// | `scale` | 1 | > 0 | `s` |
///
/// Memory: `tasks · rank · (rows + columns)` a matrix. W. Chen and J. Kwok, "Efficient Pareto Manifold Learning with Low-Rank
/// Structure", ICML 2024, arXiv:2407.20734, equation 3; N. Dimitriadis, P. Frossard, F. Fleuret, "Pareto Low-Rank Adapters", 2024,
/// arXiv:2407.08056. Their schedules and their orthogonality penalty are left to the loop.
///
/// ```
/// use burn::{nn::LinearConfig, tensor::{Device, Tensor}};
/// use multitask::pareto::{LowRankPareto, ParetoSet, preference};
///
/// let device = Device::default();
/// let set = LowRankPareto::new(LinearConfig::new(8, 4).init(&device), 2, 1, 7, &device)?;
/// let model = set.at(preference(&[0.3, 0.7], &device));
/// assert_eq!(model.forward(Tensor::<2>::ones([5, 8], &device)).dims(), [5, 4]);
/// # Ok::<(), multitask::ModelError>(())
/// ```
#[derive(Module, Debug)]
pub struct LowRankPareto<M: Module> {
    /// The common weights.
    pub base: M,
    changes: Vec<Change>,
    #[module(skip)]
    trained: Vec<bool>,
    tasks: usize,
    scale: f64,
}

/// What a preference changes in one parameter.
#[derive(Module, Debug)]
enum Change {
    Matrix(LowRank),
    Vector(Shift),
}

#[derive(Module, Debug)]
struct LowRank {
    /// `B`, `[tasks, rows, rank]`
    up: Param<Tensor<3>>,
    /// `A`, `[tasks, rank, columns]`
    down: Param<Tensor<3>>,
}

#[derive(Module, Debug)]
struct Shift {
    /// `[tasks, length]`
    shift: Param<Tensor<2>>,
}

impl<M: Module> LowRankPareto<M> {
    /// Of a module as initialised.
    ///
    /// # Errors
    /// [`ModelError::Parameter`] for no tasks or rank, or for a module without trained parameters.
    pub fn new(base: M, tasks: usize, rank: usize, seed: u64, device: &Device) -> Result<Self> {
        let parameters = trainable(&base);
        let count = parameters.iter().filter(|(trained, _)| *trained).count();
        for (parameter, count) in [("tasks", tasks), ("rank", rank), ("trained parameters", count)] {
            if count == 0 {
                return Err(ModelError::parameter(parameter, 0.0, "at least 1"));
            }
        }
        let random = Random::new(seed).fork("low rank");
        let changes = parameters.iter().enumerate().filter(|(_, (trained, _))| *trained).map(|(i, (_, shape))| {
            match shape.as_slice() {
                [rows, rest @ ..] if !rest.is_empty() => {
                    let columns = rest.iter().product::<usize>();
                    let rank = rank.min(*rows).min(columns).max(1);
                    let bound = 1.0 / (columns.max(1) as f64).sqrt();
                    let down = random.fork(i.to_string()).uniform([tasks, rank, columns], -bound, bound, device);
                    let up = Tensor::zeros([tasks, *rows, rank], device);
                    Change::Matrix(LowRank { up: Param::from_tensor(up), down: Param::from_tensor(down) })
                }
                vector => {
                    let shift = Tensor::zeros([tasks, vector.iter().product::<usize>()], device);
                    Change::Vector(Shift { shift: Param::from_tensor(shift) })
                }
            }
        });
        let changes = changes.collect();
        let trained = parameters.into_iter().map(|(trained, _)| trained).collect();
        Ok(Self { base, changes, trained, tasks, scale: 1.0 })
    }

    /// Another scale of the changes.
    ///
    /// # Errors
    /// [`ModelError::Parameter`] unless it is positive and finite.
    pub fn with_scale(self, scale: f64) -> Result<Self> {
        match scale > 0.0 && scale.is_finite() {
            true => Ok(Self { scale, ..self }),
            false => Err(ModelError::parameter("scale", scale, "> 0 and finite")),
        }
    }
}

impl<M: Module + ModuleDisplay> ParetoSet<M> for LowRankPareto<M> {
    fn at(&self, preference: Tensor<1>) -> M {
        let preference = preference * self.scale;
        let changes = self.changes.iter().map(|change| match change {
            Change::Matrix(LowRank { up, down }) => {
                let share = preference.clone().reshape([self.tasks, 1, 1]);
                (up.val() * share).matmul(down.val()).sum_dim(0).reshape([-1])
            }
            Change::Vector(Shift { shift }) => {
                (shift.val() * preference.clone().reshape([self.tasks, 1])).sum_dim(0).reshape([-1])
            }
        });
        with_parameters(&self.base, &self.trained, changes.collect(), Given::Added)
    }

    fn tasks(&self) -> usize {
        self.tasks
    }
}

#[cfg(test)]
mod tests {
    use super::super::preference;
    use super::super::tests::{Point, learns_the_front};
    use super::*;
    use burn::nn::LinearConfig;
    use core_tensor::Tree;
    use core_tensor::testing::assert_close;

    #[test]
    fn every_preference_starts_as_the_base_and_learns_its_place() {
        let device = Device::flex();
        let set = LowRankPareto::new(Point::new(&device), 2, 1, 3, &device).unwrap();
        let start = Tree::from_module_all(&set.at(preference(&[0.9, 0.1], &device)));
        assert_close(&start, &Tree::from_module_all(&set.base), 0.0);
        learns_the_front(set, 800, 0.06);
    }

    #[test]
    fn changes_are_linear_in_the_preference_and_of_low_rank() {
        let device = Device::flex();
        let base = LinearConfig::new(5, 4).init(&device);
        let mut set = LowRankPareto::new(base, 2, 1, 3, &device).unwrap().with_scale(0.5).unwrap();
        for change in &mut set.changes {
            if let Change::Matrix(LowRank { up, .. }) = change {
                *up = Param::from_tensor(Random::new(1).normal(up.dims(), 0.0, 1.0, &device));
            }
        }
        let weight = |r: [f64; 2]| set.at(preference(&r, &device)).weight.val() - set.base.weight.val();
        let (first, second) = (weight([1.0, 0.0]), weight([0.0, 1.0]));
        let mixed = weight([0.3, 0.7]) - first.clone() * 0.3 - second * 0.7;
        assert!(mixed.abs().max().into_scalar::<f32>() < 1e-6);
        // Rank one: every minor of two rows and two columns is zero.
        let w: Vec<f64> = first.into_data().iter::<f64>().collect();
        for (i, j) in [(0, 1), (2, 4)] {
            for (k, l) in [(0, 3), (1, 2)] {
                let minor = w[i * 4 + k] * w[j * 4 + l] - w[i * 4 + l] * w[j * 4 + k];
                assert!(minor.abs() < 1e-6, "{minor}");
            }
        }
        assert!(w.iter().any(|x| x.abs() > 1e-3));
    }

    #[test]
    fn bad_settings_are_refused() {
        let device = Device::flex();
        let new = |tasks, rank| LowRankPareto::new(Point::new(&device), tasks, rank, 0, &device);
        assert!(new(0, 1).is_err() && new(1, 0).is_err());
        assert!(new(1, 1).unwrap().with_scale(0.0).is_err());
    }
}
