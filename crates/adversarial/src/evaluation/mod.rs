//! How robust a model is, in one call: clean, under each attack, under all of them, certified, and against the radius.

mod norm_curve;
mod share;

use std::fmt;
use std::time::Instant;

use burn::tensor::{Int, Tensor, TensorData};

pub use norm_curve::NormCurve;
pub use share::Share;

use crate::attack::Attack;
use crate::classifier::Classifier;
use crate::engine::{Engine, Goals, Search, Status};
use crate::error::{Error, Result};
use crate::threat::Threat;

/// Evaluates a classifier under a threat.
///
/// | setting | default | range | effect |
/// |---|---|---|---|
/// | [`attack`](Self::attack) | none | | adds an attack; each is run on every example that is classified right |
/// | [`radii`](Self::radii) | none | as [`Threat::radius`] | radii of the curve; what is broken at one stays broken at every larger one |
/// | [`engine`](Self::engine) | [`Engine::new`] | | batch, seed, budgets |
/// | [`confidence`](Self::confidence) | 0.95 | in (0, 1) | of the intervals |
///
/// An example that is *certified* and broken is a contradiction: one of model, certificate and attack is wrong, and the
/// evaluation ends with an error that names the example.
///
/// ```
/// use adversarial::{Evaluation, Fgsm, Norm, Pgd, Recorded, Threat};
/// use burn::nn::LinearConfig;
/// use burn::tensor::{Device, Tensor};
///
/// let device = Device::flex();
/// let model = LinearConfig::new(4, 3).init(&device);
/// let classifier = Recorded::new(&model, [4], |model, x: Tensor<2>| model.forward(x))?;
/// let x = Tensor::<2>::full([2, 4], 0.5, &device);
/// let evaluation = Evaluation::new(Threat::new(Norm::Linf, 0.1)?).attack(Fgsm::new()).attack(Pgd::new()).radii([0.0, 0.1]);
/// let report = evaluation.run(&classifier, x, &[0, 1], None)?;
/// assert!(report.ensemble.count <= report.clean.count);
/// println!("{report}");
/// # Ok::<(), adversarial::Error>(())
/// ```
pub struct Evaluation {
    threat: Threat,
    attacks: Vec<Box<dyn Attack>>,
    radii: Vec<f64>,
    engine: Engine,
    confidence: f64,
}

/// What one attack came to.
#[derive(Clone, Debug, PartialEq)]
pub struct UnderAttack {
    /// The attack's name.
    pub name: String,
    /// Examples still classified right.
    pub standing: Share,
    /// Examples whose logits were no numbers on the way: they count as neither standing nor broken by the attack.
    pub not_finite: usize,
    /// Gradient evaluations of all examples.
    pub gradients: u64,
    /// Evaluations of logits of all examples.
    pub queries: u64,
    /// Seconds on the clock.
    pub seconds: f64,
}

/// What an evaluation came to.
#[derive(Clone, Debug)]
pub struct RobustnessReport<const D: usize> {
    /// The threat.
    pub threat: Threat,
    /// Examples classified right without an attack.
    pub clean: Share,
    /// Attack by attack, in the order given.
    pub attacks: Vec<UnderAttack>,
    /// Examples that no attack broke.
    pub ensemble: Share,
    /// Examples with a certificate, if any were given.
    pub certified: Option<Share>,
    /// Radii and the examples that no attack breaks within them.
    pub curve: Vec<(f64, Share)>,
    /// For each example the first attack that broke it.
    pub broken_by: Vec<Option<usize>>,
    /// For each example an input that is misclassified, or the one that came nearest to it.
    pub inputs: Tensor<D>,
}

impl Evaluation {
    /// An evaluation without attacks.
    pub fn new(threat: Threat) -> Self {
        Self { threat, attacks: Vec::new(), radii: Vec::new(), engine: Engine::new(), confidence: 0.95 }
    }

    /// Adds an attack.
    pub fn attack(mut self, attack: impl Attack + 'static) -> Self {
        self.attacks.push(Box::new(attack));
        self
    }

