//! The laws of a vector space, of inner products and of norms, up to rounding.

use burn::backend::TensorMetadata;
use burn::tensor::DType;

use super::assert_close;
use crate::{Result, Tree};

/// Addition and scaling of trees of one structure: commutative, associative, distributive, with
/// neutral and inverse elements.
///
/// # Panics
/// Naming the element for which a law fails.
pub fn vector_space(x: &Tree, y: &Tree, z: &Tree, a: f64, b: f64) {
    let epsilon = epsilon(x);
    let size = x.norm_inf().value() + y.norm_inf().value() + z.norm_inf().value();
    let check = |left: Result<Tree>, right: Result<Tree>, size: f64| match (left, right) {
        (Ok(left), Ok(right)) => assert_close(&left, &right, 4.0 * epsilon * size),
        (Err(error), _) | (_, Err(error)) => panic!("{error}"),
    };
    let [x, y, z] = [x, y, z].map(|tree| move || tree.clone());
    check(x().add(&y()), y().add(&x()), 0.0);
    let (left, right) = (x().add(&y()), y().add(&z()));
    check(left.and_then(|s| s.add(&z())), right.and_then(|s| x().add(&s)), size);
    check(x().add(&x().zeros_like()), Ok(x()), 0.0);
    check(x().sub(&x()), Ok(x().zeros_like()), 0.0);
    check(Ok(x().neg()), x().zeros_like().sub(&x()), 0.0);
    check(Ok(x().scale(1.0)), Ok(x()), 0.0);
    let large = (1.0 + a.abs()) * (1.0 + b.abs()) * size;
    check(Ok(x().scale(b).scale(a)), Ok(x().scale(a * b)), large);
    check(Ok(x().scale(a + b)), x().scale(a).add(&x().scale(b)), large);
    let sum = x().add(&y()).map(|sum| sum.scale(a));
    check(sum, x().scale(a).add(&y().scale(a)), large);
    check(x().axpy(a, &y()), x().add(&y().scale(a)), large);
    check(x().lerp(&y(), 0.0), Ok(x()), 0.0);
    check(x().lerp(&y(), 1.0), Ok(y()), 0.0);
    check(x().mul(&x().ones_like()), Ok(x()), 0.0);
}

/// The dot product: symmetric, bilinear, positive, bounded by the norms.
///
/// # Panics
/// Naming the law that fails.
pub fn inner_product(x: &Tree, y: &Tree, a: f64) {
    let dot = |x: &Tree, y: &Tree| match x.dot(y) {
        Ok(dot) => dot.value(),
        Err(error) => panic!("{error}"),
    };
    let (nx, ny) = (x.norm().value(), y.norm().value());
    let bound = nx * ny * (1.0 + 1e-12);
    assert_eq!(dot(x, y), dot(y, x), "symmetric");
    assert!(dot(x, y).abs() <= bound, "Cauchy-Schwarz");
    near(dot(x, x), nx * nx, 1e-12 * nx * nx, "the square of the norm");
    let scaled = x.clone().scale(a);
    let error = 8.0 * epsilon(x) * a.abs() * bound + 1e-300;
    // Elements below the smallest number of their dtype lose digits.
    let lost = tiny(x) * (x.num_elements() as f64).sqrt() * ny;
    near(dot(&scaled, y), a * dot(x, y), error + lost, "homogeneous");
}

/// The p-norms: homogeneous, subadditive, in the right order.
///
/// # Panics
/// Naming the law that fails.
pub fn norms(x: &Tree, y: &Tree, a: f64) {
    let sum = match x.clone().add(y) {
        Ok(sum) => sum,
        Err(error) => panic!("{error}"),
    };
    let scaled = x.clone().scale(a);
    let mut last = f64::INFINITY;
    for p in [1.0, 1.5, 2.0, 3.0, f64::INFINITY] {
        let norm = |tree: &Tree| match tree.norm_p(p) {
            Ok(norm) => norm.value(),
            Err(error) => panic!("{error}"),
        };
        let (nx, ny) = (norm(x), norm(y));
        let n = x.num_elements() as f64;
        let rounding = 8.0 * epsilon(x) * (nx + ny) + tiny(x) * n;
        assert!(norm(&sum) <= nx + ny + rounding, "triangle inequality, p = {p}");
        let error = 8.0 * epsilon(x) * a.abs() * nx + tiny(x) * n;
        near(norm(&scaled), a.abs() * nx, error, "homogeneous");
        assert!(nx <= last * (1.0 + 1e-12), "decreasing in p, p = {p}");
        last = nx;
    }
}

fn near(left: f64, right: f64, tolerance: f64, law: &str) {
    let same = left == right || (left - right).abs() <= tolerance;
    assert!(same, "{law}: {left:e} and {right:e} differ by more than {tolerance:e}");
}

/// Twice the relative rounding error of the coarsest leaf.
fn epsilon(tree: &Tree) -> f64 {
    let leaves = tree.iter().map(|(_, leaf)| match leaf.dtype() {
        DType::F64 => f64::EPSILON,
        DType::F16 => 2f64.powi(-10),
        DType::BF16 => 2f64.powi(-7),
        _ => f64::from(f32::EPSILON),
    });
    leaves.fold(f64::EPSILON, f64::max)
}

/// Twice the absolute rounding error of the coarsest leaf near zero.
fn tiny(tree: &Tree) -> f64 {
    let leaves = tree.iter().map(|(_, leaf)| match leaf.dtype() {
        DType::F64 => f64::from_bits(1),
        DType::F16 => 2f64.powi(-24),
        _ => 2f64.powi(-133),
    });
    leaves.fold(f64::from_bits(1), f64::max)
}
