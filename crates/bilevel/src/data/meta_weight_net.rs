//! Meta-weight-net.

use std::sync::Arc;

use burn::tensor::{Device, Tensor, activation};
use core_tensor::{Batch, Program, Random, Tree, Variable};

use crate::error::{Result, at_least_one, positive};
use crate::problem::{Batches, Problem};
use crate::single_loop::LoopState;
use crate::unroll::Unroll;
use crate::update::Sgd;

/// Meta-weight-net: an example's weight is a small network's answer to its loss, learned along with the model from a small clean set. For
/// wrong labels and skewed classes in training sets of any size: what is learned does not grow with them.
///
/// Weights are held fixed by being given the losses as numbers, from a pass of their own; a `detach` within the objective would not do, as mixed
/// products rely on the symmetry of its second derivatives.
///
/// `V(L; Θ) = σ(w₂·relu(w₁L + b₁) + b₂)`. A step takes (5) a virtual step `ẑ(Θ) = z − α·∇z Σᵢ V(Lᵢ; Θ)Lᵢ/n` in which `V` is held fixed,
/// (6) `Θ ← Θ − β∇_Θ L_meta(ẑ(Θ))`, and (7) the real step `z ← z − α·∇z Σᵢ V(Lᵢ; Θ)Lᵢ/n` with the new `Θ`.
///
/// | parameter | range | effect |
/// |---|---|---|
/// | `rate` `α` | > 0 | of `z` |
/// | `meta_rate` `β` | > 0 | of `Θ` |
///
/// Guarantees: (6) is exact, equal to central differences (test `the_virtual_step_is_differentiated_exactly`); on digits with wrong labels, small losses end
/// with larger weights than large ones (`a_weight_net_learns_to_distrust_large_losses`). Cost a step: two gradients, a linearisation and a product of
/// the training loss, one gradient of the meta loss.
///
/// J. Shu et al., "Meta-Weight-Net: learning an explicit mapping for sample weighting", 2019 (arXiv:1902.07379), algorithm 1.
pub struct MetaWeightNet<I, O> {
    losses: Program<I>,
    problem: Problem<Judged<I>, O>,
    virtual_step: Unroll<Sgd>,
    rate: f64,
    meta_rate: f64,
}

/// A training batch and the losses of its examples, as numbers.
pub type Judged<I> = (I, Tensor<1>);

/// The weight net `Θ` of a width (100 in the paper), drawn from a seed.
///
/// # Errors
/// A parameter error for a width of 0.
pub fn weight_net(width: usize, seed: u64, device: &Device) -> Result<Tree> {
    let mut random = Random::new(seed);
    let scale = (1.0 / at_least_one("width", width)? as f64).sqrt();
    Ok(Tree::empty()
        .push("hidden.weight", random.normal([1, width], 0.0, 1.0, device))?
        .push("hidden.bias", random.normal([width], 0.0, 1.0, device))?
        .push("output.weight", random.normal([width, 1], 0.0, scale, device))?
        .push("output.bias", Tensor::<1>::zeros([1], device))?)
}

/// `V(L; Θ)` for losses of shape `[n]`.
///
/// # Errors
/// A tree that [`weight_net`] did not make.
pub fn weights(net: &Tree, losses: Tensor<1>) -> core_tensor::Result<Tensor<1>> {
    let hidden = losses.unsqueeze_dim::<2>(1).matmul(net.get::<2>("hidden.weight")?);
    let hidden = activation::relu(hidden + net.get::<1>("hidden.bias")?.unsqueeze_dim::<2>(0));
    let output = hidden.matmul(net.get::<2>("output.weight")?).squeeze_dim::<1>(1) + net.get::<1>("output.bias")?;
    Ok(activation::sigmoid(output))
}

