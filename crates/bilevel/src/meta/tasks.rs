//! Tasks to meta-learn on: sinusoids, and classes drawn from a labelled set.

use core_tensor::Random;

use crate::error::Result;

/// Regression of `y = A·sin(x + φ)` with `A ~ U[0.1, 5)`, `φ ~ U[0, π)`, `x ~ U[−5, 5)`: the first experiment of the MAML paper.
#[derive(Clone, Debug)]
pub struct Sinusoids {
    random: Random,
}

impl Sinusoids {
    /// The tasks of a seed.
    pub fn new(seed: u64) -> Self {
        Self { random: Random::new(seed) }
    }

    /// The `index`-th task: so many points `(x, y)`, the same for the same index whatever was asked before. Points of one task are a prefix of a
    /// longer list of it: cut it into support and query.
    pub fn task(&self, index: u64, points: usize) -> Vec<(f64, f64)> {
        let mut random = self.random.fork(index.to_le_bytes());
        let amplitude = 0.1 + 4.9 * random.next_f64();
        let phase = std::f64::consts::PI * random.next_f64();
        let point = |x: f64| (x, amplitude * (x + phase).sin());
        (0..points).map(|_| point(10.0 * random.next_f64() - 5.0)).collect()
    }
}

/// One N-way K-shot task: positions in the data set, class by class, and labels `0..ways`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Episode {
    /// The classes drawn; the label of a class is its position here.
    pub classes: Vec<usize>,
    /// `ways·shots` positions to adapt on.
    pub support: Vec<usize>,
    /// Their labels.
    pub support_labels: Vec<usize>,
    /// `ways·queries` other positions to be judged on.
    pub query: Vec<usize>,
    /// Their labels.
    pub query_labels: Vec<usize>,
}

/// Draws N-way K-shot tasks from a labelled set.
///
/// ```
/// use bilevel::meta::Episodes;
///
/// let labels: Vec<usize> = (0..100).map(|i| i % 10).collect();
/// let episodes = Episodes::new(&labels, 5, 1, 3, 7)?;
/// let task = episodes.task(0);
/// assert_eq!((task.support.len(), task.query.len()), (5, 15));
/// assert_eq!(labels[task.support[2]], task.classes[2]);
/// # Ok::<(), bilevel::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Episodes {
    /// Positions of each class that has enough of them.
    classes: Vec<(usize, Vec<usize>)>,
    ways: usize,
    shots: usize,
    queries: usize,
    random: Random,
}

impl Episodes {
    /// From the label of each example; `ways` classes with `shots` and `queries` examples each. Classes with fewer are left out.
    ///
    /// # Errors
    /// A parameter error for 0 ways or shots, or fewer than `ways` classes that are large enough.
    pub fn new(labels: &[usize], ways: usize, shots: usize, queries: usize, seed: u64) -> Result<Self> {
        let (ways, shots) = (crate::error::at_least_one("ways", ways)?, crate::error::at_least_one("shots", shots)?);
        let mut classes = std::collections::BTreeMap::<usize, Vec<usize>>::new();
        for (position, label) in labels.iter().enumerate() {
            classes.entry(*label).or_default().push(position);
        }
        let classes: Vec<_> = classes.into_iter().filter(|(_, all)| all.len() >= shots + queries).collect();
        if classes.len() < ways {
            let bound = "at most the number of classes with enough examples";
            return Err(core_tensor::Error::Parameter { parameter: "ways", value: ways as f64, bound }.into());
        }
        Ok(Self { classes, ways, shots, queries, random: Random::new(seed) })
    }

    /// The `index`-th task, the same for the same index whatever was asked before.
    pub fn task(&self, index: u64) -> Episode {
        let mut random = self.random.fork(index.to_le_bytes());
        let mut episode =
            Episode { classes: vec![], support: vec![], support_labels: vec![], query: vec![], query_labels: vec![] };
        let chosen = random.permutation(self.classes.len());
        for (label, class) in chosen.into_iter().take(self.ways).enumerate() {
            let (name, positions) = &self.classes[class];
            episode.classes.push(*name);
            let mut drawn = random.permutation(positions.len()).into_iter().map(|i| positions[i]);
            episode.support.extend(drawn.by_ref().take(self.shots));
            episode.query.extend(drawn.take(self.queries));
            episode.support_labels.extend(std::iter::repeat_n(label, self.shots));
            episode.query_labels.extend(std::iter::repeat_n(label, self.queries));
        }
        episode
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core_tensor::testing::property;

    #[test]
    fn sinusoids_are_sinusoids() {
        let tasks = Sinusoids::new(3);
        for index in 0..50 {
            let points = tasks.task(index, 20);
            assert_eq!(points[..5], tasks.task(index, 5));
            assert!(points.iter().all(|(x, y)| (-5.0..5.0).contains(x) && y.abs() < 5.0));
            // y = a·sin x + b·cos x: two points give a and b, which a third has to fit.
            let [(x0, y0), (x1, y1), (x2, y2)] = [points[0], points[1], points[2]];
            let det = x0.sin() * x1.cos() - x1.sin() * x0.cos();
            let (a, b) = ((y0 * x1.cos() - y1 * x0.cos()) / det, (x0.sin() * y1 - x1.sin() * y0) / det);
            assert!((a * x2.sin() + b * x2.cos() - y2).abs() < 1e-6 / det.abs());
            assert!((0.1..5.0).contains(&a.hypot(b)));
        }
        assert_ne!(tasks.task(0, 3), tasks.task(1, 3));
        assert_ne!(tasks.task(0, 3), Sinusoids::new(4).task(0, 3));
    }

    #[test]
    fn episodes_keep_classes_and_sets_apart() {
        property(16, (2usize..6, 1usize..4, 0usize..4, 0u64..100), |(ways, shots, queries, seed)| {
            // Class 9 has a single example.
            let labels: Vec<usize> = (0..80).map(|i| i % 8).chain([9]).collect();
            let episodes = Episodes::new(&labels, ways, shots, queries, seed).unwrap();
            let task = episodes.task(seed);
            assert_eq!(task, episodes.task(seed));
            let mut all: Vec<usize> = task.support.iter().chain(&task.query).copied().collect();
            all.sort();
            all.dedup();
            assert_eq!(all.len(), ways * (shots + queries));
            let mut classes = task.classes.clone();
            classes.sort();
            classes.dedup();
            assert_eq!(classes.len(), ways);
            for (position, label) in
                task.support.iter().zip(&task.support_labels).chain(task.query.iter().zip(&task.query_labels))
            {
                assert_eq!(labels[*position], task.classes[*label]);
            }
        });
        assert!(Episodes::new(&[0, 0, 1], 2, 1, 1, 0).is_err() && Episodes::new(&[0], 0, 1, 0, 0).is_err());
    }
}
