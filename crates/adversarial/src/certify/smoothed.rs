//! Randomised smoothing: a classifier's majority vote under Gaussian noise, with a radius in which it cannot change.

use burn::tensor::Tensor;
use core_tensor::Random;

use crate::error::{Error, Result};
use crate::smoothing::{smoothing_certificate, upper_tail};

/// Predicts and certifies with the smoothed classifier `g(x) = argmax_c P(f(x + N(0, σ²I)) = c)` of any classifier `f`.
///
/// For certificates in `L2` of networks too large for bounds, or of classifiers that are no networks. What is certified is `g`, not
/// `f`: deploy [`predict`](Self::predict).
///
/// | setting | default | range | effect |
/// |---|---|---|---|
/// | `sigma` | – | > 0 | noise: larger certifies larger radii and costs accuracy |
/// | [`selection`](Self::selection) | 100 | ≥ 1 | draws `n₀` that choose the class |
/// | [`estimation`](Self::estimation) | 10,000 | ≥ 1 | draws `n` that bound its probability; the radius is below `σ·Φ⁻¹(α^(1/n))` |
/// | [`alpha`](Self::alpha) | 0.001 | `(0, 1)` | how often a certificate may be wrong |
/// | [`batch`](Self::batch) | 1,000 | ≥ 1 | draws that go through the classifier at once |
/// | [`seed`](Self::seed) | 0 | | the noise |
/// | [`first`](Self::first) | 0 | | index of the first example: the noise belongs to seed and index |
///
/// # Guarantees
/// - With probability `1 − α` over the noise no perturbation with `‖δ‖₂ < radius` changes the answer of the smoothed classifier, for
///   each example by itself. The box plays no part.
/// - The same seed and index give the same answer however examples and draws are batched, up to the classifier's own rounding
///   (`batches_do_not_matter`).
/// - Of a linear classifier with two classes the radius approaches the distance to the boundary from below
///   (`linear_classifiers_have_their_distance`).
///
/// # Cost
/// `n₀ + n` evaluations an example, `n` for a prediction, and a host synchronisation each batch.
///
/// # Errors
/// [`Error::Parameter`] outside of the ranges; whatever the classifier returns; [`Error::Shape`] if it does not give a row of
/// at least one class for each of its inputs.
///
/// ```
/// use adversarial::Smoothing;
/// use burn::tensor::{Device, Tensor};
///
/// let x = Tensor::<2>::from_data([[0.7, 0.1]], &Device::flex());
/// // Class 0 where the first element is above a half.
/// let classifier = |x: Tensor<2>| {
///     let first = x.slice_dim(1, 0..1) - 0.5;
///     Ok(Tensor::cat(vec![first.clone(), -first], 1))
/// };
/// let found = Smoothing::new(0.25)?.estimation(1000)?.certify(&x, classifier)?;
/// assert_eq!(found[0].class, Some(0));
/// assert!(found[0].radius > 0.1 && found[0].radius < 0.2 + 1e-6);
/// # Ok::<(), adversarial::Error>(())
/// ```
///
/// J. Cohen, E. Rosenfeld, J. Z. Kolter, "Certified adversarial robustness via randomized smoothing", ICML 2019,
/// arXiv:1902.02918, the algorithms `Certify` and `Predict`.
#[derive(Clone, Debug, PartialEq)]
pub struct Smoothing {
    sigma: f64,
    selection: usize,
    estimation: usize,
    alpha: f64,
    batch: usize,
    seed: u64,
    first: u64,
}

/// The answer of a smoothed classifier for one example.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Smoothed {
    /// The class, `None` where it abstains.
    pub class: Option<usize>,
    /// No perturbation smaller than this in `L2` changes it; 0 where it abstains, and for a mere prediction.
    pub radius: f64,
    /// The lower confidence bound of the class's probability; 0 for a mere prediction.
    pub p_lower: f64,
}

