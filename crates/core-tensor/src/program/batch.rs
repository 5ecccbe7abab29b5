//! What a recorded function is given besides the point: tensors of any kind, grouped as the user likes.

use burn::module::Module;
use burn::tensor::{Bool, Int, Tensor};

/// Visits every tensor of a [`Batch`] and gives its replacement.
///
/// The library uses it to swap tensors for recording ones and to collect them for a run; users only forward calls to it.
pub trait BatchMapper {
    /// A float tensor.
    fn float<const D: usize>(&mut self, tensor: &Tensor<D>) -> Tensor<D>;
    /// An integer tensor.
    fn int<const D: usize>(&mut self, tensor: &Tensor<D, Int>) -> Tensor<D, Int>;
    /// A boolean tensor.
    fn bool<const D: usize>(&mut self, tensor: &Tensor<D, Bool>) -> Tensor<D, Bool>;
    /// A module whose parameters are held fixed.
    fn module<M: Module>(&mut self, module: &M) -> M;
}

/// The inputs of a recorded function that are not differentiated: examples, labels, masks, a frozen module.
///
/// Implemented for tensors of every kind, tuples, arrays, `Vec`, `Option` and `()`; for a struct of batches use
/// [`batch!`](crate::batch). The set of tensors and their order must depend on the type and on lengths only.
///
/// Two batches of the same shapes and element types share one recording.
pub trait Batch: Sized {
    /// Rebuilds the batch with each tensor replaced by what `mapper` gives for it, always in the same order.
    fn map<V: BatchMapper>(&self, mapper: &mut V) -> Self;
}

/// A module used by a recorded function without being differentiated, given as (part of) the batch.
///
/// ```
/// use burn::{nn::LinearConfig, tensor::{Device, Distribution, Tensor}};
/// use core_tensor::{Frozen, Program, Tree};
/// # fn main() -> core_tensor::Result<()> {
/// let device = Device::default();
/// let model = LinearConfig::new(3, 1).init(&device);
/// let input = Tensor::<2>::random([5, 3], Distribution::Default, &device);
/// // The gradient with respect to the *input*, the model fixed.
/// let point = Tree::empty().push("input", input)?;
/// let program = Program::record_tree(&point, &Frozen(model.clone()), |point, model| {
///     model.0.forward(point.get::<2>("input").unwrap()).sum()
/// })?;
/// let out = program.value_and_grad(&point, &Frozen(model))?;
/// assert_eq!(out.gradient.get::<2>("input")?.dims(), [5, 3]);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Frozen<M>(pub M);

impl<M: Module> Batch for Frozen<M> {
    fn map<V: BatchMapper>(&self, mapper: &mut V) -> Self {
        Frozen(mapper.module(&self.0))
    }
}

impl<const D: usize> Batch for Tensor<D> {
    fn map<V: BatchMapper>(&self, mapper: &mut V) -> Self {
        mapper.float(self)
    }
}

impl<const D: usize> Batch for Tensor<D, Int> {
    fn map<V: BatchMapper>(&self, mapper: &mut V) -> Self {
        mapper.int(self)
    }
}

impl<const D: usize> Batch for Tensor<D, Bool> {
    fn map<V: BatchMapper>(&self, mapper: &mut V) -> Self {
        mapper.bool(self)
    }
}

impl Batch for () {
    fn map<V: BatchMapper>(&self, _mapper: &mut V) -> Self {}
}

impl<T: Batch> Batch for Option<T> {
    fn map<V: BatchMapper>(&self, mapper: &mut V) -> Self {
        self.as_ref().map(|item| item.map(mapper))
    }
}

impl<T: Batch> Batch for Vec<T> {
    fn map<V: BatchMapper>(&self, mapper: &mut V) -> Self {
        self.iter().map(|item| item.map(mapper)).collect()
    }
}

impl<T: Batch, const N: usize> Batch for [T; N] {
    fn map<V: BatchMapper>(&self, mapper: &mut V) -> Self {
        std::array::from_fn(|i| self[i].map(mapper))
    }
}

macro_rules! tuple {
    ($($name:ident $field:tt),+) => {
        impl<$($name: Batch),+> Batch for ($($name,)+) {
            fn map<V: BatchMapper>(&self, mapper: &mut V) -> Self {
                ($(self.$field.map(mapper),)+)
            }
        }
    };
}
tuple!(A 0);
tuple!(A 0, B 1);
tuple!(A 0, B 1, C 2);
tuple!(A 0, B 1, C 2, D 3);
tuple!(A 0, B 1, C 2, D 3, E 4);
tuple!(A 0, B 1, C 2, D 3, E 4, F 5);

/// Implements [`Batch`](crate::Batch) for a struct, field by field; every field must be named and be a batch itself.
///
/// ```
/// use burn::tensor::{Int, Tensor};
/// struct Digits { images: Tensor<4>, labels: Tensor<1, Int> }
/// core_tensor::batch!(Digits { images, labels });
/// ```
#[macro_export]
macro_rules! batch {
    ($name:ident { $($field:ident),+ $(,)? }) => {
        impl $crate::Batch for $name {
            fn map<V: $crate::BatchMapper>(&self, mapper: &mut V) -> Self {
                Self { $($field: $crate::Batch::map(&self.$field, mapper)),+ }
            }
        }
    };
}
