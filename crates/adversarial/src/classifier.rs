//! Models as an attacker sees them: logits of inputs, and how they change with them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use core_tensor::{Frozen, Program, Tree};

use crate::error::{Error, Result};

/// A classifier under attack: logits `[examples, classes]` from inputs whose first axis is the examples.
///
/// Each example's logits have to be a function of that example alone. Normalisation belongs to the classifier: attacks work in
/// the bounds of the raw inputs, those of the [`Threat`](crate::Threat).
///
/// | implementation | gradients by | for |
/// |---|---|---|
/// | [`Recorded`] | a recorded [`Program`] | any Burn model without control flow that depends on data; two to four times faster |
/// | [`Taped`] | Burn's autodiff | every other model |
/// | your own | anything | models outside of Burn; one without gradients refuses [`pullback`](Self::pullback) and falls to black-box attacks |
pub trait Classifier<const D: usize> {
    /// Logits, without gradients.
    ///
    /// # Errors
    /// What the model fails with.
    fn logits(&self, inputs: Tensor<D>) -> Result<Tensor<2>>;

    /// Logits, and the pullback from a cotangent of the logits to the inputs' gradient `Σ_k c_k ∂z_k/∂x`, example by example.
    ///
    /// # Errors
    /// What the model fails with.
    fn pullback(&self, inputs: Tensor<D>) -> Result<Pulled<'_, D>>;

    /// Where inputs have to be.
    fn device(&self) -> Device;
}

/// Logits with the way back. Made by [`Classifier::pullback`].
pub struct Pulled<'a, const D: usize> {
    /// Shape `[examples, classes]`.
    pub logits: Tensor<2>,
    /// From a cotangent of the shape of the logits to a gradient of the shape of the inputs.
    pub back: Box<dyn FnOnce(Tensor<2>) -> Result<Tensor<D>> + 'a>,
}

/// A Burn model recorded as a [`Program`] of its inputs.
///
/// The model is taken in inference mode ([`Module::valid`]): dropout is off, batch norm uses its running statistics, and no
/// parameter has a gradient. One recording for each batch size is made when first seen, at the cost of a few gradients.
///
/// ```
/// use adversarial::{Classifier, Recorded};
/// use burn::nn::LinearConfig;
/// use burn::tensor::{Device, Tensor};
///
/// let device = Device::flex();
/// let model = LinearConfig::new(4, 3).init(&device);
/// let classifier = Recorded::new(&model, [4], |model, x: Tensor<2>| model.forward(x))?;
/// let x = Tensor::<2>::ones([2, 4], &device);
/// let pulled = classifier.pullback(x)?;
/// let gradient = (pulled.back)(Tensor::ones([2, 3], &device))?;
/// assert_eq!((pulled.logits.dims(), gradient.dims()), ([2, 3], [2, 4]));
/// # Ok::<(), adversarial::Error>(())
/// ```
pub struct Recorded<M, const D: usize> {
    forward: Arc<Forward<M, D>>,
    /// A recording for each number of examples.
    programs: Mutex<HashMap<usize, Arc<Program<Frozen<M>>>>>,
    model: Frozen<M>,
    example: Vec<usize>,
    device: Device,
}

impl<M: Module + Sync + 'static, const D: usize> Recorded<M, D> {
    /// Records `forward` for inputs of shape `[examples, ..example]`.
    ///
    /// # Errors
    /// [`Error::Shape`] if the example's shape has not `D − 1` axes or logits are not one row an example;
    /// [`core_tensor::ProgramError`] inside of [`Error::Core`] if the model cannot be recorded.
    pub fn new(
        model: &M,
        example: impl AsRef<[usize]>,
        forward: impl Fn(&M, Tensor<D>) -> Tensor<2> + Send + Sync + 'static,
    ) -> Result<Self> {
        let example = example.as_ref();
        if example.len() + 1 != D {
            let expected = format!("{} axes: the inputs' {D} without that of the examples", D - 1);
            return Err(Error::Shape { what: "the example", actual: example.to_vec(), expected });
        }
        let model = model.valid();
        let device = model.devices().into_iter().next().unwrap_or_default();
        let mut shape = [2; D];
        shape[1..].copy_from_slice(example);
        let logits = forward(&model, Tensor::zeros(shape, &device)).dims();
        if logits[0] != 2 {
            let expected = "[2, classes] for two examples".to_string();
            return Err(Error::Shape { what: "logits", actual: logits.to_vec(), expected });
        }
        let programs = Mutex::default();
        let recorded =
            Self { forward: Arc::new(forward), programs, model: Frozen(model), example: example.to_vec(), device };
        let (_, point) = recorded.point(Tensor::zeros(shape, &recorded.device))?;
        recorded.program(&point)?;
        Ok(recorded)
    }

    /// The model, in inference mode.
    pub fn model(&self) -> &M {
        &self.model.0
    }

    /// The inputs as a point, and how many examples they are.
    fn point(&self, inputs: Tensor<D>) -> Result<(usize, Tree)> {
        let dims = inputs.dims();
        if dims[1..] != self.example[..] {
            let expected = format!("[examples, ..{:?}], as recorded", self.example);
            return Err(Error::Shape { what: "inputs", actual: dims.to_vec(), expected });
        }
        Ok((dims[0], Tree::empty().push("input", inputs.to_device(&self.device))?))
    }

    /// The recording for as many examples as the point has.
    fn program(&self, point: &Tree) -> Result<Arc<Program<Frozen<M>>>> {
        let examples = point.get::<D>("input")?.dims()[0];
        let mut programs = self.programs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(program) = programs.get(&examples) {
            return Ok(program.clone());
        }
        let forward = self.forward.clone();
        let program = Program::record_tree_first_order(point, &self.model, move |point, model| {
            let inputs = point.get::<D>("input").unwrap_or_else(|error| panic!("{error}"));
            let logits = forward(&model.0, inputs);
            let [examples, classes] = logits.dims();
            logits.reshape([examples * classes])
        })?;
        Ok(programs.entry(examples).or_insert(Arc::new(program)).clone())
    }
}

