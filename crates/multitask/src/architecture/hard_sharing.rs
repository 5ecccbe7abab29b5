//! Hard parameter sharing: one body for all.

use burn::module::Module;

use crate::model::Forward;

/// The same features for every task.
///
/// R. Caruana, "Multitask Learning", Machine Learning 28, 1997. With [`MultiTask`](crate::MultiTask) alone heads get these features
/// directly; this is for code that compares architectures and wants a list of features from all of them.
///
/// ```
/// use burn::{nn::LinearConfig, tensor::{Device, Tensor}};
/// use multitask::{Forward, architecture::HardSharing};
///
/// let device = Device::default();
/// let net = HardSharing::new(LinearConfig::new(3, 4).init(&device), 2);
/// assert_eq!(net.forward(Tensor::<2>::ones([5, 3], &device)).len(), 2);
/// ```
#[derive(Module, Debug)]
pub struct HardSharing<B: Module> {
    /// The shared parameters.
    pub body: B,
    tasks: usize,
}

impl<B: Module> HardSharing<B> {
    /// One body for a number of tasks.
    pub fn new(body: B, tasks: usize) -> Self {
        Self { body, tasks }
    }
}

impl<X, B: Forward<X>> Forward<X> for HardSharing<B>
where
    B::Output: Clone,
{
    type Output = Vec<B::Output>;

    fn forward(&self, input: X) -> Self::Output {
        vec![self.body.forward(input); self.tasks]
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{gradients_reach_everything, linear, random, values};
    use super::*;
    use crate::model::Part;
    use burn::tensor::Device;

    #[test]
    fn tasks_get_the_same() {
        let device = Device::flex();
        let net = HardSharing::new(linear(3, 4, &device), 3);
        let out = net.forward(random([5, 3], &device));
        assert_eq!((out.len(), out[0].dims()), (3, [5, 4]));
        assert_eq!(values(out[0].clone()), values(out[2].clone()));
        gradients_reach_everything(net, |_, _| Part::Shared, random([5, 3], &device), 0);
    }
}
