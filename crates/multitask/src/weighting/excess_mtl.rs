//! Excess-MTL: weight for what can still be gained.

use core_tensor::Tree;
use core_tensor::transform::State;

use crate::check::positive;
use crate::solvers::softmax;
use crate::{Aggregated, Aggregator, Error, Gramian, Jacobian, Method, Report, Result};

/// Weights by excess risk, the part of a loss that training can still remove.
///
/// A task with noisy labels has a high loss for ever; its excess risk goes to zero, and so does its claim. The risk is
/// estimated from the gradient in the metric of its accumulated squares
///
/// $$ E_i = \sum_k \frac{g_{ik}^2}{\sqrt{\sum_{s \le t} g_{ik,s}^2 + \epsilon}}, \qquad
/// w_i \propto w_i \exp\big(\eta\, E_i/E_i^{(0)}\big), \quad \sum_i w_i = m $$
///
/// | parameter | default | range | effect |
/// |---|---|---|---|
/// | `eta` | none; 0.01 in the authors' code | `> 0` | how fast weights follow |
///
/// Weights start at 1; the first step gives the scale `E⁽⁰⁾`. Needs the gradients of all tasks, so it is an
/// [`Aggregator`]. Memory: a tree of
/// squares a task. Cost: two passes over rows and squares, the Gramian for the report, one weighted sum. State:
/// squares, weights, scales. A gradient that is
/// not finite leaves no trace. Errors: [`Error::Tasks`] if the number of tasks changes.
///
/// Y. He, S. Zhou, G. Zhang, H. Yun, Y. Xu, B. Zeng, T. Chilimbi, H. Zhao, "Robust multi-task learning with excess
/// risks", ICML 2024,
/// arXiv:2402.02009, algorithm 1.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use core_tensor::Tree;
/// use multitask::Aggregator;
/// use multitask::weighting::ExcessMtl;
///
/// let row = |x: [f32; 2]| Tree::empty().push("w", Tensor::<1>::from_data(x, &Device::flex()));
/// let mut excess = ExcessMtl::new(1.0)?;
/// excess.aggregate(&[row([1.0, 0.0])?, row([0.0, 1.0])?])?;
/// let out = excess.aggregate(&[row([0.01, 0.0])?, row([0.0, 1.0])?])?;
/// assert!(out.report.weights.unwrap()[1] > 1.2, "the first has little left to gain");
/// # Ok::<(), multitask::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct ExcessMtl {
    eta: f64,
    /// Logarithms of the weights, up to a common constant.
    logits: Vec<f64>,
    /// The first excess risks; NaN before.
    scales: Vec<f64>,
    squares: Vec<Option<Tree>>,
}

impl ExcessMtl {
    /// Weights that follow at the rate `eta`.
    ///
    /// # Errors
    /// [`Error::Parameter`] unless `0 < eta < ∞`.
    pub fn new(eta: f64) -> Result<Self> {
        Ok(Self { eta: positive("eta", eta)?, logits: vec![], scales: vec![], squares: vec![] })
    }
}

impl Method for ExcessMtl {
    fn name(&self) -> &'static str {
        "excess_mtl"
    }

    fn state(&self) -> State {
        let state = State::new().with("logits", self.logits.clone()).with("scales", self.scales.clone());
        let squares = self.squares.iter().enumerate();
        squares.fold(state, |state, (i, tree)| state.with(format!("squares/{i}"), tree.clone()))
    }

    fn load_state(&mut self, mut state: State) -> Result<()> {
        let (logits, scales): (Vec<f64>, Vec<f64>) = (state.take("logits")?, state.take("scales")?);
        let squares: core_tensor::Result<Vec<Option<Tree>>> =
            (0..logits.len()).map(|i| state.take_optional(&format!("squares/{i}"))).collect();
        let squares = squares?;
        state.finish()?;
        if scales.len() != logits.len() {
            let (expected, actual) = (logits.len(), scales.len());
            return Err(Error::Core(core_tensor::Error::Length { what: "scales", expected, actual }));
        }
        (self.logits, self.scales, self.squares) = (logits, scales, squares);
        Ok(())
    }
}

impl Aggregator for ExcessMtl {
    fn aggregate(&mut self, rows: &[Tree]) -> Result<Aggregated> {
        let gramian = Gramian::of(rows)?;
        let total = rows.len();
        if !self.logits.is_empty() && self.logits.len() != total {
            let (method, expected) = (self.name(), self.logits.len());
            return Err(Error::Tasks { method, what: "the state", expected, actual: total });
        }
        self.logits.resize(total, 0.0);
        self.scales.resize(total, f64::NAN);
        self.squares.resize(total, None);
        for task in gramian.tasks().iter().copied() {
            let row = &rows[task];
            let square = row.clone().mul(row)?;
            let squares = match self.squares[task].take() {
                None => square,
                Some(squares) => squares.add(&square)?,
            };
            let terms = squares.clone().zip_flat(row, |squares, g| g.clone() * g / (squares + 1e-7).sqrt())?;
            let risk = terms.sum().value();
            self.squares[task] = Some(squares);
            if self.scales[task].is_nan() {
                self.scales[task] = risk;
            } else if self.scales[task] > 0.0 && risk.is_finite() {
                self.logits[task] += self.eta * risk / self.scales[task];
            }
        }
        // Only differences matter, and they would lose digits beside a common part that grows.
        let largest = self.logits.iter().fold(f64::NEG_INFINITY, |a, b| a.max(*b));
        self.logits.iter_mut().for_each(|x| *x -= largest);
        let own: Vec<f64> = gramian.tasks().iter().map(|task| self.logits[*task]).collect();
        let m = own.len() as f64;
        let weights: Vec<f64> = softmax(&own).into_iter().map(|w| m * w).collect();
        let weights = gramian.spread(&weights);
        let gradient = rows.combine(&weights)?;
        Ok(Aggregated { gradient, report: Report { weights: Some(weights), gramian, groups: vec![] } })
    }
}
