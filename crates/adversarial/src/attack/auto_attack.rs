//! AutoAttack.

use std::fmt;
use std::ops::ControlFlow;
use std::time::Instant;

use burn::tensor::{Int, Tensor, TensorData};
use core_tensor::transform::State;

use super::{Apgd, ApgdL1, Attack, Fab, Setting, Square};
use crate::classifier::Classifier;
use crate::engine::{Attacked, Engine, Goals, Progress, Search, Status};
use crate::error::{Error, Result};
use crate::evaluation::Share;
use crate::loss::Loss;
use crate::threat::{Norm, Threat};

/// AutoAttack: an ensemble without parameters, each attack on what the ones before left standing. The robust accuracy to report.
///
/// | version | attacks |
/// |---|---|
/// | [`standard`](Self::standard) | APGD-CE, APGD-T, FAB-T (9 targets each), Square with 5000 queries; in `L1` APGD-L1 instead, without Square |
/// | [`rand`](Self::rand) | APGD-CE and APGD-DLR, for classifiers with randomness; wrap them in [`Averaged`](crate::Averaged) |
/// | [`custom`](Self::custom) | any attacks |
///
/// A model with fewer classes than an attack needs (4 for APGD-T, 3 for DLR) is attacked with the rest, and the report says which was left out and
/// why. The report also carries [`Flag`]s: signs that the figure says more about the attacks than about the model.
///
/// Cost on a model that nothing breaks: 100 + 900 + 900 gradients and 5000 queries an example; most examples of an undefended model cost a few.
///
/// F. Croce, M. Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks", ICML 2020,
/// arXiv:2003.01690.
///
/// ```
/// use adversarial::{AutoAttack, Norm, Recorded, Threat};
/// use burn::nn::LinearConfig;
/// use burn::tensor::{Device, Tensor};
///
/// let device = Device::flex();
/// let model = LinearConfig::new(4, 3).init(&device);
/// let classifier = Recorded::new(&model, [4], |model, x: Tensor<2>| model.forward(x))?;
/// let x = Tensor::<2>::full([2, 4], 0.5, &device);
/// let report = AutoAttack::standard(Threat::new(Norm::Linf, 0.01)?)?.run(&classifier, x, &[0, 1])?;
/// println!("{report}");
/// assert!(report.stages[1].skipped.is_some(), "the targeted ratio needs four classes");
/// # Ok::<(), adversarial::Error>(())
/// ```
pub struct AutoAttack {
    threat: Threat,
    attacks: Vec<Box<dyn Attack>>,
    engine: Engine,
}

/// What one attack of the ensemble did to the examples left.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AttackStage {
    /// The attack's name.
    pub name: String,
    /// Examples it was given.
    pub attacked: usize,
    /// Examples it broke.
    pub broken: usize,
    /// Gradient evaluations.
    pub gradients: u64,
    /// Gradients that were zero in every element.
    pub zero_gradients: u64,
    /// Evaluations of logits.
    pub queries: u64,
    /// Seconds on the clock.
    pub seconds: f64,
    /// Why it was left out, if it was.
    pub skipped: Option<String>,
}

/// A sign that robustness may be no more than a failure of the attacks.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Flag {
    /// The same inputs gave other logits the second time: use [`AutoAttack::rand`].
    Randomised {
        /// The largest difference of a logit.
        difference: f64,
    },
    /// Gradients were exactly zero: they are masked, or the logits saturate.
    ZeroGradients {
        /// Their share of all gradients.
        share: f64,
    },
    /// An attack without gradients broke what attacks with gradients did not.
    BlackBoxStronger {
        /// The attack.
        attack: String,
        /// How many examples.
        examples: usize,
    },
    /// An attack raised the loss of the examples it did not break, and broke none: loss and decision disagree.
    LossWithoutSuccess {
        /// The attack.
        attack: String,
        /// Mean cross-entropy before.
        before: f64,
        /// Mean cross-entropy after.
        after: f64,
    },
    /// Logits were not finite for some examples.
    NotFinite {
        /// How many.
        examples: usize,
    },
}

