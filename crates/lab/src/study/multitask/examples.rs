//! The tasks: both digits of images that hold two, and three questions about one digit.

use ::multitask::TaskMask;
use burn::tensor::{Device, Int, Tensor, TensorData};
use core_tensor::Random;

use crate::data::{CLASSES, Dataset, Images};

/// Of the training images every so many-th is for validation.
const VALIDATION: usize = 6;

/// Inputs with a label for each task.
#[derive(Clone, Debug, PartialEq)]
pub struct Examples {
    /// Numbers an input.
    pub inputs: usize,
    /// Classes of each task.
    pub classes: Vec<usize>,
    /// Input after input.
    values: Vec<f32>,
    /// A list of labels a task.
    labels: Vec<Vec<u8>>,
}

/// What is trained on, chosen by and measured on.
#[derive(Clone, Debug)]
pub struct Tasks {
    /// Their names.
    pub names: Vec<&'static str>,
    pub train: Examples,
    pub validation: Examples,
    pub test: Examples,
}

/// Inputs `[examples, inputs]`, and for each task classes and which of them are known (`None`: all).
pub type Batch = (Tensor<2>, Vec<(Tensor<1, Int>, Option<TaskMask>)>);

impl Examples {
    pub fn len(&self) -> usize {
        self.labels[0].len()
    }

    /// Some of them on a device, with the labels of some tasks; `known(example, task)` says whether the label may be used.
    pub fn batch(
        &self,
        examples: &[usize],
        tasks: &[usize],
        known: Option<&dyn Fn(usize, usize) -> bool>,
        device: &Device,
    ) -> Batch {
        let count = examples.len();
        let values: Vec<f32> =
            examples.iter().flat_map(|i| &self.values[i * self.inputs..(i + 1) * self.inputs]).copied().collect();
        let labels = tasks.iter().map(|&task| {
            let labels: Vec<i64> = examples.iter().map(|i| i64::from(self.labels[task][*i])).collect();
            let mask = known.map(|known| {
                let known: Vec<bool> = examples.iter().map(|i| known(*i, task)).collect();
                TaskMask::new(&known, device)
            });
            (Tensor::from_data(TensorData::new(labels, [count]), device), mask)
        });
        let labels = labels.collect();
        (Tensor::from_data(TensorData::new(values, [count, self.inputs]), device), labels)
    }

    /// All of them with all labels.
    pub fn whole(&self, tasks: &[usize], device: &Device) -> Batch {
        self.batch(&(0..self.len()).collect::<Vec<_>>(), tasks, None, device)
    }
}

impl Tasks {
    /// What the left and what the right digit is, of images that hold two, drawn from the images of one digit.
    pub fn two_digits(data: &Dataset, random: &Random) -> Self {
        let geometry = Geometry::of(&data.train);
        let (train, validation) = split(&data.train);
        let test: Vec<usize> = (0..data.test.len()).collect();
        let (many, few) = geometry.counts;
        let draw = |images: &Images, among: &[usize], count: usize, label: &str| {
            let mut random = random.fork(label);
            let mut values = Vec::with_capacity(count * geometry.side * geometry.side);
            let mut labels = vec![Vec::with_capacity(count), Vec::with_capacity(count)];
            for _ in 0..count {
                let [left, right] = [0; 2].map(|_| among[random.below(among.len() as u64) as usize]);
                values.extend(geometry.pair(images, left, right));
                labels[0].push(images.labels[left]);
                labels[1].push(images.labels[right]);
            }
            Examples { inputs: geometry.side * geometry.side, classes: vec![CLASSES; 2], values, labels }
        };
        Self {
            names: vec!["left digit", "right digit"],
            train: draw(&data.train, &train, many, "train"),
            validation: draw(&data.train, &validation, few, "validation"),
            test: draw(&data.test, &test, few, "test"),
        }
        .standardised()
    }

    /// Which digit it is, whether it is odd, and whether it is above four.
    pub fn one_digit(data: &Dataset) -> Self {
        let (train, validation) = split(&data.train);
        let take = |images: &Images, among: &[usize]| {
            let of = |class: fn(u8) -> u8| among.iter().map(|i| class(images.labels[*i])).collect();
            Examples {
                inputs: images.height * images.width,
                classes: vec![CLASSES, 2, 2],
                values: among.iter().flat_map(|i| images.image(*i)).map(|p| f32::from(*p)).collect(),
                labels: vec![of(|digit| digit), of(|digit| digit % 2), of(|digit| u8::from(digit > 4))],
            }
        };
        Self {
            names: vec!["digit", "parity", "above four"],
            train: take(&data.train, &train),
            validation: take(&data.train, &validation),
            test: take(&data.test, &(0..data.test.len()).collect::<Vec<_>>()),
        }
        .standardised()
    }

    /// The tasks' positions.
    pub fn all(&self) -> Vec<usize> {
        (0..self.names.len()).collect()
    }

    /// Shifted and divided so that the training values have mean 0 and deviation 1.
    fn standardised(mut self) -> Self {
        let values = &self.train.values;
        let count = values.len().max(1) as f64;
        let mean = values.iter().map(|x| f64::from(*x)).sum::<f64>() / count;
        let variance = values.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / count;
        let deviation = variance.sqrt().max(1e-6);
        for set in [&mut self.train, &mut self.validation, &mut self.test] {
            set.values.iter_mut().for_each(|x| *x = ((f64::from(*x) - mean) / deviation) as f32);
        }
        self
    }
}

