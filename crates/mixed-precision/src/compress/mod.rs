//! Compressed gradients: Q on trees, as a value, as a transform, and with the constants of its theory.

mod flat;
mod identity;
mod keep;
mod natural;
mod qsgd;
mod quantizers;
mod rand_k;
mod sign_sgd;
mod top_k;

pub use flat::Flat;
pub use keep::Keep;
pub use natural::Natural;
pub use qsgd::{Qsgd, QsgdNorm};
pub use rand_k::RandK;
pub use sign_sgd::SignSgd;
pub use top_k::TopK;

use burn::backend::{DispatchTensor, TensorMetadata};
use burn::tensor::{DType, Device};
use core_tensor::host::{self, SliceMut};
use core_tensor::transform::{Context, GradientTransform, State, Update};
use core_tensor::{LeafName, Tree};
use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::memory::{CHUNK, PARALLEL, Wide};

/// A compressor Q of gradients: what is sent or stored instead of a tensor, as the values that the receiver has.
///
/// Theory knows two kinds, and a compressor may be of both or neither. For a tensor `x` of `d` elements:
///
/// | kind | promise | constant |
/// |---|---|---|
/// | unbiased | `E Q(x) = x`, `E‖Q(x) − x‖² ≤ ω·‖x‖²` | [`omega`](Self::omega) |
/// | contraction | `E‖Q(x) − x‖² ≤ (1 − δ)·‖x‖²`, `0 < δ ≤ 1` | [`delta`](Self::delta) |
///
/// Descent with an unbiased one needs up to `1 + ω` times the steps; a biased contraction may diverge and needs
/// [`ErrorFeedback`](crate::ErrorFeedback). The constants are bounds for real arithmetic; [`measure`](crate::measure) tells what a
/// given tensor has, and the tests `compress::laws::*` hold the two together.
///
/// Leaves are compressed one by one, each with its own noise; [`Flat`] takes the tree as one vector. Noise depends on seed, step and
/// position only. [`Compress`] makes a gradient transform of a compressor.
pub trait Compressor: Send {
    /// A short name for reports and errors.
    fn name(&self) -> &str;

    /// `Q` of every leaf, in the leaf's shape and dtype; `step` chooses the noise. A leaf that is not finite is no error.
    ///
    /// # Errors
    /// [`Error::UnsupportedDevice`] for a compressor that runs on the host only.
    fn compress(&self, step: u64, tree: Tree) -> Result<Tree>;

    /// `ω` for tensors of `d` elements; `None` if it is biased or no bound is known.
    fn omega(&self, d: usize) -> Option<f64>;

    /// `δ` for tensors of `d` elements; `None` if it is no contraction or none is known.
    fn delta(&self, d: usize) -> Option<f64>;

    /// Bits of the message for a tensor of `d` elements of `f32`, with codes of fixed length.
    fn bits(&self, d: usize) -> f64;

    /// `ω` for a tree: the largest of its leaves.
    fn omega_of(&self, tree: &Tree) -> Option<f64> {
        sizes(tree).try_fold(0.0, |worst, d| Some(f64::max(worst, self.omega(d)?)))
    }

    /// `δ` for a tree: the smallest of its leaves.
    fn delta_of(&self, tree: &Tree) -> Option<f64> {
        sizes(tree).try_fold(1.0, |worst, d| Some(f64::min(worst, self.delta(d)?)))
    }

    /// Bits of the message for a tree.
    fn bits_of(&self, tree: &Tree) -> f64 {
        sizes(tree).map(|d| self.bits(d)).sum()
    }
}

impl<C: Compressor + ?Sized> Compressor for Box<C> {
    fn name(&self) -> &str {
        (**self).name()
    }
    fn compress(&self, step: u64, tree: Tree) -> Result<Tree> {
        (**self).compress(step, tree)
    }
    fn omega(&self, d: usize) -> Option<f64> {
        (**self).omega(d)
    }
    fn delta(&self, d: usize) -> Option<f64> {
        (**self).delta(d)
    }
    fn bits(&self, d: usize) -> f64 {
        (**self).bits(d)
    }
    fn omega_of(&self, tree: &Tree) -> Option<f64> {
        (**self).omega_of(tree)
    }
    fn delta_of(&self, tree: &Tree) -> Option<f64> {
        (**self).delta_of(tree)
    }
    fn bits_of(&self, tree: &Tree) -> f64 {
        (**self).bits_of(tree)
    }
}

/// A compressor as a gradient transform: `g ← Q(g)`, with noise of its own in every step.
///
/// The state is the number of steps. Cost: that of the compressor.
///
/// ```
/// use burn::optim::SgdConfig;
/// use core_tensor::Chain;
/// use mixed_precision::{Compress, Qsgd};
///
/// let train = Chain::new().then(Compress::new(Qsgd::new(15, 7)?)).before(SgdConfig::new().init());
/// # let _ = train;
/// # Ok::<(), mixed_precision::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Compress<C> {
    compressor: C,
    steps: u64,
}

