//! What a recurrence does to gradients on their way back through time.
//!
//! In `h_t = σ(W_h h_{t−1} + W_x x_t + b)` a loss at the end reaches step `i` through the product of the Jacobians
//! `W_hᵀ diag(σ′)`. Without `σ` that is `(W_hᵀ)^{t−i}`, which vanishes where every eigenvalue has `|λ| < 1` and explodes where
//! one has `|λ| > 1`. Three diagnostics, in the order of use:
//!
//! | question | answer |
//! |---|---|
//! | what should happen? | [`spectral_radius`], [`spectral_norm`] of the recurrent weight, then [`Verdict::of`] |
//! | what does happen? | [`gradient_norms`] of any recurrent function, step by step |
//! | do they agree? | [`growth_rate`] of those norms against `ln ρ` |
//!
//! ```
//! use burn::tensor::{Device, Tensor};
//! use clipping::recurrent::{Verdict, gradient_norms, growth_rate, spectral_radius};
//!
//! // A rotation by 90 degrees, stretched by 1.1: the eigenvalues are ±1.1i.
//! let device = Device::flex();
//! let weight = Tensor::<2>::from_data([[0.0, -1.1], [1.1, 0.0]], &device);
//! let radius = spectral_radius(&weight)?;
//! assert!((radius - 1.1).abs() < 1e-6);
//! assert_eq!(Verdict::of(radius, 1.0)?, Verdict::Exploding);
//!
//! let weight = weight.autodiff();
//! let start = Tensor::<2>::ones([1, 2], &device);
//! let norms = gradient_norms(start, 20, |h, _| h.matmul(weight.clone()), |h| h[20].clone().sum())?;
//! assert!((growth_rate(&norms)? - radius.ln()).abs() < 1e-4);
//! # Ok::<(), core_tensor::Error>(())
//! ```

use burn::tensor::Tensor;
use core_tensor::{Error, LeafName, Result, Tree};
use rustfft::num_complex::Complex64;

use crate::limit::{positive, read};

/// Whether gradients vanish or explode on their way back through time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// They shrink by a factor a step.
    Vanishing,
    /// They keep their size: the factor is 1 up to the rounding of `f32` weights, 10⁻⁶.
    Stable,
    /// They grow by a factor a step, with a bounded `σ′` at worst.
    Exploding,
}

impl Verdict {
    /// The verdict for a recurrence that multiplies by `factor` a step and an activation with `|σ′| <= gamma` (`γ`: 1 for
    /// tanh, ReLU and the identity, 1/4 for the logistic function): `factor·gamma` against 1.
    ///
    /// - Without an activation (`gamma = 1`) and with the spectral radius `ρ` as factor it is exact for long times: the
    ///   term `(W_hᵀ)^{t−i}` vanishes for `ρ < 1` and explodes for `ρ > 1`.
    /// - With one, `λ₁ < 1/γ` is sufficient for vanishing and `λ₁ > 1/γ` necessary for exploding, so that
    ///   [`Exploding`](Verdict::Exploding) says may, not must: units in saturation shrink what passes. R. Pascanu,
    ///   T. Mikolov, Y. Bengio, "On the difficulty of training recurrent neural networks", ICML 2013, section 2.1. Their
    ///   proof bounds each Jacobian by `γ‖W_h‖₂`; where the guarantee is needed take [`spectral_norm`], since a radius below
    ///   `1/γ` does not exclude growth where `W_h` is not normal.
    /// - For a measured rate take `growth_rate(…)?.exp()` and `gamma = 1`.
    ///
    /// # Errors
    /// [`Error::Parameter`] unless `factor >= 0` and `gamma > 0` are finite.
    pub fn of(factor: f64, gamma: f64) -> Result<Self> {
        let product = crate::limit::not_negative("factor", factor)? * positive("gamma", gamma)?;
        Ok(match product {
            x if (x - 1.0).abs() <= 1e-6 => Self::Stable,
            x if x < 1.0 => Self::Vanishing,
            _ => Self::Exploding,
        })
    }
}

