//! What every compressor has to keep: the constants of its theory, and the promises of a transform.

use burn::tensor::{DType, Device, Tensor, TensorData};
use core_tensor::testing::{Trees, assert_same_bits, host_devices, property};
use core_tensor::transform::Identity;
use core_tensor::{Random, Tree};

use super::*;
use crate::{FixedPoint, Format, Granularity, Mx, NvFp4, Quantizer, Rounding, Uniform, measure};

fn all() -> Vec<Box<dyn Compressor>> {
    let stochastic = Rounding::Stochastic(5);
    let qsgd = |levels| Qsgd::new(levels, 3).unwrap();
    let rand = |share| RandK::new(Keep::Share(share), 9).unwrap();
    let uniform = |bits| Uniform::symmetric(bits).unwrap();
    vec![
        Box::new(Identity),
        Box::new(qsgd(1)),
        Box::new(qsgd(4)),
        Box::new(qsgd(255)),
        Box::new(qsgd(1).norm(QsgdNorm::Max)),
        Box::new(qsgd(7).norm(QsgdNorm::Max).bucket(16).unwrap()),
        Box::new(Natural::new(4)),
        Box::new(SignSgd::scaled()),
        Box::new(SignSgd::unscaled()),
        Box::new(TopK::new(Keep::Share(0.1)).unwrap()),
        Box::new(TopK::new(Keep::Count(3)).unwrap()),
        Box::new(rand(0.2)),
        Box::new(rand(0.7)),
        Box::new(rand(0.2).unscaled()),
        Box::new(Flat::new(qsgd(4))),
        Box::new(Quantizer::new(Format::BF16).rounding(stochastic)),
        Box::new(Quantizer::new(Format::BF16)),
        Box::new(Quantizer::new(Format::BF16).rounding(Rounding::TowardZero)),
        Box::new(uniform(4).rounding(stochastic)),
        Box::new(uniform(8).rounding(stochastic).granularity(Granularity::Group(32))),
        Box::new(uniform(4)),
        Box::new(Uniform::affine(4).unwrap()),
        Box::new(Uniform::affine(4).unwrap().rounding(stochastic)),
        Box::new(Mx::new(Format::E2M1FN).unwrap().rounding(stochastic)),
        Box::new(NvFp4::new()),
        Box::new(FixedPoint::new(8, 6).unwrap()),
    ]
}

/// Tensors of the kinds that gradients are: alike, sparse, of many sizes, one element.
fn samples() -> Vec<Tree> {
    let mut random = Random::new(8);
    let mut normal = |d: usize| -> Vec<f64> {
        random.normal::<1>([d], 0.0, 1.0, &Device::flex()).into_data().iter::<f64>().collect()
    };
    let sparse = normal(100).into_iter().enumerate().map(|(i, x)| if i % 10 == 0 { x } else { 0.0 }).collect();
    let sizes = normal(64).into_iter().enumerate().map(|(i, x)| x * 10f64.powi(i as i32 % 7 - 3)).collect();
    let one = (0..20).map(|i| if i == 7 { -1.3 } else { 0.0 }).collect();
    [normal(128), vec![0.1; 50], sparse, sizes, one, vec![2.5]]
        .into_iter()
        .map(|x: Vec<f64>| {
            let d = x.len();
            Tree::empty().push("x", Tensor::<1>::from_data(TensorData::new(x, [d]), &Device::flex())).unwrap()
        })
        .collect()
}

#[test]
fn measured_errors_are_within_the_constants() {
    for q in all() {
        for x in samples() {
            let found = measure(&q, &x, 400).unwrap();
            // Four standard errors, and the rounding of f32.
            let slack = 4.0 * found.error_deviation + 1e-6;
            let (omega, delta, d) = (q.omega_of(&x), q.delta_of(&x), x.num_elements());
            if let Some(omega) = omega {
                assert!(found.error <= omega + slack, "{} {d}: {found:?}, ω = {omega}", q.name());
                assert!(found.is_unbiased(1e-4), "{} {d}: {found:?}", q.name());
            }
            if let Some(delta) = delta {
                assert!(delta > 0.0 && delta <= 1.0);
                assert!(found.error <= 1.0 - delta + slack, "{} {d}: {found:?}, δ = {delta}", q.name());
            }
        }
    }
}

#[test]
fn worst_cases_attain_the_constants() {
    let tree = |x: Vec<f64>| {
        let d = x.len();
        Tree::empty().push("x", Tensor::<1>::from_data(TensorData::new(x, [d]), (&Device::flex(), DType::F64))).unwrap()
    };
    let near = |q: &dyn Compressor, x: Tree, expected: f64| {
        let found = measure(q, &x, 4000).unwrap();
        let off = (found.error - expected).abs();
        assert!(off <= 4.0 * found.error_deviation + 1e-9, "{}: {found:?}, expected {expected}", q.name());
    };
    near(&Natural::new(1), tree(vec![4.0 / 3.0; 8]), 0.125);
    // Halfway between levels: ‖x‖ = 2·x, two levels.
    near(&Qsgd::new(1, 1).unwrap(), tree(vec![0.5; 4]), 1.0);
    near(&SignSgd::scaled(), tree(vec![1e-9, 3.0, 1e-9, -1e-9]), 0.75);
    near(&TopK::new(Keep::Count(1)).unwrap(), tree(vec![1.0; 4]), 0.75);
    // 2^n·(1 + f·t) with f = 1/(2 + t) of a gap of 4 bits.
    let t = 0.125;
    let worst = tree(vec![1.0 + t / (2.0 + t); 16]);
    let e4m3 = Quantizer::new(Format::E4M3FN).rounding(Rounding::Stochastic(1));
    near(&e4m3, worst, t * t / (4.0 * (1.0 + t)));
    near(&Quantizer::new(Format::E4M3FN), tree(vec![1.0 + t / 2.0]), (t / (2.0 + t)).powi(2));
}

