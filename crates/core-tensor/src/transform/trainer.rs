//! A chain in front of an optimizer: one training step in one call.

use std::fmt;
use std::path::Path;

use burn::lr_scheduler::module_lr_scheduler::ModuleLearningRate;
use burn::module::Module;
use burn::optim::{ModuleOptimizer, OptimizerRecord};
use burn::tensor::{Bytes, DType, Device, Tensor};
use burn_pack::Reader;

use super::{Chain, GradientTransform, State};
use crate::tree::{MAX_RANK, read_pack, write_pack};
use crate::{Error, Result, Scalar, Tree};

/// The tensor of a trainer file that holds the optimizer's record.
const OPTIMIZER: &str = "optimizer";

/// Runs loss → gradients → [`Chain`] → optimizer, made by [`Chain::before`].
///
/// Cost of a step beyond backward, transforms and optimizer: two norms (one if the chain is empty)
/// and no host synchronisation. With [`save`](Self::save) and Burn's record of the model a run
/// resumes bit for bit: module records keep the parameter ids by which optimizer state is found.
#[derive(Debug)]
pub struct Trainer {
    chain: Chain,
    optimizer: Optimizer,
}

/// What became of a step. The model is moved in and out.
#[derive(Clone, Debug)]
#[must_use = "the model is in here"]
pub enum Outcome<M> {
    /// The optimizer has updated the model.
    Stepped {
        /// The updated model.
        model: M,
        /// The numbers of the step.
        report: Report,
    },
    /// A transform held the update back; model and optimizer are as they were.
    Skipped {
        /// The model, unchanged.
        model: M,
        /// Why, for a person to read.
        why: String,
    },
}

/// The numbers of a step. Reading one from a GPU waits for it; not reading costs nothing.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Report {
    /// Updates applied before this one.
    pub step: u64,
    /// The loss, if it was given.
    pub loss: Option<Scalar>,
    /// Norm of the gradient as it came.
    pub grad_norm: Scalar,
    /// Norm of the gradient as it went to the optimizer.
    pub update_norm: Scalar,
}

/// A step that failed before it touched model or optimizer, with the model.
pub struct StepError<M> {
    /// The model, unchanged.
    pub model: M,
    /// What went wrong.
    pub source: Error,
}

impl Trainer {
    /// A chain in front of an optimizer.
    pub fn new(chain: Chain, optimizer: ModuleOptimizer) -> Self {
        Self { chain, optimizer: Optimizer(optimizer) }
    }

    /// One step: backward from the loss, transforms, optimizer. Parameters that the loss does not
    /// depend on or that are frozen keep their value. `lr` is a number, or a
    /// [`ModuleLearningRate`] by groups.
    ///
    /// # Errors
    /// [`Error::Loss`] for a loss that has more than one element or depends on no parameter on an
    /// autodiff device, and those of the transforms; all with the model, and with the optimizer as
    /// it was.
    ///
    /// # Panics
    /// As `Tensor::backward`: if the loss has been differentiated before.
    pub fn step<M: Module, const D: usize>(
        &mut self,
        lr: impl Into<ModuleLearningRate>,
        model: M,
        loss: Tensor<D>,
    ) -> Result<Outcome<M>, StepError<M>> {
        let reason = if loss.shape().num_elements() != 1 {
            format!("it has shape {:?} instead of one element", loss.dims())
        } else if !loss.is_tracked() {
            "it depends on no parameter that requires a gradient on an autodiff device".to_string()
        } else {
            let value = Scalar::from_tensor(loss.clone());
            let grads = Tree::from_grads(loss.backward(), &model);
            return self.step_grads(lr, model, grads, Some(value));
        };
        let source = Error::Loss { reason };
        Err(StepError { model, source })
    }

    /// One step with gradients that are there already: transforms and optimizer.
    ///
    /// # Errors
    /// Those of the transforms, and [`Error::NoParamId`], [`Error::UnknownLeaf`] or [`Error::Shape`]
    /// for gradients that are not of this model's trainable parameters; with the model, and with the
    /// optimizer as it was.
    pub fn step_grads<M: Module>(
        &mut self,
        lr: impl Into<ModuleLearningRate>,
        model: M,
        grads: Tree,
        loss: Option<Scalar>,
    ) -> Result<Outcome<M>, StepError<M>> {
        self.chain.advance(model, &mut self.optimizer.0, lr.into(), grads, loss)
    }