/// Positions for training and for validation.
fn split(images: &Images) -> (Vec<usize>, Vec<usize>) {
    (0..images.len()).partition(|i| i % VALIDATION != VALIDATION - 1)
}

/// How two digits share an image: the left one in the upper left corner, the right one moved down and right, the darker pixel shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Geometry {
    /// By how much the right digit is moved.
    shift: usize,
    /// The side of the image that holds both, before and after it is reduced.
    canvas: usize,
    side: usize,
    /// Images for training, and for validation and test each.
    counts: (usize, usize),
}

impl Geometry {
    /// That of MultiMNIST (O. Sener and V. Koltun, 2018) for images as large as MNIST's: moved by 6, on 36 × 36, reduced to 28 × 28.
    /// Small images are moved by 3 and not reduced.
    fn of(images: &Images) -> Self {
        match images.height {
            28 => Self { shift: 6, canvas: 36, side: 28, counts: (20_000, 4000) },
            side => Self { shift: 3, canvas: side + 3, side: side + 3, counts: (4000, 2000) },
        }
    }

    fn pair(self, images: &Images, left: usize, right: usize) -> Vec<f32> {
        let mut canvas = vec![0u8; self.canvas * self.canvas];
        for (image, shift) in [(left, 0), (right, self.shift)] {
            for (row, pixels) in images.image(image).chunks(images.width).enumerate() {
                for (column, pixel) in pixels.iter().enumerate() {
                    let place = &mut canvas[(row + shift) * self.canvas + column + shift];
                    *place = (*place).max(*pixel);
                }
            }
        }
        reduce(&canvas, self.canvas, self.side)
    }
}

/// A square image on fewer pixels, each the mean of what it covers.
fn reduce(image: &[u8], from: usize, to: usize) -> Vec<f32> {
    if from == to {
        return image.iter().map(|pixel| f32::from(*pixel)).collect();
    }
    // The share of pixel `j` that lies below new pixel `i`, along one side.
    let scale = from as f64 / to as f64;
    let share = |i: usize, j: usize| {
        let (low, high) = (i as f64 * scale, (i + 1) as f64 * scale);
        (f64::min(high, (j + 1) as f64) - f64::max(low, j as f64)).max(0.0) / scale
    };
    let spans: Vec<Vec<(usize, f64)>> =
        (0..to).map(|i| (0..from).map(|j| (j, share(i, j))).filter(|(_, share)| *share > 0.0).collect()).collect();
    let mut values = Vec::with_capacity(to * to);
    for rows in &spans {
        for columns in &spans {
            let terms =
                rows.iter().flat_map(|(r, a)| columns.iter().map(move |(c, b)| a * b * f64::from(image[r * from + c])));
            values.push(terms.sum::<f64>() as f32);
        }
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::DataRecipe;

    #[test]
    fn a_pair_holds_both_digits() {
        let pixels = vec![1, 2, 3, 4, 5, 6, 7, 8];
        let images = Images { pixels, labels: vec![0, 1], height: 2, width: 2, ink: 16 };
        let geometry = Geometry { shift: 1, canvas: 3, side: 3, counts: (1, 1) };
        assert_eq!(geometry.pair(&images, 0, 1), [1.0, 2.0, 0.0, 3.0, 5.0, 6.0, 0.0, 7.0, 8.0]);
        assert_eq!(geometry.pair(&images, 1, 0), [5.0, 6.0, 0.0, 7.0, 8.0, 2.0, 0.0, 3.0, 4.0]);
    }

    #[test]
    fn reducing_keeps_the_mean() {
        let image: Vec<u8> = (0..36 * 36).map(|i| (i * 7 % 251) as u8).collect();
        let small = reduce(&image, 36, 28);
        let mean = image.iter().map(|x| f64::from(*x)).sum::<f64>() / f64::from(36 * 36);
        let after = small.iter().map(|x| f64::from(*x)).sum::<f64>() / f64::from(28 * 28);
        assert!((mean - after).abs() < 1e-3, "{mean} {after}");
        assert_eq!(reduce(&[0, 4, 8, 12], 2, 1), [6.0]);
    }

    #[test]
    fn digits_for_testing_are_in_no_training_image() {
        let data = Dataset::load(&DataRecipe::default()).unwrap();
        let tasks = Tasks::two_digits(&data, &Random::new(1));
        assert_eq!((tasks.train.len(), tasks.validation.len(), tasks.test.len()), (4000, 2000, 2000));
        assert_eq!(tasks.train.inputs, 121);
        let (train, validation) = split(&data.train);
        assert_eq!(train.len() + validation.len(), data.train.len());
        assert!(validation.iter().all(|i| !train.contains(i)));
        let mean = tasks.train.values.iter().sum::<f32>() / tasks.train.values.len() as f32;
        assert!(mean.abs() < 1e-3, "{mean}");
        assert_eq!(Tasks::two_digits(&data, &Random::new(1)).test, tasks.test);
        let single = Tasks::one_digit(&data);
        assert_eq!(
            (single.train.len(), single.validation.len(), single.test.len()),
            (train.len(), validation.len(), data.test.len())
        );
        let (label, parity, high) = (single.test.labels[0][40], single.test.labels[1][40], single.test.labels[2][40]);
        assert_eq!((parity, high), (label % 2, u8::from(label > 4)));
    }
}
