//! Exact Euclidean projections onto the allowed inputs: the ball `‖x − x₀‖ ≤ ε` and the box `low ≤ x ≤ high` together.
//!
//! For a convex norm the projection of `x₀ + d` has one multiplier. With `bᵢ ≥ 0` the room that the box leaves in the
//! direction of `dᵢ` and `aᵢ = |dᵢ|`:
//!
//! | norm | magnitude of the result | found by |
//! |---|---|---|
//! | `Linf` | `min(aᵢ, bᵢ, ε)` | one pass |
//! | `L2` | `min(s·aᵢ, bᵢ)`, with `s ≤ 1` so that `Σ min(s·aᵢ, bᵢ)² = ε²` | sorting the breakpoints `bᵢ/aᵢ` |
//! | `L1` | `min(max(aᵢ − λ, 0), bᵢ)`, with `λ ≥ 0` so that the sum is `ε` | sorting the breakpoints `aᵢ` and `aᵢ − bᵢ` |
//! | `L0` | `min(aᵢ, bᵢ)` for the `ε` elements whose change gains most, else 0 | sorting the gains `aᵢ² − (aᵢ − bᵢ)₊²` |
//!
//! J. Duchi, S. Shalev-Shwartz, Y. Singer, T. Chandra, "Efficient projections onto the l1-ball for learning in high
//! dimensions", ICML 2008; with the box: F. Croce, M. Hein, "Mind the box: l1-APGD for sparse adversarial attacks on image
//! classifiers", ICML 2021, arXiv:2103.01208, proposition 2.1.

use burn::tensor::{Tensor, TensorData};
use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::threat::{Norm, Threat};

impl Threat {
    /// The nearest allowed input of every example; rows of the first axis are examples.
    ///
    /// The multiplier is computed in `f64` and every element is rounded *toward* `x₀` when it goes back to the tensor's type,
    /// so that the result is inside the ball and the box exactly. What is inside already comes back bit for bit. An element that
    /// is `NaN` stays at `x₀`, an infinite one counts as the bound on its side.
    ///
    /// Cost: `O(n log n)` an example on all threads, and one read and one write of the tensor on the host (a host
    /// synchronisation each on other devices).
    ///
    /// # Errors
    /// [`Error::Shape`] if the shapes differ, [`Error::OutOfBounds`] if `x0` is not an input of the model.
    ///
    /// ```
    /// use adversarial::{Norm, Threat};
    /// use burn::tensor::{Device, Tensor};
    ///
    /// let device = Device::flex();
    /// let x0 = Tensor::<2>::from_data([[0.5, 0.9]], &device);
    /// let x = Tensor::<2>::from_data([[0.0, 1.5]], &device);
    /// let y = Threat::new(Norm::L1, 0.25)?.project(&x0, x)?;
    /// // Of 0.25, the second element may take no more than the box leaves it.
    /// let y: Vec<f64> = y.into_data().iter::<f64>().collect();
    /// assert!((y[0] - 0.35).abs() < 1e-6 && (y[1] - 1.0).abs() < 1e-6);
    /// # Ok::<(), adversarial::Error>(())
    /// ```
    pub fn project<const D: usize>(&self, x0: &Tensor<D>, x: Tensor<D>) -> Result<Tensor<D>> {
        if x.dims() != x0.dims() {
            let expected = format!("{:?}, that of the unperturbed inputs", x0.dims());
            return Err(Error::Shape { what: "x", actual: x.dims().to_vec(), expected });
        }
        let (device, dtype, shape) = (x.device(), x.dtype(), x.dims());
        let [origin, mut values] = [x0.to_data(), x.into_data()].map(|data| data.iter::<f64>().collect::<Vec<f64>>());
        let width = shape[1..].iter().product::<usize>();
        self.inside_box(&origin, width)?;
        if width > 0 {
            let rows = values.par_chunks_mut(width).zip(origin.par_chunks(width));
            match dtype {
                burn::tensor::DType::F64 => rows.for_each(|(x, x0)| self.project_row(x0, x, |v, _| v)),
                burn::tensor::DType::F32 => rows.for_each(|(x, x0)| self.project_row(x0, x, toward_f32)),
                _ => rows.for_each(|(x, x0)| self.project_row(x0, x, toward_half)),
            }
        }
        Ok(Tensor::from_data(TensorData::new(values, shape).convert_dtype(dtype), (&device, dtype)))
    }

    /// Refuses inputs outside of the box.
    pub(crate) fn inside_box(&self, x0: &[f64], width: usize) -> Result<()> {
        let (low, high) = (self.low(), self.high());
        match x0.iter().position(|x| !(*x >= low && *x <= high)) {
            None => Ok(()),
            Some(i) => Err(Error::OutOfBounds { example: i / width, element: i % width, value: x0[i], low, high }),
        }
    }

