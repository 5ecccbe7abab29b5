//! Clipping the gradient of every sample: what bounds the influence of one, and what DP-SGD adds noise to.
//!
//! `Σᵢ fᵢ·gᵢ` with a factor for each sample that brings its norm to a limit. The gradients `gᵢ` come from a
//! [`Program`](core_tensor::Program) of one loss a sample, whose [`PerSample`] gives norms and weighted sums without storing
//! them ([`clip_samples`]), or are there already, stacked ([`clip_sample_gradients`]).
//!
//! | rule | factor | one sample adds at most |
//! |---|---|---|
//! | [`Flat`] | `min(1, C/‖g‖)` | `C` |
//! | [`PerLayer`] | `min(1, C_k/‖g_k‖)` for each layer `k` | `‖(C_1, …, C_K)‖` |
//! | [`Automatic`] | `C/(‖g‖ + γ)` | `C` |
//! | [`Adaptive`] | as [`Flat`], `C` following a quantile | the present `C` |
//!
//! A sample whose gradient is not finite adds nothing. In `f32`, up to rounding of some `10⁻⁷`.
//!
//! ```
//! use burn::nn::LinearConfig;
//! use burn::tensor::{Device, Distribution, Tensor};
//! use clipping::per_sample::{Flat, clip_samples};
//! use core_tensor::{Program, Tree};
//!
//! let device = Device::flex();
//! let model = LinearConfig::new(3, 2).init(&device);
//! let x = Tensor::<2>::random([8, 3], Distribution::Default, &device);
//! let program = Program::record_first_order(&model, &x, |model, x: &Tensor<2>| {
//!     model.forward(x.clone()).square().sum_dim(1).squeeze_dim::<1>(1)
//! })?;
//! let samples = program.per_sample(&Tree::from_module(&model), &x)?;
//! let clipped = clip_samples(&samples, &Flat::new(0.1)?)?;
//! assert!(clipped.sum.norm().value() <= 8.0 * 0.1 * 1.000_001);
//! # Ok::<(), core_tensor::Error>(())
//! ```

mod adaptive;
mod automatic;
mod flat;
mod per_layer;

pub use adaptive::Adaptive;
pub use automatic::Automatic;
pub use flat::Flat;
pub use per_layer::PerLayer;

use burn::backend::ops::FloatTensorOps;
use burn::backend::{Dispatch, DispatchTensor, TensorMetadata};
use burn::tensor::{Shape, Tensor};
use core_tensor::transform::State;
use core_tensor::{Error, LeafName, PerSample, Random, Result, Tree};

use crate::elementwise::wide_tensor;

/// The norms of a batch's per-sample gradients, leaf by leaf.
#[derive(Clone, Copy, Debug)]
pub struct SampleNorms<'a> {
    /// The leaves.
    pub names: &'a [LeafName],
    /// `‖gᵢ‖²` in each leaf, shape `[samples]`.
    pub squares: &'a [Tensor<1>],
}

impl SampleNorms<'_> {
    /// `‖gᵢ‖` over the leaves that `select` holds for, shape `[samples]`; `None` where it holds for none.
    pub fn of(&self, mut select: impl FnMut(&LeafName) -> bool) -> Option<Tensor<1>> {
        let chosen = self.names.iter().zip(self.squares).filter(|(name, _)| select(name));
        let sum = chosen.map(|(_, squares)| squares.clone()).reduce(|sum, squares| {
            let squares = squares.cast(sum.dtype());
            sum + squares
        });
        // Rounding can leave the square of a zero gradient below zero.
        sum.map(|sum| sum.clamp_min(0.0).sqrt())
    }
}

/// A rule for the factors of samples.
pub trait SampleClip: Send {
    /// What messages call it.
    fn name(&self) -> &str;

