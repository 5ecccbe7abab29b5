//! Labelled images: the embedded digits and MNIST.

pub mod digits;
pub mod idx;

use std::path::{Path, PathBuf};

use flate2::Crc;

use crate::error::{Error, Result};
use crate::recipe::{DataName, DataRecipe};

/// Number of classes of every data set here.
pub const CLASSES: usize = 10;

/// Grey images of one size with their labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Images {
    /// Grey values, 0 (paper) to [`ink`](Self::ink) (full ink), image after image, row after row.
    pub pixels: Vec<u8>,
    /// The class of each image, below [`CLASSES`].
    pub labels: Vec<u8>,
    /// Rows of an image.
    pub height: usize,
    /// Columns of an image.
    pub width: usize,
    /// The largest grey value there is.
    pub ink: u8,
}

/// A training and a test set of images of one size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dataset {
    /// Name as in a recipe.
    pub name: &'static str,
    /// What is trained on.
    pub train: Images,
    /// What is only measured on.
    pub test: Images,
}

impl Images {
    /// Number of images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there is no image.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// The grey values of image `index`, row after row.
    pub fn image(&self, index: usize) -> &[u8] {
        let size = self.height * self.width;
        &self.pixels[index * size..(index + 1) * size]
    }

    /// Mean and standard deviation of all grey values as fractions of full ink.
    pub fn mean_and_deviation(&self) -> (f64, f64) {
        let ink = f64::from(self.ink);
        let count = self.pixels.len() as f64;
        let (sum, squares) = self.pixels.iter().fold((0u64, 0u64), |(sum, squares), &pixel| {
            (sum + u64::from(pixel), squares + u64::from(pixel) * u64::from(pixel))
        });
        let mean = sum as f64 / count / ink;
        let variance = squares as f64 / count / (ink * ink) - mean * mean;
        (mean, variance.max(0.0).sqrt())
    }

    fn keep(&self, mut wanted: impl FnMut(usize) -> bool) -> Self {
        let kept: Vec<usize> = (0..self.len()).filter(|&index| wanted(index)).collect();
        Self {
            pixels: kept.iter().flat_map(|&index| self.image(index)).copied().collect(),
            labels: kept.iter().map(|&index| self.labels[index]).collect(),
            ..*self
        }
    }
}

impl Dataset {
    /// The data set of a recipe.
    ///
    /// # Errors
    /// [`Error::MissingData`], [`Error::Read`] or [`Error::Data`].
    pub fn load(recipe: &DataRecipe) -> Result<Self> {
        let mut data = match recipe.name {
            DataName::Digits => digits::load()?,
            DataName::Mnist => idx::load_mnist(&mnist_dir(&recipe.dir))?,
        };
        if recipe.limit > 0 {
            data.train = data.train.keep(|index| index < recipe.limit);
        }
        Ok(data)
    }

    /// A checksum of everything in it, to tell whether a resumed run sees the same data.
    pub fn checksum(&self) -> u32 {
        let mut crc = Crc::new();
        for images in [&self.train, &self.test] {
            for number in [images.len(), images.height, images.width, usize::from(images.ink)] {
                crc.update(&(number as u64).to_le_bytes());
            }
            crc.update(&images.pixels);
            crc.update(&images.labels);
        }
        crc.sum()
    }
}

/// Where MNIST is: the folder named, else `$DATA_DIR/mnist`, else `../shared/data/mnist`.
pub fn mnist_dir(named: &str) -> PathBuf {
    if !named.is_empty() {
        return named.into();
    }
    let root = std::env::var_os("DATA_DIR").filter(|dir| !dir.is_empty());
    root.map_or_else(|| "../shared/data".into(), PathBuf::from).join("mnist")
}

fn data_error(origin: &Path, problem: impl Into<String>) -> Error {
    Error::Data { origin: origin.display().to_string(), problem: problem.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limit_takes_the_first_examples_and_changes_the_checksum() {
        let all = Dataset::load(&DataRecipe::default()).unwrap();
        let few = Dataset::load(&DataRecipe { limit: 10, ..DataRecipe::default() }).unwrap();
        assert_eq!((few.train.len(), few.test.len()), (10, all.test.len()));
        assert_eq!(few.train.pixels[..], all.train.pixels[..640]);
        assert_ne!(few.checksum(), all.checksum());
        assert_eq!(all.checksum(), Dataset::load(&DataRecipe::default()).unwrap().checksum());
    }

    #[test]
    fn mean_and_deviation_by_hand() {
        let images = Images { pixels: vec![0, 8, 8, 16], labels: vec![1], height: 2, width: 2, ink: 16 };
        let (mean, deviation) = images.mean_and_deviation();
        assert_eq!(mean, 0.5);
        assert!((deviation - 0.125f64.sqrt()).abs() < 1e-15);
    }
}