/// The largest `|λ|` of a square matrix `[n, n]`, such as the weight of the recurrence (transposed or not).
///
/// All eigenvalues, complex ones included, by Householder reduction to Hessenberg form and the QR iteration with Wilkinson's
/// shifts, on the host in `f64`: about `10⁻¹⁵‖W‖` from exact for a well-conditioned eigenvalue, `(10⁻¹⁵)^{1/k}` for a defective
/// one of order `k`; exact where a permutation makes the matrix triangular. G. Golub, C. Van Loan, "Matrix computations",
/// sections 7.4 and 7.5.
///
/// Cost: about `30n³` operations (n = 512: seconds) and three copies of the matrix. One host synchronisation.
///
/// # Errors
/// [`Error::Length`] for a matrix that is not square, [`Error::Parameter`] for one without elements, with an element that
/// is not finite, or whose iteration does not converge (no such matrix is known).
pub fn spectral_radius(weight: &Tensor<2>) -> Result<f64> {
    let (n, matrix) = square(weight)?;
    radius(n, matrix)
}

/// The largest singular value `‖W‖₂` of a square matrix `[n, n]`: by how much one step can stretch a gradient at most.
///
/// As the spectral radius of `WᵀW`. Cost as for [`spectral_radius`], and a product.
///
/// # Errors
/// As for [`spectral_radius`].
pub fn spectral_norm(weight: &Tensor<2>) -> Result<f64> {
    let (n, matrix) = square(weight)?;
    let largest = matrix.iter().fold(0.0, |m: f64, x| m.max(x.abs()));
    if largest == 0.0 {
        return Ok(0.0);
    }
    let mut gram = vec![0.0; n * n];
    for row in matrix.chunks(n) {
        for (i, a) in row.iter().enumerate() {
            for (sum, b) in gram[i * n..][..n].iter_mut().zip(row) {
                *sum += (a / largest) * (b / largest);
            }
        }
    }
    Ok(radius(n, gram)?.sqrt() * largest)
}

/// `‖∂L/∂h_t‖` for every state `h_0 … h_T` of a recurrent function, `T = steps`.
///
/// `step(h, t)` makes `h_t` of `h_{t−1}` for `t` from 1, any Burn code whose parameters are on an autodiff device or
/// constants; `loss(states)` makes a one-element loss of all states `h_0 … h_T`. The norms are Euclidean over the whole state,
/// the batch included; a state that the loss does not depend on has 0. An LSTM's two states go into one tensor.
///
/// A zero that requires a gradient is added to each state, so values are those of the function alone. Cost: a forward and a
/// backward pass, and a gradient of the state kept for each step. One host synchronisation.
///
/// # Errors
/// [`Error::Loss`] for a loss that has more than one element or does not depend on the states.
pub fn gradient_norms<const D: usize>(
    initial: Tensor<D>,
    steps: usize,
    mut step: impl FnMut(Tensor<D>, usize) -> Tensor<D>,
    loss: impl FnOnce(Vec<Tensor<D>>) -> Tensor<1>,
) -> Result<Vec<f64>> {
    let mut leaves = Vec::with_capacity(steps + 1);
    let mut open = |h: Tensor<D>| {
        let h = h.autodiff();
        let zero = Tensor::<D>::zeros(h.shape(), (&h.device(), h.dtype())).require_grad();
        leaves.push(zero.clone());
        h + zero
    };
    let mut states = vec![open(initial)];
    for t in 1..=steps {
        let next = step(states[t - 1].clone(), t);
        states.push(open(next));
    }
    let loss = loss(states);
    let reason = match loss.shape().num_elements() {
        1 if loss.is_tracked() => None,
        1 => Some("it does not depend on the states".to_string()),
        _ => Some(format!("it has shape {:?} instead of one element", loss.dims())),
    };
    if let Some(reason) = reason {
        return Err(Error::Loss { reason });
    }
    let mut grads = loss.backward();
    let grads = leaves.into_iter().enumerate().map(|(t, leaf)| {
        let zero = leaf.clone().inner();
        (LeafName::new(t.to_string()), leaf.grad_remove(&mut grads).unwrap_or(zero).into_dispatch())
    });
    Ok(read(&Tree::from_leaves(grads)?.leaf_norms()))
}