impl<C: Compressor> Compress<C> {
    /// From step 0.
    pub fn new(compressor: C) -> Self {
        Self { compressor, steps: 0 }
    }

    /// The compressor.
    pub fn compressor(&self) -> &C {
        &self.compressor
    }
}

impl<C: Compressor> GradientTransform for Compress<C> {
    fn name(&self) -> &str {
        self.compressor.name()
    }

    fn apply(&mut self, grads: Tree, _context: &Context<'_>) -> core_tensor::Result<Update> {
        let compressed = self.compressor.compress(self.steps, grads)?;
        self.steps += 1;
        Ok(Update::Apply(compressed))
    }

    fn state(&self) -> State {
        State::new().with("steps", self.steps)
    }

    fn load_state(&mut self, mut state: State) -> core_tensor::Result<()> {
        let steps = state.take("steps")?;
        state.finish()?;
        self.steps = steps;
        Ok(())
    }
}

fn sizes(tree: &Tree) -> impl Iterator<Item = usize> {
    tree.iter().map(|(_, leaf)| leaf.shape().num_elements()).filter(|d| *d > 0)
}

/// Every leaf by a function of its position and itself.
fn each(tree: Tree, mut f: impl FnMut(usize, DispatchTensor) -> Result<DispatchTensor>) -> Result<Tree> {
    let leaves = tree.into_leaves().enumerate().map(|(i, (name, leaf))| Ok((name, f(i, leaf)?)));
    let leaves: Vec<(LeafName, DispatchTensor)> = leaves.collect::<Result<_>>()?;
    Ok(Tree::from_leaves(leaves)?)
}

/// Changes a leaf in host memory.
fn on_host(leaf: DispatchTensor, what: &str, f: impl FnOnce(SliceMut<'_>)) -> Result<DispatchTensor> {
    match host::update(leaf, f) {
        Ok((leaf, ())) => Ok(leaf),
        Err(leaf) => Err(Error::device(&Device::new(leaf.device()), what)),
    }
}

/// Half-precision leaves as `f32`, for sums that go on over steps.
pub(crate) fn widened(tree: Tree) -> Result<Tree> {
    Ok(tree.map_flat(|_, x| match x.dtype() {
        DType::F16 | DType::BF16 => x.cast(DType::F32),
        _ => x,
    })?)
}

/// The dtype of every leaf.
pub(crate) fn dtypes(tree: &Tree) -> Vec<DType> {
    tree.iter().map(|(_, leaf)| leaf.dtype()).collect()
}

/// The tree in other dtypes, one a leaf.
pub(crate) fn narrowed(tree: Tree, dtypes: &[DType]) -> Result<Tree> {
    let mut dtypes = dtypes.iter();
    Ok(tree.map_flat(|_, x| match dtypes.next() {
        Some(dtype) if *dtype != x.dtype() => x.cast(*dtype),
        _ => x,
    })?)
}

/// `Σ f(x)`, in an order that does not depend on the number of threads.
fn sum<E: Wide>(x: &[E], f: impl Fn(f64) -> f64 + Sync) -> f64 {
    const LANES: usize = 8;
    let run = |x: &[E]| {
        let mut lanes = [0.0; LANES];
        let (blocks, rest) = x.as_chunks::<LANES>();
        for block in blocks {
            for (lane, x) in lanes.iter_mut().zip(block) {
                *lane += f(x.wide());
            }
        }
        lanes.iter().sum::<f64>() + rest.iter().map(|x| f(x.wide())).sum::<f64>()
    };
    let parts: Vec<f64> = match x.len() < PARALLEL {
        true => x.chunks(CHUNK).map(run).collect(),
        false => x.par_chunks(CHUNK).map(run).collect(),
    };
    parts.iter().sum()
}

/// `max |x|`, NaN if there is one.
fn max_abs<E: Wide>(x: &[E]) -> f64 {
    // Magnitudes are ordered as their bits are, NaN above all.
    let run = |x: &[E]| x.iter().map(|x| x.wide().abs().to_bits()).max().unwrap_or(0);
    f64::from_bits(match x.len() < PARALLEL {
        true => run(x),
        false => x.par_chunks(CHUNK).map(run).max().unwrap_or(0),
    })
}

/// `‖x‖₂`, also where squares leave the range of `f64`.
fn norm<E: Wide>(x: &[E]) -> f64 {
    let squares = sum(x, |x| x * x);
    if squares > 1e-270 && squares < f64::INFINITY {
        return squares.sqrt();
    }
    let largest = max_abs(x);
    match largest > 0.0 && largest < f64::INFINITY {
        true => largest * sum(x, |x| (x / largest).powi(2)).sqrt(),
        false => largest,
    }
}

#[cfg(test)]
mod laws;
