//! Many trade-offs instead of one: solutions by preference, sets of them, and how good a set is.
//!
//! | | gives |
//! |---|---|
//! | [`Epo`] | one solution at an exact ratio of losses, from the Gramian |
//! | [`ParetoMtl`] | one solution in each cone around a preference vector, from the Gramian |
//! | [`Cosmos`] | one network that takes the preference with its input |
//! | [`Hypernetwork`] | one network that makes the weights for a preference |
//! | [`LowRankPareto`] | one network and low-rank changes of its weights, mixed by the preference |
//! | [`hypervolume`], [`hypervolume_monte_carlo`] | how much a set of points dominates |
//! | [`non_dominated`], [`spacing`] | the front of a set, and how even it is |
//! | [`delta_m_higher_is_better`], [`delta_m_lower_is_better`] | the mean relative change against single-task models |
//!
//! The weights of [`Epo`] and [`ParetoMtl`] go straight into
//! [`TaskTrainer::step_weighted`](crate::TaskTrainer::step_weighted). The last three of the networks are [`ParetoSet`]s or
//! condition the input: asked for another preference they answer at once, without further training.

mod cosmos;
mod delta_m;
mod epo;
mod front;
mod hypernetwork;
mod hypervolume;
mod low_rank;
mod lp;
mod parameters;
mod pareto_mtl;
mod preference;

use burn::module::Module;
use burn::tensor::Tensor;

use crate::model::{ModelError, MultiTaskModel, Result};

pub use cosmos::Cosmos;
pub use delta_m::{Better, delta_m_higher_is_better, delta_m_lower_is_better};
pub use epo::{Epo, EpoMove, EpoStep};
pub use front::{dominates, non_dominated, spacing};
pub use hypernetwork::Hypernetwork;
pub use hypervolume::{Estimate, hypervolume, hypervolume_monte_carlo};
pub use low_rank::LowRankPareto;
pub use pareto_mtl::{ParetoMtl, ParetoMtlStep};
pub use preference::{dirichlet, preference};

/// A family of models, one for each preference, behind one set of parameters.
pub trait ParetoSet<M: Module>: Module {
    /// The model for a preference of shape `[tasks]`. Its weights depend on this module's parameters, so that a loss of it trains
    /// them; for inference it is a model like any other.
    fn at(&self, preference: Tensor<1>) -> M;

    /// Number of tasks.
    fn tasks(&self) -> usize;

    /// `Σ rᵢ·fᵢ` of the model for `r`, shape `[1]`: linear scalarisation, what the set is trained by with a preference drawn anew
    /// ([`dirichlet`]) for each step.
    ///
    /// Recorded with the preference as part of the batch, one [`Program`](core_tensor::Program) serves all preferences.
    fn scalarised<B>(&self, preference: Tensor<1>, batch: &B) -> Tensor<1>
    where
        M: MultiTaskModel<B>,
    {
        (self.at(preference.clone()).losses(batch) * preference).sum()
    }
}

