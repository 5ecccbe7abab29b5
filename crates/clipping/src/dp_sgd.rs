//! DP-SGD: gradients that tell little about any one example, with the account of how little.

use burn::tensor::{Tensor, TensorData};
use core_tensor::transform::State;
use core_tensor::{Batch, Error, Program, Random, Result, Tree};

use crate::accountant::{Accountant, Ledger, Mechanism, noise_multiplier_for, steps_for};
use crate::limit::{limit, positive};
use crate::per_sample::{SampleClip, SampleNorms};
use crate::poisson::PoissonSampler;

/// Draws batches, clips every sample, adds noise, keeps the account and stops at a budget.
///
/// A step draws each of `N` examples with probability `q = L/N`, clips its gradient with a [`SampleClip`] rule of sensitivity `C`,
/// and gives `(Σᵢ clip(gᵢ) + N(0, (σC)²))/L` for any optimizer. M. Abadi et al., "Deep learning with differential privacy", CCS
/// 2016, algorithm 1, with Poisson sampling as its analysis has it. `L` is the expected size of a batch, never the size drawn,
/// which would tell something.
///
/// Batches are computed in parts of [`physical_batch`](DpSgd::physical_batch) examples, filled up with a repeated example of
/// weight zero, so that memory is bounded and a program is recorded once.
///
/// | parameter | default | range | effect |
/// |---|---|---|---|
/// | `noise_multiplier` | – | `[0, ∞]` | `σ`; more noise, less spent |
/// | `expected_batch` | – | `(0, examples]` | `L`; larger is less noisy and spends more a step |
/// | [`delta`](DpSgd::delta) | `1/(10·examples)` | `(0, 1)` | the `δ` that `ε` is told at |
/// | [`budget`](DpSgd::budget) | none | `(0, ∞)` | no step that would spend more `ε` |
/// | [`accountant`](DpSgd::accountant) | PRV | | see [`Accountant`] |
/// | [`physical_batch`](DpSgd::physical_batch) | 64 | `≥ 1` | memory |
/// | [`seed`](DpSgd::seed) | 0 | | sampling and noise; secret where privacy matters |
///
/// What the account covers: the sequence of gradients, and all that is computed from them. The other numbers of a
/// [`PrivateStep`] (losses, norms, how many were drawn) are not noisy; do not publish them.
///
/// Cost of a step: that of [`Program::per_sample`] for each part, with a host synchronisation on a GPU to read losses and norms, and a
/// pass over the gradient and its noise.
///
/// ```
/// use burn::nn::LinearConfig;
/// use burn::optim::SgdConfig;
/// use burn::tensor::{Device, Distribution, Int, Tensor, TensorData};
/// use clipping::DpSgd;
/// use clipping::per_sample::Flat;
/// use core_tensor::{Program, Tree};
///
/// let device = Device::flex().autodiff();
/// let mut model = LinearConfig::new(3, 1).init(&device);
/// let mut optim = SgdConfig::new().init();
/// let data = Tensor::<2>::random([100, 3], Distribution::Default, &Device::flex());
/// let rows = |indices: &[usize]| {
///     let indices: Vec<i64> = indices.iter().map(|i| *i as i64).collect();
///     let n = indices.len();
///     data.clone().select(0, Tensor::<1, Int>::from_data(TensorData::new(indices, [n]), &data.device()))
/// };
/// // One loss a sample.
/// let program = Program::record_first_order(&model, &rows(&[0, 1]), |model, x: &Tensor<2>| {
///     (model.forward(x.clone()) - x.clone().sum_dim(1)).square().squeeze_dim::<1>(1)
/// })?;
/// let mut dp = DpSgd::new(Flat::new(1.0)?, 2.0, 100, 10.0)?.budget(1.0)?.physical_batch(16)?;
/// while let Some(step) = dp.step(&program, &Tree::from_module(&model), rows)? {
///     model = optim.step(0.1, model, step.gradient.into_params()?);
/// }
/// assert!(dp.epsilon()? <= 1.0 && dp.steps() > 20);
/// # Ok::<(), core_tensor::Error>(())
/// ```
pub struct DpSgd {
    rule: Box<dyn SampleClip>,
    mechanism: Mechanism,
    expected_batch: f64,
    delta: f64,
    budget: Option<f64>,
    /// Steps that the budget allows; found when first needed.
    allowed: Option<u64>,
    accountant: Accountant,
    physical_batch: usize,
    sampler: PoissonSampler,
    noise: Random,
    seed: u64,
    ledger: Ledger,
}

