//! The hypervolume indicator: how much of the objective space a set of points dominates.

use core_tensor::Random;

use super::check_points;
use crate::model::{ModelError, Result};

/// The volume that `points` dominate below `reference`, exactly, for one to three objectives; smaller objectives are better.
///
/// A larger volume is a better set: it grows with every point that is dominated by no other, and no set can have a larger one than
/// the Pareto front (E. Zitzler and L. Thiele, "Multiobjective Evolutionary Algorithms: A Comparative Case Study and the Strength
/// Pareto Approach", 1999). Points that are not below the reference in every objective add nothing. Values depend on the reference:
/// compare only those with the same one.
///
/// Cost: `n log n` for two objectives, and at worst `n²` for three, by a sweep along the third (C. Fonseca, L. Paquete,
/// M. López-Ibáñez, "An Improved Dimension-Sweep Algorithm for the Hypervolume Indicator", 2006).
///
/// ```
/// use multitask::pareto::hypervolume;
///
/// // Two rectangles, 2 × 1 and 1 × 2, that share a unit square.
/// assert_eq!(hypervolume(&[vec![0.0, 1.0], vec![1.0, 0.0]], &[2.0, 2.0])?, 3.0);
/// # Ok::<(), multitask::ModelError>(())
/// ```
///
/// # Errors
/// [`ModelError::PerTask`] for a point of another number of objectives than the reference; [`ModelError::Parameter`] for a
/// number that is not finite, or for no or more than three objectives ([`hypervolume_monte_carlo`] takes any number).
pub fn hypervolume(points: &[Vec<f64>], reference: &[f64]) -> Result<f64> {
    check_points(points, reference.len())?;
    check_points(&[reference.to_vec()], reference.len())?;
    let inside = points.iter().filter(|point| point.iter().zip(reference).all(|(x, r)| x < r));
    let mut inside: Vec<&[f64]> = inside.map(Vec::as_slice).collect();
    match *reference {
        [r] => Ok(inside.iter().map(|point| r - point[0]).fold(0.0, f64::max)),
        [r, s] => {
            inside.sort_by(|a, b| a[0].total_cmp(&b[0]));
            let (mut area, mut floor) = (0.0, s);
            for point in inside {
                if point[1] < floor {
                    area += (r - point[0]) * (floor - point[1]);
                    floor = point[1];
                }
            }
            Ok(area)
        }
        [r, s, t] => {
            inside.sort_by(|a, b| a[2].total_cmp(&b[2]));
            let mut stairs = Stairs { corner: [r, s], steps: Vec::new() };
            let mut volume = 0.0;
            for (i, point) in inside.iter().enumerate() {
                stairs.add([point[0], point[1]]);
                let next = inside.get(i + 1).map_or(t, |next| next[2]);
                if next > point[2] {
                    volume += stairs.area() * (next - point[2]);
                }
            }
            Ok(volume)
        }
        _ => Err(ModelError::parameter("objectives", reference.len() as f64, "1 to 3 for an exact hypervolume")),
    }
}

/// The points of a plane that no other dominates: the first coordinate rises, the second falls.
struct Stairs {
    corner: [f64; 2],
    steps: Vec<[f64; 2]>,
}

impl Stairs {
    fn add(&mut self, point: [f64; 2]) {
        let place = self.steps.partition_point(|step| step[0] < point[0]);
        let covered = |step: &[f64; 2]| step[0] <= point[0] && step[1] <= point[1];
        if self.steps[..place].last().is_some_and(covered) || self.steps.get(place).is_some_and(covered) {
            return;
        }
        let end = place + self.steps[place..].partition_point(|step| step[1] >= point[1]);
        self.steps.splice(place..end, [point]);
    }

    fn area(&self) -> f64 {
        let ceiling = std::iter::once(self.corner[1]).chain(self.steps.iter().map(|step| step[1]));
        self.steps.iter().zip(ceiling).map(|(step, top)| (self.corner[0] - step[0]) * (top - step[1])).sum()
    }
}

/// An estimate with its standard error.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// The estimate.
    pub value: f64,
    /// The square root of its estimated variance.
    pub standard_error: f64,
}

/// An unbiased estimate of the same volume for any number of objectives.
///
/// `samples` points are drawn in the box between the best value of each objective and the reference; the share that is dominated
/// by some point gives the volume and its binomial standard error, which falls with the square root of `samples` and does not
/// depend on the number of objectives. With no or all samples dominated the standard error reads 0; at `samples` of a few
/// thousand that means a share within a thousandth of 0 or 1. Cost: `samples · n` comparisons.
///
/// # Errors
/// As [`hypervolume`], and [`ModelError::Parameter`] for 0 samples.
pub fn hypervolume_monte_carlo(points: &[Vec<f64>], reference: &[f64], samples: usize, seed: u64) -> Result<Estimate> {
    check_points(points, reference.len())?;
    check_points(&[reference.to_vec()], reference.len())?;
    if samples == 0 {
        return Err(ModelError::parameter("samples", 0.0, "at least 1"));
    }
    if reference.is_empty() {
        return Err(ModelError::parameter("objectives", 0.0, "at least 1"));
    }
    let inside: Vec<&Vec<f64>> =
        points.iter().filter(|point| point.iter().zip(reference).all(|(x, r)| x < r)).collect();
    if inside.is_empty() {
        return Ok(Estimate { value: 0.0, standard_error: 0.0 });
    }
    let best = |k: usize| inside.iter().map(|point| point[k]).fold(f64::INFINITY, f64::min);
    let low: Vec<f64> = (0..reference.len()).map(best).collect();
    let volume: f64 = low.iter().zip(reference).map(|(low, high)| high - low).product();
    let mut random = Random::new(seed).fork("hypervolume");
    let mut hits = 0usize;
    let mut sample = vec![0.0; reference.len()];
    for _ in 0..samples {
        for ((x, low), high) in sample.iter_mut().zip(&low).zip(reference) {
            *x = low + (high - low) * random.next_f64();
        }
        let dominates = |point: &&Vec<f64>| point.iter().zip(&sample).all(|(p, x)| p <= x);
        hits += usize::from(inside.iter().any(dominates));
    }
    let share = hits as f64 / samples as f64;
    let standard_error = volume * (share * (1.0 - share) / samples as f64).sqrt();
    Ok(Estimate { value: volume * share, standard_error })
}

