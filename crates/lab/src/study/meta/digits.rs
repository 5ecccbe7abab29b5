//! What the experiments share: the embedded digits cut into parts, layers on trees, shares and their errors.

use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Tensor, TensorData};
use core_tensor::{Random, Tree};

use crate::data::{CLASSES, Images, digits};
use crate::error::Result;

/// Inputs, one a row, and one-hot labels.
pub type Examples = (Tensor<2>, Tensor<2>);

/// Pixels of a digit.
pub const PIXELS: usize = 64;

/// The training digits in a drawn order, to be cut into parts, and the test digits.
pub struct Digits {
    train: Images,
    test: Images,
    order: Vec<usize>,
    device: Device,
}

impl Digits {
    /// In an order of their own.
    pub fn load(mut random: Random, device: &Device) -> Result<Self> {
        let data = digits::load()?;
        let order = random.permutation(data.train.len());
        Ok(Self { train: data.train, test: data.test, order, device: device.clone() })
    }

    /// The labels of a part.
    pub fn labels(&self, part: std::ops::Range<usize>) -> Vec<usize> {
        self.order[part].iter().map(|i| usize::from(self.train.labels[*i])).collect()
    }

    /// A part of the training digits.
    pub fn part(&self, part: std::ops::Range<usize>) -> Examples {
        self.labelled(part.clone(), &self.labels(part))
    }

    /// A part with other labels than its own.
    pub fn labelled(&self, part: std::ops::Range<usize>, labels: &[usize]) -> Examples {
        let images = self.order[part].iter().map(|i| self.train.image(*i));
        examples(images.map(|image| inputs(image, self.train.ink)), labels, &self.device)
    }

    /// The test digits.
    pub fn test(&self) -> Examples {
        let labels: Vec<usize> = self.test.labels.iter().map(|label| usize::from(*label)).collect();
        examples((0..self.test.len()).map(|i| inputs(self.test.image(i), self.test.ink)), &labels, &self.device)
    }
}

fn inputs(image: &[u8], ink: u8) -> Vec<f32> {
    image.iter().map(|pixel| f32::from(*pixel) / f32::from(ink)).collect()
}

/// Rows of inputs with their labels as tensors.
pub fn examples(rows: impl Iterator<Item = Vec<f32>>, labels: &[usize], device: &Device) -> Examples {
    let values: Vec<f32> = rows.flatten().collect();
    let (count, hot) =
        (labels.len(), labels.iter().flat_map(|l| (0..CLASSES).map(move |c| f32::from(u8::from(*l == c)))));
    let (width, hot) = (values.len() / count, hot.collect::<Vec<f32>>());
    (
        Tensor::from_data(TensorData::new(values, [count, width]), device),
        Tensor::from_data(TensorData::new(hot, [count, CLASSES]), device),
    )
}

/// Layers `w0, b0, w1, b1, …` between these widths, weights normal with deviation `1/√n` for `n` inputs, biases zero.
pub fn layers(widths: &[usize], mut random: Random, device: &Device) -> Result<Tree> {
    let mut tree = Tree::empty();
    for (i, pair) in widths.windows(2).enumerate() {
        let weight = random.normal([pair[0], pair[1]], 0.0, (pair[0] as f64).sqrt().recip(), device);
        tree = tree.push(format!("w{i}"), weight)?.push(format!("b{i}"), Tensor::<1>::zeros([pair[1]], device))?;
    }
    Ok(tree)
}

/// Layer `i` of a tree that [`layers`] made.
pub fn layer(tree: &Tree, i: usize, input: Tensor<2>) -> Tensor<2> {
    let weight = tree.get::<2>(&format!("w{i}")).expect("a tree of layers has this weight");
    let bias = tree.get::<1>(&format!("b{i}")).expect("a tree of layers has this bias");
    input.matmul(weight) + bias.unsqueeze_dim::<2>(0)
}

/// The cross-entropy of each row in nats, shape `[n]`.
pub fn cross_entropies(logits: Tensor<2>, hot: &Tensor<2>) -> Tensor<1> {
    (log_softmax(logits, 1) * hot.clone()).sum_dim(1).squeeze_dim::<1>(1).neg()
}

/// The share of rows whose largest logit is at the label.
pub fn accuracy(logits: Tensor<2>, hot: &Tensor<2>) -> f64 {
    let right = logits.argmax(1).equal(hot.clone().argmax(1));
    right.float().mean().into_data().iter::<f64>().next().unwrap_or(f64::NAN)
}

/// The number in a tensor of one.
pub fn scalar(tensor: Tensor<1>) -> f64 {
    tensor.into_data().iter::<f64>().next().unwrap_or(f64::NAN)
}

/// The mean of numbers and its standard error.
pub fn mean_and_error(values: &[f64]) -> (f64, f64) {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let squares: f64 = values.iter().map(|x| (x - mean).powi(2)).sum();
    (mean, (squares / (count * (count - 1.0).max(1.0))).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::study::toolkit::host_device;

    #[test]
    fn parts_are_disjoint_and_hold_their_labels() {
        let digits = Digits::load(Random::new(1), &host_device()).unwrap();
        let mut order = digits.order.clone();
        order.sort();
        assert_eq!(order, (0..1442).collect::<Vec<_>>());
        let (inputs, hot) = digits.part(10..30);
        assert_eq!((inputs.dims(), hot.dims()), ([20, 64], [20, 10]));
        let labels: Vec<usize> = hot.argmax(1).into_data().iter::<i64>().map(|l| l as usize).collect();
        assert_eq!(labels, digits.labels(10..30));
        assert!(inputs.into_data().iter::<f32>().all(|pixel| (0.0..=1.0).contains(&pixel)));
        assert_eq!(digits.test().0.dims(), [355, 64]);
    }

    #[test]
    fn errors_by_hand() {
        let (mean, error) = mean_and_error(&[1.0, 2.0, 3.0]);
        assert!(mean == 2.0 && (error - (1.0f64 / 3.0).sqrt()).abs() < 1e-15);
        assert_eq!(mean_and_error(&[4.0]), (4.0, 0.0));
    }

    #[test]
    fn a_network_of_layers() {
        let tree = layers(&[2, 3, 1], Random::new(1), &host_device()).unwrap();
        assert_eq!(tree.num_elements(), 2 * 3 + 3 + 3 + 1);
        let input = Tensor::<2>::ones([4, 2], &host_device());
        assert_eq!(layer(&tree, 1, layer(&tree, 0, input)).dims(), [4, 1]);
        let hot = Tensor::<2>::eye(2, &host_device());
        let logits = hot.clone() * 3.0;
        assert_eq!(accuracy(logits.clone(), &hot), 1.0);
        let expected = (1.0 + (-3.0f64).exp()).ln();
        assert!((scalar(cross_entropies(logits, &hot).mean()) - expected).abs() < 1e-6);
    }
}
