//! Metrics of tasks, summed up over batches, with missing labels left out.

use burn::tensor::{Int, Tensor};

use crate::model::{ModelError, Result, TaskMask};
use crate::pareto::{Better, delta_m_higher_is_better};

/// A metric of one task, summed up batch by batch.
///
/// Only labelled examples count; a task that has seen none has no value rather than a zero.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use multitask::metrics::TaskMetric;
/// use multitask::TaskMask;
///
/// let device = Device::default();
/// let mut accuracy = TaskMetric::accuracy("digit");
/// let logits = Tensor::<2>::from_data([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7]], &device);
/// let labels = Tensor::from_data([1, 1, 1], &device);
/// accuracy.add_classes(logits, labels, Some(&TaskMask::new(&[true, true, false], &device)))?;
/// assert_eq!(accuracy.value(), Some(0.5));
/// # Ok::<(), multitask::ModelError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct TaskMetric {
    name: String,
    kind: Kind,
    sum: f64,
    examples: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Accuracy,
    MeanSquaredError,
    RootMeanSquaredError,
    MeanAbsoluteError,
}

impl TaskMetric {
    /// The share of examples whose largest logit is that of their class.
    pub fn accuracy(name: &str) -> Self {
        Self::new(name, Kind::Accuracy)
    }

    /// `mean (x − y)²`
    pub fn mean_squared_error(name: &str) -> Self {
        Self::new(name, Kind::MeanSquaredError)
    }

    /// `√mean (x − y)²`
    pub fn root_mean_squared_error(name: &str) -> Self {
        Self::new(name, Kind::RootMeanSquaredError)
    }

    /// `mean |x − y|`
    pub fn mean_absolute_error(name: &str) -> Self {
        Self::new(name, Kind::MeanAbsoluteError)
    }

    /// One more batch of logits `[examples, classes]` and classes `[examples]`. One host synchronisation.
    ///
    /// # Errors
    /// [`ModelError::PerTask`] where logits, labels and mask differ in their examples; [`ModelError::Parameter`] for a metric that is
    /// not of classes.
    pub fn add_classes(&mut self, logits: Tensor<2>, labels: Tensor<1, Int>, mask: Option<&TaskMask>) -> Result<()> {
        if self.kind != Kind::Accuracy {
            return Err(ModelError::parameter("metric", f64::NAN, "accuracy, for classes"));
        }
        let expected = logits.dims()[0];
        self.check(expected, labels.dims()[0], mask)?;
        let hits = logits.argmax(1).squeeze_dim::<1>(1).equal(labels).float();
        self.add(hits, mask);
        Ok(())
    }

    /// One more batch of predictions and targets, both `[examples]`. One host synchronisation.
    ///
    /// # Errors
    /// As [`add_classes`](Self::add_classes), for a metric that is of classes.
    pub fn add_values(&mut self, predictions: Tensor<1>, targets: Tensor<1>, mask: Option<&TaskMask>) -> Result<()> {
        self.check(predictions.dims()[0], targets.dims()[0], mask)?;
        let difference = predictions - targets;
        let errors = match self.kind {
            Kind::Accuracy => return Err(ModelError::parameter("metric", f64::NAN, "an error, for values")),
            Kind::MeanSquaredError | Kind::RootMeanSquaredError => difference.square(),
            Kind::MeanAbsoluteError => difference.abs(),
        };
        self.add(errors, mask);
        Ok(())
    }

    /// The metric over everything added; `None` without a labelled example.
    pub fn value(&self) -> Option<f64> {
        let mean = (self.examples > 0).then(|| self.sum / self.examples as f64)?;
        Some(if self.kind == Kind::RootMeanSquaredError { mean.sqrt() } else { mean })
    }

    /// Which way it improves.
    pub fn better(&self) -> Better {
        if self.kind == Kind::Accuracy { Better::Higher } else { Better::Lower }
    }

    /// The task.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Labelled examples seen.
    pub fn examples(&self) -> usize {
        self.examples
    }

    /// The metric as if nothing had been added.
    pub fn reset(&mut self) {
        (self.sum, self.examples) = (0.0, 0);
    }

    fn new(name: &str, kind: Kind) -> Self {
        Self { name: name.to_string(), kind, sum: 0.0, examples: 0 }
    }

    fn check(&self, expected: usize, labels: usize, mask: Option<&TaskMask>) -> Result<()> {
        let mask = mask.map_or(expected, |mask| mask.tensor().dims()[0]);
        for (what, found) in [("the labels", labels), ("the mask", mask)] {
            if found != expected {
                return Err(ModelError::PerTask { what, expected, found });
            }
        }
        Ok(())
    }

