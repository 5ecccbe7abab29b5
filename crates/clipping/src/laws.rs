//! The laws that every norm rule keeps, as properties over trees of all shapes, scales and dtypes.

use burn::tensor::{FloatDType, Tensor};
use core_tensor::testing::{Trees, assert_close, assert_same_bits, property};
use core_tensor::transform::{Context, GradientTransform, Update};
use core_tensor::{LeafName, Tree};

use crate::{ClipByGlobalNorm, ClipByTensorNorm, NormaliseGradient, clip_by_global_norm, clip_by_value};

const CASES: u32 = 64;

fn clip(grads: &Tree, limit: f64) -> Tree {
    ClipByGlobalNorm::new(limit).unwrap().exact().measure(grads).unwrap().apply(grads.clone())
}

fn all_floats() -> Trees {
    Trees::new().exponents(-6..=6).dtypes([FloatDType::F16, FloatDType::BF16, FloatDType::F32, FloatDType::F64])
}

/// The rounding of the coarsest dtype.
const COARSE: f64 = 1.0 / 128.0;

#[test]
fn the_norm_is_within_the_limit() {
    property(CASES, (Trees::new().exponents(-25..=25).strategy(), -20..=20i32), |(grads, exponent)| {
        let limit = 10f64.powi(exponent);
        let norm = clip(&grads, limit).norm().value();
        assert!(norm <= limit * (1.0 + 1e-6) + 1e-44, "{norm:e} > {limit:e}");
        let (torch, report) = clip_by_global_norm(grads, limit).unwrap();
        assert!(torch.norm().value() <= limit * (1.0 + 1e-6) + 1e-44);
        assert_eq!(report.clipped(), report.norm.value() + 1e-6 > limit);
    });
}

#[test]
fn the_direction_is_kept() {
    property(CASES, Trees::new().exponents(-6..=6).strategy(), |grads| {
        let mut normalise = NormaliseGradient::smoothed(0.1).unwrap();
        let Ok(Update::Apply(smooth)) = normalise.apply(grads.clone(), &Context::new(0)) else { panic!("applied") };
        for out in [clip(&grads, 1e-3), smooth] {
            let (a, b) = (grads.norm().value(), out.norm().value());
            let cosine = out.dot(&grads).unwrap().value() / (a * b);
            assert!(a == 0.0 || (cosine - 1.0).abs() < 1e-6, "{cosine}");
        }
    });
}

#[test]
fn below_the_limit_every_bit_stays() {
    property(CASES, all_floats().strategy(), |grads| {
        let norm = grads.norm().value();
        assert_same_bits(&clip(&grads, norm * 1.001), &grads);
        assert_same_bits(&clip_by_global_norm(grads.clone(), norm + 1e-5).unwrap().0, &grads);
        assert_same_bits(&clip(&grads, f64::INFINITY), &grads);
        assert_same_bits(&clip_by_value(grads.clone(), grads.norm_inf().value()).unwrap(), &grads);
    });
}

#[test]
fn clipping_twice_is_clipping_once() {
    property(CASES, all_floats().strategy(), |grads| {
        let once = clip(&grads, 0.5);
        // Rounding may leave the first result a little above the limit.
        assert_close(&clip(&once, 0.5), &once, COARSE * 0.5);
        let value = clip_by_value(grads, 0.25).unwrap();
        assert_same_bits(&clip_by_value(value.clone(), 0.25).unwrap(), &value);
        let mut per_tensor = ClipByTensorNorm::new(0.5).unwrap();
        let mut apply = |tree: Tree| match per_tensor.apply(tree, &Context::new(0)) {
            Ok(Update::Apply(out)) => out,
            _ => panic!("applied"),
        };
        let once = apply(value);
        assert_close(&apply(once.clone()), &once, COARSE * 0.5);
    });
}

#[test]
fn leaves_may_be_split_and_permuted() {
    property(CASES, Trees::new().exponents(-20..=20).strategy(), |grads| {
        let limit = 0.5 * grads.norm().value();
        let whole = clip(&grads, limit);
        // In reverse.
        let mut leaves: Vec<_> = grads.clone().into_leaves().collect();
        leaves.reverse();
        let mut reversed: Vec<_> = clip(&Tree::from_leaves(leaves).unwrap(), limit).into_leaves().collect();
        reversed.reverse();
        let tolerance = 1e-6 * whole.norm_inf().value();
        assert_close(&Tree::from_leaves(reversed).unwrap(), &whole, tolerance);
        // All elements in two leaves.
        let flat = grads.flatten().unwrap();
        let n = flat.dims()[0];
        let cut = n / 3;
        let halves = Tree::empty()
            .push("a", flat.clone().slice_dim(0, 0..cut))
            .and_then(|tree| tree.push("b", flat.slice_dim(0, cut..n)))
            .unwrap();
        let halves = clip(&halves, limit);
        let joined = Tensor::cat(vec![halves.get::<1>("a").unwrap(), halves.get::<1>("b").unwrap()], 0);
        assert_close(&whole.unflatten(joined).unwrap(), &whole, tolerance);
    });
}

#[test]
fn powers_of_two_factor_out() {
    property(CASES, (Trees::new().exponents(-6..=6).strategy(), -12..=12i32), |(grads, k)| {
        let factor = 2f64.powi(k);
        let scaled = clip(&grads.clone().scale(factor), 0.7 * factor);
        assert_close(&scaled, &clip(&grads, 0.7).scale(factor), 1e-7 * factor);
    });
}

#[test]
fn the_norm_does_not_depend_on_how_half_precision_is_grouped() {
    let device = core_tensor::testing::host_devices().swap_remove(0);
    let x = Tensor::<1>::ones([4096], &device).mul_scalar(0.37).cast(FloatDType::BF16);
    let one = Tree::empty().push("x", x.clone()).unwrap();
    let leaves = (0..64).map(|i| {
        let part = x.clone().slice_dim(0, i * 64..(i + 1) * 64);
        (LeafName::new(format!("x{i}")), part.into_dispatch())
    });
    let many = Tree::from_leaves(leaves).unwrap();
    assert_eq!(one.norm().value(), many.norm().value());
}
