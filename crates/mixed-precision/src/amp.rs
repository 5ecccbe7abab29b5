//! A training step in mixed precision: scaled loss, gradients, unscaling, the chain, the optimizer.

use std::fmt;
use std::path::Path;

use burn::lr_scheduler::module_lr_scheduler::ModuleLearningRate;
use burn::module::Module;
use burn::optim::ModuleOptimizer;
use burn::tensor::Device;
use core_tensor::transform::{Chain, Outcome, StepError, Trainer};
use core_tensor::{Batch, Program, Scalar, Tree};

use crate::loss_scale::LossScale;
use crate::unscale::SharedLossScale;

/// Trains by a recorded program with a loss scale: value and gradient of the scaled loss → unscale and check → [`Chain`] →
/// optimizer.
///
/// The program says in which precision operations run ([`Program::autocast`]); parameters, gradients and the optimizer's state stay as
/// the model has them. A gradient that is not finite skips the step and backs the scale off; [`Outcome`] says so. The chain sees
/// unscaled gradients, so clipping is at the right place by itself.
///
/// ```
/// use burn::nn::LinearConfig;
/// use burn::optim::AdamWConfig;
/// use burn::tensor::{Device, Distribution, Tensor};
/// use core_tensor::{Chain, Program, transform::Outcome};
/// use mixed_precision::{Amp, LossScale, autocast};
///
/// let device = Device::default().autodiff();
/// let mut model = LinearConfig::new(3, 1).init(&device);
/// let x = Tensor::<2>::random([16, 3], Distribution::Default, &device);
///
/// let program = Program::record_first_order(&model, &x, |model, x| model.forward(x.clone()).square().mean())?;
/// let program = program.autocast(&autocast::f16());
/// let mut amp = Amp::new(program, LossScale::dynamic(), Chain::new(), AdamWConfig::new().init());
/// for _ in 0..3 {
///     model = match amp.step(1e-2, model, &x)? {
///         Outcome::Stepped { model, report } => {
///             println!("loss {}", report.loss.expect("given").value());
///             model
///         }
///         Outcome::Skipped { model, why } => {
///             println!("skipped: {why}");
///             model
///         }
///     };
/// }
/// # Ok::<(), core_tensor::Error>(())
/// ```
///
/// With gradient accumulation every batch but the last of a step goes to [`accumulate`](Self::accumulate). The scale is one for all
/// of them, the gradient is their mean and is unscaled once; one that is not finite spoils the step, as it should.
///
/// `bf16` has the range of `f32` and needs no scaling: `LossScale::fixed(1.0)`, which still skips what is not finite.
///
/// Cost of a step beyond the program, chain and optimizer: three norms, and the pass and host synchronisation of
/// [`LossScale::unscale`]; with accumulation one addition a batch, one scaling a step and one gradient in memory.
///
/// P. Micikevicius et al., "Mixed precision training", ICLR 2018, arXiv:1710.03740.
pub struct Amp<B> {
    program: Program<B>,
    scale: SharedLossScale,
    trainer: Trainer,
    /// Scaled gradients and losses of the step so far.
    sum: Option<(Tree, Scalar)>,
    batches: usize,
}

impl<B: Batch> Amp<B> {
    /// A program, a loss scale, and a chain before an optimizer.
    pub fn new(program: Program<B>, scale: LossScale, chain: Chain, optimizer: impl Into<ModuleOptimizer>) -> Self {
        let scale = SharedLossScale::new(scale);
        let trainer = Chain::new().then(scale.unscale()).then(chain).before(optimizer);
        Self { program, scale, trainer, sum: None, batches: 0 }
    }

    /// Adds the gradient of a batch to the step, and gives its loss.
    ///
    /// # Errors
    /// Those of [`Program::scaled_value_and_grad`], and of [`Tree::same_structure`] if the loss of this batch depends on other
    /// parameters than before. The step is then as it was.
    pub fn accumulate<M: Module>(&mut self, model: &M, batch: &B) -> core_tensor::Result<Scalar> {
        let point = Tree::from_module(model);
        let out = self.program.scaled_value_and_grad(&point, batch, self.scale.get().scale())?;
        let loss = Scalar::from_tensor(out.value);
        if let Some((sum, _)) = &self.sum {
            sum.same_structure(&out.gradient)?;
        }
        self.sum = Some(match self.sum.take() {
            None => (out.gradient, loss.clone()),
            Some((sum, losses)) => (sum.add(&out.gradient)?, losses + loss.clone()),
        });
        self.batches += 1;
        Ok(loss)
    }