    fn add(&mut self, each: Tensor<1>, mask: Option<&TaskMask>) {
        let examples = each.dims()[0];
        let (each, labelled) = match mask {
            Some(mask) => (each.mask_fill(mask.tensor().bool_not(), 0.0), mask.labelled()),
            None => (each, examples),
        };
        self.sum += each.into_data().iter::<f64>().sum::<f64>();
        self.examples += labelled;
    }
}

/// Δm of a model's metrics against those of single-task models: **higher is better**.
///
/// # Errors
/// [`ModelError::Absent`] for a metric without a value, [`ModelError::Parameter`] where two do not improve the same way, and as
/// [`delta_m_higher_is_better`].
pub fn delta_m(metrics: &[TaskMetric], single_task: &[TaskMetric]) -> Result<f64> {
    let values = |metrics: &[TaskMetric]| {
        let values = metrics.iter().enumerate().map(|(task, metric)| metric.value().ok_or(ModelError::Absent { task }));
        values.collect::<Result<Vec<f64>>>()
    };
    let better: Vec<Better> = metrics.iter().map(TaskMetric::better).collect();
    if let Some((task, _)) = metrics.iter().zip(single_task).enumerate().find(|(_, (a, b))| a.better() != b.better()) {
        return Err(ModelError::parameter("metric of task", task as f64, "the same for both models"));
    }
    delta_m_higher_is_better(&values(metrics)?, &values(single_task)?, &better)
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    #[test]
    fn errors_are_means_over_labelled_examples_of_all_batches() {
        let device = Device::flex();
        let mut mse = TaskMetric::mean_squared_error("depth");
        let mut rmse = TaskMetric::root_mean_squared_error("depth");
        let mut mae = TaskMetric::mean_absolute_error("depth");
        let tensor = |x: [f32; 2]| Tensor::<1>::from_data(x, &device);
        for metric in [&mut mse, &mut rmse, &mut mae] {
            assert_eq!(metric.value(), None);
            metric.add_values(tensor([1.0, 5.0]), tensor([0.0, 2.0]), None).unwrap();
            let mask = TaskMask::new(&[false, true], &device);
            metric.add_values(tensor([f32::NAN, 1.0]), tensor([0.0, 2.0]), Some(&mask)).unwrap();
            assert_eq!((metric.examples(), metric.better()), (3, Better::Lower));
        }
        assert_eq!((mse.value(), mae.value()), (Some(11.0 / 3.0), Some(5.0 / 3.0)));
        assert_eq!(rmse.value(), Some((11.0f64 / 3.0).sqrt()));
        mse.reset();
        assert_eq!(mse.value(), None);
    }

    #[test]
    fn wrong_kinds_and_lengths_are_refused() {
        let device = Device::flex();
        let mut accuracy = TaskMetric::accuracy("a");
        let logits = Tensor::<2>::zeros([2, 3], &device);
        assert!(accuracy.add_classes(logits.clone(), Tensor::from_data([1], &device), None).is_err());
        let mask = TaskMask::all(3, &device);
        assert!(accuracy.add_classes(logits.clone(), Tensor::from_data([1, 1], &device), Some(&mask)).is_err());
        assert!(accuracy.add_values(Tensor::zeros([1], &device), Tensor::zeros([1], &device), None).is_err());
        let mut mae = TaskMetric::mean_absolute_error("b");
        assert!(mae.add_classes(logits, Tensor::from_data([1, 1], &device), None).is_err());
        assert!(matches!(delta_m(&[mae.clone()], &[mae.clone()]), Err(ModelError::Absent { task: 0 })));
        assert!(delta_m(&[mae], &[accuracy]).is_err());
    }

    #[test]
    fn delta_m_knows_the_direction_of_each_metric() {
        let device = Device::flex();
        let with = |hits: i32, error: f32| {
            let (mut accuracy, mut mae) = (TaskMetric::accuracy("a"), TaskMetric::mean_absolute_error("b"));
            let labels: Vec<i32> = (0..10).map(|i| i32::from(i >= hits)).collect();
            let logits = Tensor::<2>::from_data([[1.0, 0.0]], &device).repeat_dim(0, 10);
            accuracy.add_classes(logits, Tensor::from_data(labels.as_slice(), &device), None).unwrap();
            mae.add_values(Tensor::from_data([error], &device), Tensor::zeros([1], &device), None).unwrap();
            [accuracy, mae]
        };
        // 0.9 instead of 0.8, 0.5 instead of 1.0: +12.5 % and +50 %.
        assert!((delta_m(&with(9, 0.5), &with(8, 1.0)).unwrap() - 0.3125).abs() < 1e-7);
    }
}