    /// Projects one example; `round(v, x0)` is `v` in the storage type, on the side of `x0`.
    pub(crate) fn project_row(&self, x0: &[f64], x: &mut [f64], round: impl Fn(f64, f64) -> f64) {
        let (low, high, epsilon) = (self.low(), self.high(), self.epsilon());
        for (x, x0) in x.iter_mut().zip(x0) {
            if x.is_nan() {
                *x = *x0;
            } else if x.is_infinite() {
                *x = x.clamp(low, high);
            }
        }
        let inside = x.iter().all(|x| *x >= low && *x <= high);
        if inside && self.norm().of(x.iter().zip(x0).map(|(x, x0)| x - x0)) <= epsilon {
            return;
        }
        let a: Vec<f64> = x.iter().zip(x0).map(|(x, x0)| (x - x0).abs()).collect();
        let b: Vec<f64> = x.iter().zip(x0).map(|(x, x0)| if x > x0 { high - x0 } else { x0 - low }).collect();
        let mut magnitude = match self.norm() {
            Norm::Linf => a.iter().zip(&b).map(|(a, b)| a.min(*b).min(epsilon)).collect(),
            Norm::L2 => l2(&a, &b, epsilon),
            Norm::L1 => l1(&a, &b, epsilon),
            Norm::L0 => l0(&a, &b, epsilon),
        };
        // What the multiplier's own rounding left over.
        let size = self.norm().of(magnitude.iter().copied());
        if size > epsilon && matches!(self.norm(), Norm::L1 | Norm::L2) {
            let factor = epsilon / size * (1.0 - (x.len() as f64 + 4.0) * f64::EPSILON);
            magnitude.iter_mut().for_each(|m| *m *= factor);
        }
        for (((x, x0), a), m) in x.iter_mut().zip(x0).zip(&a).zip(magnitude) {
            // An element that may stay where it is does so without rounding.
            if m == *a && *x >= low && *x <= high {
                continue;
            }
            let sign = if *x > *x0 { 1.0 } else { -1.0 };
            let target = (x0 + sign * m).clamp(low, high);
            let mut value = round(target, *x0);
            // The sum itself rounds.
            while (value - x0).abs() > m && value != *x0 {
                value = round(if value > *x0 { value.next_down() } else { value.next_up() }, *x0);
            }
            *x = value;
        }
    }
}

/// Solves `Σ min(s·aᵢ, bᵢ)² = ε²` for `s` in `[0, 1]`.
fn l2(a: &[f64], b: &[f64], epsilon: f64) -> Vec<f64> {
    let capped = |s: f64| a.iter().zip(b).map(move |(a, b)| (s * a).min(*b)).collect::<Vec<f64>>();
    if Norm::L2.of(capped(1.0)) <= epsilon {
        return capped(1.0);
    }
    if epsilon == 0.0 {
        return vec![0.0; a.len()];
    }
    // Lengths as shares of ε, so that squares are of moderate size.
    let mut order: Vec<(f64, f64, f64)> =
        a.iter().zip(b).filter(|(a, _)| **a > 0.0).map(|(a, b)| (b / a, a / epsilon, b / epsilon)).collect();
    order.sort_by(|x, y| x.0.total_cmp(&y.0));
    // Below the k-th breakpoint the first k elements are at their bounds.
    let mut free = vec![0.0; order.len() + 1];
    for (i, (_, a, _)) in order.iter().enumerate().rev() {
        free[i] = free[i + 1] + a * a;
    }
    let mut bound = 0.0;
    for (k, (breakpoint, _, b)) in order.iter().enumerate() {
        if bound + breakpoint * breakpoint * free[k] >= 1.0 {
            return capped(((1.0 - bound).max(0.0) / free[k]).sqrt());
        }
        bound += b * b;
    }
    capped(1.0)
}

/// Solves `Σ min(max(aᵢ − λ, 0), bᵢ) = ε` for `λ ≥ 0`.
fn l1(a: &[f64], b: &[f64], epsilon: f64) -> Vec<f64> {
    let at = |lambda: f64| a.iter().zip(b).map(move |(a, b)| (a - lambda).max(0.0).min(*b)).collect::<Vec<f64>>();
    if Norm::L1.of(at(0.0)) <= epsilon {
        return at(0.0);
    }
    // Going down from λ = max a, the sum starts at 0; its slope rises by one at every aᵢ and falls by one at every aᵢ − bᵢ.
    let mut events: Vec<(f64, f64)> = a.iter().zip(b).flat_map(|(a, b)| [(*a, 1.0), (a - b, -1.0)]).collect();
    events.sort_by(|x, y| y.0.total_cmp(&x.0));
    let (mut sum, mut slope, mut lambda) = (0.0, 0.0, events[0].0);
    for (place, change) in events {
        let next = sum + slope * (lambda - place);
        if next >= epsilon || place < 0.0 {
            break;
        }
        (sum, lambda) = (next, place);
        slope += change;
    }
    at((lambda - (epsilon - sum) / slope).max(0.0))
}

