//! Adversarial weight perturbation.

use burn::backend::TensorMetadata;
use burn::module::Module;
use burn::tensor::{Int, Tensor};
use core_tensor::transform::State;
use core_tensor::{Scalar, Tree};

use super::inner::not_negative;
use super::{RobustGradients, RobustProgram, RobustTraining, TwoStage, finish};
use crate::error::Result;

/// Keeps the norm of a vanishing gradient from zero, as the authors' code does.
const TINY: f64 = 1e-20;

/// Round another method: also moves the weights to where the loss is worse before taking the gradient, so that training finds
/// minima that are flat in the weights. Robust accuracy on test data then falls less late in training.
///
/// With the method's adversarial points held, `v_l = γ·‖w_l‖·g_l/‖g_l‖` for every weight `l` of more than one axis, `g` the gradient of
/// the method's loss there; given back is the gradient at `w + v`, for a step from `w`.
///
/// | parameter | default | range | effect |
/// |---|---|---|---|
/// | `method` | – | [`TwoStage`]: PGD, TRADES, MART, Fast, WRM, standard | what is wrapped |
/// | `gamma` | – (the paper: 0.005 to 0.01) | `[0, ∞)` | `γ`, the size of the perturbation relative to each weight |
///
/// Guarantees: `γ = 0` is the wrapped method, in cost too (`no_weight_perturbation_is_the_method`); the perturbed weights are at
/// relative distance `γ` (`weights_move_by_gamma`).
///
/// Cost: the method's, and its last stage once more: 1 gradient evaluation, or 2 for TRADES and MART. One more copy of the weights.
/// No host synchronisation of its own.
///
/// D. Wu, S.-T. Xia, Y. Wang, "Adversarial weight perturbation helps robust generalization", NeurIPS 2020, arXiv:2004.05884, algorithm 1
/// with one step (`A = 1`, `K₂ = 1`). Biases and scales are left alone, as in the authors' code.
///
/// ```
/// use adversarial::training::{Awp, PgdTraining, RobustProgram, RobustTraining};
/// use adversarial::{Norm, Threat};
/// use burn::nn::LinearConfig;
/// use burn::tensor::{Device, Int, Tensor};
///
/// let device = Device::default();
/// let model = LinearConfig::new(2, 3).init(&device);
/// let x = Tensor::<2>::from_data([[0.1, 0.9], [0.8, 0.2]], &device);
/// let y = Tensor::<1, Int>::from_data([0, 2], &device);
/// let program = RobustProgram::record(&model, &x, |model, x| model.forward(x))?;
/// let mut awp = Awp::new(PgdTraining::new(Threat::new(Norm::Linf, 0.1)?)?, 0.01)?;
/// assert_eq!(awp.gradients(&program, &model, x, y)?.cost.gradient_evaluations, 9);
/// # Ok::<(), adversarial::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Awp<T> {
    method: T,
    gamma: f64,
}

impl<T> Awp<T> {
    /// Round a method, with relative size `gamma`.
    ///
    /// # Errors
    /// [`Parameter`](crate::Error::Parameter) for a size that is negative or not finite.
    pub fn new(method: T, gamma: f64) -> Result<Self> {
        Ok(Self { method, gamma: not_negative("gamma", gamma)? })
    }

    /// The wrapped method.
    pub fn method(&self) -> &T {
        &self.method
    }

    /// The wrapped method, to change its radius.
    pub fn method_mut(&mut self) -> &mut T {
        &mut self.method
    }

    /// Another `γ` from now on: the authors begin with 0 for some epochs.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn set_gamma(&mut self, gamma: f64) -> Result<()> {
        self.gamma = not_negative("gamma", gamma)?;
        Ok(())
    }
}

impl<M, T, const D: usize> RobustTraining<M, D> for Awp<T>
where
    M: Module + Sync + 'static,
    T: TwoStage<M, D>,
{
    fn gradients(
        &mut self,
        program: &RobustProgram<M, D>,
        model: &M,
        inputs: Tensor<D>,
        labels: Tensor<1, Int>,
    ) -> Result<RobustGradients<D>> {
        let batch = program.examples(inputs, labels)?;
        let saved = self.method.state();
        let mut run = || {
            let perturbed = self.method.perturb(program, model, &batch)?;
            let point = Tree::from_module(model);
            let (mut gradient, mut evaluations) = self.method.outer(program, &point, &batch, &perturbed)?;
            if self.gamma > 0.0 {
                let worse = perturb_weights(&point, &gradient.gradient, self.gamma)?;
                let (there, again) = self.method.outer(program, &worse, &batch, &perturbed)?;
                (gradient, evaluations) = (there, evaluations + again);
            }
            finish(program, model, gradient, perturbed, evaluations)
        };
        let result = run();
        result.or_else(|error| {
            self.method.load_state(saved)?;
            Err(error)
        })
    }

    fn state(&self) -> State {
        self.method.state()
    }

    fn load_state(&mut self, state: State) -> Result<()> {
        self.method.load_state(state)
    }
}

/// `w_l + γ·‖w_l‖·g_l/‖g_l‖` for weights of more than one axis that have a gradient, the others as they are.
pub(super) fn perturb_weights(point: &Tree, gradient: &Tree, gamma: f64) -> Result<Tree> {
    let ascent = gradient.filter(|name| {
        let leaf = gradient.position(&name.path).map(|at| gradient.leaf(at).1);
        leaf.is_some_and(|leaf| leaf.shape().num_dims() > 1)
    });
    let weights = point.restrict(&ascent)?.leaf_norms();
    let factors: Vec<Scalar> = weights
        .into_iter()
        .zip(ascent.leaf_norms())
        .map(|(weight, slope)| weight / (slope + Scalar::from(TINY)) * Scalar::from(gamma))
        .collect();
    let moved = ascent.scale_leaves(&factors)?;
    let leaves = point.iter().map(|(name, leaf)| match moved.position(&name.path) {
        None => Ok((name.clone(), leaf.clone())),
        Some(at) => {
            let one = |leaf: &burn::backend::DispatchTensor| Tree::from_leaves([(name.clone(), leaf.clone())]);
            let sum = one(leaf)?.add(&one(moved.leaf(at).1)?)?;
            Ok((name.clone(), sum.leaf(0).1.clone()))
        }
    });
    let leaves: core_tensor::Result<Vec<_>> = leaves.collect();
    Ok(Tree::from_leaves(leaves?)?)
}