/// What AutoAttack found.
#[derive(Clone, Debug)]
pub struct AutoAttackReport<const D: usize> {
    /// Examples classified right before.
    pub clean: Share,
    /// Examples no attack broke: the robust accuracy.
    pub standing: Share,
    /// Attack by attack.
    pub stages: Vec<AttackStage>,
    /// What makes the figure doubtful.
    pub flags: Vec<Flag>,
    /// For each example the attack that broke it.
    pub broken_by: Vec<Option<usize>>,
    /// For each example a misclassified input, or the one that came nearest.
    pub inputs: Tensor<D>,
    /// Where to go on, if it was told to stop before the end.
    pub unfinished: Option<State>,
}

impl AutoAttack {
    /// The standard ensemble for a threat in `Linf`, `L2` or `L1`.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for `L0`.
    pub fn standard(threat: Threat) -> Result<Self> {
        let attacks: Vec<Box<dyn Attack>> = match threat.norm() {
            Norm::Linf | Norm::L2 => {
                vec![
                    Box::new(Apgd::new()),
                    Box::new(Apgd::targeted(9)),
                    Box::new(Fab::targeted(9)),
                    Box::new(Square::new()),
                ]
            }
            Norm::L1 => {
                let targeted = ApgdL1::new().objective(crate::Objective::Dlr).targets(9);
                vec![Box::new(ApgdL1::new()), Box::new(targeted), Box::new(Fab::targeted(9))]
            }
            Norm::L0 => {
                let (attack, what) = ("AutoAttack".into(), "L0".into());
                return Err(Error::Unsupported { attack, what, supported: "Linf, L2 and L1" });
            }
        };
        Ok(Self::custom(threat, attacks))
    }

    /// The ensemble for classifiers with randomness, in `Linf` or `L2`.
    pub fn rand(threat: Threat) -> Self {
        Self::custom(threat, vec![Box::new(Apgd::new()), Box::new(Apgd::dlr())])
    }

    /// Any attacks, in this order.
    pub fn custom(threat: Threat, attacks: Vec<Box<dyn Attack>>) -> Self {
        Self { threat, attacks, engine: Engine::new() }
    }

    /// Sets the engine: batch, seed, budgets for each attack.
    pub fn engine(self, engine: Engine) -> Self {
        Self { engine, ..self }
    }

    /// Attacks labelled examples.
    ///
    /// # Errors
    /// As [`Engine::run`], but for attacks that need more classes, which are left out.
    pub fn run<const D: usize>(
        &self,
        classifier: &dyn Classifier<D>,
        inputs: Tensor<D>,
        labels: &[usize],
    ) -> Result<AutoAttackReport<D>> {
        self.run_watched(classifier, inputs, labels, None, &mut |_, _| ControlFlow::Continue(()))
    }

