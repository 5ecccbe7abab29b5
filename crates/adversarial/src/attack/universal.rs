//! Universal perturbations: one for a whole data set.

use burn::tensor::{Tensor, TensorData};
use core_tensor::Random;

use super::batch::{Rows, differentiate, logits};
use super::check::{at_least_one, positive};
use super::geometry::{length, sign};
use crate::classifier::Classifier;
use crate::engine::Goals;
use crate::error::{Error, Result};
use crate::loss::{Objective, descending};
use crate::threat::{Norm, Threat};

/// Finds one `δ` that misleads a model on most inputs, those it has not seen included, by stochastic projected ascent over a
/// data set. Take it to learn how much an adversary can do who does not see the input.
///
/// `δ ← P(δ + α·d(Σ_batch ∇_δ min(L(clamp(x + δ)), β)))` with the steepest direction `d` of the norm: examples whose loss is
/// above `β` already count no more, so that none of them takes the whole gradient.
///
/// | parameter | default | range | effect |
/// |---|---|---|---|
/// | [`epochs`](Self::epochs) | 20 | ≥ 1 | passes over the training set |
/// | [`batch`](Self::batch) | 128 | ≥ 1 | examples of a step |
/// | [`step_size`](Self::step_size) | `ε / 10` | > 0 | `α`, in the threat's norm; it falls to a tenth linearly |
/// | [`clip`](Self::clip) | 9 | > 0 | `β` |
/// | [`objective`](Self::objective) | cross-entropy | [`Objective`] | `L`, for each example's goal |
/// | [`seed`](Self::seed) | 0 | any | order of the examples |
///
/// Norms: `Linf`, `L2`. Guarantee: what [`Universal::apply`] gives is inside ball and box (test `it_stays_inside`).
///
/// Cost: `epochs` gradients an example, and two queries an example for the rates; one host synchronisation a batch.
///
/// Deviations: the step follows the norm's steepest direction and falls, where the paper has a fixed one.
///
/// A. Shafahi, M. Najibi, Z. Xu, J. Dickerson, L. S. Davis, T. Goldstein, "Universal adversarial training", AAAI 2020,
/// arXiv:1811.11304, algorithm 1; the problem and the fooling rate: S.-M. Moosavi-Dezfooli, A. Fawzi, O. Fawzi, P. Frossard,
/// "Universal adversarial perturbations", CVPR 2017, arXiv:1610.08401.
///
/// ```
/// use adversarial::{Goals, Norm, Recorded, Threat, UniversalPerturbation};
/// use burn::nn::LinearConfig;
/// use burn::tensor::{Device, Tensor};
///
/// let device = Device::flex();
/// let model = LinearConfig::new(4, 3).init(&device);
/// let classifier = Recorded::new(&model, [4], |model, x: Tensor<2>| model.forward(x))?;
/// let (x, held_out) = (Tensor::<2>::full([8, 4], 0.5, &device), Tensor::<2>::full([2, 4], 0.4, &device));
/// let (goals, others) = (Goals::untargeted(&[0; 8]), Goals::untargeted(&[0; 2]));
/// let threat = Threat::new(Norm::Linf, 0.2)?;
/// let found = UniversalPerturbation::new().find(&classifier, threat, (&x, &goals), (&held_out, &others))?;
/// println!("{} of the training set, {} of the rest", found.train.fooled(), found.held_out.fooled());
/// # Ok::<(), adversarial::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct UniversalPerturbation {
    epochs: usize,
    batch: usize,
    step_size: Option<f64>,
    clip: f64,
    objective: Objective,
    seed: u64,
}

/// One perturbation for all inputs, and what it does.
#[derive(Clone, Debug)]
pub struct Universal<const D: usize> {
    /// `δ`, of the shape of one example: `[1, …]`.
    pub delta: Tensor<D>,
    /// On the examples it was made from.
    pub train: Fooling,
    /// On examples it was not made from.
    pub held_out: Fooling,
    /// Mean clipped loss of each epoch.
    pub losses: Vec<f64>,
    threat: Threat,
}

