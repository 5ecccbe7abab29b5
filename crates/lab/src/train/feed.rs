//! The images of a part of the data with the labels of all tasks, as the loop draws them.

use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::data::{Dataset, Images};
use crate::model::batch;
use crate::recipe::Tasks;

/// A part of a data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// What is trained on.
    Train,
    /// What was held out.
    Validation,
    /// What is only measured on.
    Test,
}

/// Images with the labels of all tasks.
#[derive(Clone, Debug)]
pub struct Feed {
    images: Images,
    names: Vec<String>,
    classes: Vec<usize>,
    labels: Vec<Vec<u8>>,
    device: Device,
}

impl Feed {
    /// A part of the data with the tasks of a recipe, whose batches come to `device`.
    pub fn new(data: &Dataset, part: Part, tasks: Tasks, device: &Device) -> Self {
        let images = match part {
            Part::Train => &data.train,
            Part::Validation => &data.validation,
            Part::Test => &data.test,
        };
        let mut feed = Self {
            images: images.clone(),
            names: vec!["class".into()],
            classes: vec![data.classes.len()],
            labels: vec![images.labels.clone()],
            device: device.clone(),
        };
        let mut derived = |name: &str, of: fn(u8) -> u8| {
            feed.names.push(name.into());
            feed.classes.push(2);
            feed.labels.push(images.labels.iter().map(|&digit| of(digit)).collect());
        };
        match tasks {
            Tasks::None => {}
            Tasks::Parity | Tasks::ParityLarge => {
                derived("parity", |digit| digit % 2);
                if tasks == Tasks::ParityLarge {
                    derived("large", |digit| u8::from(digit > 4));
                }
                feed.names[0] = "digit".into();
            }
            Tasks::Columns => {
                for column in &data.columns {
                    feed.names.push(column.name.clone());
                    feed.classes.push(column.classes.len());
                    feed.labels.push(match part {
                        Part::Train => column.train.clone(),
                        Part::Validation => column.validation.clone(),
                        Part::Test => column.test.clone(),
                    });
                }
            }
        }
        feed
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.images.len()
    }

    /// Whether there is no image.
    pub fn is_empty(&self) -> bool {
        self.images.is_empty()
    }

    /// The images.
    pub fn images(&self) -> &Images {
        &self.images
    }

    /// The tasks' names.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Number of classes of each task.
    pub fn classes(&self) -> &[usize] {
        &self.classes
    }

    /// The labels of each task.
    pub fn labels(&self) -> &[Vec<u8>] {
        &self.labels
    }

    /// Images in units of full ink and their labels for each task.
    pub fn batch(&self, indices: &[usize]) -> (Tensor<4>, Vec<Tensor<1, Int>>) {
        let (images, _) = batch(&self.images, indices, (0.0, 1.0), &self.device);
        let tasks = self.labels.iter().map(|labels| {
            let labels: Vec<i32> = indices.iter().map(|&index| i32::from(labels[index])).collect();
            Tensor::from_data(TensorData::new(labels, [indices.len()]), &self.device)
        });
        (images, tasks.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::DataRecipe;

    #[test]
    fn tasks_of_digits_by_hand() {
        let data = Dataset::load(&DataRecipe::default()).unwrap();
        let feed = Feed::new(&data, Part::Test, Tasks::ParityLarge, &Device::flex());
        assert_eq!(
            (feed.names(), feed.classes()),
            (&["digit", "parity", "large"].map(String::from)[..], &[10, 2, 2][..])
        );
        for (index, &digit) in data.test.labels.iter().enumerate() {
            assert_eq!(feed.labels()[1][index], digit % 2);
            assert_eq!(feed.labels()[2][index] == 1, digit > 4);
        }
        let (images, labels) = feed.batch(&[3, 0]);
        assert_eq!((images.dims(), labels.len()), ([2, 1, 8, 8], 3));
        let first: Vec<f32> = images.into_data().iter::<f32>().take(64).collect();
        let expected: Vec<f32> = data.test.image(3).iter().map(|&pixel| f32::from(pixel) / 16.0).collect();
        assert_eq!(first, expected);
    }
}
