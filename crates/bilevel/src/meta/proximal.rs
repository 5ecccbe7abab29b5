//! The regularised inner problem of implicit MAML.

use burn::tensor::Tensor;
use core_tensor::{Batch, Tree};

use crate::error::{Result, positive};
use crate::problem::{Batches, Problem};

/// iMAML's problem: `g(θ, φ) = L_s(φ) + λ/2·‖φ − θ‖²` and `f = L_q(φ)`, with the start `θ` as `x` and the adapted point `φ` as `z`.
///
/// Its implicit hypergradient is `(I + ∇²L_s/λ)⁻¹∇L_q`, whatever path led to `φ`. `start` gives the structure of both.
///
/// A. Rajeswaran, C. Finn, S. Kakade, S. Levine, "Meta-learning with implicit gradients", 2019 (arXiv:1909.04630).
///
/// # Errors
/// A parameter error for a `lambda` that is not above zero and finite; those of [`Problem::record`].
pub fn proximal<I: Batch, O: Batch>(
    start: &Tree,
    batches: &Batches<I, O>,
    lambda: f64,
    support: impl Fn(&Tree, &I) -> Tensor<1> + Send + Sync + 'static,
    query: impl Fn(&Tree, &O) -> Tensor<1> + Send + Sync + 'static,
) -> Result<Problem<I, O>> {
    let lambda = positive("lambda", lambda)?;
    Problem::from_functions(
        start,
        start,
        batches,
        move |theta: &Tree, phi: &Tree, batch: &I| {
            let mut loss = support(phi, batch);
            let distance = phi.clone().sub(theta).expect("both have the structure of the start");
            let _ = distance.map_flat(|_, leaf| {
                loss = loss.clone() + leaf.clone().square().sum() * (0.5 * lambda);
                leaf
            });
            loss
        },
        move |_: &Tree, phi: &Tree, batch: &O| query(phi, batch),
    )
}