/// The gradient of a step, and numbers that stay in the house.
#[derive(Clone, Debug)]
pub struct PrivateStep {
    /// Clipped, summed, noisy, divided by the expected batch: this is what the account covers.
    pub gradient: Tree,
    /// Steps before this one.
    pub step: u64,
    /// Examples drawn. Not private.
    pub drawn: usize,
    /// Mean loss of the examples drawn, NaN for none. Not private.
    pub loss: f64,
    /// Norms before clipping, of those drawn. Not private.
    pub norms: Vec<f64>,
    /// Share of those drawn whose norm is above the sensitivity or not finite. Not private.
    pub clipped: f64,
}

impl DpSgd {
    /// Rule, noise multiplier `σ`, number of examples `N`, expected batch size `L`.
    ///
    /// # Errors
    /// [`Error::Parameter`] for a negative noise multiplier, `expected_batch` outside `(0, examples]`, a rule whose sensitivity is
    /// not above zero and finite, or one whose own noise is too small.
    pub fn new(
        rule: impl SampleClip + 'static,
        noise_multiplier: f64,
        examples: usize,
        expected_batch: f64,
    ) -> Result<Self> {
        if !(expected_batch > 0.0 && expected_batch <= examples as f64) {
            let bound = "0 < expected_batch <= examples";
            return Err(Error::Parameter { parameter: "expected_batch", value: expected_batch, bound });
        }
        positive("sensitivity", rule.sensitivity())?;
        rule.gradient_noise(limit("noise_multiplier", noise_multiplier)?)?;
        let rate = expected_batch / examples as f64;
        Ok(Self {
            rule: Box::new(rule),
            mechanism: Mechanism::new(noise_multiplier, rate)?,
            expected_batch,
            delta: 0.1 / examples as f64,
            budget: None,
            allowed: None,
            accountant: Accountant::default(),
            physical_batch: 64,
            sampler: PoissonSampler::new(examples, rate, 0)?,
            noise: Random::new(0).fork("dp-sgd"),
            seed: 0,
            ledger: Ledger::new(),
        })
    }

    /// The noise with which `steps` steps spend `epsilon` at `delta`, by the default accountant.
    ///
    /// # Errors
    /// As [`DpSgd::new`] and [`noise_multiplier_for`].
    pub fn for_budget(
        rule: impl SampleClip + 'static,
        epsilon: f64,
        delta: f64,
        steps: u64,
        examples: usize,
        expected_batch: f64,
    ) -> Result<Self> {
        let rate = expected_batch / examples as f64;
        let noise = noise_multiplier_for(epsilon, delta, rate, steps, Accountant::default())?;
        Self::new(rule, noise, examples, expected_batch)?.delta(delta)?.budget(epsilon)
    }

    /// The `δ` that `ε` is told at.
    ///
    /// # Errors
    /// [`Error::Parameter`] unless `0 < delta < 1`.
    pub fn delta(self, delta: f64) -> Result<Self> {
        match delta > 0.0 && delta < 1.0 {
            true => Ok(Self { delta, allowed: None, ..self }),
            false => Err(Error::Parameter { parameter: "delta", value: delta, bound: "0 < delta < 1" }),
        }
    }

    /// The most `ε` to spend.
    ///
    /// # Errors
    /// [`Error::Parameter`] unless it is above zero and finite.
    pub fn budget(self, epsilon: f64) -> Result<Self> {
        Ok(Self { budget: Some(positive("epsilon", epsilon)?), allowed: None, ..self })
    }