/// Keeps the `ε` elements whose change brings the result nearest.
fn l0(a: &[f64], b: &[f64], epsilon: f64) -> Vec<f64> {
    let kept: Vec<f64> = a.iter().zip(b).map(|(a, b)| a.min(*b)).collect();
    let gain = |i: usize| a[i] * a[i] - (a[i] - kept[i]) * (a[i] - kept[i]);
    let mut order: Vec<usize> = (0..a.len()).collect();
    order.sort_by(|i, j| gain(*j).total_cmp(&gain(*i)));
    let mut result = vec![0.0; a.len()];
    for i in order.into_iter().take(epsilon as usize) {
        result[i] = kept[i];
    }
    result
}

/// `v` as an `f32` on the side of `x0`.
pub(crate) fn toward_f32(v: f64, x0: f64) -> f64 {
    let nearest = v as f32;
    let value = match (f64::from(nearest) > v, f64::from(nearest) < v) {
        (true, _) if v >= x0 => nearest.next_down(),
        (_, true) if v < x0 => nearest.next_up(),
        _ => nearest,
    };
    f64::from(value)
}

/// `v` with eight significant bits, on the side of `x0`: a number of `bf16` and, in its normal range, of `f16`.
fn toward_half(v: f64, x0: f64) -> f64 {
    // Both bounds are numbers of the type, so that cutting the distance's bits cannot leave the box.
    let cut = |v: f64| f64::from_bits(v.to_bits() & !((1 << 45) - 1));
    match (v >= x0) == (v >= 0.0) {
        true => cut(v),
        false if cut(v) == v => v,
        false => f64::from_bits(cut(v).to_bits() + (1 << 45)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;
    use proptest::prelude::*;

    const NORMS: [Norm; 4] = [Norm::Linf, Norm::L2, Norm::L1, Norm::L0];

    fn row(threat: Threat, x0: &[f32], x: &[f32]) -> Vec<f64> {
        let device = Device::flex();
        let tensor = |x: &[f32]| Tensor::<2>::from_data(TensorData::new(x.to_vec(), [1, x.len()]), &device);
        threat.project(&tensor(x0), tensor(x)).unwrap().into_data().iter::<f64>().collect()
    }

    fn distance(x: &[f64], y: &[f64]) -> f64 {
        Norm::L2.of(x.iter().zip(y).map(|(x, y)| x - y))
    }

    /// An input in the box and a point anywhere near it.
    fn points() -> impl Strategy<Value = (Vec<f32>, Vec<f32>, f64)> {
        (1usize..7).prop_flat_map(|n| {
            let x0 = proptest::collection::vec(prop_oneof![0f32..=1.0, Just(0.0), Just(1.0)], n);
            (x0, proptest::collection::vec(-2f32..3.0, n), prop_oneof![0.0..2.0, Just(0.0), Just(1.0), Just(3.0)])
        })
    }

    fn threat(norm: Norm, epsilon: f64) -> Threat {
        Threat::new(norm, if norm == Norm::L0 { epsilon.round() } else { epsilon }).unwrap()
    }

    proptest! {
        #[test]
        fn inside_ball_and_box_exactly_and_idempotent((x0, x, epsilon) in points()) {
            for norm in NORMS {
                let threat = threat(norm, epsilon);
                let y = row(threat, &x0, &x);
                prop_assert!(y.iter().all(|y| (0.0..=1.0).contains(y)), "{norm:?} {y:?}");
                let size = norm.of(y.iter().zip(&x0).map(|(y, x0)| y - f64::from(*x0)));
                prop_assert!(size <= threat.epsilon(), "{norm:?} {size:e} of {epsilon:e}");
                let again: Vec<f32> = y.iter().map(|y| *y as f32).collect();
                prop_assert_eq!(&row(threat, &x0, &again), &y, "{:?}", norm);
            }
        }

        /// `⟨x − y, z − y⟩ ≤ 0` for every allowed `z` characterises the projection onto a convex set.
        #[test]
        fn the_variational_inequality_holds(
            (x0, x, epsilon) in points(), other in proptest::collection::vec(-1f32..2.0, 7),
        ) {
            for norm in [Norm::Linf, Norm::L2, Norm::L1] {
                let threat = threat(norm, epsilon);
                let y = row(threat, &x0, &x);
                let z = row(threat, &x0, &other[..x0.len()]);
                let product: f64 = (0..y.len()).map(|i| (f64::from(x[i]) - y[i]) * (z[i] - y[i])).sum();
                prop_assert!(product <= 3e-6, "{norm:?} {product:e}");
            }
        }

        #[test]
        fn sparse_projection_is_the_best_of_all_supports((x0, x, epsilon) in points()) {
            let k = epsilon.round() as u32;
            let y = row(threat(Norm::L0, epsilon), &x0, &x);
            let x: Vec<f64> = x.into_iter().map(f64::from).collect();
            let best = (0u32..1 << x.len()).filter(|set| set.count_ones() <= k).map(|set| {
                let z: Vec<f64> = (0..x.len())
                    .map(|i| if set >> i & 1 == 1 { x[i].clamp(0.0, 1.0) } else { f64::from(x0[i]) })
                    .collect();
                distance(&x, &z)
            });
            let best = best.fold(f64::INFINITY, f64::min);
            prop_assert!((distance(&x, &y) - best).abs() <= 1e-6 * (1.0 + best));
        }

        #[test]
        fn half_precision_stays_inside(x0 in 0u8..=16, x in -2f32..3.0, epsilon in 0.01f64..1.0) {
            let x0 = f64::from(x0) / 16.0;
            for norm in [Norm::Linf, Norm::L2, Norm::L1] {
                let mut y = [f64::from(x)];
                threat(norm, epsilon).project_row(&[x0], &mut y, toward_half);
                let (size, half) = ((y[0] - x0).abs(), burn::tensor::bf16::from_f64(y[0]));
                prop_assert!(size <= epsilon && (0.0..=1.0).contains(&y[0]));
                let moved = f64::from(x) != y[0];
                prop_assert!(!moved || half.to_f64() == y[0], "{} is no bf16", y[0]);
            }
        }
    }

    #[test]
    fn by_hand() {
        let close = |got: Vec<f64>, want: &[f64]| got.iter().zip(want).all(|(g, w)| (g - w).abs() < 1e-6);
        let wide = |norm, epsilon| threat(norm, epsilon).bounds(-100.0, 100.0).unwrap();
        assert!(close(row(wide(Norm::Linf, 0.5), &[0.0, 0.0], &[2.0, -0.25]), &[0.5, -0.25]));
        assert!(close(row(wide(Norm::L2, 1.0), &[0.0, 0.0], &[3.0, 4.0]), &[0.6, 0.8]));
        // Soft threshold 1 leaves 2 and 0.
        assert!(close(row(wide(Norm::L1, 2.0), &[0.0, 0.0], &[3.0, 1.0]), &[2.0, 0.0]));
        assert!(close(row(wide(Norm::L0, 1.0), &[0.0, 0.0], &[3.0, -4.0]), &[0.0, -4.0]));
        // The first element is at the box, the second takes what the ball leaves: √(1 − 0.36) = 0.8.
        let boxed = threat(Norm::L2, 1.0).bounds(-0.6, 5.0).unwrap();
        assert!(close(row(boxed, &[0.0, 0.0], &[-10.0, 10.0]), &[-0.6, 0.8]));
    }

    #[test]
    fn strange_numbers_become_allowed_inputs() {
        for norm in NORMS {
            let y = row(threat(norm, 1.0), &[0.5, 0.25, 0.75], &[f32::NAN, f32::INFINITY, f32::NEG_INFINITY]);
            assert_eq!(y[0], 0.5, "{norm:?}");
            assert!(y.iter().all(|y| (0.0..=1.0).contains(y)), "{norm:?} {y:?}");
            assert!(norm.of([y[0] - 0.5, y[1] - 0.25, y[2] - 0.75]) <= 1.0);
        }
    }

    #[test]
    fn misfits_are_errors() {
        let device = Device::flex();
        let threat = threat(Norm::L2, 1.0);
        let x0 = Tensor::<2>::zeros([2, 3], &device);
        let error = threat.project(&x0, Tensor::zeros([2, 4], &device)).unwrap_err();
        assert_eq!(error.to_string(), "x has shape [2, 4], expected [2, 3], that of the unperturbed inputs");
        let outside = Tensor::<2>::from_data([[0.0, 0.5], [0.5, 1.5]], &device);
        let error = threat.project(&outside, Tensor::zeros([2, 2], &device)).unwrap_err();
        assert_eq!(error.to_string(), "element 1 of example 1 is 1.5, outside of [0, 1]");
        assert_eq!(
            threat.project(&Tensor::<2>::zeros([0, 3], &device), Tensor::zeros([0, 3], &device)).unwrap().dims(),
            [0, 3]
        );
    }
}