    /// The same from where an unfinished report stopped, telling after each batch the attack and how far it is with the examples it was given; it stops when told to.
    ///
    /// Going on from [`AutoAttackReport::unfinished`] with the same inputs, labels and settings breaks what the whole run would have broken, with the same
    /// inputs (`a_stopped_run_goes_on_to_the_same_end`); examples that an attack was not through with are begun again by it, and its cost so far is lost from
    /// the count.
    ///
    /// # Errors
    /// As [`run`](Self::run); a state of something else.
    pub fn run_watched<const D: usize>(
        &self,
        classifier: &dyn Classifier<D>,
        inputs: Tensor<D>,
        labels: &[usize],
        state: Option<State>,
        watch: &mut dyn FnMut(&str, Progress) -> ControlFlow<()>,
    ) -> Result<AutoAttackReport<D>> {
        let examples = inputs.dims()[0];
        if labels.len() != examples {
            let expected = format!("[{examples}], one for each example");
            return Err(Error::Shape { what: "labels", actual: vec![labels.len()], expected });
        }
        let mut ledger = Ledger::new(&inputs, self.attacks.len());
        if let Some(state) = state {
            ledger.load(state)?;
        }
        let (classes, randomised) = self.look(classifier, &inputs)?;
        let (norm, search, shape) = (self.threat.norm(), Search::First, inputs.dims()[1..].to_vec());
        let setting = Setting { norm, search, classes, shape, targeted: false };
        let mut stopped = false;
        for (index, attack) in self.attacks.iter().enumerate() {
            ledger.stages[index].name = attack.name();
            // Told by the attack itself, so that a run that goes on says it again.
            if examples > 0
                && let Err(error @ Error::TooFewClasses { .. }) = attack.check(&setting)
            {
                ledger.pass_over(index, error.to_string());
                continue;
            }
            let left: Vec<usize> = (0..examples).filter(|i| ledger.next[*i] == index as i64).collect();
            if left.is_empty() || stopped {
                continue;
            }
            let goals = Goals::untargeted(&left.iter().map(|i| labels[*i]).collect::<Vec<_>>());
            let (begun, name) = (Instant::now(), attack.name());
            let mut watched = |progress| {
                let flow = watch(&name, progress);
                stopped |= flow.is_break();
                flow
            };
            let some = select(&inputs, &left);
            let attacked = self.engine.run_watched(
                attack.as_ref(),
                classifier,
                self.threat,
                search,
                some,
                &goals,
                &mut watched,
            )?;
            ledger.take_in(index, &left, labels, attacked, begun.elapsed().as_secs_f64());
        }
        let flags = randomised.into_iter().chain(ledger.flags()).collect();
        let unfinished = stopped.then(|| ledger.save());
        let share = |count: usize| Share::new(count, examples, 0.95);
        let count = |of: i64| ledger.end.iter().filter(|end| **end == of).count();
        let (clean, standing) = (examples - count(WRONG) - count(NOT_FINITE), count(STANDING));
        let broken_by = ledger.end.iter().map(|end| usize::try_from(*end).ok()).collect();
        Ok(AutoAttackReport {
            clean: share(clean),
            standing: share(standing),
            stages: ledger.stages,
            flags,
            broken_by,
            inputs: Tensor::from_data(TensorData::new(ledger.points, inputs.dims()), &inputs.device()),
            unfinished,
        })
    }

    /// The number of classes, and whether logits of the first examples are the same twice; 0 classes of no examples.
    fn look<const D: usize>(
        &self,
        classifier: &dyn Classifier<D>,
        inputs: &Tensor<D>,
    ) -> Result<(usize, Option<Flag>)> {
        let count = inputs.dims()[0].min(16);
        if count == 0 {
            return Ok((0, None));
        }
        let some = inputs.clone().slice_dim(0, 0..count).to_device(&classifier.device());
        let logits =
            || -> Result<Vec<f64>> { Ok(classifier.logits(some.clone())?.into_data().iter::<f64>().collect()) };
        let (first, second) = (logits()?, logits()?);
        let difference = first.iter().zip(&second).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        Ok((first.len() / count, (difference > 0.0).then_some(Flag::Randomised { difference })))
    }
}

/// How an example ended, where no attack broke it; the number of the attack that did is 0 or more.
const STANDING: i64 = -1;
const WRONG: i64 = -2;
const NOT_FINITE: i64 = -3;

/// What is known of every example between attacks.
struct Ledger {
    width: usize,
    /// The attack that comes next; the number of attacks once an example is done with.
    next: Vec<i64>,
    end: Vec<i64>,
    points: Vec<f32>,
    margins: Vec<f64>,
    stages: Vec<AttackStage>,
    /// For each attack, of the examples that held: how many, and the sums of the cross-entropy before and after.
    held: Vec<[f64; 3]>,
}

impl Ledger {
    fn new<const D: usize>(inputs: &Tensor<D>, stages: usize) -> Self {
        let examples = inputs.dims()[0];
        Self {
            width: inputs.dims()[1..].iter().product(),
            next: vec![0; examples],
            end: vec![STANDING; examples],
            points: inputs.to_data().iter::<f32>().collect(),
            margins: vec![f64::NEG_INFINITY; examples],
            stages: vec![AttackStage::default(); stages],
            held: vec![[0.0; 3]; stages],
        }
    }

