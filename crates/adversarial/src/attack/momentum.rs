//! Iterated FGSM with momentum, and the ways to make its examples transfer to other models.

use core_tensor::Random;

use super::check::at_least_one;
use super::geometry::{ascend, uniform_in_ball};
use super::{Attack, Setting, Walk};
use crate::engine::{Case, Oracle};
use crate::error::{Error, Result};
use crate::loss::Objective;

/// MI-FGSM and its kin: steps along a momentum of normalised gradients. For examples that fool models other than the attacked one; against the
/// model itself [`Apgd`](crate::Apgd) is stronger.
///
/// ```text
/// g^{k+1} = μ·g^k + G / mean|G|,   x^{k+1} = P(x^k + α·d(g^{k+1}))
/// ```
///
/// with the steepest direction `d` of the norm. `G` is the gradient of the loss at `x^k`, changed by the parts that are switched on; a zero gradient
/// adds nothing.
///
/// | part | setting | `G` |
/// |---|---|---|
/// | NI | [`nesterov`](Self::nesterov) | at `x^k + α·μ·d(g^k)` |
/// | SI | [`scales`](Self::scales) | the mean over `m` copies of the point scaled by `1, ½, ¼, …` |
/// | DI | [`diversity`](Self::diversity) | with a probability through the image shrunk at random and put at random on an empty one |
/// | TI | [`translation`](Self::translation) | smoothed by a Gaussian over `(2r + 1)²` pixels |
///
/// | parameter | default | range | effect |
/// |---|---|---|---|
/// | [`steps`](Self::steps) | 10 | ≥ 1 | steps |
/// | [`step_size`](Self::step_size) | `ε / steps` | > 0 | `α` |
/// | [`decay`](Self::decay) | 1 | ≥ 0 | `μ`; 0 is iterated FGSM |
/// | [`random_start`](Self::random_start) | no | | whether to begin at a random point of the ball |
/// | [`scales`](Self::scales) | 1 | ≥ 1 | copies `m` of SI; 5 in the paper |
/// | [`diversity`](Self::diversity) | none | probability in (0, 1], smallest size in (0, 1] | DI; 0.5 and 0.9 in the paper |
/// | [`translation`](Self::translation) | none | radius ≥ 1 | TI; 7 in the paper, with `σ = r/√3` |
///
/// Constructors: [`new`](Self::new) is MI-FGSM, [`ni`](Self::ni), [`di`](Self::di), [`ti`](Self::ti), [`si_ni`](Self::si_ni),
/// [`di_ti`](Self::di_ti).
///
/// Guarantees: without any part and `μ = 0` it is PGD from `x₀` bit for bit (`without_momentum_it_is_pgd`); the gradients of DI and TI go back
/// through the exact adjoints of what was done to the image (`the_maps_have_their_adjoints`).
///
/// Cost: `m` gradients a step, one query at the end.
///
/// Errors: [`Error::Unsupported`] for DI and TI on other shapes than `[channels, height, width]`, [`Error::Parameter`].
///
/// Y. Dong et al., "Boosting adversarial attacks with momentum", CVPR 2018, arXiv:1710.06081, algorithm 1; C. Xie et al., "Improving transferability of
/// adversarial examples with input diversity", CVPR 2019, arXiv:1803.06978; Y. Dong et al., "Evading defenses to transferable adversarial examples by
/// translation-invariant attacks", CVPR 2019, arXiv:1904.02884; J. Lin et al., "Nesterov accelerated gradient and scale invariance for adversarial
/// attacks", ICLR 2020, arXiv:1908.06281.
///
/// ```
/// use adversarial::{Attack, Goals, MiFgsm, Norm, Recorded, Threat};
/// use burn::nn::LinearConfig;
/// use burn::tensor::{Device, Tensor};
///
/// let device = Device::flex();
/// let model = LinearConfig::new(16, 3).init(&device);
/// let classifier = Recorded::new(&model, [1, 4, 4], |model, x: Tensor<4>| model.forward(x.flatten::<2>(1, 3)))?;
/// let x = Tensor::<4>::full([2, 1, 4, 4], 0.5, &device);
/// let attacked = MiFgsm::di_ti().attack(&classifier, Threat::new(Norm::Linf, 0.1)?, x, &Goals::untargeted(&[0, 1]))?;
/// assert!(attacked.gradients() <= 2 * 10);
/// # Ok::<(), adversarial::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MiFgsm {
    steps: usize,
    step_size: Option<f64>,
    decay: f64,
    random_start: bool,
    nesterov: bool,
    scales: usize,
    diversity: Option<(f64, f64)>,
    translation: Option<usize>,
    objective: Objective,
}

