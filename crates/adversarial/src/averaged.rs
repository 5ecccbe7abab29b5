//! The average of a classifier with randomness.

use burn::tensor::{Device, Tensor};

use crate::classifier::{Classifier, Pulled};
use crate::error::{Error, Result};

/// A classifier whose logits and gradients are means over several evaluations: expectation over transformation, for models that draw
/// random numbers.
///
/// Cost: `evaluations` of the classifier each time, one after the other.
///
/// A. Athalye, N. Carlini, D. Wagner, "Obfuscated gradients give a false sense of security", ICML 2018, arXiv:1802.00420, section 5.3.
///
/// ```
/// use adversarial::{Averaged, Classifier, Taped};
/// use burn::nn::LinearConfig;
/// use burn::tensor::{Device, Distribution, Tensor};
///
/// let device = Device::flex();
/// let model = LinearConfig::new(4, 3).init(&device);
/// let noisy = Taped::new(&model, |model, x: Tensor<2>| {
///     let noise = Tensor::random(x.dims(), Distribution::Normal(0.0, 0.1), &x.device());
///     model.forward(x + noise)
/// });
/// let averaged = Averaged::new(noisy, 20)?;
/// assert_eq!(averaged.logits(Tensor::ones([2, 4], &device))?.dims(), [2, 3]);
/// # Ok::<(), adversarial::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Averaged<C> {
    classifier: C,
    evaluations: usize,
}

impl<C> Averaged<C> {
    /// The mean of so many evaluations.
    ///
    /// # Errors
    /// [`Error::Parameter`] for none.
    pub fn new(classifier: C, evaluations: usize) -> Result<Self> {
        match evaluations {
            0 => Err(Error::Parameter { parameter: "evaluations", value: 0.0, bound: "at least 1" }),
            _ => Ok(Self { classifier, evaluations }),
        }
    }
}

impl<const D: usize, C: Classifier<D>> Classifier<D> for Averaged<C> {
    fn logits(&self, inputs: Tensor<D>) -> Result<Tensor<2>> {
        let mut sum = self.classifier.logits(inputs.clone())?;
        for _ in 1..self.evaluations {
            sum = sum + self.classifier.logits(inputs.clone())?;
        }
        Ok(sum / self.evaluations as f64)
    }

    fn pullback(&self, inputs: Tensor<D>) -> Result<Pulled<'_, D>> {
        let all =
            (0..self.evaluations).map(|_| self.classifier.pullback(inputs.clone())).collect::<Result<Vec<_>>>()?;
        let count = self.evaluations as f64;
        let mut logits = all[0].logits.clone();
        for pulled in &all[1..] {
            logits = logits + pulled.logits.clone();
        }
        let back = Box::new(move |cotangent: Tensor<2>| {
            let mut sum: Option<Tensor<D>> = None;
            for pulled in all {
                let gradient = (pulled.back)(cotangent.clone() / count)?;
                sum = Some(match sum {
                    Some(sum) => sum + gradient,
                    None => gradient,
                });
            }
            Ok(sum.unwrap_or_else(|| unreachable!("one evaluation at least")))
        });
        Ok(Pulled { logits: logits / count, back })
    }

    fn device(&self) -> Device {
        self.classifier.device()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_of_what_does_not_change_is_the_same() {
        let classifier = crate::digits::recorded(&crate::digits::Net::new(3));
        let (x, _) = crate::digits::load().1.first(4);
        let averaged = Averaged::new(crate::digits::recorded(&crate::digits::Net::new(3)), 3).unwrap();
        let both = |c: &dyn Classifier<2>| {
            let pulled = c.pullback(x.clone()).unwrap();
            let cotangent = pulled.logits.ones_like();
            [pulled.logits.into_data(), (pulled.back)(cotangent).unwrap().into_data()]
                .map(|d| d.iter::<f64>().collect::<Vec<_>>())
        };
        for (a, b) in both(&classifier).concat().iter().zip(both(&averaged).concat()) {
            assert!((a - b).abs() < 1e-5, "{a} {b}");
        }
        assert!(Averaged::new((), 0).is_err());
    }
}
