//! Losses of one example's logits with their gradients, to be maximised.

use std::fmt;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::goal::Goal;

/// A loss of one example's logits `z`, to be maximised, with its gradient in the logits.
///
/// | loss | value |
/// |---|---|
/// | `CrossEntropy { label }` | `−log softmax(z)_label` |
/// | `TowardClass { target }` | `log softmax(z)_target` |
/// | `Dlr { label }` | [`dlr_loss`](crate::dlr_loss), 3 classes or more |
/// | `DlrTargeted { label, target }` | [`dlr_loss_targeted`](crate::dlr_loss_targeted), 4 classes or more |
/// | `Margin { label }` | `max_{i≠label} zᵢ − z_label` |
/// | `MarginTo { target }` | `z_target − max_{i≠target} zᵢ` |
/// | `Difference { plus, minus }` | `z_plus − z_minus` |
/// | `Custom` | any function that writes its gradient and returns its value |
///
/// Values and gradients are computed in `f64`. The gradient of the cross-entropy at the label is taken as the sum of the other
/// probabilities, so that it does not vanish where `1 − p` would round to zero in `f32`.
#[derive(Clone)]
#[non_exhaustive]
pub enum Loss {
    /// `−log softmax(z)_label`
    CrossEntropy {
        /// The class to leave.
        label: usize,
    },
    /// `log softmax(z)_target`
    TowardClass {
        /// The class to reach.
        target: usize,
    },
    /// The difference of logits ratio.
    Dlr {
        /// The class to leave.
        label: usize,
    },
    /// The targeted difference of logits ratio.
    DlrTargeted {
        /// The class to leave.
        label: usize,
        /// The class to reach.
        target: usize,
    },
    /// `max_{i≠label} zᵢ − z_label`
    Margin {
        /// The class to leave.
        label: usize,
    },
    /// `z_target − max_{i≠target} zᵢ`
    MarginTo {
        /// The class to reach.
        target: usize,
    },
    /// `z_plus − z_minus`
    Difference {
        /// The logit to raise.
        plus: usize,
        /// The logit to lower.
        minus: usize,
    },
    /// A function of `(logits, gradient)`: writes the gradient, which comes as zeros, and returns the value.
    Custom(Arc<LossFunction>),
}

/// See [`Loss::Custom`].
pub type LossFunction = dyn Fn(&[f32], &mut [f32]) -> f64 + Send + Sync;

impl fmt::Debug for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CrossEntropy { label } => write!(f, "CrossEntropy {{ label: {label} }}"),
            Self::TowardClass { target } => write!(f, "TowardClass {{ target: {target} }}"),
            Self::Dlr { label } => write!(f, "Dlr {{ label: {label} }}"),
            Self::DlrTargeted { label, target } => write!(f, "DlrTargeted {{ label: {label}, target: {target} }}"),
            Self::Margin { label } => write!(f, "Margin {{ label: {label} }}"),
            Self::MarginTo { target } => write!(f, "MarginTo {{ target: {target} }}"),
            Self::Difference { plus, minus } => write!(f, "Difference {{ plus: {plus}, minus: {minus} }}"),
            Self::Custom(_) => write!(f, "Custom"),
        }
    }
}

impl Loss {
    /// The margin that decides about a goal.
    pub fn margin(goal: &Goal) -> Self {
        Objective::Margin.loss(goal, None)
    }

