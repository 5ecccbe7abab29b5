//! Robust accuracy as a function of the radius.

use super::Share;
use crate::engine::{Attacked, Status};
use crate::error::{Error, Result};

/// Robust accuracy at every radius at once, from the distances of runs that looked for the nearest success
/// ([`Search::Nearest`](crate::Search)).
///
/// An example with the distance `dᵢ`, the least over the runs, is broken at `ε` if `dᵢ ≤ ε`, so that
///
/// ```text
/// robust(ε) = #{ i classified right : dᵢ > ε } / n
/// ```
///
/// Examples that are wrong from the start, or whose logits are no numbers, are robust at no radius; those that no run broke are robust at every one.
/// A distance found is no less than the true one, so the curve is no lower than the true robust accuracy.
///
/// Guarantees: the curve never rises, and counts what a look at each example counts (`the_curve_counts_and_never_rises`).
///
/// Cost: a sort of the distances once, a binary search a radius; no evaluation of the model.
///
/// ```
/// use adversarial::{Attack, Fab, Goals, Norm, NormCurve, Recorded, Threat};
/// use burn::nn::LinearConfig;
/// use burn::tensor::{Device, Tensor};
///
/// let device = Device::flex();
/// let model = LinearConfig::new(4, 3).init(&device);
/// let classifier = Recorded::new(&model, [4], |model, x: Tensor<2>| model.forward(x))?;
/// let x = Tensor::<2>::full([2, 4], 0.5, &device);
/// // The radius of the threat does not count here.
/// let threat = Threat::new(Norm::L2, 1.0)?;
/// let found = Fab::new().steps(20).nearest(&classifier, threat, x, &Goals::untargeted(&[0, 1]))?;
/// let curve = NormCurve::new(&[&found])?;
/// assert!(curve.at(0.3)?.count <= curve.at(0.1)?.count);
/// # Ok::<(), adversarial::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct NormCurve {
    examples: usize,
    /// Of the examples that are right from the start, in order; infinite where no run broke one.
    distances: Vec<f64>,
}

impl NormCurve {
    /// The curve of one or more runs on the same examples in the same norm.
    ///
    /// # Errors
    /// [`Error::Shape`] if there is no run, or if runs have other numbers of examples.
    pub fn new<const D: usize>(runs: &[&Attacked<D>]) -> Result<Self> {
        let Some(first) = runs.first() else {
            return Err(Error::Shape { what: "runs", actual: vec![0], expected: "[1] or more".into() });
        };
        let examples = first.outcomes.len();
        if let Some(other) = runs.iter().find(|run| run.outcomes.len() != examples) {
            let expected = format!("[{examples}], as many examples as the first run has");
            return Err(Error::Shape { what: "a run", actual: vec![other.outcomes.len()], expected });
        }
        let mut distances = Vec::with_capacity(examples);
        for example in 0..examples {
            let outcomes = || runs.iter().map(|run| &run.outcomes[example]);
            if outcomes().any(|outcome| matches!(outcome.status, Status::AlreadyReached | Status::NotFinite)) {
                continue;
            }
            let broken = outcomes().filter(|outcome| outcome.status == Status::Broken);
            distances.push(broken.map(|outcome| outcome.distance).fold(f64::INFINITY, f64::min));
        }
        distances.sort_by(f64::total_cmp);
        Ok(Self { examples, distances })
    }

    /// Examples still classified right within a radius, with the interval at a confidence of 0.95.
    ///
    /// # Errors
    /// [`Error::Parameter`] for a radius that is negative or no number.
    pub fn at(&self, epsilon: f64) -> Result<Share> {
        if epsilon.is_nan() || epsilon < 0.0 {
            return Err(Error::Parameter { parameter: "epsilon", value: epsilon, bound: "at least 0" });
        }
        // No run broke those at infinity, so that they stand there too.
        let broken = self.distances.partition_point(|distance| *distance <= epsilon && distance.is_finite());
        Ok(Share::new(self.distances.len() - broken, self.examples, 0.95))
    }

