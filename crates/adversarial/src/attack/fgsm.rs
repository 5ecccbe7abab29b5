//! The fast gradient sign method and its siblings in the other norms.

use super::geometry::linear_maximiser;
use super::{Attack, Setting, Walk};
use crate::engine::{Case, Oracle};
use crate::error::Result;
use crate::loss::Objective;

/// FGSM: one step to where the linearised loss is largest, the cheapest attack and a weak one.
///
/// | norm | point |
/// |---|---|
/// | `Linf` | `x₀ + ε·sign(∇L)` |
/// | `L2` | `x₀ + ε·∇L/‖∇L‖₂` |
/// | `L1` | the elements of largest `|∂L|` to the bounds of the box, until `ε` is used up |
/// | `L0` | the `ε` elements of largest `|∂L|` to the bounds of the box |
///
/// Cost: one gradient and one more query.
///
/// I. Goodfellow, J. Shlens, C. Szegedy, "Explaining and harnessing adversarial examples", ICLR 2015, arXiv:1412.6572, section 4.
///
/// ```
/// use adversarial::{Attack, Fgsm, Goals, Norm, Recorded, Threat};
/// use burn::nn::LinearConfig;
/// use burn::tensor::{Device, Tensor};
///
/// let device = Device::flex();
/// let model = LinearConfig::new(4, 3).init(&device);
/// let classifier = Recorded::new(&model, [4], |model, x: Tensor<2>| model.forward(x))?;
/// let x = Tensor::<2>::full([2, 4], 0.5, &device);
/// let attacked = Fgsm::new().attack(&classifier, Threat::new(Norm::Linf, 0.1)?, x, &Goals::untargeted(&[0, 1]))?;
/// assert!(attacked.gradients() <= 2);
/// # Ok::<(), adversarial::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fgsm {
    objective: Objective,
}

impl Default for Fgsm {
    fn default() -> Self {
        Self::new()
    }
}

impl Fgsm {
    /// FGSM with cross-entropy.
    pub fn new() -> Self {
        Self { objective: Objective::CrossEntropy }
    }

    /// Sets the loss.
    pub fn objective(self, objective: Objective) -> Self {
        Self { objective }
    }
}

impl Attack for Fgsm {
    fn name(&self) -> String {
        "FGSM".into()
    }

    fn check(&self, setting: &Setting) -> Result<()> {
        self.objective.check(setting.classes, setting.targeted)
    }

    fn walk(&self, case: Case, oracle: Oracle) -> Walk<'_> {
        Box::pin(async move {
            let loss = self.objective.loss(&case.goal(), case.run().target);
            let gradient = oracle.gradient(case.x0(), loss.clone()).await.gradient;
            oracle.value(&linear_maximiser(&case, &gradient), loss).await;
        })
    }
}