    /// Sets the radii of the curve, in any order.
    pub fn radii(self, radii: impl Into<Vec<f64>>) -> Self {
        Self { radii: radii.into(), ..self }
    }

    /// Sets the engine.
    pub fn engine(self, engine: Engine) -> Self {
        Self { engine, ..self }
    }

    /// Sets the confidence of the intervals.
    pub fn confidence(self, confidence: f64) -> Self {
        Self { confidence, ..self }
    }

    /// Evaluates a classifier on labelled examples. `certified` says for each example whether it is proven that nothing within the
    /// threat changes its class, by bounds through the network or by anything else.
    ///
    /// # Errors
    /// As [`Engine::run`]; [`Error::Parameter`] for a confidence or a radius out of range, [`Error::Shape`] for another number of
    /// labels or certificates, [`Error::Contradiction`] for a certified example that is broken.
    pub fn run<const D: usize>(
        &self,
        classifier: &dyn Classifier<D>,
        inputs: Tensor<D>,
        labels: &[usize],
        certified: Option<&[bool]>,
    ) -> Result<RobustnessReport<D>> {
        let value = self.confidence;
        if !(value > 0.0 && value < 1.0) {
            return Err(Error::Parameter { parameter: "confidence", value, bound: "0 < confidence < 1" });
        }
        let examples = inputs.dims()[0];
        for (what, count) in [("labels", labels.len()), ("certificates", certified.map_or(examples, <[bool]>::len))] {
            if count != examples {
                let expected = format!("[{examples}], one for each example");
                return Err(Error::Shape { what, actual: vec![count], expected });
            }
        }
        let share = |count: usize| Share::new(count, examples, self.confidence);
        let goals = Goals::untargeted(labels);
        let mut found = Found::new(&inputs, examples);
        let mut attacks = Vec::new();
        let mut clean = None;
        for (index, attack) in self.attacks.iter().enumerate() {
            let start = Instant::now();
            let attacked =
                self.engine.run(attack.as_ref(), classifier, self.threat, Search::First, inputs.clone(), &goals)?;
            let seconds = start.elapsed().as_secs_f64();
            let wrong: Vec<bool> = attacked.outcomes.iter().map(|o| o.status == Status::AlreadyReached).collect();
            if let Some(certified) = certified {
                contradiction(certified, &attack.name(), attacked.outcomes.iter().map(|o| o.status == Status::Broken))?;
                contradiction(certified, "no attack at all", wrong.iter().copied())?;
            }
            clean.get_or_insert(wrong);
            attacks.push(UnderAttack {
                name: attack.name(),
                standing: share(attacked.standing()),
                not_finite: attacked.count(Status::NotFinite),
                gradients: attacked.gradients(),
                queries: attacked.queries(),
                seconds,
            });
            found.take_in(index, attacked);
        }
        let clean = match clean {
            Some(wrong) => wrong.iter().filter(|wrong| !**wrong).count(),
            None => self.standing_without_attack(classifier, &inputs, labels)?,
        };
        let curve = self.curve(classifier, &inputs, labels)?;
        let standing = found.standing();
        let (inputs, broken_by) = found.into_inputs(inputs);
        let ensemble = share(if self.attacks.is_empty() { clean } else { standing });
        let certified = certified.map(|certified| share(certified.iter().filter(|c| **c).count()));
        Ok(RobustnessReport {
            threat: self.threat,
            clean: share(clean),
            attacks,
            ensemble,
            certified,
            curve,
            broken_by,
            inputs,
        })
    }

