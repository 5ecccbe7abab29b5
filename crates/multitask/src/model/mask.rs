//! Which examples of a batch have a label for a task.

use burn::tensor::{Bool, Device, Tensor, TensorData};
use core_tensor::{Batch, BatchMapper};

/// The examples of a batch that have a label for one task.
///
/// Made on the host, where data loaders know it, so that asking whether a task has any label costs no synchronisation. In
/// the batch the examples without one hold any valid label (class 0, value 0.0): their loss is computed and thrown away.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use multitask::TaskMask;
///
/// let device = Device::default();
/// let mask = TaskMask::new(&[true, false, true], &device);
/// let losses = Tensor::<1>::from_data([1.0, f32::NAN, 3.0], &device);
/// assert_eq!(mask.mean(losses).into_scalar::<f32>(), 2.0);
/// assert_eq!(mask.labelled(), 2);
/// ```
#[derive(Clone, Debug)]
pub struct TaskMask {
    mask: Tensor<1, Bool>,
    /// `1 / max(1, labelled)`, a tensor because it differs from batch to batch while a recording stays.
    scale: Tensor<1>,
    labelled: usize,
}

impl TaskMask {
    /// `labelled[i]` says whether example `i` has a label.
    pub fn new(labelled: &[bool], device: &Device) -> Self {
        let count = labelled.iter().filter(|x| **x).count();
        Self {
            mask: Tensor::from_data(TensorData::new(labelled.to_vec(), [labelled.len()]), device),
            scale: Tensor::from_data([1.0 / count.max(1) as f64], device),
            labelled: count,
        }
    }

    /// A mask under which every example has a label.
    pub fn all(examples: usize, device: &Device) -> Self {
        Self::new(&vec![true; examples], device)
    }

    /// Number of examples with a label. For use outside recorded functions, which see each batch's tensors but not this.
    pub fn labelled(&self) -> usize {
        self.labelled
    }

    /// The mask as a tensor of shape `[examples]`.
    pub fn tensor(&self) -> Tensor<1, Bool> {
        self.mask.clone()
    }

    /// The mean over the labelled examples of losses of shape `[examples]`, as shape `[1]`; 0 if there are none.
    ///
    /// What is not finite in an unlabelled example does not reach the mean.
    pub fn mean(&self, losses: Tensor<1>) -> Tensor<1> {
        let kept = losses.mask_fill(self.mask.clone().bool_not(), 0.0);
        let scale = self.scale.clone().cast(kept.dtype());
        kept.sum() * scale
    }
}

impl Batch for TaskMask {
    fn map<V: BatchMapper>(&self, mapper: &mut V) -> Self {
        Self { mask: mapper.bool(&self.mask), scale: mapper.float(&self.scale), labelled: self.labelled }
    }
}