impl Default for MiFgsm {
    fn default() -> Self {
        Self::new()
    }
}

impl MiFgsm {
    /// MI-FGSM, ten steps.
    pub fn new() -> Self {
        Self {
            steps: 10,
            step_size: None,
            decay: 1.0,
            random_start: false,
            nesterov: false,
            scales: 1,
            diversity: None,
            translation: None,
            objective: Objective::CrossEntropy,
        }
    }

    /// NI-FGSM.
    pub fn ni() -> Self {
        Self::new().nesterov(true)
    }

    /// DI-FGSM with momentum.
    pub fn di() -> Self {
        Self::new().diversity(0.5, 0.9)
    }

    /// TI-FGSM with momentum, over 15 × 15 pixels.
    pub fn ti() -> Self {
        Self::new().translation(7)
    }

    /// SI-NI-FGSM, five scales.
    pub fn si_ni() -> Self {
        Self::ni().scales(5)
    }

    /// DI and TI together.
    pub fn di_ti() -> Self {
        Self::di().translation(7)
    }

    /// Sets the number of steps.
    pub fn steps(self, steps: usize) -> Self {
        Self { steps, ..self }
    }

    /// Sets the length of a step.
    pub fn step_size(self, step_size: f64) -> Self {
        Self { step_size: Some(step_size), ..self }
    }

    /// Sets the momentum.
    pub fn decay(self, decay: f64) -> Self {
        Self { decay, ..self }
    }

    /// Sets whether to begin at a random point.
    pub fn random_start(self, random_start: bool) -> Self {
        Self { random_start, ..self }
    }

    /// Sets whether gradients are taken ahead.
    pub fn nesterov(self, nesterov: bool) -> Self {
        Self { nesterov, ..self }
    }

    /// Sets the number of scaled copies.
    pub fn scales(self, scales: usize) -> Self {
        Self { scales, ..self }
    }

    /// Sets how likely an image is shrunk, and its smallest size as a share.
    pub fn diversity(self, probability: f64, smallest: f64) -> Self {
        Self { diversity: Some((probability, smallest)), ..self }
    }

    /// Sets the radius that gradients are smoothed over.
    pub fn translation(self, radius: usize) -> Self {
        Self { translation: Some(radius), ..self }
    }

    /// Sets the loss.
    pub fn objective(self, objective: Objective) -> Self {
        Self { objective, ..self }
    }
}

impl Attack for MiFgsm {
    fn name(&self) -> String {
        let parts = [
            (self.scales > 1, "SI-"),
            (self.diversity.is_some(), "DI-"),
            (self.translation.is_some(), "TI-"),
            (self.nesterov, "NI-"),
            (!self.nesterov && self.decay > 0.0, "MI-"),
        ];
        let name: String = parts.iter().filter(|(on, _)| *on).map(|(_, part)| *part).collect();
        name + if parts.iter().any(|(on, _)| *on) { "FGSM" } else { "I-FGSM" }
    }

