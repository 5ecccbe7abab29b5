//! Constant: weights by hand.

use crate::{Error, Gramian, GramianAggregator, Method, Result};

/// A weighted sum with weights that someone chose: the linear scalarisation of the losses.
///
/// | parameter | default | range | effect |
/// |---|---|---|---|
/// | `weights` | none | finite, one a task | the weights |
///
/// Errors: [`Error::Tasks`] for another number of tasks than weights. A task whose gradient is not finite is left out,
/// the
/// others keep their weights.
///
/// ```
/// use multitask::solvers::Matrix;
/// use multitask::{Constant, Gramian, GramianAggregator};
///
/// let g = Gramian::from_products(&Matrix::symmetric(2, |_, _| 1.0))?;
/// assert_eq!(Constant::new(&[0.9, 0.1])?.weights(&g)?, [0.9, 0.1]);
/// # Ok::<(), multitask::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Constant {
    weights: Vec<f64>,
}

impl Constant {
    /// These weights, in the order of the tasks.
    ///
    /// # Errors
    /// [`Error::Parameter`] for a weight that is not finite.
    pub fn new(weights: &[f64]) -> Result<Self> {
        match weights.iter().find(|w| !w.is_finite()) {
            Some(w) => Err(Error::Parameter { parameter: "weights", value: *w, bound: "finite numbers" }),
            None => Ok(Self { weights: weights.to_vec() }),
        }
    }
}

impl Method for Constant {
    fn name(&self) -> &'static str {
        "constant"
    }
}

impl GramianAggregator for Constant {
    fn weights(&mut self, gramian: &Gramian) -> Result<Vec<f64>> {
        gramian.kept(self.name(), "the list of weights", &self.weights)
    }
}