    /// The radius at which half of the examples that are right from the start are broken (the lower one of two in the middle): infinite
    /// if fewer can be, none of no examples.
    pub fn median(&self) -> Option<f64> {
        self.distances.get(self.distances.len().saturating_sub(1) / 2).copied()
    }

    /// The radii at which the curve falls, from the smallest up: the distances of the examples that were broken.
    pub fn radii(&self) -> impl Iterator<Item = f64> + '_ {
        self.distances.iter().copied().filter(|distance| distance.is_finite())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Outcome, Run};
    use burn::tensor::{Device, Tensor};
    use proptest::prelude::*;

    fn run(outcomes: &[(Status, f64)]) -> Attacked<2> {
        let outcome = |(status, distance): &(Status, f64)| Outcome {
            status: *status,
            distance: *distance,
            logits: vec![0.0; 2],
            clean: vec![0.0; 2],
            loss: 0.0,
            gradients: 0,
            queries: 0,
            zero_gradients: 0,
            run: Run::default(),
        };
        let inputs = Tensor::zeros([outcomes.len().max(1), 1], &Device::flex());
        Attacked { inputs, outcomes: outcomes.iter().map(outcome).collect() }
    }

    #[test]
    fn a_curve_by_hand() {
        use Status::{AlreadyReached, Broken, NotFinite, Standing};
        let first = run(&[
            (AlreadyReached, 0.0),
            (Broken, 0.5),
            (Broken, 0.2),
            (Standing, 0.0),
            (Broken, 0.4),
            (NotFinite, 0.0),
        ]);
        let second = run(&[
            (AlreadyReached, 0.0),
            (Broken, 0.3),
            (Standing, 0.0),
            (Standing, 0.0),
            (Broken, 0.6),
            (NotFinite, 0.0),
        ]);
        let curve = NormCurve::new(&[&first, &second]).unwrap();
        let counts: Vec<usize> =
            [0.0, 0.1, 0.2, 0.3, 0.35, 0.4, f64::INFINITY].iter().map(|e| curve.at(*e).unwrap().count).collect();
        assert_eq!(counts, [4, 4, 3, 2, 2, 1, 1]);
        assert_eq!(curve.at(0.0).unwrap().of, 6);
        assert_eq!(curve.radii().collect::<Vec<_>>(), [0.2, 0.3, 0.4]);
        assert_eq!(curve.median(), Some(0.3));
        assert_eq!(NormCurve::new(&[&run(&[])]).unwrap().median(), None);
        assert!(curve.at(-0.1).unwrap_err().to_string().starts_with("epsilon = -0.1"));
        assert!(curve.at(f64::NAN).is_err());
        assert!(NormCurve::new::<2>(&[]).is_err());
        assert!(NormCurve::new(&[&first, &run(&[])]).unwrap_err().to_string().starts_with("a run has shape [0]"));
    }

    proptest! {
        #[test]
        fn the_curve_counts_and_never_rises(
            found in proptest::collection::vec((0usize..4, 0f64..1.0), 0..40), mut radii in proptest::collection::vec(0f64..1.2, 1..20),
        ) {
            let status = [Status::AlreadyReached, Status::Broken, Status::Standing, Status::NotFinite];
            let found: Vec<(Status, f64)> = found.into_iter().map(|(kind, distance)| (status[kind], distance)).collect();
            let curve = NormCurve::new(&[&run(&found)]).unwrap();
            radii.sort_by(f64::total_cmp);
            let counts: Vec<usize> = radii.iter().map(|epsilon| curve.at(*epsilon).unwrap().count).collect();
            for (epsilon, count) in radii.iter().zip(&counts) {
                let robust = |(status, distance): &&(Status, f64)| match status {
                    Status::Broken => distance > epsilon,
                    status => *status == Status::Standing,
                };
                prop_assert_eq!(*count, found.iter().filter(robust).count());
            }
            prop_assert!(counts.windows(2).all(|pair| pair[0] >= pair[1]));
        }
    }
}