/// How many examples a universal perturbation misleads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fooling {
    /// All examples.
    pub examples: usize,
    /// Those that are given another class than unperturbed.
    pub changed: usize,
    /// Those whose goal is reached.
    pub reached: usize,
    /// Those whose goal is reached unperturbed.
    pub reached_before: usize,
}

impl Fooling {
    /// The fooling rate of the paper: the share of examples that are given another class; `NaN` of none.
    pub fn fooled(&self) -> f64 {
        self.changed as f64 / self.examples as f64
    }
}

impl Default for UniversalPerturbation {
    fn default() -> Self {
        Self::new()
    }
}

impl UniversalPerturbation {
    /// The defaults.
    pub fn new() -> Self {
        Self { epochs: 20, batch: 128, step_size: None, clip: 9.0, objective: Objective::CrossEntropy, seed: 0 }
    }

    /// Sets the passes over the training set.
    pub fn epochs(self, epochs: usize) -> Self {
        Self { epochs, ..self }
    }

    /// Sets the examples of a step.
    pub fn batch(self, batch: usize) -> Self {
        Self { batch, ..self }
    }

    /// Sets the length of the first step.
    pub fn step_size(self, step_size: f64) -> Self {
        Self { step_size: Some(step_size), ..self }
    }

    /// Sets from which loss on an example counts no more.
    pub fn clip(self, clip: f64) -> Self {
        Self { clip, ..self }
    }

    /// Sets the loss.
    pub fn objective(self, objective: Objective) -> Self {
        Self { objective, ..self }
    }