#[cfg(test)]
mod tests {
    use super::*;
    use core_tensor::testing::property;
    use proptest::collection::vec;
    use proptest::strategy::Strategy;

    fn points(objectives: usize, most: usize) -> impl Strategy<Value = Vec<Vec<f64>>> {
        // A grid, so that equal coordinates and equal points are common.
        vec(vec((0..12u8).prop_map(|x| f64::from(x) / 10.0), objectives), 0..=most)
    }

    fn any_points(most: usize) -> impl Strategy<Value = Vec<Vec<f64>>> {
        (1..=3usize).prop_flat_map(move |objectives| points(objectives, most))
    }

    /// `Σ (−1)^(|S|+1) vol(S)` over all sets of points, by the box of their worst corner.
    fn inclusion_exclusion(points: &[Vec<f64>], reference: &[f64]) -> f64 {
        let mut sum = 0.0;
        for set in 1..1usize << points.len() {
            let chosen: Vec<_> = (0..points.len()).filter(|i| set >> i & 1 == 1).collect();
            let side = |k: usize| {
                let worst = chosen.iter().map(|i| points[*i][k]).fold(f64::NEG_INFINITY, f64::max);
                (reference[k] - worst).max(0.0)
            };
            let volume: f64 = (0..reference.len()).map(side).product();
            sum += if chosen.len() % 2 == 1 { volume } else { -volume };
        }
        sum
    }

    #[test]
    fn equals_inclusion_and_exclusion() {
        property(200, any_points(6), |points| {
            let reference = vec![1.0; points.first().map_or(2, Vec::len)];
            let exact = hypervolume(&points, &reference).unwrap();
            assert!((exact - inclusion_exclusion(&points, &reference)).abs() < 1e-12);
        });
    }

    #[test]
    fn grows_with_points_and_ignores_their_order() {
        property(100, any_points(20), |points| {
            let reference = vec![1.0; points.first().map_or(2, Vec::len)];
            let mut last = 0.0;
            for count in 0..=points.len() {
                let now = hypervolume(&points[..count], &reference).unwrap();
                assert!(now >= last - 1e-12, "{now} after {last}");
                last = now;
            }
            let mut turned = points.clone();
            turned.reverse();
            assert!((hypervolume(&turned, &reference).unwrap() - last).abs() < 1e-12);
            // Objectives are alike too.
            let swapped: Vec<Vec<f64>> = points.iter().map(|point| point.iter().rev().copied().collect()).collect();
            assert!((hypervolume(&swapped, &reference).unwrap() - last).abs() < 1e-12);
            assert!(last <= reference.len() as f64 * 1.0 + 1e-12);
        });
    }

    #[test]
    fn estimates_are_within_their_errors() {
        let mut beyond = 0;
        property(20, (2..=5usize).prop_flat_map(|d| (points(d, 7), 0..9u64)), |(points, seed)| {
            let reference = vec![1.1; points.first().map_or(2, Vec::len)];
            let estimate = hypervolume_monte_carlo(&points, &reference, 4000, seed).unwrap();
            let exact = inclusion_exclusion(&points, &reference);
            let error = (estimate.value - exact).abs();
            assert!(error <= 5.0 * estimate.standard_error + 2e-3, "{estimate:?} of {exact}");
        });
        // The errors are not overstated either: two in three fall within one.
        let points = [vec![0.2, 0.5, 0.6, 0.1], vec![0.5, 0.2, 0.3, 0.6]];
        let exact = inclusion_exclusion(&points, &[1.0; 4]);
        for seed in 0..60 {
            let estimate = hypervolume_monte_carlo(&points, &[1.0; 4], 1000, seed).unwrap();
            beyond += usize::from((estimate.value - exact).abs() > estimate.standard_error);
        }
        assert!((8..35).contains(&beyond), "{beyond} of 60 beyond one standard error");
    }

    #[test]
    fn odd_sets_and_bad_ones() {
        assert_eq!(hypervolume(&[], &[1.0, 1.0]).unwrap(), 0.0);
        assert_eq!(hypervolume(&[vec![1.0, 0.0]], &[1.0, 1.0]).unwrap(), 0.0);
        assert_eq!(hypervolume(&[vec![0.25], vec![0.5]], &[1.0]).unwrap(), 0.75);
        assert!(hypervolume(&[vec![0.0]], &[1.0, 1.0]).is_err());
        assert!(hypervolume(&[vec![0.0; 4]], &[1.0; 4]).is_err());
        assert!(hypervolume(&[vec![f64::NAN, 0.0]], &[1.0; 2]).is_err());
        assert!(hypervolume(&[], &[]).is_err());
        assert!(hypervolume_monte_carlo(&[], &[1.0; 2], 0, 0).is_err());
        assert_eq!(hypervolume_monte_carlo(&[], &[1.0; 5], 9, 0).unwrap().value, 0.0);
    }
}
