//! One element type each for parameters, computation and outputs.

use std::fmt;
use std::str::FromStr;

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{FloatDType, Tensor};
use core_tensor::Autocast;

use crate::autocast;
use crate::error::{Error, Result};

/// Element types by role, as in DeepMind's jmp: parameters are stored in `param`, layers compute in `compute`, results are given in
/// `output`.
///
/// Two ways to use it. [`autocast`](Self::autocast) gives each operation of a recorded program its type by lists; the model is
/// not touched, and this is the one to start with. The casts here move a whole module to `compute`, norms and softmax included:
///
/// ```
/// use burn::nn::LinearConfig;
/// use burn::tensor::{DType, Device, Tensor};
/// use core_tensor::Tree;
/// use mixed_precision::Policy;
///
/// let device = Device::flex().autodiff();
/// let model = LinearConfig::new(3, 2).init(&device);
/// let policy: Policy = "params=f32,compute=bf16,output=f32".parse()?;
/// let x = Tensor::<2>::ones([4, 3], &device);
///
/// let y = policy.cast_to_compute(&model).forward(policy.to_compute(x));
/// let loss = policy.to_output(y).square().mean();
/// // The casts are on the tape: gradients are those of the parameters as they are stored.
/// let grads = Tree::from_grads(loss.backward(), &model);
/// assert_eq!(grads.get::<2>("weight")?.dtype(), DType::F32);
/// # Ok::<(), mixed_precision::Error>(())
/// ```
///
/// | text | means |
/// |---|---|
/// | `params=f32,compute=bf16,output=f32` | one type a role, in any order; `p`, `c`, `o` for short |
/// | `bf16` | the same type for all three roles |
///
/// Types are `f64`, `f32`, `bf16`, `f16` or `float64`, `float32`, `full`, `bfloat16`, `float16`, `half`.
///
/// Reference: DeepMind, "JMP: mixed precision library for JAX", 2021.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// In which parameters are stored and updated.
    pub param: FloatDType,
    /// In which layers compute.
    pub compute: FloatDType,
    /// In which results are given.
    pub output: FloatDType,
}

impl Policy {
    /// Everything in `f32`.
    pub const fn f32() -> Self {
        Self::mixed(FloatDType::F32)
    }

    /// Computation in `bf16`, parameters and outputs in `f32`.
    pub const fn bf16() -> Self {
        Self::mixed(FloatDType::BF16)
    }

    /// Computation in `f16`, parameters and outputs in `f32`. To be used with loss scaling.
    pub const fn f16() -> Self {
        Self::mixed(FloatDType::F16)
    }

    /// Computation in a type, parameters and outputs in `f32`.
    pub const fn mixed(compute: FloatDType) -> Self {
        Self { param: FloatDType::F32, compute, output: FloatDType::F32 }
    }

    /// One type for everything.
    pub const fn uniform(dtype: FloatDType) -> Self {
        Self { param: dtype, compute: dtype, output: dtype }
    }

    /// Autocast to the type of computation; `None` if that is not one of 16 bits, so that there is nothing to cast.
    pub fn autocast(&self) -> Option<Autocast> {
        match self.compute {
            FloatDType::BF16 => Some(autocast::bf16()),
            FloatDType::F16 => Some(autocast::f16()),
            _ => None,
        }
    }

    /// The module with its parameters stored in `param`, as leaves to be trained.
    ///
    /// What is not a trainable parameter (frozen ones, running statistics) keeps its type.
    pub fn cast_to_param<M: Module>(&self, module: &M) -> M {
        module.clone().map(&mut Cast { dtype: self.param, leaf: true })
    }

    /// A copy of the module with its parameters in `compute`. On an autodiff device the casts are on the tape, so that a gradient
    /// reaches the parameters of the module given, in their type.
    ///
    /// What is not a trainable parameter keeps its type: layers that mix such tensors with computed ones (batch norm in
    /// training) are for [`autocast`](Self::autocast).
    pub fn cast_to_compute<M: Module>(&self, module: &M) -> M {
        module.clone().map(&mut Cast { dtype: self.compute, leaf: false })
    }

    /// A tensor in `compute`.
    pub fn to_compute<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        x.cast(self.compute)
    }

    /// A tensor in `param`.
    pub fn to_param<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        x.cast(self.param)
    }

    /// A tensor in `output`.
    pub fn to_output<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        x.cast(self.output)
    }
}

struct Cast {
    dtype: FloatDType,
    /// Whether results are leaves of their own.
    leaf: bool,
}

impl ModuleMapper for Cast {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let value = param.val();
        let trainable = match value.is_autodiff() {
            true => value.is_tracked(),
            false => param.clone().train().is_require_grad(),
        };
        if !trainable {
            return param;
        }
        let (id, value, mapper) = param.consume();
        let value = match (self.leaf, value.is_autodiff()) {
            (true, true) => Tensor::from_inner(value.inner().cast(self.dtype)).require_grad(),
            _ => value.cast(self.dtype),
        };
        Param::from_mapped_value(id, value, mapper)
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (param, compute, output) = (name(self.param), name(self.compute), name(self.output));
        write!(f, "params={param},compute={compute},output={output}")
    }
}

