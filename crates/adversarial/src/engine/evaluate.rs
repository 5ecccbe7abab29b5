//! Questions of many runs, answered in batches of a few fixed sizes.

use burn::tensor::{Tensor, TensorData};

use super::case::{Case, Search};
use super::oracle::Answer;
use crate::classifier::Classifier;
use crate::error::{Error, Result};
use crate::loss::Loss;

/// The smallest batch that a model is asked with; fewer points are filled up.
const SMALLEST: usize = 8;

/// A point to ask the model about.
pub(super) struct Row<'a> {
    pub point: &'a [f32],
    pub loss: Option<&'a Loss>,
    pub gradient: bool,
    pub case: &'a Case,
}

pub(super) struct Evaluator<'a, const D: usize> {
    classifier: &'a dyn Classifier<D>,
    dims: [usize; D],
    batch: usize,
}

impl<'a, const D: usize> Evaluator<'a, D> {
    pub fn new(classifier: &'a dyn Classifier<D>, dims: [usize; D], batch: usize) -> Self {
        Self { classifier, dims, batch }
    }

    /// Logits of each point.
    pub fn logits(&self, points: &[&[f32]]) -> Result<Vec<Vec<f32>>> {
        let mut all = Vec::with_capacity(points.len());
        for (size, chunk) in chunks(points.len(), self.batch) {
            let points = &points[chunk];
            let inputs = self.inputs(points.iter().copied(), size);
            let logits = self.rows_of(self.classifier.logits(inputs)?, size)?;
            all.extend(logits.into_iter().take(points.len()));
        }
        Ok(all)
    }

    /// The answers, in the order of the rows.
    pub fn answer(&self, rows: &[Row<'_>]) -> Result<Vec<Answer>> {
        let mut answers: Vec<Answer> = Vec::new();
        answers.resize_with(rows.len(), Answer::default);
        let (with, without): (Vec<usize>, Vec<usize>) = (0..rows.len()).partition(|i| rows[*i].gradient);
        for (size, chunk) in chunks(without.len(), self.batch) {
            let chosen = &without[chunk];
            let inputs = self.inputs(chosen.iter().map(|i| rows[*i].point), size);
            let logits = self.rows_of(self.classifier.logits(inputs)?, size)?;
            for (i, logits) in chosen.iter().zip(logits) {
                let reached = rows[*i].case.goal.reached(&logits);
                let loss = rows[*i].loss.map_or(0.0, |loss| loss.value(&logits));
                answers[*i] = Answer { logits, reached, loss, gradient: Vec::new() };
            }
        }
        for (size, chunk) in chunks(with.len(), self.batch) {
            self.differentiate(rows, &with[chunk], size, &mut answers)?;
        }
        Ok(answers)
    }

    /// One batch of points with losses. Points that end their example get no gradient, and a batch of only such no backward pass.
    fn differentiate(&self, rows: &[Row<'_>], chosen: &[usize], size: usize, answers: &mut [Answer]) -> Result<()> {
        let inputs = self.inputs(chosen.iter().map(|i| rows[*i].point), size);
        let pulled = self.classifier.pullback(inputs)?;
        let device = pulled.logits.device();
        let dtype = pulled.logits.dtype();
        let logits = self.rows_of(pulled.logits, size)?;
        let classes = logits[0].len();
        let mut cotangent = vec![0.0f32; size * classes];
        let mut wanted = vec![false; chosen.len()];
        for (slot, (i, logits)) in chosen.iter().zip(logits).enumerate() {
            let row = &rows[*i];
            let reached = row.case.goal.reached(&logits);
            let ends = reached && row.case.search == Search::First && row.case.allows(row.point);
            let finite = logits.iter().all(|z| z.is_finite());
            let mut loss = 0.0;
            if let Some(of) = row.loss.filter(|_| finite && !ends) {
                wanted[slot] = true;
                loss = of.value_and_gradient(&logits, &mut cotangent[slot * classes..][..classes]);
            }
            answers[*i] = Answer { logits, reached, loss, gradient: Vec::new() };
        }
        if !wanted.contains(&true) {
            return Ok(());
        }
        let cotangent = TensorData::new(cotangent, [size, classes]).convert_dtype(dtype);
        let gradient = (pulled.back)(Tensor::from_data(cotangent, (&device, dtype)))?;
        let gradient = floats(gradient.into_data());
        let width = gradient.len() / size;
        for (slot, i) in chosen.iter().enumerate().filter(|(slot, _)| wanted[*slot]) {
            let of = &gradient[slot * width..][..width];
            answers[*i].gradient = of.iter().map(|g| if g.is_nan() { 0.0 } else { *g }).collect();
        }
        Ok(())
    }

    /// The points as one batch, the last repeated up to `size`.
    fn inputs<'p>(&self, points: impl ExactSizeIterator<Item = &'p [f32]>, size: usize) -> Tensor<D> {
        let mut dims = self.dims;
        dims[0] = size;
        let mut values = Vec::with_capacity(dims.iter().product());
        let mut last: &[f32] = &[];
        for point in points {
            values.extend_from_slice(point);
            last = point;
        }
        while values.len() < values.capacity() && !last.is_empty() {
            values.extend_from_slice(last);
        }
        Tensor::from_data(TensorData::new(values, dims), &self.classifier.device())
    }

    fn rows_of(&self, logits: Tensor<2>, size: usize) -> Result<Vec<Vec<f32>>> {
        let [examples, classes] = logits.dims();
        if examples != size || classes == 0 {
            let expected = format!("[{size}, classes]");
            return Err(Error::Shape { what: "logits", actual: vec![examples, classes], expected });
        }
        Ok(floats(logits.into_data()).chunks(classes).map(<[f32]>::to_vec).collect())
    }
}

fn floats(data: TensorData) -> Vec<f32> {
    match data.as_slice::<f32>() {
        Ok(values) => values.to_vec(),
        Err(_) => data.iter::<f32>().collect(),
    }
}

/// Splits `count` points into batches of sizes from a short list: the full batch, and powers of two below it. Each size is
/// recorded once; at most a quarter of a batch, or seven points, are fillers.
fn chunks(count: usize, batch: usize) -> Vec<(usize, std::ops::Range<usize>)> {
    let mut result = Vec::new();
    let mut start = 0;
    while start < count {
        let left = count - start;
        let power = left.next_power_of_two().max(SMALLEST);
        let (above, below) = (power.min(batch), (power / 2).max(SMALLEST).min(batch));
        let size = match left >= above || 4 * left >= 3 * above || left <= SMALLEST {
            true => above,
            false => below,
        };
        let taken = left.min(size);
        result.push((size, start..start + taken));
        start += taken;
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn chunks_cover_everything_once_with_few_sizes(count in 0usize..700, batch in 1usize..200) {
            let chunks = chunks(count, batch);
            let mut next = 0;
            for (size, range) in &chunks {
                prop_assert!(range.start == next && range.len() <= *size && *size <= batch.max(1));
                prop_assert!(size.is_power_of_two() || *size == batch);
                prop_assert!(range.len() == *size || 4 * range.len() >= 3 * size || *size <= SMALLEST || *size == batch);
                next = range.end;
            }
            prop_assert_eq!(next, count);
        }
    }

    #[test]
    fn a_full_batch_is_never_split() {
        assert_eq!(chunks(200, 100), [(100, 0..100), (100, 100..200)]);
        assert_eq!(chunks(3, 100), [(8, 0..3)]);
        assert_eq!(chunks(70, 128), [(64, 0..64), (8, 64..70)]);
    }
}
