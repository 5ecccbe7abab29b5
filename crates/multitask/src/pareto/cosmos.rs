//! COSMOS: one network for all preferences, which it takes with its input.

use burn::tensor::Tensor;
use core_tensor::Random;
use core_tensor::transform::State;

use super::preference::dirichlet;
use crate::model::{ModelError, Result};

/// Preferences drawn for each step, appended to the input, and a loss that pulls the losses towards their ray.
///
/// $$\sum_i r_i f_i(x, r) - λ \frac{r · f}{‖r‖\,‖f‖}, \qquad r \sim \mathrm{Dirichlet}(α)$$
///
/// The second term keeps the solutions of different preferences apart, which the first alone does not on a front that is not
/// convex. Cost: one forward and one backward pass a step, as for a single loss.
///
/// | parameter | default | range | effect |
/// |---|---|---|---|
/// | `alpha` | | > 0 each | below 1 preferences near the corners, above 1 near the middle |
/// | `lambda` | | >= 0 | how strongly `f` is pulled towards the direction of `r` |
///
/// The sampler is seeded and its state resumes. M. Ruchte and J. Grabocka, "Scalable Pareto Front Approximation for Deep
/// Multi-Objective Learning", ICDM 2021, arXiv:2103.13392, equations 5 and 6.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use multitask::pareto::{Cosmos, preference};
///
/// let device = Device::default();
/// let mut cosmos = Cosmos::new(&[1.2, 1.2], 2.0, 7)?;
/// let r = preference(&cosmos.draw(), &device);
/// let input = Cosmos::condition(Tensor::<2>::ones([4, 3], &device), r.clone());
/// assert_eq!(input.dims(), [4, 5]);
/// let loss = cosmos.loss(Tensor::from_data([0.5, 0.7], &device), r);
/// assert_eq!(loss.dims(), [1]);
/// # Ok::<(), multitask::ModelError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Cosmos {
    alpha: Vec<f64>,
    lambda: f64,
    random: Random,
}

impl Cosmos {
    /// Concentrations of the preferences, weight of the cosine, seed.
    ///
    /// # Errors
    /// [`ModelError::Parameter`] unless each `alpha` is positive and finite and `lambda` is at least 0 and finite.
    pub fn new(alpha: &[f64], lambda: f64, seed: u64) -> Result<Self> {
        let random = Random::new(seed).fork("cosmos");
        dirichlet(alpha, &mut random.clone())?;
        match lambda >= 0.0 && lambda.is_finite() {
            true => Ok(Self { alpha: alpha.to_vec(), lambda, random }),
            false => Err(ModelError::parameter("lambda", lambda, ">= 0 and finite")),
        }
    }

    /// The preference of the next step.
    pub fn draw(&mut self) -> Vec<f64> {
        dirichlet(&self.alpha, &mut self.random).expect("alpha was checked")
    }

    /// The loss to differentiate, shape `[1]`, of losses and preference of shape `[tasks]`.
    pub fn loss(&self, losses: Tensor<1>, preference: Tensor<1>) -> Tensor<1> {
        let inner = (losses.clone() * preference.clone()).sum();
        let norms = (losses.square().sum() * preference.square().sum()).clamp_min(1e-24).sqrt();
        inner.clone() - inner / norms * self.lambda
    }

    /// The preference as further channels (axis 1) of every example: columns of features, constant planes of images.
    pub fn condition<const D: usize>(input: Tensor<D>, preference: Tensor<1>) -> Tensor<D> {
        let mut dims = input.dims();
        let mut ones = [1; D];
        let tasks = preference.dims()[0];
        ones[1] = tasks;
        dims[1] = tasks;
        Tensor::cat(vec![input, preference.reshape(ones).expand(dims)], 1)
    }

    /// The state of the sampler, to go on from later.
    pub fn state(&self) -> State {
        self.random.state()
    }