impl FromStr for Policy {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = |reason: String| Error::Policy { text: text.to_string(), reason };
        if !text.contains('=') {
            return dtype(text.trim()).map(Self::uniform).ok_or_else(|| bad(format!("unknown type `{}`", text.trim())));
        }
        let (mut param, mut compute, mut output) = (None, None, None);
        for part in text.split(',') {
            let (role, of) = part.split_once('=').ok_or_else(|| bad(format!("`{}` has no `=`", part.trim())))?;
            let (role, of) = (role.trim(), of.trim());
            let slot = match role {
                "params" | "param" | "p" => &mut param,
                "compute" | "c" => &mut compute,
                "output" | "o" => &mut output,
                _ => return Err(bad(format!("unknown role `{role}`, expected params, compute or output"))),
            };
            let of = dtype(of).ok_or_else(|| bad(format!("unknown type `{of}`")))?;
            if slot.replace(of).is_some() {
                return Err(bad(format!("`{role}` is given twice")));
            }
        }
        match (param, compute, output) {
            (Some(param), Some(compute), Some(output)) => Ok(Self { param, compute, output }),
            (None, ..) => Err(bad("`params` is missing".to_string())),
            (_, None, _) => Err(bad("`compute` is missing".to_string())),
            _ => Err(bad("`output` is missing".to_string())),
        }
    }
}

fn dtype(text: &str) -> Option<FloatDType> {
    Some(match text {
        "f64" | "float64" => FloatDType::F64,
        "f32" | "float32" | "full" => FloatDType::F32,
        "bf16" | "bfloat16" => FloatDType::BF16,
        "f16" | "float16" | "half" => FloatDType::F16,
        _ => return None,
    })
}

fn name(dtype: FloatDType) -> &'static str {
    match dtype {
        FloatDType::F64 => "f64",
        FloatDType::F32 => "f32",
        FloatDType::Flex32 => "flex32",
        FloatDType::F16 => "f16",
        FloatDType::BF16 => "bf16",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::nn::{BatchNormConfig, LinearConfig};
    use burn::tensor::{DType, Device};
    use core_tensor::Tree;
    use core_tensor::testing::{assert_close, assert_same_bits};

    #[test]
    fn text_is_read_as_jmp_reads_it_and_written_so_that_it_can_be_read() {
        for (text, policy) in [
            ("params=float32,compute=bfloat16,output=float32", Policy::bf16()),
            ("p=f32, c=half, o=full", Policy::f16()),
            ("output=f32,params=f32,compute=f32", Policy::f32()),
            ("bf16", Policy::uniform(FloatDType::BF16)),
            (" f64 ", Policy::uniform(FloatDType::F64)),
        ] {
            assert_eq!(text.parse::<Policy>().unwrap(), policy, "{text}");
            assert_eq!(policy.to_string().parse::<Policy>().unwrap(), policy);
        }
        for (text, reason) in [
            ("int8", "unknown type `int8`"),
            ("", "unknown type ``"),
            ("p=f32,c=f32", "`output` is missing"),
            ("c=f32,o=f32", "`params` is missing"),
            ("p=f32,o=f32", "`compute` is missing"),
            ("p=f32,p=f16,c=f32,o=f32", "`p` is given twice"),
            ("p=f32,c=f99,o=f32", "unknown type `f99`"),
            ("p=f32,weights=f32", "unknown role `weights`"),
            ("p=f32,c", "`c` has no `=`"),
        ] {
            let error = text.parse::<Policy>().unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn gradients_through_the_casts_are_those_of_the_stored_parameters() {
        let device = Device::flex().autodiff();
        let model = LinearConfig::new(4, 3).init(&device);
        let x = Tensor::<2>::from_data([[0.5, -1.0, 2.0, 0.25], [1.5, 0.75, -0.125, 1.0]], &device);
        let grads = |policy: Policy| {
            let y = policy.cast_to_compute(&model).forward(policy.to_compute(x.clone()));
            assert_eq!(y.dtype(), policy.compute.into());
            let loss = policy.to_output(y).square().mean();
            assert_eq!(loss.dtype(), policy.output.into());
            Tree::from_grads(loss.backward(), &model)
        };
        let full = grads(Policy::f32());
        for policy in [Policy::bf16(), Policy::f16()] {
            let mixed = grads(policy);
            mixed.same_structure(&full).unwrap();
            assert!(mixed.iter().all(|(_, leaf)| burn::backend::TensorMetadata::dtype(leaf) == DType::F32));
            assert_close(&mixed, &full, 0.02 * full.norm_inf().value());
            assert!(mixed.sub(&full).unwrap().norm().value() > 0.0, "16 bits make a difference");
        }
        assert_same_bits(&full, &grads(Policy::uniform(FloatDType::F32)));
    }

    #[test]
    fn stored_parameters_are_leaves_and_statistics_stay() {
        let device = Device::flex().autodiff();
        let low = Policy::uniform(FloatDType::BF16);
        let model = low.cast_to_param(&LinearConfig::new(2, 2).init(&device));
        assert_eq!(model.weight.val().dtype(), DType::BF16);
        assert!(model.weight.val().is_require_grad());
        let norm = BatchNormConfig::new(3).init(&device);
        let cast = low.cast_to_compute(&norm);
        assert_eq!(cast.gamma.val().dtype(), DType::BF16);
        assert_eq!(cast.running_mean.value().dtype(), DType::F32);
        assert_eq!(norm.gamma.val().dtype(), DType::F32);
        // Without autodiff too.
        let plain = low.cast_to_compute(&LinearConfig::new(2, 2).init(&Device::flex()));
        assert_eq!(plain.weight.val().dtype(), DType::BF16);
    }
}
