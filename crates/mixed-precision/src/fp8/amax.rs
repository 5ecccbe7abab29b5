//! What delayed scaling remembers: the amax of the steps before.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use burn::module::{Content, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::tensor::{Device, Tensor, TensorData};

use super::recipe::{AmaxChoice, Recipe, Source};
use crate::format::Format;

/// A tensor of a module that is saved with it, not trained, and changes in forward and backward passes. Clones share it; a
/// module that was mapped, moved or loaded has its own.
#[derive(Clone, Debug)]
pub(crate) struct Buffer {
    id: ParamId,
    value: Arc<Mutex<Tensor<1>>>,
}

impl Buffer {
    fn new(value: Tensor<1>) -> Self {
        Self::with_id(ParamId::new(), value)
    }

    fn with_id(id: ParamId, value: Tensor<1>) -> Self {
        Self { id, value: Arc::new(Mutex::new(value)) }
    }

    fn lock(&self) -> MutexGuard<'_, Tensor<1>> {
        self.value.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn replaced(&self, f: impl FnOnce(Tensor<1>) -> Tensor<1>) -> Self {
        let value = self.lock().clone();
        Self::with_id(self.id, f(value))
    }
}

fn read(value: &Tensor<1>) -> Vec<f32> {
    value.to_data().iter::<f32>().collect()
}

fn write(value: &mut Tensor<1>, data: Vec<f32>) {
    let (length, dtype) = (data.len(), value.dtype());
    *value = Tensor::from_data(TensorData::new(data, [length]), (&value.device(), dtype));
}

impl Module for Buffer {
    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        let value = self.lock().clone();
        visitor.visit_float(&Param::initialized(self.id, value));
    }

    fn map<M: ModuleMapper>(self, mapper: &mut M) -> Self {
        let value = self.lock().clone();
        let (id, value, _) = mapper.map_float(Param::initialized(self.id, value)).consume();
        Self::with_id(id, value.set_require_grad(false))
    }

    fn to_device(self, device: &Device) -> Self {
        self.replaced(|value| value.to_device(device))
    }

    fn fork(self, device: &Device) -> Self {
        self.to_device(device)
    }

    fn collect_devices(&self, mut devices: Vec<Device>) -> Vec<Device> {
        let device = self.lock().device();
        if !devices.contains(&device) {
            devices.push(device);
        }
        devices
    }

    fn materialize(self) -> Self {
        self
    }

    fn valid(&self) -> Self {
        self.replaced(Tensor::without_autodiff)
    }

    fn train(self) -> Self {
        self.replaced(Tensor::from_inner)
    }
}

impl ModuleDisplayDefault for Buffer {
    fn content(&self, content: Content) -> Option<Content> {
        content.add_formatted(&format!("Buffer({})", self.lock().dims()[0])).optional()
    }
}

impl ModuleDisplay for Buffer {}

/// The history and the scale of one tensor under delayed scaling.
///
/// `history` has the layout of Transformer Engine's `amax_history`: place 0 is that of the step to come and 0 between steps, then
/// the oldest to the most recent. A step writes its amax at 0, takes the largest of all (or that at 0) for the next scale,
/// rolls by one and clears place 0; so the scale of a step comes from the `length − 1` steps before it and the one before them. Until
/// the first step the scale is 1.
#[derive(Module, Debug)]
pub struct AmaxHistory {
    history: Buffer,
    scale: Buffer,
}

impl AmaxHistory {
    pub(crate) fn new(length: usize, device: &Device) -> Self {
        Self { history: Buffer::new(Tensor::zeros([length], device)), scale: Buffer::new(Tensor::ones([1], device)) }
    }

    /// The amaxes as they lie: place 0, then the oldest to the most recent.
    pub fn history(&self) -> Vec<f32> {
        read(&self.history.lock())
    }

    /// The scale of the next step.
    pub fn scale(&self) -> f32 {
        read(&self.scale.lock()).first().copied().unwrap_or(1.0)
    }