fn check_points(points: &[Vec<f64>], objectives: usize) -> Result<()> {
    for point in points {
        if point.len() != objectives {
            return Err(ModelError::PerTask { what: "a point", expected: objectives, found: point.len() });
        }
        if let Some(x) = point.iter().find(|x| !x.is_finite()) {
            return Err(ModelError::parameter("objective", *x, "a finite number"));
        }
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::model::Part;
    use burn::module::Param;
    use burn::optim::AdamConfig;
    use burn::tensor::Device;
    use core_tensor::{Chain, Program, Random, Tree};

    /// `‖x − a‖²` and `‖x + a‖²` with `a = (1, …, 1)/√n`: the front is `√f₁ + √f₂ = 2`.
    pub fn losses(x: &[f64]) -> [f64; 2] {
        let a = 1.0 / (x.len() as f64).sqrt();
        [-a, a].map(|s| x.iter().map(|x| (x + s).powi(2)).sum())
    }

    pub fn gradients(x: &[f64]) -> [Vec<f64>; 2] {
        let a = 1.0 / (x.len() as f64).sqrt();
        [-a, a].map(|s| x.iter().map(|x| 2.0 * (x + s)).collect())
    }

    pub fn gramian(rows: &[Vec<f64>; 2]) -> Vec<f64> {
        let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
        rows.iter().flat_map(|x| rows.iter().map(move |y| dot(x, y))).collect()
    }

    /// A point of the plane with two quadratic losses, whose best trade-off for `r` is `Σ rᵢaᵢ`.
    #[derive(Module, Debug)]
    pub struct Point {
        pub x: Param<Tensor<2>>,
        pub shift: Param<Tensor<1>>,
    }

    impl Point {
        pub fn new(device: &Device) -> Self {
            let x = Tensor::from_data([[0.2], [0.1]], device);
            Self { x: Param::from_tensor(x), shift: Param::from_tensor(Tensor::zeros([2], device)) }
        }
        pub fn position(&self) -> Tensor<1> {
            self.x.val().reshape([2]) + self.shift.val()
        }
    }

    impl MultiTaskModel<Tensor<2>> for Point {
        fn tasks(&self) -> Vec<String> {
            vec!["first".into(), "second".into()]
        }
        fn losses(&self, minima: &Tensor<2>) -> Tensor<1> {
            (minima.clone() - self.position().unsqueeze()).square().sum_dim(1).squeeze_dim(1)
        }
        fn part(&self, _: &str) -> Part {
            Part::Shared
        }
    }

    /// Trains a set by linear scalarisation with preferences drawn anew and checks the model of every preference.
    pub fn learns_the_front<S: ParetoSet<Point> + Sync + 'static>(set: S, steps: usize, tolerance: f64) -> S {
        let device = Device::flex();
        let minima = Tensor::<2>::from_data([[1.0, 0.0], [-1.0, 0.5]], &device);
        let batch = |r: &[f64]| (minima.clone(), preference(r, &device));
        let program = Program::record_first_order(&set, &batch(&[0.5, 0.5]), |set: &S, (minima, r)| {
            set.scalarised(r.clone(), minima)
        });
        let program = program.unwrap();
        let mut train = Chain::new().before(AdamConfig::new().init());
        let mut set = set.to_device(&device.clone().autodiff()).train();
        let mut random = Random::new(5);
        for step in 0..steps {
            let r = dirichlet(&[1.0, 1.0], &mut random).unwrap();
            let out = program.value_and_grad(&Tree::from_module(&set), &batch(&r)).unwrap();
            let rate = 1e-2 * (1.0 - step as f64 / steps as f64);
            set = train.step_grads(rate, set, out.gradient, None).unwrap().into_model();
        }
        let set = set.valid();
        let mut front = Vec::new();
        for i in 0..=10 {
            let r = [f64::from(i) / 10.0, 1.0 - f64::from(i) / 10.0];
            let model = set.at(preference(&r, &device));
            let x: Vec<f64> = model.position().into_data().iter::<f64>().collect();
            let best = [r[0] - r[1], 0.5 * r[1]];
            let off = ((x[0] - best[0]).powi(2) + (x[1] - best[1]).powi(2)).sqrt();
            assert!(off < tolerance, "preference {r:?}: {x:?}, {off} from {best:?}");
            front.push(model.losses(&minima).into_data().iter::<f64>().collect::<Vec<f64>>());
        }
        // The front is the segment between the minima, of length² 4.25: f₁ = 4.25 t², f₂ = 4.25 (1 − t)².
        let ideal: Vec<Vec<f64>> =
            (0..=10).map(f64::from).map(|t| vec![0.0425 * t * t, 0.0425 * (10.0 - t).powi(2)]).collect();
        let volume = |points: &[Vec<f64>]| hypervolume(points, &[5.0, 5.0]).unwrap();
        assert!(volume(&front) > 0.98 * volume(&ideal), "{} of {}", volume(&front), volume(&ideal));
        set
    }
}