    fn check(&self, setting: &Setting) -> Result<()> {
        at_least_one("steps", self.steps)?;
        at_least_one("scales", self.scales)?;
        let parameter = |parameter, value: f64, bound, right: bool| match right {
            true => Ok(()),
            false => Err(Error::Parameter { parameter, value, bound }),
        };
        let size = self.step_size.unwrap_or(1.0);
        parameter("step_size", size, "a finite number above 0", size > 0.0 && size.is_finite())?;
        parameter("decay", self.decay, "a finite number, at least 0", self.decay >= 0.0 && self.decay.is_finite())?;
        let (probability, smallest) = self.diversity.unwrap_or((1.0, 1.0));
        parameter("probability", probability, "0 < probability <= 1", probability > 0.0 && probability <= 1.0)?;
        parameter("smallest size", smallest, "0 < size <= 1", smallest > 0.0 && smallest <= 1.0)?;
        if let Some(radius) = self.translation {
            at_least_one("radius", radius)?;
        }
        if (self.diversity.is_some() || self.translation.is_some()) && setting.shape.len() != 3 {
            let (attack, what) = (self.name(), format!("the shape {:?}", setting.shape));
            return Err(Error::Unsupported { attack, what, supported: "[channels, height, width]" });
        }
        self.objective.check(setting.classes, setting.targeted)
    }

    fn walk(&self, case: Case, oracle: Oracle) -> Walk<'_> {
        Box::pin(async move {
            let loss = self.objective.loss(&case.goal(), case.run().target);
            let step = self.step_size.unwrap_or(case.threat().epsilon() / self.steps as f64);
            let mut random = case.random();
            let mut x = match self.random_start {
                true => uniform_in_ball(&case, &mut random),
                false => case.x0().to_vec(),
            };
            let kernel = self.translation.map(gaussian);
            let low = case.threat().low() as f32;
            let mut momentum = vec![0.0f32; x.len()];
            for _ in 0..self.steps {
                let mut at = x.clone();
                if self.nesterov {
                    ascend(&case, &mut at, &momentum, step * self.decay);
                    case.project(&mut at);
                }
                let shrink = self.diversity.and_then(|(probability, smallest)| {
                    (random.next_f64() < probability).then(|| Shrink::draw(case.shape(), smallest, &mut random))
                });
                // What is asked about is not the point itself where it is shrunk or scaled, and counts as no success then
                // unless it is one inside the threat.
                let mut asked = Vec::with_capacity(self.scales * at.len());
                for copy in 0..self.scales {
                    let scale = 0.5f32.powi(copy as i32);
                    let scaled: Vec<f32> = at.iter().map(|x| low + scale * (x - low)).collect();
                    asked.extend(match &shrink {
                        Some(shrink) => shrink.apply(&scaled, low),
                        None => scaled,
                    });
                }
                let answers = oracle.gradients(asked, vec![loss.clone(); self.scales]).await;
                let mut gradient = vec![0.0f32; x.len()];
                for (copy, answer) in answers.into_iter().enumerate() {
                    let back = match &shrink {
                        Some(shrink) => shrink.adjoint(&answer.gradient),
                        None => answer.gradient,
                    };
                    let scale = 0.5f32.powi(copy as i32);
                    gradient.iter_mut().zip(back).for_each(|(sum, g)| *sum += scale * g);
                }
                if let Some(kernel) = &kernel {
                    gradient = smooth(&gradient, case.shape(), kernel);
                }
                let mean = gradient.iter().map(|g| f64::from(g.abs())).sum::<f64>() / gradient.len() as f64;
                let decay = self.decay as f32;
                for (m, g) in momentum.iter_mut().zip(&gradient) {
                    *m = decay * *m + if mean > 0.0 { (f64::from(*g) / mean) as f32 } else { 0.0 };
                }
                ascend(&case, &mut x, &momentum, step);
                case.project(&mut x);
            }
            oracle.value(&x, loss).await;
        })
    }
}

/// An image made smaller by bilinear interpolation and put somewhere on an empty one of the old size: a linear map.
struct Shrink {
    shape: [usize; 3],
    top: usize,
    left: usize,
    /// For each row and each column of the small image the two it is between, and the share of the second.
    rows: Vec<(usize, usize, f32)>,
    columns: Vec<(usize, usize, f32)>,
}

impl Shrink {
    fn draw(shape: &[usize], smallest: f64, random: &mut Random) -> Self {
        let shape = [shape[0], shape[1], shape[2]];
        let mut side = |full: usize| {
            let least = ((smallest * full as f64).round() as usize).clamp(1, full);
            let size = least + random.below((full - least + 1) as u64) as usize;
            (size, random.below((full - size + 1) as u64) as usize)
        };
        let ((height, top), (width, left)) = (side(shape[1]), side(shape[2]));
        Self { shape, top, left, rows: between(shape[1], height), columns: between(shape[2], width) }
    }