    /// For each radius from the smallest up, attacks only what still stands.
    fn curve<const D: usize>(
        &self,
        classifier: &dyn Classifier<D>,
        inputs: &Tensor<D>,
        labels: &[usize],
    ) -> Result<Vec<(f64, Share)>> {
        let mut radii = self.radii.clone();
        radii.sort_by(f64::total_cmp);
        let mut left: Vec<usize> = (0..labels.len()).collect();
        let mut curve = Vec::new();
        for radius in radii {
            let threat = self.threat.radius(radius)?;
            for attack in &self.attacks {
                if left.is_empty() {
                    break;
                }
                let chosen: Vec<i64> = left.iter().map(|i| *i as i64).collect();
                let count = chosen.len();
                let chosen = Tensor::<1, Int>::from_data(TensorData::new(chosen, [count]), &inputs.device());
                let goals = Goals::untargeted(&left.iter().map(|i| labels[*i]).collect::<Vec<_>>());
                let some = inputs.clone().select(0, chosen);
                let attacked = self.engine.run(attack.as_ref(), classifier, threat, Search::First, some, &goals)?;
                let standing = attacked.outcomes.iter().map(|outcome| outcome.status == Status::Standing);
                left = left.iter().zip(standing).filter(|(_, standing)| *standing).map(|(i, _)| *i).collect();
            }
            curve.push((radius, Share::new(left.len(), labels.len(), self.confidence)));
        }
        Ok(curve)
    }

    fn standing_without_attack<const D: usize>(
        &self,
        classifier: &dyn Classifier<D>,
        inputs: &Tensor<D>,
        labels: &[usize],
    ) -> Result<usize> {
        let still = crate::Fgsm::new();
        let threat = self.threat.radius(0.0)?;
        let goals = Goals::untargeted(labels);
        Ok(self.engine.run(&still, classifier, threat, Search::First, inputs.clone(), &goals)?.standing())
    }
}

/// The best input for each example over several attacks.
struct Found {
    values: Vec<f32>,
    width: usize,
    margins: Vec<f64>,
    broken_by: Vec<Option<usize>>,
    standing: Vec<bool>,
}

impl Found {
    fn new<const D: usize>(inputs: &Tensor<D>, examples: usize) -> Self {
        Self {
            values: inputs.to_data().iter::<f32>().collect(),
            width: inputs.dims()[1..].iter().product(),
            margins: vec![f64::NEG_INFINITY; examples],
            broken_by: vec![None; examples],
            standing: vec![true; examples],
        }
    }

    fn take_in<const D: usize>(&mut self, attack: usize, attacked: crate::Attacked<D>) {
        let values: Vec<f32> = attacked.inputs.into_data().iter::<f32>().collect();
        for (i, outcome) in attacked.outcomes.iter().enumerate() {
            self.standing[i] &= matches!(outcome.status, Status::Standing | Status::Unfinished);
            let breaks = outcome.status == Status::Broken && self.broken_by[i].is_none();
            if breaks || (self.broken_by[i].is_none() && outcome.loss > self.margins[i]) {
                let range = i * self.width..(i + 1) * self.width;
                self.values[range.clone()].copy_from_slice(&values[range]);
                self.margins[i] = outcome.loss;
            }
            if breaks {
                self.broken_by[i] = Some(attack);
            }
        }
    }

    fn standing(&self) -> usize {
        self.standing.iter().filter(|standing| **standing).count()
    }

    fn into_inputs<const D: usize>(self, inputs: Tensor<D>) -> (Tensor<D>, Vec<Option<usize>>) {
        let values = TensorData::new(self.values, inputs.dims());
        (Tensor::from_data(values, &inputs.device()), self.broken_by)
    }
}

fn contradiction(certified: &[bool], attack: &str, broken: impl Iterator<Item = bool>) -> Result<()> {
    match certified.iter().zip(broken).position(|(certified, broken)| *certified && broken) {
        Some(example) => Err(Error::Contradiction { example, attack: attack.to_string() }),
        None => Ok(()),
    }
}

