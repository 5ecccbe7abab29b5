//! MoCo: momentum gradients and slowly moving weights.

use core_tensor::Tree;
use core_tensor::transform::State;

use super::samples::Carried;
use crate::check::{not_negative, positive, share};
use crate::solvers::project;
use crate::{Aggregated, Aggregator, Gramian, Jacobian, Method, Report, Result};

/// Moving averages of the gradients, and weights that make one step towards [`Mgda`](crate::Mgda)'s of these averages.
///
/// Corrects the bias of MGDA on noisy gradients with one sample a step, at the price of a stored gradient a task.
///
/// $$ y_i \leftarrow (1 - \beta)\, y_i + \beta g_i, \qquad
/// \lambda \leftarrow \Pi_\Delta\big(\lambda - \gamma\,(YY^\top + \rho I)\lambda\big), \qquad d = Y^\top\lambda $$
///
/// | parameter | default | range | effect |
/// |---|---|---|---|
/// | `beta` | 0.5 | `(0, 1]` | weight of the newest gradient |
/// | `gamma` | 0.1 | `> 0` | step of the weights, in units of one over a squared norm |
/// | `rho` | 0 | `≥ 0` | regularisation towards equal weights |
///
/// Averages start at the first gradient. A gradient that is not finite is left out of its average, and its task out of
/// the
/// step. The paper's decreasing `β_t`, `γ_t` are set with [`set_rates`](Self::set_rates). Memory: `m` gradients. Cost:
/// a pass over rows
/// and averages, two Gramians (one for the report), one weighted sum. State: averages and `λ`. Errors:
/// [`Error::Tasks`](crate::Error::Tasks) if the
/// number of tasks changes. The report's weights are those of the averages.
///
/// H. Fernando et al., "Mitigating gradient bias in multi-objective learning: a provably convergent approach", ICLR
/// 2023, algorithm 1
/// (without its correction by a bound on the gradients).
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use core_tensor::Tree;
/// use multitask::{Aggregator, MoCo};
///
/// let row = |x: [f32; 2]| Tree::empty().push("w", Tensor::<1>::from_data(x, &Device::flex()));
/// let mut moco = MoCo::new();
/// moco.aggregate(&[row([1.0, 0.0])?, row([0.0, 1.0])?])?;
/// let out = moco.aggregate(&[row([0.0, 0.0])?, row([0.0, 1.0])?])?;
/// assert!(out.gradient.get::<1>("w")?.try_into_vec_as::<f32>().unwrap()[0] > 0.2, "half of the past is left");
/// # Ok::<(), multitask::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct MoCo {
    beta: f64,
    gamma: f64,
    rho: f64,
    lambda: Option<Vec<f64>>,
    averages: Vec<Option<Tree>>,
}

impl Default for MoCo {
    fn default() -> Self {
        Self { beta: 0.5, gamma: 0.1, rho: 0.0, lambda: None, averages: vec![] }
    }
}

impl MoCo {
    /// The authors' first rates.
    pub fn new() -> Self {
        Self::default()
    }

    /// Regularisation towards equal weights.
    ///
    /// # Errors
    /// [`Error::Parameter`](crate::Error::Parameter) unless `0 <= rho < ∞`.
    pub fn rho(self, rho: f64) -> Result<Self> {
        Ok(Self { rho: not_negative("rho", rho)?, ..self })
    }

    /// The rates from now on.
    ///
    /// # Errors
    /// [`Error::Parameter`](crate::Error::Parameter) unless `0 < beta <= 1` and `0 < gamma < ∞`; the rates are then as
    /// they were.
    pub fn set_rates(&mut self, beta: f64, gamma: f64) -> Result<()> {
        let (beta, gamma) = (positive("beta", share("beta", beta)?)?, positive("gamma", gamma)?);
        (self.beta, self.gamma) = (beta, gamma);
        Ok(())
    }
}