    /// Sets the seed.
    pub fn seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }

    /// Finds the perturbation on `train`, inputs with a goal each, and measures it there and on `held_out`, which may be empty.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for another norm, [`Error::Parameter`] for a setting out of range, [`Error::Shape`] for an empty
    /// training set or misfits, [`Error::ElementType`], [`Error::OutOfBounds`], [`Error::Label`] and [`Error::TooFewClasses`]
    /// as [`Engine::run`](crate::Engine::run), and what the model fails with.
    pub fn find<const D: usize>(
        &self,
        classifier: &dyn Classifier<D>,
        threat: Threat,
        train: (&Tensor<D>, &Goals),
        held_out: (&Tensor<D>, &Goals),
    ) -> Result<Universal<D>> {
        self.check(&threat)?;
        let dims = train.0.dims();
        if held_out.0.dims()[1..] != dims[1..] {
            let expected = format!("[examples, ..{:?}], as the training set", &dims[1..]);
            return Err(Error::Shape { what: "the held-out set", actual: held_out.0.dims().to_vec(), expected });
        }
        let rows = Rows::new("the training set", train.0, train.1, &threat)?;
        Rows::new("the held-out set", held_out.0, held_out.1, &threat)?;
        if rows.count == 0 || rows.width == 0 {
            let expected = "at least one example and one element".to_string();
            return Err(Error::Shape { what: "the training set", actual: dims.to_vec(), expected });
        }
        let mut one = dims;
        one[0] = 1;
        let classes = logits(classifier, rows.row(0), one, 1)?[0].len();
        for goals in [train.1, held_out.1] {
            goals.check(classes)?;
            self.objective.check(classes, goals.targeted_any())?;
        }

        let (delta, losses) = self.ascend(classifier, &threat, &rows, train.1, dims)?;
        let delta = Tensor::from_data(TensorData::new(delta, one), &train.0.device());
        let empty = Fooling::default();
        let mut universal = Universal { delta, train: empty, held_out: empty, losses, threat };
        universal.train = universal.measure(classifier, train.0, train.1, self.batch)?;
        universal.held_out = universal.measure(classifier, held_out.0, held_out.1, self.batch)?;
        Ok(universal)
    }

    fn check(&self, threat: &Threat) -> Result<()> {
        if !matches!(threat.norm(), Norm::Linf | Norm::L2) {
            let (attack, what) = ("the universal perturbation".into(), format!("the norm {:?}", threat.norm()));
            return Err(Error::Unsupported { attack, what, supported: "Linf and L2" });
        }
        at_least_one("epochs", self.epochs)?;
        at_least_one("batch", self.batch)?;
        positive("step_size", self.step_size.unwrap_or(1.0))?;
        positive("clip", self.clip)
    }

    fn ascend<const D: usize>(
        &self,
        classifier: &dyn Classifier<D>,
        threat: &Threat,
        rows: &Rows,
        goals: &Goals,
        dims: [usize; D],
    ) -> Result<(Vec<f32>, Vec<f64>)> {
        let (low, high) = (threat.low() as f32, threat.high() as f32);
        let first = self.step_size.unwrap_or(threat.epsilon() / 10.0);
        let mut random = Random::new(self.seed);
        let mut delta = vec![0.0f32; rows.width];
        let mut losses = Vec::with_capacity(self.epochs);
        for epoch in 0..self.epochs {
            let step = first * (1.0 - 0.9 * epoch as f64 / self.epochs.max(2) as f64);
            let mut total = 0.0;
            for chosen in random.permutation(rows.count).chunks(self.batch) {
                let moved = chosen.iter().flat_map(|i| rows.row(*i).iter().zip(&delta).map(|(x, d)| x + d));
                let moved: Vec<f32> = moved.collect();
                let points = moved.iter().map(|x| x.clamp(low, high)).collect();
                let of: Vec<_> = chosen.iter().map(|i| self.objective.loss(&goals.get(*i), None)).collect();
                let mut dims = dims;
                dims[0] = chosen.len();
                let found = differentiate(classifier, points, dims, &of, |loss| loss < self.clip)?;
                total += found.losses.iter().filter(|loss| !loss.is_nan()).map(|loss| loss.min(self.clip)).sum::<f64>();
                let mut sum = vec![0.0f32; rows.width];
                for (gradient, moved) in found.gradient.chunks(rows.width).zip(moved.chunks(rows.width)) {
                    // Where the box holds an element, it does not move with δ.
                    let free = gradient.iter().zip(moved).map(|(g, x)| if *x >= low && *x <= high { *g } else { 0.0 });
                    sum.iter_mut().zip(free).for_each(|(sum, g)| *sum += g);
                }
                move_and_project(threat, &mut delta, &sum, step);
            }
            losses.push(total / rows.count as f64);
        }
        Ok((delta, losses))
    }
}

impl<const D: usize> Universal<D> {
    /// The inputs with the perturbation, inside ball and box.
    ///
    /// # Errors
    /// [`Error::Shape`] for examples of another shape, [`Error::OutOfBounds`] for inputs outside of the box.
    pub fn apply(&self, inputs: &Tensor<D>) -> Result<Tensor<D>> {
        if inputs.dims()[1..] != self.delta.dims()[1..] {
            let expected = format!("[examples, ..{:?}]", &self.delta.dims()[1..]);
            return Err(Error::Shape { what: "inputs", actual: inputs.dims().to_vec(), expected });
        }
        if inputs.dims()[0] == 0 {
            return Ok(inputs.clone());
        }
        self.threat.project(inputs, inputs.clone() + self.delta.clone().to_device(&inputs.device()))
    }