impl<const D: usize> fmt::Display for RobustnessReport<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let examples = self.clean.of.max(1) as f64;
        let width = self.attacks.iter().map(|attack| attack.name.chars().count()).max().unwrap_or(0).max(9);
        let line = |f: &mut fmt::Formatter<'_>, name: &str, share: &Share| writeln!(f, "{name:<width$}  {share}");
        writeln!(f, "{:?}, radius {}, {} examples", self.threat.norm(), self.threat.epsilon(), self.clean.of)?;
        line(f, "clean", &self.clean)?;
        for attack in &self.attacks {
            write!(f, "{:<width$}  {}", attack.name, attack.standing)?;
            let each = |count: u64| count as f64 / examples;
            write!(f, "  {:.1} gradients, {:.1} queries an example", each(attack.gradients), each(attack.queries))?;
            write!(f, ", {:.2} s", attack.seconds)?;
            match attack.not_finite {
                0 => writeln!(f)?,
                count => writeln!(f, ", {count} without finite logits")?,
            }
        }
        line(f, "all", &self.ensemble)?;
        if let Some(certified) = &self.certified {
            line(f, "certified", certified)?;
        }
        for (radius, share) in &self.curve {
            line(f, &format!("ε = {radius}"), share)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Fgsm, Norm, Pgd, Recorded};
    use burn::module::Param;
    use burn::nn::LinearConfig;
    use burn::tensor::Device;

    /// Class 1 where `x₀ + x₁ > 0.9`.
    fn classifier() -> impl Classifier<2> {
        let device = Device::flex();
        let mut model = LinearConfig::new(2, 2).init(&device);
        model.weight = Param::from_tensor(Tensor::from_data([[0.0, 1.0], [0.0, 1.0]], &device));
        model.bias = Some(Param::from_tensor(Tensor::from_data([0.0, -0.9], &device)));
        Recorded::new(&model, [2], |model, x| model.forward(x)).unwrap()
    }

    fn inputs() -> Tensor<2> {
        // Distances to the boundary in Linf: wrong, 0.05, 0.15, 0.45.
        Tensor::from_data([[0.5, 0.5], [0.4, 0.4], [0.3, 0.3], [0.0, 0.0]], &Device::flex())
    }

    #[test]
    fn every_figure_by_hand() {
        let evaluation = Evaluation::new(Threat::new(Norm::Linf, 0.1).unwrap())
            .attack(Fgsm::new())
            .attack(Pgd::new().steps(5))
            .radii([0.2, 0.0, 0.5, 0.1]);
        let report = evaluation.run(&classifier(), inputs(), &[0; 4], Some(&[false, false, false, true])).unwrap();
        assert_eq!((report.clean.count, report.ensemble.count, report.clean.of), (3, 2, 4));
        assert_eq!(report.attacks.iter().map(|attack| attack.standing.count).collect::<Vec<_>>(), [2, 2]);
        assert_eq!(report.certified.unwrap().count, 1);
        let curve: Vec<(f64, usize)> = report.curve.iter().map(|(radius, share)| (*radius, share.count)).collect();
        assert_eq!(curve, [(0.0, 3), (0.1, 2), (0.2, 1), (0.5, 0)]);
        assert_eq!(report.broken_by, [None, Some(0), None, None]);
        let text = report.to_string();
        for part in [
            "Linf, radius 0.1, 4 examples",
            "clean      75.0 %",
            "FGSM",
            "PGD-5",
            "all        50.0 %",
            "certified  25.0 %",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
    }

    #[test]
    fn a_certificate_that_an_attack_refutes_is_an_error() {
        let evaluation = Evaluation::new(Threat::new(Norm::Linf, 0.1).unwrap()).attack(Fgsm::new());
        let run = |certified: &[bool]| evaluation.run(&classifier(), inputs(), &[0; 4], Some(certified));
        let error = run(&[false, true, false, false]).unwrap_err().to_string();
        assert_eq!(
            error,
            "example 1 is certified, and FGSM broke it: the model, the certificate or the attack is wrong"
        );
        let error = run(&[true, false, false, false]).unwrap_err().to_string();
        assert!(error.contains("no attack at all"), "{error}");
        assert!(run(&[false; 3]).unwrap_err().to_string().starts_with("certificates has shape [3]"));
    }

    #[test]
    fn without_attacks_the_clean_share_is_left() {
        let evaluation = Evaluation::new(Threat::new(Norm::L2, 0.1).unwrap());
        let report = evaluation.run(&classifier(), inputs(), &[0; 4], None).unwrap();
        assert_eq!((report.clean.count, report.ensemble.count), (3, 3));
        let report = evaluation.confidence(1.0).run(&classifier(), inputs(), &[0; 4], None);
        assert!(report.unwrap_err().to_string().starts_with("confidence = 1"));
    }
}