    /// The end of a step whose tensor had this amax.
    pub(crate) fn record(&self, amax: f32, recipe: &Recipe, format: Format) {
        let Source::Delayed { choice, .. } = recipe.source else {
            return;
        };
        let mut history = self.history.lock();
        let mut amaxes = read(&history);
        let Some(first) = amaxes.first_mut() else {
            return;
        };
        *first = amax;
        let chosen = match choice {
            AmaxChoice::Max => amaxes.iter().fold(0.0, |a, b| f32::max(a, *b)),
            AmaxChoice::MostRecent => amax,
        };
        amaxes.rotate_left(1);
        amaxes[0] = 0.0;
        write(&mut history, amaxes);
        let mut scale = self.scale.lock();
        let previous = read(&scale).first().copied().unwrap_or(1.0);
        write(&mut scale, vec![recipe.scale(chosen, format, previous)]);
    }
}

/// What a layer under delayed scaling remembers of its input, its weight and the gradient of its output.
#[derive(Module, Debug)]
pub struct Scaling {
    /// Of the input.
    pub input: AmaxHistory,
    /// Of the weight.
    pub weight: AmaxHistory,
    /// Of the output's gradient.
    pub gradient: AmaxHistory,
}

impl Scaling {
    /// Empty histories, if the recipe has such.
    pub(crate) fn new(recipe: &Recipe, device: &Device) -> Option<Self> {
        let length = recipe.history_length()?;
        let new = || AmaxHistory::new(length, device);
        Some(Self { input: new(), weight: new(), gradient: new() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(recipe: Recipe, amaxes: &[f32]) -> (AmaxHistory, Vec<f32>) {
        let state = AmaxHistory::new(recipe.history_length().unwrap(), &Device::flex());
        let scales = amaxes.iter().map(|amax| {
            let scale = state.scale();
            state.record(*amax, &recipe, Format::E4M3FN);
            scale
        });
        let scales = scales.collect();
        (state, scales)
    }

    #[test]
    fn a_scale_comes_from_the_steps_before_and_forgets() {
        let recipe = Recipe::delayed().history(3).unwrap();
        let (state, scales) = run(recipe, &[2.0, 4.0, 1.0, 1.0, 0.5, 0.5]);
        // 1 at first, then 448 over the largest of the last three.
        assert_eq!(scales, [1.0, 224.0, 112.0, 112.0, 112.0, 448.0]);
        assert_eq!((state.history(), state.scale()), (vec![0.0, 0.5, 0.5], 448.0));
        let (_, scales) = run(recipe.choice(AmaxChoice::MostRecent), &[2.0, 4.0, 1.0, 1.0, 0.5]);
        assert_eq!(scales, [1.0, 224.0, 112.0, 448.0, 448.0]);
        let (state, scales) = run(recipe.history(1).unwrap(), &[2.0, 4.0, 1.0]);
        assert_eq!((scales, state.history()), (vec![1.0, 224.0, 112.0], vec![0.0]));
    }

    #[test]
    fn zeros_and_infinities_keep_the_scale() {
        let recipe = Recipe::delayed().history(2).unwrap();
        let (state, scales) = run(recipe, &[2.0, f32::INFINITY, 4.0, 8.0, 8.0]);
        // The infinity is the largest for as long as it is remembered.
        assert_eq!(scales, [1.0, 224.0, 224.0, 224.0, 56.0]);
        assert_eq!(state.scale(), 56.0);
        let (state, scales) = run(recipe, &[2.0, 0.0, 0.0, 0.0]);
        assert_eq!((scales, state.scale()), (vec![1.0, 224.0, 224.0, 224.0], 224.0));
        let (state, _) = run(recipe.choice(AmaxChoice::MostRecent), &[2.0, f32::NAN, 0.0]);
        assert_eq!(state.scale(), 224.0);
    }

    #[test]
    fn clones_share_and_copies_do_not() {
        let recipe = Recipe::delayed().history(2).unwrap();
        let (state, _) = run(recipe, &[2.0]);
        let (clone, copy) = (state.clone(), state.clone().to_device(&Device::flex()));
        state.record(4.0, &recipe, Format::E4M3FN);
        assert_eq!((clone.scale(), copy.scale()), (112.0, 224.0));
        assert_eq!(state.valid().history(), state.history());
        let loaded = AmaxHistory::new(2, &Device::flex()).load_record(state.clone().into_record());
        assert_eq!((loaded.history(), loaded.scale()), (state.history(), 112.0));
    }
}