    /// Go on from a state.
    ///
    /// # Errors
    /// [`core_tensor::Error::State`] for another state.
    pub fn load_state(&mut self, state: State) -> Result<()> {
        Ok(self.random.load_state(state)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pareto::preference;
    use burn::module::Module;
    use burn::nn::{Linear, LinearConfig};
    use burn::optim::AdamConfig;
    use burn::tensor::Device;
    use core_tensor::{Chain, Program, Tree};

    #[test]
    fn the_loss_is_the_formula() {
        let device = Device::flex();
        let cosmos = Cosmos::new(&[1.0, 1.0], 3.0, 0).unwrap();
        let of = |f: [f64; 2], r: [f64; 2]| {
            cosmos.loss(preference(&f, &device), preference(&r, &device)).into_data().iter::<f64>().next().unwrap()
        };
        assert!((of([3.0, 4.0], [0.6, 0.8]) - (5.0 - 3.0)).abs() < 1e-5);
        assert!((of([1.0, 0.0], [0.0, 1.0]) - 0.0).abs() < 1e-6);
        assert!(of([0.0, 0.0], [0.5, 0.5]).is_finite());
        let images = Cosmos::condition(Tensor::<4>::zeros([2, 1, 3, 3], &device), preference(&[0.25, 0.75], &device));
        assert_eq!(images.dims(), [2, 3, 3, 3]);
        let plane: Vec<f64> = images.slice_dim(1, 2).into_data().iter::<f64>().collect();
        assert!(plane.iter().all(|x| *x == 0.75));
    }

    #[derive(Module, Debug)]
    struct Net {
        hidden: Linear,
        out: Linear,
    }

    #[test]
    fn one_network_spreads_over_the_front_by_preference() {
        let device = Device::flex();
        let net = Net { hidden: LinearConfig::new(3, 24).init(&device), out: LinearConfig::new(24, 2).init(&device) };
        let mut cosmos = Cosmos::new(&[1.0, 1.0], 0.5, 4).unwrap();
        let minima = [[1.0, 0.0], [-1.0, 0.0]];
        let losses = move |net: &Net, r: &Tensor<1>| {
            let x = Cosmos::condition(Tensor::<2>::ones([1, 1], &r.device()), r.clone());
            let x = net.out.forward(net.hidden.forward(x).tanh());
            let of = |[a, b]: [f64; 2]| {
                (x.clone().slice_dim(1, 0) - a).square().reshape([1])
                    + (x.clone().slice_dim(1, 1) - b).square().reshape([1])
            };
            Tensor::cat(minima.map(of).to_vec(), 0)
        };
        let (loss, of) = (cosmos.clone(), losses);
        let start = preference(&[0.5, 0.5], &device);
        let program = Program::record_first_order(&net, &start, move |net: &Net, r| loss.loss(of(net, r), r.clone()));
        let program = program.unwrap();
        let mut train = Chain::new().before(AdamConfig::new().init());
        let mut net = net.to_device(&device.clone().autodiff()).train();
        for _ in 0..600 {
            let r = preference(&cosmos.draw(), &device);
            let out = program.value_and_grad(&Tree::from_module(&net), &r).unwrap();
            net = train.step_grads(1e-2, net, out.gradient, None).unwrap().into_model();
        }
        let net = net.valid();
        let mut last = [f64::INFINITY, -1.0];
        for i in 1..10 {
            let r = preference(&[f64::from(i) / 10.0, 1.0 - f64::from(i) / 10.0], &device);
            let f: Vec<f64> = losses(&net, &r).into_data().iter::<f64>().collect();
            // On the front √f₁ + √f₂ = 2; a larger preference for the first task trades the second for it.
            assert!((f[0].sqrt() + f[1].sqrt() - 2.0).abs() < 0.05, "{f:?}");
            assert!(f[0] < last[0] && f[1] > last[1], "{f:?} after {last:?}");
            last = [f[0], f[1]];
        }
    }

    #[test]
    fn bad_settings_and_resuming() {
        assert!(Cosmos::new(&[0.0], 1.0, 0).is_err() && Cosmos::new(&[1.0], f64::NAN, 0).is_err());
        let mut cosmos = Cosmos::new(&[1.0, 1.0], 1.0, 0).unwrap();
        cosmos.draw();
        let mut other = Cosmos::new(&[1.0, 1.0], 1.0, 9).unwrap();
        other.load_state(cosmos.state()).unwrap();
        assert_eq!(cosmos.draw(), other.draw());
    }
}