/// The slope of `ln ‖∂L/∂h_t‖` over the distance `T − t` from the end, by least squares: how fast gradients grow (above 0) or
/// shrink (below 0) a step back in time. `norms` are those of [`gradient_norms`], or the first of them, where the
/// influence of the loss's own gradient has died away. For a linear recurrence it tends to `ln ρ`.
///
/// Norms that are zero or not finite are left out.
///
/// # Errors
/// [`Error::Length`] with fewer than two others.
pub fn growth_rate(norms: &[f64]) -> Result<f64> {
    let points: Vec<(f64, f64)> = (norms.iter().enumerate())
        .filter(|(_, norm)| **norm > 0.0 && norm.is_finite())
        .map(|(t, norm)| (-(t as f64), norm.ln()))
        .collect();
    if points.len() < 2 {
        return Err(Error::Length { what: "the list of positive norms", expected: 2, actual: points.len() });
    }
    let count = points.len() as f64;
    let (mean_x, mean_y) = points.iter().fold((0.0, 0.0), |(x, y), p| (x + p.0 / count, y + p.1 / count));
    let covariance: f64 = points.iter().map(|(x, y)| (x - mean_x) * (y - mean_y)).sum();
    let variance: f64 = points.iter().map(|(x, _)| (x - mean_x).powi(2)).sum();
    Ok(covariance / variance)
}

/// The size and the elements, row after row, of a finite square matrix.
fn square(weight: &Tensor<2>) -> Result<(usize, Vec<f64>)> {
    let [rows, columns] = weight.dims();
    if rows != columns {
        return Err(Error::Length { what: "a row of the recurrent weight", expected: rows, actual: columns });
    }
    if rows == 0 {
        return Err(Error::Parameter { parameter: "rows of the recurrent weight", value: 0.0, bound: "at least 1" });
    }
    let matrix: Vec<f64> = weight.clone().inner().into_data().iter::<f64>().collect();
    match matrix.iter().find(|x| !x.is_finite()) {
        None => Ok((rows, matrix)),
        Some(&value) => {
            Err(Error::Parameter { parameter: "an element of the recurrent weight", value, bound: "a finite number" })
        }
    }
}

fn radius(n: usize, mut matrix: Vec<f64>) -> Result<f64> {
    // Without the scale, squares of large or small elements would leave the range of f64.
    let scale = matrix.iter().fold(0.0, |m: f64, x| m.max(x.abs()));
    if scale == 0.0 {
        return Ok(0.0);
    }
    matrix.iter_mut().for_each(|x| *x /= scale);
    let (alone, rest) = isolated(n, &matrix);
    let element = |i: usize, j: usize| matrix[rest[i] * n + rest[j]];
    let mut core: Vec<f64> = (0..rest.len().pow(2)).map(|at| element(at / rest.len(), at % rest.len())).collect();
    to_hessenberg(rest.len(), &mut core);
    let others = eigenvalues(rest.len(), core.into_iter().map(Complex64::from).collect())?;
    let sizes = alone.iter().map(|x| x.abs()).chain(others.iter().map(|x| x.norm()));
    Ok(sizes.fold(0.0, f64::max) * scale)
}

/// The eigenvalues that stand on the diagonal because their row or column has nothing else, and the indices that remain.
/// A matrix that a permutation makes triangular is done with here, exactly.
fn isolated(n: usize, a: &[f64]) -> (Vec<f64>, Vec<usize>) {
    let (mut found, mut rest) = (Vec::new(), (0..n).collect::<Vec<_>>());
    let alone = |rest: &[usize], i: usize| {
        let others = || rest.iter().filter(|j| **j != i);
        others().all(|j| a[i * n + j] == 0.0) || others().all(|j| a[j * n + i] == 0.0)
    };
    while let Some(at) = rest.iter().position(|&i| alone(&rest, i)) {
        let i = rest.remove(at);
        found.push(a[i * n + i]);
    }
    (found, rest)
}