    /// Lets the examples that an attack comes next for go on to the one after it.
    fn pass_over(&mut self, index: usize, why: String) {
        self.stages[index].skipped = Some(why);
        self.next.iter_mut().filter(|next| **next == index as i64).for_each(|next| *next += 1);
    }

    fn take_in<const D: usize>(
        &mut self,
        index: usize,
        left: &[usize],
        labels: &[usize],
        attacked: Attacked<D>,
        seconds: f64,
    ) {
        let last = self.stages.len() as i64;
        let stage = &mut self.stages[index];
        stage.seconds += seconds;
        let points: Vec<f32> = attacked.inputs.into_data().iter::<f32>().collect();
        for (place, (i, outcome)) in left.iter().zip(&attacked.outcomes).enumerate() {
            if outcome.status == Status::Unfinished {
                continue;
            }
            let wrong = outcome.status == Status::AlreadyReached;
            stage.attacked += usize::from(!wrong);
            stage.gradients += outcome.gradients;
            stage.zero_gradients += outcome.zero_gradients;
            stage.queries += outcome.queries;
            if outcome.loss > self.margins[*i] || outcome.status == Status::Broken {
                let range = i * self.width..(i + 1) * self.width;
                self.points[range].copy_from_slice(&points[place * self.width..(place + 1) * self.width]);
                self.margins[*i] = outcome.loss;
            }
            (self.next[*i], self.end[*i]) = match outcome.status {
                Status::Broken => (last, index as i64),
                Status::AlreadyReached => (last, WRONG),
                Status::NotFinite => (last, NOT_FINITE),
                _ => (index as i64 + 1, STANDING),
            };
            stage.broken += usize::from(outcome.status == Status::Broken);
            if outcome.status == Status::Standing {
                let loss = Loss::CrossEntropy { label: labels[*i] };
                let [held, before, after] = &mut self.held[index];
                *held += 1.0;
                *before += loss.value(&outcome.clean);
                *after += loss.value(&outcome.logits);
            }
        }
    }

    fn flags(&self) -> Vec<Flag> {
        let mut flags = Vec::new();
        let sum = |of: fn(&AttackStage) -> u64| self.stages.iter().map(of).sum::<u64>();
        let (zero, all) = (sum(|stage| stage.zero_gradients), sum(|stage| stage.gradients));
        if zero * 100 > all {
            flags.push(Flag::ZeroGradients { share: zero as f64 / all as f64 });
        }
        for (stage, [held, before, after]) in self.stages.iter().zip(&self.held) {
            let (before, after) = (before / held.max(1.0), after / held.max(1.0));
            let grown = after > 10.0 * before.max(0.01) && after > std::f64::consts::LN_2;
            if stage.broken == 0 && *held >= 10.0 && grown {
                flags.push(Flag::LossWithoutSuccess { attack: stage.name.clone(), before, after });
            }
        }
        let white = |stage: &AttackStage| stage.gradients > 0;
        for (i, stage) in self.stages.iter().enumerate() {
            let alone = !white(stage) && self.stages[..i].iter().any(white);
            if alone && stage.broken > 0 {
                flags.push(Flag::BlackBoxStronger { attack: stage.name.clone(), examples: stage.broken });
            }
        }
        let examples = self.end.iter().filter(|end| **end == NOT_FINITE).count();
        if examples > 0 {
            flags.push(Flag::NotFinite { examples });
        }
        flags
    }

    fn save(&self) -> State {
        let numbers = |of: fn(&AttackStage) -> u64| self.stages.iter().map(of).collect::<Vec<u64>>();
        let bits = |x: &f64| x.to_bits();
        State::new()
            .with("next", self.next.iter().map(|next| *next as u64).collect::<Vec<_>>())
            .with("end", self.end.iter().map(|end| (end + 3) as u64).collect::<Vec<_>>())
            .with("margins", self.margins.iter().map(bits).collect::<Vec<_>>())
            .with("points", self.points.iter().map(|x| u64::from(x.to_bits())).collect::<Vec<_>>())
            .with("attacked", numbers(|stage| stage.attacked as u64))
            .with("broken", numbers(|stage| stage.broken as u64))
            .with("gradients", numbers(|stage| stage.gradients))
            .with("zero", numbers(|stage| stage.zero_gradients))
            .with("queries", numbers(|stage| stage.queries))
            .with("held", self.held.iter().flatten().map(bits).collect::<Vec<_>>())
            .with("seconds", self.stages.iter().map(|stage| stage.seconds.to_bits()).collect::<Vec<_>>())
    }