    /// One step: the gradient of the batch, and of those accumulated, through chain and optimizer. `report.loss` is the mean of the
    /// losses, the norms are those of the unscaled gradient.
    ///
    /// # Errors
    /// Those of [`accumulate`](Self::accumulate) and [`Trainer::step_grads`], with the model, and with the optimizer as it was. After an
    /// error of the chain the accumulated gradients are gone.
    pub fn step<M: Module>(
        &mut self,
        lr: impl Into<ModuleLearningRate>,
        model: M,
        batch: &B,
    ) -> Result<Outcome<M>, StepError<M>> {
        let added = self.accumulate(&model, batch);
        let (sum, losses) = match (added, self.sum.take()) {
            (Ok(_), Some(sum)) => sum,
            (Err(source), sum) => {
                self.sum = sum;
                return Err(StepError { model, source });
            }
            (Ok(_), None) => unreachable!("a gradient was added"),
        };
        let share = 1.0 / std::mem::take(&mut self.batches) as f64;
        let (grads, loss) = if share == 1.0 { (sum, losses) } else { (sum.scale(share), losses * share) };
        // The scale that the gradient has; the step may change it.
        let scale = f64::from(self.scale.get().scale());
        let mut outcome = self.trainer.step_grads(lr, model, grads, Some(loss))?;
        if let Outcome::Stepped { report, .. } = &mut outcome {
            report.grad_norm = report.grad_norm.clone() / scale;
        }
        Ok(outcome)
    }

    /// Drops what was accumulated since the last step.
    pub fn discard(&mut self) {
        (self.sum, self.batches) = (None, 0);
    }

    /// The loss scale as it is now.
    pub fn loss_scale(&self) -> LossScale {
        self.scale.get()
    }

    /// The program.
    pub fn program(&self) -> &Program<B> {
        &self.program
    }

    /// Chain and optimizer; the chain's first transform is the unscaling.
    pub fn trainer(&self) -> &Trainer {
        &self.trainer
    }

    /// Saves loss scale, chain and optimizer to one file ([`Trainer::save`]); between steps, as accumulated gradients are not in it.
    ///
    /// # Errors
    /// [`core_tensor::Error::File`] if the file cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> core_tensor::Result<()> {
        self.trainer.save(path)
    }

    /// Goes on from a saved file ([`Trainer::load`]), with nothing accumulated.
    ///
    /// # Errors
    /// As there; everything is then as it was.
    pub fn load(&mut self, path: impl AsRef<Path>, device: &Device) -> core_tensor::Result<()> {
        self.trainer.load(path, device)?;
        self.discard();
        Ok(())
    }
}