    /// The value; adds the gradient to `gradient`, which has to be zeros of the logits' length.
    pub fn value_and_gradient(&self, logits: &[f32], gradient: &mut [f32]) -> f64 {
        let z = |i: usize| f64::from(logits[i]);
        match self {
            Self::CrossEntropy { label } => -log_probability(logits, *label, gradient, -1.0),
            Self::TowardClass { target } => log_probability(logits, *target, gradient, 1.0),
            Self::Margin { label } => {
                let other = best_but(logits, *label);
                gradient[*label] -= 1.0;
                gradient[other] += 1.0;
                z(other) - z(*label)
            }
            Self::MarginTo { target } => {
                let other = best_but(logits, *target);
                gradient[*target] += 1.0;
                gradient[other] -= 1.0;
                z(*target) - z(other)
            }
            Self::Difference { plus, minus } => {
                gradient[*plus] += 1.0;
                gradient[*minus] -= 1.0;
                z(*plus) - z(*minus)
            }
            Self::Dlr { label } => {
                let order = descending(logits);
                let other = if order[0] == *label { order[1] } else { order[0] };
                ratio(logits, (other, *label), &[(order[0], 1.0), (order[2], -1.0)], gradient)
            }
            Self::DlrTargeted { label, target } => {
                let order = descending(logits);
                let spread = [(order[0], 1.0), (order[2], -0.5), (order[3], -0.5)];
                ratio(logits, (*target, *label), &spread, gradient)
            }
            Self::Custom(function) => function(logits, gradient),
        }
    }

    /// The value alone.
    pub fn value(&self, logits: &[f32]) -> f64 {
        self.value_and_gradient(logits, &mut vec![0.0; logits.len()])
    }
}

/// Which loss an attack maximises; the example's goal, or the target that a run heads for, makes it a [`Loss`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Objective {
    /// Cross-entropy of the label, or the log-probability of the target.
    CrossEntropy,
    /// The margin between the two best classes, of Carlini and Wagner.
    Margin,
    /// The difference of logits ratio: 3 classes, 4 with a target.
    Dlr,
}

impl Objective {
    /// The loss for a goal; `heading` is the class that a run heads for, if the goal has no target of its own.
    pub fn loss(self, goal: &Goal, heading: Option<usize>) -> Loss {
        let label = goal.label();
        match (self, goal.target().or(heading)) {
            (Self::CrossEntropy, None) => Loss::CrossEntropy { label },
            (Self::CrossEntropy, Some(target)) => Loss::TowardClass { target },
            (Self::Margin, None) => Loss::Margin { label },
            (Self::Margin, Some(target)) => Loss::MarginTo { target },
            (Self::Dlr, None) => Loss::Dlr { label },
            (Self::Dlr, Some(target)) => Loss::DlrTargeted { label, target },
        }
    }

    /// Refuses models with too few classes.
    ///
    /// # Errors
    /// [`Error::TooFewClasses`].
    pub fn check(self, classes: usize, targeted: bool) -> Result<()> {
        let (what, needed) = match (self, targeted) {
            (Self::Dlr, true) => ("the targeted DLR loss", 4),
            (Self::Dlr, false) => ("the DLR loss", 3),
            _ => ("a classification loss", 2),
        };
        if classes < needed {
            return Err(Error::TooFewClasses { what, needed, classes });
        }
        Ok(())
    }
}

/// `log softmax(z)_class`, its gradient times `sign` added to `gradient`.
fn log_probability(logits: &[f32], class: usize, gradient: &mut [f32], sign: f64) -> f64 {
    let largest = logits.iter().fold(f32::NEG_INFINITY, |a, b| a.max(*b));
    let weight = |z: f32| f64::from(z - largest).exp();
    let total: f64 = logits.iter().map(|z| weight(*z)).sum();
    let mut others = 0.0;
    for (i, z) in logits.iter().enumerate().filter(|(i, _)| *i != class) {
        let p = weight(*z) / total;
        others += p;
        gradient[i] -= (sign * p) as f32;
    }
    gradient[class] += (sign * others) as f32;
    // log p = −log(1 + (others / own)), exact where the class is all but certain.
    f64::from(logits[class] - largest) - total.ln()
}

