//! Data hyper-cleaning: a weight for each training example, learned from a small clean set.
//!
//! Inner: `z*(x) = argmin_z` of a loss in which example `i` counts `σ(xᵢ)`; outer: the loss on the clean set. Examples that hurt it end with
//! weights near zero: those are the wrong labels. Record it with [`problem`], move it with any [`Loop`](crate::Loop) (the usual choice is
//! [`Alternating`](crate::single_loop::Alternating) with conjugate gradients; hypergradients are of the size of one example's share, so rates are
//! large), read it with [`weights`], [`suspects`] and [`judge`].
//!
//! Guarantee: on real digits half of whose labels are wrong it comes near training without them and finds them (test
//! `wrong_labels_of_digits_are_found`). Cost: that of the loop; the outer variable is one number an example.
//!
//! L. Franceschi, M. Donini, P. Frasconi, M. Pontil, "Forward and reverse gradient-based hyperparameter optimization", 2017
//! (arXiv:1703.01785), section 5.1.
//!
//! ```
//! use bilevel::data::cleaning;
//! use bilevel::single_loop::Alternating;
//! use bilevel::{Batches, ConjugateGradient, Implicit, Loop, LoopState, update::Sgd};
//! use burn::tensor::{Device, Int, Tensor};
//! use core_tensor::Tree;
//! # fn main() -> bilevel::Result<()> {
//! // The mean of numbers, one of which is wrong; clean numbers say about 1.
//! let device = Device::default();
//! let vector = |values: [f32; 4]| Tensor::<1>::from_data(values, &device);
//! let all = Tensor::<1, Int>::from_data([0, 1, 2, 3], &device);
//! let batches = Batches::new((vector([1.1, 0.9, 1.0, 9.0]), all), vector([1.0, 0.8, 1.2, 1.0]));
//! let (x, z) = (cleaning::logits(4, &device)?, Tree::empty().push("mean", Tensor::<1>::zeros([1], &device))?);
//! let squares = |z: &Tree, data: &Tensor<1>| (data.clone() - z.get::<1>("mean").unwrap()).square();
//! let problem = cleaning::problem(&x, &z, &batches,
//!     move |z: &Tree, data: &Tensor<1>, weights| (squares(z, data) * weights).mean(),
//!     move |z: &Tree, data: &Tensor<1>| squares(z, data).mean(),
//! )?;
//! let cleaner = Alternating::new(Sgd::new(0.5), 10, Implicit::new(ConjugateGradient::new(3)?), 1.0)?;
//! let mut state = LoopState::new(&x, &z);
//! for _ in 0..100 {
//!     state = cleaner.step(&problem, state, &batches)?;
//! }
//! assert_eq!(cleaning::suspects(&state.x, 0.25)?, [3]);
//! # Ok(()) }
//! ```

use burn::tensor::{Device, Int, Tensor};
use core_tensor::{Batch, Tree, Variable};

use crate::error::{Result, at_least_one};
use crate::parameterise::Domain;
use crate::problem::{Batches, Problem};

const LEAF: &str = "logit";

/// An inner batch: the examples, and their positions in the training set, which is how their weights are found.
pub type Positioned<B> = (B, Tensor<1, Int>);

/// The outer variable of so many examples: logits, all zero, which is a weight of ½ for each.
///
/// # Errors
/// A parameter error for 0 examples.
pub fn logits(examples: usize, device: &Device) -> Result<Tree> {
    at_least_one("examples", examples)?;
    Ok(Tree::empty().push(LEAF, Tensor::<1>::zeros([examples], device))?)
}

/// Records the problem. `training` is given the weights of the batch's examples, shape `[n]`, and gives the inner loss, with a regularisation that
/// makes its minimum strict; `validation` gives the loss on clean examples.
///
/// # Errors
/// Those of [`Problem::from_functions`].
pub fn problem<Z: Variable, B: Batch, O: Batch>(
    x: &Tree,
    z: &Z,
    batches: &Batches<Positioned<B>, O>,
    training: impl Fn(&Z, &B, Tensor<1>) -> Tensor<1> + Send + Sync + 'static,
    validation: impl Fn(&Z, &O) -> Tensor<1> + Send + Sync + 'static,
) -> Result<Problem<Positioned<B>, O>> {
    x.get::<1>(LEAF)?;
    Problem::from_functions(
        x,
        z,
        batches,
        move |x: &Tree, z: &Z, (batch, positions): &Positioned<B>| {
            let logits = x.get::<1>(LEAF).expect("checked above").select(0, positions.clone());
            training(z, batch, Domain::unit().map(logits))
        },
        move |_: &Tree, z: &Z, batch: &O| validation(z, batch),
    )
}

/// The weight of each example.
///
/// # Errors
/// A tree that [`logits`] did not make; logits that are not finite.
pub fn weights(x: &Tree) -> Result<Vec<f64>> {
    let logits: Vec<f64> = x.get::<1>(LEAF)?.into_data().iter::<f64>().collect();
    Domain::unit().to_value(&logits)
}

/// Positions of the examples whose weight is below a threshold.
///
/// # Errors
/// As [`weights`]; a threshold outside `(0, 1)`.
pub fn suspects(x: &Tree, threshold: f64) -> Result<Vec<usize>> {
    if !(threshold > 0.0 && threshold < 1.0) {
        return crate::error::refuse("threshold", threshold, "0 < threshold < 1");
    }
    Ok(weights(x)?.iter().enumerate().filter(|(_, weight)| **weight < threshold).map(|(at, _)| at).collect())
}

/// How well suspects fit the examples known to be wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Judgement {
    /// Share of the suspects that are wrong; 1 where there are none.
    pub precision: f64,
    /// Share of the wrong ones that are suspects; 1 where there are none.
    pub recall: f64,
    /// Harmonic mean of both.
    pub f1: f64,
}

/// Compares suspects with the truth, where it is known.
///
/// # Errors
/// A suspect outside the list.
pub fn judge(suspects: &[usize], wrong: &[bool]) -> Result<Judgement> {
    let mut both = 0.0;
    for at in suspects {
        match wrong.get(*at) {
            Some(true) => both += 1.0,
            Some(false) => {}
            None => return crate::error::refuse("suspect", *at as f64, "a position in the list"),
        }
    }
    let share = |of: usize| if of == 0 { 1.0 } else { both / of as f64 };
    let (precision, recall) = (share(suspects.len()), share(wrong.iter().filter(|wrong| **wrong).count()));
    let sum = precision + recall;
    Ok(Judgement { precision, recall, f1: if sum == 0.0 { 0.0 } else { 2.0 * precision * recall / sum } })
}