    /// Another accountant.
    pub fn accountant(self, accountant: Accountant) -> Self {
        Self { accountant, allowed: None, ..self }
    }

    /// Examples computed at once.
    ///
    /// # Errors
    /// [`Error::Parameter`] for 0.
    pub fn physical_batch(self, examples: usize) -> Result<Self> {
        match examples {
            0 => Err(Error::Parameter { parameter: "physical_batch", value: 0.0, bound: "1 <= physical_batch" }),
            _ => Ok(Self { physical_batch: examples, ..self }),
        }
    }

    /// Seed of sampling and noise.
    pub fn seed(self, seed: u64) -> Self {
        let sampler = PoissonSampler::new(self.sampler.examples(), self.sampler.rate(), seed);
        Self { sampler: sampler.unwrap_or(self.sampler), noise: Random::new(seed).fork("dp-sgd"), seed, ..self }
    }

    /// `σ`
    pub fn noise_multiplier(&self) -> f64 {
        self.mechanism.noise_multiplier()
    }

    /// Steps taken.
    pub fn steps(&self) -> u64 {
        self.ledger.steps()
    }

    /// Steps that the budget still allows; `u64::MAX` without one.
    ///
    /// # Errors
    /// As [`Accountant::epsilon`].
    pub fn steps_left(&mut self) -> Result<u64> {
        let Some(budget) = self.budget else { return Ok(u64::MAX) };
        let allowed = match self.allowed {
            Some(allowed) => allowed,
            None => steps_for(budget, self.delta, self.mechanism, &Ledger::new(), self.accountant)?,
        };
        self.allowed = Some(allowed);
        Ok(allowed.saturating_sub(self.steps()))
    }

    /// `ε` spent so far.
    ///
    /// # Errors
    /// As [`Accountant::epsilon`].
    pub fn epsilon(&self) -> Result<f64> {
        self.accountant.epsilon(&self.ledger, self.delta)
    }

    /// `ε` spent so far by another accountant.
    ///
    /// # Errors
    /// As [`Accountant::epsilon`].
    pub fn epsilon_by(&self, accountant: Accountant) -> Result<f64> {
        accountant.epsilon(&self.ledger, self.delta)
    }

    /// The rule, whose limit may have moved.
    pub fn rule(&self) -> &dyn SampleClip {
        self.rule.as_ref()
    }

