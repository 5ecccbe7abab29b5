//! Whether the recorded gradient of an objective is the gradient of anything: stop-gradients, found by what they break.
//!
//! A product `(∂x∂z g)ᵀv` is read off the tangent of `∇x g` along `z`, as `∂z∂x g·v`. For a gradient the two are the same; for one that a
//! `detach` cuts short they are not, and an implicit or reverse hypergradient would be wrong without a sign of it. The recording does not show
//! a `detach`, as it is no operation, but its tangents pass through it. So the law itself is checked: with random `w` in the inner
//! and `u` in the outer variables, `⟨u, ∂z∂x g·w⟩ = ⟨w, ∂x∂z g·u⟩`, and the same for `∂²zz g`.
//!
//! What does no harm passes: a maximum held fixed within a log-sum-exp, a loss divided by its own detached size, a `detach` of what depends on neither
//! variable.

use burn::backend::TensorMetadata;
use burn::tensor::DType;
use core_tensor::{Batch, LeafName, Program, Random, Scalar, Tree};

use crate::error::Result;

/// Second derivatives that depend on their order.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Asymmetry {
    /// Which.
    pub block: &'static str,
    /// One way and the other.
    pub sides: (f64, f64),
}

/// What a point says.
enum Verdict {
    Symmetric,
    Asymmetric(Asymmetry),
    /// Something is not finite.
    Unknown,
}

/// Looks for an asymmetry in the products that tangents of the leaves not below `outer` give, at a point beside the one given; at the point itself only
/// where something beside it is not finite.
///
/// Each leaf counts with the same weight, down to `√ε` of the whole product; a difference below `ε^⅓` (0.5 % in `f32`) is taken for rounding.
/// Cost: a linearisation and three products.
pub(crate) fn asymmetry<B: Batch>(
    program: &Program<B>,
    point: &Tree,
    batch: &B,
    outer: &str,
) -> Result<Option<Asymmetry>> {
    let mut random = Random::new(0x57A7);
    // Much vanishes by chance at a start of zeros.
    let beside = beside(point, &mut random)?;
    for point in [&beside, point] {
        match verdict(program, point, batch, outer, &mut random)? {
            Verdict::Symmetric => return Ok(None),
            Verdict::Asymmetric(found) => return Ok(Some(found)),
            Verdict::Unknown => {}
        }
    }
    Ok(None)
}

/// Every number changed by about a tenth, which keeps signs; leaves of zeros get some of a tenth.
fn beside(point: &Tree, random: &mut Random) -> Result<Tree> {
    let noise = random.normal_like(point, 0.1);
    let device = point.device().unwrap_or_default();
    let is_zero = |norm: &Scalar| Scalar::from_value(f64::from(u8::from(norm.value() == 0.0)), &device);
    let zeros: Vec<Scalar> = point.leaf_norms().iter().map(is_zero).collect();
    let factors = point.ones_like().add(&noise.clone().clamp(-0.3, 0.3)?)?;
    Ok(point.clone().mul(&factors)?.add(&noise.scale_leaves(&zeros)?)?)
}

fn verdict<B: Batch>(
    program: &Program<B>,
    point: &Tree,
    batch: &B,
    outer: &str,
    random: &mut Random,
) -> Result<Verdict> {
    let linear = program.linearize(point, batch)?;
    let product = |v: &Tree| -> Result<Tree> { padded(point, &linear.hvp(v)?) };
    let is_outer = |name: &LeafName| name.path.starts_with(outer);
    let device = point.device().unwrap_or_default();
    // The leaves of one side, each by its factor.
    let side = |tree: Tree, wanted: bool, factors: &[f64]| -> Result<Tree> {
        let factors = point.names().iter().zip(factors);
        let factors = factors.map(|(name, factor)| if is_outer(name) == wanted { *factor } else { 0.0 });
        Ok(tree.scale_leaves(&factors.map(|factor| Scalar::from_value(factor, &device)).collect::<Vec<_>>())?)
    };

    let ones = vec![1.0; point.len()];
    let w = side(random.normal_like(point, 1.0), false, &ones)?;
    let image = product(&w)?;
    let epsilon = epsilon(point);
    let floor = epsilon.sqrt() * image.norm().value();
    if !floor.is_finite() {
        return Ok(Verdict::Unknown);
    }
    let weights: Vec<f64> = image.leaf_norms().iter().map(|norm| norm.value().max(floor)).collect();
    let weights: Vec<f64> = weights.into_iter().map(|norm| if norm > 0.0 { 1.0 / norm } else { 1.0 }).collect();
    for (block, wanted) in [("∂x∂z g", true), ("∂²zz g", false)] {
        let u = side(random.normal_like(point, 1.0), wanted, &weights)?;
        let sides = (u.dot(&image)?.value(), w.dot(&product(&u)?)?.value());
        if !(sides.0 - sides.1).is_finite() {
            return Ok(Verdict::Unknown);
        }
        let leaves = point.names().iter().filter(|name| is_outer(name) == wanted).count();
        let size = sides.0.abs().max(sides.1.abs()).max((leaves as f64).sqrt() * f64::from(u8::from(floor > 0.0)));
        if (sides.0 - sides.1).abs() > epsilon.cbrt() * size {
            return Ok(Verdict::Asymmetric(Asymmetry { block, sides }));
        }
    }
    Ok(Verdict::Symmetric)
}