    /// Updates applied so far.
    pub fn updates(&self) -> u64 {
        self.chain.step()
    }

    /// The chain.
    pub fn chain(&self) -> &Chain {
        &self.chain
    }

    /// The optimizer.
    pub fn optimizer(&self) -> &ModuleOptimizer {
        &self.optimizer.0
    }

    /// Save the states of all transforms, the optimizer's record and the number of updates to one
    /// file, replacing it in one step: it holds one moment of the run, or is as it was.
    ///
    /// # Errors
    /// [`Error::File`] if the file cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let record = self.optimizer.0.into_bytes();
        let record = record.map_err(|error| Error::write(path, error))?;
        let shape = [record.len()];
        let record = burn_pack::Tensor::new(OPTIMIZER.into(), DType::U8, shape, None, record);
        write_pack(self.chain.state().pack(vec![record]), path)
    }

    /// Go on from a saved file, with a trainer built as the one that saved it. Trees in transforms'
    /// states go to `device`; Burn moves the optimizer's state to the parameters' device in the next
    /// step.
    ///
    /// # Errors
    /// [`Error::File`] if the file cannot be read or is none of a trainer, [`Error::State`] or
    /// [`Error::Transform`] if its transforms are others. The trainer is then as it was.
    pub fn load(&mut self, path: impl AsRef<Path>, device: &Device) -> Result<()> {
        let path = path.as_ref();
        let (state, mut others) = State::unpack(read_pack(path)?, path, device)?;
        let record = match others.pop() {
            Some(tensor) if tensor.name == OPTIMIZER && others.is_empty() => tensor.into_bytes(),
            Some(other) => {
                let reason = format!("unknown entry `{}`", other.name);
                return Err(Error::read(path, reason));
            }
            None => return Err(Error::read(path, "it has no optimizer state")),
        };
        // In memory, so that the file can be replaced while the state is in use.
        let record = record.map_err(|error| Error::read(path, error))?;
        let record = Bytes::from_bytes_vec(record.to_vec());
        check_record(&record).map_err(|reason| Error::read(path, reason))?;
        let record = OptimizerRecord::from_bytes(record);
        let record = record.map_err(|error| Error::read(path, error))?;
        self.chain.load_state(state)?;
        self.optimizer.0 = self.optimizer.0.clone().load_record(record);
        Ok(())
    }
}

impl<M> Outcome<M> {
    /// The model, updated or not.
    pub fn into_model(self) -> M {
        match self {
            Self::Stepped { model, .. } | Self::Skipped { model, .. } => model,
        }
    }

    /// The numbers of the step, unless it was skipped.
    pub fn report(&self) -> Option<&Report> {
        match self {
            Self::Stepped { report, .. } => Some(report),
            Self::Skipped { .. } => None,
        }
    }
}

impl<M> fmt::Debug for StepError<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StepError").field("source", &self.source).finish_non_exhaustive()
    }
}

impl<M> fmt::Display for StepError<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.source.fmt(f)
    }
}

impl<M> std::error::Error for StepError<M> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(&self.source)
    }
}

/// Lets go of the model, for callers that have another copy or give up.
impl<M> From<StepError<M>> for Error {
    fn from(error: StepError<M>) -> Self {
        error.source
    }
}

/// Burn's optimizer, which has no `Debug`.
struct Optimizer(ModuleOptimizer);

impl fmt::Debug for Optimizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ModuleOptimizer")
    }
}