/// `(z_plus − z_minus) / (Σ c·z + 1e-12)` with its gradient.
fn ratio(logits: &[f32], (plus, minus): (usize, usize), spread: &[(usize, f64)], gradient: &mut [f32]) -> f64 {
    let z = |i: usize| f64::from(logits[i]);
    let denominator = spread.iter().map(|(i, c)| c * z(*i)).sum::<f64>() + 1e-12;
    let value = (z(plus) - z(minus)) / denominator;
    let mut add = |i: usize, g: f64| gradient[i] = (f64::from(gradient[i]) + g) as f32;
    add(plus, 1.0 / denominator);
    add(minus, -1.0 / denominator);
    for (i, c) in spread {
        add(*i, -value * c / denominator);
    }
    value
}

fn best_but(logits: &[f32], class: usize) -> usize {
    let others = (0..logits.len()).filter(|i| *i != class);
    others.max_by(|a, b| logits[*a].total_cmp(&logits[*b]).then(b.cmp(a))).unwrap_or(class)
}

/// Classes from the largest logit to the smallest, the first of equal ones first.
pub(crate) fn descending(logits: &[f32]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, Int, Tensor, TensorData};
    use proptest::prelude::*;

    fn all(label: usize, target: usize) -> Vec<Loss> {
        vec![
            Loss::CrossEntropy { label },
            Loss::TowardClass { target },
            Loss::Dlr { label },
            Loss::DlrTargeted { label, target },
            Loss::Margin { label },
            Loss::MarginTo { target },
            Loss::Difference { plus: target, minus: label },
        ]
    }

    proptest! {
        /// Logits of a strict order, so that every loss is differentiable.
        #[test]
        fn gradients_match_central_differences(
            order in Just((0..5usize).collect::<Vec<_>>()).prop_shuffle(), gap in 0.2f32..1.0,
            label in 0usize..5, shift in 1usize..5,
        ) {
            let z: Vec<f32> = order.iter().map(|i| *i as f32 * gap - 1.0).collect();
            for loss in all(label, (label + shift) % 5) {
                let mut gradient = vec![0.0; 5];
                loss.value_and_gradient(&z, &mut gradient);
                for i in 0..5 {
                    let h = 1.0f32 / 256.0;
                    let at = |s: f32| {
                        let mut z = z.clone();
                        z[i] += s;
                        loss.value(&z)
                    };
                    let difference = (at(h) - at(-h)) / f64::from((z[i] + h) - (z[i] - h));
                    prop_assert!((difference - f64::from(gradient[i])).abs() < 1e-3 * (1.0 + difference.abs()),
                        "{loss:?} {i}: {difference} {}", gradient[i]);
                }
            }
        }

        #[test]
        fn ratios_are_those_of_the_tensors(z in proptest::collection::vec(-5f32..5.0, 4), label in 0usize..4, shift in 1usize..4) {
            let target = (label + shift) % 4;
            let device = Device::flex();
            let logits = Tensor::<2>::from_data(TensorData::new(z.clone(), [1, 4]), &device);
            let class = |c: usize| Tensor::<1, Int>::from_data([c as i64], &device);
            let untargeted = crate::dlr_loss(logits.clone(), &class(label)).unwrap().into_scalar::<f32>();
            let targeted = crate::dlr_loss_targeted(logits, &class(label), &class(target)).unwrap().into_scalar::<f32>();
            let close = |a: f64, b: f32| (a - f64::from(b)).abs() <= 1e-4 * (1.0 + a.abs());
            let (dlr, to) = (Loss::Dlr { label }, Loss::DlrTargeted { label, target });
            prop_assert!(close(dlr.value(&z), untargeted) && close(to.value(&z), targeted));
        }
    }

    #[test]
    fn the_gradient_of_a_sure_model_does_not_vanish() {
        let mut gradient = [0.0; 3];
        let value = Loss::CrossEntropy { label: 0 }.value_and_gradient(&[60.0, 0.0, 1.0], &mut gradient);
        assert!(gradient[0] < 0.0 && gradient[1] > 0.0 && gradient[2] > gradient[1], "{gradient:?} {value}");
        assert_eq!(gradient[0], -(gradient[1] + gradient[2]));
    }
}