/// The spacing of the point's coarsest numbers at one.
fn epsilon(point: &Tree) -> f64 {
    let of = |dtype| match dtype {
        DType::F64 => f64::EPSILON,
        DType::F16 => 2f64.powi(-10),
        DType::BF16 => 2f64.powi(-7),
        _ => f64::from(f32::EPSILON),
    };
    point.iter().map(|(_, leaf)| of(leaf.dtype())).fold(f64::EPSILON, f64::max)
}

/// A tree of present leaves in the structure of `like`, absent ones as zeros.
fn padded(like: &Tree, present: &Tree) -> Result<Tree> {
    let mut rest = present.iter().peekable();
    Ok(like.zeros_like().map(|name, zero| match rest.next_if(|(found, _)| found.path == name.path) {
        Some((_, leaf)) => leaf.clone(),
        None => zero,
    })?)
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Tensor, activation};
    use core_tensor::testing::{assert_close, property};

    use super::*;
    use crate::testing::*;
    use crate::update::{Momentum, Sgd};
    use crate::*;

    type Of = fn(Tensor<1>, Tensor<1>) -> Tensor<1>;

    fn problem(x: &[f64], z: &[f64], inner: Of) -> (Unit, Tree, Tree, Batches<(), ()>) {
        let (x, z, batches) = (leaf("x", x), leaf("z", z), Batches::new((), ()));
        let g = move |x: &Tree, z: &Tree, _: &()| inner(x.get("x").unwrap(), z.get("z").unwrap());
        let f = |_: &Tree, z: &Tree, _: &()| (z.get::<1>("z").unwrap() - 0.3).square().sum();
        (Problem::from_functions(&x, &z, &batches, g, f).unwrap(), x, z, batches)
    }

    /// `½(z − target)²` with the target held fixed.
    fn target(x: Tensor<1>, z: Tensor<1>) -> Tensor<1> {
        let target = (z.clone() * x.clone()).tanh().detach();
        (z.clone() - target).square().sum() * 0.5 + (z.square() * x.square()).sum() * 0.1
    }

    #[test]
    fn a_target_held_fixed_is_found_and_forward_is_exact() {
        let (problem, x, z, batches) = problem(&[0.8, -0.5], &[0.6, -0.9], target);
        assert!(problem.has_stop_gradient());
        let named = |error: Error| {
            assert!(matches!(error, Error::StopGradient { one, other, .. } if one != other), "{error}");
            assert!(error.to_string().contains("detach") && error.to_string().contains("Forward"), "{error}");
        };
        let implicit = Implicit::new(ConjugateGradient::new(5).unwrap());
        named(implicit.hypergradient(&problem, &x, &z, &batches).unwrap_err());
        let reverse = Unroll::new(Sgd::new(0.3), 4).unwrap();
        named(reverse.hypergradient(&problem, &x, &z, &batches).unwrap_err());

        let forward = Forward::new(Momentum::new(0.3, 0.5), 4).unwrap();
        let found = diagnose(&forward, &problem, (&x, &z), &batches, (3, 1e-5, 1)).unwrap();
        assert!(found.error < 1e-8 && found.slopes.iter().any(|(slope, _)| slope.abs() > 1e-2), "{:e}", found.error);

        // Allowed, and then not the derivative of the run.
        let problem = problem.allow_stop_gradients();
        let found = diagnose(&reverse, &problem, (&x, &z), &batches, (3, 1e-5, 1)).unwrap();
        assert!(found.error > 0.05, "{:e}", found.error);
    }

    #[test]
    fn each_block_is_named() {
        let block = |inner: Of| problem(&[0.8], &[0.6], inner).0.asymmetry().map(|found| found.block);
        // A force along z that is not a gradient of x too.
        assert_eq!(block(|x, z| (z.clone() - x.clone()).square() + z * x.powi_scalar(3).detach()), Some("∂x∂z g"));
        // One that turns: (z₁, z₂) pushed by (z₂, 0).
        let turning: Of =
            |x, z| (z.clone() - x).square().sum() + z.clone().slice_dim(0, 0..1) * z.slice_dim(0, 1..2).detach();
        let found = problem(&[0.8, 0.1], &[0.6, 0.2], turning).0.asymmetry().unwrap();
        assert_eq!(found.block, "∂²zz g");
        // A start at which everything that is cut vanishes.
        let from_zero: Of = |x, z| z.clone().square().sum() + (z.clone().square().detach() * z * x).sum();
        assert!(problem(&[0.0, 0.0], &[0.0, 0.0], from_zero).0.has_stop_gradient());
        // Beside the point a logarithm may not be defined.
        let at_the_edge: Of =
            |x, z| (x.clone() - 1.0).abs().log().exp() * z.clone().square() + z.clone().detach() * x * z;
        assert!(problem(&[0.5], &[0.6], at_the_edge).0.has_stop_gradient());
    }

    #[test]
    fn what_does_no_harm_passes() {
        // A maximum that is taken off and added again.
        let shifted: Of = |x, z| {
            let a = z.clone() * x.clone();
            let top = a.clone().max().detach();
            (a - top.clone()).exp().sum().log() + top + z.square().sum()
        };
        let plain: Of = |x, z| (z.clone() * x).exp().sum().log() + z.square().sum();
        // Divided by its own size: the gradient of its logarithm.
        let relative: Of = |x, z| {
            let loss = (z - x).square().sum() + 0.1;
            loss.clone() / loss.detach()
        };
        let logarithm: Of = |x, z| ((z - x).square().sum() + 0.1).log();
        for (with, without) in [(shifted, plain), (relative, logarithm)] {
            let of = |inner: Of| {
                let (problem, x, z, batches) = problem(&[0.8, -0.5], &[0.6, -0.4], inner);
                assert!(!problem.has_stop_gradient());
                let reverse = Unroll::new(Sgd::new(0.05), 3).unwrap();
                reverse.hypergradient(&problem, &x, &z, &batches).unwrap().gradient
            };
            assert_close(&of(with), &of(without), 1e-12);
        }
        // Neither variable behind it.
        assert!(
            !problem(&[0.8], &[0.6], |x, z| (z - x.clone().ones_like().detach() * x).square()).0.has_stop_gradient()
        );
    }

    /// Softmax regression with a hidden layer of rectifiers on real digits, in f32, at many scales of the start.
    #[test]
    fn digits_in_f32_are_told_apart() {
        let digits = Digits::load();
        let batches = Batches::new(digits.examples(0..150), digits.examples(150..200));
        property(6, (0u64..1000, -2.0f64..0.5), |(seed, scale)| {
            let mut random = Random::new(seed);
            let mut draw = |shape, size: f64| random.normal::<2>(shape, 0.0, size, &device());
            let size = 10f64.powf(scale);
            let z = Tree::empty()
                .push("w", draw([64, 12], size / 8.0))
                .and_then(|z| z.push("b", draw([1, 12], 0.0)))
                .and_then(|z| z.push("v", draw([12, 10], size / 3.0)))
                .unwrap();
            let x = Tree::empty()
                .push("decay", draw([1, 3], 1.0) - 6.0)
                .and_then(|x| x.push("weight", draw([150, 1], 1.0)));
            let x = x.unwrap();
            for cut in [false, true] {
                let logits = move |z: &Tree, pixels: &Tensor<2>| {
                    let h = activation::relu(pixels.clone().matmul(z.get("w").unwrap()) + z.get("b").unwrap());
                    let mean = h.clone().mean_dim(0);
                    let h = h - if cut { mean.detach() } else { mean };
                    h.matmul(z.get("v").unwrap())
                };
                let problem = Problem::from_functions(
                    &x,
                    &z,
                    &batches,
                    move |x: &Tree, z: &Tree, (pixels, hot): &Examples| {
                        let weight = activation::sigmoid(x.get::<2>("weight").unwrap());
                        let decay = x.get::<2>("decay").unwrap().exp();
                        let squares = ["w", "b", "v"].map(|leaf| z.get::<2>(leaf).unwrap().square().sum());
                        (cross_entropies(logits(z, pixels), hot) * weight).mean()
                            + (Tensor::cat(squares.to_vec(), 0).unsqueeze_dim::<2>(0) * decay).sum()
                    },
                    move |_: &Tree, z: &Tree, (pixels, hot): &Examples| cross_entropies(logits(z, pixels), hot).mean(),
                );
                assert_eq!(problem.unwrap().has_stop_gradient(), cut, "{seed} {scale}");
            }
        });
    }

    #[test]
    fn first_order_problems_are_not_looked_at() {
        let (x, z, batches) = (leaf("x", &[0.5]), leaf("z", &[0.6]), Batches::new((), ()));
        let g = |x: &Tree, z: &Tree, _: &()| target(x.get("x").unwrap(), z.get("z").unwrap());
        let f = |_: &Tree, z: &Tree, _: &()| z.get::<1>("z").unwrap().square();
        let problem = Problem::from_functions_first_order(&x, &z, &batches, g, f).unwrap();
        assert!(!problem.has_stop_gradient());
    }
}