    /// Calls `f(target, source, weight)` for every weight of the map.
    fn weights(&self, mut f: impl FnMut(usize, usize, f32)) {
        let [channels, height, width] = self.shape;
        for channel in 0..channels {
            let at = |row: usize, column: usize| (channel * height + row) * width + column;
            for (r, (r0, r1, down)) in self.rows.iter().enumerate() {
                for (c, (c0, c1, right)) in self.columns.iter().enumerate() {
                    let target = at(self.top + r, self.left + c);
                    f(target, at(*r0, *c0), (1.0 - down) * (1.0 - right));
                    f(target, at(*r0, *c1), (1.0 - down) * right);
                    f(target, at(*r1, *c0), down * (1.0 - right));
                    f(target, at(*r1, *c1), down * right);
                }
            }
        }
    }

    /// The map of an image whose empty is `low`.
    fn apply(&self, x: &[f32], low: f32) -> Vec<f32> {
        let mut y = vec![low; x.len()];
        self.weights(|target, source, weight| y[target] += weight * (x[source] - low));
        y
    }

    /// The adjoint of its linear part.
    fn adjoint(&self, g: &[f32]) -> Vec<f32> {
        let mut back = vec![0.0; g.len()];
        self.weights(|target, source, weight| back[source] += weight * g[target]);
        back
    }
}

/// Where the centres of `small` cells lie among those of `full`.
fn between(full: usize, small: usize) -> Vec<(usize, usize, f32)> {
    (0..small)
        .map(|i| {
            let at = ((i as f64 + 0.5) * full as f64 / small as f64 - 0.5).clamp(0.0, (full - 1) as f64);
            let first = at.floor() as usize;
            (first, (first + 1).min(full - 1), (at - at.floor()) as f32)
        })
        .collect()
}

/// A Gaussian over `2r + 1` places with `σ = r/√3`, of sum 1.
fn gaussian(radius: usize) -> Vec<f64> {
    let sigma = radius as f64 / 3f64.sqrt();
    let weight = |i: usize| (-0.5 * ((i as f64 - radius as f64) / sigma).powi(2)).exp();
    let weights: Vec<f64> = (0..=2 * radius).map(weight).collect();
    let sum: f64 = weights.iter().sum();
    weights.into_iter().map(|w| w / sum).collect()
}