impl<I: Batch + Clone, O: Batch + Clone> MetaWeightNet<I, O> {
    /// Rates of the model and of the weight net, and what they move: `losses` gives the loss of each example of a training batch, shape `[n]`; `meta` the
    /// loss on clean examples.
    ///
    /// # Errors
    /// A parameter error unless both rates are above zero and finite; a tree that [`weight_net`] did not make; those of [`Problem::from_functions`].
    pub fn new<Z: Variable>(
        (rate, meta_rate): (f64, f64),
        (net, z): (&Tree, &Z),
        batches: &Batches<I, O>,
        losses: impl Fn(&Z, &I) -> Tensor<1> + Send + Sync + 'static,
        meta: impl Fn(&Z, &O) -> Tensor<1> + Send + Sync + 'static,
    ) -> Result<Self> {
        let (rate, meta_rate) = (positive("rate", rate)?, positive("meta_rate", meta_rate)?);
        let device = net.device().unwrap_or_default();
        weights(net, Tensor::<1>::zeros([1], (&device, net.get::<1>("hidden.bias")?.dtype())))?;
        let losses = Arc::new(losses);
        let of_each = losses.clone();
        let program =
            Program::record_pair(("x", &Tree::empty()), ("z", z), first(batches)?, move |_: &Tree, z, batch| {
                of_each(z, batch)
            })?;
        let judged = judge(&program, &z.to_tree(), batches)?;
        let problem = Problem::from_functions(
            net,
            z,
            &judged,
            move |net: &Tree, z: &Z, (batch, fixed): &Judged<I>| {
                (weights(net, fixed.clone()).expect("checked above") * losses(z, batch)).mean()
            },
            move |_: &Tree, z: &Z, batch: &O| meta(z, batch),
        )?;
        Ok(Self { losses: program, problem, virtual_step: Unroll::new(Sgd::new(rate), 1)?, rate, meta_rate })
    }

    /// One step of both on the first inner batch and all outer ones. `x` of the state is `Θ`.
    ///
    /// # Errors
    /// Another structure than recorded, no batches; [`Error::NotFinite`](crate::Error::NotFinite).
    pub fn step(&self, mut state: LoopState, batches: &Batches<I, O>) -> Result<LoopState> {
        let judged = judge(&self.losses, &state.z, batches)?;
        let h = self.virtual_step.differentiate(&self.problem, &state.x, &state.z, &judged)?.hypergradient;
        state.x = state.x.axpy(-self.meta_rate, &h.gradient)?;
        let gradient = self.problem.inner_gradient(&state.x, &state.z, &judged.inner)?;
        state.z = state.z.axpy(-self.rate, &gradient.z)?;
        state.steps += 1;
        Ok(state)
    }

    /// The weight of each example of a training batch.
    ///
    /// # Errors
    /// Another structure than recorded.
    pub fn weights(&self, net: &Tree, z: &Tree, batch: &I) -> Result<Tensor<1>> {
        Ok(weights(net, losses(&self.losses, z, batch)?)?)
    }

    /// The recorded problem, whose training batches hold the losses too.
    pub fn problem(&self) -> &Problem<Judged<I>, O> {
        &self.problem
    }
}

fn first<I, O>(batches: &Batches<I, O>) -> Result<&I> {
    let missing = core_tensor::Error::Length { what: "the list of training batches", expected: 1, actual: 0 };
    batches.inner.first().ok_or_else(|| missing.into())
}

fn losses<I: Batch>(program: &Program<I>, z: &Tree, batch: &I) -> Result<Tensor<1>> {
    Ok(program.value(&Program::<I>::pair(("x", &Tree::empty()), ("z", z))?, batch)?)
}

/// The first training batch with its losses, and all clean ones.
fn judge<I: Batch + Clone, O: Clone>(
    program: &Program<I>,
    z: &Tree,
    batches: &Batches<I, O>,
) -> Result<Batches<Judged<I>, O>> {
    let batch = first(batches)?;
    let losses = losses(program, z, batch)?;
    Ok(Batches { inner: vec![(batch.clone(), losses)], outer: batches.outer.clone() })
}