/// `QᵀAQ` with zeros below the first subdiagonal, by a reflection `I − 2vvᵀ` for each column.
fn to_hessenberg(n: usize, a: &mut [f64]) {
    for k in 0..n.saturating_sub(2) {
        let mut v: Vec<f64> = (k + 1..n).map(|i| a[i * n + k]).collect();
        if v[1..].iter().all(|x| *x == 0.0) {
            continue;
        }
        let length = |v: &[f64]| v.iter().map(|x| x * x).sum::<f64>().sqrt();
        v[0] += length(&v).copysign(v[0]);
        let norm = length(&v);
        if norm == 0.0 {
            continue; // squares below the range: zero as far as f64 can tell
        }
        v.iter_mut().for_each(|x| *x /= norm);
        let mut product = vec![0.0; n];
        for (row, v) in a.chunks(n).skip(k + 1).zip(&v) {
            product.iter_mut().zip(row).for_each(|(sum, x)| *sum += 2.0 * v * x);
        }
        for (row, v) in a.chunks_mut(n).skip(k + 1).zip(&v) {
            row.iter_mut().zip(&product).for_each(|(x, sum)| *x -= v * sum);
        }
        for row in a.chunks_mut(n) {
            let row = &mut row[k + 1..];
            let dot: f64 = row.iter().zip(&v).map(|(x, v)| x * v).sum();
            row.iter_mut().zip(&v).for_each(|(x, v)| *x -= 2.0 * dot * v);
        }
    }
}

/// Iterations for one eigenvalue; two or three is usual.
const ITERATIONS: usize = 300;

/// The eigenvalues of a Hessenberg matrix whose elements are about 1.
fn eigenvalues(n: usize, mut h: Vec<Complex64>) -> Result<Vec<Complex64>> {
    let at = |i: usize, j: usize| i * n + j;
    let norm = h.iter().map(|x| x.norm_sqr()).sum::<f64>().sqrt();
    let mut found = Vec::with_capacity(n);
    let (mut end, mut iteration) = (n, 0);
    while end > 0 {
        let last = end - 1;
        // The block that ends here begins where a subdiagonal element is nothing beside its neighbours.
        let negligible = |i: usize| {
            let around = h[at(i - 1, i - 1)].l1_norm() + h[at(i, i)].l1_norm();
            h[at(i, i - 1)].l1_norm() <= f64::EPSILON * if around == 0.0 { norm } else { around }
        };
        let first = (1..end).rev().find(|&i| negligible(i)).unwrap_or(0);
        if first == last {
            found.push(h[at(last, last)]);
            (end, iteration) = (last, 0);
            continue;
        }
        if iteration == ITERATIONS {
            let value = ITERATIONS as f64;
            return Err(Error::Parameter { parameter: "QR iterations", value, bound: "a matrix that needs fewer" });
        }
        iteration += 1;
        let shift = match iteration % 10 {
            // A cycle is left by a shift out of the ordinary.
            0 => h[at(last, last)] + 0.75 * h[at(last, last - 1)].norm(),
            _ => wilkinson(h[at(last - 1, last - 1)], h[at(last - 1, last)], h[at(last, last - 1)], h[at(last, last)]),
        };
        (first..end).for_each(|i| h[at(i, i)] -= shift);
        let mut rotations = Vec::with_capacity(last - first);
        for k in first..last {
            let (x, y) = (h[at(k, k)], h[at(k + 1, k)]);
            let r = x.norm().hypot(y.norm());
            let (c, s) = if r == 0.0 { (Complex64::ONE, Complex64::ZERO) } else { (x / r, y / r) };
            for j in k..end {
                let (x, y) = (h[at(k, j)], h[at(k + 1, j)]);
                h[at(k, j)] = c.conj() * x + s.conj() * y;
                h[at(k + 1, j)] = c * y - s * x;
            }
            rotations.push((c, s));
        }
        for (k, (c, s)) in (first..last).zip(rotations) {
            for i in first..=k + 1 {
                let (x, y) = (h[at(i, k)], h[at(i, k + 1)]);
                h[at(i, k)] = x * c + y * s;
                h[at(i, k + 1)] = y * c.conj() - x * s.conj();
            }
        }
        (first..end).for_each(|i| h[at(i, i)] += shift);
    }
    Ok(found)
}