/// Refuse what Burn's `load_record` would panic on.
fn check_record(record: &Bytes) -> Result<(), String> {
    let reader = Reader::from_bytes(record.clone()).map_err(|error| error.to_string())?;
    let ranks = reader.scalars().iter();
    let mut ranks = ranks.filter(|(key, _)| key.ends_with(".__rank"));
    let too_high = ranks.find(|&(_, &rank)| usize::try_from(rank).is_ok_and(|r| r > MAX_RANK));
    if let Some((key, _)) = too_high {
        return Err(format!("optimizer entry `{key}` is above rank {MAX_RANK}"));
    }
    let tensors = reader.into_tensors().map_err(|error| error.to_string())?;
    let mut tensors = tensors.iter();
    let flawed = tensors.find(|x| x.param_id.is_none() || x.shape.num_dims() > MAX_RANK);
    match flawed {
        Some(tensor) => Err(format!("malformed optimizer entry `{}`", tensor.name)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, assert_same_bits};
    use crate::transform::{Context, GradientTransform, Update};
    use burn::nn::{Linear, LinearConfig};
    use burn::optim::{AdamWConfig, GradientsParams, SgdConfig};
    use burn::store::ModuleRecord;

    /// Skips non-finite gradients, fails at a given call, scales by the number of calls.
    #[derive(Default)]
    struct Moody {
        calls: u64,
        fail_at: Option<u64>,
        seen: Vec<(u64, bool, bool)>,
    }

    impl GradientTransform for Moody {
        fn name(&self) -> &str {
            "moody"
        }
        fn apply(&mut self, grads: Tree, context: &Context<'_>) -> Result<Update> {
            if self.fail_at == Some(self.calls) {
                return Err(Error::transform("moody", "not today"));
            }
            let (params, loss) = (context.params.is_some(), context.loss.is_some());
            self.seen.push((context.step, params, loss));
            self.calls += 1;
            Ok(match grads.is_finite().value() == 1.0 {
                true => Update::Apply(grads.scale(1.0 / self.calls as f64)),
                false => Update::Skip { why: "gradient is not finite".into() },
            })
        }
        fn state(&self) -> State {
            State::new().with("calls", self.calls)
        }
        fn load_state(&mut self, mut state: State) -> Result<()> {
            let calls = state.take("calls")?;
            state.finish()?;
            self.calls = calls;
            Ok(())
        }
    }

    fn device() -> Device {
        Device::flex().autodiff()
    }

    fn model() -> Linear {
        LinearConfig::new(3, 2).init(&device())
    }

    fn loss(model: &Linear, scale: f32) -> Tensor<1> {
        let x = Tensor::<2>::from_data([[1.0, -2.0, 0.5], [0.3, 0.1, -1.0]], &device());
        model.forward(x * scale).powf_scalar(2.0).mean()
    }

    fn trainer() -> Trainer {
        Chain::new().then(Moody::default()).before(AdamWConfig::new().init())
    }

    #[test]
    fn a_step_is_that_of_the_optimizer_on_the_transformed_gradient() {
        let model = model();
        let before = Tree::from_module(&model);
        let grads = Tree::from_grads(loss(&model, 1.0).backward(), &model);
        let value = loss(&model, 1.0).into_scalar::<f32>();
        let mut trainer = Chain::new().then(Moody::default()).before(SgdConfig::new().init());
        let now = loss(&model, 1.0);
        let Outcome::Stepped { model, report } = trainer.step(0.1, model, now).unwrap() else {
            panic!("skipped");
        };
        let expected = before.axpy(-0.1, &grads).unwrap();
        assert_close(&Tree::from_module(&model), &expected, 1e-6);
        assert_eq!((report.step, trainer.updates()), (0, 1));
        assert_eq!(report.loss.unwrap().value(), f64::from(value));
        assert_eq!(report.grad_norm.value(), grads.norm().value());
        let now = loss(&model, 1.0);
        let outcome = trainer.step(0.1, model, now).unwrap();
        let report = outcome.report().unwrap();
        let ratio = report.update_norm.value() / report.grad_norm.value();
        assert!((ratio - 0.5).abs() < 1e-6);
    }

    #[test]
    fn a_skip_leaves_model_and_optimizer_alone() {
        let mut trainer = trainer();
        let start = model();
        let now = loss(&start, 1.0);
        let model = trainer.step(0.1, start, now).unwrap().into_model();
        let (before, record) = (Tree::from_module(&model), trainer.optimizer().into_bytes());
        let now = loss(&model, f32::INFINITY);
        let outcome = trainer.step(0.1, model, now).unwrap();
        assert!(outcome.report().is_none());
        let Outcome::Skipped { model, why } = outcome else {
            panic!("stepped");
        };
        assert_eq!(why, "gradient is not finite");
        assert_same_bits(&Tree::from_module(&model), &before);
        assert_eq!(trainer.optimizer().into_bytes().unwrap(), record.unwrap());
        assert_eq!(trainer.updates(), 1);
    }

    #[test]
    fn an_error_gives_the_model_back() {
        let moody = Moody { fail_at: Some(0), ..Moody::default() };
        let mut trainer = Chain::new().then(moody).before(SgdConfig::new().init());
        let model = model();
        let before = Tree::from_module(&model);
        let now = loss(&model, 1.0);
        let error = trainer.step(0.1, model, now).unwrap_err();
        assert_eq!(error.to_string(), "transform `moody` failed: not today");
        let model = error.model;
        assert_same_bits(&Tree::from_module(&model), &before);

        let mut trainer = self::trainer();
        let vector = model.forward(Tensor::<2>::ones([1, 3], &device()));
        let error = trainer.step(0.1, model, vector).unwrap_err();
        assert!(error.to_string().contains("shape [1, 2]"), "{error}");
        let constant = Tensor::<1>::ones([1], &device());
        let error = trainer.step(0.1, error.model, constant).unwrap_err();
        assert!(matches!(error.source, Error::Loss { .. }), "{error}");
        let nameless = Tree::empty().push("weight", Tensor::<2>::ones([3, 2], &device()));
        let error = trainer.step_grads(0.1, error.model, nameless.unwrap(), None);
        let error = error.unwrap_err();
        assert!(matches!(error.source, Error::NoParamId { .. }), "{error}");
        let others = Tree::from_module(&self::model());
        let error = trainer.step_grads(0.1, error.model, others, None).unwrap_err();
        assert!(matches!(error.source, Error::UnknownLeaf { .. }), "{error}");
        let core: Error = error.into();
        assert!(core.to_string().contains("weight"));
    }

    #[test]
    fn a_resumed_run_goes_on_bit_for_bit() {
        let folder = tempfile::tempdir().unwrap();
        let (weights, state) = (folder.path().join("model.bpk"), folder.path().join("train.bpk"));
        let run = |trainer: &mut Trainer, mut model: Linear, steps| {
            for i in steps {
                let now = loss(&model, 1.0 + i as f32 * 0.1);
                model = trainer.step(0.01, model, now).unwrap().into_model();
            }
            model
        };
        let mut trainer = self::trainer();
        let model = run(&mut trainer, model(), 0..4);
        trainer.save(&state).unwrap();
        model.clone().into_record().save(&weights).unwrap();
        let uninterrupted = run(&mut trainer, model, 4..8);

        let fresh = self::model().load_record(ModuleRecord::load(&weights).unwrap());
        let mut resumed = self::trainer();
        resumed.load(&state, &Device::flex()).unwrap();
        assert_eq!(resumed.updates(), 4);
        // The file may go while its contents are in use.
        std::fs::remove_file(&state).unwrap();
        let model = run(&mut resumed, fresh, 4..8);
        assert_same_bits(&Tree::from_module(&model), &Tree::from_module(&uninterrupted));
        assert_eq!(resumed.chain().state(), trainer.chain().state());
    }

    #[test]
    fn files_of_other_trainers_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("train.bpk");
        let mut trainer = trainer();
        let load = |trainer: &mut Trainer| {
            let error = trainer.load(&path, &Device::flex()).unwrap_err();
            error.to_string()
        };
        assert!(load(&mut trainer).contains("train.bpk"));
        trainer.chain().state().save(&path).unwrap();
        assert!(load(&mut trainer).contains("has no optimizer state"));
        Chain::new().before(SgdConfig::new().init()).save(&path).unwrap();
        assert!(load(&mut trainer).contains("`calls` is missing"));
        self::trainer().save(&path).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
        assert!(load(&mut trainer).contains("train.bpk"));
        std::fs::write(&path, &bytes).unwrap();
        trainer.load(&path, &Device::flex()).unwrap();
    }

    #[test]
    fn the_context_tells_step_parameters_and_loss() {
        let mut chain = Chain::new();
        let model = model();
        let grads = |model: &Linear| GradientsParams::from_grads(loss(model, 1.0).backward(), model);
        let mut sgd = SgdConfig::new().init();
        let given = grads(&model);
        let model = chain.optimize(model, &mut sgd, 0.1, given).unwrap().into_model();
        let given = grads(&model);
        assert!(matches!(chain.apply_grads(given, &model), Ok(Update::Apply(_))));
        assert_eq!(chain.step(), 2);
        let shared = chain.then(Moody::default()).shared();
        let given = grads(&model);
        let model = shared.optimize(model, &mut sgd, 0.1, given).unwrap().into_model();
        assert_eq!(shared.state().take::<u64>("step").unwrap(), 3);
        let mut moody = Moody::default();
        let params = Tree::from_module(&model);
        let (one, context) = (Scalar::from(1.0), Context::new(3).with_params(&params));
        moody.apply(params.clone(), &context).unwrap();
        moody.apply(params.clone(), &context.with_loss(&one)).unwrap();
        assert_eq!(moody.seen, [(3, true, false), (3, true, true)]);
    }
}