    /// The factor of each sample in each leaf, shapes `[samples]`. Those of samples that are not finite are not used.
    ///
    /// # Errors
    /// A leaf that the rule has no limit for.
    fn factors(&self, norms: &SampleNorms<'_>) -> Result<Vec<Tensor<1>>>;

    /// The most that one sample adds to the sum, in norm.
    fn sensitivity(&self) -> f64;

    /// The noise multiplier left for the gradient where the whole step may spend what `noise_multiplier` does.
    ///
    /// # Errors
    /// [`Error::Parameter`] where the rule's own noise spends more already.
    fn gradient_noise(&self, noise_multiplier: f64) -> Result<f64> {
        Ok(noise_multiplier)
    }

    /// Which samples, of those whose flag in `kept` is 1, count as below the limit; `None` if the rule does not follow them.
    fn below(&self, norms: &SampleNorms<'_>, kept: &Tensor<1>) -> Option<f64> {
        let _ = (norms, kept);
        None
    }

    /// Takes note of a step: `below` of `samples` samples were below the limit, where `expected` were expected.
    fn observe(&mut self, below: f64, samples: f64, expected: f64, random: &mut Random) {
        let _ = (below, samples, expected, random);
    }

    /// What changes from step to step.
    fn state(&self) -> State {
        State::new()
    }

    /// Go on from a state.
    ///
    /// # Errors
    /// [`Error::State`] for the state of another rule.
    fn load_state(&mut self, state: State) -> Result<()> {
        state.finish()
    }
}

/// The sum of clipped gradients.
#[derive(Clone, Debug)]
pub struct ClippedSum {
    /// `Σᵢ fᵢ·gᵢ`
    pub sum: Tree,
    /// `‖gᵢ‖` before clipping, shape `[samples]`.
    pub norms: Tensor<1>,
    /// The factors by leaf, in the order of the sum's leaves.
    pub factors: Vec<Tensor<1>>,
}

/// Clips and adds up the gradients of samples that are not stored.
///
/// Cost: as [`Program::per_sample`](core_tensor::Program::per_sample). No host synchronisation on a GPU.
///
/// # Errors
/// As [`SampleClip::factors`] and [`PerSample::weighted_sums`].
pub fn clip_samples(samples: &PerSample, rule: &dyn SampleClip) -> Result<ClippedSum> {
    let norms = SampleNorms { names: samples.names(), squares: samples.squared_norms() };
    let factors = rule.factors(&norms)?;
    Ok(ClippedSum { sum: samples.weighted_sums(&factors)?, norms: samples.norms(), factors })
}

/// Clips and adds up gradients that are there, the first axis of each leaf counting samples.
///
/// Cost: two passes over them. On a GPU no host synchronisation.
///
/// # Errors
/// [`Error::Rank`] for a leaf of rank 0, [`Error::Length`] for leaves of different numbers of samples; as
/// [`SampleClip::factors`].
pub fn clip_sample_gradients(grads: &Tree, rule: &dyn SampleClip) -> Result<ClippedSum> {
    let samples = grads.iter().next().map_or(0, |(_, leaf)| leaf.shape()[0]);
    let mut rows = Vec::with_capacity(grads.len());
    for (_, leaf) in grads.iter() {
        let shape = leaf.shape();
        if shape[0] != samples {
            return Err(Error::Length { what: "the first axis of a leaf", expected: samples, actual: shape[0] });
        }
        let size = shape.num_elements() / samples.max(1);
        rows.push(flat_rows(leaf.clone(), samples, size));
    }
    let square = |x: &Tensor<2>| match x.shape().num_elements() {
        0 => Tensor::zeros([samples], (&x.device(), x.dtype())),
        _ => x.clone().square().sum_dim(1).squeeze_dim::<1>(1),
    };
    let squares: Vec<Tensor<1>> = rows.iter().map(square).collect();
    let norms = SampleNorms { names: grads.names(), squares: &squares };
    let factors = rule.factors(&norms)?;
    let Some(total) = norms.of(|_| true) else {
        return Ok(ClippedSum { sum: Tree::empty(), norms: Tensor::zeros([0], &Default::default()), factors });
    };
    let lost = total.clone().is_finite().bool_not();
    let leaves = grads.iter().zip(rows).zip(&factors).map(|(((name, leaf), rows), factors)| {
        let shape = Shape::from(leaf.shape().to_vec()[1..].to_vec());
        let shape = if shape.num_dims() == 0 { Shape::new([1]) } else { shape };
        let [samples, size] = rows.dims();
        if samples * size == 0 {
            return (name.clone(), Dispatch::float_zeros(shape, &leaf.device(), leaf.dtype().into()));
        }
        let gone = lost.clone().unsqueeze_dim::<2>(1).expand([samples, size]);
        let factors = factors.clone().cast(rows.dtype()).mask_fill(lost.clone(), 0.0).unsqueeze::<2>();
        let sum = factors.matmul(rows.mask_fill(gone, 0.0)).cast(leaf.dtype());
        (name.clone(), Dispatch::float_reshape(sum.into_dispatch(), shape))
    });
    let leaves: Vec<_> = leaves.collect();
    Ok(ClippedSum { sum: Tree::from_leaves(leaves)?, norms: total, factors })
}

/// A leaf as `[samples, size]`, in `f32` or wider.
fn flat_rows(leaf: DispatchTensor, samples: usize, size: usize) -> Tensor<2> {
    let flat = Dispatch::float_reshape(leaf, Shape::new([samples * size]));
    // Not by the tensor's own method, which takes a zero for a size to be kept.
    let flat = wide_tensor(Tensor::from_dispatch(flat)).into_dispatch();
    Tensor::from_dispatch(Dispatch::float_reshape(flat, Shape::new([samples, size])))
}

/// `min(1, limit/norm)`; 1 for a norm of zero unless the limit is zero too.
fn shrink(norms: Tensor<1>, limit: f64) -> Tensor<1> {
    match limit {
        f64::INFINITY => norms.ones_like(),
        limit => norms.clamp_min(f64::from(f32::MIN_POSITIVE)).recip().mul_scalar(limit).clamp_max(1.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, FloatDType};
    use core_tensor::testing::{Trees, property};
    use proptest::prelude::Strategy;

    fn values(tensor: &Tensor<1>) -> Vec<f64> {
        tensor.clone().into_data().iter::<f64>().collect()
    }

    fn stacked(rows: &[[f32; 3]]) -> Tree {
        let device = Device::flex();
        let (left, right): (Vec<[f32; 2]>, Vec<f32>) = rows.iter().map(|r| ([r[0], r[1]], r[2])).unzip();
        let n = rows.len();
        let left = Tensor::<1>::from_data(left.concat().as_slice(), &device).reshape([n, 2]);
        let right = Tensor::<1>::from_data(right.as_slice(), &device).reshape([n, 1]);
        Tree::empty().push("a.weight", left).and_then(|tree| tree.push("b.weight", right)).unwrap()
    }

    fn rules(limit: f64) -> Vec<Box<dyn SampleClip>> {
        vec![
            Box::new(Flat::new(limit).unwrap()),
            Box::new(PerLayer::new(limit).unwrap()),
            Box::new(Automatic::new(limit, 0.01).unwrap()),
            Box::new(Adaptive::new(0.5, 0.2, limit, 10.0).unwrap()),
        ]
    }

    #[test]
    fn one_sample_by_hand() {
        // ‖(3, 0, 4)‖ = 5.
        let grads = stacked(&[[3.0, 0.0, 4.0]]);
        let sum = |rule: &dyn SampleClip| {
            let clipped = clip_sample_gradients(&grads, rule).unwrap();
            assert_eq!(values(&clipped.norms), [5.0]);
            values(&clipped.sum.flatten().unwrap())
        };
        let close = |got: Vec<f64>, want: [f64; 3]| {
            got.iter().zip(want).for_each(|(got, want)| assert!((got - want).abs() < 1e-6, "{got} {want}"));
        };
        close(sum(&Flat::new(1.0).unwrap()), [0.6, 0.0, 0.8]);
        close(sum(&Flat::new(10.0).unwrap()), [3.0, 0.0, 4.0]);
        close(sum(&Flat::new(0.0).unwrap()), [0.0; 3]);
        close(sum(&Flat::new(f64::INFINITY).unwrap()), [3.0, 0.0, 4.0]);
        close(sum(&Automatic::new(2.0, 5.0).unwrap()), [0.6, 0.0, 0.8]);
        // Limits of 1/√2 a layer.
        let half = 0.5f64.sqrt();
        close(sum(&PerLayer::new(1.0).unwrap()), [half, 0.0, half]);
    }

    #[test]
    fn one_sample_moves_the_sum_by_the_sensitivity_whatever_it_holds() {
        let special = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, 1e30, 1e-30, 0.0];
        let element =
            (0..12usize, -4.0..4.0f32).prop_map(move |(kind, x): (usize, f32)| special.get(kind).copied().unwrap_or(x));
        property(256, (proptest::collection::vec(element, 12), 0.01..10.0f64), |(numbers, limit)| {
            let rows: Vec<[f32; 3]> = numbers.chunks(3).map(|r| [r[0], r[1], r[2]]).collect();
            for rule in rules(limit) {
                let with = clip_sample_gradients(&stacked(&rows), rule.as_ref()).unwrap().sum;
                let without = clip_sample_gradients(&stacked(&rows[1..]), rule.as_ref()).unwrap().sum;
                let moved = with.sub(&without).unwrap().norm().value();
                let bound = rule.sensitivity();
                assert!(moved <= bound * (1.0 + 1e-5) + 1e-5 * bound, "{}: {moved} > {bound}", rule.name());
            }
        });
    }

    #[test]
    fn element_types_mix_and_samples_have_to_agree() {
        let device = Device::flex();
        let x = |n: usize| Tensor::<2>::ones([n, 4], &device);
        let mixed = Tree::empty()
            .push("half", x(2).cast(FloatDType::BF16))
            .and_then(|tree| tree.push("double", x(2).cast(FloatDType::F64)))
            .unwrap();
        let clipped = clip_sample_gradients(&mixed, &Flat::new(f64::sqrt(2.0)).unwrap()).unwrap();
        assert_eq!(clipped.sum.get::<1>("half").unwrap().dtype(), burn::tensor::DType::BF16);
        assert!((clipped.sum.norm().value() - 8f64.sqrt()).abs() < 1e-2);
        let uneven = Tree::empty().push("a", x(2)).and_then(|tree| tree.push("b", x(3))).unwrap();
        let error = clip_sample_gradients(&uneven, &Flat::new(1.0).unwrap()).unwrap_err();
        assert!(matches!(error, Error::Length { expected: 2, actual: 3, .. }));
        let nothing = clip_sample_gradients(&Tree::empty(), &Flat::new(1.0).unwrap()).unwrap();
        assert!(nothing.sum.is_empty() && nothing.norms.dims() == [0]);
        let none = Tree::empty().push("a", x(0)).unwrap();
        let none = clip_sample_gradients(&none, &Flat::new(1.0).unwrap()).unwrap();
        assert_eq!((none.sum.norm().value(), none.sum.num_elements()), (0.0, 4));
    }

    #[test]
    fn below_the_limit_nothing_changes() {
        property(64, Trees::new().exponents(-3..=3).strategy(), |tree| {
            // Every leaf as one sample.
            let one = tree.clone().map(|_, leaf| {
                let n = leaf.shape().num_elements();
                Dispatch::float_reshape(leaf, Shape::new([1, n]))
            });
            let one = one.unwrap();
            let limit = tree.norm().value() * 1.01 + 1e-30;
            let clipped = clip_sample_gradients(&one, &Flat::new(limit).unwrap()).unwrap();
            let (got, want) = (values(&clipped.sum.flatten().unwrap()), values(&tree.flatten().unwrap()));
            assert_eq!(got, want);
        });
    }
}