/// Convolution of each channel with the kernel down and across, zeros outside. It is its own adjoint.
fn smooth(x: &[f32], shape: &[usize], kernel: &[f64]) -> Vec<f32> {
    let (height, width, radius) = (shape[1], shape[2], kernel.len() / 2);
    let along = |x: &[f64], length: usize, stride: usize, start: usize| -> Vec<f64> {
        (0..length)
            .map(|i| {
                let places = i.saturating_sub(radius)..(i + radius + 1).min(length);
                places.map(|j| kernel[j + radius - i] * x[start + j * stride]).sum()
            })
            .collect()
    };
    let mut y: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
    for channel in 0..shape[0] {
        let first = channel * height * width;
        for row in 0..height {
            let start = first + row * width;
            let line = along(&y, width, 1, start);
            y[start..start + width].copy_from_slice(&line);
        }
        for column in 0..width {
            let line = along(&y, height, width, first + column);
            line.into_iter().enumerate().for_each(|(row, value)| y[first + row * width + column] = value);
        }
    }
    y.into_iter().map(|y| y as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Engine, Goals, Norm, Pgd, Recorded, Search, Threat};
    use burn::tensor::Tensor;
    use proptest::prelude::*;

    fn dot(a: &[f32], b: &[f32]) -> f64 {
        a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    }

    proptest! {
        #[test]
        fn the_maps_have_their_adjoints(
            x in proptest::collection::vec(-1f32..1.0, 70), g in proptest::collection::vec(-1f32..1.0, 70), seed in 0u64..1000,
        ) {
            let shape = [2, 5, 7];
            let shrink = Shrink::draw(&shape, 0.3, &mut Random::new(seed));
            let close = |a: f64, b: f64| (a - b).abs() < 1e-4;
            prop_assert!(close(dot(&shrink.apply(&x, 0.0), &g), dot(&x, &shrink.adjoint(&g))));
            let kernel = gaussian(2);
            prop_assert!(close(dot(&smooth(&x, &shape, &kernel), &g), dot(&x, &smooth(&g, &shape, &kernel))));
        }
    }

    #[test]
    fn an_image_of_full_size_is_itself() {
        let x: Vec<f32> = (0..12).map(|i| i as f32).collect();
        let shrink = Shrink::draw(&[1, 3, 4], 1.0, &mut Random::new(1));
        assert_eq!((shrink.apply(&x, 0.0), shrink.adjoint(&x)), (x.clone(), x));
        assert!((gaussian(3).iter().sum::<f64>() - 1.0).abs() < 1e-15);
    }

    fn digits() -> (Recorded<crate::digits::Net, 4>, Tensor<4>, Vec<usize>) {
        let model = crate::digits::classifier().model();
        let classifier =
            Recorded::new(model, [1, 8, 8], |net: &crate::digits::Net, x: Tensor<4>| net.forward(x.flatten::<2>(1, 3)));
        let (x, y) = crate::digits::load().1.first(60);
        (classifier.unwrap(), x.reshape([60, 1, 8, 8]), y)
    }

    #[test]
    fn without_momentum_it_is_pgd() {
        let (classifier, x, y) = digits();
        let ball = Threat::new(Norm::Linf, 0.05).unwrap();
        let run = |attack: &dyn Attack| {
            Engine::new()
                .run(attack, &classifier, ball, Search::Worst, x.clone(), &Goals::untargeted(&y))
                .unwrap()
                .inputs
                .into_data()
        };
        let pgd = run(&Pgd::new().steps(10).step_size(0.005).random_start(false));
        assert_eq!(run(&MiFgsm::new().decay(0.0)), pgd);
        assert_ne!(run(&MiFgsm::new()), pgd);
    }

    #[test]
    fn every_variant_breaks_digits() {
        let (classifier, x, y) = digits();
        let goals = Goals::untargeted(&y);
        let ball = Threat::new(Norm::Linf, 0.1).unwrap();
        let clean = Pgd::new().attack(&classifier, ball, x.clone(), &goals).unwrap().standing();
        for attack in [MiFgsm::new(), MiFgsm::ni(), MiFgsm::di(), MiFgsm::new().translation(1), MiFgsm::si_ni()] {
            let found = attack.attack(&classifier, ball, x.clone(), &goals).unwrap();
            assert!(found.standing() <= clean + 15, "{} {} {clean}", attack.name(), found.standing());
            assert_eq!(found.inputs.dims(), [60, 1, 8, 8]);
        }
        assert_eq!(MiFgsm::si_ni().diversity(0.5, 0.5).translation(1).name(), "SI-DI-TI-NI-FGSM");
        assert_eq!((MiFgsm::new().name().as_str(), MiFgsm::new().decay(0.0).name().as_str()), ("MI-FGSM", "I-FGSM"));
    }

    #[test]
    fn misfits_are_named() {
        let (x, y) = crate::digits::load().1.first(2);
        let ball = Threat::new(Norm::Linf, 0.1).unwrap();
        let message = |attack: MiFgsm| {
            attack.attack(crate::digits::classifier(), ball, x.clone(), &Goals::untargeted(&y)).unwrap_err().to_string()
        };
        assert!(message(MiFgsm::di()).starts_with("DI-MI-FGSM does not support the shape [64]"));
        assert!(message(MiFgsm::new().decay(-1.0)).starts_with("decay = -1"));
        assert!(message(MiFgsm::new().scales(0)).starts_with("scales = 0"));
        assert!(message(MiFgsm::new().diversity(0.0, 0.5)).starts_with("probability = 0"));
        assert!(message(MiFgsm::new().step_size(f64::NAN)).starts_with("step_size = NaN"));
    }
}
