//! Losses of a batch of points with their gradients, for what is trained over a data set.

use burn::tensor::{DType, Tensor, TensorData};

use crate::classifier::Classifier;
use crate::engine::Goals;
use crate::error::{Error, Result};
use crate::loss::Loss;
use crate::threat::Threat;

/// A data set on the host.
pub(crate) struct Rows {
    pub values: Vec<f32>,
    pub width: usize,
    pub count: usize,
}

impl Rows {
    /// Takes inputs that are `f32` and inside the box, with a goal each.
    pub fn new<const D: usize>(what: &'static str, inputs: &Tensor<D>, goals: &Goals, threat: &Threat) -> Result<Self> {
        let dims = inputs.dims();
        if inputs.dtype() != DType::F32 {
            return Err(Error::ElementType { what, actual: format!("{:?}", inputs.dtype()), expected: "F32" });
        }
        if goals.len() != dims[0] {
            let expected = format!("[{}], one for each example", dims[0]);
            return Err(Error::Shape { what: "goals", actual: vec![goals.len()], expected });
        }
        let (values, width) = (floats(inputs.to_data()), dims[1..].iter().product());
        threat.inside_box(&values.iter().map(|x| f64::from(*x)).collect::<Vec<_>>(), width)?;
        Ok(Self { values, width, count: dims[0] })
    }

    /// One example.
    pub fn row(&self, i: usize) -> &[f32] {
        &self.values[i * self.width..][..self.width]
    }
}

/// What a batch of points gives.
pub(crate) struct Differentiated {
    /// The loss of each point; `NaN` where its logits are not finite.
    pub losses: Vec<f64>,
    /// One point after the other; `NaN` and what was not kept is 0.
    pub gradient: Vec<f32>,
}

/// Losses and their gradients in the points; `keep` tells from its value whether a loss counts.
pub(crate) fn differentiate<const D: usize>(
    classifier: &dyn Classifier<D>,
    points: Vec<f32>,
    dims: [usize; D],
    losses: &[Loss],
    keep: impl Fn(f64) -> bool,
) -> Result<Differentiated> {
    let pulled = classifier.pullback(Tensor::from_data(TensorData::new(points, dims), &classifier.device()))?;
    let (device, dtype) = (pulled.logits.device(), pulled.logits.dtype());
    let [examples, classes] = pulled.logits.dims();
    if examples != losses.len() || classes == 0 {
        let expected = format!("[{}, classes]", losses.len());
        return Err(Error::Shape { what: "logits", actual: vec![examples, classes], expected });
    }
    let logits: Vec<Vec<f32>> = floats(pulled.logits.into_data()).chunks(classes).map(<[f32]>::to_vec).collect();
    let mut cotangent = vec![0.0f32; examples * classes];
    let of = |((loss, logits), cotangent): ((&Loss, &Vec<f32>), &mut [f32])| {
        if !logits.iter().all(|z| z.is_finite()) {
            return f64::NAN;
        }
        let value = loss.value_and_gradient(logits, cotangent);
        if !keep(value) {
            cotangent.fill(0.0);
        }
        value
    };
    let losses = losses.iter().zip(&logits).zip(cotangent.chunks_mut(classes)).map(of).collect();
    let cotangent = TensorData::new(cotangent, [examples, classes]).convert_dtype(dtype);
    let mut gradient = floats((pulled.back)(Tensor::from_data(cotangent, (&device, dtype)))?.into_data());
    gradient.iter_mut().filter(|g| g.is_nan()).for_each(|g| *g = 0.0);
    Ok(Differentiated { losses, gradient })
}

/// Logits of each row of inputs, `batch` at a time.
pub(crate) fn logits<const D: usize>(
    classifier: &dyn Classifier<D>,
    values: &[f32],
    dims: [usize; D],
    batch: usize,
) -> Result<Vec<Vec<f32>>> {
    let width: usize = dims[1..].iter().product();
    let mut all = Vec::with_capacity(dims[0]);
    for chunk in values.chunks(width.max(1) * batch) {
        let mut dims = dims;
        dims[0] = chunk.len() / width;
        let logits =
            classifier.logits(Tensor::from_data(TensorData::new(chunk.to_vec(), dims), &classifier.device()))?;
        let [examples, classes] = logits.dims();
        if examples != dims[0] || classes == 0 {
            let expected = format!("[{}, classes]", dims[0]);
            return Err(Error::Shape { what: "logits", actual: vec![examples, classes], expected });
        }
        all.extend(floats(logits.into_data()).chunks(classes).map(<[f32]>::to_vec));
    }
    Ok(all)
}

pub(crate) fn floats(data: TensorData) -> Vec<f32> {
    match data.as_slice::<f32>() {
        Ok(values) => values.to_vec(),
        Err(_) => data.iter::<f32>().collect(),
    }
}