    fn load(&mut self, mut state: State) -> Result<()> {
        let stages = self.stages.len();
        let mut take = |name: &'static str, length: usize| -> Result<Vec<u64>> {
            let values: Vec<u64> = state.take(name)?;
            match values.len() == length {
                true => Ok(values),
                false => Err(Error::Shape {
                    what: name,
                    actual: vec![values.len()],
                    expected: format!("[{length}], as the run has now"),
                }),
            }
        };
        let (examples, points) = (self.next.len(), self.points.len());
        let next = take("next", examples)?;
        let end = take("end", examples)?;
        let margins = take("margins", examples)?;
        let points = take("points", points)?;
        let held = take("held", 3 * stages)?;
        let mut loaded = self.stages.clone();
        for (name, set) in [
            ("attacked", (|stage, value| stage.attacked = value as usize) as fn(&mut AttackStage, u64)),
            ("broken", |stage, value| stage.broken = value as usize),
            ("gradients", |stage, value| stage.gradients = value),
            ("zero", |stage, value| stage.zero_gradients = value),
            ("queries", |stage, value| stage.queries = value),
            ("seconds", |stage, value| stage.seconds = f64::from_bits(value)),
        ] {
            loaded.iter_mut().zip(take(name, stages)?).for_each(|(stage, value)| set(stage, value));
        }
        state.finish()?;
        self.stages = loaded;
        self.held = held.chunks(3).map(|sums| [0, 1, 2].map(|i| f64::from_bits(sums[i]))).collect();
        self.next = next.into_iter().map(|next| next as i64).collect();
        self.end = end.into_iter().map(|end| end as i64 - 3).collect();
        self.margins = margins.into_iter().map(f64::from_bits).collect();
        self.points = points.into_iter().map(|bits| f32::from_bits(bits as u32)).collect();
        Ok(())
    }
}

/// Some of the examples.
pub(crate) fn select<const D: usize>(inputs: &Tensor<D>, chosen: &[usize]) -> Tensor<D> {
    let chosen: Vec<i64> = chosen.iter().map(|i| *i as i64).collect();
    let count = chosen.len();
    inputs.clone().select(0, Tensor::<1, Int>::from_data(TensorData::new(chosen, [count]), &inputs.device()))
}

impl fmt::Display for Flag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Randomised { difference } => {
                write!(
                    f,
                    "the same inputs gave logits that differ by {difference:e}: use the version for randomised classifiers"
                )
            }
            Self::ZeroGradients { share } => {
                write!(f, "{:.1} % of the gradients were exactly zero: they may be masked", 100.0 * share)
            }
            Self::BlackBoxStronger { attack, examples } => {
                write!(
                    f,
                    "{attack}, without gradients, broke {examples} more than the attacks with gradients: they may be masked"
                )
            }
            Self::LossWithoutSuccess { attack, before, after } => write!(
                f,
                "{attack} raised the mean cross-entropy from {before:.3} to {after:.3} and broke nothing: loss and decision disagree"
            ),
            Self::NotFinite { examples } => write!(f, "logits of {examples} examples were not finite"),
        }
    }
}