    /// What the perturbation does to a model on inputs with a goal each.
    ///
    /// # Errors
    /// As [`apply`](Self::apply), and what the model fails with.
    pub fn measure(
        &self,
        classifier: &dyn Classifier<D>,
        inputs: &Tensor<D>,
        goals: &Goals,
        batch: usize,
    ) -> Result<Fooling> {
        at_least_one("batch", batch)?;
        let clean = Rows::new("the inputs", inputs, goals, &self.threat)?;
        if clean.count == 0 {
            return Ok(Fooling::default());
        }
        let before = logits(classifier, &clean.values, inputs.dims(), batch)?;
        let perturbed = Rows::new("the inputs", &self.apply(inputs)?, goals, &self.threat)?;
        let after = logits(classifier, &perturbed.values, inputs.dims(), batch)?;
        goals.check(before[0].len())?;
        let mut fooling = Fooling { examples: clean.count, ..Fooling::default() };
        for (i, (before, after)) in before.iter().zip(&after).enumerate() {
            fooling.changed += usize::from(descending(before)[0] != descending(after)[0]);
            fooling.reached += usize::from(goals.get(i).reached(after));
            fooling.reached_before += usize::from(goals.get(i).reached(before));
        }
        Ok(fooling)
    }
}

/// A step in the steepest direction, and back into the ball around 0.
fn move_and_project(threat: &Threat, delta: &mut [f32], gradient: &[f32], step: f64) {
    let epsilon = threat.epsilon();
    match threat.norm() {
        Norm::L2 => {
            let scale = step / length(gradient);
            if scale.is_finite() {
                delta.iter_mut().zip(gradient).for_each(|(d, g)| *d += (scale * f64::from(*g)) as f32);
            }
            let size = length(delta);
            if size > epsilon {
                delta.iter_mut().for_each(|d| *d = (f64::from(*d) * epsilon / size) as f32);
            }
        }
        _ => {
            let (step, bound) = (step as f32, epsilon as f32);
            delta.iter_mut().zip(gradient).for_each(|(d, g)| *d = (*d + step * sign(*g)).clamp(-bound, bound));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attack::black_box_laws::weights;
    use crate::classifier::Recorded;
    use crate::physical::samples::{digits, train};
    use burn::module::Param;
    use burn::nn::{Linear, LinearConfig};
    use burn::tensor::Device;

    /// Logits `[0, w·x + b]` with gradients.
    fn linear(w: &[f32], b: f32) -> Recorded<Linear, 2> {
        let device = Device::flex();
        let mut model = LinearConfig::new(w.len(), 2).init(&device);
        model.weight = Param::from_tensor(weights(w));
        model.bias = Some(Param::from_tensor(Tensor::from_data([0.0, b], &device)));
        Recorded::new(&model, [w.len()], |model, x| model.forward(x)).unwrap()
    }

    const W: [f32; 4] = [1.0, -2.0, 0.5, 0.25];

    fn inputs(count: usize, seed: u64) -> Tensor<2> {
        Random::new(seed).uniform([count, 4], 0.3, 0.7, &Device::flex())
    }

    #[test]
    fn on_a_linear_model_it_is_the_worst_of_every_example() {
        let (classifier, x) = (linear(&W, -0.2), inputs(40, 1));
        let goals = Goals::untargeted(&[0; 40]);
        for norm in [Norm::Linf, Norm::L2] {
            let threat = Threat::new(norm, 0.2).unwrap();
            let attack = UniversalPerturbation::new().batch(16);
            let found =
                attack.find(&classifier, threat, (&x, &goals), (&inputs(7, 2), &Goals::untargeted(&[0; 7]))).unwrap();
            let delta: Vec<f64> = found.delta.into_data().iter().collect();
            let gain: f64 = delta.iter().zip(W).map(|(d, w)| d * f64::from(w)).sum();
            let most = 0.2 * norm.dual().unwrap().of(W.map(f64::from));
            assert!((gain / most - 1.0).abs() < 1e-3, "{norm:?}: {gain} of {most}");
            assert!(found.train.reached > found.train.reached_before && found.held_out.examples == 7);
            assert!(found.losses.last() > found.losses.first());
        }
    }

    #[test]
    fn it_stays_inside() {
        let (classifier, x) = (linear(&W, -0.2), Random::new(3).uniform([30, 4], 0.0, 1.0, &Device::flex()));
        let goals = Goals::untargeted(&[0; 30]);
        for norm in [Norm::Linf, Norm::L2] {
            let threat = Threat::new(norm, 0.15).unwrap();
            let found = UniversalPerturbation::new().find(&classifier, threat, (&x, &goals), (&x, &goals)).unwrap();
            let y = found.apply(&x).unwrap();
            let [y, x] = [&y, &x].map(|x| x.to_data().iter::<f64>().collect::<Vec<_>>());
            assert!(y.iter().all(|y| (0.0..=1.0).contains(y)));
            for (y, x) in y.chunks(4).zip(x.chunks(4)) {
                assert!(norm.of(y.iter().zip(x).map(|(y, x)| y - x)) <= 0.15);
            }
            assert_eq!(found.train, found.held_out);
        }
    }

    #[test]
    fn it_heads_for_targets_and_is_the_same_for_a_seed() {
        let (classifier, x) = (linear(&W, -0.2), inputs(20, 4));
        let goals = Goals::targeted(&[1; 20], &[0; 20]).unwrap();
        let threat = Threat::new(Norm::Linf, 0.3).unwrap();
        let find = || UniversalPerturbation::new().find(&classifier, threat, (&x, &goals), (&x, &goals)).unwrap();
        let found = find();
        assert_eq!(found.train.reached, 20);
        assert_eq!(found.delta.to_data(), find().delta.to_data());
    }

    #[test]
    fn one_perturbation_misleads_on_digits_it_has_not_seen() {
        let ((x, labels), (unseen, others)) = (digits(0, 300), digits(1, 200));
        let classifier = train(x.clone(), &labels, 10);
        let (goals, held_out) = (Goals::untargeted(&labels), Goals::untargeted(&others));
        let threat = Threat::new(Norm::Linf, 0.25).unwrap();
        let found = UniversalPerturbation::new().find(&classifier, threat, (&x, &goals), (&unseen, &held_out)).unwrap();
        let noise = Random::new(1).bernoulli([1, 1, 8, 8], 0.5, &Device::flex()) * 0.5 - 0.25;
        let noise = Universal { delta: noise, ..found.clone() };
        let noise = noise.measure(&classifier, &unseen, &held_out, 64).unwrap();
        assert!(found.held_out.fooled() > noise.fooled() + 0.2, "{:?} {noise:?}", found.held_out);
    }

    #[test]
    fn what_it_cannot_do_is_named() {
        let (classifier, x) = (linear(&W, -0.2), inputs(3, 5));
        let goals = Goals::untargeted(&[0; 3]);
        let ball = Threat::new(Norm::Linf, 0.1).unwrap();
        let find = |attack: UniversalPerturbation, threat: Threat, x: &Tensor<2>, goals: &Goals| {
            attack.find(&classifier, threat, (x, goals), (x, goals)).unwrap_err().to_string()
        };
        let new = UniversalPerturbation::new;
        assert!(find(new().epochs(0), ball, &x, &goals).starts_with("epochs = 0"));
        assert!(find(new().clip(f64::NAN), ball, &x, &goals).starts_with("clip = NaN"));
        assert!(find(new(), Threat::new(Norm::L1, 0.1).unwrap(), &x, &goals).contains("the norm L1"));
        assert!(find(new(), ball, &(x.clone() + 1.0), &goals).contains("outside"));
        assert!(find(new(), ball, &x, &Goals::untargeted(&[0])).starts_with("goals has shape [1]"));
        assert!(find(new(), ball, &x, &Goals::untargeted(&[2; 3])).contains("the label of example 0 is 2"));
        let none = Tensor::<2>::zeros([0, 4], &Device::flex());
        assert!(find(new(), ball, &none, &Goals::untargeted(&[])).contains("at least one example"));
    }
}