impl Smoothing {
    /// Smoothing with noise of standard deviation `sigma`.
    ///
    /// # Errors
    /// [`Error::Parameter`] unless it is above zero and finite.
    pub fn new(sigma: f64) -> Result<Self> {
        if !(sigma > 0.0 && sigma.is_finite()) {
            return Err(Error::Parameter { parameter: "sigma", value: sigma, bound: "0 < sigma < inf" });
        }
        Ok(Self { sigma, selection: 100, estimation: 10_000, alpha: 0.001, batch: 1000, seed: 0, first: 0 })
    }

    /// Draws that choose the class.
    ///
    /// # Errors
    /// [`Error::Parameter`] for none.
    pub fn selection(self, draws: usize) -> Result<Self> {
        Ok(Self { selection: some("selection", draws)?, ..self })
    }

    /// Draws that bound its probability.
    ///
    /// # Errors
    /// [`Error::Parameter`] for none.
    pub fn estimation(self, draws: usize) -> Result<Self> {
        Ok(Self { estimation: some("estimation", draws)?, ..self })
    }

    /// How often a certificate may be wrong.
    ///
    /// # Errors
    /// [`Error::Parameter`] outside of `(0, 1)`.
    pub fn alpha(self, alpha: f64) -> Result<Self> {
        match alpha > 0.0 && alpha < 1.0 {
            true => Ok(Self { alpha, ..self }),
            false => Err(Error::Parameter { parameter: "alpha", value: alpha, bound: "0 < alpha < 1" }),
        }
    }

    /// Draws at once.
    ///
    /// # Errors
    /// [`Error::Parameter`] for none.
    pub fn batch(self, draws: usize) -> Result<Self> {
        Ok(Self { batch: some("batch", draws)?, ..self })
    }

    /// The seed of the noise.
    #[must_use]
    pub fn seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }

    /// The index of the first example, for the noise of a later part of a data set.
    #[must_use]
    pub fn first(self, index: u64) -> Self {
        Self { first: index, ..self }
    }

    /// `Certify`: the class chosen by `n₀` draws, and the radius that `n` others prove.
    ///
    /// # Errors
    /// See the type.
    pub fn certify<const D: usize>(
        &self,
        inputs: &Tensor<D>,
        classifier: impl Fn(Tensor<D>) -> Result<Tensor<2>>,
    ) -> Result<Vec<Smoothed>> {
        self.each(inputs, |x, random| {
            let chosen = largest(&self.count(x, self.selection, random, &classifier)?)[0];
            let counts = self.count(x, self.estimation, random, &classifier)?;
            let hits = chosen.map_or(0, |class| counts.get(class).copied().unwrap_or(0));
            let certificate = smoothing_certificate(self.estimation as u64, hits, self.sigma, self.alpha)?;
            let class = certificate.radius.and(chosen);
            Ok(Smoothed { class, radius: certificate.radius.unwrap_or(0.0), p_lower: certificate.p_lower })
        })
    }

    /// `Predict`: the class that `n` draws give most often, unless a two-sided binomial test at the level `α` cannot tell it from the
    /// next.
    ///
    /// # Errors
    /// See the type.
    pub fn predict<const D: usize>(
        &self,
        inputs: &Tensor<D>,
        classifier: impl Fn(Tensor<D>) -> Result<Tensor<2>>,
    ) -> Result<Vec<Smoothed>> {
        self.each(inputs, |x, random| {
            let counts = self.count(x, self.estimation, random, &classifier)?;
            let [best, next] = largest(&counts);
            let of = |class: Option<usize>| class.map_or(0, |class| counts[class]);
            let (hits, others) = (of(best), of(next));
            let class = best.filter(|_| p_value(hits, hits + others) <= self.alpha);
            Ok(Smoothed { class, radius: 0.0, p_lower: 0.0 })
        })
    }

    fn each<const D: usize>(
        &self,
        inputs: &Tensor<D>,
        mut answer: impl FnMut(&Tensor<D>, &mut Random) -> Result<Smoothed>,
    ) -> Result<Vec<Smoothed>> {
        let random = Random::new(self.seed);
        let answers = (0..inputs.dims()[0]).map(|example| {
            let mut noise = random.fork((self.first + example as u64).to_le_bytes());
            answer(&inputs.clone().slice_dim(0, example..example + 1), &mut noise)
        });
        answers.collect()
    }

    /// How often each class is given in so many draws.
    fn count<const D: usize>(
        &self,
        x: &Tensor<D>,
        draws: usize,
        random: &mut Random,
        classifier: &impl Fn(Tensor<D>) -> Result<Tensor<2>>,
    ) -> Result<Vec<u64>> {
        let (mut counts, mut left) = (Vec::new(), draws);
        while left > 0 {
            let now = left.min(self.batch);
            let mut shape = x.dims();
            shape[0] = now;
            let noise = random.normal(shape, 0.0, self.sigma, &x.device());
            let logits = classifier(x.clone().expand(shape) + noise.cast(x.dtype()))?;
            let [rows, classes] = logits.dims();
            if rows != now || classes == 0 {
                let expected = format!("[{now}, classes], a row for each input");
                return Err(Error::Shape { what: "the classifier's result", actual: vec![rows, classes], expected });
            }
            counts.resize(counts.len().max(classes), 0);
            let values: Vec<f64> = logits.into_data().iter::<f64>().collect();
            for row in values.chunks(classes) {
                // A row with a NaN is a vote for nobody.
                if row.iter().any(|value| value.is_nan()) {
                    continue;
                }
                let class = (0..classes).fold(0, |best, class| if row[class] > row[best] { class } else { best });
                counts[class] += 1;
            }
            left -= now;
        }
        Ok(counts)
    }
}