impl<const D: usize> fmt::Display for AutoAttackReport<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "clean     {}", self.clean)?;
        for stage in &self.stages {
            match &stage.skipped {
                Some(why) => writeln!(f, "{:<9} left out: {why}", stage.name)?,
                None => writeln!(
                    f,
                    "{:<9} broke {} of {}, {} gradients, {} queries, {:.2} s",
                    stage.name, stage.broken, stage.attacked, stage.gradients, stage.queries, stage.seconds
                )?,
            }
        }
        writeln!(f, "standing  {}", self.standing)?;
        self.flags.iter().try_for_each(|flag| writeln!(f, "careful: {flag}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Fgsm, Pgd, Pulled, Recorded, Taped};
    use burn::tensor::Device;

    fn digits(count: usize) -> (Tensor<2>, Vec<usize>) {
        crate::digits::load().1.first(count)
    }

    fn quick(threat: Threat) -> AutoAttack {
        let attacks: Vec<Box<dyn Attack>> = vec![
            Box::new(Fgsm::new()),
            Box::new(Apgd::new().steps(20)),
            Box::new(Apgd::targeted(9).steps(20)),
            Box::new(Fab::targeted(9).steps(20)),
            Box::new(Square::new().queries(300)),
        ];
        AutoAttack::custom(threat, attacks)
    }

    fn linf(epsilon: f64) -> Threat {
        Threat::new(Norm::Linf, epsilon).unwrap()
    }

    #[test]
    fn attacks_see_only_what_is_left_and_figures_add_up() {
        let (x, y) = digits(60);
        let report = quick(linf(0.06)).run(crate::digits::classifier(), x.clone(), &y).unwrap();
        println!("{report}");
        let mut left = report.clean.count;
        for stage in &report.stages {
            assert_eq!(stage.attacked, left, "{report}");
            left -= stage.broken;
        }
        assert_eq!((report.standing.count, report.unfinished.is_none()), (left, true));
        assert!(report.stages[0].broken > 0 && left > 0, "{report}");
        for stage in &report.stages {
            let by = report.broken_by.iter().flatten().filter(|by| report.stages[**by].name == stage.name).count();
            assert_eq!(by, stage.broken);
        }
        // Nothing that the whole breaks less than its first attack.
        let pgd = Pgd::new().attack(crate::digits::classifier(), linf(0.06), x, &Goals::untargeted(&y)).unwrap();
        assert!(report.standing.count <= pgd.standing() + 1);
    }

    #[test]
    fn a_stopped_run_goes_on_to_the_same_end() {
        let (x, y) = digits(40);
        let attack = quick(linf(0.06)).engine(Engine::new().batch(16));
        let classifier = crate::digits::classifier();
        let whole = attack.run(classifier, x.clone(), &y).unwrap();
        let (mut state, mut times) = (None, 0);
        let resumed = loop {
            let mut batches = 0;
            let mut watch = |_: &str, _| {
                batches += 1;
                if batches > 400 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            };
            let report = attack.run_watched(classifier, x.clone(), &y, state.take(), &mut watch).unwrap();
            times += 1;
            match report.unfinished.clone() {
                Some(unfinished) => state = Some(unfinished),
                None => break report,
            }
            assert!(times < 100);
        };
        assert!(times > 2);
        assert_eq!(resumed.broken_by, whole.broken_by);
        assert_eq!(resumed.inputs.to_data(), whole.inputs.to_data());
        assert_eq!(resumed.flags, whole.flags);
        let other = attack.run_watched(classifier, x, &y, Some(State::new()), &mut |_, _| ControlFlow::Continue(()));
        assert!(other.is_err());
    }

    #[test]
    fn too_few_classes_leave_an_attack_out_and_an_unbreakable_radius_breaks_nothing() {
        let device = Device::flex();
        let model = burn::nn::LinearConfig::new(4, 2).init(&device);
        let classifier = Recorded::new(&model, [4], |model, x: Tensor<2>| model.forward(x)).unwrap();
        let x = Tensor::<2>::full([3, 4], 0.5, &device);
        let label = classifier.logits(x.clone()).unwrap().argmax(1).into_data().iter::<i64>().next().unwrap() as usize;
        let report = AutoAttack::standard(linf(1e-9))
            .unwrap()
            .engine(Engine::new().queries(300))
            .run(&classifier, x, &[label; 3])
            .unwrap();
        assert!(report.stages[1].skipped.as_ref().unwrap().contains("at least 4 classes"), "{report}");
        assert_eq!((report.clean.count, report.standing.count), (3, 3));
        // Stopped after the one left out, it says so again at the end.
        let attack = AutoAttack::standard(linf(1e-9)).unwrap().engine(Engine::new().queries(300));
        let x = Tensor::<2>::full([3, 4], 0.5, &device);
        let mut stop =
            |name: &str, _| if name == "Square" { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
        let half = attack.run_watched(&classifier, x.clone(), &[label; 3], None, &mut stop).unwrap();
        let mut go = |_: &str, _| ControlFlow::Continue(());
        let state = half.unfinished;
        assert!(state.is_some());
        let whole = attack.run_watched(&classifier, x, &[label; 3], state, &mut go).unwrap();
        assert_eq!((&whole.stages[1], whole.standing), (&report.stages[1], report.standing));
        assert!(AutoAttack::standard(Threat::new(Norm::L0, 1.0).unwrap()).is_err());
    }

    #[test]
    fn every_radius_breaks_what_smaller_ones_do() {
        let (x, y) = digits(40);
        let standing: Vec<usize> = [0.0, 0.03, 0.06, 0.1, 0.5]
            .iter()
            .map(|epsilon| {
                quick(linf(*epsilon)).run(crate::digits::classifier(), x.clone(), &y).unwrap().standing.count
            })
            .collect();
        assert!(standing.windows(2).all(|w| w[0] >= w[1]) && standing[4] == 0, "{standing:?}");
    }

    #[test]
    fn the_order_and_the_split_of_the_batch_do_not_matter() {
        let (x, y) = digits(40);
        let classifier = crate::digits::classifier();
        let there = quick(linf(0.06)).run(classifier, x.clone(), &y).unwrap();
        let back: Vec<usize> = y.iter().rev().copied().collect();
        let turned = quick(linf(0.06)).engine(Engine::new().batch(16)).run(classifier, x.flip([0]), &back).unwrap();
        let broken_by: Vec<Option<usize>> = turned.broken_by.iter().rev().copied().collect();
        assert_eq!(broken_by, there.broken_by);
        assert!(there.standing.count > 0 && there.standing.count < there.clean.count, "{there}");
    }

    /// Gradients that are zero everywhere although the decision moves.
    struct Masked<'a>(&'a dyn Classifier<2>);

    impl Classifier<2> for Masked<'_> {
        fn logits(&self, inputs: Tensor<2>) -> Result<Tensor<2>> {
            self.0.logits(inputs)
        }

        fn pullback(&self, inputs: Tensor<2>) -> Result<Pulled<'_, 2>> {
            let (logits, dims, device) = (self.0.logits(inputs.clone())?, inputs.dims(), inputs.device());
            Ok(Pulled { logits, back: Box::new(move |_| Ok(Tensor::zeros(dims, &device))) })
        }

        fn device(&self) -> Device {
            self.0.device()
        }
    }

    #[test]
    fn masked_gradients_and_randomness_are_flagged() {
        let (x, y) = digits(30);
        let attack = AutoAttack::custom(
            linf(0.15),
            vec![Box::new(Pgd::new().steps(5).random_start(false)), Box::new(Square::new().queries(500))],
        );
        let report = attack.run(&Masked(crate::digits::classifier()), x.clone(), &y).unwrap();
        assert!(
            report.flags.iter().any(|flag| matches!(flag, Flag::ZeroGradients { share } if *share == 1.0)),
            "{report}"
        );
        assert!(
            report.flags.iter().any(|flag| matches!(flag, Flag::BlackBoxStronger { examples, .. } if *examples > 0)),
            "{report}"
        );

        let noisy = Taped::new(crate::digits::classifier().model(), |net: &crate::digits::Net, x: Tensor<2>| {
            let noise = Tensor::random(x.dims(), burn::tensor::Distribution::Normal(0.0, 0.01), &x.device());
            net.forward(x + noise)
        });
        let report = attack.run(&noisy, x, &y).unwrap();
        assert!(matches!(report.flags[0], Flag::Randomised { difference } if difference > 0.0), "{report}");
        assert!(report.to_string().contains("careful: the same inputs gave logits that differ"));
    }
}