    /// One step; `None` if it would spend more than the budget.
    ///
    /// `batch` makes the batch of the examples at the given positions, one row for each; positions repeat where a part is filled
    /// up. Dropout and other random operations of the program are drawn anew ([`Program::reseed`]). After an error nothing has
    /// been spent and the same step comes again.
    ///
    /// # Errors
    /// As [`Program::per_sample`]; [`Error::Length`] where the program's losses are not one a row.
    pub fn step<B: Batch>(
        &mut self,
        program: &Program<B>,
        point: &Tree,
        mut batch: impl FnMut(&[usize]) -> B,
    ) -> Result<Option<PrivateStep>> {
        if self.steps_left()? == 0 {
            return Ok(None);
        }
        program.reseed(self.seed.wrapping_add(self.steps()));
        let (mut sampler, mut noise) = (self.sampler.clone(), self.noise.clone());
        let drawn = sampler.sample();
        let size = self.physical_batch;
        let mut sum: Option<Tree> = None;
        let mut counted = Counted::default();
        // No example: one part of weight zero, for the shape of the gradient.
        let parts = drawn.len().div_ceil(size).max(1);
        for part in 0..parts {
            let taken = &drawn[part * size..drawn.len().min((part + 1) * size)];
            let filler = drawn.first().copied().unwrap_or(0);
            let rows: Vec<usize> = taken.iter().copied().chain(std::iter::repeat(filler)).take(size).collect();
            let samples = program.per_sample(point, &batch(&rows))?;
            if samples.samples() != size {
                let what = "the list of losses for a batch of rows";
                return Err(Error::Length { what, expected: size, actual: samples.samples() });
            }
            let kept: Vec<f32> = (0..size).map(|i| if i < taken.len() { 1.0 } else { 0.0 }).collect();
            let kept = Tensor::<1>::from_data(TensorData::new(kept, [size]), &samples.values.device());
            let norms = SampleNorms { names: samples.names(), squares: samples.squared_norms() };
            let factors = self.rule.factors(&norms)?.into_iter();
            let factors: Vec<_> = factors.map(|factor| factor.clone() * kept.clone().cast(factor.dtype())).collect();
            counted.below += self.rule.below(&norms, &kept).unwrap_or(0.0);
            counted.take(&samples.values, &samples.norms(), taken.len());
            let clipped = samples.into_weighted_sums(&factors)?;
            sum = Some(match sum {
                None => clipped,
                Some(sum) => sum.add(&clipped)?,
            });
        }
        let sum = sum.unwrap_or_default();
        let sensitivity = self.rule.sensitivity();
        let deviation = self.rule.gradient_noise(self.noise_multiplier())? * sensitivity;
        let noisy = if deviation > 0.0 { noise.normal_like(&sum, deviation).add(&sum)? } else { sum };
        let gradient = noisy.scale(1.0 / self.expected_batch);
        self.rule.observe(counted.below, drawn.len() as f64, self.expected_batch, &mut noise);

        let step = self.steps();
        self.ledger.record(self.mechanism, 1);
        (self.sampler, self.noise) = (sampler, noise);
        let over = counted.norms.iter().filter(|norm| !(**norm <= sensitivity)).count();
        let share = |x: f64| if drawn.is_empty() { f64::NAN } else { x / drawn.len() as f64 };
        Ok(Some(PrivateStep {
            gradient,
            step,
            drawn: drawn.len(),
            loss: share(counted.loss),
            clipped: share(over as f64),
            norms: counted.norms,
        }))
    }

    /// Account, sampling, noise and rule, to go on from later bit for bit.
    pub fn state(&self) -> State {
        let entries = self.ledger.entries().iter();
        let numbers: Vec<f64> = entries
            .clone()
            .flat_map(|(mechanism, _)| [mechanism.noise_multiplier(), mechanism.sample_rate()])
            .collect();
        let counts: Vec<u64> = entries.map(|(_, steps)| *steps).collect();
        State::new()
            .with("mechanisms", numbers)
            .with("steps", counts)
            .with_nested("sampler", self.sampler.state())
            .with_nested("noise", self.noise.state())
            .with_nested("rule", self.rule.state())
    }

    /// Go on from a state.
    ///
    /// # Errors
    /// [`Error::State`] and [`Error::Length`] for the state of something else. Then nothing has changed.
    pub fn load_state(&mut self, mut state: State) -> Result<()> {
        let numbers: Vec<f64> = state.take("mechanisms")?;
        let counts: Vec<u64> = state.take("steps")?;
        if numbers.len() != 2 * counts.len() {
            return Err(Error::Length { what: "mechanisms", expected: 2 * counts.len(), actual: numbers.len() });
        }
        let mut ledger = Ledger::new();
        for (pair, steps) in numbers.chunks(2).zip(counts) {
            ledger.record(Mechanism::new(pair[0], pair[1])?, steps);
        }
        let (mut sampler, mut noise) = (self.sampler.clone(), self.noise.clone());
        sampler.load_state(state.take_nested("sampler"))?;
        noise.load_state(state.take_nested("noise"))?;
        let rule = state.take_nested("rule");
        state.finish()?;
        self.rule.load_state(rule)?;
        (self.ledger, self.sampler, self.noise) = (ledger, sampler, noise);
        Ok(())
    }
}

/// Numbers of a step gathered over its parts.
#[derive(Default)]
struct Counted {
    loss: f64,
    below: f64,
    norms: Vec<f64>,
}