impl Method for MoCo {
    fn name(&self) -> &'static str {
        "moco"
    }

    fn state(&self) -> State {
        let state = State::new().with("lambda", self.lambda.clone()).with("tasks", self.averages.len() as u64);
        let averages = self.averages.iter().enumerate();
        averages.fold(state, |state, (i, y)| state.with(format!("average/{i}"), y.clone()))
    }

    fn load_state(&mut self, mut state: State) -> Result<()> {
        let lambda = state.take_optional("lambda")?;
        let tasks: u64 = state.take("tasks")?;
        let averages: core_tensor::Result<Vec<Option<Tree>>> =
            (0..tasks).map(|i| state.take_optional(&format!("average/{i}"))).collect();
        let averages = averages?;
        state.finish()?;
        (self.lambda, self.averages) = (lambda, averages);
        Ok(())
    }
}

impl Aggregator for MoCo {
    fn aggregate(&mut self, rows: &[Tree]) -> Result<Aggregated> {
        let gramian = Gramian::of(rows)?;
        let carried = Carried::of(self.name(), &self.lambda, gramian.tasks(), rows.len())?;
        let mut averages = self.averages.clone();
        averages.resize(rows.len(), None);
        // What was known before goes out of memory as it is replaced.
        self.averages.clear();
        for task in gramian.tasks() {
            averages[*task] = Some(match averages[*task].take() {
                None => rows[*task].clone(),
                Some(y) => y.lerp(&rows[*task], self.beta)?,
            });
        }
        let kept: Vec<Tree> = gramian.tasks().iter().filter_map(|task| averages[*task].clone()).collect();
        let mut weights = carried.own();
        if !kept.is_empty() {
            let products = Gramian::of(&kept)?;
            let slopes = products.products().times(&weights);
            let step =
                |slope: f64, w: f64| (self.gamma * (products.unscaled(slope, 2) + self.rho * w)).clamp(-1e100, 1e100);
            weights = project(&weights.iter().zip(slopes).map(|(w, slope)| w - step(slope, *w)).collect::<Vec<_>>());
        }
        let lambda = carried.put(&weights);
        let gradient = match kept.is_empty() {
            true => rows.combine(&vec![0.0; rows.len()])?,
            false => kept.combine(&weights)?,
        };
        (self.lambda, self.averages) = (Some(lambda), averages);
        let weights = Some(gramian.spread(&weights));
        Ok(Aggregated { gradient, report: Report { weights, gramian, groups: vec![] } })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;
    use burn::tensor::{Device, Tensor};

    #[test]
    fn weights_and_averages_by_hand() {
        let row = |x: [f32; 2]| Tree::empty().push("w", Tensor::<1>::from_data(x, &Device::flex())).unwrap();
        let values = |tree: &Tree| tree.to_data()[0].1.iter::<f64>().collect::<Vec<_>>();
        let mut moco = MoCo::new();
        // λ − 0.1·(½, 2) = (0.45, 0.3), projected: (0.575, 0.425).
        let out = moco.aggregate(&[row([1.0, 0.0]), row([0.0, 2.0])]).unwrap();
        let weights = out.report.weights.unwrap();
        assert!((weights[0] - 0.575).abs() < 1e-15 && (weights[1] - 0.425).abs() < 1e-15, "{weights:?}");
        // The second row is lost: its average stays, and its weight waits.
        let out = moco.aggregate(&[row([0.0, 0.0]), row([f32::NAN, 0.0])]).unwrap();
        assert_eq!(values(moco.averages[1].as_ref().unwrap()), [0.0, 2.0]);
        assert_eq!(values(moco.averages[0].as_ref().unwrap()), [0.5, 0.0]);
        assert_eq!(out.report.weights.unwrap(), [1.0, 0.0]);
        assert!((moco.lambda.as_ref().unwrap()[1] - 0.425).abs() < 1e-15);
        assert!(moco.set_rates(0.0, 1.0).is_err() && moco.set_rates(0.1, 0.01).is_ok());
        let more = moco.aggregate(&[row([0.0, 0.0]), row([0.0, 0.0]), row([0.0, 0.0])]);
        assert!(matches!(more, Err(Error::Tasks { method: "moco", expected: 2, actual: 3, .. })));
    }
}
