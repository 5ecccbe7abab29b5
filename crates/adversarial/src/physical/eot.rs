//! Expectation over transformation.

use burn::tensor::{Device, Tensor, TensorData};
use core_tensor::Random;
use rayon::prelude::*;

use super::transform::{ImageMap, Transforms};
use crate::attack::batch::floats;
use crate::attack::check::at_least_one;
use crate::classifier::{Classifier, Pulled};
use crate::error::{Error, Result};

/// EOT: a model seen through transformations, whose logits are the mean over a number of seeded ones. Any attack on it looks for
/// what survives them, and its gradients are exact.
///
/// `z(x) = 1/k Σ_j f(clamp(T_j x))`, `∂z = 1/k Σ_j T_jᵀ·1[inside]·∂f`.
///
/// | parameter | default | range | effect |
/// |---|---|---|---|
/// | `samples` | – | ≥ 1 | `k`; the same maps for every example and every call, so that the model is a function |
/// | `seed` | – | any | which maps |
/// | [`bounds`](Self::bounds) | `[0, 1]` | | what a camera gives: transformed images are clamped to it, `None` clamps nothing |
///
/// To see whether a result holds for transformations that it was not made for, evaluate it through a `Transformed` of another seed.
///
/// Cost: a batch of `k` times the examples, and two transfers of the images each way.
///
/// Deviation: logits are averaged, where the paper takes the expectation of the loss.
///
/// A. Athalye, L. Engstrom, A. Ilyas, K. Kwok, "Synthesizing robust adversarial examples", ICML 2018, arXiv:1707.07397,
/// section 2.1.
///
/// ```
/// use adversarial::physical::{Transformed, Transforms};
/// use adversarial::{Attack, Goals, Norm, Pgd, Recorded, Threat};
/// use burn::nn::LinearConfig;
/// use burn::tensor::{Device, Tensor};
///
/// let device = Device::flex();
/// let model = LinearConfig::new(64, 3).init(&device);
/// let classifier = Recorded::new(&model, [1, 8, 8], |model, x: Tensor<4>| model.forward(x.flatten::<2>(1, 3)))?;
/// let seen = Transformed::new(&classifier, [1, 8, 8], &Transforms::camera(), 4, 7)?;
/// let x = Tensor::<4>::full([2, 1, 8, 8], 0.5, &device);
/// let attacked = Pgd::new().steps(5).attack(&seen, Threat::new(Norm::Linf, 0.1)?, x, &Goals::untargeted(&[0, 1]))?;
/// assert_eq!(attacked.outcomes.len(), 2);
/// # Ok::<(), adversarial::Error>(())
/// ```
pub struct Transformed<'a> {
    classifier: &'a dyn Classifier<4>,
    maps: Vec<ImageMap>,
    bounds: Option<[f32; 2]>,
}

impl<'a> Transformed<'a> {
    /// Draws `samples` maps for images of a shape.
    ///
    /// # Errors
    /// [`Error::Parameter`] for no samples, and as [`Transforms::draw`].
    pub fn new(
        classifier: &'a dyn Classifier<4>,
        shape: [usize; 3],
        transforms: &Transforms,
        samples: usize,
        seed: u64,
    ) -> Result<Self> {
        at_least_one("samples", samples)?;
        let mut random = Random::new(seed);
        let maps = (0..samples).map(|_| transforms.draw(shape, &mut random)).collect::<Result<_>>()?;
        Ok(Self { classifier, maps, bounds: Some([0.0, 1.0]) })
    }

    /// Sets what transformed images are clamped to.
    pub fn bounds(self, bounds: Option<[f32; 2]>) -> Self {
        Self { bounds, ..self }
    }

    /// The maps.
    pub fn maps(&self) -> &[ImageMap] {
        &self.maps
    }

    /// All images under all maps, those of the first map first, and which elements were not clamped.
    fn seen(&self, inputs: &Tensor<4>) -> Result<(Tensor<4>, Vec<bool>)> {
        let [n, c, h, w] = inputs.dims();
        let shape = self.maps[0].from_shape();
        if [c, h, w] != shape {
            let expected = format!("[examples, ..{shape:?}], as the maps");
            return Err(Error::Shape { what: "inputs", actual: inputs.dims().to_vec(), expected });
        }
        let images = floats(inputs.to_data());
        let under = |map: &ImageMap| images.chunks(c * h * w).flat_map(|x| map.apply(x)).collect::<Vec<f32>>();
        let mut seen = self.maps.par_iter().map(under).collect::<Vec<_>>().concat();
        let mut free = vec![true; seen.len()];
        if let Some([low, high]) = self.bounds {
            free.iter_mut().zip(&mut seen).for_each(|(free, x)| {
                *free = *x >= low && *x <= high;
                *x = x.clamp(low, high);
            });
        }
        let seen = TensorData::new(seen, [self.maps.len() * n, c, h, w]);
        Ok((Tensor::from_data(seen, &self.classifier.device()), free))
    }

    fn mean(&self, logits: Tensor<2>) -> Tensor<2> {
        let [rows, classes] = logits.dims();
        let k = self.maps.len();
        logits.reshape([k, rows / k, classes]).mean_dim(0).reshape([rows / k, classes])
    }
}