impl<B> fmt::Debug for Amp<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Amp").field("scale", &self.scale).field("trainer", &self.trainer).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autocast;
    use burn::nn::{Linear, LinearConfig};
    use burn::optim::{AdamWConfig, SgdConfig};
    use burn::tensor::Tensor;
    use burn::tensor::activation::log_sigmoid;
    use core_tensor::Random;
    use core_tensor::testing::{assert_close, assert_same_bits, host_devices};

    type Labelled = (Tensor<2>, Tensor<2>);

    /// Normal inputs, labelled by a hyperplane.
    fn data(rows: usize, device: &Device) -> Labelled {
        let x = Random::new(3).normal::<2>([rows, 16], 0.0, 1.0, device);
        let w = Random::new(4).normal::<2>([16, 1], 0.0, 1.0, device);
        let y = x.clone().matmul(w).greater_elem(0.0).float();
        (x, y)
    }

    fn logistic(model: &Linear, (x, y): &Labelled) -> Tensor<1> {
        let z = model.forward(x.clone());
        let missed = log_sigmoid(z.clone()) * y.clone() + log_sigmoid(z.neg()) * (y.clone().neg() + 1.0);
        missed.mean().neg()
    }

    /// A classifier that starts at zero.
    fn zero(device: &Device) -> Linear {
        let model = LinearConfig::new(16, 1).with_bias(false).init(&device.clone().autodiff());
        let point = Tree::from_module(&model).zeros_like();
        point.write_into(model).unwrap()
    }

    fn step<B: Batch, M: Module>(amp: &mut Amp<B>, lr: f64, model: M, batch: &B) -> Outcome<M> {
        amp.step(lr, model, batch).unwrap()
    }

    #[test]
    fn small_gradients_vanish_in_f16_unless_the_loss_is_scaled() {
        const SMALL: f64 = 1.0 / 65536.0;
        for device in host_devices() {
            let batch = data(512, &device);
            let run = |exponent: i32| {
                let mut model = zero(&device);
                let program =
                    Program::record_first_order(&model, &batch, |model, batch| logistic(model, batch) * SMALL);
                let program = program.unwrap().autocast(&autocast::f16());
                let scale = LossScale::fixed(2f64.powi(exponent)).unwrap();
                let mut amp = Amp::new(program, scale, Chain::new(), SgdConfig::new().init());
                let mut largest = 0.0f64;
                for _ in 0..200 {
                    let outcome = step(&mut amp, 2.0 / SMALL, model, &batch);
                    largest = largest.max(outcome.report().expect("nothing overflows").grad_norm.value());
                    model = outcome.into_model();
                }
                let loss = amp.program().value(&Tree::from_module(&model), &batch).unwrap();
                (loss.into_data().iter::<f64>().next().unwrap() / SMALL, largest)
            };
            let [none, some, enough] = [0, 8, 16].map(run);
            println!("loss and largest gradient: scale 1 {none:?}, 2^8 {some:?}, 2^16 {enough:?}");
            assert_eq!(none.1, 0.0, "every gradient is zero");
            assert!((none.0 - 2f64.ln()).abs() < 1e-6);
            assert!(some.0 < 0.12 && enough.0 < 0.12, "{some:?} {enough:?}");
            assert!((some.0 / enough.0 - 1.0).abs() < 0.02);
        }
    }

    #[test]
    fn scale_and_parts_change_nothing_but_rounding() {
        for device in host_devices() {
            let (x, y) = data(64, &device);
            let half = |from: usize| (x.clone().slice_dim(0, from..from + 32), y.clone().slice_dim(0, from..from + 32));
            let whole = (x.clone(), y.clone());
            let run = |scale: f64, parts: bool| {
                let mut model = zero(&device);
                let program = Program::record_first_order(&model, &whole, logistic).unwrap();
                let scale = LossScale::fixed(scale).unwrap();
                let mut amp = Amp::new(program, scale, Chain::new(), SgdConfig::new().init());
                let mut reports = Vec::new();
                for _ in 0..3 {
                    if parts {
                        amp.accumulate(&model, &half(0)).unwrap();
                    }
                    let outcome = step(&mut amp, 0.5, model, &if parts { half(32) } else { whole.clone() });
                    let report = outcome.report().unwrap();
                    let numbers = [report.loss.as_ref().unwrap(), &report.grad_norm, &report.update_norm];
                    reports.extend(numbers.map(|number| number.value()));
                    model = outcome.into_model();
                }
                assert_eq!(amp.trainer().updates(), 3);
                (Tree::from_module(&model), reports)
            };
            let (plain, numbers) = run(1.0, false);
            for (tree, others) in [run(1024.0, false), run(1.0, true), run(3.0, true)] {
                assert_close(&tree, &plain, 1e-6);
                numbers.iter().zip(others).for_each(|(a, b)| assert!((a - b).abs() < 1e-6, "{a} {b}"));
            }
        }
    }

    #[test]
    fn what_is_not_finite_is_skipped_and_said() {
        let device = Device::flex();
        let batch = data(8, &device);
        let broken = (batch.0.clone().mul_scalar(f32::INFINITY), batch.1.clone());
        let model = zero(&device);
        let program = Program::record_first_order(&model, &batch, logistic).unwrap().autocast(&autocast::f16());
        let mut amp = Amp::new(program, LossScale::dynamic(), Chain::new(), AdamWConfig::new().init());
        let before = Tree::from_module(&model);
        // One bad part spoils the step.
        amp.accumulate(&model, &broken).unwrap();
        let Outcome::Skipped { model, why } = step(&mut amp, 0.1, model, &batch) else { panic!("stepped") };
        assert_eq!(why, "the gradient is not finite at the loss scale 65536");
        assert_eq!((amp.loss_scale().scale(), amp.trainer().updates()), (32768.0, 0));
        assert_same_bits(&Tree::from_module(&model), &before);
        amp.accumulate(&model, &broken).unwrap();
        amp.discard();
        assert!(step(&mut amp, 0.1, model, &batch).report().is_some(), "what was dropped does not count");
    }

    #[test]
    fn an_error_gives_the_model_back_and_keeps_the_step() {
        let device = Device::flex();
        let batch = data(8, &device);
        let model = zero(&device);
        let program = Program::record_first_order(&model, &batch, logistic).unwrap();
        let mut amp = Amp::new(program, LossScale::dynamic(), Chain::new(), SgdConfig::new().init());
        amp.accumulate(&model, &batch).unwrap();
        let wrong = (batch.0.clone().slice_dim(1, 0..3), batch.1.clone());
        let error = amp.step(0.1, model, &wrong).unwrap_err();
        assert!(matches!(error.source, core_tensor::Error::Program(_)), "{error}");
        let report = step(&mut amp, 0.1, error.model, &batch).report().cloned().unwrap();
        assert!((report.loss.unwrap().value() - 2f64.ln()).abs() < 1e-6, "the mean of two equal losses");
    }

    #[test]
    fn a_resumed_run_goes_on_bit_for_bit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("amp.bpk");
        let device = Device::flex();
        let batch = data(32, &device);
        let model = zero(&device);
        let new = || {
            let program = Program::record_first_order(&model, &batch, logistic).unwrap().autocast(&autocast::bf16());
            let scale = LossScale::dynamic().growth_interval(3).unwrap();
            Amp::new(program, scale, Chain::new(), AdamWConfig::new().init())
        };
        let run = |amp: &mut Amp<Labelled>, model: Linear| {
            (0..4).fold(model, |model, _| step(amp, 0.1, model, &batch).into_model())
        };
        let mut old = new();
        let half = run(&mut old, model.clone());
        old.save(&path).unwrap();
        let mut resumed = new();
        resumed.accumulate(&half, &batch).unwrap();
        resumed.load(&path, &device).unwrap();
        let (a, b) = (run(&mut old, half.clone()), run(&mut resumed, half));
        assert_same_bits(&Tree::from_module(&a), &Tree::from_module(&b));
        assert_eq!(old.loss_scale(), resumed.loss_scale());
        assert_eq!(old.loss_scale().scale(), 4.0 * 65536.0);
    }
}