#[test]
fn leaves_have_noise_of_their_own_and_steps_too() {
    let leaf = Random::new(1).normal::<1>([64], 0.0, 1.0, &Device::flex());
    let tree = Tree::empty().push("a", leaf.clone()).unwrap().push("b", leaf).unwrap();
    let values = |tree: &Tree, path| tree.get::<1>(path).unwrap().into_data();
    for q in all() {
        let (first, again, next) = (
            q.compress(0, tree.clone()).unwrap(),
            q.compress(0, tree.clone()).unwrap(),
            q.compress(1, tree.clone()).unwrap(),
        );
        assert_same_bits(&first, &again);
        let random = values(&first, "a") != values(&next, "a");
        assert_eq!(random, values(&first, "a") != values(&first, "b"), "{}", q.name());
        // Between draws an error differs; a rounding at random differs from one draw to the next.
        assert!(random || q.omega_of(&tree).is_none_or(|omega| omega == 0.0), "{}", q.name());
    }
}

#[test]
fn shapes_dtypes_and_devices_stay() {
    for device in host_devices() {
        let trees = Trees::new().exponents(-3..=3).device(device).several(1);
        property(10, trees, |trees| {
            for q in all() {
                for dtype in [DType::F64, DType::F16, DType::BF16] {
                    let device = trees[0].device().unwrap();
                    if !device.supports_dtype(dtype) {
                        continue;
                    }
                    let x = trees[0].clone().map_flat(|_, x| x.cast(dtype)).unwrap();
                    let y = q.compress(3, x.clone()).unwrap();
                    y.same_structure(&x).unwrap();
                    assert!(y.iter().all(|(_, leaf)| leaf.dtype() == dtype), "{}", q.name());
                    assert!(q.bits_of(&x) >= 0.0);
                }
            }
        });
    }
}

#[test]
fn zeros_stay_zeros() {
    let tree = Tree::empty().push("x", Tensor::<2>::zeros([3, 5], &Device::flex())).unwrap();
    for q in all() {
        assert_eq!(q.compress(0, tree.clone()).unwrap().norm().value(), 0.0, "{}", q.name());
        q.compress(0, Tree::empty()).unwrap();
    }
}

/// Descent on ½‖x‖² with the best step: the squared distance shrinks by exactly `1 − 1/(1 + ω)` a step where the variance is `ω‖x‖²`.
#[test]
fn the_rate_degrades_by_one_plus_omega() {
    for share in [1.0, 0.5, 0.25, 0.1] {
        let q = RandK::new(Keep::Share(share), 4).unwrap();
        let omega = q.omega(100).unwrap();
        let (mut x, steps) = (Random::new(2).normal::<1>([100], 0.0, 1.0, &Device::flex()).cast(DType::F64), 60);
        let mut shrink = vec![];
        for step in 0..steps {
            let tree = Tree::empty().push("x", x.clone()).unwrap();
            // The mean over draws of the square after a step from here.
            let (before, draws) = (tree.norm().value().powi(2), 40);
            let after: f64 = (0..draws)
                .map(|draw| {
                    let g = q.compress(1000 * step + draw, tree.clone()).unwrap();
                    tree.clone().axpy(-1.0 / (1.0 + omega), &g).unwrap().norm().value().powi(2)
                })
                .sum();
            shrink.push(after / draws as f64 / before);
            let g = q.compress(step, tree.clone()).unwrap();
            x = tree.axpy(-1.0 / (1.0 + omega), &g).unwrap().get::<1>("x").unwrap();
            if x.clone().abs().max().into_scalar::<f64>() < 1e-200 {
                break;
            }
        }
        let mean = shrink.iter().sum::<f64>() / shrink.len() as f64;
        assert!((mean - (1.0 - 1.0 / (1.0 + omega))).abs() < 0.01, "share {share}: {mean}, ω = {omega}");
    }
}

mod conformance {
    use super::*;
    core_tensor::transform_conformance!(qsgd, || Compress::new(Qsgd::new(4, 3).unwrap()));
    core_tensor::transform_conformance!(natural, || Compress::new(Natural::new(3)));
    core_tensor::transform_conformance!(sign, || Compress::new(SignSgd::scaled()));
    core_tensor::transform_conformance!(top_k, || Compress::new(TopK::new(Keep::Share(0.3)).unwrap()));
    core_tensor::transform_conformance!(rand_k, || Compress::new(RandK::new(Keep::Share(0.3), 1).unwrap()));
    core_tensor::transform_conformance!(flat, || Compress::new(Flat::new(TopK::new(Keep::Count(2)).unwrap())));
    core_tensor::transform_conformance!(uniform, || Compress::new(
        Uniform::symmetric(4).unwrap().rounding(Rounding::Stochastic(2))
    ));
    core_tensor::transform_conformance!(mx, || Compress::new(Mx::new(Format::E4M3FN).unwrap()));
    core_tensor::transform_conformance!(float, || Compress::new(
        Quantizer::new(Format::E5M2).rounding(Rounding::Stochastic(1))
    ));
}