fn some(parameter: &'static str, draws: usize) -> Result<usize> {
    match draws {
        0 => Err(Error::Parameter { parameter, value: 0.0, bound: "at least 1" }),
        draws => Ok(draws),
    }
}

/// The two classes counted most often, of those counted at all.
fn largest(counts: &[u64]) -> [Option<usize>; 2] {
    let mut order: Vec<usize> = (0..counts.len()).filter(|class| counts[*class] > 0).collect();
    order.sort_by_key(|class| std::cmp::Reverse(counts[*class]));
    [order.first().copied(), order.get(1).copied()]
}

/// The two-sided p-value of `k ≥ n/2` hits in `n` draws of a fair coin.
fn p_value(k: u64, n: u64) -> f64 {
    let tail = match k {
        0 => 1.0,
        k if k == n => (n as f64 * 0.5f64.ln()).exp(),
        k => upper_tail(n, k, 0.5),
    };
    (2.0 * tail).min(1.0)
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use core_tensor::testing::{host_devices, property};
    use proptest::prelude::*;

    use super::*;

    /// Two classes, `±(⟨w, x⟩ + b)`.
    fn linear(w: [f64; 3], b: f64, device: &Device) -> impl Fn(Tensor<2>) -> Result<Tensor<2>> + use<> {
        let w = Tensor::<2>::from_data(w.map(|w| [w]), device);
        move |x: Tensor<2>| {
            let z = x.matmul(w.clone()) + b;
            Ok(Tensor::cat(vec![z.clone(), -z], 1))
        }
    }

    /// `P(right) = Φ(d/σ)`, so the radius of infinitely many draws is the distance `d` to the boundary.
    #[test]
    fn linear_classifiers_have_their_distance() {
        let case = (prop::array::uniform3(-1.0f64..1.0), -0.5f64..0.5, prop::array::uniform3(0.0f64..1.0), 0u64..1000);
        property(24, case, |(w, b, x, seed)| {
            let norm = w.iter().map(|w| w * w).sum::<f64>().sqrt();
            prop_assume_(norm > 0.1, || {
                let device = Device::flex();
                let z = w.iter().zip(x).map(|(w, x)| w * x).sum::<f64>() + b;
                let distance = z.abs() / norm;
                let smoothing = Smoothing::new(0.3).unwrap().estimation(4000).unwrap().seed(seed);
                let inputs = Tensor::<2>::from_data([x], &device);
                let found = smoothing.certify(&inputs, linear(w, b, &device)).unwrap()[0];
                if distance > 0.06 {
                    assert_eq!(found.class, Some(usize::from(z < 0.0)));
                }
                // Wrong once in a thousand; the seeds are fixed.
                assert!(found.radius <= distance + 1e-6, "{found:?} {distance}");
                // Up to the width of the confidence interval, where 4000 draws can tell.
                if found.class.is_some() && distance < 0.45 {
                    assert!(found.radius > distance - 0.07, "{found:?} {distance}");
                }
            });
        });
    }

    fn prop_assume_(holds: bool, check: impl FnOnce()) {
        if holds {
            check();
        }
    }

    #[test]
    fn batches_do_not_matter() {
        for device in host_devices() {
            let inputs = Tensor::<2>::from_data([[0.4, 0.6, 0.1], [0.5, 0.5, 0.4], [0.9, 0.1, 0.3]], &device);
            let f = linear([1.0, -1.0, 0.5], 0.05, &device);
            let base = Smoothing::new(0.25).unwrap().estimation(700).unwrap().seed(7);
            let whole = base.clone().certify(&inputs, &f).unwrap();
            let parts = base.clone().batch(64).unwrap();
            assert_eq!(parts.certify(&inputs, &f).unwrap(), whole);
            for (i, answer) in whole.iter().enumerate() {
                let one = inputs.clone().slice_dim(0, i..i + 1);
                assert_eq!(base.clone().first(i as u64).certify(&one, &f).unwrap(), [*answer]);
            }
            assert_ne!(base.seed(8).certify(&inputs, &f).unwrap(), whole);
        }
    }

    #[test]
    fn it_abstains_where_it_cannot_tell() {
        let device = Device::flex();
        let inputs = Tensor::<2>::from_data([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]], &device);
        let f = linear([1.0, -1.0, 0.0], 0.0, &device);
        let smoothing = Smoothing::new(0.25).unwrap().estimation(500).unwrap();
        let certified = smoothing.certify(&inputs, &f).unwrap();
        let predicted = smoothing.predict(&inputs, &f).unwrap();
        assert_eq!((certified[0].class, certified[0].radius, predicted[0].class), (None, 0.0, None));
        assert_eq!((certified[1].class, predicted[1].class), (Some(0), Some(0)));
        // Votes that are not numbers count for nobody.
        let broken = |x: Tensor<2>| Ok(x * f32::NAN);
        assert_eq!(smoothing.certify(&inputs, broken).unwrap()[1].class, None);
        assert_eq!(smoothing.predict(&inputs, broken).unwrap()[1].class, None);
    }

    #[test]
    fn p_values_by_hand() {
        assert_eq!(p_value(0, 0), 1.0);
        assert!((p_value(10, 10) - 2.0 / 1024.0).abs() < 1e-15);
        // scipy.stats.binomtest(60, 100).pvalue
        assert!((p_value(60, 100) - 0.056_887_933_640_980_8).abs() < 1e-10);
    }

    #[test]
    fn bad_settings_are_named() {
        let name = |error: Error| error.to_string();
        assert!(name(Smoothing::new(0.0).unwrap_err()).starts_with("sigma = 0"));
        let smoothing = Smoothing::new(1.0).unwrap();
        assert!(name(smoothing.clone().alpha(f64::NAN).unwrap_err()).starts_with("alpha = NaN"));
        assert!(name(smoothing.clone().selection(0).unwrap_err()).starts_with("selection = 0"));
        assert!(name(smoothing.clone().estimation(0).unwrap_err()).starts_with("estimation = 0"));
        assert!(name(smoothing.clone().batch(0).unwrap_err()).starts_with("batch = 0"));
        let x = Tensor::<2>::ones([1, 2], &Device::flex());
        let error = smoothing.certify(&x, |x: Tensor<2>| Ok(x.slice_dim(0, 0..1))).unwrap_err();
        assert!(name(error).contains("a row for each input"));
    }
}