impl Classifier<4> for Transformed<'_> {
    fn logits(&self, inputs: Tensor<4>) -> Result<Tensor<2>> {
        Ok(self.mean(self.classifier.logits(self.seen(&inputs)?.0)?))
    }

    fn pullback(&self, inputs: Tensor<4>) -> Result<Pulled<'_, 4>> {
        let (dims, device) = (inputs.dims(), inputs.device());
        let (seen, free) = self.seen(&inputs)?;
        let pulled = self.classifier.pullback(seen)?;
        let logits = self.mean(pulled.logits);
        let back = Box::new(move |cotangent: Tensor<2>| {
            let k = self.maps.len();
            let gradient = (pulled.back)((cotangent / k as f64).repeat_dim(0, k))?;
            let mut gradient = floats(gradient.into_data());
            gradient.iter_mut().zip(&free).filter(|(_, free)| !**free).for_each(|(g, _)| *g = 0.0);
            let width: usize = dims[1..].iter().product();
            let mut sum = vec![0.0f32; dims[0] * width];
            let all: Vec<Vec<f32>> = gradient
                .par_chunks(width * dims[0])
                .zip(&self.maps)
                .map(|(g, map)| g.chunks(width).flat_map(|g| map.adjoint(g)).collect())
                .collect();
            all.iter().for_each(|g| sum.iter_mut().zip(g).for_each(|(sum, g)| *sum += g));
            Ok(Tensor::from_data(TensorData::new(sum, dims), &device))
        });
        Ok(Pulled { logits, back })
    }

    fn device(&self) -> Device {
        self.classifier.device()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Pgd;
    use crate::attack::Attack;
    use crate::engine::Goals;
    use crate::physical::Transform;
    use crate::physical::samples::{bars, classifier};
    use crate::threat::{Norm, Threat};

    const SHAPE: [usize; 3] = [1, 8, 8];

    fn seen(classifier: &dyn Classifier<4>, seed: u64) -> Transformed<'_> {
        Transformed::new(classifier, SHAPE, &Transforms::camera(), 6, seed).unwrap()
    }

    #[test]
    fn gradients_match_central_differences() {
        let (x, _) = bars(2, 1);
        let classifier = classifier();
        let seen = seen(&classifier, 3);
        let pulled = seen.pullback(x.clone()).unwrap();
        let cotangent = Tensor::<2>::from_data([[1.0, -2.0, 0.5], [0.3, 1.0, -1.0]], &Device::flex());
        let weigh = |z: Tensor<2>| (z * cotangent.clone()).sum().into_scalar::<f32>();
        let gradient = (pulled.back)(cotangent.clone()).unwrap();
        let direction = Random::new(4).normal([2, 1, 8, 8], 0.0, 1.0, &Device::flex());
        let slope = (gradient * direction.clone()).sum().into_scalar::<f32>();
        let at = |h: f64| weigh(seen.logits(x.clone() + direction.clone() * h).unwrap());
        let difference = (at(1e-3) - at(-1e-3)) / 2e-3;
        assert!((slope - difference).abs() < 2e-2 * (1.0 + slope.abs()), "{slope} {difference}");
    }

    #[test]
    fn without_transformations_it_is_the_model() {
        let (x, _) = bars(3, 2);
        let classifier = classifier();
        let same = Transformed::new(&classifier, SHAPE, &Transforms::new(), 1, 0).unwrap();
        assert_eq!(same.logits(x.clone()).unwrap().to_data(), classifier.logits(x).unwrap().to_data());
    }

    #[test]
    fn what_is_made_for_transformations_survives_more_of_them() {
        let (x, labels) = bars(30, 5);
        let classifier = classifier();
        let goals = Goals::untargeted(&labels);
        let threat = Threat::new(Norm::Linf, 0.25).unwrap();
        let attack = Pgd::new().steps(30);
        let run = |on: &dyn Classifier<4>| {
            let run = crate::Engine::new().run(&attack, on, threat, crate::Search::Worst, x.clone(), &goals);
            run.unwrap().inputs
        };
        let survives = |x: &Tensor<4>| {
            let mut count = 0;
            for seed in 100..110 {
                let once = Transformed::new(&classifier, SHAPE, &Transforms::camera(), 1, seed).unwrap();
                let classes = once.logits(x.clone()).unwrap().argmax(1).into_data();
                count += classes.iter::<i64>().zip(&labels).filter(|(class, label)| *class != **label as i64).count();
            }
            count
        };
        let through = seen(&classifier, 3);
        let (plain, robust, clean) = (survives(&run(&classifier)), survives(&run(&through)), survives(&x));
        assert!(robust > plain && plain >= clean, "{robust} {plain} {clean} of 300");
    }

    #[test]
    fn misfits_are_named() {
        let classifier = classifier();
        let none = Transformed::new(&classifier, SHAPE, &Transforms::new(), 0, 0).err().unwrap().to_string();
        assert!(none.starts_with("samples = 0"));
        let seen = seen(&classifier, 1);
        assert!(seen.logits(Tensor::zeros([1, 1, 4, 4], &Device::flex())).unwrap_err().to_string().contains("inputs"));
        let bad = Transforms::new().then(Transform::Scale([0.0, 0.0]));
        assert!(Transformed::new(&classifier, SHAPE, &bad, 1, 0).is_err());
        let x = Tensor::zeros([1, 1, 8, 8], &Device::flex());
        assert!(Pgd::new().attack(&seen, Threat::new(Norm::Linf, 0.1).unwrap(), x, &Goals::untargeted(&[9])).is_err());
    }
}
