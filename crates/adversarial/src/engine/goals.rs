//! What is wanted of a batch.

use burn::tensor::{Int, Tensor};

use crate::error::{Error, Result};
use crate::goal::Goal;

/// A [`Goal`] for each example of a batch.
///
/// ```
/// use adversarial::Goals;
///
/// let goals = Goals::targeted(&[3, 1], &[0, 2])?.confidence(5.0)?;
/// assert_eq!((goals.len(), goals.get(1).target()), (2, Some(2)));
/// assert!(Goals::targeted(&[3, 1], &[0]).is_err());
/// # Ok::<(), adversarial::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Goals(Vec<Goal>);

impl Goals {
    /// Any class but each example's label.
    pub fn untargeted(labels: &[usize]) -> Self {
        Self(labels.iter().map(|label| Goal::untargeted(*label)).collect())
    }

    /// A class for each example, whose own is the label.
    ///
    /// # Errors
    /// [`Error::Shape`] if there are not as many targets as labels.
    pub fn targeted(labels: &[usize], targets: &[usize]) -> Result<Self> {
        if labels.len() != targets.len() {
            let expected = format!("[{}], one for each label", labels.len());
            return Err(Error::Shape { what: "targets", actual: vec![targets.len()], expected });
        }
        Ok(Self(labels.iter().zip(targets).map(|(label, target)| Goal::targeted(*label, *target)).collect()))
    }

    /// Any class but each example's label, from a tensor: one host synchronisation.
    ///
    /// # Errors
    /// [`Error::Label`] for a negative one.
    pub fn from_labels(labels: &Tensor<1, Int>) -> Result<Self> {
        let labels = labels.to_data();
        let label = |(example, label): (usize, i64)| {
            let wrong = Error::Label { what: "the label", example, label, classes: usize::MAX };
            usize::try_from(label).map_err(|_| wrong)
        };
        let labels = labels.iter::<i64>().enumerate().map(label).collect::<Result<Vec<usize>>>()?;
        Ok(Self::untargeted(&labels))
    }

    /// The same with a margin to be reached.
    ///
    /// # Errors
    /// As [`Goal::confidence`].
    pub fn confidence(self, confidence: f32) -> Result<Self> {
        Ok(Self(self.0.into_iter().map(|goal| goal.confidence(confidence)).collect::<Result<_>>()?))
    }

    /// Number of examples.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The goal of an example.
    ///
    /// # Panics
    /// If there are not so many.
    pub fn get(&self, example: usize) -> Goal {
        self.0[example]
    }

    /// The goals of some of the examples.
    ///
    /// # Panics
    /// If there are not so many.
    pub fn select(&self, examples: &[usize]) -> Self {
        Self(examples.iter().map(|i| self.0[*i]).collect())
    }

    pub(crate) fn targeted_any(&self) -> bool {
        self.0.iter().any(|goal| goal.target().is_some())
    }

    /// Refuses labels and targets that are no class.
    pub(crate) fn check(&self, classes: usize) -> Result<()> {
        if classes < 2 {
            return Err(Error::TooFewClasses { what: "an attack", needed: 2, classes });
        }
        for (example, goal) in self.0.iter().enumerate() {
            let named = [("the label", Some(goal.label())), ("the target", goal.target())];
            for (what, class) in named {
                if let Some(class) = class.filter(|class| *class >= classes) {
                    return Err(Error::Label { what, example, label: class as i64, classes });
                }
            }
            if goal.target() == Some(goal.label()) {
                let label = goal.label() as i64;
                return Err(Error::Label { what: "the target, which is the label,", example, label, classes });
            }
        }
        Ok(())
    }
}

impl From<Vec<Goal>> for Goals {
    fn from(goals: Vec<Goal>) -> Self {
        Self(goals)
    }
}