/// The eigenvalue of `[[a, b], [c, d]]` that is nearest to `d`.
fn wilkinson(a: Complex64, b: Complex64, c: Complex64, d: Complex64) -> Complex64 {
    let (mean, half) = ((a + d) / 2.0, (a - d) / 2.0);
    let root = (half * half + b * c).sqrt();
    let (plus, minus) = (mean + root, mean - root);
    if (plus - d).norm() < (minus - d).norm() { plus } else { minus }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{DType, Device, TensorData};
    use core_tensor::Random;
    use core_tensor::testing::{host_devices, property};
    use proptest::prelude::*;

    fn matrix(n: usize, values: Vec<f64>) -> Tensor<2> {
        Tensor::from_data(TensorData::new(values, [n, n]), (&Device::flex(), DType::F64))
    }

    fn radius_of(n: usize, values: &[f64]) -> f64 {
        spectral_radius(&matrix(n, values.to_vec())).unwrap()
    }

    fn product(n: usize, a: &[f64], b: &[f64]) -> Vec<f64> {
        let element = |i: usize, j: usize| (0..n).map(|k| a[i * n + k] * b[k * n + j]).sum();
        (0..n * n).map(|at| element(at / n, at % n)).collect()
    }

    fn frobenius(a: &[f64]) -> f64 {
        a.iter().map(|x| x * x).sum::<f64>().sqrt()
    }

    /// `lim ‖A^k‖^{1/k}` for k = 2⁴⁰ (Gelfand), by squaring: another way to the same number.
    fn gelfand(n: usize, a: &[f64]) -> f64 {
        let (mut power, mut logarithm, mut weight) = (a.to_vec(), 0.0, 1.0);
        for _ in 0..40 {
            let norm = frobenius(&power);
            if norm == 0.0 {
                return 0.0;
            }
            logarithm += weight * norm.ln();
            power.iter_mut().for_each(|x| *x /= norm);
            power = product(n, &power, &power);
            weight /= 2.0;
        }
        logarithm.exp()
    }

    #[test]
    fn radii_worked_by_hand() {
        let (c, s) = (0.3f64.cos() * 0.8, 0.3f64.sin() * 0.8);
        let cases: [(usize, &[f64], f64); 8] = [
            (1, &[-3.0], 3.0),
            (2, &[c, -s, s, c], 0.8),
            (2, &[0.0, -4.0, 1.0, 0.0], 2.0), // ±2i
            (2, &[1.0, 1e6, 0.0, 0.5], 1.0),
            (3, &[0.9, 1.0, 0.0, 0.0, 0.9, 1.0, 0.0, 0.0, 0.9], 0.9), // a Jordan block
            (3, &[0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 5.0, 1.0, 0.0], 0.0), // nilpotent
            (3, &[0.0, 0.0, 8.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0], 2.0), // the cube roots of 8
            (4, &[0.0; 16], 0.0),
        ];
        for (n, values, expected) in cases {
            let found = radius_of(n, values);
            assert!((found - expected).abs() <= 1e-14 * expected.max(1.0), "{found} {expected} {values:?}");
        }
        assert_eq!(radius_of(2, &[1e300, 0.0, 0.0, -2e300]), 2e300);
        assert_eq!(radius_of(2, &[1e-300, 0.0, 0.0, -2e-300]), 2e-300);
        // A permutation with cycles of 5 and 3: all eigenvalues on the unit circle.
        let mut cycles = vec![0.0; 64];
        [(0, 1), (1, 2), (2, 3), (3, 4), (4, 0), (5, 6), (6, 7), (7, 5)]
            .iter()
            .for_each(|(i, j)| cycles[i * 8 + j] = 1.0);
        assert!((radius_of(8, &cycles) - 1.0).abs() < 1e-14);
    }

    #[test]
    fn a_large_random_matrix_agrees_with_its_powers() {
        let values: Vec<f64> =
            Random::new(3).normal([60, 60], 0.0, 0.13, &Device::flex()).into_data().iter::<f64>().collect();
        let (qr, powers) = (radius_of(60, &values), gelfand(60, &values));
        assert!((qr - powers).abs() < 1e-10 * qr, "{qr} {powers}");
    }

    #[test]
    fn norms_worked_by_hand() {
        let norm = |n, values: &[f64]| spectral_norm(&matrix(n, values.to_vec())).unwrap();
        assert!((norm(2, &[0.0, 3.0, 0.0, 0.0]) - 3.0).abs() < 1e-15, "the radius is 0");
        assert!((norm(2, &[1.0, 1.0, 0.0, 1.0]) - (1.0 + 5f64.sqrt()) / 2.0).abs() < 1e-15);
        assert_eq!(norm(2, &[0.0; 4]), 0.0);
        assert!((norm(2, &[3e200, 0.0, 0.0, 4e200]) / 4e200 - 1.0).abs() < 1e-15);
    }

    /// A size and the elements of two matrices of it.
    fn matrices() -> impl Strategy<Value = (usize, Vec<f64>, Vec<f64>)> {
        (1..=6usize).prop_flat_map(|n| {
            let elements = || proptest::collection::vec(-1.0..1.0f64, n * n);
            (Just(n), elements(), elements())
        })
    }

    #[test]
    fn the_radius_is_that_of_the_powers() {
        property(256, matrices(), |(n, a, _)| {
            let (qr, powers) = (radius_of(n, &a), gelfand(n, &a));
            assert!((qr - powers).abs() <= 1e-6 * frobenius(&a), "{qr} {powers}");
            let norm = spectral_norm(&matrix(n, a.clone())).unwrap();
            assert!(qr <= norm * (1.0 + 1e-9) + 1e-9 && norm <= frobenius(&a) * (1.0 + 1e-12));
        });
    }

    #[test]
    fn the_radius_follows_similarity_factors_and_powers() {
        property(256, (matrices(), -3.0..3.0f64, 2..=4i32), |((n, a, b), factor, k)| {
            let radius = radius_of(n, &a);
            let tolerance = 1e-6 * (1.0 + frobenius(&a));
            // SAS⁻¹ with S lower triangular of unit diagonal, row by row: S = Π (I + b e_i e_jᵀ).
            let mut similar = a.clone();
            for (i, j) in (0..n).flat_map(|i| (0..i).map(move |j| (i, j))) {
                let x = 0.5 * b[i * n + j];
                (0..n).for_each(|c| similar[i * n + c] += x * similar[j * n + c]);
                (0..n).for_each(|r| similar[r * n + j] -= x * similar[r * n + i]);
            }
            assert!((radius_of(n, &similar) - radius).abs() <= tolerance * (1.0 + frobenius(&similar)));
            let scaled: Vec<f64> = a.iter().map(|x| factor * x).collect();
            assert!((radius_of(n, &scaled) - factor.abs() * radius).abs() <= tolerance * (1.0 + factor.abs()));
            let power = (1..k).fold(a.clone(), |power, _| product(n, &power, &a));
            let bound = tolerance * (1.0 + frobenius(&a)).powi(k);
            assert!((radius_of(n, &power) - radius.powi(k)).abs() <= bound);
        });
    }

    #[test]
    fn the_gradient_of_a_linear_recurrence_is_the_power_of_its_weight() {
        // h_t = h_{t−1} W as Burn's linear layers have it: ∂L/∂h_t = g (Wᵀ)^{T−t}.
        const T: usize = 12;
        for device in host_devices() {
            let values: Vec<f64> =
                Random::new(5).draw(burn::tensor::Distribution::Normal(0.0, 0.6), [4, 4].into()).iter().collect();
            let weight = Tensor::<2>::from_data(TensorData::new(values.clone(), [4, 4]), (&device, DType::F64));
            let g = [1.0, -2.0, 0.5, 3.0];
            let direction =
                Tensor::<2>::from_data(TensorData::new(g.to_vec(), [1, 4]), (&device, DType::F64)).autodiff();
            let recurrent = weight.autodiff();
            let start = Tensor::<2>::zeros([1, 4], (&device, DType::F64));
            let norms = gradient_norms(
                start,
                T,
                |h, t| h.matmul(recurrent.clone()) + t as f64,
                |h| h[T].clone().mul(direction).sum(),
            );
            let norms = norms.unwrap();
            let mut row = g.to_vec();
            for t in (0..=T).rev() {
                assert!((norms[t] - frobenius(&row)).abs() <= 1e-12 * frobenius(&row), "{t}: {} {row:?}", norms[t]);
                row = (0..4).map(|i| (0..4).map(|j| row[j] * values[i * 4 + j]).sum()).collect();
            }
        }
    }

    #[test]
    fn a_random_recurrence_grows_at_the_logarithm_of_its_radius() {
        let device = Device::flex();
        let random: Tensor<2> = Random::new(11).normal([16, 16], 0.0, 0.25, &device).cast(DType::F64);
        let own = spectral_radius(&random).unwrap();
        for radius in [0.5, 1.0, 1.5] {
            let weight = random.clone().mul_scalar(radius / own);
            assert!((spectral_radius(&weight).unwrap() - radius).abs() < 1e-12);
            let weight = weight.autodiff();
            let start = Tensor::<2>::zeros([1, 16], (&device, DType::F64));
            let norms = gradient_norms(start, 400, |h, _| h.matmul(weight.clone()), |h| h[400].clone().sum()).unwrap();
            // The first half is the far one.
            let rate = growth_rate(&norms[..200]).unwrap();
            assert!((rate - f64::ln(radius)).abs() < 1e-3, "{rate} {radius}");
            if radius != 1.0 {
                assert_eq!(Verdict::of(rate.exp(), 1.0).unwrap(), Verdict::of(radius, 1.0).unwrap());
            }
        }
    }

    #[test]
    fn states_before_and_beside_the_loss() {
        let device = Device::flex();
        let start = || Tensor::<1>::from_data([0.5], &device);
        let norms = gradient_norms(start(), 3, |h, _| h.mul_scalar(2.0), |h| h[1].clone() * 3.0).unwrap();
        assert_eq!(norms, [6.0, 3.0, 0.0, 0.0]);
        let summed = gradient_norms(start(), 2, |h, _| h.mul_scalar(2.0), |h| Tensor::cat(h, 0).sum()).unwrap();
        assert_eq!(summed, [7.0, 3.0, 1.0]);
        let constant = |_: Vec<Tensor<1>>| Tensor::<1>::ones([1], &device);
        assert!(matches!(gradient_norms(start(), 1, |h, _| h, constant), Err(Error::Loss { .. })));
        let vector = |h: Vec<Tensor<1>>| Tensor::cat(h, 0);
        assert!(matches!(gradient_norms(start(), 1, |h, _| h, vector), Err(Error::Loss { .. })));
    }

    #[test]
    fn verdicts_compare_with_one_over_gamma() {
        let verdict = |factor, gamma| Verdict::of(factor, gamma).unwrap();
        assert_eq!(verdict(0.9, 1.0), Verdict::Vanishing);
        assert_eq!(verdict(1.0 - 1e-7, 1.0), Verdict::Stable);
        assert_eq!(verdict(1.1, 1.0), Verdict::Exploding);
        // The logistic function: below 4 gradients must vanish.
        assert_eq!((verdict(3.9, 0.25), verdict(4.1, 0.25)), (Verdict::Vanishing, Verdict::Exploding));
        for (factor, gamma) in [(-1.0, 1.0), (f64::NAN, 1.0), (1.0, 0.0), (1.0, f64::NAN), (f64::INFINITY, 1.0)] {
            assert!(Verdict::of(factor, gamma).is_err());
        }
    }

    #[test]
    fn rates_are_slopes() {
        let norms: Vec<f64> = (0..8).map(|t| 3.0 * 0.5f64.powi(7 - t)).collect();
        assert!((growth_rate(&norms).unwrap() - 0.5f64.ln()).abs() < 1e-12);
        assert!((growth_rate(&[0.0, f64::INFINITY, 4.0, f64::NAN, 1.0]).unwrap() - 2f64.ln()).abs() < 1e-12);
        assert!(growth_rate(&[0.0, 1.0]).is_err());
    }

    #[test]
    fn bad_matrices_are_named() {
        let device = Device::flex();
        let message = |weight: Tensor<2>| {
            let both = [spectral_radius(&weight), spectral_norm(&weight)];
            let [first, second] = both.map(|result| result.unwrap_err().to_string());
            assert_eq!(first, second);
            first
        };
        let wide = Tensor::<2>::ones([2, 3], &device);
        assert_eq!(message(wide), "a row of the recurrent weight has 3 elements, expected 2");
        let empty = Tensor::<2>::from_data(TensorData::new(Vec::<f32>::new(), [0, 0]), &device);
        assert_eq!(message(empty), "rows of the recurrent weight = 0 is out of range, expected at least 1");
        let nan = Tensor::<2>::from_data([[1.0, f32::NAN], [0.0, 1.0]], &device);
        assert_eq!(message(nan), "an element of the recurrent weight = NaN is out of range, expected a finite number");
    }
}