impl<M: Module + Sync + 'static, const D: usize> Classifier<D> for Recorded<M, D> {
    fn logits(&self, inputs: Tensor<D>) -> Result<Tensor<2>> {
        let (examples, point) = self.point(inputs)?;
        let logits = self.program(&point)?.value(&point, &self.model)?;
        let classes = logits.dims()[0] / examples;
        Ok(logits.reshape([examples, classes]))
    }

    fn pullback(&self, inputs: Tensor<D>) -> Result<Pulled<'_, D>> {
        let dims = inputs.dims();
        let (examples, point) = self.point(inputs)?;
        let pullback = self.program(&point)?.pullback(&point, &self.model)?;
        let count = pullback.value.dims()[0];
        let logits = pullback.value.clone().reshape([examples, count / examples]);
        let back = Box::new(move |cotangent: Tensor<2>| {
            let gradient = pullback.apply(&cotangent.reshape([count]))?;
            match gradient.is_empty() {
                // Logits that do not depend on the inputs at all.
                true => Ok(Tensor::zeros(dims, &pullback.value.device())),
                false => Ok(gradient.get::<D>("input")?),
            }
        });
        Ok(Pulled { logits, back })
    }

    fn device(&self) -> Device {
        self.device.clone()
    }
}

/// A Burn model differentiated by Burn's autodiff at every call, for models that cannot be recorded.
///
/// The model is frozen ([`Module::freeze`]) on the autodiff device: no parameter has a gradient, dropout is off, batch norm uses
/// its running statistics.
///
/// ```
/// use adversarial::{Classifier, Taped};
/// use burn::nn::LinearConfig;
/// use burn::tensor::{Device, Tensor};
///
/// let device = Device::flex();
/// let model = LinearConfig::new(4, 3).init(&device);
/// let classifier = Taped::new(&model, |model, x: Tensor<2>| model.forward(x));
/// assert_eq!(classifier.logits(Tensor::ones([2, 4], &device))?.dims(), [2, 3]);
/// # Ok::<(), adversarial::Error>(())
/// ```
pub struct Taped<M, const D: usize> {
    model: M,
    plain: M,
    forward: Arc<Forward<M, D>>,
    device: Device,
}

type Forward<M, const D: usize> = dyn Fn(&M, Tensor<D>) -> Tensor<2> + Send + Sync;

impl<M: Module, const D: usize> Taped<M, D> {
    /// Takes `forward` as the model's logits.
    pub fn new(model: &M, forward: impl Fn(&M, Tensor<D>) -> Tensor<2> + Send + Sync + 'static) -> Self {
        let plain = model.valid();
        let device = plain.devices().into_iter().next().unwrap_or_default();
        let model = plain.clone().to_device(&device.clone().autodiff()).freeze();
        Self { model, plain, forward: Arc::new(forward), device }
    }
}

impl<M: Module, const D: usize> Classifier<D> for Taped<M, D> {
    fn logits(&self, inputs: Tensor<D>) -> Result<Tensor<2>> {
        Ok((self.forward)(&self.plain, inputs))
    }

    fn pullback(&self, inputs: Tensor<D>) -> Result<Pulled<'_, D>> {
        let dims = inputs.dims();
        let device = self.device.clone().autodiff();
        let inputs = Tensor::<D>::from_data(inputs.into_data(), &device).require_grad();
        let tracked = (self.forward)(&self.model, inputs.clone());
        let logits = tracked.clone().inner();
        let plain = self.device.clone();
        let back = Box::new(move |cotangent: Tensor<2>| {
            let cotangent = Tensor::<2>::from_data(cotangent.into_data(), &device);
            let gradients = (tracked * cotangent).sum().backward();
            Ok(inputs.grad(&gradients).unwrap_or_else(|| Tensor::zeros(dims, &plain)))
        });
        Ok(Pulled { logits, back })
    }

    fn device(&self) -> Device {
        self.device.clone()
    }
}