impl Counted {
    fn take(&mut self, losses: &Tensor<1>, norms: &Tensor<1>, taken: usize) {
        let numbers = |x: &Tensor<1>| x.clone().into_data().iter::<f64>().take(taken).collect::<Vec<_>>();
        self.loss += numbers(losses).iter().sum::<f64>();
        self.norms.extend(numbers(norms));
    }
}

impl std::fmt::Debug for DpSgd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DpSgd")
            .field("rule", &self.rule.name())
            .field("mechanism", &self.mechanism)
            .field("steps", &self.steps())
            .field("budget", &self.budget)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::per_sample::{Adaptive, Flat, PerLayer};
    use burn::nn::{Linear, LinearConfig};
    use burn::tensor::{Device, Int};
    use core_tensor::testing::{assert_close, assert_same_bits};

    const EXAMPLES: usize = 40;

    fn device() -> Device {
        Device::flex()
    }

    fn data() -> Tensor<2> {
        Random::new(1).normal([EXAMPLES, 3], 0.0, 1.0, &device())
    }

    fn rows(data: &Tensor<2>, indices: &[usize]) -> Tensor<2> {
        let indices: Vec<i64> = indices.iter().map(|i| *i as i64).collect();
        let n = indices.len();
        data.clone().select(0, Tensor::<1, Int>::from_data(TensorData::new(indices, [n]), &device()))
    }

    fn losses(model: &Linear, x: &Tensor<2>) -> Tensor<1> {
        (model.forward(x.clone()) - x.clone().sum_dim(1)).square().squeeze_dim::<1>(1)
    }

    fn setting() -> (Program<Tensor<2>>, Tree) {
        let model = LinearConfig::new(3, 1).init(&device());
        let program = Program::record_first_order(&model, &rows(&data(), &[0, 1]), losses).unwrap();
        (program, Tree::from_module(&model))
    }

    fn dp(noise: f64) -> DpSgd {
        DpSgd::new(Flat::new(0.5).unwrap(), noise, EXAMPLES, 10.0).unwrap().seed(4)
    }

    #[test]
    fn without_noise_it_is_the_clipped_sum_of_those_drawn() {
        let (program, point) = setting();
        let mut dp = dp(0.0);
        let drawn = dp.sampler.clone().sample();
        let step = dp.step(&program, &point, |i| rows(&data(), i)).unwrap().unwrap();
        assert_eq!((step.drawn, step.norms.len(), step.step), (drawn.len(), drawn.len(), 0));
        let (values, gradients) = program.jacobian(&point, &rows(&data(), &drawn)).unwrap();
        let mut expected = gradients[0].zeros_like();
        for gradient in &gradients {
            let norm = gradient.norm().value();
            expected = expected.axpy((0.5 / norm).min(1.0) / 10.0, gradient).unwrap();
        }
        assert_close(&step.gradient, &expected, 1e-6);
        let mean = values.mean().into_data().iter::<f64>().next().unwrap();
        assert!((step.loss / mean - 1.0).abs() < 1e-5);
        let over = gradients.iter().filter(|g| g.norm().value() > 0.5).count();
        assert_eq!(step.clipped, over as f64 / drawn.len() as f64);
        assert_eq!(dp.epsilon().unwrap(), f64::INFINITY, "no noise, no privacy");
    }

    #[test]
    fn parts_do_not_change_the_gradient() {
        let (program, point) = setting();
        let gradient = |size: usize| {
            let mut dp = dp(1.0).physical_batch(size).unwrap();
            dp.step(&program, &point, |i| rows(&data(), i)).unwrap().unwrap().gradient
        };
        let whole = gradient(64);
        for size in [1, 2, 7] {
            assert_close(&gradient(size), &whole, 1e-6);
        }
    }

    #[test]
    fn the_noise_is_that_of_the_mechanism() {
        let (program, point) = setting();
        let (mut noisy, mut plain) = (dp(3.0), dp(0.0));
        let mut squares = 0.0;
        const STEPS: u32 = 500;
        for _ in 0..STEPS {
            let step = |dp: &mut DpSgd| dp.step(&program, &point, |i| rows(&data(), i)).unwrap().unwrap().gradient;
            let noise = step(&mut noisy).sub(&step(&mut plain)).unwrap();
            squares += noise.norm().value().powi(2);
        }
        // Four parameters with deviation 3·0.5/10.
        let n = f64::from(4 * STEPS);
        let deviation = (squares / n).sqrt();
        assert!((deviation / 0.15 - 1.0).abs() < 5.0 / (2.0 * n).sqrt(), "{deviation}");
    }

    #[test]
    fn the_budget_is_kept_and_used() {
        let (program, point) = setting();
        for accountant in [Accountant::Rdp, Accountant::default()] {
            let mut dp = dp(2.0).delta(1e-3).unwrap().accountant(accountant).budget(2.0).unwrap();
            let left = dp.steps_left().unwrap();
            let mut spent = 0.0;
            while let Some(step) = dp.step(&program, &point, |i| rows(&data(), i)).unwrap() {
                let epsilon = dp.epsilon().unwrap();
                assert!(epsilon >= spent && epsilon <= 2.0, "step {}: {epsilon}", step.step);
                spent = epsilon;
            }
            assert_eq!(dp.steps(), left);
            assert_eq!(dp.steps_left().unwrap(), 0);
            let mut ledger = Ledger::new();
            ledger.record(Mechanism::new(2.0, 0.25).unwrap(), left + 1);
            assert!(accountant.epsilon(&ledger, 1e-3).unwrap() > 2.0, "one more would have been too much");
        }
        let dp = DpSgd::for_budget(Flat::new(1.0).unwrap(), 1.0, 1e-5, 100, 1000, 50.0);
        let mut dp = dp.unwrap();
        let left = dp.steps_left().unwrap();
        assert!((100..105).contains(&left), "{left}");
    }

    #[test]
    fn an_example_that_is_not_finite_adds_nothing() {
        let (program, point) = setting();
        let broken = |value: f32| {
            let row = Tensor::<2>::full([1, 3], value, &device());
            data().slice_assign([3..4, 0..3], row)
        };
        // All are drawn.
        let step = |data: &Tensor<2>| {
            let mut dp = DpSgd::new(Flat::new(0.5).unwrap(), 0.0, EXAMPLES, EXAMPLES as f64).unwrap();
            dp.step(&program, &point, |i| rows(data, i)).unwrap().unwrap()
        };
        let zero = step(&broken(0.0));
        for value in [f32::NAN, f32::INFINITY] {
            let step = step(&broken(value));
            assert!(step.gradient.is_finite().value() == 1.0 && !step.norms[3].is_finite());
            // All zeros in, only the bias has a gradient; of a sample that adds 0.5 at most.
            let moved = step.gradient.sub(&zero.gradient).unwrap().norm().value();
            assert!(moved <= 0.5 / EXAMPLES as f64 * 1.001, "{moved}");
        }
    }

    #[test]
    fn dropout_is_drawn_anew_in_every_step() {
        use burn::nn::{Dropout, DropoutConfig};
        #[derive(burn::module::Module, Debug)]
        struct Net {
            layer: Linear,
            drop: Dropout,
        }
        let net = Net { layer: LinearConfig::new(3, 1).init(&device()), drop: DropoutConfig::new(0.5).init() };
        let losses =
            |net: &Net, x: &Tensor<2>| net.layer.forward(net.drop.forward(x.clone())).square().squeeze_dim::<1>(1);
        let program = Program::record_first_order(&net, &rows(&data(), &[0, 1]), losses).unwrap();
        let point = Tree::from_module(&net);
        // All examples in every step: only the masks differ.
        let mut dp = DpSgd::new(Flat::new(0.5).unwrap(), 0.0, EXAMPLES, EXAMPLES as f64).unwrap();
        let mut norms = || dp.step(&program, &point, |i| rows(&data(), i)).unwrap().unwrap().norms;
        assert_ne!(norms(), norms());
    }

    #[test]
    fn an_empty_draw_is_noise() {
        let (program, point) = setting();
        let mut dp = DpSgd::new(Flat::new(1.0).unwrap(), 1.0, EXAMPLES, 1e-9).unwrap();
        let step = dp.step(&program, &point, |i| rows(&data(), i)).unwrap().unwrap();
        assert_eq!((step.drawn, step.norms.len()), (0, 0));
        assert!(step.loss.is_nan() && step.gradient.norm().value() > 0.0);
        step.gradient.same_structure(&point).unwrap();
    }

    #[test]
    fn a_run_resumes_bit_for_bit() {
        let (program, point) = setting();
        let make = || {
            let rule = Adaptive::new(0.5, 0.2, 0.5, 5.0).unwrap();
            DpSgd::new(rule, 1.0, EXAMPLES, 10.0).unwrap().seed(8)
        };
        let step = |dp: &mut DpSgd| dp.step(&program, &point, |i| rows(&data(), i)).unwrap().unwrap().gradient;
        let mut dp = make();
        step(&mut dp);
        step(&mut dp);
        let file = tempfile::NamedTempFile::new().unwrap();
        dp.state().save(file.path()).unwrap();
        let mut resumed = make();
        resumed.load_state(State::load(file.path(), &device()).unwrap()).unwrap();
        assert_eq!((resumed.steps(), resumed.epsilon().unwrap()), (2, dp.epsilon().unwrap()));
        assert!(dp.rule().sensitivity() != 0.5, "the limit has moved");
        for _ in 0..3 {
            assert_same_bits(&step(&mut dp), &step(&mut resumed));
        }
        assert_eq!(dp.state(), resumed.state());
        assert!(make().load_state(State::new()).is_err());
        let flat = self::dp(1.0).state();
        assert!(make().load_state(flat).is_err(), "the state of another rule");
    }

    #[test]
    fn bad_input_and_failed_steps() {
        let flat = || Flat::new(1.0).unwrap();
        for (noise, batch) in [(-1.0, 10.0), (f64::NAN, 10.0), (1.0, 0.0), (1.0, 41.0), (1.0, f64::NAN)] {
            assert!(DpSgd::new(flat(), noise, EXAMPLES, batch).is_err());
        }
        assert!(DpSgd::new(flat(), 1.0, 0, 1.0).is_err());
        assert!(DpSgd::new(Flat::new(0.0).unwrap(), 1.0, EXAMPLES, 1.0).is_err());
        assert!(DpSgd::new(Flat::new(f64::INFINITY).unwrap(), 1.0, EXAMPLES, 1.0).is_err());
        assert!(DpSgd::new(Adaptive::new(0.5, 0.2, 1.0, 0.5).unwrap(), 1.0, EXAMPLES, 1.0).is_err());
        assert!(dp(1.0).delta(0.0).is_err() && dp(1.0).budget(0.0).is_err() && dp(1.0).physical_batch(0).is_err());

        // A loss that was summed is one sample to the program, but not what was asked for.
        let model = LinearConfig::new(3, 1).init(&device());
        let summed = |model: &Linear, x: &Tensor<2>| losses(model, x).sum();
        let program = Program::record_first_order(&model, &rows(&data(), &[0, 1]), summed).unwrap();
        let mut dp = dp(1.0);
        let before = dp.state();
        let error = dp.step(&program, &Tree::from_module(&model), |i| rows(&data(), i)).unwrap_err();
        assert!(matches!(error, Error::Length { expected: 64, actual: 1, .. }), "{error}");
        assert_eq!(dp.state(), before, "nothing was spent");
        let unknown = PerLayer::with_limits([("other", 1.0)], |_| "layer".to_string()).unwrap();
        let mut dp = DpSgd::new(unknown, 1.0, EXAMPLES, 10.0).unwrap();
        let (program, point) = setting();
        assert!(dp.step(&program, &point, |i| rows(&data(), i)).unwrap_err().to_string().contains("`layer`"));
        assert_eq!(dp.steps(), 0);
    }
}
